"""What is derived of operations, against finite differences and arithmetic by hand.

The reference runs the network in float64: one pixel of the input is changed, and the outputs that
change are those that depend on it. Weights are positive and activations the identity, so that
nothing cancels.
"""

from __future__ import annotations

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, assume, given, settings
from torch import nn

from seamscope.models import derived as derived_package
from seamscope.models.derived import DerivedAxis, derive, positions, repeats
from seamscope.models.derived.positions import Seen
from seamscope.recorded_graph import Replay, Unrecordable, record

# -- parts, along one axis


class Windows(nn.Module):
    """Mix the pixels of each window, windows shifted by a roll."""

    def __init__(self, size: int, shift: int = 0, channels: int = 2) -> None:
        super().__init__()
        self.size, self.shift = size, shift
        self.mix = nn.Linear(size, size)

    def forward(self, x):
        n, c, length = x.shape
        y = torch.roll(x, -self.shift, 2) if self.shift else x
        y = self.mix(y.reshape(n, c, length // self.size, self.size)).reshape(n, c, length)
        return torch.roll(y, self.shift, 2) if self.shift else y


class PaddedBlocks(nn.Module):
    """Convolve blocks one by one, each with padding of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.conv = size, nn.Conv1d(2, 2, 3, padding=1)

    def forward(self, x):
        n, c, length = x.shape
        y = x.reshape(n, c, length // self.size, self.size).movedim(2, 1)
        y = self.conv(y.reshape(-1, c, self.size)).reshape(n, -1, c, self.size)
        return y.movedim(1, 2).reshape(n, c, length)


class MaskedWindows(nn.Module):
    """Attention within windows; what a shift brings together from both ends is masked."""

    def __init__(self, size: int, shift: int, masked: str = "-100") -> None:
        super().__init__()
        self.size, self.shift, self.masked = size, shift, masked
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, x):
        n, c, length = x.shape
        w, s = self.size, self.shift
        region = torch.zeros(length)
        region[length - w : length - s], region[length - s :] = 1, 2
        region = region.view(-1, w)
        mask = region[:, :, None] != region[:, None, :]
        y = torch.roll(x, -s, 2).reshape(n, c, length // w, w).permute(0, 2, 3, 1)
        y = y.reshape(-1, w, c)
        mask = mask.repeat(n, 1, 1) if self.masked == "bool" else mask.repeat(n, 1, 1) * -100.0
        mask = mask if mask.dtype == torch.bool else mask.to(x.dtype)
        y = y + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        y = y.reshape(n, length // w, w, c).permute(0, 3, 1, 2).reshape(n, c, length)
        return torch.roll(y, s, 2)


class Cut(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x):
        return x[:, :, self.before : x.shape[2] - self.after]


class Shuffle(nn.Module):
    """Channels become pixels, each twice as fine."""

    def forward(self, x):
        n, c, length = x.shape
        y = torch.cat([x, x * 2], 1).view(n, 2, c, length)
        return y.permute(0, 2, 3, 1).reshape(n, c, length * 2)


class Unshuffle(nn.Module):
    """Pixels become channels, which a convolution then mixes."""

    def __init__(self, factor: int, mix: nn.Module | None = None) -> None:
        super().__init__()
        self.factor, self.mix = factor, mix or nn.Conv1d(2 * factor, 2, 1)

    def forward(self, x):
        n, c, length = x.shape
        y = x.view(n, c, length // self.factor, self.factor).permute(0, 1, 3, 2)
        return self.mix(y.reshape(n, c * self.factor, -1))


class Phases(nn.Module):
    """Every other pixel is a channel, in a layer that treats each channel by itself."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        phases = x.unflatten(2, (-1, 2)).movedim(3, 2).flatten(1, 2)
        return self.layer(phases).unflatten(1, (-1, 2)).movedim(2, 3).flatten(2)


class Up(nn.Module):
    def __init__(self, factor: int, mode: str) -> None:
        super().__init__()
        self.factor, self.mode = factor, mode

    def forward(self, x):
        return F.interpolate(x, scale_factor=self.factor, mode=self.mode)


class Smooth(nn.Module):
    """Resized with antialiasing."""

    def __init__(self, factor: float, mode: str) -> None:
        super().__init__()
        self.factor, self.mode = factor, mode

    def forward(self, x):
        size = [1, round(x.shape[2] * self.factor)]
        return F.interpolate(x[:, :, None], size, mode=self.mode, antialias=True)[:, :, 0]


class Columns(nn.Module):
    """Sums over windows, as code with `unfold` and `fold` does."""

    def __init__(self, kernel: int, step: int, fold: bool) -> None:
        super().__init__()
        self.kernel, self.fold = kernel, fold
        self.more = {"padding": (0, kernel // 2), "stride": (1, step)}

    def forward(self, x):
        columns = F.unfold(x[:, :, None], (1, self.kernel), **self.more)
        columns = columns.reshape(*x.shape[:2], self.kernel, -1).sum(2)
        if not self.fold:
            return columns
        columns = columns.repeat_interleave(self.kernel, 1)
        size = (1, x.shape[2])
        return F.fold(columns, size, (1, self.kernel), **self.more)[:, :, 0]


class UNet(nn.Module):
    """Poolings by any factor; upsampled to the size of each skip."""

    def __init__(self, factors, kernel: int = 3) -> None:
        super().__init__()
        self.factors = factors
        count = len(factors)
        same = {"kernel_size": kernel, "padding": kernel // 2}
        self.down = nn.ModuleList(nn.Conv1d(2, 2, **same) for _ in range(count))
        self.up = nn.ModuleList(nn.Conv1d(4, 2, **same) for _ in range(count))

    def forward(self, x):
        skips = []
        for conv, factor in zip(self.down, self.factors, strict=True):
            x = conv(x)
            skips.append(x)
            x = F.avg_pool1d(x, factor)
        for conv, skip in zip(self.up, reversed(skips), strict=True):
            x = F.interpolate(x, size=skip.shape[2:], mode="nearest")
            x = conv(torch.cat([skip, x], 1))
        return x


def _conv(kernel, stride=1, padding=0, dilation=1, mode="zeros"):
    return nn.Conv1d(2, 2, kernel, stride, padding, dilation, padding_mode=mode)


# -- the reference


def _positive(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return network.double().eval()


def _depends(network: nn.Module, size: int) -> np.ndarray:
    """Whether each output depends on each input, ``(out, in)``: one pixel at a time is changed."""
    random = torch.Generator().manual_seed(1)
    x = torch.rand(1, 2, size, generator=random, dtype=torch.float64)
    changed = x.repeat(size, 1, 1)
    changed[torch.arange(size), :, torch.arange(size)] += 0.5
    with torch.no_grad():
        apart = (network(changed) - network(x)).abs().amax(1)
    return (apart > 1e-13).T.numpy()


def _follows(network: nn.Module, size: int, shift: int, scale: Fraction, inside: int) -> bool:
    """Whether the prediction moves along with the input, `inside` outputs from the ends."""
    random = torch.Generator().manual_seed(2)
    x = torch.rand(1, 2, size, generator=random, dtype=torch.float64)
    moved = shift * scale
    if moved.denominator != 1:
        return False
    with torch.no_grad():
        here, there = network(x), network(torch.roll(x, -shift, 2))
    count = here.shape[2] - 2 * inside - int(moved)
    assert count > 0
    one = here[..., inside + int(moved) : inside + int(moved) + count]
    two = there[..., inside : inside + count]
    return bool(torch.allclose(one, two, rtol=1e-9, atol=1e-12))


def _check(network: nn.Module, size: int) -> None:
    """Compare all that is derived with finite differences, at every phase."""
    network = _positive(network)
    (axis,) = derive(network, torch.rand(1, 2, size, dtype=torch.float64)).axes
    assert axis.period is not None
    assert axis.scale is not None
    assert axis.fields is not None
    assert axis.crop is not None
    assert axis.size == size, "the reference needs an input in which all repeats"
    depends = _depends(network, size)
    out = depends.shape[0]
    with torch.no_grad():
        more = network(torch.rand(1, 2, size + axis.period * 3, dtype=torch.float64)).shape[2]
    assert more - out == axis.period * 3 * axis.scale
    phases = len(axis.fields)
    assert phases == axis.period * axis.scale
    before, after = axis.reach
    margin = int((max(before, after) + sum(axis.crop) + axis.period) * axis.scale) + 1
    seen = set()
    for o in range(margin, out - margin):
        reads = np.flatnonzero(depends[o])
        begin = int(o / axis.scale) + axis.crop[0]
        end = -int(-(o + 1) // axis.scale) - 1 + axis.crop[0]
        assert (begin - reads[0], reads[-1] - end) == axis.fields[o % phases], (o, axis)
        seen.add(o % phases)
    assert seen == set(range(phases))
    assert _follows(network, size, axis.period, axis.scale, margin)
    for shift in range(1, axis.period):
        if axis.period % shift == 0:
            assert not _follows(network, size, shift, axis.scale, margin)


_FAMILIES = {
    "same": (_conv(3, padding=1), 32),
    "even kernel": (nn.Sequential(nn.ConstantPad1d((1, 2), 0), _conv(4)), 32),
    "valid": (nn.Sequential(_conv(3), _conv(5)), 48),
    "cut at the end": (nn.Sequential(_conv(3, padding=1), Cut(0, 8)), 48),
    "cut unevenly": (nn.Sequential(_conv(3, padding=1), Cut(5, 2)), 48),
    "dilated": (nn.Sequential(_conv(3, padding=7, dilation=7), _conv(3, padding=1)), 64),
    "reflect": (_conv(5, padding=2, mode="reflect"), 32),
    "replicate": (_conv(5, padding=2, mode="replicate"), 32),
    "circular": (_conv(5, padding=2, mode="circular"), 32),
    "transposed": (nn.Sequential(_conv(2, 2), nn.ConvTranspose1d(2, 2, 2, 2)), 32),
    "transposed, overlapping": (
        nn.Sequential(_conv(3, 2, 1), nn.ConvTranspose1d(2, 2, 4, 2, 1)), 48
    ),
    "bilinear": (nn.Sequential(_conv(4, 4), Up(4, "linear")), 64),
    "linear by 3": (nn.Sequential(_conv(3, 3), Up(3, "linear")), 60),
    "smoothed, bilinear": (nn.Sequential(Smooth(1 / 3, "bilinear"), Smooth(3, "bilinear")), 60),
    "smoothed, bicubic": (nn.Sequential(Smooth(1 / 4, "bicubic"), Smooth(4, "bicubic")), 128),
    "bicubic by 3": (nn.Sequential(_conv(3, 3), Smooth(3, "bicubic")), 96),
    "columns": (Columns(5, 1, fold=False), 32),
    "columns by 2": (nn.Sequential(Columns(3, 2, fold=False), _conv(3, padding=1)), 32),
    "columns and back": (Columns(4, 2, fold=True), 32),
    "groups of unlike channels": (
        nn.Sequential(Unshuffle(3, nn.Conv1d(6, 6, 3, padding=1, groups=3)),
                      nn.Conv1d(6, 12, 2, groups=6), nn.Conv1d(12, 2, 1), Up(3, "nearest")), 72
    ),
    "shuffle": (nn.Sequential(_conv(3, padding=1), Shuffle(), _conv(3, padding=1)), 32),
    "unshuffle": (nn.Sequential(Unshuffle(3), _conv(3, padding=1)), 60),
    "poolings by 2": (UNet((2, 2, 2)), 256),
    "poolings by 3": (UNet((3, 3)), 216),
    "poolings by 2 and 3": (UNet((2, 3), 5), 192),
    "padded blocks of 8": (nn.Sequential(PaddedBlocks(8)), 96),
    "windows of 5": (nn.Sequential(Windows(5), Windows(5, 2)), 80),
    "windows of 7 at stride 2": (
        nn.Sequential(_conv(2, 2), Windows(7), Windows(7, 3), Up(2, "nearest")), 252
    ),
    "attention": (nn.Sequential(MaskedWindows(8, 4), _conv(3, padding=1)), 96),
    "attention, boolean mask": (
        nn.Sequential(MaskedWindows(8, 4, "bool"), _conv(3, padding=1)), 96
    ),
    **{f"stem {k} by {s}": (nn.Sequential(_conv(k, s, (k - 1) // 2), _conv(3, padding=1)), 32 * s)
       for s in (2, 3, 4, 5, 8, 16) for k in (s, s + 1, 2 * s - 1)},
}  # fmt: skip


@pytest.mark.parametrize("name", _FAMILIES)
def test_derived_is_what_finite_differences_find(name) -> None:
    _check(*_FAMILIES[name])


# -- by hand: each part adds (kernel - 1) times the stride before it


@pytest.mark.parametrize(
    ("network", "size", "period", "scale", "crop", "reach"),
    [
        (_conv(7, 4, 3), 64, 4, Fraction(1, 4), (0, 0), (3, 0)),
        (nn.Sequential(_conv(7, 4, 3), _conv(3, padding=1)), 64, 4, Fraction(1, 4), (0, 0), (7, 4)),
        (nn.Sequential(_conv(3, padding=1), Cut(0, 8)), 64, 1, Fraction(1), (0, 8), (1, 1)),
        (UNet((2,)), 64, 2, Fraction(1), (0, 0), (3, 3)),
        (Windows(7), 98, 7, Fraction(1), (0, 0), (6, 6)),
        (nn.Sequential(Windows(8), Windows(8, 4)), 96, 8, Fraction(1), (0, 0), (11, 11)),
        (Shuffle(), 32, 1, Fraction(2), (0, 0), (0, 0)),
        (Phases(nn.Conv1d(4, 4, 3, padding=1, groups=4)), 32, 2, Fraction(1), (0, 0), (2, 2)),
        (Phases(nn.BatchNorm1d(4)), 32, 2, Fraction(1), (0, 0), (0, 0)),
        (Phases(nn.GroupNorm(4, 4)), 32, 2, Fraction(1), (0, 0), (0, 0)),
        # in an input this short, and in one twice as long, every pixel depends on padding
        (_conv(3, padding=100, dilation=100), 64, 1, Fraction(1), (0, 0), (100, 100)),
        (
            nn.Sequential(_conv(3, padding=60, dilation=60), _conv(3, padding=60, dilation=60)),
            64, 1, Fraction(1), (0, 0), (120, 120),
        ),
    ],
)  # fmt: skip
def test_by_hand(network, size, period, scale, crop, reach) -> None:
    (axis,) = derive(network.eval(), torch.rand(1, 2, size)).axes
    assert (axis.period, axis.scale, axis.crop, axis.reach) == (period, scale, crop, reach)


def test_axes_are_read_each_by_itself() -> None:
    network = nn.Sequential(
        nn.Conv3d(1, 2, (1, 3, 5), padding=(0, 1, 2)), nn.AvgPool3d((1, 3, 5)),
        nn.Upsample(scale_factor=(1, 3, 5)),
    )  # fmt: skip
    axes = derive(network, torch.rand(1, 1, 8, 36, 60)).axes
    assert [axis.period for axis in axes] == [1, 3, 5]
    assert [axis.reach for axis in axes] == [(0, 0), (3, 3), (6, 6)]


class Same(nn.Module):
    """Pads at the end before strided convolutions, as TensorFlow does."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 3, 2), nn.Conv2d(2, 2, 3, 2)

    def forward(self, x):
        return self.b(F.pad(self.a(F.pad(x, (0, 1, 0, 1))), (0, 1, 0, 1)))


def test_padding_of_one_axis_is_no_padding_of_another() -> None:
    for axis in derive(Same().eval(), torch.rand(1, 1, 64, 64)).axes:
        assert axis.inside
        assert axis.period == 4
        assert axis.reach == (0, 3)
        assert axis.size <= 128


class GridAttention(nn.Module):
    """Attention between pixels a quarter of the tile apart, as in MaxViT."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(1, 6)

    def forward(self, x):
        n, c, h, w = x.shape
        parts = x.reshape(n, c, 4, h // 4, 4, w // 4).permute(0, 3, 5, 2, 4, 1)
        q, k, v = self.mix(parts.reshape(-1, 16, c)).chunk(3, -1)
        y = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        return y.reshape(n, h // 4, w // 4, 4, 4, 2).permute(0, 5, 3, 1, 4, 2).reshape(n, 2, h, w)


def test_a_reach_that_grows_with_the_tile_is_no_halo() -> None:
    for axis in derive(GridAttention().eval(), torch.rand(1, 1, 32, 32)).axes:
        assert axis.fields is None
        assert axis.halo(1024) is None
        assert axis.size <= 256


def test_an_axis_like_the_one_before_is_read_once(monkeypatch) -> None:
    shapes = []

    def watched(network, x, **more):
        shapes.append(tuple(x.shape[2:]))
        return record(network, x, **more)

    monkeypatch.setattr(derived_package, "record", watched)
    network = nn.Conv2d(1, 1, 3, padding=60, dilation=60).eval()
    axes = derive(network, torch.rand(1, 1, 32, 32), beside=(8, 8)).axes
    assert [axis.reach for axis in axes] == [(60, 60)] * 2
    # 256 is the first length in which pixels depend on no padding for a period, and 512 confirms it
    along_y = [(64, 8), (128, 8), (256, 8), (512, 8)]
    assert shapes == [(32, 32), *along_y, (8, 256)]


# -- what couples the whole tile


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 4)

    def forward(self, x):
        y = self.conv(x)
        return y * self.gate(y.mean((2, 3))).sigmoid()[..., None, None]


class ConvNeXt(nn.Module):
    """Version 2: global response normalization, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 4, 4)
        self.depthwise = nn.Conv2d(4, 4, 7, padding=3, groups=4)
        self.norm, self.wide, self.slim = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        y = self.wide(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        norm = y.norm(p=2, dim=(1, 2), keepdim=True)
        y = y * (norm / (norm.mean(-1, keepdim=True) + 1e-6))
        return x + self.slim(y).permute(0, 3, 1, 2)


class LastGated(nn.Module):
    """Pooled to one pixel in the layout of channels last, as behind a ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x):
        x = self.conv(x).contiguous(memory_format=torch.channels_last)
        return x * F.adaptive_avg_pool2d(x, 1)


@pytest.mark.parametrize(
    ("network", "operations", "reach"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4)),
         [("native_batch_norm", "1")], (1, 1)),
        (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4)),
         [("native_group_norm", "1")], (1, 1)),
        (nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.LayerNorm((4, 64, 64))),
         [("native_layer_norm", "1")], (2, 2)),
        (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)), [], (1, 1)),
        (SqueezeExcite(), [("mean", "")], (1, 1)),
        (ConvNeXt(), [("linalg_vector_norm", "")], (12, 12)),
        (LastGated(), [("mean", "")], (1, 1)),
    ],
)  # fmt: skip
def test_statistics_are_named_and_the_rest_is_derived(network, operations, reach) -> None:
    derived = derive(network.eval(), torch.rand(1, 1, 64, 64))
    assert [(one.operation, one.module) for one in derived.couplings] == operations
    assert all(one.axes == (0, 1) and one.statistic for one in derived.couplings)
    assert [axis.reach for axis in derived.axes] == [reach, reach]
    assert derived.bounded == (not operations)


class Attention(nn.Module):
    def __init__(self, positions: bool) -> None:
        super().__init__()
        self.embed, self.attend = nn.Conv2d(1, 4, 8, 8), nn.MultiheadAttention(4, 1)
        self.positions = nn.Parameter(torch.rand(1, 4, 8, 8)) if positions else None

    def forward(self, x):
        y = self.embed(x)
        if self.positions is not None:
            y = y + self.positions
        t = y.flatten(2).permute(2, 0, 1)
        return self.attend(t, t, t, need_weights=False)[0].permute(1, 2, 0).reshape(y.shape)


@pytest.mark.parametrize("positions", [False, True])
def test_attention_over_the_tile_leaves_no_rest(positions) -> None:
    derived = derive(Attention(positions).eval(), torch.rand(1, 1, 64, 64))
    assert derived.bounded is False
    assert {one.module for one in derived.couplings} == {"attend"}
    assert not any(one.statistic for one in derived.couplings)
    assert all(axis.reach is None for axis in derived.axes)
    assert [axis.fixed for axis in derived.axes] == [64 if positions else None] * 2


def test_attention_behind_a_field_as_large_as_the_example_is_found() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 65, padding=32), Attention(False)).eval()
    derived = derive(network, torch.rand(1, 1, 32, 32))
    assert [one.module for one in derived.couplings if not one.statistic]
    assert all(axis.reach is None for axis in derived.axes)


def test_activations_in_place_behind_a_normalization() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2), nn.LeakyReLU(inplace=True)
    )
    derived = derive(network.eval(), torch.rand(1, 1, 32, 32))
    assert not derived.unknown
    assert [axis.reach for axis in derived.axes] == [(1, 1)] * 2


def test_sums_in_place_behind_a_normalization() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 7, padding=3)
            self.norm = nn.InstanceNorm2d(2)

        def forward(self, x):
            y = self.norm(self.a(x))
            y += self.b(x)
            return y

    derived = derive(Residual().eval(), torch.rand(1, 1, 32, 32))
    assert not derived.unknown
    assert [axis.reach for axis in derived.axes] == [(3, 3)] * 2


class Coordinates(nn.Module):
    def forward(self, x):
        return torch.cat([x, torch.linspace(0, 1, x.shape[3]).expand(x.shape)], 1)


def test_coordinates_are_seen_along_their_axis() -> None:
    derived = derive(Coordinates(), torch.rand(1, 1, 32, 32))
    assert [axis.absolute for axis in derived.axes] == [False, True]
    assert derived.bounded is False
    assert [axis.period for axis in derived.axes] == [1, 1]  # of the rest


class Scan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scan = nn.GRU(1, 1, batch_first=True)

    def forward(self, x):
        n, c, h, w = x.shape
        return self.scan(x.permute(0, 2, 3, 1).reshape(n * h, w, c))[0].view(n, c, h, w)


def test_scans_are_named() -> None:
    derived = derive(Scan().eval(), torch.rand(1, 1, 16, 16))
    found = [(one.operation, one.module, one.axes) for one in derived.couplings]
    assert found == [("scan", "scan", (1,))]
    assert derived.axes[0].reach == (0, 0)


def test_randomness_is_listed() -> None:
    class Dropped(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5, training=True)

    assert len(derive(Dropped(), torch.rand(1, 1, 16, 16)).random) == 1
    assert not derive(nn.Dropout(0.5).eval(), torch.rand(1, 1, 16, 16)).random


class Spectral(nn.Module):
    """A filter of frequencies: learned for one size, or a single number for each."""

    def __init__(self, learned):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(32, 17, 2)) if learned else None

    def forward(self, x):
        modes = torch.fft.rfft2(self.conv(x))
        if self.weight is not None:
            modes = modes * torch.view_as_complex(self.weight)
        return x + torch.fft.irfft2(modes / (1 + modes.abs()), s=x.shape[-2:])


@pytest.mark.parametrize("learned", [True, False])
def test_fourier_transforms_couple_the_whole_tile(learned) -> None:
    derived = derive(Spectral(learned).eval(), torch.rand(1, 1, 32, 32))
    assert not derived.unknown
    assert derived.bounded is False
    assert {one.name for one in derived.couplings} == {"the Fourier transform"}
    assert {axis for one in derived.couplings for axis in one.axes} == {0, 1}


def test_what_is_not_understood_is_listed_and_nothing_is_derived() -> None:
    class Factors(nn.Module):
        def forward(self, x):
            return torch.linalg.qr(x).Q

    derived = derive(Factors(), torch.rand(1, 1, 16, 16))
    assert len(derived.unknown) == 1
    assert derived.unknown[0].startswith("linalg_qr")
    assert derived.bounded is None
    assert all(axis.period is None for axis in derived.axes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["traced", "scripted", "exported"])
def test_programs_are_read_alike(kind) -> None:
    network, x = UNet((2, 3)).eval(), torch.rand(1, 2, 96)
    program = {
        "traced": lambda: torch.jit.trace(network, x),
        "scripted": lambda: torch.jit.script(Windows(6).eval()),
        "exported": lambda: torch.export.export(network, (x,)).module(),
    }[kind]()
    expected = derive(Windows(6).eval() if kind == "scripted" else network, x)
    assert derive(program, x).axes == expected.axes
    assert derive(record(program, x.clone()), x).axes == expected.axes


# -- networks of random parts


@st.composite
def _networks(draw):
    """Parts one after the other; also the size of windows, and how far all reaches at most."""
    parts: list[nn.Module] = []
    stride, windows, reach = Fraction(1), 1, 0
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(("conv", "stride", "pool", "up", "windows", "cut")))
        if kind == "conv":
            kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
            before = draw(st.integers(0, (kernel - 1) * dilation))
            mode = draw(st.sampled_from(("constant", "reflect", "replicate")))
            parts += [Pad(before, (kernel - 1) * dilation - before, mode),
                      _conv(kernel, dilation=dilation)]  # fmt: skip
            reach += (kernel - 1) * dilation * stride
        elif kind == "stride" and stride <= 4:
            factor, kernel = draw(st.sampled_from((2, 3))), draw(st.integers(2, 5))
            parts += [Pad(kernel - factor if kernel > factor else 0, 0, "constant"),
                      _conv(max(kernel, factor), factor)]  # fmt: skip
            reach += kernel * stride
            stride *= factor
        elif kind == "pool" and stride <= 4:
            factor = draw(st.sampled_from((2, 3)))
            parts.append(nn.AvgPool1d(factor))
            stride *= factor
        elif kind == "up" and stride >= 2:
            factor = draw(st.sampled_from((2, 3)))
            parts.append(Up(factor, draw(st.sampled_from(("nearest", "linear")))))
            reach += stride
            stride /= factor
        elif kind == "windows" and windows == 1 and stride.denominator == 1:
            windows = draw(st.sampled_from((4, 5)))
            parts.append(Windows(windows, draw(st.integers(0, windows - 1))))
            reach += windows * stride
            windows *= int(stride)
        elif kind == "cut" and not parts:
            parts.append(Cut(draw(st.integers(0, 1)) * 0, 0))
    assume(parts and reach < 40)
    return nn.Sequential(*parts), windows, int(reach)


class Pad(nn.Module):
    def __init__(self, before: int, after: int, mode: str) -> None:
        super().__init__()
        self.sides, self.mode = (before, after), mode

    def forward(self, x):
        return F.pad(x, self.sides, mode=self.mode)


@given(_networks())
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_networks_of_random_parts(made) -> None:
    network, windows, reach = made
    unit = 36 * windows
    size = -(-(6 * reach + 12 * 36) // unit) * unit
    _check(network, min(size, 864))


def test_distances_at_which_nothing_repeats_are_not_tried(monkeypatch) -> None:
    """As many comparisons as there are pixels, not their square; and none is missed."""
    tried = []
    longest = repeats._longest
    monkeypatch.setattr(repeats, "_longest", lambda *a: tried.append(1) or longest(*a))
    place = np.arange(4000)
    once = Seen(place, place + 1, place.astype(np.uint64))  # every output of another kind
    assert repeats.repeating(DerivedAxis(4000), once).period is None
    assert len(tried) < 20
    random = np.random.default_rng(0)
    distances, found = repeats._distances, 0
    for _ in range(300):
        out, p, q = random.integers([4, 1, 1], [70, 9, 9])
        place = np.arange(out)
        lo = place // q * p + random.integers(0, 3, q)[place % q]
        kind = random.integers(0, 3, q)[place % q].astype(np.uint64)
        kind[random.choice(out, out // 6, replace=False)] = 7
        seen = Seen(lo, lo + random.integers(0, 4, q)[place % q], kind)
        known = DerivedAxis(int(max(1, out * p // q)))
        fast = repeats.repeating(known, seen)
        monkeypatch.setattr(repeats, "_distances", lambda seen, _: range(1, len(seen.lo) // 2 + 1))
        assert repeats.repeating(known, seen) == fast
        monkeypatch.setattr(repeats, "_distances", distances)
        found += fast.period is not None
    assert 50 < found < 300


@pytest.mark.parametrize(("kernel", "stride"), [(2, 3), (1, 2), (1, 4)])
@pytest.mark.parametrize("axes", [2, 3])
def test_outputs_between_short_kernels_depend_on_nothing(kernel, stride, axes) -> None:
    """A kernel that is shorter than its stride: one period, and gaps have no field."""
    convolution, transposed = (
        (nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d),
    )[axes - 2]  # fmt: skip
    network = nn.Sequential(
        convolution(1, 2, 3, padding=1),
        transposed(2, 2, kernel, stride, output_padding=stride - kernel),
    )
    found = derive(network, torch.zeros(1, 1, *(16,) * axes))
    for axis in found.axes:
        assert (axis.period, axis.scale, axis.crop) == (1, stride, (0, 0))
        assert axis.fields == ((1, 1),) * kernel + ((0, 0),) * (stride - kernel)
        assert axis.halo(32) == (1, 1)


@pytest.mark.parametrize("masked", ["-100", "bool"])
def test_too_many_pairs_are_read_by_rows(masked, monkeypatch) -> None:
    """Windows of 7x7x7 have 117,649 pairs each: of the masked ones all that a row may meet."""
    network = nn.Sequential(MaskedWindows(8, 4, masked), _conv(3, padding=1))
    x, largest, init = torch.randn(1, 2, 192), [0], positions.Seen.__init__

    def seen(self, lo, hi, kind):
        init(self, lo, hi, kind)
        largest[0] = max(largest[0], lo.size)

    monkeypatch.setattr(positions.Seen, "__init__", seen)
    exact = derive(record(network, x.clone(), module=network), x).axes[0]
    assert largest == [24 * 8 * 8]
    largest[0] = 0
    monkeypatch.setattr(positions, "_MOST_PAIRS", 100)
    rows = derive(record(network, x.clone(), module=network), x).axes[0]
    assert largest == [192]
    assert (rows.period, rows.fields, rows.inside) == (exact.period, exact.fields, exact.inside)


def test_numbers_of_weights_and_sizes_are_no_secret_of_the_network() -> None:
    """As converters of ONNX read the scales and ends that a graph holds; never the input's."""

    class Sliced(nn.Module):
        def __init__(self, read) -> None:
            super().__init__()
            self.read, self.scales = read, nn.Parameter(torch.tensor([1.0, 1.0, 2.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = nn.functional.interpolate(x, scale_factor=self.scales.tolist()[-1])
            return y[..., : int(self.read(torch.tensor(x.shape[-1]), x))]

    x = torch.randn(1, 1, 32)
    sizes = Sliced(lambda size, x: size.numpy())
    graph = record(sizes, x.clone())
    assert torch.equal(Replay(graph, {"x": x + 1}).to_end(), sizes(x + 1))
    with pytest.raises(Unrecordable, match="numpy"):
        record(Sliced(lambda size, x: 8 + (size + x.amax()).numpy()), x.clone())


def test_a_record_without_numbers_implies_the_same() -> None:
    """An input for whose forward pass there is no time is read all the same."""
    network = nn.Sequential(MaskedWindows(8, 4), _conv(2, 2), nn.ReLU(inplace=True)).eval()
    x, given = torch.randn(1, 2, 192), []

    def forward(x: torch.Tensor) -> torch.Tensor:
        given.append(network(x))
        return given[-1]

    records = [record(forward, x, decided=True, computed=one) for one in (True, False)]
    computed, blank = (derive(one, x) for one in records)
    assert blank == computed
    assert computed.axes[0].period == 8
    assert not torch.equal(*given)  # nothing was computed
