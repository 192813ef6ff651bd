"""Pictures of disagreement show it where it is, as large as it is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import networks
from seamscope import measure_seams
from seamscope.images.image import open_image
from seamscope.models.formats import load_model
from seamscope.planning.case import Case
from seamscope.planning.plan import resolve
from seamscope.seams.heatmaps import HeatmapFile, PixelMaps, SeamPicture, pyramid, tile_values
from seamscope.seams.meter import SeamMeter
from seamscope.seams.opinions import Opinions
from seamscope.seams.report import SeamReport
from seamscope.settings import Settings

CASES = {
    "2d": ((140, 170), {"tile": 64, "halo": 8, "overlap": 30}),
    "area": ((140, 170), {"tile": 64, "halo": 8, "overlap": 30, "area": {"y": (20, 110)}}),
    "3d": ((36, 40, 44), {"tile": 24, "halo": 4, "overlap": 12}),
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    shape, settings = CASES[request.param]
    torch.manual_seed(0)
    model = load_model(networks.UNet(len(shape), 1, norm="instance").eval())
    rng = np.random.default_rng(0)
    image = rng.normal(size=shape).astype(np.float32) * np.linspace(0.3, 2, shape[-1], dtype="f4")
    opened = open_image(image)
    plan = resolve(opened, model, Settings(accelerate=False, **settings))
    maps, kept = PixelMaps(plan), Opinions()
    report = measure_seams(
        opened, model, accelerate=False, watchers=[kept.watch], tell=maps.tell, **settings
    )
    return plan, maps, kept, report


def test_pixels_show_the_largest_and_the_mean_distance(case) -> None:
    """Computed again from what every tile says of a pixel, two neighbours at a time."""
    plan, maps, kept, _ = case
    halo = max(max(sides) for sides in plan.grid.halo)
    largest, mean = maps.array
    rng = np.random.default_rng(2)
    seen = 0
    for _ in range(400):
        pixel = tuple(int(rng.integers(a.start, a.stop)) for a in plan.area)
        place = tuple(p - a.start for p, a in zip(pixel, plan.area, strict=True))
        told = {o.tile: o for o in kept.at(pixel) if o.distance is None or o.distance >= halo}
        pairs = [
            np.abs(told[a].values - told[b].values)
            for a, b in itertools.combinations(told, 2)
            if sum(abs(i - j) for i, j in zip(a, b, strict=True)) == 1
        ]
        assert largest[place] == pytest.approx(max((p.max() for p in pairs), default=0), abs=1e-6)
        assert mean[place] == pytest.approx(max((p.mean() for p in pairs), default=0), abs=1e-6)
        seen += bool(pairs)
    assert seen > 20
    within = plan.settings.area is None  # else the largest may lie beyond
    worst = case[3].measures.max_dist
    assert largest.max() == pytest.approx(worst) if within else largest.max() <= worst


def planted(shape=(100, 100), offsets=None, **settings):
    model = load_model(nn.Conv2d(1, 2, 1))
    image = open_image(np.zeros(shape, np.float32))
    plan = resolve(image, model, Settings(tile=40, halo=4, overlap=12, **settings))
    meter = SeamMeter(plan.grid, kind="probabilities")
    for tile in plan.grid:
        values = np.full((2, *plan.grid.prediction_shape), 0.5, np.float32)
        values[0] += (offsets or {}).get(tile.index, 0)
        meter.see(tile, values)
    return plan, model, SeamReport.of(meter, plan, model)


def test_a_band_along_each_seam_has_its_borders_measure() -> None:
    plan, _, report = planted(offsets={(1, 1): 0.25})
    picture = np.asarray(SeamPicture(report, "seams", "max_dist", width=4))
    tile = plan.grid[1, 1]
    top, left = (c.start for c in tile.core)
    bottom, right = (c.stop for c in tile.core)
    middle = (top + bottom) // 2, (left + right) // 2
    for y, x in [(top, middle[1]), (bottom, middle[1]), (middle[0], left), (middle[0], right)]:
        assert picture[y, x] == picture[y - (x == middle[1]), x - (y == middle[0])] == 0.25
    assert picture[middle] == 0
    expected = np.zeros_like(picture)
    for axis, seam in itertools.product((0, 1), (0, 1)):
        at = (tile.core[axis].start, tile.core[axis].stop)[seam]
        band = [tile.core[0], tile.core[1]]
        band[axis] = slice(at - 2, at + 2)
        expected[tuple(band)] = 0.25
    np.testing.assert_array_equal(picture, expected)


def test_a_tile_has_the_mean_of_its_borders() -> None:
    plan, _, report = planted(offsets={(1, 1): 0.25})
    picture = np.asarray(SeamPicture(report, "tiles", "max_dist"))
    for tile in plan.grid:
        seams = [
            0.25 * ((1, 1) in (tile.index, other))
            for axis, step in itertools.product((0, 1), (-1, 1))
            if (other := tuple(i + step * (a == axis) for a, i in enumerate(tile.index)))
            and all(0 <= i < n for i, n in zip(other, plan.grid.shape, strict=True))
        ]
        assert (picture[tile.core] == pytest.approx(np.mean(seams))) or np.allclose(
            picture[tile.core], np.mean(seams)
        )


def test_mismatch_of_one_channel_or_of_the_worst() -> None:
    _, _, report = planted(offsets={(1, 1): 0.25})
    worst = SeamPicture(report, "tiles")
    first, second = (SeamPicture(report, "tiles", channel=c) for c in (0, 1))
    assert np.asarray(worst).max() == np.asarray(first).max() > 0
    assert np.asarray(second).max() == 0
    assert worst.values.max() == np.asarray(worst).max()


def test_parts_of_a_picture_are_parts_of_the_whole(case) -> None:
    report = case[3]
    for of in ("seams", "tiles"):
        picture = SeamPicture(report, of)
        whole = np.asarray(picture)
        assert whole.shape == picture.shape
        assert np.isfinite(whole).all()
        for index in [
            (3,), (slice(5, 20), slice(None, None, 3)), (Ellipsis, 4), (-1, slice(2, 9)),
            (np.int64(7),), slice(10, 30),
        ]:  # fmt: skip
            np.testing.assert_array_equal(picture[index], whole[index])


def test_a_run_that_starts_again_leaves_nothing_of_the_first() -> None:
    plan, _, _ = planted(offsets={})
    smaller, _, _ = planted(offsets={}, shape=(100, 100))
    maps = PixelMaps(plan)
    for run, offset in ((plan, 0.5), (smaller, 0.0)):
        meter = SeamMeter(run.grid, tell=maps.tell)
        for tile in run.grid:
            values = np.full((1, *run.grid.prediction_shape), 0.25, np.float32)
            meter.see(tile, values + offset * (tile.index == (1, 1)))
    assert maps.array.max() == 0


def test_what_was_not_measured_is_no_disagreement() -> None:
    values = np.full((2, 3, 3), np.nan, np.float32)
    assert np.isnan(tile_values(values)).all()
    values[0, 0, 0] = 4
    assert tile_values(values)[0, 0] == tile_values(values)[1, 0] == 4
    assert np.isnan(tile_values(values)[2]).all()


@pytest.mark.parametrize("name", ["maps.ome.zarr", "maps.zarr"])
def test_all_pictures_in_one_file(tmp_path, name) -> None:
    rng = np.random.default_rng(0)
    image = open_image(rng.normal(size=(2, 100, 90)).astype(np.float32), axes="tyx")
    model = load_model(networks.UNet(2, 1, norm="instance").eval())
    asked = Settings(tile=40, halo=4, accelerate=False)
    plan = Case.open(image, model, asked, seams="all").plan
    file = HeatmapFile(plan, image, tmp_path / name)
    report = measure_seams(image, model, plan.settings, tell=file.tell)
    file.finish(report)
    written = open_image(tmp_path / name)
    pixels = written.read((slice(None),) * 4)
    assert pixels.shape == (2, 4, 100, 90)
    assert pixels[:, 0].max() == pytest.approx(report.measures.max_dist)
    np.testing.assert_array_equal(pixels[:, 2], np.asarray(SeamPicture(report, "seams")))
    np.testing.assert_array_equal(pixels[:, 3], np.asarray(SeamPicture(report, "tiles")))
    assert (pixels[:, 1] <= pixels[:, 0]).all()


def test_a_pyramid_shows_the_same_from_afar(case) -> None:
    report = case[3]
    for of in ("seams", "tiles"):
        levels = pyramid(report, of, "max_dist", most=400)
        whole = np.asarray(levels[0])
        assert len(levels) > 1
        assert np.prod(levels[-1].shape[-2:]) <= 400
        for number, level in enumerate(levels):
            step = 2**number
            rows, columns = (
                np.minimum(np.arange(-(-n // step)) * step + step // 2, n - 1)
                for n in whole.shape[-2:]
            )
            assert level.shape == (*whole.shape[:-2], len(rows), len(columns))
            seen = np.asarray(level)
            if of == "tiles":
                np.testing.assert_array_equal(seen, whole[..., rows[:, None], columns])
            assert seen.max() == whole.max()  # no seam is lost
