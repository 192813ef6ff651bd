"""The page *Causes*: why there are seams, a comparison with no tiles, and the report of both.

Knows its controls, and the questions about a run. Does not know how causes are found, or
how a page of HTML looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFileDialog, QWidget

from seamscope.compare.certificate import Certificate, certify
from seamscope.docks.actions import Action, ActionRow
from seamscope.docks.controls import allow, button, fill
from seamscope.docks.job_row import JobRow
from seamscope.docks.looks import plain, text_label
from seamscope.docks.results import Run
from seamscope.docks.rich_text import rich_text
from seamscope.execution.devices import on_this_machine
from seamscope.explain.advice import advise
from seamscope.explain.causes import Diagnosis, diagnose
from seamscope.files import disk_errors, write_file
from seamscope.planning.case import Case
from seamscope.progress import Work
from seamscope.reports.describe import describe
from seamscope.seams.report import SeamReport

_MOST_WORST = 32  # seams that an inquiry looks at first
_NOTHING_TO_FIX = ("seamless", "not compared")
_NO_FIX = ("nothing", "explain")  # steps of advice
_FILES = "Web pages (*.html);;All files (*)"
_TIPS = {
    "explain": "Run experiments that find the causes of the seams, and the share of each.",
    "certify": "Compare the tiled prediction with an untiled one, on the largest crops that\n"
    "fit in memory, where seams are worst.",
    "report": "Write a page with all numbers, their definitions, the worst seams and what was\n"
    "found above, to read and to share. The worst seams are predicted once more.",
}


class CausesPage(QWidget):
    """Ask what a run's seams come from, and write what is known of them.

    Parameters
    ----------
    run
        Returns the run that is shown.
    results
        Returns its layers, which keep the answers.
    job, begin
        The dock's job, and how it begins: ``begin(name, function, done)``.
    fix
        What to do about a cause that was found.

    Attributes
    ----------
    diagnosis, certified
        What was found of the run; None until it is.
    """

    def __init__(
        self,
        run: Callable[[], Run | None],
        results: Callable[[], list[Any]],
        job: JobRow,
        begin: Callable[[str, Any, Callable[[Any], None]], None],
        fix: Action,
    ) -> None:
        super().__init__()
        self._run, self._results, self._job, self._begin = run, results, job, begin
        self._fix, self.actions = fix, ActionRow()
        self.diagnosis: Diagnosis | None = None
        self.certified: Certificate | None = None
        self.explain = button("Find the causes", _TIPS["explain"])
        self.certify = button("Compare with no tiles", _TIPS["certify"])
        self.report = button("Save report …", _TIPS["report"])
        self.causes, self.certificate, self.written = text_label(), text_label(), text_label()
        fill(
            self,
            *(self.explain, self.causes, self.actions, self.certify, self.certificate),
            *(self.report, self.written),
        )
        self.explain.clicked.connect(self.find_causes)
        self.certify.clicked.connect(self._certify)
        self.report.clicked.connect(self._choose_file)

    def forget(self) -> None:
        """Another run is shown."""
        self.diagnosis = self.certified = None
        self.actions.offer()
        for text in (self.causes, self.certificate, self.written):
            text.setText("")

    def show_state(self, needed: Sequence[tuple[bool, str]]) -> None:
        """Enable what makes sense; `needed` as for `seamscope.docks.controls.allow`."""
        for each in (self.explain, self.certify):
            allow(each, *needed)
        measured = self._measured() is not None
        allow(self.report, *needed, (measured, "First press Measure: a report needs measures."))

    def _measured(self) -> SeamReport | None:
        run = self._run()
        return None if run is None else run.evidence.report

    # -- questions

    def find_causes(self, _: Any = None) -> None:
        """Find the causes of the seams by experiments, as the button does."""
        self._inquire("finding the causes of seams", diagnose, self._explained)

    def _certify(self, _: Any = None) -> None:
        self._inquire("comparing with an untiled prediction", certify, self._certified)

    def _inquire(self, name: str, question: Any, done: Callable[[Any], None]) -> None:
        run, report = self._run(), self._measured()
        if run is None or self._job.busy:
            return
        worst = () if report is None else report.seams[:_MOST_WORST]
        ask = partial(question, run.image, run.model, run.settings, worst=worst)

        def show(answer: Any) -> None:
            if run is self._run():
                done(answer)

        self._begin(name, ask, show)

    def _explained(self, found: Diagnosis | None) -> None:
        if found is None:
            before = None if self.diagnosis is None else rich_text(describe(self.diagnosis))
            self.causes.setText(_stopped(before, "Stopped before a cause was found."))
            return
        self.diagnosis = found
        self.causes.setText(rich_text(describe(found)))
        useful = found.verdict not in _NOTHING_TO_FIX and self._fixable()
        self.actions.offer([self._fix] * useful)
        self._note("diagnosis", found.to_json())

    def _fixable(self) -> bool:
        """Whether the step Fix has more to offer than the causes that were just found."""
        run, report = self._run(), self._measured()
        if run is None:
            return False
        return advise(run.plan if report is None else report.plan, report).step not in _NO_FIX

    def _certified(self, found: Certificate | None) -> None:
        if found is None:
            before = None if self.certified is None else rich_text(describe(self.certified)[:1])
            said = _stopped(before, "Stopped before the comparison was complete.")
            self.certificate.setText(said)
            return
        self.certified = found
        self.certificate.setText(rich_text(describe(found)[:1]))
        self._note("certificate", found.to_json())

    def _note(self, name: str, record: dict[str, Any]) -> None:
        """Keep an answer with the layers of the result."""
        for layer in self._results():
            layer.metadata["seamscope"] = {**layer.metadata.get("seamscope", {}), name: record}

    # -- the report

    def _choose_file(self, _: Any = None) -> None:
        name, _kind = QFileDialog.getSaveFileName(self, "Save report", "seams.html", _FILES)
        if name:
            self.write_report(Path(name))

    def write_report(self, path: Path) -> None:
        """Write the page of the run to a file."""
        run, report = self._run(), self._measured()
        if run is None or report is None or self._job.busy:
            return
        case = Case.planned(run.image, run.model, report.plan)
        found = self.diagnosis, self.certified
        self.written.setText("")

        def written(done: bool | None) -> None:
            said = f"Written to {plain(path.name)}." if done else "Stopped: no report was written."
            self.written.setText(said)

        write = partial(_write, case, report, *found, path)
        self._begin(f"writing {path.name}", write, written)


def _stopped(before: str | None, sentence: str) -> str:
    """What is shown after Cancel: what an earlier answer said stays."""
    return sentence if before is None else f"{before}<p>Stopped. The earlier answer stays.</p>"


def _write(
    case: Case,
    report: SeamReport,
    diagnosis: Diagnosis | None,
    certificate: Certificate | None,
    path: Path,
    *,
    work: Work,
) -> bool:
    from seamscope.reports.run_page import run_page  # draws with matplotlib, which takes a second

    case = on_this_machine(case, work)
    text = run_page(case, report, diagnosis=diagnosis, certificate=certificate, work=work)
    with disk_errors(path, "No report was written."):
        write_file(path, text.encode())
    return True


__all__ = ["CausesPage"]
