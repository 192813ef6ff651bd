"""Plates: every field is predicted, into a plate that others read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr_models.v04 as v04
import ome_zarr_models.v05 as v05
import pytest
import torch
import typer.testing
import zarr

from seamscope import freeze_statistics, load_model
from seamscope.cli import app
from seamscope.errors import ImageError, OutputError, SeamscopeError
from seamscope.files import Place
from seamscope.images.image import open_image
from seamscope.images.ngff import OmeZarr
from seamscope.images.plates import Plate, lay_out, plate_at
from seamscope.images.records import read_record
from seamscope.images.results.create import create_output
from seamscope.normalization.statistics import Statistics
from seamscope.prediction.plates import predict_plate
from seamscope.settings import Settings
from watching import stopped_after

MICRO = "micrometer"
FIELDS = {"A/1": ("0", "1"), "B/2": ("0",)}
SETTINGS = Settings(tile=32, normalize="none")
PLATE = {
    "name": "screen",
    "rows": [{"name": "A"}, {"name": "B"}],
    "columns": [{"name": "1"}, {"name": "2"}],
    "wells": [
        {"path": "A/1", "rowIndex": 0, "columnIndex": 0},
        {"path": "B/2", "rowIndex": 1, "columnIndex": 1},
    ],
    "field_count": 2,
}
WELLS = {well: {"images": [{"path": f} for f in fields]} for well, fields in FIELDS.items()}
NAMES = ("A/1/0", "A/1/1", "B/2/0")


def pixels(name: str) -> np.ndarray:
    return np.random.default_rng(NAMES.index(name)).random((2, 40, 48)).astype("f4")


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def plate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plate") / "plate.ome.zarr"
    ome = OmeZarr(request.param)
    lay_out(path, Plate("", PLATE, WELLS), ome)
    how: dict[str, Any] = {
        "axes": "cyx",
        "scale": (1.0, 0.5, 0.5),
        "units": ("", MICRO, MICRO),
        "metadata": {"channels": [{"name": "DAPI", "color": "0000FF"}, "GFP"]},
        "ome": ome,
    }
    for name in NAMES:
        place = Place(path / name, result=True, member=True)
        with create_output(place, (2, 40, 48), "f4", **how) as output:
            output.write((slice(0, 2), slice(0, 40), slice(0, 48)), pixels(name))
            output.finish()
    return path


class Shift(torch.nn.Module):
    """One channel for each of the image's; counts what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return 0.5 * x + 0.25


def test_the_fields_of_a_plate(plate: Path, tmp_path: Path) -> None:
    found = plate_at(plate)
    assert found is not None
    assert found.fields == NAMES
    assert plate_at(plate / "A/1/0") is None
    assert plate_at(tmp_path) is None
    with pytest.raises(SeamscopeError, match="is no plate"):
        predict_plate(str(plate / "A/1/0"), Shift(), tmp_path / "out.ome.zarr", SETTINGS)
    with pytest.raises(OutputError, match="cannot hold a plate"):
        predict_plate(str(plate), Shift(), tmp_path / "out.tif", SETTINGS)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_is_predicted_into_a_plate(plate: Path, version: str, tmp_path: Path) -> None:
    out = tmp_path / "out.ome.zarr"
    done = predict_plate(str(plate), Shift(), out, SETTINGS, ome=OmeZarr(version))
    assert done.fields == NAMES
    assert not done.failed
    group = zarr.open_group(out, mode="r")
    model = {"0.4": v04, "0.5": v05}[version].HCS.from_zarr(group)
    attributes = model.ome_attributes if version == "0.5" else model.attributes
    assert [well.path for well in attributes.plate.wells] == ["A/1", "B/2"]
    for name in NAMES:
        image = open_image(out, series=name)
        np.testing.assert_array_equal(
            image.read((slice(None),) * 3), 0.5 * pixels(name) + np.float32(0.25)
        )
        assert image.scale == (1.0, 0.5, 0.5)
        # the network names no channels: they keep the image's names and colours
        assert [channel.name for channel in image.channels] == ["DAPI", "GFP"]
        assert image.channels[0].color == "0000FF"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.ome.zarr"]
    assert (read_record(out) or {})["finished"] is True
    with pytest.raises(OutputError, match="exists"):
        predict_plate(str(plate), Shift(), out, SETTINGS)


def test_a_stopped_plate_is_resumed(plate: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.ome.zarr"
    with pytest.raises(InterruptedError):
        predict_plate(str(plate), Shift(), out, SETTINGS, work=stopped_after(1))
    assert not out.exists()
    with pytest.raises(OutputError, match="`resume=True`"):
        predict_plate(str(plate), Shift(), out, SETTINGS)
    with pytest.raises(OutputError, match="another `halo`"):
        predict_plate(str(plate), Shift(), out, SETTINGS.but(halo=4), resume=True)
    predict_plate(str(plate), Shift(), out, SETTINGS, resume=True)
    for name in NAMES:
        found = open_image(out, series=name).read((slice(None),) * 3)
        np.testing.assert_array_equal(found, 0.5 * pixels(name) + np.float32(0.25))


def test_fields_of_another_plate_are_not_mixed(plate: Path, tmp_path: Path) -> None:
    other = tmp_path / "plate.ome.zarr"
    shutil.copytree(plate, other)
    for name in NAMES:
        zarr.open_array(other / name / "0", mode="r+")[:] = pixels(name) + 1
    out = tmp_path / "out.ome.zarr"
    with pytest.raises(InterruptedError):
        predict_plate(str(plate), Shift(), out, SETTINGS, work=stopped_after(1))
    with pytest.raises(OutputError, match="another image content"):
        predict_plate(str(other), Shift(), out, SETTINGS, resume=True)


def test_fields_of_other_statistics_are_not_mixed(plate: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.ome.zarr"
    network = load_model(torch.nn.InstanceNorm2d(2, affine=True))
    fixed = [
        network.with_statistics(freeze_statistics(image, network, settings=SETTINGS, axes="cyx"))
        for image in (pixels("A/1/0"), pixels("A/1/0") + 1)
    ]
    fixed[0].statistics.save(tmp_path / "statistics.safetensors")
    again = Statistics.load(tmp_path / "statistics.safetensors")
    assert again.digest == fixed[0].statistics.digest  # workers and later runs compare it
    with pytest.raises(InterruptedError):
        predict_plate(str(plate), fixed[0], out, SETTINGS, work=stopped_after(1))
    with pytest.raises(OutputError, match="begun with another statistics"):
        predict_plate(str(plate), fixed[1], out, SETTINGS, resume=True)


def test_a_field_that_fails_does_not_stop_the_others(plate: Path, tmp_path: Path) -> None:
    broken = tmp_path / "plate.ome.zarr"
    broken.symlink_to(plate)
    out = tmp_path / "out.ome.zarr"
    hidden = plate / "A/1/1/0"
    aside = plate / "A/1/1/aside"
    hidden.rename(aside)
    try:
        done = predict_plate(str(broken), Shift(), out, SETTINGS)
    finally:
        aside.rename(hidden)
    assert list(done.failed) == ["A/1/1"]
    assert "1 of 3 fields failed" in done.sentence
    assert not out.exists()
    assert predict_plate(str(broken), Shift(), out, SETTINGS, resume=True).failed == {}
    assert plate_at(out) is not None


def test_a_whole_plate_is_left_as_it_is(plate: Path, tmp_path: Path) -> None:
    plate, out = shutil.copytree(plate, tmp_path / "in.ome.zarr"), tmp_path / "out.ome.zarr"
    assert not predict_plate(str(plate), Shift(), out, SETTINGS).before
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = predict_plate(str(plate), Shift(), out, SETTINGS, resume=True)
    assert (again.before, again.sentence) == (True, f"{out} is done already.")
    with pytest.raises(OutputError, match="another `halo`"):
        predict_plate(str(plate), Shift(), out, SETTINGS.but(halo=4), resume=True)
    zarr.open_group(str(plate))["B/2/0/0"][...] = 0  # changed since
    with pytest.raises(OutputError, match="another image content"):
        predict_plate(str(plate), Shift(), out, SETTINGS, resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


def test_the_command(plate: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.ome.zarr"
    words = ["predict", str(plate), "demo:batchnorm", str(out), "--channel", "1", "--tile", "64"]
    done = typer.testing.CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "3 fields" in done.output
    one = tmp_path / "one.ome.zarr"
    words = [*words[:3], str(one), *words[4:], "--series", "B/2/0"]
    done = typer.testing.CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(
        open_image(one).read((slice(None),) * 3),
        open_image(out, series="B/2/0").read((slice(None),) * 3),
    )
    for option in (["--save-protocol", "mine.toml"], ["--grid", "tiles.json"], ["--workers", "2"]):
        words = ["predict", str(plate), "demo:batchnorm", str(out), "--overwrite", *option]
        done = typer.testing.CliRunner().invoke(app, words)
        assert done.exit_code == 1
        assert f"leave {option[0]} out" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("name", "content"), [("zarr.json", '{"zarr_format": 3, "node_ty'), (".zattrs", "{}")]
)
def test_a_damaged_folder_is_no_plate(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "d.ome.zarr").mkdir()
    (tmp_path / "d.ome.zarr" / name).write_text(content)
    assert plate_at(tmp_path / "d.ome.zarr") is None
    with pytest.raises(SeamscopeError, match=r"d\.ome\.zarr"):
        open_image(tmp_path / "d.ome.zarr")


@pytest.mark.parametrize(
    ("wells", "images", "said"),
    [
        (["A/1"], [{"path": "0"}], "lists its wells in a form"),
        ([{"path": 3}], [{"path": "0"}], "lists its wells in a form"),
        ([{"path": "A/1"}], [{"acquisition": 0}], "lists its images in a form"),
        ([{"path": "A/1"}], 2, "lists its images in a form"),
    ],
)
def test_malformed_lists_are_one_sentence(
    tmp_path: Path, wells: Any, images: Any, said: str
) -> None:
    root = zarr.create_group(str(tmp_path / "p.zarr"), attributes={"plate": {"wells": wells}})
    root.create_group("A/1", attributes={"well": {"images": images}})
    with pytest.raises(ImageError, match=said):
        plate_at(tmp_path / "p.zarr")


def test_a_damaged_well_is_one_sentence(tmp_path: Path) -> None:
    plate = {"plate": {"wells": [{"path": "A"}]}}
    zarr.create_group(str(tmp_path / "p.zarr"), attributes=plate).create_group("A")
    (tmp_path / "p.zarr" / "A" / "zarr.json").write_text("{")
    with pytest.raises(ImageError, match="a well whose metadata cannot be read"):
        plate_at(tmp_path / "p.zarr")
