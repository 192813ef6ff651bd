"""The rows *Measure*: what each tile predicts is found once more, here or by workers.

Knows its controls, and where measures wait that were stopped. Does not know how seams are measured,
or how a measured run is shown.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QWidget

from seamscope.docks.controls import BUSY, allow, button, fill
from seamscope.docks.dock import Dock
from seamscope.docks.evidence import Evidence
from seamscope.docks.kept_work import KeptWork
from seamscope.docks.layers import area_in_view, file_of_layer, name_of
from seamscope.docks.looks import text_label
from seamscope.docks.results import Run
from seamscope.docks.run_on import RunOn
from seamscope.docks.tasks import measure_shared, predict
from seamscope.execution.pool import On
from seamscope.images.addresses import is_address
from seamscope.ledger import discard
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.prediction.run import Finished
from seamscope.seams.report import SeamReport

_TIPS = {
    "measure": "Predict once more, and keep what every tile predicts: for the slider's picture,\n"
    "both tiles side by side, and heat maps of pixels.",
    "again": "Remove what the stopped measurement has found, and begin again.",
}
_WORKERS_TIP = (
    "Workers measure all seams of the whole image, and keep no predictions of tiles: there is no "
    "preview of margins, and no picture of both tiles. What they have measured stays when they are "
    "stopped; what this process has measured is lost."
)
_NO_PLACE = (
    "The workers of a scheduler keep measures beside the result, on a disk that all of them see. "
    "Predict into a file (Save to, in the step Predict), and measure that result."
)


class MeasurePage(QWidget):
    """Measure a run that was not measured, or not in full; hidden where nothing is missing.

    Parameters
    ----------
    dock
        Its job measures, and its error row says what went wrong.
    run
        Returns the run that is shown.
    measured
        Called with a run whose evidence has grown.

    Attributes
    ----------
    kept
        Where measures wait of results that are in no file.
    """

    def __init__(
        self, dock: Dock, run: Callable[[], Run | None], measured: Callable[[Run], None]
    ) -> None:
        super().__init__()
        self._dock, self._run, self._measured = dock, run, measured
        self.note = text_label()
        self.run_on = RunOn(_WORKERS_TIP)
        self.measure = button("Measure", _TIPS["measure"])
        self.again = button("Begin again", _TIPS["again"])
        self.kept = KeptWork(self)
        fill(self, self.note, self.run_on, (self.measure, self.again))
        self.measure.clicked.connect(partial(self._start, False))
        self.again.clicked.connect(partial(self._start, True))
        self.run_on.value_changed.connect(self.show_state)

    # -- what is missing

    def show_state(self) -> None:
        """Offer to measure, or to go on with it."""
        run, busy = self._run(), self._dock.job.busy
        self.setVisible(run is not None and not run.evidence.kept and run.plan.tiles > 1)
        waits = run is not None and self.unfinished(run).exists()
        self.measure.setText("Go on" if waits else "Measure")
        useless = run is not None and self.run_on.value() is not None and _complete(run)
        free = not busy, BUSY
        allow(self.measure, free, (waits or not useless, "All seams are measured already."))
        self.again.setVisible(waits)
        allow(self.again, free)
        self.note.setText("" if run is None else self._missing(run, waits))

    def _missing(self, run: Run, waits: bool) -> str:
        if waits:
            return "A measurement of the whole image was stopped: <i>Go on</i> measures the rest."
        if self.run_on.value() is not None and _complete(run):
            return "All seams are measured; what each tile predicts is kept by this process only."
        if self.run_on.value() is not None:
            return "<i>Measure</i> has the workers measure all seams of the whole image."
        if Evidence.fits(run.plan):
            return "What each tile predicts was not kept: <i>Measure</i> predicts once more."
        return (
            "All predictions do not fit into a quarter of the free memory: <i>Measure</i> "
            "measures the region in view."
        )

    def unfinished(self, run: Run) -> Path:
        """Where measures wait that were stopped: beside the result, or in a temporary folder."""
        if _on_disk(run):
            return Path(f"{run.output.path}.seams.partial")
        return self.kept.folder(weakref.ref(run))  # a result that is deleted is not kept for this

    def forget(self, run: Run) -> None:
        """Remove what waits of a result that is deleted."""
        try:
            self.kept.remove(weakref.ref(run))
        except Exception as error:
            self._dock.fail(error, "Removing the measures")

    # -- measuring

    def _start(self, again: bool, _: Any = None) -> None:
        """Predict once more and keep everything; of large images what is in view."""
        run, on = self._run(), self.run_on.value()
        if run is None or self._dock.job.busy:
            return
        # what was stopped is of the whole image, so that only as much may take its place
        here = not self.unfinished(run).exists() or (again and Evidence.fits(run.plan))
        shared = on is not None or not here
        problem = self.run_on.problem
        if not problem and isinstance(on, str) and not _on_disk(run):
            problem = _NO_PLACE
        if problem:
            self._dock.tell(problem)
            return
        try:
            plan = self._plan(run, whole=shared)
        except Exception as error:
            self._dock.fail(error, "Measuring")
            return
        case = Case.planned(run.image, run.model, plan)
        if shared:
            self._measure_shared(run, case, on, again)
        else:
            self._measure_here(run, case, again)

    def _plan(self, run: Run, whole: bool) -> Plan:
        """The run's own tiles; with some overlap where they have none."""
        settings = run.settings.but(seams="all")
        if not whole and not Evidence.fits(run.plan):
            letters = run.plan.layout.axes[: run.layer.ndim]
            settings = settings.but(area=area_in_view(run.layer, letters, self._dock.viewer))
        if all(overlap == 0 for overlap in run.plan.grid.overlap):
            settings = settings.but(overlap=None)
        return Case.open(run.image, run.model, settings).plan

    def _measure_here(self, run: Run, case: Case, again: bool) -> None:
        evidence = Evidence(keep=True)

        def done(last: Any) -> None:
            if not isinstance(last, Finished):
                self._dock.tell("Stopped: nothing new was measured.", "warning")
                return
            self._know(run, evidence, last.seams)
            if again:
                self._remove_stopped(run)

        self._dock.start(_name(run), partial(predict, case, None, evidence), done)

    def _measure_shared(self, run: Run, case: Case, on: On, again: bool) -> None:
        """Have all seams measured so that it can go on: by workers, or here."""
        axes, layer, unfinished = case.plan.layout.axes, run.layer, self.unfinished(run)
        in_file = partial(file_of_layer, layer, axes) if name_of(layer) else None

        def done(report: SeamReport | None) -> None:
            if report is not None:
                self._know(run, Evidence(), report)
                return
            ending = (
                ". Go on continues from here."
                if unfinished.exists()
                else ": nothing new was measured."
            )
            self._dock.tell(f"Stopped{ending}", "warning")
            self.show_state()

        chosen = self._dock.session.settings
        device = None if chosen is None else chosen.device
        work = partial(measure_shared, case, in_file, unfinished, on, run.trust, again, device)
        self._dock.start(_name(run), work, done, kept=True)

    def _know(self, run: Run, evidence: Evidence, report: SeamReport | None) -> None:
        """Add to a run what was measured of it."""
        evidence.finish(report)
        run.evidence.take(evidence)
        self._measured(run)

    def _remove_stopped(self, run: Run) -> None:
        """Remove measures that newer ones replace."""
        try:
            discard(self.unfinished(run))
        except Exception as error:
            self._dock.fail(error, "Removing the measures")
        self.show_state()


def _complete(run: Run) -> bool:
    """Whether all seams of a run are measured."""
    report = run.evidence.report
    return report is not None and report.measured > 0 and report.complete


def _on_disk(run: Run) -> bool:
    """Whether a result is in a file of this machine, and not in memory or an object store."""
    return run.stored and not is_address(str(run.output.path))


def _name(run: Run) -> str:
    return f"measuring the seams of {run.layer.name}"


__all__ = ["MeasurePage"]
