"""To multiples of what a network's code pads its input, and cuts its output again.

Knows sizes, and maps within a network. Does not know layers, or how sizes were found.

Such code takes any size, but places its inner poolings elsewhere, or ends otherwise, at sizes that
are no such multiples. All maps of a network grow with its input. Those of what is padded do so at
once, by a whole multiple::

    input         200   208   ...   288   296   304
    padded to     288   288   ...   288   384   384     multiples of 96
    its pooling    72    72   ...    72    96    96
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from seamscope.models.facts import Facts
from seamscope.models.slab import SAME
from seamscope.models.trials import Attempt
from seamscope.normalization.calls import Forward
from seamscope.recorded_graph import record
from seamscope.tiling import Lattice, Sides

_MOST = 512  # pixels; to multiples of more no code is known to pad
_IRREGULAR = (0, 1, 97, 211, 331, 401, 601, 739, 881)  # pixels more
# sizes to multiples of which code pads, where its operations cannot be read
_USUAL = (*range(2, 17), *range(20, 33, 4), *range(40, 65, 8), 96, 100, 112, 128, 192, 256, 512)
_PLAIN = 768  # pixels: a multiple of most of them
_JOINT = 1 << 12  # pixels of a multiple of all
# increments after which ends are compared; the more, the fewer paddings are like none
_SOME, _FEW = range(1, 8), (1, 3)
_END = 8  # pixels of an end that are compared
_FAR_ENOUGH = 64  # pixels to the other end, where the reach is not known


def with_padded_sizes(forward: Forward, facts: Facts) -> tuple[Lattice, ...]:
    """Return a network's lattices, with steps of sizes at which the same pixels end alike.

    Parameters
    ----------
    forward
        ``(N, C, *spatial)`` tensor to a tensor.
    facts
        What is known of it, its period included.
    """
    own, found = facts.implied, [*facts.lattice]
    reach = (own.halo if own else None) or ((_FAR_ENOUGH, _FAR_ENOUGH),) * len(found)
    for number, (axis, sides) in enumerate(zip(facts.lattice, reach, strict=True)):
        if axis.fixed is None and 2 * axis.increment <= _MOST:
            with Attempt():
                step = _Axis(forward, facts, number, sides).times() * axis.increment
                if step > axis.increment:
                    found[number] = replace(axis, step=step, offset=axis.offset % step)
    return tuple(found)


class _Axis:
    """One axis of a network that may pad its input along it."""

    def __init__(self, forward: Forward, facts: Facts, number: int, reach: Sides) -> None:
        self._forward, self._facts, self._number = forward, facts, number
        self._axis = axis = facts.lattice[number]
        self._least = sum(reach) + sum(axis.crop) + 2 * axis.pitch + 32

    def times(self) -> int:
        """By how many increments sizes must differ, so that the same pixels end alike."""
        increment = self._axis.increment
        pixels = self._grown_by()
        if pixels is None:
            times = [n for n in _USUAL if n * increment <= _MOST]
            return self._alike_after(times, _PLAIN, _FEW)
        times = sorted({math.lcm(n, increment) // increment for n in pixels} - {1})
        joint = math.lcm(*times) * increment
        plain = joint if joint <= _JOINT else times[-1] * increment
        return self._alike_after(times, plain, _SOME) if times else 1

    def _shape(self, size: int) -> tuple[int, ...]:
        narrow = self._facts.narrow
        return (*narrow[: self._number], size, *narrow[self._number + 1 :])

    def _grown_by(self) -> set[int] | None:
        """By how many pixels maps within grow at once; None where operations cannot be read."""
        axis, sizes, grown = self._axis, list[int](), list[list[int]]()
        least = axis.size_at_least(self._least)
        for more in _IRREGULAR:
            sizes.append(axis.size_at_least(least + more))
            maps = self._maps(sizes[-1])
            if maps is None:
                return None
            grown.append(maps)
            if len(grown) == 3 and _evenly(sizes, grown):
                return set()
        counts = [*map(len, grown)]  # where nothing has to be padded, that is no operation
        usual = max(counts, key=counts.count)
        alike = [maps for maps in grown if len(maps) == usual]
        if len(alike) < len(_IRREGULAR) // 2:
            return None
        steps = {math.gcd(*(n - first for n in rest)) for first, *rest in zip(*alike, strict=True)}
        return {n for n in steps if 1 < n <= _MOST}

    def _maps(self, size: int) -> list[int] | None:
        """Sizes, without channels, of all that the network makes of an input."""
        x = torch.zeros(1, self._facts.in_channels, *self._shape(size))
        with Attempt():
            graph = record(self._forward, x, decided=True)
            made = [node.meta.get("val") for node, _ in graph.steps]
            maps = [tuple(y.shape) for y in made if isinstance(y, torch.Tensor)]
            return [n for y in maps for n in (y[2:] if len(y) == x.ndim else y)]
        return None

    def _alike_after(self, times: Sequence[int], plain: int, nearby: Sequence[int]) -> int:
        """The first of some numbers of increments after which the ends are alike; 1 for any.

        From a size on that is a multiple of `plain`, which is not padded. Any, where they are
        alike after each of `nearby`.
        """
        axis, dim, number = self._axis, self._number + 2, self._facts.in_channels
        step = math.lcm(plain, axis.increment)
        size = replace(axis, step=step).size_at_least(self._least)
        longest = size + 3 * max(3, *times) * axis.increment
        random = torch.Generator().manual_seed(0)
        x = torch.randn(1, number, *self._shape(longest), generator=random)
        count = max(1, int(_END * axis.scale))

        def ends(more: int) -> tuple[torch.Tensor, torch.Tensor]:
            n = size + more * axis.increment
            low, high = (x.narrow(dim, a, n) for a in (0, longest - n))
            y, z = self._forward(low), self._forward(high)
            return y.narrow(dim, 0, count), z.narrow(dim, z.shape[dim] - count, count)

        first = ends(0)
        spread = float(first[0].std()) or 1.0

        def alike(more: int) -> bool:
            pairs = zip(first, ends(more), strict=True)
            return all(float((a - b).abs().max()) < SAME * spread for a, b in pairs)

        if all(map(alike, nearby)):
            return 1
        return next((n for n in times if alike(n) and alike(3 * n)), 1)


def _evenly(sizes: Sequence[int], maps: Sequence[Sequence[int]]) -> bool:
    """Whether all maps of three inputs grow in proportion to these, or are none of space."""
    low, middle, high = sizes
    return len({*map(len, maps)}) == 1 and all(
        (c - a) * (middle - low) == (b - a) * (high - low) and (c > a or c < high)
        for a, b, c in zip(*maps, strict=True)
    )


__all__ = ["with_padded_sizes"]
