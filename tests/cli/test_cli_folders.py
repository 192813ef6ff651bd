"""Patterns and folders in place of one image."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from distributed import Client, LocalCluster
from typer.testing import CliRunner

import seamscope
from seamscope.cli import app
from seamscope.errors import OutputError
from seamscope.execution import pool
from seamscope.images.folders import check_apart, images_in, make_folders, names_for, place_of
from seamscope.models.formats import load_model
from seamscope.prediction.folders import jobs_for, predict_all


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def read(path):
    return np.asarray(seamscope.open_image(path).data[:])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two images of one name, one damaged, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("in").mkdir()
    tifffile.imwrite("in/a10.tif", rng.integers(0, 255, (70, 80), np.uint8))
    tifffile.imwrite("in/a2.tif", rng.integers(0, 255, (60, 90), np.uint8))
    np.save("in/a2.npy", rng.integers(0, 255, (64, 64), np.uint8))
    Path("in/b.tif").write_bytes(Path("in/a2.tif").read_bytes()[:900])
    Path("in/notes.txt").write_text("no image")
    Path("in/.hidden.tif").write_bytes(b"II*\0")
    return tmp_path


@pytest.fixture
def loads(monkeypatch):
    """Names of the networks that are loaded."""
    loaded = []
    monkeypatch.setattr(
        "seamscope.models.formats.load_model",
        lambda name, **how: loaded.append(name) or load_model(name, **how),
    )
    return loaded


def test_every_image_is_predicted_by_one_network_and_a_bad_one_stops_none(folder, loads) -> None:
    words = ("in", "demo:batchnorm", "out/*_p.npy", "--tile", 64, "--halo", 8, "--json", "all.json")
    done = run("predict", *words)
    assert done.exit_code == 1
    assert loads == ["demo:batchnorm"]
    assert sorted(p.name for p in Path("out").glob("*.npy")) == [
        "a10_p.npy", "a2_npy_p.npy", "a2_tif_p.npy",
    ]  # fmt: skip
    model = load_model("demo:batchnorm")
    for image, result in (("a10.tif", "a10"), ("a2.npy", "a2_npy"), ("a2.tif", "a2_tif")):
        expected = seamscope.predict(f"in/{image}", model, tile=64, halo=8)
        np.testing.assert_array_equal(np.load(f"out/{result}_p.npy"), expected)
    told = " ".join(done.output.split())
    assert "1 of 4 images failed: b.tif" in told
    assert "--resume" in told
    record = json.loads(Path("all.json").read_text())
    assert [(Path(e["image"]).name, e["state"]) for e in record["images"]] == [
        ("a2.npy", "done"), ("a2.tif", "done"), ("a10.tif", "done"), ("b.tif", "failed"),
    ]  # fmt: skip
    assert "damaged" in record["images"][3]["sentence"] or "cut" in record["images"][3]["sentence"]
    assert (record["done"], record["failed"], record["left"]) == (3, 1, 0)


def test_numbers_of_images_that_were_done_before_stay_in_the_record(folder) -> None:
    Path("r").mkdir()
    words = (
        "seams",
        "in/a*",
        "demo:batchnorm",
        "--tile",
        64,
        "--no-explain",
        "--report",
        "r/*.html",
    )
    assert run(*words, "--json", "all.json").exit_code == 0
    before = json.loads(Path("all.json").read_text())["images"]
    again = run(*words, "--json", "all.json", "--resume")
    assert again.exit_code == 0
    assert "None" not in again.output
    after = json.loads(Path("all.json").read_text())["images"]
    assert [each["state"] for each in after] == ["skipped"] * 3
    assert [each["record"] for each in after] == [each["record"] for each in before]
    Path("mine.json").write_text('{"my": "data"}')
    refused = run(*words, "--json", "mine.json", "--resume")
    assert refused.exit_code == 1
    assert "mine.json exists" in " ".join(refused.output.split())
    assert Path("mine.json").read_text() == '{"my": "data"}'
    done = ("predict", "in/a10.tif", "demo:batchnorm", "p.npy", "--tile", 64)
    assert run(*done).exit_code == 0
    assert run(*done, "--resume", "--json", "mine.json").exit_code == 1
    assert Path("mine.json").read_text() == '{"my": "data"}'


def test_resume_leaves_what_is_done_and_refuses_what_is_another(folder) -> None:
    words = ("predict", "in/a*", "demo:batchnorm", "out", "--tile", 64)
    assert run(*words, "-q").exit_code == 0
    names = sorted(p.name for p in Path("out").iterdir())
    assert names == ["a10.ome.zarr", "a2_npy.ome.zarr", "a2_tif.ome.zarr"]
    times = {p: p.stat().st_mtime_ns for p in Path("out").rglob("*")}
    tifffile.imwrite("in/a10.tif", np.zeros((70, 80), np.uint8))  # changed since
    again = run(*words, "--resume", "--json", "-")
    assert again.exit_code == 1
    record = json.loads(again.stdout)
    assert [each["state"] for each in record["images"]] == ["skipped", "skipped", "failed"]
    assert "another image content" in record["images"][2]["sentence"]
    assert {p: p.stat().st_mtime_ns for p in Path("out").rglob("*")} == times
    changed = run(*words, "--resume", "--halo", 4, "--json", "-")
    told = json.loads(changed.stdout)["images"]
    assert all("another --halo (auto, now 4)" in each["sentence"] for each in told[:2])
    refused = run(*words, "-q")
    assert refused.exit_code == 1
    assert "a2_npy.ome.zarr exists" in " ".join(refused.output.split())
    done = run(*words, "--overwrite", "-q")
    assert done.exit_code == 0, done.output


def test_segment_seams_and_run_take_folders_too(folder) -> None:
    done = run("segment", "in/a*.tif", "labels/*.tif", "--model", "demo:batchnorm", "--channel", 1,
               "--table", "labels/*.csv")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in Path("labels").glob("*[!n]")) == [
        "a10.csv", "a10.tif", "a2.csv", "a2.tif",
    ]  # fmt: skip
    assert "objects" in done.stdout
    done = run("seams", "in/a*.tif", "demo:batchnorm", "--tile", 64, "--halo", 8, "--no-explain",
               "--json", "-")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["images"]
    model = load_model("demo:batchnorm")
    report = seamscope.measure_seams("in/a2.tif", model, tile=64, halo=8)
    assert found[0]["record"]["max_dist"] == pytest.approx(report.measures.max_dist, rel=1e-6)
    assert (
        run("predict", "in/a2.tif", "demo:batchnorm", "one.npy", "--tile", 64, "-q").exit_code == 0
    )
    done = run("run", "one.npy", "in/a*.tif", "again/*.npy", "-q")
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(np.load("again/a2.npy"), np.load("one.npy"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none/*.tif", "demo:batchnorm", "out"), "No file fits the pattern none/*.tif"),
        (("in/a*", "demo:batchnorm", "out.npy"), "out.npy is one file"),
        (("in/a*", "demo:nothing", "out"), "no demo network 'nothing'"),
        (("in/a*", "demo:batchnorm", "no/such/out"), "no/such/out"),
        (("in/a*", "demo:batchnorm", "in/*.tif"), "in/a10.tif would overwrite"),
    ],
)
def test_what_concerns_all_is_refused(folder, words, said) -> None:
    before = {p: p.read_bytes() for p in Path("in").iterdir()}
    done = run("predict", *words, "--overwrite", "--tile", 64)
    assert done.exit_code in (1, 2)
    assert said in " ".join(done.output.split())
    assert all(path.read_bytes() == content for path, content in before.items())


def test_predict_all(folder) -> None:
    told = []
    found = predict_all("in/*.tif", "demo:batchnorm", "out", tile=64, halo=8, tell=told.append)
    assert [each.state for each in found] == ["done", "done", "failed"] == [t.state for t in told]
    expected = seamscope.predict("in/a10.tif", "demo:batchnorm", tile=64, halo=8)
    np.testing.assert_array_equal(read("out/a10.ome.zarr"), expected)
    again = predict_all("in/*.tif", "demo:batchnorm", "out", tile=64, halo=8, resume=True)
    assert [each.state for each in again] == ["skipped", "skipped", "failed"]


def test_names_never_collide() -> None:
    paths = ["x/a.tif", "y/A.TIF", "x/a.png", "x_a.tif", "x/x_a.tif", "x/a.tif", "x/a_tif.npy"]
    names = names_for(paths)
    assert len({name.casefold() for name in names}) == len(paths)
    assert names_for(["p/a2.tif", "q/b.ome.zarr"]) == ("a2", "b")


def test_a_file_that_is_named_like_an_image_is_not_passed_over(folder) -> None:
    Path("in/broken.TIF").write_text("no image")
    done = run("predict", "in", "demo:batchnorm", "out", "--tile", 64, "--halo", 8, "--dry-run")
    assert done.exit_code == 1
    assert "2 of 5 images failed: b.tif, broken.TIF" in " ".join(done.output.split())


def test_workers_are_started_once_for_all_images(folder, monkeypatch) -> None:
    started = []

    @contextlib.contextmanager
    def workers(count, gpu):
        with (
            pool._quiet_logs(),
            LocalCluster(n_workers=count, processes=False, dashboard_address=None) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            started.append(client)
            yield client

    monkeypatch.setattr(pool, "_own_workers", workers)
    how = ("--tile", 64, "--halo", 8, "--workers", 1, "--seams", "none", "--no-accelerate")
    done = run("predict", "in/a*.tif", "demo:batchnorm", "out", *how)
    assert done.exit_code == 0, done.output
    assert [client.status for client in started] == ["closed"]
    assert sorted(p.name for p in Path("out").iterdir()) == ["a10.ome.zarr", "a2.ome.zarr"]
    asked = {"tile": 64, "halo": 8, "seams": "none", "accelerate": False}
    one = seamscope.predict("in/a2.tif", "demo:batchnorm", **asked)
    np.testing.assert_allclose(read("out/a2.ome.zarr"), np.asarray(one), atol=1e-5)


def test_a_zarr_folder_is_one_image(tmp_path) -> None:
    seamscope.predict(np.zeros((64, 64), np.uint8), "demo:batchnorm", str(tmp_path / "z.zarr"))
    assert images_in(str(tmp_path / "z.zarr")) is None
    assert images_in(str(tmp_path)) == (str(tmp_path / "z.zarr"),)


def test_a_result_never_replaces_an_image_still_to_be_read(folder) -> None:
    raw = Path("in/a10_1.tif")
    tifffile.imwrite(raw, np.ones((64, 64), np.uint8))
    before = {p: p.read_bytes() for p in Path("in").iterdir()}
    done = run("predict", "in/*.tif", "demo:batchnorm", "in/*_1.tif", "--overwrite", "--tile", 64)
    assert done.exit_code == 1
    told = " ".join(done.output.split())
    assert "in/a10_1.tif would overwrite in/a10_1.tif, which is read" in told
    assert {p: p.read_bytes() for p in Path("in").iterdir()} == before
    with pytest.raises(OutputError, match=r"a10_1\.tif, which is read"):
        predict_all("in/*.tif", "demo:batchnorm", "in/*_1.tif", overwrite=True)
    with pytest.raises(OutputError, match="which is read"):  # around an image, by another name
        check_apart(["in/a10.tif"], ["out", "in/../in"])
    check_apart(["in/a10.tif", "s3://b/in/a.zarr"], ["in/a10.ome.zarr", "s3://b/in/a.zarr"])


def test_results_that_a_pattern_fits_are_not_predicted_when_resumed(folder) -> None:
    words = ("predict", "in/a1*.tif", "demo:batchnorm", "in/*_1.tif", "--tile", 64, "--json", "-")
    assert run(*words, "-q").exit_code == 0
    again = run(*words, "--resume")
    assert again.exit_code == 0, again.output
    assert [e["image"] for e in json.loads(again.stdout)["images"]] == ["in/a10.tif"]
    found = predict_all("in/a1*.tif", "demo:batchnorm", "in/*_1.tif", tile=64, resume=True)
    assert [(each.image, each.state) for each in found] == [("in/a10.tif", "skipped")]
    assert not list(Path("in").glob("*_1_1*"))


def test_what_no_image_can_change_ends_the_command(folder) -> None:
    done = run("predict", "in/a*", "demo:batchnorm", "out", "--fingerprint", "00000000")
    assert done.exit_code == 1
    assert "fingerprint" in done.output
    assert "The others are done" not in done.output
    assert done.output.count("Image ") == 1


def test_a_stopped_command_counts_what_was_not_begun(folder, monkeypatch) -> None:
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("seamscope.prediction.run.begin", stop)
    done = run("predict", "in/a*", "demo:batchnorm", "out")
    assert done.exit_code == 130
    told = " ".join(done.output.split())
    assert "Stopped: 3 of 3 images are not done, 2 of them were not begun." in told
    assert "a2.npy stopped" in told
    assert "failed" not in told


def test_results_in_object_stores_have_no_folders(folder) -> None:
    assert place_of("s3://bucket/results/", "a") == "s3://bucket/results/a.ome.zarr"
    make_folders([job.out for job in jobs_for("in/a*.tif", "s3://bucket/results")])
    assert not list(Path().glob("s3*"))
