"""What is said of a network that runs on no input: which statement is wrong, or missing, and soon.

Forward passes are counted: a wrong statement leaves nothing to search for.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seamscope.errors import ModelError
from seamscope.models.input_search import Hints, InputSearch
from seamscope.models.trials import Trials


class Patches(nn.Module):
    """Takes one size, and says which before its first convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.grow = nn.Conv2d(3, 4, 16, 16), nn.ConvTranspose2d(4, 2, 16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2:] != (96, 96):
            raise ValueError(f"input of {tuple(x.shape[2:])} does not match the (96, 96) taken")
        return self.grow(self.cut(x))


class InSlices(nn.Module):
    """3D layers, and learned positions for 32 px, behind a 2D convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 8, 8))
        self.first, self.cut = nn.Conv2d(1, 4, 3, padding=1), nn.Conv3d(4, 8, 16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 5:
            self.first(x[:, :, 0])
            raise ValueError("no stack")
        return self.first(x)


def refused(network: nn.Module, **stated) -> tuple[str, int]:
    """What is said, and after how many forward passes."""
    runs = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        runs.append(x.shape)
        return network(x)

    weights = tuple(tuple(one.shape) for one in network.parameters() if one.ndim > 1)
    with torch.no_grad(), pytest.raises(ModelError) as said:
        InputSearch(Trials(forward, patience=3600.0), Hints(weights=weights, **stated)).find()
    return str(said.value), len(runs)


@pytest.mark.parametrize(
    ("network", "stated", "says"),
    [
        (nn.Conv2d(13, 2, 3, padding=1), {"in_channels": 12}, "12 input channels were stated"),
        (nn.Conv3d(2, 2, 3, padding=1), {"in_channels": 1}, "(`channels`): state 2, or none"),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 1)),
            {"in_channels": 4, "spatial_axes": 2},
            "(`channels`): state 1, or none",
        ),
        (
            nn.Conv2d(1, 2, 3, padding=1),
            {"in_channels": 2, "spatial_axes": 3},
            "3 spatial axes were stated (`spatial_axes`), and its convolutions have 2: state 2",
        ),
        (
            nn.Conv3d(1, 2, 3, padding=1),
            {"in_channels": 3, "spatial_axes": 2},
            "2 spatial axes were stated (`spatial_axes`), and its convolutions have 3: state 3",
        ),
        (Patches(), {"in_channels": 3, "spatial_axes": 3}, "have 2: state 2, or none"),
        (InSlices(), {"in_channels": 1, "spatial_axes": 3}, "have 2: state 2, or none"),
    ],
)
def test_a_wrong_statement_is_named_soon(network, stated, says) -> None:
    said, runs = refused(network, **stated)
    assert says in said
    assert runs < 200


def test_what_the_network_answers_is_said_where_time_is_over() -> None:
    now = [0.0]

    def forward(x: torch.Tensor) -> torch.Tensor:
        now[0] += 10.0
        raise ValueError("only inputs of the third kind")

    with pytest.raises(ModelError, match=r"within the time given.*only inputs of the third kind"):
        InputSearch(Trials(forward, patience=65.0, clock=lambda: now[0]), Hints()).find()
