"""The measures of the seams of one run, as numbers that a paper can quote.

Knows the meter, the plan it watched, and how a part stands for the whole. Does not run networks.

Measuring every overlap needs whole predictions of all tiles, where a run without measuring
computes only what is kept of each. By default, a run therefore measures a *sample*: blocks
of two tiles along each axis, one chosen at random in each of equally long stretches of the image.
Estimates for the whole have an interval, from bootstrapping the blocks (Efron 1979), since the
overlaps of one block are not independent. The maximum of a sample is only a lower bound.
"""

from __future__ import annotations

import itertools
import math
import operator
import random
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from seamscope.bootstrap import bootstrap, medians
from seamscope.dice import ratio
from seamscope.models.model import Model
from seamscope.models.sentences import caution
from seamscope.planning.plan import Plan
from seamscope.seams.measures import Array, Frame, Seam, SeamCurve, SeamMeasures
from seamscope.seams.meter import SeamMeter
from seamscope.seams.tolerance import TOLERANCE
from seamscope.serialization import record
from seamscope.text import at_halo_text, figure_text, shape_text

Index: TypeAlias = tuple[int, ...]

# Share of tiles that is measured where a sample is requested: this costs less than 5 % of the
# time even if predictions are otherwise trimmed, which saves a third (benchmarks/seams.py).
SAMPLED_SHARE = 1 / 16
_OF_PLAN = ("tile", "overlap", "stride", "measured_stride", "halo", "period", "grid")
_RESAMPLES = 200
_FEWEST_BLOCKS = 5  # of which an interval says something


@dataclass(frozen=True)
class Interval:
    """95 % confidence interval of what a sample says of the whole."""

    low: float
    high: float


@dataclass(frozen=True)
class SeamReport:
    """Disagreement of neighbouring tiles in one run.

    Attributes
    ----------
    plan
        Tile, halo, overlap and all else that was done.
    model_name, channels
        Of the network; names of what it predicts.
    kind
        What was compared (see `seamscope.seams.meter`).
    tiles, overlaps, measured
        Tiles of the run; overlaps between neighbours, and how many of them were measured.
    spread
        Standard deviation of the output.
    tolerance
        Distance up to which two predictions are the same except for the order of summation.
    measures
        At the run's halo.
    curve
        At all halos.
    seams
        The worst first.
    tables
        Every seam's measures, see `SeamMeter.tables`.
    not_finite
        Numbers in the measured overlaps that are NaN or infinite.
    doubtful
        Whether the guessed kind, probabilities, was contradicted by a later tile.
    mean_dist_interval, mismatch_intervals
        Where only a sample was measured: of the mean difference, and of each channel's mismatch.
        None where there are fewer than five blocks.
    """

    plan: Plan = field(repr=False)
    model_name: str
    channels: tuple[str, ...]
    kind: str
    tiles: int
    overlaps: int
    measured: int
    spread: float
    tolerance: float
    measures: SeamMeasures
    curve: SeamCurve = field(repr=False)
    seams: tuple[Seam, ...] = field(repr=False)
    tables: dict[Frame, Array] = field(repr=False)
    not_finite: int = 0
    doubtful: bool = False
    mean_dist_interval: Interval | None = None
    mismatch_intervals: tuple[Interval | None, ...] = ()

    @classmethod
    def of(
        cls, meter: SeamMeter, plan: Plan, model: Model, tolerance: float = TOLERANCE
    ) -> SeamReport:
        """Sum up what a meter saw of a run; `tolerance` in standard deviations of the output."""
        overlaps = count_overlaps(plan)
        tables = meter.tables()
        complete = meter.overlaps >= overlaps
        intervals = [] if complete else _intervals(tables)
        return cls(
            plan=plan,
            model_name=model.name,
            channels=_names(model, plan, meter),
            kind=meter.kind,
            tiles=plan.tiles * plan.frames,
            overlaps=overlaps,
            measured=meter.overlaps,
            spread=meter.spread.std,
            tolerance=tolerance * meter.spread.std,
            measures=meter.measures(),
            curve=meter.curve(),
            seams=tuple(meter.seams()),
            tables=tables,
            not_finite=meter.lost,
            doubtful=meter.doubtful,
            mean_dist_interval=intervals[0] if intervals else None,
            mismatch_intervals=tuple(intervals[1:]),
        )

    @property
    def complete(self) -> bool:
        """Whether all overlaps were measured."""
        return self.measured >= self.overlaps

    @property
    def seamless(self) -> bool:
        """Whether no distance at the run's halo exceeds the tolerance.

        Where neighbours share no pixel that both keep, the pixels beside the seams are measured,
        for which one tile lacks context; the network's reach decides then.
        """
        if self.not_finite:
            return False
        return self.measures.max_dist <= self.tolerance or self._by_reach

    @property
    def _by_reach(self) -> bool:
        """Whether only the network's reach says that there are no seams."""
        apart = self.measures.max_dist > self.tolerance
        return apart and self.measures.beside and self.plan.exact and not self.plan.facts.noise

    @property
    def smallest_seamless(self) -> int | None:
        """Smallest halo without seams, its widest side, in input pixels; None where there is none.

        None too where nothing was measured.
        """
        return self.curve.smallest_seamless(self.tolerance) if self.measured else None

    @property
    def smallest_seamless_halo(self) -> tuple[int, ...] | None:
        """The same for each axis, the larger of both sides."""
        found = self.smallest_seamless
        return None if found is None else tuple(max(s) for s in self.curve.ray.sides(found))

    def sentence(self) -> str:
        """Return one sentence on how much neighbouring tiles differ."""
        if not self.overlaps:
            return "One tile covers the image: there are no seams."
        if not self.measured:
            return (
                "Seams were not measured: neighbouring tiles only touch, so that no pixel is "
                "predicted twice. Measure them (step Seams, seamscope seams) without a set "
                "overlap: tiles are then placed closer together."
            )
        return " ".join(filter(None, (self._agreement(), self._caution(), self._doubt())))

    def _caution(self) -> str:
        """What agreement here does not show of other images, or of an untiled prediction."""
        return caution(self.plan.facts, self.plan.reach) if self.seamless else ""

    def _doubt(self) -> str:
        if not self.doubtful:
            return ""
        return (
            "The first tile looked like probabilities and later ones do not: measure again, and "
            "say which kind it is (`kind='logits'`)."
        )

    def _agreement(self) -> str:
        if self.not_finite:
            return (
                f"{self.not_finite} predicted numbers in the overlaps are not finite (NaN or "
                "infinity): look for them in the image, and try the precision float32."
            )
        if self._by_reach:
            return (
                f"Seamless: {at_halo_text(self.plan.grid.halo)} covers the network's reach. "
                "Neighbouring tiles share no pixel that both keep; one pixel outside, where a tile "
                f"lacks context, they differ by up to {figure_text(self.measures.max_dist)}."
            )
        part = "all" if self.complete else f"the {self.measured} of {self.overlaps}"
        if self.seamless:
            those = "" if self.complete else " that were measured"
            most = self.measures.max_dist
            agree = f"agree to {figure_text(most)}" if most else "are identical"
            return f"Seamless: neighbouring tiles {agree} in {part} overlaps{those}."
        sizes = f"up to {figure_text(self.measures.max_dist)}{self._pixels}"
        if self.measures.soft:
            worst = int(np.argmax(self.measures.soft))
            mismatch = figure_text(self.measures.soft[worst])
            meaning = "0 is perfect agreement, 1 none"
            if len(self.channels) > 1:
                channel = self.channels[worst]
                sizes += f", and disagree most on {channel} ({mismatch}; {meaning})"
            else:
                sizes += f", with a mismatch of {mismatch} ({meaning})"
        where = "" if self.complete else f"; {self.measured} of {self.overlaps} overlaps measured"
        return f"Seams: neighbouring tiles differ by {sizes}{where}."

    @property
    def _pixels(self) -> str:
        """Which pixels were compared, where they are not those of every prediction."""
        if self.measures.beside:
            return " in the pixels beside the seams"
        if self.plan.stride_of_run:
            apart = shape_text(self.plan.grid.stride)
            return f" with tiles {apart} px apart, closer than in a prediction"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Return tiles, figures, curve and seams in one object, by the source's names."""
        plan = self.plan.to_json()
        measures, seamless = self.measures, self.smallest_seamless
        return record(
            **{key: plan[key] for key in _OF_PLAN},
            model=self.model_name,
            channels=self.channels,
            kind=self.kind,
            tiles=self.tiles,
            overlaps=self.overlaps,
            overlaps_measured=self.measured,
            max_dist=measures.max_dist,
            max_dist_per_channel=measures.max_dist_per_channel,
            mean_dist=measures.mean_dist,
            mean_dist_interval=_pair(self.mean_dist_interval),
            tile_mismatch=measures.soft,
            tile_mismatch_hard=measures.hard,
            tile_mismatch_without_squares=measures.plain,
            mismatch_where_present=measures.present,
            tile_mismatch_intervals=[_pair(i) for i in self.mismatch_intervals],
            pixels_beside_the_seam=measures.beside,
            spread=self.spread,
            tolerance=self.tolerance,
            seamless=self.seamless,
            not_finite=self.not_finite,
            kind_is_doubtful=self.doubtful,
            smallest_seamless_halo=self.smallest_seamless_halo,
            smallest_seamless_halo_sides=(
                None if seamless is None else self.curve.ray.sides(seamless)
            ),
            halo_curve=self.curve,
            seams=[_seam(seam) for seam in self.seams],
            sentence=self.sentence(),
        )


def count_overlaps(plan: Plan) -> int:
    """Pairs of neighbouring tiles that a plan predicts, in all frames."""
    counts = [len(numbers) for numbers in _numbers_along(plan)]
    pairs = sum((n - 1) * math.prod(counts) // n for n in counts)
    return pairs * plan.frames


def sampled_tiles(plan: Plan, share: float, seed: int = 0) -> frozenset[Index]:
    """Indices of tiles that stand for the others: blocks of two along each axis.

    Chosen in the whole image, so that an area is computed exactly as it would be in the whole;
    a small area may then hold none of them.

    Parameters
    ----------
    plan
        Of the run.
    share
        Part of the tiles, about, but at least one block; 1 for all.
    seed
        The same seed, plan and share give the same tiles.
    """
    predicted = _numbers_along(plan)
    if share >= 1:
        return frozenset(itertools.product(*predicted))
    numbers = [range(count) for count in plan.grid.shape]
    starts = [_block_starts(along) for along in numbers]
    corners = math.prod(map(len, starts))  # counted, not listed: there may be millions
    width = math.prod(min(2, len(along)) for along in numbers)
    wanted = int(share * math.prod(map(len, numbers)) / width)
    wanted = min(max(wanted, 1), corners)
    chance = random.Random(seed)
    bounds = [round(i * corners / wanted) for i in range(wanted + 1)]
    drawn = [chance.randrange(low, high) for low, high in itertools.pairwise(bounds)]
    places = np.stack(np.unravel_index(drawn, [len(along) for along in starts]), 1).tolist()
    corners_drawn = (map(operator.getitem, starts, place) for place in places)
    chosen = [tuple(map(partial(_shifted, chance), c, numbers)) for c in corners_drawn]
    blocks = (
        itertools.product(
            *(range(i, min(i + 2, along.stop)) for i, along in zip(corner, numbers, strict=True))
        )
        for corner in chosen
    )
    return frozenset(
        index
        for index in itertools.chain.from_iterable(blocks)
        if all(i in along for i, along in zip(index, predicted, strict=True))
    )


def _block_starts(along: range) -> range:
    """First tiles of blocks of two, so that each block has two."""
    return range(0, max(along[-1], 1), 2)


def _shifted(chance: random.Random, start: int, along: range) -> int:
    """Move a block on by one tile or not, so that any tile and any seam can be chosen."""
    return start + (start + 2 < along.stop and chance.random() < 0.5)


def _numbers_along(plan: Plan) -> list[range]:
    """Numbers of the tiles a plan predicts, along each axis."""
    return [
        axis.touching((part.start, part.stop), trusted=plan.blends)
        for axis, part in zip(plan.grid.axes, plan.area, strict=True)
    ]


def _intervals(tables: dict[Frame, Array]) -> list[Interval | None]:
    """Of the mean difference, and of each channel's mismatch."""
    blocks = _blocks(tables)
    if len(blocks) < _FEWEST_BLOCKS:
        return []
    sizes = [len(block) for block in blocks]
    columns = max(block.shape[1] for block in blocks)
    rows = np.full((sum(sizes), columns), np.nan)
    for start, block in zip(np.cumsum([0, *sizes]), blocks, strict=False):
        rows[start : start + len(block), : block.shape[1]] = block

    block_of = np.repeat(np.arange(len(blocks)), sizes)
    _, mean, pixels, *mismatch = rows.T
    pixels = np.where(np.isnan(mean), 0, pixels)  # none of them is finite
    total = np.nan_to_num(mean) * pixels

    def pooled(times: Array) -> Array:
        often = times[:, block_of]
        average = ratio(often @ total, often @ pixels)
        return np.stack([average, *(medians(values, often) for values in mismatch)], -1)

    low, high = bootstrap(len(blocks), pooled, resamples=_RESAMPLES)
    return [
        None if math.isnan(a) else Interval(a, b)
        for a, b in zip(low.tolist(), high.tolist(), strict=True)
    ]


def _blocks(tables: dict[Frame, Array]) -> list[Array]:
    """Rows of the tables, by block: seams whose lower tiles lie in the same two by two."""
    found: dict[Any, list[Array]] = {}
    for frame, table in tables.items():
        for axis, *lower in np.argwhere(np.isfinite(table[..., 0])):
            block = frame, tuple(i // 2 for i in lower)
            found.setdefault(block, []).append(table[(axis, *lower)])
    return [np.array(rows) for rows in found.values()]


def _names(model: Model, plan: Plan, meter: SeamMeter) -> tuple[str, ...]:
    if meter.kind == "embeddings":
        return ("embedding",)
    if meter.kind == "labels":
        count = len(meter.measures().soft)
        names = model.channels_of(plan.facts)
        return names if len(names) == count else tuple(f"class {i}" for i in range(count))
    return model.channels_of(plan.facts)


def _seam(seam: Seam) -> dict[str, Any]:
    return record(
        lower=seam.lower,
        upper=seam.upper,
        axis=seam.axis,
        frame=seam.frame,
        max_dist=seam.max_dist,
        mean_dist=seam.mean_dist,
        tile_mismatch=seam.soft,
        worst_pixel=seam.worst,
    )


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


__all__ = ["SAMPLED_SHARE", "Interval", "SeamReport", "count_overlaps", "sampled_tiles"]
