"""The whole image's intensities, measured by workers: those of one process, and read once."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from seamscope import Case, predict
from seamscope.errors import ImageError, OutputError
from seamscope.execution import intensities, worker
from seamscope.execution.intensities import keep_intensity_on
from seamscope.execution.pool import Here
from seamscope.execution.worker import Outcome
from seamscope.images import passes
from seamscope.images.image import Image
from seamscope.images.preparation import ByInput, Clipped, Measured, Preparation
from seamscope.images.records import read_record
from seamscope.images.watch import WatchedZarr
from seamscope.ledger import Ledger
from seamscope.progress import QUIET
from watching import Seen

RNG = np.random.default_rng(8)
SHAPE = (2, 96, 80)
NETWORK = """
import torch
from torch import nn

def two():
    torch.manual_seed(1)
    return nn.Conv2d(2, 1, 3, padding=1)
"""
METHODS: dict[str, Any] = {
    "zscore": {},
    "minmax": {},
    "percentile": {"percentiles": (2.0, 97.0)},
    "model": {},
}
IMAGES = {"f4": RNG.normal(1e4, 3, SHAPE), "u2": RNG.integers(0, 60000, SHAPE)}
# measured twice, the second time of the clipped image, and by input: three passes and more
STEPS = (
    Measured("percentile", percentiles=(1.0, 99.0)),
    Clipped(0.1, 0.8),
    ByInput(((1, Preparation((Measured("zscore"),))), (1, Preparation((Measured("minmax"),))))),
)


@pytest.fixture
def small_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "_BLOCK", 2000)
    monkeypatch.setattr(passes, "STRETCHES", 7)
    monkeypatch.setattr("seamscope.execution.intensities.STRETCHES", 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "nets.py").write_text(NETWORK)
    for name, values in IMAGES.items():
        zarr.create_array(folder / f"{name}.zarr", data=values.astype(name), chunks=(1, 32, 32))
    return folder


@pytest.fixture
def pixels_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Sizes of all regions that this process reads."""
    read, found = Image.read, []

    def counted(image: Image, region: Any) -> Any:
        block = read(image, region)
        if image.opener is not None and isinstance(image.data, WatchedZarr):  # not of views
            found.append(block.size)
        return block

    monkeypatch.setattr(Image, "read", counted)
    yield found
    worker.close()


def case_of(folder: Path, name: str, method: str) -> Case:
    image, net = folder / f"{name}.zarr", f"{folder / 'nets.py'}:two"
    settings = METHODS[method] | {"normalize": "zscore" if method == "model" else method}
    case = Case.open(str(image), net, axes="cyx", trust=True, tile=48, **settings)
    if method == "model":
        case = case.at(dataclasses.replace(case.plan, preparation=Preparation(STEPS)))
    return case


def shared(case: Case, folder: Path, pool: Any, work: Any = QUIET) -> Any:
    ledger = Ledger(folder) if folder.exists() else Ledger.begin(folder, {})
    keep_intensity_on(case, ledger, pool, work)
    return case.intensity()


@pytest.mark.usefixtures("small_stretches")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", IMAGES)
def test_shared_intensities_are_those_of_one_process(
    folder: Path, tmp_path: Path, pixels_read: list[int], name: str, method: str
) -> None:
    """To the last bit, after a stop; each pass reads each pixel once."""
    case = case_of(folder, name, method)
    expected = case.intensity()
    alone, pixels_read[:] = sum(pixels_read), []
    assert case.plan.preparation is not None or expected.method == method
    case._intensities.clear()
    with pytest.raises(InterruptedError):
        shared(case, tmp_path / "ledger", Here(), Seen(until=lambda seen: len(seen.steps) > 2))
    assert not case._intensities
    work = Seen()
    assert shared(case, tmp_path / "ledger", Here(), work) == expected
    assert repr(case.intensity()) == repr(expected)
    # beside the passes, a few lines show that the image is the same
    lines = 16 * SHAPE[-1]
    assert 0 < alone <= sum(pixels_read) <= alone + 20 * lines
    assert work.steps[-1] == (100, 100)
    assert not (tmp_path / "ledger" / "intensities").exists()


@pytest.mark.usefixtures("small_stretches")
@pytest.mark.parametrize("lost", ["sums", "task"])
def test_what_the_disk_has_lost_is_measured_again(folder: Path, tmp_path: Path, lost: str) -> None:
    case, kept = case_of(folder, "f4", "model"), tmp_path / "ledger" / "intensities"
    expected = case.intensity()
    case._intensities.clear()

    def second_pass(seen: Seen) -> bool:
        return (kept / "pass0.npz").exists() and any(kept.glob("*.sums"))

    with pytest.raises(InterruptedError):
        shared(case, tmp_path / "ledger", Here(), Seen(until=second_pass))
    if lost == "task":
        (kept / "task.json").unlink()
    else:
        os.truncate(kept / "pass0.npz", 30)
        os.truncate(next(kept.glob("*.sums")), 0)
    assert shared(case, tmp_path / "ledger", Here()) == expected
    worker.close()


@pytest.mark.usefixtures("small_stretches")
@pytest.mark.parametrize("chunks", [(2, 96, 80), (1, 96, 16)])
def test_a_copy_in_other_chunks_is_measured_in_its_own_stretches(
    folder: Path, tmp_path: Path, chunks: tuple[int, ...]
) -> None:
    """It is the same image, and a run may go on with it; the first may be gone."""
    first, other = tmp_path / "first", tmp_path / "other"
    for place, stored in ((first, (1, 32, 32)), (other, chunks)):
        place.mkdir()
        shutil.copy(folder / "nets.py", place)
        zarr.create_array(place / "f4.zarr", data=IMAGES["f4"].astype("f4"), chunks=stored)
    stop = Seen(until=lambda seen: len(seen.steps) > 2)
    with pytest.raises(InterruptedError):
        shared(case_of(first, "f4", "zscore"), tmp_path / "ledger", Here(), stop)
    shutil.rmtree(first / "f4.zarr")
    case = case_of(other, "f4", "zscore")
    found = shared(case, tmp_path / "ledger", Here())
    assert repr(found) == repr(case_of(other, "f4", "zscore").intensity())
    worker.close()


def test_what_is_read_at_once_is_known_to_workers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass of one stretch is done here, and those after it, of a wider type, by workers."""
    monkeypatch.setattr(passes, "_BLOCK", 2 * SHAPE[1] * SHAPE[2])
    wide = Preparation((Clipped(100, 50000), Measured("minmax")))
    steps = ByInput(((1, Preparation((Measured("zscore"),))), (1, wide)))
    case = case_of(folder, "u2", "zscore")
    case = case.at(dataclasses.replace(case.plan, preparation=Preparation((steps,))))
    expected = case.intensity()
    case._intensities.clear()
    shares: list[int] = []
    ordering = intensities.ordering
    monkeypatch.setattr(
        intensities, "ordering", lambda *given: shares.append(1) or ordering(*given)
    )
    assert shared(case, tmp_path / "ledger", Here()) == expected
    assert len(shares) == 1
    worker.close()


@pytest.mark.usefixtures("small_stretches")
def test_images_that_cannot_be_measured_are_refused_alike(tmp_path: Path, folder: Path) -> None:
    values = np.ones(SHAPE, np.float32)
    values[1, 40, 3] = values[0, 90, 7] = np.nan
    zarr.create_array(tmp_path / "f4.zarr", data=values, chunks=(1, 32, 32))
    (tmp_path / "nets.py").write_text(NETWORK)
    case = case_of(tmp_path, "f4", "minmax")
    with pytest.raises(ImageError, match=r"2 value\(s\).* at \(0, 90, 7\)") as alone:
        case.intensity()
    with pytest.raises(ImageError) as by_workers:
        shared(case, tmp_path / "ledger", Here())
    assert str(by_workers.value) == str(alone.value)


@pytest.mark.usefixtures("small_stretches")
def test_a_stretch_that_fails_is_named_and_the_others_are_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels_read: list[int]
) -> None:
    case, replayed = case_of(folder, "u2", "zscore"), intensities._Replayed.total

    def total(self: Any, one: Any) -> Any:
        if self.stretch == 2:
            raise RuntimeError("the disk is gone")
        return replayed(self, one)

    with monkeypatch.context() as broken:
        broken.setattr(intensities._Replayed, "total", total)
        with pytest.raises(OutputError, match=r"stretch 2 of the image \(.*the disk is gone"):
            shared(case, tmp_path / "ledger", Here())
    pixels_read.clear()
    assert shared(case, tmp_path / "ledger", Here()) == case_of(folder, "u2", "zscore").intensity()
    assert sum(pixels_read) < np.prod(SHAPE) * 1.5


class Dying(Here):
    """A worker that dies before it has measured a stretch, and before it has marked another."""

    deaths = 0

    def answers(self, seconds: float) -> Iterator[Outcome]:
        if not self._orders or self.deaths == 2:
            yield from super().answers(seconds)
            return
        order, self.deaths = self._orders.pop(0), self.deaths + 1
        if self.deaths == 2:
            worker.do_block(order)
            Ledger(Path(order.ledger)).unmark({order.block})
        worker.close()
        yield Outcome(order.block, "failed", "it died", worker="here")


@pytest.mark.usefixtures("small_stretches")
def test_a_worker_that_dies_changes_nothing(folder: Path, tmp_path: Path) -> None:
    case, pool = case_of(folder, "f4", "percentile"), Dying()
    expected = case.intensity()
    case._intensities.clear()
    assert shared(case, tmp_path / "ledger", pool) == expected
    assert pool.deaths == 2
    worker.close()


def test_workers_measure_and_the_client_does_not_read(
    client: Any, tmp_path: Path, pixels_read: list[int]
) -> None:
    values = RNG.integers(0, 60000, (2, 2100, 4200), np.uint16)  # of three stretches
    zarr.create_array(tmp_path / "u2.zarr", data=values, chunks=(1, 1050, 4200), compressors=None)
    (tmp_path / "nets.py").write_text(NETWORK)
    asked: dict[str, Any] = {"axes": "cyx", "trust": True, "normalize": "zscore", "tile": 99}
    asked |= {"seams": "none", "accelerate": False, "halo": 1}
    image, net = str(tmp_path / "u2.zarr"), f"{tmp_path / 'nets.py'}:two"
    area = {"y": (0, 90), "x": (0, 90)}
    out = tmp_path / "out.zarr"
    predict(image, net, out=out, on=client, area=area, **asked)
    assert sum(pixels_read) < values.size / 10
    found = (read_record(out) or {})["figures"]["intensity"]
    flat = values.reshape(2, -1).astype(np.float64)
    np.testing.assert_allclose(found["offset"], flat.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found["divisor"], flat.std(1) + 1e-6, rtol=1e-12)
