"""The smallest and the largest sizes that a network takes, along all axes together.

Knows shapes, and whether they are taken. Does not know how that is found out.

A table of positions that is sliced, a mask, a mirrored border or a check in code has an end. Shapes
alone show it for very large inputs, where they tell anything; inputs that are run are smaller.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from seamscope.recorded_graph import Unrecordable
from seamscope.tiling import Lattice

Outputs: TypeAlias = Callable[[tuple[int, ...]], tuple[int, ...] | None]
"""Shape of the output ``(N, C', *spatial)`` for a spatial shape; None where that is not taken."""

_LONG_PIXELS = 1 << 15  # of a narrow input that is as long as may be
_WIDE_PIXELS = 1 << 19  # of one that is not narrow, where shapes alone tell nothing
_TOPS = (1 << 14, 1 << 12, 1 << 10)  # pixels along each axis, of inputs that are not computed


class Limits:
    """Finds them.

    Parameters
    ----------
    known
        A spatial shape that is taken.
    run, ask
        Outputs by running the network, and by passing shapes alone through it. The latter raises
        `seamscope.recorded_graph.Unrecordable` where shapes tell nothing.
    """

    def __init__(self, known: tuple[int, ...], run: Outputs, ask: Outputs) -> None:
        self._known, self._run, self._ask = known, run, ask

    def with_smallest(self, lattices: tuple[Lattice, ...]) -> tuple[Lattice, ...]:
        """Return lattices with the smallest sizes."""
        found = _Bounds(lattices, self._known, self._taken(lattices)).smallest()
        return tuple(
            axis if size is None else replace(axis, smallest=size)
            for axis, size in zip(lattices, found, strict=True)
        )

    def with_largest(
        self, lattices: tuple[Lattice, ...], beside: tuple[int, ...], hurried: Callable[[], bool]
    ) -> tuple[Lattice, ...]:
        """Return lattices with the largest sizes.

        Parameters
        ----------
        lattices
            Of all axes.
        beside
            A small shape, for the axes beside one that is long.
        hurried
            Whether time is short, so that large inputs are not run.
        """
        taken = self._taken(lattices)
        narrow = tuple(a.size_at_least(n) for a, n in zip(lattices, beside, strict=True))
        narrow = narrow if taken(narrow) else self._known
        seen: list[int | None] = []
        for number, axis in enumerate(lattices):

            def along(size: tuple[int, ...], number: int = number) -> bool:
                return taken((*narrow[:number], *size, *narrow[number + 1 :]))

            bounds = _Bounds([axis], narrow[number : number + 1], along)
            top = _LONG_PIXELS * narrow[number] // math.prod(narrow)
            seen += bounds.largest(top) if axis.fixed is None else (None,)
        limited = _up_to(lattices, seen)
        asked = self._asked(lattices)
        if asked is None:
            side = int(_WIDE_PIXELS ** (1 / len(lattices)))
            wide = _Bounds(limited, self._known, taken)
            asked = (None,) * len(lattices) if hurried() else wide.largest(side)
        both = zip(seen, asked, strict=True)
        return _up_to(lattices, [min(filter(None, own), default=None) for own in both])

    def _taken(self, lattices: Sequence[Lattice]) -> Callable[[tuple[int, ...]], bool]:
        return lambda shape: _is_of(self._run(shape), shape, lattices)

    def _asked(self, lattices: tuple[Lattice, ...]) -> tuple[int | None, ...] | None:
        """Largest sizes by shapes alone; None where these tell nothing."""

        def takes(shape: tuple[int, ...]) -> bool:
            return _is_of(self._ask(shape), shape, lattices)

        with contextlib.suppress(Unrecordable):
            for top in _TOPS if takes(self._known) else ():
                with contextlib.suppress(Unrecordable):
                    return _Bounds(lattices, self._known, takes).largest(top)
        return None


def _up_to(lattices: Sequence[Lattice], sizes: Sequence[int | None]) -> tuple[Lattice, ...]:
    return tuple(
        axis if size is None else replace(axis, largest=size)
        for axis, size in zip(lattices, sizes, strict=True)
    )


def _is_of(given: Sequence[int] | None, shape: Sequence[int], lattices: Sequence[Lattice]) -> bool:
    """Whether an output has the sizes that lattices say."""
    return given is not None and tuple(given[2:]) == tuple(
        (n - sum(axis.crop)) * axis.scale if axis.fixed is None else given[number + 2]
        for number, (n, axis) in enumerate(zip(shape, lattices, strict=True))
    )


class _Bounds:
    """Looks for the smallest and the largest sizes that a network takes, together on all axes.

    Where no two axes are at their largest at once, as where so many patches are numbered, all are
    made less: any combination of sizes between the bounds is taken.

    Parameters
    ----------
    lattices
        Of all axes.
    known
        A shape that is taken.
    takes
        Whether a shape is taken. Between a size that is and one that is not, there is one end.
    """

    def __init__(
        self,
        lattices: Sequence[Lattice],
        known: Sequence[int],
        takes: Callable[[tuple[int, ...]], bool],
    ) -> None:
        self._axes = list(zip(lattices, known, strict=True))
        self._takes = takes

    def smallest(self) -> tuple[int | None, ...]:
        """Smallest size along each axis; None where all are taken."""
        return self._ends(lambda a, n, by: min(n, a.size_at_least(n - by)), self._known - 1)

    def largest(self, top: int) -> tuple[int | None, ...]:
        """Largest size along each axis; None where those up to about `top` are taken."""
        far = max(1, top - self._known)
        return self._ends(lambda a, n, by: max(n, a.size_at_most(n + by)), far)

    @property
    def _known(self) -> int:
        return max(n for _, n in self._axes)

    def _ends(self, moved: Callable[[Lattice, int, int], int], far: int) -> tuple[int | None, ...]:
        """Sizes after which none is taken; `moved` gives one so many pixels from a known one."""

        def takes(distances: Sequence[int]) -> bool:
            axes = zip(self._axes, distances, strict=True)
            return self._takes(tuple(moved(*axis, by) for axis, by in axes))

        count = len(self._axes)
        ends = [far] * count
        if takes(ends):
            return (None,) * count
        for number in range(count):
            # most axes are alike
            step = self._axes[number][0].increment
            guess = (ends[number - 1], ends[number - 1] + step) if number else ()

            def alone(by: int, number: int = number) -> bool:
                return takes([by if n == number else 0 for n in range(count)])

            ends[number] = _last(alone, far, guess)
        together = _last(lambda by: takes([min(by, own) for own in ends]), far, (max(ends),))
        return tuple(
            None if (by := min(own, together)) == far else moved(*axis, by)
            for axis, own in zip(self._axes, ends, strict=True)
        )


def _last(takes: Callable[[int], bool], far: int, first: Sequence[int]) -> int:
    """The largest number up to `far` that is taken, as 0 is; `first` are tried before others."""
    low, high = 0, far + 1
    tried = list(first)
    while high - low > 1:
        middle = tried.pop(0) if tried else (low + high) // 2 if high <= far else far
        if not low < middle < high:
            continue
        low, high = (middle, high) if takes(middle) else (low, middle)
    return low


__all__ = ["Limits"]
