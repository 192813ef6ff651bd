"""Protocols: what was chosen, as a file, and repeated."""

from __future__ import annotations

import dataclasses
import tomllib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import seamscope
from networks import UNet
from seamscope.errors import SettingsError
from seamscope.images.records import read_record
from seamscope.planning.plan import resolve
from seamscope.planning.protocol import ImageChoice, Network, Protocol, as_table, of_table
from seamscope.planning.resources import Resources
from seamscope.segmentation.recipe import Recipe
from seamscope.settings import Settings
from seamscope.tiling import TileGrid

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, most=0, weight=1.0):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.fill_(weight)
            self.conv.bias.fill_(0.0)
        self.most = most

    def forward(self, x):
        if self.most and x.shape[-1] > self.most and x.min() >= 0 and 500 < x.max() < 1000:
            raise RuntimeError("CUDA out of memory. Tried to allocate 80 GiB")
        return self.conv(x)
"""


@pytest.fixture(scope="module")
def network():
    return seamscope.load_model("demo:instancenorm")


@pytest.mark.parametrize(
    ("shape", "asked"),
    [
        ((300, 500), {}),
        ((300, 500), {"tile": 160}),
        ((700, 140), {"tile": 160, "halo": ((10, 20), 30), "seams": "all"}),
        ((300, 500), {"blend": "linear", "tile": (200, 160)}),
        ((900, 800), {"blend": "gaussian", "memory": 2 * 10**8}),
        ((900, 800), {"area": {"y": (100, 140)}, "memory": 2 * 10**8, "seams": "none"}),
        ((3, 200, 260), {"tile": 128, "overlap": 100, "halo": 16}),
    ],
)
def test_a_protocol_repeats_the_grid_whatever_memory_a_machine_has(network, shape, asked) -> None:
    image = seamscope.open_image(np.zeros(shape, np.uint8), axes="tyx"[-len(shape) :])
    case = seamscope.Case.open(image, network, **asked)
    protocol = Protocol.of(case)
    small = Resources("cpu", 10**8, 10**8)
    again = resolve(image, network, protocol.settings, small)
    assert again.grid == case.plan.grid
    assert (again.area, again.frame_ranges) == (case.plan.area, case.plan.frame_ranges)
    assert protocol.image == ImageChoice(axes="tyx"[-len(shape) :])


numbers = st.integers(0, 200)
chosen = st.fixed_dictionaries(
    {},
    optional={
        "tile": st.one_of(st.just("auto"), numbers, st.tuples(numbers, numbers)),
        "halo": st.one_of(numbers, st.tuples(numbers, st.tuples(numbers, numbers))),
        "overlap": st.one_of(numbers, st.tuples(numbers, numbers)),
        "blend": st.sampled_from(["crop", "linear"]),
        "percentiles": st.just((0.5, 99.0)),
        "threshold": st.floats(-1e3, 1e3),
        "background": numbers,
        "area": st.dictionaries(st.sampled_from("yx"), st.tuples(numbers, numbers), min_size=1),
        "fill_nan": st.floats(-1e300, 1e300),
        "accelerate": st.booleans(),
        "memory": st.integers(1, 10**15),
        "postprocess": st.booleans(),
    },
)


@settings(max_examples=40)
@given(chosen, st.text())
def test_what_is_written_is_read(changes, name) -> None:
    protocol = Protocol(Network(name, "5c", step=(8, 8)), Settings(**changes))
    text = protocol.to_toml()
    assert Protocol.from_toml(text) == protocol
    assert tomllib.loads(text)["settings"]["blend"] == protocol.settings.blend


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(background=None),
        Recipe("boundaries", channel=(0, 2), values="logits", voxel_size=(2.0, 1.0), max_size=9),
        Recipe("distance", values=255.0, dynamics=2.5, clear_border=True),
    ],
)
def test_recipes_are_read_as_they_were(recipe) -> None:
    text = Protocol(recipe=as_table(recipe)).to_toml()
    assert of_table(Recipe, Protocol.from_toml(text).recipe) == recipe


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tile = 5", "reads protocol = 1"),
        ("protocol = 2", "a newer Seamscope"),
        ("protocol = ", "not TOML"),
        ("protocol = 1\n[settings]\nblend = 'soft'", "'soft'"),
        ("protocol = 1\n[settings]\nblur = 1", "no field 'blur'"),
        ("protocol = 1\n[network]\npath = 'x'", "lacks the field 'fingerprint'"),
    ],
)
def test_what_is_no_protocol_is_refused_in_one_sentence(tmp_path, text, said) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(SettingsError, match=said):
        Protocol.load(tmp_path / "p.toml")


def test_a_network_without_a_file_has_no_protocol(network) -> None:
    case = seamscope.Case.open(np.zeros((64, 64), np.uint8), UNet())
    with pytest.raises(SettingsError, match="has no file"):
        Protocol.of(case)


def test_a_result_carries_its_protocol(tmp_path, network) -> None:
    image = np.random.default_rng(0).integers(0, 255, (200, 170), np.uint8)
    first = tmp_path / "first.zarr"
    seamscope.predict(image, network, first, tile=96, halo=16, seams="none", blend="linear")
    protocol = Protocol.load(first)
    assert protocol.settings.device == "auto"  # as it was chosen
    model = protocol.load_network()
    again = seamscope.predict(protocol.open_image(image), model, None, protocol.settings)
    np.testing.assert_array_equal(again, seamscope.open_image(first).read((slice(None),) * 3))
    other = dataclasses.replace(protocol.network, fingerprint="0" * 16)
    with pytest.raises(SettingsError, match="0000"):
        dataclasses.replace(protocol, network=other).load_network()


def test_the_protocol_has_the_tiles_that_memory_left(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FACTORY)
    image = 1000 * np.random.default_rng(0).random((64, 200), np.float32)
    model = seamscope.load_model("net.py:Net(most=100)", trust=True, step=4)
    seamscope.predict(image, model, "out.npy", tile=(64, 160), halo=4)
    record = read_record("out.npy")
    protocol = Protocol.load("out.npy")
    grid = TileGrid.regular(
        (64, 200), protocol.settings.tile, protocol.settings.halo, protocol.settings.overlap,
        model.facts.lattice,
    )  # fmt: skip
    assert list(grid.tile_shape) == record["plan"]["tile"]
    assert max(grid.tile_shape) <= 100
    # paths are those of any folder, and what was stated comes along
    assert protocol.network.path == f"{tmp_path / 'net.py'}:Net(most=100)"
    assert protocol.network.step == 4
    monkeypatch.chdir("/")
    assert protocol.load_network(trust=True).fingerprint == model.fingerprint


def test_fixed_statistics_are_named_by_file_and_digest(tmp_path, network) -> None:
    image = np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8)
    statistics = seamscope.freeze_statistics(image, network, tile=96)
    fixed = network.with_statistics(statistics)
    with pytest.raises(SettingsError, match="in no file"):
        Protocol.of(seamscope.Case.open(image, fixed))
    file = tmp_path / "s.statistics"
    statistics.save(file)
    protocol = Protocol.of(seamscope.Case.open(image, fixed, tile=96))
    model = protocol.load_network()
    np.testing.assert_array_equal(
        seamscope.predict(image, model, None, protocol.settings),
        seamscope.predict(image, fixed, tile=96),
    )
    seamscope.freeze_statistics(image[:, ::-1] // 2, network, tile=96).save(file)
    with pytest.raises(SettingsError, match="digest"):
        protocol.load_network()
