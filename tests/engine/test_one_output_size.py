"""Networks whose output has one size whatever the input's: tiles of that size, and said so."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import seamscope
from seamscope.errors import SettingsError
from seamscope.models.model import as_model


class Resized(nn.Module):
    """Two convolutions, and between them, before or after them, pixels are brought to one size."""

    def __init__(self, size, axes=2, how="pool", where=1):
        super().__init__()
        torch.manual_seed(0)
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
        self.a = convolution(1, 4, 3, padding=1)
        self.b = convolution(4, 2, 5, padding=2)
        self.size, self.how, self.where = size, how, where

    def forward(self, x):
        steps = [self.a, torch.relu, self.b]
        steps.insert(2 * self.where - (self.where > 1), self.resized)
        for step in steps:
            x = step(x)
        return x

    def resized(self, x):
        size = [n or m for n, m in zip(self.size, x.shape[2:], strict=True)]
        if self.how == "pool":
            pool = (functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d)
            return pool[x.ndim - 4](x, size)
        return functional.interpolate(x, size, mode=self.how)

    def plain(self, x):
        return self.b(torch.relu(self.a(x)))


CASES = {
    "larger": Resized((96, 96)),
    "as the first that is tried": Resized((64, 64), how="nearest", where=2),
    "smaller": Resized((40, 40), how="bilinear", where=0),
    "another size along each axis": Resized((48, 80), how="nearest-exact"),
    "along one axis": Resized((96, None), how="bilinear", where=2),
    "3D": Resized((24, 24, 24), axes=3),
}


@pytest.mark.parametrize("name", CASES)
def test_tiles_are_as_large_as_the_output(name) -> None:
    network = CASES[name].eval()
    model = as_model(network)
    assert tuple(axis.fixed for axis in model.facts.lattice) == network.size
    assert set(model.facts.scale) == {Fraction(1)}
    assert set(model.facts.period) == {1}
    assert model.reach.halo == ((3, 3),) * len(network.size)
    assert sum("does not grow" in note for note in model.facts.notes) == len(
        {*network.size} - {None}
    )
    # tiles of that size are not resized: together they are the convolutions of the whole image
    sides = [2 * (size or 80) - 4 for size in network.size]  # two tiles with a halo of 2
    image = np.random.default_rng(0).random(sides, np.float32)
    expected = network.plain(torch.from_numpy(image)[None, None]).detach()[0].numpy()
    as_it_is = {"normalize": "none", "result": "probabilities"}
    found = seamscope.predict(image, model, **as_it_is)
    assert np.abs(found - expected).max() < 1e-5 * expected.std()
    less = seamscope.predict(image, model, halo=2, overlap=4, **as_it_is)
    assert np.abs(less - expected).max() > 1e-2 * expected.std()


def test_another_size_is_used_where_it_is_stated() -> None:
    model = as_model(Resized((96, 96)).eval()).stated(input_size=48)
    assert model.facts.scale == (2, 2)
    assert [axis.fixed for axis in model.facts.lattice] == [48, 48]
    assert any("always has 96 px" in note and "48 px" in note for note in model.facts.notes)


def test_a_single_pixel_is_no_size_of_tiles() -> None:
    model = as_model(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1)).eval())
    assert {axis.scale for axis in model.facts.lattice} == {Fraction(1, 64)}
    assert any("always has 1 px" in note for note in model.facts.notes)


def test_there_is_no_untiled_prediction() -> None:
    with pytest.raises(SettingsError, match="96 x 96 only, so that there is no untiled"):
        seamscope.certify(np.zeros((200, 200), np.float32), CASES["larger"])
