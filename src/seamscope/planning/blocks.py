"""The blocks of a result: what is written, marked and resumed as a whole.

Knows how a plan's result is cut into boxes. Does not know what is in them, or who writes them.

One process writes rows of tiles from top to bottom (`Blocks`): where tiles are cropped, a block is
made of whole cores, and where they are blended, it is a band of rows over the full width. Several
processes take boxes of whole chunks in any order (`Blocks.apart`), so that no two write one chunk.
Tiles at the border of two boxes are then computed twice, so boxes are made of several tiles::

    in order          apart
    +-----------+     +-----+-----+
    |     0     |     |  0  |  1  |
    +-----------+     +-----+-----+
    |     1     |     |  2  |  3  |
    +-----------+     +-----+-----+
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from seamscope.planning.plan import Plan
from seamscope.tiling import Slices, Tile

# Marks are files: more of them than this make a folder slow, and recompute no less after a kill.
_MOST = 4096
# Boxes grow until so many times the tiles are computed, or there are too few of them.
_REPEATED = 1.25

Edges: TypeAlias = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Blocks:
    """All blocks of a plan's result, numbered frame by frame, in row-major order.

    Parameters
    ----------
    plan
        Its grid, area and frames are used.
    most
        Blocks at most, of all frames together; at least one for each frame.
    given
        Where blocks begin and end along each axis, as `edges`; None for whole rows in order.
    """

    plan: Plan
    most: int = _MOST
    given: Edges | None = None

    @classmethod
    def apart(cls, plan: Plan, fewest: int = 1, most: int = _MOST) -> Blocks:
        """Return boxes that several processes can compute and write at the same time.

        Parameters
        ----------
        plan
            Its result is cut.
        fewest
            Wanted number of blocks, as far as there are tiles for them.
        most
            As for `Blocks`.
        """
        cuts = [_whole_chunks(plan, axis) for axis in range(len(plan.area))]
        step = [1] * len(cuts)

        def cut(steps: Sequence[int]) -> Blocks:
            starts = [each[::n] for each, n in zip(cuts, steps, strict=True)]
            return cls(plan, most, _closed(plan, starts))

        found = cut(step)
        while len(found) > max(most, plan.frames) or found.repeated > _REPEATED:
            axis = found.costliest_axis
            wider = cut([n * (1 + (a == axis)) for a, n in enumerate(step)])
            enough = len(found) <= max(most, plan.frames)
            if len(wider) == len(found) or (enough and len(wider) < fewest):
                return found
            step[axis] *= 2
            found = wider
        return found

    def __len__(self) -> int:
        return self.per_frame * self.plan.frames

    @property
    def per_frame(self) -> int:
        """Blocks of one frame."""
        return math.prod(len(edges) - 1 for edges in self.edges)

    @cached_property
    def edges(self) -> Edges:
        """Where blocks begin along each axis of space, and where the last one ends.

        In output pixels, counted from the corner of the plan's area.
        """
        if self.given is not None:
            return self.given
        starts = [
            _starts(self.plan, axis) if axis == 0 or not self.plan.blends else [0]
            for axis in range(len(self.plan.area))
        ]
        most = max(1, self.most // self.plan.frames)
        while math.prod(map(len, starts)) > most:
            longest = max(range(len(starts)), key=lambda axis: len(starts[axis]))
            starts[longest] = starts[longest][::2]
        return _closed(self.plan, starts)

    @cached_property
    def repeated(self) -> float:
        """Tiles computed for each tile of the plan, where blocks are computed apart."""
        return math.prod(self._repeated_along)

    @property
    def costliest_axis(self) -> int:
        """Axis along which most tiles are computed repeatedly, or else most blocks lie."""
        costs = [
            (round(cost, 6), len(edges))
            for cost, edges in zip(self._repeated_along, self.edges, strict=True)
        ]
        return costs.index(max(costs))

    @cached_property
    def _repeated_along(self) -> tuple[float, ...]:
        """The same along each axis; whole batches count, which are runs along the last one."""
        plan, found = self.plan, []
        for number, (axis, part, edges) in enumerate(
            zip(plan.grid.axes, plan.area, self.edges, strict=True)
        ):
            batch = plan.settings.batch if number == len(self.edges) - 1 else 1
            wanted = axis.touching((part.start, part.stop), trusted=plan.blends)
            computed = 0
            for low, high in itertools.pairwise(edges):
                region = part.start + low, part.start + high
                met = axis.touching(region, trusted=plan.blends)
                ends = met.start - wanted.start, met.stop - wanted.start
                computed += (-(-ends[1] // batch) - ends[0] // batch) * batch
            found.append(computed / len(wanted))
        return tuple(found)

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


def _starts(plan: Plan, axis: int) -> list[int]:
    """Where cores begin, clipped to the area."""
    part, tiling = plan.area[axis], plan.grid.axes[axis]
    return [
        max(tiling[index].core[0], part.start) - part.start
        for index in tiling.touching((part.start, part.stop))
    ]


def _whole_chunks(plan: Plan, axis: int) -> list[int]:
    """The same, moved up to where chunks begin."""
    chunk = plan.out_chunks[axis - len(plan.area)]
    return sorted({start // chunk * chunk for start in _starts(plan, axis)})


def _closed(plan: Plan, starts: Sequence[Sequence[int]]) -> Edges:
    ends = (part.stop - part.start for part in plan.area)
    return tuple((*each, end) for each, end in zip(starts, ends, strict=True))


def _met(edges: Sequence[int], part: slice) -> Iterator[tuple[int, int]]:
    """Yield the spans between edges that a part meets, and how many pixels are common."""
    index = bisect.bisect_right(edges, part.start) - 1
    while index < len(edges) - 1 and edges[index] < part.stop:
        common = min(part.stop, edges[index + 1]) - max(part.start, edges[index])
        if common > 0:
            yield index, common
        index += 1


__all__ = ["Blocks"]
