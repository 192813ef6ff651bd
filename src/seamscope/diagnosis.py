"""Why neighbouring tiles disagree: causes found by experiment, their shares, and what to do.

Knows how to weigh experiments and to say what they mean. Does not know how an experiment is done
(see `seamscope.experiments`), windows or command lines.

The verdict is about the setting asked for: its tile, halo and overlap. *Disagreement* is the mean
of ``abs(O1 - O2)`` over all pixels that two neighbours both may be trusted in, on a sample of
borders; it is measured as the pipeline is, and again with causes removed at the very same pixels.

The *share* of a cause is the part of that disagreement that goes away with it. What goes away
depends on what else is still there (two causes that each saturate a prediction hide one another),
so it is averaged over every order in which the causes that act can be removed: Shapley's value
(1953), the one division in which shares add up to the whole and equal causes get equal shares.

Not everything can be removed. *Global coupling* is what is left when everything else is gone; in
every order it comes last. Where the network sees the whole tile even with its statistics held
fixed, no context makes edge effects end; there they are the part by which the curve falls from
the halo asked for to the middle of the widest overlap, if that is a third or more. And in a bare
callable, a normalization of intensities that is hidden in it shows as global coupling that does
not care about the brightness of its input; it is told as preprocessing, together with whatever
else couples the whole tile.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import nn

from seamscope.errors import SettingsError
from seamscope.experiments import Bench, Cause, Disagreement, Removed
from seamscope.images import Image, open_image
from seamscope.inference import as_labels
from seamscope.loaders import load_model
from seamscope.model import Model
from seamscope.pipelines import Box, Pipeline, Step, Subject, subject_of_pipeline, subject_of_plan
from seamscope.plan import Plan, Settings, resolve
from seamscope.reading import whole_image_intensity
from seamscope.seams import SeamCurve
from seamscope.tile_sample import PlacedAxis, sample_of
from seamscope.tiling import (
    AxisTiling,
    Lattice,
    PerAxis,
    Sides,
    Tile,
    TileGrid,
    axis_names,
    halo_sides,
    per_axis,
)

Verdict: TypeAlias = Literal[
    "seamless",
    "edge effects",
    "tile statistics",
    "global coupling",
    "misaligned",
    "preprocessing",
    "postprocessing",
    "mixed",
]
HaloIs: TypeAlias = Literal["smallest seamless", "removes edge effects", "knee"]
Cancelled: TypeAlias = Callable[[], bool]
Progress: TypeAlias = Callable[[int, int], None]

# A cause below this part of the disagreement is none; one above names it; a halo is suggested
# where edge effects make so much.
_NEGLIGIBLE, _MAIN, _NOTABLE = 0.01, 2 / 3, 0.2
# Least fall of a curve that never ends; less may be its unevenness, as content differs by place.
_FALL = 1 / 3
_ANY = 1 << 30  # pixels; no image is larger

_CAUSES: tuple[Cause, ...] = (
    "preprocessing",
    "misaligned",
    "tile statistics",
    "edge effects",
    "global coupling",
    "postprocessing",
)


@dataclass(frozen=True)
class Finding:
    """One cause: how much of the disagreement it makes, and what to do about it.

    Attributes
    ----------
    cause
        Which.
    share
        Its part of the disagreement, 0 to 1; the shares of all findings sum to 1, or are all 0
        where tiles agree.
    number
        The disagreement it makes when it acts alone, all others removed, in `unit`.
    unit
        Of `number`.
    what
        What was found, in a sentence.
    remedy
        What to do, in a sentence; empty where there is nothing to do.
    """

    cause: Cause
    share: float
    number: float
    unit: str
    what: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Diagnosis:
    """The explanation of seams, and the figures it rests on.

    Attributes
    ----------
    verdict
        The cause that makes two thirds of the disagreement or more; ``"mixed"`` where none does.
    explanation
        Sentences: what, the numbers behind it, the remedy.
    findings
        All causes, largest share first; those that do not act are there with share 0.
    suggested_halo
        ``(before, after)`` for each axis in input pixels; None where none helps, or none is
        needed beyond what is used.
    halo_is
        What is to be expected of it: the smallest that is seamless on any image (the network's
        reach on its grid); the same, but other causes stay; or the knee of the curve, beyond
        which more helps little.
    halo_here
        The smallest halo within tolerance on the borders examined; at most the former, and
        certain for these only. None where there is none, or the tile is too small to see it.
    tile, halo, overlap, period
        What was examined, in input pixels. Where nothing would be left to compare, tiles overlap
        by a period more than asked for, or are a period larger.
    mean_dist, max_dist
        Disagreement at this setting, over the pixels both tiles are trusted in; for labels the
        part of them that differs.
    mean_dist_0, max_dist_0
        The same without a halo, of the prediction before postprocessing.
    tolerance, spread
        Noise, and the prediction's standard deviation.
    tiles, borders
        Number examined.
    curves
        Disagreement at every halo: ``"as it is"``, and where edge effects act
        ``"edge effects alone"`` (over all halos that this tile allows).
    """

    verdict: Verdict
    explanation: str
    findings: tuple[Finding, ...]
    tile: tuple[int, ...]
    halo: tuple[Sides, ...]
    overlap: tuple[int, ...]
    period: tuple[int, ...]
    suggested_halo: tuple[Sides, ...] | None = None
    halo_is: HaloIs | None = None
    halo_here: tuple[Sides, ...] | None = None
    mean_dist: float = 0.0
    max_dist: float = 0.0
    mean_dist_0: float = 0.0
    max_dist_0: float = 0.0
    tolerance: float = 0.0
    spread: float = 0.0
    tiles: int = 1
    borders: int = 0
    curves: Mapping[str, SeamCurve] = field(default_factory=dict)

    def share(self, cause: Cause) -> float:
        """Part of the disagreement that a cause makes."""
        return sum(found.share for found in self.findings if found.cause == cause)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        told = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        told["findings"] = [found.to_json() for found in self.findings]
        told["curves"] = {name: curve.to_json() for name, curve in self.curves.items()}
        for name in ("tile", "overlap", "period"):
            told[name] = list(told[name])
        for name in ("halo", "suggested_halo", "halo_here"):
            told[name] = told[name] and [list(sides) for sides in told[name]]
        return told


# -- the public face


def diagnose(
    image: Any,
    model: str | nn.Module | Model,
    settings: Settings | None = None,
    *,
    worst: Sequence[Any] | None = None,
    trust: bool = False,
    axes: str | None = None,
    cancelled: Cancelled | None = None,
    on_progress: Progress | None = None,
    **asked: Any,
) -> Diagnosis:
    """Explain the seams of Seamscope's own prediction of an image.

    Always in float32. Of images with time points, the one of the worst border told, else the first
    that is wanted.

    Parameters
    ----------
    image, model, trust, axes
        As for `seamscope.predict`.
    settings
        What is asked for; single settings may be given by name instead, ``tile=256, halo=16``. A
        halo ``"auto"`` is the network's reach, but no more than the tile, or half the overlap
        asked for, allows.
    worst
        Where seams are worst, worst first: `seamscope.seams.Border`, or points in pixels along the
        spatial axes. Half of the sample is taken there.
    cancelled
        Asked before each forward pass.
    on_progress
        Told how many forward passes are done, and how many there will be at most.

    Raises
    ------
    SeamscopeError
        As `seamscope.predict`.
    InterruptedError
        When cancelled.

    Examples
    --------
    >>> import numpy as np, torch
    >>> image = np.random.default_rng(0).random((64, 64), np.float32)
    >>> blur = torch.nn.Conv2d(1, 1, 5, padding=2)
    >>> diagnose(image, blur, tile=32, halo=0).verdict
    'edge effects'
    >>> diagnose(image, blur, tile=32).verdict
    'seamless'
    """
    never = cancelled or (lambda: False)
    opened = open_image(image, axes=axes)
    network = load_model(model, trust=trust)
    wanted = dataclasses.replace(settings or Settings(), **asked)
    plan = resolve(with_halo_that_fits(wanted, network), network, opened)
    if all(axis.single for axis in plan.grid.axes):
        return _one_tile(plan.grid, plan.facts.period)
    intensity = whole_image_intensity(plan, opened, never, None)
    frame, points = worst_places(worst or (), plan)
    subject = subject_of_plan(plan, network, opened, intensity, frame)
    grid = TileGrid(tuple(map(_comparable, plan.grid.axes)))
    inquiry = _Inquiry(subject, grid, points, never, on_progress, plan=plan)
    return inquiry.diagnosis()


def examine(
    pipeline: Pipeline | Step | nn.Module,
    image: Any,
    *,
    tile: PerAxis,
    overlap: PerAxis,
    halo: int | Sequence[int | Sides] | None = None,
    starts: Sequence[Sequence[int]] | None = None,
    worst: Sequence[Sequence[float]] | None = None,
    cancelled: Cancelled | None = None,
    on_progress: Progress | None = None,
) -> Diagnosis:
    """Put somebody's sliding-window code on the bench.

    Parameters
    ----------
    pipeline
        A `Pipeline`, whose parts are switched to the whole image one after another; or one
        callable that makes a tile ``(C, *spatial)`` into its prediction, in which less can be
        told apart. It is called thousands of pixels at a time, some hundred times. Torch must run
        in the calling thread for its normalizations to be seen.
    image
        ``(*spatial)`` or ``(C, *spatial)`` as the code gets it, with as many channels as it takes:
        an array, a path or an `Image`; it is loaded whole.
    tile, overlap
        Input pixels, one number or one per axis.
    halo
        Pixels at a tile's inner borders that are thrown away; by default half the overlap.
    starts
        Where tiles start, for each axis; by default from 0 on, one tile less its overlap apart. A
        last tile that the code moves back to end with the image is worth giving: it is often off
        the network's grid.
    worst, cancelled, on_progress
        As for `diagnose`; points in pixels.

    Raises
    ------
    SeamscopeError
        Where the pipeline fails, with what it said, or tiles do not fit the image.
    InterruptedError
        When cancelled.

    Examples
    --------
    >>> import numpy as np
    >>> def predict_tile(tile):
    ...     return tile - tile.mean()
    >>> ramp = np.linspace(0, 9, 96 * 96, dtype=np.float32).reshape(96, 96) ** 2
    >>> examine(Pipeline(lambda x: x, preprocess=predict_tile), ramp, tile=32, overlap=8).verdict
    'preprocessing'
    """
    parts = pipeline if isinstance(pipeline, Pipeline) else Pipeline(pipeline)
    ndim, pixels = _as_channels(image, tile, overlap)
    tiles = per_axis(tile, ndim, "tile")
    overlaps = per_axis(overlap, ndim, "overlap")
    placed = _placed(pixels.shape[1:], tiles, overlaps, starts)
    subject = subject_of_pipeline(parts, pixels, tiles)
    sides = halo_sides([o // 2 for o in overlaps] if halo is None else halo, ndim)
    axes = tuple(
        _comparable(PlacedAxis(min(n, s[-1] + t), t, h, 0, lattice, starts=s))
        for n, t, h, lattice, s in zip(
            pixels.shape[1:], tiles, sides, subject.lattice, placed, strict=True
        )
    )
    grid = TileGrid(axes)
    if len(grid) == 1:
        return _one_tile(grid, tuple(axis.period for axis in subject.lattice))
    never = cancelled or (lambda: False)
    return _Inquiry(subject, grid, worst or (), never, on_progress).diagnosis()


# -- what is compared


def with_halo_that_fits(settings: Settings, model: Model) -> Settings:
    """Settings whose ``"auto"`` halo is cut to what their tile or overlap allows.

    A tile too small for its halo is refused when predicting; to explain it is what this is for.
    """
    if settings.halo != "auto" or (settings.tile == "auto" and settings.overlap is None):
        return settings
    ndim = model.facts.spatial_axes
    needed = model.reach.halo or model.reach.convolutional or ((_ANY, _ANY),) * ndim
    sides = []
    for axis, (before, after) in enumerate(needed):
        limit = _ANY
        if settings.overlap is not None:
            limit = per_axis(settings.overlap, ndim, "overlap")[axis] // 2
        if settings.tile != "auto":
            tile = per_axis(settings.tile, ndim, "tile")[axis]
            limit = min(limit, _halo_within(tile, max(before, after), model.facts.lattice[axis]))
        sides.append((min(before, limit), min(after, limit)))
    return settings.but(halo=tuple(sides))


def _halo_within(tile: int, wanted: int, lattice: Lattice) -> int:
    """Halo that leaves a tile a period of its own: the one wanted, else in whole periods."""
    most = max(0, tile - sum(lattice.crop) - lattice.pitch) // 2
    return wanted if wanted <= most else most // lattice.pitch * lattice.pitch


def _comparable(axis: AxisTiling) -> AxisTiling:
    """The same tiles, moved together by whole periods until both are trusted in some pixels.

    A halo of half the overlap leaves nothing to compare. Where even the closest tiles leave
    nothing, tiles are a little larger; where that cannot be, the halo is smaller.
    """
    if axis.single or len(axis) == 1:
        return axis
    lattice, halo = axis.lattice, axis.halo
    while True:
        overlap = max(axis.overlap, sum(lattice.whole(halo)) + lattice.scale.denominator)
        if isinstance(axis, PlacedAxis):
            closer = _closer(axis, halo, overlap)
            if closer is not None:
                return closer
        else:
            tile = max(axis.tile, lattice.smallest_tile(halo, overlap))
            found = AxisTiling(axis.size, tile, halo, overlap, lattice)
            if found.kept - found.overlap >= lattice.pitch and not found.single:
                return found
        halo = (max(0, halo[0] - 1), max(0, halo[1] - 1))


def _closer(axis: PlacedAxis, halo: Sides, overlap: int) -> PlacedAxis | None:
    """Tiles that overlap so much, each moved by whole periods; None where they would coincide."""
    starts = [axis.starts[0]]
    pitch = axis.lattice.pitch
    for before, start in itertools.pairwise(axis.starts):
        step = start - before
        step -= -(-max(0, step - (axis.kept - overlap)) // pitch) * pitch
        if step <= 0:
            return None
        starts.append(starts[-1] + step)
    size = axis.size if starts == list(axis.starts) else min(axis.size, starts[-1] + axis.tile)
    return dataclasses.replace(axis, size=size, halo=halo, starts=tuple(starts))


def _deeper(axis: AxisTiling, reach: Sides | None) -> AxisTiling:
    """Tiles that overlap so far that every halo up to the reach can be seen, if possible."""
    if axis.single or len(axis) == 1:
        return axis
    lattice = axis.lattice
    wanted = axis.kept // 2 if reach is None else sum(reach) + lattice.pitch
    overlap = max(0, min(axis.kept - lattice.pitch, wanted))
    if isinstance(axis, PlacedAxis):
        # on the grid: alignment is another experiment
        step = max(lattice.pitch, (axis.kept - overlap) // lattice.pitch * lattice.pitch)
        starts = tuple(range(0, axis.size - axis.tile + 1, step))
        return PlacedAxis(starts[-1] + axis.tile, axis.tile, (0, 0), 0, lattice, starts)
    return AxisTiling(axis.size, axis.tile, (0, 0), overlap, lattice)


def _placed(
    shape: Sequence[int],
    tiles: Sequence[int],
    overlaps: Sequence[int],
    starts: Sequence[Sequence[int]] | None,
) -> list[tuple[int, ...]]:
    """Tile starts along each axis, checked."""
    names = axis_names(len(shape))
    found = []
    for axis, (name, size, tile, overlap) in enumerate(
        zip(names, shape, tiles, overlaps, strict=True)
    ):
        if not 0 <= overlap < tile <= size:
            raise SettingsError(
                f"Tile {tile} with overlap {overlap} along {name}, in an image of {size}: use "
                "0 <= overlap < tile <= image."
            )
        own = (
            tuple(starts[axis]) if starts is not None else range(0, size - tile + 1, tile - overlap)
        )
        if (
            not own
            or own[0] < 0
            or own[-1] + tile > size
            or any(b <= a for a, b in itertools.pairwise(own))
        ):
            raise SettingsError(
                f"Starts {list(own)[:5]} along {name}: give rising positions from 0 to "
                f"{size - tile}, at which a tile of {tile} lies in the image of {size}."
            )
        found.append(tuple(own))
    return found


def _as_channels(image: Any, tile: PerAxis, overlap: PerAxis) -> tuple[int, np.ndarray[Any, Any]]:
    """Number of spatial axes, and the image as ``(C, *spatial)``."""
    source = open_image(image) if isinstance(image, str | os.PathLike) else image
    pixels = np.asarray(source.data if isinstance(source, Image) else source)
    given = [len(v) for v in (tile, overlap) if not isinstance(v, int)]
    # sizes per axis decide; else a first axis that no tile would fit into is no space
    ndim = given[0] if given else pixels.ndim
    if not given and pixels.ndim > 2 and pixels.shape[0] < tile:
        ndim = pixels.ndim - 1
    if pixels.ndim not in (ndim, ndim + 1) or pixels.size == 0:
        raise SettingsError(
            f"An image of shape {pixels.shape}, for tiles of {tile}: give (*spatial) or "
            "(C, *spatial), with one tile size for each spatial axis."
        )
    return ndim, pixels[None] if pixels.ndim == ndim else pixels


def worst_places(
    worst: Sequence[Any], plan: Plan
) -> tuple[tuple[int, ...], list[tuple[float, ...]]]:
    """Frame to look at and places in it, in input pixels.

    Parameters
    ----------
    worst
        `seamscope.seams.Border`, or points along the spatial axes; worst first.
    plan
        What they belong to.

    Returns
    -------
    frame, points
        The frame of the worst border; points are taken to lie in the first that is wanted.
    """
    frame = tuple(start for start, _ in plan.frame_ranges)
    frame = next((place.frame for place in worst if getattr(place, "frame", ())), frame)
    points = []
    for place in worst:
        if getattr(place, "frame", ()) not in ((), frame):
            continue
        pixel = getattr(place, "worst", None)
        scale = plan.facts.scale if pixel is not None else (1,) * len(plan.facts.scale)
        at = place if pixel is None else pixel
        points.append(tuple(float(x / s) for x, s in zip(at, scale, strict=True)))
    return frame, points


# -- weighing


class _Inquiry:
    """All experiments on one subject, and what they add up to."""

    def __init__(
        self,
        subject: Subject,
        grid: TileGrid,
        worst: Sequence[Sequence[float]],
        cancelled: Cancelled,
        on_progress: Progress | None,
        plan: Plan | None = None,
    ) -> None:
        self._subject = subject
        self._plan = plan
        self._worst = worst
        self._cancelled = cancelled
        self._tell = on_progress or (lambda done, total: None)
        self._total = 0
        self._passes = 0
        self.bench = self._bench(grid)
        self._removable = frozenset(self._what_may_act())
        self._total = len(self.bench.tiles) * (2 ** len(self._removable) + 3)

    def _bench(self, grid: TileGrid) -> Bench:
        area = None if self._plan is None else self._plan.area
        tiles = sample_of(grid, self._contrast(grid), self._worst, area)
        return Bench(self._subject, grid, tiles, self._cancelled, self._advance)

    def _contrast(self, grid: TileGrid) -> Callable[[Tile], float]:
        def contrast(tile: Tile) -> float:
            box: Box = tuple(
                (axis[i].start, axis[i].stop) for axis, i in zip(grid.axes, tile.index, strict=True)
            )
            return float(self._subject.inputs(box, None).std())

        return contrast

    def _advance(self) -> None:
        self._passes += 1
        self._tell(self._passes, max(self._total, self._passes))

    def _what_may_act(self) -> Iterator[Cause]:
        if self._subject.preprocesses:
            yield "preprocessing"
        if any(len(each) > 1 for each in self.bench.remainders()):
            yield "misaligned"
        if self._subject.normalizing:
            yield "tile statistics"
        if any(map(any, self.bench.margin)):
            yield "edge effects"
        if self._subject.postprocess is not None:
            yield "postprocessing"

    # -- shares

    def diagnosis(self) -> Diagnosis:
        """Carry the experiments out."""
        bench = self.bench
        now = bench.disagreement()
        self._curves = {"as it is": bench.curve()}
        amounts = {} if now.largest <= bench.tolerance else self._amounts(now)
        total = sum(amounts.values())
        shares = {cause: amount / total for cause, amount in amounts.items()} if total else {}
        verdict = _verdict(shares)
        self._here = self._halo_here(shares)
        halo, halo_is = self._suggestion(shares, verdict)
        findings = self._findings(shares)
        self._tell(self._passes, self._passes)
        grid = bench.grid
        start = self._curves["as it is"]
        return Diagnosis(
            verdict=verdict,
            explanation=self._explanation(verdict, findings, now),
            findings=findings,
            tile=grid.tile_shape,
            halo=grid.halo,
            overlap=grid.overlap,
            period=tuple(axis.period for axis in self._subject.lattice),
            suggested_halo=halo,
            halo_is=halo_is,
            halo_here=self._here,
            mean_dist=now.mean,
            max_dist=now.largest,
            mean_dist_0=float(start.mean_dist[0]) if start.halo.size else 0.0,
            max_dist_0=float(start.max_dist[0]) if start.halo.size else 0.0,
            tolerance=bench.tolerance,
            spread=bench.spread,
            tiles=len(bench.tiles),
            borders=len(bench.borders),
            curves=self._curves,
        )

    def _alone(self, cause: Cause) -> Disagreement:
        """What a cause makes when all others are removed."""
        return self.bench.disagreement(self._removable - {cause})

    def _amounts(self, now: Disagreement) -> dict[Cause, float]:
        """Disagreement that each cause makes; they sum to all of it."""
        left = self.bench.disagreement(self._removable)
        acting = [
            cause
            for cause in _CAUSES
            if cause in self._removable
            and self._alone(cause).largest > self.bench.tolerance
            and self._alone(cause).mean > left.mean + _NEGLIGIBLE * now.mean
        ]
        rest = self.bench.disagreement(frozenset(acting))
        if left.largest <= self.bench.tolerance < rest.largest:
            # causes that make nothing alone, but something together
            acting = [cause for cause in _CAUSES if cause in self._removable]
            rest = left
        amounts = _shapley(acting, lambda removed: self.bench.disagreement(removed).mean)
        if rest.largest > self.bench.tolerance:
            for cause, amount in self._of_rest(rest.mean, frozenset(acting)):
                amounts[cause] = amounts.get(cause, 0.0) + amount
        # a cause that makes tiles more alike by chance is none; the others share what there is
        return {c: a for c, a in amounts.items() if a > _NEGLIGIBLE * now.mean}

    def _of_rest(self, rest: float, removed: Removed) -> Iterator[tuple[Cause, float]]:
        """Tell whose that is which is left when all that can be removed is gone."""
        if self._subject.reach is not None:
            complete = self.bench.margin == self.bench.missing
            yield ("global coupling" if complete else "edge effects"), rest
            return
        fall = self._fall(removed)
        coupling: Cause = "global coupling"
        if self._is_bare and self.bench.ignores_brightness():
            coupling = "preprocessing"
        yield "edge effects", fall * rest
        yield coupling, (1 - fall) * rest

    @property
    def _is_bare(self) -> bool:
        """Whether preprocessing could hide in the network."""
        return self._plan is None and not self._subject.preprocesses

    def _fall(self, removed: Removed) -> float:
        """Part by which the curve falls from the halo asked for to the deepest overlap."""
        curve = self._deep_curve(removed)
        believed = np.flatnonzero(curve.share >= 0.5)
        if not believed.size:
            return 0.0
        floor = float(curve.mean_dist[believed[-1]])
        at = min(curve.ray.largest_within(self.bench.grid.halo), int(believed[-1]))
        here = float(curve.mean_dist[at])
        fall = 1 - floor / here if here > 0 else 0.0
        return fall if fall >= _FALL else 0.0

    def _deep_curve(self, removed: Removed) -> SeamCurve:
        """Disagreement at all halos that this tile allows, with causes removed."""
        name = "edge effects alone"
        if name not in self._curves:
            reach = self._subject.reach
            sides = reach or (None,) * len(self.bench.grid.axes)
            axes = tuple(_deeper(a, r) for a, r in zip(self.bench.grid.axes, sides, strict=True))
            self._curves[name] = self._bench(TileGrid(axes)).curve(removed, along=reach)
        return self._curves[name]

    # -- the halo to use

    def _halo_here(self, shares: Mapping[Cause, float]) -> tuple[Sides, ...] | None:
        """Smallest halo at which the borders examined agree, edge effects alone considered."""
        curve = self._curves["as it is"]
        if shares:
            if self._subject.reach is None or "edge effects" not in shares:
                return None
            curve = self._deep_curve(self._removable - {"edge effects"})
        found = curve.smallest_seamless(self.bench.raw_tolerance)
        return None if found is None else curve.ray.sides(found)

    def _suggestion(
        self, shares: Mapping[Cause, float], verdict: Verdict
    ) -> tuple[tuple[Sides, ...] | None, HaloIs | None]:
        """Halo to use; none where what makes the seams is nothing that a halo removes."""
        if verdict not in ("edge effects", "mixed") or shares.get("edge effects", 0) < _NOTABLE:
            return None, None
        if self._subject.reach is None:
            curve = self._curves["edge effects alone"]
            return curve.ray.sides(curve.knee()), "knee"
        alone = shares["edge effects"] > 1 - _NEGLIGIBLE
        return self._subject.reach, "smallest seamless" if alone else "removes edge effects"

    # -- sentences

    def _findings(self, shares: Mapping[Cause, float]) -> tuple[Finding, ...]:
        found = []
        for cause in _CAUSES:
            share = shares.get(cause, 0.0)
            number, what, remedy = self._told(cause, share)
            unit = "of the pixels" if self.bench.labels else "mean difference"
            remedy = f"{remedy}." if share else ""
            found.append(Finding(cause, share, number, unit, f"{what}.", remedy))
        return tuple(sorted(found, key=lambda f: -f.share))

    def _told(self, cause: Cause, share: float) -> tuple[float, str, str]:
        """Number, what, remedy."""
        bench = self.bench
        alone = share * bench.disagreement().mean
        if cause in self._removable and bench.disagreement().largest > bench.tolerance:
            alone = self._alone(cause).mean
            if not share and self._alone(cause).largest > bench.tolerance:
                hidden = (
                    f"Alone this would make {_n(alone)}; next to the other causes it makes no "
                    "difference to remove it"
                )
                return alone, hidden, ""
        tell = {
            "preprocessing": self._preprocessing,
            "misaligned": self._misaligned,
            "tile statistics": self._statistics,
            "edge effects": self._edges,
            "global coupling": self._coupling,
            "postprocessing": self._postprocessing,
        }[cause]
        what, remedy = tell(share, alone)
        return alone, what, remedy

    def _preprocessing(self, share: float, alone: float) -> tuple[str, str]:
        remedy = (
            "Measure the intensities of the whole image once and prepare every tile with the same "
            "numbers"
        )
        if share and not self._subject.preprocesses:
            return (
                "The prediction stays the same when a tile is made brighter: the code "
                f"normalizes each tile by its own intensities, which makes {_n(alone)} together "
                "with all else that looks at the whole tile",
                remedy,
            )
        apart, spread = self.bench.inputs_apart()
        if apart == 0:
            return (
                "With an identity network the pipeline gives the image back: the same pixel is the "
                "same in every tile",
                "",
            )
        return (
            "With an identity network neighbouring tiles already differ: by up to "
            f"{_n(apart)} in the network's input, whose standard deviation is {_n(spread)}. This "
            f"alone makes {_n(alone)} in the prediction",
            remedy,
        )

    def _misaligned(self, share: float, alone: float) -> tuple[str, str]:
        period = _numbers([axis.pitch for axis in self._subject.lattice])
        if not share:
            what = f"Tile starts lie on the network's grid of {period}"
            if "misaligned" in self._removable:
                return "Tile starts off the network's grid make no difference here", ""
            shift = tuple(axis.pitch // 2 for axis in self._subject.lattice)
            cost = self.bench.shifted_apart(shift) if any(shift) else None
            if cost is not None:
                what += f"; {_numbers(shift)} pixels off it would make {_n(cost)}"
            return what, ""
        off = sorted(set(itertools.chain(*self.bench.remainders())))
        return (
            f"Tiles start {', '.join(map(str, off))} pixels off the network's grid of {period}, so "
            f"that strides and poolings fall differently: this alone makes {_n(alone)}, at any "
            "halo",
            f"Let tiles start on multiples of {period}; continue the image at its end instead of "
            "moving the last tile back",
        )

    def _statistics(self, share: float, alone: float) -> tuple[str, str]:
        count = len(self._subject.audit.tile_layers)
        if not count:
            return "No normalization layer uses statistics of the tile", ""
        layers = f"{count} normalization layer{'s use' if count > 1 else ' uses'} each tile's own"
        fixed = self.bench.disagreement(frozenset(("tile statistics",))).mean if share else 0.0
        if not share:
            return f"{layers} statistics; holding them fixed changes nothing here", ""
        now = self.bench.disagreement().mean
        return (
            f"{layers} statistics: with the same statistics for all tiles the difference goes from "
            f"{_n(now)} to {_n(fixed)}; by themselves they make {_n(alone)}, which no halo removes",
            "Fix the statistics (repair), or use a network with batch normalization or none; "
            "larger tiles make it fainter",
        )

    def _edges(self, share: float, alone: float) -> tuple[str, str]:
        start = self._curves["as it is"]
        at_0 = f"{_n(start.mean_dist[0])} without a halo" if start.halo.size else "0"
        used = _halo(self.bench.grid.halo)
        reach = self._subject.reach
        sees = "the whole tile" if reach is None else f"{_halo(reach)} pixels around each pixel"
        if not share:
            return (
                f"The network sees {sees}; at halo {used} tiles' borders do not "
                f"show (neighbours differ by {at_0})",
                "",
            )
        what = (
            f"At halo {used} the network misses context near tiles' borders (it sees {sees}): "
            f"this alone makes {_n(alone)}; neighbours differ by {at_0}"
        )
        if reach is None:
            curve = self._curves["edge effects alone"]
            knee = _halo(curve.ray.sides(curve.knee()))
            return what, f"Use a halo of {knee}, beyond which more helps little"
        remedy = f"Use a halo of {_halo(reach)}"
        lattices = self._subject.lattice
        needed = [a.smallest_tile(sides) for a, sides in zip(lattices, reach, strict=True)]
        if any(n > t for n, t in zip(needed, self.bench.grid.tile_shape, strict=True)):
            remedy += f", with tiles of {_numbers(needed)} or more"
        if self._here is not None and self._here != reach:
            remedy += f" (on the borders examined {_halo(self._here)} is enough)"
        return what, remedy

    def _coupling(self, share: float, alone: float) -> tuple[str, str]:
        if not share:
            return "Nothing else depends on the whole tile", ""
        found = self._subject.audit
        named = ", ".join(map(str, found.global_operations))
        what = named or (
            f"Something in the {'code' if self._is_bare else 'network'} besides normalization "
            "layers (a step done for each tile, positions, sizes)"
        )
        remedy = "Use tiles as large as memory allows, and blend neighbours so that it shows less"
        if named and found.repairable:
            remedy = f"Fix the means it takes of the tile (repair). Or: {remedy.lower()}"
        return (
            f"{what[0].upper()}{what[1:]} depends on the whole tile: with the same statistics and "
            f"all context it still makes {_n(alone)}, at any halo",
            f"No halo removes it. {remedy}",
        )

    def _postprocessing(self, share: float, alone: float) -> tuple[str, str]:
        if self._subject.postprocess is None:
            if self._plan is not None and self._plan.settings.result == "labels":
                threshold = self._plan.settings.threshold
                part = self.bench.classes_apart(lambda y: as_labels(y, threshold))
                return (
                    f"Classes are decided pixel by pixel: {_n(100 * part)} % of the trusted pixels "
                    "get another one in the neighbouring tile",
                    "",
                )
            return "There is none", ""
        before = self._curves["as it is"]
        at = min(before.ray.largest_within(self.bench.grid.halo), before.halo.size - 1)
        raw = f"before it the predictions differ by {_n(before.mean_dist[at])}"
        if not share:
            return f"Postprocessing two neighbours as one image changes nothing; {raw}", ""
        return (
            f"Postprocessing each tile by itself makes {_n(alone)} alone; {raw}, after it by "
            f"{_n(self.bench.disagreement().mean)}",
            "Stitch the predictions first and postprocess the whole",
        )

    def _explanation(
        self,
        verdict: Verdict,
        findings: Sequence[Finding],
        now: Disagreement,
    ) -> str:
        bench = self.bench
        used = _halo(bench.grid.halo)
        sample = f"{len(bench.borders)} border{'s' * (len(bench.borders) > 1)}"
        if bench.spread == 0:
            value = "the same number" if not bench.labels else "one label"
            return (
                f"The prediction is {value} everywhere on the {len(bench.tiles)} tiles examined, "
                "so that no seam could show. Check the image, its intensities, and whether the "
                "network was made for it."
            )
        if verdict == "seamless":
            told = (
                f"Seamless at halo {used}: on the {sample} examined neighbouring tiles differ by "
                f"{_n(now.largest)} at most, where {_n(bench.tolerance)} is noise."
            )
            start = self._curves["as it is"]
            if start.halo.size and any(map(any, bench.grid.halo)):
                told += (
                    f" Without a halo they would differ by {_n(start.mean_dist[0])} on average "
                    f"and {_n(start.max_dist[0])} at most."
                )
            if self._here is not None and self._here < bench.grid.halo:
                told += f" On these borders a halo of {_halo(self._here)} would do."
            return told
        if bench.labels:
            size = f"in {_n(100 * now.mean)} % of the pixels"
        else:
            size = (
                f"by {_n(now.mean)} on average and {_n(now.largest)} at most "
                f"({_n(now.largest / bench.spread)} standard deviations of the prediction)"
            )
        parts = [f"At halo {used} neighbouring tiles differ {size}, on {sample}."]
        for found in findings:
            if found.share >= _NEGLIGIBLE:
                parts.append(
                    f"{found.cause.capitalize()}, {100 * found.share:.0f} % of it: {found.what} "
                    f"{found.remedy}"
                )
        return " ".join(parts)


def _shapley(causes: Sequence[Cause], left: Callable[[Removed], float]) -> dict[Cause, float]:
    """What each cause makes, averaged over all orders of removal.

    `left` is the disagreement with causes removed; the amounts sum to ``left(none) - left(all)``.
    """
    n = len(causes)
    amounts: dict[Cause, float] = {}
    for cause in causes:
        others = [c for c in causes if c != cause]
        amount = 0.0
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for before in itertools.combinations(others, size):
                removed = frozenset(before)
                amount += weight * (left(removed) - left(removed | {cause}))
        amounts[cause] = amount
    return amounts


def _verdict(shares: Mapping[Cause, float]) -> Verdict:
    if not shares:
        return "seamless"
    main = max(shares, key=lambda cause: shares[cause])
    return main if shares[main] >= _MAIN else "mixed"


def _one_tile(grid: TileGrid, period: tuple[int, ...]) -> Diagnosis:
    size = " x ".join(map(str, grid.image_shape))
    return Diagnosis(
        verdict="seamless",
        explanation=(
            f"One tile covers the whole image ({size}): there are no borders, and there is nothing "
            "to explain. Ask for a smaller tile to see what tiling would do."
        ),
        findings=(),
        tile=grid.tile_shape,
        halo=grid.halo,
        overlap=(0,) * len(grid.axes),
        period=period,
    )


def _n(value: float) -> str:
    """Write a number for people."""
    return f"{value:.2g}" if value else "0"


def _numbers(values: Sequence[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else " x ".join(map(str, values))


def _halo(sides: Sequence[Sides]) -> str:
    """Write a halo: one number where all sides are equal."""
    if all(a == b for a, b in sides):
        return _numbers([a for a, _ in sides])
    return " x ".join(f"{a}/{b}" for a, b in sides)


__all__ = [
    "Diagnosis",
    "Finding",
    "Pipeline",
    "Verdict",
    "diagnose",
    "examine",
    "with_halo_that_fits",
]
