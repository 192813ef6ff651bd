"""The table of the README about statistics: that it is made, and that its figures are right."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch

from places import ROOT
from seamscope.demo import build, zscore
from seamscope.demo.tissue import tissue

FILE = ROOT / "benchmarks" / "frozen_statistics.py"


@pytest.fixture(scope="module")
def benchmark():
    if not FILE.exists():
        pytest.skip("benchmarks are not part of the source distribution")
    spec = importlib.util.spec_from_file_location("frozen_statistics", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def quick(benchmark, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as output:
        patch.setattr(benchmark, "REAL", tmp_path_factory.mktemp("real") / "absent")
        printed: list[str] = []
        output.setattr("builtins.print", lambda *text, **_: printed.extend(map(str, text)))
        return benchmark.main(["--quick"]), "\n".join(printed)


def _untiled(name):
    """Mean Dice of the whole image run at once, computed here."""
    image, truth = tissue((192, 192), 20_010)
    with torch.inference_mode():
        found = build(name)(torch.from_numpy(zscore(image))[None, None])[0].argmax(0).numpy()
    pairs = [(found == k, truth == k) for k in range(4)]
    return np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs])


def test_ways_that_do_not_depend_on_tiles_are_the_whole_image(quick) -> None:
    ((_, table),) = quick[0].items()
    assert table["exact"].dice == pytest.approx([_untiled("instancenorm")], abs=1e-4)
    assert table["BatchNorm twin"].dice == pytest.approx([_untiled("batchnorm")], abs=1e-4)


def test_only_each_tiles_own_statistics_leave_a_mismatch(quick) -> None:
    ((_, table),) = quick[0].items()
    for name, scores in table.items():
        assert (scores.mismatch[0] > 5e-3) == name.startswith("own"), name
        assert name.startswith("own") or scores.mismatch[0] < 1e-6
    assert len({tuple(scores.dice) for scores in table.values()}) == len(table)


def test_what_is_left_out_is_said_and_the_others_are_in_the_table(quick) -> None:
    (tables, printed) = quick
    assert list(tables) == ["demo:instancenorm"]
    assert "The real network is left out" in printed
    for name in ("own, tile 96", "exact", "local, cells of 64", "sampled, 4 tiles"):
        assert f"\n{name} " in printed


def test_against_the_references_each_image_counts_by_itself(benchmark) -> None:
    ways = benchmark.Ways((64, 96), (96,), (), 1)
    table = {
        "own, tile 64": benchmark.Scores([0.5, 0.9, 0.7], [0.6, 0.9, 0.9], [0.1, 0.2, 0.3]),
        "own, tile 96": benchmark.Scores([0.6, 0.7, 0.7], [0.6, 0.9, 0.9], [0.1, 0.2, 0.3]),
    }
    first = list(benchmark.lines(table, ways, thresholds=True))[1]
    told = " ".join(first.split())
    assert told == "own, tile 64 0.700 0.500 0.900 0.800 0.2 +0.033 (1 of 3)"


def test_scores_of_several_networks_are_put_together(benchmark) -> None:
    one = {"exact": benchmark.Scores([1], [2], [3]), "twin": benchmark.Scores([0], [0], [0])}
    other = {"exact": benchmark.Scores([4], [5], [6])}
    assert benchmark.together([one, other]) == {"exact": benchmark.Scores([1, 4], [2, 5], [3, 6])}


def test_foreground_is_scored_at_the_threshold_given_and_at_the_best(benchmark) -> None:
    truth = np.zeros((20, 20), bool)
    truth[:10] = True
    prediction = (np.where(truth, 3.0, 1.0) + np.linspace(0, 1, 20))[None].astype(np.float32)
    assert benchmark._foreground(0.5)(prediction, truth) == (pytest.approx(2 / 3), 1.0)


def test_the_real_network_is_scored_where_it_is(
    benchmark, real_models, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(benchmark, "REAL", real_models.parent)
    table = benchmark._real(benchmark.Ways((96,), (96,), (32,), 4), quick=True)
    assert "unet2d_covid_if_instancenorm" in capsys.readouterr().out
    assert list(table) == ["own, tile 96", "exact", "local, cells of 32", "sampled, 4 tiles"]
    for scores in table.values():
        assert 0.6 < scores.dice[0] <= scores.best[0] < 0.9
    assert table["own, tile 96"].best[0] == table["own, tile 96"].dice[0]  # chosen there


def test_statistics_from_two_places_are_worse_than_either(quick) -> None:
    told = quick[1].partition("A window's pixels that are right")[2].splitlines()[1:]
    own, other, *mixtures = (
        float(line.split()[-1]) for line in told if "its own" in line or "another" in line
    )
    assert min(own, other) > 0.95
    assert max(mixtures) < 0.6
