"""The figure of the README as an example: that it is made, and that its curves are right."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from places import ROOT
from seamscope.demo import build, zscore
from seamscope.demo.tissue import tissue

FILE = ROOT / "examples" / "tile_statistics.py"
LARGEST_PICTURE = 150_000  # bytes, of what every installation carries


@pytest.fixture(scope="module")
def example():
    if not FILE.exists():
        pytest.skip("examples are not part of the source distribution")
    spec = importlib.util.spec_from_file_location("tile_statistics", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def quick(example, tmp_path_factory):
    picture = tmp_path_factory.mktemp("figure") / "figure.png"
    return example.main(["--quick", "--out", str(picture)]), picture


def test_fixed_statistics_make_tiles_agree_at_every_size(example, quick) -> None:
    outcome, _ = quick
    alone, fixed = (outcome.mismatch[name] for name in (example.INSTANCE, example.FIXED))
    assert (alone > 20 * fixed).all()
    assert outcome.at_reach[example.FIXED].max() < 1e-9
    assert outcome.at_reach[example.BATCH].max() < 1e-9
    assert outcome.at_reach[example.INSTANCE].min() > 1e-2


@pytest.mark.parametrize(
    ("name", "network"), [("BATCH", "batchnorm"), ("INSTANCE", "instancenorm")]
)
def test_dice_of_the_untiled_prediction(example, quick, name, network) -> None:
    """Counted here from the plain network's own classes."""
    image, truth = tissue((192, 192), example.FIRST_SEED)
    with torch.inference_mode():
        found = build(network)(torch.from_numpy(zscore(image))[None, None])[0].argmax(0).numpy()
    each = [
        2 * ((found == k) & (truth == k)).sum() / ((found == k).sum() + (truth == k).sum())
        for k in np.unique(truth)
    ]
    assert quick[0].dice[getattr(example, name)][0, -1] == pytest.approx(np.mean(each), abs=1e-3)


def test_fixed_statistics_are_those_of_the_untiled_run(example, quick) -> None:
    dice = quick[0].dice
    assert dice[example.FIXED][0, -1] == pytest.approx(dice[example.INSTANCE][0, -1], abs=1e-5)


def test_disparity_is_that_of_a_network_set_to_training(example) -> None:
    """An image of one tile, so that the batch is the image."""
    image, _ = tissue((64, 64), example.FIRST_SEED)
    x = torch.from_numpy(zscore(image))[None, None]
    module = build("batchnorm")
    with torch.no_grad():
        evaluated, trained = module(x)[0], module.train()(x)[0]
    products, squares = (evaluated * trained).sum((1, 2)), (evaluated**2 + trained**2).sum((1, 2))
    (found,) = example._disparity(image, [64])
    assert found == pytest.approx((1 - 2 * products / squares).tolist(), abs=1e-5)


def test_the_shown_place_lies_inside_the_image(example) -> None:
    class Swept:
        class pictures:  # noqa: N801
            image = np.zeros((64, 64))
            corner = (0, 190)

    assert example._corner(Swept, (256, 256), 128) == (0, 128)
    Swept.pictures.corner = (100, 96)
    assert example._corner(Swept, (256, 256), 128) == (68, 64)


def test_picture_is_written(quick) -> None:
    assert quick[1].read_bytes().startswith(b"\x89PNG")


def test_picture_of_the_readme_is_small() -> None:
    picture: Path = ROOT / "src" / "seamscope" / "resources" / "tile_statistics.png"
    assert 10_000 < picture.stat().st_size < LARGEST_PICTURE
    assert "(resources/tile_statistics.png)" in (ROOT / "README.md").read_text(encoding="utf8")
