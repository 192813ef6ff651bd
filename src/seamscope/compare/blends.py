"""Which way of stitching suits tiles that disagree, on the user's own image.

Knows how stitched results are judged. Does not know how tiles are predicted or mixed.

`compare_blends` predicts the tiles of a grid once, and those of the same grid moved by half a
stride once, stitches both in each way of `seamscope.stitching.BLENDS`, and judges each way by two
numbers. ``R`` is the stitched result of one channel, ``D_a(p) = |R(p) - R(p - 1)|`` its jump from
one pixel to the next along axis ``a``, and ``R'`` the result on the moved grid.

*Step across the seams*: how much larger jumps are where tiles begin or end than elsewhere ::

    step(K) = mean over a, p in K_a of ( D_a(p) - E_a )

``K_a`` is once the set of all pixels at which cores begin, and for blends once that at which
trusted parts begin or end (there a tile enters the mean); the larger of both is the step. ``E_a``
is the mean of ``D_a`` over all pixels of neither set: the same for all ways except for what they do
there. A step of 0 or below is none. It does not show whether the image itself is rougher at those
pixels by chance, which moves the step of a seamless network too, the more the fewer seams there
are; and disagreement that a blend spreads over its ramp, which is no less wrong for being smooth.

*Dependence on the tiles*: how much the result changes when the tiles do ::

    dependence = mean over pixels of | R - R' |

It sees what a smooth ramp hides. It does not show what both grids get wrong alike, so that it
bounds no error against the untiled prediction; and with steps along both axes it counts all pixels
alike, near seams or far.

Both are distances of predictions. They are added and divided by the prediction's standard
deviation ``s``; the worst channel counts, and the way of least *score* is the best ::

    score = max over channels of ( max(step, 0) + dependence ) / s
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import SettingsError
from seamscope.images.scratch import scratch
from seamscope.models.model import Model
from seamscope.models.sentences import caution, reach_name
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.tuning import prepare
from seamscope.prediction.run import completed_as_planned
from seamscope.progress import QUIET, Steps, Work, check
from seamscope.seams.opinions import Opinions
from seamscope.seams.tolerance import TOLERANCE, Spread
from seamscope.serialization import record
from seamscope.settings import Blend, Settings
from seamscope.stitching import BLENDS, canvas
from seamscope.text import shape_text
from seamscope.tiling import AxisTiling, TileGrid

Array: TypeAlias = npt.NDArray[Any]

# Scores closer than this part of the worst are called alike: the chance that image content is
# rougher at the seams moves them by as much.
WORTH = 0.1
_AT_ONCE = 1 << 25  # bytes of a result that are looked at together


@dataclass(frozen=True)
class BlendScore:
    """One way of stitching, judged; see the module for the formulas. All arrays ``(C,)``.

    Attributes
    ----------
    blend
        Name.
    core, trusted
        Step where cores begin, and where trusted parts begin or end (None for crop, which has no
        seam there).
    peak, peak_elsewhere
        Largest jump at those pixels, and at all others.
    dependence, largest_dependence
        Mean and maximum of the distance to the result on the moved grid; None where the stride is
        one period, so that no grid lies half-way.
    """

    blend: Blend
    core: Array
    trusted: Array | None
    peak: Array
    peak_elsewhere: Array
    dependence: Array | None
    largest_dependence: Array | None

    @property
    def step(self) -> Array:
        """Mean excess of the jumps across the seams ``(C,)``."""
        return self.core if self.trusted is None else np.maximum(self.core, self.trusted)

    def total(self) -> Array:
        """Step and dependence together, in units of the prediction ``(C,)``."""
        steps = np.maximum(self.step, 0)
        return np.asarray(steps if self.dependence is None else steps + self.dependence)

    def to_json(self) -> dict[str, Any]:
        """Return the figures; steps in cores and trusted pixels begin with ``step_``."""
        return record(
            blend=self.blend,
            step=self.step,
            step_core=self.core,
            step_trusted=self.trusted,
            peak=self.peak,
            peak_elsewhere=self.peak_elsewhere,
            dependence=self.dependence,
            largest_dependence=self.largest_dependence,
        )


@dataclass(frozen=True)
class BlendComparison:
    """All ways of stitching the same tiles, judged.

    Attributes
    ----------
    ways
        In the order of `seamscope.stitching.BLENDS`.
    channels
        Names of the predicted channels.
    spread
        Standard deviation of the prediction, over all channels and pixels.
    shift
        Input pixels by which the second grid was moved, along each axis.
    remedy
        What would do better than any blend; empty where nothing would, or need.
    settings
        The plan, as plain values.
    notes
        Sentences for the user.
    """

    ways: tuple[BlendScore, ...]
    channels: tuple[str, ...]
    spread: float
    shift: tuple[int, ...]
    remedy: str
    settings: dict[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def scores(self) -> tuple[float, ...]:
        """Of each way; the least is the best."""
        unit = self.spread or 1.0
        return tuple(float(way.total().max()) / unit for way in self.ways)

    @property
    def seamless(self) -> bool:
        """Whether moving the tiles changes nothing but floating-point noise, in any way.

        Where no grid lies half-way: whether all ways have the same score. Steps do not tell: the
        image may be rougher at the seams by chance.
        """
        limit = TOLERANCE * (self.spread or 1.0)
        known = [w.largest_dependence for w in self.ways if w.largest_dependence is not None]
        if known:
            return float(np.max(known)) <= limit
        return max(self.scores) - min(self.scores) <= TOLERANCE

    @property
    def alike(self) -> bool:
        """Whether there is no difference worth talking of."""
        worst = max(self.scores)
        return self.seamless or worst - min(self.scores) <= max(TOLERANCE, WORTH * worst)

    @property
    def recommended(self) -> BlendScore:
        """The way of least score; crop, the cheapest, where there is no difference."""
        return self.ways[0] if self.alike else self.ways[int(np.argmin(self.scores))]

    def describe(self) -> str:
        """Say which way to take, with its numbers, and what would do better."""
        if self.seamless:
            return (
                "All ways of stitching give the same result to floating-point noise, wherever "
                "tiles lie: use crop, the cheapest."
            )
        text = self._alike() if self.alike else self._best()
        return f"{text} {self.remedy}".rstrip()

    def _alike(self) -> str:
        return (
            f"The ways of stitching differ by nothing worth talking of (scores "
            f"{min(self.scores):.3g} to {max(self.scores):.3g}): use crop, the cheapest."
        )

    def _best(self) -> str:
        best, scores = self.recommended, self.scores
        worst = int(np.argmax(scores))
        return (
            f"Use {best.blend}: seams and dependence on the tiles together are least, with a score "
            f"of {min(scores):.3g} ({self._numbers(best)}) against {scores[worst]:.3g} for "
            f"{self.ways[worst].blend} ({self._numbers(self.ways[worst])})."
        )

    def _numbers(self, way: BlendScore) -> str:
        channel = int(way.total().argmax())
        text = f"{self.channels[channel]}: step {way.step[channel]:.2g}"
        if way.dependence is not None:
            text += f", dependence {way.dependence[channel]:.2g}"
        return text

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        pairs = zip(self.ways, self.scores, strict=True)
        return record(
            ways=[{**way.to_json(), "score": score} for way, score in pairs],
            recommended=self.recommended.blend,
            alike=self.alike,
            seamless=self.seamless,
            channels=self.channels,
            spread=self.spread,
            shift=self.shift,
            explanation=self.describe(),
            plan=self.settings,
            notes=self.notes,
        )


def compare_blends(
    image: Any,
    model: Any,
    settings: Settings | None = None,
    *,
    trust: bool = False,
    axes: str | None = None,
    work: Work = QUIET,
    **asked: Any,
) -> BlendComparison:
    """Stitch the same predictions in all ways, and judge them.

    Parameters
    ----------
    image, model, settings, trust, axes, asked
        As for `seamscope.predict`. All ways get the overlap that blends take: by default
        a quarter of the tile more than twice the halo. A halo ``"auto"`` is what the tile has
        room for.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Returns
    -------
    BlendComparison

    Raises
    ------
    SeamscopeError
        One sentence with the value, the rule and the remedy; also for a single tile.
    InterruptedError
        When stopped.

    Notes
    -----
    Costs two predictions of the image. Predictions of tiles, and stitched results, are kept in
    temporary files where they would take more than a share of the free memory.

    Examples
    --------
    >>> import numpy as np, torch
    >>> image = np.random.default_rng(0).random((64, 64))
    >>> found = compare_blends(image, torch.nn.Conv2d(1, 1, 3, padding=1), tile=32)
    >>> found.seamless, found.recommended.blend
    (True, 'crop')
    """
    case = _blended(Case.open(image, model, settings, trust=trust, axes=axes, **asked))
    plan, network = case.plan, case.model
    moved, shift = _moved(plan)
    plans = [plan, moved] if any(shift) else [plan]
    frames = list(itertools.product(*(range(*part) for part in plan.frame_ranges)))
    case.intensity(work)
    work.phase("Predicting on two grids, and blending in all ways", "tiles and stitched results")
    total = sum(p.tiles * p.frames for p in plans) + len(frames) * len(BLENDS)
    steps = Steps(work, total)
    with contextlib.ExitStack() as stack:
        kept = []
        for each in plans:
            kept.append(Opinions())
            stack.callback(kept[-1].close)
            completed_as_planned(case.at(each), None, steps, [kept[-1].watch])
        judges = [_Judge(plan, blend) for blend in BLENDS]
        for frame in frames:
            for judge in judges:
                judge.see([_stitched(k, judge.blend, frame) for k in kept])
                steps.one()
                check(steps)
    return BlendComparison(
        ways=tuple(judge.score() for judge in judges),
        channels=network.channels_of(plan.facts),
        spread=judges[0].spread,
        shift=shift,
        remedy=_remedy(plan, network),
        settings=plan.to_json(),
        notes=(*plan.notes, *_notes(plan, shift)),
    )


# -- the two grids


def _blended(case: Case) -> Case:
    """The case with the overlap of blends, of several tiles."""
    blend = "linear" if case.settings.blend == "crop" else case.settings.blend
    wanted = case.settings.but(blend=blend, result="probabilities", seams="none")
    case = prepare(case.but(wanted))
    plan = case.plan
    if plan.tiles < 2:
        shape = shape_text(plan.grid.tile_shape)
        raise SettingsError(
            f"A tile of {shape} holds all that is wanted of the image: there are no seams to "
            "compare. Give a smaller `tile`."
        )
    return case


@dataclass(frozen=True)
class _Moved(AxisTiling):
    """Tiles along one axis whose cores begin `by` input pixels later."""

    by: int = 0

    @cached_property
    def _pattern(self) -> Any:
        own = super()._pattern
        # between one stride before the lead and the lead: the first tile starts with the image
        offset = own.lead - (own.lead - own.offset - self.by) % own.stride
        return dataclasses.replace(own, offset=offset)


def _moved(plan: Plan) -> tuple[Plan, tuple[int, ...]]:
    """The plan with all inner tiles moved by half a stride, in whole periods; and by how much."""
    shift = tuple(
        0 if axis.single else axis.stride // 2 // axis.lattice.pitch * axis.lattice.pitch
        for axis in plan.grid.axes
    )
    axes = tuple(
        _Moved(a.size, a.tile, a.halo, a.overlap, a.lattice, by) if by else a
        for a, by in zip(plan.grid.axes, shift, strict=True)
    )
    return dataclasses.replace(plan, grid=TileGrid(axes)), shift


def _stitched(kept: Opinions, blend: Blend, frame: tuple[int, ...]) -> Array:
    """One frame ``(C, *area)`` float32."""
    plan = kept.plan
    sheet = canvas(plan.grid, blend, plan.area)
    shape = (plan.facts.out_channels, *(part.stop - part.start for part in plan.area))
    result = scratch(shape, np.float32, "Stitching")
    for tile in sheet.tiles():
        prediction = kept.prediction(tile.index, frame)
        assert prediction is not None  # all were seen
        for region, values in sheet.add(tile, prediction):
            result[:, *region] = values
    for region, values in sheet.rest():
        result[:, *region] = values
    return result


# -- judging


class _Judge:
    """Sums over frames, of which one way's numbers are made.

    Jumps are summed for each position along each axis, over all that lies across: seams are
    planes, so that these profiles hold all that is needed.
    """

    def __init__(self, plan: Plan, blend: Blend) -> None:
        channels = plan.facts.out_channels
        sizes = [part.stop - part.start for part in plan.area]
        self.blend = blend
        self._lines = [_lines(a, p) for a, p in zip(plan.grid.axes, plan.area, strict=True)]
        self._across = [plan.frames * math.prod(sizes) // n for n in sizes]
        self._sums = [np.zeros((channels, n)) for n in sizes]
        self._peaks = [np.zeros((channels, n)) for n in sizes]
        self._apart = np.zeros(channels)
        self._furthest = np.zeros(channels)
        self._seen = Spread()
        self._pixels = plan.frames * math.prod(sizes)
        self._compared = False

    def see(self, results: Sequence[Array]) -> None:
        """Add one frame: the result, and that on the moved grid if there is one."""
        result = results[0]
        for axis in range(result.ndim - 1):
            for start, slab in _slabs(result, axis + 1):
                jumps = np.abs(np.diff(slab, axis=axis + 1))
                rest = tuple(a for a in range(1, result.ndim) if a != axis + 1)
                at = slice(start + 1, start + slab.shape[axis + 1])
                self._sums[axis][:, at] += jumps.sum(rest)
                peaks = self._peaks[axis][:, at]
                np.maximum(peaks, jumps.max(rest), out=peaks)
        for _, slab in _slabs(result, 1, shared=0):
            self._seen.see(slab)
        for other in results[1:]:
            self._compare(result, other)

    def _compare(self, result: Array, other: Array) -> None:
        self._compared = True
        pairs = zip(_slabs(result, 1, shared=0), _slabs(other, 1, shared=0), strict=True)
        for (_, one), (_, two) in pairs:
            apart = np.abs(one - two).reshape(len(one), -1)
            self._apart += apart.sum(1)
            self._furthest = np.maximum(self._furthest, apart.max(1))

    @property
    def spread(self) -> float:
        """Standard deviation over all that was seen."""
        return self._seen.std

    def score(self) -> BlendScore:
        """Make the numbers."""
        cores, trusted = zip(*self._lines, strict=True)
        seams = list(cores)
        if self.blend != "crop":
            seams = [sorted({*a, *b}) for a, b in zip(cores, trusted, strict=True)]
        mean = self._apart / self._pixels
        return BlendScore(
            blend=self.blend,
            core=self._step(cores),
            trusted=None if self.blend == "crop" else self._step(trusted),
            peak=_peak(self._peaks, seams),
            peak_elsewhere=_peak(self._peaks, self._elsewhere()),
            dependence=mean if self._compared else None,
            largest_dependence=self._furthest if self._compared else None,
        )

    def _step(self, lines: Sequence[Sequence[int]]) -> Array:
        """Mean excess of the jumps at some positions over those elsewhere ``(C,)``."""
        total, count = np.zeros(len(self._apart)), 0
        elsewhere = self._elsewhere()
        for sums, across, here, rest in zip(
            self._sums, self._across, lines, elsewhere, strict=True
        ):
            if here:
                usual = sums[:, rest].mean(1, keepdims=True)
                total += (sums[:, here] - usual).sum(1)
                count += across * len(here)
        return np.asarray(total / max(count, 1))

    def _elsewhere(self) -> list[list[int]]:
        """Positions that are no seam; all of them where every one is (strides of a pixel)."""
        found = []
        for sums, (cores, trusted) in zip(self._sums, self._lines, strict=True):
            every = range(1, sums.shape[1])
            seams = {*cores, *trusted}
            found.append([p for p in every if p not in seams] or list(every))
        return found


def _lines(axis: AxisTiling, part: slice) -> tuple[list[int], list[int]]:
    """Pixels of the area at which cores begin, and at which trusted parts begin or end."""
    cores = {tile.core[0] for tile in axis}
    trusted = {edge for tile in axis for edge in tile.trusted}

    def inside(edges: set[int]) -> list[int]:
        return sorted(e - part.start for e in edges if part.start < e < part.stop)

    return inside(cores), inside(trusted)


def _peak(peaks: Sequence[Array], lines: Sequence[Sequence[int]]) -> Array:
    each = [values[:, here].max(1, initial=0) for values, here in zip(peaks, lines, strict=True)]
    return np.asarray(np.max(each, axis=0))


def _slabs(values: Array, axis: int, shared: int = 1) -> Iterator[tuple[int, Array]]:
    """Pieces along an axis, float64, that share some pixels; with where each begins."""
    size = values.shape[axis]
    thick = max(1, _AT_ONCE * size // (8 * values.size))
    for start in range(0, size - shared, thick):
        part = (slice(None),) * axis + (slice(start, start + thick + shared),)
        yield start, values[part].astype(np.float64)


# -- what to say


def _remedy(plan: Plan, model: Model) -> str:
    """What would remove what blends only hide."""
    reach = model.reach
    needed = reach.useful
    short = needed is not None and _short(plan, needed)
    if reach.halo is not None or reach.alike:
        if not short:
            return ""
        return f"A halo of {_widest(needed)}, the network's reach, would leave no seams at all."
    rest = ""
    if short:
        rest = f" A halo of {_widest(needed)}, the {reach_name(reach)}, removes edge effects."
    if reach.conditional:
        return f"{caution(plan.facts, reach)}{rest}"
    if reach.convolutional is None or reach.depends_on_size or not model.audit.repairable:
        return (
            "Tiles disagree because the network couples the whole tile: no halo removes that, "
            f"and larger tiles lessen it.{rest}"
        )
    return (
        "Tiles disagree because the network uses per-tile statistics: seamscope freeze with a halo "
        f"of {_widest(needed)} makes them agree, which no blend does."
    )


def _short(plan: Plan, needed: Any) -> bool:
    sides = zip(plan.grid.axes, needed, strict=True)
    return any(
        own < must
        for axis, both in sides
        if not axis.single
        for own, must in zip(axis.halo, both, strict=True)
    )


def _widest(sides: Any) -> int:
    return int(max(max(pair) for pair in sides))


def _notes(plan: Plan, shift: tuple[int, ...]) -> Iterator[str]:
    spare = [axis.kept - axis.stride - sum(axis.halo) for axis in plan.grid.axes if not axis.single]
    if max(spare) < 1:
        yield (
            "Tiles overlap by their halos alone, so that nothing is left to mix but at the image's "
            "far end. Ask for a larger `overlap`."
        )
    if not any(shift):
        yield "The stride is one period: no grid lies half-way, and dependence is not measured."


__all__ = ["WORTH", "BlendComparison", "BlendScore", "compare_blends"]
