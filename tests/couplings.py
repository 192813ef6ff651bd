"""Networks for the tests in which pixels are coupled in every usual way, or only seem to be."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Excite(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 1), nn.Sigmoid()
        )

    def forward(self, x):
        x = self.a(x)
        return self.b(x * self.gate(x))


class Pyramid(nn.Module):
    """Pools to a fixed number of cells, so that what one pixel sees grows with the tile."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x):
        x = self.a(x)
        cells = F.interpolate(F.adaptive_avg_pool2d(x, 4), size=x.shape[2:], mode="bilinear")
        return self.b(torch.cat([x, cells], 1))


class Corners(nn.Module):
    """Upsampling with aligned corners: local, but where it looks depends on the tile's size."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        x = F.max_pool2d(self.a(x), 2)
        return self.b(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True))


class ChannelNorm(nn.Module):
    """LayerNorm over channels at each pixel: looks global, is not."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(self.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SpatialNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x):
        x = self.a(x)
        return F.layer_norm(x, x.shape[1:])


def attend(tokens, mix):
    q, k, v = mix(tokens).chunk(3, -1)
    return torch.softmax(q @ k.transpose(-1, -2) / 3, -1) @ v


class Unetr(nn.Module):
    """A UNETR in small: patches become tokens, two transformer blocks, and a convolutional skip."""

    def __init__(self, width=8, patch=8):
        super().__init__()
        self.embed = nn.Conv2d(1, width, patch, patch)
        self.mix = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.up = nn.ConvTranspose2d(width, 4, patch, patch)
        self.skip = nn.Conv2d(1, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x):
        grid = self.embed(x)
        tokens = grid.flatten(2).transpose(1, 2)
        for mix, norm in zip(self.mix, self.norm, strict=True):
            tokens = tokens + attend(norm(tokens), mix)
        deep = self.up(tokens.transpose(1, 2).reshape(grid.shape))
        return self.last(torch.cat([deep, self.skip(x)], 1))


class Windows8(nn.Module):
    """Attention within windows of 8 x 8 pixels, and a convolution."""

    def __init__(self):
        super().__init__()
        self.a, self.mix, self.last = (
            nn.Conv2d(1, 6, 1),
            nn.Linear(6, 18),
            nn.Conv2d(6, 2, 3, padding=1),
        )

    def forward(self, x):
        x = self.a(x)
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 3, 5, 1)
        mixed = attend(parts.reshape(-1, 64, c), self.mix).reshape(parts.shape)
        return self.last(mixed.permute(0, 5, 1, 3, 2, 4).reshape(x.shape))
