"""Tiled equals untiled for random shapes, tiles, halos, overlaps, blends, areas, scales and frames.

The network sums a box of pixels, to a different extent on each side, and the image has small whole
numbers: the sums are exact, so that one pixel too few shows wherever it is.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from seamscope import predict
from seamscope.stitching import BLENDS


class Box(nn.Module):
    """Sums of boxes; then every second pixel, or every pixel twice."""

    def __init__(self, sides: list[tuple[int, int]], scale: float) -> None:
        super().__init__()
        self.sides, self.scale = sides, scale
        size = [1 + a + b for a, b in sides]
        self.register_buffer("kernel", torch.ones(1, 1, *size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convolve = functional.conv2d if len(self.sides) == 2 else functional.conv3d
        around = [n for side in reversed(self.sides) for n in side]
        y = convolve(functional.pad(x, around), self.kernel)
        every = (slice(None), slice(None), *(slice(None, None, 2) for _ in self.sides))
        if self.scale == 0.5:
            return y[every]
        return y if self.scale == 1 else functional.interpolate(y, scale_factor=2.0, mode="nearest")


def case(seed: int) -> tuple[np.ndarray, Box, dict[str, Any], tuple[slice, ...]]:
    """An image with one frame axis, a network, settings, and the area of each frame."""
    rng = random.Random(seed)
    ndim = rng.choice([2, 2, 3])
    scale = rng.choice([0.5, 1, 1, 2])
    shape = [2 * rng.randint(1, 50 if ndim == 2 else 12) for _ in range(ndim)]
    if scale != 0.5:
        shape = [max(1, n - rng.randint(0, 1)) for n in shape]
    sides = [(rng.randint(0, 4), rng.randint(0, 4)) for _ in range(ndim)]
    halo = [(a + rng.randint(0, 3), b + rng.randint(0, 3)) for a, b in sides]
    blend = rng.choice(BLENDS)
    overlap = rng.choice([0, 2, 6, 10]) if blend != "crop" else rng.choice([None, 0, 4])
    least = [a + b + 2 * (overlap or 0) + 4 for a, b in halo]
    tile = [2 * -(-(n + rng.randint(0, 20)) // 2) for n in least]
    asked: dict[str, Any] = {
        "tile": tuple(tile),
        "halo": tuple(halo),
        "overlap": overlap,
        "blend": blend,
        "batch": rng.randint(1, 3),
        "seams": "none",
        "normalize": "none",
        "accelerate": rng.random() < 0.3,
    }
    area = []
    for n in shape:
        first, last = sorted(rng.sample(range(n + 1), 2))
        area.append(slice(first, last) if rng.random() < 0.5 else slice(0, n))
    pixels = np.random.default_rng(seed).integers(-8, 8, (2, *shape)).astype(np.float32)
    return pixels, Box(sides, scale).eval(), asked, tuple(area)


@pytest.mark.parametrize("seed", range(60))
def test_tiled_equals_untiled(seed: int) -> None:
    image, network, asked, area = case(seed)
    letters = "zyx"[-(image.ndim - 1) :]
    with torch.inference_mode():
        whole = network(torch.from_numpy(image)[:, None])[:, 0].numpy()
    scale = network.scale
    if scale == 1:
        asked["area"] = dict(zip(letters, ((a.start, a.stop) for a in area), strict=True))
        whole = whole[:, *area]
    got = predict(image, network, axes=f"t{letters}", **asked)
    assert got.shape == whole.shape
    if asked["blend"] == "crop":
        np.testing.assert_array_equal(got, whole)
    else:  # a weighted mean of equal numbers, to the rounding of float32
        np.testing.assert_allclose(got, whole, rtol=1e-6, atol=1e-5)
