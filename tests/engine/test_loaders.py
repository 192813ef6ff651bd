"""Networks from files: what is found, what is refused, and that nothing runs before trust."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import networks
from seamscope.errors import ModelError, SettingsError, TrustError
from seamscope.models.formats import Spec, format_of, load_model, would_run
from seamscope.models.model import of_network

HERE = Path(networks.__file__)


def small():
    torch.manual_seed(0)
    return networks.UNet(2, 1).eval()


X = np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32)


@pytest.fixture
def expected():
    with torch.inference_mode():
        return small()(torch.from_numpy(X)).numpy()


def predicted(spec, **kwargs):
    return load_model(spec, **kwargs).runner()(X)


def test_every_way_to_name_a_network_gives_the_same(tmp_path, expected) -> None:
    network = small()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    torch.save({"model_state": network.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, torch.from_numpy(X)).save(tmp_path / "traced.pt")
    factory = f"{HERE}:UNet(ndim=2, levels=1)"
    for spec in [
        f"{factory}@{tmp_path / 'w.safetensors'}",
        f"{factory}@{tmp_path / 'w.pth'}",
        f"{factory}@{tmp_path / 'checkpoint.pt'}",
        f"networks:UNet(ndim=2, levels=1)@{tmp_path / 'w.pth'}",
        str(tmp_path / "traced.pt"),
        tmp_path / "traced.pt",
    ]:
        assert np.abs(predicted(spec, trust=True) - expected).max() < 1e-6, spec
    assert np.array_equal(predicted(network), expected)


def test_content_counts_and_not_the_suffix(tmp_path, expected) -> None:
    save_file(small().state_dict(), tmp_path / "weights.txt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(small(), torch.from_numpy(X)).save(tmp_path / "network.pth")
    spec = f"{HERE}:UNet(levels=1)@{tmp_path / 'weights.txt'}"
    assert np.abs(predicted(spec, trust=True) - expected).max() < 1e-6
    assert np.abs(predicted(tmp_path / "network.pth") - expected).max() < 1e-6


@pytest.mark.parametrize("name", ["batchnorm", "instancenorm", "batchnorm3d", "instancenorm3d"])
def test_demo_networks_need_no_trust(name) -> None:
    model = load_model(f"demo:{name}")
    ndim = 3 if name.endswith("3d") else 2
    assert model.facts.spatial_axes == ndim
    assert model.facts.out_channels == 4
    assert model.channels == ("foreground", "boundary", "extracellular", "background")
    assert model.reach.bounded == name.startswith("batch")
    assert model.facts.period == ((8, 8) if ndim == 2 else (4, 4, 4))
    assert model.reach.convolutional == (((46, 46),) * 2 if ndim == 2 else ((22, 22),) * 3)
    assert ("predicted without seams" in model.describe()) == name.startswith("batch")


# -- trust


class Bomb:
    """Pickled, it writes a file when it is loaded."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (os.mkdir, (self.target,))


def bombs(folder):
    """Files of every kind that try to run something on load, and the trace each would leave."""
    trace = folder / "ran"
    torch.save({"w": torch.zeros(1), "x": Bomb(trace)}, folder / "a.pth")
    with open(folder / "b.pth", "wb") as file:
        pickle.dump(Bomb(trace), file)
    code = f"import os\nos.mkdir({str(trace)!r})\ndef net(): pass\n"
    (folder / "c.py").write_text(code)
    yield folder / "a.pth", trace
    yield folder / "b.pth", trace
    yield f"{folder / 'c.py'}:net", trace
    save_file({"w": torch.zeros(1)}, folder / "d.safetensors")
    yield f"{folder / 'c.py'}:net@{folder / 'd.safetensors'}", trace
    yield f"{HERE}:UNet@{folder / 'a.pth'}", trace


def test_nothing_runs_before_trust(tmp_path) -> None:
    tried = 0
    for spec, trace in bombs(tmp_path):
        with pytest.raises(TrustError) as caught:
            load_model(spec)
        assert caught.value.would_run == would_run(spec)
        assert not trace.exists(), spec
        tried += 1
    assert tried == 5
    # and the bombs are real: with trust they go off
    with pytest.raises(ModelError):
        load_model(tmp_path / "a.pth", trust=True)
    assert trace.exists()


def test_what_would_run_is_named(tmp_path) -> None:
    torch.save(small(), tmp_path / "whole.pth")
    (line,) = would_run(tmp_path / "whole.pth")
    assert "networks.UNet" in line
    assert "whole.pth" in line
    (line,) = would_run(f"{HERE}:UNet")
    assert "UNet()" in line
    assert "networks.py" in line
    assert would_run("demo:batchnorm") == ()


def test_a_pickled_module_loads_with_trust(tmp_path, expected) -> None:
    torch.save(small(), tmp_path / "whole.pth")
    assert np.array_equal(predicted(tmp_path / "whole.pth", trust=True), expected)


# -- refusals


def corrupt(folder, kind):
    """A damaged file of a kind."""
    network = small()
    path = folder / f"{kind}.bin"
    if kind == "safetensors":
        save_file(network.state_dict(), path)
    elif kind == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.trace(network, torch.from_numpy(X)).save(path)
    else:
        torch.save(network.state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@pytest.mark.parametrize("kind", ["safetensors", "pth", "torchscript"])
def test_damaged_files_get_one_sentence(tmp_path, kind) -> None:
    path = corrupt(tmp_path, kind)
    spec = str(path) if kind == "torchscript" else f"{HERE}:UNet(levels=1)@{path}"
    with pytest.raises(ModelError, match="damaged") as caught:
        load_model(spec, trust=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def bad_weights(folder):
    state = small().state_dict()
    save_file({k: v for k, v in state.items() if "last" not in k}, folder / "missing.safetensors")
    save_file(state | {"extra": torch.zeros(1)}, folder / "extra.safetensors")
    save_file(state | {"last.bias": torch.zeros(7)}, folder / "shape.safetensors")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{t}/missing.safetensors", ["tensors and no network", "@"]),
        ("{h}:UNet(levels=1)@{t}/missing.safetensors", ["missing last.weight, last.bias"]),
        ("{h}:UNet(levels=1)@{t}/extra.safetensors", ["unknown extra"]),
        ("{h}:UNet(levels=1)@{t}/shape.safetensors", ["last.bias is (7,)", "(2,)"]),
        ("{h}:UNet(levels=3)@{t}/extra.safetensors", ["missing", "more"]),
        ("{h}:Nothing", ["has no Nothing"]),
        ("{h}:UNet(norm=5)", ["UNet(norm=5) failed"]),
        ("{h}:conv(ndim=2)", ["failed"]),
        ("{t}/none.py:f", ["no Python file"]),
        ("not_a_package_at_all:f", ["install the package"]),
        ("{t}/none.pth", ["There is no file", "demo:batchnorm"]),
        ("{t}", ["cannot be read as a file"]),
        ("{t}/empty.pth", ["is empty"]),
        ("{t}/text.pth", ["as no file of PyTorch does"]),
        ("demo:transformer", ["no demo network 'transformer'", "demo:batchnorm"]),
    ],
)
def test_refusals_are_one_sentence_with_a_remedy(tmp_path, spec, words) -> None:
    bad_weights(tmp_path)
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("hello, this is no network")
    with pytest.raises(ModelError) as caught:
        load_model(spec.format(t=tmp_path, h=HERE), trust=True)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["{h}:UNet(3)", "{h}:UNet(levels=open('x'))", "nonsense@{t}/x"])
def test_specs_are_read_and_never_evaluated(tmp_path, spec) -> None:
    with pytest.raises(SettingsError):
        load_model(spec.format(h=HERE, t=tmp_path), trust=True)
    assert not (Path.cwd() / "x").exists()


def test_spec_parts() -> None:
    spec = Spec.parse("a.b:c(x=1, y='z', w=(1, 2))@w.pth")
    assert (spec.module, spec.function, spec.file) == ("a.b", "c", Path("w.pth"))
    assert dict(spec.arguments) == {"x": 1, "y": "z", "w": (1, 2)}
    assert Spec.parse("weights.pth").module is None


def test_fingerprint_follows_weights_and_not_the_file(tmp_path) -> None:
    network = small()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    spec = f"{HERE}:UNet(levels=1)@{tmp_path / 'w.safetensors'}"
    first = load_model(spec, trust=True).fingerprint
    assert first == load_model(network).fingerprint
    with torch.no_grad():
        network.last.bias[0] += 1e-3
    assert load_model(network).fingerprint != first


# -- what is no network, and networks that give no image


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"II*\x00", "TIFF"),
        (b"\x89PNG\r\n", "PNG"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"\x93NUMPY", "npy"),
    ],
)  # fmt: skip
def test_an_image_in_place_of_a_network_is_called_an_image(tmp_path, start, kind) -> None:
    (tmp_path / "image").write_bytes(start + bytes(200))
    with pytest.raises(ModelError, match=rf"is an image \({kind}\), and a network is expected"):
        load_model(tmp_path / "image", trust=True)


def test_a_zarr_folder_is_called_an_image(tmp_path) -> None:
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(ModelError, match=r"is an image \(zarr\)"):
        load_model(tmp_path)


def test_safetensors_are_weights_whatever_the_length_of_their_header(tmp_path) -> None:
    """A header of 264 bytes (0x108) begins as ONNX does."""
    for extra in range(300):
        save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors", {"x": "y" * extra})
        head = (tmp_path / "w.safetensors").read_bytes()[:9]
        if head[0] == 8 and head[1] == 1 and head[2] & 7 == 0:
            break
    else:
        raise AssertionError("no header of this length")
    assert format_of(tmp_path / "w.safetensors") == "checkpoint"
    with pytest.raises(ModelError, match="holds 1 tensor and no network"):
        load_model(tmp_path / "w.safetensors")


class Gives(torch.nn.Module):
    """A network that gives something else."""

    def __init__(self, change):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 3, 3, padding=1)
        self.change = change

    def forward(self, x):
        return self.change(self.conv(x))


def fails(y):
    if bool(torch.isnan(y).any()):
        raise ValueError("no NaN here")
    return y


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: None, "without tensors: wrap it"),
        (lambda y: y[:, :0], "an empty tensor of shape"),
        (lambda y: torch.fft.fft2(y), r"complex numbers \(complex64\), and predictions are real"),
        (lambda y: y.to_sparse(), "a sparse tensor"),
        (lambda y: y[:, : 1 + int(y.abs().sum() * 7) % 3], "channels for one input and"),
    ],
)
def test_networks_that_give_no_image_are_one_sentence(change, words) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        load_model(Gives(change)).facts  # noqa: B018
    assert "\n" not in str(caught.value)


def test_channels_that_change_with_the_size_are_noticed_at_the_first_tile() -> None:
    model = load_model(Gives(lambda y: y[:, : 1 if y.shape[-1] > 100 else 2]))
    measured = model.facts.out_channels
    size = 128 if measured == 2 else 64
    with pytest.raises(ModelError, match=f"returned {measured} channels when it was measured"):
        model.runner()(np.zeros((1, 1, size, size), np.float32))


def test_a_network_that_fails_is_not_a_bug_of_ours(tmp_path) -> None:
    with pytest.raises(ValueError, match="no NaN here") as caught:
        load_model(Gives(fails)).forward(torch.full((1, 1, 8, 8), torch.nan))
    assert of_network(caught.value)
    assert not of_network(ValueError())
