"""Results are written where asked, found whole again, and never over anything that is needed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import dask.array
import imagecodecs
import numpy as np
import psutil
import pytest
import tifffile
import torch
import zarr
from ome_zarr_models.v05 import Image as OmeZarrImage

from seamscope.errors import OutputError, SettingsError
from seamscope.images.image import Image, open_image
from seamscope.images.records import read_record
from seamscope.images.results.create import create_output, room_for
from seamscope.images.results.output import Output
from seamscope.text import bytes_text

ENDINGS = (".ome.zarr", ".zarr", ".ome.tif", ".tif", ".tiff", ".npy")

SHAPE = (3, 40, 50)
CYX: dict[str, Any] = {
    "axes": "cyx",
    "scale": (1.0, 0.5, 0.25),
    "units": ("", "micrometer", "micrometer"),
}
YX: dict[str, Any] = {"axes": "yx", "scale": (0.5, 0.25), "units": ("micrometer", "micrometer")}
PLAIN: dict[str, Any] = {"axes": "yx", "scale": (1.0, 1.0), "units": ("pixel", "pixel")}


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def values(shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng(0).random(shape) * 200).astype(dtype)


def whole(image: Image) -> np.ndarray:
    return image.read((slice(None),) * image.ndim)


def fill(output: Output, data: np.ndarray, step: int = 16) -> None:
    """Write block by block, as predictions do."""
    for y in range(0, data.shape[-2], step):
        for x in range(0, data.shape[-1], step):
            index = (
                *(slice(0, n) for n in data.shape[:-2]),
                slice(y, min(y + step, data.shape[-2])),
                slice(x, min(x + step, data.shape[-1])),
            )
            output.write(index, data[index])


# --------------------------------------------------------------------------------------------------
# Round trips
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint16", "int32"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_opens_again(ending: str, dtype: str, tmp_path: Path) -> None:
    path, data = tmp_path / f"out{ending}", values(dtype=dtype)
    with create_output(path, data.shape, dtype, **CYX) as output:
        fill(output, data)
        np.testing.assert_array_equal(output.array[:, 3:30, :], data[:, 3:30])
        output.finish({})
    image = open_image(path)
    np.testing.assert_array_equal(whole(image), data)
    assert image.dtype == data.dtype
    assert (image.axes, image.units) == (CYX["axes"], CYX["units"])
    assert image.scale == pytest.approx(CYX["scale"], rel=1e-6)


CASES = [
    ("yx", (40, 50), (2.0, 3.0), ("nanometer", "nanometer")),
    ("zyx", (4, 40, 50), (2.0, 0.5, 0.5), ("micrometer", "nanometer", "micrometer")),
    ("tyx", (4, 40, 50), (2.5, 0.5, 0.5), ("second", "micrometer", "micrometer")),
    ("czyx", (3, 4, 40, 50), (1.0, 2.0, 0.5, 0.5), ("", *["micrometer"] * 3)),
    ("tczyx", (2, 3, 4, 40, 50), (1.5, 1.0, 2.0, 0.5, 0.5), ("second", "", *["nanometer"] * 3)),
    ("zyx", (4, 40, 50), (1.0, 1.0, 1.0), ("pixel",) * 3),
]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("axes", "shape", "scale", "units"), CASES)
def test_axes_and_sizes_of_every_kind(
    ending: str,
    axes: str,
    shape: tuple[int, ...],
    scale: tuple[float, ...],
    units: tuple[str, ...],
    tmp_path: Path,
) -> None:
    path, data = tmp_path / f"out{ending}", values(shape)
    with create_output(path, shape, "f4", axes=axes, scale=scale, units=units) as output:
        fill(output, data)
        output.finish({})
    image = open_image(path)
    at = [axes.index(a) for a in image.axes or ""]  # TIFF has z before c
    assert sorted(at) == list(range(len(axes)))
    assert image.scale == pytest.approx([scale[i] for i in at], rel=1e-6)
    assert image.units == tuple(units[i] for i in at)
    np.testing.assert_array_equal(whole(image), data.transpose(at))


@pytest.mark.parametrize(
    ("ending", "stored"), [(".ome.zarr", "czyx"), (".tif", "zcyx"), (".npy", "zycx")]
)
def test_formats_that_prescribe_an_order(ending: str, stored: str, tmp_path: Path) -> None:
    """Blocks come in the order that was asked for, and are stored in the order of the format."""
    data = values((4, 30, 3, 20))
    told = {"scale": (4.0, 3.0, 1.0, 2.0), "units": ("nanometer", "nanometer", "", "nanometer")}
    with create_output(tmp_path / f"a{ending}", data.shape, "f4", axes="zycx", **told) as output:
        for z in range(4):
            index = (slice(z, z + 1), slice(5, 30), slice(0, 3), slice(0, 20))
            output.write(index, data[index])
        output.array[:, :5] = data[:, :5]
        assert output.array.shape == data.shape
        np.testing.assert_array_equal(np.asarray(output.array), data)
        np.testing.assert_array_equal(output.array[1, ..., 3:7], data[1, ..., 3:7])
        np.testing.assert_array_equal(output.array[1, 2], data[1, 2])
        output.finish({})
    image = open_image(tmp_path / f"a{ending}")
    assert image.axes == stored
    assert image.scale == tuple(told["scale"]["zycx".index(a)] for a in stored)
    np.testing.assert_array_equal(whole(image), data.transpose(["zycx".index(a) for a in stored]))


def test_ome_zarr_conforms(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    channels = ["foreground", {"name": "boundary", "color": "#FF8800"}, "background"]
    with create_output(path, SHAPE, "f4", **CYX, metadata={"channels": channels}) as output:
        output.finish({})
    group = zarr.open_group(path, mode="r")
    image = OmeZarrImage.from_zarr(group)
    level = image.ome_attributes.multiscales[0]
    assert [axis.unit for axis in level.axes] == [None, "micrometer", "micrometer"]
    assert group["0"].metadata.dimension_names == ("c", "y", "x")
    listed = dict(group.attrs["ome"])["omero"]["channels"]
    assert [c["label"] for c in listed] == ["foreground", "boundary", "background"]
    assert listed[1]["color"] == "FF8800"
    assert len({c["color"] for c in listed}) == 3
    assert listed[0]["window"] == {"start": 0, "end": 1, "min": 0, "max": 1}


def test_imagej_and_ome_each_where_they_can(tmp_path: Path) -> None:
    for name, dtype, imagej in [
        ("a.tif", "float32", True),
        ("b.tif", "int32", False),
        ("c.ome.tif", "float32", False),
    ]:
        with create_output(tmp_path / name, SHAPE, dtype, **CYX) as output:
            output.finish({})
        with tifffile.TiffFile(tmp_path / name) as tif:
            assert (tif.is_imagej, tif.is_ome) == (imagej, not imagej)
            assert len(tif.pages) == 3


def test_channel_names_reach_ome_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with create_output(path, SHAPE, "f4", **CYX, metadata={"channels": ["a", "b", "c"]}) as output:
        output.finish({})
    with tifffile.TiffFile(path) as tif:
        assert tif.ome_metadata is not None
        assert 'Name="b"' in tif.ome_metadata


def test_large_tiff_is_written_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 4 GB: BigTIFF, and its last pixels come back (the file is a hole)."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    shape = (5, 30000, 30000)
    if shutil.disk_usage(tmp_path).free < 6 * 2**30:
        pytest.skip("needs 6 GB of free disk for its hole to be allowed")
    corner = (slice(4, 5), slice(29999, 30000), slice(29990, 30000))
    with create_output(tmp_path / "a.tif", shape, "u1", **CYX) as output:
        output.write(corner, np.full((1, 1, 10), 7, np.uint8))
        output.finish({})
    image = open_image(tmp_path / "a.tif")
    assert image.shape == shape
    assert image.read(corner).tolist() == [[[7] * 10]]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png_is_for_labels(dtype: str, tmp_path: Path) -> None:
    data = values((40, 50), dtype)
    with create_output(tmp_path / "a.png", data.shape, dtype, **PLAIN) as output:
        fill(output, data)
        assert not (tmp_path / "a.png").exists()
        output.finish({})
    np.testing.assert_array_equal(imagecodecs.imread(tmp_path / "a.png"), data)
    np.testing.assert_array_equal(whole(open_image(tmp_path / "a.png")), data)


def test_in_memory() -> None:
    with create_output(None, SHAPE, "f4", **CYX) as output:
        fill(output, values())
        output.finish({"plan": 1})
    assert output.path is None
    assert output.record["finished"] is True
    np.testing.assert_array_equal(output.array, values())


@pytest.mark.parametrize(
    "make",
    [
        lambda shape: np.zeros(shape, np.float64),
        lambda shape: zarr.create_array({}, shape=shape, chunks=(3, 16, 16), dtype="f4"),
    ],
)
def test_into_an_array_of_the_users(make: Any) -> None:
    array = make(SHAPE)
    with create_output(array, SHAPE, "f4", **CYX) as output:
        fill(output, values())
        output.finish({})
    np.testing.assert_array_equal(array[:], values())


def test_chunks_are_those_asked_for(tmp_path: Path) -> None:
    for ending, path in ((".zarr", ""), (".ome.zarr", "/0")):
        with create_output(tmp_path / f"a{ending}", SHAPE, "f4", **CYX, chunks=(3, 16, 99)) as out:
            out.finish()
        assert zarr.open_array(f"{tmp_path}/a{ending}{path}", mode="r").chunks == (3, 16, 50)


@pytest.mark.parametrize(
    ("axes", "shape", "chunks"),
    [
        ("yx", (2000, 300), (512, 300)),
        ("cyx", (4, 2000, 3000), (4, 512, 512)),
        ("tczyx", (9, 2, 100, 500, 500), (1, 2, 32, 128, 128)),
    ],
)
def test_usual_chunks(
    axes: str, shape: tuple[int, ...], chunks: tuple[int, ...], tmp_path: Path
) -> None:
    told = {"scale": (1.0,) * len(axes), "units": ("",) * len(axes)}
    with create_output(tmp_path / "a.zarr", shape, "u1", axes=axes, **told) as output:
        assert output.array.chunks == chunks


def test_threads_may_share_a_chunk(tmp_path: Path) -> None:
    """zarr-python by itself loses about half of these."""
    data = values((64, 64), "uint16")
    output = create_output(tmp_path / "a.zarr", data.shape, "u2", **PLAIN, chunks=(64, 64))

    def write(row: int) -> None:
        index = (slice(row, row + 1), slice(0, 64))
        output.write(index, data[index])

    threads = [threading.Thread(target=write, args=(row,)) for row in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(output.array[:], data)


# --------------------------------------------------------------------------------------------------
# Records
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [*ENDINGS, ".png"])
def test_record_says_whether_it_is_finished(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    told: dict[str, Any] = {"model": "demo:batchnorm", "axes": "a name of theirs"}
    with create_output(path, (40, 50), "u1", **YX, metadata=told) as output:
        fill(output, values((40, 50), "uint8"))
        record = read_record(f"{path}.partial")
        assert record is not None
        assert record["finished"] is False
        assert record["model"] == "demo:batchnorm"
        assert not path.exists()
        figures = {"tile": (np.int64(3), np.float32(0.5)), "mismatch": float("nan"), "at": path}
        output.finish({"figures": figures, "scale": "theirs again"})
    record = read_record(path)
    assert record == output.record
    assert record["finished"] is True
    assert record["figures"] == {"tile": [3, 0.5], "mismatch": None, "at": str(path)}
    assert (record["axes"], record["scale"]) == ("yx", [0.5, 0.25])
    assert open_image(path).axes == "yx"


@pytest.mark.parametrize("ending", [*ENDINGS, ".png"])
def test_interrupted_run_leaves_what_it_has(ending: str, tmp_path: Path) -> None:
    path, data = tmp_path / f"a{ending}", values((40, 50), "uint8")

    def interrupted() -> None:
        with create_output(path, data.shape, "u1", **YX) as output:
            output.write((slice(0, 16), slice(0, 50)), data[:16])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    partial = tmp_path / f"a{ending}.partial"
    image = open_image(partial)
    there = whole(image)
    np.testing.assert_array_equal(there[:16], data[:16])
    assert not there[16:].any()
    assert "is unfinished" in image.notes[0]
    record = read_record(partial)
    assert record is not None
    assert record["finished"] is False
    assert {p.name for p in tmp_path.iterdir()} <= {partial.name, partial.name + ".json"}


@pytest.mark.parametrize("ending", [*ENDINGS, ".png"])
def test_a_copy_of_an_unfinished_file_alone_does_not_look_whole(
    ending: str, tmp_path: Path
) -> None:
    """Also under another name and without its record. A whole one has no such note."""
    data = values((40, 50), "uint8")
    for name in ("whole", "part"):
        with create_output(tmp_path / f"{name}{ending}", data.shape, "u1", **YX) as output:
            fill(output, data)
            if name == "whole":
                output.finish()
    partial, copy = tmp_path / f"part{ending}.partial", tmp_path / f"copy{ending}"
    (shutil.copytree if partial.is_dir() else shutil.copyfile)(partial, copy)
    assert any("is unfinished" in note for note in open_image(copy).notes)
    assert not open_image(tmp_path / f"whole{ending}").notes
    np.testing.assert_array_equal(whole(open_image(tmp_path / f"whole{ending}")), data)
    if ending == ".npy":
        with pytest.raises(ValueError, match="pickle"):
            np.load(copy)


def test_killed_process_leaves_what_it_has(tmp_path: Path) -> None:
    script = (
        "import os, sys, numpy as np; from seamscope.images.results.create import create_output\n"
        "for path in sys.argv[1:]:\n"
        "    if os.fork():\n"
        "        assert os.WTERMSIG(os.wait()[1]) == 9\n"
        "        continue\n"
        "    o = create_output(path, (40, 50), 'u1', axes='yx', scale=(1, 1), units=('', ''))\n"
        "    o.write((slice(0, 16), slice(0, 50)), np.ones((16, 50), np.uint8))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    paths = [str(tmp_path / f"a{ending}") for ending in ENDINGS]
    subprocess.run([sys.executable, "-c", script, *paths], check=True)
    for ending in ENDINGS:
        record = read_record(tmp_path / f"a{ending}.partial")
        assert record is not None
        assert record["finished"] is False
        assert whole(open_image(tmp_path / f"a{ending}.partial")).sum() == 800


@pytest.mark.parametrize("ending", [*ENDINGS, ".png"])
def test_discarded_result_leaves_nothing(ending: str, tmp_path: Path) -> None:
    with create_output(tmp_path / f"a{ending}", (40, 50), "u1", **YX) as output:
        output.discard()
    assert list(tmp_path.iterdir()) == []


def test_no_record_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.tif.json").write_text("[")
    np.save(tmp_path / "b.npy", np.zeros((4, 4)))
    (tmp_path / "b.npy.json").write_text(json.dumps({"seamscope": {"axes": "zyx"}}))
    assert read_record(tmp_path / "a.tif") is None
    assert read_record(tmp_path) is None
    assert open_image(tmp_path / "b.npy").axes == "yx"


def test_result_is_closed_after_it_is_finished() -> None:
    output = create_output(None, SHAPE, "f4", **CYX)
    output.finish()
    output.close()
    assert output.record["finished"]
    with pytest.raises(OutputError, match="complete and closed"):
        output.write((slice(0, 3),) * 3, np.zeros((3, 3, 3), np.float32))


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [*ENDINGS, ".png"])
def test_nothing_is_overwritten_unless_told(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    with create_output(path, (40, 50), "u1", **YX) as output:
        fill(output, values((40, 50), "uint8"))
        output.finish({"run": 1})
    with pytest.raises(OutputError, match=r"exists.*overwrite=True"):
        create_output(path, (40, 50), "u1", **YX)
    assert whole(open_image(path)).any()
    with create_output(path, (20, 30), "u1", **YX, overwrite=True) as output:
        output.finish()
    assert open_image(path).shape == (20, 30)
    record = read_record(path)
    assert record is not None
    assert "run" not in record


def test_what_cannot_be_written_leaves_the_old_result(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="int64"):
        create_output(path, (4, 4), "i8", **PLAIN, overwrite=True)
    assert path.read_bytes() == b"precious"


def test_a_folder_of_the_users_is_never_removed(tmp_path: Path) -> None:
    for name in ("holiday.zarr", "out.tif", "out.npy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.jpg").write_bytes(b"precious")
        with pytest.raises(OutputError, match="folder that is not zarr"):
            create_output(tmp_path / name, (4, 4), "u1", **PLAIN, overwrite=True)
        assert (tmp_path / name / "photo.jpg").exists()


def test_a_record_file_of_the_users_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.npy.json").write_text("precious")
    with pytest.raises(OutputError, match=r"a\.npy\.json exists"):
        create_output(tmp_path / "a.npy", (4, 4), "u1", **PLAIN)


@pytest.mark.parametrize("ending", [".zarr", ".tif", ".npy"])
def test_the_image_itself_is_never_overwritten(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    with create_output(path, (40, 50), "u1", **YX) as output:
        fill(output, values((40, 50), "uint8"))
        output.finish()
    image = open_image(path)
    linked = tmp_path / f"link{ending}"
    linked.symlink_to(path)
    targets: list[Any] = [path, linked, tmp_path / "." / path.name]
    for target in [
        *targets,
        *([path / "inner.zarr", linked / "inner.zarr"] if ending == ".zarr" else []),
    ]:
        with pytest.raises(OutputError, match="which is read"):
            create_output(target, (40, 50), "u1", **YX, overwrite=True, source=image)
    if ending == ".zarr":  # also where a dask array computes on it
        dask = pytest.importorskip("dask.array")
        lazy = open_image(dask.from_zarr(str(path))[:, ::-1] * 2, axes="yx")
        with pytest.raises(OutputError, match="which is read"):
            create_output(path, (40, 50), "u1", **YX, overwrite=True, source=lazy)
    np.testing.assert_array_equal(whole(open_image(path)), values((40, 50), "uint8"))


def test_the_array_that_is_read_is_never_filled(tmp_path: Path) -> None:
    array = np.zeros((40, 50), np.float32)
    stored = zarr.create_array(tmp_path / "a.zarr", data=array)
    np.save(tmp_path / "a.npy", array)
    for target, read in [
        (array[:], array),
        (zarr.open_array(tmp_path / "a.zarr"), stored),
        (np.load(tmp_path / "a.npy", mmap_mode="r+"), tmp_path / "a.npy"),
    ]:
        with pytest.raises(OutputError, match="image itself"):
            create_output(target, (40, 50), "f4", **YX, source=open_image(read))


READ_ONLY = np.zeros((40, 50), np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("out.h5", r"use one of \.ome\.zarr, \.zarr"),
        ("out", "ending"),
        (".tif", "ending"),
        ("nowhere/out.tif", "no folder nowhere"),
        ("out.png", "PNG is for labels"),
        (np.zeros((50, 40), np.float32), "50 x 40, the result 40 x 50"),
        (np.zeros((40, 50), np.uint8), "cannot hold float32"),
        (READ_ONLY, "cannot be written into"),
        (dask.array.zeros((40, 50)), "cannot be written into"),
        (torch.zeros(40, 50), "cannot be written into"),
        (7, "cannot be written into"),
    ],
)
def test_target_that_cannot_be_used(
    target: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=told):
        create_output(target, (40, 50), "f4", **PLAIN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float16", "int64", "uint64", "bool"])
def test_types_that_tiff_does_not_have(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=rf"no {dtype}\. Use"):
        create_output(tmp_path / "a.tif", (40, 50), dtype, **PLAIN)


def test_formats_want_axes_of_space(tmp_path: Path) -> None:
    told = {"axes": "tcx", "scale": (1.0,) * 3, "units": ("",) * 3}
    for name in ("a.tif", "a.ome.zarr", "a.png"):
        with pytest.raises(OutputError, match=r"a\..* cannot hold this result"):
            create_output(tmp_path / name, (2, 3, 4), "u1", **told)
    with pytest.raises(SettingsError, match="3 dimensions"):
        create_output(None, (2, 3), "u1", **told)


@pytest.mark.parametrize(
    ("index", "block", "told"),
    [
        ((slice(0, 3), slice(0, 8), slice(0, 8)), np.zeros((1, 8, 8), "f4"), "1 x 8 x 8"),
        ((slice(0, 3), slice(36, 44), slice(0, 8)), np.zeros((3, 8, 8), "f4"), "does not fit"),
        ((slice(0, 3), slice(0, 8)), np.zeros((3, 8, 50), "f4"), "does not fit"),
        ((slice(0, 3), slice(0, 8), slice(0, 8)), np.zeros((3, 8, 8), "c8"), "complex64"),
    ],
)
def test_block_that_does_not_fit(index: Any, block: np.ndarray, told: str) -> None:
    with pytest.raises(OutputError, match=told):
        create_output(None, SHAPE, "f4", **CYX).write(index, block)


def test_floats_do_not_become_labels_in_silence() -> None:
    output = create_output(None, (40, 50), "u1", **PLAIN)
    with pytest.raises(OutputError, match="float32 do not fit a result of type uint8"):
        output.write((slice(0, 4), slice(0, 4)), np.zeros((4, 4), np.float32))


# --------------------------------------------------------------------------------------------------
# Disks that are full or gone
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_room_is_checked_first(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 5_000_000))
    with pytest.raises(OutputError, match=r"\(5000000 bytes\) free") as refused:
        create_output(tmp_path / f"a{ending}", (1000, 1000), "f4", **PLAIN)
    needed = int(re.search(r"needs .*?\((\d+) bytes\)", str(refused.value))[1])
    lower = 0 if ending != ".ome.zarr" else 4 * (500**2 + 250**2)  # of its pyramid, at least
    assert needed == 5_048_576 if not lower else 5_048_576 + lower <= needed < 7_000_000
    room = room_for(tmp_path / f"a{ending}", (1000, 1000), "f4", PLAIN["axes"], (512, 512))
    assert room is not None
    assert (room.problem, room.needed, room.free) == (str(refused.value), needed, 5_000_000)
    small = room_for(tmp_path / f"a{ending}", (100, 1000), "f4", PLAIN["axes"], (100, 512))
    assert small is not None
    assert small.problem == ""
    assert room_for(tmp_path / "none" / f"a{ending}", (9, 9), "f4", "yx", (9, 9)) is None
    assert list(tmp_path.iterdir()) == []
    create_output(tmp_path / f"a{ending}", (100, 1000), "f4", **PLAIN).close()


def test_the_old_result_stays_and_its_room_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_output(tmp_path / "a.npy", (1000, 1000), "f4", **PLAIN).finish()
    create_output(tmp_path / "b.npy", (1000, 1000), "f4", **PLAIN).close()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 2_000_000))
    with pytest.raises(OutputError, match=r"older result takes 4 MB and stays.*delete it"):
        create_output(tmp_path / "a.npy", (1000, 1000), "f4", **PLAIN, overwrite=True)
    # what is unfinished is replaced at once
    create_output(tmp_path / "b.npy", (1000, 1000), "f4", **PLAIN, overwrite=True).close()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve")
@pytest.mark.parametrize("ending", [".tif", ".npy"])
def test_room_is_reserved(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a hole: a disk that fills up under a memory map would kill the process."""
    create_output(tmp_path / f"a{ending}", (1000, 1000), "u1", **PLAIN).close()
    assert (tmp_path / f"a{ending}.partial").stat().st_blocks * 512 >= 1_000_000

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"disk that holds .*b\..* is full.*Nothing was written"):
        create_output(tmp_path / f"b{ending}", (1000, 1000), "u1", **PLAIN)
    assert not list(tmp_path.glob("b*"))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve")
def test_file_systems_that_cannot_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*arguments: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unable)
    create_output(tmp_path / "a.npy", (40, 50), "u1", **PLAIN).close()


def test_disk_full_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = values((40, 50))
    output = create_output(tmp_path / "a.zarr", data.shape, "f4", **PLAIN, chunks=(16, 16))
    output.write((slice(0, 16), slice(0, 16)), data[:16, :16])

    class Full:
        shape, dtype = data.shape, data.dtype

        def __setitem__(self, index: Any, block: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output._store, "array", Full())
    with pytest.raises(OutputError, match=r"a\.zarr\.partial is full.*is kept"):
        output.write((slice(16, 32), slice(0, 16)), data[16:32, :16])
    output.close()
    there = whole(open_image(tmp_path / "a.zarr.partial"))
    np.testing.assert_array_equal(there[:16, :16], data[:16, :16])
    assert not there[16:].any()


def test_really_full_disk(tmp_path: Path) -> None:
    """A file system of 2 MB, where one can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("only root can mount")
    try:
        data = values((800, 1000), "uint16")
        with pytest.raises(OutputError, match=r"needs 2\.65 MB"):
            create_output(disk / "a.npy", data.shape, "u2", **PLAIN)
        noise = np.random.default_rng(0).integers(0, 2**16, (1600, 1000)).astype(np.uint16)
        output = create_output(disk / "a.zarr", noise.shape, "u2", **PLAIN, chunks=(16, 16))
        with pytest.raises(OutputError, match="full"):
            fill(output, noise)
        output.close()
        there = whole(open_image(disk / "a.zarr.partial"))
        np.testing.assert_array_equal(there[:96], noise[:96])
        assert read_record(disk / "a.zarr.partial")["finished"] is False
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_png_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = create_output(tmp_path / "a.png", (40, 50), "u1", **PLAIN)

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"full.*Nothing was written"):
        output.finish({})
    output.discard()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_does_not_cost_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = create_output(tmp_path / "a.npy", (40, 50), "u1", **PLAIN)

    def full(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="full"):
            output.finish({"model": "lost"})
    record = read_record(tmp_path / "a.npy.partial")
    assert record == output.record
    assert record["finished"] is False
    output.finish({"model": "kept"})
    assert read_record(tmp_path / "a.npy") == output.record
    assert {p.name for p in tmp_path.iterdir()} == {"a.npy", "a.npy.json"}


def test_folder_that_vanished(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    output = create_output(tmp_path / "gone" / "a.npy", (40, 50), "u1", **PLAIN)
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(OutputError, match=r"a\.npy\.partial cannot be written .*folder"):
        output.finish({})


def test_too_large_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(OutputError, match=r"takes 8 kB of memory, 1 kB are free"):
        create_output(None, (40, 50), "f4", **PLAIN)


@pytest.mark.parametrize(
    ("size", "told"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (4.2e9, "4.2 GB"), (3e15, "3000 TB")],
)
def test_amounts_are_told_for_people(size: float, told: str) -> None:
    assert bytes_text(size) == told
