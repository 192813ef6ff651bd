"""Tiles that another program planned: used as they are, or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import seamscope
from seamscope.cli import app
from seamscope.errors import SettingsError
from seamscope.planning.given import GivenTiles
from seamscope.planning.plan import Plan
from seamscope.planning.protocol import Protocol

# Cores of 30, 50 and 20 pixels; windows of 64 that begin anywhere, one before the image.
ROWS = [(-10, 54, 0, 30), (21, 85, 30, 80), (40, 104, 80, 100)]
COLUMNS = [(0, 64, 0, 50), (26, 90, 50, 90)]


def tiles(rows=ROWS, columns=COLUMNS):
    return [
        {"read": [[a, b], [c, d]], "core": [[e, f], [g, h]]}
        for a, b, e, f in rows
        for c, d, g, h in columns
    ]


class Uneven(torch.nn.Module):
    """Takes the mean of its input into account, so that each window predicts something else."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(x) + x.mean(dim=(2, 3), keepdim=True)


@pytest.fixture(scope="module")
def network():
    model = seamscope.Model(Uneven().eval(), "uneven")
    model.describe()
    return model


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).random((100, 90)).astype(np.float32)


def window(network, image, read):
    """What the network predicts on one window, padded by mirroring."""
    (top, bottom), (left, right) = read
    padded = np.pad(image, 16, mode="reflect")
    part = padded[top + 16 : bottom + 16, left + 16 : right + 16]
    with torch.no_grad():
        return network.module(torch.from_numpy(part.copy())[None, None])[0].numpy()


@pytest.fixture(scope="module")
def stitched(network, image):
    """Core after core, without the engine."""
    expected = np.full((2, 100, 90), np.nan, np.float32)
    for tile in tiles():
        (top, bottom), (left, right) = tile["core"]
        own = window(network, image, tile["read"])
        y, x = tile["read"][0][0], tile["read"][1][0]
        expected[:, top:bottom, left:right] = own[:, top - y : bottom - y, left - x : right - x]
    return expected


@pytest.mark.parametrize("seams", ["all", "none"])
def test_windows_and_cores_are_used_as_they_are(network, image, stitched, seams) -> None:
    result = seamscope.predict(image, network, grid=tiles(), seams=seams)
    np.testing.assert_allclose(result, stitched, atol=1e-6)


def test_seams_are_measured_where_the_windows_overlap(network, image) -> None:
    report = seamscope.measure_seams(image, network, grid=tiles())
    largest = 0.0
    grid = GivenTiles.of(tiles()).grid((100, 90), network.facts.lattice)
    assert grid.halo == ((9, 5), (24, 14))
    assert grid.tile_shape == (64, 64)
    every = list(grid)
    for a in every:
        for b in every:
            if sum(abs(i - j) for i, j in zip(a.index, b.index, strict=True)) != 1:
                continue
            axis = 0 if a.index[0] != b.index[0] else 1
            own = {}
            for tile in (a, b):
                read = [
                    (part.start - pad[0], part.stop + pad[1])
                    for part, pad in zip(tile.read, tile.pad, strict=True)
                ]
                own[tile.index] = window(network, image, read), tile
            common = [
                (max(p.start, q.start), min(p.stop, q.stop))
                for p, q in zip(a.trusted, b.trusted, strict=True)
            ]
            across = 1 - axis
            common[across] = (
                max(a.core[across].start, b.core[across].start),
                min(a.core[across].stop, b.core[across].stop),
            )
            if any(stop <= start for start, stop in common):
                continue
            parts = [
                values[
                    :,
                    *(slice(s - o, e - o) for (s, e), o in zip(common, t.origin, strict=True)),
                ]
                for values, t in own.values()
            ]
            largest = max(largest, float(np.abs(parts[0] - parts[1]).max()))
    assert report.measures.max_dist == pytest.approx(largest, rel=1e-4)
    assert not report.seamless


def test_the_same_grid_as_ours_gives_the_same(image) -> None:
    model = seamscope.load_model("demo:batchnorm")
    case = seamscope.Case.open(image, model, tile=64, halo=8)
    ours = case.plan.grid
    same = [[(t.start, t.stop, *t.core) for t in axis] for axis in ours.axes]
    given = tiles(*same)
    result = seamscope.predict(image, model, grid=given)
    np.testing.assert_array_equal(result, seamscope.predict(image, model, tile=64, halo=8))
    plan = seamscope.Case.open(image, model, grid=given).plan
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(0, 64, 0, 40), (36, 100, 41, 100)], "from 41 to 100 leaves out pixels"),
        ([(0, 64, 0, 40), (36, 100, 39, 100)], "from 39 to 100 covers twice pixels"),
        ([(0, 64, 0, 50), (36, 100, 50, 99)], "end at 99, and the image has 100"),
        ([(0, 64, 0, 50), (52, 116, 50, 100)], "52 to 116 along y does not contain its core"),
        ([(0, 64, 0, 50), (36, 96, 50, 100)], "have 60, 64 pixels"),
        ([(0, 100.5, 0, 100)], "100.5 is no whole number"),
    ],
)
def test_a_grid_that_is_not_right_is_refused(network, image, rows, said) -> None:
    with pytest.raises(SettingsError, match=said):
        seamscope.predict(image, network, grid=tiles(rows))


def test_tiles_that_are_no_rows_and_columns_are_refused(network, image) -> None:
    with pytest.raises(SettingsError, match="not all combinations"):
        seamscope.predict(image, network, grid=tiles()[:-1])
    with pytest.raises(SettingsError, match="not all combinations"):
        seamscope.predict(image, network, grid=[*tiles(), tiles()[0]])
    odd = tiles([(0, 62, 0, 50), (38, 100, 50, 100)])
    with pytest.raises(SettingsError, match="no size this network takes"):
        seamscope.predict(image, "demo:batchnorm", grid=odd)
    with pytest.raises(SettingsError, match="no place in a protocol"):
        Protocol.of(
            seamscope.Case.open(
                image, "demo:batchnorm", grid=tiles([(0, 104, 0, 100)], [(0, 104, 0, 90)])
            )
        )


def test_from_files_on_the_command_line(image, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("i.npy", image)
    given = tiles([(0, 64, 0, 50), (40, 104, 50, 100)], [(0, 64, 0, 40), (32, 96, 40, 90)])
    (tmp_path / "g.json").write_text(json.dumps(given))
    header = "y_start,y_stop,x_start,x_stop,core_y_start,core_y_stop,core_x_start,core_x_stop\n"
    lines = [",".join(str(n) for s in (t["read"], t["core"]) for p in s for n in p) for t in given]
    (tmp_path / "g.csv").write_text(header + "\n".join(lines))
    for kind in ("json", "csv"):
        words = ["predict", "i.npy", "demo:batchnorm", f"{kind}.npy", "--grid", f"g.{kind}", "-q"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    expected = seamscope.predict(image, "demo:batchnorm", grid=given)
    np.testing.assert_array_equal(np.load("json.npy"), expected)
    np.testing.assert_array_equal(np.load("csv.npy"), expected)
    words = ["seams", "i.npy", "demo:batchnorm", "--grid", "g.json", "--json", "-"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    report = seamscope.measure_seams(image, "demo:batchnorm", grid=given)
    assert json.loads(done.stdout)["max_dist"] == pytest.approx(report.measures.max_dist, rel=1e-6)
    (tmp_path / "bad.csv").write_text("a,b\n1,2")
    done = CliRunner().invoke(app, ["seams", "i.npy", "demo:batchnorm", "--grid", "bad.csv"])
    assert done.exit_code == 1
    assert "bad.csv holds no grid" in " ".join(done.output.split())


def test_combinations_are_counted_not_made(monkeypatch):
    def made(*axes):
        raise AssertionError(f"{len(axes)} axes are combined")

    monkeypatch.setattr("seamscope.planning.given.itertools.product", made)
    assert len(GivenTiles.of(tiles()).axes) == 2
    diagonal = [
        {"read": [[i, i + 1]] * 3, "core": [[i, i + 1]] * 3} for i in range(50)
    ]  # fmt: skip
    with pytest.raises(SettingsError, match="50 x 50 x 50 windows"):
        GivenTiles.of(diagonal)
    with pytest.raises(SettingsError, match=r"6 tiles .* not all combinations"):
        GivenTiles.of([*tiles()[:-1], tiles()[0]])


GIVEN = (
    "y_start,y_stop,x_start,x_stop,core_y_start,core_y_stop,core_x_start,core_x_stop\n"
    "0,96,0,96,0,80,0,80\n"
)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "g.csv",
            f"{GIVEN}0,96,0",
            "a row ends before its column x_stop",
        ),
        (
            "g.json",
            '[{"read": [[0, Infinity]], "core": [[0, 8]]}]',
            r"Tile 0 .*\(inf is no whole number\)",
        ),
        ("g.json", "[[1]]", r"Tile 0 .*\(each has a start and a stop for each axis\)"),
        ("g.json", "{\n1", r"\(it is no JSON from line 2, character 1 on\)"),
        ("g.csv", GIVEN.replace("96,0,80,0,80\n", "x,0,80,0,80\n"), "'x' in the column x_stop"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=said):
        GivenTiles.of(tmp_path / name)
