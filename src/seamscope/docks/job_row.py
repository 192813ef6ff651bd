"""One job at a time, with its progress, the time left, and Cancel.

Knows what the engine tells while it works. Does not know what is done with the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QProgressBar, QWidget

from seamscope.docks.controls import button
from seamscope.docks.job import Job, Outcome, Step
from seamscope.docks.looks import plain, text_label
from seamscope.docks.sentences import sentence
from seamscope.prediction.run import Preparing, TileDone
from seamscope.text import duration_text, percent_text


class JobRow(QWidget):
    """A bar that is there as long as something is being done.

    Signals
    -------
    changed
        A job began or ended.
    failed : (str)
        It ended with an error: one sentence.

    Attributes
    ----------
    job
        What is being done; None where nothing is.
    """

    changed = Signal()
    failed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.job: Job | None = None
        self._name = self._counted = ""
        self._done: Callable[[Any], None] = lambda _: None
        self._failed: Callable[[Exception], None] | None = None
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.text = text_label()
        self.cancel = button("Cancel", "Stop the work. What was measured until now is lost.")
        self.cancel.clicked.connect(self.stop)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.bar, 0, 0)
        grid.addWidget(self.cancel, 0, 1)
        grid.addWidget(self.text, 1, 0, 1, 2)
        self.hide()

    @property
    def busy(self) -> bool:
        """Whether something is being done."""
        return self.job is not None

    def start(
        self,
        name: str,
        work: Any,
        done: Callable[[Any], None],
        counted: str = "forward passes",
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Begin.

        Parameters
        ----------
        name
            What is done: "measuring the seams of cells".
        work
            Called with a `Reporter` in a thread.
        done
            Called with the value of the work, unless it fails.
        counted
            Noun for the pairs of numbers that the work reports.
        failed
            Called with the error; None to emit the signal `failed`.
        """
        self._name = f"{name[:1].upper()}{name[1:]}"
        self._done, self._counted, self._failed = done, counted, failed
        self.job = job = Job(name, work, self)
        job.told.connect(self._hear)
        job.ended.connect(self._end)
        self.bar.setRange(0, 0)
        self.cancel.setEnabled(True)
        self._say(f"{self._name} …")
        self.show()
        self.changed.emit()
        job.start()

    def stop(self, _: Any = None) -> None:
        """Stop what is being done; `done` is still called."""
        if self.job is not None:
            self.job.cancel()
            self.cancel.setEnabled(False)
            self._say("Stopping …")

    def abandon(self) -> None:
        """Stop the job; `done` is not called."""
        if self.job is not None:
            self.job.abandon()
            self.job = None
            self.hide()
            self.changed.emit()

    def _hear(self, messages: Sequence[Any]) -> None:
        last = messages[-1]
        if isinstance(last, TileDone):
            left = f", {duration_text(last.seconds_left)} left" if last.done > 1 else ""
            self._show(last.done, last.total, f"tiles{left}")
        elif isinstance(last, Step):
            left = "" if last.seconds_left is None else f", {duration_text(last.seconds_left)} left"
            self._show(last.done, last.total, f"{last.what}{left}")
        elif isinstance(last, tuple):
            done, total = last
            self._show(done, total, self._counted, "at most ")
        elif isinstance(last, Preparing):
            self._say(f"{last.what[:1].upper()}{last.what[1:]} …")
        elif isinstance(last, float):
            self._say(f"Measuring the whole image's intensities: {percent_text(last)}")

    def _show(self, done: int, total: int, what: str, bound: str = "") -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        if self.job is not None and not self.job.cancelled:
            self._say(f"{done} of {bound}{total} {what}")

    def _say(self, text: str) -> None:
        self.text.setText(plain(text))

    def _end(self, outcome: Outcome) -> None:
        self.job = None
        self.hide()
        if outcome.error is not None and self._failed is not None:
            self._failed(outcome.error)
        elif outcome.error is not None:
            self.failed.emit(sentence(outcome.error, self._name))
        else:
            self._done(outcome.value)
        self.changed.emit()
