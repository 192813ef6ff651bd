"""Networks built at random from the usual parts, and the facts measured of them.

The judge knows nothing of Seamscope but the facts. In float64, with positive weights so that
nothing cancels, a tile on the reported grid without its reported halo equals the untiled
prediction; a halo one pixel short does not, and a shift by less than the period is not followed.
"""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn
from torch.nn import functional as F  # noqa: N812

from extras import extra
from families import family
from seamscope.models.formats import load_model
from seamscope.models.formats.export import export
from seamscope.models.model import Model, as_model


class Level(nn.Module):
    """Down by a factor, something within, up to the size of what it skipped."""

    def __init__(self, factor, inner, pooled):
        super().__init__()
        self.down = nn.AvgPool2d(factor) if pooled else nn.Conv2d(2, 2, factor, factor)
        self.inner, self.mix = inner, nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        y = F.interpolate(self.inner(self.down(x)), size=x.shape[2:])
        return self.mix(torch.cat([x, y], 1))


class Cut(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.part = slice(before, -after if after else None)

    def forward(self, x):
        return x[:, :, self.part, self.part]


CONVOLUTIONS = st.builds(
    lambda kernel, dilation: nn.Conv2d(
        2, 2, kernel, padding=dilation * (kernel // 2), dilation=dilation
    ),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 2, 5]),
)
INNER = st.recursive(
    CONVOLUTIONS,
    lambda inner: st.builds(Level, st.sampled_from([2, 3, 4]), inner, st.booleans()),
    max_leaves=2,
)
CUTS = st.builds(Cut, st.integers(0, 5), st.integers(0, 5))
NETWORKS = st.builds(
    lambda first, inner, cut: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), first, inner, cut),
    CONVOLUTIONS,
    INNER,
    CUTS,
)


def _positive(network: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        with torch.no_grad():
            parameter.copy_(0.5 + torch.rand(parameter.shape, generator=random))
            parameter /= parameter.abs().sum()
    return network.eval()


class Judge:
    """Tiles and the whole along x, in float64."""

    def __init__(self, network: nn.Module, model: Model) -> None:
        self.axis = model.facts.lattice[-1]
        assert model.reach.halo is not None
        self.halo = model.reach.halo[-1]
        # where it is pooled less, another axis may have a shorter period: all sizes fit both
        self.high = model.facts.lattice[0].size_at_least(40 + sum(self.axis.crop))
        self.network = network.double()
        pitch = self.axis.pitch
        self.start = math.ceil((self.halo[0] + 16) / pitch) * pitch
        self.size = self.axis.size_at_least(sum(self.halo) + sum(self.axis.crop) + 3 * pitch + 8)
        end = self.start + self.size + self.halo[1] + sum(self.axis.crop) + 16 + pitch
        whole = self.axis.size_at_least(end)
        random = torch.Generator().manual_seed(1)
        self.x = torch.rand(1, 1, self.high, whole, generator=random, dtype=torch.float64)
        with torch.no_grad():
            self.whole = self.network(self.x)

    def apart(self, off: int = 0, short: tuple[int, int] = (0, 0)) -> float:
        """Max difference of the tile's trusted part and the whole."""
        begin = self.start + off
        with torch.no_grad():
            tile = self.network(self.x[..., begin : begin + self.size])
        low = self.halo[0] - short[0]
        high = tile.shape[-1] - (self.halo[1] - short[1])
        there = self.whole[..., begin + low : begin + high]
        return float((tile[..., low:high] - there).abs().max())


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(NETWORKS)
def test_what_is_measured_of_random_networks_is_true(network) -> None:
    model = as_model(_positive(network))
    judge = Judge(network, model)
    assert judge.apart() < 1e-12
    for side in (0, 1):
        if judge.halo[side] > 0:
            assert judge.apart(short=(1 - side, side)) > 1e-12
    for prime in (2, 3):
        if judge.axis.period % prime == 0:
            assert judge.apart(off=judge.axis.period // prime) > 1e-12
    assert model.reach.agrees(model.facts)


EVERYWHERE = (
    ("stride 3", ".torchscript"),
    ("stride 3", ".pt2"),
    ("overlapping patches 2, 2", ".torchscript"),
    ("overlapping patches 2, 2", ".onnx"),
    ("cut 3 before, 10 after", ".pt2"),
    ("cut 3 before, 10 after", ".onnx"),
    ("windows of 5, patch 2", ".torchscript"),  # of one image at a time
    ("windows of 5, patch 2", ".pt2"),
    ("windows of 5, patch 2", ".onnx"),
    ("anisotropic, 3D", ".torchscript"),
    ("anisotropic, 3D", ".pt2"),
    ("anisotropic, 3D", ".onnx"),
)


@pytest.mark.parametrize(("name", "suffix"), EVERYWHERE)
def test_facts_are_the_same_in_every_format(name, suffix, tmp_path) -> None:
    if suffix == ".onnx":
        for library in ("onnx", "onnxscript", "onnxruntime", "onnx2torch"):
            extra(library)
    own = as_model(family(name))
    path = tmp_path / f"network{suffix}"
    export(own, path)
    loaded = load_model(path)
    keys = ("period", "crop", "scale")
    shown = [[getattr(axis, key) for key in keys] for axis in own.facts.lattice]
    assert [[getattr(axis, key) for key in keys] for axis in loaded.facts.lattice] == shown
    assert loaded.reach.halo == own.reach.halo
    size = [axis.size_at_least(90 if own.facts.spatial_axes == 2 else 24)
            for axis in own.facts.lattice]  # fmt: skip
    x = np.random.default_rng(0).random((1, 1, *size), np.float32)
    assert np.abs(own.runner()(x) - loaded.runner()(x)).max() < 1e-4
