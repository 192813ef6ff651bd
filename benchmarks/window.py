"""Which callbacks keep the window from answering, and whose they are.

``xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/window.py [--size 20000] [--least 50]``

Plays the steps from a lazy image to labels, with a network that costs nothing and a result on disk,
and times every event that Qt delivers by the CPU time of the window's thread: a busy machine does
not change that much. One row for each callback that took longer than ``--least`` milliseconds: what
was done, CPU time, time on the clock, the part of it in Python's garbage collection, the share of
samples below napari's and vispy's functions, and the last function of Seamscope on the stack. Time
in OpenGL is that of the driver; without a display, of the CPU.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from qtpy.QtWidgets import QApplication
from torch import nn

_SAMPLE = 0.003  # seconds
_PATIENCE = 3600.0
_FOREIGN = ("napari", "vispy", "OpenGL", "pint")


@dataclass
class Callback:
    """One event that Qt delivered, or one direct call."""

    act: str
    seconds: float = 0.0
    wall: float = 0.0
    collecting: float = 0.0
    samples: list[tuple[float, list[Any]]] = field(default_factory=list)

    def shares(self) -> tuple[float, str]:
        """Part of the time below foreign functions, and the most frequent last own function."""
        last: Counter[str] = Counter()
        foreign = 0.0
        for spent, codes in self.samples:
            own = [i for i, code in enumerate(codes) if "seamscope" in code.co_filename]
            after = codes[own[-1] + 1 if own else 0 :]
            foreign += spent * any(_is_foreign(code.co_filename) for code in after)
            last[codes[own[-1]].co_qualname if own else "-"] += spent
        total = sum(last.values()) or 1.0
        return foreign / total, last.most_common(1)[0][0] if last else "-"


def _is_foreign(path: str) -> bool:
    return any(f"site-packages/{name}/" in path for name in _FOREIGN)


class Timed(QApplication):
    """Times every event that is delivered from the event loop."""

    def __init__(self) -> None:
        super().__init__([])
        self.act = ""
        self.now: Callback | None = None
        self.all: list[Callback] = []
        gc.callbacks.append(self._collects)
        threading.Thread(target=self._sample, args=(threading.get_ident(),), daemon=True).start()

    def notify(self, receiver: Any, event: Any) -> bool:
        """Deliver an event."""
        if self.now is not None:
            return bool(super().notify(receiver, event))
        return bool(self.timed(lambda: super(Timed, self).notify(receiver, event)))

    def timed(self, call: Callable[[], Any]) -> Any:
        """Call and time."""
        self.now = own = Callback(self.act)
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            return call()
        finally:
            own.seconds, own.wall = time.thread_time() - cpu, time.perf_counter() - wall
            self.now = None
            self.all.append(own)

    def _collects(self, phase: str, _: Any) -> None:
        if self.now is not None and threading.current_thread() is threading.main_thread():
            self.now.collecting += time.thread_time() * (1 if phase == "stop" else -1)

    def _sample(self, window: int) -> None:
        clock = time.pthread_getcpuclockid(window)
        before = time.clock_gettime(clock)
        while True:
            time.sleep(_SAMPLE)
            spent = time.clock_gettime(clock) - before
            before += spent
            own, frame, codes = self.now, sys._current_frames().get(window), []
            while frame is not None:
                codes.append(frame.f_code)
                frame = frame.f_back
            if own is not None:
                own.samples.append((spent, codes[::-1]))


class Net(nn.Module):
    """Two classes, at next to no cost; seams with a halo below 2."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.near = nn.Conv2d(1, 1, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, 1, H, W)`` to ``(N, 2, H, W)``."""
        return torch.softmax(torch.cat([3 * x + 0.1 * self.near(x), -3 * x], 1), 1)


class Play:
    """Does one thing after the other, and lets the window work until each is done."""

    def __init__(self, app: Timed) -> None:
        self.app = app

    def __call__(
        self, act: str, call: Callable[[], Any], until: Callable[[], Any] = lambda: True
    ) -> None:
        """Act, and wait; for a second at least, so that what is delayed is seen too."""
        self.app.act = act
        self.app.timed(call)
        begin = time.monotonic()
        while not until() or time.monotonic() - begin < 1:
            if time.monotonic() - begin > _PATIENCE:
                raise TimeoutError(act)
            QApplication.processEvents()
            time.sleep(0.002)
        print(f"{act}: {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)


def main() -> None:
    args = _arguments()
    folder = tempfile.mkdtemp(prefix="seamscope-window-")
    os.environ.update(NAPARI_CONFIG="", SEAMSCOPE_CONFIG=folder)
    app = Timed()
    play(Play(app), args.size, folder)
    print("| during | CPU, ms | clock, ms | garbage, ms | foreign | last own function |")
    print("|---|---|---|---|---|---|")
    for each in sorted(app.all, key=lambda each: -each.seconds):
        if 1000 * each.seconds >= args.least:
            foreign, last = each.shares()
            times = [each.seconds, each.wall, each.collecting]
            cells = " | ".join(f"{1000 * seconds:.0f}" for seconds in times)
            print(f"| {each.act} | {cells} | {foreign:.0%} | {last} |")


def play(then: Play, size: int, folder: str) -> None:
    import dask.array as da
    import napari

    viewer = napari.Viewer()
    viewer.window.resize(1400, 900)
    pixels = da.random.default_rng(0).random((size, size), np.float32, chunks=1024)
    levels = [pixels[::step, ::step] for step in (1, 4, 16)]
    look = {"contrast_limits": (0, 1), "multiscale": True}
    then("image", lambda: viewer.add_image(levels, name="large", **look))
    places: list[Any] = []

    def open_dock() -> None:
        places.append(viewer.window.add_plugin_dock_widget("seamscope", "Seamscope")[1])

    then("open", open_dock, lambda: places[0].dock and places[0].dock.slots["prediction"].dock)
    steps = places[0].dock
    dock = steps.slots["prediction"].dock
    then("network", lambda: dock.set_model(Net().eval()), lambda: dock.plan and dock.settled)
    then("intensities", lambda: dock.options.normalize.set_value("none"), lambda: dock.settled)
    then("tile", lambda: dock.tile.set_value(min(1024, size // 4)), lambda: dock.settled)
    then("halo", lambda: dock.halo.set_value(0), lambda: dock.settled)
    then("place", lambda: dock.options.place.set_value(f"{folder}/out.ome.zarr"))
    then("run", dock.panel.run.click, lambda: dock.busy)
    then("tiles", lambda: None, lambda: not dock.busy)
    if dock.problem:
        raise SystemExit(dock.problem)
    for name in ("seams", "fix", "labels", "field", "normalization"):
        slot = steps.slots[name]
        then(name, lambda n=name: steps.show_step(n), lambda s=slot: s.dock is not None)
    seams, labels = (steps.slots[name].dock for name in ("seams", "labels"))

    def slots_filled() -> bool:
        return all(slot.dock is not None for slot in steps.slots.values())

    then("back", lambda: steps.show_step("seams"))
    for kind, box in seams.heat.boxes.items():
        then(f"heat map of {kind}", box.click)
    then("margin", lambda: seams.halo.set_value(1))
    then("close the dock", lambda: viewer.window.remove_dock_widget(places[-1]))
    then("open it again", open_dock, lambda: places[-1].dock is steps and slots_filled())
    then("labels again", lambda: steps.show_step("labels"))
    then("segment", labels.segment.click, lambda: not labels.busy)
    then("delete", seams.delete.click)
    then("close", viewer.close)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=20_000, help="side of the image in pixels")
    parser.add_argument("--least", type=float, default=50, help="milliseconds of a row")
    return parser.parse_args()


if __name__ == "__main__":
    main()
