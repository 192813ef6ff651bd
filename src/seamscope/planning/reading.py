"""The order of the tiles, and the pixels that the network gets of each.

Knows images, intensities and the order of tiles. Does not know networks or results.

A tile is read as the network takes it: ``(C, *tile)``, float32, normalized with the whole image's
statistics, padded by reflection or zeros where it reaches beyond the image.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.errors import NotFiniteError
from seamscope.images.image import Image
from seamscope.images.intensity import Intensity, measure_intensity
from seamscope.images.passes import HERE, Passes
from seamscope.images.preparation import Prepared
from seamscope.planning.plan import Plan
from seamscope.progress import QUIET, Work
from seamscope.stitching import Array, canvas
from seamscope.tiling import Slices, Tile


@dataclass(frozen=True)
class TileJob:
    """One tile of one frame."""

    frame: tuple[int, ...]
    tile: Tile


def jobs_of(plan: Plan, first: Sequence[float] | None) -> Iterator[TileJob]:
    """Tiles in the order of prediction, frame by frame.

    Parameters
    ----------
    plan
        Of the run.
    first
        Point in image pixels, along axes of space or along iterated axes and then those of space.
        The frame and the tiles next to it come first; tiles that are blended keep their order.
    """
    tiles = canvas(plan.grid, plan.settings.blend, plan.area).tiles()
    frames = list(itertools.product(*(range(*part) for part in plan.frame_ranges)))
    if first is not None:
        count = len(first) - len(plan.layout.spatial)
        shown, point = first[:count], first[count:]
        if shown:
            frames.sort(key=lambda frame: math.dist(frame, shown))
        if not plan.blends:
            tiles.sort(key=lambda tile: _distance(tile, point, plan))
    for frame in frames:
        for tile in tiles:
            yield TileJob(frame, tile)


def _distance(tile: Tile, point: Sequence[float], plan: Plan) -> float:
    """Squared distance in image pixels from a point to the nearest pixel of a tile's core."""
    total = 0.0
    for core, x, scale in zip(tile.core, point, plan.facts.scale, strict=True):
        low, high = core.start / float(scale), core.stop / float(scale)
        total += max(low - x, 0.0, x - high) ** 2 + 1e-6 * ((low + high) / 2 - x) ** 2
    return total


class TileReader:
    """Reads tiles as the network takes them: ``(C, *tile)`` float32, normalized, padded."""

    def __init__(self, plan: Plan, image: Image, intensity: Intensity | Prepared) -> None:
        self._plan = plan
        self._stored = image
        self._image = image = _filled(image, plan.settings.fill_nan)
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

    def ahead(self, batches: Iterator[list[TileJob]]) -> Iterator[tuple[list[TileJob], Array]]:
        """Read each batch while the one before is predicted, where reading takes time."""
        if self._in_memory:
            for jobs in batches:
                yield jobs, self.read(jobs)
            return
        with ThreadPoolExecutor(1, "seamscope-read") as pool:
            waiting: tuple[list[TileJob], Future[Array]] | None = None
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

    def read(self, jobs: Sequence[TileJob]) -> Array:
        """Read a batch ``(N, C, *tile)``."""
        batch = np.empty((len(jobs), self._channels, *self._plan.grid.tile_shape), np.float32)
        for job, target in zip(jobs, batch, strict=True):
            self._read_tile(job, target)
        return batch

    def look(self, job: TileJob) -> None:
        """Note which chunks a tile is read from are stored, without reading its pixels."""
        hull = tuple(part for _, part in self._mirrored(job.tile))
        region = job.tile.read if self._plan.settings.padding == "zeros" else hull
        self._stored.look(self._index(job.frame, region))

    def _read_tile(self, job: TileJob, target: npt.NDArray[np.float32]) -> None:
        tile = job.tile
        if not any(itertools.chain(*tile.pad)):
            self._normalize(self._pixels(job.frame, tile.read), target)
        elif self._plan.settings.padding == "zeros":
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
        block = self._image.read(self._index(frame, region)).transpose(self._order)
        return block if self._has_channels else block[None]

    def _index(self, frame: tuple[int, ...], region: Slices) -> tuple[int | slice, ...]:
        """Where a region lies in the image."""
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
        return tuple(index)

    def _mirrored(self, tile: Tile) -> list[tuple[npt.NDArray[np.int_], slice]]:
        """Indices that a tile takes along each axis, padded by reflection, and their range."""
        wanted = [
            _mirror(np.arange(part.start - before, part.stop + after), size)
            for part, (before, after), size in zip(
                tile.read, tile.pad, self._plan.grid.image_shape, strict=True
            )
        ]
        return [(i, slice(int(i.min()), int(i.max()) + 1)) for i in wanted]

    def _reflected(self, frame: tuple[int, ...], tile: Tile) -> Array:
        """Read a tile that reaches beyond the image, padded by reflection."""
        wanted = self._mirrored(tile)
        block = self._pixels(frame, tuple(part for _, part in wanted))
        for axis, (index, part) in enumerate(wanted, start=1):
            block = block.take(index - part.start, axis=axis)
        return block

    def _normalize(self, block: Array, target: npt.NDArray[np.float32]) -> None:
        self._intensity.apply(block, target)
        if self._image.missing:
            target[np.isnan(target)] = 0

    def _check_finite(self, target: npt.NDArray[np.float32], job: TileJob) -> None:
        if self._image.dtype.kind != "f" or (finite := np.isfinite(target)).all():
            return
        bad = ~finite
        where = [int(i) for i in np.argwhere(bad)[0][1:]]
        at = [
            part.start - before + i
            for part, (before, _), i in zip(job.tile.read, job.tile.pad, where, strict=True)
        ]
        names = self._plan.layout.spatial
        place = ", ".join(f"{name} {i}" for name, i in zip(names, at, strict=True))
        raise NotFiniteError(
            f"The image {self._image.name} has a value that is not finite (NaN or infinity) at "
            f"{place}; networks spread it over everything they predict. Repair the image, or give "
            "a value to use instead (`fill_nan=0`)."
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


def intensity_key(plan: Plan) -> Hashable:
    """What the measurement of the whole image's intensities depends on, the image apart."""
    settings, layout = plan.settings, plan.layout
    percentiles = settings.percentiles if settings.normalize == "percentile" else None
    one = settings.channel if layout.channel is not None else None
    return (
        settings.normalize,
        percentiles,
        layout.axes,
        layout.channel,
        one,
        settings.fill_nan,
        plan.preparation,
    )


def whole_image_intensity(
    plan: Plan,
    image: Image,
    work: Work = QUIET,
    passes: Passes = HERE,
) -> Intensity | Prepared:
    """Measure how the whole image's intensities are normalized; each channel by itself.

    Or in the way that the model's card asks for.

    Raises
    ------
    InterruptedError
        When stopped.
    """
    settings = plan.settings
    if settings.normalize != "none":
        work.phase("Measuring the whole image's intensities", "%")
    layout = plan.layout
    channel_axis = layout.axes.index(layout.channel) if layout.channel else None
    source = image = _filled(image, settings.fill_nan)
    if settings.channel is not None and layout.channel is not None:
        source = _one_channel(image, layout.axes.index(layout.channel), settings.channel)
        channel_axis = None
    if plan.preparation is not None:
        return plan.preparation.measure(source, channel_axis=channel_axis, work=work, passes=passes)
    return measure_intensity(
        source,
        settings.normalize,  # type: ignore[arg-type]  # "auto" was resolved
        channel_axis=channel_axis,
        percentiles=settings.percentiles,
        work=work,
        passes=passes,
    )


def _filled(image: Image, value: float | None) -> Image:
    """View of an image with a value in place of what is not finite."""
    if value is None or image.dtype.kind != "f":
        return image
    return dataclasses.replace(image, data=_FilledView(image, value), missing=False, _kept=None)


class _FilledView:
    """Array-like: an image in which every pixel is finite, made so when it is read."""

    def __init__(self, image: Image, value: float) -> None:
        self._image, self._value = image, value
        self.shape, self.ndim, self.dtype = image.shape, image.ndim, image.dtype

    def __getitem__(self, index: tuple[Any, ...]) -> Array:
        block = self._image.read(index)
        return np.where(np.isfinite(block), block, block.dtype.type(self._value))


def _one_channel(image: Image, axis: int, channel: int) -> Image:
    """View of one channel, so that only it is measured."""
    return dataclasses.replace(
        image,
        data=_ChannelView(image, axis, channel),
        _kept=None,  # the image itself keeps what it has read
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
