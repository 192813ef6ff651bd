"""A network written to every format is the same network when it is read back."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
import yaml

import networks
from extras import extra
from seamscope.errors import ModelError, OutputError, SettingsError
from seamscope.images.preparation import Clipped, Measured, Preparation, Scaled
from seamscope.models.formats import load_model
from seamscope.models.formats.export import Credits, export
from seamscope.models.formats.verification import verify
from seamscope.models.model import Model

SUFFIXES = [".pt2", ".torchscript", ".onnx", ".zip"]


def network(**kwargs):
    torch.manual_seed(0)
    return networks.UNet(2, 1, **kwargs).eval()


def needs(suffix):
    if suffix == ".onnx":
        for name in ("onnx", "onnxscript", "onnxruntime", "onnx2torch"):
            extra(name)


def same(own, loaded, shape=(3, 1, 80, 112), measured=True):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1)).numpy()
    a, b = own.runner()(x), loaded.runner()(x)
    with torch.inference_mode():  # as near to the exact prediction as the network's own
        exact = copy.deepcopy(own.module).double()(torch.from_numpy(x).double()).numpy()
    noise = np.abs(a - exact).max()
    assert np.abs(b - exact).max() < 4 * noise + 1e-6 * a.std()
    assert np.abs(gradient(own.module, x) - gradient(loaded.module, x)).max() < 1e-4
    if measured:
        assert networks.grids(loaded) == networks.grids(own)
        assert loaded.reach == own.reach
        assert len(loaded.facts.statistics) == len(own.facts.statistics)


def gradient(module, x):
    """What one pixel of the prediction depends on, relative to the most it does on any."""
    given = torch.from_numpy(x[:1]).requires_grad_()
    y = module(given)
    y[(0, 0, *(n // 2 for n in y.shape[2:]))].backward()
    size = given.grad.abs().numpy()
    return size / size.max()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_valid_convolutions_survive_every_format(tmp_path, suffix) -> None:
    needs(suffix)
    torch.manual_seed(0)
    own = load_model(networks.ValidUNet(levels=1).eval())
    export(own, tmp_path / f"net{suffix}")
    same(own, load_model(tmp_path / f"net{suffix}"), (1, 1, 60, 80))


@pytest.mark.parametrize("suffix", [".pt2", ".torchscript", ".zip"])
def test_what_was_loaded_can_be_written_again(tmp_path, suffix, recwarn) -> None:
    own = load_model(network(norm="instance"))
    export(own, tmp_path / "first.torchscript")
    script = load_model(tmp_path / "first.torchscript")
    export(script, tmp_path / f"again{suffix}")
    same(own, load_model(tmp_path / f"again{suffix}"))


def test_volumes_and_names_of_channels(tmp_path) -> None:
    torch.manual_seed(0)
    net = networks.UNet(3, 1, classes=2, channels=2).eval()
    own = Model(net, "net", channel_names=("in", "out"), normalize="zscore")
    export(own, tmp_path / "net.zip")
    loaded = load_model(tmp_path / "net.zip")
    same(own, loaded, (1, 2, 8, 12, 10))
    assert loaded.channels == own.channels
    assert loaded.normalize == "zscore"
    assert loaded.fingerprint == own.fingerprint


# -- packages of bioimage.io


def card_of(path):
    with zipfile.ZipFile(path) as archive:
        return yaml.safe_load(archive.read("rdf.yaml"))


def test_a_package_declares_what_was_measured(tmp_path) -> None:
    own = load_model(network())
    export(own, tmp_path / "net.zip", credits=Credits(authors=("A. Person",)))
    card = card_of(tmp_path / "net.zip")
    (y, x) = card["outputs"][0]["axes"][2:]
    reach = max(max(side) for side in own.reach.halo)
    assert y["halo"] == x["halo"] == reach
    assert card["inputs"][0]["axes"][2]["size"]["step"] == own.facts.period[0]
    assert card["authors"] == [{"name": "A. Person"}]
    loaded = load_model(tmp_path / "net.zip")
    assert loaded.declared.halo == (reach, reach)
    assert loaded.declared.step == own.facts.period
    assert verify(loaded).passed


PREPARED = {
    "zscore": Preparation((Measured("zscore"),)),
    "several": Preparation(
        (Measured("percentile", (2.0, 98.0), 1e-3), Scaled((2.0,), (-1.0,)), Clipped(-0.9, 0.8))
    ),
}
DEMOS = ("batchnorm", "instancenorm")


def test_test_vectors_have_a_size_that_the_card_allows(tmp_path) -> None:
    """Checked by the format's rules, for reaches longer than an example needs to be."""
    for own in (load_model("demo:batchnorm"), load_model(networks.ValidUNet(levels=2).eval())):
        export(own, tmp_path / "net.zip", overwrite=True)
        card = card_of(tmp_path / "net.zip")
        with zipfile.ZipFile(tmp_path / "net.zip") as archive:
            given, made = (
                np.load(io.BytesIO(archive.read(f"test_{end}put.npy"))).shape[2:]
                for end in ("in", "out")
            )
        axes = (card[f"{end}puts"][0]["axes"][2:] for end in ("in", "out"))
        for entry, left, size, out in zip(*axes, given, made, strict=True):
            least, halo = entry["size"]["min"], left.get("halo", 0)
            assert size >= least
            assert (size - least) % entry["size"]["step"] == 0
            assert out > 2 * halo
            assert least - (size - out) > 2 * halo  # both networks keep the resolution


def test_bioimageio_core_accepts_packages_and_predicts_the_same(tmp_path) -> None:
    """Its own test of models: valid, reproduces the test vectors, several sizes and batches."""
    extra("bioimageio.core")
    for kind, preparation in PREPARED.items():
        net = network(norm="instance" if kind == "zscore" else "batch")
        export(Model(net, "a network", preparation=preparation), tmp_path / f"{kind}.zip")
        assert verify(load_model(tmp_path / f"{kind}.zip")).passed
    for kind in DEMOS:  # which reach further than an example needs to be large
        export(load_model(f"demo:{kind}"), tmp_path / f"{kind}.zip")
    # in a process of its own: it changes logging and warnings of the whole process
    program = (
        "import sys, json, logging; logging.disable(logging.CRITICAL)\n"
        "from bioimageio.core import test_model\n"
        "for path in sys.argv[1:]:\n"
        "    s = test_model(path)\n"
        "    print('RESULT', json.dumps([s.status, [str(d.errors) for d in s.details]]))"
    )
    kinds = [*PREPARED, *DEMOS]
    paths = [str(tmp_path / f"{kind}.zip") for kind in kinds]
    done = subprocess.run(
        [sys.executable, "-c", program, *paths],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert len(lines) == len(paths), done.stderr[-2000:]
    for kind, line in zip(kinds, lines, strict=True):
        status, errors = json.loads(line.removeprefix("RESULT"))
        assert status == "passed", (kind, errors)


def test_a_package_with_other_weights_fails_its_vectors(tmp_path) -> None:
    export(load_model(network()), tmp_path / "net.zip")
    other = network()
    other.last.weight.data *= 1.01
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(other, torch.zeros(1, 1, 32, 32)), buffer)
    with (
        zipfile.ZipFile(tmp_path / "net.zip") as source,
        zipfile.ZipFile(tmp_path / "bad.zip", "w") as target,
    ):
        for name in source.namelist():
            data = source.read(name)
            if name == "rdf.yaml":
                card = yaml.safe_load(data)
                del card["weights"]["torchscript"]["sha256"]
                data = yaml.safe_dump(card).encode()
            target.writestr(name, buffer.getvalue() if name == "weights.pt" else data)
    assert not verify(load_model(tmp_path / "bad.zip")).passed


# -- refusals


def test_a_file_that_predicts_something_else_is_not_left(tmp_path) -> None:
    class BySize(torch.nn.Module):
        def forward(self, x):
            return x * float(x.shape[-1])  # a constant once traced

    with pytest.raises(ModelError, match="differs from the network"):
        export(load_model(BySize()), tmp_path / "net.torchscript")
    assert list(tmp_path.iterdir()) == []


def test_places_and_endings_are_checked_first(tmp_path) -> None:
    model = load_model(torch.nn.Identity())
    with pytest.raises(SettingsError, match=r"\.pt2, "):
        export(model, tmp_path / "net.keras")
    with pytest.raises(OutputError, match="no folder"):
        export(model, tmp_path / "none" / "net.pt2")
    (tmp_path / "net.pt2").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        export(model, tmp_path / "net.pt2")
    assert (tmp_path / "net.pt2").read_text() == "mine"
    assert "model" not in vars(model)


def test_without_onnx_one_sentence_says_what_to_install(tmp_path, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    with pytest.raises(ModelError, match=r'pip install "seamscope\[onnx\]"'):
        export(load_model(torch.nn.Identity()), tmp_path / "net.onnx")
