"""Advice on seams, against predictions at every halo."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from seamscope import Settings, freeze_statistics, measure_seams, predict
from seamscope.explain.advice import advise, smallest_tile
from seamscope.images.image import open_image
from seamscope.models.model import as_model
from seamscope.planning.plan import resolve
from seamscope.tiling import Lattice

SIZE, TILE = 96, 48


def convolutions(*widths: int) -> list[nn.Module]:
    return [nn.Conv2d(1, 1, k, padding=k // 2) for k in widths]


class Attention(nn.Module):
    """Every pixel looks at every pixel of its tile."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return y + y.amax((2, 3), keepdim=True)


def pooled(depth: int) -> nn.Module:
    down = [layer for _ in range(depth) for layer in (*convolutions(3), nn.AvgPool2d(2))]
    up = [layer for _ in range(depth) for layer in (nn.Upsample(scale_factor=2), *convolutions(3))]
    return nn.Sequential(*down, *up)


BOUNDED = {
    "pointwise": lambda: nn.Sequential(*convolutions(1, 1)),
    "one": lambda: nn.Sequential(*convolutions(5)),
    "two": lambda: nn.Sequential(*convolutions(3, 7)),
    "deep": lambda: nn.Sequential(*convolutions(3, 3, 3, 3, 3)),
    "pool 2": lambda: pooled(1),
    "pool 4": lambda: pooled(2),
    "dilated": lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=4, dilation=4), nn.GELU()),
    "strided": lambda: nn.Sequential(  # sees farther to one side than to the other
        nn.Conv2d(1, 2, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(2, 1, 3, stride=2, padding=1, output_padding=1),
    ),
    "batch norm": lambda: nn.Sequential(*convolutions(3), nn.BatchNorm2d(1), *convolutions(5)),
}
STATISTICS = {
    "instance norm": lambda: nn.Sequential(
        *convolutions(3), nn.InstanceNorm2d(1), *convolutions(5)
    ),
    "group norm": lambda: nn.Sequential(*convolutions(3), nn.GroupNorm(1, 1), *convolutions(3)),
}


def made(make):
    torch.manual_seed(3)
    return as_model(make().eval())


def uneven() -> np.ndarray:
    noise = np.random.default_rng(5).random((SIZE, SIZE)).astype(np.float32)
    return noise * np.linspace(0.5, 3, SIZE, dtype=np.float32)


def alone(model, image: np.ndarray) -> np.ndarray:
    """The untiled prediction."""
    with torch.inference_mode():
        return model.module(torch.from_numpy(image)[None, None])[0, 0].numpy()


def errors(model, image: np.ndarray, most: int) -> list[float]:
    """Largest difference to the untiled prediction, of tiles cropped by every halo.

    Tiles lie inside the image, on all multiples of the period.
    """
    step = model.facts.period[0]
    whole, apart = alone(model, image), []
    for start in range(step, SIZE - TILE, step):
        part = slice(start, start + TILE), slice(start, start + TILE)
        apart.append(np.abs(alone(model, image[part]) - whole[part]))
    crops = [slice(h, TILE - h) for h in range(most + 1)]
    return [max(float(each[crop, crop].max()) for each in apart) for crop in crops]


@pytest.mark.parametrize("make", BOUNDED.values(), ids=BOUNDED.keys())
def test_the_halo_is_the_smallest_that_is_enough(make) -> None:
    model, image = made(make), uneven()
    by_halo = errors(model, image, 16)
    noise = 2e-6
    enough = next(h for h in range(17) if max(by_halo[h:]) <= noise)
    for present in (0, 1, 3, 9, 15):
        settings = Settings(tile=TILE, halo=present)
        plan = resolve(open_image(image), model, settings)
        report = measure_seams(image, model, tile=TILE, halo=present)
        advice, foreseen = advise(report.plan, report), advise(plan)
        if present >= enough:
            assert advice.step == foreseen.step == "nothing"
            continue
        if report.seamless:  # tiles happen to keep less than they could
            assert advice.step == "nothing"
            advice = foreseen
        assert advice.step == foreseen.step == "halo"
        for each in (advice, foreseen):
            assert each.halo is not None
            widest = max(max(sides) for sides in each.halo)
            assert widest == enough
            assert re.fullmatch(rf"Set margin .*\b{widest}\b.* and run", each.button)
            assert by_halo[widest] <= by_halo[present]
            assert each.tile == (TILE, TILE)


@pytest.mark.parametrize("make", STATISTICS.values(), ids=STATISTICS.keys())
@pytest.mark.parametrize("present", [0, 2, 8])
def test_where_no_halo_is_enough_statistics_are_fixed(make, present: int) -> None:
    model, image = made(make), uneven()
    assert min(errors(model, image, 12)) > 1e-4
    report = measure_seams(image, model, tile=TILE, halo=present)
    advice = advise(report.plan, report)
    assert advice.step == "statistics"
    assert "use" in advice.why
    assert advice.halo is not None
    assert min(min(sides) for sides in advice.halo) >= present
    fixed = model.with_statistics(freeze_statistics(image, model))
    tiled = np.asarray(predict(image, fixed, tile=TILE, halo=advice.halo))
    np.testing.assert_allclose(tiled, alone(model, image), atol=1e-4)
    after = measure_seams(image, fixed, tile=TILE, halo=advice.halo)
    assert advise(after.plan, after).step == "nothing"


def test_what_sees_the_whole_tile_is_blended_once() -> None:
    model, image = made(Attention), uneven()
    assert min(errors(model, image, 12)) > 1e-3
    report = measure_seams(image, model, tile=TILE, halo=4)
    assert advise(report.plan, report).step == "blend"
    blended = resolve(open_image(image), model, Settings(tile=TILE, halo=4, blend="linear"))
    assert advise(blended).step == "nothing"
    assert "blended already" in advise(blended).why


def test_one_tile_has_no_seams() -> None:
    model = made(STATISTICS["instance norm"])
    plan = resolve(open_image(uneven()), model, Settings(tile=SIZE))
    assert advise(plan).step == "nothing"


def test_a_tile_without_room_is_doubled() -> None:
    model = made(lambda: nn.Sequential(*convolutions(21, 11)))
    image = uneven()
    report = measure_seams(image, model, tile=32, halo=0)
    advice = advise(report.plan, report)
    assert advice.halo == ((15, 15), (15, 15))
    assert advice.tile == (64, 64)
    assert advice.button == "Set margin 15, tile 64 and run"
    chosen = predict(image, model, tile=advice.tile, halo=advice.halo)
    np.testing.assert_allclose(np.asarray(chosen), alone(model, image), atol=1e-5)


def test_a_tile_of_which_little_would_be_kept_is_doubled() -> None:
    model = made(lambda: nn.Sequential(*convolutions(21, 11)))
    image = open_image(np.zeros((240, 240), np.float32))

    def tiles(tile) -> int:
        return resolve(image, model, Settings(tile=tile, halo=15, overlap=30)).tiles

    plan = resolve(image, model, Settings(tile=40, halo=4))
    advice = advise(plan)
    assert (advice.tile, advice.button) == ((80, 80), "Set margin 15, tile 80 and run")
    assert (tiles(40), tiles(80)) == (21 * 21, 5 * 5)
    assert f"{21 * 21 * 40**2 / 240**2:.2g} times" in advice.why
    assert f"{5 * 5 * 80**2 / 240**2:.2g} times" in advice.why
    assert advise(resolve(image, model, Settings(tile=80, halo=4))).tile == (80, 80)
    automatic = advise(plan, asked=Settings(halo=4))
    assert (automatic.tile, automatic.button) == ("auto", "Set margin 15 and run")
    small = Settings(tile=40, halo=4, memory=plan.bytes_per_tile)
    assert advise(resolve(image, model, small)).tile == "auto"


def test_the_smallest_tile_with_room() -> None:
    lattice = Lattice(period=8, step=8)
    settings = Settings(tile=88)
    wanted = smallest_tile(settings, (lattice, lattice), ((46, 46), (46, 46)))
    assert wanted is not None
    for size in range(88, 160, 8):  # each size that is a multiple of the period
        assert (size - 2 * 48 >= 8) == (size >= wanted[0])
    assert smallest_tile(settings.but(tile=wanted), (lattice,) * 2, ((46, 46),) * 2) is None
    assert smallest_tile(settings.but(tile="auto"), (lattice,) * 2, ((46, 46),) * 2) is None
