"""Where the result goes: to memory, or to a file; and what is there already.

Knows names of results, and whether one is unfinished. Does not know how one is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QWidget

from seamscope.docks.controls import button
from seamscope.errors import SeamscopeError
from seamscope.images.addresses import is_address
from seamscope.images.results.create import unfinished
from seamscope.prediction.resuming import share_done

TIP = (
    "Save to. Empty: the result stays in memory, and you save its layer. A file (.ome.zarr or "
    ".zarr): the result is written while it is predicted, and may be larger than the memory. A run "
    "that was stopped can go on from there, also on another day."
)
_ENDING = ".ome.zarr"
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
    """

    value_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.found = Found()
        self._known = ""
        self._proposed = f"prediction{_ENDING}"
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
        if is_address(text):
            return text
        return str(Path(text).expanduser().absolute()) if text else ""

    def set_value(self, path: str) -> None:
        """Choose a path, or memory."""
        self.line.setText(path)
        self._changed()

    def propose(self, image: str, path: str) -> None:
        """Propose a name for the result of an image, beside its file where it has one."""
        stem = Path(image).name.partition(".")[0] or "image"
        folder = Path(path).parent if path else Path.cwd()
        self._proposed = str(folder / f"{stem}_prediction{_ENDING}")

    def look(self) -> None:
        """Look again what is at the place."""
        self.found = Found.at(self.value())

    def move_on(self) -> None:
        """Choose the next free name: there is a whole result of this one now."""
        path = Path(self.value())
        stem, dot, ending = path.name.partition(".")
        stem = stem.rstrip("0123456789").removesuffix("-") or stem
        number = 2
        while (path.with_name(f"{stem}-{number}{dot}{ending}")).exists():
            number += 1
        self.set_value(str(path.with_name(f"{stem}-{number}{dot}{ending}")))

    def ask(self, _: Any = None) -> None:
        """Let the user choose a name."""
        name, _kind = QFileDialog.getSaveFileName(
            self, "Save the result to", self.value() or self._proposed, _FILES
        )
        if name:
            self.set_value(name if "." in Path(name).name else name + _ENDING)

    def _changed(self) -> None:
        if self.value() != self._known:
            self._known = self.value()
            self.look()
            self.value_changed.emit()


__all__ = ["TIP", "Found", "PlaceRow"]
