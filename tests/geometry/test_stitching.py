"""Stitching: identity comes back bit for bit, weights are what they say, bands equal the whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seamscope.stitching import BLENDS, canvas
from seamscope.tiling import Lattice, TileGrid


def stitch(grid, blend, predict, channels=1, area=None):
    """The whole loop, with a function ``tile -> (C, *prediction)`` for a network."""
    board = canvas(grid, blend, area)
    area = board.area
    out = np.full((channels, *(a.stop - a.start for a in area)), np.nan, np.float32)
    times = np.zeros(out.shape[1:], int)

    def put(blocks):
        for region, block in blocks:
            out[:, *region] = block
            times[region] += 1

    for tile in board.tiles():
        put(board.add(tile, predict(tile)))
    put(board.rest())
    assert (times == 1).all()  # every pixel given back exactly once
    return out


def cut(image, grid):
    """An identity network: what it reads is what it predicts."""
    padded = np.pad(image, [(0, 0)] + [(0, 200)] * len(grid.axes), mode="wrap")
    size = grid.prediction_shape

    def predict(tile):
        window = (slice(o, o + s) for o, s in zip(tile.origin, size, strict=True))
        return padded[:, *window]

    return predict


@st.composite
def grids(draw):
    ndim = draw(st.sampled_from([1, 2, 2, 3]))
    top = 40 if ndim == 3 else 150
    shape = [draw(st.integers(1, top)) for _ in range(ndim)]
    period = draw(st.sampled_from([1, 4]))
    halo = [draw(st.tuples(st.integers(0, 5), st.integers(0, 5))) for _ in range(ndim)]
    lattice = Lattice(period=period, step=period)
    overlap = draw(st.integers(0, 24))
    tile = [lattice.smallest_tile(h, overlap) + period * draw(st.integers(0, 5)) for h in halo]
    return TileGrid.regular(shape, tile, halo, overlap, lattice)


@settings(max_examples=150, deadline=None)
@given(grids(), st.sampled_from(BLENDS), st.integers(0, 2**31))
def test_identity_comes_back_bit_for_bit(grid, blend, seed) -> None:
    image = np.random.default_rng(seed).normal(size=(2, *grid.image_shape)).astype(np.float32)
    image *= 10.0 ** np.random.default_rng(seed + 1).integers(-8, 8, image.shape)
    assert np.array_equal(stitch(grid, blend, cut(image, grid), 2), image)


@settings(max_examples=100, deadline=None)
@given(grids(), st.sampled_from(BLENDS), st.data())
def test_area_equals_the_same_part_of_the_whole(grid, blend, data) -> None:
    noise = {
        t.index: np.random.default_rng(n).normal(size=(1, *grid.prediction_shape)).astype("f4")
        for n, t in enumerate(grid)
    }
    area = []
    for n in grid.output_shape:
        low = data.draw(st.integers(0, n - 1))
        area.append(slice(low, data.draw(st.integers(low + 1, n))))
    whole = stitch(grid, blend, lambda t: noise[t.index])
    part = stitch(grid, blend, lambda t: noise[t.index], area=tuple(area))
    assert np.array_equal(part, whole[:, *area])


def brute_force_weights(grid, blend):
    """Weights of all tiles over the whole image, normalised with a count array."""
    stack = []
    for tile in grid:
        profiles = []
        for axis, i in zip(grid.axes, tile.index, strict=True):
            x = np.arange(axis.output_size) + 0.5
            low, high = axis[i].trusted
            inside = (x > low) & (x < high)
            far = high - low
            border = np.minimum(
                far if i == 0 else x - low, far if i == len(axis) - 1 else high - x
            ) * np.ones_like(x)
            ramp = min(
                (a.trusted[1] - b.trusted[0] for a, b in itertools.pairwise(axis)), default=1
            )
            profile = {
                "linear": np.minimum(border, max(ramp, 1)),
                "distance": border,
                "gaussian": np.exp(-0.5 * ((x - (low + high) / 2) / (far / 8)) ** 2),
            }[blend]
            profiles.append(np.where(inside, profile, 0))
        weight = profiles[0]
        for p in profiles[1:]:
            weight = (
                np.minimum(weight[..., None], p) if blend == "distance" else weight[..., None] * p
            )
        stack.append(weight)
    return np.array(stack) / np.sum(stack, axis=0)


@pytest.mark.parametrize("blend", ["linear", "gaussian", "distance"])
@pytest.mark.parametrize(
    ("shape", "tile", "halo", "overlap"),
    [
        ((100,), 32, 3, 14),
        ((70, 90), 32, 3, 14),
        ((70, 90), 32, (2, (1, 6)), 24),
        ((30,) * 3, 16, 1, 8),
    ],
)
def test_blends_equal_the_weighted_mean_by_brute_force(shape, tile, halo, overlap, blend) -> None:
    halo = halo if isinstance(halo, int) else list(halo)
    grid = TileGrid.regular(shape, tile, halo, overlap)
    weights = brute_force_weights(grid, blend)
    constant = np.random.default_rng(0).normal(size=len(grid)).astype(np.float32)
    number = {t.index: n for n, t in enumerate(grid)}
    got = stitch(
        grid,
        blend,
        lambda t: np.full((1, *grid.prediction_shape), constant[number[t.index]], np.float32),
    )
    expected = np.tensordot(constant, weights, 1)
    assert np.abs(got[0] - expected).max() < 1e-5


def test_linear_is_a_straight_ramp_over_the_overlap() -> None:
    grid = TileGrid.regular((20,), 16, 2, 8)  # two tiles, trusted overlap: 8 pixels
    values = {(0,): 0.0, (1,): 1.0}
    got = stitch(grid, "linear", lambda t: np.full((1, 16), values[t.index], np.float32))[0]
    assert np.allclose(got[6:14], (np.arange(8) + 0.5) / 8)
    assert (got[:6] == 0).all()
    assert (got[14:] == 1).all()


def test_a_blend_band_is_bounded_by_one_tile() -> None:
    grid = TileGrid.regular((1000, 64), 64, 8, 32)
    board = canvas(grid, "linear")
    tallest = 0
    for tile in board.tiles():
        for _ in board.add(tile, np.zeros((3, 64, 64), np.float32)):
            pass
        tallest = max(tallest, board._band.shape[1])
    assert tallest <= 64
