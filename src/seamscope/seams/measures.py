"""Disagreement of tiles as numbers: at every halo, at one halo, and of one seam.

Knows what is reported. Does not know how it is measured (see `seamscope.seams.meter`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.serialization import record
from seamscope.tiling import Sides

Array: TypeAlias = npt.NDArray[Any]
Frame: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class HaloRay:
    """The halos a curve runs through: all sides in proportion, the widest being 0, 1, 2 ...

    Parameters
    ----------
    weights
        ``(before, after)`` for each axis, the largest 1.

    Examples
    --------
    >>> ray = HaloRay.along([(10, 10), (40, 20)])
    >>> ray.sides(40), ray.sides(6)
    (((10, 10), (40, 20)), ((2, 2), (6, 3)))
    """

    weights: tuple[tuple[Fraction, Fraction], ...]

    @classmethod
    def along(cls, halo: Sequence[Sides]) -> HaloRay:
        """Run through this halo; through equal sides where it is 0."""
        widest = max(max(sides) for sides in halo)
        if widest == 0:
            return cls(((Fraction(1), Fraction(1)),) * len(halo))
        return cls(tuple((Fraction(a, widest), Fraction(b, widest)) for a, b in halo))

    def sides(self, widest: int) -> tuple[Sides, ...]:
        """Halo ``(before, after)`` of each axis whose widest side is this, in input pixels."""
        return tuple((math.ceil(a * widest), math.ceil(b * widest)) for a, b in self.weights)

    def largest_within(self, halo: Sequence[Sides]) -> int:
        """Largest halo of the ray that is nowhere wider than this one."""
        limits = (
            Fraction(side) / weight
            for sides, weights in zip(halo, self.weights, strict=True)
            for side, weight in zip(sides, weights, strict=True)
            if weight
        )
        return math.floor(min(limits))


@dataclass(frozen=True)
class SeamCurve:
    """Disagreement at every halo.

    Attributes
    ----------
    halo
        ``(H,)`` widest side, pixels of input: 0, 1, 2 ... as far as any overlap reaches.
    max_dist, mean_dist
        ``(H,)`` over all channels; the mean is NaN where no pixel is finite.
    max_dist_per_channel
        ``(H, C)``.
    soft, hard
        ``(H, C)`` tile mismatch; NaN where no overlap is valid. No columns of `hard` for
        embeddings.
    overlaps
        ``(H, C)`` number of overlaps in the median of `soft`.
    share
        ``(H,)`` part of the overlaps that are valid at this halo, along the axis where it is least.
    ray
        Converts a halo's number into the halo of each axis and side.
    """

    halo: npt.NDArray[np.int_]
    max_dist: npt.NDArray[np.float64]
    mean_dist: npt.NDArray[np.float64]
    max_dist_per_channel: npt.NDArray[np.float64]
    soft: npt.NDArray[np.float64]
    hard: npt.NDArray[np.float64]
    overlaps: npt.NDArray[np.int_]
    share: npt.NDArray[np.float64]
    ray: HaloRay

    def smallest_seamless(self, tolerance: float) -> int | None:
        """Smallest halo at which, and beyond which, no disagreement exceeds the tolerance.

        Only halos up to `deepest` count.
        """
        bad = np.flatnonzero(~(self.max_dist <= tolerance))
        first = 0 if bad.size == 0 else int(bad[-1]) + 1
        return first if first <= self.deepest else None

    @property
    def deepest(self) -> int:
        """Largest halo at which more than half of the overlaps along each axis are valid.

        Beyond, the curve may show one axis alone, or the last row of tiles, which overlaps further.
        """
        return int(np.count_nonzero(self.share > 0.5)) - 1

    def knee(self) -> int:
        """Halo beyond which a larger one changes little: the point furthest below the chord.

        The chord joins both ends of ``log(mean dist)`` (Satopaa et al. 2011, "Kneedle").
        """
        solid = int(np.count_nonzero(self.share >= 0.5)) or self.halo.size
        values = np.nan_to_num(self.mean_dist[:solid])
        heights = np.log10(np.maximum(values, values.max(initial=0) * 1e-9 + 1e-30))
        if solid < 3 or np.ptp(heights) == 0:
            return 0
        x = np.linspace(0, 1, solid)
        chord = heights[0] + (heights[-1] - heights[0]) * x
        return int(np.argmax(chord - heights))

    def to_json(self) -> dict[str, Any]:
        """Return the curve with the sides of each halo; `soft` and `hard` are ``tile_mismatch``."""
        return record(
            halo=self.halo,
            sides=[self.ray.sides(int(h)) for h in self.halo],
            max_dist=self.max_dist,
            mean_dist=self.mean_dist,
            max_dist_per_channel=self.max_dist_per_channel,
            tile_mismatch=self.soft,
            tile_mismatch_hard=self.hard,
            overlaps=self.overlaps,
            share_of_overlaps=self.share,
        )


@dataclass(frozen=True)
class SeamMeasures:
    """Disagreement at one halo.

    Attributes
    ----------
    max_dist, mean_dist, max_dist_per_channel
        Over the valid overlaps.
    soft, hard, plain
        Tile mismatch of each channel, over all overlaps.
    present
        The soft one, of the overlaps in which the class is present.
    overlaps
        How many were measured.
    beside
        Whether the halo leaves some overlap no valid pixel, so that the pixels on either side of
        the seam are measured instead: there one of the two tiles is not valid, by one pixel.
    """

    max_dist: float
    mean_dist: float
    max_dist_per_channel: tuple[float, ...]
    soft: tuple[float, ...]
    hard: tuple[float, ...]
    plain: tuple[float, ...]
    present: tuple[float, ...]
    overlaps: int
    beside: bool


@dataclass(frozen=True, order=True)
class Seam:
    """The line between two neighbouring cores.

    Attributes
    ----------
    max_dist, mean_dist
        Over the valid overlap at the meter's halo.
    lower, axis
        Index of the lower tile; the upper one is its next along the axis.
    frame
        Time point and the like.
    soft, hard
        ``1 - Dice`` of each channel; 0 where both tiles are 0 everywhere.
    worst
        Output pixel of the max difference. Whole tiles are compared: with an area, this pixel may
        lie outside it.
    """

    max_dist: float
    mean_dist: float
    lower: tuple[int, ...]
    axis: int
    frame: Frame
    soft: tuple[float | None, ...] = field(compare=False)
    hard: tuple[float | None, ...] = field(compare=False)
    worst: tuple[int, ...] = field(compare=False)

    @property
    def upper(self) -> tuple[int, ...]:
        """Index of the upper tile."""
        return tuple(i + (a == self.axis) for a, i in enumerate(self.lower))


__all__ = ["Array", "Frame", "HaloRay", "Seam", "SeamCurve", "SeamMeasures"]
