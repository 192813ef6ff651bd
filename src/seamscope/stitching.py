"""Stitch tiles' predictions into one result: crop, or blend.

Knows arrays and the grid. Does not know networks, images or files.

A canvas takes predictions one by one and returns blocks of the result as soon as they are final.
It keeps only what is not final yet.

*Crop* takes from each tile its core, cut in the middle of the overlap. *Blends* mix neighbours
over the whole trusted overlap with weights that rise from a tile's trusted border inwards:

======== ==================================================================================
linear   product over axes of ramps across the overlap
gaussian product over axes of ``exp(-x^2 / 2 s^2)``, s = 1/8 of the tile (Isensee et al. 2021)
distance distance to the nearest trusted border of the tile
======== ==================================================================================

Mixing is a running mean in row-major order: ``result += (prediction - result) * w / W`` with
``W`` the sum of the weights so far, this tile's included. No count array is kept, the weights of
a pixel sum to one whatever the mode, and where all tiles agree their value comes out bit for bit,
which a plain weighted sum does not give. The share ``w / W`` depends on the grid alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from seamscope.settings import Blend
from seamscope.tiling import AxisTiling, Slices, Tile, TileGrid

BLENDS: tuple[Blend, ...] = get_args(Blend)

Array: TypeAlias = npt.NDArray[Any]
Block: TypeAlias = tuple[Slices, Array]


class Canvas:
    """Collects predictions of tiles; interface of `CropCanvas` and `BlendCanvas`.

    Parameters
    ----------
    grid
        The tiles.
    area
        Part of the result to compute, in output pixels; returned regions count from its corner.
    """

    def __init__(self, grid: TileGrid, area: Slices) -> None:
        self.grid = grid
        self.area = area

    def tiles(self) -> list[Tile]:
        """Tiles needed for the area, in the order in which `add` expects them."""
        raise NotImplementedError

    def add(self, tile: Tile, prediction: Array) -> Iterator[Block]:
        """Take the prediction ``(C, *spatial)`` of one tile; yield blocks that became final."""
        raise NotImplementedError

    def rest(self) -> Iterator[Block]:
        """Yield what is left after the last tile."""
        yield from ()

    def _clip(self, region: Slices) -> Slices:
        return tuple(
            slice(max(r.start, a.start), min(r.stop, a.stop))
            for r, a in zip(region, self.area, strict=True)
        )

    def _from_corner(self, region: Slices) -> Slices:
        return tuple(
            slice(r.start - a.start, r.stop - a.start)
            for r, a in zip(region, self.area, strict=True)
        )


class CropCanvas(Canvas):
    """Takes each pixel from the tile whose core it lies in. Tiles may come in any order."""

    def tiles(self) -> list[Tile]:
        """Tiles whose core meets the area."""
        return self.grid.touching(self.area)

    def add(self, tile: Tile, prediction: Array) -> Iterator[Block]:
        """Yield the tile's core, a view of the prediction."""
        region = self._clip(tile.core)
        yield self._from_corner(region), prediction[:, *tile.within(region)]


class BlendCanvas(Canvas):
    """Gives each pixel the weighted mean of all tiles that are valid there. Takes tiles in order.

    Keeps the band of rows (first axis) that later tiles will still change: at most the valid
    height of one tile, over the area's full width.
    """

    def __init__(self, grid: TileGrid, area: Slices, mode: Blend) -> None:
        super().__init__(grid, area)
        self.mode = mode
        self._band: Array | None = None
        self._top = area[0].start  # first row of the band

    def tiles(self) -> list[Tile]:
        """Tiles that are valid anywhere in the area, row-major."""
        return self.grid.touching(self.area, trusted=True)

    def add(self, tile: Tile, prediction: Array) -> Iterator[Block]:
        """Mix the tile in; yield the rows above it, which are final."""
        region = self._clip(tile.trusted)
        if region[0].start > self._top:
            yield from self._release(region[0].start)
        band = self._rows(region[0].stop, prediction)
        inside = self._from_band(region)
        target = band[:, *inside]
        share = shares(self.grid, tile, self.mode)[self._from_tile(tile, region)]
        # result += (prediction - result) * share
        change = prediction[:, *tile.within(region)] - target
        change *= share
        target += change

    def rest(self) -> Iterator[Block]:
        """Yield the last band."""
        yield from self._release(self.area[0].stop)

    def _rows(self, bottom: int, like: Array) -> Array:
        """Return the band, grown to reach down to output row `bottom`."""
        missing = bottom - self._top - (0 if self._band is None else self._band.shape[1])
        if missing > 0:
            width = tuple(part.stop - part.start for part in self.area[1:])
            rows = np.zeros((like.shape[0], missing, *width), np.float32)
            self._band = rows if self._band is None else np.concatenate((self._band, rows), axis=1)
        assert self._band is not None
        return self._band

    def _release(self, top: int) -> Iterator[Block]:
        """Return the rows above `top`, and release them."""
        if self._band is None:
            return
        height = min(top - self._top, self._band.shape[1])
        region = (slice(self._top, self._top + height), *self.area[1:])
        done = self._band[:, :height]
        self._band = self._band[:, height:].copy() if height < self._band.shape[1] else None
        self._top = top
        yield self._from_corner(region), done

    def _from_band(self, region: Slices) -> Slices:
        rows, *rest = region
        corner = self._from_corner((self.area[0], *rest))[1:]
        return slice(rows.start - self._top, rows.stop - self._top), *corner

    @staticmethod
    def _from_tile(tile: Tile, region: Slices) -> Slices:
        return tuple(
            slice(r.start - t.start, r.stop - t.start)
            for r, t in zip(region, tile.trusted, strict=True)
        )


def canvas(grid: TileGrid, blend: Blend, area: Slices | None = None) -> Canvas:
    """Make the canvas for a way of blending.

    Parameters
    ----------
    grid
        The tiles.
    blend
        ``"crop"``, ``"linear"``, ``"gaussian"`` or ``"distance"``.
    area
        Part of the result to compute, in output pixels; by default all of it.
    """
    if area is None:
        area = tuple(slice(0, n) for n in grid.output_shape)
    return CropCanvas(grid, area) if blend == "crop" else BlendCanvas(grid, area, blend)


class _Span(NamedTuple):
    """A tile's valid part along one axis, relative to the tile whose shares are computed."""

    order: int  # -1, 0, 1: before, the same, after
    start: int
    stop: int
    first: bool  # begins with the image: there is no inner border to keep away from
    last: bool
    ramp: int  # smallest trusted overlap along the axis


def shares(grid: TileGrid, tile: Tile, mode: Blend) -> npt.NDArray[np.float32]:
    """Share of a tile in the running mean, over its valid part ``(*spatial)``.

    ``w / W``, with ``w`` the tile's weight and ``W`` the summed weights of the tiles up to it in
    row-major order; 1 where it is the first.
    """
    spans = (_spans(axis, index) for axis, index in zip(grid.axes, tile.index, strict=True))
    return _shares(tuple(spans), mode)


def _spans(axis: AxisTiling, index: int) -> tuple[_Span, ...]:
    own = axis[index].trusted
    ramp = _ramp(axis)
    return tuple(
        _Span(
            order=(i > index) - (i < index),
            start=other.trusted[0] - own[0],
            stop=other.trusted[1] - own[0],
            first=i == 0,
            last=i == len(axis) - 1,
            ramp=ramp,
        )
        for i in axis.touching(own, trusted=True)
        if (other := axis[i])
    )


@lru_cache(maxsize=64)
def _ramp(axis: AxisTiling) -> int:
    pairs = itertools.pairwise(axis)
    return max(1, min((a.trusted[1] - b.trusted[0] for a, b in pairs), default=1))


@lru_cache(maxsize=64)  # one entry for each kind of place in the grid: corners, borders, inside
def _shares(spans: tuple[tuple[_Span, ...], ...], mode: Blend) -> npt.NDArray[np.float32]:
    own = tuple(next(s for s in axis if s.order == 0) for axis in spans)
    shape = tuple(s.stop for s in own)
    total = np.zeros(shape)
    for tiles in itertools.product(*spans):
        if tuple(s.order for s in tiles) <= (0,) * len(shape):  # up to this one, row-major
            total += _weight(tiles, shape, mode)
    return (_weight(own, shape, mode) / total).astype(np.float32)


def _weight(tile: tuple[_Span, ...], shape: tuple[int, ...], mode: Blend) -> Array:
    """Weight of one tile over another's trusted part: zero outside its own trusted part."""
    combine = np.minimum if mode == "distance" else np.multiply
    parts = [_profile(span, n, mode) for span, n in zip(tile, shape, strict=True)]
    weight = parts[0]
    for part in parts[1:]:
        weight = combine(weight[..., None], part)
    return weight


def _to_borders(span: _Span, length: int) -> Array:
    """Distance of each pixel's centre to the tile's nearest inner border; 0 outside."""
    x = np.arange(length) + 0.5
    far = float(span.stop - span.start)
    low = np.full(length, far) if span.first else x - span.start
    high = np.full(length, far) if span.last else span.stop - x
    inside = (x > span.start) & (x < span.stop)
    return np.where(inside, np.minimum(low, high), 0.0)


def _linear(span: _Span, length: int) -> Array:
    return np.minimum(_to_borders(span, length), span.ramp)


def _gaussian(span: _Span, length: int) -> Array:
    x = np.arange(length) + 0.5
    extent = span.stop - span.start
    z = (x - (span.start + span.stop) / 2) / (extent / 8)
    return np.where((x > span.start) & (x < span.stop), np.exp(-0.5 * z * z), 0.0)


_PROFILES: dict[Blend, Callable[[_Span, int], Array]] = {
    "linear": _linear,
    "gaussian": _gaussian,
    "distance": _to_borders,
}


@lru_cache(maxsize=1024)  # tiles that meet share the same few along each axis
def _profile(span: _Span, length: int, mode: Blend) -> Array:
    return _PROFILES[mode](span, length)
