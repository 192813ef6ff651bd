"""The command line: what it answers, refuses, writes, and how it ends."""

from __future__ import annotations

import dataclasses
import errno
import inspect
import io
import json
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import rich.console
import tifffile
import torch
import typer.testing
import zarr
from safetensors.torch import save_file
from torch import nn

import networks
import seamscope
from seamscope import cli
from seamscope.cli import demo, interrupts, options, predict, progress
from seamscope.cli.answer import Answer
from seamscope.cli.command import ExitCode
from seamscope.images.image import open_image
from seamscope.images.records import read_record
from seamscope.settings import WORDS, Method, Padding, Precision, Result, Seams, Settings
from seamscope.stitching import BLENDS
from seamscope.text import duration_text, steps_text

# In standard deviations of the output; a halo one pixel short is off by 1e-3 and more.
NOISE = 1e-4
NETWORKS = Path(networks.__file__)

# Networks that misbehave while they predict: at 44 x 44, with which nothing is probed.
PRANKS = """
import os, signal, time
import torch
from torch import nn
from pathlib import Path

open(os.path.join(os.path.dirname(__file__), "imported"), "w").close()

class Prank(nn.Module):
    def __init__(self, at=0, signals=1, gate=None, hungry=False, starving=False):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        with torch.no_grad():
            self.conv.weight[:] = torch.linspace(-1, 1, 18).reshape(2, 1, 3, 3)
            self.conv.bias[:] = 0.25
        self.at, self.signals, self.gate = at, signals, gate
        self.hungry, self.starving = hungry, starving
        self.tiles = 0

    def forward(self, x):
        if tuple(x.shape[-2:]) == (44, 44):
            if self.starving or self.hungry and len(x) > 1:
                raise RuntimeError("CUDA out of memory. Tried to allocate 80 GiB")
            self.tiles += 1
            if self.gate and self.tiles == self.at:  # waits in this tile until it may go on
                Path(self.gate, "waiting").touch()
                while not Path(self.gate, "open").exists():
                    time.sleep(0.01)
            elif self.tiles == self.at:
                for _ in range(self.signals):
                    signal.raise_signal(signal.SIGINT)
                    time.sleep(0)
        return self.conv(x)

def boom(): raise ValueError("no luck")
def leave(): raise SystemExit(4)
def number(): return 3

class Pair(nn.Module):
    def forward(self, x): return x, x
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images and models, good and bad."""
    here = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(3)
    pixels = rng.normal(size=(128, 100)).astype(np.float32)
    tifffile.imwrite(here / "image.tif", pixels)
    whole = (here / "image.tif").read_bytes()
    (here / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (here / "junk.tif").write_bytes(b"II*\0" + b"junk" * 100)
    (here / "empty.tif").touch()
    (here / "text.tif").write_text("hello there")
    bad = pixels.copy()
    bad[100, 50] = np.nan
    tifffile.imwrite(here / "nan.tif", bad)
    np.save(here / "rgb.npy", rng.random((3, 64, 48), np.float32))
    np.save(here / "colours.npy", rng.random((64, 48, 3), np.float32))
    torch.manual_seed(0)
    network = networks.UNet(levels=1)
    save_file(network.state_dict(), here / "unet.safetensors")
    for name in ("unet.pth", "unet.safetensors"):
        if name.endswith("pth"):
            torch.save(network.state_dict(), here / name)
        content = (here / name).read_bytes()
        (here / f"cut-{name}").write_bytes(content[: len(content) // 2])
    torch.save(network, here / "pickled.pth")
    (here / "pranks.py").write_text(PRANKS)
    return here


@pytest.fixture
def at_home(folder, tmp_path, monkeypatch) -> Path:
    """Among the files, with an empty folder `tmp_path` for results."""
    monkeypatch.chdir(folder)
    return folder


UNET = f"{NETWORKS}:UNet(levels=1)@unet.safetensors"


def unet(folder: Path) -> nn.Module:
    torch.manual_seed(0)
    return networks.UNet(levels=1).eval()


def run(*args: Any) -> Any:
    """Run the command in this process."""
    return typer.testing.CliRunner().invoke(cli.app, [str(a) for a in args], prog_name="seamscope")


def ok(*args: Any) -> Any:
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    return result


def sentences(result: Any) -> list[str]:
    """What was said, progress left out."""
    return [line for line in result.stderr.splitlines() if not line.endswith(" ...")]


def untiled(network: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """The network on the whole image at once, an image of even sizes."""
    with torch.inference_mode():
        return network(torch.from_numpy(pixels)[None, None])[0].numpy()


def assert_same(found: Any, expected: np.ndarray, tolerance: float = NOISE) -> None:
    found = np.asarray(found)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < tolerance * expected.std()


# ------------------------------------------------------------------------------------- at once


ANSWERS = """
import contextlib, io, json, sys
from seamscope import cli
heavy = ("torch", "numpy", "scipy", "zarr", "matplotlib", "jinja2", "napari", "qtpy")
for args in json.loads(sys.argv[1]):
    sys.argv, shown = ["seamscope", *args], io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, [name for name in heavy if name in sys.modules], shown.getvalue()]))
"""


def test_answers_without_loading_anything_heavy():
    """The help of all commands, one after another in a fresh process."""
    names = [each.callback.__name__.replace("_", "-") for each in cli.app.registered_commands]
    asked = [["--help"], ["--version"], ["nonsense"], *([name, "--help"] for name in names)]
    command = [sys.executable, "-c", ANSWERS, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for args, line in zip(asked, done.stdout.splitlines(), strict=True):
        code, heavy, shown = json.loads(line)
        assert (args, code, heavy) == (args, 2 if args == ["nonsense"] else 0, [])
        assert args[0] not in names or "--debug" in shown
    assert len(names) > 10


def test_version_from_the_module():
    done = subprocess.run(
        [sys.executable, "-m", "seamscope", "--version"], capture_output=True, text=True
    )
    assert done.stdout.split() == ["seamscope", seamscope.__version__]


def test_exit_codes_are_documented():
    told = ok("predict", "--help").stdout
    codes = {value for name, value in vars(ExitCode).items() if name.isupper()}
    listed = told[told.index("Exit codes") :].splitlines()[1:]
    assert {int(line.split()[0]) for line in listed if line.strip()} == codes


# ------------------------------------------------------------------------- one vocabulary, not two


@pytest.mark.parametrize(
    ("here", "engine"),
    [
        (options.Blend, BLENDS),
        (options.Precision, get_args(Precision)),
        (options.Normalize, ("auto", *get_args(Method))),
        (options.Result, get_args(Result)),
        (options.Padding, get_args(Padding)),
        (options.Seams, get_args(Seams)),
    ],
)
def test_choices_are_the_engines(here, engine):
    assert sorted(here) == sorted(engine)


def test_every_setting_is_an_option_with_the_same_default():
    asked = inspect.signature(predict.predict).parameters
    for field in dataclasses.fields(Settings):
        default = asked[field.name].default
        if field.name == "percentiles":
            default = options.percentages(default)
        assert default == field.default, field.name


def test_every_setting_has_its_words():
    assert list(WORDS) == [field.name for field in dataclasses.fields(Settings)]
    for name, words in WORDS.items():
        assert words.help in Settings.__doc__.replace("\n    ", " "), name


def test_every_option_reaches_its_setting(at_home, tmp_path):
    given = {
        "--tile": ("44,40", "tile", [44, 40]),
        "--halo": ("8/9,10", "halo", [[8, 9], [10, 10]]),
        "--overlap": ("20,22", "overlap", [20, 22]),
        "--blend": ("gaussian", "blend", "gaussian"),
        "--batch": ("3", "batch", 3),
        "--device": ("cpu", "device", "cpu"),
        "--precision": ("bfloat16", "precision", "bfloat16"),
        "--normalize": ("percentile", "normalize", "percentile"),
        "--percentiles": ("2,98.5", "percentiles", [2.0, 98.5]),
        "--area": ("y=3:60,x=5", "area", {"y": [3, 60], "x": [5, 6]}),
        "--result": ("labels", "result", "labels"),
        "--threshold": ("0.25", "threshold", 0.25),
        "--background": ("1", "background", 1),
        "--padding": ("zeros", "padding", "zeros"),
        "--channel-axis": ("c", "channel_axis", "c"),
        "--channel": ("1", "channel", 1),
        "--fill-nan": ("-7", "fill_nan", -7.0),
        "--memory": ("1.5GB", "memory", 1_500_000_000),
        "--seams": ("all", "seams", "all"),
    }
    asked = [part for option, (text, *_) in given.items() for part in (option, text)]
    place = ["rgb.npy", UNET, tmp_path / "o.zarr", "--trust", "--axes", "cyx"]
    result = ok("predict", *place, *asked, "--no-accelerate", "--raw", "--dry-run", "--json", "-")
    plan = json.loads(result.stdout)["plan"]
    assert {name: plan[name] for _, name, _ in given.values()} == {
        name: value for _, name, value in given.values()
    }
    assert plan["accelerate"] is False
    assert plan["postprocess"] is False
    assert plan["axes"] == "cyx"
    unasked = {field.name for field in dataclasses.fields(Settings)}
    unasked -= {"accelerate", "postprocess"}
    assert unasked == {name for _, name, _ in given.values()}


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4e9), ("500 mb", 5e8), ("2GiB", 2**31), ("1e6", 1e6), ("16K", 16e3), ("1T", 1e12)],
)
def test_amounts_of_memory(text, size):
    assert options.bytes_of(text) == size


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tile", "big"),
        ("--tile", "64,"),
        ("--halo", "3/"),
        ("--halo", "1/2/3"),
        ("--overlap", "1.5"),
        ("--memory", "lots"),
        ("--memory", "0GB"),
        ("--memory", "1.2.3"),
        ("--percentiles", "99,1"),
        ("--percentiles", "5"),
        ("--percentiles", "nan,5"),
        ("--area", "y=1-5"),
        ("--area", "q=1:5"),
        ("--area", "y=0:5,y=10:20"),
        ("--blend", "cubic"),
        ("--batch", "two"),
        ("--tile", None),
    ],
)
def test_what_cannot_be_read_is_a_usage_error(option, value, tmp_path):
    result = run("predict", "a.tif", "m.pt", tmp_path / "o.zarr", option, *[value] * bool(value))
    assert result.exit_code == 2
    assert option in result.stderr
    assert "Traceback" not in result.stderr


# --------------------------------------------------------------------------------------- predict


@pytest.mark.parametrize("out", ["o.zarr", "o.ome.zarr", "o.tif", "o.ome.tif", "o.npy"])
def test_prediction_equals_the_untiled_network(out, at_home, tmp_path):
    target = tmp_path / out
    result = ok("predict", "image.tif", UNET, target, "--trust", "--tile", 44)
    expected = untiled(unet(at_home), tifffile.imread("image.tif"))
    assert_same(open_image(target).read((slice(None),) * 3), expected)
    assert read_record(target)["finished"] is True
    assert str(target) in result.stdout
    assert "in " in result.stdout


def test_a_halo_that_is_too_small_shows_and_is_noted(at_home, tmp_path):
    args = ["image.tif", UNET, tmp_path / "o.npy", "--trust", "--tile", 44, "--halo", 2]
    # the reach is in the JSON of info; a halo given by hand is noted when the reach is known
    ok("predict", *args)
    expected = untiled(unet(at_home), tifffile.imread("image.tif"))
    with pytest.raises(AssertionError):
        assert_same(np.load(tmp_path / "o.npy"), expected)


def test_labels_as_a_picture_of_an_area(at_home, tmp_path):
    part = ["--area", "y=17:90,x=30:77", "--result", "labels"]
    ok("predict", "image.tif", UNET, tmp_path / "o.png", "--trust", "--tile", 44, *part)
    expected = untiled(unet(at_home), tifffile.imread("image.tif")).argmax(0)[17:90, 30:77]
    found = open_image(tmp_path / "o.png").read((slice(None), slice(None)))
    assert (found == expected).mean() > 0.999


def test_normalized_over_the_whole_image(at_home, tmp_path):
    pixels = tifffile.imread("image.tif") * 40 + 1000
    tifffile.imwrite(tmp_path / "bright.tif", pixels)
    args = [tmp_path / "bright.tif", UNET, tmp_path / "o.npy", "--trust", "--tile", 44]
    ok("predict", *args, "--normalize", "zscore")
    standard = (pixels - pixels.mean(dtype=np.float64)) / pixels.std(dtype=np.float64)
    assert_same(np.load(tmp_path / "o.npy"), untiled(unet(at_home), standard.astype(np.float32)))


def test_one_channel_of_several(at_home, tmp_path):
    args = ["rgb.npy", UNET, tmp_path / "o.npy", "--trust", "--axes", "cyx", "--channel", 2]
    ok("predict", *args)
    assert_same(np.load(tmp_path / "o.npy"), untiled(unet(at_home), np.load("rgb.npy")[2]))


def test_frames_one_by_one(at_home, tmp_path):
    out = tmp_path / "o.npy"
    ok("predict", "rgb.npy", UNET, out, "--trust", "--axes", "tyx", "--area", "t=1:3")
    frames = np.load("rgb.npy")
    expected = np.stack([untiled(unet(at_home), frame) for frame in frames[1:]])
    assert_same(np.load(out), expected)


SAMPLES = [("tissue2d", "demo:batchnorm", 4), ("tissue3d", f"{NETWORKS}:UNet(ndim=3,levels=1)", 2)]


@pytest.mark.parametrize(("sample", "model", "channels"), SAMPLES)
def test_sample_images(sample, model, channels, tmp_path):
    axes = "zyx" if sample == "tissue3d" else "yx"
    part = ",".join(f"{axis}=8:24" for axis in axes)
    args = [f"demo:{sample}", model, tmp_path / "o.zarr", "--area", part, "--trust", "--tile", 64]
    told = json.loads(ok("predict", *args, "--halo", 8, "--json", "-").stdout)
    assert told["image"]["name"] == sample
    assert told["output"]["axes"] == f"c{axes}"
    shape = zarr.open(str(tmp_path / "o.zarr"), mode="r").shape
    assert shape == (channels, *[16] * len(axes))


def test_axes_of_a_sample_can_be_renamed(at_home, tmp_path):
    args = ["demo:tissue2d", UNET, tmp_path / "o.zarr", "--trust", "--axes", "xy", "--dry-run"]
    assert json.loads(ok("predict", *args, "--json", "-").stdout)["plan"]["axes"] == "xy"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_model_that_is_already_there_needs_no_trust(at_home, tmp_path):
    traced = torch.jit.trace(unet(at_home), torch.zeros(1, 1, 32, 32))
    torch.jit.save(traced, tmp_path / "net.pt")
    ok("predict", "image.tif", tmp_path / "net.pt", tmp_path / "o.npy", "--tile", 44)
    expected = untiled(unet(at_home), tifffile.imread("image.tif"))
    assert_same(np.load(tmp_path / "o.npy"), expected)


def test_json_tells_plan_model_and_figures(at_home, tmp_path):
    args = ["image.tif", UNET, tmp_path / "o.zarr", "--trust", "--tile", 44]
    ok("predict", *args, "--json", tmp_path / "o.json")
    told = json.loads((tmp_path / "o.json").read_text())
    assert told["finished"] is True
    assert told["plan"]["tile"] == [44, 44]
    assert told["plan"]["halo"] == [[8, 8], [8, 8]]
    assert told["model"]["fingerprint"] == seamscope.load_model(unet(at_home)).fingerprint
    assert told["figures"]["tiles"] == told["plan"]["tiles"] == told["tiles_done"]
    assert told["output"] == {
        "path": str(tmp_path / "o.zarr"),
        "axes": "cyx",
        "shape": [2, 128, 100],
        "dtype": "float32",
    }
    stored = read_record(tmp_path / "o.zarr")
    assert stored["plan"] == told["plan"]


def test_json_on_standard_output_is_all_there_is_on_it(at_home, tmp_path):
    result = ok("predict", "image.tif", UNET, tmp_path / "o.zarr", "--trust", "--json", "-")
    assert json.loads(result.stdout)["finished"] is True
    assert "Measuring" in result.stderr


def test_seams_are_told_along_the_way(at_home, tmp_path):
    args = ["predict", "image.tif", UNET, tmp_path / "o.zarr", "--trust", "--tile", 44]
    result = ok(*args, "--halo", 2, "--seams", "all", "--json", tmp_path / "o.json")
    told = json.loads((tmp_path / "o.json").read_text())["figures"]["seams"]
    assert told["overlaps_measured"] == told["overlaps"]
    assert told["max_dist"] > told["tolerance"]
    assert result.stdout.splitlines()[-1] == told["sentence"]
    result = ok(*args, "--seams", "none", "--overwrite")
    assert len(result.stdout.splitlines()) == 1


def test_json_never_holds_what_json_does_not_know(capsys):
    Answer("-").write({"a": [float("nan"), (1.5, float("inf"))], "b": {"c": Path("x")}}, "text")
    found = json.loads(capsys.readouterr().out)
    assert found.pop("seamscope") == seamscope.__version__
    assert found == {"a": [None, [1.5, None]], "b": {"c": "x"}}


def test_quiet(at_home, tmp_path):
    result = ok("predict", "image.tif", UNET, tmp_path / "o.zarr", "--trust", "-q", "--tile", 512)
    assert (result.stdout, result.stderr) == ("", "")


@pytest.mark.parametrize("command", ["certify", "normalization", "receptive-field", "splits"])
def test_every_command_says_what_its_reader_chose(command, at_home, tmp_path):
    kind = np.uint8 if command == "splits" else np.float32
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as file:
        for size in (8, 9):
            objects = np.random.default_rng(0).integers(0, 9, (size, size)).astype(kind)
            file.write(objects.repeat(8, 0).repeat(8, 1))
    given = {
        "certify": [path, "demo:batchnorm"],
        "normalization": ["demo:instancenorm", "--image", path],
        "receptive-field": ["demo:batchnorm", "--image", path, "--tiles", 1],
        "splits": [path, "--tile", 16],
    }[command]
    assert "holds 2 images; number 0" in ok(command, *given).stderr
    assert "holds 2 images; number 1" in ok(command, *given, "--series", 1).stderr


def test_notes_of_plan_and_image_are_said(at_home, tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(tifffile.imread("image.tif"))
        file.write(np.zeros((7, 9), np.uint8))
    model = f"{NETWORKS}:UNet(levels=1,norm='instance')"
    result = ok("predict", tmp_path / "two.tif", model, tmp_path / "o.npy", "--trust", "--tile", 44)
    notes = [line for line in sentences(result) if line.startswith("Note: ")]
    assert any("holds 2 images" in note for note in notes)
    assert any("Expect seams that no halo removes" in note for note in notes)


def test_dry_run_shows_the_plan_and_writes_nothing(at_home, tmp_path):
    args = ["image.tif", UNET, tmp_path / "o.zarr", "--trust", "--tile", 44, "--dry-run"]
    text = ok("predict", *args).stdout
    told = json.loads(ok("predict", *args, "--json", "-").stdout)
    assert not list(tmp_path.iterdir())
    rows = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert rows["tile"].startswith("44 x 44, stride 28 x 28, halo 8, crop")
    # by hand: the first core takes lead 8 + stride 28, so 36, then 28 each: 128 and 100 pixels
    assert rows["tiles"].split()[0] == str(told["plan"]["tiles"])
    assert rows["computed"].startswith(f"{told['plan']['tiles'] * 44**2 / (128 * 100):.2f} pixels")
    assert told["figures"]["seconds_expected"] > 0
    assert told["finished"] is False


def test_less_memory_than_the_batch_needs_is_told_and_mended(at_home, tmp_path):
    args = ["image.tif", "pranks.py:Prank(hungry=True)", tmp_path / "o.npy", "--trust"]
    result = ok("predict", *args, "--tile", 44, "--batch", 4, "--json", tmp_path / "j.json")
    notes = [line for line in sentences(result) if "Memory ran out" in line]
    assert len(notes) == 2  # 4 -> 2 -> 1
    assert json.loads((tmp_path / "j.json").read_text())["plan"]["batch"] == 1
    ok("predict", "image.tif", "pranks.py:Prank()", tmp_path / "p.npy", "--trust")
    assert_same(np.load(tmp_path / "o.npy"), np.load(tmp_path / "p.npy"))


def test_dry_run_of_a_tile_that_fails_says_so(at_home, tmp_path):
    args = ["image.tif", "pranks.py:Prank(hungry=True)", tmp_path / "o.zarr", "--trust"]
    text = ok("predict", *args, "--tile", 44, "--dry-run").stdout
    assert "9 (whole grid" in text
    assert "time         about" in text
    args[1] = "pranks.py:Prank(starving=True)"
    assert (
        "unknown, one tile failed: CUDA out of memory"
        in ok("predict", *args, "--tile", 44, "--dry-run").stdout
    )


# ------------------------------------------------------------------------------------ bad inputs

OUT = "OUT"  # replaced by a fresh place
BAD = {
    "no image": (["no.tif", UNET, OUT], "no file or folder no.tif"),
    "folder": ([".", UNET, OUT], "is one file, and there are several images"),
    "cut image": (["cut.tif", UNET, OUT], "cut short"),
    "corrupt image": (["junk.tif", UNET, OUT], "damaged"),
    "empty image": (["empty.tif", UNET, OUT], "empty"),
    "no image at all": (["text.tif", UNET, OUT], "of no kind that is known"),
    "no sample": (["demo:nix", UNET, OUT], "demo:tissue2d"),
    "too few axes": (
        ["image.tif", f"{NETWORKS}:UNet(ndim=3)", OUT],
        "give one with 3 axes or more",
    ),
    "unnamed axes": (["rgb.npy", UNET, OUT], "--axes"),
    "unnamed colours": (["colours.npy", UNET, OUT], "Name them (--axes), for example yxc."),
    "wrong axes": (["rgb.npy", UNET, OUT, "--axes", "yx"], "name 2 dimensions"),
    "wrong letters": (["rgb.npy", UNET, OUT, "--axes", "qyx"], "'qyx' must be different letters"),
    "channels": (["rgb.npy", UNET, OUT, "--axes", "cyx"], "--channel 0 to 2"),
    "channel": (["rgb.npy", UNET, OUT, "--axes", "cyx", "--channel", "7"], "counted from 0"),
    "channel axis": (["image.tif", UNET, OUT, "--channel-axis", "z"], "cannot become channels"),
    "NaN, measured": (
        ["nan.tif", UNET, OUT, "--normalize", "zscore"],
        "(100, 50) (yx). Every pixel in reach of one would be lost: give a value to use instead "
        "(--fill-nan 0)",
    ),
    "tile off the period": (["image.tif", UNET, OUT, "--tile", "43"], "use 42 or 44"),
    "tile for three axes": (["image.tif", UNET, OUT, "--tile", "44,44,44"], "2 spatial axes"),
    "no tile": (["image.tif", UNET, OUT, "--tile", "0"], "Tile 0 along y"),
    "tile below its halo": (
        ["image.tif", UNET, OUT, "--tile", "16", "--halo", "8"],
        "Use a tile of 18 or more",
    ),
    "negative halo": (["image.tif", UNET, OUT, "--halo", "-3"], "halo -3 along y must not be"),
    "level of one": (["rgb.npy", UNET, OUT, "--axes", "cyx", "--level", "2"], "Choose level 0"),
    "level of a sample": (["demo:tissue2d", UNET, OUT, "--level", "1"], "Choose level 0"),
    "series of one": (["rgb.npy", UNET, OUT, "--series", "2"], "rgb.npy holds 1 image(s)"),
    "empty image name": (["", UNET, OUT], "The name of the image is empty"),
    "empty model name": (["image.tif", "", OUT], "The name of the model is empty"),
    "empty place": (["image.tif", UNET, ""], "The name of OUT is empty"),
    "OME-Zarr version": (["image.tif", UNET, OUT, "--ome-version", "0.4"], "is for OME-Zarr"),
    "no pyramid": (["image.tif", UNET, OUT, "--no-pyramid"], "leave --no-pyramid out"),
    "JSON in a store": (["image.tif", UNET, OUT, "--json", "s3://b/j"], "only images are written"),
    "area": (["image.tif", UNET, OUT, "--area", "x=90:101"], "0 <= start < stop <= 100"),
    "area backwards": (["image.tif", UNET, OUT, "--area", "x=9:2"], "start < stop"),
    "area of no axis": (["image.tif", UNET, OUT, "--area", "z=1:2"], "cannot be cut"),
    "device": (["image.tif", UNET, OUT, "--device", "abacus"], "one of cpu"),
    "batch": (["image.tif", UNET, OUT, "--batch", "0"], "1 tile or more"),
    "budget": (["image.tif", UNET, OUT, "--memory", "1kB"], "--memory"),
    "ending": (["image.tif", UNET, "o.xyz"], "does not say what to write"),
    "place": (["image.tif", UNET, "nowhere/o.zarr"], "no folder nowhere"),
    "floats in a PNG": (["image.tif", UNET, "o.png"], "PNG is for labels"),
    "onto the image": (["image.tif", UNET, "image.tif", "--overwrite"], "which is read"),
    "no model": (["image.tif", "no.pt", OUT], "no file no.pt"),
    "no demo model": (["image.tif", "demo:nix", OUT], "demo:instancenorm"),
    "cut weights": (["image.tif", UNET.replace("@", "@cut-"), OUT], "cannot be read as a network"),
    "cut checkpoint": (["image.tif", f"{NETWORKS}:UNet()@cut-unet.pth", OUT], "its end is missing"),
    "weights alone": (["image.tif", "unet.pth", OUT], "say what builds it"),
    "other weights": (["image.tif", UNET.replace("=1", "=2"), OUT], "do not fit UNet"),
    "no factory file": (["image.tif", "no.py:Net", OUT], "no Python file no.py"),
    "no factory": (["image.tif", "pranks.py:Nix", OUT], "has no Nix"),
    "factory's arguments": (["image.tif", "pranks.py:Prank(3)", OUT], "give every argument"),
    "factory refuses": (["image.tif", "pranks.py:Prank(wrong=3)", OUT], "unexpected keyword"),
    "factory raises": (["image.tif", "pranks.py:boom", OUT], "no luck"),
    "factory leaves": (["image.tif", "pranks.py:leave", OUT], "ended the program"),
    "factory of no network": (["image.tif", "pranks.py:number", OUT], "returned a int"),
    "two outputs": (["image.tif", "pranks.py:Pair", OUT], "2 outputs"),
    "JSON nowhere": (["image.tif", UNET, OUT, "--json", "nowhere/j"], "--json"),
    "JSON onto the image": (["image.tif", UNET, OUT, "--json", "image.tif"], "image.tif"),
    "JSON onto the weights": (["image.tif", UNET, OUT, "--json", "unet.safetensors"], "overwrite"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_its_sentence(case, at_home, tmp_path):
    args, words = BAD[case]
    before = {p.name: p.read_bytes() for p in at_home.iterdir() if p.is_file()}
    place = tmp_path / "o.zarr"
    result = run("predict", *[place if a == OUT else a for a in args], "--trust")
    said = sentences(result)
    assert result.exit_code == 1, result.output
    assert len(said) == 1, said
    assert said[0].startswith("Error: ")
    assert words in said[0]
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())
    after = {p.name: p.read_bytes() for p in at_home.iterdir() if p.is_file()}
    after.pop("imported", None)
    before.pop("imported", None)
    assert after == before


def test_a_value_that_is_not_finite_in_the_middle(at_home, tmp_path):
    out = tmp_path / "o.zarr"
    result = run("predict", "nan.tif", UNET, out, "--trust", "--tile", 44)
    kept, error = sentences(result)
    assert result.exit_code == 1
    assert "y 100, x 50" in error
    assert "--fill-nan" in error
    assert "It is unfinished" in kept
    assert read_record(f"{out}.partial")["finished"] is False
    assert not out.exists()
    ok("predict", "nan.tif", UNET, out, "--trust", "--tile", 44, "--fill-nan", 0, "--overwrite")
    mended = np.nan_to_num(tifffile.imread("nan.tif"), nan=0)
    assert_same(zarr.open(str(out), mode="r")[:], untiled(unet(at_home), mended))


def test_an_image_smaller_than_the_tile_is_no_problem(at_home, tmp_path):
    out = tmp_path / "o.npy"
    result = ok("predict", "image.tif", UNET, out, "--trust", "--tile", 4096)
    assert any("larger than the image" in line for line in sentences(result))
    assert_same(np.load(out), untiled(unet(at_home), tifffile.imread("image.tif")))


def test_an_existing_result_is_replaced_only_when_allowed(at_home, tmp_path):
    out = tmp_path / "o.npy"
    args = ["predict", "image.tif", UNET, out, "--trust"]
    out.write_bytes(b"precious")
    assert "--overwrite" in sentences(run(*args))[0]
    assert out.read_bytes() == b"precious"
    ok(*args, "--overwrite")
    assert np.load(out).shape == (2, 128, 100)


def test_full_disk(at_home, tmp_path, monkeypatch):
    write, left = zarr.Array.__setitem__, [5]

    def filling(array: Any, index: Any, block: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(array, index, block)

    monkeypatch.setattr(zarr.Array, "__setitem__", filling)
    out = tmp_path / "o.zarr"
    result = run("predict", "image.tif", UNET, out, "--trust", "--tile", 44)
    kept, error = sentences(result)
    assert result.exit_code == 1
    assert "is full" in error
    assert "Stopped after 5 of" in kept
    assert read_record(f"{out}.partial")["finished"] is False


def test_a_full_disk_at_the_first_tile_leaves_nothing(at_home, tmp_path, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    result = run("predict", "image.tif", UNET, tmp_path / "o.zarr", "--trust", "--tile", 44)
    assert result.exit_code == 1
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------- trust


@pytest.mark.parametrize("command", ["predict", "info"])
@pytest.mark.parametrize(
    ("model", "runs"),
    [("pranks.py:Prank()", "Prank() of pranks.py"), ("pickled.pth", "networks.UNet")],
)
def test_code_runs_only_when_trusted(command, model, runs, at_home, tmp_path):
    (at_home / "imported").unlink(missing_ok=True)
    args = ["image.tif", model, tmp_path / "o.zarr"] if command == "predict" else [model]
    result = run(command, *args)
    assert result.exit_code == 3
    assert runs in result.stderr
    assert "--trust" in result.stderr
    assert not (at_home / "imported").exists()
    ok(command, *args, "--trust")
    assert (at_home / "imported").exists() == ("pranks" in model)


# ------------------------------------------------------------------------------------ surprises


def test_a_bug_is_one_sentence_and_a_traceback_on_request(at_home, tmp_path, monkeypatch):
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("seven by nothing")

    monkeypatch.setattr("seamscope.prediction.run.prepare", broken)
    args = ["predict", "image.tif", UNET, tmp_path / "o.zarr", "--trust"]
    result = run(*args)
    assert result.exit_code == 70
    assert sentences(result) == [
        "This is a bug in Seamscope (ZeroDivisionError: seven by nothing): please report it with "
        "what --debug shows."
    ]
    result = run(*args, "--debug")
    assert result.exit_code == 70
    assert "Traceback" in result.stderr
    assert "in broken" in result.stderr


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (MemoryError, 1)])
def test_ended_before_anything_was_written(error, code, at_home, tmp_path, monkeypatch):
    def ends(*_: Any) -> None:
        raise error

    monkeypatch.setattr("seamscope.prediction.run.prepare", ends)
    result = run("predict", "image.tif", UNET, tmp_path / "o.zarr", "--trust")
    assert result.exit_code == code
    assert len(sentences(result)) == 1
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize(("signals", "kept"), [(1, 3), (2, 2)])
def test_interrupt_keeps_whole_tiles_and_marks_them(signals, kept, at_home, tmp_path):
    """Once: the tile at hand is completed. Twice: it is given up."""
    prank = f"pranks.py:Prank(at=3,signals={signals})"
    before = signal.getsignal(signal.SIGINT)
    args = ["image.tif", prank, tmp_path / "o.zarr", "--trust", "--tile", 44]
    result = run("predict", *args, "--no-accelerate")
    assert result.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert f"Stopped after {kept} of 9 tiles" in result.stderr
    assert read_record(tmp_path / "o.zarr.partial")["finished"] is False
    ok("predict", "image.tif", "pranks.py:Prank()", tmp_path / "whole.npy", "--trust")
    partial, whole = (
        zarr.open(str(tmp_path / "o.zarr.partial"), mode="r")[:],
        np.load(tmp_path / "whole.npy"),
    )
    done = partial != 0
    # tiles of 44, reach 1: cores of 42, 42 and the remaining 16 pixels along the 100
    assert done[0].sum() == 43 * (100 if kept == 3 else 84)
    assert np.abs(partial[done] - whole[done]).max() < NOISE


def test_interrupt_before_the_first_tile_leaves_nothing(at_home, tmp_path, monkeypatch):
    def interrupted(*_: Any, work: Any) -> Any:
        work.phase("Choosing the fastest way to run the network")
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")
        yield

    monkeypatch.setattr("seamscope.execution.run.run", interrupted)
    result = run("predict", "image.tif", UNET, tmp_path / "o.zarr", "--trust")
    assert result.exit_code == 130
    assert not list(tmp_path.iterdir())


def test_interrupt_with_json_tells_how_far_it_came(at_home, tmp_path):
    args = ["image.tif", "pranks.py:Prank(at=2)", tmp_path / "o.zarr", "--trust", "--tile", 44]
    result = run("predict", *args, "--json", "-", "--no-accelerate")
    assert result.exit_code == 130
    told = json.loads(result.stdout)
    assert (told["finished"], told["tiles_done"]) == (False, 2)


def test_interrupt_from_outside(at_home, tmp_path):
    """A real process and a real signal, sent while a network works on its third tile."""
    prank = f"pranks.py:Prank(at=3,gate={str(tmp_path)!r})"
    args = ["image.tif", prank, tmp_path / "o.zarr", "--trust"]
    command = [sys.executable, "-m", "seamscope", "predict", *map(str, args), "--tile", "44"]
    process = subprocess.Popen(
        [*command, "--no-accelerate"], stderr=subprocess.PIPE, text=True, cwd=at_home
    )
    try:
        while not (tmp_path / "waiting").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        (tmp_path / "open").touch()
        said = process.stderr.readlines()
        code = process.wait(600)
    finally:
        process.kill()
        process.stderr.close()
    assert code == 130, said
    assert said[-1].startswith("Stopped after 3 of "), "the tile under way is kept, none begins"
    *phases, _ = [line for line in said if not line.startswith("Note")]
    assert all(line.endswith(" ...\n") for line in phases)
    assert len(set(phases)) == len(phases), "each phase once"
    assert read_record(tmp_path / "o.zarr.partial")["finished"] is False


# ------------------------------------------------------------------------------------------ info


def test_info_of_a_network_with_finite_reach(at_home):
    told = json.loads(ok("info", UNET, "--trust", "--json", "-").stdout)
    network = unet(at_home)
    assert told["spatial_axes"] == 2
    assert (told["in_channels"], told["out_channels"]) == (1, 2)
    assert told["period"] == told["tile_step"] == [2, 2]
    # by hand: 3x3 twice, pool, 3x3 twice on the coarse grid (2 * 2), up, 3x3 twice: 2 + 4 + 2
    assert told["halo"] == told["convolutional"] == [[8, 8], [8, 8]]
    assert told["bounded"] is True
    assert told["crop"] == [[0, 0], [0, 0]]
    assert told["scale"] == [1.0, 1.0]
    assert told["statistics"] == {"count": 0, "layers": []}
    assert told["swallows_nan"] is False
    assert (
        told["sentence"]
        == "Can be predicted without seams: it looks 8 px far (tiles start on multiples of 2)."
    )
    assert told["fingerprint"] == seamscope.load_model(network).fingerprint
    assert told["parameters"] == sum(p.numel() for p in network.parameters())
    assert len(told["tiles"]) >= 3
    own = 4 * (1 + 2)  # input and prediction, float32
    for each in told["tiles"]:
        (side, _), kept = each["tile"], each["tile"][0] - 16
        assert each["redundancy"] == pytest.approx((side / kept) ** 2, rel=1e-3)
        assert each["bytes"] == pytest.approx((told["bytes_per_pixel"] + own) * side**2, rel=1e-3)


def test_info_of_a_network_with_statistics_of_its_tile(at_home):
    model = f"{NETWORKS}:UNet(levels=1,norm='instance')"
    told = json.loads(ok("info", model, "--trust", "--json", "-").stdout)
    modules = networks.UNet(levels=1, norm="instance").modules()
    layers = [each for each in modules if isinstance(each, nn.InstanceNorm2d)]
    assert told["halo"] is None
    assert told["bounded"] is False
    assert told["convolutional"] == [[8, 8], [8, 8]]
    assert told["statistics"]["count"] == len(layers)
    assert [c["channels"] for c in told["statistics"]["layers"]] == [
        4, 4, 8, 8, 4, 4,
    ]  # fmt: skip
    assert "Overlap cannot remove the seams" in told["sentence"]


def test_info_of_valid_convolutions_and_three_dimensions(at_home):
    told = json.loads(
        ok("info", f"{NETWORKS}:ValidUNet(levels=1)", "--trust", "--json", "-").stdout
    )
    # by hand: two 3x3 twice at full size and twice on the coarse grid: 2 + 2 * 2 + 2 on each side
    assert told["crop"] == [[8, 8], [8, 8]]
    told = json.loads(
        ok("info", f"{NETWORKS}:UNet(ndim=3,levels=1)", "--trust", "--json", "-").stdout
    )
    assert told["spatial_axes"] == 3
    assert all(len(each["tile"]) == 3 for each in told["tiles"])


def test_info_for_people():
    text = ok("info", "demo:batchnorm").stdout
    assert (
        "Can be predicted without seams: it looks 46 px far (tiles start on multiples of 8)."
        in text
    )
    assert "foreground, boundary, extracellular, background" in text
    assert "zscore" in text
    assert seamscope.load_model("demo:batchnorm").fingerprint in text
    assert "512 x 512" in text


def test_info_refuses_like_predict(at_home):
    assert run("info", "no.pt").exit_code == 1
    assert run("info", UNET, "--trust", "--json", "unet.safetensors").exit_code == 1


# ------------------------------------------------------------------------------------------ demo


PICTURE = "seamscope-demo.screenshot.png"


@pytest.fixture
def shown(monkeypatch, tmp_path) -> list[dict[str, Any]]:
    """A demo that only notes how it was called; in a fresh folder, with a display."""
    calls: list[dict[str, Any]] = []

    def show_demo(headless: bool, screenshot: Path | None) -> dict[str, Any]:
        calls.append({"headless": headless, "screenshot": screenshot})
        if screenshot is not None and screenshot.stem != "forgotten":
            screenshot.write_bytes(b"PNG")
        return {"tiles": 49, "dice_boundary": 0.8125, "screenshot": str(screenshot)}

    fake = types.ModuleType("seamscope.docks.demo")
    fake.show_demo = show_demo
    monkeypatch.setitem(sys.modules, "seamscope.docks.demo", fake)
    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.chdir(tmp_path)
    return calls


def test_demo_with_a_display(shown):
    assert ok("demo").stdout == ""
    assert shown == [{"headless": False, "screenshot": None}]


def test_headless_demo_tells_screenshot_and_figures(shown, tmp_path):
    told = ok("demo", "--headless", "--screenshot", "shot.png").stdout.splitlines()
    rows = {line[:15].rstrip(): line[15:] for line in told}
    assert rows == {
        "screenshot": str(tmp_path / "shot.png"),
        "tiles": "49",
        "dice boundary": "0.8125",
    }
    ok("demo", "--headless")
    assert shown[1]["screenshot"].exists()


def test_a_second_demo_replaces_its_screenshot_only_where_allowed(shown):
    ok("demo", "--headless")
    second = run("demo", "--headless")
    assert second.exit_code == 1
    assert f"{PICTURE} exists" in second.stderr
    assert "--overwrite" in second.stderr
    ok("demo", "--headless", "--overwrite")
    assert len(shown) == 2  # the refused one did not begin


def test_make_demo_runs_as_often_as_it_is_called():
    recipe = (Path(__file__).resolve().parents[2] / "Makefile").read_text()
    assert "demo --headless --overwrite" in recipe


def test_headless_demo_without_its_screenshot_failed(shown):
    result = run("demo", "--headless", "--screenshot", "forgotten.png")
    assert result.exit_code == 1
    assert "forgotten.png" in result.stderr


@pytest.mark.parametrize("place", ["nowhere/shot.png", "shot.jpg"])
def test_demo_looks_at_the_place_of_its_screenshot_first(place, shown):
    assert run("demo", "--headless", "--screenshot", place).exit_code == 1
    assert not shown


def test_demo_without_napari(shown, monkeypatch):
    found = demo.importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda n, *a: None if n == "napari" else found(n, *a)
    )
    result = run("demo")
    assert result.exit_code == 1
    assert 'pip install "seamscope[all]"' in result.stderr
    assert not shown


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
@pytest.mark.parametrize(
    "asked", [[], ["--headless"], ["--screenshot", "s.png"], ["--headless", "--overwrite"]]
)
def test_demo_without_a_display_becomes_one_under_xvfb(asked, shown, monkeypatch):
    became: list[Any] = []

    def become(path: str, command: list[str]) -> None:
        became.extend([path, command])
        raise SystemExit  # the process is another from here on

    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr("os.execv", become)
    run("demo", *asked)
    path, command = became
    assert path == "/bin/xvfb-run"
    assert command[:4] == ["/bin/xvfb-run", "-a", "-s", "-screen 0 1600x1000x24"]
    assert command[4:9] == [sys.executable, "-m", "seamscope", "demo", "--headless"]
    picture = "s.png" if "s.png" in asked else PICTURE
    assert command[9:] == ["--screenshot", picture, *(["--overwrite"] * ("--overwrite" in asked))]
    assert not shown


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
def test_demo_without_a_display_and_without_xvfb(shown, monkeypatch):
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    result = run("demo")
    assert result.exit_code == 1
    assert "apt install xvfb" in result.stderr


# -------------------------------------------------------------------------------------- progress


def fake_terminal() -> rich.console.Console:
    return rich.console.Console(file=io.StringIO(), force_terminal=True, width=120)


def test_bar_shows_tiles_rate_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    console = fake_terminal()
    with progress._Bar(console) as bar:
        bar.phase("Measuring the network")
        bar._progress.refresh()
        bar.phase("Predicting", "tiles")
        now[0] += 4
        bar.step(12, 64)
        bar._progress.refresh()
        bar.note("Tile [bold] is larger.")
        bar.stopping()
        bar._progress.refresh()
    shown = console.file.getvalue()
    assert "Measuring the network" in shown
    assert "12 of 64 tiles, 3.0 tiles/s, 17 s left" in shown
    assert "Note: Tile [bold] is larger." in shown
    assert "Ctrl-C again" in shown


def test_lines_come_now_and_then(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines = progress._Lines()
    lines.phase("Predicting", "tiles")
    for done in range(1, 401):
        now[0] += 0.125
        lines.step(done, 400)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Predicting ..."
    assert said[1] == "80 of 400 tiles, 8.0 tiles/s, 40 s left"
    assert len(said) == 5  # and nothing for the last tile, whose end is told anyway


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1:00 min"),
        (125, "2:05 min"), (3725, "1:02:05 h"), (90000, "25:00:00 h"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration_text(seconds) == text


def test_slow_tiles_are_shown_in_seconds_each():
    assert steps_text(2, 10, "tiles", 9.0) == "2 of 10 tiles, 4.5 s/tile, 36 s left"


def test_a_terminal_gets_the_bar(monkeypatch):
    console = fake_terminal()
    monkeypatch.setattr("rich.console.Console", lambda stderr: console)
    assert isinstance(progress.open_display(), progress._Bar)
    assert type(progress.open_display(quiet=True)) is progress.Display


def test_parts_of_long_work_are_counted(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines = progress._Lines()
    lines.phase("Measuring seams")
    for done in range(1, 101):
        now[0] += 0.25
        lines.step(done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "Measuring seams ...",
        "40 of 100, 15 s left",
        "80 of 100, 5.0 s left",
    ]
    console = fake_terminal()
    with progress._Bar(console) as bar:
        bar.phase("Measuring seams")
        now[0] += 30
        bar.step(3, 9)
        bar._progress.refresh()
    assert "3 of 9, 1:00 min left" in console.file.getvalue()


def test_interrupted_work_ends_at_its_next_step():
    before = signal.getsignal(signal.SIGINT)
    with interrupts.long_work(progress.Display()) as told:
        told.step(1, 9)
        assert not told.stopped()
        signal.raise_signal(signal.SIGINT)
        assert told.stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupt_before_anything_asks_ends_at_once():
    with interrupts.long_work(progress.Display()) as told:
        told.phase("Loading")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
