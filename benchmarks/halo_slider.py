"""How long the picture takes to follow the halo's slider: one step, 2048 x 2048 with 4 channels.

``python benchmarks/halo_slider.py [--size 2048] [--channels 4] [--tile 256] [--halo 46]``

*stitch* moves the seams in the array, *layers* updates napari's layers, and *step* is all that the
dock's slider does, up to the moment when napari is free to draw. *paint* is napari's and OpenGL's,
and depends on the graphics card; without a display everything runs under Xvfb's software OpenGL.
The largest of many steps counts, not the mean: a slider that jerks now and then is not fluent. CPU
time is shown beside time on the clock, since the machine may be shared.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from seamscope import Settings, load_model, open_image
from seamscope.planning.case import Case
from seamscope.prediction.run import Finished, run


def main() -> None:
    args = _arguments()
    os.environ["NAPARI_CONFIG"] = ""  # the user's settings are neither read nor changed
    torch.set_num_threads(1)
    import napari
    from qtpy.QtWidgets import QApplication

    from seamscope.docks.evidence import Evidence
    from seamscope.docks.results import ResultLayers, Run
    from seamscope.docks.seams.dock import SeamsDock
    from seamscope.docks.session import Session
    from seamscope.prediction.output import open_output

    network = nn.Sequential(nn.Conv2d(1, args.channels, 9, padding=4), nn.Softmax(1))
    model = load_model(network.eval())
    pixels = np.random.default_rng(0).random((args.size, args.size), np.float32)
    viewer = napari.Viewer()
    viewer.window.resize(1400, 900)
    layer = viewer.add_image(pixels)
    image = open_image(pixels, axes="yx")
    asked = Settings(tile=args.tile, halo=args.halo, seams="all", accelerate=False)
    plan = Case.open(image, model, asked).plan
    made = Run(
        layer,
        image,
        model,
        plan,
        open_output(Case.planned(image, model, plan)),
        Evidence(keep=True),
    )
    layers = ResultLayers(viewer, made)
    evidence = made.evidence
    events = run(
        Case.planned(image, model, plan),
        made.output,
        watchers=evidence.watchers,
        meter=evidence.meter,
    )
    *_, last = events
    assert isinstance(last, Finished)
    evidence.finish(last.seams)
    layers.finish()
    dock = SeamsDock(viewer)
    viewer.window.add_dock_widget(dock, name="Seams")
    Session.of(viewer).add_run(made, layers.layers)
    most = dock.halo.most
    dock.halo.set_value(most // 2)  # makes the layers, once
    QApplication.processEvents()
    _report(args, plan, dock, QApplication.processEvents, _path(most))
    viewer.close()


def _path(most: int) -> list[int]:
    """Steps of one pixel, of ten, and to and fro."""
    return [*range(most), *range(most, 0, -10), *(0, most) * 5]


def _report(args: argparse.Namespace, plan, dock, draw: Callable, path: list[int]) -> None:
    stitched, layers = dock._stitched._now.stitched, dock._stitched._now.layers
    spent = {name: [] for name in ("stitch", "layers", "step", "paint")}
    for halo in path:
        spent["stitch"].append(_timed(lambda halo=halo: stitched.move(halo)))
        spent["layers"].append(_timed(layers.draw))
        draw()
    for halo in path:
        spent["step"].append(_timed(lambda halo=halo: dock.halo.set_value(halo)))
        spent["paint"].append(_timed(draw))
    print(f"{args.size} x {args.size} x {args.channels}, {plan.tiles} tiles, {len(path)} steps")
    print("  CPU time of the window's thread, and time on the clock, in ms")
    for name, values in spent.items():
        (cpu, clock), (most_cpu, most_clock) = np.median(values, 0), np.max(values, 0)
        print(
            f"  {name:7} median {cpu:6.1f} {clock:6.1f}   largest {most_cpu:6.1f} {most_clock:6.1f}"
        )


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    begin = time.thread_time(), time.perf_counter()
    work()
    return 1000 * (time.thread_time() - begin[0]), 1000 * (time.perf_counter() - begin[1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--halo", type=int, default=46)
    return parser.parse_args()


if __name__ == "__main__":
    main()
