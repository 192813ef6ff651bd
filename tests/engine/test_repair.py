"""Statistics found tile by tile are those of the whole image, and tiles then agree."""

from __future__ import annotations

import dataclasses
import gc
import itertools

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file
from scipy.interpolate import RegularGridInterpolator
from test_normalization import ByHand, Everything
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F  # noqa: N812

import couplings
import networks
import real_networks
import seamscope
import seamscope.fixed_statistics.freezing
from seamscope.demo import build, sample_image, zscore
from seamscope.errors import ModelError, SettingsError
from seamscope.explain.feature_statistics import measure_features
from seamscope.fixed_statistics.blocks import layers_of
from seamscope.fixed_statistics.freeze_plan import plan_freeze
from seamscope.fixed_statistics.freezing import carry_out, freeze_statistics
from seamscope.images.image import open_image
from seamscope.models.fixed import Answered
from seamscope.models.formats.wrappers import Finished, Rearranged
from seamscope.models.input_search import Hints
from seamscope.models.model import Model, as_model
from seamscope.models.speed.acceleration import choose, variants
from seamscope.models.speed.fusion import fused, quiet_torchscript
from seamscope.normalization.audit import audit
from seamscope.normalization.calls import Normalizations
from seamscope.normalization.pausing import PausableNetwork
from seamscope.normalization.statistics import Statistics
from seamscope.planning.case import Case
from seamscope.prediction.measure_seams import measure_seams
from seamscope.settings import Settings
from watching import Seen, stopped_after

SAME = 1e-4  # standard deviations: below is rounding, above an artifact


@pytest.fixture(scope="module")
def tissue():
    """The demo image, standardized; `(1024, 1024)` float32."""
    return zscore(sample_image("tissue2d")[0])


@pytest.fixture(scope="module")
def instancenorm():
    return as_model(build("instancenorm"))


def _whole(network, image):
    """The untiled prediction ``(C, *spatial)``."""
    with torch.no_grad():
        return as_model(network).module(torch.from_numpy(image)[None, None])[0].numpy()


def _tiled(image, model, **asked):
    prediction = seamscope.predict(image, model, normalize="none", seams="none", **asked)
    return prediction if prediction.ndim > image.ndim else prediction[None]


def _apart(prediction, reference):
    """Largest difference, in standard deviations of the reference."""
    return np.abs(prediction - reference).max() / reference.std()


def _mixture(seed):
    torch.manual_seed(seed)
    network = networks.UNet(2, 2, norm="instance")
    network.bottom[1] = nn.GroupNorm(4, 16)
    network.merge[0][4] = nn.BatchNorm2d(8, track_running_stats=False)
    network.down[1][1] = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    return network.eval()


class ValidNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 5),
            nn.InstanceNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, dilation=2),
            nn.GroupNorm(2, 4),
            nn.Conv2d(4, 2, 3),
        )

    def forward(self, x):
        return self.net(x)


class SpaceNorm(nn.Module):
    """LayerNorm over all channels and pixels, called with the shape at hand."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        x = self.a(x)
        return self.b(F.layer_norm(x, x.shape[1:]).relu())


def _cases():
    torch.manual_seed(3)
    x = torch.randn(1, 1, 64, 64)
    everything = Everything().eval()
    yield "everything", everything, 64
    yield "everything, scripted", torch.jit.script(everything), 64
    yield "group", networks.UNet(2, 2, norm="group").eval(), 96
    yield "bilinear", networks.UNet(2, 2, norm="instance", up="bilinear").eval(), 96
    yield "mixture", _mixture(1), 96
    yield "space", SpaceNorm().eval(), 48
    # no convolution tells the coarse shape again before the second layer asks for it
    coarse = (nn.Conv2d(1, 4, 3, 2, 1), nn.InstanceNorm2d(4), nn.ReLU(), ByHand())
    yield "coarse", nn.Sequential(*coarse, nn.Upsample(scale_factor=2)).eval(), 48
    shapes = ({2: torch.export.Dim("h", min=4), 3: torch.export.Dim("w", min=4)},)
    exported = torch.export.export(SpaceNorm().eval(), (x,), dynamic_shapes=shapes)
    yield "exported", exported.module(), 48


@pytest.mark.filterwarnings("ignore")  # of TorchScript and export about themselves
@pytest.mark.parametrize("number", range(8))
def test_exact_equals_the_whole_image(tissue, number) -> None:
    name, network, tile = list(_cases())[number]
    image = tissue[:160, :184]  # no multiples of the tile
    model, whole = as_model(network), _whole(network, image)
    assert _apart(_tiled(image, model, tile=tile), whole) > 0.1
    statistics = freeze_statistics(image, model, tile=tile, normalize="none")
    assert len(statistics.layers) == len(model.audit.calls)
    fixed = model.with_statistics(statistics)
    for settings in ({"tile": tile}, {"tile": tile + 16, "batch": 1 + 2 * (name != "exported")}):
        assert _apart(_tiled(image, fixed, **settings), whole) < SAME


def test_exact_in_a_large_image(tissue, instancenorm) -> None:
    image = tissue[:624, :704]  # 4 x 4 tiles
    whole = _whole(instancenorm, image)
    corner = _tiled(image, instancenorm, tile=256, area={"y": (0, 200), "x": (0, 200)})
    assert np.abs(corner - whole[:, :200, :200]).max() > 0.1 * whole.std()
    statistics = freeze_statistics(image, instancenorm, tile=256, normalize="none")
    fixed = instancenorm.with_statistics(statistics)
    assert not any(
        isinstance(part, (Answered, nn.InstanceNorm2d)) for part in fixed.module.modules()
    )
    assert _apart(_tiled(image, fixed, tile=256), whole) < SAME


def test_exact_in_3d() -> None:
    torch.manual_seed(0)
    network = networks.UNet(3, 2, features=2, norm="instance").eval()
    image = zscore(sample_image("tissue3d")[0])[:52, :60, :52]
    model, whole = as_model(network), _whole(network, image)
    assert _apart(_tiled(image, model, tile=48), whole) > 0.1
    statistics = freeze_statistics(image, model, tile=48, normalize="none")
    assert _apart(_tiled(image, model.with_statistics(statistics), tile=48), whole) < SAME


def test_exact_with_valid_convolutions(tissue) -> None:
    """Features of neighbours then begin anywhere; the whole is the image as one tile."""
    torch.manual_seed(5)
    model, image = as_model(ValidNorm().eval()), tissue[:120, :150]
    whole = _tiled(image, model, tile=(130, 160))
    statistics = freeze_statistics(image, model, tile=64, normalize="none")
    assert _apart(_tiled(image, model, tile=64), whole) > 0.1
    assert _apart(_tiled(image, model.with_statistics(statistics), tile=50), whole) < SAME


def test_the_real_network(real_models, real_images) -> None:
    network = real_networks.covid_instancenorm().eval()
    folder = real_models / "unet2d_covid_if_instancenorm"
    network.load_state_dict(load_file(folder / "state_dict.safetensors"))
    image = zscore(tifffile.imread(real_images / "nuclei_2d.tif"))[:352, :352]
    model, whole = as_model(network), _whole(network, image)
    assert _apart(_tiled(image, model, tile=192), whole) > 0.1
    statistics = freeze_statistics(image, model, tile=192, normalize="none")
    assert {layer.name for layer in statistics.layers} == {n.name for n in model.audit.layers}
    fixed = model.with_statistics(statistics)
    assert _apart(_tiled(image, fixed, tile=192), whole) < SAME
    curves = [
        measure_seams(image, one, tile=192, overlap=128, normalize="none").curve
        for one in (model, fixed)
    ]
    reach = max(max(side) for side in model.reach.convolutional)
    assert curves[0].max_dist[reach] > 0.1 * whole.std()
    assert curves[1].max_dist[reach] < SAME * whole.std()
    assert curves[1].max_dist[0] > 0.1 * whole.std()


# -- in which order, and where tiles wait


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(2)
    return as_model(networks.UNet(2, 2, norm="instance").eval())


def _same_numbers(one, other):
    assert [layer.call for layer in one.layers] == [layer.call for layer in other.layers]
    return all(
        np.array_equal(a.mean, b.mean) and np.array_equal(a.var, b.var)
        for a, b in zip(one.layers, other.layers, strict=True)
    )


def test_where_tiles_wait_changes_nothing_but_the_cost(tissue, small) -> None:
    image = open_image(tissue[:160, :160])
    settings = Settings(tile=96, normalize="none")
    in_memory = plan_freeze(Case.open(image, small, settings), "exact")
    assert in_memory.in_memory == in_memory.tiles > 4
    waiting = (in_memory.memory - in_memory.plan.bytes_per_tile) // in_memory.tiles
    room = in_memory.plan.bytes_per_tile + 2 * waiting + waiting // 2
    on_disk = plan_freeze(Case.open(image, small, settings), "exact", memory=room)
    anew = plan_freeze(Case.open(image, small, settings), "exact", memory=room, disk=waiting + 9)
    assert (on_disk.in_memory, on_disk.recomputed) == (2, 0)
    assert (anew.in_memory, anew.on_disk, anew.recomputed) == (2, 1, anew.tiles - 3)
    assert 1 < in_memory.passes < 1.5 < on_disk.passes < anew.passes < 5
    expected = carry_out(Case.open(image, small), in_memory)
    assert _same_numbers(carry_out(Case.open(image, small), on_disk), expected)
    assert _same_numbers(carry_out(Case.open(image, small), anew), expected)
    assert "begin again" in anew.sentence
    assert "on disk" in on_disk.sentence


def test_waiting_takes_as_much_memory_as_planned(tissue, small, monkeypatch) -> None:
    image = open_image(tissue[:160, :160])
    plan = plan_freeze(Case.open(image, small, Settings(tile=96, normalize="none")), "exact")
    held: dict[int, int] = {}
    largest = [0]

    def put(self, number, layer, paused, put=seamscope.fixed_statistics.blocks._WaitingRoom.put):
        put(self, number, layer, paused)
        held[number] = paused.waiting.nbytes
        largest[0] = max(largest[0], sum(held.values()))

    monkeypatch.setattr(seamscope.fixed_statistics.blocks._WaitingRoom, "put", put)
    carry_out(Case.open(image, small), plan)
    assert largest[0] == pytest.approx(plan.memory - plan.plan.bytes_per_tile, rel=0.2)


def test_no_memory_to_wait_in_is_none_and_less_is_refused(small) -> None:
    opened = open_image(np.zeros((256, 256), np.float32))
    asked = Settings(normalize="none", tile=96)
    none = plan_freeze(Case.open(opened, small, asked), "exact", memory=0)
    assert (none.in_memory, none.on_disk) == (0, none.tiles)
    nowhere = plan_freeze(Case.open(opened, small, asked), "exact", memory=0, disk=0)
    assert nowhere.recomputed == nowhere.tiles > 1
    assert plan_freeze(Case.open(opened, small, asked), "exact").in_memory == none.tiles
    with pytest.raises(SettingsError, match="0 bytes may be used"):
        plan_freeze(Case.open(opened, small, asked), "local", memory=0)
    for limit in ("memory", "disk"):
        with pytest.raises(SettingsError, match=f"{limit} -1: give a number of bytes"):
            plan_freeze(Case.open(opened, small, asked), "exact", **{limit: -1})


def test_interrupted_and_taken_up_again(tissue, small, tmp_path) -> None:
    image, partial = tissue[:160, :160], tmp_path / "partial"
    expected = freeze_statistics(image, small, tile=96, normalize="none")

    def freeze(work):
        return freeze_statistics(
            image, small, tile=96, normalize="none", partial=partial, work=work
        )

    stopped = stopped_after(41)
    with pytest.raises(InterruptedError):
        freeze(stopped)
    assert len(stopped.steps) == 41
    done = Statistics.load(layers_of(partial, 0))
    assert 0 < len(done.layers) < len(expected.layers)
    work = Seen()
    assert _same_numbers(freeze(work), expected)
    assert work.steps[0][0] == 42
    assert len(work.steps) == work.steps[0][1] - 41
    assert not partial.exists()


def _stopped(network, image, partial, after, how="exact", **asked):
    """Cancel a freezing when so many tiles and layers are done; returns how many there were."""
    work = stopped_after(after)
    with pytest.raises(InterruptedError):
        freeze_statistics(image, network, how, partial=partial, work=work, **asked)
    return work.steps


@pytest.mark.parametrize("after", [27, 99, 142])  # in the sample, in either half
def test_a_sample_is_taken_up_again_where_it_was_left(tissue, small, tmp_path, after) -> None:
    image, partial = np.ascontiguousarray(tissue[:320, :320]), tmp_path / "partial"
    asked = {"tile": 96, "tiles": 8, "normalize": "none"}
    work = Seen()
    expected = freeze_statistics(image, small, "sampled", work=work, **asked)
    straight = work.steps
    assert len(expected.layers) == 10
    assert {total for _, total in straight} == {len(straight)}
    assert straight[-1] == (160, 160)  # 8 tiles, and twice 4, through 10 layers
    _stopped(small, image, partial, after, "sampled", **asked)
    assert list(tmp_path.iterdir()) == [partial]
    work = Seen()
    found = freeze_statistics(image, small, "sampled", partial=partial, work=work, **asked)
    seen = work.steps
    assert _same_numbers(found, expected)
    assert found.about == expected.about
    assert seen == straight[-len(seen) :]
    assert len(seen) == 160 - after
    assert not list(tmp_path.iterdir())


class Edited(nn.Module):
    """Weights say nothing of the code around them."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.slope = 0.0

    def forward(self, x):
        return self.network(F.leaky_relu(x, self.slope))


@pytest.mark.parametrize(
    ("how", "which"),
    [(how, n) for how in ("exact", "sampled") for n in range(9) if (how, n) != ("exact", 5)],
)
def test_what_another_task_left_is_not_believed(tissue, tmp_path, how, which) -> None:
    torch.manual_seed(4)
    network = Edited(networks.UNet(2, 2, norm="instance")).eval()
    model, partial = as_model(network), tmp_path / "partial"
    image = np.stack([tissue[:160, :160], tissue[300:460, 300:460]])
    asked = {"axes": "cyx", "channel": 0, "tile": 96, "normalize": "percentile", "tiles": 5}
    seen = _stopped(model, image, partial, 3 * 9 + 2, how, **asked)
    assert Statistics.load(layers_of(partial, 0)).layers
    other, changed = image.copy(), dict(asked)
    if which == 0:
        other[0, 80:120, 80:120] += 2  # of the same name, shape and percentiles
    elif which == 1:
        changed["channel"] = 1
    elif which == 2:
        changed["percentiles"] = (2.0, 99.0)
    elif which == 3:
        changed["normalize"] = "zscore"
    elif which == 4:
        changed["tile"] = 80
    elif which == 5:
        changed["tiles"] = 6
    elif which == 6:
        changed = {**changed, "axes": "tyx", "channel": None, "area": {"t": (1, 2)}}
    elif which == 7:
        network.slope = 0.3
        model = as_model(network)
    else:
        changed["halo"] = 20
    expected = freeze_statistics(other, model, how, **changed)
    work = Seen()
    found = freeze_statistics(other, model, how, partial=partial, work=work, **changed)
    assert work.steps[0][0] == 1
    assert seen[-1][0] > 1
    assert _same_numbers(found, expected)


@pytest.mark.parametrize("name", ["task.json", "round0.safetensors"])
def test_damaged_intermediate_results_begin_anew(tissue, small, tmp_path, name) -> None:
    image, partial = tissue[:160, :160], tmp_path / "partial"
    _stopped(small, image, partial, 40, tile=96, normalize="none")
    (partial / name).write_bytes(b"not numbers")
    work = Seen()
    found = freeze_statistics(image, small, tile=96, normalize="none", partial=partial, work=work)
    assert work.steps[0][0] == 1
    assert _same_numbers(found, freeze_statistics(image, small, tile=96, normalize="none"))
    assert not partial.exists()


def test_freezing_and_using_change_nothing_in_the_network(tissue) -> None:
    network = _mixture(4)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    model = as_model(network)
    fixed = model.with_statistics(
        freeze_statistics(tissue[:128, :128], model, tile=96, normalize="none")
    )
    _tiled(tissue[:128, :128], fixed, tile=96)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not model.reach.bounded
    assert model.statistics is None


# -- a pass that stops


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("spilled", [False, True])
def test_a_pass_that_stops_gives_what_an_uninterrupted_one_gives(
    scripted, spilled, tmp_path
) -> None:
    torch.manual_seed(1)
    network = Everything().eval()
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        expected = network(x)
    pausable = PausableNetwork(torch.jit.script(network) if scripted else network)
    for _ in range(2):  # the second one finds the operations known
        paused = pausable.begin(x.clone())
        seen = []
        for stop in range(10):
            paused = pausable.advance(paused, stop, lambda call: None, seen.append)
            if spilled:
                paused.waiting.spill(tmp_path / "paused")
                assert paused.waiting.nbytes == 0
                paused.waiting.fetch(tmp_path / "paused")
        assert [call.number for call in seen] == list(range(10))
        assert torch.equal(pausable.finish(paused, lambda call: None), expected)


class Counted(nn.Module):
    """Counts how often its code runs; what it does besides is up to `extra`."""

    def __init__(self, extra):
        super().__init__()
        self.network = Everything()
        self.extra, self.runs = extra, 0

    def forward(self, x):
        self.runs += 1
        return self.network(self.extra(x))


def _read_number(x):
    return x * (2.0 if x.max().item() > 2.5 else 3.0)


def _through_numpy(x):
    return torch.from_numpy(np.tanh(x.numpy()))


@pytest.mark.parametrize("spilled", [False, True])
@pytest.mark.parametrize(
    ("extra", "repeats"),
    [(nn.Identity(), True), (nn.ReLU(inplace=True), True), (_read_number, False)],
)
def test_other_inputs_repeat_what_the_first_one_did(extra, repeats, spilled, tmp_path) -> None:
    """Without the network's code where that says all, and bit for bit the same in any case."""
    torch.manual_seed(1)
    network = Counted(extra).eval()
    inputs = [torch.randn(1, 1, 32, 32) - 0.5 * number for number in range(4)]
    expected: list[list[torch.Tensor]] = []
    with torch.no_grad():
        for x in inputs:
            features: list[torch.Tensor] = []
            Normalizations(lambda call, into=features: into.append(call.features.clone())).run(
                network, x.clone()
            )
            expected.append([*features, network(x.clone())])
    network.runs = 0
    pausable = PausableNetwork(network, (*network.parameters(), *network.buffers()))
    waiting = [pausable.begin(x.clone()) for x in inputs]
    for stop in range(10):
        for number, paused in enumerate(waiting):
            seen: list[torch.Tensor] = []
            waiting[number] = paused = pausable.advance(
                paused,
                stop,
                lambda call: None,
                lambda call, into=seen: into.append(call.features.clone()),
            )
            assert torch.equal(seen[0], expected[number][stop])
            if spilled:
                paused.waiting.spill(tmp_path / str(number))
                paused.waiting.fetch(tmp_path / str(number))
    assert network.runs == (1 if repeats else 41)  # 1: to be recorded
    for number, paused in enumerate(waiting):
        assert torch.equal(pausable.finish(paused, lambda call: None), expected[number][-1])


def test_repeating_holds_no_more_than_the_network_itself_does() -> None:
    torch.manual_seed(1)
    network = Everything().eval()
    pausable = PausableNetwork(network, (*network.parameters(), *network.buffers()))
    one, two = (pausable.begin(torch.randn(1, 1, 32, 32)) for _ in range(2))
    gc.collect()
    gc.disable()  # what only it would find stays too long
    try:
        for stop in range(10):
            before = [StorageWeakRef(storage) for storage in two.waiting.storages]
            one = pausable.advance(one, stop, lambda call: None)
            two = pausable.advance(two, stop, lambda call: None)
            assert len(two.waiting.storages) == len(one.waiting.storages)
            assert two.waiting.nbytes == one.waiting.nbytes
            kept = {storage._cdata for storage in two.waiting.storages}
            assert all(one.expired() != (one.cdata in kept) for one in before)
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["eager", "traced", "scripted", "exported"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_pause_holds_what_is_used_later_and_nothing_else(kind, ndim, tmp_path) -> None:
    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if ndim == 2 else (nn.Conv3d, nn.InstanceNorm3d)

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = conv(1, 3, 1), conv(3, 5, 1), conv(8, 2, 1)
            self.norm = norm(5, affine=True)

        def forward(self, x):
            skip = self.a(x)
            return self.c(torch.cat([skip, self.norm(self.b(skip.relu()).relu_())], 1)).sigmoid()

    torch.manual_seed(1)
    network = Skip().eval()
    x = torch.randn(1, 1, *[8] * ndim)
    with torch.no_grad(), quiet_torchscript():
        expected = network(x)
        made = {
            "eager": lambda: network,
            "traced": lambda: torch.jit.trace(network, x),
            "scripted": lambda: torch.jit.script(network),
            "exported": lambda: torch.export.export(network, (x,)).module(),
        }[kind]()
    pausable = PausableNetwork(made)
    paused = pausable.advance(pausable.begin(x), 0, lambda call: None)
    held = (3 + 5) * 8**ndim * 4 + 2 * 5 * 4  # torch repeats weights for each sample
    assert paused.waiting.nbytes == held
    paused.waiting.spill(tmp_path / "paused")
    assert (tmp_path / "paused").stat().st_size == held
    paused.waiting.fetch(tmp_path / "paused")
    assert torch.equal(pausable.finish(paused, lambda call: None), expected)


def test_what_the_rest_of_a_recording_changes_is_computed_again() -> None:
    class Adding(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2)

        def forward(self, x):
            y = self.a(x)
            z = self.norm(y)
            y.add_(1)
            return y + z

    torch.manual_seed(1)
    network, x = Adding().eval(), torch.rand(1, 1, 8, 8)
    pausable = PausableNetwork(network)
    paused = pausable.advance(pausable.begin(x), 0, lambda call: None)
    with torch.no_grad():
        assert torch.equal(pausable.finish(paused, lambda call: None), network(x))


def test_constants_that_code_makes_and_changes_are_recorded() -> None:
    network = Reading(_READINGS["constant"]).eval()
    assert PausableNetwork(network).resumable(torch.rand(1, 1, 16, 16))


class Attending(nn.Module):
    """Windows of attention, shifted, with masks and a position for each pixel of a window."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 2, 2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.position = nn.InstanceNorm2d(8), nn.Parameter(torch.randn(1, 16, 8))
        self.up = nn.ConvTranspose2d(8, 1, 2, 2)

    def forward(self, x):
        y = torch.roll(self.embed(x), (-2, -2), (2, 3))
        n, c, h, w = y.shape
        windows = y.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        mask = torch.zeros(16, 16, dtype=torch.bool)
        mask[:8, 8:] = True
        windows = windows + self.position
        seen, _ = self.attention(windows, windows, windows, attn_mask=mask)
        y = seen.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)
        return self.up(self.norm(torch.roll(y, (2, 2), (2, 3))))


@pytest.mark.parametrize("scripted", [False, True])
def test_transformers_pause_too(scripted) -> None:
    torch.manual_seed(1)
    network = Attending().eval()
    x, y = torch.randn(2, 1, 1, 32, 32)
    pausable = PausableNetwork(_scripted(network) if scripted else network)
    assert pausable.resumable(x)
    paused = pausable.advance(pausable.begin(y), 0, lambda call: None)
    assert paused.waiting.nbytes == 8 * 16 * 16 * 4  # and no weights
    with torch.no_grad():
        expected = network(y)
    apart = pausable.finish(paused, lambda call: None) - expected
    assert float(apart.abs().max()) < 1e-6  # torch's own attention rounds otherwise


def test_what_repeating_would_make_another_computation_is_not_repeated() -> None:
    """Numbers that the code makes of what it reads, past all that is written down."""
    torch.manual_seed(1)
    network = Counted(_through_numpy).eval()
    pausable = PausableNetwork(network, (*network.parameters(), *network.buffers()))
    one, two = (pausable.begin(torch.full((1, 1, 8, 8), value)) for value in (0.1, 0.7))
    seen: list[torch.Tensor] = []
    for paused in (one, two):
        pausable.advance(
            paused, 0, lambda call: None, lambda call: seen.append(call.features.clone())
        )
    assert network.runs == 3  # once to be recorded, which is given up
    assert not torch.equal(seen[0], seen[1])


class Reading(nn.Module):
    """Takes a number out of a tensor, by a way that a dispatch mode may not see."""

    def __init__(self, read):
        super().__init__()
        self.a = nn.Conv2d(1, 2, 3, padding=1)
        self.b = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.InstanceNorm2d(2)
        self.read = read

    def forward(self, x):
        y = self.norm(self.a(x))
        number = self.read(x * 2)  # of a tensor that is soon gone
        return self.norm(self.b(y) + y.square() * number)


_READINGS = {
    "numpy": lambda x: float(np.percentile(x.numpy(), 99)),
    "asarray": lambda x: float(np.asarray(x).max()),
    "dlpack": lambda x: float(np.from_dlpack(x).max()),
    "tolist": lambda x: max(x.amax((2, 3))[0].tolist()),
    "item": lambda x: x.max().item(),
    "constant": lambda x: torch.zeros(1).copy_(x.max()) + torch.tensor([0.0]).add_(x.min()),
}


@pytest.mark.parametrize("way", _READINGS)
def test_numbers_that_code_reads_are_each_tiles_own(way) -> None:
    torch.manual_seed(1)
    network = Reading(_READINGS[way]).eval()
    pausable = PausableNetwork(network, (*network.parameters(), *network.buffers()))
    for value in (1.0, 5.0, 20.0):
        x = torch.rand(1, 1, 16, 16) * value
        expected: list[torch.Tensor] = []
        Normalizations(lambda call, into=expected: into.append(call.features.clone())).run(
            network, x.clone()
        )
        seen: list[torch.Tensor] = []
        pausable.advance(  # begun anew
            pausable.begin(x.clone()),
            1,
            lambda call: None,
            lambda call, into=seen: into.append(call.features.clone()),
        )
        assert torch.equal(seen[0], expected[1])


@pytest.mark.parametrize("tile", [32, "auto"])
@pytest.mark.parametrize("way", _READINGS)
def test_networks_that_read_numbers_are_frozen_without_being_taken_up_again(way, tile) -> None:
    torch.manual_seed(1)
    read = _READINGS[way]  # of what is the same in all tiles, so that the whole image tells
    network = Reading(lambda x: read(torch.full_like(x[:, :, :1, :1], 3))).eval()
    image = np.random.default_rng(0).random((64, 64), np.float32)
    statistics = freeze_statistics(image, network, tile=tile)
    fixed = as_model(network).with_statistics(statistics)
    assert _apart(_tiled(image, fixed, tile=32), _whole(network, image)) < SAME


def test_a_pass_that_cannot_be_recorded_begins_anew() -> None:
    network = Reading(_READINGS["tolist"]).eval()
    pausable = PausableNetwork(network)
    x = torch.rand(1, 1, 16, 16)
    assert not pausable.resumable(x)
    assert PausableNetwork(Everything().eval()).resumable(x)
    paused = pausable.advance(pausable.begin(x), 1, lambda call: None)
    assert paused.waiting.nbytes == x.nbytes
    with torch.no_grad():
        assert torch.equal(pausable.finish(paused, lambda call: None), network(x))


class ReadingList(nn.Module):
    """Reads a number in TorchScript, where no Python is."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 2, 3, padding=1)
        self.b = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.InstanceNorm2d(2)

    def forward(self, x):
        values: list[float] = x.amax((1, 2, 3)).tolist()
        return self.norm(self.b(self.norm(self.a(x))) + x / values[0])


def test_numbers_that_torchscript_reads_unseen_are_found_by_trying() -> None:
    torch.manual_seed(1)
    network = _scripted(ReadingList().eval())
    held = (*network.parameters(), *network.buffers())
    assert not PausableNetwork(network, held).resumable(torch.rand(1, 1, 16, 16))
    image = np.random.default_rng(0).random((64, 64), np.float32)
    plan = plan_freeze(Case.open(open_image(image), as_model(network), Settings(tile=48)))
    assert (plan.in_memory, plan.on_disk, plan.recomputed) == (0, 0, plan.tiles)


class Remembering(nn.Module):
    """Writes how bright an image was into a buffer."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x):
        self.last.copy_(x.max())
        return self.net(self.net[0](x)[:, :1])


def _scripted(network):
    with quiet_torchscript():
        return torch.jit.script(network)


@pytest.mark.parametrize("scripted", [False, True])
def test_networks_that_write_into_their_buffers_are_refused_untouched(scripted) -> None:
    network = Remembering().eval()
    image = np.random.default_rng(0).random((64, 64), np.float32)
    model = as_model(_scripted(network) if scripted else network)
    with pytest.raises(ModelError, match=r"^The network writes into its own buffers .*: keep"):
        plan_freeze(Case.open(open_image(image), model, Settings(tile=32)))
    pausable = PausableNetwork(network, (*network.parameters(), *network.buffers()))
    network.last.fill_(-1)
    with pytest.raises(ModelError, match="writes into its own buffers"):
        pausable.advance(pausable.begin(torch.ones(1, 1, 16, 16)), 0, lambda call: None)
    assert network.last == -1


class Flattened(nn.Module):
    """Normalizes with space in one axis, as attention blocks do."""

    def __init__(self, norm, swapped=False):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.swapped = norm, swapped

    def forward(self, x):
        y = self.a(x)
        y = y.transpose(2, 3) if self.swapped else y
        y = self.norm(y.flatten(2)).reshape(y.shape).relu()
        return F.instance_norm(self.b(y.transpose(2, 3) if self.swapped else y))


@pytest.mark.parametrize("tile", [48, (32, 48), "auto"])
@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True), nn.BatchNorm1d(4)]
)
def test_exact_with_norms_on_flattened_space(norm, tile) -> None:
    torch.manual_seed(1)
    network = Flattened(norm).eval()
    image = np.random.default_rng(0).random((96, 128), np.float32)
    image[:, 64:] *= 5
    image[40:] += 2
    fixed = as_model(network).with_statistics(freeze_statistics(image, network, tile=tile))
    assert _apart(_tiled(image, fixed, tile=(48, 64)), _whole(network, image)) < SAME


class Swapped(nn.Module):
    """Takes x before y."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Conv2d(4, 2, 3, padding=1)
        )

    def forward(self, x):
        return self.net(x.transpose(2, 3)).transpose(2, 3)


class ChannelsLast(nn.Module):
    """There and back."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).sigmoid().permute(0, 3, 1, 2)


class Pieces(nn.Module):
    """Normalizes features whose space is in pieces."""

    def forward(self, x):
        y = x.unflatten(2, (-1, 2))
        return F.instance_norm(y).flatten(2, 3)


def _volumes():
    return nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.InstanceNorm3d(2)).eval()


@pytest.mark.parametrize("how", ["exact", "sampled", "local"])
@pytest.mark.parametrize(
    ("make", "ndim"),
    [
        (Swapped, 2),
        (lambda: Rearranged(Swapped().net, "bcxy", "bcxy"), 2),
        (lambda: Rearranged(_volumes(), "bczxy", "bczxy"), 3),
        (lambda: Rearranged(_volumes(), "bcyzx", "bcyzx"), 3),
        (lambda: Rearranged(_volumes(), "bcxyz", "bcxyz"), 3),
        (lambda: Flattened(nn.GroupNorm(2, 4), swapped=True), 2),
        (Pieces, 2),
    ],
)
def test_features_whose_axes_are_not_the_images_are_refused(make, ndim, how) -> None:
    model = as_model(make().eval())
    image = open_image(np.random.default_rng(0).random((48,) * ndim, np.float32))
    with pytest.raises(ModelError, match=r"(Norm|norm).* sees .* not in the image's order: .*\.$"):
        plan_freeze(Case.open(image, model, Settings(tile=(32,) * ndim)), how)


def test_exchanged_axes_are_seen_where_all_sizes_are_one() -> None:
    class OneSize(Swapped):
        def forward(self, x):
            assert x.shape[2:] == (48, 48)
            return super().forward(x)

    model = Model(OneSize().eval(), "one size", hints=Hints(2, 1, (48, 48)))
    image = open_image(np.random.default_rng(0).random((96, 96), np.float32))
    with pytest.raises(ModelError, match="not in the image's order"):
        plan_freeze(Case.open(image, model, Settings(tile=48)))


def test_axes_in_order_are_no_matter() -> None:
    last = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), ChannelsLast(), nn.InstanceNorm2d(64))
    network = nn.Sequential(last, Flattened(nn.GroupNorm(2, 4))).eval()
    network[1].a = nn.Conv2d(64, 4, 1)  # as many channels as small inputs are high and wide
    image = open_image(np.random.default_rng(0).random((64, 64), np.float32))
    assert len(plan_freeze(Case.open(image, as_model(network), Settings(tile=48))).calls) == 3
    model = as_model(Rearranged(_volumes(), "bczyx", "bczyx").eval())
    image = open_image(np.random.default_rng(0).random((32, 48, 48), np.float32))
    assert plan_freeze(Case.open(image, model, Settings(tile=(32, 32, 48)))).calls == (0,)


def test_shapes_that_depend_on_values_are_told() -> None:
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.InstanceNorm2d(1)

        def forward(self, x):
            return self.norm(x[x > 0][None, None, :, None])

    pausable = PausableNetwork(Masked())
    x = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    pausable.advance(pausable.begin(x), 0, lambda call: None)
    with pytest.raises(ModelError, match="another way"):
        pausable.advance(pausable.begin(x + 0.5), 0, lambda call: None)


def test_a_network_that_takes_another_way_is_not_repeated() -> None:
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.InstanceNorm2d(1)
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            x = x.relu() if self.calls % 2 else x.sigmoid()
            return self.norm(x)

    assert not PausableNetwork(Fickle()).resumable(torch.rand(1, 1, 4, 4))


class Held(nn.Module):
    """One layer runs twice, another is held under two names, a third has a hook."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(i, 4, 3, padding=1) for i in (1, 4, 4, 4))
        self.twice = nn.InstanceNorm2d(4)
        self.alias = nn.InstanceNorm2d(4, affine=True)
        self.used = self.alias
        self.hooked = nn.GroupNorm(2, 4)
        self.hooked.register_forward_hook(lambda part, x, y: 2 * y)

    def forward(self, x):
        a, b, c, d = self.convs
        x = self.twice(b(self.twice(a(x)).relu())).relu()
        return self.hooked(d(self.used(c(x)).relu()))


def test_layers_that_cannot_be_replaced_are_answered(tissue) -> None:
    torch.manual_seed(0)
    network, image = Held().eval(), tissue[:128, :144]
    model, whole = as_model(network), _whole(network, image)
    assert _apart(_tiled(image, model, tile=64), whole) > 0.1
    fixed = model.with_statistics(freeze_statistics(image, model, tile=64, normalize="none"))
    assert isinstance(fixed.module, Answered)
    assert _apart(_tiled(image, fixed, tile=64), whole) < SAME


def test_layers_of_networks_in_wrappers_are_replaced_too(tissue) -> None:
    """As packages have them: what comes after the network belongs to what is run."""
    image = tissue[:128, :96]
    network = Finished(networks.UNet(2, 1, norm="instance").eval(), [nn.Sigmoid()])
    statistics = freeze_statistics(image, network, tile=64, normalize="none")
    assert all(layer.name for layer in statistics.layers)
    fixed = as_model(network).with_statistics(statistics)
    assert not any(isinstance(part, Answered) for part in fixed.module.modules())
    assert not any(isinstance(part, nn.InstanceNorm2d) for part in fixed.module.modules())
    assert _apart(_tiled(image, fixed, tile=64), _whole(network, image)) < SAME


class Graphed(nn.Module):
    """All norms that a graph can be rewritten for, in one network; can be scripted too."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.InstanceNorm2d(8, affine=True),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
        )
        self.pool = nn.MaxPool2d(2)
        self.b = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8, track_running_stats=False),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
        )
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        a = self.a(x)
        return self.last(torch.cat([self.up(self.b(self.pool(a))), a], 1))


def _programs(tmp_path, network, batch):
    """The network as files of each format that has a graph, and loaded from there."""
    x = torch.randn(batch, 1, 64, 64)
    dims = {n: 4 * torch.export.Dim(name, min=2) for n, name in ((2, "h"), (3, "w"))}
    if batch > 1:
        dims[0] = torch.export.Dim("b", min=1)
    exported = torch.export.export(network, (x,), dynamic_shapes=(dims,))
    torch.export.save(exported, tmp_path / "net.pt2")
    torch.jit.save(torch.jit.trace(network, x), tmp_path / "net.pt")
    yield "exported", seamscope.load_model(str(tmp_path / "net.pt2"), trust=True)
    yield "traced", seamscope.load_model(str(tmp_path / "net.pt"))
    yield "in hand", as_model(exported.module())


@pytest.mark.filterwarnings("ignore")  # of TorchScript and export about themselves
@pytest.mark.parametrize("batch", [1, 2])  # of the program; 1 is all that it then takes
def test_programs_are_fixed_in_their_graph(tissue, tmp_path, batch) -> None:
    torch.manual_seed(6)
    network, image = Graphed().eval(), np.ascontiguousarray(tissue[:136, :152])
    whole = _whole(network, image)
    for name, model in _programs(tmp_path, network, batch):
        before = {k: v.clone() for k, v in model.module.state_dict().items()}
        assert _apart(_tiled(image, model, tile=64), whole) > 0.1
        statistics = freeze_statistics(image, model, tile=64, normalize="none")
        fixed = model.with_statistics(statistics)
        assert not any(isinstance(part, Answered) for part in fixed.module.modules()), name
        calls = set(range(len(model.audit.layers)))
        answered = Answered(model.module, statistics, calls)
        x = torch.from_numpy(image)[None, None]
        with torch.no_grad():
            here, expected = (one(x).numpy() for one in (fixed.module, answered))
        assert _apart(here, expected) < 1e-6, name
        batches = (1,) if name == "in hand" else (1, 3)
        for together in batches:
            assert _apart(_tiled(image, fixed, tile=64, batch=together), whole) < SAME, name
        assert not audit(fixed.forward, x).calls
        assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
        assert _apart(_tiled(image, model, tile=64), whole) > 0.1  # the given one goes on


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch", [1, 2])
def test_what_is_fixed_in_a_graph_is_folded_and_trimmed(tissue, tmp_path, batch) -> None:
    torch.manual_seed(6)
    image = np.ascontiguousarray(tissue[:136, :152])
    for name, model in _programs(tmp_path, Graphed().eval(), batch):
        statistics = freeze_statistics(image, model, tile=64, normalize="none")
        fixed = model.with_statistics(statistics)
        graph = fused(fixed.module)
        kinds = [type(part).__name__ for part in graph.modules()]
        assert not {"PerChannel", "TileNorm"} & set(kinds), name
        assert "norm" not in str(graph.graph), name
        x = torch.from_numpy(image)[None, None]
        keep = (slice(40, 60), slice(40, 60))
        trials = {trial.name: trial for trial in choose(fixed.module, x, keep=keep).trial}
        assert trials["fused"].refused is None, name
        run = dict(variants(fixed.module, x))["fused"]()
        alone = (batch, name) == (1, "in hand")  # which nothing runs several samples of
        several = x if alone else torch.cat([x, x.flip(2), 2 * x])
        with torch.no_grad():
            expected = fixed.forward(several)[:, :, 40:60, 40:60].numpy()
        for _ in range(2):  # the first run notes sizes
            assert _apart(run(several, keep).numpy(), expected) < SAME, name


@pytest.mark.filterwarnings("ignore")
def test_programs_that_cannot_be_fixed_in_their_graph_are_answered(tissue, tmp_path) -> None:
    """Scripts with branches, statistics taken by hand; also where a file takes one sample only."""
    torch.manual_seed(3)
    image = np.ascontiguousarray(tissue[:136, :152])
    x = torch.randn(1, 1, 64, 64)
    everything = Everything().eval()
    dims = {n: 4 * torch.export.Dim(name, min=8) for n, name in ((2, "h"), (3, "w"))}
    for name, network in (("net", everything), ("local", networks.UNet(2, 1, norm="instance"))):
        program = torch.export.export(network.eval(), (x,), dynamic_shapes=(dims,))
        torch.export.save(program, tmp_path / f"{name}.pt2")
    scripted = Graphed().eval()  # torch checks sizes in its norms, which makes branches
    for network, model in (
        (scripted, as_model(torch.jit.script(scripted))),
        (everything, seamscope.load_model(str(tmp_path / "net.pt2"), trust=True)),
    ):
        whole = _whole(network, image)
        statistics = freeze_statistics(image, model, tile=64, normalize="none")
        fixed = model.with_statistics(statistics)
        assert isinstance(fixed.module, Answered)
        for together in (1, 2, 3):
            assert _apart(_tiled(image, fixed, tile=64, batch=together), whole) < SAME
    model = seamscope.load_model(str(tmp_path / "local.pt2"), trust=True)
    local = freeze_statistics(image, model, "local", tile=64, cell=32, normalize="none")
    placed = model.with_statistics(local)
    assert isinstance(placed.module, Answered)  # numbers that vary have no place in a graph
    one, three = (_tiled(image, placed, tile=64, batch=n) for n in (1, 3))
    assert _apart(three, one) < SAME


# -- local statistics


def _window_by_window(network, image, window, starts):
    """The network's own statistics in each window, interpolated over the whole image at once."""
    moments: dict[int, list[torch.Tensor]] = {}

    def see(call):
        var, mean = torch.var_mean(call.features.double()[0], (1, 2), correction=0)
        moments.setdefault(call.number, []).append(torch.stack([mean, var]))

    for y, x in itertools.product(*starts):
        part = torch.from_numpy(image[y : y + window, x : x + window].copy())
        Normalizations(see).run(network, part[None, None])
    middles = [np.array(along) + window / 2 for along in starts]

    def answer(call):
        values = torch.stack(moments[call.number]).unflatten(0, [len(m) for m in middles])
        between = RegularGridInterpolator(middles, values.numpy())
        at = [
            np.clip((np.arange(n) + 0.5) * full / n, m[0], m[-1])
            for n, full, m in zip(call.space, image.shape, middles, strict=True)
        ]
        field = between(tuple(np.meshgrid(*at, indexing="ij")))
        mean, var = torch.from_numpy(field).float().permute(2, 3, 0, 1)[:, None]
        return seamscope.normalization.calls.Moments(mean, var)

    return Normalizations(answer).run(network, torch.from_numpy(image)[None, None])[0].numpy()


def test_local_statistics_do_not_depend_on_the_tiling(tissue, small) -> None:
    image = np.ascontiguousarray(tissue[:256, :320])
    expected = _window_by_window(small.module, image, 128, [(0, 64, 128), (0, 64, 128, 192)])
    predictions = []
    for freezing, predicting in ((96, 128), (80, 112), (256, 320)):
        statistics = freeze_statistics(
            image, small, "local", tile=freezing, cell=64, normalize="none"
        )
        fixed = small.with_statistics(statistics)
        predictions.append(_tiled(image, fixed, tile=predicting, batch=2))
        assert _apart(predictions[-1], expected) < SAME
    assert _apart(_whole(small, image), expected) > 0.1  # they are no global ones


def test_windows_of_an_image_that_they_do_not_divide(tissue, small) -> None:
    image = np.ascontiguousarray(tissue[:200, :236])
    plan = plan_freeze(
        Case.open(open_image(image), small, Settings(normalize="none")), "local", cell=40
    )
    starts = [[one.start for one in axis] for axis in plan.plan.grid.axes]
    assert [along[-1] for along in starts] == [200 - 80, 236 - 80]
    assert len({b - a for a, b in itertools.pairwise(starts[1])}) > 1
    expected = _window_by_window(small.module, image, 80, starts)
    fixed = small.with_statistics(carry_out(Case.open(open_image(image), small), plan))
    assert _apart(_tiled(image, fixed, tile=112), expected) < SAME


def test_windows_of_valid_convolutions_lie_where_their_features_do(tissue) -> None:
    """Their features begin a crop later than they do, and so do those of the whole image."""
    torch.manual_seed(5)
    model, image = as_model(ValidNorm().eval()), np.ascontiguousarray(tissue[:118, :118])
    plan = plan_freeze(
        Case.open(open_image(image), model, Settings(normalize="none")), "local", cell=32
    )
    (first, *_, last) = plan.plan.grid.axes[0]
    crop = -first.start
    assert (crop > 0, last.stop) == (True, 118 + crop)
    assert plan_freeze(Case.open(open_image(image), model), "local", cell=100).tiles == 1
    found = carry_out(Case.open(open_image(image), model), plan)
    for layer, (lost, size) in zip(found.layers, ((4, 60), (8, 56)), strict=True):
        assert layer.centres[0][0] == size / 2  # counted from the first that is computed
        assert layer.centres[0][-1] == 118 + 2 * crop - lost - size / 2
    fixed = model.with_statistics(found)
    one, two = (_tiled(image, fixed, tile=tile) for tile in (48, 80))
    assert _apart(one, two) < SAME


def test_cells_are_by_default_as_large_as_usual_patches(small) -> None:
    """Smaller in 3D, where windows of 256 pixels would hold 16 million."""
    flat = plan_freeze(Case.open(open_image(np.zeros((512, 512))), as_model(small)), "local")
    assert flat.cell == (128, 128)
    torch.manual_seed(0)
    deep = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.InstanceNorm3d(2)).eval()
    volume = open_image(np.zeros((160, 160, 160), np.float32))
    assert plan_freeze(Case.open(volume, as_model(deep)), "local").cell == (64, 64, 64)


def test_local_statistics_belong_to_their_image(tissue, small) -> None:
    image = tissue[:128, :128]
    statistics = freeze_statistics(image, small, "local", cell=32, normalize="none")
    fixed = small.with_statistics(statistics)
    with pytest.raises(SettingsError, match="local statistics belong to places"):
        seamscope.predict(tissue[:128, :160], fixed, normalize="none")


def test_a_window_as_large_as_the_image_is_exact(tissue, small) -> None:
    image = np.ascontiguousarray(tissue[:128, :160])
    local = freeze_statistics(image, small, "local", cell=80, tile=96, normalize="none")
    fixed = small.with_statistics(local)
    assert _apart(_tiled(image, fixed, tile=96), _whole(small, image)) < SAME


def test_an_interrupted_look_at_windows_goes_on(tissue, small, tmp_path) -> None:
    image, partial = tissue[:160, :160], tmp_path / "partial"
    settings = {"cell": 16, "normalize": "none"}
    expected = freeze_statistics(image, small, "local", **settings)

    def freeze(work):
        return freeze_statistics(image, small, "local", partial=partial, work=work, **settings)

    with pytest.raises(InterruptedError):
        freeze(stopped_after(41))
    work = Seen()
    assert _same_numbers(freeze(work), expected)
    assert work.steps[0] == (41, 81)  # a block is kept once it is complete
    assert work.steps[-1] == (81, 81)
    assert not partial.exists()


def test_windows_of_frames_are_taken_together(tissue, small) -> None:
    stack = np.stack([tissue[:128, :128], tissue[500:628, 500:628]])
    settings = {"cell": 32, "normalize": "none"}
    both = freeze_statistics(stack, small, "local", axes="tyx", **settings)
    single = [freeze_statistics(one, small, "local", **settings) for one in stack]
    for layer, one, two in zip(both.layers, *(s.layers for s in single), strict=True):
        mean = (one.mean + two.mean) / 2
        square = (one.var + one.mean**2 + two.var + two.mean**2) / 2
        np.testing.assert_allclose(layer.mean, mean, atol=1e-9)
        np.testing.assert_allclose(layer.var, square - mean**2, atol=1e-9)
        assert (layer.count == 2 * one.count).all()


@pytest.mark.parametrize("beside", [nn.Identity(), nn.InstanceNorm2d(3)])
def test_normalizations_written_by_hand_cannot_vary(tissue, beside) -> None:
    """Also beside layers that can: variances of windows are no variance around the image's mean."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), beside, ByHand()).eval()
    with pytest.raises(SettingsError, match="computes statistics by hand"):
        freeze_statistics(tissue[:96, :96], network, "local", cell=16, normalize="none")


class Excited(nn.Module):
    """Two squeeze-and-excitations: of features, and of what a window's own statistics made."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.norm, self.one, self.two = nn.InstanceNorm2d(4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, x):
        x = self.a(x).relu()
        x = x * self.one(x.mean((2, 3))).sigmoid()[..., None, None]
        x = self.norm(self.b(x)).relu()
        return self.up(x * self.two(F.adaptive_avg_pool2d(x, 1).flatten(1))[..., None, None])


def test_what_is_taken_by_hand_counts_each_pixel_of_the_image_once(tmp_path) -> None:
    network, cell, size = Excited().eval(), 16, 104
    image = np.random.default_rng(0).random((size, size), np.float32)
    image[:, :8] += 10  # borders lie in one window, the rest in four
    expected = {0: torch.zeros(4, size, size), 2: torch.zeros(4, size // 2, size // 2)}
    starts, borders = [0, 8, 24, 40, 56, 72], [0, 16, 32, 48, 64, 80, size]
    for (i, y), (j, x) in itertools.product(enumerate(starts), repeat=2):
        seen = {}
        window = torch.from_numpy(image[y : y + 2 * cell, x : x + 2 * cell].copy())
        Normalizations(lambda call, seen=seen: seen.update({call.number: call.features[0]})).run(
            network, window[None, None]
        )
        for call, step in ((0, 1), (2, 2)):
            core = [slice(borders[k] // step, borders[k + 1] // step) for k in (i, j)]
            own = [
                slice(part.start - start // step, part.stop - start // step)
                for part, start in zip(core, (y, x), strict=True)
            ]
            expected[call][:, *core] = seen[call][:, *own]

    asked = {"cell": cell, "normalize": "none"}
    found = freeze_statistics(image, network, "local", **asked)
    assert [layer.uniform for layer in found.layers] == [True, False, True]
    for call, features in expected.items():
        own = found.layers[call]
        assert own.count.sum() == features[0].numel()
        np.testing.assert_allclose(own.mean.reshape(-1), features.mean((1, 2)), rtol=1e-5)
    whole = freeze_statistics(image, network, normalize="none", tile=size)
    np.testing.assert_allclose(found.layers[0].mean, whole.layers[0].mean, rtol=1e-6)

    partial = tmp_path / "partial"
    with pytest.raises(InterruptedError):
        freeze_statistics(image, network, "local", partial=partial, work=stopped_after(21), **asked)
    assert partial.exists()
    assert _same_numbers(
        freeze_statistics(image, network, "local", partial=partial, **asked), found
    )


def test_small_windows_cost_more_than_their_pixels(instancenorm) -> None:
    """As measured: processor time of freezing an image of 768 x 768, in that of predicting it."""
    opened = open_image(np.zeros((768, 768), np.float32))
    settings = Settings(normalize="none", tile=256)
    for cell, measured in ((128, 1.21), (64, 1.76), (32, 3.39)):
        plan = plan_freeze(Case.open(opened, instancenorm, settings), "local", cell=cell)
        assert plan.passes == pytest.approx(measured, rel=0.1)


def test_windows_need_no_halo_and_are_not_told_to(small) -> None:
    image = np.random.default_rng(0).random((256, 256), np.float32)
    opened, settings = open_image(image), Settings(normalize="none", tile=96, halo=0)
    assert plan_freeze(Case.open(opened, small, settings), "local", cell=32).notes == ()
    assert (
        "Set tile and halo to auto"
        in plan_freeze(Case.open(opened, small, settings), "exact").sentence
    )


def test_statistics_of_layers_belong_together(tissue, instancenorm) -> None:
    """Why local ones are taken window by window: some of here and some of there fit nothing."""
    here, there = np.s_[512:768, :256], np.s_[:256, 256:512]  # one has background, one has none
    image, truth = np.ascontiguousarray(tissue[here]), sample_image("tissue2d")[1][here]
    settings = {"normalize": "none", "tile": 256}
    own, other = (
        freeze_statistics(np.ascontiguousarray(part), instancenorm, **settings)
        for part in (image, tissue[there])
    )

    def right(layers):
        fixed = instancenorm.with_statistics(dataclasses.replace(own, layers=layers))
        return (_tiled(image, fixed, tile=256).argmax(0) == truth).mean()

    assert right(own.layers) > 0.98
    assert right(other.layers) > 0.95
    assert right((*own.layers[:1], *other.layers[1:])) < 0.5


# -- sampled statistics


def test_a_sample_of_all_tiles_is_nearly_exact_and_of_few_is_told_to_be_off(tissue, small) -> None:
    image = np.ascontiguousarray(tissue[:320, :320])
    whole = _whole(small, image)

    def off(tiles):
        found = freeze_statistics(image, small, "sampled", tile=96, tiles=tiles, normalize="none")
        fixed = small.with_statistics(found)
        away = np.abs(_tiled(image, fixed, tile=96) - whole).mean()
        return away, found.about["distance"]["mean_difference"]

    few, estimated = off(8)
    assert 0.2 < estimated / few < 5
    more, _ = off(36)
    assert more < few
    # every pixel would have to count once for more than that
    assert more < 0.05 * whole.std()


# -- files and refusals


def test_statistics_survive_their_file(tissue, small, tmp_path) -> None:
    image = tissue[:128, :128]
    for how in ("exact", "local"):
        made = freeze_statistics(image, small, how, cell=32, tile=96, normalize="none")
        made.save(tmp_path / how)
        read = Statistics.load(tmp_path / how)
        assert _same_numbers(read, made)
        for one, other in zip(read.layers, made.layers, strict=True):
            assert (one.name, one.kind, one.centres, one.scale) == (
                other.name,
                other.kind,
                other.centres,
                other.scale,
            )
            assert np.array_equal(one.count, other.count)
        assert (read.about, read.image_shape, read.how) == (made.about, made.image_shape, how)
        small.with_statistics(read)


def test_what_does_not_fit_is_refused_in_a_sentence(tissue, small, tmp_path) -> None:
    image = tissue[:128, :128]
    statistics = freeze_statistics(image, small, tile=96, normalize="none")
    other = as_model(networks.UNet(2, 2, norm="instance").eval())
    with pytest.raises(SettingsError, match="made for the network UNet"):
        other.with_statistics(statistics)
    with pytest.raises(SettingsError, match="Nothing to fix"):
        freeze_statistics(image, networks.UNet(2, 1, norm="batch").eval())
    with pytest.raises(SettingsError, match=r"the whole tile because of .*cannot be fixed"):
        freeze_statistics(image, couplings.Unetr().eval())
    with pytest.raises(SettingsError, match="choose exact, local"):
        freeze_statistics(image, small, "quick")
    with pytest.raises(SettingsError, match="Cell 0"):
        freeze_statistics(image, small, "local", cell=0)
    with pytest.raises(SettingsError, match=r"window of 64 x 64 .* 1 kB may .* smaller cell"):
        freeze_statistics(image, small, "local", cell=32, memory=1000)
    damaged = tmp_path / "damaged"
    statistics.save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ModelError, match="no statistics that can be used"):
        Statistics.load(damaged)
    (tmp_path / "text").write_text("not numbers")
    with pytest.raises(ModelError, match="no statistics that can be used"):
        Statistics.load(tmp_path / "text")
    with pytest.raises(ModelError, match="There is no file"):
        Statistics.load(tmp_path / "nothing")


def test_a_fixed_network_is_measured_as_what_it_is(tissue, small) -> None:
    """What `with_statistics` takes over is what probing it would find."""
    statistics = freeze_statistics(tissue[:128, :128], small, tile=96, normalize="none")
    fixed = small.with_statistics(statistics)
    fresh = as_model(fixed.module)
    assert fixed.reach == fresh.reach
    # statistics of a single pixel are refused where they are computed
    one, other = (
        [dataclasses.replace(a, smallest=1) for a in m.facts.lattice] for m in (fixed, fresh)
    )
    assert one == other
    assert not fixed.facts.statistics
    assert not fresh.facts.statistics
    assert "without seams: it looks 22 px far" in fixed.describe()


def test_statistics_of_another_image_can_be_used(tissue, small) -> None:
    statistics = freeze_statistics(tissue[:160, :160], small, tile=96, normalize="none")
    fixed = small.with_statistics(statistics)
    image = tissue[500:740, 300:500]
    one, two = (_tiled(image, fixed, tile=tile) for tile in (96, 128))
    assert _apart(one, two) < SAME


def test_frames_are_taken_together_or_chosen(tissue, small) -> None:
    stack = np.stack([tissue[:128, :128], tissue[500:628, 500:628]])
    settings = {"axes": "tyx", "tile": 96, "normalize": "none"}
    both = freeze_statistics(stack, small, **settings)
    second = freeze_statistics(stack, small, area={"t": (1, 2)}, **settings)
    alone = freeze_statistics(stack[1], small, tile=96, normalize="none")
    assert _same_numbers(second, alone)
    assert both.layers[0].count.sum() == 2 * alone.layers[0].count.sum()


def _read(**changed):
    return Settings(channel=0, normalize="percentile", tile=48, halo=0).but(**changed)


@pytest.mark.parametrize(
    ("changed", "told", "option"),
    [
        ({"channel": 1}, ("channel 0", "channel 1"), "`channel=0`"),
        ({"percentiles": (2, 98)}, ("percentiles 1,99.8", "percentiles 2,98"),
         "`percentiles=(1, 99.8)`"),
        ({"padding": "zeros"}, ("padding by reflect", "padding by zeros"),
         "`padding='reflect'`"),
        ({"fill_nan": 3}, ("0 for what is not finite", "3 for what is not finite"), "`fill_nan=0`"),
        ({"channel_axis": "t"}, ("channels along c", "channels along t"), "`channel_axis='c'`"),
        ({"normalize": "none"}, ("intensities normalized by percentile",
                                 "intensities normalized by none"), "`normalize='percentile'`"),
    ],
)  # fmt: skip
def test_statistics_of_what_is_read_otherwise_are_noted(tmp_path, changed, told, option) -> None:
    image = np.random.default_rng(0).random((2, 2, 97, 128), np.float32)
    image[1] = 3 + 9 * image[1] ** 4
    image[:, :, 5, 5] = np.nan
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d(2), nn.InstanceNorm2d(4), nn.Upsample(None, 2)
    )
    model, opened = as_model(network.eval()), open_image(image, axes="ctyx")
    own = _read(fill_nan=0)
    freeze_statistics(opened, model, settings=own).save(tmp_path / "found")
    statistics = Statistics.load(tmp_path / "found")
    fixed = model.with_statistics(statistics)

    def notes(network, **changed):
        return [n for n in seamscope.prepare(opened, network, own.but(**changed)).plan.notes
                if "statistics were found" in n]  # fmt: skip

    assert notes(fixed) == notes(fixed, area={"t": (1, 2)}, tile=64) == []
    (said,) = notes(fixed, **changed)
    before, after = told
    assert f"found with {before}, but array is read with {after}. Predictions will be" in said
    assert f"({option})" in said
    older = dataclasses.replace(statistics, about={"tile": [48, 48]})
    assert notes(model.with_statistics(older), **changed) == []
    with pytest.raises(SettingsError, match="were found with"):
        measure_features(opened, model, own.but(**changed), statistics=statistics)


def test_what_has_no_effect_on_what_is_read_is_not_noted(small) -> None:
    image = np.random.default_rng(0).random((1, 128, 128), np.float32)
    statistics = freeze_statistics(image, small, axes="cyx", tile=96, normalize="none")
    changed = Settings(
        normalize="none", channel=0, percentiles=(3, 97), fill_nan=0, padding="zeros"
    )
    opened = open_image(image, axes="cyx")
    plan = seamscope.prepare(opened, small.with_statistics(statistics), changed).plan
    assert not any("statistics were found" in note for note in plan.notes)
