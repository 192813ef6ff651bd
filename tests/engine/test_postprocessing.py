"""What a model card asks to be done to the whole prediction; against the description's formulas.

bioimageio.core 0.11 is no oracle here: it looks for statistics of outputs before there are any, and
ends with KeyError.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zarr
from typer.testing import CliRunner

from packages import result, state_dict, tensor, written
from seamscope.cli import app
from seamscope.compare.certificate import certify
from seamscope.images.image import open_image
from seamscope.images.records import read_record
from seamscope.models.formats import load_model, verify
from seamscope.models.formats.factories import module_from_source
from seamscope.planning.case import Case
from seamscope.planning.plan import resolve
from seamscope.prediction.output import open_output
from seamscope.prediction.run import Finished, predict, run
from seamscope.seams.meter import SeamMeter
from seamscope.settings import Settings
from watching import Seen

SOURCE = '''
from torch import nn

class Net(nn.Module):
    """Two channels of very different size."""

    def __init__(self, given=1):
        super().__init__()
        self.first = nn.Conv2d(given, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        y = self.last(self.first(x).relu())
        y[:, 1] = y[:, 1] * 50 - 7
        return y
'''

ZSCORE = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"]}}
TOGETHER = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}
RANGE = {
    "id": "scale_range",
    "kwargs": {"axes": ["y", "x"], "min_percentile": 3.0, "max_percentile": 96.0},
}
SIGMOID = {"id": "sigmoid"}
CLIP = {"id": "clip", "kwargs": {"min": 0.1, "max": 0.8}}
MATCHED = {
    "id": "scale_mean_variance",
    "kwargs": {"reference_tensor": "stain", "axes": ["y", "x"], "eps": 1e-6},
}
WAYS = {
    "apart": [ZSCORE],
    "together": [TOGETHER],
    "range after sigmoid": [SIGMOID, RANGE, CLIP],
    "matched": [MATCHED],
    "matched together": [
        {**MATCHED, "kwargs": {**MATCHED["kwargs"], "axes": ["channel", "y", "x"]}}
    ],
}


def image(shape=(64, 80), seed=5, channels=1):
    """Brighter to the right, so that every tile has other statistics than the whole."""
    ramp = np.linspace(1, 4, shape[1])
    values = np.random.default_rng(seed).gamma(2.0, 1.0, (1, channels, *shape)) * ramp
    return values.astype(np.float32)


def channels_in(steps):
    """As many as the output's where statistics of channels are matched one by one."""
    one_by_one = any(
        step["id"] == "scale_mean_variance" and "channel" not in step["kwargs"]["axes"]
        for step in steps
    )
    return 2 if one_by_one else 1


def by_hand(steps, x):
    """What the package's test output is, by numpy."""
    torch.manual_seed(1)
    net = module_from_source(SOURCE.encode(), "net.py").Net(x.shape[1]).eval()
    with torch.inference_mode():
        y = net(torch.from_numpy(x)).numpy().astype(float)
    for step in steps:
        kwargs = step.get("kwargs", {})
        axes = (1, 2, 3) if "channel" in kwargs.get("axes", ()) else (2, 3)
        mean, std = (getattr(y, name)(axis=axes, keepdims=True) for name in ("mean", "std"))
        match step["id"]:
            case "sigmoid":
                y = 1 / (1 + np.exp(-y))
            case "clip":
                y = y.clip(kwargs["min"], kwargs["max"])
            case "zero_mean_unit_variance":
                y = (y - mean) / (std + 1e-6)
            case "scale_range":
                low, high = (np.percentile(y, p, axis=axes, keepdims=True) for p in (3.0, 96.0))
                y = (y - low) / (high - low + 1e-6)
            case "scale_mean_variance":
                own_std, own_mean = x.std(axes, keepdims=True), x.mean(axes, keepdims=True)
                y = (y - mean) / (std + 1e-6) * (own_std + 1e-6) + own_mean
    return net, y.astype(np.float32)


def package(folder, steps):
    x = image((32, 40), channels=channels_in(steps))
    net, expected = by_hand(steps, x)
    given = tensor("stain", x.shape[1], x)
    output = result("classes", "stain", 2, expected, postprocessing=steps)
    return written(folder, [given], [output], state_dict(SOURCE, net, given=x.shape[1]))


@pytest.fixture
def ranged(tmp_path):
    return load_model(str(package(tmp_path / "p", WAYS["range after sigmoid"])), trust=True)


def shown(steps):
    return open_image(image(seed=9, channels=channels_in(steps))[0], axes="cyx")


@pytest.mark.parametrize("way", WAYS)
def test_statistics_are_those_of_the_whole_prediction(way, tmp_path) -> None:
    steps = WAYS[way]
    model = load_model(str(package(tmp_path / "p", steps)), trust=True)
    assert verify(model).passed
    source = shown(steps)
    expected = by_hand(steps, source.data[None])[1][0]
    found = predict(source, model, tile=24, halo=4)
    assert np.abs(found - expected).max() < 5e-5 * expected.std()
    # in a store whose chunks hold one channel each, block by block
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seamscope.images.postprocessing._BLOCK", 4 * 500)
        predict(source, model, str(tmp_path / "out.zarr"), tile=24, halo=4)
    stored = zarr.open_array(str(tmp_path / "out.zarr"))[:]
    assert np.abs(stored - expected).max() < 5e-5 * expected.std()


def test_the_raw_prediction_is_to_be_had(ranged, tmp_path) -> None:
    x = image(seed=9)
    plain = predict(x[0, 0], ranged, tile=24, halo=4, postprocess=False)
    with torch.inference_mode():
        expected = ranged.module(torch.from_numpy(x))[0].numpy()
    assert np.abs(plain - expected).max() < 1e-5
    np.save(tmp_path / "image.npy", x[0, 0])
    assert "measured before it" not in commanded(ranged, tmp_path, "--raw")
    assert np.abs(np.load(tmp_path / "out.npy") - expected).max() < 1e-5
    assert "seams are measured before it" in commanded(ranged, tmp_path)
    low, high = (np.percentile(expected, p, axis=(1, 2), keepdims=True) for p in (3.0, 96.0))
    finished = ((expected - low) / (high - low)).clip(0.1, 0.8)
    assert np.abs(np.load(tmp_path / "out.npy") - finished).max() < 1e-4


def commanded(model, folder, *more: str) -> str:
    """Predict by the command line; return what it said."""
    asked = ["predict", str(folder / "image.npy"), model.spec, str(folder / "out.npy"), *more]
    asked += ["--axes", "yx", "--tile", "24", "--halo", "4", "--trust", "--overwrite"]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.stderr.split())


def test_labels_and_what_compares_predictions_leave_it_out(ranged) -> None:
    x = image(seed=9)[0, 0]
    labels = resolve(open_image(x, axes="yx"), ranged, Settings(tile=24, halo=4, result="labels"))
    assert labels.postprocessing is None
    assert any("before its card's postprocessing" in note for note in labels.notes)
    raw = predict(x, ranged, tile=24, halo=4, postprocess=False)
    assert (predict(x, ranged, tile=24, halo=4, result="labels") == raw.argmax(0)).all()
    # crops would be scaled by statistics of their own
    assert certify(x, ranged, tile=24, halo=4, crops=1).spread == pytest.approx(raw.std(), rel=0.05)


def test_seams_are_measured_before_and_the_record_tells_the_numbers(ranged) -> None:
    source = open_image(image(seed=9)[0, 0], axes="yx")
    plan = resolve(source, ranged, Settings(tile=24, halo=0, overlap=8, seams="all"))
    opened = open_output(Case.planned(source, ranged, plan))
    with opened as output:
        work = Seen()
        events = list(run(Case.planned(source, ranged, plan), output, work=work))
        record = output.record
    assert "whole prediction" in work.phases[-1]
    end = events[-1]
    assert isinstance(end, Finished)
    meter = SeamMeter.of(plan)
    list(run(Case.planned(source, ranged, plan), None, watchers=[meter.watch]))
    assert end.seams.measures.max_dist == meter.measures().max_dist
    told = record["figures"]["postprocessing"]["steps"][0]
    with torch.inference_mode():
        whole = predict(source, ranged, tile=24, halo=0, overlap=8, postprocess=False)
    low = np.percentile(whole, 3, axis=(1, 2))
    assert np.allclose(told["offset"], low, atol=1e-6)


def test_a_cancelled_run_leaves_the_raw_prediction_marked_as_unfinished(ranged, tmp_path) -> None:
    source = open_image(image(seed=9)[0, 0], axes="yx")
    plan = resolve(source, ranged, Settings(tile=24, halo=4))
    opened = open_output(Case.planned(source, ranged, plan), str(tmp_path / "out.zarr"))
    work = Seen(until=lambda seen: any("whole prediction" in phase for phase in seen.phases))
    with opened as output:
        for event in run(Case.planned(source, ranged, plan), output, work=work):
            assert not isinstance(event, Finished)
    assert "whole prediction" in work.phases[-1]
    raw = predict(source, ranged, tile=24, halo=4, postprocess=False)
    stored = zarr.open_array(str(tmp_path / "out.zarr.partial"))
    assert np.array_equal(stored[:], raw)
    assert not output.record["finished"]


def test_what_is_postprocessed_is_not_so_again(ranged, tmp_path, monkeypatch) -> None:
    """Stopped while its map is written, and killed while it is changed."""
    pytest.importorskip("rasterio")
    source, out = open_image(image(seed=9)[0, 0], axes="yx"), tmp_path / "o.cog.tif"
    how = {"tile": 24, "halo": 4, "seams": "none"}
    expected = predict(source, ranged, **how)
    how |= {"out": out, "resume": True}

    def changed_in_part(output, axes, prepared) -> None:
        output.write((slice(0, 2), slice(0, 30), slice(0, 30)), np.zeros((2, 30, 30), "f4"))
        raise Stop

    class Stop(Exception):  # noqa: N818
        """Ends a run as a kill would."""

    with monkeypatch.context() as patch:
        patch.setattr("seamscope.prediction.run.change_result", changed_in_part)
        with pytest.raises(Stop):
            predict(source, ranged, **how)
    seen = [Seen(until=lambda seen: seen.phases[-1:] == ["Writing the map"]), Seen()]
    with pytest.raises(InterruptedError):
        predict(source, ranged, work=seen[0], **how)
    assert np.array_equal(predict(source, ranged, work=seen[1], **how), expected)
    tiles = len(seen[0].parts["Predicting"])
    assert (seen[0].before["Predicting"], seen[1].before["Predicting"]) == (0, tiles)
    measured = [sum("whole prediction" in each for each in work.phases) for work in seen]
    assert measured == [1, 0]
    assert read_record(out)["figures"]["postprocessing"] is not None


def test_predictions_that_are_not_finite_stay_raw_and_that_is_told(tmp_path) -> None:
    """Hours of work are not lost for a pixel."""
    model = load_model(str(package(tmp_path / "p", [ZSCORE])), trust=True)
    source = open_image(image(seed=9)[0, 0], axes="yx")
    model.module.state_dict()["last.bias"][0] = np.inf
    plan = resolve(source, model, Settings(tile=24, halo=4))
    opened = open_output(Case.planned(source, model, plan), str(tmp_path / "out.zarr"))
    with opened as output:
        *_, end = run(Case.planned(source, model, plan), output)
        assert output.record["finished"]
        assert output.record["figures"]["postprocessing"] is None
    assert isinstance(end, Finished)
    for words in (
        "was left out",
        "the prediction has 5120 value(s) that are not finite",
        "`postprocess=False`",
    ):
        assert words in end.warning
    assert "out.zarr" not in end.warning
    raw = predict(source, model, tile=24, halo=4, postprocess=False)
    assert np.array_equal(zarr.open_array(str(tmp_path / "out.zarr"))[:], raw)


@pytest.mark.parametrize(
    "steps",
    [
        [ZSCORE, SIGMOID],
        [{"id": "zero_mean_unit_variance", "kwargs": {"axes": ["x"]}}],
        [MATCHED],
    ],
)
def test_what_is_not_known_is_left_out_whole_and_told(tmp_path, steps) -> None:
    """A sigmoid afterwards; statistics of rows; channels matched to those of an image with one."""
    x = image((32, 40))
    net, _ = by_hand([], x)
    given, output = tensor("stain", 1, x), result("classes", "stain", 2, np.repeat(x, 2, 1))
    output[0]["postprocessing"] = steps
    folder = written(tmp_path / "p", [given], [output], state_dict(SOURCE, net, given=1))
    model = load_model(str(folder), trust=True)
    assert model.postprocessing is None
    assert f"{steps[0]['id']}" in model.notes[0]
    assert "left out" in model.notes[0]
