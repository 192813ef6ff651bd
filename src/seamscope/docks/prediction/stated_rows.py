"""What the user states of a network instead of letting it be measured, folded away below it.

Knows the same words as the command line's group Model. Does not know networks, or how they are
loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QFormLayout, QLabel, QSizePolicy, QSpinBox, QWidget

from seamscope.docks.controls import Section
from seamscope.docks.editors import Choice, OptionalSizes
from seamscope.models.output_kind import KINDS
from seamscope.models.trials import PATIENCE

_TIPS = {
    "input_size": (
        "A size of input that the network takes, in pixels: one number, or one for each axis as\n"
        "in 32,64,64. Needed for networks that take one size only."
    ),
    "channels": "Channels of the images that the network takes.",
    "spatial_axes": "Whether the network takes images (2) or volumes (3).",
    "step": (
        "Sizes and starts of tiles are multiples of it, in pixels: one number, or one for each\n"
        "axis. For networks whose period cannot be measured."
    ),
    "kind": "What the values of the prediction are.",
    "dropout": "Off: switch dropout and other random layers off, so that predictions repeat.",
    "ignore_extra": "Yes: leave out weights in the file that the network does not have.",
    "patience": (
        "Measuring ends after this time, with what is certain until then. A network that was\n"
        "measured once starts at once."
    ),
}
_MEASURED = "measured"
_TITLE = "Network options"


class StatedRows(Section):
    """Editor of what is stated of a network.

    Signals
    -------
    value_changed
        Another value was stated.
    """

    value_changed = Signal()

    def __init__(self) -> None:
        super().__init__(_TITLE, "What you know of the network: stated here, it is not measured.")
        self.input_size, self.step = OptionalSizes(_MEASURED), OptionalSizes(_MEASURED)
        self.channels = QSpinBox()
        self.channels.setRange(0, 10_000)
        self.channels.setSpecialValueText(_MEASURED)
        self.spatial_axes = Choice([(_MEASURED, None), ("2", 2), ("3", 3)])
        self.kind = Choice([(_MEASURED, None), *((kind, kind) for kind in KINDS)])
        self.dropout = Choice([("as in the network", True), ("off", False)])
        self.ignore_extra = Choice([("no", False), ("yes", True)])
        self.patience = QSpinBox()
        self.patience.setRange(1, 86_400)
        self.patience.setValue(int(PATIENCE))
        self.patience.setSuffix(" s")
        self._fields: dict[str, Any] = {
            name: getattr(self, name) for name in _TIPS if name != "patience"
        }
        self._lay_out()
        for field in (self.channels, self.patience):
            field.setKeyboardTracking(False)
        for field in self._fields.values():
            changed = getattr(field, "value_changed", None) or field.valueChanged
            changed.connect(self._tell)

    def value(self) -> dict[str, Any]:
        """What is stated, for `seamscope.load_model`; nothing for what is measured."""
        values = {name: field.value() for name, field in self._fields.items()}
        values["channels"] = values["channels"] or None
        usual = {"dropout": True, "ignore_extra": False}
        return {name: one for name, one in values.items() if one != usual.get(name)}

    def set_value(self, stated: Mapping[str, Any]) -> None:
        """Show what is stated of another network."""
        blocked = [QSignalBlocker(field) for field in self._fields.values()]
        for name in ("input_size", "step", "spatial_axes", "kind"):
            self._fields[name].set_value(stated.get(name))
        self.channels.setValue(stated.get("channels") or 0)
        self.dropout.set_value(stated.get("dropout", True))
        self.ignore_extra.set_value(stated.get("ignore_extra", False))
        for each in blocked:
            each.unblock()
        self._show_count()

    def lead_to(self, problem: str) -> None:
        """Show the first control that a problem names, and let the user type."""
        named = (name for name in re.findall(r"`(\w+)(?:=[^`]*)?`", problem) if name in _TIPS)
        name = next(named, None)
        if name is not None:
            self.expand(animate=False)
            getattr(self, name).setFocus()

    def _lay_out(self) -> None:
        inside = QWidget()
        form = QFormLayout(inside)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(4)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for name, tip in _TIPS.items():
            field = getattr(self, name)
            field.setToolTip(tip)
            field.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            label = QLabel(name.replace("_", " ").capitalize())
            label.setToolTip(tip)
            form.addRow(label, field)
        self.fold(inside)

    def _show_count(self) -> None:
        count = len(self.value())
        self.set_title(f"{_TITLE} ({count} stated)" if count else _TITLE)

    def _tell(self) -> None:
        self._show_count()
        self.value_changed.emit()


__all__ = ["StatedRows"]
