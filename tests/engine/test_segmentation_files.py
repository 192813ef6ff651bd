"""Labels in files: every kind, as others read them; full disks; labels inside an image."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models.v05.image_label import ImageLabel
from ome_zarr_models.v05.labels import Labels as LabelsGroup
from scipy import ndimage

import seamscope
from seamscope.errors import OutputError, SettingsError
from seamscope.images.results.create import create_output
from seamscope.segmentation.blocks import Blocks


@pytest.fixture
def found():
    p = np.zeros((20, 30), np.float32)
    p[2:5, 2:9] = p[10:15, 4:20] = 1
    return seamscope.segment(p)


@pytest.mark.parametrize("name", ["p.npy", "p.tif", "p.ome.tif", "p.zarr", "p.ome.zarr"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint16])
def test_predictions_of_any_program_are_read(tmp_path, name, dtype) -> None:
    """Two channels, of which one is chosen, and both as classes; of each type and kind of file."""
    p = np.random.default_rng(0).random((2, 20, 30))
    full = 1 if dtype is np.float32 else np.iinfo(dtype).max
    stored = (p * full).astype(dtype)
    if name.endswith(".tif"):
        tifffile.imwrite(tmp_path / name, stored, metadata={"axes": "CYX"}, ome="ome" in name)
    elif name.endswith(".npy"):
        np.save(tmp_path / name, stored)
    elif name == "p.zarr":
        zarr.save(str(tmp_path / name), stored)
    else:
        with create_output(
            tmp_path / name, p.shape, stored.dtype, axes="cyx", scale=(1,) * 3,
            units=("", "pixel", "pixel"),
        ) as output:  # fmt: skip
            output.write((slice(0, 2), slice(0, 20), slice(0, 30)), stored)
            output.finish()
    found = seamscope.segment(tmp_path / name, channel=1, threshold=0.6, axes="cyx")
    expected = ndimage.label(stored[1] / full > 0.6)[0]
    np.testing.assert_array_equal(np.asarray(found.labels), expected)
    classes = seamscope.segment(tmp_path / name, kind="classes", background=1, axes="cyx")
    np.testing.assert_array_equal(np.asarray(classes.labels), stored.argmax(0) == 0)


@pytest.mark.parametrize("name", ["out.npy", "out.tif", "out.ome.tif", "out.zarr", "out.ome.zarr"])
def test_every_kind_of_file_gives_the_labels_back(found, tmp_path, name) -> None:
    found.write(tmp_path / name)
    opened = seamscope.open_image(tmp_path / name)
    assert opened.dtype == np.uint8
    assert opened.axes == "yx"
    np.testing.assert_array_equal(opened.read((slice(None),) * 2), np.asarray(found.labels))
    with pytest.raises(OutputError, match="exists"):
        found.write(tmp_path / name)
    found.at(min_size=30).write(tmp_path / name, overwrite=True)
    assert seamscope.open_image(tmp_path / name).read((slice(None),) * 2).max() == 1


def test_ome_zarr_is_marked_as_labels(found, tmp_path) -> None:
    found.write(tmp_path / "cells.ome.zarr")
    group = zarr.open_group(str(tmp_path / "cells.ome.zarr"), mode="r")
    assert ImageLabel.from_zarr(group).ome_attributes.image_label is not None
    assert group.attrs["ome"]["version"] == "0.5"


def test_labels_join_the_image_they_belong_to(found, tmp_path) -> None:
    image = tmp_path / "image.ome.zarr"
    output = create_output(
        image, (20, 30), np.float32, axes="yx", scale=(1, 1), units=("pixel", "pixel")
    )
    with output:
        output.finish()
    for name in ("cells", "nuclei", "cells"):
        found.write(image / "labels" / name, overwrite=True)
    listed = LabelsGroup.from_zarr(zarr.open_group(str(image / "labels"), mode="r"))
    assert listed.label_paths == ["cells", "nuclei"]
    group = zarr.open_group(str(image / "labels" / "cells"), mode="r")
    assert group.attrs["ome"]["image-label"]["source"] == {"image": "../../"}
    np.testing.assert_array_equal(group["0"][...], np.asarray(found.labels))
    assert sorted(p.name for p in (image / "labels").iterdir()) == ["cells", "nuclei", "zarr.json"]
    with pytest.raises(OutputError, match="exists"):
        found.write(image / "labels" / "cells")


def test_a_full_disk_is_one_sentence(found, tmp_path, monkeypatch) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=99))
        with pytest.raises(OutputError, match=r"99 bytes\) free.*or choose another place\.$"):
            found.write(tmp_path / "out.zarr")
    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(OutputError, match="is full"):
        found.write(tmp_path / "out.zarr")


def test_many_objects_take_a_wider_type(tmp_path) -> None:
    p = np.zeros((64, 64), np.float32)
    p[::2, ::2] = 1
    found = seamscope.segment(p)
    assert found.count == 1024
    found.write(tmp_path / "out.tif")
    assert tifffile.imread(tmp_path / "out.tif").dtype == np.uint16


def test_basins_beyond_memory_go_to_disk(monkeypatch, tmp_path) -> None:
    p = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    expected = np.asarray(seamscope.segment(p, fill_holes=True, blocks=16).labels)
    monkeypatch.setattr("seamscope.segmentation.room._SHARE", 0)
    found = seamscope.segment(p, fill_holes=True, blocks=16, scratch=tmp_path)
    np.testing.assert_array_equal(np.asarray(found.labels), expected)
    other = found.at(threshold=0.3)
    np.testing.assert_array_equal(
        np.asarray(other.labels),
        np.asarray(seamscope.segment(p, fill_holes=True, threshold=0.3).labels),
    )
    np.testing.assert_array_equal(np.asarray(found.labels), expected)
    assert list(tmp_path.iterdir())
    del found, other
    assert not list(tmp_path.iterdir())


def test_memory_is_that_of_blocks_and_the_graph(monkeypatch, tmp_path) -> None:
    """Four times as many blocks of background take no more."""
    monkeypatch.setattr("seamscope.segmentation.room._SHARE", 0)

    def find(n):
        stored = zarr.create_array(tmp_path / str(n), shape=(n, n), chunks=(64, 64), dtype="u1")
        stored[20:40, 20:60] = 255
        assert seamscope.segment(stored, values=255, blocks=64, scratch=tmp_path).count == 1

    find(64)  # loads modules
    peaks = []
    for n in (128, 256):
        tracemalloc.start()
        find(n)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_blocks_that_share_chunks_on_disk_lose_nothing(monkeypatch, tmp_path) -> None:
    """Several threads, and blocks that do not begin where chunks do."""
    p = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    expected = np.asarray(seamscope.segment(p).labels)
    monkeypatch.setattr("seamscope.segmentation.room._SHARE", 0)
    blocks = Blocks.of((64, 64), 16, (5, 7))
    for _ in range(3):
        found = seamscope.segment(p, blocks=blocks, threads=4, scratch=tmp_path)
        np.testing.assert_array_equal(np.asarray(found.labels), expected)


def test_a_full_disk_under_the_basins_is_one_sentence(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("seamscope.segmentation.room._SHARE", 0)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(OutputError, match=r"is full.*Nothing was written"):
        seamscope.segment(np.zeros((9, 9)), scratch=tmp_path)
    assert not list(tmp_path.iterdir())


def test_too_many_basins_are_refused(monkeypatch) -> None:
    monkeypatch.setattr("seamscope.segmentation.basins.MOST_BASINS", 3)
    p = np.zeros((1, 9))
    p[0, ::2] = 1
    with pytest.raises(SettingsError, match="has 5 basins, but at most 3 can be numbered"):
        seamscope.segment(p)


@pytest.mark.parametrize("share", [0, 1])
def test_work_is_stopped_between_blocks(monkeypatch, tmp_path, share) -> None:
    monkeypatch.setattr("seamscope.segmentation.room._SHARE", share)

    class Stops:
        blocks = 0

        def phase(self, what, steps="", before=0):
            pass

        def note(self, sentence):
            pass

        def step(self, done, total):
            Stops.blocks = done

        def stopped(self):
            return Stops.blocks == 3

    with pytest.raises(InterruptedError):
        seamscope.segment(np.zeros((9, 9)), blocks=3, scratch=tmp_path, work=Stops())
    assert Stops.blocks == 3
    assert not list(tmp_path.iterdir())


def test_parts_lie_where_they_belong_and_pixels_without_data_are_background(tmp_path) -> None:
    p = np.full((20, 30), 0.9, np.float32)
    p[:, 12:14] = np.nan
    image = dataclasses.replace(
        seamscope.open_image(p),
        scale=(2.0, 0.5),
        units=("micrometer", "micrometer"),
        origin=(100.0, 10.0),
        missing=True,
    )
    found = seamscope.segment(image, area={"y": (5, 15)})
    assert found.count == 2
    assert not np.asarray(found.labels)[:, 12:14].any()
    boundaries = seamscope.segment(image, kind="boundaries", seed_threshold=0.95)
    assert np.asarray(boundaries.labels)[3, [11, 12, 13, 14]].tolist() == [1, 0, 0, 2]
    found.write(tmp_path / "part.ome.zarr")
    opened = seamscope.open_image(tmp_path / "part.ome.zarr")
    assert opened.origin == (110.0, 10.0)
    assert opened.scale == (2.0, 0.5)
