"""What is written as JSON is read back as the same value: settings and plans."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import seamscope
from seamscope.errors import SettingsError
from seamscope.images.preparation import ByInput, Clipped, Measured, Preparation, Scaled
from seamscope.planning.plan import Plan
from seamscope.serialization import plain, restore
from seamscope.settings import WORDS, Blend, Settings
from seamscope.tiling import Lattice

sizes = st.integers(1, 4096)
sides = st.integers(0, 256) | st.tuples(st.integers(0, 256), st.integers(0, 256))
ranges = st.tuples(st.integers(0, 99), st.integers(100, 200))
any_settings = st.builds(
    Settings,
    tile=st.just("auto") | sizes | st.lists(sizes, min_size=1, max_size=3),
    halo=st.just("auto") | st.integers(0, 99) | st.lists(sides, min_size=1, max_size=3),
    overlap=st.none() | sizes | st.lists(sizes, min_size=1, max_size=3),
    blend=st.sampled_from(get_args(Blend)),
    batch=sizes,
    device=st.sampled_from(["auto", "cpu", "cuda:1"]),
    normalize=st.sampled_from(WORDS["normalize"].choices),
    percentiles=st.tuples(st.floats(0, 49), st.floats(50, 100)),
    threshold=st.floats(-1e6, 1e6),
    area=st.none() | st.dictionaries(st.sampled_from("tczyx"), ranges),
    padding=st.sampled_from(WORDS["padding"].choices),
    channel=st.none() | st.integers(0, 9),
    fill_nan=st.none() | st.floats(-1e6, 1e6),
    accelerate=st.booleans(),
    memory=st.none() | st.integers(1, 1 << 40),
    seams=st.sampled_from(WORDS["seams"].choices),
)


@given(any_settings)
def test_settings_come_back(settings) -> None:
    written = json.loads(json.dumps(settings.to_json(), allow_nan=False))
    assert Settings.from_json(written) == settings


@pytest.mark.parametrize(
    "asked",
    [
        {"tile": 112},
        {"tile": (48, 40), "halo": ((3, 5), 6), "blend": "gaussian", "batch": 2},
        {"area": {"y": (3, 60)}, "normalize": "zscore", "seams": "all"},
    ],
)
@pytest.mark.parametrize("name", ["demo:batchnorm", "demo:instancenorm"])
def test_plans_come_back(name, asked) -> None:
    image = seamscope.open_image(np.zeros((100, 90), np.uint8))
    plan = seamscope.resolve(image, seamscope.load_model(name), Settings(**asked))
    written = json.loads(json.dumps(plan.to_json(), allow_nan=False))
    assert Plan.from_json(written) == plan
    assert Settings.from_json(written) == plan.settings
    assert Settings.from_json({"plan": written, "model": {}}) == plan.settings


def test_a_plan_of_a_card_comes_back() -> None:
    steps = (Clipped(None, 5.0), Scaled((2.0,), (1.0,)), Measured("zscore", together=True))
    several = Preparation((ByInput(((1, Preparation(steps)), (2, Preparation(())))),))
    assert restore(Preparation, json.loads(json.dumps(plain(several)))) == several
    model = seamscope.load_model(torch.nn.Conv2d(1, 2, 3, padding=1))
    model.preparation = Preparation(steps)
    plan = seamscope.resolve(seamscope.open_image(np.zeros((40, 40), np.uint8)), model, Settings())
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_settings_of_a_result(tmp_path) -> None:
    out = tmp_path / "out.npy"
    seamscope.predict(np.zeros((40, 40), np.float32), torch.nn.Identity(), out, tile=16, halo=2)
    settings = Settings.load(f"{out}.json")
    assert settings.tile == (16, 16)
    assert settings.halo == ((2, 2), (2, 2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tile": "large"}, "Settings.tile is 'large'"),
        ({"batch": True}, "Settings.batch is True, and must be of type int"),
        ({"halo": [[1, 2, 3]]}, "Settings.halo"),
        ({"blend": "none"}, "Settings.blend is 'none', and must be one of 'crop'"),
        ({"colour": "red"}, "no field 'colour'; its fields are tile, halo"),
        ({"percentiles": [1, "x"]}, "Settings.percentiles[1] is 'x', and must be a number"),
    ],
)
def test_what_does_not_fit_is_named(change, words) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_json({**Settings().to_json(), **change})
    assert words in str(caught.value)


def test_a_file_without_settings(tmp_path) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(SettingsError, match=r"Cannot read settings from .*a\.json"):
        Settings.load(file)
    file.write_text("[1]", encoding="utf8")
    with pytest.raises(SettingsError, match="holds no settings"):
        Settings.load(file)


def test_numbers_of_numpy_and_what_is_no_number() -> None:
    value = {"a": np.array([[1.0, np.nan]]), "b": np.int64(3), "c": math.inf, "d": {2, 1}}
    assert plain(value) == {"a": [[1.0, None]], "b": 3, "c": None, "d": [1, 2]}
    lattice = Lattice(crop=(1, 2), scale=Fraction(3, 2))
    assert plain(lattice)["scale"] == "3/2"
    assert restore(Lattice, plain(lattice)) == lattice
