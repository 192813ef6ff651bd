"""What the model's card declares, one click away from the sliders that start at what was measured.

Knows when a declared halo or step is worth offering. Does not know plans, and changes nothing
itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtWidgets import QPushButton

from seamscope.models.declared import Declared
from seamscope.models.model import Model
from seamscope.text import axes_text


class CardButton(QPushButton):
    """A note on a declared value, and the way to take it; hidden where there is none."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setToolTip("What the model's card declares.")
        self.setStyleSheet("QPushButton { padding: 2px 8px; }")
        self.hide()

    def offer(self, text: str, tooltip: str) -> None:
        """Show what is declared."""
        self.setText(text)
        self.setToolTip(tooltip)
        self.show()


class CardHalo(CardButton):
    """The halo that the card declares, where another one is set."""

    def __init__(self) -> None:
        super().__init__("seamscope_card_halo")

    def show_for(self, model: Model | None, shown: Sequence[int]) -> None:
        """Offer a model's declared halo beside the one that is shown, in pixels for each axis."""
        card = _card(model)
        if card is None or card.halo is None or tuple(shown) == card.halo:
            self.hide()
            return
        halo = axes_text(card.halo)
        self.offer(
            f"Use the card's margin, {halo}",
            f"{card.by} declares margin (halo) {halo}. Auto uses the measured one.\n"
            "Click to use the card's.",
        )


class CardSizes(CardButton):
    """The tile sizes that the card declares, where others were measured to do as well."""

    def __init__(self) -> None:
        super().__init__("seamscope_card_sizes")
        self.setCheckable(True)
        self._offered = ""
        self.toggled.connect(self._name)

    def show_for(self, model: Model | None) -> None:
        """Offer a model's declared sizes."""
        card = _card(model)
        if model is None or card is None or not _usable(card, model):
            self.setChecked(False)
            self.hide()
            return
        assert card.step is not None
        first = card.smallest or card.step
        sizes = axes_text(first), axes_text([a + b for a, b in zip(first, card.step, strict=True)])
        measured = axes_text([axis.increment for axis in model.facts.lattice])
        self._offered = f"Only the card's sizes: {', '.join(sizes)}, …"
        self.offer(
            self._offered,
            f"{card.by} names tiles from {sizes[0]} in steps of {axes_text(card.step)}; measured\n"
            f"were steps of {measured}. While pressed, the slider offers the card's sizes.",
        )
        self._name()

    def _name(self) -> None:
        self.setText("All measured sizes again" if self.isChecked() else self._offered)

    def sizes(self, model: Model, axis: int) -> tuple[int, int] | None:
        """Smallest size and step along an axis, where they are to be used."""
        if not self.isChecked() or model.declared is None or model.declared.step is None:
            return None
        grid, card = model.facts.lattice[axis], model.declared
        smallest = card.smallest[axis] if card.smallest else 1
        return grid.size_at_least(smallest), card.step[axis]  # type: ignore[index]


def _card(model: Model | None) -> Declared | None:
    card = None if model is None else model.declared
    same = card is not None and model is not None and len(card.axes) == model.facts.spatial_axes
    return card if same else None


def _usable(card: Declared, model: Model) -> bool:
    """Whether its steps are other ones than was measured, and tiles of such sizes agree."""
    increments = [axis.increment for axis in model.facts.lattice]
    if not card.step or any(axis.fixed for axis in model.facts.lattice):
        return False
    fits = all(step and step % own == 0 for step, own in zip(card.step, increments, strict=True))
    return fits and list(card.step) != increments
