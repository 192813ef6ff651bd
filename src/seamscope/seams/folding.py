"""Fold an overlap of two tiles by the distance to its inner borders.

Knows lengths and distances along axes. Does not know what is predicted.

Each pixel is valid up to some halo. Values of an overlap are collected axis by axis, until one
number is left for each distance; accumulated from the far end, they are sums, maxima or counts over
what is valid at each halo (picture in `seamscope.seams.meter`).
"""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from seamscope.seams.measures import Array
from seamscope.tiling import Slices


class Ends(NamedTuple):
    """An axis of an overlap, and how the halo applies to its two ends."""

    length: int
    low: Fraction | None  # the ray's weight of this side; None: no inner border, or no halo
    high: Fraction | None
    beyond: int  # output pixels between its end and the lower tile's
    scale: Fraction

    def distances(self) -> npt.NDArray[np.int64]:
        """Largest halo of the ray at which each pixel is valid."""
        x = np.arange(self.length)
        far = np.full(self.length, np.iinfo(np.int64).max)
        low = far if self.low is None else self._within(x, self.low)
        high = far
        if self.high is not None:
            high = self._within(self.length - 1 - x + self.beyond, self.high)
        return np.asarray(np.minimum(low, high))

    def _within(self, pixels: Array, weight: Fraction) -> Array:
        """Whole input pixels, then whole steps of the ray."""
        inputs = pixels * self.scale.denominator // self.scale.numerator
        steps: Array = inputs * weight.denominator // weight.numerator
        return steps


class Fold:
    """Folds an overlap by distance to its inner borders.

    Parameters
    ----------
    ends
        Its axes.
    most
        The widest halo: a tile's own extent. An overlap without a halo on any side is valid at all
        of them.
    """

    def __init__(self, ends: tuple[Ends, ...], most: int) -> None:
        lines = [axis.distances() for axis in ends]
        self.deepest = min(most, *(int(line.max()) for line in lines))
        self._lines = [np.minimum(line, self.deepest) for line in lines]
        self._runs = [_runs(line, self.deepest) for line in self._lines]
        counts = [np.array([(line >= h).sum() for h in range(self.deepest + 1)]) for line in lines]
        self.pixels = np.prod(counts, axis=0).astype(np.float64)
        self._boxes = [[_hull(line >= h) for h in range(self.deepest + 1)] for line in lines]

    def box(self, halo: int) -> Slices:
        """The part of the overlap that is valid at this halo."""
        return tuple(axis[halo] for axis in self._boxes)

    def sums(self, values: Array) -> Array:
        """Sum ``(..., C, *overlap) -> (..., C, H)`` over what is valid at each halo."""
        flat = values.reshape(-1, *values.shape[values.ndim - len(self._lines) :])
        nested = self._folded(flat, np.add, np.float64) @ self._beyond.T
        while nested.ndim > 2:  # one axis more: beyond the same distance
            nested = np.einsum("...dh,hd->...h", nested, self._beyond)
        return np.asarray(nested.reshape(*values.shape[: -len(self._lines)], -1))

    def maxima(self, values: Array) -> Array:
        """Largest ``(C, *overlap) -> (C, H)`` of what is valid at each halo; not negative."""
        nested = self._folded(values, np.maximum, values.dtype)
        nested = _from_far_end(nested, np.maximum)
        while nested.ndim > 2:
            nested = np.where(self._beyond.T, nested, 0).max(-2)
        return nested

    def counts(self, numbers: Array, most: int) -> Array:
        """Pixels ``(most, H)`` that have each number, of what is valid at each halo."""
        small = (self.deepest + 1) * most < 1 << 32  # half the memory to go through
        codes = np.multiply(self._distance, most, dtype=np.uint32 if small else np.intp)
        np.add(codes, numbers, out=codes, casting="unsafe")
        counts = np.bincount(codes.ravel(), minlength=(self.deepest + 1) * most)
        return _from_far_end(counts.reshape(-1, most).T.astype(np.float64))

    @cached_property
    def _distance(self) -> npt.NDArray[np.uint16]:
        """Distance of each pixel of the overlap, in a small type, since it stays in memory."""
        found = np.full((), self.deepest)
        for axis, line in enumerate(self._lines):
            wide = line.reshape([-1 if a == axis else 1 for a in range(len(self._lines))])
            found = np.minimum(found, wide)
        return found.astype(np.uint16 if self.deepest < 1 << 16 else np.uint32)

    @cached_property
    def _beyond(self) -> Array:
        """``(H, H)``: which distances are valid at which halo."""
        return np.triu(np.ones((self.deepest + 1,) * 2))

    def _folded(self, values: Array, ufunc: Any, dtype: Any) -> Array:
        for axis, runs in enumerate(self._runs, start=1):
            values = _fold_axis(values, axis, runs, self.deepest, ufunc, dtype)
        return values.astype(dtype, copy=False)


def _hull(true: Array) -> slice:
    where = np.flatnonzero(true)
    return slice(int(where[0]), int(where[-1]) + 1)


class _Run(NamedTuple):
    """Neighbouring pixels of an axis: rising, at their deepest, or falling."""

    part: slice
    starts: Array | None  # where each distance begins; None where each is one pixel
    single: bool  # all at one distance
    target: slice | Array  # their distances, in the order of the pixels
    backwards: bool  # or in the reverse order, where there is no gap: a slice, which is faster


def _runs(line: Array, deepest: int) -> list[_Run]:
    flat = np.flatnonzero(line == deepest)
    parts = (slice(0, flat[0]), slice(flat[0], flat[-1] + 1), slice(flat[-1] + 1, line.size))
    runs = []
    for part in parts:
        values = line[part]
        if values.size:
            starts = np.flatnonzero(np.diff(values, prepend=-1))
            target: slice | Array = values[starts]
            first, last = int(values[0]), int(values[-1])
            if abs(last - first) + 1 == starts.size:
                target = slice(min(first, last), max(first, last) + 1)
            each = None if starts.size == values.size else starts
            runs.append(_Run(part, each, starts.size == 1, target, last < first))
    return runs


def _fold_axis(
    values: Array, axis: int, runs: list[_Run], deepest: int, ufunc: Any, wide: Any
) -> Array:
    """Collect one axis by distance: ``(..., n, ...) -> (..., H, ...)``.

    Long sums are taken in the type `wide`; what is folded once keeps its own, which is faster.
    """
    shape = (*values.shape[:axis], deepest + 1, *values.shape[axis + 1 :])
    order = (axis, *(a for a in range(values.ndim) if a != axis))
    folded = np.zeros(shape, values.dtype)
    into, source = folded.transpose(order), values.transpose(order)
    for run in runs:
        part = source[run.part]
        if run.single:
            part = ufunc.reduce(part, axis=0, dtype=wide)[None]
        elif run.starts is not None:
            part = ufunc.reduceat(part, run.starts, axis=0)
        if isinstance(run.target, slice):
            target = into[run.target]
            ufunc(target, part[::-1] if run.backwards else part, out=target, casting="same_kind")
        else:
            into[run.target] = ufunc(into[run.target], part)
    return folded


def _from_far_end(bins: Array, ufunc: Any = np.add) -> Array:
    """Accumulate over all distances of at least ``d``, for each ``d``, along the last axis."""
    return np.asarray(ufunc.accumulate(bins[..., ::-1], axis=-1)[..., ::-1])


__all__ = ["Ends", "Fold"]
