"""Packages of bioimage.io, formats 0.4 and 0.5: what a card says is honoured, and checked."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from extras import extra
from seamscope.errors import ModelError, TrustError
from seamscope.images.image import open_image
from seamscope.models.declared import Declared, disagreements
from seamscope.models.formats import code_of, format_of, load_model, verify, would_run
from seamscope.models.formats.archive import Archive
from seamscope.models.model import Model
from seamscope.planning.plan import resolve
from seamscope.prediction.run import predict
from seamscope.settings import Settings

SOURCE = '''
import torch
from torch import nn

class Net(nn.Module):
    """Two convolutions around pooling; gives classes and a boundary."""

    def __init__(self, channels=1, both=False):
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 2, 3, padding=1)
        self.both = both

    def forward(self, x):
        y = torch.relu(self.first(x))
        y = nn.functional.avg_pool2d(y, 2)
        y = nn.functional.interpolate(y, scale_factor=2, mode="nearest")
        y = self.last(y)
        return (y, y[:, :1] - 1) if self.both else y
'''


def built(**arguments):
    space: dict = {}
    exec(SOURCE, space)
    torch.manual_seed(0)
    return space["Net"](**arguments).eval()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def sha(data):
    return hashlib.sha256(data).hexdigest()


COMMON = {
    "type": "model", "name": "Test network", "description": "For a test", "license": "MIT",
    "authors": [{"name": "A. Person"}], "documentation": "README.md",
    "cite": [{"text": "none", "url": "https://bioimage.io"}], "timestamp": "2026-01-01T00:00:00",
}  # fmt: skip


def image(channels):
    random = np.random.default_rng(3)
    shape = (1, channels, 24, 32)
    return (random.gamma(2.0, 30.0, shape) + 100 * np.arange(channels).reshape(-1, 1, 1)).astype(
        np.float32
    )


def run(net, x):
    with torch.inference_mode():
        return net(torch.from_numpy(x.astype(np.float32)))


def new_format():
    """Format 0.5: two channels, standardized each by itself; two outputs, one with a sigmoid."""
    net, x = built(channels=2, both=True), image(2)
    mean, std = x.mean((2, 3), keepdims=True), x.std((2, 3), keepdims=True)
    classes, boundary = run(net, (x - mean) / (std + 1e-6))
    files = weights(net) | {
        "x.npy": npy(x), "y.npy": npy(torch.sigmoid(classes).numpy()),
        "b.npy": npy(2 * boundary.numpy() + 1),
    }  # fmt: skip
    space = [{"type": "space", "id": n, "size": {"min": 8, "step": 2}} for n in "yx"]

    def out(name, test, channels, post):
        axes = [
            {"type": "space", "id": n, "halo": 1, "size": {"tensor_id": "raw", "axis_id": n}}
            for n in "yx"
        ]
        return {
            "id": name, "data": {"type": "float32"}, "postprocessing": post,
            "axes": [{"type": "batch"}, {"type": "channel", "channel_names": channels}, *axes],
            "test_tensor": {"source": test, "sha256": sha(files[test])},
        }  # fmt: skip

    card = {
        **COMMON,
        "format_version": "0.5.4",
        "inputs": [{
            "id": "raw", "data": {"type": "float32"},
            "axes": [{"type": "batch"},
                     {"type": "channel", "channel_names": ["nuclei", "actin"]}, *space],
            "preprocessing": [{"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"]}}],
            "test_tensor": {"source": "x.npy", "sha256": sha(files["x.npy"])},
        }],
        "outputs": [
            out("classes", "y.npy", ["inside", "outside"], [{"id": "sigmoid"}]),
            out("boundary", "b.npy", ["edge"],
                [{"id": "scale_linear", "kwargs": {"gain": 2.0, "offset": 1.0}}]),
        ],
        "weights": {"pytorch_state_dict": {
            "source": "w.pt", "sha256": sha(files["w.pt"]), "pytorch_version": "2.4",
            "architecture": {"source": "net.py", "sha256": sha(files["net.py"]), "callable": "Net",
                             "kwargs": {"channels": 2, "both": True}},
        }},
    }  # fmt: skip
    return card, files


def old_format():
    """Format 0.4: percentiles of the whole image before, a sigmoid after."""
    net, x = built(), image(1)
    low, high = np.percentile(x, [1.0, 99.8])
    y = torch.sigmoid(run(net, (x - low) / (high - low + 1e-6))).numpy()
    files = weights(net) | {"x.npy": npy(x), "y.npy": npy(y)}
    card = {
        **COMMON,
        "format_version": "0.4.10",
        "covers": [], "tags": [], "test_inputs": ["x.npy"], "test_outputs": ["y.npy"],
        "inputs": [{
            "name": "raw", "axes": "bcyx", "data_type": "float32",
            "shape": {"min": [1, 1, 16, 16], "step": [0, 0, 4, 4]},
            "preprocessing": [{"name": "scale_range", "kwargs": {
                "axes": "yx", "mode": "per_sample",
                "min_percentile": 1.0, "max_percentile": 99.8}}],
        }],
        "outputs": [{
            "name": "classes", "axes": "bcyx", "data_type": "float32", "halo": [0, 0, 6, 6],
            "shape": {"reference_tensor": "raw", "scale": [1, 1, 1, 1], "offset": [0, 0.5, 0, 0]},
            "postprocessing": [{"name": "sigmoid"}],
        }],
        "weights": {"pytorch_state_dict": {
            "source": "w.pt", "sha256": sha(files["w.pt"]), "architecture": "net.py:Net",
            "architecture_sha256": sha(files["net.py"]), "kwargs": {}, "pytorch_version": "2.4",
        }},
    }  # fmt: skip
    return card, files


def weights(net):
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    return {"net.py": SOURCE.encode(), "w.pt": buffer.getvalue(), "README.md": b"# Test\n"}


FORMATS = {"0.5": new_format, "0.4": old_format}


def packed(folder, card, files, kind="zip"):
    members = {"rdf.yaml": yaml.safe_dump(card).encode(), **files}
    if kind == "zip":
        with zipfile.ZipFile(folder / "package.zip", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return folder / "package.zip"
    (folder / "package").mkdir()
    for name, data in members.items():
        (folder / "package" / name).write_bytes(data)
    return folder / "package" / ("rdf.yaml" if kind == "yaml" else "")


@pytest.mark.parametrize("kind", ["zip", "folder", "yaml"])
@pytest.mark.parametrize("version", FORMATS)
def test_a_package_predicts_what_its_vectors_say(tmp_path, version, kind) -> None:
    path = packed(tmp_path, *FORMATS[version](), kind)
    assert format_of(path) == "bioimage.io package"
    with pytest.raises(TrustError):
        load_model(path)
    model = load_model(path, trust=True)
    assert verify(model).passed
    assert str(verify(model)).startswith("The test vectors are met")
    assert model.facts.period == (2, 2)


def test_bioimageio_core_agrees_with_these_packages(tmp_path) -> None:
    """The vectors are computed here by hand; the format's own program must find the same."""
    extra("bioimageio.core")
    paths = []
    for version, make in FORMATS.items():
        (tmp_path / version).mkdir()
        paths.append(str(packed(tmp_path / version, *make())))
    program = (
        "import sys, json, logging; logging.disable(logging.CRITICAL)\n"
        "from bioimageio.core import test_model\n"
        "for path in sys.argv[1:]:\n"
        "    s = test_model(path)\n"
        "    told = [d.errors for d in s.details if d.errors]\n"
        "    print('RESULT', json.dumps([s.status, str(told)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *paths],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert len(lines) == 2, done.stderr[-2000:]
    for line in lines:
        status, errors = json.loads(line.removeprefix("RESULT"))
        assert status == "passed", errors


@pytest.mark.parametrize("version", FORMATS)
def test_statistics_are_those_of_the_whole_image(tmp_path, version) -> None:
    card, files = FORMATS[version]()
    model = load_model(packed(tmp_path, card, files), trust=True)
    x = np.load(io.BytesIO(files["x.npy"]))[0]
    expected = np.load(io.BytesIO(files["y.npy"]))[0]
    opened = open_image(x, axes="cyx")
    tiled = predict(opened, model, tile=16, halo=4, accelerate=False)
    assert np.abs(tiled - expected).max() < 1e-5
    # and would not be those of a tile
    alone = predict(opened, model, tile=16, halo=4, area={"y": (0, 8), "x": (0, 8)})
    assert np.abs(alone - expected[:, :8, :8]).max() < 1e-5


def test_an_output_is_chosen_by_name(tmp_path) -> None:
    card, files = new_format()
    path = packed(tmp_path, card, files)
    first = load_model(path, trust=True)
    assert first.outputs == ("classes", "boundary")
    assert first.channels == ("inside", "outside")
    assert "#boundary" in first.notes[0]
    for spec in (f"{path}#boundary", f"{path}#1"):
        second = load_model(spec, trust=True)
        assert second.channels == ("edge",)
        assert verify(second).passed
    with pytest.raises(ModelError, match="#classes, #boundary"):
        load_model(f"{path}#mask", trust=True)


def test_a_wrong_card_is_told(tmp_path) -> None:
    model = load_model(packed(tmp_path, *new_format()), trust=True)
    assert model.declared.halo == (1, 1)
    (sentence,) = disagreements(model.declared, model.facts, model.reach)
    assert "declares halo 1, less than the network's reach of 3" in sentence
    card, files = old_format()
    card["inputs"][0]["shape"]["step"] = [0, 0, 3, 3]
    model = load_model(packed(tmp_path, card, files), trust=True)
    (sentence,) = disagreements(model.declared, model.facts, model.reach)
    assert "steps of 3" in sentence
    card, files = old_format()
    card["outputs"][0]["halo"] = [0, 0, 32, 32]
    model = load_model(packed(tmp_path, card, files), trust=True)
    (sentence,) = disagreements(model.declared, model.facts, model.reach)
    assert "3 would do" in sentence
    assert disagreements(*(getattr(load_right(tmp_path), n) for n in RIGHT)) == ()


RIGHT = ("declared", "facts", "reach")


def load_right(folder):
    return load_model(packed(folder, *old_format()), trust=True)


def test_axes_in_another_order_are_rearranged(tmp_path) -> None:
    class Last(torch.nn.Module):
        def forward(self, x):  # b, y, x, c
            return torch.cat([x, x.roll(1, 1), x.roll(1, 2)], 3)

    x = torch.randn(1, 8, 10, 1)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Last(), x), buffer)
    card, files = old_format()
    card["inputs"][0] |= {"axes": "byxc", "preprocessing": []}
    card["inputs"][0]["shape"] = {"min": [1, 8, 8, 1], "step": [0, 1, 1, 0]}
    card["outputs"][0] |= {"axes": "byxc", "halo": [0, 1, 1, 0], "postprocessing": []}
    card["weights"] = {"torchscript": {"source": "s.pt"}}
    files |= {"s.pt": buffer.getvalue(), "x.npy": npy(x.numpy()), "y.npy": npy(Last()(x).numpy())}
    path = packed(tmp_path, card, files)
    assert would_run(path) == ()
    model = load_model(path)
    assert verify(model).passed
    y = model.runner()(np.zeros((2, 1, 8, 10), np.float32))
    assert y.shape == (2, 3, 8, 10)


# -- trust


def test_nothing_of_a_package_runs_before_trust(tmp_path) -> None:
    trace = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(trace),))

    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(1), "x": Bomb()}, buffer)
    evil = f"import os\nos.mkdir({str(trace)!r})\n{SOURCE}".encode()
    for change in ({"net.py": evil}, {"w.pt": buffer.getvalue()}):
        card, files = old_format()
        files |= change
        told = card["weights"]["pytorch_state_dict"]
        del told["sha256"], told["architecture_sha256"]
        path = packed(tmp_path, card, files)
        lines = would_run(path)
        assert len(lines) == 1 + ("w.pt" in change)
        if "net.py" in change:
            assert code_of(path)[0].text == evil.decode()
        with pytest.raises(TrustError):
            load_model(path)
        assert not trace.exists()
        with contextlib.suppress(ModelError):  # the pickle holds no network's weights
            load_model(path, trust=True)
        assert trace.exists()
        trace.rmdir()


def test_yaml_and_arrays_run_nothing(tmp_path) -> None:
    trace = tmp_path / "ran"
    card, files = old_format()
    path = packed(tmp_path, card, files, "yaml")
    good = path.read_text()
    path.write_text(f"evil: !!python/object/apply:os.mkdir ['{trace}']\n{good}")
    with pytest.raises(ModelError, match="no valid YAML"):
        load_model(path, trust=True)
    path.write_text(good)

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(trace),))

    bomb = np.empty(1, object)
    bomb[0] = Bomb()
    buffer = io.BytesIO()
    np.save(buffer, bomb, allow_pickle=True)
    (path.parent / "x.npy").write_bytes(buffer.getvalue())
    with pytest.raises(ModelError, match="no plain array"):
        verify(load_model(path, trust=True))
    assert not trace.exists()


# -- refusals


def without(*keys):
    def change(card, files):
        part = card
        for key in keys[:-1]:
            part = part[key]
        del part[keys[-1]]

    return change


def change(**new):
    return lambda card, files: card.update(new)


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (change(format_version="0.3.6"), "format 0.3.6"),
        (change(type="dataset"), "describes no model"),
        (without("inputs"), "no complete model card"),
        (lambda card, files: files.pop("w.pt"), "lacks w.pt"),
        (lambda card, files: files.update({"w.pt": files["w.pt"][:500]}), "another checksum"),
        (change(weights={"keras_hdf5": {"source": "k.h5"}}), "keras_hdf5 only"),
        (change(weights={"torchscript": {"source": "https://x.org/w.pt"}}), "on the net"),
        (lambda card, files: card["inputs"][0].update(axes="bti"), "does not map images"),
    ],
)
def test_what_is_wrong_with_a_package_is_one_sentence(tmp_path, alter, words) -> None:
    card, files = old_format()
    alter(card, files)
    with pytest.raises(ModelError, match=words) as caught:
        load_model(packed(tmp_path, card, files), trust=True)
    assert "\n" not in str(caught.value)


def test_postprocessing_that_is_not_known_is_left_out_and_told(tmp_path) -> None:
    """Statistics of whole predictions are in test_postprocessing.py."""
    card, files = old_format()
    card["outputs"][0]["postprocessing"].append({"name": "sharpen", "kwargs": {}})
    model = load_model(packed(tmp_path, card, files), trust=True)
    assert "sharpen is not known here and left out" in model.notes[0]
    with pytest.raises(ModelError, match="cannot be verified"):
        verify(model)


def test_a_common_folder_in_the_zip_does_not_matter(tmp_path) -> None:
    card, files = old_format()
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for name, data in {"rdf.yaml": yaml.safe_dump(card).encode(), **files}.items():
            archive.writestr(f"my model/{name}", data)
    assert verify(load_model(tmp_path / "p.zip", trust=True)).passed


def test_a_folder_of_many_files_is_no_package_and_is_told_at_once(tmp_path) -> None:
    for i in range(30):
        folder = tmp_path / str(i) / "a"
        folder.mkdir(parents=True)
        for j in range(100):
            (folder / f"{j}.tif").touch()
    archive = Archive(tmp_path)
    assert len(archive.names) == 2000
    with pytest.raises(ModelError, match=r"as a folder it holds no network.*or a file\.$"):
        load_model(tmp_path)
    (tmp_path / "0" / "a" / "0.pt").touch()
    with pytest.raises(ModelError, match=r"or one of its files \(0/a/0.pt\)"):
        load_model(tmp_path / "0" / "..")


def test_files_are_only_read_where_they_lie(tmp_path) -> None:
    (tmp_path / "secret.pt").write_bytes(b"secret")
    card, files = old_format()
    card["weights"]["pytorch_state_dict"]["source"] = "../secret.pt"
    path = packed(tmp_path, card, files, "folder")
    with pytest.raises(ModelError, match="lacks"):
        load_model(Path(path), trust=True)


def test_what_its_user_should_know_reaches_the_plan(tmp_path) -> None:
    model = load_model(packed(tmp_path, *new_format()), trust=True)
    plan = resolve(open_image(image(2)[0], axes="cyx"), model, Settings(tile=16))
    assert model.notes
    assert plan.notes[: len(model.notes)] == model.notes


def test_where_nothing_can_be_measured_the_cards_halo_is_taken() -> None:
    class Global(torch.nn.Module):
        def forward(self, x):
            return x + x.amax((2, 3), keepdim=True)

    card = Declared("Its card", "yx", halo=(3, 5))
    model = Model(Global().eval(), "net", declared=card)
    plan = resolve(open_image(np.zeros((60, 60)), axes="yx"), model, Settings(tile=24))
    assert plan.grid.halo == ((3, 3), (5, 5))
    (sentence,) = disagreements(card, model.facts, model.reach)
    assert sentence.endswith("it uses the whole tile.")
