"""ONNX: converted with gradients where possible, else forward only and said so."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch

import networks
from extras import extra
from seamscope.errors import ModelError
from seamscope.loaders import format_of, load_model, would_run
from seamscope.loaders import onnx as onnx_format

X = np.random.default_rng(0).normal(size=(3, 1, 96, 80)).astype(np.float32)


def network(**kwargs):
    torch.manual_seed(0)
    return networks.UNet(2, 1, **kwargs).eval()


def written(path, net, dynamic=True, shape=(2, 1, 64, 64)):
    extra("onnxscript")
    auto = torch.export.Dim.DYNAMIC
    axes = {0: auto, 2: auto, 3: auto}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net,
            (torch.randn(shape),),
            dynamo=True,
            dynamic_shapes=(axes,) if dynamic else None,
            verbose=False,
        )
    program.save(path, external_data=False)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One file for each kind of network."""
    folder = tmp_path_factory.mktemp("onnx")
    kinds = {"batch": {}, "instance": {"norm": "instance", "up": "bilinear"}}
    return {
        name: (network(**kwargs), written(folder / f"{name}.onnx", network(**kwargs)))
        for name, kwargs in kinds.items()
    }


def expected(net):
    with torch.inference_mode():
        return net(torch.from_numpy(X)).numpy()


@pytest.mark.parametrize("kind", ["batch", "instance"])
def test_a_converted_graph_is_the_network_it_was_made_of(files, kind) -> None:
    extra("onnx2torch")
    net, path = files[kind]
    assert format_of(path) == "ONNX"
    assert would_run(path) == ()
    own, loaded = load_model(net), load_model(path)
    assert loaded.notes == ()
    assert np.abs(loaded.runner()(X) - expected(net)).max() < 1e-5
    assert loaded.reach == own.reach
    assert loaded.facts.lattice == own.facts.lattice
    assert len(loaded.facts.statistics) == len(own.facts.statistics)
    x = torch.from_numpy(X).requires_grad_()
    loaded.module(x)[..., 48, 40].sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) > 0


def test_without_the_converter_it_runs_forward_and_says_so(files, monkeypatch) -> None:
    extra("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnx2torch", None)  # as if it were not installed
    net, path = files["instance"]
    model = load_model(path)
    (note,) = model.notes
    assert "forward only" in note
    assert 'pip install "seamscope[onnx]"' in note
    assert "6 of its layers are InstanceNormalization" in note
    assert np.abs(model.runner()(X) - expected(net)).max() < 1e-5
    assert model.reach.halo is None
    bounded = load_model(files["batch"][1])
    assert bounded.reach.halo == load_model(files["batch"][0]).reach.halo
    assert bounded.fingerprint == load_model(files["batch"][1]).fingerprint


def test_a_torchvision_of_another_build_is_named(files, monkeypatch) -> None:
    extra("onnxruntime")

    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(onnx_format.importlib, "import_module", broken)
    (note,) = load_model(files["batch"][1]).notes
    assert "torchvision must be of the same build as torch" in note


def test_a_converter_that_is_wrong_is_not_believed(files, monkeypatch) -> None:
    extra("onnx2torch")
    extra("onnxruntime")
    right = onnx_format._converted

    def wrong(data):
        module = right(data)
        with torch.no_grad():
            next(module.parameters()).mul_(1.01)
        return module

    monkeypatch.setattr(onnx_format, "_converted", wrong)
    model = load_model(files["batch"][1])
    assert "other predictions" in model.notes[0]
    assert np.abs(model.runner()(X) - expected(files["batch"][0])).max() < 1e-5


def test_without_any_library_one_sentence_says_what_to_install(files, monkeypatch) -> None:
    find = onnx_format.importlib.util.find_spec
    hidden = ("onnx", "onnx2torch", "onnxruntime")
    for name in hidden:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(
        onnx_format.importlib.util, "find_spec", lambda n: None if n in hidden else find(n)
    )
    with pytest.raises(ModelError, match=r'pip install "seamscope\[onnx\]"') as caught:
        load_model(files["batch"][1])
    assert "\n" not in str(caught.value)


def test_a_fixed_graph_fixes_tile_and_batch(tmp_path) -> None:
    extra("onnxruntime")
    path = written(tmp_path / "fixed.onnx", network(), dynamic=False, shape=(1, 1, 64, 96))
    model = load_model(path)
    assert [axis.fixed for axis in model.facts.lattice] == [64, 96]
    x = X[:, :, :64]
    x = np.concatenate([x, x], 3)[..., :96]
    with torch.inference_mode():
        right = network()(torch.from_numpy(x)).numpy()
    assert np.abs(model.runner()(x) - right).max() < 1e-5


@pytest.mark.parametrize("part", [0.5, 0.95])
def test_a_truncated_graph_is_one_sentence(files, tmp_path, part) -> None:
    extra("onnx")
    extra("onnxruntime")
    data = files["batch"][1].read_bytes()
    (tmp_path / "half.onnx").write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ModelError, match="damaged") as caught:
        load_model(tmp_path / "half.onnx")
    assert "\n" not in str(caught.value)
