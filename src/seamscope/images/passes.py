"""Passes over a whole image, stretch by stretch, whose sums are put together in their order.

Knows how an image is cut into stretches, and which of its pixels have data. Does not know what is
summed, or which process does a stretch.

A stretch is some regions of the image that follow each other as they are stored. How an image is
cut depends on the image alone, and sums are joined in the order of the stretches: with any number
of processes, the total is the same to the last bit::

    regions      0 1 2 | 3 4 5 | 6 7
    stretches      0       1      2        total = ((0 + 1) + 2)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import ImageError
from seamscope.images.image import Image
from seamscope.progress import Work, check

Sums: TypeAlias = dict[str, npt.NDArray[Any]]

_BLOCK = 2**24
"""Bytes of the image that are read at a time."""

_PIECE = 2**17
"""Pixels that are worked on at a time: their float64 copies stay in the processor's cache."""

STRETCHES = 1000
"""The most stretches of an image."""

_COUNT, _FIRST = "not finite", "first not finite"


class Summing(Protocol):
    """What is summed of each channel."""

    def zeros(self) -> Sums:
        """Return the sums of no pixels."""

    def add(self, sums: Sums, channel: int, piece: np.ndarray) -> None:
        """Add some pixels of a channel."""

    def join(self, sums: Sums, more: Sums) -> None:
        """Add the sums of other pixels."""


class Pass(Protocol):
    """One pass over an image.

    Attributes
    ----------
    stretches
        How many it has.
    """

    stretches: int

    def sums(self, stretch: int) -> Sums:
        """Read a stretch and return its sums; reports progress."""

    def join(self, sums: Sums, more: Sums) -> None:
        """Add the sums of the next stretch."""

    def advance(self, stretch: int) -> None:
        """Report that another process has read a stretch."""


class Passes(Protocol):
    """Carries out passes, one after another."""

    def total(self, one: Pass) -> Sums:
        """Return the sums of all stretches, joined in their order."""


class _Here:
    """Reads all stretches in this process."""

    def total(self, one: Pass) -> Sums:
        return joined(one, map(one.sums, range(one.stretches)))


HERE: Passes = _Here()


def joined(one: Pass, parts: Iterator[Sums]) -> Sums:
    """Join the sums of stretches, given in their order."""
    total = next(parts)
    for part in parts:
        one.join(total, part)
    return total


class Stream:
    """Passes over the pixels of an image that have data.

    Parameters
    ----------
    image
        What is read.
    channel_axis
        Dimension of the channels; None where all are one.
    work
        Shows progress, and stops when asked to.
    passes
        Carries the passes out.

    Attributes
    ----------
    dtype
        Of the pixels; booleans are bytes.
    channels
        How many.
    passes
        How many there will be, for the progress.
    """

    def __init__(
        self, image: Image, channel_axis: int | None, work: Work, passes: Passes = HERE
    ) -> None:
        self.dtype = np.dtype(np.uint8) if image.dtype == bool else image.dtype
        self.channels = 1 if channel_axis is None else image.shape[channel_axis]
        self.passes = 1
        self.stretches, self._length = _cut(image)
        self._image = image
        self._axis = channel_axis
        self._work = work
        self._carrying_out = passes
        self._percent = 0
        self._pixels_done = 0
        self._checked = self.dtype.kind != "f"

    def summed(self, what: Summing) -> Sums:
        """Return the sums of all pixels; the first pass refuses values that are not finite.

        Raises
        ------
        ImageError
            When there are such values, or the image cannot be read.
        InterruptedError
            When stopped.
        """
        total = self._carrying_out.total(_Pass(self, what))
        self._refuse(int(total[_COUNT]), total[_FIRST])
        self._checked = True
        return total

    def check_data(self, counts: Sequence[float]) -> None:
        """Refuse an image of which a channel has no pixel with data."""
        if all(counts):
            return
        raise ImageError(
            f"{self._image.source or self._image.name} has no pixel with data in channel "
            f"{list(counts).index(0)}: all have the intensity that stands for no data. Choose "
            "another image, or another intensity for no data (nodata)."
        )

    def _regions(self, stretch: int) -> Iterator[tuple[slice, ...]]:
        first = stretch * self._length
        return self._image.blocks(_BLOCK, slice(first, first + self._length))

    def _split(
        self, block: np.ndarray, region: tuple[slice, ...]
    ) -> Iterator[tuple[int, np.ndarray]]:
        first = 0
        if self._axis is None:
            block = block[np.newaxis]
        else:
            block = np.moveaxis(block, self._axis, 0)
            first = region[self._axis].start
        for number, channel in enumerate(block, first):
            flat = channel.reshape(-1).view(self.dtype)
            for start in range(0, flat.size, _PIECE):
                piece = flat[start : start + _PIECE]
                if self._image.missing:
                    piece = piece[~np.isnan(piece)]
                if piece.size:
                    yield number, piece

    def _advance(self, pixels: int) -> None:
        self._pixels_done += pixels
        whole = math.prod(self._image.shape) * self.passes
        percent = min(100, 100 * self._pixels_done // whole)
        if percent > self._percent:
            self._percent = percent
            self._work.step(percent, 100)

    def _refuse(self, count: int, first: npt.NDArray[np.int64]) -> None:
        if not count:
            return
        name = self._image.source or self._image.name
        axes = f" ({self._image.axes})" if self._image.axes else ""
        raise ImageError(
            f"{name} has {count} value(s) that are not finite (NaN or infinite), the first "
            f"at {tuple(first.tolist())}{axes}. Every pixel in reach of one would be lost: give "
            "a value to use instead (`fill_nan=0`), or choose an area without them."
        )


class _Pass:
    """One pass of a stream, with values that are not finite counted beside the sums."""

    def __init__(self, stream: Stream, what: Summing) -> None:
        self._stream, self._what = stream, what
        self.stretches = stream.stretches

    def sums(self, stretch: int) -> Sums:
        stream, image = self._stream, self._stream._image
        sums = self._what.zeros()
        bad = {_COUNT: np.array(0), _FIRST: np.full(image.ndim, np.iinfo(np.int64).max)}
        for region in stream._regions(stretch):
            check(stream._work)
            block = image.read(region)
            if stream._checked or _finite(block, image, region, bad):
                for channel, piece in stream._split(block, region):
                    self._what.add(sums, channel, piece)
            stream._advance(block.size)
        return sums | bad

    def join(self, sums: Sums, more: Sums) -> None:
        _note(sums, int(more.pop(_COUNT)), more.pop(_FIRST))
        self._what.join(sums, more)

    def advance(self, stretch: int) -> None:
        for region in self._stream._regions(stretch):
            self._stream._advance(math.prod(part.stop - part.start for part in region))


def _cut(image: Image) -> tuple[int, int]:
    """Return how many stretches an image has, and how many regions each of them."""
    regions = sum(1 for _ in image.blocks(_BLOCK))
    length = -(-regions // STRETCHES)
    return -(-regions // length), length


def _finite(block: np.ndarray, image: Image, region: tuple[slice, ...], bad: Sums) -> bool:
    """Return whether all values are finite; else count the others, and note the first."""
    # the sum is finite in nearly every block without such values, and needs no array
    with np.errstate(all="ignore"):
        if np.isfinite(block.sum(dtype=np.float64)):
            return True
    found = np.isinf(block) if image.missing else ~np.isfinite(block)
    count = int(np.count_nonzero(found))
    if count:
        inside = np.unravel_index(int(found.argmax()), block.shape)
        place = [s.start + int(i) for s, i in zip(region, inside, strict=True)]
        _note(bad, count, np.array(place))
    return count == 0


def _note(sums: Sums, count: int, first: npt.NDArray[np.int64]) -> None:
    sums[_COUNT] = sums[_COUNT] + count
    sums[_FIRST] = min(sums[_FIRST], first, key=lambda place: place.tolist())


__all__ = ["HERE", "STRETCHES", "Pass", "Passes", "Stream", "Summing", "Sums", "joined"]
