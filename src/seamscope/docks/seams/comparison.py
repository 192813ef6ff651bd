"""Two tiles side by side, and their difference; and what all tiles say of one pixel.

Knows how opinions are drawn. Does not know where they come from, or layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyqtgraph as pg
from napari.utils.colormaps import ensure_colormap
from qtpy.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from seamscope.docks.color_bar import ColorBar
from seamscope.docks.controls import stack
from seamscope.docks.late_plot import LatePlot, Plot
from seamscope.docks.looks import COLORS, colored, plain, text_label
from seamscope.seams.opinions import Opinion, SideBySide
from seamscope.text import figure_text

_COLUMNS = 6  # that fit into a dock
_NUMBER = 'align="right" style="padding-left: 8px"'
_LONGEST = 10  # letters of a channel's name below its bars
_SEAM = "#ff5d8f"
_COLORS = ("viridis", "viridis", "inferno")
_LOW, _HIGH = 90, 260  # heights of a picture in screen pixels
_SCROLL_BAR = 16  # screen pixels by which a scroll bar changes a height, at most
_LEAST = 48  # pixels of the result along a side of what is looked at first
_BARS = (
    "What each tile predicts for the pixel that was clicked, channel by channel. The tile with\n"
    "an outline is the one whose value is kept."
)
_GROUND = "#16181d"  # of the pictures, on either theme


class Comparison(QWidget):
    """Both tiles of a seam beside each other, and below them ``abs(difference)``, at one place.

    All three are moved and scaled together::

        tile A      tile B
        difference  what the colours mean

    Attributes
    ----------
    pictures, seams
        Lower tile, upper tile, difference; and the seam in each of them.
    scales
        Bars of the predictions and of the difference.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pictures = [pg.ImageItem(axisOrder="row-major") for _ in range(3)]
        self.seams = [pg.PlotCurveItem(pen=pg.mkPen(_SEAM, width=1.5)) for _ in range(3)]
        self.scales = [ColorBar(), ColorBar()]
        self._above, self._below = pg.GraphicsLayoutWidget(), pg.GraphicsLayoutWidget()
        self._boxes = [
            self._add_box(canvas, k)
            for k, canvas in enumerate((self._above, self._above, self._below))
        ]
        self.caption = text_label()
        self._lay_out()

    def _add_box(self, canvas: Any, number: int) -> Any:
        canvas.setBackground(_GROUND)
        canvas.ci.layout.setContentsMargins(0, 0, 0, 0)
        canvas.setToolTip("The line is the seam. Drag to move, scroll to zoom: all three follow.")
        canvas.setAccessibleName("Predictions of both tiles, and their difference")
        box = canvas.addViewBox(lockAspect=True, invertY=True, enableMenu=False)
        picture, seam = self.pictures[number], self.seams[number]
        picture.setLookupTable(_lookup(_COLORS[number]))
        box.addItem(picture)
        box.addItem(seam)
        return box

    def _lay_out(self) -> None:
        for box in self._boxes:  # pyqtgraph's own links go on for ever with a locked aspect
            box.sigRangeChangedManually.connect(partial(self._follow, box))
        beside = QVBoxLayout()
        beside.addWidget(self.caption)
        for scale in self.scales:
            beside.addWidget(scale)
        beside.addStretch(1)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        grid.addWidget(self._above, 0, 0, 1, 2)
        grid.addWidget(self._below, 1, 0)
        grid.addLayout(beside, 1, 1)
        for column in (0, 1):
            grid.setColumnStretch(column, 1)
        self._show(False)

    def resizeEvent(self, event: Any) -> None:  # noqa: N802
        """Give the pictures the width of the dock."""
        super().resizeEvent(event)
        self._set_height()

    def _set_height(self) -> None:
        """As high as wide, at half the width; the same where only a scroll bar comes or goes.

        A scroll bar that comes because of the height, and goes with the width it takes, would
        change both for ever.
        """
        height = int(min(max(self.width() / 2, _LOW), _HIGH))
        if abs(height - self._above.height()) <= _SCROLL_BAR:
            return
        for canvas in (self._above, self._below):
            canvas.setFixedHeight(height)

    def _show(self, shown: bool) -> None:
        for part in (self._above, self._below, *self.scales):
            part.setVisible(shown)

    def show_views(
        self,
        views: SideBySide,
        channel: int,
        names: Sequence[str],
        title: str,
        kind: str = "probabilities",
    ) -> None:
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
        kind
            What the values are.
        """
        lower, upper, apart = (v[channel] for v in (views.lower, views.upper, views.apart))
        low, high = _range(lower, upper)
        most = float(np.nan_to_num(apart, posinf=0).max(initial=0))
        levels = [(low, high), (low, high), (0.0, most or 1.0)]
        for picture, values, own in zip(self.pictures, (lower, upper, apart), levels, strict=True):
            picture.setImage(values, levels=own)
        self._draw_seam(views, *apart.shape)
        unit = kind.removesuffix("ies") + "y" if kind.endswith("ies") else kind
        self.scales[0].show_scale(ensure_colormap(_COLORS[0]), levels[0], unit)
        self.scales[1].show_scale(ensure_colormap(_COLORS[2]), levels[2], "difference")
        first, second = (plain(name) for name in names)
        self.caption.setText(
            f"<b>{plain(title)}</b>. Above: tile {first}, tile {second}. Left: their difference, "
            f"up to <b>{figure_text(most)}</b>."
        )
        self._show(True)
        self._set_height()
        self._look_at(apart)

    def _look_at(self, apart: Any) -> None:
        """Show the square around the max difference, twice as wide as the overlap."""
        known = np.isfinite(apart)
        if not known.any():
            known = np.ones_like(known)
        worst = np.unravel_index(int(np.nan_to_num(apart, posinf=0).argmax()), apart.shape)
        spans = [np.flatnonzero(known.any(1 - axis)) for axis in (0, 1)]
        side = max(_LEAST, 2 * min(int(np.ptp(span)) + 1 for span in spans))
        sides = []
        for at, size in zip(worst, apart.shape, strict=True):
            width = min(side, size)
            start = min(max(int(at) - width // 2, 0), size - width)
            sides.append((start, start + width))
        for box in self._boxes:
            box.setRange(xRange=sides[1], yRange=sides[0], padding=0.01)

    def _follow(self, moved: Any, _: Any = None) -> None:
        """Show everywhere what a box shows that was moved by hand."""
        for box in self._boxes:
            if box is not moved:
                box.setRange(moved.viewRect(), padding=0)

    def _draw_seam(self, views: SideBySide, height: int, width: int) -> None:
        axis, place = views.seam
        line = ([place] * 2, [0, height]) if axis == 1 else ([0, width], [place] * 2)
        for seam in self.seams:
            seam.setData(*line)

    def clear(self, why: str = "") -> None:
        """Show nothing, and say why."""
        for item in self.pictures:
            item.clear()
        for seam in self.seams:
            seam.setData([], [])
        self._show(False)
        self.caption.setText(plain(why))


def _lookup(name: str) -> Any:
    return (ensure_colormap(name).map(np.linspace(0, 1, 256)) * 255).round().astype(np.uint8)


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
        self.room = LatePlot(lambda: Plot(_BARS), self._draw, 190)
        self.table = text_label()
        stack(self, self.room, self.table)
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
        plot.setLabel("left", "predicted value", color=self.room.text)
        plot.enableAutoRange()


def _opinion_table(where: str, found: Sequence[Opinion], channels: Sequence[str]) -> str:
    if not found:
        return f"No tile holds pixel {where}."
    values = np.stack([opinion.values for opinion in found])
    apart = float(np.nan_to_num(np.ptp(values, axis=0)).max())
    tiles = "One tile sees" if len(found) == 1 else f"{len(found)} tiles see"
    differ = "" if len(found) == 1 else f" They differ by up to <b>{figure_text(apart)}</b>."
    kept = "The first one is kept. " if found[0].kept and len(found) > 1 else ""
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
