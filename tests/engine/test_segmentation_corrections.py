"""Corrections: each does what it says, is undone, survives a crash, works at other thresholds."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import seamscope
from seamscope.errors import ImageError, OutputError, SettingsError
from seamscope.segmentation.blocks import Blocks
from seamscope.segmentation.corrections import Corrections, identity


@pytest.fixture
def row():
    """Five basins in a row: minima 0 to 4 at 0.1, passes 0.4, 0.8, 0.5 and 0.6 between them."""
    p = np.array([[0.1, 0.4, 0.1, 0.8, 0.1, 0.5, 0.1, 0.6, 0.1]])
    return seamscope.segment(p, kind="boundaries", seed_threshold=0.45)


def labels(segmentation):
    return np.asarray(segmentation.labels).ravel().tolist()


def test_merge_split_delete(row) -> None:
    assert labels(row) == [1, 1, 1, 1, 2, 2, 3, 3, 4]
    c = Corrections(row)
    c.merge((0, 4), (0, 8))
    assert labels(c.current) == [1, 1, 1, 1, 2, 2, 3, 3, 2]
    c.split([(0, 0)], [(0, 2)])
    assert labels(c.current) == [1, 1, 2, 2, 3, 3, 4, 4, 3]
    c.delete((0, 6))
    assert labels(c.current) == [1, 1, 2, 2, 3, 3, 0, 0, 3]
    for expected in ([1, 1, 2, 2, 3, 3, 4, 4, 3], [1, 1, 1, 1, 2, 2, 3, 3, 2], labels(row)):
        assert c.undo()
        assert labels(c.current) == expected
    assert not c.undo()
    assert [c.redo(), c.redo(), c.redo(), c.redo()] == [True, True, True, False]
    assert labels(c.current) == [1, 1, 2, 2, 3, 3, 0, 0, 3]


def test_a_split_cuts_the_highest_pass_on_the_path(row) -> None:
    whole = row.at(seed_threshold=0.9)
    c = Corrections(whole)
    c.split([(0, 0)], [(0, 8)])
    assert labels(c.current) == [1, 1, 1, 1, 2, 2, 2, 2, 2]  # at 0.8
    c.split([(0, 4)], [(0, 6), (0, 8)])
    assert labels(c.current) == [1, 1, 1, 1, 2, 2, 3, 3, 3]  # scribbles keep 0.6 together
    with pytest.raises(SettingsError, match="different objects already"):
        c.split([(0, 0)], [(0, 8)])
    with pytest.raises(SettingsError, match="same basin"):
        c.split([(0, 0)], [(0, 1)])
    with pytest.raises(SettingsError, match="one object already"):
        c.merge((0, 6), (0, 8))
    with pytest.raises(SettingsError, match="no place"):
        c.merge((0, 6), (0, 9))
    assert len(c) == 2


def test_merging_what_was_split_and_splitting_what_was_merged(row) -> None:
    c = Corrections(row)
    c.merge((0, 0), (0, 8))
    c.split([(0, 0)], [(0, 8)])
    assert labels(c.current) == labels(row)
    c.split([(0, 0)], [(0, 2)])
    c.merge((0, 0), (0, 2))
    assert labels(c.current) == labels(row)


def test_paint_and_erase(row) -> None:
    c = Corrections(row)
    c.paint((0, 2), np.array([[True, False, True, True]]), (0, 8))
    assert labels(c.current) == [1, 1, 2, 1, 2, 2, 3, 3, 2]
    c.paint((0, 0), np.array([[True]]))
    assert labels(c.current) == [1, 2, 3, 2, 3, 3, 4, 4, 3]
    c.erase((0, 7), np.array([[True, True, True]]))
    assert labels(c.current) == [1, 2, 3, 2, 3, 3, 4, 0, 0]
    c.merge((0, 0), (0, 6))
    assert labels(c.current) == [1, 2, 3, 2, 3, 3, 1, 0, 0]
    c.delete((0, 2))
    assert labels(c.current) == [1, 2, 0, 2, 0, 0, 1, 0, 0]
    table = c.current.table().columns
    assert table["pixels"].tolist() == [2, 2]
    while c.undo():
        pass
    assert labels(c.current) == labels(row)


def test_locked_objects_stay_at_any_threshold(row) -> None:
    c = Corrections(row)
    c.lock((0, 0))
    c.lock((0, 6))
    assert c.is_locked((0, 2))
    assert labels(c.at(seed_threshold=0.95)) == [1, 1, 1, 1, 2, 2, 3, 3, 4]
    assert labels(c.at(seed_threshold=0.2)) == [1, 1, 1, 1, 2, 2, 3, 3, 4]
    for refused in (
        lambda: c.merge((0, 0), (0, 4)),
        lambda: c.split([(0, 0)], [(0, 2)]),
        lambda: c.delete((0, 6)),
        lambda: c.paint((0, 4), np.ones((1, 1)), (0, 0)),
    ):
        with pytest.raises(SettingsError, match="locked"):
            refused()
    with pytest.raises(SettingsError, match="outside or locked"):
        c.erase((0, 0), np.ones((1, 3)))
    c.unlock((0, 6))
    c.delete((0, 6))
    assert labels(c.current) == [1, 1, 1, 1, 2, 2, 0, 0, 3]


def test_locked_components_keep_their_outline() -> None:
    p = np.array([[0.9, 0.7, 0.55, 0.3, 0.7, 0.9, 0.2, 0.6]])
    found = seamscope.segment(p, threshold=0.5)
    c = Corrections(found)
    c.lock((0, 0))
    assert labels(c.at(threshold=0.65)) == [1, 1, 1, 0, 2, 2, 0, 0]
    assert labels(c.at(threshold=0.1)) == [1, 1, 1, 2, 2, 2, 2, 2]


def test_filters_spare_what_was_corrected(row) -> None:
    c = Corrections(row.at(min_size=2))
    assert labels(c.current) == [1, 1, 1, 1, 2, 2, 3, 3, 0]
    c = Corrections(row)
    c.paint((0, 8), np.ones((1, 1)))
    assert labels(c.at(min_size=2)) == [1, 1, 1, 1, 2, 2, 3, 3, 4]


def noise(seed, shape=(40, 40)):
    p = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 1.2)
    return (p - p.min()) / np.ptp(p)


def edit_randomly(c, rng, steps):
    """Try corrections at random places; what is refused is left out."""
    shape = c.current.shape
    for _ in range(steps):
        places = [tuple(int(v) for v in rng.integers(0, shape)) for _ in range(3)]
        kind = rng.integers(0, 9)
        try:
            if kind == 0:
                c.merge(*places)
            elif kind == 1:
                c.split([places[0]], [places[1]])
            elif kind == 2:
                c.delete(places[0])
            elif kind == 3:
                c.lock(places[0])
            elif kind == 4:
                c.unlock(places[0])
            elif kind == 5:
                c.paint(places[0], rng.random((5, 4)) < 0.5, (None, places[1])[rng.integers(2)])
            elif kind == 6:
                c.erase(places[0], rng.random((3, 6)) < 0.5)
            elif kind == 7:
                c.undo()
            else:
                c.redo()
        except SettingsError:
            continue


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["boundaries", "components"])
def test_random_corrections_are_replayed_and_undone(tmp_path, kind, seed) -> None:
    """A killed session leaves its file; another machine has other blocks and an older threshold."""
    rng = np.random.default_rng(seed)
    p = noise(seed)
    found = seamscope.segment(p, kind=kind)
    path = tmp_path / "cells.corrections"
    c = Corrections(found, path)
    edit_randomly(c, rng, 150)
    assert len(path.read_bytes().splitlines()) > 30
    expected = np.asarray(c.current.labels)
    with path.open("ab") as file:
        file.write(b'{"do":"mer')  # the crash
    again = Corrections(seamscope.segment(p, kind=kind, blocks=7, threads=2), path)
    np.testing.assert_array_equal(np.asarray(again.current.labels), expected)
    edit_randomly(again, rng, 20)  # over the torn line
    third = Corrections(found, path)
    np.testing.assert_array_equal(
        np.asarray(third.current.labels), np.asarray(again.current.labels)
    )
    # there and back again
    name = "seed_threshold" if kind == "boundaries" else "threshold"
    third.at(**{name: 0.35})
    third.at(found.recipe)
    np.testing.assert_array_equal(
        np.asarray(third.current.labels), np.asarray(again.current.labels)
    )
    while third.undo():
        pass
    np.testing.assert_array_equal(np.asarray(third.current.labels), np.asarray(found.labels))
    while third.redo():
        pass
    lines = path.read_text().splitlines()
    assert max(map(len, lines)) < 1000
    assert all(json.loads(line) for line in lines)


_SESSION = """
import sys
from pathlib import Path
import numpy as np, seamscope
from seamscope.segmentation.corrections import Corrections
from test_segmentation_corrections import edit_randomly, noise
c = Corrections(seamscope.segment(noise(7), kind="boundaries"), sys.argv[1])
rng = np.random.default_rng(7)
while True:
    edit_randomly(c, rng, 1)
    file = Path(sys.argv[1])
    print(len(file.read_bytes().splitlines()) if file.exists() else 0, flush=True)
"""


def test_a_killed_session_loses_no_step(tmp_path) -> None:
    """Whatever the session had said was done is in the file, and is replayed."""
    path = tmp_path / "cells.corrections"
    here = str(Path(__file__).parent)
    folders = [here, str(Path(seamscope.__file__).parents[1])]
    with subprocess.Popen(
        [sys.executable, "-c", _SESSION, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
    ) as session:
        assert session.stdout is not None
        said = 0
        while said < 25:
            said = int(session.stdout.readline())
        session.kill()
    found = seamscope.segment(noise(7), kind="boundaries")
    again = Corrections(found, path)
    lines = path.read_bytes().splitlines()
    assert len(lines) >= said
    # the same session, not killed, up to the same step
    other, rng = tmp_path / "twin", np.random.default_rng(7)
    twin = Corrections(found, other)
    while not other.exists() or len(other.read_bytes().splitlines()) < len(lines):
        edit_randomly(twin, rng, 1)
    np.testing.assert_array_equal(np.asarray(again.current.labels), np.asarray(twin.current.labels))


def test_corrections_of_other_labels_are_refused(row, tmp_path) -> None:
    path = tmp_path / "c"
    Corrections(row, path).merge((0, 0), (0, 4))
    other = seamscope.segment(np.random.default_rng(0).random((1, 9)), kind="boundaries")
    with pytest.raises(ImageError, match="corrections of other labels"):
        Corrections(other, path)
    assert len(Corrections(row.at(seed_threshold=0.2), path)) == 1
    head = path.read_text().splitlines()[0]
    path.write_text("no json\n")
    with pytest.raises(ImageError, match="no file of corrections"):
        Corrections(row, path)
    path.write_text(f'{head}\n{{"kind": 3}}\n')
    with pytest.raises(ImageError, match=f"{path.name} holds a correction that cannot be read"):
        Corrections(row, path)


def test_what_finds_nothing_is_listed(row) -> None:
    p = np.array([[0.9, 0.7, 0.55, 0.3, 0.7, 0.9, 0.2, 0.6]])
    c = Corrections(seamscope.segment(p, threshold=0.5))
    c.merge((0, 0), (0, 7))
    c.delete((0, 5))
    assert labels(c.at(threshold=0.65)) == [1, 1, 0, 0, 0, 0, 0, 0]
    assert len(c.skipped) == 1
    assert "merge at (0, 0)" in c.skipped[0]
    assert c.undo()
    assert c.undo()
    assert labels(c.at(threshold=0.5)) == [1, 1, 1, 0, 2, 2, 0, 3]


def test_a_full_disk_loses_nothing(row, tmp_path, monkeypatch) -> None:
    c = Corrections(row, tmp_path / "c")
    c.merge((0, 0), (0, 4))
    before = labels(c.current)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the correction was not made"):
        c.delete((0, 8))
    monkeypatch.undo()
    assert labels(c.current) == before
    assert labels(Corrections(row, tmp_path / "c").current) == before


def test_blocks_do_not_change_the_identity() -> None:
    p = noise(1, (20, 20))
    one = seamscope.segment(p, kind="boundaries")
    for blocks in (Blocks.of((20, 20), 6, (2, 3)), (20, 1)):
        assert identity(one) == identity(seamscope.segment(p, kind="boundaries", blocks=blocks))
    assert identity(one) != identity(seamscope.segment(p, kind="boundaries", connectivity=2))
