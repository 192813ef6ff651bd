"""Share blocks out to workers, few at a time, until all are done or have failed too often.

Knows orders and their outcomes. Does not know what a block is, or what dask is.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from seamscope.errors import OutputError, SettingsError
from seamscope.execution.pool import NO_WORKER, PATIENCE, Pool
from seamscope.execution.worker import Order, Outcome
from seamscope.files import disk_errors
from seamscope.ledger import Ledger
from seamscope.progress import QUIET, Work

# Tasks under way for each worker: one is done, one waits.
_AHEAD = 2
# Seconds that a task should last, and blocks that it has at most: a task costs about 5 ms.
_TASK_SECONDS = 0.25
_AT_ONCE = 64
# Blocks over which the time that one takes is averaged.
_STEADY = 4
TRIES = 3
# Blocks that fail one after another before any succeeds, until the run is given up.
_HOPELESS = 8
_LISTED = 5


@contextlib.contextmanager
def ordering(
    ledger: Ledger,
    pool: Pool,
    threads: int,
    trust: bool,
    opens: str = Order.opens,
) -> Iterator[Order]:
    """Give a new run the right to write, and yield what is ordered of every block of it.

    At the end no run has the right, and what is under way is called off.

    Parameters
    ----------
    ledger
        Of the work, on a disk that all workers see.
    pool
        Who does it.
    threads, trust, opens
        As in `Order`.

    Raises
    ------
    OutputError
        When the disk refuses.
    """
    run = ledger.begin_run()
    try:
        yield Order(str(ledger.folder.absolute()), run, 0, threads, trust, opens=opens)
    finally:
        ledger.end_run()
        pool.stop()


def share_out(
    blocks: range,
    ledger: Ledger,
    pool: Pool,
    order: Order,
    where: Callable[[int], str],
    work: Work = QUIET,
    tries: int = TRIES,
    home: Callable[[int], str | None] | None = None,
) -> Generator[Outcome, None, None]:
    """Have all blocks done that are not marked; yields what became of each that is done.

    Parameters
    ----------
    blocks
        Their numbers.
    ledger
        Has their marks; what is done now is added to `Ledger.done`.
    pool
        Who does them.
    order
        Of any block.
    where
        Says where a block lies, for messages.
    work
        Asked whether to stop.
    tries
        How often a block may fail.
    home
        Says which worker does a block, as long as it is there; None for any.

    Raises
    ------
    SeamscopeError
        When blocks failed so often, no worker can do the work, or the disk refuses.
    InterruptedError
        When stopped.
    """

    def current() -> bool:
        with disk_errors(ledger.folder, "What was written so far is kept."):
            return ledger.is_current(order.run)

    sharing = Sharing(pool, work, tries, current, home, ledger.marked)
    todo = (block for block in blocks if block not in ledger.done)
    for outcome in sharing.share(dataclasses.replace(order, block=block) for block in todo):
        ledger.done[outcome.block] = outcome.not_finite
        yield outcome
    failed = [
        {"block": block, "where": where(block), "reason": reason}
        for block, reason in sorted(sharing.failed.items())
    ]
    if failed or ledger.task.get("failed"):
        ledger.note("failed", failed)
    if failed:
        raise OutputError(_about_failures(failed, len(blocks)))
    marked = Ledger(ledger.folder).done
    missing = sum(block not in marked for block in blocks)
    if missing:
        raise OutputError(
            f"{missing} of {len(blocks)} blocks are done, but their marks are not in "
            f"{ledger.folder}. Check that all workers write to the same disk, and resume "
            "(`resume=True`)."
        )


def _about_failures(failed: list[dict[str, Any]], total: int) -> str:
    listed = "; ".join(f"{each['where']} ({each['reason']})" for each in failed[:_LISTED])
    more = f"; and {len(failed) - _LISTED} more" if len(failed) > _LISTED else ""
    return (
        f"{len(failed)} of {total} blocks failed, all others are done: {listed}{more}. The result "
        "is unfinished. The same run with `resume=True` tries them again."
    )


class Sharing:
    """Shares orders out to a pool, few at a time.

    Parameters
    ----------
    pool
        Who does them.
    work
        Asked whether to stop.
    tries
        How often an order may fail.
    current
        Whether the run still has the right to write, asked when a worker says that it has not.
    home
        Says which worker does a block, as long as it is there; None for any.
    marked
        The number in the mark of a block; None where it has none. A worker that dies may have
        marked what it could not report.

    Attributes
    ----------
    failed
        Why, for each block that failed so often.
    """

    def __init__(
        self,
        pool: Pool,
        work: Work = QUIET,
        tries: int = TRIES,
        current: Callable[[], bool] = lambda: False,
        home: Callable[[int], str | None] | None = None,
        marked: Callable[[int], int | None] = lambda block: None,
    ) -> None:
        self._pool = pool
        self._home = home
        self._held: dict[str, collections.deque[Order]] = {}
        self._current = current
        self._work = work
        self._tries = tries
        self._again: collections.deque[Order] = collections.deque()
        self._marked = marked
        self._under_way: dict[int, tuple[str, Order, int]] = {}
        self._tasks = 0
        self._pace = _TASK_SECONDS  # seconds that a block takes
        self._refused: dict[str, str] = {}
        self._failures: collections.Counter[int] = collections.Counter()
        self._successes = 0
        self._seen = time.monotonic()
        self.failed: dict[int, str] = {}

    def share(self, orders: Iterable[Order]) -> Iterator[Outcome]:
        """Yield the outcome of each order that is done, in no certain order.

        Raises
        ------
        InterruptedError
            When stopped.
        SeamscopeError
            When no worker can do the work, or the disk refuses.
        """
        left = iter(orders)
        while True:
            if self._work.stopped():
                raise InterruptedError("stopped by the user")
            self._send(left)
            if not self._under_way:
                return
            for outcome in self._pool.answers(0.2):
                yield from self._take(outcome)

    def _send(self, left: Iterator[Order]) -> None:
        """Give each worker something to do, and something to do next."""
        workers = self._workers()
        for gone in self._held.keys() - workers.keys():
            self._again.extend(self._held.pop(gone))
        tasks = {(worker, task) for worker, _, task in self._under_way.values()}
        load = collections.Counter(worker for worker, _ in tasks)
        for worker in workers:
            while load[worker] < _AHEAD and self._held.get(worker):
                load[worker] += 1
                self._give(worker, [self._held[worker].popleft()], workers)
        while load.total() < _AHEAD * len(workers):
            orders = self._next(left)
            if not orders:
                return
            worker = self._home(orders[0].block) or "" if self._home is not None else ""
            if worker not in workers:
                worker = min(workers, key=lambda each: load[each])
            elif load[worker] >= _AHEAD:
                self._held.setdefault(worker, collections.deque()).extend(orders)
                continue
            load[worker] += 1
            self._give(worker, orders, workers)

    def _next(self, left: Iterator[Order]) -> list[Order]:
        """Orders of the next task: short ones together, one that came back or has a home alone."""
        if self._again:
            return [self._again.popleft()]
        if self._home is not None:
            return list(itertools.islice(left, 1))
        together = max(1, min(_AT_ONCE, int(_TASK_SECONDS / max(self._pace, 1e-9))))
        return list(itertools.islice(left, together))

    def _give(self, worker: str, orders: list[Order], workers: dict[str, int | None]) -> None:
        self._tasks += 1
        for order in orders:
            self._under_way[order.block] = worker, order, self._tasks
        gpu = workers[worker]
        self._pool.send(worker, [dataclasses.replace(order, gpu=gpu) for order in orders])

    def _workers(self) -> dict[str, int | None]:
        """Return those that can be given work; wait for the first."""
        while True:
            present = self._pool.workers()
            able = {each: gpu for each, gpu in present.items() if each not in self._refused}
            now = time.monotonic()
            if able:
                self._seen = now
                return able
            if present or now - self._seen > PATIENCE:
                raise SettingsError(self._no_workers())
            if self._work.stopped():
                raise InterruptedError("stopped by the user")
            time.sleep(0.2)

    def _no_workers(self) -> str:
        if self._refused:
            return f"No worker can do this: {next(reversed(self._refused.values()))}"
        return NO_WORKER

    def _take(self, outcome: Outcome) -> Iterator[Outcome]:
        _, order, _ = self._under_way.pop(outcome.block)
        if outcome.how in ("failed", "returned"):
            number = self._marked(outcome.block)
            if number is not None:
                outcome = dataclasses.replace(outcome, how="done", reason="", not_finite=number)
        match outcome.how:
            case "done":
                self._successes += 1
                self._pace += (outcome.seconds - self._pace) / _STEADY
                yield outcome
            case "refused":
                self._refused[outcome.worker] = outcome.reason
                self._again.append(order)
            case "no room":
                raise OutputError(outcome.reason)
            case "outdated" if self._current():
                reason = "The worker did not see on the shared disk that this run may write."
                self._count_failure(dataclasses.replace(outcome, reason=reason), order)
            case "outdated":
                raise OutputError(
                    "Another run has begun to write the same result, so that this one has ended."
                )
            case "returned":
                self._again.append(order)
            case "failed":
                self._count_failure(outcome, order)

    def _count_failure(self, outcome: Outcome, order: Order) -> None:
        self._failures[outcome.block] += 1
        if self._failures[outcome.block] < self._tries:
            self._again.append(order)
        else:
            self.failed[outcome.block] = outcome.reason
        if not self._successes and self._failures.total() >= _HOPELESS * self._tries:
            raise OutputError(f"Every block fails. The last reason: {outcome.reason}")


__all__ = ["TRIES", "Sharing", "ordering", "share_out"]
