"""One bridge between threads: work goes on beside the window, its news arrive in the window.

Knows threads, Qt's timers and napari's workers. Does not know networks, layers or widgets.

::

    window's thread                         worker's thread
    Job(name, function) --- starts --->     function(work=reporter)
    reported(messages)  <-- mailbox ---     reporter.step(done, total)    20 times a second, at most
    cancel()            --- flag ----->     reporter.stopped()
    ended(outcome)      <-- signal ----     returns or raises

The function is one of the engine's, which all take `seamscope.progress.Work`, with its other
arguments bound by `functools.partial`. A job that uses the network is given a lock, and waits for
its turn.

Qt's own queue between threads has no bound and would grow whenever a network is faster than a
window; a mailbox that is emptied by a timer does not, as long as messages are small: slices and
numbers, never arrays.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Optional, TypeAlias

from napari.qt.threading import FunctionWorker, create_worker
from qtpy.QtCore import QObject, QTimer, Signal

from seamscope.progress import Work
from seamscope.text import steps_text

Turn: TypeAlias = Optional[threading.Lock]  # noqa: UP045  (threading.Lock is no class)

_MAILBOX_MS = 50


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a value, which is None where it was stopped, or with an error."""

    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class Step:
    """How far one of several parts of a job is.

    Attributes
    ----------
    what, steps
        The part, and what its steps are called (see `seamscope.progress.Work.phase`).
    done, total
        Steps; 0 at the beginning.
    seconds
        Since the part began.
    before
        Steps that earlier runs have finished.
    """

    what: str
    steps: str = ""
    before: int = 0
    done: int = 0
    total: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        if not self.total:
            return f"{self.what} …"
        text = steps_text(self.done, self.total, self.steps, self.seconds, self.before)
        return f"{self.what}: {text}"


@dataclass(frozen=True)
class Note:
    """A sentence that the user should read."""

    sentence: str


@dataclass(eq=False)
class Reporter:
    """The `seamscope.progress.Work` of a job: where it reports, and whether it is stopped.

    It outlives its `Job`: when a window is closed the worker still runs for a moment, and is then
    `alone`: Qt's objects of the job may not be called any more.
    """

    mailbox: deque[Any] = field(default_factory=deque)
    stop: threading.Event = field(default_factory=threading.Event)
    quitting: Callable[[], bool] = bool
    outcome: Outcome = field(default_factory=Outcome)
    alone: bool = False
    _part: Step = Step("")
    _began: float = 0.0

    def phase(self, what: str, steps: str = "", before: int = 0) -> None:
        """Begin a named part."""
        self._part, self._began = Step(what, steps, before), time.monotonic()
        self.tell(self._part)

    def step(self, done: int, total: int) -> None:
        """Report finished steps of the part."""
        seconds = time.monotonic() - self._began
        self.tell(replace(self._part, done=done, total=total, seconds=seconds))

    def note(self, sentence: str) -> None:
        """Show a sentence that the user should read."""
        self.tell(Note(sentence))

    warn = note

    def tell(self, message: Any) -> None:
        """Leave a message for the window; returns at once."""
        self.mailbox.append(message)

    def orphan(self) -> None:
        """Note that the job is deleted, and ask the work to stop."""
        self.alone = True
        self.stop.set()

    def stopped(self) -> bool:
        """Whether the work should stop: by the dock, or because napari quits."""
        return self.stop.is_set() or self.quitting()


class _Task:
    """Work with a name that napari can show before it quits."""

    def __init__(
        self, name: str, function: Callable[..., Any], reporter: Reporter, turn: Turn
    ) -> None:
        self._name, self._function, self._reporter, self._turn = name, function, reporter, turn

    def __call__(self) -> None:
        try:
            with _in_turn(self._turn, self._reporter) as mine:
                if mine:
                    self._reporter.outcome = Outcome(self._function(work=self._reporter))
        except InterruptedError:
            pass
        except Exception as error:
            self._reporter.outcome = Outcome(error=error)

    def __repr__(self) -> str:
        return self._name


@contextlib.contextmanager
def _in_turn(turn: Turn, work: Work) -> Iterator[bool]:
    """Wait for one's turn, unless asked to stop meanwhile; yield whether it came."""
    if turn is None:
        yield True
        return
    while not (mine := turn.acquire(timeout=0.05)):
        if work.stopped():
            break
    try:
        yield mine and not work.stopped()
    finally:
        if mine:
            turn.release()


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
    function
        Called with ``work=`` a `Reporter`; its value or exception becomes the `Outcome`.
    parent
        When this is destroyed, so is the job, and its work is stopped.
    turn
        Held meanwhile: the network is used by one job at a time.

    Attributes
    ----------
    reporter
        What the work holds.
    """

    reported = Signal(list)
    ended = Signal(object)

    def __init__(
        self, name: str, function: Callable[..., Any], parent: QObject, turn: Turn = None
    ) -> None:
        super().__init__(parent)
        self.reporter = Reporter()
        self.destroyed.connect(self.reporter.orphan)
        self._timer = QTimer(self)
        self._timer.setInterval(_MAILBOX_MS)
        self._timer.timeout.connect(self._deliver)
        self._worker = create_worker(
            _Task(name, function, self.reporter, turn), _worker_class=_Worker
        )
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
        if not self.reporter.alone:
            self._timer.stop()
            self.blockSignals(True)

    def _deliver(self) -> None:
        mailbox = self.reporter.mailbox
        messages = [mailbox.popleft() for _ in range(len(mailbox))]
        if messages:
            self.reported.emit(messages)

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
