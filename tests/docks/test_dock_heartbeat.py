"""How much is done at once on the window's thread: Python calls and pixels, never seconds.

The window can only draw and answer between two callbacks. So what counts is the most work of any
one callback, and that no pixels of a large image are read there.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("napari")

from dock_networks import measured
from hands import PATIENCE
from napari.components import ViewerModel
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from seamscope.docks import samples
from seamscope.docks.prediction.dock import PredictionDock
from seamscope.docks.seams.dock import SeamsDock
from seamscope.images.image import open_image

# Calls of Python functions in one callback, a little more than there are: lower it, never raise it.
# An idle machine makes some 5 million in a second. A delayed callback may come with any act.
MOST = 90_000

_SHOWN = 40


def test_a_sample_is_drawn_while_the_window_answers(qtbot, monkeypatch):
    answered, drawn = threading.Event(), []

    def draw(name):
        drawn.append((name, answered.wait(PATIENCE / 1000), threading.current_thread()))
        return open_image(np.zeros((8, 9), np.uint8))

    monkeypatch.setattr("seamscope.images.image.open_image", draw)
    QTimer.singleShot(0, answered.set)
    (data, look, kind), *_ = samples.tissue_3d()
    assert (data.shape, look["name"], kind) == ((8, 9), "tissue3d", "image")
    ((name, ticked, thread),) = drawn
    assert name == "demo:tissue3d"
    assert ticked
    assert thread is not threading.current_thread()


class Heartbeat:
    """Counts calls of functions in each callback of this thread.

    Attributes
    ----------
    worst
        How often each function was called in the callback with the most calls.
    number
        Callbacks that have ended.
    """

    def __init__(self) -> None:
        self.worst: Counter[str] = Counter()
        self.number = 0
        self._calls, self._base = Counter(), None

    def _see(self, frame, event, _) -> None:
        if event == "call":
            if frame.f_back is self._base:
                self._end()
            self._calls[frame.f_code] += 1

    def _end(self) -> None:
        if self._calls.total() > self.worst.total():
            self.worst = self._calls
        self._calls = Counter()
        self.number += 1

    @contextlib.contextmanager
    def watching(self, base):
        """Watch the callbacks that are called from a frame."""
        self._base, before = base, sys.getprofile()
        sys.setprofile(self._see)
        try:
            yield
        finally:
            sys.setprofile(before)
            self._end()


def work_of(act, until=lambda: True, heart=None) -> Counter:
    """Calls in the longest callback: the act's own, and of all that follows until a condition."""
    heart = heart or Heartbeat()
    with heart.watching(sys._getframe()):
        act()
        QApplication.processEvents()
        for _ in range(PATIENCE):
            if until():
                break
            QApplication.processEvents()
            time.sleep(0.001)
    assert until()
    return heart.worst


class Recorded:
    """An image of any size without pixels, that notes who reads how much of it."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.ndim, self.dtype = shape, len(shape), np.dtype(np.float32)
        self.size = int(np.prod(shape))
        self.reads: list[tuple[bool, int]] = []

    def __getitem__(self, index):
        part = np.broadcast_to(np.float32(0.5), self.shape)[index]
        here = threading.current_thread() is threading.main_thread()
        self.reads.append((here, part.nbytes))
        return np.random.default_rng(0).random(part.shape, np.float32) if part.size < 1e6 else part

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[...], dtype)

    def in_window(self) -> int:
        """Bytes read on the window's thread since the last time."""
        found = sum(size for here, size in self.reads if here)
        self.reads.clear()
        return found


@pytest.fixture(scope="module")
def net():
    return measured(norm=True)


def test_callbacks_are_short_and_read_no_large_image(qtbot, net) -> None:
    viewer, image = ViewerModel(), Recorded(20_000, 20_000)
    layer = viewer.add_image(image, contrast_limits=(0, 1), name="large")
    image.in_window()  # napari's own way to show it
    docks, work = [], {}
    work["open"] = work_of(lambda: docks.append(PredictionDock(viewer)))
    dock = docks[0]
    qtbot.addWidget(dock)
    dock.set_model(net)
    qtbot.waitUntil(lambda: dock.plan is not None, timeout=PATIENCE)
    dock.options.normalize.set_value("none")
    work["slider"] = work_of(lambda: dock.tile.set_value(64))
    layer.corner_pixels = np.array([[0, 0], [256, 256]])
    dock.options.region.set_value("view")
    dock.options.seams.set_value("all")
    qtbot.waitUntil(lambda: dock.plan is not None and dock.plan.tiles < 100, timeout=PATIENCE)
    assert image.in_window() == 0
    work["run"] = work_of(dock.panel.run.click, lambda: not dock.busy)
    assert dock.problem == ""
    assert image.in_window() == 0
    seams = SeamsDock(viewer)
    qtbot.addWidget(seams)
    qtbot.waitUntil(lambda: seams.run is not None, timeout=PATIENCE)
    box = seams.heat.boxes["pixels"]
    work["heat map"] = work_of(lambda: box.setChecked(True))
    assert seams.heat.layers.layer("pixels") is not None
    assert image.in_window() == 0
    counts = {name: calls.total() for name, calls in work.items()}
    lines = [f"{name} {n}: " + described(work[name]) for name, n in counts.items() if n > MOST]
    assert not lines, "\n".join([str(counts), *lines])


def test_layers_are_added_one_at_a_time(qtbot, net) -> None:
    """napari takes some 100 ms for each; and collects garbage as often as some are removed."""
    viewer, heart = ViewerModel(), Heartbeat()
    viewer.add_image(np.random.default_rng(0).random((48, 64)), name="cells")
    dock, seams = PredictionDock(viewer), SeamsDock(viewer)
    for each in (dock, seams):
        qtbot.addWidget(each)
    dock.set_model(net)
    qtbot.waitUntil(lambda: dock.plan is not None, timeout=PATIENCE)
    dock.options.shown.set_value(False)  # one layer for each of three classes
    added, batches, events = [], [], viewer.layers.events
    events.inserted.connect(lambda _: added.append(heart.number))
    events.end_batch.connect(batches.append)
    net.module.hold(0)  # a run that ends adds what is missing at once
    work_of(dock.panel.run.click, lambda: len(added) == 3, heart)
    assert len(set(added)) == 3
    net.module.release()
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    assert dock.problem == ""
    own = list(dock.results.layers)
    seams.delete.click()
    assert len(batches) == 1
    assert not any(layer in viewer.layers for layer in own)


def described(calls: Counter) -> str:
    """The functions that were called most."""
    return ", ".join(f"{code.co_qualname} {n}" for code, n in calls.most_common(_SHOWN))
