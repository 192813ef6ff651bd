"""Which sizes networks take: as found by running every size, and no plan of Auto beyond them."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

import seamscope
from extras import extra
from seamscope import cli
from seamscope.errors import ModelError, SettingsError
from seamscope.models.model import as_model
from seamscope.tiling import AxisTiling, Lattice, TileGrid

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's exporters

AS_IT_IS = {"normalize": "none", "result": "probabilities"}
MOST = 700  # pixels that are tried along an axis


class Table(nn.Module):
    """Learned positions of which as many are taken as there are pixels, behind a stride."""

    def __init__(self, *sizes: int, stride: int = 1):
        super().__init__()
        ndim = len(sizes)
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
        self.first, self.last = conv(1, 2, 3, stride, 1), conv(2, 1, 3, 1, 1)
        self.positions = nn.Parameter(torch.randn(1, 2, *(n // stride for n in sizes)))
        self.stride, self.three = stride, ndim == 3

    def forward(self, x):
        y = self.first(x)
        positions = self.positions[:, :, : y.shape[2], : y.shape[3]]
        if self.three:
            positions = positions[:, :, :, :, : y.shape[4]]
        y = functional.interpolate(y + positions, scale_factor=float(self.stride))
        return self.last(y)


class Rows(nn.Module):
    """A number learned for each row and each column."""

    def __init__(self, rows: int = 144, columns: int = 256):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.rows, self.columns = nn.Embedding(rows, 1), nn.Embedding(columns, 1)

    def forward(self, x):
        y = self.conv(x)
        rows = self.rows(torch.arange(y.shape[2])).t()[None, :, :, None]
        columns = self.columns(torch.arange(y.shape[3])).t()[None, :, None, :]
        return y + rows + columns


class Tokens(nn.Module):
    """A position for each patch: no axis has a largest size by itself."""

    def __init__(self, count: int = 400, patch: int = 8):
        super().__init__()
        self.cut, self.join = nn.Conv2d(1, 4, patch, patch), nn.ConvTranspose2d(4, 1, patch, patch)
        self.positions = nn.Parameter(torch.randn(1, 4, count))

    def forward(self, x):
        y = self.cut(x)
        flat = y.flatten(2)
        return self.join((flat + self.positions[:, :, : flat.shape[2]]).view(y.shape))


class Relative(nn.Module):
    """Attention along x with a bias for each distance, and a mask along y that has an end."""

    def __init__(self, most: int = 120):
        super().__init__()
        self.most = most
        self.conv = nn.Conv2d(1, 2, 4, 4)
        self.bias = nn.Parameter(torch.randn(2 * most - 1))
        self.register_buffer("mask", torch.tril(torch.ones(50, 50)) > 0)
        self.back = nn.ConvTranspose2d(2, 1, 4, 4)

    def forward(self, x):
        y = self.conv(x).permute(0, 2, 3, 1)
        place = torch.arange(y.shape[2])
        bias = self.bias[place[:, None] - place[None] + self.most - 1]
        y = (y @ y.transpose(-1, -2) + bias).softmax(-1) @ y
        y = y.transpose(1, 2)
        mask = self.mask[: y.shape[2], : y.shape[2]]
        y = (y @ y.transpose(-1, -2)).masked_fill(~mask, -1e9).softmax(-1) @ y
        return self.back(y.permute(0, 3, 2, 1))


class Decides(Table):
    """The same, but code reads a number of the image, so that it cannot be asked by shapes."""

    def forward(self, x):
        return super().forward(x / 2 if float(x.abs().max()) > 1e9 else x)


class Mirrored(nn.Module):
    """Mirrors so many pixels at the border: images must be larger."""

    def __init__(self, pad: int = 64):
        super().__init__()
        self.pad, self.conv = nn.ReflectionPad2d(pad), nn.Conv2d(1, 1, 3, dilation=pad)

    def forward(self, x):
        return self.conv(self.pad(x))


class Refusing(nn.Module):
    """Takes multiples of a step from 48 to 208, and says so."""

    def __init__(self, step: int = 16, most: int = 208):
        super().__init__()
        self.step, self.most = step, most
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        for n in x.shape[2:]:
            if n % self.step or not 48 <= n <= self.most:
                raise ValueError(f"{n} is no multiple of {self.step} from 48 to {self.most}")
        return self.conv(x)


def _valid() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 5), *(nn.Conv2d(2, 2, 5) for _ in range(8)), nn.Conv2d(2, 1, 5)
    )


NETWORKS = {
    "table": (lambda: Table(160, 96), [(1, 160), (1, 96)]),
    "table behind a stride": (lambda: Table(512, 192, stride=16), [(16, 512), (16, 192)]),
    "three axes": (lambda: Table(24, 96, 48, stride=2), [(2, 24), (2, 96), (2, 48)]),
    "rows": (Rows, [(1, 144), (1, 256)]),
    "tokens": (Tokens, [(8, 160), (8, 160)]),
    "relative": (Relative, [(4, 200), (4, 480)]),
    "decides": (lambda: Decides(160, 96), [(1, 160), (1, 96)]),
    "mirrored": (Mirrored, [(65, None), (65, None)]),
    "refusing": (Refusing, [(48, 208), (48, 208)]),
    "refusing later": (lambda: Refusing(7, 500), [(49, 497), (49, 497)]),
    "valid": (_valid, [(41, None), (41, None)]),
}


def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name][0]().eval()


@pytest.fixture(scope="module")
def models():
    return {name: as_model(_network(name)) for name in NETWORKS}


def taken(module: nn.Module, lattices, axis: int, alike: bool = False) -> list[int]:
    """All sizes along an axis with which a network runs, with the others at their largest.

    Where positions are those of patches, with all axes alike.
    """
    others = [a.limit or a.size_at_least(72) for a in lattices]
    found = []
    for size in range(1, MOST + 1 if len(lattices) < 3 else 130):
        shape = (*others[:axis], size, *others[axis + 1 :])
        if alike:
            shape = (size,) * len(lattices)
        try:
            with torch.no_grad():
                y = module(torch.zeros(1, 1, *shape))
        except Exception:  # whatever it raises then
            continue
        lattice = lattices[axis]
        if y.shape[axis + 2] == (size - sum(lattice.crop)) * lattice.scale:
            found.append(size)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_are_those_with_which_it_runs(name, models) -> None:
    model = models[name]
    lattices = model.facts.lattice
    assert [(a.size_at_least(1), a.limit) for a in lattices] == NETWORKS[name][1]
    for axis, lattice in enumerate(lattices):
        found = taken(_network(name), lattices, axis)
        assert found == [n for n in range(1, found[-1] + 1) if lattice.accepts(n)]
        assert lattice.limit in (found[-1], None)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_of_auto_never_ends_in_an_error(name, models) -> None:
    for sizes in (
        ((900, 700), (20, 300)) if models[name].facts.spatial_axes == 2 else ((50, 150, 90),)
    ):
        image = np.random.default_rng(0).random(sizes, np.float32)
        assert seamscope.predict(image, models[name], **AS_IT_IS).shape == sizes


def _script(network: nn.Module, path) -> str:
    torch.jit.trace(network, torch.zeros(1, 1, 64, 80)).save(str(path))
    return str(path)


def _program(network: nn.Module, path) -> str:
    free = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    x = torch.zeros(1, 1, 64, 80)
    torch.export.save(torch.export.export(network, (x,), dynamic_shapes=(free,)), str(path))
    return str(path)


def _onnx(network: nn.Module, path) -> str:
    extra("onnx2torch")
    axes = {"x": {2: "h", 3: "w"}, "y": {2: "h", 3: "w"}}
    torch.onnx.export(
        network, (torch.zeros(1, 1, 64, 80),), str(path), input_names=["x"], output_names=["y"],
        dynamic_axes=axes, dynamo=False,
    )  # fmt: skip
    return str(path)


@pytest.mark.parametrize("name", ["table", "table behind a stride", "rows", "tokens", "relative"])
@pytest.mark.parametrize(
    ("write", "end"),
    [(_script, ".pt"), (_program, ".pt2"), (_onnx, ".onnx")],
)
def test_files_have_the_sizes_of_their_network(write, end, name, tmp_path) -> None:
    model = seamscope.load_model(write(_network(name), tmp_path / f"network{end}"))
    lattices = model.facts.lattice
    for axis, lattice in enumerate(lattices):
        found = taken(model.module, lattices, axis, name == "tokens")
        assert found == [n for n in range(1, MOST + 1) if lattice.accepts(n)]
    image = np.random.default_rng(0).random((900, 700), np.float32)
    assert seamscope.predict(image, model, **AS_IT_IS).shape == (900, 700)


def test_the_largest_size_is_named_before_a_run(models) -> None:
    image = np.zeros((900, 700), np.float32)
    with pytest.raises(SettingsError, match="Tile 200 along x: this network takes 96 px at most"):
        seamscope.predict(image, models["table"], tile=(160, 200), **AS_IT_IS)
    with pytest.raises(SettingsError, match="multiples of 16 from 48 up to 208"):
        seamscope.predict(image, models["refusing"], tile=100, **AS_IT_IS)
    plan = seamscope.resolve(seamscope.open_image(image), models["table"], seamscope.Settings())
    assert "Along x the network takes tiles of 96 px at most." in plan.notes


@pytest.mark.parametrize(("tile", "advised"), [((160, 96), False), ((128, 96), True)])
def test_larger_tiles_are_advised_where_there_are_any(tile, advised, models) -> None:
    image = seamscope.open_image(np.zeros((900, 700), np.float32))
    plan = seamscope.resolve(image, models["table"], seamscope.Settings(tile=tile))
    (said,) = [note for note in plan.notes if "no halo removes" in note]
    assert ("larger tiles" in said) == advised


def test_all_commands_keep_to_it() -> None:
    """A measurement that goes beyond the largest size is no error, and no "no halo"."""
    model = as_model(Refusing(1).eval())
    assert model.facts.sizes == "any from 48 up to 208"
    assert model.reach.halo == ((1, 1), (1, 1))
    image = np.random.default_rng(0).random((400, 300), np.float32)
    assert seamscope.certify(image, model, normalize="none", tile=96).passed
    with pytest.raises(SettingsError, match=r"largest size that the network takes .* 208 x 208"):
        seamscope.certify(image, model, normalize="none")
    assert seamscope.diagnose(image, model, normalize="none", tile=96) is not None
    swept = seamscope.sweep(image, model, [64, 96], normalize="none")
    assert any("208 x 208: there is no untiled" in note for note in swept.notes)


def test_sizes_are_told(tmp_path) -> None:
    path = _script(_network("table behind a stride"), tmp_path / "network.pt")
    found = CliRunner().invoke(cli.app, ["info", path, "--json", "-"])
    facts = json.loads(found.stdout)
    assert (facts["tile_smallest"], facts["tile_largest"]) == ([16, 16], [512, 192])
    told = CliRunner().invoke(cli.app, ["info", path]).stdout
    assert "multiples of 16 up to 512 x multiples of 16 up to 192" in told


def test_limits_of_a_lattice() -> None:
    lattice = Lattice(period=8, step=4, smallest=20, largest=100)
    assert [lattice.size_at_least(n) for n in (1, 25, 90, 500)] == [24, 32, 96, 96]
    assert [lattice.size_at_most(n) for n in (23, 24, 99, 500)] == [0, 24, 96, 96]
    assert [n for n in range(200) if lattice.accepts(n)] == list(range(24, 97, 8))
    assert lattice.sizes == "multiples of 8 from 24 up to 96"
    # where none is of whole periods, tiles have the largest size that is taken
    assert Lattice(period=64, largest=40).size_at_least(1) == 40
    grid = TileGrid.regular((900,), 96, 20, lattice=lattice)
    assert math.prod(grid.shape) == len(AxisTiling(900, 96, (20, 20), 0, lattice)) > 1
    with pytest.raises(SettingsError, match="a halo of at most 47"):
        TileGrid.regular((900,), 96, 48, lattice=Lattice(largest=96))


class Late(nn.Module):
    """Refuses many pixels, which no narrow input shows."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        if x[0, 0].numel() > 400_000:
            raise ValueError("too many pixels")
        return self.conv(x)


def test_a_tile_that_is_refused_late_is_made_smaller() -> None:
    network = Late().eval()
    image = np.random.default_rng(0).random((900, 700), np.float32)
    expected = network.conv(torch.from_numpy(image)[None, None])[0, 0].detach().numpy()
    found = seamscope.predict(image, network, **AS_IT_IS)
    assert np.abs(found - expected).max() < 1e-6
    assert seamscope.measure_seams(image, network, normalize="none") is not None
    with pytest.raises(ModelError, match="too many pixels"):
        seamscope.predict(image, network, tile=(900, 700), **AS_IT_IS)


class Casting(nn.Conv2d):
    def forward(self, x):
        return super().forward(x.double()).float()


def test_casts_in_code_are_named() -> None:
    model = as_model(Casting(1, 1, 3, padding=1).eval())
    model.hints = dataclasses.replace(model.hints, spatial_axes=2, in_channels=1)
    with pytest.raises(ModelError, match="Its code casts numbers to another type"):
        _ = model.facts
