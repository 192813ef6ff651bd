"""Fixed statistics and measures of seams: of workers, and of runs that were stopped and resumed."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seamscope import freeze_statistics, measure_seams, predict
from seamscope.errors import OutputError
from seamscope.images.image import open_image
from watching import stopped_after

pytestmark = pytest.mark.usefixtures("one_thread")

RNG = np.random.default_rng(5)
IMAGES = {
    "flat": ("tyx", RNG.random((2, 150, 170), np.float32)),
    "deep": ("zyx", RNG.random((24, 60, 70), np.float32)),
}
IMAGES["mixed"] = IMAGES["flat"]
NETWORKS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, conv, norm):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            conv(1, 4, 3, padding=1), norm(4), nn.ReLU(), conv(4, 4, 3, padding=1), norm(4),
            nn.ReLU(), conv(4, 3, 3, padding=1))

    def forward(self, x):
        y = self.layers(x)
        return torch.where(y > 1.2, torch.nan, y) if y.ndim == 5 else y

class Mixed(Net):
    def forward(self, x):
        y = super().forward(x)
        return y.softmax(1) if x.mean() < -0.01 else y  # of some tiles, the first one among them

def mixed():
    return Mixed(nn.Conv2d, nn.InstanceNorm2d)

def flat():
    return Net(nn.Conv2d, nn.InstanceNorm2d)

def deep():
    return Net(nn.Conv3d, nn.InstanceNorm3d)
"""
Job = Callable[..., Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "nets.py").write_text(NETWORKS)
    for name, (_, pixels) in IMAGES.items():
        np.save(folder / f"{name}.npy", pixels)
    return folder


def _job(files: Path, kind: str, name: str, how: str) -> Job:
    image = open_image(files / f"{name}.npy", axes=IMAGES[name][0])
    tile: Any = (16, 32, 32) if name == "deep" else 64
    given: dict[str, Any] = {"trust": True, "tile": tile, "normalize": "zscore"}
    network = f"{files / 'nets.py'}:{name}"
    if kind == "freeze":
        given |= {"cell": 8} if how == "local" else {"tiles": 6}
        return lambda **more: freeze_statistics(image, network, how, **given, **more)
    given |= {"accelerate": False, "halo": 4, "seams": how}
    return lambda **more: measure_seams(image, network, **given, **more)


def numbers_of(found: Any) -> bytes:
    """All that was found, to the last bit."""
    if hasattr(found, "layers"):
        kept = [(one.call, one.centres, one.mean, one.var, one.count) for one in found.layers]
        arrays = [np.asarray(each) for one in kept for each in one[2:]]
        return repr([one[:2] for one in kept]).encode() + b"".join(a.tobytes() for a in arrays)
    kept = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    del kept["plan"]
    arrays = [table for _, table in sorted(kept.pop("tables").items())]
    arrays += [values for values in vars(kept.pop("curve")).values() if hasattr(values, "tobytes")]
    return repr((found.to_json(), kept)).encode() + b"".join(each.tobytes() for each in arrays)


JOBS = [
    ("freeze", "flat", "sampled"),
    ("freeze", "deep", "local"),
    ("seams", "mixed", "all"),
    ("seams", "deep", "sample"),
]


@pytest.mark.parametrize(("kind", "name", "how"), JOBS)
def test_workers_that_die_and_a_stop_change_nothing(
    files: Path,
    client: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    name: str,
    how: str,
) -> None:
    """Here in one go; stopped twice and resumed by workers, of which one is killed."""
    # beyond so many overlaps, which curves are kept depends on their order
    monkeypatch.setattr("seamscope.seams.sums._CURVES", 20)
    job = _job(files, kind, name, how)
    expected, partial = job(), tmp_path / "partial"
    resumed = {} if kind == "freeze" else {"resume": True}
    again: dict[str, Any] = {}
    for after in (5, 7):
        with pytest.raises(InterruptedError):
            job(partial=partial, work=stopped_after(after), **again)
        again = resumed
    victims = itertools.count()

    class Killing:
        """Kills a worker at the second step."""

        def __getattr__(self, _: str) -> Any:
            return lambda *given: None

        def stopped(self) -> bool:
            return False

        def step(self, done: int, total: int) -> None:
            if next(victims) == 1:
                pids = list(client.run(os.getpid).values())
                os.kill(random.choice(pids), signal.SIGKILL)

    found = job(partial=partial, on=client, work=Killing(), **again)
    assert next(victims) > 2
    assert numbers_of(found) == numbers_of(expected)


def test_what_is_known_is_not_measured_again(files: Path, tmp_path: Path) -> None:
    """Steps are counted; and other work is refused by name."""
    # seams ask once more before they keep what they measured
    for kind, how, stops, then in (
        ("freeze", "exact", (10, 20), 31),
        ("seams", "all", (10, 6), 15),
    ):
        job, partial = _job(files, kind, "flat", how), tmp_path / kind
        again: dict[str, Any] = {}
        for steps in stops:  # the second of freezing in its second layer
            with pytest.raises(InterruptedError):
                job(partial=partial, work=stopped_after(steps), **again)
            again = {"resume": True} if kind == "seams" else {}
        rest = stopped_after(10**9)
        job(partial=partial, work=rest, **again)
        first, total = rest.steps[0]
        assert first == then
        assert rest.before[rest.phases[-1]] == first - 1
        assert len(rest.steps) == total - first + 1
    exact, other = (_job(files, "freeze", "flat", how) for how in ("exact", "sampled"))
    with pytest.raises(InterruptedError):
        exact(partial=tmp_path / "freeze", work=stopped_after(10))
    assert numbers_of(other(partial=tmp_path / "freeze")) == numbers_of(other())
    other = _job(files, "seams", "flat", "sample")
    with pytest.raises(OutputError, match="another measured overlaps"):
        other(partial=tmp_path / "seams", resume=True)
    with pytest.raises(OutputError, match="an interrupted run left it"):
        other(partial=tmp_path / "seams")


def test_workers_use_the_tiles_of_another_program(files: Path, client: Any, tmp_path: Path) -> None:
    """Also uneven ones, whose windows begin anywhere."""
    rows = [(-10, 54, 0, 30), (21, 85, 30, 80), (40, 104, 80, 100)]
    columns = [(0, 64, 0, 50), (26, 90, 50, 90)]
    grid = [
        {"read": [[a, b], [c, d]], "core": [[e, f], [g, h]]}
        for a, b, e, f in rows
        for c, d, g, h in columns
    ]
    np.save(tmp_path / "image.npy", IMAGES["flat"][1][0, :100, :90])
    image, network = open_image(tmp_path / "image.npy", axes="yx"), f"{files / 'nets.py'}:flat"
    how: dict[str, Any] = {"trust": True, "grid": grid, "accelerate": False, "normalize": "none"}
    expected = predict(image, network, **how)
    found = predict(image, network, tmp_path / "out.zarr", on=client, **how)
    np.testing.assert_array_equal(np.asarray(found), expected)
    straight = measure_seams(image, network, **how)
    shared = measure_seams(image, network, partial=tmp_path / "seams", on=client, **how)
    assert numbers_of(shared) == numbers_of(straight)
    assert straight.measures.overlaps == 7
