"""``seamscope run``, ``--protocol`` and commands that are written for a shell."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import tifffile
import typer.main
from typer.testing import CliRunner

import seamscope
from seamscope.cli import app
from seamscope.cli.options import ImageOptions, ModelOptions, group_of, settings_of
from seamscope.cli.protocols import command_of
from seamscope.images.records import read_record
from seamscope.planning.protocol import FixedStatistics, ImageChoice, Network, Protocol
from seamscope.settings import Settings

EVERYTHING = Settings(
    tile=(96, 128), halo=((10, 20), 16), overlap=(40, 50), blend="gaussian", batch=3,
    device="cuda:1", precision="bfloat16", normalize="percentile", percentiles=(0.5, 99.25),
    result="labels", threshold=-0.25, background=2, area={"t": (3, 4), "x": (10, 200)},
    padding="zeros", channel_axis="z", channel=0, fill_nan=-1.5, accelerate=False, memory=10**9,
    seams="sample", postprocess=False,
)  # fmt: skip


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("protocols")
    pixels = np.random.default_rng(0).integers(0, 255, (2, 150, 130), np.uint8)
    tifffile.imwrite(folder / "an image.tif", pixels, photometric="minisblack")
    done = run(
        "predict", folder / "an image.tif", "demo:instancenorm", folder / "a.npy", "--axes", "tyx",
        "--tile", 96, "--halo", 16, "--area", "t=1,y=20:150", "--blend", "linear",
        "--save-protocol", folder / "p.toml", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_every_choice_is_an_option_and_is_read_as_it_was() -> None:
    image = ImageChoice(axes="tzyx", series="A/1/0", level=2, alpha=False, nodata=-1.0)
    network = Network("n.pt2#1", "5c", channels=1, spatial_axes=2, input_size=(64, 32), step=8,
                      kind="logits", dropout=False, ignore_extra=True)  # fmt: skip
    protocol = Protocol(network, EVERYTHING, image, FixedStatistics("s.statistics", "7d"))
    words = shlex.split(command_of(protocol, "-odd name'.tif", "out.zarr"))
    assert words[:2] == ["seamscope", "predict"]
    assert words[2:5] == ["-odd name'.tif", "n.pt2#1", "out.zarr"]
    assert all(vars(EVERYTHING)[name] != value for name, value in vars(Settings()).items())
    command = typer.main.get_command(app).commands["predict"]
    given = command.make_context("predict", ["image", *words[3:]]).params
    assert settings_of(**given) == EVERYTHING
    assert vars(group_of(ImageOptions, given)) | vars(image) == vars(group_of(ImageOptions, given))
    loading = vars(group_of(ModelOptions, given))
    stated = {k: loading[k] for k in ("channels", "spatial_axes", "step", "ignore_extra")}
    assert stated == {"channels": 1, "spatial_axes": 2, "step": 8, "ignore_extra": True}
    assert (loading["input_size"], str(loading["kind"])) == ((64, 32), "logits")
    assert (loading["no_dropout"], loading["trust"]) == (True, False)
    told = loading["statistics"], loading["statistics_digest"], loading["fingerprint"]
    assert told == ("s.statistics", "7d", "5c")


def test_run_the_option_the_command_and_the_result_repeat_alike(folder) -> None:
    first = np.load("a.npy")
    protocol = Protocol.load("p.toml")
    words = shlex.split(command_of(protocol, "an image.tif", "copied.npy"))
    assert run("run", "p.toml", "an image.tif", "b.npy", "-q").exit_code == 0
    assert run("run", "a.npy", "an image.tif", "c.npy", "-q").exit_code == 0
    assert run("predict", "an image.tif", "demo:instancenorm", "d.npy", "--protocol", "p.toml",
               "-q").exit_code == 0  # fmt: skip
    assert run(*words[1:], "-q").exit_code == 0
    for name in ("b", "c", "d", "copied"):
        np.testing.assert_array_equal(np.load(f"{name}.npy"), first)
    assert read_record("b.npy")["protocol"] == read_record("a.npy")["protocol"]
    assert first.shape[-2:] == (130, 130)  # of the area
    image = seamscope.open_image("an image.tif", axes="tyx")
    expected = seamscope.predict(
        image, "demo:instancenorm", tile=96, halo=16, blend="linear",
        area={"t": (1, 2), "y": (20, 150)},
    )  # fmt: skip
    np.testing.assert_array_equal(first, expected)


def test_options_that_are_given_replace_those_of_the_protocol() -> None:
    done = run("run", "p.toml", "an image.tif", "x.npy", "--tile", "128,64", "--json", "-",
               "--dry-run")  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["plan"]
    assert (told["tile"], told["blend"]) == ([128, 64], "linear")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "p.toml", "an image.tif", "x.npy", "--model", "demo:batchnorm"), "52d3e6ce9fa"),
        (("run", "none.toml", "an image.tif", "x.npy"), "There is no file none.toml"),
        (("run", "an image.tif", "an image.tif", "x.npy"), "holds no protocol"),
        (("run", "p.toml", "an image.tif", "x.npy", "--save-protocol", "y.toml"), "--save"),
        (("predict", "an image.tif", "demo:batchnorm", "x.npy", "--protocol", "p.toml"), "52d3"),
        (("predict", "an image.tif", "demo:batchnorm", "x.npy", "--axes", "tyx",
          "--save-protocol", "p.toml"), "p.toml exists"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(words, said) -> None:
    done = run(*words)
    assert done.exit_code in (1, 2)
    assert said in " ".join(done.output.split())


def test_a_recipe_is_repeated_too(folder) -> None:
    words = ("--model", "demo:instancenorm", "--tile", 96, "--recipe", "components", "--channel",
             1, "--threshold", 0.2, "--axes", "tyx")  # fmt: skip
    done = run("segment", "an image.tif", "l.tif", *words, "--save-protocol", "r.toml", "-q")
    assert done.exit_code == 0, done.output
    done = run("run", "r.toml", "an image.tif", "m.tif", "-q")
    assert done.exit_code == 0, done.output
    labels = tifffile.imread("l.tif")
    assert labels.max() > 1
    np.testing.assert_array_equal(tifffile.imread("m.tif"), labels)
    assert read_record("m.tif")["protocol"]["recipe"]["threshold"] == 0.2
    assert Protocol.load("m.tif") == Protocol.load("r.toml")


@pytest.mark.parametrize(
    "words",
    [("--dry-run",), ("--grid", "g.csv"), ("--threshold", 0.2)],
)
def test_options_that_labels_lack_are_refused(folder, words) -> None:
    Protocol(
        Network("demo:instancenorm", ""), Settings(), ImageChoice("tyx"), None,
        {"kind": "components", "channel": 1, "threshold": 0.2},
    ).save("refused.toml")  # fmt: skip
    try:
        done = run("run", "refused.toml", "an image.tif", "refused.tif", *words)
    finally:
        (folder / "refused.toml").unlink()
    assert done.exit_code == 1
    assert f"{words[0]} does not apply to this protocol" in " ".join(done.output.split())
    assert not (folder / "refused.tif").exists()
