"""Carry a plan out with several processes.

Knows which blocks are left, who does them, and what to do when a process or a block fails. Does
not know how blocks are computed, or what dask is.

::

    ledger --blocks left--> orders --pool--> workers: predict, write, mark --> outcomes

A block is done when its mark is there, and only then. A worker that dies loses its block to
another one; a block that fails `tries` times is listed, and the others are finished; a worker that
refuses (another image, network or version; a lost GPU) gets no more work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from seamscope.errors import OutputError, SettingsError
from seamscope.execution.block import (
    Batches,
    BlockRun,
    frame_of,
    look,
    lost_seams,
    place_of,
    seams_of,
)
from seamscope.execution.devices import resources_on
from seamscope.execution.intensities import keep_intensity_on
from seamscope.execution.pool import On, Pool, check_on, open_workers
from seamscope.execution.recipe import Recipe, check_travels
from seamscope.execution.sharing import TRIES, ordering, share_out
from seamscope.execution.worker import NO_MEMORY, Order
from seamscope.images.addresses import is_address
from seamscope.images.image import Image
from seamscope.images.results.create import create_part, open_part
from seamscope.images.results.formats import format_of
from seamscope.images.results.output import Output
from seamscope.ledger import Ledger
from seamscope.models.model import Model
from seamscope.planning.blocks import Blocks
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.tuning import OutOfMemory
from seamscope.prediction.resuming import blocks_of, check_written, forget_changes, threads_of
from seamscope.prediction.run import (
    Attempt,
    Event,
    Finishing,
    Made,
    Started,
    TileDone,
    prepared,
    report,
    run,
)
from seamscope.progress import QUIET, Work
from seamscope.seams.kinds import Kind
from seamscope.seams.meter import SeamMeter
from seamscope.seams.records import SeamRecords, sum_up
from seamscope.seams.report import SeamReport
from seamscope.serialization import plain

# Blocks for each worker, so that all end at about the same time.
_FINE = 8


@dataclasses.dataclass(frozen=True)
class BlockDone(TileDone):
    """A block is written and marked; `done` and `total` count blocks, those of earlier runs too."""

    unit = "blocks"


def check_shared(image: Image, model: Model, target: Any, on: On) -> None:
    """Check whether several processes can write a result, before anything is measured.

    Raises
    ------
    SeamscopeError
        When dask is missing, the result would be in memory or in a file that only one process can
        write, or image or network are in memory.
    """
    check_on(on)
    if on is None:
        return
    if not isinstance(target, str | os.PathLike) or is_address(str(target)):
        raise OutputError(
            "Workers write their blocks to a disk: give the path of a result (.zarr, .ome.zarr)."
        )
    if format_of(Path(target)).resume is None:
        raise OutputError(
            f"{Path(target).name} cannot be written in blocks. Use .ome.zarr, .zarr, .tif or .npy."
        )
    check_travels(image, model)


def is_shared(output: Output) -> bool:
    """Return whether a result was begun by `run_on`, which must then continue it."""
    return output.ledger is not None and "blocks" in output.ledger.task


def events_of(
    case: Case,
    output: Output,
    on: On = None,
    *,
    trust: bool = False,
    work: Work = QUIET,
) -> Generator[Event, None, None]:
    """Carry a plan out where it is wanted: with workers, or in this process.

    What workers began is continued block by block, here too; arguments are those of `run_on`.
    """
    if on is None and not is_shared(output):
        yield from run(case, output, work=work)
    else:
        yield from run_on(case, output, on, trust=trust, work=work)


def run_on(
    case: Case,
    output: Output,
    on: On = None,
    *,
    trust: bool = False,
    work: Work = QUIET,
    tries: int = TRIES,
) -> Generator[Event, None, None]:
    """Carry a plan out with workers; yields events as `seamscope.prediction.run.run`.

    The result is, bit for bit, that of one process with as many threads as each worker has, and
    with the same equivalent of the network. Other threads change the order of sums: the last
    digits may differ.

    Parameters
    ----------
    case
        What is predicted; image and network are files that the workers can read.
    output
        Where the result goes, on a disk that all workers see under the same name.
    on
        Number of processes to start here; address or file of a scheduler of dask, or a client;
        None for this process, to continue what workers began.
    trust
        Whether code that comes with the network's file may run in the workers.
    work
        Asked whether to stop, and given notes.
    tries
        How often a block may fail.

    Raises
    ------
    SeamscopeError
        When blocks failed so often, no worker can do the work, or the disk refuses. What is
        written stays, and can be resumed.
    """
    ledger = output.ledger
    if ledger is None or output.path is None or output.partial is None:
        raise OutputError("Workers write their blocks to a disk: give the path of a result.")
    with open_workers(case.plan.settings.device, on, work) as (pool, threads):
        keep_intensity_on(case, ledger, None if on is None else pool, work)
        with _enough_memory():
            attempt = prepared(case, ledger, work, with_workers=on is not None)
        blocks = _laid(case.plan, output, ledger, _FINE * max(1, len(pool.workers())))
        if on is not None and blocks.repeated > 1.05:
            work.note(
                f"Tiles at the borders of blocks are computed twice: {blocks.repeated:.2g} tiles "
                "for each one of a run in one process."
            )
        with _enough_memory():
            kind = BlockRun(attempt, blocks, output).kind()
        recipe = Recipe.of(case, attempt.way, kind, *_written(case.plan, output, ledger))
        recipe.save(ledger.folder, case.model.statistics)
        direct = recipe.final == os.path.abspath(output.path)
        part = output if direct else _part_of(case.plan, recipe)
        if not direct:
            forget_changes(ledger)  # of a copy that is made again
        unmeasured = lost_seams(ledger, len(case.plan.area)) if kind is not None else frozenset()
        check_written(blocks, ledger, part, work, unmeasured.__contains__)
        if direct:
            for number in sorted(ledger.done):  # by workers: perhaps not in lower resolutions
                output.already(place_of(blocks, number), ledger.doubtful_since)
        with ordering(ledger, pool, threads_of(ledger, threads), trust) as order:
            before = len(ledger.done)
            work.phase("Predicting", BlockDone.unit, before)
            yield Started(case.plan, blocks.per_frame, case.plan.frames, before)
            begin = time.perf_counter()
            with closing(_shared(blocks, ledger, pool, order, work, tries)) as done:
                for block in done:
                    if direct:
                        output.wrote(block.region)
                    work.step(block.done, block.total)
                    yield block
    if not direct:
        _copy(recipe, blocks, output)
    made = Made(
        time.perf_counter() - begin,
        case.plan.tiles * case.plan.frames,
        sum(ledger.done.values()),
        _measured(attempt, blocks, ledger, kind),
    )
    look(attempt, work)
    for event in attempt.conclude(output, made, Finishing(case, work)):
        report(event, output, work)
        yield event


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    """Say in a sentence that memory ran out: other processes have the plan that is begun."""
    try:
        yield
    except (OutOfMemory, MemoryError) as error:
        raise SettingsError(NO_MEMORY) from error


# -- where blocks lie, and where they are written


def _laid(plan: Plan, output: Output, ledger: Ledger, fewest: int) -> Blocks:
    """Return the blocks of a result, laid out for workers unless they were before.

    What one process has finished stays finished, as far as it covers whole blocks.
    """
    if "blocks" in ledger.task:
        return blocks_of(plan, ledger)
    if ledger.done and not output.takes_parts:
        raise OutputError(
            f"{output.path} was begun by one process, and only zarr can be continued by workers. "
            "Continue it without them, or begin again (overwrite)."
        )
    blocks, before = Blocks.apart(plan, fewest), Blocks(plan)
    whole = {block for block, number in ledger.done.items() if number == 0}
    kept = [
        block
        for block in range(len(blocks) if whole else 0)
        if plan.settings.seams == "none"  # the others must be measured, too
        and all(
            old in whole
            for old, _ in before.touching(frame_of(blocks, block), blocks.region(block))
        )
    ]
    ledger.forget()
    ledger.note("blocks", plain(blocks.edges))
    for block in kept:
        ledger.mark(block)
    return blocks


def _written(plan: Plan, output: Output, ledger: Ledger) -> tuple[str, str]:
    """Return where workers write, and the name of what that is."""
    assert output.path is not None
    assert output.partial is not None
    if output.takes_parts:
        return output.partial, output.path
    between = ledger.folder / "blocks.zarr"
    if not between.exists() or not ledger.done:
        shutil.rmtree(between, ignore_errors=True)
        ledger.forget()
        create_part(between, plan.out_shape, plan.out_dtype, plan.out_axes, plan.out_chunks)
    return str(between), between.name


def _part_of(plan: Plan, recipe: Recipe) -> Output:
    """Open what workers write."""
    return open_part(recipe.unfinished, recipe.final, plan.out_shape, plan.out_dtype, plan.out_axes)


def _copy(recipe: Recipe, blocks: Blocks, output: Output) -> None:
    """Copy the workers' zarr into the wanted file, block by block."""
    source = _part_of(blocks.plan, recipe).array
    for block in range(len(blocks)):
        place = place_of(blocks, block)
        output.write(place, source[place])


def _measured(
    attempt: Attempt, blocks: Blocks, ledger: Ledger, kind: Kind | None
) -> SeamReport | None:
    """Sum up what the workers measured of the seams; None where nothing was to be measured."""
    if kind is None:
        return None
    plan = attempt.plan
    meter = SeamMeter.of(plan)
    meter.guess(kind)
    files = (seams_of(ledger.folder, block) for block in range(len(blocks)))
    axes = len(plan.area)
    sum_up(
        meter,
        (SeamRecords.load(file, axes) for file in files),
        Batches(plan).order,
    )
    return SeamReport.of(meter, plan, attempt.model)


# -- who does what


def _shared(
    blocks: Blocks, ledger: Ledger, pool: Pool, order: Order, work: Work, tries: int
) -> Generator[BlockDone, None, None]:
    """Have all blocks done that are not; yields an event for each."""
    begin, total = time.perf_counter(), len(blocks)
    outcomes = share_out(range(total), ledger, pool, order, partial(_where, blocks), work, tries)
    for outcome in outcomes:
        seconds = time.perf_counter() - begin
        yield BlockDone(place_of(blocks, outcome.block), len(ledger.done), total, seconds)


def _where(blocks: Blocks, block: int) -> str:
    plan = blocks.plan
    parts = zip(plan.out_axes, place_of(blocks, block), strict=True)
    return ", ".join(f"{axis} {part.start}:{part.stop}" for axis, part in parts if axis != "c")


__all__ = ["BlockDone", "check_shared", "events_of", "is_shared", "resources_on", "run_on"]
