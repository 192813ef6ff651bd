"""Long work at a command line: how far it is, and how it is stopped.

Knows signals and displays. Does not know what is computed: functions of the engine take
`seamscope.progress.Work`, and raise `InterruptedError` once they have stopped, which a command
answers by "Stopped." and exit code 130::

    with open_display(quiet) as display, long_work(display) as work:
        report = measure_seams(..., work=work)
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

from seamscope.cli.progress import Display

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


class ShownWork:
    """Work of a command (see `seamscope.progress`): shown by a display, stopped by Ctrl-C."""

    def __init__(self, display: Display, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._display = display
        self.note = display.note
        self.warn = display.warn

    def phase(self, what: str, steps: str = "", before: int = 0) -> None:
        """Begin a named part; one with steps checks between them whether to stop."""
        self._interrupts.gently = bool(steps)
        self._display.phase(what, steps, before)

    def step(self, done: int, total: int) -> None:
        """Report finished steps of the part."""
        self._interrupts.gently = True
        self._display.step(done, total)

    def stopped(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self._interrupts.asked


@contextlib.contextmanager
def long_work(display: Display) -> Iterator[ShownWork]:
    """Give long work its reports; Ctrl-C stops it at its next step, a second Ctrl-C at once."""
    with Interrupts(display) as interrupts:
        yield ShownWork(display, interrupts)
