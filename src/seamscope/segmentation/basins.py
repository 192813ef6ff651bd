"""Basins of a height image: the same array, bit for bit, for any blocks, order and workers.

Knows integers and their neighbours. Does not know where heights come from, nor what basins are for.

1. *Zone*: pixels of equal height that touch.
2. *Drain*: each zone points to its lowest neighbouring pixel if that is lower than itself; of
   equally low ones, to the one with the smaller linear index. Zones without a lower neighbour are
   minima.
3. *Basin*: everything whose pointers lead to the same minimum. Basins are numbered by their
   smallest linear index, from 1.
4. *Pass* between two basins: the smallest ``max(height, height)`` over their touching pixels.

Each step is a union or a minimum over pairs of neighbouring pixels: associative and commutative,
hence independent of the order. A block is computed by itself::

    +----------------+      zones that touch an inner face of the block may go on behind it: their
    |  o interior    |      drains are only decided when the faces are joined. All other zones are
    |     minimum <--|--.   final. Pixels are kept as *fragments*: all that drains to one interior
    |  *** face zone |  |   minimum, or to one face zone.
    +----------------+--'

Joining works on fragments and on the outermost pixels of blocks, so memory is one block and the
graph of fragments.

The watershed by these basins is the minimum spanning forest of Cousty et al. 2009, "Watershed
cuts", https://doi.org/10.1109/TPAMI.2008.173.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from seamscope.errors import SettingsError
from seamscope.progress import QUIET, Work, check
from seamscope.segmentation.blocks import Blocks, in_order, pair_slices
from seamscope.segmentation.fragments import (
    INDEX_BITS,
    NO_KEY,
    OUTSIDE,
    Fragments,
    find_fragments,
    follow,
    lowest_pairs,
    offsets_of,
)
from seamscope.tiling import Slices

Array: TypeAlias = npt.NDArray[Any]
ReadHeights: TypeAlias = Callable[[Slices], Array]

MOST_BASINS = 2**32 - 1


@dataclass(frozen=True)
class Passes:
    """Pairs of touching basins and the lowest pass between them.

    Attributes
    ----------
    first, second
        Basins, ``first < second``, in ascending order; ``(E,)`` int64.
    height
        Of the pass, ``(E,)`` uint16.
    """

    first: Array
    second: Array
    height: Array

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Basins:
    """Basins of an image.

    Entries 0 of all arrays stand for pixels outside.

    Attributes
    ----------
    numbers
        For each pixel its basin, 0 outside; uint32, an array or what can be sliced like one.
    blocks
        How the image was divided; what is computed from `numbers` may use the same blocks.
    connectivity
        Of pixels, see `neighbour_offsets`.
    lowest
        Height of each basin's minimum, ``(N + 1,)`` uint16.
    area
        Pixels of each basin, ``(N + 1,)`` int64.
    start
        Smallest linear index of each basin, ``(N + 1,)`` int64.
    at_border
        Whether a basin touches the image's border (not along isolated axes), ``(N + 1,)`` bool.
    cut_off
        Whether it touches a side of `Blocks.open_sides`, ``(N + 1,)`` bool.
    passes
        Between touching basins.
    histogram
        Pixels of each height, ``(65536,)`` int64.
    """

    numbers: Any
    blocks: Blocks
    connectivity: int
    lowest: Array
    area: Array
    start: Array
    at_border: Array
    cut_off: Array
    passes: Passes
    histogram: Array

    @property
    def count(self) -> int:
        """Number of basins."""
        return len(self.area) - 1


def find_basins(
    heights: ReadHeights,
    numbers: Any,
    blocks: Blocks,
    *,
    connectivity: int = 1,
    flat: bool = False,
    workers: int = 1,
    work: Work = QUIET,
) -> Basins:
    """Find the basins of an image, block by block.

    Parameters
    ----------
    heights
        Returns the heights of a region, uint16; `OUTSIDE` for pixels that belong to nothing. It is
        called once for each block, from several threads where `workers` is above 1.
    numbers
        Array of the image's shape, uint32, to be filled.
    blocks
        How the image is divided.
    connectivity
        1 for pixels that share a face, up to the number of joined axes for corners too.
    flat
        Whether each zone is a basin of its own: no zone drains.
    workers
        Threads.
    work
        Shows progress and stops.

    Raises
    ------
    SettingsError
        When the image has more than 2^32 basins or 2^47 pixels.
    InterruptedError
        When stopped.
    """
    check_size(blocks)
    parts = _all_parts(heights, numbers, blocks, connectivity, flat, workers, work)
    check(work)
    work.phase("Joining blocks")
    joined = join_fragments(parts, blocks, connectivity, flat)
    _renumber(numbers, parts, joined, work)
    return replace(joined.basins, numbers=numbers)


def check_size(blocks: Blocks) -> None:
    """Refuse an image whose pixels cannot be numbered.

    Raises
    ------
    SettingsError
        When it has 2^47 pixels or more.
    """
    if int(np.prod(blocks.shape, dtype=object)) >= 2**INDEX_BITS:
        raise SettingsError("An image of 2^47 pixels or more cannot be labelled: cut it in parts.")


@dataclass(frozen=True)
class Joined:
    """What the fragments of all blocks are, together.

    Attributes
    ----------
    basins
        Without the number of each pixel.
    basin
        For each fragment its basin, entry 0 for pixels outside; int64.
    offsets
        For each block how many fragments the blocks before it have, int64.
    """

    basins: Basins
    basin: Array
    offsets: Array

    def lookup(self, block: int) -> Array:
        """For each fragment of a block its basin, entry 0 for pixels outside; uint32."""
        last = len(self.basin) - 1
        stop = self.offsets[block + 1] if block + 1 < len(self.offsets) else last
        own = self.basin[self.offsets[block] + 1 : stop + 1]
        return np.concatenate([[0], own]).astype(np.uint32)


def join_fragments(
    parts: Sequence[Fragments], blocks: Blocks, connectivity: int, flat: bool
) -> Joined:
    """Join the fragments of all blocks, in the order of the blocks.

    Raises
    ------
    SettingsError
        When there are more than 2^32 basins.
    """
    joined = _Joining(parts, blocks, connectivity, flat)
    basin, lowest = joined.solve()
    count = len(lowest) - 1
    if count > MOST_BASINS:
        raise SettingsError(
            f"The image has {count} basins, but at most {MOST_BASINS} can be numbered: smooth the "
            "prediction, or segment parts of it."
        )
    passes = joined.passes(basin)
    area = np.bincount(basin, weights=joined.area, minlength=count + 1).astype(np.int64)
    start = np.full(count + 1, NO_KEY)
    np.minimum.at(start, basin, joined.start)
    at_border, cut_off = np.zeros((2, count + 1), np.bool_)
    at_border[basin[joined.at_border]] = True
    cut_off[basin[joined.cut_off]] = True
    histogram = np.zeros(OUTSIDE + 1, np.int64)
    for part in parts:
        histogram[part.levels[0]] += part.levels[1]
    area[0] = histogram[OUTSIDE]
    at_border[0] = cut_off[0] = False
    found = Basins(
        None, blocks, connectivity, lowest, area, start, at_border, cut_off, passes, histogram
    )
    return Joined(found, basin, joined.offsets)


def _all_parts(
    heights: ReadHeights,
    numbers: Any,
    blocks: Blocks,
    connectivity: int,
    flat: bool,
    workers: int,
    work: Work,
) -> list[Fragments]:
    """Find the fragments of all blocks; they are listed by block, whichever is done first."""

    def one(region: Slices) -> Fragments:
        check(work)
        part, fragments = find_fragments(heights(region), region, blocks, connectivity, flat)
        numbers[region] = fragments
        return part

    work.phase("Finding basins")
    found: list[Fragments] = []
    total = len(blocks)
    with closing(in_order(one, blocks, workers)) as parts:
        for part in parts:
            found.append(part)
            work.step(len(found), total)
    return found


def _renumber(numbers: Any, parts: list[Fragments], joined: Joined, work: Work) -> None:
    """Replace the fragments of each block by basins."""
    work.phase("Numbering basins")
    for block, part in enumerate(parts):
        check(work)
        numbers[part.region] = joined.lookup(block)[numbers[part.region]]
        work.step(block + 1, len(parts))


# -- all blocks


class _Joining:
    """Fragments of all blocks, numbered one after the other, and what their faces decide.

    Entry 0 of all arrays stands for pixels outside.
    """

    def __init__(
        self, parts: Sequence[Fragments], blocks: Blocks, connectivity: int, flat: bool
    ) -> None:
        self._parts = parts
        self._blocks = blocks
        self._offsets = offsets_of(blocks, connectivity)
        self._flat = flat
        counts = [part.count for part in parts]
        self.offsets = np.concatenate([[0], np.cumsum(counts)])[:-1].astype(np.int64)
        self.height = _after(OUTSIDE, [part.height for part in parts]).astype(np.int64)
        self.start = _after(NO_KEY, [part.start for part in parts])
        self.area = _after(0, [part.area for part in parts])
        self.at_border = _after(False, [part.at_border for part in parts])
        self.cut_off = _after(False, [part.cut_off for part in parts])
        self._key = _after(NO_KEY, [part.key for part in parts])
        self._target = _after(
            0,
            [
                np.where(part.target > 0, part.target + offset, 0)
                for part, offset in zip(parts, self.offsets, strict=True)
            ],
        )
        self._pairs: list[tuple[Array, Array, Array]] = []

    def solve(self) -> tuple[Array, Array]:
        """Return the basin of each fragment, and the height of each basin's minimum."""
        equal = self._join_faces()
        count = len(self.height)
        zone = _components(count, equal)
        root = zone
        zones = int(zone.max(initial=0)) + 1
        height = np.full(zones, OUTSIDE, np.int64)
        height[zone] = self.height
        if not self._flat:
            key = np.full(zones, NO_KEY)
            np.minimum.at(key, zone, self._key)
            target = np.zeros(zones, np.int64)
            decides = self._key == key[zone]
            target[zone[decides]] = self._target[decides]
            parent = np.arange(zones)
            lower = (key >> INDEX_BITS) < height
            parent[lower] = zone[target[lower]]
            root = follow(parent)[zone]
        return self._numbered(root, height, zone)

    def _numbered(self, root: Array, height: Array, zone: Array) -> tuple[Array, Array]:
        """Number basins by their smallest linear index; fragment 0 is and stays outside."""
        start = np.full(len(height), NO_KEY)
        np.minimum.at(start, root[1:], self.start[1:])
        order = np.argsort(start, kind="stable")[: int((start < NO_KEY).sum())]
        number = np.zeros(len(height), np.int64)
        number[order] = np.arange(1, len(order) + 1)
        lowest = np.concatenate([[OUTSIDE], height[order]]).astype(np.uint16)
        basin = number[root]
        basin[0] = 0
        return basin, lowest

    def passes(self, basin: Array) -> Passes:
        """Return the lowest passes between touching basins."""
        found = [(basin[a], basin[b], height) for a, b, height in self._pairs]
        for part, offset in zip(self._parts, self.offsets, strict=True):
            a, b, height = part.edges
            found.append((basin[a + offset], basin[b + offset], height))
        return Passes(*lowest_pairs(found))

    def _join_faces(self) -> tuple[Array, Array]:
        """Look at all pairs of pixels across faces; return pairs of fragments that are one zone."""
        equal: list[tuple[Array, Array]] = [(np.zeros(0, np.int64),) * 2]
        keys: list[tuple[Array, Array, Array]] = []
        for axis in self._blocks.joined:
            for layer in range(1, self._blocks.counts[axis]):
                plane = self._plane(axis, layer)
                for offset in self._offsets:
                    if offset[axis]:
                        self._look(plane, axis, offset, equal, keys)
        for fragment, key, _ in keys:
            np.minimum.at(self._key, fragment, key)
        for fragment, key, target in keys:
            decides = self._key[fragment] == key
            self._target[fragment[decides]] = target[decides]
        a, b = (np.concatenate(each) for each in zip(*equal, strict=True))
        return a, b

    def _plane(self, axis: int, layer: int) -> tuple[tuple[Array, Array, Array], ...]:
        """Heights, fragments and linear indices on both sides of the border before a layer."""
        blocks = self._blocks
        cross = tuple(n for a, n in enumerate(blocks.shape) if a != axis)
        at = blocks.cuts[axis][layer]
        sides = []
        for side, number in ((1, layer - 1), (0, layer)):
            heights = np.full(cross, OUTSIDE, np.uint16)
            fragments = np.zeros(cross, np.int64)
            for i in self._layer(axis, number):
                part, offset = self._parts[i], self.offsets[i]
                where = tuple(s for a, s in enumerate(part.region) if a != axis)
                face_heights, face_fragments = part.faces[axis, side]
                heights[where] = face_heights
                fragments[where] = np.where(face_fragments > 0, face_fragments + offset, 0)
            index = np.ogrid[tuple(slice(0, n) for n in cross)]
            full = [*index[:axis], np.array(at - side), *index[axis:]]
            place = np.ravel_multi_index(np.broadcast_arrays(*full), blocks.shape)
            sides.append((heights, fragments, np.asarray(place, np.int64)))
        return tuple(sides)

    def _layer(self, axis: int, number: int) -> Iterator[int]:
        """Yield the numbers of all blocks at one place along an axis."""
        counts = self._blocks.counts
        index = np.arange(len(self._parts)).reshape(counts)
        yield from (int(i) for i in np.take(index, number, axis).ravel())

    def _look(
        self,
        plane: tuple[tuple[Array, Array, Array], ...],
        axis: int,
        offset: tuple[int, ...],
        equal: list[tuple[Array, Array]],
        keys: list[tuple[Array, Array, Array]],
    ) -> None:
        """Look at the pairs at one offset across one plane."""
        step = offset if offset[axis] > 0 else tuple(-o for o in offset)
        here, there = pair_slices([o for a, o in enumerate(step) if a != axis])
        low = tuple(each[here] for each in plane[0])
        high = tuple(each[there] for each in plane[1])
        both = (low[1] > 0) & (high[1] > 0)
        height_a, a, place_a = (each[both] for each in low)
        height_b, b, place_b = (each[both] for each in high)
        if not len(a):
            return
        same = height_a == height_b
        equal.append((a[same], b[same]))
        self._pairs.append((a, b, np.maximum(height_a, height_b)))
        down, up = height_b < height_a, height_a < height_b
        keys.append((a[down], _key(height_b[down], place_b[down]), b[down]))
        keys.append((b[up], _key(height_a[up], place_a[up]), a[up]))


def _key(height: Array, place: Array) -> Array:
    return (height.astype(np.int64) << INDEX_BITS) | place


def _after(first: Any, parts: list[Array]) -> Array:
    """Join arrays behind an entry 0."""
    return np.concatenate([np.asarray([first]), *parts])


def _components(count: int, pairs: tuple[Array, Array]) -> Array:
    """Number connected fragments."""
    matrix = sparse.coo_array((np.ones(len(pairs[0]), np.bool_), pairs), shape=(count, count))
    found = sparse.csgraph.connected_components(matrix, directed=False)[1]
    return np.asarray(found, np.int64)


__all__ = [
    "MOST_BASINS",
    "Basins",
    "Joined",
    "Passes",
    "check_size",
    "find_basins",
    "join_fragments",
]
