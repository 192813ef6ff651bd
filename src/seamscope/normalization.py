"""Which operations of a forward pass take statistics over space, and fixing those statistics.

Knows ATen calls, seen through a dispatch mode: the same for eager modules, TorchScript and
exported programs. Does not know tiles' geometry, files or layers' names.

A normalization that takes mean and variance from the tile it sees couples every pixel to the
whole tile, so that no halo makes tiles agree. Here such calls are found, and replaced by the same
call with statistics that no longer depend on the input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

Forward = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class StatisticsCall:
    """One normalization of a forward pass that uses statistics of its own input.

    Attributes
    ----------
    kind
        ``"instance or batch"`` (they reach ATen as the same call) or ``"group"``.
    channels
        Number of channels normalised.
    """

    kind: str
    channels: int


@dataclass
class _Moments:
    """Mean and variance, one per channel or group, float32."""

    mean: torch.Tensor
    var: torch.Tensor


class FixedStatistics(TorchDispatchMode):
    """Within this context normalizations keep the statistics of the first forward pass.

    The first `forward` records mean and variance of every call that would take them from its
    input; later ones use the recorded values, in order. What remains is a network of finite reach
    (unless something else couples pixels, such as attention).

    Examples
    --------
    >>> net = torch.nn.InstanceNorm2d(1).eval()
    >>> fixed = FixedStatistics(net)
    >>> x = torch.randn(1, 1, 8, 8)
    >>> bool(torch.allclose(fixed(x), net(x), atol=1e-6))
    True
    >>> bool(torch.allclose(fixed(x + 1), net(x + 1), atol=1e-2))
    False
    """

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self._forward = forward
        self._moments: list[_Moments] = []
        self.calls: list[StatisticsCall] = []
        self._next = 0
        self._recorded = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network once: recording the first time, with what was recorded afterwards."""
        self._next = 0
        # Under inference_mode composite calls arrive whole and no normalization would be seen.
        with torch.inference_mode(False), torch.no_grad(), self:
            y = self._forward(x)
        self._recorded = True
        return y

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        handler = _HANDLERS.get(func)
        return handler(self, args) if handler and not kwargs else func(*args, **(kwargs or {}))

    def moments(self, kind: str, x: torch.Tensor, groups: int) -> _Moments:
        """Statistics for the call at hand over ``(groups, everything else)``."""
        if not self._recorded:
            flat = x.reshape(groups, -1)
            self._moments.append(_Moments(flat.mean(1), flat.var(1, correction=0)))
            self.calls.append(StatisticsCall(kind, x.shape[1] if kind == "group" else groups))
        found = self._moments[self._next]
        self._next += 1
        return found


def _batch_norm(mode: FixedStatistics, args: tuple[Any, ...]) -> Any:
    """``native_batch_norm(x, weight, bias, mean, var, training, momentum, eps)``."""
    x, weight, bias, _, _, training, momentum, eps = args
    if not training:
        return aten.native_batch_norm.default(*args)
    channels = x.shape[1]
    m = mode.moments("instance or batch", x.transpose(0, 1), channels)
    return aten.native_batch_norm.default(x, weight, bias, m.mean, m.var, False, momentum, eps)


def _batch_norm_without_running(mode: FixedStatistics, args: tuple[Any, ...]) -> Any:
    x, weight, bias, training, momentum, eps = args
    return _batch_norm(mode, (x, weight, bias, None, None, training, momentum, eps))


def _group_norm(mode: FixedStatistics, args: tuple[Any, ...]) -> Any:
    """``native_group_norm(x, weight, bias, N, C, HxW, groups, eps)``."""
    x, weight, bias, n, _, _, groups, eps = args
    m = mode.moments("group", x, n * groups)
    rstd = (m.var + eps).rsqrt()
    flat = x.reshape(n * groups, -1)
    y = ((flat - m.mean[:, None]) * rstd[:, None]).reshape(x.shape)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    if weight is not None:
        y = y * weight.view(shape)
    if bias is not None:
        y = y + bias.view(shape)
    return y, m.mean.view(n, groups), rstd.view(n, groups)


_HANDLERS: dict[Any, Callable[[FixedStatistics, tuple[Any, ...]], Any]] = {
    aten.native_batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit.default: _batch_norm,
    aten._native_batch_norm_legit.no_stats: _batch_norm_without_running,
    aten.native_group_norm.default: _group_norm,
}
