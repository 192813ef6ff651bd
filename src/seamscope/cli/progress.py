"""Progress of a run, for a terminal or a log.

Knows how a bar is drawn on a terminal, and what is worth a line where there is none. Does not know
what is computed. All of it goes to standard error.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

import typer

from seamscope.text import duration_text

if TYPE_CHECKING:
    from rich.console import Console

    from seamscope.prediction.run import TileDone

# Seconds between two lines where there is no terminal: a night's log should stay readable.
LINE_EVERY = 10.0


class Display:
    """What a person sees of a run: here nothing, except what is said always."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def phase(self, what: str) -> None:
        """Something that takes time begins."""

    def part(self, done: float) -> None:
        """So much of the phase is done, 0 to 1."""

    def count(self, done: int, total: int) -> None:
        """So many parts of the phase are done, of so many."""

    def start(self, total: int) -> None:
        """The first of so many tiles is about to be predicted."""

    def tile(self, event: TileDone) -> None:
        """A tile was predicted."""

    def stopping(self) -> None:
        """The user asked to stop. Called by a signal handler: it must not print."""

    def note(self, sentence: str) -> None:
        """Say something that the user should know."""

    def tell(self, sentence: str) -> None:
        """Say something that is said even when nothing else is."""
        typer.echo(sentence, err=True)


class _Lines(Display):
    """A line now and then, for files and logs."""

    def __init__(self) -> None:
        self._last = self._begin = 0.0

    def phase(self, what: str) -> None:
        self._last = self._begin = time.monotonic()
        self.tell(f"{what} ...")

    def count(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_EVERY and done < total:
            self._last = now
            self.tell(counted(done, total, now - self._begin))

    def start(self, total: int) -> None:
        self._last = time.monotonic()
        self.tell(f"Predicting {total} tile{'s' * (total != 1)} ...")

    def tile(self, event: TileDone) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_EVERY and event.done < event.total:
            self._last = now
            self.tell(status(event))

    def note(self, sentence: str) -> None:
        self.tell(f"Note: {sentence}")


class _Bar(Display):
    """A bar with rate and time left, for terminals."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            refresh_per_second=5,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, status="")
        self._begin = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def phase(self, what: str) -> None:
        self._begin = time.monotonic()
        self._progress.reset(self._task, total=None, description=what, status="")

    def part(self, done: float) -> None:
        self._progress.update(self._task, total=1.0, completed=done)

    def count(self, done: int, total: int) -> None:
        text = counted(done, total, time.monotonic() - self._begin)
        self._progress.update(self._task, total=total, completed=done, status=text)

    def start(self, total: int) -> None:
        self._progress.reset(self._task, total=total, description="Predicting", status="")

    def tile(self, event: TileDone) -> None:
        self._progress.update(self._task, completed=event.done, status=status(event))

    def stopping(self) -> None:
        self._progress.update(
            self._task, description="Stopping after this tile (Ctrl-C again: at once)", status=""
        )

    def note(self, sentence: str) -> None:
        self.tell(f"Note: {sentence}")

    def tell(self, sentence: str) -> None:
        # above the bar; a sentence may hold what rich takes for markup
        self._progress.console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def open_display(quiet: bool = False) -> Display:
    """Return what suits standard error: a bar on a terminal, else lines; nothing if quiet."""
    if quiet:
        return Display()
    from rich.console import Console

    console = Console(stderr=True)
    return _Bar(console) if console.is_terminal else _Lines()


def status(event: TileDone) -> str:
    """Tiles, rate and time left in a few words."""
    rate = event.done / max(event.seconds, 1e-9)
    speed = f"{rate:.1f} tiles/s" if rate >= 1 else f"{1 / rate:.1f} s/tile"
    return f"{event.done} of {event.total} tiles, {speed}, {duration_text(event.seconds_left)} left"


def counted(done: int, total: int, seconds: float) -> str:
    """Parts done since so many seconds, and time left, in a few words."""
    left = f", {duration_text(seconds / done * (total - done))} left" if done else ""
    return f"{done} of {total}{left}"


__all__ = ["Display", "counted", "open_display", "status"]
