"""Single tiles: where a plan has a tile, its own prediction; elsewhere on the period's grid."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from networks import ValidUNet
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.prediction.single_tile import SingleTiles
from seamscope.prediction.tile_predictions import predict_tiles


def case_of(network, tile, **how):
    image = np.random.default_rng(0).random((150, 170)).astype(np.float32)
    return Case.open(image, Model(network.eval(), "network"), tile=tile, halo=0, seams="none",
                     **how)  # fmt: skip


@pytest.mark.parametrize(
    ("network", "tile"),
    [
        (nn.Conv2d(1, 2, 3, padding=1), 48),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.AvgPool2d(2)), 48),
        (ValidUNet(), 92),
    ],
)
def test_tiles_of_the_plan_are_predicted_as_in_a_run(network, tile) -> None:
    case = case_of(network, tile, normalize="zscore")
    single, plan = SingleTiles(case), case.plan
    runner = case.model.runner("cpu", "float32")
    for _, own, values in predict_tiles(plan, runner, case.reader()):
        found = single.beginning_at(own.origin)
        assert found.origin == own.origin
        np.testing.assert_array_equal(found.values, values)


def test_tiles_lie_around_their_middle_and_inside_the_image() -> None:
    single = SingleTiles(case_of(nn.Conv2d(1, 1, 3, padding=1), 40))
    assert single.around((70, 81)).origin == (50, 61)
    assert single.around((3, 168)).origin == (0, 130)
