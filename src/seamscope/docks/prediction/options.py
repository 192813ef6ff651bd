"""Everything that is seldom changed: where, on what, and how.

Knows the settings that need no picture. Does not know tiles, networks or layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QDoubleSpinBox,
    QFormLayout,
    QLabel,
    QSizePolicy,
    QSpinBox,
    QWidget,
)

from seamscope.docks import run_on
from seamscope.docks.editors import Choice, OptionalNumber
from seamscope.docks.looks import in_dock, set_row
from seamscope.docks.prediction import place_row
from seamscope.images.stored import Offer
from seamscope.settings import WORDS, Settings
from seamscope.text import shape_text

_GB = 10**9
_LABELS = {"Replace NaN by": "Replace", "Seams": "Measure seams"}

_NAMES = {
    "Region": "area",
    "Result": "result",
    "Seams": "seams",
    "Threshold": "threshold",
    "Background": "background",
    "Channel": "channel",
    "Image intensities": "normalize",
    "Padding": "padding",
    "Replace NaN by": "fill_nan",
    "Device": "device",
    "Precision": "precision",
    "Batch": "batch",
    "Speed up": "accelerate",
    "Memory": "memory",
}
_TIPS = {row: in_dock(WORDS[name].help) for row, name in _NAMES.items()}
_TIPS["Show"] = (
    "Show the channels of a 2D result as one coloured layer, or as one layer each; then napari "
    "shows their values below the pointer. Volumes are always one layer per channel."
)
_TIPS["Image of file"] = (
    "Which image of a file that holds several. Another one is opened as a layer of its own."
)
_TIPS["Resolution"] = (
    "Which resolution of the image. Another one is opened as a layer of its own, on this one. "
    "Choose the one whose pixels have the size of those that the network was trained on."
)
_TIPS["No data"] = (
    "Intensity of pixels without data, such as -9999. They are left out of the image's statistics, "
    "and are 0 for the network. By default what the image's file says."
)
_TIPS["Run on"], _TIPS["Save to"] = run_on.TIP, place_row.TIP
_TIPS["Region"] += " Current view: the part and the slice that you see."
_TIPS["Seams"] += " With all tiles, the step Seams can show what each tile predicts."


def devices() -> list[tuple[str, str]]:
    """Devices of this machine, for people and for settings."""
    found = [("Auto", "auto"), ("CPU", "cpu")]
    for i in range(torch.cuda.device_count()):
        found.append((f"GPU {i}: {torch.cuda.get_device_name(i)}", f"cuda:{i}"))
    if torch.backends.mps.is_available():
        found.append(("Apple GPU", "mps"))
    return found


class Options(QWidget):
    """Editor of the settings that are folded away."""

    value_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.region = Choice(
            [("Whole image", "image"), ("Current view", "view"), ("Drawn rectangle", "shape")]
        )
        self.result = Choice([("Probabilities", "probabilities"), ("Labels", "labels")])
        self.seams = Choice(
            [("Auto", "auto"), ("All tiles", "all"), ("A sample", "sample"), ("No", "none")]
        )
        self.shown = Choice([("One coloured layer", True), ("One layer per channel", False)])
        self.run_on = run_on.RunOn()
        self.place = place_row.PlaceRow()
        self.threshold = _decimal(0.5, 0.05)
        self.background = Choice([("None", None)])
        self.series = Choice()
        self.level = Choice()
        self.nodata = OptionalNumber("none")
        self.channel = Choice([("All", None)])
        self.normalize = Choice(
            [
                ("Auto", "auto"),
                ("None", "none"),
                ("Z-score", "zscore"),
                ("Minimum to maximum", "minmax"),
                ("Percentiles 1 to 99.8", "percentile"),
            ]
        )
        self.padding = Choice([("Reflected", "reflect"), ("Zeros", "zeros")])
        self.replace_nan = QCheckBox("NaN by 0")
        self.device = Choice(devices())
        self.precision = Choice([(p, p) for p in ("float32", "bfloat16", "float16")])
        self.batch = QSpinBox()
        self.batch.setRange(1, 256)
        self.batch.setKeyboardTracking(False)
        self.accelerate = QCheckBox("same result, faster")
        self.accelerate.setChecked(True)
        self.memory = QDoubleSpinBox()
        self.memory.setRange(0, 4096)
        self.memory.setDecimals(3)
        self.memory.setSingleStep(0.5)
        self.memory.setSuffix(" GB")
        self.memory.setSpecialValueText("Auto")
        self.memory.setKeyboardTracking(False)
        self._lay_out()
        self._connect()

    def values(self) -> dict[str, Any]:
        """Arguments of `seamscope.planning.plan.Settings`."""
        return {
            "result": self.result.value(),
            "threshold": self.threshold.value(),
            "background": self.background.value() if self.result.value() == "labels" else None,
            "channel": self.channel.value(),
            "normalize": self.normalize.value(),
            "padding": self.padding.value(),
            "fill_nan": 0.0 if self.replace_nan.isChecked() else None,
            "device": self.device.value(),
            "precision": self.precision.value(),
            "batch": self.batch.value(),
            "accelerate": self.accelerate.isChecked(),
            "memory": int(self.memory.value() * _GB) or None,
        }

    def set_values(self, settings: Settings) -> None:
        """Show the values of settings; what is not offered here stays as it is."""
        for name in ("result", "padding", "device", "precision", "seams"):
            getattr(self, name).set_value(getattr(settings, name))
        self.set_network_values(settings)
        self.replace_nan.setChecked(settings.fill_nan == 0)
        self.batch.setValue(settings.batch)
        self.accelerate.setChecked(settings.accelerate)

    def set_network_values(self, settings: Settings) -> None:
        """Show the values that are right for one network only."""
        for name in ("channel", "normalize", "background"):
            getattr(self, name).set_value(getattr(settings, name))
        self.threshold.setValue(settings.threshold)

    def set_channels(self, count: int) -> None:
        """Offer the channels of an image; 0 or 1 for one that has no choice."""
        each: Sequence[tuple[str, Any]] = [(f"{i}", i) for i in range(count)]
        self.channel.set_options([("All", None), *each])
        set_row(self._form, self.channel, count > 1)

    def set_floating(self, floating: bool) -> None:
        """Whether the image can hold NaN."""
        set_row(self._form, self.replace_nan, floating)

    def show_threshold(self, shown: bool) -> None:
        """Whether the threshold means anything."""
        set_row(self._form, self.threshold, shown)

    def set_classes(self, names: Sequence[str]) -> None:
        """Offer the classes of labels as their background; none where there is no choice."""
        each: Sequence[tuple[str, Any]] = [(f"{i}: {name}", i) for i, name in enumerate(names)]
        self.background.set_options([("None", None), *each])
        set_row(self._form, self.background, len(names) > 1)

    def set_file(self, offer: Offer, nodata: float | None, takes_nodata: bool) -> None:
        """Offer what the file of an image lets its reader choose.

        Parameters
        ----------
        offer
            Images and resolutions.
        nodata
            Intensity that stands for no data now.
        takes_nodata
            Whether another one can be chosen.
        """
        blocked = [QSignalBlocker(each) for each in (self.series, self.level, self.nodata)]
        names = [name.replace(" pixels)", ")") for name in offer.series]  # the control is narrow
        self.series.set_options([(f"{i}: {name}", i) for i, name in enumerate(names)])
        self.series.set_value(offer.number)
        sizes = [(shape_text(shape), i) for i, shape in enumerate(offer.levels)]
        self.level.set_options(sizes)
        self.level.set_value(offer.level)
        self.nodata.set_value(nodata)
        for blocker in blocked:
            blocker.unblock()
        set_row(self._form, self.series, len(offer.series) > 1)
        set_row(self._form, self.level, len(offer.levels) > 1)
        set_row(self._form, self.nodata, takes_nodata)

    def _lay_out(self) -> None:
        self._form = QFormLayout(self)
        self._form.setContentsMargins(0, 0, 0, 0)
        self._form.setVerticalSpacing(4)
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows = {
            "Region": self.region,
            "Run on": self.run_on,
            "Save to": self.place,
            "Result": self.result,
            "Show": self.shown,
            "Seams": self.seams,
            "Threshold": self.threshold,
            "Background": self.background,
            "Image of file": self.series,
            "Resolution": self.level,
            "No data": self.nodata,
            "Channel": self.channel,
            "Image intensities": self.normalize,
            "Padding": self.padding,
            "Replace NaN by": self.replace_nan,
            "Device": self.device,
            "Precision": self.precision,
            "Batch": self.batch,
            "Speed up": self.accelerate,
            "Memory": self.memory,
        }
        for name, widget in rows.items():
            widget.setToolTip(_TIPS[name])
            if not isinstance(widget, QAbstractSpinBox):  # whose numbers are never cut off
                widget.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            label = QLabel(_LABELS.get(name, name))
            label.setToolTip(_TIPS[name])
            self._form.addRow(label, widget)
        self.set_channels(0)
        self.set_floating(False)
        self.show_threshold(False)
        self.set_classes(())
        self.set_file(Offer(), None, False)

    def _connect(self) -> None:
        choices = (self.region, self.result, self.seams, self.channel, self.normalize)
        for choice in (
            *choices,
            self.run_on,
            self.place,
            self.background,
            self.padding,
            self.device,
            self.precision,
        ):
            choice.value_changed.connect(self._tell)
        for number in (self.threshold, self.batch, self.memory):
            number.valueChanged.connect(self._tell)
        for box in (self.replace_nan, self.accelerate):
            box.toggled.connect(self._tell)

    def _tell(self) -> None:
        self.value_changed.emit()


def _decimal(value: float, step: float) -> QDoubleSpinBox:
    box = QDoubleSpinBox()
    box.setRange(-1e6, 1e6)
    box.setSingleStep(step)
    box.setValue(value)
    box.setKeyboardTracking(False)
    return box
