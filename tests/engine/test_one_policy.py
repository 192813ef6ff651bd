"""One policy for every driver: the same settings give the same plan in Python, CLI and dock."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import networks
import seamscope
from questions import IMAGE, QUESTIONS, same
from seamscope import cli
from seamscope.compare import blends
from seamscope.compare.certificate import certify
from seamscope.compare.tile_sizes import sweep
from seamscope.execution import run as execution
from seamscope.explain.causes import diagnose
from seamscope.images.passes import Stream
from seamscope.images.preparation import Clipped, Measured, Preparation
from seamscope.models.runner import check_device
from seamscope.planning import case as cases
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan, resolve
from seamscope.planning.resources import Resources
from seamscope.prediction import measure_seams, run
from seamscope.settings import Settings
from seamscope.text import bytes_text
from seamscope.tiling import AxisTiling, Lattice

RESOURCES = Resources("cpu", 2**30, 2**30)
CHECK = ["--dry-run", "--no-accelerate", "--json", "-"]


@pytest.fixture(scope="module")
def model():
    return seamscope.load_model(networks.UNet(2, 1).eval())


@pytest.fixture
def fixed_memory(monkeypatch) -> None:
    """A machine whose free memory does not change."""
    free = psutil.virtual_memory()._replace(available=2**32)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)


@pytest.mark.parametrize("question", QUESTIONS)
def test_python_and_command_line_agree(question, model, tmp_path, monkeypatch, fixed_memory):
    asked, words = QUESTIONS[question]
    path = tmp_path / "image.npy"
    np.save(path, IMAGE)
    monkeypatch.setattr("seamscope.models.formats.load_model", lambda *_, **__: model)
    expected = same(Case.open(IMAGE, model, accelerate=False, **asked).plan)
    predicted = CliRunner().invoke(
        cli.app,
        ["predict", str(path), "m.pt", str(tmp_path / "o.npy"), *CHECK, *words],
    )
    assert predicted.exit_code == 0, predicted.output
    written = json.loads(predicted.stdout)["plan"]
    assert same(written) == json.loads(json.dumps(expected))


@pytest.mark.parametrize("question", QUESTIONS)
def test_everything_in_python_agrees(question, model, monkeypatch, fixed_memory):
    asked, _ = QUESTIONS[question]
    seen: list[Plan] = []

    def stopping(case, *_, **__):
        seen.append(case.plan)
        raise InterruptedError

    settings = Settings(accelerate=False, **({"seams": "all"} | asked))
    for module in (measure_seams, run, execution):
        monkeypatch.setattr(module, "run", stopping)
    for place in ("explain.causes", "compare.certificate"):
        monkeypatch.setattr(f"seamscope.{place}.subject_of_case", stopping)
    expected = same(resolve(seamscope.open_image(IMAGE), model, settings))
    for function in (seamscope.predict, seamscope.measure_seams, diagnose, certify):
        if function is diagnose and expected["tiles"] == 1:
            continue  # answered without any experiment
        with pytest.raises(InterruptedError):
            function(IMAGE, model, settings=settings)
        assert same(seen.pop()) == expected, function


def test_a_sweep_of_one_size_has_the_halo_of_its_plan(model):
    found = sweep(IMAGE, model, [16], untiled=True, accelerate=False)
    halo = resolve(seamscope.open_image(IMAGE), model, Settings(tile=16)).grid.halo
    assert found.settings[0]["halo"] == [list(sides) for sides in halo] == [[4, 4], [4, 4]]


def test_blends_are_compared_with_the_halo_of_the_plan(model):
    found = blends.compare_blends(IMAGE[:64, :64], model, tile=24, accelerate=False)
    plan = resolve(seamscope.open_image(IMAGE[:64, :64]), model, Settings(tile=24, blend="linear"))
    assert found.settings["halo"] == [list(sides) for sides in plan.grid.halo]


# -- which seams are compared


def test_all_seams_of_a_small_run_whose_predictions_fit_else_a_sample(model):
    image = seamscope.open_image(IMAGE)
    plan = resolve(image, model, Settings(tile=48), RESOURCES)
    assert plan.settings.seams == "all"
    # by hand: float32 predictions of all tiles, and two maps of the result
    assert plan.compared_bytes == 4 * (plan.tiles * 2 * 48 * 48 + 2 * 260 * 200)
    little = Resources("cpu", 2**30, plan.compared_bytes - 1)
    sample = resolve(image, model, Settings(tile=48), little)
    assert sample.settings.seams == "sample"
    (note,) = (note for note in sample.notes if "seams of a sample" in note)
    assert bytes_text(plan.compared_bytes) in note  # the reason
    assert resolve(image, model, Settings(tile=48, seams="all"), little).settings.seams == "all"


def test_an_area_of_a_large_image_has_its_tiles_and_all_seams(model):
    image = seamscope.open_image(np.broadcast_to(np.float32(0), (2048, 2048)))
    whole = resolve(image, model, Settings(tile=256), RESOURCES)
    assert whole.tiles * 256**2 > 2048**2  # more than 4 million pixels
    assert whole.settings.seams == "sample"
    (note,) = (note for note in whole.notes if "seams of a sample" in note)
    assert "takes longer" in note
    four = resolve(image, model, Settings(tile=1100), RESOURCES)
    assert four.settings.seams == "all"  # a sample of 2 x 2 tiles is all of them
    assert not any("sample" in note for note in four.notes)
    area = {"y": (300, 900), "x": (0, 500)}
    part = resolve(image, model, Settings(tile=256, area=area), RESOURCES)
    assert part.settings.seams == "all"
    assert part.grid == whole.grid


def test_tiles_overlap_a_little_more_where_all_seams_are_compared(model):
    image = seamscope.open_image(IMAGE)
    none, every = (
        resolve(image, model, Settings(tile=48, seams=seams), RESOURCES)
        for seams in ("none", "all")
    )
    assert none.grid.halo == every.grid.halo == ((8, 8), (8, 8))
    assert none.grid.overlap == (16, 16)
    assert every.grid.overlap == (18, 18)
    chosen = resolve(image, model, Settings(seams="all"), RESOURCES)
    assert all(overlap >= 18 for overlap in chosen.grid.overlap) or len(chosen.grid) == 1


def test_a_sample_has_the_same_tiles_whether_it_is_chosen_or_auto(model):
    image = seamscope.open_image(np.broadcast_to(np.float32(0), (4000, 4000)))
    auto, sample, none = (
        resolve(image, model, Settings(seams=seams), Resources("cpu", 2**28, 2**30))
        for seams in ("auto", "sample", "none")
    )
    assert auto.settings.seams == "sample"
    assert auto.grid == sample.grid == none.grid


# -- parts of an image


def far(shape: tuple[int, ...] = (20_000, 30_000)) -> seamscope.Image:
    return seamscope.open_image(np.broadcast_to(np.uint8(0), shape))


@pytest.mark.parametrize(
    "area",
    [
        {"y": (9000, 9200), "x": (17_000, 17_200)},
        {"y": (5431, 5590), "x": (777, 924)},  # 159 x 147
        {"y": (0, 200), "x": (29_800, 30_000)},
    ],
)
@pytest.mark.parametrize("seams", ["none", "auto", "all"])
def test_the_tile_is_chosen_for_the_area(area, seams):
    model = seamscope.load_model("demo:batchnorm")  # reaches 46, period 8
    plan = resolve(far(), model, Settings(area=area, seams=seams), RESOURCES)
    kept = np.prod([stop - start for start, stop in area.values()])
    computed = plan.tiles * np.prod(plan.grid.tile_shape)
    assert plan.redundancy == pytest.approx(computed / kept)
    assert plan.tiles <= 4
    # the least there is: the part and its halo on all sides
    least = np.prod([stop - start + 92 for start, stop in area.values()])
    assert computed <= 1.7 * least
    assert plan.redundancy < 5


@pytest.mark.parametrize("size", [8, 40, 64, 100, 136])
@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_an_area_of_an_image_smaller_than_a_tile_with_its_halos(size, blend):
    model = seamscope.load_model("demo:batchnorm")  # reaches 46: its smallest tile is 104
    image = np.random.default_rng(size).random((size, 144)).astype(np.float32)
    area = {"y": (size // 4, size // 2), "x": (3, 90)}
    plan = resolve(seamscope.open_image(image), model, Settings(area=area, blend=blend), RESOURCES)
    least = -(-size // 8) * 8
    assert plan.grid.tile_shape[0] <= max(least, 104 if blend == "crop" else 208)
    kept = (size // 2 - size // 4) * 87
    computed = plan.tiles * np.prod(plan.grid.tile_shape)
    assert plan.redundancy == pytest.approx(computed / kept)


def test_an_area_with_the_same_tile_is_the_part_of_the_whole(model):
    how = {"tile": 48, "halo": 8, "overlap": 18, "accelerate": False, "normalize": "none"}
    whole = seamscope.predict(IMAGE, model, **how)
    part = seamscope.predict(IMAGE, model, area={"y": (37, 150), "x": (11, 99)}, **how)
    assert np.array_equal(part, whole[:, 37:150, 11:99])


@given(
    st.integers(200, 900),
    st.integers(0, 60),
    st.integers(0, 20),
    st.integers(0, 20),
    st.data(),
)
def test_needed_tiles_are_those_that_touch(size, more, before, after, data):
    lattice = Lattice(period=4, step=4)
    tile = lattice.smallest_tile((before, after)) + 4 * more
    axis = AxisTiling(size, tile, (before, after), 0, lattice)
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    assert axis.needed((start, stop)) == len(axis.touching((start, stop)))


# -- asked once


def test_everything_is_asked_once(model, monkeypatch, tmp_path):
    path = tmp_path / "image.npy"
    np.save(path, IMAGE)
    monkeypatch.setattr("seamscope.models.formats.load_model", lambda *_, **__: model)
    plans: list[Settings] = []
    devices: list[str] = []
    real, check = cases.resolve, check_device

    def resolving(image, network, settings, resources):
        plans.append((image.shape, settings))
        return real(image, network, settings, resources)

    def checking(device):
        if device != "cpu":  # what is done already is looked up without a device
            devices.append(device)
        return check(device)

    monkeypatch.setattr(cases, "resolve", resolving)
    monkeypatch.setattr("seamscope.planning.resources.check_device", checking)
    call = CliRunner().invoke
    out = str(tmp_path / "out.npy")
    assert call(cli.app, ["predict", str(path), "m.pt", out, "--tile", "48"]).exit_code == 0
    assert len(plans) == len(devices) == 1
    plans.clear(), devices.clear()
    assert call(cli.app, ["seams", str(path), "m.pt", "--tile", "48"]).exit_code == 0
    assert len(plans) == len(devices) == 1
    plans.clear(), devices.clear()
    words = ["--tile", "48", "--certify", "--report", str(tmp_path / "page.html")]
    assert call(cli.app, ["seams", str(path), "m.pt", *words]).exit_code == 0
    assert len(devices) == 1
    assert len(plans) == len(set(map(repr, plans)))  # no plan is made twice
    # the run; certifying in tiles and at once; gradients, with a tile of their own
    assert len(plans) <= 5


@pytest.mark.parametrize("certified", [False, True])
def test_intensities_are_measured_once(certified, model, monkeypatch, tmp_path):
    """One pass over the image; that it reads each pixel once, `test_shared_intensities` shows."""
    path = tmp_path / "image.npy"
    np.save(path, IMAGE)
    monkeypatch.setattr("seamscope.models.formats.load_model", lambda *_, **__: model)
    passes: list[object] = []
    summed = Stream.summed

    def counted(stream, what):
        passes.append(what)
        return summed(stream, what)

    monkeypatch.setattr(Stream, "summed", counted)
    words = ["seams", str(path), "m.pt", "--tile", "48", "--normalize", "zscore"]
    if certified:
        words += ["--certify", "--report", str(tmp_path / "page.html")]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert len(passes) == 1


def test_a_case_shares_what_still_holds(model):
    case = Case.open(IMAGE, model, tile=48, normalize="zscore")
    first = case.intensity()
    assert case.but(tile=64).intensity() is first
    assert case.but(normalize="minmax").intensity() is not first
    assert case.but(tile=48) is case
    assert case.but(halo=4).resources is case.resources


@pytest.mark.parametrize("method", ["zscore", "minmax", "percentile", "card"])
def test_a_later_command_reads_no_intensities_of_an_unchanged_file(
    method, model, monkeypatch, tmp_path
):
    steps = (Clipped(0.1, 0.9), Measured("zscore"))
    card = dataclasses.replace(model, preparation=Preparation(steps))
    how = {"normalize": "auto"} if method == "card" else {"normalize": method}
    path = tmp_path / "image.npy"
    walks: list[int] = []
    real = cases.whole_image_intensity

    def counting(*given):
        walks.append(1)
        return real(*given)

    monkeypatch.setattr(cases, "whole_image_intensity", counting)

    def measured(**more):
        return Case.open(path, card, **how, **more).intensity()

    np.save(path, IMAGE)
    fresh = measured()
    assert measured() == fresh
    assert len(walks) == 2  # a file that has just been written may still change
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert measured() == fresh
    assert measured() == fresh
    assert len(walks) == 3
    assert measured(fill_nan=0.0) is not None
    assert len(walks) == 4
    np.save(path, IMAGE + 1)
    os.utime(path, (1_000_000_001, 1_000_000_001))
    assert measured() != fresh
    assert len(walks) == 5


def test_folders_and_arrays_have_no_identity(tmp_path):
    seamscope.predict(IMAGE, torch.nn.Identity(), tmp_path / "a.zarr")
    for source in (IMAGE, tmp_path / "a.zarr", "demo:tissue2d"):
        assert seamscope.open_image(source).identity == ""
