"""Networks that take a number of their tile, read at computed places, or know their tile's size.

Each is compared with itself in float64: a tile on its grid, with its halo, and the whole image.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from families import (
    C2,
    C3,
    Given,
    Moving,
    Picking,
    PyramidPooling,
    Tiling,
    bright,
    conv,
    seq,
    warped,
)
from seamscope.compare.certificate import certify
from seamscope.explain.advice import advise
from seamscope.explain.causes import diagnose
from seamscope.explain.train_eval import advice
from seamscope.models import slab
from seamscope.models.formats import load_model
from seamscope.models.model import as_model
from seamscope.models.sentences import why_unbounded
from seamscope.planning.case import Case
from seamscope.prediction.measure_seams import measure_seams
from seamscope.settings import Settings


def small(ndim=2, outputs=2):
    layer = (C2, C3)[ndim - 2]
    return seq(layer(1, 4, 3, padding=1), nn.ReLU(), layer(4, outputs, 1))


class Middle(nn.Module):
    """A function of the features at the bottom of a U-Net of one level."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.down, self.bottom, self.up = conv(1, 4), conv(4, 4), conv(8, 2)

    def forward(self, x):
        x = F.relu(self.down(x))
        y = self.function(F.relu(self.bottom(F.max_pool2d(x, 2))))
        return self.up(torch.cat([x, F.interpolate(y, scale_factor=2)], 1))


def made(network):
    torch.manual_seed(0)
    return network().eval()


def apart(model, x, start, size, halo) -> float:
    """Difference of tile and whole along x beyond a halo, in standard deviations; in float64."""
    module = model.module.double()
    with torch.no_grad():
        whole, tile = module(x.double()), module(x[..., start : start + size].double())
    before, after = halo
    inside = slice(start + before, start + size - after)
    differ = tile[..., before : size - after] - whole[..., inside]
    return float(differ.abs().max() / tile.std())


def image(ndim, length, pitch, size=32):
    """Noise, and where a tile on the grid lies in it."""
    x = torch.randn(1, 1, *(size,) * (ndim - 1), length, generator=torch.Generator().manual_seed(1))
    return x, -(-length // 3 // pitch) * pitch


# -- what is taken of the tile


def _where(x, net):
    return net(torch.where(x.amax() > 1, x / 255, x))


def _flipped(x, net):
    return net(-x if float(x.min()) < -9 else x)


def _clamped(x, net):
    return net(x.clamp(max=3) * 2 if (x > 3).any() else x)


def _quantiles(x, net):
    low, high = torch.quantile(x.flatten(), torch.tensor([0.1, 0.9], dtype=x.dtype))
    return net((x - low) / (high - low))


def _best(x, net):
    return net(x / x.flatten(2).topk(9).values.mean(-1)[..., None, None])


def _nth(x, net):
    return net(x - x.flatten(2).kthvalue(99).values[..., None, None])


def _masked(x, net):
    mask = x > 0
    return net(x - (x * mask).sum((2, 3), True) / mask.sum((2, 3), True))


NUMBERS = {
    "branch": (lambda: Given(bright, small()), "the maximum over space", True),
    "branch in 3D": (lambda: Given(bright, small(3)), "the maximum over space", True),
    "branch in a U-Net": (
        lambda: Middle(lambda y: y / 9 if y.max() > 5 else y), "the maximum over space", True
    ),
    "where": (lambda: Given(_where, small()), "the maximum over space", True),
    "by a minimum": (lambda: Given(_flipped, small()), "the minimum over space", True),
    "any": (lambda: Given(_clamped, small()), "a condition over space", True),
    "median": (
        lambda: Given(lambda x, net: net(x - x.median()), small()), "the median over space", False
    ),
    "median in a U-Net": (
        lambda: Middle(lambda y: y - y.flatten(2).median(-1).values[..., None, None]),
        "the median over space", False,
    ),
    "quantiles": (lambda: Given(_quantiles, small()), "a rank over space", False),
    "quantiles in 3D": (lambda: Given(_quantiles, small(3)), "a rank over space", False),
    "topk": (lambda: Given(_best, small()), "a rank over space", False),
    "kthvalue": (lambda: Given(_nth, small()), "a rank over space", False),
    "masked mean": (lambda: Given(_masked, small()), "the sum over space", False),
    "mask as index": (
        lambda: Given(lambda x, net: net(x - x[x > 0].mean()), small()),
        "a selection over space", False,
    ),
    "masked_select": (
        lambda: Given(lambda x, net: net(x - torch.masked_select(x, x > 0).mean()), small()),
        "a selection over space", False,
    ),
    "histogram": (
        lambda: Given(lambda x, net: net(x * torch.histc(x, 8, -1, 1)[3] / 99), small()),
        "a histogram over space", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("network", "name", "conditional"), NUMBERS.values(), ids=NUMBERS)
def test_what_is_taken_of_the_tile_is_named(network, name, conditional) -> None:
    model = as_model(made(network))
    ndim = model.facts.spatial_axes
    assert model.reach.halo is None
    assert model.reach.couplings == (name,)
    assert model.reach.conditional == conditional
    (rest,) = set(model.reach.rest)
    pitch = model.facts.lattice[-1].pitch
    assert pitch == (2 if isinstance(model.module, Middle) else 1)
    x, start = image(ndim, 96, pitch, 8)
    x *= 0.2
    x[..., : start - 8] *= 200  # what the tile does not see
    assert apart(model, x, start, 48, rest) > 1e-3


@pytest.mark.parametrize(
    "check",
    [
        lambda x, net: net(x) if not torch.isnan(x).any() else 1 / 0,
        lambda x, net: net(x) if x.abs().sum() > 0 else net(0 * x),
        lambda x, net: net(x) if x.max() < 1e4 else 1 / 0,
        lambda x, net: net(x) if float(x.std()) < 1e4 else 1 / 0,
        lambda x, net: net(x) if x.mean() < 99 else net(x.clone()),
    ],
    ids=["refuses NaN", "nothing there", "refuses a maximum", "refuses a deviation", "same"],
)
def test_a_check_that_changes_nothing_couples_nothing(check) -> None:
    assert as_model(made(lambda: Given(check, small()))).reach.halo == ((1, 1), (1, 1))


def _by_middle(x, net):
    return net(2 * x if float(x[0, 0, x.shape[2] // 2, x.shape[3] // 2]) > 9 else x)


@pytest.mark.parametrize(
    "decide",
    [lambda x, net: net(2 * x if x[..., 0, 0].mean() > 9 else x), _by_middle],
    ids=["corner", "middle"],
)
def test_a_single_pixel_that_decides_is_found(decide) -> None:
    model = as_model(made(lambda: Given(decide, small())))
    assert model.reach.conditional
    assert model.reach.rest == ((1, 1), (1, 1))
    assert model.describe().startswith(
        "In some images, overlap cannot remove the seams: the network's code decides by a number"
    )


def test_tiles_that_a_pixel_of_their_own_changes_are_not_alike() -> None:
    model = as_model(made(lambda: Given(lambda x, net: net(x) * (x[..., :1, :1] > 0), small())))
    assert model.reach.halo is None
    assert not model.reach.alike


def test_what_decides_shows_in_some_images_only() -> None:
    """All that is reported of two images: one is bright everywhere, the other in one place."""
    model = as_model(made(lambda: Given(bright, small())))
    assert model.describe() == (
        "In some images, overlap cannot remove the seams: the maximum over space sees the whole "
        "tile. All other layers reach 1 px."
    )
    name = "the maximum over space sees the whole tile"
    light = np.random.default_rng(0).uniform(0.5, 2, (24, 90)).astype(np.float32)
    dark = light / 2.1
    dark[3, 3] = 2
    settings = Settings(tile=(24, 32), halo=1, device="cpu")
    for pixels, seamless in ((light, True), (dark, False)):
        case = Case.open(pixels, model, settings)
        report, certificate = measure_seams(case), certify(case)
        found = diagnose(case.at(report.plan), worst=report.seams)
        assert report.seamless == certificate.passed == (found.verdict == "seamless") == seamless
        assert name in certificate.note
        assert (name in report.sentence()) == (name in found.summary) == seamless
        if not seamless:
            assert found.verdict == "global coupling"
            assert "the maximum over space" in found.explanation
            assert certificate.note == f"In this image, overlap cannot remove that: {name}."
    short = Case.open(dark, model, settings.but(halo=0))
    note = certify(short).note
    assert note.count(f"In other images tiles may differ: {name}.") == 1
    assert note.count("Use `halo=1`.") == 1
    advice = advise(short.plan, measure_seams(short))
    assert advice.halo == ((1, 1), (1, 1))
    assert name in advice.why


def test_statistics_that_only_some_tiles_take_are_explained() -> None:
    """A mean that is taken where another is high: tiles have one call or two."""
    network = made(lambda: Given(lambda x, net: net(x - x.mean() if x.mean() > 1 else x), small()))
    pixels = np.random.default_rng(0).uniform(0, 1.6, (24, 90)).astype(np.float32)
    pixels[:, :30] += 1
    settings = Settings(tile=(24, 32), halo=1, normalize="none", device="cpu")
    case = Case.open(pixels, as_model(network), settings)
    assert len(case.plan.facts.statistics) == 1
    assert diagnose(case).verdict in ("tile statistics", "global coupling")


def test_a_weak_branch_is_found_whatever_noise_shows() -> None:
    """Pooled features that are negative for noise, so that nothing of them is left behind ReLU."""
    network = made(lambda: PyramidPooling((1, 2), 3))
    for pool in network.pools:
        pool.append(nn.ReLU())
        nn.init.constant_(pool[1].bias, -2.0)
    reach = as_model(network).reach
    assert reach.halo is None
    assert reach.rest == ((2, 2),) * 3


# -- computed places


def _affine(x, net):
    same = torch.eye(x.ndim - 2, x.ndim - 1, dtype=x.dtype)[None]
    return net(
        F.grid_sample(x, F.affine_grid(same, x.shape, align_corners=False), align_corners=False)
    )


def _aligned(x, net):
    rows, columns = (torch.linspace(-1, 1, n) for n in x.shape[2:])
    by = 2 * net(x).clamp(-3, 3) / torch.tensor([x.shape[-1] - 1, x.shape[-2] - 1])[:, None, None]
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1])
    return F.grid_sample(x, (grid + by).movedim(1, -1).to(x.dtype), align_corners=True)


def _picked(x, net):
    """Read at whole places that are clipped to the tile."""
    places = torch.arange(x.shape[-1], dtype=x.dtype) + 6 * torch.tanh(net(x)[:, :1])
    return torch.take_along_dim(x, places.round().clamp(0, x.shape[-1] - 1).long(), -1)


def _between(x, net):
    """Interpolate by hand: between two places along a row."""
    places = (torch.arange(x.shape[-1]) + net(x)[:, :1].clamp(-3, 3)).clamp(0, x.shape[-1] - 1)
    low = places.floor().long()
    high = (low + 1).clamp(max=x.shape[-1] - 1)
    return x.gather(3, low) * (1 - places + low) + x.gather(3, high) * (places - low)


def _weakly(x, net):
    """Read at indices that only a bright image moves by much."""
    by = (0.1 * net(x)[0, 0]).clamp(-6, 6).round().long()
    return x[
        ...,
        torch.arange(x.shape[-2])[:, None],
        (torch.arange(x.shape[-1]) + by).clamp(0, x.shape[-1] - 1),
    ]


WARPS = {
    "by places": (lambda: Given(_picked, small()), 1),
    "between places": (lambda: Given(_between, small()), 1),
    "by indices": (lambda: Given(_weakly, small()), 1),
    "by the places of a U-Net": (lambda: Given(_picked, Middle(nn.Identity())), 2),
    "by a flow": (lambda: Given(warped, small()), 1),
    "by a flow, 3D": (lambda: Given(warped, small(3, 3)), 1),
    "aligned corners": (lambda: Given(_aligned, small()), 1),
    "affine": (lambda: Given(_affine, small()), 1),
    "by the flow of a U-Net": (lambda: Given(warped, Middle(nn.Identity())), 2),
}


@pytest.mark.parametrize(("network", "period"), WARPS.values(), ids=WARPS)
def test_rounded_coordinates_are_no_period_and_no_size(network, period) -> None:
    model = as_model(made(network))
    assert set(model.facts.period) == {period}
    assert model.facts.period_found
    assert model.reach.halo is not None
    if model.module.function is not _aligned:  # whose code makes float32 of everything
        x, start = image(model.facts.spatial_axes, 192, period)
        for bright in (1, 10, -10, 1e4, -1e4):  # the halo holds where a flow is longer, too
            assert apart(model, bright * x, start, 64, model.reach.halo[-1]) < 1e-9


def _exported(network):
    size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    example = torch.zeros(1, 1, 64, 64)
    return torch.export.export(network, (example,), dynamic_shapes=(size,)).module()


WRITTEN = {"script": torch.jit.script, "pt2": _exported}


@pytest.mark.filterwarnings("ignore")  # of torch, on its own formats
@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("network", [Moving, Picking])
def test_computed_places_are_judged_alike_in_every_format(network, written) -> None:
    own, other = as_model(made(network)), as_model(written(made(network)))
    assert other.facts.lattice == own.facts.lattice
    assert other.reach.halo == own.reach.halo
    assert set(own.facts.period) == {1}
    assert own.reach.halo is not None


def _anywhere(x, net):
    places = torch.arange(x.shape[-1]) + net(x)[:, :1].round().long()
    return torch.take_along_dim(x, places.clamp(0, x.shape[-1] - 1), -1)


def _flowing(x, net):
    rows, columns = (torch.arange(n, dtype=x.dtype) for n in x.shape[2:])
    by = 4 * net(x)
    grid = (columns + by[:, 0], rows[:, None] + by[:, 1])
    grid = [(2 * at + 1) / n - 1 for at, n in zip(grid, x.shape[:1:-1], strict=True)]
    return F.grid_sample(x, torch.stack(grid, -1), align_corners=False)


@pytest.mark.parametrize("function", [_anywhere, _flowing])
def test_places_that_nothing_limits_need_no_certain_halo(function) -> None:
    model = as_model(made(lambda: Given(function, small())))
    assert model.reach.halo is None
    assert model.reach.conditional
    assert not model.reach.depends_on_size
    assert model.reach.couplings == ("reading at computed places",)
    x, start = image(2, 384, 1)
    for by in (1, 5, -5):
        assert apart(model, by * x, start, 128, model.reach.rest[-1]) < 1e-9
    assert apart(model, 100 * x, start, 128, model.reach.rest[-1]) > 1e-3


class Normalized(nn.Module):
    """Normalizes by the tile's statistics, between a function of the image and one of features."""

    def __init__(self, before=None, within=None):
        super().__init__()
        self.before, self.within = before, within
        self.first, self.norm, self.last = conv(1, 4), nn.InstanceNorm2d(4), C2(4, 2, 1)

    def forward(self, x):
        x = self.before(x) if self.before else x
        y = self.norm(self.first(x))
        return self.last(F.relu(self.within(y) if self.within else y))


def _by_a_pixel(row, column):
    return lambda x: -x if x[0, 0, row, column] > 0 else x


PIXELS = {
    "the first": (_by_a_pixel(0, 0), None),
    "one near the border": (_by_a_pixel(5, 5), None),
    "the middle": (lambda x: x / 2 + 1 if x[0, 0, x.shape[2] // 2, -9] > 0.3 else x, None),
    "a feature": (None, _by_a_pixel(0, 0)),
}


@pytest.mark.parametrize(("before", "within"), PIXELS.values(), ids=PIXELS)
def test_a_pixel_by_which_code_decides_is_named(before, within) -> None:
    """Beside statistics of the tile, too: fixing these is not enough."""
    name, why = "a decision by a number of the tile", "the network's code decides by a number"
    model = as_model(made(lambda: Normalized(before, within)))
    assert model.facts.period == (1, 1)
    assert model.reach.couplings == (name,)
    assert model.reach.rest == ((1, 1), (1, 1))
    assert f"per-tile statistics (norm), and {why}" in model.describe()
    pixels = np.random.default_rng(0).normal(size=(96, 128)).astype(np.float32)
    case = Case.open(pixels, model, Settings(tile=32, halo=4, normalize="none", device="cpu"))
    assert why in " ".join(case.plan.notes)
    found = diagnose(case)
    coupling = next(one for one in found.findings if one.cause == "global coupling")
    assert coupling.share > 0.5
    assert name in found.explanation
    if before is not None:
        plain = as_model(made(lambda: Given(lambda x, net: net(before(x)), small())))
        assert plain.reach.couplings == (name,)
        assert plain.describe().startswith(
            f"In some images, overlap cannot remove the seams: {why}"
        )


def _flow(clamped):
    def moved(x, net):
        y = net(x)
        return warped(x, lambda x: y) if clamped else _flowing(x, lambda x: y)

    return moved


def test_a_flow_behind_statistics_is_said_to_be_one() -> None:
    """Held statistics fit no other intensities, so that nothing limits a flow made of features."""
    free = as_model(made(lambda: Given(_flow(False), Normalized())))
    limited = as_model(made(lambda: Given(_flow(True), Normalized())))
    assert free.facts.period == limited.facts.period == (1, 1)
    assert not free.reach.depends_on_size
    assert free.reach.couplings == ("reading at computed places",)
    assert free.reach.convolutional is None
    assert "and reading at computed places sees the whole tile" in free.describe()
    assert limited.reach.couplings == ()
    (rows, columns) = limited.reach.convolutional
    assert min(*rows, *columns) >= 3
    assert max(*rows, *columns) <= 4


# -- what is taken of the tile, and cancels


def _left(y):
    return y - F.pad(y, (1, 0, 0, 0), mode="replicate")[..., :-1]


def _log_of_shares(x, net):
    y = net(x)
    return _left(torch.log_softmax(y.flatten(2), -1).view_as(y))


def _shares_of_shares(x, net):
    y = net(x)
    y = torch.softmax(y.flatten(1), -1).view_as(y)
    return y / y.sum(1, keepdim=True)


def _centred(x, net):
    y = net(x)
    return torch.softmax(y - y.mean((1, 2, 3), keepdim=True), 1)


def _times_zero(x, net):
    y = net(x)
    return y + 0 * torch.softmax(y.flatten(2), -1).view_as(y) + 0 * F.instance_norm(y)


CANCEL = {
    "differences of a log softmax": (_log_of_shares, ((1, 1), (2, 1))),
    "shares of a softmax": (_shares_of_shares, ((1, 1), (1, 1))),
    "a mean below a softmax": (_centred, ((1, 1), (1, 1))),
    "times zero": (_times_zero, ((1, 1), (1, 1))),
}


@pytest.mark.parametrize(("function", "halo"), CANCEL.values(), ids=CANCEL)
def test_what_cancels_but_for_rounding_couples_nothing(function, halo) -> None:
    model = as_model(made(lambda: Given(function, small())))
    assert model.reach.halo == halo
    assert not model.reach.fades
    assert not model.reach.joins_ends
    assert model.describe().startswith("Can be predicted without seams")
    (said,) = advice(model.audit, bounded=model.reach.bounded)
    assert said.endswith("a halo is enough.")
    pixels = np.random.default_rng(0).normal(size=(72, 90)).astype(np.float32)
    case = Case.open(pixels, model, Settings(tile=32, halo=4, normalize="none", device="cpu"))
    assert case.plan.notes == ()
    found = diagnose(case)
    assert found.verdict == "seamless"
    assert "other images" not in found.explanation
    x, start = image(2, 192, 1)
    assert apart(model, x, start, 64, halo[-1]) < 1e-9
    assert apart(model, x, start, 64, (halo[-1][0] - 1, halo[-1][1])) > 1e-3


def test_a_long_memory_is_recorded_once_for_each_axis(monkeypatch) -> None:
    """Its operations are as many as a slab is long; what they are, the shortest one shows."""

    class Remembering(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = conv(1, 8)
            self.along = nn.GRU(8, 8, batch_first=True, bidirectional=True)
            self.last = C2(16, 2, 1)

        def forward(self, x):
            y = self.first(x).permute(0, 2, 3, 1)
            return self.last(self.along(y.flatten(0, 1))[0].unflatten(0, y.shape[:2]).movedim(3, 1))

    lengths, run = [], slab.record

    def record(forward, x, **given):
        lengths.append(max(x.shape[2:]))
        return run(forward, x, **given)

    monkeypatch.setattr(slab, "record", record)
    model = as_model(made(Remembering))
    assert model.reach.fades
    assert model.reach.halo[0] == (1, 1)
    assert set(lengths) == {384}
    x, start = image(2, 900, 1, 8)
    assert apart(model, x, start, 500, model.reach.halo[1]) < 1e-6


def test_a_memory_that_fades_has_no_exact_limit() -> None:
    def decayed(x):
        rows = [x[:, :, 0]]
        for row in x.unbind(2)[1:]:
            rows.append(rows[-1] / 2 + row)
        return torch.stack(rows, 2)

    model = as_model(made(lambda: Given(decayed)))
    assert model.reach.fades
    (before, after), along_x = model.reach.halo
    assert (after, along_x) == (0, (0, 0))
    module, x = model.module.double(), image(2, 96, 1, 9)[0].mT.double()
    differ = (module(x)[:, :, 24:] - module(x[:, :, 24:])).abs().amax((0, 1, 3))
    assert 0 < differ[before] < 1e-6 < differ[before - 20]


class Remembering(nn.Module):
    """Recurrent along z, with convolutions in between."""

    def __init__(self):
        super().__init__()
        self.mix, self.head = conv(3, 2), C2(2, 1, 1)

    def forward(self, x):
        state, found = x.new_zeros(len(x), 2, *x.shape[3:]), []
        for z in range(x.shape[2]):
            state = torch.tanh(self.mix(torch.cat([x[:, :, z], state], 1)))
            found.append(self.head(state))
        return torch.stack(found, 2)


def test_a_memory_along_z_reaches_further_along_x_with_each_step() -> None:
    model = as_model(made(Remembering))
    assert model.facts.spatial_axes == 3
    assert model.reach.fades
    (before, after), _, along_x = model.reach.halo
    assert (before > 8, after) == (True, 0)
    module, x = model.module.double(), torch.randn(1, 1, 48, 8, 300, dtype=torch.float64)
    with torch.no_grad():
        differ = (module(x)[..., 100:] - module(x[..., 100:])).abs().amax((0, 1, 2, 3))
    assert differ[along_x[0]] < 1e-6 < differ[8]  # as many slices as a narrow input has


def test_float64_leaves_a_weak_path_where_it_is() -> None:
    """A path 1e-5 as strong as the other follows only shifts by 4."""
    weak = lambda x, net: net(x) + 2e-5 * F.interpolate(F.max_pool2d(x, 4), scale_factor=4)  # noqa: E731
    assert as_model(made(lambda: Given(weak, small()))).facts.period == (4, 4)


# -- networks that tile by themselves


@pytest.mark.parametrize(
    ("ndim", "window", "step", "inner"),
    [
        (2, 64, 32, small), (2, 32, 8, small), (2, 16, 16, small), (3, 16, 8, small),
        (2, 32, 16, lambda ndim: seq(conv(1, 4), nn.InstanceNorm2d(4), conv(4, 2))),
    ],
)  # fmt: skip
def test_a_network_that_tiles_itself_needs_what_its_windows_overlap(
    ndim, window, step, inner
) -> None:
    model = as_model(made(lambda: Tiling(inner(ndim), window, step)))
    assert set(model.facts.period) == {step}
    assert not model.facts.statistics
    halo = window - step
    assert model.reach.halo == ((halo, halo),) * ndim
    x, start = image(ndim, 6 * window, step, window)
    size = 3 * window
    assert apart(model, x, start, size, (halo, halo)) < 1e-9
    if halo:
        assert apart(model, x, start, size, (halo - 1, halo)) > 1e-3
        assert apart(model, x, start, size, (halo, halo - 1)) > 1e-3


# -- the size of the tile


@pytest.mark.parametrize(
    ("network", "ndim"),
    [
        (lambda: Given(lambda x, net: net(x) * x.shape[-1], small()), 2),
        (lambda: Given(lambda x, net: net(x) / x[0].numel(), small(3)), 3),
        (lambda: Middle(lambda y: y * math.sqrt(y.shape[-1])), 2),
    ],
)
def test_tiles_of_one_size_agree_where_the_size_counts(network, ndim) -> None:
    model = as_model(made(network))
    assert model.reach.halo is None
    assert model.reach.depends_on_size
    assert model.reach.alike
    (halo,) = set(model.reach.rest)
    x, _ = image(ndim, 160, 2)
    module = model.module.double()
    with torch.no_grad():
        one, two = (module(x[..., a : a + 64].double()) for a in (0, 32))
    overlap = one[..., 32 : 64 - halo[1]] - two[..., : 32 - halo[1]]
    assert float(overlap[..., halo[0] :].abs().max()) < 1e-9
    assert apart(model, x, 32, 64, halo) > 1e-2


@pytest.mark.parametrize("up", [False, True])
def test_what_moves_along_both_axes_is_seen_beside_a_long_one(up) -> None:
    """In an input of two patches, all was read beyond its ends."""
    parts = (C2(1, 4, 6, 6), Given(warped, conv(4, 2)), nn.Upsample(scale_factor=6 if up else 1))
    model = as_model(made(lambda: seq(*parts)))
    assert model.reach.halo == ((18, 18), (18, 18))


class Resized(nn.Module):
    """A weak path whose map of half the pixels, and maybe one more, is brought to all of them."""

    def __init__(self, padding):
        super().__init__()
        self.first, self.head = C2(1, 4, 3, padding=1), C2(8, 2, 1)
        self.down, self.inner = C2(4, 4, 2, 2, padding), C2(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.first(x)
        y = 1e-3 * F.interpolate(self.inner(self.down(x)), x.shape[2:], mode="bilinear")
        return self.head(torch.cat([x, y], 1))


@pytest.mark.parametrize("padding", [0, 1])
def test_a_ratio_that_depends_on_the_size_leaves_seams(padding) -> None:
    """Of a thousandth of a standard deviation, which is less than rounding may be."""
    model = as_model(made(lambda: Resized(padding)))
    x, _ = image(2, 160, 2)
    halo = (8, 8)
    if padding:
        assert model.reach.halo is None
        assert model.reach.couplings == ("resizing by a ratio that depends on the size",)
        assert not model.reach.alike
        assert apart(model, x, 48, 64, halo) > 1e-6
    else:
        assert model.reach.halo is not None
        assert apart(model, x, 48, 64, halo) < 1e-9


class Slices(nn.Module):
    """A stack, of which each slice is resized by itself."""

    def __init__(self):
        super().__init__()
        self.inner = Resized(1)

    def forward(self, x):
        slices = x.transpose(1, 2).flatten(0, 1)
        return self.inner(slices).unflatten(0, (len(x), -1)).transpose(1, 2)


def test_a_ratio_that_depends_on_the_size_is_named_for_the_axes_of_slices() -> None:
    model = as_model(made(Slices))
    assert model.facts.implied.coupled == (False, True, True)
    assert model.reach.couplings == ("resizing by a ratio that depends on the size",)


def test_what_changes_with_the_size_is_reported_alike_everywhere() -> None:
    model = as_model(made(lambda: Given(lambda x, net: net(x) * x.shape[-1], small())))
    why = "what the network predicts changes with the size of its tile"
    assert model.describe().startswith(
        f"Tiles of one size agree with each other, but not with an untiled prediction: {why}"
    )
    pixels = np.random.default_rng(0).standard_normal((24, 90)).astype(np.float32)
    for halo, seamless in (("auto", True), (0, False)):  # auto is the reach of all else
        case = Case.open(pixels, model, Settings(tile=(24, 32), halo=halo, device="cpu"))
        assert case.plan.grid.halo == (((1, 1),) * 2 if seamless else ((0, 0),) * 2)
        assert why in " ".join(case.plan.notes)
        report, certificate = measure_seams(case), certify(case)
        found = diagnose(case.at(report.plan), worst=report.seams)
        assert not certificate.passed
        assert why in certificate.note
        assert report.seamless == (found.verdict == "seamless") == seamless
        assert (why in report.sentence()) == (why in found.summary) == seamless
        if not seamless:
            assert found.verdict == "edge effects"
            assert found.suggested_halo == ((1, 1), (1, 1))
            assert advise(case.plan, report).halo == ((1, 1), (1, 1))


@pytest.mark.parametrize(
    "number",
    [
        lambda y: y.mean() > 5,
        lambda y: y.mean().item() > 5,
        lambda y: y.var() > 99,
        lambda y: y.std() > 9,
        lambda y: y.max() > 1e9,
        lambda y: y.norm() > 1e9,
    ],
    ids=["mean", "item", "var", "std", "max", "norm"],
)
def test_code_that_compares_a_number_of_the_tile_is_conditional(number) -> None:
    def branch(x, a, b):
        y = a(x)
        return b(2 * y if number(y) else y)

    model = as_model(made(lambda: Given(branch, conv(1, 4), conv(4, 2))))
    assert model.reach.halo is None
    assert model.reach.conditional
    assert model.reach.useful == ((2, 2), (2, 2))
    assert model.describe().startswith("In some images, overlap cannot remove the seams: ")
    plan = Case.open(np.ones((40, 40), "f4"), model, Settings(tile=24, device="cpu")).plan
    assert plan.grid.halo == ((2, 2), (2, 2))
    assert plan.notes[0].startswith("In some images, expect seams that no halo removes: ")
    assert "freeze" not in plan.notes[0]  # no statistics decide like those of the image


@torch.library.custom_op("seamscope_test::shifted", mutates_args=())  # nothing can be derived
def shifted(x: torch.Tensor) -> torch.Tensor:
    return F.pad(x[..., 12:], (0, 12))


def test_what_is_shifted_by_more_than_a_slab_is_wide_reaches_along_the_other_axis() -> None:
    network = made(lambda: Given(lambda x, a, b: b(shifted(a(x))), conv(1, 4), conv(4, 2)))
    model = as_model(network)
    assert model.reach.halo is not None
    assert apart(model, image(2, 96, 2)[0], 24, 48, model.reach.halo[1]) < 1e-9
    assert model.reach.halo[0] == (2, 2)
    assert model.reach.halo[1][1] == 14


def test_a_certificate_that_passes_does_not_deny_what_it_compared() -> None:
    # slabs are longer than 200 px, what is tiled is not
    model = as_model(made(lambda: Given(lambda x, net: net(x) * max(x.shape[-1], 200), small())))
    assert model.reach.alike
    pixels = np.random.default_rng(0).standard_normal((24, 90)).astype(np.float32)
    certificate = certify(Case.open(pixels, model, Settings(tile=(24, 32), halo=1, device="cpu")))
    assert certificate.passed
    assert certificate.note.startswith(
        "In other images or sizes tiles may differ: what the network"
    )


def test_causes_call_statistics_taken_by_hand_no_layer() -> None:
    def normalized(x, net):
        return net((x - x.mean((2, 3), True)) / x.std((2, 3), keepdim=True))

    model = as_model(made(lambda: Given(normalized, small())))
    pixels = np.random.default_rng(0).standard_normal((24, 90)).astype(np.float32)
    pixels[:, :40] *= 5
    found = diagnose(Case.open(pixels, model, Settings(tile=(24, 32), halo=1, device="cpu")))
    assert "normalization layer" not in found.explanation
    assert "per-tile statistics" in found.explanation


@pytest.mark.parametrize(
    "function",
    [
        lambda x, net: net(x * x.std()),
        lambda x, net: net(x) * ((x.mean((2, 3), True) + 3) / 6).clamp(0, 1),
        lambda x, net: net(x + torch.linspace(-9, 9, x.shape[-1], dtype=x.dtype)),
    ],
    ids=["deviation", "gate", "coordinates"],
)
def test_causes_name_what_the_facts_name(function) -> None:
    model = as_model(made(lambda: Given(function, small())))
    pixels = np.random.default_rng(0).standard_normal((24, 90)).astype(np.float32)
    pixels[:, :40] *= 5
    settings = Settings(tile=(24, 32), halo=1, normalize="none", device="cpu")
    name = why_unbounded(model.facts, model.reach)
    if "(the " in name:  # 1 operation uses per-tile statistics (...)
        name = name.split("(")[1].rstrip(")")
    assert name in diagnose(Case.open(pixels, model, settings)).explanation


def test_pyramid_pooling_is_said_once() -> None:
    assert as_model(made(lambda: PyramidPooling((1, 2, 3)))).describe() == (
        "Overlap cannot remove the seams: 1 operation uses per-tile statistics (pools.0.0), and "
        "pools.1.0 and pools.2.0 see the whole tile. All other layers reach 2 px."
    )


def test_what_sees_the_whole_tile_along_one_axis_says_which() -> None:
    model = as_model(made(lambda: Given(lambda x, net: net(x) - x.mean(3, keepdim=True), small())))
    assert model.describe().endswith("sees the whole tile along x. All other layers reach 1 px.")
    model = as_model(made(lambda: Given(lambda x, net: net(x - x.amax((2, 3), True)), small())))
    assert "sees the whole tile. All" in model.describe()


@pytest.mark.parametrize(
    "positions",
    [
        lambda n: torch.arange(n) / 100,
        lambda n: torch.linspace(-1, 1, n),
        lambda n: torch.randn(160, generator=torch.Generator().manual_seed(1))[:n],  # a table
    ],
    ids=["pixels", "relative", "learned"],
)
def test_positions_are_said_to_be_positions(positions) -> None:
    model = as_model(made(lambda: Given(lambda x, net: net(x + positions(x.shape[-1])), small())))
    assert model.describe().startswith(
        "Overlap cannot remove the seams: what the network predicts depends on the place in its "
        "tile (coordinates or learned positions). Apart from that, the layers reach 1 px."
    )


def _larger(x):
    return F.interpolate(F.max_pool2d(x, 2), x.shape[2:], mode="bilinear", align_corners=True)


def _brighter_to_the_right(x):  # by another program
    ramp = np.linspace(0, 1, x.shape[-1], dtype=np.float32)
    return torch.from_numpy(x.detach().float().numpy() * ramp)


@pytest.mark.parametrize(
    ("function", "knows"),
    [(_larger, True), (_brighter_to_the_right, True), (F.relu, False)],
    ids=["aligned corners", "ramp", "nothing"],
)
def test_tiles_of_one_size_are_compared_with_moved_ones(function, knows) -> None:
    def only(x, net):
        assert x.shape[2:] == (64, 64), "64 x 64"
        return function(net(x))

    module = made(lambda: Given(only, small()))
    reach = load_model(module, input_size=64, spatial_axes=2).reach
    assert (reach.halo is None) == knows == reach.depends_on_size


def test_what_knows_its_place_is_not_alike_in_all_tiles() -> None:
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    corners = seq(conv(1, 4), nn.MaxPool2d(2), up, conv(4, 2))
    wider = torch.tensor([[[1.1, 0, 0], [0, 1, 0]]])  # about the middle of the tile
    magnified = Given(
        lambda x: F.grid_sample(x, F.affine_grid(wider, x.shape, False), align_corners=False)
    )
    thumbnail = Given(lambda x: x + F.interpolate(F.adaptive_avg_pool2d(x, 16), x.shape[2:]))
    for network in (corners, magnified, thumbnail):
        reach = as_model(made(lambda network=network: network)).reach
        assert reach.halo is None
        assert reach.depends_on_size
        assert not reach.alike


class Untrained(nn.Module):
    """Pools all of its tile; what its first layers give is too little to be seen in its output."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([C2(1, 4, 3, 2, 1), conv(4, 4), C2(4, 4, 1)])
        self.head = C2(8, 3, 1)
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.mul_(0.001)
                layer.bias.zero_()

    def forward(self, x):
        first, second, last = self.layers
        y = F.relu(second(F.relu(first(x))))
        pooled = F.interpolate(F.relu(last(F.adaptive_avg_pool2d(y, 1))), size=y.shape[2:])
        return self.head(torch.cat([pooled, y], 1))


def test_a_signal_that_vanishes_shows_no_reach() -> None:
    torch.manual_seed(0)
    model = as_model(Untrained().eval())
    assert model.reach.halo is None
    assert model.reach.useful == model.facts.implied.halo
    said = model.describe()
    assert "Overlap cannot remove the seams" in said
    assert "was not measured: its prediction of noise is constant up to rounding" in said
