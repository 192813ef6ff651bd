"""How the gradient falls off along each axis, on a plot with a logarithmic scale.

Knows curves, marks and how they are drawn. Does not know layers or where maps come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from seamscope.docks.looks import COLORS, colored, plain
from seamscope.models.reach import PhaseFields
from seamscope.receptive_field.gradient_maps import GradientMap

_LOWEST = -8  # power of ten of the relative gradient
THEORY = "#ff5d8f"


class ProfilePlot(QWidget):
    """Relative gradient against the distance from the output pixel, one curve for each axis.

    Attributes
    ----------
    curves
        For each axis its letter, distances in pixels and relative gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.curves: dict[str, tuple[Any, Any]] = {}
        self._shown: tuple[GradientMap, Sequence[PhaseFields] | None, str] | None = None
        self._text = "#ffffff"
        self.plot = _Plot()
        self.plot.setFixedHeight(190)
        self.plot.setMenuEnabled(False)
        self.plot.setMouseEnabled(x=False, y=False)
        self.plot.hideButtons()
        self.plot.getAxis("bottom").setHeight(42)
        self.plot.setToolTip(
            "Gradient of the output pixel along each axis, all others summed, relative to its\n"
            "largest value. Upright lines: how far the network can see at all."
        )
        self.names = QLabel()
        self.names.setWordWrap(True)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.plot)
        column.addWidget(self.names)

    def show_map(
        self, shown: GradientMap | None, fields: Sequence[PhaseFields] | None, letters: str
    ) -> None:
        """Draw a map's profiles; nothing for None.

        Parameters
        ----------
        shown
            The map.
        fields
            Theoretical receptive field by phase; None where everything is seen.
        letters
            Of the spatial axes.
        """
        self._shown = None if shown is None else (shown, fields, letters)
        self._draw()

    def set_colors(self, ground: str, text: str) -> None:
        """Follow napari's theme."""
        self._text = text
        self.plot.setBackground(ground)
        for side in ("left", "bottom"):
            self.plot.getAxis(side).setPen(text)
            self.plot.getAxis(side).setTextPen(text)
        self._draw()

    def _draw(self) -> None:
        self.plot.clear()
        self.curves = {}
        if self._shown is None:
            self.names.setText("")
            return
        shown, fields, letters = self._shown
        for axis, letter in enumerate(letters):
            self._add_curve(shown, axis, letter)
        if fields is not None:
            for side in sorted({s for b, a in shown.sides(fields) for s in (-b - 0.5, a + 0.5)}):
                pen = pg.mkPen(THEORY, width=1, style=Qt.PenStyle.DashLine)
                self.plot.addItem(pg.InfiniteLine(side, angle=90, pen=pen), ignoreBounds=True)
        self._set_ranges()
        self.plot.setLabel("bottom", "pixels from the output pixel", color=self._text)
        keys = [(letter, COLORS[i]) for i, letter in enumerate(letters)]
        keys += [("theoretical field", THEORY)] * (fields is not None)
        self.names.setText(" &nbsp; ".join(f"{colored('━', c)} {plain(n)}" for n, c in keys))

    def _add_curve(self, shown: GradientMap, axis: int, letter: str) -> None:
        profile = shown.profile(axis)
        relative = profile / (profile.max() or 1.0)
        distance = np.arange(profile.size) - shown.covered[axis][0]
        self.curves[letter] = distance, relative
        heights = np.log10(np.maximum(relative, 10.0**_LOWEST))
        self.plot.plot(distance, heights, pen=pg.mkPen(COLORS[axis], width=2))

    def _set_ranges(self) -> None:
        values = np.concatenate([relative for _, relative in self.curves.values()])
        least = float(values[values > 0].min(initial=1.0))
        low = max(_LOWEST, min(-1, math.floor(math.log10(least))))
        distances = np.concatenate([distance for distance, _ in self.curves.values()])
        self.plot.setXRange(float(distances.min()), float(distances.max()), padding=0.02)
        self.plot.setYRange(low, 0.2, padding=0)
        step = max(1, round(-low / 4))
        powers = range(0, low - 1, -step)
        self.plot.getAxis("left").setTicks([[(power, _power(power)) for power in powers]])


def _power(exponent: int) -> str:
    return f"{10.0**exponent:g}" if exponent > -4 else f"1e{exponent}"


class _Plot(pg.PlotWidget):
    """A plot that leaves the wheel to the dock, which scrolls."""

    def wheelEvent(self, event: Any) -> None:  # noqa: N802
        """Leave it to the dock."""
        event.ignore()


__all__ = ["ProfilePlot"]
