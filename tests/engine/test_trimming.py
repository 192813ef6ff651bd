"""The kept part of an output must not depend on what else is computed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seamscope.models.speed import trimming
from seamscope.models.speed.fusion import fused
from seamscope.models.speed.trimming import Trimmed

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
UP = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class UNet(nn.Module):
    """Two poolings, concatenation, transposed convolutions up."""

    def __init__(self, axes=2, kernel=2):
        super().__init__()
        conv, up = CONV[axes], UP[axes]
        even = {"kernel_size": kernel, "stride": 2, "padding": (kernel - 1) // 2}
        if kernel == 3:
            even["output_padding"] = 1
        self.a = nn.Sequential(conv(1, 4, 3, padding=1), nn.ReLU(), conv(4, 4, 3, padding=1))
        self.b = nn.Sequential(MAX[axes](2), conv(4, 8, 3, padding=1), nn.LeakyReLU())
        self.c = nn.Sequential(conv(8, 8, 3, 2, 1), nn.SiLU(), up(8, 8, **even))
        self.d = nn.Sequential(conv(16, 8, 3, padding=1), nn.ReLU(True), up(8, 4, **even))
        self.e = nn.Sequential(conv(8, 4, 3, padding=1), nn.ReLU(), conv(4, 3, 1))

    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        d = self.d(torch.cat([b, self.c(b)], dim=1))
        return torch.softmax(self.e(torch.cat([a, d], 1)), 1)


def check(network: nn.Module, size: tuple[int, ...], box: tuple[tuple[int, int], ...]) -> float:
    """Compare with the same part of the whole output; return the share that was computed."""
    trimmed = Trimmed(fused(network.eval()))
    keep = tuple(slice(*span) for span in box)
    batch = torch.randn(2, 1, *size)
    with torch.inference_mode():
        right = network(batch)[:, :, *keep]
        for _ in range(2):  # the first run is whole, to note sizes
            output = trimmed(batch, keep)
            assert output.shape == right.shape
            assert float((output - right).abs().max()) <= 2e-6 * max(1, float(right.abs().max()))
    return trimmed.work(size, keep)


def boxes(size: tuple[int, ...]) -> st.SearchStrategy:
    def span(extent):
        return st.tuples(st.integers(0, extent - 1), st.integers(1, extent)).filter(
            lambda ends: ends[0] < ends[1]
        )

    return st.tuples(*map(span, size))


@given(st.data(), st.sampled_from([2, 3]), st.sampled_from([1, 2, 3]))
@settings(max_examples=60, deadline=None)
def test_any_part_of_a_unet(data, axes, multiple):
    torch.manual_seed(0)
    size = (16 * multiple, 32, 24)[:axes]
    kernel = data.draw(st.sampled_from([2, 3, 4]))
    check(UNet(axes, kernel), size, data.draw(boxes(size)))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(1, 2, 3, padding=1),
    "valid": lambda: nn.Conv2d(1, 2, (3, 5)),
    "even": lambda: nn.Conv2d(1, 2, 4, padding=1),
    "strided": lambda: nn.Conv2d(1, 2, 3, (2, 3), 1),
    "strided, dilated": lambda: nn.Conv2d(1, 2, 3, 2, 4, dilation=3),
    "stride beyond kernel": lambda: nn.Conv2d(1, 2, 2, 5, 1),
    "same": lambda: nn.Conv2d(1, 2, 3, padding="same"),
    "reflecting": lambda: nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
    "max": lambda: nn.MaxPool2d(2),
    "max, overlapping": lambda: nn.MaxPool2d(3, 2, 1),
    "max, ceiling": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "average": lambda: nn.AvgPool2d(3, 2, 1),
    "transposed 2": lambda: nn.ConvTranspose2d(1, 2, 2, 2),
    "transposed 3": lambda: nn.ConvTranspose2d(1, 2, 3, 2, 1, 1),
    "transposed 4": lambda: nn.ConvTranspose2d(1, 2, 4, 2, 1),
    "transposed, dilated": lambda: nn.ConvTranspose2d(1, 2, 3, 3, 2, 2, dilation=2),
    "transposed, cut": lambda: nn.ConvTranspose2d(1, 2, 3, 2, 3),
    "nearest": lambda: nn.Upsample(scale_factor=3),
    "bilinear": lambda: nn.Upsample(scale_factor=(2.0, 4.0), mode="bilinear"),
    "bilinear, corners": lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    "to a size": lambda: nn.Upsample(size=(40, 30), mode="bilinear"),
    "bicubic": lambda: nn.Upsample(scale_factor=2, mode="bicubic"),
    "instance norm": lambda: nn.InstanceNorm2d(1),
    "group norm": lambda: nn.GroupNorm(1, 1),
    "global": lambda: nn.AdaptiveAvgPool2d(1),
    "softmax over columns": lambda: nn.Softmax(dim=3),
    "flip": lambda: Calls(lambda self, x: torch.flip(x, [2])),
}


class Calls(nn.Module):
    """A network whose forward is given as a function of itself and the input."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.forward_ = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.forward_(self, x)


@pytest.mark.parametrize("name", LAYERS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_part_of_any_layer_between_convolutions(name, data):
    torch.manual_seed(0)
    middle = LAYERS[name]()
    size = (23, 28)
    with torch.inference_mode():
        before = nn.Conv2d(1, 1, 3, padding=1)
        channels = middle(before(torch.zeros(1, 1, *size))).shape[1]
        network = nn.Sequential(before, middle, nn.Conv2d(channels, 2, 3, padding=1), nn.Sigmoid())
        extent = tuple(network(torch.zeros(1, 1, *size)).shape[2:])
    check(network, size, data.draw(boxes(extent)))


def squeezed(self, x):
    x = self.a(x)
    return self.b(x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1)))


def padded_to_the_skip(self, x):
    x = self.a(x)
    large = F.interpolate(F.max_pool2d(self.b(x), 3), scale_factor=2)
    rows, columns = x.size(2) - large.size(2), x.size(3) - large.size(3)
    return x + F.pad(large, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])


def cropped_skip(self, x):
    x = self.a(x)
    return x[:, :, 4:-4, 4:-4] + self.b(x)[..., 4:-4, 4:-4] * 2


def in_place(self, x):
    x = self.a(x)
    y = self.b(x)
    F.relu_(x)
    y += x
    return self.b(y) - x


def cat_of_rows(self, x):
    x = self.a(x)
    return self.b(torch.cat([x, x], dim=2))


def sizes_as_numbers(self, x):
    return self.b(self.a(x)) * x.shape[2]


@pytest.mark.parametrize(
    "forward", [squeezed, padded_to_the_skip, cropped_skip, in_place, cat_of_rows, sizes_as_numbers]
)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_what_is_not_local_is_computed_whole(forward, data):
    torch.manual_seed(0)
    parts = {"a": nn.Conv2d(1, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 5, padding=2)}
    network = Calls(forward, **parts)
    with torch.inference_mode():
        extent = tuple(network(torch.zeros(1, 1, 24, 30)).shape[2:])
    check(network, (24, 30), data.draw(boxes(extent)))


def test_most_of_the_decoder_is_saved():
    torch.manual_seed(0)
    assert check(UNet(), (64, 64), ((24, 40), (24, 40))) < 0.6
    assert check(UNet(3), (24, 32, 32), ((8, 16), (12, 20), (12, 20))) < 0.5
    assert check(UNet(), (64, 64), ((0, 64), (0, 64))) == 1


def test_one_pixel_less_than_is_read_would_be_seen(monkeypatch):
    """Not the code is tested here, but whether `check` would notice."""
    reads = trimming._Window.reads

    def too_little(self, need, size):
        return tuple(
            (start + (start > 0 and k > 1), stop)
            for (start, stop), k in zip(reads(self, need, size), self.kernel, strict=True)
        )

    monkeypatch.setattr(trimming._Window, "reads", too_little)
    torch.manual_seed(0)
    with pytest.raises(AssertionError):
        check(UNet(), (64, 64), ((24, 40), (24, 40)))
