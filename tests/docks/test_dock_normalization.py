"""The dock "Normalization", driven by its own controls, against the network run by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("napari")

from dock_networks import Net, measured, shared, undrawn, whole
from hands import PATIENCE, press, uneven
from napari.layers import Image as ImageLayer
from napari.utils.theme import get_theme
from pyqtgraph import ScatterPlotItem
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QScrollArea

from seamscope import load_model, measure_seams, predict
from seamscope.compare.blends import compare_blends
from seamscope.docks.looks import boxed
from seamscope.docks.normalization.dock import NormalizationDock
from seamscope.docks.normalization.freeze_panel import FreezePanel
from seamscope.docks.normalization.layers import tile_map
from seamscope.docks.prediction.dock import PredictionDock
from seamscope.docks.session import Session
from seamscope.errors import OutputError, SettingsError
from seamscope.explain.feature_statistics import measure_features
from seamscope.ledger import Ledger
from seamscope.models.model import as_model
from seamscope.progress import QUIET
from seamscope.text import figure_text
from seamscope.tiling import TileGrid


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
    return shared(net)


INSTANCE = measured(norm=True)
SOLID = measured(ndim=3, norm=True)
BATCH = batch_norm()
GOOD = boxed("", "good").partition("<td ")[2].partition(">")[0]  # its colours


@pytest.fixture
def docks(open_docks):
    """The dock to predict, and the dock about normalization."""
    return open_docks("prediction", "normalization")


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
    show(own, "Fix statistics")
    own.freezing.panel.how.set_value(how)
    wait(qtbot, own)
    press(qtbot, own.freezing.panel.freeze)
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
    assert "in the step <i>Predict</i>" in own.verdict.text()
    viewer.add_image(uneven(64, 96), name="cells")
    load(qtbot, docks, INSTANCE)
    assert rows(own.layers.table) == [["norm", "InstanceNorm", "4", "of the tile", "no", ""]]
    assert "1 layer normalizes with per-tile statistics" in own.verdict.text()
    own.layers.table.choose(0)
    assert "no margin makes tiles agree" in own.layers.meaning.text()
    assert not own.training.train.isEnabled()
    assert "predicts as it was trained" in own.training.result.text()
    load(qtbot, docks, BATCH)
    assert own.training.train.isEnabled()
    assert rows(own.layers.table) == [["norm", "BatchNorm", "4", "from training", "yes", ""]]
    assert "a margin is enough" in own.verdict.text()
    show(own, "Fix statistics")
    wait(qtbot, own)
    assert "Nothing to fix" in own.freezing.panel.cost.text()
    assert GOOD in own.freezing.panel.cost.text()
    assert not own.freezing.panel.freeze.isEnabled()


def test_what_cannot_be_repaired_is_said(qtbot, viewer, docks):
    own = docks[1]
    viewer.add_image(uneven(48, 48))
    load(qtbot, docks, as_model(Brightest().eval()), tile=16)
    assert "cannot be fixed" in own.verdict.text()
    assert "aximum over space" in own.verdict.text()


# -- freezing


def test_frozen_network_predicts_like_the_whole_image(qtbot, viewer, docks):
    dock, own = docks
    image = uneven(96, 120)
    layer = viewer.add_image(image, name="cells")
    load(qtbot, docks, INSTANCE)
    assert not dock.fixed.isVisibleTo(dock)
    assert "Overlap cannot remove the seams" in dock.facts.text()
    freeze(qtbot, own)
    assert "The image runs untiled, 1 layer in one pass" in own.freezing.panel.cost.text()
    sentence = own.bench.session.fixed.network.describe()
    assert sentence.startswith("Can be predicted without seams")
    for text in (own.verdict.text(), dock.facts.text()):
        assert sentence in text
    assert own.freezing.panel.result.text() == ""  # nothing is said twice
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
    assert "Overlap cannot remove the seams" in dock.facts.text()
    assert "1 layer normalizes with per-tile statistics" in own.verdict.text()
    assert "fix them with the page Fix statistics" in own.verdict.text()
    assert "not used now" in own.freezing.panel.result.text()
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    assert np.abs(dock.results.array - whole(INSTANCE, image)).max() > 0.01
    dock.fixed.click()
    other = viewer.add_image(uneven(80, 80, seed=3), name="other")
    dock.image_box.value = other
    assert dock.fixed.text() == "Fixed statistics (exact, cells)"
    assert "are those of cells, not of other" in dock.notes.text()
    dock.image_box.value = layer
    assert "not of other" not in dock.notes.text()
    load(qtbot, docks, BATCH)  # another network: they are gone
    assert own.bench.session.fixed is None
    assert not dock.fixed.isVisibleTo(dock)
    assert own.freezing.panel.result.text() == ""


def test_statistics_of_another_channel_are_told_and_not_measured_against(qtbot, viewer, docks):
    dock, own = docks
    image = np.stack([uneven(64, 96), 5 + 9 * uneven(64, 96, seed=2) ** 4])
    viewer.add_image(image, name="two")
    dock.axes.setText("cyx")
    dock.axes.editingFinished.emit()
    dock.set_model(INSTANCE)
    dock.options.channel.set_value(0)
    dock.refresh()
    qtbot.waitUntil(lambda: own.settled and own.audit is not None, timeout=PATIENCE)
    freeze(qtbot, own)
    good = [text.text() for text in (own.verdict, dock.fixed)]
    assert good[1] == "Fixed statistics (exact, this image)"
    dock.options.channel.set_value(1)
    dock.refresh()
    green = boxed("", "good").split("bgcolor=")[1].split()[0]
    assert green in good[0]
    off = "were found with channel 0, but two is read with channel 1. Predictions will be wrong"
    for text in (own.verdict, dock.notes):
        assert off in text.text()
        assert green not in text.text()
    assert dock.fixed.text() == "Fixed statistics (exact, this image, read otherwise)"
    show(own, "Features")
    own.features.tile.setValue(32)
    press(qtbot, own.features.measure)
    wait(qtbot, own)
    assert own.problem == ""
    (one,) = own.features.features.layers
    found = first_features(image[1])
    np.testing.assert_allclose(one.reference_mean, found.mean((1, 2)), rtol=1e-5)
    dock.options.channel.set_value(0)
    dock.refresh()
    assert [t.text() for t in (own.verdict, dock.fixed)] == good


def test_ways_of_freezing_and_their_cost_follow_the_controls(qtbot, viewer, docks):
    dock, own = docks
    viewer.add_image(uneven(96, 120), name="cells")
    load(qtbot, docks, INSTANCE)
    show(own, "Fix statistics")
    panel = own.freezing.panel
    panel.grid.set_value("plan")
    wait(qtbot, own)
    tiles = dock.plan.tiles
    assert f"{tiles} tiles run layer by layer through 1 layer and wait" in panel.cost.text()
    panel.how.set_value("sampled")
    panel.tiles.setValue(5)
    assert own.freezing.asked().settings.halo == dock.plan.grid.halo  # of the prediction's tiles
    wait(qtbot, own)
    assert "5 tiles run layer by layer" in panel.cost.text()
    press(qtbot, panel.freeze)
    wait(qtbot, own)
    assert dock.fixed.text() == "Fixed statistics (sampled, this image)"
    assert "estimated to differ by" in own.verdict.text()
    panel.how.set_value("local")
    panel.cell.setValue(24)
    assert panel.cell.isVisibleTo(panel)
    assert not panel.tiles.isVisibleTo(panel)
    assert not panel.grid.isVisibleTo(panel)  # windows are no matter of tiles
    wait(qtbot, own)
    assert "12 windows of 48 x 48 pixels run" in panel.cost.text()
    freeze(qtbot, own, "local")
    (found,) = dock.model.statistics.layers
    assert found.count.shape == (3, 4)
    assert dock.fixed.text() == "Fixed statistics (local, this image)"


def test_where_nothing_can_be_planned_the_dock_that_says_why_is_named(qtbot, viewer, docks):
    dock, own = docks
    viewer.add_image(uneven(96, 120), name="cells")
    load(qtbot, docks, INSTANCE)
    dock.tile.set_value(16)
    dock.halo.set_value(12)
    dock.refresh()
    assert dock.plan is None
    show(own, "Fix statistics")
    wait(qtbot, own)
    assert "The step Predict says what to fix first" in own.freezing.panel.cost.text()
    assert not own.freezing.panel.freeze.isEnabled()


def test_cancel_acts_at_once_and_resume_goes_on(qtbot, viewer, docks, monkeypatch):
    import seamscope.docks.normalization.freeze_page as page

    dock, own = docks
    viewer.add_image(uneven(96, 120), name="cells")
    load(qtbot, docks, INSTANCE)
    own.freezing.panel.grid.set_value("plan")
    show(own, "Fix statistics")
    wait(qtbot, own)
    INSTANCE.module.delay = 0.1
    press(qtbot, own.freezing.panel.freeze)
    qtbot.waitUntil(lambda: own.job.bar.value() >= 3, timeout=PATIENCE)
    assert "left" in own.job.text.text()
    assert f"of {dock.plan.tiles} tiles" in own.job.text.text()
    done = own.job.bar.value()
    qtbot.mouseClick(own.job.cancel, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not own.busy, timeout=PATIENCE)
    assert done < dock.plan.tiles / 2
    assert "Stopped" in own.problem
    assert own.bench.session.fixed is None
    INSTANCE.module.delay = 0.0

    given = []
    original = page.carry_out

    def leave_a_layer(case, plan, partial, *rest, **how):
        """As if stopped at the end: everything is kept in the folder."""
        found = original(case, plan, partial, *rest, **how)
        given.append(partial)
        if len(given) == 1:
            raise InterruptedError
        return found

    monkeypatch.setattr(page, "carry_out", leave_a_layer)
    press(qtbot, own.freezing.panel.freeze)
    wait(qtbot, own)
    assert own.freezing.panel.freeze.text() == "Go on"
    assert "Go on continues" in own.problem
    own.freezing.panel.how.set_value("local")
    assert own.freezing.panel.freeze.text() == "Fix statistics"  # another question
    own.freezing.panel.how.set_value("exact")
    wait(qtbot, own)
    press(qtbot, own.freezing.panel.freeze)
    wait(qtbot, own)
    assert given[0] == given[1]
    given.clear()
    dock.fixed.click()
    press(qtbot, own.freezing.panel.freeze)
    wait(qtbot, own)
    assert own.freezing.panel.freeze.text() == "Go on"
    dock.image_box.value = viewer.add_image(uneven(96, 120, seed=7), name="of the same size")
    assert (
        own.freezing.panel.freeze.text() == "Fix statistics"
    )  # layers of another image are of no use
    dock.image_box.value = viewer.layers["cells"]
    wait(qtbot, own)
    press(qtbot, own.freezing.panel.freeze)
    wait(qtbot, own)
    assert own.bench.session.fixed is not None
    assert own.freezing.panel.freeze.text() == "Fix statistics"


def test_what_was_left_of_another_image_is_removed_and_not_offered(qtbot, viewer, docks):
    dock, own = docks
    viewer.add_image(uneven(96, 96), name="one")
    load(qtbot, docks, INSTANCE)
    show(own, "Fix statistics")
    own.freezing.panel.how.set_value("local")
    own.freezing.panel.cell.setValue(8)
    wait(qtbot, own)
    freeze_button, folder = own.freezing.panel.freeze, own.freezing.kept.root
    INSTANCE.module.delay = 0.02
    press(qtbot, freeze_button)
    qtbot.waitUntil(lambda: any(folder.rglob("*.sums")), timeout=PATIENCE)
    own.job.stop()
    wait(qtbot, own)
    assert freeze_button.text() == "Go on"
    own.freezing.panel.run_on.set_value("")  # a scheduler that is not named yet
    press(qtbot, own.freezing.panel.begin_again)
    assert "Enter the address of a scheduler" in own.problem
    assert any(folder.rglob("*.sums"))  # refused before anything is removed
    own.freezing.panel.run_on.set_value(None)
    dock.image_box.value = viewer.add_image(uneven(90, 90, seed=3), name="two")
    wait(qtbot, own)
    assert freeze_button.text() == "Fix statistics"
    assert list(folder.iterdir()) == []
    press(qtbot, freeze_button)
    own.job.stop()  # before anything is known
    wait(qtbot, own)
    assert freeze_button.text() == "Fix statistics"
    assert "nothing new was measured" in own.problem


def test_nothing_is_removed_or_replaced_for_statistics_that_cannot_be_written(
    tmp_path, monkeypatch
):
    import seamscope.docks.normalization.freeze_page as page

    target, left = tmp_path / "a.statistics", tmp_path / "a.statistics.partial"
    Ledger.begin(left, {}).mark(1)
    asked = page.FreezeAsked(None, None, "exact", None, 1, 1)
    again = {"target": target, "again": True, "work": QUIET}

    def refuse(*_):
        raise SettingsError("no such scheduler")

    def find(*_, **__):
        assert not left.exists()
        target.write_text("of another program")

    monkeypatch.setattr(page.FreezeAsked, "case", SimpleNamespace(image=None, model=None))
    monkeypatch.setattr(page, "carry_out", find)
    monkeypatch.setattr(page, "from_file", lambda case, *_, **__: case)
    monkeypatch.setattr(page, "check_workers", refuse)
    with pytest.raises(SettingsError):
        asked.freeze(object(), left, **again)
    assert (left / "1").exists()
    monkeypatch.setattr(page, "check_workers", lambda *_: None)
    with pytest.raises(OutputError, match=r"a\.statistics was made by something else"):
        asked.freeze(object(), left, **again)
    assert target.read_text() == "of another program"


def test_statistics_are_saved_and_loaded_for_the_same_network_only(qtbot, viewer, docks, tmp_path):
    dock, own = docks
    image = uneven(64, 96)
    viewer.add_image(image, name="cells")
    load(qtbot, docks, INSTANCE)
    freeze(qtbot, own)
    path = tmp_path / "found.safetensors"
    own.freezing.panel.save_wanted.emit(path)
    wait(qtbot, own)
    assert path.is_file()
    before = dock.model.statistics
    network = dock.model
    own.freezing.panel.export_wanted.emit(tmp_path / "fixed.torchscript")
    wait(qtbot, own)
    assert "Written to fixed.torchscript" in own.freezing.panel.cost.text()
    script = load_model(tmp_path / "fixed.torchscript").forward
    tile = torch.from_numpy(uneven(1, 1, 32, 48))
    with torch.no_grad():
        torch.testing.assert_close(script(tile), network.forward(tile), rtol=0, atol=1e-5)
    twin = measured(norm=True)
    load(qtbot, docks, twin)
    assert own.bench.session.fixed is None
    own.freezing.panel.file.setText(str(path))
    own.freezing.panel.how.set_value("file")
    assert own.freezing.panel.freeze.text() == "Load"
    press(qtbot, own.freezing.panel.freeze)
    wait(qtbot, own)
    after = dock.model.statistics
    np.testing.assert_array_equal(after.layers[0].mean, before.layers[0].mean)
    assert dock.fixed.text() == "Fixed statistics (exact, cells)"

    other = measured(norm=True, classes=2)
    load(qtbot, docks, other)
    press(qtbot, own.freezing.panel.freeze)
    wait(qtbot, own)
    assert "These statistics were made for the network" in own.problem
    assert own.problem.count(".") <= 3
    assert dock.model is other
    own.freezing.panel.file.setText(str(tmp_path / "absent"))
    press(qtbot, own.freezing.panel.freeze)
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
    assert not own.effect.compare.isEnabled()
    freeze(qtbot, own)
    show(own, "Effect")
    own.effect.truth.setCurrentIndex(own.effect.truth.findText("truth"))
    press(qtbot, own.effect.compare)
    wait(qtbot, own)
    assert own.problem == ""
    settings = dock.plan.settings.but(overlap=None, halo="auto")
    reports = [measure_seams(image, m, settings) for m in (INSTANCE, dock.model)]
    text = own.effect.comparison.text()
    for report in reports:
        assert (
            f"{figure_text(report.measures.max_dist)}<" in text or report.measures.max_dist < 1e-4
        )
    _, drawn = own.effect.curves.curves["before largest"]
    np.testing.assert_allclose(drawn, reports[0].curve.max_dist[: len(drawn)], rtol=1e-3)
    after = own.effect.curves.curves["after largest"][1]
    at = max(max(side) for side in INSTANCE.reach.convolutional)
    assert after[at] <= own.effect.effect.after.tolerance < drawn[at]
    assert own.effect.effect.dice_after == (1.0, 1.0, 1.0)  # the truth was predicted untiled
    assert min(own.effect.effect.dice_before) < 1
    assert "More accurate than before" in text
    assert own.effect.effect.why_before.verdict == "tile statistics"
    assert ">tile statistics</td>" in text
    assert ">seamless<" in text
    for value in own.effect.effect.dice_before:
        assert f"{value:.3f}" in text
    own.effect.truth.set_value(None)
    undrawn(viewer).layers.remove("truth")
    assert own.effect.truth.count() == 1


def test_dice_of_one_channel_is_at_the_threshold_of_tiled_prediction(qtbot, viewer, docks):
    dock, own = docks
    image = uneven(96, 120)
    model = measured(norm=True, classes=1)
    best = whole(model, image)[0]
    threshold = round(float(np.quantile(best, 0.7)), 2)
    assert not 0.48 < threshold < 0.52, "nothing to tell from the default"
    viewer.add_image(image, name="cells")
    viewer.add_labels((best > np.float32(threshold)).astype(int), name="truth")
    load(qtbot, docks, model)
    dock.options.threshold.setValue(threshold)
    freeze(qtbot, own)
    show(own, "Effect")
    own.effect.truth.setCurrentIndex(own.effect.truth.findText("truth"))
    press(qtbot, own.effect.compare)
    wait(qtbot, own)
    assert own.problem == ""
    found = own.effect.effect
    assert found.classified.threshold == threshold
    assert found.dice_after[0] > 0.999  # the truth was predicted untiled
    assert found.dice_before[0] < 0.999
    text = own.effect.comparison.text()
    assert f"after, at threshold {threshold})." in text
    assert f"where the output is above {threshold}." in text


# -- features


def test_features_of_tiles_are_drawn_and_mapped(qtbot, viewer, docks):
    own = docks[1]
    image = uneven(96, 120)
    layer = viewer.add_image(image, name="cells", scale=(0.5, 0.25), translate=(7, 9))
    load(qtbot, docks, INSTANCE)
    show(own, "Features")
    own.features.tile.setValue(32)
    press(qtbot, own.features.measure)
    wait(qtbot, own)
    assert own.problem == ""
    exact = first_features(image)
    mean, std = exact.mean((1, 2)), exact.std((1, 2))
    deviations = []
    for job in own.features.features.jobs:
        tile = first_features(image[job.tile.read])
        deviations.append(np.sqrt((((tile.mean((1, 2)) - mean) / std) ** 2).mean()))
        row = own.features.panels.away[len(deviations) - 1]
        np.testing.assert_allclose(row[:, 0], (tile.mean((1, 2)) - mean) / std, atol=1e-5)
        np.testing.assert_allclose(row[:, 1], np.log(tile.std((1, 2)) / std), atol=1e-5)
    expected = np.sqrt(np.mean(np.square(deviations)))
    assert f"<b>{figure_text(expected)}</b>" in own.features.deviation.text()
    assert rows(own.layers.table)[0][-1] == figure_text(expected)
    assert own.layers.table.isColumnHidden(4)  # its room is that of the names
    shown = own.features.deviations.layer
    for job, deviation in zip(own.features.features.jobs, deviations, strict=True):
        for corner in (0.0, 0.99):  # first and last pixel of what the tile is responsible for
            pixel = [int(c.start + corner * (c.stop - 1 - c.start)) for c in job.tile.core]
            world = layer.data_to_world(pixel)
            place = np.round(shown.world_to_data(world)).astype(int)
            assert shown.data[tuple(place)] == pytest.approx(deviation, rel=1e-4)
    own.features.show_map.click()
    assert own.features.deviations.layer is None
    assert own.features.panels.isVisibleTo(own)
    own.features.show_map.click()
    shown = own.features.deviations.layer
    undrawn(viewer).layers.remove(layer)
    assert own.features.features is None
    assert not shown.visible
    assert not own.features.panels.isVisibleTo(own)


def test_results_give_way_to_maps_and_come_back(qtbot, viewer, docks):
    """Colours over colours cannot be read."""
    dock, own = docks
    viewer.add_image(uneven(96, 120), name="cells")
    load(qtbot, docks, INSTANCE)
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    results = list(dock.session.results())

    def seen():
        qtbot.wait(50)
        return [layer for layer in results if layer.visible]

    before = seen()
    assert before
    show(own, "Features")
    own.features.tile.setValue(32)
    press(qtbot, own.features.measure)
    wait(qtbot, own)
    assert seen() == []
    own.features.show_map.click()
    assert seen() == before
    own.features.show_map.click()
    assert seen() == []
    show(own, "Effect")
    assert seen() == before
    show(own, "Features")
    press(qtbot, dock.panel.run)  # now there are others
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    show(own, "Effect")
    assert seen() == []


def test_map_of_a_series_lies_on_its_frames():
    """Part of a series, tiles that fit badly; each tile's number where its core is."""
    image = uneven(4, 70, 90) * np.array([1, 3, 2, 5], np.float32)[:, None, None]
    layer = ImageLayer(image, axis_labels=("t", "y", "x"), scale=(2, 0.5, 0.25))
    area = {"t": (1, 3), "y": (9, 69)}
    found = measure_features(image, INSTANCE, axes="tyx", tile=32, halo=0, overlap=0, area=area)
    array, place = tile_map(found, 0, layer)
    shown = ImageLayer(array, **place)
    assert array.shape[0] == 2
    for job, deviation in zip(found.jobs, found.layers[0].deviations, strict=True):
        for end in (0, -1):
            core = [  # what of it is wanted
                range(max(c.start, part.start), min(c.stop, part.stop))
                for c, part in zip(job.tile.core, found.plan.area, strict=True)
            ]
            pixel = [job.frame[0], *(pixels[end] for pixels in core)]
            at = np.round(shown.world_to_data(layer.data_to_world(pixel))).astype(int)
            assert array[tuple(at)] == pytest.approx(deviation, rel=1e-6)


def test_the_same_pixel_in_several_tiles(qtbot, viewer, docks):
    own = docks[1]
    image = uneven(96, 120)
    viewer.add_image(image, name="cells", scale=(0.5, 0.25))
    load(qtbot, docks, INSTANCE)
    show(own, "Features")
    own.features.tile.setValue(32)
    own.features.ask.click()
    assert own.features._clicked in viewer.mouse_drag_callbacks
    own.features.ask_at((0.5 * 40, 0.25 * 70))
    wait(qtbot, own)
    assert own.problem == ""
    assert len(own.features.pixel) == 4
    for one in own.features.pixel:
        y, x = one.start
        tile = first_features(image[y : y + 32, x : x + 32])
        value = tile[:, 40 - y, 70 - x]
        np.testing.assert_allclose(one.before.reshape(-1), value, atol=1e-5)
        normal = (value - tile.mean((1, 2))) / np.sqrt(tile.var((1, 2)) + 1e-5)
        np.testing.assert_allclose(one.after.reshape(-1), normal, atol=1e-4)
    before, after = own.features.pixel_plot.apart
    assert before < 1e-4 < 0.1 < after
    assert f"<b>{figure_text(after)}</b>" in own.features.pixel_text.text()
    own.features.ask_at((500.0, 0.0))
    assert "beside the image" in own.problem
    own.features.ask.click()
    assert own.features._clicked not in viewer.mouse_drag_callbacks


# -- training


def test_training_and_evaluation_are_compared(qtbot, viewer, docks):
    own = docks[1]
    image = uneven(96, 120)
    layer = viewer.add_image(image, name="cells")
    load(qtbot, docks, BATCH)
    state = {k: v.clone() for k, v in BATCH.module.state_dict().items()}
    assert "nothing to compare" in own.effect.comparison.text()
    show(own, "Training")
    own.features.tile.setValue(32)
    press(qtbot, own.training.train)
    wait(qtbot, own)
    assert own.problem == ""
    for name, value in BATCH.module.state_dict().items():
        assert torch.equal(value, state[name])

    twin = batch_norm().module
    both = {True: np.zeros((3, 96, 120)), False: np.zeros((3, 96, 120))}
    for tile in own.training.disparity.plan.grid:
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
        assert f"<td>{name}</td>" in own.training.result.text()
        assert f">{figure_text(value)}<" in own.training.result.text()
    shown = own.training.differences.layer
    np.testing.assert_allclose(shown.data, np.abs(p - q).max(0), atol=1e-5)
    np.testing.assert_allclose(shown.translate, layer.translate)
    show(own, "Features")
    press(qtbot, own.features.measure)
    wait(qtbot, own)
    assert own.features.features.layers[0].reference == "running"
    assert "kept from training" in own.features.deviation.text()
    assert own.training.differences.layer is None  # one map at a time
    show(own, "Training")
    assert own.training.differences.layer is shown
    assert own.features.deviations.layer is None
    assert (
        "per batch are needed" in own.training.advice.text()
        or "drawn at random" in own.training.advice.text()
    )


# -- blends


def compare_blends_of(qtbot, own):
    """Compare, as somebody in the tab Blends does."""
    show(own, "Blends")
    press(qtbot, own.blends.compare)
    wait(qtbot, own)
    assert own.problem == ""


def test_ways_of_blending_are_compared_and_the_best_is_used(qtbot, viewer, docks):
    dock, own = docks
    image = 0.95 * np.linspace(0.5, 3, 120, dtype=np.float32) + 0.05 * uneven(96, 120)
    viewer.add_image(image, name="cells")
    load(qtbot, docks, INSTANCE)
    page = own.blends
    show(own, "Blends")
    halo = dock.plan.grid.halo
    tiles = TileGrid.regular((96, 120), 32, halo, overlap=14, lattice=INSTANCE.facts.lattice[0])
    assert f"2 × {len(tiles)} tiles" in page.cost.text()
    assert "overlap 14 px" in page.cost.text()
    own_overlap = max(dock.plan.grid.overlap)
    assert f"{own_overlap} px, {dock.plan.tiles} tiles" in page.cost.text()
    assert not page.use.isVisibleTo(page)
    compare_blends_of(qtbot, own)
    expected = compare_blends(image, INSTANCE, tile=32, halo=halo, accelerate=False)
    assert page.found.scores == pytest.approx(expected.scores, rel=1e-6)
    assert tuple(page.found.settings["overlap"]) == (14, 14)
    best = expected.recommended
    assert best.blend != "crop"
    assert f"Use {best.blend}" in page.verdict.text()
    rows = [row for row in page.table.text().split("<tr>") if "►" in row]
    marked = " ".join(rows)  # one row of each table: a dock has no room for all columns
    worst = int(best.total().argmax())
    for told in (best.blend, *(figure_text(v) for v in (
        min(expected.scores), best.step[worst], best.dependence[worst], best.peak[worst]
    ))):  # fmt: skip
        assert told in marked
    assert "the step Fix" in page.verdict.text()
    assert "seamscope freeze" not in page.verdict.text() + page.notes.text()

    assert dock.blend.value() == "crop"
    press(qtbot, page.use)
    assert dock.blend.value() == best.blend
    assert dock.overlap.value() == "auto"  # gives what was compared
    assert dock.plan.grid.overlap == (14, 14)
    dock.tile.set_value(48)
    dock.overlap.set_value(12)
    press(qtbot, page.use)
    assert dock.plan.grid.tile_shape == (32, 32)
    assert dock.plan.grid.overlap == (14, 14)
    assert "overlap 14 × 14" in page.used.text()
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    asked = {"tile": 32, "halo": halo, "overlap": 14, "blend": best.blend}
    np.testing.assert_allclose(dock.results.array, predict(image, INSTANCE, **asked), atol=1e-6)
    plain = predict(image, INSTANCE, **{**asked, "blend": "crop"})
    assert np.abs(dock.results.array - plain).max() > 1e-3


def test_frozen_networks_need_no_blend(qtbot, viewer, docks):
    dock, own = docks
    viewer.add_image(uneven(96, 120), name="cells")
    load(qtbot, docks, INSTANCE)
    compare_blends_of(qtbot, own)
    dock.blend.set_value("linear")
    freeze(qtbot, own)
    assert own.blends.found is None  # of the network with each tile's own statistics
    compare_blends_of(qtbot, own)
    assert own.blends.found.seamless
    assert "same result" in own.blends.verdict.text()
    press(qtbot, own.blends.use)
    assert dock.blend.value() == "crop"
    assert dock.overlap.value() == "auto"
    assert max(dock.plan.grid.overlap) < 14  # no more than a halo needs


def test_one_tile_is_nothing_to_blend(qtbot, viewer, docks):
    dock, own = docks
    viewer.add_image(uneven(64, 64))
    show(own, "Blends")
    assert "Choose an image and a network" in own.blends.cost.text()
    load(qtbot, docks, INSTANCE, tile=64)
    assert "One tile covers the image" in own.blends.cost.text()
    assert not own.blends.compare.isEnabled()
    dock.tile.set_value(32)
    assert own.blends.compare.isEnabled()
    dock.tile.set_value(64)
    assert not own.blends.compare.isEnabled()


def test_comparing_blends_is_cancelled_or_fails_in_one_sentence(qtbot, viewer, docks):
    own = docks[1]
    layer = viewer.add_image(uneven(96, 120), name="cells")
    load(qtbot, docks, INSTANCE)
    page = own.blends
    show(own, "Blends")
    INSTANCE.module.delay = 0.1
    press(qtbot, page.compare)
    qtbot.waitUntil(lambda: own.job.bar.value() >= 2, timeout=PATIENCE)
    assert not page.compare.isEnabled()
    assert "stitched results" in own.job.text.text()
    assert "left" in own.job.text.text()
    qtbot.mouseClick(own.job.cancel, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not own.busy, timeout=PATIENCE)
    assert own.problem == "Stopped: nothing new was measured."
    assert own.error.text() == boxed(own.problem, "warning")
    own.fail(SettingsError("Stopped workers answer nothing: start them."), "Comparing")
    assert own.error.text() == boxed(own.problem, "error")  # whatever its words
    assert page.found is None

    INSTANCE.module.delay = 0.0
    INSTANCE.module.most_tiles = 0  # memory for not even one
    press(qtbot, page.compare)
    wait(qtbot, own)
    INSTANCE.module.most_tiles = 99
    assert "emory" in own.problem
    assert "--" not in own.problem
    assert page.found is None

    INSTANCE.module.delay = 0.1
    press(qtbot, page.compare)
    qtbot.waitUntil(lambda: own.job.bar.value() >= 2, timeout=PATIENCE)
    undrawn(viewer).layers.remove(layer)
    wait(qtbot, own)
    assert page.found is None
    assert not page.compare.isEnabled()
    viewer.add_image(uneven(96, 120), name="again")
    qtbot.waitUntil(lambda: page.compare.isEnabled(), timeout=PATIENCE)
    page._compare()
    qtbot.waitUntil(lambda: own.job.bar.value() >= 1, timeout=PATIENCE)
    viewer.window.remove_dock_widget(own)
    INSTANCE.module.delay = 0.0
    wait(qtbot, own)
    assert page.found is None
    viewer.window.add_dock_widget(own, name="Network normalization")
    wait(qtbot, own)


def test_closing_the_viewer_ends_a_comparison_of_blends(qtbot, make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    dock, own = PredictionDock(viewer), NormalizationDock(viewer)
    for each in (dock, own):
        viewer.window.add_dock_widget(each)
    dock.options.accelerate.setChecked(False)
    viewer.add_image(uneven(96, 120))
    load(qtbot, (dock, own), INSTANCE)
    show(own, "Blends")
    INSTANCE.module.delay = 0.1
    press(qtbot, own.blends.compare)
    qtbot.waitUntil(lambda: own.job.bar.value() >= 1, timeout=PATIENCE)
    reporter = own.job.job.reporter
    viewer.close()
    qtbot.waitUntil(reporter.stopped, timeout=PATIENCE)
    INSTANCE.module.delay = 0.0
    qtbot.wait(300)  # late events meet no dock


# -- what is made when


def plots_of(own):
    features = own.features
    drawings = features.panels, features.pixel_plot, own.training.batch_plot, own.effect.curves
    return [drawing.room.plot for drawing in drawings]


def test_plots_are_made_when_they_are_seen(qtbot, viewer, docks):
    """Each takes its time to make: nobody waits for those behind other tabs."""
    own = docks[1]
    assert plots_of(own) == [None] * 4
    even = np.random.default_rng(4).random((96, 120), np.float32)  # deviations are far below 1
    viewer.add_image(even, name="cells")
    load(qtbot, docks, INSTANCE)
    for tab in ("Features", "Training", "Effect"):
        show(own, tab)
        qtbot.wait(20)
    assert plots_of(own) == [None] * 4  # nothing is known that they could show
    own.features.tile.setValue(32)
    show(own, "Features")
    press(qtbot, own.features.measure)
    show(own, "Layers")
    wait(qtbot, own)
    assert own.features.panels.away.shape[1] == 4  # known, though not drawn
    assert plots_of(own) == [None] * 4
    viewer.theme = "light"
    show(own, "Features")
    room = own.features.panels.room
    qtbot.waitUntil(lambda: room.plot is not None and room.settled, timeout=PATIENCE)
    (dots,) = [item for item in room.plot.items() if isinstance(item, ScatterPlotItem)]
    assert len(dots.getData()[0]) == own.features.panels.away[..., 0].size
    ground = get_theme("light").background.as_hex()
    assert room.plot.backgroundBrush().color().name() == ground
    assert plots_of(own)[1:] == [None] * 3
    show(own, "Training")
    drawn = own.training.batch_plot.room
    qtbot.waitUntil(lambda: drawn.plot is not None and drawn.settled, timeout=PATIENCE)
    assert len(drawn.plot.getPlotItem().listDataItems()) == 2
    drawn.plot.grab()  # scales are known when it is painted
    assert "x0" not in drawn.plot.getAxis("left").labelString()  # ticks say what they are


def test_a_page_is_not_as_high_as_another(qtbot, viewer, docks):
    own = docks[1]
    viewer.add_image(uneven(96, 120), name="cells")
    load(qtbot, docks, INSTANCE)
    bar = own.findChild(QScrollArea).verticalScrollBar()
    own.features.ask.setMinimumHeight(3000)
    show(own, "Features")
    qtbot.waitUntil(lambda: bar.maximum() > 0, timeout=PATIENCE)
    show(own, "Fix statistics")
    qtbot.waitUntil(lambda: bar.maximum() == 0, timeout=PATIENCE)


# -- coming and going


def test_docks_are_closed_and_layers_removed_while_it_works(qtbot, viewer, docks, monkeypatch):
    import seamscope.docks.normalization.freeze_page as page

    own = docks[1]
    original = page.carry_out

    def deaf(case, plan, partial, work, **how):
        """As if asked to stop at the very end."""
        work.stopped = lambda: False
        return original(case, plan, partial, work, **how)

    layer = viewer.add_image(uneven(96, 120), name="cells")
    load(qtbot, docks, INSTANCE)
    own.freezing.panel.grid.set_value("plan")
    INSTANCE.module.delay = 0.1
    show(own, "Fix statistics")
    wait(qtbot, own)
    monkeypatch.setattr(page, "carry_out", deaf)
    press(qtbot, own.freezing.panel.freeze)
    qtbot.waitUntil(lambda: own.job.bar.value() >= 2, timeout=PATIENCE)
    undrawn(viewer).layers.remove(layer)
    INSTANCE.module.delay = 0.0
    wait(qtbot, own)
    assert Session.of(viewer).fixed is None
    assert not own.freezing.panel.freeze.isEnabled()
    viewer.add_image(uneven(96, 120), name="again")
    qtbot.waitUntil(lambda: own.freezing.panel.freeze.isEnabled(), timeout=PATIENCE)
    INSTANCE.module.delay = 0.1
    own.freezing._freeze()
    qtbot.waitUntil(lambda: own.job.bar.value() >= 1, timeout=PATIENCE)
    viewer.window.remove_dock_widget(own)
    INSTANCE.module.delay = 0.0
    wait(qtbot, own)
    assert Session.of(viewer).fixed is None
    viewer.window.add_dock_widget(own, name="Network normalization")
    assert own.bench.awake
    wait(qtbot, own)


def test_napari_finds_the_dock(qtbot, make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    place = viewer.window.add_plugin_dock_widget("seamscope", "Network normalization")[1]
    qtbot.waitUntil(lambda: place.dock is not None, timeout=PATIENCE)
    own = place.dock
    assert isinstance(own, NormalizationDock)


def test_a_network_replaces_only_the_file_that_the_dialog_asked_about(qtbot, tmp_path, monkeypatch):
    panel, wanted, proposed = FreezePanel(), [], []
    qtbot.addWidget(panel)
    panel.export_wanted.connect(wanted.append)
    there = tmp_path / "there.onnx"
    there.touch()
    for answers, expected in (
        ([there], [there]),
        (["there", there], [there]),
        (["there", ""], []),
        (["new"], [tmp_path / "new.onnx"]),
    ):
        wanted.clear()
        names = [str(tmp_path / each) if each else "" for each in answers]

        def answer(_parent, _title, name, _kinds, names=names):
            proposed.append(name)
            return names.pop(0), "ONNX (*.onnx)"

        monkeypatch.setattr(QFileDialog, "getSaveFileName", answer)
        panel.export.setEnabled(True)
        press(qtbot, panel.export)
        assert (wanted, names) == (expected, [])
    assert proposed[2] == str(there)
