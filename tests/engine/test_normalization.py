"""What couples the pixels of a tile is found in every format, and statistics can be held fixed."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F  # noqa: N812

import networks
import real_networks
from seamscope.normalization.audit import Audit, FixedStatistics, audit
from seamscope.normalization.calls import Call, Moments, Normalizations


class ByHand(nn.Module):
    def forward(self, x):
        mean = x.mean((2, 3), keepdim=True)
        return (x - mean) / (((x - mean) ** 2).mean((2, 3), keepdim=True) + 1e-5).sqrt()


class GroupsByHand(nn.Module):
    def forward(self, x):
        y = x.view(x.shape[0], 2, -1)
        return ((y - y.mean(-1, keepdim=True)) / y.std(-1, keepdim=True)).view_as(x)


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.a = nn.Conv2d(channels, 2, 1)
        self.b = nn.Conv2d(2, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.b(F.relu(self.a(F.adaptive_avg_pool2d(x, 1)))))


class Everything(nn.Module):
    """One layer of each kind that can be fixed."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.group = nn.GroupNorm(2, 4)
        self.batch = nn.BatchNorm2d(4)
        self.untracked = nn.BatchNorm2d(4, track_running_stats=False)
        self.tracked = nn.InstanceNorm2d(4, track_running_stats=True)
        self.hand = ByHand()
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.groups = GroupsByHand()
        self.excite = SqueezeExcite(4)

    def forward(self, x):
        x = self.batch(self.group(self.instance(self.conv(x)).relu_()))
        x = self.hand(self.tracked(self.untracked(x)))
        return self.excite(self.groups(self.second(x)))


LAYERS = [
    ("instance", "InstanceNorm", "tile", 4, True, (0,)),
    ("group", "GroupNorm", "group", 2, True, (1,)),
    ("batch", "BatchNorm", "running", 4, True, (2,)),
    ("untracked", "BatchNorm", "batch", 4, True, (3,)),
    ("tracked", "InstanceNorm", "running", 4, False, (4,)),
    ("hand", "hand-written", "tile", 4, None, (5, 6)),
    ("groups", "hand-written", "tile", 2, None, (7, 8)),
]


@pytest.mark.parametrize("form", ["eager", "scripted", "traced", "exported", "core"])
@pytest.mark.filterwarnings("ignore")  # of the tracers about themselves
def test_every_format_tells_the_same_layers(form) -> None:
    torch.manual_seed(0)
    network, x = Everything().eval(), torch.randn(1, 1, 16, 16)
    written = {
        "eager": lambda: network,
        "scripted": lambda: torch.jit.script(network),
        "traced": lambda: torch.jit.trace(network, x),
        "exported": lambda: torch.export.export(network, (x,)).module(),
        "core": lambda: torch.export.export(network, (x,)).run_decompositions().module(),
    }[form]()
    found = audit(written, x)
    told = [(n.name, n.kind, n.statistics, n.groups, n.affine, n.calls) for n in found.layers]
    by_hand = {"hand", "groups"} if form != "eager" else set()  # only eager modules are watched
    assert told == [(None if name in by_hand else name, *rest) for name, *rest in LAYERS]
    assert [(str(o), o.calls) for o in found.global_operations] == [("squeeze-and-excite", (9,))]
    assert found.repairable
    assert found.calls == (0, 1, 3, 5, 6, 7, 8, 9)


class Tokens(nn.Module):
    """Patches as tokens; what couples them is given."""

    def __init__(self, couple):
        super().__init__()
        self.into = nn.Conv2d(1, 4, 4, 4)
        self.norm = nn.LayerNorm(4)
        self.out = nn.ConvTranspose2d(4, 1, 4, 4)
        self.couple = couple

    def forward(self, x):
        y = self.into(x)
        return self.out(self.couple(self.norm(y.flatten(2).mT), y.shape).mT.reshape(y.shape))


def _attention(tokens, shape):
    return (tokens @ tokens.mT).softmax(-1) @ tokens


def _windows(tokens, shape):
    n, c, h, w = shape
    cut = tokens.reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
    cut = (cut @ cut.mT).softmax(-1) @ cut
    return cut.reshape(n, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(n, h * w, c)


class TorchAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, tokens, shape):
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


def _coordinates(x):
    return x * x.mean(3, keepdim=True)


GLOBAL = [
    ("attention", Tokens(_attention), "attention"),
    ("torch's attention", Tokens(TorchAttention()), "attention"),
    ("windows", Tokens(_windows), None),
    ("maximum", lambda x: x / x.amax((2, 3), keepdim=True), "maximum over space"),
    ("minimum", lambda x: x - x.amin((2, 3), keepdim=True), "minimum over space"),
    ("sum", lambda x: x - x.sum((2, 3), keepdim=True), "sum over space"),
    ("cumsum", lambda x: x.cumsum(3), "accumulation over space"),
    ("cummax", lambda x: x.cummax(3).values, "accumulation over space"),
    ("logcumsumexp", lambda x: x.logcumsumexp(3), "accumulation over space"),
    ("rows", _coordinates, "mean over part of space"),
    ("Fourier", lambda x: torch.fft.rfft2(x).real, "Fourier transform"),
    ("pyramid", lambda x: F.adaptive_avg_pool2d(x, 3), "adaptive pooling"),
    ("weights", lambda x: F.layer_norm(x, (1, *x.shape[2:]), x[0]), "normalization with a weight"),
    ("softmax of channels", lambda x: x.softmax(1), None),
    ("norm of channels", lambda x: F.normalize(x, dim=1), None),
    ("LayerNorm of channels", lambda x: F.layer_norm(x.movedim(1, -1), (1,)), None),
]


@pytest.mark.parametrize(("network", "kind"), [k[1:] for k in GLOBAL], ids=[k[0] for k in GLOBAL])
def test_what_cannot_be_repaired_is_named(network, kind) -> None:
    if isinstance(network, nn.Module):
        network.eval()
    found = audit(network, torch.rand(1, 1, 16, 16) + 1)
    assert not found.tile_layers
    assert found.repairable == (kind is None)
    assert [o.kind.startswith(kind) for o in found.global_operations] == ([True] if kind else [])


def test_weights_that_are_standardized_are_no_layer_of_the_tile() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x):
            w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, w / w.std((1, 2, 3), keepdim=True), padding=1)

    network = nn.Sequential(Standardized(1, 4, 3), nn.GroupNorm(2, 4), Standardized(4, 1, 3))
    found = audit(network, torch.randn(1, 1, 16, 16))
    assert [(n.name, n.kind) for n in found.layers] == [("1", "GroupNorm")]
    assert found.repairable


def test_layer_norm_over_space_is_told() -> None:
    found = audit(lambda x: F.layer_norm(x, x.shape[1:]), torch.randn(1, 3, 8, 8))
    assert [(n.kind, n.groups, n.channels) for n in found.layers] == [("LayerNorm", 1, 3)]
    assert found.repairable


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_what_couples_one_axis_is_found_along_each(dim) -> None:
    for couple, name in (
        (lambda x: x.cumsum(dim), "accumulation over space"),
        (lambda x: x - x.amax(dim, True), "maximum over space"),
        (lambda x: x - x.mean(dim, True), "mean over part of space"),
    ):
        found = audit(couple, torch.randn(1, 2, 8, 8, 8)).global_operations
        assert [str(one) for one in found] == [name]


@pytest.mark.parametrize(
    "middle",
    [
        nn.InstanceNorm2d(4),
        nn.GroupNorm(2, 4),
        lambda y: y - y.mean((2, 3), keepdim=True),
        lambda y: y - y.amax((2, 3), keepdim=True),
        lambda y: y - y.flatten(2).median(2).values[..., None, None],
        lambda y: y.flatten(2).softmax(2).reshape(y.shape),
    ],
)
def test_the_same_is_found_in_a_network_of_one_size(middle) -> None:
    """Where no larger input shows what grows with it."""

    class Network(nn.Module):
        def __init__(self, size=None):
            super().__init__()
            self.first, self.middle = nn.Conv2d(1, 4, 3, padding=1), middle
            self.size = size

        def forward(self, x):
            assert self.size in (None, tuple(x.shape[2:])), "of one size"
            return self.middle(self.first(x))

    free, one = Network(), Network((24, 24))
    x = torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    found = audit(free, x)
    assert found.layers or found.global_operations
    assert audit(one, x) == found


def test_auditing_changes_nothing() -> None:
    network = Everything().eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    audit(network, torch.randn(1, 1, 16, 16))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


@pytest.mark.parametrize(
    ("name", "factory", "expected"),
    [
        ("unet2d_covid_if_instancenorm", "covid_instancenorm", {("InstanceNorm", "tile"): 14}),
        ("unet2d_nuclei_batchnorm", "nuclei_batchnorm", {("BatchNorm", "running"): 16}),
        ("unet2d_nuclei_broad", "nuclei_broad", {}),
    ],
)
def test_real_networks(real_models, name, factory, expected) -> None:
    network = getattr(real_networks, factory)().eval()
    network.load_state_dict(load_file(real_models / name / "state_dict.safetensors"), strict=False)
    found = audit(network, torch.randn(1, 1, 64, 64))
    kinds = [(layer.kind, layer.statistics) for layer in found.layers]
    assert {kind: kinds.count(kind) for kind in kinds} == expected
    assert not found.global_operations
    assert all(layer.name for layer in found.layers)


# -- answers to calls


def _own(call: Call) -> Moments | None:
    return None if call.running is not None else call.moments()


@pytest.mark.parametrize("samples", [1, 3])
def test_answering_with_the_features_own_statistics_changes_nothing(samples) -> None:
    torch.manual_seed(1)
    network, x = Everything().eval(), torch.randn(samples, 1, 16, 16)
    with torch.no_grad():
        expected = network(x)
    torch.testing.assert_close(Normalizations(_own).run(network, x), expected)


def test_a_field_that_is_the_same_everywhere_is_a_constant() -> None:
    torch.manual_seed(1)
    network, x = networks.UNet(2, 1, norm="group").eval(), torch.randn(2, 1, 16, 16)

    def field(call: Call) -> Moments:
        own = call.moments()
        grown = (*own.mean.shape[:2], *call.space)
        return Moments(own.mean.expand(grown), own.var.expand(grown))

    with torch.no_grad():
        expected = network(x)
    torch.testing.assert_close(Normalizations(field).run(network, x), expected)


def test_fixed_statistics_do_not_depend_on_the_input() -> None:
    """The same pixels, in an input that differs far away, give the same prediction."""
    torch.manual_seed(2)
    network, x = Everything().eval(), torch.randn(1, 1, 32, 32)
    other = x.clone()
    other[..., 24:] = 9.0
    fixed = FixedStatistics(network)
    with torch.no_grad():
        torch.testing.assert_close(fixed(x), network(x))
        assert (network(other) - network(x))[..., :16].abs().max() > 0.1
    assert torch.equal(fixed(other)[..., :16], fixed(x)[..., :16])
    batch = fixed(torch.cat([x, other, x]))
    torch.testing.assert_close(batch, torch.cat([fixed(x), fixed(other), fixed(x)]))


def test_an_audit_is_a_value() -> None:
    assert Audit((), ()).repairable
    assert Audit((), ()).calls == ()


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(2, 4), nn.InstanceNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False)]
)
def test_flattened_space_is_seen_as_space(norm, samples) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2), norm).eval()
    x = torch.randn(samples, 1, 8, 9)
    seen: list[Call] = []
    with torch.no_grad():
        expected = network(x)

    def answer(call: Call) -> Moments:
        seen.append(call)
        return call.moments()

    torch.testing.assert_close(Normalizations(answer).run(network, x), expected)
    assert [call.space for call in seen] == [(6, 7)]
    assert seen[0].features.shape[:2] == (samples, 4)
