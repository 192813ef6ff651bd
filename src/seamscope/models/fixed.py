"""Run a network with fixed statistics instead of those of the current tile.

Knows how a layer that uses per-tile statistics is replaced by one that does not. Does not know
where statistics come from.

Where a layer is one of torch's own and runs once in a forward pass, a copy of the network gets a
BatchNorm with these statistics in its place: in evaluation that is the same computation, and it can
be folded into the convolution before it. In TorchScript and exported programs the same is done in
their graph (`seamscope.models.fixed_graph`). Everything else, what is written by hand, TorchScript
with loops and branches, statistics that depend on the place, is answered while the network runs.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from seamscope.models.fixed_graph import fix_in_graph
from seamscope.models.single import single_tensor
from seamscope.models.speed.fusion import quiet_torchscript
from seamscope.normalization.audit import Audit
from seamscope.normalization.calls import Call, Moments, Normalizations
from seamscope.normalization.layer_names import network_in, program_in
from seamscope.normalization.statistics import LayerStatistics, Statistics

# Standard deviations of the output. Statistics at the wrong place in a graph make 1e-2 and more.
_SAME = 1e-5

_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.InstanceNorm2d: nn.BatchNorm2d,
    nn.InstanceNorm3d: nn.BatchNorm3d,
    nn.BatchNorm2d: nn.BatchNorm2d,
    nn.BatchNorm3d: nn.BatchNorm3d,
}


def with_fixed_statistics(
    module: nn.Module,
    statistics: Statistics,
    audit: Audit,
    axes: int,
    examples: Sequence[torch.Tensor],
) -> nn.Module:
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
    examples
        Inputs of accepted sizes, on which rewriting is put to the test.
    """
    layers = {layer.call: layer for layer in statistics.layers}
    program = program_in(module)
    if program is not None:
        answered = Answered(module, statistics, set(layers))
        return _written(module, program[0], answered, examples) if statistics.uniform else answered
    with quiet_torchscript():
        twin = copy.deepcopy(module)
    network = network_in(twin)  # names of layers are those in it
    names = Counter(layer.name for layer in audit.layers)
    # a layer that is held under two names would be replaced under one of them only
    held = Counter(id(part) for _, part in twin.named_modules(remove_duplicate=False))
    axes_of = _axes_of_group_norms(twin, examples[0][:1])
    for layer in audit.layers:
        call = layer.calls[0]
        if layer.name is None or names[layer.name] > 1 or call not in layers:
            continue
        part = network.get_submodule(layer.name)
        replaced = _as_batch_norm(part, layers[call], axes_of.get(id(part), axes))
        hooked = part._forward_hooks or part._forward_pre_hooks
        if replaced is not None and not hooked and held[id(part)] == 1:
            _put(network, layer.name, replaced)
            del layers[call]
    return Answered(twin, statistics, set(layers)) if layers else twin.eval()


def _written(
    module: nn.Module, program: str, answered: Answered, examples: Sequence[torch.Tensor]
) -> nn.Module:
    """The network with statistics in its graph, if it then gives what it does when answered."""
    layers = {layer.call: layer for layer in answered.statistics.layers}
    # Writing graphs meets other people's networks and other versions of torch: whatever goes wrong
    # is a reason to answer the network, and none to fail.
    try:
        graph = fix_in_graph(module, program, layers, examples[0][:1])
        alone = [x[:1] for x in examples]
        several = [x for x in examples if len(x) > 1 and _runs(answered, x)]
        same = all(_agree(graph, answered, x) for x in (*alone, *several))
    except Exception:
        return answered
    return graph if same else answered


def _runs(network: nn.Module, x: torch.Tensor) -> bool:
    """Whether a network takes such a batch: programs may be made for one sample only."""
    try:
        network(x)
    except Exception:
        return False
    return True


def _agree(one: nn.Module, other: nn.Module, x: torch.Tensor) -> bool:
    with torch.no_grad():
        y, expected = single_tensor(one(x)), single_tensor(other(x))
    return y.shape == expected.shape and bool((y - expected).abs().max() <= _SAME * expected.std())


def _put(network: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, part)


def _axes_of_group_norms(network: nn.Module, x: torch.Tensor) -> dict[int, int]:
    """Axes behind the channels of what each is given, by its address; space may be flattened."""
    axes: dict[int, int] = {}

    def note(part: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if given:
            axes[id(part)] = given[0].ndim - 2

    parts = [part for part in network.modules() if type(part) is nn.GroupNorm]
    hooks = [part.register_forward_pre_hook(note) for part in parts]
    if hooks:
        with torch.no_grad():
            network(x.clone())
    for hook in hooks:
        hook.remove()
    return axes


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
    """Wrap a network so that its normalization layers use fixed statistics while it runs.

    Parameters
    ----------
    network
        As it is, in evaluation mode.
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
        self._batches: bool | None = None
        self.training = False  # and no eval(): exported programs refuse to be asked

    def at(self, places: Sequence[Sequence[int]] | None) -> None:
        """Say where the samples of the next batch begin in the image; None: nowhere."""
        self._places = None if self.statistics.uniform else places

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network."""
        places = self._places
        if len(x) == 1 or self._takes_batches(x):
            return self._run(x, places)
        # it runs sample by sample, and counts its calls from 0 again with each
        each = [None if places is None else [place] for place in places or x]
        return torch.cat([self._run(x[k : k + 1], place) for k, place in enumerate(each)])

    def _takes_batches(self, x: torch.Tensor) -> bool:
        """Whether a batch goes through the network at once, and makes the calls of one sample."""
        if self._batches is None:
            one, two = (self._calls_on(part) for part in (x[:1], x[:2]))
            self._batches = [(2, *of_one[1:]) for of_one in one] == two
        return self._batches

    def _calls_on(self, x: torch.Tensor) -> list[tuple[int, str, int]]:
        seen: list[tuple[int, str, int]] = []

        def note(call: Call) -> None:
            seen.append((len(call.features), call.kind, call.channels))

        Normalizations(note).run(self.network, x)
        return seen

    def _run(self, x: torch.Tensor, places: Sequence[Sequence[int]] | None) -> torch.Tensor:
        def answer(call: Call) -> Moments | None:
            if call.number not in self._calls:
                return None
            return self.statistics.answer(call, places)

        return single_tensor(Normalizations(answer).run(self.network, x))
