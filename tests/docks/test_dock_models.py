"""Networks in napari: dropped onto the viewer, and code that is read before it is trusted."""

from __future__ import annotations

import io
import warnings
from unittest import mock

import pytest
import torch

pytest.importorskip("napari")

import npe2
import numpy as np
from hands import PATIENCE, press
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication, QDockWidget

import networks
from packages import result, sha, tensor, written
from seamscope.docks import open_model_file, tasks
from seamscope.docks.opening import Place
from seamscope.docks.prediction.model_picker import ModelPicker
from seamscope.docks.window import dock_around, main_window
from seamscope.errors import TrustError
from seamscope.models.declared import Declared
from seamscope.models.formats import Consent, code_of, load_model
from seamscope.models.model import as_model
from seamscope.progress import QUIET


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(networks.UNet(2, 1).eval(), torch.zeros(1, 1, 32, 32)).save(path)
    return path


class Two(torch.nn.Module):
    """Two outputs of different reach, and channels."""

    def __init__(self):
        super().__init__()
        self.near = torch.nn.Conv2d(1, 2, 3, padding=1)
        self.far = torch.nn.Conv2d(1, 1, 9, padding=4)

    def forward(self, x):
        return self.near(x), self.far(x)


def two_outputs(folder, halo=8, step=16):
    """A package of two outputs whose card asks for more than is needed."""
    torch.manual_seed(0)
    net, x = Two().eval(), torch.rand(1, 1, 32, 32)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = net(x)
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.trace(net, x), buffer)
    given, data = tensor("raw", 1, x.numpy())
    outputs = [result("first", "raw", 2, first.numpy()), result("second", "raw", 1, second.numpy())]
    for place in (2, 3):
        given["axes"][place]["size"] = {"min": 32, "step": step}
        for told, _ in outputs:
            told["axes"][place]["halo"] = halo
    files = {"w.pt": buffer.getvalue(), "README.md": b"# Test"}
    weights = {"torchscript": {"source": "w.pt", "sha256": sha(files["w.pt"])}}
    return written(folder, [(given, data)], outputs, (weights, files))


def opened(qtbot, viewer):
    """Open the dock as napari's menu does, and wait: torch may still be imported."""
    _, place = viewer.window.add_plugin_dock_widget("seamscope", "Tiled prediction")
    qtbot.waitUntil(lambda: place.dock is not None, timeout=PATIENCE)
    return place.dock


def test_a_network_dropped_onto_the_viewer_opens_the_dock(
    make_napari_viewer, qtbot, script
) -> None:
    viewer = make_napari_viewer(show=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of plugins' own
        viewer.window._qt_viewer._qt_open([str(script)], stack=False)
        assert places(viewer) == ["seamscope"]
        (steps,) = found(viewer)
        qtbot.waitUntil(lambda: steps.dock is not None, timeout=PATIENCE)
        # else its step may be ready last, and take the dock
        qtbot.waitUntil(lambda: steps.dock.slots["prediction"].dock is not None, timeout=PATIENCE)
        dock = opened(qtbot, viewer)
        assert len(viewer.layers) == 0
        qtbot.waitUntil(lambda: dock.model is not None, timeout=PATIENCE)
        assert dock.model.spec == str(script)
        viewer.window._qt_viewer._qt_open([str(script)], stack=False)
        qtbot.waitUntil(lambda: not dock.job.busy, timeout=PATIENCE)
        # no third place; which of the two has it depends on which of them was ready last
        assert sorted(places(viewer)) == ["prediction", "seamscope"]
        assert [place.isAncestorOf(dock) for place in found(viewer)].count(True) == 1


def found(viewer):
    """The docks of Seamscope in a window."""
    return main_window(viewer.window._qt_viewer).findChildren(Place)


def places(viewer):
    """What they show."""
    return [place.shows for place in found(viewer)]


def dropped(viewer, *paths) -> bool:
    """Drop onto the canvas's window as a file manager does; return whether napari was left out."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    buttons, keys = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    place, copy = QPoint(50, 50), Qt.DropAction.CopyAction
    target = viewer.window._qt_viewer
    with mock.patch.object(target, "_open_from_list_of_urls_data") as napari:
        QApplication.sendEvent(target, QDragEnterEvent(place, copy, data, buttons, keys))
        QApplication.sendEvent(target, QDropEvent(QPointF(place), copy, data, buttons, keys))
    return not napari.called


def test_a_folder_of_a_package_is_opened_too(make_napari_viewer, qtbot, tmp_path) -> None:
    """As folder, and as the yaml in it; all other folders stay napari's own."""
    folder = two_outputs(tmp_path / "package")
    viewer = make_napari_viewer(show=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of plugins' own
        dock = opened(qtbot, viewer)
        assert viewer.open(folder / "rdf.yaml", plugin="seamscope") == []
    assert dock.model_picker.value() == str(folder / "rdf.yaml")
    beside = QDockWidget()
    main_window(dock).tabifyDockWidget(dock_around(dock), beside)
    beside.raise_()
    assert dropped(viewer, folder)
    qtbot.waitUntil(dock.isVisible, timeout=PATIENCE)  # not under the other one
    assert dock.model_picker.value() == str(folder)
    qtbot.waitUntil(lambda: dock.model is not None, timeout=PATIENCE)
    assert dock.model.outputs == ("first", "second")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.tif").touch()
    assert not dropped(viewer, tmp_path / "pictures")
    assert not dropped(viewer, folder, tmp_path / "pictures")
    assert not dropped(viewer, folder / "rdf.yaml")
    assert open_model_file(str(tmp_path / "pictures")) is None
    viewer.window.remove_dock_widget(dock_around(dock))
    assert not dropped(viewer, folder)


def test_napari_asks_nobody_else_about_folders(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        readers = npe2.PluginManager.instance().iter_compatible_readers([str(tmp_path)])
    assert "seamscope.open_model_file" not in [reader.command for reader in readers]


def test_only_networks_are_taken(tmp_path, script) -> None:
    assert open_model_file(str(script)) is not None
    assert open_model_file([str(script)]) is not None
    for name, content in (("a.zip", b"PK\x05\x06" + bytes(18)), ("rdf.yaml", b"type: dataset\n")):
        (tmp_path / name).write_bytes(content)
    assert open_model_file(str(tmp_path / "a.zip")) is None
    assert open_model_file(str(tmp_path / "none.pt")) is None
    (tmp_path / "half.zip").write_bytes(script.read_bytes()[:500])
    assert open_model_file(str(tmp_path / "half.zip")) is not None  # the dock says what is wrong


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
    asked: list[tuple[str, object]] = []
    picker.asked.connect(lambda *what: asked.append(what))
    picker.set_value(spec)
    picker.ask_consent(TrustError(spec, code_of(spec)))
    press(qtbot, picker.consent.read)
    assert file.read_text() in picker.source.text.toPlainText()
    assert picker.source.text.isReadOnly()
    assert not marker.exists()
    picker.source.close()
    press(qtbot, picker.consent.yes)
    digests = frozenset(code.digest for code in code_of(spec))
    assert asked == [(spec, False), (spec, Consent(digests, remember=True))]
    assert not marker.exists()  # the picker loads nothing
    text = file.read_text()
    file.write_text(text + "#")
    with pytest.raises(TrustError):  # not what was shown
        load_model(spec, trust=asked[1][1])
    file.write_text(text)
    load_model(spec, trust=asked[1][1])
    load_model(spec)  # remembered
    assert marker.exists()


def test_what_is_unknown_is_red_and_asked_again(qtbot, tmp_path) -> None:
    file = tmp_path / "network.py"
    other = tmp_path / "other.txt"
    lines = [f"exec(pathlib.Path({str(other)!r}).read_text())"] * 8
    file.write_text(
        "import pathlib; from torch import nn\n" + "\n".join(lines) + "\nbuild = nn.Identity\n"
    )
    other.write_text("first = 1")
    spec = f"{file}:build"
    picker = ModelPicker()
    qtbot.addWidget(picker)
    qtbot.addWidget(picker.consent)
    asked: list[tuple[str, object]] = []
    picker.asked.connect(lambda *what: asked.append(what))
    picker.show_value(spec)
    picker.ask_consent(TrustError(spec, code_of(spec)))
    picker.consent.show()
    picker.consent.resize(360, 500)
    qtbot.waitExposed(picker.consent)
    text = picker.consent.text.text()
    assert "network.py, line 2: what exec() runs is not known" in text
    assert "2 more are unknown" in text
    picture = picker.consent.grab().toImage()
    colours = [picture.pixelColor(30, y).name() for y in range(picture.height())]
    assert colours.count("#8f1d2c") > 40  # white text on it has a contrast of 9 to 1
    assert not picker.consent.remember.isEnabled()
    press(qtbot, picker.consent.read)
    assert picker.source.unknown.text().count("is not known") == 6
    picker.source.close()
    press(qtbot, picker.consent.yes)
    load_model(spec, trust=asked[-1][1])
    other.write_text("second = 2")  # which no hash of network.py covers
    with pytest.raises(TrustError):
        load_model(spec)
    harmless = tmp_path / "harmless.py"
    harmless.write_text("from torch import nn\nbuild = nn.Identity\n")
    picker.ask_consent(TrustError("harmless", code_of(f"{harmless}:build")))
    assert picker.consent.remember.isEnabled()
    assert picker.consent.remember.isChecked()
    assert "Unknown" not in picker.consent.text.text()


def test_consent_for_once_is_not_remembered(qtbot, tmp_path) -> None:
    picker = ModelPicker()
    qtbot.addWidget(picker)
    qtbot.addWidget(picker.consent)
    picker.set_value("torch.nn:Identity")
    picker.ask_consent(TrustError("torch.nn:Identity", code_of("torch.nn:Identity")))
    picker.consent.remember.setChecked(False)
    press(qtbot, picker.consent.yes)
    with pytest.raises(TrustError):
        load_model("torch.nn:Identity")


def test_the_dock_tells_where_a_model_card_is_wrong(make_napari_viewer, qtbot) -> None:
    viewer = make_napari_viewer(show=True)
    dock = opened(qtbot, viewer)
    for halo, wrong in ((2, True), (22, False)):  # the network reaches 22
        model = load_model(networks.UNet(2, 2).eval())
        model.declared = Declared("Its card", "yx", halo=(halo, halo))
        dock.set_model(model)
        qtbot.waitUntil(lambda: dock.model is not None and dock.settled, timeout=PATIENCE)
        assert ("Its card" in dock.facts.text()) is wrong


@pytest.fixture
def dock(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    viewer.add_image(np.random.default_rng(0).normal(size=(200, 240)).astype(np.float32))
    return opened(qtbot, viewer)


def load(qtbot, dock, spec):
    dock.model_picker.set_value(str(spec))
    qtbot.waitUntil(lambda: dock.plan is not None and dock.settled, timeout=PATIENCE)


def test_another_output_is_one_choice_away(dock, qtbot, tmp_path) -> None:
    load(qtbot, dock, two_outputs(tmp_path / "package"))
    assert dock.output.isVisible()
    assert [dock.output.itemText(i) for i in range(dock.output.count())] == ["first", "second"]
    assert dock.plan.facts.out_channels == 2
    assert "2 outputs; first is shown" in dock.notes.text()
    dock.output.setCurrentIndex(1)
    qtbot.waitUntil(lambda: dock.plan is not None and dock.settled, timeout=PATIENCE)
    assert dock.model_picker.value().endswith("package#second")
    assert dock.output.currentText() == "second"
    assert dock.plan.facts.out_channels == 1
    assert "is shown" not in dock.notes.text()
    dock.run()
    qtbot.waitUntil(lambda: not dock.busy and dock.results is not None, timeout=PATIENCE)
    image = dock.layer.data
    with torch.inference_mode():
        torch.manual_seed(0)
        expected = Two().eval()(torch.from_numpy(image)[None, None])[1][0, 0].numpy()
    found = next(layer.data for layer in dock.results.layers)
    assert np.abs(np.asarray(found) - expected).max() < 1e-5
    load(qtbot, dock, "demo:batchnorm")
    assert not dock.output.isVisible()


def test_trust_for_once_holds_for_the_other_outputs(dock, qtbot, tmp_path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x, x * 2\n"
    )
    model = load_model(f"{file}:Net#1", trust=True)
    model.outputs = ("0", "1")
    dock.set_model(model, trust=True)
    qtbot.waitUntil(lambda: dock.plan is not None and dock.settled, timeout=PATIENCE)
    assert dock.output.value() == 1
    dock.output.setCurrentIndex(0)
    qtbot.waitUntil(lambda: dock.plan is not None and dock.settled, timeout=PATIENCE)
    assert not dock.model_picker.consent.isVisible()
    assert dock.model.spec == f"{file}:Net#0"


def test_the_cards_halo_and_sizes_are_one_click_away(dock, qtbot, tmp_path) -> None:
    load(qtbot, dock, two_outputs(tmp_path / "package"))
    assert dock.plan.grid.halo == ((1, 1), (1, 1))  # as measured
    assert dock.card_halo.isVisible()
    assert dock.card_halo.text() == "Use the card's margin, 8"
    assert "declares margin (halo) 8" in dock.card_halo.toolTip()
    press(qtbot, dock.card_halo)
    assert dock.plan.grid.halo == ((8, 8), (8, 8))
    assert not dock.card_halo.isVisible()
    dock.halo.auto.setChecked(True)  # and back
    assert dock.plan.grid.halo == ((1, 1), (1, 1))
    assert dock.card_halo.isVisible()

    assert dock.card_sizes.text() == "Only the card's sizes: 32, 48, …"
    press(qtbot, dock.card_sizes)
    assert dock.card_sizes.text() == "All measured sizes again"
    row = dock.tile.rows[0]
    assert (row.number.minimum(), row.number.singleStep()) == (32, 16)
    row.number.setValue(75)
    assert dock.plan.grid.tile_shape == (80, 80)
    press(qtbot, dock.card_sizes)
    assert row.number.singleStep() == 1
    assert dock.tile.value() == "auto"


def test_a_card_that_agrees_offers_nothing(dock, qtbot, tmp_path) -> None:
    load(qtbot, dock, two_outputs(tmp_path / "package", halo=1, step=1))
    assert not dock.card_halo.isVisible()
    assert not dock.card_sizes.isVisible()
    load(qtbot, dock, "demo:batchnorm")
    assert not dock.card_halo.isVisible()
    assert not dock.card_sizes.isVisible()


def test_measuring_a_network_stops_when_it_is_told_to():
    class Stopped(type(QUIET)):
        def stopped(self):
            return True

    network = as_model(torch.nn.Conv2d(1, 1, 3, padding=1))
    with pytest.raises(InterruptedError):
        tasks.load(network, True, work=Stopped())
    assert "reach" not in vars(network)
