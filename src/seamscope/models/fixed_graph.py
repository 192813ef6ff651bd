"""A network as a graph, in which normalizations by fixed statistics are batch normalizations.

Knows which nodes of a graph make which calls, and what takes their place. Does not know files or
tiles.

TorchScript and exported programs have no modules to be replaced, but both can be written as one
kind of graph (`seamscope.models.speed.fusion`). There a normalization by constant mean and variance
becomes ``aten.batch_norm`` in evaluation, which can be folded into the convolution before it.
Writing a graph may fold or drop operations, so calls are matched by what they are, one by one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from seamscope.models.speed.fusion import graph_of, quiet_torchscript
from seamscope.normalization.calls import Call, Normalizations, bound
from seamscope.normalization.statistics import LayerStatistics

aten = torch.ops.aten


class NotWritten(Exception):  # noqa: N818  (not an error: the network is answered while it runs)
    """Why a network's statistics cannot be fixed in its graph, in a few words."""


def fix_in_graph(
    network: nn.Module, path: str, layers: Mapping[int, LayerStatistics], x: torch.Tensor
) -> nn.Module:
    """Return a copy of the network in whose graph these statistics are fixed.

    Parameters
    ----------
    network
        In evaluation mode; it is not changed.
    path
        Of the program in it (see `seamscope.normalization.layer_names.program_in`).
    layers
        Uniform statistics by call, all that are to be fixed.
    x
        One sample of an accepted size.

    Raises
    ------
    NotWritten
        Where a layer is none that batch normalization can stand for.
    Exception
        Whatever a graph that cannot be written raises.
    """
    with quiet_torchscript():
        twin = copy.deepcopy(network)
    program = twin.get_submodule(path) if path else twin  # TorchScript has no such method
    if isinstance(program, fx.GraphModule):
        graph = program  # with its checks of sizes
    else:
        graph = copy.deepcopy(graph_of(program, exactly=True))
    own, written = _Noting(), _Noting()
    own.run(network, x)
    written.run(_with(twin, path, _Watched(graph, written)), x)
    if list(own.seen.values()) != list(written.seen.values()):
        raise NotWritten("the graph normalizes other features than the network")
    nodes = dict(zip(own.seen, written.nodes, strict=True))
    if not set(layers) <= set(nodes):
        raise NotWritten("something outside of the graph normalizes too")
    for number, layer in layers.items():
        channels = own.seen[number][1]
        _fix(graph, nodes[number], layer, channels)
    graph.graph.lint()
    graph.recompile()
    graph.training = False  # and no eval(): exported programs refuse to be asked
    return _with(twin, path, graph)


def _with(network: nn.Module, path: str, part: nn.Module) -> nn.Module:
    """The network with another part at a place, by whose name it is called."""
    if not path:
        return part
    parent, _, own = path.rpartition(".")
    setattr(network.get_submodule(parent), own, part)
    return network


class _Noting(Normalizations):
    """Lists the calls that use the input's own statistics, by number, and what makes them."""

    def __init__(self) -> None:
        super().__init__(self._note)
        self.seen: dict[int, tuple[Any, ...]] = {}
        self.nodes: list[fx.Node] = []
        self.node: fx.Node | None = None

    def _note(self, call: Call) -> None:
        if call.running is None:
            self.seen[call.number] = call.kind, call.channels, call.groups, call.space
            if self.node is not None:
                self.nodes.append(self.node)


class _Watched(nn.Module):
    """Runs a graph node by node, and says which one runs."""

    def __init__(self, graph: fx.GraphModule, noting: _Noting) -> None:
        super().__init__()
        self._runner = _NodeByNode(graph)
        self._runner.noting = noting

    def forward(self, *args: Any) -> Any:
        """Run the graph."""
        return self._runner.run(*args)


class _NodeByNode(fx.Interpreter):
    noting: _Noting

    def run_node(self, n: fx.Node) -> Any:
        self.noting.node = n
        return super().run_node(n)


# What normalizes features ``(N, C, *spatial)`` and takes input, weight, bias and eps.
_SIMPLE = (aten.instance_norm.default, aten.batch_norm.default, aten.group_norm.default)
_FIRST_OF_SEVERAL = (
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit.no_stats,
    aten.native_group_norm.default,
)


def _fix(graph: fx.GraphModule, node: fx.Node, layer: LayerStatistics, channels: int) -> None:
    """Put a batch normalization in evaluation in the place of one by the input's statistics."""
    if node.target not in (*_SIMPLE, *_FIRST_OF_SEVERAL) or not layer.uniform:
        raise NotWritten(f"{node.target} is no normalization that can be replaced")
    given = bound(node.target, node.args, dict(node.kwargs))
    with graph.graph.inserting_before(node):
        share = channels // len(layer.mean)
        held = [
            _constant(graph, f"fixed_{name}_{layer.call}", values.reshape(-1).repeat(share))
            for name, values in (("mean", layer.mean), ("var", layer.var))
        ]
        arguments = given["input"], given["weight"], given["bias"], *held
        fixed = graph.graph.call_function(
            aten.batch_norm.default, (*arguments, False, 0.0, given["eps"], False)
        )
    taken = list(node.users) if node.target in _FIRST_OF_SEVERAL else [node]
    if any(one is not node and one.args[1:] != (0,) for one in taken):
        raise NotWritten("what it returns besides is used")
    for one in taken:
        one.replace_all_uses_with(fixed)
        graph.graph.erase_node(one)
    if taken != [node]:
        graph.graph.erase_node(node)


def _constant(graph: fx.GraphModule, name: str, values: Any) -> fx.Node:
    """Hold numbers as a buffer, one for each channel."""
    graph.register_buffer(name, torch.from_numpy(values).float())
    return graph.graph.get_attr(name)
