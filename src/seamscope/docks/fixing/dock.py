"""The step *Fix*: from seams to none, by one button.

Knows the chain: advice -> what it needs -> run -> compare -> next advice. Does not know the rules
of advice (see `seamscope.explain.advice`), how anything is measured or predicted, or how results
are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Labels
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QSizePolicy

from seamscope.compare.blends import BlendComparison, compare_blends
from seamscope.docks.controls import BUSY, KEYS, NO_CASE, allow, button, form, keyed
from seamscope.docks.dock import Dock
from seamscope.docks.editors import Choice
from seamscope.docks.fixing.comparison import Comparison, Scores, scored
from seamscope.docks.fixing.cost import EXACT, Cost
from seamscope.docks.layers import file_of_layer, image_of, labels_image, sample_of
from seamscope.docks.looks import Kind, boxed, in_dock, text_label
from seamscope.docks.opening import open_step
from seamscope.docks.results import Run
from seamscope.docks.session import Fixed
from seamscope.docks.tasks import from_file
from seamscope.execution.devices import on_workers
from seamscope.explain.advice import Advice, advise
from seamscope.fixed_statistics.freezing import freeze_statistics
from seamscope.images.image import Image
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.progress import Work
from seamscope.settings import Settings
from seamscope.text import duration_text

_TIPS = {
    "fix": "Do what the sentence above says, run, and compare before and after.",
    "stop": "Stop. The earlier result stays, and is shown again.",
    "truth": "Correct labels (optional). Both results are compared with them (Dice): seamless is "
    "not the same as accurate.",
}
_WAITING = "Choose an image and a network in the step <i>Predict</i>."
_STOPPED = "Stopped. The earlier result stays."
_MOST_STEPS = 3  # of one chain


def with_exact_statistics(
    image: Image, model: Model, settings: Settings, run: Run | None, *, work: Work
) -> Model:
    """Find the statistics of the whole image, and make the network that uses them.

    The processes that made the run find them, and what a stopped search has found lies beside its
    result.
    """
    case = Case.open(image, model, settings.but(**EXACT))
    how: dict[str, Any] = {"work": work}
    if run is not None and run.on is not None:
        axes = image.axes
        in_file = partial(file_of_layer, run.layer, axes)
        case = on_workers(from_file(case, in_file, needed=True), run.on, work)
        kept = Path(f"{run.output.path}.statistics.partial")
        how |= {"on": run.on, "trust": run.trust, "partial": kept}
    found = freeze_statistics(case, how="exact", **how)
    network = model.with_statistics(found)
    network.describe()  # measured here, not in the window's thread
    return network


class FixDock(Dock):
    """Remove the seams of the last result.

    Parameters
    ----------
    napari_viewer
        The viewer whose results are fixed; runs are made by its dock *Tiled prediction*.

    Attributes
    ----------
    advice
        The next step; None without an image and a network.
    comparison
        The runs before and after the last chain.
    """

    def build(self) -> None:
        """Make the controls and wire them."""
        self.advice: Advice | None = None
        self._before: Run | None = None
        self._plain: Model | None = None  # the network of the chain
        self._done: list[str] = []  # steps of the chain that is going on
        self._chain = False
        self._halted = False  # the run that is still going on belongs to a stopped chain
        self._was: tuple[dict[str, Any], bool] | None = None  # controls, and whether fixed
        self.why = text_label()
        self.fix = button("Fix it", _TIPS["fix"])
        self.stop = keyed(button("Stop", _TIPS["stop"]), KEYS["cancel"])
        self.truth = Choice([("None", None)], _TIPS["truth"])
        self.truth.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.comparison = Comparison(self.viewer, self.session)
        self.cost = Cost(self.session, self)
        rows = form(("Correct labels (optional)", self.truth))
        parts = [self.why, self.fix, self.stop, self.job, self.error, rows, self.comparison]
        self.place(parts)
        self.fix.clicked.connect(self.begin)
        self.stop.clicked.connect(self.halt)
        self.comparison.undone.connect(self._undo)
        self.truth.value_changed.connect(self._score)
        self.cost.known.connect(self._show_state)
        self.session.run_begins.connect(self.comparison.swipe.close)
        self.job.changed.connect(self._show_state)
        self.session.changed.connect(self._changed)
        self.session.run_ended.connect(self._run_ended)
        self.session.run_progressed.connect(self._run_progressed)
        self.session.run_dropped.connect(self._run_dropped)

    @property
    def busy(self) -> bool:
        """Whether a chain is going on."""
        return self._chain or self.job.busy

    def follow(self) -> None:
        """Follow the session, the results that are compared, and labels that come and go."""
        layers = self.viewer.layers.events
        self.listen([layers.removed], self._layer_removed)
        self.listen((layers.inserted, layers.removed, layers.renamed), self._offer_truth)
        self._changed()

    def leave(self) -> None:
        """Stop the chain."""
        self.halt()
        self.comparison.swipe.close()

    def showEvent(self, event: Any) -> None:  # noqa: N802
        """Say what a fix costs, which is not found out for a page that is hidden."""
        super().showEvent(event)
        self._show_state()

    # -- what to do

    def _last(self) -> Run | None:
        """The newest finished run of the network and image that are loaded."""
        session = self.session
        for run in reversed(session.runs):
            same = run.model is session.model and run.layer is session.layer
            if self._is_there(run) and same and run.finished:
                return run
        return None

    def _changed(self) -> None:
        """Another network, image, plan or result: think again."""
        if not self.awake or self._chain:
            return
        self._forget_others()
        self.advice = self._advise()
        self._offer_truth()
        self._show_state()

    def _forget_others(self) -> None:
        """Compare no results of another network or image; its controls are not set back."""
        after, session = self.comparison.after, self.session
        if after is None:
            return
        if session.plain is not self._plain or session.layer is not after.layer:
            self.comparison.set_runs(None, None)

    def _layer_removed(self, _: Any = None) -> None:
        """Compare only results that are there."""
        compared = self.comparison.before, self.comparison.after
        runs = [run for run in compared if run is not None]
        if not self._chain and not all(map(self._is_there, runs)):
            self.comparison.set_runs(None, None)
        self._changed()

    def _is_there(self, run: Run) -> bool:
        return any(layer in self.viewer.layers for layer in self.session.layers_of(run))

    def _advise(self) -> Advice | None:
        run, plan, asked = self._last(), self.session.plan, self.session.settings
        if run is not None and run.evidence.report is not None:
            return advise(run.evidence.report.plan, run.evidence.report, asked)
        return None if plan is None else advise(plan, asked=asked)

    def _show_state(self) -> None:
        advice, busy = self.advice, self.busy
        if advice is None:
            self.why.setText(_WAITING)
        elif not busy:
            self.why.setText(boxed(in_dock(advice.why), "warning" if advice.needed else "good"))
        said = not busy and self.comparison.after is not None  # the comparison says that it is good
        self.why.setHidden(said and advice is not None and not advice.needed)
        self.fix.setText(self._button(advice))
        allow(
            self.fix,
            (advice is not None, NO_CASE),
            (advice is None or advice.needed, "There is nothing to fix: see the sentence above."),
            (not busy, BUSY),
        )
        self.fix.setHidden(busy or self.why.isHidden())
        self.stop.setVisible(self._chain)
        if not busy:
            self.job.hide()
        self.job.cancel.setVisible(not self._chain)  # one button, and one key, to stop a chain

    def _button(self, advice: Advice | None) -> str:
        if advice is None or not advice.needed:
            return "Fix it"
        seconds = self.cost.seconds(advice) if self.isVisible() and not self.busy else None
        if seconds is None:
            return advice.button
        exact = "exact, " if advice.step == "statistics" else ""
        return f"{advice.button}\n({exact}about {duration_text(seconds)})"

    # -- the chain

    def begin(self, _: Any = None) -> None:
        """Fix it, as the button does."""
        if self.busy or self.advice is None or self.session.running:
            return
        if not self.advice.needed:
            self.why.show()  # it says why there is nothing to do
            return
        settings = self.session.settings
        if settings is None or self.session.plan is None:
            return
        self.tell("")
        self._before, self._plain, self._done = self._last(), self.session.plain, []
        controls = {
            "tile": settings.tile,
            "halo": settings.halo,
            "overlap": "auto" if settings.overlap is None else settings.overlap,
            "blend": settings.blend,
        }
        self._was = controls, self.session.model is not self.session.plain
        self._chain = True
        self.comparison.set_runs(None, None)
        self._do(self.advice)

    def halt(self, _: Any = None) -> None:
        """Stop the chain; the earlier result is shown again."""
        if not self._chain:
            return
        self._chain = False
        self._halted = self.session.running
        self.job.stop()
        self.session.stop_wanted.emit()
        self._show_earlier()
        self.tell(_STOPPED, "warning")
        self._changed()

    def _do(self, advice: Advice) -> None:
        """Take one step."""
        self.advice = advice
        self._done.append(advice.step)
        self.why.setText(boxed(in_dock(advice.why), "warning"))
        steps: dict[str, Callable[[Advice], None]] = {
            "halo": self._set_halo,
            "statistics": self._fix_statistics,
            "blend": self._blend,
            "explain": self._explain,
        }
        steps[advice.step](advice)
        self._show_state()

    def _set_halo(self, advice: Advice) -> None:
        plan = self.session.plan
        reach = None if plan is None else plan.reach.useful
        halo: Any = "auto" if advice.halo == reach else [max(s) for s in advice.halo or ()]
        self._run(halo=halo, tile=advice.tile or "auto", overlap="auto")

    def _fix_statistics(self, advice: Advice) -> None:
        session = self.session
        plain, layer, plan = session.plain, session.layer, session.plan
        if plain is None or layer is None or plan is None or session.settings is None:
            self._give_up("")
            return
        try:
            image = image_of(layer, plan.layout.axes)
        except Exception as error:
            self._give_up("")
            self.fail(error, "Reading the image")
            return

        def fixed(network: Model | None) -> None:
            if network is None or not self._chain:
                self._give_up(_STOPPED)
                return
            session.fix(Fixed(plain, network, layer))
            self._run(halo="auto", tile=advice.tile or "auto", overlap="auto")

        fix = partial(with_exact_statistics, image, plain, session.settings, self._before)
        self._work(f"fixing the statistics of {layer.name}", fix, fixed)

    def _blend(self, advice: Advice) -> None:
        session = self.session
        model, layer, plan, settings = (
            session.model, session.layer, session.plan, session.settings,
        )  # fmt: skip
        if model is None or layer is None or plan is None or settings is None:
            self._give_up("")
            return
        wanted = settings.but(
            tile=plan.grid.tile_shape,
            halo=plan.grid.halo,
            blend="linear",
            result="probabilities",
            seams="none",
        )

        def compared(found: BlendComparison | None) -> None:
            if found is None or not self._chain:
                self._give_up(_STOPPED)
                return
            best = found.recommended.blend
            if best == settings.blend:
                self._give_up(
                    f"{best.capitalize()} is the best blending already: {found.describe()}"
                )
                return
            own = found.settings
            self._run(blend=best, tile=tuple(own["tile"]), overlap=tuple(own["overlap"]))

        try:
            image = image_of(layer, plan.layout.axes)
        except Exception as error:
            self._give_up("")
            self.fail(error, "Reading the image")
            return
        compare = partial(compare_blends, image, model, wanted)
        self._work(f"comparing ways of blending {layer.name}", compare, compared)

    def _explain(self, _: Advice) -> None:
        self._chain = False
        open_step(self.viewer, "seams", lambda dock: dock.find_causes())

    def _work(self, name: str, function: Any, done: Callable[[Any], None]) -> None:
        def failed(error: Exception) -> None:
            self._give_up("")
            self.fail(error, name[:1].upper() + name[1:])

        self.start(name, function, done, failed)

    def _run(self, **controls: Any) -> None:
        self.session.want_run(**controls)
        if not self.session.running:
            self._run_dropped()

    def _run_progressed(self, text: str, done: int, total: int) -> None:
        """The run of the chain goes on, in another page."""
        if self._chain:
            self.job.show_other(text, done, total)

    def _run_dropped(self) -> None:
        """There is no result to compare."""
        self._halted = False
        if self._chain and not self.job.busy:
            self._give_up("No result was made: see the step Predict.", "error")

    def _give_up(self, why: str, kind: Kind = "warning") -> None:
        self._chain = False
        self._show_earlier()
        self.tell(why, kind)
        self._changed()

    def _run_ended(self, run: Run) -> None:
        if not self._chain:
            if self._halted and not run.finished:
                self._show_earlier()
            self._halted = False
            self._changed()
            return
        if not run.finished:
            self._give_up(_STOPPED)
            return
        report = run.evidence.report
        advice = None if report is None else advise(report.plan, report, self.session.settings)
        again = advice is not None and advice.needed and advice.step not in self._done
        if again and advice is not None and len(self._done) < _MOST_STEPS:
            self._do(advice)
            return
        self._chain = False
        self.comparison.set_runs(self._before, run)
        self._changed()
        self._score()

    # -- accuracy, and back

    def _offer_truth(self, _: Any = None) -> None:
        """Offer the labels that the viewer has, and those of a sample image."""
        layer = self.session.layer
        options: list[tuple[str, Any]] = [("None", None)]
        if layer is not None and sample_of(layer):
            options.append((f"of the sample {layer.name}", sample_of(layer)))
        own = [(x.name, x) for x in self.viewer.layers if isinstance(x, Labels)]
        chosen = self.truth.value()
        with QSignalBlocker(self.truth):
            self.truth.set_options([*options, *own])
        if self.truth.value() != chosen:  # those labels are gone
            self._score()

    def _score(self, _: Any = None) -> None:
        """Compare both results with the labels that are chosen, and with no others."""
        labels, after = self.truth.value(), self.comparison.after
        if self._chain:
            return
        self.job.abandon()
        self.comparison.set_scores({})
        if labels is None or after is None:
            return
        runs = [run for run in (self.comparison.before, after) if run is not None]
        image = labels if isinstance(labels, str) else labels_image(labels, after.plan)

        def known(found: dict[Run, Scores] | None) -> None:
            if found is not None:
                self.comparison.set_scores(found)

        def failed(error: Exception) -> None:
            self.fail(error, "Comparing with the labels")

        self.tell("")
        function = partial(scored, runs, image)
        self.job.start("comparing with the labels", function, known, None, failed)

    def _show_earlier(self) -> None:
        if self._before is not None:
            self.session.show_only(self._before)

    def _undo(self) -> None:
        """Set everything as it was before the chain."""
        if self._was is None:
            return
        controls, fixed = self._was
        if not fixed and self.session.fixed is not None:
            self.session.fix(None)
        self.session.set_wanted.emit(controls)
        self.comparison.set_runs(None, None)
        self._show_earlier()
        self._changed()


__all__ = ["FixDock", "with_exact_statistics"]
