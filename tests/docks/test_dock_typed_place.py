"""Files that a user types, in all rows that take one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("napari")

from seamscope.docks.job_row import JobRow
from seamscope.docks.labels.background import blocks_of_labels, corrections_file
from seamscope.docks.labels.live import Live
from seamscope.docks.labels.write_page import WritePage, suggested_place
from seamscope.docks.normalization.freeze_panel import FreezePanel
from seamscope.docks.prediction.place_row import PlaceRow
from seamscope.docks.typed_place import typed_place

NOWHERE = {
    "/": "is a folder",
    "~nobody_here/x.zarr": "home of a user that is not known",
    "s3://me:word@bucket/x.zarr": "s3://bucket/x.zarr is an address",
}


def test_a_typed_text_is_a_file_or_a_sentence():
    assert typed_place("") == (None, "")
    assert typed_place("x.zarr") == (Path.cwd() / "x.zarr", "")
    assert typed_place("~/x.zarr") == (Path.home() / "x.zarr", "")


@pytest.mark.parametrize(("text", "sentence"), NOWHERE.items())
def test_what_is_no_file_is_refused_in_each_row(qtbot, text, sentence):
    panel, place = FreezePanel(), PlaceRow()
    writing = WritePage(Live(None, JobRow(), panel), JobRow())
    for widget in (panel, place, writing):
        qtbot.addWidget(widget)
    panel.place.setText(text)
    assert panel.target is None
    assert sentence in panel.problem
    place.set_value(text)
    assert place.value() == text
    assert (sentence in place.found.problem) != text.startswith("s3:")  # a result goes to a store
    said = []
    writing.refused.connect(said.append)
    writing.place.setText(text)
    writing.place.editingFinished.emit()
    writing.write.setEnabled(True)
    writing.write.click()
    assert len(said) == 2
    assert all(sentence in each for each in said)
    assert blocks_of_labels(text) is corrections_file(text, "1") is None


def test_no_place_is_suggested_beside_an_address():
    assert suggested_place("s3://bucket/x.zarr") is None
