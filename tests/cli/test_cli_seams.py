"""Commands about seams: seams, certify, sweep, end to end."""

from __future__ import annotations

import json
import signal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import typer.testing
import zarr
from safetensors.torch import save_file

import networks
import real_networks
import seamscope
from seamscope import cli
from seamscope.cli import options
from seamscope.cli.command import app
from seamscope.cli.wording import in_command
from seamscope.images.records import read_record
from seamscope.models.output_kind import KINDS
from seamscope.prediction.measure_seams import measure_seams

NETWORKS, REAL = Path(networks.__file__), Path(real_networks.__file__)

PRANK = """
import os, signal, time
import torch
from torch import nn

class Crowded(nn.Module):
    '''Runs out of memory with tiles of 44 x 44 pixels, once its probing is over.'''
    def __init__(self):
        super().__init__()
        self.seen = 0
        self.conv = nn.Conv2d(1, 2, 9, padding=4)

    def forward(self, x):
        if tuple(x.shape[-2:]) == (44, 44):
            self.seen += 1
            if self.seen > 1:
                raise torch.OutOfMemoryError("out of memory")
        return self.conv(x)

class Stopped(nn.Module):
    '''Asks for an end at the given forward pass of 44 x 44 pixels, at which nothing is probed.'''
    def __init__(self, at=3):
        super().__init__()
        self.at, self.seen = at, 0
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        if tuple(x.shape[-2:]) == (44, 44):
            self.seen += 1
            if self.seen == self.at:
                signal.raise_signal(signal.SIGINT)
        return self.conv(x)
"""
SEAMS_JSON = {
    "tile", "overlap", "stride", "halo", "tiles", "overlaps", "max_dist", "tile_mismatch",
    "halo_curve", "smallest_seamless_halo", "tolerance", "verdict", "explanation",
}  # fmt: skip
VERDICTS = {
    "seamless", "edge effects", "tile statistics", "global coupling", "off the grid",
    "preprocessing", "postprocessing", "mixed",
}  # fmt: skip


class Text(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.feed(html)

    def handle_data(self, data):
        self.words.append(data)

    def __contains__(self, words: str) -> bool:
        return words in " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    here = tmp_path_factory.mktemp("files")
    pixels = np.random.default_rng(3).normal(size=(128, 100)).astype(np.float32)
    pixels *= np.linspace(0.3, 1, 128, dtype=np.float32)[:, None]
    tifffile.imwrite(here / "image.tif", pixels)
    tifffile.imwrite(here / "labels.tif", (pixels > 0.2).astype(np.uint8))
    import torch

    for norm in ("batch", "instance"):
        torch.manual_seed(0)
        network = networks.UNet(levels=1, norm=norm)
        save_file(network.state_dict(), here / f"{norm}.safetensors")
    (here / "prank.py").write_text(PRANK)
    return here


@pytest.fixture
def at_home(folder, monkeypatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


BATCH = f"{NETWORKS}:UNet(levels=1)@batch.safetensors"
INSTANCE = f"{NETWORKS}:UNet(levels=1,norm='instance')@instance.safetensors"


def run(*args: Any) -> Any:
    return typer.testing.CliRunner().invoke(app, [str(a) for a in args], prog_name="seamscope")


def ok(*args: Any) -> Any:
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    return result


def told(*args: Any) -> Any:
    return json.loads(ok(*args, "--json", "-").stdout)


def errors(result: Any) -> list[str]:
    return [line for line in result.stderr.splitlines() if not line.endswith(" ...")]


# ------------------------------------------------------------------------------------------ seams


def test_json_of_seams_is_what_papers_quote(at_home):
    found = told("seams", "image.tif", BATCH, "--trust", "--tile", 44)
    assert set(found) >= SEAMS_JSON
    assert found["tile"] == [44, 44]
    assert found["halo"] == [[8, 8], [8, 8]]
    assert found["verdict"] == "seamless"
    assert found["smallest_seamless_halo"] == [8, 8]
    assert len(found["tile_mismatch"]) == 2
    assert set(found["halo_curve"]) >= {"halo", "max_dist", "mean_dist", "tile_mismatch"}
    direct = measure_seams(
        "image.tif", seamscope.load_model(BATCH, trust=True), tile=44, overlap=found["overlap"]
    )
    assert found["max_dist"] == pytest.approx(direct.measures.max_dist, abs=1e-9)
    assert found["tiles"] == direct.tiles
    assert found["halo_curve"]["max_dist"] == pytest.approx(direct.curve.max_dist, abs=1e-9)


def test_statistics_of_tiles_are_named(at_home):
    found = told("seams", "image.tif", INSTANCE, "--trust", "--tile", 44, "--overlap", 24)
    assert found["verdict"] in {"tile statistics", "mixed"}
    assert found["smallest_seamless_halo"] is None
    shares = {each["cause"]: each["share"] for each in found["findings"]}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["tile statistics"] > 0.5


def test_a_tile_too_small_for_its_halo_is_measured_not_refused(at_home):
    result = ok("seams", "image.tif", BATCH, "--trust", "--tile", 16, "--json", "o.json")
    found = json.loads(Path("o.json").read_text())
    assert found["tile"] == [16, 16]
    assert found["verdict"] == "edge effects"
    assert (
        "The network's reach is 8 px. Tile and overlap leave room for a halo of 4 px"
        in result.stderr
    )
    assert "Edge effects." in result.stdout
    assert "halo of 8" in result.stdout
    words = ("image.tif", BATCH, "o.zarr", "--trust", "--tile", 44, "--dry-run")
    assert "Use an overlap of 16 px" in ok("predict", *words, "--overlap", 4).stderr
    assert "Use an overlap of" not in ok("predict", *words, "--overlap", 16).stderr


def test_text_page_and_layers_tell_the_same(at_home, tmp_path):
    out = {name: tmp_path / name for name in ("o.json", "o.html", "o.zarr")}
    result = ok(
        "seams", "image.tif", INSTANCE, "--trust", "--tile", 44, "--halo", 6, "--overlap", 20,
        "--json", out["o.json"], "--report", out["o.html"], "--layers", out["o.zarr"], "--certify",
    )  # fmt: skip
    found = json.loads(out["o.json"].read_text())
    said = " ".join(result.stdout.split())
    assert "tile 44 x 44 px" in said
    assert "stride 24 x 24 px" in said
    assert f"max difference {found['max_dist']:.3g}; 0 is seamless" in said
    assert found["certificate"]["passed"] is False
    assert in_command(found["certificate"]["sentence"]) in result.stdout
    page = Text(out["o.html"].read_text(encoding="utf-8"))
    for words in (
        found["diagnosis"]["summary"],
        *(each["what"] for each in found["findings"] if each["share"]),
        found["certificate"]["sentence"].replace("`", ""),  # marks of settings
        f"max difference {found['max_dist']:.3g}",
        f"{found['fingerprint']}",
        "image.tif",
        "reach",
    ):
        assert words in page, words
    maps = zarr.open(str(out["o.zarr"]), mode="r")
    assert maps.shape == (4, 128, 100)
    assert maps[0].max() == pytest.approx(found["max_dist"], rel=1e-6)
    assert read_record(out["o.zarr"])["finished"] is True


def test_without_explaining_it_only_measures(at_home):
    found = told("seams", "image.tif", BATCH, "--trust", "--tile", 44, "--no-explain")
    assert found["verdict"] is None
    assert found["explanation"] == found["sentence"]


def test_tiles_that_only_touch_are_said_to_be_measured_otherwise(at_home):
    words = ("image.tif", BATCH, "--trust", "--tile", 44, "--halo", 0, "--area", "y=0:88,x=0:88")
    text = " ".join(ok("predict", *words[:2], at_home / "touching.zarr", *words[2:]).stdout.split())
    assert "Seams were not measured: neighbouring tiles only touch" in text
    assert "Measure them (step Seams, seamscope seams) without a set overlap" in text
    found = told("seams", *words, "--no-explain")
    assert found["overlaps_measured"] > 0
    assert "px apart, closer than in a prediction" in found["explanation"]


def test_one_tile_has_no_seams(at_home, tmp_path):
    page = tmp_path / "o.html"
    result = ok("seams", "image.tif", BATCH, "--trust", "--tile", 256, "--report", page)
    assert "One tile covers the image: there are no seams." in Text(page.read_text())
    assert "Seamless." in result.stdout


def test_what_memory_allowed_is_explained_and_certified(at_home):
    found = told("seams", "image.tif", "prank.py:Crowded()", "--trust", "--tile", 44, "--certify")
    assert found["tile"] < [44, 44]
    assert found["diagnosis"]["tile"] == found["tile"]
    assert found["certificate"]["tile"] == found["tile"]


def test_the_tolerance_is_that_of_report_and_diagnosis(at_home):
    args = ["seams", "image.tif", BATCH, "--trust", "--tile", 44, "--halo", 4]
    strict, loose = told(*args), told(*args, "--tolerance", 1000)
    assert (strict["seamless"], strict["verdict"]) == (False, "edge effects")
    assert (loose["seamless"], loose["verdict"]) == (True, "seamless")


@pytest.mark.parametrize("command", ["seams", "certify"])
@pytest.mark.parametrize("text", ["nan", "inf", "-1", "x"])
def test_a_tolerance_that_is_none_is_a_usage_error(command, text):
    result = run(command, "a.tif", "m.pt", f"--tolerance={text}")
    assert result.exit_code == 2
    assert "finite and 0" in " ".join(result.stderr.replace("│", " ").split())


def test_seamless_is_said_once(at_home):
    said = ok("seams", "image.tif", BATCH, "--trust", "--tile", 44).stdout
    assert said.count("Seamless") == 1
    assert "Seamless at halo 8: " in said


def test_a_sample_says_so(at_home):
    found = told("seams", "image.tif", BATCH, "--trust", "--tile", 32, "--sample", "--no-explain")
    assert 0 < found["overlaps_measured"] < found["overlaps"]
    assert found["mean_dist_interval"] is None or len(found["mean_dist_interval"]) == 2


def test_layers_of_an_interrupted_run_are_not_left(at_home, tmp_path):
    model = "prank.py:Stopped(at=4)"
    result = run("seams", "image.tif", model, "--trust", "--tile", 44, "--halo", 4,
                 "--layers", tmp_path / "o.zarr")  # fmt: skip
    assert result.exit_code == 130, result.stderr
    assert errors(result)[-1] == "Stopped."
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------- certify


def test_certificate_is_stored_with_the_result(at_home, tmp_path):
    out = tmp_path / "o.zarr"
    ok("predict", "image.tif", BATCH, out, "--trust", "--tile", 44)
    page = tmp_path / "c.html"
    result = ok("certify", "image.tif", BATCH, "--trust", "--tile", 44, "--store", out,
                "--report", page)  # fmt: skip
    assert result.stdout.startswith("Passed")
    assert read_record(out)["certificate"]["passed"] is True
    assert "Passed" in Text(page.read_text())
    wrong = run("certify", "image.tif", BATCH, "--trust", "--tile", 32, "--store", out)
    assert wrong.exit_code == 1
    assert "was made with the tile" in wrong.stderr


def test_what_does_not_pass_ends_with_one(at_home):
    result = run("certify", "image.tif", BATCH, "--trust", "--tile", 44, "--halo", 2, "--json", "-")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["passed"] is False
    assert found["max_difference"] > found["tolerance"]


# ------------------------------------------------------------------------------------------ sweep


def test_sweep_tells_sizes_labels_and_content(at_home, tmp_path):
    page = tmp_path / "o.html"
    args = ["image.tif", INSTANCE, "--trust", "--tiles", "32,64x48", "--halo", 8]
    args += ["--labels", "labels.tif", "--report", page, "--json", tmp_path / "o.json"]
    result = ok("sweep", *args)
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["names"] == ["32", "64 x 48", "untiled"]
    assert found["max_dist"][0][2] == found["max_dist"][2][0] > found["tolerance"]
    assert found["mismatch_to_last"]["value"][2] == [0, 0]
    assert len(found["dice"]["value"]) == 3
    assert found["content"]["features"] == found["classes"] == ["channel 0", "channel 1"]
    assert found["explanation"] in result.stdout
    assert found["explanation"] in Text(page.read_text(encoding="utf-8"))
    pixels = tifffile.imread("labels.tif")
    assert found["content"]["whole"][1] == pytest.approx(pixels.mean())


def test_sweep_of_the_sample():
    args = ["demo:tissue2d", "demo:batchnorm", "--tiles", "128,256", "--area", "y=0:384,x=0:384"]
    found = told("sweep", *args, "--labels", "demo:tissue2d", "--halo", 8)
    # "untiled" is of the whole image, of which only this area is wanted
    assert found["names"] == ["128", "256", "untiled"]
    assert min(found["dice"]["value"][-1]) > 0.9


# -------------------------------------------------------------------------------------- bad inputs

BAD = {
    "seams, no image": (["seams", "no.tif", BATCH], "no file or folder no.tif"),
    "seams, tile off the period": (["seams", "image.tif", BATCH, "--tile", "43"], "use 42 or 44"),
    "seams, page nowhere": (["seams", "image.tif", BATCH, "--report", "no/o.html"], "--report"),
    "seams, page onto the image": (
        ["seams", "image.tif", BATCH, "--report", "image.tif"], "would overwrite"),
    "seams, page onto the JSON": (
        ["seams", "image.tif", BATCH, "--json", "o.json", "--report", "o.json"], "would overwrite"),
    "seams, layers of no kind": (
        ["seams", "image.tif", BATCH, "--tile", "44", "--layers", "o.xyz"], "does not say what"),
    "seams, layers onto the image": (
        ["seams", "image.tif", BATCH, "--tile", "44", "--layers", "image.tif", "--overwrite"],
        "which is read"),
    "certify, no store": (
        ["certify", "image.tif", BATCH, "--tile", "44", "--store", "no.zarr"], "no result no.zarr"),
    "sweep, one size": (["sweep", "image.tif", BATCH, "--tiles", "512"], "takes two"),
    "sweep, off the period": (["sweep", "image.tif", BATCH, "--tiles", "43,64"], "use 42 or 44"),
    "sweep, no labels": (
        ["sweep", "image.tif", BATCH, "--tiles", "32", "--labels", "no.tif"], "no file"),
    "sweep, other labels": (
        ["sweep", "image.tif", BATCH, "--tiles", "32", "--labels", "demo:tissue2d",
         "--foreground", "0"], "1024 pixels and the prediction"),
    "sweep, no such foreground": (
        ["sweep", "image.tif", BATCH, "--tiles", "32", "--labels", "labels.tif",
         "--foreground", "7"], "counted from 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_its_sentence(case, at_home):
    args, words = BAD[case]
    before = sorted(at_home.iterdir())
    content = (at_home / "image.tif").read_bytes()
    result = run(*args, "--trust")
    said = [line for line in errors(result) if not line.startswith("Note: ")]
    assert result.exit_code == 1, result.output
    assert len(said) == 1, said
    assert said[0].startswith("Error: ")
    assert words in said[0]
    assert result.stdout == ""
    assert sorted(at_home.iterdir()) == before
    assert (at_home / "image.tif").read_bytes() == content


@pytest.mark.parametrize("text", ["", "a", "32,", "32xq", "1.5"])
def test_sizes_that_cannot_be_read_are_usage_errors(text):
    result = run("sweep", "a.tif", "m.pt", "--tiles", text)
    assert result.exit_code == 2
    assert "--tiles" in result.stderr


def test_no_sizes_are_a_usage_error():
    assert run("sweep", "a.tif", "m.pt").exit_code == 2


@pytest.mark.parametrize("command", ["seams", "certify", "sweep"])
def test_code_runs_only_when_trusted(command, at_home):
    extra = ["--tiles", "32"] if command == "sweep" else []
    result = run(command, "image.tif", "prank.py:Stopped()", *extra)
    assert result.exit_code == 3
    assert "--trust" in result.stderr


def test_kinds_are_the_engines():
    assert sorted(options.Kind) == sorted({"auto", *KINDS})


def test_interrupted_sweep_and_certificate_say_so(at_home):
    for args in (["certify", "--tile", "44"], ["sweep", "--tiles", "44"]):
        before = signal.getsignal(signal.SIGINT)
        command, *rest = args
        result = run(command, "image.tif", "prank.py:Stopped(at=2)", *rest, "--trust")
        assert result.exit_code == 130, (args, result.stderr)
        assert errors(result)[-1] == "Stopped."
        assert signal.getsignal(signal.SIGINT) is before


def test_the_package_offers_what_its_entry_point_needs():
    assert cli.__all__ == ["app", "main"]


# ---------------------------------------------------------------------------------- real networks


def test_real_instance_norm_at_64_gets_tile_statistics_and_no_halo(real_models, real_images):
    weights = real_models / "unet2d_covid_if_instancenorm" / "state_dict.safetensors"
    found = told(
        "seams", real_images / "nuclei_2d.tif", f"{REAL}:covid_instancenorm@{weights}", "--trust",
        "--tile", 64, "--normalize", "zscore", "--area", "y=0:192,x=0:192",
    )  # fmt: skip
    assert found["verdict"] == "tile statistics"
    assert found["smallest_seamless_halo"] is None
    assert found["halo"] == [[16, 16], [16, 16]], "a quarter of the tile: the reach of 58 cannot be"


def test_real_norm_free_network_gets_edge_effects_and_its_halo(real_models, real_images):
    weights = real_models / "unet2d_nuclei_broad" / "state_dict.safetensors"
    found = told(
        "seams", real_images / "nuclei_2d.tif", f"{REAL}:nuclei_broad@{weights}", "--trust",
        "--tile", 256, "--halo", 16, "--overlap", 128, "--normalize", "zscore",
    )  # fmt: skip
    assert found["verdict"] == "edge effects"
    assert all(48 <= side <= 58 for sides in found["suggested_halo"] for side in sides)
    # where nothing bright is near a border, less is within noise
    assert all(32 <= halo <= 58 for halo in found["smallest_seamless_halo"])
