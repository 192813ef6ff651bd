"""The geometry's promises, for any image, tile, halo, period, crop and scale."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from seamscope.errors import SettingsError
from seamscope.tiling import AxisTiling, Lattice, TileGrid, halo_sides, per_axis


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    period = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 16]))
    step = draw(st.sampled_from([1, period]))
    crop = draw(st.sampled_from([(0, 0), (0, 0), (2, 2), (5, 4), (20, 20)]))
    offset = draw(st.integers(0, period - 1)) if crop != (0, 0) else 0
    scale = draw(st.sampled_from([Fraction(1), Fraction(1), Fraction(2), Fraction(1, period)]))
    if scale.denominator > 1:
        crop, offset = (0, 0), 0
    return Lattice(period, step, offset, crop, scale)


@st.composite
def tilings(draw: st.DrawFn) -> AxisTiling:
    lattice = draw(lattices())
    halo = draw(st.tuples(st.integers(0, 25), st.integers(0, 25)))
    overlap = draw(st.integers(0, 70))
    smallest = lattice.smallest_tile(halo, overlap)
    tile = smallest + lattice.increment * draw(st.integers(0, 12))
    size = draw(st.integers(1, 500))
    return AxisTiling(size, tile, halo, overlap, lattice)


@settings(max_examples=600)
@given(tilings())
def test_cores_partition_the_result(axis: AxisTiling) -> None:
    cores = [tile.core for tile in axis]
    assert cores[0][0] == 0
    assert cores[-1][1] == axis.output_size == math.ceil(axis.size * axis.lattice.scale)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(cores))
    assert all(low < high for low, high in cores)


@settings(max_examples=600)
@given(tilings())
def test_every_core_is_trusted_and_predicted(axis: AxisTiling) -> None:
    """At least one halo lies between a core and each inner border of its tile."""
    scale, (crop_before, crop_after) = axis.lattice.scale, axis.lattice.crop
    for i, tile in enumerate(axis):
        assert tile.trusted[0] <= tile.core[0] < tile.core[1] <= tile.trusted[1]
        begin, end = tile.start + crop_before, tile.stop - crop_after
        assert begin * scale == tile.origin
        if i > 0:
            assert tile.core[0] >= (begin + axis.halo[0]) * scale
        if i < len(axis) - 1:
            assert tile.core[1] <= (end - axis.halo[1]) * scale
        assert tile.core[1] - tile.origin <= math.ceil(axis.kept * scale)


@settings(max_examples=600)
@given(tilings())
def test_starts_and_inner_cuts_lie_on_the_grid(axis: AxisTiling) -> None:
    lattice = axis.lattice
    assert axis.stride % lattice.pitch == 0 or len(axis) == 1
    for tile in axis:
        assert (tile.start + lattice.crop[0]) % lattice.period == 0
        assert tile.stop - tile.start == axis.tile
        assert lattice.accepts(axis.tile)
    cuts = [tile.core[0] for tile in axis][1:]
    assert all((b - a) == axis.stride * lattice.scale for a, b in itertools.pairwise(cuts))


@settings(max_examples=600)
@given(tilings())
def test_padding_only_at_the_image_border(axis: AxisTiling) -> None:
    before, after = axis.lattice.crop
    pitch = axis.lattice.pitch
    for i, tile in enumerate(axis):
        first, last = i == 0, i == len(axis) - 1
        if not first:
            assert tile.start >= -before
        else:
            assert tile.start == -before
        excess = tile.stop - after - axis.size
        if not last:
            assert excess < pitch
        elif len(axis) > 1:
            assert 0 <= excess < pitch


@settings(max_examples=400)
@given(tilings())
def test_no_tile_is_computed_twice_and_overlap_is_what_was_asked(axis: AxisTiling) -> None:
    starts = [tile.start for tile in axis]
    assert starts == sorted(set(starts))
    if len(axis) > 1:
        shared = [a.stop - b.start for a, b in zip(axis, list(axis)[1:], strict=False)]
        assert min(shared) - sum(axis.lattice.crop) >= max(axis.overlap, sum(axis.halo))
        # as few tiles as the widest allowed stride takes, or two in a hundred more
        widest = axis.kept - max(axis.overlap, sum(axis.lattice.whole(axis.halo)))
        widest -= widest % axis.lattice.pitch
        fewest = math.ceil((axis.padded - axis.kept) / widest) + 1
        assert fewest <= len(axis) <= fewest * 1.02


@settings(max_examples=200)
@given(tilings(), st.data())
def test_touching_finds_exactly_the_tiles_that_meet_a_region(
    axis: AxisTiling, data: st.DataObject
) -> None:
    low = data.draw(st.integers(0, axis.output_size - 1))
    high = data.draw(st.integers(low + 1, axis.output_size))
    for trusted in (False, True):
        found = set(axis.touching((low, high), trusted=trusted))
        for i, tile in enumerate(axis):
            span = tile.trusted if trusted else tile.core
            assert (i in found) == bool(set(range(low, high)) & set(range(*span)))


@pytest.mark.parametrize(
    ("shape", "tile", "halo"),
    [((100, 90), (32, 48), (4, 9)), ((37, 50, 61), (16, 24, 32), ((2, 3), (4, 4), (1, 0)))],
)
def test_grid_covers_each_pixel_once_in_nd(shape, tile, halo) -> None:
    grid = TileGrid.regular(shape, tile, halo, lattice=Lattice(period=4, step=4))
    count = np.zeros(shape, int)
    for number, item in enumerate(grid):
        count[item.core] += 1
        assert grid[number] == item == grid[item.index]
        for read, pad, size in zip(item.read, item.pad, grid.tile_shape, strict=True):
            assert read.stop - read.start + sum(pad) == size
        for cut, core in zip(item.crop, item.core, strict=True):
            assert cut.stop - cut.start == core.stop - core.start
            assert cut.start >= 0
    assert (count == 1).all()
    assert len(grid) == number + 1 == math.prod(grid.shape)
    with pytest.raises(IndexError):
        grid[len(grid)]


def test_cores_fit_chunks_where_that_is_cheap() -> None:
    """Large images: cores from 0, so that chunks of one stride are written by one tile each."""
    grid = TileGrid.regular((20480, 20480), 256, 46, lattice=Lattice(period=8, step=8))
    assert grid.stride == (160, 160)
    assert all(tile.core[0] % 160 == 0 for tile in grid.axes[0])
    # small volumes: as few tiles as can be, 3 x 5 x 5 and not 4 x 5 x 5 or more
    lattice = Lattice(period=4, step=4)
    assert TileGrid.regular((96, 256, 256), (64, 96, 96), 22, lattice=lattice).shape == (3, 5, 5)
    assert TileGrid.regular((128,), 44, 1).shape == (3,)


def test_area_tiles_are_tiles_of_the_whole() -> None:
    grid = TileGrid.regular((300, 200), 64, 8)
    some = grid.touching((slice(100, 140), slice(0, 30)))
    assert {t.index for t in some} < {t.index for t in grid}
    assert all(t == grid[t.index] for t in some)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"tile": 100}, ["100", "multiples of 8", "96", "104"]),
        ({"tile": 64, "halo": 40}, ["64", "40", "88"]),
        ({"tile": 64, "overlap": 64}, ["64", "72"]),
        ({"tile": 64, "halo": -1}, ["negative"]),
        ({"tile": (64, 64, 64)}, ["3 numbers", "2 spatial axes"]),
        ({"tile": 64, "halo": (1, 2, 3)}, ["3 entries", "2 spatial axes"]),
    ],
)
def test_contradictions_are_named_with_a_remedy(kwargs, words) -> None:
    with pytest.raises(SettingsError) as caught:
        TileGrid.regular((500, 500), **kwargs, lattice=Lattice(period=8, step=8))
    for word in words:
        assert word in str(caught.value)


def test_the_remedies_work() -> None:
    lattice = Lattice(period=8, step=8)
    TileGrid.regular((500,), 88, 40, lattice=lattice)
    with pytest.raises(SettingsError):
        TileGrid.regular((500,), 80, 40, lattice=lattice)
    with pytest.raises(SettingsError, match="empty"):
        TileGrid.regular((0, 10), 8)
    with pytest.raises(SettingsError, match="188 only"):
        TileGrid.regular((500,), 96, lattice=Lattice(fixed=188))


@given(lattices(), st.integers(1, 400))
def test_nearest_sizes_are_accepted_and_nearest(lattice: Lattice, size: int) -> None:
    above, below = lattice.size_at_least(size), lattice.size_at_most(size)
    assert lattice.accepts(above)
    assert above >= size
    accepted = [n for n in range(1, 900) if lattice.accepts(n)]
    assert above == min(n for n in accepted if n >= size)
    assert below == max((n for n in accepted if n <= size), default=0)


def test_classic_valid_unet_sizes() -> None:
    """Ronneberger et al. 2015: 572 gives 388, four poolings, sizes 16k + 12."""
    lattice = Lattice(period=16, step=16, offset=572, crop=(92, 92))
    assert lattice.accepts(572)
    assert lattice.accepts(188)
    assert not lattice.accepts(512)
    grid = TileGrid.regular((2000, 1500), 572, lattice=lattice)
    assert grid.stride == (384, 384)  # 388 cropped to a multiple of the period


@given(st.integers(1, 50), st.integers(1, 3))
def test_numbers_for_all_axes_or_for_each(value: int, ndim: int) -> None:
    assert per_axis(value, ndim, "tile") == (value,) * ndim
    assert halo_sides(value, ndim) == ((value, value),) * ndim
    assume(ndim > 1)
    with pytest.raises(SettingsError):
        per_axis([value], ndim, "tile")


@pytest.mark.parametrize("crop", [(0, 0), (3, 5)])
@pytest.mark.parametrize(("period", "step", "offset"), [(4, 32, 25), (2, 32, 2), (8, 3, 2)])
def test_no_tile_lies_beyond_the_image_however_far_that_is_continued(
    period: int, step: int, offset: int, crop: tuple[int, int]
) -> None:
    lattice = Lattice(period=period, step=step, offset=offset, crop=crop)
    for size, least, halo in itertools.product(range(60, 220, 7), (25, 66, 89), ((3, 3), (5, 0))):
        axis = AxisTiling(size, lattice.size_at_least(least), halo, lattice=lattice)
        if axis.single or axis.kept - sum(lattice.whole(halo)) < lattice.pitch:
            continue
        cores = [tile.core for tile in axis]
        assert [low for low, _ in cores] == [0, *(high for _, high in cores[:-1])]
        assert all(low < high for low, high in cores)
        assert cores[-1][1] == size
        assert lattice.accepts(axis.padded + sum(crop))
        end = axis[len(axis) - 1].stop - crop[1]  # where the network meets an end of its own
        assert end == axis.padded or end - lattice.whole(halo)[1] >= size


def test_an_overlap_that_leaves_nothing_is_named() -> None:
    words = r"too small for an overlap of 121: .* Use a tile of 136 or more, or .* at most 120"
    with pytest.raises(SettingsError, match=words):
        TileGrid.regular((200, 300), 128, 46, overlap=121, lattice=Lattice(period=8))
    assert TileGrid.regular((200, 300), 128, 46, overlap=120, lattice=Lattice(period=8)).stride == (
        8,
        8,
    )


@pytest.mark.parametrize(
    ("period", "halo", "words"),
    [
        (224, 0, r"Tile 64 along y, the only one .* shorter than the period of 224 px"),
        (8, 32, r"too small for halos of 32 and 32: .* Use a halo of at most 24"),
    ],
)
def test_the_one_size_of_a_network_may_be_too_small(period, halo, words) -> None:
    lattice = Lattice(period=period, fixed=64)
    with pytest.raises(SettingsError, match=words):
        TileGrid.regular((200, 64), 64, halo, lattice=lattice)
    assert len(list(TileGrid.regular((64, 64), 64, halo, lattice=lattice))) == 1
