"""Results of maps: GeoTIFF, judged by rasterio."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

pytest.importorskip("rasterio")

import rasterio
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from typer.testing import CliRunner

import seamscope
from seamscope.cli import app
from seamscope.errors import OutputError
from seamscope.images.image import open_image
from seamscope.images.records import read_record
from seamscope.images.results import maps
from seamscope.images.results.create import create_output, room_for
from seamscope.images.results.format import Wanted
from seamscope.text import bytes_text
from watching import Seen

PLACE = (
    rasterio.Affine.translation(500000, 4100000)
    @ rasterio.Affine.rotation(10)
    @ rasterio.Affine.scale(2, -3)
)
POINTS = [
    GroundControlPoint(10, 20, 1.0, 2.0, 0.0, "a"),
    GroundControlPoint(200, 100, 3.0, 4.0, 0.0, "b"),
    GroundControlPoint(50, 150, 7.0, 4.0, 0.0, "c"),
]


def pixels():
    """Three bands with a hole of zeros, and one pixel that is 0 in one band only."""
    values = np.random.default_rng(0).integers(1, 255, (3, 210, 170), np.uint8)
    values[:, 100:150, 40:90] = 0
    values[0, 5, 5] = 0
    return values


def write(path, **how):
    usual = {"nodata": 0, "transform": PLACE, "crs": "EPSG:32632"}
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": 210, "width": 170,
               "tiled": True, "blockxsize": 64, "blockysize": 64} | usual | how  # fmt: skip
    points = profile.pop("gcps", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile) as made:
            made.write(pixels())
            made.update_tags(ACQUIRED="yesterday")
            if points:
                made.gcps = (points, rasterio.CRS.from_epsg(32632))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    write(folder / "map.tif")
    write(folder / "points.tif", gcps=POINTS, transform=None)
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def measured(*layers):
    torch.manual_seed(0)
    model = seamscope.Model(torch.nn.Sequential(*layers).eval(), "net")
    model.describe()
    return model


@pytest.fixture(scope="module")
def network():
    return measured(torch.nn.Conv2d(3, 2, 5, padding=2))


@pytest.fixture(scope="module")
def whole(network, folder):
    """The prediction of all of the map."""
    return seamscope.predict(folder / "map.tif", network, tile=96, halo=4)


@pytest.mark.parametrize("area", [None, {"y": (50, 190), "x": (33, 150)}])
@pytest.mark.parametrize("name", ["result.tif", "result.cog.tif"])
def test_a_result_lies_where_its_map_lies(network, whole, name, area) -> None:
    seamscope.predict("map.tif", network, name, tile=96, halo=4, area=area, overwrite=True)
    x, y = (33, 50) if area else (0, 0)
    inner = (slice(50, 190), slice(33, 150)) if area else (slice(None), slice(None))
    with rasterio.open(name) as made:
        np.testing.assert_array_equal(made.read(), whole[:, *inner])
        for corner in ((0, 0), (made.width, 0), (0, made.height)):
            there = PLACE @ (corner[0] + x, corner[1] + y)
            assert made.transform @ corner == pytest.approx(there, abs=1e-6)
        assert made.crs == rasterio.CRS.from_epsg(32632)
        has_data = (pixels() != 0).any(0)[inner]
        np.testing.assert_array_equal(made.dataset_mask() == 255, has_data)
        assert made.tags()["ACQUIRED"] == "yesterday"
        assert made.tags()["TIFFTAG_SOFTWARE"] == "Seamscope"
        assert made.descriptions == ("channel 0", "channel 1")
        assert made.nodata is None  # any number may be a prediction: the mask says it
        layout = made.tags(ns="IMAGE_STRUCTURE").get("LAYOUT")
        assert layout == ("COG" if "cog" in name else None)
    assert read_record(name)["finished"]
    assert open_image(name, axes="cyx" if "cog" not in name else None).shape[-2:]


@pytest.mark.parametrize("named", [("red", "near & infrared", "blue"), ("red", None, "blue")])
def test_names_of_bands_are_names_of_channels(tmp_path, named) -> None:
    """As rasterio writes them; where a band has none, none is used."""
    write(tmp_path / "bands.tif")
    with rasterio.open(tmp_path / "bands.tif", "r+") as made:
        made.descriptions = named
        made.update_tags(2, WAVELENGTH="850")
    found = seamscope.open_image(tmp_path / "bands.tif").channels
    assert tuple(channel.name for channel in found) == (named if all(named) else ())


def test_ground_control_points_move_with_the_area(network) -> None:
    area = {"y": (5, 205), "x": (10, 160)}
    seamscope.predict("points.tif", network, "p.tif", tile=96, halo=4, area=area)
    with rasterio.open("p.tif") as made:
        points, system = made.gcps
        assert system == rasterio.CRS.from_epsg(32632)
        found = [(p.row, p.col, p.x, p.y, p.id) for p in points]
    assert [f[:4] for f in found] == [(p.row - 5, p.col - 10, p.x, p.y) for p in POINTS]


def test_pixels_of_another_size_and_labels(folder) -> None:
    half = measured(torch.nn.Conv2d(3, 2, 3, padding=1), torch.nn.MaxPool2d(2))
    seamscope.predict("map.tif", half, "half.tif", tile=96, halo=4, result="labels")
    expected = seamscope.predict("map.tif", half, tile=96, halo=4, result="labels")
    with rasterio.open("half.tif") as made:
        np.testing.assert_array_equal(made.read(1), expected)
        assert made.dtypes == ("uint8",)
        corner = made.transform @ (made.width, made.height)
        assert corner == pytest.approx(PLACE @ (170, 210), abs=1e-6)
        # the hole is 50:75, 20:45 of the smaller pixels
        assert not made.dataset_mask()[52:73, 22:43].any()
        assert made.dataset_mask()[:48].all()


def test_no_block_is_written_twice(network, whole) -> None:
    """A file of tiles that do not fit blocks is as small as one that is written at once."""
    seamscope.predict("map.tif", network, "odd.tif", tile=50, halo=4)
    with rasterio.open("odd.tif") as made:
        profile, values, mask = made.profile, made.read(), made.dataset_mask()
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open("once.tif", "w", **(profile | {"predictor": 3})) as once,
    ):
        once.write(values)
        once.write_mask(mask)
    assert os.path.getsize("odd.tif") < os.path.getsize("once.tif") + 2000
    aligned = Wanted(
        (2, 640, 640), np.dtype(np.float32), "cyx", (1, 1, 1), ("",) * 3, (1, 160, 320), "", {},
        (0, 0, 0),
    )  # fmt: skip
    assert maps._block_side(aligned) == (160, 320)  # a tile's core is whole blocks


def test_writing_the_map_shows_progress_and_can_be_stopped(network, tmp_path, monkeypatch) -> None:
    """After the last tile; what was predicted stays, and the map is written by resuming."""
    out = tmp_path / "stopped.cog.tif"
    where, how = ("map.tif", network, out), {"tile": 72, "halo": 4}
    monkeypatch.setattr(maps, "_block_side", lambda wanted: (64, 64))
    copies: list[Any] = []
    monkeypatch.setattr(maps, "Popen", lambda *a, **k: copies.append(Popen(*a, **k)) or copies[-1])
    for last in ("Writing the map", "Making the map cloud-optimized"):
        work = Seen(until=lambda seen, last=last: seen.phases[-1:] == [last])
        with pytest.raises(InterruptedError):
            seamscope.predict(*where, work=work, resume=True, **how)
        assert not out.exists()
        assert not list(tmp_path.rglob("*map.tif*"))
    assert [copy.returncode for copy in copies] == [-signal.SIGKILL]
    with monkeypatch.context() as patch:
        patch.setattr(maps, "_COPY", "import sys; sys.exit('No space left on device')")
        with pytest.raises(OutputError, match="No space left"):
            seamscope.predict(*where, resume=True, **how)
        patch.setattr(maps, "_COPY", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        with pytest.raises(OutputError, match="ended by the system"):
            seamscope.predict(*where, resume=True, **how)
    with monkeypatch.context() as patch:  # GDAL builds overviews of large maps beside the copy
        leave = "import json, sys; open(json.loads(sys.argv[1])[1] + '.ovr.tmp', 'w'); import mine"
        patch.setattr(maps, "_COPY", leave)
        Path("mine.py").write_text("open('run', 'w')")  # a folder of data runs no code
        with pytest.raises(OutputError, match="No module named 'mine'"):
            seamscope.predict(*where, resume=True, **how)
        Path("mine.py").unlink()
        assert not list(tmp_path.rglob("*.ovr.tmp"))
        assert not Path("run").exists()
    work = Seen()
    seamscope.predict(*where, work=work, resume=True, **how)
    assert "Predicting" not in work.phases[-2:]
    assert work.parts["Writing the map"] == [(n, 12) for n in range(1, 13)]
    assert work.steps == [(1, 1)]
    with rasterio.open(out) as made:
        np.testing.assert_array_equal(made.read(), seamscope.predict(*where[:2], **how))


def test_room_is_counted_for_the_array_and_its_copies(network, tmp_path) -> None:
    """As the run checks it, which is what the dock promises."""
    image, values = open_image("map.tif"), 2 * 210 * 170 * 4
    place, about = str(tmp_path / "r"), ((2, 210, 170), "f4", "cyx", (1, 210, 170))
    for ending, copies in ((".tif", 2), (".cog.tif", 4)):
        room = room_for(place + ending, *about, source=image)
        assert room.needed == copies * values + 2**20
    assert room_for(f"{place}.tif", *about).needed == values + 2**20


def test_a_chosen_nodata_on_the_command_line(folder) -> None:
    words = ("map.tif", "demo:batchnorm", "chosen.tif", "--channel", "1", "--nodata", "7",
             "--tile", "128", "-q")  # fmt: skip
    done = CliRunner().invoke(app, ["predict", *words])
    assert done.exit_code == 0, done.output
    with rasterio.open("chosen.tif") as made:
        np.testing.assert_array_equal(made.dataset_mask() == 255, (pixels() != 7).any(0))
    image = open_image("map.tif", nodata=7)
    expected = seamscope.predict(image, "demo:batchnorm", tile=128, channel=1)
    np.testing.assert_array_equal(tifffile.imread("chosen.tif").squeeze()[:4], expected)


def test_without_rasterio_coordinates_are_left_out_and_said(network, whole, monkeypatch) -> None:
    monkeypatch.setattr(maps, "is_installed", lambda: False)
    image = open_image("map.tif")
    kinds = {"axes": "cyx", "scale": (1, 1, 1), "units": ("",) * 3, "source": image}
    with create_output("plain.tif", (2, 210, 170), np.float32, **kinds) as output:
        assert "its coordinates are left out" in output.notes[0]
        assert "seamscope[geo]" in output.notes[0]
    with pytest.raises(OutputError, match="rasterio, which is missing"):
        seamscope.predict("map.tif", network, "no.cog.tif", tile=96, halo=4)
    with create_output("other.zarr", (2, 210, 170), np.float32, **kinds) as output:
        assert output.notes == ()


def test_what_is_unfinished_says_so_and_is_shown(network, whole) -> None:
    image = open_image("map.tif")
    kinds = {"axes": "cyx", "scale": (1, 1, 1), "units": ("",) * 3, "source": image}
    with create_output("half-done.tif", (2, 210, 170), np.float32, **kinds) as output:
        part = (slice(0, 2), slice(0, 100), slice(0, 60))
        output.write(part, whole[part])
        room = output.notes[0]
    assert f"up to {bytes_text(2 * whole.nbytes + 2**20)} on the disk" in room
    there = open_image("half-done.tif.partial")
    assert any("unfinished" in note for note in there.notes)
    np.testing.assert_array_equal(there.read(part), whole[part])
    assert read_record("half-done.tif.partial")["finished"] is False
    seamscope.predict("map.tif", network, "half-done.tif", tile=96, halo=4, resume=True)
    with rasterio.open("half-done.tif") as made:
        np.testing.assert_array_equal(made.read(), whole)


def test_large_results_are_bigtiff(tmp_path) -> None:
    size = 50_000
    wanted = Wanted(
        (size, size), np.dtype(np.float32), "yx", (1.0, 1.0), ("pixel",) * 2, (256, 256), "", {},
        (0.0, 0.0),
    )  # fmt: skip
    maps._created(tmp_path / "big.tif", wanted, None, (256, 256)).close()
    assert (tmp_path / "big.tif").read_bytes()[:4] == b"II+\0"
    assert (tmp_path / "big.tif").stat().st_size < 10**7  # nothing is written yet


@pytest.mark.parametrize("name", ["cells.tif", "cells.cog.tif"])
def test_labels_of_a_map_lie_where_it_lies(tmp_path, name) -> None:
    values = np.random.default_rng(1).random((80, 90), np.float32)
    with rasterio.open(tmp_path / "p.tif", "w", driver="GTiff", dtype="float32", count=1,
                       height=80, width=90, transform=PLACE, crs="EPSG:32632") as made:  # fmt: skip
        made.write(values, 1)
    words = ["segment", str(tmp_path / "p.tif"), str(tmp_path / name), "--block", "30"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    with rasterio.open(tmp_path / name) as made:
        np.testing.assert_array_equal(made.read(1), seamscope.segment(values).labels)
        assert made.transform == PLACE
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"p.tif", name, f"{name}.json"}
