"""``seamscope segment`` and ``seamscope splits`` as a user types them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from typer.testing import CliRunner

import seamscope
from seamscope.cli import app
from seamscope.cli.segment import RecipeKind
from seamscope.errors import OutputError
from seamscope.images.results.create import create_output
from seamscope.images.results.output import Output
from seamscope.segmentation.corrections import Corrections
from seamscope.segmentation.recipe import Kind


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random((64, 72)), 2)
    p = ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)
    np.save("p.npy", np.stack([p, 1 - p]))
    return tmp_path


def test_segment_writes_labels_table_and_json(folder) -> None:
    words = ("--axes", "cyx", "--channel", 0, "--threshold", 0.6, "--min-size", 5, "--block", 20)
    done = run(
        "segment", "p.npy", "out.tif", *words, "--table", "t.csv", "--json", "o.json", "--quiet"
    )
    assert done.exit_code == 0, done.output
    p = np.load("p.npy")[0]
    labels, count = ndimage.label(p > 0.6)
    kept = [k for k in range(1, count + 1) if (labels == k).sum() >= 5]
    expected = np.zeros(count + 1, np.uint8)
    expected[kept] = np.arange(1, len(kept) + 1)
    np.testing.assert_array_equal(tifffile.imread("out.tif"), expected[labels])
    told = json.loads((folder / "o.json").read_text())
    assert told["objects"] == len(kept)
    assert told["recipe"]["threshold"] == 0.6
    assert len((folder / "t.csv").read_text().splitlines()) == len(kept) + 1
    again = run("segment", "p.npy", "out.tif", *words)
    assert again.exit_code == 1
    assert "out.tif exists" in again.output
    np.save("u.npy", (p * 255).astype(np.uint8))
    whole = run("segment", "u.npy", "u.tif", "--axes", "yx")
    assert "(uint8): they are divided by 255" in whole.output


def test_a_table_that_was_written_before_a_run_stopped_is_written_again(
    folder, monkeypatch
) -> None:
    words = ("segment", "p.npy", "out.zarr", "--axes", "cyx", "--channel", 0)

    def refuse(*_: object, **__: object) -> None:
        raise OutputError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(Output, "finish", refuse)
        stopped = run(*words, "--table", "t.csv")
    assert "To continue, repeat it with --resume" in stopped.output
    before = (folder / "t.csv").read_text()
    (folder / "other.csv").write_text("kept")
    assert "other.csv exists" in run(*words, "--table", "other.csv", "--resume").output
    (folder / "t.csv").write_text(before[:50])  # or a part of it
    done = run(*words, "--table", "t.csv", "--resume")
    assert done.exit_code == 0, done.output
    assert (folder / "other.csv").read_text() == "kept"
    assert (folder / "t.csv").read_text() == before
    assert len(before.splitlines()) > 5
    (folder / "t.csv").unlink()
    written = (folder / "out.zarr" / "c" / "0" / "0").stat()
    done = run(*words, "--table", "t.csv", "--resume")
    assert "only the table is made" in done.output
    assert (folder / "t.csv").read_text() == before
    assert (folder / "out.zarr" / "c" / "0" / "0").stat() == written


def test_labels_join_the_image_that_is_read(folder) -> None:
    p = np.load("p.npy")[0]
    how = {"axes": "yx", "scale": (2.0, 0.5), "units": ("micrometer", "micrometer")}
    with create_output("i.ome.zarr", p.shape, "f4", **how) as output:
        output.write((slice(0, 64), slice(0, 72)), p)
        output.finish()
    before = (folder / "i.ome.zarr" / "0" / "c" / "0" / "0").read_bytes()
    place = "i.ome.zarr/labels/cells"
    assert run("segment", "i.ome.zarr", place, "--threshold", 0.6).exit_code == 0
    again = run("segment", "i.ome.zarr", place, "--threshold", 0.7)
    assert again.exit_code == 1
    assert f"{place} exists" in again.output
    assert "Finding" not in again.output  # said before anything is computed
    assert run("segment", "i.ome.zarr", place, "--threshold", 0.7, "--overwrite").exit_code == 0
    done = run("splits", place, "--tile", 16, "--merge", 0.5, "--out", "i.ome.zarr/labels/merged")
    assert done.exit_code == 0, done.output
    found = seamscope.open_image(place)
    np.testing.assert_array_equal(found.read((slice(None),) * 2), ndimage.label(p > 0.7)[0])
    assert found.scale == (2.0, 0.5)
    labels = folder / "i.ome.zarr" / "labels"
    assert sorted(each.name for each in labels.iterdir()) == ["cells", "merged", "zarr.json"]
    listed = json.loads((labels / "zarr.json").read_text())["attributes"]["ome"]["labels"]
    assert listed == ["cells", "merged"]
    marked = json.loads((labels / "cells" / "zarr.json").read_text())["attributes"]["ome"]
    assert marked["image-label"]["source"] == {"image": "../../"}
    assert (folder / "i.ome.zarr" / "0" / "c" / "0" / "0").read_bytes() == before
    for given in ((place, place), ("i.ome.zarr/0", "i.ome.zarr/0/labels/cells")):
        done = run("segment", *given, "--overwrite")
        assert done.exit_code == 1
        assert "would overwrite" in done.output or "is no OME-Zarr" in done.output


def test_image_and_model_in_one_go(folder) -> None:
    image = np.random.default_rng(1).random((64, 64)).astype(np.float32)
    np.save("i.npy", image)
    done = run("segment", "i.npy", "out.zarr", "--model", "demo:batchnorm", "--tile", 128,
               "--recipe", "boundaries", "--table", "t.csv")  # fmt: skip
    assert done.exit_code == 0, done.output
    p = seamscope.predict(image, "demo:batchnorm", tile=128)
    expected = seamscope.segment(p, kind="boundaries", channel=1, foreground=0, axes="cyx")
    found = seamscope.open_image("out.zarr").read((slice(None),) * 2)
    np.testing.assert_array_equal(found, expected.labels)
    assert "mean_intensity" in (folder / "t.csv").read_text()


def test_an_area_of_a_file_with_several_images(folder) -> None:
    """Image options are those of predict: a series, axes, an area, intensities."""
    images = np.random.default_rng(1).random((2, 40, 200)).astype(np.float32)
    with tifffile.TiffWriter("two.tif") as writer:
        for image in images:
            writer.write(image)
    words = ("two.tif", "--model", "demo:batchnorm", "--tile", 128, "--recipe", "components",
             "--channel", 1, "--series", 1, "--normalize", "none")  # fmt: skip
    done = run("segment", *words, "--area", "x=30:170", "o.ome.zarr", "--table", "t.csv")
    assert done.exit_code == 0, done.output
    p = seamscope.predict(images[1], "demo:batchnorm", tile=128, normalize="none")
    expected = seamscope.segment(p, channel=1, area={"x": (30, 170)}, axes="cyx")
    found = seamscope.open_image("o.ome.zarr")
    np.testing.assert_array_equal(found.read((slice(None),) * 2), expected.labels)
    assert found.origin == (0, 30)
    assert (folder / "t.csv").read_text() == expected.table(images[1]).to_csv()
    assert "provisional" in (folder / "t.csv").read_text()


def test_options_of_a_network_need_one(folder) -> None:
    for words in (("--tile", 64), ("--image-channel", 1), ("--normalize", "zscore"), ("--raw",)):
        done = run("segment", "p.npy", "o.tif", "--axes", "cyx", *words)
        assert done.exit_code == 1
        assert f"{words[0]} says how an image is predicted" in done.output


def test_corrections_are_applied(folder) -> None:
    p = np.load("p.npy")
    found = seamscope.segment(p, axes="cyx", channel=0)
    corrections = Corrections(found, "c.jsonl")
    place = np.argwhere(np.asarray(found.labels) > 0)[0]
    corrections.delete(place)
    done = run(
        "segment", "p.npy", "o.npy", "--axes", "cyx", "--channel", 0, "--corrections", "c.jsonl"
    )
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(np.load("o.npy"), corrections.current.labels)
    done = run("segment", "p.npy", "q.npy", "--axes", "cyx", "--channel", 1,
               "--corrections", "c.jsonl")  # fmt: skip
    assert done.exit_code == 1
    assert "corrections of other labels" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("segment", "p.npy", "o.tif"), "axes"),
        (("segment", "p.npy", "o.tif", "--axes", "cyx"), "(--channel)"),
        (("segment", "p.npy", "o.jpg", "--axes", "cyx"), "o.jpg"),
        (("segment", "p.npy", "o.tif", "--values", "x"), "logits"),
        (("segment", "p.npy", "o.tif", "--axes", "cyx", "--corrections", "x"), "corrections x"),
        (
            ("segment", "p.npy", "o.tif", "--axes", "cyx", "--channel", 0, "--threads", 0),
            "threads is 0: give 1 thread or more",
        ),
        (("splits", "p.npy", "--axes", "zyx"), "whole numbers"),
        (("splits", "u.npy"), "holds numbers that change at"),
        (("splits", "l.npy", "--image", "p.npy"), "--image and --model"),
        (("splits", "l.npy", "--merge", "0.1"), "--out OUT"),
        (("splits", "l.npy", "--merge", "2", "--out", "m.npy"), "from 0 to 1"),
    ],
)
def test_mistakes_are_one_sentence(folder, words, said) -> None:
    np.save("l.npy", np.zeros((40, 40), np.uint8))
    np.save("u.npy", np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8))
    done = run(*words)
    assert done.exit_code in (1, 2)
    assert said in done.output
    assert "Traceback" not in done.output


def test_splits_tests_lists_and_merges(folder) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random((128, 128)), 3)
    truth = ndimage.label(noise > np.quantile(noise, 0.6))[0].astype(np.uint16)
    np.save("truth.npy", truth)
    np.save("l.npy", np.where(truth > 0, truth * 10 + np.arange(128) // 32, 0).astype(np.uint16))
    done = run("splits", "l.npy", "--tile", 32, "--ground-truth", "truth.npy", "--merge", 0.5,
               "--out", "m.npy", "--json", "o.json")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "cut where tiles meet" in done.output
    told = json.loads((folder / "o.json").read_text())
    assert told["test"]["p"] < 0.01
    assert told["agreement"]["share_split_at_seams"] > told["agreement"]["share_split_elsewhere"]
    assert told["merged"]
    merged = np.load("m.npy")
    for a, b in told["merged"]:
        assert not (merged == max(a, b)).any()
    assert run("splits", "m.npy", "--tile", 32).exit_code == 0


def test_recipes_of_the_command_line_are_the_engines() -> None:
    assert {each.value for each in RecipeKind} == set(Kind.__args__)
