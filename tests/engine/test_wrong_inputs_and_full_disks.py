"""A result is finished only if it is right: inputs that change, predictions that are not finite."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import typer.testing
import zarr
from torch import nn

from seamscope import predict
from seamscope.cli import app
from seamscope.errors import ImageError, OutputError
from seamscope.images.image import open_image
from seamscope.images.records import read_record
from seamscope.images.results.create import create_output
from seamscope.models.formats import load_model
from seamscope.prediction.run import Finished
from several_files import write_planes
from watching import Seen, run_with_events

PIXELS = np.random.default_rng(0).random((64, 64)).astype(np.float32) + 1


def store(name: str, folder: Path) -> Path:
    """Write the image; chunks and strips are smaller than it."""
    path = folder / name
    if name.endswith(".zarr"):
        zarr.create_array(path, data=PIXELS, chunks=(16, 16))
    elif name.endswith("2.zarr2"):
        zarr.create_array(path, data=PIXELS, chunks=(16, 16), zarr_format=2)
    elif name.endswith(".npy"):
        np.save(path, PIXELS)
    else:
        how: Any = {"compression": "zlib"} if "zlib" in name else {}
        tifffile.imwrite(path, PIXELS, rowsperstrip=8, **how)
    return path


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def touch(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    os.utime(path, ns=(1, 1))  # also where a clock is coarse


def without_chunks(path: Path) -> None:
    """A deletion that has come as far as the chunks; the metadata is still there."""
    shutil.rmtree(path / "c", ignore_errors=True)
    for chunk in path.glob("*.*"):
        if chunk.name[0].isdigit():
            chunk.unlink()


CHANGES: list[tuple[str, Callable[[Path], Any], str]] = [
    ("a.zarr", shutil.rmtree, "disappeared"),
    ("a.zarr", lambda path: path.rename(path.with_name("moved")), "disappeared"),
    ("a.zarr", lambda path: (path / "zarr.json").unlink(), "disappeared"),
    ("a.zarr", without_chunks, "disappeared"),
    ("a.zarr", lambda path: touch(path / "zarr.json"), "changed"),
    ("2.zarr2", shutil.rmtree, "disappeared"),
    ("2.zarr2", without_chunks, "disappeared"),
    ("a.npy", Path.unlink, "disappeared"),
    ("a.npy", cut, "changed from"),
    ("a.npy", touch, "changed"),
    ("a.tif", Path.unlink, "disappeared"),
    ("a.tif", cut, "changed from"),
    ("a.tif", touch, "changed"),
    ("zlib.tif", cut, "changed from"),
    ("zlib.tif", Path.unlink, "disappeared"),
]


@pytest.mark.parametrize(("name", "change", "words"), CHANGES)
@pytest.mark.parametrize("at", [2, 16])
def test_an_input_that_changes_during_the_run_is_noticed(
    at: int, name: str, change: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    """After the second tile, and after the last one was read."""
    path, out = store(name, tmp_path), tmp_path / "out.npy"
    if at == 16 and change is without_chunks:
        pytest.skip("all chunks were read whole")

    def happens(phase: str, done: int) -> None:
        if phase == "Predicting" and done == at:
            change(path)

    with pytest.raises(ImageError, match=words):
        predict(str(path), nn.Identity(), out, tile=16, work=Seen(on_step=happens), batch=1)
    assert not out.exists()
    assert read_record(f"{out}.partial")["finished"] is False


@pytest.mark.parametrize("change", [cut, touch, Path.unlink])
@pytest.mark.parametrize("number", [0, 2])
def test_each_of_several_files_is_watched(
    number: int, change: Callable[[Path], Any], tmp_path: Path
) -> None:
    planes = np.stack([PIXELS, PIXELS + 1, PIXELS + 2])
    files = write_planes(tmp_path, planes)
    image = open_image(files[0])
    np.testing.assert_array_equal(image.read((slice(None),) * 3), planes)
    assert sorted([image.source, *image.parts]) == list(map(str, files))
    change(files[number])
    with pytest.raises(ImageError, match=rf"plane{number}.ome.tif (changed|disappeared)"):
        image.read((slice(0, 1), slice(0, 4), slice(0, 4)))  # of the first file


def test_one_of_several_files_that_is_cut_short_is_named(tmp_path: Path) -> None:
    files = write_planes(tmp_path, np.stack([PIXELS, PIXELS, PIXELS]))
    cut(files[1])
    with pytest.raises(ImageError, match=r"plane1\.ome\.tif is cut short: its pixels end at byte"):
        open_image(files[0])


def test_chunks_that_are_deleted_are_no_fill_values_from_the_first_read_on(tmp_path: Path) -> None:
    image = open_image(store("a.zarr", tmp_path))
    without_chunks(tmp_path / "a.zarr")
    with pytest.raises(ImageError, match="disappeared"):
        image.read((slice(0, 4), slice(0, 4)))


def test_chunks_that_were_never_written_are_counted_and_no_fault(tmp_path: Path) -> None:
    for version, chunks in ((3, (16, 16)), (2, (16, 16))):
        path = tmp_path / f"{version}.zarr"
        array = zarr.create_array(
            path, shape=(64, 64), dtype="f4", chunks=chunks, fill_value=7, zarr_format=version
        )
        array[:32] = PIXELS[:32]
        got, events = run_with_events(str(path), nn.Identity(), tile=32, halo=0)
        np.testing.assert_array_equal(got[:32], PIXELS[:32])
        assert (got[32:] == 7).all()
        end = events[-1]
        assert isinstance(end, Finished)
        assert end.figures["absent_chunks"] == 8
        assert "8 chunks of the image are not stored" in end.warning


def test_watched_arrays_are_arrays(tmp_path: Path) -> None:
    data = open_image(store("a.zarr", tmp_path)).data
    np.testing.assert_array_equal(np.asarray(data), PIXELS)
    assert len(data) == len(PIXELS)
    np.testing.assert_array_equal(data[3:5], PIXELS[3:5])


def test_a_chunk_that_is_written_meanwhile_is_noticed(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(64, 64), dtype="f4", chunks=(16, 16))
    image = open_image(tmp_path / "a.zarr")
    image.read((slice(0, 16), slice(0, 16)))
    array[:16, :16] = 1
    with pytest.raises(ImageError, match=r"disappeared|was written"):
        image.read((slice(0, 16), slice(0, 17)))


# -- predictions that are not finite


class Spoiled(nn.Module):
    """Two channels; where the image is above 5, one of them is not finite."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.where(x > 5, self.value, x)], 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("result", ["probabilities", "labels"])
@pytest.mark.parametrize("blend", ["crop", "linear"])
def test_predictions_that_are_not_finite_are_counted_and_said(
    value: float, result: str, blend: str, tmp_path: Path
) -> None:
    image = PIXELS.copy()
    image[10, 5:9] = image[60, 60] = 9
    out = tmp_path / "out.npy"
    asked: dict[str, Any] = {"seams": "none", "result": result, "tile": 32, "halo": 0}
    if blend == "linear":
        asked["overlap"] = 8
    _, events = run_with_events(image, Spoiled(value), out, blend=blend, **asked)
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.figures["pixels_not_finite"] == 5
    assert "5 of 4096 pixels is not finite" in end.warning
    assert ("labels mean nothing" in end.warning) == (result == "labels")
    assert read_record(out)["figures"]["pixels_not_finite"] == 5


def test_finite_predictions_are_not_mentioned() -> None:
    _, events = run_with_events(PIXELS, nn.Identity(), tile=32, halo=0)
    assert events[-1].warning == ""
    assert events[-1].figures["pixels_not_finite"] == 0


def test_float32_is_offered_where_float16_overflowed() -> None:
    network = load_model(nn.Conv2d(1, 1, 1))
    with torch.no_grad():
        network.module.weight.fill_(1)
        network.module.bias.fill_(0)
    image = np.full((32, 32), 1e5, np.float32)
    _, events = run_with_events(image, network, precision="float16", normalize="none")
    assert "float32" in events[-1].warning
    _, events = run_with_events(image, network, precision="float32", normalize="none")
    assert events[-1].warning == ""


# -- full disks


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let the system refuse what would make a file larger, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_export_on_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    """In a process of its own: PyTorch's writer ended the process."""
    files = [tmp_path / f"net{ending}" for ending in (".pt2", ".torchscript", ".zip", ".onnx")]
    if importlib.util.find_spec("onnxscript") is None:
        files.pop()
    script = (
        "import resource, signal, sys, torch; from torch import nn\n"
        "from seamscope.models.formats import load_model\n"
        "from seamscope.models.formats.export import export\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "model = load_model(nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(),"
        " nn.Conv2d(8, 1, 3, padding=1)).eval())\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))\n"
        f"for file in {list(map(str, files))}:\n"
        "    try: export(model, file)\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for file, line in zip(files, done.stdout.splitlines(), strict=True):
        assert line.startswith(f"OutputError The disk that holds {tmp_path}"), (file, line)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".zarr", ".npy", ".tif"])
def test_a_disk_that_is_full_when_the_record_is_written(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tiles are done, and finishing can be tried again."""
    how: dict[str, Any] = {"axes": "yx", "scale": (1, 1), "units": ("", "")}
    path = tmp_path / f"a{ending}"
    output = create_output(path, (64, 64), "f4", **how)
    output.write((slice(0, 64), slice(0, 64)), PIXELS)
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if "record" in str(target) or "zarr.json" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", full)
        broken.setattr(Path, "replace", full)
        with pytest.raises(OutputError, match=r"The disk that holds .*a\..*\.partial is full"):
            output.finish({"figures": 1})
    assert not path.exists()
    assert read_record(f"{path}.partial")["finished"] is False
    output.finish({"figures": 2})
    assert read_record(path)["figures"] == 2
    np.testing.assert_array_equal(open_image(path).read((slice(None),) * 2), PIXELS)


def test_room_for_the_record_is_kept(tmp_path: Path) -> None:
    """A disk of 2 MB on which nothing is free when the last tile is done."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount")
    try:
        how: dict[str, Any] = {"axes": "yx", "scale": (1, 1), "units": ("", "")}
        output = create_output(disk / "a.zarr", (64, 64), "f4", **how)
        output.write((slice(0, 64), slice(0, 64)), PIXELS)
        with contextlib.suppress(OSError), (disk / "other").open("wb") as other:
            while True:
                other.write(bytes(4096))
                other.flush()
        output.finish({"figures": "x" * 100_000})
        assert read_record(disk / "a.zarr")["finished"] is True
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "image.npy", "net.py:Net", "out.npy", "--seams", "none", "--quiet"],
        ["predict", "image.npy", "net.py:Net", "out.png", "--result", "labels", "--quiet"],
        ["seams", "image.npy", "net.py:Net", "--no-explain", "--quiet"],
    ],
    ids=" ".join,
)
def test_the_command_line_warns_also_when_quiet(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("image.npy", PIXELS)
    Path("net.py").write_text(
        "import torch\n\ndef Net():\n    net = torch.nn.Conv2d(1, 1, 3, padding=1)\n"
        "    torch.nn.init.constant_(net.bias, float('nan'))\n    return net\n"
    )
    more = ["--trust", "--tile", "32", "--halo", "2"]
    result = typer.testing.CliRunner().invoke(app, [*command, *more])
    assert "Warning: The prediction of 4096 of 4096 pixels is not finite" in result.stderr
