"""Keep what every tile predicts, to read it again without running the network.

Knows predictions of tiles, the plan, and where seams are cut. Does not know networks or windows.

Neighbours share an overlap, and the seam may lie anywhere in it. At *border distance* ``h``, the
lower tile is used up to ``h`` pixels from its border, and the upper tile from there on::

    lower tile   ----------------------)
    upper tile             (----------------------
    h = 2        ....................|............    the lower one's edge effects show
    h = 6        ................|................    cut in the middle: furthest from both borders

Each position of a slider shows the seam that this halo leaves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from seamscope.errors import SettingsError
from seamscope.images.scratch import scratch
from seamscope.planning.plan import Plan
from seamscope.seams.measures import Array, Frame, HaloRay, Seam
from seamscope.stitching import canvas
from seamscope.tiling import Slices, Tile

Index: TypeAlias = tuple[int, ...]
Cuts: TypeAlias = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Opinion:
    """What one tile predicts for one pixel.

    Attributes
    ----------
    tile
        Index.
    values
        ``(C,)``.
    distance
        Output pixels between it and the tile's nearest inner border; None where it has none.
    kept
        Whether the pixel lies in the tile's core.
    """

    tile: Index
    values: Array
    distance: int | None
    kept: bool


@dataclass(frozen=True)
class SideBySide:
    """What two neighbours predict around a pixel of their seam, on a plane across it.

    Attributes
    ----------
    region
        Output pixels, for all spatial axes; one pixel thick along those that are not shown.
    plane
        The two axes shown, ascending.
    seam
        Where the plane is cut: which of the two axes, and pixels from the region's corner.
    lower, upper
        ``(C, H, W)`` float32; NaN where that tile predicts nothing.
    """

    region: Slices
    plane: tuple[int, int]
    seam: tuple[int, int]
    lower: Array
    upper: Array

    @property
    def apart(self) -> Array:
        """Distance of both ``(C, H, W)``; NaN where only one predicts."""
        return np.asarray(np.abs(self.lower - self.upper))

    @property
    def channel(self) -> int:
        """Channel in which they differ most."""
        peaks = np.nan_to_num(self.apart).reshape(len(self.lower), -1).max(1, initial=0)
        return int(peaks.argmax())


class Opinions:
    """Whole predictions of all tiles of a run; use `watch` as one of its watchers.

    They are in memory, or in a temporary file if they are large (`seamscope.images.scratch`).
    """

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._store: Array = np.zeros(0, np.float32)
        self._places: dict[tuple[Frame, Index], int] = {}
        self._tiles: dict[Index, Tile] = {}

    @property
    def plan(self) -> Plan:
        """Of the run that was watched.

        Raises
        ------
        SettingsError
            When none was.
        """
        if self._plan is None:
            raise SettingsError("No predictions of tiles are kept: run a prediction first.")
        return self._plan

    @property
    def tiles(self) -> dict[Index, Tile]:
        """All tiles of the plan, by index."""
        return self._tiles

    @property
    def complete(self) -> bool:
        """Whether all tiles of all frames have been seen."""
        return self._plan is not None and len(self._places) == self._plan.tiles * self._plan.frames

    def watch(self, plan: Plan, frame: Frame, tile: Tile, prediction: Array) -> None:
        """Watch a run (see `seamscope.prediction.run.run`); a new plan drops the earlier tiles."""
        if plan is not self._plan:
            self._begin(plan)
        place = self._places.setdefault((frame, tile.index), len(self._places))
        self._store[place] = prediction

    def _begin(self, plan: Plan) -> None:
        self.close()
        self._plan = plan
        tiles = canvas(plan.grid, plan.settings.blend, plan.area).tiles()
        self._tiles = {tile.index: tile for tile in tiles}
        shape = (plan.frames * len(tiles), plan.facts.out_channels, *plan.grid.prediction_shape)
        what = f"Keeping the predictions of {shape[0]} tiles"
        self._store = scratch(shape, np.float32, what)

    def close(self) -> None:
        """Release all predictions."""
        self._places.clear()
        self._store = np.zeros(0, np.float32)
        self._tiles = {}
        self._plan = None

    # -- asking

    def prediction(self, tile: Index, frame: Frame = ()) -> Array | None:
        """Whole prediction ``(C, *spatial)`` of one tile, a view; None where it was not seen."""
        place = self._places.get((frame, tile))
        return None if place is None else self._store[place]

    def window(self, tile: Index, region: Slices, frame: Frame = ()) -> Array:
        """What one tile predicts for a region: ``(C, *region)``, NaN outside the tile."""
        size = tuple(part.stop - part.start for part in region)
        view = np.full((self.plan.facts.out_channels, *size), np.nan, np.float32)
        prediction = self.prediction(tile, frame)
        if prediction is None:
            return view
        inside = _common(region, self._extent(self._tiles[tile]))
        if all(part.stop > part.start for part in inside):
            target = _moved(inside, [r.start for r in region])
            view[:, *target] = prediction[:, *self._tiles[tile].within(inside)]
        return view

    def at(self, pixel: Sequence[int], frame: Frame = ()) -> list[Opinion]:
        """What every tile that covers a pixel of the result predicts for it; the kept one first."""
        found = []
        for index in itertools.product(*self._seeing(pixel)):
            prediction = self.prediction(index, frame)
            if prediction is None:
                continue
            tile = self._tiles[index]
            local = tuple(p - o for p, o in zip(pixel, tile.origin, strict=True))
            kept = all(c.start <= p < c.stop for c, p in zip(tile.core, pixel, strict=True))
            place: Any = (slice(None), *local)
            values = prediction[place].copy()
            found.append(Opinion(index, values, self._distance(index, local), kept))
        return sorted(found, key=lambda opinion: not opinion.kept)

    def beside(
        self, seam: Seam, side: int = 128, plane: tuple[int, int] | None = None
    ) -> SideBySide:
        """What both tiles of a seam predict around its worst pixel.

        Parameters
        ----------
        seam
            As a `seamscope.seams.report.SeamReport` of the same run has it.
        side
            Pixels of the picture along each axis; less where neither tile predicts more.
        plane
            Spatial axes to show, ascending; by default, and where the seam would not be cut, the
            seam's own axis and the last other one.
        """
        others = [a for a in range(len(self.plan.area)) if a != seam.axis]
        if plane is None or seam.axis not in plane:
            plane = (min(seam.axis, others[-1]), max(seam.axis, others[-1]))
        line = self._tiles[seam.lower].core[seam.axis].stop
        region = []
        both = [self._extent(self._tiles[index]) for index in (seam.lower, seam.upper)]
        for a, worst in enumerate(seam.worst):  # which may lie outside the plan's area
            part = slice(max(0, min(e[a].start for e in both)), max(e[a].stop for e in both))
            width = side if a in plane else 1
            if a == seam.axis:  # however far from the seam the worst pixel is
                width = max(width, 2 * abs(worst - line) + 8)
            start = max(min(worst - width // 2, part.stop - width), part.start)
            region.append(slice(start, min(start + width, part.stop)))
        flat = tuple(slice(None) if a in plane else 0 for a in range(len(region)))
        views = [
            self.window(index, tuple(region), seam.frame)[:, *flat]
            for index in (seam.lower, seam.upper)
        ]
        cut = plane.index(seam.axis), line - region[seam.axis].start
        return SideBySide(tuple(region), plane, cut, *views)

    def between(
        self, one: Sequence[int], two: Sequence[int], frame: Frame, **looks: Any
    ) -> SideBySide | None:
        """What both tiles predict around two pixels on either side of a seam.

        Parameters
        ----------
        one, two
            Pixels of the result, which lie in the cores of two neighbouring tiles.
        frame
            Time point and the like.
        looks
            As for `beside`.

        Returns
        -------
        SideBySide or None
            None where the pixels do not lie in two tiles that touch by a face.
        """
        lower, upper = self._keeping(one), self._keeping(two)
        steps = [b - a for a, b in zip(lower, upper, strict=True)]
        if sorted(map(abs, steps)) != [0] * (len(steps) - 1) + [1]:
            return None
        axis = [step != 0 for step in steps].index(True)
        if steps[axis] < 0:
            lower, one = upper, two
        return self.beside(Seam(0.0, 0.0, lower, axis, frame, (), (), tuple(one)), **looks)

    def _keeping(self, pixel: Sequence[int]) -> Index:
        """Index of the tile whose core holds a pixel."""
        return next(
            index
            for index, tile in self._tiles.items()
            if all(part.start <= p < part.stop for part, p in zip(tile.core, pixel, strict=True))
        )

    def _seeing(self, pixel: Sequence[int]) -> Iterator[list[int]]:
        grid = self.plan.grid
        for axis, size, p in zip(grid.axes, grid.prediction_shape, pixel, strict=True):
            yield [i for i, t in enumerate(axis) if t.origin <= p < t.origin + size]

    def _distance(self, index: Index, local: tuple[int, ...]) -> int | None:
        distances = []
        grid = self.plan.grid
        for i, count, size, x in zip(index, grid.shape, grid.prediction_shape, local, strict=True):
            distances += [x] * (i > 0) + [size - 1 - x] * (i < count - 1)
        return min(distances, default=None)

    def _extent(self, tile: Tile) -> Slices:
        grid = self.plan.grid
        return tuple(
            slice(o, min(o + n, end))
            for o, n, end in zip(tile.origin, grid.prediction_shape, grid.output_shape, strict=True)
        )

    # -- stitching again

    def restitch(self, distance: int, frame: Frame = ()) -> Restitched:
        """Stitch one frame with seams cut at this border distance."""
        return Restitched(self, distance, frame)

    def cuts(self, distance: int) -> Cuts:
        """Output pixels at which tiles take over from one another, along each axis.

        Parameters
        ----------
        distance
            Border distance in input pixels, along the widest side of the run's halo; other axes
            keep their proportion to it (see `seamscope.seams.measures.HaloRay`).
        """
        plan = self.plan
        first, last = min(self._tiles), max(self._tiles)  # of an area, not all tiles are there
        found = []
        for a, (tiling, (_, after)) in enumerate(
            zip(plan.grid.axes, self.ray.sides(distance), strict=True)
        ):
            size = plan.grid.prediction_shape[a]
            inside = math.ceil(after * tiling.lattice.scale)
            line = [
                max(upper.origin, min(lower.origin + size, tiling.output_size) - inside)
                for lower, upper in itertools.pairwise(tiling)
            ]
            line[: first[a]] = [plan.area[a].start] * first[a]
            line[last[a] :] = [plan.area[a].stop] * (len(line) - last[a])
            found.append(tuple(line))
        return tuple(found)

    @property
    def ray(self) -> HaloRay:
        """What a border distance means for each axis."""
        return HaloRay.along(self.plan.grid.halo)


class Restitched:
    """One frame stitched from kept predictions; moving its seams copies only what changes.

    Attributes
    ----------
    array
        ``(C, *area)`` float32; changed in place by `move`.
    distance
        Border distance at which seams are cut.
    """

    def __init__(self, opinions: Opinions, distance: int, frame: Frame = ()) -> None:
        plan = opinions.plan
        self._opinions = opinions
        self._frame = frame
        self._area = plan.area
        size = tuple(part.stop - part.start for part in plan.area)
        self.array = np.full((plan.facts.out_channels, *size), np.nan, np.float32)
        self.distance = distance
        self._cuts = opinions.cuts(distance)
        self._fill(plan.area, self._cuts)

    def turn_to(self, frame: Frame) -> None:
        """Show another frame."""
        self._frame = frame
        self._fill(self._area, self._cuts)

    def move(self, distance: int) -> None:
        """Cut all seams at another border distance."""
        cuts = self._opinions.cuts(distance)
        for axis, (old, new) in enumerate(zip(self._cuts, cuts, strict=True)):
            for before, after in zip(old, new, strict=True):
                if before != after:
                    strip = list(self._area)
                    strip[axis] = slice(min(before, after), max(before, after))
                    self._fill(tuple(strip), cuts)
        self._cuts, self.distance = cuts, distance

    def _fill(self, region: Slices, cuts: Cuts) -> None:
        """Copy a region of the result from the tiles it belongs to."""
        region = _common(region, self._area)
        corner = [part.start for part in self._area]
        along = [list(_pieces(part, cut)) for part, cut in zip(region, cuts, strict=True)]
        for pieces in itertools.product(*along):
            index = tuple(i for i, _ in pieces)
            prediction = self._opinions.prediction(index, self._frame)
            if prediction is not None:
                place = tuple(part for _, part in pieces)
                source = self._opinions.tiles[index].within(place)
                self.array[:, *_moved(place, corner)] = prediction[:, *source]


def _pieces(part: slice, cuts: tuple[int, ...]) -> Iterator[tuple[int, slice]]:
    """Pieces of an interval, with the number of the tile that each belongs to."""
    for number, (low, high) in enumerate(itertools.pairwise((part.start, *cuts, part.stop))):
        low, high = max(low, part.start), min(high, part.stop)
        if number:
            low = max(low, cuts[number - 1])
        if low < high:
            yield number, slice(low, high)


def _common(one: Slices, two: Slices) -> Slices:
    return tuple(
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, two, strict=True)
    )


def _moved(region: Slices, corner: Sequence[int]) -> Slices:
    return tuple(slice(r.start - c, r.stop - c) for r, c in zip(region, corner, strict=True))


__all__ = ["Opinion", "Opinions", "Restitched", "SideBySide"]
