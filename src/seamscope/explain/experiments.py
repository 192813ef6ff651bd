"""Neighbouring tiles predicted with causes of seams taken away, one by one or together.

Knows how each cause is removed while everything else, and every pixel that is compared, stays.
Does not know verdicts or sentences (see `seamscope.explain.causes`).

What each removal puts in the place of what the pipeline does:

=================== ==========================================================================
preprocessing       the tile is cut from the whole image's preprocessing
off the grid        the tile is read from the grid of the network's period on: a little more of
                    the image at its sides, of which nothing is compared
tile statistics     normalizations use the same statistics for all tiles, pooled over the sample
edge effects        the tile is read with the image around it, as far as the network reaches;
                    statistics stay those of the tile itself
postprocessing      both neighbours are postprocessed as one image, once with the one's prediction
                    where both are trusted, once with the other's
=================== ==========================================================================
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import torch

from seamscope.errors import ImageError, ModelError, SeamscopeError
from seamscope.explain.pipelines import Array, Box, Subject, called, same_space
from seamscope.explain.tile_sample import Index
from seamscope.normalization.calls import Call, Forward, Moments, Normalizations
from seamscope.progress import QUIET, Steps, check
from seamscope.seams.measures import SeamCurve
from seamscope.seams.meter import SeamMeter
from seamscope.seams.tolerance import TOLERANCE, Spread
from seamscope.tiling import Lattice, Sides, Tile, TileGrid

Cause: TypeAlias = Literal[
    "preprocessing",
    "off the grid",
    "tile statistics",
    "edge effects",
    "global coupling",
    "random",
    "postprocessing",
]
Removed: TypeAlias = frozenset[Cause]

NOTHING: Removed = frozenset()
# Relative precision that a float32 prediction keeps through some dozens of layers.
_RESOLVED = 1e-6
# A prediction that moves less than this part of its standard deviation does not move.
_UNMOVED = 1e-2


@dataclass(frozen=True)
class Disagreement:
    """How far neighbouring tiles are apart, where both are trusted.

    Attributes
    ----------
    mean, largest
        Of ``abs(O1 - O2)`` over all pixels and channels; for integers 1 where they differ.
    """

    mean: float
    largest: float


class Bench:
    """A sample of tiles, and their disagreement with causes removed.

    Parameters
    ----------
    subject
        The pipeline on its image.
    grid
        Where its tiles lie, and how much of each is trusted.
    tiles
        Those to examine.
    steps
        Counts predictions, and stops before each.
    tolerance
        Disagreement that is noise, in standard deviations of the outcome.
    """

    def __init__(
        self,
        subject: Subject,
        grid: TileGrid,
        tiles: Sequence[Tile],
        steps: Steps | None = None,
        tolerance: float = TOLERANCE,
    ) -> None:
        self.subject = subject
        self.grid = grid
        self.tiles = {tile.index: tile for tile in tiles}
        self._steps = steps or Steps(QUIET)
        self._relative = tolerance
        self._latest: tuple[Removed, dict[Index, Array]] | None = None
        self._known: dict[Removed, Disagreement] = {}
        self._recorded: dict[tuple[Index, bool], list[Moments | None]] = {}
        self._spread = Spread()
        self._labels = False
        self._highest = 0.0
        self._raw_tolerance = 0.0

    # -- what is examined

    @cached_property
    def seams(self) -> tuple[tuple[Index, Index, int], ...]:
        """Neighbours: index of the lower tile, of the upper one, axis."""
        found = []
        for index, axis in itertools.product(self.tiles, range(len(self.grid.axes))):
            upper = (*index[:axis], index[axis] + 1, *index[axis + 1 :])
            if upper in self.tiles:
                found.append((index, upper, axis))
        return tuple(found)

    def box(self, index: Index) -> Box:
        """What a tile reads, in input pixels; may leave the image."""
        return tuple(
            (axis[i].start, axis[i].stop) for axis, i in zip(self.grid.axes, index, strict=True)
        )

    def remainders(self) -> tuple[tuple[int, ...], ...]:
        """For each axis, how far tile starts are off the network's grid: all that occur."""
        found: list[set[int]] = [set() for _ in self.grid.axes]
        for index in self.tiles:
            for axis, (start, _) in enumerate(self.box(index)):
                lattice = self.subject.lattice[axis]
                found[axis].add((start + lattice.crop[0]) % lattice.pitch)
        return tuple(tuple(sorted(each)) for each in found)

    @cached_property
    def missing(self) -> tuple[Sides, ...]:
        """Context the network would need around a tile's trusted part, in input pixels."""
        if self.subject.reach is None:
            return ((0, 0),) * len(self.grid.axes)
        everything = self.subject.postprocess is not None  # which may look at untrusted pixels
        return tuple(
            (max(0, r[0] - h[0]), max(0, r[1] - h[1])) if not everything else r
            for r, h in zip(self.subject.reach, self.grid.halo, strict=True)
        )

    @cached_property
    def margin(self) -> tuple[Sides, ...]:
        """What of that context is given: as much as memory and the network allow."""
        margin = self.missing
        if self.subject.fixed or self.subject.alike:
            return ((0, 0),) * len(margin)
        while self._too_large(margin):
            margin = tuple((a // 2, b // 2) for a, b in margin)
            if not any(map(any, margin)):
                break
        return margin

    def _too_large(self, margin: Sequence[Sides]) -> bool:
        """Whether tiles with so much around them are more than memory or the network takes."""
        sizes = self.grid.tile_shape
        if _volume(sizes, margin) > max(self.subject.most_pixels, _volume(sizes, ())):
            return True
        axes = zip(self.subject.lattice, sizes, margin, strict=True)
        return any(
            lattice.limit is not None and n + sum(wide) + 2 * lattice.pitch > lattice.limit
            for lattice, n, wide in axes
            if any(wide)
        )

    # -- what comes out

    def disagreement(self, removed: Removed = NOTHING) -> Disagreement:
        """How far neighbours are apart with these causes removed."""
        if removed not in self._known:
            self._known[removed] = self._measured(removed)
        return self._known[removed]

    @property
    def labels(self) -> bool:
        """Whether the outcome is integers, of which only equality means something."""
        self.disagreement()
        return self._labels

    @property
    def spread(self) -> float:
        """Standard deviation of the outcome over the sample, as the pipeline is."""
        self.disagreement()
        return self._spread.std

    @property
    def tolerance(self) -> float:
        """Largest disagreement that is floating-point noise; 0 for labels.

        A part of the outcome's standard deviation; where the outcome is next to constant, of what
        float32 resolves.
        """
        return 0.0 if self.labels else max(self._relative * self.spread, _RESOLVED * self._highest)

    @property
    def raw_tolerance(self) -> float:
        """The same for predictions before postprocessing."""
        self.disagreement()
        return self._raw_tolerance

    def inputs_apart(self) -> tuple[float, float]:
        """Largest difference of neighbours' inputs to the network, and the inputs' spread.

        Zero if an identity network, run through this pipeline, would give the image back.
        """
        largest, spread = 0.0, Spread()
        inputs = {i: self.subject.inputs(self.box(i), self.box(i)) for i in self.tiles}
        for one, two, _ in self.seams:
            parts = _common(self.box(one), self.box(two), self.grid.image_shape)
            a, b = (_cut(inputs[i], self.box(i), parts) for i in (one, two))
            largest = max(largest, float(np.abs(a - b).max(initial=0)))
            spread.see(a)
        return largest, spread.std

    def curve(
        self, removed: Removed = NOTHING, along: tuple[Sides, ...] | None = None
    ) -> SeamCurve:
        """Disagreement of the network's predictions at every halo; before postprocessing.

        Through the grid's own halo, or along another.
        """
        meter = SeamMeter(self.grid, halo=along)
        for index, prediction in self._raws(removed).items():
            meter.see(self.tiles[index], prediction)
        return meter.curve()

    def classes_apart(self, classify: Callable[[Array], Array]) -> float:
        """Part of the trusted pixels in which neighbours' classes differ."""
        raws = self._raws(NOTHING)
        totals = np.zeros(2)
        for one, two, axis in self.seams:
            a, b = (classify(raws[i])[None] for i in (one, two))
            apart = self._apart(one, two, axis, a, b)
            totals += apart.sum(), apart.size
        return float(totals[0] / max(totals[1], 1))

    def ignores_brightness(self) -> bool:
        """Whether a tile made brighter and richer in contrast is predicted as before.

        With the normalizations' statistics held fixed, so that what does not care is no layer.
        """
        for index in self.tiles:
            own = self.box(index)
            x = self.subject.inputs(own, own)
            forward = _replaying(self._forward(own), self._statistics(index, whole=False))
            y = _run(forward, x)
            if y.std() > 0:
                other = _run(forward, 2 * x + x.std())
                return bool(np.abs(other - y).max() <= _UNMOVED * y.std())
        return False

    def shifted_apart(self, shift: Sequence[int]) -> float | None:
        """Mean difference that tile starts off the grid by `shift` pixels would make.

        All else removed: the same statistics, and all context that can be given. None where
        that leaves nothing to compare.
        """
        if self.subject.reach is None or self.subject.fixed:
            return None
        removed: Removed = frozenset(("preprocessing", "tile statistics", "edge effects"))
        moved: list[float] = []
        for index in list(self.tiles)[:2]:
            own = self.box(index)
            box = self._context(own, removed)
            off = tuple((a + s, b + s) for (a, b), s in zip(box, shift, strict=True))
            if any(b > n for (_, b), n in zip(off, self._ends, strict=True)):
                off = tuple((a - s, b - s) for (a, b), s in zip(box, shift, strict=True))
            if any(a < -c[0] for (a, _), c in zip(off, self._crops, strict=True)):
                continue
            one, two = (self._predicted(index, b, removed) for b in (box, off))
            parts = [
                (low + c[0] + r[0], high - c[1] - r[1])
                for (low, high), c, r in zip(
                    _common(box, off, self.grid.image_shape),
                    self._crops,
                    self.subject.reach,
                    strict=True,
                )
            ]
            if any(a >= b for a, b in parts):
                continue
            a, b = (self._inside(y, at, parts) for y, at in ((one, box), (two, off)))
            moved.append(float(np.abs(a - b).mean()))
        return max(moved, default=None)

    def _measured(self, removed: Removed) -> Disagreement:
        raws = self._raws(removed)
        total, count, largest = 0.0, 0, 0.0
        for one, two, axis in self.seams:
            a, b = self._finished(one, two, raws, removed)
            if removed == NOTHING:
                self._look_at(a, b)
            apart = self._apart(one, two, axis, a, b)
            total += float(apart.sum(dtype=np.float64))
            count += apart.size
            largest = max(largest, float(apart.max(initial=0)))
        return Disagreement(total / max(count, 1), largest)

    def _look_at(self, *outcomes: Array) -> None:
        """Note what the outcome is like."""
        for values in outcomes:
            self._labels = values.dtype.kind in "iub"
            self._spread.see(values)
            self._highest = max(self._highest, float(np.abs(values).max(initial=0)))

    def _apart(self, one: Index, two: Index, axis: int, a: Array, b: Array) -> Array:
        """Distances where both tiles are trusted."""
        tiles = self.tiles[one], self.tiles[two]
        region = tuple(
            slice(max(s.start, t.start), max(s.start, t.start, min(s.stop, t.stop)))
            for s, t in zip(tiles[0].trusted, tiles[1].trusted, strict=True)
        )
        first, second = (y[:, *t.within(region)] for y, t in zip((a, b), tiles, strict=True))
        if first.dtype.kind in "iub":
            return np.asarray(first != second, np.float64)
        return np.asarray(np.abs(first.astype(np.float64) - second))

    # -- postprocessing

    def _finished(
        self, one: Index, two: Index, raws: dict[Index, Array], removed: Removed
    ) -> tuple[Array, Array]:
        """Both predictions after postprocessing, each by itself or both as one image."""
        a, b = raws[one], raws[two]
        if self.subject.postprocess is None:
            return a, b
        if "postprocessing" not in removed:
            return self._post(a), self._post(b)
        tiles = self.tiles[one], self.tiles[two]
        low = tuple(map(min, tiles[0].origin, tiles[1].origin))
        whole = self._both(tiles, (a, b), low)
        finished = []
        for tile, y in ((tiles[1], b), (tiles[0], a)):  # the one written last stays
            _write(whole, y[:, *tile.within(tile.trusted)], [s.start for s in tile.trusted], low)
            finished.append(_piece(self._post(whole), tile.origin, low, y.shape[1:]))
        return finished[1], finished[0]

    def _both(
        self, tiles: tuple[Tile, Tile], predictions: tuple[Array, Array], low: Index
    ) -> Array:
        """Both predictions in one array, whose corner is `low`: what is trusted over all else."""
        high = tuple(
            max(o + n for o, n in zip(axis, sizes, strict=True))
            for axis, sizes in zip(
                zip(*(tile.origin for tile in tiles), strict=True),
                zip(*(y.shape[1:] for y in predictions), strict=True),
                strict=True,
            )
        )
        whole = np.zeros(
            (predictions[0].shape[0], *(b - a for a, b in zip(low, high, strict=True))),
            predictions[0].dtype,
        )
        for tile, y in zip(tiles, predictions, strict=True):
            _write(whole, y, tile.origin, low)
        for tile, y in zip(tiles, predictions, strict=True):
            _write(whole, y[:, *tile.within(tile.trusted)], [s.start for s in tile.trusted], low)
        return whole

    def _post(self, prediction: Array) -> Array:
        assert self.subject.postprocess is not None
        made = called(self.subject.postprocess, prediction, "postprocess")
        return same_space(made, prediction, "postprocess")

    # -- predictions

    def _raws(self, removed: Removed) -> dict[Index, Array]:
        """Predictions of all tiles before postprocessing; the latest are kept."""
        key = removed - {"postprocessing"}
        if self._latest is None or self._latest[0] != key:
            self._latest = None
            raws = {index: self._raw(index, key) for index in self.tiles}
            self._latest = key, raws
            if key == NOTHING:
                self._raw_tolerance = _noise(raws.values(), self._relative)
        return self._latest[1]

    def _raw(self, index: Index, removed: Removed) -> Array:
        """One tile's prediction, of the tile's own extent."""
        own = self.box(index)
        box = self._context(own, removed)
        prediction = self._predicted(index, box, removed)
        kept = [(a + c[0], b - c[1]) for (a, b), c in zip(own, self._crops, strict=True)]
        return self._inside(prediction, box, kept)

    def _predicted(self, index: Index, box: Box, removed: Removed) -> Array:
        """The network's output for a box that holds a tile."""
        check(self._steps)
        own = self.box(index)
        whole = "preprocessing" in removed
        x = self.subject.inputs(box, None if whole else own)
        held = self._held(index, whole, "tile statistics" in removed, own=box != own)
        forward = self._forward(box)
        y = _run(_replaying(forward, held) if any(held) else forward, x)
        self._check(x, y)
        self._steps.one()
        return y

    def _forward(self, box: Box) -> Forward:
        """The network with the place of its input in the image."""

        def run(x: torch.Tensor) -> torch.Tensor:
            self.subject.at(box)
            return self.subject.forward(x)

        return run

    def _held(self, index: Index, whole: bool, common: bool, *, own: bool) -> list[Moments | None]:
        """Statistics that are not to be taken from what is read, by call.

        The tile's own where it reads more than itself, also those that are no normalization's;
        those of all tiles for normalizations that are to be alike.
        """
        alike = self.subject.normalizing if common else frozenset()
        if not alike and not (own and self.subject.couples):
            return []
        held = self._statistics(index, whole)
        pooled = self._pooled(whole) if alike else held
        return [
            pool if n in alike else mine if own else None
            for n, (mine, pool) in enumerate(itertools.zip_longest(held, pooled))
        ]

    def _statistics(self, index: Index, whole: bool) -> list[Moments | None]:
        """A tile's own statistics, by call; None for those remembered from training."""
        key = index, whole
        if key not in self._recorded:
            own = self.box(index)
            found: list[Moments | None] = []

            def note(call: Call) -> Moments | None:
                found.append(None if call.running is not None else call.moments())
                return None

            x = self.subject.inputs(own, None if whole else own)
            forward = self._forward(own)
            _run(lambda batch: Normalizations(note).run(forward, batch), x)
            self._recorded[key] = found
        return self._recorded[key]

    def _pooled(self, whole: bool) -> list[Moments | None]:
        """Statistics of all tiles of the sample together.

        Code that decides by its tile may take more of them for one than for another.
        """
        each = [self._statistics(index, whole) for index in self.tiles]
        found = ([m for m in moments if m is not None] for moments in itertools.zip_longest(*each))
        return [_merged(moments) if moments else None for moments in found]

    def _check(self, x: Array, y: Array) -> None:
        expected = tuple(
            int((n - sum(axis.crop)) * axis.scale)
            for n, axis in zip(x.shape[1:], self.subject.lattice, strict=True)
        )
        if y.shape[1:] != expected:
            raise ModelError(
                f"For a tile of {x.shape[1:]} the network gave {y.shape[1:]} instead of "
                f"{expected}: its output does not grow evenly with its input, so that tiles "
                "cannot be compared. Use another tile size."
            )
        if not np.isfinite(y).all():
            raise ImageError(
                "The prediction has values that are not finite (NaN or infinity): seams cannot be "
                "explained in it. Check the image's intensities and the network's precision."
            )

    # -- boxes

    def _context(self, own: Box, removed: Removed) -> Box:
        """What is read instead of a tile."""
        if self.subject.fixed:
            return own
        margin = self.margin if "edge effects" in removed else ((0, 0),) * len(own)
        return tuple(
            _widened(side, wide, lattice, end, aligned="off the grid" in removed)
            for side, wide, lattice, end in zip(
                own, margin, self.subject.lattice, self._ends, strict=True
            )
        )

    @property
    def _crops(self) -> list[Sides]:
        return [axis.crop for axis in self.subject.lattice]

    @cached_property
    def _ends(self) -> list[int]:
        """Where an untiled run would stop reading, for each axis."""
        found = []
        for axis, lattice in zip(self.grid.axes, self.subject.lattice, strict=True):
            size = lattice.size_at_least(axis.size + sum(lattice.crop)) - lattice.crop[0]
            found.append(max(size, *(axis[i].stop for i in range(len(axis)))))
        return found

    def _inside(self, prediction: Array, box: Box, part: Iterable[Sides]) -> Array:
        """Cut the prediction of a box to a part of it, in input pixels."""
        cut = []
        for (start, _), (low, high), lattice in zip(box, part, self.subject.lattice, strict=True):
            first = start + lattice.crop[0]
            begin = int((low - first) * lattice.scale)
            cut.append(slice(begin, begin + int((high - low) * lattice.scale)))
        return np.asarray(prediction[:, *cut])


def _run(forward: Forward, x: Array) -> Array:
    """Predict one tile ``(C, *spatial)``."""
    batch = torch.from_numpy(np.ascontiguousarray(x, np.float32))[None]
    try:
        with torch.no_grad():
            return np.asarray(forward(batch)[0].numpy())
    except (SeamscopeError, MemoryError):
        raise
    except Exception as error:  # anything a network may raise
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"The network failed on a tile of shape {x.shape} ({type(error).__name__}: "
            f"{lines[-1][:200]}). Try another tile size; if it fails on all, the fault is inside "
            "the network."
        ) from error


def _replaying(forward: Forward, moments: Sequence[Moments | None]) -> Forward:
    """The network with these statistics, by call; None leaves a call to itself."""

    def run(x: torch.Tensor) -> torch.Tensor:
        numbers = itertools.count()

        def answer(_: Call) -> Moments | None:
            number = next(numbers)
            return moments[number] if number < len(moments) else None

        return Normalizations(answer).run(forward, x)

    return run


def _merged(moments: Sequence[Moments]) -> Moments:
    """Statistics of equally large parts together: the variance within, and that of the means."""
    means = torch.stack([m.mean for m in moments])
    variances = torch.stack([m.var for m in moments])
    var = variances.mean(0) + means.var(0, correction=0)
    return Moments(means.mean(0), var, moments[0].count * len(moments))


def _noise(predictions: Iterable[Array], relative: float) -> float:
    """Largest difference that is floating-point noise."""
    spread, highest = Spread(), 0.0
    for values in predictions:
        spread.see(values)
        highest = max(highest, float(np.abs(values).max(initial=0)))
    return max(relative * spread.std, _RESOLVED * highest)


def _write(whole: Array, values: Array, at: Sequence[int], low: Sequence[int]) -> None:
    """Write values at a place into an array whose corner is `low`."""
    _piece(whole, at, low, values.shape[1:])[...] = values


def _piece(whole: Array, at: Sequence[int], low: Sequence[int], size: Sequence[int]) -> Array:
    """View of a part at a place of an array whose corner is `low`."""
    part = (slice(a - b, a - b + n) for a, b, n in zip(at, low, size, strict=True))
    return whole[:, *part]


def _widened(own: Sides, margin: Sides, lattice: Lattice, end: int, *, aligned: bool) -> Sides:
    """Widen a tile along one axis, by whole periods and within the image.

    Where it is to be `aligned`, to the next multiple of the period outside of the tile.
    """
    start, stop = own
    pitch, origin = lattice.pitch, -lattice.crop[0]
    if aligned:
        start -= (start - origin) % pitch
    if (start, stop) == own and not any(margin):
        return own
    start -= min(-(-margin[0] // pitch), max(0, start - origin) // pitch) * pitch
    wanted = min(stop + margin[1], max(end, stop))
    size = lattice.size_at_least(wanted - start)
    if start + size > end:
        size = max(lattice.size_at_most(end - start), lattice.size_at_least(stop - start))
    return (start, start + size) if start + size >= stop else own


def _volume(sizes: Sequence[int], margin: Sequence[Sides]) -> int:
    wide = margin or ((0, 0),) * len(sizes)
    return math.prod(n + a + b for n, (a, b) in zip(sizes, wide, strict=True))


def _common(one: Box, two: Box, sizes: Sequence[int]) -> list[Sides]:
    """What two boxes share inside the image."""
    return [
        (max(a[0], b[0], 0), min(a[1], b[1], n)) for a, b, n in zip(one, two, sizes, strict=True)
    ]


def _cut(values: Array, box: Box, part: Sequence[Sides]) -> Array:
    """Part of the values of a box, both in input pixels."""
    cut = (slice(a - start, b - start) for (a, b), (start, _) in zip(part, box, strict=True))
    return np.asarray(values[:, *cut])
