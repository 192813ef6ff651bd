"""The dock "Receptive field", driven by its own controls on a real canvas."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("napari")

from dock_networks import measured, undrawn
from hands import PATIENCE, picture, press

from seamscope.docks.layers import image_of, on_click
from seamscope.docks.receptive_field.dock import ReceptiveFieldDock
from seamscope.docks.receptive_field.layers import box_around, centred
from seamscope.docks.session import Session
from seamscope.receptive_field.gradient_probe import GradientProbe

CLASSES = measured()
INSTANCE = measured(norm=True)
SOLID = measured(ndim=3)


@pytest.fixture
def docks(open_docks):
    """The dock to predict, and the dock about the receptive field."""
    return open_docks("prediction", "field")


def load(qtbot, docks, model):
    dock, fields = docks
    dock.set_model(model)
    qtbot.waitUntil(lambda: dock.plan is not None and dock.settled, timeout=PATIENCE)
    qtbot.waitUntil(lambda: fields.theory is not None and not fields.busy, timeout=PATIENCE)


def compute(qtbot, fields, most=6):
    fields.most.setValue(most)
    press(qtbot, fields.compute)
    assert fields.busy
    assert fields.job.cancel.isVisible()
    qtbot.waitUntil(lambda: not fields.busy, timeout=PATIENCE)


def probe(qtbot, fields, world):
    fields.probe_at(world)
    qtbot.waitUntil(lambda: not fields.busy, timeout=PATIENCE)


def test_what_is_seen_in_theory_is_told_as_soon_as_there_is_a_network(qtbot, viewer, docks):
    dock, fields = docks
    assert "Choose an image and a network" in fields.verdict.text()
    assert not fields.compute.isEnabled()
    assert not fields.use.isEnabled()
    viewer.add_image(picture(80, 90))
    load(qtbot, docks, CLASSES)
    assert CLASSES.describe() in fields.verdict.text()
    assert "2 px" in fields.details.text()  # the period
    assert "where it looks farthest within a period" in fields.details.text()
    assert fields.compute.isEnabled()
    load(qtbot, docks, INSTANCE)
    assert "Overlap cannot remove the seams" in fields.verdict.text()
    assert "Whole tile through</td><td>norm<" in fields.details.text()
    dock.set_model(CLASSES)
    assert fields.theory is None


def test_the_mean_is_plotted_told_and_drawn(qtbot, viewer, docks):
    _, fields = docks
    layer = viewer.add_image(picture(80, 90), scale=(0.5, 0.25), translate=(7, 9))
    load(qtbot, docks, CLASSES)
    viewer.reset_view()
    compute(qtbot, fields)
    found = GradientProbe(image_of(layer), CLASSES, fields.settings()).average(most=6)
    assert fields.mean.tiles == found.tiles
    np.testing.assert_allclose(fields.mean.map.values, found.map.values, rtol=1e-6)

    for axis, letter in enumerate("yx"):
        distance, relative = fields.plot.curves[letter]
        np.testing.assert_array_equal(distance, found.map.offsets(axis))
        np.testing.assert_allclose(
            relative, found.map.profile(axis) / found.map.profile(axis).max()
        )
    for share in (0.95, 0.99, 0.999):
        assert f"{100 * share:g}% within" in fields.numbers.text()
        assert str(found.map.radius(share)[0]) in fields.numbers.text()
    assert "Beyond the convolutions" in fields.numbers.text()

    drawn = fields.layers.map
    np.testing.assert_allclose(drawn.data.max(), 0)
    where = np.unravel_index(drawn.data.argmax(), drawn.data.shape)
    centre = layer.world_to_data(drawn.data_to_world(where))
    assert np.abs(centre - np.array([39.5, 44.5])).max() < 6  # in the middle of the view
    np.testing.assert_allclose(drawn.scale, layer.scale)
    origin = np.round(layer.world_to_data(drawn.data_to_world((0, 0)))).astype(int)
    assert not (origin % CLASSES.facts.period).any()

    boxes = fields.layers.boxes
    assert len(boxes.data) == 12
    first = [covered + o for (covered, _), o in zip(found.map.covered, origin, strict=True)]
    for vertices, sides in (
        (boxes.data[0], [(r, r) for r in found.map.radius(0.99)]),
        (boxes.data[6], found.map.sides(CLASSES.fields)),
    ):
        low = [f - before - 0.5 for f, (before, _) in zip(first, sides, strict=True)]
        high = [f + after + 0.5 for f, (_, after) in zip(first, sides, strict=True)]
        np.testing.assert_allclose(vertices.min(0), low)
        np.testing.assert_allclose(vertices.max(0), high)
    assert Session.of(viewer).effective == tuple((r, r) for r in found.map.radius(0.99))

    fields.show_map.setChecked(False)
    assert fields.layers.map is None
    fields.show_boxes.setChecked(False)
    assert fields.layers.boxes is None
    fields.show_map.setChecked(True)
    assert fields.layers.map is drawn  # taken over, not made anew


def test_a_click_makes_the_map_of_that_pixel(qtbot, viewer, docks):
    _, fields = docks
    layer = viewer.add_image(picture(80, 90), scale=(0.5, 0.25), translate=(7, 9))
    load(qtbot, docks, CLASSES)
    press(qtbot, fields.probe)
    assert fields._clicked in viewer.mouse_drag_callbacks
    probe(qtbot, fields, layer.data_to_world((33.2, 52.4)))
    expected = GradientProbe(image_of(layer), CLASSES, fields.settings()).at((33, 52))
    assert fields.pixel.origin == expected.origin
    np.testing.assert_allclose(fields.pixel.values, expected.values, rtol=1e-6)
    assert fields.shown.currentText() == "Pixel 33, 52"
    drawn = fields.layers.map
    place = layer.world_to_data(drawn.data_to_world((0, 0)))
    np.testing.assert_allclose(place, expected.origin, atol=1e-6)
    assert drawn.metadata["seamscope"]["origin"] == list(expected.origin)

    fields.channel.set_value(1)  # asks again
    qtbot.waitUntil(lambda: not fields.busy, timeout=PATIENCE)
    other = GradientProbe(image_of(layer), CLASSES, fields.settings()).at((33, 52), 1)
    np.testing.assert_allclose(fields.pixel.values, other.values, rtol=1e-6)

    fields.probe_at(layer.data_to_world((-3, 10)))
    assert "outside the image" in fields.problem
    press(qtbot, fields.probe)
    assert fields._clicked not in viewer.mouse_drag_callbacks


@pytest.mark.parametrize("moves", [0, 1, 5])
def test_a_drag_is_no_click(moves):
    heard = []
    event = SimpleNamespace(type="mouse_press", position=(3.0, 4.0))
    going_on = on_click(heard.append)(None, event)
    next(going_on)
    event.type = "mouse_move"
    for _ in range(moves):
        next(going_on)
    event.type = "mouse_release"
    assert heard == []
    assert next(going_on, "over") == "over"
    assert heard == ([] if moves else [(3.0, 4.0)])


def test_clicks_while_something_is_measured_wait_for_it(qtbot, viewer, docks):
    _, fields = docks
    layer = viewer.add_image(picture(80, 90))
    load(qtbot, docks, CLASSES)
    CLASSES.module.delay = 0.02
    fields.probe_at((10, 10))
    fields.probe_at((30, 30))
    fields.probe_at(layer.data_to_world((50, 60)))
    qtbot.waitUntil(lambda: fields.shown.currentText() == "Pixel 50, 60", timeout=PATIENCE)


def test_cancel_stops_and_says_so(qtbot, viewer, docks):
    _, fields = docks
    viewer.add_image(picture(200, 210))
    load(qtbot, docks, CLASSES)
    CLASSES.module.delay = 0.05
    fields.most.setValue(4000)
    fields.session.changed.emit()
    press(qtbot, fields.compute)
    qtbot.waitUntil(lambda: fields.job.bar.value() >= 2, timeout=PATIENCE)
    assert "of 4000 tiles at most" in fields.job.text.text()
    press(qtbot, fields.job.cancel)
    qtbot.waitUntil(lambda: not fields.busy, timeout=PATIENCE)
    assert "Stopped" in fields.problem
    assert fields.mean is None
    assert not fields.job.bar.isVisible()
    assert fields.compute.isEnabled()


def test_a_network_that_fails_is_told_in_a_sentence(qtbot, viewer, docks):
    _, fields = docks
    viewer.add_image(picture(80, 90))
    load(qtbot, docks, CLASSES)
    CLASSES.module.calls_until_failure = 0
    fields.compute.click()
    qtbot.waitUntil(lambda: not fields.busy, timeout=PATIENCE)
    assert "same device" in fields.problem
    assert fields.compute.isEnabled()


def test_use_as_halo(qtbot, viewer, docks):
    dock, fields = docks
    viewer.add_image(picture(80, 90))
    load(qtbot, docks, CLASSES)
    compute(qtbot, fields)
    texts = [fields.halo.itemText(i) for i in range(fields.halo.count())]
    assert texts[0].startswith("Theoretical, exact")
    assert [text.split(":")[0] for text in texts[1:]] == [
        "Effective, 99.9%",
        "Effective, 99%",
        "Effective, 95%",
    ]
    radii = fields.mean.map.radius(0.95)
    fields.halo.setCurrentIndex(3)
    press(qtbot, fields.use)
    qtbot.waitUntil(lambda: dock.settled, timeout=PATIENCE)
    assert max(max(side) for side in dock.plan.grid.halo) == max(radii)
    assert "is set in" in fields.used.text()


def test_a_volume_and_a_time_series_of_it(qtbot, viewer, docks):
    _, fields = docks
    stack = picture(2, 20, 24, 22)
    layer = viewer.add_image(stack, axis_labels=("t", "z", "y", "x"))
    load(qtbot, docks, SOLID)
    probe(qtbot, fields, (1, 9, 11, 12))
    expected = GradientProbe(image_of(layer), SOLID, fields.settings()).at((9, 11, 12), frame=(1,))
    np.testing.assert_allclose(fields.pixel.values, expected.values, rtol=1e-6)
    drawn = fields.layers.map
    assert drawn.data.ndim == 3  # the same at all times

    def visible():
        return fields.layers.boxes is not None

    viewer.dims.set_point(1, 9)
    assert visible()
    assert len(fields.layers.boxes.data) == 12
    viewer.dims.set_point(1, 0)
    assert not visible()  # the slice does not cut the boxes
    viewer.dims.set_point(1, 9)
    viewer.dims.ndisplay = 3
    faces = np.array(fields.layers.boxes.data[:6])[..., 1:]
    radii = expected.radius(0.99)
    np.testing.assert_allclose(
        faces.min((0, 1)), [9 - radii[0] - 0.5, 11 - radii[1] - 0.5, 12 - radii[2] - 0.5]
    )
    np.testing.assert_allclose(
        faces.max((0, 1)), [9 + radii[0] + 0.5, 11 + radii[1] + 0.5, 12 + radii[2] + 0.5]
    )
    assert len({face.tobytes() for face in faces}) == 6


def test_layers_that_are_taken_out_stay_out(qtbot, viewer, docks):
    """Also where napari closes and takes them out one by one, looking for other slices."""
    _, fields = docks
    layer = viewer.add_image(picture(80, 90))
    load(qtbot, docks, CLASSES)
    probe(qtbot, fields, (30, 30))
    undrawn(viewer).layers.remove(fields.layers.boxes)
    viewer.dims.events.current_step()
    assert fields.layers.boxes is None
    probe(qtbot, fields, (40, 30))
    assert fields.layers.boxes is not None
    undrawn(viewer).layers.remove(layer)  # its maps are of no use
    assert fields.layers.map is None
    assert fields.layers.boxes is None
    assert fields.mean is fields.pixel is None
    undrawn(viewer).layers.clear()
    assert len(viewer.layers) == 0


def test_another_network_or_image_forgets_the_maps(qtbot, viewer, docks):
    _, fields = docks
    viewer.add_image(picture(80, 90))
    load(qtbot, docks, CLASSES)
    probe(qtbot, fields, (30, 30))
    load(qtbot, docks, INSTANCE)
    assert fields.pixel is None
    assert fields.layers.map is None
    assert not fields.shown.isVisible()
    assert fields.halo.itemText(0).startswith("Of the convolutions")


def test_napari_finds_the_dock(qtbot, make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    place = viewer.window.add_plugin_dock_widget("seamscope", "Receptive field")[1]
    qtbot.waitUntil(lambda: place.dock is not None, timeout=PATIENCE)
    fields = place.dock
    assert isinstance(fields, ReceptiveFieldDock)


def test_places() -> None:
    assert box_around([(5, 6), (4, 6)], (10, 20), [(2, 3), (0, 1)]) == [(13, 19), (24, 27)]

    class Shown:
        covered = ((24, 25), (30, 31))

    origin = centred(Shown(), (100.0, 33.9), (8, 4))
    assert origin == (80, 4)
    assert abs(origin[0] + 24 - 100) <= 4
