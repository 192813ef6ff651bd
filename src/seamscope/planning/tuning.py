"""How to run fast: which equivalent of the network, which tile size, what if memory runs out.

Knows trials and their cost. Does not know what predictions are for, or where they go.

Nothing is assumed to be faster: equivalents of the network and tile sizes are timed on the user's
own machine, network and pixels, for a few percent of the time the run is expected to take.
"""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from seamscope.cache import Cache
from seamscope.errors import ModelError, SettingsError
from seamscope.images.intensity import Intensity
from seamscope.models.model import Model
from seamscope.models.runner import Runner, Speed, is_here
from seamscope.models.speed.acceleration import Choice, Run, choose
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.reading import TileReader, jobs_of
from seamscope.settings import Settings
from seamscope.stitching import Array
from seamscope.text import shape_text
from seamscope.tiling import AxisTiling, Lattice, Slices

# A trial of faster equivalents costs about a dozen tiles of this many pixels, and saves half and
# more of all that follow. Timed three times: one disturbed run must not decide for thousands.
_TRIAL_PIXELS = {1: 1 << 16, 2: 1 << 16, 3: 1 << 17}
_WORTH_A_TRIAL = 24
# A way that an earlier trial chose is only built, and checked on a tile of so many pixels.
_CHECKED_PIXELS = {1: 1 << 14, 2: 1 << 14, 3: 1 << 15}
_REPEATS = 3
# Times its shortest run that the second shortest may take; else the machine was busy with others.
_STEADY = 1.25
_GROWTH = 1.6  # from one trial tile's side to the next's


def prepare(
    image: Any,
    model: str | nn.Module | Model | None = None,
    settings: Settings | None = None,
    **asked: Any,
) -> Case:
    """Open a case; where the tile is ``"auto"`` and the run long, plan it by measured speeds.

    Parameters
    ----------
    image, model, settings, asked
        As for `seamscope.planning.case.Case.open`.

    Notes
    -----
    Trials take a few percent of the time the run is expected to take, and are remembered in
    `Model.choices` and `Model.speeds`.
    """
    case = Case.open(image, model, settings, **asked)
    here = is_here(case.resources.device)  # and not with workers only
    if here and case.settings.tile == "auto" and worth_a_trial(case.plan):
        tune(case)
        return dataclasses.replace(case)  # planned again
    return case


def tune(case: Case) -> None:
    """Find the fastest equivalent of the network, and how its speed depends on the tile's size.

    Larger tiles waste less halo, but may fall out of the caches of the processor; which matters
    more is measured, on tiles of growing size, while that costs less than a twentieth of the run.
    """
    plan, model = case.plan, case.model
    reader = TileReader(plan, case.image, Intensity("none"))
    runner = model.runner(plan.settings.device, plan.settings.precision)
    accelerate(plan, model, runner, reader)
    if plan.speed_key in model.speeds:
        return
    job = next(iter(jobs_of(plan, None)))
    whole = reader.read([job])
    expected, spent = math.inf, 0.0
    seconds: dict[int, float] = {}
    for shape in _trial_shapes(plan):
        tile = np.ascontiguousarray(whole[:, :, *(slice(0, n) for n in shape)])
        try:
            taken = _seconds_of(runner, tile, _inner(plan, tuple(slice(0, n) for n in shape)))
        except Exception:  # whatever it raises: the run meets it again, and says so
            break
        seconds[math.prod(shape)] = taken / math.prod(shape)
        spent += 2 * taken
        expected = min(expected, min(seconds.values()) * _pixels_to_compute(plan))
        if spent + 2 * taken * _GROWTH ** len(shape) > expected / 20:
            break
    if seconds:
        model.speeds[plan.speed_key] = Speed(tuple(sorted(seconds.items())))


def time_one_tile(case: Case) -> float:
    """Seconds of one forward pass, in the fastest way that is known by now."""
    plan, model = case.plan, case.model
    reader = TileReader(plan, case.image, Intensity("none"))
    runner = model.runner(plan.settings.device, plan.settings.precision)
    job = next(iter(jobs_of(plan, None)))
    runner.run = _known_run(plan, model) or runner.run
    whole = tuple(slice(0, n) for n in plan.grid.tile_shape)
    return _seconds_of(runner, reader.read([job]), _inner(plan, whole))


def _trial_shapes(plan: Plan) -> Iterator[tuple[int, ...]]:
    """Shapes of accepted sizes, from small to the plan's own tile."""
    shape = tuple(part.stop for part in _trial_part(plan))
    while True:
        yield shape
        if shape == plan.grid.tile_shape:
            return
        shape = tuple(
            _part(axis.tile, int(n * _GROWTH), axis.lattice)
            for axis, n in zip(plan.grid.axes, shape, strict=True)
        )


def _seconds_of(runner: Runner, batch: Array, keep: Slices | None = None) -> float:
    """Seconds of one forward pass, after one to warm up."""
    for _ in range(2):
        start = time.perf_counter()
        runner(batch, keep)
        runner.synchronize()
    return time.perf_counter() - start


def _pixels_to_compute(plan: Plan) -> int:
    # the whole image decides, so that an area is computed as the whole would be
    frames = math.prod(plan.layout.sizes(plan.layout.frames, plan.image_shape))
    return len(plan.grid) * math.prod(plan.grid.tile_shape) * frames


def worth_a_trial(plan: Plan) -> bool:
    """Whether so much is to be computed that choosing a faster way pays."""
    enough = _WORTH_A_TRIAL * _TRIAL_PIXELS[plan.facts.spatial_axes]
    return _may_differ(plan) and _pixels_to_compute(plan) > enough


def _may_differ(plan: Plan) -> bool:
    """Whether another way of computing the same is wanted."""
    return plan.settings.accelerate and plan.settings.precision == "float32"


def known_way(plan: Plan, model: Model) -> str | None:
    """Name of the way that a trial of an earlier command chose here.

    It counts for the same network, libraries, device and number of threads; ``"plain"`` where
    building and checking it would take longer than it saves. None where there was no trial.
    """
    if not _may_differ(plan):
        return None
    kept = Cache(_WAYS).get(_way_key(plan, model))
    if kept is None:
        return None
    plain, chosen = kept["plain"], kept["chosen"]
    checking = (plain + 2 * chosen) * _CHECKED_PIXELS[plan.facts.spatial_axes]
    saved = (plain - chosen) * _pixels_to_compute(plan)
    return str(kept["name"]) if saved > kept["building"] + checking else "plain"


_WAYS = "fastest ways"


def _way_key(plan: Plan, model: Model) -> str:
    device = plan.settings.device
    kind = platform.processor() or platform.machine()
    if device.startswith("cuda"):
        kind = torch.cuda.get_device_name(device)
    return f"{model.key} {device} {kind} {torch.get_num_threads()}"


def _keep_way(plan: Plan, model: Model, choice: Choice, pixels: int) -> None:
    """Keep what a trial found: seconds for each pixel, and those of building the chosen way.

    A trial that something else disturbed is made again by the next command.
    """
    trials = {trial.name: trial for trial in choice.trial}
    plain, chosen = trials["plain"], trials[choice.name]
    if plain.seconds is None or chosen.seconds is None:
        return
    if max(plain.unsteady, chosen.unsteady) <= _STEADY:
        found = {"plain": plain.seconds / pixels, "chosen": chosen.seconds / pixels}
        found["building"] = chosen.building or 0.0
        Cache(_WAYS).put(_way_key(plan, model), {"name": choice.name, **found})


def accelerate(
    plan: Plan, model: Model, runner: Runner, reader: TileReader, only: str | None = None
) -> str:
    """Let the runner use the fastest equivalent of the network, or a certain one; return its name.

    Parameters
    ----------
    plan, model, runner, reader
        What is run. The first tile is read for the trial.
    only
        Name of the equivalent to use. Where it cannot be made, the network runs as it is.
    """
    if only == "plain" or not (model.statistics is None or model.statistics.uniform):
        return "plain"  # equivalents do not know where a tile lies
    if not _may_differ(plan):
        return "plain"
    device = plan.settings.device
    known = None
    if only is None and device not in model.choices:
        only = known = known_way(plan, model)
        if known == "plain" or (known is None and not worth_a_trial(plan)):
            return "plain"
    if only is not None and device in model.choices and model.choices[device].name != only:
        del model.choices[device]
    if device not in model.choices:
        batch = reader.read([next(iter(jobs_of(plan, None)))])
        part = _trial_part(plan, _TRIAL_PIXELS if known is None else _CHECKED_PIXELS)
        example = runner.example(np.ascontiguousarray(batch[:, :, *part]))
        try:
            patience = 0.0
            if only is None:
                runner(batch[:, :, *part])  # warms up
                start = time.perf_counter()
                runner(batch[:, :, *part])
                rate = (time.perf_counter() - start) / math.prod(example.shape[2:])
                patience = rate * _pixels_to_compute(plan) / 10
            model.choices[device] = choose(
                model.module,
                example,
                keep=_inner(plan, part),
                patience_s=patience if only is None else math.inf,
                repeats=_REPEATS,
                only=only,
            )
        except Exception as error:
            if is_memory_error(error):
                raise OutOfMemory(error) from error
            return "plain"
        if only is None:
            _keep_way(plan, model, model.choices[device], math.prod(example.shape[2:]))
    runner.run = model.choices[device].run
    return model.choices[device].name


def _known_run(plan: Plan, model: Model) -> Run | None:
    known = model.choices.get(plan.settings.device)
    return known.run if known and _may_differ(plan) else None


def _inner(plan: Plan, part: Slices) -> Slices | None:
    """What would be kept of such a tile: all but its halo; None where that is nothing."""
    inner = []
    for axis, side in zip(plan.grid.axes, part, strict=True):
        size = side.stop - sum(axis.lattice.crop)
        low, high = axis.halo[0], size - axis.halo[1]
        if low >= high:
            return None
        inner.append(slice(int(low * axis.lattice.scale), int(high * axis.lattice.scale)))
    return tuple(inner)


def _trial_part(plan: Plan, pixels: Mapping[int, int] = _TRIAL_PIXELS) -> Slices:
    """Corner of a tile, of accepted sizes, that is large enough to judge by."""
    axes = plan.facts.spatial_axes
    side = int(pixels[axes] ** (1 / axes))
    return tuple(slice(0, _part(axis.tile, side, axis.lattice)) for axis in plan.grid.axes)


def _part(tile: int, side: int, lattice: Lattice) -> int:
    return tile if lattice.fixed is not None else min(tile, lattice.size_at_least(side))


class OutOfMemory(Exception):  # noqa: N818  (a turn of events, not an error)
    """A forward pass needs more memory than there is; the run continues with less."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))


class TileRefusedError(ModelError):
    """A network does not take tiles of this size, though nothing said so before."""


def is_memory_error(error: Exception) -> bool:
    """Whether an exception says that memory ran out, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory", "DefaultCPUAllocator")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def smaller(case: Case, trouble: OutOfMemory | TileRefusedError) -> tuple[Case, str]:
    """Half the batch, or tiles of about half the pixels that keep the same halo."""
    plan = case.plan
    if isinstance(trouble, TileRefusedError):
        tile = None if case.tiles is not None else _half(plan)
        if tile is None:
            raise trouble
        return case.but(plan.settings, tile=tile, overlap=None), (
            f"The network refuses tiles of {shape_text(plan.grid.tile_shape)}: they are reduced "
            f"to {shape_text(tile)}, and the run starts again."
        )
    settings = plan.settings
    if settings.batch > 1:
        batch = settings.batch // 2
        reason = f"Memory ran out: the batch is reduced from {settings.batch} to {batch}."
        return case.but(settings, batch=batch), reason
    if case.tiles is not None:
        raise SettingsError(
            f"Memory ran out with the given windows ({shape_text(plan.grid.tile_shape)}): free "
            "memory, or plan smaller ones."
        ) from trouble
    tile = _half(plan)
    if tile is None:
        raise SettingsError(
            "Memory ran out with the smallest tile this halo allows "
            f"({shape_text(plan.grid.tile_shape)}): free memory, use a smaller halo, or another "
            "device."
        ) from trouble
    reason = (
        f"Memory ran out: tiles are reduced from {shape_text(plan.grid.tile_shape)} to "
        f"{shape_text(tile)}, and the run starts again."
    )
    # the overlap belongs to the tile it was chosen for
    return case.but(settings, tile=tile, overlap=None), reason


def _half(plan: Plan) -> tuple[int, ...] | None:
    """Next smaller valid tile; None where there is none."""
    shrink = 0.5 ** (1 / len(plan.grid.axes))
    tile = tuple(_shrunk(axis, shrink) for axis in plan.grid.axes)
    tile = tuple(map(min, tile, plan.grid.tile_shape))
    return tile if tile != plan.grid.tile_shape else None


def _shrunk(axis: AxisTiling, factor: float) -> int:
    if axis.lattice.fixed is not None:
        return axis.tile
    smaller = axis.lattice.size_at_most(int(axis.tile * factor))
    return max(smaller, axis.lattice.smallest_tile(axis.halo))
