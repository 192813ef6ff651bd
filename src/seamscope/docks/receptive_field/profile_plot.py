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

from seamscope.docks.late_plot import NamedPlot, Plot
from seamscope.docks.looks import COLORS
from seamscope.models.reach import PhaseFields
from seamscope.receptive_field.gradient_maps import GradientMap

_LOWEST = -8  # power of ten of the relative gradient
THEORY = "#ff5d8f"
_TIP = (
    "Gradient of the output pixel along each axis, all others summed, relative to its\n"
    "largest value. Upright lines: how far the network can see at all."
)


class ProfilePlot(NamedPlot):
    """Relative gradient against the distance from the output pixel, one curve for each axis.

    Attributes
    ----------
    curves
        For each axis its letter, distances in pixels and relative gradients.
    """

    def __init__(self) -> None:
        super().__init__(190, _TIP)
        self.curves: dict[str, tuple[Any, Any]] = {}
        self._shown: tuple[GradientMap, Sequence[PhaseFields] | None, str] | None = None

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
        self.curves = {}
        self.names.setText("")
        if shown is not None:
            self.curves = {x: _profile(shown, axis) for axis, x in enumerate(letters)}
            keys = [(letter, COLORS[i]) for i, letter in enumerate(letters)]
            keys += [("theoretical field", THEORY)] * (fields is not None)
            self.name(keys)
        self.room.redraw(shown is not None)

    def draw(self, plot: Plot) -> None:
        """Draw the curves, and how far the network can see."""
        assert self._shown is not None
        shown, fields, _ = self._shown
        for axis, (distance, relative) in enumerate(self.curves.values()):
            heights = np.log10(np.maximum(relative, 10.0**_LOWEST))
            plot.plot(distance, heights, pen=pg.mkPen(COLORS[axis], width=2))
        if fields is not None:
            for side in sorted({s for b, a in shown.sides(fields) for s in (-b - 0.5, a + 0.5)}):
                pen = pg.mkPen(THEORY, width=1, style=Qt.PenStyle.DashLine)
                plot.addItem(pg.InfiniteLine(side, angle=90, pen=pen), ignoreBounds=True)
        self._set_ranges(plot)
        plot.name_below("pixels from the output pixel", self.room.text)
        plot.setLabel("left", "relative gradient", color=self.room.text)

    def _set_ranges(self, plot: Plot) -> None:
        values = np.concatenate([relative for _, relative in self.curves.values()])
        least = float(values[values > 0].min(initial=1.0))
        low = max(_LOWEST, min(-1, math.floor(math.log10(least))))
        distances = np.concatenate([distance for distance, _ in self.curves.values()])
        plot.setXRange(float(distances.min()), float(distances.max()), padding=0.02)
        plot.setYRange(low, 0.2, padding=0)
        step = max(1, round(-low / 4))
        powers = range(0, low - 1, -step)
        plot.getAxis("left").setTicks([[(power, _power(power)) for power in powers]])


def _power(exponent: int) -> str:
    return f"{10.0**exponent:g}" if exponent > -4 else f"1e{exponent}"


def _profile(shown: GradientMap, axis: int) -> tuple[Any, Any]:
    """Distances in pixels, and relative gradients, along one axis."""
    profile = shown.profile(axis)
    return np.arange(profile.size) - shown.covered[axis][0], profile / (profile.max() or 1.0)


__all__ = ["ProfilePlot"]
