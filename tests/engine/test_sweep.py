"""Sweeps over tile sizes: against brute force, known variances and plain numpy."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
import zarr
from torch import nn

import networks
import seamscope.compare.pairwise
import seamscope.compare.tile_content
import seamscope.images.scratch
from seamscope import open_image, predict
from seamscope.compare.tile_content import content
from seamscope.compare.tile_sizes import sweep
from seamscope.errors import ImageError, SettingsError
from seamscope.images.ground_truth import classes_of, truth_for
from seamscope.images.postprocessing import Postprocessing
from seamscope.images.preparation import Binarized
from seamscope.models.model import as_model
from seamscope.planning.plan import resolve
from seamscope.settings import Settings
from watching import Seen, stopped_after

PIXELS = np.random.default_rng(5).random((96, 80)).astype(np.float32)
HALO = {"halo": 8, "accelerate": False}


class TileMean(nn.Module):
    """Two channels, probabilities, that depend on the mean of the tile."""

    def forward(self, x):
        p = torch.sigmoid(4 * (x - 1.5 * x.mean((2, 3), keepdim=True)))
        return torch.cat([p, 1 - p], 1)


def uneven(shape=(96, 80)) -> np.ndarray:
    """An image that is brighter towards its end, so that tiles differ."""
    return PIXELS * np.linspace(0.2, 1, shape[0], dtype=np.float32)[:, None]


def soft(p, q) -> float:
    p, q = p.astype(np.float64), q.astype(np.float64)
    return 1 - 2 * (p * q).sum() / ((p * p).sum() + (q * q).sum())


def dice(p, q) -> float:
    return 2 * (p & q).sum() / (p.sum() + q.sum())


# ---------------------------------------------------------------------------- against brute force


@pytest.fixture(scope="module")
def found():
    truth = (PIXELS > 0.6).astype(np.uint8)
    return sweep(uneven(), TileMean(), [32, (48, 32)], labels=1 - truth, halo=4), 1 - truth


@pytest.fixture(scope="module")
def predictions():
    plans = [{"tile": 32}, {"tile": (48, 32)}, {"tile": (96, 80)}]
    return [predict(uneven(), TileMean(), halo=4, **plan) for plan in plans]


def test_sizes_come_in_order_and_the_untiled_one_last(found):
    sweep_, _ = found
    assert sweep_.tiles == ((32, 32), (48, 32), (96, 80))
    assert sweep_.names == ("32", "48 x 32", "untiled")
    assert sweep_.untiled


def test_every_pair_equals_brute_force(found, predictions):
    sweep_, _ = found
    for i, p in enumerate(predictions):
        for j, q in enumerate(predictions):
            apart = np.abs(p.astype(np.float64) - q)
            assert sweep_.max_dist[i, j] == pytest.approx(apart.max(), abs=1e-12)
            assert sweep_.mean_dist[i, j] == pytest.approx(apart.mean(), abs=1e-12)
            for c in range(2):
                assert sweep_.soft[i, j, c] == pytest.approx(soft(p[c], q[c]), abs=1e-12)
                hard = 1 - dice(p.argmax(0) == c, q.argmax(0) == c)
                assert sweep_.hard[i, j, c] == pytest.approx(hard, abs=1e-12)
    assert sweep_.soft[0, 2].min() > 1e-3, "nothing to compare"
    np.testing.assert_array_equal(sweep_.to_last.value, sweep_.soft[:, -1])


def test_dice_with_labels_equals_brute_force(found, predictions):
    sweep_, labels = found
    for i, p in enumerate(predictions):
        for c in range(2):
            expected = dice(p.argmax(0) == c, labels == c)
            assert sweep_.dice.value[i, c] == pytest.approx(expected, abs=1e-12)
    assert np.all(sweep_.dice.low <= sweep_.dice.value)
    assert np.all(sweep_.dice.value <= sweep_.dice.high)
    assert np.all(sweep_.dice.high - sweep_.dice.low > 1e-3)


def test_the_picture_shows_the_largest_difference(found, predictions):
    sweep_, labels = found
    shown = sweep_.pictures
    assert shown.corner == (0, 0)
    np.testing.assert_array_equal(shown.image, uneven())
    for picture, whole in zip(shown.predictions, predictions, strict=True):
        np.testing.assert_array_equal(picture, whole[shown.channel])
    np.testing.assert_array_equal(shown.truth, labels == shown.channel)


def test_the_window_is_where_predictions_differ(monkeypatch):
    monkeypatch.setattr(seamscope.compare.pairwise, "_PICTURE", 24)
    image = np.full((96, 80), 0.5, np.float32)
    image[70:80, 50:60] = 4  # only tiles that meet this differ from the others
    shown = sweep(image, TileMean(), [16, 32], halo=0, area={"y": (8, 96)}).pictures
    y, x = shown.corner
    assert np.ptp(shown.predictions, axis=0).max() > 0.2
    np.testing.assert_array_equal(shown.image, image[8 + y : 8 + y + 24, x : x + 24])


def test_a_network_that_ignores_its_tile():
    torch.manual_seed(0)  # of 150 seeds 11 give a network that hardly uses its last pixels
    network = networks.UNet(levels=1).eval()
    found = sweep(PIXELS, network, [32, 64, 500, 600], **HALO)
    assert found.max_dist.max() <= found.tolerance
    assert "Tile 600 is left out" in found.notes[0]
    assert any("500 is larger than the image" in note for note in found.notes)
    assert "does not matter" in found.describe()
    # and one pixel short it is told that it does
    short = sweep(PIXELS, network, [32, 64], halo=6, accelerate=False)
    assert short.max_dist.max() > short.tolerance
    assert "1 - Dice" in short.describe()
    assert short.notes[0].startswith("Margin (halo) 6 along y and x")  # for both sizes alike
    *_, note = sweep(PIXELS, network, [16, 64], halo=6, accelerate=False).notes[:1]
    assert note.startswith("Tiles of 16 x 16: Margin (halo) 6")
    assert "with `tiles=" in note
    flat = torch.nn.Conv2d(1, 1, (3, 17), padding=(1, 8))
    *_, note = sweep(PIXELS, flat, [(8, 12), (32, 64)], halo=0, accelerate=False).notes[:1]
    assert "Use `halo=(1, 8)` with `tiles=[(8, 17)]` or more." in note


def test_the_halo_is_the_same_for_all_sizes_and_fits_the_smallest():
    network = networks.UNet(levels=2, norm="instance").eval()
    found = sweep(PIXELS, network, [(32, 64), 48], accelerate=False)
    assert [plan["halo"] for plan in found.settings] == [[[8, 8], [12, 12]]] * 3
    # where the reach fits, it is the reach: 22 by the sum of its convolutions
    found = sweep(PIXELS, networks.UNet(levels=2).eval(), [56, 64], accelerate=False)
    assert [plan["halo"] for plan in found.settings] == [[[22, 22], [22, 22]]] * 3
    assert found.max_dist.max() <= found.tolerance


def test_a_halo_has_the_room_that_tile_and_overlap_leave():
    bounded = seamscope.load_model(networks.UNet(levels=2).eval())
    asked = {
        Settings(tile=64): ((22, 22), (22, 22)),  # 64 - 2 * 22 leaves 20
        Settings(tile=48): ((22, 22), (22, 22)),  # and 4, a period
        Settings(tile=44): ((8, 8), (8, 8)),
        Settings(tile=64, overlap=44): ((22, 22), (22, 22)),
        Settings(tile=64, overlap=24): ((12, 12), (12, 12)),
        Settings(tile=(64, 40)): ((16, 16), (8, 8)),
        Settings(tile=44, halo=3): ((3, 3), (3, 3)),
        Settings(overlap=20): ((10, 10), (10, 10)),
        Settings(): ((22, 22), (22, 22)),
        Settings(tile=96): ((22, 22), (22, 22)),
    }
    image = seamscope.open_image(np.zeros((96, 3000), np.uint8))
    for settings, halo in asked.items():
        plan = resolve(image, bounded, settings)
        assert plan.grid.halo == halo, settings
        short = any("leave room for a halo of" in note for note in plan.notes)
        less = halo != ((22, 22), (22, 22)) and settings.halo == "auto"
        assert short == (less and len(plan.grid) > 1)  # a single tile needs no halo
    with pytest.raises(SettingsError, match="is too small for halos of 22 and 22"):
        resolve(image, bounded, Settings(tile=44, halo=22))
    statistics = seamscope.load_model(TileMean())  # whose convolutions reach nowhere
    assert resolve(image, statistics, Settings(tile=64)).grid.halo == ((0, 0), (0, 0))


def test_tolerance_is_of_the_outputs_spread(found, predictions):
    assert found[0].tolerance == pytest.approx(1e-4 * predictions[-1].astype(float).std(), rel=1e-6)


def test_frames_blocks_and_disk_change_nothing(tmp_path, monkeypatch):
    image = np.stack([uneven(), PIXELS, uneven()[::-1]])
    labels = (image > 0.3).astype(np.int32)
    ask = {"axes": "tyx", "halo": 4, "area": {"t": (1, 3), "x": (0, 77)}}
    truth = np.stack([1 - labels[k] for k in range(3)])
    plain = sweep(image, TileMean(), [32, 64], labels=open_image(truth, axes="tyx"), **ask)
    monkeypatch.setattr(seamscope.compare.pairwise, "_AT_ONCE", 1)
    monkeypatch.setattr(seamscope.images.scratch, "SHARE", 0)
    made = []
    opened = tempfile.TemporaryFile

    def noted(*args, **kwargs):
        made.append(opened(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", noted)
    stored = sweep(image, TileMean(), [32, 64], labels=open_image(truth, axes="tyx"), **ask)
    assert len(made) == 1
    assert made[0].closed
    for name in ("soft", "hard", "mean_dist", "max_dist"):
        np.testing.assert_allclose(getattr(plain, name), getattr(stored, name), atol=1e-12)
    np.testing.assert_allclose(plain.dice.value, stored.dice.value)
    np.testing.assert_allclose(plain.dice.low, stored.dice.low, atol=1e-9)
    assert plain.truth.names == ("channel 0", "channel 1")
    whole = predict(image, TileMean(), axes="tyx", tile=(96, 80), area={"t": (1, 3), "x": (0, 77)})
    right = [dice(whole.argmax(1) == c, truth[1:, :, :77] == c) for c in range(2)]
    np.testing.assert_allclose(plain.dice.value[-1], right)


def test_three_dimensions_show_one_slice():
    volume = np.random.default_rng(1).random((24, 32, 40)).astype(np.float32)
    volume[:12] *= 0.2
    network = networks.UNet(ndim=3, levels=1, norm="instance").eval()
    found = sweep(volume, network, [16], halo=4, accelerate=False)
    shown = found.pictures
    z, _, _ = shown.corner
    assert shown.predictions.shape == (2, 32, 40)
    np.testing.assert_array_equal(shown.image, volume[z])
    one = predict(volume, network, tile=16, halo=4, accelerate=False)
    np.testing.assert_array_equal(shown.predictions[0], one[shown.channel, z])
    assert found.max_dist[0, 1] > 0.01


class Logits(nn.Module):
    """One channel, no probability."""

    def forward(self, x):
        return 9 * (x - x.mean((2, 3), keepdim=True))


def test_logits_are_compared_as_they_are_and_classified_as_results_are():
    found = sweep(uneven(), Logits(), [32], halo=0, labels=(uneven() > 0.4).astype(int))
    p = predict(uneven(), Logits(), tile=32, halo=0).astype(np.float64)
    q = predict(uneven(), Logits(), tile=(96, 80)).astype(np.float64)
    assert found.max_dist[0, 1] == pytest.approx(np.abs(p - q).max())
    assert found.soft[0, 1, 0] == pytest.approx(soft(1 / (1 + np.exp(-p)), 1 / (1 + np.exp(-q))))
    assert found.hard[0, 1, 0] == pytest.approx(1 - dice(p > 0.5, q > 0.5))
    assert found.dice.value[1, 0] == pytest.approx(dice(q > 0.5, uneven() > 0.4))


@pytest.mark.parametrize("threshold", [0.5, 0.9, -1.3])
def test_dice_is_that_of_the_labels_a_user_gets(threshold):
    """Of one channel that is no probability: whatever is above the threshold, as it is."""
    truth = uneven() > 0.4
    found = sweep(uneven(), Logits(), [32, 48], halo=0, labels=truth, threshold=threshold)
    ask = {"result": "labels", "threshold": threshold, "halo": 0}
    labels = [predict(uneven(), Logits(), tile=tile, **ask) == 1 for tile in found.tiles]
    expected = [dice(mask, truth) for mask in labels]
    assert len(set(expected)) == 3, "nothing to compare"
    np.testing.assert_allclose(found.dice.value[:, 0], expected, rtol=1e-12)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert found.hard[i, j, 0] == pytest.approx(1 - dice(labels[i], labels[j]))
    best, worst = max(expected), min(expected)
    said = f"Mean Dice with the labels at threshold {threshold} is best at "
    assert said in found.describe()
    assert f"({best:.3f})" in found.describe()
    assert f"({worst:.3f})" in found.describe()
    told = found.to_json()
    assert told["threshold"] == threshold
    assert told["labels"].endswith(f"where the output is above {threshold}.")
    warned = [note for note in found.notes if "no probabilities" in note]
    assert len(warned) == (threshold == 0.5)  # who chose one is not told to


def test_a_value_at_the_threshold_is_classified_as_in_results():
    """In the precision of results: 0.1 as float32 is above 0.1, and is not taken for that."""
    image = np.where(PIXELS > 0.5, np.float32(0.1), np.float32(0.2))
    truth = image > 0.15
    found = sweep(image, nn.Identity(), [32], halo=0, labels=truth, threshold=0.1)
    labels = predict(image, nn.Identity(), tile=32, result="labels", threshold=0.1, halo=0)
    assert found.dice.value[:, 0].tolist() == [dice(labels == 1, truth)] * 2 == [1, 1]


def test_equal_dice_has_no_best_and_probabilities_no_warning():
    labels = PIXELS > 0.6
    found = sweep(PIXELS, nn.Identity(), [32, 48], halo=0, labels=labels, threshold=0.6)
    assert found.dice.value.tolist() == [[1]] * 3
    assert found._best() == "Mean Dice with the labels at threshold 0.6 is 1.000 at all sizes."
    plain = sweep(PIXELS, nn.Identity(), [32], halo=0, labels=labels)
    assert not any("probabilities" in note for note in plain.notes)
    two = sweep(uneven(), TileMean(), [32], halo=4, labels=labels.astype(int))
    assert two.to_json()["threshold"] is None
    assert two.to_json()["labels"].endswith("the class of its largest channel.")
    assert "threshold" not in two.describe()
    unlabelled = sweep(uneven(), Logits(), [32], halo=0)
    assert unlabelled.to_json()["labels"] is unlabelled.to_json()["threshold"] is None
    assert not any("probabilities" in note for note in unlabelled.notes)


def test_dice_before_a_cards_postprocessing_is_said_to_be_that():
    card = Postprocessing((Binarized((0.7,)),))
    model = replace(as_model(nn.Identity()), postprocessing=card)
    said = "Dice is that of what the network gives, before its card's postprocessing."
    assert said in sweep(PIXELS, model, [32], halo=0, labels=PIXELS > 0.6).notes
    assert said not in sweep(PIXELS, model, [32], halo=0).notes
    assert said not in sweep(PIXELS, nn.Identity(), [32], halo=0, labels=PIXELS > 0.6).notes


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("tiles", "asked", "words"),
    [
        ([], {}, "takes two"),
        ([96], {}, "takes two"),
        ([33], {"untiled": False}, "33"),
        ([4096], {}, "takes two"),
        ([32], {"labels": np.eye(9, dtype=int)}, "9 pixels and the prediction is 96 x 80"),
        ([32], {"labels": PIXELS}, "fractions"),
    ],
)
def test_what_cannot_be_compared_is_told(tiles, asked, words):
    with pytest.raises((SettingsError, ImageError), match=words):
        sweep(PIXELS, networks.UNet(levels=1).eval(), tiles, **HALO, **asked)


@pytest.mark.parametrize("most", [0.05, 2.0])
def test_predictions_that_are_not_finite_are_told(most):
    class Root(torch.nn.Module):
        def forward(self, x):
            return torch.sqrt(x - most)

    pixels = np.random.default_rng(0).random((96, 80), np.float32)
    with pytest.raises(ImageError, match=r"tiles of 32.* is not finite .* check the image"):
        sweep(pixels, Root(), [32], halo=0)


def test_an_untiled_prediction_that_does_not_fit_is_left_out():
    network = networks.UNet(levels=1).eval()
    model = seamscope.load_model(network)
    per_pixel = model.facts.bytes_per_pixel + 12
    found = sweep(PIXELS, network, [32, 48], **HALO, memory=int(per_pixel * 60 * 60))
    assert found.names == ("32", "48")
    assert not found.untiled
    assert any("left out" in note for note in found.notes)


def test_cancelled_at_any_step():
    work = Seen()
    sweep(PIXELS, TileMean(), [32, 48], halo=0, work=work)
    steps = work.steps
    total = steps[0][1]
    assert steps == [(k, total) for k in range(1, total + 1)]
    for at in (1, total - 70, total - 3):
        work = stopped_after(at)
        with pytest.raises(InterruptedError):
            sweep(PIXELS, TileMean(), [32, 48], halo=0, work=work)
        assert len(work.steps) == at


def test_json_is_plain(found):
    told = json.loads(json.dumps(found[0].to_json(), allow_nan=False))
    assert told["tiles"] == [[32, 32], [48, 32], [96, 80]]
    assert np.allclose(told["mismatch"], found[0].soft)
    assert told["plans"][0]["tile"] == [32, 32]
    assert told["labels"] == (
        "Labels 0 to 1 are the channels channel 0, channel 1, in this order. "
        "A pixel is predicted as the class of its largest channel."
    )


# ------------------------------------------------------------------------------------------ labels


def test_numbers_of_classes_and_of_objects_are_told_apart():
    names = ("foreground", "boundary", "background")
    classes = truth_for(np.array([[0, 1], [2, 2]]), "yx", names)
    assert classes.channels == (0, 1, 2)
    assert classes.read((slice(0, 2),) * 2)[2].tolist() == [[False, False], [True, True]]
    objects = truth_for(np.array([[0, 1], [9, 9]]), "yx", names)
    assert objects.channels == (0,)
    assert objects.read((slice(0, 2),) * 2).tolist() == [[[False, True], [True, True]]]
    assert "above 0" in objects.meaning
    forced = truth_for(np.array([[0, 1], [2, 2]]), "yx", names, foreground=1)
    assert forced.channels == (1,)


def test_classes_that_do_not_occur_and_masks_are_told_apart():
    everything = (slice(0, 1), slice(0, 2))
    absent = truth_for(np.array([[0, 1]]), "yx", ("a", "b", "c"))
    assert absent.values == (0, 1, 2)
    assert absent.read(everything).tolist() == [[[True, False]], [[False, True]], [[False, False]]]
    assert absent.meaning.endswith("are the channels a, b, c, in this order. None is above 1.")
    names = ("foreground", "boundary", "background")
    mask = truth_for(np.array([[0, 1]]), "yx", names)
    assert (mask.names, mask.read(everything).tolist()) == (("foreground",), [[[False, True]]])
    assert "nothing above 1" in mask.meaning
    both = truth_for(np.array([[0, 2]]), "yx", (*names, "other"))
    assert both.channels == (0, 1, 2, 3)
    assert "None is above 2" in both.meaning
    nothing = truth_for(np.array([[0, 0]]), "yx", ("a", "b"))
    assert nothing.read(everything).tolist() == [[[True, True]], [[False, False]]]


def test_one_image_per_class():
    stack = np.zeros((2, 3, 4), int)
    stack[1, 2] = 7
    truth = truth_for(open_image(stack, axes="cyx"), "yx", ("a", "b"))
    assert truth.read((slice(1, 3), slice(0, 4)))[1].tolist() == [[False] * 4, [True] * 4]


def test_truth_of_the_sample(tmp_path):
    truth = truth_for("demo:tissue2d", "yx", ("foreground", "boundary", "extracellular", "x"))
    labels = seamscope.demo.sample_image("tissue2d")[1]
    np.testing.assert_array_equal(
        truth.read((slice(0, 50), slice(9, 99))).argmax(0), labels[:50, 9:99]
    )


@pytest.mark.parametrize(
    ("labels", "asked", "words"),
    [
        (np.array([[0, 9]]), {}, "`foreground`"),
        (np.array([[0, 9]]), {"foreground": 3}, "counted from 0"),
        (np.zeros((2, 2, 2, 2), int), {}, "4 axes"),
        (np.array([[0.5, np.nan]]), {}, "fractions"),
    ],
)
def test_labels_that_match_nothing(labels, asked, words):
    with pytest.raises((SettingsError, ImageError), match=words):
        truth_for(labels, "yx", ("a", "b"), **asked)


def test_labels_with_a_wrong_number_of_images():
    with pytest.raises(SettingsError, match="3 channels and the network predicts 2"):
        truth_for(open_image(np.zeros((3, 4, 4), int), axes="cyx"), "yx", ("a", "b"))


# ----------------------------------------------------------------------------------- tile content


@pytest.mark.parametrize("at_once", [1, 1 << 20])
def test_proportions_equal_numpy(at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(
        seamscope.compare.tile_content, "_AT_ONCE", at_once
    )  # by chunks, or all together
    labels = np.random.default_rng(2).integers(0, 3, size=(100, 90)).astype(np.uint8)
    store = zarr.create_array(str(tmp_path / "l.zarr"), data=labels, chunks=(37, 23))
    found = content(PIXELS, [16, (32, 8), 500], labels=store)
    assert found.tiles == ((16, 16), (32, 8), (100, 90))
    for tile, values in zip(found.tiles, found.values, strict=True):
        ny, nx = (n // t for n, t in zip(labels.shape, tile, strict=True))
        tiles = [
            labels[y * tile[0] : (y + 1) * tile[0], x * tile[1] : (x + 1) * tile[1]]
            for y in range(ny)
            for x in range(nx)
        ]
        expected = [[(each == k).mean() for k in range(3)] for each in tiles]
        np.testing.assert_allclose(values, expected, atol=1e-12)
        np.testing.assert_allclose(
            found.spread[found.tiles.index(tile)], np.std(expected, axis=0), atol=1e-12
        )
    np.testing.assert_allclose(found.whole, [(labels == k).mean() for k in range(3)])


def test_intensities_equal_numpy_in_frames_and_channels():
    image = np.random.default_rng(3).normal(1e6, 3, size=(2, 3, 40, 33))
    found = content(image, [16], axes="tcyx")
    assert found.features[:2] == ("mean of channel 0", "mean of channel 1")
    tiles = [image[t, :, y : y + 16, x : x + 16] for t in (0, 1) for y in (0, 16) for x in (0, 16)]
    expected = [[*each.mean((1, 2)), *each.std((1, 2))] for each in tiles]
    np.testing.assert_allclose(found.values[0], expected, rtol=1e-9)
    np.testing.assert_allclose(
        found.whole, [*image.mean((0, 2, 3)), *image.std((0, 2, 3))], rtol=1e-9
    )


def test_slices_may_be_iterated():
    volume = np.arange(4 * 16 * 16).reshape(4, 16, 16)
    flat = content(volume, [8], axes="zyx", spatial="yx")
    assert flat.values[0].shape == (16, 2)
    assert content(volume, [8], axes="zyx").values[0].shape == (4, 2)  # z holds no 8: cut to 4


def test_objects_are_foreground(real_images):
    labels = tifffile.imread(real_images / "nuclei_2d_labels.tif")
    found = content(tifffile.imread(real_images / "nuclei_2d.tif"), [64, 128], labels=labels)
    assert found.features == ("foreground",)
    assert found.whole[0] == pytest.approx((labels > 0).mean())
    assert found.spread[0, 0] > found.spread[1, 0] > 0


def test_pixels_that_are_not_finite_are_left_out():
    image = PIXELS.astype(np.float64)
    image[3, 4] = np.nan
    image[32:64, :32] = np.inf
    found = content(image, [32])
    tile = image[:32, :32]
    assert found.values[0][0] == pytest.approx([np.nanmean(tile), np.nanstd(tile)])
    assert np.isnan(found.values[0][2]).all()
    assert np.isfinite(found.spread).all()


def test_content_json_and_cancel():
    found = content(PIXELS, [16, 32])
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["sizes"][0]["tiles"] == len(found.values[0]) == 30
    assert told["sizes"][0]["percentiles"]["50"] == pytest.approx(
        np.percentile(found.values[0], 50, axis=0)
    )
    with pytest.raises(InterruptedError):
        content(PIXELS, [16], work=stopped_after(0))


@pytest.mark.parametrize(
    ("image", "tiles", "words"),
    [(PIXELS, [], "No tile sizes"), (PIXELS, [0], "1 pixel"), (PIXELS[None], [8], "`axes`")],
)
def test_content_refuses(image, tiles, words):
    with pytest.raises(SettingsError, match=words):
        content(image, tiles)


def test_classes_are_named_by_their_values():
    truth = classes_of(np.array([[0, 127], [255, 0]]), "yx")
    assert truth.names == ("label 0", "label 127", "label 255")
