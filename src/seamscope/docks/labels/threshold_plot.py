"""Number of objects against the threshold, and the histogram below it; a line that is the slider.

Knows curves and how they are drawn. Does not know how objects are found.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyqtgraph as pg
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QLabel, QWidget

from seamscope.docks.controls import beside, stack
from seamscope.docks.labels.background import Curves
from seamscope.docks.labels.recipe_panel import real
from seamscope.docks.late_plot import KeyedPlot, LatePlot, Plot, slider
from seamscope.docks.looks import COLORS, colored
from seamscope.segmentation.segment import Curve, Segmentation

Values = npt.NDArray[Any]

_STABLE = "#7fbf7f"
_POINTS = 1200  # of the curve that are drawn
_FEW_DECADES = 1.6
_AXIS = 56  # width of the left axes, so that both plots lie above each other
_NAMES = {
    "threshold": "foreground above (probability)",
    "seed_threshold": "seeds below (probability)",
    "dynamics": "seeds of at least this dynamics",
}
_UNITS = {"distance": "depth, pixels", "embeddings": "distance"}
_TIP = (
    "Drag the red line, or press the arrow keys: the labels in view follow.\n"
    "The green band is where the number of objects changes by at most 2 %."
)


class ThresholdPlot(QWidget):
    """Curve and histogram of a segmentation; a line that is dragged, or moved by typing.

    Signals
    -------
    moved : (float)
        The user moved the line to this value.
    """

    moved = Signal(float)

    def __init__(self) -> None:
        super().__init__()
        self.curve: Curve | None = None
        self.stable = (0.0, 1.0)
        self._edges: Values = np.zeros(2)
        self._pixels: Values = np.zeros(1)
        self._range = (0.0, 1.0)
        self.objects = LatePlot(self._make, self._draw_curve, 150)
        self.heights = LatePlot(self._make, self._draw_histogram, 90)
        self.lines = [slider(), slider()]
        self.number = real((0, 1), 0.5, 0.005, "Value of the setting below, at the red line.")
        self.number.setAccessibleName("Value at the line")
        self.name = QLabel()
        self.unit = QLabel()
        self.unit.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.key = QLabel()
        self.key.setWordWrap(True)
        first = beside(self.name, self.number)
        stack(self, first, self.objects, self.heights, self.unit, self.key)
        self.number.valueChanged.connect(self._typed)
        for line in self.lines:
            line.sigPositionChanged.connect(self._dragged)
        self.hide()

    def _make(self) -> Plot:
        made = KeyedPlot(_TIP, self.step)
        made.getAxis("left").setWidth(_AXIS)
        return made

    # -- what is shown

    def value(self) -> float:
        """Where the line is."""
        return float(self.number.value())

    def set_value(self, value: float) -> None:
        """Move the line, and emit `moved`."""
        self.number.setValue(value)

    def show_curves(self, curves: Curves | None, found: Segmentation | None) -> None:
        """Draw the curves of these objects, the line at their setting; no signal is emitted."""
        if curves is None or found is None:
            self.curve = None
            self.hide()
            return
        self.curve, self.stable = curves.curve, curves.stable
        self._edges, self._pixels = curves.edges, curves.pixels
        self._range = _shown(self.curve, self._edges, self._pixels)
        value = setting_of(found)
        top = float(self.curve.values[-1])
        with QSignalBlocker(self.number):
            self.number.setRange(0, top)
            self.number.setSingleStep(max(0.001, round(top / 200, 3)))
        self.show_value(value)
        self.name.setText(_name(self.curve.name, found.recipe.kind))
        self.unit.setText(_UNITS.get(found.recipe.kind, "probability"))
        low, high = self.stable
        self.key.setText(
            f"{colored('━', COLORS[0])} number of objects &nbsp; {colored('▮', COLORS[1])} pixels "
            f"&nbsp; {colored('▮', _STABLE)} stable {low:.3g} to {high:.3g}"
        )
        self.show()
        self.objects.redraw()
        self.heights.redraw()

    def show_value(self, value: float) -> None:
        """Move the line; no signal is emitted."""
        with QSignalBlocker(self.number):
            self.number.setValue(value)
        self._place_lines(value)

    def set_colors(self, ground: str, text: str) -> None:
        """Follow napari's theme."""
        self.objects.set_colors(ground, text)
        self.heights.set_colors(ground, text)

    def _draw_curve(self, plot: Plot) -> None:
        if self.curve is None:
            return
        values, counts = self.curve.values, self.curve.counts
        shown = np.unique(np.linspace(0, len(values) - 1, _POINTS).astype(int))
        band = pg.LinearRegionItem(self.stable, movable=False, brush=pg.mkBrush(_STABLE + "50"))
        for edge in band.lines:
            edge.setPen(pg.mkPen(None))
        plot.addItem(band)
        heights = np.log10(np.maximum(counts, 1))
        plot.plot(values[shown], heights[shown], pen=pg.mkPen(COLORS[0], width=2))
        plot.addItem(self.lines[0], ignoreBounds=True)
        inside = (values >= self._range[0]) & (values <= self._range[1])
        plot.setXRange(*self._range, padding=0.02)
        low, high = heights[inside].min(initial=9.0), heights[inside].max(initial=0.0)
        top = max(high, low, min(low, high) + 0.3)
        plot.setYRange(min(low, high), top, padding=0.08)
        ticks = _tenths(high - low < _FEW_DECADES)
        # above lies the padding: a number there would be cut off
        plot.getAxis("left").setTicks([[tick for tick in ticks if tick[0] <= top]])
        plot.getAxis("bottom").setStyle(showValues=False)
        plot.setLabel("left", "objects", color=self.objects.text)

    def _draw_histogram(self, plot: Plot) -> None:
        counts = np.log10(1 + self._pixels)
        steps = pg.PlotCurveItem(
            self._edges, counts, stepMode="center", fillLevel=0, pen=None, brush=COLORS[1]
        )
        plot.addItem(steps)
        plot.addItem(self.lines[1], ignoreBounds=True)
        plot.setXRange(*self._range, padding=0.02)
        top = max(1.0, float(counts.max(initial=1)))
        plot.setYRange(0, top * 1.15, padding=0.02)
        ticks = [(0, "0"), (3, "10³"), (6, "10⁶"), (9, "10⁹")]
        plot.getAxis("left").setTicks([[tick for tick in ticks if tick[0] <= top]])
        plot.setLabel("left", "pixels", color=self.heights.text)

    # -- the slider

    def step(self, steps: int) -> None:
        """Move the line by steps of the number."""
        self.number.setValue(self.value() + steps * self.number.singleStep())

    def _dragged(self, line: Any) -> None:
        self.number.setValue(line.value())

    def _typed(self, value: float) -> None:
        self._place_lines(value)
        self.moved.emit(value)

    def _place_lines(self, value: float) -> None:
        for line in self.lines:
            with QSignalBlocker(line):
                line.setValue(value)
            line.update()


def _tenths(close: bool) -> list[tuple[float, str]]:
    """Ticks of a logarithmic axis: powers of ten, and 2 and 5 times those where there is room."""
    each = (1, 2, 5) if close else (1,)
    numbers = [m * 10**power for power in range(10) for m in each]
    return [(math.log10(n), f"{n:,}" if n < 10**5 else f"{n:.0e}") for n in numbers]


def setting_of(found: Segmentation) -> float:
    """Value of the recipe that the line stands for."""
    recipe = found.recipe
    if recipe.kind == "components":
        return recipe.threshold
    if recipe.seeds_by_dynamics:
        return 1.0 if recipe.dynamics is None else recipe.dynamics
    if recipe.seed_threshold is not None:
        return recipe.seed_threshold
    return float(recipe.value_at(recipe.cut))


def _name(parameter: str, kind: str) -> str:
    if parameter == "seed_threshold" and kind == "distance":
        return "seeds deeper than (pixels)"
    if parameter == "seed_threshold" and kind == "embeddings":
        return "seeds below (distance)"
    return _NAMES[parameter]


def _shown(curve: Curve, edges: Values, pixels: Values) -> tuple[float, float]:
    """Values that are worth drawing: where there are pixels, or objects."""
    some = np.flatnonzero(pixels)
    ends = [float(edges[some[0]]), float(edges[some[-1] + 1])] if len(some) else [0.0, 1.0]
    if curve.name == "dynamics":
        several = curve.values[curve.counts > curve.counts[-1]]
        return 0.0, float(several[-1]) * 1.1 if len(several) else ends[1]
    return ends[0], ends[1]


__all__ = ["ThresholdPlot", "setting_of"]
