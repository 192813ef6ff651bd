"""Networks that people run, in small: what is measured of them, against tiles cut by hand.

The judge knows nothing of Seamscope but the facts it judges: a tile on the reported grid, with the
reported halo cut off, must equal the untiled prediction to 1e-5 standard deviations; one period off
the grid or short of the halo it must not.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import seamscope
from families import Apply, Given
from seamscope.compare.certificate import certify
from seamscope.errors import ModelError
from seamscope.models.formats import load_model
from seamscope.models.model import Model, as_model
from seamscope.models.sentences import caution
from seamscope.planning.case import Case
from seamscope.settings import Settings

C = nn.Conv2d


def strong(network: nn.Module) -> nn.Module:
    """Weights by which deep paths are as strong as shallow ones."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
    return network.eval()


class Resizing(nn.Module):
    """A U-Net that takes any size: odd ones are rounded down, and resized to the skip."""

    def __init__(self, *poolings, width=4, pool=F.max_pool2d):
        super().__init__()
        depth, self.poolings, self.pool = len(poolings), poolings, pool
        self.down = nn.ModuleList(
            C(1 if i == 0 else width, width, 3, padding=1) for i in range(depth)
        )
        self.up = nn.ModuleList(C(2 * width, width, 3, padding=1) for _ in range(depth))
        self.middle, self.head = C(width, width, 3, padding=1), C(width, 2, 1)

    def forward(self, x):
        skips = []
        for conv, pooling in zip(self.down, self.poolings, strict=True):
            x = F.relu(conv(x))
            skips.append(x)
            x = self.pool(x, pooling)
        x = F.relu(self.middle(x))
        for conv, skip in zip(self.up, reversed(skips), strict=True):
            x = F.interpolate(x, size=skip.shape[2:])
            x = F.relu(conv(torch.cat([skip, x], 1)))
        return self.head(x)


class Windows(nn.Module):
    """Attention within windows of a feature map, unshifted and shifted, masked at the ends."""

    def __init__(self, window, patch, shifted=True, width=8):
        super().__init__()
        torch.manual_seed(0)
        self.window, self.patch = window, patch
        self.shifts = (0, window // 2) if shifted else (0,)
        self.embed = C(1, width, patch, patch)
        self.mix = nn.ModuleList(nn.Linear(width, 3 * width) for _ in self.shifts)
        self.head = C(width, 2, 1)

    def attend(self, x, mix, shift):
        n, c, h, w = x.shape
        size = self.window
        down, right = -h % size, -w % size
        y = F.pad(x, (0, right, 0, down)).roll((-shift, -shift), (2, 3))
        rows, columns = (h + down) // size, (w + right) // size
        parts = y.reshape(n, c, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1)
        q, k, v = mix(parts.reshape(-1, size * size, c)).chunk(3, -1)
        scores = 3 * q @ k.transpose(-1, -2)
        if shift:
            label = torch.zeros(h + down, w + right)
            for number, part in enumerate((slice(-size, -shift), slice(-shift, None))):
                label[part] += 10 * (number + 1)
                label[:, part] += number + 1
            label = (
                label.reshape(rows, size, columns, size).permute(0, 2, 1, 3).reshape(-1, size**2)
            )
            scores = scores.masked_fill((label[:, :, None] != label[:, None]), -100.0)
        y = (torch.softmax(scores, -1) @ v).reshape(n, rows, columns, size, size, c)
        y = y.permute(0, 5, 1, 3, 2, 4).reshape(n, c, h + down, w + right)
        return x + y.roll((shift, shift), (2, 3))[:, :, :h, :w]

    def forward(self, x):
        y = self.embed(x)
        for mix, shift in zip(self.mix, self.shifts, strict=True):
            y = self.attend(y, mix, shift)
        return self.head(F.interpolate(y, scale_factor=self.patch))


class Capped(Windows):
    """Windows as large as the shorter side of the map where that is smaller, unshifted then."""

    def attend(self, x, mix, shift):
        full, short = self.window, min(x.shape[2:])
        self.window = min(full, short)
        y = super().attend(x, mix, shift if short > full else 0)
        self.window = full
        return y


class Cut(nn.Module):
    def __init__(self, inner, before, after):
        super().__init__()
        self.inner, self.part = inner, slice(before, -after if after else None)

    def forward(self, x):
        return self.inner(x)[:, :, self.part, self.part]


class Overlapping(nn.Module):
    """Strides 4, 2 and 2 by overlapping patches; all features, and the output, at a quarter."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = C(1, 4, 7, 4, 3), C(4, 4, 3, 2, 1), C(4, 4, 3, 2, 1)
        self.head = C(12, 2, 1)

    def forward(self, x):
        first = F.gelu(self.a(x))
        second = F.gelu(self.b(first))
        parts = [first, second, F.gelu(self.c(second))]
        sized = [F.interpolate(y, first.shape[2:], mode="bilinear") for y in parts]
        return self.head(torch.cat(sized, 1))


def seq(*layers):
    return nn.Sequential(*layers)


# name, network, period, crop, scale
FAMILIES = [
    *(
        (f"stride {s}, kernel {k}", seq(C(1, 4, k, s, k // 2), nn.ReLU(), C(4, 2, 3, padding=1)), s, None, Fraction(1, s))  # noqa: E501
        for s, k in ((2, 3), (3, 3), (4, 7), (5, 5), (7, 7), (8, 15), (16, 31))
    ),
    *(  # one output pixel more than input pixels: it is left out
        (f"stride {s}, kernel {k}", seq(C(1, 4, k, s, k // 2), nn.ReLU(), C(4, 2, 3, padding=1)), s, (0, 0), Fraction(1, s))  # noqa: E501
        for s, k in ((2, 4), (3, 6), (8, 16))
    ),
    ("padded by 2 for a kernel of 3", seq(C(1, 4, 3, padding=2), nn.ReLU(), C(4, 2, 1)), 1, (0, 0), 1),  # noqa: E501
    ("poolings by 5 and 2", seq(C(1, 4, 3, padding=1), nn.AvgPool2d(5), nn.AvgPool2d(2), C(4, 2, 3, padding=1), nn.Upsample(scale_factor=10)), 10, (0, 0), 1),  # noqa: E501
    ("patch 14", seq(C(1, 4, 14, 14), C(4, 2, 3, padding=1)), 14, (0, 0), Fraction(1, 14)),
    ("overlapping patches", Overlapping(), 16, (0, 0), Fraction(1, 4)),
    ("resizing, depth 4", Resizing(*[2] * 4), 16, (0, 0), 1),
    ("resizing, poolings by 7 and 11", Resizing(7, 11, pool=F.avg_pool2d), 77, (0, 0), 1),
    ("resizing, depth 7", Resizing(*[2] * 7), 128, (0, 0), 1),
    ("pooling by 3 and 2", seq(C(1, 4, 3, padding=1), nn.MaxPool2d(3), nn.MaxPool2d(2), C(4, 2, 3, padding=1), nn.Upsample(scale_factor=6)), 6, (0, 0), 1),  # noqa: E501
    ("windows of 7, patch 4", Windows(7, 4), 28, (0, 0), 1),
    ("windows of 7, patch 16, before kernels of 241", seq(nn.Tanh(), Windows(7, 16), C(2, 2, (241, 1), padding=(120, 0)), C(2, 2, (1, 241), padding=(0, 120))), 112, (0, 0), 1),  # noqa: E501
    ("windows of 8", Windows(8, 1), 8, (0, 0), 1),
    ("windows of 5, patch 2, unshifted", Windows(5, 2, shifted=False), 10, (0, 0), 1),
    ("cut at the end", Cut(Resizing(*[2] * 2), 0, 8), 4, (0, 8), 1),
    ("cut at the beginning", Cut(seq(C(1, 4, 3, padding=1), nn.ReLU(), C(4, 2, 1)), 1, 0), 1, (1, 0), 1),  # noqa: E501
    ("pixel shuffle", seq(C(1, 4, 3, padding=1), C(4, 4, 3, padding=1), nn.PixelShuffle(2)), 1, (0, 0), 2),  # noqa: E501
    ("replicated border", seq(C(1, 4, 5, padding=2, padding_mode="replicate"), nn.ReLU(), C(4, 2, 1)), 1, (0, 0), 1),  # noqa: E501
    ("circular border", seq(C(1, 4, 5, padding=2, padding_mode="circular"), nn.ReLU(), C(4, 2, 1)), 1, (0, 0), 1),  # noqa: E501
]  # fmt: skip
# what the judge finds off the grid would be a matter of luck, or nothing
_ANY_GRID = (
    "padded by 2 for a kernel of 3",
    "pixel shuffle",
    "cut at the beginning",
    "replicated border",
    "circular border",
)


@pytest.fixture(scope="module")
def measured():
    known: dict[int, Model] = {}

    def measure(network: nn.Module) -> Model:
        if id(network) not in known:
            own = (
                network
                if any(isinstance(m, Windows) for m in network.modules())
                else strong(network)
            )
            known[id(network)] = as_model(own.eval())
            known[id(network)].measure(patience=None)  # a busy machine would end it anywhere
        return known[id(network)]

    return measure


def differences(model: Model, start_off: int = 0, short: tuple[int, int] = (0, 0)):
    """Max difference of a tile and the whole, in standard deviations, along the last axis."""
    lattice = model.facts.lattice[-1]
    before, after = model.reach.halo[-1]
    pitch, scale = lattice.pitch, lattice.scale
    lead = -(-(before + 64) // pitch) * pitch
    start = lead + start_off
    size = lattice.size_at_least(before + after + sum(lattice.crop) + 6 * pitch + 48)
    whole_size = lattice.size_at_least(start + size + after + 64 + 2 * pitch)
    high = lattice.size_at_least(48 + sum(lattice.crop))
    torch.manual_seed(3)
    x = torch.randn(1, model.facts.in_channels, high, whole_size)
    with torch.no_grad():
        whole = model.forward(x)
        tile = model.forward(x[..., start : start + size])
    low = int((before - short[0]) * scale)
    high_end = tile.shape[-1] - int((after - short[1]) * scale)
    origin = int(start * scale)
    rows = slice(None)
    a = tile[:, :, rows, low:high_end]
    b = whole[:, :, rows, origin + low : origin + high_end]
    return float((a - b).abs().max() / whole.std())


@pytest.mark.parametrize(
    ("network", "period", "crop", "scale"), [f[1:] for f in FAMILIES], ids=[f[0] for f in FAMILIES]
)
def test_facts_by_hand(network, period, crop, scale, measured) -> None:
    facts = measured(network).facts
    assert set(facts.period) == {period}
    assert facts.period_found
    assert set(facts.scale) == {scale}
    if crop is not None:
        assert {axis.crop for axis in facts.lattice} == {crop}


@pytest.mark.parametrize("network", [f[1] for f in FAMILIES], ids=[f[0] for f in FAMILIES])
def test_a_tile_on_the_grid_with_its_halo_equals_the_whole(network, measured) -> None:
    model = measured(network)
    assert model.reach.bounded
    assert differences(model) < 1e-5


@pytest.mark.parametrize(
    "network",
    [f[1] for f in FAMILIES if f[0] not in _ANY_GRID],
    ids=[f[0] for f in FAMILIES if f[0] not in _ANY_GRID],
)
def test_off_the_grid_it_does_not(network, measured) -> None:
    model = measured(network)
    axis = model.facts.lattice[-1]
    # half a period, in whole output pixels
    off = max(axis.scale.denominator, axis.pitch // 2)
    if off % axis.pitch == 0:
        pytest.skip("every whole output pixel is on the grid")
    assert differences(model, start_off=off) > 1e-3


@pytest.mark.parametrize("side", [0, 1], ids=["before", "after"])
@pytest.mark.parametrize("network", [f[1] for f in FAMILIES], ids=[f[0] for f in FAMILIES])
def test_short_of_the_halo_it_does_not(network, side, measured) -> None:
    model = measured(network)
    need = model.reach.halo[-1][side]
    step = model.facts.lattice[-1].scale.denominator
    if need < step:
        pytest.skip("no halo is needed on this side")
    short = (step, 0) if side == 0 else (0, step)
    assert differences(model, short=short) > 1e-6


class Transformer(nn.Module):
    """Patches of 8, and attention between all of them, three times."""

    def __init__(self):
        super().__init__()
        self.embed, self.up = C(1, 8, 8, 8), nn.ConvTranspose2d(8, 2, 8, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 64, batch_first=True, dropout=0.0) for _ in range(3)
        )

    def forward(self, x):
        grid = self.embed(x)
        tokens = grid.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return self.up(tokens.transpose(1, 2).reshape(grid.shape))


@pytest.mark.parametrize("window", [5, 7])
def test_windows_that_shrink_in_narrow_inputs_have_their_size(window: int) -> None:
    network = Capped(window, 4).eval()
    model = as_model(network)
    whole = as_model(Windows(window, 4).eval())
    assert model.facts.period == whole.facts.period == (4 * window,) * 2
    assert model.reach.halo == whole.reach.halo
    (before, after), _ = model.reach.halo
    x = torch.randn(1, 1, 60 * window, 60 * window, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y, part = network(x), slice(8 * window, 40 * window)
        tile = network(x[:, :, part, part])
    inside = slice(before, -after)
    wrong = tile[..., inside, inside] - y[:, :, part, part][..., inside, inside]
    assert float(wrong.abs().max()) < 1e-5 * float(y.std())


def test_layers_that_couple_the_whole_tile_are_named() -> None:
    model = as_model(Transformer().eval())
    assert model.reach.halo is None
    assert model.reach.couplings == tuple(f"blocks.{n}.self_attn" for n in range(3))
    assert "blocks.0.self_attn" in model.describe()


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = C(1, 8, 5, padding=2), C(8, 2, 1)

    def forward(self, x):
        return self.b(F.dropout(self.a(x), 0.3, training=True))


class Jittered(Dropped):
    """Shifts what it reads by a few pixels, another number each time."""

    def forward(self, x):
        return self.b(self.a(x).roll(int(torch.randint(-2, 3, (1,))), -1))


@pytest.mark.parametrize("network", [Dropped, Jittered])
def test_a_random_network_is_called_random_and_can_be_made_steady(network) -> None:
    model = as_model(network().eval())
    assert model.facts.noise > 0.1
    assert "`dropout=False` switches that off" in model.describe()
    assert model.reach.halo == ((2, 2), (2, 2))  # by the expected value of its draws
    assert caution(model.facts, model.reach).startswith("The network is random")
    steady = model.stated(dropout=False)
    assert steady.facts.noise == 0
    x = torch.randn(1, 1, 32, 32)
    assert torch.equal(steady.forward(x), steady.forward(x))


class Counting(Dropped):
    """Predicts more each time."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.b(self.a(x)) + self.calls


class Noised(Dropped):
    """Another brightness each time, by numpy."""

    def forward(self, x):
        return self.b(self.a(x)) + float(np.random.rand())


@pytest.mark.parametrize("network", [Counting, Noised])
def test_another_brightness_each_time_is_random(network) -> None:
    model = as_model(network().eval())
    assert model.facts.noise > 0.1
    assert model.describe().startswith("This network is random")
    assert "`dropout=False` does not switch all of that off" in model.describe()


def test_a_network_that_changes_its_input_is_not_random() -> None:
    def shifted(x):
        x -= 1
        return x.clamp_(-2, 2)

    network = seq(Apply(nn.Identity(), shifted), C(1, 4, 3, padding=1)).eval()
    model = as_model(network)
    assert model.facts.noise == 0
    assert model.reach.halo == ((1, 1), (1, 1))
    x = np.random.default_rng(0).standard_normal((40, 90)).astype(np.float32)
    with torch.no_grad():
        whole = network(torch.from_numpy(x.copy())[None, None])[0].numpy()
    assert np.abs(seamscope.predict(x, network, tile=32) - whole).max() < 1e-5


class Decides(nn.Module):
    def __init__(self, keep):
        super().__init__()
        self.a, self.keep = C(1, 3, 3, padding=1), keep

    def forward(self, x):
        return self.a(x).argmax(1, keepdim=self.keep)


@pytest.mark.parametrize("keep", [True, False])
def test_a_network_of_classes_is_measured_by_what_it_decides_on(keep) -> None:
    model = as_model(Decides(keep).eval())
    assert model.facts.kind == "classes"
    assert model.facts.out_channels == 1
    assert model.reach.halo == ((1, 1), (1, 1))


@pytest.mark.parametrize(
    "decide",
    [lambda y: y > 0, lambda y: F.one_hot(y.argmax(1), 3).movedim(-1, 1)],
    ids=["masks", "one-hot"],
)
def test_masks_of_several_classes_are_compared_each(decide) -> None:
    network = Apply(C(1, 3, 5, padding=2), decide).eval()
    x = np.random.default_rng(0).standard_normal((40, 90)).astype(np.float32)
    with torch.no_grad():
        whole = network(torch.from_numpy(x)[None, None])[0].float().numpy()
    assert np.array_equal(seamscope.predict(x, network, tile=32), whole)
    labels = seamscope.predict(x, network, tile=32, result="labels")
    assert np.array_equal(labels, whole.argmax(0))
    seams = seamscope.measure_seams(x, network, tile=32, halo=0).measures
    assert len(seams.hard) == 3
    assert min(seams.hard) > 0


def _elsewhere(function):
    """A function that another program runs, as that of an ONNX file."""
    return lambda y: torch.from_numpy(function(y.detach().numpy()))


@pytest.mark.parametrize(
    ("end", "kind", "certain"),
    [
        (nn.Sigmoid(), "probabilities", True),
        (nn.Softmax(1), "probabilities", True),
        (nn.Identity(), "logits", False),
        (nn.AvgPool2d(2), "logits", False),
        (nn.PixelShuffle(2), "logits", False),
        (nn.Upsample(scale_factor=2, mode="bicubic"), "logits", False),
        (nn.ReflectionPad2d(2), "logits", False),
        (Apply(nn.Identity(), lambda y: y.flip(3).flip(3)), "logits", False),
        (Apply(nn.Identity(), lambda y: torch.stack([y[:, 0], y[:, 1]], 1)), "logits", False),
        (Apply(nn.Identity(), lambda y: y.add_(0.1)), "logits", False),
        (nn.BatchNorm2d(4), "values", False),
        (nn.Tanh(), "values", True),
        (nn.LeakyReLU(inplace=True), "values", True),
        (nn.ReLU(), "values", True),
        (Apply(nn.Sigmoid(), lambda y: (255 * y).round().to(torch.uint8)), "values", True),
        (Apply(nn.Identity(), lambda y: (100 * y).round()), "values", False),
        (Apply(nn.Identity(), _elsewhere(lambda y: 1 / (1 + np.exp(-y)))), "probabilities", False),
        (Apply(nn.Identity(), _elsewhere(lambda y: np.maximum(y, 0))), "values", False),
        (Apply(nn.Identity(), lambda y: (2 * y.argmax(1, True)).to(torch.uint8)), "classes", True),
    ],
)
def test_the_kind_of_values_is_seen_and_can_be_stated(end, kind, certain) -> None:
    model = as_model(seq(C(1, 4, 3, padding=1), end).eval())
    assert (model.facts.kind, model.facts.kind_certain) == (kind, certain)
    stated = model.stated(kind="values").facts
    assert (stated.kind, stated.kind_certain) == ("values", True)


@pytest.mark.parametrize(
    ("channels", "stride", "last"),
    [(8, 1, True), (64, 1, True), (2, 4, True), (4, 2, True), (64, 1, False), (8, 8, False)],
)
def test_the_axis_of_channels_is_no_axis_of_space(channels, stride, last) -> None:
    """Eight classes look like the width at a scale of 1/8, 64 like one of the usual sizes."""
    network = C(1, channels, stride + 2, stride, 1)
    if last:
        network = Apply(network, lambda y: y.movedim(1, -1))
    facts = as_model(network.eval()).facts
    assert (facts.out_channels, facts.scale) == (channels, (Fraction(1, stride),) * 2)
    assert (facts.layout is not None) == last


class OneSize(nn.Module):
    """Learned positions: patches of 16, one size only."""

    def __init__(self, patches, says):
        super().__init__()
        self.embed, self.up = C(3, 8, 16, 16), nn.ConvTranspose2d(8, 2, 16, 16)
        self.position = nn.Parameter(torch.randn(1, 8, *patches)) if not says else None
        self.patches = patches

    def forward(self, x):
        y = self.embed(x)
        if self.position is None:
            size = tuple(16 * n for n in self.patches)
            assert tuple(x.shape[2:]) == size, f"Input {tuple(x.shape[2:])} is not {size}"
        else:
            y = y + self.position
        return self.up(y)


@pytest.mark.parametrize("says", [True, False], ids=["by its error", "by its positions"])
def test_the_one_size_of_a_network_is_found(says) -> None:
    facts = as_model(OneSize((24, 24), says).eval()).facts
    assert [axis.fixed for axis in facts.lattice] == [384, 384]
    assert facts.in_channels == 3


@pytest.mark.filterwarnings("ignore")  # of torch.export
@pytest.mark.parametrize(
    ("end", "size", "period", "crop", "scale"),
    [
        (lambda y: y[:, :, 5:-2, 5:-2], 64, 1, (5, 2), 1),
        (lambda y: F.interpolate(y, scale_factor=2 / 3), 66, 3, (0, 0), Fraction(2, 3)),
        # poolings that leave 3 px of the one size, so that nothing repeats
        (lambda y: F.interpolate(F.max_pool2d(y.relu(), 6), scale_factor=6), 18, 6, (0, 0), 1),
    ],
    ids=["cut", "scaled", "pooled"],
)
def test_a_program_of_one_size_is_read(end, size, period, crop, scale) -> None:
    network = Apply(C(1, 4, 3, padding=1), end).eval()
    program = torch.export.export(network, (torch.zeros(1, 1, size, size),))
    facts = load_model(program.module(), input_size=size, spatial_axes=2).facts
    assert {axis.fixed for axis in facts.lattice} == {size}
    assert set(facts.period) == {period}
    assert {axis.crop for axis in facts.lattice} == {crop}
    assert set(facts.scale) == {scale}


def test_patches_are_not_put_together_the_wrong_way() -> None:
    """Both 160 x 224 and 224 x 160 px make 140 patches; the network expects one of them."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.up = C(1, 4, 16, 16), nn.ConvTranspose2d(4, 2, 16, 16)
            self.position = nn.Parameter(torch.randn(1, 140, 4))

        def forward(self, x):
            tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
            return self.up(tokens.transpose(1, 2).reshape(len(x), 4, 14, 10))

    facts = as_model(Tokens().eval()).facts
    assert [axis.fixed for axis in facts.lattice] == [224, 160]
    assert set(facts.scale) == {1}


@pytest.mark.parametrize(
    ("to", "how"),
    [
        (8, "reflect"),
        (64, "constant"),
        (48, "constant"),
        (100, "replicate"),
        (192, "constant"),
        (512, "replicate"),
    ],
)
def test_sizes_are_those_that_code_does_not_pad(to: int, how: str) -> None:
    """Its ends are others where it pads to multiples of more than its period, which is 2."""

    class Padding(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = C(1, 4, 3, 2, 1), C(4, 2, 3, padding=1)

        def forward(self, x):
            high, wide = x.shape[2:]
            if how == "reflect" or high % to or wide % to:  # replicating nothing is refused
                x = F.pad(x, (0, -wide % to, 0, -high % to), mode=how)
            return self.up(F.interpolate(F.relu(self.down(x)), scale_factor=2))[..., :high, :wide]

    model = as_model(strong(Padding()))
    assert model.facts.period == (2, 2)
    assert model.facts.sizes == f"multiples of {to}"
    x = np.random.default_rng(0).standard_normal((40, 3 * to + 72)).astype(np.float32)
    certificate = certify(
        Case.open(x, model, Settings(tile=(-(-64 // to) * to, max(to, 32)), device="cpu"))
    )
    assert certificate.passed


def test_sizes_are_those_that_code_does_not_resize() -> None:
    """Code that resizes to multiples of 48, and back, was said to couple its tile."""

    def resized(x):
        high, wide = x.shape[2:]
        y = F.interpolate(x, size=(high + -high % 48, wide + -wide % 48), mode="bilinear")
        y = F.interpolate(F.avg_pool2d(y, 2), scale_factor=2)
        return F.interpolate(y, size=(high, wide), mode="bilinear")

    model = as_model(strong(seq(C(1, 2, 3, padding=1), Given(resized))))
    assert {axis.increment for axis in model.facts.lattice} == {48}
    x = torch.randn(1, 1, 48, 480, dtype=torch.float64)
    whole, tile = (model.module.double()(each) for each in (x, x[..., 144:240]))
    low, high = model.reach.halo[1]
    assert torch.allclose(tile[..., low : 96 - high], whole[..., 144 + low : 240 - high], atol=1e-9)


def test_a_size_may_be_a_multiple_plus_one() -> None:
    def resized(y):
        assert all(n % 4 == 1 for n in y.shape[2:]), "sizes are multiples of 4, and 1 more"
        return F.interpolate(y[..., ::4, ::4], y.shape[2:], mode="bilinear", align_corners=True)

    model = as_model(Apply(C(1, 2, 3, padding=1), resized).eval())
    assert {(axis.increment, axis.offset % 4) for axis in model.facts.lattice} == {(4, 1)}
    plan = Case.open(np.zeros((83, 85), "f4"), model, Settings(device="cpu")).plan
    assert any("takes multiples of 4 plus 1" in note for note in plan.notes)


def test_what_is_kept_of_one_network_is_not_taken_for_another() -> None:
    """Same weights, other code: a setting of a module, and a function."""
    one, two = (seq(C(1, 4, 3, padding=1), nn.Upsample(scale_factor=n)) for n in (1, 2))
    two.load_state_dict(one.state_dict())
    assert as_model(one.eval()).facts.scale == (1, 1)
    assert as_model(two.eval()).facts.scale == (2, 2)
    assert as_model(one).fingerprint == as_model(two).fingerprint


def test_the_second_measurement_is_read() -> None:
    network = seq(C(1, 4, 7, padding=3), nn.ReLU(), C(4, 2, 3, padding=1)).eval()
    runs = []
    network.register_forward_hook(lambda *call: runs.append(1))
    first = as_model(network)
    assert first.reach.halo == ((4, 4), (4, 4))
    runs.clear()
    second = as_model(network)
    assert (second.facts, second.reach) == (first.facts, first.reach)
    assert len(runs) == 1  # the sample by which it is recognised


def test_a_setting_that_is_no_number_tells_networks_apart() -> None:
    """Weights and modules are the same; what is cut away is not, nor what halo that needs."""
    inner = strong(seq(C(1, 4, 3, padding=1), nn.ReLU(), C(4, 2, 1)))
    halos = [as_model(Cut(inner, n, n).eval()).reach.halo for n in (0, 1)]
    assert halos == [((1, 1), (1, 1)), ((0, 0), (0, 0))]


class Rows(nn.Module):
    """A learned number for each row, so that tiles must not start elsewhere along y."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.rows = (
            C(1, 4, 5, padding=2),
            C(4, 2, 1),
            nn.Parameter(torch.randn(48, 1)),
        )

    def forward(self, x):
        return self.b(F.relu(self.a(x) + self.rows))


def test_learned_positions_are_never_called_seamless() -> None:
    torch.manual_seed(0)
    model = as_model(Rows().eval())
    assert [axis.fixed for axis in model.facts.lattice] == [48, None]
    assert model.reach.halo is None
    assert model.reach.depends_on_size
    assert model.reach.rest == ((2, 2), (2, 2))
    assert model.describe() == (
        "Overlap cannot remove the seams: what the network predicts depends on the place in its "
        "tile (positions were learned for this size). Apart from that, the layers reach 2 px."
    )
    assert str(model.facts).endswith("fixed tile 48 x any")
    (note,) = model.facts.notes
    assert note.startswith("Positions along y were learned for the one size")
    assert "multiples" not in note


class Three(nn.Conv2d):
    """Takes three sizes."""

    def __init__(self):
        super().__init__(1, 2, 3, padding=1)

    def forward(self, x):
        if any(n not in (64, 96, 160) for n in x.shape[2:]):
            raise ValueError(f"no table for {tuple(x.shape[2:])}")
        return super().forward(x)


def test_other_sizes_than_the_one_used_are_named() -> None:
    model = as_model(Three().eval())
    assert [axis.fixed for axis in model.facts.lattice] == [64, 64]
    assert any("also takes 96, 160 px" in note for note in model.facts.notes)
    stated = model.stated(input_size=160)
    assert [axis.fixed for axis in stated.facts.lattice] == [160, 160]
    assert not stated.facts.notes


@pytest.mark.parametrize("padding", [0, 1])
def test_output_on_half_an_input_pixel_is_refused_with_the_remedy(padding) -> None:
    up = nn.ConvTranspose2d(4, 2, 3, 2, 1, output_padding=padding)
    model = as_model(seq(C(1, 4, 3, padding=1), up).eval())
    if padding:
        assert [(axis.scale, axis.crop) for axis in model.facts.lattice] == [(2, (0, 0))] * 2
        return
    with pytest.raises(ModelError, match=r"1/2 px of the input has no .* Pad its output by 1 pi"):
        _ = model.facts


class Casts(nn.Module):
    """Its code says its own type; `types` are those of its two layers."""

    def __init__(self, *types):
        super().__init__()
        self.a, self.b = (C(n, m, 3, padding=1).to(t) for n, m, t in zip((1, 4), (4, 2), types))  # noqa: B905

    def forward(self, x):
        x = self.a(x.to(torch.float16)).relu()
        return self.b(x.to(self.b.weight.dtype))


def _halved() -> nn.Module:
    return seq(C(1, 4, 3, padding=1), nn.ReLU(), C(4, 2, 3, padding=1)).half().eval()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "network",
    [
        lambda: torch.jit.script(_halved()),
        lambda: torch.jit.freeze(torch.jit.script(_halved())),
        lambda: Casts(torch.float16, torch.float16),
        lambda: Casts(torch.float16, torch.float32),
    ],
    ids=["a script that was trained", "a frozen script", "casts", "casts between two types"],
)
def test_networks_of_half_precision_run(network) -> None:
    model = as_model(network().eval())
    assert any("float16" in note for note in model.notes)
    assert model.reach.halo == ((2, 2), (2, 2))
    assert certify(np.random.default_rng(0).standard_normal((60, 90)), model, tile=32).passed


def test_a_network_of_half_precision_is_wrapped_once() -> None:
    model = as_model(Casts(torch.float16, torch.float16).eval())
    assert model.stated(channels=1).module is model.module


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_constants_beside_weights_are_none() -> None:
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.by = C(1, 2, 3, padding=1), torch.rand(1, 2, 1, 1, dtype=torch.float64)

        def forward(self, x):
            return self.conv(x) * self.by.to(x.dtype)

    script = torch.jit.trace(Scaled().eval(), torch.zeros(1, 1, 32, 32))
    assert as_model(script).notes == ()


def test_more_than_255_classes_keep_their_numbers() -> None:
    classes = torch.arange(300.0)
    layer = C(1, 300, 1)  # the class is the intensity, rounded
    layer.weight.data[:, 0, 0, 0], layer.bias.data = 2 * classes, -(classes**2)
    x = np.random.default_rng(0).integers(0, 300, (40, 90)).astype(np.float32)
    network = Apply(layer, lambda y: y.argmax(1)).eval()
    assert np.array_equal(seamscope.predict(x, network, tile=32), x)
    assert seamscope.measure_seams(x, network, tile=32).seamless
    other = as_model(Apply(layer, lambda y: y.argmax(1) + 2**17).eval()).stated(kind="classes")
    with pytest.raises(ModelError, match=r"gives class 13\d+: labels hold 0 to 65535"):
        seamscope.predict(x, other, tile=32)


def test_what_a_certificate_says_of_a_random_network_is_a_sentence() -> None:
    x = np.random.default_rng(0).standard_normal((60, 90)).astype(np.float32)
    note = certify(x, Dropped().eval(), tile=32).note
    assert note.startswith("The network is random: two predictions")
    assert note.count("random") == 1


class Places(nn.Module):
    """Positions learned for each row and each column, or a map that is joined to the image."""

    def __init__(self, sizes, joined):
        super().__init__()
        patch = 1 if joined else 8
        self.embed = C(1, 4, patch, patch)
        rows, columns = (n // patch for n in sizes)
        self.rows = nn.Parameter(torch.randn(1, 4, rows, columns if joined else 1))
        self.columns = nn.Parameter(torch.randn(1, 4, 1, columns))
        self.head = C(8, 2, 1) if joined else nn.ConvTranspose2d(4, 2, patch, patch)

    def forward(self, x):
        y = self.embed(x)
        if self.head.in_channels == 8:
            return self.head(torch.cat([y, self.rows.expand(len(y), -1, -1, -1)], 1))
        return self.head((y + self.rows + self.columns).relu())


@pytest.mark.parametrize(
    ("sizes", "joined"), [((96, 160), False), ((88, 88), True), ((88, 104), True)]
)
def test_the_size_of_each_axis_is_read_from_the_error(sizes, joined) -> None:
    facts = as_model(Places(sizes, joined).eval()).facts
    assert tuple(axis.fixed for axis in facts.lattice) == sizes


def _spectra(x, layer, head):
    return head(layer(x.movedim(1, -1)).movedim(-1, 1))


def _slices(x, layer, head):
    return head(layer(x[:, None]).flatten(1, 2))


@pytest.mark.parametrize(
    ("function", "layer", "head", "channels"),
    [
        (_spectra, nn.Linear(17, 4), C(4, 2, 3, padding=1), 17),
        (_slices, nn.Conv3d(1, 2, 3, padding=1), C(20, 2, 1), 10),
    ],
    ids=["a linear layer over channels", "3D convolutions over channels"],
)
def test_channels_are_read_from_the_error(function, layer, head, channels) -> None:
    facts = as_model(Given(function, layer, head).eval()).facts
    assert (facts.spatial_axes, facts.in_channels) == (2, channels)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_layers_after_others_take_their_shapes() -> None:
    model = as_model(seq(C(3, 4, 3, padding=1), nn.LazyBatchNorm2d(), nn.LazyConv2d(2, 1)))
    assert model.facts.in_channels == 3
    assert any("for 3 channels" in note for note in model.notes)
    beside = Given(lambda x, a, b: a(x) + b(x), nn.LazyConv2d(4, 1), C(3, 4, 1))
    assert as_model(beside.eval()).facts.in_channels == 3
    model = as_model(seq(nn.LazyConv2d(4, 3), nn.Flatten(), nn.Linear(7, 2)).eval())
    with pytest.raises(ModelError, match=r"lazy layers take .* fails on one of 64 x 64 px"):
        _ = model.facts
