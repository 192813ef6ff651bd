"""What fixing statistics did: seams before and after, and Dice where truth is known.

Knows what is compared, and what to conclude. Does not know how seams are measured or labels read.

Seamless is not the same as accurate: a network that was trained with the statistics of small
patches may predict better with those of single tiles than with those of the whole image. So where
labels are given, both are held against them, and the conclusion says which one is closer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.diagnosis.feature_statistics import opened_as
from seamscope.diagnosis.measure import measure_seams
from seamscope.images.image import Image
from seamscope.images.truth import Truth, truth_for
from seamscope.inference import Event, TileDone
from seamscope.models.model import Model
from seamscope.normalization.statistics import Statistics
from seamscope.planning.plan import Plan, Settings
from seamscope.planning.reading import Cancelled
from seamscope.seams.report import SeamReport
from seamscope.tiling import Tile

Array = npt.NDArray[Any]

# Mean Dice that differs by less is called the same.
_SAME_DICE = 0.005


@dataclass(frozen=True)
class BeforeAfter:
    """Seams and accuracy with each tile's own statistics, and with fixed ones.

    Attributes
    ----------
    before, after
        Measured at the same tiles.
    how
        Of the statistics.
    classes
        Of the truth; empty without labels.
    dice_before, dice_after
        For each class, of the classified predictions over all cores.
    meaning
        How labels were read.
    """

    before: SeamReport
    after: SeamReport
    how: str
    classes: tuple[str, ...] = ()
    dice_before: tuple[float, ...] = ()
    dice_after: tuple[float, ...] = ()
    meaning: str = ""

    @property
    def gain(self) -> float | None:
        """Mean Dice that was gained; None without labels."""
        if not self.classes:
            return None
        return float(np.mean(self.dice_after) - np.mean(self.dice_before))

    def sentences(self) -> tuple[str, ...]:
        """Say what changed, in a few sentences."""
        said = [f"Before: {self.before.sentence()}", f"After: {self.after.sentence()}"]
        if self.gain is not None:
            numbers = (
                f"{np.mean(self.dice_before):.3f} before, {np.mean(self.dice_after):.3f} after"
            )
            if abs(self.gain) < _SAME_DICE:
                said.append(f"As accurate as before (mean Dice {numbers}).")
            elif self.gain > 0:
                said.append(f"More accurate than before (mean Dice {numbers}).")
            else:
                said.append(
                    f"Less accurate than before (mean Dice {numbers}): seamless, but farther from "
                    "these labels. Compare the other ways of freezing, or keep single tiles as "
                    "large as memory allows."
                )
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain values."""
        return {
            "how": self.how,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "classes": list(self.classes),
            "dice_before": list(self.dice_before),
            "dice_after": list(self.dice_after),
            "labels": self.meaning,
            "sentences": list(self.sentences()),
        }


def compare_statistics(
    image: Any,
    model: Model,
    statistics: Statistics,
    settings: Settings | None = None,
    *,
    labels: Any = None,
    axes: str | None = None,
    cancelled: Cancelled | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **asked: Any,
) -> BeforeAfter:
    """Predict an image with each tile's own statistics and with fixed ones, and compare.

    Parameters
    ----------
    image, settings, axes, asked
        As for `seamscope.predict`.
    model
        Without statistics.
    statistics
        Of this network.
    labels
        Truth, as for `seamscope.images.truth.truth_for`.
    cancelled
        Asked before each forward pass.
    on_progress
        Told tiles done and to do, over both predictions.

    Raises
    ------
    InterruptedError
        When cancelled.
    """
    opened = opened_as(image, axes)
    wanted = (settings or Settings()).but(**asked)
    counters = [_DiceCounter(opened, labels), _DiceCounter(opened, labels)]
    reports = []
    for number, network in enumerate((model, model.with_statistics(statistics))):
        counter = counters[number]
        reports.append(
            measure_seams(
                opened,
                network,
                wanted,
                watchers=[counter.watching(network)] if labels is not None else [],
                on_event=_telling(on_progress, number),
                cancelled=cancelled,
            )
        )
    before, after = counters
    classes = before.truth.names if before.truth else ()
    meaning = before.truth.meaning if before.truth else ""
    one, other = reports
    return BeforeAfter(one, other, statistics.how, classes, before.dice(), after.dice(), meaning)


def _telling(
    on_progress: Callable[[int, int], None] | None, number: int
) -> Callable[[Event], None]:
    def tell(event: Event) -> None:
        if on_progress is not None and isinstance(event, TileDone):
            on_progress(event.done + number * event.total, 2 * event.total)

    return tell


class _DiceCounter:
    """Watches predictions, and counts where their classes are those of the truth."""

    def __init__(self, image: Image, labels: Any) -> None:
        self._image = image
        self._labels = labels
        self.truth: Truth | None = None
        self._sums: Array = np.zeros((2, 0))

    def watching(self, model: Model) -> Callable[[Plan, tuple[int, ...], Tile, Array], None]:
        def watch(plan: Plan, frame: tuple[int, ...], tile: Tile, prediction: Array) -> None:
            if self.truth is None:
                names = model.channels_of(plan.facts)
                self.truth = truth_for(self._labels, plan.layout.spatial, names)
                self._sums = np.zeros((2, len(self.truth.names)))
            self._count(plan, self.truth, frame, tile, prediction)

        return watch

    def _count(
        self, plan: Plan, truth: Truth, frame: tuple[int, ...], tile: Tile, prediction: Array
    ) -> None:
        own = prediction[:, *tile.crop]
        if len(own) == 1:
            found = own > plan.settings.threshold
        else:
            classes = own.argmax(0)
            found = np.stack([classes == k for k in truth.channels])
        places = dict(zip(plan.layout.frames, frame, strict=True))
        true = truth.read(tile.core, places)
        space = tuple(range(1, own.ndim))
        self._sums[0] += (found & true).sum(space)
        self._sums[1] += found.sum(space) + true.sum(space)

    def dice(self) -> tuple[float, ...]:
        both, either = self._sums
        return tuple(float(2 * b / e) if e else 1.0 for b, e in zip(both, either, strict=True))
