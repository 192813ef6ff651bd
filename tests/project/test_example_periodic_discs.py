"""The paper's experiment as an example: what it counts, and that it runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).resolve().parents[2] / "examples" / "periodic_discs.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("periodic_discs", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_quick_mode_runs_and_windows_on_the_grid_equal_the_untiled_run(
    example, tmp_path, capsys
) -> None:
    picture = tmp_path / "discs.png"
    outcomes = example.main(["--quick", "--out", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")
    apart = {(o.training, o.window): o.apart for o in outcomes}
    spread = outcomes[1].embedding.std()
    assert apart[21, 24] < 1e-4 * spread
    assert apart[21, 20] > 1e-3 * spread
    told = capsys.readouterr().out
    assert "period 8" in told
    assert "Output window 20 along y and x is no multiple of the period" in told
    assert "use 16 or 24" in told
    assert "Training window 8 along y and x is not larger than the period" in told


def test_splits_are_counted(example) -> None:
    """Two discs; one in three pieces, one whole though its embedding drifts from end to end."""
    number = torch.tensor([[1] * 9 + [0] + [2] * 7])
    embedding = torch.zeros(3, 1, 17)
    embedding[0, 0, 3:6], embedding[0, 0, 6:9], embedding[0, 0, 9] = 3.0, 6.0, 99.0
    embedding[0, 0, 10:] = 0.9 * torch.arange(7)
    assert example.false_splits(embedding, number) == 2
    embedding[0, 0, 14:] = 9.0
    assert example.false_splits(embedding, number) == 3


def test_discs_have_no_common_period_with_the_network(example) -> None:
    image, number = example.discs(70)
    spacing, period = example.SPACING, example.PERIOD
    assert torch.equal(image[..., spacing:], image[..., :-spacing])
    assert all(spacing * n % period for n in range(1, period))
    counts = number.unique(return_counts=True)[1][1:]
    assert set(counts.tolist()) == {21}
    assert len(counts) == 100


def test_the_loss_is_zero_for_discs_apart_and_large_for_equal_ones(example) -> None:
    _, number = example.discs(28)
    apart = torch.zeros(3, 28, 28)
    apart[0] = number.float() * 5
    assert example.discriminative_loss(apart, number) == 0
    # equal means are 2 apart in want of nothing: the push term is (2 * PUSH)^2
    same = example.discriminative_loss(torch.zeros(3, 28, 28), number)
    assert same == pytest.approx((2 * example.PUSH) ** 2)
