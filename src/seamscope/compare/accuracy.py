"""How a prediction is held against labels: which pixels it says belong to each class.

Knows how a prediction is classified, and what is to be said about that. Does not know how labels
are read (`seamscope.images.ground_truth`) or what is counted.

Whatever compares with labels classifies as ``seamscope predict --result labels`` does, so that
its Dice is that of the labels a user would get.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.dice import dice
from seamscope.errors import SettingsError
from seamscope.images.ground_truth import Mask, Truth, truth_for
from seamscope.models.model import Model
from seamscope.planning.plan import Plan
from seamscope.prediction.class_labels import class_numbers, label_numbers
from seamscope.progress import QUIET, Work, check
from seamscope.settings import Settings
from seamscope.text import axes_text

Array = npt.NDArray[Any]

_BAND_BYTES = 1 << 24  # of a result that is compared at once
_SLACK = 1e-3  # by which probabilities may leave their range


def labels_for(plan: Plan, model: Model, labels: Any, foreground: int | None = None) -> Truth:
    """Match labels with what a plan predicts.

    Parameters
    ----------
    plan, model
        What is predicted.
    labels, foreground
        As for `seamscope.images.ground_truth.truth_for`.

    Raises
    ------
    SettingsError, ImageError
        When they do not match, in channels or in size.
    """
    names = model.channels_of(plan.facts)
    truth = truth_for(labels, plan.layout.spatial, names, foreground=foreground)
    expected = plan.grid.output_shape
    if truth.shape != expected:
        raise SettingsError(
            f"The labels {truth.labels.name} are {axes_text(truth.shape)} pixels and the "
            f"prediction is {axes_text(expected)}: give labels of the same image at the same size."
        )
    return truth


def predicted_classes(prediction: Array, channels: Sequence[int], threshold: float) -> Mask:
    """Which pixels are classified as each of some channels, as results that are labels have it.

    Parameters
    ----------
    prediction
        ``(C, *spatial)``, in the precision in which it was predicted.
    channels
        The chosen ones.
    threshold
        For a single channel.

    Returns
    -------
    numpy.ndarray
        ``(len(channels), *spatial)``, bool.

    Examples
    --------
    >>> import numpy as np
    >>> predicted_classes(np.array([[1.0, 2.0], [3.0, 0.0]]), (0, 1), 0.5).tolist()
    [[False, True], [True, False]]
    >>> predicted_classes(np.array([[0.4, 1.2]]), (0,), 0.5).tolist()
    [[False, True]]
    """
    numbers = class_numbers(prediction, threshold)
    single = len(prediction) == 1  # which is class 1, and background 0
    return np.stack([numbers == (1 if single else channel) for channel in channels])


def dice_of_result(
    plan: Plan, model: Model, result: Any, labels: Any, *, work: Work = QUIET
) -> tuple[Truth, tuple[float, ...]]:
    """Compare a result with ground truth, band by band.

    Parameters
    ----------
    plan, model
        What was predicted.
    result
        In the order of ``plan.out_axes``; probabilities, or labels.
    labels
        Ground truth, as for `seamscope.images.ground_truth.truth_for`.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Returns
    -------
    truth, dice
        The classes, and Dice of each, over all pixels of the result.

    Raises
    ------
    SettingsError, ImageError
        When labels and result do not match.
    InterruptedError
        When stopped.
    """
    truth = labels_for(plan, model, labels)
    numbers = label_numbers(max(plan.facts.out_channels, 2), plan.settings.background)
    labelled, several = plan.settings.result == "labels", "c" in plan.out_axes
    sums = np.zeros((2, len(truth.names)))
    frames = list(itertools.product(*(range(*part) for part in plan.frame_ranges)))
    rows = _bands(plan)
    work.phase("Comparing with the labels", "bands")
    for done, (frame, band) in enumerate(itertools.product(frames, rows), start=1):
        check(work)
        place = tuple(i - part[0] for i, part in zip(frame, plan.frame_ranges, strict=True))
        own = np.asarray(result[(*place, *(slice(None),) * several, band)])
        if labelled:
            single = plan.facts.out_channels == 1  # which is class 1, and background 0
            found = np.stack([own == numbers[1 if single else c] for c in truth.channels])
        else:
            values = own if several else own[None]
            found = predicted_classes(values, truth.channels, plan.settings.threshold)
        first = plan.area[0].start
        region = (slice(first + band.start, first + band.stop), *plan.area[1:])
        true = truth.read(region, dict(zip(plan.layout.frames, frame, strict=True)))
        space = tuple(range(1, found.ndim))
        sums[0] += (found & true).sum(space)
        sums[1] += found.sum(space) + true.sum(space)
        work.step(done, len(frames) * len(rows))
    return truth, tuple(map(float, dice(*sums, absent=1.0)))


def _bands(plan: Plan) -> list[slice]:
    """Parts of the first axis of space, each of a few megabytes."""
    lengths = [part.stop - part.start for part in plan.area]
    row = 4 * plan.facts.out_channels * math.prod(lengths[1:])
    height = max(1, _BAND_BYTES // max(row, 1))
    return [slice(y, min(y + height, lengths[0])) for y in range(0, lengths[0], height)]


@dataclass(frozen=True)
class Classified:
    """How predictions were classified to hold them against labels.

    Attributes
    ----------
    threshold
        Above which a pixel is in the class of the only channel; None where the largest of several
        channels is taken.
    low, high
        Range of what was predicted.
    before_postprocessing
        Whether the model's card names a postprocessing, which comes later.
    cores_only
        Whether tiles would be blended, and were taken without.
    """

    threshold: float | None
    low: float
    high: float
    before_postprocessing: bool = False
    cores_only: bool = False

    @property
    def at(self) -> str:
        """Words to put behind a Dice; none where there is no threshold."""
        return "" if self.threshold is None else f" at threshold {self.threshold:g}"

    def meaning(self) -> str:
        """Say in a sentence what was done."""
        if self.threshold is None:
            return "A pixel is predicted as the class of its largest channel."
        return f"A pixel is predicted as this class where the output is above {self.threshold:g}."

    def notes(self) -> Iterator[str]:
        """Tell what may surprise."""
        by_default = self.threshold == Settings.threshold
        if by_default and (self.low < -_SLACK or self.high > 1 + _SLACK):
            yield (
                f"The output ranges from {self.low:.3g} to {self.high:.3g}, which are no "
                f"probabilities: the threshold {self.threshold:g} may not suit this network, and "
                "labels and Dice depend on it."
            )
        if self.before_postprocessing:
            yield "Dice is that of what the network gives, before its card's postprocessing."
        if self.cores_only:
            yield "Dice is that of each tile's own part, without the blending of overlaps."


def classified_by(plan: Plan, model: Model, low: float, high: float) -> Classified:
    """Describe how predictions of a range are classified under a plan."""
    single = plan.facts.out_channels == 1
    threshold = plan.settings.threshold if single else None
    return Classified(threshold, low, high, model.postprocessing is not None)


__all__ = ["Classified", "classified_by", "dice_of_result", "labels_for", "predicted_classes"]
