"""What a worker does: open a run once, then block after block.

Knows one process. Does not know the others, or who sends the work.

A worker writes a block, then marks it, and returns a few numbers: pixels never leave it. Whatever
goes wrong becomes an `Outcome`, since an exception of a network's own may not even be readable in
another process.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from seamscope.process_memory import keep_freed_memory

How: TypeAlias = Literal["done", "failed", "returned", "refused", "outdated", "no room"]

_ONE_AT_A_TIME = threading.Lock()
# Seconds after which a worker begins no other block of those that it was given together.
_LONGEST = 1.0


@dataclass(frozen=True)
class Order:
    """A block to be done.

    Attributes
    ----------
    ledger
        Folder of the marks.
    run
        Which run may write (see `seamscope.ledger.Ledger.is_current`).
    block
        Its number.
    threads
        Of the network.
    trust
        Whether code that comes with the network's file may run.
    gpu
        Number of the GPU to use; None for the first that the worker sees.
    opens
        Function that opens the run in a process, ``module:name``; it takes the ledger and the
        order, and returns `Blockwise`.
    """

    ledger: str
    run: str
    block: int
    threads: int = 1
    trust: bool = False
    gpu: int | None = None
    opens: str = "seamscope.execution.block:open_blocks"


class Blockwise(Protocol):
    """A run that is open in a process, and done block by block."""

    @property
    def device(self) -> str:
        """Device that it needs."""

    def carry_out(self, block: int, check: Callable[[], None]) -> int:
        """Do and write a block, and return the number to be noted with its mark.

        `check` is called before each write; what it raises ends the work.
        """


@dataclass(frozen=True)
class Outcome:
    """What became of an order.

    Attributes
    ----------
    block
        Its number.
    how
        ``"done"``; ``"failed"``, which another try may do; ``"returned"``, since the worker did
        not begin it; ``"refused"``, since this worker cannot do any block of the run;
        ``"outdated"``, since the run has lost the right to write; ``"no room"``, since the disk
        refuses.
    reason
        One sentence; empty where it is done.
    not_finite
        Pixels of the block that are not finite.
    worker
        Address of the worker that did it.
    seconds
        How long it took; 0 where it is not done.
    """

    block: int
    how: How
    reason: str = ""
    not_finite: int = 0
    worker: str = ""
    seconds: float = field(default=0.0, compare=False)


class _OutdatedError(Exception):
    """The run has lost the right to write."""


class RefusedError(Exception):
    """The process cannot do any block of the run."""


def serve(order: Order, blocks: Sequence[int]) -> list[Outcome]:
    """Do what is ordered for several blocks, one after the other, in a process of its own.

    What this process cannot do, or has no time for, comes back.
    """
    keep_freed_memory()
    begin, outcomes = time.monotonic(), list[Outcome]()
    for block in blocks:
        able = all(outcome.how in ("done", "failed") for outcome in outcomes[-1:])
        if able and (not outcomes or time.monotonic() - begin < _LONGEST):
            outcomes.append(do_block(replace(order, block=block)))
        else:
            outcomes.append(Outcome(block, "returned", worker=address()))
    return outcomes


def do_block(order: Order) -> Outcome:
    """Do one block in this process; never raises an error of the work."""
    with _ONE_AT_A_TIME:
        try:
            return _opened(order).do(order)
        except _OutdatedError:
            return Outcome(order.block, "outdated", worker=address())
        except RefusedError as error:
            return Outcome(order.block, "refused", str(error), worker=address())
        except Exception as error:  # whatever loading a network or reading the disk may raise
            return Outcome(order.block, "failed", _sentence(error), worker=address())


_run: _Run | None = None


def close() -> None:
    """Close the run that is open in this process."""
    global _run
    with _ONE_AT_A_TIME:
        _run = None


def _opened(order: Order) -> _Run:
    """Return the run of an order, opened once for each process."""
    global _run
    if _run is None or not _run.serves(order):
        _run = None  # one network at a time
        _run = _Run(order)
    return _run


class _Run:
    """One run, opened in this process."""

    def __init__(self, order: Order) -> None:
        from seamscope.errors import SeamscopeError
        from seamscope.ledger import Ledger

        self._order = order
        if not os.path.exists(order.ledger):
            raise RefusedError(
                f"{order.ledger} is not there. Workers must see the result under the same name as "
                "the command: write it to a disk that all machines share."
            )
        try:
            self._ledger = Ledger(Path(order.ledger))
            module, name = order.opens.split(":")
            opened = getattr(importlib.import_module(module), name)
            self._blocks: Blockwise = opened(self._ledger, order)
        except SeamscopeError as error:
            if os.path.exists(order.ledger) and not self._current(order):
                raise _OutdatedError from error
            raise RefusedError(str(error)) from error

    def serves(self, order: Order) -> bool:
        """Return whether an order is of this run."""
        mine = self._order
        return (mine.ledger, mine.run, mine.gpu) == (order.ledger, order.run, order.gpu)

    def do(self, order: Order) -> Outcome:
        from seamscope.errors import OutputError

        self._check()
        begin = time.monotonic()
        try:
            number = self._blocks.carry_out(order.block, self._check)
            self._check()
            self._ledger.mark(order.block, number)
        except _OutdatedError:
            raise
        except OutputError as error:
            if not self._current(order):
                raise _OutdatedError from error
            return Outcome(order.block, "no room", str(error), worker=address())
        except Exception as error:  # whatever a network or a disk may raise
            if _gpu_is_lost(self._blocks.device):
                raise RefusedError(_GPU_LOST) from error
            return Outcome(order.block, "failed", _sentence(error), worker=address())
        seconds = time.monotonic() - begin
        return Outcome(order.block, "done", "", number, address(), seconds)

    def _check(self) -> None:
        if not self._current(self._order):
            raise _OutdatedError

    def _current(self, order: Order) -> bool:
        ledger = getattr(self, "_ledger", None)
        return ledger is not None and ledger.is_current(order.run)


NO_MEMORY = (
    "Memory ran out. Use smaller tiles (`tile`), a smaller batch (`batch`), or fewer workers on "
    "each machine."
)
_GPU_LOST = (
    "The worker has lost its GPU, and does not fall back to the CPU. Look at the machine, and "
    "start the worker again."
)


def _gpu_is_lost(device: str) -> bool:
    """Return whether a GPU that was there does not answer any more."""
    import torch

    if not device.startswith("cuda"):
        return False
    try:
        torch.zeros(1, device=device).add_(1).cpu()
    except Exception:  # whatever a broken driver raises
        return True
    return False


def address() -> str:
    """Return the address of this worker."""
    worker = _dask_worker()
    return "here" if worker is None else str(worker.address)


def _dask_worker() -> Any:
    """Return the worker of dask that this code runs in; None elsewhere."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def _sentence(error: Exception) -> str:
    from seamscope.errors import SeamscopeError
    from seamscope.planning.tuning import OutOfMemory, is_memory_error

    if isinstance(error, SeamscopeError):
        return str(error)
    if isinstance(error, MemoryError | OutOfMemory) or is_memory_error(error):
        return NO_MEMORY
    last = (str(error).strip().splitlines() or [""])[-1][:200]
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {last} ({Path(at.filename).name}:{at.lineno})"


__all__ = [
    "NO_MEMORY",
    "Blockwise",
    "Order",
    "Outcome",
    "RefusedError",
    "close",
    "do_block",
    "serve",
]
