"""The menu *Protocol* of the dock Tiled prediction, and what the docks remember."""

from __future__ import annotations

import shlex
from dataclasses import replace

import numpy as np
import pytest
import tifffile

pytest.importorskip("napari")

from hands import PATIENCE, press
from qtpy.QtGui import QGuiApplication
from typer.testing import CliRunner

import seamscope
from seamscope.cli import app
from seamscope.docks.prediction.dock import PredictionDock
from seamscope.planning.protocol import Network, Protocol
from seamscope.settings import Settings


def settle(qtbot, dock):
    qtbot.waitUntil(lambda: not dock.job.busy and not dock.busy, timeout=PATIENCE)


@pytest.fixture
def dock(open_docks, viewer, qtbot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (150, 170), np.uint8)
    tifffile.imwrite("my cells.tif", pixels)
    viewer.open("my cells.tif", plugin="napari")
    dock = open_docks("prediction")
    dock.set_model("demo:instancenorm")
    settle(qtbot, dock)
    return dock


def test_the_copied_command_gives_the_identical_result(dock, qtbot, tmp_path) -> None:
    dock.tile.set_value(96)
    dock.halo.set_value(20)
    dock.blend.set_value("linear")
    dock.options.padding.set_value("zeros")
    press(qtbot, dock.panel.run)
    settle(qtbot, dock)
    shown = np.asarray(dock.session.runs[-1].output.array)
    dock.protocols.copy()
    words = shlex.split(QGuiApplication.clipboard().text())
    assert words[:2] == ["seamscope", "predict"]
    assert "Command copied" in dock.panel.text.text()
    done = CliRunner().invoke(app, [*words[1:], "--quiet"])
    assert done.exit_code == 0, done.output
    result = seamscope.open_image(tmp_path / "my cells_prediction.ome.zarr")
    np.testing.assert_array_equal(result.read((slice(None),) * 3), shown)


def test_a_protocol_is_saved_and_loaded_into_other_controls(dock, qtbot, tmp_path) -> None:
    dock.tile.set_value(96)
    dock.halo.set_value(20)
    dock.options.result.set_value("labels")
    dock.protocols.save(str(tmp_path / "mine"))
    saved = Protocol.load(tmp_path / "mine.toml")
    before = dock.plan
    dock.tile.set_value("auto")
    dock.halo.set_value("auto")
    dock.options.result.set_value("probabilities")
    dock.set_model("demo:batchnorm")
    settle(qtbot, dock)
    dock.protocols.load(str(tmp_path / "mine.toml"))
    settle(qtbot, dock)
    assert dock.model.spec == "demo:instancenorm"
    assert (dock.plan.grid, dock.plan.out_dtype) == (before.grid, before.out_dtype)
    assert Protocol.of(dock.case()) == saved


def test_what_no_control_shows_is_said_and_used(dock, qtbot, tmp_path) -> None:
    asked = Settings(tile=96, halo=16, background=2, result="labels", area={"y": (0, 90)})
    network = Network("demo:instancenorm", dock.model.fingerprint)
    Protocol(network, asked).save(tmp_path / "p.toml")
    dock.protocols.load(str(tmp_path / "p.toml"))
    settle(qtbot, dock)
    assert (dock.settings().background, dock.plan.out_shape) == (2, (90, 170))
    assert "Background 2" in dock.notes.text()
    assert "Region y 0 to 90" in dock.notes.text()
    dock.set_model("demo:batchnorm")
    settle(qtbot, dock)
    assert dock.settings().background is None
    assert dock.plan.out_shape == (150, 170)


def test_another_network_of_that_name_is_refused(dock, qtbot, tmp_path) -> None:
    Protocol(Network("demo:batchnorm", "0123")).save(tmp_path / "p.toml")
    dock.protocols.load(str(tmp_path / "p.toml"))
    settle(qtbot, dock)
    assert dock.model is None
    assert "0123" in dock.facts.text()


def test_what_is_in_no_file_has_no_command(dock, viewer, qtbot) -> None:
    viewer.add_image(np.zeros((64, 64), np.uint8), name="made")
    dock.image_box.value = viewer.layers["made"]
    dock.protocols.copy()
    assert "in no file" in dock.problem
    tifffile.imwrite("my cells.tif", np.zeros((150, 170), np.uint8))  # others than are shown
    dock.image_box.value = viewer.layers[0]
    dock.protocols.copy()
    assert "other pixels" in dock.problem


def test_the_settings_of_the_last_run_come_back(dock, viewer, qtbot) -> None:
    dock.tile.set_value(96)
    dock.options.padding.set_value("zeros")
    dock.options.seams.set_value("none")
    press(qtbot, dock.panel.run)
    settle(qtbot, dock)
    dock.options.padding.set_value("reflect")  # not run
    other = PredictionDock(viewer)
    viewer.window.add_dock_widget(other, name="another", area="right")
    assert (other.options.padding.value(), other.options.seams.value()) == ("zeros", "none")
    other.set_model("demo:batchnorm")
    settle(qtbot, other)
    assert other.tile.value() == "auto"
    other.set_model("demo:instancenorm")
    settle(qtbot, other)
    assert other.tile.value() == (96, 96)
    assert other.halo.value() == "auto"


def test_background_and_percentiles_of_the_last_run_come_back(dock, viewer, qtbot, tmp_path):
    dock.options.result.set_value("labels")
    dock.options.background.set_value(2)
    dock.options.normalize.set_value("percentile")
    known = dock.protocols.protocol()
    replace(known, settings=known.settings.but(percentiles=(3.0, 90.0))).save(
        tmp_path / "known.toml"
    )
    dock.protocols.load(str(tmp_path / "known.toml"))
    settle(qtbot, dock)
    press(qtbot, dock.panel.run)
    settle(qtbot, dock)
    next_session = PredictionDock(viewer)
    viewer.window.add_dock_widget(next_session, name="another", area="right")
    for network, own in (
        ("demo:batchnorm", ("auto", (1.0, 99.8), None)),
        ("demo:instancenorm", ("percentile", (3.0, 90.0), 2)),
    ):
        next_session.set_model(network)
        settle(qtbot, next_session)
        found = next_session.plan.settings
        asked = next_session.settings()
        assert (asked.normalize, found.percentiles, found.background) == own
    assert "Percentiles 3, 90. They are those of the protocol, or of the last run." in (
        next_session.notes.text()
    )


def test_what_suits_one_network_is_not_kept_for_another(dock, viewer, qtbot) -> None:
    dock.options.normalize.set_value("percentile")
    dock.options.threshold.setValue(0.75)
    dock.halo.set_value(9)
    press(qtbot, dock.panel.run)
    settle(qtbot, dock)
    next_session = PredictionDock(viewer)
    viewer.window.add_dock_widget(next_session, name="another", area="right")

    def chosen(each, network: str) -> tuple:
        each.set_model(network)
        settle(qtbot, each)
        own = each.settings()
        return own.normalize, own.threshold, own.halo

    for each in (dock, next_session):
        assert chosen(each, "demo:batchnorm") == ("auto", 0.5, "auto")
        assert chosen(each, "demo:instancenorm") == ("percentile", 0.75, ((9, 9),) * 2)
    assert chosen(dock, "demo:batchnorm")[0] == "auto"
    assert "percentile was chosen for another network" in dock.notes.text()
    dock.options.normalize.set_value("zscore")
    assert "another network" not in dock.notes.text()
    dock.model_picker.set_value("demo:batchnorm")  # the same again
    settle(qtbot, dock)
    assert dock.settings().normalize == "zscore"
