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

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.compare.accuracy import (
    Classified,
    classified_by,
    labels_for,
)
from seamscope.compare.pairwise import Comparison, Estimate, Pictures
from seamscope.errors import SettingsError
from seamscope.images.ground_truth import Truth
from seamscope.images.scratch import scratch
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.prediction.output import open_output
from seamscope.prediction.run import completed_as_planned
from seamscope.progress import QUIET, Steps, Work
from seamscope.serialization import record
from seamscope.settings import Settings
from seamscope.text import axes_text, bytes_text, shape_text
from seamscope.tiling import per_axis

Array: TypeAlias = npt.NDArray[Any]


# -- in words


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
    Predictions are kept in memory, large ones in temporary files; they are compared block by block.

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
    comparison = Comparison(plans, truth)
    case.intensity(work)
    work.phase("Predicting with tiles of all sizes", "tiles and blocks")
    steps = Steps(work, sum(p.tiles * p.frames for p in plans) + comparison.blocks)
    shape = (len(plans), *plans[0].out_shape)
    arrays = list(scratch(shape, plans[0].out_dtype, f"Keeping {len(plans)} predictions"))
    seconds = [
        completed_as_planned(each, open_output(each, array), steps).seconds
        for each, array in zip(cases, arrays, strict=True)
    ]
    comparison.see(arrays, steps)
    pictures = comparison.pictures(case.image, arrays)
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
        notes=(*sentences, *_notes_of(plans)),
        **comparison.measures(seed),
    )


_ONE_TILE = re.compile(r"`tile=(\([^`]+)`")  # of several axes, which is one size of several


def _notes_of(plans: Sequence[Plan]) -> Iterator[str]:
    """Yield what is to be said of the plans, with the tiles that it is said of."""
    for note in dict.fromkeys(note for plan in plans for note in plan.notes):
        sizes = [shape_text(plan.grid.tile_shape) for plan in plans if note in plan.notes]
        alike = len(sizes) >= sum(len(plan.grid) > 1 for plan in plans)
        which = "" if alike else f"Tiles of {', '.join(sizes)}: "
        yield which + _ONE_TILE.sub(r"`tiles=[\1]`", note).replace("`tile=", "`tiles=")


def _cases(
    tiles: Sequence[int | Sequence[int]], case: Case, untiled: bool
) -> tuple[list[Case], bool, list[str]]:
    """A case for each size, from small to large; whether the last is untiled; and notes."""
    found: dict[tuple[int, ...], Case] = {}
    notes: list[str] = []
    sizes: list[Any] = [size if isinstance(size, int) else tuple(size) for size in tiles]
    case = _with_one_halo(case, sizes)
    for tile in sizes:
        each = case.but(tile=tile)
        shape = each.plan.grid.tile_shape
        if shape in found:
            own = axes_text(per_axis(tile, len(shape), "tile"))
            notes.append(
                f"Tile {own} is left out: on this image it is {axes_text(shape)}, as another size."
            )
        found.setdefault(shape, each)
    cases = sorted(found.values(), key=lambda each: math.prod(each.plan.grid.tile_shape))
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
    if not all(axis.lattice.covers(axis.size) for axis in other.grid.axes):
        return (
            f"The network takes no tile larger than {shape_text(whole)}: there is no untiled "
            "prediction."
        )
    untiled = case.but(tile=whole, overlap=None)
    plan = untiled.plan
    if plan.bytes_per_tile > (plan.settings.memory or 0):
        return (
            f"The untiled prediction needs about {bytes_text(plan.bytes_per_tile)} and "
            f"{bytes_text(plan.settings.memory or 0)} may be used: it is left out, and "
            "predictions are compared with the one of the largest tiles."
        )
    return untiled


__all__ = ["Sweep", "sweep"]
