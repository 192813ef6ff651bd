"""Text, Dice and bootstrap: numbers against numbers found in another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seamscope.bootstrap import bootstrap, medians
from seamscope.dice import dice, probabilities, ratio, sigmoid
from seamscope.text import bytes_text, duration_text, figure_text, halo_text, percent_text

RNG = np.random.default_rng(3)


# ------------------------------------------------------------------------------------------- text


@given(st.floats(0, 1e14))
def test_bytes_are_within_a_thousandth_of_what_is_meant(count):
    number, unit = bytes_text(count).split()
    factor = 1000.0 ** ["bytes", "kB", "MB", "GB", "TB"].index(unit)
    assert float(number) < 1000 or unit == "TB"
    assert float(number) * factor == pytest.approx(count, rel=0.006, abs=0.5)


@given(st.floats(1e-300, 1e300) | st.floats(-1e300, -1e-300))
def test_figures_keep_three_digits(value):
    assert float(figure_text(value)) == pytest.approx(value, rel=0.005)


@given(st.floats(0, 1))
def test_only_all_is_a_hundred_percent(share):
    text = percent_text(share)
    assert (text == "100%") == (share == 1)
    if not text.startswith(">"):
        assert float(text.removesuffix("%")) == pytest.approx(100 * share, rel=0.06, abs=1e-9)


@pytest.mark.parametrize(
    ("sides", "text"),
    [
        ([(0, 0)], "0"),
        ([(44, 46)], "44 before, 46 after"),
        ([(4, 4), (46, 46), (46, 46)], "4 x 46 x 46"),
        ([(4, 4), (44, 46), (46, 46)], "z: 4; y: 44 before, 46 after; x: 46"),
    ],
)
def test_halo_names_its_sides_where_they_differ(sides, text):
    assert halo_text(sides) == text


@given(st.floats(0, 1e6))
def test_durations_are_within_half_a_percent_or_a_second(seconds):
    number, unit = duration_text(seconds).split()
    total = 0.0
    for part in number.split(":"):
        total = 60 * total + float(part)
    assert unit == {1: "s", 2: "min", 3: "h"}[number.count(":") + 1]
    assert total == pytest.approx(seconds, abs=0.051 if seconds < 9.9 else 0.51)


# ------------------------------------------------------------------------------------------- dice


def test_dice_counts_pixels():
    one, two = RNG.random((2, 40, 40)) > 0.6
    pixels = [{*zip(*np.nonzero(each), strict=True)} for each in (one, two)]
    expected = 2 * len(pixels[0] & pixels[1]) / (len(pixels[0]) + len(pixels[1]))
    assert dice((one & two).sum(), one.sum() + two.sum()) == pytest.approx(expected)


def test_mismatch_of_probabilities_is_one_minus_dice():
    p, q = RNG.random((2, 500))
    squares = (p * p + q * q).sum()
    assert ratio(((p - q) ** 2).sum(), squares) == pytest.approx(1 - dice((p * q).sum(), squares))


def test_absent_classes_have_the_value_that_is_chosen():
    assert np.isnan(dice(np.zeros(1), np.zeros(1))).all()
    assert dice(np.zeros(1), np.zeros(1), absent=1.0) == 1
    assert np.isnan(ratio(np.ones(1), np.ones(1), least=1.0)).all()


def test_probabilities_are_torchs():
    logits = RNG.normal(0, 20, (4, 3, 50))
    expected = torch.from_numpy(logits).softmax(1).numpy()
    np.testing.assert_allclose(probabilities(logits, axis=1), expected, rtol=1e-12)
    single = torch.from_numpy(logits[:, :1]).sigmoid().numpy()
    np.testing.assert_allclose(probabilities(logits[:, :1], axis=1), single, rtol=1e-12)
    assert sigmoid(np.array([-1e6, 1e6], np.float32)).tolist() == pytest.approx([0, 1])


# -------------------------------------------------------------------------------------- bootstrap


def test_band_of_a_mean_has_the_known_width():
    blocks = np.random.default_rng(0).normal(3, 2, size=(900, 2))
    low, high = bootstrap(900, lambda times: times @ blocks / 900, seed=1)
    expected = 2 * 1.96 * blocks.std(0) / 30
    np.testing.assert_allclose(high - low, expected, rtol=0.08)


def test_band_covers_the_value_as_often_as_it_says():
    """A Dice of sums, over many images of independent blocks whose expected Dice is known."""
    rng = np.random.default_rng(7)
    inside = 0
    for trial in range(400):
        right = rng.gamma(4.0, 1.0, size=64)
        wrong = rng.gamma(2.0, 1.0, size=64)  # each counts once in either

        def of_sums(times, right=right, wrong=wrong):
            return dice(times @ right, 2 * (times @ (right + wrong)))

        low, high = bootstrap(64, of_sums, seed=trial, resamples=200)
        inside += low <= 4 / (4 + 2) <= high
    # 95% are meant; the percentile bootstrap of 64 blocks is known to fall one or two short
    assert 0.90 <= inside / 400 <= 0.98


def test_band_is_the_same_for_the_same_seed():
    blocks = np.random.default_rng(0).random((64, 3))
    one, two, other = (bootstrap(64, lambda times: times @ blocks, seed=s)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 0


def test_a_single_block_has_no_band():
    low, high = bootstrap(1, lambda times: times @ np.ones((1, 2)))
    assert np.isnan([*low, *high]).all()


def test_what_no_drawn_image_has_is_unknown():
    low, high = bootstrap(5, lambda times: np.stack([times[:, 0], np.nan * times[:, 0]], -1))
    assert np.isfinite([low[0], high[0]]).all()
    assert np.isnan([low[1], high[1]]).all()


def test_medians_of_draws_are_those_of_repeated_values():
    for _ in range(200):
        values = RNG.normal(size=RNG.integers(1, 9)).round(1)
        values[RNG.random(values.size) < 0.2] = np.nan
        times = RNG.integers(0, 3, size=(5, values.size))
        for found, each in zip(medians(values, times), times, strict=True):
            drawn = np.repeat(values, each)
            drawn = drawn[np.isfinite(drawn)]
            np.testing.assert_array_equal(found, np.median(drawn) if drawn.size else np.nan)
