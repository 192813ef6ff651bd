"""The fragments of one block: what drains to one minimum inside it, or to one zone at its faces.

Knows integers, their neighbours, and how fragments are kept in a file. Does not know other blocks
(see `seamscope.segmentation.basins`, which says what a fragment is).
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from skimage.measure import label as label_equal

from seamscope.segmentation.blocks import Blocks, neighbour_offsets, pair_slices
from seamscope.tiling import Slices

Array: TypeAlias = npt.NDArray[Any]

OUTSIDE = 65535
"""Height of a pixel that belongs to nothing."""

INDEX_BITS = 47  # of a pixel's linear index, beside 16 bits of height, in one sorting key
NO_KEY = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Fragments:
    """The fragments of one block, numbered from 1.

    Arrays are ``(F,)``, the entry ``i`` is fragment ``i + 1``.
    """

    region: Slices
    height: Array  # of the zone that is the fragment's root
    start: Array  # smallest linear index of the image
    area: Array
    at_border: Array
    cut_off: Array
    key: Array  # of face zones: their lowest neighbouring pixel inside the block
    target: Array  # its fragment, 0 for none
    edges: tuple[Array, Array, Array]
    faces: dict[tuple[int, int], tuple[Array, Array]]  # axis, side: heights and fragments
    levels: tuple[Array, Array]  # heights that occur, and the pixels of each

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.height)

    def to_bytes(self) -> bytes:
        """Return everything but the region, as a file of numpy's."""
        parts = {name: getattr(self, name) for name in _PLAIN}
        parts |= {f"edges {i}": each for i, each in enumerate(self.edges)}
        parts |= {f"levels {i}": each for i, each in enumerate(self.levels)}
        for (axis, side), pair in self.faces.items():
            parts |= {f"face {axis} {side} {i}": each for i, each in enumerate(pair)}
        file = io.BytesIO()
        np.savez(file, **parts)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, region: Slices) -> Fragments:
        """Read what `to_bytes` wrote."""
        with np.load(io.BytesIO(content)) as file:
            parts = dict(file)
        faces = {
            (axis, side): (parts[f"face {axis} {side} 0"], parts[f"face {axis} {side} 1"])
            for axis in range(len(region))
            for side in (0, 1)
            if f"face {axis} {side} 0" in parts
        }
        edges = parts["edges 0"], parts["edges 1"], parts["edges 2"]
        levels = parts["levels 0"], parts["levels 1"]
        plain = {name: parts[name] for name in _PLAIN}
        return cls(region=region, edges=edges, faces=faces, levels=levels, **plain)


_PLAIN = ("height", "start", "area", "at_border", "cut_off", "key", "target")


def find_fragments(
    heights: Array, region: Slices, blocks: Blocks, connectivity: int, flat: bool
) -> tuple[Fragments, Array]:
    """Find the fragments of one block; return what is known of them, and that of each pixel."""
    offsets = offsets_of(blocks, connectivity)
    zones, count = _zones(heights, blocks, connectivity)
    flat_zones, flat_heights = zones.ravel(), heights.ravel()
    pixels = flat_zones.size
    first = np.zeros(count + 1, np.int64)
    first[flat_zones[::-1]] = np.arange(pixels - 1, -1, -1)
    height = flat_heights[first]
    pending = _face_zones(zones, region, blocks, count)
    parent = np.arange(count + 1)
    key = np.full(count + 1, NO_KEY)
    if not flat:
        key = _lowest_neighbours(heights, zones, offsets, count)
        lower = (key >> 32) < height
        lower[0] = False
        key[~lower] = NO_KEY
        drains = lower & ~pending
        parent[drains] = flat_zones[key[drains] & 0xFFFFFFFF]
        parent = follow(parent)
    is_root = parent == np.arange(count + 1)
    is_root[0] = False
    number = np.cumsum(is_root)
    fragment_of = np.where(np.arange(count + 1) > 0, number[parent], 0)
    fragments = fragment_of[zones].astype(np.uint32)
    roots = np.flatnonzero(is_root)
    total = len(roots)
    start = np.full(total + 1, pixels)
    np.minimum.at(start, fragment_of[1:], first[1:])
    sent = pending[roots] & (key[roots] < NO_KEY)
    target = np.zeros(total, np.int64)
    target[sent] = fragment_of[flat_zones[key[roots][sent] & 0xFFFFFFFF]]
    global_key = np.full(total, NO_KEY)
    place = image_indices(key[roots][sent] & 0xFFFFFFFF, region, blocks)
    global_key[sent] = (key[roots][sent] >> 32 << INDEX_BITS) | place
    part = Fragments(
        region,
        height[roots],
        image_indices(start[1:], region, blocks),
        np.bincount(fragments.ravel(), minlength=total + 1)[1:],
        touching(fragments, region, blocks, total)[1:],
        touching(fragments, region, blocks, total, open_sides=True)[1:],
        global_key,
        target,
        _edges(heights, fragments, offsets),
        _faces(heights, fragments, region, blocks),
        np.unique(flat_heights, return_counts=True),
    )
    return part, fragments


def offsets_of(blocks: Blocks, connectivity: int) -> list[tuple[int, ...]]:
    """Half of the neighbours, as offsets along all axes."""
    joined = blocks.joined
    found = []
    for offset in neighbour_offsets(len(joined), connectivity):
        whole = [0] * len(blocks.shape)
        for axis, step in zip(joined, offset, strict=True):
            whole[axis] = step
        found.append(tuple(whole))
    return found


def _zones(heights: Array, blocks: Blocks, connectivity: int) -> tuple[Array, int]:
    """Number the zones of a block in any order, 0 outside."""
    shape = tuple(heights.shape[a] for a in blocks.joined)
    spatial = heights.reshape(shape).astype(np.int32)
    zones, count = label_equal(
        spatial, background=OUTSIDE, return_num=True, connectivity=connectivity
    )
    return zones.reshape(heights.shape), int(count)


def _face_zones(zones: Array, region: Slices, blocks: Blocks, count: int) -> Array:
    """Tell which zones touch a face behind which the image goes on."""
    found = np.zeros(count + 1, np.bool_)
    for axis, side in _inner_sides(region, blocks):
        found[np.take(zones, -side, axis)] = True
    found[0] = False
    return found


def _inner_sides(region: Slices, blocks: Blocks) -> Iterator[tuple[int, int]]:
    """Yield axis and side (0 before, 1 after) of each inner face of a block."""
    for axis in blocks.joined:
        if region[axis].start > 0:
            yield axis, 0
        if region[axis].stop < blocks.shape[axis]:
            yield axis, 1


def touching(
    numbers: Array, region: Slices, blocks: Blocks, count: int, *, open_sides: bool = False
) -> Array:
    """Tell which numbers of a block touch the image's border, or sides behind which it goes on."""
    found = np.zeros(count + 1, np.bool_)
    found[touched(numbers, region, blocks, open_sides=open_sides)] = True
    return found


def touched(numbers: Array, region: Slices, blocks: Blocks, *, open_sides: bool = False) -> Array:
    """Return the numbers of `touching`, ascending and without 0."""
    found = [np.zeros(0, numbers.dtype)]
    for axis in blocks.joined:
        for side, there in ((0, region[axis].start == 0), (1, _ends(region, axis, blocks))):
            if there and ((axis, side) in blocks.open_sides) == open_sides:
                found.append(np.take(numbers, -side, axis).ravel())
    each = np.unique(np.concatenate(found))
    return each[each > 0]


def _ends(region: Slices, axis: int, blocks: Blocks) -> bool:
    return bool(region[axis].stop == blocks.shape[axis])


def _lowest_neighbours(
    heights: Array, zones: Array, offsets: list[tuple[int, ...]], count: int
) -> Array:
    """For each zone the height (bits 32 and up) and place in the block of its lowest neighbour."""
    own = (heights.astype(np.int64) << 32) | np.arange(heights.size).reshape(heights.shape)
    lowest = np.full(heights.shape, NO_KEY)
    for offset in offsets:
        a, b = pair_slices(offset)
        np.minimum(lowest[a], own[b], out=lowest[a])
        np.minimum(lowest[b], own[a], out=lowest[b])
    key = np.full(count + 1, NO_KEY)
    np.minimum.at(key, zones.ravel(), lowest.ravel())
    return key


def follow(parent: Array) -> Array:
    """Follow all pointers to their ends, doubling the distance in each round."""
    while True:
        further = parent[parent]
        if np.array_equal(further, parent):
            return parent
        parent = further


def image_indices(places: Array, region: Slices, blocks: Blocks) -> Array:
    """Turn linear indices of a block into those of the image."""
    shape = tuple(part.stop - part.start for part in region)
    index = np.unravel_index(places, shape)
    moved = tuple(i + part.start for i, part in zip(index, region, strict=True))
    return np.asarray(np.ravel_multi_index(moved, blocks.shape), np.int64)


def _edges(
    heights: Array, fragments: Array, offsets: list[tuple[int, ...]]
) -> tuple[Array, Array, Array]:
    """Return pairs of touching fragments of a block, and the lowest pass of each."""
    found = []
    for offset in offsets:
        a, b = pair_slices(offset)
        one, two = fragments[a], fragments[b]
        apart = (one != two) & (one > 0) & (two > 0)
        if apart.any():
            height = np.maximum(heights[a][apart], heights[b][apart])
            found.append((one[apart].astype(np.int64), two[apart].astype(np.int64), height))
    return lowest_pairs(found)


def lowest_pairs(found: list[tuple[Array, Array, Array]]) -> tuple[Array, Array, Array]:
    """Return each pair of different numbers once, the smaller first, with its lowest height."""
    if not found:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, np.zeros(0, np.uint16)
    a, b, height = (np.concatenate(each) for each in zip(*found, strict=True))
    apart = a != b
    a, b, height = a[apart], b[apart], height[apart]
    low, high = np.minimum(a, b), np.maximum(a, b)
    span = int(high.max(initial=0)) + 1
    if span < 2**23:
        packed = np.sort(((low * span + high) << 16) | height)
        pair = packed >> 16
        once = np.ones(len(pair), np.bool_)
        once[1:] = pair[1:] != pair[:-1]
        pair, height = pair[once], (packed[once] & 0xFFFF).astype(np.uint16)
        return pair // span, pair % span, height
    order = np.lexsort((height, high, low))
    low, high, height = low[order], high[order], height[order]
    once = np.ones(len(low), np.bool_)
    once[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    return low[once], high[once], height[once].astype(np.uint16)


def _faces(
    heights: Array, fragments: Array, region: Slices, blocks: Blocks
) -> dict[tuple[int, int], tuple[Array, Array]]:
    """Copy the outermost pixels at each inner face."""
    return {
        (axis, side): (np.take(heights, -side, axis), np.take(fragments, -side, axis))
        for axis, side in _inner_sides(region, blocks)
    }


class Renumbered:
    """Fragments on disk, read as the basins that they are part of.

    Parameters
    ----------
    fragments
        Array of the image's shape: for each pixel its fragment within its block.
    blocks
        How the image is divided.
    lookup
        Returns, for a block, what each of its fragments is; entry 0 for pixels outside.
    """

    def __init__(self, fragments: Any, blocks: Blocks, lookup: Any) -> None:
        self._fragments, self._blocks, self._lookup = fragments, blocks, lookup
        self.shape, self.ndim = blocks.shape, len(blocks.shape)
        self.dtype = np.dtype(np.uint32)

    def __getitem__(self, index: tuple[Any, ...]) -> Array:
        """Return a region; one slice or number for each axis, slices with steps too."""
        places = [
            np.arange(n)[i if isinstance(i, slice) else slice(i, i + 1)]
            for i, n in zip(index, self.shape, strict=True)
        ]
        found = np.zeros([len(each) for each in places], self.dtype)
        runs = [_runs_of(each, cuts) for each, cuts in zip(places, self._blocks.cuts, strict=True)]
        for each in itertools.product(*runs):
            block = 0
            for (number, _, _), count in zip(each, self._blocks.counts, strict=True):
                block = block * count + number
            here, there = (tuple(run[i] for run in each) for i in (1, 2))
            found[here] = self._lookup(block)[self._fragments[there]]
        whole = tuple(slice(None) if isinstance(i, slice) else 0 for i in index)
        return np.asarray(found[whole])


def _runs_of(places: Array, cuts: Sequence[int]) -> list[tuple[int, slice, slice]]:
    """Split places along an axis by blocks: block, where in the result, where in the image."""
    found = []
    numbers = np.searchsorted(cuts, places, "right") - 1
    for number in np.unique(numbers):
        at = np.flatnonzero(numbers == number)
        own = places[at]
        step = int(own[1] - own[0]) if len(own) > 1 else 1
        found.append(
            (
                int(number),
                slice(int(at[0]), int(at[-1]) + 1),
                slice(int(own[0]), int(own[-1]) + 1, step),
            )
        )
    return found


__all__ = [
    "INDEX_BITS",
    "NO_KEY",
    "OUTSIDE",
    "Fragments",
    "Renumbered",
    "find_fragments",
    "follow",
    "image_indices",
    "lowest_pairs",
    "offsets_of",
    "touched",
    "touching",
]
