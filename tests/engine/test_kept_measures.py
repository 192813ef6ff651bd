"""What searches and measurements keep on disk: never another's, never an earlier plan's."""

from __future__ import annotations

import functools
import io
import os
import random
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from seamscope import freeze_statistics, measure_seams
from seamscope.errors import OutputError
from seamscope.files import write_file
from seamscope.fixed_statistics.blocks import shared_by, sums_of
from seamscope.fixed_statistics.counting import BlockSums
from seamscope.fixed_statistics.freeze_plan import plan_freeze
from seamscope.ledger import Ledger
from seamscope.planning.case import Case
from seamscope.planning.tuning import OutOfMemory
from seamscope.prediction.tile_predictions import predict_batches
from seamscope.seams.records import SeamRecords, sum_up
from seamscope.seams.tolerance import Spread
from watching import Seen, stopped_after

IMAGE = np.random.default_rng(0).random((200, 200), np.float32)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 5, padding=2), nn.InstanceNorm2d(2)).eval()


@pytest.mark.parametrize("what", ["folder", "file", "link"])
@pytest.mark.parametrize("job", [freeze_statistics, measure_seams])
def test_only_unfinished_work_is_ever_deleted(tmp_path: Path, job: Any, what: str) -> None:
    partial, own = tmp_path / "partial", tmp_path / "own"
    own.mkdir()
    (own / "precious.txt").write_text("x")
    if what == "folder":
        own.rename(partial)
    elif what == "link":
        partial.symlink_to(own)
    else:
        partial.write_text("x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="exists"):
        job(IMAGE, network(), tile=64, normalize="none", partial=partial)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("job", [freeze_statistics, measure_seams])
def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path, job: Any) -> None:
    refused: list[str] = []
    how: dict[str, Any] = {"tile": 64, "normalize": "none", "partial": tmp_path / "partial"}

    def second(phase: str, done: int) -> None:
        if done == 3 and not refused:
            with pytest.raises(OutputError, match="by another process") as told:
                job(IMAGE, network(), **how, **({"resume": True} if job is measure_seams else {}))
            refused.append(str(told.value))

    job(IMAGE, network(), work=Seen(on_step=second), **how)
    assert refused
    assert {path.name for path in tmp_path.iterdir()} <= {"partial"}
    with pytest.raises(OutputError, match="cannot be written"):
        job(IMAGE, network(), **how | {"partial": tmp_path / "none" / "partial"})


def _zip(compression: int) -> bytes:
    content = io.BytesIO()
    np.savez(content, tiles=np.zeros(3))
    found = bytearray(content.getvalue())
    at = found.rindex(b"PK\x01\x02") + 10
    found[at] = compression
    found[8] = compression
    return bytes(found)


@pytest.mark.parametrize("load", [BlockSums.load, lambda path: SeamRecords.load(path, 2)])
def test_damaged_files_are_told_in_a_sentence(tmp_path: Path, load: Any) -> None:
    file = tmp_path / "x"
    for content in (b"", b"PK\x03\x04rubbish", b"PK\x03\x04" + bytes(99), _zip(8), _zip(77)):
        file.write_bytes(content)
        with pytest.raises(OutputError, match="missing or damaged"):
            load(file)


def test_damaged_sums_are_found_again(tmp_path: Path) -> None:
    how: dict[str, Any] = {"tile": 64, "normalize": "none", "partial": tmp_path / "partial"}
    expected = freeze_statistics(IMAGE, network(), **how)
    with pytest.raises(InterruptedError):
        freeze_statistics(IMAGE, network(), work=stopped_after(5), **how)
    block = max(Ledger(how["partial"]).done)
    sums_of(how["partial"], block).write_bytes(b"")
    work = Seen()
    found = freeze_statistics(IMAGE, network(), work=work, **how)
    assert work.before[work.phases[-1]] == work.steps[0][0] - 1 == 4
    assert found.layers[0].mean.tobytes() == expected.layers[0].mean.tobytes()


def test_measures_of_an_earlier_plan_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out after some stretches; a sample leaves other stretches without measures."""
    seen = 0

    def failing(plan: Any, *given: Any, **more: Any) -> Any:
        nonlocal seen
        for one in predict_batches(plan, *given, **more):
            seen += plan.settings.batch == 16
            if plan.settings.batch == 16 and seen > 200:
                raise OutOfMemory(RuntimeError("no memory"))
            yield one

    image = np.random.default_rng(0).random((400, 400), np.float32)
    how: dict[str, Any] = {"tile": 32, "halo": 1, "overlap": 6, "seams": "sample"}
    how |= {"accelerate": False, "normalize": "none"}
    expected = measure_seams(image, network(), batch=8, **how)
    monkeypatch.setattr("seamscope.execution.measuring.predict_batches", failing)
    found = measure_seams(image, network(), batch=16, partial=tmp_path / "partial", **how)
    assert found.plan.settings.batch == 8
    assert 0 < found.measured < found.overlaps
    assert found.measured == expected.measured
    assert found.measures == expected.measures
    assert found.spread == expected.spread


def test_absent_chunks_are_counted_after_a_stop(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    stored = zarr.create_array(str(tmp_path / "i.zarr"), shape=(256, 256), chunks=(32, 32),
                               dtype="f4", fill_value=0)  # fmt: skip
    stored[:, :] = 1 + np.random.default_rng(0).random((256, 256), np.float32)
    for row in range(3):
        os.remove(tmp_path / f"i.zarr/c/{row}/0")
    how: dict[str, Any] = {"axes": "yx", "tile": 64, "normalize": "none", "batch": 1}
    how |= {"partial": tmp_path / "partial"}
    image = str(tmp_path / "i.zarr")
    with pytest.raises(InterruptedError):
        measure_seams(image, network(), work=stopped_after(12), **how)
    work = Seen()
    measure_seams(image, network(), resume=True, work=work, **how)
    assert [one for one in work.sentences if "3 chunks of the image are not" in one]


def test_measures_are_summed_up_in_the_order_of_one_process() -> None:
    """Rounding depends on the order: tiles row by row, and each compared with those before it."""
    tiles = [(row, column) for row in range(3) for column in range(4)]
    overlaps: list[Any] = [
        SimpleNamespace(frame=(frame,), axis=axis, lower=(row - (axis == 0), column - (axis == 1)))
        for frame in range(2)
        for row, column in tiles
        for axis in range(2)
        if (row, column)[axis]
    ]
    totals = np.random.default_rng(0).random(24) * 1e9
    spreads = [
        ((number // 12,), tiles[number % 12], Spread(1, total, 0.0), False)
        for number, total in enumerate(totals)
    ]
    parts = [SeamRecords() for _ in range(3)]
    rng = random.Random(0)
    taken: list[Any] = []
    for each in rng.sample(overlaps, len(overlaps)):
        rng.choice(parts).overlaps.append((each, ()))
    for spread in rng.sample(spreads, len(spreads)):
        rng.choice(parts).tiles.append(spread)
    meter: Any = SimpleNamespace(
        spread=Spread(), doubtful=False, take=lambda compared, worst: taken.append(compared)
    )
    sum_up(meter, parts, lambda frame, index: 12 * frame[0] + 4 * index[0] + index[1])
    assert taken == overlaps
    assert meter.spread.total == functools.reduce(float.__add__, totals.tolist(), 0.0)


def test_two_workers_may_write_the_same_measures(tmp_path: Path) -> None:
    failed: list[OSError] = []

    def write() -> None:
        for _ in range(300):
            try:
                write_file(tmp_path / "5.seams", bytes(20000), shared=True)
            except OSError as error:
                failed.append(error)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    assert not failed
    assert [path.name for path in tmp_path.iterdir()] == ["5.seams"]


def test_a_share_of_no_workers_is_that_of_one() -> None:
    plan = plan_freeze(Case.open(IMAGE, network(), tile=64, normalize="none"), "exact")
    assert shared_by(plan, 0) == shared_by(plan, 1)
