"""Bringing intensities to the range a network was trained on, once for the whole image.

Knows how mean, extremes and percentiles are found by streaming through an image of any size, and
how they are applied to a block. Does not know networks or tiles: statistics of a tile would make
every tile different, which is the first cause of seams.

::

    x  ->  (x - offset) / divisor          for each channel, in float32

    zscore       offset mean     divisor standard deviation + 1e-6
    minmax       offset minimum  divisor maximum - minimum + 1e-6
    percentile   offset low      divisor high - low + 1e-6       (not clipped)

The 1e-6 is the ``eps`` of ``zero_mean_unit_variance`` and ``scale_range`` in the bioimage.io model
specification, so that networks from there see what they were trained on. A channel that is constant
has divisor 1 and becomes 0 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from seamscope.errors import ImageError, SettingsError
from seamscope.images.image import Image
from seamscope.settings import Method
from seamscope.work import QUIET, Work, check

EPS = 1e-6
"""Added to divisors, as bioimage.io does."""

_BLOCK = 2**24
"""Bytes of the image that are read at a time."""

_PIECE = 2**17
"""Pixels that are worked on at a time: their float64 copies stay in the processor's cache."""


@dataclass(frozen=True)
class Intensity:
    """A linear map of intensities: ``x -> (x - offset) / divisor`` for each channel.

    Attributes
    ----------
    method
        How it was found: ``"none"``, ``"zscore"``, ``"minmax"`` or ``"percentile"``.
    offset, divisor
        One for each channel, or one for all; in the image's own intensities.
    """

    method: Method
    offset: tuple[float, ...] = (0.0,)
    divisor: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise SettingsError(
                f"There is no normalization {self.method!r}: choose one of "
                f"{', '.join(get_args(Method))}."
            )
        usable = all(map(math.isfinite, self.offset + self.divisor)) and all(self.divisor)
        if len(self.offset) != len(self.divisor) or not self.offset or not usable:
            raise SettingsError(
                f"Offsets {self.offset} and divisors {self.divisor} must be as many numbers each, "
                "finite and divisors not zero: measure them again."
            )

    def apply(self, block: np.ndarray, out: np.ndarray) -> None:
        """Write the normalized block into `out`.

        Integers up to 16 bits and floats up to 32 bits are computed in float32, wider types in
        float64 until the result, since what float32 drops of a large offset would be seen.

        Parameters
        ----------
        block
            Pixels of any real type, shape ``(C, *spatial)``.
        out
            The same shape, float32; overwritten.

        Raises
        ------
        SettingsError
            When there are neither as many offsets as channels, nor a single one.
        """
        if len(self.offset) not in (1, block.shape[0]):
            raise SettingsError(
                f"The intensities were measured for {len(self.offset)} channels, and the image has "
                f"{block.shape[0]}: measure them on an image of the same kind."
            )
        if self.method == "none":
            np.copyto(out, block, casting="unsafe")
            return
        wide = block.dtype.itemsize > (2 if block.dtype.kind in "iu" else 4)
        kind = np.float64 if wide else np.float32
        column = (-1,) + (1,) * (block.ndim - 1)
        offset = np.array(self.offset, kind).reshape(column)
        if wide:
            np.subtract(block, offset, out=out, dtype=np.float64, casting="unsafe")
        else:
            np.copyto(out, block)  # conversion by itself is much faster than inside of subtract
            np.subtract(out, offset, out=out)
        np.divide(out, np.array(self.divisor, np.float32).reshape(column), out=out)

    def to_json(self) -> dict[str, Any]:
        """Return this in JSON's own types."""
        return {
            "method": self.method,
            "offset": list(self.offset),
            "divisor": list(self.divisor),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Intensity:
        """Return what `to_json` wrote.

        Raises
        ------
        SettingsError
            When it is not what `to_json` writes.
        """
        try:
            numbers = [tuple(float(x) for x in record[name]) for name in ("offset", "divisor")]
            return cls(record["method"], *numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(
                f"This is not a saved normalization ({error!r}): it needs method, offset and "
                "divisor. Measure it again."
            ) from error


def measure_intensity(
    image: Image,
    method: Method,
    *,
    channel_axis: int | None,
    percentiles: tuple[float, float] = (1.0, 99.8),
    work: Work = QUIET,
) -> Intensity:
    """Measure over the whole image how its intensities are to be normalized.

    Streams through the image in the order it is stored, in about 64 MB of memory. Mean and variance
    are merged in float64 by the formula of Chan, Golub and LeVeque (1979). Percentiles are exact,
    ``numpy.percentile(..., method="linear")`` of the whole channel in float64: found by one pass
    for types of up to 16 bits, two passes for 32, four for 64.

    Parameters
    ----------
    image
        What to measure.
    method
        ``"none"`` reads nothing.
    channel_axis
        Dimension of the channels, which are measured apart; None to measure all as one.
    percentiles
        Low and high, in percent.
    work
        Shows progress, and stops when asked to (see `seamscope.work`).

    Raises
    ------
    ImageError
        When the image has values that are not finite, or cannot be read.
    SettingsError
        When the method or the percentiles make no sense.
    InterruptedError
        When stopped.
    """
    if method == "none" or method not in get_args(Method):
        return Intensity(method)  # which refuses what there is not
    stream = _Stream(image, channel_axis, work)
    if method == "zscore":
        return _of_moments(stream)
    if method == "minmax":
        return _of_extremes(stream)
    return _of_percentiles(stream, percentiles)


def _between(method: Method, low: list[float], high: list[float]) -> Intensity:
    return Intensity(
        method, tuple(low), tuple(_divisor(b - a) for a, b in zip(low, high, strict=True))
    )


def _divisor(spread: float) -> float:
    """Return what to divide by; 1 for a constant channel, whose rounding 1/eps would blow up."""
    return spread + EPS if spread > 0 else 1.0


# --------------------------------------------------------------------------------------------------
# One pass
# --------------------------------------------------------------------------------------------------


class _Stream:
    """Passes over an image: flat pieces of one channel at a time, each pixel once."""

    def __init__(
        self,
        image: Image,
        channel_axis: int | None,
        work: Work,
    ) -> None:
        self.dtype = np.dtype(np.uint8) if image.dtype == bool else image.dtype
        self.channels = 1 if channel_axis is None else image.shape[channel_axis]
        self.passes = 1
        self._image = image
        self._axis = channel_axis
        self._work = work
        self._percent = 0
        self._pixels_done = 0
        self._checked = self.dtype.kind != "f"
        self._valid: list[int] | None = None

    def pixels_of(self, channel: int) -> int:
        """Number of pixels of one channel that have data; counted once, by a pass of its own."""
        if not self._image.missing:
            return math.prod(self._image.shape) // self.channels
        if self._valid is None:
            valid = [0] * self.channels
            self.passes += 1
            for number, piece in self.pieces():
                valid[number] += piece.size
            self._valid = valid
        return self._valid[channel]

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield channel and pixels; the first pass refuses values that are not finite."""
        bad = _NotFinite(self._image)
        for region in self._image.blocks(_BLOCK):
            check(self._work)
            block = self._image.read(region)
            if self._checked or bad.none_in(block, region):
                yield from self._split(block, region)
            self._tell(block.size)
        bad.refuse()
        self._checked = True

    def check_data(self, counts: Sequence[int]) -> None:
        """Refuse an image of which a channel has no pixel with data."""
        if all(counts):
            return
        raise ImageError(
            f"{self._image.source or self._image.name} has no pixel with data in channel "
            f"{list(counts).index(0)}: all have the intensity that stands for no data. Choose "
            "another image, or another intensity for no data (nodata)."
        )

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

    def _tell(self, pixels: int) -> None:
        self._pixels_done += pixels
        whole = math.prod(self._image.shape) * self.passes
        percent = min(100, 100 * self._pixels_done // whole)
        if percent > self._percent:
            self._percent = percent
            self._work.step(percent, 100)


class _NotFinite:
    """Counts values that are not finite, and remembers the first of them."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._count = 0
        self._first: tuple[int, ...] | None = None

    def none_in(self, block: np.ndarray, region: tuple[slice, ...]) -> bool:
        # the sum is finite in nearly every block without such values, and needs no array
        with np.errstate(all="ignore"):
            if np.isfinite(block.sum(dtype=np.float64)):
                return True
        found = np.isinf(block) if self._image.missing else ~np.isfinite(block)
        count = int(np.count_nonzero(found))
        if count:
            inside = np.unravel_index(int(found.argmax()), block.shape)
            place = tuple(s.start + int(i) for s, i in zip(region, inside, strict=True))
            self._first = place if self._first is None else min(self._first, place)
            self._count += count
        return count == 0

    def refuse(self) -> None:
        if not self._count:
            return
        name = self._image.source or self._image.name
        axes = f" ({self._image.axes})" if self._image.axes else ""
        raise ImageError(
            f"{name} has {self._count} value(s) that are not finite (NaN or infinite), the first "
            f"at {self._first}{axes}. Every pixel in reach of one would be lost: replace them, for "
            "example by numpy.nan_to_num, or choose an area without them."
        )


# --------------------------------------------------------------------------------------------------
# The three measurements
# --------------------------------------------------------------------------------------------------


def _of_moments(stream: _Stream) -> Intensity:
    count = [0] * stream.channels
    # everything is taken relative to a channel's first pixel: a constant channel then has a spread
    # of exactly 0, and a large offset costs no digits
    shift = [0.0] * stream.channels
    mean = [0.0] * stream.channels
    squares = [0.0] * stream.channels  # sum of squared differences to the mean, "M2"
    for c, piece in stream.pieces():
        values = piece.astype(np.float64)
        if not count[c]:
            shift[c] = float(values[0])
        values -= shift[c]
        piece_mean = float(values.mean())
        values -= piece_mean
        delta, total = piece_mean - mean[c], count[c] + values.size
        squares[c] += float(values @ values) + delta * delta * count[c] * values.size / total
        mean[c] += delta * values.size / total
        count[c] = total
    stream.check_data(count)
    spread = (math.sqrt(m2 / n) for m2, n in zip(squares, count, strict=True))
    offset = tuple(s + m for s, m in zip(shift, mean, strict=True))
    return Intensity("zscore", offset, tuple(map(_divisor, spread)))


def _of_extremes(stream: _Stream) -> Intensity:
    low = [math.inf] * stream.channels
    high = [-math.inf] * stream.channels
    for c, piece in stream.pieces():
        low[c] = min(low[c], float(piece.min()))
        high[c] = max(high[c], float(piece.max()))
    stream.check_data([int(a <= b) for a, b in zip(low, high, strict=True)])
    return _between("minmax", low, high)


def _of_percentiles(stream: _Stream, percentiles: tuple[float, float]) -> Intensity:
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise SettingsError(
            f"Percentiles {low:g} and {high:g} must be 0 <= low < high <= 100, "
            "for example 1 and 99.8."
        )
    counts = [stream.pixels_of(channel) for channel in range(stream.channels)]
    stream.check_data(counts)
    ranks = [[(count - 1) * (p / 100) for p in percentiles] for count in counts]
    wanted = [
        sorted({rank for r in each for rank in (math.floor(r), math.ceil(r))}) for each in ranks
    ]
    values = _order_statistics(stream, wanted)
    ends = [
        [_between_ranks(found, r) for r in each] for found, each in zip(values, ranks, strict=True)
    ]
    return _between("percentile", [low for low, _ in ends], [high for _, high in ends])


def _between_ranks(values: Mapping[int, float], rank: float) -> float:
    """Interpolate as numpy does, to the last bit."""
    below, above = values[math.floor(rank)], values[math.ceil(rank)]
    part = rank - math.floor(rank)
    step = above - below
    return above - step * (1 - part) if part >= 0.5 else below + step * part


def _order_statistics(stream: _Stream, ranks: list[list[int]]) -> list[dict[int, float]]:
    """Return, for each channel, the values at its ranks (0 is the smallest).

    Radix selection: each pass counts 16 more bits of the values, and only of those that share their
    leading bits with a value that is looked for.
    """
    bits = 8 * stream.dtype.itemsize
    stream.passes += max(1, bits // 16) - 1
    # for each channel and rank: leading bits known so far, and the rank among those that share them
    known = [{rank: (0, rank) for rank in each} for each in ranks]
    for shift in range(max(0, bits - 16), -1, -16):
        counts = _count(stream, known, shift, bits)
        for channel, searched in enumerate(known):
            for rank, (lead, within) in searched.items():
                searched[rank] = _step(counts[channel][lead], lead, within)
    return [
        {rank: _value(key, stream.dtype) for rank, (key, _) in searched.items()}
        for searched in known
    ]


def _step(counts: np.ndarray, lead: int, within: int) -> tuple[int, int]:
    """Find the bin that holds a rank; return the longer lead and the rank inside the bin."""
    upto = np.cumsum(counts)
    bin_ = int(np.searchsorted(upto, within, side="right"))
    return lead << 16 | bin_, within - int(upto[bin_] - counts[bin_])


def _count(
    stream: _Stream, known: list[dict[int, tuple[int, int]]], shift: int, bits: int
) -> list[dict[int, np.ndarray]]:
    """Count the next 16 bits for each channel and each lead."""
    leads = [{lead for lead, _ in searched.values()} for searched in known]
    counts = [{lead: np.zeros(2**16, np.int64) for lead in each} for each in leads]
    for c, piece in stream.pieces():
        keys = _keys(piece)
        digits = (keys >> shift & 0xFFFF).astype(np.intp) if bits > 16 else keys
        if shift + 16 >= bits:
            _add(counts[c][0], digits)
            continue
        top = keys >> (shift + 16)
        for lead, into in counts[c].items():
            _add(into, digits[top == lead])
    return counts


def _add(counts: np.ndarray, digits: np.ndarray) -> None:
    found = np.bincount(digits)
    counts[: len(found)] += found


def _keys(values: np.ndarray) -> np.ndarray:
    """Return unsigned integers in the same order as `values`."""
    bits = 8 * values.dtype.itemsize
    unsigned: np.ndarray = values.view(f"u{bits // 8}")
    if values.dtype.kind == "u":
        return unsigned
    top = np.array(1 << (bits - 1), unsigned.dtype)
    # IEEE floats are ordered like sign and magnitude: flip all bits of the negative ones
    negative = unsigned & top if values.dtype.kind == "f" else 0
    keys: np.ndarray = np.where(negative, ~unsigned, unsigned ^ top)
    return keys


def _value(key: int, dtype: np.dtype[Any]) -> float:
    """Undo `_keys`."""
    bits = 8 * dtype.itemsize
    top = 1 << (bits - 1)
    if dtype.kind == "i":
        key ^= top
    elif dtype.kind == "f":
        key = key ^ top if key & top else key ^ ((1 << bits) - 1)
    return float(np.array(key, f"u{bits // 8}").view(dtype))
