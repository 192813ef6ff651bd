"""Preprocessing of model cards: over the whole image, step after step, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from seamscope.images.image import open_image
from seamscope.images.preparation import Binarized, Clipped, Measured, Preparation, Scaled
from seamscope.models.model import Model
from seamscope.prediction.run import predict

RANDOM = np.random.default_rng(5)
IMAGE = (RANDOM.gamma(2.0, 30.0, (3, 40, 50)) + 70 * np.arange(3).reshape(-1, 1, 1)).astype("f4")
SPACE = (1, 2)


def zscore(x, axis=SPACE, eps=1e-6):
    x = x.astype(np.float64)
    return (x - x.mean(axis, keepdims=True)) / (x.std(axis, keepdims=True) + eps)


def ranged(x, low, high, axis=SPACE, eps=1e-6):
    x = x.astype(np.float64)
    a, b = (np.percentile(x, p, axis=axis, keepdims=True) for p in (low, high))
    return (x - a) / (b - a + eps)


PER_CHANNEL = (np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.0, -5.0]))
CASES = {
    "nothing": ((), lambda x: x),
    "z-score": ((Measured("zscore"),), zscore),
    "all channels": ((Measured("zscore", together=True),), lambda x: zscore(x, None)),
    "large eps": ((Measured("zscore", eps=10.0),), lambda x: zscore(x, eps=10.0)),
    "percentiles": ((Measured("percentile", (5.0, 95.0)),), lambda x: ranged(x, 5, 95)),
    "scaled": (
        (Scaled(*map(tuple, PER_CHANNEL)),),
        lambda x: x * PER_CHANNEL[0].reshape(-1, 1, 1) + PER_CHANNEL[1].reshape(-1, 1, 1),
    ),
    "above": ((Binarized((90.0,)),), lambda x: x > 90),
    # statistics are those of what the earlier steps gave
    "clipped, then z-score": (
        (Clipped(50.0, 150.0), Measured("zscore")),
        lambda x: zscore(np.clip(x, 50, 150)),
    ),
    "scaled apart, then together": (
        (Scaled(*map(tuple, PER_CHANNEL)), Measured("minmax", together=True)),
        lambda x: ranged(
            x * PER_CHANNEL[0].reshape(-1, 1, 1) + PER_CHANNEL[1].reshape(-1, 1, 1), 0, 100, None
        ),
    ),
    "twice": (
        (Measured("percentile", (1.0, 99.0)), Clipped(0.0, 1.0), Measured("zscore")),
        lambda x: zscore(np.clip(ranged(x, 1, 99), 0, 1)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_are_numpys_over_the_whole_image(case) -> None:
    steps, by_numpy = CASES[case]
    prepared = Preparation(steps).measure(open_image(IMAGE, axes="cyx"), channel_axis=0)
    out = np.empty_like(IMAGE)
    prepared.apply(IMAGE, out)
    np.testing.assert_allclose(out, by_numpy(IMAGE), rtol=2e-6, atol=2e-5)
    # and any part of the image alike
    part = np.empty_like(IMAGE[:, 7:20, 30:])
    prepared.apply(IMAGE[:, 7:20, 30:], part)
    np.testing.assert_array_equal(part, out[:, 7:20, 30:])


@pytest.mark.parametrize("case", ["z-score", "twice", "scaled apart, then together"])
def test_axes_may_come_in_any_order(case) -> None:
    steps, _ = CASES[case]
    right = Preparation(steps).measure(open_image(IMAGE, axes="cyx"), channel_axis=0)
    moved = open_image(np.ascontiguousarray(np.moveaxis(IMAGE, 0, 2)), axes="yxc")
    a, b = np.empty_like(IMAGE), np.empty_like(IMAGE)
    right.apply(IMAGE, a)
    Preparation(steps).measure(moved, channel_axis=2).apply(IMAGE, b)
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_a_tiled_run_prepares_by_the_whole_image() -> None:
    steps, by_numpy = CASES["twice"]
    model = Model(nn.Identity().eval(), "identity", preparation=Preparation(steps))
    found = predict(open_image(IMAGE, axes="cyx"), model, tile=16, halo=0, accelerate=False)
    np.testing.assert_allclose(found, by_numpy(IMAGE), rtol=2e-6, atol=2e-5)
    # what is asked for goes before what the card says
    plain = predict(open_image(IMAGE, axes="cyx"), model, tile=16, halo=0, normalize="none")
    np.testing.assert_array_equal(plain, IMAGE)


def test_integers_and_constant_images() -> None:
    image = np.full((1, 9, 9), 7, np.uint16)
    prepared = Preparation((Measured("zscore", eps=1e-3), Clipped(-1.0, 1.0))).measure(
        open_image(image, axes="cyx"), channel_axis=0
    )
    out = np.empty(image.shape, np.float32)
    prepared.apply(image, out)
    assert (out == 0).all()


def test_known_methods_have_their_name() -> None:
    assert Preparation((Measured("zscore"),)).name == "zscore"
    assert Preparation((Measured("minmax"),)).name == "minmax"
    for other in (Measured("zscore", eps=1.0), Measured("zscore", together=True)):
        assert Preparation((other,)).name is None
    assert str(Preparation((Clipped(0.0, 1.0), Measured("zscore")))) == (
        "clipped to [0.0, 1.0], z-score"
    )
