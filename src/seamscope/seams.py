"""How much neighbouring tiles disagree, at every halo at once, from one pass.

Knows predictions of tiles and the grid. Does not know networks, images or files.

Each pair of neighbours along an axis shares an overlap. A pixel of it that lies ``d`` pixels from
the nearest inner border of either tile is *valid* at every halo up to ``d``: it is compared once,
its disagreement is put into bin ``d``, and summing the bins from the far end gives each measure
for every halo. Borders of the image are no borders of this kind.

Measures (``O1``, ``O2``: the two tiles' predictions in the valid overlap; Buglakova et al. 2025):

* *max dist*: largest ``abs(O1 - O2)`` over all overlaps and channels; 0 is seamless;
* *mean dist*: mean of ``abs(O1 - O2)`` over the same pixels;
* *tile mismatch*: median over overlaps of ``1 - Dice(O1, O2)``, for each channel, in two forms:
  ``soft``, with ``Dice = 2 sum(O1 O2) / (sum O1^2 + sum O2^2)`` (Milletari et al. 2016: it is 1
  exactly when both are equal, which the form without squares is not), and ``hard``, of the two
  classifications (largest channel; for one channel, above the threshold).

A class that is absent from both tiles is agreement. Its overlaps are left out of the median, so
that a hundred empty overlaps do not hide the disagreement of ten; `SeamCurve.overlaps` says how
many counted. A class absent everywhere has mismatch 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.tiling import Slices, Tile, TileGrid

Array = npt.NDArray[Any]

# Root mean square below which a class counts as absent from an overlap.
ABSENT = 1e-2


@dataclass(frozen=True)
class SeamCurve:
    """Disagreement at every halo.

    Attributes
    ----------
    halo
        ``(H,)`` pixels of input: 0, 1, 2 ... as far as any overlap reaches.
    max_dist, mean_dist
        ``(H,)`` over all channels.
    max_dist_per_channel
        ``(H, C)``.
    soft, hard
        ``(H, C)`` tile mismatch; NaN where no overlap is valid.
    overlaps
        ``(H, C)`` number of overlaps in the median of `soft`.
    """

    halo: npt.NDArray[np.int_]
    max_dist: npt.NDArray[np.float64]
    mean_dist: npt.NDArray[np.float64]
    max_dist_per_channel: npt.NDArray[np.float64]
    soft: npt.NDArray[np.float64]
    hard: npt.NDArray[np.float64]
    overlaps: npt.NDArray[np.int_]

    def smallest_seamless(self, tolerance: float) -> int | None:
        """Smallest halo at which, and beyond which, no disagreement exceeds the tolerance."""
        bad = np.flatnonzero(self.max_dist > tolerance)
        first = 0 if bad.size == 0 else int(bad[-1]) + 1
        return first if first < self.halo.size else None


@dataclass(frozen=True)
class _Pair:
    """Terms of one overlap, ``(C, D)`` for each distance ``d``."""

    key: tuple[tuple[int, ...], int]  # index of the lower tile, axis
    count: Array  # (D,)
    largest: Array
    total: Array
    product: Array
    squares: Array
    both: Array
    either: Array


class SeamMeter:
    """Watches predictions of tiles and measures their disagreement; remembers open overlaps only.

    Parameters
    ----------
    grid
        The tiles.
    threshold
        For the ``hard`` measure of networks with one channel.

    Examples
    --------
    >>> import numpy as np
    >>> grid = TileGrid.regular((24,), tile=16, halo=4)
    >>> meter = SeamMeter(grid)
    >>> for number, tile in enumerate(grid):
    ...     meter.see(tile, np.full((1, 16), float(number)))
    >>> float(meter.curve().max_dist[0])
    1.0
    """

    def __init__(self, grid: TileGrid, threshold: float = 0.5) -> None:
        self._grid = grid
        self._threshold = threshold
        self._open: dict[tuple[Any, ...], Array] = {}
        self._pairs: list[_Pair] = []

    def see(self, tile: Tile, prediction: Array, frame: tuple[int, ...] = ()) -> None:
        """Take the whole prediction ``(C, *spatial)`` of one tile; tiles may come in any order."""
        for axis, lower in self._neighbourhoods(tile):
            key = (frame, lower, axis)
            region = self._overlap(lower, axis)
            own = prediction[:, *tile.within(region)]
            other = self._open.pop(key, None)
            if other is None:
                self._open[key] = own.copy()
            else:
                self._pairs.append(self._compare(lower, axis, own, other))

    def watch(self, plan: Any, frame: tuple[int, ...], tile: Tile, prediction: Array) -> None:
        """Be a watcher of `seamscope.inference.run`."""
        self.see(tile, prediction, frame)

    def _neighbourhoods(self, tile: Tile) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Borders of a tile: ``(axis, index of the lower of the two tiles that share it)``."""
        for axis, (i, n) in enumerate(zip(tile.index, self._grid.shape, strict=True)):
            if i > 0:
                yield axis, (*tile.index[:axis], i - 1, *tile.index[axis + 1 :])
            if i < n - 1:
                yield axis, tile.index

    def _overlap(self, lower: tuple[int, ...], axis: int) -> Slices:
        """Part of the result that a tile and its next neighbour along an axis both predict."""
        region = []
        sizes = self._grid.prediction_shape
        for a, (tiling, i) in enumerate(zip(self._grid.axes, lower, strict=True)):
            start = tiling[i + 1].origin if a == axis else tiling[i].origin
            stop = min(tiling[i].origin + sizes[a], tiling.output_size)
            region.append(slice(start, stop))
        return tuple(region)

    def _compare(self, lower: tuple[int, ...], axis: int, a: Array, b: Array) -> _Pair:
        order, starts, present = self._bins(lower, axis)
        flat = (x.reshape(x.shape[0], -1).astype(np.float32, copy=False) for x in (a, b))
        one, two = (np.take(x, order, axis=1) for x in flat)
        apart = np.abs(one - two)
        first, second = self._classes(one), self._classes(two)
        channels = np.arange(max(one.shape[0], 1))[:, None]
        if one.shape[0] == 1:
            channels = np.ones((1, 1), int)
        mine, yours = first == channels, second == channels

        def binned(values: Array, add: Any = np.add) -> Array:
            out = np.zeros((values.shape[0], present[-1] + 1))
            wide = values if add is np.maximum else values.astype(np.float64)
            out[:, present] = add.reduceat(wide, starts, axis=1)
            return out

        count = np.zeros(present[-1] + 1)
        count[present] = np.diff([*starts, order.size])
        return _Pair(
            key=(lower, axis),
            count=count,
            largest=binned(apart, np.maximum),
            total=binned(apart),
            product=binned(one * two),
            squares=binned(one * one + two * two),
            both=binned(mine & yours),
            either=binned(mine.view(np.uint8) + yours.view(np.uint8)),
        )

    def _classes(self, flat: Array) -> npt.NDArray[np.uint8]:
        if flat.shape[0] == 1:
            return np.asarray(flat[0] > self._threshold, np.uint8)
        # numpy's argmax over a short leading axis is ten times slower
        best, which = flat[0].copy(), np.zeros(flat.shape[1], np.uint8)
        for channel in range(1, flat.shape[0]):
            which = np.where(flat[channel] > best, np.uint8(channel), which)
            np.maximum(best, flat[channel], out=best)
        return which

    def _bins(self, lower: tuple[int, ...], axis: int) -> tuple[Array, Array, Array]:
        """Pixels of an overlap by distance: their order, where each distance starts, which."""
        region = self._overlap(lower, axis)
        sides: list[tuple[int, int | None, int | None]] = []
        for a, (tiling, i, part) in enumerate(zip(self._grid.axes, lower, region, strict=True)):
            size = self._grid.prediction_shape[a]
            length = part.stop - part.start
            if a == axis:  # the upper tile begins here, the lower one ends behind the overlap
                beyond = tiling[i].origin + size - part.stop
                sides.append((length, 0, beyond))
            else:
                low = 0 if i > 0 else None
                high = tiling[i].origin + size - part.stop if i < len(tiling) - 1 else None
                sides.append((length, low, high))
        scales = tuple(float(tiling.lattice.scale) for tiling in self._grid.axes)
        return _sorted_by_distance(tuple(sides), scales)

    def curve(self) -> SeamCurve:
        """Disagreement at every halo, over all overlaps seen so far."""
        if not self._pairs:
            empty = np.zeros((0, 0))
            none = np.zeros(0)
            return SeamCurve(none.astype(int), none, none, empty, empty, empty, empty.astype(int))
        depth = max(pair.count.size for pair in self._pairs)
        channels = self._pairs[0].total.shape[0]
        largest = np.zeros((channels, depth))
        total, count = np.zeros((channels, depth)), np.zeros(depth)
        shape = (len(self._pairs), channels, depth)
        soft, hard = np.full(shape, np.nan), np.full(shape, np.nan)
        for k, pair in enumerate(self._pairs):
            n = pair.count.size
            largest[:, :n] = np.maximum(largest[:, :n], pair.largest)
            total[:, :n] += pair.total
            count[:n] += pair.count
            pixels = _from_far_end(pair.count)
            soft[k, :, :n] = _mismatch(pair.product, pair.squares, 2 * ABSENT**2 * pixels)
            hard[k, :, :n] = _mismatch(pair.both, pair.either, 0.5 + 0 * pixels)
        peaks = np.maximum.accumulate(largest[:, ::-1], axis=1)[:, ::-1].T
        pixels = _from_far_end(count)
        mean = _from_far_end(total).sum(0) / np.maximum(pixels * channels, 1)
        return SeamCurve(
            halo=np.arange(depth),
            max_dist=peaks.max(1),
            mean_dist=mean,
            max_dist_per_channel=peaks,
            soft=_median(soft),
            hard=_median(hard),
            overlaps=np.isfinite(soft).sum(0).T,
        )

    def borders(self, halo: int) -> list[tuple[tuple[int, ...], int, float]]:
        """Worst borders first: ``(index of the lower tile, axis, max dist at this halo)``."""
        found = [
            (*pair.key, float(pair.largest[:, halo:].max()))
            for pair in self._pairs
            if pair.count[halo:].any()
        ]
        return sorted(found, key=lambda border: -border[2])


def _from_far_end(bins: Array) -> Array:
    """Sum over all distances of at least ``d``, for each ``d`` (last axis)."""
    summed: Array = np.cumsum(bins[..., ::-1], axis=-1)[..., ::-1]
    return summed


def _mismatch(product: Array, squares: Array, absent: Array) -> Array:
    """``1 - Dice`` for each halo; NaN where the class is absent from both tiles."""
    top, bottom = 2 * _from_far_end(product), _from_far_end(squares)
    present = bottom > absent
    return np.where(present, 1 - top / np.where(present, bottom, 1), np.nan)


def _median(values: Array) -> Array:
    """Median over overlaps ``(overlaps, C, H) -> (H, C)``; 0 where the class is absent from all."""
    present = np.isfinite(values).any(0)
    filled = np.where(present, values, 0.0)
    median: Array = np.nanmedian(filled, axis=0).T
    return median


@lru_cache(maxsize=64)
def _sorted_by_distance(
    sides: tuple[tuple[int, int | None, int | None], ...], scales: tuple[float, ...]
) -> tuple[Array, Array, Array]:
    """Order of an overlap's pixels by distance to inner borders, in whole input pixels.

    `sides` holds ``(length, before, after)`` for each axis: pixels of the overlap, and how far its
    ends are from the tile's borders there; None where there is no inner border.
    """
    shape = tuple(length for length, _, _ in sides)
    far = max(shape) + max((x or 0) for _, *ends in sides for x in ends) + 1
    distance = np.full(shape, far)
    for axis, ((length, before, after), scale) in enumerate(zip(sides, scales, strict=True)):
        x = np.arange(length)
        low = np.full(length, far) if before is None else x + before
        high = np.full(length, far) if after is None else length - 1 - x + after
        near = np.floor(np.minimum(low, high) / scale).astype(int)
        distance = np.minimum(
            distance, near.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        )
    flat = distance.ravel()
    order = np.argsort(flat, kind="stable")
    present, starts = np.unique(flat[order], return_index=True)
    return order, starts, present


__all__ = ["ABSENT", "SeamCurve", "SeamMeter"]
