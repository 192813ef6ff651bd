"""Whole predictions against other tools, as ratios within one run.

``python benchmarks/prediction.py [--quick] [--threads 1] [--repeats 3] [--python NAME=PATH ...]``

Each contender lives in a process of its own with the same network, tile and halo; they take turns,
and the shortest time of each counts. Tools that are not installed here are run by the interpreter
named with ``--python MONAI=.venv-monai/bin/python``, or left out. Parts: ``--only networks``
(2-D and 3-D U-Nets), ``overhead`` (a network that costs nothing) or ``memory`` (zarr to zarr, an
image and one ten times as large).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CASES = {
    "2D, 2048 x 2048": {"shape": (2048, 2048), "tile": (256, 256), "halo": (48, 48)},
    "3D, 96 x 256 x 256": {"shape": (96, 256, 256), "tile": (64, 96, 96), "halo": (24, 24, 24)},
}
QUICK = {
    "2D, 1024 x 1024": {"shape": (1024, 1024), "tile": (256, 256), "halo": (48, 48)},
    "3D, 64 x 160 x 160": {"shape": (64, 160, 160), "tile": (64, 96, 96), "halo": (24, 24, 24)},
}
OVERHEAD = {
    "2D, 4096 x 4096": {"shape": (4096, 4096), "tile": (256, 256), "halo": (48, 48)},
    "3D, 128 x 384 x 384": {"shape": (128, 384, 384), "tile": (64, 96, 96), "halo": (16, 24, 24)},
}


class Contender:
    """A process that predicts on demand."""

    def __init__(self, name: str, case: dict[str, Any], python: str) -> None:
        self.name, self.answers = name, list[dict[str, Any]]()
        command = [python, str(HERE / "contender.py"), name, json.dumps(case)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.missing: str | None = self._answer().get("missing")

    def predict(self) -> dict[str, Any]:
        """Let it predict once; return its figures."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.answers.append(self._answer())
        return self.answers[-1]

    def best(self, figure: str) -> float:
        """Return the smallest value of a figure."""
        return min(answer[figure] for answer in self.answers)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise SystemExit(f"{self.name} ended without an answer")


def compete(
    names: list[str], case: dict[str, Any], asked: argparse.Namespace
) -> dict[str, Contender]:
    """Let all predict in turn; the first turn only warms up, unless it is the only one."""
    contenders = {}
    for name in names:
        contender = Contender(name, case | {"result": _result(case, name)}, _python(asked, name))
        if contender.missing:
            print(f"  {name}: left out ({contender.missing})")
        else:
            contenders[name] = contender
    for turn in range(asked.repeats + 1):
        for contender in contenders.values():
            contender.predict()
        if turn == 0 and asked.repeats:
            for contender in contenders.values():
                contender.answers.clear()
    for contender in contenders.values():
        contender.close()
    return contenders


def _result(case: dict[str, Any], name: str) -> str:
    return str(Path(case["image"]).with_name(f"{name}.npy"))


def _python(asked: argparse.Namespace, name: str) -> str:
    known = dict(pair.split("=", 1) for pair in asked.python)
    return next((p for tool, p in known.items() if name.startswith(tool)), sys.executable)


def networks(asked: argparse.Namespace) -> None:
    """Print times relative to MONAI and to the plain network's own forwards."""
    names = ["forward", "MONAI, batch 1", "MONAI, batch 4", "torch_em", "Seamscope, plain"]
    names += ["Seamscope", "Seamscope, no seams", "Seamscope, all seams"]
    names += ["Seamscope, huge pages", "Seamscope, kept memory"]
    names += [f"Seamscope, auto tile{m}" for m in ("", ", huge pages", ", kept memory")]
    names = [name for name in names if not asked.contenders or name in asked.contenders]
    for title, case in (QUICK if asked.quick else CASES).items():
        if len(case["shape"]) not in asked.axes:
            continue
        print(f"\n{title}, tile {case['tile']}, halo {case['halo']}, {asked.threads} thread(s)")
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder) / "image.npy"
            np.save(image, _image(case["shape"]))
            full = _case(case, asked, "batch", image)
            one = argparse.Namespace(**{**vars(asked), "repeats": 0})
            compete(["whole"], full, one)
            right = np.load(_result(full, "whole"))
            done = compete(names, full, asked)
            monai = [c.best(asked.clock) for n, c in done.items() if n.startswith("MONAI")]
            forward = done["forward"].best(asked.clock) if "forward" in done else float("nan")
            print(
                f"  {'':<34}{'seconds':>9}{'/ MONAI':>9}{'/ forward':>10}{'engine':>8}{'off by':>9}"
            )
            for name, contender in done.items():
                seconds = contender.best(asked.clock)
                ratio = f"{seconds / min(monai):9.2f}" if monai else f"{'-':>9}"
                line = f"  {name:<34}{seconds:9.2f}{ratio}{seconds / forward:10.2f}"
                print(line + _engine(contender) + _off_by(full, name, right) + _way(contender))


def _engine(contender: Contender) -> str:
    """Wall time of the run, over the time that its network ran."""
    shares = [
        answer["run_seconds"] / answer["network_seconds_of_run"]
        for answer in contender.answers
        if "run_seconds" in answer
    ]
    return f"{min(shares):8.3f}" if shares else " " * 8


def _off_by(case: dict[str, Any], name: str, right: np.ndarray) -> str:
    path = Path(_result(case, name))
    if not path.exists():
        return " " * 9
    return f"{np.abs(np.load(path) - right).max() / right.std():9.1e}"


def _way(contender: Contender) -> str:
    last = contender.answers[-1]
    return f"  {last['way']}, {last['tiles']} tiles of {last['tile']}" if "way" in last else ""


def overhead(asked: argparse.Namespace) -> None:
    """Print milliseconds per tile where the network costs nothing."""
    names = ["loop", "MONAI, batch 1", "MONAI, batch 4", "torch_em", "Seamscope, plain"]
    for title, case in OVERHEAD.items():
        print(f"\nA network that costs nothing: {title}, tile {case['tile']}, halo {case['halo']}")
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder) / "image.npy"
            np.save(image, _image(case["shape"]))
            done = compete(names, _case(case, asked, "free", image), asked)
            tiles = done["Seamscope, plain"].answers[-1]["tiles"]
            for name, contender in done.items():
                print(f"  {name:<34}{contender.best(asked.clock) / tiles * 1e3:9.3f} ms per tile")


def memory(asked: argparse.Namespace) -> None:
    """Print the largest anonymous memory for an image and one ten times as large."""
    import zarr

    print("\nzarr to zarr, tile 256, halo 48: largest anonymous memory")
    tile, halo = (256, 256), (48, 48)
    for name in ("Seamscope", "Seamscope, huge pages", "Seamscope, kept memory"):
        peaks = []
        for rows in (2048, 20480):
            with tempfile.TemporaryDirectory() as folder:
                shape = (rows, 1024 if asked.quick else 2048)
                path, out = str(Path(folder) / "in.zarr"), str(Path(folder) / "out.zarr")
                array = zarr.create_array(path, shape=shape, chunks=(512, 512), dtype="f4")
                for row in range(0, rows, 512):
                    array[row : row + 512] = _image((512, shape[1]))
                case = {"tile": tile, "halo": halo, "axes": 2, "network": "batch", "peak": True}
                case |= {"threads": asked.threads, "image": path, "out": out}
                contender = Contender(name, case, sys.executable)
                peaks.append(contender.predict()["peak"] / 2**20)
                contender.close()
        small, large = peaks
        print(f"  {name:<34}{small:7.0f} MiB, ten times: {large:7.0f} MiB, x {large / small:.2f}")


def _case(
    case: dict[str, Any], asked: argparse.Namespace, kind: str, image: Path
) -> dict[str, Any]:
    more = {"axes": len(case["shape"]), "threads": asked.threads, "network": kind}
    return {**case, **more, "image": str(image)}


def _image(shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(0)
    return noise.standard_normal(shape, dtype=np.float32)


PARTS = {"networks": networks, "overhead": overhead, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--python", nargs="*", default=[], metavar="TOOL=PATH")
    parser.add_argument("--axes", type=int, nargs="+", default=[2, 3], help="2-D, 3-D or both")
    parser.add_argument("--contenders", nargs="*", metavar="NAME", help="these only")
    parser.add_argument("--only", choices=PARTS, help="one part")
    asked = parser.parse_args()
    for name, part in PARTS.items():
        if asked.only in (None, name):
            part(asked)


if __name__ == "__main__":
    main()
