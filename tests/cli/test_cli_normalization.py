"""``seamscope normalization`` and ``freeze``, and ``--statistics`` on other commands."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import networks
from seamscope.cli import app
from seamscope.demo import sample_image, zscore
from seamscope.errors import OutputError
from seamscope.explain.feature_statistics import measure_features
from seamscope.ledger import Ledger
from seamscope.normalization.statistics import Statistics
from seamscope.reports.normalization_page import draw_tile_means, draw_tile_variances
from seamscope.text import figure_text


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an image, its labels, and networks as TorchScript."""
    folder = tmp_path_factory.mktemp("cli")
    image, labels = (part[:160, :160] for part in sample_image("tissue2d"))
    np.save(folder / "image.npy", zscore(image))
    np.save(folder / "labels.npy", (labels > 1).astype(np.uint8))
    torch.manual_seed(0)
    for norm in ("instance", "batch", None):
        network = networks.UNet(2, 2, norm=norm).eval()
        traced = torch.jit.trace(network, torch.zeros(1, 1, 32, 32))
        torch.jit.save(traced, folder / f"{norm}.pt")
    return folder


def _run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


pytestmark = pytest.mark.filterwarnings("ignore")  # of TorchScript about itself


def test_layers_of_a_network(place) -> None:
    result = _run("normalization", place / "instance.pt", "--json", "-")
    told = json.loads(result.stdout)
    assert len(told["layers"]) == 10
    first = told["layers"][0]
    assert (first["name"], first["kind"], first["statistics"]) == (
        "down.0.1",
        "InstanceNorm",
        "tile",
    )
    assert first["deviation"] is None
    assert told["repairable"]
    assert told["global_operations"] == []
    assert told["train_eval_disparity"] is None
    text = _run("normalization", place / "instance.pt").stdout
    assert "10 layers normalize with per-tile statistics" in text
    header = next(line for line in text.splitlines() if line.startswith("layer"))
    assert header.split() == ["layer", "kind", "channels", "statistics", "affine"]
    assert text.count("every pixel depends on the whole tile") == 1  # told once, not for each


def test_features_and_disparity_of_an_image(place) -> None:
    page, answer = place / "page.html", place / "answer.json"
    given = ["--image", place / "image.npy", "--tile", 48, "--json", answer, "--report", page]
    result = _run("normalization", place / "batch.pt", *given)
    assert result.exit_code == 0, result.output
    told = json.loads(answer.read_text())
    assert {layer["reference"] for layer in told["layers"]} == {"running"}
    assert all(layer["deviation"] > 0 for layer in told["layers"])
    assert len(told["train_eval_disparity"]) == 2
    assert all(0 <= value <= 1 for value in told["train_eval_disparity"].values())
    assert told["tile"] == [48, 48]
    written = page.read_text()
    for layer in told["layers"]:
        assert layer["name"] in written
    assert "http://" not in written.replace("http://www.w3.org", "")
    assert f"{told['disparity']['per_channel'][0]:.3g}" in written


def _pages_table(written, first):
    """Rows of the table whose header begins so, its header first."""
    for table in re.findall(r"<table>(.*?)</table>", written, re.S):
        rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr>")[1:]]
        if rows[0][: len(first)] == list(first):
            return rows
    raise AssertionError(first)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_page_says_of_each_layer_what_it_is_and_means(place, norm) -> None:
    page = place / f"layers_{norm}.html"
    given = ["--image", place / "image.npy", "--tile", 48, "--json", "-", "--report", page]
    told = json.loads(_run("normalization", place / f"{norm}.pt", *given).stdout)
    written = page.read_text()
    header, *rows = _pages_table(written, ("layer", "kind"))
    assert header[3:] == ["statistics", "affine", "what it means"]
    means = {"tile": "depends on its whole tile", "running": "the same for every tile"}
    for row, layer in zip(rows, told["layers"], strict=True):
        assert row[:3] == [layer["name"], layer["kind"], str(layer["channels"])]
        assert row[3:5] == [layer["statistics"], {True: "yes", False: "no"}[layer["affine"]]]
        assert means[layer["statistics"]] in row[5]
    _, *rows = _pages_table(written, ("layer", "deviation"))
    for row, layer in zip(rows, told["layers"], strict=True):
        numbers = (layer["deviation"], layer["deviation_largest"], layer["spread_ratio"])
        assert row[1:4] == [f"{value:.3g}" for value in numbers]
    head = {"instance": "normalized differently, which can be fixed", "batch": "normalized alike"}
    assert head[norm] in written
    assert "mean of each channel" in written
    assert "variance of each channel" in written
    assert "mathdefault" not in written
    for formula in re.findall(r"<math.*?</math>", written):  # else its parts stand in a heap
        assert re.fullmatch(r"<math display='block'><mrow>.*</mrow></math>", formula)


def test_panels_show_mean_and_variance_of_each_tile() -> None:
    """Against features that are computed anew."""
    x = np.random.default_rng(2).gamma(2, size=(64, 48)).astype(np.float32)
    net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.InstanceNorm2d(1))
    (layer,) = measure_features(x, net, tile=16).layers
    tiles = x.reshape(4, 16, 3, 16).swapaxes(1, 2).reshape(12, -1).astype(np.float64)
    for drawn, expected, whole in (
        (draw_tile_means(layer), tiles.mean(1), tiles.mean()),
        (draw_tile_variances(layer), tiles.var(1), tiles.var()),
    ):
        dots, line = drawn.axes[0].lines
        np.testing.assert_allclose(dots.get_ydata(), expected, rtol=1e-5)
        np.testing.assert_allclose(line.get_ydata(), whole, rtol=1e-5)


def test_deviations_are_told_against_the_whole_image(place) -> None:
    given = ["--image", place / "image.npy", "--tile", 48, "--most", 5, "--json", "-"]
    told = json.loads(_run("normalization", place / "instance.pt", *given).stdout)
    assert {layer["reference"] for layer in told["layers"]} == {"image"}
    assert told["train_eval_disparity"] is None
    assert told["batches"]["sizes"][0] == 1


def test_nothing_to_tell_is_told(place) -> None:
    told = json.loads(_run("normalization", place / "None.pt", "--json", "-").stdout)
    assert (told["layers"], told["repairable"]) == ([], True)


def test_freeze_then_use(place) -> None:
    image, model, out = place / "image.npy", place / "instance.pt", place / "frozen"
    result = _run("freeze", image, model, out, "--tile", 96, "--json", "-", "--labels",
                  place / "labels.npy")  # fmt: skip
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["how"] == "exact"
    assert told["cost"]["tiles"] == 9
    comparison = told["comparison"]
    assert comparison["before"]["max_dist"] > 0.1
    assert comparison["after"]["max_dist"] < 1e-5
    assert len(comparison["dice_before"]) == len(comparison["dice_after"]) == 2
    assert len(Statistics.load(out).layers) == 10
    assert not (place / "frozen.partial").exists()

    seams = _run("seams", image, model, "--tile", 96, "--statistics", out, "--no-explain", "--json",
                 "-")  # fmt: skip
    assert json.loads(seams.stdout)["seamless"]
    predicted = place / "predicted.npy"
    done = _run("predict", image, model, predicted, "--tile", 96, "--statistics", out)
    assert done.exit_code == 0, done.output
    info = json.loads(_run("info", model, "--statistics", out, "--json", "-").stdout)
    assert info["bounded"]
    whole = torch.jit.load(model)(torch.from_numpy(np.load(image))[None, None])[0]
    np.testing.assert_allclose(np.load(predicted), whole.detach().numpy(), atol=1e-4)


def test_before_and_after_are_told_side_by_side_and_drawn(place) -> None:
    image, model, page = place / "image.npy", place / "instance.pt", place / "repair.html"
    given = ["--tile", 96, "--labels", place / "labels.npy", "--report", page, "--json"]
    answer = place / "repair.json"
    result = _run("freeze", image, model, place / "told", *given, answer)
    assert result.exit_code == 0, result.output
    told = json.loads(answer.read_text())["comparison"]
    assert told["why_before"]["verdict"] == "tile statistics"
    assert told["why_after"]["verdict"] == "seamless"
    assert min(told["before"]["halo_curve"]["max_dist"]) > 0.1
    assert told["after"]["halo_curve"]["max_dist"][-1] < 1e-5
    lines = [line.split("  ") for line in result.stdout.splitlines()]
    table = {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in lines}
    assert ["before", "after"] in [line.split() for line in result.stdout.splitlines()]
    assert "Measured at tiles of 96 x 96 pixels" in result.stdout
    assert table["verdict"] == ["tile statistics", "seamless"]
    dice = [figure_text(told[f"dice_{when}"][0]) for when in ("before", "after")]
    assert table["Dice with labels, channel 0"] == dice
    written = page.read_text()
    for text in ("before, largest", "after, largest", *dice, "before and after fixing"):
        assert text in written
    assert told["why_before"]["explanation"] in html.unescape(written)
    assert "http://" not in written.replace("http://www.w3.org", "")


@pytest.mark.parametrize("threshold", [0.5, -0.05])
def test_all_commands_tell_the_same_dice(place, threshold) -> None:
    """That of the labels which `predict` writes, of one channel that is no probability."""
    torch.manual_seed(0)
    network = networks.UNet(2, 2, norm="instance", classes=1).eval()
    image, labels, page = place / "image.npy", place / "labels.npy", place / "one.html"
    model, frozen, mask = place / "one.pt", place / f"one {threshold}", place / f"{threshold}.npy"
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 1, 32, 32)), model)
    ask = ["--overlap", 20, "--halo", 8, "--threshold", threshold]
    given = [*ask, "--labels", labels, "--report", page, "--json", place / "one.json"]
    given.append("--overwrite")
    result = _run("freeze", image, model, frozen, "--tile", 96, "--no-explain", *given)
    assert result.exit_code == 0, result.output
    compared = json.loads((place / "one.json").read_text())["comparison"]
    written = [page.read_text()]
    assert f"after, at threshold {threshold})." in result.stdout
    result = _run("sweep", image, model, "--tiles", 96, *given)
    swept = json.loads((place / "one.json").read_text())
    written.append(page.read_text())
    assert f"labels at threshold {threshold} is " in result.stdout
    true = np.load(labels) == 1
    for told, fixed in (
        (compared["dice_before"], []),
        (swept["dice"]["value"][0], []),
        (compared["dice_after"], ["--statistics", frozen]),
    ):
        asked = [*ask, *fixed, "--tile", 96, "--result", "labels", "--overwrite"]
        _run("predict", image, model, mask, *asked)
        found = np.load(mask) == 1
        dice = 2 * (found & true).sum() / (found.sum() + true.sum())
        assert told == pytest.approx([dice], rel=1e-9)
    assert 0 < compared["dice_before"][0] < 1
    assert compared["threshold"] == swept["threshold"] == threshold
    for text in written:
        assert f"where the output is above {threshold}." in text
        assert ("which are no probabilities" in text) == (threshold == 0.5)


def test_the_explanation_can_be_left_out(place) -> None:
    image, model = place / "image.npy", place / "instance.pt"
    given = ["--tile", 96, "--compare", "--no-explain", "--json", "-"]
    told = json.loads(_run("freeze", image, model, place / "short", *given).stdout)
    assert told["comparison"]["why_before"] is None
    assert told["comparison"]["after"]["seamless"]


def test_statistics_of_another_image_are_taken_over(place) -> None:
    image, model = place / "image.npy", place / "instance.pt"
    _run("freeze", image, model, place / "one", "--how", "sampled", "--tiles", 2, "--tile", 96)
    result = _run("freeze", image, model, place / "two", "--how", place / "one")
    assert result.exit_code == 0, result.output
    one, two = (Statistics.load(place / name) for name in ("one", "two"))
    assert one.how == two.how == "sampled"
    assert np.array_equal(one.layers[3].mean, two.layers[3].mean)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["freeze", "image.npy", "batch.pt", "x"], "Nothing to fix"),
        (["freeze", "image.npy", "batch.pt", "x"], "without seams: it looks 22 px far"),
        (
            ["freeze", "image.npy", "instance.pt", "x", "--how", "sampled", "--tiles", "0"],
            "0 tiles are no sample",
        ),
        (
            ["freeze", "image.npy", "instance.pt", "x", "--tile", "32", "--halo", "16"],
            "is too small for halos",
        ),
        (["freeze", "image.npy", "instance.pt", "x", "--how", "never"], "choose exact, local"),
        (["freeze", "image.npy", "instance.pt", "image.npy"], "image.npy"),
        (["freeze", "image.npy", "instance.pt", "labels.npy"], "exists. Choose another"),
        (["freeze", "image.npy", "instance.pt", "x", "--how", "labels.npy"], "no statistics"),
        (
            ["predict", "image.npy", "batch.pt", "y.npy", "--statistics", "f"],
            "made for the network",
        ),
        (["info", "batch.pt", "--statistics", "nowhere"], "There is no file"),
        (["info", "batch.pt", "--statistics", "image.npy"], "is an image, and holds no statistics"),
        (["freeze", "image.npy", "batch.pt", "x", "y"], "extra argument(s) (y). Correct that;"),
        (["freeze", "image.npy", "batch.pt", "/proc/x"], "/proc/x cannot be written (No such file"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(place, monkeypatch, arguments, sentence) -> None:
    monkeypatch.chdir(place)
    if "f" in arguments:
        _run("freeze", "image.npy", "instance.pt", "f", "--tile", 96, "--overwrite")
    result = _run(*arguments)
    assert result.exit_code in (1, 2)
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (place / "x").exists()


def _words(text):
    return " ".join(text.split())


def test_what_is_fixed_is_told_and_not_taken_for_training(place) -> None:
    image, model, out = place / "image.npy", place / "instance.pt", place / "known"
    _run("freeze", image, model, out, "--tile", 96)
    info = _run("info", model, "--statistics", out)
    assert "fixed: exact, 10 layers, of image (160 x 160)" in info.stdout
    told = json.loads(_run("info", model, "--statistics", out, "--json", "-").stdout)
    assert told["fixed_statistics"]["how"] == "exact"
    given = ["--image", image, "--tile", 48, "--statistics", out, "--json", "-"]
    told = json.loads(_run("normalization", model, *given).stdout)
    assert {layer["statistics"] for layer in told["layers"]} == {"running"}
    assert told["train_eval_disparity"] is None
    assert told["fixed_statistics"]["image"] == "image"
    (advice,) = told["advice"]
    assert "Statistics are fixed" in advice
    taken = _run("freeze", image, model, place / "taken", "--how", out)
    assert f"Copied from {out}: exact, 10 layers" in _words(taken.stdout)


def test_what_does_not_go_together_is_noted(place) -> None:
    image, model = place / "image.npy", place / "instance.pt"
    np.save(place / "other.npy", np.load(image)[::-1].copy())
    for how in ("exact", "local"):
        _run("freeze", image, model, place / how, "--how", how, "--tile", 96, "--normalize",
             "zscore", "--cell", 32, "--overwrite")  # fmt: skip

    def noted(name, statistics, *more):
        given = [place / name, model, place / "y.npy", "--overwrite", "--tile", 96]
        result = _run("predict", *given, "--statistics", place / statistics, *more)
        assert result.exit_code == 0, result.output
        return _words(result.stderr)

    off = (
        "found with intensities normalized by zscore, but image is read with intensities "
        "normalized by none. Predictions will be wrong. Read it alike (--normalize zscore)"
    )
    elsewhere = "belong to positions in image. If other is another image"
    assert off in noted("image.npy", "exact")
    assert off not in noted("image.npy", "exact", "--normalize", "zscore")
    assert elsewhere in noted("other.npy", "local", "--normalize", "zscore")
    assert elsewhere not in noted("image.npy", "local", "--normalize", "zscore")
    assert elsewhere not in noted("other.npy", "exact", "--normalize", "zscore")
    result = _run("export", model, place / "y.pt2", "--statistics", place / "local")
    assert result.exit_code == 1
    assert "belong to places of one image" in _words(result.stderr)
    assert not (place / "y.pt2").exists()


def test_what_keeps_statistics_from_being_exact_is_noted(place) -> None:
    image, model, out = place / "image.npy", place / "instance.pt", place / "noted"

    def noted(*more):
        result = _run("freeze", image, model, out, "--overwrite", "--json", "-", *more)
        assert result.exit_code == 0, result.output
        return " ".join(json.loads(result.stdout)["cost"]["notes"])

    assert noted("--tile", 96) == noted() == noted("--halo", 8) == ""
    assert "halo of 8 px is less than the reach of the convolutions, 22 px" in noted(
        "--tile", 96, "--halo", 8
    )
    shown = _run("freeze", image, model, out, "--overwrite", "--tile", 96, "--halo", 8)
    assert "halo of 8 px is less than the reach of the convolutions, 22 px" in _words(shown.stderr)
    assert "The area along y is ignored" in noted("--tile", 96, "--area", "y=0:80")
    sampled = ("--how", "sampled", "--tile", 96, "--tiles")
    assert "too few to estimate the difference from exact statistics" in noted(*sampled, 3)
    assert noted(*sampled, 4) == ""


def test_interrupted_freezing_goes_on(place, monkeypatch) -> None:
    """Ctrl-C keeps what was found; --resume goes on from there."""
    from seamscope.progress import Steps

    image, model, out = place / "image.npy", place / "instance.pt", place / "resumed"
    one = Steps.one
    counted = []

    def interrupted(self):
        one(self)
        counted.append(1)
        if len(counted) == 18:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Steps, "one", interrupted)
    result = _run("freeze", image, model, out, "--tile", 96)
    assert result.exit_code == 130, result.output
    assert not out.exists()
    assert len(Ledger(place / "resumed.partial").done) == 18
    monkeypatch.setattr(Steps, "one", one)
    save = Statistics.save

    def full(self, path):
        if path == out:
            raise OutputError("The disk is full.")
        save(self, path)

    monkeypatch.setattr(Statistics, "save", full)
    assert _run("freeze", image, model, out, "--tile", 96, "--resume").exit_code == 1
    assert len(Ledger(place / "resumed.partial").done) > 18  # until the statistics are written
    monkeypatch.setattr(Statistics, "save", save)
    assert _run("freeze", image, model, out, "--tile", 96, "--resume").exit_code == 0
    assert not (place / "resumed.partial").exists()
    _run("freeze", image, model, place / "straight", "--tile", 96)
    resumed, straight = (Statistics.load(place / name) for name in ("resumed", "straight"))
    for a, b in zip(resumed.layers, straight.layers, strict=True):
        assert np.array_equal(a.mean, b.mean)
        assert np.array_equal(a.var, b.var)


def test_where_tiles_wait_is_the_users_choice(place) -> None:
    given = [place / "image.npy", place / "instance.pt", place / "anew", "--tile", 96]
    given += ["--overwrite", "--memory", "1MB", "--json", "-"]
    anew = json.loads(_run("freeze", *given, "--disk", "0").stdout)["cost"]
    assert anew["recomputed"] == anew["tiles"] > 1
    assert anew["disk"] == 0
    kept = json.loads(_run("freeze", *given, "--disk", "1GB").stdout)["cost"]
    assert kept["on_disk"] == kept["tiles"]


def test_a_stop_while_comparing_does_not_hide_what_is_written(place, monkeypatch) -> None:
    def stopped(*_, **__):
        raise InterruptedError

    monkeypatch.setattr("seamscope.compare.before_after.compare_statistics", stopped)
    out = place / "kept"
    given = [place / "image.npy", place / "instance.pt", out, "--tile", 96, "--compare"]
    result = _run("freeze", *given)
    assert result.exit_code == 130
    assert "is complete, and the comparison was stopped" in _words(result.stderr)
    monkeypatch.undo()
    given[2] = place / "another"
    again = _run("freeze", *given, "--how", out)
    assert again.exit_code == 0, again.output
    assert "after" in again.stdout
