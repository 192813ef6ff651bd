"""Files that hold several things, or numbers that are no intensities: read rightly, and said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
import zarr

import seamscope
from seamscope import measure_intensity, open_image
from seamscope.errors import ImageError, SettingsError
from seamscope.images.ground_truth import truth_for
from seamscope.segmentation.agreement import compare_labels
from seamscope.segmentation.label_images import labels_of

RNG = np.random.default_rng(5)
CLASSES = RNG.integers(0, 3, (40, 50), np.uint8)
PALETTE = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 250]], np.uint8)
NAMES = ("a", "b", "c")


def whole(image: seamscope.Image) -> np.ndarray:
    return image.read((slice(None),) * image.ndim)


@pytest.fixture
def palette_png(tmp_path: Path) -> Path:
    picture = PIL.Image.fromarray(CLASSES, "P")
    picture.putpalette(PALETTE.tobytes())
    picture.save(tmp_path / "classes.png")
    return tmp_path / "classes.png"


@pytest.fixture(params=["n * 257", "n * 256"])
def palette_tiff(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    colours = np.zeros((3, 256), np.uint16)
    colours[:, :3] = PALETTE.T.astype(np.uint16) * int(request.param[-3:])
    path = tmp_path / "classes.tif"
    tifffile.imwrite(path, CLASSES, photometric="palette", colormap=colours)
    return path


def test_palettes_are_colours_of_images_and_numbers_of_labels(
    palette_png: Path, palette_tiff: Path
) -> None:
    for path in (palette_png, palette_tiff):
        image = open_image(path)
        assert image.axes == "yxc"
        assert image.colours
        np.testing.assert_array_equal(whole(image), PALETTE[CLASSES])
        region = (slice(3, 9), slice(40, 50), slice(1, 3))
        np.testing.assert_array_equal(image.read(region), PALETTE[CLASSES][region])
        np.testing.assert_array_equal(image.read((5, slice(None), 2)), PALETTE[CLASSES][5, :, 2])
        numbers = truth_for(path, "yx", NAMES).read((slice(0, 40), slice(0, 50)))
        np.testing.assert_array_equal(numbers, [k == CLASSES for k in range(3)])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palette_of_few_bits(bits: int, tmp_path: Path) -> None:
    classes = CLASSES % (2**bits)
    picture = PIL.Image.fromarray(classes, "P")
    picture.putpalette(PALETTE.tobytes())
    picture.save(tmp_path / "few.png", bits=bits)
    np.testing.assert_array_equal(whole(open_image(tmp_path / "few.png", indices=True)), classes)


def test_colours_are_no_labels_unless_grey(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "rgb.tif", PALETTE[CLASSES], photometric="rgb")
    PIL.Image.fromarray(PALETTE[CLASSES]).save(tmp_path / "rgb.png")
    for name in ("rgb.tif", "rgb.png"):
        with pytest.raises(ImageError, match=r"holds colours .*\(10, 20, 30\).*palette"):
            truth_for(tmp_path / name, "yx", NAMES)
    grey = np.repeat(CLASSES[..., None], 3, -1)
    PIL.Image.fromarray(grey).save(tmp_path / "grey.png")
    numbers = truth_for(tmp_path / "grey.png", "yx", NAMES).read((slice(0, 40), slice(0, 50)))
    np.testing.assert_array_equal(numbers, [k == CLASSES for k in range(3)])


def test_labels_are_numbers_as_stored(tmp_path: Path) -> None:
    """How a display should show them says nothing of what they mean; no data is no class."""
    tifffile.imwrite(tmp_path / "white.tif", CLASSES, photometric="miniswhite")
    with_gaps = np.where(CLASSES == 1, 255, CLASSES).astype(np.uint8)
    tag = (42113, 2, 0, "255", True)
    tifffile.imwrite(tmp_path / "gaps.tif", with_gaps, extratags=[tag])
    everywhere = (slice(0, 40), slice(0, 50))
    for name, expected in (("white", CLASSES), ("gaps", np.where(CLASSES == 1, 0, CLASSES))):
        truth = truth_for(tmp_path / f"{name}.tif", "yx", NAMES)
        np.testing.assert_array_equal(truth.read(everywhere), [k == expected for k in range(3)])
    assert "with label 255 have no data" in truth.meaning
    opened = labels_of(tmp_path / "gaps.tif")
    assert opened.dtype == np.uint8
    np.testing.assert_array_equal(whole(opened), np.where(CLASSES == 1, 0, CLASSES))


def test_false_splits_are_found_in_palettes(palette_png: Path, palette_tiff: Path) -> None:
    for path in (palette_png, palette_tiff):
        np.testing.assert_array_equal(whole(labels_of(path)), CLASSES)
        assert compare_labels(path, CLASSES).average_precision == 1
    PIL.Image.fromarray(PALETTE[CLASSES]).save(palette_png)
    with pytest.raises(ImageError, match=r"holds colours"):
        labels_of(palette_png)


@pytest.mark.parametrize(
    ("photometric", "count", "words"),
    [("separated", 4, "CMYK"), ("cielab", 3, "CIE L"), ("rgb", 3, None)],
)
def test_colours_other_than_rgb_are_said(
    photometric: str, count: int, words: str | None, tmp_path: Path
) -> None:
    values = RNG.integers(0, 255, (30, 40, count), np.uint8)
    tifffile.imwrite(tmp_path / "c.tif", values, photometric=photometric, planarconfig="contig")
    image = open_image(tmp_path / "c.tif")
    np.testing.assert_array_equal(whole(image), values)
    assert [words in note for note in image.notes] == ([True] if words else [])


def test_one_image_per_class_is_no_picture(tmp_path: Path) -> None:
    each = np.stack([k == CLASSES for k in range(3)]).astype(np.uint8)
    tifffile.imwrite(tmp_path / "c.tif", each, metadata={"axes": "CYX"}, photometric="minisblack")
    read = truth_for(tmp_path / "c.tif", "yx", NAMES).read((slice(0, 40), slice(0, 50)))
    np.testing.assert_array_equal(read, each.astype(bool))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_white_as_zero_is_inverted(dtype: type, tmp_path: Path) -> None:
    dark = (RNG.random((30, 40)) * 200).astype(dtype)
    stored = np.invert(dark)
    tifffile.imwrite(tmp_path / "white.tif", stored, photometric="miniswhite")
    image = open_image(tmp_path / "white.tif")
    np.testing.assert_array_equal(whole(image), dark)
    assert "MinIsWhite" in image.notes[0]


def test_white_as_zero_of_floats_is_only_said(tmp_path: Path) -> None:
    values = RNG.random((30, 40), np.float32)
    tifffile.imwrite(tmp_path / "white.tif", values, photometric="miniswhite")
    image = open_image(tmp_path / "white.tif")
    np.testing.assert_array_equal(whole(image), values)
    assert "not inverted" in image.notes[0]


@pytest.mark.parametrize("form", ["png", "tif", "tif planes"])
def test_transparency_is_said_and_can_be_left_out(form: str, tmp_path: Path) -> None:
    values = RNG.integers(0, 255, (30, 40, 4), np.uint8)
    path = tmp_path / f"a.{form[:3]}"
    if form == "png":
        PIL.Image.fromarray(values).save(path)
    else:
        planes = form.endswith("planes")
        tifffile.imwrite(
            path,
            np.moveaxis(values, 2, 0) if planes else values,
            photometric="rgb",
            planarconfig="separate" if planes else "contig",
            extrasamples=["unassalpha"],
        )
    kept, left_out = open_image(path), open_image(path, alpha=False)
    assert kept.shape[kept.axes.index("c")] == 4
    assert left_out.shape[left_out.axes.index("c")] == 3
    order = [left_out.axes.index(a) for a in "yxc"]
    np.testing.assert_array_equal(whole(left_out).transpose(order), values[..., :3])
    assert "`alpha=False`" in kept.notes[0]
    assert "left out" in left_out.notes[0]
    assert seamscope.predict(left_out, torch.nn.Conv2d(3, 1, 1)).shape == (30, 40)


def test_thumbnails_are_passed_over(tmp_path: Path) -> None:
    large = RNG.integers(0, 255, (120, 160), np.uint8)
    for flagged in (True, False):
        path = tmp_path / f"{flagged}.tif"
        with tifffile.TiffWriter(path) as tif:
            tif.write(large[::4, ::4], subfiletype=int(flagged))
            tif.write(large)
        image = open_image(path)
        np.testing.assert_array_equal(whole(image), large)
        assert "holds 2 images; number 1, 120 x 160 pixels" in image.notes[0]
        np.testing.assert_array_equal(whole(open_image(path, series=0)), large[::4, ::4])


def test_images_of_one_file_are_named_and_chosen(tmp_path: Path) -> None:
    first, second = RNG.random((2, 30, 40), np.float32)
    with tifffile.TiffWriter(tmp_path / "two.tif") as tif:
        tif.write(first)
        tif.write(second[:20])
    image = open_image(tmp_path / "two.tif")
    np.testing.assert_array_equal(whole(image), first)
    assert "0: " in image.notes[0]
    assert "20 x 40" in image.notes[0]
    np.testing.assert_array_equal(whole(open_image(tmp_path / "two.tif", series=1)), second[:20])
    with pytest.raises(SettingsError, match=r"series 2: two\.tif holds 2 image"):
        open_image(tmp_path / "two.tif", series=2)
    with pytest.raises(SettingsError, match="have numbers"):
        open_image(tmp_path / "two.tif", series="cells")


def test_levels_of_a_pyramid(tmp_path: Path) -> None:
    full = RNG.random((128, 160), np.float32)
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as tif:
        tif.write(full, subifds=1, tile=(32, 32), resolution=(1e4, 1e4), resolutionunit=3)
        tif.write(full[::2, ::2], subfiletype=1, tile=(32, 32))
    image = open_image(tmp_path / "pyramid.tif", level=1)
    np.testing.assert_array_equal(whole(image), full[::2, ::2])
    assert image.scale == (2.0, 2.0)
    with pytest.raises(SettingsError, match=r"level 2: .* has 2 resolution"):
        open_image(tmp_path / "pyramid.tif", level=2)


def ngff(group: zarr.Group, data: np.ndarray, *, half: bool = False, **more: object) -> None:
    levels = [data, data[::2, ::2]] if half else [data]
    for number, level in enumerate(levels):
        group.create_array(str(number), data=level, chunks=(16, 16))
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [
            {
                "axes": [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"],
                "datasets": [
                    {
                        "path": str(number),
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [0.5 * 2**number] * 2},
                            {"type": "translation", "translation": [3.0 + number, 4.0]},
                        ],
                    }
                    for number in range(len(levels))
                ],
                **more,
            }
        ],
    }


def test_ome_zarr_level_and_origin(tmp_path: Path) -> None:
    data = RNG.random((40, 60), np.float32)
    outer = [{"type": "scale", "scale": [2.0, 2.0]}, {"type": "translation", "translation": [1, 1]}]
    ngff(zarr.open_group(tmp_path / "a.zarr"), data, half=True, coordinateTransformations=outer)
    full, half = open_image(tmp_path / "a.zarr"), open_image(tmp_path / "a.zarr", level=1)
    assert (full.scale, full.origin) == ((1.0, 1.0), (7.0, 9.0))
    assert (half.scale, half.origin) == ((2.0, 2.0), (9.0, 9.0))
    np.testing.assert_array_equal(whole(half), data[::2, ::2])
    with pytest.raises(SettingsError, match="level 5: a has 2 resolution"):
        open_image(tmp_path / "a.zarr", level=5)


def test_bioformats2raw_images_are_named_and_chosen(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "two.zarr")
    group.attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
    first, second = RNG.random((2, 40, 60), np.float32)
    ngff(group.create_group("0"), first)
    ngff(group.create_group("1"), second)
    image = open_image(tmp_path / "two.zarr")
    np.testing.assert_array_equal(whole(image), first)
    assert "two holds 2 images; 0 is opened" in image.notes[0]
    for series in (1, "1"):
        chosen = open_image(tmp_path / "two.zarr", series=series)
        np.testing.assert_array_equal(whole(chosen), second)
    assert open_image(chosen.source).shape == second.shape
    with pytest.raises(SettingsError, match="series 2"):
        open_image(tmp_path / "two.zarr", series=2)


def test_plates_are_opened_by_well_and_field(tmp_path: Path) -> None:
    plate = zarr.open_group(tmp_path / "plate.zarr")
    fields = {}
    for well in ("A/1", "B/2"):
        images = [{"path": "0"}, {"path": "1"}]
        own = plate.create_group(well)
        own.attrs["ome"] = {"version": "0.5", "well": {"images": images}}
        for field in ("0", "1"):
            fields[f"{well}/{field}"] = RNG.random((40, 60), np.float32)
            ngff(own.create_group(field), fields[f"{well}/{field}"])
    wells = [{"path": well} for well in ("A/1", "B/2")]
    plate.attrs["ome"] = {"version": "0.5", "plate": {"wells": wells}}
    image = open_image(tmp_path / "plate.zarr")
    np.testing.assert_array_equal(whole(image), fields["A/1/0"])
    assert "holds 4 images; A/1/0 is opened" in image.notes[0]
    for number, (path, data) in enumerate(fields.items()):
        for series in (path, number):
            opened = open_image(tmp_path / "plate.zarr", series=series)
            np.testing.assert_array_equal(whole(opened), data)
    in_well = open_image(tmp_path / "plate.zarr", series="B/2")
    np.testing.assert_array_equal(whole(in_well), fields["B/2/0"])
    with pytest.raises(SettingsError, match="series 'C/3/0'"):
        open_image(tmp_path / "plate.zarr", series="C/3/0")


def test_labels_beside_their_image(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr")
    ngff(group, RNG.random((40, 50), np.float32))
    labels = group.create_group("labels")
    labels.attrs["ome"] = {"version": "0.5", "labels": ["cells"]}
    ngff(labels.create_group("cells"), CLASSES)
    for path, series in ((tmp_path / "a.zarr", "labels/cells"), (tmp_path / "a.zarr/labels", None)):
        np.testing.assert_array_equal(whole(open_image(path, series=series)), CLASSES)


@pytest.fixture(params=["float32", "float64", "int16", "uint16"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A TIFF as GDAL writes it, a third without data."""
    nodata = {"uint16": 65535.0, "int16": -9999.0}.get(request.param, -9999.0)
    values = RNG.normal(100, 20, (60, 80)).astype(request.param)
    absent = RNG.random(values.shape) < 0.3
    stored = np.where(absent, np.array(nodata, values.dtype), values)
    path = tmp_path / "map.tif"
    tifffile.imwrite(path, stored, extratags=[(42113, "s", 0, f"{nodata:g}", True)])
    return path, values, absent


@pytest.mark.parametrize("method", ["zscore", "minmax", "percentile"])
def test_pixels_without_data_are_left_out(
    remote: tuple[Path, np.ndarray, np.ndarray], method: str
) -> None:
    path, values, absent = remote
    image = open_image(path)
    assert "without data" in image.notes[0]
    there = values[~absent].astype(np.float64)
    found = measure_intensity(image, method, channel_axis=None)
    low, high = {
        "zscore": (there.mean(), there.mean() + there.std()),
        "minmax": (there.min(), there.max()),
        "percentile": tuple(np.percentile(there, [1, 99.8])),
    }[method]
    np.testing.assert_allclose(found.offset[0], low, rtol=1e-9)
    np.testing.assert_allclose(found.divisor[0], high - low + 1e-6, rtol=1e-9)
    result = seamscope.predict(image, torch.nn.Identity(), tile=32, normalize=method)
    np.testing.assert_array_equal(result[absent], 0)
    expected = (there - found.offset[0]) / found.divisor[0]
    np.testing.assert_allclose(result[~absent], expected, rtol=1e-4, atol=1e-5)


def test_nodata_can_be_given(tmp_path: Path) -> None:
    values = np.arange(64.0).reshape(8, 8)
    np.save(tmp_path / "a.npy", values)
    image = open_image(tmp_path / "a.npy", nodata=0)
    assert np.isnan(whole(image)).sum() == 1
    np.testing.assert_allclose(measure_intensity(image, "minmax", channel_axis=None).offset, [1.0])


def test_nothing_but_nodata_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((8, 8), np.float32))
    image = open_image(tmp_path / "a.npy", nodata=0)
    for method in ("zscore", "minmax", "percentile"):
        with pytest.raises(ImageError, match="no pixel with data"):
            measure_intensity(image, method, channel_axis=None)


# -- where a result lies


def place_of(path: Path) -> tuple[tuple[float, ...], ...]:
    image = open_image(path)
    letters = [image.axes.index(a) for a in image.axes if a in "zyx"]
    return tuple(image.origin[k] for k in letters), tuple(image.scale[k] for k in letters)


@pytest.fixture(params=["yx", "zyx"])
def placed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An OME-Zarr image with pixel sizes and a place of its own."""
    axes = request.param
    group = zarr.open_group(tmp_path / "placed.zarr")
    shape = (12, 40, 60)[-len(axes) :]
    group.create_array("0", data=RNG.random(shape, np.float32))
    scale, origin = [2.0, 0.5, 0.25][-len(axes) :], [30.0, 10.0, -5.0][-len(axes) :]
    steps = [
        {"type": "scale", "scale": scale},
        {"type": "translation", "translation": origin},
    ]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [
            {
                "axes": [{"name": a, "type": "space", "unit": "micrometer"} for a in axes],
                "datasets": [{"path": "0", "coordinateTransformations": steps}],
            }
        ],
    }
    return tmp_path / "placed.zarr"


@pytest.mark.parametrize("ending", [".ome.zarr", ".zarr", ".tif", ".ome.tif", ".npy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_region_keeps_its_place(placed: Path, ending: str, channels: int, tmp_path: Path) -> None:
    image = open_image(placed)
    deep = image.ndim == 3
    network = (torch.nn.Conv3d if deep else torch.nn.Conv2d)(1, channels, 1)
    out = tmp_path / f"out{ending}"
    area = {"y": (8, 24), "x": (20, 36)} | ({"z": (4, 8)} if deep else {})
    seamscope.predict(image, network, out, area=area)
    origin, scale = place_of(out)
    np.testing.assert_allclose(scale, image.scale)
    expected = [10.0 + 8 * 0.5, -5.0 + 20 * 0.25]
    np.testing.assert_allclose(origin, [30.0 + 4 * 2.0, *expected] if deep else expected)


@pytest.mark.parametrize("ending", [".ome.zarr", ".ome.tif"])
def test_place_of_smaller_pixels(placed: Path, ending: str, tmp_path: Path) -> None:
    """Twice as many pixels along each axis cover the same part of space."""
    image = open_image(placed)
    first = (torch.nn.Conv2d if image.ndim == 2 else torch.nn.Conv3d)(1, 1, 1)
    network = torch.nn.Sequential(first, torch.nn.Upsample(scale_factor=2))
    seamscope.predict(image, network, tmp_path / f"out{ending}")
    origin, scale = place_of(tmp_path / f"out{ending}")
    for start, size, own_start, own_size in zip(
        origin, scale, image.origin, image.scale, strict=True
    ):
        assert size == own_size / 2
        assert start - size / 2 == pytest.approx(own_start - own_size / 2)


class Labelled(torch.nn.Module):
    """As many channels as asked for; the largest is the intensity of the pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("number", torch.arange(channels).reshape(1, -1, 1, 1).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -(x - self.number).abs()


def test_background_is_zero() -> None:
    image = CLASSES.astype(np.float32)
    given = seamscope.predict(image, Labelled(3), result="labels")
    np.testing.assert_array_equal(given, CLASSES)
    for background, numbers in ((0, [0, 1, 2]), (1, [1, 0, 2]), (2, [1, 2, 0])):
        labels = seamscope.predict(image, Labelled(3), result="labels", background=background)
        np.testing.assert_array_equal(labels, np.array(numbers)[CLASSES])
    with pytest.raises(SettingsError, match="background 3: the network predicts 3"):
        seamscope.predict(image, Labelled(3), result="labels", background=3)


@pytest.mark.parametrize("channels", [255, 256, 300])
def test_more_classes_than_eight_bits(channels: int, tmp_path: Path) -> None:
    image = np.arange(channels, dtype=np.float32).repeat(3).reshape(3, -1, order="F")
    out = tmp_path / "labels.tif"
    labels = seamscope.predict(image, Labelled(channels), out, result="labels")
    assert labels.dtype == (np.uint8 if channels == 255 else np.uint16)
    np.testing.assert_array_equal(tifffile.imread(out), image)


def test_classes_are_named_in_ome_zarr(tmp_path: Path) -> None:
    out = tmp_path / "labels.ome.zarr"
    seamscope.predict(CLASSES.astype(np.float32), Labelled(3), out, result="labels", background=2)
    label = zarr.open_group(out).attrs["ome"]["image-label"]
    assert [p["label-value"] for p in label["properties"]] == [1, 2, 0]
    assert [c["label-value"] for c in label["colors"]] == [1, 2, 0]


def test_labels_of_a_time_series_may_be_numbered_anew_in_each_frame() -> None:
    frame = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((16, 16), np.int64))
    film = np.stack([(frame + 5 * t) % 16 + 1 for t in range(6)], -1)
    assert labels_of(film, "yxt").shape == film.shape
    noise = np.random.default_rng(0).integers(1, 255, film.shape)
    with pytest.raises(ImageError, match="as intensities do"):
        labels_of(noise, "yxt")
