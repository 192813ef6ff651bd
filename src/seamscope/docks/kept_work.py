"""Where interrupted work waits until it goes on, when no file was named for it.

Knows folders of ledgers. Does not know what the work is.
"""

from __future__ import annotations

import itertools
import shutil
import weakref
from collections.abc import Hashable
from pathlib import Path

from seamscope.files import lasting_folder
from seamscope.ledger import discard


class KeptWork:
    """A temporary folder for each piece of work, for as long as its page is there.

    Parameters
    ----------
    page
        All is removed with it.

    Attributes
    ----------
    root
        Where the folders are.
    """

    def __init__(self, page: object) -> None:
        self.root = lasting_folder()
        weakref.finalize(page, shutil.rmtree, self.root, ignore_errors=True)
        self._folders: dict[Hashable, Path] = {}
        self._numbers = itertools.count()  # no folder is named as one before it

    def folder(self, key: Hashable) -> Path:
        """Return the folder of this work, which the work makes."""
        if key not in self._folders:
            self._folders[key] = self.root / f"{next(self._numbers)}"
        return self._folders[key]

    def remove(self, key: Hashable) -> None:
        """Remove what waits of this work, if anything does."""
        folder = self._folders.pop(key, None)
        if folder is not None:
            discard(folder)

    def forget(self) -> None:
        """Remove all that waits: it belongs to another network or image."""
        for folder in self._folders.values():
            discard(folder)
        self._folders.clear()


__all__ = ["KeptWork"]
