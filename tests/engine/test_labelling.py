"""Labels on a ledger: interrupted labels are continued, and equal those that were not."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from scipy import ndimage
from typer.testing import CliRunner

import seamscope
import seamscope.cli
from seamscope.errors import OutputError, SettingsError
from seamscope.execution import worker
from seamscope.files import Claim
from seamscope.images.image import open_image
from seamscope.images.records import read_record
from seamscope.images.results.output import Output
from seamscope.ledger import Ledger
from seamscope.prediction.resuming import share_done
from seamscope.segmentation import room
from seamscope.segmentation.blocks import Blocks
from seamscope.segmentation.stages import Stages
from watching import Seen

RNG = np.random.default_rng(5)


def smooth(*shape: int, channels: int = 0) -> np.ndarray:
    """Values from 0 to 1 with spots of a few pixels, ``(C, *shape)`` where there are channels."""
    each = [ndimage.gaussian_filter(RNG.random(shape), 2) for _ in range(channels or 1)]
    values = np.stack([(v - v.min()) / (v.max() - v.min()) for v in each]).astype(np.float32)
    return values if channels else values[0]


IMAGES = {
    "yx": smooth(90, 110),
    "cyx": smooth(90, 110, channels=3),
    "zyx": smooth(20, 36, 40),
    "tyx": np.stack([smooth(60, 70), smooth(60, 70)]),
}
HOLES = {"kind": "components", "fill_holes": True, "min_size": 4, "threshold": 0.45}
CASES = [
    ("yx", ".zarr", HOLES, None),
    ("yx", ".ome.zarr", {**HOLES, "connectivity": 2, "clear_border": True}, 2),
    ("yx", ".tif", {"kind": "distance", "max_size": 900}, 2),
    ("cyx", ".npy", {"kind": "embeddings", "cap": 0.2, "seed_threshold": 0.03}, None),
    ("cyx", ".zarr", {"kind": "embeddings", "cap": 0.2, "seed_threshold": 0.03}, 2),
    ("cyx", ".zarr", {"kind": "classes", "fill_holes": True}, 2),
    ("zyx", ".ome.zarr", {"kind": "boundaries", "seed_threshold": 0.4}, None),
    ("zyx", ".ome.zarr", HOLES, 2),
    ("tyx", ".ome.zarr", HOLES, None),
    ("tyx", ".zarr", {"kind": "boundaries", "seed_threshold": 0.4}, 2),
]


class Stop(Exception):  # noqa: N818
    """Ends a run as a fault of the user's own code would."""


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the blocks that are done, in order; more than `done.most` raise."""

    class Done(list[int]):
        most = 10**9

    found = Done()
    real = Stages.carry_out

    def carry_out(self: Stages, number: int, *args: Any) -> int:
        if len(found) >= found.most:
            raise Stop
        result = real(self, number, *args)
        found.append(number)
        return result

    monkeypatch.setattr(Stages, "carry_out", carry_out)
    return found


def size(axes: str) -> Any:
    return {"yx": 33, "cyx": 33, "zyx": (9, 17, 17), "tyx": (1, 33, 33)}[axes]


def expected(axes: str, recipe: dict[str, Any]) -> np.ndarray:
    return np.asarray(seamscope.segment(IMAGES[axes], axes=axes, **recipe).labels)


def stored(out: Path, axes: str) -> np.ndarray:
    found = open_image(out)
    order = [found.axes.index(letter) for letter in axes.replace("c", "")]
    return np.asarray(found.read((slice(None),) * found.ndim)).transpose(order)


def saved(axes: str, folder: Path) -> str:
    np.save(folder / f"{axes}.npy", IMAGES[axes])
    return str(folder / f"{axes}.npy")


@pytest.mark.parametrize(("axes", "ending", "recipe", "on"), CASES, ids=str)
def test_resumed_equals_uninterrupted(
    axes: str,
    ending: str,
    recipe: dict[str, Any],
    on: Any,
    tmp_path: Path,
    done: Any,
    workers_here: Any,
) -> None:
    whole = expected(axes, recipe)
    out, image = tmp_path / f"o{ending}", saved(axes, tmp_path)
    how = {"axes": axes, "blocks": size(axes), "on": on, **recipe}
    ledger = tmp_path / f".{out.name}.ledger"
    for _ in range(60):  # until a run does not stop any more
        before = len(done)
        done.most = before + 9
        with contextlib.suppress(Stop, OutputError):
            seamscope.segment(image, out=out, resume=True, **how)
        if out.exists():
            break
        worker.close()
        marks = Ledger(ledger).done
        assert set(marks) == set(done)
        assert len(done) > before or not before
    assert len(done) == len(set(done)) > 10  # none lost, none twice
    np.testing.assert_array_equal(stored(out, axes), whole)
    assert open_image(out).dtype == whole.dtype
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_objects_can_be_read_after_labels_are_written(tmp_path: Path, workers_here: Any) -> None:
    image, more = saved("yx", tmp_path), {"blocks": 40, **HOLES}
    alone = seamscope.segment(image, blocks=27, **HOLES)
    written = seamscope.segment(image, out=tmp_path / "o.zarr", **more)
    shared = seamscope.segment(image, on=2, **more)
    for found in (written, shared):
        for each, like in ((found, alone), (found.at(threshold=0.6), alone.at(threshold=0.6))):
            np.testing.assert_array_equal(each.labels, like.labels)
        at = (slice(3, 80, 7), slice(50, 51))
        np.testing.assert_array_equal(found.nodes(at), alone.nodes(at))
        assert found.basin_at((12, 30)) == alone.basin_at((12, 30))
    assert written.table().to_csv() == alone.table().to_csv()
    folder = Path(written._basis.room.folder.path)
    assert folder.exists()
    assert folder.name.startswith(".seamscope-")
    del written, found, each
    assert not folder.exists()


@pytest.mark.parametrize("lost", [False, True])
def test_what_was_kept_for_a_result_is_there_when_it_is_resumed(
    lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels move when the result is in its place, not before; where they are gone, made again."""
    image, out = saved("yx", tmp_path), tmp_path / "o.zarr"
    how = {"blocks": 40, **HOLES}
    alone = seamscope.segment(image, **how)

    def refused(self: Claim, *keep: Any) -> None:
        raise OSError(28, "No space left")

    with monkeypatch.context() as patch:
        patch.setattr(Claim, "swap", refused)
        with pytest.raises(OutputError, match="is full"):
            seamscope.segment(image, out=out, **how)
    if lost:
        shutil.rmtree(tmp_path / ".o.zarr.basins")
        marks = Ledger(tmp_path / ".o.zarr.ledger")
        marks.unmark([number for number in marks.done if number >= 4 * 9])  # labels
    found = seamscope.segment(image, out=out, resume=True, **how)
    np.testing.assert_array_equal(stored(out, "yx"), alone.labels)
    np.testing.assert_array_equal(found.labels, alone.labels)
    assert found.table().to_csv() == alone.table().to_csv()
    assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {"yx.npy", "o.zarr"}


def begun(tmp_path: Path, done: Any, stage: str = "labels", **more: Any) -> tuple[str, Path]:
    """Labels that were stopped in a stage; returns the image and the place of the labels."""
    image, out = saved("yx", tmp_path), tmp_path / "o.ome.zarr"
    blocks = 12  # of 90 x 110 pixels
    done.most = {"basins": 5, "labels": 2 * blocks}[stage]
    with contextlib.suppress(Stop):
        seamscope.segment(image, out=out, blocks=33, **more)
    done.most = 10**9
    return image, out


def test_what_the_disk_has_lost_is_made_again(tmp_path: Path, done: Any) -> None:
    """Marks are there, and pixels or numbers are not, as after a power cut."""
    image, out = saved("yx", tmp_path), tmp_path / "o.zarr"
    how = {"blocks": 33, **HOLES}
    done.most = 4 * 12  # all stages but the labels
    with pytest.raises(Stop):
        seamscope.segment(image, out=out, **how)
    done.most = 10**9
    basins = tmp_path / ".o.zarr.basins"
    for array in ("fragments", "background"):
        (basins / array / "c" / "1" / "2").unlink()
    marks = tmp_path / ".o.zarr.ledger"
    for lost in ("basins.npz", "12.part"):  # as of a run that ended before blocks were joined
        (marks / lost).unlink()
    for cut in ("1.part", "37.part"):
        os.truncate(marks / cut, (marks / cut).stat().st_size - 3)
    work = Seen()
    found = seamscope.segment(image, out=out, resume=True, work=work, **how)
    numbers = [sentence.split()[4] for sentence in work.sentences if "has lost" in sentence]
    assert numbers == ["2", "1", "1", "1"]
    assert len(done) == 4 * 12 + 5 + 1
    np.testing.assert_array_equal(stored(out, "yx"), seamscope.segment(image, **HOLES).labels)
    assert found.count > 3


@pytest.mark.parametrize("stage", ["basins", "labels"])
def test_unfinished_labels_say_so(stage: str, tmp_path: Path, done: Any) -> None:
    image, out = begun(tmp_path, done, stage)
    record = read_record(tmp_path / "o.ome.zarr.partial")
    assert record["finished"] is False
    assert record["segmentation"]["recipe"]["kind"] == "components"
    assert open_image(tmp_path / "o.ome.zarr.partial").shape == (90, 110)
    with pytest.raises(OutputError, match=rf"{len(done)} blocks are done \(`resume=True`\)"):
        seamscope.segment(image, out=out, blocks=33)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threshold": 0.4}, r"another recipe threshold \(0.5, now 0.4\)"),
        ({"kind": "distance"}, "another recipe kind"),
        ({"area": {"y": (0, 50)}}, "another `area`"),
        ({"channel_names": ["foreground"]}, r"another channel names \(none, now"),
        ("image", "another image content"),
        ("version", "another version of Seamscope"),
    ],
)
def test_other_labels_are_refused(change: Any, said: str, tmp_path: Path, done: Any) -> None:
    image, out = begun(tmp_path, done)
    if change == "image":
        np.save(image, IMAGES["yx"] ** 2)
    elif change == "version":
        Ledger(tmp_path / ".o.ome.zarr.ledger").note("version of Seamscope", "0.0.1")
    before = list(done)
    with pytest.raises(OutputError, match=f"o.ome.zarr was begun with {said}"):
        seamscope.segment(
            image, out=out, resume=True, **(change if isinstance(change, dict) else {})
        )
    assert list(done) == before


def test_only_one_command_writes_labels(tmp_path: Path) -> None:
    image, out = saved("yx", tmp_path), tmp_path / "o.zarr"
    said = []

    def second(phase: str, step: int) -> None:
        with pytest.raises(OutputError, match="is being written by another process") as error:
            seamscope.segment(image, out=out, resume=True)
        said.append((phase, str(error.value)))

    seamscope.segment(image, out=out, blocks=60, work=Seen(on_step=second))
    assert {phase for phase, _ in said} == {
        "Finding basins", "Measuring objects", "Writing labels",
    }  # fmt: skip
    np.testing.assert_array_equal(stored(out, "yx"), expected("yx", {}))


@pytest.mark.parametrize("error", [OSError(28, "No space left"), PermissionError(13, "denied")])
@pytest.mark.parametrize("where", ["fragments", "marks", "labels"])
def test_a_disk_that_refuses_in_the_middle(
    where: str, error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, out = saved("yx", tmp_path), tmp_path / "o.zarr"
    home, name, after = {
        "fragments": (Stages, "_keep", 8),
        "marks": (os, "replace", 40),
        "labels": (Output, "flush", 0),
    }[where]
    real, calls = getattr(home, name), []

    def refusing(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > after:
            raise error
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(home, name, refusing)
        with pytest.raises(OutputError, match=r"full|cannot be wri"):
            seamscope.segment(image, out=out, blocks=30)
    assert Ledger(tmp_path / ".o.zarr.ledger").done
    seamscope.segment(image, out=out, blocks=30, resume=True)
    np.testing.assert_array_equal(stored(out, "yx"), expected("yx", {}))


@pytest.mark.parametrize("ending", [".zarr", ".tif"])
@pytest.mark.parametrize("moment", ["noted", "made", "removed", "renamed"])
def test_killed_while_the_type_changes(
    moment: str, ending: str, tmp_path: Path, done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are uint32 until they are counted; whatever moment it stops, it is resumed."""
    image, out = saved("yx", tmp_path), tmp_path / f"o{ending}"

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt  # nothing is tidied that a kill would not

    real = Claim.exchange
    home, name, ends = {
        "noted": (Output, "retype", killed),
        "made": (Claim, "exchange", killed),
        "removed": (Claim, "exchange", lambda self: killed(self._delete(self.place.partial))),
        "renamed": (Claim, "exchange", lambda self: killed(real(self))),
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(home, name, ends)
        patch.setattr(Output, "close", lambda self: self._claim.release())
        with pytest.raises(KeyboardInterrupt):
            seamscope.segment(image, out=out, blocks=40)
    seamscope.segment(image, out=out, resume=True)
    assert len(done) == len(set(done)) > 10  # nothing is done twice
    np.testing.assert_array_equal(stored(out, "yx"), expected("yx", {}))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_disk_that_refuses_while_the_type_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, out = saved("yx", tmp_path), tmp_path / "o.tif"

    def refused(self: Claim) -> None:
        self._delete(self.place.partial)
        raise PermissionError(13, "denied")

    with monkeypatch.context() as patch:
        patch.setattr(Claim, "exchange", refused)
        with pytest.raises(OutputError, match=r"cannot be written \(denied"):
            seamscope.segment(image, out=out, blocks=60)
    assert {path.suffix for path in tmp_path.glob(".*")} == {".ledger", ".basins", ".next"}
    seamscope.segment(image, out=out, resume=True)
    np.testing.assert_array_equal(stored(out, "yx"), expected("yx", {}))


def test_joined_numbers_that_are_damaged_are_joined_again(tmp_path: Path, done: Any) -> None:
    """Also where the numbers of a block are lost with them."""
    image, out = begun(tmp_path, done, **HOLES)
    marks = tmp_path / ".o.ome.zarr.ledger"
    blocks = len(done)
    for name, size in {"basins.npz": 100, "basins.basin.npy": 0, "basins.offsets.npy": 0}.items():
        os.truncate(marks / name, size)
        os.truncate(marks / "3.part", 0)
        done.most = blocks = blocks + 1
        with pytest.raises(Stop):
            seamscope.segment(image, out=out, resume=True, blocks=33, **HOLES)
        assert done[-1] == 3
    done.most = 10**9
    seamscope.segment(image, out=out, resume=True, blocks=33, **HOLES)
    np.testing.assert_array_equal(stored(out, "yx"), expected("yx", HOLES))


def test_two_processes_make_the_same_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def second(draft: Path, path: Path) -> None:
        shutil.copytree(draft, path)  # by another process, a moment before
        real(draft, path)

    blocks = Blocks.of((40, 40), (20, 20))
    monkeypatch.setattr(os, "rename", second)
    for _ in range(2):
        Stages(tmp_path, tmp_path, lambda region: np.zeros(0), blocks, seamscope.Recipe())
    assert {path.name for path in tmp_path.iterdir()} == {"fragments", "heights"}


def test_objects_outlive_the_labels_that_are_written_into_an_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_SHARE", 0)  # basins go to disk
    out = np.zeros(IMAGES["yx"].shape, np.uint32)
    found = seamscope.segment(IMAGES["yx"], out=out, blocks=60, scratch=tmp_path)
    np.testing.assert_array_equal(found.labels, out)
    assert out.max() == found.count > 0


def test_time_left_counts_blocks_of_this_run(tmp_path: Path, done: Any) -> None:
    image, out = begun(tmp_path, done, "basins")
    seen = Seen()
    seamscope.segment(image, out=out, resume=True, work=seen)
    assert seen.before["Finding basins"] == 5
    assert seen.parts["Finding basins"][0] == (6, 12)
    assert seen.before["Measuring objects"] == 0


def test_labels_of_a_network_are_resumed(
    tmp_path: Path, done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prediction is kept with the basins, and is not made again."""
    monkeypatch.chdir(tmp_path)
    np.save("i.npy", RNG.random((100, 120), np.float32))
    words = ["--model", "demo:batchnorm", "--tile", "96", "--channel", "0", "--block", "50"]
    words += ["--area", "x=10:110"]

    def run(out: str, *more: str) -> Any:
        return CliRunner().invoke(seamscope.cli.app, ["segment", "i.npy", out, *words, *more])

    def predicted() -> Any:  # the same image, network and settings
        asked = [word for word in words if word not in ("--channel", "0", "--block", "50")]
        more = ["predict", "i.npy", asked[1], "o.zarr", *asked[2:], "--seams", "none"]
        return CliRunner().invoke(seamscope.cli.app, [*more, "--resume"])

    assert run("w.zarr").exit_code == 0
    total = len(done)
    done.clear()
    done.most = 3
    marks = []
    with monkeypatch.context() as patch:  # stopped while it predicts
        real = Ledger.mark

        def mark(self: Ledger, *args: int) -> None:
            marks.append(real(self, *args))
            if len(marks) == 2:
                raise InterruptedError

        patch.setattr(Ledger, "mark", mark)
        stopped = run("o.zarr")
    assert stopped.exit_code == 130
    assert "a part of the prediction is done. To continue" in stopped.output
    assert "Resume it (--resume)" in run("o.zarr").output
    assert "3 blocks of labels are done" in run("o.zarr", "--resume").output
    done.most = 10**9
    assert "3 blocks are done (--resume)" in run("o.zarr").output
    assert "o.zarr was begun with another recipe" in predicted().output
    with pytest.raises(OutputError, match=r"o.zarr was begun as labels, not as a prediction"):
        share_done(Ledger(tmp_path / ".o.zarr.ledger"))
    again = run("o.zarr", "--resume")
    assert again.exit_code == 0, again.output
    assert "Predicting" not in again.output
    assert len(done) == total
    assert "done already" in run("o.zarr", "--resume").output
    assert "o.zarr was made with another recipe" in predicted().output
    np.testing.assert_array_equal(zarr.open("o.zarr")[:], zarr.open("w.zarr")[:])


def test_images_of_a_folder_are_skipped_or_resumed(
    tmp_path: Path, done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        np.save(f"{name}.npy", smooth(60, 70))

    def run(*more: str) -> Any:
        words = ["segment", "?.npy", "out", "--block", "30", *more]
        return CliRunner().invoke(seamscope.cli.app, words)

    done.most = 20  # the first image, and a part of the second
    first = run()
    assert first.exit_code, first.output
    before, done.most = list(done), 10**9
    again = run("--resume")
    assert again.exit_code == 0, again.output
    assert again.output.count("done before") == 1
    assert len(done) - len(before) == 3 * 13 - 20
    whole = np.asarray(seamscope.segment(np.load("b.npy")).labels)
    np.testing.assert_array_equal(stored(Path("out/b.ome.zarr"), "yx"), whole)


def test_what_workers_cannot_open_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="memory of this process"):
        seamscope.segment(IMAGES["yx"], on=2, out=tmp_path / "o.zarr")
