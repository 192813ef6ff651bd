"""A small U-Net for two and three dimensions, the architecture of the demo models.

Knows layers and their order. Does not know weights, images or how it was trained.

The two demo models of a pair differ in one thing only, the normalization layer: BatchNorm with
fixed statistics reaches as far as its convolutions do, InstanceNorm as far as the tile.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Normalization = Literal["batch", "instance", "group"]

_LAYERS: dict[int, dict[str, type[nn.Module]]] = {
    2: {
        "conv": nn.Conv2d,
        "up": nn.ConvTranspose2d,
        "pool": nn.MaxPool2d,
        "batch": nn.BatchNorm2d,
        "instance": nn.InstanceNorm2d,
    },
    3: {
        "conv": nn.Conv3d,
        "up": nn.ConvTranspose3d,
        "pool": nn.MaxPool3d,
        "batch": nn.BatchNorm3d,
        "instance": nn.InstanceNorm3d,
    },
}


class UNet(nn.Module):
    """U-Net with same-padded 3-wide convolutions, max-pooling and transposed up-convolution.

    ::

        block ─────────────────────────────► block ─► 1x1 ─► softmax
          └─ pool ─► block ──────► block ─ up ─┘
                       └─ pool ... up ─┘            block = 2 x (conv 3, norm, ReLU)

    Fully convolutional, without control flow that depends on data: it can be scripted, traced and
    exported. Each of the ``len(features) - 1`` poolings doubles the period; three of them in 2D
    give period 8 and a reach of 46 pixels, two give period 4 and a reach of 22.

    Parameters
    ----------
    spatial_axes
        2 or 3.
    in_channels, out_channels
        Channels of the image, and classes.
    features
        Channels on each level, finest first.
    normalization
        ``"batch"``, ``"instance"`` (with scale and shift, without running statistics), ``"group"``
        (four channels a group) or None for none at all.
    """

    def __init__(
        self,
        spatial_axes: Literal[2, 3],
        in_channels: int = 1,
        out_channels: int = 4,
        features: tuple[int, ...] = (16, 32, 64, 96),
        normalization: Normalization | None = "batch",
    ) -> None:
        super().__init__()
        layers = _LAYERS[spatial_axes]

        def block(into: int, out: int) -> nn.Sequential:
            return nn.Sequential(
                layers["conv"](into, out, 3, padding=1, bias=normalization is None),
                _norm(layers, normalization, out),
                nn.ReLU(),
                layers["conv"](out, out, 3, padding=1, bias=normalization is None),
                _norm(layers, normalization, out),
                nn.ReLU(),
            )

        coarser = tuple(pairwise(features))
        self.first = block(in_channels, features[0])
        self.pool = layers["pool"](2)
        self.down = nn.ModuleList(block(fine, coarse) for fine, coarse in coarser)
        self.up = nn.ModuleList(layers["up"](c, f, 2, stride=2) for f, c in reversed(coarser))
        self.merge = nn.ModuleList(block(2 * f, f) for f, _ in reversed(coarser))
        self.last = layers["conv"](features[0], out_channels, 1)
        self.softmax = nn.Softmax(dim=1)

    def logits(self, image: Tensor) -> Tensor:
        """Everything but the softmax, `(N, C, *spatial)` to `(N, classes, *spatial)`."""
        x = self.first(image)
        skips = [x]
        for down in self.down:
            x = down(self.pool(x))
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge):  # noqa: B905 - TorchScript knows no `strict`
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        result: Tensor = self.last(x)
        return result

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities that sum to 1 over channels, of the image's own spatial size."""
        probabilities: Tensor = self.softmax(self.logits(image))
        return probabilities


def _norm(
    layers: dict[str, type[nn.Module]], kind: Normalization | None, channels: int
) -> nn.Module:
    if kind is None:
        return nn.Identity()
    if kind == "group":
        return nn.GroupNorm(max(1, channels // 4), channels)
    return layers[kind](channels, affine=True)
