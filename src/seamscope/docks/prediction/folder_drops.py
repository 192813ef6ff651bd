"""Packages that are folders, dropped onto the viewer while the dock is open.

Knows Qt's drops and what a folder holds. A reader of napari's would be asked about every folder,
and napari would then ask the user, for every folder of pictures, which reader is to open it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import QEvent, QObject, Signal

from seamscope.docks.readers import is_network


class FolderDrops(QObject):
    """Watches the viewer's drops, and takes those of folders that hold a network.

    Parameters
    ----------
    viewer
        All other drops are left to it.
    parent
        Whose life this shares.

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

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self.awake = False
        viewer.window._qt_viewer.installEventFilter(self)

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
