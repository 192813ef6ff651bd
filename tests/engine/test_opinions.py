"""Kept predictions answer as the network itself would."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import networks
from seamscope.errors import OutputError, SettingsError
from seamscope.images import scratch
from seamscope.images.image import open_image
from seamscope.models.formats import load_model
from seamscope.planning.case import Case
from seamscope.planning.plan import resolve
from seamscope.prediction.run import run
from seamscope.seams.opinions import Opinions
from seamscope.settings import Settings


def watched(network, image, opinions=None, **settings):
    model = load_model(network)
    opened = open_image(image)
    plan = resolve(opened, model, Settings(accelerate=False, **settings))
    kept = opinions or Opinions()
    for _ in run(Case.planned(opened, model, plan), None, watchers=[kept.watch]):
        pass
    return plan, model, kept


def noisy(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


torch.manual_seed(1)  # the same weights whatever was imported before

CASES = {
    "2d": (networks.UNet(2, 1, norm="instance"), (150, 170), {"tile": 64, "overlap": 40}),
    "uneven halo": (
        networks.UNet(2, 1, norm="instance"),
        (150, 170),
        {"tile": 64, "halo": [(4, 12), (10, 6)], "overlap": 24},
    ),
    "area": (
        networks.UNet(2, 1, norm="instance"),
        (150, 170),
        {"tile": 64, "overlap": 40, "halo": 8, "area": {"y": (30, 110), "x": (7, 150)}},
    ),
    "3d": (networks.UNet(3, 1, norm="instance"), (36, 40, 44), {"tile": 24, "halo": 4}),
    "valid": (
        nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.Conv2d(4, 2, 5)),
        (90, 100),
        {"tile": 48, "halo": 3, "overlap": 12},
    ),
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    network, shape, settings = CASES[request.param]
    torch.manual_seed(0)
    settings = {"halo": 8, **settings}
    image = noisy(shape) * np.linspace(0.3, 2, shape[-1], dtype=np.float32)
    return image, *watched(network.eval(), image, **settings)


def again(image, plan, model, tile):
    """The network asked anew for one tile, read and padded by hand."""
    padded = np.pad(image, tile.pad, mode="reflect")
    starts = (0 if before else r.start for r, (before, _) in zip(tile.read, tile.pad, strict=True))
    crops = tuple(slice(a, a + n) for a, n in zip(starts, plan.grid.tile_shape, strict=True))
    with torch.no_grad():
        x = torch.from_numpy(np.ascontiguousarray(padded[crops]))[None, None]
        return model.module(x)[0].numpy()


def test_the_sliders_picture_equals_a_rerun_cut_at_that_distance(case) -> None:
    """Each tile predicted anew by the network, pixels dealt out one by one."""
    image, plan, model, kept = case
    predictions = {t.index: again(image, plan, model, t) for t in kept.tiles.values()}
    grid = plan.grid
    stitched = kept.restitch(0)
    for distance in (0, 3, 1, 7, 100):
        stitched.move(distance)
        sides = kept.ray.sides(distance)
        expected = np.full_like(stitched.array, np.nan)
        owners = []
        for axis, size, (_, after) in zip(grid.axes, grid.prediction_shape, sides, strict=True):
            owner = np.zeros(axis.output_size, int)
            for i in range(1, len(axis)):
                end = min(axis[i - 1].origin + size, axis.output_size)
                owner[max(axis[i].origin, end - after) :] = i
            here = [index[len(owners)] for index in kept.tiles]
            owners.append(owner.clip(min(here), max(here)))
        for pixel in itertools.product(*(range(a.start, a.stop) for a in plan.area)):
            index = tuple(int(o[p]) for o, p in zip(owners, pixel, strict=True))
            local = tuple(p - o for p, o in zip(pixel, grid[index].origin, strict=True))
            place = tuple(p - a.start for p, a in zip(pixel, plan.area, strict=True))
            expected[:, *place] = predictions[index][:, *local]
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(stitched.array, expected, atol=1e-6)
        np.testing.assert_array_equal(stitched.array, kept.restitch(distance).array)


def test_every_tile_that_sees_a_pixel_is_asked(case) -> None:
    image, plan, model, kept = case
    predictions = {t.index: again(image, plan, model, t) for t in kept.tiles.values()}
    rng = np.random.default_rng(1)
    several = 0
    for _ in range(30):
        pixel = tuple(int(rng.integers(a.start, a.stop)) for a in plan.area)
        found = kept.at(pixel)
        expected = {
            index: value[:, *(p - o for p, o in zip(pixel, plan.grid[index].origin, strict=True))]
            for index, value in predictions.items()
            if all(
                o <= p < o + n
                for p, o, n in zip(
                    pixel, plan.grid[index].origin, plan.grid.prediction_shape, strict=True
                )
            )
        }
        assert {o.tile for o in found} == set(expected)
        assert found[0].kept
        assert sum(o.kept for o in found) == 1
        for opinion in found:
            np.testing.assert_allclose(opinion.values, expected[opinion.tile], atol=1e-6)
        several += len(found) > 1
    assert several > 3


def test_a_window_shows_one_tile_and_nothing_beside_it(case) -> None:
    kept = case[-1]
    index = max(kept.tiles)
    tile = kept.tiles[index]
    region = tuple(slice(max(0, o - 5), o + 9) for o in tile.origin)
    view = kept.window(index, region)
    inside = tuple(slice(o - r.start, None) for o, r in zip(tile.origin, region, strict=True))
    whole = kept.prediction(index)
    np.testing.assert_array_equal(view[:, *inside], whole[:, *(slice(0, 9),) * len(region)])
    assert np.isnan(view).sum() == view.size - view[:, *inside].size


def test_predictions_that_do_not_fit_memory_go_to_disk(monkeypatch) -> None:
    image = noisy((100, 120))
    network = nn.Conv2d(1, 2, 3, padding=1)
    settings = {"tile": 40, "halo": 4}
    _, _, memory = watched(network, image, Opinions(), **settings)
    monkeypatch.setattr(scratch, "SHARE", 0)
    _, _, disk = watched(network, image, Opinions(), **settings)
    assert isinstance(disk._store, np.memmap)
    assert not isinstance(memory._store, np.memmap)
    np.testing.assert_array_equal(memory.restitch(2).array, disk.restitch(2).array)
    disk.close()
    with pytest.raises(SettingsError, match="run a prediction first"):
        disk.restitch(2)


def test_a_full_disk_is_told(monkeypatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(scratch, "SHARE", 0)
    monkeypatch.setattr(scratch.psutil, "disk_usage", lambda _: Usage)
    with pytest.raises(OutputError, match="choose a smaller region"):
        watched(nn.Conv2d(1, 2, 3, padding=1), noisy((100, 120)), Opinions(), tile=40, halo=4)


def test_another_run_drops_what_was_kept() -> None:
    kept = Opinions()
    network = nn.Conv2d(1, 2, 3, padding=1)
    watched(network, noisy((100, 120)), kept, tile=40, halo=4)
    plan, _, _ = watched(network, noisy((90, 90), 1), kept, tile=32, halo=4)
    assert kept.plan is plan
    assert kept.complete
    assert kept.restitch(4).array.shape == (2, 90, 90)


def test_frames_are_kept_apart() -> None:
    image = noisy((3, 60, 60))
    model = load_model(nn.Conv2d(1, 1, 3, padding=1))
    opened = open_image(image, axes="tyx")
    settings = Settings(tile=32, halo=2, accelerate=False, area={"t": (1, 3)})
    plan = resolve(opened, model, settings)
    kept = Opinions()
    for _ in run(Case.planned(opened, model, plan), None, watchers=[kept.watch]):
        pass
    with torch.no_grad():
        whole = model.module(torch.from_numpy(image)[:, None]).numpy()
    for t in (1, 2):
        np.testing.assert_allclose(kept.restitch(2, (t,)).array, whole[t], atol=1e-5)


def test_two_tiles_side_by_side(case) -> None:
    """Each seam's surroundings, from each of its tiles predicted anew."""
    image, plan, model, kept = case
    opened = open_image(image)
    *_, finished = run(
        Case.planned(
            opened, model, dataclasses.replace(plan, settings=plan.settings.but(seams="all"))
        ),
        None,
    )
    report = finished.seams
    for seam in (report.seams[0], report.seams[-1]):
        views = kept.beside(seam, side=30)
        assert seam.axis in views.plane
        for shown, index in ((views.lower, seam.lower), (views.upper, seam.upper)):
            tile = plan.grid[index]
            expected = np.full(
                (shown.shape[0], *(a.output_size for a in plan.grid.axes)), np.nan, np.float32
            )
            prediction = again(image, plan, model, tile)
            place = tuple(
                slice(o, min(o + n, size))
                for o, n, size in zip(
                    tile.origin, prediction.shape[1:], expected.shape[1:], strict=True
                )
            )
            expected[:, *place] = prediction[:, *tile.within(place)]
            region = expected[:, *views.region].reshape(shown.shape)
            np.testing.assert_allclose(shown, region, atol=1e-6)
        at = [w - r.start for w, r in zip(seam.worst, views.region, strict=True)]
        here = tuple(at[a] for a in views.plane)
        assert views.apart[:, *here].max() == pytest.approx(seam.max_dist, abs=1e-6)
        axis, cut = views.seam
        assert views.plane[axis] == seam.axis
        line = plan.grid[seam.lower].core[seam.axis].stop
        assert cut + views.region[seam.axis].start == line
    other = tuple(a for a in range(len(plan.area)) if a != report.seams[0].axis)
    if len(other) == 2:  # where the seam would not be cut, another plane is shown
        assert kept.beside(report.seams[0], plane=other).plane != other


def test_the_worst_pixel_is_pictured_where_it_lies_outside_the_area() -> None:
    """Whole tiles are compared, and reach beyond the area that is predicted."""
    network, shape, settings = CASES["area"]
    torch.manual_seed(0)
    image = noisy(shape) * np.linspace(0.3, 2, shape[-1], dtype=np.float32)
    plan, model, kept = watched(network.eval(), image, **settings)
    settings = plan.settings.but(seams="all")
    case = Case.planned(open_image(image), model, dataclasses.replace(plan, settings=settings))
    *_, finished = run(case, None)
    outside = 0
    for seam in finished.seams.seams:
        outside += any(
            not part.start <= p < part.stop for p, part in zip(seam.worst, plan.area, strict=True)
        )
        views = kept.beside(seam, side=16)
        here = tuple(seam.worst[a] - views.region[a].start for a in views.plane)
        assert views.apart[:, *here].max() == pytest.approx(seam.max_dist, abs=1e-6)
    assert outside


def test_a_picture_turns_to_another_frame() -> None:
    image = noisy((2, 60, 60))
    model = load_model(nn.Conv2d(1, 2, 3, padding=1))
    opened = open_image(image, axes="tyx")
    plan = resolve(opened, model, Settings(tile=32, halo=2, accelerate=False))
    kept = Opinions()
    for _ in run(Case.planned(opened, model, plan), None, watchers=[kept.watch]):
        pass
    picture = kept.restitch(3, (0,))
    array = picture.array
    picture.turn_to((1,))
    assert picture.array is array
    np.testing.assert_array_equal(array, kept.restitch(3, (1,)).array)
