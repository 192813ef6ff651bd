"""What a user states of a network at the command line: each option does what it says."""

from __future__ import annotations

import json
import textwrap

import numpy as np
import pytest
import torch
import typer.testing
from safetensors.torch import save_file

from seamscope import cli
from seamscope.cli.command import ExitCode

NETWORKS = """
import torch
from torch import nn
from torch.nn import functional as F

C = nn.Conv2d


class OneSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = C(1, 2, 3, padding=1)

    def forward(self, x):
        if tuple(x.shape[2:]) != (52, 76):
            raise ValueError("another size, please")
        return self.a(x)


class ManyBands(nn.Module):
    def forward(self, x):
        if x.shape[1] != 20:
            raise ValueError("other bands, please")
        return x.mean(1, keepdim=True) * 2


class AnySpace(nn.Module):
    def forward(self, x):
        return torch.relu(x)


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = C(1, 4, 3, padding=1)

    def forward(self, x):
        return F.dropout(self.a(x), 0.5, training=True)


def never_measured():
    return nn.Sequential(C(1, 5, 3, padding=1), nn.ReLU(), C(5, 2, 1))


def plain():
    return nn.Sequential(C(1, 4, 3, padding=1), nn.ReLU(), C(4, 2, 1))
"""


@pytest.fixture(scope="module")
def networks_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("networks") / "stated.py"
    file.write_text(textwrap.dedent(NETWORKS))
    return file


def run(*arguments):
    torch.manual_seed(0)
    return typer.testing.CliRunner().invoke(cli.app, [*map(str, arguments), "--trust"])


def facts(*arguments):
    result = run("info", *arguments, "--json", "-")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refusal(*arguments):
    result = run("info", *arguments)
    assert result.exit_code == ExitCode.REFUSED
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


def test_input_size(networks_file) -> None:
    network = f"{networks_file}:OneSize"
    said = refusal(network)
    assert "another size, please" in said
    assert "--input-size" in said
    assert facts(network, "--input-size", "52,76")["tile_fixed"] == [52, 76]


def test_the_tile_is_the_size_of_a_network_that_takes_no_other(networks_file, tmp_path) -> None:
    image, out = tmp_path / "image.npy", tmp_path / "out.npy"
    np.save(image, np.random.default_rng(0).random((52, 140), np.float32))
    network = f"{networks_file}:OneSize"
    result = run("predict", image, network, out, "--tile", "52,76", "--overwrite")
    assert result.exit_code == 0, result.stderr
    assert np.load(out).shape == (2, 52, 140)
    assert run("predict", image, network, out, "--overwrite").exit_code == ExitCode.REFUSED


def test_channels(networks_file) -> None:
    network = f"{networks_file}:ManyBands"
    assert "other bands, please" in refusal(network)
    assert facts(network, "--channels", 20)["in_channels"] == 20


def test_spatial_axes(networks_file) -> None:
    network = f"{networks_file}:AnySpace"
    assert facts(network)["spatial_axes"] == 2
    assert facts(network, "--spatial-axes", 3)["spatial_axes"] == 3


def test_step(networks_file) -> None:
    network = f"{networks_file}:plain"
    assert facts(network)["period"] == [1, 1]
    assert facts(network, "--step", 12)["period"] == [12, 12]
    assert facts(network, "--step", "12,20")["tile_step"] == [12, 20]


def test_kind(networks_file) -> None:
    network = f"{networks_file}:plain"
    assert facts(network)["kind"] == "logits"
    assert facts(network, "--kind", "values")["kind"] == "values"


def test_no_dropout(networks_file) -> None:
    network = f"{networks_file}:Dropping"
    assert facts(network)["noise"] > 0.1
    assert facts(network, "--no-dropout")["noise"] == 0


def test_ignore_extra(networks_file, tmp_path) -> None:
    weights = tmp_path / "weights.safetensors"
    own = {"0.weight": torch.randn(4, 1, 3, 3), "0.bias": torch.randn(4)}
    own |= {"2.weight": torch.randn(2, 4, 1, 1), "2.bias": torch.randn(2)}
    save_file(own | {"aux_head.weight": torch.zeros(3)}, weights)
    network = f"{networks_file}:plain@{weights}"
    said = refusal(network)
    assert "aux_head.weight" in said
    assert "--ignore-extra" in said
    assert facts(network, "--ignore-extra")["out_channels"] == 2


def test_no_patience_is_said_in_a_sentence(networks_file) -> None:
    assert "raise --patience" in refusal(f"{networks_file}:never_measured", "--patience", 0)
