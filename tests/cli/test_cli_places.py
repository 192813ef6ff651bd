"""What a command may write, and what standard output carries when something fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing
import zarr
from safetensors.numpy import load_file

import seamscope.__main__
from seamscope import cli
from seamscope.cli.places import READS, WRITES
from several_files import write_planes

FACTORY = """
import os, pathlib, torch
from torch import nn

pathlib.Path(__file__).with_name("imported").touch()

class Loud(nn.Module):
    def __init__(self, channels=1):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        print("hello from Python")

    def forward(self, x):
        print("tile")
        os.write(1, b"hello from C")
        return self.conv(x)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    pixels = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    np.save("image.npy", pixels)
    zarr.create_array("image.zarr", data=pixels)
    Path("net.py").write_text(FACTORY)
    return tmp_path


def run(*args: Any) -> Any:
    return typer.testing.CliRunner().invoke(cli.app, [str(a) for a in args])


def process(*args: Any, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own: file descriptors are its."""
    command = [sys.executable, "-m", "seamscope", *map(str, args)]
    return subprocess.run(command, text=True, check=False, **how)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but those that Python makes of what it imports."""
    files = [f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


GIVEN = ["image.zarr", "net.py:Loud", "--trust", "--tile", "32"]


@pytest.mark.parametrize(
    "more",
    [
        ["predict", *GIVEN, "new.npy", "--json", "image.zarr/zarr.json"],
        ["predict", *GIVEN, "new.npy", "--json", "image.zarr/new.json"],
        ["predict", *GIVEN, "new.npy", "--json", "net.py"],
        ["predict", *GIVEN, "new.npy", "--json", "new.npy"],
        ["predict", *GIVEN, "new.npy", "--json", "new.npy.json"],
        ["predict", *GIVEN, "new.npy", "--json", "linked.py"],
        ["predict", *GIVEN, "new.npy", "--json", "hard.py"],
        ["predict", *GIVEN, "image.zarr/inner.zarr"],
        ["predict", "group.zarr/0", *GIVEN[1:], "new.npy", "--json", "group.zarr/zarr.json"],
        ["seams", *GIVEN, "--layers", "image.zarr"],
        ["seams", *GIVEN, "--layers", "new.zarr", "--report", "new.zarr"],
        ["seams", *GIVEN, "--report", "net.py"],
        ["seams", *GIVEN, "--report", "a.html", "--json", "a.html"],
        ["seams", *GIVEN, "--statistics", "statistics", "--json", "statistics"],
        ["freeze", *GIVEN, "net.py"],
        ["freeze", *GIVEN, "new", "--labels", "image.npy", "--json", "image.npy"],
        ["freeze", *GIVEN, "image.npy", "--how", "image.npy"],
        ["export", "net.py:Loud", "net.py"],
        ["info", "net:Loud", "--json", "net.py"],
        ["info", "net.py:Loud@weights.pth", "--json", "weights.pth"],
        ["receptive-field", "net.py:Loud", "--image", "image.npy", "--report", "image.npy"],
        ["certify", *GIVEN, "--store", "result.zarr", "--json", "result.zarr/zarr.json"],
    ],
    ids=" ".join,
)
def test_no_input_and_no_other_output_is_ever_overwritten(more: list[str], home: Path) -> None:
    Path("statistics").write_bytes(b"precious")
    Path("weights.pth").write_bytes(b"precious")
    zarr.create_array("result.zarr", data=np.zeros((4, 4)))
    zarr.create_group("group.zarr").create_array("0", data=np.zeros((40, 50), np.float32))
    Path("linked.py").symlink_to("net.py")
    os.link("net.py", "hard.py")
    before = contents(home)
    result = run(*more, "--overwrite")
    assert result.exit_code == 1
    assert "would overwrite" in result.stderr
    assert contents(home) == before  # the network was not even imported


@pytest.mark.parametrize(
    "more", [["plane2.ome.tif"], ["out.npy", "--json", "plane1.ome.tif"]], ids=" ".join
)
def test_no_file_of_an_image_of_several_is_overwritten(more: list[str], home: Path) -> None:
    write_planes(home, np.random.default_rng(0).random((3, 40, 50)).astype(np.float32))
    before = contents(home)
    result = run("predict", "plane0.ome.tif", "net.py:Loud", *more, "--trust", "--overwrite")
    assert result.exit_code == 1
    assert "would overwrite" in result.stderr
    assert contents(home) == before


@pytest.mark.parametrize("option", ["--json", "--report"])
@pytest.mark.parametrize("command", ["normalization", "receptive-field", "certify"])
def test_files_that_exist_are_replaced_only_when_allowed(
    command: str, option: str, home: Path
) -> None:
    Path("mine").write_text("precious")
    given = GIVEN[1:3] if command != "certify" else GIVEN
    result = run(command, *given, option, "mine")
    assert result.exit_code == 1
    assert "mine exists" in result.stderr
    assert "--overwrite" in result.stderr
    assert Path("mine").read_text() == "precious"
    result = run(command, *given, option, "mine", "--overwrite")
    assert result.exit_code == 0, result.stderr
    assert Path("mine").read_text() != "precious"
    made = {p.name for p in home.iterdir()} - {"__pycache__"}
    assert made == {"image.npy", "image.zarr", "net.py", "mine", "imported"}


def test_every_parameter_that_names_a_file_is_known() -> None:
    """A new command is checked by the names of its parameters: here they are all listed."""
    known = {*READS, *WRITES}
    words = ("FILE", "IMAGE", "MODEL", "OUT", "LABELS", "zarr")
    for command in cli.app.registered_commands:
        parameters = typer.main.get_command_from_info(
            command, pretty_exceptions_short=False, rich_markup_mode=None
        ).params
        named = {p.name for p in parameters if any(w in str(p.metavar) for w in words)}
        assert named <= known, f"{command.callback.__name__}: add {named - known} to cli/places.py"
        if named & set(WRITES):
            assert "overwrite" in {p.name for p in parameters}


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("nowhere/out.npy", "no folder nowhere"),
        ("out.xyz", "ending"),
        ("out.png", "PNG is for labels"),
        ("image.npy", "which is read"),
        ("there.npy", "there.npy exists"),
        ("half.npy", "half.npy.partial exists"),
        ("folder.zarr", "a folder that is not zarr"),
    ],
)
def test_what_is_wrong_with_the_place_is_said_before_the_network_is_loaded(
    out: str, words: str, home: Path
) -> None:
    Path("there.npy").touch()
    Path("half.npy.partial").touch()
    Path("folder.zarr").mkdir()
    result = run("predict", "image.npy", "net.py:Loud", out, "--trust")
    assert result.exit_code == 1
    assert words in result.stderr
    assert not Path("imported").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["seams", *GIVEN, "--layers", "out.xyz"], "ending"),
        (["seams", *GIVEN, "--layers", "out.png"], "PNG is for labels"),
        (["export", "net.py:Loud", "out.xyz", "--trust"], "names no format"),
        (["freeze", *GIVEN, "nowhere/out"], "no folder nowhere"),
        (["freeze", *GIVEN, "s3://b/out"], "OUT s3://b/out is an address, and only images"),
        (["export", "net.py:Loud", "s3://b/o.pt2", "--trust"], "only images are written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_so_of_other_commands(given: list[str], words: str, home: Path) -> None:
    result = run(*given)
    assert result.exit_code == 1
    assert words in result.stderr
    assert not Path("imported").exists()


def test_freezing_anew_needs_a_word(home: Path) -> None:
    """What an interrupted run found is lost only when that is allowed."""
    kept = Path("out.partial") / "hours of work"
    kept.parent.mkdir()
    kept.touch()
    result = run("freeze", "image.npy", "demo:instancenorm", "out", "--overwrite")
    assert result.exit_code == 1  # no search of ours: never removed
    (kept.parent / "task.json").write_text("{}")
    result = run("freeze", "image.npy", "demo:instancenorm", "out")
    assert result.exit_code == 1
    assert "--resume" in result.stderr
    assert "--overwrite" in result.stderr
    assert kept.exists()
    assert run("freeze", "image.npy", "demo:instancenorm", "out", "--overwrite").exit_code == 0
    assert load_file("out")
    assert not Path("out.partial").exists()


def test_devices_and_links_are_written_to_and_stay(home: Path) -> None:
    Path("linked").symlink_to("target")
    Path("target").write_text("old")
    result = run("info", "demo:batchnorm", "--json", "linked", "--overwrite")
    assert result.exit_code == 0, result.stderr
    assert Path("linked").is_symlink()
    assert json.loads(Path("target").read_text())["name"] == "batchnorm"
    done = process("info", "demo:batchnorm", "--json", "/dev/stderr", capture_output=True)
    assert done.returncode == 0, done.stderr
    assert '"name": "batchnorm"' in done.stderr


# -- standard output


def test_json_is_pure_although_the_network_prints(home: Path) -> None:
    given = [*GIVEN, "out.npy", "--json", "-", "--no-accelerate"]
    done = process("predict", *given, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"] is True
    assert "hello from Python" in done.stderr
    assert "hello from C" in done.stderr


@pytest.mark.parametrize(
    ("given", "code", "kind", "words"),
    [
        (["info", "nowhere.pt2"], 1, "ModelError", "nowhere.pt2"),
        (["info", "net.py:Loud"], 3, "TrustError", "would run code"),
        (["predict", "image.npy", "demo:batchnorm", "no/where.npy"], 1, "OutputError", "no folder"),
        (["info"], 2, "MissingParameter", "MODEL"),
        (["predict", "a", "b", "c", "--tile", "x"], 2, "BadParameter", "--tile"),
    ],
)
def test_json_of_a_failure(given: list[str], code: int, kind: str, words: str, home: Path) -> None:
    result = run(*given, "--json", "-")
    assert result.exit_code == code
    error = json.loads(result.stdout)["error"]
    assert (error["kind"], error["exit_code"]) == (kind, code)
    assert words in error["sentence"]
    assert "\n" not in error["sentence"] or kind == "TrustError"


@pytest.mark.parametrize("json_too", [False, True])
def test_standard_output_that_is_closed(json_too: bool, home: Path) -> None:
    more = ["--json", "-"] if json_too else []
    for given, stdout in (("cache", ">&-"), ("cache", "> /dev/full")):
        command = f"{sys.executable} -m seamscope {given} {' '.join(more)} {stdout}"
        done = subprocess.run(command, shell=True, text=True, capture_output=True, check=False)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("Error: Standard output cannot be written")


LONG = "n" * 300


@pytest.mark.parametrize(
    "given",
    [
        ["predict", "image.npy", "demo:batchnorm", f"{LONG}.npy"],
        ["predict", "image.npy", "demo:batchnorm", f"{LONG[:240]}.zarr"],  # no room for .partial
        ["predict", f"{LONG}.npy", "demo:batchnorm", "out.npy"],
        ["info", f"{LONG}.pt2"],
        ["info", f"{LONG}.py:Net"],
        ["info", f"net.py:Loud@{LONG}"],
        ["info", "demo:batchnorm", "--json", LONG],
        ["info", "demo:batchnorm", "--statistics", LONG],
        ["export", "demo:batchnorm", f"{LONG}.pt2"],
        ["freeze", "image.npy", "demo:instancenorm", LONG],
        ["sweep", "image.npy", "demo:batchnorm", "--tiles", "32", "--labels", f"{LONG}.npy"],
    ],
    ids=lambda given: " ".join(each[:20] for each in given),
)
def test_names_of_300_letters(given: list[str], home: Path) -> None:
    result = run(*given, "--quiet") if "--quiet" in given else run(*given)
    assert result.exit_code == 1, result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert "bug" not in result.stderr


def test_ctrl_c_is_a_sentence_from_the_first_moment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Loading:
        @property
        def main(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "seamscope.cli", Loading())
    with pytest.raises(SystemExit) as end:
        seamscope.__main__.main()
    assert (end.value.code, *capsys.readouterr()) == (130, "", "Stopped.\n")


def test_sigterm_is_ctrl_c(home: Path) -> None:
    """While the network runs, and while it is loaded."""
    Path("slow.py").write_text(
        FACTORY + "\n\nclass Ended(Loud):\n    def forward(self, x):\n        import signal\n"
        "        signal.raise_signal(signal.SIGTERM)\n        return super().forward(x)\n"
        "\n\ndef build():\n    import signal\n    signal.raise_signal(signal.SIGTERM)\n"
    )
    before = signal.getsignal(signal.SIGTERM)
    for factory in ("Ended", "build"):
        given = ["image.npy", f"slow.py:{factory}", "out.npy", "--trust", "--tile", 32]
        result = run("predict", *given, "--no-accelerate", "--json", "-")
        assert result.exit_code == 130, result.stderr
        assert "Stopped" in result.stderr
        assert not Path("out.npy").exists()
        assert json.loads(result.stdout)
    assert signal.getsignal(signal.SIGTERM) is before
