"""Whatever goes wrong in the middle of long work, `--resume` goes on, or says why it cannot."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner, Result

import seamscope.ledger
from seamscope.cli import app
from seamscope.cli.answer import Answer, answer_in
from seamscope.images.image import open_image
from seamscope.images.results import pyramid
from seamscope.normalization.statistics import Statistics
from seamscope.prediction.resuming import content_of

NETWORK = """
import torch
from torch import nn

def net():
    torch.manual_seed({seed})
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.InstanceNorm2d(3), nn.ReLU(),
                         nn.Conv2d(3, 2, 3, padding=1))
"""
TILES = "--tile 32 --halo 2 --axes yx --trust --no-accelerate --normalize none --json o.json"
COMMANDS = {
    "predict": f"predict image.npy net.py:net o.zarr {TILES} --seams none",
    "pyramid": f"predict image.npy net.py:net o.ome.zarr {TILES} --seams none --blend linear",
    "segment": "segment image.npy o.ome.zarr --axes yx --threshold 0.6 --block 20 --json o.json",
    "freeze": f"freeze image.npy net.py:net o.statistics {TILES}",
    "seams": f"seams image.npy net.py:net {TILES} --no-explain",
}


def pixels(path: Path) -> list[bytes]:
    node: Any = zarr.open(str(path), mode="r")
    arrays = [node] if isinstance(node, zarr.Array) else [a for _, a in sorted(node.arrays())]
    return [np.asarray(array[...]).tobytes() for array in arrays]


def measures(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


READ: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "predict": ("o.zarr", pixels),
    "pyramid": ("o.ome.zarr", pixels),
    "segment": ("o.ome.zarr", pixels),
    "freeze": ("o.statistics", lambda path: Statistics.load(path).digest),
    "seams": ("o.json", measures),
}


def write_inputs(value: float = 0, seed: int = 1) -> None:
    np.save("image.npy", np.random.default_rng(0).random((150, 100), np.float32) + value)
    os.utime("image.npy", (1e9, 1e9))
    Path("net.py").write_text(NETWORK.format(seed=seed))


class Disk:
    """Counts the marks of a run, and does something when one is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: dict[int, Callable[[], None]] = {}
        self.marks = 0
        self._write = seamscope.ledger.write_file
        monkeypatch.setattr(seamscope.ledger, "write_file", self.write)

    def write(self, path: Path, content: bytes, **how: Any) -> None:
        if path.name.isdecimal():
            self.marks += 1
            self.at.get(self.marks, lambda: None)()
        self._write(path, content, **how)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_goes_wrong_in_the_middle(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid, "SMALLEST", 60)
    out, read = READ[name]

    def run(*more: str) -> Result:
        result = CliRunner().invoke(app, [*COMMANDS[name].split(), *more])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    def refused(said: str, *more: str) -> None:
        result = run(*more)
        assert result.exit_code == 1
        assert said in " ".join(result.output.split()), result.output

    def fail(error: OSError) -> None:
        disk.at.clear()
        raise error

    for folder in ("whole", "broken"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    write_inputs()
    disk = Disk(monkeypatch)
    assert run().exit_code == 0
    total, expected = disk.marks, read(Path(out))
    assert total > 5

    monkeypatch.chdir(tmp_path / "broken")
    write_inputs()
    disk.marks, disk.at = 0, {
        2: lambda: refused("is being written by another process", "--resume"),
        3: lambda: fail(OSError(28, "No space left on device")),
    }  # fmt: skip
    refused("full. Free some space")
    assert not Path(out).exists()
    disk.marks, disk.at = 0, {2: lambda: fail(PermissionError(13, "Permission denied"))}
    refused("cannot be written (Permission denied)", "--resume")

    write_inputs(value=1)
    refused("with another image content", "--resume")
    if name != "segment":
        write_inputs(seed=2)
        refused("with another network", "--resume")
    write_inputs()
    [task] = (file for file in Path().rglob("task.json"))
    kept = task.read_text()
    task.write_text(kept.replace(seamscope.__version__, "0.0.1"))
    refused("with another version of Seamscope (0.0.1, now", "--resume")
    task.write_text(kept)

    disk.marks = 0
    assert run("--resume").exit_code == 0
    assert disk.marks <= total - 3
    assert read(Path(out)) == expected
    left = {file.name for file in Path().iterdir()} - {"__pycache__", "o.json"}
    assert left == {"image.npy", "net.py", *([out] if out != "o.json" else [])}
    answer, disk.marks = Path("o.json").read_text(), 0
    os.utime("image.npy", (2e9, 2e9))  # only touched
    again = run("--resume", "--scheduler", "tcp://127.0.0.1:1")  # which is no longer needed
    assert (again.exit_code, disk.marks) == (0, 0)
    assert "done already" in again.output
    assert Path("o.json").read_text() == answer
    told, marks = json.loads(answer), disk.marks
    if name == "freeze":
        assert str(tmp_path) not in str(Statistics.load(out).task)
    if name != "seams":  # whose measures are in this file only
        Path("o.json").unlink()
        assert (run("--resume").exit_code, disk.marks) == (0, marks)
        made = measures(Path("o.json"))
        assert {**made, "cost": 0} == {**told, "cost": 0}
    task = told["task"]
    for foreign in ({}, {"task": {**task, "command": "info"}}, {"task": {**task, "image": {}}}):
        other = json.dumps({"seamscope": told["seamscope"], **foreign})
        Path("o.json").write_text(other)
        refused("o.json", "--resume")
        assert Path("o.json").read_text() == other
    Path("o.json").write_text(answer)
    write_inputs(value=1)
    refused("was made with another image content", "--resume")
    assert (Path("o.json").read_text(), read(Path(out))) == (answer, expected)


def test_an_answer_in_two_files_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs()
    monkeypatch.setattr("seamscope.cli.seams._Bench.page", lambda bench: "<p>--</p>")
    words = [*COMMANDS["seams"].split(), "--report", "o--.html"]

    def run(*more: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, [*words, *more])
        said = " ".join(result.output.split())
        return result.exit_code, said.removeprefix("Loading ... ")

    with monkeypatch.context() as patch:
        patch.setattr(Answer, "write", lambda *answer: os.kill(os.getpid(), signal.SIGINT))
        assert run()[0] == 130
    assert (Path("o--.html").exists(), Path("o.json").exists()) == (True, False)
    assert run("--resume")[0] == 0
    assert run("--resume") == (0, "o.json and o--.html are done already.")
    told = measures(Path("o.json"))
    Path("o.json").unlink()  # and no measures are there that the report belongs to
    assert "o--.html exists" in run("--resume")[1]
    words.remove("--json")
    words.remove("o.json")
    assert run("--resume") == (0, "o--.html is done already.")
    with monkeypatch.context() as patch:  # the page holds the whole answer
        patch.setattr("seamscope.cli.seams._Bench", None)
        result = CliRunner().invoke(app, [*words, "--resume", "--json", "-"])
    assert json.loads(result.stdout) == told
    code, said = run("--resume", "--tolerance", "1")
    assert code == 1
    assert "o--.html was made with another options tolerance (0.0001, now 1.0)" in said


@pytest.mark.parametrize("name", ["predict", "freeze", "seams"])
def test_nothing_is_left_of_what_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs()
    image = np.load("image.npy")
    image[70, 50] = np.nan
    np.save("image.npy", image)
    words = COMMANDS[name].replace("--normalize none", "--normalize zscore").split()
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, "not finite" in result.output) == (1, True)
    assert {file.name for file in Path().iterdir()} - {"__pycache__"} == {"image.npy", "net.py"}


@pytest.mark.parametrize("name", ["freeze", "seams"])
def test_nothing_is_left_of_an_image_with_nan(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found until then belongs to that image, which can never be finished."""
    monkeypatch.chdir(tmp_path)
    write_inputs()
    image = np.load("image.npy")
    image[140, 90] = np.nan
    np.save("image.npy", image)
    disk, words = Disk(monkeypatch), COMMANDS[name].split()
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, "--fill-nan 0" in result.output, disk.marks > 0) == (1, True, True)
    assert {file.name for file in Path().iterdir()} - {"__pycache__"} == {"image.npy", "net.py"}
    assert CliRunner().invoke(app, [*words, "--fill-nan", "0"]).exit_code == 0


@pytest.mark.parametrize("name", ["predict", "segment", "freeze", "seams"])
def test_a_copy_in_other_chunks_is_the_same_image(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs()
    words = COMMANDS[name].replace("image.npy", "image.zarr").split()
    for chunks in ((64, 64), (7, 100)):
        data = np.load("image.npy")
        zarr.create_array("image.zarr", data=data, chunks=chunks, overwrite=True)
        result = CliRunner().invoke(app, [*words, "--resume"])
        assert result.exit_code == 0, result.output
    assert "done already" in result.output


@pytest.mark.parametrize("name", ["predict", "freeze", "seams"])
def test_a_replacement_that_was_interrupted_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what another command asks for never deletes it."""
    monkeypatch.chdir(tmp_path)
    write_inputs()
    out, read = READ[name]
    other = COMMANDS[name].replace("--tile 32", "--tile 48").split()

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, words)
        return result.exit_code, " ".join(result.output.split())

    assert run(*other)[0] == 0
    expected = read(Path(out))
    assert run(*COMMANDS[name].split(), "--overwrite")[0] == 0
    disk = Disk(monkeypatch)
    disk.at[2] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert run(*other, "--overwrite")[0] == 130
    kept = Path(f"{out}.partial")
    assert kept.exists()
    code, said = run(*COMMANDS[name].split(), "--resume")
    assert (code, kept.exists()) == (1, True), said
    marks, disk.at = disk.marks, {}
    more = ["--overwrite"] if name == "predict" else []  # the old result is there until then
    assert run(*other, "--resume", *more)[0] == 0
    assert not kept.exists()
    assert read(Path(out)) == expected
    assert run(*other, "--resume")[1].endswith("is done already.")
    assert "tile" in run(*COMMANDS[name].split(), "--resume")[1]
    again = disk.marks
    assert run(*COMMANDS[name].split(), "--resume", "--overwrite")[0] == 0
    assert disk.marks > again > marks


def test_a_comparison_is_made_of_statistics_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs()
    monkeypatch.setattr("seamscope.reports.repair_page.repair_page", lambda *found: "<p></p>")
    words = [*COMMANDS["freeze"].split(), "--no-explain", "--resume"]
    assert CliRunner().invoke(app, words).exit_code == 0
    before = Path("o.statistics").stat().st_mtime_ns
    for said in ("only the comparison", "done already."):
        result = CliRunner().invoke(app, [*words, "--report", "o.html"])
        assert result.exit_code == 0
        assert said in " ".join(result.output.split())
    told = answer_in("o.html")
    shown = CliRunner().invoke(app, [*words, "--report", "o.html", "--json", "-"])
    assert json.loads(shown.stdout) == told
    Path("o.json").unlink()
    assert CliRunner().invoke(app, [*words, "--report", "o.html"]).exit_code == 0
    assert measures(Path("o.json")) == told
    made_of = told["task"]
    assert (made_of["comparison"], made_of["explanation"], made_of["labels"]) == (True, False, None)
    assert Path("o.statistics").stat().st_mtime_ns == before
    copy = ["freeze", *words[1:3], "copy", *words[4:], "--how", "o.statistics"]
    copy[copy.index("o.json")] = "copy.json"
    assert [CliRunner().invoke(app, copy).exit_code for _ in range(2)] == [0, 0]
    copy += ["--report", "copy.html", "--labels", "labels.npy"]
    labels = np.zeros((150, 100), np.uint8)
    np.save("labels.npy", labels)
    assert CliRunner().invoke(app, copy).exit_code == 0
    answer = Path("copy.json").read_text()
    assert "done already" in CliRunner().invoke(app, copy).output
    assert Path("copy.json").read_text() == answer
    labels[50, 50] = 1
    np.save("labels.npy", labels)
    assert "another labels" in " ".join(CliRunner().invoke(app, copy).output.split())
    np.save("labels.npy", 0 * labels)
    assert "done already" in CliRunner().invoke(app, copy).output
    image, known = np.load("image.npy"), content_of(open_image("image.npy"))
    image[50, 50] += 1
    np.save("image.npy", image)
    assert content_of(open_image("image.npy")) == known  # a few lines, and this is not of them
    assert "another hash of all pixels" in " ".join(CliRunner().invoke(app, copy).output.split())
    write_inputs(value=1)
    assert "another image content" in " ".join(CliRunner().invoke(app, copy).output.split())
