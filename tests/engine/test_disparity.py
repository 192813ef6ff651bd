"""Training and evaluation are compared without touching the network; tiles against the image."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import networks
import seamscope
from seamscope.demo import build, sample_image, zscore
from seamscope.errors import SettingsError
from seamscope.explain.feature_statistics import (
    batch_experiment,
    features_of_pixel,
    measure_features,
)
from seamscope.explain.train_eval import advice, has_running_statistics, measure_disparity
from seamscope.fixed_statistics.freezing import freeze_statistics
from seamscope.models.model import as_model
from seamscope.normalization.batch_renorm import Warmup, replace_normalization
from seamscope.planning.plan import resolve
from seamscope.planning.reading import jobs_of
from seamscope.settings import Settings
from watching import stopped_after


@pytest.fixture(scope="module")
def tissue():
    return zscore(sample_image("tissue2d")[0])[:256, :288]


def _trained(seed=0):
    """A BatchNorm network that has seen something: running statistics are not 0 and 1."""
    torch.manual_seed(seed)
    network = networks.UNet(2, 2, norm="batch", classes=3)
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(2, 1, 32, 32) * 1.5 + 0.3)
    return nn.Sequential(network, nn.Softmax(1)).eval()


def _by_hand(network, image, tile, batch):
    """Train and eval predictions with `.train()` and `.eval()` on copies, stitched by cores."""
    model = as_model(network)
    settings = Settings(tile=tile, batch=batch, normalize="none", seams="none")
    plan = resolve(seamscope.open_image(image), model, settings)
    jobs = list(jobs_of(plan, None))
    whole = np.zeros((2, 3, *image.shape))
    for k in range(0, len(jobs), batch):
        some = jobs[k : k + batch]
        x = torch.from_numpy(np.stack([image[job.tile.read] for job in some])[:, None])
        for mode in (0, 1):
            twin = copy.deepcopy(network)
            twin.train(mode == 0)
            with torch.no_grad():
                for job, y in zip(some, twin(x).numpy(), strict=True):
                    whole[mode][:, *job.tile.core] = y[:, *job.tile.crop]
    return whole


@pytest.mark.parametrize("batch", [1, 3])
def test_disparity_is_that_of_train_and_eval_on_copies(tissue, batch) -> None:
    network = _trained()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    maps = np.zeros((2, 3, *tissue.shape))

    def see(frame, tile, train, evaluation):
        maps[0][:, *tile.core], maps[1][:, *tile.core] = train, evaluation

    found = measure_disparity(tissue, network, tile=96, batch=batch, normalize="none", see=see)
    train, evaluation = _by_hand(network, tissue, 96, batch)
    np.testing.assert_allclose(maps[0], train, atol=1e-5)
    np.testing.assert_allclose(maps[1], evaluation, atol=1e-5)
    for channel in range(3):
        p, q = train[channel], evaluation[channel]
        expected = 1 - 2 * (p * q).sum() / ((p * p).sum() + (q * q).sum())
        assert found.per_channel[channel] == pytest.approx(expected, abs=1e-6)
        a, b = train.argmax(0) == channel, evaluation.argmax(0) == channel
        expected = 1 - 2 * (a & b).sum() / (a.sum() + b.sum())
        assert found.hard[channel] == pytest.approx(expected, abs=1e-4)
    assert found.worst > 0.01
    assert found.mean_difference == pytest.approx(np.abs(train - evaluation).mean(), rel=1e-4)
    assert found.tiles.shape == (1, *found.plan.grid.shape)
    tile = found.plan.grid[3]
    expected = np.abs(train - evaluation)[:, *tile.core].mean()
    assert found.tiles[0][tile.index] == pytest.approx(expected, rel=1e-4)
    after = network.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert not any(part.training for part in network.modules())


def test_batch_renorm_trains_as_it_predicts(tissue) -> None:
    """Its disparity is that of its own training mode, which is small where BatchNorm's is not."""
    plain = _trained()
    plain[0].last.weight.data *= 10
    for part in plain.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean += 0.3 * part.running_var.sqrt()
    narrow, wide = (
        replace_normalization(plain, r_max=r, d_max=d, warmup=Warmup(0, 0, 0)).eval()
        for r, d in ((1.3, 0.5), (1e6, 1e6))
    )
    train, evaluation = _by_hand(narrow, tissue, 96, 1)
    found = measure_disparity(tissue, narrow, tile=96, normalize="none")
    expected = np.abs(train - evaluation).mean()
    assert found.mean_difference == pytest.approx(expected, rel=1e-3)
    own = measure_disparity(tissue, plain, tile=96, normalize="none")
    assert 0.05 < found.mean_difference < own.mean_difference
    # within its limits it uses what it remembers, in training and in evaluation
    assert measure_disparity(tissue, wide, tile=96, normalize="none").mean_difference < 1e-4


@pytest.mark.filterwarnings("ignore")
def test_disparity_of_torchscript_is_the_same(tissue) -> None:
    network = _trained()
    scripted = torch.jit.trace(network, torch.zeros(1, 1, 32, 32))
    one, other = (
        measure_disparity(tissue, as_model(n), tile=96, normalize="none").per_channel
        for n in (network, scripted)
    )
    assert one == pytest.approx(other, abs=1e-6)


def test_networks_without_running_statistics_have_no_disparity(tissue) -> None:
    network = networks.UNet(2, 1, norm="instance").eval()
    assert measure_disparity(tissue, network) is None
    assert not has_running_statistics(as_model(network).audit)


def test_cancelled(tissue) -> None:
    with pytest.raises(InterruptedError):
        measure_disparity(tissue, _trained(), tile=96, normalize="none", work=stopped_after(0))


# -- features


def _features_by_hand(network, image, tile):
    """Mean and variance of the input of each BatchNorm, by hooks."""
    rows: dict[str, list] = {}
    for name, part in network.named_modules():
        if isinstance(part, (nn.BatchNorm2d, nn.InstanceNorm2d)):
            part.register_forward_pre_hook(
                lambda part, x, name=name: rows.setdefault(name, []).append(
                    (x[0].double().mean((0, 2, 3)), x[0].double().var((0, 2, 3), correction=0))
                )
            )
    model = as_model(network)
    plan = resolve(
        seamscope.open_image(image), model, Settings(tile=tile, normalize="none", seams="none")
    )
    for job in jobs_of(plan, None):
        with torch.no_grad():
            network(torch.from_numpy(image[job.tile.read])[None, None])
    return rows


def test_features_of_tiles_against_running_values(tissue) -> None:
    network = _trained()
    found = measure_features(tissue, network, tile=96, normalize="none", batch=2)
    twin = copy.deepcopy(network)
    as_model(twin).reach  # noqa: B018  (before the hooks listen)
    rows = _features_by_hand(twin, tissue, 96)
    probes = {name: values[-len(found.jobs) :] for name, values in rows.items()}
    assert [one.layer.name for one in found.layers] == list(probes)
    for one in found.layers:
        part = network.get_submodule(one.layer.name)
        mean = torch.stack([m for m, _ in probes[one.layer.name]]).numpy()
        var = torch.stack([v for _, v in probes[one.layer.name]]).numpy()
        np.testing.assert_allclose(one.mean, mean, atol=1e-5)
        np.testing.assert_allclose(one.var, var, rtol=1e-4, atol=1e-6)
        assert one.reference == "running"
        np.testing.assert_allclose(one.reference_mean, part.running_mean.numpy(), rtol=1e-6)
        away = (mean - part.running_mean.numpy()) ** 2 / part.running_var.numpy()
        assert one.deviation == pytest.approx(np.sqrt(away.mean()), rel=1e-4)
    assert found.map().shape == (1, *found.plan.grid.shape)
    assert np.isfinite(found.map()).all()


def test_tiles_deviate_from_the_exact_statistics_of_the_image(tissue) -> None:
    torch.manual_seed(0)
    model = as_model(networks.UNet(2, 2, norm="instance").eval())
    statistics = freeze_statistics(tissue, model, normalize="none")
    small = measure_features(tissue, model, tile=64, normalize="none", statistics=statistics)
    large = measure_features(tissue, model, tile=192, normalize="none", statistics=statistics)
    assert {one.reference for one in small.layers} == {"image"}
    assert small.deviation > 1.5 * large.deviation > 0
    whole = measure_features(tissue, model, tile=288, normalize="none", statistics=statistics)
    assert whole.deviation < 1e-5


def test_few_tiles_are_spread_over_the_image(tissue) -> None:
    found = measure_features(tissue, _trained(), tile=96, normalize="none", most=4)
    assert len(found.jobs) == 4
    assert np.isfinite(found.map()).sum() == 4
    everything = measure_features(tissue, _trained(), tile=96, normalize="none")
    assert found.jobs[0] == everything.jobs[0]
    assert found.jobs[-1] == everything.jobs[-1]


def test_batches_deviate_as_the_luck_of_the_draw(tissue) -> None:
    """Means of n independent tiles deviate by 1 / sqrt(n) of what one does."""
    features = measure_features(tissue, _trained(), tile=64, normalize="none")
    found = batch_experiment(features, sizes=(1, 4, 16), draws=1500)
    rms = np.sqrt((found.deviations**2).mean(1))
    assert rms[1] / rms[0] == pytest.approx(1 / 2, rel=0.05)
    assert rms[2] / rms[0] == pytest.approx(1 / 4, rel=0.05)
    good = [size for size, worst in zip((1, 4, 16), found.worst, strict=True) if worst < 0.1]
    assert found.representative == (good[0] if good else None)
    assert found.to_json()["sizes"] == [1, 4, 16]


def test_one_pixel_through_four_tiles(tissue) -> None:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.ReLU()).eval()
    point = (100, 120)
    seen = features_of_pixel(tissue, first, point, tile=64, normalize="none")
    assert len({one.start for one in seen}) == 4
    with torch.no_grad():
        whole = first[0](torch.from_numpy(tissue)[None, None])[0].numpy()
    expected = whole[:, 96:104, 116:124]
    for one in seen:
        np.testing.assert_allclose(one.before, expected, atol=1e-5)
        y, x = one.start
        tile = whole[:, y : y + 64, x : x + 64].copy()
        with torch.no_grad():  # zero padding at the tile's border belongs to its statistics
            tile = first[0](torch.from_numpy(tissue[y : y + 64, x : x + 64])[None, None])[0].numpy()
        normal = (expected - tile.mean((1, 2))[:, None, None]) / np.sqrt(
            tile.var((1, 2))[:, None, None] + 1e-5
        )
        np.testing.assert_allclose(one.after, normal, atol=1e-4)
    apart = np.abs(seen[0].after - seen[-1].after).max()
    assert apart > 0.05


def test_nothing_to_measure_is_told(tissue) -> None:
    with pytest.raises(SettingsError, match="no normalization layer"):
        measure_features(tissue, networks.UNet(2, 1, norm=None).eval())


# -- advice


def test_advice_follows_from_the_numbers(tissue) -> None:
    forgetful = _trained()
    for part in forgetful.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean += 4 * part.running_var.sqrt()
    forgetful[0].last.weight.data *= 30  # decided classes
    bad = as_model(forgetful)
    disparity = measure_disparity(tissue, bad, tile=96, normalize="none")
    features = measure_features(tissue, bad, tile=96, normalize="none")
    said = " ".join(advice(bad.audit, disparity, features, batch_experiment(features)))
    assert "BatchRenorm" in said
    good = as_model(build("instancenorm"))
    assert "seamscope freeze" in " ".join(advice(good.audit))
    plain = as_model(networks.UNet(2, 1, norm=None).eval())
    assert advice(plain.audit) == (
        "No layer normalizes, and nothing couples the whole tile: a halo is enough.",
    )
