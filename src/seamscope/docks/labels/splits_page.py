"""False splits: objects that seams cut, in labels of this dock or of any layer.

Knows the controls, and how they are wired: labels and a grid -> report -> table -> view, opinions,
merging. Does not know how false splits are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Labels
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHeaderView,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from seamscope.docks.controls import BUSY, allow, button, fill, form, number, stack
from seamscope.docks.editors import Choice
from seamscope.docks.job_row import JobRow
from seamscope.docks.labels.background import Ask, Splits
from seamscope.docks.labels.corrections_page import CorrectionsPage
from seamscope.docks.labels.live import WAIT, Live
from seamscope.docks.labels.merged import MergedLayer
from seamscope.docks.labels.recipe_panel import real
from seamscope.docks.labels.write_page import ENDINGS
from seamscope.docks.layers import look_at, pixels
from seamscope.docks.looks import boxed, in_dock, plain, set_row, text_label
from seamscope.docks.results import Run
from seamscope.docks.seams.comparison import Comparison
from seamscope.docks.session import Session
from seamscope.docks.window import canvas_side
from seamscope.errors import SeamscopeError
from seamscope.images.dimensions import are_axes
from seamscope.segmentation.asking import Opinion
from seamscope.segmentation.corrections import merge_candidates
from seamscope.segmentation.false_splits import Candidate, SplitReport
from seamscope.segmentation.label_images import merge_pairs
from seamscope.segmentation.tile_seams import lines_of, seams_of

_TIPS = {
    "labels": "Labels that are tested: those of this dock, or of any labels layer.",
    "grid": "Where tiles met: the tiles of the run, tiles of a given size, or a grid that is\n"
    "searched (its p value accounts for the search).",
    "tile": "Pixels of a tile along each axis.",
    "overlap": "Pixels that neighbouring tiles share.",
    "look": "Compare label changes on the grid's lines with those on shifted lines, and list\n"
    "objects that face each other across a seam.",
    "table": "Objects that a seam may have cut, the longest contact first. Rate: share of true\n"
    "borders expected in the list down to this row. Click a row: the view goes there.",
    "ask": "Predict each place again with the seam in the middle of a tile. A split that\n"
    "vanishes was made by the tiling.",
    "merge": "Merge the pair that is chosen. One undo step.",
    "rate": "False-discovery rate up to which pairs are merged.",
    "all": "Merge all pairs up to this rate. One undo step.",
    "confirmed": "Merge all pairs that the network joins when one tile holds both.",
    "undo": "Take the latest merge back.",
    "write": "Write the merged labels into a file. The labels before merging stay as they are.",
}
_COLUMNS = {
    "Labels": "Numbers of the two objects.",
    "Pixels": "Pixels along which the two objects touch at the seam.",
    "Rate": "False-discovery rate: share of the pairs down to this one that are no false splits.",
    "Seam": "Axis and place of the seam between the objects.",
    "Asked again": "Whether the network splits the object too, when one tile holds it whole.",
}
_NOT_ASKED = "First predict: only a network whose result was segmented can be asked again."
_ROOM = 120  # pixels around a pair, at least


class SplitsPage(QWidget):
    """Finds and merges false splits.

    Parameters
    ----------
    viewer, session
        Layers, and runs.
    live
        The dock's objects.
    row
        Shows long work.
    correcting
        Corrects the dock's objects.

    Signals
    -------
    message : (str)
        Why something is not done; empty when all is well.

    Attributes
    ----------
    report
        The latest; None where nothing was tested.
    """

    message = Signal(str)

    def __init__(
        self, viewer: Any, session: Session, live: Live, row: JobRow, correcting: CorrectionsPage
    ) -> None:
        super().__init__()
        self._viewer, self._session, self._live, self._row = viewer, session, live, row
        self._correcting = correcting
        self.report: SplitReport | None = None
        self._of: Any = None  # the layer that was tested
        self._heard: dict[Candidate, Opinion] = {}
        self._merges: dict[Any, MergedLayer] = {}  # in labels of other layers, by layer
        self.labels = Choice((), _TIPS["labels"])
        self.grid = Choice([("Search for it", "search"), ("Tiles of", "given")], _TIPS["grid"])
        self.tile = number((8, 10**6), 256, _TIPS["tile"], " px")
        self.overlap = number((0, 10**6), 0, _TIPS["overlap"], " px")
        self.look = button("Find false splits", _TIPS["look"])
        self.text = text_label()
        self.table = QTableWidget(0, len(_COLUMNS))
        self.comparison = Comparison()
        self.ask = button("Ask the network again", _TIPS["ask"])
        self.merge = button("Merge this pair", _TIPS["merge"])
        self.confirmed = button("Merge confirmed", _TIPS["confirmed"])
        self.rate = real((0, 1), 0.1, 0.05, _TIPS["rate"])
        self.rate.setAccessibleName("Rate")
        self.all = button("Merge all up to rate", _TIPS["all"])
        self.undo = button("Undo merge", _TIPS["undo"])
        self.write = button("Write merged labels …", _TIPS["write"])
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        self.form = form(
            ("Labels", self.labels), ("Grid", self.grid), ("Tile", self.tile),
            ("Overlap", self.overlap),
        )  # fmt: skip
        table = self.table
        table.setHorizontalHeaderLabels(list(_COLUMNS))
        for column, tip in enumerate(_COLUMNS.values()):
            table.horizontalHeaderItem(column).setToolTip(tip)
        table.setAccessibleName("Pairs of objects")
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.verticalHeader().setVisible(False)
        table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        table.horizontalHeader().setStretchLastSection(True)
        table.setFixedHeight(170)
        table.setToolTip(_TIPS["table"])
        self.buttons = QWidget()
        stack(
            self.buttons,
            (self.merge, self.undo),
            (QLabel("Rate"), self.rate, self.all),
            (self.ask, self.confirmed),
            self.write,
        )
        fill(self, self.form, self.look, self.text, table, self.buttons, self.comparison)

    def _connect(self) -> None:
        self.labels.value_changed.connect(self._labels_chosen)
        self.grid.value_changed.connect(self.show_state)
        self.look.clicked.connect(self.begin)
        self.table.currentCellChanged.connect(self._row_chosen)
        self.ask.clicked.connect(self.ask_again)
        self.merge.clicked.connect(self._merge_one)
        self.confirmed.clicked.connect(self._merge_confirmed)
        self.all.clicked.connect(self._merge_all)
        self.undo.clicked.connect(self._undo)
        self.write.clicked.connect(self._choose_file)
        self._show_report(None)

    # -- what there is

    @property
    def run(self) -> Run | None:
        """The run whose labels are chosen."""
        layer = self.labels.value()
        source = self._live.source
        if layer is None or layer is self._live.layer:
            return None if source is None else source.run
        return self._session.run_of(layer)

    @property
    def _own(self) -> bool:
        """Whether the labels that were tested are those of this dock."""
        return self._of is not None and self._of is self._live.layer

    def offer_labels(self, _: Any = None) -> None:
        """List what can be tested."""
        own = self._live.layer if self._live.found is not None else None
        listed = [("Labels of this dock", own)] if own is not None else []
        self._merges = {
            layer: merges
            for layer, merges in self._merges.items()
            if merges.present and layer in self._viewer.layers
        }
        merged = [merges.shown for merges in self._merges.values()]
        for layer in reversed(list(self._viewer.layers)):
            hidden = layer is self._live.layer or layer in merged or layer.name == "paint"
            if isinstance(layer, Labels) and not hidden:
                listed.append((layer.name, layer))
        if self._of is not None and self._of not in self._viewer.layers:
            self._of = None
            self._show_report(None)
        before = self.labels.value()
        with QSignalBlocker(self.labels):
            self.labels.set_options(listed)
        if self.labels.value() is not before:
            self._labels_chosen()
        self.show_state()

    def _labels_chosen(self) -> None:
        run = self.run
        options = [("Search for it", "search"), ("Tiles of", "given")]
        if run is not None and run.plan.tiles > 1:
            options.insert(0, ("Tiles of the run", "run"))
        with QSignalBlocker(self.grid):
            self.grid.set_options(options)
            if run is not None and run.plan.tiles > 1:
                self.grid.set_value("run")
        self.show_state()

    def objects_changed(self) -> None:
        """Other objects are shown: what was found of the earlier ones is no longer true."""
        if self._own and self.report is not None and not self._row.busy:
            self._correcting.candidates = ()
        self.offer_labels()

    def show_state(self, _: Any = None) -> None:
        """Allow what can be done now."""
        given = self.grid.value() == "given"
        set_row(self.form, self.tile, given)
        set_row(self.form, self.overlap, given)
        free = not self._row.busy, BUSY
        listed = self.report is not None and bool(self.report.candidates)
        labels = self.labels.value() is not None, "First make labels (Segment), or open some."
        found = listed, "First press Find false splits."
        allow(self.look, labels, free)
        self.table.setVisible(listed)
        self.buttons.setVisible(listed)
        asked = self._asked_run()
        allow(self.ask, (asked is not None, _NOT_ASKED), free)
        allow(self.confirmed, (bool(self._confirmed()), "No split is confirmed."), free)
        allow(self.merge, (self.candidate is not None, "First choose a row of the table."), free)
        allow(self.all, found, free)
        merges = self._merged
        undoable = self._live.corrections if self._own else merges and merges.merged
        merged = merges is not None and bool(merges.merged)
        allow(self.undo, (bool(undoable), "Nothing was merged."), free)
        self.write.setVisible(not self._own)
        allow(self.write, (merged, "Nothing was merged."), free)

    @property
    def _merged(self) -> MergedLayer | None:
        """Merges in the labels that were tested, where they are those of another layer."""
        return self._merges.get(self._of)

    def _asked_run(self) -> Run | None:
        """The run that can be asked: of the labels that were tested, in images without time."""
        run = self.run if self._of is self.labels.value() else None
        if run is None or run.plan.frames > 1:
            return None
        return run

    @property
    def candidate(self) -> Candidate | None:
        """The pair that is chosen."""
        row = self.table.currentRow()
        listed = () if self.report is None else self.report.candidates
        return listed[row] if 0 <= row < len(listed) else None

    # -- testing

    def begin(self, _: Any = None) -> None:
        """Look for false splits, as the button does."""
        layer = self.labels.value()
        if layer is None or self._row.busy:
            return
        own = layer is self._live.layer
        found = self._live.settled
        if own and found is None:
            self.message.emit(WAIT)
            return
        data = found.labels if own and found is not None else pixels(layer)
        axes = self._live.axes if own else _letters(layer)
        work = Splits(data, axes, self._grid())
        self._show_report(None)

        def done(report: SplitReport | None) -> None:
            if report is None:
                return
            self._of = layer
            self._heard = {}
            self._show_report(report)
            if own:
                self._correcting.candidates = report.candidates

        self._row.start(f"looking for false splits in {layer.name}", work, done)

    def _grid(self) -> dict[str, Any]:
        """How the engine is given the grid."""
        run = self.run
        if self.grid.value() == "run" and run is not None:
            space = run.plan.layout.spatial
            sizes = [part.stop - part.start for part in run.plan.area]
            return {"lines": lines_of(seams_of(run.plan), space, sizes)}
        if self.grid.value() == "given":
            return {"tile": self.tile.value(), "overlap": self.overlap.value()}
        return {}

    def _show_report(self, report: SplitReport | None) -> None:
        self.report = report
        self.comparison.clear()
        self.comparison.hide()
        if report is None:
            self.text.setText("")
        else:
            test = report.test
            effect = ""
            if test is not None:
                effect = f"Effect: {test.effect:.3g} pixels per seam more than on shifted lines."
            self.text.setText(
                boxed(in_dock(report.describe()), "warning" if report.cut else "good") + effect
            )
        self._fill()
        self.show_state()

    def _fill(self) -> None:
        listed = () if self.report is None else self.report.candidates
        with QSignalBlocker(self.table):
            self.table.setRowCount(len(listed))
            for row, candidate in enumerate(listed):
                for column, text in enumerate(self._cells(candidate)):
                    item = QTableWidgetItem(text)
                    if column in (1, 2):
                        item.setTextAlignment(
                            Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                        )
                    self.table.setItem(row, column, item)
            self.table.setCurrentCell(-1, -1)

    def _cells(self, candidate: Candidate) -> tuple[str, ...]:
        assert self.report is not None
        one, two = candidate.labels
        opinion = self._heard.get(candidate)
        return (
            f"{one} | {two}",
            str(candidate.pixels),
            f"{candidate.rate:.2g}",
            f"{self.report.axes[candidate.axis]} = {candidate.line}",
            "" if opinion is None else opinion.word,
        )

    # -- looking

    def _row_chosen(self, row: int, *_: int) -> None:
        candidate = self.candidate
        self.show_state()
        if candidate is not None:
            self.go_to(candidate)

    def go_to(self, candidate: Candidate) -> None:
        """Move the view to a pair, and show what both tiles predict there."""
        layer = self._of if self._merged is None else self._merged.shown
        if layer not in self._viewer.layers:
            return
        one, two = candidate.places
        middle = [(a + b) / 2 for a, b in zip(one, two, strict=True)]
        look_at(layer, middle, _ROOM, self._viewer, canvas_side(self))
        self._show_opinions(candidate)

    def _show_opinions(self, candidate: Candidate) -> None:
        run = self._asked_run()
        opinions = None if run is None else run.evidence.opinions
        self.comparison.setVisible(opinions is not None and opinions.complete)
        if run is None or opinions is None or not opinions.complete:
            return
        starts = [part.start for part in run.plan.area]
        one, two = (
            [p + start for p, start in zip(place[-len(starts) :], starts, strict=True)]
            for place in candidate.places
        )
        frame = tuple(start for start, _ in run.plan.frame_ranges)
        views = opinions.between(one, two, frame)
        if views is None:
            self.comparison.clear("These objects lie in tiles that touch only at a corner.")
            return
        names = run.model.channels_of(run.plan.facts)
        self.comparison.show_views(views, views.channel, ("before", "after"), names[views.channel])

    # -- asking

    def ask_again(self, _: Any = None) -> None:
        """Ask the network about all pairs."""
        run, report = self._asked_run(), self.report
        if run is None or report is None or self._row.busy:
            return
        plan = run.plan
        starts = [start for start, _ in plan.frame_ranges] + [part.start for part in plan.area]
        work = Ask(
            report.candidates, run.image, run.model, self._live.recipe, plan.settings,
            plan.out_axes.replace("c", ""), tuple(starts),
        )  # fmt: skip

        def done(heard: Sequence[Opinion] | None) -> None:
            for opinion in heard or ():
                self._heard[opinion.candidate] = opinion
            self._fill()
            made = sum(o.vanished is True for o in self._heard.values())
            asked = len(self._heard)
            self.text.setText(
                boxed(
                    f"{made} of {asked} splits vanish without a seam between the objects.",
                    "warning" if made else "good",
                )
            )
            self.show_state()

        self._row.start("asking the network again", work, done, turn=self._session.turn)

    def _confirmed(self) -> list[Candidate]:
        return [o.candidate for o in self._heard.values() if o.vanished]

    # -- merging

    def _merge_one(self, _: Any = None) -> None:
        if self.candidate is not None:
            self.merge_pairs([self.candidate])

    def _merge_all(self, _: Any = None) -> None:
        if self.report is not None:
            chosen = self.report.below(self.rate.value())
            if chosen:
                self.merge_pairs(chosen)
            else:
                self.message.emit(f"No pair has a rate of {self.rate.value():g} or less.")

    def _merge_confirmed(self, _: Any = None) -> None:
        self.merge_pairs(self._confirmed())

    def merge_pairs(self, chosen: Sequence[Candidate]) -> None:
        """Merge pairs, in one step."""
        if self._own:
            self._correcting.correct(partial(merge_candidates, candidates=list(chosen)))
        else:
            self._merge_elsewhere([c.labels for c in chosen])
        self.show_state()

    def _merge_elsewhere(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Merge in a layer of its own, above the one that was tested."""
        layer = self._of
        if layer is None or layer not in self._viewer.layers:
            self.message.emit("The labels are not in the viewer any more: test others.")
            return
        if layer not in self._merges:
            self._merges[layer] = MergedLayer(self._viewer, layer)
            self.offer_labels()  # without the layer that was added
        try:
            self._merges[layer].merge(pairs)
        except SeamscopeError as error:
            self.message.emit(in_dock(error))

    def _undo(self, _: Any = None) -> None:
        if self._own:
            self._correcting.undo()
        elif self._merged is not None:
            self._merged.undo()
        self.show_state()

    def _choose_file(self, _: Any = None) -> None:
        name, _kind = QFileDialog.getSaveFileName(
            self, "Write merged labels", "merged.ome.zarr", ENDINGS
        )
        if name:
            self.write_to(name)

    def write_to(self, target: str) -> None:
        """Write merged labels; an existing file is replaced, as the window for files has asked."""
        merges = self._merged
        if merges is None or self._row.busy:
            return
        pairs = merges.merged.pairs

        def done(written: Any) -> None:
            many = f"{len(pairs)} pair{'s' * (len(pairs) != 1)} merged"
            said = "Stopped: nothing is written." if written is None else f"{many}, in {target}."
            self.text.setText(boxed(plain(said), "warning" if written is None else "good"))

        work = partial(merge_pairs, merges.image(_letters(self._of)), pairs, target, overwrite=True)
        self._row.start(f"writing {Path(target).name}", work, done)


def _letters(layer: Any) -> str:
    """Axes of a labels layer."""
    named = "".join(str(name).strip().lower() for name in layer.axis_labels)
    if len(named) == layer.ndim and are_axes(named) and "c" not in named:
        return named
    return "tzyx"[-layer.ndim :]


__all__ = ["SplitsPage"]
