"""Lower resolutions of a result, built block by block while it grows.

Knows how one level is made of the level above it, where its pixels lie, and which of its chunks are
due. Does not know files or metadata.

::

    level 0   ####|####|##..    a region is written
    level 1   ####|#...         a chunk is built as soon as all its pixels above it are written
    level 2   ##..

A chunk is built in memory, from the regions as they are written. Where it has no place there, or a
region ends inside of a window, it is built from the stored pixels above it, at most eight chunks.
The result does not depend on the order of the regions, and not on how often one is written: a
chunk that changes after it was built is built again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.images.results.chunks import is_lost

SMALLEST = 256
"""Levels are added until the plane y, x of the last is not larger than this, in pixels."""

_METRES = {
    "angstrom": 1e-10,
    "nanometer": 1e-9,
    "micrometer": 1e-6,
    "millimeter": 1e-3,
    "centimeter": 1e-2,
}

# Memory of chunks that are begun; enough for a band of chunks over a wide image.
_ROOM = 32 << 20

Index = tuple[slice, ...]


@dataclass(frozen=True)
class Level:
    """Size and place of one resolution.

    Attributes
    ----------
    shape
        In its own pixels.
    steps
        Pixels of the level above in one pixel of this one, 1 or 2 for each dimension.
    scale
        Pixel size, as in `seamscope.images.image.Image`.
    origin
        Centre of the first pixel.
    """

    shape: tuple[int, ...]
    steps: tuple[int, ...]
    scale: tuple[float, ...]
    origin: tuple[float, ...]


def levels_of(
    axes: str,
    shape: Sequence[int],
    scale: Sequence[float],
    units: Sequence[str],
    origin: Sequence[float],
    count: int | None = None,
) -> list[Level]:
    """Return the levels of a pyramid, the full resolution first.

    Axes of space are halved, odd sizes rounded up. An axis whose pixels are already twice as long
    as those of the finest axis waits, so that voxels become cubes. The first pixel of a level
    begins where the first full pixel begins: its centre is shifted by half of what it grew.

    Parameters
    ----------
    axes, shape, scale, units, origin
        Of the full resolution, as in `seamscope.images.image.Image`.
    count
        How many, at most; None for as many as make the lowest one small.
    """
    first = Level(tuple(shape), (1,) * len(axes), tuple(scale), tuple(origin))
    levels = [first]
    smallest = SMALLEST if count is None else 1
    while max(n for n, a in zip(levels[-1].shape, axes, strict=True) if a in "yx") > smallest:
        if len(levels) == count:
            break
        levels.append(_coarser(levels[-1], axes, units))
    return levels


def _coarser(level: Level, axes: str, units: Sequence[str]) -> Level:
    lengths = {
        number: abs(level.scale[number]) * _METRES.get(units[number], 1.0)
        for number, axis in enumerate(axes)
        if axis in "zyx" and level.shape[number] > 1
    }
    finest = min(lengths.values())
    # a little less than 2: 0.1 * 2 * 2 and 0.4 are the same length
    steps = tuple(
        2 if number in lengths and lengths[number] < 1.999 * finest else 1
        for number in range(len(axes))
    )
    return Level(
        tuple(-(-n // step) for n, step in zip(level.shape, steps, strict=True)),
        steps,
        tuple(size * step for size, step in zip(level.scale, steps, strict=True)),
        tuple(
            start + 0.5 * (step - 1) * size
            for start, step, size in zip(level.origin, steps, level.scale, strict=True)
        ),
    )


# -- one block


def coarsened(
    block: npt.NDArray[Any], steps: Sequence[int], labels: bool = False
) -> npt.NDArray[Any]:
    """Return a block at the next lower resolution.

    Parameters
    ----------
    block
        Pixels; it begins at a multiple of `steps`.
    steps
        1 or 2 for each dimension. Where a size is odd, the last pixel stands for itself.
    labels
        Whether pixels are labels: each becomes the most frequent of its window, of equally
        frequent ones the first in row-major order. Else they are values: each becomes the mean of
        its window, of integers rounded to the nearest, halves up.

    Returns
    -------
    numpy.ndarray
        Of the same type.
    """
    odd = [(0, -n % step) for n, step in zip(block.shape, steps, strict=True)]
    if any(after for _, after in odd):
        block = np.pad(block, odd, mode="edge")
    corners = itertools.product(*(range(step) for step in steps))
    parts = [
        block[tuple(slice(start, None, step) for start, step in zip(corner, steps, strict=True))]
        for corner in corners
    ]
    if labels:
        return _most_frequent(parts)
    return _mean_of_integers(parts) if block.dtype.kind in "iu" else _mean(parts)


def _most_frequent(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    counts = np.zeros((len(parts), *parts[0].shape), np.uint8)
    for (i, one), (j, other) in itertools.combinations(enumerate(parts), 2):
        same = one == other
        counts[i] += same
        counts[j] += same
    best = counts.argmax(axis=0)  # the first of equals
    found = parts[0].copy()
    for number, part in enumerate(parts[1:], 1):
        np.copyto(found, part, where=best == number)
    return found


def _mean_of_integers(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Without overflow, also of 64 bits: quotients and remainders are added apart."""
    count = len(parts)
    mean = np.zeros_like(parts[0])
    remainders = np.full(parts[0].shape, count // 2, np.uint8)
    for part in parts:
        mean += part // count
        remainders += (part % count).astype(np.uint8)
    mean += (remainders // count).astype(mean.dtype)
    return mean


def _mean(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Added one after another: rounding does not depend on the size of the block."""
    wide = np.float32 if parts[0].dtype == np.float16 else parts[0].dtype
    with np.errstate(over="ignore", invalid="ignore"):
        total = parts[0].astype(wide)
        for part in parts[1:]:
            total += part
        total /= len(parts)
        return total.astype(parts[0].dtype, copy=False)


# -- all of them


@dataclass
class _Begun:
    """A chunk that is not whole.

    Attributes
    ----------
    missing
        Pixels above it that are still to come.
    pixels, known
        Its pixels as far as they are known, and which are; None where they have no place in memory.
    """

    missing: int
    pixels: npt.NDArray[Any] | None = None
    known: npt.NDArray[np.bool_] | None = None

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(each.nbytes for each in (self.pixels, self.known) if each is not None)


class Pyramid:
    """The lower levels of a result that grows.

    Parameters
    ----------
    arrays
        All levels, the full resolution first; read and written by slices. Chunks of the lower ones
        are given by their ``chunks``.
    levels
        Their sizes, as `levels_of` returns them.
    labels
        Whether pixels are labels (see `coarsened`).

    Examples
    --------
    >>> full, half = np.arange(16.0).reshape(4, 4), np.zeros((2, 2))
    >>> levels = [Level((4, 4), (1, 1), (1, 1), (0, 0)), Level((2, 2), (2, 2), (2, 2), (0.5, 0.5))]
    >>> Pyramid([full, half], levels).wrote((slice(0, 4), slice(0, 4)))
    >>> half.tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """

    def __init__(
        self, arrays: Sequence[Any], levels: Sequence[Level], labels: bool = False
    ) -> None:
        self.arrays = list(arrays)
        self._levels = list(levels)
        self._labels = labels
        self._begun: list[dict[tuple[int, ...], _Begun]] = [{} for _ in levels]
        self._room = _ROOM
        self._since = math.inf

    def wrote(self, region: Index, block: npt.NDArray[Any] | None = None) -> None:
        """Build what became due by a region of the full resolution that is stored now.

        Parameters
        ----------
        region
            A slice for each dimension.
        block
            What is stored there, if it is in memory.
        """
        self._note(1, region, True, block)

    def already(self, region: Index, since: float) -> None:
        """Note a region that an earlier run has stored; what became due is built where it is lost.

        `since` is that of `seamscope.images.results.chunks.is_lost`.
        """
        self._since = since
        self._note(1, region, False)

    def finish(self) -> None:
        """Build what is begun and not whole: regions that were written twice, or never."""
        for number in range(1, len(self._levels)):
            for chunk in sorted(self._begun[number]):
                self._complete(number, chunk, build=True)

    def _note(
        self, number: int, region: Index, build: bool, block: npt.NDArray[Any] | None = None
    ) -> None:
        if number == len(self._levels):
            return
        for chunk in self._touched(number, region):
            begun = self._begun[number].get(chunk)
            if begun is None:
                begun = self._begin(number, chunk, block is not None)
                self._begun[number][chunk] = begun
            common = _common(self._source(number, chunk), region)
            begun.missing -= _size(common)
            self._take(number, chunk, common, None if block is None else block[_in(region, common)])
            if begun.missing <= 0:
                self._complete(number, chunk, build)

    def _begin(self, number: int, chunk: tuple[int, ...], in_memory: bool) -> _Begun:
        """Begin a chunk, in memory if it has a place there."""
        missing = _size(self._source(number, chunk))
        shape, dtype = _shape(self._own(number, chunk)), np.dtype(self.arrays[number].dtype)
        size = math.prod(shape) * (dtype.itemsize + 1)  # and which pixels are known
        if not in_memory or size > self._room:
            return _Begun(missing)
        self._room -= size
        return _Begun(missing, np.zeros(shape, dtype), np.zeros(shape, np.bool_))

    def _take(
        self, number: int, chunk: tuple[int, ...], region: Index, block: npt.NDArray[Any] | None
    ) -> None:
        """Take a part of what is above a chunk into its pixels; without it, they are not known."""
        begun, steps = self._begun[number][chunk], self._levels[number].steps
        if begun.pixels is None or begun.known is None:
            return
        if block is None or not _is_whole(region, steps, self._levels[number - 1].shape):
            self._room += begun.bytes
            begun.pixels = begun.known = None
            return
        part = tuple(
            slice(r.start // step, -(-r.stop // step))
            for r, step in zip(region, steps, strict=True)
        )
        inside = _in(self._own(number, chunk), part)
        begun.pixels[inside] = coarsened(
            block.astype(begun.pixels.dtype, copy=False), steps, self._labels
        )
        begun.known[inside] = True

    def _complete(self, number: int, chunk: tuple[int, ...], build: bool) -> None:
        own, begun = self._own(number, chunk), self._begun[number][chunk]
        pixels = begun.pixels
        build = build or is_lost(self.arrays[number], own, self._since)
        if build:
            if pixels is None or begun.known is None or not begun.known.all():
                source = self.arrays[number - 1][self._source(number, chunk)]
                pixels = coarsened(np.asarray(source), self._levels[number].steps, self._labels)
            self.arrays[number][own] = pixels
        del self._begun[number][chunk]
        self._room += begun.bytes
        self._note(number + 1, own, build, pixels if build else None)

    def _chunks(self, number: int) -> tuple[int, ...]:
        found = getattr(self.arrays[number], "chunks", None)
        return tuple(found) if found else self._levels[number].shape

    def _touched(self, number: int, region: Index) -> Iterator[tuple[int, ...]]:
        sizes = zip(region, self._levels[number].steps, self._chunks(number), strict=True)
        return itertools.product(
            *(
                range(part.start // (step * chunk), -(-part.stop // (step * chunk)))
                for part, step, chunk in sizes
            )
        )

    def _own(self, number: int, chunk: tuple[int, ...]) -> Index:
        return tuple(
            slice(i * size, min((i + 1) * size, n))
            for i, size, n in zip(
                chunk, self._chunks(number), self._levels[number].shape, strict=True
            )
        )

    def _source(self, number: int, chunk: tuple[int, ...]) -> Index:
        level, above = self._levels[number], self._levels[number - 1].shape
        return tuple(
            slice(part.start * step, min(part.stop * step, n))
            for part, step, n in zip(self._own(number, chunk), level.steps, above, strict=True)
        )


def _size(region: Index) -> int:
    return math.prod(_shape(region))


def _shape(region: Index) -> tuple[int, ...]:
    return tuple(part.stop - part.start for part in region)


def _common(a: Index, b: Index) -> Index:
    return tuple(
        slice(max(one.start, other.start), max(one.start, other.start, min(one.stop, other.stop)))
        for one, other in zip(a, b, strict=True)
    )


def _in(region: Index, part: Index) -> Index:
    """Return where a part of a region lies, counted from the region's corner."""
    return tuple(
        slice(p.start - r.start, p.stop - r.start) for r, p in zip(region, part, strict=True)
    )


def _is_whole(region: Index, steps: Sequence[int], shape: Sequence[int]) -> bool:
    """Return whether a region is made of whole windows; those at an array's end may be smaller."""
    return all(
        part.start % step == 0 and (part.stop % step == 0 or part.stop == n)
        for part, step, n in zip(region, steps, shape, strict=True)
    )


__all__ = ["SMALLEST", "Index", "Level", "Pyramid", "coarsened", "levels_of"]
