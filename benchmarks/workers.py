"""Workers against one process: throughput, what a block costs, and memory of the client.

``python benchmarks/workers.py --size 2048``. Ratios of runs taken in turn: of seconds, and of the
processor time of all processes together, which other work on the machine disturbs less. A ratio of
1 means that workers are as fast as one process with as many threads.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

import seamscope
from seamscope.execution import pool as pools
from seamscope.execution.pool import open_pool
from seamscope.execution.sharing import Sharing
from seamscope.execution.worker import Order, Outcome

CORES = psutil.cpu_count(logical=False) or 1


def instant(order: Order, blocks: Sequence[int]) -> list[Outcome]:
    """Blocks of a network that costs nothing."""
    return [Outcome(block, "done", worker="") for block in blocks]


@contextmanager
def instant_blocks() -> Iterator[None]:
    before = pools.serve
    pools.serve = instant
    try:
        yield
    finally:
        pools.serve = before


def processor_time() -> float:
    """Seconds of this process and of those that it started."""
    here = psutil.Process()
    times = [each.cpu_times() for each in (here, *here.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def throughput(size: int, client: Any, folder: Path) -> tuple[float, float]:
    """Return one process with all cores, divided by workers with one each: time, processor time."""
    image = folder / f"{size}.npy"
    np.save(image, np.random.default_rng(0).random((size, size), np.float32))
    seconds, cpu = {}, {}
    for name, on in (("one", None), ("workers", client)):
        out = folder / f"{name}.zarr"
        how = {"tile": 256, "halo": 48, "seams": "none", "accelerate": False, "overwrite": True}
        begin, before = time.perf_counter(), processor_time()
        seamscope.predict(str(image), "demo:batchnorm", out, on=on, **how)
        seconds[name] = time.perf_counter() - begin
        cpu[name] = processor_time() - before
    return seconds["one"] / seconds["workers"], cpu["one"] / cpu["workers"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--blocks", type=int, nargs="*", default=[100, 1000, 10_000])
    args = parser.parse_args()
    process = psutil.Process()
    with open_pool(CORES) as (pool, threads), tempfile.TemporaryDirectory() as folder:
        client = pool._client
        print(f"{CORES} workers of {threads} thread(s), one process of {torch.get_num_threads()}")
        with instant_blocks() if args.blocks else nullcontext():
            for blocks in args.blocks:
                orders = (Order("", "", block) for block in range(blocks))
                begin = time.perf_counter()
                done = sum(1 for _ in Sharing(pool).share(orders))
                each = (time.perf_counter() - begin) / done * 1e3
                memory = process.memory_info().rss >> 20
                print(f"{done:7} blocks  {each:.2f} ms each  {memory} MB of client and scheduler")
        for number in range(args.repeats + 1):
            ratio, cpu = throughput(args.size, client, Path(folder))
            # the first run of a worker loads libraries and network
            first = " (first)" if number == 0 else ""
            print(f"throughput {ratio:.2f}, by processor time {cpu:.2f}{first}", flush=True)


if __name__ == "__main__":
    # workers import this file by its name
    import workers

    workers.main()
