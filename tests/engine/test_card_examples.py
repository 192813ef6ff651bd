"""The specification's own examples, rebuilt: each loads, and is read as bioimageio.spec reads it.

Their structure is that of ``example_descriptions/models`` of bioimage-io/spec-bioimage-io: what
they say and what they leave out. Sizes, weights and tensors are ours.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import yaml

from extras import extra
from packages import npy, sha
from seamscope.errors import ModelError
from seamscope.models.formats import load_model, verify
from seamscope.models.formats.model_card import read_card

COMMON = {
    "type": "model", "name": "Example", "description": "An example", "license": "MIT",
    "authors": [{"name": "A. Person"}], "timestamp": "2019-12-11T12:22:32Z",
    "cite": [{"text": "none", "url": "https://example.com"}], "tags": ["test"],
}  # fmt: skip
OLD = {**COMMON, "documentation": "README.md", "covers": []}
NEW = {**COMMON, "documentation": {"source": "README.md"}, "covers": []}


def scripted(net, *examples):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net.eval(), examples), buffer)
    return buffer.getvalue()


class Net(torch.nn.Module):
    def __init__(self, out=1):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(1, out, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


class Expanded(Net):
    def forward(self, x):
        return self.conv(x)[:, :, None]


class Half(Net):
    def forward(self, x):
        return torch.nn.functional.avg_pool2d(self.conv(x), 2)


class Four(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.interpolate(x, scale_factor=4.0, mode="nearest")


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = Net(), Net()

    def forward(self, a, b):
        return self.one(a), self.two(b) + a


X = np.random.default_rng(0).gamma(2.0, 30.0, (1, 1, 64, 64)).astype(np.float32)


def standardized(x):
    return (x - x.mean()) / (x.std() + 1e-6)


def run(net, *xs):
    with torch.inference_mode():
        return net.eval()(*(torch.from_numpy(x) for x in xs))


def script(net, *examples):
    return {"torchscript": {"source": "weights.pt", "pytorch_version": "2.5.1"}}, {
        "weights.pt": scripted(net, *(torch.from_numpy(x) for x in examples))
    }


ZMUV = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["x", "y"]}}
CAST = {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}


def nuclei_05():
    weights, files = script(Net(), X)
    files |= {"x.npy": npy(X), "y.npy": npy(run(Net(), standardized(X)).sigmoid().numpy())}
    card = NEW | {
        "format_version": "0.5.11", "weights": weights,
        "inputs": [{
            "id": "raw",
            "axes": [{"type": "batch", "size": 1},
                     {"type": "channel", "channel_names": ["raw_intensity"]},
                     {"type": "space", "id": "y", "size": 64}, {"type": "space", "size": 64}],
            "preprocessing": [CAST, ZMUV, CAST],
            "test_tensor": {"source": "x.npy", "sha256": sha(files["x.npy"])},
        }],
        "outputs": [{
            "id": "probability", "data": {"range": [0.0, 1.0]},
            "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["probability"]},
                     {"type": "space", "id": "y", "halo": 8,
                      "size": {"tensor_id": "raw", "axis_id": "y"}},
                     {"type": "space", "halo": 8, "size": {"tensor_id": "raw", "axis_id": "x"}}],
            "postprocessing": [{"id": "sigmoid"}, CAST],
            "test_tensor": {"source": "y.npy", "sha256": sha(files["y.npy"])},
        }],
    }  # fmt: skip
    return card, files


def expanded_05():
    card, files = nuclei_05()
    weights, script_files = script(Expanded(), X)
    y = run(Expanded(), standardized(X)).sigmoid().numpy()
    files |= script_files | {"y.npy": npy(y)}
    axes = card["outputs"][0]["axes"]
    axes.insert(2, {"type": "space", "id": "z", "scale": 1.0, "size": 1})
    card["outputs"][0]["test_tensor"]["sha256"] = sha(files["y.npy"])
    return card | {"weights": weights}, files


def without_names_05():
    """No tensor and no last axis has a name; the output is half as large."""
    weights, files = script(Half(), X)
    files |= {"x.npy": npy(X), "y.npy": npy(run(Half(), standardized(X)).numpy())}
    card = NEW | {
        "format_version": "0.5.4", "weights": weights,
        "inputs": [{
            "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["channel0"]},
                     {"type": "space", "id": "y", "size": {"min": 32, "step": 16}},
                     {"type": "space", "size": {"min": 32, "step": 16}}],
            "preprocessing": [{"id": "zero_mean_unit_variance"}],
            "test_tensor": {"source": "x.npy"},
        }],
        "outputs": [{
            "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["channel0"]},
                     {"type": "space", "id": "y", "scale": 2.0,
                      "size": {"axis_id": "y", "tensor_id": "input"}},
                     {"type": "space", "scale": 2.0,
                      "size": {"axis_id": "x", "tensor_id": "input"}}],
            "test_tensor": {"source": "y.npy"},
        }],
    }  # fmt: skip
    return card, files


def two_tensors_05():
    a, b = X, X[:, :, ::-1].copy()
    weights, files = script(Two(), a, b)
    y = run(Two(), standardized(a), standardized(b))
    files |= {"a.npy": npy(a), "b.npy": npy(b), "y0.npy": npy(y[0].numpy()),
              "y1.npy": npy(y[1].numpy())}  # fmt: skip

    def axes(size):
        return [{"type": "batch"}, {"type": "channel", "channel_names": ["channel0"]},
                {"type": "space", "id": "y", "size": size("y")},
                {"type": "space", "size": size("x")}]  # fmt: skip

    card = NEW | {
        "format_version": "0.5.11", "weights": weights,
        "inputs": [
            {"id": f"input{i}", "axes": axes(lambda _: {"min": 32, "step": 16}),
             "preprocessing": [CAST, {"id": "zero_mean_unit_variance",
                                      "kwargs": {"axes": ["channel", "y", "x"]}}],
             "test_tensor": {"source": f"{'ab'[i]}.npy"}}
            for i in range(2)
        ],
        "outputs": [
            {"id": f"output{i}",
             "axes": axes(lambda axis, i=i: {"axis_id": axis, "tensor_id": f"input{i}"}),
             "test_tensor": {"source": f"y{i}.npy"}}
            for i in range(2)
        ],
    }  # fmt: skip
    return card, files


def old(net, expected, shape, out_shape, axes="bcyx", **more):
    weights, files = script(net, X)
    files |= {"x.npy": npy(X), "y.npy": npy(expected)}
    card = OLD | {
        "format_version": "0.4.10", "weights": weights,
        "test_inputs": ["x.npy"], "test_outputs": ["y.npy"],
        "inputs": [{"name": "raw", "axes": "bcyx", "data_type": "float32",
                    "data_range": [float("-inf"), float("inf")], "shape": shape,
                    "preprocessing": [{"name": "zero_mean_unit_variance",
                                       "kwargs": {"mode": "per_sample", "axes": "yx"}}]}],
        "outputs": [{"name": "probability", "axes": axes, "data_type": "float32",
                     "shape": out_shape, **more}],
    }  # fmt: skip
    return card, files


FREE = {"min": [1, 1, 32, 32], "step": [0, 0, 16, 16]}


def nuclei_04():
    return old(
        Net(), run(Net(), standardized(X)).sigmoid().numpy(), [1, 1, 64, 64],
        {"reference_tensor": "raw", "scale": [1.0, 0.0, 1.0, 1.0], "offset": [0.0, 0.5, 0.0, 0.0]},
        halo=[0, 0, 8, 8], postprocessing=[{"name": "sigmoid"}],
    )  # fmt: skip


def expanded_04():
    return old(
        Expanded(), run(Expanded(), standardized(X)).sigmoid().numpy(), [1, 1, 64, 64],
        {"reference_tensor": "raw", "scale": [1.0, 0.0, None, 1.0, 1.0],
         "offset": [0.0, 0.5, 0.5, 0.0, 0.0]},
        axes="bczyx", halo=[0, 0, 0, 8, 8], postprocessing=[{"name": "sigmoid"}],
    )  # fmt: skip


def half_04():
    return old(
        Half(), run(Half(), standardized(X)).numpy(), FREE,
        {"reference_tensor": "raw", "scale": [1, 1, 0.5, 0.5], "offset": [0, 0, 0, 0]},
    )  # fmt: skip


def fixed_04():
    shape = [1, 1, 64, 64]  # yaml.safe_dump writes an alias where it stands twice
    return old(Net(), run(Net(), standardized(X)).numpy(), shape, shape, halo=[0, 0, 8, 8])


def four_04():
    card, files = old(
        Four(), run(Four(), X).numpy(), {"min": [1, 1, 5, 5], "step": [0, 0, 5, 5]},
        {"reference_tensor": "raw", "scale": [1.0, 0.0, 4.0, 4.0], "offset": [0.0, 0.5, 0.0, 0.0]},
        halo=[0, 0, 0, 0],
    )  # fmt: skip
    del card["inputs"][0]["preprocessing"]
    x = X[:, :, :60, :60]
    files |= {"x.npy": npy(x), "y.npy": npy(run(Four(), x).numpy())}
    return card, files


def two_tensors_04():
    _, files = two_tensors_05()
    card = OLD | {
        "format_version": "0.4.0",
        "weights": {"torchscript": {"source": "weights.pt"}},
        "test_inputs": ["a.npy", "b.npy"], "test_outputs": ["y0.npy", "y1.npy"],
        "inputs": [{"name": f"input{i}", "axes": "bcyx", "data_type": "float32", "shape": FREE,
                    "preprocessing": [{"name": "zero_mean_unit_variance",
                                       "kwargs": {"axes": "cyx", "mode": "per_sample"}}]}
                   for i in range(2)],
        "outputs": [{"name": f"output{i}", "axes": "bcyx", "data_type": "float32",
                     "shape": {"reference_tensor": f"input{i}", "scale": [1, 1, 1, 1],
                               "offset": [0, 0, 0, 0]}}
                    for i in range(2)],
    }  # fmt: skip
    return card, files


EXAMPLES = {
    make.__name__: make
    for make in (nuclei_05, expanded_05, without_names_05, two_tensors_05, nuclei_04, expanded_04,
                 half_04, fixed_04, four_04, two_tensors_04)
}  # fmt: skip


def written(folder, card, files):
    folder.mkdir(exist_ok=True)
    (folder / "rdf.yaml").write_text("%YAML 1.2\n---\n" + yaml.safe_dump(card))
    for name, data in {"README.md": b"# Validation\n", **files}.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_loads_and_meets_its_test_vectors(tmp_path, name) -> None:
    path = written(tmp_path / "package", *EXAMPLES[name]())
    outputs = ("", "#1") if name.startswith("two") else ("",)
    for output in outputs:
        model = load_model(f"{path}{output}")
        assert verify(model).passed, verify(model)
        assert model.facts.spatial_axes == 2


def test_what_is_measured_is_what_the_cards_say(tmp_path) -> None:
    model = load_model(written(tmp_path / "half", *without_names_05()))
    assert [float(scale) for scale in model.facts.scale] == [0.5, 0.5]
    assert model.declared.step == (16, 16)
    model = load_model(written(tmp_path / "expanded", *expanded_05()))
    assert model.declared.halo == (8, 8)
    model = load_model(written(tmp_path / "four", *four_04()))
    assert [float(scale) for scale in model.facts.scale] == [4.0, 4.0]


_PROGRAM = """
import json, logging, sys, warnings
logging.disable(logging.CRITICAL); warnings.simplefilter("ignore")
from bioimageio.spec import ValidationContext
from bioimageio.spec.model import v0_4, v0_5
def size(axis):
    size = getattr(axis, "size", None)
    return size if size is None or isinstance(size, int) else size.model_dump(mode="json")
found = []
with ValidationContext(perform_io_checks=False):
    for card in json.load(sys.stdin):
        new = card["format_version"].startswith("0.5")
        card["format_version"] = "0.4.10" if not new else card["format_version"]
        told = (v0_5 if new else v0_4).ModelDescr.model_validate(card)
        tensors = []
        for tensor in [*told.inputs, *told.outputs]:
            steps = getattr(tensor, "preprocessing", None) or getattr(tensor, "postprocessing", [])
            tensors.append({
                "name": str(tensor.id if new else tensor.name),
                "ids": [str(axis.id) for axis in tensor.axes] if new else [],
                "kinds": [axis.type for axis in tensor.axes] if new else list(str(tensor.axes)),
                "sizes": [size(axis) for axis in tensor.axes] if new else [],
                "halo": ([getattr(axis, "halo", 0) for axis in tensor.axes] if new
                         else list(getattr(tensor, "halo", None) or [])),
                "scale": [axis.scale for axis in tensor.axes] if new else [],
                "steps": [[getattr(s, "id", None) or s.name, dict(s.kwargs)] for s in steps],
            })
        found.append(tensors)
print(json.dumps(found, default=list))
"""


def read_by_spec(cards):
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], input=json.dumps(cards, default=str),
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def defaults_05():
    """Everything is left out that may be, operations with all their defaults included."""
    size = {"min": 16, "step": 8}
    given = {
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["a", "b"]},
                 {"type": "space", "id": "z", "size": size},
                 {"type": "space", "id": "y", "size": {"tensor_id": "input", "axis_id": "z"}},
                 {"type": "space", "size": {"tensor_id": "input", "axis_id": "z", "offset": 4}}],
        "preprocessing": [
            {"id": "scale_range"},
            {"id": "clip", "kwargs": {"min": 0.0}},
            {"id": "scale_linear", "kwargs": {"axis": "channel", "gain": [1.0, 2.0]}},
            {"id": "fixed_zero_mean_unit_variance",
             "kwargs": {"axis": "channel", "mean": [1.0, 2.0], "std": [3.0, 4.0]}},
        ],
    }  # fmt: skip
    result = {
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["a", "b"]},
                 *({"type": "space", "id": i, "size": {"tensor_id": "input", "axis_id": "z"}}
                   for i in "zyx")],
        "postprocessing": [{"id": "softmax"},
                           {"id": "scale_mean_variance", "kwargs": {"reference_tensor": "input"}}],
    }  # fmt: skip
    weights = {"torchscript": {"source": "weights.pt", "pytorch_version": "2.5.1"}}
    return NEW | {"format_version": "0.5.4", "inputs": [given], "outputs": [result],
                  "weights": weights}  # fmt: skip


def fixed_mode_04():
    card, _ = nuclei_04()
    kwargs = {"axes": "yx", "mean": [100.0], "std": [30.0]}  # mode: fixed is the default
    card["inputs"][0]["preprocessing"] = [{"name": "zero_mean_unit_variance", "kwargs": kwargs}]
    return card


def test_cards_are_read_as_the_specification_reads_them() -> None:
    extra("bioimageio.core")
    cards = [make()[0] for make in EXAMPLES.values()] + [defaults_05(), fixed_mode_04()]
    for card, expected in zip(cards, read_by_spec(cards), strict=True):
        own = read_card(card, "card")
        for tensor, theirs in zip((*own.inputs, *own.outputs), expected, strict=True):
            assert tensor.name == theirs["name"]
            assert list(tensor.ids) == theirs["ids"]
            kinds = {"batch": "b", "channel": "c"}
            letters = [kinds.get(k, k) for k in theirs["kinds"]]
            spaces = [i for i in theirs["ids"] if i in "zyx"]
            letters = [spaces.pop(0) if letter == "space" else letter for letter in letters]
            assert tensor.axes == "".join(letters)
            assert not theirs["halo"] or list(tensor.halo) == theirs["halo"]
            assert not theirs["scale"] or [g[0] for g in tensor.grid] == theirs["scale"]
            for place, size in enumerate(theirs["sizes"]):
                if isinstance(size, int) and tensor.axes[place] != "b":
                    assert (tensor.smallest[place], tensor.step[place]) == (size, 0)
                elif isinstance(size, dict) and "step" in size:
                    assert (tensor.smallest[place], tensor.step[place]) == (
                        size["min"], size["step"])  # fmt: skip
                elif isinstance(size, dict):
                    assert tensor.grid[place][1] == size["offset"]
            # bioimageio.spec adds casts before and after; networks run in float32 here
            own_steps = [each for each in tensor.processing if each.name != "ensure_dtype"]
            their_steps = [step for step in theirs["steps"] if step[0] != "ensure_dtype"]
            assert [each.name for each in own_steps] == [name for name, _ in their_steps]
            for each, (_, kwargs) in zip(own_steps, their_steps, strict=True):
                for key, value in each.kwargs.items():
                    assert kwargs[key] == value or list(kwargs[key]) == list(value)
    # an axis that refers to another of its own tensor has that one's sizes
    given = read_card(defaults_05(), "card").inputs[0]
    assert given.smallest[2:] == (16, 16, 20)
    assert given.step[2:] == (8, 8, 8)
    fixed = read_card(fixed_mode_04(), "card").inputs[0].processing[0]
    assert fixed.kwargs["mode"] == "fixed"


def test_statistics_of_the_card_are_used_where_the_mode_is_left_out(tmp_path) -> None:
    card = fixed_mode_04()
    _, files = nuclei_04()
    expected = run(Net(), (X - 100) / (30 + 1e-6)).sigmoid().numpy()
    path = written(tmp_path / "package", card, files | {"y.npy": npy(expected)})
    assert verify(load_model(path)).passed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": {"tensorflow_saved_model_bundle": {"source": "TF.zip"}}}, "only: get a"),
        ({"outputs": [{"name": "classes", "axes": "bc", "data_type": "float32",
                       "shape": [1, 28]}]}, "does not map images to images"),
    ],
)  # fmt: skip
def test_examples_that_are_no_networks_of_images_are_one_sentence(tmp_path, change, words) -> None:
    card, files = nuclei_04()
    path = written(tmp_path / "package", card | change, files)
    with pytest.raises(ModelError, match=words) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_axes_of_other_names_keep_their_order(tmp_path) -> None:
    card, files = nuclei_05()
    for tensor in (*card["inputs"], *card["outputs"]):
        tensor["axes"][1]["id"] = "colour"
        for axis, name in zip(tensor["axes"][2:], ("h", "w"), strict=True):
            axis["id"] = name
            if isinstance(axis["size"], dict):
                axis["size"]["axis_id"] = name
    card["inputs"][0]["preprocessing"] = [
        {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["h", "w", "colour"]}}
    ]
    assert verify(load_model(written(tmp_path / "package", card, files))).passed


def test_weights_in_the_package_are_preferred_to_those_on_the_net(tmp_path) -> None:
    card, files = nuclei_05()
    state = {"source": "https://example.com/w.pt", "architecture": {"callable": "Net",
             "import_from": "net"}}  # fmt: skip
    card["weights"] = {"pytorch_state_dict": state, **card["weights"]}
    assert verify(load_model(written(tmp_path / "a", card, files))).passed
    card["weights"]["torchscript"]["source"] = "https://example.com/w.pt"
    with pytest.raises(ModelError, match="on the net: download the whole package"):
        load_model(written(tmp_path / "b", card, files))


def test_onnx_with_its_numbers_in_a_second_file(tmp_path) -> None:
    """Format 0.5 declares the second file; without that, the package is refused."""
    onnx = extra("onnx")
    from onnx import TensorProto, helper

    net = Net().eval()
    weight = TensorProto(name="w", dims=[1, 1, 3, 3], data_type=TensorProto.FLOAT)
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.onnx.data")
    weight.external_data.add(key="offset", value="8")
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 64, 64]) for n in "xy"]
    bias = onnx.numpy_helper.from_array(net.conv.bias.detach().numpy(), "b")
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "g", info[:1], info[1:], [weight, bias])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    card, files = nuclei_05()
    weights = {"onnx": {"source": "w.onnx", "opset_version": 17,
                        "external_data": {"source": "w.onnx.data"}}}  # fmt: skip
    numbers = bytes(8) + net.conv.weight.detach().numpy().tobytes()
    files |= {"w.onnx": model.SerializeToString(), "w.onnx.data": numbers}
    path = written(tmp_path / "a", card | {"weights": weights}, files)
    assert verify(load_model(path)).passed
    del weights["onnx"]["external_data"]
    with pytest.raises(ModelError, match="which its package does not declare"):
        load_model(written(tmp_path / "b", card | {"weights": weights}, files))
