"""Which features of tiles and windows count, so that each pixel of the image counts once.

Knows the positions of cores and windows in a layer's own pixels, and the sums of a block of tiles
or windows. Does not know how features are computed.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from seamscope.errors import OutputError, SettingsError
from seamscope.files import DAMAGED, disk_errors, write_file
from seamscope.fixed_statistics.freeze_plan import FreezePlan
from seamscope.normalization.calls import Call
from seamscope.normalization.statistics import Collector, Floats
from seamscope.tiling import AxisTiling, Tile


class Parts:
    """Which part of each tile's features counts: their cores, in the features' own pixels."""

    def __init__(self, plan: FreezePlan, scale: Sequence[Fraction]) -> None:
        self._grid = plan.plan.grid
        self._scale = scale
        self._bounds: list[list[int]] = []
        self._starts: list[list[int]] = []

    def add(self, call: Call, tile: Tile, collector: Collector, weight: float = 1) -> None:
        """Count a call of the pass over a tile, which counts so often, in the first window."""
        if not self._starts:
            self._prepare(call)
        box = [
            slice(bounds[i] - starts[i], bounds[i + 1] - starts[i])
            for bounds, starts, i in zip(self._bounds, self._starts, tile.index, strict=True)
        ]
        collector.add((0,), call.features[:1, :, *box], call.groups, weight)

    def _prepare(self, call: Call) -> None:
        for axis, size, scale in zip(self._grid.axes, call.space, self._scale, strict=True):
            starts, bounds = _partition(axis, size, scale)
            self._starts.append(starts)
            self._bounds.append(bounds)


class BlockSums:
    """What is counted of one block: for each layer, in each of its windows.

    Parameters
    ----------
    windows
        How many windows it has; 1 where the whole image is one.

    Attributes
    ----------
    of
        By the number of the layer's call.
    centres
        Middles of all windows of a layer along each axis, where there are several.
    """

    def __init__(self, windows: int = 1) -> None:
        self._windows = windows
        self.of: dict[int, Collector] = {}
        self.centres: dict[int, tuple[tuple[float, ...], ...]] = {}

    def layer(self, call: int, windows: int | None = None) -> Collector:
        """Return what collects a layer; windows are counted from the first of the block."""
        if call not in self.of:
            self.of[call] = Collector((self._windows if windows is None else windows,))
        return self.of[call]

    def save(self, path: Path) -> None:
        """Write them to a file, in one step.

        Raises
        ------
        OutputError
            When the disk refuses.
        """
        arrays: dict[str, Any] = {}
        for call, collector in self.of.items():
            for name, values in zip(_SUMS, collector.sums, strict=True):
                arrays[f"{call} {name}"] = values
            for axis, centres in enumerate(self.centres.get(call, ())):
                arrays[f"{call} centres {axis}"] = np.array(centres)
        content = io.BytesIO()
        np.savez(content, **arrays)
        with disk_errors(path, "What was found so far is kept."):
            write_file(path, content.getvalue(), shared=True, lasting=False)

    @classmethod
    def load(cls, path: Path) -> BlockSums:
        """Read what `save` wrote.

        Raises
        ------
        OutputError
            When it is missing or damaged.
        """
        found = cls()
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                calls = sorted({int(name.split()[0]) for name in stored.files})
                for call in calls:
                    sums: list[Floats] = [stored[f"{call} {name}"] for name in _SUMS]
                    found.of[call] = Collector(sums[0].shape, sums)
                    along = sum(name.startswith(f"{call} centres") for name in stored.files)
                    if along:
                        found.centres[call] = tuple(
                            tuple(stored[f"{call} centres {axis}"].tolist())
                            for axis in range(along)
                        )
        except DAMAGED as error:
            raise OutputError(
                f"{path} is missing or damaged, so that statistics cannot be found from what is "
                "known. Begin again (overwrite)."
            ) from error
        return found


_SUMS = ("count", "mean", "squares")


def centres_of(plan: FreezePlan, call: Call) -> tuple[tuple[float, ...], ...]:
    """Return the middles of all windows along each axis, in pixels of a layer's features."""
    scales = plan.survey.scale[call.number]
    return tuple(
        tuple(float((one.start - axis[0].start) * scale) + size / 2 for one in axis)
        for axis, scale, size in zip(plan.plan.grid.axes, scales, call.space, strict=True)
    )


class Merged:
    """The sums of blocks, put together in the order in which they come.

    Parameters
    ----------
    shape
        Windows along each axis; all 1 where the whole image is one.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape = tuple(shape)
        self._of: dict[int, Collector] = {}
        self.centres: dict[int, tuple[tuple[float, ...], ...]] = {}

    def add(self, sums: BlockSums, first: int = 0) -> None:
        """Take a block, whose first window has this number."""
        self.centres |= sums.centres
        for call, collector in sorted(sums.of.items()):
            count, mean, squares = collector.sums
            several = call in sums.centres
            shape = self._shape if several else (1,) * len(self._shape)
            into = self._of.setdefault(call, Collector(shape))
            for window, own in enumerate(count):
                place = np.unravel_index(first + window if several else 0, shape)
                into.merge([int(i) for i in place], own, mean[:, window], squares[:, window])

    @property
    def layers(self) -> dict[int, Collector]:
        """What was collected of each layer, by the number of its call, in the order of calls."""
        return dict(sorted(self._of.items()))


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


__all__ = ["BlockSums", "Merged", "Parts", "centres_of"]
