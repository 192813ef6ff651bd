"""Kill commands at random moments, resume them, and compare with runs that are left alone.

``python -m benchmarks.kills --kills 20``. Each command runs once to its end. Then it runs with two
workers, or in one process, gets SIGKILL (a worker, the command, or both as when a machine is
switched off) after a random time, and is resumed, until so many kills were survived and the last
run ends. All pixels and numbers must be equal to the last bit, nothing may be left behind, and no
block may be done again that was marked.

Processes are forked from one that has imported everything, so that a run takes a second or two.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import psutil

_LOG = "KILLS_LOG"
# Seconds that a run may take, far more than it needs.
_PATIENCE = 180
NETWORKS = """
import torch
from torch import nn

def net(conv, norm):
    torch.manual_seed(1)
    return nn.Sequential(conv(1, 4, 3, padding=1), norm(4), nn.ReLU(), conv(4, 4, 3, padding=1),
                         norm(4), nn.ReLU(), conv(4, 2, 3, padding=1))

def flat():
    return net(nn.Conv2d, nn.InstanceNorm2d)

def deep():
    return net(nn.Conv3d, nn.InstanceNorm3d)
"""
SHAPES = {"flat": (330, 370), "deep": (30, 80, 130)}
TILES = {"flat": "--tile 64 --axes yx", "deep": "--tile 32,48,48 --axes zyx"}
HOW = "--trust --no-accelerate --normalize zscore"
COMMANDS = {
    "predict, crop": f"predict IMAGE NET OUT.zarr TILE {HOW} --seams none",
    "predict, linear": f"predict IMAGE NET OUT.zarr TILE {HOW} --blend linear --seams sample",
    "predict, 0.4": f"predict IMAGE NET OUT.ome.zarr TILE {HOW} --seams none --ome-version 0.4",
    "predict, 0.5": f"predict IMAGE NET OUT.ome.zarr TILE {HOW} --seams none",
    "predict, map": f"predict IMAGE.tif NET OUT.tif TILE {HOW} --seams none",
    "predict, map cog": f"predict IMAGE.tif NET OUT.cog.tif TILE {HOW} --seams none",
    "segment": "segment PREDICTION OUT.zarr --recipe components --fill-holes --block BLOCK",
    "segment, pyramid": "segment PREDICTION OUT.ome.zarr --recipe boundaries --block BLOCK",
    "segment, network": (
        f"segment IMAGE OUT.zarr --model NET TILE {HOW} --recipe components --values logits "
        "--channel 0 --block BLOCK"
    ),
    "freeze": f"freeze IMAGE NET OUT TILE {HOW}",
    "seams": f"seams IMAGE NET --json OUT TILE {HOW} --no-explain --halo 4",
}


def _note_blocks() -> None:
    """Note in a file each block that is begun, in this process and in its workers."""
    from seamscope.execution import worker
    from seamscope.ledger import Ledger

    do, mark = worker._Run.do, Ledger.mark

    def noted(self: Any, order: Any) -> Any:
        _note(f"begun {Path(order.ledger).name} {order.block}")
        return do(self, order)

    def marked(self: Any, block: int, *more: Any, **how: Any) -> None:
        mark(self, block, *more, **how)
        _note(f"marked {self.folder.name} {block}")

    worker._Run.do, Ledger.mark = noted, marked  # type: ignore[method-assign]


def _note(line: str) -> None:
    file = os.open(os.environ[_LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


if os.environ.get(_LOG) and __name__ != "__main__":  # in a worker, which imports this file
    _note_blocks()


# -- processes


def _start_server() -> int:
    """Start the process that workers are forked from; return its number."""
    forkserver.set_forkserver_preload(
        ["distributed", "torch", "zarr", "seamscope.execution.block", "seamscope.execution.run",
         "seamscope.execution.measuring", "seamscope.fixed_statistics.blocks",
         "seamscope.segmentation.labelling"]
    )  # fmt: skip
    forkserver.ensure_running()
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    server.ensure_running = lambda: None  # of a process whose child it is not
    found: int = server._forkserver_pid
    return found


def _forked(words: list[str], folder: Path) -> int:
    """Begin a command in a process of its own; return its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        import dask

        from seamscope.cli import app

        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
        _note_blocks()
        try:
            app(words, prog_name="seamscope")
        except SystemExit as end:
            code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ended(process: int, seconds: float) -> int | None:
    """Return the exit code of a command that ends in this time, else None."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


# -- one command


@dataclass
class Campaign:
    """One command in two or three dimensions, and what became of it.

    Attributes
    ----------
    name, image
        Of the command and of its image.
    folder
        Where its files are.
    server
        Process that workers are forked from.
    dice
        Decides who is killed, and when.
    """

    name: str
    image: str
    folder: Path
    server: int
    dice: random.Random
    killed: collections.Counter[str] = field(default_factory=collections.Counter)
    runs: int = 0

    def words(self, out: str) -> list[str]:
        """Return the command with the name of its result."""
        block = {"flat": "64", "deep": "20"}[self.image]
        ending = "tif" if "map" in self.name else "npy"
        text = COMMANDS[self.name].replace("IMAGE.tif", "IMAGE").replace("TILE", TILES[self.image])
        text = text.replace("IMAGE", f"{self.image}.{ending}")
        text = text.replace("PREDICTION", f"{self.image}-prediction.zarr")
        text = text.replace("NET", f"nets.py:{self.image}").replace("BLOCK", block)
        return [*text.replace("OUT", out).split(), "--quiet"]

    def survive(self, kills: int, workers: int) -> bool:
        """Kill the command so often; returns whether all was well."""
        whole = f"whole-{self.image}"
        if self._run(self.words(whole)) != 0:
            return self._failed("the run that is left alone")
        begin, out = time.monotonic(), f"out-{self.image}"
        first = [*self.words(out), *self._shared(workers)]
        if self._run(first) != 0:
            return self._failed("the first run")
        took, fresh, ended = time.monotonic() - begin, True, True
        self.log.unlink(missing_ok=True)
        again = orders = 0
        while sum(self.killed.values()) < kills or not ended:
            self.runs += 1
            if self.runs > 6 * kills + 10:
                return self._failed(f"only {self.killed} in {self.runs} runs")
            fresh = ended
            if fresh:
                again, orders = again + self._again()[0], orders + self._again()[1]
                self.log.unlink(missing_ok=True)
                remove(self.folder, f"*{out}*")
            begin = time.monotonic()
            code = self._killed([*first, *([] if fresh else ["--resume"])], kills, took)
            if fresh and code == 0:
                took = min(took, time.monotonic() - begin)
            if code not in (0, 1, -signal.SIGKILL):
                return self._failed(f"exit code {code}")
            if code == 1 and not self._may_end_so():
                return self._failed("it cannot be resumed")
            ended = code == 0
        more = self._again()
        return self._judged(workers, whole, out, again + more[0], orders + more[1], took)

    def _shared(self, workers: int) -> list[str]:
        return ["--workers", str(workers)] if workers else []

    def _run(self, words: list[str]) -> int | None:
        process = _forked(words, self.folder)
        code = _ended(process, _PATIENCE)
        if code is None:
            os.kill(process, signal.SIGKILL)
            _ended(process, 5)
        return code

    def _killed(self, words: list[str], kills: int, took: float) -> int | None:
        """Run a command, and kill some of its processes; return its exit code."""
        before = {child.pid for child in self._children()}
        process = _forked(words, self.folder)
        while sum(self.killed.values()) < kills:
            code = _ended(process, self.dice.uniform(0.05, 1) * took)
            if code is not None:
                return code
            workers = [each for each in self._children() if each.pid not in before]
            whom = self.dice.choice(["worker", "worker", "client", "all"] if workers else ["all"])
            if whom == "worker":
                with contextlib.suppress(psutil.Error):
                    self.dice.choice(workers).kill()
                    self.killed["worker"] += 1
                continue
            os.kill(process, signal.SIGKILL)
            for each in workers if whom == "all" else ():
                with contextlib.suppress(psutil.Error):
                    each.kill()
            self.killed[whom] += 1
            break
        code = _ended(process, _PATIENCE)
        if code is None:
            os.kill(process, signal.SIGKILL)
            _ended(process, 5)
        return code

    def _children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.server).children()
        return []

    def _may_end_so(self) -> bool:
        """Whether a run that failed said that another one goes on."""
        refused = ("cannot be resumed", "cannot be opened")
        return "resume" in self.said and not any(words in self.said for words in refused)

    @property
    def said(self) -> str:
        """What the last run said."""
        return (self.folder / "said").read_text()

    @property
    def log(self) -> Path:
        """Where blocks are noted."""
        return Path(os.environ[_LOG])

    def _again(self) -> tuple[int, int]:
        """Count blocks that were marked more than once, and all that were begun."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        marked = collections.Counter(line for line in lines if line.startswith("marked"))
        begun = collections.Counter(line for line in lines if line.startswith("begun"))
        twice = sum(count - 1 for count in marked.values())
        if twice:
            each = sorted(line for line, count in marked.items() if count > 1)
            print(f"  more than once: {', '.join(each[:9])}", flush=True)
        return twice, sum(count - 1 for count in begun.values())

    def _judged(
        self, workers: int, whole: str, out: str, twice: int, again: int, took: float
    ) -> bool:
        same = digest(self.folder, whole) == digest(self.folder, out)
        hidden = sorted(
            path.name for path in self.folder.iterdir()
            if path.name.startswith(f".{out}") or "partial" in path.name
        )  # fmt: skip
        print(
            f"{self.name}, {self.image}, {workers or 'no'} workers: {self.runs} runs of "
            f"{took:.1f} s, killed {dict(self.killed)}, {'equal' if same else 'DIFFERENT'}, "
            f"{twice} blocks marked twice, {again} begun again, left behind: {hidden or 'nothing'}",
            flush=True,
        )
        return same and not hidden

    def _failed(self, why: str) -> bool:
        print(f"{self.name}, {self.image}: FAILED, {why}\n{self.said[-2000:]}", flush=True)
        return False


def digest(folder: Path, name: str) -> str:
    """Stands for all pixels or numbers of a result."""
    [path] = [each for each in folder.glob(f"{name}*") if not each.name.endswith(".tif.json")]
    if path.suffix == ".zarr":
        return hashlib.sha256(b"".join(_levels(path))).hexdigest()
    if path.suffix == ".tif":
        import tifffile

        return hashlib.sha256(tifffile.imread(path).tobytes()).hexdigest()
    with contextlib.suppress(ValueError):
        found: dict[str, Any] = json.loads(path.read_text())
        return json.dumps(found, sort_keys=True)
    from seamscope.normalization.statistics import Statistics

    return Statistics.load(path).digest


def remove(folder: Path, pattern: str) -> None:
    """Delete files and folders."""
    for path in folder.glob(pattern):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _levels(path: Path) -> Iterator[bytes]:
    import zarr

    opened: Any = zarr.open(str(path), mode="r")
    arrays = [opened] if hasattr(opened, "shape") else [a for _, a in sorted(opened.arrays())]
    for array in arrays:
        yield str(array.shape).encode() + np.asarray(array[...]).tobytes()


# -- all of them


def _inputs(folder: Path) -> None:
    from scipy import ndimage

    (folder / "nets.py").write_text(NETWORKS)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        np.save(folder / f"{name}.npy", rng.random(shape, np.float32))
        values = ndimage.gaussian_filter(rng.random(shape), 2)
        values = (values - values.min()) / (values.max() - values.min())
        import zarr

        array = zarr.create_array(
            str(folder / f"{name}-prediction.zarr"), shape=shape, chunks=(128,) * len(shape),
            dtype="f4", dimension_names=list("zyx"[-len(shape) :]),
        )  # fmt: skip
        array[:] = values
    _write_map(folder / "flat.tif", np.load(folder / "flat.npy"))


def _write_map(path: Path, values: np.ndarray) -> None:
    import rasterio

    how = {"driver": "GTiff", "dtype": "float32", "count": 1, "crs": "EPSG:32632"}
    height, width = values.shape
    place = rasterio.Affine(2, 0, 500000, 0, -2, 4100000)
    with rasterio.open(path, "w", height=height, width=width, transform=place, **how) as made:
        made.write(values, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each command, with workers")
    parser.add_argument("--alone", type=int, default=10, help="of each command, without workers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(COMMANDS))
    parser.add_argument("--images", nargs="*", default=list(SHAPES))
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    os.environ |= {"OMP_NUM_THREADS": "1", "SEAMSCOPE_CACHE": str(folder / "cache"),
                   _LOG: str(folder / "log")}  # fmt: skip
    fine = []
    try:
        _inputs(folder)
        import torch

        import seamscope.cli
        import seamscope.compare.before_after
        import seamscope.execution.measuring
        import seamscope.fixed_statistics.freezing
        import seamscope.segmentation.labelling  # noqa: F401

        torch.set_num_threads(1)
        server = _start_server()
        for name in args.only:
            for image in args.images:
                if "map" in name and image == "deep":
                    continue
                for kills, workers in ((args.kills, 2), (args.alone, 0)):
                    dice = random.Random(f"{args.seed} {name} {image} {workers}")
                    (folder / "log").unlink(missing_ok=True)
                    if kills:
                        each = Campaign(name, image, folder, server, dice)
                        fine.append(each.survive(kills, workers))
                    remove(folder, "*whole-*")
                    remove(folder, "*out-*")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("all well" if all(fine) else f"{fine.count(False)} of {len(fine)} FAILED", flush=True)
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
