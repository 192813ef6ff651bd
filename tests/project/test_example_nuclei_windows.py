"""The paper's experiment with nuclei as an example: that it runs, and that its rule holds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FILE = Path(__file__).resolve().parents[2] / "examples" / "nuclei_windows.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("nuclei_windows", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_only_windows_on_the_grid_give_the_untiled_prediction(example, tmp_path, capsys) -> None:
    cells = np.arange(1, 37).reshape(6, 6).repeat(23, 0).repeat(23, 1)
    y, x = np.mgrid[:138, :138] % 23 - 11
    labels = np.where(y**2 + x**2 < 60, cells, 0).astype(np.uint16)
    noise = np.random.default_rng(0).random(labels.shape)
    np.save(tmp_path / "image.npy", (100 * (labels > 0) + 20 * noise).astype(np.uint8))
    np.save(tmp_path / "labels.npy", labels)
    picture = tmp_path / "nuclei.png"
    files = ["--image", str(tmp_path / "image.npy"), "--labels", str(tmp_path / "labels.npy")]
    untiled, off, on = example.main(["--quick", "--out", str(picture), *files])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert (untiled.window, off.window, on.window) == (128, 52, 64)
    assert untiled.apart == 0
    assert on.apart < 0.02 * off.apart
    assert untiled.seen.objects + untiled.unseen.objects == 36 + 6  # six are in both parts
    assert "saved after" in capsys.readouterr().out


def test_a_jump_of_the_embedding_splits_a_nucleus(example) -> None:
    prediction = torch.full((example.EMBEDDING + 1, 12, 60), -9.0)
    prediction[-1, 2:10, 3:23] = prediction[-1, 2:10, 33:53] = 9.0
    assert example.objects(prediction, 0.1).max() == 2
    prediction[0, :, 44:] += 1
    assert example.objects(prediction, 0.1).max() == 3


def test_without_images_it_says_so(example, capsys) -> None:
    assert example.main(["--image", "none.tif"]) == []
    assert "Skipped: none.tif does not exist" in capsys.readouterr().out
