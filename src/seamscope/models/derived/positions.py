"""Positions instead of values: which input pixels the elements of a tensor depend on.

Knows intervals, kinds, and how they are moved, joined and gathered. Does not know operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from seamscope.tiling import Sides

Array: TypeAlias = npt.NDArray[Any]

NONE = np.int64(1) << 40  # `lo` of what depends on nothing; `hi` is its negative
PADDING, NOTHING = np.uint64(1), np.uint64(2)  # kinds of what is outside, and of what is not read
_PADDED = np.uint64(1)  # bit of the kinds of all that depends on padding
UNREAD = -2  # for a place, where nothing is read though nothing is outside
DEAD = -50.0  # what is so much less than others is nothing after a softmax
_MOST = 30_000_000  # elements of an array of positions
# The same, of elements that meet each other. Reading so many takes 0.04 s, ten times as many 0.8 s,
# and a network has tens of attentions that are read at several lengths. Windows of 7x7x7 have
# 117,649.
_MOST_PAIRS = 300_000


@dataclass(frozen=True)
class Seen:
    """Intervals and kinds of a tensor's elements, for one spatial axis of the input.

    Each dimension is as long as the tensor's, or 1 where all of it is alike.
    """

    lo: Array
    hi: Array
    kind: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        return tuple(self.lo.shape)

    def each(self, change: Callable[[Array], Array]) -> Seen:
        """Return the same after a change of all three arrays."""
        return Seen(change(self.lo), change(self.hi), change(self.kind))

    def taken(self, places: Array, dim: int) -> Seen:
        """Return the elements at some places along a dimension."""
        return self.each(lambda a: np.take(a, places, dim))

    def wide(self, shape: Sequence[int]) -> Seen:
        """Return the same with dimensions of length 1 repeated."""
        return self.each(lambda a: np.broadcast_to(a, tuple(shape)))

    @property
    def padded(self) -> Array:
        """Which elements depend on padding."""
        return (self.kind & _PADDED).astype(bool)

    def where(self, keep: Array, other: Any = NOTHING) -> Seen:
        """What is not kept depends on nothing, and is of another kind."""
        lo, hi = np.where(keep, self.lo, NONE), np.where(keep, self.hi, -NONE)
        return Seen(lo, hi, np.where(keep, self.kind, other))


_hashing = np.errstate(over="ignore")  # numpy warns of numbers, though not of arrays


@_hashing
def mixed(values: Array) -> Array:
    """splitmix64 (Steele, Lea, Flood 2014)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_hashing
def _kinds(seen: Seen, lo: Array, tag: Any) -> Array:
    """Kinds of parts, with where they lie relative to the whole and which part they are."""
    apart = np.where(seen.lo == NONE, np.int64(-1), seen.lo - np.where(lo == NONE, 0, lo))
    length = np.maximum(seen.hi - seen.lo, -1)
    tagged = mixed(
        np.atleast_1d(np.asarray(tag, np.uint64)) * np.uint64(0x2545F4914F6CDD1D) + np.uint64(7)
    )
    return mixed(seen.kind + mixed(apart.astype(np.uint64)) + tagged + length.astype(np.uint64))


def marked(kinds: Array, padded: Array) -> Array:
    """Kinds that say whether what they stand for depends on padding."""
    return (kinds & ~_PADDED) | padded.astype(np.uint64)


@_hashing
def joined(parts: Sequence[Seen]) -> Seen:
    """Elements that depend on one element of each part."""
    if len(parts) == 1:
        return parts[0]
    shape = np.broadcast_shapes(*(part.shape for part in parts))
    check_room(shape)
    lo = parts[0].lo
    hi = parts[0].hi
    for part in parts[1:]:
        lo, hi = np.minimum(lo, part.lo), np.maximum(hi, part.hi)
    kind = np.zeros(shape, np.uint64)
    padded = np.zeros(shape, bool)
    for tag, part in enumerate(parts):
        kind = kind + _kinds(part, lo, tag)
        padded = padded | part.padded
    return Seen(lo, hi, marked(kind, padded).reshape(shape))


def reduced(seen: Seen, dim: int) -> Seen:
    """Elements that depend on all along a dimension, which is kept with length 1."""
    if seen.shape[dim] == 1:
        return seen
    lo, hi = seen.lo.min(dim, keepdims=True), seen.hi.max(dim, keepdims=True)
    kind = _kinds(seen, lo, _numbers(seen, dim)).sum(dim, keepdims=True, dtype=np.uint64)
    padded = np.asarray(seen.padded.any(dim, keepdims=True))
    return Seen(lo, hi, marked(kind, padded))


def _numbers(seen: Seen, dim: int) -> Array:
    """Numbers of the elements along a dimension."""
    index = np.arange(seen.shape[dim], dtype=np.uint64)
    return index.reshape([-1 if d == dim % seen.lo.ndim else 1 for d in range(seen.lo.ndim)])


def gathered(seen: Seen, dim: int, index: Array) -> Seen:
    """Elements that depend on those at ``index[o, k]`` along a dimension; -1 is padding."""
    if seen.shape[dim] == 1 and (index >= 0).any(1).all():
        return seen
    outside = PADDING if _is_along(seen, dim) else NOTHING
    if seen.shape[dim] == 1:
        seen = seen.each(lambda a: np.repeat(a, max(int(index.max()), 0) + 1, dim))
    parts = []
    for k in range(index.shape[1]):
        shape = [-1 if d == dim % seen.lo.ndim else 1 for d in range(seen.lo.ndim)]
        place = index[:, k].reshape(shape)
        at = np.maximum(index[:, k], 0)
        other = np.where(place == UNREAD, NOTHING, outside)
        parts.append(seen.taken(at, dim).where(place >= 0, other))
    return joined(parts)


def _is_along(seen: Seen, dim: int) -> bool:
    """Whether the axis that is read lies along a dimension; padding of another is none of it."""
    if seen.shape[dim] == 1:
        return False
    last = np.where(seen.lo == NONE, -NONE, seen.lo).max(dim)
    return bool((last > seen.lo.min(dim)).any())


def are_few(pairs: Sequence[int]) -> bool:
    """Whether pairs of elements are few enough to look at each."""
    return math.prod(pairs) <= _MOST_PAIRS


def check_room(shape: Sequence[int]) -> None:
    """Refuse arrays of positions that would fill the memory."""
    if math.prod(shape) > _MOST:
        raise NotUnderstood("too many positions")


class NotUnderstood(Exception):  # noqa: N818  (a reason to list an operation)
    """Why an operation cannot be read."""


@dataclass(frozen=True)
class Value:
    """What a tensor depends on.

    Attributes
    ----------
    shape
        Of the tensor.
    axes
        For each spatial axis.
    dead
        Elements that a softmax makes 0, or that are 0 after one; shaped as positions are.
    """

    shape: tuple[int, ...]
    axes: tuple[Seen, ...]
    dead: Array | None = None

    def moved(self, shape: Sequence[int], change: Callable[[Array], Array]) -> Value:
        """The same elements at other places."""
        dead = None if self.dead is None else change(self.dead)
        return Value(tuple(shape), tuple(one.each(change) for one in self.axes), dead)

    def by_rows(self) -> Value:
        """Say only which rows have dead elements, where pairs of elements are too many to keep."""
        if self.dead is None or are_few(self.shape) or any(s.shape[-1] > 1 for s in self.axes):
            return self
        return replace(self, dead=np.asarray(self.dead.any(-1, keepdims=True)))

    def remade(self, shape: Sequence[int], change: Callable[[Seen], Seen]) -> Value:
        """Return other elements, made of these."""
        return Value(tuple(shape), tuple(change(one) for one in self.axes))


def reshaped(array: Array, old: Sequence[int], new: Sequence[int]) -> Array:
    """Reshape positions of a tensor ``old`` to ``new``; what is alike stays of length 1."""
    wide: list[int] = []
    short: list[int] = []
    for (a, i), (b, j) in reshaping(old, new):
        alike = all(n == 1 for n in array.shape[a:i])
        wide += [1] * (i - a) if alike else list(old[a:i])
        short += [1] * (j - b) if alike else list(new[b:j])
    check_room(wide)
    return np.broadcast_to(array, wide).reshape(short)


def reshaping(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[Sides, Sides]]:
    """Ranges of dimensions before and after a reshape that hold the same elements."""
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while math.prod(old[a:i]) != math.prod(new[b:j]):
            if math.prod(old[a:i]) < math.prod(new[b:j]) and i < len(old):
                i += 1
            else:
                j += 1
        yield (a, i), (b, j)


def shortened(seen: Seen) -> Seen:
    """Give dimensions along which all is alike the length 1."""
    for dim in range(seen.lo.ndim):
        first = seen.taken(np.array([0]), dim)
        if seen.shape[dim] > 1 and all(
            bool((getattr(seen, name) == getattr(first, name)).all())
            for name in ("lo", "hi", "kind")
        ):
            seen = first
    return seen


def sliced(value: Value, dim: int, index: Array) -> Value:
    """Elements at these places along a dimension."""
    shape = [*value.shape]
    shape[dim] = len(index)
    return value.moved(shape, lambda a: a if a.shape[dim] == 1 else np.take(a, index, dim))


def window_places(out: int, size: int, starts: Array, steps: Array) -> Array:
    """Places ``(out, taps)`` that windows read; -1 beyond the ends."""
    index = starts[:, None] + steps[None]
    return np.where((index >= 0) & (index < size), index, -1)


def channels_joined(seen: Seen, dim: int, groups: int, count: int) -> Seen:
    """Join the channels of each group, where they differ; each group gives as many of `count`."""
    if seen.shape[dim] == 1:
        return seen
    if groups == 1:
        return reduced(seen, dim)
    shape = (*seen.shape[:dim], groups, -1, *seen.shape[dim + 1 :])
    made = reduced(seen.each(lambda a: a.reshape(shape)), dim + 1)
    return weighed(made.each(lambda a: a.squeeze(dim + 1).repeat(count // groups, dim)), dim)


def weighed(seen: Seen, dim: int) -> Seen:
    """Elements of which each has a weight of its own along a dimension, where they differ."""
    if seen.shape[dim] == 1:
        return seen
    return replace(seen, kind=marked(mixed(seen.kind + _numbers(seen, dim)), seen.padded))


def is_whole(made: Seen, *sources: Seen) -> bool:
    """Whether all elements depend on a whole axis, and those before did not."""
    lo, hi = min(s.lo.min() for s in sources), max(s.hi.max() for s in sources)
    if lo >= hi or any(bool((s.lo == lo).all() and (s.hi == hi).all()) for s in sources):
        return False
    return bool((made.lo == lo).all() and (made.hi == hi).all())


def held_fixed(seen: Seen) -> Seen:
    """What couples the whole tile, held fixed."""
    none = np.full_like(seen.lo, NONE)
    return Seen(none, -none, np.full_like(seen.kind, NOTHING))


def with_leading(one: Any, ndim: int) -> Any:
    """Give leading dimensions of length 1."""
    more = ndim - (one.ndim if isinstance(one, torch.Tensor) else len(one.shape))
    if more <= 0:
        return one
    if isinstance(one, torch.Tensor):
        return one[(None,) * more]
    return one.moved((1,) * more + one.shape, lambda a: a[(None,) * more])


def without_positions(tensor: torch.Tensor, axes: int) -> Value:
    """A constant as a value that depends on nothing."""
    none = np.full((1,) * tensor.ndim, NONE)
    return Value(tuple(tensor.shape), (Seen(none, -none, none.astype(np.uint64)),) * axes)
