"""The halo curve equals cropping at each halo and comparing, by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import networks
from seamscope.images import open_image
from seamscope.inference import open_output, run
from seamscope.loaders import load_model
from seamscope.plan import Settings, resolve
from seamscope.seams import ABSENT, SeamMeter
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


def brute_force(grid, tiles, halo):
    """Every measure at one halo by cutting and comparing, nothing shared with the meter."""
    apart, soft, hard = [], [], []
    channels = next(iter(tiles.values())).shape[0]
    trusted = {}
    for tile in grid:
        box = []
        for axis, (i, n) in enumerate(zip(tile.index, grid.shape, strict=True)):
            low = tile.origin[axis] + (halo if i > 0 else 0)
            high = tile.origin[axis] + grid.prediction_shape[axis] - (halo if i < n - 1 else 0)
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
            row, row_hard = [], []
            for c in range(channels):
                squares = (one[c] ** 2).sum() + (two[c] ** 2).sum()
                here = squares > 2 * ABSENT**2 * one[c].size
                row.append(1 - 2 * (one[c] * two[c]).sum() / squares if here else np.nan)
                if channels == 1:
                    p, q = one[c] > 0.5, two[c] > 0.5
                else:
                    p, q = one.argmax(0) == c, two.argmax(0) == c
                total = p.sum() + q.sum()
                row_hard.append(1 - 2 * (p & q).sum() / total if total else np.nan)
            soft.append(row)
            hard.append(row_hard)
    if not apart:
        return None
    values = np.concatenate(apart, axis=1)
    return values.max(), values.mean(), np.nanmedian(soft, axis=0), np.nanmedian(hard, axis=0)


@pytest.mark.parametrize(
    ("shape", "tile", "halo", "channels", "period"),
    [
        ((100,), 40, 6, 1, 1),
        ((90, 110), 48, 8, 3, 4),
        ((70, 85), 40, [(3, 9), (8, 2)], 2, 1),
        ((40, 44, 36), 24, 4, 2, 4),
        ((60, 20), 32, 5, 1, 1),
    ],
)
def test_the_curve_equals_brute_force_at_every_halo(shape, tile, halo, channels, period) -> None:
    grid = TileGrid.regular(shape, tile, halo, lattice=Lattice(period=period, step=period))
    tiles = predictions_of(grid, channels)
    meter = SeamMeter(grid)
    order = list(grid)
    np.random.default_rng(1).shuffle(order)  # any order will do
    for item in order:
        meter.see(item, tiles[item.index])
    assert not meter._open
    curve = meter.curve()
    assert curve.halo.size > 3
    for h in curve.halo:
        expected = brute_force(grid, tiles, h)
        assert expected is not None
        assert curve.max_dist[h] == pytest.approx(expected[0], abs=1e-6)
        assert curve.mean_dist[h] == pytest.approx(expected[1], abs=1e-6)
        assert np.allclose(curve.soft[h], expected[2], atol=1e-6)
        assert np.allclose(curve.hard[h], expected[3], atol=1e-6)
    assert brute_force(grid, tiles, int(curve.halo[-1]) + 1) is None


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
    borders = meter.borders(halo=0)
    bad = {(index, axis) for index, axis, size in borders if size > 0}
    assert bad == {((0, 1), 0), ((1, 1), 0), ((1, 0), 1), ((1, 1), 1)}
    assert all(size == pytest.approx(0.25) for _, _, size in borders[:4])


def test_empty_overlaps_do_not_hide_disagreement() -> None:
    """A class in 3 of many overlaps: the median is theirs, and the empty ones are counted out."""
    grid = TileGrid.regular((400,), 32, 4)
    meter = SeamMeter(grid)
    for tile in grid:
        values = np.zeros((1, 32), np.float32)
        if tile.index[0] in (5, 7):
            values += 1
        meter.see(tile, values)
    curve = meter.curve()
    assert curve.overlaps[0, 0] == 4
    assert curve.soft[0, 0] == 1
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
        most = max(most, sum(x.nbytes for x in meter._open.values()))
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
    plan = resolve(Settings(tile=96, halo=22, overlap=60, accelerate=False), model, image)
    meter = SeamMeter(plan.grid)
    output = open_output(plan, image, model)
    for _ in run(plan, model, image, output, watchers=[meter.watch]):
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
    assert len(meter._pairs) == rows * (columns - 1) + columns * (rows - 1)
    assert len(set(itertools.chain(p.key for p in meter._pairs))) == len(meter._pairs)
