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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from seamscope.errors import SettingsError
from seamscope.images.image import Image
from seamscope.images.passes import HERE, Passes, Stream, Sums
from seamscope.progress import QUIET, Work
from seamscope.serialization import Recorded
from seamscope.settings import Method

EPS = 1e-6
"""Added to divisors, as bioimage.io does."""


@dataclass(frozen=True)
class Intensity(Recorded):
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


def measure_intensity(
    image: Image,
    method: Method,
    *,
    channel_axis: int | None,
    percentiles: tuple[float, float] = (1.0, 99.8),
    work: Work = QUIET,
    passes: Passes = HERE,
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
        Shows progress, and stops when asked to (see `seamscope.progress`).
    passes
        Carries out each pass over the image; by default this process.

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
    stream = Stream(image, channel_axis, work, passes)
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
# The three measurements
# --------------------------------------------------------------------------------------------------


class _Moments:
    """Mean and spread.

    Everything is relative to the first pixel of a stretch: a constant channel then has a spread of
    exactly 0, and a large offset costs no digits.
    """

    def __init__(self, channels: int) -> None:
        self._channels = channels

    def zeros(self) -> Sums:
        floats = {name: np.zeros(self._channels) for name in ("shift", "mean", "squares")}
        return {"count": np.zeros(self._channels, np.int64), **floats}

    def add(self, sums: Sums, channel: int, piece: np.ndarray) -> None:
        values = piece.astype(np.float64)
        if not sums["count"][channel]:
            sums["shift"][channel] = values[0]
        values -= sums["shift"][channel]
        mean = values.mean()
        values -= mean
        _merge(sums, channel, values.size, float(mean), float(values @ values))

    def join(self, sums: Sums, more: Sums) -> None:
        for channel in np.flatnonzero(more["count"]).tolist():
            if not sums["count"][channel]:
                for name, values in more.items():
                    sums[name][channel] = values[channel]
                continue
            shift = more["shift"][channel] - sums["shift"][channel]
            mean = float(more["mean"][channel] + shift)
            _merge(sums, channel, int(more["count"][channel]), mean, more["squares"][channel])


def _merge(sums: Sums, channel: int, count: int, mean: float, squares: float) -> None:
    """Add pixels with their mean and squared differences to it, after Chan and others."""
    before = int(sums["count"][channel])
    delta, total = mean - float(sums["mean"][channel]), before + count
    sums["squares"][channel] += squares + delta * delta * before * count / total
    sums["mean"][channel] += delta * count / total
    sums["count"][channel] = total


def _of_moments(stream: Stream) -> Intensity:
    found = stream.summed(_Moments(stream.channels))
    stream.check_data(found["count"].tolist())
    spread = np.sqrt(found["squares"] / found["count"]).tolist()
    offset = (found["shift"] + found["mean"]).tolist()
    return Intensity("zscore", tuple(offset), tuple(map(_divisor, spread)))


class _Extremes:
    """Least and greatest value."""

    def __init__(self, channels: int) -> None:
        self._channels = channels

    def zeros(self) -> Sums:
        return {
            "low": np.full(self._channels, math.inf),
            "high": np.full(self._channels, -math.inf),
        }

    def add(self, sums: Sums, channel: int, piece: np.ndarray) -> None:
        sums["low"][channel] = min(sums["low"][channel], float(piece.min()))
        sums["high"][channel] = max(sums["high"][channel], float(piece.max()))

    def join(self, sums: Sums, more: Sums) -> None:
        np.minimum(sums["low"], more["low"], out=sums["low"])
        np.maximum(sums["high"], more["high"], out=sums["high"])


def _of_extremes(stream: Stream) -> Intensity:
    found = stream.summed(_Extremes(stream.channels))
    stream.check_data((found["low"] <= found["high"]).tolist())
    return _between("minmax", found["low"].tolist(), found["high"].tolist())


def _of_percentiles(stream: Stream, percentiles: tuple[float, float]) -> Intensity:
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise SettingsError(
            f"Percentiles {low:g} and {high:g} must be 0 <= low < high <= 100, "
            "for example 1 and 99.8."
        )
    shift = max(0, 8 * stream.dtype.itemsize - 16)
    stream.passes = 1 + shift // 16
    counts = _counted(stream, [{0}] * stream.channels, shift)
    totals = [int(counts[channel][0].sum()) for channel in range(stream.channels)]
    stream.check_data(totals)
    ranks = [[(total - 1) * (p / 100) for p in percentiles] for total in totals]
    values = _order_statistics(stream, ranks, counts, shift)
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


def _order_statistics(
    stream: Stream, ranks: list[list[float]], counts: list[dict[int, np.ndarray]], shift: int
) -> list[dict[int, float]]:
    """Return, for each channel, the values beside its ranks (0 is the smallest).

    Radix selection: each pass counts 16 more bits of the values, and only of those that share their
    leading bits with a value that is looked for.
    """
    # for each channel and rank: leading bits known so far, and the rank among those that share them
    known = [
        {rank: (0, rank) for r in each for rank in (math.floor(r), math.ceil(r))} for each in ranks
    ]
    while True:
        for channel, searched in enumerate(known):
            for rank, (lead, within) in searched.items():
                searched[rank] = _step(counts[channel][lead], lead, within)
        if not shift:
            break
        shift -= 16
        leads = [{lead for lead, _ in searched.values()} for searched in known]
        counts = _counted(stream, leads, shift)
    return [
        {rank: _value(key, stream.dtype) for rank, (key, _) in searched.items()}
        for searched in known
    ]


def _step(counts: np.ndarray, lead: int, within: int) -> tuple[int, int]:
    """Find the bin that holds a rank; return the longer lead and the rank inside the bin."""
    upto = np.cumsum(counts)
    bin_ = int(np.searchsorted(upto, within, side="right"))
    return lead << 16 | bin_, within - int(upto[bin_] - counts[bin_])


class _Digits:
    """How often each 16 bits of the values occur, for each channel and each lead."""

    def __init__(self, leads: list[set[int]], shift: int, bits: int) -> None:
        self._leads, self._shift, self._bits = leads, shift, bits

    def zeros(self) -> Sums:
        names = (_name(c, lead) for c, leads in enumerate(self._leads) for lead in leads)
        return {name: np.zeros(2 ** min(16, self._bits), np.int64) for name in names}

    def add(self, sums: Sums, channel: int, piece: np.ndarray) -> None:
        keys = _keys(piece)
        digits = (keys >> self._shift & 0xFFFF).astype(np.intp) if self._bits > 16 else keys
        if self._shift + 16 >= self._bits:
            _count(sums[_name(channel, 0)], digits)
            return
        top = keys >> (self._shift + 16)
        for lead in self._leads[channel]:
            _count(sums[_name(channel, lead)], digits[top == lead])

    def join(self, sums: Sums, more: Sums) -> None:
        for name, counts in more.items():
            sums[name] += counts


def _counted(stream: Stream, leads: list[set[int]], shift: int) -> list[dict[int, np.ndarray]]:
    """Count the next 16 bits of all values that have these leads."""
    found = stream.summed(_Digits(leads, shift, 8 * stream.dtype.itemsize))
    return [{lead: found[_name(c, lead)] for lead in each} for c, each in enumerate(leads)]


def _name(channel: int, lead: int) -> str:
    return f"{channel} {lead}"


def _count(counts: np.ndarray, digits: np.ndarray) -> None:
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
