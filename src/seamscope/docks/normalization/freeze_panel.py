"""Controls for fixing statistics: which ones, from what, and what that costs.

Knows widgets, and which of them matter when. Does not know networks, or who does the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from seamscope.docks.editors import Choice
from seamscope.docks.looks import set_row, text_label
from seamscope.fixed_statistics.freeze_plan import TILES
from seamscope.normalization.statistics import PATCH

Way: TypeAlias = Literal["exact", "local", "sampled", "file"]

_FILES = "Statistics (*.safetensors);;All files (*)"
_WAYS: list[tuple[str, Way]] = [
    ("Exact: of the whole image", "exact"),
    ("Local: of windows of the image", "local"),
    ("Sampled: from a few tiles", "sampled"),
    ("From a file", "file"),
]
_TIPS = {
    "how": "Exact: every tile gives what the whole image at once would give.\n"
    "Local: from windows a little larger than training patches, seamless too. Compare with\n"
    "ground truth: more accurate where parts of the image differ much, less on even nuclei.\n"
    "Sampled: fast, an estimate of the exact ones.\n"
    "From a file: found before, on this image or another one.",
    "cell": "About the extent of the patches that the network was trained with. Windows are twice\n"
    "as wide, and lie one cell apart.",
    "tiles": "Tiles that are looked at, chosen to differ as much as possible.",
    "grid": "Tiles in which the image is visited. Auto: the whole image at once where it fits in\n"
    "memory, else the largest tiles. The result is the same.",
    "file": "A file written by Save, or by the command seamscope freeze.",
    "freeze": "Find the statistics, and use them in the dock Tiled prediction.",
    "save": "Write the statistics to a file, for later, for other images, for the command line.",
}


class FreezePanel(QWidget):
    """Editor of what is to be fixed, and how.

    Signals
    -------
    changed
        Something else is asked for.
    wanted
        The button was pressed.
    save_wanted : (object)
        Write what was found to this path.
    """

    changed = Signal()
    wanted = Signal()
    save_wanted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.how = Choice(_WAYS, _TIPS["how"])
        self.cell = _number(8, 4096, PATCH[2], " px", _TIPS["cell"])
        self.tiles = _number(1, 4096, TILES, "", _TIPS["tiles"])
        self.grid = Choice([("Auto", "auto"), ("As in Tiled prediction", "plan")], _TIPS["grid"])
        self.file = QLineEdit()
        self.file.setToolTip(_TIPS["file"])
        self.file.setPlaceholderText("file of statistics")
        self._browse = QPushButton("Choose …")
        self._browse.setToolTip("Choose a file of statistics.")
        self._file_row = QWidget()
        self.cost = text_label()
        self.freeze = QPushButton("Fix statistics")
        self.freeze.setToolTip(_TIPS["freeze"])
        self.result = text_label()
        self.save = QPushButton("Save …")
        self.save.setToolTip(_TIPS["save"])
        self._lay_out()
        for choice in (self.how, self.grid):
            choice.value_changed.connect(self._tell)
        for number in (self.cell, self.tiles):
            number.valueChanged.connect(self._tell)
        self.file.textChanged.connect(self._tell)
        self._browse.clicked.connect(self._choose_file)
        self.freeze.clicked.connect(self._want)
        self.save.clicked.connect(self._choose_target)
        self._show_rows()

    @property
    def path(self) -> Path:
        """The file that is named."""
        return Path(self.file.text().strip()).expanduser()

    def grid_value(self) -> Literal["auto", "plan"]:
        """Tiles in which the image is visited; a sample is of the prediction's own."""
        own: dict[str, Literal["auto", "plan"]] = {"sampled": "plan", "local": "auto"}
        return own.get(self.how.value(), self.grid.value())

    def show_state(self, ready: bool, resumable: bool, found: bool) -> None:
        """Enable what makes sense.

        Parameters
        ----------
        ready
            Whether the button may be pressed.
        resumable
            Whether an interrupted search can go on.
        found
            Whether there is something to save.
        """
        from_file = self.how.value() == "file"
        self.freeze.setText("Load" if from_file else "Resume" if resumable else "Fix statistics")
        self.freeze.setEnabled(ready and (not from_file or bool(self.file.text().strip())))
        self.save.setEnabled(found)

    def _lay_out(self) -> None:
        row = QHBoxLayout(self._file_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.file, 1)
        row.addWidget(self._browse)
        self._form = QFormLayout()
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._form.addRow("Statistics", self.how)
        self._form.addRow("Cell", self.cell)
        self._form.addRow("Sample", self.tiles)
        self._form.addRow("Tiles", self.grid)
        self._form.addRow("File", self._file_row)
        column = QVBoxLayout(self)
        column.addLayout(self._form)
        for part in (self.cost, self.freeze, self.result, self.save):
            column.addWidget(part)
        column.addStretch(1)

    def _show_rows(self) -> None:
        how = self.how.value()
        shown = {
            self.cell: how == "local",
            self.tiles: how == "sampled",
            self.grid: how == "exact",
            self._file_row: how == "file",
        }
        for field, wanted in shown.items():
            set_row(self._form, field, wanted)

    def _tell(self, _: Any = None) -> None:
        self._show_rows()
        self.changed.emit()

    def _want(self, _: Any = None) -> None:
        self.wanted.emit()

    def _choose_file(self, _: Any = None) -> None:
        name, _kind = QFileDialog.getOpenFileName(self, "Statistics", "", _FILES)
        if name:
            self.file.setText(name)

    def _choose_target(self, _: Any = None) -> None:
        name, _kind = QFileDialog.getSaveFileName(
            self, "Save statistics", "statistics.safetensors", _FILES
        )
        if name:
            self.save_wanted.emit(Path(name))


def _number(low: int, high: int, value: int, suffix: str, tip: str) -> QSpinBox:
    box = QSpinBox()
    box.setRange(low, high)
    box.setValue(value)
    box.setSuffix(suffix)
    box.setKeyboardTracking(False)
    box.setToolTip(tip)
    return box
