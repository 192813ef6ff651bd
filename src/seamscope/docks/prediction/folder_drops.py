"""Packages that are folders, dropped onto the viewer while the dock is open.

Knows Qt's drops and what a folder holds. A reader of napari's would get every folder,
and napari would then ask the user, for every folder of pictures, which reader is to open it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import QEvent, QObject, Signal
from qtpy.QtWidgets import QWidget

from seamscope.docks.readers import is_network
from seamscope.docks.window import main_window


class FolderDrops(QObject):
    """Watches drops onto the window of a dock, and takes those of folders that hold a network.

    All others are left to the window.

    Parameters
    ----------
    dock
        Whose window, and whose life this shares.

    Attributes
    ----------
    awake
        Whether anything is taken.

    Signals
    -------
    found : (str)
        A folder was dropped that holds a network.
    """

    found = Signal(str)

    def __init__(self, dock: QWidget) -> None:
        super().__init__(dock)
        self._dock = dock
        self.awake = False

    def watch(self) -> None:
        """Watch whatever of the window takes drops; again where the dock was moved to another."""
        window = main_window(self._dock)
        middle = None if window is None else window.centralWidget()
        if middle is not None:
            for target in (middle, *middle.findChildren(QWidget)):
                if target.acceptDrops():
                    target.installEventFilter(self)

    def eventFilter(self, target: Any, event: Any) -> bool:  # noqa: N802
        """Answer Qt: whether the event has been dealt with."""
        if self.awake and event.type() == QEvent.Type.Drop:
            folder = _folder_in(event.mimeData())
            if folder is not None and is_network(folder):
                event.acceptProposedAction()
                self.found.emit(folder)
                return True
        return bool(super().eventFilter(target, event))


def _folder_in(data: Any) -> str | None:
    """Return the folder, where a single one was dropped."""
    paths = [url.toLocalFile() for url in data.urls()]
    return paths[0] if len(paths) == 1 and Path(paths[0]).is_dir() else None
