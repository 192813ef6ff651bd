"""What measuring seams costs: time as ratios within one run, memory while streaming.

``python benchmarks/seams.py [--axes 2] [--size 2048] [--tile auto] [--repeats 5] [--threads 1]``

Each way of measuring takes its turn in every round, and the shortest CPU time of each counts: the
machine may be shared, and measuring runs in the same thread as the network. ``none`` is 1.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc

import numpy as np
import torch

from seamscope import Settings, load_model, open_image, prepare
from seamscope.demo import sample_image
from seamscope.planning.case import Case
from seamscope.prediction.run import Finished, run
from seamscope.seams.meter import SeamMeter
from seamscope.tiling import TileGrid

WAYS = ("none", "sample", "all")


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    for model in ("batchnorm", "instancenorm"):
        _times(f"demo:{model}{'3d' if args.axes == 3 else ''}", args)
    _memory()


def _times(name: str, args: argparse.Namespace) -> None:
    model = load_model(name)
    small = np.asarray(sample_image("tissue3d" if args.axes == 3 else "tissue2d")[0])
    shape = (args.size,) * 2 if args.axes == 2 else (96, args.size // 8, args.size // 8)
    repeats = [-(-n // m) for n, m in zip(shape, small.shape, strict=True)]
    pixels = np.tile(small, repeats)[tuple(slice(0, n) for n in shape)]
    image = open_image(np.ascontiguousarray(pixels))
    tile = args.tile if args.tile == "auto" else int(args.tile)
    plan = prepare(image, model, Settings(tile=tile, halo=args.halo)).plan
    spent = {way: [] for way in WAYS}
    share: dict[str, str] = {}
    for _ in range(args.repeats + 1):  # the first round warms up
        for way in WAYS:
            asked = prepare(image, model, plan.settings.but(seams=way)).plan
            begin = time.process_time()
            *_, last = run(Case.planned(image, model, asked), None)
            spent[way].append(time.process_time() - begin)
            assert isinstance(last, Finished)
            report = last.seams
            share[way] = "-" if report is None else f"{report.measured} of {report.overlaps}"
    base = min(spent["none"][1:])
    print(f"\n{name}, {shape}, tile {plan.grid.tile_shape}, {plan.tiles} tiles, {base:.2f} s")
    for way in WAYS:
        best = min(spent[way][1:])
        print(f"  {way:8} {best / base:6.3f}   overlaps measured: {share[way]}")


def _memory() -> None:
    """Peak of the meter's memory, for images of growing size."""
    print("\nmeter's peak memory, tiles of 256 x 256 x 4, row by row")
    for rows in (8, 32, 128):
        grid = TileGrid.regular((rows * 160, 1600), 256, 48)
        prediction = np.random.default_rng(0).random((4, 256, 256), np.float32)
        tracemalloc.start()
        meter = SeamMeter(grid)
        for tile in grid:
            meter.see(tile, prediction)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        whole = len(grid) * prediction.nbytes
        print(f"  {len(grid):6} tiles {peak / 1e6:8.1f} MB, all predictions: {whole / 1e6:8.0f} MB")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", type=int, choices=(2, 3), default=2)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--tile", default="256")
    parser.add_argument("--halo", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
