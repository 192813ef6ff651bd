"""A map of where predictions in training and in evaluation differ.

Knows its pixels and the memory that they take. Does not know Qt, or how it is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from seamscope.planning.plan import Plan
from seamscope.tiling import Tile

_MAP_SHARE = 0.1  # of the free memory, that a map pixel by pixel may take


@dataclass(eq=False)
class DifferenceMap:
    """Where predictions in training and in evaluation differ, pixel by pixel.

    Attributes
    ----------
    plan
        Of the tiles; None as long as nothing was seen.
    values
        ``(*frames, *area)`` float32, the largest ``abs(P_train - P_eval)`` of all channels.
    """

    plan: Plan
    values: npt.NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        frames = tuple(stop - start for start, stop in self.plan.frame_ranges)
        area = tuple(part.stop - part.start for part in self.plan.area)
        self.values = np.full((*frames, *area), np.nan, np.float32)

    @staticmethod
    def fits(plan: Plan) -> bool:
        """Whether there is room for it."""
        pixels = math.prod(part.stop - part.start for part in plan.area) * plan.frames
        return 4 * pixels <= psutil.virtual_memory().available * _MAP_SHARE

    def see(self, frame: tuple[int, ...], tile: Tile, train: Any, evaluation: Any) -> None:
        """Take one tile's core (see `seamscope.explain.train_eval.measure_disparity`)."""
        place = tuple(
            f - start for f, (start, _) in zip(frame, self.plan.frame_ranges, strict=True)
        )
        wanted, own = [], []
        for core, part in zip(tile.core, self.plan.area, strict=True):
            low, high = max(core.start, part.start), min(core.stop, part.stop)
            wanted.append(slice(low - part.start, high - part.start))
            own.append(slice(low - core.start, high - core.start))
        apart = np.abs(train - evaluation).max(0)
        region: Any = (*place, *wanted)
        self.values[region] = apart[tuple(own)]


__all__ = ["DifferenceMap"]
