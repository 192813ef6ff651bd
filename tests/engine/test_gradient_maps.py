"""Gradient maps against torch's own Jacobian, finite differences, and whole images."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import couplings
import networks
from seamscope.errors import ModelError, SettingsError
from seamscope.images.image import open_image
from seamscope.models.model import as_model
from seamscope.models.reach import MemoryMeter
from seamscope.receptive_field.fields import measure_receptive_field
from seamscope.receptive_field.gradient_maps import SHARES, GradientMap
from seamscope.receptive_field.gradient_probe import GradientProbe
from seamscope.receptive_field.gradients import GradientMemory, absolute_gradient
from seamscope.settings import Settings
from watching import Seen, stopped_after

AT = (5, 10)
C2 = nn.Conv2d


def network(channels=1, norm="batch"):
    torch.manual_seed(4)
    return networks.UNet(2, 2, norm=norm, channels=channels, classes=3).eval()


def image(shape, channels=0, seed=0):
    random = np.random.default_rng(seed)
    pixels = random.standard_normal((channels, *shape) if channels else shape)
    axes = "cyx"[3 - pixels.ndim :] if len(shape) == 2 else "zyx"
    return open_image(pixels.astype(np.float32), axes=axes)


def whole_gradient(network, pixels, at, channel=None):
    """The same of an untiled run, with nothing of ours: (*spatial), float64."""
    x = torch.from_numpy(np.asarray(pixels, np.float32)[None, None]).requires_grad_()
    y = network(x)[0]
    channels = range(y.shape[0]) if channel is None else [channel]
    parts = [torch.autograd.grad(y[c][at], x, retain_graph=True)[0][0] for c in channels]
    return sum(part.abs().sum(0) for part in parts).double().numpy()


# -- gradients


@pytest.mark.parametrize("channel", [None, 1])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_gradients_are_those_of_the_jacobian(channel, norm) -> None:
    net = network(channels=2, norm=norm).double()
    x = torch.randn(2, 2, 16, 24, dtype=torch.float64)
    found = absolute_gradient(net, x, AT, channel)
    for tile, expected in zip(x, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda one: net(one[None])[0][:, AT[0], AT[1]], tile
        )  # (outputs, inputs, y, x)
        chosen = jacobian if channel is None else jacobian[channel : channel + 1]
        assert torch.allclose(chosen.abs().sum((0, 1)), expected, rtol=1e-12, atol=1e-14)


def test_gradients_are_those_of_finite_differences() -> None:
    net = nn.Sequential(C2(1, 3, 3, padding=1), nn.Tanh(), C2(3, 2, 3, padding=1)).double()
    x = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    found = absolute_gradient(net, x, (4, 4))[0]
    step = 1e-6
    for row, column in itertools.product(range(9), range(9)):
        moved = x.clone()
        moved[0, 0, row, column] += step
        with torch.no_grad():
            change = (net(moved) - net(x))[0, :, 4, 4] / step
        assert abs(change.abs().sum() - found[row, column]) < 1e-6


def test_channels_do_not_cancel() -> None:
    """Two outputs that are each other's negative: their sum has no gradient, their map has."""
    net = C2(1, 2, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
    assert absolute_gradient(net, torch.zeros(1, 1, 3, 3), (1, 1))[0, 1, 1] == 2


def test_gradients_are_taken_where_no_gradients_are_wanted() -> None:
    net = network()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    x = torch.randn(1, 1, 16, 24)
    expected = absolute_gradient(net, x, AT)
    with torch.inference_mode():
        inside = absolute_gradient(net, torch.clone(x), AT)
    assert torch.equal(inside, expected)
    assert expected.sum() > 0


@pytest.mark.filterwarnings("ignore")  # tracing, scripting and exporting warn of their own end
def test_all_formats_give_the_same_gradients() -> None:
    net = nn.Sequential(
        C2(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.ConvTranspose2d(4, 2, 2, 2),
    ).eval()  # fmt: skip
    x = torch.randn(2, 1, 16, 24)
    expected = absolute_gradient(net, x, AT)
    forms = [
        torch.jit.trace(net, x),
        torch.jit.script(net),
        torch.jit.freeze(torch.jit.script(net)),
        torch.export.export(net, (x,)).module(),
    ]
    for form in forms:
        for _ in range(3):  # the first runs of a script are not like the later ones
            assert torch.allclose(absolute_gradient(form, x, AT), expected, rtol=1e-5)


class Foreign(nn.Module):
    """A network that computes elsewhere."""

    def forward(self, x):
        return torch.from_numpy(x.detach().numpy() * 2)


class Threshold(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = C2(1, 2, 3, padding=1)

    def forward(self, x):
        return self.a(x) * 0


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("no kernel for this")


def test_networks_without_gradients_are_told_in_a_sentence() -> None:
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ModelError, match="outside of PyTorch's autograd"):
        absolute_gradient(Foreign(), x, (1, 1))
    with pytest.raises(ModelError, match="no kernel for this"):
        absolute_gradient(Broken(), x, (1, 1))
    with pytest.raises(SettingsError, match="Output channel 3: the network predicts 3"):
        absolute_gradient(network(), x, (1, 1), 3)
    found = measure_receptive_field(None, as_model(Foreign()))  # theory holds all the same
    assert found.effective is None
    assert found.to_json()["effective"] is None
    assert found.halo == ((0, 0), (0, 0))
    assert any("no gradients" in sentence for sentence in found.sentences())
    with pytest.raises(ModelError, match="in the middle of all 8 tiles is zero"):
        GradientProbe(None, as_model(Threshold())).average(most=8)


# -- where the mass lies


def brute_radius(values, covered, axis, share):
    """Grow an interval pixel by pixel until it holds enough."""
    first, stop = covered[axis]
    for radius in range(values.shape[axis] + 1):
        part = np.take(
            values, range(max(0, first - radius), min(values.shape[axis], stop + radius)), axis
        )
        if part.sum() >= share * values.sum() * (1 - 1e-12):
            return radius
    raise AssertionError


@pytest.mark.parametrize("shape", [(17, 22), (9, 12, 7)])
def test_radii_boxes_and_what_lies_outside(shape) -> None:
    random = np.random.default_rng(1)
    values = random.random(shape) ** 9
    covered = tuple((n // 3, n // 3 + 1 + axis) for axis, n in enumerate(shape))
    found = GradientMap(values, covered, (0,) * len(shape))
    for share in (*SHARES, 0.5, 1.0):
        assert found.radius(share) == tuple(
            brute_radius(values, covered, axis, share) for axis in range(len(shape))
        )
        box = found.box(share)
        inside = [1 - found.outside(((r, r),) * len(shape)) for r in (box - 1, box)]
        assert inside[1] >= share - 1e-12
        assert box == 0 or inside[0] < share
    for axis in range(len(shape)):
        profile = found.profile(axis)
        assert profile.sum() == pytest.approx(1)
        assert (np.flatnonzero(found.offsets(axis) == 0) == range(*covered[axis])).all()
    sides = [(2, 1)] * len(shape)
    region = tuple(slice(a - 2, b + 1) for a, b in covered)
    expected = 1 - values[region].sum() / values.sum()
    assert found.outside(sides) == pytest.approx(expected, abs=1e-12)


def test_a_floor_far_below_rounding_is_not_lost() -> None:
    values = np.full((11, 11), 1e-30)
    values[5, 5] = 1.0
    outside = GradientMap(values, ((5, 6), (5, 6)), (0, 0)).outside(((0, 0), (0, 0)))
    assert outside == pytest.approx(120e-30)


# -- one pixel of an image


@pytest.mark.parametrize("pixel", [(70, 61), (71, 62), (72, 63), (73, 64), (0, 0), (127, 119)])
def test_a_pixels_map_is_that_of_the_untiled_run(pixel) -> None:
    """At every phase, inside and at the image's border; where the tile has room for the field."""
    net = network()
    source = image((128, 120))
    found = GradientProbe(source, as_model(net), Settings(tile=64)).at(pixel)
    expected = whole_gradient(net, source.data, pixel)
    placed = np.zeros_like(expected)
    (top, left), (height, width) = found.origin, found.values.shape
    placed[top : top + height, left : left + width] = found.values
    assert np.allclose(placed, expected, rtol=1e-4, atol=1e-7 * expected.max())
    assert tuple(a + start for (a, _), start in zip(found.covered, found.origin, strict=True)) == (
        pixel
    )
    assert all(start % 4 == 0 for start in found.origin)


def test_a_pixels_map_with_valid_convolutions_and_another_scale() -> None:
    torch.manual_seed(0)
    valid = networks.ValidUNet().eval()
    source = image((160, 160))
    model = as_model(valid)
    found = GradientProbe(source, model, Settings(tile=92)).at((81, 77))
    expected = whole_gradient(valid, source.data, (61, 57))  # 20 pixels are lost at each border
    (top, left), size = found.origin, 92
    assert np.allclose(
        found.values, expected[top : top + size, left : left + size], rtol=1e-4, atol=1e-9
    )
    half = nn.Sequential(C2(1, 3, 3, padding=1, stride=2), nn.ReLU(), C2(3, 2, 3, padding=1))
    found = GradientProbe(source, as_model(half.eval()), Settings(tile=32)).at((81, 77))
    expected = whole_gradient(half, source.data, (40, 38))
    (top, left), size = found.origin, 32
    assert np.allclose(
        found.values, expected[top : top + size, left : left + size], rtol=1e-4, atol=1e-9
    )
    assert [a + start for (a, _), start in zip(found.covered, found.origin, strict=True)] == [
        80,
        76,
    ]


def test_pixels_and_phases_that_do_not_exist_are_refused() -> None:
    probe = GradientProbe(image((64, 64)), as_model(network()), Settings(tile=64))
    with pytest.raises(SettingsError, match=r"Pixel \(64, 3\) is not in the image of 64 x 64"):
        probe.at((64, 3))
    with pytest.raises(SettingsError, match="phases go from 0 to 3"):
        probe.average(phase=(0, 4))
    with pytest.raises(SettingsError, match="one number for each of 2"):
        probe.average(phase=(0,))


# -- the average


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_average_is_that_over_all_places(norm, monkeypatch) -> None:
    """An image three pixels larger than the tile: 16 places, each once."""
    net = network(norm=norm)
    source = image((51, 51))
    probe = GradientProbe(source, as_model(net), Settings(tile=48))
    monkeypatch.setattr("seamscope.receptive_field.gradient_maps._FEWEST_TILES", 17)  # never steady
    work = Seen()
    found = probe.average(1, most=17, work=work)
    heard = work.steps
    assert (found.tiles, found.steady) == (16, False)
    places = list(itertools.product(range(4), range(4)))
    crops = [source.data[y : y + 48, x : x + 48] for y, x in places]
    expected = np.mean([whole_gradient(net, crop, (24, 24), 1) for crop in crops], 0)
    assert np.allclose(found.map.values, expected, rtol=1e-4, atol=1e-7 * expected.max())
    assert heard == [(n + 1, 17) for n in range(found.tiles)]
    assert found.map.covered == ((24, 25), (24, 25))
    assert found.map.origin is None


def test_phase_chooses_the_pixel() -> None:
    net = network()
    source = image((64, 64))
    probe = GradientProbe(source, as_model(net), Settings(tile=64))
    for phase in [(0, 0), (1, 3), (3, 2)]:
        found = probe.average(phase=phase)
        at = tuple(32 + p for p in phase)
        assert found.map.phase == phase
        assert found.map.covered == tuple((i, i + 1) for i in at)
        expected = whole_gradient(net, source.data, at)
        assert np.allclose(found.map.values, expected, rtol=1e-4, atol=1e-7 * expected.max())
        assert found.tiles == 1
        assert not found.steady
        assert found.doubt.startswith("Only one tile was looked at")


def test_doubt_gives_the_difference_only_where_there_is_one() -> None:
    probe = GradientProbe(image((64, 64)), as_model(network()), Settings(tile=48))
    found = probe.average(most=8)
    apart = dataclasses.replace(found, tiles=8, steady=False, spread=5)
    assert "two halves still differ by 5 pixels" in apart.doubt
    assert "differ" not in dataclasses.replace(apart, tiles=4).doubt
    assert dataclasses.replace(apart, steady=True).doubt == ""


def test_theory_bounds_the_gradient_and_normalization_leaves_a_floor() -> None:
    source = image((192, 192))
    bounded = measure_receptive_field(source, as_model(network()), most_tiles=8)
    assert bounded.mass_outside == 0
    assert all(
        r <= max(side)
        for r, side in zip(bounded.effective.map.radius(1.0), bounded.theoretical, strict=True)
    )
    floor = measure_receptive_field(source, as_model(network(norm="instance")), most_tiles=8)
    assert floor.mass_outside > 0.01
    values = floor.effective.map.values
    region = tuple(
        slice(first - before, stop + after)
        for (first, stop), (before, after) in zip(
            floor.effective.map.covered,
            [axis[p] for axis, p in zip(floor.fields, floor.effective.map.phase, strict=True)],
            strict=True,
        )
    )
    assert floor.mass_outside == pytest.approx(1 - values[region].sum() / values.sum())
    attention = measure_receptive_field(source, as_model(nn.Sequential(C2(1, 1, 1), Mean())))
    assert attention.mass_outside is not None  # its mean can be held fixed


class Mean(nn.Module):
    def forward(self, x):
        return x * x.mean((2, 3), keepdim=True)


def test_batches_and_frames_change_nothing() -> None:
    net = network()
    stack = np.random.default_rng(0).standard_normal((3, 64, 64)).astype(np.float32)
    source = open_image(stack, axes="tyx")
    found = [
        GradientProbe(source, as_model(net), Settings(tile=64, batch=n)).average(most=3)
        for n in (1, 2)
    ]
    assert found[0].tiles == found[1].tiles == 3
    expected = np.mean([whole_gradient(net, frame, (32, 32)) for frame in stack], 0)
    for each in found:
        assert np.allclose(each.map.values, expected, rtol=1e-4, atol=1e-7 * expected.max())
    third = GradientProbe(source, as_model(net), Settings(tile=64)).at((30, 30), frame=(2,))
    expected = whole_gradient(net, stack[2], (30, 30))
    assert np.allclose(third.values, expected, rtol=1e-4, atol=1e-7 * expected.max())


def test_tiles_lie_in_the_wanted_area() -> None:
    """Where its pixels are ten times as contrasted, a product's gradient is ten times as large."""
    pixels = np.ones((100, 100), np.float32)
    pixels[30:80, 20:90] = 10
    probe = GradientProbe(
        open_image(pixels, axes="yx"), as_model(Square()),
        Settings(tile=32, area={"y": (30, 80), "x": (20, 90)}, normalize="none"),
    )  # fmt: skip
    assert probe.average(most=20).map.mass == pytest.approx(20, rel=1e-6)
    narrow = Settings(tile=32, area={"y": (40, 41), "x": (50, 51)}, normalize="none")
    probe = GradientProbe(open_image(pixels, axes="yx"), as_model(Square()), narrow)
    assert probe.average(most=20).tiles == 1


class Square(nn.Module):
    def forward(self, x):
        return x * x


def test_three_dimensions() -> None:
    torch.manual_seed(0)
    net = networks.UNet(3, 2, features=2).eval()
    source = image((40, 52, 44))
    found = GradientProbe(source, as_model(net), Settings(tile=(40, 52, 44))).at((20, 25, 19), 0)
    expected = whole_gradient(net, source.data, (20, 25, 19), 0)
    assert np.allclose(found.values, expected, rtol=1e-4, atol=1e-7 * expected.max())


def test_cancelled_between_tiles() -> None:
    probe = GradientProbe(image((128, 128)), as_model(network()), Settings(tile=48))
    work = stopped_after(2)
    with pytest.raises(InterruptedError):
        probe.average(work=work)
    assert [done for done, _ in work.steps] == [1, 2]


# -- memory


@pytest.mark.parametrize("name", ["convolutions", "attention"])
def test_memory_is_foretold(name) -> None:
    model = as_model(network() if name == "convolutions" else couplings.Unetr(patch=4))
    shape = (192, 160)
    meter = MemoryMeter()
    with meter:
        absolute_gradient(model.run_plain, torch.randn(1, 1, *shape), (80, 80), 0)
    foretold = GradientMemory.measure(model).of(shape[0] * shape[1])
    assert foretold == pytest.approx(meter.peak, rel=0.25)


def test_tiles_are_smaller_where_memory_does_not_suffice() -> None:
    model = as_model(network())
    allowed = GradientMemory.measure(model).of(130 * 130)
    probe = GradientProbe(image((300, 300)), model, Settings(tile=256, memory=allowed))
    assert probe.plan.grid.tile_shape == (108, 108)
    assert "256 x 256 would need" in probe.notes[0]
    assert "tiles of 108 x 108" in probe.average(most=2).notes[0]


def test_a_tile_of_its_own_choice_has_room_for_the_field() -> None:
    for net in (network(), networks.ValidUNet()):
        model = as_model(net)
        found = GradientProbe(image((400, 400)), model).average(phase=(3, 3), most=2)
        (first, stop), size = found.map.covered[0], found.map.values.shape[0]
        before, after = model.fields[0][3]
        assert first - before >= 0
        assert stop + after <= size
        assert size < 100


def test_noise_stands_in_for_an_image() -> None:
    found = measure_receptive_field(None, as_model(network()), most_tiles=8)
    assert found.effective.on == "noise"
    assert any("noise" in sentence for sentence in found.sentences())
    assert found.mass_outside == 0


def test_overlap_and_blending_of_a_run_are_left_aside() -> None:
    run = Settings(tile=96, overlap=90, blend="gaussian", halo=40)
    probe = GradientProbe(image((200, 200)), as_model(network()), run.but(tile="auto"))
    assert probe.plan.grid.tile_shape[0] < 90
    assert probe.average(most=2).map.mass > 0
