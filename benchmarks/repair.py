"""What repairing costs, and how much memory it takes.

``python benchmarks/repair.py [--size 1024] [--tile 256] [--repeats 3] [--threads 1]``. What becomes
of accuracy is answered by ``benchmarks/frozen_statistics.py``.

Costs are ratios to one tiled prediction with the same tiles in the same run, of CPU time, each way
in turn, the shortest of each. Memory is what the process holds more than before, at its peak
(RssAnon), against what the plan foretold.

A second table is of predictions with fixed statistics, in units of a tiled prediction by the same
module with each tile's own: answered while the network runs, as everything can be; fixed in layers
or in a program's graph; and so as it is then run, folded and trimmed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seamscope import Settings, load_model, open_image, predict
from seamscope.demo import zscore
from seamscope.demo.tissue import tissue
from seamscope.fixed_statistics.freeze_plan import plan_freeze
from seamscope.fixed_statistics.freezing import carry_out, freeze_statistics
from seamscope.models.fixed import Answered
from seamscope.models.model import Model
from seamscope.models.speed.fusion import quiet_torchscript
from seamscope.process_memory import keep_freed_memory


def main() -> None:
    args = _arguments()
    if not args.held:
        keep_freed_memory()
    torch.set_num_threads(args.threads)
    model = load_model("demo:instancenorm")
    _ = model.audit, model.reach
    image = zscore(tissue((args.size, args.size), 20_003)[0])
    if args.held:
        _held(args.held, model, image, args)
        return
    _memory(args)
    _costs(model, image, args)
    _formats(model, image, args)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--held", help=argparse.SUPPRESS)
    return parser.parse_args()


# -- costs


def _costs(model: Model, image: np.ndarray, args: argparse.Namespace) -> None:
    settings = Settings(tile=args.tile, normalize="none", seams="none", accelerate=False)
    opened = open_image(image)

    def freeze(how: Any, **limits: Any) -> tuple[Callable[[], Any], float | None]:
        plan = plan_freeze(model, opened, how, settings, **limits)
        return lambda: carry_out(plan, model, opened), plan.passes

    lockstep = plan_freeze(model, opened, "exact", settings)
    statistics = carry_out(lockstep, model, opened)
    fixed = model.with_statistics(statistics)
    no_room = lockstep.plan.bytes_per_tile + 1
    ways: dict[str, tuple[Callable[[], Any], float | None]] = {
        "prediction, tiled": (lambda: predict(opened, model, settings=settings), 1.0),
        "exact, waiting in memory": freeze("exact"),
        "exact, waiting on disk": freeze("exact", memory=no_room),
        "exact, layer by layer": freeze("exact", memory=no_room, disk=0),
        "local": freeze("local"),
        "sampled, 16 tiles": freeze("sampled"),
        "sampled, 8 tiles": freeze("sampled", tiles=8),
        "prediction with fixed statistics": (
            lambda: predict(opened, fixed, settings=settings),
            None,
        ),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(args.repeats):
        for name, (run, _) in ways.items():
            begin = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - begin)
    tiles, layers = len(lockstep.plan.grid), len(lockstep.calls)
    print(f"{args.size}x{args.size}, tiles of {args.tile} ({tiles}), {layers} layers, "
          f"{args.threads} thread(s)")  # fmt: skip
    print(f"{'':34s}{'ratio':>7s}{'planned':>7s}")
    for name, (_, planned) in ways.items():
        ratio = best[name] / best["prediction, tiled"]
        print(f"{name:34s}{ratio:7.2f}{'' if planned is None else f'{planned:7.2f}'}", flush=True)


def _formats(model: Model, image: np.ndarray, args: argparse.Namespace) -> None:
    settings = Settings(tile=args.tile, normalize="none", seams="none", accelerate=False)
    opened = open_image(image)
    statistics = freeze_statistics(opened, model, "exact", settings)
    x = torch.randn(2, 1, 64, 64)
    sizes = {0: torch.export.Dim("b", min=1)}
    sizes |= {n: 8 * torch.export.Dim(name, min=3) for n, name in ((2, "h"), (3, "w"))}
    exported = torch.export.export(model.module, (x,), dynamic_shapes=(sizes,))
    with quiet_torchscript():
        traced = torch.jit.trace(model.module, x)
    print(f"\n{'':20s}{'answered':>10s}{'fixed':>10s}{'folded':>10s}")
    for name, network in (("eager", model.module), ("TorchScript", traced),
                          ("exported", exported.module())):  # fmt: skip
        plain = load_model(network)
        answered = plain.with_statistics(statistics)
        fixed = plain.with_statistics(statistics)
        calls = {one.call for one in statistics.layers}
        answered.module = Answered(plain.module, statistics, calls)
        folded = settings.but(accelerate=True)
        ways = [(plain, settings), (answered, settings), (fixed, settings), (fixed, folded)]
        predict(opened, fixed, settings=folded)  # the trial
        best = [float("inf")] * len(ways)
        for _ in range(args.repeats):
            for number, (one, how) in enumerate(ways):
                begin = time.process_time()
                predict(opened, one, settings=how)
                best[number] = min(best[number], time.process_time() - begin)
        ratios = "".join(f"{seconds / best[0]:10.2f}" for seconds in best[1:])
        print(f"{name:20s}{ratios}", flush=True)


# -- memory


def _memory(args: argparse.Namespace) -> None:
    """Each way in a process of its own: freed memory does not always go back to the system."""
    print(f"{'':34s}{'MB':>7s}{'planned':>7s}")
    for way in ("untiled", "in memory"):
        given = ["--size", str(args.size), "--tile", str(args.tile), "--held", way]
        subprocess.run([sys.executable, __file__, *given], check=True)


def _held(way: str, model: Model, image: np.ndarray, args: argparse.Namespace) -> None:
    tile: Any = "auto" if way == "untiled" else args.tile
    opened, first = open_image(image), open_image(image[:256, :256])
    carry_out(plan_freeze(model, first), model, first)  # libraries take their share once
    plan = plan_freeze(model, opened, "exact", Settings(tile=tile, normalize="none"))
    before, peak, running = _anonymous(), [0], [True]

    def watch() -> None:
        while running[0]:
            peak[0] = max(peak[0], _anonymous())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    carry_out(plan, model, opened)
    running[0] = False
    watcher.join()
    print(f"exact, {way:27s}{(peak[0] - before) / 1e6:7.0f}{plan.memory / 1e6:7.0f}", flush=True)


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
