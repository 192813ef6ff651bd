"""What goes on in the worker's thread: loading, timing, predicting, inquiring.

Knows the engine and a `Reporter`. Does not know Qt: nothing here may touch a widget or a layer.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from seamscope.docks.evidence import Evidence
from seamscope.docks.job import Reporter
from seamscope.images.image import Image
from seamscope.images.outputs import Output
from seamscope.models.formats import Consent, load_model
from seamscope.models.model import Model, as_model
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.prediction.run import Event, prepare, run, time_one_tile
from seamscope.seams.meter import Border
from seamscope.settings import Settings

_TRIAL_SIDE = {1: 4096, 2: 256, 3: 64}


@dataclass(frozen=True)
class Load:
    """Load a network and measure it; both take seconds."""

    spec: Any
    trust: bool | Consent = False

    def __call__(self, reporter: Reporter) -> Model | None:
        """Return the model, its facts and reach known; None where it was cancelled."""
        given = self.spec
        model = load_model(given, trust=self.trust) if isinstance(given, str) else as_model(given)
        model.describe()
        return None if reporter.cancelled() else model


@dataclass(frozen=True)
class Time:
    """Find out how fast the network is here; where Auto chooses the tile, on tiles of many sizes.

    What is measured stays with the model (`Model.speeds`); where that is not worth its time, one
    tile is timed, which need not be as large as the plan's.
    """

    settings: Settings
    model: Model
    image: Image
    turn: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, reporter: Reporter) -> float | None:
        """Return seconds for each input pixel; None where it was stopped."""
        with held(self.turn, reporter) as mine:
            return self._time() if mine else None

    def _time(self) -> float:
        case = prepare(self.image, self.model, self.settings)
        plan = case.plan
        speed = self.model.speeds.get(plan.speed_key)
        if speed is not None:
            return speed.per_pixel(math.prod(plan.grid.tile_shape))
        small = _small(case)
        return time_one_tile(small) / math.prod(small.plan.grid.tile_shape)


def _small(case: Case) -> Case:
    plan = case.plan
    side = _TRIAL_SIDE[plan.facts.spatial_axes]
    tile = tuple(
        min(axis.tile, max(axis.lattice.size_at_least(side), axis.lattice.smallest_tile(axis.halo)))
        for axis in plan.grid.axes
    )
    return case.but(plan.settings, tile=tile, overlap=None, batch=1, area=None)


@contextlib.contextmanager
def held(turn: threading.Lock, reporter: Reporter) -> Iterator[bool]:
    """Wait for one's turn, unless asked to stop meanwhile; whether it came."""
    while not (mine := turn.acquire(timeout=0.05)):
        if reporter.cancelled():
            break
    try:
        yield mine and not reporter.cancelled()
    finally:
        if mine:
            turn.release()


@dataclass(frozen=True)
class Predict:
    """Run the engine, pass its events on, and stop when asked to; without an output, measure."""

    plan: Plan
    model: Model
    image: Image
    output: Output | None
    first: tuple[float, ...] | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)
    evidence: Evidence = field(default_factory=Evidence)

    def __call__(self, reporter: Reporter) -> Event | None:
        """Return the last event: `Finished`, unless it was stopped."""
        with held(self.turn, reporter) as mine:
            return self._drain(reporter) if mine else None

    def _drain(self, reporter: Reporter) -> Event | None:
        last = None
        with contextlib.closing(self._events(reporter)) as events:
            for last in events:
                reporter.tell(last)
                if reporter.cancelled():
                    break
        return last

    def _events(self, reporter: Reporter) -> Any:
        return run(
            Case.planned(self.image, self.model, self.plan),
            self.output,
            watchers=self.evidence.watchers,
            meter=self.evidence.meter,
            first=self.first,
            cancelled=reporter.cancelled,
            measuring=reporter.tell,
        )


@dataclass(frozen=True)
class Inquire:
    """Ask for a diagnosis or a certificate: experiments that take some forward passes.

    Parameters
    ----------
    question
        `seamscope.explain.causes.diagnose` or `seamscope.compare.certificate.certify`.
    model, image, settings
        What about.
    worst
        The worst borders, worst first.
    turn
        Held while the network is used.
    """

    question: Callable[..., Any]
    model: Model
    image: Image
    settings: Settings
    worst: Sequence[Border]
    turn: threading.Lock

    def __call__(self, reporter: Reporter) -> Any:
        """Return the answer; None where it was stopped. Tells pairs: passes done, and to do."""
        with held(self.turn, reporter) as mine, contextlib.suppress(InterruptedError):
            if mine:
                return self.question(
                    self.image,
                    self.model,
                    self.settings,
                    worst=self.worst,
                    cancelled=reporter.cancelled,
                    on_progress=lambda done, total: reporter.tell((done, total)),
                )
        return None
