"""Networks with several inputs and outputs, in every format; against bioimageio.core's own run."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from extras import extra
from packages import predicted_by_core, result, state_dict, tensor, written
from seamscope.errors import ModelError, SettingsError
from seamscope.images.image import open_image
from seamscope.images.preparation import ByInput, Measured, Preparation, Scaled
from seamscope.models.formats import load_model, verify
from seamscope.models.formats.export import export
from seamscope.models.formats.factories import module_from_source
from seamscope.prediction.run import predict

SOURCE = '''
import torch
from torch import nn

class Net(nn.Module):
    """Two images meet after one convolution each; gives classes and an edge."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(2, 4, 3, padding=1)
        self.other = nn.Conv2d(1, 4, 5, padding=2)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, stain, mask):
        y = torch.relu(torch.cat([self.one(stain), self.other(mask)], 1))
        y = self.last(y)
        return y[:, :2], y[:, 2:] * 2
'''

ZSCORE = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"]}}
RANGE = {
    "id": "scale_range",
    "kwargs": {"axes": ["y", "x"], "min_percentile": 2.0, "max_percentile": 97.0},
}
TOGETHER = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}
LINEAR = {
    "id": "scale_linear", "kwargs": {"gain": [0.1, -0.2], "offset": [1.0, 3.0], "axis": "channel"}
}  # fmt: skip
WAYS = {
    "apart": ([ZSCORE], [RANGE]),
    "one as it is": ([LINEAR], []),
    "together": ([TOGETHER], [ZSCORE]),
    "alike": ([ZSCORE], [ZSCORE]),
}


def network():
    torch.manual_seed(0)
    return module_from_source(SOURCE.encode(), "net.py").Net().eval()


def images(shape=(48, 64), seed=3):
    """Two images of very different intensities, brighter to the right: tiles differ."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(1, 3, shape[1])
    stain = random.gamma(2.0, 30.0, (1, 2, *shape)) * ramp + [[[[0.0]], [[500.0]]]]
    mask = random.gamma(1.0, 0.01, (1, 1, *shape)) / ramp
    return stain.astype(np.float32), mask.astype(np.float32)


def prepared(steps, x):
    """What bioimageio does before the network, by numpy."""
    for step in steps:
        kwargs = step["kwargs"]
        if step["id"] == "scale_linear":
            gain, offset = (np.reshape(kwargs[k], (1, -1, 1, 1)) for k in ("gain", "offset"))
            x = x * gain + offset
            continue
        axes = (1, 2, 3) if "channel" in kwargs["axes"] else (2, 3)
        if step["id"] == "zero_mean_unit_variance":
            x = (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-6)
        else:
            low, high = (np.percentile(x, p, axis=axes, keepdims=True) for p in (2.0, 97.0))
            x = (x - low) / (high - low + 1e-6)
    return x


def by_hand(ways, given):
    with torch.inference_mode():
        ready = [prepared(way, x.astype(float)) for way, x in zip(ways, given, strict=True)]
        return [y.numpy() for y in network()(*(torch.from_numpy(x).float() for x in ready))]


def package(folder, ways):
    stain, mask = images((32, 40))
    classes, edge = by_hand(ways, (stain, mask))
    inputs = [
        tensor("stain", 2, stain, preprocessing=ways[0]),
        tensor("mask", 1, mask, preprocessing=ways[1]),
    ]
    outputs = [result("classes", "stain", 2, classes), result("edge", "mask", 1, edge)]
    return written(folder, inputs, outputs, state_dict(SOURCE, network()))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Packages, and what bioimageio.core predicts with them of an image that is not theirs."""
    extra("bioimageio.core")
    folder = tmp_path_factory.mktemp("several")
    stain, mask = images(seed=8)
    given = {
        package(folder / name, ways): {"stain": stain, "mask": mask} for name, ways in WAYS.items()
    }
    return folder, predicted_by_core(given)


def one_image(given):
    return open_image(np.concatenate(given, 1)[0], axes="cyx")


@pytest.mark.parametrize("way", WAYS)
def test_each_input_is_prepared_by_its_own_whole_image(made, way) -> None:
    folder, core = made
    for name in ("classes", "edge"):
        model = load_model(f"{folder / way}.zip#{name}", trust=True)
        assert verify(model).passed
        expected = core[way][name][0]
        found = predict(one_image(images(seed=8)), model, tile=24, halo=4)
        found = found.reshape(expected.shape)
        assert np.abs(found - expected).max() < 2e-5 * expected.std()
        # and of a part of the image alone, by the statistics of all of it
        part = predict(
            one_image(images(seed=8)), model, tile=24, halo=4, area={"y": (0, 20), "x": (0, 20)}
        )
        assert np.abs(part - found[..., :20, :20]).max() < 2e-5 * expected.std()


def test_what_is_an_input_is_told(made) -> None:
    folder, _ = made
    model = load_model(folder / "apart.zip", trust=True)
    assert model.facts.in_channels == 3
    assert model.facts.lattice[0].fixed is None
    assert "2 inputs" in model.notes[0]
    assert "stain (2), mask (1)" in model.notes[0]
    assert str(model.preparation) == ("channels 0 to 1: z-score; channel 2: percentiles 2 to 97")
    assert model.preparation.to_json()[0]["inputs"][1]["channels"] == 1
    assert load_model(folder / "alike.zip", trust=True).normalize == "zscore"


def test_an_image_of_other_channels_is_refused(made) -> None:
    folder, _ = made
    model = load_model(folder / "apart.zip", trust=True)
    with pytest.raises(SettingsError, match=r"3 channels|2 \+ 1"):
        predict(open_image(np.zeros((2, 48, 48), np.float32), axes="cyx"), model)


def test_preparations_by_input_stream_through_axes_in_any_order() -> None:
    parts = ((2, Preparation((Scaled((2.0, 3.0), (0.0, 1.0)), Measured("minmax", together=True)))),
             (1, Preparation((Measured("percentile", (10.0, 90.0)),))))  # fmt: skip
    preparation = Preparation((ByInput(parts),))
    image = np.concatenate(images(), 1)[0]
    out, moved = np.empty_like(image), np.empty_like(image)
    preparation.measure(open_image(image, axes="cyx"), channel_axis=0).apply(image, out)
    other = open_image(np.ascontiguousarray(np.moveaxis(image, 0, 1)), axes="ycx")
    preparation.measure(other, channel_axis=1).apply(image, moved)
    np.testing.assert_allclose(out, moved, rtol=1e-6)
    both = image[:2] * np.reshape([2.0, 3.0], (2, 1, 1)) + np.reshape([0.0, 1.0], (2, 1, 1))
    np.testing.assert_allclose(
        out[:2], (both - both.min()) / (both.max() - both.min() + 1e-6), rtol=1e-5, atol=1e-6
    )
    low, high = np.percentile(image[2], [10.0, 90.0])
    np.testing.assert_allclose(out[2], (image[2] - low) / (high - low + 1e-6), rtol=1e-5, atol=1e-6)


def test_what_has_several_inputs_is_written_as_one_that_has_one(made, tmp_path) -> None:
    folder, _ = made
    own = load_model(folder / "apart.zip", trust=True)
    export(own, tmp_path / "net.torchscript")
    x = np.concatenate(images(seed=8), 1)
    again = load_model(tmp_path / "net.torchscript")
    assert np.abs(again.runner()(x) - own.runner()(x)).max() < 1e-5
    with pytest.raises(ModelError, match="prepared in different ways"):
        export(own, tmp_path / "net.zip")
    assert not (tmp_path / "net.zip").exists()


# -- what cannot be channels of one image


def smaller_mask(inputs):
    inputs[1][0]["axes"][2]["size"] = {"tensor_id": "stain", "axis_id": "y", "offset": 8}


def other_scale(inputs):
    inputs[1][0]["axes"][2] |= {"size": {"tensor_id": "stain", "axis_id": "y"}, "scale": 2.0}


def fixed_sizes(inputs):
    inputs[0][0]["axes"][3]["size"], inputs[1][0]["axes"][3]["size"] = 40, 80


def no_space(inputs):
    inputs[1][0]["axes"] = inputs[1][0]["axes"][:2]


UNKNOWN = {
    "by statistics of stain": {"id": "scale_range", "kwargs": {"reference_tensor": "stain"}},
    "of each y by itself": {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["x"]}},
    "softmax is not known": {"id": "softmax", "kwargs": {"axis": "channel"}},
}


@pytest.mark.parametrize("words", UNKNOWN)
def test_what_cannot_be_prepared_is_refused_and_not_guessed(tmp_path, words) -> None:
    stain, mask = images((32, 40))
    inputs = [
        tensor("stain", 2, stain),
        tensor("mask", 1, mask, preprocessing=[UNKNOWN[words]]),
    ]
    expected, edge = by_hand(([], []), (stain, mask))
    outputs = [result("classes", "stain", 2, expected), result("edge", "mask", 1, edge)]
    path = written(tmp_path / "net", inputs, outputs, state_dict(SOURCE, network()))
    model = load_model(path, trust=True)
    assert any(words in note for note in model.notes)
    with pytest.raises(SettingsError, match=words) as caught:
        predict(one_image((stain, mask)), model)
    assert "`normalize='none'`" in str(caught.value)
    with pytest.raises(ModelError, match=words):
        verify(model)
    plain = predict(one_image((stain, mask)), model, normalize="none", tile=24)
    assert np.abs(plain - expected[0]).max() < 2e-5 * expected.std()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (smaller_mask, "different sizes along y"),
        (other_scale, "different sizes along y"),
        (fixed_sizes, "different sizes along x"),
        (no_space, "mask has the axes bc"),
    ],
)
def test_inputs_of_another_kind_are_refused_in_one_sentence(tmp_path, change, words) -> None:
    stain, mask = images((32, 40))
    inputs = [tensor("stain", 2, stain), tensor("mask", 1, mask)]
    change(inputs)
    outputs = [result("classes", "stain", 2, stain)]
    path = written(tmp_path / "net", inputs, outputs, state_dict(SOURCE, network()))
    with pytest.raises(ModelError, match=words) as caught:
        load_model(path, trust=True)
    assert "\n" not in str(caught.value)


def test_optional_inputs_are_not_given_and_that_is_told(tmp_path) -> None:
    source = SOURCE.replace("stain, mask):", "extra, stain, mask):\n        assert extra is None")
    stain, mask = images((32, 40))
    inputs = [
        tensor("extra", 1, mask, optional=True), tensor("stain", 2, stain), tensor("mask", 1, mask),
    ]  # fmt: skip
    classes, edge = by_hand(([], []), (stain, mask))
    outputs = [result("classes", "stain", 2, classes), result("edge", "mask", 1, edge)]
    path = written(tmp_path / "net", inputs, outputs, state_dict(source, network()))
    model = load_model(path, trust=True)
    assert any("extra is optional" in note for note in model.notes)
    found = model.runner()(np.concatenate([stain, mask], 1))
    assert np.abs(found - classes).max() < 1e-5
    with pytest.raises(ModelError, match="optional input extra"):
        verify(model)


# -- other formats


AUTO = torch.export.Dim.DYNAMIC
FREE = {0: AUTO, 2: AUTO, 3: AUTO}


def examples(batch=2):
    return torch.rand(batch, 2, 32, 40), torch.rand(batch, 1, 32, 40)


def exported(path, net):
    program = torch.export.export(net, examples(), dynamic_shapes=(FREE, FREE))
    torch.export.save(program, path)


def scripted(path, net):
    torch.jit.save(torch.jit.script(net), path)


def traced(path, net):
    torch.jit.save(torch.jit.trace(net, examples()), path)


def graph(path, net):
    extra("onnxscript")
    extra("onnxruntime")
    program = torch.onnx.export(
        net, examples(), dynamo=True, dynamic_shapes=(FREE, FREE), verbose=False,
        output_names=["classes", "edge"],
    )  # fmt: skip
    program.save(path, external_data=False)


WRITERS = {"pt2": exported, "script.pt": scripted, "trace.pt": traced, "onnx": graph}


def save(path, write, net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(path, net)
    return path


@pytest.mark.parametrize("kind", WRITERS)
def test_several_inputs_are_channels_in_other_formats_too(tmp_path, kind) -> None:
    path = save(tmp_path / f"net.{kind}", WRITERS[kind], network())
    given = images(seed=8)
    expected = by_hand(([], []), given)
    for place, name in enumerate(("classes", "edge")):
        model = load_model(f"{path}#{name if kind == 'onnx' else place}")
        assert model.facts.in_channels == 3
        found = predict(one_image(given), model, tile=24, halo=4)
        found = found.reshape(expected[place].shape[1:])
        assert np.abs(found - expected[place][0]).max() < 2e-5 * expected[place].std()
    first = load_model(path)
    assert first.outputs == (("classes", "edge") if kind == "onnx" else ("0", "1"))
    assert first.facts.out_channels == 2
    assert f"#{first.outputs[1]}" in first.notes[0]


class Maps(NamedTuple):
    classes: torch.Tensor
    edge: torch.Tensor


class Named(nn.Module):
    def forward(self, x):
        return Maps(classes=x + 1, edge=x * 2)


def test_outputs_of_scripts_may_have_names(tmp_path) -> None:
    path = save(tmp_path / "net.pt", scripted, Named())
    x = np.ones((1, 1, 32, 32), np.float32) * 5
    for name in ("edge", "1", "-1"):
        assert (load_model(f"{path}#{name}").runner()(x) == 10).all()
    with pytest.raises(ModelError, match="add the one you want to the"):
        load_model(path).facts  # noqa: B018


class Pointwise(nn.Module):
    def forward(self, one, other):
        return one + other


class Sizes(nn.Module):
    def forward(self, one, other):
        return one + nn.functional.interpolate(other, scale_factor=2.0)


@pytest.mark.parametrize(
    ("net", "write", "words"),
    [
        (Pointwise(), scripted, "takes 2 tensors and runs with"),
        (Sizes(), "pt2", "cannot be channels of one image"),
    ],
)
def test_what_cannot_be_split_is_one_sentence(tmp_path, net, write, words) -> None:
    def fixed(path, net):
        one, other = torch.rand(1, 1, 32, 32), torch.rand(1, 1, 16, 16)
        torch.export.save(torch.export.export(net, (one, other)), path)

    path = save(tmp_path / "net.pt2", fixed if write == "pt2" else write, net)
    with pytest.raises(ModelError, match=words) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
