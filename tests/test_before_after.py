"""Seams and Dice before and after: counted as a plain comparison of whole label images would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import networks
import seamscope
from seamscope.demo import sample_image, zscore
from seamscope.diagnosis.measure import measure_seams
from seamscope.models.model import as_model
from seamscope.repair.before_after import compare_statistics
from seamscope.repair.freezing import freeze_statistics

SETTINGS = {"tile": 80, "normalize": "none"}


@pytest.fixture(scope="module")
def compared():
    torch.manual_seed(0)
    image, truth = (part[160:320, 240:416] for part in sample_image("tissue2d"))
    image = zscore(image)
    model = as_model(networks.UNet(2, 2, norm="instance", classes=4).eval())
    statistics = freeze_statistics(model, image, **SETTINGS)
    seen: list[tuple[int, int]] = []
    found = compare_statistics(
        image,
        model,
        statistics,
        labels=truth,
        on_progress=lambda done, total: seen.append((done, total)),
        **SETTINGS,
    )
    return image, truth, model, statistics, found, seen


def test_dice_is_that_of_whole_label_images(compared) -> None:
    image, truth, model, statistics, found, seen = compared
    overlap = found.before.plan.grid.overlap
    for network, dice in (
        (model, found.dice_before),
        (model.with_statistics(statistics), found.dice_after),
    ):
        labels = seamscope.predict(image, network, result="labels", overlap=overlap, **SETTINGS)
        expected = [
            2 * ((labels == k) & (truth == k)).sum() / ((labels == k).sum() + (truth == k).sum())
            for k in range(4)
        ]
        np.testing.assert_allclose(dice, expected, atol=1e-4)
    assert found.gain == pytest.approx(np.mean(found.dice_after) - np.mean(found.dice_before))
    assert seen == [(n, seen[0][1]) for n in range(1, seen[0][1] + 1)]


def test_seams_are_those_measured_by_themselves(compared) -> None:
    image, _, model, _, found, _ = compared
    before = measure_seams(image, model, **SETTINGS)
    assert found.before.measures.max_dist == before.measures.max_dist > 0.1
    assert found.after.seamless
    assert not found.before.seamless
    said = " ".join(found.sentences())
    assert "Before: Seams" in said
    assert "After: Seamless" in said
    assert "Dice" in said
    assert found.to_json()["dice_after"] == list(found.dice_after)


def test_without_labels_nothing_is_said_of_accuracy(compared) -> None:
    image, _, model, statistics, _, _ = compared
    found = compare_statistics(image, model, statistics, **SETTINGS)
    assert found.gain is None
    assert not found.classes
    assert "Dice" not in " ".join(found.sentences())
    with pytest.raises(InterruptedError):
        compare_statistics(image, model, statistics, cancelled=lambda: True, **SETTINGS)
