"""Facts, period and reach of networks whose answers are known by hand, and proved by cropping."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import networks
from couplings import Corners
from families import Apply, family
from seamscope.errors import ModelError
from seamscope.models.couplings import HeldAttention
from seamscope.models.formats import load_model
from seamscope.models.input_search import Hints, InputSearch
from seamscope.models.model import as_model
from seamscope.models.probe import probe
from seamscope.models.reach import measure_rest
from seamscope.models.sizes import Sizes
from seamscope.models.slab import Slab
from seamscope.models.trials import Trials


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        x = self.a(x)
        return self.b(x * torch.sigmoid(x.mean((2, 3), keepdim=True)))


class SwallowsNan(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 2, 5, padding=2)

    def forward(self, x):
        x = self.a(x)
        return self.b(torch.where(x > 0, x, torch.zeros_like(x)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 8, stride=8)
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.ConvTranspose2d(8, 2, 8, stride=8)

    def forward(self, x):
        x = self.embed(x)
        tokens = x.flatten(2).transpose(1, 2)
        y, _ = self.mix(tokens, tokens, tokens, need_weights=False)
        return self.out(y.transpose(1, 2).reshape(x.shape))


class ChannelLayerNorm(nn.Module):
    """Normalises over channels at each pixel: looks global, is not."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(self.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class CutEnd(nn.Module):
    """A convolution whose output is cut by more pixels at the end than at the beginning."""

    def __init__(self, before, after):
        super().__init__()
        self.a, self.before, self.after = nn.Conv2d(1, 4, 3, padding=1), before, after

    def forward(self, x):
        cut = slice(self.before, -self.after)
        return self.a(x)[:, :, cut, cut]


class Beside(nn.Module):
    """What is seen, and a path beside it."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, x):
        return torch.cat([x, F.interpolate(self.path(x), x.shape[2:])], 1)


class Shifted(nn.Module):
    """Two pixels on, as networks with a blind spot do."""

    def forward(self, x):
        return F.pad(x, (2, 0, 2, 0))[:, :, :-2, :-2]


def seq(*layers):
    return nn.Sequential(*layers)


C2, C3 = nn.Conv2d, nn.Conv3d

# name, network, period, halo (before, after) per axis, crop, scale; all known by hand
KNOWN = [
    ("one 3x3", seq(C2(1, 4, 3, padding=1)), 1, (1, 1), (0, 0), 1),
    (
        "5x5 and 3x3",
        seq(C2(1, 4, 5, padding=2), nn.ReLU(), C2(4, 2, 3, padding=1)),
        1,
        (3, 3),
        (0, 0),
        1,
    ),
    (
        "dilated 4 and 9",
        seq(C2(1, 4, 3, padding=4, dilation=4), C2(4, 2, 3, padding=9, dilation=9)),
        1,
        (13, 13),
        (0, 0),
        1,
    ),
    ("valid 3x3 twice", seq(C2(1, 4, 3), nn.ReLU(), C2(4, 2, 3)), 1, (0, 0), (2, 2), 1),
    ("valid 2x2", seq(C2(1, 4, 2)), 1, (0, 0), (0, 1), 1),
    (
        "pool 3, transposed 3",
        seq(nn.MaxPool2d(3), C2(1, 4, 3, padding=1), nn.ConvTranspose2d(4, 2, 3, stride=3)),
        3,
        (3, 3),
        (0, 0),
        1,
    ),
    (
        "transposed k3 s2 is one-sided",
        seq(nn.AvgPool2d(2), nn.ConvTranspose2d(1, 2, 3, 2, 1, output_padding=1)),
        2,
        (0, 1),
        (0, 0),
        1,
    ),
    (
        "stride 2, output half",
        seq(C2(1, 4, 3, padding=1, stride=2)),
        2,
        (2, 0),
        (0, 0),
        Fraction(1, 2),
    ),
    (
        "upsampled twofold",
        seq(C2(1, 4, 3, padding=1), nn.Upsample(scale_factor=2)),
        1,
        (1, 1),
        (0, 0),
        2,
    ),
    (
        "anisotropic",
        seq(
            C3(1, 4, (1, 3, 3), padding=(0, 1, 1)),
            nn.MaxPool3d((1, 2, 2)),
            C3(4, 4, 3, padding=1),
            nn.Upsample(scale_factor=(1, 2, 2)),
        ),
        (1, 2, 2),
        ((1, 1), (4, 4), (4, 4)),
        (0, 0),
        1,
    ),
    ("U-Net 2 transposed", networks.UNet(2, 2), 4, (22, 22), (0, 0), 1),
    ("U-Net 3 transposed", networks.UNet(2, 3), 8, (46, 46), (0, 0), 1),
    ("U-Net 2 bilinear", networks.UNet(2, 2, up="bilinear"), 4, (25, 25), (0, 0), 1),
    ("U-Net 3 bilinear", networks.UNet(2, 3, up="bilinear"), 8, (53, 53), (0, 0), 1),
    ("U-Net 3D", networks.UNet(3, 2, features=2), 4, (22, 22), (0, 0), 1),
    ("valid U-Net 2", networks.ValidUNet(2), 4, (0, 0), (20, 20), 1),
    ("valid U-Net 4 (572 -> 388)", networks.ValidUNet(4, features=2), 16, (0, 0), (92, 92), 1),
    # 64 -> 16, 67 -> 17, 70 -> 18 pixels: three sizes look like a third
    (
        "stride 4, output a quarter",
        seq(C2(1, 4, 7, padding=3, stride=4)),
        4,
        (4, 0),
        (0, 0),
        Fraction(1, 4),
    ),
    ("cut at the end alone", CutEnd(0, 8), 1, (1, 0), (0, 8), 1),
    ("cut unevenly", CutEnd(3, 8), 1, (0, 0), (3, 8), 1),
    ("circular", seq(C2(1, 4, 5, padding=2, padding_mode="circular")), 1, (2, 2), (0, 0), 1),
    # cubic interpolation by 3 reads no neighbour where an output lies in the middle of a pixel
    (
        "bicubic by 3",
        seq(nn.AvgPool2d(3), nn.Upsample(scale_factor=3, mode="bicubic")),
        3,
        (4, 4),
        (0, 0),
        1,
    ),
    # paths that read padding alone in the smallest input
    (
        "even kernel, dilated",
        seq(
            C2(1, 4, 4, 4),
            Beside(seq(nn.AvgPool2d(2), C2(4, 4, 4, dilation=2, padding=3))),
            nn.Upsample(scale_factor=4),
        ),
        8,
        (24, 24),
        (0, 0),
        1,
    ),
    (
        "shifted at stride 8",
        seq(C2(1, 4, 8, 8), Beside(Shifted()), nn.Upsample(scale_factor=8)),
        8,
        (16, 0),
        (0, 0),
        1,
    ),
    ("LayerNorm over channels", ChannelLayerNorm(), 1, (1, 1), (0, 0), 1),
    ("identity", nn.Identity(), 1, (0, 0), (0, 0), 1),
]


class Centred(nn.Module):
    """Pads both sides alike to multiples, and cuts what it gives."""

    def __init__(self, multiple, inner):
        super().__init__()
        self.multiple, self.inner = multiple, inner

    def forward(self, x):
        more = [-n % self.multiple for n in x.shape[2:]]
        sides = [side for n in more[::-1] for side in (n // 2, n - n // 2)]
        first, rows = more[0] // 2, more[1] // 2
        y = self.inner(F.pad(x, sides))
        return y[:, :, first : first + x.shape[2], rows : rows + x.shape[3]]


@pytest.mark.parametrize(("multiple", "pool", "step"), [(4, 5, 20), (4, 9, 36), (14, 5, 70)])
def test_code_that_pads_both_sides_to_multiples_is_found(multiple, pool, step) -> None:
    """Tiles of other sizes have their inner poolings elsewhere: 0.3 standard deviations apart."""
    halves = seq(nn.AvgPool2d(2), nn.Upsample(scale_factor=2))
    last = seq(C2(2, 2, 3, padding=1), nn.AvgPool2d(pool), nn.Upsample(scale_factor=pool))
    model = as_model(seq(C2(1, 2, 3, padding=1), Centred(multiple, halves), last))
    assert [axis.increment for axis in model.facts.lattice] == [step] * 2
    assert model.reach.bounded
    x = torch.randn(1, 1, step, 12 * step, dtype=torch.float64)
    with torch.no_grad():
        whole, tile = (model.module.double()(y) for y in (x, x[..., 3 * step : 7 * step]))
    low, high = model.reach.halo[1]
    kept = slice(3 * step + low, 7 * step - high)
    assert torch.allclose(tile[..., low : 4 * step - high], whole[..., kept], atol=1e-12)


class Filled(nn.Module):
    """Fills its input up to multiples at the end, and cuts what it gives."""

    def __init__(self, multiple, inner):
        super().__init__()
        self.multiple, self.inner = multiple, inner

    def forward(self, x):
        rows, columns = (-n % self.multiple for n in x.shape[2:])
        return self.inner(F.pad(x, (0, columns, 0, rows)))[:, :, : x.shape[2], : x.shape[3]]


@pytest.mark.parametrize(("multiple", "pool"), [(24, 4), (40, 1), (48, 8)])
def test_code_that_fills_up_to_multiples_of_other_numbers_is_found(multiple, pool) -> None:
    """It was said to take multiples of 8 for 24: what it adds may be more than it reaches."""
    inner = seq(C2(1, 2, 5, padding=2), nn.AvgPool2d(pool), C2(2, 2, 3, padding=1))
    model = as_model(Filled(multiple, seq(inner, nn.Upsample(scale_factor=pool))))
    assert [axis.increment for axis in model.facts.lattice] == [multiple] * 2


@pytest.mark.parametrize(
    ("network", "cut", "halo"),
    [
        (seq(nn.AvgPool2d(4), nn.ReplicationPad2d(3), nn.Upsample(scale_factor=4)), 12, (0, 0)),
        (seq(C2(1, 2, 4, 4), C2(2, 2, 3, padding=3), nn.Upsample(scale_factor=4)), 8, (4, 4)),
    ],
)
def test_what_lies_beyond_the_ends_is_cut_by_place(network, cut, halo) -> None:
    model = as_model(network)
    assert model.facts.cut == ((cut, cut),) * 2
    assert model.reach.halo == (halo,) * 2
    assert model.reach.agrees(model.facts)


@pytest.mark.parametrize(
    ("network", "period", "halo", "crop", "scale"),
    [k[1:] for k in KNOWN],
    ids=[k[0] for k in KNOWN],
)
def test_known_by_hand(network, period, halo, crop, scale) -> None:
    model = as_model(network)
    ndim = model.facts.spatial_axes
    periods = period if isinstance(period, tuple) else (period,) * ndim
    halos = halo if isinstance(halo[0], tuple) else (halo,) * ndim
    assert model.facts.period == periods
    assert model.facts.period_found
    assert [a.crop for a in model.facts.lattice] == [crop] * ndim
    assert {float(s) for s in model.facts.scale} == ({float(scale)} if ndim == 2 else {1.0})
    assert model.reach.bounded
    assert model.reach.halo == halos
    assert not model.reach.swallows_nan


@pytest.mark.parametrize(
    ("network", "convolutional", "calls"),
    [
        (networks.UNet(2, 2, norm="instance"), 22, 10),
        (networks.UNet(2, 2, norm="group"), 22, 10),
        (networks.UNet(3, 2, features=2, norm="instance"), 22, 10),
        (SqueezeExcite(), 2, 1),  # its mean over space can be held fixed too
        (Attention(), None, 0),
    ],
    ids=["instance", "group", "instance 3D", "squeeze-excite", "attention"],
)
def test_networks_that_see_the_whole_tile_are_told(network, convolutional, calls) -> None:
    model = as_model(network)
    assert not model.reach.bounded
    assert len(model.facts.statistics) == calls
    ndim = model.facts.spatial_axes
    expected = ((convolutional, convolutional),) * ndim if convolutional else None
    assert model.reach.convolutional == expected
    assert "Overlap cannot remove the seams" in model.describe()


@pytest.mark.parametrize(
    ("network", "period", "reach"),
    [
        # the second network's period is longer than its first slab, the first one's reach as well
        (seq(*(C2(1, 1, 3, padding=40, dilation=40) for _ in range(9))), 1, 360),
        (seq(nn.AvgPool2d(64), C2(1, 1, 1), nn.Upsample(scale_factor=64)), 64, 0),
        (seq(nn.AvgPool3d(32), C3(1, 1, 3, padding=1), nn.Upsample(scale_factor=32)), 32, 32),
    ],
    ids=["reach 360", "period 64", "period 32 in 3D"],
)
def test_far_reach_and_long_periods(network, period, reach) -> None:
    model = as_model(network)
    assert set(model.facts.period) == {period}
    assert model.facts.period_found
    assert set(model.reach.halo) == {(reach, reach)}


def test_a_share_of_the_whole_has_no_period_by_chance() -> None:
    """A softmax over space changes a little with every shift, with some of them less."""
    shares = Apply(
        seq(C2(1, 4, 3, padding=1), C2(4, 2, 1)), lambda y: y.flatten(2).softmax(-1).view(y.shape)
    )
    deepen(shares)
    assert as_model(shares).facts.period == (1, 1)


def test_swallowed_nan_does_not_hide_reach() -> None:
    model = as_model(SwallowsNan())
    assert model.reach.swallows_nan
    assert model.reach.halo == ((3, 3), (3, 3))
    assert model.facts.period == (1, 1)


def forms(network):
    example = torch.randn(1, 1, 64, 64)
    yield "traced", torch.jit.trace(network, example)
    yield "scripted", torch.jit.script(network)


@pytest.mark.filterwarnings("ignore")  # tracing and scripting warn of their own end
def test_frozen_scripts_are_measured_and_optimized_ones_refused() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU()).eval()
    frozen = torch.jit.freeze(torch.jit.script(network))
    assert as_model(frozen).reach.halo == ((1, 1), (1, 1))
    with pytest.raises(ModelError, match="optimize_for_inference"):
        as_model(torch.jit.optimize_for_inference(frozen))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_scripts_are_measured_like_the_module(norm) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.InstanceNorm2d(4) if norm == "instance" else nn.BatchNorm2d(4),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ConvTranspose2d(4, 2, 2, 2),
    ).eval()
    plain = as_model(network)
    for _, form in forms(network):
        model = as_model(form)
        assert model.facts.period == plain.facts.period == (2, 2)
        assert model.reach == plain.reach
        assert model.facts.statistics == plain.facts.statistics


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("up", ["transposed", "bilinear"])
def test_cropping_at_the_reach_equals_the_whole_and_one_pixel_less_does_not(levels, up) -> None:
    """The oracle of all oracles, in plain indexing and nothing of ours but the reach."""
    torch.manual_seed(levels)
    network = networks.UNet(2, levels, up=up).eval()
    deepen(network)
    (before, after), _ = as_model(network).reach.halo
    period = 2**levels
    x = torch.randn(1, 1, 64, 40 * period)
    with torch.inference_mode():
        whole = network(x)[..., 8 * period : 32 * period]
        tile = network(x[..., 8 * period : 32 * period])
    differs = (tile - whole).abs().amax((0, 1, 2)) > 1e-5 * whole.std()
    assert not differs[before : differs.numel() - after].any()
    assert differs[before - 1]
    assert differs[differs.numel() - after]


def deepen(network):
    """Make the deepest path as strong as the shallow ones, so that its reach shows in values."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.weight.mul_(3)


def test_a_shift_off_the_period_changes_the_prediction() -> None:
    """What the period is for: three pixels off the grid is worse than no halo."""
    torch.manual_seed(0)
    network = networks.UNet(2, 2).eval()
    deepen(network)
    period = as_model(network).facts.period[0]
    x = torch.randn(1, 1, 160, 160)
    with torch.inference_mode():
        whole = network(x)
        for shift in range(2 * period + 1):
            moved = network(torch.roll(x, -shift, 2))
            error = (moved[:, :, 40:80] - whole[:, :, 40 + shift : 80 + shift]).abs().max()
            assert (error < 1e-4 * whole.std()) == (shift % period == 0)


def test_channels_are_found() -> None:
    assert as_model(nn.Conv2d(5, 7, 1)).facts.in_channels == 5
    assert as_model(nn.Conv2d(5, 7, 1)).facts.out_channels == 7
    assert as_model(nn.Conv3d(2, 1, 1)).facts.spatial_axes == 3
    assert as_model(nn.Conv3d(1, 1, 1)).facts.spatial_axes == 3  # also runs on 4-D input
    assert as_model(nn.Identity()).facts.any_channels


class Slices(nn.Module):
    """Predicts a stack slice by slice, each from itself and its neighbours as channels."""

    def __init__(self):
        super().__init__()
        self.mix = C2(3, 2, 5, padding=2)

    def forward(self, x):
        n, _, z, *rest = x.shape
        slices = F.pad(x[:, 0], (0, 0, 0, 0, 1, 1)).unfold(1, 3, 1).movedim(-1, 2)
        return self.mix(slices.reshape(n * z, 3, *rest)).reshape(n, z, 2, *rest).transpose(1, 2)


def test_slices_of_a_stack_may_be_convolved_in_2d() -> None:
    model = as_model(Slices())
    assert (model.facts.spatial_axes, model.facts.in_channels) == (3, 1)
    assert model.reach.halo == ((1, 1), (2, 2), (2, 2))


def test_memory_of_a_forward_pass_is_counted() -> None:
    """Two activations of 8 float32 channels live at once: 64 bytes a pixel."""
    network = seq(C2(1, 8, 1), C2(8, 8, 1), C2(8, 8, 1))
    assert as_model(network).facts.bytes_per_pixel == pytest.approx(64, rel=0.15)


def test_the_users_module_is_not_changed() -> None:
    network = networks.UNet(2, 2)
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    model = as_model(network)
    assert model.facts is not None
    assert model.reach is not None
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("shape mismatch inside")


class GivesTwo(nn.Module):
    def forward(self, x):
        return x, x


class NoChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        if x.ndim != 3:
            raise ValueError(f"{x.ndim} axes and not 3")
        return self.a(x[:, None])


class GivesVector(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        return self.a(x).mean((2, 3))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Broken(), "shape mismatch inside"),
        (GivesTwo(), "2 outputs"),
        (GivesVector(), "gives"),
        (Apply(C3(1, 2, 1), lambda y: y.amax(2)), "gives no image"),  # z is projected
        (NoChannels(), "4 axes and not 3. State a size .* If no size .* wrap it"),
    ],
)
def test_what_is_no_image_network_is_refused_in_a_sentence(network, words) -> None:
    with pytest.raises(ModelError, match=words):
        _ = as_model(network).facts


@pytest.mark.parametrize(
    ("folder", "factory", "period", "reach"),
    [
        ("unet2d_nuclei_broad", "nuclei_broad", 8, (53, 53)),
        ("unet2d_covid_if_instancenorm", "covid_instancenorm", 8, (53, 53)),
        ("unet2d_nuclei_batchnorm", "nuclei_batchnorm", 16, (108, 123)),
    ],
)
def test_real_networks(real_models, folder, factory, period, reach) -> None:
    """Aligned reach; at the worst phase it is 58 and 121/136, as their README says."""
    from pathlib import Path

    here = Path(__file__).parents[1] / "real_networks.py"
    weights = real_models / folder / "state_dict.safetensors"
    model = load_model(f"{here}:{factory}@{weights}", trust=True)
    assert model.facts.period == (period, period)
    assert model.reach.convolutional == (reach, reach)
    assert model.reach.bounded == (factory != "covid_instancenorm")
    assert len(model.facts.statistics) == (14 if factory == "covid_instancenorm" else 0)
    vectors = real_models / folder / "test_input.npy"
    if vectors.exists():
        x = np.load(vectors).astype(np.float64)
        z = ((x - x.mean()) / (x.std() + 1e-6)).astype(np.float32)
        y = model.runner()(z)
        expected = np.load(real_models / folder / "test_output.npy")
        if factory == "nuclei_broad":  # published after a sigmoid
            y = 1 / (1 + np.exp(-y))
        assert np.abs(y - expected).max() < 1e-5


def test_a_network_of_unequal_poolings_is_measured_with_small_inputs() -> None:
    """Inputs of 8196 x 8196 were tried, since 64, 128, 256 are no multiples of 6."""
    network, most = family("poolings by 3 and 2"), 0

    def watched(module, given):
        nonlocal most
        most = max(most, given[0][0, 0].numel())

    network.register_forward_pre_hook(watched)
    model = as_model(network)
    assert (model.facts.period, model.reach.halo) == ((6, 6), ((10, 10), (10, 10)))
    assert most <= 64 * 64


class RarelyDropped(nn.Module):
    """Stochastic depth at test time: two of three pairs of runs are the same."""

    def __init__(self):
        super().__init__()
        self.first, self.block = (nn.Conv2d(n, 4, 3, padding=1) for n in (1, 4))

    def forward(self, x):
        x = self.first(x)
        return x + self.block(x) * (torch.rand(x.shape[0], 1, 1, 1) > 0.2)


class DroppedByTensor(nn.Module):
    """Drops channels, each with a probability of its own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.register_buffer("keep", torch.tensor([0.5, 0.6]))

    def forward(self, x):
        kept = torch.empty(x.shape[0], 2).bernoulli_(self.keep.expand(x.shape[0], 2))
        return self.conv(x) * kept[..., None, None]


def test_a_network_may_draw_with_probabilities_in_a_tensor() -> None:
    assert as_model(DroppedByTensor().eval()).facts.noise > 0.1


def test_a_network_that_seldom_drops_a_block_is_random_too() -> None:
    torch.manual_seed(1)
    model = as_model(RarelyDropped().eval())
    assert model.facts.noise > 0.1
    assert model.reach.halo == ((2, 2), (2, 2))
    assert model.describe().startswith("This network is random")


def test_a_missing_library_is_named_at_once() -> None:
    class Needing(nn.Conv2d):
        runs = 0

        def forward(self, x):
            Needing.runs += 1
            import a_library_that_is_missing  # noqa: F401

    with pytest.raises(ModelError, match=r"a library .*a_library_that_is_missing.*: install"):
        _ = as_model(Needing(1, 1, 3)).facts
    assert Needing.runs == 1


def test_a_small_kernel_is_no_grid_of_positions() -> None:
    """One output channel: its weights ``(1, C, 3, 3)`` look like those of 3 by 3 patches."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)).eval()
    hints = Hints(weights=tuple(tuple(p.shape) for p in network.parameters()))
    assert InputSearch(Trials(network), hints).find().shape == (64, 64)


class Between(nn.Module):
    """Attention between all pixels, beside a skip, between two convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 5, padding=2)
        self.attend = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, x):
        x = self.first(x)
        tokens = x.flatten(2).transpose(1, 2)
        seen = self.attend(tokens, tokens, tokens, need_weights=False)[0]
        return self.last(x + seen.transpose(1, 2).reshape(x.shape))


class ByHand(Between):
    """The same with attention written out, and a layer of the network's own around it."""

    def __init__(self):
        super().__init__()
        self.attend = Mixing()

    def forward(self, x):
        return self.last(self.attend(self.first(x)))


class Mixing(nn.Module):
    """A convolution, attention between all pixels, and a skip."""

    def __init__(self):
        super().__init__()
        self.before = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        y = self.before(x).flatten(2)
        return x + (y @ (y.transpose(1, 2) @ y).softmax(-1)).reshape(x.shape)


@pytest.mark.parametrize("make", [Between, ByHand])
def test_the_reach_of_the_rest_is_measured_with_attention_held(make) -> None:
    rest = ((3, 3), (3, 3))  # 1 and 2 px of the convolutions around it
    model = as_model(make().eval())
    reach = model.reach
    assert reach.couplings == ("attend",)
    assert (reach.rest, reach.rest_measured, reach.measured) == (rest, True, None)
    # the operations may imply less
    facts = model.facts
    assert facts.implied is not None
    less = replace(facts, implied=replace(facts.implied, halo=((0, 0), (3, 3))))
    held = HeldAttention(model.forward, model.module, reach.couplings)
    assert replace(reach, rest=less.implied.halo).with_rest(measure_rest(held, less)) == replace(
        reach, measured=rest, implied=less.implied.halo
    )
    assert held.complete


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "said"),
    [
        (3, 2, 1, "1/2 px of the input has no output.* Pad its output by 1 pixel, as output_pad"),
        (2, 3, 0, "1/3 px of the input has no output.* Pad its output by 1 pixel"),
        (3, 2, 0, r"covers 1/2 px more than the input.* Cut 1 pixel off the end of its output\."),
        (6, 4, 0, "covers 1/2 px more than the input.* Cut 2 pixels off the end"),
    ],
)
def test_a_part_of_an_input_pixel_too_few_or_too_many(kernel, stride, padding, said) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ConvTranspose2d(2, 1, kernel, stride, padding))
    with pytest.raises(ModelError, match=said):
        _ = as_model(network.eval()).facts


class PadsToFives(nn.Module):
    """Windows of 5, and a reshape to the size before they were filled up, as in Swin2SR."""

    def forward(self, x):
        y = F.pad(x, (0, -x.shape[3] % 5, 0, -x.shape[2] % 5))
        return y.reshape(-1).reshape(x.shape)


class Of256(nn.Module):
    """A network of one size, as a HoVerNet is."""

    def forward(self, x):
        if tuple(x.shape[2:]) != (256, 256):
            raise ValueError("Input size should be 256 x 256")
        return x


@pytest.mark.parametrize(("network", "size"), [(PadsToFives(), 65), (Of256(), 256)])
def test_an_input_is_found_in_few_pixels(network, size) -> None:
    given = []

    def run(x):
        given.append(x.numel())
        return network(x)

    found = InputSearch(Trials(run), Hints(spatial_axes=2, in_channels=1)).find()
    assert found.shape == (size, size)
    assert sum(given) <= 8 * 64**2 + size**2


def test_sizes_that_follow_one_another_are_no_step_of_one() -> None:
    """Patches of 16, of which three are joined: 96 to 111 px, and then 144."""
    sizes = Sizes(lambda n: n if n // 16 % 3 == 0 else None, 96, 96, None)
    assert sizes.find() == (1, 48)


def test_pixels_that_patches_leave_out_are_no_part_of_the_scale() -> None:
    """Patches by 7, of which five are joined, give 385 px more for 384 px more, and for 385."""

    def output(n: int) -> int | None:
        patches = (n + 2) // 7
        return None if patches % 5 else 7 * patches

    assert Sizes(output, 140, 140, None).find() == (1, 35)


def test_no_other_period_is_sought_where_no_shift_can_be_followed() -> None:
    """It took 236 forward passes, and seconds of most networks with aligned corners."""
    network = Corners().eval()
    trials = Trials(lambda x: network(x.clone()), patience=None, module=network)
    facts = probe(trials)
    assert facts.period == (2, 2)
    assert not facts.period_found
    assert trials.count < 100


class SquarePatches(nn.Module):
    """Tokens of patches and of a class, taken for those of a square; as a DPT does."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.embed, self.up = nn.Conv2d(1, 4, 16, 16), nn.ConvTranspose2d(4, 2, 16, 16)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)[:, 1:]
        side = int(tokens.shape[1] ** 0.5)
        return self.up(tokens.transpose(1, 2).reshape(len(x), -1, side, side))


def test_sizes_of_a_network_of_squares_are_measured_in_squares() -> None:
    facts = as_model(SquarePatches().eval()).facts
    assert [axis.fixed for axis in facts.lattice] == [64, 64]
    assert facts.scale == (1, 1)
    assert not facts.valid


def test_nothing_is_computed_again_in_float64_where_both_agree(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(Slab, "precise", property(lambda slab: seen.append(slab)))
    assert as_model(seq(C2(1, 2, 3, padding=1)).eval()).reach.halo == ((1, 1), (1, 1))
    assert not seen


def test_axes_that_are_read_alike_are_measured_with_fewer_sizes(monkeypatch) -> None:
    shapes, run = [], Trials.__call__

    def call(self, x):
        shapes.append(tuple(x.shape[2:]))
        return run(self, x)

    monkeypatch.setattr(Trials, "__call__", call)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 2, 3, padding=1), nn.MaxPool3d(4), nn.Upsample(scale_factor=4)
    )  # fmt: skip
    facts = as_model(network.eval()).facts
    one, *others = facts.lattice
    assert others == [one, one]
    assert (one.period, one.step) == (4, 4)
    shapes = [shape for shape in shapes if len(shape) == 3]
    long = [[s for s in shapes if 60 < s[axis] < 150] for axis in range(3)]
    assert len(long[0]) > len(long[1]) == len(long[2])
