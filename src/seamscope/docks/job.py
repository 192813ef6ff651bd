"""One bridge between threads: work goes on beside the window, its news arrive in the window.

Knows threads, Qt's timers and napari's workers. Does not know networks, layers or widgets.

::

    window's thread                         worker's thread
    Job(name, work)     --- starts --->     work(reporter)
    told(messages)      <-- mailbox ---     reporter.tell(message)      ten times a second, at most
    cancel()            --- flag ----->     reporter.cancelled()
    ended(outcome)      <-- signal ----     returns or raises

Qt's own queue between threads has no bound and would grow whenever a network is faster than a
window; a mailbox that is emptied by a timer does not, as long as messages are small: slices and
numbers, never arrays.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from napari.qt.threading import FunctionWorker, create_worker
from qtpy.QtCore import QObject, QTimer, Signal

_MAILBOX_MS = 50


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a value, or with an error."""

    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class Step:
    """How far one of several parts of a job is."""

    done: int
    total: int
    what: str
    seconds_left: float | None


@dataclass(eq=False)
class Reporter:
    """What a job's work holds: where it reports, and whether it is stopped.

    It outlives its `Job`: when a window is closed the worker still runs for a moment, and is then
    `alone`: nobody may call Qt's objects of the job any more.
    """

    mailbox: deque[Any] = field(default_factory=deque)
    stop: threading.Event = field(default_factory=threading.Event)
    quitting: Callable[[], bool] = bool
    outcome: Outcome = field(default_factory=Outcome)
    alone: bool = False

    def tell(self, message: Any) -> None:
        """Leave a message for the window; returns at once."""
        self.mailbox.append(message)

    def orphan(self) -> None:
        """Note that the job is deleted, and ask the work to stop."""
        self.alone = True
        self.stop.set()

    def cancelled(self) -> bool:
        """Whether the work should stop: by the dock, or because napari quits."""
        return self.stop.is_set() or self.quitting()


class _Task:
    """Work with a name that napari can show before it quits."""

    def __init__(self, name: str, work: Callable[[Reporter], Any], reporter: Reporter) -> None:
        self._name, self._work, self._reporter = name, work, reporter

    def __call__(self) -> None:
        try:
            self._reporter.outcome = Outcome(self._work(self._reporter))
        except Exception as error:
            self._reporter.outcome = Outcome(error=error)

    def __repr__(self) -> str:
        return self._name


class _Worker(FunctionWorker):
    """A worker that leaves Python's warnings alone.

    superqt's replaces `warnings.showwarning` of the whole process while it runs; where two workers
    overlap, a deleted one stays in charge, and the next warning anywhere raises.
    """

    def run(self) -> None:
        """Called by Qt in the worker's thread; a task catches its own exceptions."""
        self._say("started")
        self._running = True
        self.work()
        self._running = False
        self._say("finished")
        self._say("_finished", self)

    def _say(self, signal: str, *values: Any) -> None:
        # When napari quits, Qt may delete the signals while the work still runs; an exception here
        # would abort the whole process.
        with contextlib.suppress(RuntimeError):
            getattr(self, signal).emit(*values)


class Job(QObject):
    """Work in a thread of its own.

    Parameters
    ----------
    name
        What is done, for people.
    work
        Called with a `Reporter`; its value or exception becomes the `Outcome`.
    parent
        When this is destroyed, so is the job, and its work is asked to stop.

    Attributes
    ----------
    reporter
        What the work holds.
    """

    told = Signal(list)
    ended = Signal(object)

    def __init__(self, name: str, work: Callable[[Reporter], Any], parent: QObject) -> None:
        super().__init__(parent)
        self.reporter = Reporter()
        self.destroyed.connect(self.reporter.orphan)
        self._timer = QTimer(self)
        self._timer.setInterval(_MAILBOX_MS)
        self._timer.timeout.connect(self._deliver)
        self._worker = create_worker(_Task(name, work, self.reporter), _worker_class=_Worker)
        self.reporter.quitting = _Quitting(self._worker)
        self._worker.finished.connect(self._end)
        self.running = False

    def start(self) -> None:
        """Begin."""
        self.running = True
        self._timer.start()
        self._worker.start()

    def cancel(self) -> None:
        """Ask the work to stop; `ended` still comes, when it has."""
        self.reporter.stop.set()

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.reporter.stop.is_set()

    def abandon(self) -> None:
        """Ask the work to stop, and hear nothing more of it."""
        self.cancel()
        self._timer.stop()
        self.blockSignals(True)

    def _deliver(self) -> None:
        mailbox = self.reporter.mailbox
        messages = [mailbox.popleft() for _ in range(len(mailbox))]
        if messages:
            self.told.emit(messages)

    def _end(self) -> None:
        if self.reporter.alone:  # the worker's last signal arrived after the window was deleted
            return
        self._timer.stop()
        self._deliver()
        self.running = False
        self.ended.emit(self.reporter.outcome)
        self.deleteLater()


class _Quitting:
    """Whether napari stops a worker, as it does when it quits."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    def __call__(self) -> bool:
        return bool(self._worker.abort_requested)
