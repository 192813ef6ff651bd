"""Killed at any moment, a command leaves the old result whole or the new one, and is not stuck."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from seamscope.errors import OutputError
from seamscope.files import Claim, Place, kept_beside, lasting_folder, temporary_folder
from seamscope.images.image import open_image
from seamscope.images.records import read_record
from seamscope.images.results.create import create_output

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.filterwarnings("ignore"),  # of TorchScript about itself
]

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2), nn.Conv2d(2, 1, 3, padding=1))

    def forward(self, x):
        return self.layers(x)
"""
TILES = ["--trust", "--tile", "32", "--halo", "2", "--no-accelerate", "--seams", "none"]


def predict(seed: int, out: str) -> list[str]:
    return ["predict", "image.npy", f"net.py:Net(seed={seed})", out, *TILES, "--overwrite"]


def freeze(seed: int, out: str) -> list[str]:
    network = f"net.py:Net(seed={seed})"
    return ["freeze", "image.npy", network, out, "--trust", "--tile", "32", "--overwrite"]


def export(seed: int, out: str) -> list[str]:
    return ["export", f"net.py:Net(seed={seed})", out, "--trust", "--overwrite"]


def segment(seed: int, out: str) -> list[str]:
    return ["segment", "image.ome.zarr", out, "--threshold", f"0.{4 + seed}", "--overwrite"]


def pixels(path: Path) -> bytes:
    image = open_image(path)
    assert not any("unfinished" in note for note in image.notes)
    record = read_record(path)
    assert record["finished"] is True
    how = record["model"]["spec"] if "model" in record else record["segmentation"]["recipe"]
    values = image.read((slice(None),) * image.ndim)
    return bytes(values.tobytes()) + json.dumps(how).encode()


def statistics(path: Path) -> bytes:
    with safe_open(path, "numpy") as file:
        return b"".join(file.get_tensor(name).tobytes() for name in sorted(file.keys()))


def weights(path: Path) -> bytes:
    state = torch.jit.load(path).state_dict()
    return b"".join(state[name].numpy().tobytes() for name in sorted(state))


CASES: dict[str, tuple[Callable[[int, str], list[str]], Callable[[Path], bytes]]] = {
    "out.zarr": (predict, pixels),
    "out.ome.zarr": (predict, pixels),
    "out.npy": (predict, pixels),
    "out.tif": (predict, pixels),
    "out.png": (lambda seed, out: [*predict(seed, out), "--result", "labels"], pixels),
    "out.statistics": (freeze, statistics),
    "out.torchscript": (export, weights),
    "image.ome.zarr/labels/out": (segment, pixels),
    "cells.tif": (segment, pixels),
    "out.cog.tif": (predict, pixels),
}
RESULTS = {out for out, (_, content) in CASES.items() if content is pixels}


# of the formats that are written as another one is, fewer
MOMENTS = {"out.cog.tif": 12, "out.ome.zarr": 6, "out.npy": 6, "out.png": 6, "cells.tif": 6}


KINDS = (int(signal.SIGKILL), int(signal.SIGTERM))


class Killing:
    """One process for all tests of this file: importing takes longer than most commands."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("killing.py"))]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def carry_out(self, steps: list[dict[str, Any]], folder: Path) -> list[tuple[int, int, Any]]:
        temporary = folder / "temporary"
        temporary.mkdir(exist_ok=True)
        environment = {
            "SEAMSCOPE_CONFIG": str(folder),
            "SEAMSCOPE_CACHE": str(folder),
            "TMPDIR": str(temporary),
        }
        asked = [step | {"environment": environment} for step in steps]
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        done = json.loads(self.process.stdout.readline())
        return [(code, events, seen) for code, events, seen in done]


@pytest.fixture(scope="module")
def killing() -> Iterator[Killing]:
    killing = Killing()
    yield killing
    killing.process.communicate()


def template(folder: Path) -> Path:
    """Make a folder with what the commands read."""
    folder.mkdir()
    (folder / "net.py").write_text(FACTORY)
    image = np.random.default_rng(0).random((40, 36)).astype(np.float32)
    np.save(folder / "image.npy", image)
    how: dict[str, Any] = {"axes": "yx", "scale": (1, 1), "units": ("", "")}
    with create_output(folder / "image.ome.zarr", image.shape, "f4", **how) as output:
        output.write((slice(0, 40), slice(0, 36)), image)
        output.finish()
    return folder


def check_every_moment(seen: list[list[str]], out: str) -> None:
    """Before each event the old result is whole in its place, or the new one is.

    A folder is moved aside for one moment, in which both are whole.
    """
    old, new = seen[0][0], seen[-1][0]
    assert old
    assert new not in ("", old)
    between = 0
    for there, aside, beside in seen:
        if there not in (old, new):
            assert (there, aside, beside) == ("", old, new)
            between += 1
    assert between <= ("." not in out.rpartition("/")[2] or out.endswith(".zarr")) * 1


@pytest.mark.parametrize("out", CASES)
def test_old_or_new_whole_at_thirty_moments(out: str, tmp_path: Path, killing: Killing) -> None:
    """Half of them SIGKILL, half SIGTERM; the same moments in every run of this test."""
    command, content = CASES[out]
    if out.endswith(".cog.tif"):
        pytest.importorskip("rasterio")
    begun, ended = template(tmp_path / "template"), tmp_path / "ended"
    first = {"folder": str(begun), "command": command(1, out)}
    second = {"copy": str(begun), "folder": str(ended), "command": command(2, out)}
    second["result"] = str(ended / out)
    (one, _, _), (two, events, seen) = killing.carry_out([first, second], tmp_path)
    assert (one, two) == (0, 0), (begun / "said").read_text()
    check_every_moment(seen, out)
    old, new = content(begun / out), content(ended / out)
    assert old != new
    # every moment with both signals where there are few, else thirty of them
    moments = [(at, kind) for at in range(1, events + 1) for kind in KINDS]
    chosen = random.Random(3).sample(moments, min(MOMENTS.get(out, 30), len(moments)))
    steps = [
        {"copy": str(begun), "folder": str(tmp_path / f"{at}-{kind}"), "at": at}
        | {"command": command(2, out), "signal": kind}
        for at, kind in chosen
    ]
    last = {"copy": str(ended), "folder": str(tmp_path / "last"), "command": freeze(2, "new")}
    done = killing.carry_out([*steps, *([last] if command is freeze else [])], tmp_path)
    for step, (code, *_) in zip(steps, done, strict=False):
        folder = Path(step["folder"])
        assert code in ((-9,) if step["signal"] == signal.SIGKILL else (130, 0)), folder
        path = folder / out
        if path.is_file():  # at once; for a folder there is a moment between two renames
            assert content(path) in (old, new), folder
        Claim(Place(path, result=out in RESULTS)).release()  # as the next command begins: sweeps
        assert content(path) in (old, new), folder
        name = path.name
        swapped = {p for p in path.parent.glob(".*.re*") if p.suffix != ".partial"}
        assert not swapped  # records and rubbish
        # a network that was interrupted while it was written is recognised by its name
        extra = {p.name for p in path.parent.iterdir()} - {"net.py", "said", name}
        extra -= {"image.npy", "image.ome.zarr", "zarr.json", "__pycache__"}
        extra -= {f"{name}.json", f".{name}.room", f".{name}.ledger", f".{name}.basins"}
        assert all("partial" in name for name in extra), extra
    # SIGTERM leaves nothing in the directory of temporary files, and the last run swept the rest
    assert not list((tmp_path / "temporary").glob("seamscope-*"))


def test_the_next_run_after_a_kill_is_not_stuck(tmp_path: Path) -> None:
    """Whatever a process was doing with a folder when it was killed."""
    data = np.arange(12, dtype=np.uint8).reshape(3, 4)
    how: dict[str, Any] = {"axes": "yx", "scale": (1, 1), "units": ("", "")}

    def written(name: str, value: int) -> Path:
        with create_output(tmp_path / name, data.shape, "u1", **how) as output:
            output.write((slice(0, 3), slice(0, 4)), data + np.uint8(value))
            output.finish()
        return tmp_path / name

    # between two renames: the new result is whole under its first name, the old one aside
    os.rename(written("a.zarr", 1), tmp_path / ".a.zarr.replaced")
    os.rename(written("new.zarr", 2), tmp_path / "a.zarr.partial")
    # while the old one was removed: its metadata is gone already
    written("b.zarr", 3)
    (tmp_path / ".b.zarr.rubbish" / "c").mkdir(parents=True)
    # while a new one was begun
    (tmp_path / "c.zarr.partial").mkdir()
    for name, value in (("a", 2), ("b", 3)):
        Claim(Place(tmp_path / f"{name}.zarr", result=True)).release()
        image = open_image(tmp_path / f"{name}.zarr")
        np.testing.assert_array_equal(image.read((slice(None),) * 2), data + value)
    with create_output(tmp_path / "c.zarr", data.shape, "u1", **how, overwrite=True) as output:
        output.finish()
    assert {p.name for p in tmp_path.iterdir()} == {"a.zarr", "b.zarr", "c.zarr"}


@pytest.mark.parametrize("ending", [".zarr", ".tif", ".npy", ".png"])
def test_two_processes_do_not_write_to_one_place(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    how: dict[str, Any] = {"axes": "yx", "scale": (1, 1), "units": ("", "")}
    script = (
        "import sys; from seamscope.images.results.create import create_output\n"
        f"output = create_output({str(path)!r}, (3, 4), 'u1', axes='yx', scale=(1, 1), "
        "units=('', ''))\n"
        "print('begun', flush=True); sys.stdin.readline(); output.finish()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "begun\n"
        with pytest.raises(OutputError, match="written by another process"):
            create_output(path, (3, 4), "u1", **how, overwrite=True)
        with pytest.raises(OutputError, match="another run writes it"):
            create_output(path, (3, 4), "u1", **how) if ending != ".png" else _refused(path, how)
        other.communicate("\n")
    assert other.returncode == 0
    assert read_record(path)["finished"] is True
    create_output(path, (3, 4), "u1", **how, overwrite=True).finish()
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, f"{path.name}.json"}


def _refused(path: Path, how: dict[str, Any]) -> None:
    """A PNG has no partial file while it is written: the lock alone keeps others away."""
    with pytest.raises(OutputError, match="written by another process"):
        create_output(path, (3, 4), "u1", **how)
    raise OutputError("another run writes it")


def test_temporary_folders_of_killed_processes_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with temporary_folder() as own:
        stale = own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
        (stale / "tiles").mkdir(parents=True)
        (tmp_path / "seamscope-notes").mkdir()  # another program's
        with temporary_folder():
            assert not stale.exists()
            assert own.is_dir()
    assert {p.name for p in tmp_path.iterdir()} == {"seamscope-notes"}


def test_room_of_a_killed_segmentation_is_swept(tmp_path: Path) -> None:
    """Basins on disk are as large as the image; the next segmentation there removes them."""
    script = (
        "import os, signal, numpy, seamscope.segmentation.room as room\n"
        f"folder = room.Folder.temporary({str(tmp_path)!r})\n"
        "(folder.path / 'basins').touch()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    hidden = tmp_path / f".{left.name}"
    hidden.mkdir()  # as basins of a whole result are kept
    own = lasting_folder(tmp_path)
    kept_beside(tmp_path / "out.tif").mkdir()
    Claim(Place(tmp_path / "out.tif", result=True)).release()
    assert not left.exists()
    assert not hidden.exists()
    assert {path.name[:10] for path in tmp_path.iterdir()} == {own.name[:10], ".seamscope"}
