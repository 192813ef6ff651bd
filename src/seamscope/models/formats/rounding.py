"""When two ways of computing a network are the same, and when they are not.

Knows the rounding of float32, measured on the network itself. Does not know formats.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from seamscope.models.single import single_tensor

_SAME = 1e-4  # of the prediction's standard deviation
_WAYS = 4  # another order of summation rounds differently, about as much


def agree(module: nn.Module, x: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether a prediction is the network's own, up to the rounding of float32.

    A fixed tolerance would be wrong for networks whose layers cancel large numbers: one of the
    shared networks differs by 2.5e-4 of its standard deviation from itself in float64. So the
    prediction may be four times as far from that as the network's own, or `_SAME`.

    Parameters
    ----------
    module
        The network.
    x
        What it predicts, float32.
    other
        The prediction in question, of the same shape.
    """
    with torch.no_grad():
        own = single_tensor(module(x)).double().cpu()
        exact = _in_double(module, x, own)
    if own.shape != other.shape:
        return False
    spread = float(own.std()) or 1.0
    noise = float((own - exact).abs().max())
    return float((other.double().cpu() - exact).abs().max()) <= _SAME * spread + _WAYS * noise


def _in_double(module: nn.Module, x: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    try:
        return single_tensor(copy.deepcopy(module).double()(x.double())).cpu()
    except Exception:  # sessions and scripts with constants of their own know float32 alone
        return own


def several(output: object) -> tuple[torch.Tensor, ...]:
    """Outputs of a network as a tuple."""
    if isinstance(output, torch.Tensor):
        return (output,)
    assert isinstance(output, (tuple, list))
    return tuple(output)


__all__ = ["agree", "several"]
