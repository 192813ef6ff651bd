"""The blocks of a result: what is written, marked and resumed as a whole.

Knows how a plan's result is cut into boxes. Does not know what is in them, or who writes them.

Where tiles are cropped, a block is made of whole cores, so that it is made of whole chunks of a
store, and no two blocks share one. Where tiles are blended, rows become final one after another,
and a block is a band of rows over the full width.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from seamscope.planning.plan import Plan
from seamscope.tiling import Slices, Tile

# Marks are files: more of them than this make a folder slow, and recompute no less after a kill.
_MOST = 4096


@dataclass(frozen=True)
class Blocks:
    """All blocks of a plan's result, numbered frame by frame, in row-major order.

    Parameters
    ----------
    plan
        Its grid, area and frames are used.
    most
        Blocks at most, of all frames together; at least one for each frame.
    """

    plan: Plan
    most: int = _MOST

    def __len__(self) -> int:
        return self.per_frame * self.plan.frames

    @property
    def per_frame(self) -> int:
        """Blocks of one frame."""
        return math.prod(len(edges) - 1 for edges in self.edges)

    @cached_property
    def edges(self) -> tuple[tuple[int, ...], ...]:
        """Where blocks begin along each axis of space, and where the last one ends.

        In output pixels, counted from the corner of the plan's area.
        """
        starts = [
            self._starts(axis) if axis == 0 or not self.plan.blends else [0]
            for axis in range(len(self.plan.area))
        ]
        most = max(1, self.most // self.plan.frames)
        while math.prod(map(len, starts)) > most:
            longest = max(range(len(starts)), key=lambda axis: len(starts[axis]))
            starts[longest] = starts[longest][::2]
        ends = (part.stop - part.start for part in self.plan.area)
        return tuple((*each, end) for each, end in zip(starts, ends, strict=True))

    def _starts(self, axis: int) -> list[int]:
        """Where cores begin, clipped to the area."""
        part, tiling = self.plan.area[axis], self.plan.grid.axes[axis]
        return [
            max(tiling[index].core[0], part.start) - part.start
            for index in tiling.touching((part.start, part.stop))
        ]

    def touching(self, frame: Sequence[int], region: Slices) -> Iterator[tuple[int, int]]:
        """Yield the blocks that a region meets, each with the number of common pixels.

        Parameters
        ----------
        frame
            Index along each iterated axis of the image.
        region
            In output pixels, counted from the corner of the plan's area; it lies inside.
        """
        first = self.first_of(frame)
        spans = [list(_met(edges, part)) for edges, part in zip(self.edges, region, strict=True)]
        counts = [len(edges) - 1 for edges in self.edges]
        for met in itertools.product(*spans):
            number = 0
            for (index, _), count in zip(met, counts, strict=True):
                number = number * count + index
            yield first + number, math.prod(pixels for _, pixels in met)

    def first_of(self, frame: Sequence[int]) -> int:
        """Number of the first block of a frame."""
        return self.per_frame * self._frame_number(frame)

    def pixels(self, block: int) -> int:
        """Pixels of one block."""
        return math.prod(part.stop - part.start for part in self.region(block))

    def region(self, block: int) -> Slices:
        """Where a block lies in its frame, counted from the corner of the plan's area."""
        number, parts = block % self.per_frame, []
        for edges in reversed(self.edges):
            number, index = divmod(number, len(edges) - 1)
            parts.append(slice(edges[index], edges[index + 1]))
        return tuple(reversed(parts))

    def index(self, block: int) -> Slices:
        """Where a block lies in the whole result, one slice for each of its axes."""
        plan, number, frame = self.plan, block // self.per_frame, []
        for start, stop in reversed(plan.frame_ranges):
            number, at = divmod(number, stop - start)
            frame.append(slice(at, at + 1))
        channels = (slice(0, plan.out_channels),) * ("c" in plan.out_axes)
        return (*reversed(frame), *channels, *self.region(block))

    def needs(self, frame: Sequence[int], tile: Tile, done: Collection[int]) -> bool:
        """Return whether a tile contributes to a block that is not done."""
        mine = tile.trusted if self.plan.blends else tile.core
        region = tuple(
            slice(max(part.start, area.start) - area.start, min(part.stop, area.stop) - area.start)
            for part, area in zip(mine, self.plan.area, strict=True)
        )
        return any(block not in done for block, _ in self.touching(frame, region))

    def _frame_number(self, frame: Sequence[int]) -> int:
        number = 0
        for index, (start, stop) in zip(frame, self.plan.frame_ranges, strict=True):
            number = number * (stop - start) + index - start
        return number


def _met(edges: Sequence[int], part: slice) -> Iterator[tuple[int, int]]:
    """Yield the spans between edges that a part meets, and how many pixels are common."""
    index = bisect.bisect_right(edges, part.start) - 1
    while index < len(edges) - 1 and edges[index] < part.stop:
        common = min(part.stop, edges[index + 1]) - max(part.start, edges[index])
        if common > 0:
            yield index, common
        index += 1


__all__ = ["Blocks"]
