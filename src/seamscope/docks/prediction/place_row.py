"""Where the result goes: to memory, or to a file; and what is there already.

Knows names of results, and whether one is unfinished. Does not know how one is written.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QWidget

from seamscope.docks.controls import button
from seamscope.docks.remembered import remembered
from seamscope.docks.typed_place import typed_place
from seamscope.errors import SeamscopeError
from seamscope.files import size_on_disk
from seamscope.images.addresses import is_address
from seamscope.images.results.create import unfinished
from seamscope.prediction.resuming import share_done

TIP = (
    "Save to. Empty: the result stays in memory, and you save its layer. A file (.ome.zarr or "
    ".zarr): the result is written while it is predicted, and may be larger than the memory. A run "
    "that was stopped can go on from there, also on another day."
)
_ENDING = ".ome.zarr"
# Of files of images; other dots are part of a name: 2024.11.30, plate.A03
_FILE_ENDING = re.compile(
    r"(\.ome)?\.(zarr|tiff?|npy|png|jpe?g|bmp|h5|hdf5|nrrd|mrc|nd2|czi|lif|ims|gz)$", re.IGNORECASE
)
_FOLDER = "results/folder"  # of the last result, in what is remembered
_FILES = "Zarr (*.ome.zarr *.zarr)"
_OTHER = (
    "{} cannot be shown while it is written. Use .ome.zarr or .zarr, or predict to memory and save "
    "the layer."
)


@dataclass(frozen=True)
class Found:
    """What is at a place.

    Attributes
    ----------
    whole
        Whether there is a finished result, or anything else of that name.
    share
        Part that is done of an unfinished result, 0 to 1; None where there is none.
    problem
        Why nothing can be written there; empty where something can.
    """

    whole: bool = False
    share: float | None = None
    problem: str = ""

    @classmethod
    def at(cls, path: str) -> Found:
        """Look what is at a place."""
        if not path or is_address(path):  # a store is looked at when the run begins
            return cls()
        if not path.endswith(".zarr"):
            return cls(problem=_OTHER.format(Path(path).name))
        try:
            ledger = unfinished(path)
            share = None if ledger is None else share_done(ledger)
        except SeamscopeError as error:
            return cls(problem=str(error))
        return cls(Path(path).exists(), share)


class PlaceRow(QWidget):
    """Editor of the place of a result.

    Attributes
    ----------
    found
        What is there now; see `look`.
    proposed
        A place that is free.
    size_of
        Returns how many bytes a file or folder has. Each is counted once, until the next `look`.
    """

    value_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.found = Found()
        self.size_of = functools.cache(size_on_disk)
        self._known = ""
        self._bases: dict[str, Path] = {}  # of names that were numbered here
        self.proposed = f"prediction{_ENDING}"
        self.line = QLineEdit()
        self.line.setPlaceholderText("memory")
        self.line.setToolTip(TIP)
        self.choose = button("…", "Choose a folder and a name for the result.")
        self.choose.setFixedWidth(32)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.line, 1)
        row.addWidget(self.choose)
        self.line.editingFinished.connect(self._changed)
        self.choose.clicked.connect(self.ask)

    def value(self) -> str:
        """Path of the result; empty for memory."""
        text = self.line.text().strip()
        path, _ = typed_place(text)
        return text if path is None else str(path)

    @property
    def problem(self) -> str:
        """Say why what was typed names no place; empty where it does."""
        text = self.line.text().strip()
        return "" if is_address(text) else typed_place(text)[1]

    def set_value(self, path: str) -> None:
        """Choose a path, or memory."""
        self.line.setText(path)
        self._changed()

    def propose(self, image: str, path: str) -> None:
        """Propose a name for the result of an image.

        It lies beside the image's file; where there is none, or nothing can be written beside it,
        in the folder of the last result.
        """
        stem = _FILE_ENDING.sub("", Path(image).name) or "image"
        folder = Path(path).parent if path and Path(path).exists() else None
        if folder is None or not os.access(folder, os.W_OK):
            folder = Path(str(remembered().value(_FOLDER, "") or Path.home()))
        self.proposed = self._free(folder / f"{stem}_prediction{_ENDING}")

    def look(self) -> None:
        """Look again what is at the place."""
        self.size_of = functools.cache(size_on_disk)
        problem = self.problem
        self.found = Found(problem=problem) if problem else Found.at(self.value())

    def move_on(self) -> None:
        """Choose the next free name: there is a whole result of this one now."""
        self.set_value(self._free(Path(self.value())))

    def _free(self, path: Path) -> str:
        """Return the path or, where something is there, the next numbered one.

        Only a number that was added here is replaced: others are part of a sample's name.
        """
        base = self._bases.get(str(path), path)
        free = str(_free(base))
        self._bases[free] = base
        return free

    def ask(self, _: Any = None) -> None:
        """Let the user choose a name."""
        name, _kind = QFileDialog.getSaveFileName(
            self, "Save the result to", self.value() or self.proposed, _FILES
        )
        if name:
            self.set_value(name if _FILE_ENDING.search(name) else name + _ENDING)

    def _changed(self) -> None:
        if self.value() != self._known:
            self._known = self.value()
            if self._known and not is_address(self._known) and not self.problem:
                remembered().setValue(_FOLDER, str(Path(self._known).parent))
            self.look()
            self.value_changed.emit()


def _free(path: Path) -> Path:
    """The path itself or, where there is a result or an unfinished one, the next name."""
    ending = _ENDING if path.name.endswith(_ENDING) else path.suffix
    stem = path.name.removesuffix(ending)
    names = (f"{stem}-{number}{ending}" for number in itertools.count(2))
    while path.exists() or path.with_name(f"{path.name}.partial").exists():
        path = path.with_name(next(names))
    return path


__all__ = ["TIP", "Found", "PlaceRow"]
