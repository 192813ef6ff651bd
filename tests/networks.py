"""Networks for the tests: small ones of every kind, of known reach and period."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


def conv(ndim: int, *args, **kwargs) -> nn.Module:
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1](*args, **kwargs)


class UNet(nn.Module):
    """A textbook U-Net: conv-norm-ReLU twice per level, max-pool 2, skips."""

    def __init__(
        self, ndim=2, levels=2, features=4, norm="batch", up="transposed", classes=2, channels=1
    ):
        super().__init__()
        self.mode = {2: "bilinear", 3: "trilinear"}[ndim]
        self.up_kind = up
        self.pool = (nn.MaxPool2d, nn.MaxPool3d)[ndim - 2](2)
        make_norm = {
            "batch": (nn.BatchNorm2d, nn.BatchNorm3d)[ndim - 2],
            "instance": (nn.InstanceNorm2d, nn.InstanceNorm3d)[ndim - 2],
            "group": lambda c: nn.GroupNorm(2, c),
            None: lambda c: nn.Identity(),
        }[norm]

        def block(i, o):
            return nn.Sequential(
                conv(ndim, i, o, 3, padding=1),
                make_norm(o),
                nn.ReLU(),
                conv(ndim, o, o, 3, padding=1),
                make_norm(o),
                nn.ReLU(),
            )

        width = [features * 2**k for k in range(levels + 1)]
        self.down = nn.ModuleList(
            block(i, o) for i, o in zip([channels, *width[:-2]], width[:-1], strict=True)
        )
        self.bottom = block(width[-2], width[-1])
        transposed = (nn.ConvTranspose2d, nn.ConvTranspose3d)[ndim - 2]
        if up == "transposed":
            self.up = nn.ModuleList(
                transposed(width[k + 1], width[k], 2, 2) for k in reversed(range(levels))
            )
        else:
            self.up = nn.ModuleList(
                conv(ndim, width[k + 1], width[k], 1) for k in reversed(range(levels))
            )
        self.merge = nn.ModuleList(block(2 * width[k], width[k]) for k in reversed(range(levels)))
        self.last = conv(ndim, width[0], classes, 1)

    def forward(self, x):
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottom(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            if self.up_kind != "transposed":
                x = F.interpolate(x, scale_factor=2, mode=self.mode, align_corners=False)
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.last(x)


class ValidUNet(nn.Module):
    """Ronneberger et al. 2015 in small: no padding, skips cropped to the centre."""

    def __init__(self, levels=2, features=4):
        super().__init__()
        width = [features * 2**k for k in range(levels + 1)]

        def block(i, o):
            return nn.Sequential(nn.Conv2d(i, o, 3), nn.ReLU(), nn.Conv2d(o, o, 3), nn.ReLU())

        self.down = nn.ModuleList(
            block(i, o) for i, o in zip([1, *width[:-2]], width[:-1], strict=True)
        )
        self.bottom = block(width[-2], width[-1])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(width[k + 1], width[k], 2, 2) for k in reversed(range(levels))
        )
        self.merge = nn.ModuleList(block(2 * width[k], width[k]) for k in reversed(range(levels)))
        self.last = nn.Conv2d(features, 2, 1)

    def forward(self, x):
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            if x.shape[-1] % 2 or x.shape[-2] % 2:
                raise ValueError(f"odd size {tuple(x.shape)} before pooling")
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            skip = skips.pop()
            top = (skip.shape[-2] - x.shape[-2]) // 2
            left = (skip.shape[-1] - x.shape[-1]) // 2
            x = merge(
                torch.cat([skip[..., top : top + x.shape[-2], left : left + x.shape[-1]], x], 1)
            )
        return self.last(x)


def grids(model):
    """Period, step, crop and scale, without the smallest and the largest size.

    Code of torch refuses single pixels by a check that graphs do not have, and exported programs
    keep to sizes like those of their example.
    """
    return [replace(axis, smallest=1, largest=None) for axis in model.facts.lattice]
