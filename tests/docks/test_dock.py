"""The dock "Tiled prediction", driven by its own controls on a real canvas."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

pytest.importorskip("napari")

from dock_networks import Net, measured, undrawn, whole
from hands import PATIENCE, load, picture, press
from napari.layers import Labels, Shapes
from napari.utils import progress
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent

from seamscope.docks.layers import camera
from seamscope.docks.prediction.dock import PredictionDock
from seamscope.docks.prediction.model_picker import ModelPicker
from seamscope.docks.prediction.preview import Lines
from seamscope.tiling import AxisTiling, Lattice

CLASSES = measured()
SINGLE = measured(classes=1)
COLOR = measured(channels=3)
INSTANCE = measured(norm=True)
SOLID = measured(ndim=3)


@pytest.fixture
def dock(open_docks):
    return open_docks("prediction")


def run(qtbot, dock):
    """Press Run and wait for the end."""
    assert dock.panel.run.isEnabled()
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)


def begin(qtbot, dock, tiles=3):
    """Press Run and wait until some tiles are done."""
    press(qtbot, dock.panel.run)
    assert dock.busy
    qtbot.waitUntil(lambda: dock.panel.bar.value() >= tiles, timeout=PATIENCE)


# -- from an image and a network to a result


def test_a_run_fills_layers_that_equal_the_untiled_prediction(qtbot, viewer, dock):
    image = picture(90, 120)
    before = image.copy()
    layer = viewer.add_image(
        image, name="cells", scale=(0.5, 0.25), translate=(7, 9), units=("um", "um")
    )
    load(qtbot, dock, CLASSES)
    dock.tile.auto.setChecked(False)
    dock.tile.rows[0].number.setValue(32)
    run(qtbot, dock)

    expected = whole(CLASSES, image)
    added = [x for x in viewer.layers if "tile 32" in x.name]
    names = [f"channel {i} · cells · Net · tile 32" for i in (2, 1, 0)]
    assert [x.name for x in added] == names
    for i, result in zip((2, 1, 0), added, strict=True):
        np.testing.assert_allclose(result.data, expected[i], atol=1e-6)
        np.testing.assert_allclose(result.scale, layer.scale)
        np.testing.assert_allclose(result.translate, layer.translate)
        assert result.units == layer.units
        assert tuple(result.contrast_limits) == (0, 1)
        assert result.metadata["seamscope"]["channel"] == f"channel {i}"
    np.testing.assert_array_equal(image, before)

    record = added[0].metadata["seamscope"]
    assert record["finished"]
    assert record["plan"]["tile"] == [32, 32]
    assert record["model"]["fingerprint"] == CLASSES.fingerprint
    assert record["figures"]["tiles"] == dock.plan.tiles == record["tiles_done"]
    json.dumps(record)

    run(qtbot, dock)  # nothing is overwritten
    assert len([x for x in viewer.layers if "tile 32" in x.name]) == 6


def test_tiles_in_view_come_first(qtbot, viewer, dock):
    viewer.add_image(picture(128, 128))
    load(qtbot, dock, CLASSES)
    dock.tile.set_value(32)
    camera(viewer).center = (0, 110, 14)
    qtbot.waitUntil(lambda: dock.settled, timeout=PATIENCE)
    CLASSES.module.hold(2)
    begin(qtbot, dock, tiles=1)
    press(qtbot, dock.panel.cancel)
    CLASSES.module.release()
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    rows, columns = np.nonzero(np.isfinite(dock.results.array[0]))
    assert rows.min() > 64
    assert columns.max() < 64


def test_labels_have_the_classes_colours_and_names(qtbot, viewer, dock):
    image = picture(64, 64)
    viewer.add_image(image)
    load(qtbot, dock, CLASSES)
    dock.options.result.set_value("labels")
    dock.tile.set_value(32)
    run(qtbot, dock)
    labels = dock.results.layers[0]
    assert isinstance(labels, Labels)
    np.testing.assert_array_equal(labels.data, whole(CLASSES, image).argmax(0))
    assert labels.get_status((0, 0), world=True)["coordinates"].endswith(
        f"class: channel {labels.data[0, 0]}"
    )


def test_labels_of_one_channel_follow_the_threshold(qtbot, viewer, dock):
    image = picture(64, 64)
    viewer.add_image(image)
    load(qtbot, dock, SINGLE)
    assert not dock.options.threshold.isVisibleTo(dock)
    dock.options.result.set_value("labels")
    dock.more.expand(animate=False)
    assert dock.options.threshold.isVisibleTo(dock)
    middle = float(np.median(whole(SINGLE, image)))
    dock.options.threshold.setDecimals(6)
    dock.options.threshold.setValue(middle)
    run(qtbot, dock)
    np.testing.assert_array_equal(
        dock.results.layers[0].data, whole(SINGLE, image)[0] > dock.options.threshold.value()
    )


def test_a_volume_by_a_network_of_the_plane_is_predicted_slice_by_slice(qtbot, viewer, dock):
    image = picture(3, 40, 48)
    viewer.add_image(image)
    load(qtbot, dock, SINGLE)
    assert "Name them" in dock.problem  # three axes, and nothing says which is which
    assert "--axes" not in dock.problem
    assert dock.axes.isVisibleTo(dock)
    names = "First axis: z", "First axis: time", "First axis: channel"
    assert tuple(dock.panel.actions.buttons) == names
    press(qtbot, dock.panel.actions.buttons[names[1]])
    assert (dock.axes.text(), dock.problem) == ("tyx", "")
    dock.axes.clear()
    qtbot.keyClicks(dock.axes, "zyx")
    qtbot.keyClick(dock.axes, Qt.Key.Key_Return)
    assert dock.problem == ""
    run(qtbot, dock)
    for z in range(3):
        np.testing.assert_allclose(dock.results.array[z], whole(SINGLE, image[z])[0], atol=1e-6)


def test_a_volume_by_a_network_of_volumes(qtbot, viewer, dock):
    image = picture(16, 24, 40)
    viewer.add_image(image, axis_labels=("z", "y", "x"), scale=(2, 1, 1))
    load(qtbot, dock, SOLID)
    dock.tile.set_value((12, 16, 16))
    assert dock.plan.grid.tile_shape == (12, 16, 16)
    run(qtbot, dock)
    np.testing.assert_allclose(dock.results.array, whole(SOLID, image), atol=1e-5)
    np.testing.assert_allclose(dock.results.layers[0].scale, (2, 1, 1))


def test_pictures_in_colour(qtbot, viewer, dock):
    image = picture(48, 64, 3)
    viewer.add_image(image, rgb=True)
    load(qtbot, dock, COLOR)
    assert not dock.axes.isVisibleTo(dock)
    run(qtbot, dock)
    np.testing.assert_allclose(
        dock.results.array, whole(COLOR, np.moveaxis(image, -1, 0)), atol=1e-6
    )


def test_of_a_pyramid_the_full_resolution_is_taken(qtbot, viewer, dock):
    image = picture(64, 96)
    viewer.add_image([image, image[::2, ::2]], multiscale=True)
    load(qtbot, dock, SINGLE)
    run(qtbot, dock)
    np.testing.assert_allclose(dock.results.array, whole(SINGLE, image)[0], atol=1e-6)


# -- every control reaches the settings


@pytest.mark.parametrize(
    ("control", "value", "setting"),
    [
        ("result", "labels", {"result": "labels"}),
        ("normalize", "zscore", {"normalize": "zscore"}),
        ("normalize", "percentile", {"normalize": "percentile"}),
        ("padding", "zeros", {"padding": "zeros"}),
        ("device", "cpu", {"device": "cpu"}),
        ("precision", "bfloat16", {"precision": "bfloat16"}),
        ("batch", 3, {"batch": 3}),
        ("memory", 1.5, {"memory": 1_500_000_000}),
        ("accelerate", False, {"accelerate": False}),
        ("replace_nan", True, {"fill_nan": 0.0}),
        ("threshold", 0.25, {"threshold": 0.25}),
    ],
)
def test_options_reach_the_settings(qtbot, control, value, setting):
    from seamscope.docks.prediction.options import Options

    options = Options()
    qtbot.addWidget(options)
    before = options.values()
    widget = getattr(options, control)
    change = next(
        getattr(widget, name)
        for name in ("set_value", "setValue", "setChecked")
        if hasattr(widget, name)
    )
    with qtbot.waitSignal(options.value_changed):
        change(value)
    assert options.values() == {**before, **setting}


def test_tile_halo_and_blending_reach_the_plan(qtbot, viewer, dock):
    viewer.add_image(picture(256, 256))
    load(qtbot, dock, CLASSES)
    assert dock.settings().tile == dock.settings().halo == "auto"
    assert dock.settings().overlap is None

    tile = dock.tile.rows[0]
    tile.slider.setValue(31)  # moving it takes over from Auto
    assert not dock.tile.auto.isChecked()
    assert dock.plan.grid.tile_shape == (64, 64) == (tile.number.value(),) * 2
    tile.slider.triggerAction(tile.slider.SliderAction.SliderSingleStepAdd)
    assert dock.plan.grid.tile_shape == (66, 66)  # steps of the period
    tile.number.setValue(61)  # typed between two steps
    assert dock.plan.grid.tile_shape in {(60, 60), (62, 62)}

    dock.halo.rows[0].number.setValue(9)
    assert dock.plan.grid.halo == ((9, 9), (9, 9))
    needed = dock.plan.reach.halo[0][0]
    press(qtbot, dock.halo.auto)
    assert dock.plan.grid.halo[0][0] == needed == dock.halo.rows[0].number.value()

    stride = dock.plan.grid.stride
    dock.overlap.rows[0].number.setValue(40)  # also without blending: what is measured at seams
    assert dock.plan.grid.overlap == (40, 40)
    assert dock.plan.grid.stride < stride
    dock.blend.set_value("gaussian")
    assert dock.plan.settings.blend == "gaussian"
    dock.overlap.rows[0].number.setValue(30)
    assert dock.plan.grid.overlap == (30, 30)
    image = viewer.layers[0].data
    run(qtbot, dock)
    np.testing.assert_allclose(dock.results.array, whole(CLASSES, image), atol=1e-5)


def test_one_channel_of_several(qtbot, viewer, dock):
    image = picture(3, 48, 48)
    viewer.add_image(image, axis_labels=("c", "y", "x"))
    load(qtbot, dock, SINGLE)
    assert "3 channels" in dock.problem
    assert not dock.panel.run.isEnabled()
    dock.more.expand(animate=False)
    assert dock.options.channel.isVisibleTo(dock)
    dock.options.channel.set_value(1)
    run(qtbot, dock)
    np.testing.assert_allclose(dock.results.array, whole(SINGLE, image[1])[0], atol=1e-6)


# -- regions


def test_the_current_view_is_predicted_alone_and_equal(qtbot, viewer, dock):
    image = picture(128, 128)
    viewer.add_image(image, scale=(2, 2), translate=(10, 20))
    load(qtbot, dock, SINGLE)
    dock.tile.set_value(32)
    camera(viewer).zoom *= 12
    camera(viewer).center = (0, 10 + 2 * 90, 20 + 2 * 30)
    dock.options.region.set_value("view")
    qtbot.waitUntil(lambda: dock.plan is not None and dock.plan.area[0].start > 32)
    run(qtbot, dock)
    result = dock.results.layers[0]
    low = [part.start for part in dock.plan.area]
    place = tuple(slice(a, a + n) for a, n in zip(low, result.data.shape, strict=True))
    np.testing.assert_allclose(result.data, whole(SINGLE, image)[0][place], atol=1e-6)
    np.testing.assert_allclose(result.translate, (10 + 2 * low[0], 20 + 2 * low[1]))


def test_a_drawn_rectangle_is_predicted_alone_and_equal(qtbot, viewer, dock):
    image = picture(128, 128)
    viewer.add_image(image)
    load(qtbot, dock, SINGLE)
    dock.options.region.set_value("shape")
    drawing = viewer.layers["region"]
    assert drawing.mode == "add_rectangle"
    assert "rectangle" in dock.problem
    drawing.add_rectangles(np.array([[[20.2, 30], [20.2, 70.4], [60, 70.4], [60, 30]]]))
    qtbot.waitUntil(lambda: dock.plan is not None)
    assert [(a.start, a.stop) for a in dock.plan.area] == [(21, 61), (30, 71)]
    run(qtbot, dock)
    result = dock.results.layers[0]
    np.testing.assert_allclose(result.data, whole(SINGLE, image)[0][21:61, 30:71], atol=1e-6)
    np.testing.assert_allclose(result.translate, (21, 30))
    drawing.data = [np.array([[300.0, 300], [300, 400], [400, 400], [400, 300]])]
    qtbot.waitUntil(lambda: "beside" in dock.problem)


# -- the preview


def edges(layer, dim):
    """Positions along `dim` of all edges in a preview: ``(windows, cores)``, in pixels."""
    along = {0: 1, 1: 0}[dim % 2]
    return [set(np.unique(layer.data[pair + along][:, dim] + 0.5)) for pair in (0, 2)]


def test_the_preview_shows_windows_and_cores_and_follows_the_sliders(qtbot, viewer, dock):
    viewer.add_image(picture(200, 300))
    load(qtbot, dock, CLASSES)
    preview = dock.tiles.layer
    for size in (40, 64, 38):
        dock.tile.rows[0].number.setValue(size)
        assert dock.tiles.layer is preview  # data are replaced, never the layer
        tiles = list(dock.plan.grid)
        for dim in (0, 1):
            windows, cores = edges(preview, dim)
            assert windows == {x for t in tiles for x in (t.read[dim].start, t.read[dim].stop)}
            assert cores == {x for t in tiles for x in (t.core[dim].start, t.core[dim].stop)}
        window, core = preview.data[4] + 0.5, preview.data[5] + 0.5
        shown = [t for t in tiles if (t.core[0].start, t.core[1].start) == tuple(core.min(0))]
        assert tuple(window.max(0)) == (shown[0].read[0].stop, shown[0].read[1].stop)
    drawn = preview.data
    dock.options.normalize.set_value("minmax")
    dock.options.batch.setValue(2)
    assert all(one is other for one, other in zip(preview.data, drawn, strict=True))
    viewer.layers[0].translate = (0, 5)
    dock.options.batch.setValue(1)
    assert preview.translate[1] - viewer.layers[0].translate[1] == preview.translate[0]
    viewer.layers[0].translate = (0, 0)
    assert preview.name == "tiles: Image"
    assert len({tuple(c) for c in preview.edge_color}) == 2

    press(qtbot, dock.preview)
    assert not preview.visible
    press(qtbot, dock.preview)
    assert preview.visible
    undrawn(viewer).layers.remove(preview)
    assert not dock.preview.isChecked()
    dock.tile.rows[0].number.setValue(60)
    assert not any(isinstance(x, Shapes) for x in viewer.layers)


def test_windows_of_valid_convolutions_are_shown_where_they_leave_the_image():
    axis = AxisTiling(50, 24, lattice=Lattice(period=2, step=2, crop=(4, 4)))
    lines = Lines.of(axis, slice(0, 50), blends=False, point=49)
    assert lines.windows == tuple(sorted({x for t in axis for x in (t.start, t.stop)}))
    assert lines.windows[0] == -4
    assert lines.core == axis[len(axis) - 1].core


def test_the_preview_lies_on_the_current_slice_in_any_plane(qtbot, viewer, dock):
    viewer.add_image(picture(20, 64, 48), axis_labels=("z", "y", "x"), scale=(3, 1, 1))
    load(qtbot, dock, SOLID)
    dock.tile.set_value((12, 24, 24))
    preview = dock.tiles.layer
    for z in (4, 9):
        viewer.dims.set_point(0, 3 * z)
        for shape in preview.data:
            np.testing.assert_allclose(preview.data_to_world(shape[0])[0], 3 * z)
        assert preview._data_view._displayed.all()
    viewer.dims.order = (1, 0, 2)  # y is the slice now, and z is seen
    _, cores = edges(preview, 0)
    tiles = list(dock.plan.grid)
    assert cores == {x for t in tiles for x in (t.core[0].start, t.core[0].stop)}
    assert preview._data_view._displayed.all()
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2


def test_ten_thousand_tiles_follow_the_slider(qtbot, viewer, dock):
    viewer.add_image(np.zeros((2000, 2000), np.uint8), contrast_limits=(0, 255))
    load(qtbot, dock, SINGLE)
    dock.halo.set_value(6)
    for size in (32, 30, 28):
        dock.tile.rows[0].number.setValue(size)
        assert dock.plan.tiles >= 10_000
        shapes = dock.tiles.layer.data
        assert len(edges(dock.tiles.layer, 0)[1]) > 100
        # lines through the whole grid, not a rectangle for each tile
        assert len(shapes) <= 6
        assert sum(map(len, shapes)) < 20 * sum(dock.plan.grid.shape)


def test_costs_are_told_in_plain_numbers(qtbot, viewer, dock):
    viewer.add_image(picture(100, 100))
    load(qtbot, dock, SINGLE)
    dock.tile.set_value(40)
    qtbot.waitUntil(lambda: dock.settled, timeout=PATIENCE)
    text = dock.cost.text()
    read = sum(40 * 40 for _ in dock.plan.grid)
    assert f"<b>{len(list(dock.plan.grid))}</b>" in text
    assert f"each pixel {read / 100**2:.2g} times" in text
    assert "on cpu" in text  # the time, after a trial
    assert "all measured" in text
    dock.options.seams.set_value("none")
    assert "not measured" in dock.cost.text()


def test_what_a_network_needs_is_told(qtbot, viewer, dock):
    viewer.add_image(picture(64, 64))
    load(qtbot, dock, CLASSES)
    assert CLASSES.describe() in dock.facts.text()
    assert "2D network: 1 channel in, 3 classes out" in dock.facts.text()
    assert "period 2" in dock.facts.toolTip()
    load(qtbot, dock, INSTANCE)
    dock.tile.set_value(32)
    assert "Overlap cannot remove the seams" in dock.facts.text()
    assert "Expect seams" in dock.notes.text()


# -- stopping


def test_cancel_ends_within_a_tile_and_leaves_what_is_done(qtbot, viewer, dock):
    image = picture(128, 128)
    viewer.add_image(image)
    load(qtbot, dock, CLASSES)
    dock.tile.set_value(32)
    qtbot.waitUntil(lambda: dock.settled, timeout=PATIENCE)
    CLASSES.module.hold(6)
    begin(qtbot, dock)
    assert not dock.panel.run.isEnabled()
    assert dock.panel.cancel.isVisible()
    press(qtbot, dock.panel.cancel)
    before = CLASSES.module.calls
    CLASSES.module.release()
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    assert CLASSES.module.calls <= before + 1  # the tile that was under way ends, none begins
    assert dock.panel.run.isEnabled()
    assert not dock.panel.cancel.isVisible()
    assert not dock.panel.bar.isVisible()
    assert "stays" in dock.panel.text.text()

    result = dock.results.array
    there = np.isfinite(result).all(0)
    assert 0 < there.mean() < 0.9
    assert np.isnan(result[:, ~there]).all()
    assert dock.results.layers[0].colormap.map(np.array([np.nan]))[0, 3] == 0
    np.testing.assert_allclose(result[:, there], whole(CLASSES, image)[:, there], atol=1e-6)
    record = dock.results.layers[0].metadata["seamscope"]
    assert record["finished"] is False
    assert 3 <= record["tiles_done"] < dock.plan.tiles


def test_labels_that_were_not_reached_are_no_class(qtbot, viewer, dock):
    viewer.add_image(picture(128, 128))
    load(qtbot, dock, CLASSES)
    dock.tile.set_value(32)
    dock.options.result.set_value("labels")
    qtbot.waitUntil(lambda: dock.settled, timeout=PATIENCE)
    CLASSES.module.hold(6)
    begin(qtbot, dock)
    press(qtbot, dock.panel.cancel)
    CLASSES.module.release()
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    assert set(np.unique(dock.results.array)) <= {0, 1, 2, 255}
    assert (dock.results.array == 255).any()


def test_napari_shows_the_progress_too(qtbot, viewer, dock):
    viewer.add_image(picture(128, 128), name="cells")
    load(qtbot, dock, CLASSES)
    dock.tile.set_value(32)
    qtbot.waitUntil(lambda: dock.settled, timeout=PATIENCE)
    CLASSES.module.hold(6)
    begin(qtbot, dock)
    qtbot.waitUntil(  # it follows the layers, which come one by one
        lambda: any("cells" in b.desc for b in progress._all_instances), timeout=PATIENCE
    )
    (bar,) = [b for b in progress._all_instances if "cells" in b.desc]
    assert bar.total == dock.plan.tiles
    assert 3 <= bar.n <= bar.total
    assert "tiles" in dock.panel.text.text()
    assert "left" in dock.panel.text.text()
    press(qtbot, dock.panel.cancel)
    CLASSES.module.release()
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    assert not [b for b in progress._all_instances if "cells" in b.desc]


@pytest.mark.parametrize("removed", ["result", "image"])
def test_a_removed_layer_ends_the_run(qtbot, viewer, dock, removed):
    viewer.add_image(picture(128, 128), name="image")
    load(qtbot, dock, SINGLE)
    dock.tile.set_value(32)
    qtbot.waitUntil(lambda: dock.settled, timeout=PATIENCE)
    SINGLE.module.hold(6)
    begin(qtbot, dock)
    undrawn(viewer).layers.remove("image" if removed == "image" else dock.results.layers[0])
    SINGLE.module.release()
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    assert "Stopped after" in dock.panel.text.text()  # and did not run to its end
    assert (dock.results is None) == (removed == "result")


def test_closing_the_dock_ends_the_run_and_hides_the_preview(qtbot, viewer, dock):
    viewer.add_image(picture(128, 128))
    load(qtbot, dock, CLASSES)
    dock.tile.set_value(32)
    qtbot.waitUntil(lambda: dock.settled, timeout=PATIENCE)
    CLASSES.module.hold(6)
    begin(qtbot, dock)
    viewer.window.remove_dock_widget(dock)
    CLASSES.module.release()
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    (preview,) = (x for x in viewer.layers if isinstance(x, Shapes))
    assert not preview.visible
    viewer.add_image(picture(8, 8), name="later")
    box = dock.image_box.native
    assert "later" not in [box.itemText(i) for i in range(box.count())]
    dock.deleteLater()


# -- what goes wrong is told in a sentence


def test_wrong_channels(qtbot, viewer, dock):
    viewer.add_image(picture(64, 64))
    load(qtbot, dock, COLOR)
    assert "1 channel and the network takes 3" in dock.problem
    assert dock.panel.error.isVisible()
    assert not dock.panel.run.isEnabled()
    assert dock.plan is None


def test_a_tile_smaller_than_its_halo(qtbot, viewer, dock):
    viewer.add_image(picture(64, 64))
    load(qtbot, dock, CLASSES)
    dock.tile.set_value(16)
    dock.halo.set_value(10)
    assert "Tile 16" in dock.problem
    assert not dock.panel.run.isEnabled()
    assert not dock.tiles.layer.visible
    dock.halo.set_value("auto")
    assert dock.problem == ""
    assert dock.panel.run.isEnabled()
    assert dock.tiles.layer.visible


def test_nan_is_refused_where_it_is_met_or_replaced(qtbot, viewer, dock):
    image = picture(64, 64)
    image[50, 7] = np.nan
    viewer.add_image(image, contrast_limits=(0, 1))
    load(qtbot, dock, CLASSES)
    dock.tile.set_value(32)
    run(qtbot, dock)
    assert "NaN" in dock.problem
    assert "--" not in dock.problem
    assert dock.panel.run.isEnabled()
    dock.more.expand(animate=False)
    dock.options.replace_nan.click()
    run(qtbot, dock)
    assert dock.problem == ""
    np.testing.assert_allclose(dock.results.array, whole(CLASSES, np.nan_to_num(image)), atol=1e-6)


def test_a_network_that_fails_halfway(qtbot, viewer, dock):
    viewer.add_image(picture(128, 128))
    load(qtbot, dock, CLASSES)
    dock.tile.set_value(32)
    qtbot.waitUntil(lambda: dock.settled, timeout=PATIENCE)
    CLASSES.module.calls_until_failure = 5
    run(qtbot, dock)
    assert "same device" in dock.problem
    assert "Traceback" not in dock.problem
    assert (dock.results.array.sum(0) > 0).any()
    assert dock.results.layers[0].metadata["seamscope"]["tiles_done"] == 5
    CLASSES.module.calls_until_failure = -1
    run(qtbot, dock)
    assert dock.problem == ""


def test_memory_that_runs_out_is_told_and_nothing_is_lost(qtbot, viewer, dock):
    image = picture(128, 128)
    viewer.add_image(image)
    load(qtbot, dock, CLASSES)
    dock.tile.set_value(32)
    dock.options.batch.setValue(4)
    CLASSES.module.most_tiles = 2
    run(qtbot, dock)
    record = dock.results.layers[0].metadata["seamscope"]
    assert record["finished"]
    assert "Memory ran out" in record["warnings"][0]
    np.testing.assert_allclose(dock.results.array, whole(CLASSES, image), atol=1e-6)


def test_an_unexpected_error_is_a_sentence_too(qtbot, viewer, dock, monkeypatch, caplog):
    from napari.utils.notifications import notification_manager

    def broken(*_, **__):
        raise KeyError("colour")

    viewer.add_image(picture(64, 64))
    load(qtbot, dock, CLASSES)
    qtbot.waitUntil(lambda: dock.settled, timeout=PATIENCE)
    monkeypatch.setattr("seamscope.docks.tasks.run", broken)
    run(qtbot, dock)
    assert dock.problem == "The prediction failed: KeyError: 'colour'"
    assert any("KeyError" in n.message for n in notification_manager.records)
    assert "KeyError" in caplog.text


# -- models


FACTORY = """
import pathlib
from torch import nn

pathlib.Path({marker!r}).touch()

def build():
    return nn.Conv2d(1, 2, 3, padding=1)
"""


def test_nothing_runs_before_it_is_trusted(qtbot, viewer, dock, tmp_path):
    marker, file = tmp_path / "ran", tmp_path / "network.py"
    file.write_text(FACTORY.format(marker=str(marker)))
    viewer.add_image(picture(64, 64))
    line = dock.model_picker.box.lineEdit()
    line.clear()
    qtbot.keyClicks(line, f"{file}:build")
    qtbot.keyClick(line, Qt.Key.Key_Return)
    consent = dock.model_picker.consent
    qtbot.waitUntil(consent.isVisible, timeout=PATIENCE)
    assert "build()" in consent.text.text()
    assert "network.py" in consent.text.text()

    press(qtbot, consent.no)
    qtbot.wait(100)
    assert not marker.exists()
    assert dock.model is None
    assert not consent.isVisible()

    qtbot.keyClick(line, Qt.Key.Key_Return)
    qtbot.waitUntil(consent.isVisible, timeout=PATIENCE)
    press(qtbot, consent.yes)
    qtbot.waitUntil(lambda: dock.model is not None, timeout=PATIENCE)
    assert marker.exists()
    run(qtbot, dock)


def test_models_are_remembered_and_offered(qtbot, viewer, dock, tmp_path):
    path = tmp_path / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself
        torch.jit.script(torch.nn.Conv2d(1, 2, 3, padding=1).eval()).save(str(path))
    viewer.add_image(picture(64, 64))
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    drop = QDropEvent(
        QPointF(5, 5),
        Qt.DropAction.CopyAction,
        mime,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    dock.dropEvent(drop)
    assert drop.isAccepted()
    qtbot.waitUntil(lambda: dock.model is not None, timeout=PATIENCE)
    assert dock.model.spec == str(path)
    later = ModelPicker()
    qtbot.addWidget(later)
    box = later.box
    offered = [box.itemData(i) for i in range(box.count())]
    assert offered[0] == str(path)
    assert {"demo:batchnorm", "demo:instancenorm3d"} <= set(offered)


def test_a_file_that_is_not_there(qtbot, viewer, dock):
    viewer.add_image(picture(64, 64))
    dock.model_picker.set_value("nowhere.pt")
    qtbot.waitUntil(lambda: not dock.job.busy, timeout=PATIENCE)
    assert "There is no file nowhere.pt" in dock.facts.text()
    assert not dock.panel.run.isEnabled()


def test_a_model_chosen_later_wins(qtbot, viewer, dock):
    viewer.add_image(picture(64, 64))
    dock.set_model(Net(classes=5))  # has to be measured first
    dock.set_model(SINGLE)
    qtbot.waitUntil(lambda: not dock.job.busy, timeout=PATIENCE)
    qtbot.wait(500)
    assert dock.model is SINGLE


# -- layers


def test_the_list_of_images_follows_the_viewer(qtbot, viewer, dock):
    def offered():
        return [dock.image_box.native.itemText(i) for i in range(dock.image_box.native.count())]

    one = viewer.add_image(picture(16, 16), name="one")
    viewer.add_labels(np.zeros((16, 16), int))
    two = viewer.add_image(picture(16, 16), name="two")
    assert offered()[-2:] == ["one", "two"]
    assert dock.layer is one
    dock.image_box.value = two
    one.name = "first"
    assert "first" in offered()
    assert dock.layer is two
    undrawn(viewer).layers.remove(two)
    assert dock.layer is one
    undrawn(viewer).layers.remove(one)
    assert dock.layer is None
    assert not dock.panel.run.isEnabled()
    assert "Open an image" in dock.cost.text()


# -- napari finds it all


def test_napari_starts_without_waiting_for_torch():
    code = (
        "import sys, seamscope.docks as d; d.tissue_2d; "
        "print([m for m in ('torch', 'napari', 'qtpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_readmes_picture_is_there_and_small():
    import seamscope

    picture = Path(seamscope.__file__).parent / "resources" / "screenshot.png"
    assert picture.stat().st_size < 600_000


def test_long_names_of_layers_do_not_widen_the_dock(qtbot, viewer):
    viewer.add_image(picture(64, 48), name="a result of a network " * 9)
    dock = PredictionDock(viewer)
    viewer.window.add_dock_widget(dock)
    qtbot.wait(100)
    scroll = dock.scroll
    assert scroll.widget().width() <= scroll.viewport().width()


def test_every_text_fits_its_dock(qtbot, viewer, dock):
    """No control is wider than the dock, in any state it has."""
    viewer.add_image(picture(16, 64, 48), axis_labels=("z", "y", "x"))
    load(qtbot, dock, SOLID)
    dock.blend.set_value("linear")
    dock.more.expand(animate=False)
    inside, shown = dock.scroll.widget(), dock.scroll.viewport()
    qtbot.waitUntil(lambda: inside.width() <= shown.width(), timeout=PATIENCE)
    for a, b in itertools.pairwise((dock.tile, dock.halo, dock.blend)):
        assert a.geometry().bottom() < b.geometry().top()


def test_what_makes_a_plan_possible_is_one_click_away(qtbot, viewer, dock):
    """The smallest tile with room for the halo; one of the image's channels."""
    viewer.add_image(picture(96, 96), name="cells")
    load(qtbot, dock, CLASSES)
    dock.halo.set_value(20)
    dock.tile.set_value(32)
    assert "is too small for margins of 20 and 20" in dock.problem
    assert list(dock.panel.actions.buttons) == ["Use tile 42"]
    press(qtbot, dock.panel.actions.buttons["Use tile 42"])
    assert dock.problem == ""
    assert dock.plan.grid.tile_shape == (42, 42)

    colors = viewer.add_image(picture(3, 96, 96), name="colors", axis_labels=("c", "y", "x"))
    dock.image_box.value = colors
    assert "3 channels" in dock.problem
    assert list(dock.panel.actions.buttons) == ["Channel 0", "Channel 1", "Channel 2"]
    press(qtbot, dock.panel.actions.buttons["Channel 1"])
    assert dock.problem == ""
    assert dock.plan.settings.channel == 1


def test_a_result_that_does_not_fit_into_memory_is_refused(qtbot, viewer, dock, monkeypatch):
    viewer.add_image(picture(96, 96), name="cells")
    load(qtbot, dock, CLASSES)
    assert "111 kB of memory" in dock.cost.text()  # 3 channels of 96 x 96 float32
    free = SimpleNamespace(available=2 * 4 * 3 * 96 * 96 - 2)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    press(qtbot, dock.panel.run)
    assert not dock.busy
    assert "takes 111 kB, and at most 111 kB of a result are kept in memory" in dock.problem
    assert list(dock.panel.actions.buttons) == ["Write cells_prediction.ome.zarr", "Save to …"]
    assert len(viewer.layers) <= 2
    free.available += 2
    dock.refresh()
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    assert dock.problem == ""
