"""The rows of the tiles: tile, halo, blending and overlap.

Knows which numbers a network allows, and what its card declares. Does not know regions or runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from qtpy.QtCore import QObject, QSignalBlocker, Signal
from qtpy.QtWidgets import QFormLayout

from seamscope.docks.editors import Choice, PixelsEditor, Steps
from seamscope.docks.prediction.card_buttons import CardHalo, CardSizes
from seamscope.images.image import Image
from seamscope.models.model import Model
from seamscope.planning.plan import Plan
from seamscope.tiling import Sides

_HALO_MOST = 256


class GridRows(QObject):
    """Editors of the tiles.

    Signals
    -------
    changed
        One of them was changed.
    sizes_wanted
        Sizes of the model's card are wanted, or no longer: needs `offer_sizes`, `take_card_size`.
    """

    changed = Signal()
    sizes_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._model: Model | None = None
        self._sides: tuple[Sides, ...] = ()  # of the halo shown
        self.tile = PixelsEditor(
            "Size of the window that the network reads at once, margin included, in pixels.",
            "Use the tile that needs the least computation within the memory limit.",
        )
        self.halo = PixelsEditor(
            "Pixels at the sides of each tile whose prediction is discarded (halo): the network\n"
            "needs to see that far around each pixel.",
            "Use the reach of the network: then tiles agree exactly.",
        )
        self.overlap = PixelsEditor(
            "Pixels that neighbouring tiles share: both margins, and the blended part.",
            "Use twice the margin; for blends a quarter of the tile more.",
        )
        self.blend = _blend_choice()
        self.card_sizes, self.card_halo = CardSizes(), CardHalo()
        for editor in self._editors:
            editor.value_changed.connect(self._tell)
        self.card_halo.clicked.connect(self._take_card_halo)
        self.card_sizes.clicked.connect(self.sizes_wanted)

    @property
    def _editors(self) -> tuple[PixelsEditor | Choice, ...]:
        return self.tile, self.halo, self.overlap, self.blend

    def add_to(self, form: QFormLayout) -> None:
        """Add the rows to a form."""
        form.addRow("Tile", self.tile)
        form.addRow("", self.card_sizes)
        form.addRow("Margin (halo)", self.halo)
        form.addRow("", self.card_halo)
        form.addRow("Blending", self.blend)
        form.addRow("Overlap", self.overlap)

    def values(self) -> dict[str, Any]:
        """Arguments of `seamscope.settings.Settings`."""
        overlap = self.overlap.value()
        return {
            "tile": self.tile.value(),
            "halo": self._halo(),
            "overlap": None if isinstance(overlap, str) else overlap,
            "blend": self.blend.value(),
        }

    def _halo(self) -> Any:
        """The halo chosen: with both its sides until the slider is moved."""
        shown = self.halo.value()
        known = self._sides
        return known if known and shown == tuple(max(sides) for sides in known) else shown

    @contextlib.contextmanager
    def quietly(self) -> Iterator[None]:
        """Change the editors without hearing of it."""
        blockers = [QSignalBlocker(editor) for editor in self._editors]
        try:
            yield
        finally:
            for blocker in blockers:
                blocker.unblock()

    # -- what can be chosen

    def set_model(self, model: Model | None) -> None:
        """Offer what a network's card declares."""
        self._model = model
        self.card_sizes.show_for(model)

    def start_at_auto(self) -> None:
        """Choose Auto for all numbers, quietly: the network is another one."""
        with self.quietly():
            for editor in (self.tile, self.halo, self.overlap):
                editor.set_value("auto")

    def offer_sizes(self, model: Model, image: Image) -> None:
        """Offer the sizes of tiles that a network takes."""
        lattice = model.facts.lattice
        names = "zyx"[-len(lattice) :]
        axes = image.axes or (names if image.ndim == len(names) else "")
        if not set(names) <= set(axes):
            return  # it is not known yet which axes are tiled
        sizes = [image.shape[axes.index(name)] for name in names]
        tiles, halos, overlaps = [], [], []
        for name, group in _groups(len(lattice)):
            grid = lattice[group[-1]]
            most = max(lattice[i].size_at_least(sizes[i] + sum(lattice[i].crop)) for i in group)
            measured = grid.size_at_least(1), grid.increment
            low, step = self.card_sizes.sizes(model, group[-1]) or measured
            tiles.append(Steps(name, group, low, max(most, low), step))
            halos.append(Steps(name, group, 0, min(_HALO_MOST, most // 2), 1))
            overlaps.append(Steps(name, group, 0, most, grid.pitch))
        self.tile.set_steps(tiles)
        self.halo.set_steps(halos)
        self.overlap.set_steps(overlaps)

    def enable(self, enabled: bool) -> None:
        """Whether the editors can be used."""
        for editor in self._editors:
            editor.setEnabled(enabled)

    def show_plan(self, plan: Plan | None) -> None:
        """Show what Auto has chosen."""
        if plan is not None:
            self.tile.show_auto(plan.grid.tile_shape)
            if self.halo.auto.isChecked():
                self._sides = plan.grid.halo
            self.halo.show_auto([max(sides) for sides in plan.grid.halo])
            self.overlap.show_auto(plan.grid.overlap)
        self.card_halo.show_for(self._model, self.halo.shown())

    # -- what others have found

    def set_values(self, tile: Any, halo: Any, overlap: Any) -> None:
        """Choose what settings say; halos may have two sides."""
        self.tile.set_value(tile)
        if not isinstance(halo, str | int):
            halo = [*halo] * (len(self.halo.shown()) if len(halo) == 1 else 1)
            self.remember_sides(halo)
            halo = [side if isinstance(side, int) else max(side) for side in halo]
        self.halo.set_value(halo)
        self.overlap.set_value("auto" if overlap is None else overlap)

    def remember_sides(self, halo: Sequence[Sides]) -> None:
        """Keep both sides of a halo, of which the control shows the larger."""
        pairs = [(side, side) if isinstance(side, int) else tuple(side) for side in halo]
        self._sides = tuple((before, after) for before, after in pairs)

    def take_halo(self, halo: Sequence[Sides], overlap: Any) -> None:
        """Choose a better halo, quietly."""
        with self.quietly():
            self.set_values(self.tile.value(), halo, overlap)

    def take_card_size(self) -> None:
        """Take the size of the card that is next to what is shown, or Auto's."""
        self.tile.set_value(self.tile.shown() if self.card_sizes.isChecked() else "auto")

    def _take_card_halo(self) -> None:
        """Use the halo of the model's card."""
        if self._model is not None and self._model.declared is not None:
            self.halo.set_value(self._model.declared.halo or "auto")

    def _tell(self) -> None:
        self.changed.emit()


def _blend_choice() -> Choice:
    return Choice(
        [
            ("Crop (exact)", "crop"),
            ("Linear", "linear"),
            ("Gaussian", "gaussian"),
            ("Distance-weighted", "distance"),
        ],
        "How neighbouring tiles are joined. Crop: each pixel from one tile.\n"
        "The others mix the overlap, which hides seams and does not remove them;\n"
        "the page Blends of Network normalization compares them on this image.",
    )


def _groups(ndim: int) -> list[tuple[str, tuple[int, ...]]]:
    """Axes that share one slider: the plane, and z by itself."""
    return [("z", (0,)), ("yx", (1, 2))] if ndim == 3 else [("", tuple(range(ndim)))]


__all__ = ["GridRows"]
