"""One job at a time, with its progress, the time left, and Cancel.

Knows what the engine tells while it works. Does not know what is done with the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QProgressBar, QPushButton, QWidget

from seamscope.docks.job import Job, Outcome
from seamscope.docks.looks import duration, plain, text_label
from seamscope.docks.prediction.run_panel import sentence
from seamscope.prediction.run import Preparing, TileDone


class JobRow(QWidget):
    """A bar that is there as long as something is being done.

    Signals
    -------
    changed
        A job began or ended.
    failed : (str)
        It ended with an error: one sentence.
    """

    changed = Signal()
    failed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._job: Job | None = None
        self._name = ""
        self._done: Callable[[Any], None] = lambda _: None
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.text = text_label()
        self.cancel = QPushButton("Cancel")
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
        return self._job is not None

    def start(self, name: str, work: Any, done: Callable[[Any], None]) -> None:
        """Begin; `done` is called with the value of the work, unless it fails."""
        self._name, self._done = name, done
        self._job = job = Job(name, work, self)
        job.told.connect(self._hear)
        job.ended.connect(self._end)
        self.bar.setRange(0, 0)
        self.cancel.setEnabled(True)
        self._say("Preparing …")
        self.show()
        self.changed.emit()
        job.start()

    def stop(self, _: Any = None) -> None:
        """Stop what is being done; `done` is still called."""
        if self._job is not None:
            self._job.cancel()
            self.cancel.setEnabled(False)
            self._say("Stopping …")

    def _hear(self, messages: Sequence[Any]) -> None:
        last = messages[-1]
        if isinstance(last, TileDone):
            left = f", {duration(last.seconds_left)} left" if last.done > 1 else ""
            self._show(last.done, last.total, f"tiles{left}")
        elif isinstance(last, tuple):
            done, total = last
            self._show(done, total, "forward passes at most")
        elif isinstance(last, Preparing):
            self._say(f"{last.what[:1].upper()}{last.what[1:]} …")
        elif isinstance(last, float):
            self._say(f"Measuring the whole image's intensities: {last:.0%}")

    def _show(self, done: int, total: int, what: str) -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        if self._job is not None and not self._job.cancelled:
            self._say(f"{done} of {total} {what}")

    def _say(self, text: str) -> None:
        self.text.setText(plain(text))

    def _end(self, outcome: Outcome) -> None:
        self._job = None
        self.hide()
        if outcome.error is not None:
            name = f"{self._name[:1].upper()}{self._name[1:]}"
            self.failed.emit(sentence(outcome.error, name))
        else:
            self._done(outcome.value)
        self.changed.emit()
