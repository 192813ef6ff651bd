"""Predictions for labels: of an area, they are those of the image, with what lies around it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import zarr
from scipy import ndimage
from torch import nn

import seamscope
from seamscope.errors import ImageError, SettingsError
from seamscope.ledger import Ledger
from seamscope.planning.case import Case
from seamscope.planning.tuning import prepare
from seamscope.segmentation.labelling import begin_labels
from seamscope.segmentation.predicted import Placed, predict_for
from seamscope.segmentation.recipe import Heights
from seamscope.segmentation.tile_seams import seams_of


class Sharpen(nn.Module):
    """Foreground from intensities; `step` pixels become one."""

    def __init__(self, step: int = 1) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(step)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(20 * (self.pool(x) - 0.5))


def blobs(shape):
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random(shape), 3)
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "axes", "step", "area"),
    [
        ((96, 120), "yx", 1, {"y": (30, 60), "x": (20, 120)}),
        ((96, 120), "yx", 2, {"y": (32, 60), "x": (20, 100)}),
        ((2, 64, 64), "tyx", 1, {"t": (1, 2), "x": (16, 48)}),
        ((12, 64, 64), "zyx", 1, {"z": (4, 8), "y": (16, 48)}),
    ],
)
@pytest.mark.parametrize("recipe", [
    seamscope.Recipe("components"), seamscope.Recipe("distance", cap=9),
])  # fmt: skip
def test_heights_of_an_area_are_those_of_the_image(shape, axes, step, area, recipe) -> None:
    image = dataclasses.replace(
        seamscope.open_image(blobs(shape), axes=axes), origin=(5.0,) * len(shape)
    )
    case = Case.open(image, Sharpen(step), tile=32, normalize="none", seams="none")
    whole = predict_for(recipe, case)
    part = predict_for(recipe, case.but(area=area))
    assert whole.area is None
    assert (part.image.shape, part.image.origin) == (whole.image.shape, whole.image.origin)
    cut = [part.area.get(letter, (0, n)) for letter, n in zip(axes, whole.image.shape, strict=True)]
    scaled = {a: (v[0] // step, v[1] // step) if a in "yx" else v for a, v in area.items()}
    assert {a: v for a, v in part.area.items() if a in area} == scaled
    region = tuple(slice(*ends) for ends in cut)
    everything = [slice(0, n) for n in whole.image.shape]
    if axes[0] == "t":
        everything[0] = region[0]  # frames are read one by one
        everywhere = np.zeros(whole.image.shape)
        everywhere[region[0]] = Heights(whole.image, recipe)(tuple(everything))
    else:
        everywhere = Heights(whole.image, recipe)(tuple(everything))
    np.testing.assert_array_equal(Heights(part.image, recipe)(region), everywhere[region])
    labels = seamscope.segment(part.image, recipe, area=part.area)
    assert labels.shape == tuple(s.stop - s.start for s in region)
    assert len(labels.provisional) > 0


def test_pixels_that_were_not_predicted_are_not_read() -> None:
    placed = Placed(np.arange(6).reshape(2, 3), (4, 5), (9, 9))
    np.testing.assert_array_equal(placed[4:6, 5:8], [[0, 1, 2], [3, 4, 5]])
    assert placed[5, 7] == 5
    with pytest.raises(ImageError, match="Pixels 3 to 6 were not predicted"):
        placed[3:6, 5:8]


class Hungry(nn.Module):
    """Runs out of memory above so many pixels, once it is armed."""

    armed = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.armed and x.numel() > 32 * 32:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return torch.sigmoid(x)


@pytest.mark.parametrize("folder", [False, True])
def test_seams_are_those_of_the_tiles_that_memory_left(folder, tmp_path) -> None:
    network = Hungry().eval()
    case = Case.open(blobs((96, 96)), network, tile=48, batch=1, normalize="none", seams="none")
    asked = seams_of(case.plan)
    network.armed = True
    ledger = Ledger.begin(tmp_path / "ledger", {}) if folder else None
    found = predict_for(seamscope.Recipe(), case, tmp_path, ledger=ledger)
    assert asked["x"].tile == 48
    assert found.seams["x"].tile <= 32
    assert (found.file is not None) == folder
    again = predict_for(seamscope.Recipe(), case, tmp_path, ledger=ledger)
    assert again.seams == found.seams


def test_a_recipe_that_does_not_fit_is_refused_before_the_prediction(tmp_path) -> None:
    case = Case.open(blobs((96, 96)), Hungry().eval(), tile=48, normalize="none", seams="none")
    for wrong in (seamscope.Recipe(channel=7), seamscope.Recipe(connectivity=3)):
        with pytest.raises(SettingsError, match=r"no channel 7: prediction of .* has|is 3"):
            begin_labels(case.image, wrong, tmp_path / "o.zarr", case=case)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("area", [None, {"x": (0, 200)}])
def test_labels_are_resumed_with_the_tiles_that_were_chosen(area, tmp_path, monkeypatch) -> None:
    """Free memory, and so tiles that are "auto", differ from run to run."""
    np.save(tmp_path / "i.npy", blobs((200, 240)))
    recipe, real = seamscope.Recipe(channel=0), Ledger.mark
    stopping = []

    def mark(self: Ledger, *args: int) -> None:
        real(self, *args)
        if self.folder.name in stopping:
            raise InterruptedError

    def seams(name: str, memory: int):
        asked = {"memory": memory * 2**20, "seams": "none", "area": area}
        case = prepare(seamscope.open_image(tmp_path / "i.npy"), "demo:batchnorm", **asked)
        more = {"case": case, "area": area, "blocks": 100, "resume": True}
        with begin_labels(case.image, recipe, tmp_path / name, **more) as labelling:
            found = labelling.find()
            labelling.write(found)
        return found.record()["segmentation"]["seams"]

    monkeypatch.setattr(Ledger, "mark", mark)
    whole = seams("w.zarr", 8)
    for ledger, memory in ((".prediction.zarr.ledger", 8), (".o.zarr.ledger", 6)):
        stopping[:] = [ledger]
        with pytest.raises(InterruptedError):
            seams("o.zarr", memory)
    stopping.clear()
    assert seams("o.zarr", 20) == whole != seams("other.zarr", 6)
    np.testing.assert_array_equal(*(zarr.open(tmp_path / name)[:] for name in ("o.zarr", "w.zarr")))
