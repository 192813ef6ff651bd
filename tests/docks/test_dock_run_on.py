"""Predictions into a file, by this process or a cluster: cancelled, gone on with, and refused."""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import npe2
import numpy as np
import pytest
import torch

pytest.importorskip("napari")
pytest.importorskip("distributed")

from distributed import LocalCluster
from hands import PATIENCE, press
from napari.components import ViewerModel

import seamscope
from seamscope.docks import tasks
from seamscope.docks.fixing import dock as fixing
from seamscope.docks.layers import add_opened
from seamscope.docks.normalization import freeze_page
from seamscope.docks.prediction.dock import PredictionDock
from seamscope.docks.results import Run
from seamscope.docks.stored_result import StoredResult
from seamscope.execution import devices, pool
from seamscope.images.image import open_image
from seamscope.images.results.create import create_output
from seamscope.normalization.statistics import Statistics
from seamscope.planning.case import Case
from seamscope.planning.resources import Resources
from seamscope.progress import QUIET

NETWORK = """
import time
import torch
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.norm = nn.Identity()

    def forward(self, x):
        time.sleep(0.03)
        return self.last(torch.relu(self.norm(self.first(x)))).sigmoid()

class Uneven(Slow):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(4)
"""
TILE = {"tile": 32, "halo": 2}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Names of an image and a network."""
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "cells.npy", np.random.default_rng(2).random((230, 200), np.float32))
    (folder / "nets.py").write_text(NETWORK)
    return str(folder / "cells.npy"), f"{folder / 'nets.py'}:Slow"


@pytest.fixture(scope="module")
def scheduler(forked_workers):
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def dock(qtbot, files):
    """The dock with image and network, without a window."""
    image, network = files
    viewer = ViewerModel()
    add_opened(viewer, open_image(image), "cells", image)
    dock = PredictionDock(viewer)
    qtbot.addWidget(dock)
    dock.set_model(network, trust=True)
    qtbot.waitUntil(lambda: dock.plan is not None, timeout=PATIENCE)
    dock.options.accelerate.setChecked(False)
    for name, value in TILE.items():
        getattr(dock, name).set_value(value)
    return dock


def wait(qtbot, dock):
    qtbot.waitUntil(lambda: not dock.job.busy and not dock.busy, timeout=2 * PATIENCE)


def results(dock):
    """Layers of results, by name."""
    layers = (dock.session.layers_of(run) for run in dock.session.runs)
    return {layer.name: layer for each in layers for layer in each if layer in dock.viewer.layers}


def go_on(dock):
    """The button to go on with an unfinished result."""
    (found,) = [b for text, b in dock.panel.actions.buttons.items() if text.startswith("Go on")]
    return found


@pytest.mark.parametrize("kind", ["scheduler", "here"])
def test_a_cancelled_run_goes_on_to_the_same_result(qtbot, dock, files, kind, request, tmp_path):
    target = tmp_path / "out.ome.zarr"
    assert "the network is untrained" in dock.notes.text()
    if kind == "scheduler":
        dock.options.run_on.set_value(request.getfixturevalue("scheduler"))
        assert "Choose its place" in dock.problem
        assert not dock.panel.run.isEnabled()
    dock.options.place.set_value(str(target))
    assert dock.problem == ""
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: dock.panel.bar.value() >= 3, timeout=2 * PATIENCE)
    press(qtbot, dock.panel.cancel)
    wait(qtbot, dock)
    assert [name.startswith("stopped") for name in results(dock)] == [True]
    assert not dock.panel.run.isEnabled()
    assert "is predicted" in dock.notes.text()
    done = dock.options.place.found.share
    assert 0 < done < 1
    dock.halo.set_value(4)
    press(qtbot, go_on(dock))
    wait(qtbot, dock)
    assert "begun with another Margin (halo) (2, now 4)" in dock.problem
    dock.halo.set_value(2)
    assert dock.problem == ""
    press(qtbot, go_on(dock))
    qtbot.waitUntil(lambda: dock.busy, timeout=PATIENCE)
    assert dock.session.running
    wait(qtbot, dock)
    assert dock.problem == ""
    assert "Done" in dock.panel.text.text()
    assert [name.startswith("stopped") for name in results(dock)] == [False]
    before = torch.get_num_threads()
    if kind == "scheduler":
        torch.set_num_threads(1)
    expected = seamscope.predict(*files, trust=True, accelerate=False, **TILE)
    torch.set_num_threads(before)
    np.testing.assert_array_equal(np.asarray(seamscope.open_image(target).data), expected)
    (shown,) = results(dock).values()
    np.testing.assert_array_equal(
        np.asarray(shown.data[0] if shown.multiscale else shown.data), expected
    )
    assert dock.options.place.value() == str(tmp_path / "out-2.ome.zarr")
    assert not dock.tiles.layer.visible  # it would cover the result


def test_an_unfinished_file_is_gone_on_with_on_another_day(qtbot, dock, files, tmp_path):
    target = tmp_path / "out.ome.zarr"
    dock.options.place.set_value(str(target))
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: dock.panel.bar.value() >= 3, timeout=2 * PATIENCE)
    press(qtbot, dock.panel.cancel)
    wait(qtbot, dock)
    viewer = ViewerModel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other plugins' manifests
        npe2.PluginManager.instance().discover()
    opened = viewer.open(f"{target}.partial", plugin="seamscope")
    later = PredictionDock(viewer)
    qtbot.addWidget(later)
    network = Path(files[1].rpartition(":")[0])
    network.rename(tmp_path / "moved.py")
    press(qtbot, go_on(later))
    qtbot.waitUntil(lambda: not later.job.busy, timeout=PATIENCE)
    press(qtbot, later.model_picker.consent.yes)
    qtbot.waitUntil(lambda: not later.job.busy, timeout=PATIENCE)
    assert "nets.py" in later.facts.text()  # is not there
    later.set_model(f"{tmp_path / 'moved.py'}:Slow", trust=True)
    qtbot.waitUntil(lambda: later.plan is not None, timeout=PATIENCE)
    assert not later.session.running  # unasked
    assert [layer.visible for layer in opened] == [True] * len(opened)
    (tmp_path / "moved.py").rename(network)
    press(qtbot, go_on(later))
    qtbot.waitUntil(lambda: not later.job.busy, timeout=PATIENCE)
    press(qtbot, later.model_picker.consent.yes)  # the network's file has code
    qtbot.waitUntil(lambda: later.busy, timeout=PATIENCE)
    wait(qtbot, later)
    assert later.problem == ""
    assert [layer.visible for layer in opened] == [False] * len(opened)
    expected = seamscope.predict(*files, trust=True, accelerate=False, **TILE)
    np.testing.assert_array_equal(np.asarray(seamscope.open_image(target).data), expected)


def interrupted(qtbot, row, begin, least=1):
    """Begin work that a row shows, and cancel it once a part is done."""
    press(qtbot, begin)
    qtbot.waitUntil(lambda: row.bar.value() >= least, timeout=2 * PATIENCE)
    press(qtbot, row.cancel)
    qtbot.waitUntil(lambda: not row.busy, timeout=PATIENCE)


def test_seams_statistics_and_labels_go_on_with_a_cluster(
    qtbot, viewer, open_docks, files, scheduler, tmp_path, monkeypatch
):
    """On a real canvas: each step is stopped by its button, goes on, and equals one process."""
    monkeypatch.setattr("seamscope.segmentation.subject._BLOCK", {2: 20})
    joined, connected = [], pool._connected

    def counted(address):
        joined.append(address)
        return connected(address)

    monkeypatch.setattr(pool, "_connected", counted)
    image, network = files[0], files[1].replace(":Slow", ":Uneven")
    add_opened(viewer, open_image(image), "cells", image)
    dock = open_docks("prediction")
    dock.set_model(network, trust=True)
    qtbot.waitUntil(lambda: dock.plan is not None, timeout=PATIENCE)
    dock.options.accelerate.setChecked(False)
    for name, value in TILE.items():
        getattr(dock, name).set_value(value)
    dock.options.run_on.set_value(scheduler)
    target = str(tmp_path / "out.ome.zarr")
    dock.options.place.set_value(target)
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: dock.busy, timeout=2 * PATIENCE)
    wait(qtbot, dock)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker has
    how = {"trust": True, "accelerate": False, **TILE}

    seams = open_docks("seams")
    assert "Measure" in seams.measuring.note.text()
    seams.run.evidence.report = None  # as of a result that was predicted without measuring
    seams.measuring.run_on.set_value(scheduler)
    interrupted(qtbot, seams.job, seams.measuring.measure)
    assert "Go on continues" in seams.problem
    assert seams.measuring.measure.text() == "Go on"
    assert seams.measuring.again.isVisible()
    press(qtbot, seams.measuring.measure)
    qtbot.waitUntil(lambda: not seams.busy, timeout=2 * PATIENCE)
    (run,) = seams.session.runs
    assert seams.problem == ""
    assert not Path(f"{target}.seams.partial").exists()
    report = seamscope.measure_seams(image, network, overlap=run.plan.grid.overlap, **how)
    assert run.evidence.report.to_json() == report.to_json()

    own = open_docks("normalization")
    qtbot.waitUntil(lambda: own.settled, timeout=PATIENCE)
    own.tabs.setCurrentWidget(own.freezing)
    panel = own.freezing.panel
    panel.grid.set_value("plan")
    panel.run_on.set_value(scheduler)
    qtbot.waitUntil(lambda: own.settled, timeout=PATIENCE)
    press(qtbot, panel.freeze)
    assert "keep what they find in files" in own.problem
    panel.place.setText(str(tmp_path / "cells.statistics"))
    panel.place.editingFinished.emit()
    interrupted(qtbot, own.job, panel.freeze)
    assert "Go on continues" in own.problem
    assert panel.freeze.text() == "Go on"
    assert panel.begin_again.isVisible()
    press(qtbot, panel.freeze)
    qtbot.waitUntil(lambda: own.settled, timeout=2 * PATIENCE)
    assert own.problem == ""
    found = seamscope.freeze_statistics(image, network, **{**how, "halo": "auto"})
    written = Statistics.load(tmp_path / "cells.statistics")
    for one, other in zip(written.layers, found.layers, strict=True):
        for name in ("mean", "var", "count"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert own.session.fixed.network.statistics is not None
    fixed = fixing.with_exact_statistics(dock.image, dock.plain, dock.settings(), run, work=QUIET)
    for one, other in zip(fixed.statistics.layers, found.layers, strict=True):
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-6)  # the image is one tile
    press(qtbot, panel.freeze)
    assert "cells.statistics exists" in own.problem
    torch.set_num_threads(threads)

    labels = open_docks("labels")
    qtbot.waitUntil(lambda: not labels.busy, timeout=PATIENCE)
    labels.run_on.set_value(scheduler)
    place = tmp_path / "cells_labels.ome.zarr"
    labels.writing.show_place(place)
    press(qtbot, labels.segment)
    qtbot.waitUntil(lambda: not labels.busy, timeout=2 * PATIENCE)
    assert labels.problem == ""
    assert labels.live.whole
    labels.tabs.setCurrentWidget(labels.writing)
    interrupted(qtbot, labels.job, labels.writing.write)
    assert "is unfinished" in labels.writing.waits.text()
    assert not labels.writing.write.isEnabled()
    press(qtbot, labels.writing.actions.buttons["Go on"])
    qtbot.waitUntil(lambda: not labels.busy, timeout=2 * PATIENCE)
    assert labels.problem == ""
    expected = seamscope.segment(target, labels.recipe.value())
    assert expected.count > 1
    np.testing.assert_array_equal(
        np.asarray(seamscope.open_image(place).data), np.asarray(expected.labels)
    )
    assert (tmp_path / "cells_labels.csv").read_text() == expected.table(image).to_csv()
    # predicted; seams and statistics, each stopped and gone on with; Fix; written, stopped
    # twice for all but labels: workers are asked for their GPUs first
    assert joined == [scheduler] * (
        2 * (1 + 2 + 2 + 1) + 2
    )  # and the objects of a small image, here


def test_what_workers_need_is_said_before_they_start(dock, tmp_path, monkeypatch):
    dock.options.place.set_value(str(tmp_path / "out.zarr"))
    for value, sentence in ((2, ""), ("", "Enter the address of a scheduler")):
        dock.options.run_on.set_value(value)
        assert dock.problem.startswith(sentence)
        assert dock.panel.run.isEnabled() == (not sentence)
    dock.options.run_on.set_value(2)
    for name, sentence in (
        ("out.tif", "Use .ome.zarr or .zarr"),
        ("there.zarr", "there.zarr exists"),
    ):
        (tmp_path / "there.zarr").mkdir(exist_ok=True)
        dock.options.place.set_value(str(tmp_path / name))
        assert sentence in dock.problem
        assert "Save to …" in dock.panel.actions.buttons
    dock.options.place.set_value(str(tmp_path / "out.zarr"))
    monkeypatch.setitem(sys.modules, "distributed", None)
    dock.refresh()
    assert "pip install 'seamscope[dask]'" in dock.problem


def test_what_is_not_written_yet_is_transparent(tmp_path):
    place = {
        "axes": "cyx",
        "scale": (1, 1, 1),
        "units": ("", "pixel", "pixel"),
        "chunks": (1, 8, 8),
    }
    output = create_output(tmp_path / "a.ome.zarr", (2, 24, 16), "f4", **place)
    shown = StoredResult(output, 0, (2, None, 1), (3,), {0: 1})  # channel 1, as x, repeated, y
    block = np.random.default_rng(4).normal(size=(2, 8, 16)).astype(np.float32)
    output.write((slice(0, 2), slice(8, 16), slice(0, 16)), block)
    expected = np.full((24, 16), np.nan, np.float32)
    expected[8:16] = block[1]
    whole = np.broadcast_to(expected.T[:, None], (16, 3, 24))
    np.testing.assert_array_equal(shown[...], whole)
    np.testing.assert_array_equal(shown[2:9:3, 1, 5:20], whole[2:9:3, 1, 5:20])
    output.finish()
    np.testing.assert_array_equal(shown[...], np.nan_to_num(whole))


class CarriedError(Exception):
    """Stands for the work: which device it was planned for."""


def test_each_step_is_planned_for_the_gpus_of_workers(qtbot, dock, tmp_path, monkeypatch):
    """As the command line plans: where only the workers of a scheduler have GPUs."""
    asked = []

    def answer(on, device, work=QUIET):
        asked.append((on, device))
        least = replace(Resources.of("cpu"), device="cuda", memory=1 << 28)
        return least if isinstance(on, str) else None

    def carry(case, *_, **__):
        raise CarriedError(case.plan.settings.device)

    monkeypatch.setattr(devices, "resources_on", answer)
    case, output = tasks.begin_on_disk(dock.case(), str(tmp_path / "o.zarr"), "s", work=QUIET)
    output.close()
    assert case.plan.settings.but(device="cpu", memory=1) == dock.plan.settings.but(memory=1)
    assert (case.plan.settings.device, case.plan.settings.memory) == ("cuda", 1 << 28)
    run = Run(dock.layer, case.image, case.model, case.plan, output, on="s")
    assert run.settings.device == "auto"  # what this process asks of the run, it computes here

    for module, name in ((tasks, "measure_seams"), (fixing, "freeze_statistics")):
        monkeypatch.setattr(module, name, carry)
    monkeypatch.setattr(freeze_page, "carry_out", carry)
    monkeypatch.setattr(freeze_page, "plan_freeze", lambda *_, **__: None)
    again = Case.planned(run.image, run.model, dock.plan)  # of this machine
    freeze = freeze_page.FreezeAsked(dock.model, dock.image, "exact", dock.settings(), 24, 4)
    with pytest.raises(CarriedError, match="cuda"):
        tasks.measure_shared(again, None, tmp_path / "p", "s", device="auto", work=QUIET)
    with pytest.raises(CarriedError, match="cuda"):
        fixing.with_exact_statistics(dock.image, dock.model, dock.settings(), run, work=QUIET)
    for on, device in (("s", "cuda"), (2, "cpu")):
        with pytest.raises(CarriedError, match=device):
            freeze.freeze(None, tmp_path / "f", on=on, work=QUIET)
    assert asked == 4 * [("s", "auto")] + [(2, "auto")]
