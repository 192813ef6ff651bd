"""An interrupted prediction is continued, and equals one that was not, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import nn

import seamscope
from seamscope import freeze_statistics, measure_seams, predict
from seamscope.errors import OutputError
from seamscope.images.image import Image, open_image
from seamscope.images.results import pyramid
from seamscope.ledger import Ledger
from seamscope.prediction import resuming
from seamscope.prediction.resuming import digest_of
from seamscope.prediction.run import TileDone
from watching import Seen, run_with_events, stopped_after

RNG = np.random.default_rng(8)
FLAT, DEEP = RNG.random((150, 170), np.float32), RNG.random((24, 60, 70), np.float32)


class Net(nn.Module):
    """Two convolutions around a pooling by 2; counts its forward passes."""

    def __init__(self, ndim: int = 2, classes: int = 3, seed: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
        self.first, self.last = (
            convolution(1, 4, 3, padding=1),
            convolution(4, classes, 3, padding=1),
        )
        self.pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[ndim](2)
        self.up = nn.Upsample(scale_factor=2)
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.last(self.up(self.pool(torch.relu(self.first(x)))))


class Stop(Exception):  # noqa: N818
    """Ends a run as a fault of the user's own code would."""


def stop_after(tiles: int) -> Seen:
    def hear(phase: str, done: int) -> None:
        if phase == "Predicting" and done >= tiles:
            raise Stop

    return Seen(on_step=hear)


def interrupted(image: np.ndarray, out: Path, tiles: int, **how: Any) -> None:
    with pytest.raises(Stop):
        predict(image, Net(image.ndim), out, work=stop_after(tiles), **how)


CASES = [
    pytest.param(
        image, ending, {"blend": blend, **more}, id=f"{image.ndim}D {ending} {blend} {more}"
    )
    for image, ending, blend, more in (
        (FLAT, ".zarr", "crop", {}),
        (FLAT, ".ome.zarr", "linear", {}),
        (FLAT, ".tif", "gaussian", {"area": {"y": (10, 140), "x": (20, 151)}}),
        (FLAT, ".npy", "crop", {"batch": 3}),
        (FLAT, ".zarr", "crop", {"result": "labels"}),
        (FLAT, ".ome.tif", "distance", {"result": "labels"}),
        (FLAT, ".cog.tif", "linear", {}),
        (DEEP, ".zarr", "crop", {}),
        (DEEP, ".tif", "linear", {}),
        (FLAT, ".zarr", "crop", {"normalize": "zscore", "seams": "all"}),
    )
]


@pytest.mark.parametrize(("image", "ending", "how"), CASES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_resumed_equals_uninterrupted(
    image: np.ndarray, ending: str, how: dict[str, Any], share: float, tmp_path: Path
) -> None:
    if ending == ".cog.tif":
        pytest.importorskip("rasterio")
    how = {"tile": 48 if image.ndim == 2 else (16, 32, 32), "seams": "none", **how}
    expected, events = run_with_events(image, Net(image.ndim), **how)
    total = sum(isinstance(event, TileDone) for event in events)
    out = tmp_path / f"out{ending}"
    interrupted(image, out, max(1, int(share * total)), **how)
    assert not out.exists()
    ledger = tmp_path / f".{out.name}.ledger"
    done = len(Ledger(ledger).done) if ledger.exists() else 0
    if share == 0.9:
        assert done
        with pytest.raises(OutputError, match=rf"{done} blocks are done \(`resume=True`"):
            predict(image, Net(image.ndim), out, **how)
    _, resumed = run_with_events(image, Net(image.ndim), out, resume=True, **how)
    found = open_image(out)
    letters = "c" * (expected.ndim > image.ndim) + "zyx"[-image.ndim :]
    order = [found.axes.index(letter) for letter in letters]
    whole = np.asarray(found.read((slice(None),) * found.ndim)).transpose(order)
    np.testing.assert_array_equal(whole, expected)
    if how["seams"] == "none" and how["blend"] == "crop" and share == 0.9:
        assert sum(isinstance(event, TileDone) for event in resumed) < total
    assert sorted(path.name for path in tmp_path.iterdir() if "ledger" in path.name) == []


def test_seams_of_a_resumed_run_are_those_of_all_tiles(tmp_path: Path) -> None:
    how = {"tile": 48, "seams": "all", "halo": 1}
    _, finished = run_with_events(FLAT, Net(), **how)
    interrupted(FLAT, tmp_path / "o.zarr", 7, **how)
    finished += run_with_events(FLAT, Net(), tmp_path / "o.zarr", resume=True, **how)[1]
    first, second = (event.seams for event in finished if hasattr(event, "seams"))
    assert first.measures.max_dist == second.measures.max_dist
    assert first.measures.soft == second.measures.soft


def test_resume_computes_only_what_is_missing(tmp_path: Path) -> None:
    how = {"tile": 48, "seams": "none", "accelerate": False}
    _, events = run_with_events(FLAT, Net(), **how)
    total = sum(isinstance(event, TileDone) for event in events)
    interrupted(FLAT, tmp_path / "o.zarr", total - 2, **how)
    _, resumed = run_with_events(FLAT, Net(), tmp_path / "o.zarr", resume=True, **how)
    done = [event.done for event in resumed if isinstance(event, TileDone)]
    assert done[-1] == total
    assert len(done) <= 3


def test_a_stopped_prediction_says_so_and_is_resumed(tmp_path: Path) -> None:
    how, out = {"tile": 48, "seams": "none"}, tmp_path / "o.zarr"
    work = Seen(until=lambda seen: seen.steps[-1:] == [(12, 16)])
    with pytest.raises(InterruptedError):
        predict(FLAT, Net(), out, work=work, **how)
    assert not out.exists()
    work = Seen()
    found = predict(FLAT, Net(), out, resume=True, work=work, **how)
    assert work.phases[-1] == "Predicting"
    assert work.steps[-1] == (16, 16)
    np.testing.assert_array_equal(found, predict(FLAT, Net(), **how))


@pytest.mark.parametrize("kind", ["u1", "i2", "f4", "f8", "?"])
def test_the_hash_of_all_pixels_does_not_depend_on_chunks(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the sum of SplitMix64 over pixels with their places, here in Python's integers."""
    pixels = (np.random.default_rng(0).random((3, 30, 40)) * 200).astype(kind)
    monkeypatch.setattr(Image, "blocks", partialmethod(Image.blocks, 3000))
    monkeypatch.setattr(resuming, "_AT_ONCE", 17)
    chunks = ((1, 8, 8), (3, 7, 40), (2, 30, 9))
    copies = [zarr.create_array({}, data=pixels, chunks=each) for each in chunks]
    found = {digest_of(open_image(each, axes="zyx")) for each in (pixels, *copies)}

    def mixed(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    bits = pixels.view(f"u{pixels.itemsize}").ravel().tolist()
    total = sum(mixed((i * 0x9E3779B97F4A7C15 + b) % 2**64) for i, b in enumerate(bits)) % 2**64
    assert found == {resuming._hash((pixels.shape, str(pixels.dtype), total))}
    pixels[1, 2, 3] = pixels[1, 2, 3] == 0
    assert digest_of(open_image(pixels, axes="zyx")) not in found


def test_nothing_to_resume_begins(tmp_path: Path) -> None:
    predict(FLAT, Net(), tmp_path / "o.zarr", tile=48, resume=True)
    assert open_image(tmp_path / "o.zarr").shape == (3, 150, 170)
    with pytest.raises(OutputError, match="exists"):
        predict(FLAT, Net(), tmp_path / "o.zarr", tile=48, resume=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": FLAT + 1}, "another image content"),
        ({"image": FLAT[:140]}, "another image shape"),
        ({"model": Net(seed=2)}, "another network"),
        ({"tile": 64}, "another `tile`"),
        ({"blend": "linear"}, "another `blend`"),
    ],
)
def test_other_work_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    out = tmp_path / "o.zarr"
    interrupted(FLAT, out, 3, tile=48)
    given = {"image": FLAT, "model": Net(), "tile": 48} | change
    with pytest.raises(OutputError, match=said):
        predict(out=out, resume=True, **given)
    assert Ledger(tmp_path / ".o.zarr.ledger").done  # nothing was lost
    predict(FLAT, Net(), out, tile=48, resume=True)


@pytest.mark.parametrize("kind", ["predict", "freeze", "seams"])
def test_whole_image_intensities_are_measured_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed elsewhere reads as many pixels as one without them."""
    image = tmp_path / "image.npy"
    np.save(image, FLAT)
    os.utime(image, (0, 0))  # long ago, so that its name and time stand for its pixels
    pixels, read = 0, Image.read

    def counting(self: Image, *given: Any) -> np.ndarray:
        nonlocal pixels
        block = read(self, *given)
        pixels += block.size
        return block

    monkeypatch.setattr(Image, "read", counting)
    seen = []
    for method in ("none", "zscore"):
        how: dict[str, Any] = {"tile": 48, "normalize": method}
        place = tmp_path / f"{method}.zarr"
        if kind == "predict":
            job: Any = partial(predict, out=place, resume=True, seams="none", **how)
        elif kind == "seams":
            job = partial(measure_seams, partial=place, **how)
        else:
            job = partial(freeze_statistics, partial=place, **how)
        network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2)).eval()
        with pytest.raises(InterruptedError):
            job(image, network, work=stopped_after(12))
        monkeypatch.setenv("SEAMSCOPE_CACHE", str(tmp_path / method))  # of another user
        pixels = 0
        job(image, network, **({"resume": True} if kind == "seams" else {}))
        seen.append(pixels)
    assert seen[0] == seen[1] > 0


def test_what_is_not_finite_is_counted_over_all_runs(tmp_path: Path) -> None:
    class Broken(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            return torch.where(y > 0.05, torch.nan, y)

    how = {"tile": 48, "seams": "none"}
    whole, events = run_with_events(FLAT, Broken().eval(), **how)
    out = tmp_path / "o.zarr"
    with pytest.raises(Stop):
        predict(FLAT, Broken().eval(), out, work=stop_after(5), **how)
    events += run_with_events(FLAT, Broken().eval(), out, resume=True, **how)[1]
    counts = [e.figures["pixels_not_finite"] for e in events if hasattr(e, "figures")]
    assert counts == [int(np.isnan(whole).any(0).sum())] * 2
    assert counts[0] > 0


@pytest.mark.parametrize(
    ("ending", "how", "blend"),
    [
        (".zarr", "absent", "crop"),
        (".zarr", "empty", "crop"),
        (".zarr", "short", "crop"),
        (".zarr", "absent", "linear"),
        (".ome.zarr", "absent", "crop"),
        (".ome.zarr", "short", "linear"),
    ],
)
def test_what_the_disk_has_lost_is_done_again(
    ending: str, how: str, blend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks are there, and pixels are not, as after a power cut; of lower resolutions too."""
    monkeypatch.setattr(pyramid, "SMALLEST", 90)
    out = tmp_path / f"o{ending}"
    asked = {"tile": 48, "seams": "none", "accelerate": False, "blend": blend}
    if blend == "linear":
        # tiles differ where they overlap, and some reach only into bands that are done
        asked |= {"tile": 32, "halo": 0, "overlap": 8}
    image = FLAT.copy()
    image[:100] *= blend != "crop"
    tiles = 12 if blend == "crop" else 38
    network = Net()
    torch.nn.init.zeros_(network.last.bias)
    torch.nn.init.zeros_(network.first.bias)  # 0 becomes 0, which zarr would not store
    with pytest.raises(Stop):
        predict(image, network, out, work=stop_after(tiles), **asked)
    levels = ["0", "1"] if ending == ".ome.zarr" else [""]
    for level in levels:
        chunk = Path(f"{out}.partial") / level / "c/0/0/0"
        size = {"absent": None, "empty": 0, "short": chunk.stat().st_size - 3}[how]
        chunk.unlink() if size is None else os.truncate(chunk, size)
    work = Seen()
    predict(image, network, out, resume=True, work=work, **asked)
    assert any("has lost" in sentence for sentence in work.sentences)
    assert work.before["Predicting"] < tiles
    predict(image, network, tmp_path / f"whole{ending}", **asked)
    for level in levels:
        found, expected = (
            zarr.open_array(str(tmp_path / name / level), mode="r")[...]
            for name in (f"o{ending}", f"whole{ending}")
        )
        np.testing.assert_array_equal(found, expected)


def test_what_is_there_is_not_done_again(tmp_path: Path) -> None:
    """Not even where all pixels are 0, or chunks were written long ago."""
    out, asked = tmp_path / "o.zarr", {"tile": 48, "seams": "none", "accelerate": False}
    network = nn.Conv2d(1, 1, 1, bias=False)
    with pytest.raises(Stop):
        predict(np.zeros_like(FLAT), network, out, work=stop_after(9), **asked)
    for file in Path(f"{out}.partial").rglob("*"):
        os.utime(file, (0, 0))
    work = Seen()
    predict(np.zeros_like(FLAT), network, out, resume=True, work=work, **asked)
    assert work.before["Predicting"] >= 8
    assert not any("lost" in sentence for sentence in work.sentences)


def test_absent_chunks_of_the_image_are_counted_over_all_runs(tmp_path: Path) -> None:
    image = tmp_path / "image.zarr"
    zarr.create_array(str(image), data=FLAT + 1, chunks=(4, 170), dimension_names=["y", "x"])
    (image / "c/5/0").unlink()  # none that the hash of the image reads
    how = {"tile": 48, "seams": "none", "accelerate": False, "normalize": "none", "fill_nan": 0}
    with pytest.raises(Stop):
        predict(str(image), Net(), tmp_path / "o.zarr", work=stop_after(12), **how)
    work = Seen()
    found = predict(str(image), Net(), tmp_path / "o.zarr", resume=True, work=work, **how)
    assert [s for s in work.sentences if "1 chunk of the image is not stored" in s]
    np.testing.assert_array_equal(found, predict(str(image), Net(), **how))


KILLED = """
import os, signal, sys
import numpy as np
from test_resume import DEEP, FLAT, Net
from seamscope import predict
from seamscope.ledger import Ledger

mark = Ledger.mark

def killing(self, block, *number):
    global moment
    moment -= 1
    if moment == 0:
        (self.folder / f"{block}.draft").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    mark(self, block, *number)

Ledger.mark = killing
for out, image, tile in ((sys.argv[1], FLAT, 48), (sys.argv[2], DEEP, (16, 32, 32))):
    for moment in (3, 4):
        if os.fork():  # what is imported is imported once
            assert os.WTERMSIG(os.wait()[1]) == signal.SIGKILL
            continue
        predict(image, Net(image.ndim), out, tile=tile, resume=True)
        os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_killed_twice_and_resumed(tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])
    }
    outs = [tmp_path / "flat.zarr", tmp_path / "deep.zarr"]
    command = [sys.executable, "-c", KILLED, *map(str, outs)]
    subprocess.run(command, env=environment, check=True)
    for out, image, tile in zip(outs, (FLAT, DEEP), (48, (16, 32, 32)), strict=True):
        assert len(Ledger(tmp_path / f".{out.name}.ledger").done) == 2 + 3
        predict(image, Net(image.ndim), out, tile=tile, resume=True)
        expected = predict(image, Net(image.ndim), tile=tile)
        stored = open_image(out)
        np.testing.assert_array_equal(stored.read((slice(None),) * stored.ndim), expected)


@pytest.mark.parametrize("ending", [".npy", ".tif"])
def test_a_file_that_was_cut_short_is_not_resumed(ending: str, tmp_path: Path) -> None:
    out = tmp_path / f"o{ending}"
    interrupted(FLAT, out, 3, tile=48)
    partial = Path(f"{out}.partial")
    os.truncate(partial, partial.stat().st_size // 2)
    before = partial.read_bytes()
    with pytest.raises(OutputError, match=r"cannot be resumed|not the unfinished result"):
        predict(FLAT, Net(), out, tile=48, resume=True)
    assert partial.read_bytes() == before


def test_a_file_that_is_gone_is_begun_again(tmp_path: Path) -> None:
    out = tmp_path / "o.npy"
    interrupted(FLAT, out, 3, tile=48)
    (tmp_path / "o.npy.partial").unlink()
    predict(FLAT, Net(), out, tile=48, resume=True)
    np.testing.assert_array_equal(np.load(out), predict(FLAT, Net(), tile=48))
    assert seamscope.open_image(out).shape == (3, 150, 170)
