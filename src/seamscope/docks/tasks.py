"""What the step *Predict* does in the worker's thread: loading, timing, predicting.

Knows the engine. Does not know Qt: nothing here may touch a widget or a layer.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seamscope.docks.evidence import Evidence
from seamscope.docks.job import Reporter
from seamscope.images.image import Image
from seamscope.images.results.output import Output
from seamscope.models.formats import Consent, load_model
from seamscope.models.model import Model, as_model
from seamscope.planning.case import Case
from seamscope.planning.tuning import prepare, time_one_tile
from seamscope.prediction.run import Event, run
from seamscope.settings import Settings
from seamscope.work import Work, check

_TRIAL_SIDE = {1: 4096, 2: 256, 3: 64}


def load(
    spec: Any,
    trust: bool | Consent,
    stated: Mapping[str, Any] | None = None,
    refuse: Callable[[Model], None] | None = None,
    *,
    work: Work,
) -> Model:
    """Load a network and measure it; both take seconds.

    Parameters
    ----------
    spec, trust, stated
        As for `seamscope.load_model`.
    refuse
        Raises an error for a network that is not wanted.
    """
    own = isinstance(spec, str)
    model = load_model(spec, trust=trust, **(stated or {})) if own else as_model(spec)
    if refuse is not None:
        refuse(model)
    model.measure(work=work)
    check(work)
    return model


def seconds_per_pixel(image: Image, model: Model, settings: Settings, *, work: Work) -> float:
    """Find out how fast the network is here; where Auto chooses the tile, on tiles of many sizes.

    What is measured stays with the model (`Model.speeds`); where that is not worth its time, one
    tile is timed, which need not be as large as the plan's.
    """
    case = prepare(image, model, settings)
    plan = case.plan
    speed = model.speeds.get(plan.speed_key)
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


def predict(
    case: Case,
    output: Output | None,
    evidence: Evidence,
    first: Sequence[float] | None = None,
    *,
    work: Reporter,
) -> Event | None:
    """Run the engine and pass its events on; without an output, only measure.

    Returns
    -------
    Event
        The last one: `Finished`, unless it was stopped.
    """
    last = None
    events: Any = run(
        case, output, watchers=evidence.watchers, meter=evidence.meter, first=first, work=work
    )
    with contextlib.closing(events):
        for last in events:
            work.tell(last)
            if work.stopped():
                break
    return last


__all__ = ["load", "predict", "seconds_per_pixel"]
