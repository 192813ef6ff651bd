"""Opening docks: shown at once, filled when their modules are imported, one of each in a window.

Knows which module holds which dock, threads that import, and napari's docking. Does not know what a
dock shows, and imports nothing heavy itself: torch takes seconds.

A dock lives in a `Slot`. napari's docks are slots (`Place`), and so are the pages of the dock
*Seamscope*. Each viewer has one dock of a kind: a slot that wants it takes it from the slot that
has it. When napari closes a place, its dock stays hidden in the window, and comes back as it was.
Qt styles a widget and all in it again each time that it is put elsewhere, which takes longest of
all here. So a dock is put into a place when that is docked, and taken out before that is closed::

    Place "Seams"  ---- show "seams" ---->  imported?  -- thread -->  made once, or taken over
         |  closed                                                         |
         +------------------> hidden in the window, asleep  <--------------+
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary, WeakValueDictionary

from qtpy.QtCore import QEvent, QTimer, Signal
from qtpy.QtWidgets import (
    QDockWidget,
    QLabel,
    QMainWindow,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from seamscope.docks.window import come_forward, dock_around, main_window

_LOOK_MS = 25


class Kind(NamedTuple):
    """Where the class of a dock is found, and its title."""

    module: str
    name: str
    title: str


KINDS = {
    "seamscope": Kind("seamscope.docks.steps.dock", "StepsDock", "Seamscope"),
    "prediction": Kind("seamscope.docks.prediction.dock", "PredictionDock", "Tiled prediction"),
    "seams": Kind("seamscope.docks.seams.dock", "SeamsDock", "Seams"),
    "fix": Kind("seamscope.docks.fixing.dock", "FixDock", "Fix"),
    "labels": Kind("seamscope.docks.labels.dock", "LabelsDock", "Labels"),
    "field": Kind("seamscope.docks.receptive_field.dock", "ReceptiveFieldDock", "Receptive field"),
    "normalization": Kind(
        "seamscope.docks.normalization.dock", "NormalizationDock", "Network normalization"
    ),
}

_Kept: TypeAlias = WeakKeyDictionary[Any, WeakValueDictionary[str, Any]]  # by viewer and name

_docks: _Kept = WeakKeyDictionary()
_places: _Kept = WeakKeyDictionary()
_imports: dict[str, threading.Thread] = {}
_failed: dict[str, Exception] = {}


def _docks_of(viewer: Any, kept: _Kept = _docks) -> WeakValueDictionary[str, Any]:
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in kept:
        kept[viewer] = WeakValueDictionary()
    return kept[viewer]


def register(viewer: Any, dock: QWidget) -> None:
    """Note that a viewer has this dock, so that no second one of its kind is made."""
    known = _docks_of(viewer)
    for name, kind in KINDS.items():
        if kind.name == type(dock).__name__ and name not in known:
            known[name] = dock
            dock.destroyed.connect(partial(known.pop, name, None))


def _imported(kind: Kind) -> Any:
    """The class of a dock, where its module is imported; else None."""
    working = _imports.get(kind.module)
    if working is not None and working.is_alive():
        return None
    return getattr(sys.modules.get(kind.module), kind.name, None)


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:
        _failed[module] = error


def _start_import(kind: Kind) -> None:
    if kind.module not in _imports:
        _failed.pop(kind.module, None)
        thread = threading.Thread(target=_import, args=(kind.module,), name="seamscope-import")
        _imports[kind.module] = thread
        thread.start()


class Slot(QWidget):
    """Room for one dock.

    Parameters
    ----------
    viewer
        Whose dock.
    name
        One of `KINDS`.
    in_front
        Returns whether the dock may draw over the image.

    Signals
    -------
    filled : (object)
        The dock is here.

    Attributes
    ----------
    dock
        None as long as it is not here.
    """

    filled = Signal(object)

    def __init__(
        self, viewer: Any, name: str, in_front: Callable[[Slot], bool] = lambda _: True
    ) -> None:
        super().__init__()
        self.dock: Any = None
        self.name = name
        self._in_front = in_front
        self._viewer = viewer
        self._made: Any = None  # not shown yet
        self._waiting: list[Callable[[Any], None]] = []
        self._text = QLabel()
        self._text.setWordWrap(True)
        self._take = QPushButton("Show it here")
        self._take.setToolTip("Move it from where it is shown now.")
        self._take.clicked.connect(self.fill)
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        # else napari puts an empty stretch below it, larger for each dock that was ever opened
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        for part in (self._text, self._take):
            part.hide()
            self._column.addWidget(part)
        self._timer = QTimer(self)
        self._timer.setInterval(_LOOK_MS)
        self._timer.timeout.connect(self._look)

    def fill(self, _: Any = None) -> None:
        """Show the dock here, as soon as it can be."""
        if self.dock is not None:
            return
        kind = KINDS[self.name]
        if _imported(kind) is not None:
            self._put()
            return
        self._say(f"Loading {kind.title} …")
        import pyqtgraph  # noqa: F401  (makes Qt's objects: not in a thread)

        _start_import(kind)
        self._timer.start()

    def then(self, act: Callable[[Any], None]) -> None:
        """Call `act` with the dock: now, or as soon as it is here."""
        self._waiting.append(act)
        if self.dock is not None:
            self._act(self.dock)
        else:
            self.fill()

    def give(self) -> None:
        """Another slot takes the dock."""
        self.dock = None
        self._say(f"{KINDS[self.name].title} is shown elsewhere in this window.", True)

    def park(self, window: QWidget) -> None:
        """Keep the dock in the main window, asleep and hidden, for when it is wanted again."""
        dock, self.dock = self.dock, None
        if dock is not None:
            dock.sleep()
            dock.hide()
            dock.setParent(window)

    def take_back(self) -> None:
        """Show the dock that was parked, unless it is shown elsewhere meanwhile."""
        dock = _docks_of(self._viewer).get(self.name)
        if self.dock is None and dock is not None:
            self.fill() if isinstance(dock.parent(), QMainWindow) else self.give()

    def _look(self) -> None:
        kind = KINDS[self.name]
        working = _imports.get(kind.module)
        if working is None or working.is_alive():
            return
        self._timer.stop()
        error = _failed.get(kind.module)
        if error is not None:
            del _imports[kind.module]
            self._say(f"Could not load {kind.title}: {type(error).__name__}: {error}")
        else:
            self._put()

    def _put(self) -> None:
        """Take the dock from where it is, or make it.

        To make it and to show it takes Qt about as long; between the two the window can answer.
        """
        if self.dock is not None:
            return
        kind = KINDS[self.name]
        dock = _docks_of(self._viewer).get(self.name)
        if dock is None:
            self._made = _imported(kind)(self._viewer)
            QTimer.singleShot(0, self._put)
            return
        self._made = None
        holder = dock.parent()
        if isinstance(holder, Slot) and holder is not self:
            holder.give()
        elif isinstance(holder, QDockWidget):  # a program has docked it: there it stays
            self._say(f"{kind.title} is shown elsewhere in this window.")
            self._act(dock)
            return
        for part in (self._text, self._take):
            part.hide()
        self.dock = dock
        self._column.addWidget(dock, 1)
        dock.show()
        dock.bring(self._in_front(self))
        dock.wake()
        self.filled.emit(dock)
        self._act(dock)

    def _act(self, dock: Any) -> None:
        waiting, self._waiting = self._waiting, []
        for act in waiting:
            act(dock)

    def _say(self, text: str, elsewhere: bool = False) -> None:
        self._text.setText(text)
        self._text.show()
        self._take.setVisible(elsewhere)


class Place(Slot):
    """A slot that napari docks; its children name what they show.

    Parameters
    ----------
    napari_viewer
        Given by napari.
    """

    shows = ""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, self.shows)
        self._window: QWidget | None = None
        self._frame: QDockWidget | None = None
        self._behind = False
        places = _docks_of(napari_viewer, _places)
        places[self.shows] = self
        self.destroyed.connect(partial(places.pop, self.shows, None))
        self.fill()

    def event(self, event: Any) -> bool:
        """Notice being docked and being closed."""
        kind = event.type()
        if kind == QEvent.Type.ParentChange and self.parent() is not None:
            QTimer.singleShot(0, self._docked)
        elif kind in (QEvent.Type.ParentAboutToChange, QEvent.Type.ParentChange):
            self._frame = None
            if self._window is not None:
                self.park(self._window)
        return bool(super().event(event))

    def _put(self) -> None:
        """Show the dock once the place is docked; it sleeps where that was closed meanwhile."""
        if self._frame is not None:
            super()._put()
        elif self._made is not None:
            self._made.sleep()

    def eventFilter(self, target: Any, event: Any) -> bool:  # noqa: N802
        """Bring the dock forward where napari's menu would hide it behind another tab."""
        hidden = event.type() == QEvent.Type.Hide and target is self._frame
        if hidden and self._behind and target.isHidden():
            QTimer.singleShot(0, self._forward)
        return False

    def _docked(self) -> None:
        """Lie as a tab on other docks of Seamscope in the same window."""
        frame, window = dock_around(self), main_window(self)
        if frame is None or window is None or frame is self._frame:
            return
        self._window, self._frame = window, frame
        frame.installEventFilter(self)
        frame.visibilityChanged.connect(self._shown)
        if self.dock is None:
            self.fill()
        for other in window.findChildren(Place):
            beside = dock_around(other)
            if other is self or beside is None or beside.isFloating() or frame.isFloating():
                continue
            if window.dockWidgetArea(beside) == window.dockWidgetArea(frame):
                window.tabifyDockWidget(beside, frame)
                break
        self._forward()

    def _shown(self, shown: bool) -> None:
        self._behind = not shown

    def _forward(self) -> None:
        if self._frame is not None:
            self._frame.show()
            self._frame.raise_()


def open_step(viewer: Any, name: str, act: Callable[[Any], None] = lambda _: None) -> None:
    """Open the dock *Seamscope* at one of its pages, and call `act` with the dock of that page."""

    def show(steps: Any) -> None:
        steps.show_step(name)
        come_forward(steps)
        steps.slots[name].then(act)

    _, place = viewer.window.add_plugin_dock_widget("seamscope", KINDS["seamscope"].title)
    place.then(show)


def open_where_it_is(viewer: Any, name: str, act: Callable[[Any], None]) -> None:
    """Call `act` with a dock where it is shown; else open it as a page of the dock *Seamscope*."""
    dock, place = _docks_of(viewer).get(name), _docks_of(viewer, _places).get(name)
    holder = None if dock is None else dock.parent()
    if dock is None and place is not None and place.parent() is not None:  # being imported
        come_forward(place)
        place.then(act)
    elif dock is not None and dock.awake and (isinstance(holder, Place | QDockWidget)):
        come_forward(dock)
        act(dock)
    else:
        open_step(viewer, name, act)


class SeamscopePlace(Place):
    """The dock *Seamscope*: four steps from an image to labels without seams."""

    shows = "seamscope"


class PredictionPlace(Place):
    """The dock *Tiled prediction*."""

    shows = "prediction"


class SeamsPlace(Place):
    """The dock *Seams*."""

    shows = "seams"


class LabelsPlace(Place):
    """The dock *Labels*."""

    shows = "labels"


class FieldPlace(Place):
    """The dock *Receptive field*."""

    shows = "field"


class NormalizationPlace(Place):
    """The dock *Normalization*."""

    shows = "normalization"


__all__ = [
    "KINDS",
    "FieldPlace",
    "LabelsPlace",
    "NormalizationPlace",
    "Place",
    "PredictionPlace",
    "SeamsPlace",
    "SeamscopePlace",
    "Slot",
    "open_step",
    "open_where_it_is",
    "register",
]
