"""What the dock *Normalization* does in the worker's thread.

Knows the engine's questions about normalization, and a `Reporter`. Does not know Qt.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from seamscope.compare.before_after import compare_statistics
from seamscope.compare.blends import BlendComparison, compare_blends
from seamscope.docks.job import Reporter, Step
from seamscope.docks.tasks import held
from seamscope.explain.feature_statistics import (
    BatchExperiment,
    FeatureStatistics,
    PixelFeatures,
    batch_experiment,
    features_of_pixel,
    measure_features,
)
from seamscope.explain.train_eval import Disparity, has_running_statistics, measure_disparity
from seamscope.fixed_statistics.freeze_plan import FreezePlan, plan_freeze
from seamscope.fixed_statistics.freezing import carry_out, freeze_statistics
from seamscope.images.image import Image
from seamscope.models.model import Model
from seamscope.normalization.audit import Audit
from seamscope.normalization.statistics import How, Statistics
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.prediction.run import Preparing
from seamscope.settings import Settings
from seamscope.tiling import Tile

_MAP_SHARE = 0.1  # of the free memory, that a map pixel by pixel may take


class Progress:
    """Tells steps, and how long they will take at the pace so far."""

    def __init__(self, reporter: Reporter, what: str) -> None:
        self._reporter, self._what = reporter, what
        self._begin: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        """Take the progress of the engine."""
        now = time.monotonic()
        if self._begin is None:
            self._begin = now, done  # the first one includes what is done once
        begin, first = self._begin
        left = (now - begin) / (done - first) * (total - done) if done > first else None
        self._reporter.tell(Step(done, total, self._what, left))


class Phases:
    """Tells steps of a job that has several phases."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._progress = Progress(reporter, "tiles")

    def begin(self, what: str) -> None:
        """Take the name of a phase that begins."""
        self._reporter.tell(Preparing(what[:1].lower() + what[1:]))
        self._progress = Progress(self._reporter, f"tiles ({what[:1].lower() + what[1:]})")

    def __call__(self, done: int, total: int) -> None:
        """Take the steps of the engine."""
        self._progress(done, total)


@dataclass(frozen=True)
class InTurn:
    """A question that uses the network: when its turn has come, and until it is cancelled.

    Parameters
    ----------
    turn
        Held meanwhile.
    question
        Given the reporter; returns the answer.
    """

    turn: threading.Lock
    question: Callable[[Reporter], Any]

    def __call__(self, reporter: Reporter) -> Any:
        """Return the answer; None where it was stopped."""
        with held(self.turn, reporter) as mine, contextlib.suppress(InterruptedError):
            if mine:
                return self.question(reporter)
        return None


# -- the network


@dataclass(frozen=True)
class AuditIt:
    """Find the layers that normalize, and what else sees the whole tile."""

    model: Model

    def __call__(self, reporter: Reporter) -> Audit:
        """Return the audit, which stays with the model."""
        return self.model.audit


# -- fixing statistics


@dataclass(frozen=True)
class FreezeAsked:
    """What the controls ask for.

    Attributes
    ----------
    model, image
        The network as it was loaded; what statistics are found on.
    how
        Which statistics.
    settings
        Of the tiles to visit.
    cell
        Pixels, for local ones.
    tiles
        How many, for sampled ones.
    """

    model: Model
    image: Image
    how: How
    settings: Settings
    cell: int
    tiles: int


@dataclass(frozen=True)
class Foresee:
    """Find out what fixing statistics will cost."""

    asked: FreezeAsked

    def __call__(self, reporter: Reporter) -> FreezePlan:
        """Return the plan."""
        own = self.asked
        case = Case.open(own.image, own.model, own.settings)
        return plan_freeze(case, own.how, cell=own.cell, tiles=own.tiles)


@dataclass(frozen=True)
class Freeze:
    """Find statistics, and make the network that uses them.

    Parameters
    ----------
    asked
        What was asked for.
    plan
        Made of it.
    partial
        File for what is found on the way; an interrupted search goes on from there.
    """

    asked: FreezeAsked
    plan: FreezePlan
    partial: Path

    def __call__(self, reporter: Reporter) -> Model:
        """Return the network with fixed statistics."""
        model = self.asked.model
        what = "windows" if self.asked.how == "local" else "tiles and layers"
        progress = Progress(reporter, what)
        case = Case.open(self.asked.image, model, self.asked.settings)
        found = carry_out(case, self.plan, self.partial, reporter.cancelled, progress)
        return model.with_statistics(found)


@dataclass(frozen=True)
class TakeOver:
    """Read statistics from a file, and make the network that uses them."""

    path: Path
    model: Model

    def __call__(self, reporter: Reporter) -> Model:
        """Return the network with fixed statistics; refuses those of another one."""
        return self.model.with_statistics(Statistics.load(self.path))


# -- what it did, and what there was to do


@dataclass(frozen=True)
class Compare:
    """Predict with each tile's own statistics and with fixed ones."""

    model: Model
    statistics: Statistics
    image: Image
    settings: Settings
    labels: Any = None

    def __call__(self, reporter: Reporter) -> Any:
        """Return a `BeforeAfter`."""
        phases = Phases(reporter)
        return compare_statistics(
            self.image,
            self.model,
            self.statistics,
            self.settings,
            labels=self.labels,
            cancelled=reporter.cancelled,
            on_progress=phases,
            on_phase=phases.begin,
        )


@dataclass(frozen=True)
class Features:
    """Measure the features of tiles, against the whole image's where that needs measuring.

    Parameters
    ----------
    model, image, settings
        What about; each tile by itself.
    statistics
        Exact ones of this image, if already known.
    most
        Tiles to look at.
    """

    model: Model
    image: Image
    settings: Settings
    statistics: Statistics | None
    most: int

    def __call__(self, reporter: Reporter) -> tuple[FeatureStatistics, BatchExperiment]:
        """Return features, and how many tiles stand for the image."""
        exact = self.statistics or self._exact(reporter)
        found = measure_features(
            self.image,
            self.model,
            self.settings,
            statistics=exact,
            most=self.most,
            cancelled=reporter.cancelled,
            on_progress=Progress(reporter, "tiles"),
        )
        return found, batch_experiment(found)

    def _exact(self, reporter: Reporter) -> Statistics | None:
        if not self.model.audit.calls:
            return None
        reporter.tell(Preparing("finding the whole image's statistics"))
        return freeze_statistics(
            self.image,
            self.model,
            "exact",
            self.settings.but(tile="auto", halo="auto", overlap=None),
            cancelled=reporter.cancelled,
            on_progress=Progress(reporter, "tiles and layers of the whole image"),
        )


@dataclass(frozen=True)
class FeaturesOfPixel:
    """Look at one pixel of the image through several tiles."""

    model: Model
    image: Image
    settings: Settings
    point: tuple[int, ...]
    layer: int

    def __call__(self, reporter: Reporter) -> tuple[PixelFeatures, ...]:
        """Return what each tile makes of it, of this one pixel of the features."""
        return features_of_pixel(
            self.image, self.model, self.point, self.layer, self.settings, patch=1
        )


@dataclass(eq=False)
class DifferenceMap:
    """Where predictions in training and in evaluation differ, pixel by pixel.

    Attributes
    ----------
    plan
        Of the tiles; None as long as nothing was seen.
    values
        ``(*frames, *area)`` float32, the largest ``abs(P_train - P_eval)`` of all channels.
    """

    plan: Plan
    values: npt.NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        frames = tuple(stop - start for start, stop in self.plan.frame_ranges)
        area = tuple(part.stop - part.start for part in self.plan.area)
        self.values = np.full((*frames, *area), np.nan, np.float32)

    @staticmethod
    def fits(plan: Plan) -> bool:
        """Whether there is room for it."""
        pixels = math.prod(part.stop - part.start for part in plan.area) * plan.frames
        return 4 * pixels <= psutil.virtual_memory().available * _MAP_SHARE

    def see(self, frame: tuple[int, ...], tile: Tile, train: Any, evaluation: Any) -> None:
        """Take one tile's core (see `seamscope.explain.train_eval.measure_disparity`)."""
        place = tuple(
            f - start for f, (start, _) in zip(frame, self.plan.frame_ranges, strict=True)
        )
        wanted, own = [], []
        for core, part in zip(tile.core, self.plan.area, strict=True):
            low, high = max(core.start, part.start), min(core.stop, part.stop)
            wanted.append(slice(low - part.start, high - part.start))
            own.append(slice(low - core.start, high - core.start))
        apart = np.abs(train - evaluation).max(0)
        region: Any = (*place, *wanted)
        self.values[region] = apart[tuple(own)]


@dataclass(frozen=True)
class Train:
    """Predict as in training and as in evaluation."""

    model: Model
    image: Image
    settings: Settings

    def __call__(self, reporter: Reporter) -> tuple[Disparity, DifferenceMap | None] | None:
        """Return the disparity, with a map of it; None for a network that trains as it predicts."""
        from seamscope.explain.feature_statistics import tile_case

        if not has_running_statistics(self.model.audit):
            return None
        plan = tile_case(Case.open(self.image, self.model, self.settings)).plan
        shown = DifferenceMap(plan) if DifferenceMap.fits(plan) else None
        found = measure_disparity(
            self.image,
            self.model,
            self.settings,
            see=None if shown is None else shown.see,
            cancelled=reporter.cancelled,
            on_progress=Progress(reporter, "tiles"),
        )
        return None if found is None else (found, shown)


# -- what remains


@dataclass(frozen=True)
class CompareBlends:
    """Stitch the same predictions in all ways of blending."""

    model: Model
    image: Image
    settings: Settings

    def __call__(self, reporter: Reporter) -> BlendComparison:
        """Return all ways, judged."""
        return compare_blends(
            self.image,
            self.model,
            self.settings,
            cancelled=reporter.cancelled,
            on_progress=Progress(reporter, "tiles and stitched results"),
        )
