"""The number of objects at every threshold, and where it is stable.

Knows counts. Does not know how objects are found.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Curve:
    """Number of objects for all thresholds at once, before filters.

    Attributes
    ----------
    values
        Thresholds of the recipe (probability, depth, distance or dynamics), ascending, float64.
    counts
        Objects at each, int64.
    name
        The recipe's parameter: ``"threshold"``, ``"seed_threshold"`` or ``"dynamics"``.
    """

    values: Array
    counts: Array
    name: str

    def seen(self, edges: Array, pixels: Array) -> Curve:
        """Return the part between the lowest and the highest height of a histogram.

        Beyond, nothing changes any more. Dynamics are no heights: of them, all is returned.
        """
        some = pixels.nonzero()[0]
        if not len(some) or self.name == "dynamics":
            return self
        part = self.within(float(edges[some[0]]), float(edges[some[-1] + 1]))
        return part if len(part.values) else self

    def within(self, low: float, high: float) -> Curve:
        """Return the part of the curve between two thresholds."""
        inside = (self.values >= low) & (self.values <= high)
        return Curve(self.values[inside], self.counts[inside], self.name)

    def stable(self, tolerance: float = 0.02) -> tuple[float, float]:
        """Return the widest range in which the count changes by at most a share of itself.

        Where there are several objects at some threshold, ranges with a single one are left out:
        everything is one object at thresholds that are low enough.

        Parameters
        ----------
        tolerance
            Largest difference between the counts of the range, as a share of the smallest of them.
        """
        some = np.flatnonzero(self.counts > 0)
        if not len(some):
            return float(self.values[0]), float(self.values[-1])
        least = min(2, int(self.counts.max()))
        best, first = (int(self.counts.argmax()),) * 2, 0
        ends = _windows(self.counts, tolerance)
        for first, last in enumerate(ends):
            wider = self.values[last] - self.values[first]
            if self.counts[first] >= least and wider > self.values[best[1]] - self.values[best[0]]:
                best = (first, int(last))
        return float(self.values[best[0]]), float(self.values[best[1]])


def _windows(counts: Array, tolerance: float) -> list[int]:
    """For each first index the last up to which counts differ by at most their share."""
    high: deque[int] = deque()
    low: deque[int] = deque()
    ends, last = [], -1
    for first in range(len(counts)):
        while last + 1 < len(counts):
            new = counts[last + 1]
            top = max(new, counts[high[0]]) if high else new
            bottom = min(new, counts[low[0]]) if low else new
            if top - bottom > tolerance * bottom:
                break
            last += 1
            while high and counts[high[-1]] <= new:
                high.pop()
            while low and counts[low[-1]] >= new:
                low.pop()
            high.append(last)
            low.append(last)
        ends.append(last)
        for held in (high, low):
            if held and held[0] == first:
                held.popleft()
    return ends


__all__ = ["Curve"]
