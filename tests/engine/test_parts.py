"""One wording, three renderers: a result says the same in terminal, dock and report."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from seamscope import measure_seams
from seamscope.compare.tile_content import content
from seamscope.compare.tile_sizes import sweep
from seamscope.explain.causes import diagnose
from seamscope.models.model import as_model
from seamscope.reports.describe import describe, layers_of, tiles_of, worst_seams
from seamscope.reports.page import page
from seamscope.reports.parts import Facts, Section, Shares, Table, Text, Verdict
from seamscope.reports.terminal import columns, terminal
from seamscope.text import percent_text, typeset


@pytest.fixture(scope="module")
def case():
    """An image and a network with instance normalization, whose tiles disagree."""
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Conv2d(4, 2, 1), nn.Softmax(1)
    )
    image = np.random.default_rng(0).random((96, 96)).astype(np.float32)
    image *= np.linspace(0.2, 1, 96, dtype=np.float32)
    return image, as_model(network.eval())


@pytest.fixture(scope="module")
def results(case):
    image, model = case
    report = measure_seams(image, model, tile=32, halo=4)
    return {
        "report": report,
        "diagnosis": diagnose(image, model, report.plan.settings),
        "audit": model.audit,
        "sweep": sweep(image, model, (32, 64)),
        "content": content(image, (32, 64), None),
    }


def _strings(part):
    """Every string that a part holds."""
    match part:
        case Text(text):
            yield text
        case Verdict():
            yield part.sentence
        case Facts():
            for fact in part.facts:
                yield from fact
        case Table():
            yield from part.columns
            yield part.caption
            for row in part.rows:
                yield from row
        case Shares():
            for one in part.rows:
                yield from (one.name, percent_text(one.share), one.sentence, one.remedy)


def _seen(written: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", written)).split())


@pytest.mark.parametrize("name", ["report", "diagnosis", "audit", "sweep", "content"])
def test_terminal_dock_and_page_say_the_same(results, name):
    pytest.importorskip("qtpy.QtWidgets")
    from seamscope.docks.looks import in_dock
    from seamscope.docks.rich_text import rich_text

    parts = describe(results[name])
    shell = " ".join(terminal(parts).split())
    dock = _seen(rich_text(parts))
    written = _seen(page("A title", [Section("A section", parts)]))
    for part in parts:
        for text in filter(None, _strings(part)):
            assert " ".join(text.split()) in shell
            assert " ".join(typeset(in_dock(text)).split()) in dock
            assert " ".join(typeset(text).split()) in written


def test_a_window_calls_the_halo_a_margin() -> None:
    pytest.importorskip("napari")
    from seamscope.docks.looks import in_dock

    said = "Halos of 3: use a halo of 46, or `halo=4`; the margin (halo) of halo.tif or /halo/a.tif"
    per_tile = in_dock("Overlap cannot remove these seams: 1 operation uses per-tile statistics.")
    assert per_tile == (
        "Overlap cannot remove these seams: this network adjusts contrast inside every tile "
        "(1 operation uses per-tile statistics)."
    )
    assert in_dock("Find the causes with Seams (seamscope seams).") == (
        "Find the causes with the page Causes."
    )
    assert in_dock("The tile mismatch") == "The disagreement"
    assert in_dock(said) == (
        "Margins of 3: use a margin of 46, or Margin (halo): 4; the margin (halo) of halo.tif or "
        "/halo/a.tif"
    )


def test_tables_of_the_dock_are_never_wider_than_four_columns():
    pytest.importorskip("qtpy.QtWidgets")
    from seamscope.docks.rich_text import rich_text

    names = ("channel", *"abcdefg")
    written = rich_text([Table(names, [("cells", *"1234567")], caption="A caption.")])
    tables = re.findall("<table.*?</table>", written)
    rows = [re.findall("<td[^>]*>([^<]*)</td>", table) for table in tables]
    assert rows == [
        ["channel", "a", "b", "c", "cells", "1", "2", "3"],
        ["channel", "d", "e", "f", "cells", "4", "5", "6"],
        ["channel", "g", "cells", "7"],
    ]


def test_each_number_is_that_of_the_report_and_defined_beside_it(results):
    report = results["report"]
    shown = terminal(describe(report))
    largest = max(seam.max_dist for seam in report.seams)
    assert f"{report.measures.max_dist:.3g}" == f"{largest:.3g}"
    assert re.search(rf"max difference +{largest:.3g}; 0 is seamless", shown)
    for name, soft in zip(report.channels, report.measures.soft, strict=True):
        assert re.search(rf"{name} .*\b{soft:.3g}\b", shown)
    assert "0 is perfect agreement" in shown
    first = worst_seams(report, 3).rows
    assert [row[3] for row in first] == [f"{b.max_dist:.3g}" for b in report.seams[:3]]


def test_no_halo_is_said_as_a_sentence_that_cannot_be_misread(results):
    """It was "seamless here from  no halo", which reads as if none were needed."""
    report = results["report"]
    assert report.smallest_seamless_halo is None
    most = report.curve.deepest
    assert 0 < most <= report.curve.halo[-1]
    assert f"none up to {most} px; no deeper one was measured" in terminal(describe(report))


def test_tiles_of_a_plan(results):
    facts = {fact.name: fact.value for fact in tiles_of(results["report"].plan)}
    assert facts["tile"] == "32 x 32 px"
    assert facts["halo"] == "4 px"


def test_layers_are_listed_with_what_their_statistics_mean(case):
    table, meanings = layers_of(case[1].audit)
    assert [row[1] for row in table.rows] == ["InstanceNorm"]
    assert [fact.name for fact in meanings.facts] == ["tile"]
    assert layers_of(as_model(nn.Conv2d(1, 1, 3, padding=1)).audit) == []


def test_columns_are_as_wide_as_their_widest_cell():
    shown = columns([("a", "long name"), ("wide cell", "1")], (False, True)).splitlines()
    assert shown == ["a          long name", "wide cell          1"]


def test_an_unknown_result_is_no_riddle():
    with pytest.raises(TypeError, match="Path"):
        describe(Path())
