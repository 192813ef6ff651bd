"""Planted causes are named, alone and together, and every number is what brute force finds."""

from __future__ import annotations

import itertools
import json
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage
from torch import nn

import networks
import real_networks
from seamscope.errors import ImageError, ModelError, SettingsError
from seamscope.explain.causes import Pipeline, diagnose, examine
from seamscope.explain.experiments import NOTHING, Bench
from seamscope.explain.pipelines import subject_of_case, subject_of_pipeline
from seamscope.explain.tile_sample import PlacedAxis, sample_of
from seamscope.images.image import open_image
from seamscope.models.formats import load_model
from seamscope.models.input_search import Hints
from seamscope.models.model import Model, as_model
from seamscope.planning.case import Case
from seamscope.planning.plan import resolve
from seamscope.seams.measures import Seam
from seamscope.settings import Settings
from seamscope.tiling import Lattice, TileGrid
from watching import Seen


def deep(network, seed=0):
    """The network with its deepest path as strong as the shallow ones, so that errors show."""
    random = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=random)
            nn.init.zeros_(module.bias)
    return network.eval()


def tissue(*shape, seed=0):
    """Smooth structures whose brightness and contrast differ over the image."""
    noise = np.random.default_rng(seed).normal(size=shape)
    rise = np.linspace(0.3, 2, shape[-1]) + np.linspace(0, 3, shape[-2])[:, None]
    return (8 * ndimage.gaussian_filter(noise, 2) * rise + rise).astype(np.float32)


def on_arrays(network, context=torch.no_grad):
    """The network as people call it in their own loops."""

    def predict(tile):
        with context():
            return network(torch.from_numpy(np.ascontiguousarray(tile, np.float32))[None])[
                0
            ].numpy()

    return predict


def zscore(tile):
    return (tile - tile.mean()) / tile.std()


def stretched(prediction):
    low, high = prediction.min(), prediction.max()
    return (prediction - low) / (high - low)


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 2, 3, padding=1)
        self.gate = nn.Linear(6, 6)

    def forward(self, x):
        y = torch.relu(self.first(x))
        return self.last(y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None])


class Attention(nn.Module):
    """Patches of 8 x 8 that look at all others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.patch, self.back = nn.Conv2d(1, 8, 8, 8), nn.ConvTranspose2d(8, 2, 8, 8)
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        y = self.patch(x)
        query, key, value = self.mix(y.flatten(2).mT).chunk(3, -1)
        seen = nn.functional.scaled_dot_product_attention(3 * query, key, value)
        return self.back(y + seen.mT.reshape(y.shape))


class GlobalMaximum(nn.Module):
    def forward(self, x):
        return x / x.amax((2, 3), keepdim=True)


BATCH = deep(networks.UNet(2, 2))
INSTANCE = deep(networks.UNet(2, 2, norm="instance"))
IMAGE = tissue(232, 240)
REACH = 22  # of both, on their grid of 4


# -- each cause alone

ALONE = [
    ("seamless", Pipeline(on_arrays(BATCH)), {}),
    ("edge effects", Pipeline(on_arrays(BATCH)), {"overlap": 8}),
    ("tile statistics", Pipeline(on_arrays(INSTANCE)), {}),
    ("tile statistics", Pipeline(on_arrays(deep(networks.UNet(2, 2, norm="group")))), {}),
    ("global coupling", Pipeline(on_arrays(SqueezeExcite().eval())), {}),
    ("global coupling", Pipeline(on_arrays(Attention().eval())), {}),
    ("global coupling", Pipeline(on_arrays(GlobalMaximum())), {}),
    ("off the grid", Pipeline(on_arrays(BATCH)), {"starts": [(0, 50, 101, 136), (0, 48, 96, 144)]}),
    ("preprocessing", Pipeline(on_arrays(BATCH), preprocess=zscore), {}),
    ("postprocessing", Pipeline(on_arrays(BATCH), postprocess=stretched), {}),
    (
        "postprocessing",
        Pipeline(on_arrays(BATCH), postprocess=lambda y: ndimage.label(y[0] > 0)[0]),
        {},
    ),
    ("postprocessing", Pipeline(on_arrays(BATCH), postprocess=lambda y: y > y.mean()), {}),
    ("seamless", Pipeline(on_arrays(BATCH), postprocess=lambda y: y.argmax(0)), {}),
    ("edge effects", Pipeline(BATCH, postprocess=lambda y: y.argmax(0)), {"overlap": 8}),
    # a callable of which nothing is known
    ("seamless", on_arrays(BATCH), {}),
    ("edge effects", on_arrays(BATCH), {"overlap": 8}),
    ("tile statistics", on_arrays(INSTANCE), {}),
    ("tile statistics", on_arrays(INSTANCE, torch.inference_mode), {}),
    ("global coupling", on_arrays(Attention().eval()), {}),
    ("preprocessing", lambda tile: on_arrays(BATCH)(zscore(tile)), {}),
]


def test_no_halo_is_suggested_that_is_in_use_already() -> None:
    """Each pixel times the median, by code that shows nothing: no pixel sees its neighbours.

    The image is dark in the middle between tiles, so that differences fall with the halo; but no
    halo is a knee of that curve.
    """
    place = np.arange(240)
    faint = np.minimum(1, np.abs((place - 24) % 96 - 48) / 10) + 0.02
    image = (faint * (1 + 0.01 * place) * np.ones((96, 1))).astype(np.float32)
    found = examine(lambda tile: tile * np.median(tile), image, tile=96, overlap=48, halo=0)
    curve = found.curves["edge effects alone"]
    assert curve.knee() == 0
    assert curve.mean_dist[-1] < 0.5 * curve.mean_dist[0]
    edges = next(each for each in found.findings if each.cause == "edge effects")
    assert edges.share == 0
    assert found.verdict == "global coupling"


def test_what_couples_the_whole_tile_has_the_name_that_the_facts_give_it() -> None:
    network = nn.Sequential(GlobalMaximum()).eval()
    first = examine(Pipeline(network), IMAGE, tile=96, overlap=48).findings[0]
    assert first.cause == "global coupling"
    assert as_model(network).reach.couplings == ("0",)
    assert first.what.endswith("what depends on the whole tile is layer 0.")


@pytest.mark.parametrize(("verdict", "code", "how"), ALONE)
def test_a_cause_alone_is_named_and_makes_all_of_it(verdict, code, how) -> None:
    found = examine(code, IMAGE, **({"tile": 96, "overlap": 48} | how))
    assert found.verdict == verdict
    if verdict != "seamless":
        assert found.share(verdict) == pytest.approx(1)
        assert found.findings[0].cause == verdict
        assert found.findings[0].number == pytest.approx(found.mean_dist, rel=0.25)
        assert found.findings[0].remedy
        assert found.max_dist > 10 * found.tolerance
    else:
        assert found.max_dist <= found.tolerance
    assert (found.suggested_halo is not None) == (verdict == "edge effects")


def test_labels_are_compared_as_equal_or_not() -> None:
    """Against both tiles' labels, cut out by hand where both are trusted."""

    def objects(prediction):
        return ndimage.label(prediction[0] > 0)[0]

    image = tissue(96, 140)
    found = examine(Pipeline(on_arrays(BATCH), postprocess=objects), image, tile=96, overlap=52)
    assert (found.seams, found.findings[0].unit) == (1, "of the pixels")
    # at 0 and 44 they would only touch with a halo of 26: at 0 and 40, a period closer
    one, two = (objects(on_arrays(BATCH)(image[None, :, x : x + 96])) for x in (0, 40))
    differ = one[:, 40 + 26 : 96 - 26] != two[:, 26 : 96 - 26 - 40]
    assert 0 < found.mean_dist == pytest.approx(differ.mean())
    assert found.max_dist == 1


def test_seamscopes_own_pipeline_by_halo() -> None:
    """At the reach nothing is left; below it are edge effects, and the reach is the cure."""
    good = diagnose(IMAGE, BATCH, tile=96)
    assert good.verdict == "seamless"
    assert good.halo == ((REACH, REACH),) * 2
    assert good.max_dist <= good.tolerance < good.mean_dist_0 < good.max_dist_0
    short = diagnose(IMAGE, BATCH, tile=96, halo=6)
    assert short.verdict == "edge effects"
    assert short.suggested_halo == ((REACH, REACH),) * 2
    assert short.halo_is == "smallest seamless"
    assert "halo of 22" in short.explanation
    assert diagnose(IMAGE, BATCH, tile=96, halo=short.suggested_halo).verdict == "seamless"
    one_less = diagnose(IMAGE, BATCH, tile=96, halo=REACH - 1)
    assert one_less.verdict == "edge effects"
    narrow = diagnose(IMAGE, BATCH, tile=96, overlap=16)  # half of it is the halo meant
    assert (narrow.verdict, narrow.halo) == ("edge effects", ((8, 8),) * 2)
    fixed = diagnose(IMAGE, INSTANCE, tile=96)
    assert (fixed.verdict, fixed.suggested_halo) == ("tile statistics", None)
    assert "10 normalization layers" in fixed.explanation
    both = diagnose(IMAGE, INSTANCE, tile=96, halo=6)
    assert both.verdict == "tile statistics"
    assert both.share("edge effects") > 0.2
    assert both.suggested_halo is None  # no halo helps before the statistics are mended


def test_a_tile_too_small_for_the_halo_is_explained_not_refused() -> None:
    found = diagnose(IMAGE, BATCH, tile=32)
    assert found.verdict == "edge effects"
    assert found.halo[0][0] < REACH
    assert "tiles of 48 or more" in found.findings[0].remedy


def test_a_tile_that_just_fits_its_halo_is_not_blamed() -> None:
    """Of cores of one period no two tiles can both trust a pixel: larger tiles are compared."""
    found = diagnose(IMAGE, BATCH, tile=2 * REACH + 4)
    assert found.verdict == "seamless"
    assert found.halo == ((REACH, REACH),) * 2
    assert found.tile == (52, 52)
    uneven = nn.Sequential(nn.ZeroPad2d((0, 8, 0, 8)), nn.Conv2d(1, 1, 9)).eval()
    assert diagnose(IMAGE, uneven, tile=16).halo == ((0, 8), (0, 8))


def test_a_network_of_one_size_is_told_from_its_curve() -> None:
    module = load_model(deep(networks.UNet(2, 1))).module
    fixed = Model(module, "fixed", hints=Hints(shape=(96, 96)))
    assert diagnose(IMAGE, fixed, tile=96).verdict == "seamless"
    assert diagnose(IMAGE, fixed, tile=96, halo=2).verdict == "edge effects"
    frozen = Model(INSTANCE, "fixed", hints=Hints(shape=(96, 96)))
    assert diagnose(IMAGE, frozen, tile=96, halo=24).verdict == "tile statistics"


def test_causes_that_only_act_together_share_it() -> None:
    """Postprocessing of a tile lets what preprocessing added pass, and of more than a tile not."""
    code = Pipeline(
        lambda tile: tile,
        preprocess=lambda tile: tile + tile.mean(),
        postprocess=lambda y: y * (y.size <= 32 * 32),
    )
    found = examine(code, tissue(64, 64), tile=32, overlap=16)
    assert found.verdict == "mixed"
    assert found.share("preprocessing") == pytest.approx(0.5)
    assert found.share("postprocessing") == pytest.approx(0.5)


def test_three_dimensions_and_valid_convolutions_and_scales() -> None:
    volume = tissue(40, 44, 48)
    solid = deep(networks.UNet(3, 1, features=2))
    assert diagnose(volume, solid, tile=32).verdict == "seamless"
    assert diagnose(volume, solid, tile=32, halo=2).verdict == "edge effects"
    valid = deep(networks.ValidUNet(2, 2))
    assert diagnose(IMAGE, valid, tile=92).verdict == "seamless"
    torch.manual_seed(0)
    halved = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, 1, 1)).eval()
    assert diagnose(IMAGE, halved, tile=64).verdict == "seamless"
    assert diagnose(IMAGE, halved, tile=64, halo=0).verdict == "edge effects"


def test_channels_frames_and_areas() -> None:
    torch.manual_seed(0)
    blur = nn.Conv2d(2, 1, 5, padding=2).eval()
    frames = np.stack([np.zeros((2, 96, 96), np.float32), np.stack([tissue(96, 96)] * 2)])
    dark = diagnose(frames, blur, axes="tcyx", tile=32, halo=0)
    assert "the same number everywhere" in dark.explanation
    seam = Seam(1.0, 1.0, (0, 0), 0, (1,), (None,), (None,), (30, 40))
    found = diagnose(frames, blur, axes="tcyx", tile=32, halo=0, worst=[seam])
    assert found.verdict == "edge effects"
    part = diagnose(IMAGE, BATCH, tile=48, halo=6, area={"y": (0, 40), "x": (0, 100)})
    assert (part.tiles, part.seams) == (6, 7)  # two tiles along y and three along x touch it


# -- together


def test_two_causes_are_mixed_and_ranked() -> None:
    found = examine(Pipeline(on_arrays(BATCH), preprocess=zscore), IMAGE, tile=96, overlap=8)
    assert found.verdict == "mixed"
    first, second = found.findings[:2]
    assert {first.cause, second.cause} == {"preprocessing", "edge effects"}
    assert first.share + second.share == pytest.approx(1)
    assert first.number > second.number
    assert first.share > second.share
    assert found.suggested_halo == ((REACH, REACH),) * 2
    assert found.halo_is == "removes edge effects"
    more = examine(
        Pipeline(on_arrays(INSTANCE), zscore, stretched),
        IMAGE,
        tile=96,
        overlap=40,
        starts=[(0, 50, 101, 136), (0, 55, 96, 144)],
    )
    assert more.verdict == "mixed"
    assert sum(f.share for f in more.findings) == pytest.approx(1)
    assert sum(f.share > 0 for f in more.findings) >= 3


def test_shares_are_those_computed_by_hand() -> None:
    """Each part adds to channel 0 a multiple of the tile's mean of channel 1, so amounts add up."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32) ** 2 / 100, (64, 64))
    image = np.stack([np.zeros_like(ramp), ramp])

    def adds(factor):
        def step(tile):
            out = np.array(tile, np.float32)
            out[0] += factor * out[1].mean()
            return out

        return step

    class AddsThree(nn.Module):
        """With amax, which is none of the normalizations."""

        def forward(self, x):
            top = 3 * x[:, 1:].amax((2, 3), keepdim=True)
            return torch.cat([x[:, :1] + top, x[:, 1:]], 1)

    code = Pipeline(on_arrays(AddsThree()), preprocess=adds(1.0), postprocess=adds(6.0))
    found = examine(code, image, tile=32, overlap=16)
    expected = {"preprocessing": 0.0, "global coupling": 0.0, "postprocessing": 0.0}
    # a halo of half the overlap leaves nothing to compare: a period of 1 closer, 15 and not 16
    starts = (0, 15, 30)
    for _, (x1, x2) in itertools.product(starts, itertools.pairwise(starts)):
        one, two = ramp[0, x1 : x1 + 32], ramp[0, x2 : x2 + 32]
        apart = abs(float(one.mean() - two.mean()))
        expected["preprocessing"] += apart / 2  # the mean over both channels
        expected["global coupling"] += 3 * abs(float(one.max() - two.max())) / 2
        expected["postprocessing"] += 6 * apart / 2
    total = sum(expected.values())
    assert (found.tiles, found.seams) == (9, 12)
    # tiles agree along y, where as many pixels are compared as along x
    assert found.mean_dist == pytest.approx(total / 12, rel=1e-4)
    for cause, amount in expected.items():
        assert found.share(cause) == pytest.approx(amount / total, rel=1e-3), cause


def test_a_step_that_uncovers_more_than_it_takes_counts_as_nothing() -> None:
    """Postprocessing takes half of what preprocessing added away again: 0.5 m, alone m and 0.5 m.

    Orders of removal: 0.5 m -> 0.5 m -> 0 and 0.5 m -> m -> 0, so (0 + m) / 2 and (0.5 m + 0) / 2.
    """
    image = np.stack([np.zeros((64, 64), np.float32), tissue(64, 64)])

    def adds(factor):
        return lambda tile: np.stack([tile[0] + factor * tile[1].mean(), tile[1]])

    code = Pipeline(lambda tile: tile, preprocess=adds(1), postprocess=adds(-0.5))
    found = examine(code, image, tile=32, overlap=16)
    assert found.share("preprocessing") == pytest.approx(2 / 3, rel=1e-3)
    assert found.share("postprocessing") == pytest.approx(1 / 3, rel=1e-3)
    assert found.findings[1].number == pytest.approx(found.mean_dist, rel=1e-3)


def test_causes_that_hide_one_another_are_both_named() -> None:
    """InstanceNorm first makes z-scores of tiles idle; with its statistics fixed they matter.

    What each removal leaves, by hand; steps that uncover more than they take count as nothing.
    """
    network = nn.Sequential(nn.InstanceNorm2d(1), BATCH).eval()
    found = examine(Pipeline(on_arrays(network), preprocess=zscore), IMAGE, tile=96, overlap=48)
    number = {f.cause: f.number for f in found.findings}
    now, norm, pre = found.mean_dist, number["tile statistics"], number["preprocessing"]
    assert norm == pytest.approx(now, rel=1e-3)  # as if there were no z-scores
    amounts = {
        "preprocessing": (max(0, now - norm) + pre) / 2,
        "tile statistics": (max(0, now - pre) + norm) / 2,
    }
    for cause, amount in amounts.items():
        assert found.share(cause) == pytest.approx(amount / sum(amounts.values()), rel=1e-3)
        assert found.share(cause) > 0.2


# -- the numbers behind it


def test_disagreement_equals_brute_force() -> None:
    """Two by two tiles, all of them examined: mean and maximum cut out and compared by hand."""
    size, tile, halo = 160, 96, 6
    image = tissue(size, size)
    found = diagnose(image, BATCH, tile=tile, halo=halo)
    assert (found.tiles, found.seams) == (4, 4)
    starts = (0, size - tile)
    assert found.overlap[0] <= tile - starts[1] + 64
    plan = resolve(
        open_image(image), load_model(BATCH), Settings(tile=tile, halo=halo, overlap=found.overlap)
    )
    boxes = {t.index: tuple((s.start, s.stop) for s in t.read) for t in plan.grid}
    with torch.no_grad():
        predicted = {
            i: BATCH(torch.from_numpy(image[slice(*y), slice(*x)].copy())[None, None])[0].numpy()
            for i, (y, x) in boxes.items()
        }
    apart = []
    for one, two in itertools.combinations(sorted(boxes), 2):
        if sum(abs(a - b) for a, b in zip(one, two, strict=True)) != 1:
            continue
        region = []
        for axis in range(2):
            low, high = zip(*(trusted(boxes[i][axis], size, halo) for i in (one, two)), strict=True)
            region.append((max(low), min(high)))
        cut = [
            predicted[i][
                :, *(slice(a - b[0], z - b[0]) for (a, z), b in zip(region, boxes[i], strict=True))
            ]
            for i in (one, two)
        ]
        apart.append(np.abs(cut[0] - cut[1]).ravel())
    values = np.concatenate(apart)
    assert found.mean_dist == pytest.approx(values.mean(dtype=np.float64), rel=1e-5)
    assert found.max_dist == pytest.approx(values.max(), rel=1e-5)


def trusted(box, size, halo):
    low, high = box
    return low + halo * (low > 0), high - halo * (high < size)


def bench_of(network, image, **asked):
    case = Case.open(image, network, normalize="none", **asked)
    return Bench(subject_of_case(case, ()), case.plan.grid, list(case.plan.grid))


def test_with_edge_effects_removed_a_tile_is_what_the_whole_image_gives() -> None:
    bench = bench_of(BATCH, IMAGE, tile=96, halo=0)
    with torch.no_grad():
        whole = BATCH(torch.from_numpy(IMAGE)[None, None])[0].numpy()
    raws = bench._raws(frozenset({"edge effects"}))
    for index, tile in bench.tiles.items():
        assert np.abs(raws[index] - whole[:, *tile.read]).max() < 1e-4 * whole.std()
    untouched = bench._raws(NOTHING)
    assert np.abs(untouched[0, 0] - whole[:, *bench.tiles[0, 0].read]).max() > 0.1 * whole.std()


def test_misaligned_tiles_are_read_from_the_grid_on() -> None:
    lattice = Lattice(period=4, step=4)
    axes = [
        PlacedAxis(n, 96, (24, 24), 0, lattice, starts=s)
        for n, s in zip(IMAGE.shape, [(0, 50, 133), (0, 48, 143)], strict=True)
    ]
    grid = TileGrid(tuple(axes))
    pixels = IMAGE[None]
    subject = subject_of_pipeline(Pipeline(on_arrays(BATCH)), pixels, (96, 96))
    assert subject.pitch == (4, 4)
    bench = Bench(subject, grid, list(grid))
    assert bench.remainders() == ((0, 1, 2), (0, 3))
    with torch.no_grad():
        whole = BATCH(torch.from_numpy(IMAGE)[None, None])[0].numpy()
    aligned, as_is = bench._raws(frozenset({"off the grid"})), bench._raws(NOTHING)
    for index, tile in bench.tiles.items():
        inside = whole[:, *tile.trusted]
        assert np.abs(aligned[index][:, *tile.within(tile.trusted)] - inside).max() < 1e-3
        if any(part.start % 4 for part in tile.read):
            assert np.abs(as_is[index][:, *tile.within(tile.trusted)] - inside).max() > 0.1


def with_statistics_of(network, part, image):
    """Prediction of an image by a network whose InstanceNorms keep the statistics of a part."""
    norms = [m for m in network.modules() if isinstance(m, nn.InstanceNorm2d)]
    numbers = {}

    def note(module, inputs):
        numbers[module] = torch.var_mean(inputs[0], (2, 3), correction=0, keepdim=True)

    def use(module, inputs, _):
        var, mean = numbers[module]
        return (inputs[0] - mean) / torch.sqrt(var + module.eps)

    for way, hook, pixels in (
        ("register_forward_pre_hook", note, part),
        ("register_forward_hook", use, image),
    ):
        handles = [getattr(m, way)(hook) for m in norms]
        with torch.no_grad():
            predicted = network(torch.from_numpy(np.ascontiguousarray(pixels))[None, None])
        for handle in handles:
            handle.remove()
    return predicted[0].numpy()


def test_statistics_stay_the_tiles_own_when_it_is_read_with_its_surroundings() -> None:
    """Against a network whose normalizations are replaced by hand with each tile's numbers."""
    network = deep(networks.UNet(2, 1, norm="instance"))
    image = tissue(120, 128)
    bench = bench_of(network, image, tile=48, halo=0)
    raws = bench._raws(frozenset({"edge effects"}))
    for index in ((0, 0), (1, 1)):
        part = bench.tiles[index].read
        whole = with_statistics_of(network, image[part], image)
        assert np.abs(raws[index] - whole[:, *part]).max() < 1e-4 * whole.std()


def test_common_statistics_are_those_of_all_tiles_together() -> None:
    network = nn.Sequential(nn.InstanceNorm2d(1)).eval()
    bench = bench_of(network, IMAGE, tile=64, halo=0, overlap=8)
    raws = bench._raws(frozenset({"tile statistics"}))
    tiles = np.stack([IMAGE[tile.read] for tile in bench.tiles.values()])
    for index, tile in bench.tiles.items():
        expected = (IMAGE[tile.read] - tiles.mean()) / np.sqrt(tiles.var() + 1e-5)
        assert np.abs(raws[index][0] - expected).max() < 1e-4


def test_preprocessing_is_carried_over_where_it_is_a_line_and_not_otherwise() -> None:
    image = IMAGE[None]
    subject = subject_of_pipeline(Pipeline(on_arrays(BATCH), preprocess=zscore), image, (64, 64))
    tile, wide = ((64, 128), (64, 128)), ((40, 160), (40, 160))
    own = image[:, 64:128, 64:128]
    expected = (image[:, 40:160, 40:160] - own.mean()) / own.std()
    assert np.abs(subject.inputs(wide, tile) - expected).max() < 1e-4
    assert np.array_equal(subject.inputs(tile, None), zscore(image)[:, 64:128, 64:128])

    def ranks(x):
        return x.ravel().argsort().argsort().reshape(x.shape).astype(np.float32) / x.size

    curved = subject_of_pipeline(Pipeline(on_arrays(BATCH), preprocess=ranks), image, (64, 64))
    assert np.array_equal(curved.inputs(wide, tile), ranks(image[:, 40:160, 40:160]))
    assert np.array_equal(curved.inputs(tile, tile), ranks(own))


# -- which tiles


def test_the_sample_is_where_it_is_worst_and_spread_and_not_where_nothing_is() -> None:
    grid = TileGrid.regular((2000, 2000), 128, 16)
    bright = lambda tile: float(tile.read[0].start > 900)  # noqa: E731
    tiles = sample_of(grid, bright, worst=[(400.0, 1500.0)])
    assert len(tiles) == 16
    inside = [t for t in tiles if t.read[0].start < 500 and t.read[0].stop > 300]
    assert len(inside) == 4  # the block around the place
    assert any(
        p.start < 400 < p.stop and q.start < 1500 < q.stop for p, q in (t.core for t in inside)
    )
    assert all(t.read[0].stop >= 900 for t in tiles if t not in inside)
    rows = {t.index[0] for t in tiles if t not in inside}
    columns = {t.index[1] for t in tiles}
    assert len(rows) >= 4
    assert max(columns) - min(columns) > grid.shape[1] / 2
    large = TileGrid.regular((9000, 9000), 2048, 16)
    assert len(sample_of(large, bright)) == 4  # one block: large tiles have long borders
    for tile in tiles:  # everybody has a neighbour
        near = [sum(abs(a - b) for a, b in zip(tile.index, o.index, strict=True)) for o in tiles]
        assert 1 in near


# -- odd images and odd code


def test_there_is_a_sensible_sentence_for_everything_odd() -> None:
    one = diagnose(IMAGE, BATCH, tile=256)
    assert (one.verdict, one.findings) == ("seamless", ())
    assert "One tile covers the whole image" in one.explanation
    empty = diagnose(np.zeros_like(IMAGE), BATCH, tile=96, normalize="zscore", halo=4)
    assert empty.tiles > 1
    constant = diagnose(
        IMAGE, nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), Saturated()).eval(), tile=64
    )
    assert constant.verdict == "seamless"
    assert "the same number everywhere" in constant.explanation
    assert diagnose(IMAGE[:, :96], BATCH, tile=96).verdict == "seamless"  # tiles along y only
    for found in (one, empty, constant):
        json.dumps(found.to_json(), allow_nan=False)


class Saturated(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x * 0 + 200)


def test_errors_are_sentences() -> None:
    with pytest.raises(ImageError, match="not finite"):
        diagnose(IMAGE, nn.Sequential(Saturated(), Infinite()).eval(), tile=64)
    with pytest.raises(ModelError, match=r"network failed on a tile.*IndexError.*numpy"):
        examine(lambda tile: tile[99], IMAGE, tile=64, overlap=8)
    with pytest.raises(ModelError, match=r"preprocess made .*only the network may"):
        examine(Pipeline(lambda x: x, preprocess=lambda x: x[:, ::2]), IMAGE, tile=64, overlap=8)
    with pytest.raises(ModelError, match="is no image"):
        examine(lambda tile: tile.mean(), IMAGE, tile=64, overlap=8)
    with pytest.raises(SettingsError, match="0 <= overlap < tile <= image"):
        examine(lambda tile: tile, IMAGE, tile=64, overlap=64)
    with pytest.raises(SettingsError, match="rising whole positions from 0 to 168"):
        examine(lambda tile: tile, IMAGE, tile=64, overlap=8, starts=[(0, 200), (0, 50)])
    with pytest.raises(SettingsError, match="give \\(\\*spatial\\)"):
        examine(lambda tile: tile, IMAGE, tile=(8, 8, 8), overlap=8)

    with pytest.raises(SettingsError, match="Starts for 1 axes of 2"):
        examine(lambda tile: tile, IMAGE, tile=64, overlap=8, starts=[(0, 50)])
    with pytest.raises(SettingsError, match="rising whole positions"):
        examine(lambda tile: tile, IMAGE, tile=64, overlap=8, starts=[(0, 50.5), (0, 50)])
    with pytest.raises(SettingsError, match="halo -2 must not be negative"):
        examine(lambda tile: tile, IMAGE, tile=64, overlap=8, halo=-2)
    with pytest.raises(SettingsError, match=r"worst place .* 2 spatial axes"):
        examine(lambda tile: tile, IMAGE, tile=64, overlap=8, worst=[(1,)])
    with pytest.raises(SettingsError, match=r"tile 64\.5: give a whole number"):
        examine(lambda tile: tile, IMAGE, tile=64.5, overlap=8)
    with pytest.raises(ImageError, match="complex64 numbers: give real ones"):
        examine(lambda tile: tile, IMAGE + np.complex64(1j), tile=64, overlap=8)
    for tolerance in (float("nan"), float("inf"), -1.0):
        with pytest.raises(SettingsError, match="finite and 0 or more"):
            examine(lambda tile: tile, IMAGE, tile=64, overlap=8, tolerance=tolerance)
        with pytest.raises(SettingsError, match="finite and 0 or more"):
            diagnose(IMAGE, BATCH, tile=64, tolerance=tolerance)


def test_tiles_that_can_only_touch_are_said_to() -> None:
    pool = nn.Sequential(nn.MaxPool2d(16), nn.Upsample(scale_factor=16))
    own = diagnose(IMAGE[:24, :24], pool, tile=16, halo=0)
    foreign = examine(Pipeline(on_arrays(pool), period=32), IMAGE, tile=32, overlap=0)
    for found, least in ((own, 32), (foreign, 64)):
        assert (found.verdict, found.findings) == ("not compared", ())
        assert f"only touch: the network's period is {least // 2}" in found.explanation
        assert f"larger tiles, of {least} or more" in found.explanation
        json.dumps(found.to_json(), allow_nan=False)
    beside = examine(Pipeline(on_arrays(pool), period=(32, 8)), IMAGE, tile=32, overlap=0)
    assert "Along y tiles only touch" in beside.explanation


def test_tolerance_is_the_callers() -> None:
    strict, loose = (diagnose(IMAGE, BATCH, tile=64, halo=4, tolerance=t) for t in (1e-4, 100.0))
    assert strict.verdict != "seamless"
    assert loose.verdict == "seamless"
    assert loose.tolerance == pytest.approx(100 * loose.spread)


def test_what_is_examined_instead_is_said() -> None:
    blur = nn.Conv2d(1, 1, 3, padding=1).eval()
    usual = examine(blur, IMAGE, tile=32, overlap=8)
    assert "both keep" not in usual.explanation
    larger = examine(blur, IMAGE, tile=32, overlap=8, halo=30)
    assert larger.halo == ((15, 15), (15, 15))
    assert "With tile 32, overlap 8 and halo 30 neighbours share no pixel" in larger.explanation
    assert "examined is tile 32, overlap 31 and halo 15." in larger.explanation
    closer = examine(blur, IMAGE, tile=32, overlap=8, halo=6)
    assert "examined is tile 32, overlap 13 and halo 6." in closer.explanation


class Infinite(nn.Module):
    def forward(self, x):
        return x / (x - x)


def test_progress_never_goes_back_and_cancel_ends_it() -> None:
    work = Seen()
    diagnose(IMAGE, INSTANCE, tile=96, halo=4, work=work)
    parts = [done / total for done, total in work.steps]
    assert parts == sorted(parts)
    assert parts[-1] == 1
    assert len(parts) > 20
    with pytest.raises(InterruptedError):
        diagnose(IMAGE, INSTANCE, tile=96, halo=4, work=Seen(until=lambda seen: seen.asked > 5))


def test_a_diagnosis_leaves_the_model_as_it_was() -> None:
    before = {k: v.clone() for k, v in INSTANCE.state_dict().items()}
    diagnose(IMAGE, INSTANCE, tile=96, halo=4)
    assert not INSTANCE.training
    assert all(torch.equal(v, before[k]) for k, v in INSTANCE.state_dict().items())
    told = json.loads(
        json.dumps(diagnose(IMAGE, BATCH, tile=96, halo=6).to_json(), allow_nan=False)
    )
    assert told["verdict"] == "edge effects"
    assert told["suggested_halo"] == [[22, 22], [22, 22]]
    assert told["findings"][0]["share"] == 1


# -- real networks on real images


@cache
def real(models, folder, make):
    """Measured once: its reach takes seconds."""
    network = make()
    network.load_state_dict(load_file(models / folder / "state_dict.safetensors"), strict=True)
    return load_model(network.eval())


@pytest.mark.parametrize("halo", ["auto", 16])
def test_the_real_instancenorm_network(real_models, real_images, halo) -> None:
    model = real(real_models, "unet2d_covid_if_instancenorm", real_networks.covid_instancenorm)
    image = real_images / "nuclei_2d.tif"
    found = diagnose(image, model, tile=64, halo=halo, normalize="zscore")
    assert found.verdict == "tile statistics"
    assert found.suggested_halo is None
    assert found.share("tile statistics") > 0.6


def test_the_real_network_without_normalization(real_models, real_images) -> None:
    """Its effective reach is 48, its theoretical one 58 at the worst phase, 53 on the grid."""
    model = real(real_models, "unet2d_nuclei_broad", real_networks.nuclei_broad)
    image = real_images / "nuclei_2d.tif"
    found = diagnose(image, model, tile=160, halo=16, normalize="zscore")
    assert found.verdict == "edge effects"
    assert found.suggested_halo is not None
    assert all(48 <= side <= 58 for sides in found.suggested_halo for side in sides)
    assert found.halo_here is not None
    assert found.halo_here[0][0] <= found.suggested_halo[0][0]
    cured = diagnose(image, model, tile=160, halo=found.suggested_halo, normalize="zscore")
    assert cured.verdict == "seamless"
    code = Pipeline(on_arrays(model.module), preprocess=zscore)
    pixels = open_image(image).read((slice(None),) * 2)
    foreign = examine(code, pixels, tile=160, overlap=112)
    assert foreign.verdict == "preprocessing"


def test_the_real_batchnorm_network(real_models, real_images) -> None:
    model = real(real_models, "unet2d_nuclei_batchnorm", real_networks.nuclei_batchnorm)
    image = real_images / "nuclei_2d.tif"
    found = diagnose(image, model, tile=128, halo=32, normalize="minmax")
    assert found.verdict == "edge effects"
    assert found.suggested_halo == model.reach.halo
    cured = diagnose(image, model, tile=288, normalize="minmax")
    assert cured.verdict == "seamless"


def test_a_stated_step_that_is_too_short_is_found_to_be_off_the_grid() -> None:
    """What tiles off the grid make is called so, and not global coupling."""
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.MaxPool2d(8),
        nn.Upsample(scale_factor=8),
        nn.Conv2d(4, 1, 1),
    )
    model = as_model(network.eval()).stated(step=1)
    assert "no multiple of the period" in model.facts.notes[-1]
    image = np.random.default_rng(0).random((24, 150), np.float32)
    found = diagnose(image, model, tile=(24, 64), halo=(8, 11), device="cpu")
    assert found.verdict == "off the grid"
    assert found.findings[0].share > 0.99
    assert diagnose(image, as_model(network), tile=(24, 64), halo=(8, 11)).verdict == "seamless"
