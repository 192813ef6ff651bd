"""How much neighbouring tiles disagree, at every halo at once, from one pass.

Knows predictions of tiles and the grid. Does not know networks, images or files.

Each pair of neighbours along an axis shares an overlap. At a halo ``h`` it is valid where neither
tile is closer than ``h`` to one of its inner borders: a box, and the larger the halo, the smaller
the box. So an overlap is folded once, axis by axis, until one number is left for each distance to
the borders, and sums from the far end are the measures at every halo::

    distance to the nearest border   0 1 2 3 3 2 1 0     an axis of the overlap: it is folded
    valid at halo 0                  [             ]     in the middle
    valid at halo 2                      [     ]

The image's own borders do not count. Where the halo differs between axes or sides, the
curve runs along it: its ``h`` is the widest side, and the others keep their proportion to it.

Measures (``O1``, ``O2``: the two tiles' predictions in the valid overlap; Buglakova et al. 2025):

* *max dist*: largest ``abs(O1 - O2)`` over all overlaps and channels; 0 is seamless;
* *mean dist*: mean of ``abs(O1 - O2)`` over the same pixels;
* *tile mismatch*: median over all overlaps of ``1 - Dice(O1, O2)``, for each channel. The source
  does not say which Dice. ``soft`` is ``Dice = 2 sum(O1 O2) / (sum O1^2 + sum O2^2)`` (Milletari et
  al. 2016), which is 1 exactly when both are equal. ``plain`` is the form without squares,
  ``2 sum(O1 O2) / (sum O1 + sum O2)``. ``hard`` is the Dice of the two classifications (largest
  channel, or each channel above the threshold).
* *mismatch where present*: the same as ``soft``, of the overlaps in which the class is present.

What is compared depends on the kind of prediction:

============== ==================================== ==========================================
kind           distances                            Dice
============== ==================================== ==========================================
probabilities  between the channels                 of the channels
logits         between the channels, as they are    of the softmax (sigmoid for one channel)
values         between the channels                 of the channels
embeddings     Euclidean, between pixels' vectors   soft: ``sum |O1-O2|^2 / sum(|O1|^2+|O2|^2)``
labels         1 where the class differs, else 0    of each class
============== ==================================== ==========================================

Labels are numbers of classes; numbers of objects mean nothing in another tile.

Where both sums are 0, Dice is 1: tiles agree that the class is absent. As in the source no overlap
is left out of the tile mismatch; a hundred empty overlaps can therefore hide the disagreement of
ten, which the mismatch where present shows (a class is absent where the root mean square of both
tiles is below `ABSENT`). A class absent everywhere has mismatch 0. Where only one tile predicts a
number that is not finite, their distance is infinite.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.dice import dice, probabilities, ratio, sigmoid
from seamscope.errors import SettingsError
from seamscope.tiling import AxisTiling, Sides, Slices, Tile, TileGrid

if TYPE_CHECKING:
    from seamscope.models.probe import Facts

Array: TypeAlias = npt.NDArray[Any]
Frame: TypeAlias = tuple[int, ...]
Kind: TypeAlias = Literal["probabilities", "logits", "values", "embeddings", "labels"]
Classes: TypeAlias = Literal["largest", "threshold"]

# Root mean square below which a class counts as absent from an overlap.
ABSENT = 1e-2
# Floating-point noise is below, artifacts are above this many standard deviations of the output:
# another order of summation makes 1e-5, a halo one pixel short 1e-2 (both measured).
TOLERANCE = 1e-4
# Curves of single overlaps kept for the median, chosen at random where there are more.
_CURVES = 4096
_FEW_CLASSES = 8
_WORST = 512  # seams whose worst pixel is remembered
_ENDLESS = 1e30  # what is larger stands for infinity, which times 0 is no number
_EVERY = 4  # pixels along each axis of which one is taken for the output's spread


@dataclass(frozen=True)
class HaloRay:
    """The halos a curve runs through: all sides in proportion, the widest being 0, 1, 2 ...

    Parameters
    ----------
    weights
        ``(before, after)`` for each axis, the largest 1.

    Examples
    --------
    >>> ray = HaloRay.along([(10, 10), (40, 20)])
    >>> ray.sides(40), ray.sides(6)
    (((10, 10), (40, 20)), ((2, 2), (6, 3)))
    """

    weights: tuple[tuple[Fraction, Fraction], ...]

    @classmethod
    def along(cls, halo: Sequence[Sides]) -> HaloRay:
        """Run through this halo; through equal sides where it is 0."""
        widest = max(max(sides) for sides in halo)
        if widest == 0:
            return cls(((Fraction(1), Fraction(1)),) * len(halo))
        return cls(tuple((Fraction(a, widest), Fraction(b, widest)) for a, b in halo))

    def sides(self, widest: int) -> tuple[Sides, ...]:
        """Halo ``(before, after)`` of each axis whose widest side is this, in input pixels."""
        return tuple((math.ceil(a * widest), math.ceil(b * widest)) for a, b in self.weights)

    def largest_within(self, halo: Sequence[Sides]) -> int:
        """Largest halo of the ray that is nowhere wider than this one."""
        limits = (
            Fraction(side) / weight
            for sides, weights in zip(halo, self.weights, strict=True)
            for side, weight in zip(sides, weights, strict=True)
            if weight
        )
        return math.floor(min(limits))


@dataclass(frozen=True)
class SeamCurve:
    """Disagreement at every halo.

    Attributes
    ----------
    halo
        ``(H,)`` widest side, pixels of input: 0, 1, 2 ... as far as any overlap reaches.
    max_dist, mean_dist
        ``(H,)`` over all channels.
    max_dist_per_channel
        ``(H, C)``.
    soft, hard
        ``(H, C)`` tile mismatch; NaN where no overlap is valid. No columns of `hard` for
        embeddings.
    overlaps
        ``(H, C)`` number of overlaps in the median of `soft`.
    share
        ``(H,)`` part of the overlaps that are valid at this halo, along the axis where it is least.
    ray
        Converts a halo's number into the halo of each axis and side.
    """

    halo: npt.NDArray[np.int_]
    max_dist: npt.NDArray[np.float64]
    mean_dist: npt.NDArray[np.float64]
    max_dist_per_channel: npt.NDArray[np.float64]
    soft: npt.NDArray[np.float64]
    hard: npt.NDArray[np.float64]
    overlaps: npt.NDArray[np.int_]
    share: npt.NDArray[np.float64]
    ray: HaloRay

    def smallest_seamless(self, tolerance: float) -> int | None:
        """Smallest halo at which, and beyond which, no disagreement exceeds the tolerance.

        Only halos up to `deepest` count.
        """
        bad = np.flatnonzero(~(self.max_dist <= tolerance))
        first = 0 if bad.size == 0 else int(bad[-1]) + 1
        return first if first <= self.deepest else None

    @property
    def deepest(self) -> int:
        """Largest halo at which more than half of the overlaps along each axis are valid.

        Beyond, the curve may show one axis alone, or the last row of tiles, which overlaps further.
        """
        return int(np.count_nonzero(self.share > 0.5)) - 1

    def knee(self) -> int:
        """Halo beyond which a larger one changes little: the point furthest below the chord.

        The chord joins both ends of ``log(mean dist)`` (Satopaa et al. 2011, "Kneedle").
        """
        solid = int(np.count_nonzero(self.share >= 0.5)) or self.halo.size
        values = self.mean_dist[:solid]
        heights = np.log10(np.maximum(values, values.max(initial=0) * 1e-9 + 1e-30))
        if solid < 3 or np.ptp(heights) == 0:
            return 0
        x = np.linspace(0, 1, solid)
        chord = heights[0] + (heights[-1] - heights[0]) * x
        return int(np.argmax(chord - heights))

    def to_json(self) -> dict[str, Any]:
        """Return plain lists; what is not finite becomes None."""
        return {
            "halo": self.halo.tolist(),
            "sides": [[list(side) for side in self.ray.sides(int(h))] for h in self.halo],
            "max_dist": plain(self.max_dist),
            "mean_dist": plain(self.mean_dist),
            "max_dist_per_channel": plain(self.max_dist_per_channel),
            "tile_mismatch": plain(self.soft),
            "tile_mismatch_hard": plain(self.hard),
            "overlaps": self.overlaps.tolist(),
            "share_of_overlaps": plain(self.share),
        }


@dataclass(frozen=True)
class SeamMeasures:
    """Disagreement at one halo.

    Attributes
    ----------
    max_dist, mean_dist, max_dist_per_channel
        Over the valid overlaps.
    soft, hard, plain
        Tile mismatch of each channel, over all overlaps.
    present
        The soft one, of the overlaps in which the class is present.
    overlaps
        How many were measured.
    beside
        Whether the halo leaves some overlap no valid pixel, so that the pixels on either side of
        the seam are measured instead: there one of the two tiles is not valid, by one pixel.
    """

    max_dist: float
    mean_dist: float
    max_dist_per_channel: tuple[float, ...]
    soft: tuple[float, ...]
    hard: tuple[float, ...]
    plain: tuple[float, ...]
    present: tuple[float, ...]
    overlaps: int
    beside: bool


@dataclass(frozen=True, order=True)
class Seam:
    """The line between two neighbouring cores.

    Attributes
    ----------
    max_dist, mean_dist
        Over the valid overlap at the meter's halo.
    lower, axis
        Index of the lower tile; the upper one is its next along the axis.
    frame
        Time point and the like.
    soft, hard
        ``1 - Dice`` of each channel; 0 where both tiles are 0 everywhere.
    worst
        Output pixel of the max difference. Whole tiles are compared: with an area, this pixel may
        lie outside it.
    """

    max_dist: float
    mean_dist: float
    lower: tuple[int, ...]
    axis: int
    frame: Frame
    soft: tuple[float | None, ...] = field(compare=False)
    hard: tuple[float | None, ...] = field(compare=False)
    worst: tuple[int, ...] = field(compare=False)

    @property
    def upper(self) -> tuple[int, ...]:
        """Index of the upper tile."""
        return tuple(i + (a == self.axis) for a, i in enumerate(self.lower))


class Overlap(NamedTuple):
    """What two neighbours predict where both do, as soon as the second is known.

    Attributes
    ----------
    grid
        Of the run; another one when memory ran out and it started again.
    lower, axis, frame
        Which overlap.
    region
        Output pixels.
    valid
        The part of it that is valid at the meter's halo, output pixels; where there is none, the
        pixels on either side of the seam.
    apart
        ``(C, *region)`` distances.
    """

    grid: TileGrid
    lower: tuple[int, ...]
    axis: int
    frame: Frame
    region: Slices
    valid: Slices
    apart: Array


class SeamMeter:
    """Watches predictions of tiles and measures their disagreement; keeps open overlaps only.

    Parameters
    ----------
    grid
        The tiles.
    halo
        The halo at which single seams are reported; by default the grid's own. The curve runs
        through it.
    kind
        What is predicted; ``"auto"``: probabilities if the first tile lies between 0 and 1, values
        if it exceeds this range slightly, else logits.
    classes
        How the ``hard`` measure classifies: by the largest channel, or each channel by the
        threshold; by default the largest where there are several.
    threshold
        Compared with the network's own numbers, as where labels are predicted.
    tell
        Called with each `Overlap`.
    record
        Called with the measures of each overlap, and the output pixel of its max difference,
        instead of keeping them; another meter takes them (`take`).

    Attributes
    ----------
    spread
        Of the output.
    lost
        Numbers in compared overlaps that are not finite.
    doubtful
        Whether the kind was guessed to be probabilities, and a later tile was not between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> grid = TileGrid.regular((24,), tile=16, halo=4)
    >>> meter = SeamMeter(grid)
    >>> for number, tile in enumerate(grid):
    ...     meter.see(tile, np.full((1, 16), float(number)))
    >>> float(meter.curve().max_dist[0])
    1.0
    """

    def __init__(
        self,
        grid: TileGrid,
        *,
        halo: Sequence[Sides] | None = None,
        kind: Kind | Literal["auto"] = "auto",
        classes: Classes | None = None,
        threshold: float = 0.5,
        tell: Callable[[Overlap], None] | None = None,
        record: Callable[[Compared, tuple[int, ...]], None] | None = None,
    ) -> None:
        self._record = record
        self.grid = grid
        self.halo = tuple(halo if halo is not None else grid.halo)
        self.kind = kind
        self.spread = Spread()
        self.lost = 0
        self.doubtful = False
        self._guessed = False
        self._ray = HaloRay.along(self.halo)
        self._at = self._ray.largest_within(self.halo)
        self._classes = classes
        self._threshold = threshold
        self._tell = tell
        self._folds: dict[tuple[_Ends, ...], _Fold] = {}
        self._most = max(_inputs(n, axis) for n, axis in zip(
            grid.prediction_shape, grid.axes, strict=True
        ))  # fmt: skip
        self._open: dict[tuple[Frame, tuple[int, ...], int], Array] = {}
        self._sums = _Sums()
        self._seams: dict[Frame, Array] = {}
        self._worst: list[Seam] = []

    @classmethod
    def of(
        cls, plan: Any, record: Callable[[Compared, tuple[int, ...]], None] | None = None
    ) -> SeamMeter:
        """Make the usual meter for a `seamscope.planning.plan.Plan`."""
        return cls(
            plan.grid,
            kind=kind_for(plan.facts),
            threshold=plan.settings.threshold,
            record=record,
        )

    def guess(self, kind: Kind) -> None:
        """Assume what is predicted, as `kind_of` says of the first tile, if it is not certain."""
        if self.kind == "auto":
            self.kind, self._guessed = kind, True

    def take(self, compared: Compared, worst: tuple[int, ...]) -> None:
        """Keep the measures of an overlap that another meter recorded."""
        self.lost += compared.lost
        self._keep(compared, lambda: worst)

    @property
    def overlaps(self) -> int:
        """Overlaps measured so far."""
        return self._sums.pairs

    def see(self, tile: Tile, prediction: Array, frame: Frame = ()) -> None:
        """Take the whole prediction ``(C, *spatial)`` of one tile; tiles may come in any order."""
        some = prediction[:, *(slice(None, None, _EVERY),) * len(tile.index)]
        if self.kind == "auto":
            self.guess(kind_of(prediction))
        elif self._guessed and self.kind == "probabilities":
            known = np.nan_to_num(some, posinf=0, neginf=0)
            self.doubtful |= kind_of(known) != "probabilities"
        self.spread.see(some)
        for axis, lower in self._neighbourhoods(tile):
            key = (frame, lower, axis)
            region = overlap_of(self.grid, lower, axis)
            own = prediction[:, *tile.within(region)]
            other = self._open.pop(key, None)
            if other is None:
                self._open[key] = own.copy()
            elif tile.index == lower:
                self._compare(key, region, own, other)
            else:
                self._compare(key, region, other, own)

    def watch(self, plan: Any, frame: Frame, tile: Tile, prediction: Array) -> None:
        """Watch a tile; `seamscope.prediction.run.run` calls this."""
        self.see(tile, prediction, frame)

    def _neighbourhoods(self, tile: Tile) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Seams of a tile: ``(axis, index of the lower of the two tiles that share it)``."""
        for axis, (i, n) in enumerate(zip(tile.index, self.grid.shape, strict=True)):
            if i > 0:
                yield axis, (*tile.index[:axis], i - 1, *tile.index[axis + 1 :])
            if i < n - 1:
                yield axis, tile.index

    def _compare(
        self, key: tuple[Frame, tuple[int, ...], int], region: Slices, one: Array, two: Array
    ) -> None:
        frame, lower, axis = key
        if 0 in one.shape:
            return  # these tiles only touch
        fold, before = self._fold(lower, axis, region), self.lost
        apart, terms = self._terms(fold, one, two)
        at = min(self._at, fold.deepest)
        inside = fold.box(at)
        valid = tuple(
            slice(r.start + v.start, r.start + v.stop) for r, v in zip(region, inside, strict=True)
        )
        compared = Compared(frame, lower, axis, at, self.lost - before, terms)
        spot = partial(_worst_pixel, apart[:, *inside], valid)
        if self._record is None:
            self._keep(compared, spot)
        else:
            self._record(compared, spot())
        if self._tell is not None:
            self._tell(Overlap(self.grid, lower, axis, frame, region, valid, apart))

    def _fold(self, lower: tuple[int, ...], axis: int, region: Slices) -> _Fold:
        """How far each pixel of an overlap is from the inner borders, along each axis."""
        ends = []
        for a, (tiling, i, part) in enumerate(zip(self.grid.axes, lower, region, strict=True)):
            beyond = tiling[i].origin + self.grid.prediction_shape[a] - part.stop
            low, high = self._ray.weights[a]
            before = i > 0 or a == axis  # the upper tile begins where the overlap does
            after = i < len(tiling) - 1
            ends.append(
                _Ends(
                    length=part.stop - part.start,
                    low=low if before and low else None,
                    high=high if after and high else None,
                    beyond=beyond,
                    scale=tiling.lattice.scale,
                )
            )
        key = tuple(ends)  # the same for each kind of place in the grid
        if key not in self._folds:
            self._folds[key] = _Fold(key, self._most)
        return self._folds[key]

    def _terms(self, fold: _Fold, one: Array, two: Array) -> tuple[Array, Terms]:
        one, two = (x.astype(np.float32, copy=False) for x in (one, two))
        one, two, torn, lost = _finite(one, two)
        self.lost += lost
        both, either = self._hard(fold, one, two)
        if self.kind == "labels":
            apart = (one != two).astype(np.float32)
            (total,) = fold.sums(apart[None])
            # 0 and 1 are their own squares
            soft, squares, sums = either - 2 * both, either, either
        else:
            four = self._apart_and_sums(one, two)
            if torn is not None:
                four[0][np.broadcast_to(torn, four[0].shape)] = 2 * _ENDLESS
            apart, (total, soft, squares, sums) = four[0], fold.sums(four)
        largest = fold.maxima(apart)
        if torn is not None:
            largest, total = (np.where(x >= _ENDLESS, np.inf, x) for x in (largest, total))
        return apart, Terms(fold.pixels, largest, total, soft, squares, sums, both, either)

    def _apart_and_sums(self, one: Array, two: Array) -> Array:
        """``(4, C, *overlap)``: distance, ``(O1 - O2)^2``, ``O1^2 + O2^2``, and ``O1 + O2``.

        ``1 - Dice`` is the ratio of the sums of the second and the third.
        """
        three = np.empty((4, *one.shape), np.float32)
        np.subtract(one, two, out=three[0])
        p, q = one, two
        if self.kind == "logits":
            p, q = self._activated(one), self._activated(two)
        np.subtract(p, q, out=three[1])
        np.square(three[1], out=three[1])
        np.square(p, out=three[2])
        three[2] += q * q
        np.add(p, q, out=three[3])
        np.abs(three[0], out=three[0])
        if self.kind != "embeddings":
            return three
        summed: Array = three.sum(1, keepdims=True)
        np.sqrt(np.square(three[0]).sum(0), out=summed[0, 0])
        return summed

    def _activated(self, values: Array) -> Array:
        """Probabilities that logits stand for."""
        if values.shape[0] == 1 or self._classes == "threshold":
            return sigmoid(values)
        return probabilities(values)

    def _hard(self, fold: _Fold, one: Array, two: Array) -> tuple[Array, Array]:
        """Pixels of each class in both classifications, and the sum of those in either."""
        if self.kind == "embeddings":
            none = np.zeros((0, fold.pixels.size))
            return none, none
        if self.kind == "labels":
            return _agreement(fold, *_numbered(one[0], two[0]))
        if one.shape[0] > 1 and self._classes != "threshold":
            return _agreement(fold, _largest(one), _largest(two), one.shape[0])
        limit = self._threshold
        pairs = zip((one > limit).view(np.uint8), (two > limit).view(np.uint8), strict=True)
        both, either = zip(*(_agreement(fold, p, q, 2) for p, q in pairs), strict=True)
        return np.array(both)[:, 1], np.array(either)[:, 1]

    # -- keeping what is measured

    @property
    def _absent(self) -> float:
        return 0.0 if self.kind == "embeddings" else ABSENT

    def _keep(self, compared: Compared, spot: Callable[[], tuple[int, ...]]) -> None:
        self._sums.add(compared.terms, compared.axis, compared.at, self._absent)
        self._note(compared, spot)

    def _note(self, compared: Compared, spot: Callable[[], tuple[int, ...]]) -> None:
        """Keep the measures of this seam at the meter's halo."""
        terms, at = compared.terms, compared.at
        soft, hard = terms.mismatch()
        largest = float(terms.largest[:, at].max())
        mean = float(terms.total[:, at].mean() / terms.pixels[at])
        place = compared.axis, *compared.lower
        row = np.array([largest, mean, terms.pixels[at], *soft[:, at]])
        self._enter(compared.frame, place, row)
        if len(self._worst) == _WORST and largest <= self._worst[0].max_dist:
            return
        seam = Seam(
            largest,
            mean,
            compared.lower,
            compared.axis,
            compared.frame,
            _known(soft[:, at]),
            _known(hard[:, at]),
            worst=spot(),
        )
        push = heapq.heappush if len(self._worst) < _WORST else heapq.heappushpop
        push(self._worst, seam)

    def _enter(self, frame: Frame, place: tuple[int, ...], row: Array) -> None:
        shape = (len(self.grid.shape), *self.grid.shape)
        table = self._seams.get(frame)
        if table is None or table.shape[-1] < row.size:  # a class not met before
            wider = np.full((*shape, row.size), np.nan, np.float32)
            if table is not None:
                wider[..., : table.shape[-1]] = table
            table = self._seams[frame] = wider
        table[place][: row.size] = row

    # -- what was measured

    def curve(self) -> SeamCurve:
        """Disagreement at every halo, over all overlaps seen so far."""
        return self._sums.curve(self._ray)

    def measures(self) -> SeamMeasures:
        """Disagreement at the meter's halo, over all overlaps seen so far."""
        return self._sums.measures(self._at)

    def seams(self) -> list[Seam]:
        """The worst seams at the meter's halo, worst first: at most 512."""
        return sorted(self._worst, reverse=True)

    def tables(self) -> dict[Frame, Array]:
        """For each frame every seam's measures at the meter's halo.

        ``(axes, *grid, 3 + C)`` float32, indexed by axis and lower tile: max dist, mean dist, valid
        pixels, and the soft mismatch of each channel; NaN where there is no seam or it was not
        measured.
        """
        return dict(self._seams)


@dataclass
class Spread:
    """Standard deviation of what was seen: of all numbers of the output together."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def see(self, values: Array) -> None:
        """Count these; what is not finite is left out."""
        wide = values.astype(np.float64)
        if not math.isfinite(float(wide.sum())):
            wide = wide[np.isfinite(wide)]
        self.count += wide.size
        self.total += float(wide.sum())
        self.squares += float(np.vdot(wide, wide))

    @property
    def std(self) -> float:
        """Standard deviation; 0 where nothing was seen."""
        if not self.count:
            return 0.0
        mean = self.total / self.count
        return math.sqrt(max(0.0, self.squares / self.count - mean * mean))


def check_tolerance(tolerance: float) -> None:
    """Raise an error for a tolerance that is negative or not finite."""
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise SettingsError(
            f"Tolerance {tolerance}: it is a distance in standard deviations of the output, "
            "finite and 0 or more; use 1e-4 if in doubt."
        )


def overlap_of(grid: TileGrid, lower: Sequence[int], axis: int) -> Slices:
    """Part of the result that a tile and its next neighbour along an axis both predict."""
    region = []
    sizes = grid.prediction_shape
    for a, (tiling, i) in enumerate(zip(grid.axes, lower, strict=True)):
        start = tiling[i + 1].origin if a == axis else tiling[i].origin
        stop = min(tiling[i].origin + sizes[a], tiling.output_size)
        region.append(slice(start, max(start, stop)))
    return tuple(region)


def plain(values: Array) -> list[Any]:
    """Nested lists of floats; None for NaN and infinity, which JSON does not have."""
    known = values.astype(object)
    known[~np.isfinite(values)] = None
    return list(known.tolist())


def _inputs(pixels: int, axis: AxisTiling) -> int:
    """Input pixels under so many of the output, at least 1."""
    return max(1, math.ceil(pixels / axis.lattice.scale))


def kind_for(facts: Facts) -> Kind | Literal["auto"]:
    """Return how a network's predictions are compared (`seamscope.models.output_kind`).

    Whether a network without a last activation gives logits shows in its values.
    """
    if facts.kind == "classes":
        return "labels"
    return facts.kind if facts.kind_certain else "auto"


def _known(values: Array) -> tuple[float | None, ...]:
    return tuple(float(v) if math.isfinite(v) else None for v in values)


def kind_of(prediction: Array) -> Kind:
    """Guess what is predicted from the values of one tile."""
    low, high = float(prediction.min(initial=0)), float(prediction.max(initial=0))
    if low > -1e-3 and high < 1.001:
        return "probabilities"
    # trained towards 0 and 1, but free to miss them a little: logits lie far on both sides of 0
    near = low > -0.25 and 0.75 < high < 1.25
    return "values" if near else "logits"


def _agreement(fold: _Fold, first: Array, second: Array, classes: int) -> tuple[Array, Array]:
    """Pixels ``(classes, H)`` that both put into a class; and those of the one and of the other."""
    if classes > _FEW_CLASSES:  # a table of all pairs would be larger than the overlap
        both = np.where(first == second, first, classes)
        counts = [fold.counts(n, classes + 1)[:classes] for n in (both, first, second)]
        return counts[0], counts[1] + counts[2]
    pairs = first.astype(np.intp) * classes + second.astype(np.intp)
    table = fold.counts(pairs, classes**2).reshape(classes, classes, -1)
    same = np.arange(classes)
    return table[same, same], table.sum(0) + table.sum(1)


def _numbered(one: Array, two: Array) -> tuple[Array, Array, int]:
    """Class numbers of both tiles, and how many there are."""
    lowest, highest = (int(f([f(one), f(two)])) for f in (np.min, np.max))
    if lowest < 0 or highest > 255:
        raise SettingsError(
            f"Label {lowest if lowest < 0 else highest}: classes are numbered from 0 to 255. "
            "Numbers of objects mean nothing in another tile: compare the probabilities they "
            "were made from."
        )
    return one, two, highest + 1


def _finite(one: Array, two: Array) -> tuple[Array, Array, Array | None, int]:
    """Both predictions with 0 for what is not finite; pixels where only one is not; how many."""
    if math.isfinite(float(one.sum() + two.sum())):
        return one, two, None, 0
    lost, missed = ~np.isfinite(one), ~np.isfinite(two)
    count = int(lost.sum() + missed.sum())
    return np.where(lost, 0, one), np.where(missed, 0, two), (lost != missed).any(0), count


def _largest(values: Array) -> npt.NDArray[np.intp]:
    """Number of the largest channel; numpy's argmax over a short first axis is ten times slower."""
    if values.shape[0] > _FEW_CLASSES:
        return np.asarray(values.argmax(0))
    best, which = values[0], np.zeros(values.shape[1:], np.uint8)
    for channel in range(1, values.shape[0]):
        above = (values[channel] > best).view(np.uint8)
        best = np.maximum(best, values[channel])
        which = which * (1 - above) + np.uint8(channel) * above
    return which.astype(np.intp)


# -- one overlap


class Terms(NamedTuple):
    """Of one overlap, ``(C, H)`` for each halo ``h``: over all pixels that are valid there."""

    pixels: Array  # (H,)
    largest: Array
    total: Array
    apart: Array
    squares: Array
    sums: Array
    both: Array
    either: Array

    def mismatch(self) -> tuple[Array, Array]:
        """``1 - Dice``, soft and hard; 0 where both tiles are 0 everywhere."""
        soft = ratio(self.apart, self.squares)
        return np.nan_to_num(soft, nan=0.0), np.nan_to_num(1 - dice(self.both, self.either))

    def present(self, absent: float) -> Array:
        """As the soft one; NaN where the class is absent from both tiles."""
        mismatch: Array = ratio(self.apart, self.squares, least=2 * absent**2 * self.pixels)
        return mismatch

    def plain(self) -> Array:
        """``1 - Dice`` without squares; 0 where both tiles are 0 everywhere."""
        # 2 sum(O1 O2) is what the squares exceed the squared differences by
        mismatch: Array = 1 - ratio(self.squares - self.apart, self.sums)
        return np.nan_to_num(mismatch, nan=0.0)


class Compared(NamedTuple):
    """The measures of one overlap.

    Attributes
    ----------
    frame, lower, axis
        Which overlap.
    at
        Number of the meter's halo, or of the largest one at which a pixel is valid.
    lost
        Predicted numbers in it that are not finite.
    terms
        At each halo.
    """

    frame: Frame
    lower: tuple[int, ...]
    axis: int
    at: int
    lost: int
    terms: Terms


def _worst_pixel(apart: Array, valid: Slices) -> tuple[int, ...]:
    """Output pixel of the max difference."""
    spot = np.unravel_index(int(apart.max(0).argmax()), apart.shape[1:])
    return tuple(int(v.start + s) for v, s in zip(valid, spot, strict=True))


class _Ends(NamedTuple):
    """An axis of an overlap, and how the halo applies to its two ends."""

    length: int
    low: Fraction | None  # the ray's weight of this side; None: no inner border, or no halo
    high: Fraction | None
    beyond: int  # output pixels between its end and the lower tile's
    scale: Fraction

    def distances(self) -> npt.NDArray[np.int64]:
        """Largest halo of the ray at which each pixel is valid."""
        x = np.arange(self.length)
        far = np.full(self.length, np.iinfo(np.int64).max)
        low = far if self.low is None else self._within(x, self.low)
        high = far
        if self.high is not None:
            high = self._within(self.length - 1 - x + self.beyond, self.high)
        return np.asarray(np.minimum(low, high))

    def _within(self, pixels: Array, weight: Fraction) -> Array:
        """Whole input pixels, then whole steps of the ray."""
        inputs = pixels * self.scale.denominator // self.scale.numerator
        steps: Array = inputs * weight.denominator // weight.numerator
        return steps


class _Fold:
    """Folds an overlap by distance to its inner borders.

    Parameters
    ----------
    ends
        Its axes.
    most
        The widest halo: a tile's own extent. An overlap without a halo on any side is valid at all
        of them.
    """

    def __init__(self, ends: tuple[_Ends, ...], most: int) -> None:
        lines = [axis.distances() for axis in ends]
        self.deepest = min(most, *(int(line.max()) for line in lines))
        self._lines = [np.minimum(line, self.deepest) for line in lines]
        self._runs = [_runs(line, self.deepest) for line in self._lines]
        counts = [np.array([(line >= h).sum() for h in range(self.deepest + 1)]) for line in lines]
        self.pixels = np.prod(counts, axis=0).astype(np.float64)
        self._boxes = [[_hull(line >= h) for h in range(self.deepest + 1)] for line in lines]

    def box(self, halo: int) -> Slices:
        """The part of the overlap that is valid at this halo."""
        return tuple(axis[halo] for axis in self._boxes)

    def sums(self, values: Array) -> Array:
        """Sum ``(..., C, *overlap) -> (..., C, H)`` over what is valid at each halo."""
        flat = values.reshape(-1, *values.shape[values.ndim - len(self._lines) :])
        nested = self._folded(flat, np.add, np.float64) @ self._beyond.T
        while nested.ndim > 2:  # one axis more: beyond the same distance
            nested = np.einsum("...dh,hd->...h", nested, self._beyond)
        return np.asarray(nested.reshape(*values.shape[: -len(self._lines)], -1))

    def maxima(self, values: Array) -> Array:
        """Largest ``(C, *overlap) -> (C, H)`` of what is valid at each halo; not negative."""
        nested = self._folded(values, np.maximum, values.dtype)
        nested = _from_far_end(nested, np.maximum)
        while nested.ndim > 2:
            nested = np.where(self._beyond.T, nested, 0).max(-2)
        return nested

    def counts(self, numbers: Array, most: int) -> Array:
        """Pixels ``(most, H)`` that have each number, of what is valid at each halo."""
        codes = self._distance.astype(np.intp) * most
        codes += numbers
        counts = np.bincount(codes.ravel(), minlength=(self.deepest + 1) * most)
        return _from_far_end(counts.reshape(-1, most).T.astype(np.float64))

    @cached_property
    def _distance(self) -> npt.NDArray[np.uint16]:
        """Distance of each pixel of the overlap, in a small type, since it stays in memory."""
        found = np.full((), self.deepest)
        for axis, line in enumerate(self._lines):
            wide = line.reshape([-1 if a == axis else 1 for a in range(len(self._lines))])
            found = np.minimum(found, wide)
        return found.astype(np.uint16 if self.deepest < 1 << 16 else np.uint32)

    @cached_property
    def _beyond(self) -> Array:
        """``(H, H)``: which distances are valid at which halo."""
        return np.triu(np.ones((self.deepest + 1,) * 2))

    def _folded(self, values: Array, ufunc: Any, dtype: Any) -> Array:
        for axis, runs in enumerate(self._runs, start=1):
            values = _fold_axis(values, axis, runs, ufunc, dtype)
        return values.astype(dtype, copy=False)


def _hull(true: Array) -> slice:
    where = np.flatnonzero(true)
    return slice(int(where[0]), int(where[-1]) + 1)


class _Run(NamedTuple):
    """Neighbouring pixels of an axis: rising, at their deepest, or falling."""

    part: slice
    distances: Array  # different ones, in the order of the pixels
    starts: Array | None  # where each begins; None where each is one pixel


def _runs(line: Array, deepest: int) -> list[_Run]:
    flat = np.flatnonzero(line == deepest)
    parts = (slice(0, flat[0]), slice(flat[0], flat[-1] + 1), slice(flat[-1] + 1, line.size))
    runs = []
    for part in parts:
        values = line[part]
        if values.size:
            starts = np.flatnonzero(np.diff(values, prepend=-1))
            single = None if starts.size == values.size else starts
            runs.append(_Run(part, values[starts], single))
    return runs


def _fold_axis(values: Array, axis: int, runs: list[_Run], ufunc: Any, wide: Any) -> Array:
    """Collect one axis by distance: ``(..., n, ...) -> (..., H, ...)``.

    Long sums are taken in the type `wide`; what is folded once keeps its own, which is faster.
    """
    deepest = max(int(run.distances.max()) for run in runs)
    shape = (*values.shape[:axis], deepest + 1, *values.shape[axis + 1 :])
    folded = np.zeros(shape, values.dtype)
    into, source = np.moveaxis(folded, axis, 0), np.moveaxis(values, axis, 0)
    for run in runs:
        part = source[run.part]
        if run.distances.size == 1:
            part = ufunc.reduce(part, axis=0, dtype=wide)[None]
        elif run.starts is not None:
            part = ufunc.reduceat(part, run.starts, axis=0)
        first, last = int(run.distances[0]), int(run.distances[-1])
        if abs(last - first) + 1 == run.distances.size:  # no gap: a slice, which is faster
            backwards = last < first
            target = into[min(first, last) : max(first, last) + 1]
            ufunc(target, part[::-1] if backwards else part, out=target, casting="same_kind")
        else:
            into[run.distances] = ufunc(into[run.distances], part)
    return folded


def _from_far_end(bins: Array, ufunc: Any = np.add, axis: int = -1) -> Array:
    """Accumulate over all distances of at least ``d``, for each ``d``."""
    flipped = np.flip(bins, axis)
    return np.asarray(np.flip(ufunc.accumulate(flipped, axis=axis), axis))


# -- all overlaps


class _Sums:
    """Measures of all overlaps together; its memory does not grow with their number."""

    def __init__(self) -> None:
        self.pairs = 0
        self._pixels = np.zeros(0)
        self._valid: dict[int, Array] = {}  # for each axis: overlaps that are valid
        self._largest = np.zeros((0, 0))
        self._total = np.zeros((0, 0))
        self._curves: list[_Curves] = []
        self._here = _Here()
        self._random = random.Random(0)

    def add(self, terms: Terms, axis: int, at: int, absent: float) -> None:
        self.pairs += 1
        depth, channels = terms.pixels.size, terms.total.shape[0]
        if depth > self._pixels.size or not self._total.size:
            self._grow(depth, channels)
        self._pixels[:depth] += terms.pixels
        self._valid.setdefault(axis, np.zeros(self._pixels.size))[:depth] += 1
        np.maximum(self._largest[:, :depth], terms.largest, out=self._largest[:, :depth])
        self._total[:, :depth] += terms.total
        self._here.add(terms, at)
        if (place := self._place()) is not None:
            soft, hard = (x.astype(np.float32) for x in terms.mismatch())
            present, plain = terms.present(absent)[:, at], terms.plain()[:, at]
            kept = _Curves(soft, hard, present, plain, at)
            self._curves[place:] = [kept, *self._curves[place + 1 :]]

    def _place(self) -> int | None:
        """Where a curve is kept, so that all have had the same chance (Vitter 1985, R)."""
        if self.pairs <= _CURVES:
            return self.pairs - 1
        place = self._random.randrange(self.pairs)
        return place if place < _CURVES else None

    def _grow(self, depth: int, channels: int) -> None:
        more = depth - self._pixels.size
        self._pixels = np.pad(self._pixels, (0, more))
        self._valid = {axis: np.pad(valid, (0, more)) for axis, valid in self._valid.items()}
        wide = ((0, channels - self._total.shape[0]), (0, more))
        self._largest, self._total = np.pad(self._largest, wide), np.pad(self._total, wide)

    def curve(self, ray: HaloRay) -> SeamCurve:
        depth, channels = self._pixels.size, self._total.shape[0]
        soft = self._stacked([c.soft for c in self._curves])
        hard = self._stacked([c.hard for c in self._curves])
        peaks = self._largest.T.astype(np.float64)
        mean = self._total.sum(0) / np.maximum(self._pixels * channels, 1)
        return SeamCurve(
            halo=np.arange(depth),
            max_dist=peaks.max(1, initial=0),
            mean_dist=mean,
            max_dist_per_channel=peaks,
            soft=_median(soft),
            hard=_median(hard),
            overlaps=np.isfinite(soft).sum(0).T,
            share=self._share(),
            ray=ray,
        )

    def _share(self) -> Array:
        if not self._valid:
            return np.zeros(0)
        return np.asarray(np.min([v / v[0] for v in self._valid.values()], axis=0))

    def measures(self, at: int) -> SeamMeasures:
        soft = self._stacked([c.soft[:, c.at : c.at + 1] for c in self._curves])
        hard = self._stacked([c.hard[:, c.at : c.at + 1] for c in self._curves])
        here = self._here
        return SeamMeasures(
            max_dist=float(here.largest.max(initial=0)),
            mean_dist=here.total / max(here.numbers, 1),
            max_dist_per_channel=tuple(map(float, here.largest)),
            soft=tuple(map(float, _median(soft)[0])) if len(soft) else (),
            hard=tuple(map(float, _median(hard)[0])) if len(hard) else (),
            plain=self._medians([c.plain for c in self._curves]),
            present=self._medians([c.present for c in self._curves]),
            overlaps=self.pairs,
            beside=self.pairs > 0 and here.shallowest < at,
        )

    def _medians(self, values: list[Array]) -> tuple[float, ...]:
        stacked = self._stacked([each[:, None] for each in values])
        return tuple(map(float, _median(stacked)[0])) if len(stacked) else ()

    @staticmethod
    def _stacked(curves: list[Array]) -> Array:
        """Curves of overlaps ``(overlaps, C, H)``, NaN beyond their ends."""
        channels = max((c.shape[0] for c in curves), default=0)
        depth = max((c.shape[1] for c in curves), default=0)
        stacked = np.full((len(curves), channels, depth), np.nan)
        for row, curve in zip(stacked, curves, strict=True):
            row[: curve.shape[0], : curve.shape[1]] = curve
        return stacked


class _Curves(NamedTuple):
    """Mismatch of one overlap at every halo, and at the halo of the run."""

    soft: Array
    hard: Array
    present: Array
    plain: Array
    at: int


@dataclass
class _Here:
    """Distances at the meter's halo."""

    largest: Array = field(default_factory=lambda: np.zeros(0))
    total: float = 0.0
    numbers: float = 0.0
    shallowest: int = 1 << 62

    def add(self, terms: Terms, at: int) -> None:
        largest = terms.largest[:, at].astype(np.float64)
        self.largest = np.maximum(self.largest, largest) if self.largest.size else largest
        self.total += float(terms.total[:, at].sum())
        self.numbers += float(terms.pixels[at] * len(largest))
        self.shallowest = min(self.shallowest, at)


def _median(values: Array) -> Array:
    """Median over overlaps ``(overlaps, C, H) -> (H, C)``; 0 where the class is absent from all."""
    present = np.isfinite(values).any(0)
    filled = np.where(present, values, 0.0)
    if not filled.size:
        return np.zeros(filled.shape[:0:-1])
    median: Array = np.nanmedian(filled, axis=0).T
    return median


__all__ = [
    "ABSENT",
    "TOLERANCE",
    "Frame",
    "HaloRay",
    "Kind",
    "Overlap",
    "Seam",
    "SeamCurve",
    "SeamMeasures",
    "SeamMeter",
    "Spread",
    "check_tolerance",
    "overlap_of",
]
