"""What goes on in the worker's thread: loading, timing, predicting.

Knows the engine and a `Reporter`. Does not know Qt: nothing here may touch a widget or a layer.
"""

from __future__ import annotations

import contextlib
import math
import threading
from dataclasses import dataclass, field
from typing import Any

from seamscope.docks.job import Reporter
from seamscope.images import Image, Output
from seamscope.inference import Event, run, time_one_tile
from seamscope.loaders import load_model
from seamscope.model import Model, as_model
from seamscope.plan import Plan, resolve

_TRIAL_SIDE = {1: 4096, 2: 256, 3: 64}


@dataclass(frozen=True)
class Load:
    """Load a network and measure it; both take seconds."""

    spec: Any
    trust: bool = False

    def __call__(self, reporter: Reporter) -> Model:
        """Return the model, its facts and reach known."""
        given = self.spec
        model = load_model(given, trust=self.trust) if isinstance(given, str) else as_model(given)
        model.describe()
        return model


@dataclass(frozen=True)
class Time:
    """Time the network on one tile, which need not be as large as the plan's."""

    plan: Plan
    model: Model
    image: Image
    turn: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, reporter: Reporter) -> float | None:
        """Return seconds for each input pixel; None where there was no time for it."""
        if reporter.cancelled():
            return None
        plan = _small(self.plan, self.model, self.image)
        with self.turn:
            return time_one_tile(plan, self.model, self.image) / math.prod(plan.grid.tile_shape)


def _small(plan: Plan, model: Model, image: Image) -> Plan:
    side = _TRIAL_SIDE[plan.facts.spatial_axes]
    tile = tuple(
        min(axis.tile, max(axis.lattice.size_at_least(side), axis.lattice.smallest_tile(axis.halo)))
        for axis in plan.grid.axes
    )
    return resolve(plan.settings.but(tile=tile, overlap=None, batch=1, area=None), model, image)


@dataclass(frozen=True)
class Predict:
    """Run the engine, pass its events on, and stop when asked to."""

    plan: Plan
    model: Model
    image: Image
    output: Output
    first: tuple[float, ...]
    turn: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, reporter: Reporter) -> Event | None:
        """Return the last event: `Finished`, unless it was stopped."""
        with self.turn, contextlib.closing(self._events(reporter)) as events:
            last = None
            for last in events:
                reporter.tell(last)
                if reporter.cancelled():
                    break
            return last

    def _events(self, reporter: Reporter) -> Any:
        return run(
            self.plan,
            self.model,
            self.image,
            self.output,
            first=self.first,
            cancelled=reporter.cancelled,
            measuring=reporter.tell,
        )
