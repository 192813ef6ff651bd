"""How much the size of the tiles matters to a prediction.

Knows how predictions of one image are compared with each other and with labels. Does not know how
they are made (`seamscope.prediction.run`) or drawn (`seamscope.reports.seam_page`).

`sweep` predicts an image with tiles of several sizes and once untiled, where that fits. A network
whose prediction does not depend on its tile gives the same each time; one that normalizes by its
tile's statistics does not (Buglakova et al. 2025, and the tutorial that follows it).

Measures, for predictions ``P`` and ``Q`` of one channel over the whole image::

    mismatch  1 - Dice        Dice = 2 sum(P Q) / (sum P^2 + sum Q^2)         soft
                              Dice = 2 |P and Q| / (|P| + |Q|) of the classes   hard
    mean, max distance        of |P - Q| over all pixels and channels
    Dice with labels          2 |P and T| / (|P| + |T|)

Classes are those of results that are labels (`seamscope.compare.accuracy`): the largest channel,
or where the only channel is above the threshold, as it is. Soft mismatch of a prediction that
leaves the range of probabilities is that of its softmax, or of the sigmoid of its only channel.
A class absent from both is agreement: mismatch 0; against labels it has no Dice (NaN).

Confidence bands are 95% percentile intervals of a bootstrap over blocks (Efron 1979; Kunsch 1989
for blocks): the image is cut into 8 x 8 (in 3D 4 x 4 x 4) blocks, 1000 images are made by drawing
that many blocks with replacement, and each measure is taken of the drawn blocks' sums together.
All sizes share the same draws. Neighbouring pixels may depend on each other as they like; blocks
are taken for independent, so that bands are too narrow where structures or tiles are larger than
blocks. They say how certain the measure is for images like this one, and nothing about others.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import psutil

from seamscope.bootstrap import bootstrap
from seamscope.compare.accuracy import (
    Classified,
    classified_by,
    labels_for,
    predicted_classes,
)
from seamscope.dice import dice, probabilities, ratio
from seamscope.errors import ImageError, SettingsError
from seamscope.files import temporary_folder
from seamscope.images.ground_truth import Truth
from seamscope.images.image import Image, open_image
from seamscope.images.results.output import Output
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.thumbnails import image_under
from seamscope.prediction.output import open_output
from seamscope.prediction.run import Finished, Reduced, TileDone, run
from seamscope.progress import QUIET, Steps, Work, check
from seamscope.seams.comparison import ABSENT
from seamscope.seams.tolerance import TOLERANCE
from seamscope.serialization import Recorded, record
from seamscope.settings import Settings
from seamscope.text import axes_text, bytes_text
from seamscope.tiling import Slices, per_axis

Array: TypeAlias = npt.NDArray[Any]

_BLOCKS = {1: 64, 2: 8, 3: 4}  # along each axis
_PICTURE = 256  # pixels of the side of what is shown
_AT_ONCE = 1 << 25  # bytes of predictions that are compared at a time
_MEMORY_SHARE = 0.2  # of what is free: predictions beyond it go to disk


# -- in words


@dataclass(frozen=True)
class Estimate(Recorded):
    """Values with a 95% confidence band; all three ``(sizes, channels)``."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Pictures:
    """The same place in all predictions, where they differ most.

    Attributes
    ----------
    channel
        What is shown of the predictions.
    corner
        First pixel shown, along each axis of space of the result; in 3D one slice is shown.
    frame
        Index of the time point and the like.
    image
        ``(Y, X)``.
    predictions
        ``(sizes, Y, X)`` float32.
    truth
        ``(Y, X)`` bool; None without labels for this channel.
    """

    channel: int
    corner: tuple[int, ...]
    frame: tuple[int, ...]
    image: Array
    predictions: Array
    truth: Array | None


@dataclass(frozen=True)
class Sweep:
    """Predictions with tiles of several sizes, compared. ``S`` sizes, ``C`` channels.

    Attributes
    ----------
    tiles
        Shape of the tiles, by size; the last is the whole image where `untiled`.
    untiled
        Whether the last prediction is an untiled one.
    channels
        Names of the predicted channels.
    soft, hard
        ``(S, S, C)`` mismatch between all pairs.
    mean_dist, max_dist
        ``(S, S)`` between all pairs, over all channels.
    to_last
        Soft mismatch to the last prediction, ``(S, C)``: the untiled one, or the largest tiles.
    dice
        ``(S, K)`` with labels, for the classes of `truth`; None without.
    truth
        How labels were read.
    classified
        How predictions were, to hold them against labels.
    pictures
        Where predictions differ most.
    seconds
        Of each prediction.
    tolerance
        Largest difference that floating-point noise explains: 1e-4 of the standard deviation of
        the last prediction.
    settings
        The plan of each prediction, as plain values.
    notes
        Sentences for the user.
    """

    tiles: tuple[tuple[int, ...], ...]
    untiled: bool
    channels: tuple[str, ...]
    soft: Array
    hard: Array
    mean_dist: Array
    max_dist: Array
    to_last: Estimate
    dice: Estimate | None
    truth: Truth | None
    classified: Classified
    pictures: Pictures
    seconds: tuple[float, ...]
    tolerance: float
    settings: tuple[dict[str, Any], ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What to call each prediction."""
        sizes = [axes_text(tile) for tile in self.tiles]
        return (*sizes[:-1], "untiled") if self.untiled else tuple(sizes)

    @property
    def meaning(self) -> str | None:
        """How labels were read, and predictions classified; None without labels."""
        if self.truth is None:
            return None
        return f"{self.truth.meaning} {self.classified.meaning()}"

    def describe(self) -> str:
        """Say in a sentence or two whether, and how much, the size of the tiles matters."""
        largest = float(self.max_dist.max())
        if largest <= self.tolerance:
            return (
                f"The size of the tiles does not matter: predictions differ by {largest:.2g} at "
                f"most, which is floating-point noise (tolerance {self.tolerance:.2g})."
            )
        i, j = (int(k) for k in np.unravel_index(self.max_dist.argmax(), self.max_dist.shape))
        size, channel = np.unravel_index(self.to_last.value.argmax(), self.to_last.value.shape)
        value, low, high = (
            float(v[size, channel])
            for v in (self.to_last.value, self.to_last.low, self.to_last.high)
        )
        text = (
            f"The size of the tiles matters: predictions ({_pair(self.names, i, j)}) differ by up "
            f"to {largest:.2g}. Furthest from {self.names[-1]} is {self.channels[channel]} at "
            f"{self.names[size]}: 1 - Dice {value:.2g} (95%: {low:.2g} to {high:.2g})."
        )
        return f"{text} {self._best()}" if self.dice is not None else text

    def _best(self) -> str:
        assert self.dice is not None
        known = np.isfinite(self.dice.value).all(0)
        if not known.any():
            return "The labels hold none of the classes."
        scores = self.dice.value[:, known].mean(1)
        best, worst = int(scores.argmax()), int(scores.argmin())
        mean = f"Mean Dice with the labels{self.classified.at}"
        if f"{scores[best]:.3f}" == f"{scores[worst]:.3f}":
            return f"{mean} is {scores[best]:.3f} at all sizes."
        return (
            f"{mean} is best at {self.names[best]} ({scores[best]:.3f}) and "
            f"worst at {self.names[worst]} ({scores[worst]:.3f})."
        )

    def to_json(self) -> dict[str, Any]:
        """Return figures and sentences, without pictures and ground truth."""
        return record(
            tiles=self.tiles,
            names=self.names,
            untiled=self.untiled,
            channels=self.channels,
            mismatch=self.soft,
            mismatch_hard=self.hard,
            mean_dist=self.mean_dist,
            max_dist=self.max_dist,
            mismatch_to_last=self.to_last,
            dice=self.dice,
            classes=self.truth and self.truth.names,
            labels=self.meaning,
            threshold=self.truth and self.classified.threshold,
            tolerance=self.tolerance,
            seconds=[round(s, 3) for s in self.seconds],
            explanation=self.describe(),
            plans=self.settings,
            notes=self.notes,
        )


def _pair(names: Sequence[str], i: int, j: int) -> str:
    return f"{names[min(i, j)]} and {names[max(i, j)]}"


# -- the sweep


def sweep(
    image: Any,
    model: Any,
    tiles: Sequence[int | Sequence[int]],
    *,
    labels: Any = None,
    foreground: int | None = None,
    settings: Settings | None = None,
    untiled: bool = True,
    trust: bool = False,
    axes: str | None = None,
    seed: int = 0,
    work: Work = QUIET,
    **asked: Any,
) -> Sweep:
    """Predict an image with tiles of several sizes, and compare the predictions.

    Parameters
    ----------
    image, model, trust, axes
        As for `seamscope.predict`.
    tiles
        Sizes of tiles: numbers, or one number for each axis.
    labels
        Ground truth to compare with (see `seamscope.images.ground_truth.truth_for`); None for none.
    foreground
        Channel that labels of objects are to be compared with, where no name says it.
    settings
        Settings except the tile; single ones may be given by name instead. A halo
        ``"auto"`` is what the smallest tile has room for, and the same for all sizes.
    untiled
        Whether the untiled prediction is added where it fits the memory.
    seed
        Of the bootstrap.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Returns
    -------
    Sweep

    Raises
    ------
    SeamscopeError
        One sentence with the value, the rule and the remedy.
    InterruptedError
        When stopped.

    Notes
    -----
    Predictions are kept in memory where a fifth of what is free holds them all, else in temporary
    files; they are compared block by block.

    Examples
    --------
    >>> import numpy as np, torch
    >>> image = np.random.default_rng(0).random((64, 64))
    >>> found = sweep(image, torch.nn.Identity(), [16, 32])
    >>> found.names, float(found.max_dist.max())
    (('16', '32', 'untiled'), 0.0)
    """
    case = Case.open(image, model, settings, trust=trust, axes=axes, **asked)
    case = case.but(result="probabilities", seams="none", postprocess=False)
    cases, whole, notes = _cases(tiles, case, untiled)
    plans, network = [each.plan for each in cases], case.model
    truth = None if labels is None else labels_for(plans[0], network, labels, foreground)
    comparison = _Comparison(plans, truth)
    case.intensity(work)
    work.phase("Predicting with tiles of all sizes", "tiles and blocks")
    steps = Steps(work, sum(p.tiles * p.frames for p in plans) + comparison.blocks)
    with _Shelf(plans) as shelf:
        seconds = [_predict(each, shelf.output(k, each), steps) for k, each in enumerate(cases)]
        comparison.see(shelf.arrays, steps)
        pictures = comparison.pictures(case.image, shelf.arrays)
    classified = classified_by(plans[0], network, *comparison.range)
    sentences = [*notes, *(classified.notes() if truth else ())]
    return Sweep(
        tiles=tuple(plan.grid.tile_shape for plan in plans),
        untiled=whole,
        channels=network.channels_of(plans[0].facts),
        truth=truth,
        classified=classified,
        pictures=pictures,
        seconds=tuple(seconds),
        settings=tuple(plan.to_json() for plan in plans),
        notes=(*sentences, *dict.fromkeys(note for plan in plans[:-1] for note in plan.notes)),
        **comparison.measures(seed),
    )


def _cases(
    tiles: Sequence[int | Sequence[int]], case: Case, untiled: bool
) -> tuple[list[Case], bool, list[str]]:
    """A case for each size, from small to large; whether the last is untiled; and notes."""
    found: dict[tuple[int, ...], Case] = {}
    sizes: list[Any] = [size if isinstance(size, int) else tuple(size) for size in tiles]
    case = _with_one_halo(case, sizes)
    for tile in sizes:
        each = case.but(tile=tile)
        found.setdefault(each.plan.grid.tile_shape, each)
    cases = sorted(found.values(), key=lambda each: math.prod(each.plan.grid.tile_shape))
    notes = []
    if cases and untiled and len(cases[-1].plan.grid) > 1:
        whole = _untiled(case, cases[-1].plan)
        if isinstance(whole, str):
            notes.append(whole)
        else:
            cases.append(whole)
    if len(cases) < 2:
        raise SettingsError(
            f"Tiles {', '.join(map(str, tiles)) or '(none)'} make {len(cases)} prediction"
            f"{'s' * (len(cases) != 1)} of this image, and a comparison takes two: give several "
            "different sizes below the image's."
        )
    return cases, len(cases[-1].plan.grid) == 1, notes


def _with_one_halo(case: Case, sizes: Sequence[Any]) -> Case:
    """Return the case with the halo of the smallest tile, so that nothing but the size differs."""
    axes = case.model.facts.spatial_axes
    each = [per_axis(size, axes, "tile") for size in sizes]
    if not each:
        return case
    least = tuple(min(along) for along in zip(*each, strict=True))
    return case.but(halo=case.but(tile=least).plan.grid.halo)


def _untiled(case: Case, other: Plan) -> Case | str:
    """The case of one tile that is the whole image, or why there is none."""
    whole = tuple(
        axis.lattice.size_at_least(axis.size + sum(axis.lattice.crop)) for axis in other.grid.axes
    )
    untiled = case.but(tile=whole, overlap=None)
    plan = untiled.plan
    if len(plan.grid) > 1:
        return "The network takes tiles of one size alone: there is no untiled prediction."
    if plan.bytes_per_tile > (plan.settings.memory or 0):
        return (
            f"The untiled prediction needs about {bytes_text(plan.bytes_per_tile)} and "
            f"{bytes_text(plan.settings.memory or 0)} may be used: it is left out, and "
            "predictions are compared with the one of the largest tiles."
        )
    return untiled


class _Shelf:
    """Where predictions are kept until they are compared: in memory, or on disk if large."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        size = sum(math.prod(p.out_shape) * p.out_dtype.itemsize for p in plans)
        self._on_disk = size > _MEMORY_SHARE * psutil.virtual_memory().available
        self._stack = contextlib.ExitStack()
        self._outputs: list[Output] = []

    def __enter__(self) -> _Shelf:
        if self._on_disk:
            self._folder = self._stack.enter_context(temporary_folder())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def output(self, number: int, case: Case) -> Output:
        """Open the place of one prediction."""
        place = self._folder / f"{number}.zarr" if self._on_disk else None
        self._outputs.append(open_output(case, place))
        return self._outputs[-1]

    @property
    def arrays(self) -> list[Any]:
        """All predictions."""
        return [output.array for output in self._outputs]


def _predict(case: Case, output: Output, steps: Steps) -> float:
    """Carry a plan out; returns the seconds it took."""
    plan = case.plan
    events: Any = run(case, output, work=steps)
    with contextlib.closing(events):
        for event in events:
            match event:
                case TileDone():
                    steps.one()
                case Reduced() if event.plan.grid.tile_shape != plan.grid.tile_shape:
                    raise SettingsError(
                        f"Memory ran out with tiles of {axes_text(plan.grid.tile_shape)}: leave "
                        "that size out, or lower the batch."
                    )
                case Finished():
                    return event.seconds
    raise InterruptedError


# -- the comparison


@dataclass
class _Peak:
    """Where predictions differ most, as far as is known."""

    score: float = -1.0
    frame: tuple[int, ...] = ()
    pixel: tuple[int, ...] = ()
    channel: int = 0


class _Comparison:
    """Sums over blocks, of which all measures are made.

    Products of all pairs of predictions in one block are a Gram matrix: its diagonal holds the
    sums of squares, and any Dice is made of three of its entries.
    """

    def __init__(self, plans: Sequence[Plan], truth: Truth | None) -> None:
        plan, sizes = plans[0], len(plans)
        self._plan = plan
        self._names = [axes_text(each.grid.tile_shape) for each in plans]
        self._sizes = sizes
        self._truth = truth
        self._channels = plan.facts.out_channels
        space = plan.out_shape[-len(plan.layout.spatial) :]
        self._units = list(_grid_of_blocks(space, _BLOCKS[len(space)]))
        self._frames = list(np.ndindex(*(b - a for a, b in plan.frame_ranges)))
        self.blocks = len(self._units) * len(self._frames)
        s, c = sizes, self._channels
        self._pixels = np.zeros(self.blocks)
        self._gram = np.zeros((self.blocks, c, s, s))
        self._hard = np.zeros((self.blocks, c, s, s))
        self._total = np.zeros((s, s))
        self._largest = np.zeros((s, s))
        self.range = (math.inf, -math.inf)  # of all predictions
        self._moments = np.zeros(3)  # of the last prediction: count, sum, sum of squares
        classes = len(truth.channels) if truth else 0
        self._right = np.zeros((self.blocks, s, classes))
        self._truths = np.zeros((self.blocks, classes))
        self._peak = _Peak()

    def see(self, arrays: Sequence[Any], steps: Steps) -> None:
        """Compare all predictions."""
        logits = _are_logits(arrays[-1])
        at_once = max(1024, _AT_ONCE // (8 * self._sizes * self._channels))
        jobs = itertools.product(self._frames, self._units)
        for unit, (frame, block) in enumerate(jobs):
            check(steps)
            for region in _slabs(block, at_once):
                self._add(unit, frame, region, self._stack(arrays, frame, region), logits)
            steps.one()

    def _stack(self, arrays: Sequence[Any], frame: tuple[int, ...], region: Slices) -> Array:
        """All predictions of a region, ``(S, C, pixels)``, as precise as they are."""
        channels = (slice(None),) * (self._channels > 1)
        values = [np.asarray(array[(*frame, *channels, *region)]) for array in arrays]
        for name, each in zip(self._names, values, strict=True):
            if not np.isfinite(each).all():
                raise ImageError(
                    f"The prediction with tiles of {name} is not finite (NaN or infinity), and "
                    "such numbers cannot be compared: check the image for such pixels, its "
                    "intensities, and the network."
                )
        return np.stack(values).reshape(self._sizes, self._channels, -1)

    def _add(
        self, unit: int, frame: tuple[int, ...], region: Slices, predicted: Array, logits: bool
    ) -> None:
        classes = self._classes(predicted)  # before they are made more precise than results are
        values = predicted.astype(np.float64)
        shares = probabilities(values, axis=1) if logits else values
        low, high = self.range
        self.range = min(low, float(values.min())), max(high, float(values.max()))
        self._pixels[unit] += values.shape[-1]
        self._gram[unit] += _gram(shares)
        self._hard[unit] += _gram(classes)
        for i in range(self._sizes - 1):
            apart = np.abs(values[i + 1 :] - values[i])
            self._total[i, i + 1 :] += apart.sum((1, 2))
            self._largest[i, i + 1 :] = np.maximum(self._largest[i, i + 1 :], apart.max((1, 2)))
        last = values[-1]
        self._moments += (last.size, last.sum(), np.vdot(last, last))
        if self._truth is not None:
            self._add_truth(unit, frame, region, classes)
        self._look(frame, region, np.ptp(values, axis=0))

    def _classes(self, predicted: Array) -> Array:
        """Which pixels belong to which channel, 0 or 1, ``(S, C, pixels)`` float64."""
        channels, threshold = range(self._channels), self._plan.settings.threshold
        classes = [predicted_classes(one, channels, threshold) for one in predicted]
        return np.stack(classes).astype(np.float64)

    def _add_truth(self, unit: int, frame: tuple[int, ...], region: Slices, classes: Array) -> None:
        assert self._truth is not None
        true = self._true(frame, region).reshape(len(self._truth.channels), -1)
        chosen = classes[:, list(self._truth.channels)]
        self._right[unit] += np.einsum("skn,kn->sk", chosen, true.astype(np.float64))
        self._truths[unit] += true.sum(1)

    def _true(self, frame: tuple[int, ...], region: Slices) -> Array:
        assert self._truth is not None
        indices = dict(zip(self._plan.layout.frames, self._absolute(frame), strict=True))
        return self._truth.read(self._in_whole(region), indices)

    def _in_whole(self, region: Slices) -> Slices:
        """Where a region of the wanted area is in the whole result."""
        return tuple(
            slice(part.start + area.start, part.stop + area.start)
            for part, area in zip(region, self._plan.area, strict=True)
        )

    def _absolute(self, frame: tuple[int, ...]) -> tuple[int, ...]:
        """Index of the image along each iterated axis."""
        return tuple(
            i + start for i, (start, _) in zip(frame, self._plan.frame_ranges, strict=True)
        )

    def _look(self, frame: tuple[int, ...], region: Slices, spread: Array) -> None:
        """Remember the place where predictions differ most."""
        scores = spread.mean(1)
        channel = int(scores.argmax())
        if scores[channel] > self._peak.score:
            shape = tuple(part.stop - part.start for part in region)
            inside = np.unravel_index(int(spread[channel].argmax()), shape)
            pixel = tuple(part.start + int(i) for part, i in zip(region, inside, strict=True))
            self._peak = _Peak(float(scores[channel]), frame, pixel, channel)

    # -- what comes out

    def measures(self, seed: int) -> dict[str, Any]:
        """All numbers of a `Sweep`."""
        count = max(self._pixels.sum() * self._channels, 1)
        chosen = [] if self._truth is None else list(self._truth.channels)
        n, total, squares = self._moments
        spread = math.sqrt(max(0.0, squares / n - (total / n) ** 2)) if n else 0.0
        own = np.diagonal(self._gram, axis1=-2, axis2=-1)
        to_last = np.stack([self._gram[..., -1], own, own[..., -1:] + 0 * own], -1)
        return {
            "soft": _all_pairs(self._gram.sum(0), 2 * ABSENT**2 * self._pixels.sum()),
            "hard": _all_pairs(self._hard.sum(0), 0.5),
            "mean_dist": _both_ways(self._total / count),
            "max_dist": _both_ways(self._largest),
            "tolerance": TOLERANCE * spread,
            "to_last": self._estimate(to_last.transpose(0, 2, 1, 3), self._mismatch, seed),
            "dice": self._dice(chosen, seed) if self._truth is not None else None,
        }

    def _mismatch(self, sums: Array) -> Array:
        """``1 - Dice`` of sums (..., product, squares of one, squares of the other)."""
        product, one, two = np.moveaxis(sums, -1, 0)
        # drawn images have about as many pixels as the image
        absent = 2 * ABSENT**2 * self._pixels.sum()
        return _mismatch(product, one + two, absent)

    def _dice(self, chosen: list[int], seed: int) -> Estimate:
        predicted = np.diagonal(self._hard, axis1=-2, axis2=-1)[:, chosen].transpose(0, 2, 1)
        true = np.broadcast_to(self._truths[:, None], predicted.shape)
        return self._estimate(np.stack([self._right, predicted, true], -1), _dice, seed)

    def _estimate(self, terms: Array, statistic: Callable[[Array], Array], seed: int) -> Estimate:
        low, high = bootstrap(len(terms), _of_sums(terms, statistic), seed=seed)
        return Estimate(statistic(terms.sum(0)), low, high)

    def pictures(self, image: Image, arrays: Sequence[Any]) -> Pictures:
        """Cut out what differs most."""
        plan, peak = self._plan, self._peak
        space = plan.out_shape[-len(plan.layout.spatial) :]
        window = tuple(
            _window(center, size, 1 if axis == "z" else _PICTURE)
            for center, size, axis in zip(peak.pixel, space, plan.layout.spatial, strict=True)
        )
        whole = self._in_whole(window)
        channels = (peak.channel,) * (self._channels > 1)
        flat = tuple(part.stop - part.start for part in window)[-2:]
        shown = [np.asarray(a[(*peak.frame, *channels, *window)]).reshape(flat) for a in arrays]
        truth = None
        if self._truth is not None and peak.channel in self._truth.channels:
            which = self._truth.channels.index(peak.channel)
            truth = self._true(peak.frame, window)[which].reshape(flat)
        return Pictures(
            channel=peak.channel,
            corner=tuple(part.start for part in window),
            frame=peak.frame,
            image=image_under(plan, image, whole, self._absolute(peak.frame)).reshape(flat),
            predictions=np.stack(shown),
            truth=truth,
        )


def _grid_of_blocks(shape: Sequence[int], pieces: int) -> Iterator[Slices]:
    """Blocks that cover a shape, at most so many along each axis, as equal as can be."""
    edges = [np.linspace(0, n, min(pieces, n) + 1).astype(int).tolist() for n in shape]
    sides = [list(itertools.pairwise(each)) for each in edges]
    return (tuple(slice(a, b) for a, b in block) for block in itertools.product(*sides))


def _slabs(block: Slices, at_most: int) -> Iterator[Slices]:
    """Cut a block along its first axis into slabs of at most so many pixels."""
    first, *rest = block
    thick = max(1, at_most // math.prod(part.stop - part.start for part in rest))
    for start in range(first.start, first.stop, thick):
        yield slice(start, min(start + thick, first.stop)), *rest


def _window(center: int, size: int, width: int) -> slice:
    width = min(width, size)
    start = min(max(center - width // 2, 0), size - width)
    return slice(start, start + width)


def _are_logits(array: Any) -> bool:
    """Whether a prediction leaves the range of probabilities."""
    for index in open_image(array).blocks():
        values = np.asarray(array[index])
        if values.min() < -1e-3 or values.max() > 1.001:
            return True
    return False


def _gram(values: Array) -> Array:
    """Sums over pixels of products of all pairs ``(S, C, pixels)``: ``(C, S, S)``."""
    by_channel = values.transpose(1, 0, 2)
    return np.asarray(by_channel @ by_channel.transpose(0, 2, 1))


def _mismatch(product: Array, squares: Array, absent: float) -> Array:
    """``1 - Dice``; 0 where a class is in neither prediction."""
    return np.maximum(ratio(squares - 2 * product, squares, least=absent, absent=0.0), 0)


def _of_sums(terms: Array, statistic: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Make a statistic of the sums of ``(blocks, ...)`` one of how often each block is drawn."""
    return lambda times: statistic(np.tensordot(times.astype(np.float64), terms, 1))


def _dice(sums: Array) -> Array:
    """Dice of sums (..., pixels right, predicted, true); NaN where there are neither."""
    right, predicted, true = np.moveaxis(sums, -1, 0)
    return dice(right, predicted + true)


def _all_pairs(gram: Array, absent: float) -> Array:
    """Mismatch ``(S, S, C)`` of Gram matrices ``(C, S, S)``."""
    own = np.diagonal(gram, axis1=-2, axis2=-1)
    pairs = _mismatch(gram, own[:, :, None] + own[:, None, :], absent)
    return pairs.transpose(1, 2, 0)


def _both_ways(upper: Array) -> Array:
    whole: Array = upper + upper.T
    return whole


__all__ = ["Estimate", "Pictures", "Sweep", "sweep"]
