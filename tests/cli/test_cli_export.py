"""The command line of models: export, what a card gets wrong, test vectors, code to be read."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
import typer.testing
import yaml

import networks
from extras import extra
from seamscope.cli import app
from seamscope.cli.command import ExitCode
from seamscope.models.formats import load_model
from seamscope.models.formats.export import export

FACTORY = f"{networks.__file__}:UNet(levels=1)"


def run(*arguments):
    return typer.testing.CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("package") / "net.zip"
    export(load_model(networks.UNet(2, 1).eval()), path)
    return path


def changed(package, path, change, arrays=None):
    """Copy a package with its card changed, and its arrays."""
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "rdf.yaml":
                card = yaml.safe_load(data)
                change(card)
                data = yaml.safe_dump(card).encode()
            target.writestr(name, (arrays or {}).get(name, data))
    return path


def test_export_writes_reads_back_and_tells(tmp_path) -> None:
    out = tmp_path / "net.pt2"
    done = run("export", FACTORY, out, "--trust", "--json", tmp_path / "told.json")
    assert done.exit_code == ExitCode.DONE, done.output
    assert "read back" in done.stdout
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["format"] == "pt2"
    assert told["sentence"].startswith("Can be predicted without seams")
    assert load_model(out).describe() == told["sentence"]
    again = run("export", FACTORY, out)  # trusted by now; but the place is taken
    assert again.exit_code == ExitCode.REFUSED
    assert "exists" in again.stderr


def test_a_network_goes_to_every_format_and_predicts_the_same(tmp_path) -> None:
    """Export, look at what was written, verify it, predict with it: as a user would."""
    for library in ("onnx", "onnxscript", "onnxruntime", "onnx2torch", "bioimageio.core"):
        extra(library)
    image = tmp_path / "image.npy"
    np.save(image, np.random.default_rng(0).normal(size=(90, 110)).astype(np.float32))
    torch.manual_seed(0)
    torch.save(networks.UNet(2, 1).state_dict(), tmp_path / "weights.pt")
    network = f"{FACTORY}@{tmp_path / 'weights.pt'}"
    who = ("--author", "A. Person", "--license", "MIT", "--cite", "Us", "--url", "https://x.org/us")
    predicted = {}
    for name in ("", "net.pt2", "net.torchscript", "net.onnx", "net.zip"):
        spec, credits = network, who if name == "net.zip" else ()
        if name:
            spec = tmp_path / name
            done = run("export", network, spec, "--trust", *credits)
            assert done.exit_code == ExitCode.DONE, done.output
            info = run("info", spec, *(["--verify"] if credits else []))
            assert info.exit_code == ExitCode.DONE, info.output
            assert (
                "Can be predicted without seams: it looks 8 px far (tiles start on multiples of 2)."
                in info.stdout
            )
        out = tmp_path / f"out{name}.npy"
        done = run("predict", image, spec, out, "--tile", 48, "--trust")
        assert done.exit_code == ExitCode.DONE, done.output
        predicted[name] = np.load(out)
    for name, found in predicted.items():
        assert np.abs(found - predicted[""]).max() < 1e-4 * predicted[""].std(), name
    program = (
        "import sys, logging; logging.disable(logging.CRITICAL)\n"
        "from bioimageio.core import test_model\n"
        "print('RESULT', test_model(sys.argv[1]).status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "net.zip")],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert "RESULT passed" in done.stdout, done.stderr[-2000:]


def test_export_puts_credits_into_the_card(tmp_path) -> None:
    out = tmp_path / "net.zip"
    who = ("--author", "A. Person", "--author", "B. Person", "--license", "MIT")
    done = run("export", FACTORY, out, "--trust", *who, "--cite", "Us, 2026")
    assert done.exit_code == ExitCode.DONE, done.output
    with zipfile.ZipFile(out) as archive:
        card = yaml.safe_load(archive.read("rdf.yaml"))
    assert card["name"] == "UNet network"  # the format wants five letters
    assert card["authors"] == [{"name": "A. Person"}, {"name": "B. Person"}]
    assert card["license"] == "MIT"
    assert card["cite"][0]["text"] == "Us, 2026"


def test_info_verifies_and_says_where_the_card_is_wrong(tmp_path, package) -> None:
    done = run("info", package, "--verify")
    assert done.exit_code == ExitCode.DONE, done.output
    assert "declares halo 8, which agrees with what was measured" in done.stdout
    assert "The test vectors are met" in done.stdout

    def smaller(card):
        for axis in card["outputs"][0]["axes"][2:]:
            axis["halo"] = 2

    done = run("info", changed(package, tmp_path / "wrong.zip", smaller), "--json", "-")
    told = json.loads(done.stdout)
    assert told["declared"]["halo"] == [2, 2]
    (sentence,) = told["disagreements"]
    assert "halo 2, less than the network's reach of 8" in sentence


def test_info_verify_fails_where_vectors_are_not_met(tmp_path, package) -> None:
    import io

    with zipfile.ZipFile(package) as archive:
        array = np.load(io.BytesIO(archive.read("test_output.npy")))
    buffer = io.BytesIO()
    np.save(buffer, array * 1.01)

    def without_checksum(card):
        del card["outputs"][0]["test_tensor"]["sha256"]

    path = tmp_path / "other.zip"
    changed(package, path, without_checksum, {"test_output.npy": buffer.getvalue()})
    done = run("info", path, "--verify")
    assert done.exit_code == ExitCode.REFUSED
    assert "not met" in done.stdout
    done = run("info", FACTORY, "--trust", "--verify")
    assert done.exit_code == ExitCode.REFUSED
    assert "without test vectors" in done.stderr


def test_info_source_shows_code_and_runs_none(tmp_path) -> None:
    trace, file = tmp_path / "ran", tmp_path / "net.py"
    file.write_text(f"import os\nos.mkdir({str(trace)!r})\ndef net(): pass\n")
    done = run("info", f"{file}:net", "--source")
    assert done.exit_code == ExitCode.DONE
    assert file.read_text() in done.stdout
    told = json.loads(run("info", f"{file}:net", "--source", "--json", "-").stdout)
    assert told["would_run"][0]["text"] == file.read_text()
    assert not trace.exists()
    assert "runs no code" in run("info", "demo:batchnorm", "--source").stdout


def test_trust_is_remembered_until_the_content_changes(tmp_path) -> None:
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\ndef net(): return nn.Conv2d(1, 1, 3, padding=1)\n")
    spec = f"{file}:net"
    assert run("info", spec).exit_code == ExitCode.TRUST
    assert run("info", spec, "--trust").exit_code == ExitCode.DONE
    assert run("info", spec).exit_code == ExitCode.DONE
    file.write_text(file.read_text() + "# another\n")
    assert run("info", spec).exit_code == ExitCode.TRUST
