"""What all docks have in common: a page that scrolls, an error, a job, and coming and going.

Knows napari's docking, themes and the viewer's events. Does not know what a dock shows.

napari never says that a dock was closed: it takes the widget out of its window, so that the widget
has no parent, and may put the same widget back later. A dock follows the viewer only in between::

    Dock(viewer) -> build() -> follow()         made
    parent is None          -> leave()          closed: stop jobs, hide own layers, cut wires
    parent again            -> follow()         opened again, as it was left

The main window itself is no place to be seen in: docks that are closed are kept there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtWidgets import QLayout, QMainWindow, QScrollArea, QVBoxLayout, QWidget

from seamscope.docks.controls import leave_wheel_to_page, stack
from seamscope.docks.job_row import JobRow
from seamscope.docks.late_plot import follow_theme
from seamscope.docks.layers import Wires, unwrapped
from seamscope.docks.looks import Kind, boxed, text_label
from seamscope.docks.opening import register
from seamscope.docks.sentences import sentence
from seamscope.docks.session import Session
from seamscope.docks.spoken import name_controls


class _Scroll(QScrollArea):
    """A page that scrolls up and down, and is never narrower than what is on it."""

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Answer Qt."""
        inside = self.widget().minimumSizeHint().width() if self.widget() else 0
        beside = self.verticalScrollBar().sizeHint().width() + 2 * self.frameWidth()
        return QSize(inside + beside, super().minimumSizeHint().height())

    def eventFilter(self, target: Any, event: Any) -> bool:  # noqa: N802
        """Let the dock hear where a row needs more room."""
        if target is self.widget() and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(target, event))


class Dock(QWidget):
    """Base of the docks; a child defines `build`, `follow` and `leave`.

    Parameters
    ----------
    napari_viewer
        The viewer that the dock follows.

    Attributes
    ----------
    viewer, session
        What it follows, and what it shares with the other docks of the viewer.
    awake
        Whether it is in a window, and follows the viewer.
    error, job
        Rows for `fail` and for long work. `build` places them (see `place_with_status`).
    least_width
        Least width in screen pixels.
    """

    least_width = 350
    front = True  # where several docks share one place: whether this one is seen there
    _made = False  # Qt sends events before the dock is complete

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = unwrapped(napari_viewer)
        self.session = Session.of(self.viewer)
        self.awake = False
        self.error = text_label()
        self.error.hide()
        self.job = self.make_job_row()
        self._problem = ""
        self._wires = Wires()
        self._whole = QVBoxLayout(self)
        self._whole.setContentsMargins(0, 0, 0, 0)
        self.build()
        self.job.failed.connect(self.tell)
        self.destroyed.connect(self._wires.cut)
        self._made = True
        leave_wheel_to_page(self)
        name_controls(self)
        register(self.viewer, self)
        self.wake()

    # -- for children

    def build(self) -> None:
        """Make the controls, place them (see `place`) and connect them."""

    def follow(self) -> None:
        """The dock is in a window: listen to the viewer (see `listen`) and show its state."""

    def leave(self) -> None:
        """The dock is in no window: stop jobs, and hide what it drew."""

    def draw(self) -> None:
        """Draw over the image what belongs to the dock; nothing where it is not in front."""

    def plots(self) -> Sequence[Any]:
        """Plots that take the colours of napari's theme."""
        return ()

    def make_job_row(self) -> JobRow:
        """Make the row that shows long work."""
        return JobRow()

    def place(self, parts: Iterable[QWidget | QLayout], below: QWidget | None = None) -> None:
        """Put parts below each other into a page that scrolls.

        Parameters
        ----------
        parts
            From top to bottom.
        below
            Stays visible below the page.
        """
        inside = QWidget()
        column = QVBoxLayout(inside)
        for part in parts:
            column.addWidget(part) if isinstance(part, QWidget) else column.addLayout(part)
        column.addStretch(1)
        self.scroll = _Scroll()
        self.scroll.setWidgetResizable(True)
        self.scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.scroll.setFrameShape(QScrollArea.Shape.NoFrame)
        self.scroll.setWidget(inside)
        self._whole.addWidget(self.scroll, 1)
        if below is not None:
            self._whole.addWidget(below)

    def place_with_status(self, parts: Iterable[QWidget | QLayout]) -> None:
        """Put parts into a page as `place` does, and below it what is seen wherever it scrolls.

        These are errors and long work.
        """
        status = QWidget()
        stack(status, self.error, self.job).setContentsMargins(9, 0, 9, 4)
        self.place(parts, below=status)

    def listen(self, emitters: Iterable[Any], callback: Callable[..., None]) -> None:
        """Call `callback` at these events of the viewer, until the dock is closed."""
        self._wires.connect(emitters, callback)

    # -- errors

    @property
    def problem(self) -> str:
        """The sentence in the error row; empty without an error."""
        return self._problem

    def tell(self, problem: str, kind: Kind = "error") -> None:
        """Show a sentence in the error row; an empty one hides it.

        What the user has stopped is no error but a ``"warning"``, and looks like one.
        """
        self._problem = problem
        self.error.setText(boxed(problem, kind) if problem else "")
        self.error.setVisible(bool(problem))

    def fail(self, error: Exception, what: str) -> None:
        """Show what an error means; `what` failed."""
        self.tell(sentence(error, what))

    # -- long work

    def start(
        self,
        name: str,
        function: Callable[..., Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None] | None = None,
        kept: bool = False,
    ) -> None:
        """Begin work that uses the network, as `JobRow.start` does."""
        self.tell("")
        self.job.start(name, function, done, self.session.turn, failed, kept)

    # -- coming and going

    def bring(self, front: bool) -> None:
        """Show what the dock drew over the image, or hide it: another dock is in front."""
        if front != self.front:
            self.front = front
            self.draw()

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """As wide as the widest row, which grows with the font: nothing is cut off at the side."""
        least = super().minimumSizeHint()
        return QSize(max(self.least_width, least.width()), least.height())

    def wake(self) -> None:
        """Follow the viewer, unless it is followed already."""
        if not self.awake:
            self.awake = True
            self.listen([self.viewer.events.theme], self._theme_changed)
            self._theme_changed()
            self.follow()

    def sleep(self) -> None:
        """Follow the viewer no longer."""
        if self.awake:
            self.awake = False
            self.leave()
            self._wires.cut()

    def event(self, event: Any) -> bool:
        """Notice being docked and being closed."""
        if event.type() == QEvent.Type.ParentChange and self._made:
            closed = self.parent() is None or isinstance(self.parent(), QMainWindow)
            self.sleep() if closed else self.wake()
        return bool(super().event(event))

    def _theme_changed(self, _: Any = None) -> None:
        follow_theme(self.plots(), self.viewer)


__all__ = ["Dock"]
