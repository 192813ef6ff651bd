"""What *Predict* and *Seams* do in the worker's thread: load, time, predict, measure.

Knows the engine. Does not know Qt: nothing here may touch a widget or a layer.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seamscope.docks.evidence import Evidence
from seamscope.docks.job import Reporter
from seamscope.errors import SeamscopeError
from seamscope.execution.devices import on_workers
from seamscope.execution.pool import On
from seamscope.execution.run import check_shared, is_shared, run_on
from seamscope.images.image import Image
from seamscope.images.results.create import unfinished
from seamscope.images.results.output import Output
from seamscope.ledger import discard
from seamscope.models.formats import Consent, load_model
from seamscope.models.model import Model, as_model
from seamscope.models.trials import PATIENCE
from seamscope.planning.case import Case
from seamscope.planning.tuning import prepare, time_one_tile
from seamscope.prediction.measure_seams import measure_seams
from seamscope.prediction.output import open_output
from seamscope.prediction.resuming import continued, task_of, task_with
from seamscope.prediction.run import Event, run
from seamscope.progress import Work, check
from seamscope.seams.report import SeamReport
from seamscope.settings import Settings

_TRIAL_SIDE = {1: 4096, 2: 256, 3: 64}


def load(
    spec: Any,
    trust: bool | Consent,
    stated: Mapping[str, Any] | None = None,
    refuse: Callable[[Model], None] | None = None,
    patience: float = PATIENCE,
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
    patience
        As for `Model.measure`.
    """
    known: Any = dict(stated or {})
    own = isinstance(spec, str)
    model = load_model(spec, trust=trust, **known) if own else as_model(spec).stated(**known)
    if refuse is not None:
        refuse(model)
    model.measure(work=work, patience=patience)
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


def begin_on_disk(
    case: Case,
    target: str,
    on: On = None,
    in_file: Callable[[], tuple[str, Image]] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    work: Work,
) -> tuple[Case, Output]:
    """Create the file of a result, or open the unfinished one.

    Parameters
    ----------
    case
        As it was wanted.
    target, on, resume, overwrite
        As for `seamscope.predict`.
    in_file
        Finds the image's file and the image in it, so that other processes can read it.

    Returns
    -------
    case, output
        With the plan that the result was begun with.

    Raises
    ------
    SeamscopeError
        When the file cannot be written, the unfinished result is of other work, or workers cannot
        read the image.
    """
    work.phase("Opening the result")
    case = from_file(case, in_file, needed=on is not None)
    check_shared(case.image, case.model, target, on)
    case = on_workers(case, on, work)
    task = task_of(case)
    check(work)
    ledger = unfinished(target) if resume else None
    planned = case.at(case.plan) if ledger is None else continued(case, ledger, target)
    output = open_output(
        planned,
        target,
        overwrite=overwrite,
        task=task_with(task, planned.plan),
        resume=resume,
    )
    if work.stopped():
        output.close()
        raise InterruptedError("stopped by the user")
    return planned, output


def from_file(case: Case, in_file: Callable[[], tuple[str, Image]] | None, *, needed: bool) -> Case:
    """Return a case whose image is read from its file, where it has one.

    Parameters
    ----------
    case
        Its image may be in the memory of this process.
    in_file
        Finds the image's file and the image in it; None where there is none.
    needed
        Whether other processes will read it.

    Raises
    ------
    ImageError
        When it is needed, and the file holds other pixels.
    """
    if case.image.opener is not None or in_file is None:
        return case
    try:
        _, found = in_file()
    except SeamscopeError:
        if needed:
            raise
        return case
    own = case.image
    return replace(case, image=replace(found, name=own.name, scale=own.scale, units=own.units))


def predict(
    case: Case,
    output: Output | None,
    evidence: Evidence,
    first: Sequence[float] | None = None,
    on: On = None,
    trust: Any = False,
    *,
    work: Reporter,
) -> Event | None:
    """Run the engine and pass its events on; without an output, only measure.

    Parameters
    ----------
    case, output, first
        As for `seamscope.prediction.run.run`. A file is closed in the end.
    evidence
        Watches the run where this process predicts.
    on, trust
        As for `seamscope.execution.run.run_on`, and `load`.

    Returns
    -------
    Event
        The last one: `Finished`, unless it was stopped.
    """
    last = None
    if output is not None and output.path is None and output.array.dtype.kind == "f":
        output.array.fill(np.nan)  # what is not predicted yet is transparent
    events: Any
    if output is not None and (on is not None or is_shared(output)):
        events = run_on(case, output, on, trust=trust, work=work)
    else:
        events = run(
            case, output, watchers=evidence.watchers, meter=evidence.meter, first=first, work=work
        )
    stored = output if output is not None and output.path is not None else None
    with stored or contextlib.nullcontext(), contextlib.closing(events):
        for last in events:
            work.tell(last)
            if work.stopped():
                break
    return last


def measure_shared(
    case: Case,
    in_file: Callable[[], tuple[str, Image]] | None,
    unfinished: Path,
    on: On,
    trust: Any = False,
    again: bool = False,
    device: str | None = None,
    *,
    work: Work,
) -> SeamReport:
    """Measure all seams of a case so that it can go on, or go on with it.

    Parameters
    ----------
    case
        With the plan to be measured.
    in_file
        As for `from_file`.
    unfinished
        Folder for measures of a run that was stopped; removed in the end.
    on, trust
        As for `seamscope.measure_seams`.
    again
        Whether the measures that were stopped are replaced, once nothing refuses the new ones.
    device
        As chosen, for workers; None for that of the plan.
    """
    case = on_workers(from_file(case, in_file, needed=on is not None), on, work, device)
    if again:
        discard(unfinished)
    resume = unfinished.exists()
    found = measure_seams(case, partial=unfinished, on=on, trust=trust, resume=resume, work=work)
    discard(unfinished)
    return found


__all__ = ["begin_on_disk", "from_file", "load", "measure_shared", "predict", "seconds_per_pixel"]
