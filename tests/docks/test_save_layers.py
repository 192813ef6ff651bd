"""Layers saved through napari keep their place, classes and settings."""

from __future__ import annotations

import warnings
from pathlib import Path

import npe2
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.utils import DirectLabelColormap

from seamscope.images.image import open_image
from seamscope.images.records import read_record

PIXELS = np.random.default_rng(3).random((30, 40)).astype(np.float32)


def saved(layer: Image | Labels, path: Path) -> Path:
    """As *File > Save Selected Layers* does it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other plugins' manifests
        npe2.PluginManager.instance().discover()
    viewer = ViewerModel()
    viewer.add_layer(layer)
    assert viewer.layers.save(str(path), plugin="seamscope") == [str(path)]
    return path


@pytest.mark.parametrize("ending", [".ome.zarr", ".zarr", ".ome.tif", ".tif", ".npy"])
def test_place_and_settings_are_kept(ending: str, tmp_path: Path) -> None:
    record = {"axes": "cyx", "channel": "cells", "plan": {"tile": [64, 64]}, "finished": True}
    layer = Image(
        PIXELS,
        name="cells",
        scale=(0.5, 0.25),
        translate=(10, -3),
        units=("um", "um"),
        metadata={"seamscope": record},
    )
    path = saved(layer, tmp_path / f"cells{ending}")
    image = open_image(path)
    assert image.axes == "yx"
    np.testing.assert_array_equal(image.read((slice(None),) * 2), PIXELS)
    np.testing.assert_allclose(image.scale, (0.5, 0.25))
    np.testing.assert_allclose(image.origin, (10, -3))
    stored = read_record(path)
    assert stored["plan"] == {"tile": [64, 64]}
    assert stored["finished"] is True


def test_classes_of_labels_are_kept(tmp_path: Path) -> None:
    colours = DirectLabelColormap(color_dict={0: "#ff0000", 1: "#00ff00", None: "transparent"})
    layer = Labels(
        (PIXELS > 0.5).astype(np.uint8),
        colormap=colours,
        features={"index": [0, 1], "class": ["membrane", "cell"]},
    )
    path = saved(layer, tmp_path / "labels.ome.zarr")
    assert read_record(path)["classes"] == [
        {"value": 0, "name": "membrane", "color": "ff0000"},
        {"value": 1, "name": "cell", "color": "00ff00"},
    ]


def test_layers_of_others_are_saved_too(tmp_path: Path) -> None:
    stack = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 3, 4)
    path = saved(Image(stack, translate=(1, 2, 3)), tmp_path / "stack.ome.tif")
    image = open_image(path)
    assert image.axes == "zyx"
    assert image.origin == (1, 2, 3)
    colours = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    image = open_image(saved(Image(colours, rgb=True), tmp_path / "rgb.zarr"))
    assert image.axes == "yxc"
    np.testing.assert_array_equal(image.read((slice(None),) * 3), colours)
