"""Every kind of image opens lazily with its axes and sizes; every damaged one gets its sentence."""

from __future__ import annotations

import gc
import shutil
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from ome_zarr_models import open_ome_zarr
from ome_zarr_models.v04.multiscales import Multiscale

from seamscope.errors import ImageError, SettingsError
from seamscope.images import image as images
from seamscope.images.image import Image, open_image
from seamscope.images.watch import WatchedZarr

MICROMETER = "micrometer"


def pixels(shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


def whole(image: Image) -> np.ndarray:
    return image.read((slice(None),) * image.ndim)


# --------------------------------------------------------------------------------------------------
# Kinds of files: what is written by the field's own libraries comes back with axes and sizes
# --------------------------------------------------------------------------------------------------


def ome_tiff(path: Path, data: np.ndarray) -> None:
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5}
    depth = {"PhysicalSizeZ": 300, "PhysicalSizeZUnit": "nm"}
    tifffile.imwrite(path, data, ome=True, metadata={"axes": "CZYX", **sizes, **depth})


def imagej(path: Path, data: np.ndarray) -> None:
    told = {"axes": "TZCYX", "spacing": 0.5, "unit": "um", "finterval": 2.5}
    tifffile.imwrite(path, data, imagej=True, resolution=(4, 2), metadata=told)


def plain_pages(path: Path, data: np.ndarray) -> None:
    with tifffile.TiffWriter(path) as tif:
        for page in data:
            tif.write(page, metadata=None)


def compressed(path: Path, data: np.ndarray) -> None:
    tifffile.imwrite(path, data, compression="zlib", rowsperstrip=8)


def tiled_big_endian(path: Path, data: np.ndarray) -> None:
    tifffile.imwrite(path, data, byteorder=">", tile=(32, 32), compression="lzw")


def big_endian(path: Path, data: np.ndarray) -> None:
    tifffile.imwrite(path, data, byteorder=">")


def measured_in_centimetres(path: Path, data: np.ndarray) -> None:
    tifffile.imwrite(path, data, resolution=(4e4, 2e4), resolutionunit="CENTIMETER")


def meant_for_print(path: Path, data: np.ndarray) -> None:
    tifffile.imwrite(path, data, resolution=(300, 300), resolutionunit="INCH")


def pyramid(path: Path, data: np.ndarray) -> None:
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(data, subifds=1, tile=(32, 32))
        tif.write(data[::2, ::2], subfiletype=1, tile=(32, 32))


def rgb_tiff(path: Path, data: np.ndarray) -> None:
    tifffile.imwrite(path, data, photometric="rgb")


def png(path: Path, data: np.ndarray) -> None:
    path.write_bytes(imagecodecs.png_encode(data))


def npy(path: Path, data: np.ndarray) -> None:
    np.save(path.with_suffix(".npy"), data)
    path.with_suffix(".npy").rename(path)


def zarr_array(path: Path, data: np.ndarray) -> None:
    zarr.create_array(path, data=data, chunks=(16,) * data.ndim)


def zarr_2_array(path: Path, data: np.ndarray) -> None:
    zarr.create_array(path, data=data, chunks=(16,) * data.ndim, zarr_format=2)


def named_zarr(path: Path, data: np.ndarray) -> None:
    zarr.create_array(path, data=data, dimension_names=["z", "y", "x"])


def only_one_in_group(path: Path, data: np.ndarray) -> None:
    zarr.create_group(path).create_array("raw", data=data)


def ngff(axes: str, unit: str, scale: list[float], more: list[float]) -> dict[str, Any]:
    types = {"t": "time", "c": "channel"}
    listed = [{"name": a, "type": types.get(a, "space")} for a in axes]
    for axis in listed:
        if axis["type"] == "space":
            axis["unit"] = unit
    level = {
        "path": "s0",
        "coordinateTransformations": [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": [0.0] * len(axes)},
        ],
    }
    outer = [{"type": "scale", "scale": more}]
    return {"axes": listed, "datasets": [level], "name": "em", "coordinateTransformations": outer}


def ome_zarr_04(path: Path, data: np.ndarray) -> None:
    group = zarr.create_group(path, zarr_format=2)
    group.create_array("s0", data=data)
    told = ngff("cyx", "nanometer", [1.0, 4.0, 8.0], [1.0, 2.0, 1.0])
    group.attrs["multiscales"] = [{"version": "0.4", **told}]


def ome_zarr_05(path: Path, data: np.ndarray) -> None:
    group = zarr.create_group(path, zarr_format=3)
    group.create_array("s0", data=data, dimension_names=["c", "y", "x"])
    told = ngff("cyx", "nanometer", [1.0, 4.0, 8.0], [1.0, 2.0, 1.0])
    group.attrs["ome"] = {"version": "0.5", "multiscales": [told]}


def sloppy_ome_zarr(path: Path, data: np.ndarray) -> None:
    """No version, no type of axes, axes as 0.3 had them, no scale: seen in the wild."""
    group = zarr.create_group(path, zarr_format=2)
    group.create_array("s0", data=data)
    group.attrs["multiscales"] = [{"axes": ["z", "y", "x"], "datasets": [{"path": "s0"}]}]


def made_by_bioformats2raw(path: Path, data: np.ndarray) -> None:
    group = zarr.create_group(path, zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    ome_zarr_04(path / "0", data)


UNKNOWN_2D = ((1.0, 1.0), ("pixel", "pixel"))
UNKNOWN_3D = ((1.0,) * 3, ("pixel",) * 3)
COLOUR = ((1.0,) * 3, ("pixel", "pixel", ""))
NGFF = ((1.0, 8.0, 8.0), ("", "nanometer", "nanometer"))

FILES: dict[Callable[[Path, np.ndarray], None], tuple[Any, ...]] = {
    ome_tiff: (
        (2, 3, 40, 50),
        "czyx",
        (1.0, 300.0, 0.5, 0.25),
        ("", "nanometer", MICROMETER, MICROMETER),
    ),
    imagej: (
        (2, 3, 2, 40, 50),
        "tzcyx",
        (2.5, 0.5, 1.0, 0.5, 0.25),
        ("second", MICROMETER, "", MICROMETER, MICROMETER),
    ),
    plain_pages: ((5, 40, 50), None, *UNKNOWN_3D),
    compressed: ((40, 50), "yx", *UNKNOWN_2D),
    tiled_big_endian: ((40, 50), "yx", *UNKNOWN_2D),
    big_endian: ((40, 50), "yx", *UNKNOWN_2D),
    measured_in_centimetres: ((40, 50), "yx", (0.5, 0.25), (MICROMETER, MICROMETER)),
    meant_for_print: ((40, 50), "yx", *UNKNOWN_2D),
    pyramid: ((100, 120), "yx", *UNKNOWN_2D),
    rgb_tiff: ((40, 50, 3), "yxc", *COLOUR),
    png: ((40, 50), "yx", *UNKNOWN_2D),
    npy: ((4, 40, 50), None, *UNKNOWN_3D),
    zarr_array: ((4, 40, 50), None, *UNKNOWN_3D),
    zarr_2_array: ((40, 50), "yx", *UNKNOWN_2D),
    named_zarr: ((4, 40, 50), "zyx", *UNKNOWN_3D),
    only_one_in_group: ((40, 50), "yx", *UNKNOWN_2D),
    ome_zarr_04: ((2, 40, 50), "cyx", *NGFF),
    ome_zarr_05: ((2, 40, 50), "cyx", *NGFF),
    sloppy_ome_zarr: ((2, 40, 50), "zyx", *UNKNOWN_3D),
    made_by_bioformats2raw: ((2, 40, 50), "cyx", *NGFF),
}


@pytest.mark.parametrize("write", FILES, ids=lambda write: write.__name__)
def test_file_opens_with_its_axes_and_sizes(
    write: Callable[[Path, np.ndarray], None], tmp_path: Path
) -> None:
    shape, axes, scale, units = FILES[write]
    data = pixels(shape)
    path = tmp_path / "misnamed.dat"  # what a file is, is not told by its name
    write(path, data)
    image = open_image(path)
    assert (image.shape, image.axes, image.units) == (shape, axes, units)
    assert image.scale == pytest.approx(scale, rel=1e-6)
    assert image.dtype == data.dtype
    assert whole(image).dtype.isnative  # torch takes no other
    np.testing.assert_array_equal(whole(image), data)
    # and through the path that the image carries for workers
    again = open_image(image.source)
    np.testing.assert_array_equal(whole(again), data)


@pytest.mark.parametrize("shape", [(40, 50, 3), (40, 50, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png_keeps_colours_and_depth(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    data = pixels(shape, dtype) * (257 if dtype == "uint16" else 1)
    png(tmp_path / "a.png", data)
    image = open_image(tmp_path / "a.png")
    assert image.axes == "yxc"
    np.testing.assert_array_equal(whole(image), data)


def test_jpeg(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(imagecodecs.jpeg_encode(pixels((40, 50, 3), "uint8")))
    assert open_image(tmp_path / "a").axes == "yxc"


def test_only_known_letters_become_axes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels((7, 40, 50)), metadata={"axes": "QYX"})
    assert open_image(tmp_path / "a.tif").axes is None


def test_several_images_in_one_file_are_told(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(pixels((40, 50)))
        tif.write(pixels((20, 30), "uint8"))
    image = open_image(tmp_path / "a.tif")
    assert image.shape == (40, 50)
    assert "2 images" in image.notes[0]
    assert open_image(pixels((4, 4))).notes == ()


def test_several_multiscales_in_one_group_are_told(tmp_path: Path) -> None:
    ome_zarr_05(tmp_path / "a", pixels((2, 40, 50)))
    group = zarr.open_group(tmp_path / "a")
    told = dict(group.attrs["ome"])
    group.attrs["ome"] = {**told, "multiscales": told["multiscales"] * 2}
    assert "2 images" in open_image(tmp_path / "a").notes[0]


# --------------------------------------------------------------------------------------------------
# Arrays
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a: a,
        lambda a: dask.array.from_array(a, chunks=(2, 16, 16)),
        lambda a: dask.array.from_array(a, chunks=((1, 3), (30, 10), (50,))),
        lambda a: zarr.create_array({}, data=a, chunks=(2, 16, 16)),
        lambda a: zarr.create_array({}, data=a, chunks=(2, 8, 8), shards=(2, 16, 16)),
        lambda a: torch.from_numpy(a.astype(np.float32)).requires_grad_(),
        lambda a: a.tolist(),
        lambda a: a[::-1, :, ::2].repeat(2, axis=2)[::-1] * 0 + a,
    ],
)
def test_arrays_are_read_where_they_are(wrap: Callable[[np.ndarray], Any]) -> None:
    data = pixels((4, 40, 50), "uint8")
    image = open_image(wrap(data))
    assert image.axes is None
    assert image.source is None
    assert image.scale == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(whole(image), data)
    np.testing.assert_array_equal(
        image.read((2, slice(3, 29), slice(45, 50))), data[2, 3:29, 45:50]
    )


def test_brain_floats_are_read_as_float32() -> None:
    assert open_image(torch.ones(4, 4, dtype=torch.bfloat16)).dtype == np.float32


def test_zarr_array_in_hand_carries_its_path(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    image = open_image(group.create_array("raw", data=pixels((40, 50))))
    assert image.source is not None
    np.testing.assert_array_equal(whole(open_image(image.source)), pixels((40, 50)))


def test_dimension_names_of_arrays_are_axes() -> None:
    class Named(np.ndarray):
        dims = ("z", "y", "x")

    assert open_image(pixels((4, 40, 50)).view(Named)).axes == "zyx"


def test_image_opens_as_itself() -> None:
    image = open_image(pixels((4, 40, 50)))
    assert open_image(image) is image
    assert open_image(image, axes="CYX").axes == "cyx"


@given(nps.array_shapes(min_dims=2, max_dims=5, max_side=4), st.text("tczyxqYX", max_size=6))
def test_axes_are_one_letter_each_or_refused(shape: tuple[int, ...], axes: str) -> None:
    image = open_image(np.zeros(shape))
    letters = axes.lower()
    fine = len(letters) == len(shape) == len(set(letters)) and set(letters) <= set("tczyx")
    if fine:
        named = image.with_axes(axes)
        assert named.axes == letters
        assert named.units == tuple("" if a in "tc" else "pixel" for a in letters)
        assert named.data is image.data
    else:
        with pytest.raises(SettingsError, match="letter"):
            image.with_axes(axes)


def test_naming_axes_keeps_units(tmp_path: Path) -> None:
    ome_zarr_04(tmp_path / "a", pixels((2, 40, 50)))
    image = open_image(tmp_path / "a", axes="zyx")
    assert image.units == ("pixel", "nanometer", "nanometer")
    assert image.scale == (1.0, 8.0, 8.0)


# --------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------

regions = st.tuples(*[st.tuples(st.integers(0, 11), st.integers(1, 12)) for _ in range(3)])


@given(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.tuples(*[st.integers(3, 7)] * 3),
    st.lists(regions, min_size=1, max_size=6),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_chunked_reading_equals_plain_reading(
    shape: tuple[int, ...], chunks: tuple[int, ...], wanted: list[Any], with_integer: bool
) -> None:
    data = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    image = open_image(zarr.create_array({}, data=data, chunks=chunks))
    for region in wanted:
        index: tuple[Any, ...] = tuple(slice(min(r), max(r)) for r in region)
        if with_integer:
            index = (region[0][0] % shape[0], *index[1:])
        np.testing.assert_array_equal(image.read(index), data[index])


def test_neighbouring_regions_are_not_taken_from_what_is_kept() -> None:
    data = pixels((64, 64))
    image = open_image(Counting(data, (16, 16)))
    for y in range(48):
        for index in ((slice(y, y + 16), slice(3, 9)), (slice(3, 9), slice(y, y + 16))):
            np.testing.assert_array_equal(image.read(index), data[index])


@pytest.mark.parametrize(
    "index",
    [
        (slice(3, 60, 2), slice(5, 9)),
        (slice(-20, -3), slice(None)),
        (-1, slice(0, 5)),
        (slice(9, 3), slice(0, 5)),
        (7,),
        (3, 4),
    ],
)
def test_any_other_way_of_indexing_is_left_to_the_array(index: Any) -> None:
    data = pixels((64, 64))
    image = open_image(zarr.create_array({}, data=data, chunks=(16, 16)))
    np.testing.assert_array_equal(image.read(index), data[index])


class Counting:
    """An array stored in chunks, which counts how often each is decoded."""

    def __init__(self, data: np.ndarray, chunks: tuple[int, ...]) -> None:
        self._data = data
        self.chunks, self.shape, self.dtype = chunks, data.shape, data.dtype
        self.decoded = 0

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        touched = 1
        for s, unit in zip(index, self.chunks, strict=True):
            touched *= -(-s.stop // unit) - s.start // unit
        self.decoded += touched
        return self._data[index]


def test_strips_are_decoded_once_for_a_row_of_tiles() -> None:
    """Tiles across a full-width strip must not decode the strip again for each of them."""
    data = pixels((256, 4096))
    stored = Counting(data, (8, 4096))
    image = open_image(stored)
    for y in (0, 128):
        for x in range(0, 4096, 128):
            index = (slice(y, y + 128), slice(x, x + 128))
            np.testing.assert_array_equal(image.read(index), data[index])
    assert stored.decoded == 256 // 8


def test_what_is_kept_is_bounded_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Counting(pixels((256, 4096)), (8, 4096))
    image = open_image(stored)
    assert image.kept_bytes((128, 128)) == (128 + 8) * 4096 * 2
    assert open_image(pixels((256, 256))).kept_bytes((128, 128)) == 0
    monkeypatch.setattr(images, "_KEEP_AT_MOST", 1000)
    assert image.kept_bytes((128, 128)) == 0
    for _ in range(2):
        image.read((slice(0, 8), slice(0, 8)))
    assert stored.decoded == 2


def test_callers_cannot_change_what_is_kept() -> None:
    data = pixels((64, 64))
    image = open_image(Counting(data.copy(), (64, 64)))
    image.read((slice(0, 8), slice(0, 8)))[:] = 0
    np.testing.assert_array_equal(image.read((slice(0, 8), slice(0, 8))), data[:8, :8])


def test_threads_read_what_they_asked_for(tmp_path: Path) -> None:
    data = pixels((512, 512))
    compressed(tmp_path / "a.tif", data)
    image = open_image(tmp_path / "a.tif")
    wrong: list[int] = []

    def reader(seed: int) -> None:
        for y, x in np.random.default_rng(seed).integers(0, 400, (30, 2)):
            if not np.array_equal(
                image.read((slice(y, y + 64), slice(x, x + 64))), data[y : y + 64, x : x + 64]
            ):
                wrong.append(seed)

    threads = [threading.Thread(target=reader, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_looking_at_chunks_leaves_reads_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of other threads at the same moment, and those that come after."""
    zarr.create_array(str(tmp_path / "a.zarr"), data=np.ones((64, 64), "f4"), chunks=(32, 32))
    image = open_image(tmp_path / "a.zarr").with_nodata(5)
    region, look, read = (slice(8, 16), slice(40, 48)), WatchedZarr._look, []

    def reading(self: WatchedZarr, chunk: tuple[int, ...]) -> None:
        look(self, chunk)
        monkeypatch.setattr(WatchedZarr, "_look", look)
        thread = threading.Thread(target=lambda: read.append(image.read(region)))
        thread.start()
        thread.join()

    monkeypatch.setattr(WatchedZarr, "_look", reading)
    image.look(region)
    read.append(image.read(region))
    assert [block.mean() for block in read] == [1, 1]


@given(
    nps.array_shapes(min_dims=2, max_dims=4, max_side=12),
    st.data(),
    st.integers(1, 600),
    st.booleans(),
)
@settings(deadline=None)
def test_blocks_cover_the_image_once(
    shape: tuple[int, ...], data: st.DataObject, at_most: int, chunked: bool
) -> None:
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    array = np.zeros(shape, np.uint8)
    image = open_image(Counting(array, chunks) if chunked else array)
    for region in image.blocks(at_most):
        block = array[region]
        assert (block == 0).all()
        block += 1
        assert block.size <= max(at_most, np.prod(chunks) if chunked else 1)
        if chunked:
            assert all(s.start % c == 0 for s, c in zip(region, chunks, strict=True))
    assert (array == 1).all()
    some = slice(*sorted(data.draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))))
    assert list(image.blocks(at_most, some)) == list(image.blocks(at_most))[some]


def test_blocks_are_as_large_as_allowed() -> None:
    image = open_image(np.zeros((100, 1000), np.uint8))
    assert len(list(image.blocks(10_000))) == 10


def test_opening_reads_no_pixels(tmp_path: Path) -> None:
    """A file of 8 GB (a hole) opens in no time, and a corner of it is read alone."""
    path = tmp_path / "hole.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (8, 32768, 32768)).flush()
    image = open_image(path)
    assert image.read((7, slice(32760, 32768), slice(32760, 32768))).sum() == 0


def test_uncompressed_pages_are_not_read_as_a_whole(tmp_path: Path) -> None:
    """A tile of a page of 900 MB (a hole) costs no more memory than the tile."""
    path = tmp_path / "hole.tif"
    tifffile.memmap(path, shape=(30000, 30000), dtype=np.uint8).flush()
    image = open_image(path)
    tracemalloc.start()
    try:
        assert not image.read((slice(20000, 20256), slice(20000, 20256))).any()
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_no_file_stays_open(tmp_path: Path) -> None:
    """Warnings are errors: an unclosed file would fail here when it is collected."""
    compressed(tmp_path / "a.tif", pixels((40, 50)))
    image = open_image(tmp_path / "a.tif")
    whole(image)
    del image
    gc.collect()


# --------------------------------------------------------------------------------------------------
# What is wrong with it, in one sentence
# --------------------------------------------------------------------------------------------------


def cut(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("write", [ome_tiff, imagej, plain_pages, compressed, png, npy, pyramid])
def test_truncated_file(
    write: Callable[[Path, np.ndarray], None], part: float, tmp_path: Path
) -> None:
    path = tmp_path / "cut.dat"
    write(path, pixels(FILES[write][0]))
    cut(path, part)
    with pytest.raises(ImageError, match=r"cut\.dat"):
        whole(open_image(path))


def test_truncated_file_is_known_before_anything_is_read(tmp_path: Path) -> None:
    compressed(tmp_path / "a.tif", pixels((400, 500)))
    cut(tmp_path / "a.tif", 0.6)
    with pytest.raises(ImageError, match=r"cut short: its pixels end at byte \d+, .* only \d+"):
        open_image(tmp_path / "a.tif")


def test_damage_inside_a_file(tmp_path: Path) -> None:
    path = tmp_path / "damaged.tif"
    compressed(path, pixels((64, 50)))
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[3]
    content = bytearray(path.read_bytes())
    content[offset : offset + 50] = b"\xff" * 50
    path.write_bytes(content)
    image = open_image(path)
    image.read((slice(0, 24), slice(0, 50)))
    with pytest.raises(ImageError, match=r"damaged\.tif cannot be read at \[24:40, 3:9\]"):
        image.read((slice(24, 40), slice(3, 9)))


def test_a_jpeg_that_is_cut_short_is_refused_not_painted_grey(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    encoded = imagecodecs.jpeg_encode(pixels((64, 64)).astype(np.uint8))
    path.write_bytes(encoded)
    assert open_image(path).shape == (64, 64)
    path.write_bytes(encoded + b"a film as of a telephone \xff\xda")
    np.testing.assert_array_equal(whole(open_image(path)), imagecodecs.jpeg_decode(encoded))
    thumbnail = b"\xff\xe1" + (len(encoded) + 2).to_bytes(2, "big") + encoded
    for header in (b"", thumbnail, b"\xff" + thumbnail):
        path.write_bytes(encoded[:2] + header + encoded[2:])
        assert open_image(path).shape == (64, 64)
        path.write_bytes(encoded[:2] + header + encoded[2:-200])
        with pytest.raises(ImageError, match="cut short: its last pixels are missing"):
            open_image(path)


def test_a_reason_from_within_a_library_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    path.write_bytes(b"II*\0\x08\0")
    with pytest.raises(ImageError, match="its parts do not fit together"):
        open_image(path)


def test_damaged_chunk(tmp_path: Path) -> None:
    zarr_array(tmp_path / "a.zarr", pixels((40, 50)))
    (tmp_path / "a.zarr" / "c" / "1" / "1").write_bytes(b"not what it was")
    image = open_image(tmp_path / "a.zarr")
    image.read((slice(0, 16), slice(0, 16)))
    with pytest.raises(ImageError, match=r"a\.zarr cannot be read at \[16:20, 0:20\]"):
        image.read((slice(16, 20), slice(0, 20)))


def test_unknown_codec(tmp_path: Path) -> None:
    zarr_array(tmp_path / "a.zarr", pixels((40, 50)))
    meta = tmp_path / "a.zarr" / "zarr.json"
    meta.write_text(meta.read_text().replace('"zstd"', '"of tomorrow"'))
    with pytest.raises(ImageError, match="of tomorrow"):
        whole(open_image(tmp_path / "a.zarr"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"what a text", "TIFF, PNG, JPEG"),
        (b"PK\x03\x04....", "zip"),
        (b"\x89HDF\r\n\x1a\n", "h5py"),
        (b"II*\0" + b"\0" * 20, "cannot be opened"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "cannot be opened"),
        (b"\xff\xd8\xff" + b"\0" * 20, "cannot be opened"),
        (b"\x93NUMPY\x01\x00\x05\x00junk\n", "cannot be opened"),
    ],
)
def test_file_that_is_no_image(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ImageError, match=told) as caught:
        open_image(tmp_path / "a.tif")
    assert "a.tif" in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    (tmp_path / "begun.zarr.partial").mkdir()
    with pytest.raises(ImageError, match=r"begun.zarr is unfinished: .* is \S*begun.zarr.partial"):
        open_image(tmp_path / "begun.zarr")
    with pytest.raises(ImageError, match="no file or folder nowhere"):
        open_image("nowhere/a.tif")


def test_folder_that_is_no_zarr(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="without zarr metadata"):
        open_image(tmp_path)


def test_broken_zarr_metadata(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(ImageError, match="cannot be opened"):
        open_image(tmp_path)


def test_group_that_does_not_say_which(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    with pytest.raises(ImageError, match="holds nothing"):
        open_image(tmp_path / "a.zarr")
    for name in ("raw", "labels"):
        group.create_array(name, data=pixels((4, 4)))
    with pytest.raises(ImageError, match="holds labels, raw"):
        open_image(tmp_path / "a.zarr")
    assert open_image(tmp_path / "a.zarr" / "raw").axes == "yx"


def test_multiscales_that_point_nowhere(tmp_path: Path) -> None:
    ome_zarr_05(tmp_path / "a.zarr", pixels((2, 40, 50)))
    shutil.rmtree(tmp_path / "a.zarr" / "s0")
    with pytest.raises(ImageError, match=r"a\.zarr cannot be opened.*s0"):
        open_image(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (np.zeros((0, 5)), "empty: its size is 0 x 5"),
        (np.zeros(5), "1 dimension"),
        (np.float32(3), "0 dimension"),
        (np.zeros((4, 4), complex), "complex128"),
        (np.full((4, 4), None), "object"),
        (np.zeros((4, 4), "U3"), "<U3"),
        (np.zeros((4, 4), np.longdouble), "float128|longdouble|float64"),
        ("pyramid", "one array"),
    ],
)
def test_array_that_is_no_image(data: Any, told: str) -> None:
    if isinstance(data, str):
        data = [np.zeros((8, 8)), np.zeros((4, 4))]
    with pytest.raises(ImageError, match=told):
        open_image(data)


def test_pickles_in_npy_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((4, 4), None), allow_pickle=True)
    with pytest.raises(ImageError, match=r"a\.npy cannot be opened"):
        open_image(tmp_path / "a.npy")


def test_bool_is_read_as_it_is() -> None:
    assert open_image(np.eye(4, dtype=bool)).dtype == bool


# --------------------------------------------------------------------------------------------------
# Our fixtures are what they say
# --------------------------------------------------------------------------------------------------


def test_fixtures_conform(tmp_path: Path) -> None:
    ome_zarr_05(tmp_path / "5", pixels((2, 40, 50)))
    open_ome_zarr(zarr.open_group(tmp_path / "5", mode="r"))
    ome_zarr_04(tmp_path / "4", pixels((2, 40, 50)))
    told = zarr.open_group(tmp_path / "4", mode="r").attrs["multiscales"]
    assert Multiscale.model_validate(told[0]).ndim == 3  # reading whole 0.4 groups fails in 1.6


@pytest.mark.parametrize("nodata", [300, -1, 2.5, float("nan")])
def test_a_value_without_data_that_no_pixel_can_have_is_refused(nodata) -> None:
    with pytest.raises(SettingsError, match="uint8 holds whole numbers from 0 to 255"):
        open_image(np.zeros((8, 8), np.uint8), nodata=nodata)
    assert open_image(np.zeros((8, 8), np.float32), nodata=nodata) is not None


def test_an_image_with_nodata_opens_as_itself_elsewhere(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.float32).reshape(8, 8)
    np.save(tmp_path / "a.npy", pixels)
    image = open_image(tmp_path / "a.npy").with_nodata(5)
    assert image.opener is not None
    again = open_image(image.opener, nodata=image.choice.nodata)
    index = (slice(None), slice(None))
    np.testing.assert_array_equal(again.read(index), np.where(pixels == 5, np.nan, pixels))
    np.testing.assert_array_equal(again.read(index), image.read(index))
    # no file opens with two such intensities
    assert image.with_nodata(6).opener is None
