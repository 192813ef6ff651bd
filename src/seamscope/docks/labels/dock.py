"""The dock *Labels*: from a prediction to objects, live, corrected, checked and written.

Knows its controls, and how they are wired: source and recipe -> `Live` -> plots, counts, pages.
Does not know how objects are found, drawn or corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QFileDialog

from seamscope.docks.controls import allow, beside, button, form, page_of
from seamscope.docks.dock import Dock
from seamscope.docks.editors import Choice
from seamscope.docks.job import Job, Outcome
from seamscope.docks.job_row import JobRow
from seamscope.docks.labels.background import Built, Counted, corrections_file
from seamscope.docks.labels.corrections_page import CorrectionsPage
from seamscope.docks.labels.live import Live
from seamscope.docks.labels.recipe_panel import RecipePanel
from seamscope.docks.labels.source import Source, sources
from seamscope.docks.labels.splits_page import SplitsPage
from seamscope.docks.labels.threshold_plot import ThresholdPlot
from seamscope.docks.labels.write_page import WritePage, suggested_place
from seamscope.docks.layers import camera
from seamscope.docks.looks import boxed, in_dock, set_row, text_label
from seamscope.docks.pages import Pages
from seamscope.docks.results import Run
from seamscope.docks.run_on import RunOn
from seamscope.docks.typed_place import typed_place
from seamscope.images.image import Image
from seamscope.segmentation.guess import Guess, guess_recipe

_TIPS = {
    "source": "Prediction that objects are made of: a result of Seamscope, any image layer of\n"
    "probabilities, or a file.",
    "open": "Use the prediction in a file: OME-Zarr, zarr, TIFF or npy.",
    "axes": "What the axes of the prediction are: c channels, t time, z y x space.",
    "segment": "Find the objects: first of what is in view, then of the whole image.",
    "whole": "Find the objects of the whole image. Corrections and writing need it.",
}
_TABS = {
    "Filters": "Which objects are kept, by size and place, and how holes are filled.",
    "Correct": "Merge, split, delete, paint and lock objects by hand.",
    "False splits": "Find objects that were cut where two tiles meet, and merge them.",
    "Write": "Write labels and the table of objects to files, and measure objects.",
}
_FILES = "Predictions (*.zarr *.tif *.tiff *.npy);;All files (*)"
_RUN_ON = (
    "It writes the objects, and finds those of a large image; the rest is done here. Writing that "
    "is stopped can go on; finding objects begins again."
)
_NO_PLACE = (
    "The workers of a scheduler keep what they find in files. Name the file of the labels on the "
    "page Write, on a disk that all of them see."
)
_WAITING = "Choose a prediction, and press <i>Segment</i>."
_READY = "Press <i>Segment</i>: objects are made of this prediction."


class LabelsDock(Dock):
    """Make objects of a prediction, live.

    Parameters
    ----------
    napari_viewer
        The viewer whose predictions are offered.

    Attributes
    ----------
    live
        What is segmented.
    """

    least_width = 400

    def build(self) -> None:
        """Make the controls and wire them."""
        self._files: list[str] = []
        self._image: Image | None = None
        self._guessing: Job | None = None
        self._guessed: Any = None  # what the recipe was chosen for
        self._made_room = False  # the labels were hidden for a prediction
        self.building = JobRow()
        self.live = Live(self.viewer, self.building, self)
        self.source = Choice((), _TIPS["source"])
        self.open = button("Open …", _TIPS["open"])
        self.axes = Choice((), _TIPS["axes"])
        self.run_on = RunOn(_RUN_ON)
        self.recipe = RecipePanel()
        self.question = text_label()
        self.segment = button("Segment", _TIPS["segment"])
        self.whole = button("Segment the whole image", _TIPS["whole"])
        self.verdict = text_label()
        self.plot = ThresholdPlot()
        self.correcting = CorrectionsPage(self.viewer, self.live, self.job)
        self.splits = SplitsPage(self.viewer, self.session, self.live, self.job, self.correcting)
        self.writing = WritePage(self.live, self.job)
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        self.form = form(
            ("Prediction", beside(self.source, self.open)),
            ("Axes", self.axes),
            ("Run on", self.run_on),
        )
        self.tabs = Pages()
        pages = page_of(self.recipe.more), self.correcting, self.splits, self.writing
        for page, (name, tip) in zip(pages, _TABS.items(), strict=True):
            self.tabs.add(page, name, tip)
        self.place(
            [
                self.form, self.recipe, self.question, self.segment, self.building,
                self.error, self.verdict, self.whole, self.plot, self.tabs, self.job,
            ]
        )  # fmt: skip

    def _connect(self) -> None:
        self.source.value_changed.connect(self._source_chosen)
        self.axes.value_changed.connect(self._axes_chosen)
        self.open.clicked.connect(self._choose_file)
        self.recipe.value_changed.connect(self._recipe_changed)
        self.segment.clicked.connect(self.begin)
        self.whole.clicked.connect(self._whole_wanted)
        self.plot.moved.connect(self._line_moved)
        self.building.changed.connect(self._show_state)
        self.building.failed.connect(self.tell)
        self.job.changed.connect(self._job_changed)
        self.run_on.value_changed.connect(self._run_on_changed)
        live = self.live
        live.scratch = self._scratch
        live.layered.connect(self.correcting.bind_keys)
        live.built.connect(self._built)
        live.curves.connect(self._curves_changed)
        live.counted.connect(self._counted)
        live.failed.connect(self.fail)
        live.drawn.connect(self.correcting.show_state)
        live.drawn.connect(self.splits.objects_changed)
        self.splits.message.connect(self.tell)
        self.correcting.message.connect(self.tell)
        self.writing.refused.connect(self.tell)
        self.writing.placed.connect(self._place_named)
        self.session.run_begins.connect(self._make_room)
        self.session.run_dropped.connect(self._come_back)
        self.session.run_ended.connect(self._run_ended)
        self._show_source()

    # -- for programs

    @property
    def busy(self) -> bool:
        """Whether anything is being computed."""
        return self.live.busy or self.job.busy or self._guessing is not None

    # -- coming and going

    def follow(self) -> None:
        """Follow the viewer."""
        layers = self.viewer.layers.events
        self.listen([layers.inserted, layers.removed, layers.renamed], self._offer_sources)
        self.listen([layers.removed], self._layer_removed)
        eye = camera(self.viewer).events
        dims = self.viewer.dims.events
        self.listen([eye.center, eye.zoom, dims.current_step, dims.ndisplay], self._view_moved)
        self.correcting.follow()
        self.listen([layers.inserted, layers.removed, layers.renamed], self.splits.offer_labels)
        self._offer_sources()

    def leave(self) -> None:
        """Stop work."""
        self.correcting.leave()
        self.job.stop()
        self.building.stop()

    def plots(self) -> Sequence[Any]:
        """The curve and the histogram."""
        return (self.plot,)

    def _view_moved(self, _: Any = None) -> None:
        self.live.view_moved()

    def _layer_removed(self, event: Any) -> None:
        if event.value is self.live.layer:
            self.live.end()
            self.correcting.forget()
            self.plot.show_curves(None, None)
            self.verdict.setText(_WAITING)
            self._show_state()

    # -- the source

    def _offer_sources(self, _: Any = None) -> None:
        if not self.awake:
            return
        listed = sources(self.viewer, self.session, self._files)
        kept = self.source.value()
        same = next((s for s in listed if kept is not None and s.key is kept.key), None)
        with QSignalBlocker(self.source):
            self.source.set_options([(s.title, s) for s in listed])
            if same is not None:
                self.source.set_value(same)
        now = self.source.value()
        if (now and now.key) is not self._guessed:
            self._source_chosen()

    def _run_ended(self, run: Run) -> None:
        """A result that was just predicted is what objects are made of next."""
        self._offer_sources()
        for i in range(self.source.count()):
            if self.source.itemData(i).run is run:
                self.source.setCurrentIndex(i)

    def _source_chosen(self) -> None:
        self.tell("")
        self._show_source()

    def open_file(self, path: str) -> None:
        """Offer the prediction in a file, and choose it."""
        if path not in self._files:
            self._files.insert(0, path)
        self._offer_sources()
        for i in range(self.source.count()):
            if self.source.itemData(i).path == path:
                self.source.setCurrentIndex(i)

    def _choose_file(self, _: Any = None) -> None:
        name, _kind = QFileDialog.getOpenFileName(self, "Open a prediction", "", _FILES)
        if name:
            self.open_file(name)

    def _show_source(self) -> None:
        """Read what is known of the source without its pixels, then look at some of them."""
        source: Source | None = self.source.value()
        self._guessed = None if source is None else source.key
        self._image = None
        readings: tuple[str, ...] = ()
        if source is not None:
            try:
                readings = source.readings()
            except Exception as error:
                self.fail(error, "Opening the prediction")
        with QSignalBlocker(self.axes):
            self.axes.set_options([(axes, axes) for axes in readings])
            self.axes.setCurrentIndex(0 if readings else -1)
        set_row(self.form, self.axes, len(readings) > 1)
        self._axes_chosen()

    def _axes_chosen(self) -> None:
        source: Source | None = self.source.value()
        self._image = None
        if source is not None and self.axes.value() is not None:
            try:
                self._image = source.open(self.axes.value())
                self._guess(source, self._image)
            except Exception as error:
                self.fail(error, "Opening the prediction")
        if self.live.image is None:
            self.verdict.setText(_WAITING if self._image is None else _READY)
        self._show_state()

    def _guess(self, source: Source, image: Image) -> None:
        """Choose a recipe, beside the window: some pixels are read."""
        axes = image.axes or ""
        count = image.shape[axes.index("c")] if "c" in axes else 1
        names = source.names or tuple(f"channel {i}" for i in range(count))
        self.recipe.set_channels(names, sum(letter in "zyx" for letter in axes))
        if self._guessing is not None:
            self._guessing.abandon()

        def ended(outcome: Outcome) -> None:
            self._guessing = None
            if outcome.error is not None:
                self.fail(outcome.error, "Reading the prediction")
            elif image is self._image and outcome.value is not None:
                self._show_guess(outcome.value)
            self._show_state()

        work = lambda **_: guess_recipe(image, source.names)  # noqa: E731
        self._guessing = Job("looking at the prediction", work, self)
        self._guessing.ended.connect(ended)
        self._guessing.start()

    def _show_guess(self, guess: Guess) -> None:
        self.recipe.show_value(guess.recipe)
        self.question.setText(boxed(in_dock(guess.question), "warning") if guess.question else "")
        self.question.setVisible(bool(guess.question))

    # -- segmenting

    def begin(self, _: Any = None) -> None:
        """Segment, as the button does."""
        source, image = self.source.value(), self._image
        if source is None or image is None or self._guessing is not None:
            return
        if not self.writing.place.text():
            self.writing.show_place(suggested_place(image.source))
        if self._refused():
            return
        self.plot.show_curves(None, None)
        self.verdict.setText("")
        self.correcting.forget()
        try:
            self.live.begin(source, image, self.recipe.value(), self._kept)
            for layer in () if source.run is None else self.session.layers_of(source.run):
                layer.visible = False  # its colours would mix with those of the labels
        except Exception as error:
            self.fail(error, "Segmenting")
        self._show_state()

    def _make_room(self) -> None:
        """A prediction begins: the labels of an earlier one would shine through it."""
        layer = self.live.layer
        self._made_room = layer is not None and layer.visible
        if self._made_room:
            layer.visible = False

    def _come_back(self) -> None:
        """It did not begin."""
        if self._made_room and self.live.layer is not None:
            self.live.layer.visible = True
        self._made_room = False

    def _run_on_changed(self) -> None:
        self.live.on = self.run_on.value()
        self._show_state()

    def _refused(self) -> bool:
        """Say what is missing for workers, if anything is; the error before is over."""
        place = self.writing.place.text().strip()
        problem = self.run_on.problem
        if not problem and isinstance(self.live.on, str):
            problem = typed_place(place)[1] if place else _NO_PLACE
        self.tell(problem)
        return bool(problem)

    def _scratch(self) -> Path | None:
        """Where the workers of a scheduler find what others have found: beside the labels."""
        place, _ = typed_place(self.writing.place.text().strip())
        return None if place is None or not isinstance(self.live.on, str) else place.parent

    def _kept(self) -> Callable[[str], Path | None]:
        """What names the file of corrections, for labels that go where the page says now."""
        return partial(corrections_file, self.writing.place.text().strip())

    def _place_named(self, _: str) -> None:
        """Corrections that were kept in memory are saved beside the labels."""
        edits = self.live.corrections
        if edits is not None and self.live.found is not None:
            self.correcting.place_chosen(self._kept()(self.live.identity))

    def _whole_wanted(self, _: Any = None) -> None:
        if not self._refused():
            self.live.build_whole(wanted=True)
        self._show_state()

    def _recipe_changed(self) -> None:
        if self.live.image is None:
            return
        self.tell("")
        before = self.live.recipe
        self.live.set_recipe(self.recipe.value())
        if not before.same_basins(self.recipe.value()):
            self.verdict.setText("")
            self.correcting.forget()
            self._show_state()

    def _line_moved(self, value: float) -> None:
        """The line is another threshold, of the parameter that the curve is about."""
        if self.plot.curve is None:
            return
        changes: dict[str, Any] = {self.plot.curve.name: value}
        self.recipe.set_value(self.recipe.value().but(**changes))

    def _built(self, built: Built) -> None:
        self._curves_changed(built.curves)
        if built.refused:
            self.tell(in_dock(built.refused))
        else:
            self._place_named("")  # perhaps it was named while the objects were found
        self._show_state()

    def _curves_changed(self, curves: Any) -> None:
        picture = self.live.picture
        self.plot.show_curves(curves, None if picture is None else picture.found)

    def _counted(self, counted: Counted) -> None:
        if counted.note:
            self.verdict.setText(boxed(in_dock(counted.note), "warning"))
            return
        noun = "class" if counted.found.recipe.kind == "classes" else "object"
        plural = {"class": "es", "object": "s"}[noun] * (counted.count != 1)
        many = f"{counted.count:,} {noun}{plural}"
        if self.live.whole:
            self.verdict.setText(f"<b>{many}</b> in the whole image.")
        else:
            self.verdict.setText(
                f"<b>{many}</b> in the part in view. Hatched objects go on outside of it."
            )

    def _job_changed(self) -> None:
        if self.job.busy:  # what went wrong before is over
            self.tell("")
        self._show_state()

    def _show_state(self) -> None:
        allow(
            self.segment,
            (self._image is not None, "First choose a prediction: press Run in the step Predict."),
            (self._guessing is None, "The prediction is being looked at."),
        )
        partial = self.live.image is not None and not self.live.whole
        self.whole.setVisible(partial and not self.building.busy)
        self.correcting.show_state()
        self.splits.offer_labels()
        self.writing.show_state()


__all__ = ["LabelsDock"]
