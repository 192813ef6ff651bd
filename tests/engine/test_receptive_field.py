"""Receptive fields by phase, reach, what couples the whole tile, and the rules for tiles.

The oracle is interval arithmetic over single layers, written down here layer by layer: which input
pixels does output pixel ``o`` of each layer read? It knows nothing of tensors. Where possible the
numbers known by hand stand beside it, and cropping proves them.
"""

from __future__ import annotations

import copy
import functools
import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

import couplings
import networks
from seamscope.errors import SettingsError
from seamscope.models.formats import load_model
from seamscope.models.model import Model, as_model
from seamscope.models.reach import worst
from seamscope.models.sentences import some_names
from seamscope.receptive_field.fields import measure_receptive_field
from seamscope.receptive_field.grid_rules import Windows, check_windows
from seamscope.tiling import Lattice

# -- the oracle: a layer is a function from an output pixel to (lowest, highest) input pixel


def image(o):
    return o, o


def hull(before, pixels):
    spans = [before(i) for i in pixels]
    return min(low for low, _ in spans), max(high for _, high in spans)


def layer(reads):
    """Make a layer of the pixels that its output pixel reads."""

    def on(before, *arguments, **options):
        return functools.lru_cache(None)(lambda o: hull(before, reads(o, *arguments, **options)))

    return on


@layer
def window(o, k, s=1, p=0, d=1):
    return [o * s - p + d * tap for tap in range(k)]


@layer
def transposed(o, k, s, p=0):
    return [i for i in range(o // s - k, o // s + k + 2) if 0 <= o + p - i * s < k]


@layer
def bilinear(o, f=2):
    first = math.floor((o + Fraction(1, 2)) / f - Fraction(1, 2))
    return [first, first + 1]


@layer
def nearest(o, f=2):
    return [o // f]


@layer
def shifted(o, by):
    return [o + by]


def both(a, b):
    return functools.lru_cache(None)(lambda o: hull(lambda f: f(o), (a, b)))


def twice(before, p=1):
    return window(window(before, 3, p=p), 3, p=p)


def unet(levels, up="transposed"):
    skips, x = [], image
    for _ in range(levels):
        x = twice(x)
        skips.append(x)
        x = window(x, 2, 2)
    x = twice(x)
    for _ in range(levels):
        x = transposed(x, 2, 2) if up == "transposed" else bilinear(x)
        x = twice(both(x, skips.pop()))
    return x


def valid_unet(levels):
    """Output pixel 0 is the first that exists: skips are cropped to their centre."""
    skips, x = [], image
    for _ in range(levels):
        x = twice(x, p=0)
        skips.append(x)
        x = window(x, 2, 2)
    x = twice(x, p=0)
    lost = 0  # pixels of a level's skip that its result lacks
    for _ in range(levels):
        cut = lost + 4
        x = twice(both(transposed(x, 2, 2), shifted(skips.pop(), cut)), p=0)
        lost = 2 * cut + 4
    return x


def nuclei_batchnorm():
    """Skips are added; up by transposed convolutions of kernel 3."""
    skips, x = [], image
    for _ in range(4):
        x = twice(x)
        skips.append(x)
        x = window(x, 2, 2)
    x = window(x, 3, p=1)
    for _ in range(4):
        x = both(transposed(twice(x), 3, 2, 1), skips.pop())
    return x


def expected(field, phases, scale=1, crop=0):
    """(before, after) of each phase, beyond the pixels that output pixel ``o`` covers."""
    sides = []
    for o in range(phases):
        low, high = field(o)
        first = math.floor(o / Fraction(scale)) + crop
        last = math.ceil((o + 1) / Fraction(scale)) + crop - 1
        sides.append((first - low, high - last))
    return tuple(sides)


C2, C3, T2 = nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d


def seq(*layers):
    return nn.Sequential(*layers)


class Skips(nn.Module):
    """Stride-2 convolutions down, nearest or odd transposed kernels up, one skip added."""

    def __init__(self):
        super().__init__()
        self.first = C2(1, 4, 3, padding=1)
        self.down = C2(4, 4, 5, stride=2, padding=2)
        self.deep = C2(4, 4, 3, padding=2, dilation=2)
        self.up = T2(4, 4, 5, stride=2, padding=2, output_padding=1)
        self.last = C2(4, 2, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.up(self.deep(self.down(x))))


def skips():
    x = window(image, 3, p=1)
    deep = window(window(x, 5, 2, 2), 3, p=2, d=2)
    return both(x, transposed(deep, 5, 2, 2))


CASES = {
    "plain": (seq(C2(1, 4, 5, padding=2), C2(4, 2, 3, padding=1)), window(image, 7, p=3), {}),
    "even kernel": (seq(C2(1, 4, 2)), window(image, 2), {}),
    "dilated": (
        seq(C2(1, 4, 3, padding=4, dilation=4), C2(4, 2, 3, padding=9, dilation=9)),
        window(window(image, 3, p=4, d=4), 3, p=9, d=9),
        {},
    ),
    "strided, half as large": (
        seq(C2(1, 4, 3, padding=1, stride=2), C2(4, 2, 3, padding=1)),
        window(window(image, 3, 2, 1), 3, p=1),
        {"scale": Fraction(1, 2)},
    ),
    "strided and back": (
        seq(C2(1, 4, 5, padding=2, stride=4), T2(4, 2, 4, 4)),
        transposed(window(image, 5, 4, 2), 4, 4),
        {},
    ),
    "pooled by 3": (
        seq(nn.MaxPool2d(3), C2(1, 4, 3, padding=1), T2(4, 2, 3, 3)),
        transposed(window(window(image, 3, 3), 3, p=1), 3, 3),
        {},
    ),
    "overlapping pooling": (
        seq(nn.MaxPool2d(3, 2, 1), C2(1, 4, 3, padding=1), nn.Upsample(scale_factor=2)),
        nearest(window(window(image, 3, 2, 1), 3, p=1)),
        {},
    ),
    "odd transposed kernel": (
        seq(nn.AvgPool2d(2), C2(1, 4, 3, padding=1), T2(4, 2, 3, 2, 1, output_padding=1)),
        transposed(window(window(image, 2, 2), 3, p=1), 3, 2, 1),
        {},
    ),
    "odd transposed kernel 5": (Skips(), skips(), {}),
    "bilinear": (
        seq(nn.AvgPool2d(2), C2(1, 2, 3, padding=1), nn.Upsample(scale_factor=2, mode="bilinear")),
        bilinear(window(window(image, 2, 2), 3, p=1)),
        {},
    ),
    "twice as large": (
        seq(C2(1, 4, 3, padding=1), nn.Upsample(scale_factor=2, mode="bilinear")),
        bilinear(window(image, 3, p=1)),
        {"scale": 2},
    ),
    "U-Net 2": (networks.UNet(2, 2), unet(2), {"aligned": 22, "worst": 23}),
    "U-Net 3": (networks.UNet(2, 3), unet(3), {"aligned": 46, "worst": 51}),
    "U-Net 2 bilinear": (
        networks.UNet(2, 2, up="bilinear"),
        unet(2, "bilinear"),
        {"aligned": 25, "worst": 26},
    ),
    "U-Net 3 bilinear": (
        networks.UNet(2, 3, up="bilinear"),
        unet(3, "bilinear"),
        {"aligned": 53, "worst": 58},
    ),
    "U-Net 3D": (networks.UNet(3, 2, features=2), unet(2), {"aligned": 22, "worst": 23}),
    "U-Net InstanceNorm": (networks.UNet(2, 2, norm="instance"), unet(2), {"worst": 23}),
    "valid U-Net": (networks.ValidUNet(2), valid_unet(2), {"aligned": 0, "worst": 23}),
}


def model_of(name):
    network, _, facts = CASES[name]
    return as_model(network), facts


@pytest.mark.parametrize("name", CASES)
def test_every_phase_is_as_interval_arithmetic_has_it(name) -> None:
    model, facts = model_of(name)
    field = CASES[name][1]
    lattice = model.facts.lattice[0]
    assert lattice.scale == facts.get("scale", 1)
    right = expected(field, int(lattice.period * lattice.scale), lattice.scale, lattice.crop[0])
    assert model.fields == (right,) * model.facts.spatial_axes
    assert [worst(axis) for axis in model.fields] == [
        tuple(max(0, *side) for side in zip(*right, strict=True))
    ] * model.facts.spatial_axes
    if "worst" in facts:
        assert set(map(worst, model.fields)) == {(facts["worst"],) * 2}
    if "aligned" in facts:
        assert set(model.reach.halo) == {(facts["aligned"],) * 2}
    assert model.reach.convolutional[0] == aligned_halo(field, lattice)


def aligned_halo(field, lattice):
    """Output pixels of a tile on the grid that look beyond it, as input pixels; by brute force."""
    width = sum(lattice.crop)  # the tile's end, where its outputs are counted back from there
    low = [o + 1 for o in range(300) if field(o)[0] < 0]
    high = [-o for o in range(-300, 0) if field(o)[1] >= width]
    return tuple(math.ceil(max([0, *side]) / lattice.scale) for side in (low, high))


# -- cropping proves it: in float64 noise is 1e-16, so that no pixel's influence is too weak to see


def loud(network):
    """Copy in float64 whose deepest path is as strong as its shallow ones."""
    again = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for module in again.modules():
            if isinstance(module, (C2, C3, T2, nn.ConvTranspose3d)):
                module.weight.mul_(3)
    return again


def difference(network, lattice, ndim):
    """Largest difference along the last axis between a tile on the grid and the whole, float64."""
    size = lattice.size_at_least(4 * 51 + 12 * lattice.pitch)
    start = -(-140 // lattice.pitch) * lattice.pitch
    random = torch.Generator().manual_seed(1)
    narrow = (lattice.size_at_least(16),) * (ndim - 1)
    length = lattice.size_at_least(size + 2 * start)
    x = torch.randn(4, 1, *narrow, length, dtype=torch.float64, generator=random)
    with torch.inference_mode():
        tile = network(x[..., start : start + size])
        moved = int(start * lattice.scale)
        whole = network(x)[..., moved : moved + tile.shape[-1]]
    return (tile - whole).abs().flatten(0, -2).amax(0) / whole.std()


@pytest.mark.parametrize("name", [name for name in CASES if name != "U-Net InstanceNorm"])
def test_cropping_at_the_halo_equals_the_whole_and_one_pixel_less_does_not(name) -> None:
    torch.manual_seed(3)
    model, _ = model_of(name)
    lattice = model.facts.lattice[-1]
    apart = difference(loud(model.module), lattice, model.facts.spatial_axes) > 1e-13
    low, high = (int(side * lattice.scale) for side in model.reach.halo[-1])
    pixel = math.ceil(lattice.scale)  # an input pixel less: so many output pixels
    end = apart.numel() - high
    assert not apart[low:end].any()
    assert low == 0 or apart[low - pixel : low].any()
    assert high == 0 or apart[end : end + pixel].any()


@pytest.mark.parametrize(
    ("folder", "factory", "expected"),
    [
        ("unet2d_nuclei_broad", "nuclei_broad", ((58, 58), (53, 53))),
        ("unet2d_covid_if_instancenorm", "covid_instancenorm", ((58, 58), (53, 53))),
        ("unet2d_nuclei_batchnorm", "nuclei_batchnorm", ((121, 136), (108, 123))),
    ],
)
def test_real_networks(real_models, folder, factory, expected) -> None:
    """Worst phase as their README has it, every phase as by hand; proved by cropping."""
    here = Path(__file__).parents[1] / "real_networks.py"
    weights = real_models / folder / "state_dict.safetensors"
    model = load_model(f"{here}:{factory}@{weights}", trust=True)
    found = measure_receptive_field(None, model, most_tiles=0)
    assert found.convolutional == (expected[0],) * 2
    assert found.reach.convolutional == (expected[1],) * 2
    assert found.bounded == (found.theoretical is not None) == (factory != "covid_instancenorm")
    field = nuclei_batchnorm() if factory == "nuclei_batchnorm" else unet(3, "bilinear")
    assert found.fields[0] == expected_fields(field, model.facts.lattice[0])
    if found.bounded:
        apart = difference(model.module.double(), model.facts.lattice[0], 2) > 1e-13
        low, high = found.halo[0]
        assert not apart[low : apart.numel() - high].any()
        assert apart[low - 1]
        assert apart[apart.numel() - high]
    else:
        assert len(found.couplings) == 14
        assert found.couplings == model.facts.implied.statistics


def expected_fields(field, lattice):
    phases = int(lattice.period * lattice.scale)
    return expected(field, phases, lattice.scale, lattice.crop[0])


# -- what couples the whole tile


# name: network, halo of whole network, halo of the convolutions, layers that couple the tile
NORMS = tuple(
    f"{block}.{layer}"
    for block in ("down.0", "down.1", "bottom", "merge.0", "merge.1")
    for layer in (1, 4)
)
COUPLINGS = {
    "UNETR": (couplings.Unetr(), None, None, ("attention",)),
    "squeeze-and-excite": (couplings.Excite(), None, 2, ("gate.0",)),
    "pyramid pooling": (couplings.Pyramid(), None, None, ("adaptive pooling",)),
    "aligned corners": (couplings.Corners(), None, None, ("upsampling with aligned corners",)),
    "GroupNorm": (networks.UNet(2, 2, norm="group"), None, 22, NORMS),
    "InstanceNorm": (networks.UNet(2, 2, norm="instance"), None, 22, NORMS),
    "LayerNorm over space": (couplings.SpatialNorm(), None, 1, ("1 x layer normalization",)),
    "LayerNorm over channels": (couplings.ChannelNorm(), 1, 1, ()),
    "window attention": (couplings.Windows8(), 1, 1, ()),
}


@pytest.mark.parametrize("name", COUPLINGS)
def test_what_couples_the_whole_tile_is_told_and_named(name) -> None:
    network, halo, convolutional, names = COUPLINGS[name]
    found = measure_receptive_field(None, as_model(network), most_tiles=0)
    assert found.bounded == (halo is not None)
    assert found.halo == (None if halo is None else ((halo, halo),) * 2)
    assert found.reach.convolutional == (
        None if convolutional is None else ((convolutional, convolutional),) * 2
    )
    assert found.couplings == names
    if names:
        assert some_names(names) in " ".join(found.sentences())
    told = json.loads(json.dumps(found.to_json()))
    assert told["bounded"] == (told["theoretical"] is not None) == (told["halo"] is not None)
    assert (told["convolutional"] is None) == (convolutional is None)
    assert told["couplings"] == list(names)


def test_window_attention_needs_its_windows_grid() -> None:
    """Halo 1 for the convolution, on multiples of 8; within a window everything is seen."""
    model = as_model(couplings.Windows8())
    assert model.facts.period == (8, 8)
    assert model.fields[0] == tuple(
        # (before, after) of phase p: its window, that of its neighbour for the convolution
        (p if p else 8, 7 - p if p < 7 else 8)
        for p in range(8)
    )


@pytest.mark.parametrize(
    "network", [couplings.Pyramid(), couplings.Corners()], ids=["pyramid", "aligned corners"]
)
def test_local_at_one_size_is_not_taken_for_local(network) -> None:
    """A tile's prediction changes with the tile's size, although far pixels do not matter."""
    model = as_model(network)
    assert model.reach.depends_on_size
    assert not model.reach.bounded
    assert "size of its tile" in model.describe()
    x = torch.randn(1, 1, 96, 480)
    with torch.inference_mode():
        apart = (network(x)[..., 200:280] - network(x[..., 80:400])[..., 120:200]).abs().max()
    assert apart > 1e-3 * network(x).std()


@pytest.mark.filterwarnings("ignore")  # scripting, tracing and exporting warn of their own end
@pytest.mark.parametrize("name", ["UNETR", "squeeze-and-excite", "InstanceNorm", "GroupNorm"])
def test_all_formats_are_told_alike(name) -> None:
    network = COUPLINGS[name][0].eval()
    plain = measure_receptive_field(None, as_model(network), most_tiles=0)
    example = torch.randn(2, 1, 64, 64)
    free = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    forms = [torch.jit.trace(network, example[:1])] if name != "UNETR" else []  # fixes its sizes
    forms += [torch.jit.script(network)] if name == "squeeze-and-excite" else []
    exported = torch.export.export(network, (example,), dynamic_shapes=(free,))
    for form in [*forms, exported.module()]:
        found = measure_receptive_field(None, Model(form, "form"), most_tiles=0)
        assert found.reach == plain.reach
        assert found.fields == plain.fields
        assert bool(found.couplings) == bool(plain.couplings)  # not all keep layers' names


class Rectified(nn.Module):
    """A rectifier, written so that NaN passes or so that a comparison swallows it."""

    def __init__(self, swallows):
        super().__init__()
        self.swallows = swallows

    def forward(self, x):
        return torch.where(x > 0, x, torch.zeros_like(x)) if self.swallows else torch.relu(x)


def test_what_swallows_nan_is_measured_and_told() -> None:
    torch.manual_seed(0)

    def network(swallows):
        return seq(
            C2(1, 16, 3, padding=1),
            nn.AvgPool2d(4),
            Rectified(swallows),
            C2(16, 16, 3, padding=1),
            T2(16, 8, 4, 4),
            C2(8, 2, 5, padding=2),
        )

    found = measure_receptive_field(None, as_model(network(True)), most_tiles=0)
    twin = measure_receptive_field(None, as_model(network(False)), most_tiles=0)
    assert found.fields == twin.fields
    assert found.halo == twin.halo
    assert (found.reach.swallows_nan, twin.reach.swallows_nan) == (True, False)
    assert found.to_json()["swallows_nan"]
    assert any("swallows NaN" in sentence for sentence in found.sentences())


# -- the period


@pytest.mark.parametrize(("size", "step"), [(4, 4), (7, 7), (8, 8)])
def test_sizes_that_are_rounded_up_are_no_odd_scale(size, step) -> None:
    """Kernel 1 stride s, then back: outputs are multiples of s, and s - 1 more give s more."""
    facts = as_model(seq(C2(1, 2, 1, stride=size), T2(2, 1, size, size))).facts
    assert [(a.scale, a.period, a.step) for a in facts.lattice] == [(1, step, step)] * 2


# -- rules for tiles, strides and windows


EIGHT = Lattice(period=8, step=8)
VALID = Lattice(period=4, step=4, crop=(20, 20))
HALF = Lattice(period=4, step=4, scale=Fraction(1, 2))


@pytest.mark.parametrize(
    ("windows", "lattice", "halo", "expected"),
    [
        (Windows(tile=104, stride=8, core=8, training=9), EIGHT, 46, {}),
        (Windows(tile=256, stride=160, core=160), EIGHT, 46, {}),
        (Windows(tile=200, stride=107), EIGHT, 46, {"stride": (104,)}),
        (Windows(tile=256, stride=107), EIGHT, 46, {"stride": (104, 112)}),
        (Windows(tile=200, stride=112), EIGHT, 46, {"stride": (104,)}),
        (Windows(tile=203), EIGHT, 46, {"tile": (200, 208)}),
        (Windows(tile=96), EIGHT, 46, {"tile": (104,)}),
        (Windows(tile=100), EIGHT, 46, {"tile": (104,)}),
        (Windows(core=148), Lattice(period=16, step=16), 0, {"core": (144, 160)}),  # figure 4 e, f
        (Windows(core=20), Lattice(period=16, step=16), 0, {"core": (16, 32)}),  # figure 4 b, c
        (Windows(training=16), Lattice(period=16), 0, {"training": (17,)}),
        (Windows(training=8), EIGHT, 0, {"training": (16,)}),  # 9 is no size of this network
        (Windows(tile=92, stride=52, core=52), VALID, 0, {}),
        (Windows(tile=92, stride=56), VALID, 0, {"stride": (52,)}),
        (Windows(core=3), HALF, 0, {"core": (2, 4)}),
        (Windows(core=2, training=3), HALF, 0, {}),
        (Windows(tile=60), Lattice(fixed=64), 0, {"tile": (64,)}),
    ],
)
def test_rules_and_the_nearest_values_that_obey_them(windows, lattice, halo, expected) -> None:
    found = check_windows(windows, [lattice], [(halo, halo)])
    assert {each.what: each.nearest for each in found} == expected
    for each in found:
        assert str(each.value) in each.sentence
        assert all(str(n) in each.sentence for n in each.nearest)
        obeying = [
            check_windows(Windows(**{**vars(windows), each.what: n}), [lattice], [(halo, halo)])
            for n in each.nearest
        ]
        assert any(each.what not in {left.what for left in again} for again in obeying)


def test_axes_that_break_the_same_rule_are_told_together() -> None:
    (found,) = check_windows(Windows(stride=(50, 48, 50)), [EIGHT] * 3)
    assert (found.axes, found.nearest) == ("zx", (48, 56))
    assert found.sentence.startswith("Stride 50 along z and x is no multiple of the period 8")
    with pytest.raises(SettingsError, match="2 numbers for 3 spatial axes"):
        check_windows(Windows(stride=(50, 48)), [EIGHT] * 3)
