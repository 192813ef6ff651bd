"""Measure seams stretch by stretch: here or with workers, and resumed after a stop.

Knows which tiles a stretch has, and how the measures of all are put together. Does not know how
disagreement is counted (see `seamscope.seams.meter`).

A stretch is some tiles that follow each other in a run. Overlaps within it are measured where it is
predicted; of those with other stretches it keeps the half that it predicts. All stretches are then
gone through in their order, and halves that belong together are compared. So each tile is predicted
once, and the measures are those of one process to the last bit::

    tiles in the order of a run    0 1 2 | 3 4 5 | 6 7 8
                                   stretch 0 keeps its half of the overlaps with 3, 4 and 5
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from seamscope.errors import OutputError, SettingsError
from seamscope.execution.block import (
    Batches,
    first_kind,
    look,
    lost_seams,
    open_attempt,
    seams_of,
)
from seamscope.execution.intensities import keep_intensity_on
from seamscope.execution.pool import On, Pool, check_on, open_workers
from seamscope.execution.recipe import Recipe, check_travels
from seamscope.execution.sharing import ordering, share_out
from seamscope.execution.worker import NO_MEMORY, Order
from seamscope.files import temporary_folder
from seamscope.ledger import Ledger, claimed
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.reading import TileJob
from seamscope.planning.tuning import OutOfMemory, TileRefusedError, smaller
from seamscope.prediction.resuming import (
    about_lost,
    same_threads,
    task_of,
    task_with,
    threads_of,
)
from seamscope.prediction.run import (
    Attempt,
    Event,
    Finished,
    Finishing,
    Made,
    measured_tiles,
    prepared,
    report,
)
from seamscope.prediction.stitcher import find_not_finite
from seamscope.prediction.tile_predictions import predict_batches
from seamscope.progress import QUIET, Steps, Work, check
from seamscope.seams.comparison import Compared
from seamscope.seams.kinds import Classes, Kind, kind_for
from seamscope.seams.meter import SeamMeter
from seamscope.seams.records import SeamRecords, sum_up
from seamscope.seams.report import SeamReport
from seamscope.seams.tolerance import Spread
from seamscope.serialization import plain, restore
from seamscope.stitching import Array
from seamscope.tiling import Tile

# Stretches are as long as this many of them need, but not longer than some tiles, and long enough
# that few marks suffice.
_FEW, _TILES, _MOST = 32, 16, 2000
_PHASE = "Measuring seams"


@dataclass(frozen=True)
class Measuring:
    """What is compared, and how.

    Attributes
    ----------
    kind, classes
        As for `seamscope.seams.meter.SeamMeter`.
    """

    kind: Kind | Literal["auto"] = "auto"
    classes: Classes | None = None

    def meter(
        self, plan: Plan, record: Callable[[Compared, tuple[int, ...]], None] | None = None
    ) -> SeamMeter:
        """Return a meter for a plan; `record` as for `SeamMeter`."""
        return SeamMeter(
            plan.grid,
            kind=kind_for(plan.facts) if self.kind == "auto" else self.kind,
            classes=self.classes,
            threshold=plan.settings.threshold,
            record=record,
        )


@dataclass(frozen=True)
class Stretches:
    """The tiles of a run, cut into stretches of whole batches.

    Attributes
    ----------
    plan
        Of the run.
    """

    plan: Plan

    @property
    def tiles(self) -> int:
        """How many tiles all have together."""
        return self.plan.tiles * self.plan.frames

    @property
    def _length(self) -> int:
        batch = self.plan.settings.batch
        fine = min(_TILES, -(-self.tiles // _FEW))
        return -(-max(fine, -(-self.tiles // _MOST)) // batch) * batch

    def __len__(self) -> int:
        return -(-self.tiles // self._length)

    def numbers(self, stretch: int) -> range:
        """Return the numbers of a stretch's tiles in the run."""
        return range(stretch * self._length, min((stretch + 1) * self._length, self.tiles))


class StretchRun:
    """A run of which stretches are measured one by one; `Blockwise`.

    Parameters
    ----------
    attempt
        Plan, network and reader.
    measuring
        How.
    kind
        What is predicted.
    folder
        Where measures are kept.
    """

    def __init__(
        self, attempt: Attempt, measuring: Measuring, kind: Kind | None, folder: Path
    ) -> None:
        self._attempt, self._folder = attempt, folder
        self._measuring, self._kind = measuring, kind
        self._measured = measured_tiles(attempt.plan)
        self._batches = Batches(attempt.plan)
        self._stretches = Stretches(attempt.plan)

    @property
    def device(self) -> str:
        """Device that the network runs on."""
        return str(self._attempt.runner.device)

    def carry_out(
        self, stretch: int, check: Callable[[], None], seen: Callable[[], None] = lambda: None
    ) -> int:
        """Measure a stretch and keep its measures; `seen` is called after each tile.

        Returns
        -------
        int
            Pixels that are not finite.
        """
        plan, records, bad = self._attempt.plan, SeamRecords(), 0
        meter = self._measuring.meter(
            plan, lambda compared, worst: records.overlaps.append((compared, worst))
        )
        if self._kind is not None:
            meter.guess(self._kind)
        for frame, tile, prediction in self._predicted(stretch, check):
            if tile.index in self._measured:
                meter.spread, meter.doubtful = Spread(), False
                meter.see(tile, prediction, frame, self._measured)
                records.tiles.append((frame, tile.index, meter.spread, meter.doubtful))
            found = find_not_finite(prediction[(slice(None), *tile.within(tile.core))])
            bad += 0 if found is None else int(found.sum())
            seen()
        records.halves = meter.halves({(frame, index) for frame, index, *_ in records.tiles})
        check()
        # an empty one takes the place of what an earlier plan measured, too
        records.save(seams_of(self._folder, stretch))
        return bad

    def _predicted(
        self, stretch: int, check: Callable[[], None]
    ) -> Iterator[tuple[tuple[int, ...], Tile, Array]]:
        numbers, size = self._stretches.numbers(stretch), self._attempt.plan.settings.batch

        def batches() -> Iterator[list[TileJob]]:
            for first in range(numbers.start, numbers.stop, size):
                check()
                last = min(first + size, numbers.stop)
                yield [self._batches.job(number) for number in range(first, last)]

        predictions = predict_batches(
            self._attempt.plan,
            self._attempt.runner,
            self._attempt.reader,
            batches(),
            whole=lambda tile: tile.index in self._measured,
        )
        with closing(predictions):
            yield from predictions


def open_measuring(ledger: Ledger, order: Order) -> StretchRun:
    """Open a run in a worker (see `seamscope.execution.worker.Order`)."""
    recipe = Recipe.load(ledger.folder)
    measuring = restore(Measuring, ledger.task["measuring"])
    attempt = open_attempt(recipe, ledger, order)
    return StretchRun(attempt, measuring, recipe.kind, ledger.folder)  # type: ignore[arg-type]


def measure_on(
    case: Case,
    measuring: Measuring,
    folder: Path | None,
    on: On = None,
    *,
    trust: bool = False,
    resume: bool = False,
    work: Work = QUIET,
) -> Finished:
    """Measure seams stretch by stretch.

    Parameters
    ----------
    case
        What is predicted; for workers, image and network are files.
    measuring
        What is compared.
    folder
        Where measures are kept until the end, on a disk that all workers see; None for a temporary
        one.
    on, trust
        As for `seamscope.execution.run.run_on`; None for this process.
    resume
        Continue what an interrupted run of the same kind left in the folder.
    work
        Shows progress, and stops when asked to.

    Raises
    ------
    SeamscopeError
        When stretches failed, no worker can do the work, or the folder is of other work or used by
        another process.
    InterruptedError
        When stopped; what is measured stays in the folder.
    """
    check_on(on)
    if on is not None:
        check_travels(case.image, case.model)
    with contextlib.ExitStack() as stack:
        temporary = folder is None
        own = stack.enter_context(temporary_folder()) / "seams" if folder is None else folder
        stack.enter_context(claimed(own))
        case, ledger = _begun(case, measuring, own, resume and not temporary)
        stack.enter_context(ledger.unless_refused())
        pool: _Workers | None = None
        if on is not None:
            pool = stack.enter_context(open_workers(case.plan.settings.device, on, work))
        keep_intensity_on(case, ledger, pool and pool[0], work)
        refusable = (case.asked or case.settings).tile == "auto"
        while True:
            try:
                return _measured(stack, case, measuring, ledger, pool, trust, work)
            except TileRefusedError as trouble:
                if on is not None or not refusable:
                    raise
                case, reason = smaller(case, trouble)
            except (OutOfMemory, MemoryError) as trouble:
                if on is not None or not isinstance(trouble, OutOfMemory):
                    raise SettingsError(NO_MEMORY) from trouble
                case, reason = smaller(case, trouble)
            ledger.forget()
            ledger.note("plan", plain(case.plan))
            work.note(reason)


_Workers: TypeAlias = tuple[Pool, int]


def _measured(
    stack: contextlib.ExitStack,
    case: Case,
    measuring: Measuring,
    ledger: Ledger,
    pool: _Workers | None,
    trust: bool,
    work: Work,
) -> Finished:
    """Measure what is left, and sum up."""
    attempt = prepared(case, ledger, work, with_workers=pool is not None)
    resumed = bool(ledger.done)
    if lost := lost_seams(ledger, len(case.plan.area)):
        ledger.unmark(lost)
        work.note(about_lost(len(lost)))
    kind = first_kind(attempt, measuring.meter(case.plan))
    begin = time.perf_counter()
    stretches = Stretches(case.plan)
    steps = Steps(work, stretches.tiles)
    steps.done = sum(len(stretches.numbers(stretch)) for stretch in ledger.done)
    if pool is None:
        stack.enter_context(same_threads(ledger))
        work.phase(_PHASE, "tiles", steps.done)
        here = StretchRun(attempt, measuring, kind, ledger.folder)
        for stretch in range(len(stretches)):
            if stretch not in ledger.done:
                ledger.mark(stretch, here.carry_out(stretch, lambda: check(work), steps.one))
    else:
        _share(case, attempt, kind, ledger, pool, trust, stretches, steps, work)
    made = Made(
        time.perf_counter() - begin,
        stretches.tiles,
        sum(ledger.done.values()),
        _summed(attempt, measuring, kind, ledger, len(stretches)),
    )
    if resumed or pool is not None:  # this process has read only some of the image
        look(attempt, work)
    last: Event | None = None
    for last in attempt.conclude(None, made, Finishing(case, work)):
        report(last, None, work)
    assert isinstance(last, Finished)
    return last


def task_of_measures(case: Case, measuring: Measuring) -> dict[str, Any]:
    """Describe measures, so that other work is noticed; the plan is not needed."""
    more = {"measuring": plain(measuring), "measured overlaps": case.settings.seams}
    return task_of(dataclasses.replace(case, settings=case.asked or case.settings)) | more


def _begun(case: Case, measuring: Measuring, folder: Path, resume: bool) -> tuple[Case, Ledger]:
    """Return the marks of the same work, with its plan; else empty ones."""
    task = task_of_measures(case, measuring)
    if folder.exists() and resume:
        ledger = Ledger(folder)
        ledger.check(task, folder.name)
        return case.at(restore(Plan, ledger.task["plan"])), ledger
    if folder.exists():
        raise OutputError(
            f"{folder} exists: an interrupted run left it. Continue that (resume), or begin again "
            "(overwrite)."
        )
    return case, Ledger.begin(folder, task_with(task, case.plan))


def _share(
    case: Case,
    attempt: Attempt,
    kind: Kind | None,
    ledger: Ledger,
    workers: _Workers,
    trust: bool,
    stretches: Stretches,
    steps: Steps,
    work: Work,
) -> None:
    """Have workers measure what is left."""
    Recipe.of(case, attempt.way, kind, "", "").save(ledger.folder, case.model.statistics)
    pool, threads = workers
    opens = f"{__name__}:open_measuring"
    with ordering(ledger, pool, threads_of(ledger, threads), trust, opens) as order:
        work.phase(_PHASE, "tiles", steps.done)
        blocks = range(len(stretches))
        with closing(share_out(blocks, ledger, pool, order, _where, work)) as outcomes:
            for outcome in outcomes:
                steps.several(len(stretches.numbers(outcome.block)))


def _where(stretch: int) -> str:
    return f"stretch {stretch} of the tiles"


def _summed(
    attempt: Attempt, measuring: Measuring, kind: Kind | None, ledger: Ledger, stretches: int
) -> SeamReport | None:
    """Sum up the measures of all stretches, in their order; None where nothing was measured."""
    if kind is None:
        return None
    plan, joined = attempt.plan, SeamRecords()
    meter = measuring.meter(plan)
    meter.guess(kind)
    joint = measuring.meter(plan, lambda compared, worst: joined.overlaps.append((compared, worst)))
    joint.guess(kind)
    order = Batches(plan).order
    for stretch in range(stretches):
        records = SeamRecords.load(seams_of(ledger.folder, stretch), len(plan.area))
        joined.overlaps = records.overlaps
        for key, of_lower, half in records.halves:
            joint.meet(key, of_lower, half)
        sum_up(meter, [dataclasses.replace(records, overlaps=joined.overlaps)], order)
    return SeamReport.of(meter, plan, attempt.model)


__all__ = ["Measuring", "On", "Stretches", "measure_on", "open_measuring", "task_of_measures"]
