"""Tiled equals untiled, streamed equals whole, and nothing is lost when something goes wrong."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import threading
from ast import literal_eval
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import networks
import seamscope
from seamscope.errors import ImageError, ModelError, SettingsError
from seamscope.images.image import open_image
from seamscope.models.formats import load_model
from seamscope.models.runner import Speed
from seamscope.planning.case import Case
from seamscope.planning.plan import resolve
from seamscope.planning.reading import jobs_of
from seamscope.planning.tuning import prepare
from seamscope.prediction.output import open_output
from seamscope.prediction.run import Finished, Reduced, Started, TileDone, predict, run
from seamscope.settings import Settings
from watching import stopped_after

# In standard deviations of the output: sums in another order differ by 1e-6 to 2e-5 (other sizes
# take other convolution kernels), a halo one pixel short or a tile off the grid by 1e-3 and more.
NOISE = 1e-4


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def deep(network, seed=0):
    """The network with its deepest path as strong as the shallow ones, so that errors show."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network.eval()


def untiled(network, image, period):
    """The network on the whole image at once, continued by reflection to a multiple of period."""
    padding = [(0, -n % period) for n in image.shape]
    x = torch.from_numpy(np.pad(image, padding, mode="reflect"))[None, None]
    with torch.inference_mode():
        y = network(x)[0].numpy()
    return y[:, *(slice(0, n) for n in image.shape)]


CASES = [
    ("BatchNorm U-Net", lambda: networks.UNet(2, 2), 4, (301, 263), 96),
    ("no normalization", lambda: networks.UNet(2, 3, norm=None), 8, (333, 250), (160, 200)),
    ("bilinear", lambda: networks.UNet(2, 2, up="bilinear"), 4, (200, 210), 88),
    ("3D", lambda: networks.UNet(3, 1, features=2), 2, (45, 60, 51), (32, 36, 40)),
]


@pytest.mark.parametrize(
    ("make", "period", "shape", "tile"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_tiled_equals_untiled_at_halo_auto(make, period, shape, tile) -> None:
    network = deep(make())
    image = noise(*shape)
    whole = untiled(network, image, period)
    tiled = predict(image, network, tile=tile)
    assert np.abs(tiled - whole).max() < NOISE * whole.std()


@pytest.mark.parametrize("blend", ["linear", "gaussian", "distance"])
def test_blends_are_seamless_at_the_reach_and_not_one_pixel_short(blend) -> None:
    """Blends trust everything outside the halo, so that one distrusted pixel shows."""
    network = deep(networks.UNet(2, 2))
    reach = load_model(network).reach.halo[0][0]
    image = noise(240, 260)
    whole = untiled(network, image, 4)
    enough = predict(image, network, tile=112, halo=reach, blend=blend, overlap=46)
    short = predict(image, network, tile=112, halo=reach - 1, blend=blend, overlap=46)
    noise_left = np.abs(enough - whole).max()
    assert noise_left < NOISE / 5 * whole.std()
    # the outermost trusted pixel has the smallest weight of all, next to none in a Gaussian
    assert np.abs(short - whole).max() > 10 * noise_left


def test_crop_fails_one_pixel_short() -> None:
    """With a period of 1 no rounding hides a missing pixel."""
    network = deep(
        nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 2, 5, padding=2))
    )
    image = noise(120, 130)
    whole = untiled(network, image, 1)
    how = {"seams": "none", "tile": 48}
    assert np.abs(predict(image, network, halo=4, **how) - whole).max() < NOISE * whole.std()
    assert np.abs(predict(image, network, halo=3, **how) - whole).max() > 1e-3 * whole.std()
    one_side = predict(image, network, halo=[(4, 3), (4, 4)], **how)
    assert np.abs(one_side - whole).max() > 1e-3 * whole.std()


def test_off_the_grid_would_be_wrong_and_is_not_possible() -> None:
    network = deep(networks.UNet(2, 2))
    with pytest.raises(SettingsError, match="multiples of 4"):
        predict(noise(200, 200), network, tile=98)
    plan = resolve(open_image(noise(400, 390)), load_model(network), Settings(tile=96, overlap=50))
    assert all(part.start % 4 == 0 for tile in plan.grid for part in tile.read)


def test_valid_network_equals_the_network_on_the_reflected_image() -> None:
    network = deep(networks.ValidUNet(2))
    image = noise(150, 171)
    tiled = predict(image, network, tile=108)
    x = np.pad(image, [(20, 20 + -150 % 4), (20, 20 + -171 % 4)], mode="reflect")
    with torch.inference_mode():
        whole = network(torch.from_numpy(x)[None, None])[0].numpy()[:, :150, :171]
    assert tiled.shape == (2, 150, 171)
    assert np.abs(tiled - whole).max() < NOISE * whole.std()


def test_output_scale() -> None:
    double = deep(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Upsample(scale_factor=2)))
    image = noise(70, 90)
    out = predict(image, double, tile=32)
    assert out.shape == (2, 140, 180)
    assert np.array_equal(out, untiled_any(double, image))
    half = deep(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, stride=2)))
    out = predict(image, half, tile=32)
    assert out.shape == (2, 35, 45)
    assert np.array_equal(out, untiled_any(half, image))


def untiled_any(network, image):
    with torch.inference_mode():
        return network(torch.from_numpy(image)[None, None])[0].numpy()


@settings(max_examples=25)
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from([8, 16, 40, 64]),
    st.sampled_from(["uint8", "uint16", "float32", "bool"]),
    st.sampled_from(["crop", "linear", "distance"]),
    st.integers(1, 4),
)
def test_identity_network_returns_the_image(shape, tile, dtype, blend, batch) -> None:
    image = (np.random.default_rng(1).random(shape) * 255).astype(dtype)
    out = predict(image, nn.Identity(), tile=tile, halo=2, blend=blend, batch=batch)
    assert np.array_equal(out, image.astype(np.float32))


# -- axes


def test_leading_axes_are_iterated_or_become_channels_by_their_names() -> None:
    network = deep(nn.Conv2d(2, 3, 3, padding=1))
    movie = noise(4, 2, 40, 50)
    out = predict(movie, network, tile=24, axes="tcyx")
    assert out.shape == (4, 3, 40, 50)
    for frame, result in zip(movie, out, strict=True):
        with torch.inference_mode():
            assert np.array_equal(network(torch.from_numpy(frame)[None])[0].numpy(), result)
    # the same pixels in another order of axes
    moved = np.ascontiguousarray(np.moveaxis(movie, 1, -1))
    assert np.array_equal(predict(moved, network, tile=24, axes="tyxc"), out)
    # z as channels
    stacked = predict(movie, network, tile=24, axes="tzyx", channel_axis="z")
    assert np.array_equal(stacked, out)


def test_identity_takes_and_gives_any_number_of_channels() -> None:
    image = noise(50, 40, 3)
    out = predict(image, nn.Identity(), tile=16, axes="yxc")
    assert np.array_equal(out, image.transpose(2, 0, 1))


def test_one_channel_of_several() -> None:
    network = deep(nn.Conv2d(1, 1, 3, padding=1))
    image = noise(30, 40, 3)
    out = predict(image, network, tile=16, axes="yxc", channel=1, normalize="zscore")
    one = image[..., 1]
    z = (one - one.mean(dtype="f8")) / (one.std(dtype="f8") + 1e-6)
    expected = untiled_any(network, z.astype(np.float32))[0]
    assert out.shape == (30, 40)
    assert np.abs(out - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("shape", "axes", "asked", "words"),
    [
        ((5, 40, 40), None, {}, ["3 axes", "5 x 40 x 40", "`axes`", "tyx"]),
        ((40, 40, 3), "yxc", {}, ["3 channels", "takes 1", "`channel=0`"]),
        ((40, 40, 3), "yxc", {"channel": 3}, ["Channel 3", "has 3"]),
        ((40, 40), "zx", {}, ["2D", "yx"]),
        ((40, 40), None, {"channel_axis": "z"}, ["'z'", "yx"]),
        ((40, 40), None, {"area": {"y": (10, 50)}}, ["y=10:50", "40 pixels"]),
        ((40, 40), None, {"area": {"t": (0, 1)}}, ["t", "yx"]),
        ((40, 40), None, {"device": "warp"}, ["warp", "cpu"]),
        ((40, 40), None, {"blend": "melt"}, ["melt", "crop"]),
        ((40, 40), None, {"batch": 0}, ["batch 0"]),
        ((40, 40), None, {"percentiles": (5, 5)}, ["percentiles 5 and 5"]),
        ((40, 40), None, {"memory": -1}, ["memory -1"]),
        ((400, 400), None, {"memory": 10, "tile": "auto"}, ["smallest tile", "`memory`"]),
    ],
)
def test_contradictions_get_one_sentence(shape, axes, asked, words) -> None:
    with pytest.raises(seamscope.SeamscopeError) as caught:
        predict(noise(*shape), nn.Conv2d(1, 1, 3, padding=1), axes=axes, **{"tile": 16} | asked)
    for word in words:
        assert word in str(caught.value)


# -- parts and forms of the result


def test_area_of_an_image_smaller_than_a_tile_with_its_halos() -> None:
    image = np.random.default_rng(0).random((64, 72)).astype(np.float32)
    whole = predict(image, "demo:batchnorm")  # reaches 46
    part = predict(image, "demo:batchnorm", area={"y": (16, 48), "x": (3, 60)})
    np.testing.assert_allclose(part, whole[:, 16:48, 3:60], atol=1e-5)


@pytest.mark.parametrize("blend", ["crop", "linear"])
def test_area_equals_the_same_part_of_the_whole(blend) -> None:
    # any change of the tiles would show in InstanceNorm; one model, so that one trial serves both
    network = load_model(deep(networks.UNet(2, 2, norm="instance")))
    image = noise(3, 300, 280)
    whole = predict(image, network, tile=96, halo=20, blend=blend, axes="tyx")
    area = {"t": (1, 2), "y": (33, 170), "x": (100, 101)}
    part = predict(image, network, tile=96, halo=20, blend=blend, axes="tyx", area=area)
    assert np.array_equal(part, whole[1:2, :, 33:170, 100:101])


def test_labels_are_the_largest_channel_or_above_the_threshold() -> None:
    network = deep(networks.UNet(2, 1, classes=3))
    image = noise(90, 80)
    probabilities = predict(image, network, tile=32)
    labels = predict(image, network, tile=32, result="labels")
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, probabilities.argmax(0))
    single = deep(networks.UNet(2, 1, classes=1))
    values = predict(image, single, tile=32)
    assert np.array_equal(
        predict(image, single, tile=32, result="labels", threshold=0.2), values > 0.2
    )


def test_zero_border() -> None:
    network = deep(nn.Conv2d(1, 1, 5))  # valid: needs two pixels beyond the border
    image = noise(40, 41)
    expected = untiled_any(network, np.pad(image, 2))[0]
    assert np.array_equal(predict(image, network, tile=20, padding="zeros"), expected)
    expected = untiled_any(network, np.pad(image, 2, mode="reflect"))[0]
    assert np.array_equal(predict(image, network, tile=20), expected)


def test_small_images() -> None:
    network = deep(networks.UNet(2, 2))
    for shape in [(1, 1), (3, 50), (7, 5)]:
        image = noise(*shape)
        assert predict(image, network).shape == (2, *shape)
    with pytest.raises(ImageError, match="empty"):
        predict(np.zeros((0, 5), np.float32), network)


def test_bfloat16_is_close_and_float32_comes_back() -> None:
    network = deep(networks.UNet(2, 2))
    image = noise(128, 128)
    exact = predict(image, network, tile=96)
    rough = predict(image, network, tile=96, precision="bfloat16")
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.2 * exact.std() * 10


# -- stores and streams


def test_every_source_and_target_gives_the_same(tmp_path) -> None:
    network = deep(networks.UNet(2, 2))
    image = (np.random.default_rng(0).random((230, 190)) * 4000).astype(np.uint16)
    asked = {"tile": 96, "normalize": "zscore", "accelerate": False}
    expected = predict(image, network, **asked)
    stored = zarr.create_array(tmp_path / "in.zarr", shape=image.shape, chunks=(50, 60), dtype="u2")
    stored[...] = image
    np.save(tmp_path / "in.npy", image)
    sources = [stored, dask.array.from_array(image, 70), tmp_path / "in.npy", tmp_path / "in.zarr"]
    for source in sources:
        got = predict(source, network, axes="yx", **asked)
        assert np.abs(got - expected).max() < 1e-5 * expected.std()
    for name in ["out.zarr", "out.ome.zarr", "out.tif", "out.npy"]:
        predict(image, network, tmp_path / name, **asked)
        back = open_image(tmp_path / name)
        assert np.array_equal(back.read((slice(None),) * 3), expected)
        assert back.axes == "cyx"
    target = np.zeros_like(expected)
    assert predict(image, network, target, **asked) is target
    assert np.array_equal(target, expected)


def test_batches_equal_single_tiles() -> None:
    network = deep(networks.UNet(2, 2))
    image = noise(250, 260)
    one = predict(image, network, tile=96, batch=1)
    assert np.abs(predict(image, network, tile=96, batch=5) - one).max() < 1e-5 * one.std()


@pytest.mark.parametrize("method", ["zscore", "minmax", "percentile"])
def test_intensities_are_those_of_the_whole_image(method) -> None:
    image = (np.random.default_rng(0).gamma(2, 300, (150, 130))).astype(np.uint16)
    image[:70] = 3  # tiles differ
    got = predict(image, nn.Identity(), tile=32, normalize=method)
    x = image.astype(np.float64)
    low, high = np.percentile(x, (1, 99.8))
    expected = {
        "zscore": (x - x.mean()) / (x.std() + 1e-6),
        "minmax": (x - x.min()) / (x.max() - x.min() + 1e-6),
        "percentile": (x - low) / (high - low + 1e-6),
    }[method]
    assert np.abs(got - expected).max() < 1e-5


def anonymous_memory() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("anonymous memory is read from /proc, which this system has not")
    line = next(x for x in status.read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def peak_while(work) -> int:
    """Largest growth of anonymous memory while `work` runs."""
    before = anonymous_memory()
    peak, stop = [before], threading.Event()

    def watch():
        while not stop.wait(0.002):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    stop.set()
    watcher.join()
    return peak[0] - before


def test_memory_is_bounded_by_tiles_and_not_by_images(tmp_path) -> None:
    """Ten times the pixels, zarr to zarr, within a fifth of one large image's bytes."""
    network = nn.Conv2d(1, 2, 3, padding=1).eval()
    sizes = {"small": (512, 512), "large": (1536, 1792)}
    growth = {}
    for name, shape in [("small", sizes["small"]), *sizes.items()]:  # the first warms up
        path = tmp_path / f"{name}.zarr"
        stored = zarr.create_array(path, shape=shape, chunks=(128, 128), dtype="f4", overwrite=True)
        for y in range(0, shape[0], 128):
            stored[y : y + 128] = noise(min(128, shape[0] - y), shape[1], seed=y)
        growth[name] = peak_while(
            lambda path=path, name=name: predict(
                path, network, tmp_path / f"{name}-out.zarr", tile=128, overwrite=True
            )
        )
    image_bytes = 3 * 4 * np.prod(sizes["large"])  # input and two channels of output
    assert growth["large"] - growth["small"] < image_bytes / 5


# -- what happens on the way


def events(image, network, **asked):
    model, opened = load_model(network), open_image(image)
    plan = resolve(opened, model, Settings(**asked))
    output = open_output(Case.planned(opened, model, plan))
    return list(run(Case.planned(opened, model, plan), output)), output


def test_events_tell_everything_once() -> None:
    told, output = events(
        noise(200, 190), nn.Conv2d(1, 1, 3, padding=1), tile=64, normalize="zscore"
    )
    assert isinstance(told[0], Started)
    done = [e for e in told if isinstance(e, TileDone)]
    assert [e.done for e in done] == list(range(1, told[0].tiles + 1))
    covered = np.zeros(output.array.shape, int)
    for event in done:
        covered[event.region] += 1
    assert (covered == 1).all()
    assert isinstance(told[-1], Finished)
    assert output.record["finished"]
    assert output.record["figures"]["tiles"] == len(done)


def test_tiles_nearest_to_a_point_come_first() -> None:
    model, image = load_model(nn.Conv2d(1, 1, 3, padding=1)), open_image(noise(300, 300))
    plan = resolve(image, model, Settings(tile=64))
    output = open_output(Case.planned(image, model, plan))
    regions = [
        e.region
        for e in run(Case.planned(image, model, plan), output, first=(250, 20))
        if isinstance(e, TileDone)
    ]
    y, x = regions[0]
    assert y.start <= 250 < y.stop
    assert x.start <= 20 < x.stop
    centres = [
        np.hypot((y.start + y.stop) / 2 - 250, (x.start + x.stop) / 2 - 20) for y, x in regions
    ]
    assert np.mean(centres[:8]) < np.mean(centres[-8:]) / 2


@pytest.mark.parametrize("blend", ["crop", "linear"])
def test_the_frame_of_a_point_comes_first(blend) -> None:
    model, image = (
        load_model(nn.Conv2d(1, 1, 3, padding=1)),
        open_image(noise(5, 64, 48), axes="tyx"),
    )
    plan = resolve(image, model, Settings(tile=32, blend=blend))
    jobs = list(jobs_of(plan, (3, 60, 40)))
    assert [frame for frame, _ in itertools.groupby(job.frame[0] for job in jobs)] == [
        3,
        2,
        4,
        1,
        0,
    ]
    usual = {(job.frame, job.tile.index) for job in jobs_of(plan, None)}
    assert usual == {(job.frame, job.tile.index) for job in jobs}
    assert len(usual) == len(jobs)
    made = open_output(Case.planned(image, model, plan))
    list(run(Case.planned(image, model, plan), made, first=(3, 60, 40)))
    whole = predict(image, model, tile=32, blend=blend)
    np.testing.assert_array_equal(made.array, whole)


def reading_threads():
    return [t for t in threading.enumerate() if t.name.startswith("seamscope-read")]


@pytest.mark.parametrize("lazy", [False, True])
def test_cancel_keeps_what_is_done_and_stops_within_a_tile(lazy) -> None:
    calls = []

    class Counting(nn.Module):
        def forward(self, x):
            calls.append(1)
            return x

    image = noise(256, 256)
    model = load_model(Counting(), spatial_axes=2, channels=1)
    opened = open_image(dask.array.from_array(image, 64) if lazy else image, axes="yx")
    plan = resolve(opened, model, Settings(tile=64, halo=0))
    output = open_output(Case.planned(opened, model, plan))
    output.array[...] = -9
    calls.clear()
    done = 0
    for event in run(Case.planned(opened, model, plan), output, work=stopped_after(3)):
        done += isinstance(event, TileDone)
    assert len(calls) == done == 3
    assert (output.array != -9).sum() == 3 * 64 * 64
    assert not output.record.get("finished")
    assert not reading_threads()


def test_closing_the_generator_frees_its_thread() -> None:
    model = load_model(nn.Conv2d(1, 1, 3, padding=1))
    image = open_image(dask.array.from_array(noise(256, 256), 64), axes="yx")
    plan = resolve(image, model, Settings(tile=64))
    stream = run(Case.planned(image, model, plan), open_output(Case.planned(image, model, plan)))
    next(stream), next(stream)
    assert reading_threads()
    stream.close()
    assert not reading_threads()


class Hungry(nn.Module):
    """Runs out of memory above so many pixels."""

    def __init__(self, most):
        super().__init__()
        self.most = most
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        if self.armed and x.numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.conv(x)

    armed = False


def test_out_of_memory_reduces_the_batch_then_the_tile_and_loses_nothing() -> None:
    network = Hungry(50 * 50).eval()
    image = noise(200, 210)
    model = load_model(network)
    assert model.reach.bounded
    expected = untiled_any(network, image)[0]
    network.armed = True
    told, output = events(image, model, tile=64, batch=4, halo=2)
    reasons = [e.reason for e in told if isinstance(e, Reduced)]
    assert "from 4 to 2" in reasons[0]
    assert "from 2 to 1" in reasons[1]
    assert "64 x 64" in reasons[2]
    assert np.abs(output.array - expected).max() < NOISE * expected.std()
    assert isinstance(told[-1], Finished)
    network.most = 9
    with pytest.raises(SettingsError, match="smallest tile"):
        events(image, model, tile=64, halo=2)


def test_a_failing_network_is_told_in_a_sentence() -> None:
    class Fails(nn.Module):
        broken = False

        def forward(self, x):
            if self.broken:
                raise ValueError("weights fell off")
            return x

    network = Fails().eval()
    model = load_model(network, spatial_axes=2, channels=1)
    assert model.reach.bounded
    network.broken = True
    with pytest.raises(ModelError, match="weights fell off"):
        predict(noise(50, 50), model, tile=16)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["none", "zscore"])
def test_pixels_that_are_not_finite_are_named(value, method) -> None:
    image = noise(100, 90)
    image[71, 33] = value
    with pytest.raises(ImageError, match=r"71\D+33"):
        predict(image, nn.Conv2d(1, 1, 3, padding=1), tile=32, normalize=method)


def test_fill_nan() -> None:
    image = noise(100, 90)
    image[71, 33] = np.nan
    network = deep(nn.Conv2d(1, 1, 3, padding=1))
    for value in (0.0, 2.0):
        filled = np.nan_to_num(image, nan=value)
        got = predict(image, network, tile=32, fill_nan=value)
        assert np.array_equal(got, predict(filled, network, tile=32))
        assert np.abs(got - untiled_any(network, filled)[0]).max() < 1e-5
        # the whole image's statistics are those of the filled image
        normalized = predict(image, network, tile=32, fill_nan=value, normalize="zscore")
        assert np.array_equal(normalized, predict(filled, network, tile=32, normalize="zscore"))


def test_channel_of_a_chunked_image(tmp_path) -> None:
    image = noise(3, 100, 90)
    stored = zarr.create_array(
        tmp_path / "c.zarr", shape=image.shape, chunks=(2, 30, 30), dtype="f4"
    )
    stored[...] = image
    got = predict(stored, nn.Identity(), tile=32, axes="cyx", channel=2, normalize="minmax")
    low, high = image[2].min(), image[2].max()
    assert np.abs(got - (image[2] - low) / (high - low + 1e-6)).max() < 1e-6


def test_what_fails_before_the_first_tile_costs_no_file(tmp_path) -> None:
    image = noise(60, 60)
    predict(image, nn.Identity(), tmp_path / "o.npy", tile=16)
    image[3, 3] = np.nan
    for name in ("o.npy", "new.npy"):
        with pytest.raises(ImageError):
            predict(
                image, nn.Identity(), tmp_path / name, tile=16, normalize="zscore", overwrite=True
            )
    assert np.load(tmp_path / "o.npy").shape == (60, 60)
    assert not (tmp_path / "new.npy").exists()


# -- auto


def test_auto_tile_keeps_to_the_memory_budget_and_wastes_nothing() -> None:
    model = load_model(deep(networks.UNet(2, 3)))
    image = open_image(np.zeros((2000, 1500), np.uint8))
    redundancies = []
    for budget in (30e6, 100e6, 10e9):
        plan = resolve(image, model, Settings(memory=int(budget)))
        assert plan.bytes_per_tile <= budget
        assert plan.grid.halo == ((46, 46), (46, 46))
        redundancies.append(plan.redundancy)
    assert redundancies == sorted(redundancies, reverse=True)
    assert len(plan.grid) == 1
    assert plan.redundancy < 1.01  # one tile, rounded up to the period


def test_a_short_halo_is_told_where_there_are_borders() -> None:
    model = load_model(deep(networks.UNet(2, 2)))
    image = open_image(np.zeros((60, 300), np.uint8))  # one tile high
    notes = " ".join(resolve(image, model, Settings(tile=96, halo=8)).notes)
    assert "Margin (halo) 8 along x is less than the network's reach, 22 px" in notes
    assert "along y" not in notes
    assert "Use `halo=22`." in notes
    assert "whole numbers (uint8) and are taken as they are" in notes
    both = " ".join(
        resolve(open_image(np.zeros((300, 300))), model, Settings(tile=96, halo=8)).notes
    )
    assert "8 along y and x is less" in both
    assert "whole numbers" not in both
    assert "less than" not in " ".join(resolve(image, model, Settings(tile=96, halo=22)).notes)


@pytest.mark.parametrize(
    "asked",
    [
        {"tile": (32, 64, 64), "halo": 0},
        {"tile": (32, 64, 64), "halo": (1, 8, 8)},
        {"tile": (3, 12, 12), "halo": 0},
        {"tile": (5, 12, 12)},
        {"tile": (8, 64, 64), "overlap": 4},
        {"tile": (5, 12, 12), "overlap": 4},
    ],
)
def test_what_a_note_on_a_short_halo_offers_covers_the_reach_along_all_axes(
    asked: dict[str, Any],
) -> None:
    model = load_model(nn.Conv3d(1, 1, (5, 17, 17), padding=(2, 8, 8)))
    image = open_image(np.zeros((64, 128, 128), np.float32))
    plan = resolve(image, model, Settings(**asked))
    assert not plan.exact
    (said,) = (note for note in plan.notes if "neighbouring tiles may differ" in note)
    offered = {name: literal_eval(value) for name, value in re.findall(r"`(\w+)=([^`]+)`", said)}
    assert resolve(image, model, Settings(**asked | offered)).exact


def test_balanced_tiles_waste_less_than_round_ones() -> None:
    model = load_model(deep(networks.UNet(2, 2)))
    image = open_image(np.zeros((1111, 1111), np.uint8))
    budget = int(model.facts.bytes_per_pixel * 300 * 300)
    auto = resolve(image, model, Settings(memory=budget))
    for tile in (256, 288, 296):
        assert auto.redundancy <= resolve(image, model, Settings(tile=tile)).redundancy


def test_accelerated_equals_plain() -> None:
    network = deep(networks.UNet(2, 3, features=8))
    image = noise(1200, 1300)
    told, output = events(image, network, tile=256)
    plain = predict(image, network, tile=256, accelerate=False)
    assert told[-1].figures["network"] in ("plain", "channels_last", "fused", "openvino")
    assert np.abs(output.array - plain).max() < 2e-5 * plain.std()


PEAK_OF_ONE_TILE = """
import sys
sys.path[:0] = sys.argv[1:]
import numpy as np
import networks
from test_inference import peak_while, noise
from seamscope.images.image import open_image
from seamscope.models.formats import load_model
from seamscope.planning.plan import resolve
from seamscope.settings import Settings

model = load_model(networks.UNet(2, 2, features=16).eval())
image = open_image(noise(1024, 1024))
plan = resolve(image, model, Settings(tile=1024, accelerate=False))
runner, batch = model.runner(), noise(1, 1, 1024, 1024)
print(plan.bytes_per_tile, peak_while(lambda: runner(batch)))
"""


def test_plan_knows_the_memory_it_takes() -> None:
    """Predicted bytes of a forward pass against those a process of its own really takes."""
    anonymous_memory()  # skips where it cannot be read
    command = [
        sys.executable,
        "-c",
        PEAK_OF_ONE_TILE,
        str(Path(__file__).parents[1]),
        str(Path(__file__).parent),
    ]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    predicted, taken = map(int, answer.split())
    assert 0.7 * predicted < taken < 1.3 * predicted


# -- real networks on real images


@pytest.mark.parametrize(
    ("folder", "factory", "method"),
    [
        ("unet2d_nuclei_broad", "nuclei_broad", "zscore"),
        ("unet2d_nuclei_batchnorm", "nuclei_batchnorm", "minmax"),
    ],
)
def test_real_networks_tiled_equal_untiled(
    real_models, real_images, folder, factory, method
) -> None:
    here = Path(__file__).parents[1] / "real_networks.py"
    weights = real_models / folder / "state_dict.safetensors"
    model = load_model(f"{here}:{factory}@{weights}", trust=True)
    path = real_images / "nuclei_2d.tif"
    tiled = predict(path, model, tile=320, normalize=method)
    image = open_image(path).read((slice(None),) * 2).astype(np.float64)
    if method == "zscore":
        x = (image - image.mean()) / (image.std() + 1e-6)
    else:
        x = (image - image.min()) / (image.max() - image.min() + 1e-6)
    whole = untiled(model.module, x.astype(np.float32), 16)[0]
    assert np.abs(tiled - whole).max() < NOISE * whole.std()
    short = predict(path, model, tile=192, halo=16, normalize=method)
    assert np.abs(short - whole).max() > 10 * NOISE * whole.std()


PEAK_OF_A_RUN = """
import numpy as np
from torch import nn
from seamscope import Case, predict

network = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1))
image = np.random.default_rng(0).random((3072, 4096), np.float32)
case = Case.open(image, network.eval(), tile=1024, halo=8, accelerate=False, seams="none")
result = predict(case)
# not ru_maxrss, which begins with the memory of the process that started this one
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
taken = int(status["VmHWM"].split()[0]) * 1024
print(case.plan.peak_bytes(in_memory=True), taken)
"""


def test_plan_knows_the_memory_of_the_whole_process() -> None:
    """Network, result in memory, image and libraries, against what the process really takes."""
    anonymous_memory()  # skips where it cannot be read
    command = [sys.executable, "-c", PEAK_OF_A_RUN]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    stated, taken = map(int, answer.split())
    assert stated == pytest.approx(taken, rel=0.25)


def test_real_instancenorm_reproduces_its_vectors_in_one_tile_and_not_in_many(real_models) -> None:
    folder = real_models / "unet2d_covid_if_instancenorm"
    here = Path(__file__).parents[1] / "real_networks.py"
    model = load_model(f"{here}:covid_instancenorm@{folder / 'state_dict.safetensors'}", trust=True)
    image, expected = (np.load(folder / f"test_{n}put.npy")[0, 0] for n in ("in", "out"))
    once = predict(image, model, tile=256, normalize="zscore")
    assert np.abs(once - expected).max() < 1e-5
    tiled = predict(image, model, tile=64, halo=16, normalize="zscore")
    assert np.abs(tiled - expected).max() > 0.1 * expected.std()


def test_auto_tile_follows_measured_speed() -> None:
    """Fewest pixels, unless larger tiles are so much slower that more pixels take less time."""
    model = load_model(deep(networks.UNet(2, 2)))
    image = open_image(np.zeros((2000, 2000), np.uint8))
    fewest = resolve(image, model, Settings())
    assert len(fewest.grid) == 1
    model.speeds[fewest.speed_key] = Speed(((300**2, 1e-8), (2000**2, 1e-7)))
    fastest = resolve(image, model, Settings())
    assert max(fastest.grid.tile_shape) < 800
    # by brute force over square tiles none is faster by these speeds
    speed = model.speeds[fewest.speed_key]

    def seconds(plan):
        tile = int(np.prod(plan.grid.tile_shape))
        return len(plan.grid) * tile * speed.per_pixel(tile)

    for tile in range(96, 2000, 52):
        assert seconds(fastest) <= 1.02 * seconds(resolve(image, model, Settings(tile=tile)))


def test_tuning_measures_and_remembers() -> None:
    model = load_model(deep(networks.UNet(2, 2, features=2)))
    image = open_image(noise(1500, 1400))
    plan = prepare(image, model, Settings()).plan
    assert model.choices["cpu"].name in ("plain", "channels_last", "fused", "openvino")
    assert model.speeds[plan.speed_key].seconds
    assert all(rate > 0 for _, rate in model.speeds[plan.speed_key].seconds)
    known = dict(model.speeds)
    assert prepare(image, model, Settings()).plan.grid == plan.grid
    assert model.speeds == known


def test_more_than_256_classes_have_labels_of_16_bits() -> None:
    model = load_model(nn.Conv2d(1, 300, 1))
    image = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    labels = seamscope.predict(image, model, result="labels")
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, seamscope.predict(image, model).argmax(0))
