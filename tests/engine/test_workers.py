"""Several processes share a prediction: the result is that of one, whatever dies or refuses."""

from __future__ import annotations

import _thread
import asyncio
import dataclasses
import json
import logging
import os
import random
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest
import torch
import zarr
from dask.utils import key_split
from distributed import Client, LocalCluster

import seamscope
from seamscope import freeze_statistics, load_model, measure_seams, predict
from seamscope.errors import OutputError, SettingsError
from seamscope.execution import devices, pool, worker
from seamscope.execution.pool import Dask, Here, _quiet_logs, open_pool
from seamscope.execution.run import BlockDone, events_of, is_shared, run_on
from seamscope.execution.sharing import Sharing
from seamscope.execution.worker import Order, Outcome
from seamscope.images.image import open_image
from seamscope.images.records import read_record
from seamscope.images.results.output import Part
from seamscope.ledger import Ledger
from seamscope.planning.plan import Plan
from seamscope.planning.tuning import OutOfMemory
from seamscope.prediction.output import open_output
from seamscope.prediction.run import Finished, begin, prepared
from seamscope.progress import QUIET
from seamscope.settings import Settings
from watching import Seen

pytestmark = pytest.mark.usefixtures("one_thread")

RNG = np.random.default_rng(3)
IMAGES = {
    "flat": ("yx", RNG.random((150, 170), np.float32)),
    "frames": ("tyx", RNG.random((2, 80, 100), np.float32)),
    "deep": ("zyx", RNG.random((24, 60, 70), np.float32)),
}
NETWORKS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, conv, pool, channels=3, seed=1):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = conv(1, 4, 3, padding=1), conv(4, channels, 3, padding=1)
        self.pool, self.up = pool(2), nn.Upsample(scale_factor=2)

    def forward(self, x):
        return self.last(self.up(self.pool(torch.relu(self.first(x)))))

def flat(seed=1):
    return Net(nn.Conv2d, nn.MaxPool2d, seed=seed)

def deep():
    return Net(nn.Conv3d, nn.MaxPool3d)

def longer(norm=False):  # gives one pixel more than it is given at each end
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 4, 2, 2), nn.InstanceNorm2d(4), nn.ConvTranspose2d(4, 3, 4, 2)]
    return nn.Sequential(*(layers if norm else layers[::2]))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files by name; those of networks too."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "nets.py").write_text(NETWORKS)
    for name, (_, pixels) in IMAGES.items():
        np.save(folder / f"{name}.npy", pixels)
    nets = {f"{name} net": f"{folder / 'nets.py'}:{name}" for name in ("flat", "deep")}
    return {name: str(folder / f"{name}.npy") for name in IMAGES} | nets


def network(images: dict[str, str], name: str) -> str:
    return images["deep net" if name == "deep" else "flat net"]


def how(name: str, **more: Any) -> dict[str, Any]:
    tile = (16, 32, 32) if name == "deep" else 48
    return {"tile": tile, "seams": "none", "accelerate": False} | more


def begun(images: dict[str, str], name: str, out: Path, resume: bool = False, **more: Any) -> Any:
    image = open_image(images[name], axes=IMAGES[name][0])
    settings = Settings(**how(name, **more))
    case, task = begin(image, network(images, name), settings, str(out), trust=True, resume=resume)
    return case, open_output(case, str(out), task=task, resume=resume)


def whole(images: dict[str, str], name: str, **more: Any) -> np.ndarray:
    image = open_image(images[name], axes=IMAGES[name][0])
    return predict(image, network(images, name), trust=True, **how(name, **more))


def stored(out: Path, like: np.ndarray, axes: str) -> np.ndarray:
    """Pixels of a file, in the order of axes of the result in memory."""
    found = open_image(out)
    pixels = np.asarray(found.read((slice(None),) * found.ndim))
    letters = axes.replace("yx", "cyx") if axes != "zyx" else "czyx"
    if like.ndim < len(letters):
        letters = axes
    return pixels.transpose([found.axes.index(letter) for letter in letters])


@pytest.mark.parametrize("gpu", [False, True])
def test_gpus_that_a_run_does_not_use_are_named(gpu: bool) -> None:
    """What is planned on a machine without one never uses the CPU of GPU workers in silence."""
    work = Seen()
    how = {"n_workers": 1, "processes": False, "dashboard_address": None, "resources": {"GPU": 1}}
    with (
        _quiet_logs(),
        LocalCluster(**how) as cluster,
        Client(cluster) as client,
        open_pool(client, gpu=gpu, work=work) as (pool, _),
    ):
        assert len(pool.workers()) == 1
    assert [sentence.startswith("The workers offer GPUs") for sentence in work.sentences] == (
        [] if gpu else [True]
    )


def worker_device(planned: str, gpu: int | None) -> str:
    """Stands for the GPU of a worker."""
    assert planned == "cuda"
    return "cpu"


async def silent() -> None:
    """Answers as a worker does whose GPU hangs."""
    await asyncio.sleep(600)


def test_gpus_of_workers_are_used_where_this_machine_has_none(
    images: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with a GPU is simulated by what is asked of it, and by the device it computes on."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("seamscope.execution.pool._CONNECT", 0.5)
    many = {"n_workers": 1, "processes": False, "dashboard_address": None, "resources": {"GPU": 1}}
    given, out = (images["flat"], network(images, "flat")), tmp_path / "o.zarr"
    asked, work = {"trust": True, "axes": "yx", **how("flat")}, Seen()
    frozen = given[0], f"{images['flat net'].removesuffix(':flat')}:longer(norm=True)"
    with _quiet_logs(), LocalCluster(**many) as cluster, Client(cluster) as client:
        for answer in (devices.gpu_memory, silent):
            monkeypatch.setattr(devices, "gpu_memory", answer)
            with pytest.raises(SettingsError, match="none of them works"):
                predict(*given, out, on=client, device="cuda", **asked)
        monkeypatch.setattr(devices, "gpu_memory", lambda: 1 << 28)
        name = "seamscope.execution.block.device_of"
        monkeypatch.setattr(name, worker_device)
        predict(*given, out, on=client, work=work, **asked)
        monkeypatch.setattr("seamscope.fixed_statistics.blocks.device_of", worker_device)
        statistics = freeze_statistics(*frozen, on=client, work=work, **asked | {"tile": 50})
        measured = measure_seams(*given, on=client, work=work, **asked | {"seams": "all"})
    assert statistics.digest == freeze_statistics(*frozen, **asked | {"tile": 50}).digest
    alone = measure_seams(*given, **asked | {"seams": "all"})
    assert (measured.plan.settings.device, alone.plan.settings.device) == ("cuda", "cpu")
    assert measured.measures == alone.measures
    plan = Plan.from_json((read_record(out) or {})["plan"])
    assert (plan.settings.device, plan.settings.memory) == ("cuda", 1 << 28)
    assert sum("except for rounding" in sentence for sentence in work.sentences) == 3
    expected = whole(images, "flat")
    np.testing.assert_array_equal(stored(out, expected, "yx"), expected)
    case, _ = begun(images, "flat", tmp_path / "other.zarr")
    with pytest.raises(SettingsError, match="cannot be used on this machine"):
        prepared(case.at(plan), None, QUIET)
    assert prepared(devices.on_this_machine(case.at(plan)), None, QUIET).runner.device.type == "cpu"


@pytest.mark.parametrize(
    ("name", "ending", "more"),
    [
        ("flat", ".zarr", {}),
        ("flat", ".ome.zarr", {"blend": "linear"}),
        ("flat", ".zarr", {"blend": "gaussian", "batch": 3}),
        ("flat", ".zarr", {"batch": 4, "area": {"y": (10, 140), "x": (20, 151)}}),
        ("flat", ".tif", {"result": "labels", "blend": "linear"}),
        ("frames", ".zarr", {"batch": 3, "normalize": "percentile"}),
        ("deep", ".zarr", {}),
        ("deep", ".zarr", {"blend": "linear"}),
    ],
    ids=str,
)
def test_blocks_equal_the_whole(
    images: dict[str, str], name: str, ending: str, more: dict[str, Any], tmp_path: Path
) -> None:
    expected = whole(images, name, **more)
    out = tmp_path / f"o{ending}"
    case, output = begun(images, name, out, **more)
    with output:
        *blocks, last = run_on(case, output, trust=True)
    assert isinstance(last, Finished)
    done = [event for event in blocks if isinstance(event, BlockDone)]
    assert len(done) > 1
    np.testing.assert_array_equal(stored(out, expected, IMAGES[name][0]), expected)
    assert [path.name for path in tmp_path.iterdir() if "ledger" in path.name] == []


def test_workers_leave_out_what_a_network_gives_beyond_its_input(
    images: dict[str, str], tmp_path: Path
) -> None:
    longer = f"{images['flat net'].removesuffix(':flat')}:longer"
    expected = predict(images["flat"], longer, trust=True, axes="yx", **how("flat", tile=50))
    image, out = open_image(images["flat"], axes="yx"), tmp_path / "o.zarr"
    case, task = begin(image, longer, Settings(**how("flat", tile=50)), str(out), trust=True)
    assert case.model.facts.cut
    with open_output(case, str(out), task=task) as output:
        list(run_on(case, output, trust=True))
    np.testing.assert_array_equal(stored(out, expected, "yx"), expected)


def test_fixed_statistics_keep_the_trimmed_network(images: dict[str, str]) -> None:
    longer = f"{images['flat net'].removesuffix(':flat')}:longer(norm=True)"
    network = load_model(longer, trust=True)
    pixels = IMAGES["flat"][1][:64, :64]
    fixed = network.with_statistics(freeze_statistics(pixels, network))
    assert fixed.facts.cut
    x = torch.from_numpy(pixels)[None, None]
    # what is measured of it later is not trimmed a second time
    torch.testing.assert_close(fixed._measurable(fixed.facts).forward(x), fixed.module(x))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("flat", {"seams": "all"}),
        ("flat", {"seams": "all", "blend": "linear", "batch": 3}),
        ("flat", {"seams": "sample", "area": {"y": (10, 140), "x": (20, 151)}}),
        ("frames", {"seams": "all", "result": "labels"}),
        ("deep", {"seams": "all"}),
    ],
    ids=str,
)
def test_seams_are_those_of_one_process(
    images: dict[str, str], name: str, more: dict[str, Any], tmp_path: Path
) -> None:
    alone, output = begun(images, name, tmp_path / "alone.zarr", **more)
    with output:
        *_, expected = events_of(alone, output, trust=True)
    case, output = begun(images, name, tmp_path / "o.zarr", **more)
    with output, closing(run_on(case, output, trust=True)) as events:
        for event in events:
            if isinstance(event, BlockDone) and event.done >= 2:
                break
    case, output = begun(images, name, tmp_path / "o.zarr", resume=True, **more)
    with output:
        *_, found = run_on(case, output, trust=True)
    assert expected.seams.measured > 0
    assert found.seams.to_json() == expected.seams.to_json()
    for frame, table in expected.seams.tables.items():
        np.testing.assert_array_equal(found.seams.tables[frame], table)


def cut_short(case: Any, output: Any, blocks: int) -> None:
    with output, closing(run_on(case, output, trust=True)) as events:
        for event in events:
            if isinstance(event, BlockDone) and event.done >= blocks:
                return


KINDS = [(".zarr", {}), (".zarr", {"blend": "linear"}), (".cog.tif", {})]


@pytest.mark.parametrize(("ending", "more"), KINDS, ids=str)
def test_what_workers_began_is_resumed_here(
    images: dict[str, str], ending: str, more: dict[str, Any], tmp_path: Path
) -> None:
    if ending == ".cog.tif":
        pytest.importorskip("rasterio")
    out = tmp_path / f"o{ending}"
    cut_short(*begun(images, "flat", out, **more), blocks=2)
    marks = Ledger(tmp_path / f".o{ending}.ledger").done
    assert len(marks) == 2
    case, output = begun(images, "flat", out, resume=True, **more)
    assert is_shared(output)
    with output:
        events = [e for e in events_of(case, output, trust=True) if isinstance(e, BlockDone)]
    assert len(events) == events[0].total - 2  # nothing is done twice
    expected = whole(images, "flat", **more)
    np.testing.assert_array_equal(stored(out, expected, "yx"), expected)


@pytest.mark.parametrize(("ending", "more"), KINDS, ids=str)
def test_what_one_process_began_is_resumed_by_workers(
    images: dict[str, str], ending: str, more: dict[str, Any], tmp_path: Path
) -> None:
    if ending == ".cog.tif":
        pytest.importorskip("rasterio")
    out = tmp_path / f"o{ending}"
    case, output = begun(images, "flat", out, **more)
    with output, closing(events_of(case, output, trust=True)) as events:
        for event in events:
            if getattr(event, "done", 0) >= 0.7 * getattr(event, "total", 1e9):
                break
    before = len(Ledger(tmp_path / f".o{ending}.ledger").done)
    assert before
    case, output = begun(images, "flat", out, resume=True, **more)
    with output:
        events = [e for e in run_on(case, output, trust=True) if isinstance(e, BlockDone)]
    assert len(events) <= events[0].total
    expected = whole(images, "flat", **more)
    np.testing.assert_array_equal(stored(out, expected, "yx"), expected)


@pytest.mark.parametrize("lost", ["measures", "pixels"])
def test_what_the_disk_has_lost_is_done_again(
    images: dict[str, str], lost: str, tmp_path: Path
) -> None:
    out = tmp_path / "o.tif"  # for which workers write zarr beside their marks
    alone, output = begun(images, "flat", tmp_path / "alone.zarr", seams="all")
    with output:
        *_, expected = events_of(alone, output, trust=True)
    cut_short(*begun(images, "flat", out, seams="all"), blocks=3)
    ledger = tmp_path / ".o.tif.ledger"
    gone = "0.seams" if lost == "measures" else "blocks.zarr/c/0/0/0"
    (ledger / gone).unlink()
    case, output = begun(images, "flat", out, resume=True, seams="all")
    work = Seen()
    with output:
        *blocks, found = run_on(case, output, trust=True, work=work)
    done = [event for event in blocks if isinstance(event, BlockDone)]
    assert len(done) == done[0].total - 2
    assert any("lost 1 of the blocks" in sentence for sentence in work.sentences)
    assert found.seams.to_json() == expected.seams.to_json()
    pixels = whole(images, "flat")
    np.testing.assert_array_equal(stored(out, pixels, "yx"), pixels)


# -- what a worker refuses


@pytest.fixture
def order(images: dict[str, str], tmp_path: Path) -> Order:
    """Of a run that was begun and left."""
    image = tmp_path / "mine.npy"
    image.write_bytes(Path(images["flat"]).read_bytes())
    out = f"{image}.zarr"
    case, task = begin(str(image), images["flat net"], Settings(**how("flat")), out, trust=True)
    cut_short(case, open_output(case, out, task=task), blocks=1)
    worker.close()
    ledger = Ledger(tmp_path / ".mine.npy.zarr.ledger")
    return Order(str(ledger.folder), ledger.begin_run(), 3, trust=True)


def test_a_block_is_written_then_marked(order: Order) -> None:
    assert worker.do_block(order) == Outcome(3, "done", worker="here")
    assert set(Ledger(Path(order.ledger)).done) == {0, 3}


def change_recipe(order: Order, **changes: Any) -> None:
    file = Path(order.ledger) / "recipe.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("image", "another image content"),
        ("network", "another network"),
        ("version", "another version of Seamscope"),
        ("gone", "There is no file"),
        ("unfinished", "same name"),
    ],
)
def test_other_work_is_refused(order: Order, change: str, said: str) -> None:
    folder = Path(order.ledger)
    if change == "image":
        np.save(folder.parent / "mine.npy", IMAGES["flat"][1] + 1)
    elif change == "network":
        recipe = json.loads((folder / "recipe.json").read_text())
        change_recipe(order, network=recipe["network"] + "(seed=2)")
    elif change == "version":
        Ledger(folder).note("version of Seamscope", "0.0.1")
    elif change == "unfinished":
        change_recipe(order, unfinished="/nowhere/o.zarr")
    else:
        change_recipe(order, network="weights.pt2")
    outcome = worker.do_block(order)
    assert outcome.how == "refused"
    assert said in outcome.reason
    assert set(Ledger(folder).done) == {0}


def test_trust_travels_only_if_it_was_given(order: Order) -> None:
    outcome = worker.do_block(dataclasses.replace(order, trust=False))
    assert outcome.how == "refused"
    assert "would run code" in outcome.reason


def test_a_run_that_lost_the_right_writes_nothing(order: Order) -> None:
    worker.do_block(order)
    Ledger(Path(order.ledger)).begin_run()
    assert worker.do_block(dataclasses.replace(order, block=4)).how == "outdated"
    assert set(Ledger(Path(order.ledger)).done) == {0, 3}


def test_a_lost_gpu_is_refused(order: Order) -> None:
    plan = Ledger(Path(order.ledger)).task["plan"]
    plan["settings"]["device"] = "cuda"
    Ledger(Path(order.ledger)).note("plan", plan)
    outcome = worker.do_block(order)
    assert outcome.how == "refused"
    assert "none that works" in outcome.reason


def test_a_full_disk_ends_the_run(
    images: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o.zarr"
    write, writes = Part.write, []

    def full(self: Part, *args: Any) -> None:
        writes.append(args)
        if len(writes) > 3:
            raise OutputError("The disk that holds o.zarr is full.")
        write(self, *args)

    monkeypatch.setattr(Part, "write", full)
    case, output = begun(images, "flat", out)
    with pytest.raises(OutputError, match="full"), output:
        list(run_on(case, output, trust=True))
    monkeypatch.undo()
    case, output = begun(images, "flat", out, resume=True)
    with output:
        list(events_of(case, output, trust=True))
    expected = whole(images, "flat")
    np.testing.assert_array_equal(stored(out, expected, "yx"), expected)


def test_arrays_and_modules_stay_where_they_are(images: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "o.zarr"
    with pytest.raises(SettingsError, match="image array is in the memory"):
        predict(IMAGES["flat"][1], "demo:batchnorm", out, on=2)
    with pytest.raises(SettingsError, match="network Conv2d is in the memory"):
        predict(images["flat"], torch.nn.Conv2d(1, 1, 1), out, on=2)
    with pytest.raises(OutputError, match="give the path of a result"):
        predict(images["flat"], "demo:batchnorm", on=2)
    with pytest.raises(SettingsError, match="0 workers"):
        predict(images["flat"], "demo:batchnorm", out, on=0)
    with pytest.raises(SettingsError, match="There is no file"):
        predict(images["flat"], "demo:batchnorm", out, on="scheduler.json", tile=48)
    assert not out.exists()


# -- who does what, with workers that are played


class Played:
    """Workers whose answers a test decides."""

    def __init__(self, workers: int, answer: Any) -> None:
        self._workers: dict[str, int | None] = {f"w{n}": None for n in range(workers)}
        self._answer = answer
        self._sent: list[tuple[str, Sequence[Order]]] = []
        self.most = self.tasks = 0
        self.done: list[tuple[str, int]] = []

    def workers(self) -> dict[str, int | None]:
        return self._workers

    def send(self, name: str, orders: Sequence[Order]) -> None:
        self._sent.append((name, orders))
        self.most, self.tasks = max(self.most, len(self._sent)), self.tasks + 1

    def answers(self, seconds: float) -> Iterator[Outcome]:
        name, orders = self._sent.pop(0)
        for order in orders:
            self.done.append((name, order.block))
            yield self._answer(name, order.block)

    def stop(self) -> None:
        self._sent.clear()


def orders(count: int) -> Iterator[Order]:
    return (Order("", "", block) for block in range(count))


def test_few_orders_are_under_way() -> None:
    pool = Played(3, lambda name, block: Outcome(block, "done", worker=name))
    assert sorted(o.block for o in Sharing(pool).share(orders(1000))) == list(range(1000))
    assert pool.most == 6


@pytest.mark.parametrize(("seconds", "fewest", "most"), [(0.0, 16, 60), (1.0, 1000, 1000)])
def test_short_blocks_are_sent_together(seconds: float, fewest: int, most: int) -> None:
    """A task of dask costs milliseconds, and a block of seconds should not wait for another."""
    pool = Played(2, lambda name, block: Outcome(block, "done", "", 0, name, seconds))
    assert sorted(o.block for o in Sharing(pool).share(orders(1000))) == list(range(1000))
    assert fewest <= pool.tasks <= most


def test_what_a_dead_worker_had_marked_is_done(tmp_path: Path) -> None:
    """Its report is lost with it, and what it had not done is tried again."""
    ledger = Ledger.begin(tmp_path / "ledger", {})
    ledger.mark(0, 5)
    ledger.mark(1)
    died = dict.fromkeys((0, 1, 2, 3), True)

    def answer(name: str, block: int) -> Outcome:
        how = "failed" if block == 0 else "returned"
        return Outcome(block, how if died.pop(block, False) else "done", worker=name)

    pool = Played(1, answer)
    sharing = Sharing(pool, marked=Ledger(ledger.folder).marked)
    found = {o.block: o.not_finite for o in sharing.share(orders(6))}
    assert found == {0: 5, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0}
    assert [[b for _, b in pool.done].count(block) for block in range(6)] == [1, 1, 2, 2, 1, 1]


def test_a_worker_gives_back_what_it_has_no_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    hows = ["done", "failed", "done", "refused"]
    monkeypatch.setattr(worker, "do_block", lambda order: Outcome(order.block, hows[order.block]))
    blocks = [0, 1, 2, 3, 2]
    assert [o.how for o in worker.serve(Order("", "", 0), blocks)] == [*hows, "returned"]
    monkeypatch.setattr(worker, "_LONGEST", 0.0)
    assert [o.how for o in worker.serve(Order("", "", 0), blocks)] == ["done", *["returned"] * 4]


def test_a_block_that_fails_is_listed_and_the_others_are_done() -> None:
    def answer(name: str, block: int) -> Outcome:
        return Outcome(block, "failed" if block == 4 else "done", "broken", worker=name)

    pool = Played(2, answer)
    sharing = Sharing(pool, tries=3)
    assert sorted(o.block for o in sharing.share(orders(9))) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert sharing.failed == {4: "broken"}
    assert [block for _, block in pool.done].count(4) == 3


def test_a_worker_that_refuses_gets_no_more() -> None:
    def answer(name: str, block: int) -> Outcome:
        return Outcome(block, "refused" if name == "w1" else "done", "no GPU", worker=name)

    pool = Played(3, answer)
    assert len(list(Sharing(pool).share(orders(30)))) == 30
    assert sum(name == "w1" for name, _ in pool.done) <= 2
    alone = Played(1, lambda name, block: Outcome(block, "refused", "no GPU", worker=name))
    with pytest.raises(SettingsError, match="No worker can do this: no GPU"):
        list(Sharing(alone).share(orders(3)))


def test_what_a_dead_worker_had_not_begun_does_not_count() -> None:
    seen: list[int] = []

    def answer(name: str, block: int) -> Outcome:
        seen.append(block)
        often = block == 4 and seen.count(4) < 9
        return Outcome(block, "returned" if often else "done", worker=name)

    sharing = Sharing(Played(2, answer), tries=3)
    assert len(list(sharing.share(orders(9)))) == 9
    assert not sharing.failed


def test_what_always_fails_is_given_up() -> None:
    pool = Played(2, lambda name, block: Outcome(block, "failed", "broken", worker=name))
    with pytest.raises(OutputError, match=r"Every block fails\. The last reason: broken"):
        list(Sharing(pool).share(orders(1000)))
    assert len(pool.done) < 50


def test_failed_blocks_are_tried_again_by_resume(
    images: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o.zarr"
    do = worker.do_block

    def failing(order: Order) -> Outcome:
        return Outcome(order.block, "failed", "broken") if order.block == 2 else do(order)

    monkeypatch.setattr("seamscope.execution.pool.do_block", failing)
    case, output = begun(images, "flat", out)
    with (
        pytest.raises(OutputError, match=r"1 of \d+ blocks failed.*y 40:80, x 0:84 .broken"),
        output,
    ):
        list(run_on(case, output, trust=True))
    assert Ledger(tmp_path / ".o.zarr.ledger").task["failed"][0]["block"] == 2
    monkeypatch.undo()
    case, output = begun(images, "flat", out, resume=True)
    with output:
        blocks = [e for e in run_on(case, output, trust=True) if isinstance(e, BlockDone)]
    assert len(blocks) == 1
    expected = whole(images, "flat")
    np.testing.assert_array_equal(stored(out, expected, "yx"), expected)


def test_a_worker_that_reads_a_stale_right_does_not_end_the_run() -> None:
    stale = iter([True])

    def answer(name: str, block: int) -> Outcome:
        return Outcome(block, "outdated" if next(stale, False) else "done", worker=name)

    assert len(list(Sharing(Played(2, answer), current=lambda: True).share(orders(9)))) == 9
    ended = Played(2, lambda name, block: Outcome(block, "outdated", worker=name))
    with pytest.raises(OutputError, match="Another run has begun"):
        list(Sharing(ended, current=lambda: False).share(orders(9)))


@pytest.mark.parametrize(
    ("error", "said"), [(MemoryError(), "Memory ran out"), (KeyError("layer"), "KeyError: 'layer'")]
)
def test_whatever_loading_raises_is_an_outcome(
    order: Order, error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr("seamscope.execution.recipe.load_model", broken)
    outcome = worker.do_block(order)
    assert (outcome.how, outcome.worker) == ("failed", "here")
    assert said in outcome.reason


def test_too_little_memory_is_said_with_its_remedy(
    images: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **more: Any) -> None:
        raise OutOfMemory(MemoryError())

    monkeypatch.setattr("seamscope.execution.run.prepared", full)
    case, output = begun(images, "flat", tmp_path / "o.zarr")
    with pytest.raises(SettingsError, match="smaller tiles"), output:
        list(run_on(case, output, trust=True))


def test_chunks_that_are_not_stored_are_counted_with_workers(
    images: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "image.zarr"
    array = zarr.create_array(path, shape=(2, 96, 96), dtype="f4", chunks=(1, 4, 32))
    array[:, :32] = 1
    found = []
    for number, way in enumerate((run_on, events_of)):  # in blocks, and as one process does
        for settings in ({"channel": 1}, {"padding": "zeros", "area": {"y": (0, 60)}}):
            image = open_image(path, axes="cyx" if "channel" in settings else "tyx")
            out = str(tmp_path / f"{number} {len(found)}.zarr")
            wanted = Settings(**how("flat", normalize="none", tile=32, **settings))
            case, task = begin(image, images["flat net"], wanted, out, trust=True)
            with open_output(case, out, task=task) as output:
                *_, end = way(case, output, trust=True)
            found.append((end.figures["absent_chunks"], end.warning))
    assert found[0][0] >= 48  # of the channel that is read; a few of the other are sampled
    assert "chunks of the image are not stored" in found[0][1]
    assert found[:2] == found[2:]


# -- a scheduler that is played


class Future:
    """A task whose end a test decides."""

    def __init__(self, key: str) -> None:
        self.key, self.status, self.error = key, "pending", None

    def add_done_callback(self, call: Any) -> None:
        self.call = call

    def end(self, status: str, error: Any = None) -> None:
        self.status, self.error = status, error
        self.call(self)

    def done(self) -> bool:
        return self.status != "pending"

    def release(self) -> None:
        pass


class Scheduler:
    """A client of dask, connected to two workers; answers without an error never come."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.status = "running"
        self.loop = types.SimpleNamespace(asyncio_loop=loop)
        self.states = {"a": "running", "b": "running"}
        self.futures: list[Future] = []

    def scheduler_info(self, n_workers: int) -> Any:
        about = {"nthreads": 1, "name": "0"}
        return {"workers": {name: about | {"status": s} for name, s in self.states.items()}}

    def submit(self, *args: Any, key: str, **more: Any) -> Future:
        self.futures.append(Future(key))
        return self.futures[-1]

    async def gather(self, future: Future, *, asynchronous: bool) -> Any:
        assert asynchronous, "may wait for ever"
        if future.error is None:
            await asyncio.Event().wait()
        raise future.error


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Scheduler, Dask]]:
    """A scheduler, and a pool of it that asks it every time."""
    monkeypatch.setattr("seamscope.execution.pool._ASK_EVERY", 0.0)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    scheduler = Scheduler(loop)
    pool = Dask(scheduler)  # type: ignore[arg-type]
    assert set(pool.workers()) == {"a", "b"}
    yield scheduler, pool

    async def end() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(end(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_orders_of_a_paused_worker_come_back(played: tuple[Scheduler, Dask]) -> None:
    scheduler, pool = played
    for block, name in enumerate("aabb"):
        pool.send(name, [Order("", "", block)])
    scheduler.states["a"] = "paused"
    assert set(pool.workers()) == {"b"}
    assert [(o.block, o.how) for o in pool.answers(0)] == [(0, "returned"), (1, "returned")]
    del scheduler.states["b"]
    assert not pool.workers()
    assert [(o.block, o.how) for o in pool.answers(0)] == [(2, "failed"), (3, "returned")]


def test_an_answer_that_died_with_its_worker_holds_nothing_up(
    played: tuple[Scheduler, Dask],
) -> None:
    """Dask tries for half a minute to fetch it, and the others' answers come meanwhile."""
    scheduler, pool = played
    for block, name in enumerate("aab"):
        pool.send(name, [Order("", "", block)])
    scheduler.futures[0].end("finished")
    scheduler.futures[2].end("error", ValueError("c"))
    assert [(o.block, o.how) for o in pool.answers(60)] == [(2, "failed")]
    del scheduler.states["a"]
    pool.workers()
    assert [(o.block, o.how) for o in pool.answers(0)] == [(0, "failed"), (1, "returned")]


def test_names_of_tasks_are_forgotten(
    played: tuple[Scheduler, Dask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask would keep 100,000 of them, and memory would grow with the blocks."""
    _, pool = played
    monkeypatch.setattr("seamscope.execution.pool._REMEMBERED", 3)
    sizes = []
    for block in range(9):
        key_split(f"seamscope-run-{block}")
        pool.send("a", [Order("", "run", block)])
        sizes.append(key_split.cache_info().currsize)
    assert max(sizes[2:]) <= 3


@pytest.mark.parametrize(
    ("status", "error", "how", "reason"),
    [
        ("cancelled", None, "returned", ""),
        ("lost", None, "returned", ""),
        ("error", ValueError(""), "failed", "ValueError"),
        ("error", ValueError("a\nb"), "failed", "ValueError: a"),
        ("finished", TimeoutError(), "failed", "TimeoutError"),
    ],
)
def test_how_a_task_of_dask_ends(
    status: str, error: Any, how: str, reason: str, played: tuple[Scheduler, Dask]
) -> None:
    scheduler, pool = played
    pool.send("a", [Order("", "", 7), Order("", "", 8)])
    scheduler.futures[0].end(status, error)
    first = Outcome(7, how, reason, worker="a")  # type: ignore[arg-type]
    assert list(pool.answers(60)) == [first, Outcome(8, "returned", worker="a")]


def test_a_scheduler_that_is_gone_is_said(
    played: tuple[Scheduler, Dask], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    from distributed.client import ClosedClientError

    scheduler, pool = played

    def closed(*args: Any, **more: Any) -> None:
        raise ClosedClientError("Client is closed. Can't send update-graph message.")

    monkeypatch.setattr(scheduler, "submit", closed)
    with pytest.raises(OutputError, match=r"does not answer any more.*resume=True"):
        pool.send("a", [Order("", "", 1)])
    scheduler.status = "connecting"
    assert pool.workers() == {}
    scheduler.status = "closed"
    with pytest.raises(OutputError, match=r"does not answer any more.*resume=True"):
        pool.workers()


# -- workers of dask


def test_workers_that_are_killed_equal_one_process(
    images: dict[str, str], client: Any, tmp_path: Path
) -> None:
    out = tmp_path / "o.zarr"
    case, output = begun(images, "flat", out, blend="linear")
    chance = random.Random(5)
    done = []
    with output, closing(run_on(case, output, client, trust=True)) as events:
        for event in events:
            if isinstance(event, BlockDone):
                done.append(event.region)
                if event.done in (2, 5):
                    workers = [n.process for n in client.cluster.workers.values() if n.process]
                    victims = [worker.pid for worker in workers if worker.pid]
                    # all at once, the second time: the scheduler has nobody left
                    for victim in victims if event.done == 5 else [chance.choice(victims)]:
                        os.kill(victim, signal.SIGKILL)
    assert len(done) == len(set(map(str, done)))  # none lost, none twice
    expected = whole(images, "flat", blend="linear")
    np.testing.assert_array_equal(stored(out, expected, "yx"), expected)
    scattered = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
    assert scattered == 0


def test_labels_of_workers_that_are_killed_equal_one_process(
    images: dict[str, str], client: Any, tmp_path: Path
) -> None:
    """A worker is killed in two stages; each loses at most the report of one marked block."""
    recipe = {"axes": "zyx", "threshold": 0.4}
    marks: dict[str, int] = {}
    killed, again = set(), set()

    def hear(phase: str, done: int) -> None:
        if phase not in killed and done == 3 and len(killed) < 2:
            killed.add(phase)
            workers = [n.process for n in client.cluster.workers.values() if n.process]
            os.kill(next(worker.pid for worker in workers if worker.pid), signal.SIGKILL)
        found = {
            mark.name: mark.stat().st_mtime_ns
            for mark in (tmp_path / ".o.zarr.ledger").iterdir()
            if mark.name.isdecimal()
        }
        assert marks.keys() <= found.keys()
        again.update(block for block, time in marks.items() if found[block] != time)
        marks.update(found)

    out, work = tmp_path / "o.zarr", Seen(on_step=hear)
    how = {"blocks": 20, "out": out, "on": client, "work": work}
    found = seamscope.segment(images["deep"], **how, **recipe)
    assert killed == {"Finding basins", "Measuring objects"}
    assert len(again) <= len(killed)
    expected = np.asarray(seamscope.segment(images["deep"], **recipe).labels)
    np.testing.assert_array_equal(zarr.open(str(out))[:], expected)
    np.testing.assert_array_equal(found.labels, expected)


def test_the_example_runs_on_a_local_cluster(
    images: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    import cluster

    out = tmp_path / "o.ome.zarr"
    settings = how("flat", trust=True)
    cluster.predict("local", images["flat"], images["flat net"], str(out), **settings)
    expected = whole(images, "flat")
    np.testing.assert_array_equal(stored(out, expected, "yx"), expected)


def test_own_workers_end_with_the_run() -> None:
    """They start as new processes, as those of users."""
    dask = pytest.importorskip("dask")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    spawned = dask.config.set({"distributed.worker.multiprocessing-method": "spawn"})
    with spawned, open_pool(1) as (pool, threads):
        assert len(pool.workers()) == 1
        assert threads == max(1, psutil.cpu_count(logical=False) or 1)
    after = psutil.Process().children(recursive=True)
    left = [c for c in after if c.pid not in before and "spawn_main" in " ".join(c.cmdline())]
    assert not left


def test_this_process_does_what_is_waited_for() -> None:
    pool = Here()
    assert list(pool.answers(0)) == []
    assert list(pool.workers()) == ["here"]
    assert not QUIET.stopped()


def test_logs_of_dask_are_not_among_a_command_s_messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "distributed.client")  # as dask sets it when it is imported
    logger = logging.getLogger("distributed.client")
    with _quiet_logs():
        logger.error("Failed to reconnect to scheduler")
    assert not caplog.records
    logger.error("another")
    assert len(caplog.records) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no masks of signals")
def test_ctrl_c_ends_workers_that_are_starting() -> None:
    """Dask cannot close them before, and a terminal sends Ctrl-C to them too."""
    closed = []

    class Cluster:
        workers: ClassVar[dict[int, Any]] = {}

        def close(self, timeout: float) -> None:
            closed.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))

    def start() -> Any:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        time.sleep(0.2)  # until the main thread waits
        _thread.interrupt_main()
        time.sleep(0.2)
        return Cluster()

    masks: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        pool._all_or_none(start)
    assert len(closed) == 1
    assert signal.SIGINT in masks[0]
    assert signal.SIGINT not in closed[0]
