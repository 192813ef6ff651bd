"""Which tiles to examine: a few, neighbours of each other, at the worst places and elsewhere.

Knows grids, also those of other people's code, and places in an image. Does not know predictions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from seamscope.tiling import AxisTile, AxisTiling, Sides, Slices, Tile, TileGrid

Index: TypeAlias = tuple[int, ...]

# Tiles of a sample, and their pixels: a dozen seams, or one block of large tiles with as many
# pixels in its overlaps; more takes minutes.
_SAMPLE, _SAMPLE_PIXELS = 16, 1 << 22
# Part of the largest contrast below which a place is taken to be empty, and another is preferred.
_EMPTY = 0.1


@dataclass(frozen=True)
class PlacedAxis(AxisTiling):
    """Tiles along one axis where other code puts them: on no grid, if need be.

    Parameters
    ----------
    starts
        First pixel of each tile, rising.
    """

    starts: tuple[int, ...] = ()

    @property
    def single(self) -> bool:
        """Whether there is but one tile."""
        return len(self.starts) == 1

    @property
    def stride(self) -> int:
        """Distance between the first two tiles."""
        return self.kept if self.single else self.starts[1] - self.starts[0]

    def __len__(self) -> int:
        return len(self.starts)

    def _tile(self, index: int) -> AxisTile:
        """Cut in the middle of each overlap."""
        kept = [start + self.lattice.crop[0] for start in self.starts]
        last = len(kept) - 1
        low, high = kept[index], kept[index] + self.kept
        begin = 0 if index == 0 else (low + kept[index - 1] + self.kept) // 2
        end = self.size if index == last else (kept[index + 1] + high) // 2
        valid = (
            0 if index == 0 else low + self.halo[0],
            min(self.size, high) if index == last else high - self.halo[1],
        )
        return AxisTile(
            start=self.starts[index],
            stop=self.starts[index] + self.tile,
            core=self._output(begin, end),
            trusted=self._output(*valid),
            origin=int(low * self.lattice.scale),
        )


def comparable(axis: AxisTiling) -> AxisTiling:
    """The same tiles, moved together by whole periods until both are trusted in some pixels.

    A halo of half the overlap leaves nothing to compare. Where even the closest tiles leave
    nothing, tiles are a little larger; where that cannot be, the halo is smaller. Where even
    without a halo tiles would coincide, the axis is returned as it is (see `shared`).
    """
    if axis.single or len(axis) == 1:
        return axis
    lattice = axis.lattice
    for halo in _smaller_and_smaller(axis.halo):
        overlap = max(axis.overlap, sum(lattice.whole(halo)) + lattice.scale.denominator)
        if isinstance(axis, PlacedAxis):
            closer = _closer(axis, halo, overlap)
            if closer is not None:
                return closer
        else:
            tile = max(axis.tile, lattice.smallest_tile(halo, overlap))
            found = AxisTiling(axis.size, tile, halo, overlap, lattice)
            if found.kept - found.overlap >= lattice.pitch and not found.single:
                return found
    return axis


def _smaller_and_smaller(halo: Sides) -> Iterator[Sides]:
    """The halo, and all others down to none, both sides a pixel less each time."""
    for less in range(max(*halo, 0) + 1):
        yield max(0, halo[0] - less), max(0, halo[1] - less)


def shared(axis: AxisTiling) -> bool:
    """Whether any two neighbours along an axis are both trusted in some pixels."""
    return any(one.trusted[1] > two.trusted[0] for one, two in itertools.pairwise(axis))


def _closer(axis: PlacedAxis, halo: Sides, overlap: int) -> PlacedAxis | None:
    """Tiles that overlap so much, each moved by whole periods; None where they would coincide."""
    starts = [axis.starts[0]]
    pitch = axis.lattice.pitch
    for before, start in itertools.pairwise(axis.starts):
        step = start - before
        step -= -(-max(0, step - (axis.kept - overlap)) // pitch) * pitch
        if step <= 0:
            return None
        starts.append(starts[-1] + step)
    size = axis.size if starts == list(axis.starts) else min(axis.size, starts[-1] + axis.tile)
    return replace(axis, size=size, halo=halo, starts=tuple(starts))


def deeper(axis: AxisTiling, reach: Sides | None) -> AxisTiling:
    """Tiles that overlap so far that every halo up to the reach can be seen, if possible."""
    if axis.single or len(axis) == 1:
        return axis
    lattice = axis.lattice
    wanted = axis.kept // 2 if reach is None else sum(reach) + lattice.pitch
    overlap = max(0, min(axis.kept - lattice.pitch, wanted))
    if isinstance(axis, PlacedAxis):
        # on the grid: alignment is another experiment
        step = max(lattice.pitch, (axis.kept - overlap) // lattice.pitch * lattice.pitch)
        starts = tuple(range(0, axis.size - axis.tile + 1, step))
        return PlacedAxis(starts[-1] + axis.tile, axis.tile, (0, 0), 0, lattice, starts)
    return AxisTiling(axis.size, axis.tile, (0, 0), overlap, lattice)


def sample_of(
    grid: TileGrid,
    contrast: Callable[[Tile], float],
    worst: Iterable[Sequence[float]] = (),
    area: Slices | None = None,
) -> tuple[Tile, ...]:
    """Choose neighbouring tiles to examine: at the worst places, and spread over the image.

    Blocks of two tiles along each axis, so that each tile meets a neighbour along each. Half of
    them at the given places; the others evenly (additive recurrence, Roberts 2018), where the
    image is not empty.

    Parameters
    ----------
    grid
        All tiles.
    contrast
        Standard deviation of a tile's pixels.
    worst
        Points in input pixels, worst first.
    area
        Part of the result that is wanted.
    """
    spans = _spans(grid, area)
    tiles = min(_SAMPLE, _SAMPLE_PIXELS // math.prod(grid.tile_shape))
    most = max(1, tiles // 2 ** sum(len(span) > 1 for span in spans))
    counts = [max(1, len(span) - 1) for span in spans]
    given = dict.fromkeys(_block_at(grid, spans, point) for point in worst)
    chosen = list(itertools.islice(given, -(-most // 2)))
    spread = [
        tuple(span[i] for span, i in zip(spans, corner, strict=True))
        for corner in spread_places(counts, 4 * most)
    ]
    strength = {corner: contrast(grid[corner]) for corner in spread}
    least = _EMPTY * max(strength.values(), default=0.0)
    spread.sort(key=lambda corner: strength[corner] < least)
    chosen = list(dict.fromkeys([*chosen, *spread]))[:most]
    indices = dict.fromkeys(index for corner in chosen for index in _block(corner, spans))
    return tuple(grid[index] for index in sorted(indices))


def _spans(grid: TileGrid, area: Slices | None) -> list[range]:
    """Indices of the tiles that may be chosen, along each axis."""
    if area is None:
        return [range(len(axis)) for axis in grid.axes]
    return [
        axis.touching((part.start, part.stop)) for axis, part in zip(grid.axes, area, strict=True)
    ]


def _block(corner: Index, spans: Sequence[range]) -> Iterator[Index]:
    """Tiles of the block that begins at a corner."""
    sides = (range(i, min(i + 2, span.stop)) for i, span in zip(corner, spans, strict=True))
    return itertools.product(*sides)


def _block_at(grid: TileGrid, spans: Sequence[range], point: Sequence[float]) -> Index:
    """Corner of the block in whose middle a point lies best."""
    corner = []
    for axis, span, x in zip(grid.axes, spans, point, strict=True):
        last = max(span.start, span.stop - 2)
        edges = [axis[i].core[1] / float(axis.lattice.scale) for i in range(span.start, last + 1)]
        corner.append(span.start + int(np.argmin([abs(edge - x) for edge in edges])))
    return tuple(corner)


def spread_places(counts: Sequence[int], most: int) -> list[Index]:
    """Evenly spread places of a lattice, each once."""
    if math.prod(counts) <= most:
        return list(itertools.product(*map(range, counts)))
    golden = 1.0
    for _ in range(30):  # the root of x^(d+1) = x + 1
        golden = (1 + golden) ** (1 / (len(counts) + 1))
    found = (
        tuple(
            int((0.5 + k * golden ** -(axis + 1)) % 1 * count) for axis, count in enumerate(counts)
        )
        for k in range(4 * most)
    )
    return list(itertools.islice(dict.fromkeys(found), most))
