"""A network whose layers are answered by fixed statistics.

Knows how a layer that normalizes by its tile becomes one that does not. Does not know where
statistics come from.

Where a layer is one of torch's own and runs once in a forward pass, a copy of the network gets a
BatchNorm with these statistics in its place: in evaluation that is the same computation, and it can
be folded into the convolution before it. Everything else, TorchScript, exported programs, what is
written by hand, statistics that depend on the place, is answered while the network runs.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from seamscope.models.fusion import quiet_torchscript
from seamscope.normalization.audit import Audit
from seamscope.normalization.calls import Call, Moments, Normalizations
from seamscope.normalization.statistics import LayerStatistics, Statistics

_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.InstanceNorm2d: nn.BatchNorm2d,
    nn.InstanceNorm3d: nn.BatchNorm3d,
    nn.BatchNorm2d: nn.BatchNorm2d,
    nn.BatchNorm3d: nn.BatchNorm3d,
}


def frozen(module: nn.Module, statistics: Statistics, audit: Audit, axes: int) -> nn.Module:
    """Return a network that uses these statistics; the given one is not changed.

    Parameters
    ----------
    module
        In evaluation mode.
    statistics
        Of this network.
    audit
        Of this network.
    axes
        Spatial axes.
    """
    layers = {layer.call: layer for layer in statistics.layers}
    if isinstance(module, (torch.jit.ScriptModule, fx.GraphModule)):
        return Answered(module, statistics, set(layers))
    with quiet_torchscript():
        twin = copy.deepcopy(module)
    names = Counter(layer.name for layer in audit.layers)
    # a layer that is held under two names would be replaced under one of them only
    held = Counter(id(part) for _, part in twin.named_modules(remove_duplicate=False))
    for layer in audit.layers:
        call = layer.calls[0]
        if layer.name is None or names[layer.name] > 1 or call not in layers:
            continue
        part = twin.get_submodule(layer.name)
        replaced = _as_batch_norm(part, layers[call], axes)
        hooked = part._forward_hooks or part._forward_pre_hooks
        if replaced is not None and not hooked and held[id(part)] == 1:
            _put(twin, layer.name, replaced)
            del layers[call]
    return Answered(twin, statistics, set(layers)) if layers else twin.eval()


def _put(network: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, part)


def _as_batch_norm(part: Any, layer: LayerStatistics, axes: int) -> nn.Module | None:
    """Return a BatchNorm that does the same; None where there is none."""
    if not layer.uniform or part.training:
        return None
    kind = _NORMS.get(type(part))
    if type(part) is nn.GroupNorm and axes in (2, 3):
        kind = (nn.BatchNorm2d, nn.BatchNorm3d)[axes - 2]
    if kind is None:
        return None
    channels = part.num_channels if isinstance(part, nn.GroupNorm) else part.num_features
    made: Any = kind(channels, eps=part.eps, affine=part.weight is not None)
    share = channels // layer.mean.shape[0]
    for buffer, values in ((made.running_mean, layer.mean), (made.running_var, layer.var)):
        buffer.copy_(torch.from_numpy(values.reshape(-1).repeat(share)))
    if part.weight is not None:
        made.weight, made.bias = part.weight, part.bias
        made.to(part.weight.device)
    return made.eval() if part.weight is None or part.bias is not None else None


class Answered(nn.Module):
    """A network whose calls are answered while it runs.

    Parameters
    ----------
    network
        As it is.
    statistics
        What answers.
    calls
        Which calls.
    """

    def __init__(self, network: nn.Module, statistics: Statistics, calls: set[int]) -> None:
        super().__init__()
        self.network = network
        self.statistics = statistics
        self._calls = calls
        self._places: Sequence[Sequence[int]] | None = None
        self.eval()

    def at(self, places: Sequence[Sequence[int]] | None) -> None:
        """Say where the samples of the next batch begin in the image; None: nowhere."""
        self._places = None if self.statistics.uniform else places

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network."""
        return Normalizations(self._answer).run(self.network, x)

    def _answer(self, call: Call) -> Moments | None:
        if call.number not in self._calls:
            return None
        return self.statistics.answer(call, self._places)
