"""What a fix did: seams, their causes, and Dice where truth is known, before and after.

Knows what is compared, and what to conclude. Does not know how seams are measured or explained, or
labels read.

Seamless is not the same as accurate: a network that was trained with the statistics of small
patches may predict better with those of single tiles than with those of the whole image. So where
labels are given, both are held against them, and the conclusion says which one is closer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.compare.accuracy import (
    Classified,
    classified_by,
    labels_for,
    predicted_classes,
)
from seamscope.dice import dice
from seamscope.explain.causes import diagnose
from seamscope.explain.findings import Diagnosis
from seamscope.images.ground_truth import Truth
from seamscope.models.model import Model
from seamscope.normalization.statistics import Statistics
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.prediction.measure_seams import measure_seams
from seamscope.progress import QUIET, Work
from seamscope.seams.report import SeamReport
from seamscope.serialization import record
from seamscope.settings import Settings
from seamscope.text import percent_text
from seamscope.tiling import Slices, Tile

Array = npt.NDArray[Any]

# Mean Dice that differs by less is called the same.
SAME_DICE = 0.005


@dataclass(frozen=True)
class BeforeAfter:
    """Seams and accuracy before a fix, and after it.

    Attributes
    ----------
    before, after
        Of the same image; at the same tiles where only the statistics differ.
    how
        How statistics were fixed; empty where the fix was another one.
    classes
        Of the ground truth; empty without labels.
    dice_before, dice_after
        For each class, of the classified predictions over all cores.
    meaning
        How labels were read, and predictions classified.
    classified
        How predictions were; None without labels.
    why_before, why_after
        What the seams are made of, examined where they are worst; None if they were not explained.
    """

    before: SeamReport
    after: SeamReport
    how: str
    classes: tuple[str, ...] = ()
    dice_before: tuple[float, ...] = ()
    dice_after: tuple[float, ...] = ()
    meaning: str = ""
    classified: Classified | None = None
    why_before: Diagnosis | None = None
    why_after: Diagnosis | None = None

    @property
    def gain(self) -> float | None:
        """Mean Dice that was gained; None without labels."""
        if not self.classes:
            return None
        return float(np.mean(self.dice_after) - np.mean(self.dice_before))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what may surprise in Dice."""
        return tuple(self.classified.notes()) if self.classified else ()

    def sentences(self) -> tuple[str, ...]:
        """Say what changed, in a few sentences."""
        said = [_said(self.before, "before"), _said(self.after, "after")]
        if self.why_before is not None and self.why_after is not None:
            said.append(
                f"Explained before by {causes_text(self.why_before)}; after: "
                f"{causes_text(self.why_after)}."
            )
        if self.gain is not None:
            dice = f"{np.mean(self.dice_before):.3f} before, {np.mean(self.dice_after):.3f} after"
            if self.classified and self.classified.at:
                dice += f",{self.classified.at}"
            if abs(self.gain) < SAME_DICE:
                said.append(f"As accurate as before (mean Dice {dice}).")
            elif self.gain > 0:
                said.append(f"More accurate than before (mean Dice {dice}).")
            else:
                remedy = (
                    " Compare the other ways of freezing, or keep single tiles as large as memory "
                    "allows."
                )
                seamless = "seamless, but " if self.after.seamless else ""
                said.append(
                    f"Less accurate than before (mean Dice {dice}): {seamless}farther from these "
                    f"labels.{remedy if self.how else ''}"
                )
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain values."""
        return record(
            how=self.how,
            before=self.before,
            after=self.after,
            classes=self.classes,
            dice_before=self.dice_before,
            dice_after=self.dice_after,
            labels=self.meaning,
            threshold=self.classified and self.classified.threshold,
            notes=self.notes,
            why_before=self.why_before,
            why_after=self.why_after,
            sentences=self.sentences(),
        )


def _said(report: SeamReport, when: str) -> str:
    """The sentence of a report, and when: "Seams before: …"."""
    word, colon, rest = report.sentence().partition(": ")
    if colon and " " not in word:
        return f"{word} {when}: {rest}"
    return f"{when.capitalize()}: {report.sentence()}"


def causes_text(diagnosis: Diagnosis) -> str:
    """Name the causes that act, with their shares, largest first; the verdict where none does."""
    acting = [
        f"{one.cause} {percent_text(one.share)}" for one in diagnosis.findings if one.share >= 0.005
    ]
    return ", ".join(acting) or diagnosis.verdict


def compare_statistics(
    image: Any,
    model: Model,
    statistics: Statistics,
    settings: Settings | None = None,
    *,
    labels: Any = None,
    explain: bool = True,
    axes: str | None = None,
    work: Work = QUIET,
    **asked: Any,
) -> BeforeAfter:
    """Predict an image with per-tile statistics and with fixed ones, and compare.

    Costs two predictions of the image. To explain costs those of a sample more, of 16 tiles or a
    few large ones: once or twice where tiles agree, up to 11 times where several causes act.

    Parameters
    ----------
    image, settings, axes, asked
        As for `seamscope.predict`; a tile too small for the network's reach is given the halo that
        it has room for.
    model
        Without statistics.
    statistics
        Of this network.
    labels
        Ground truth, as for `seamscope.images.ground_truth.truth_for`.
    explain
        Whether to find the causes too, where seams are worst.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Raises
    ------
    InterruptedError
        When stopped.
    """
    case = Case.open(image, model, settings, axes=axes, **asked)
    bench = _Bench(labels, explain, work)
    before = bench.side(case, "before")
    # at the very same tiles, even if they were chosen for the first
    same = case.but(before.report.plan.settings)
    after = bench.side(same.of(case.model.with_statistics(statistics)), "after")
    truth, classified = before.counter.truth, _classified(before, after, model)
    return BeforeAfter(
        before.report,
        after.report,
        statistics.how,
        truth.names if truth else (),
        before.counter.dice(),
        after.counter.dice(),
        f"{truth.meaning} {classified.meaning()}" if truth and classified else "",
        classified,
        before.why,
        after.why,
    )


def _classified(before: _Side, after: _Side, model: Model) -> Classified | None:
    """How both sides were classified; None without labels."""
    if before.counter.truth is None:
        return None
    plan = before.report.plan
    low = min(side.counter.low for side in (before, after))
    high = max(side.counter.high for side in (before, after))
    return dataclasses.replace(classified_by(plan, model, low, high), cores_only=plan.blends)


@dataclass(frozen=True)
class _Side:
    """What is known of one of the two networks."""

    report: SeamReport
    counter: _DiceCounter
    why: Diagnosis | None


@dataclass(frozen=True)
class _Bench:
    """What to measure of an image's seams, and where to report progress."""

    labels: Any
    explain: bool
    work: Work

    def side(self, case: Case, when: str) -> _Side:
        counter = _DiceCounter(self.labels)
        report = measure_seams(
            case,
            watchers=[counter.watching(case.model)] if self.labels is not None else [],
            work=_Named(self.work, when),
        )
        return _Side(report, counter, self._why(case, report, when) if self.explain else None)

    def _why(self, case: Case, report: SeamReport, when: str) -> Diagnosis:
        return diagnose(
            case.but(report.plan.settings),
            worst=report.seams,
            work=_Named(self.work, when),
        )


class _Named:
    """Work whose phases say which of the two sides they belong to."""

    def __init__(self, work: Work, when: str) -> None:
        self.step, self.note, self.warn, self.stopped = (
            work.step, work.note, work.warn, work.stopped
        )  # fmt: skip
        self._work, self._when = work, when

    def phase(self, what: str, steps: str = "", before: int = 0) -> None:
        self._work.phase(f"{what} {self._when}", steps, before)


def _wanted(tile: Tile, area: Slices) -> tuple[Slices, Slices]:
    """The part of a tile's core that is in the area: in the result, and in the core."""
    region = tuple(
        slice(max(core.start, part.start), max(core.start, part.start, min(core.stop, part.stop)))
        for core, part in zip(tile.core, area, strict=True)
    )
    inside = tuple(
        slice(part.start - core.start, part.stop - core.start)
        for part, core in zip(region, tile.core, strict=True)
    )
    return region, inside


class _DiceCounter:
    """Watches predictions, and counts where their classes are those of the ground truth."""

    def __init__(self, labels: Any) -> None:
        self._labels = labels
        self._plan: Plan | None = None
        self.truth: Truth | None = None
        self._sums: Array = np.zeros((2, 0))
        self.low, self.high = math.inf, -math.inf  # of what was predicted

    def watching(self, model: Model) -> Callable[[Plan, tuple[int, ...], Tile, Array], None]:
        def watch(plan: Plan, frame: tuple[int, ...], tile: Tile, prediction: Array) -> None:
            if self._plan is not plan:  # memory may have run out, and all begins again
                self._begin(plan, model)
            self._count(plan, frame, tile, prediction)

        return watch

    def _begin(self, plan: Plan, model: Model) -> None:
        self._plan = plan
        self.truth = labels_for(plan, model, self._labels)
        self._sums = np.zeros((2, len(self.truth.names)))
        self.low, self.high = math.inf, -math.inf

    def _count(self, plan: Plan, frame: tuple[int, ...], tile: Tile, prediction: Array) -> None:
        assert self.truth is not None
        region, inside = _wanted(tile, plan.area)
        own = prediction[:, *tile.crop][:, *inside]
        if not own.size:
            return
        found = predicted_classes(own, self.truth.channels, plan.settings.threshold)
        places = dict(zip(plan.layout.frames, frame, strict=True))
        true = self.truth.read(region, places)
        space = tuple(range(1, own.ndim))
        self._sums[0] += (found & true).sum(space)
        self._sums[1] += found.sum(space) + true.sum(space)
        self.low, self.high = min(self.low, float(own.min())), max(self.high, float(own.max()))

    def dice(self) -> tuple[float, ...]:
        return tuple(map(float, dice(*self._sums, absent=1.0)))
