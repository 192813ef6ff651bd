"""Which features of tiles and windows count, so that each pixel of the image counts once.

Knows the positions of cores and windows in a layer's own pixels. Does not know how features are
computed, or how statistics are merged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from seamscope.errors import SettingsError
from seamscope.fixed_statistics.freeze_plan import FreezePlan
from seamscope.normalization.calls import Call
from seamscope.normalization.statistics import (
    Collector,
    LayerStatistics,
)
from seamscope.tiling import AxisTiling, Tile


class Parts:
    """Which part of each tile's features counts: their cores, in the features' own pixels."""

    def __init__(
        self, plan: FreezePlan, scale: Sequence[Fraction], earlier: LayerStatistics | None = None
    ) -> None:
        self._grid = plan.plan.grid
        self._scale = scale
        self._collector = Collector((1,) * len(scale), earlier)
        self._bounds: list[list[int]] = []
        self._starts: list[list[int]] = []

    def add(self, call: Call, tile: Tile, weight: float = 1) -> None:
        """See a call of the pass over a tile, which counts so often."""
        if not self._starts:
            self._prepare(call)
        box = [
            slice(bounds[i] - starts[i], bounds[i + 1] - starts[i])
            for bounds, starts, i in zip(self._bounds, self._starts, tile.index, strict=True)
        ]
        one = (0,) * len(box)
        self._collector.add(one, call.features[:1, :, *box], call.groups, weight)

    def statistics(self, like: LayerStatistics) -> LayerStatistics:
        """Return what was counted of the layer."""
        return self._collector.statistics(like)

    def _prepare(self, call: Call) -> None:
        for axis, size, scale in zip(self._grid.axes, call.space, self._scale, strict=True):
            starts, bounds = _partition(axis, size, scale)
            self._starts.append(starts)
            self._bounds.append(bounds)


class Windows:
    """Statistics of all layers in each window, as far as they are known.

    What is taken by hand is one number for the image. Windows overlap, so only their cores count.
    """

    def __init__(self, plan: FreezePlan, earlier: Sequence[LayerStatistics]) -> None:
        self._grid = plan.plan.grid
        self._survey = plan.survey
        by_hand = plan.survey.by_hand
        known = {layer.call: layer for layer in earlier}
        self._collectors = {
            call: Collector(self._grid.shape, known.get(call))
            for call in plan.calls
            if call not in by_hand
        }
        self._parts = {
            call: Parts(plan, plan.survey.scale[call], known.get(call))
            for call in plan.calls
            if call in by_hand
        }
        self._centres = {layer.call: layer.centres for layer in earlier}
        counts = [layer.count for layer in earlier if layer.call not in by_hand]
        self._counts = counts[0] if counts else np.zeros(self._grid.shape)

    def known(self, tile: Tile) -> bool:
        """Whether an earlier attempt has seen this window."""
        return bool(self._counts[tile.index])

    def add(self, call: Call, tile: Tile) -> None:
        """See a call of the pass over a window."""
        if call.number in self._parts:
            self._parts[call.number].add(call, tile)
        if call.number not in self._collectors:
            return
        self._collectors[call.number].add(tile.index, call.features[:1], call.groups)
        if call.number not in self._centres:
            self._centres[call.number] = tuple(
                tuple(float((one.start - axis[0].start) * scale) + size / 2 for one in axis)
                for axis, scale, size in zip(
                    self._grid.axes, self._survey.scale[call.number], call.space, strict=True
                )
            )

    def layers(self, blank: Callable[[int], LayerStatistics]) -> list[LayerStatistics]:
        """Return what is known; windows that were not seen have a count of 0."""
        found = {
            call: collector.statistics(blank(call), self._centres[call])
            for call, collector in self._collectors.items()
        } | {call: parts.statistics(blank(call)) for call, parts in self._parts.items()}
        return [found[call] for call in sorted(found)]


def _partition(axis: AxisTiling, size: int, scale: Fraction) -> tuple[list[int], list[int]]:
    """Where each tile's features begin, and the borders between what counts of neighbours.

    In pixels of the features of the whole image. With padded convolutions, features are right
    where cores are: a tile's output is right there, and so is all that contributes to it. That
    holds for both tiles where a coarse pixel lies across a border. Valid convolutions are right
    everywhere, so that any border will do.
    """
    first = axis[0].start
    starts = [_whole((tile.start - first) * scale) for tile in axis]
    if size == axis.tile * scale:
        inner = [
            math.floor((Fraction(tile.core[0]) / axis.lattice.scale - first) * scale)
            for tile in list(axis)[1:]
        ]
    else:
        inner = [(b + a + size) // 2 for a, b in itertools.pairwise(starts)]
    return starts, [0, *inner, starts[-1] + size]


def _whole(value: Fraction) -> int:
    if value.denominator != 1:
        raise SettingsError(
            "A layer of the network lies on no common grid with its input, so that its statistics "
            "cannot be counted tile by tile: run the image as one tile (`tile` with its size)."
        )
    return int(value)
