"""Controls for fixing statistics: which ones, from what, and what that costs.

Knows widgets, and which of them matter when. Does not know networks, or who does the work.
"""

from __future__ import annotations

from collections.abc import Sequence
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

from seamscope.docks.controls import BUSY, allow, beside
from seamscope.docks.editors import Choice
from seamscope.docks.looks import set_row, text_label
from seamscope.docks.run_on import RunOn
from seamscope.docks.typed_place import typed_place
from seamscope.fixed_statistics.freeze_plan import TILES
from seamscope.normalization.statistics import PATCH

Way: TypeAlias = Literal["exact", "local", "sampled", "file"]

_NETWORKS = "torch.export (*.pt2);;TorchScript (*.torchscript);;ONNX (*.onnx);;bioimage.io (*.zip)"
_FILES = "Statistics (*.safetensors);;All files (*)"
_WAYS: list[tuple[str, Way]] = [
    ("Of the whole image (exact)", "exact"),
    ("By region (local)", "local"),
    ("Quick estimate (sampled)", "sampled"),
    ("From a file", "file"),
]
_TIPS = {
    "how": "Mean and variance that every tile is normalized with.\n"
    "Whole image: tiles predict what the whole image at once would predict.\n"
    "By region: from windows a little larger than training patches; seamless too. More\n"
    "accurate where parts of the image differ much: check with correct labels (Effect).\n"
    "Quick estimate: the statistics of the whole image, estimated from a few tiles.\n"
    "From a file: saved before, of this image or another one.",
    "cell": "Width of a region: about that of the patches that the network was trained with.\n"
    "Windows are twice as wide, and lie one region apart.",
    "tiles": "Number of tiles for the estimate, chosen to differ as much as possible.",
    "grid": "Tiles in which the image is read. Automatic: the whole image at once where it fits\n"
    "in memory, else the largest tiles. The result is the same.",
    "file": "A file written by Save, or by the command seamscope freeze.",
    "place": "Save to. Empty: the statistics are in memory, and Save … writes them. A file: they\n"
    "are written when they are found. What a stopped search has found is kept beside it, and\n"
    "the search can go on from there, also on another day.",
    "again": "Remove what the stopped search has found, and begin again.",
    "freeze": "Compute the statistics, and use them for the next prediction.",
    "save": "Write the statistics to a file, for later, for other images, for the command line.",
    "export": "Write the network with its fixed statistics to a file that other programs run:\n"
    ".pt2, .torchscript, .onnx, or .zip (a package of bioimage.io). It is read back and compared.",
}


class FreezePanel(QWidget):
    """Editor of what is to be fixed, and how.

    Signals
    -------
    changed
        Other statistics are wanted, or in another way.
    wanted, again
        A button was pressed: fix the statistics, or go on with it; or begin again.
    save_wanted, export_wanted : (object)
        Write the statistics, or the network with them, to this path.
    """

    changed = Signal()
    wanted = Signal()
    again = Signal()
    save_wanted = Signal(object)
    export_wanted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.how = Choice(_WAYS, _TIPS["how"])
        self.cell = _number(8, 4096, PATCH[2], " px", _TIPS["cell"])
        self.tiles = _number(1, 4096, TILES, " tiles", _TIPS["tiles"])
        self.grid = Choice([("Automatic", "auto"), ("As in Predict", "plan")], _TIPS["grid"])
        self.file = QLineEdit()
        self.file.setToolTip(_TIPS["file"])
        self.file.setPlaceholderText("file of statistics")
        self._browse = QPushButton("Choose …")
        self._browse.setToolTip("Choose a file of statistics.")
        self._file_row = QWidget()
        self.run_on = RunOn()
        self.place = QLineEdit()
        self.place.setToolTip(_TIPS["place"])
        self.place.setPlaceholderText("memory")
        self._choose_place = QPushButton("…")
        self._choose_place.setFixedWidth(32)
        self._choose_place.setToolTip("Choose a folder and a name for the statistics.")
        self._place_row = QWidget()
        self.cost = text_label()
        self.begin_again = QPushButton("Begin again")
        self.begin_again.setToolTip(_TIPS["again"])
        self.begin_again.hide()
        self.freeze = QPushButton("Fix statistics")
        self.freeze.setToolTip(_TIPS["freeze"])
        self.result = text_label()
        self.save = QPushButton("Save …")
        self.save.setToolTip(_TIPS["save"])
        self.export = QPushButton("Export network …")
        self.export.setToolTip(_TIPS["export"])
        self._lay_out()
        for choice in (self.how, self.grid):
            choice.value_changed.connect(self._tell)
        for number in (self.cell, self.tiles):
            number.valueChanged.connect(self._tell)
        self.file.textChanged.connect(self._tell)
        self.run_on.value_changed.connect(self._tell)
        self.place.editingFinished.connect(self._tell)
        self._browse.clicked.connect(self._choose_file)
        self._choose_place.clicked.connect(self._ask_for_place)
        self.begin_again.clicked.connect(lambda _=False: self.again.emit())
        self.freeze.clicked.connect(self._want)
        self.save.clicked.connect(self._choose_target)
        self.export.clicked.connect(self._choose_network)
        self._show_rows()

    @property
    def target(self) -> Path | None:
        """The file that the statistics are written to; None for memory."""
        return typed_place(self.place.text().strip())[0]

    @property
    def problem(self) -> str:
        """Say why the rows *Run on* and *Save to* cannot be used; empty where they can."""
        return self.run_on.problem or typed_place(self.place.text().strip())[1]

    def grid_value(self) -> Literal["auto", "plan"]:
        """Tiles in which the image is visited; a sample is of the prediction's own."""
        own: dict[str, Literal["auto", "plan"]] = {"sampled": "plan", "local": "auto"}
        return own.get(self.how.value(), self.grid.value())

    def show_state(
        self, needed: Sequence[tuple[bool, str]], resumable: bool, found: bool, busy: bool
    ) -> None:
        """Enable what makes sense.

        Parameters
        ----------
        needed
            What the button needs, as for `seamscope.docks.controls.allow`.
        resumable
            Whether an interrupted search can go on.
        found
            Whether there is something to save.
        busy
            Whether other work is going on.
        """
        from_file = self.how.value() == "file"
        self.freeze.setText("Load" if from_file else "Go on" if resumable else "Fix statistics")
        self.begin_again.setVisible(resumable and not from_file)
        allow(self.begin_again, *needed)
        named = not from_file or bool(self.file.text().strip())
        allow(self.freeze, *needed, (named, "First choose a file of statistics."))
        for each in (self.save, self.export):
            allow(each, (found, "First fix the statistics."), (not busy, BUSY))

    def _lay_out(self) -> None:
        for row, line, choose in (
            (self._file_row, self.file, self._browse),
            (self._place_row, self.place, self._choose_place),
        ):
            inside = QHBoxLayout(row)
            inside.setContentsMargins(0, 0, 0, 0)
            inside.addWidget(line, 1)
            inside.addWidget(choose)
        self._form = QFormLayout()
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._form.addRow("Statistics", self.how)
        self._form.addRow("Region", self.cell)
        self._form.addRow("Sample", self.tiles)
        self._form.addRow("Tiles", self.grid)
        self._form.addRow("Run on", self.run_on)
        self._form.addRow("Save to", self._place_row)
        self._form.addRow("File", self._file_row)
        column = QVBoxLayout(self)
        column.addLayout(self._form)
        column.addWidget(self.cost)
        column.addWidget(beside(self.freeze, self.begin_again))
        for part in (self.result, self.save, self.export):
            column.addWidget(part)
        column.addStretch(1)

    def _show_rows(self) -> None:
        how = self.how.value()
        shown = {
            self.cell: how == "local",
            self.tiles: how == "sampled",
            self.grid: how == "exact",
            self._file_row: how == "file",
            self.run_on: how != "file",
            self._place_row: how != "file",
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

    def _ask_for_place(self, _: Any = None) -> None:
        proposed = self.place.text() or "statistics.safetensors"
        keep = QFileDialog.Option.DontConfirmOverwrite  # nothing is replaced
        name, _kind = QFileDialog.getSaveFileName(
            self, "Save the statistics to", proposed, _FILES, options=keep
        )
        if name:
            self.place.setText(name)
            self._tell()

    def _choose_target(self, _: Any = None) -> None:
        name, _kind = QFileDialog.getSaveFileName(
            self, "Save statistics", "statistics.safetensors", _FILES
        )
        if name:
            self.save_wanted.emit(Path(name))

    def _choose_network(self, _: Any = None) -> None:
        self._ask_for_network("network.pt2")

    def _ask_for_network(self, proposed: str) -> None:
        name, kind = QFileDialog.getSaveFileName(self, "Export network", proposed, _NETWORKS)
        if not name:
            return
        given = Path(name)
        path = given if given.suffix else given.with_suffix(kind.rpartition("*")[2].rstrip(")"))
        if path != given and path.exists():  # the dialog has not asked whether to replace this one
            self._ask_for_network(str(path))
        else:
            self.export_wanted.emit(path)


def _number(low: int, high: int, value: int, suffix: str, tip: str) -> QSpinBox:
    box = QSpinBox()
    box.setRange(low, high)
    box.setValue(value)
    box.setSuffix(suffix)
    box.setKeyboardTracking(False)
    box.setToolTip(tip)
    return box
