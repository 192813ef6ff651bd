"""Gradients of a network of any format, and the memory that they take.

Knows how to differentiate a network. Does not know images, or what gradients mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from seamscope.errors import ModelError, SeamscopeError, SettingsError
from seamscope.models.model import Model
from seamscope.models.reach import MemoryMeter
from seamscope.planning.tuning import is_memory_error

Forward: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

# Sides of the two tiles whose memory is measured.
_MEASURED = {1: (256, 1024), 2: (32, 64), 3: (16, 24)}


def absolute_gradient(
    forward: Forward, x: torch.Tensor, at: Sequence[int], channel: int | None = None
) -> torch.Tensor:
    """Differentiate one output pixel of each tile with respect to its whole input.

    Parameters
    ----------
    forward
        ``(N, C, *spatial)`` tensor to ``(N, C', *spatial')`` tensor; tiles of a batch must not
        influence each other.
    x
        The tiles.
    at
        Output pixel, one index per axis.
    channel
        Output channel; None for the sum over all of them, each by its own absolute value.

    Returns
    -------
    tensor
        ``(N, *spatial)``: ``sum_c sum_k |d y[c, at] / d x[k]|``, never negative.

    Raises
    ------
    ModelError
        Where the network's format gives no gradients.
    """
    with torch.inference_mode(False), torch.enable_grad():
        tiles = x.detach().clone().requires_grad_()
        y = _differentiable(forward, tiles)
        channels = range(y.shape[1]) if channel is None else [_checked(channel, y.shape[1])]
        total = torch.zeros_like(tiles[:, 0])
        for c in channels:
            pixel: tuple[Any, ...] = (slice(None), c, *at)
            value = y[pixel].sum()
            (gradient,) = torch.autograd.grad(
                value, tiles, retain_graph=c != channels[-1], allow_unused=True
            )
            if gradient is not None:
                total += gradient.abs().sum(1)
    return total.detach()


def _differentiable(forward: Forward, tiles: torch.Tensor) -> torch.Tensor:
    try:
        y = forward(tiles)
    except SeamscopeError:
        raise
    except Exception as error:
        if is_memory_error(error):
            raise
        raise ModelError(_no_gradients(f"{type(error).__name__}: {_last_line(error)}")) from error
    if not y.requires_grad:
        raise ModelError(_no_gradients("it computes outside of PyTorch's autograd"))
    return y


def _no_gradients(why: str) -> str:
    return (
        f"This network gives no gradients ({why}), so that its effective receptive field cannot "
        "be measured: use its theoretical one, or load it from PyTorch weights."
    )


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:200].rstrip(".") if lines else "no message"


def _checked(channel: int, count: int) -> int:
    if not 0 <= channel < count:
        raise SettingsError(
            f"Output channel {channel}: the network predicts {count}, counted from 0; choose one "
            "of them, or none for all together."
        )
    return channel


@dataclass(frozen=True)
class GradientMemory:
    """Memory that gradients of one tile take, as extrapolated from two measured sizes.

    Attributes
    ----------
    linear, square
        Bytes for each pixel, as of convolutions, and for each pair of pixels, as of attention.
    """

    linear: float
    square: float = 0.0

    def of(self, pixels: int) -> int:
        """Bytes for a tile of so many pixels."""
        return int(self.linear * pixels + self.square * pixels**2)

    @classmethod
    def measure(cls, model: Model) -> GradientMemory:
        """Run and differentiate two small tiles."""
        lattices = model.facts.lattice
        shapes = [
            tuple(lattice.size_at_least(n) for lattice in lattices)
            for n in _MEASURED[len(lattices)]
        ]
        (few, small), (many, large) = ((math.prod(s), _peak(model, s)) for s in shapes)
        square = (large / many - small / few) / (many - few) if many > few else 0.0
        return cls(large / many - max(0.0, square) * many, max(0.0, square))


def _peak(model: Model, shape: tuple[int, ...]) -> int:
    """Bytes that gradients of a tile take at most at one time."""
    x = torch.randn(1, model.facts.in_channels, *shape, device=_device(model))
    with torch.no_grad():
        at = tuple(n // 2 for n in model.run_plain(x).shape[2:])
    meter = MemoryMeter()
    with meter:
        absolute_gradient(model.run_plain, x, at, 0)
    return meter.peak


def _device(model: Model) -> torch.device:
    tensor = next(model.module.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device


__all__ = ["GradientMemory", "absolute_gradient"]
