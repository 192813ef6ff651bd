"""Ways of stitching are judged as their formulas say, and the best is recommended."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import networks
import seamscope
import seamscope.compare.blends
import seamscope.images.scratch
from seamscope.compare.blends import BlendComparison, BlendScore, compare_blends
from seamscope.demo import sample_image
from seamscope.errors import SettingsError
from seamscope.images.image import open_image
from seamscope.models.model import as_model
from seamscope.planning.plan import resolve
from seamscope.settings import Settings
from seamscope.stitching import BLENDS
from seamscope.tiling import Lattice, TileGrid
from watching import Seen, stopped_after

PIXELS = np.random.default_rng(4).random((96, 80), np.float32)
# where tiles of 32 with a halo of 4 and an overlap of 16 begin, and their cores: by hand
STARTS = [(0, 16, 32, 48, 64), (0, 16, 32, 48)]
CORES = [(0, 24, 40, 56, 72), (0, 24, 40, 56)]
MOVED_STARTS = [(0, 8, 24, 40, 56, 64), (0, 8, 24, 40, 48)]
MOVED_CORES = [(0, 16, 32, 48, 64, 80), (0, 16, 32, 48, 64)]
ASK = {"tile": 32, "halo": 4, "accelerate": False}


class Mean(nn.Module):
    """Each tile's mean, everywhere."""

    def forward(self, x):
        return x * 0 + x.mean((2, 3), keepdim=True)


class TileMean(nn.Module):
    """Two channels that depend on the mean of the tile."""

    def forward(self, x):
        p = torch.sigmoid(4 * (x - 1.5 * x.mean((2, 3), keepdim=True)))
        return torch.cat([p, 3 * p * p], 1)


def uneven() -> np.ndarray:
    return PIXELS * np.linspace(0.2, 1, 96, dtype=np.float32)[:, None]


# ---------------------------------------------------------------------------- against brute force


def weight(blend: str, core: tuple[int, int], start: int, x: int, size: int) -> float:
    """Of one tile for one pixel along one axis, from the table in `seamscope.stitching`."""
    low = 0 if start == 0 else start + 4
    high = size if start + 32 >= size else start + 28
    center = x + 0.5
    if blend == "crop":
        return float(core[0] <= x < core[1])
    if not low < center < high:
        return 0.0
    if blend == "gaussian":
        return float(np.exp(-0.5 * ((center - (low + high) / 2) / ((high - low) / 8)) ** 2))
    below = center - low if start else np.inf
    above = high - center if high < size else np.inf
    ramp = 8 if blend == "linear" else high - low
    return min(below, above, ramp)


def stitch(image, network, blend, starts, cores) -> np.ndarray:
    """Weighted mean of all tiles in double precision."""
    total, weights = 0.0, 0.0
    combine = np.minimum if blend == "distance" else np.multiply
    sides = [list(itertools.pairwise((*c, n))) for c, n in zip(cores, image.shape, strict=True)]
    for i, j in itertools.product(range(len(starts[0])), range(len(starts[1]))):
        y, x = starts[0][i], starts[1][j]
        wy = np.array([weight(blend, sides[0][i], y, p, 96) for p in range(96)])
        wx = np.array([weight(blend, sides[1][j], x, p, 80) for p in range(80)])
        seen = np.zeros((2, 96, 80))
        with torch.no_grad():
            tile = torch.from_numpy(image[None, None, y : y + 32, x : x + 32])
            seen[:, y : y + 32, x : x + 32] = network(tile)[0]
        w = combine(wy[:, None], wx)
        total, weights = total + w * seen, weights + w
    return total / weights


def excess(result, lines, seams) -> np.ndarray:
    """Mean over the pixels of lines of the jump less the mean jump off all seams of the axis."""
    found = []
    for axis in range(2):
        values = np.moveaxis(result, axis + 1, 1)
        jumps = {p: abs(values[:, p] - values[:, p - 1]) for p in range(1, values.shape[1])}
        rest = np.stack([jumps[p] for p in jumps if p not in seams[axis]], 1)
        usual = rest.reshape(2, -1).mean(1)
        found += [jumps[p][:, k] - usual for p in lines[axis] for k in range(values.shape[2])]
    return np.mean(found, axis=0)


@pytest.fixture(scope="module")
def found() -> BlendComparison:
    return compare_blends(uneven(), TileMean(), **ASK)


@pytest.mark.parametrize("blend", BLENDS)
def test_numbers_equal_brute_force(found, blend) -> None:
    way = found.ways[BLENDS.index(blend)]
    result = stitch(uneven(), TileMean(), blend, STARTS, CORES)
    moved = stitch(uneven(), TileMean(), blend, MOVED_STARTS, MOVED_CORES)
    apart = abs(result - moved).reshape(2, -1)
    assert found.shift == (8, 8)
    np.testing.assert_allclose(way.dependence, apart.mean(1), atol=1e-6)
    np.testing.assert_allclose(way.largest_dependence, apart.max(1), atol=3e-6)
    cores = [set(c[1:]) for c in CORES]
    trusted = [{s + 4 for s in each[1:]} | {s + 28 for s in each[:-1]} for each in STARTS]
    seams = [a | b for a, b in zip(cores, trusted, strict=True)]
    np.testing.assert_allclose(way.core, excess(result, cores, seams), atol=1e-6)
    if blend == "crop":
        assert way.trusted is None
        assert way.core.min() > 1e-3, "nothing to see"
    else:
        np.testing.assert_allclose(way.trusted, excess(result, trusted, seams), atol=1e-6)
    assert found.spread == pytest.approx(
        stitch(uneven(), TileMean(), "crop", STARTS, CORES).std(), abs=1e-6
    )


def test_planted_steps_are_found_to_the_digit() -> None:
    """Tiles of a ramp along y predict their mean: neighbours differ by 0.16, and 0 along x."""
    ramp = np.arange(96, dtype=np.float32)[:, None] / 100 + np.zeros(80, np.float32)
    crop, *blends = compare_blends(ramp, Mean(), **ASK).ways
    # 4 seams across y, 80 pixels each; 3 across x, 96 pixels each, without a step
    assert crop.core[0] == pytest.approx(0.16 * 4 * 80 / (4 * 80 + 3 * 96), abs=1e-6)
    assert crop.peak[0] == pytest.approx(0.16, abs=1e-6)
    assert crop.peak_elsewhere[0] == pytest.approx(0, abs=1e-6)
    # between rows 16 and 80, owners on both grids begin 8 rows apart; none elsewhere
    assert crop.dependence is not None
    assert crop.largest_dependence is not None
    assert crop.dependence[0] == pytest.approx(0.08 * 64 / 96, abs=1e-6)
    assert crop.largest_dependence[0] == pytest.approx(0.08, abs=1e-6)
    # a ramp over 8 pixels takes 0.02 from one to the next in its middle, where cores begin
    linear = blends[0]
    assert linear.peak[0] == pytest.approx(0.02, abs=1e-6)


# ---------------------------------------------------------------------------- what is recommended


def test_a_seamless_network_is_alike_in_all_ways() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(1, 2, 5, padding=2)
    found = compare_blends(PIXELS, network, **ASK)
    assert found.seamless
    assert found.alike
    assert found.recommended.blend == "crop"
    assert "same result" in found.describe()
    for way in found.ways:
        assert way.dependence is not None
        assert way.dependence.max() < 1e-6


def test_a_short_halo_is_told() -> None:
    blur = nn.Conv2d(1, 1, 13, padding=6, bias=False)
    nn.init.constant_(blur.weight, 1 / 169)
    found = compare_blends(PIXELS, blur, tile=32, halo=0, overlap=0, accelerate=False)
    assert "A halo of 6" in found.describe()
    assert any("nothing is left to mix" in note for note in found.notes)
    assert not found.seamless
    enough = compare_blends(PIXELS, blur, tile=32, halo=6, accelerate=False)
    assert enough.seamless
    assert not enough.remedy


class Attending(nn.Module):
    """Sees 4 pixels and the whole tile."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 1, 9, padding=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        flat = x.flatten(2)
        weights = torch.softmax(flat.transpose(1, 2) @ flat, -1)
        return x + (flat @ weights).view_as(x)


def test_where_the_tile_is_coupled_the_halo_of_the_rest_is_told_where_it_is_short() -> None:
    short, enough = (
        compare_blends(PIXELS, Attending(), tile=32, halo=halo, overlap=16, accelerate=False)
        for halo in (0, 4)
    )
    for found in (short, enough):
        assert "couples the whole tile: no halo removes that" in found.remedy
    rest = "A halo of 4, the reach of all else, removes edge effects."
    assert short.remedy.endswith(rest)
    assert rest not in enough.remedy
    assert any("less than the reach of all else, 4 px" in note for note in short.notes)


class Filtering(nn.Module):
    """Nothing in it sees less than the whole tile."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        waves = torch.fft.rfft2(x)
        return torch.fft.irfft2(waves / (1 + waves.abs().mean()), s=x.shape[-2:])


def test_no_halo_is_offered_where_nothing_is_known_of_the_rest() -> None:
    model = as_model(Filtering())
    assert model.reach.useful is None
    found = compare_blends(PIXELS, model, tile=32, halo=0, overlap=16, accelerate=False)
    assert found.remedy.endswith("larger tiles lessen it.")


class Deciding(nn.Module):
    """Does in bright tiles what it does in no tile of the image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 1, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x - 1 if x.mean() > 100 else x)


def test_tiles_are_not_said_to_disagree_where_that_depends_on_the_image() -> None:
    short, enough = (
        compare_blends(PIXELS, Deciding(), tile=32, halo=halo, overlap=8, accelerate=False).remedy
        for halo in (0, 2)
    )
    assert "decides by a number of its tile" in enough
    assert enough.startswith("In other images tiles may differ: ")
    assert short == f"{enough} A halo of 2, the reach of the convolutions, removes edge effects."


def test_for_instance_norm_the_best_by_its_own_numbers_is_recommended() -> None:
    image = sample_image("tissue2d")[0][:192, :192]
    found = compare_blends(image, "demo:instancenorm", tile=96)
    assert not found.alike
    assert found.recommended.blend != "crop"
    best = found.recommended
    by_hand = [
        max(
            (max(s, 0) + d) / found.spread
            for s, d in zip(way.step, way.dependence, strict=True)  # type: ignore[arg-type]
        )
        for way in found.ways
    ]
    np.testing.assert_allclose(found.scores, by_hand, rtol=1e-12)
    assert min(found.scores) == found.scores[found.ways.index(best)]
    assert found.describe().startswith(f"Use {best.blend}: ")
    assert "seamscope freeze with a halo of 46" in found.describe()
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["recommended"] == best.blend
    assert [way["blend"] for way in told["ways"]] == list(BLENDS)


def made(*steps: float, apart: float = 1) -> BlendComparison:
    """Comparison of ways with these steps and no mean dependence."""
    ways = tuple(
        BlendScore(blend, *[np.array([s])] * 2, *[np.zeros(1)] * 3, np.array([apart]))
        for blend, s in zip(BLENDS, steps, strict=True)
    )
    return BlendComparison(ways, ("a",), 2.0, (8, 8), "", {})


def test_a_difference_below_a_tenth_is_not_worth_talking_of() -> None:
    near = made(1, 0.91, 0.95, 1)
    assert near.alike
    assert near.recommended.blend == "crop"
    assert "nothing worth talking of" in near.describe()
    far = made(1, 0.95, 0.89, 1)
    assert not far.alike
    assert far.recommended.blend == "gaussian"
    assert far.scores == (0.5, 0.475, 0.445, 0.5)
    assert made(-1, -2, -3, -4).alike  # smoother at seams than elsewhere is no seam
    assert made(1, 0, 0, 0, apart=1e-5).seamless  # jumps of the image, not of tiles
    assert not made(1, 1, 1, 1, apart=1e-3).seamless


# ---------------------------------------------------------------------------- the moved grid


@pytest.mark.parametrize(
    ("shape", "tile", "halo", "lattice"),
    [
        ((300, 170), 64, 8, Lattice()),
        ((300, 171), 64, 9, Lattice(period=4, step=4)),
        ((97, 203), 48, 0, Lattice(period=8, step=8)),
        ((120, 90), 44, 3, Lattice(crop=(4, 4))),
        ((150, 90), 32, 4, Lattice(period=2, step=2, scale=Fraction(1, 2))),
    ],
)
def test_a_moved_grid_keeps_all_rules_of_grids(shape, tile, halo, lattice) -> None:
    grid = TileGrid.regular(shape, tile, halo, overlap=2 * halo + 8, lattice=lattice)
    for axis in grid.axes:
        by = axis.stride // 2 // lattice.pitch * lattice.pitch
        moved = seamscope.compare.blends._Moved(
            axis.size, axis.tile, axis.halo, axis.overlap, lattice, by
        )
        tiles = list(moved)
        assert [tiles[0].core[0], tiles[-1].core[1]] == [0, axis.output_size]
        for one, two in itertools.pairwise(tiles):
            assert one.core[1] == two.core[0]
            assert two.start > one.start
        assert tiles[0].start == -lattice.crop[0]
        for tile_ in tiles:
            assert (tile_.start + lattice.crop[0]) % lattice.pitch == 0
            assert tile_.trusted[0] <= tile_.core[0] < tile_.core[1] <= tile_.trusted[1]
        stride = int(axis.stride * lattice.scale)
        places = {t.core[0] % stride for t in list(axis)[1:]}
        now = {(t.core[0] - int(by * lattice.scale)) % stride for t in tiles[1:]}
        assert by > 0
        assert now == places


# ---------------------------------------------------------------------------- large, long, wrong


def test_frames_areas_and_disk_change_nothing(monkeypatch) -> None:
    frames = np.stack([uneven(), PIXELS, uneven()[::-1]])
    stack = open_image(frames, axes="tyx")
    area = {"t": (1, 3), "y": (10, 90)}
    both = compare_blends(stack, TileMean(), area=area, **ASK)
    each = [compare_blends(f, TileMean(), area={"y": (10, 90)}, **ASK) for f in frames[1:]]
    for k, way in enumerate(both.ways):
        for name in ("core", "dependence"):
            expected = np.mean([getattr(one.ways[k], name) for one in each], axis=0)
            np.testing.assert_allclose(getattr(way, name), expected, atol=1e-9)
        peaks = [one.ways[k].peak for one in each]
        np.testing.assert_array_equal(way.peak, np.max(peaks, axis=0))
    monkeypatch.setattr(seamscope.images.scratch, "SHARE", 0)
    monkeypatch.setattr(seamscope.compare.blends, "_AT_ONCE", 1)
    again = compare_blends(stack, TileMean(), area=area, **ASK)
    np.testing.assert_allclose(again.scores, both.scores, rtol=1e-9)
    np.testing.assert_array_equal(again.ways[0].peak, both.ways[0].peak)
    for one, two in zip(again.ways, both.ways, strict=True):
        np.testing.assert_array_equal(one.largest_dependence, two.largest_dependence)


def test_volumes() -> None:
    torch.manual_seed(0)
    volume = np.random.default_rng(0).random((24, 40, 44), np.float32)
    network = networks.UNet(3, 1, norm="instance").eval()
    found = compare_blends(volume, network, tile=(24, 24, 24), halo=2, accelerate=False)
    assert found.shift[0] == 0  # one tile along z
    assert min(found.shift[1:]) > 0
    assert max(found.scores) > 1e-3


def test_a_single_tile_has_no_seams() -> None:
    with pytest.raises(SettingsError, match="no seams to compare"):
        compare_blends(PIXELS, TileMean(), tile=(96, 80), halo=4)


def test_cancelling_and_progress() -> None:
    work = Seen()
    compare_blends(uneven(), TileMean(), **ASK, work=work)
    total = 5 * 4 + 6 * 5 + 4
    assert work.steps == [(k, total) for k in range(1, total + 1)]
    for stop in (0, 3, 30, total - 2):
        work = stopped_after(stop)
        with pytest.raises(InterruptedError):
            compare_blends(uneven(), TileMean(), **ASK, work=work)
        assert len(work.steps) <= stop + 1


def test_tiles_are_the_same_whatever_blend_is_asked_for() -> None:
    network = seamscope.load_model(TileMean())
    plain = compare_blends(uneven(), network, **ASK)
    other = compare_blends(uneven(), network, blend="gaussian", **ASK)
    assert plain.scores == other.scores
    image = open_image(uneven())
    asked = resolve(image, network, Settings(blend="linear", **ASK))
    assert plain.settings["overlap"] == list(asked.grid.overlap)
