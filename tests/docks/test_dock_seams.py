"""The dock "Seams", driven by its own controls on a real canvas, against predictions made anew."""

from __future__ import annotations

import gc
import weakref
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("napari")

import pyqtgraph as pg
from dock_networks import measured, undrawn, whole
from hands import PATIENCE, predict, press, uneven
from qtpy.QtCore import QPoint, Qt

from seamscope import measure_seams
from seamscope.docks.evidence import Evidence
from seamscope.docks.kept_work import KeptWork
from seamscope.docks.layers import camera
from seamscope.docks.looks import in_dock
from seamscope.docks.prediction.dock import PredictionDock
from seamscope.docks.results import ResultLayers, layer_point, result_pixel
from seamscope.docks.seams.dock import SeamsDock, covering
from seamscope.docks.seams.halo_plot import Mark
from seamscope.docks.seams.measure_page import MeasurePage
from seamscope.docks.session import Session
from seamscope.ledger import Ledger
from seamscope.planning.plan import Layout
from seamscope.planning.resources import Resources
from seamscope.seams.heatmaps import SeamPicture, pyramid
from seamscope.seams.measures import HaloRay
from seamscope.text import figure_text, percent_text

CLASSES = measured()
INSTANCE = measured(norm=True)
SOLID = measured(ndim=3, norm=True)


@pytest.fixture
def docks(open_docks):
    """The dock to predict, and the dock to look at seams."""
    return open_docks("prediction", "seams")


def slide(qtbot, seams, halo):
    """Move the line; the first time the picture is stitched in a thread."""
    seams.halo.set_value(halo)
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)


def again(model, image, tile):
    """The network asked anew for one tile that lies inside the image: ``(C, *spatial)``."""
    assert not np.any(tile.pad)
    return whole(model, image[tile.read])


def distance_map(model, image, plan):
    """Largest distance at each pixel, over all pairs of neighbours: pixel by pixel."""
    predictions = {tile.index: again(model, image, tile) for tile in plan.grid}
    found = np.zeros((2, *image.shape), np.float32)
    for tile in plan.grid:
        for axis in range(image.ndim):
            index = tuple(i + (a == axis) for a, i in enumerate(tile.index))
            if index not in predictions:
                continue
            other = plan.grid[index]
            valid = []
            for a, (t, o) in enumerate(zip(tile.read, other.read, strict=True)):
                before, after = plan.grid.halo[a]
                low, high = max(t.start, o.start), min(t.stop, o.stop)
                at_start = max(t.start, o.start) == 0
                at_end = min(t.stop, o.stop) == image.shape[a]
                valid.append(slice(low + before * (not at_start), high - after * (not at_end)))
            apart = np.abs(
                predictions[tile.index][:, *tile.within(tuple(valid))]
                - predictions[index][:, *other.within(tuple(valid))]
            )
            region = (slice(None), *valid)
            found[region] = np.maximum(found[region], np.stack([apart.max(0), apart.mean(0)]))
    return found


def test_a_run_is_told_in_numbers_and_curves(qtbot, viewer, docks):
    dock, seams = docks
    image = uneven(96, 120)
    viewer.add_image(image, name="cells")
    assert "Run" in seams.verdict.text()
    assert not seams.measuring.measure.isVisibleTo(seams)
    predict(qtbot, dock, INSTANCE, halo=4)
    expected = measure_seams(image, INSTANCE, dock.plan.settings)
    report = seams.run.evidence.report
    assert report.measures.max_dist == pytest.approx(expected.measures.max_dist, rel=1e-5)
    for text in (seams.verdict.text(), dock.panel.text.text()):
        assert report.sentence() in text
    numbers = seams.numbers.text()
    for value in (report.measures.mean_dist, *report.measures.soft, *report.measures.hard):
        assert f">{figure_text(value)}<" in numbers
    assert f"{expected.overlaps} of {expected.overlaps} overlaps</b>; margin 4 px" in numbers

    def drawn():
        qtbot.waitUntil(lambda: seams.halo.room.settled, timeout=PATIENCE)
        items = seams.halo.plot.getPlotItem().listDataItems()
        return [np.array(item.getData()) for item in items]

    curve = report.curve
    for view, wanted in {
        "distance": [curve.max_dist, curve.mean_dist],
        "channels": list(curve.max_dist_per_channel.T),
        "soft": list(curve.soft.T),
        "hard": list(curve.hard.T),
    }.items():
        seams.halo.view.set_value(view)
        lines = drawn()
        assert len(lines) == len(wanted)
        for (x, y), values in zip(lines, wanted, strict=True):
            np.testing.assert_array_equal(x, curve.halo)
            nonzero = values > 0
            np.testing.assert_allclose(y[nonzero], np.log10(values[nonzero]))
            assert (y[~nonzero] == seams.halo._floor).all()
    (mark,) = seams._marks()
    assert mark.halo == max(map(max, INSTANCE.reach.convolutional))
    assert "convolutions" in mark.name
    Session.of(viewer).tell_effective(((2, 1), (2, 2)))
    assert seams._marks()[-1] == (2, "effective reach")
    named = seams.halo.names.text().replace("&nbsp;", " ")
    assert f"{mark.name} {mark.halo} px" in named
    assert "effective reach 2 px" in named
    seams.halo.show_marks([Mark(1000, "reach")])  # further than the plot shows
    assert seams.halo.names.text().replace("&nbsp;", " ").endswith("→ reach 1000 px")
    labels = [x for x in seams.halo.plot.scene().items() if isinstance(x, pg.InfLineLabel)]
    assert not labels  # they would run through the curves


def test_the_slider_stitches_again_without_the_network(qtbot, viewer, docks, monkeypatch):
    dock, seams = docks
    image = uneven(96, 120)
    viewer.add_image(image, name="cells", scale=(0.5, 0.25), translate=(7, 9))
    predict(qtbot, dock, INSTANCE, halo=5)
    results = dock.results.layers
    results[0].visible = False
    plan = seams.run.plan
    predictions = {tile.index: again(INSTANCE, image, tile) for tile in plan.grid}

    def stitched(halo):
        """Each pixel from the tile that has not yet been taken over from."""
        owners = []
        for axis in plan.grid.axes:
            ends = [lower.stop - halo for lower in axis][:-1]
            starts = [upper.start for upper in axis][1:]
            cuts = np.maximum(ends, starts)
            owners.append(np.searchsorted(cuts, np.arange(axis.size), side="right"))
        expected = np.zeros((3, *image.shape), np.float32)
        for y, x in np.ndindex(*image.shape):
            tile = plan.grid[int(owners[0][y]), int(owners[1][x])]
            expected[:, y, x] = predictions[tile.index][
                :, y - tile.read[0].start, x - tile.read[1].start
            ]
        return expected

    INSTANCE.module.calls_until_failure = 0  # from now on it fails when asked
    moves = {
        "line": lambda: seams.halo.line.setValue(2.2),
        "keyboard": lambda: qtbot.keyClick(seams.halo.plot, Qt.Key.Key_Right),
        "number": lambda: seams.halo.number.setValue(0),
        "far": lambda: qtbot.keyClick(seams.halo.plot, Qt.Key.Key_End),
    }
    left = []
    monkeypatch.setattr(ResultLayers, "add_all", lambda own: left.append(own.add_next()))
    for move, halo in zip(moves.values(), (2, 3, 0, seams.halo.most), strict=True):
        move()
        qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
        assert seams.halo.value() == halo == seams.halo.line.value()
        some = seams.halo.report.curve.share[halo] < 1  # so the headline has other numbers
        assert ("of the overlaps reach it" in seams.halo.numbers.text()) == some
        np.testing.assert_allclose(seams.stitched.array, stitched(halo), atol=1e-6)
    assert left == [False]  # each layer came when the window had answered
    seams.halo.report.curve.share[0] = 0.7
    most = seams.halo.most
    keys = {"PageDown": max(most - 10, 0), "Home": 0, "PageUp": min(10, most)}
    for key, halo in (*keys.items(), ("Home", 0)):
        qtbot.keyClick(seams.halo.plot, getattr(Qt.Key, f"Key_{key}"))
        assert seams.halo.value() == halo
    assert "70% of the overlaps reach it" in seams.halo.numbers.text()
    layers = seams.stitched.layers
    assert [layer.visible for layer in layers] == [False, True, True]
    assert not any(layer.visible for layer in results)
    for layer, channel in zip(layers, (2, 1, 0), strict=True):
        assert layer.name.startswith(f"re-stitched · channel {channel}")
        np.testing.assert_array_equal(layer.data, seams.stitched.array[channel])
        np.testing.assert_array_equal(layer.translate, results[0].translate)
        np.testing.assert_array_equal(layer.scale, results[0].scale)
    seams.stitch.click()
    assert [layer.visible for layer in results] == [False, True, True]
    assert not any(layer.visible for layer in layers)
    seams.stitch.click()
    slide(qtbot, seams, 1)
    assert seams.stitched.layers == layers  # taken over, not made again
    assert seams.problem == ""


def test_suggest_and_apply_write_the_halo_into_the_other_dock(qtbot, viewer, docks):
    dock, seams = docks
    viewer.add_image(uneven(96, 120))
    predict(qtbot, dock, CLASSES, halo=1, overlap=16)
    needed = max(map(max, CLASSES.reach.halo))
    (mark,) = seams._marks()
    assert mark == (needed, "reach")
    assert "Seams" in seams.verdict.text()
    press(qtbot, seams.suggest)
    qtbot.waitUntil(lambda: not seams.suggestion.visibleRegion().isEmpty(), timeout=PATIENCE)
    found = seams.run.evidence.report.smallest_seamless
    assert seams.halo.value() == needed >= found
    assert f"Margin {needed} is exact on any image" in seams.suggestion.text()
    assert f"no seam is left from margin {found} on" in seams.suggestion.text()
    assert list(seams.advised.buttons) == [f"Set margin {needed} and run"]
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
    assert np.allclose(seams.stitched.array, whole(CLASSES, viewer.layers[0].data), atol=1e-6)
    press(qtbot, seams.apply)
    assert dock.halo.value() == (needed, needed)
    assert dock.plan.grid.halo == ((needed, needed),) * 2
    assert dock.overlap.value() == "auto"
    predict(qtbot, dock, CLASSES)
    assert "Seamless" in seams.verdict.text()
    assert seams.actions.isHidden()
    press(qtbot, seams.suggest)  # never less than the present halo
    assert seams.halo.value() == needed
    assert "no seams" in seams.suggestion.text()

    predict(qtbot, dock, INSTANCE, halo=1, overlap=16)
    press(qtbot, seams.suggest)
    assert seams.halo.value() == 1
    assert "Overlap cannot remove these seams" in seams.suggestion.text()
    assert list(seams.advised.buttons) == ["Fix statistics and run"]


def test_each_finding_has_its_button(qtbot, viewer, docks):
    dock, seams = docks
    viewer.add_image(uneven(96, 120))
    predict(qtbot, dock, CLASSES, halo=0, overlap=8)
    assert list(seams.actions.buttons) == ["Show the worst seam", "Fix it"]
    press(qtbot, seams.actions.buttons["Show the worst seam"])
    assert seams.table.seam == seams.run.evidence.report.seams[0]
    assert list(dock.panel.actions.buttons) == ["See the seams", "Fix it"]
    press(qtbot, seams.actions.buttons["Fix it"])
    qtbot.waitUntil(lambda: "Seamless" in seams.verdict.text(), timeout=PATIENCE)
    assert dock.panel.actions.isHidden()


def test_a_result_is_deleted_with_its_layers(qtbot, viewer, docks):
    dock, seams = docks
    viewer.add_image(uneven(96, 120), name="cells")
    predict(qtbot, dock, CLASSES, halo=0)
    predict(qtbot, dock, CLASSES, halo=3)
    first, second = Session.of(viewer).runs
    assert seams.run.plan.grid.halo == second.plan.grid.halo
    second.evidence.release()  # as for a large result
    waits = seams.measuring.unfinished(second)
    Ledger.begin(waits, {}).mark(1)
    seams.measuring.run_on.set_value("")  # a scheduler that is not named yet
    press(qtbot, seams.measuring.again)
    assert "Enter the address of a scheduler" in seams.problem
    assert (waits / "1").exists()  # refused before anything is removed
    seams.measuring.run_on.set_value(None)
    assert seams.measuring.measure.text() == "Go on"  # whoever is chosen
    assert not seams.measuring.again.isHidden()
    undrawn(viewer)
    press(qtbot, seams.delete)
    assert not waits.exists()
    assert Session.of(viewer).layers_of(first)
    assert not any(x in viewer.layers for x in Session.of(viewer).layers_of(second))
    assert seams.run.plan.grid.halo == first.plan.grid.halo
    press(qtbot, seams.delete)
    assert [x.name for x in viewer.layers if "Net" in x.name] == []
    assert not seams.delete.isEnabled()
    assert seams.run is seams._measured_run is None


def test_measures_wait_where_there_is_a_disk_and_keep_no_result(tmp_path):
    class Result:
        def __init__(self, path):
            self.output, self.stored = SimpleNamespace(path=path), path is not None

    page = SimpleNamespace(kept=KeptWork(Result(None)))
    root = page.kept.root
    beside = MeasurePage.unfinished(page, Result(tmp_path / "a.zarr"))
    assert beside == tmp_path / "a.zarr.seams.partial"
    for path in (None, "s3://bucket/a.zarr"):
        run = Result(path)
        gone = weakref.ref(run)
        folder = MeasurePage.unfinished(page, run)
        assert folder == MeasurePage.unfinished(page, run)
        assert folder.parent == root
        del run
        gc.collect()
        assert gone() is None


def test_heat_maps_lie_on_the_grey_image(qtbot, viewer, docks):
    dock, seams = docks
    image = uneven(96, 120)
    layer = viewer.add_image(image, name="cells", scale=(0.5, 0.25), translate=(7, 9))
    predict(qtbot, dock, INSTANCE, halo=2, overlap=12)
    results = [
        x for x in viewer.layers if x.visible and seams.session.run_of(x) is seams.runs.value()
    ]
    assert results
    for box in seams.heat.boxes.values():
        press(qtbot, box)
    maps = {kind: seams.heat.layers.layer(kind) for kind in seams.heat.boxes}
    run = seams.run
    expected = distance_map(INSTANCE, image, run.plan)
    assert expected[0].max() > 0.01
    np.testing.assert_allclose(maps["pixels"].data, expected[0], atol=1e-6)
    for kind in ("seams", "tiles"):
        picture = np.asarray(SeamPicture(run.evidence.report, kind))
        np.testing.assert_array_equal(np.asarray(maps[kind].data), picture)
    tables = run.evidence.report.tables[()]
    for tile in run.plan.grid:  # a seam along x, by hand
        if tile.index[1] + 1 < run.plan.grid.shape[1]:
            at = (tile.core[0].start + 5, tile.core[1].stop)
            assert maps["seams"].data[at] == np.nanmax(tables[1, *tile.index, 3:])
    for kind, shown in maps.items():
        np.testing.assert_allclose(shown.scale, layer.scale)
        np.testing.assert_allclose(shown.translate, layer.translate)
        assert shown.colormap.map([0.0])[0, 3] == 0  # transparent where tiles agree
        scale = seams.heat.scales[kind]
        assert scale.isVisibleTo(seams)
        assert scale.limits == tuple(shown.contrast_limits)
    tolerance, peak = maps["pixels"].contrast_limits
    assert tolerance == pytest.approx(run.evidence.report.tolerance)
    assert peak == pytest.approx(run.evidence.report.measures.max_dist)
    assert layer.visible  # and no colours of the result below those of the maps
    assert not any(x.visible for x in results)
    for box in seams.heat.boxes.values():
        press(qtbot, box)
    assert all(x.visible for x in results)
    for box in seams.heat.boxes.values():
        press(qtbot, box)

    seams.heat.measures["pixels"].set_value("mean_dist")
    np.testing.assert_allclose(seams.heat.layers.layer("pixels").data, expected[1], atol=1e-6)
    seams.channel.set_value(1)
    one = np.asarray(SeamPicture(run.evidence.report, "tiles", channel=1))
    same = partial(np.array_equal, one, equal_nan=True)
    qtbot.waitUntil(lambda: same(np.asarray(maps["tiles"].data)), timeout=PATIENCE)
    predict(qtbot, dock, INSTANCE, halo=4, overlap=12)
    qtbot.waitUntil(lambda: all(x.visible for x in maps.values()), timeout=PATIENCE)
    assert seams.heat.layers.layer("seams") is maps["seams"]  # taken over
    assert seams.run is not run
    assert viewer.layers[-1] in maps.values()  # above the newer results
    maps["seams"].contrast_limits = (0, 0.5)
    assert seams.heat.scales["seams"].limits == (0, 0.5)
    press(qtbot, seams.heat.boxes["seams"])
    assert not maps["seams"].visible
    undrawn(viewer).layers.remove(maps["tiles"])
    assert not seams.heat.boxes["tiles"].isChecked()
    assert not seams.heat.scales["seams"].isVisibleTo(seams)
    shown = [x for x in viewer.layers if seams.session.run_of(x) is seams.runs.value()]
    assert not any(x.visible for x in shown)
    press(qtbot, seams.heat.boxes["pixels"])
    assert all(x.visible for x in shown)

    seams.halo.set_value(1)  # stitched again: no colours of that below a map either
    qtbot.waitUntil(lambda: any(x.visible for x in seams.stitched.layers), timeout=PATIENCE)
    again = list(seams.stitched.layers)
    press(qtbot, seams.heat.boxes["pixels"])
    assert not any(x.visible for x in [*shown, *again])
    press(qtbot, seams.heat.boxes["pixels"])
    assert all(x.visible for x in again)
    press(qtbot, seams.heat.boxes["pixels"])
    press(qtbot, seams.stitch)
    assert not any(x.visible for x in [*shown, *again])
    press(qtbot, seams.heat.boxes["pixels"])
    assert all(x.visible for x in shown)
    assert not any(x.visible for x in again)


def test_heat_maps_of_large_images_are_pyramids(qtbot, viewer, docks, monkeypatch):
    dock, seams = docks
    monkeypatch.setattr("seamscope.docks.seams.heat_layers.pyramid", partial(pyramid, most=1000))
    layer = viewer.add_image(uneven(96, 120), scale=(0.5, 0.25), translate=(7, 9))
    predict(qtbot, dock, INSTANCE, halo=2, overlap=12)
    for kind in ("seams", "tiles"):
        press(qtbot, seams.heat.boxes[kind])
        shown = seams.heat.layers.layer(kind)
        assert shown.multiscale
        np.testing.assert_allclose(shown.scale, layer.scale)
        np.testing.assert_allclose(shown.extent.world, layer.extent.world)
        picture = np.asarray(SeamPicture(seams.run.evidence.report, kind))
        np.testing.assert_array_equal(np.asarray(shown.data[0]), picture)
    qtbot.wait(50)
    predict(qtbot, dock, INSTANCE, halo=4, overlap=12)
    qtbot.waitUntil(lambda: seams.heat.layers.layer("tiles") is shown, timeout=PATIENCE)
    viewer.dims.ndisplay = 3
    qtbot.wait(50)


def test_the_worst_borders_are_a_click_away(qtbot, viewer, docks):
    dock, seams = docks
    image = uneven(96, 120)
    layer = viewer.add_image(image, scale=(2, 2), translate=(10, 20))
    predict(qtbot, dock, INSTANCE, halo=2, overlap=12)
    run = seams.run
    found = run.evidence.report.seams
    table = seams.table
    seams.tabs.setCurrentIndex(1)
    assert table.model().rowCount() == len(found) == run.evidence.report.overlaps
    zoom = camera(viewer).zoom
    rect = table.visualRect(table.model().index(1, 0))
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=rect.center())
    assert table.seam == found[1]
    np.testing.assert_allclose(
        camera(viewer).center[-2:], layer.data_to_world(found[1].worst), atol=1e-6
    )
    assert camera(viewer).zoom > zoom

    for _ in range(2):
        qtbot.keyClick(table, Qt.Key.Key_Down)
    assert table.seam == found[3]
    seam, views = found[3], seams._views
    check_line(seams, seam)
    channel = views.channel
    for item, index in zip(seams.comparison.pictures, (seam.lower, seam.upper), strict=False):
        tile = run.plan.grid[index]
        full = np.full(image.shape, np.nan, np.float32)
        full[tile.read] = again(INSTANCE, image, tile)[channel]
        np.testing.assert_allclose(item.image, full[views.region], atol=1e-6)
    difference = seams.comparison.pictures[2].image
    assert np.nanmax(difference) >= seam.max_dist - 1e-6
    place = tuple(w - r.start for w, r in zip(seam.worst, views.region, strict=True))
    assert views.apart[:, *place].max() == pytest.approx(seam.max_dist, abs=1e-6)
    assert views.seam[1] == (
        run.plan.grid[seam.lower].core[seam.axis].stop - views.region[seam.axis].start
    )
    seams.channel.set_value(0)
    np.testing.assert_array_equal(seams.comparison.pictures[2].image, views.apart[0])

    table.sortByColumn(2, Qt.SortOrder.AscendingOrder)
    table.choose(0)
    assert table.seam.mean_dist == min(b.mean_dist for b in found)
    press(qtbot, seams.previous)
    assert table.currentIndex().row() == 0
    seams.tabs.setCurrentIndex(0)
    viewer.window.activate()
    window = seams.window()
    qtbot.waitUntil(window.isActiveWindow, timeout=PATIENCE)
    qtbot.keyClick(window, Qt.Key.Key_Right, Qt.KeyboardModifier.AltModifier)
    assert table.currentIndex().row() == 1
    assert seams.tabs.currentIndex() == 1
    check_line(seams, table.seam)
    undrawn(viewer)
    press(qtbot, seams.delete)
    assert seams.chosen.layer is None


def check_line(seams, seam):
    """The line on the canvas is where one tile's kept part ends and its neighbour's begins."""
    grid, ends = seams.run.plan.grid, np.asarray(seams.chosen.layer.data[0])

    def keeps(point):
        pixel = np.round(point).astype(int)
        inside = (
            all(s.start <= p < s.stop for s, p in zip(t.core, pixel, strict=True)) for t in grid
        )
        return next(tile.index for tile, found in zip(grid, inside, strict=True) if found)

    step = np.zeros(2)
    step[seam.axis] = 0.5
    for share in (0.01, 0.5, 0.99):
        point = ends[0] + share * (ends[1] - ends[0])
        assert keeps(point - step) == seam.lower
        assert keeps(point + step) == seam.upper
    other = grid[seam.lower].core[1 - seam.axis]
    assert np.ptp(ends, axis=0)[1 - seam.axis] == other.stop - other.start


def test_a_clicked_pixel_is_told_by_every_tile(qtbot, viewer, docks):
    dock, seams = docks
    image = uneven(96, 120)
    viewer.add_image(image)
    predict(qtbot, dock, INSTANCE, halo=2, overlap=12)
    viewer.reset_view()
    canvas = viewer.window._qt_viewer.canvas.native
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    qtbot.wait(50)
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=middle)
    assert seams.pixel._bars == []  # not asked for yet
    seams.tabs.setCurrentIndex(2)
    assert seams.pixel.room.plot is None  # made when there is something to draw
    press(qtbot, seams.ask)
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=middle)
    qtbot.waitUntil(lambda: seams.pixel._bars != [], timeout=PATIENCE)

    plan = seams.run.plan
    pixel = next(
        (lower.core[0].stop - 2, lower.core[1].stop - 3)
        for lower in plan.grid
        if lower.index == (0, 1)
    )
    seams.ask_at(pixel)
    qtbot.waitUntil(lambda: seams.pixel.room.settled, timeout=PATIENCE)
    seen = [t for t in plan.grid if all(r.start <= p < r.stop for r, p in zip(t.read, pixel))]  # noqa: B905
    assert len(seen) == 4 == len(seams.pixel._bars)
    expected = {
        tile.index: again(INSTANCE, image, tile)[
            :, pixel[0] - tile.read[0].start, pixel[1] - tile.read[1].start
        ]
        for tile in seen
    }
    heights = [bars.opts["height"] for bars in seams.pixel._bars]
    for index, values in expected.items():
        assert any(np.allclose(values, bar, atol=1e-6) for bar in heights), index
    np.testing.assert_allclose(heights[0], expected[0, 1], atol=1e-6)  # whose core it is
    apart = np.ptp(list(expected.values()), axis=0).max()
    assert f"<b>{figure_text(apart)}</b>" in seams.pixel.table.text()
    seams.ask_at((-50, 3))
    assert "outside" in seams.pixel.table.text()
    press(qtbot, seams.ask)
    assert seams._clicked not in viewer.mouse_drag_callbacks


def test_volumes_and_time(qtbot, viewer, docks):
    dock, seams = docks
    image = uneven(24, 32, 40)
    layer = viewer.add_image(image, axis_labels=("z", "y", "x"), scale=(3, 1, 1))
    predict(qtbot, dock, SOLID, tile=(16, 16, 24), halo=2)
    report = seams.run.evidence.report
    across = next(i for i, b in enumerate(report.seams) if b.axis == 0)
    seams.table.choose(across)
    worst = report.seams[across].worst
    assert viewer.dims.point[0] == 3 * worst[0]
    np.testing.assert_allclose(camera(viewer).center[-2:], worst[1:], atol=0.6)
    assert seams._views.plane == (0, 2)  # the seam lies across z: it would not be cut in the view
    inside = next(i for i, b in enumerate(report.seams) if b.axis == 1)
    seams.table.choose(inside)
    assert seams._views.plane == (1, 2)
    press(qtbot, seams.heat.boxes["pixels"])
    press(qtbot, seams.heat.boxes["seams"])
    assert seams.heat.layers.layer("pixels").data.shape == image.shape
    np.testing.assert_allclose(seams.heat.layers.layer("seams").scale, (3, 1, 1))
    viewer.dims.ndisplay = 3
    seams.table.choose(across)
    viewer.dims.ndisplay = 2
    slide(qtbot, seams, 0)
    assert seams.stitched.layers[0].data.shape == image.shape

    viewer.layers.selection = set()
    times = uneven(3, 64, 72)
    layer = viewer.add_image(times, axis_labels=("t", "y", "x"), scale=(6, 1, 1), name="times")
    dock.image_box.value = layer
    predict(qtbot, dock, INSTANCE, tile=32, halo=2)
    report = seams.run.evidence.report
    assert seams.table.model().headerData(1, Qt.Orientation.Horizontal) == "Frame"
    row = next(i for i, b in enumerate(report.seams) if b.frame == (2,))
    seams.table.choose(row)
    assert viewer.dims.point[-3] == 12
    slide(qtbot, seams, 1)
    opinions = seams.run.evidence.opinions
    shown = seams.stitched.layers[0]
    np.testing.assert_array_equal(seams.stitched.array, opinions.restitch(1, (2,)).array)
    assert shown.translate[0] == 12
    viewer.dims.set_point(viewer.dims.ndim - 3, 6)
    np.testing.assert_array_equal(seams.stitched.array, opinions.restitch(1, (1,)).array)
    assert shown.translate[0] == 6
    np.testing.assert_array_equal(shown.data[0], seams.stitched.array[2])


def test_a_run_that_is_deleted_while_its_layers_come_leaves_none(qtbot, viewer, docks):
    dock, seams = docks
    viewer.add_image(uneven(64, 64))
    predict(qtbot, dock, INSTANCE, tile=32, halo=2)
    run, frame = seams.run, seams._frame(seams.run)
    stitched = run.evidence.opinions.restitch(1, frame)
    before, ready = list(viewer.layers), []
    seams.stitched.add(run, frame, stitched, lambda: ready.append(True))
    assert len(viewer.layers) == len(before) + 1
    run.evidence.opinions = None
    qtbot.waitUntil(lambda: bool(ready), timeout=PATIENCE)
    assert list(viewer.layers) == before


def test_what_was_not_kept_can_be_measured(qtbot, viewer, docks, monkeypatch):
    dock, seams = docks
    image = uneven(128, 128)
    viewer.add_image(image)
    dock.options.seams.set_value("sample")
    predict(qtbot, dock, INSTANCE, halo=2)
    sampled = seams.run.evidence.report
    assert not sampled.complete
    assert "measured" in seams.verdict.text()
    assert not seams.stitch.isVisibleTo(seams)
    press(qtbot, seams.heat.boxes["pixels"])
    assert "press Measure" in seams.problem
    press(qtbot, seams.measuring.measure)
    assert seams.busy
    press(qtbot, seams.job.cancel)
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
    assert "Stopped" in seams.problem
    assert seams.run.evidence.report is sampled

    left = seams.measuring.unfinished(seams.runs.value())
    left.mkdir(parents=True)  # as workers that were stopped
    seams.measuring.show_state()
    assert seams.measuring.measure.text() == "Go on"
    press(qtbot, seams.measuring.again)  # with this process
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
    assert seams.problem == ""
    assert not left.exists()
    report = seams.run.evidence.report
    assert report.complete
    assert seams.run.evidence.kept
    assert not seams.measuring.measure.isVisibleTo(seams)
    assert seams.heat.layers.layer("pixels") is not None
    expected = measure_seams(image, INSTANCE, report.plan.settings)
    assert report.measures.max_dist == pytest.approx(expected.measures.max_dist, abs=1e-6)

    dock.options.seams.set_value("none")
    predict(qtbot, dock, INSTANCE, halo=2)
    assert "not measured" in seams.verdict.text()
    monkeypatch.setattr(Evidence, "fits", classmethod(lambda *_: False))
    seams._show_headline()
    assert "in view" in seams.measuring.note.text()
    camera(viewer).zoom *= 16
    camera(viewer).center = (0, 100, 30)
    qtbot.wait(100)
    press(qtbot, seams.measuring.measure)
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
    area = seams.run.plan.area
    assert area[0].start > 32
    assert area[1].stop < 96
    seams.heat.show_run(seams.run)
    shown = seams.heat.layers.layer("pixels")
    assert shown.data.shape == tuple(a.stop - a.start for a in area)
    np.testing.assert_allclose(shown.translate, [a.start for a in area])

    left = seams.measuring.unfinished(seams.runs.value())
    left.mkdir(parents=True)  # a measurement of the whole image, which is too large for memory
    seams.measuring.show_state()
    press(qtbot, seams.measuring.again)
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
    assert not left.exists()
    assert [(part.start, part.stop) for part in seams.run.evidence.report.plan.area] == [
        (0, 128), (0, 128),
    ]  # fmt: skip

    little = Resources("cpu", 2**30, 0)
    monkeypatch.setattr(dock, "_resources", lambda device: little)
    dock.options.seams.set_value("auto")
    assert dock.plan.settings.seams == "sample"  # for it would not fit
    monkeypatch.undo()
    dock.refresh()
    assert dock.plan.settings.seams == "all"


def test_causes_certificate_and_report(qtbot, viewer, docks, tmp_path):
    dock, seams = docks
    viewer.add_image(uneven(96, 120))
    predict(qtbot, dock, INSTANCE, halo=8, overlap=20)
    press(qtbot, seams.explain)
    assert not seams.certify.isEnabled()
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
    assert seams.problem == ""
    told = dock.results.layers[0].metadata["seamscope"]
    assert told["diagnosis"]["verdict"] == "tile statistics"
    assert list(seams.causes_page.actions.buttons) == ["Fix it"]
    text = seams.causes.text()
    for finding in told["diagnosis"]["findings"]:
        if finding["share"] > 0:
            assert finding["remedy"] in text
            assert f"<b>{finding['cause']}</b>: {percent_text(finding['share'])}" in text
    press(qtbot, seams.certify)
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
    certificate = dock.results.layers[0].metadata["seamscope"]["certificate"]
    assert certificate["passed"] is False
    assert in_dock(certificate["sentence"]) in seams.certificate.text()
    untiled = whole(INSTANCE, viewer.layers[0].data)
    apart = np.abs(dock.results.array - untiled).max()
    assert certificate["max_difference"] == pytest.approx(apart, rel=1e-3)

    known = seams.causes.text()
    press(qtbot, seams.explain)
    press(qtbot, seams.job.cancel)
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
    assert seams.causes.text() == f"{known}<p>Stopped. The earlier answer stays.</p>"

    page = tmp_path / "seams.html"
    seams.causes_page.write_report(page)
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
    assert seams.problem == ""
    assert "Written to seams.html" in seams.causes_page.written.text()
    text = page.read_text(encoding="utf8")
    assert figure_text(seams.run.evidence.report.measures.max_dist) in text
    assert told["diagnosis"]["findings"][0]["cause"] in text


def test_a_network_that_fails_is_told_in_a_sentence(qtbot, viewer, docks):
    dock, seams = docks
    viewer.add_image(uneven(96, 120))
    dock.options.seams.set_value("none")
    predict(qtbot, dock, INSTANCE, halo=2)
    INSTANCE.module.calls_until_failure = 2
    press(qtbot, seams.measuring.measure)
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
    assert "The network failed" in seams.problem
    assert "Traceback" not in seams.problem
    assert not seams.job.isVisibleTo(seams)
    assert seams.measuring.measure.isEnabled()
    assert seams.error.isVisibleTo(seams)


def test_layers_and_docks_come_and_go(qtbot, viewer, docks):
    dock, seams = docks
    viewer.add_image(uneven(96, 120), name="cells")
    predict(qtbot, dock, INSTANCE, halo=2)
    first = seams.runs.value()
    dock.options.result.set_value("labels")
    predict(qtbot, dock, INSTANCE, halo=4)
    second = seams.runs.value()
    assert first is not second
    viewer.layers.selection.active = viewer.layers[1]
    assert Session.of(viewer).run_of(viewer.layers[1]) is first is seams.runs.value()
    seams.runs.set_value(second)
    slide(qtbot, seams, 1)
    count = len(viewer.layers)
    seams.runs.set_value(first)
    slide(qtbot, seams, 2)
    seams.runs.set_value(second)
    slide(qtbot, seams, 0)
    seams.runs.set_value(first)
    slide(qtbot, seams, 1)
    assert len(viewer.layers) == count + 3  # each run has its layers once
    seams.runs.set_value(second)
    slide(qtbot, seams, 3)  # labels are stitched as probabilities
    assert len(seams.stitched.layers) == 3
    (labels,) = (x for x in viewer.layers if x.name.startswith("labels"))
    assert not labels.visible
    undrawn(viewer).layers.remove(labels)
    assert seams.runs.value() is first
    assert seams.stitched.layers == []
    for layer in Session.of(viewer).layers_of(first):
        undrawn(viewer).layers.remove(layer)
    assert seams.run is None
    assert "Run" in seams.verdict.text()
    assert seams.table.model().rowCount() == 0
    for button in (seams.explain, seams.certify, seams.suggest, seams.apply):
        assert not button.isEnabled()

    for halo in (1, 2, 3, 4):  # the latest three are kept
        predict(qtbot, dock, INSTANCE, halo=halo)
    kept = [run.evidence.kept for run in Session.of(viewer).runs]
    assert kept[-4:] == [False, True, True, True]
    dock.options.seams.set_value("sample")
    predict(qtbot, dock, INSTANCE, halo=2)
    INSTANCE.module.delay = 0.05
    press(qtbot, seams.measuring.measure)
    assert "what each tile predicts was not kept" in seams.ask.toolTip()
    seams.ask.setChecked(True)
    viewer.window.remove_dock_widget(seams)
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
    assert seams._clicked not in viewer.mouse_drag_callbacks
    viewer.dims.ndisplay = 3
    seams.deleteLater()


@pytest.mark.parametrize(("scale", "point"), [(1, 9.0), (2, 4.25), (Fraction(1, 2), 18.5)])
def test_pixels_of_larger_and_smaller_results_are_found_on_the_image(scale, point):
    """Pixel 9 of the result, its centre worked out by hand; and back."""
    plan = SimpleNamespace(
        layout=Layout("tyx", "yx", None, "t"),
        facts=SimpleNamespace(scale=(Fraction(1), Fraction(scale))),
        area=(slice(0, 20), slice(5, 20)),
        frame_ranges=((2, 5),),
    )
    run = SimpleNamespace(plan=plan, layer=SimpleNamespace(ndim=3))
    assert layer_point(run, (3,), (7, 9)) == [3, 7.0, point]
    assert result_pixel(run, (3.2, 7.4, point)) == ((3,), (7, 9))
    assert result_pixel(run, (5.2, 7, point)) is None
    assert result_pixel(run, (3, 7, -1)) is None


def test_one_tile_has_no_seams(qtbot, viewer, docks):
    dock, seams = docks
    viewer.add_image(uneven(32, 32))
    predict(qtbot, dock, INSTANCE)
    assert "there are no seams" in seams.verdict.text()
    assert not seams.measuring.measure.isVisibleTo(seams)
    assert not seams.explain.isEnabled()
    assert "there are no seams" in seams.explain.toolTip()
    seams.find_causes()  # as the step Fix does
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
    assert seams.problem == ""
    assert "seamless" in seams.causes.text().lower() or "one tile" in seams.causes.text().lower()


def test_closing_the_viewer_ends_what_is_measured(qtbot, make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    dock, seams = PredictionDock(viewer), SeamsDock(viewer)
    viewer.window.add_dock_widget(dock)
    viewer.window.add_dock_widget(seams)
    viewer.add_image(uneven(128, 128))
    dock.options.seams.set_value("sample")
    predict(qtbot, dock, INSTANCE, halo=2)
    INSTANCE.module.delay = 0.1
    seams.measuring.measure.click()
    qtbot.waitUntil(lambda: seams.job.bar.value() >= 2, timeout=PATIENCE)
    reporter = seams.job.job.reporter
    viewer.close()
    qtbot.waitUntil(reporter.stopped, timeout=PATIENCE)
    qtbot.wait(300)  # late events meet no dock


def test_napari_finds_the_dock_and_all_fits(qtbot, viewer):
    place = viewer.window.add_plugin_dock_widget("seamscope", "Seams")[1]
    qtbot.waitUntil(lambda: place.dock is not None, timeout=PATIENCE)
    seams = place.dock
    assert isinstance(seams, SeamsDock)
    viewer.theme = "light"
    assert seams.halo.room.text == "#23242b" or seams.halo.room.text != "#f0f1f2"
    seams.resize(seams.minimumWidth(), 700)
    qtbot.wait(50)
    inside = seams.layout().itemAt(0).widget()
    assert inside.widget().width() <= inside.viewport().width()


def test_a_reach_is_covered_on_every_side():
    ray = HaloRay.along([(10, 10), (40, 20)])
    halo = ((3, 2), (5, 5))
    found = covering(ray, halo)
    enough = [
        all(s >= h for side, need in zip(ray.sides(n), halo, strict=True)
            for s, h in zip(side, need, strict=True))
        for n in range(60)
    ]  # fmt: skip
    assert enough.index(True) == found
