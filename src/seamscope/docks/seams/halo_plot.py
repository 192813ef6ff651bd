"""Disagreement against halo, on a plot whose upright line is the slider.

Knows curves, marks and how they are drawn. Does not know layers, runs or what moving the line does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyqtgraph as pg
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QLabel, QWidget

from seamscope.docks.controls import beside, number, stack
from seamscope.docks.editors import Choice
from seamscope.docks.late_plot import KeyedPlot, LatePlot, Plot, slider
from seamscope.docks.looks import COLORS, colored, plain
from seamscope.seams.report import SeamReport
from seamscope.text import figure_text, percent_text

Values = npt.NDArray[np.float64]

_TOLERANCE = "#7fbf7f"
_VIEWS = [
    ("Difference", "distance"),
    ("Difference, each channel", "channels"),
    ("Disagreement: probabilities", "soft"),
    ("Disagreement: classes", "hard"),
]
_TIP = (
    "Drag the red line, or press the arrow keys: the picture is stitched again\n"
    "with this margin (halo). No network runs."
)
_STYLES = (("┊", Qt.PenStyle.DotLine), ("╎", Qt.PenStyle.DashLine))  # of marks
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Mark(NamedTuple):
    """A halo worth knowing: the network's reach and the like."""

    halo: float
    name: str


class Line(NamedTuple):
    """One curve of the plot."""

    name: str
    values: Values
    color: str


def lines_of(report: SeamReport, view: str) -> list[Line]:
    """Curves of a report: ``"distance"``, ``"channels"``, ``"soft"`` or ``"hard"``."""
    curve = report.curve
    if view == "distance":
        return [
            Line("max", curve.max_dist, COLORS[0]),
            Line("mean", curve.mean_dist, COLORS[1]),
        ]
    each = {"channels": curve.max_dist_per_channel, "soft": curve.soft, "hard": curve.hard}[view]
    columns = range(each.shape[1])
    names = report.channels if len(report.channels) == each.shape[1] else [f"{c}" for c in columns]
    return [Line(names[c], each[:, c], COLORS[c % len(COLORS)]) for c in columns]


class HaloPlot(QWidget):
    """Curves of a report; a line that is dragged, moved by arrow keys, or by typing its halo.

    Signals
    -------
    moved : (int)
        The user moved the line to this halo, in input pixels.
    """

    moved = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.report: SeamReport | None = None
        self._floor = -6
        self._marks: list[Mark] = []
        self.view = Choice(
            _VIEWS,
            "What is drawn against the margin. Difference: of both predictions, max and mean.\n"
            "Disagreement of neighbours: 1 − Dice of their probabilities, or of their classes;\n"
            "0 is perfect agreement, 1 none.",
        )
        self._lines: list[Line] = []
        self._tolerance: float | None = None
        self.room = LatePlot(self._make, self._draw, 210)
        self.line = slider(bounds=(0, 1))
        tip = "Margin (halo) at the line, in pixels of the image."
        self.number = number((0, 99), 0, tip, " px")
        self.view.setAccessibleName("Curves")
        self.number.setAccessibleName("Margin (halo)")
        self.unit = QLabel("margin (pixels)")  # pyqtgraph cuts the descenders of its own labels
        self.unit.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.names = QLabel()
        self.names.setWordWrap(True)
        self.numbers = QLabel()
        self.numbers.setWordWrap(True)
        self._lay_out()
        self.view.value_changed.connect(self._take)
        self.line.sigPositionChanged.connect(self._dragged)
        self.number.valueChanged.connect(self._typed)

    def _lay_out(self) -> None:
        first = beside(self.view, QLabel("Margin"), self.number)
        stack(self, first, self.room, self.unit, self.names, self.numbers)

    def _make(self) -> Plot:
        return KeyedPlot(_TIP, self._step, axisItems={"left": _Decades(orientation="left")})

    # -- what is shown

    @property
    def plot(self) -> Plot | None:
        """The plot, once it was seen."""
        return self.room.plot

    def value(self) -> int:
        """The halo that the line is at."""
        return int(self.number.value())

    def set_value(self, halo: int) -> None:
        """Move the line, and emit `moved`."""
        self.number.setValue(halo)

    @property
    def most(self) -> int:
        """Largest halo of the curve."""
        return 0 if self.report is None else max(int(self.report.curve.halo.size) - 1, 0)

    def show_report(self, report: SeamReport | None, marks: Sequence[Mark], halo: int = 0) -> None:
        """Draw another report, the line at `halo`; `moved` is not emitted."""
        self.report, self._marks = report, list(marks)
        with QSignalBlocker(self.number), QSignalBlocker(self.line):
            self.number.setRange(0, self.most)
            self.number.setValue(halo)
            self.line.setBounds((0, self.most))
            self.line.setValue(self.number.value())
        self._take()

    def show_marks(self, marks: Sequence[Mark]) -> None:
        """Draw other marks."""
        if list(marks) != self._marks:
            self._marks = list(marks)
            self._take()

    def set_colors(self, ground: str, text: str) -> None:
        """Follow napari's theme."""
        self.room.set_colors(ground, text)

    def _take(self) -> None:
        """Find what is to be drawn, and say it; it is drawn when it is seen."""
        report = self.report
        known = report is not None and report.measured > 0
        self.setVisible(known)
        self._lines, self._tolerance = [], None
        self.names.setText("")
        self.numbers.setText("")
        self.unit.setVisible(known)
        if report is not None and known:
            view = self.view.value()
            self._lines = lines_of(report, view)
            self._tolerance = report.tolerance if view in ("distance", "channels") else None
            self._floor = _floor([line.values for line in self._lines], self._tolerance)
            self.unit.setText(f"margin (pixels{_proportion(report)})")
            self._name()
            self._show_numbers()
        self.room.redraw(known)

    def _name(self) -> None:
        keys = [(line.name, line.color) for line in self._lines]
        keys += [("tolerance", _TOLERANCE)] * bool(self._tolerance)
        named = [f"{colored('━', color)}&nbsp;{_unbroken(name)}" for name, color in keys]
        # names of upright lines would run through the curves
        for mark, (drawn, _) in zip(self._marks, _STYLES, strict=False):
            sign = drawn if mark.halo <= self._far else "→"  # further than is drawn
            named.append(f"{sign}&nbsp;{_unbroken(f'{mark.name} {mark.halo:g} px')}")
        self.names.setText(" &nbsp; ".join(named))

    def _draw(self, plot: Plot) -> None:
        assert self.report is not None
        plot.getAxis("left").floor = self._floor
        for line in self._lines:
            self._add(plot, self.report.curve.halo, line)
        if self._tolerance:
            pen = pg.mkPen(_TOLERANCE, width=1.5, style=Qt.PenStyle.DashLine)
            plot.addItem(pg.InfiniteLine(math.log10(self._tolerance), angle=0, pen=pen))
        for mark, (_, style) in zip(self._marks, _STYLES, strict=False):
            pen = pg.mkPen(self.room.text, width=1, style=style)
            plot.addItem(pg.InfiniteLine(mark.halo, angle=90, pen=pen), ignoreBounds=True)
        plot.addItem(self.line, ignoreBounds=True)
        what = "difference" if self.view.value() in ("distance", "channels") else "disagreement"
        plot.setLabel("left", what, color=self.room.text)
        self._set_ranges(plot)

    def _add(self, plot: Plot, halo: Any, line: Line) -> None:
        known = np.isfinite(line.values)
        heights = self._heights(line.values[known])
        pen = pg.mkPen(line.color, width=2)
        item = plot.plot(halo[known], heights, pen=pen)
        item.setSymbol("o" if known.sum() < 60 else None)
        item.setSymbolSize(4)
        item.setSymbolBrush(line.color)
        item.setSymbolPen(None)

    def _heights(self, values: Values) -> Values:
        return np.log10(np.maximum(values, 10.0**self._floor))

    @property
    def _far(self) -> float:
        """Largest halo that is drawn."""
        return max([self.most, *(m.halo for m in self._marks if m.halo <= 3 * self.most + 8)])

    def _set_ranges(self, plot: Plot) -> None:
        each = [line.values[np.isfinite(line.values)] for line in self._lines]
        top = max((float(self._heights(x).max()) for x in each if x.size), default=0.0)
        plot.setXRange(0, max(self._far * 1.06, 1), padding=0.02)
        plot.setYRange(self._floor, max(top, self._floor + 1), padding=0.05)

    def _show_numbers(self) -> None:
        report = self.report
        if report is None or not report.measured:
            return
        curve, at = report.curve, self.value()
        shown = f"max {figure_text(curve.max_dist[at])}, mean {figure_text(curve.mean_dist[at])}"
        if curve.soft.shape[1]:
            worst = np.nanmax(np.nan_to_num(curve.soft[at]))
            shown += f"; disagreement {figure_text(worst)} (0 is perfect)"
        share = curve.share[at]  # those that do not reach it make the numbers above differ
        reach = f" {percent_text(share)} of the overlaps reach it." if share < 1 else ""
        self.numbers.setText(f"At margin <b>{at}</b>: difference {shown}.{reach}")

    # -- the slider

    def _step(self, pixels: int) -> None:
        self.number.setValue(self.value() + pixels)

    def _dragged(self) -> None:
        self.number.setValue(round(self.line.value()))

    def _typed(self, halo: int) -> None:
        with QSignalBlocker(self.line):
            self.line.setValue(halo)
        self.line.update()
        self._show_numbers()
        self.moved.emit(halo)


def _unbroken(name: str) -> str:
    """A name that stays on one line."""
    return plain(name).replace(" ", "&nbsp;")


class _Decades(pg.AxisItem):
    """Ticks at powers of ten; the lowest one stands for exact zeros too."""

    floor = -6

    def tickValues(self, low: float, high: float, size: float) -> list[Any]:  # noqa: N802
        """Whole decades, few enough to be read."""
        first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
        step = max(1, math.ceil((last - first + 1) * 18 / max(size, 1)))
        return [(step, [float(v) for v in range(self.floor, last + 1, step)])]

    def tickStrings(self, values: Any, scale: float, spacing: float) -> list[str]:  # noqa: N802
        """10⁻³ and so on; 0 at the floor."""
        return ["0" if v <= self.floor else _power(round(v)) for v in values]


def _power(exponent: int) -> str:
    if exponent in (0, -1, 1):
        return f"{10.0**exponent:g}"
    return "10" + f"{exponent}".translate(_SUPERSCRIPTS)


def _floor(curves: Sequence[Values], tolerance: float | None) -> int:
    """Decade below everything that is not zero."""
    positive = [float(c[c > 0].min()) for c in curves if (c > 0).any()]
    least = min([*positive, tolerance or math.inf, 1.0])
    return max(math.ceil(math.log10(max(least, 1e-12))) - 1, -12)


def _proportion(report: SeamReport) -> str:
    """What a halo means where the axes' halos differ."""
    weights = report.curve.ray.weights
    if all(weight == 1 for sides in weights for weight in sides):
        return ""
    letters = report.plan.layout.spatial
    each = ", ".join(f"{a} {float(max(w)):.2g}" for a, w in zip(letters, weights, strict=True))
    return f"; times {each}"
