"""Kill ``segment`` at random moments, and compare its labels with those of a run left alone.

``python benchmarks/label_kills.py --kills 20``. Each command is run once to its end. Then it is
begun again with two workers, and one process of it is killed (SIGKILL) at a random moment: a
worker, or the client. If the command ended, it is repeated with ``--resume``. Checked are the
pixels, which must be equal, and the marks: none may vanish, and none may be written a second time.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import zarr
from scipy import ndimage

COMMANDS = {
    "components": "flat.zarr OUT --recipe components --fill-holes --block 96",
    "boundaries, 3D": "deep.zarr OUT --recipe boundaries --block 24",
    "with a network": (
        "image.npy OUT --model demo:batchnorm --tile 128 --recipe boundaries --channel 2 --block 96"
    ),
}


@dataclass
class Kept:
    """The marks of a run: when each was written."""

    folders: tuple[Path, ...]
    seen: dict[Path, int] = field(default_factory=dict)
    again: int = 0
    lost: int = 0

    def look(self, *, ended: bool) -> None:
        """Compare the marks with those before."""
        now = {}
        for folder in self.folders:
            if folder.is_dir():
                for mark in os.scandir(folder):
                    if mark.name.isdecimal():
                        now[Path(mark.path)] = mark.stat().st_mtime_ns
        if not ended:  # else they are gone with the result in its place
            self.lost += sum(mark not in now for mark in self.seen)
        self.again += sum(now[mark] != when for mark, when in self.seen.items() if mark in now)
        self.seen = now


def words(command: str, out: str) -> list[str]:
    """Return a command with the name of its result."""
    given = command.replace("OUT", out).split()
    return [sys.executable, "-m", "seamscope", "segment", *given, "--quiet"]


def victims(process: subprocess.Popen[bytes]) -> tuple[list[psutil.Process], psutil.Process]:
    """Return the workers of a command, and the command."""
    client = psutil.Process(process.pid)
    children = client.children(recursive=True)
    return [c for c in children if "spawn_main" in " ".join(c.cmdline())], client


def kill_one(process: subprocess.Popen[bytes], chance: random.Random) -> str:
    """Kill a worker or the client; returns which."""
    try:
        workers, client = victims(process)
        victim = chance.choice(workers) if workers and chance.random() < 0.5 else client
        victim.kill()
    except psutil.Error:
        return "none"
    return "client" if victim == client else "worker"


def one(name: str, folder: Path, kills: int, chance: random.Random) -> bool:
    """Carry a command out with so many kills; returns whether all was well."""
    command = COMMANDS[name]
    begin = time.perf_counter()
    subprocess.run(words(command, "whole.zarr"), cwd=folder, check=True)
    length = time.perf_counter() - begin
    out = folder / "out.zarr"
    basins = folder / ".out.zarr.basins"
    kept = Kept((folder / ".out.zarr.ledger", basins / ".prediction.zarr.ledger"))
    killed: list[str] = []
    runs = 0
    while runs < kills + 9:
        runs += 1
        process = subprocess.Popen(
            [*words(command, "out.zarr"), "--workers", "2", "--resume"], cwd=folder
        )
        while len(killed) < kills:
            try:
                process.wait(chance.uniform(0.2, 1) * length)
                break
            except subprocess.TimeoutExpired:
                killed.append(kill_one(process, chance))
                kept.look(ended=out.exists())
                if killed[-1] == "client":
                    break
        code = process.wait(600)
        kept.look(ended=out.exists())
        if out.exists() and len(killed) >= kills:
            break
        if out.exists():  # too fast: begin again
            shutil.rmtree(out)
            kept = Kept(kept.folders, again=kept.again, lost=kept.lost)
        elif code not in (0, -9, 1):
            print(f"{name}: exit code {code}")
            return False
    else:
        print(f"{name}: did not end after {runs} runs")
        return False
    equal = np.array_equal(zarr.open(str(out))[:], zarr.open(str(folder / "whole.zarr"))[:])
    hidden = sorted(path.name for path in folder.glob(".*"))
    print(
        f"{name}: {killed.count('worker')} workers and {killed.count('client')} clients killed, "
        f"{runs} runs, {'equal' if equal else 'DIFFERENT'}, {kept.lost} marks lost, "
        f"{kept.again} written again, left behind: {hidden or 'nothing'}",
        flush=True,
    )
    for path in (out, folder / "whole.zarr"):
        shutil.rmtree(path)
    return equal and not kept.lost and not kept.again and not hidden


def _inputs(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, shape in (("flat", (900, 1000)), ("deep", (72, 120, 130))):
        values = ndimage.gaussian_filter(rng.random(shape), 2)
        values = (values - values.min()) / (values.max() - values.min())
        array = zarr.create_array(
            str(folder / f"{name}.zarr"), shape=shape, chunks=(128,) * len(shape), dtype="f4",
            dimension_names=list("zyx"[-len(shape) :]),
        )  # fmt: skip
        array[:] = values
    np.save(folder / "image.npy", rng.random((900, 1000), np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance, left = random.Random(args.seed), args.kills
    with tempfile.TemporaryDirectory() as made:
        _inputs(Path(made))
        fine = []
        for number, name in enumerate(COMMANDS):
            mine = left // (len(COMMANDS) - number)
            left -= mine
            fine.append(one(name, Path(made), mine, chance))
    sys.exit(not all(fine))


if __name__ == "__main__":
    main()
