"""Kill ``freeze``, ``seams`` and ``predict`` at random moments, resume, compare with straight runs.

``python -m benchmarks.kills --kills 20``. For each command, in 2D and 3D: one straight run; then
the same with ``--workers 2``, of which a worker or the command itself gets SIGKILL after a random
time, and is resumed, until so many kills were survived and the last run ends. All numbers of both
answers must be equal to the last bit.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

NETWORKS = """
import torch
from torch import nn

def net(conv, norm):
    torch.manual_seed(1)
    return nn.Sequential(conv(1, 6, 3, padding=1), norm(6), nn.ReLU(), conv(6, 6, 3, padding=1),
                         norm(6), nn.ReLU(), conv(6, 2, 3, padding=1))

def flat():
    return net(nn.Conv2d, nn.InstanceNorm2d)

def deep():
    return net(nn.Conv3d, nn.InstanceNorm3d)
"""
IMAGES: dict[str, tuple[tuple[int, ...], str]] = {
    "flat": ((700, 700), "64"),
    "deep": ((48, 128, 300), "32,48,48"),
}


def command(kind: str, name: str, folder: Path, out: Path, *more: str) -> list[str]:
    given = [str(folder / f"{name}.npy"), f"{folder / 'nets.py'}:{name}"]
    if kind == "freeze":
        given += [str(out), "--json", f"{out}.json"]
    elif kind == "predict":  # with lower resolutions
        given += [f"{out}.ome.zarr", "--seams", "none"]
    else:
        given += ["--json", f"{out}.json", "--no-explain", "--halo", "4"]
    axes = "yx" if name == "flat" else "zyx"
    given += [
        "--tile",
        IMAGES[name][1],
        "--axes",
        axes,
        "--trust",
        "--no-accelerate",
        "--normalize",
        "zscore",
        *more,
    ]
    return [sys.executable, "-m", "seamscope", kind, *given]


def digest(kind: str, out: Path) -> str:
    if kind == "freeze":
        from seamscope.normalization.statistics import Statistics

        return Statistics.load(out).digest
    if kind == "predict":
        import zarr

        levels = sorted(zarr.open_group(f"{out}.ome.zarr", mode="r").arrays())
        pixels = b"".join(np.asarray(level[...]).tobytes() for _, level in levels)
        return f"{len(levels)} levels {hashlib.sha256(pixels).hexdigest()[:16]}"
    found: dict[str, Any] = json.loads(Path(f"{out}.json").read_text())
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def survive(kind: str, name: str, folder: Path, kills: int, seed: int) -> bool:
    dice, one = random.Random(seed), {**os.environ, "OMP_NUM_THREADS": "1"}
    straight, shared = folder / f"{kind}-{name}", folder / f"{kind}-{name}-killed"
    begin = time.monotonic()
    subprocess.run(command(kind, name, folder, straight), check=True, env=one,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    took, killed, runs, done = time.monotonic() - begin, {"client": 0, "worker": 0}, 0, False
    ended = True  # the run before; one that ended before enough kills is begun again
    while not done:
        runs += 1
        more = ["--workers", "2", *(["--overwrite"] if ended else ["--resume"])]
        if kind == "seams" and not ended:
            more.append("--overwrite")
        process = subprocess.Popen(
            command(kind, name, folder, shared, *more), env=one,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while sum(killed.values()) < kills and process.poll() is None:
            time.sleep(dice.uniform(1.0, took))
            if process.poll() is not None:
                break
            if dice.random() < 0.5:
                killed["client"] += 1
                _end(process)
                break
            killed["worker"] += _kill_worker(process.pid, dice)
        _, said = process.communicate()
        ended = process.returncode == 0
        done = ended and sum(killed.values()) >= kills
        if ended and not done and runs > 4 * kills:
            print(f"  only {sum(killed.values())} of {kills} kills in {runs} runs")
            return False
        if not ended and process.returncode != -signal.SIGKILL:
            print(f"  exit {process.returncode}: {said.strip().splitlines()[-1:]}")
            if "refuses" in said or runs > 4 * kills:
                return False
    same = digest(kind, straight) == digest(kind, shared)
    left = [path.name for path in folder.iterdir() if "partial" in path.name]
    print(f"{kind:6} {name}: {runs} runs, killed {killed}, equal {same}, left behind {left}",
          flush=True)  # fmt: skip
    return same and not left


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a command, and its workers after it, as a machine that is switched off."""
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):  # it may just have ended
        children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()


def _kill_worker(pid: int, dice: random.Random) -> int:
    """Kill one of the workers of a command; returns how many were killed."""
    try:
        workers = [
            child
            for child in psutil.Process(pid).children(recursive=True)
            if "spawn_main" in " ".join(child.cmdline())
        ]
        if workers:
            dice.choice(workers).kill()
    except psutil.Error:  # it may just have ended
        return 0
    return len(workers[:1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=["freeze", "seams", "predict"])
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        (folder / "nets.py").write_text(NETWORKS)
        for name, (shape, _) in IMAGES.items():
            pixels = np.random.default_rng(0).random(shape, np.float32)
            np.save(folder / f"{name}.npy", pixels)
        fine = [
            survive(kind, name, folder, args.kills, args.seed)
            for kind in args.only
            for name in IMAGES
        ]
    finally:
        shutil.rmtree(folder)
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
