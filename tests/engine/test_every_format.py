"""The shared networks, written to every format and loaded back: nothing that is measured changes.

Predictions, audit, reach and gradient maps; and what a format does not allow is said in a sentence.
Everything is measured once for each network and format.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import networks
import real_networks
from extras import extra
from seamscope.errors import ModelError, SettingsError
from seamscope.explain.causes import diagnose
from seamscope.explain.train_eval import advice, measure_disparity
from seamscope.fixed_statistics.freezing import freeze_statistics
from seamscope.images.image import open_image
from seamscope.models.formats import load_model, would_run
from seamscope.models.formats import onnx as onnx_format
from seamscope.models.formats.export import export
from seamscope.models.formats.rounding import agree
from seamscope.receptive_field.gradient_probe import GradientProbe
from seamscope.settings import Settings

NAMES = {
    "unet2d_nuclei_broad": real_networks.nuclei_broad,
    "unet2d_covid_if_instancenorm": real_networks.covid_instancenorm,
    "unet2d_nuclei_batchnorm": real_networks.nuclei_batchnorm,
}
FORMATS = (".pt2", ".torchscript", ".onnx", ".zip", "forward-only .onnx")
FORWARD_ONLY = FORMATS[-1]
IMAGE = open_image(
    np.random.default_rng(2).gamma(2.0, 0.2, (128, 160)).astype(np.float32), axes="yx"
)


@pytest.fixture(scope="module")
def real(real_models):
    """The networks as they are, measured when first asked for."""

    def load(name):
        net = NAMES[name]().eval()
        net.load_state_dict(load_file(real_models / name / "state_dict.safetensors"))
        return load_model(net)

    return {name: load(name) for name in NAMES}


@pytest.fixture(scope="module")
def files(real, tmp_path_factory):
    """Where a network is, in a format; written once."""
    folder, written = tmp_path_factory.mktemp("formats"), {}

    def file(name, suffix):
        path = folder / f"{name}{suffix}"
        if path not in written:
            export(real[name], path)
            written[path] = would_run(path)
        assert written[path] == ()
        return path

    return file


@pytest.fixture(scope="module", params=[(n, f) for n in NAMES for f in FORMATS], ids="-".join)
def pair(request, real, files):
    """A network as it is, in another format, and that format."""
    name, kind = request.param
    if "onnx" in kind:
        for library in ("onnx", "onnxscript", "onnxruntime"):
            extra(library)
    if kind == ".onnx":
        extra("onnx2torch")
    path = files(name, ".onnx" if kind == FORWARD_ONLY else kind)
    with pytest.MonkeyPatch.context() as patch:
        if kind == FORWARD_ONLY:
            patch.setattr(onnx_format, "_converted", absent)
        return real[name], load_model(path), kind


def absent(data):
    raise ModuleNotFoundError("No module named 'onnx2torch'", name="onnx2torch")


def test_predictions_are_the_same(pair) -> None:
    own, loaded, kind = pair
    x = torch.rand((2, 1, 128, 160), generator=torch.Generator().manual_seed(1)).numpy()
    a, b = own.runner()(x), loaded.runner()(x)
    if kind == FORWARD_ONLY:  # another program, which rounds in other ways
        assert agree(own.module, torch.from_numpy(x), torch.from_numpy(b))
        return
    with torch.inference_mode():  # as near to the exact prediction as the network's own
        exact = copy.deepcopy(own.module).double()(torch.from_numpy(x).double()).numpy()
    noise = np.abs(a - exact).max()
    assert np.abs(b - exact).max() < 4 * noise + 1e-6 * a.std()


def rows(audit):
    return [
        (layer.kind, layer.channels, layer.statistics, layer.groups, layer.affine)
        for layer in audit.layers
    ]


def test_the_audit_is_the_same(pair, request) -> None:
    own, loaded, kind = pair
    # the converter writes layers without scale and shift as layers with ones and zeros
    keys = slice(None, -1) if kind == ".onnx" else slice(None)
    told = [[row[keys] for row in rows(each.audit)] for each in (loaded, own)]
    assert told[0] == told[1]
    assert loaded.audit.global_operations == own.audit.global_operations == ()
    assert loaded.audit.watched is (kind != FORWARD_ONLY)
    counts = {"broad": (0, 0), "instancenorm": (14, 14), "batchnorm": (16, 0)}
    (expected,) = (n for word, n in counts.items() if word in request.node.callspec.id)
    assert (len(loaded.audit.layers), len(loaded.audit.tile_layers)) == expected
    if kind != ".onnx":  # the converter gives names of its own
        names = [layer.name for layer in own.audit.layers]
        assert [layer.name for layer in loaded.audit.layers] == names
    if kind != FORWARD_ONLY:
        assert loaded.audit.calls == own.audit.calls


def test_the_reach_is_the_same(pair) -> None:
    own, loaded, kind = pair
    assert networks.grids(loaded) == networks.grids(own)
    assert loaded.facts.statistics == own.facts.statistics
    assert loaded.reach.halo == own.reach.halo
    if kind == FORWARD_ONLY and own.reach.halo is None:
        assert loaded.reach.convolutional is None
        assert loaded.describe() == (
            "Overlap cannot remove the seams: 14 normalization layers use per-tile statistics. How "
            "far the convolutions alone reach cannot be measured of a network that runs forward "
            "only."
        )
        return
    assert loaded.reach == own.reach
    assert loaded.describe() == own.describe()


def test_gradient_maps_are_the_same(pair) -> None:
    own, loaded, kind = pair
    settings = Settings(tile=64)
    if kind == FORWARD_ONLY:
        with pytest.raises(ModelError, match="outside of PyTorch's autograd"):
            GradientProbe(IMAGE, loaded, settings).at((60, 80))
        return
    a, b = (GradientProbe(IMAGE, model, settings).at((60, 80)) for model in (own, loaded))
    assert (a.origin, a.covered, a.phase) == (b.origin, b.covered, b.phase)
    assert np.abs(a.values - b.values).max() < 1e-4 * a.values.max()
    assert a.mass > 0


def test_what_forward_only_does_not_allow_is_said(pair) -> None:
    own, loaded, kind = pair
    if kind != FORWARD_ONLY:
        assert not loaded.facts.forward_only
        assert loaded.notes == ()
        return
    (note,) = loaded.notes
    assert "forward only" in note
    assert 'pip install "seamscope[onnx]"' in note
    with pytest.raises(SettingsError, match="cannot be fixed, because another program runs it"):
        freeze_statistics(IMAGE, loaded)
    if own.audit.tile_layers:
        told = str(diagnose(IMAGE, loaded, tile=64, halo=8))
        assert "ormalization by per-tile statistics in 14 layers" in told
        assert "besides normalization" not in told
    assert measure_disparity(IMAGE, loaded, tile=64) is None  # and not 0, which would be wrong
    if own.audit.layers:
        assert any("not available" in sentence for sentence in advice(loaded.audit))
    if own.audit.tile_layers:
        assert "no halo makes tiles agree" in advice(loaded.audit)[0]
        assert "seamscope freeze" not in advice(loaded.audit)[0]
