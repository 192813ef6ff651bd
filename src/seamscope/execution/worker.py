"""What a worker does: open a run once, then block after block.

Knows one process. Does not know the others, or who sends the work.

A worker writes a block, then marks it, and returns a few numbers: pixels never leave it. Whatever
goes wrong becomes an `Outcome`, since an exception of a network's own may not even be readable in
another process.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from seamscope.process_memory import keep_freed_memory

How: TypeAlias = Literal["done", "failed", "returned", "refused", "outdated", "no room"]

_ONE_AT_A_TIME = threading.Lock()


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
    """

    ledger: str
    run: str
    block: int
    threads: int = 1
    trust: bool = False
    gpu: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of an order.

    Attributes
    ----------
    block
        Its number.
    how
        ``"done"``; ``"failed"``, which another try may cure; ``"returned"``, since the worker died
        before it began; ``"refused"``, since this worker
        cannot do any block of the run; ``"outdated"``, since the run has lost the right to write;
        ``"no room"``, since the disk refuses.
    reason
        One sentence; empty where it is done.
    not_finite
        Pixels of the block that are not finite.
    worker
        Address of the worker that did it.
    """

    block: int
    how: How
    reason: str = ""
    not_finite: int = 0
    worker: str = ""


class _OutdatedError(Exception):
    """The run has lost the right to write."""


class _RefusedError(Exception):
    """The process cannot do any block of the run."""


def serve(order: Order) -> Outcome:
    """Do one block in a process that does nothing else."""
    keep_freed_memory()
    return do_block(order)


def do_block(order: Order) -> Outcome:
    """Do one block in this process; never raises an error of the work."""
    with _ONE_AT_A_TIME:
        try:
            return _opened(order).do(order)
        except _OutdatedError:
            return Outcome(order.block, "outdated", worker=address())
        except _RefusedError as error:
            return Outcome(order.block, "refused", str(error), worker=address())
        except Exception as error:  # whatever loading a network or reading the disk may raise
            return Outcome(order.block, "failed", _sentence(error), worker=address())


_run: _Run | None = None


def seams_of(folder: Path, block: int) -> Path:
    """Return where the measures of a block's seams are, beside its mark."""
    return folder / f"{block}.seams"


def close() -> None:
    """Let go of the run that is open in this process."""
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
            raise _RefusedError(
                f"{order.ledger} is not there. Workers must see the result under the same name as "
                "the command: write it to a disk that all machines share."
            )
        try:
            self._ledger = Ledger(Path(order.ledger))
            self._open(order)
        except SeamscopeError as error:
            if os.path.exists(order.ledger) and not self._current(order):
                raise _OutdatedError from error
            raise _RefusedError(str(error)) from error

    def _open(self, order: Order) -> None:
        import torch

        from seamscope.execution.block import BlockRun
        from seamscope.execution.recipe import Recipe
        from seamscope.images.results.create import open_part
        from seamscope.planning.tuning import accelerate
        from seamscope.prediction.resuming import blocks_of
        from seamscope.prediction.run import Attempt

        torch.set_num_threads(order.threads)
        recipe = Recipe.load(self._ledger.folder)
        case = recipe.open(self._ledger, trust=order.trust)
        plan = case.plan
        device = _device(plan.settings.device, order.gpu)
        runner = case.model.runner(device, plan.settings.precision)
        reader = case.reader()
        way = accelerate(plan, case.model, runner, reader, recipe.way)
        if way != recipe.way:
            raise _RefusedError(
                f"The run uses an equivalent of the network ({recipe.way}) that this worker "
                "cannot make. Give all workers the same packages and kind of processor, or use "
                "the network as it is (`accelerate=False`)."
            )
        self._blocks = BlockRun(
            Attempt(plan, case.model, runner, reader, case.intensity(), way),
            blocks_of(plan, self._ledger),
            open_part(
                recipe.unfinished, recipe.final, plan.out_shape, plan.out_dtype, plan.out_axes
            ),
            recipe.kind,  # type: ignore[arg-type]
        )

    def serves(self, order: Order) -> bool:
        """Return whether an order is of this run."""
        mine = self._order
        return (mine.ledger, mine.run, mine.gpu) == (order.ledger, order.run, order.gpu)

    def do(self, order: Order) -> Outcome:
        from seamscope.errors import OutputError

        self._check()
        try:
            not_finite, records = self._blocks.carry_out(order.block, self._check)
            self._check()
            if records.tiles:
                records.save(seams_of(self._ledger.folder, order.block))
            self._ledger.mark(order.block, not_finite)
        except _OutdatedError:
            raise
        except OutputError as error:
            if not self._current(order):
                raise _OutdatedError from error
            return Outcome(order.block, "no room", str(error), worker=address())
        except Exception as error:  # whatever a network or a disk may raise
            if _gpu_is_lost(self._blocks.device):
                raise _RefusedError(_GPU_LOST) from error
            return Outcome(order.block, "failed", _sentence(error), worker=address())
        return Outcome(order.block, "done", "", not_finite, address())

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


def _device(planned: str, gpu: int | None) -> str:
    """Return the device of this worker; a GPU is never replaced by the CPU."""
    import torch

    if not planned.startswith("cuda"):
        return planned
    if not torch.cuda.is_available():
        raise _RefusedError(
            "The run is planned for a GPU, and this worker has none that works. Start workers on "
            "machines with a GPU, or choose the CPU (`device='cpu'`)."
        )
    count = torch.cuda.device_count()
    return f"cuda:{0 if gpu is None else gpu % count}"


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


__all__ = ["NO_MEMORY", "Order", "Outcome", "close", "do_block", "seams_of", "serve"]
