"""What long work reports, kept for tests; and runs whose events are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seamscope.prediction.output import open_output
from seamscope.prediction.run import Event, begin, run
from seamscope.settings import Settings


class Seen:
    """A `seamscope.progress.Work` that keeps all it receives.

    Parameters
    ----------
    until
        Asked between steps; True stops the work.
    on_step
        Called at each step with the name of its phase, and how many steps are done.
    """

    def __init__(
        self,
        until: Callable[[Seen], bool] = lambda seen: False,
        on_step: Callable[[str, int], None] = lambda phase, done: None,
    ) -> None:
        self.phases: list[str] = []
        self.parts: dict[str, list[tuple[int, int]]] = {"": []}
        self.before: dict[str, int] = {}
        self.sentences: list[str] = []
        self.asked = 0
        self._until, self._on_step = until, on_step

    @property
    def steps(self) -> list[tuple[int, int]]:
        """Steps of the current phase."""
        return self.parts[(self.phases or [""])[-1]]

    def phase(self, what: str, steps: str = "", before: int = 0) -> None:
        self.phases.append(what)
        self.before[what] = before
        self.parts[what] = []

    def step(self, done: int, total: int) -> None:
        self.steps.append((done, total))
        self._on_step((self.phases or [""])[-1], done)

    def note(self, sentence: str) -> None:
        self.sentences.append(sentence)

    warn = note

    def stopped(self) -> bool:
        self.asked += 1
        return self._until(self)


def stopped_after(steps: int) -> Seen:
    """Work that is stopped once so many steps of a phase are done."""
    return Seen(until=lambda seen: len(seen.steps) >= steps)


def run_with_events(
    image: Any, model: Any, out: Any = None, *, resume: bool = False, **asked: Any
) -> tuple[Any, list[Event]]:
    """Predict as `seamscope.predict`; return the result and all events of the run."""
    case, task = begin(image, model, Settings(**asked), out, resume=resume)
    with open_output(case, out, task=task, resume=resume) as output:
        events = list(run(case, output))
        return output.array, events
