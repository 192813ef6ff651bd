"""Plots of normalization: features of tiles, one pixel's features, batches, seams before and after.

Knows how these are drawn. Does not know who measures them, or layers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyqtgraph as pg
from qtpy.QtCore import Qt

from seamscope.compare.before_after import BeforeAfter
from seamscope.docks.late_plot import NamedPlot, Plot
from seamscope.docks.looks import COLORS
from seamscope.explain.feature_statistics import REPRESENTATIVE, BatchExperiment, LayerFeatures
from seamscope.seams.report import SeamReport

Values = npt.NDArray[np.float64]

PANELS = 32  # channels shown at once, as in the tutorial
_COLUMNS = 8
_LEAST_SPAN, _MOST_SPAN = 0.25, 4.0  # standard deviations from a panel's middle to its side
_INSIDE = 0.46  # of a panel, so that points of neighbours do not touch
_MOST_POINTS = 200  # tiles drawn in a panel
_BEFORE, _AFTER = COLORS[0], COLORS[2]
_LOG_TICKS = [
    (math.log10(v), f"{v:g}") for k in range(-5, 3) for v in (10.0**k, round(3 * 10.0**k, 6))
]


# -- features of tiles


class FeaturePanels(NamedPlot):
    """For each channel, every tile's mean and standard deviation against the reference.

    All panels have the same scale, in standard deviations of the reference, which is the cross in
    the middle: to the right the mean, upwards the standard deviation, on a logarithmic scale. Of
    many channels those are shown whose tiles deviate most.

    Attributes
    ----------
    channels
        Numbers of the channels (of groups, for layers that have groups) that are shown.
    away
        ``(tiles, groups, 2)`` deviations of mean and of the logarithm of the standard deviation.
    span
        Deviation at a panel's side.
    """

    def __init__(self) -> None:
        tip = (
            "One panel for each channel, one dot for each tile. Across: the tile's mean, upwards:\n"
            "its standard deviation (logarithm), both in standard deviations of the reference,\n"
            "which is the cross. Dots on the cross: tiles have the reference's statistics."
        )
        super().__init__(260, tip)
        self.channels: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        self.away: Values = np.zeros((0, 0, 2))
        self.span = 1.0

    def make(self, tip: str, log: bool) -> Plot:
        """A plot without axes."""
        plot = super().make(tip, log)
        for side in ("left", "bottom"):
            plot.hideAxis(side)
        return plot

    def show_layer(self, shown: LayerFeatures | None) -> None:
        """Show a layer's features; nothing for None."""
        self.names.setText("")
        if shown is None:
            self.channels, self.away = np.zeros(0, np.intp), np.zeros((0, 0, 2))
        else:
            self._take(shown)
        self.room.redraw(shown is not None)

    def _take(self, shown: LayerFeatures) -> None:
        self.away = deviations(shown)
        typical = np.sqrt((self.away[..., 0] ** 2).mean(0))
        chosen = np.argsort(-typical)[:PANELS]
        self.channels = np.sort(chosen)
        most = float(np.abs(self.away[:, self.channels]).max(initial=0))
        self.span = float(np.clip(most, _LEAST_SPAN, _MOST_SPAN))
        count = len(self.channels)
        of = "" if count == len(typical) else f" (of {len(typical)}, those that deviate most)"
        self.names.setText(
            f"{count} channels{of}. Across: mean, upwards: standard deviation. A panel reaches "
            f"{self.span:.2g} standard deviations to each side."
        )
        self.room.setFixedHeight(30 + 55 * max(self._rows, 1))

    @property
    def _rows(self) -> int:
        return math.ceil(len(self.channels) / _COLUMNS)

    def draw(self, plot: Plot) -> None:
        """Draw all panels as one cloud of points: a plot for each would take half a second."""
        self._draw_frames(plot)
        self._draw_points(plot)
        plot.setXRange(-0.5, _COLUMNS - 0.5, padding=0.01)
        plot.setYRange(-self._rows + 0.5, 0.5, padding=0.01)

    def _corners(self) -> Values:
        """Middle ``(x, y)`` of each panel."""
        number = np.arange(len(self.channels))
        return np.stack([number % _COLUMNS, -(number // _COLUMNS)], 1).astype(float)

    def _draw_frames(self, plot: Plot) -> None:
        corners = self._corners()
        square = np.array([(-1, -1), (1, -1), (1, -1), (1, 1), (1, 1), (-1, 1), (-1, 1), (-1, -1)])
        cross = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
        for shape, size, width in ((square, 0.48, 1), (cross, _INSIDE, 1)):
            points = (corners[:, None] + shape[None] * size).reshape(-1, 2)
            color = pg.mkColor(self.room.text)
            color.setAlpha(70)
            pen = pg.mkPen(color, width=width)
            plot.addItem(pg.PlotCurveItem(*points.T, connect="pairs", pen=pen))
        for channel, (x, y) in zip(self.channels, corners, strict=True):
            label = pg.TextItem(str(channel), color=self.room.text, anchor=(0, 0))
            label.setPos(x - 0.5, y + 0.5)
            plot.addItem(label, ignoreBounds=True)

    def _draw_points(self, plot: Plot) -> None:
        step = max(1, math.ceil(len(self.away) / _MOST_POINTS))
        inside = np.clip(self.away[::step, self.channels] / self.span, -1, 1) * _INSIDE
        points = (inside + self._corners()[None]).reshape(-1, 2)
        dots = pg.ScatterPlotItem(*points.T, size=3, pen=None, brush=COLORS[0], pxMode=True)
        plot.addItem(dots)


def deviations(shown: LayerFeatures) -> Values:
    """How far each tile's mean, and logarithm of standard deviation, is from the reference.

    Returns
    -------
    ndarray
        ``(tiles, groups, 2)``; means in standard deviations of the reference.
    """
    var = np.maximum(shown.reference_var, 1e-12)
    mean = (shown.mean - shown.reference_mean) / np.sqrt(var)
    spread = 0.5 * np.log(np.maximum(shown.var, 1e-12) / var)
    return np.stack([mean, spread], -1)


class PixelFeaturesPlot(NamedPlot):
    """One pixel's features in several tiles, before and after normalization.

    Attributes
    ----------
    before, after
        ``(tiles, channels)``, both in standard deviations.
    """

    def __init__(self) -> None:
        tip = (
            "Features of the pixel that was clicked, one colour for each tile. Above: before\n"
            "normalization, below: after it, each in standard deviations, channel by channel."
        )
        super().__init__(230, tip)
        self.before: Values = np.zeros((0, 0))
        self.after: Values = np.zeros((0, 0))

    def make(self, tip: str, log: bool) -> Plot:
        """A plot whose axis names its two rows."""
        plot = super().make(tip, log)
        plot.getAxis("left").setTicks([[(1, "before"), (0, "after")]])
        return plot

    def show(self, before: Values, after: Values) -> None:
        """Show what each tile gives; nothing for arrays without tiles."""
        self.before, self.after = before, after
        self.name([(f"tile {k + 1}", COLORS[k % len(COLORS)]) for k in range(len(before))], "●")
        self.room.redraw(bool(len(before)))

    @property
    def apart(self) -> tuple[float, float]:
        """Largest difference between tiles, before and after."""
        before, after = (
            float(np.ptp(v, axis=0).max(initial=0)) if len(v) else 0.0
            for v in (self.before, self.after)
        )
        return before, after

    def draw(self, plot: Plot) -> None:
        """Draw both rows on one scale."""
        both = np.concatenate([self.before, self.after])
        span = float(np.abs(both).max()) or 1.0
        for number in range(len(self.before)):
            for row, values in ((1.0, self.before), (0.0, self.after)):
                x = np.arange(values.shape[1])
                color = COLORS[number % len(COLORS)]
                y = row + values[number] / span * _INSIDE
                # not `plot`, whose items take ten times as long to make
                plot.addItem(pg.PlotCurveItem(x, y, pen=pg.mkPen(color, width=1)))
                plot.addItem(pg.ScatterPlotItem(x, y, size=4, pen=None, brush=color))
        for y in (0.0, 1.0):
            pen = pg.mkPen(self.room.text, width=1, style=Qt.PenStyle.DotLine)
            plot.addItem(pg.InfiniteLine(y, angle=0, pen=pen))
        plot.setYRange(-0.5, 1.5, padding=0.02)
        plot.name_below("channel", self.room.text)
        plot.setLabel("left", "standard deviations", color=self.room.text)


# -- batches


class BatchPlot(NamedPlot):
    """How much the statistics of random batches deviate, against their size."""

    def __init__(self) -> None:
        tip = (
            "Random batches of tiles: how far their common statistics are from those of all\n"
            "tiles. Below the dashed line a batch stands for the image."
        )
        super().__init__(170, tip, log=True)
        self._shown: BatchExperiment | None = None

    def show(self, shown: BatchExperiment | None) -> None:
        """Show an experiment; nothing for None."""
        self._shown = shown
        keys = [("median", COLORS[1]), ("95 of 100 are below", COLORS[0])]
        self.name(keys if shown is not None else [])
        self.room.redraw(shown is not None)

    def draw(self, plot: Plot) -> None:
        """Draw the median, and what 95 of 100 draws stay below."""
        shown = self._shown
        assert shown is not None
        places = np.arange(len(shown.sizes))
        for values, color in ((shown.typical, COLORS[1]), (shown.worst, COLORS[0])):
            plot.plot(places, np.maximum(values, 1e-6), pen=pg.mkPen(color, width=2))
        pen = pg.mkPen(self.room.text, width=1, style=Qt.PenStyle.DashLine)
        plot.addItem(pg.InfiniteLine(math.log10(REPRESENTATIVE), angle=0, pen=pen))
        plot.getAxis("bottom").setTicks([[(k, str(n)) for k, n in enumerate(shown.sizes)]])
        drawn = np.log10(np.maximum([shown.typical, shown.worst], 1e-6))
        low, high = min(drawn.min(), math.log10(REPRESENTATIVE)), drawn.max()
        plot.setYRange(low, high, padding=0.08)
        # above lies the padding: a number there would be cut off
        plot.getAxis("left").setTicks([[tick for tick in _LOG_TICKS if tick[0] <= high]])
        plot.name_below("tiles in a batch", self.room.text)
        plot.setLabel("left", "deviation (std)", color=self.room.text)


# -- before and after


class BeforeAfterPlot(NamedPlot):
    """Max difference of neighbouring tiles against halo, with each tile's statistics and fixed.

    Attributes
    ----------
    curves
        What is drawn: halos and distances, before and after; zeros at the lowest power of ten.
    """

    def __init__(self) -> None:
        tip = (
            "Max and mean difference of neighbouring tiles against the margin (halo), before and\n"
            "after. With fixed statistics a margin removes the rest. Dotted: rounding noise."
        )
        super().__init__(210, tip, log=True)
        self.curves: dict[str, tuple[Any, Any]] = {}
        self._shown: BeforeAfter | None = None

    def show(self, shown: BeforeAfter | None) -> None:
        """Show a comparison; nothing for None."""
        self._shown = shown
        self.curves = {}
        self.names.setText("")
        if shown is not None:
            self.curves = {**_curves(shown.before, "before"), **_curves(shown.after, "after")}
            self.name([("before", _BEFORE), ("after", _AFTER)])
            self.names.setText(self.names.text() + " &nbsp; full: max, dashed: mean")
        self.room.redraw(shown is not None)

    def draw(self, plot: Plot) -> None:
        """Draw four curves, and the tolerance."""
        assert self._shown is not None
        for name, (x, y) in self.curves.items():
            color = _BEFORE if name.startswith("before") else _AFTER
            largest = name.endswith("largest")
            style = Qt.PenStyle.SolidLine if largest else Qt.PenStyle.DashLine
            plot.plot(x, y, pen=pg.mkPen(color, width=2, style=style))
        tolerance = self._shown.before.tolerance
        if tolerance > 0:
            pen = pg.mkPen(self.room.text, width=1, style=Qt.PenStyle.DotLine)
            plot.addItem(pg.InfiniteLine(math.log10(tolerance), angle=0, pen=pen))
        plot.name_below("margin (pixels)", self.room.text)
        plot.setLabel("left", "difference", color=self.room.text)


def _curves(report: SeamReport, name: str) -> dict[str, tuple[Any, Any]]:
    """Max and mean difference against the halo, where these are known."""
    curve = report.curve
    lowest = max(report.tolerance * 1e-3, 1e-9)
    found: dict[str, tuple[Any, Any]] = {}
    for kind, values in (("largest", curve.max_dist), ("mean", curve.mean_dist)):
        finite = np.isfinite(values)
        found[f"{name} {kind}"] = curve.halo[finite], np.maximum(values[finite], lowest)
    return found
