"""Pictures of candidate pairs, and the page of false splits."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from scipy import ndimage

import seamscope
from seamscope.planning.case import Case
from seamscope.reports.split_page import split_page, split_parts
from seamscope.reports.terminal import terminal
from seamscope.segmentation.agreement import compare_labels
from seamscope.segmentation.asking import OneTile
from seamscope.segmentation.false_splits import find_splits
from seamscope.segmentation.findings import SplitFindings
from seamscope.segmentation.label_images import labels_of
from seamscope.segmentation.split_views import look_at_splits

TILE, OVERLAP = 40, 8


def tile_mean(x):
    return torch.sigmoid(8 * (x - x.mean((2, 3), keepdim=True)))


class TileMean(torch.nn.Module):
    """Foreground is what is brighter than the tile's mean: one tile's statistics."""

    def forward(self, x):
        return tile_mean(x)


@pytest.fixture(scope="module")
def found():
    """A bar and a blob that cross seams at 36 and 68; the bar is cut there."""
    image = np.zeros((96, 100), np.float32)
    image[10:22, 5:90] = 4
    image[50:80, 60:76] = 4
    truth = ndimage.label(image > 1)[0]
    labels = truth.copy()
    labels[10:22, 36:90] = 7
    labels[68:80, 60:76] = 9
    report = find_splits(labels, TILE, overlap=OVERLAP)
    case = Case.open(image, TileMean(), tile=TILE, normalize="none")
    tiles = OneTile(case, seamscope.Recipe(), report.letters, report.shape)
    opinions = list(tiles.opinions(report.candidates))
    agreement = compare_labels(labels, truth, report.lines)
    findings = SplitFindings(report, opinions, agreement)
    return image, truth, labels_of(labels), tiles, findings


def test_views_show_labels_image_and_what_each_tile_predicts(found) -> None:
    """The tiles' predictions, from their definition."""
    image, _, labels, tiles, findings = found
    views = look_at_splits(findings.report, labels, image=seamscope.open_image(image), tiles=tiles)
    assert {v.candidate.labels for v in views} == {(1, 7), (2, 9)}
    view = next(v for v in views if v.candidate.labels == (1, 7))
    top, left = view.corner
    shown = np.s_[top : top + 64, left : left + 64]
    np.testing.assert_array_equal(view.labels, labels.read((slice(None),) * 2)[shown])
    np.testing.assert_array_equal(view.image, image[shown])
    assert view.seam == ("x", 36 - left)
    stride = TILE - OVERLAP
    for (y, x), values in zip([(0, 0), (0, stride), (0, 36 - TILE // 2)], view.tiles, strict=True):
        whole = np.full(image.shape, np.nan)
        part = torch.from_numpy(image[y : y + TILE, x : x + TILE])[None, None]
        whole[y : y + TILE, x : x + TILE] = tile_mean(part)[0, 0]
        np.testing.assert_allclose(values, whole[shown], atol=2e-5)  # steps of heights


def test_planes_of_a_stack_and_frames_of_a_movie() -> None:
    labels = np.ones((3, 20, 40, 44), np.uint8)
    labels[..., 16:] = 2
    report = find_splits(labels, 16, axes="tzyx")
    (view,) = look_at_splits(report, labels_of(labels, "tzyx"), most=1)
    assert view.axes == "yx"
    assert view.seam == ("x", 16)
    assert view.labels.shape == (40, 44)


def test_the_page_says_what_was_found_and_merged(found, tmp_path) -> None:
    image, truth, labels, tiles, findings = found
    merged = findings.merge(labels, None, tmp_path / "m.npy", ground_truth=truth)
    assert sorted(merged.merged.pairs) == [(1, 7), (2, 9)]
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), truth)
    assert merged.merged.agreement.average_precision == 1
    views = look_at_splits(findings.report, labels, image=seamscope.open_image(image), tiles=tiles)
    page = split_page(merged, views=views, setting=[("file of the labels", "<l>.npy")])
    assert "&lt;l&gt;.npy" in page
    assert not re.search(r"https?://(?!www.w3.org)|<script", page)
    for word in ("Before and after merging", "1 and 7: one object", "tile behind", "after",
                 "false-discovery rate", "excess", "average precision"):  # fmt: skip
        assert word in page, word
    rows = {row.split("  ")[0]: row.split() for row in terminal(split_parts(merged, 5)).split("\n")}
    assert rows["average precision"][-2:] == ["0.5", "1"]
    assert rows["pairs across seams"][-2:] == ["2", "0"]
    assert rows["split at seams"][-6:] == ["100%", "of", "2", "0%", "of", "2"]


def test_what_is_merged_follows_the_network_and_the_rate(found) -> None:
    findings = found[-1]
    both = [(1, 7), (2, 9)]
    assert sorted(findings.pairs()) == both
    first = dataclasses.replace(findings.opinions[0], vanished=False)
    other = dataclasses.replace(findings, opinions=[first, findings.opinions[1]])
    assert other.pairs() == [findings.opinions[1].candidate.labels]
    assert other.pairs(-1.0) == []
    alone = dataclasses.replace(findings, opinions=())
    assert (alone.pairs(), sorted(alone.pairs(1.0))) == ([], both)


def test_a_page_without_a_grid_says_so() -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(4).random((120, 120)), 3)
    report = find_splits(ndimage.label(noise > np.median(noise))[0])
    assert report.lines is None
    page = split_page(SplitFindings(report))
    assert "No grid was found" in page
    assert "searched" in page


def test_the_p_value_of_a_searched_grid_is_that_of_the_search() -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(3).random((240, 240)), 4)
    cells = ndimage.label(noise > np.quantile(noise, 0.6))[0]
    report = find_splits(np.where(cells > 0, cells * 10 + np.arange(240) // 40, 0))
    assert report.cut
    assert report.p == max(report.test.p, min(g.p for g in report.found))
    profile = report.test.profiles[1]
    assert profile.argmax() == 0
    assert len(profile) == report.lines.stride[1]
