"""Heat maps of disagreement, in the result's own pixels.

Knows the meter's overlaps and tables, and the plan. Does not know colours, windows or layers.

Three pictures, at the run's halo:

* of each pixel: the largest and the mean difference over the channels (where several overlaps meet,
  the larger one);
* of each seam: a band along the seam, with the measure of that seam;
* of each tile: its core, with the mean of the measure over its seams.

The last two are computed from the meter's small tables when a part of them is read. They take no
memory, however large the image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.images.dimensions import full_index
from seamscope.images.image import Image
from seamscope.images.results.create import create_output
from seamscope.images.results.output import Output
from seamscope.images.views import LazyArray
from seamscope.planning.plan import Plan
from seamscope.seams.measures import Array
from seamscope.seams.meter import Overlap
from seamscope.seams.report import SeamReport
from seamscope.tiling import AxisTiling, TileGrid

Measure: TypeAlias = Literal["max_dist", "mean_dist", "mismatch"]
PIXEL_CHANNELS = ("max difference", "mean difference")
_BLOCK = 1 << 24  # pixels of a picture that are written at a time


class PixelMaps:
    """Distance of neighbouring tiles at each pixel; give `tell` each overlap.

    Parameters
    ----------
    plan
        Of the run.
    array
        Filled with ``(*frames, 2, *area)`` float32: the largest and the mean difference; 0 where no
        two tiles were compared. By default in memory.
    """

    def __init__(self, plan: Plan, array: Any = None) -> None:
        self._plan = plan
        self._grid: TileGrid | None = None
        self.array = np.zeros(map_shape(plan, 2), np.float32) if array is None else array

    def tell(self, overlap: Overlap) -> None:
        """Take an overlap; `seamscope.seams.meter.SeamMeter` calls this."""
        if overlap.grid is not self._grid:
            if self._grid is not None:  # memory ran out: the run started again
                self.array[...] = 0
            self._grid = overlap.grid
        area = self._plan.area
        region = [
            slice(max(v.start, a.start), min(v.stop, a.stop))
            for v, a in zip(overlap.valid, area, strict=True)
        ]
        if any(part.start >= part.stop for part in region):
            return
        inside = (
            slice(part.start - r.start, part.stop - r.start)
            for part, r in zip(region, overlap.region, strict=True)
        )
        apart = overlap.apart[:, *inside]
        place = (
            slice(part.start - a.start, part.stop - a.start)
            for part, a in zip(region, area, strict=True)
        )
        index: Any = (*self._frame(overlap), slice(None), *place)
        new = np.stack([apart.max(0), apart.mean(0)])
        self.array[index] = np.maximum(np.asarray(self.array[index]), new)

    def _frame(self, overlap: Overlap) -> Iterator[int]:
        for number, (start, _) in zip(overlap.frame, self._plan.frame_ranges, strict=True):
            yield number - start


def map_shape(plan: Plan, channels: int) -> tuple[int, ...]:
    """Shape of pictures of a plan's result: ``(*frames, channels, *area)``."""
    frames = tuple(stop - start for start, stop in plan.frame_ranges)
    return (*frames, channels, *(part.stop - part.start for part in plan.area))


class SeamPicture(LazyArray):
    """A picture of every seam or every tile; an array whose parts are computed when read.

    Parameters
    ----------
    report
        Its tables are shown.
    of
        ``"seams"``: a band on either side of each seam; ``"tiles"``: the cores.
    measure
        ``"max_dist"``, ``"mean_dist"`` or ``"mismatch"``: ``1 - Dice``.
    channel
        For the mismatch of one channel; by default the largest of all.
    width
        Of the band, in output pixels; at least `step`, so that no seam is lost.
    step
        Of the last two axes only every `step`-th pixel, for a small view of a large image.

    Attributes
    ----------
    shape, ndim, size, dtype
        ``(*frames, *area)`` float32; 0 where there is no seam, NaN nowhere.
    """

    def __init__(
        self,
        report: SeamReport,
        of: Literal["seams", "tiles"],
        measure: Measure = "mismatch",
        channel: int | None = None,
        width: int = 4,
        step: int = 1,
    ) -> None:
        plan = report.plan
        self._steps = [step if len(plan.area) - a <= 2 else 1 for a in range(len(plan.area))]
        self._plan = plan
        self._of = of
        self._half = max(1, max(width, step) // 2)
        self._values = {
            frame: _values_of(table, measure, channel) for frame, table in report.tables.items()
        }
        frames = tuple(stop - start for start, stop in plan.frame_ranges)
        self.shape = (
            *frames,
            *(
                -(-(part.stop - part.start) // n)
                for part, n in zip(plan.area, self._steps, strict=True)
            ),
        )
        self.dtype = np.dtype(np.float32)

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """Return the values of all seams or tiles together, for contrast limits."""
        each = [tile_values(v) if self._of == "tiles" else v for v in self._values.values()]
        flat = np.concatenate([np.zeros(0, np.float32), *(v.ravel() for v in each)])
        return np.asarray(flat[np.isfinite(flat)])

    def __getitem__(self, index: Any) -> Array:
        """Compute a part."""
        parts = full_index(index, self.ndim)
        chosen = [np.atleast_1d(np.arange(n)[p]) for n, p in zip(self.shape, parts, strict=True)]
        lead = self.ndim - len(self._plan.area)
        picture = np.zeros(tuple(map(len, chosen)), np.float32)
        for place in np.ndindex(picture.shape[:lead]):
            frame = tuple(
                int(chosen[a][i]) + self._plan.frame_ranges[a][0] for a, i in enumerate(place)
            )
            if frame in self._values:
                picture[place] = self._frame(self._values[frame], chosen[lead:])
        single = tuple(0 if isinstance(p, (int, np.integer)) else slice(None) for p in parts)
        return np.asarray(picture[single])

    def _frame(self, values: Array, chosen: Sequence[Array]) -> Array:
        """One frame: computed for one pixel of each kind along each axis, then spread out."""
        pixels = [
            (c * n + n // 2).clip(max=part.stop - part.start - 1) + part.start
            for c, n, part in zip(chosen, self._steps, self._plan.area, strict=True)
        ]
        alike = [_alike(axis, p, self._half) for axis, p in zip(self._axes, pixels, strict=True)]
        few = [
            p[np.unique(kind, return_index=True)[1]] for p, kind in zip(pixels, alike, strict=True)
        ]
        picture = self._few(values, few)
        for axis in reversed(range(picture.ndim)):  # the last one first, then whole rows
            picture = picture.take(alike[axis], axis)
        return np.asarray(picture)

    def _few(self, values: Array, pixels: Sequence[Array]) -> Array:
        cores = [_core_of(axis, p) for axis, p in zip(self._axes, pixels, strict=True)]
        if self._of == "tiles":
            return np.nan_to_num(tile_values(values)[np.ix_(*cores)])
        picture = np.zeros(tuple(map(len, pixels)), np.float32)
        for axis, (tiling, p) in enumerate(zip(self._axes, pixels, strict=True)):
            lower, near = _nearest_seam(tiling, p, self._half)
            if not near.any():
                continue
            rows: list[Array] = [*map(np.arange, picture.shape)]
            rows[axis] = np.flatnonzero(near)
            tiles = [*cores]
            tiles[axis] = lower[near]
            band = np.nan_to_num(values[axis][np.ix_(*tiles)])
            picture[np.ix_(*rows)] = np.maximum(picture[np.ix_(*rows)], band)
        return picture

    @property
    def _axes(self) -> tuple[AxisTiling, ...]:
        return self._plan.grid.axes


def pyramid(
    report: SeamReport,
    of: Literal["seams", "tiles"],
    measure: Measure = "mismatch",
    channel: int | None = None,
    most: int = 1 << 18,
) -> list[SeamPicture]:
    """A `SeamPicture` at falling resolution, until a plane of it has no more than `most` pixels.

    A window then computes no more than it can show.
    """
    levels = [SeamPicture(report, of, measure, channel)]
    step = 1
    while math.prod(levels[-1].shape[-2:]) > most:
        step *= 2
        levels.append(SeamPicture(report, of, measure, channel, step=step))
    return levels


def tile_values(values: Array) -> Array:
    """Mean over a tile's seams ``(axes, *grid) -> (*grid)``; NaN where none was measured."""
    total = np.zeros(values.shape[1:])
    count = np.zeros(values.shape[1:])
    for axis, own in enumerate(values):
        known = np.isfinite(own)
        filled = np.where(known, own, 0)
        upper_of = np.roll(filled, 1, axis), np.roll(known, 1, axis)
        for rolled in upper_of:  # the first tile has no seam before it
            rolled[(slice(None),) * axis + (0,)] = 0
        total += filled + upper_of[0]
        count += known.astype(int) + upper_of[1]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _values_of(table: Array, measure: Measure, channel: int | None) -> Array:
    if measure != "mismatch":
        return np.asarray(table[..., ("max_dist", "mean_dist").index(measure)])
    if channel is not None:
        return np.asarray(table[..., 3 + channel])
    mismatch = table[..., 3:]
    known = np.isfinite(mismatch)
    largest = np.where(known, mismatch, -1).max(-1, initial=-1)
    # a seam without any class is agreement, one that was not measured is nothing
    agreed = np.where(np.isfinite(table[..., 0]), 0, np.nan)
    return np.asarray(np.where(known.any(-1), largest, agreed), np.float32)


def _alike(axis: AxisTiling, pixels: Array, half: int) -> Array:
    """Numbers 0, 1, 2 ... for pixels of an axis; the same for neighbours in the same picture."""
    lower, near = _nearest_seam(axis, pixels, half)
    kinds = np.stack([_core_of(axis, pixels), np.where(near, lower, -1)])
    return np.asarray(np.r_[0, np.cumsum((np.diff(kinds) != 0).any(0))])


def _core_of(axis: AxisTiling, pixels: Array) -> Array:
    """Number of the tile in whose core each pixel lies."""
    ends = np.array([tile.core[1] for tile in axis])
    return np.searchsorted(ends, pixels, side="right")


def _nearest_seam(axis: AxisTiling, pixels: Array, half: int) -> tuple[Array, Array]:
    """Lower tile of the seam nearest to each pixel, and whether it is near enough."""
    seams = np.array([tile.core[1] for tile in axis][:-1])
    if not seams.size:
        return np.zeros(pixels.shape, int), np.zeros(pixels.shape, bool)
    after = np.searchsorted(seams, pixels + 0.5).clip(0, seams.size - 1)
    before = (after - 1).clip(0)
    centre = pixels + 0.5
    closer = np.abs(seams[before] - centre) < np.abs(seams[after] - centre)
    nearest = np.where(closer, before, after)
    return nearest, np.abs(seams[nearest] - centre) < half


class HeatmapFile:
    """All pictures in one file: channels *max difference*, *mean difference*, *seam*, *tile*.

    Parameters
    ----------
    plan
        Of the run that will be measured; tell its meter to `tell`.
    image
        Whose scale and units the pictures have.
    target, overwrite
        As for `seamscope.images.results.create.create_output`.
    """

    def __init__(self, plan: Plan, image: Image, target: Any, overwrite: bool = False) -> None:
        layout = plan.layout
        letters = layout.frames + "c" + layout.spatial
        known = dict(zip(plan.out_axes, zip(plan.scale, plan.units, strict=True), strict=True))
        scale, units = zip(*(known.get(a, (1.0, "")) for a in letters), strict=True)
        self._plan = plan
        self.output: Output = create_output(
            target,
            map_shape(plan, 4),
            np.float32,
            axes=letters,
            scale=[1.0 if a == "c" else s for a, s in zip(letters, scale, strict=True)],
            units=["" if a == "c" else u for a, u in zip(letters, units, strict=True)],
            overwrite=overwrite,
            name="seams",
            metadata={"channels": [*PIXEL_CHANNELS, "seam mismatch", "tile mismatch"]},
            source=image,
        )
        self._maps = PixelMaps(plan, _FirstChannels(self.output.array, len(plan.frame_ranges)))

    def tell(self, overlap: Overlap) -> None:
        """Take an overlap; the meter calls this."""
        self._maps.tell(overlap)

    def finish(self, report: SeamReport) -> None:
        """Write the pictures of seams and tiles, and the report's figures beside them."""
        lead = len(self._plan.frame_ranges)
        for channel, picture in enumerate(
            (SeamPicture(report, "seams"), SeamPicture(report, "tiles")), start=2
        ):
            for block in _blocks(picture.shape):
                place = (*block[:lead], slice(channel, channel + 1), *block[lead:])
                self.output.write(place, np.expand_dims(picture[block], lead))
        self.output.finish({"plan": report.plan.to_json(), "seams": report.to_json()})
        self.output.close()


class _FirstChannels:
    """The first two channels of a larger array."""

    def __init__(self, array: Any, lead: int) -> None:
        self._array, self._lead = array, lead

    def _all(self, index: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*index[: self._lead], slice(0, 2), *index[self._lead + 1 :])

    def __getitem__(self, index: tuple[Any, ...]) -> Array:
        return np.asarray(self._array[self._all(index)])

    def __setitem__(self, index: tuple[Any, ...], values: Array) -> None:
        self._array[self._all(index)] = values


def _blocks(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield parts of a picture of limited size, in rows along its first long axis."""
    size = math.prod(shape)
    steps = [*shape]
    for axis, n in enumerate(shape):
        rest = max(1, math.prod(steps[axis + 1 :]))
        steps[axis] = max(1, min(n, _BLOCK // rest)) if size > _BLOCK else n
        if steps[axis] > 1 and size > _BLOCK:
            break
    starts = (range(0, n, step) for n, step in zip(shape, steps, strict=True))
    for corner in itertools.product(*starts):
        yield tuple(slice(c, min(c + s, n)) for c, s, n in zip(corner, steps, shape, strict=True))


__all__ = [
    "PIXEL_CHANNELS",
    "HeatmapFile",
    "Measure",
    "PixelMaps",
    "SeamPicture",
    "pyramid",
    "tile_values",
]
