"""Compare what two tiles predict in their overlap, at every halo.

Knows distances, Dice and kinds of prediction. Does not know where the tiles lie. The definitions
are in `seamscope.seams.meter`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from seamscope.dice import dice, probabilities, ratio, sigmoid
from seamscope.errors import SettingsError
from seamscope.seams.folding import Fold
from seamscope.seams.kinds import Classes, Kind
from seamscope.seams.measures import Array, Frame

# Root mean square below which a class counts as absent from an overlap.
ABSENT = 1e-2
_FEW_CLASSES = 8
_MOST_CLASSES = 1024  # more are numbers of objects; each counts pixels of all overlaps


class Terms(NamedTuple):
    """Of one overlap, ``(C, H)`` for each halo ``h``: over all pixels that are valid there."""

    pixels: Array  # (H,)
    finite: Array  # (H,): those where both predictions are finite, which the total is of
    largest: Array
    total: Array
    apart: Array
    squares: Array
    sums: Array
    both: Array
    either: Array

    def mismatch(self) -> tuple[Array, Array]:
        """``1 - Dice``, soft and hard; 0 where both tiles are 0, NaN where no pixel is finite."""
        soft = ratio(self.apart, self.squares, absent=0.0)
        hard = 1 - dice(self.both, self.either, absent=1.0)
        return self._where_finite(soft), self._where_finite(hard)

    def present(self, absent: float) -> Array:
        """As the soft one; NaN where the class is absent from both tiles."""
        mismatch: Array = ratio(self.apart, self.squares, least=2 * absent**2 * self.pixels)
        return mismatch

    def plain(self) -> Array:
        """``1 - Dice`` without squares; else as `mismatch`."""
        # 2 sum(O1 O2) is what the squares exceed the squared differences by
        return self._where_finite(1 - ratio(self.squares - self.apart, self.sums, absent=1.0))

    def _where_finite(self, values: Array) -> Array:
        known = _known(values)
        return known if self.finite.all() else np.where(self.finite > 0, known, np.nan)

    def at(self, halo: int) -> Terms:
        """Return the terms at one halo alone."""
        return Terms(*(term[..., halo : halo + 1] for term in self))


def _known(values: Array) -> Array:
    """The same; 0 for what is no number. A sum is ten times faster than looking at each."""
    known: Array = values if math.isfinite(float(values.sum())) else np.nan_to_num(values, nan=0.0)
    return known


class Compared(NamedTuple):
    """The measures of one overlap.

    Attributes
    ----------
    frame, lower, axis
        Which overlap.
    at
        Number of the meter's halo, or of the largest one at which a pixel is valid.
    lost
        Predicted numbers in it that are not finite.
    terms
        At each halo.
    """

    frame: Frame
    lower: tuple[int, ...]
    axis: int
    at: int
    lost: int
    terms: Terms


@dataclass(frozen=True)
class Comparison:
    """How two predictions are compared.

    Attributes
    ----------
    kind
        What is predicted.
    classes, threshold
        How the ``hard`` measure classifies.
    """

    kind: Kind | Literal["auto"]
    classes: Classes | None
    threshold: float

    @property
    def absent(self) -> float:
        """Root mean square below which a class counts as absent."""
        return 0.0 if self.kind == "embeddings" else ABSENT

    def compare(
        self, fold: Fold, one: Array, two: Array, room: Array | None = None
    ) -> tuple[Array, Terms, int]:
        """Compare two predictions ``(C, *overlap)`` of an overlap.

        Parameters
        ----------
        fold
            Of the overlap.
        one, two
            What is compared.
        room
            ``(4, C, *overlap)`` float32 that is overwritten, and may hold the distances that are
            returned: new memory for each overlap costs as much as what is computed in it.

        Returns
        -------
        apart, terms, lost
            ``(C, *overlap)`` distances, the measures at each halo, and how many numbers are not
            finite.
        """
        one, two = (x.astype(np.float32, copy=False) for x in (one, two))
        one, two, missing, lost = _finite(one, two)
        finite = fold.pixels
        both, either = self._hard(fold, one, two)
        if self.kind == "labels":
            apart = (one != two).astype(np.float32)
            (total,) = fold.sums(apart[None])
            # 0 and 1 are their own squares
            soft, squares, sums = either - 2 * both, either, either
        else:
            four = self._apart_and_sums(one, two, room)
            apart = four[0]
            if missing is not None:
                four[:, :, missing.any] = 0
                finite = fold.pixels - fold.sums(missing.any[None, None].astype(np.float32))[0, 0]
            total, soft, squares, sums = fold.sums(four)
            if missing is not None:
                apart[:, missing.torn] = np.inf
        terms = Terms(
            fold.pixels, finite, fold.maxima(apart), total, soft, squares, sums, both, either
        )
        return apart, terms, lost

    def _apart_and_sums(self, one: Array, two: Array, room: Array | None) -> Array:
        """``(4, C, *overlap)``: distance, ``(O1 - O2)^2``, ``O1^2 + O2^2``, and ``O1 + O2``.

        ``1 - Dice`` is the ratio of the sums of the second and the third.
        """
        three = np.empty((4, *one.shape), np.float32) if room is None else room
        np.subtract(one, two, out=three[0])
        p, q = one, two
        if self.kind == "logits":
            p, q = self._activated(one), self._activated(two)
        np.subtract(p, q, out=three[1])
        np.square(three[1], out=three[1])
        np.square(p, out=three[2])
        np.square(q, out=three[3])
        np.add(three[2], three[3], out=three[2])
        np.add(p, q, out=three[3])
        np.abs(three[0], out=three[0])
        if self.kind != "embeddings":
            return three
        summed: Array = three.sum(1, keepdims=True)
        np.sqrt(np.square(three[0]).sum(0), out=summed[0, 0])
        return summed

    def _activated(self, values: Array) -> Array:
        """Probabilities that logits stand for."""
        if values.shape[0] == 1 or self.classes == "threshold":
            return sigmoid(values)
        return probabilities(values)

    def _hard(self, fold: Fold, one: Array, two: Array) -> tuple[Array, Array]:
        """Pixels of each class in both classifications, and the sum of those in either."""
        if self.kind == "embeddings":
            none = np.zeros((0, fold.pixels.size))
            return none, none
        if self.kind == "labels":
            return _agreement(fold, *_numbered(one[0], two[0]))
        if one.shape[0] > 1 and self.classes != "threshold":
            return _agreement(fold, _largest(one), _largest(two), one.shape[0])
        limit = self.threshold
        pairs = zip((one > limit).view(np.uint8), (two > limit).view(np.uint8), strict=True)
        both, either = zip(*(_agreement(fold, p, q, 2) for p, q in pairs), strict=True)
        return np.array(both)[:, 1], np.array(either)[:, 1]


def _agreement(fold: Fold, first: Array, second: Array, classes: int) -> tuple[Array, Array]:
    """Pixels ``(classes, H)`` that both put into a class; and those of the one and of the other."""
    if classes > _FEW_CLASSES:  # a table of all pairs would be larger than the overlap
        both = np.where(first == second, first, classes)
        counts = [fold.counts(n, classes + 1)[:classes] for n in (both, first, second)]
        return counts[0], counts[1] + counts[2]
    pairs = first.astype(np.uint8) * np.uint8(classes) + second.astype(np.uint8)
    table = fold.counts(pairs, classes**2).reshape(classes, classes, -1)
    same = np.arange(classes)
    return table[same, same], table.sum(0) + table.sum(1)


def _numbered(one: Array, two: Array) -> tuple[Array, Array, int]:
    """Class numbers of both tiles, and how many there are."""
    lowest, highest = (int(f([f(one), f(two)])) for f in (np.min, np.max))
    if lowest < 0 or highest >= _MOST_CLASSES:
        raise SettingsError(
            f"Label {lowest if lowest < 0 else highest}: classes are numbered from 0 to "
            f"{_MOST_CLASSES - 1}. "
            "Numbers of objects mean nothing in another tile: compare the probabilities they "
            "were made from."
        )
    return one, two, highest + 1


class _Missing(NamedTuple):
    """Pixels ``(*overlap)`` of which a number is not finite, in any channel.

    Attributes
    ----------
    any, torn
        In either prediction; in only one of them.
    """

    any: npt.NDArray[np.bool_]
    torn: npt.NDArray[np.bool_]


def _finite(one: Array, two: Array) -> tuple[Array, Array, _Missing | None, int]:
    """Both with 0 where either is not finite; where that is; how many numbers are not."""
    if math.isfinite(float(one.sum() + two.sum())):
        return one, two, None, 0
    lost, missed = ~np.isfinite(one), ~np.isfinite(two)
    count = int(lost.sum() + missed.sum())
    missing = _Missing(*(np.asarray(each.any(0)) for each in (lost | missed, lost != missed)))
    return np.where(missing.any, 0, one), np.where(missing.any, 0, two), missing, count


def _largest(values: Array) -> npt.NDArray[np.intp]:
    """Number of the largest channel; numpy's argmax over a short first axis is ten times slower."""
    if values.shape[0] > _FEW_CLASSES:
        return np.asarray(values.argmax(0))
    best, which = values[0], np.zeros(values.shape[1:], np.uint8)
    for channel in range(1, values.shape[0]):
        above = (values[channel] > best).view(np.uint8)
        best = np.maximum(best, values[channel])
        which = which * (1 - above) + np.uint8(channel) * above
    return which.astype(np.intp)


__all__ = ["ABSENT", "Compared", "Comparison", "Terms"]
