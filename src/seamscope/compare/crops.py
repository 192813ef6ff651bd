"""Parts of an image that are whole tiles of a plan, small enough to be predicted untiled.

Knows tiles, what an area depends on, and sizes. Does not predict or compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

from seamscope.errors import SettingsError
from seamscope.explain.pipelines import Box
from seamscope.explain.tile_sample import spread_places
from seamscope.models.model import Model
from seamscope.planning.plan import Plan
from seamscope.text import shape_text
from seamscope.tiling import AxisTiling, GivenAxis, Lattice, Sides, TileGrid

Tiles: TypeAlias = tuple[range, ...]
"""Neighbouring tiles: for each axis, which along it."""


def needed_tiles(plan: Plan, model: Model) -> Tiles:
    """The tiles along each axis that give the area, and all that it depends on."""
    if plan.reach.halo is None or are_local(model):  # what lies anywhere counts
        return tuple(range(len(axis)) for axis in plan.grid.axes)
    return tuple(
        _around(axis, (part.start, part.stop), reach, blends=plan.blends)
        for axis, part, reach in zip(plan.grid.axes, plan.area, plan.reach.halo, strict=True)
    )


def _around(axis: AxisTiling, part: Sides, reach: Sides, *, blends: bool) -> range:
    """Tiles that give a part of the output and hold all input within reach of it."""
    own = axis.touching(part, trusted=blends)
    low, high = (n / axis.lattice.scale for n in part)
    starts = [i for i in range(own[0] + 1) if _kept(axis, i)[0] <= low - reach[0]]
    stops = [i for i in range(own[-1], len(axis)) if _kept(axis, i)[1] >= high + reach[1]]
    # a blend gives tiles at a border other weights, so that one more lies in between
    first = max(0, max(starts, default=0) - blends)
    last = min(len(axis) - 1, min(stops, default=len(axis)) + blends)
    return range(first, last + 1)


def region_of(plan: Plan, block: Tiles) -> Box:
    """What these tiles predict together."""
    return tuple(map(_span, plan.grid.axes, block))


def grid_of(plan: Plan, block: Tiles) -> TileGrid:
    """These tiles as the grid of an image of their own, at their places."""
    return TileGrid(tuple(map(_axis_of, plan.grid.axes, block)))


def _axis_of(axis: AxisTiling, tiles: range) -> AxisTiling:
    if len(tiles) == len(axis):
        return axis
    begin, end = _span(axis, tiles)
    cores = [begin, *(int(axis[i].core[0] / axis.lattice.scale) for i in tiles[1:]), end]
    windows = tuple(
        (axis[i].start - begin, low - begin, high - begin)
        for i, (low, high) in zip(tiles, pairwise(cores), strict=True)
    )
    return GivenAxis(end - begin, axis.tile, axis.halo, axis.overlap, axis.lattice, windows=windows)


def crops_within(
    plan: Plan,
    needed: Tiles,
    most: int,
    points: Sequence[Sequence[float]],
    count: int,
) -> list[Tiles]:
    """The largest blocks of needed tiles that fit, around points, then spread."""
    region = region_of(plan, needed)
    sizes = tuple(b - a for a, b in region)
    lattice = plan.facts.lattice
    covered = all(axis.covers(n) for axis, n in zip(lattice, sizes, strict=True))
    if math.prod(sizes) <= most and covered:
        return [needed]
    shape = _shape_within(sizes, most, lattice)
    numbers = [
        max((k for k in range(1, len(tiles) + 1) if _longest(axis, tiles, k) <= n), default=1)
        for axis, tiles, n in zip(plan.grid.axes, needed, shape, strict=True)
    ]
    if any(k == 1 < len(tiles) for k, tiles in zip(numbers, needed, strict=True)):
        # seams along that axis would not be seen
        tile = tuple(axis.kept for axis in plan.grid.axes)
        allows, remedy = "Memory", "allow more memory, or certify smaller tiles"
        if not covered and math.prod(shape) < most / 2:
            allows, remedy = "The largest size that the network takes", "certify smaller tiles"
        raise SettingsError(
            f"{allows} allows an untiled prediction of {shape_text(shape)} pixels, which is no "
            f"more than one tile of {shape_text(tile)} and a part of its neighbours: {remedy}."
        )
    room = [len(tiles) - k for tiles, k in zip(needed, numbers, strict=True)]
    corners = [
        tuple(
            min(range(r + 1), key=lambda i: abs(sum(_span(axis, tiles[i : i + k])) / 2 - x))
            for axis, tiles, k, r, x in zip(
                plan.grid.axes, needed, numbers, room, point, strict=True
            )
        )
        for point in points
    ]
    corners += spread_places([r + 1 for r in room], max(1, count))
    chosen: dict[Tiles, Box] = {}
    for corner in corners:
        block = tuple(tiles[i : i + k] for tiles, i, k in zip(needed, corner, numbers, strict=True))
        place = region_of(plan, block)
        if len(chosen) < max(1, count) and not any(_mostly_same(place, b) for b in chosen.values()):
            chosen[block] = place
    return list(chosen)


def _longest(axis: AxisTiling, tiles: range, number: int) -> int:
    """Largest extent of so many neighbouring tiles."""
    runs = (tiles[i : i + number] for i in range(len(tiles) - number + 1))
    return max(high - low for low, high in (_span(axis, run) for run in runs))


def _span(axis: AxisTiling, tiles: range) -> Sides:
    """Input pixels that neighbouring tiles predict together."""
    return _kept(axis, tiles[0])[0], _kept(axis, tiles[-1])[1]


def _kept(axis: AxisTiling, index: int) -> Sides:
    """Input pixels that a tile predicts, inside the image."""
    before, after = axis.lattice.crop
    return axis[index].start + before, min(axis.size, axis[index].stop - after)


def _shape_within(sizes: Sequence[int], most: int, lattice: Sequence[Lattice]) -> tuple[int, ...]:
    """Largest box of about equal sides within an image and a number of pixels."""
    shape = list(sizes)
    left: float = most
    by_size = sorted(range(len(sizes)), key=lambda axis: sizes[axis])
    for done, axis in enumerate(by_size):  # what a short axis cannot take, longer ones may
        side = int(left ** (1 / (len(sizes) - done)))
        lost = sum(lattice[axis].crop)
        fitting = lattice[axis].size_at_most(side + lost) - lost
        shape[axis] = min(sizes[axis], max(fitting, lattice[axis].pitch))
        left /= shape[axis]
    return tuple(shape)


def _mostly_same(one: Box, two: Box) -> bool:
    """Whether two crops share more than half."""
    shared = math.prod(
        max(0, min(a[1], b[1]) - max(a[0], b[0])) for a, b in zip(one, two, strict=True)
    )
    return shared > math.prod(b - a for a, b in one) / 2


def are_local(model: Model) -> bool:
    """Whether the network's statistics belong to places of the whole image."""
    return model.statistics is not None and not model.statistics.uniform


__all__ = ["Tiles", "are_local", "crops_within", "grid_of", "needed_tiles", "region_of"]
