"""Room for a plot, which is made when it is first seen with something to show.

Knows when a plot is to be made, filled and emptied. Does not know what is drawn.

Making a plot takes ten milliseconds and more, filling it as many: too long for plots behind other
tabs. So a plot is made, and filled, each between two events of the window::

    redraw()  -- seen? -->  made (once)  -- event -->  filled
                 not yet: when it is shown
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyqtgraph as pg
from napari.utils.theme import get_theme
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QLabel, QWidget

from seamscope.docks.controls import stack
from seamscope.docks.looks import colored, plain

_NAMED = 42  # height of an axis with its name
_LINE = "#ff5d8f"
_STEPS = {
    Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1,
    Qt.Key.Key_PageDown: -10, Qt.Key.Key_PageUp: 10,
    Qt.Key.Key_Home: -1_000_000, Qt.Key.Key_End: 1_000_000,
}  # fmt: skip
_NUDGE = 6  # pixels by which pyqtgraph moves a name out of the plot, which cuts its descenders


class _Below(pg.AxisItem):
    """An axis whose name is seen in full."""

    def resizeEvent(self, event: Any = None) -> None:  # noqa: N802
        """Move the name back into the plot."""
        super().resizeEvent(event)
        if self.label is not None:
            self.label.moveBy(0, -_NUDGE)


class Plot(pg.PlotWidget):
    """A plot that does not move, and that leaves the wheel to the dock, which scrolls."""

    def __init__(self, tip: str, log: bool = False, **arguments: Any) -> None:
        axes = {"bottom": _Below("bottom"), **arguments.pop("axisItems", {})}
        super().__init__(axisItems=axes, **arguments)
        self.setMenuEnabled(False)
        self.setMouseEnabled(x=False, y=False)
        self.hideButtons()
        self.setLogMode(x=False, y=log)
        self.setToolTip(tip)
        for side in ("left", "bottom"):
            self.getAxis(side).enableAutoSIPrefix(False)  # ticks of our own are not scaled by it

    def name_below(self, text: str, color: str) -> None:
        """Say what lies along the bottom."""
        self.setLabel("bottom", text, color=color)
        self.getAxis("bottom").setHeight(_NAMED)

    def wheelEvent(self, event: Any) -> None:  # noqa: N802
        """Leave it to the dock."""
        event.ignore()


class KeyedPlot(Plot):
    """A plot whose line is moved by arrow keys, in steps of one, ten, or to either end."""

    def __init__(self, tip: str, step: Callable[[int], None], **arguments: Any) -> None:
        super().__init__(tip, **arguments)
        self._step = step

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        """Move the line."""
        if event.key() in _STEPS:
            self._step(_STEPS[event.key()])
            event.accept()
        else:
            super().keyPressEvent(event)


def slider(**arguments: Any) -> pg.InfiniteLine:
    """An upright line that is dragged."""
    line = pg.InfiniteLine(0, angle=90, movable=True, **arguments)
    line.setPen(pg.mkPen(_LINE, width=3))
    line.setHoverPen(pg.mkPen(_LINE, width=5))
    line.setZValue(10)
    return line


class LatePlot(QWidget):
    """Room for a plot; takes none as long as there is nothing to draw.

    Parameters
    ----------
    make
        Makes the plot; called once at most.
    draw
        Fills it; called with the plot, which is empty, and only while it is seen.
    height
        Of the plot, in pixels of the screen.

    Attributes
    ----------
    plot
        None until it is seen.
    text
        Colour of text.
    """

    def __init__(
        self, make: Callable[[], pg.PlotWidget], draw: Callable[[pg.PlotWidget], None], height: int
    ) -> None:
        super().__init__()
        self.plot: pg.PlotWidget | None = None
        self.text = "#ffffff"
        self._ground: str | None = None
        self._make, self._draw = make, draw
        self._column = stack(self)
        self._stale = False
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self._go_on)
        self.setFixedHeight(height)
        self.hide()

    @property
    def settled(self) -> bool:
        """Whether all that is seen is drawn."""
        return not self._soon.isActive()

    def redraw(self, something: bool = True) -> None:
        """Draw again, as soon as it is seen; hide it where there is nothing to draw."""
        self._stale = something
        self.setVisible(something)
        if not something and self.plot is not None:
            self.plot.clear()
        self._draw_soon()

    def set_colors(self, ground: str, text: str) -> None:
        """Follow napari's theme."""
        self._ground, self.text = ground, text
        if self.plot is not None:
            self._color(self.plot)
            self.redraw(not self.isHidden())

    def showEvent(self, event: Any) -> None:  # noqa: N802
        """Seen: perhaps for the first time, or changed meanwhile."""
        super().showEvent(event)
        self._draw_soon()

    def _draw_soon(self) -> None:
        if self._stale and self.isVisible():
            self._soon.start()

    def _go_on(self) -> None:
        if not self._stale or not self.isVisible():
            return
        if self.plot is None:
            self.plot = self._make()
            self._color(self.plot)
            self._column.addWidget(self.plot)
            self._soon.start()
        else:
            self._stale = False
            self.plot.clear()
            self._draw(self.plot)

    def _color(self, plot: pg.PlotWidget) -> None:
        if self._ground is not None:
            plot.setBackground(self._ground)
        for side in ("left", "bottom"):
            plot.getAxis(side).setPen(self.text)
            plot.getAxis(side).setTextPen(self.text)


class NamedPlot(QWidget):
    """A plot that is made when it is first seen, and the names of its colours below.

    Children define `draw`.
    """

    def __init__(self, height: int, tip: str, log: bool = False) -> None:
        super().__init__()
        self.room = LatePlot(lambda: self.make(tip, log), self.draw, height)
        self.names = QLabel()
        self.names.setWordWrap(True)
        stack(self, self.room, self.names)

    def make(self, tip: str, log: bool) -> Plot:
        """Make the plot."""
        return Plot(tip, log)

    def set_colors(self, ground: str, text: str) -> None:
        """Follow napari's theme."""
        self.room.set_colors(ground, text)

    def draw(self, plot: Plot) -> None:
        """Fill the empty plot."""
        raise NotImplementedError

    def name(self, keys: Sequence[tuple[str, str]], sign: str = "━") -> None:
        """Name colours."""
        shown = (f"{colored(sign, color)} {plain(name)}" for name, color in keys)
        self.names.setText(" &nbsp; ".join(shown))


def follow_theme(plots: Sequence[Any], viewer: Any) -> None:
    """Give plots, by their `set_colors`, the colours of a viewer's theme."""
    theme = get_theme(viewer.theme)
    for plot in plots:
        plot.set_colors(theme.background.as_hex(), theme.text.as_hex())


__all__ = ["KeyedPlot", "LatePlot", "NamedPlot", "Plot", "follow_theme", "slider"]
