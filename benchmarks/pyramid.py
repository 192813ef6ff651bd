"""What the lower resolutions of an OME-Zarr result cost: a prediction with and without them.

``python benchmarks/pyramid.py --size 2048``. Both ways in one process, in turn; CPU time, since the
ratio of two waits says more about the machine than about the program.

The goal of 10% is that of a prediction with the demo network. Writing alone cannot reach it: lower
resolutions are a third more chunks of the same size, and *chunks alone* is what these take to be
compressed and stored, without computing one pixel of them.
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


def chunks_alone(data: np.ndarray, path: Path, ome: OmeZarr) -> None:
    """Write the first rows of chunks again into an array of its own, as many as the levels have."""
    write(data, path, OmeZarr(pyramid=False))
    if ome.pyramid:
        count, levels = data.shape[0] // BLOCK, 0.0
        while count > 1:
            count = -(-count // 2)
            levels += count**2
        rows = BLOCK * -(-int(levels) * BLOCK // data.shape[1])
        write(data[:rows], path.with_name("more.ome.zarr"), OmeZarr(pyramid=False))


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
    for act in (predict, write, chunks_alone):
        seconds(act, data, True)  # once, to load what is loaded late
        pairs = [(seconds(act, data, False), seconds(act, data, True)) for _ in range(args.repeats)]
        without, full = (min(column) for column in zip(*pairs, strict=True))
        print(
            f"{act.__name__:12} without {without:.3f}  with {full:.3f}  ratio {full / without:.3f}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    MODEL = seamscope.load_model("demo:batchnorm")
    main()
