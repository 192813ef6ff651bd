"""Seams and Dice before and after: counted as a plain comparison of whole label images would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import networks
import seamscope
from seamscope.compare import accuracy
from seamscope.compare.before_after import compare_statistics
from seamscope.compare.tile_sizes import sweep
from seamscope.demo import sample_image, zscore
from seamscope.errors import SettingsError
from seamscope.explain.causes import diagnose
from seamscope.fixed_statistics.freezing import freeze_statistics
from seamscope.images.image import open_image
from seamscope.images.postprocessing import Postprocessing
from seamscope.images.preparation import Binarized
from seamscope.models.model import as_model
from seamscope.planning.case import Case
from seamscope.prediction.measure_seams import measure_seams
from seamscope.reports.describe import describe
from seamscope.reports.parts import Table
from seamscope.seams.views import look_at
from seamscope.settings import Settings
from seamscope.text import figure_text, percent_text
from watching import Seen, stopped_after

SETTINGS = {"tile": 80, "normalize": "none"}


@pytest.fixture(scope="module")
def compared():
    torch.manual_seed(0)
    image, truth = (part[160:320, 240:416] for part in sample_image("tissue2d"))
    image = zscore(image)
    model = as_model(networks.UNet(2, 2, norm="instance", classes=4).eval())
    statistics = freeze_statistics(image, model, **SETTINGS)
    work = Seen()
    found = compare_statistics(image, model, statistics, labels=truth, work=work, **SETTINGS)
    seen = {phase: work.parts[phase] for phase in work.phases if "seams" in phase}
    return image, truth, model, statistics, found, seen


def test_dice_is_that_of_whole_label_images(compared) -> None:
    image, truth, model, statistics, found, seen = compared
    overlap = found.before.plan.grid.overlap
    for network, dice in (
        (model, found.dice_before),
        (model.with_statistics(statistics), found.dice_after),
    ):
        labels = seamscope.predict(image, network, result="labels", overlap=overlap, **SETTINGS)
        expected = [
            2 * ((labels == k) & (truth == k)).sum() / ((labels == k).sum() + (truth == k).sum())
            for k in range(4)
        ]
        np.testing.assert_allclose(dice, expected, atol=1e-4)
    assert found.gain == pytest.approx(np.mean(found.dice_after) - np.mean(found.dice_before))
    for when in ("before", "after"):
        told = seen[f"Measuring seams {when}"]
        assert told == [(n, found.before.tiles) for n in range(1, found.before.tiles + 1)]
        passes = seen[f"Explaining seams {when}"]
        assert passes[-1][0] == passes[-1][1] <= 11 * 16
    assert len(seen["Explaining seams after"]) < 3 * 16


@pytest.fixture(scope="module")
def single():
    """One channel that is no probability, an image, its labels, and statistics."""
    torch.manual_seed(0)
    image, classes = (part[160:320, 240:416] for part in sample_image("tissue2d"))
    model = as_model(networks.UNet(2, 2, norm="instance", classes=1).eval())
    image = zscore(image)
    statistics = freeze_statistics(image, model, **SETTINGS)
    return image, (classes == 1).astype(np.uint8), model, statistics


@pytest.mark.parametrize("area", [None, {"y": (13, 121), "x": (0, 97)}])
@pytest.mark.parametrize("threshold", [0.5, 0.1, -0.05])
def test_dice_of_one_channel_is_that_of_the_labels_a_user_gets(single, threshold, area) -> None:
    image, truth, model, statistics = single
    ask = {**SETTINGS, "threshold": threshold, "area": area}
    found = compare_statistics(image, model, statistics, labels=truth, explain=False, **ask)
    overlap = found.before.plan.grid.overlap
    true = truth[13:121, :97] if area else truth
    for network, dice in (
        (model, found.dice_before),
        (model.with_statistics(statistics), found.dice_after),
    ):
        mask = seamscope.predict(image, network, result="labels", overlap=overlap, **ask)
        expected = 2 * ((mask == 1) & (true == 1)).sum() / (mask.sum() + true.sum())
        assert dice == pytest.approx([expected], rel=1e-9)
    swept = sweep(image, model, [80], labels=truth, overlap=overlap, **ask)
    assert swept.dice.value[0] == pytest.approx(found.dice_before, rel=1e-9)
    said = " ".join(found.sentences())
    assert f"after, at threshold {threshold})" in said
    assert found.meaning.endswith(f"where the output is above {threshold}.")
    assert found.to_json()["threshold"] == threshold
    assert swept.meaning == found.meaning


@pytest.mark.parametrize("result", ["probabilities", "labels"])
@pytest.mark.parametrize("classes", [1, 3])
def test_dice_of_a_result_is_counted_frame_by_frame_and_in_its_area(
    monkeypatch, result, classes
) -> None:
    monkeypatch.setattr(accuracy, "_BAND_BYTES", 800)  # a few rows
    rng = np.random.default_rng(8)
    image = rng.random((3, 40, 32)).astype(np.float32)
    truth = rng.integers(0, max(classes, 2), image.shape).astype(np.uint8)
    model = as_model(torch.nn.Conv2d(1, classes, 1).eval())
    area = {"t": (1, 3), "y": (8, 40), "x": (0, 24)}
    source = open_image(image, axes="tyx")
    background = 1 if classes == 3 else None
    settings = Settings(tile=16, area=area, result=result, background=background, threshold=0.2)
    case = Case.open(source, model, settings)
    array = seamscope.predict(source, model, settings=settings)
    seen, dice = accuracy.dice_of_result(
        case.plan, model, array, open_image(truth, axes="tyx"), work=(work := Seen())
    )
    own = truth[1:3, 8:40, :24]
    values = np.asarray(seamscope.predict(source, model, tile=16, area=area)).reshape(
        2, classes, 32, 24
    )
    chosen = values.argmax(1) if classes > 1 else (values[:, 0] > 0.2).astype(int)
    known = range(classes) if classes > 1 else (1,)
    expected = [
        2 * ((chosen == k) & (own == k)).sum() / ((chosen == k).sum() + (own == k).sum())
        for k in known
    ]
    np.testing.assert_allclose(dice, expected)
    assert len(seen.names) == classes
    assert work.parts["Comparing with the labels"][-1][0] > 4


def test_what_may_surprise_in_dice_is_told(single, compared) -> None:
    image, truth, model, statistics = single
    ask = {**SETTINGS, "labels": truth, "explain": False}
    found = compare_statistics(image, model, statistics, **ask)
    overlap = found.before.plan.grid.overlap
    predicted = [
        seamscope.predict(image, network, overlap=overlap, **SETTINGS)
        for network in (model, model.with_statistics(statistics))
    ]
    low, high = np.min(predicted), np.max(predicted)
    assert low < 0
    (note,) = found.notes
    assert note.startswith(f"The output ranges from {low:.3g} to {high:.3g}, which are no prob")
    assert found.to_json()["notes"] == [note]
    card = replace(model, postprocessing=Postprocessing((Binarized((0.7,)),)))
    chosen = compare_statistics(image, card, statistics, threshold=0.2, blend="linear", **ask)
    assert [note.split(",")[0] for note in chosen.notes] == [
        "Dice is that of what the network gives",
        "Dice is that of each tile's own part",
    ]
    *_, several, _ = compared
    assert several.notes == ()
    assert several.to_json()["threshold"] is None
    assert "threshold" not in " ".join(several.sentences())


def test_labels_of_another_size_are_refused(single) -> None:
    image, truth, model, statistics = single
    with pytest.raises(SettingsError, match="150 x 176 pixels and the prediction is 160 x 176"):
        compare_statistics(image, model, statistics, labels=truth[:150], **SETTINGS)


def test_seams_are_those_measured_by_themselves(compared) -> None:
    image, _, model, _, found, _ = compared
    before = measure_seams(image, model, **SETTINGS)
    assert found.before.measures.max_dist == before.measures.max_dist > 0.1
    assert found.after.seamless
    assert not found.before.seamless
    said = " ".join(found.sentences())
    assert "Seams before: " in said
    assert "Seamless after: " in said
    assert "Dice" in said
    assert found.to_json()["dice_after"] == list(found.dice_after)


def test_causes_are_told_before_and_after(compared) -> None:
    """The explanation is that of each network by itself, and its shares are told side by side."""
    image, _, model, statistics, found, _ = compared
    for network, why, report in (
        (model, found.why_before, found.before),
        (model.with_statistics(statistics), found.why_after, found.after),
    ):
        alone = diagnose(image, network, report.plan.settings, worst=report.seams)
        assert (why.verdict, why.findings) == (alone.verdict, alone.findings)
        assert (why.halo, why.tile) == (report.plan.grid.halo, report.plan.grid.tile_shape)
    assert found.why_before.verdict == "tile statistics"
    assert found.why_before.share("tile statistics") > 0.9
    assert found.why_after.verdict == "seamless"
    share = percent_text(found.why_before.share("tile statistics"))
    assert f"Explained before by tile statistics {share}" in " ".join(found.sentences())
    (table,) = [part for part in describe(found) if isinstance(part, Table)]
    rows = {name: both for name, *both in table.rows}
    assert rows["verdict"] == ["tile statistics", "seamless"]
    assert rows["seamless halo"] == ["none", f"{found.after.smallest_seamless} px"]
    assert rows["max difference"][0] == figure_text(found.before.measures.max_dist)
    assert [rows[f"Dice with labels, {name}"][1] for name in found.classes] == [
        figure_text(value) for value in found.dice_after
    ]
    told = found.to_json()
    assert told["why_before"]["findings"][0]["cause"] == "tile statistics"
    assert told["why_after"]["verdict"] == "seamless"


def _tiles(report):
    return [(tile.read, tile.core, tile.trusted) for tile in report.plan.grid]


def test_both_are_measured_at_the_same_tiles(compared) -> None:
    """Also where the tile is too small for the network's reach, or chosen by the plan."""
    image, _, model, statistics, _, _ = compared
    small = compare_statistics(image, model, statistics, tile=40, normalize="none", explain=False)
    assert small.why_before is None
    assert _tiles(small.before) == _tiles(small.after)
    assert small.before.plan.grid.halo == ((8, 8), (8, 8))
    assert not small.after.seamless
    chosen = compare_statistics(image, model, statistics, memory=2**21, normalize="none")
    assert len(chosen.before.plan.grid) > 1
    assert _tiles(chosen.before) == _tiles(chosen.after)
    assert chosen.why_after.verdict == "seamless"


def test_local_statistics_are_explained_too(compared) -> None:
    image, _, model, _, _, _ = compared
    local = freeze_statistics(image, model, "local", cell=32, **SETTINGS)
    found = compare_statistics(image, model, local, **SETTINGS)
    assert found.after.seamless
    assert found.why_before.verdict == "tile statistics"
    assert found.why_after.verdict == "seamless"
    fixed = model.with_statistics(local)
    tiled = seamscope.predict(image, fixed, **SETTINGS)
    for view in look_at(
        Case.planned(open_image(image), fixed, found.after.plan), found.after.seams[:3]
    ):
        at = tuple(np.subtract(view.seam.worst, view.corner))
        predicted = tiled[view.channel, *view.seam.worst]
        for opinion in (view.lower, view.upper):
            assert abs(opinion[at] - predicted) < 2 * found.after.tolerance
    # who says no place after a run gets no place of the run's last tiles, but the average
    x = torch.from_numpy(image)[None, None]
    assert fixed.forward(x).shape == (1, 4, *image.shape)
    assert torch.equal(fixed.forward(x), model.with_statistics(local).forward(x))


def test_without_labels_nothing_is_said_of_accuracy(compared) -> None:
    image, _, model, statistics, _, _ = compared
    found = compare_statistics(image, model, statistics, explain=False, **SETTINGS)
    assert found.gain is None
    assert not found.classes
    assert "Dice" not in " ".join(found.sentences())
    with pytest.raises(InterruptedError):
        compare_statistics(image, model, statistics, work=stopped_after(0), **SETTINGS)
    explained = "Explaining seams before"
    work = Seen(until=lambda seen: seen.phases[-1:] == [explained])
    with pytest.raises(InterruptedError):
        compare_statistics(image, model, statistics, work=work, **SETTINGS)
    phases = [phase for phase in work.phases if "seams" in phase]
    assert phases == ["Measuring seams before", explained]
