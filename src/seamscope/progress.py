"""How long work reports its progress, and how it is stopped.

Every function of the engine that may take more than a moment has a last argument ``work``. It calls
`Work.phase` when a part with a name begins, `Work.step` as that part advances, `Work.note` for a
sentence the user should read, and asks `Work.stopped` between steps. The command line shows all
this in a terminal, a dock in its progress row, and `QUIET`, the default, shows nothing::

    def count(image: Image, model: Model, *, work: Work = QUIET) -> int:
        work.phase("Counting objects", "tiles")
        for done, tile in enumerate(tiles):
            check(work)
            ...
            work.step(done + 1, len(tiles))

A function that was stopped raises `InterruptedError`; what it wrote until then stays.
"""

from __future__ import annotations

from typing import Protocol


class Work(Protocol):
    """Receives progress and notes of one piece of long work, and knows whether to stop it."""

    def phase(self, what: str, steps: str = "", before: int = 0) -> None:
        """Begin a named part, such as "Measuring seams".

        `steps` is the plural of its steps, such as "tiles", or "%"; empty if they have no name, or
        if nothing is known of its length. `before` is how many of them earlier runs have finished:
        the time left is judged by the others.
        """

    def step(self, done: int, total: int) -> None:
        """Report that `done` of (at most) `total` steps of the current part are finished."""

    def note(self, sentence: str) -> None:
        """Show a sentence that the user should read."""

    def warn(self, sentence: str) -> None:
        """Show a sentence that the user must read, even if notes are hidden."""

    def stopped(self) -> bool:
        """Return whether the user asked to stop."""


class _Quiet:
    """Shows nothing and never stops."""

    def phase(self, what: str, steps: str = "", before: int = 0) -> None:
        pass

    def step(self, done: int, total: int) -> None:
        pass

    def note(self, sentence: str) -> None:
        pass

    def warn(self, sentence: str) -> None:
        pass

    def stopped(self) -> bool:
        return False


QUIET: Work = _Quiet()


class Steps(_Quiet):
    """The steps of one phase, counted; as `Work` of its parts it shows nothing, but stops.

    Parameters
    ----------
    work
        Shows the steps.
    total
        How many there are, at most.
    """

    def __init__(self, work: Work, total: int = 0) -> None:
        self._work = work
        self.done = 0
        self.total = total

    def one(self) -> None:
        """Report one more step."""
        self.several(1)

    def several(self, steps: int) -> None:
        """Report some more steps at once."""
        self.done += steps
        self._work.step(self.done, max(self.done, self.total))

    def stopped(self) -> bool:
        """Return whether the user asked to stop."""
        return self._work.stopped()


def check(work: Work) -> None:
    """Raise `InterruptedError` if the user asked to stop."""
    if work.stopped():
        raise InterruptedError("stopped by the user")


__all__ = ["QUIET", "Steps", "Work", "check"]
