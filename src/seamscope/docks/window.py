"""napari's window, reached from a widget inside it by public Qt only.

Knows Qt's main windows and docks. Does not know napari, or what a widget shows.
"""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

_NO_WINDOW = 600  # screen pixels, where a widget is in no window yet


def _around(widget: QWidget, kind: type) -> Any:
    found: Any = widget
    while found is not None and not isinstance(found, kind):
        found = found.parent()
    return found


def main_window(widget: QWidget) -> QMainWindow | None:
    """The main window around a widget."""
    found: QMainWindow | None = _around(widget, QMainWindow)
    return found


def dock_around(widget: QWidget) -> QDockWidget | None:
    """The dock that holds a widget."""
    found: QDockWidget | None = _around(widget, QDockWidget)
    return found


def come_forward(widget: QWidget) -> None:
    """Show the dock that holds a widget, in front of docks that lie over it."""
    frame = dock_around(widget)
    if frame is not None:
        frame.show()
        frame.raise_()


def canvas_side(widget: QWidget) -> int:
    """Shorter side, in screen pixels, of what the main window shows between its docks."""
    window = main_window(widget)
    middle = None if window is None else window.centralWidget()
    return _NO_WINDOW if middle is None else max(min(middle.width(), middle.height()), 1)


__all__ = ["canvas_side", "come_forward", "dock_around", "main_window"]
