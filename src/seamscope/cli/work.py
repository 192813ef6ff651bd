"""Long work at a command line: how far it is, and how it is stopped.

Knows signals and displays. Does not know what is computed: functions of the engine take
``on_progress(done, total)`` and ``cancelled() -> bool``, and raise `InterruptedError` once they
have stopped, which a command answers by "Stopped." and exit code 130::

    with open_display(quiet) as display, long_work(display) as work:
        work.phase("Measuring seams")
        report = measure_seams(..., on_progress=work.progress, cancelled=work.cancelled)
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from seamscope.cli.progress import Display

if TYPE_CHECKING:
    from seamscope.prediction.run import Event


_STOPPING = (signal.SIGINT, signal.SIGTERM)  # the second is what Slurm and Docker send


class Interrupts:
    """Ctrl-C stops after the current tile; a second one, or one before any tile, stops at once.

    Attributes
    ----------
    asked
        Whether the user asked to stop.
    gently
        Whether tiles are being written, so that an end at once would tear one.
    """

    def __init__(self, display: Display) -> None:
        self.asked = False
        self.gently = False
        self._display = display
        self._before: dict[int, Any] = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self.gently:
            raise KeyboardInterrupt
        self.asked = True
        self._display.stopping()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._hear) for each in _STOPPING}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)


class Work:
    """What a long function of the engine is given, so that it is seen and can be stopped.

    Attributes
    ----------
    running
        What a run is called from its first tile on, after its own preparations.
    """

    def __init__(self, display: Display, interrupts: Interrupts) -> None:
        self._display = display
        self._interrupts = interrupts
        self.running = "Predicting"

    def phase(self, what: str) -> None:
        """Something that takes time begins."""
        self._display.phase(what)

    def progress(self, done: int, total: int) -> None:
        """So many parts of the phase are done."""
        self._interrupts.gently = True  # from here on the work checks whether to stop
        self._display.count(done, total)

    def cancelled(self) -> bool:
        """Whether the user asked to stop."""
        return self._interrupts.asked

    step = progress  # as `seamscope.work.Work` has it
    stopped = cancelled

    def note(self, sentence: str) -> None:
        """Say something that the user should know."""
        self._display.note(sentence)

    def event(self, event: Event) -> None:
        """Receive an event of a run (see `seamscope.prediction.run.run`)."""
        from seamscope.prediction.run import Finished, Preparing, Reduced, Started, TileDone

        match event:
            case TileDone():
                self.progress(event.done, event.total)
            case Preparing():
                self._display.phase(event.what.capitalize())
            case Started():
                self._display.phase(self.running)
            case Reduced():
                self.note(event.reason)
            case Finished() if event.warning:
                self._display.tell(f"Warning: {event.warning}")


class EngineWork:
    """Progress of the engine (see `seamscope.work`), shown by a command's display."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def phase(self, what: str) -> None:
        """Begin a named part."""
        self._work.phase(what)

    def step(self, done: int, total: int) -> None:
        """Report finished steps of the part."""
        self._work.progress(done, total)

    def note(self, sentence: str) -> None:
        """Show a sentence that the user should read."""
        self._work.note(sentence)

    def stopped(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self._work.cancelled()


@contextlib.contextmanager
def long_work(display: Display) -> Iterator[Work]:
    """Give long work its reports; Ctrl-C stops it at its next step, a second Ctrl-C at once."""
    with Interrupts(display) as interrupts:
        yield Work(display, interrupts)
