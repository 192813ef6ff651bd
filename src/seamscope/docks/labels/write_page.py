"""Writing labels and their table, and measuring objects for the layer.

Knows places of files and the jobs that write them. Does not know how objects are found.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QLineEdit, QWidget

from seamscope.docks.actions import Action, ActionRow
from seamscope.docks.controls import BUSY, allow, beside, button, fill, form, ticked
from seamscope.docks.job_row import JobRow
from seamscope.docks.labels.background import (
    Write,
    WriteInBlocks,
    blocks_of_labels,
    corrections_file,
    stem_of,
    table_of,
)
from seamscope.docks.labels.corrections_page import left_out
from seamscope.docks.labels.live import WAIT, Live
from seamscope.docks.layers import image_of
from seamscope.docks.looks import boxed, plain, text_label
from seamscope.docks.typed_place import typed_place
from seamscope.errors import SeamscopeError
from seamscope.images.addresses import is_address
from seamscope.images.image import Image
from seamscope.segmentation.objects import ObjectTable
from seamscope.segmentation.segment import Segmentation

ENDINGS = "OME-Zarr (*.ome.zarr);;TIFF (*.tif);;numpy (*.npy)"
_TIPS = {
    "place": "Where the labels go. The ending says what is written: .ome.zarr, .zarr, .tif, .npy.\n"
    "IMAGE.ome.zarr/labels/NAME adds the labels to that image.",
    "choose": "Choose the file.",
    "intensity": "Add the mean intensity of the image to the table, one column for each channel.",
    "replace": "Replace labels and table of this name.",
    "go on": "Do what is left. The labels are, bit for bit, those of a run without a break.\n"
    "Prediction, recipe and corrections must be those that they were begun with.",
    "again": "Remove what is written, and write everything again.",
    "write": "Write the label image, and a table with one row for each object beside it.",
    "measure": "Measure all objects: area, position and box are shown in the status bar, as\n"
    "features of the layer.",
}
_NO_OBJECTS = "First press Segment: there are no objects to write or measure."


class WritePage(QWidget):
    """Writes what `Live` shows.

    Parameters
    ----------
    live
        The objects.
    row
        Shows how far writing is.

    Signals
    -------
    refused : (str)
        Why nothing is written.
    placed : (str)
        Labels shall go here: corrections are kept beside them.
    """

    refused = Signal(str)
    placed = Signal(str)

    def __init__(self, live: Live, row: JobRow) -> None:
        super().__init__()
        self._live, self._row = live, row
        self._looked: tuple[str, int | None] | None = None  # a place, and what is there
        row.changed.connect(self._look_again)
        self.place = QLineEdit()
        self.place.setPlaceholderText("labels.ome.zarr")
        self.place.setAccessibleName("File of labels")
        self.place.setToolTip(_TIPS["place"])
        self.choose = button("Choose …", _TIPS["choose"])
        self.intensity = ticked("Mean intensities of the image", _TIPS["intensity"])
        self.replace = ticked("Replace existing files", _TIPS["replace"])
        self.replace.setChecked(False)
        self.write = button("Write labels and table", _TIPS["write"])
        self.measure = button("Measure objects", _TIPS["measure"])
        self.waits = text_label()
        self.actions = ActionRow()
        self.text = text_label()
        fill(
            self,
            form(("File", beside(self.place, self.choose))),
            *(self.intensity, self.replace, (self.write, self.measure)),
            *(self.waits, self.actions, self.text),
        )
        self.choose.clicked.connect(self._choose)
        self.write.clicked.connect(self._write)
        self.measure.clicked.connect(self._measure)
        self.place.editingFinished.connect(self._tell)
        self.show_state()

    def show_state(self, _: Any = None) -> None:
        """Allow what can be done now."""
        busy, known = self._row.busy, self._live.found is not None
        left = None if busy else self._left()
        in_blocks = self._live.image is not None and self._live.on is not None
        free = not busy, BUSY
        waits = left is None, "Labels at this place are unfinished: see the sentence below."
        allow(self.write, (known or in_blocks, _NO_OBJECTS), free, waits)
        allow(self.measure, (known, _NO_OBJECTS), free)
        self._offer_to_go_on(left)
        source = self._live.source  # only a run knows its image
        self.intensity.setVisible(source is not None and source.run is not None)

    def _left(self) -> int | None:
        """Blocks that are done of unfinished labels at the place; None where there are none."""
        place = self.place.text().strip()
        if self._looked is None or self._looked[0] != place:
            left = None
            with contextlib.suppress(SeamscopeError):  # the button says why
                left = blocks_of_labels(place)
            self._looked = place, left
        return self._looked[1]

    def _look_again(self) -> None:
        self._looked = None

    def _offer_to_go_on(self, left: int | None) -> None:
        """Say what a run that was stopped has left, and what can be done about it."""
        name = plain(Path(self.place.text().strip()).name)
        many = "" if left is None else f"{left} block{'s' * (left != 1)}"
        said = f"{name} is unfinished: {many} of its work are done. Go on, or begin again."
        self.waits.setText("" if left is None else boxed(said, "warning"))
        self.waits.setVisible(left is not None)
        ready = left is not None and self._live.image is not None
        again = Action("Begin again", _TIPS["again"], self._begin_again)
        self.actions.offer([Action("Go on", _TIPS["go on"], self._go_on), again] * ready)

    def _go_on(self) -> None:
        self.write_in_blocks(self.place.text().strip(), resume=True)

    def _begin_again(self) -> None:
        self.write_in_blocks(self.place.text().strip(), overwrite=True)

    def show_place(self, path: Path | None) -> None:
        """Suggest a place."""
        self.place.setText("" if path is None else str(path))
        self.show_state()

    def _choose(self, _: Any = None) -> None:
        name, _kind = QFileDialog.getSaveFileName(
            self, "Write labels", self.place.text() or "labels.ome.zarr", ENDINGS
        )
        if name:
            self.place.setText(name)
            self._tell()

    def _tell(self) -> None:
        self._look_again()
        self.show_state()
        place, problem = typed_place(self.place.text().strip())
        if problem:
            self.refused.emit(problem)
        elif place is not None:
            self.placed.emit(self.place.text().strip())

    def _write(self, _: Any = None) -> None:
        target = self.place.text().strip()
        place, problem = typed_place(target)
        if place is None:
            self.refused.emit(problem or "Nothing says where the labels go: name a file.")
            return
        self.write_to(target)

    def write_to(self, target: str) -> None:
        """Write labels and table."""
        overwrite = self.replace.isChecked()
        if self._live.on is not None:
            self.write_in_blocks(target, overwrite=overwrite)
            return
        found = self._settled()
        if found is None:
            return
        self.text.setText("")

        def done(table: ObjectTable | None) -> None:
            if table is None:
                self.text.setText("Stopped. What was written until now is left out.")
                return
            self._show_features(table, found)
            name, beside = Path(target).name, table_of(target).name
            self.text.setText(f"{len(table)} objects in {plain(name)}, table in {plain(beside)}.")

        work = Write(found, target, self._intensity(), overwrite)
        self._row.start(f"writing {Path(target).name}", work, done)

    def write_in_blocks(self, target: str, resume: bool = False, overwrite: bool = False) -> None:
        """Find the objects block by block and write them, as the row *Run on* says.

        Parameters
        ----------
        target
            Place of the labels.
        resume, overwrite
            Continue unfinished labels, or replace what is there.
        """
        live = self._live
        if live.source is None or live.image is None or self._row.busy:
            return
        self.text.setText("")
        edits = live.corrections
        work = WriteInBlocks(
            partial(live.source.shared, live.image.axes),
            live.recipe,
            live.source.names,
            target,
            self._intensity(),
            partial(corrections_file, target if edits is None else ""),
            live.unsaved if edits is None else {live.identity: edits.steps},
            live.on,
            resume,
            overwrite,
        )

        def done(written: tuple[ObjectTable, Sequence[str]] | None) -> None:
            if written is None:
                self.text.setText("Stopped. What is done is kept, and can go on.")
                return
            table, skipped = written
            name, beside = Path(target).name, table_of(target).name
            said = f"{len(table)} objects in {plain(name)}, table in {plain(beside)}."
            self.text.setText(said + left_out(skipped))

        self._row.start(f"writing {Path(target).name}", work, done, kept=True)

    def _intensity(self) -> Image | None:
        source = self._live.source
        if not self.intensity.isChecked() or source is None or source.run is None:
            return None
        run = source.run
        same = tuple(run.plan.scale) and all(s == 1 for s in run.plan.facts.scale)
        image = image_of(run.layer, run.plan.layout.axes)
        wanted = self._live.image
        fits = same and wanted is not None and _sizes(image) == _sizes(wanted)
        return image if fits else None

    def _measure(self, _: Any = None) -> None:
        found = self._settled()
        if found is None:
            return
        intensity = self._intensity()

        def done(table: ObjectTable | None) -> None:
            if table is not None:
                self._show_features(table, found)
                self.text.setText(f"{len(table)} objects are measured: point at one.")

        self._row.start("measuring objects", partial(found.table, intensity), done)

    def _settled(self) -> Segmentation | None:
        """The objects; None while something is done, or what is shown is not the latest."""
        if self._live.found is None or self._row.busy:
            return None
        found = self._live.settled
        if found is None:
            self.refused.emit(WAIT)
        return found

    def _show_features(self, table: ObjectTable, found: Segmentation) -> None:
        """Give the layer the table; its labels are named as they are drawn."""
        layer = self._live.layer
        if layer is None or self._live.found is not found:  # other objects are shown by now
            return
        columns = dict(table.features())
        names = found.names_of_labels
        label = np.asarray(columns["label"])
        if len(label) and label.max() < len(names):
            columns["index"] = names[label]
            layer.features = columns


def _sizes(image: Image) -> list[int]:
    """Pixels along all axes but that of channels."""
    return [n for n, a in zip(image.shape, image.axes or "", strict=True) if a != "c"]


def suggested_place(source_path: str | None) -> Path | None:
    """Where labels of a file go by default: beside it."""
    if not source_path or is_address(source_path):
        return None
    stem = stem_of(source_path)
    return stem.with_name(f"{stem.name}_labels.ome.zarr")


__all__ = ["ENDINGS", "WritePage", "suggested_place"]
