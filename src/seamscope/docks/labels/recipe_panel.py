"""The controls of a recipe: an editor of one `Recipe`.

Knows which values each kind of recipe has, and what they are called. Does not know predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QDoubleSpinBox, QFormLayout, QWidget

from seamscope.docks.controls import number, stack, ticked
from seamscope.docks.editors import Choice
from seamscope.docks.looks import set_row
from seamscope.segmentation.recipe import Recipe

_KINDS = [
    ("Components: connected pixels", "components"),
    ("Classes: the largest channel", "classes"),
    ("Boundaries: watershed", "boundaries"),
    ("Distance: watershed", "distance"),
    ("Embeddings: watershed", "embeddings"),
]
_TIPS = {
    "kind": "Recipe. Components: connected pixels above a threshold. Classes: the most probable\n"
    "class of each pixel. Boundaries: a watershed on a boundary channel. Distance: a watershed\n"
    "on the distance from the edge, for round objects that touch. Embeddings: a watershed on\n"
    "distances between neighbouring pixels' embeddings.",
    "channel": "Channel that the recipe is about: the foreground or the boundary.",
    "mask": "Channel of the foreground. Pixels below the foreground threshold are background.",
    "threshold": "Pixels with a larger probability are foreground.",
    "seeds": "Seeds are pixels beyond a threshold, or minima of at least some depth (dynamics).",
    "background": "Class that becomes label 0. None: where no class is above the threshold.",
    "min_size": "Objects with fewer pixels are removed. 0 keeps all.",
    "max_size": "Objects with more pixels are removed. 0 keeps all.",
    "fill_holes": "Background that one object encloses becomes part of it.",
    "clear_border": "Remove objects that touch the image's border.",
    "connectivity": "Pixels belong together if they share a face, or an edge or a corner too.",
    "values": "What the numbers of the prediction are. Logits are turned into probabilities:\n"
    "softmax over channels, or a sigmoid of a single one. Clipped: of a linear output that was\n"
    "trained towards 0 and 1, values beyond count as 0 or 1.",
}
_VALUES = [
    ("Probabilities", "probabilities"),
    ("Logits", "logits"),
    ("Clipped: a linear output", "clipped"),
    ("0 to 255", 255.0),
    ("0 to 65535", 65535.0),
]
_SEEDED = ("boundaries", "distance", "embeddings")
_ONE_CHANNEL = ("components", "boundaries", "distance")


def real(limits: tuple[float, float], value: float, step: float, tip: str) -> QDoubleSpinBox:
    """A number between limits, which changes when typing ends."""
    made = QDoubleSpinBox()
    made.setDecimals(3)
    made.setRange(*limits)
    made.setSingleStep(step)
    made.setValue(value)
    made.setKeyboardTracking(False)
    made.setToolTip(tip)
    return made


class RecipePanel(QWidget):
    """Edits a recipe; the value that is a line on the plot is kept, not shown.

    Signals
    -------
    value_changed
        The user changed a value.
    """

    value_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._base = Recipe()
        self._showing = False  # fields change because another recipe is shown
        self._names: tuple[str, ...] = ()
        self.kind = Choice(_KINDS, _TIPS["kind"])
        self.channel = Choice([("Automatic", None)], _TIPS["channel"])
        self.mask = Choice([("Automatic", None)], _TIPS["mask"])
        self.background = Choice([("None", None)], _TIPS["background"])
        self.threshold = real((0, 1), 0.5, 0.05, _TIPS["threshold"])
        self.seeds = Choice([("Threshold", False), ("Dynamics", True)], _TIPS["seeds"])
        self.min_size = number((0, 10**9), 0, _TIPS["min_size"], " px")
        self.max_size = number((0, 10**9), 0, _TIPS["max_size"], " px")
        self.fill_holes = ticked("Fill holes", _TIPS["fill_holes"])
        self.clear_border = ticked("Remove objects at the border", _TIPS["clear_border"])
        self.connectivity = Choice([("Faces", 1), ("Corners too", 2)], _TIPS["connectivity"])
        self.values = Choice(_VALUES, _TIPS["values"])
        self._lay_out()
        self.show_value(self._base)
        self._connect()

    def _lay_out(self) -> None:
        self.form = QFormLayout()
        self.form.setContentsMargins(0, 0, 0, 0)
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.more = QWidget()
        self.more_form = QFormLayout(self.more)
        self.more_form.setContentsMargins(0, 0, 0, 0)
        self.more_form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for name, field in (
            ("Recipe", self.kind),
            ("Channel", self.channel),
            ("Foreground", self.mask),
            ("Background", self.background),
            ("Foreground above", self.threshold),
            ("Seeds by", self.seeds),
        ):
            self.form.addRow(name, field)
        for name, field in (
            ("Smallest object", self.min_size),
            ("Largest object", self.max_size),
            ("", self.fill_holes),
            ("", self.clear_border),
            ("Pixels touch by", self.connectivity),
            ("Values", self.values),
        ):
            self.more_form.addRow(name, field)
        stack(self, self.form)

    def _connect(self) -> None:
        for choice in (
            self.channel, self.mask, self.background, self.connectivity, self.values,
        ):  # fmt: skip
            choice.value_changed.connect(self._changed)
        self.kind.value_changed.connect(self._kind_changed)
        self.seeds.value_changed.connect(self._seeds_changed)
        for spin in (self.threshold, self.min_size, self.max_size):
            spin.valueChanged.connect(self._changed)
        for box in (self.fill_holes, self.clear_border):
            box.toggled.connect(self._changed)

    # -- the value

    def set_channels(self, names: Sequence[str], axes_of_space: int) -> None:
        """Offer the channels of a prediction."""
        self._names = tuple(names)
        each = [(name, i) for i, name in enumerate(names)]
        corners = {2: [("Corners too", 2)], 3: [("Edges too", 2), ("Corners too", 3)]}
        with QSignalBlocker(self.channel), QSignalBlocker(self.mask):
            self.channel.set_options([("Automatic", None), *each])
            self.mask.set_options([("Automatic", None), *each])
        with QSignalBlocker(self.background):
            self.background.set_options([*each, ("None", None)])
        with QSignalBlocker(self.connectivity):
            self.connectivity.set_options([("Faces", 1), *corners.get(axes_of_space, [])])
        self._show_rows()

    def value(self) -> Recipe:
        """The recipe."""
        return self._base

    def show_value(self, recipe: Recipe) -> None:
        """Show a recipe; no signal is emitted."""
        self._base, self._showing = recipe, True
        channel = recipe.channel if isinstance(recipe.channel, int | None) else None
        self.kind.set_value(recipe.kind)
        self.channel.set_value(channel)
        self.mask.set_value(recipe.foreground)
        self.background.set_value(recipe.background)
        self.threshold.setValue(recipe.threshold)
        self.seeds.set_value(recipe.seeds_by_dynamics)
        self.min_size.setValue(recipe.min_size)
        self.max_size.setValue(recipe.max_size or 0)
        self.fill_holes.setChecked(recipe.fill_holes)
        self.clear_border.setChecked(recipe.clear_border)
        self.connectivity.set_value(recipe.connectivity)
        self.values.set_value(recipe.values)
        self._showing = False
        self._show_rows()

    def set_value(self, recipe: Recipe) -> None:
        """Show a recipe, and tell where it is another one."""
        if recipe != self._base:
            self.show_value(recipe)
            self.value_changed.emit()

    def _show_rows(self) -> None:
        kind = self._base.kind
        several = len(self._names) > 1
        set_row(self.form, self.channel, several and kind in _ONE_CHANNEL)
        set_row(self.form, self.mask, several and kind in ("boundaries", "embeddings"))
        masked = kind == "distance" or (several and kind in ("boundaries", "embeddings"))
        none = kind == "classes" and (not several or self._base.background is None)
        set_row(self.form, self.background, several and kind == "classes")
        set_row(self.form, self.threshold, masked or none)
        set_row(self.form, self.seeds, kind in _SEEDED)
        set_row(self.more_form, self.values, kind != "embeddings")

    def _changed(self, _: Any = None) -> None:
        most = self.max_size.value()
        self._take(
            channel=self.channel.value() if self._base.kind in _ONE_CHANNEL else None,
            foreground=self.mask.value(),
            background=self.background.value(),
            threshold=self.threshold.value(),
            min_size=self.min_size.value(),
            max_size=max(most, self.min_size.value()) if most else None,
            fill_holes=self.fill_holes.isChecked(),
            clear_border=self.clear_border.isChecked(),
            connectivity=self.connectivity.value(),
            values=self.values.value(),
        )

    def _kind_changed(self) -> None:
        kind = self.kind.value()
        channel = self._base.channel if kind in _ONE_CHANNEL else None
        if "boundaries" in (kind, self._base.kind):  # another channel is meant
            channel = None
        self._take(kind=kind, channel=channel, seed_threshold=None, dynamics=None)

    def _seeds_changed(self) -> None:
        kind, wanted = self._base.kind, self.seeds.value()
        if wanted:
            small = {"distance": 1.0, "boundaries": 0.1, "embeddings": 0.1}.get(kind, 0.1)
            self._take(seed_threshold=None, dynamics=small)
        else:
            self._take(seed_threshold=1.0 if kind == "distance" else None, dynamics=None)

    def _take(self, **changes: Any) -> None:
        if not self._showing:
            self.set_value(self._base.but(**changes))


__all__ = ["RecipePanel", "real"]
