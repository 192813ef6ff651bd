"""The fastest way to run a network is chosen once, and known to later commands."""

from __future__ import annotations

import numpy as np
import pytest

import networks
from seamscope.models.model import as_model
from seamscope.models.speed import acceleration
from seamscope.planning import tuning
from seamscope.planning.case import Case
from seamscope.planning.reading import TileReader
from seamscope.prediction.run import predict


@pytest.fixture
def races(monkeypatch):
    """Count the trials; even a small run is worth one."""
    made = []
    race = acceleration._race

    def counted(*args):
        made.append(args[0].keys())
        return race(*args)

    known: dict[int, int] = {}

    def seconds(run, *case):  # the first, which is plain, takes twice as long as the others
        run(*case)
        return 2.0 if known.setdefault(id(run), len(known)) == 0 else 1.0

    monkeypatch.setattr(acceleration, "_race", counted)
    monkeypatch.setattr(acceleration, "_seconds", seconds)
    monkeypatch.setattr(tuning, "_TRIAL_PIXELS", {2: 64})
    return made


IMAGE = np.random.default_rng(0).random((96, 96), np.float32)


def _run(network, **settings):
    return predict(IMAGE, as_model(network), tile=64, device="cpu", **settings)


def test_the_second_command_starts_without_a_trial(races) -> None:
    network = networks.UNet(2, 2).eval()
    first = _run(network)
    assert len(races) == 1
    again = _run(network)  # another model of the same network: another command
    assert len(races) == 1
    assert np.abs(first - again).max() < 1e-4 * first.std()
    _run(networks.UNet(2, 1).eval())
    assert len(races) == 2  # another network is tried again


@pytest.mark.parametrize(("second", "trials"), [(1.2, 1), (1.3, 2)])
def test_a_disturbed_trial_is_made_again_by_the_next_command(
    races, monkeypatch, second, trials
) -> None:
    network = networks.UNet(2, 2, features=5).eval()
    race = acceleration._race

    def disturbed(*case):
        return {name: [1.0, second, 9.0] for name in race(*case)}

    monkeypatch.setattr(acceleration, "_race", disturbed)
    _run(network)
    _run(network)
    assert len(races) == trials


def test_a_known_way_is_used_only_where_it_pays(races, monkeypatch) -> None:
    network = networks.UNet(2, 2, features=3).eval()
    _run(network)
    case = Case.open(IMAGE, as_model(network), tile=64, device="cpu")
    case.model.measure()
    kept = {"name": "fused", "plain": 2.0, "chosen": 1.0}
    # by hand: saved is a second a pixel, checking takes (2 + 2 x 1) s for each of 16 x 16
    monkeypatch.setattr(tuning, "_CHECKED_PIXELS", {2: 256})
    saved = len(case.plan.grid) * 64 * 64
    for building, known in ((saved - 1025, "fused"), (saved - 1024, "plain")):
        value = kept | {"building": building}
        monkeypatch.setattr(tuning.Cache, "get", lambda self, key, value=value: value)
        assert tuning.known_way(case.plan, case.model) == known
    slow = Case.open(IMAGE, case.model, tile=64, device="cpu", accelerate=False)
    assert tuning.known_way(slow.plan, case.model) is None


def test_few_tiles_run_in_the_way_that_is_found_or_named(races, monkeypatch) -> None:
    """Without a trial: after a long run in one process, and where a short one is resumed."""
    network = networks.UNet(2, 2, features=4).eval()

    def way(model, only=None, **settings):
        case = Case.open(IMAGE, model, tile=64, device="cpu", **settings)
        runner = model.runner("cpu", case.plan.settings.precision)
        reader = TileReader(case.plan, case.image, case.intensity())
        return tuning.accelerate(case.plan, model, runner, reader, only)

    model = as_model(network)
    found = way(model, "fused")
    assert found == "fused"
    monkeypatch.setattr(tuning, "worth_a_trial", lambda plan: False)
    assert way(model) == "fused"
    assert way(model, accelerate=False) == way(model, precision="bfloat16") == "plain"
    monkeypatch.setattr(tuning, "known_way", lambda plan, model: None)
    assert way(as_model(network)) == "plain"
    assert way(as_model(network), "fused") == "fused"
    assert races == []
