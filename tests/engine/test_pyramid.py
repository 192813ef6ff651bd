"""Lower resolutions equal those made of the whole image, however the result grows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr_models.v04 as v04
import ome_zarr_models.v05 as v05
import pytest
import torch
import typer.testing
import zarr
from ome_zarr_models.v05.labels import Labels as LabelsGroup

import seamscope
from seamscope.cli import app
from seamscope.compare.certificate import certify, store_certificate
from seamscope.errors import OutputError, SettingsError
from seamscope.images.image import open_image
from seamscope.images.ngff import OmeZarr
from seamscope.images.records import read_record
from seamscope.images.results import pyramid, zarr_arrays
from seamscope.images.results.create import create_output
from seamscope.images.results.format import Wanted
from seamscope.images.results.formats import FORMATS
from seamscope.images.results.output import Output
from seamscope.images.results.pyramid import coarsened, levels_of
from seamscope.settings import Settings
from watching import Seen

MICRO = "micrometer"
YX: dict[str, Any] = {"axes": "yx", "scale": (0.5, 0.5), "units": (MICRO, MICRO)}


@pytest.fixture(autouse=True)
def small_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several levels of small images."""
    monkeypatch.setattr(pyramid, "SMALLEST", 16)


def by_hand(block: np.ndarray, steps: tuple[int, ...], labels: bool) -> np.ndarray:
    """Window by window: the mean, or the most frequent and first."""
    shape = tuple(-(-n // s) for n, s in zip(block.shape, steps, strict=True))
    found = np.empty(shape, block.dtype)
    for at in np.ndindex(shape):
        window = block[tuple(slice(i * s, i * s + s) for i, s in zip(at, steps, strict=True))]
        # the last pixel of an odd axis stands for itself, so that it counts twice
        odd = [(0, s - n) for n, s in zip(window.shape, steps, strict=True)]
        values = np.pad(window, odd, mode="edge").ravel().tolist()
        if labels:
            counts = Counter(values)
            found[at] = next(v for v in values if counts[v] == max(counts.values()))
        elif block.dtype.kind == "f":
            found[at] = np.mean(values)
        else:
            found[at] = (2 * sum(values) + len(values)) // (2 * len(values))
    return found


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int16", "uint64"])
@pytest.mark.parametrize("steps", [(2, 2), (1, 2, 2), (2, 2, 2)])
def test_a_block_equals_each_window(steps: tuple[int, ...], dtype: str, labels: bool) -> None:
    rng = np.random.default_rng(0)
    high = 4 if labels else 200
    block = rng.integers(0, high, (5, 7, 6)[-len(steps) :]).astype(dtype)
    if dtype == "int16":
        block -= 100
    if dtype == "uint64" and not labels:
        block += np.uint64(2**64 - 300)
    np.testing.assert_array_equal(coarsened(block, steps, labels), by_hand(block, steps, labels))


def test_levels_halve_space_and_shift_by_half_of_what_a_pixel_grew() -> None:
    levels = levels_of(
        "czyx",
        (2, 20, 100, 80),
        (1.0, 2.0, 500.0, 500.0),
        ("", MICRO, "nanometer", "nanometer"),
        (0.0, 10.0, 0.0, 7.0),
    )
    # z waits until y and x are as long: 2 micrometers are four times 500 nanometers
    assert [level.shape[1:] for level in levels] == [
        (20, 100, 80), (20, 50, 40), (20, 25, 20), (10, 13, 10)
    ]  # fmt: skip
    for number, level in enumerate(levels):
        assert level.shape[0] == 2
        assert level.scale[3] == 500.0 * 2**number
        assert level.origin[3] == 7.0 + 0.5 * (2**number - 1) * 500.0
    assert [level.origin[1] for level in levels] == [10.0, 10.0, 10.0, 11.0]


def reference(data: np.ndarray, output: Output, labels: bool = False) -> list[np.ndarray]:
    """All levels, of the whole image at once."""
    found = [data]
    for level in output.levels[1:]:
        steps = tuple(
            -(-n // m) if n > m else 1 for n, m in zip(found[-1].shape, level.shape, strict=True)
        )
        found.append(by_hand(found[-1], steps, labels))
    return found


def cores(shape: tuple[int, ...], step: int, rng: np.random.Generator) -> list[Any]:
    parts = [[slice(a, min(a + step, n)) for a in range(0, n, step)] for n in shape]
    regions = [
        tuple(each[i] for each, i in zip(parts, at, strict=True))
        for at in np.ndindex(*map(len, parts))
    ]
    return [regions[i] for i in rng.permutation(len(regions))]


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize(("shape", "step"), [((70, 83), 13), ((70, 83), 12), ((9, 40, 37), 11)])
def test_any_order_and_regions_written_twice(
    shape: tuple[int, ...], step: int, labels: bool, tmp_path: Path
) -> None:
    """Regions that share chunks, in random order, some of them written again with other values."""
    rng = np.random.default_rng(1)
    data = rng.integers(0, 5, shape).astype("u1" if labels else "f4")
    how: dict[str, Any] = {
        "axes": "zyx"[-len(shape) :],
        "scale": (1.0,) * len(shape),
        "units": ("pixel",) * len(shape),
        "chunks": (8,) * len(shape),
    }
    with create_output(tmp_path / "a.ome.zarr", shape, data.dtype, **how, labels=labels) as output:
        regions = cores(shape, step, rng)
        for region in regions[: len(regions) // 2]:
            output.write(region, np.full_like(data[region], 3))
        for region in regions:
            output.write(region, data[region])
        output.finish()
    assert len(output.levels) > 2
    for level, expected in zip(output.levels, reference(data, output, labels), strict=True):
        np.testing.assert_allclose(level[...], expected, rtol=1e-6)


_ONE = 8 * 8 * (4 + 1)  # bytes of a chunk's pixels, and of which are known


@pytest.mark.parametrize(("room", "most"), [(32 << 20, 64), (_ONE - 1, 4 * 64), (_ONE, 4 * 64)])
def test_each_chunk_is_built_once_and_as_soon_as_it_can_be(
    room: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before `finish`: in memory, or from the stored chunks above it, four at most."""
    sizes: list[int] = []

    def counting(block: np.ndarray, *how: Any) -> np.ndarray:
        sizes.append(block.size)
        return coarsened(block, *how)

    monkeypatch.setattr(pyramid, "coarsened", counting)
    monkeypatch.setattr(pyramid, "_ROOM", room)
    data = np.random.default_rng(0).random((64, 96), np.float32)
    with create_output(tmp_path / "a.ome.zarr", (64, 96), "f4", **YX, chunks=(8, 8)) as output:
        for y in range(0, 64, 8):
            for x in range(0, 96, 8):
                region = slice(y, y + 8), slice(x, x + 8)
                output.write(region, data[region])
        # 64x96 -> 32x48 (24 chunks) -> 16x24 (6) -> 8x12 (2)
        pixels = 64 * 96 + 32 * 48 + 16 * 24
        assert max(sizes) == most
        assert (sizes[0] == 64) == (room >= _ONE)  # whether the first chunk is in memory
        if room != _ONE:  # there one chunk is in memory at a time
            assert sum(sizes) == pixels
        built = len(sizes)
        output.finish()
    assert len(sizes) == built
    for level, expected in zip(output.levels, reference(data, output), strict=True):
        np.testing.assert_allclose(level[...], expected, rtol=1e-6)


def test_a_part_that_is_written_again_and_again_does_not_stand_for_the_others(
    tmp_path: Path,
) -> None:
    """A chunk that was built is begun anew by it, and the others' pixels are those stored."""
    data = np.random.default_rng(0).random((32, 32), np.float32)
    with create_output(tmp_path / "a.ome.zarr", (32, 32), "f4", **YX, chunks=(16, 16)) as output:
        output.write((slice(0, 32), slice(0, 32)), data)
        data[:16, :16] = 7
        for _ in range(4):  # as many pixels as the chunk has above it
            output.write((slice(0, 16), slice(0, 16)), data[:16, :16])
        output.finish()
    for level, expected in zip(output.levels, reference(data, output), strict=True):
        np.testing.assert_allclose(level[...], expected, rtol=1e-6)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_others_read_what_is_written(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    data = np.random.default_rng(0).random((2, 40, 50)).astype("f4")
    how: dict[str, Any] = {
        "axes": "cyx",
        "scale": (1.0, 0.5, 0.5),
        "units": ("", MICRO, MICRO),
        "origin": (0.0, 3.0, 0.0),
        "metadata": {"channels": ["inside", "edge"]},
        "ome": OmeZarr(version),
    }
    with create_output(path, data.shape, "f4", **how) as output:
        output.write((slice(0, 2), slice(0, 40), slice(0, 50)), data)
        output.finish({"figures": {"seams": 1}})
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == (3 if version == "0.5" else 2)
    model = {"0.4": v04.Image, "0.5": v05.Image}[version].from_zarr(group)
    attributes = model.ome_attributes if version == "0.5" else model.attributes
    image = attributes.multiscales[0]
    for number, dataset in enumerate(image.datasets):
        scale, translation = dataset.coordinateTransformations
        assert scale.scale == [1.0, 0.5 * 2**number, 0.5 * 2**number]
        shift = 0.5 * (2**number - 1) * 0.5
        assert translation.translation == [0.0, 3.0 + shift, shift]
    channels = dict(group.attrs["ome"] if version == "0.5" else group.attrs)["omero"]["channels"]
    assert all({"color", "window", "label"} <= set(each) for each in channels)
    if version == "0.4":
        assert group.attrs["multiscales"][0]["version"] == "0.4"
    assert group.attrs["seamscope"]["figures"] == {"seams": 1}
    for level in range(3):
        opened = open_image(path, level=level)
        assert opened.scale == pytest.approx([1.0, 0.5 * 2**level, 0.5 * 2**level])
        found = opened.read((slice(None),) * 3)
        np.testing.assert_allclose(found, reference(data, output)[level], rtol=1e-6)


def test_a_version_that_is_not_written_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"choose one of 0\.4, 0\.5"):
        OmeZarr("0.3")


def test_windows_follow_values_beyond_0_and_1(tmp_path: Path) -> None:
    how: dict[str, Any] = {"axes": "cyx", "scale": (1, 1, 1), "units": ("", "pixel", "pixel")}
    data = np.stack([np.full((20, 20), -4.0), np.full((20, 20), 9.0)]).astype("f4")
    data[:, :10] = 0.5
    with create_output(
        tmp_path / "a.ome.zarr", data.shape, "f4", **how, metadata={"channels": ["a", "b"]}
    ) as output:
        output.write((slice(0, 2), slice(0, 20), slice(0, 20)), data)
        output.finish()
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    windows = [each["window"] for each in group.attrs["ome"]["omero"]["channels"]]
    assert windows[0] == {"start": -4.0, "end": 0.5, "min": -4.0, "max": 0.5}
    assert windows[1] == {"start": 0.5, "end": 9.0, "min": 0.5, "max": 9.0}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_are_written_beside_the_image_that_is_read(version: str, tmp_path: Path) -> None:
    """In the image's version, listed, with the source; a prediction of values is refused."""
    path = tmp_path / "image.ome.zarr"
    data = np.random.default_rng(0).random((64, 64)).astype("f4")
    with create_output(path, (64, 64), "f4", **YX, ome=OmeZarr(version)) as output:
        output.write((slice(0, 64), slice(0, 64)), data)
        output.finish()
    how: dict[str, Any] = {"tile": 32, "normalize": "none"}
    place = path / "labels" / "bright"
    with pytest.raises(OutputError, match="request labels"):
        seamscope.predict(path, torch.nn.Identity(), place, **how)
    seamscope.predict(path, torch.nn.Identity(), place, **how, result="labels")
    group = zarr.open_group(path / "labels", mode="r")
    if version == "0.5":
        assert LabelsGroup.from_zarr(group).label_paths == ["bright"]
    else:
        assert v04.Labels.from_zarr(group).attributes.labels == ["bright"]
    label = dict(group["bright"].attrs)
    label = (label["ome"] if version == "0.5" else label)["image-label"]
    assert label == {"version": version, "source": {"image": "../../"}}
    np.testing.assert_array_equal(group["bright/0"][...], data > 0.5)
    np.testing.assert_array_equal(
        group["bright/1"][...], by_hand((data > 0.5).astype("u1"), (2, 2), True)
    )
    with pytest.raises(OutputError, match="which is read"):
        seamscope.predict(place, torch.nn.Identity(), place, overwrite=True, result="labels")


@pytest.mark.parametrize("blend", ["crop", "linear"])
def test_a_resumed_pyramid_equals_the_uninterrupted_one(blend: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.random((2, 100, 90)).astype("f4")
    network = torch.nn.Conv2d(1, 2, 3, padding=1).eval()
    how: dict[str, Any] = {"tile": 32, "halo": 4, "blend": blend, "axes": "tyx"}
    seamscope.predict(image, network, tmp_path / "a.ome.zarr", **how)

    class StoppedError(Exception):
        pass

    def stop_after(tiles: int) -> Seen:
        def hear(phase: str, done: int) -> None:
            if phase == "Predicting" and done >= tiles:
                raise StoppedError

        return Seen(on_step=hear)

    path = tmp_path / "b.ome.zarr"
    for moment in (7, 19):
        with pytest.raises(StoppedError):
            seamscope.predict(image, network, path, **how, resume=True, work=stop_after(moment))
    seamscope.predict(image, network, path, **how, resume=True)
    one, other = (zarr.open_group(tmp_path / name, mode="r") for name in ("a.ome.zarr", path.name))
    names = sorted(name for name, _ in one.arrays())
    assert names == sorted(name for name, _ in other.arrays()) == ["0", "1", "2", "3"]
    for name in names:
        np.testing.assert_array_equal(one[name][...], other[name][...])
    for frame in range(2):
        expected = by_hand(one["0"][frame, 1], (2, 2), False)
        np.testing.assert_allclose(other["1"][frame, 1], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_naparis_reader_opens_all_levels_and_the_labels(version: str, tmp_path: Path) -> None:
    from napari_ome_zarr import napari_get_reader

    path = tmp_path / "image.ome.zarr"
    how: dict[str, Any] = {"ome": OmeZarr(version), "tile": 32, "normalize": "none"}
    data = np.random.default_rng(0).random((64, 64)).astype("f4")
    seamscope.predict(data, torch.nn.Identity(), path, **how)
    place = path / "labels" / "bright"
    seamscope.predict(data, torch.nn.Identity(), place, **how, result="labels")
    read = napari_get_reader(str(path))
    assert read is not None
    layers = {kind: (levels, meta) for levels, meta, kind in read(str(path))}
    assert set(layers) == {"image", "labels"}
    for kind, expected in (("image", data), ("labels", data > 0.5)):
        levels, _ = layers[kind]
        assert [level.shape[-2:] for level in levels] == [(64, 64), (32, 32), (16, 16)]
        np.testing.assert_array_equal(np.asarray(levels[0]).squeeze(), expected)


def test_pixel_sizes_follow_the_level_that_is_read(tmp_path: Path) -> None:
    """Into the result, with the place of the first pixel."""
    path, out = tmp_path / "image.ome.zarr", tmp_path / "out.ome.zarr"
    data = np.random.default_rng(0).random((64, 64)).astype("f4")
    with create_output(path, (64, 64), "f4", **YX, origin=(3.0, 0.0)) as output:
        output.write((slice(None), slice(-64, None)), data)
        output.finish()
    words = ["predict", str(path), "demo:batchnorm", str(out), "--level", "1"]
    done = typer.testing.CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    result = open_image(out)
    assert result.shape[-2:] == (32, 32)
    assert result.scale[-2:] == (1.0, 1.0)
    assert result.origin[-2:] == (3.25, 0.25)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_inside_an_image_have_its_resolutions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Readers refuse an image whose labels have fewer, for which their own size would ask."""
    image = tmp_path / "image.ome.zarr"
    values = np.random.default_rng(0).random((2, 50, 70), np.float32)
    place: dict[str, Any] = {"axes": "cyx", "scale": (1, 1, 1), "units": ("",) * 3}
    with monkeypatch.context() as small:
        small.setattr(pyramid, "SMALLEST", 16)
        with create_output(image, values.shape, "f4", ome=OmeZarr(version), **place) as output:
            output.write((slice(0, 2), slice(0, 50), slice(0, 70)), values)
            output.finish()
    recipe: dict[str, Any] = {"kind": "components", "channel": 0, "threshold": 0.5}
    for ome in (OmeZarr(), OmeZarr(pyramid=False)):
        name = f"labels/cells{int(ome.pyramid)}"
        assert seamscope.segment(image, out=image / name, ome=ome, **recipe).count > 3
        assert open_image(image / name, level=3).shape == (7, 9)
    with monkeypatch.context() as early:  # another process makes the group after this one looked
        early.setattr(zarr_arrays, "_members", lambda group: [])
        assert zarr_arrays.begin_labels(image) == version
    model = {"0.4": v04, "0.5": v05}[version].Image
    assert model.from_zarr(zarr.open_group(image, mode="r")).labels is not None


def test_channels_of_omero_are_read_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    channels = [{"name": "DAPI", "color": "0000FF", "window": (5, 90)}, "GFP"]
    how: dict[str, Any] = {"axes": "cyx", "scale": (1, 1, 1), "units": ("", "pixel", "pixel")}
    with create_output(path, (2, 20, 20), "u1", **how, metadata={"channels": channels}) as output:
        output.finish()
    one, other = open_image(path).channels
    assert (one.name, one.color, one.window) == ("DAPI", "0000FF", (5.0, 90.0))
    assert (other.name, other.window) == ("GFP", (0.0, 255.0))
    group = zarr.open_group(path, mode="r+")
    ome = dict(group.attrs["ome"])
    for broken in ({"channels": ome["omero"]["channels"][:1]}, {"channels": 3}, [], None):
        group.attrs["ome"] = {**ome, "omero": broken}
        assert open_image(path).channels == ()
    group.attrs["ome"] = {**ome, "omero": {"channels": [{"color": "red"}, None]}}
    assert [(c.name, c.color, c.window) for c in open_image(path).channels] == [
        ("0", None, None),
        ("1", None, None),
    ]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_certificate_is_stored_inside(version: str, tmp_path: Path) -> None:
    out = tmp_path / "out.ome.zarr"
    data = np.random.default_rng(0).random((64, 64)).astype("f4")
    network = seamscope.load_model(torch.nn.Conv2d(1, 1, 3, padding=1).eval())
    how: dict[str, Any] = {"tile": 32, "halo": 1, "normalize": "none"}
    seamscope.predict(data, network, out, **how, ome=OmeZarr(version))
    found = certify(data, network, Settings(**how))
    assert found.passed
    store_certificate(found, out)
    record = read_record(out) or {}
    assert record["finished"] is True
    assert record["certificate"] == found.to_json()
    np.testing.assert_array_equal(open_image(out, level=1).shape, (32, 32))


def test_the_disk_must_have_room_for_all_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "SMALLEST", 256)
    shape, sizes, units = (1024, 1024), (1.0, 1.0), ("pixel", "pixel")
    one = Wanted(shape, np.dtype("f4"), "yx", sizes, units, (256, 256), "a", {}, (0.0, 0.0))
    kind = FORMATS[".ome.zarr"]
    full = 4 * 1024**2 + 2**20
    # 1024, 512 and 256 pixels a side
    assert kind.room(one) == full * (16 + 4 + 1) // 16
    assert kind.room(replace(one, ome=OmeZarr(pyramid=False))) == full


def test_flipped_layers_are_written_with_lengths(tmp_path: Path) -> None:
    flipped = replace(open_image(np.ones((40, 70), "f4")), scale=(-1.0, 0.25))
    seamscope.predict(flipped, torch.nn.Identity(), str(tmp_path / "a.ome.zarr"), normalize="none")
    written = open_image(tmp_path / "a.ome.zarr", level=1)
    assert written.scale[-2:] == (1.0, 0.5)
    made = levels_of("yx", (40, 40), (-1.0, 1.0), ("", ""), (0.0, 0.0))
    assert [level.shape for level in made] == [(40, 40), (20, 20), (10, 10)]


@pytest.mark.parametrize("size", [0.0, float("nan"), float("inf")])
def test_pixels_without_a_size_are_refused(tmp_path: Path, size: float) -> None:
    how = {**YX, "scale": (1.0, size)}
    with pytest.raises(OutputError, match=f"pixel size of 1.0, {size} cannot be written"):
        create_output(str(tmp_path / "a.ome.zarr"), (40, 40), "f4", **how)
    assert not list(tmp_path.iterdir())
