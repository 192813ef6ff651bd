"""Basins, their tree and labels: the same for any blocks, and right by independent computations."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections import Counter, deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import regionprops_table
from skimage.segmentation import watershed

import seamscope
from seamscope.errors import ImageError, SettingsError
from seamscope.segmentation import basins as basins_module
from seamscope.segmentation.basins import find_basins
from seamscope.segmentation.blocks import Blocks
from seamscope.segmentation.fragments import OUTSIDE
from seamscope.segmentation.graph import tree_of
from seamscope.segmentation.recipe import LEVELS, Heights


def neighbours(place, shape, connectivity):
    """All neighbours of a pixel, one by one."""
    for step in itertools.product((-1, 0, 1), repeat=len(shape)):
        if 0 < sum(map(abs, step)) <= connectivity:
            there = tuple(a + b for a, b in zip(place, step, strict=True))
            if all(0 <= a < n for a, n in zip(there, shape, strict=True)):
                yield there


def brute_basins(heights, connectivity):
    """Zones, drains and basins, pixel by pixel; basins numbered by their smallest linear index."""
    shape = heights.shape
    linear = {p: i for i, p in enumerate(np.ndindex(*shape))}
    zone = {}
    for start in np.ndindex(*shape):
        if start in zone or heights[start] == OUTSIDE:
            continue
        zone[start], waiting = start, deque([start])
        while waiting:
            for q in neighbours(waiting.popleft(), shape, connectivity):
                if q not in zone and heights[q] == heights[start]:
                    zone[q] = start
                    waiting.append(q)
    drain = {}
    for p, name in zone.items():
        for q in neighbours(p, shape, connectivity):
            if heights[q] < heights[p]:
                drain[name] = min(drain.get(name, (heights[q], linear[q], q)),
                                  (heights[q], linear[q], q))  # fmt: skip

    def minimum(name):
        while name in drain:
            name = zone[drain[name][2]]
        return name

    number, found = {}, np.zeros(shape, np.uint32)
    for p in np.ndindex(*shape):
        if p in zone:
            found[p] = number.setdefault(minimum(zone[p]), len(number) + 1)
    return found


def brute_labels(heights, basins, below, connectivity):
    """Flood basins in the order of their passes, both never seeded; seeds are below a height."""
    passes = {}
    for p in np.ndindex(*heights.shape):
        for q in neighbours(p, heights.shape, connectivity):
            a, b = int(basins[p]), int(basins[q])
            if 0 < a < b:
                pass_height = max(int(heights[p]), int(heights[q]))
                passes[a, b] = min(passes.get((a, b), OUTSIDE), pass_height)
    member = {b: b for b in range(1, int(basins.max(initial=0)) + 1)}
    seeded = {b: bool((heights[basins == b] < below).any()) for b in member}
    for pass_height, a, b in sorted((h, a, b) for (a, b), h in passes.items()):
        one, two = member[a], member[b]
        if one != two and (pass_height < below or not (seeded[one] and seeded[two])):
            seeded[one] |= seeded[two]
            member = {k: one if v == two else v for k, v in member.items()}
    lookup = np.array([0] + [member[b] if seeded[member[b]] else 0 for b in sorted(member)])
    return lookup[basins]


def renamed(labels):
    """Number objects by their smallest linear index."""
    names = {0: 0}
    flat = [names.setdefault(v, len(names)) for v in labels.ravel().tolist()]
    return np.array(flat).reshape(labels.shape)


def basins_of(heights, size=None, origin=None, connectivity=1, workers=1):
    numbers = np.zeros(heights.shape, np.uint32)
    blocks = Blocks.of(heights.shape, size or heights.shape, origin)
    return find_basins(
        lambda region: heights[region], numbers, blocks, connectivity=connectivity, workers=workers
    )


def assert_same(one, two):
    np.testing.assert_array_equal(one.numbers, two.numbers)
    for name in ("lowest", "area", "start", "at_border", "histogram"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    for name in ("first", "second", "height"):
        np.testing.assert_array_equal(getattr(one.passes, name), getattr(two.passes, name))


@st.composite
def height_images(draw, most=7):
    """Small images with plateaus, constant ones, rings and holes among them; and blocks."""
    ndim = draw(st.sampled_from([2, 2, 3]))
    side = most if ndim == 2 else 4
    shape = tuple(draw(st.integers(1, side)) for _ in range(ndim))
    levels = draw(st.sampled_from([1, 2, 3, 8, 1000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    heights = rng.integers(0, levels, shape).astype(np.uint16)
    heights[rng.random(shape) < draw(st.sampled_from([0, 0.3]))] = OUTSIDE
    size = tuple(draw(st.integers(1, n)) for n in shape)
    origin = tuple(draw(st.integers(0, 9)) for _ in shape)
    return heights, size, origin, draw(st.integers(1, ndim)), draw(st.integers(1, 3))


@given(height_images())
@settings(max_examples=150)
def test_basins_do_not_depend_on_blocks_and_equal_brute_force(case) -> None:
    heights, size, origin, connectivity, workers = case
    whole = basins_of(heights, connectivity=connectivity)
    assert_same(whole, basins_of(heights, size, origin, connectivity, workers))
    np.testing.assert_array_equal(whole.numbers, brute_basins(heights, connectivity))


def test_the_order_in_which_blocks_are_done_does_not_matter() -> None:
    """The first block waits for the last but one of those that run with it."""
    heights = np.random.default_rng(0).integers(0, 9, (12, 12)).astype(np.uint16)
    done, order = threading.Event(), []

    def read(region):
        if region[0].start == region[1].start == 0:
            assert done.wait(20)
        order.append((region[0].start, region[1].start))
        if order[-1] == (0, 8):
            done.set()
        return heights[region]

    numbers = np.zeros(heights.shape, np.uint32)
    found = find_basins(read, numbers, Blocks.of(heights.shape, 4), workers=3)
    assert order.index((0, 0)) > order.index((0, 8))
    assert_same(basins_of(heights), found)


@pytest.mark.parametrize("connectivity", [1, 2])
def test_shapes_that_cross_many_blocks(connectivity) -> None:
    """A ring, a spiral, corner contacts and a constant image, in blocks down to one pixel."""
    ring = np.full((17, 17), OUTSIDE, np.uint16)
    ring[2:15, 2:15] = 5
    ring[5:12, 5:12] = OUTSIDE
    spiral = np.full((17, 17), 9, np.uint16)
    spiral[1, 1:16] = spiral[1:16, 15] = spiral[15, 3:16] = spiral[3:16, 3] = spiral[3, 3:13] = 1
    checks = np.where(np.indices((17, 17)).sum(0) % 2, OUTSIDE, 3).astype(np.uint16)
    for heights in (ring, spiral, checks, np.full((17, 17), 7, np.uint16)):
        whole = basins_of(heights, connectivity=connectivity)
        for size in (1, 2, 5, (17, 1), (3, 16)):
            size = (size, size) if isinstance(size, int) else size
            assert_same(whole, basins_of(heights, size, (1, 2), connectivity))
    assert basins_of(ring, connectivity=connectivity).count == 1
    assert basins_of(checks, (4, 4), connectivity=connectivity).count == (145, 1)[connectivity - 1]


def test_the_comparison_of_blocks_can_fail(monkeypatch) -> None:
    """Faces that are not joined leave objects in pieces."""
    heights = np.full((8, 8), 7, np.uint16)
    monkeypatch.setattr(basins_module._Joining, "_look", lambda *_: None)
    assert basins_of(heights, (4, 4)).count == 4
    with pytest.raises(AssertionError):
        assert_same(basins_of(heights), basins_of(heights, (4, 4)))


@given(height_images(most=6), st.integers(0, 9))
@settings(max_examples=100)
def test_cuts_of_the_tree_equal_flooding(case, below) -> None:
    heights, _, _, connectivity, _ = case
    found = basins_of(heights, connectivity=connectivity)
    tree = tree_of(found)
    expected = brute_labels(heights, found.numbers, below, connectivity)
    np.testing.assert_array_equal(renamed(tree.cut_below(below)[found.numbers]), renamed(expected))
    counts = [len(np.unique(o[o > 0])) for o in (tree.cut_below(t) for t in range(12))]
    assert counts == tree.counts()[:12].tolist()


def test_ties_go_to_the_smaller_basin() -> None:
    """A basin without a seed between two that have one, behind passes of one height."""
    tree = tree_of(basins_of(np.array([[0, 5, 3, 5, 0]], np.uint16)))
    assert tree.cut_below(1).tolist() == [0, 1, 1, 3]


def test_depths_in_blocks_equal_those_of_the_whole() -> None:
    """With a halo of the cap; voxels are twice as long along y."""
    y, x = np.mgrid[:40, :60]
    image = seamscope.open_image((np.hypot(y - 20, (x - 30) / 1.4) < 18).astype(np.float32))
    recipe = seamscope.Recipe("distance", cap=9.5, voxel_size=(2.0, 1.0))
    heights = Heights(image, recipe)
    whole = heights((slice(0, 40), slice(0, 60)))
    depth = ndimage.distance_transform_edt(image.data, (2.0, 1.0))
    expected = LEVELS - np.floor(np.minimum(depth, 9.5) / 9.5 * LEVELS + 1e-6)
    np.testing.assert_array_equal(whole, np.where(image.data > 0, expected, OUTSIDE))
    for region in Blocks.of((40, 60), (3, 4), (1, 2)):
        np.testing.assert_array_equal(heights(region), whole[region])


def test_depths_of_a_stack_are_physical() -> None:
    """Planes 2.5 times as far apart as pixels: by the file's own sizes, in pixels of the finest."""
    inside = smooth((12, 30, 26)) > 0.5
    image = dataclasses.replace(
        seamscope.open_image(inside.astype(np.float32), axes="zyx"),
        scale=(0.5, 0.2, 0.2), units=("micrometer",) * 3,
    )  # fmt: skip
    made = Heights(image, seamscope.Recipe("distance", cap=6))
    depth = ndimage.distance_transform_edt(inside, (0.5, 0.2, 0.2)) / 0.2
    expected = np.where(
        inside, LEVELS - np.floor(np.minimum(depth, 6) / 6 * LEVELS + 1e-6), OUTSIDE
    )
    whole = tuple(slice(0, n) for n in inside.shape)
    np.testing.assert_array_equal(made(whole), expected)
    for region in Blocks.of(inside.shape, (3, 11, 9)):
        np.testing.assert_array_equal(made(region), expected[region])


@pytest.mark.parametrize("shape", [(60, 50), (14, 30, 26)])
def test_tables_equal_regionprops(shape) -> None:
    p = smooth(shape, sigma=1.5)
    scale = (0.5, 0.2, 0.3)[-p.ndim :]
    image = dataclasses.replace(
        seamscope.open_image(p, axes="zyx"[-p.ndim :]), scale=scale, units=("micrometer",) * p.ndim
    )
    found = seamscope.segment(image, threshold=0.55, blocks=13, fill_holes=True)
    ours = found.table(p).columns
    names = ("label", "num_pixels", "area", "centroid", "bbox", "intensity_mean")
    labels = np.asarray(found.labels)
    theirs = regionprops_table(labels, p, properties=names, spacing=scale)
    assert len(ours["label"]) > 5
    np.testing.assert_array_equal(ours["label"], theirs["label"])
    np.testing.assert_array_equal(ours["pixels"], theirs["num_pixels"])
    unit = "area_um2" if p.ndim == 2 else "volume_um3"
    np.testing.assert_allclose(ours[unit], theirs["area"])
    np.testing.assert_allclose(ours["mean_intensity"], theirs["intensity_mean"], rtol=1e-5)
    for axis, letter in enumerate("zyx"[-p.ndim :]):
        centroid = theirs[f"centroid-{axis}"] / scale[axis]
        np.testing.assert_allclose(ours[f"centroid_{letter}"], centroid)
        np.testing.assert_array_equal(ours[f"min_{letter}"], theirs[f"bbox-{axis}"])
        np.testing.assert_array_equal(ours[f"max_{letter}"], theirs[f"bbox-{axis + p.ndim}"])
    border = np.ones(shape, bool)
    border[(slice(1, -1),) * p.ndim] = False
    np.testing.assert_array_equal(
        ours["touches_border"], np.isin(ours["label"], np.unique(labels[border]))
    )


def test_cut_by_dynamics_keeps_deep_minima() -> None:
    """Minima 0, 6 and 3 with passes 7 and 9: dynamics of the second 1, of the third 6."""
    found = basins_of(np.array([[0, 7, 6, 9, 3]], np.uint16))
    tree = tree_of(found)
    assert tree.cut_by_dynamics(1).tolist() == [0, 1, 2, 3]
    assert tree.cut_by_dynamics(2).tolist() == [0, 1, 1, 3]
    assert tree.cut_by_dynamics(6).tolist() == [0, 1, 1, 3]
    assert tree.cut_by_dynamics(7).tolist() == [0, 1, 1, 1]
    assert tree.counts_by_dynamics()[:8].tolist() == [3, 3, 2, 2, 2, 2, 2, 1]


def smooth(shape, seed=0, sigma=2.0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), sigma)
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


@pytest.mark.parametrize("shape", [(90, 70), (14, 30, 25)])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.618])
def test_components_equal_scipy(shape, threshold) -> None:
    p = smooth(shape)
    found = seamscope.segment(p, kind="components", threshold=0.5, axes="zyx"[-p.ndim :])
    labels = np.asarray(found.at(threshold=threshold).labels)
    np.testing.assert_array_equal(labels, ndimage.label(p > threshold)[0])
    full = seamscope.segment(
        p, kind="components", threshold=threshold, connectivity=p.ndim, axes="zyx"[-p.ndim :]
    )
    expected = ndimage.label(p > threshold, np.ones((3,) * p.ndim))[0]
    np.testing.assert_array_equal(np.asarray(full.labels), renamed(expected))


def test_boundaries_equal_skimage_up_to_ties() -> None:
    p = smooth((200, 200), sigma=3)
    found = seamscope.segment(p, kind="boundaries", seed_threshold=0.4)
    ours = np.asarray(found.labels)
    seeds = ndimage.label(np.floor(p * 65000.0) < 26000)[0]
    theirs = watershed(np.floor(p * 65000.0), seeds)
    assert ours.max() == theirs.max() > 50
    # each of ours is the one of theirs that holds its seed
    match = np.zeros(ours.max() + 1, int)
    match[ours[seeds > 0]] = theirs[seeds > 0]
    assert np.mean(match[ours] == theirs) > 0.995


@pytest.mark.parametrize("kind", ["components", "classes", "boundaries", "distance", "embeddings"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_labels_and_tables_do_not_depend_on_blocks(kind, ndim) -> None:
    shape = (46, 51) if ndim == 2 else (9, 20, 23)
    axes = "c" + "zyx"[-ndim:]
    p = np.stack([smooth(shape, seed, 1.5) for seed in range(3)])
    recipe = seamscope.Recipe(
        kind,
        channel={"components": 0, "boundaries": 0, "distance": 0}.get(kind),
        foreground={"boundaries": 1, "embeddings": 2}.get(kind),
        threshold=0.6 if kind == "components" else 0.45,
        seed_threshold={"boundaries": 0.35, "embeddings": 0.1}.get(kind),
        min_size=4,
        fill_holes=True,
        clear_border=kind == "components" and ndim == 2,
        cap=6 if kind == "distance" else None,
        voxel_size=(2.0, 1.0, 1.0)[-ndim:],
    )
    one = seamscope.segment(p, recipe, axes=axes, blocks=shape)
    expected = np.asarray(one.labels)
    rng = np.random.default_rng(1)
    for _ in range(4):
        size = [int(rng.integers(2, n)) for n in shape]
        blocks = Blocks.of(shape, size, [int(o) for o in rng.integers(0, 50, ndim)])
        other = seamscope.segment(p, recipe, axes=axes, blocks=blocks, threads=2)
        np.testing.assert_array_equal(np.asarray(other.labels), expected)
        assert other.table(p[0]).to_csv() == one.table(p[0]).to_csv()
        named = other.paint_named(tuple(slice(0, n) for n in shape))
        np.testing.assert_array_equal(renamed(named), renamed(expected))
    assert expected.max() >= 2
    first = [np.flatnonzero(expected.ravel() == k)[0] for k in range(1, expected.max() + 1)]
    assert kind == "classes" or first == sorted(first)


def test_filters_act_on_whole_objects() -> None:
    """A ring with a hole, a speck, and an object at the border; blocks cut all of them."""
    p = np.zeros((12, 14), np.float32)
    p[2:8, 2:8] = 0.9
    p[4:6, 4:6] = 0.1
    p[10, 5] = 0.8
    p[0:5, 11:14] = 0.7
    plain = seamscope.segment(p, blocks=3)
    assert (plain.count, plain.at(min_size=2).count, plain.at(max_size=1).count) == (3, 2, 1)
    assert plain.at(clear_border=True).count == 2
    filled = plain.at(fill_holes=True)
    assert np.asarray(filled.labels)[4:6, 4:6].tolist() == [[2, 2], [2, 2]]
    assert plain.at(min_size=33).count == 0
    assert filled.at(min_size=33).count == 1  # with its hole the ring has 36 pixels
    table = filled.table(p).columns
    assert table["pixels"].tolist() == [15, 36, 1]
    assert table["touches_border"].tolist() == [True, False, False]
    assert table["centroid_y"].tolist() == [2.0, 4.5, 10.0]
    assert table["max_x"].tolist() == [14, 8, 6]
    np.testing.assert_allclose(table["mean_intensity"], [0.7, (32 * 0.9 + 4 * 0.1) / 36, 0.8])


def test_an_island_in_a_hole_keeps_the_hole_open() -> None:
    p = np.zeros((9, 9), np.float32)
    p[1:8, 1:8] = 1
    p[2:7, 2:7] = 0
    p[4, 4] = 1
    found = seamscope.segment(p, fill_holes=True, blocks=2)
    assert Counter(np.asarray(found.labels).ravel().tolist()) == {0: 56, 1: 24, 2: 1}


def test_classes_follow_the_background() -> None:
    p = np.array([[[0.7, 0.1, 0.2]], [[0.2, 0.8, 0.3]], [[0.1, 0.1, 0.5]]])
    label = lambda **kw: np.asarray(seamscope.segment(p, kind="classes", axes="cyx", **kw).labels)  # noqa: E731
    assert label().tolist() == [[0, 1, 2]]
    assert label(background=2).tolist() == [[1, 2, 0]]
    assert label(background=None, threshold=0.6).tolist() == [[1, 2, 0]]


def test_frames_are_segmented_one_by_one() -> None:
    p = np.zeros((2, 4, 4), np.float32)
    p[:, 1, 1] = p[1, 3, 3] = 1
    found = seamscope.segment(p, axes="tyx")
    assert np.asarray(found.labels)[:, 1, 1].tolist() == [1, 2]
    assert found.table().columns["frame"].tolist() == [0, 1, 1]


def test_distance_is_in_units_of_the_finest_axis() -> None:
    """Two discs that touch; along y a pixel is twice as long."""
    y, x = np.mgrid[:30, :60]
    discs = np.hypot((y - 15) * 2, x - 19) <= 12
    discs |= np.hypot((y - 15) * 2, x - 40) <= 12
    found = seamscope.segment(
        discs.astype(np.float32), kind="distance", dynamics=2.0, voxel_size=(2.0, 1.0)
    )
    assert found.count == 2
    assert found.at(dynamics=9.0).count == 1
    labels = np.asarray(found.labels)
    assert labels[15, 19] != labels[15, 40]
    assert found.at(dynamics=None, seed_threshold=8).count == 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("components", {"threshold": 0.6}),
        ("boundaries", {"seed_threshold": 0.3}),
        ("distance", {"threshold": 0.4, "dynamics": 1, "cap": 8}),
    ],
)
def test_part_of_an_image_marks_what_may_change(kind, setting, seed) -> None:
    """What is not provisional is in the whole image as it is in the part."""
    p = smooth((80, 80), seed, 1.2)
    whole = np.asarray(seamscope.segment(p, kind=kind, **setting).labels)
    sizes = Counter(whole.ravel().tolist())
    part = seamscope.segment(p, kind=kind, area={"y": (20, 60), "x": (10, 80)}, **setting)
    labels, seen = np.asarray(part.labels), whole[20:60, 10:80]
    sure = set(range(1, part.count + 1)) - set(part.provisional.tolist())
    assert len(sure) > 3
    assert len(part.provisional) > 3
    for label in sure:
        there = np.unique(seen[labels == label])
        assert len(there) == 1
        assert sizes[int(there[0])] == (labels == label).sum()
    assert part.corner == (20, 10)


def test_the_curve_counts_what_cuts_find() -> None:
    p = smooth((60, 60))
    for kind, name in (("components", "threshold"), ("distance", "dynamics")):
        found = seamscope.segment(p, kind=kind, threshold=0.5)
        curve = found.curve()
        for at in (300, 20000, 32500, 60000):
            value = float(curve.values[at])
            assert found.at(**{name: value}).count == curve.counts[at]
        low, high = curve.stable()
        assert low < high
    edges, pixels = found.histogram(10)
    assert len(edges) == 11
    assert pixels.sum() == (p > 0.5).sum()


def test_labels_are_read_like_an_array() -> None:
    p = smooth((5, 20, 20))
    found = seamscope.segment(p, axes="zyx")
    whole = np.asarray(found.labels)
    for index in (3, np.s_[2, 3:9], np.s_[..., 4], np.s_[::2, 1:20:3, -1], np.s_[0:0]):
        np.testing.assert_array_equal(found.labels[index], whole[index])
    assert len(found.labels) == 5
    assert found.labels.dtype == np.uint8


@pytest.mark.parametrize(
    ("values", "how", "said"),
    [
        (np.array([[-3.0, 8.0]]), {}, "values='logits'"),
        (np.array([[3.0, 250.0]]), {}, "values=255"),
        (np.array([[0.5, np.nan]]), {}, "NaN or infinity at 1 pixel "),
        (np.zeros((2, 3), np.int32), {}, "nothing says which number"),
        (np.zeros((2, 3)), {"kind": "cells"}, "no recipe 'cells'"),
        (np.zeros((2, 3)), {"channel": 1}, "There is no channel 1"),
        (np.zeros((2, 3, 3)), {}, "axes='cyx'"),
        (np.zeros((2, 3)), {"connectivity": 3}, "connectivity is 3"),
        (np.zeros((2, 3)), {"seed_threshold": 1, "dynamics": 1}, "not by both"),
        (np.zeros((2, 3)), {"min_size": 5, "max_size": 2}, "Sizes from 5 to 2"),
        (np.zeros((2, 3)), {"blocks": 0}, "1 pixel or more"),
        (np.zeros((2, 3)), {"threads": 0}, "threads is 0"),
        (np.zeros((2, 3)), {"min_size": -1}, "min_size is -1"),
        (np.array([[2.0, 0.5]]), {"values": 1.5}, "from 0 to 1.33 after division by 1.5"),
        (np.zeros((2, 3)), {"threshold": np.nan}, "threshold is nan"),
        (np.zeros((2, 3)), {"threshold": 128, "values": 255}, "threshold is 128: it is a probab"),
        (np.zeros((2, 3)), {"kind": "boundaries", "seed_threshold": 3}, "seed_threshold is 3: it"),
        (np.zeros((2, 3)), {"area": {"y": (2, 9)}}, "area y=2:2 is empty"),
    ],
)
def test_bad_input_is_one_sentence(values, how, said) -> None:
    with pytest.raises((ImageError, SettingsError), match=r".") as refused:
        seamscope.segment(values, **how)
    assert said in str(refused.value)


def test_scales_of_other_programs() -> None:
    p = np.array([[0.1, 0.6, 0.9]])
    for values, scaled in (
        ("logits", np.log(p / (1 - p))),
        (255, p * 255),
        ("probabilities", (p * 255).astype(np.uint8)),
        ("clipped", np.array([[-0.3, 0.6, 1.4]])),
    ):
        assert np.asarray(seamscope.segment(scaled, values=values).labels).tolist() == [[0, 1, 1]]


@pytest.mark.parametrize(
    ("value", "how", "said"),
    [
        (0.25, {}, "no probability is above the threshold 0.5; the largest is 0.25"),
        (0.75, {"min_size": 17}, "No object is left after the filters"),
        (0.75, {"clear_border": True}, "No object is left after the filters"),
        (0.25, {"kind": "distance"}, "no pixel is foreground, at the threshold 0.5"),
        (0.25, {"kind": "classes"}, "no pixel belongs to a class, at the threshold 0.5"),
        (0.25, {"kind": "boundaries", "seed_threshold": 0.1}, "no pixel is a seed; the lowest"),
        (np.nan, {}, "no pixel has data"),
    ],
)
def test_nothing_found_is_said(value, how, said) -> None:
    image = dataclasses.replace(
        seamscope.open_image(np.full((4, 4), value)), missing=bool(np.isnan(value))
    )
    found = seamscope.segment(image, **how)
    assert found.count == 0
    assert said in found.empty_note
    assert not np.asarray(found.labels).any()
