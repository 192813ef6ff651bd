"""What the lower resolutions of an OME-Zarr result cost: a prediction with and without them.

``python benchmarks/pyramid.py --size 2048``. Both ways in one process, in turn; CPU time, since the
ratio of two waits says more about the machine than about the program.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import seamscope
from seamscope.images.ngff import OmeZarr
from seamscope.images.results.create import create_output

BLOCK = 256


def write(data: np.ndarray, path: Path, ome: OmeZarr) -> None:
    how = {"axes": "yx", "scale": (1, 1), "units": ("pixel",) * 2, "chunks": (BLOCK, BLOCK)}
    with create_output(path, data.shape, "f4", ome=ome, **how) as output:
        for y in range(0, data.shape[0], BLOCK):
            for x in range(0, data.shape[1], BLOCK):
                region = (slice(y, y + BLOCK), slice(x, x + BLOCK))
                output.write(region, data[region])
        output.finish()


def predict(data: np.ndarray, path: Path, ome: OmeZarr) -> None:
    how = {"tile": BLOCK, "halo": 32, "seams": "none", "accelerate": False}
    seamscope.predict(data, MODEL, path, ome=ome, **how)


def seconds(
    act: Callable[[np.ndarray, Path, OmeZarr], None], data: np.ndarray, full: bool
) -> float:
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        act(data, Path(folder) / "out.ome.zarr", OmeZarr(pyramid=full))
        return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    data = np.random.default_rng(0).random((args.size, args.size)).astype("f4")
    print(f"{args.size} x {args.size} pixels; seconds of CPU time, one thread, smallest")
    for act in (predict, write):
        seconds(act, data, True)  # once, to load what is loaded late
        pairs = [(seconds(act, data, False), seconds(act, data, True)) for _ in range(args.repeats)]
        without, full = (min(column) for column in zip(*pairs, strict=True))
        print(
            f"{act.__name__:8} without {without:.3f}  with {full:.3f}  ratio {full / without:.3f}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    MODEL = seamscope.load_model("demo:batchnorm")
    main()
