"""Seams are measured while predicting: all, or a sample that knows how far it may be off."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

import networks
from seamscope import measure_seams
from seamscope.errors import SettingsError
from seamscope.images.image import open_image
from seamscope.models.formats import load_model
from seamscope.planning.case import Case
from seamscope.planning.plan import resolve
from seamscope.prediction.run import Finished, run
from seamscope.seams.meter import SeamMeter
from seamscope.seams.report import SeamReport, count_overlaps, sampled_tiles
from seamscope.settings import Settings
from watching import stopped_after


def deep(network):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network.eval()


def uneven(shape=(260, 250), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * np.linspace(0.2, 3, shape[-1])).astype(np.float32)


@pytest.fixture(scope="module")
def batch_norm():
    return load_model(deep(networks.UNet(2, 2, norm="batch")))


@pytest.fixture(scope="module")
def instance_norm():
    return load_model(deep(networks.UNet(2, 2, norm="instance")))


def test_a_network_of_finite_reach_is_seamless_at_its_reach(batch_norm) -> None:
    report = measure_seams(uneven(), batch_norm, tile=96, accelerate=False)
    assert report.plan.grid.halo == ((22, 22), (22, 22))
    assert report.complete
    assert report.seamless
    assert not report.measures.beside
    assert report.smallest_seamless_halo == (22, 22)
    assert "Seamless" in report.sentence()


def test_too_small_a_halo_is_told(batch_norm) -> None:
    report = measure_seams(uneven(), batch_norm, tile=96, halo=8, overlap=60, accelerate=False)
    assert not report.seamless
    assert report.smallest_seamless_halo == (22, 22)
    told = report.to_json()
    assert told["max_dist"] == pytest.approx(told["halo_curve"]["max_dist"][8])
    assert told["halo_curve"]["halo"][:3] == [0, 1, 2]
    assert len(told["tile_mismatch"]) == len(told["channels"]) == 2
    json.dumps(told, allow_nan=False)
    assert "beside" not in report.sentence()
    beside = measure_seams(uneven(), batch_norm, tile=96, halo=8, overlap=16, accelerate=False)
    assert f"{beside.measures.max_dist:.3g} in the pixels beside the seams" in beside.sentence()


def test_tile_statistics_leave_no_seamless_halo(instance_norm) -> None:
    report = measure_seams(uneven(), instance_norm, tile=96, overlap=60, accelerate=False)
    assert report.smallest_seamless_halo is None
    assert report.measures.max_dist > 100 * report.tolerance
    assert "differ by up to" in report.sentence()


def test_one_tile_has_no_seams(batch_norm) -> None:
    report = measure_seams(uneven((64, 64)), batch_norm, tile=64)
    assert (report.tiles, report.overlaps, report.measured) == (1, 0, 0)
    assert report.seamless
    assert "no seams" in report.sentence()
    json.dumps(report.to_json(), allow_nan=False)


def test_the_run_measures_what_measuring_alone_does(instance_norm) -> None:
    """And what it predicts is the same, whether its seams are measured or not."""
    image = open_image(uneven())
    results = {}
    for seams in ("all", "sample", "none"):
        settings = Settings(tile=96, halo=8, overlap=40, accelerate=False, seams=seams)
        plan = resolve(image, instance_norm, settings)
        events = list(run(Case.planned(image, instance_norm, plan), None))
        assert isinstance(events[-1], Finished)
        results[seams] = events[-1]
    report = measure_seams(image, instance_norm, tile=96, halo=8, overlap=40, accelerate=False)
    assert results["all"].seams.measures == report.measures
    assert results["all"].figures["seams"]["max_dist"] == report.measures.max_dist
    assert results["none"].seams is None
    assert "seams" not in results["none"].figures
    sample = results["sample"].seams
    assert 0 < sample.measured < sample.overlaps == report.overlaps
    assert sample.measures.max_dist <= report.measures.max_dist
    known = {(b.lower, b.axis): b.max_dist for b in report.seams}
    assert all(known[b.lower, b.axis] == b.max_dist for b in sample.seams)


def plan_of(shape, **settings):
    model = load_model(nn.Identity())
    settings = {"tile": 24, "halo": 4, **settings}
    return resolve(open_image(np.zeros(shape, np.float32)), model, Settings(**settings))


@pytest.mark.parametrize("shape", [(200, 300), (16, 300), (40, 40), (10, 10), (300, 24)])
@pytest.mark.parametrize("share", [0.01, 0.125, 0.5, 1.0])
def test_a_sample_is_made_of_blocks_spread_over_the_image(shape, share) -> None:
    plan = plan_of(shape)
    chosen = sampled_tiles(plan, share)
    everything = set(itertools.product(*map(range, plan.grid.shape)))
    assert chosen <= everything
    assert chosen
    assert abs(len(chosen) - share * len(everything)) <= max(4, 0.2 * share * len(everything))
    assert chosen == sampled_tiles(plan, share)
    for index in chosen:  # none is alone
        near = [
            tuple(i + d * (a == b) for b, i in enumerate(index)) for a in (0, 1) for d in (-1, 1)
        ]
        assert len(everything) == 1 or any(n in chosen for n in near)
    if len(everything) > 60 and share == 0.5:
        halves = [i[0] < plan.grid.shape[0] / 2 for i in chosen]
        assert 0.3 < np.mean(halves) < 0.7


@pytest.mark.parametrize("seams", ["sample", "all"])
def test_nothing_is_kept_of_an_overlap_with_a_tile_that_is_not_measured(seams) -> None:
    meters = []

    def meter(plan):
        meters.append(SeamMeter.of(plan))
        return meters[-1]

    case = Case.open(open_image(uneven((300, 200))), load_model(nn.Identity()), tile=24, halo=4)
    case = case.but(seams=seams, area={"y": (0, 250)})
    for _ in run(case, None, meter=meter):
        assert not meters or len(meters[-1].halves(())) <= 3 * case.plan.grid.shape[1]
    assert meters[-1].overlaps > 10
    assert not meters[-1].halves(())


@pytest.mark.parametrize("tiles", [2, 3, 5, 6])
def test_any_tile_and_any_border_can_be_chosen(tiles) -> None:
    plan = plan_of((24 + 16 * (tiles - 1),) * 2)
    assert plan.grid.shape == (tiles, tiles)
    drawn = [sampled_tiles(plan, 0.1, seed) for seed in range(300)]
    assert set().union(*drawn) == set(itertools.product(range(tiles), repeat=2))
    for i in range(tiles - 1):  # also between two blocks
        assert any({(i, 0), (i + 1, 0)} <= d for d in drawn)


def test_predictions_that_are_not_finite_are_not_called_seamless() -> None:
    plan = plan_of((60, 60))
    meter = SeamMeter(plan.grid)
    for tile in plan.grid:
        meter.see(tile, np.full((1, *plan.grid.prediction_shape), np.nan, np.float32))
    report = SeamReport.of(meter, plan, load_model(nn.Identity()))
    assert not report.seamless
    assert "not finite" in report.sentence()
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize(("kind", "doubtful"), [("auto", True), ("probabilities", False)])
def test_a_kind_that_later_tiles_contradict_is_doubted(kind, doubtful) -> None:
    plan = plan_of((60, 60))
    meter = SeamMeter(plan.grid, kind=kind)
    for number, tile in enumerate(plan.grid):
        values = 0.5 if number < 3 else 7.0
        meter.see(tile, np.full((1, *plan.grid.prediction_shape), values, np.float32))
    report = SeamReport.of(meter, plan, load_model(nn.Identity()))
    assert report.doubtful is doubtful
    assert ("say which kind" in report.sentence()) is doubtful


def test_a_part_that_was_measured_is_not_called_all() -> None:
    plan = plan_of((200, 200))
    meter = SeamMeter(plan.grid)
    for tile in list(plan.grid)[:6]:
        meter.see(tile, np.ones((1, *plan.grid.prediction_shape), np.float32))
    told = SeamReport.of(meter, plan, load_model(nn.Identity())).sentence()
    assert f"the {meter.overlaps} of {count_overlaps(plan)} overlaps that were measured" in told


def test_blends_are_measured_with_the_overlap_they_are_predicted_with() -> None:
    model = load_model(nn.Conv2d(1, 1, 3, padding=1))
    image = open_image(uneven((100, 100)))
    case = Case.open(image, model, tile=40, blend="linear", seams="none")
    assert case.but(seams="all").plan.grid == case.plan.grid


def test_an_area_measures_the_tiles_the_whole_would() -> None:
    whole = plan_of((200, 300))
    part = plan_of((200, 300), area={"y": (0, 120), "x": (80, 220)})
    numbers = {tile.index for tile in part.grid.touching(part.area)}
    assert sampled_tiles(part, 0.25) == sampled_tiles(whole, 0.25) & numbers


@pytest.mark.parametrize("shape", [(200, 300), (16, 300), (24, 24)])
def test_overlaps_are_counted(shape) -> None:
    plan = plan_of(shape)
    meter = SeamMeter(plan.grid)
    for tile in plan.grid:
        meter.see(tile, np.zeros((1, *plan.grid.prediction_shape), np.float32))
    assert count_overlaps(plan) == meter.overlaps


def test_a_samples_interval_holds_the_whole() -> None:
    """Over many samples, nearly always: mean distance and mismatch of planted steps."""
    plan = plan_of((500, 700), tile=(24, 40), overlap=(4, 24), halo=(2, 4))
    model = load_model(nn.Identity())
    rng = np.random.default_rng(0)
    size = (1, *plan.grid.prediction_shape)
    tiles = {t.index: np.full(size, rng.random(), np.float32) for t in plan.grid}

    def report(indices):
        meter = SeamMeter(plan.grid)
        for tile in plan.grid:
            if tile.index in indices:
                meter.see(tile, tiles[tile.index])
        return SeamReport.of(meter, plan, model)

    whole = report(tiles)
    assert whole.mean_dist_interval is None
    hits = []
    for seed in range(20):
        sample = report(sampled_tiles(plan, 0.2, seed))
        interval, mismatch = sample.mean_dist_interval, sample.mismatch_intervals[0]
        hits.append(interval.low <= whole.measures.mean_dist <= interval.high)
        hits.append(mismatch.low <= whole.measures.soft[0] <= mismatch.high)
        assert interval.high - interval.low < whole.measures.mean_dist
    assert np.mean(hits) > 0.8


def test_cancelling_stops_at_once(batch_norm) -> None:
    work = stopped_after(3)
    with pytest.raises(InterruptedError):
        measure_seams(uneven(), batch_norm, tile=96, accelerate=False, work=work)
    assert len(work.parts["Measuring seams"]) < 6


@pytest.mark.parametrize("tolerance", [float("nan"), -1.0, float("inf")])
def test_a_tolerance_that_is_none_is_refused(batch_norm, tolerance) -> None:
    with pytest.raises(SettingsError, match="standard deviations"):
        measure_seams(uneven((64, 64)), batch_norm, tolerance=tolerance)
