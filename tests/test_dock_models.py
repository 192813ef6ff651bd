"""Networks in napari: dropped onto the viewer, and code that is read before it is trusted."""

from __future__ import annotations

import warnings

import pytest
import torch

pytest.importorskip("napari")

import npe2
from qtpy.QtCore import QSettings, Qt

import networks
from seamscope.docks import open_model_file
from seamscope.docks.prediction.model_picker import ModelPicker
from seamscope.loaders import load_model
from seamscope.models.declared import Declared

PATIENCE = 30_000


@pytest.fixture(autouse=True)
def own_settings(tmp_path):
    QSettings.setPath(
        QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(tmp_path / "settings")
    )


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(networks.UNet(2, 1).eval(), torch.zeros(1, 1, 32, 32)).save(path)
    return path


def press(qtbot, button):
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def test_a_network_dropped_onto_the_viewer_opens_the_dock(
    make_napari_viewer, qtbot, script
) -> None:
    viewer = make_napari_viewer(show=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of plugins' own
        viewer.window._qt_viewer._qt_open([str(script)], stack=False)
        _, dock = viewer.window.add_plugin_dock_widget("seamscope", "Tiled prediction")
    assert len(viewer.layers) == 0
    qtbot.waitUntil(lambda: dock.model is not None, timeout=PATIENCE)
    assert dock.model.spec == str(script)


def test_only_networks_are_taken(tmp_path, script) -> None:
    assert open_model_file(str(script)) is not None
    assert open_model_file([str(script)]) is not None
    for name, content in (("a.zip", b"PK\x05\x06" + bytes(18)), ("rdf.yaml", b"type: dataset\n")):
        (tmp_path / name).write_bytes(content)
    assert open_model_file(str(tmp_path / "a.zip")) is None
    assert open_model_file(str(tmp_path / "none.pt")) is None


def test_napari_knows_which_endings_to_ask_for() -> None:
    manager = npe2.PluginManager.instance()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manager.discover()
        readers = list(manager.iter_compatible_readers(["net.pt2"]))
    assert "seamscope.open_model_file" in [reader.command for reader in readers]


def test_code_can_be_read_before_it_is_trusted_and_is_remembered(qtbot, tmp_path) -> None:
    marker, file = tmp_path / "ran", tmp_path / "network.py"
    file.write_text(
        f"import pathlib\nfrom torch import nn\npathlib.Path({str(marker)!r}).touch()\n"
        "def build():\n    return nn.Conv2d(1, 2, 3)\n"
    )
    spec = f"{file}:build"
    picker = ModelPicker()
    qtbot.addWidget(picker)
    qtbot.addWidget(picker.consent)
    picker.show()
    asked: list[tuple[str, bool]] = []
    picker.asked.connect(lambda *what: asked.append(what))
    picker.set_value(spec)
    picker.ask_consent(spec, ("build() of network.py",))
    press(qtbot, picker.consent.read)
    assert file.read_text() in picker.source.text.toPlainText()
    assert picker.source.text.isReadOnly()
    assert not marker.exists()
    picker.source.close()
    press(qtbot, picker.consent.yes)
    assert asked == [(spec, False), (spec, True)]
    assert not marker.exists()  # the picker loads nothing
    load_model(spec)  # remembered: nobody asks again
    assert marker.exists()


def test_consent_for_once_is_not_remembered(qtbot, tmp_path) -> None:
    from seamscope.errors import TrustError

    picker = ModelPicker()
    qtbot.addWidget(picker)
    qtbot.addWidget(picker.consent)
    picker.set_value("torch.nn:Identity")
    picker.ask_consent("torch.nn:Identity", ("Identity()",))
    picker.consent.remember.setChecked(False)
    press(qtbot, picker.consent.yes)
    with pytest.raises(TrustError):
        load_model("torch.nn:Identity")


def test_the_dock_tells_where_a_model_card_is_wrong(make_napari_viewer, qtbot) -> None:
    viewer = make_napari_viewer(show=True)
    _, dock = viewer.window.add_plugin_dock_widget("seamscope", "Tiled prediction")
    for halo, wrong in ((2, True), (22, False)):  # the network reaches 22
        model = load_model(networks.UNet(2, 2).eval())
        model.declared = Declared("Its card", "yx", halo=(halo, halo))
        dock.set_model(model)
        qtbot.waitUntil(lambda: dock.model is not None and dock.settled, timeout=PATIENCE)
        assert ("Its card" in dock.facts.text()) is wrong
