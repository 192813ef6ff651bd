"""Docks in windows of their own: found by napari, and closed with work going on."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")

from dock_networks import measured
from hands import PATIENCE

from seamscope.docks.layers import file_of_layer
from seamscope.docks.prediction.dock import PredictionDock


def test_closing_the_viewer_ends_the_run(qtbot, make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    dock = PredictionDock(viewer)
    viewer.window.add_dock_widget(dock)
    viewer.add_image(np.random.default_rng(1).random((128, 128)).astype(np.float32))
    model = measured()
    dock.set_model(model)
    qtbot.waitUntil(lambda: dock.plan is not None, timeout=PATIENCE)
    dock.tile.set_value(32)
    model.module.delay = 0.1
    dock.panel.run.click()
    qtbot.waitUntil(lambda: dock.panel.bar.value() >= 2, timeout=PATIENCE)
    reporter = dock.panel.job.reporter
    viewer.close()
    qtbot.waitUntil(reporter.stopped, timeout=PATIENCE)
    qtbot.wait(300)  # late events meet no dock


def test_napari_finds_widget_and_samples(qtbot, make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    place = viewer.window.add_plugin_dock_widget("seamscope", "Tiled prediction")[1]
    qtbot.waitUntil(lambda: place.dock is not None, timeout=PATIENCE)
    dock = place.dock
    assert isinstance(dock, PredictionDock)
    viewer.open_sample("seamscope", "tissue_2d")
    assert viewer.layers[-1].data.shape == (1024, 1024)
    assert dock.layer is viewer.layers[-1]
    viewer.open_sample("seamscope", "tissue_3d")
    viewer.open_sample("seamscope", "stack_3d")
    viewer.open_sample("seamscope", "lapse_2d")
    viewer.open_sample("seamscope", "channels_2d")
    axes = [("tissue3d", "zyx"), ("stack3d", "zyx"), ("lapse2d", "tyx"), ("channels2d", "cyx")]
    for name, letters in axes:
        assert viewer.layers[name].axis_labels == tuple(letters)
    stack = viewer.layers["stack3d"]
    assert file_of_layer(stack)[1].scale == tuple(stack.scale) == (40, 20, 20)
