"""The dock "Labels", driven by its own controls, against segmentations made anew."""

from __future__ import annotations

import csv
import dataclasses
import errno
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from scipy import ndimage

pytest.importorskip("napari")

from dock_networks import measured
from hands import PATIENCE, predict, press, uneven
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

import seamscope
from seamscope.docks.editors import Choice
from seamscope.docks.job_row import JobRow
from seamscope.docks.labels import live as live_module
from seamscope.docks.labels import write_page
from seamscope.docks.labels.background import WriteInBlocks, blocks_of_labels
from seamscope.docks.labels.corrections_page import left_out
from seamscope.docks.labels.live import Live
from seamscope.docks.labels.shown import Picture, Screen
from seamscope.docks.labels.write_page import WritePage
from seamscope.docks.layers import camera
from seamscope.errors import OutputError
from seamscope.images.results.create import unfinished
from seamscope.progress import QUIET
from seamscope.segmentation.asking import ask_again
from seamscope.segmentation.corrections import Corrections, identity
from seamscope.segmentation.false_splits import find_splits
from seamscope.segmentation.label_images import merge_pairs
from seamscope.segmentation.labelling import begin_labels
from seamscope.segmentation.recipe import Recipe
from seamscope.segmentation.review import suspects
from seamscope.segmentation.segment import Segmentation

NETWORK = measured(norm=True)


def smooth(*shape, seed=0, sigma=2):
    """Probabilities with some tens of blobs."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), sigma)
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


def same_objects(one, two):
    """Whether two label images show the same objects, whatever their numbers."""
    pairs = np.unique(np.stack([np.ravel(one), np.ravel(two)]), axis=1)
    each = [len(np.unique(side)) for side in pairs]
    background = (pairs[0] == 0) == (pairs[1] == 0)
    return bool(background.all()) and each == [pairs.shape[1]] * 2


def rest(qtbot, dock):
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)


@pytest.fixture
def segmented(qtbot, viewer, open_docks):
    """Segment an array as an image layer; returns the dock at rest."""

    def begin(values, **look):
        viewer.add_image(values, name="probabilities", **look)
        dock = open_docks("labels")
        rest(qtbot, dock)
        press(qtbot, dock.segment)
        rest(qtbot, dock)
        return dock

    return begin


def test_what_is_in_view_is_what_the_full_run_writes(qtbot, segmented, tmp_path):
    p = smooth(96, 120)
    dock = segmented(p, scale=(2.0, 0.5))
    assert dock.problem == ""
    assert dock.recipe.value().kind == "components"
    for value in (0.5, 0.42, 0.611):
        dock.plot.set_value(value)
        rest(qtbot, dock)
        found = seamscope.segment(p, kind="components", threshold=value)
        assert same_objects(np.asarray(dock.live.layer.data), found.labels)
        assert f"<b>{found.count} objects" in dock.verdict.text()
    np.testing.assert_array_equal(dock.live.layer.scale, (2.0, 0.5))
    dock.recipe.min_size.setValue(20)
    rest(qtbot, dock)
    found = seamscope.segment(p, kind="components", threshold=0.611, min_size=20)
    assert same_objects(np.asarray(dock.live.layer.data), found.labels)
    dock.writing.place.setText(str(tmp_path / "cells.npy"))
    press(qtbot, dock.writing.write)
    rest(qtbot, dock)
    assert dock.problem == ""
    np.testing.assert_array_equal(np.load(tmp_path / "cells.npy"), found.labels)
    rows = list(csv.DictReader((tmp_path / "cells.csv").read_text().splitlines()))
    assert [int(row["label"]) for row in rows] == list(range(1, found.count + 1))
    features = dock.live.layer.features
    shown, written = np.asarray(dock.live.layer.data), np.asarray(found.labels)
    for index, label, pixels in zip(
        features["index"], features["label"], features["pixels"], strict=True
    ):
        np.testing.assert_array_equal(shown == index, written == label)
        assert pixels == (written == label).sum()
    press(qtbot, dock.writing.write)
    rest(qtbot, dock)
    assert "exists" in dock.problem
    dock.writing.replace.setChecked(True)
    press(qtbot, dock.writing.write)
    rest(qtbot, dock)
    assert dock.problem == ""


def test_the_curve_counts_objects_and_a_recipe_is_changed_live(qtbot, segmented):
    p = smooth(64, 80)
    dock = segmented(p)
    curve = dock.plot.curve
    for value in (0.3, 0.5, 0.7):
        at = int(np.searchsorted(curve.values, value))
        assert curve.counts[at] == ndimage.label(p > value)[1]
    low, high = dock.plot.stable
    assert 0 <= low < high <= 1
    dock.recipe.kind.set_value("distance")
    rest(qtbot, dock)
    assert dock.plot.curve.name == "dynamics"
    found = seamscope.segment(p, kind="distance", dynamics=1.0)
    assert same_objects(np.asarray(dock.live.layer.data), found.labels)
    dock.recipe.seeds.set_value(False)
    rest(qtbot, dock)
    assert dock.plot.curve.name == "seed_threshold"
    dock.plot.set_value(2.5)
    rest(qtbot, dock)
    found = seamscope.segment(p, kind="distance", seed_threshold=2.5)
    assert same_objects(np.asarray(dock.live.layer.data), found.labels)
    dock.recipe.kind.set_value("classes")
    rest(qtbot, dock)
    assert dock.plot.curve is None
    np.testing.assert_array_equal(np.asarray(dock.live.layer.data), p > 0.5)


def test_keys_move_the_line_on_both_plots_and_to_its_ends(qtbot, segmented):
    dock = segmented(smooth(64, 80))
    plot, step = dock.plot, dock.plot.number.singleStep()
    top = plot.number.maximum()
    qtbot.waitUntil(lambda: plot.heights.plot is not None, timeout=PATIENCE)
    for room in (plot.objects, plot.heights):
        for key, value in (
            (Qt.Key.Key_Home, 0),
            (Qt.Key.Key_Right, step),
            (Qt.Key.Key_PageUp, 11 * step),
            (Qt.Key.Key_End, top),
            (Qt.Key.Key_Left, top - step),
            (Qt.Key.Key_PageDown, top - 11 * step),
        ):
            qtbot.keyClick(room.plot, key)
            assert plot.value() == pytest.approx(value)
            assert plot.lines[0].value() == plot.lines[1].value() == plot.value()
    rest(qtbot, dock)
    assert dock.live.recipe.threshold == pytest.approx(top - 11 * step)


def test_labels_do_not_shine_through_a_prediction_that_begins(qtbot, segmented):
    dock = segmented(smooth(64, 80))
    layer, session = dock.live.layer, dock.session
    session.begin_run()
    assert not layer.visible
    session.drop_run()
    assert layer.visible
    session.begin_run()
    session.running = False
    press(qtbot, dock.segment)
    rest(qtbot, dock)
    assert dock.live.layer.visible
    dock.live.layer.visible = False
    session.begin_run()
    session.drop_run()
    assert not dock.live.layer.visible  # the user's wish


def test_the_thumbnail_shows_the_objects(qtbot, segmented):
    thumbnail = segmented(smooth(64, 80)).live.layer.thumbnail
    assert len(np.unique(thumbnail.reshape(-1, 4), axis=0)) > 3


def test_a_step_of_the_slider_paints_the_view_once_and_nothing_else(qtbot, segmented, monkeypatch):
    dock = segmented(smooth(96, 120))
    painted, others = [], []
    paint = Segmentation.paint_named

    def spy(found, region):
        names = paint(found, region)
        painted.append(names.size)
        return names

    monkeypatch.setattr(Segmentation, "paint_named", spy)
    monkeypatch.setattr(Choice, "addItem", lambda *_: others.append("a list"))
    for plot in (dock.plot.objects, dock.plot.heights):
        monkeypatch.setattr(plot, "_draw", lambda _: others.append("a plot"))
    for value in (0.45, 0.5, 0.55):
        dock.plot.set_value(value)
        rest(qtbot, dock)
    assert painted == 3 * [1, 96 * 120]
    assert others == []


def test_the_part_in_view_comes_first_and_its_cut_objects_are_hatched(
    qtbot, viewer, open_docks, monkeypatch
):
    monkeypatch.setattr(live_module, "_SMALL", 0)
    monkeypatch.setattr(live_module, "_BY_ITSELF", 0)
    p = smooth(400, 500)
    viewer.add_image(p, name="probabilities")
    dock = open_docks("labels")
    rest(qtbot, dock)
    camera(viewer).zoom = 6
    camera(viewer).center = (0, 200, 200)
    qtbot.wait(50)
    press(qtbot, dock.segment)
    rest(qtbot, dock)
    assert not dock.live.whole
    found = dock.live.picture.found
    region = tuple(slice(c, c + n) for c, n in zip(found.corner, found.shape, strict=True))
    assert found.shape < p.shape
    shown = np.asarray(dock.live.layer.data)
    outside = np.ones(p.shape, bool)
    outside[region] = False
    assert not shown[outside].any()
    whole = np.asarray(seamscope.segment(p, kind="components").labels)
    inside = whole[region]
    cut = np.unique(np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]]))
    complete = ~np.isin(inside, cut)
    assert same_objects(np.where(complete, shown[region], 0), np.where(complete, inside, 0))
    hatched = ~complete & (inside > 0)
    assert 0.2 < (shown[region][hatched] == 0).mean() < 0.8
    assert "in the part in view" in dock.verdict.text()
    camera(viewer).center = (0, 330, 420)
    qtbot.waitUntil(lambda: dock.live._look.isActive() or dock.busy, timeout=PATIENCE)
    qtbot.waitUntil(
        lambda: not dock.busy and dock.live.picture.found.corner != found.corner, timeout=PATIENCE
    )
    press(qtbot, dock.whole)
    rest(qtbot, dock)
    assert dock.live.whole
    assert same_objects(np.asarray(dock.live.layer.data), whole)


def test_levels_of_a_large_layer_are_read_where_they_are_seen():
    p = smooth(60, 70)
    screen = Screen((20_000, 20_000))
    levels = screen.levels()
    assert [level.shape[0] for level in levels][:4] == [20_000, 10_000, 5_000, 2_500]
    assert levels[-1].shape == (40, 40)
    tracemalloc.start()
    assert not levels[0][100:1000, 3:500].any()
    found = seamscope.segment(p)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    screen.picture = Picture(found)
    names = found.paint_named((slice(0, 60), slice(0, 70)))
    for k, level in enumerate(levels[:4]):
        read = level[0:40, 1:30]
        expected = names[:: 2**k, :: 2**k][0:40, 1:30]
        np.testing.assert_array_equal(read[: len(expected), : expected.shape[1]], expected)
        assert not read[len(expected) :].any()
    solid = Screen((4, 60, 70))
    solid.picture = Picture(seamscope.segment(np.stack([p] * 4), axes="zyx"))
    (level,) = solid.levels()
    part = level[:, 3:20, :]
    assert part.shape == (4, 17, 70)
    np.testing.assert_array_equal(np.asarray(part)[2], part[2])
    np.testing.assert_array_equal(part[-1, 2], np.asarray(level)[3, 5])


def test_what_cannot_be_segmented_is_said_in_a_sentence(qtbot, viewer, open_docks):
    p = smooth(40, 50)
    p[3, 4] = np.nan
    viewer.add_image(p, name="holes")
    viewer.add_image(8 * smooth(40, 50) - 4, name="scores")
    dock = open_docks("labels")
    rest(qtbot, dock)
    assert dock.source.value().title == "scores"
    assert "taken for logits" in dock.question.text()
    assert dock.recipe.value().values == "logits"
    dock.source.setCurrentIndex(1)
    rest(qtbot, dock)
    assert dock.question.isHidden()
    press(qtbot, dock.segment)
    rest(qtbot, dock)
    assert "NaN" in dock.problem
    dock.source.setCurrentIndex(0)
    rest(qtbot, dock)
    press(qtbot, dock.segment)
    rest(qtbot, dock)
    assert dock.problem == ""
    dock.plot.set_value(1.0)
    rest(qtbot, dock)
    assert "No object" in dock.verdict.text()
    dock.recipe.values.set_value("clipped")
    rest(qtbot, dock)
    dock.plot.set_value(0.5)
    rest(qtbot, dock)
    assert same_objects(shown(dock), ndimage.label(viewer.layers["scores"].data > 0.5)[0])


def test_a_layer_that_is_removed_and_a_window_that_is_closed_end_the_work(
    qtbot, viewer, open_docks, monkeypatch
):
    monkeypatch.setattr(live_module, "_SMALL", 0)
    viewer.add_image(smooth(300, 400), name="probabilities")
    dock = open_docks("labels")
    rest(qtbot, dock)
    press(qtbot, dock.segment)
    viewer.layers.remove(dock.live.layer)
    assert dock.live.image is None
    rest(qtbot, dock)
    assert dock.problem == ""
    press(qtbot, dock.segment)
    qtbot.waitUntil(lambda: dock.live.picture is not None, timeout=PATIENCE)
    dock.recipe.kind.set_value("boundaries")  # the whole image is being found
    dock.recipe.kind.set_value("components")
    rest(qtbot, dock)
    assert dock.live.whole


def shown(dock):
    return np.asarray(dock.live.layer.data)


def drag(viewer, page, points, direction=None):
    """Press the mouse at the first point of the world, with Shift, and move it to the others."""
    event = SimpleNamespace(
        type="mouse_press", button=1, modifiers=["Shift"], position=points[0],
        view_direction=direction, dims_displayed=viewer.dims.displayed,
    )  # fmt: skip
    pressed = page._pressed(viewer, event)
    next(pressed)
    event.type = "mouse_move"
    for event.position in points[1:]:
        next(pressed)
    event.type = "mouse_release"
    next(pressed, None)


def test_corrections_are_those_of_the_engine_and_undone_to_the_start(
    qtbot, viewer, segmented, tmp_path
):
    p = smooth(96, 120)
    dock = segmented(p)
    page = dock.correcting
    dock.writing.place.setText(str(tmp_path / "cells.npy"))
    dock.writing.place.editingFinished.emit()
    start = shown(dock)
    found = seamscope.segment(p, kind="components")
    edits = Corrections(found)
    label = np.asarray(found.labels)
    large = np.argsort(-np.bincount(label.ravel())[1:])[:4] + 1
    peaks = [np.argmax(np.where(label == k, p, 0)) for k in large]
    one, two, three, four = (
        tuple(int(i) for i in np.unravel_index(peak, p.shape)) for peak in peaks
    )

    def clicked(tool, place):
        page.buttons[tool].click()
        drag(viewer, page, [place])

    clicked("merge", one)
    assert "second place" in page.text.text()
    page.act("merge", two)
    edits.merge(one, two)
    rest(qtbot, dock)
    assert same_objects(shown(dock), edits.current.labels)
    page.act("delete", three)
    edits.delete(three)
    clicked("lock", four)
    edits.lock(four)
    page.act("split", one)
    page.act("split", two)
    edits.split([one], [two])
    rest(qtbot, dock)
    assert same_objects(shown(dock), edits.current.labels)
    assert "4 corrections" in page.text.text()
    (file,) = tmp_path.glob("cells.*.corrections")
    assert Corrections(found, file).entries == edits.entries
    dock.plot.set_value(0.55)
    rest(qtbot, dock)
    edits.at(threshold=0.55)
    assert same_objects(shown(dock), edits.current.labels)
    page.act("delete", four)
    assert "locked" in dock.problem
    dock.plot.set_value(0.5)
    rest(qtbot, dock)
    for _ in range(4):
        press(qtbot, page.buttons["undo"])
        rest(qtbot, dock)
    assert not page.buttons["undo"].isEnabled()
    np.testing.assert_array_equal(shown(dock), start)
    press(qtbot, page.buttons["redo"])
    rest(qtbot, dock)
    assert shown(dock)[one] == shown(dock)[two]
    press(qtbot, dock.segment)  # as after a restart: the file is repeated
    rest(qtbot, dock)
    assert shown(dock)[one] == shown(dock)[two]
    assert len(dock.live.corrections) == 1


def test_a_line_merges_and_strokes_split(qtbot, viewer, segmented):
    p = np.zeros((40, 60), np.float32)
    p[10:20, 5:15] = p[10:20, 20:30] = p[10:20, 35:45] = 0.9
    dock = segmented(p)
    page = dock.correcting
    page.buttons["merge"].click()
    drag(viewer, page, [(15.0, 2.0), (15.0, 50.0)])
    rest(qtbot, dock)
    first, middle, last = shown(dock)[15, 10], shown(dock)[15, 25], shown(dock)[15, 40]
    assert first == middle == last != 0
    drag(viewer, page, [(35.0, 2.0), (35.0, 50.0)])
    assert "fewer than two objects" in dock.problem
    page.buttons["split"].click()
    drag(viewer, page, [(12.0, 6.0), (18.0, 12.0)])
    assert "second place" in page.text.text()
    drag(viewer, page, [(12.0, 22.0), (15.0, 28.0)])
    rest(qtbot, dock)
    assert shown(dock)[15, 10] != shown(dock)[15, 25]


def test_objects_are_chosen_in_the_volume_that_is_seen(qtbot, viewer, segmented):
    """Clicks and strokes of a 3D view meet the first object on the ray from the eye."""
    p = np.zeros((2, 30, 40, 60), np.float32)  # frames: the displayed axes are not the first ones
    p[:, 16:18, 10:20, 5:15] = p[:, 20:26, 10:20, 5:15] = 0.9  # one close below the other
    p[:, 20:26, 10:20, 30:40] = 0.9
    dock = segmented(p, axis_labels=tuple("tzyx"), scale=(1.0, 3.0, 1.0, 1.0))
    page = dock.correcting
    viewer.dims.ndisplay = 3
    viewer.dims.set_current_step(0, 1)
    down, up, sideways = (0, 1, 0, 0), (0, -1, 0, 0), (0, 0, 0, 1)
    page.buttons["delete"].click()
    drag(viewer, page, [(1, 0, 35, 50)], down)  # beside all objects
    assert not dock.live.corrections
    for at, direction, place in (
        ((1, -9, 15, 10), down, (1, 17, 15, 10)),
        ((1, 99, 15, 10), up, (1, 23, 15, 10)),
        ((1, 66, 15, -20), sideways, (1, 23, 15, 30)),
    ):
        before = shown(dock)
        assert before[place]
        drag(viewer, page, [at], direction)
        rest(qtbot, dock)
        after = shown(dock)
        np.testing.assert_array_equal(after, np.where(before == before[place], 0, before))
    for _ in range(3):
        page.undo()
    rest(qtbot, dock)
    page.buttons["merge"].click()
    drag(viewer, page, [(1, 99, 15, 2), (1, 99, 15, 50)], up)
    rest(qtbot, dock)
    assert shown(dock)[1, 23, 15, 10] == shown(dock)[1, 23, 15, 30] != shown(dock)[1, 17, 15, 10]
    page.paint()
    assert "switch the view to 2D" in dock.problem


def test_painting_in_a_window_becomes_corrections(qtbot, viewer, segmented):
    p = np.zeros((2, 40, 60), np.float32)
    p[:, 10:20, 5:15] = p[:, 10:20, 20:30] = 0.9
    dock = segmented(p, axis_labels=("z", "y", "x"), scale=(3.0, 1.0, 0.5))
    page = dock.correcting
    viewer.dims.set_current_step(0, 1)
    before = shown(dock)
    page.paint()
    layer = page.window.layer
    assert layer in viewer.layers
    assert not dock.live.layer.visible
    corner = page.window.corner
    assert corner[0] == 1
    np.testing.assert_array_equal(
        layer.data,
        before[tuple(slice(c, c + n) for c, n in zip(corner, layer.data.shape, strict=True))],
    )
    painted = np.asarray(layer.data)
    old = int(before[1, 15, 10])
    painted[0, 22:25, 5 - corner[2] : 15 - corner[2]] = old
    painted[0, 30:35, 40:50] = 77  # a new object
    painted[0, 10:12, 20:30] = 0
    expected = before.copy()
    expected[1, 22:25, 5:15], expected[1, 30:35, 40:50], expected[1, 10:12, 20:30] = old, 10**6, 0
    page.paint()
    rest(qtbot, dock)
    assert layer not in viewer.layers
    assert dock.live.layer.visible
    assert len(dock.live.corrections) == 3
    assert same_objects(shown(dock), expected)
    while page.buttons["undo"].isEnabled():
        page.undo()
        rest(qtbot, dock)
    np.testing.assert_array_equal(shown(dock), before)


def test_what_was_painted_stays_until_it_is_kept(qtbot, viewer, segmented, monkeypatch):
    p = np.zeros((40, 60), np.float32)
    p[10:20, 5:15] = p[10:20, 20:30] = 0.9
    dock = segmented(p)
    page = dock.correcting
    page.act("lock", (15, 25))
    rest(qtbot, dock)
    page.paint()
    window = page.window
    painted = np.asarray(window.layer.data)
    corner = window.corner
    painted[30 - corner[0] : 35 - corner[0], 40 - corner[1] : 50 - corner[1]] = 77
    painted[10 - corner[0] : 12 - corner[0], 20 - corner[1] : 30 - corner[1]] = 0  # locked
    with monkeypatch.context() as patch:
        patch.setattr(dock.live, "ready", lambda: None)
        page.paint()
    assert "wait until they are shown" in dock.problem
    assert page.window is window
    page.paint()
    assert "locked" in dock.problem
    assert page.window is window
    assert [entry.do for entry in dock.live.corrections.entries] == ["lock", "paint"]
    assert [change.erased for change in window.changes()] == [True]


def test_corrections_in_memory_come_back_with_their_basins(qtbot, segmented, tmp_path):
    p = smooth(64, 80)
    dock = segmented(p)
    edits = Corrections(seamscope.segment(p, kind="components"))
    place = tuple(int(i) for i in np.unravel_index(np.argmax(p), p.shape))
    dock.correcting.act("delete", place)
    edits.delete(place)
    rest(qtbot, dock)
    press(qtbot, dock.segment)
    rest(qtbot, dock)
    assert dock.live.corrections.entries == edits.entries
    assert same_objects(shown(dock), edits.current.labels)
    start = dock.recipe.value()
    dock.recipe.set_value(start.but(kind="distance"))
    rest(qtbot, dock)
    assert len(dock.live.corrections) == 0  # of other basins
    dock.recipe.set_value(start)
    rest(qtbot, dock)
    assert same_objects(shown(dock), edits.current.labels)
    dock.writing.place.setText(str(tmp_path / "cells.npy"))
    press(qtbot, dock.segment)
    rest(qtbot, dock)
    (file,) = tmp_path.glob("cells.*.corrections")
    assert Corrections(edits.base, file).entries == edits.entries


@pytest.mark.parametrize("first", ["named", "in memory"])
def test_blocks_are_written_with_the_corrections_of_their_basins(
    qtbot, segmented, tmp_path, monkeypatch, first
):
    p = smooth(48, 64)
    dock = segmented(p)
    target = str(tmp_path / "cells.ome.zarr")
    if first == "named":
        dock.writing.place.setText(target)
        press(qtbot, dock.segment)
        rest(qtbot, dock)
    dock.correcting.act("delete", np.unravel_index(np.argmax(p), p.shape))
    rest(qtbot, dock)
    expected = dock.live.found.labels
    dock.live.forget()  # as on another day, and for images whose whole is not found here
    handed = []
    monkeypatch.setattr(
        dock.job, "start", lambda name, work, done, **_: handed.append((work, done))
    )
    dock.live.on = 2
    dock.writing.write_to(target)
    work, done = handed.pop()
    here = dataclasses.replace(work, on=None)
    monkeypatch.setattr(dock.building, "start", lambda name, work, *_, **__: handed.append(work))
    for wanted in (False, True):
        dock.live.build_whole(wanted)
    assert [work.on for work in handed] == [None, 2]  # a small image by itself is found here
    table, skipped = here(work=QUIET)
    done((table, skipped))
    assert not skipped
    assert "Left out" not in dock.writing.text.text()
    np.testing.assert_array_equal(np.asarray(seamscope.open_image(target).data), expected)
    (file,) = tmp_path.glob("cells.*.corrections")
    assert [entry.do for entry in Corrections(seamscope.segment(p), file).entries] == ["delete"]


def test_corrections_that_blocks_leave_out_are_shown(tmp_path):
    p = np.array([[0.9, 0.7, 0.55, 0.3, 0.7, 0.9, 0.2, 0.6]], np.float32)
    edits = Corrections(seamscope.segment(p, threshold=0.5))
    edits.merge((0, 0), (0, 7))  # of which there is none above 0.65
    recipe, target = Recipe(threshold=0.65), str(tmp_path / "cells.ome.zarr")
    known = {identity(seamscope.segment(p, recipe)): edits.steps}
    write = WriteInBlocks(lambda: seamscope.open_image(p), recipe, None, target, unsaved=known)
    table, skipped = write(work=QUIET)
    assert len(table) == 2
    assert len(skipped) == 1
    assert "Left out at this setting: merge at (0, 0)" in left_out(skipped)
    assert "and 1 more" in left_out(skipped * 2)


def test_unfinished_labels_go_on_with_their_corrections_only(qtbot, tmp_path, monkeypatch):
    p, target = smooth(48, 64), str(tmp_path / "cells.ome.zarr")
    with begin_labels(p, Recipe(), target) as labelling:
        labelling.find()
        labelling.correct_by("one")
    assert blocks_of_labels(target) == len(unfinished(target).done) > 0
    for corrections in ("other", None):
        with (
            begin_labels(p, Recipe(), target, resume=True) as labelling,
            pytest.raises(OutputError, match="another set of corrections"),
        ):
            labelling.correct_by(corrections)
    with begin_labels(p, Recipe(), target, resume=True) as labelling:
        labelling.correct_by("one")
    row = JobRow()
    page = WritePage(Live(None, row, row), row)
    qtbot.addWidget(page)
    monkeypatch.setattr(write_page, "blocks_of_labels", lambda place: looked.append(place) or 1)
    looked = []
    page.show_place(Path(target))
    for _ in range(3):
        page.show_state()
    assert looked == [target]
    row.changed.emit()
    page.show_state()
    assert looked == [target] * 2


def test_the_file_of_corrections_is_named_in_the_windows_thread(qtbot, segmented, monkeypatch):
    dock = segmented(smooth(40, 50))
    asked = []
    place = dock.writing.place

    def text():
        asked.append(threading.current_thread())
        return type(place).text(place)

    monkeypatch.setattr(place, "text", text)
    press(qtbot, dock.segment)
    rest(qtbot, dock)
    assert set(asked) == {threading.main_thread()}


def test_labels_lie_on_their_own_image(qtbot, viewer, segmented):
    p = smooth(40, 50)
    dock = segmented(p)
    layer = viewer.add_image(p, name="prob", translate=(100, 7))  # a part of the other's name
    dock.source.setCurrentIndex(
        next(i for i in range(dock.source.count()) if dock.source.itemData(i).layer is layer)
    )
    rest(qtbot, dock)
    press(qtbot, dock.segment)
    rest(qtbot, dock)
    np.testing.assert_array_equal(dock.live.layer.translate, (100, 7))
    kept = dock.live.layer
    press(qtbot, dock.segment)
    rest(qtbot, dock)
    assert dock.live.layer is kept


def test_what_is_not_shown_yet_is_not_written(qtbot, segmented, tmp_path):
    p = smooth(64, 80)
    dock = segmented(p)
    dock.writing.place.setText(str(tmp_path / "cells.npy"))
    dock.plot.set_value(0.6)
    press(qtbot, dock.writing.write)
    assert "wait until they are shown" in dock.problem
    dock.splits.begin()
    assert not dock.job.busy
    rest(qtbot, dock)
    assert not list(tmp_path.iterdir())
    press(qtbot, dock.writing.write)
    rest(qtbot, dock)
    expected = seamscope.segment(p, kind="components", threshold=0.6).labels
    np.testing.assert_array_equal(np.load(tmp_path / "cells.npy"), expected)


@pytest.mark.parametrize("broken", ["labels", "table"])
def test_a_full_disk_is_one_sentence_and_the_earlier_files_stay(
    qtbot, segmented, tmp_path, monkeypatch, broken
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def files():
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def write():
        press(qtbot, dock.writing.write)
        rest(qtbot, dock)

    dock = segmented(smooth(64, 80))
    dock.writing.place.setText(str(tmp_path / "cells.zarr"))
    write()
    before = files()
    dock.plot.set_value(0.6)
    rest(qtbot, dock)
    dock.writing.replace.setChecked(True)
    with monkeypatch.context() as patch:
        if broken == "labels":
            patch.setattr(zarr.Array, "__setitem__", full)
        else:
            patch.setattr("seamscope.docks.labels.background.write_file", full)
        write()
    assert "full" in dock.problem
    assert "cells" in dock.problem
    assert (files() == before) == (broken == "labels")
    assert files()[tmp_path / "cells.csv"] == before[tmp_path / "cells.csv"]
    write()  # there is room again
    assert dock.problem == ""
    assert files() != before


def test_suspicious_objects_are_visited_and_crops_written(qtbot, viewer, segmented, tmp_path):
    p = smooth(96, 120)
    dock = segmented(p)
    page = dock.correcting
    listed = suspects(dock.live.found)
    press(qtbot, page.buttons["next"])
    rest(qtbot, dock)
    assert f"1 of {len(listed)}. {listed[0].sentence}" in page.text.text()
    page.next_suspect()
    assert f"2 of {len(listed)}." in page.text.text()
    center = np.asarray(camera(viewer).center)[-2:]
    assert np.allclose(center, listed[1].place, atol=1)
    page.act("delete", listed[0].place)
    rest(qtbot, dock)
    page.export_crops(str(tmp_path / "crops"))
    rest(qtbot, dock)
    assert dock.problem == ""
    assert len(list((tmp_path / "crops").glob("*.tif"))) == 2
    page.open_file(str(tmp_path / "none.corrections"))
    rest(qtbot, dock)
    assert "Save these corrections first" in dock.problem
    assert len(dock.live.corrections) == 1
    page.undo()
    rest(qtbot, dock)
    page.open_file(str(tmp_path / "none.corrections"))
    rest(qtbot, dock)
    assert dock.live.corrections.path == tmp_path / "none.corrections"
    (tmp_path / "bad.corrections").write_text('{"seamscope corrections": {"format": 1}}\n')
    page.open_file(str(tmp_path / "bad.corrections"))
    rest(qtbot, dock)
    assert "corrections of other labels" in dock.problem


def cut_objects():
    """Probabilities of blobs that are cut between columns 47 and 48, 95 and 96, ..."""
    p = np.where(smooth(240, 288, sigma=4) > 0.5, 0.9, 0.0).astype(np.float32)
    p[:, 47::48] = p[47::48] = 0.2
    return p


def test_false_splits_of_this_dock_are_found_and_merged_as_steps(qtbot, viewer, segmented):
    p = cut_objects()
    dock = segmented(p)
    page = dock.splits
    before = shown(dock)
    page.grid.set_value("given")
    page.tile.setValue(48)
    press(qtbot, page.look)
    rest(qtbot, dock)
    report = find_splits(dock.live.found.labels, 48, axes="yx")
    assert page.report.to_json() | {"labels": ""} == report.to_json() | {"labels": ""}
    assert f"p = {report.p:.2g}" in page.text.text()
    assert page.table.rowCount() == len(report.candidates) > 30
    assert page.table.item(0, 0).text() == " | ".join(map(str, report.candidates[0].labels))
    page.table.setCurrentCell(3, 0)
    middle = np.mean(report.candidates[3].places, axis=0)
    assert np.allclose(np.asarray(camera(viewer).center)[-2:], middle, atol=1)
    press(qtbot, page.merge)
    rest(qtbot, dock)
    one, two = report.candidates[3].places
    assert shown(dock)[one] == shown(dock)[two]
    press(qtbot, page.all)
    rest(qtbot, dock)
    labels = shown(dock)
    assert all(labels[c.places[0]] == labels[c.places[1]] for c in report.below(0.1))
    assert len(dock.live.corrections) == 2
    for _ in range(2):
        press(qtbot, page.undo)
        rest(qtbot, dock)
    np.testing.assert_array_equal(shown(dock), before)
    assert not page.undo.isEnabled()


def test_false_splits_of_any_layer_are_merged_in_a_layer_of_their_own(qtbot, viewer, open_docks):
    labels = np.asarray(seamscope.segment(cut_objects()).labels).astype(np.int32)
    layer = viewer.add_labels(labels, name="cells", scale=(2, 2))
    dock = open_docks("labels")
    rest(qtbot, dock)
    page = dock.splits
    assert page.labels.value() is layer
    press(qtbot, page.look)  # the grid is searched
    rest(qtbot, dock)
    report = page.report
    assert report.lines.stride == (48, 48)
    press(qtbot, page.all)
    merged = np.asarray(viewer.layers["merged · cells"].data)
    pairs = [c.labels for c in report.below(0.1)]
    np.testing.assert_array_equal(merged, merge_pairs(labels, pairs))
    press(qtbot, page.undo)
    np.testing.assert_array_equal(np.asarray(viewer.layers["merged · cells"].data), labels)
    page.grid.set_value("given")
    page.tile.setValue(500)
    press(qtbot, page.look)
    rest(qtbot, dock)
    assert "No seam of a grid of 500 x 500 pixels" in dock.problem


def test_merges_of_one_layer_stay_in_it_and_are_written(
    qtbot, viewer, open_docks, tmp_path, monkeypatch
):
    first = np.asarray(seamscope.segment(cut_objects()).labels).astype(np.int32)
    second = np.ascontiguousarray(first[::-1, ::-1])
    one = viewer.add_labels(first, name="one", scale=(2, 2))
    two = viewer.add_labels(second, name="two")
    dock = open_docks("labels")
    rest(qtbot, dock)
    page = dock.splits
    pairs = {one: [], two: []}
    for row, (layer, labels) in enumerate(((one, first), (two, second), (one, first))):
        page.labels.set_value(layer)
        page.grid.set_value("given")
        page.tile.setValue(48)
        press(qtbot, page.look)
        rest(qtbot, dock)
        assert page.undo.isEnabled() == page.write.isEnabled() == bool(pairs[layer])
        page.table.setCurrentCell(row, 0)
        pairs[layer].append(page.candidate.labels)
        press(qtbot, page.merge)
        merged = np.asarray(viewer.layers[f"merged · {layer.name}"].data)
        np.testing.assert_array_equal(merged, merge_pairs(labels, pairs[layer]))
    assert len(viewer.layers) == 4
    file = str(tmp_path / "whole.ome.zarr")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (file, ""))
    press(qtbot, page.write)
    rest(qtbot, dock)
    assert "2 pairs merged" in page.text.text()
    written = seamscope.open_image(file)
    np.testing.assert_array_equal(written.data, merge_pairs(first, pairs[one]))
    assert written.scale == (2, 2)
    viewer.layers.remove(one)
    assert page.report is None
    assert page.table.isHidden()


def test_a_run_on_an_area_answers_again(qtbot, viewer, open_docks, monkeypatch):
    viewer.add_image(uneven(96, 120), name="cells")
    dock, labels = open_docks("prediction", "labels")
    dock.options.region.set_value("shape")
    corners = [[20.2, 30], [20.2, 110.4], [90, 110.4], [90, 30]]
    viewer.layers["region"].add_rectangles(np.array([corners]))
    predict(qtbot, dock, NETWORK, halo=0)
    rest(qtbot, labels)
    run = labels.source.value().run
    starts = [part.start for part in run.plan.area]
    assert starts == [21, 30]
    high = round(float(np.quantile(dock.results.array[0], 0.5)), 3)
    labels.recipe.set_value(Recipe("components", 0, threshold=high))
    press(qtbot, labels.segment)
    rest(qtbot, labels)
    page = labels.splits
    press(qtbot, page.look)
    rest(qtbot, labels)
    candidates = page.report.candidates
    moved = [
        dataclasses.replace(
            c,
            line=c.line + starts[c.axis],
            places=tuple((y + starts[0], x + starts[1]) for y, x in c.places),
        )
        for c in candidates
    ]
    asked = []

    def spy(given, *rest_of, **named):
        asked.extend(given)
        return ask_again(given, *rest_of, **named)

    monkeypatch.setattr("seamscope.docks.labels.background.ask_again", spy)
    press(qtbot, page.ask)
    rest(qtbot, labels)
    assert labels.problem == ""
    settings = run.plan.settings.but(area=None)
    heard = [o.vanished for o in ask_again(
        moved, run.image, run.model, labels.recipe.value(), settings
    )]  # fmt: skip
    assert heard
    assert asked == moved
    assert [page._heard[c].vanished for c in candidates] == heard


def test_a_run_gives_its_grid_both_opinions_and_answers_again(qtbot, viewer, open_docks):
    image = uneven(96, 120)
    viewer.add_image(image, name="cells")
    dock, labels = open_docks("prediction", "labels")
    predict(qtbot, dock, NETWORK, halo=0)
    rest(qtbot, labels)
    source = labels.source.value()
    run = source.run
    assert run is not None
    assert labels.recipe.value().kind == "classes"
    high = float(np.quantile(dock.results.array[0], 0.5))
    labels.recipe.set_value(Recipe("components", 0, threshold=round(high, 3)))
    press(qtbot, labels.segment)
    rest(qtbot, labels)
    expected = seamscope.segment(dock.results.array, labels.recipe.value(), axes="cyx")
    assert same_objects(shown(labels), expected.labels)
    page = labels.splits
    assert page.grid.value() == "run"
    press(qtbot, page.look)
    rest(qtbot, labels)
    assert labels.problem == ""
    lines = page.report.lines
    for axis, part in zip(run.plan.grid.axes, range(2), strict=True):
        seams = [tile.core[0] for tile in axis][1:]
        assert list(lines.along(part, image.shape[part]))[: len(seams)] == seams
    assert page.report.candidates
    page.table.setCurrentCell(0, 0)
    candidate = page.candidate
    views = run.evidence.opinions.between(*candidate.places, ())
    assert views.seam[0] == candidate.axis
    np.testing.assert_array_equal(page.comparison.pictures[0].image, views.lower[views.channel])
    press(qtbot, page.ask)
    rest(qtbot, labels)
    heard = list(
        ask_again(
            page.report.candidates, run.image, run.model, labels.recipe.value(), run.plan.settings
        )
    )
    assert [page._heard[o.candidate].vanished for o in heard] == [o.vanished for o in heard]
    assert page.table.item(0, 4).text() in ("one object", "two objects", "background")
