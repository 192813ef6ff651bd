"""OME-Zarr opens in napari with its channels, resolutions, place and labels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import npe2
import numpy as np
import pytest
import torch
from napari.components import ViewerModel
from napari.layers import Image, Labels

import seamscope
from seamscope.docks import open_ome_zarr
from seamscope.images.results import pyramid
from seamscope.images.results.create import create_output

DATA = np.random.default_rng(0).random((2, 64, 48)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pyramid, "SMALLEST", 16)
    path = tmp_path / "image.ome.zarr"
    channels = [{"name": "DAPI", "color": "0000FF", "window": (0.1, 0.7)}, "GFP"]
    how: dict[str, Any] = {
        "axes": "cyx",
        "scale": (1.0, 0.5, 0.5),
        "units": ("", "micrometer", "micrometer"),
        "origin": (0.0, 3.0, 0.0),
        "metadata": {"channels": channels},
    }
    with create_output(path, DATA.shape, "f4", **how) as output:
        output.write((slice(0, 2), slice(0, 64), slice(0, 48)), DATA)
        output.finish()
    wanted: dict[str, Any] = {"channel": 0, "result": "labels", "normalize": "none", "tile": 32}
    seamscope.predict(path, torch.nn.Identity(), path / "labels" / "bright", **wanted)
    return path


def test_channels_resolutions_place_and_labels(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other plugins' manifests
        npe2.PluginManager.instance().discover()
    viewer = ViewerModel()
    first, second, labels = viewer.open(str(folder), plugin="seamscope")
    assert [type(layer) for layer in viewer.layers] == [Image, Image, Labels]
    assert [layer.name for layer in viewer.layers] == ["DAPI", "GFP", "bright"]
    assert first.contrast_limits == [0.1, 0.7]
    np.testing.assert_allclose(first.colormap.colors[-1], (0, 0, 1, 1))
    for number, layer in enumerate((first, second)):
        assert [level.shape for level in layer.data] == [(64, 48), (32, 24), (16, 12)]
        np.testing.assert_array_equal(np.asarray(layer.data[0]), DATA[number])
        np.testing.assert_allclose(layer.scale, (0.5, 0.5))
        np.testing.assert_allclose(layer.translate, (3.0, 0.0))
        assert [str(unit) for unit in layer.units] == ["micrometer"] * 2
        assert layer.axis_labels == ("y", "x")
    np.testing.assert_array_equal(np.asarray(labels.data[0]), DATA[0] > 0.5)
    np.testing.assert_allclose(labels.scale, (0.5, 0.5))


def test_other_folders_are_left_to_others(tmp_path: Path) -> None:
    assert open_ome_zarr(str(tmp_path)) is None
    assert open_ome_zarr(str(tmp_path / "none.zarr")) is None
