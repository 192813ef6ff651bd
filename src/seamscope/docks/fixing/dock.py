"""The step *Fix*: from seams to none, by one button.

Knows the chain: advice -> what it needs -> run -> compare -> next advice. Does not know the rules
of advice (see `seamscope.explain.advice`), or how anything is measured or predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from qtpy.QtWidgets import QHBoxLayout

from seamscope.compare.before_after import BeforeAfter
from seamscope.compare.blends import BlendComparison, compare_blends
from seamscope.docks.controls import KEYS, button, keyed
from seamscope.docks.dock import Dock
from seamscope.docks.layers import image_of
from seamscope.docks.looks import boxed, in_dock, text_label
from seamscope.docks.opening import open_step
from seamscope.docks.results import Run
from seamscope.docks.rich_text import rich_text
from seamscope.docks.session import Fixed
from seamscope.explain.advice import Advice, advise
from seamscope.fixed_statistics.freezing import freeze_statistics
from seamscope.images.image import Image
from seamscope.models.model import Model
from seamscope.reports.describe import describe
from seamscope.settings import Settings
from seamscope.work import Work

_TIPS = {
    "fix": "Do what the sentence above says, run, and compare before and after.",
    "stop": "Stop. The earlier result stays, and is shown again.",
    "swap": "Show the result before the fix, or the result after it, in the same view.",
    "undo": "Show the earlier result, and set the controls as they were.",
}
_WAITING = "Choose an image and a network in the step <i>Predict</i>."
_MOST_STEPS = 3  # of one chain


def _with_exact_statistics(image: Image, model: Model, settings: Settings, *, work: Work) -> Model:
    """Find the statistics of the whole image, and make the network that uses them."""
    wanted = settings.but(
        tile="auto", halo="auto", overlap=None, area=None, blend="crop", seams="none"
    )
    found = freeze_statistics(image, model, "exact", wanted, work=work)
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
    before, after
        Runs that are compared; None before a chain is over.
    """

    def build(self) -> None:
        """Make the controls and wire them."""
        self.advice: Advice | None = None
        self.before: Run | None = None
        self.after: Run | None = None
        self._done: list[str] = []  # steps of the chain that is going on
        self._chain = False
        self._halted = False  # the run that is still going on belongs to a stopped chain
        self._was: tuple[dict[str, Any], bool] | None = None  # controls, and whether fixed
        self.why = text_label()
        self.fix = button("Fix it", _TIPS["fix"])
        self.stop = keyed(button("Stop", _TIPS["stop"]), KEYS["cancel"])
        self.comparison = text_label()
        self.swap = button("Show before", _TIPS["swap"])
        self.undo = button("Undo", _TIPS["undo"])
        row = QHBoxLayout()
        row.addWidget(self.swap)
        row.addWidget(self.undo)
        self.place([self.why, self.fix, self.stop, self.job, self.error, self.comparison, row])
        self.fix.clicked.connect(self.begin)
        self.stop.clicked.connect(self.halt)
        self.swap.clicked.connect(self._swap)
        self.undo.clicked.connect(self._undo)
        self.job.changed.connect(self._show_state)
        self.session.changed.connect(self._changed)
        self.session.run_ended.connect(self._run_ended)
        self._show_comparison()

    @property
    def busy(self) -> bool:
        """Whether a chain is going on."""
        return self._chain or self.job.busy

    def follow(self) -> None:
        """Follow the session, and the results that are compared."""
        self.listen([self.viewer.layers.events.removed], self._layer_removed)
        self._changed()

    def leave(self) -> None:
        """Stop the chain."""
        self.halt()

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
        self.advice = self._advise()
        self._show_state()

    def _layer_removed(self, _: Any = None) -> None:
        """Compare only results that are there."""
        runs = [run for run in (self.before, self.after) if run is not None]
        if not self._chain and not all(map(self._is_there, runs)):
            self.before = self.after = None
            self._show_comparison()
        self._changed()

    def _is_there(self, run: Run) -> bool:
        return any(layer in self.viewer.layers for layer in self.session.layers_of(run))

    def _advise(self) -> Advice | None:
        run, plan = self._last(), self.session.plan
        if run is not None and run.evidence.report is not None:
            return advise(run.evidence.report.plan, run.evidence.report)
        return None if plan is None else advise(plan)

    def _show_state(self) -> None:
        advice, busy = self.advice, self.busy
        if advice is None:
            self.why.setText(_WAITING)
        elif not busy:
            self.why.setText(boxed(in_dock(advice.why), "warning" if advice.needed else "good"))
        self.fix.setText(advice.button if advice is not None and advice.needed else "Fix it")
        self.fix.setEnabled(advice is not None and advice.needed and not busy)
        self.fix.setVisible(not busy)
        self.stop.setVisible(self._chain)

    # -- the chain

    def begin(self, _: Any = None) -> None:
        """Fix it, as the button does."""
        if self.busy or self.advice is None or self.session.running:
            return
        settings = self.session.settings
        if settings is None or self.session.plan is None:
            return
        self.tell("")
        self.before, self.after, self._done = self._last(), None, []
        controls = {
            "tile": settings.tile,
            "halo": settings.halo,
            "overlap": "auto" if settings.overlap is None else settings.overlap,
            "blend": settings.blend,
        }
        self._was = controls, self.session.model is not self.session.plain
        self._chain = True
        self._show_comparison()
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
        self.tell("Stopped. The earlier result stays.")
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
        reach = None if plan is None else plan.reach.halo or plan.reach.convolutional
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
                self._give_up("Stopped. The earlier result stays.")
                return
            session.fix(Fixed(plain, network, layer))
            self._run(halo="auto", tile=advice.tile or "auto", overlap="auto")

        fix = partial(_with_exact_statistics, image, plain, session.settings)
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
                self._give_up("Stopped. The earlier result stays.")
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

        self.job.start(name, function, done, self.session.turn, failed)

    def _run(self, **controls: Any) -> None:
        self.session.want_run(**controls)
        if not self.session.running:
            self._give_up("The run did not begin: the step Predict says why.")

    def _give_up(self, why: str) -> None:
        self._chain = False
        self._show_earlier()
        self.tell(why)
        self._changed()

    def _run_ended(self, run: Run) -> None:
        if not self._chain:
            if self._halted and not run.finished:
                self._show_earlier()
            self._halted = False
            self._changed()
            return
        if not run.finished:
            self._give_up("Stopped. The earlier result stays.")
            return
        self.after = run
        report = run.evidence.report
        advice = None if report is None else advise(report.plan, report)
        again = advice is not None and advice.needed and advice.step not in self._done
        if again and advice is not None and len(self._done) < _MOST_STEPS:
            self._do(advice)
            return
        self._chain = False
        self._changed()
        self._show_comparison()

    # -- before and after

    def _show_comparison(self) -> None:
        before, after = self.before, self.after
        reports = [None if run is None else run.evidence.report for run in (before, after)]
        if reports[0] is not None and reports[1] is not None:
            effect = BeforeAfter(reports[0], reports[1], "exact")
            self.comparison.setText(rich_text(describe(effect)))
        elif reports[1] is not None:
            good = reports[1].seamless
            self.comparison.setText(boxed(reports[1].sentence(), "good" if good else "warning"))
        else:
            self.comparison.setText("")
        both = before is not None and after is not None and not self._chain
        self.swap.setVisible(both)
        self.swap.setText("Show before")
        self.undo.setVisible(after is not None and not self._chain)

    def _swap(self, _: Any = None) -> None:
        """Show the other of both results."""
        to_before = self.swap.text() == "Show before"
        self.session.show_only(self.before if to_before else self.after)
        self.swap.setText("Show after" if to_before else "Show before")

    def _show_earlier(self) -> None:
        if self.before is not None:
            self.session.show_only(self.before)

    def _undo(self, _: Any = None) -> None:
        """Set everything as it was before the chain."""
        if self._was is None:
            return
        controls, fixed = self._was
        if not fixed and self.session.fixed is not None:
            self.session.fix(None)
        self.session.set_wanted.emit(controls)
        self._show_earlier()
        self.after = None
        self._show_comparison()
        self._changed()


__all__ = ["FixDock"]
