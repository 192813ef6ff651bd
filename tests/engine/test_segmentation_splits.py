"""False splits: planted ones are found and merged, images without a grid show none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage, stats

import real_networks
import seamscope
from seamscope.errors import ImageError, SettingsError
from seamscope.planning.case import Case
from seamscope.segmentation.agreement import compare_labels
from seamscope.segmentation.asking import OneTile, ask_again
from seamscope.segmentation.corrections import Corrections, merge_candidates
from seamscope.segmentation.crossings import RUN
from seamscope.segmentation.false_splits import Candidate, find_splits
from seamscope.segmentation.label_images import merge_pairs
from seamscope.segmentation.lines import Lines
from seamscope.segmentation.predicted import predict_for


def cells(shape=(256, 256), seed=0, sigma=4.0):
    """Blobs on background."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), sigma)
    return ndimage.label(noise > np.quantile(noise, 0.6))[0].astype(np.int32)


def cut(labels, lines):
    """Cut all objects at lines across the last axis, and number the pieces."""
    pieces = labels.astype(np.int64) * 100
    for number, line in enumerate(lines, 1):
        pieces[..., line:] = np.where(labels[..., line:] > 0, labels[..., line:] * 100 + number, 0)
    return pieces.astype(np.int32)


def changes_by_hand(labels, line):
    """Pixels of straight runs of changes across a line along the last axis of a 2D image."""
    changed = labels[:, line] != labels[:, line - 1]
    total = 0
    runs, count = ndimage.label(changed)
    for number in range(1, count + 1):
        length = int((runs == number).sum())
        total += length if length >= RUN else 0
    return total


def test_the_test_is_what_its_definition_says() -> None:
    """All displaced grids one by one, from the definition."""
    labels = cut(cells(), range(32, 256, 32))
    report = find_splits(labels, 32)
    per_line = {}
    for name, image in (("x", labels), ("y", labels.T)):
        per_line[name] = np.array([0.0] + [changes_by_hand(image, c) for c in range(1, 256)])
    mean = {
        name: [np.mean([v[c] for c in range(shift, 256, 32) if c > 0]) for shift in range(32)]
        for name, v in per_line.items()
    }
    observed = mean["y"][0] + mean["x"][0]
    null = [mean["y"][i] + mean["x"][j] for i in range(3, 30) for j in range(3, 30)]
    assert report.test.changes == pytest.approx(observed)
    assert report.test.expected == pytest.approx(np.mean(null))
    assert report.test.p == pytest.approx((1 + sum(n >= observed for n in null)) / (1 + len(null)))
    assert report.test.p < 0.005


def test_planted_splits_are_listed_and_merged() -> None:
    labels = cells()
    lines = range(32, 256, 32)
    pieces = cut(labels, lines)
    report = find_splits(pieces, 32)
    expected = set()
    for line in lines:
        both = pieces[:, line - 1], pieces[:, line]
        same = (labels[:, line - 1] == labels[:, line]) & (labels[:, line] > 0)
        pairs, counts = np.unique(np.stack(both, 1)[same], axis=0, return_counts=True)
        expected |= {tuple(p) for p, n in zip(pairs.tolist(), counts, strict=True) if n >= 8}
    found = {c.labels for c in report.below(0.1)}
    assert expected <= found
    assert all(a // 100 == b // 100 for a, b in found)
    for c in report.candidates:
        assert tuple(int(pieces[p]) for p in c.places) == c.labels
        assert c.line in lines
    together = merge_pairs(pieces, [c.labels for c in report.candidates])
    before, after = compare_labels(pieces, labels), compare_labels(together, labels)
    assert before.split_by_coverage >= 20
    assert after.split_by_coverage < before.split_by_coverage / 5
    assert after.average_precision > before.average_precision


def test_null_is_uniform_without_a_grid() -> None:
    """The share of p values below each level is that level; and the grid search finds nothing."""
    values = [
        find_splits(cells((160, 160), seed, 2.0), 32, offset=seed % 31).test.p for seed in range(30)
    ]
    assert stats.kstest(values, "uniform").pvalue > 0.01
    found = [find_splits(cells((160, 160), seed)).lines for seed in range(6)]
    assert sum(lines is not None for lines in found) <= 1


def test_an_unknown_grid_is_found() -> None:
    labels = cells((300, 300), 3)
    pieces = cut(cut(labels, range(21, 300, 37)).T, range(5, 300, 50)).T
    report = find_splits(pieces)
    assert [(g.axis, g.stride, g.offset) for g in report.found] == [("y", 50, 5), ("x", 37, 21)]
    assert report.lines == Lines((50, 37), (5, 21))
    assert report.test.p < 0.01
    assert "cut where tiles meet" in report.describe()


def test_bands_do_not_change_what_is_found(monkeypatch) -> None:
    labels = cut(cells((40, 60, 50), 1, 2.0), range(16, 50, 16))
    whole = find_splits(labels, 16)
    monkeypatch.setattr("seamscope.segmentation.crossings._BAND", 700)
    parts = find_splits(labels, 16)
    assert parts.test == whole.test
    assert {(c.labels, c.line, c.pixels, c.rate) for c in parts.candidates} == {
        (c.labels, c.line, c.pixels, c.rate) for c in whole.candidates
    }
    assert whole.test.p < 0.01
    movie = find_splits(np.stack([labels[0], labels[1]]), 16, axes="tyx")
    assert movie.axes == "yx"


def test_lines_of_tiles() -> None:
    assert Lines.of(96, 32).along(0, 200).tolist() == [80, 144]
    assert Lines.of(96, 32, 0).along(1, 200).tolist() == [64, 128, 192]
    assert Lines.of((64, 48), axes=2).stride == (64, 48)


@pytest.mark.parametrize("seed", range(20))
def test_lines_are_where_tiles_from_0_meet(seed) -> None:
    """Tiles one by one, each cut in the middle of its overlap with the next; and displaced."""
    rng = np.random.default_rng(seed)
    tile, size = int(rng.integers(12, 60)), int(rng.integers(20, 300))
    overlap = int(rng.integers(0, tile - 8))
    starts = [0]
    while starts[-1] + tile < size:
        starts.append(starts[-1] + tile - overlap)
    expected = [start + overlap // 2 for start in starts[1:]]
    lines = Lines.of(tile, overlap)
    assert lines.along(0, size).tolist() == [c for c in expected if c < size]
    if overlap:
        for shift in (3, -4):
            moved = [c + shift for c in expected if 0 < c + shift < size]
            assert lines.along(0, size, shift % lines.stride[0]).tolist() == moved


def test_agreement_counts_what_its_definitions_say() -> None:
    """One whole object, one cut into 92 % and 8 %, two that were merged."""
    truth = np.zeros((10, 80), int)
    truth[:, 0:10], truth[:, 20:45], truth[:, 50:60], truth[:, 60:70] = 1, 2, 3, 4
    ours = truth.copy()
    ours[:, 43:45] = 9
    ours[:, 60:70] = 3
    found = compare_labels(ours, truth, Lines((43, 43), (0, 0)))
    assert (found.objects, found.predicted, found.matched) == (4, 4, 2)
    assert found.average_precision == pytest.approx(2 / 6)
    assert (found.splits, found.merges, found.split_by_coverage) == (0, 1, 1)
    assert (found.at_seams, found.split_at_seams) == (1, 1)
    assert (found.share_split_at_seams, found.share_split_elsewhere) == (1.0, 0.0)
    perfect = compare_labels(truth, truth)
    assert perfect.average_precision == 1
    with pytest.raises(ImageError, match=r"10 x 80.*10 x 79"):
        compare_labels(ours, truth[:, 1:])


class TileMean(torch.nn.Module):
    """Foreground is what is brighter than the tile's mean: one tile's statistics."""

    def forward(self, x):
        return torch.sigmoid(8 * (x - x.mean((2, 3), keepdim=True)))


def test_the_network_is_asked_with_the_seam_inside_a_tile() -> None:
    """A bar crosses a seam of a prediction; the network cuts another one itself."""
    image = np.zeros((64, 64), np.float32)
    image[10:20, 8:56] = 4
    image[40:50, 8:32] = 4
    image[40:50, 32:56] = 4
    image[40:50, 31:33] = -4
    labels = ndimage.label(image > 1)[0]
    labels[10:20, 32:] *= 7
    report = find_splits(labels, 32)
    assert {c.labels for c in report.candidates} == {(1, 7), (2, 3)}
    recipe = seamscope.Recipe()
    opinions = list(
        ask_again(report.candidates, image, TileMean(), recipe, tile=32, normalize="none")
    )
    said = {o.candidate.labels: o.vanished for o in opinions}
    assert said == {(1, 7): True, (2, 3): False}
    assert "The tiling split it" in next(o.sentence for o in opinions if o.vanished)


class MiddleOnly(torch.nn.Module):
    """Bright pixels are foreground within 6 pixels of the middle of a tile."""

    def forward(self, x):
        near = torch.ones_like(x)
        for axis in range(2, x.ndim):
            n = x.shape[axis]
            weight = (torch.arange(n) + 0.5 - n / 2).abs() <= 6
            near = near * weight.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        return (x > 0.5) * near


@pytest.mark.parametrize(
    ("axes", "shape", "how"),
    [
        ("yx", (300, 300), {"tile": 96, "overlap": 32}),
        ("tyx", (3, 120, 140), {"tile": 48, "overlap": 8, "offset": 13}),
        ("zyx", (48, 60, 64), {"tile": 24, "overlap": 4}),
    ],
)
def test_the_seam_is_in_the_middle_of_the_tile(axes, shape, how) -> None:
    """For any overlap, offset and axis; movies frame by frame, and 3D."""
    image = np.ones(shape, np.float32)
    image[..., :2] = 0
    space = [i for i, a in enumerate(axes) if a != "t"]
    lines = Lines.of(how["tile"], how["overlap"], how.get("offset"), len(space))
    rng = np.random.default_rng(0)
    found = []
    for number, axis in enumerate(space):
        half, along = how["tile"] // 2, lines.along(number, shape[axis])
        for line in along[(along >= half) & (along <= shape[axis] - half)].tolist():
            place = [int(rng.integers(half, n - half)) if n > 3 else 1 for n in shape]
            both = (tuple(np.where(np.arange(len(shape)) == axis, c, place).tolist())
                    for c in (line - 1, line))  # fmt: skip
            candidate = Candidate((1, 2), number, line, 9, tuple(both), 0.1)
            found.append(candidate)
    model = seamscope.load_model(MiddleOnly(), spatial_axes=len(space))
    asked = ask_again(
        found, seamscope.open_image(image, axes=axes), model, seamscope.Recipe(),
        tile=how["tile"], normalize="none", axes=axes, shape=shape,
    )  # fmt: skip
    assert len(found) >= 3
    assert [o.vanished for o in asked] == [True] * len(found)
    off = [replace(c, line=c.line + 9) for c in found]
    assert not all(OneTile(Case.open(
        seamscope.open_image(image, axes=axes), model, tile=how["tile"], normalize="none",
    ), seamscope.Recipe(), axes).vanishes(c) for c in off)  # fmt: skip


def test_other_images_are_refused() -> None:
    image = np.zeros((64, 64), np.float32)
    how = {"tile": 32, "normalize": "none"}
    with pytest.raises(ImageError, match=r"labels have 64 x 60 pixels.*would have 64 x 64"):
        next(ask_again([], image, TileMean(), seamscope.Recipe(), shape=(64, 60), **how), None)
    with pytest.raises(SettingsError, match="labels have the axes tyx"):
        next(ask_again([], image, TileMean(), seamscope.Recipe(), axes="tyx", **how), None)
    stack = seamscope.open_image(np.zeros((20, 64, 64), np.float32), axes="zyx")
    across = Candidate((1, 2), 0, 10, 9, ((9, 30, 30), (10, 30, 30)), 0.1)
    flat = seamscope.load_model(TileMean(), spatial_axes=2)
    with pytest.raises(SettingsError, match="no tiles meet along z"):
        next(ask_again([across], stack, flat, seamscope.Recipe(), **how))


def test_candidates_are_merged_as_one_step_each() -> None:
    """A boundary prediction with a ridge on the seams of its tiles."""
    p = np.full((64, 64), 0.1)
    p[:, 31] = 0.8
    p[:, [10, 50]] = p[[12, 52]] = 0.9
    found = seamscope.segment(p, kind="boundaries", seed_threshold=0.5)
    labels = np.asarray(found.labels)
    report = find_splits(labels, 32)
    c = Corrections(found)
    assert merge_candidates(c, report.below(1.0)) == 3
    assert len(c) == 1
    assert c.current.count == found.count - 3
    assert np.asarray(c.current.labels)[20, 30] == np.asarray(c.current.labels)[20, 34]
    c.undo()
    np.testing.assert_array_equal(c.current.labels, labels)


@pytest.mark.parametrize(
    ("labels", "how", "said"),
    [
        (np.zeros((9, 9)), {"tile": 16}, "labels are whole numbers"),
        (np.zeros((99, 99), int), {"tile": 8, "overlap": 4}, "4 pixels between seams"),
        (np.zeros((9, 9), int), {"tile": 16}, "No seam of a grid of 16 x 16"),
        (np.zeros((2, 99, 99), int), {"tile": 16, "axes": "cyx"}, "one of them is channels"),
        (np.zeros((99, 99), int), {"tile": (16, 16, 16)}, "2 axes of space"),
    ],
)
def test_bad_input_is_one_sentence(labels, how, said) -> None:
    with pytest.raises((ImageError, SettingsError)) as refused:
        find_splits(labels, **how)
    assert said in str(refused.value)


def test_tiles_that_matter_are_seen_and_seamless_ones_are_not() -> None:
    """Components of the demo networks: without seams, and with statistics of each tile."""
    from seamscope.demo import sample_image

    image = sample_image("tissue2d")[0][:512, :512]
    found = {}
    for name, tile, halo in (("batchnorm", 160, 46), ("instancenorm", 64, 0)):
        p = seamscope.predict(image, f"demo:{name}", tile=tile, halo=halo, seams="none")
        labels = seamscope.segment(p, channel=0, axes="cyx").labels
        found[name] = find_splits(labels, 64)
    assert found["batchnorm"].test.p > 0.05
    assert found["instancenorm"].test.p < 0.005
    assert found["instancenorm"].test.effect > 50


def cores(plan, axis):
    """Where cores of a plan begin, one by one."""
    return [tile.core[0] for tile in plan.grid.axes[axis]][1:]


@pytest.mark.parametrize("area", [None, {"y": (20, 150), "x": (0, 170)}])
def test_the_grid_of_our_own_predictions_is_noted(tmp_path, area) -> None:
    """In files of predictions and of labels, for areas and for merged labels."""
    image = np.random.default_rng(0).random((150, 170)).astype(np.float32)
    model = seamscope.load_model(TileMean())
    case = Case.open(image, model, tile=48, halo=6, normalize="none", area=area)
    shift = (0, 0) if area is None else (20, 0)
    seamscope.predict(case, out=tmp_path / "p.npy")
    found = seamscope.segment(tmp_path / "p.npy")
    found.write(tmp_path / "l.tif")
    part = seamscope.segment(tmp_path / "p.npy", area={"x": (7, 130)})
    part.write(tmp_path / "part.ome.zarr")
    merge_pairs(tmp_path / "l.tif", [(1, 2)], tmp_path / "m.zarr")
    own = predict_for(seamscope.Recipe(), case)
    seamscope.segment(own.image, area=own.area, seams=own.seams).write(tmp_path / "one_go.npy")
    expected = [[c - s for c in cores(case.plan, a)] for a, s in enumerate(shift)]
    for name, cut in (("l.tif", 0), ("m.zarr", 0), ("one_go.npy", 0), ("part.ome.zarr", 7)):
        report = find_splits(tmp_path / name)
        assert report.grid == "noted in the labels' file"
        assert report.lines.tile == (48, 48)
        size = report.shape
        for axis, lines in enumerate(expected):
            wanted = [c - cut * axis for c in lines if 0 < c - cut * axis < size[axis]]
            assert report.lines.along(axis, size[axis]).tolist() == wanted, (name, axis)
    assert find_splits(tmp_path / "l.tif", 60).grid == "given"


def test_labels_of_a_prediction_in_one_tile_are_said_to_be_whole(tmp_path) -> None:
    image = np.random.default_rng(0).random((60, 70)).astype(np.float32)
    area = {"y": (0, 40), "x": (0, 40)}
    case = Case.open(image, TileMean(), tile=48, halo=2, normalize="none", area=area)
    seamscope.predict(case, out=tmp_path / "p.npy")
    seamscope.segment(tmp_path / "p.npy").write(tmp_path / "l.npy")
    with pytest.raises(SettingsError, match=r"so that none is cut.*give their size \(`tile`\)"):
        find_splits(tmp_path / "l.npy")


@pytest.mark.parametrize(("tile", "halo"), [(96, 16), (128, 16)])
def test_tiles_of_the_real_instancenorm_network_are_guilty(
    real_models, real_images, tmp_path, tile, halo
) -> None:
    """And the untiled prediction of the same image is not, on the same lines."""
    network = real_networks.covid_instancenorm()
    network.load_state_dict(
        load_file(real_models / "unet2d_covid_if_instancenorm" / "state_dict.safetensors")
    )
    model = seamscope.load_model(network.eval())
    image = real_images / "nuclei_2d.tif"
    how = {"normalize": "zscore", "seams": "none"}
    seamscope.predict(image, model, tmp_path / "p.npy", tile=tile, halo=halo, **how)
    seamscope.segment(tmp_path / "p.npy", values="clipped").write(tmp_path / "l.npy")
    tiled = find_splits(tmp_path / "l.npy")
    assert tiled.cut
    assert tiled.p < 0.001
    assert tiled.test.effect > 50
    whole = seamscope.predict(image, model, tile=512, **how)
    labels = seamscope.segment(whole, values="clipped").labels
    untiled = find_splits(labels, lines=tiled.lines)
    assert not untiled.cut
