"""Two tiles side by side, and their difference; and what all tiles say of one pixel.

Knows how opinions are drawn. Does not know where they come from, or layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtWidgets import QVBoxLayout, QWidget

from seamscope.docks.late_plot import LatePlot, Plot
from seamscope.docks.looks import COLORS, colored, plain, text_label
from seamscope.seams.opinions import Opinion, SideBySide
from seamscope.text import figure_text

_COLUMNS = 6  # that fit into a dock
_NUMBER = 'align="right" style="padding-left: 8px"'
_LONGEST = 10  # letters of a channel's name below its bars
_SEAM = "#ff5d8f"
_GAP = 0.06  # between pictures, of their width
_GROUND = "#16181d"  # of the pictures, on either theme


class Comparison(QWidget):
    """Lower tile, upper tile and ``abs(difference)`` of one channel, at the same place."""

    def __init__(self) -> None:
        super().__init__()
        self.canvas = pg.GraphicsLayoutWidget()
        self.canvas.setBackground(_GROUND)
        self.canvas.setFixedHeight(136)
        self.canvas.setToolTip("The lines are the seam. Drag to move, scroll to zoom.")
        self.canvas.ci.layout.setContentsMargins(0, 0, 0, 0)
        self._box = self.canvas.addViewBox(lockAspect=True, invertY=True, enableMenu=False)
        self.pictures = [pg.ImageItem(axisOrder="row-major") for _ in range(3)]
        self.seams = [pg.PlotCurveItem(pen=pg.mkPen(_SEAM, width=1)) for _ in range(3)]
        for item in (*self.pictures, *self.seams):
            self._box.addItem(item)
        for picture, colors in zip(self.pictures, ("viridis", "viridis", "inferno"), strict=True):
            picture.setLookupTable(pg.colormap.get(colors).getLookupTable())
        self.caption = text_label()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.canvas)
        column.addWidget(self.caption)

    def show_views(self, views: SideBySide, channel: int, names: Sequence[str], title: str) -> None:
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
        same = (low, high)
        self.pictures[0].setImage(lower, levels=same)
        self.pictures[1].setImage(upper, levels=same)
        self.pictures[2].setImage(apart, levels=(0, most or 1.0))
        self._lay_side_by_side(views, *apart.shape)
        first, second = (plain(name) for name in names)
        self.caption.setText(
            f"<b>Left</b> tile {first}, <b>middle</b> tile {second}, <b>right</b> their "
            f"difference: {plain(title)}, {figure_text(low)} to {figure_text(high)}; difference up "
            f"to <b>{figure_text(most)}</b>."
        )

    def _lay_side_by_side(self, views: SideBySide, height: int, width: int) -> None:
        axis, place = views.seam
        apart = width * (1 + _GAP)
        for number, (picture, seam) in enumerate(zip(self.pictures, self.seams, strict=True)):
            left = number * apart
            picture.setPos(left, 0)
            if axis == 1:
                seam.setData([left + place] * 2, [0, height])
            else:
                seam.setData([left, left + width], [place] * 2)
        self._box.setRange(xRange=(0, 3 * apart - width * _GAP), yRange=(0, height), padding=0.01)

    def clear(self, why: str = "") -> None:
        """Show nothing, and say why."""
        for item in self.pictures:
            item.clear()
        for seam in self.seams:
            seam.setData([], [])
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
        self.room = LatePlot(lambda: Plot(""), self._draw, 190)
        self.table = text_label()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.room)
        column.addWidget(self.table)
        self._bars: list[Any] = []
        self._found: Sequence[Opinion] = ()
        self._channels: Sequence[str] = ()

    def set_colors(self, ground: str, text: str) -> None:
        """Follow napari's theme."""
        self.room.set_colors(ground, text)

    def show_opinions(self, where: str, found: Sequence[Opinion], channels: Sequence[str]) -> None:
        """Show what tiles say, the one that keeps the pixel first."""
        self._found, self._channels = found, channels
        self._bars = []
        self.room.redraw(bool(found))
        self.table.setText(_opinion_table(where, found, channels))

    def clear(self, why: str = "") -> None:
        """Show nothing, and say why."""
        self.show_opinions("", (), ())
        self.table.setText(plain(why))

    def _draw(self, plot: Plot) -> None:
        self._bars = []
        width = 0.8 / len(self._found)
        for i, opinion in enumerate(self._found):
            x = np.arange(len(opinion.values)) - 0.4 + (i + 0.5) * width
            pen = pg.mkPen(self.room.text if opinion.kept else None, width=1.5)
            bars = pg.BarGraphItem(
                x=x, height=np.nan_to_num(opinion.values), width=width * 0.9, pen=pen,
                brush=COLORS[i % len(COLORS)],
            )  # fmt: skip
            plot.addItem(bars)
            self._bars.append(bars)
        names = [(i, _shortened(name)) for i, name in enumerate(self._channels)]
        plot.getAxis("bottom").setTicks([names])
        plot.enableAutoRange()


def _opinion_table(where: str, found: Sequence[Opinion], channels: Sequence[str]) -> str:
    if not found:
        return f"No tile holds pixel {where}."
    values = np.stack([opinion.values for opinion in found])
    apart = float(np.nan_to_num(np.ptp(values, axis=0)).max())
    tiles = "One tile sees" if len(found) == 1 else f"{len(found)} tiles see"
    differ = "" if len(found) == 1 else f" They differ by up to <b>{figure_text(apart)}</b>."
    kept = "The first one is kept. " if found[0].kept else ""
    return f"{tiles} pixel {where}.{differ} {kept}{_grid(found, channels)}"


def _grid(found: Sequence[Opinion], channels: Sequence[str]) -> str:
    """Tiles, their distance from the border, and each channel; few columns and many rows."""
    rows = [["Tile", "From border", *map(plain, channels)]]
    for i, opinion in enumerate(found):
        name = (
            f"{colored('&#9632;', COLORS[i % len(COLORS)])}&nbsp;{','.join(map(str, opinion.tile))}"
        )
        distance = "–" if opinion.distance is None else f"{opinion.distance}&nbsp;px"
        rows.append([name, distance, *map(_value, opinion.values)])
    if len(rows) <= max(len(rows[0]), _COLUMNS):
        rows = [list(row) for row in zip(*rows, strict=True)]
    cells = "".join(f"<tr>{''.join(map(_cell, range(len(row)), row))}</tr>" for row in rows)
    return f'<table style="margin-top: 4px">{cells}</table>'


def _value(value: float) -> str:
    """Short, so that four tiles fit beside each other."""
    return f"{value:.3f}" if abs(value) < 10 else figure_text(value)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _cell(column: int, text: str) -> str:
    return f"<td>{text}</td>" if column == 0 else f"<td {_NUMBER}>{text}</td>"
