"""How a prediction is held against labels: which pixels it says belong to each class.

Knows how a prediction is classified, and what is to be said about that. Does not know how labels
are read (`seamscope.images.ground_truth`) or what is counted.

Whatever compares with labels classifies as ``seamscope predict --result labels`` does, so that
its Dice is that of the labels a user would get.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.errors import SettingsError
from seamscope.images.ground_truth import Mask, Truth, truth_for
from seamscope.models.model import Model
from seamscope.planning.plan import Plan
from seamscope.prediction.class_labels import class_numbers
from seamscope.settings import Settings
from seamscope.text import axes_text

Array = npt.NDArray[Any]

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


__all__ = ["Classified", "classified_by", "labels_for", "predicted_classes"]
