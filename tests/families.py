"""Small networks of the kinds that people tile: siblings of what public reports complain about.

`FAMILIES` maps a name to a factory; `case_networks` gives those that others wrote, where they are.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from places import ROOT

C2, C3 = nn.Conv2d, nn.Conv3d


def seq(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts)


def conv(inputs: int, outputs: int, kernel: int = 3, **more) -> nn.Module:
    return C2(inputs, outputs, kernel, padding=kernel // 2, **more)


class Apply(nn.Module):
    """A function after a network."""

    def __init__(self, inner, function):
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, x):
        return self.function(self.inner(x))


class Pyramid(nn.Module):
    """Poolings by any factors, resized to the skips; so it takes any size."""

    def __init__(self, factors, ndim=2, width=4):
        super().__init__()
        layer = (C2, C3)[ndim - 2]
        self.factors, self.pool = factors, (F.max_pool2d, F.max_pool3d)[ndim - 2]
        count = len(factors)
        self.down = nn.ModuleList(
            layer(1 if k == 0 else width, width, 3, padding=1) for k in range(count)
        )
        self.up = nn.ModuleList(layer(2 * width, width, 3, padding=1) for _ in range(count))
        self.head = layer(width, 2, 1)
        for module in self.modules():  # deep paths as strong as shallow ones
            if isinstance(module, layer):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        skips = []
        for layer, factor in zip(self.down, self.factors, strict=True):
            x = F.relu(layer(x))
            skips.append(x)
            x = self.pool(x, factor)
        for layer, skip in zip(self.up, reversed(skips), strict=True):
            x = F.relu(layer(torch.cat([skip, F.interpolate(x, size=skip.shape[2:])], 1)))
        return self.head(x)


class Overlapping(nn.Module):
    """Overlapping patches, as SegFormer's; features of all stages at the size of the first."""

    def __init__(self, strides):
        super().__init__()
        self.stages = nn.ModuleList(
            C2(1 if k == 0 else 4, 4, 2 * s - 1, s, s - 1) for k, s in enumerate(strides)
        )
        self.head = C2(4 * len(strides), 2, 1)

    def forward(self, x):
        found = []
        for stage in self.stages:
            x = F.gelu(stage(x))
            found.append(x)
        size = found[0].shape[2:]
        return self.head(torch.cat([F.interpolate(y, size, mode="bilinear") for y in found], 1))


class Windows(nn.Module):
    """Attention within windows, unshifted and shifted, masked where the ends meet."""

    def __init__(self, window, patch, width=4):
        super().__init__()
        self.window, self.shifts = window, (0, window // 2)
        self.embed, self.patch = C2(1, width, patch, patch), patch
        self.mix = nn.ModuleList(nn.Linear(width, 3 * width) for _ in self.shifts)
        self.head = C2(width, 2, 1)

    def attend(self, x, mix, shift):
        n, c, h, w = x.shape
        size = self.window
        down, right = -h % size, -w % size
        rows, columns = (h + down) // size, (w + right) // size

        def parted(y):
            y = y.reshape(-1, y.shape[1], rows, size, columns, size)
            return y.permute(0, 2, 4, 3, 5, 1).reshape(-1, size * size, y.shape[1])

        y = F.pad(x, (0, right, 0, down)).roll((-shift, -shift), (2, 3))
        q, k, v = mix(parted(y)).chunk(3, -1)
        scores = 3 * q @ k.transpose(-1, -2)
        if shift:
            places = torch.zeros(1, 1, h + down, w + right)
            for number, part in enumerate((slice(-size, -shift), slice(-shift, None))):
                places[:, :, part] += 10 * (number + 1)
                places[..., part] += number + 1
            label = parted(places)[..., 0]
            scores = scores.masked_fill(label[:, :, None] != label[:, None], -100.0)
        y = (scores.softmax(-1) @ v).reshape(n, rows, columns, size, size, c)
        y = y.permute(0, 5, 1, 3, 2, 4).reshape(n, c, h + down, w + right)
        return x + y.roll((shift, shift), (2, 3))[:, :, :h, :w]

    def forward(self, x):
        y = self.embed(x)
        for mix, shift in zip(self.mix, self.shifts, strict=True):
            y = self.attend(y, mix, shift)
        return self.head(F.interpolate(y, scale_factor=self.patch))


class Transformer(nn.Module):
    """Patches, and attention between all; with learned positions it takes one size."""

    def __init__(self, patch, patches=None, channels=1):
        super().__init__()
        self.embed, self.up = C2(channels, 8, patch, patch), nn.ConvTranspose2d(8, 2, patch, patch)
        self.place = nn.Parameter(torch.randn(1, 8, *patches)) if patches else None
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)

    def forward(self, x):
        grid = self.embed(x)
        grid = grid if self.place is None else grid + self.place
        tokens = self.block(grid.flatten(2).transpose(1, 2))
        return self.up(tokens.transpose(1, 2).reshape(grid.shape))


class Squeezing(nn.Module):
    """Squeeze-and-excite."""

    def __init__(self, width):
        super().__init__()
        self.gate = seq(nn.AdaptiveAvgPool2d(1), C2(width, width, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.gate(x)


class Responding(nn.Module):
    """Global response normalization, as ConvNeXt V2's."""

    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(1, width, 1, 1))

    def forward(self, x):
        response = x.norm(dim=(2, 3), keepdim=True)
        return x + self.gamma * x * response / (response.mean(1, keepdim=True) + 1e-6)


class Scanning(nn.Module):
    """Recurrent along x."""

    def __init__(self):
        super().__init__()
        self.embed, self.scan = conv(1, 4), nn.GRU(4, 4, batch_first=True)
        self.head = C2(4, 2, 1)

    def forward(self, x):
        y = self.embed(x)
        n, c, h, w = y.shape
        y, _ = self.scan(y.permute(0, 2, 3, 1).reshape(n * h, w, c))
        return self.head(y.reshape(n, h, w, c).permute(0, 3, 1, 2))


class Coordinates(nn.Module):
    """Knows where in the tile a pixel lies."""

    def __init__(self):
        super().__init__()
        self.inner = seq(conv(2, 4), nn.ReLU(), C2(4, 2, 1))

    def forward(self, x):
        place = torch.linspace(-1, 1, x.shape[3]).expand(len(x), 1, *x.shape[2:])
        return self.inner(torch.cat([x, place], 1))


class Given(nn.Module):
    """A function of the input and of networks."""

    def __init__(self, function, *inner):
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(inner)

    def forward(self, x):
        return self.function(x, *self.inner)


class Tiling(nn.Module):
    """Predicts windows of the tile by itself, and takes the mean where they overlap."""

    def __init__(self, inner, window, step):
        super().__init__()
        self.inner, self.window, self.step = inner, window, step

    def forward(self, x):
        starts = [[*range(0, n - self.window, self.step), n - self.window] for n in x.shape[2:]]
        total, count = x, torch.zeros(x.shape[2:], dtype=x.dtype)
        for corner in itertools.product(*starts):
            part = tuple(slice(a, a + self.window) for a in corner)
            y = self.inner(x[:, :, *part])
            total = y.new_zeros(*y.shape[:2], *x.shape[2:]) if not count.any() else total
            total[:, :, *part] += y
            count[part] += 1
        return total / count


class PyramidPooling(nn.Module):
    """As PSPNet's."""

    def __init__(self, bins, ndim=2):
        super().__init__()
        layer, pool = (C2, C3)[ndim - 2], (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[ndim - 2]
        self.first, self.head = layer(1, 4, 3, padding=1), layer(4 + 4 * len(bins), 2, 3, padding=1)
        self.pools = nn.ModuleList(seq(pool(n), layer(4, 4, 1)) for n in bins)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.head(torch.cat([x, *(F.interpolate(p(x), x.shape[2:]) for p in self.pools)], 1))


def bright(x, net):
    return net(x / 255 if x.max() > 1 else x)


def warped(x, net):
    """Move each pixel by what a network says, at most 3 px."""
    sizes = x.shape[2:]
    places = torch.meshgrid(*(torch.arange(n, dtype=x.dtype) for n in sizes), indexing="ij")
    moved = zip(places, net(x).clamp(-3, 3).unbind(1), sizes, strict=True)
    grid = [(2 * (place + by) + 1) / n - 1 for place, by, n in moved]
    return F.grid_sample(x, torch.stack(grid[::-1], -1), align_corners=False)


def _to_range(x):
    low, high = x.amin((2, 3), True), x.amax((2, 3), True)
    return (x - low) / (high - low + 1e-6)


def _normalized_windows(x, size=8):
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // size, size, w // size, size).permute(0, 2, 4, 1, 3, 5)
    parts = F.instance_norm(parts.flatten(0, 2)).reshape(parts.shape)
    return parts.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def _small(outputs: int = 2) -> nn.Module:
    return seq(conv(1, 4), nn.ReLU(), C2(4, outputs, 1))


def _circular() -> nn.Module:
    return seq(conv(1, 4, 5, padding_mode="circular"), nn.ReLU(), C2(4, 2, 1))


class Moving(nn.Module):
    """Moves each pixel by what a network says, at most 3 px; float32 by its code."""

    def __init__(self):
        super().__init__()
        self.inner = _small()

    def forward(self, x):
        by = self.inner(x).clamp(-3, 3)
        rows = torch.arange(x.shape[2], dtype=torch.float32)[:, None] + by[:, 0]
        columns = torch.arange(x.shape[3], dtype=torch.float32) + by[:, 1]
        places = [(2 * columns + 1) / x.shape[3] - 1, (2 * rows + 1) / x.shape[2] - 1]
        return F.grid_sample(x, torch.stack(places, -1), align_corners=False)


class Picking(Moving):
    """Reads at whole places up to 6 px away."""

    def forward(self, x):
        by = 6 * torch.tanh(self.inner(x)[:, :1])
        places = torch.arange(x.shape[3], dtype=torch.float32) + by
        return x.gather(3, places.round().clamp(0, x.shape[3] - 1).long())


FAMILIES: Mapping[str, Callable[[], nn.Module]] = {
    "stride 3": lambda: seq(C2(1, 4, 5, 3, 2), nn.ReLU(), conv(4, 2)),
    "overlapping patches 2, 2": lambda: Overlapping((2, 2)),
    "poolings by 3 and 2": lambda: Pyramid((3, 2)),
    "poolings by 2, depth 5": lambda: Pyramid((2,) * 5),
    "anisotropic, 3D": lambda: Pyramid(((1, 2, 2), (2, 2, 2)), ndim=3),
    "windows of 5, patch 2": lambda: Windows(5, 2),
    "windows of 4": lambda: Windows(4, 1),
    "transformer": lambda: Transformer(4),
    "transformer of one size": lambda: Transformer(8, (6, 10)),
    "min-max of the tile": lambda: seq(Apply(nn.Identity(), _to_range), _small()),
    "squeeze-and-excite": lambda: seq(conv(1, 4), Squeezing(4), conv(4, 2)),
    "response normalization": lambda: seq(
        C2(1, 4, 2, 2), Responding(4), nn.Upsample(None, 2), conv(4, 2)
    ),
    "instance normalization": lambda: seq(conv(1, 4), nn.InstanceNorm2d(4), nn.ReLU(), conv(4, 2)),
    "instance normalization of windows": lambda: seq(
        conv(1, 4), Apply(nn.Identity(), _normalized_windows), conv(4, 2)
    ),
    "scanning": Scanning,
    "coordinates": Coordinates,
    "circular padding": _circular,
    "cut 3 before, 10 after": lambda: Apply(_small(), lambda y: y[:, :, 3:-10, 3:-10]),
    "pixel shuffle by 3": lambda: seq(conv(1, 4), conv(4, 9), nn.PixelShuffle(3)),
    "classes": lambda: Apply(_small(3), lambda y: y.argmax(1)),
    "mask": lambda: Apply(_small(1), lambda y: y > 0),
    "channels last": lambda: Apply(_small(3), lambda y: y.movedim(1, -1)),
    "dropout": lambda: Apply(_small(), lambda y: F.dropout(y, 0.3, training=True)),
    "decides by a maximum": lambda: Given(bright, _small()),
    "median": lambda: Given(lambda x, net: net(x - x.median()), _small()),
    "warping": lambda: Given(warped, _small()),
    "tiles itself": lambda: Tiling(_small(), 16, 8),
    "times its size": lambda: Given(lambda x, net: net(x) * x.shape[-1], _small()),
    "pyramid pooling": lambda: PyramidPooling((1, 2, 3)),
    "dilation 40": lambda: seq(C2(1, 4, 3, padding=40, dilation=40), nn.ReLU(), C2(4, 2, 1)),
}


def family(name: str) -> nn.Module:
    """Make a network of a family."""
    torch.manual_seed(0)
    return FAMILIES[name]().eval()


def case_networks() -> Path:
    """File of the networks that others wrote after public reports; it may be absent."""
    folder = os.environ.get("SEAMSCOPE_CASES", ROOT.parent / "shared" / "cases")
    return Path(folder) / "networks.py"


def case_factories() -> dict[str, Callable[[], nn.Module]]:
    """Return their factories by name; none where the file is absent."""
    file = case_networks()
    spec = importlib.util.spec_from_file_location("case_networks", file)
    if not file.is_file() or spec is None or spec.loader is None:
        return {}
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {
        name: made
        for name, made in vars(module).items()
        if getattr(made, "__qualname__", "").startswith("seeded.<locals>")
    }
