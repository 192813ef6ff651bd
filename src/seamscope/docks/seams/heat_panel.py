"""Which heat maps are shown, and of what.

Knows the boxes to tick, and that each has a legend. Does not know how a heat map looks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QGridLayout, QLabel, QWidget

from seamscope.docks.color_bar import ColorBar
from seamscope.docks.controls import allow
from seamscope.docks.editors import Choice
from seamscope.docks.kept_layers import ResultsUnderMaps
from seamscope.docks.results import Run
from seamscope.docks.seams.heat_layers import TITLES, HeatLayers, Kind, Wanted, heat_colors
from seamscope.text import figure_text

_NAMES: dict[Kind, tuple[str, str]] = {
    "pixels": ("Per pixel", "Colour each pixel by the difference of the tiles that overlap there."),
    "seams": ("Per seam", "Colour each seam by how much both tiles disagree there."),
    "tiles": ("Per tile", "Colour each tile by the mean of its seams."),
}
_DISTANCES = [("Max difference", "max_dist"), ("Mean difference", "mean_dist")]
_MISMATCH = [("Disagreement", "mismatch")]
_MEASURE = (
    "\nDifference: of both predictions. Disagreement: 1 − Dice of the channel; 0 is perfect\n"
    "agreement, 1 none."
)


class HeatPanel(QWidget):
    """A box, a measure and a legend for each kind of heat map.

    Parameters
    ----------
    viewer
        Its layers are added there.
    results
        Returns the layers of the run that is shown. They are hidden under heat maps.

    Signals
    -------
    missing : (str)
        The wanted map is not known of this run: one sentence.
    """

    missing = Signal(str)

    def __init__(self, viewer: Any, results: Callable[[], Sequence[Any]] = tuple) -> None:
        super().__init__()
        self._results_below = ResultsUnderMaps(viewer, results)
        self.layers = HeatLayers(viewer, self._show_scale)
        self._run: Run | None = None
        self._channel: int | None = None
        self._front = True
        self._due: deque[Kind] = deque()
        self._again = False  # what is due was there already
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._show_next)
        self.boxes: dict[Kind, QCheckBox] = {
            kind: QCheckBox(name) for kind, (name, _) in _NAMES.items()
        }
        self.measures: dict[Kind, Choice] = {
            kind: Choice(_DISTANCES if kind == "pixels" else _MISMATCH + _DISTANCES, tip + _MEASURE)
            for kind, (_, tip) in _NAMES.items()
        }
        self.scales: dict[Kind, ColorBar] = {kind: ColorBar() for kind in _NAMES}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(1, 1)
        title = QLabel("<b>Heat maps</b>")
        title.setToolTip("Where neighbouring tiles differ, drawn over the image in colours.")
        grid.addWidget(title, 0, 0, 1, 2)
        for row, kind in enumerate(_NAMES):
            self.boxes[kind].setToolTip(_NAMES[kind][1])
            self.measures[kind].setAccessibleName(f"{_NAMES[kind][0]}: measure")
            grid.addWidget(self.boxes[kind], 2 * row + 1, 0)
            grid.addWidget(self.measures[kind], 2 * row + 1, 1)
            grid.addWidget(self.scales[kind], 2 * row + 2, 0, 1, 2)
            self.scales[kind].hide()
            self.boxes[kind].toggled.connect(lambda _, k=kind: self._show(k))
            self.measures[kind].value_changed.connect(lambda k=kind: self._show(k))

    def show_run(self, run: Run | None) -> None:
        """Show another run's heat maps; its plan is the one that was measured."""
        self._run, self._channel = run, None
        self._show_all(self.boxes)

    def bring(self, front: bool) -> None:
        """Draw the maps, or hide them: another page is in front."""
        self._front = front
        self._show_all(self.boxes, again=True)

    def allow(self, *needed: tuple[bool, str]) -> None:
        """Let maps be wanted, as `seamscope.docks.controls.allow` does."""
        for box in self.boxes.values():
            allow(box, *needed)

    def show_channel(self, channel: int | None) -> None:
        """Show the mismatch of another channel; None for the largest of all."""
        self._channel = channel
        self._show_all(kind for kind in self.boxes if kind != "pixels")

    def _show_all(self, kinds: Iterable[Kind], again: bool = False) -> None:
        """Show the first map at once, and each other one when the window has answered."""
        self._due.clear()
        self._again = again
        for kind in kinds:
            if self._run is not None and self._front and self.boxes[kind].isChecked():
                self._due.append(kind)
            else:
                self._show(kind)
        self._show_next()

    def _show_next(self) -> None:
        if self._due:
            self._show(self._due.popleft(), self._again)
        if not self._due:
            self._timer.stop()
        elif not self._timer.isActive():
            self._timer.start(0)

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
            tip = f"{unit['unit']}, {TITLES[kind]}; transparent at {figure_text(low)}"
            self.scales[kind].show_scale(heat_colors(kind), (low, high), unit["unit"], tip)

    def _show(self, kind: Kind, again: bool = False) -> None:
        run, wanted = self._run, self._front and self.boxes[kind].isChecked()
        known = run is not None and run.evidence.report is not None
        layer = None
        if wanted and known and run is not None:
            what = Wanted(self.measures[kind].value(), self._channel)
            layer = self.layers.show(kind, run, what, again)
        else:
            self.layers.hide(kind)
        self.measures[kind].setEnabled(wanted)
        self.scales[kind].setVisible(layer is not None and layer.visible)
        self._show_scale(kind)
        self.make_ground()
        if layer is None and wanted and known:
            self.missing.emit("Where pixels differ was not kept of this run: press Measure.")

    def make_ground(self) -> None:
        """Hide the result under heat maps, and show it again without them."""
        self._results_below.give_way(
            any(self.layers.layer(kind) is not None for kind in self.boxes)
        )
