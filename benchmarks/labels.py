"""How long labels take: building the graph, a new threshold, painting; and the memory.

``python benchmarks/labels.py [--size 2048,1536] [--seed 0]``

The prediction is drawn: smooth noise, about as many objects as dense nuclei have. Each row is the
best of several repetitions, in CPU time of one thread. *graph* finds basins, passes and the tree;
*threshold* is a new cut, its count of objects included; *paint* looks up the whole view;
*step* is what a slider does: cut and paint by name. scikit-image's watershed, which has to start
again for each threshold, is the row to compare with.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

import seamscope
from seamscope.segmentation.recipe import LEVELS


def seconds(function: Callable[[], Any], times: int = 3) -> float:
    """Return the least CPU time of several calls."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        function()
        taken.append(time.process_time() - start)
    return min(taken)


def drawn(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Draw probabilities."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape, np.float32), 4)
    return (noise - noise.min()) / np.ptp(noise)


def measure(p: np.ndarray, kind: str, name: str, values: tuple[float, ...]) -> None:
    """Print the rows of one recipe."""
    view = tuple(slice(0, n) for n in p.shape)
    found = seamscope.segment(p, kind=kind)
    build = seconds(lambda: seamscope.segment(p, kind=kind))
    print(f"{kind}: {found.basins.count} basins, {len(found.basins.passes)} passes")
    print(f"  graph      {1e9 * build / p.size:8.1f} for a megapixel")
    for value in values:
        setting = {name: value}
        cut = seconds(lambda s=setting: found.at(**s).count)
        current = found.at(**setting)
        objects = current.count
        paint = seconds(lambda c=current: c.paint(view))
        step = seconds(lambda s=setting: found.at(**s).paint_named(view))
        print(
            f"  {name} {value:<5} threshold {1000 * cut:6.1f}  paint {1000 * paint:6.1f}  "
            f"step {1000 * step:6.1f}  {objects} objects"
        )
    print(f"  curve      {1000 * seconds(found.curve):8.1f} for all thresholds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="2048,1536")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shape = tuple(int(n) for n in args.size.split(","))
    p = drawn(shape, args.seed)
    pixels = p.size / 1e6
    print(f"{args.size} pixels; milliseconds of CPU time, one thread")
    for kind, name, values in (
        ("components", "threshold", (0.45, 0.5, 0.55)),
        ("boundaries", "seed_threshold", (0.4, 0.45, 0.5)),
        ("distance", "dynamics", (0.5, 1.0, 2.0)),
    ):
        measure(p, kind, name, values)
    heights = np.floor(p * float(LEVELS))
    seeds = ndimage.label(heights < 0.45 * LEVELS)[0]
    flood = seconds(lambda: watershed(heights, seeds), 1)
    print(f"scikit-image watershed {1000 * flood / pixels:.1f} for a megapixel and threshold")
    tracemalloc.start()
    seamscope.segment(p, kind="boundaries", blocks=512)
    peak = tracemalloc.get_traced_memory()[1]
    print(f"peak memory of a graph in blocks of 512: {peak / p.size:.1f} bytes a pixel")


if __name__ == "__main__":
    main()
