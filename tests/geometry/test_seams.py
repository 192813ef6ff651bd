"""The halo curve equals cropping at each halo and comparing, by brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import networks
from seamscope.errors import SettingsError
from seamscope.images.image import open_image
from seamscope.models.formats import load_model
from seamscope.planning.case import Case
from seamscope.planning.plan import resolve
from seamscope.prediction.output import open_output
from seamscope.prediction.run import run
from seamscope.seams.meter import SeamMeter, overlap_of
from seamscope.settings import Settings
from seamscope.tiling import Lattice, TileGrid


def predictions_of(grid, channels, seed=0, step=1.0):
    """Smooth random tiles that agree towards their middles and not at their borders."""
    rng = np.random.default_rng(seed)
    shape = tuple(n + 64 for n in grid.output_shape)
    base = rng.random((channels, *shape)).astype(np.float32)
    found = {}
    for tile in grid:
        window = tuple(
            slice(o, o + n) for o, n in zip(tile.origin, grid.prediction_shape, strict=True)
        )
        noise = rng.normal(size=(channels, *grid.prediction_shape)).astype(np.float32)
        for axis, n in enumerate(grid.prediction_shape):
            x = np.minimum(np.arange(n), np.arange(n)[::-1])
            fade = np.exp(-x / 3.0).reshape([-1 if a == axis else 1 for a in range(len(shape))])
            noise = noise * np.maximum(fade, 0.05)
        found[tile.index] = np.clip(base[:, *window] + step * noise, 0, 1)
    return found


def brute_force(grid, tiles, halo, classes="largest"):
    """Every measure at one halo by cutting and comparing, nothing shared with the meter.

    `halo` is one number, or (before, after) for each axis.
    """
    if isinstance(halo, int):
        halo = [(halo, halo)] * len(grid.shape)
    apart, soft, hard, plain = [], [], [], []
    channels = next(iter(tiles.values())).shape[0]
    trusted = {}
    for tile in grid:
        box = []
        for axis, (i, n) in enumerate(zip(tile.index, grid.shape, strict=True)):
            before, after = halo[axis]
            low = tile.origin[axis] + (before if i > 0 else 0)
            high = tile.origin[axis] + grid.prediction_shape[axis] - (after if i < n - 1 else 0)
            box.append((low, min(high, grid.output_shape[axis])))
        trusted[tile.index] = box
    for tile in grid:
        for axis in range(len(grid.shape)):
            other = tuple(i + (a == axis) for a, i in enumerate(tile.index))
            if other not in tiles:
                continue
            box = [
                (max(a[0], b[0]), min(a[1], b[1]))
                for a, b in zip(trusted[tile.index], trusted[other], strict=True)
            ]
            if any(low >= high for low, high in box):
                continue
            region = tuple(slice(*b) for b in box)
            one = tiles[tile.index][:, *grid[tile.index].within(region)].astype(np.float64)
            two = tiles[other][:, *grid[other].within(region)].astype(np.float64)
            apart.append(np.abs(one - two).reshape(channels, -1))
            row, row_hard, row_plain = [], [], []
            for c in range(channels):
                squares = (one[c] ** 2).sum() + (two[c] ** 2).sum()
                product, total = 2 * (one[c] * two[c]).sum(), one[c].sum() + two[c].sum()
                row.append(1 - product / squares if squares else 0)
                row_plain.append(1 - product / total if total else 0)
                if channels == 1 or classes == "threshold":
                    p, q = one[c] > 0.5, two[c] > 0.5
                else:
                    p, q = one.argmax(0) == c, two.argmax(0) == c
                total = p.sum() + q.sum()
                row_hard.append(1 - 2 * (p & q).sum() / total if total else 0)
            soft.append(row)
            hard.append(row_hard)
            plain.append(row_plain)
    if not apart:
        return None
    values = np.concatenate(apart, axis=1)
    return values.max(), values.mean(), *(np.median(m, axis=0) for m in (soft, hard, plain))


@pytest.mark.parametrize(
    ("shape", "tile", "halo", "channels", "period", "classes"),
    [
        ((100,), 40, 6, 1, 1, None),
        ((90, 110), 48, 8, 3, 4, None),
        ((90, 110), 48, 8, 3, 4, "threshold"),
        ((70, 85), 40, [(3, 9), (8, 2)], 2, 1, None),
        ((70, 85), 40, [(9, 9), (0, 6)], 2, 1, None),
        ((40, 44, 36), 24, 4, 2, 4, None),
        ((40, 60, 50), (16, 32, 24), [(3, 3), (9, 5), (6, 6)], 2, 1, "threshold"),
        ((60, 20), 32, 5, 1, 1, None),
    ],
)
def test_the_curve_equals_brute_force_at_every_halo(
    shape, tile, halo, channels, period, classes
) -> None:
    grid = TileGrid.regular(shape, tile, halo, lattice=Lattice(period=period, step=period))
    tiles = predictions_of(grid, channels)
    meter = SeamMeter(grid, classes=classes)
    order = list(grid)
    np.random.default_rng(1).shuffle(order)  # any order will do
    for item in order:
        meter.see(item, tiles[item.index])
    assert not meter._open
    curve = meter.curve()
    assert curve.halo.size > 3
    for h in curve.halo:
        expected = brute_force(grid, tiles, curve.ray.sides(int(h)), classes or "largest")
        assert expected is not None
        assert curve.max_dist[h] == pytest.approx(expected[0], abs=1e-6)
        assert curve.mean_dist[h] == pytest.approx(expected[1], abs=1e-6)
        assert np.allclose(curve.soft[h], expected[2], atol=1e-6)
        assert np.allclose(curve.hard[h], expected[3], atol=1e-6)
    assert brute_force(grid, tiles, curve.ray.sides(int(curve.halo[-1]) + 1)) is None
    widest = curve.ray.largest_within(grid.halo)
    assert curve.ray.sides(widest) == grid.halo


@pytest.mark.parametrize(
    ("shape", "tile", "asked"),
    [((90, 110), 48, ((2, 3), (6, 4))), ((40, 44, 36), 24, ((1, 2), (0, 3), (4, 4)))],
)
def test_the_curve_runs_through_the_halo_that_is_asked_for(shape, tile, asked) -> None:
    grid = TileGrid.regular(shape, tile, 8)
    tiles = predictions_of(grid, 2)
    meter = SeamMeter(grid, halo=asked)
    for tile in grid:
        meter.see(tile, tiles[tile.index])
    expected = brute_force(grid, tiles, asked)
    assert expected is not None
    seams = meter.seams()
    assert max(b.max_dist for b in seams) == pytest.approx(expected[0], abs=1e-6)
    soft = np.array([b.soft for b in seams], float)
    assert np.allclose(np.median(soft, axis=0), expected[2], atol=1e-6)
    assert meter.measures().soft == pytest.approx(expected[2], abs=1e-6)
    assert meter.measures().plain == pytest.approx(expected[4], abs=1e-5)
    for seam in seams[:3]:  # each tells where its largest distance is
        one, two = grid[seam.lower], grid[seam.upper]
        values = [
            tiles[t.index][:, *(w - o for w, o in zip(seam.worst, t.origin, strict=True))]
            for t in (one, two)
        ]
        assert np.abs(values[0] - values[1]).max() == pytest.approx(seam.max_dist)
        assert all(
            s.start <= w < s.stop
            for w, s in zip(seam.worst, overlap_of(grid, seam.lower, seam.axis), strict=True)
        )


def test_embeddings_are_compared_by_euclidean_distance() -> None:
    grid = TileGrid.regular((40, 50), 24, 4)
    tiles = {k: 3 * v - 1 for k, v in predictions_of(grid, 5).items()}
    meter = SeamMeter(grid, kind="embeddings")
    for tile in grid:
        meter.see(tile, tiles[tile.index])
    ratios, largest = [], 0.0
    for tile, axis in itertools.product(grid, range(2)):
        other = tuple(i + (a == axis) for a, i in enumerate(tile.index))
        if other not in tiles:
            continue
        region = overlap_of(grid, tile.index, axis)
        one = tiles[tile.index][:, *tile.within(region)].astype(float)
        two = tiles[other][:, *grid[other].within(region)].astype(float)
        largest = max(largest, np.linalg.norm(one - two, axis=0).max())
        ratios.append(((one - two) ** 2).sum() / (one**2 + two**2).sum())
    curve = meter.curve()
    assert curve.max_dist[0] == pytest.approx(largest, abs=1e-6)
    assert curve.soft[0] == pytest.approx([np.median(ratios)], abs=1e-6)
    assert curve.hard.shape == (curve.halo.size, 0)


def test_logits_are_compared_as_they_are_and_classified_by_their_softmax() -> None:
    grid = TileGrid.regular((40, 50), 24, 4)
    logits = {k: 9 * v - 4 for k, v in predictions_of(grid, 3).items()}
    powers = {k: np.exp(v) for k, v in logits.items()}
    shares = {k: v / v.sum(0) for k, v in powers.items()}
    raw, soft = SeamMeter(grid), SeamMeter(grid)
    for tile in grid:
        raw.see(tile, logits[tile.index])
        soft.see(tile, shares[tile.index])
    assert (raw.kind, soft.kind) == ("logits", "probabilities")
    assert np.allclose(raw.curve().soft, soft.curve().soft, atol=1e-6)
    assert np.allclose(raw.curve().hard, soft.curve().hard, atol=1e-6)
    expected = brute_force(grid, logits, 0)
    assert expected is not None
    assert raw.curve().max_dist[0] == pytest.approx(expected[0], rel=1e-6)


def test_labels_agree_or_do_not() -> None:
    grid = TileGrid.regular((40, 50), 24, 4)
    classes = {k: v.argmax(0)[None] for k, v in predictions_of(grid, 3).items()}
    onehot = {k: (v == np.arange(3)[:, None, None]).astype(np.float32) for k, v in classes.items()}
    labels, hot = SeamMeter(grid, kind="labels"), SeamMeter(grid)
    for tile in grid:
        labels.see(tile, classes[tile.index].astype(np.uint8))
        hot.see(tile, onehot[tile.index])
    assert np.allclose(labels.curve().soft, hot.curve().hard, atol=1e-6)
    assert np.allclose(labels.curve().hard, hot.curve().hard, atol=1e-6)
    assert labels.curve().max_dist[0] == 1
    wrong = SeamMeter(grid, kind="labels")
    wrong.see(grid[0], classes[grid[0].index] + 5000)
    with pytest.raises(SettingsError, match="Numbers of objects"):
        wrong.see(grid[1], classes[grid[1].index] + 5000)


def test_numbers_that_are_not_finite_are_infinitely_far_from_those_that_are() -> None:
    grid = TileGrid.regular((40, 40), 24, 4)
    tiles = predictions_of(grid, 2, step=0.0)
    for tile in tiles.values():
        tile[:, 20:22, 12:15] = np.nan  # in the overlap with the tile below, which has none there
    meter = SeamMeter(grid)
    for tile in grid:
        meter.see(tile, tiles[tile.index])
    assert meter.lost > 0
    assert np.isinf(meter.curve().max_dist[0])
    assert np.isfinite(meter.curve().mean_dist).all()
    assert meter.curve().to_json()["max_dist"][0] is None
    assert np.isfinite(meter.curve().soft[0]).all()
    alone = SeamMeter(grid)
    for tile in grid:
        alone.see(tile, np.full((1, 24, 24), np.nan, np.float32))
    assert alone.curve().max_dist[0] == 0
    assert alone.lost > 0
    unknown = alone.measures(), alone.seams()[0]  # not 0, which is perfect
    assert all(np.isnan(each.mean_dist) for each in unknown)
    assert np.isnan(alone.curve().mean_dist).all()
    assert np.isnan([*unknown[0].soft, *unknown[0].hard, *unknown[0].plain]).all()
    assert np.isnan([alone.curve().soft, alone.curve().hard]).all()
    assert alone.curve().to_json()["tile_mismatch"][0] == [None]
    assert alone.curve().knee() == 0
    assert unknown[1].soft == unknown[1].hard == (None,)


@pytest.mark.parametrize("kind", ["values", "embeddings"])
def test_means_leave_out_pixels_that_are_not_finite(kind: Any) -> None:
    grid = TileGrid.regular((40, 24), 24, 4)
    rng = np.random.default_rng(0)
    one, two = (rng.random((2, 24, 24), np.float32) for _ in range(2))
    lower, upper = grid
    region = overlap_of(grid, lower.index, 0)
    a, b = (x[:, *t.within(region)] for x, t in ((one, lower), (two, upper)))
    a[0, 1, :9], b[1, 1, 5:12], a[1, 2, 3] = np.nan, np.inf, -np.inf
    meter = SeamMeter(grid, kind=kind)
    meter.see(lower, one)
    meter.see(upper, two)
    known = np.isfinite(a).all(0) & np.isfinite(b).all(0)
    apart = a[:, known] - b[:, known]
    far = np.sqrt((apart**2).sum(0)) if kind == "embeddings" else np.abs(apart)
    assert 0 < (~known).sum() < known.sum()
    np.testing.assert_allclose(meter.curve().mean_dist[0], far.mean(), rtol=1e-6)
    assert np.isinf(meter.curve().max_dist[0])
    assert np.isfinite(meter.measures().mean_dist)
    squares = (a[:, known] ** 2 + b[:, known] ** 2).sum(1)
    mismatch = (apart**2).sum(1) / squares
    if kind == "embeddings":
        mismatch = (apart**2).sum(keepdims=True)[0] / squares.sum()
    np.testing.assert_allclose(meter.curve().soft[0], mismatch, rtol=1e-5)


def test_a_halo_only_the_last_row_is_valid_at_is_not_believed() -> None:
    """The last tile is moved back, overlaps further, and says nothing of all others."""
    grid = TileGrid.regular((250,), 64, 4)
    tiles = {tile.index: np.zeros((1, 64), np.float32) for tile in grid}
    for number, tile in enumerate(grid):
        if number < len(grid) - 1:  # the last two tiles agree
            tiles[tile.index] += number
    tiles[(len(grid) - 1,)] += len(grid) - 2
    meter = SeamMeter(grid)
    for tile in grid:
        meter.see(tile, tiles[tile.index])
    curve = meter.curve()
    assert curve.max_dist[-1] == 0
    assert curve.share[-1] < 0.5
    assert curve.smallest_seamless(0) is None


def test_one_axis_alone_is_not_believed() -> None:
    """Large overlaps along x say nothing of the seams between rows."""
    grid = TileGrid.regular((200, 600), (64, 200), (4, 4), overlap=(20, 100))
    tiles = {tile.index: np.zeros((1, 64, 200), np.float32) for tile in grid}
    for tile in grid:
        tiles[tile.index] += tile.index[0]  # rows disagree at every halo
    meter = SeamMeter(grid)
    for tile in grid:
        meter.see(tile, tiles[tile.index])
    curve = meter.curve()
    assert curve.halo.size > 30
    assert curve.max_dist[curve.share > 0].min() == 1
    assert curve.smallest_seamless(0) is None


@pytest.mark.parametrize(
    ("shape", "tile", "halo", "overlap"),
    [
        ((96, 32), (40, 32), (0, 8), (8, 0)),  # no halo along the only axis with borders
        ((96, 90), (40, 40), [(0, 0), (6, 6)], (8, 12)),
        ((300,), 40, [(0, 5)], 12),
        ((300, 40), (200, 40), [(1, 1), (90, 90)], (20, 0)),
    ],
)
def test_sides_without_a_halo_are_valid_at_all(shape, tile, halo, overlap) -> None:
    grid = TileGrid.regular(shape, tile, halo, overlap=overlap)
    tiles = predictions_of(grid, 2)
    meter = SeamMeter(grid)
    for each in grid:
        meter.see(each, tiles[each.index])
    curve = meter.curve()
    assert 0 < curve.halo.size <= max(grid.prediction_shape) + 1
    for h in curve.halo[::7]:
        expected = brute_force(grid, tiles, curve.ray.sides(int(h)))
        assert expected is not None
        assert curve.max_dist[h] == pytest.approx(expected[0], abs=1e-6)
        assert curve.mean_dist[h] == pytest.approx(expected[1], abs=1e-6)


@pytest.mark.parametrize("channels", [12, 300])
def test_many_classes_are_classified_as_few_are(channels) -> None:
    grid = TileGrid.regular((40, 50), 24, 4)
    tiles = predictions_of(grid, channels)
    meter = SeamMeter(grid)
    for tile in grid:
        meter.see(tile, tiles[tile.index])
    expected = brute_force(grid, tiles, 0)
    assert expected is not None
    assert np.allclose(meter.curve().hard[0], expected[3])


def test_thresholds_mean_the_networks_own_numbers() -> None:
    """As where labels are predicted; also of logits, and also a threshold of 2."""
    grid = TileGrid.regular((40, 50), 24, 4)
    logits = {k: 9 * v - 4 for k, v in predictions_of(grid, 1).items()}
    classes = {k: (v > 2).astype(np.uint8) for k, v in logits.items()}
    meter, labels = SeamMeter(grid, threshold=2), SeamMeter(grid, kind="labels")
    for tile in grid:
        meter.see(tile, logits[tile.index])
        labels.see(tile, classes[tile.index])
    assert meter.kind == "logits"
    assert np.allclose(meter.curve().hard[:, 0], labels.curve().hard[:, 1])


def test_memory_does_not_grow_with_the_number_of_overlaps(monkeypatch) -> None:
    """Beyond so many overlaps medians come from a random choice of them, all else from all."""
    grid = TileGrid.regular((4000,), 24, 4)
    tiles = predictions_of(grid, 1)
    full = SeamMeter(grid)
    monkeypatch.setattr("seamscope.seams.sums._CURVES", 60)
    few = SeamMeter(grid)
    for tile in grid:
        full.see(tile, tiles[tile.index])
    sums = few
    for tile in grid:
        sums.see(tile, tiles[tile.index])
    assert sums.overlaps == len(grid) - 1 > 200
    assert len(sums._sums._curves) == 60
    assert sums.curve().max_dist[0] == pytest.approx(full.curve().max_dist[0])
    assert sums.curve().soft[0] == pytest.approx(full.curve().soft[0], rel=0.5)


def test_identical_tiles_have_no_seams() -> None:
    grid = TileGrid.regular((90, 80), 32, 6)
    tiles = predictions_of(grid, 3, step=0.0)
    meter = SeamMeter(grid)
    for tile in grid:
        meter.see(tile, tiles[tile.index])
    curve = meter.curve()
    assert (curve.max_dist == 0).all()
    assert np.abs(curve.soft).max() < 1e-6
    assert curve.smallest_seamless(0) == 0


def test_a_planted_seam_is_found_where_and_as_large_as_it_is() -> None:
    grid = TileGrid.regular((100, 100), 40, 6)
    tiles = predictions_of(grid, 2, step=0.0)
    tiles = {k: v * 0.5 for k, v in tiles.items()}
    tiles[(1, 1)] = tiles[(1, 1)] + np.float32(0.25)
    meter = SeamMeter(grid)
    for tile in grid:
        meter.see(tile, tiles[tile.index])
    seams = meter.seams()
    bad = {(b.lower, b.axis) for b in seams if b.max_dist > 0}
    assert bad == {((0, 1), 0), ((1, 1), 0), ((1, 0), 1), ((1, 1), 1)}
    assert all(b.max_dist == pytest.approx(0.25) for b in seams[:4])
    assert all(b.mean_dist == pytest.approx(0.25) for b in seams[:4])
    table = meter.tables()[()]
    assert table.shape[:3] == (2, *grid.shape)
    assert {(tuple(where[1:]), where[0]) for where in np.argwhere(table[..., 0] > 0)} == bad
    assert np.isnan(table[0, -1]).all()  # the last row has no seam below


def test_empty_overlaps_do_not_hide_disagreement() -> None:
    """A class in 4 of many overlaps: in none of most, so that only what is present shows it."""
    grid = TileGrid.regular((400,), 32, 4)
    meter = SeamMeter(grid)
    for tile in grid:
        values = np.zeros((1, 32), np.float32)
        if tile.index[0] in (5, 7):
            values += 1
        meter.see(tile, values)
    curve = meter.curve()
    assert curve.overlaps[0, 0] == len(grid) - 1
    assert curve.soft[0, 0] == 0
    assert meter.measures().soft == (0,)
    assert meter.measures().present == (1,)
    empty = SeamMeter(grid)
    for tile in grid:
        empty.see(tile, np.zeros((1, 32), np.float32))
    assert empty.curve().soft[0, 0] == 0


def test_only_open_overlaps_are_remembered() -> None:
    grid = TileGrid.regular((600, 200), 64, 8)
    meter = SeamMeter(grid)
    most = 0
    for tile in grid:
        meter.see(tile, np.zeros((1, 64, 64), np.float32))
        most = max(most, sum(own.nbytes for _, own in meter._open.values()))
    one_row = (grid.shape[1] + 1) * 64 * 64 * 4
    assert most <= one_row < len(grid) * 64 * 64 * 4 / 5


def deep(network):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network.eval()


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_networks_curves_fall_to_noise_at_their_reach_or_have_a_floor(norm) -> None:
    """Known: at the aligned reach a network with fixed statistics agrees, one pixel less not."""
    network = deep(networks.UNet(2, 2, norm=norm))
    rng = np.random.default_rng(0)
    image = open_image((rng.normal(size=(260, 250)) * np.linspace(0.2, 3, 250)).astype(np.float32))
    model = load_model(network)
    plan = resolve(image, model, Settings(tile=96, halo=22, overlap=60, accelerate=False))
    meter = SeamMeter(plan.grid)
    output = open_output(Case.planned(image, model, plan))
    for _ in run(Case.planned(image, model, plan), output, watchers=[meter.watch]):
        pass
    curve = meter.curve()
    spread = output.array.std()
    if norm == "batch":
        assert curve.smallest_seamless(1e-4 * spread) == 22
        assert curve.max_dist[21] > 1e-3 * spread
    else:
        assert curve.smallest_seamless(1e-4 * spread) is None
        assert curve.max_dist[-1] > 1e-2 * spread


def test_pairs_are_counted_once() -> None:
    grid = TileGrid.regular((100, 100), 40, 6)
    meter = SeamMeter(grid)
    for tile in grid:
        meter.see(tile, np.zeros((1, 40, 40), np.float32))
    rows, columns = grid.shape
    assert meter.overlaps == rows * (columns - 1) + columns * (rows - 1)
    assert len({(b.lower, b.axis) for b in meter.seams()}) == meter.overlaps
