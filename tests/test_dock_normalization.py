"""The dock "Normalization", driven by its own controls, against the network run by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("napari")

from napari.layers import Image as ImageLayer
from qtpy.QtCore import QSettings, Qt

from dock_networks import Net, measured, undrawn, whole
from seamscope import measure_seams
from seamscope.diagnosis.feature_statistics import measure_features
from seamscope.docks.normalization.dock import NormalizationDock
from seamscope.docks.normalization.layers import tile_map
from seamscope.docks.prediction.dock import PredictionDock
from seamscope.docks.session import Session
from seamscope.models.model import as_model

PATIENCE = 30_000


class Brightest(nn.Module):
    """A normalization, and the largest value of the tile: only the one can be fixed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.InstanceNorm2d(4)

    def forward(self, x):
        y = self.norm(self.first(x))
        return (y - y.amax((2, 3), keepdim=True))[:, :1].sigmoid()


def batch_norm():
    """A network that remembers statistics of another kind of image."""
    net = Net()
    net.norm = nn.BatchNorm2d(4)
    net.norm.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
    net.norm.running_var.copy_(torch.tensor([0.5, 1.5, 0.2, 1.0]))
    model = as_model(net.eval())
    model.describe()
    return model


INSTANCE = measured(norm=True)
SOLID = measured(ndim=3, norm=True)
BATCH = batch_norm()


@pytest.fixture(autouse=True)
def own_settings(tmp_path):
    """Recent models of whoever runs the tests are neither read nor changed."""
    QSettings.setPath(
        QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(tmp_path / "settings")
    )


@pytest.fixture(autouse=True)
def networks_at_rest():
    """Whatever a test asked of the networks that all share is forgotten."""
    yield
    for model in (INSTANCE, SOLID, BATCH):
        model.module.delay, model.module.calls_until_failure = 0.0, -1


@pytest.fixture
def viewer(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1000, 800)
    return viewer


@pytest.fixture
def docks(viewer, qtbot):
    """Both docks: the one to predict, and the one about normalization."""
    dock, own = PredictionDock(viewer), NormalizationDock(viewer)
    viewer.window.add_dock_widget(dock, name="Tiled prediction", area="left")
    viewer.window.add_dock_widget(own, name="Normalization")
    dock.options.accelerate.setChecked(False)  # trials take longer than these runs
    yield dock, own
    qtbot.waitUntil(lambda: dock.settled and own.settled, timeout=PATIENCE)


def uneven(*shape, seed=1):
    """Noise that is brighter on one side, so that tiles' statistics differ."""
    noise = np.random.default_rng(seed).random(shape).astype(np.float32)
    return noise * np.linspace(0.5, 3, shape[-1], dtype=np.float32)


def press(qtbot, button):
    assert button.isEnabled()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def load(qtbot, docks, model, tile=32):
    """Load a network, choose its tile, and wait until its layers are known."""
    dock, own = docks
    dock.set_model(model)
    qtbot.waitUntil(lambda: dock.plan is not None, timeout=PATIENCE)
    dock.tile.set_value(tile)
    qtbot.waitUntil(lambda: own.settled and own.audit is not None, timeout=PATIENCE)


def show(own, tab):
    names = [own.tabs.tabText(k) for k in range(own.tabs.count())]
    own.tabs.setCurrentIndex(names.index(tab))


def wait(qtbot, own):
    qtbot.waitUntil(lambda: own.settled, timeout=PATIENCE)


def freeze(qtbot, own, how="exact"):
    show(own, "Freeze")
    own.freezing.how.set_value(how)
    wait(qtbot, own)
    press(qtbot, own.freezing.freeze)
    wait(qtbot, own)
    assert own.problem == ""


def rows(table):
    model = table.model()
    return [
        [model.index(r, c).data() for c in range(model.columnCount())]
        for r in range(model.rowCount())
    ]


def first_features(image, module=None):
    """What the norm of `Net` normalizes: ``(C, *spatial)`` in float64."""
    net = (module or INSTANCE.module).first
    x = torch.from_numpy(np.asarray(image, np.float32))[None, None]
    with torch.inference_mode():
        return net(x)[0].double().numpy()


# -- layers


def test_layers_are_told_in_a_table_and_in_words(qtbot, viewer, docks):
    own = docks[1]
    assert "Tiled prediction" in own.verdict.text()
    viewer.add_image(uneven(64, 96), name="cells")
    load(qtbot, docks, INSTANCE)
    assert rows(own.table) == [["norm", "InstanceNorm", "4", "of the tile", "no", ""]]
    assert "1 layer normalizes by each tile" in own.verdict.text()
    own.table.choose(0)
    assert "no halo makes tiles agree" in own.meaning.text()
    assert not own.train.isEnabled()
    assert "predicts as it was trained" in own.told_training.text()
    load(qtbot, docks, BATCH)
    assert own.train.isEnabled()
    assert rows(own.table) == [["norm", "BatchNorm", "4", "from training", "yes", ""]]
    assert "a halo suffices" in own.verdict.text()
    show(own, "Freeze")
    wait(qtbot, own)
    assert "Nothing to freeze" in own.freezing.cost.text()
    assert not own.freezing.freeze.isEnabled()


def test_what_cannot_be_repaired_is_said(qtbot, viewer, docks):
    own = docks[1]
    viewer.add_image(uneven(48, 48))
    load(qtbot, docks, as_model(Brightest().eval()), tile=16)
    assert "cannot be repaired" in own.verdict.text()
    assert "aximum over space" in own.verdict.text()


# -- freezing


def test_frozen_network_predicts_like_the_whole_image(qtbot, viewer, docks):
    dock, own = docks
    image = uneven(96, 120)
    layer = viewer.add_image(image, name="cells")
    load(qtbot, docks, INSTANCE)
    assert not dock.fixed.isVisibleTo(dock)
    assert "No halo will help" in dock.facts.text()
    freeze(qtbot, own)
    assert "The image is run at once, 1 layer in one pass" in own.freezing.cost.text()
    sentence = own._session.fixed.network.describe()
    assert sentence.startswith("Seamless with halo")
    for text in (own.freezing.result.text(), own.verdict.text(), dock.facts.text()):
        assert sentence in text
    assert dock.fixed.isVisibleTo(dock)
    assert dock.fixed.isChecked()
    assert dock.fixed.text() == "Fixed statistics (exact, this image)"
    assert dock.plan.reach.halo == INSTANCE.reach.convolutional
    features = first_features(image)
    (found,) = dock.model.statistics.layers
    np.testing.assert_allclose(found.mean.reshape(-1), features.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found.var.reshape(-1), features.var((1, 2)), rtol=1e-6)

    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    np.testing.assert_allclose(dock.results.array, whole(INSTANCE, image), atol=1e-5)
    assert dock.results.layers[0].name.startswith("fixed · ")

    dock.fixed.click()  # each tile's own statistics again
    assert dock.model is INSTANCE
    assert "No halo will help" in dock.facts.text()
    assert "1 layer normalizes by each tile" in own.verdict.text()
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    assert np.abs(dock.results.array - whole(INSTANCE, image)).max() > 0.01
    dock.fixed.click()
    other = viewer.add_image(uneven(80, 80, seed=3), name="other")
    dock.image_box.value = other
    assert dock.fixed.text() == "Fixed statistics (exact, cells)"
    dock.image_box.value = layer
    load(qtbot, docks, BATCH)  # another network: they are gone
    assert own._session.fixed is None
    assert not dock.fixed.isVisibleTo(dock)
    assert own.freezing.result.text() == ""


def test_ways_of_freezing_and_their_cost_follow_the_controls(qtbot, viewer, docks):
    dock, own = docks
    viewer.add_image(uneven(96, 120), name="cells")
    load(qtbot, docks, INSTANCE)
    show(own, "Freeze")
    panel = own.freezing
    panel.grid.set_value("plan")
    wait(qtbot, own)
    tiles = dock.plan.tiles
    assert f"{tiles} tiles go in lockstep through 1 layer," in panel.cost.text()
    panel.how.set_value("sampled")
    panel.tiles.setValue(5)
    wait(qtbot, own)
    assert "5 tiles go in lockstep" in panel.cost.text()
    press(qtbot, panel.freeze)
    wait(qtbot, own)
    assert dock.fixed.text() == "Fixed statistics (sampled, this image)"
    assert "estimated to differ by" in panel.result.text()
    panel.how.set_value("local")
    panel.cell.setValue(24)
    assert panel.cell.isVisibleTo(panel)
    assert not panel.tiles.isVisibleTo(panel)
    freeze(qtbot, own, "local")
    (found,) = dock.model.statistics.layers
    assert found.count.shape == (4, 5)  # of 24 pixels each
    assert dock.fixed.text() == "Fixed statistics (local, this image)"


def test_cancel_acts_at_once_and_resume_goes_on(qtbot, viewer, docks, monkeypatch):
    import seamscope.docks.normalization.tasks as tasks

    dock, own = docks
    viewer.add_image(uneven(96, 120), name="cells")
    load(qtbot, docks, INSTANCE)
    own.freezing.grid.set_value("plan")
    show(own, "Freeze")
    wait(qtbot, own)
    INSTANCE.module.delay = 0.1
    press(qtbot, own.freezing.freeze)
    qtbot.waitUntil(lambda: own.job.bar.value() >= 3, timeout=PATIENCE)
    assert "left" in own.job.text.text()
    assert f"of {dock.plan.tiles} tiles" in own.job.text.text()
    done = own.job.bar.value()
    qtbot.mouseClick(own.job.cancel, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not own.busy, timeout=1000)
    assert done < dock.plan.tiles / 2
    assert "Stopped" in own.problem
    assert own._session.fixed is None
    INSTANCE.module.delay = 0.0

    given = []
    original = tasks.carry_out

    def leave_a_layer(plan, model, image, partial, *rest):
        """As if stopped after the first layer, as a network of several would be."""
        found = original(plan, model, image, partial, *rest)
        given.append(partial)
        if len(given) == 1:
            found.save(partial)
            raise InterruptedError
        return found

    monkeypatch.setattr(tasks, "carry_out", leave_a_layer)
    press(qtbot, own.freezing.freeze)
    wait(qtbot, own)
    assert own.freezing.freeze.text() == "Resume"
    assert "Resume goes on" in own.problem
    own.freezing.how.set_value("local")
    assert own.freezing.freeze.text() == "Freeze"  # another question
    own.freezing.how.set_value("exact")
    wait(qtbot, own)
    press(qtbot, own.freezing.freeze)
    wait(qtbot, own)
    assert given[0] == given[1]
    given.clear()
    dock.fixed.click()
    press(qtbot, own.freezing.freeze)
    wait(qtbot, own)
    assert own.freezing.freeze.text() == "Resume"
    dock.image_box.value = viewer.add_image(uneven(96, 120, seed=7), name="of the same size")
    assert own.freezing.freeze.text() == "Freeze"  # layers of another image are of no use
    dock.image_box.value = viewer.layers["cells"]
    wait(qtbot, own)
    press(qtbot, own.freezing.freeze)
    wait(qtbot, own)
    assert own._session.fixed is not None
    assert own.freezing.freeze.text() == "Freeze"


def test_statistics_are_saved_and_loaded_for_the_same_network_only(qtbot, viewer, docks, tmp_path):
    dock, own = docks
    image = uneven(64, 96)
    viewer.add_image(image, name="cells")
    load(qtbot, docks, INSTANCE)
    freeze(qtbot, own)
    path = tmp_path / "found.safetensors"
    own.freezing.save_wanted.emit(path)
    wait(qtbot, own)
    assert path.is_file()
    before = dock.model.statistics
    twin = measured(norm=True)
    load(qtbot, docks, twin)
    assert own._session.fixed is None
    own.freezing.file.setText(str(path))
    own.freezing.how.set_value("file")
    assert own.freezing.freeze.text() == "Load"
    press(qtbot, own.freezing.freeze)
    wait(qtbot, own)
    after = dock.model.statistics
    np.testing.assert_array_equal(after.layers[0].mean, before.layers[0].mean)
    assert dock.fixed.text() == "Fixed statistics (exact, cells)"

    other = measured(norm=True, classes=2)
    load(qtbot, docks, other)
    press(qtbot, own.freezing.freeze)
    wait(qtbot, own)
    assert "These statistics were made for the network" in own.problem
    assert own.problem.count(".") <= 3
    assert dock.model is other
    own.freezing.file.setText(str(tmp_path / "absent"))
    press(qtbot, own.freezing.freeze)
    wait(qtbot, own)
    assert "There is no file" in own.problem


def test_a_volume_is_frozen(qtbot, viewer, docks):
    dock, own = docks
    image = uneven(16, 40, 48)
    viewer.add_image(image, name="solid", axis_labels=("z", "y", "x"))
    load(qtbot, docks, SOLID, tile=16)
    freeze(qtbot, own)
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    np.testing.assert_allclose(dock.results.array, whole(SOLID, image), atol=1e-4)


# -- before and after


def test_effect_on_seams_and_on_dice(qtbot, viewer, docks):
    dock, own = docks
    image = uneven(96, 120)
    viewer.add_image(image, name="cells")
    best = whole(INSTANCE, image).argmax(0)
    viewer.add_labels(best, name="truth")
    load(qtbot, docks, INSTANCE)
    assert not own.compare.isEnabled()
    freeze(qtbot, own)
    show(own, "Effect")
    own.truth.setCurrentIndex(own.truth.findText("truth"))
    press(qtbot, own.compare)
    wait(qtbot, own)
    assert own.problem == ""
    settings = dock.plan.settings.but(overlap=None, halo="auto")
    reports = [measure_seams(image, m, settings) for m in (INSTANCE, dock.model)]
    text = own.comparison.text()
    for report in reports:
        assert f"{report.measures.max_dist:.2g}<" in text or report.measures.max_dist < 1e-4
    _, drawn = own.curves.curves["before largest"]
    np.testing.assert_allclose(drawn, reports[0].curve.max_dist[: len(drawn)], rtol=1e-3)
    after = own.curves.curves["after largest"][1]
    at = max(max(side) for side in INSTANCE.reach.convolutional)
    assert after[at] <= own.effect.after.tolerance < drawn[at]
    assert own.effect.dice_after == (1.0, 1.0, 1.0)  # the truth was predicted untiled
    assert min(own.effect.dice_before) < 1
    assert "More accurate than before" in text
    assert own.effect.why_before.verdict == "tile statistics"
    assert ">tile statistics</td>" in text
    assert "<b>seamless</b>" in text
    for value in own.effect.dice_before:
        assert f"{value:.3f}" in text
    own.truth.set_value(None)
    undrawn(viewer).layers.remove("truth")
    assert own.truth.count() == 1


# -- features


def test_features_of_tiles_are_drawn_and_mapped(qtbot, viewer, docks):
    own = docks[1]
    image = uneven(96, 120)
    layer = viewer.add_image(image, name="cells", scale=(0.5, 0.25), translate=(7, 9))
    load(qtbot, docks, INSTANCE)
    show(own, "Features")
    own.tile.setValue(32)
    press(qtbot, own.measure)
    wait(qtbot, own)
    assert own.problem == ""
    exact = first_features(image)
    mean, std = exact.mean((1, 2)), exact.std((1, 2))
    strays = []
    for job in own.features.jobs:
        tile = first_features(image[job.tile.read])
        strays.append(np.sqrt((((tile.mean((1, 2)) - mean) / std) ** 2).mean()))
        row = own.panels.away[len(strays) - 1]
        np.testing.assert_allclose(row[:, 0], (tile.mean((1, 2)) - mean) / std, atol=1e-5)
        np.testing.assert_allclose(row[:, 1], np.log(tile.std((1, 2)) / std), atol=1e-5)
    expected = np.sqrt(np.mean(np.square(strays)))
    assert f"<b>{expected:.2g}</b>" in own.stray.text()
    assert rows(own.table)[0][-1] == f"{expected:.2g}"
    shown = own._strays.layer
    for job, stray in zip(own.features.jobs, strays, strict=True):
        for corner in (0.0, 0.99):  # first and last pixel of what the tile is responsible for
            pixel = [int(c.start + corner * (c.stop - 1 - c.start)) for c in job.tile.core]
            world = layer.data_to_world(pixel)
            place = np.round(shown.world_to_data(world)).astype(int)
            assert shown.data[tuple(place)] == pytest.approx(stray, rel=1e-4)
    own.show_map.click()
    assert own._strays.layer is None
    assert own.panels.isVisibleTo(own)
    own.show_map.click()
    shown = own._strays.layer
    undrawn(viewer).layers.remove(layer)
    assert own.features is None
    assert not shown.visible
    assert not own.panels.isVisibleTo(own)


def test_map_of_a_series_lies_on_its_frames():
    """Part of a series, tiles that fit badly; each tile's number where its core is."""
    image = uneven(4, 70, 90) * np.array([1, 3, 2, 5], np.float32)[:, None, None]
    layer = ImageLayer(image, axis_labels=("t", "y", "x"), scale=(2, 0.5, 0.25))
    area = {"t": (1, 3), "y": (9, 69)}
    found = measure_features(image, INSTANCE, axes="tyx", tile=32, halo=0, overlap=0, area=area)
    array, place = tile_map(found, 0, layer)
    shown = ImageLayer(array, **place)
    assert array.shape[0] == 2
    for job, stray in zip(found.jobs, found.layers[0].strays, strict=True):
        for end in (0, -1):
            core = [  # what of it is wanted
                range(max(c.start, part.start), min(c.stop, part.stop))
                for c, part in zip(job.tile.core, found.plan.area, strict=True)
            ]
            pixel = [job.frame[0], *(pixels[end] for pixels in core)]
            at = np.round(shown.world_to_data(layer.data_to_world(pixel))).astype(int)
            assert array[tuple(at)] == pytest.approx(stray, rel=1e-6)


def test_the_same_pixel_in_several_tiles(qtbot, viewer, docks):
    own = docks[1]
    image = uneven(96, 120)
    viewer.add_image(image, name="cells", scale=(0.5, 0.25))
    load(qtbot, docks, INSTANCE)
    show(own, "Features")
    own.tile.setValue(32)
    own.ask.click()
    assert own._clicked in viewer.mouse_drag_callbacks
    own.ask_at((0.5 * 40, 0.25 * 70))
    wait(qtbot, own)
    assert own.problem == ""
    assert len(own.pixel) == 4
    for one in own.pixel:
        y, x = one.start
        tile = first_features(image[y : y + 32, x : x + 32])
        value = tile[:, 40 - y, 70 - x]
        np.testing.assert_allclose(one.before.reshape(-1), value, atol=1e-5)
        normal = (value - tile.mean((1, 2))) / np.sqrt(tile.var((1, 2)) + 1e-5)
        np.testing.assert_allclose(one.after.reshape(-1), normal, atol=1e-4)
    before, after = own.pixel_plot.apart
    assert before < 1e-4 < 0.1 < after
    assert f"<b>{after:.2g}</b>" in own.pixel_told.text()
    own.ask_at((500.0, 0.0))
    assert "beside the image" in own.problem
    own.ask.click()
    assert own._clicked not in viewer.mouse_drag_callbacks


# -- training


def test_training_and_evaluation_are_compared(qtbot, viewer, docks):
    own = docks[1]
    image = uneven(96, 120)
    layer = viewer.add_image(image, name="cells")
    load(qtbot, docks, BATCH)
    state = {k: v.clone() for k, v in BATCH.module.state_dict().items()}
    show(own, "Training")
    own.tile.setValue(32)
    press(qtbot, own.train)
    wait(qtbot, own)
    assert own.problem == ""
    for name, value in BATCH.module.state_dict().items():
        assert torch.equal(value, state[name])

    twin = batch_norm().module
    both = {True: np.zeros((3, 96, 120)), False: np.zeros((3, 96, 120))}
    for tile in own.disparity.plan.grid:
        x = torch.from_numpy(image[tile.read])[None, None]
        for training in both:
            twin.load_state_dict(state)
            twin.norm.train(training)
            with torch.inference_mode():
                core = twin(x)[0].numpy()[:, *tile.crop]
            both[training][:, *tile.core] = core
    p, q = both[True], both[False]
    dice = 2 * (p * q).sum((1, 2)) / (p**2 + q**2).sum((1, 2))
    for name, value in zip(BATCH.channels, 1 - dice, strict=True):
        assert f"<td>{name}</td>" in own.told_training.text()
        assert f">{value:.2g}<" in own.told_training.text()
    shown = own._differences.layer
    np.testing.assert_allclose(shown.data, np.abs(p - q).max(0), atol=1e-5)
    np.testing.assert_allclose(shown.translate, layer.translate)
    show(own, "Features")
    press(qtbot, own.measure)
    wait(qtbot, own)
    assert own.features.layers[0].reference == "running"
    assert "remembered from training" in own.stray.text()
    assert own._differences.layer is None  # one map at a time
    show(own, "Training")
    assert own._differences.layer is shown
    assert own._strays.layer is None
    assert "per batch are needed" in own.advice.text() or "drawn at random" in own.advice.text()


# -- coming and going


def test_docks_are_closed_and_layers_removed_while_it_works(qtbot, viewer, docks, monkeypatch):
    import seamscope.docks.normalization.tasks as tasks

    own = docks[1]
    original = tasks.carry_out

    def deaf(plan, model, image, partial, cancelled, progress):
        """As if asked to stop at the very end."""
        return original(plan, model, image, partial, lambda: False, progress)

    layer = viewer.add_image(uneven(96, 120), name="cells")
    load(qtbot, docks, INSTANCE)
    own.freezing.grid.set_value("plan")
    INSTANCE.module.delay = 0.1
    show(own, "Freeze")
    wait(qtbot, own)
    monkeypatch.setattr(tasks, "carry_out", deaf)
    press(qtbot, own.freezing.freeze)
    qtbot.waitUntil(lambda: own.job.bar.value() >= 2, timeout=PATIENCE)
    undrawn(viewer).layers.remove(layer)
    INSTANCE.module.delay = 0.0
    wait(qtbot, own)
    assert Session.of(viewer).fixed is None
    assert not own.freezing.freeze.isEnabled()
    viewer.add_image(uneven(96, 120), name="again")
    qtbot.waitUntil(lambda: own.freezing.freeze.isEnabled(), timeout=PATIENCE)
    INSTANCE.module.delay = 0.1
    own._freeze()
    qtbot.waitUntil(lambda: own.job.bar.value() >= 1, timeout=PATIENCE)
    viewer.window.remove_dock_widget(own)
    INSTANCE.module.delay = 0.0
    wait(qtbot, own)
    assert Session.of(viewer).fixed is None
    viewer.window.add_dock_widget(own, name="Normalization")
    assert own._awake
    wait(qtbot, own)


def test_napari_finds_the_dock(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    _, own = viewer.window.add_plugin_dock_widget("seamscope", "Normalization")
    assert isinstance(own, NormalizationDock)
