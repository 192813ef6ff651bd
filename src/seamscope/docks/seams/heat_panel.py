"""Which heat maps are shown, and of what.

Knows the boxes to tick, and that each has a legend. Does not know how a heat map looks.
"""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QGridLayout, QWidget

from seamscope.docks.editors import Choice
from seamscope.docks.results import Run
from seamscope.docks.seams.heat_layers import ColorBar, HeatLayers, Kind, Wanted

_NAMES: dict[Kind, tuple[str, str]] = {
    "pixels": ("Pixels", "Colour each pixel by the distance of the tiles that overlap there."),
    "seams": ("Seams", "Colour each seam by its measure."),
    "tiles": ("Tiles", "Colour each tile by the mean of its seams' measure."),
}
_DISTANCES = [("Max difference", "max_dist"), ("Mean difference", "mean_dist")]
_MISMATCH = [("1 − Dice", "mismatch")]


class HeatPanel(QWidget):
    """A box, a measure and a legend for each kind of heat map.

    Parameters
    ----------
    viewer
        Its layers are added there.

    Signals
    -------
    missing : (str)
        What was asked for is not known of this run: one sentence.
    """

    missing = Signal(str)

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.layers = HeatLayers(viewer, self._show_scale)
        self._run: Run | None = None
        self._channel: int | None = None
        self.boxes: dict[Kind, QCheckBox] = {
            kind: QCheckBox(name) for kind, (name, _) in _NAMES.items()
        }
        self.measures: dict[Kind, Choice] = {
            kind: Choice(_DISTANCES if kind == "pixels" else _MISMATCH + _DISTANCES, tip)
            for kind, (_, tip) in _NAMES.items()
        }
        self.scales: dict[Kind, ColorBar] = {kind: ColorBar() for kind in _NAMES}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(1, 1)
        for row, kind in enumerate(_NAMES):
            self.boxes[kind].setToolTip(_NAMES[kind][1])
            grid.addWidget(self.boxes[kind], 2 * row, 0)
            grid.addWidget(self.measures[kind], 2 * row, 1)
            grid.addWidget(self.scales[kind], 2 * row + 1, 0, 1, 2)
            self.scales[kind].hide()
            self.boxes[kind].toggled.connect(lambda _, k=kind: self._show(k))
            self.measures[kind].value_changed.connect(lambda k=kind: self._show(k))

    def show_run(self, run: Run | None) -> None:
        """Show another run's heat maps; its plan is the one that was measured."""
        self._run, self._channel = run, None
        for kind in self.boxes:
            self._show(kind)

    def show_channel(self, channel: int | None) -> None:
        """Show the mismatch of another channel; None for the largest of all."""
        self._channel = channel
        for kind in self.boxes:
            if kind != "pixels":
                self._show(kind)

    def layer_removed(self, layer: Any) -> None:
        """Untick the box of a heat map that was removed."""
        kind = self.layers.kind_of(layer)
        if kind is not None:
            self.boxes[kind].setChecked(False)

    def _show_scale(self, kind: Kind) -> None:
        layer = self.layers.layer(kind)
        unit = {} if layer is None else layer.metadata.get("seamscope", {})
        if layer is not None and unit:
            low, high = layer.contrast_limits
            self.scales[kind].show_scale(kind, (low, high), unit["unit"])

    def _show(self, kind: Kind) -> None:
        run, asked = self._run, self.boxes[kind].isChecked()
        known = run is not None and run.evidence.report is not None
        layer = None
        if asked and known and run is not None:
            wanted = Wanted(self.measures[kind].value(), self._channel)
            layer = self.layers.show(kind, run, wanted)
        else:
            self.layers.hide(kind)
        self.measures[kind].setEnabled(asked)
        self.scales[kind].setVisible(layer is not None)
        self._show_scale(kind)
        if layer is None and asked and known:
            self.missing.emit("Where pixels differ was not kept of this run: press Measure.")
