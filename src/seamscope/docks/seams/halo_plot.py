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
from qtpy.QtWidgets import QHBoxLayout, QLabel, QSpinBox, QVBoxLayout, QWidget

from seamscope.docks.editors import Choice
from seamscope.docks.looks import COLORS, colored, figure, plain
from seamscope.seams.report import SeamReport

Values = npt.NDArray[np.float64]

_LINE, _TOLERANCE = "#ff5d8f", "#7fbf7f"
_PAGE = 10
_VIEWS = [
    ("Distance", "distance"),
    ("Distance, channels", "channels"),
    ("1 − Dice, soft", "soft"),
    ("1 − Dice, hard", "hard"),
]
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
            Line("largest", curve.max_dist, COLORS[0]),
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
        Somebody moved the line to this halo, in input pixels.
    """

    moved = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.report: SeamReport | None = None
        self._floor = -6
        self._text = "#ffffff"
        self._marks: list[Mark] = []
        self.view = Choice(
            _VIEWS,
            "What is drawn against the halo: the largest and the mean distance of both\n"
            "predictions, the largest of each channel, or the tile mismatch of each.",
        )
        self._axis = _Decades(orientation="left")
        self.plot = _Plot(self._step, axisItems={"left": self._axis})
        self.plot.setFixedHeight(210)
        self.plot.setMenuEnabled(False)
        self.plot.setMouseEnabled(x=False, y=False)
        self.plot.hideButtons()
        self.plot.setToolTip(
            "Drag the red line, or press the arrow keys: the picture is stitched again\n"
            "with seams cut that far from the tiles' borders. No network runs."
        )
        self.line = pg.InfiniteLine(0, angle=90, movable=True, bounds=(0, 1))
        self.line.setPen(pg.mkPen(_LINE, width=3))
        self.line.setHoverPen(pg.mkPen(_LINE, width=5))
        self.line.setZValue(10)
        self.number = QSpinBox()
        self.number.setSuffix(" px")
        self.number.setKeyboardTracking(False)
        self.number.setToolTip("The halo that the line is at, in pixels of the image.")
        self.unit = QLabel("halo (pixels)")  # pyqtgraph cuts the descenders of its own labels
        self.unit.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.names = QLabel()
        self.names.setWordWrap(True)
        self.told = QLabel()
        self.told.setWordWrap(True)
        self._lay_out()
        self.view.value_changed.connect(self._draw)
        self.line.sigPositionChanged.connect(self._dragged)
        self.number.valueChanged.connect(self._typed)

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        row = QHBoxLayout()
        row.addWidget(self.view, 1)
        row.addWidget(QLabel("Halo"))
        row.addWidget(self.number)
        column.addLayout(row)
        for part in (self.plot, self.unit, self.names, self.told):
            column.addWidget(part)

    # -- what is shown

    def value(self) -> int:
        """The halo that the line is at."""
        return int(self.number.value())

    def set_value(self, halo: int) -> None:
        """Move the line, and tell."""
        self.number.setValue(halo)

    @property
    def most(self) -> int:
        """Largest halo of the curve."""
        return 0 if self.report is None else max(int(self.report.curve.halo.size) - 1, 0)

    def show_report(self, report: SeamReport | None, marks: Sequence[Mark], halo: int = 0) -> None:
        """Draw another report, the line at `halo`; tells nobody."""
        self.report, self._marks = report, list(marks)
        with QSignalBlocker(self.number), QSignalBlocker(self.line):
            self.number.setRange(0, self.most)
            self.number.setValue(halo)
            self.line.setBounds((0, self.most))
            self.line.setValue(self.number.value())
        self._draw()

    def show_marks(self, marks: Sequence[Mark]) -> None:
        """Draw other marks."""
        if list(marks) != self._marks:
            self._marks = list(marks)
            self._draw()

    def set_colors(self, ground: str, text: str) -> None:
        """Follow napari's theme."""
        self._text = text
        self.plot.setBackground(ground)
        for side in ("left", "bottom"):
            axis = self.plot.getAxis(side)
            axis.setPen(text)
            axis.setTextPen(text)
        self._draw()

    def _draw(self) -> None:
        self.plot.clear()
        report = self.report
        self.setEnabled(report is not None and report.measured > 0)
        if report is None or not report.measured:
            self.names.setText("")
            self.told.setText("")
            return
        view = self.view.value()
        lines = lines_of(report, view)
        tolerance = report.tolerance if view in ("distance", "channels") else None
        self._floor = _floor([line.values for line in lines], tolerance)
        self._axis.floor = self._floor
        for line in lines:
            self._add(report.curve.halo, line)
        if tolerance:
            self._add_tolerance(tolerance)
        for mark in self._marks:
            self._add_mark(mark)
        self.plot.addItem(self.line, ignoreBounds=True)
        self._set_ranges(lines)
        self.unit.setText(f"halo (pixels{_proportion(report)})")
        keys = [(line.name, line.color) for line in lines]
        keys += [("tolerance", _TOLERANCE)] * bool(tolerance)
        self.names.setText(" &nbsp; ".join(f"{colored('━', c)} {plain(name)}" for name, c in keys))
        self._tell()

    def _add(self, halo: Any, line: Line) -> None:
        known = np.isfinite(line.values)
        heights = self._heights(line.values[known])
        pen = pg.mkPen(line.color, width=2)
        item = self.plot.plot(halo[known], heights, pen=pen)
        item.setSymbol("o" if known.sum() < 60 else None)
        item.setSymbolSize(4)
        item.setSymbolBrush(line.color)
        item.setSymbolPen(None)

    def _heights(self, values: Values) -> Values:
        return np.log10(np.maximum(values, 10.0**self._floor))

    def _add_tolerance(self, tolerance: float) -> None:
        pen = pg.mkPen(_TOLERANCE, width=1.5, style=Qt.PenStyle.DashLine)
        self.plot.addItem(pg.InfiniteLine(math.log10(tolerance), angle=0, pen=pen))

    def _add_mark(self, mark: Mark) -> None:
        pen = pg.mkPen(self._text, width=1, style=Qt.PenStyle.DotLine)
        beside = {
            "position": 0.1,
            "color": self._text,
            "rotateAxis": (1, 0),
            "anchors": _BESIDE,
        }
        line = pg.InfiniteLine(mark.halo, angle=90, pen=pen, label=mark.name, labelOpts=beside)
        self.plot.addItem(line, ignoreBounds=True)

    def _set_ranges(self, lines: Sequence[Line]) -> None:
        far = max([self.most, *(m.halo for m in self._marks if m.halo <= 3 * self.most + 8)])
        top = max((float(self._heights(x.values[np.isfinite(x.values)]).max()) for x in lines if
                   np.isfinite(x.values).any()), default=0.0)  # fmt: skip
        self.plot.setXRange(0, max(far * 1.06, 1), padding=0.02)
        self.plot.setYRange(self._floor, max(top, self._floor + 1), padding=0.05)

    def _tell(self) -> None:
        report = self.report
        if report is None or not report.measured:
            return
        curve, at = report.curve, self.value()
        told = f"largest {figure(curve.max_dist[at])}, mean {figure(curve.mean_dist[at])}"
        if curve.soft.shape[1]:
            told += f", 1 − Dice {figure(np.nanmax(np.nan_to_num(curve.soft[at])))}"
        self.told.setText(f"At halo <b>{at}</b>: {told}.")

    # -- the slider

    def _step(self, pixels: int) -> None:
        self.number.setValue(self.value() + pixels)

    def _dragged(self) -> None:
        self.number.setValue(round(self.line.value()))

    def _typed(self, halo: int) -> None:
        with QSignalBlocker(self.line):
            self.line.setValue(halo)
        self.line.update()
        self._tell()
        self.moved.emit(halo)


_BESIDE = [(0, 0), (0, 0)]  # the mark's name to its right


class _Plot(pg.PlotWidget):
    """A plot that hears arrow keys."""

    def __init__(self, step: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._steps = {
            Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1,
            Qt.Key.Key_PageDown: -_PAGE, Qt.Key.Key_PageUp: _PAGE,
            Qt.Key.Key_Home: -1_000_000, Qt.Key.Key_End: 1_000_000,
        }  # fmt: skip
        self._step = step

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        """Move the line."""
        if event.key() in self._steps:
            self._step(self._steps[event.key()])
            event.accept()
        else:
            super().keyPressEvent(event)

    def wheelEvent(self, event: Any) -> None:  # noqa: N802
        """Leave it to the dock, which scrolls."""
        event.ignore()


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
