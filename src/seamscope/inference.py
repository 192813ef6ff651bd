"""The plan is carried out: tiles are read, predicted, stitched, written.

Knows the order of things. Does not know windows, command lines or file formats.

::

    image --read--> batch --network--> predictions --canvas--> final blocks --write--> output

The loop to read aloud: *for each tile's prediction: let the watchers see it, add it to the canvas,
write what became final, tell.* Everything is a generator; to cancel is to stop pulling and close.

Memory is bounded by tiles: one batch is predicted while the next is read, and a canvas holds at
most one band of blended rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from seamscope.acceleration import Run, choose
from seamscope.errors import ImageError, ModelError, SeamscopeError, SettingsError
from seamscope.images import Image, Output, create_output, open_image
from seamscope.intensity import Intensity, measure_intensity
from seamscope.loaders import load_model
from seamscope.model import Model, Runner, Speed
from seamscope.plan import Plan, Settings, resolve
from seamscope.stitching import Array, canvas
from seamscope.tiling import AxisTiling, Lattice, Slices, Tile

Watcher: TypeAlias = Callable[[Plan, tuple[int, ...], Tile, Array], None]
Cancelled: TypeAlias = Callable[[], bool]

# A trial of faster equivalents costs about a dozen tiles of this many pixels.
_TRIAL_PIXELS = {1: 1 << 16, 2: 1 << 16, 3: 1 << 18}
_WORTH_A_TRIAL = 24


# -- events


@dataclass(frozen=True)
class Preparing:
    """Something is measured before the first tile."""

    what: str


@dataclass(frozen=True)
class Started:
    """The first tile is about to be predicted."""

    plan: Plan
    tiles: int
    frames: int


@dataclass(frozen=True)
class TileDone:
    """A tile was predicted.

    Attributes
    ----------
    region
        What became final in the output, one slice per axis of it; empty when nothing did.
    done, total
        Tiles predicted, and to predict in all.
    seconds
        Since the first tile began.
    """

    region: Slices
    done: int
    total: int
    seconds: float

    @property
    def seconds_left(self) -> float:
        """Estimated from the tiles done so far."""
        return self.seconds / max(self.done, 1) * (self.total - self.done)


@dataclass(frozen=True)
class Reduced:
    """Memory ran out: the run goes on with a smaller batch, or starts again with smaller tiles."""

    plan: Plan
    reason: str


@dataclass(frozen=True)
class Finished:
    """Everything is written.

    Attributes
    ----------
    seconds
        From the first tile's start.
    figures
        What belongs into a record of the run.
    """

    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)


Event: TypeAlias = Preparing | Started | TileDone | Reduced | Finished


# -- the public face


def predict(
    image: Any,
    model: str | nn.Module | Model,
    out: Any = None,
    settings: Settings | None = None,
    *,
    trust: bool = False,
    axes: str | None = None,
    overwrite: bool = False,
    on_event: Callable[[Event], None] | None = None,
    **asked: Any,
) -> Any:
    """Predict an image tile by tile.

    Parameters
    ----------
    image
        Array-like (numpy, dask, zarr), path, or `Image`; never loaded whole unless it is in memory.
    model
        Module in hand, loaded model, or a string as for `load_model`.
    out
        None for an array in memory, an array to fill, or a path (zarr, OME-Zarr, TIFF, npy, PNG).
    settings
        What is asked for; single settings may be given by name instead, ``tile=256, halo=32``.
    trust
        Whether code that comes with the model's file may run.
    axes
        One letter of ``tczyx`` for each of the image's axes, where its file does not say.
    overwrite
        Whether an existing file may be replaced.
    on_event
        Called with each event; exceptions it raises end the run.

    Returns
    -------
    array
        The filled output, ``(frames..., C', *spatial)``; the axis ``C'`` only where the result has
        several channels.

    Raises
    ------
    SeamscopeError
        One sentence with the value, the rule and the remedy. What was written stays.

    Examples
    --------
    >>> import numpy as np, torch, seamscope
    >>> image = np.arange(12.0).reshape(3, 4)
    >>> seamscope.predict(image, torch.nn.Identity()).shape
    (3, 4)
    """
    opened = image if isinstance(image, Image) else open_image(image, axes=axes)
    if axes is not None and opened.axes != axes:
        opened = opened.with_axes(axes)
    network = load_model(model, trust=trust)
    wanted = dataclasses.replace(settings or Settings(), **asked)
    plan = prepare(wanted, network, opened)
    with open_output(plan, opened, network, out, overwrite=overwrite) as output:
        for event in run(plan, network, opened, output):
            if on_event is not None:
                on_event(event)
        return output.array


def prepare(settings: Settings, model: Model, image: Image) -> Plan:
    """Resolve settings; where the tile is ``"auto"`` and the run long, by measured speeds.

    Parameters
    ----------
    settings, model, image
        As for `seamscope.plan.resolve`.

    Notes
    -----
    Trials take a few percent of the time the run is expected to take, and are remembered in
    `Model.choices` and `Model.speeds`.
    """
    plan = resolve(settings, model, image)
    if settings.tile != "auto" or not _worth_a_trial(plan):
        return plan
    tune(plan, model, image)
    return resolve(settings, model, image)


def tune(plan: Plan, model: Model, image: Image) -> None:
    """Find the fastest equivalent of the network, and how its speed depends on the tile's size.

    Larger tiles waste less halo, but may fall out of the caches of the processor; which matters
    more is measured, on tiles of growing size, while that costs less than a twentieth of the run.
    """
    reader = _Reader(plan, image, Intensity("none"))
    runner = model.runner(plan.settings.device, plan.settings.precision)
    _accelerate(plan, model, runner, reader)
    if plan.settings.device in model.speeds:
        return
    job = next(iter(_jobs(plan, None)))
    whole = reader.read([job])
    expected, spent = math.inf, 0.0
    seconds: dict[int, float] = {}
    for shape in _trial_shapes(plan):
        tile = np.ascontiguousarray(whole[:, :, *(slice(0, n) for n in shape)])
        taken = _seconds_of(runner, tile)
        seconds[math.prod(shape)] = taken / math.prod(shape)
        spent += 2 * taken
        expected = min(expected, min(seconds.values()) * _pixels_to_compute(plan))
        if spent + 2 * taken * _GROWTH ** len(shape) > expected / 20:
            break
    model.speeds[plan.settings.device] = Speed(tuple(sorted(seconds.items())))


_GROWTH = 1.6  # from one trial tile's side to the next's


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


def _seconds_of(runner: Runner, batch: Array) -> float:
    """Seconds of one forward pass, after one to warm up."""
    for _ in range(2):
        start = time.perf_counter()
        runner(batch)
        runner.synchronize()
    return time.perf_counter() - start


def open_output(
    plan: Plan, image: Image, model: Model, target: Any = None, *, overwrite: bool = False
) -> Output:
    """Create what a plan's result is written into (see `seamscope.images.create_output`)."""
    return create_output(
        target,
        plan.out_shape,
        plan.out_dtype,
        axes=plan.out_axes,
        scale=plan.scale,
        units=plan.units,
        chunks=plan.out_chunks,
        overwrite=overwrite,
        metadata=record(plan, model, image),
        source=image,
    )


def record(plan: Plan, model: Model, image: Image) -> dict[str, Any]:
    """What a result should know about how it was made, as plain values."""
    told: dict[str, Any] = {
        "plan": plan.to_json(),
        "model": {
            "name": model.name,
            "spec": model.spec,
            "fingerprint": model.fingerprint,
            "facts": str(plan.facts),
        },
        "image": {"name": image.name, "source": image.source, "shape": list(image.shape)},
    }
    if plan.settings.result == "probabilities" and plan.out_channels > 1:
        colors = model.channel_colors or (None,) * plan.out_channels
        told["channels"] = [
            {"name": name} | ({"color": color.lstrip("#")} if color else {})
            for name, color in zip(model.channels_of(plan.facts), colors, strict=True)
        ]
    return told


def run(
    plan: Plan,
    model: Model,
    image: Image,
    output: Output,
    *,
    watchers: Sequence[Watcher] = (),
    first: Sequence[float] | None = None,
    cancelled: Cancelled | None = None,
    measuring: Callable[[float], None] | None = None,
) -> Iterator[Event]:
    """Carry a plan out; yields events and writes the result as it goes.

    Parameters
    ----------
    plan, model, image
        As given to and by `resolve`.
    output
        Where the result goes, of `Plan.out_shape`.
    watchers
        Called with each tile's whole prediction ``(plan, frame, tile, (C, *spatial))``, a view
        that is only good during the call.
    first
        Spatial point in image pixels; nearest tiles are predicted first, where tiles are cropped
        (blends need their order).
    cancelled
        Asked before each forward pass; when it says yes, the generator ends without `Finished`.
    measuring
        Told the part of the intensity measurement that is done.
    """
    never: Cancelled = cancelled or (lambda: False)
    if plan.settings.normalize != "none":
        yield Preparing("measuring the whole image's intensities")
    try:
        intensity = _intensity(plan, image, never, measuring)
    except InterruptedError:
        return
    while True:
        try:
            yield from _attempt(plan, model, image, output, intensity, watchers, first, never)
            return
        except _OutOfMemory as trouble:
            plan, reason = _smaller(plan, model, image, trouble)
        yield Reduced(plan, reason)


def time_one_tile(plan: Plan, model: Model, image: Image) -> float:
    """Seconds of one forward pass, in the fastest way that is known by now."""
    reader = _Reader(plan, image, Intensity("none"))
    runner = model.runner(plan.settings.device, plan.settings.precision)
    job = next(iter(_jobs(plan, None)))
    runner.run = _known_run(plan, model) or runner.run
    return _seconds_of(runner, reader.read([job]))


# -- one attempt


@dataclass(frozen=True)
class _Job:
    """One tile of one frame."""

    frame: tuple[int, ...]
    tile: Tile


class _OutOfMemory(Exception):  # noqa: N818  (a turn of events, not an error)
    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))


def _attempt(
    plan: Plan,
    model: Model,
    image: Image,
    output: Output,
    intensity: Intensity,
    watchers: Sequence[Watcher],
    first: Sequence[float] | None,
    cancelled: Cancelled,
) -> Iterator[Event]:
    reader = _Reader(plan, image, intensity)
    runner = model.runner(plan.settings.device, plan.settings.precision)
    if _worth_a_trial(plan):
        yield Preparing("choosing the fastest way to run the network")
    way = _accelerate(plan, model, runner, reader)
    if cancelled():
        return
    total = plan.tiles * plan.frames
    yield Started(plan, plan.tiles, plan.frames)
    begin = time.perf_counter()
    done = 0
    stitcher = _Stitcher(plan, output)
    # watchers see whole predictions, overlaps and all; stitching needs only what it keeps
    predictions = predict_tiles(
        plan, runner, reader, first=first, cancelled=cancelled, whole=bool(watchers)
    )
    with contextlib.closing(predictions):
        for frame, tile, prediction in predictions:
            for watch in watchers:
                watch(plan, frame, tile, prediction)
            region = stitcher.add(frame, tile, prediction)
            done += 1
            yield TileDone(region, done, total, time.perf_counter() - begin)
    if done < total:
        return
    stitcher.finish()
    seconds = time.perf_counter() - begin
    figures = {
        "seconds": round(seconds, 3),
        "tiles": done,
        "tiles_per_second": round(done / seconds, 3) if seconds else None,
        "redundancy": round(plan.redundancy, 4),
        "network": way,
        "device": plan.settings.device,
        "intensity": intensity.to_json(),
    }
    output.finish({"plan": plan.to_json(), "figures": figures})
    yield Finished(seconds, figures)


def predict_tiles(
    plan: Plan,
    runner: Runner,
    reader: _Reader,
    *,
    first: Sequence[float] | None = None,
    cancelled: Cancelled = lambda: False,
    whole: bool = True,
) -> Generator[tuple[tuple[int, ...], Tile, Array], None, None]:
    """Predict all tiles of a plan.

    Yields
    ------
    frame, tile, prediction
        The prediction ``(C, *spatial)`` of one tile. Unless `whole`, only what stitching keeps is
        computed, and the tile's `origin` says where that begins.
    """
    batches = _batched(_jobs(plan, first), plan.settings.batch)
    for jobs, batch in reader.ahead(batches):
        if cancelled():
            return
        keep = None if whole else _needed(plan, [job.tile for job in jobs])
        predictions = _forward(runner, batch, plan, keep)
        for job, prediction in zip(jobs, predictions, strict=True):
            yield job.frame, _beginning_at(job.tile, keep), prediction


def _needed(plan: Plan, tiles: Sequence[Tile]) -> Slices:
    """Smallest box within predictions that holds what stitching keeps of each of these tiles."""
    parts = [
        tile.within(_common(tile.trusted if plan.blends else tile.core, plan.area))
        for tile in tiles
    ]
    return tuple(
        slice(min(part[axis].start for part in parts), max(part[axis].stop for part in parts))
        for axis in range(len(plan.area))
    )


def _common(region: Slices, area: Slices) -> Slices:
    return tuple(
        slice(max(r.start, a.start), min(r.stop, a.stop)) for r, a in zip(region, area, strict=True)
    )


def _beginning_at(tile: Tile, keep: Slices | None) -> Tile:
    if keep is None:
        return tile
    origin = tuple(o + part.start for o, part in zip(tile.origin, keep, strict=True))
    return dataclasses.replace(tile, origin=origin)


def _jobs(plan: Plan, first: Sequence[float] | None) -> Iterator[_Job]:
    """Tiles in the order of prediction, frame by frame."""
    tiles = canvas(plan.grid, plan.settings.blend, plan.area).tiles()
    if first is not None and not plan.blends:
        tiles.sort(key=lambda tile: _distance(tile, first, plan))
    for frame in itertools.product(*(range(*part) for part in plan.frame_ranges)):
        for tile in tiles:
            yield _Job(frame, tile)


def _distance(tile: Tile, point: Sequence[float], plan: Plan) -> float:
    """Squared distance in image pixels from a point to the nearest pixel of a tile's core."""
    total = 0.0
    for core, x, scale in zip(tile.core, point, plan.facts.scale, strict=True):
        low, high = core.start / float(scale), core.stop / float(scale)
        total += max(low - x, 0.0, x - high) ** 2 + 1e-6 * ((low + high) / 2 - x) ** 2
    return total


def _batched(jobs: Iterable[_Job], size: int) -> Iterator[list[_Job]]:
    iterator = iter(jobs)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _forward(runner: Runner, batch: Array, plan: Plan, keep: Slices | None) -> Array:
    try:
        predictions = runner(batch, keep)
    except MemoryError as error:
        raise _OutOfMemory(error) from error
    except SeamscopeError:
        raise
    except Exception as error:  # whatever somebody's network raises
        if _is_memory(error):
            raise _OutOfMemory(error) from error
        raise ModelError(
            f"The network failed on a tile of shape {batch.shape} "
            f"({type(error).__name__}: {_last_line(error)}). Try another tile size; if it fails "
            "on all, the fault is inside the network."
        ) from error
    size = plan.grid.prediction_shape if keep is None else tuple(k.stop - k.start for k in keep)
    expected = (batch.shape[0], plan.facts.out_channels, *size)
    if predictions.shape != expected:
        raise ModelError(
            f"For a tile of shape {batch.shape} the network gave {predictions.shape} instead of "
            f"{expected}: its output does not grow evenly with its input, so that tiles cannot "
            "be stitched. Use another tile size."
        )
    return predictions


def _is_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory", "DefaultCPUAllocator")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:200] if lines else type(error).__name__


# -- memory ran out


def _smaller(plan: Plan, model: Model, image: Image, trouble: _OutOfMemory) -> tuple[Plan, str]:
    """Plan with half the batch, or with tiles of about half the pixels that keep the same halo."""
    settings = plan.settings
    if settings.batch > 1:
        batch = settings.batch // 2
        reason = f"Memory ran out: the batch is reduced from {settings.batch} to {batch}."
        return resolve(settings.but(batch=batch), model, image), reason
    tile = _half(plan)
    if tile is None:
        raise SettingsError(
            "Memory ran out with the smallest tile this halo allows "
            f"({_times(plan.grid.tile_shape)}): free memory, use a smaller halo, or another device."
        ) from trouble
    reason = (
        f"Memory ran out: tiles are reduced from {_times(plan.grid.tile_shape)} to {_times(tile)}, "
        "and the run starts again."
    )
    # the overlap belongs to the tile it was chosen for
    return resolve(settings.but(tile=tile, overlap=None), model, image), reason


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


# -- reading


class _Reader:
    """Reads tiles as the network takes them: ``(C, *tile)`` float32, normalized, padded."""

    def __init__(self, plan: Plan, image: Image, intensity: Intensity) -> None:
        self._plan = plan
        self._image = image
        self._intensity = intensity
        layout = plan.layout
        kept = [a for a in layout.axes if a not in layout.frames]
        if plan.settings.channel is not None and layout.channel:
            kept.remove(layout.channel)
        channel = layout.channel if layout.channel in kept else None
        self._has_channels = channel is not None
        self._order = tuple(kept.index(letter) for letter in (channel or "") + layout.spatial)
        self._channels = layout.sizes(channel, image.shape)[0] if channel else 1
        self._in_memory = type(image.data) is np.ndarray

    def ahead(self, batches: Iterator[list[_Job]]) -> Iterator[tuple[list[_Job], Array]]:
        """Read each batch while the one before is predicted, where reading takes time."""
        if self._in_memory:
            for jobs in batches:
                yield jobs, self.read(jobs)
            return
        with ThreadPoolExecutor(1, "seamscope-read") as pool:
            waiting: tuple[list[_Job], Future[Array]] | None = None
            try:
                for jobs in batches:
                    following = jobs, pool.submit(self.read, jobs)
                    if waiting is not None:
                        yield waiting[0], waiting[1].result()
                    waiting = following
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
            finally:
                if waiting is not None:
                    waiting[1].cancel()

    def read(self, jobs: Sequence[_Job]) -> Array:
        """Read a batch ``(N, C, *tile)``."""
        batch = np.empty((len(jobs), self._channels, *self._plan.grid.tile_shape), np.float32)
        for job, target in zip(jobs, batch, strict=True):
            self._read_tile(job, target)
        return batch

    def _read_tile(self, job: _Job, target: npt.NDArray[np.float32]) -> None:
        tile = job.tile
        if not any(itertools.chain(*tile.pad)):
            self._normalize(self._pixels(job.frame, tile.read), target)
        elif self._plan.settings.border == "zeros":
            target[...] = 0
            inside = tuple(
                slice(before, before + part.stop - part.start)
                for (before, _), part in zip(tile.pad, tile.read, strict=True)
            )
            self._normalize(self._pixels(job.frame, tile.read), target[:, *inside])
        else:
            self._normalize(self._reflected(job.frame, tile), target)
        self._check_finite(target, job)

    def _pixels(self, frame: tuple[int, ...], region: Slices) -> Array:
        """Read ``(C, *region)`` in the image's own type."""
        plan = self._plan
        index: list[int | slice] = []
        for letter in plan.layout.axes:
            if letter in plan.layout.spatial:
                index.append(region[plan.layout.spatial.index(letter)])
            elif letter in plan.layout.frames:
                index.append(frame[plan.layout.frames.index(letter)])
            elif plan.settings.channel is not None:
                index.append(plan.settings.channel)
            else:
                index.append(slice(None))
        block = self._image.read(tuple(index)).transpose(self._order)
        return block if self._has_channels else block[None]

    def _reflected(self, frame: tuple[int, ...], tile: Tile) -> Array:
        """Read a tile that leaves the image, which goes on beyond its border by reflection."""
        wanted = [
            _mirror(np.arange(part.start - before, part.stop + after), size)
            for part, (before, after), size in zip(
                tile.read, tile.pad, self._plan.grid.image_shape, strict=True
            )
        ]
        hull = tuple(slice(int(i.min()), int(i.max()) + 1) for i in wanted)
        block = self._pixels(frame, hull)
        for axis, (index, part) in enumerate(zip(wanted, hull, strict=True), start=1):
            block = block.take(index - part.start, axis=axis)
        return block

    def _normalize(self, block: Array, target: npt.NDArray[np.float32]) -> None:
        self._intensity.apply(block, target)

    def _check_finite(self, target: npt.NDArray[np.float32], job: _Job) -> None:
        # a sum is ten times faster than isfinite, and finite numbers have a finite one
        if self._image.dtype.kind != "f" or math.isfinite(float(target.sum(dtype=np.float64))):
            return
        bad = ~np.isfinite(target)
        if self._plan.settings.fill_nan is not None:
            target[bad] = self._plan.settings.fill_nan
            return
        where = [int(i) for i in np.argwhere(bad)[0][1:]]
        at = [
            part.start - before + i
            for part, (before, _), i in zip(job.tile.read, job.tile.pad, where, strict=True)
        ]
        names = self._plan.layout.spatial
        place = ", ".join(f"{name} {i}" for name, i in zip(names, at, strict=True))
        raise ImageError(
            f"The image {self._image.name} has a value that is not finite (NaN or infinity) at "
            f"{place}; networks spread it over everything they predict. Mend the image, or give "
            "a value to use instead (--fill-nan 0)."
        )


def _mirror(index: npt.NDArray[np.int_], size: int) -> npt.NDArray[np.int_]:
    """Indices beyond an image's ends as those inside that reflection takes instead.

    As ``numpy.pad(mode="reflect")``: the border pixel itself is not repeated.
    """
    if size == 1:
        return np.zeros_like(index)
    folded = np.abs(index) % (2 * size - 2)
    mirrored: npt.NDArray[np.int_] = np.minimum(folded, 2 * size - 2 - folded)
    return mirrored


def _intensity(
    plan: Plan,
    image: Image,
    cancelled: Cancelled,
    measuring: Callable[[float], None] | None,
) -> Intensity:
    settings = plan.settings
    layout = plan.layout
    channel_axis = layout.axes.index(layout.channel) if layout.channel else None
    source = image
    if settings.channel is not None and layout.channel is not None:
        source = _one_channel(image, layout.axes.index(layout.channel), settings.channel)
        channel_axis = None
    return measure_intensity(
        source,
        settings.normalize,  # type: ignore[arg-type]  # "auto" was resolved
        channel_axis=channel_axis,
        percentiles=settings.percentiles,
        progress=measuring,
        cancelled=cancelled,
    )


def _one_channel(image: Image, axis: int, channel: int) -> Image:
    """View of one channel, so that only it is measured."""
    return dataclasses.replace(
        image,
        data=_ChannelView(image, axis, channel),
        axes=image.axes and image.axes[:axis] + image.axes[axis + 1 :],
        scale=image.scale[:axis] + image.scale[axis + 1 :],
        units=image.units[:axis] + image.units[axis + 1 :],
    )


class _ChannelView:
    """Array-like: one channel of an image, read when indexed."""

    def __init__(self, image: Image, axis: int, channel: int) -> None:
        self._image, self._axis, self._channel = image, axis, channel
        self.shape = image.shape[:axis] + image.shape[axis + 1 :]
        self.ndim = len(self.shape)
        self.dtype = image.dtype

    def __getitem__(self, index: tuple[Any, ...]) -> Array:
        index = index if isinstance(index, tuple) else (index,)
        whole = (*index[: self._axis], self._channel, *index[self._axis :])
        return self._image.read(whole)


# -- running


def _pixels_to_compute(plan: Plan) -> int:
    # the grid of the whole image decides, so that an area is computed as the whole would be
    return len(plan.grid) * math.prod(plan.grid.tile_shape) * plan.frames


def _worth_a_trial(plan: Plan) -> bool:
    """Whether so much is to be computed that choosing a faster way pays."""
    enough = _WORTH_A_TRIAL * _TRIAL_PIXELS[plan.facts.spatial_axes]
    exact = plan.settings.precision == "float32"
    return plan.settings.accelerate and exact and _pixels_to_compute(plan) > enough


def _known_run(plan: Plan, model: Model) -> Run | None:
    known = model.choices.get(plan.settings.device)
    return known.run if known and _worth_a_trial(plan) else None


def _accelerate(plan: Plan, model: Model, runner: Runner, reader: _Reader) -> str:
    """Let the runner use the fastest equivalent of the network; returns its name."""
    if not _worth_a_trial(plan):
        return "plain"
    device = plan.settings.device
    if device not in model.choices:
        batch = reader.read([next(iter(_jobs(plan, None)))])
        part = _trial_part(plan)
        example = runner.example(np.ascontiguousarray(batch[:, :, *part]))
        try:
            runner(batch[:, :, *part])  # warms up
            start = time.perf_counter()
            runner(batch[:, :, *part])
            rate = (time.perf_counter() - start) / math.prod(example.shape[2:])
            patience = rate * _pixels_to_compute(plan) / 10
            model.choices[device] = choose(
                model.module, example, keep=_inner(plan, part), patience_s=patience, repeats=2
            )
        except Exception as error:
            if _is_memory(error):
                raise _OutOfMemory(error) from error
            return "plain"
    runner.run = model.choices[device].run
    return model.choices[device].name


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


def _trial_part(plan: Plan) -> Slices:
    """Corner of a tile, of accepted sizes, that is large enough to judge by."""
    axes = plan.facts.spatial_axes
    side = int(_TRIAL_PIXELS[axes] ** (1 / axes))
    return tuple(slice(0, _part(axis.tile, side, axis.lattice)) for axis in plan.grid.axes)


def _part(tile: int, side: int, lattice: Lattice) -> int:
    return tile if lattice.fixed is not None else min(tile, lattice.size_at_least(side))


# -- writing


class _Stitcher:
    """Puts predictions of all frames into the output, as values or as labels."""

    def __init__(self, plan: Plan, output: Output) -> None:
        self._plan = plan
        self._output = output
        self._frame: tuple[int, ...] | None = None

    def add(self, frame: tuple[int, ...], tile: Tile, prediction: Array) -> Slices:
        """Stitch one prediction; return the output region that became final."""
        if frame != self._frame:
            self.finish()
            self._frame = frame
            self._canvas = canvas(self._plan.grid, self._plan.settings.blend, self._plan.area)
        region: Slices = ()
        for place, block in self._canvas.add(tile, prediction):
            region = self._write(place, block)
        return region

    def finish(self) -> None:
        """Write what is left of the frame at hand."""
        if self._frame is not None:
            for place, block in self._canvas.rest():
                self._write(place, block)

    def _write(self, place: Slices, block: Array) -> Slices:
        assert self._frame is not None
        if self._plan.settings.result == "labels":
            block = as_labels(block, self._plan.settings.threshold)[None]
        frame = tuple(
            slice(i - start, i - start + 1)
            for i, (start, _) in zip(self._frame, self._plan.frame_ranges, strict=True)
        )
        channels = (slice(0, block.shape[0]),) * ("c" in self._plan.out_axes)
        region = (*frame, *channels, *place)
        values = block if channels else block[0]
        self._output.write(region, values.reshape((1,) * len(frame) + values.shape))
        return region


def as_labels(prediction: Array, threshold: float = 0.5) -> npt.NDArray[np.uint8]:
    """Classes ``(*spatial)`` of a prediction ``(C, *spatial)``.

    The number of the largest channel, the lower one of equals; for a single channel 1 where it is
    above `threshold`, else 0.
    """
    single = prediction.shape[0] == 1
    labels = prediction[0] > threshold if single else prediction.argmax(0)
    return np.asarray(labels, np.uint8)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


__all__ = [
    "Event",
    "Finished",
    "Preparing",
    "Reduced",
    "Started",
    "TileDone",
    "as_labels",
    "open_output",
    "predict",
    "predict_tiles",
    "prepare",
    "record",
    "run",
    "time_one_tile",
    "tune",
]
