"""Where results go: no file that a layer reads is replaced, and names stay those of samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("napari")

import dask.array as da
import numpy as np
import zarr
from dock_networks import measured
from hands import PATIENCE, load, picture, press
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers._source import layer_source

from seamscope.docks.fixing.swipe import Swipe
from seamscope.docks.prediction import destination, place_row
from seamscope.docks.prediction.dock import PredictionDock
from seamscope.docks.prediction.place_row import PlaceRow
from seamscope.images.results import create

NETWORK = measured()


@pytest.fixture
def dock(qtbot):
    """The dock with a network, without an image or a window."""
    dock = PredictionDock(ViewerModel())
    qtbot.addWidget(dock)
    load(qtbot, dock, NETWORK)
    dock.options.accelerate.setChecked(False)
    return dock


def add(dock, data, name="cells", path=""):
    """Add a layer, as another program's reader does, and take it for the image."""
    with layer_source(path=path or None):
        layer = ImageLayer(data, name=name)
    dock.viewer.add_layer(layer)
    dock.image_box.value = layer
    dock.tile.set_value(32)
    return layer


def wait(qtbot, dock):
    qtbot.waitUntil(lambda: not dock.job.busy and not dock.busy, timeout=PATIENCE)


@pytest.mark.parametrize("shown", ["no name", "changed pixels", "beside the image"])
def test_no_result_replaces_a_file_that_a_layer_reads(qtbot, dock, tmp_path, shown):
    path = str(tmp_path / "raw.zarr")
    raw = picture(2, 48, 40)
    zarr.open_group(path).create_array("0", data=raw, chunks=(1, 48, 40))
    stored = da.from_zarr(path, component="0")
    add(
        dock,
        stored[0] if shown == "no name" else stored[1] * 2,
        "raw",
        path * (shown != "no name"),
    )
    if shown == "beside the image":
        add(dock, picture(48, 40))
    dock.options.place.set_value(path)
    assert "The layer raw is read from raw.zarr" in dock.problem
    assert list(dock.panel.actions.buttons) == ["Save to …"]
    dock.run(overwrite=True)  # by a program
    wait(qtbot, dock)
    np.testing.assert_array_equal(zarr.open_array(f"{path}/0", mode="r")[:], raw)
    assert "The layer raw is read from raw.zarr" in dock.problem


def test_why_a_run_did_not_begin_stays_beside_what_is_wrong_with_its_place(dock, tmp_path):
    add(dock, picture(48, 40))
    (tmp_path / "there.zarr").mkdir()
    dock.options.place.set_value(str(tmp_path / "there.zarr"))
    dock.destination.failed.emit(OSError("The disk refuses."))
    assert "there.zarr exists" in dock.problem
    assert "The disk refuses." in dock.problem


@pytest.mark.parametrize(("free", "counted"), [(2**40, 0), (0, 1)])
def test_files_of_an_unfinished_result_are_counted_once(dock, tmp_path, monkeypatch, free, counted):
    paths = []

    def count(path):
        paths.append(path)
        return 2**30

    monkeypatch.setattr(place_row, "size_on_disk", count, raising=False)
    monkeypatch.setattr(create, "size_on_disk", count)
    monkeypatch.setattr(create.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    add(dock, picture(48, 40))
    dock.options.place.set_value(str(tmp_path / "out.ome.zarr"))
    for _ in range(3):
        dock.refresh()
    assert paths == [tmp_path / "out.ome.zarr.partial"] * counted
    assert dock.problem == ""


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("2024.11.30 well.A03", "2024.11.30 well.A03_prediction.ome.zarr"),
        ("plate.1.ome.tif", "plate.1_prediction.ome.zarr"),
        ("cells.ZARR", "cells_prediction.ome.zarr"),
        (".zarr", "image_prediction.ome.zarr"),
    ],
)
def test_a_name_keeps_its_dots(qtbot, tmp_path, monkeypatch, image, name):
    row = PlaceRow()
    qtbot.addWidget(row)
    row.propose(image, str(tmp_path))
    assert Path(row.proposed).name == name
    for typed, taken in (("day 30.11", "day 30.11.ome.zarr"), ("a.zarr", "a.zarr")):
        answer = (str(tmp_path / typed), "")
        monkeypatch.setattr(place_row.QFileDialog, "getSaveFileName", lambda *_, a=answer: a)
        row.ask()
        assert Path(row.value()).name == taken


def test_only_numbers_that_were_added_here_are_counted_on(qtbot, tmp_path):
    row = PlaceRow()
    qtbot.addWidget(row)
    for given, numbered in (
        ("well_A03.ome.zarr", "well_A03-{}.ome.zarr"),
        ("2024-11-30.zarr", "2024-11-30-{}.zarr"),
        ("2024.11.30.zarr", "2024.11.30-{}.zarr"),
    ):
        row.set_value(str(tmp_path / given))
        for number in (2, 3):
            Path(row.value()).mkdir()
            row.move_on()
            assert Path(row.value()).name == numbered.format(number)


def test_layers_of_a_file_that_is_replaced_by_another_kind_of_result_go(qtbot, dock, tmp_path):
    add(dock, picture(48, 40))
    target = str(tmp_path / "out.zarr")
    dock.options.result.set_value("labels")
    dock.options.place.set_value(target)
    press(qtbot, dock.panel.run)
    wait(qtbot, dock)
    (labels,) = dock.results.layers
    assert not labels.editable  # the file would refuse what is painted
    dock.options.result.set_value("probabilities")
    dock.options.place.set_value(target)
    press(qtbot, dock.panel.actions.buttons["Replace it"])
    wait(qtbot, dock)
    assert dock.problem == ""
    assert labels not in dock.viewer.layers
    assert dock.session.runs == [dock.session.run_of(dock.results.layers[0])]


def test_a_large_result_gets_several_resolutions(qtbot, dock, tmp_path, monkeypatch):
    """napari reads all that is in the view of a layer with one, on the window's thread."""
    add(dock, picture(96, 100))
    dock.options.place.set_value(str(tmp_path / "a.b.zarr"))
    monkeypatch.setattr(destination, "_MOST_DRAWN", 96 * 100)
    dock.refresh()
    assert dock.problem == ""
    monkeypatch.setattr(destination, "_MOST_DRAWN", 96 * 100 - 1)
    dock.refresh()
    assert "a.b.zarr would have one resolution" in dock.problem
    dock.session.want_run(halo=1)  # as the step Fix does
    assert not dock.busy
    assert not dock.job.busy
    assert not dock.session.running
    place = dock.options.place
    with monkeypatch.context() as unfinished:  # what was begun goes on
        unfinished.setattr(place, "found", replace(place.found, share=0.5))
        offered = dock.destination.actions(dock.run, dock.plan)
    assert [each.text for each in offered] == ["Go on (50% done)", "Begin again"]
    dock.refresh()
    press(qtbot, dock.panel.actions.buttons["Write a.b.ome.zarr"])
    assert dock.problem == ""
    assert dock.options.place.value() == str(tmp_path / "a.b.ome.zarr")


def test_labels_that_are_swiped_cannot_be_painted(dock):
    viewer = dock.viewer
    one, other = (viewer.add_labels(np.full((48, 40), label)) for label in (1, 2))
    swipe = Swipe(viewer, dock)
    swipe.show([one], [other])
    assert [layer.editable for layer in viewer.layers] == [True, True, False]
    swipe.close()
