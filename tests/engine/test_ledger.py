"""Blocks partition a result, and a ledger remembers which are done."""

from __future__ import annotations

import itertools
import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seamscope.errors import OutputError
from seamscope.files import write_file
from seamscope.ledger import Ledger
from seamscope.planning.blocks import Blocks
from seamscope.planning.case import Case
from seamscope.stitching import canvas


@st.composite
def blocks(draw: st.DrawFn) -> Blocks:
    shape = draw(st.lists(st.integers(20, 90), min_size=2, max_size=3))
    frames = draw(st.integers(1, 3))
    axes = "tzyx"[-len(shape) :]
    area = {}
    for letter, size in zip(axes, shape, strict=True):
        if draw(st.booleans()):
            start = draw(st.integers(0, size - 1))
            area[letter] = (start, draw(st.integers(start + 1, size)))
    image = np.zeros((frames, *shape) if len(shape) == 2 else shape, np.float32)
    network = nn.Conv2d(1, 1, 1) if len(shape) == 2 else nn.Conv3d(1, 1, 1)
    wanted = {
        "tile": draw(st.integers(8, 40)),
        "halo": draw(st.integers(0, 3)),
        "blend": draw(st.sampled_from(["crop", "linear"])),
        "area": {k: v for k, v in area.items() if k in ("zyx" if len(shape) == 3 else "yx")},
    }
    case = Case.open(image, network, axes="tyx" if len(shape) == 2 else "zyx", **wanted)
    return Blocks(case.plan, draw(st.integers(1, 60)))


@settings(max_examples=40)
@given(blocks())
def test_blocks_partition_the_result(found: Blocks) -> None:
    plan = found.plan
    seen = np.zeros(tuple(part.stop - part.start for part in plan.area), int)
    for block in range(found.per_frame):
        seen[found.region(block)] += 1
        assert found.pixels(block) == seen[found.region(block)].size
    assert (seen == 1).all()
    assert len(found) == found.per_frame * plan.frames
    assert len(found) <= max(found.most, plan.frames)


@settings(max_examples=40)
@given(blocks())
def test_regions_fill_blocks(found: Blocks) -> None:
    """What a canvas releases adds up to all pixels of all blocks of its frame."""
    plan = found.plan
    frame = tuple(start for start, _ in plan.frame_ranges)
    left = {block: found.pixels(block) for block in range(found.per_frame)}
    painter = canvas(plan.grid, plan.settings.blend, plan.area)
    released = []
    for tile in painter.tiles():
        prediction = np.zeros((1, *plan.grid.prediction_shape), np.float32)
        released += [region for region, _ in painter.add(tile, prediction)]
    released += [region for region, _ in painter.rest()]
    for region in released:
        for block, pixels in found.touching(frame, region):
            box = found.region(block)
            common = [
                min(a.stop, b.stop) - max(a.start, b.start)
                for a, b in zip(box, region, strict=True)
            ]
            assert pixels == np.prod(common)
            left[block] -= pixels
    assert not any(left.values())


@settings(max_examples=40)
@given(blocks(), st.data())
def test_tiles_of_finished_blocks_are_not_needed(found: Blocks, data: st.DataObject) -> None:
    plan = found.plan
    done = data.draw(st.sets(st.integers(0, found.per_frame - 1)))
    frame = tuple(start for start, _ in plan.frame_ranges)
    for tile in canvas(plan.grid, plan.settings.blend, plan.area).tiles():
        part = tile.trusted if plan.blends else tile.core
        mine = np.zeros(tuple(area.stop - area.start for area in plan.area), bool)
        mine[
            tuple(
                slice(max(p.start - a.start, 0), max(p.stop - a.start, 0))
                for p, a in zip(part, plan.area, strict=True)
            )
        ] = True
        touched = {b for b in range(found.per_frame) if mine[found.region(b)].any()}
        assert found.needs(frame, tile, done) == bool(touched - done)


@settings(max_examples=40)
@given(blocks(), st.integers(1, 9))
def test_blocks_for_workers_share_no_chunk(found: Blocks, fewest: int) -> None:
    plan = found.plan
    apart = Blocks.apart(plan, fewest, found.most)
    seen = np.zeros(tuple(part.stop - part.start for part in plan.area), int)
    chunks = plan.out_chunks[-seen.ndim :]
    owner: dict[tuple[int, ...], int] = {}
    for block in range(apart.per_frame):
        region = apart.region(block)
        seen[region] += 1
        spans = (
            range(part.start // c, -(-part.stop // c))
            for part, c in zip(region, chunks, strict=True)
        )
        for chunk in itertools.product(*spans):
            assert owner.setdefault(chunk, block) == block
    assert (seen == 1).all()
    assert len(apart) <= max(found.most, plan.frames)


def test_only_the_last_run_may_write(tmp_path: Path) -> None:
    ledger = Ledger.begin(tmp_path / "l", {})
    first = ledger.begin_run()
    assert Ledger(tmp_path / "l").is_current(first)
    second = ledger.begin_run()
    assert not ledger.is_current(first)
    assert ledger.is_current(second)
    ledger.end_run()
    assert not ledger.is_current(second)


def test_marks_last(tmp_path: Path) -> None:
    ledger = Ledger.begin(tmp_path / "l", {"image": {"shape": (3, 4)}, "network": "abc"})
    for block, number in ((3, 0), (0, 7), (11, 0)):
        ledger.mark(block, number)
    (tmp_path / "l" / "5.draft").touch()  # killed before the rename
    again = Ledger(tmp_path / "l")
    assert again.done == {0: 7, 3: 0, 11: 0} == ledger.done
    again.check({"image": {"shape": (3, 4)}, "network": "abc"}, "out.zarr")
    assert not Ledger.begin(tmp_path / "l", {}).done


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"image": {"shape": (3, 5)}}, r"another image shape \(\[3, 4\], now \[3, 5\]\)"),
        ({"network": "xyz"}, r"another network \(abc, now xyz\)"),
        ({"statistics": "s"}, r"another statistics \(none, now s\)"),
    ],
)
def test_other_work_is_refused_by_name(task: dict, said: str, tmp_path: Path) -> None:
    ledger = Ledger.begin(tmp_path / "l", {"image": {"shape": (3, 4)}, "network": "abc"})
    with pytest.raises(OutputError, match=f"^out.zarr was begun with {said}"):
        ledger.check(task, "out.zarr")


def test_files_are_on_the_disk_before_they_have_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves an empty file under that name."""
    seen: list[str] = []
    replace = os.replace

    def fsync(opened: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(opened).st_mode) else os.read(opened, 99).decode()
        seen.append(kind)

    def renamed(draft: Any, path: Any) -> None:
        seen.append("renamed")
        replace(draft, path)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", renamed)
    write_file(tmp_path / "numbers", b"12", shared=True)
    assert seen == ["12", "renamed", "folder"]
    ledger = Ledger.begin(tmp_path / "ledger", {})
    seen.clear()
    ledger.mark(3)
    assert seen == ["renamed"]
    ledger.mark(4, 7)
    assert seen == ["renamed", "7", "renamed", "folder"]


@pytest.mark.parametrize("content", ["", "[]", "{", None])
def test_damaged_ledger(content: str | None, tmp_path: Path) -> None:
    Ledger.begin(tmp_path / "l", {})
    task = tmp_path / "l" / "task.json"
    task.unlink() if content is None else task.write_text(content)
    with pytest.raises(OutputError, match="missing or damaged"):
        Ledger(tmp_path / "l")
    assert json.dumps(Ledger.begin(tmp_path / "l", {}).task) == "{}"


def test_a_stale_read_is_no_loss_of_the_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.begin(tmp_path / "ledger", {})
    run, read = ledger.begin_run(), Path.read_text
    faults = iter([OSError(116, "Stale file handle")])

    def stale(self: Path, *args: Any) -> str:
        for fault in faults:
            raise fault
        return read(self, *args)

    monkeypatch.setattr(Path, "read_text", stale)
    assert ledger.is_current(run)
    faults = iter([OSError(5, "Input/output error")] * 2)
    with pytest.raises(OSError, match="Input/output"):
        ledger.is_current(run)
    assert not ledger.is_current("another")
    ledger.end_run()
    assert not ledger.is_current(run)


def test_two_processes_may_mark_one_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.begin(tmp_path / "ledger", {})
    replace = os.replace

    def second(draft: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        Ledger(ledger.folder).mark(3, 7)  # while the first is about to rename its own
        replace(draft, target)

    monkeypatch.setattr(os, "replace", second)
    ledger.mark(3, 7)
    assert Ledger(ledger.folder).done == {3: 7}
