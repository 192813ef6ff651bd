"""How fast the ways of running one network are, as ratios to running it as it comes.

Run ``python benchmarks/network_speed.py [--threads 1 2] [--repeats 5]``. Each setting of memory
needs a process of its own; within it all ways are timed in turn, and the shortest time of each
counts. On one thread it is the processor's time, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CASES = {
    "2D 256": (2, (256, 256), 46),
    "2D 512": (2, (512, 512), 46),
    "3D 64x96x96": (3, (64, 96, 96), 22),
}
MEMORY = ("as it comes", "huge pages", "kept memory")


def measure(memory: str, threads: int, repeats: int, norm: str) -> dict[str, Any]:
    """Seconds of each way for each case, in this process."""
    from seamscope import process_memory

    if memory == "huge pages" and not process_memory.use_huge_pages():
        return {}
    if memory == "kept memory" and not process_memory.keep_freed_memory():
        return {}
    import torch

    from networks import network
    from seamscope.models.speed.acceleration import variants

    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds: dict[str, Any] = {}
    for case, (axes, size, halo) in CASES.items():
        unet, tile = network(norm, axes), torch.randn(1, 1, *size)
        keep = tuple(slice(halo, extent - halo) for extent in size)
        runs = {name: build() for name, build in variants(unet, tile)}
        ways = {name: (run, None) for name, run in runs.items()}
        ways["fused, kept part"] = (runs["fused"], keep)
        right = runs["plain"](tile)
        entry: dict[str, Any] = {}
        for name, (run, part) in ways.items():
            run(tile, part)
            output = run(tile, part)
            difference = (output - (right if part is None else right[:, :, *part])).abs().max()
            entry[name] = {"deviation": float(difference / right.std()), "seconds": 1e9}
        for _ in range(repeats):
            for name, (run, part) in ways.items():
                begin = clock()
                run(tile, part)
                entry[name]["seconds"] = min(entry[name]["seconds"], clock() - begin)
        seconds[case] = entry
    return seconds


def in_process(memory: str, threads: int, repeats: int, norm: str) -> dict[str, Any]:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "--only", memory, "--threads", str(threads)]
    command += ["--repeats", str(repeats), "--norm", norm]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def table(results: dict[str, dict[str, Any]]) -> str:
    """Lay out ratios to the plain network with memory as it comes."""
    lines = []
    for case in CASES:
        base = results[MEMORY[0]][case]["plain"]["seconds"]
        lines.append(f"\n{case}: plain {base:.3f} s")
        lines.append(f"  {'':<20}" + "".join(f"{memory:>14}" for memory in MEMORY) + "   deviation")
        for way, entry in results[MEMORY[0]][case].items():
            cells = [results[memory].get(case, {}).get(way) for memory in MEMORY]
            ratios = "".join(f"{c['seconds'] / base:14.2f}" if c else f"{'-':>14}" for c in cells)
            lines.append(f"  {way:<20}{ratios}{entry['deviation']:12.1e}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--norm", default="batch", choices=["batch", "instance", "group", "none"])
    parser.add_argument("--only", choices=MEMORY, help="measure here and print JSON")
    asked = parser.parse_args()
    if asked.only:
        print(json.dumps(measure(asked.only, asked.threads[0], asked.repeats, asked.norm)))
        return
    for threads in asked.threads:
        results = {m: in_process(m, threads, asked.repeats, asked.norm) for m in MEMORY}
        print(f"\n{threads} thread(s), {asked.norm} norm{table(results)}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
