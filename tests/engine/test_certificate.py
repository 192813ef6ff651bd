"""A certificate says what brute force finds, and a sabotaged run fails it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import zarr
from safetensors.torch import load_file
from test_diagnosis import BATCH, IMAGE, INSTANCE, Attention, deep, tissue
from torch import nn

import networks
import real_networks
from seamscope.compare import certificate as certificates
from seamscope.compare.certificate import certify, store_certificate
from seamscope.errors import OutputError, SettingsError
from seamscope.fixed_statistics.freezing import freeze_statistics
from seamscope.images.records import read_record
from seamscope.models.formats import load_model
from seamscope.models.model import as_model
from seamscope.planning.case import Case
from seamscope.prediction.run import predict
from seamscope.seams.measures import Seam
from watching import Seen, stopped_after

INSTANCE_MODEL = load_model(INSTANCE)


def untiled(network, image):
    """The network on an image at once, continued by reflection to a multiple of its period 4."""
    padded = np.pad(image, [(0, -n % 4) for n in image.shape], mode="reflect")
    with torch.inference_mode():
        y = network(torch.from_numpy(np.ascontiguousarray(padded))[None, None])[0].numpy()
    return y[:, : image.shape[0], : image.shape[1]]


@pytest.mark.parametrize(
    ("network", "how", "passed"),
    [
        (BATCH, {"tile": 96}, True),
        (BATCH, {"tile": 96, "halo": 21}, False),
        (BATCH, {"tile": 96, "halo": 6}, False),
        (BATCH, {"tile": 112, "blend": "linear"}, True),
        (INSTANCE, {"tile": 96}, False),
        (Attention().eval(), {"tile": 64}, False),
    ],
)
def test_it_equals_brute_force(network, how, passed) -> None:
    """The whole image fits: the difference of `predict` and one forward pass."""
    image = tissue(233, 241) if network is not INSTANCE else IMAGE
    if isinstance(network, Attention):
        image = IMAGE
    found = certify(image, network, **how)
    apart = np.abs(predict(image, network, **how).astype(float) - untiled(network, image))
    assert found.passed == passed
    assert found.covered == 1
    assert len(found.crops) == 1
    assert found.max_difference == pytest.approx(apart.max(), rel=1e-5, abs=1e-5)
    assert found.mean_difference == pytest.approx(apart.mean(), rel=1e-5, abs=1e-5)
    assert found.spread == pytest.approx(untiled(network, image).std(), rel=1e-4)
    if not passed:
        assert apart.max(0)[found.crops[0].worst] == pytest.approx(apart.max(), rel=1e-5)
        assert "Tiled and untiled predictions differ: on" in str(found)
    if isinstance(network, Attention):
        return
    short = "is less than the network's reach, 22 px"
    assert (short in str(found)) == ("halo" in how)
    if network is INSTANCE:
        both = str(certify(image, network, tile=96, halo=6))
        # else "Use `halo=22`. Overlap cannot remove that" would contradict itself
        assert "Overlap cannot remove that: " in both.split("Margin (halo) 6")[0]
        assert "is less than the reach of the convolutions, 22 px" in both


def test_crops_lie_on_the_grid_where_it_is_worst_and_fit_the_memory() -> None:
    image = tissue(400, 500)
    model = load_model(deep(networks.UNet(2, 2)))
    seam = Seam(1.0, 1.0, (0, 0), 0, (), (None,), (None,), (333, 111))
    memory = int(model.facts.bytes_per_pixel * 150 * 150)
    found = certify(image, model, tile=72, halo=6, memory=memory, worst=[seam], crops=2)
    assert not found.passed
    assert len(found.crops) == 2
    first = found.crops[0]
    assert first.start[0] <= 333 < first.stop[0]
    assert first.start[1] <= 111 < first.stop[1]
    for crop in found.crops:
        assert all(start % 4 == 0 for start in crop.start)
        shape = tuple(b - a for a, b in zip(crop.start, crop.stop, strict=True))
        assert 120 <= min(shape) <= max(shape) <= 160
        assert crop.tiles > 1
        assert all(a <= w < b for a, w, b in zip(crop.start, crop.worst, crop.stop, strict=True))
    share = sum(np.prod([b - a for a, b in zip(c.start, c.stop, strict=True)]) for c in found.crops)
    assert found.covered == pytest.approx(share / image.size, rel=0.15)
    good = certify(image, model, tile=72, memory=memory, worst=[(333, 111)], crops=2)
    assert good.passed
    assert all(
        a <= x < b
        for a, x, b in zip(good.crops[0].start, (333, 111), good.crops[0].stop, strict=True)
    )
    assert 0 < good.covered < 1


class Multiples(nn.Module):
    """Takes multiples of 16, though its tiles may start anywhere: one pixel of reach."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if any(n % 16 for n in x.shape[2:]):
            raise ValueError("multiples of 16")
        return self.conv(x)


@pytest.mark.parametrize("blend", ["crop", "linear"])
def test_a_crop_between_sizes_is_compared_where_tiles_are_kept(blend: str) -> None:
    model = as_model(Multiples().eval())
    image = np.random.default_rng(0).random((400, 301), np.float32)
    how = {"normalize": "none", "tile": 96, "memory": 900_000, "blend": blend}
    found = certify(image, model, **how)
    assert found.padded  # else nothing is shown
    assert len(found.crops) > 1
    assert found.passed
    assert not certify(image, model, halo=0, overlap=0, **how).passed


def test_a_crop_equals_brute_force_with_the_whole_images_intensities() -> None:
    """Both ways see the z-score of the whole image, not that of the crop."""
    image = tissue(300, 320) + 100
    model = load_model(BATCH)
    memory = int(model.facts.bytes_per_pixel * 128 * 128)
    how = {"tile": 64, "halo": 4}
    found = certify(image, model, normalize="zscore", memory=memory, crops=1, **how)
    (crop,) = found.crops
    part = tuple(slice(a, b) for a, b in zip(crop.start, crop.stop, strict=True))
    pixels = ((image - image.mean(dtype=float)) / (image.std(dtype=float) + 1e-6)).astype(
        np.float32
    )
    whole = untiled(BATCH, pixels[part])
    apart = np.abs(predict(pixels[part], BATCH, **how) - whole)
    assert found.max_difference == pytest.approx(apart.max(), rel=1e-4)
    assert found.mean_difference == pytest.approx(apart.mean(), rel=1e-4)


def test_a_sabotaged_run_fails(monkeypatch) -> None:
    """One tile off by a thousandth in one pixel of its core."""
    real_run = certificates.run

    def sabotaged(case, output, **how):
        yield from real_run(case, output, **how)
        if len(case.plan.grid) > 1:
            output.array[0, 100, 100] += 0.001 * float(output.array.std())

    assert certify(IMAGE, BATCH, tile=96).passed
    monkeypatch.setattr(certificates, "run", sabotaged)
    found = certify(IMAGE, BATCH, tile=96)
    assert not found.passed
    assert found.crops[0].worst == (100, 100)
    assert found.max_in_std == pytest.approx(1e-3, rel=0.05)


def test_valid_convolutions_scales_volumes_channels_and_frames() -> None:
    assert certify(IMAGE, deep(networks.ValidUNet(2, 2)), tile=92).passed
    torch.manual_seed(0)
    halved = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, 1, 1)).eval()
    assert certify(IMAGE, halved, tile=64).passed
    failed = certify(IMAGE, halved, tile=64, halo=0)
    assert not failed.passed
    assert "Use `halo=4`." in str(failed)
    assert "(seamscope seams)" in str(failed)
    volume = tissue(40, 44, 48)
    assert certify(volume, deep(networks.UNet(3, 1, features=2)), tile=32).passed
    blur = nn.Conv2d(2, 1, 5, padding=2).eval()
    frames = np.stack([np.zeros((2, 96, 96), np.float32), np.stack([tissue(96, 96)] * 2)])
    seam = Seam(1.0, 1.0, (0, 0), 0, (1,), (None,), (None,), (30, 40))
    how = {"axes": "tcyx", "tile": 32, "halo": 0}
    dark, bright = certify(frames, blur, **how), certify(frames, blur, worst=[seam], **how)
    assert (dark.frame, bright.frame) == ((0,), (1,))
    assert bright.max_difference > dark.max_difference


class ResizedToSkips(nn.Module):
    """Takes any size, and is periodic in multiples of 4 only."""

    def __init__(self, axes: int):
        super().__init__()
        torch.manual_seed(0)
        convolution = (nn.Conv2d, nn.Conv3d)[axes - 2]
        self.pool = (nn.MaxPool2d, nn.MaxPool3d)[axes - 2](4)
        self.a, self.b = convolution(1, 2, 3, padding=1), convolution(2, 2, 3, padding=1)

    def forward(self, x):
        x = self.a(x)
        deep = self.b(self.pool(x))
        return x + nn.functional.interpolate(deep, size=x.shape[2:])


@pytest.mark.parametrize("sizes", [(118, 120), (122, 117), (38, 40, 37)])
def test_off_the_grid_untiled_means_padded(sizes) -> None:
    network = ResizedToSkips(len(sizes)).eval()
    image = np.random.default_rng(0).random(sizes, np.float32)
    tile = 64 if len(sizes) == 2 else 24
    found = certify(image, network, tile=tile)
    assert found.passed
    assert found.padded == tuple(-(-n // 4) * 4 for n in sizes)
    padded = np.pad(image, [(0, -n % 4) for n in sizes], mode="reflect")
    with torch.no_grad():
        whole, plain = (
            network(torch.from_numpy(x)[None, None])[0].numpy() for x in (padded, image)
        )
    whole = whole[:, *(slice(n) for n in sizes)]
    assert np.abs(predict(image, network, tile=tile) - whole).max() < 1e-5
    apart = np.abs(whole - plain).max()
    assert apart > 0.1
    assert found.crops[0].plain_difference == pytest.approx(apart, rel=1e-4)
    assert "padded at the end to" in str(found)
    assert f"without padding differs from both by up to {apart:.2g}" in str(found)
    notes = Case.open(image, network, tile=tile).plan.notes
    assert sum("network may predict otherwise for" in note for note in notes) == sum(
        n % 4 > 0 for n in sizes
    )
    whole_periods = certify(padded, network, tile=tile)
    assert not whole_periods.padded
    assert "padded" not in str(whole_periods)


class Seen5(nn.Module):
    """Two convolutions of 5: reach 4, with a result of another scale or without the border."""

    def __init__(self, kind: str):
        super().__init__()
        torch.manual_seed(0)
        pad = 0 if kind == "valid" else 2
        self.a, self.b = nn.Conv2d(1, 2, 5, padding=pad), nn.Conv2d(2, 1, 5, padding=pad)
        self.kind = kind

    def forward(self, x):
        x = self.b(self.a(x).relu())
        if self.kind == "half":
            return nn.functional.avg_pool2d(x, 2)
        return nn.functional.interpolate(x, scale_factor=2) if self.kind == "double" else x


@pytest.mark.parametrize(
    ("kind", "blend"),
    [
        *(("same", blend) for blend in ("crop", "linear", "gaussian")),
        *((kind, "crop") for kind in ("valid", "half", "double")),
    ],
)
@pytest.mark.parametrize(
    "area",
    [
        {"y": (74, 108), "x": (0, 200)},  # one row of tiles: all its seams are its outer sides
        {"y": (74, 108), "x": (2, 30)},  # one tile
        {"y": (60, 200), "x": (170, 198)},
    ],
)
def test_an_area_is_compared_with_the_whole_image(area, kind, blend) -> None:
    network = load_model(Seen5(kind))
    image = np.random.default_rng(0).random((200, 200), np.float32)
    settings = {"blend": blend, "normalize": "none"}
    if kind != "valid":  # what it crops is its halo
        settings["halo"] = 2
    found = certify(image, network, tile=40, area=area, **settings)
    tiled = predict(image, network, tile=40, area=area, **settings)
    whole = predict(image, network, tile=240, area=area, normalize="none")
    (crop,) = found.crops
    assert (crop.start, crop.stop) == tuple(zip(*area.values(), strict=True))
    assert found.max_difference == pytest.approx(np.abs(tiled - whole).max(), abs=1e-6)
    assert found.passed == (kind == "valid")
    assert crop.tiles > 1
    assert "on 1 crop of" in str(found)


@pytest.mark.parametrize("area", [None, {"y": (74, 108), "x": (0, 200)}])
def test_crops_hold_the_tiles_of_the_image(area, monkeypatch) -> None:
    """Laid anew, the tiles of a small crop overlap more, and hide a halo that is short."""
    network = load_model(Seen5("same"))
    image = np.random.default_rng(0).random((200, 200), np.float32)
    settings = {"tile": 40, "halo": ((2, 2), (4, 4)), "normalize": "none"}
    tiled = predict(image, network, **settings)
    apart = np.abs(tiled - predict(image, network, tile=200, normalize="none"))
    for pixels in (8000, 6000):
        monkeypatch.setattr(certificates, "_largest_pixels", lambda *plan, n=pixels: n)
        found = certify(image, network, area=area, **settings)
        assert not found.passed
        for crop in found.crops:
            part = tuple(map(slice, crop.start, crop.stop))
            inner = tuple(slice(a + 4, b - 4) for a, b in zip(crop.start, crop.stop, strict=True))
            assert found.max_difference >= apart[inner].max() - 1e-6
            assert crop.max_difference <= apart[part].max() + 1e-6
    monkeypatch.setattr(certificates, "_largest_pixels", lambda *plan: 3600)
    with pytest.raises(SettingsError, match="a part of its neighbours"):
        certify(image, network, area=area, **settings)


def test_only_what_an_area_depends_on_is_predicted() -> None:
    network = load_model(deep(networks.UNet(2, 2)))
    image = tissue(233, 241)
    area = {"y": (100, 150), "x": (120, 130)}
    for asked in ({"halo": 6}, {}):
        found = certify(image, network, tile=72, area=area, **asked)
        (crop,) = found.crops
        assert max(crop.predicted) < 233
        assert found.covered < 0.02
        assert found.passed == (not asked)
        tiled = predict(image, network, tile=72, area=area, **asked)
        whole = predict(image, network, tile=256, area=area)
        assert found.max_difference == pytest.approx(
            np.abs(tiled - whole).max(), abs=1e-4 * float(whole.std())
        )


def test_what_cannot_be_certified_is_said() -> None:
    assert "no seam" in str(certify(IMAGE, BATCH, tile=256))
    with pytest.raises(SettingsError, match=r"no more than one tile.*allow more memory"):
        certify(IMAGE, BATCH, tile=128, memory=1_000_000)
    with pytest.raises(InterruptedError):
        certify(IMAGE, BATCH, tile=96, work=stopped_after(0))
    work = Seen()
    certify(IMAGE, BATCH, tile=96, work=work)
    seen = work.steps
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))]


def test_local_statistics_are_certified_on_the_whole_image_or_not_at_all() -> None:
    local = INSTANCE_MODEL.with_statistics(
        freeze_statistics(IMAGE, INSTANCE_MODEL, "local", cell=32)
    )
    assert certify(IMAGE, local, tile=96).covered == 1
    with pytest.raises(SettingsError, match=r"Memory allows .* statistics .* are local: allow"):
        certify(IMAGE, local, tile=48, halo=4, memory=3_000_000)
    exact = INSTANCE_MODEL.with_statistics(freeze_statistics(IMAGE, INSTANCE_MODEL))
    assert certify(IMAGE, exact, tile=48, halo=4, memory=3_000_000).covered < 1


@pytest.mark.parametrize("tolerance", [float("nan"), float("inf"), -1.0])
def test_a_tolerance_that_is_none_is_refused(tolerance) -> None:
    with pytest.raises(SettingsError, match="finite and 0 or more"):
        certify(IMAGE, BATCH, tile=96, tolerance=tolerance)


def test_memory_that_runs_out_makes_crops_smaller(monkeypatch) -> None:
    image = tissue(400, 500)
    most = 200 * 200

    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 5, padding=2)

        def forward(self, x):
            if x[0, 0].numel() > most:
                raise torch.OutOfMemoryError("out of memory")
            return self.conv(x)

    found = certify(image, Greedy().eval(), tile=64)
    assert found.passed
    sizes = [np.prod([b - a for a, b in zip(c.start, c.stop, strict=True)]) for c in found.crops]
    assert most / 4 < max(sizes) <= most


def test_it_is_stored_with_a_zarr_and_nothing_else(tmp_path) -> None:
    made = certify(IMAGE, BATCH, tile=96)
    for name in ("a.zarr", "a.ome.zarr"):
        path = tmp_path / name
        predict(IMAGE, BATCH, str(path), tile=96)
        node = zarr.open(str(path), mode="r")
        pixels = (node["0"] if "ome" in name else node)[...]
        before = read_record(path)
        store_certificate(made, path)
        after = read_record(path)
        assert after["certificate"] == json.loads(json.dumps(made.to_json(), allow_nan=False))
        assert after["certificate"]["passed"] is True
        assert {k: v for k, v in after.items() if k != "certificate"} == before
        node = zarr.open(str(path), mode="r")
        assert np.array_equal((node["0"] if "ome" in name else node)[...], pixels)
    other = certify(IMAGE, BATCH, tile=96, halo=20)
    with pytest.raises(OutputError, match="made with the halo"):
        store_certificate(other, path)
    with pytest.raises(OutputError, match="made with the image size"):
        store_certificate(certify(IMAGE[:, :-8], BATCH, tile=96), path)
    with pytest.raises(OutputError, match="made with the network"):
        store_certificate(certify(IMAGE, INSTANCE, tile=96), path)
    predict(IMAGE, BATCH, str(tmp_path / "a.tif"), tile=96)
    with pytest.raises(OutputError, match="only zarr's attributes"):
        store_certificate(made, tmp_path / "a.tif")
    with pytest.raises(OutputError, match="no result"):
        store_certificate(made, tmp_path / "b.zarr")
    zarr.create_array(tmp_path / "c.zarr", shape=(4,), dtype="u1")
    with pytest.raises(OutputError, match="no record"):
        store_certificate(made, tmp_path / "c.zarr")


def test_the_real_network_without_normalization(real_models, real_images) -> None:
    network = real_networks.nuclei_broad()
    weights = real_models / "unet2d_nuclei_broad" / "state_dict.safetensors"
    network.load_state_dict(load_file(weights), strict=True)
    model = load_model(network.eval())
    image = real_images / "nuclei_2d.tif"
    good = certify(image, model, tile=256, normalize="zscore")
    assert good.passed
    assert good.covered == 1
    short = certify(image, model, tile=256, halo=32, normalize="zscore")
    assert not short.passed
