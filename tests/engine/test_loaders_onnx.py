"""ONNX: converted with gradients where possible, else forward only and said so."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import networks
from extras import extra
from families import Moving, Picking
from seamscope.errors import ModelError
from seamscope.models.formats import format_of, load_model, onnx_nan, would_run
from seamscope.models.formats import onnx as onnx_format
from seamscope.models.formats.onnx_audit import memory_of, read_audit
from seamscope.models.formats.onnx_nan import with_spreading_nan
from seamscope.normalization.audit import Audit, audit

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


@pytest.mark.parametrize("kind", [Moving, Picking])
def test_computed_places_are_read_as_in_the_network(tmp_path, kind, monkeypatch) -> None:
    extra("onnx2torch")
    torch.manual_seed(0)
    net = kind().eval()
    path = written(tmp_path / "net.onnx", net)
    own, loaded = load_model(net), load_model(path)
    assert loaded.notes == ()
    assert np.abs(loaded.runner()(X) - expected(net)).max() < 1e-5
    assert loaded.facts.lattice == own.facts.lattice
    assert loaded.reach.halo == own.reach.halo
    monkeypatch.setitem(sys.modules, "onnx2torch", None)  # as if it were not installed
    assert "rounds these to float32" in load_model(path).notes[1]


def test_without_the_converter_it_runs_forward_and_says_so(files, monkeypatch) -> None:
    extra("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnx2torch", None)  # as if it were not installed
    net, path = files["instance"]
    model = load_model(path)
    (note,) = model.notes
    assert "forward only" in note
    assert 'pip install "seamscope[onnx]"' in note
    assert model.describe().startswith(
        "Overlap cannot remove the seams: 6 normalization layers use per-tile statistics. How far"
    )
    assert np.abs(model.runner()(X) - expected(net)).max() < 1e-5
    assert model.reach.halo is None
    bounded = load_model(files["batch"][1])
    assert bounded.reach.halo == load_model(files["batch"][0]).reach.halo
    assert bounded.fingerprint == load_model(files["batch"][1]).fingerprint


def test_a_graph_of_half_precision_takes_images_as_they_are(tmp_path) -> None:
    onnx, helper = extra("onnx"), extra("onnx").helper
    extra("onnxruntime")
    half = onnx.TensorProto.FLOAT16
    kernel = onnx.numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float16), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    sides = [helper.make_tensor_value_info(n, half, [None, 1, None, None]) for n in "xy"]
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], [kernel])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "half.onnx")
    model = load_model(tmp_path / "half.onnx")
    assert model.reach.halo == ((1, 1), (1, 1))
    x = torch.ones(1, 1, 20, 20)
    assert model.forward(x).dtype == torch.float32
    assert float(model.forward(x)[0, 0, 5, 5]) == 9


def test_tokens_are_normalized_whatever_their_number(tmp_path) -> None:
    """The graph leaves their sizes open, as those of transformers do."""
    onnx, helper = extra("onnx"), extra("onnx").helper
    extra("onnx2torch")
    numbers = {
        "w": np.ones((4, 1, 3, 3), np.float32) / 9, "a": np.arange(4, dtype=np.float32),
        "b": np.ones(4, np.float32), "first": np.array([0], np.int64),
        "two": np.array([2], np.int64), "rest": np.array([-1], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Shape", ["y"], ["shape"]),
        helper.make_node("Slice", ["shape", "first", "two"], ["some"]),
        helper.make_node("Concat", ["some", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["y", "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("LayerNormalization", ["tokens", "a", "b"], ["even"], axis=-1),
        helper.make_node("Transpose", ["even"], ["columns"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["columns", "shape"], ["z"]),
    ]
    kind, channels = onnx.TensorProto.FLOAT, (("x", 1), ("z", 4))
    sides = [helper.make_tensor_value_info(n, kind, ["n", c, "h", "w"]) for n, c in channels]
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in numbers.items()]
    graph = helper.make_graph(nodes, "g", sides[:1], sides[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "tokens.onnx")
    model = load_model(tmp_path / "tokens.onnx")
    assert model.notes == ()
    assert model.facts.period_found
    assert model.reach.halo == ((1, 1), (1, 1))


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


def test_a_converter_whose_graph_does_not_run_is_said_to(files, monkeypatch) -> None:
    extra("onnx2torch")
    extra("onnxruntime")
    monkeypatch.setattr(onnx_format, "_converted", lambda data: nn.Conv2d(5, 1, 3))
    model = load_model(files["batch"][1])
    assert "does not run" in model.notes[0]
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


# -- what is read of a graph that is only run


class ByHand(nn.Module):
    def forward(self, x):
        mean = x.mean((2, 3), keepdim=True)
        return (x - mean) / torch.sqrt(x.var((2, 3), keepdim=True, unbiased=False) + 1e-5)


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x):
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.up(torch.relu(self.down(pooled))))


class Attention(nn.Module):
    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        weights = torch.softmax(tokens @ tokens.transpose(1, 2) / 2, -1)
        return (weights @ tokens).transpose(1, 2).reshape(x.shape)


class Classes(nn.Module):
    """A softmax over channels, which couples no pixels."""

    def forward(self, x):
        return torch.softmax(x, 1)


class Largest(nn.Module):
    def forward(self, x):
        return x / (x.amax((2, 3), keepdim=True) + 1)


def seen(*layers):
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), *layers)


READ = {
    "layers": lambda: seen(
        nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.GroupNorm(4, 4), nn.BatchNorm2d(4),
        nn.GroupNorm(1, 4, affine=False), nn.BatchNorm2d(4, track_running_stats=False),
        nn.InstanceNorm2d(4, affine=True),
    ),
    "by hand": lambda: seen(ByHand(), nn.Conv2d(4, 4, 3, padding=1), ByHand(), Gate()),
    "couplings": lambda: seen(Attention(), Classes(), Largest()),
}  # fmt: skip


def rows(audit):
    layers = [
        (one.kind, one.channels, one.statistics, one.groups, one.affine) for one in audit.layers
    ]
    return layers, [(one.kind, one.count) for one in audit.global_operations]


@pytest.mark.parametrize("kind", READ)
def test_layers_read_from_a_graph_are_those_seen_in_a_forward_pass(tmp_path, kind) -> None:
    torch.manual_seed(0)
    net = READ[kind]().eval()
    with torch.no_grad():  # as training leaves it: ones and zeros stand for no scale and shift
        for weight in net.parameters():
            weight.add_(0.1 * torch.rand_like(weight))
    path = written(tmp_path / "net.onnx", net)
    read, own = read_audit(path.read_bytes()), audit(net, torch.rand(1, 1, 32, 32))
    assert rows(read) == rows(own)
    assert not read.watched
    assert not read.repairable
    names = [layer.name for layer in own.layers if layer.kind != "hand-written"]
    assert [layer.name for layer in read.layers if layer.kind != "hand-written"] == names


def test_operations_that_our_exporter_does_not_write_are_known_too() -> None:
    helper = extra("onnx").helper
    image = helper.make_tensor_value_info("x", 1, [1, 4, "h", "w"])

    def graph(*nodes, weights=4):
        held = [helper.make_tensor(name, 1, [weights], [2.0] * weights) for name in "ab"]
        held.append(helper.make_tensor("axes", 7, [2], [2, 3]))
        out = helper.make_tensor_value_info("y", 1, None)
        made = helper.make_graph(list(nodes), "net", [image], [out], held)
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)])
        return read_audit(model.SerializeToString())

    node = helper.make_node
    (layer,) = graph(node("GroupNormalization", ["x", "a", "b"], ["y"], num_groups=2)).layers
    assert (layer.kind, layer.channels, layer.groups, layer.affine) == ("GroupNorm", 4, 2, True)
    (layer,) = graph(node("BatchNormalization", ["x", "a", "b", "a", "b"], ["y", "m", "v"],
                          training_mode=1)).layers  # fmt: skip
    assert (layer.kind, layer.statistics) == ("BatchNorm", "batch")
    (layer,) = graph(node("MeanVarianceNormalization", ["x"], ["y"], axes=[2, 3])).layers
    assert (layer.kind, layer.groups, layer.statistics) == ("InstanceNorm", 4, "tile")
    (layer,) = graph(node("MeanVarianceNormalization", ["x"], ["y"])).layers
    assert layer.statistics == "batch"
    (operation,) = graph(node("ReduceProd", ["x", "axes"], ["y"])).global_operations
    assert operation.kind == "product over space"
    whole = node("LayerNormalization", ["x", "a", "b"], ["y"], axis=1)
    assert [each.kind for each in graph(whole).global_operations] == [
        "normalization with a weight for each pixel"
    ]
    each_pixel = [node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
                  node("LayerNormalization", ["t", "a", "b"], ["y"], axis=-1)]  # fmt: skip
    assert graph(*each_pixel) == Audit((), (), watched=False)
    part = node("ReduceMean", ["x", "one"], ["y"])
    one = node("Constant", [], ["one"], value=helper.make_tensor("v", 7, [1], [-1]))
    assert [e.kind for e in graph(one, part).global_operations] == ["mean over part of space"]
    pooled = [node("GlobalAveragePool", ["x"], ["p"]), node("Flatten", ["p"], ["f"]),
              node("MatMul", ["f", "m"], ["y"]),
              node("GlobalMaxPool", ["x"], ["z"])]  # fmt: skip
    assert sorted(e.kind for e in graph(*pooled).global_operations) == [
        "global pooling", "maximum over space",
    ]  # fmt: skip


class Swallows(nn.Module):
    """Every operation in which onnxruntime would lose NaN."""

    def __init__(self):
        super().__init__()
        self.near, self.far = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 5, padding=2)

    def forward(self, x):
        y = torch.relu(self.near(x))
        y = nn.functional.max_pool2d(nn.functional.leaky_relu(y), 3, 2, 1)
        y = nn.functional.elu(nn.functional.relu6(torch.sigmoid(y)))
        y = nn.functional.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.tanh(self.far(y))


class Skipping(nn.Module):
    """Its first features (4 channels) wait beside the second (4) for the sum, until (2)."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.middle = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        y = self.first(x)
        return self.last(y + self.middle(y))


def test_memory_is_told_although_torch_does_not_see_it(tmp_path, monkeypatch) -> None:
    extra("onnxruntime")
    path = written(tmp_path / "net.onnx", Skipping().eval())
    pixels = 48 * 64
    # at the sum: both that are added and the sum, 12 numbers of 4 bytes; as much again for work
    assert memory_of(path.read_bytes(), (1, 1, 48, 64)) == 2 * 12 * 4 * pixels
    net = networks.UNet(2, 2, norm="instance").eval()
    own = load_model(net).facts.bytes_per_pixel
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    loaded = load_model(written(tmp_path / "unet.onnx", net))
    assert own / 2 < loaded.facts.bytes_per_pixel < 2 * own


def test_reach_is_found_although_onnxruntime_loses_nan(tmp_path, monkeypatch) -> None:
    extra("onnxruntime")
    torch.manual_seed(0)
    net = Swallows().eval()
    path = written(tmp_path / "net.onnx", net)
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    loaded, own = load_model(path), load_model(net)
    assert loaded.reach == own.reach
    assert not loaded.reach.swallows_nan
    assert loaded.fields == own.fields
    session = onnx_format.OnnxSession(path.read_bytes())
    x = torch.from_numpy(X)
    plain = session(x)
    again = onnx_format._session(with_spreading_nan(path.read_bytes()))
    (found,) = again.run(None, {again.get_inputs()[0].name: X})
    assert np.abs(found - plain.numpy()).max() < 1e-6
    x[0, 0, 40, 40] = torch.nan
    assert torch.isnan(session(x)[0, :, 36:44, 36:44]).all()
    assert torch.equal(session(x)[1:], session(x.nan_to_num())[1:])


@pytest.mark.parametrize("op", sorted(onnx_nan._EACH))
def test_each_operation_keeps_nan_and_changes_nothing_else(op) -> None:
    helper = extra("onnx").helper
    extra("onnxruntime")
    info = [helper.make_tensor_value_info(name, 1, [64]) for name in "xy"]
    more = {"PRelu": ["slope"], "Clip": ["low", "high"]}.get(op, [])
    held = [helper.make_tensor(n, 1, [], [v]) for n, v in zip(more, (-0.5, 0.5), strict=False)]
    node = helper.make_node(op, ["x", *more], ["y"])
    made = helper.make_graph([node], "g", info[:1], info[1:], held)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    data = model.SerializeToString()
    x = np.linspace(-4, 4, 64, dtype=np.float32)
    plain = onnx_format._session(data).run(None, {"x": x})[0]
    spreading = onnx_format._session(with_spreading_nan(data))
    assert np.array_equal(spreading.run(None, {"x": x})[0], plain)
    x[::3] = np.nan
    found = spreading.run(None, {"x": x})[0]
    assert np.array_equal(np.isnan(found), np.isnan(x))
    assert np.array_equal(found[1::3], plain[1::3])
