"""Several predictions of one image, compared pair by pair and with labels.

Knows sums over blocks, of which all measures of `seamscope.compare.tile_sizes` are made, and where
predictions differ most. Does not know how the predictions were made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.bootstrap import bootstrap
from seamscope.compare.accuracy import predicted_classes
from seamscope.dice import dice, probabilities, ratio
from seamscope.errors import ImageError
from seamscope.images.ground_truth import Truth
from seamscope.images.image import Image, open_image
from seamscope.planning.plan import Plan
from seamscope.planning.thumbnails import image_under
from seamscope.progress import Steps, check
from seamscope.seams.comparison import ABSENT
from seamscope.seams.tolerance import TOLERANCE, Spread
from seamscope.serialization import Recorded
from seamscope.text import axes_text
from seamscope.tiling import Slices, window_around

Array: TypeAlias = npt.NDArray[Any]

_BLOCKS = {1: 64, 2: 8, 3: 4}  # along each axis
_PICTURE = 256  # pixels of the side of what is shown
_AT_ONCE = 1 << 25  # bytes of predictions that are compared at a time


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


@dataclass
class _Peak:
    """Where predictions differ most, as far as is known."""

    score: float = -1.0
    frame: tuple[int, ...] = ()
    pixel: tuple[int, ...] = ()
    channel: int = 0


class Comparison:
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
        self._last = Spread()
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
        self._last.see(values[-1])
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
        own = np.diagonal(self._gram, axis1=-2, axis2=-1)
        to_last = np.stack([self._gram[..., -1], own, own[..., -1:] + 0 * own], -1)
        return {
            "soft": _all_pairs(self._gram.sum(0), 2 * ABSENT**2 * self._pixels.sum()),
            "hard": _all_pairs(self._hard.sum(0), 0.5),
            "mean_dist": _both_ways(self._total / count),
            "max_dist": _both_ways(self._largest),
            "tolerance": TOLERANCE * self._last.std,
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
            window_around(center, size, 1 if axis == "z" else _PICTURE)
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


__all__ = ["Comparison", "Estimate", "Pictures"]
