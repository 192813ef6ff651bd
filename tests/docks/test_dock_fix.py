"""The dock "Seamscope" and its step "Fix", driven by their own controls on a real canvas."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("napari")

from dock_networks import measured, undrawn, whole
from hands import PATIENCE, press, uneven
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QPushButton

from seamscope.docks.composite import Composite
from seamscope.docks.controls import beside
from seamscope.docks.fixing import cost
from seamscope.docks.fixing.dock import FixDock
from seamscope.docks.fixing.swipe import NAME
from seamscope.docks.layers import camera
from seamscope.docks.prediction.dock import PredictionDock

CLASSES = measured()
INSTANCE = measured(norm=True)


@pytest.fixture
def steps(viewer, qtbot):
    """The dock Seamscope, over an image that is uneven."""
    viewer.add_image(uneven(96, 120), name="cells")
    _, place = viewer.window.add_plugin_dock_widget("seamscope", "Seamscope")
    qtbot.waitUntil(lambda: place.dock is not None, timeout=PATIENCE)
    steps = place.dock
    page(qtbot, steps, "prediction").options.accelerate.setChecked(False)
    yield steps
    qtbot.waitUntil(
        lambda: all(s.dock is None or not s.dock.busy for s in steps.slots.values()),
        timeout=PATIENCE,
    )


def page(qtbot, steps, name):
    """Show a step as its button does, and return its dock."""
    if name in steps.steps:
        press(qtbot, steps.steps[name])
    else:
        steps.show_step(name)
    qtbot.waitUntil(lambda: steps.slots[name].dock is not None, timeout=PATIENCE)
    assert steps.step == name
    return steps.slots[name].dock


def predicted(qtbot, steps, model, halo):
    dock = page(qtbot, steps, "prediction")
    dock.set_model(model)
    qtbot.waitUntil(lambda: dock.plan is not None and dock.settled, timeout=PATIENCE)
    dock.tile.set_value(32)
    dock.halo.set_value(halo)
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    return dock


def seen(viewer):
    return {x.name for x in viewer.layers if x.visible}


def test_one_click_sets_the_halo_runs_and_compares(qtbot, viewer, steps):
    dock = predicted(qtbot, steps, CLASSES, 0)
    first = seen(viewer)
    fix = page(qtbot, steps, "fix")
    assert fix.advice.step == "halo"
    need = max(max(sides) for sides in CLASSES.reach.halo)
    assert fix.fix.text().startswith(f"Set margin {need} and run\n(about ")
    progress = []  # of the run in the other page
    dock.panel.progressed.connect(
        lambda *_: progress.append((fix.job.isVisible(), fix.job.bar.maximum()))
    )
    press(qtbot, fix.fix)
    assert fix.busy
    qtbot.waitUntil(lambda: not fix.busy, timeout=PATIENCE)
    assert fix.problem == ""
    image = viewer.layers["cells"].data
    np.testing.assert_allclose(dock.results.array, whole(CLASSES, image), atol=1e-5)
    assert fix.advice.step == "nothing"
    assert (True, dock.plan.tiles) in progress
    assert not fix.job.isVisible()
    assert not fix.fix.isEnabled()
    assert not fix.fix.isVisible()  # nothing is left to do
    fix.begin()  # as other docks do
    assert not fix.busy
    assert "before" in fix.comparison.text.text()
    assert dock.halo.value() == "auto"

    after = seen(viewer)
    assert not (first - {"cells"}) & after
    press(qtbot, fix.comparison.swap)
    assert seen(viewer) == first
    press(qtbot, fix.comparison.swap)
    assert seen(viewer) == after

    swipe = fix.comparison.swipe
    press(qtbot, fix.comparison.swiped)
    assert seen(viewer) == {"cells", NAME}
    sides = [
        np.asarray(next(x for x in viewer.layers if x.name in s - {"cells"}).data)
        for s in (first, after)
    ]
    shown = viewer.layers[NAME].data
    for divide in (0, 50, 120):
        fix.comparison.divide.setValue(round(1000 * divide / 120))
        assert shown.divide == divide
        for key in (..., np.s_[3:90:2, 1:], np.s_[:, 17:110:3], np.s_[5, 60]):
            left, right = (side[key] for side in sides)
            place = np.arange(120)[key[1]] if key is not ... else np.arange(120)
            where = np.asarray(place < divide)[..., None]
            near = np.asarray(np.abs(place + 0.5 - divide) < 4)  # the line
            expected = np.where(where, left, right)
            keep = np.broadcast_to(~near[..., None], expected.shape)
            np.testing.assert_array_equal(shown[key][keep], expected[keep])
    layers = list(viewer.layers)
    assert swipe.shown
    press(qtbot, fix.comparison.swiped)
    qtbot.waitUntil(lambda: len(viewer.layers) == len(layers) - 1, timeout=PATIENCE)
    assert seen(viewer) == after

    truth = viewer.add_labels(whole(CLASSES, image).argmax(0).astype(np.uint8), name="truth")
    fix.truth.set_value(truth)
    qtbot.waitUntil(lambda: not fix.busy and "Dice" in fix.comparison.text.text(), timeout=PATIENCE)
    assert fix.problem == ""
    assert "More accurate than before" in fix.comparison.text.text()
    viewer.layers.remove(truth)
    press(qtbot, fix.comparison.undo)
    assert seen(viewer) - {"tiles: cells"} == first
    assert dock.halo.value() == (0, 0)


def test_one_click_fixes_statistics_before_any_run(qtbot, viewer, steps):
    dock = page(qtbot, steps, "prediction")
    dock.set_model(INSTANCE)
    qtbot.waitUntil(lambda: dock.plan is not None and dock.settled, timeout=PATIENCE)
    dock.tile.set_value(32)
    fix = page(qtbot, steps, "fix")
    assert fix.advice.step == "statistics"
    qtbot.waitUntil(lambda: "(exact, about " in fix.fix.text(), timeout=PATIENCE)
    press(qtbot, fix.fix)
    qtbot.waitUntil(lambda: not fix.busy, timeout=PATIENCE)
    assert fix.problem == ""
    image = viewer.layers["cells"].data
    assert dock.plan.tiles > 1
    np.testing.assert_allclose(dock.results.array, whole(INSTANCE, image), atol=1e-4)
    assert fix.advice.step == "nothing"
    assert "Seamless" in fix.comparison.text.text()
    assert fix.comparison.swap.isHidden()
    assert fix.why.isHidden()  # the comparison says it
    press(qtbot, fix.comparison.undo)
    assert dock.model is INSTANCE
    assert fix.comparison.text.text() == ""


def test_the_comparison_vanishes_with_what_it_speaks_of(qtbot, viewer, steps):
    dock = predicted(qtbot, steps, CLASSES, 0)
    fix = page(qtbot, steps, "fix")
    press(qtbot, fix.fix)
    qtbot.waitUntil(lambda: not fix.busy, timeout=PATIENCE)
    assert fix.comparison.text.text()
    assert dock.panel.text.isVisibleTo(dock.panel)
    for layer in [x for x in viewer.layers if fix.session.run_of(x) is fix.comparison.after]:
        undrawn(viewer).layers.remove(layer)
    assert fix.comparison.text.text() == ""
    assert not fix.comparison.swap.isVisibleTo(fix)
    assert not dock.panel.text.isVisibleTo(dock.panel)


def test_a_chain_that_is_stopped_leaves_the_earlier_result(qtbot, viewer, steps):
    predicted(qtbot, steps, CLASSES, 0)
    first = seen(viewer)
    fix = page(qtbot, steps, "fix")
    CLASSES.module.delay = 0.05
    press(qtbot, fix.fix)
    assert not first - {"cells"} & seen(viewer)
    qtbot.waitUntil(lambda: fix.session.running, timeout=PATIENCE)
    press(qtbot, fix.stop)
    qtbot.waitUntil(lambda: not fix.session.running, timeout=PATIENCE)
    assert not fix.busy
    assert "Stopped" in fix.problem
    assert seen(viewer) == first
    stopped = [x.name for x in viewer.layers if x.name.startswith("stopped · ")]
    assert len(stopped) == 1
    assert fix.advice.step == "halo"


def test_an_earlier_result_is_hidden_while_another_is_made(qtbot, viewer, steps):
    dock = predicted(qtbot, steps, CLASSES, 0)
    first = seen(viewer) - {"cells"}
    assert len(first) == 1  # one coloured layer
    assert dock.tiles.layer is not None
    assert not dock.tiles.layer.visible  # it would cover the seams
    dock.halo.set_value(3)
    assert dock.tiles.layer.visible
    press(qtbot, dock.panel.run)
    assert not first & seen(viewer)
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    assert not first & seen(viewer)
    assert len(seen(viewer) - {"cells"}) == 1


def test_only_the_page_in_front_draws_over_the_image(qtbot, viewer, steps):
    """Maps, grids and previews of the other pages come back with their page."""
    dock = predicted(qtbot, steps, CLASSES, 3)
    (result,) = seen(viewer) - {"cells"}
    dock.halo.set_value(4)
    assert seen(viewer) == {"cells", result, "tiles: cells"}
    field = page(qtbot, steps, "field")
    qtbot.waitUntil(lambda: field.compute.isEnabled(), timeout=PATIENCE)
    press(qtbot, field.compute)
    qtbot.waitUntil(lambda: not field.busy, timeout=PATIENCE)
    maps = {"receptive field · cells", "fields · cells"}
    assert seen(viewer) == {"cells", result} | maps

    seams = page(qtbot, steps, "seams")
    assert seen(viewer) == {"cells", result}
    seams.heat.boxes["tiles"].click()
    heat = next(name for name in seen(viewer) if name.startswith("per tile"))
    assert seen(viewer) == {"cells", heat}  # colours over colours cannot be read
    seams.table.choose(0)
    seams.halo.set_value(1)
    qtbot.waitUntil(lambda: not seams.busy, timeout=PATIENCE)
    shown = seen(viewer)
    assert {"chosen seam · cells", "re-stitched · " + result} < shown

    page(qtbot, steps, "labels")
    assert seen(viewer) == {"cells", result}
    page(qtbot, steps, "seams")
    qtbot.waitUntil(lambda: seen(viewer) == shown, timeout=PATIENCE)
    page(qtbot, steps, "field")
    assert seen(viewer) == {"cells", result} | maps
    page(qtbot, steps, "prediction")
    assert seen(viewer) == {"cells", result, "tiles: cells"}

    # what the user has hidden stays hidden, until something new is to be seen there
    viewer.layers["tiles: cells"].visible = False
    page(qtbot, steps, "field")
    viewer.layers["fields · cells"].visible = False
    camera(viewer).zoom *= 1.5
    assert seen(viewer) == {"cells", result, "receptive field · cells"}
    page(qtbot, steps, "seams")
    qtbot.waitUntil(lambda: seen(viewer) == shown, timeout=PATIENCE)
    for name in ("chosen seam · cells", heat):
        viewer.layers[name].visible = False
    page(qtbot, steps, "prediction")
    assert seen(viewer) == {"cells", result}
    page(qtbot, steps, "seams")
    left = {name for name in shown if name not in ("chosen seam · cells", heat)}
    qtbot.waitUntil(lambda: seen(viewer) == left, timeout=PATIENCE)
    seams.table.choose(1)
    seams.heat.boxes["tiles"].click()
    seams.heat.boxes["tiles"].click()
    assert seen(viewer) == {"cells", "chosen seam · cells", heat}
    page(qtbot, steps, "field")
    assert seen(viewer) == {"cells", result, "receptive field · cells"}
    field.show_map.click()
    field.show_boxes.click()
    assert seen(viewer) == {"cells", result}
    field.show_boxes.click()
    assert seen(viewer) == {"cells", result, "fields · cells"}


def test_a_dock_opened_by_name_is_taken_from_the_step(qtbot, viewer, steps):
    seams = page(qtbot, steps, "seams")
    _, place = viewer.window.add_plugin_dock_widget("seamscope", "Seams")
    qtbot.waitUntil(lambda: place.dock is seams, timeout=PATIENCE)  # once the place is docked
    assert steps.slots["seams"].dock is None
    page(qtbot, steps, "prediction")
    assert seams.front  # beside the steps, no page is in its place
    qtbot.wait(20)
    back = [b for b in steps.slots["seams"].findChildren(QPushButton) if b.text() == "Show it here"]
    steps.slots["seams"].fill()
    assert steps.slots["seams"].dock is seams
    assert place.dock is None
    assert not seams.front
    assert seams.awake
    assert back


def test_channels_are_one_coloured_layer_and_layers_when_asked_for(qtbot, viewer, steps):
    dock = predicted(qtbot, steps, CLASSES, 3)
    (name,) = seen(viewer) - {"cells"}
    layer = viewer.layers[name]
    assert layer.rgb
    values = whole(CLASSES, viewer.layers["cells"].data)
    colors = np.array([[0x66, 0xC2, 0xA5], [0xFC, 0x8D, 0x62], [0x8D, 0xA0, 0xCB]]) / 255
    expected = 255 * np.einsum("cyx,cr->yxr", values, colors)
    shown = np.asarray(layer.data)
    np.testing.assert_allclose(shown[..., :3], expected, atol=1)
    assert (shown[..., 3] >= 254).all()
    np.testing.assert_array_equal(np.asarray(layer.data[5:9, 7]), shown[5:9, 7])

    dock.options.shown.set_value(False)
    assert len(viewer.layers) == 4  # with the tiles; a layer each time that the window has answered
    dock.options.shown.set_value(True)  # not wanted any more
    qtbot.wait(100)
    assert len(viewer.layers) == 4
    assert seen(viewer) - {"cells"} == {name}
    dock.options.shown.set_value(False)
    qtbot.waitUntil(lambda: name not in seen(viewer), timeout=PATIENCE)
    each = seen(viewer) - {"cells"}
    assert len(each) == 3
    assert name not in each
    for number in range(3):
        own = next(viewer.layers[x] for x in each if x.startswith(f"channel {number}"))
        np.testing.assert_allclose(own.data, values[number], atol=1e-5)
    assert len(dock.session.layers_of(dock.session.runs[-1])) == 4
    dock.options.shown.set_value(True)
    assert seen(viewer) - {"cells"} == {name}


def test_what_is_not_predicted_yet_is_transparent():
    values = [np.array([[0.0, 0.25], [1.0, np.nan]]), np.array([[0.0, 0.25], [0.0, 0.0]])]
    shown = Composite(values, [(1, 0, 0), (0, 0, 1)])[...]
    np.testing.assert_array_equal(shown[..., 3], [[0, 128], [255, 0]])
    np.testing.assert_array_equal(shown[1, 0, :3], [255, 0, 0])
    np.testing.assert_array_equal(shown[0, 1, :3], [128, 0, 128])


def test_colours_are_those_of_the_formula_wherever_they_are_asked_for():
    numbers = np.random.default_rng(0)
    values = numbers.random((3, 2, 150, 190)) * 4 - 1  # more pixels than are coloured at once
    colors, (low, high) = numbers.random((3, 3)), (-0.5, 2.5)
    picture = Composite([*values.astype(np.float32)], colors)
    picture.limits = low, high
    weights = np.clip((values - low) / (high - low), 0, 1)
    total = weights.sum(0)[..., None]
    mean = np.moveaxis(weights, 0, -1) @ colors / np.maximum(total, 1e-6)
    wanted = 255 * np.concatenate([mean, np.minimum(total, 1)], -1)
    for key in (..., 1, (0, slice(5, 90, 3)), (..., slice(7, 8), 2), (slice(0, 0),)):
        assert picture[key].shape == wanted[key].shape
        np.testing.assert_allclose(picture[key], wanted[key], atol=0.501)


@pytest.fixture
def seamy(qtbot):
    """Both docks without a window, after a prediction that has seams."""
    viewer = ViewerModel()
    viewer.add_image(uneven(96, 120), name="cells")
    dock, fix = PredictionDock(viewer), FixDock(viewer)
    qtbot.addWidget(dock)
    qtbot.addWidget(fix)
    dock.options.accelerate.setChecked(False)
    dock.options.shown.set_value(False)  # a layer for each class
    dock.set_model(CLASSES)
    qtbot.waitUntil(lambda: dock.plan is not None and dock.settled, timeout=PATIENCE)
    dock.tile.set_value(32)
    dock.halo.set_value(0)
    dock.run()
    rest(qtbot, dock, fix)
    yield dock, fix
    dock.panel.stop()
    rest(qtbot, dock, fix)


def rest(qtbot, dock, fix):
    qtbot.waitUntil(lambda: dock.settled and not fix.busy, timeout=PATIENCE)


@pytest.mark.parametrize("which", ["swiped", "all"])
def test_layers_are_deleted_while_both_results_are_swiped(qtbot, seamy, which):
    dock, fix = seamy
    fix.begin()
    rest(qtbot, dock, fix)
    fix.comparison.swiped.setChecked(True)
    viewer = fix.viewer
    own = [x for x in viewer.layers if x.name.startswith(NAME)]
    assert len(own) == 3
    viewer.layers.selection = own if which == "swiped" else list(viewer.layers)
    viewer.layers.remove_selected()
    qtbot.waitUntil(lambda: not set(own) & set(viewer.layers), timeout=PATIENCE)
    assert not fix.comparison.swipe.shown
    assert bool(viewer.layers) is (which == "swiped")


def test_a_fix_writes_its_result_to_a_file_too(qtbot, seamy, tmp_path):
    dock, fix = seamy
    dock.options.place.set_value(str(tmp_path / "well_A.ome.zarr"))
    first = fix._last()
    fix.begin()
    assert fix.busy
    rest(qtbot, dock, fix)
    assert (fix.problem, dock.problem) == ("", "")
    assert (tmp_path / "well_A.ome.zarr").is_dir()
    assert (fix.comparison.before, fix.comparison.after.stored) == (first, True)


@pytest.mark.parametrize("how", ["stopped", "cancelled", "refused", "without layers"])
def test_a_fix_ends_where_its_run_comes_to_nothing(qtbot, seamy, tmp_path, how):
    dock, fix = seamy
    first = seen(fix.viewer)
    if how != "without layers":
        dock.options.place.set_value(str(tmp_path / "out.ome.zarr"))
    if how == "refused":
        (tmp_path / "out.ome.zarr").mkdir()
    CLASSES.module.delay = 0.05
    fix.begin()
    if how == "without layers":
        for layer in list(dock.results.layers):
            fix.viewer.layers.remove(layer)
    elif how != "refused":
        (fix.halt if how == "stopped" else dock.job.stop)()
    rest(qtbot, dock, fix)
    assert not fix.session.running
    assert len(fix.session.runs) == 1
    assert seen(fix.viewer) - {"tiles: cells"} == first - {"tiles: cells"}
    assert ("Stopped" if how == "stopped" else "No result was made") in fix.problem
    assert fix.fix.isEnabled()


def test_dice_is_that_of_the_labels_that_are_chosen(qtbot, seamy):
    dock, fix = seamy
    fix.begin()
    rest(qtbot, dock, fix)
    image = fix.viewer.layers["cells"].data
    right = fix.viewer.add_labels(whole(CLASSES, image).argmax(0).astype(np.uint8), name="right")
    wrong = fix.viewer.add_labels(np.full(image.shape, 1, np.uint8), name="wrong")

    def dice(*chosen):
        for labels in chosen:  # the last one while the one before it is still compared
            fix.truth.set_value(labels)
        rest(qtbot, dock, fix)
        return fix.comparison.text.text()

    of_right, of_wrong = dice(right), dice(None, wrong)
    assert "Dice" in of_right
    assert dice(None, right, wrong) == of_wrong != of_right
    fix.viewer.layers.remove(wrong)
    assert fix.truth.value() is None
    assert "Dice" not in fix.comparison.text.text()
    fix.viewer.layers.remove(right)
    dock.set_model(INSTANCE)  # another network: its controls are not those before the fix
    qtbot.waitUntil(lambda: dock.plan is not None, timeout=PATIENCE)
    rest(qtbot, dock, fix)
    assert fix.comparison.text.text() == ""
    assert not fix.comparison.undo.isVisibleTo(fix)


def test_a_fix_costs_what_the_settings_make_it_cost(qtbot, monkeypatch):
    found = []
    monkeypatch.setattr(cost, "_passes", lambda *case, work: found.append(case[2].memory) or 1.0)
    viewer = ViewerModel()
    viewer.add_image(uneven(96, 120), name="cells")
    dock, fix = PredictionDock(viewer), FixDock(viewer)
    qtbot.addWidget(dock)
    qtbot.addWidget(fix)
    dock.set_model(INSTANCE)
    qtbot.waitUntil(lambda: dock.plan is not None and dock.settled, timeout=PATIENCE)
    dock.tile.set_value(32)
    assert fix.advice.step == "statistics"
    for memory in (2 << 30, 3 << 30, 2 << 30):
        fix.session.settings = fix.session.settings.but(memory=memory)
        fix.cost.seconds(fix.advice)
        qtbot.waitUntil(lambda: not fix.cost.busy, timeout=PATIENCE)
    assert found == [2 << 30, 3 << 30]


def test_the_key_of_cancel_stops_what_is_shown(qtbot):
    """Also where two buttons have it: of a step and its job, or of docks beside each other."""
    fixes = [FixDock(ViewerModel()) for _ in range(2)]
    window = beside(*fixes)
    qtbot.addWidget(window)
    window.show()
    window.activateWindow()
    QTest.qWaitForWindowActive(window)

    def work(work):
        while not work.stopped():
            time.sleep(0.01)

    for fix in fixes:
        fix._chain = True
        fix._work("working", work, lambda _: None)
        assert fix.stop.isVisible()
        assert not fix.job.cancel.isVisible()
    for going in (1, 0):
        QTest.keyClick(window, Qt.Key.Key_Period, Qt.KeyboardModifier.ControlModifier)
        qtbot.waitUntil(lambda n=going: sum(x.job.busy for x in fixes) == n, timeout=PATIENCE)
