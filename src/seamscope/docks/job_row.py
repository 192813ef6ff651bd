"""One job at a time, with its progress, the time left, and Cancel.

Knows what the engine reports while it works. Does not know what is done with the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QProgressBar, QWidget

from seamscope.docks.controls import KEYS, button, keyed, keyed_tip
from seamscope.docks.job import Job, Note, Outcome, Step, Turn
from seamscope.docks.looks import plain, text_label
from seamscope.docks.sentences import sentence

_LOST = "Stop the work. What was measured until now is lost."
_KEPT = "Stop the work. What is done is kept: the work can go on."


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
        self._name = ""
        self._done: Callable[[Any], None] = lambda _: None
        self._failed: Callable[[Exception], None] | None = None
        self._notes: list[str] = []
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.text = text_label()
        # two lines at least: a page does not jump where a text is now shorter, now longer
        self.text.setMinimumHeight(2 * self.fontMetrics().lineSpacing())
        self.cancel = keyed(button("Cancel", _LOST), KEYS["cancel"])
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
        function: Callable[..., Any],
        done: Callable[[Any], None],
        turn: Turn = None,
        failed: Callable[[Exception], None] | None = None,
        kept: bool = False,
    ) -> None:
        """Begin.

        Parameters
        ----------
        name
            What is done: "measuring the seams of cells".
        function, turn
            As for `seamscope.docks.job.Job`.
        done
            Called with the value of the function, or None where it was stopped; not if it fails.
        failed
            Called with the error; None to emit the signal `failed`.
        kept
            Whether what is done can go on after Cancel, for its tip.
        """
        self._name = f"{name[:1].upper()}{name[1:]}"
        self._done, self._failed, self._notes = done, failed, []
        self.job = job = Job(name, function, self, turn)
        job.reported.connect(self._hear)
        job.ended.connect(self._end)
        self.bar.setRange(0, 0)
        self.cancel.setEnabled(True)
        self.cancel.setToolTip(keyed_tip(_KEPT if kept else _LOST, KEYS["cancel"]))
        self._say(f"{self._name} …")
        self.show()
        self.changed.emit()
        job.start()

    def show_other(self, text: str, done: int, total: int) -> None:
        """Show how far work of another row is, until `hide`; nothing where there is a job."""
        if self.job is None:
            self.bar.setRange(0, total)
            self.bar.setValue(done)
            self._say(text)
            self.show()

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
        self._notes += [each.sentence for each in messages if isinstance(each, Note)]
        steps = [each for each in messages if isinstance(each, Step)]
        if steps and self.job is not None and not self.job.cancelled:
            last = steps[-1]
            self.bar.setRange(0, last.total)
            self.bar.setValue(last.done)
            self._say("\n".join([str(last), *self._notes]))

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
