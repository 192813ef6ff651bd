"""Predictions into a file, by this process or a cluster: cancelled, gone on with, and refused."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import npe2
import numpy as np
import pytest
import torch

pytest.importorskip("napari")
pytest.importorskip("distributed")

from distributed import LocalCluster
from hands import PATIENCE, press
from napari.components import ViewerModel

import seamscope
from seamscope.docks.layers import add_opened
from seamscope.docks.prediction.dock import PredictionDock
from seamscope.docks.stored_result import StoredResult
from seamscope.images.image import open_image
from seamscope.images.results.create import create_output

NETWORK = """
import time
import torch
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        time.sleep(0.03)
        return self.last(torch.relu(self.first(x))).sigmoid()
"""
TILE = {"tile": 32, "halo": 2}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Names of an image and a network."""
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "cells.npy", np.random.default_rng(2).random((230, 200), np.float32))
    (folder / "nets.py").write_text(NETWORK)
    return str(folder / "cells.npy"), f"{folder / 'nets.py'}:Slow"


@pytest.fixture(scope="module")
def scheduler():
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def dock(qtbot, files):
    """The dock with image and network, without a window."""
    image, network = files
    viewer = ViewerModel()
    add_opened(viewer, open_image(image), "cells", image)
    dock = PredictionDock(viewer)
    qtbot.addWidget(dock)
    dock.set_model(network, trust=True)
    qtbot.waitUntil(lambda: dock.plan is not None, timeout=PATIENCE)
    dock.options.accelerate.setChecked(False)
    for name, value in TILE.items():
        getattr(dock, name).set_value(value)
    return dock


def wait(qtbot, dock):
    qtbot.waitUntil(lambda: not dock.job.busy and not dock.busy, timeout=2 * PATIENCE)


def results(dock):
    """Layers of results, by name."""
    layers = (dock.session.layers_of(run) for run in dock.session.runs)
    return {layer.name: layer for each in layers for layer in each if layer in dock.viewer.layers}


def go_on(dock):
    """The button to go on with an unfinished result."""
    (found,) = [b for text, b in dock.panel.actions.buttons.items() if text.startswith("Go on")]
    return found


@pytest.mark.parametrize("kind", ["scheduler", "here"])
def test_a_cancelled_run_goes_on_to_the_same_result(qtbot, dock, files, kind, request, tmp_path):
    target = tmp_path / "out.ome.zarr"
    assert "the network is untrained" in dock.notes.text()
    if kind == "scheduler":
        dock.options.run_on.set_value(request.getfixturevalue("scheduler"))
        assert "Choose its place" in dock.problem
        assert not dock.panel.run.isEnabled()
    dock.options.place.set_value(str(target))
    assert dock.problem == ""
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: dock.panel.bar.value() >= 3, timeout=2 * PATIENCE)
    press(qtbot, dock.panel.cancel)
    wait(qtbot, dock)
    assert [name.startswith("stopped") for name in results(dock)] == [True]
    assert not dock.panel.run.isEnabled()
    assert "is predicted" in dock.notes.text()
    done = dock.options.place.found.share
    assert 0 < done < 1
    dock.halo.set_value(4)
    press(qtbot, go_on(dock))
    wait(qtbot, dock)
    assert "begun with another settings halo" in dock.problem
    dock.halo.set_value(2)
    assert dock.problem == ""
    press(qtbot, go_on(dock))
    qtbot.waitUntil(lambda: dock.busy, timeout=PATIENCE)
    assert dock.session.running
    wait(qtbot, dock)
    assert dock.problem == ""
    assert "Done" in dock.panel.text.text()
    assert [name.startswith("stopped") for name in results(dock)] == [False]
    before = torch.get_num_threads()
    if kind == "scheduler":
        torch.set_num_threads(1)
    expected = seamscope.predict(*files, trust=True, accelerate=False, **TILE)
    torch.set_num_threads(before)
    np.testing.assert_array_equal(np.asarray(seamscope.open_image(target).data), expected)
    (shown,) = results(dock).values()
    np.testing.assert_array_equal(
        np.asarray(shown.data[0] if shown.multiscale else shown.data), expected
    )
    assert dock.options.place.value() == str(tmp_path / "out-2.ome.zarr")
    assert not dock.tiles.layer.visible  # it would cover the result


def test_an_unfinished_file_is_gone_on_with_on_another_day(qtbot, dock, files, tmp_path):
    target = tmp_path / "out.ome.zarr"
    dock.options.place.set_value(str(target))
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: dock.panel.bar.value() >= 3, timeout=2 * PATIENCE)
    press(qtbot, dock.panel.cancel)
    wait(qtbot, dock)
    viewer = ViewerModel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other plugins' manifests
        npe2.PluginManager.instance().discover()
    opened = viewer.open(f"{target}.partial", plugin="seamscope")
    later = PredictionDock(viewer)
    qtbot.addWidget(later)
    network = Path(files[1].rpartition(":")[0])
    network.rename(tmp_path / "moved.py")
    press(qtbot, go_on(later))
    qtbot.waitUntil(lambda: not later.job.busy, timeout=PATIENCE)
    press(qtbot, later.model_picker.consent.yes)
    qtbot.waitUntil(lambda: not later.job.busy, timeout=PATIENCE)
    assert "nets.py" in later.facts.text()  # is not there
    later.set_model(f"{tmp_path / 'moved.py'}:Slow", trust=True)
    qtbot.waitUntil(lambda: later.plan is not None, timeout=PATIENCE)
    assert not later.session.running  # unasked
    assert [layer.visible for layer in opened] == [True] * len(opened)
    (tmp_path / "moved.py").rename(network)
    press(qtbot, go_on(later))
    qtbot.waitUntil(lambda: not later.job.busy, timeout=PATIENCE)
    press(qtbot, later.model_picker.consent.yes)  # the network's file has code
    qtbot.waitUntil(lambda: later.busy, timeout=PATIENCE)
    wait(qtbot, later)
    assert later.problem == ""
    assert [layer.visible for layer in opened] == [False] * len(opened)
    expected = seamscope.predict(*files, trust=True, accelerate=False, **TILE)
    np.testing.assert_array_equal(np.asarray(seamscope.open_image(target).data), expected)


def test_what_workers_need_is_said_before_they_start(dock, tmp_path, monkeypatch):
    dock.options.place.set_value(str(tmp_path / "out.zarr"))
    for value, sentence in ((2, ""), ("", "Enter the address of a scheduler")):
        dock.options.run_on.set_value(value)
        assert dock.problem.startswith(sentence)
        assert dock.panel.run.isEnabled() == (not sentence)
    dock.options.run_on.set_value(2)
    for name, sentence in (
        ("out.tif", "Use .ome.zarr or .zarr"),
        ("there.zarr", "there.zarr exists"),
    ):
        (tmp_path / "there.zarr").mkdir(exist_ok=True)
        dock.options.place.set_value(str(tmp_path / name))
        assert sentence in dock.problem
        assert "Save to …" in dock.panel.actions.buttons
    dock.options.place.set_value(str(tmp_path / "out.zarr"))
    monkeypatch.setitem(sys.modules, "distributed", None)
    dock.refresh()
    assert "pip install 'seamscope[dask]'" in dock.problem


def test_what_is_not_written_yet_is_transparent(tmp_path):
    place = {
        "axes": "cyx",
        "scale": (1, 1, 1),
        "units": ("", "pixel", "pixel"),
        "chunks": (1, 8, 8),
    }
    output = create_output(tmp_path / "a.ome.zarr", (2, 24, 16), "f4", **place)
    shown = StoredResult(output, 0, (2, None, 1), (3,), {0: 1})  # channel 1, as x, repeated, y
    block = np.random.default_rng(4).normal(size=(2, 8, 16)).astype(np.float32)
    output.write((slice(0, 2), slice(8, 16), slice(0, 16)), block)
    expected = np.full((24, 16), np.nan, np.float32)
    expected[8:16] = block[1]
    whole = np.broadcast_to(expected.T[:, None], (16, 3, 24))
    np.testing.assert_array_equal(shown[...], whole)
    np.testing.assert_array_equal(shown[2:9:3, 1, 5:20], whole[2:9:3, 1, 5:20])
    output.finish()
    np.testing.assert_array_equal(shown[...], np.nan_to_num(whole))
