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
tiles is below `seamscope.seams.comparison.ABSENT`). A class absent everywhere has mismatch 0. Where
only one tile predicts a number that is not finite, the max difference is infinite; means and the
tile mismatch are of the pixels where both are finite (there, a hard one counts 0 for both tiles),
and unknown (NaN) where there are none.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from seamscope.seams.comparison import Compared, Comparison
from seamscope.seams.folding import Ends, Fold
from seamscope.seams.kinds import Classes, Kind, kind_for, kind_of
from seamscope.seams.measures import Array, Frame, HaloRay, Seam, SeamCurve, SeamMeasures
from seamscope.seams.sums import Sums
from seamscope.seams.tolerance import Spread
from seamscope.tiling import AxisTiling, Sides, Slices, Tile, TileGrid

Key: TypeAlias = tuple[Frame, tuple[int, ...], int]
"""An overlap: frame, index of the lower tile, axis."""
Half: TypeAlias = tuple[Key, bool, Array]
"""What one tile predicts in an overlap, and whether it is the lower one."""

_WORST = 512  # seams whose worst pixel is remembered
_EVERY = 4  # pixels along each axis of which one is taken for the output's spread


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
        self._folds: dict[tuple[tuple[int, int, bool, bool], ...], Fold] = {}
        self._most = max(_inputs(n, axis) for n, axis in zip(
            grid.prediction_shape, grid.axes, strict=True
        ))  # fmt: skip
        self._open: dict[Key, tuple[Slices, Array]] = {}
        self._memory: Array = np.empty(0, np.float32)
        self._sums = Sums()
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

    def see(
        self,
        tile: Tile,
        prediction: Array,
        frame: Frame = (),
        among: Container[tuple[int, ...]] | None = None,
    ) -> None:
        """Take the whole prediction ``(C, *spatial)`` of one tile; tiles may come in any order.

        Where not all tiles are to be seen, `among` holds the indices of those that are: of an
        overlap with another one, nothing is kept.
        """
        some = prediction[:, *(slice(None, None, _EVERY),) * len(tile.index)]
        if self.kind == "auto":
            self.guess(kind_of(prediction))
        elif self._guessed and self.kind == "probabilities":
            known = np.nan_to_num(some, posinf=0, neginf=0)
            self.doubtful |= kind_of(known) != "probabilities"
        self.spread.see(some)
        for axis, lower in self._neighbourhoods(tile, among):
            key = (frame, lower, axis)
            waiting = self._open.pop(key, None)
            region = overlap_of(self.grid, lower, axis) if waiting is None else waiting[0]
            own = prediction[:, *tile.within(region)]
            self._take(key, tile.index == lower, own, region, waiting)

    def halves(self, seen: Container[tuple[Frame, tuple[int, ...]]]) -> list[Half]:
        """Return the overlaps of which only one tile was seen.

        Parameters
        ----------
        seen
            Frame and index of the tiles that were.
        """
        return [(key, key[:2] in seen, half) for key, (_, half) in self._open.items()]

    def meet(self, key: Key, of_lower: bool, own: Array) -> None:
        """Take what one of its two tiles predicts in an overlap; compare it with the other's."""
        waiting = self._open.pop(key, None)
        region = overlap_of(self.grid, key[1], key[2]) if waiting is None else waiting[0]
        self._take(key, of_lower, own, region, waiting)

    def _take(
        self,
        key: Key,
        of_lower: bool,
        own: Array,
        region: Slices,
        waiting: tuple[Slices, Array] | None,
    ) -> None:
        if waiting is None:
            self._open[key] = region, own.copy()
        elif of_lower:
            self._compare(key, region, own, waiting[1])
        else:
            self._compare(key, region, waiting[1], own)

    def watch(self, plan: Any, frame: Frame, tile: Tile, prediction: Array) -> None:
        """Watch a tile; `seamscope.prediction.run.run` calls this."""
        self.see(tile, prediction, frame)

    def _neighbourhoods(
        self, tile: Tile, among: Container[tuple[int, ...]] | None
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Seams of a tile: ``(axis, index of the lower of the two tiles that share it)``."""
        for axis, (i, n) in enumerate(zip(tile.index, self.grid.shape, strict=True)):
            for other in (i - 1, i + 1):
                index = (*tile.index[:axis], other, *tile.index[axis + 1 :])
                if 0 <= other < n and (among is None or index in among):
                    yield axis, min(index, tile.index)

    def _compare(self, key: Key, region: Slices, one: Array, two: Array) -> None:
        frame, lower, axis = key
        if 0 in one.shape:
            return  # these tiles only touch
        fold = self._fold(lower, axis, region)
        room = self._room(one.shape) if self._tell is None else None  # the receiver may keep them
        apart, terms, lost = self._comparison.compare(fold, one, two, room)
        self.lost += lost
        at = min(self._at, fold.deepest)
        inside = fold.box(at)
        valid = tuple(
            slice(r.start + v.start, r.start + v.stop) for r, v in zip(region, inside, strict=True)
        )
        compared = Compared(frame, lower, axis, at, lost, terms)
        spot = partial(_worst_pixel, apart[:, *inside], valid)
        if self._record is None:
            self._keep(compared, spot)
        else:
            self._record(compared, spot())
        if self._tell is not None:
            self._tell(Overlap(self.grid, lower, axis, frame, region, valid, apart))

    def _room(self, shape: tuple[int, ...]) -> Array:
        """Memory in which overlaps are compared, one after the other."""
        size = 4 * math.prod(shape)
        if self._memory.size < size:
            self._memory = np.empty(size, np.float32)
        return self._memory[:size].reshape(4, *shape)

    def _fold(self, lower: tuple[int, ...], axis: int, region: Slices) -> Fold:
        """How far each pixel of an overlap is from the inner borders, along each axis."""
        places = []
        for a, (tiling, i, part) in enumerate(zip(self.grid.axes, lower, region, strict=True)):
            beyond = tiling[i].origin + self.grid.prediction_shape[a] - part.stop
            before = i > 0 or a == axis  # the upper tile begins where the overlap does
            places.append((part.stop - part.start, beyond, before, i < len(tiling) - 1))
        key = tuple(places)  # the same for each kind of place in the grid
        if key not in self._folds:
            self._folds[key] = Fold(
                tuple(itertools.starmap(self._ends, enumerate(key))), self._most
            )
        return self._folds[key]

    def _ends(self, axis: int, place: tuple[int, int, bool, bool]) -> Ends:
        length, beyond, before, after = place
        low, high = self._ray.weights[axis]
        return Ends(
            length=length,
            low=low if before and low else None,
            high=high if after and high else None,
            beyond=beyond,
            scale=self.grid.axes[axis].lattice.scale,
        )

    # -- keeping what is measured

    @property
    def _comparison(self) -> Comparison:
        return Comparison(self.kind, self._classes, self._threshold)

    def _keep(self, compared: Compared, spot: Callable[[], tuple[int, ...]]) -> None:
        terms, at = compared.terms, compared.at
        mismatch = terms.mismatch()
        self._sums.add(terms, mismatch, compared.axis, at, self._comparison.absent)
        self._note(compared, mismatch, spot)

    def _note(
        self,
        compared: Compared,
        mismatch: tuple[Array, Array],
        spot: Callable[[], tuple[int, ...]],
    ) -> None:
        """Keep the measures of this seam at the meter's halo."""
        terms, at = compared.terms, compared.at
        soft, hard = mismatch
        largest = float(terms.largest[:, at].max())
        finite = terms.finite[at]
        mean = float(terms.total[:, at].mean() / finite) if finite else math.nan
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


def overlap_of(grid: TileGrid, lower: Sequence[int], axis: int) -> Slices:
    """Part of the result that a tile and its next neighbour along an axis both predict."""
    region = []
    sizes = grid.prediction_shape
    for a, (tiling, i) in enumerate(zip(grid.axes, lower, strict=True)):
        start = tiling[i + 1].origin if a == axis else tiling[i].origin
        stop = min(tiling[i].origin + sizes[a], tiling.output_size)
        region.append(slice(start, max(start, stop)))
    return tuple(region)


def _inputs(pixels: int, axis: AxisTiling) -> int:
    """Input pixels under so many of the output, at least 1."""
    return max(1, math.ceil(pixels / axis.lattice.scale))


def _known(values: Array) -> tuple[float | None, ...]:
    return tuple(float(v) if math.isfinite(v) else None for v in values)


def _worst_pixel(apart: Array, valid: Slices) -> tuple[int, ...]:
    """Output pixel of the max difference."""
    spot = np.unravel_index(int(apart.max(0).argmax()), apart.shape[1:])
    return tuple(int(v.start + s) for v, s in zip(valid, spot, strict=True))


__all__ = ["Half", "Key", "Overlap", "SeamMeter", "overlap_of"]
