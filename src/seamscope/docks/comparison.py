"""Two tiles side by side, and their difference; and what all tiles say of one pixel.

Knows how opinions are drawn. Does not know where they come from, or layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtWidgets import QVBoxLayout, QWidget

from seamscope.docks.halo_plot import COLORS
from seamscope.docks.looks import colored, figure, plain, text_label
from seamscope.opinions import Opinion, SideBySide

_SEAM = "#ff5d8f"
_GROUND = "#16181d"  # of the pictures, on either theme


class Comparison(QWidget):
    """Lower tile, upper tile and ``abs(difference)`` of one channel, at the same place."""

    def __init__(self) -> None:
        super().__init__()
        self.canvas = pg.GraphicsLayoutWidget()
        self.canvas.setBackground(_GROUND)
        self.canvas.setMinimumHeight(150)
        self.canvas.setToolTip("The line is the seam. Scroll to look closer, drag to move.")
        self.canvas.ci.layout.setSpacing(2)
        self.canvas.ci.layout.setContentsMargins(2, 2, 2, 2)
        self.pictures = [pg.ImageItem(axisOrder="row-major") for _ in range(3)]
        self.seams = [pg.InfiniteLine(pen=pg.mkPen(_SEAM, width=1)) for _ in range(3)]
        self._boxes: list[Any] = []
        for place in range(3):
            self._boxes.append(self._add_box(place))
        self.pictures[0].setLookupTable(pg.colormap.get("viridis").getLookupTable())
        self.pictures[1].setLookupTable(pg.colormap.get("viridis").getLookupTable())
        self.pictures[2].setLookupTable(pg.colormap.get("inferno").getLookupTable())
        self.caption = text_label()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.canvas)
        column.addWidget(self.caption)

    def _add_box(self, place: int) -> Any:
        box = self.canvas.addViewBox(row=0, col=place, lockAspect=True, invertY=True)
        box.setMenuEnabled(False)
        box.addItem(self.pictures[place])
        box.addItem(self.seams[place])
        if place:
            box.setXLink(self._boxes[0])
            box.setYLink(self._boxes[0])
        return box

    def show(self, views: SideBySide, channel: int, names: Sequence[str], title: str) -> None:
        """Show one channel.

        Parameters
        ----------
        views
            The two tiles' predictions.
        channel
            Which.
        names
            Of the two tiles.
        title
            Of the channel.
        """
        lower, upper, apart = (v[channel] for v in (views.lower, views.upper, views.apart))
        low, high = _range(lower, upper)
        most = float(np.nan_to_num(apart, posinf=0).max(initial=0))
        for item, values, levels in zip(
            self.pictures,
            (lower, upper, apart),
            ((low, high), (low, high), (0, most or 1.0)),
            strict=True,
        ):
            item.setImage(values, levels=levels)
        axis, place = views.seam
        for seam in self.seams:
            seam.setAngle(90 if axis == 1 else 0)
            seam.setValue(place)
        height, width = apart.shape
        self._boxes[0].setRange(xRange=(0, width), yRange=(0, height), padding=0.01)
        first, second = (plain(name) for name in names)
        self.caption.setText(
            f"<b>Left</b> tile {first}, <b>middle</b> tile {second}, <b>right</b> their "
            f"difference: {plain(title)}, {figure(low)} to {figure(high)}; difference up to "
            f"<b>{figure(most)}</b>."
        )

    def clear(self, why: str = "") -> None:
        """Show nothing, and say why."""
        for item in self.pictures:
            item.clear()
        self.caption.setText(plain(why))


def _range(*views: Any) -> tuple[float, float]:
    known = np.concatenate([v[np.isfinite(v)] for v in views])
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    if low > -1e-3 and high < 1.001:  # probabilities: the same colours everywhere
        return 0.0, 1.0
    return low, high if high > low else low + 1


class PixelOpinions(QWidget):
    """What each tile says of one pixel, as bars and as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.plot = pg.PlotWidget()
        self.plot.setMinimumHeight(150)
        self.plot.setMenuEnabled(False)
        self.plot.setMouseEnabled(x=False, y=False)
        self.plot.hideButtons()
        self.table = text_label()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.plot)
        column.addWidget(self.table)
        self._bars: list[Any] = []

    def set_colors(self, ground: str, text: str) -> None:
        """Follow napari's theme."""
        self.plot.setBackground(ground)
        for side in ("left", "bottom"):
            self.plot.getAxis(side).setPen(text)
            self.plot.getAxis(side).setTextPen(text)

    def show(self, where: str, found: Sequence[Opinion], channels: Sequence[str]) -> None:
        """Show what tiles say, the one that keeps the pixel first."""
        self.plot.clear()
        self._bars = []
        width = 0.8 / max(len(found), 1)
        for i, opinion in enumerate(found):
            x = np.arange(len(opinion.values)) - 0.4 + (i + 0.5) * width
            pen = pg.mkPen("w" if opinion.kept else None, width=1.5)
            bars = pg.BarGraphItem(
                x=x, height=np.nan_to_num(opinion.values), width=width * 0.9, pen=pen,
                brush=COLORS[i % len(COLORS)],
            )  # fmt: skip
            self.plot.addItem(bars)
            self._bars.append(bars)
        self.plot.getAxis("bottom").setTicks([[(i, name) for i, name in enumerate(channels)]])
        self.plot.enableAutoRange()
        self.table.setText(_opinion_table(where, found, channels))

    def clear(self, why: str = "") -> None:
        """Show nothing, and say why."""
        self.plot.clear()
        self.plot.getAxis("bottom").setTicks([[]])
        self._bars = []
        self.table.setText(plain(why))


def _opinion_table(where: str, found: Sequence[Opinion], channels: Sequence[str]) -> str:
    if not found:
        return f"No tile was asked for pixel {where}."
    values = np.stack([opinion.values for opinion in found])
    apart = float(np.nan_to_num(np.ptp(values, axis=0)).max())
    number = 'align="right" style="padding-left: 10px"'
    head = "".join(f"<th {number}>{plain(name)}</th>" for name in channels)
    rows = "".join(_opinion_row(i, opinion, number) for i, opinion in enumerate(found))
    tiles = "One tile sees" if len(found) == 1 else f"{len(found)} tiles see"
    differ = "" if len(found) == 1 else f" They differ by up to <b>{figure(apart)}</b>."
    return (
        f"{tiles} pixel {where}.{differ}"
        f'<table style="margin-top: 4px"><tr><th align="left">Tile</th><th {number}>from border'
        f"</th>{head}</tr>{rows}</table>"
    )


def _opinion_row(place: int, opinion: Opinion, number: str) -> str:
    square = colored("&#9632;", COLORS[place % len(COLORS)])
    name = f"{square} {', '.join(map(str, opinion.tile))}" + " (kept)" * opinion.kept
    distance = "–" if opinion.distance is None else f"{opinion.distance} px"
    cells = "".join(f"<td {number}>{value:.4g}</td>" for value in opinion.values)
    return f"<tr><td>{name}</td><td {number}>{distance}</td>{cells}</tr>"
