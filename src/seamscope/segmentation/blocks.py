"""How an image is divided into blocks, and which pixels touch across them.

Knows integers. Does not know what is computed in a block.

Unlike tiles, blocks do not overlap and have no halo: what is computed from them is exact for every
division (see `seamscope.segmentation.basins`), so any block shape will do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from seamscope.errors import SettingsError
from seamscope.tiling import Slices

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Blocks:
    """The blocks of an image, in row-major order.

    Attributes
    ----------
    shape
        Pixels of the image along each axis.
    size
        Pixels of a block along each axis; blocks at the image's borders may be smaller.
    origin
        Where the first inner border lies along each axis, 0 or `size` for one that starts at 0.
    isolated
        Axes along which neighbours never touch, such as time: blocks are one pixel long there.
    open_sides
        Axis and side (0 before, 1 after) where the image is only a part of a larger one.

    Examples
    --------
    >>> blocks = Blocks.of((5, 8), size=4, origin=(1, 0))
    >>> [tuple((s.start, s.stop) for s in region) for region in blocks]
    [((0, 1), (0, 4)), ((0, 1), (4, 8)), ((1, 5), (0, 4)), ((1, 5), (4, 8))]
    """

    shape: tuple[int, ...]
    size: tuple[int, ...]
    origin: tuple[int, ...]
    isolated: tuple[int, ...] = ()
    open_sides: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        size: int | Sequence[int],
        origin: Sequence[int] | None = None,
        isolated: Sequence[int] = (),
    ) -> Blocks:
        """Divide an image of this shape.

        Raises
        ------
        SettingsError
            When a size is below one pixel, or there is not one for each axis.
        """
        sizes = [int(size)] * len(shape) if not isinstance(size, Sequence) else list(size)
        if len(sizes) != len(shape) or min(sizes, default=1) < 1:
            raise SettingsError(
                f"Blocks of {size} do not fit {len(shape)} axes: give one size of 1 pixel or more, "
                "or one for each axis."
            )
        for axis in isolated:
            sizes[axis] = 1
        first = [0] * len(shape) if origin is None else list(origin)
        starts = tuple(o % n for o, n in zip(first, sizes, strict=True))
        return cls(tuple(shape), tuple(sizes), starts, tuple(isolated))

    @cached_property
    def cuts(self) -> tuple[tuple[int, ...], ...]:
        """For each axis, where blocks begin, and the image's end."""
        each = []
        for n, size, origin in zip(self.shape, self.size, self.origin, strict=True):
            each.append((0, *(c for c in range(origin, n, size) if c > 0), n))
        return tuple(each)

    @property
    def counts(self) -> tuple[int, ...]:
        """Blocks along each axis."""
        return tuple(len(cuts) - 1 for cuts in self.cuts)

    @property
    def joined(self) -> tuple[int, ...]:
        """Axes along which neighbours touch."""
        return tuple(a for a in range(len(self.shape)) if a not in self.isolated)

    def __len__(self) -> int:
        return math.prod(self.counts)

    def region(self, position: Sequence[int]) -> Slices:
        """Return the block at a position of the grid of blocks."""
        return tuple(
            slice(cuts[i], cuts[i + 1]) for cuts, i in zip(self.cuts, position, strict=True)
        )

    def __iter__(self) -> Iterator[Slices]:
        for position in itertools.product(*(range(n) for n in self.counts)):
            yield self.region(position)

    def positions(self) -> Iterator[tuple[int, ...]]:
        """Positions of all blocks, in the order in which they are numbered."""
        yield from itertools.product(*(range(n) for n in self.counts))


def neighbour_offsets(ndim: int, connectivity: int) -> tuple[tuple[int, ...], ...]:
    """Half of the neighbours of a pixel; the others are these with all signs turned.

    Parameters
    ----------
    ndim
        Axes.
    connectivity
        1 for neighbours that share a face, 2 for an edge too, up to `ndim` for a corner too.
    """
    found = [
        offset
        for offset in itertools.product((-1, 0, 1), repeat=ndim)
        if 0 < sum(map(abs, offset)) <= connectivity and offset > (0,) * ndim
    ]
    return tuple(found)


def pair_slices(offset: Sequence[int]) -> tuple[Slices, Slices]:
    """Return where the first and the second pixel of all pairs at this offset lie in an array."""
    first = tuple(slice(max(0, -o), min(0, -o) or None) for o in offset)
    second = tuple(slice(max(0, o), min(0, o) or None) for o in offset)
    return first, second


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[Result, None, None]:
    """Yield what a function returns for each item, in their order.

    Parameters
    ----------
    function, items
        What is called, for example for each block.
    threads
        How many calls may run at once. Few more than that are begun before they are taken.
    """
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        left = iter(items)
        waiting = [pool.submit(function, item) for item in itertools.islice(left, 2 * threads)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(function, item) for item in itertools.islice(left, 1)]


__all__ = ["Blocks", "in_order", "neighbour_offsets", "pair_slices"]
