"""Suspicious objects, and crops of corrected places."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

import seamscope
from seamscope.errors import SettingsError
from seamscope.segmentation.corrections import Corrections
from seamscope.segmentation.false_splits import find_splits
from seamscope.segmentation.review import export_crops, suspects


def test_small_margins_odd_sizes_and_seams_are_suspicious() -> None:
    p = np.zeros((64, 64), np.float32)
    for y in range(4, 60, 10):
        for x in range(4, 60, 10):
            p[y : y + 4, x : x + 4 + (y // 10) % 2] = 0.9
    p[20:29, 40:60] = 0.9  # a large one
    p[4:8, 8] = 0.9
    p[5, 9:14] = 0.51  # a bridge that nearly is not there
    found = seamscope.segment(p)
    labels = np.asarray(found.labels)
    listed = suspects(found, find_splits(labels, 32).candidates)
    by_size = next(s for s in listed if s.reason == "size")
    assert labels[by_size.place] == labels[25, 50]
    by_margin = next(s for s in listed if s.reason == "margin")
    assert labels[by_margin.place] == labels[5, 5] == labels[5, 15]
    assert "0.01" in by_margin.sentence
    assert not any(s.reason == "seam" for s in listed)
    label, area, start = found.sizes()
    assert area.tolist() == [int((labels == k).sum()) for k in label]
    assert start.tolist() == [int(np.flatnonzero(labels.ravel() == k)[0]) for k in label]
    cut = labels.astype(int)
    cut[:, 32:] += 100 * (cut[:, 32:] > 0)
    cut[20:29, 30:34] = np.where(np.arange(30, 34) < 32, 77, 78)
    seams = suspects(found, find_splits(cut, 32).candidates)
    assert seams[0].reason == "seam"


def test_places_lie_inside_objects() -> None:
    noise = np.random.default_rng(3).random((60, 80))
    found = seamscope.segment(noise, kind="components", threshold=0.6)
    labels = np.asarray(found.labels)
    listed = suspects(found)
    assert len(listed) > 50
    assert all(labels[each.place] for each in listed)


def test_crops_of_corrected_places(tmp_path) -> None:
    image = np.random.default_rng(0).random((100, 120)).astype(np.float32)
    p = np.zeros_like(image)
    p[10:20, 10:20] = p[70:80, 90:99] = 1
    corrections = Corrections(seamscope.segment(p))
    with pytest.raises(SettingsError, match="Nothing was corrected"):
        export_crops(corrections, image, tmp_path)
    corrections.delete((15, 15))
    corrections.paint((78, 62), np.ones((4, 4), bool), (75, 95))
    files = export_crops(corrections, image, tmp_path / "crops", size=64)
    assert [f.name for pair in files for f in pair] == [
        "crop_0_0_image.tif",
        "crop_0_0_labels.tif",
        "crop_64_0_image.tif",
        "crop_64_0_labels.tif",
        "crop_64_64_image.tif",
        "crop_64_64_labels.tif",
    ]
    np.testing.assert_array_equal(tifffile.imread(files[2][0]), image[64:, 64:])
    whole = np.asarray(corrections.current.labels)
    np.testing.assert_array_equal(tifffile.imread(files[1][1]), whole[64:, :64])
    assert not tifffile.imread(files[0][1]).any()
