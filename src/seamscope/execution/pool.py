"""Processes that do blocks: workers of dask on this machine or another, or this process itself.

Knows how orders are sent and answers come back. Does not know what a block is, or which are left.

Few orders are under way at a time, so that neither client nor scheduler grow with the number of
blocks; answers are a few numbers, and pixels never pass through the client. Orders of short blocks
are sent together, since a task of dask costs milliseconds. An order belongs to one worker. When
that dies, the order comes back at once: left to itself, a scheduler whose workers have all died
keeps it for ever, even if new ones come.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import psutil

from seamscope.errors import OutputError, SettingsError
from seamscope.execution.worker import Order, Outcome, close, do_block, serve
from seamscope.progress import QUIET, Work, check

if TYPE_CHECKING:
    from distributed import Client

On: TypeAlias = "int | str | os.PathLike[str] | Client | None"
# What the orders of a task became.
Answer: TypeAlias = "Future[Sequence[Outcome]]"

# Seconds after which the workers are counted again.
_ASK_EVERY = 1.0
# Tasks whose names may be remembered.
_REMEMBERED = 4096
# Seconds that a scheduler, or a worker with a GPU, may take to answer.
_CONNECT = 30
_ASKED_AT_ONCE = 16
# Seconds without any worker until a run is given up.
PATIENCE = 120.0
NO_WORKER = (
    f"There has been no worker for {PATIENCE:.0f} seconds. Start workers (dask worker), with "
    "--resources GPU=1 where the network runs on a GPU, and resume (`resume=True`)."
)

_GPU_NOT_USED = (
    "The workers offer GPUs, and this run uses the CPU. To use them, choose them (`device='cuda'`)."
)


class Pool(Protocol):
    """Processes that do blocks."""

    def workers(self) -> Mapping[str, Any]:
        """Return who can be given work now: addresses, each with a number for `Order.gpu`."""

    def send(self, worker: str, orders: Sequence[Order]) -> None:
        """Give a worker orders, to be done one after the other."""

    def answers(self, seconds: float) -> Iterator[Outcome]:
        """Yield what has come back, after waiting so long for the first of them."""

    def stop(self) -> None:
        """Take back all orders."""


class Here:
    """The process itself, which does an order when its answer is waited for."""

    def __init__(self) -> None:
        self._orders: list[Order] = []

    def workers(self) -> Mapping[str, int | None]:
        """Return this process."""
        return {"here": None}

    def send(self, worker: str, orders: Sequence[Order]) -> None:
        """Remember orders."""
        self._orders.extend(orders)

    def answers(self, seconds: float) -> Iterator[Outcome]:
        """Do the first order."""
        if self._orders:
            yield do_block(self._orders.pop(0))

    def stop(self) -> None:
        """Forget all orders, and the run that was open."""
        self._orders.clear()
        close()


class Dask:
    """Workers of a scheduler of dask.

    Parameters
    ----------
    client
        Connected to the scheduler.
    gpu
        Whether each order needs a GPU: only workers that offer the resource ``GPU`` are used.
    own
        Whether the workers are of this run alone, on this machine, so that each uses the GPU of
        its number.
    """

    def __init__(self, client: Client, *, gpu: bool = False, own: bool = False) -> None:
        self._client = client
        self._resources = {"GPU": 1} if gpu else None
        self._own = own
        self._ended: queue.SimpleQueue[tuple[str, Answer | None]] = queue.SimpleQueue()
        self._sent: dict[str, tuple[Any, Sequence[Order], str]] = {}
        self._present: set[str] = set()
        self._paused: set[str] = set()
        self._known: dict[str, int | None] = {}
        self._threads: dict[str, int] = {}
        self._asked = -_ASK_EVERY
        self._count = 0
        self._with_gpu: list[str] = []

    def workers(self) -> Mapping[str, int | None]:
        """Return the workers that the scheduler has, as it said in the last second."""
        now = time.monotonic()
        if now - self._asked >= _ASK_EVERY:
            self._asked = now
            present = self._asked_workers()
            if present is None:
                return {}
            able = {
                address: about
                for address, about in present.items()
                if about.get("status", "running") == "running"
                and (self._resources is None or about.get("resources", {}).get("GPU", 0) >= 1)
            }
            self._present = set(present)
            self._with_gpu = [
                a for a, about in present.items() if about.get("resources", {}).get("GPU", 0) >= 1
            ]
            self._paused = {a for a, about in present.items() if about.get("status") == "paused"}
            self._threads = {address: about["nthreads"] for address, about in able.items()}
            self._known = {
                address: _number(about["name"]) if self._own else None
                for address, about in able.items()
            }
        return self._known

    def _asked_workers(self) -> Mapping[str, Any] | None:
        """Return what the scheduler says of its workers; None while dask tries to reach it again.

        Raises
        ------
        OutputError
            When it does not answer any more.
        """
        if self._client.status == "connecting":
            return None
        with _answering():
            if self._client.status != "running":
                raise OutputError(_SILENT)
            workers: Mapping[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
            return workers

    @property
    def offers_gpu(self) -> bool:
        """Whether a worker that is there offers a GPU."""
        return bool(self._with_gpu)

    def ask_gpus(self, question: Callable[[], Any]) -> Mapping[str, Any]:
        """Return what each worker that offers a GPU answers, or the error; busy ones do, too.

        One that is silent for long gives a `TimeoutError`, and holds up no other answer.
        """

        def ask(worker: str) -> Any:
            how: dict[str, Any] = {"on_error": "return", "callback_timeout": _CONNECT}
            try:
                return self._client.run(question, workers=[worker], **how)[worker]
            except TimeoutError as error:
                return error

        asking = ThreadPoolExecutor(_ASKED_AT_ONCE)
        try:
            with _answering():
                return dict(zip(self._with_gpu, asking.map(ask, self._with_gpu), strict=True))
        finally:
            asking.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for no answer

    def wait(self, work: Work) -> int:
        """Wait for the first worker; return the least number of threads that one has."""
        begin = time.monotonic()
        while not self.workers():
            check(work)
            if time.monotonic() - begin > PATIENCE:
                raise SettingsError(NO_WORKER)
            time.sleep(0.1)
        return min(self._threads.values())

    def send(self, worker: str, orders: Sequence[Order]) -> None:
        """Submit orders of a run as one task; dask remembers it, so it is small."""
        self._count += 1
        if self._count % _REMEMBERED == 0:
            _forget_names()
        with _answering():
            future = self._client.submit(
                serve,
                orders[0],
                [order.block for order in orders],
                key=f"seamscope-{orders[0].run}-{orders[0].block}-{self._count}",
                pure=False,
                workers=[worker],
                resources=self._resources,
            )
        self._sent[future.key] = future, orders, worker
        future.add_done_callback(self._fetch)

    def answers(self, seconds: float) -> Iterator[Outcome]:
        """Yield the results of tasks that have ended, and the orders of workers that are gone."""
        known = [*self._arrived(), *self._gone()]
        yield from known or self._arrived(seconds)

    def _fetch(self, future: Any) -> None:
        """Ask for the answer of a task that has ended, in dask's own threads.

        No thread waits for it: dask tries for `_CONNECT` seconds to reach a worker that is gone.
        """
        if future.status not in ("finished", "error"):  # cancelled by the scheduler, or lost
            self._ended.put((future.key, None))
            return
        asking = self._client.gather(future, asynchronous=True)
        try:
            answer = asyncio.run_coroutine_threadsafe(asking, self._client.loop.asyncio_loop)
        except RuntimeError:  # the client is closed
            asking.close()
        else:
            answer.add_done_callback(lambda answer: self._ended.put((future.key, answer)))

    def _arrived(self, seconds: float = 0) -> Iterator[Outcome]:
        """Yield the answers that are here; wait for the first."""
        with contextlib.suppress(queue.Empty):
            yield from self._answer(*self._ended.get(timeout=seconds))
            while True:
                yield from self._answer(*self._ended.get_nowait())

    def _gone(self) -> Iterator[Outcome]:
        """Take back the orders of workers that are gone or paused.

        The first of each that is gone was being done, or its answer is lost. One that is paused
        for lack of memory keeps what it has not begun for as long as it is paused.
        """
        blamed: set[str] = set()
        for key, (future, orders, worker) in list(self._sent.items()):
            if worker in self._present and (worker not in self._paused or future.done()):
                continue
            del self._sent[key]
            future.release()
            innocent = worker in blamed or worker in self._paused
            yield from _unanswered(orders, worker, "" if innocent else _DIED)
            blamed.add(worker)

    def _answer(self, key: str, answer: Answer | None) -> Iterator[Outcome]:
        if key not in self._sent:
            return
        _, orders, worker = self._sent.pop(key)
        if answer is None:
            yield from _unanswered(orders, worker)
            return
        try:
            outcomes = answer.result()
        except Exception as error:  # of the task, or the worker is gone and its answer with it
            yield from _unanswered(orders, worker, _why(error))
            return
        yield from outcomes

    def stop(self) -> None:
        """Cancel all tasks."""
        futures = [future for future, *_ in self._sent.values()]
        self._sent.clear()
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._client.cancel(futures, force=True)


def _unanswered(orders: Sequence[Order], worker: str, why: str = "") -> Iterator[Outcome]:
    """Take back the orders of a task without an answer; the first has failed if there is a why."""
    for order in orders:
        yield Outcome(order.block, "failed" if why else "returned", why, worker=worker)
        why = ""


_SILENT = (
    "The scheduler does not answer any more. What was written is kept: start it and its workers "
    "again, and resume (`resume=True`)."
)


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Say in a sentence that the scheduler is gone."""
    from distributed.client import ClosedClientError

    try:
        yield
    except (ClosedClientError, OSError, KeyError) as error:  # OSError: of the connection
        raise OutputError(_SILENT) from error


_DIED = (
    "The worker died while it worked on it. It may lack memory: use smaller tiles, or fewer "
    "workers on each machine."
)


def _forget_names() -> None:
    """Empty what dask remembers of the names of tasks, 100,000 of them, though none comes again."""
    from dask.utils import key_split

    key_split.cache_clear()


def _number(name: Any) -> int | None:
    with contextlib.suppress(TypeError, ValueError):
        return int(name)
    return None


def _why(error: BaseException) -> str:
    if type(error).__name__ == "KilledWorker":
        return _DIED
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


@contextlib.contextmanager
def open_pool(
    on: On, *, gpu: bool | None = False, work: Work = QUIET
) -> Iterator[tuple[Pool, int]]:
    """Start or find the workers of a run.

    Parameters
    ----------
    on
        Number of processes to start on this machine; address (``tcp://host:8786``) or file of a
        scheduler that runs; a client of dask; or None for this process alone.
    gpu
        Whether each worker needs a GPU; None for work that has no use for one.
    work
        Asked whether to stop, while workers are waited for.

    Yields
    ------
    pool, threads
        The workers, at least one; threads that each of them can use.

    Raises
    ------
    SettingsError
        When dask is not installed, no scheduler answers, or there is no worker.
    InterruptedError
        When stopped.
    """
    if on is None:
        import torch

        yield Here(), torch.get_num_threads()
        return
    _check_dask()
    if isinstance(on, int):
        with _workers_of(on, bool(gpu)) as client:
            yield Dask(client, gpu=bool(gpu), own=True), max(1, _threads_here() // on)
        return
    found = contextlib.nullcontext(on)
    with _connected(os.fspath(on)) if isinstance(on, str | os.PathLike) else found as client:
        pool = Dask(client, gpu=bool(gpu))
        threads = pool.wait(work)
        if pool.offers_gpu and gpu is False:
            work.note(_GPU_NOT_USED)
        yield pool, threads


def open_workers(
    device: str, on: On, work: Work
) -> contextlib.AbstractContextManager[tuple[Pool, int]]:
    """Start or find the workers of a run whose network is on a device, as a phase of its work."""
    work.phase("Starting workers")
    return open_pool(on, gpu=device.startswith("cuda"), work=work)


_keeping: tuple[contextlib.ExitStack, dict[tuple[int, bool], Client]] | None = None


@contextlib.contextmanager
def keep_workers() -> Iterator[None]:
    """Keep the processes that runs start on this machine for the runs after them, until the end."""
    global _keeping
    with contextlib.ExitStack() as stack:
        _keeping = stack, {}
        try:
            yield
        finally:
            _keeping = None


@contextlib.contextmanager
def _workers_of(count: int, gpu: bool) -> Iterator[Client]:
    """Start processes, or take those that are kept."""
    if _keeping is None:
        with _own_workers(count, gpu) as client:
            yield client
        return
    stack, kept = _keeping
    known = kept.get((count, gpu))
    if known is None or known.status != "running":
        kept[count, gpu] = known = stack.enter_context(_own_workers(count, gpu))
    yield known


def check_on(on: On) -> None:
    """Check what can be known of workers before a run.

    Raises
    ------
    SettingsError
        As `open_pool`, and for a number that is not positive.
    """
    if on is None:
        return
    if isinstance(on, int) and (on < 1 or isinstance(on, bool)):
        raise SettingsError(f"{on} workers: start 1 or more.")
    _check_dask()


def _check_dask() -> None:
    if importlib.util.find_spec("distributed") is None:  # importing it takes a second
        raise SettingsError(
            "Workers need dask, which is not installed: pip install 'seamscope[dask]'."
        )


def _threads_here() -> int:
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


@contextlib.contextmanager
def _own_workers(count: int, gpu: bool) -> Iterator[Client]:
    """Start processes on this machine, which end with the run or with this process."""
    import dask
    from distributed import Client

    quiet = {
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        "distributed.comm.timeouts.connect": f"{_CONNECT}s",
        "distributed.admin.low-level-log-length": 100,  # else logs grow with the blocks
    }
    with dask.config.set(quiet), _quiet_logs():
        cluster = _started(count, gpu)
        try:
            try:
                opened = Client(cluster, set_as_default=False)
            except TimeoutError as error:
                raise _cannot_start(count, error) from error
            with opened as client:
                try:
                    yield client
                except BaseException:
                    _kill(cluster)
                    raise
        finally:
            try:
                cluster.close(timeout=5)
            except TimeoutError:  # the machine is busy: what was done stays done
                _kill(cluster)


def _started(count: int, gpu: bool) -> Any:
    """Start processes; twice, since one that dies while it starts takes the others with it."""
    from distributed import LocalCluster

    start = partial(
        LocalCluster,
        n_workers=count,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",  # any free port
        memory_limit=0,  # a worker at its limit would wait for ever
        silence_logs=logging.CRITICAL,
        resources={"GPU": 1} if gpu else None,
    )
    _start_tracker()
    for last in (False, True):
        try:
            return _all_or_none(start)
        except (RuntimeError, TimeoutError) as error:
            if last:
                raise _cannot_start(count, error) from error
    return None


def _all_or_none(start: Callable[[], Any]) -> Any:
    """Start processes; Ctrl-C waits in another thread for those that are starting, and ends them.

    Dask cannot close workers that have not started.
    """
    with ThreadPoolExecutor(1, initializer=_deaf) as starting:
        cluster = starting.submit(start)
        try:
            return cluster.result()
        except BaseException:
            with contextlib.suppress(Exception):
                _kill(cluster.result())
                cluster.result().close(timeout=5)
            raise


def _deaf() -> None:
    """Keep Ctrl-C from processes that this thread starts: a terminal sends it to all of them."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _cannot_start(count: int, error: Exception) -> SettingsError:
    return SettingsError(
        f"{count} workers cannot be started ({str(error) or type(error).__name__}). A script that "
        'starts workers needs if __name__ == "__main__": around its own code. Otherwise try fewer '
        "workers, or run again (--resume)."
    )


def _start_tracker() -> None:
    """Start what frees the semaphores of processes that are killed, without its warning of them."""
    from multiprocessing import resource_tracker

    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    sys.warnoptions.append(quiet)
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(quiet)


def _kill(cluster: Any) -> None:
    """End workers at once: a network that runs cannot be asked to stop."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        process = getattr(nanny, "process", None)
        pid = getattr(process, "pid", None)
        with contextlib.suppress(psutil.Error):
            if pid is not None:
                psutil.Process(pid).kill()


@contextlib.contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    from distributed import Client

    given = {"address": scheduler} if "://" in scheduler else {"scheduler_file": scheduler}
    if "scheduler_file" in given and not Path(scheduler).is_file():
        raise SettingsError(
            f"There is no file {scheduler} of a scheduler: give the file that dask scheduler "
            "--scheduler-file wrote, or an address such as tcp://host:8786."
        )
    with _quiet_logs():
        try:
            client = Client(**given, timeout=_CONNECT, set_as_default=False)
        except Exception as error:  # many kinds, with addresses inside
            raise SettingsError(
                f"No scheduler of dask answers at {scheduler} ({type(error).__name__}). Start one "
                "(dask scheduler), and check address and versions."
            ) from error
        with client:
            yield client


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """Keep dask's log out of a command's messages: deaths of workers are counted by the run."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.level for logger in loggers]
    for logger in loggers:  # dask gives the second a level of its own
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


__all__ = [
    "NO_WORKER",
    "PATIENCE",
    "Dask",
    "Here",
    "On",
    "Pool",
    "check_on",
    "keep_workers",
    "open_pool",
    "open_workers",
]
