"""Progress of a run, for a terminal or a log.

Knows how a bar is drawn on a terminal, and what is worth a line where there is none. Does not know
what is computed. All of it goes to standard error.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

import typer

from seamscope.cli.wording import in_command
from seamscope.text import steps_text

if TYPE_CHECKING:
    from rich.console import Console

# Seconds between two lines where there is no terminal: a night's log should stay readable.
LINE_EVERY = 10.0


class Display:
    """What a person sees of a run: here nothing, except what is said always."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def phase(self, what: str, steps: str = "", before: int = 0) -> None:
        """Begin a named part (see `seamscope.progress.Work`)."""

    def step(self, done: int, total: int) -> None:
        """Show how far the part is."""

    def stopping(self) -> None:
        """The user asked to stop. Called by a signal handler: it must not print."""

    def note(self, sentence: str) -> None:
        """Show a sentence that the user should read."""

    def warn(self, sentence: str) -> None:
        """Show a sentence even if nothing else is shown."""
        typer.echo(in_command(sentence), err=True)


class _Lines(Display):
    """A line now and then, for files and logs."""

    def __init__(self) -> None:
        self._last = self._begin = 0.0
        self._steps, self._before = "", 0

    def phase(self, what: str, steps: str = "", before: int = 0) -> None:
        self._last = self._begin = time.monotonic()
        self._steps, self._before = steps, before
        self.warn(f"{what} ...")

    def step(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_EVERY and done < total:
            self._last = now
            self.warn(steps_text(done, total, self._steps, now - self._begin, self._before))

    def note(self, sentence: str) -> None:
        self.warn(f"Note: {sentence}")


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
        self._steps, self._before = "", 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def phase(self, what: str, steps: str = "", before: int = 0) -> None:
        self._begin = time.monotonic()
        self._steps, self._before = steps, before
        self._progress.reset(self._task, total=None, description=what, status="")

    def step(self, done: int, total: int) -> None:
        seconds = time.monotonic() - self._begin
        text = steps_text(done, total, self._steps, seconds, self._before)
        self._progress.update(self._task, total=total, completed=done, status=text)

    def stopping(self) -> None:
        self._progress.update(
            self._task, description="Stopping after this tile (Ctrl-C again: at once)", status=""
        )

    def note(self, sentence: str) -> None:
        self.warn(f"Note: {sentence}")

    def warn(self, sentence: str) -> None:
        # above the bar; a sentence may hold what rich takes for markup
        self._progress.console.print(
            in_command(sentence), markup=False, highlight=False, soft_wrap=True
        )


def open_display(quiet: bool = False) -> Display:
    """Return what suits standard error: a bar on a terminal, else lines; nothing if quiet."""
    if quiet:
        return Display()
    from rich.console import Console

    console = Console(stderr=True)
    return _Bar(console) if console.is_terminal else _Lines()


__all__ = ["Display", "open_display"]
