"""The networks that are timed: the U-Nets of the tutorials, with random weights.

Needs nothing but torch, so that every contender can build the very same network.
"""

from __future__ import annotations

import torch
from torch import nn

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
UP = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
NORM = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
    "none": {2: lambda channels: nn.Identity(), 3: lambda channels: nn.Identity()},
    "group": {2: lambda channels: nn.GroupNorm(8, channels)},
}
NORM["group"][3] = NORM["group"][2]
FEATURES = {2: (16, 32, 64, 128), 3: (16, 32, 64)}


class UNet(nn.Module):
    """Three poolings in 2-D, two in 3-D; (conv, norm, ReLU) twice; four classes, softmax."""

    def __init__(self, axes: int, norm: str = "batch") -> None:
        super().__init__()

        def block(before: int, after: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for channels in (before, after):
                convolution = CONV[axes](channels, after, 3, padding=1)
                layers += [convolution, NORM[norm][axes](after), nn.ReLU(inplace=True)]
            return nn.Sequential(*layers)

        features = FEATURES[axes]
        pairs = list(zip(features[:0:-1], features[-2::-1], strict=True))
        self.out_channels = 4  # torch_em asks for it
        self.down = nn.ModuleList(map(block, (1, *features[:-1]), features))
        self.pool = POOL[axes](2)
        self.enlarge = nn.ModuleList(UP[axes](deep, flat, 2, stride=2) for deep, flat in pairs)
        self.up = nn.ModuleList(block(2 * flat, flat) for _, flat in pairs)
        self.head = CONV[axes](features[0], 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, 1, *spatial)`` to ``(N, 4, *spatial)``."""
        skips = []
        for index, block in enumerate(self.down):
            x = block(self.pool(x) if index else x)
            skips.append(x)
        skips.pop()
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            x = block(torch.cat([skips.pop(), enlarge(x)], dim=1))
        return torch.softmax(self.head(x), dim=1)


class Free(nn.Module):
    """A network that costs nothing, to see what all the rest costs."""

    out_channels = 1

    def __init__(self, axes: int) -> None:
        super().__init__()
        # some look here for the device, or for the number of axes
        self.weight = nn.Parameter(torch.ones(1, 1, *[1] * axes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input."""
        return x


def network(kind: str, axes: int) -> nn.Module:
    """Build ``"free"`` or a U-Net with a norm; the same weights each time, in evaluation."""
    torch.manual_seed(0)
    if kind == "free":
        return Free(axes).eval()
    unet = UNet(axes, kind)
    with torch.no_grad():
        unet.train()
        for _ in range(20):  # statistics of the batch norms as after training
            unet(torch.randn(2, 1, *[32] * axes))
    return unet.eval()
