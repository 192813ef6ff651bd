"""Knows how to rewrite the graph of a network so that it runs faster and computes the same.

Eager modules, TorchScript and exported programs become one kind of graph, in which

- batch normalization in evaluation is folded into the convolution before it,
- the activation is computed while the convolution's result is still in the registers, or at
  least in place,
- on the CPU, convolutions are oneDNN's, with weights packed once instead of at every call; torch
  itself falls back to a slow algorithm for small volumes,
- instance and group normalization read channels last without a copy.

What it does not know stays as it is. Does not know which rewriting pays, or tiles.
"""

from __future__ import annotations

import io
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx, nn

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""The layout with the channels of a pixel side by side, by number of dimensions."""


class NoGraph(Exception):  # noqa: N818  (not an error: a sentence in the table of trials)
    """Why a network cannot be written as a graph, in a few words."""


@runtime_checkable
class HasGraph(Protocol):
    """A module that is a graph already, and cannot be traced for another reason.

    Attributes
    ----------
    graph_batch
        Samples that its graph takes; None for any number.
    """

    graph_batch: int | None

    def as_graph(self) -> fx.GraphModule:
        """Return its graph, one tensor in and one out."""
        ...


def fused(module: nn.Module) -> fx.GraphModule:
    """Rewrite a network's graph; it computes the same up to the rounding of float32.

    Parameters
    ----------
    module
        The network, in evaluation; eager, TorchScript or exported. It is not modified. What
        decides by the values of its input cannot be written as a graph and raises.

    Returns
    -------
    torch.fx.GraphModule
        Takes any memory layout, fastest with channels last.

    Notes
    -----
    A convolution absorbs what follows it only if nothing else reads its output. Each call of a
    convolution gets weights of its own, so one that is shared by several places may be followed
    by different things in each. Batch normalization with statistics of the batch is never folded.
    """
    graph_module = graph_of(module)
    with torch.no_grad():
        _Fusion(graph_module).apply()
    graph_module.graph.lint()  # code that seems dead stays: it may change its input in place
    graph_module.recompile()
    return graph_module


def graph_of(module: nn.Module, *, exactly: bool = False) -> fx.GraphModule:
    """Write a network as a graph; TorchScript becomes calls of ATen.

    Unless it is to be written `exactly`, torch may fold operations of TorchScript into
    convolutions, which rounds otherwise.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return _graph_of_script(frozen(module, fold=not exactly))
    if isinstance(module, HasGraph):
        return module.as_graph()
    if isinstance(module, fx.GraphModule) and _checks_sizes(module):
        return without_checks(module)
    return fx.GraphModule(module, fx.Tracer().trace(module))


def _checks_sizes(module: fx.GraphModule) -> bool:
    return bool(module.graph.find_nodes(op="call_module", target="_guards_fn"))


def without_checks(module: fx.GraphModule) -> fx.GraphModule:
    """Return an exported program without its checks of sizes, which cannot be traced.

    One tensor in, one out; what is made of it is compared with the checked one.
    """
    graph = fx.Graph()  # takes plain arguments, where the program's takes trees of them
    outputs: Any = graph.graph_copy(module.graph, {})
    graph.output(
        outputs[0] if isinstance(outputs, (tuple, list)) and len(outputs) == 1 else outputs
    )
    for node in graph.find_nodes(op="call_module", target="_guards_fn"):
        graph.erase_node(node)
    return fx.GraphModule(module, graph)


@dataclass
class _Convolution:
    """One call of a convolution, and what it has absorbed so far."""

    source: fx.Node
    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    activation: _Activation | None = None

    def absorb(self, norm: _Affine) -> None:
        """Fold ``x -> x * factor + shift`` into weight and bias."""
        channels = norm.factor.numel()
        bias = torch.zeros_like(norm.shift) if self.bias is None else self.bias
        if self.transposed:  # (in, out / groups, *kernel)
            shape = (self.groups, 1, channels // self.groups, *[1] * (self.weight.ndim - 2))
            grouped = self.weight.unflatten(0, (self.groups, -1))
            self.weight = (grouped * norm.factor.view(shape)).flatten(0, 1)
        else:  # (out, in / groups, *kernel)
            self.weight = self.weight * norm.factor.view(-1, *[1] * (self.weight.ndim - 1))
        self.bias = bias * norm.factor + norm.shift

    def built(self) -> Convolution:
        on_cpu = self.weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        if on_cpu and not self.transposed and self.weight.dtype == torch.float32:
            return PackedConvolution(self)
        return Convolution(self)


@dataclass(frozen=True)
class _Affine:
    """What batch normalization is in evaluation: ``x * factor + shift`` for each channel."""

    factor: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def of_statistics(
        cls,
        mean: torch.Tensor,
        var: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
    ) -> _Affine:
        # in float64: the factor then is as exact as the float32 that stores it
        stored = mean.dtype
        factor = (var.double() + eps).rsqrt()
        factor = factor if weight is None else factor * weight.double()
        shift = -mean.double() * factor
        shift = shift if bias is None else shift + bias.double()
        return cls(factor.to(stored), shift.to(stored))


@dataclass(frozen=True)
class _TileStatistics:
    """Normalization by statistics of the tile itself; `groups` None for one per channel."""

    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float
    groups: int | None = None


@dataclass(frozen=True)
class _Nothing:
    """Dropout in evaluation and the like."""


@dataclass(frozen=True)
class _Activation:
    """What oneDNN calls it, its numbers, and the same in place for tensors we own."""

    name: str
    numbers: tuple[float, ...]
    in_place: Callable[[torch.Tensor], torch.Tensor]


class _Fusion:
    """Reads a graph from the front and merges each operation into the convolution before it."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        self.reader = _Reader(graph_module)
        self.convolutions: dict[fx.Node, _Convolution] = {}
        self.finishers: dict[fx.Node, PerChannel | TileNorm] = {}

    def apply(self) -> None:
        for node in list(self.graph_module.graph.nodes):
            self._visit(node, self.reader.read(node))
        for node, convolution in self.convolutions.items():
            self._replace(node, convolution.built(), convolution.source)

    def _visit(self, node: fx.Node, operation: object) -> None:
        if isinstance(operation, _Convolution):
            self.convolutions[node] = operation
        elif isinstance(operation, _Nothing):
            self._bypass(node)
        elif isinstance(operation, _Affine):
            self._affine(node, operation)
        elif isinstance(operation, _Activation):
            self._activation(node, operation)
        elif isinstance(operation, _TileStatistics):
            self._finish(node, TileNorm(operation, self._before(node) is not None))

    def _affine(self, node: fx.Node, operation: _Affine) -> None:
        before = self._before(node)
        if before is not None and before.activation is None:
            before.absorb(operation)
            self._bypass(node)
        else:
            self._finish(node, PerChannel(operation, before is not None))

    def _activation(self, node: fx.Node, operation: _Activation) -> None:
        source = _tensor_input(node)
        before = self._before(node) or self.finishers.get(source)
        if before is None or not _read_once(source) or before.activation is not None:
            return
        before.activation = operation
        self._bypass(node)

    def _before(self, node: fx.Node) -> _Convolution | None:
        """Return the convolution whose output is read by this node and by nothing else."""
        source = _tensor_input(node)
        return self.convolutions.get(source) if _read_once(source) else None

    def _bypass(self, node: fx.Node) -> None:
        node.replace_all_uses_with(_tensor_input(node))
        self.graph_module.graph.erase_node(node)

    def _finish(self, node: fx.Node, part: PerChannel | TileNorm) -> None:
        self.finishers[node] = part
        self._replace(node, part, _tensor_input(node))

    def _replace(self, node: fx.Node, part: nn.Module, source: fx.Node) -> None:
        name = f"fused_{len(self.graph_module._modules)}_{node.name}"
        self.graph_module.add_submodule(name, part)
        node.op, node.target, node.args, node.kwargs = "call_module", name, (source,), {}


def _tensor_input(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _read_once(node: fx.Node) -> bool:
    return len(node.users) == 1


# ------------------------------------------------------------------------- reading operations


class _Unsuitable(Exception):  # noqa: N818
    """Not of the kind that can be fused; leave it as it is."""


class _Reader:
    """Says what a node of a graph computes, whichever way its author wrote it."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module

    def read(self, node: fx.Node) -> object:
        """Return an operation known here, or None."""
        try:
            if node.op == "call_module" and len(node.all_input_nodes) == 1:
                part = self.graph_module.get_submodule(str(node.target))
                # exactly these types: a subclass may compute something else
                reader = None if _has_hooks(part) else _MODULES.get(type(part))
                return None if reader is None else reader(_tensor_input(node), part)
            if node.op in ("call_function", "call_method") and node.target in _CALLS:
                names, read_call = _CALLS[node.target]
                return read_call(self._source(node), self._arguments(node, names))
        except _Unsuitable:
            pass
        return None

    def _source(self, node: fx.Node) -> fx.Node:
        if not node.args or not isinstance(node.args[0], fx.Node):
            raise _Unsuitable
        return node.args[0]

    def _arguments(self, node: fx.Node, names: Sequence[str]) -> dict[str, Any]:
        """Return all arguments but the first by name, constants for nodes that fetch them."""
        given = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
        return {name: self._constant(value) for name, value in given.items()}

    def _constant(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._constant(part) for part in value]
        if isinstance(value, fx.Node) and value.op == "get_attr":
            return operator.attrgetter(str(value.target))(self.graph_module)
        return value


def _has_hooks(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks)


def _convolution(source: fx.Node, given: dict[str, Any]) -> _Convolution:
    weight, bias = given["weight"], given.get("bias")
    if not isinstance(weight, torch.Tensor) or not isinstance(bias, torch.Tensor | None):
        raise _Unsuitable  # computed while the network runs
    if weight.ndim not in CHANNELS_LAST or weight.is_mkldnn:
        raise _Unsuitable
    if given.get("padding_mode", "zeros") != "zeros":
        raise _Unsuitable
    axes = weight.ndim - 2
    dilation = _per_axis(given.get("dilation", 1), axes)
    return _Convolution(
        source,
        weight.detach(),
        None if bias is None else bias.detach(),
        _per_axis(given.get("stride", 1), axes),
        _per_axis(_padding(given.get("padding", 0), weight.shape[2:], dilation), axes),
        dilation,
        given.get("groups", 1),
        given.get("transposed", False),
        _per_axis(given.get("output_padding", 0), axes),
    )


def _convolution_of(source: fx.Node, part: nn.Module) -> _Convolution:
    return _convolution(source, {**vars(part), **part._parameters})


def _transposed(source: fx.Node, given: dict[str, Any]) -> _Convolution:
    return _convolution(source, {**given, "transposed": True})


def _padding(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> Any:
    if padding == "valid":
        return 0
    if padding != "same":
        return padding
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(pixels % 2 for pixels in total):
        raise _Unsuitable  # "same" then pads one side more than the other
    return [pixels // 2 for pixels in total]


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    if not all(isinstance(one, int) for one in values):
        raise _Unsuitable  # computed while the network runs
    return values * axes if len(values) == 1 else values


def _batch_norm(source: fx.Node, given: dict[str, Any]) -> _Affine:
    mean, var = given.get("running_mean"), given.get("running_var")
    if given.get("training", False) or mean is None or var is None:
        raise _Unsuitable  # statistics of the batch
    return _Affine.of_statistics(
        mean, var, given.get("weight"), given.get("bias"), given.get("eps", 1e-5)
    )


def _batch_norm_of(source: fx.Node, part: nn.Module) -> _Affine:
    return _batch_norm(source, {**vars(part), **part._parameters, **part._buffers})


def _instance_norm(source: fx.Node, given: dict[str, Any]) -> _TileStatistics:
    if not given.get("use_input_stats", True) or given.get("running_mean") is not None:
        raise _Unsuitable
    return _TileStatistics(given.get("weight"), given.get("bias"), given.get("eps", 1e-5))


def _instance_norm_of(source: fx.Node, part: nn.Module) -> _TileStatistics:
    return _instance_norm(source, {**vars(part), **part._parameters, **part._buffers})


def _group_norm(source: fx.Node, given: dict[str, Any]) -> _TileStatistics:
    return _TileStatistics(
        given.get("weight"), given.get("bias"), given.get("eps", 1e-5), given["num_groups"]
    )


def _group_norm_of(source: fx.Node, part: nn.Module) -> _TileStatistics:
    return _group_norm(source, {**vars(part), **part._parameters})


def _relu(source: fx.Node, given: object) -> _Activation:
    return _Activation("relu", (), F.relu_)


def _silu(source: fx.Node, given: object) -> _Activation:
    return _Activation("swish", (), lambda x: F.silu(x, inplace=True))


def _leaky(source: fx.Node, given: dict[str, Any]) -> _Activation:
    slope = float(given.get("negative_slope", 0.01))
    return _Activation("leaky_relu", (slope,), lambda x: F.leaky_relu_(x, slope))


def _nothing(source: fx.Node, given: object) -> _Nothing:
    return _Nothing()


def _dropout(source: fx.Node, given: dict[str, Any]) -> _Nothing:
    if given.get("training", True):
        raise _Unsuitable
    return _Nothing()


_MODULES: dict[type[nn.Module], Callable[[fx.Node, Any], object]] = {
    nn.Conv2d: _convolution_of,
    nn.Conv3d: _convolution_of,
    nn.ConvTranspose2d: _convolution_of,
    nn.ConvTranspose3d: _convolution_of,
    nn.BatchNorm2d: _batch_norm_of,
    nn.BatchNorm3d: _batch_norm_of,
    nn.InstanceNorm2d: _instance_norm_of,
    nn.InstanceNorm3d: _instance_norm_of,
    nn.GroupNorm: _group_norm_of,
    nn.ReLU: _relu,
    nn.SiLU: _silu,
    nn.LeakyReLU: lambda source, part: _leaky(source, vars(part)),
    nn.Identity: _nothing,
    nn.Dropout: lambda source, part: _dropout(source, vars(part)),
    nn.Dropout2d: lambda source, part: _dropout(source, vars(part)),
    nn.Dropout3d: lambda source, part: _dropout(source, vars(part)),
}


def _calls() -> dict[Any, tuple[tuple[str, ...], Callable[[fx.Node, Any], object]]]:
    """What functions compute: eager ones, and those of TorchScript and exported programs."""
    aten = torch.ops.aten
    conv = ("weight", "bias", "stride", "padding", "dilation")
    deconv = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    stats, affine = ("running_mean", "running_var"), ("weight", "bias")
    batch, instance = ("training", "momentum", "eps"), ("use_input_stats", "momentum", "eps")
    slope, chance = ("negative_slope",), ("p", "training")
    table: list[tuple[tuple[str, ...], Callable[[fx.Node, Any], object], list[Any]]] = [
        ((*conv, "groups"), _convolution, [torch.conv2d, torch.conv3d]),
        ((*conv, "groups"), _convolution, [aten.conv2d.default, aten.conv2d.padding]),
        ((*conv, "groups"), _convolution, [aten.conv3d.default, aten.conv3d.padding]),
        (
            (*conv, "transposed", "output_padding", "groups"),
            _convolution,
            [aten._convolution.default, aten.convolution.default],
        ),
        (deconv, _transposed, [torch.conv_transpose2d, torch.conv_transpose3d]),
        (deconv, _transposed, [aten.conv_transpose2d.input, aten.conv_transpose3d.input]),
        ((*stats, *affine, *batch), _batch_norm, [F.batch_norm]),
        ((*affine, *stats, *batch), _batch_norm, [aten.batch_norm.default]),
        ((*stats, *affine, *instance), _instance_norm, [F.instance_norm]),
        ((*affine, *stats, *instance), _instance_norm, [aten.instance_norm.default]),
        (("num_groups", *affine, "eps"), _group_norm, [F.group_norm, aten.group_norm.default]),
        ((), _relu, [F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"]),
        ((), _relu, [aten.relu.default, aten.relu_.default]),
        ((), _silu, [F.silu, aten.silu.default, aten.silu_.default]),
        (slope, _leaky, [F.leaky_relu, F.leaky_relu_]),
        (slope, _leaky, [aten.leaky_relu.default, aten.leaky_relu_.default]),
        (chance, _dropout, [F.dropout, F.dropout2d, F.dropout3d, aten.dropout.default]),
        (chance, _dropout, [aten.feature_dropout.default]),
    ]
    return {call: (names, reader) for names, reader, calls in table for call in calls}


_CALLS = _calls()


# ------------------------------------------------------------------- what the fused graph calls


class Convolution(nn.Module):
    """A convolution, then its activation in place; geometry under the names of torch's own."""

    def __init__(self, convolution: _Convolution) -> None:
        super().__init__()
        c = convolution
        self.kernel_size = tuple(c.weight.shape[2:])
        self.stride, self.padding, self.dilation = c.stride, c.padding, c.dilation
        self.output_padding, self.groups, self.transposed = c.output_padding, c.groups, c.transposed
        self.weight = self._stored(c.weight)
        self.bias = c.bias
        self.activation = c.activation

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """``(N, C, *spatial)`` in and out."""
        fixed = (self.weight, self.bias, self.stride, self.padding, self.dilation)
        more = (self.transposed, self.output_padding, self.groups)
        return _activate(torch.convolution(batch, *fixed, *more), self.activation)

    def _stored(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.contiguous(memory_format=CHANNELS_LAST[weight.ndim])


class PackedConvolution(Convolution):
    """The same by oneDNN: weights packed, the activation in the same pass."""

    def __init__(self, convolution: _Convolution) -> None:
        super().__init__(convolution)
        last = convolution.activation
        name, numbers = ("none", ()) if last is None else (last.name, last.numbers)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        self.fixed = (self.weight, self.bias, *geometry, name, numbers, "")

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """``(N, C, *spatial)`` in and out."""
        return _onednn_convolution(batch, *self.fixed)  # type: ignore[no-any-return]

    def _stored(self, weight: torch.Tensor) -> torch.Tensor:
        reorder: Callable[..., torch.Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight
        if weight.ndim == 5:
            reorder = torch._C._nn.mkldnn_reorder_conv3d_weight
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        return reorder(weight.contiguous().to_mkldnn(), *geometry)


_onednn_convolution = torch.ops.mkldnn._convolution_pointwise


class PerChannel(nn.Module):
    """``x * factor + shift`` for each channel; in place where the input is read by us alone."""

    def __init__(self, affine: _Affine, own: bool) -> None:
        super().__init__()
        self.factor, self.shift, self.own = affine.factor, affine.shift, own
        self.activation: _Activation | None = None

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """``(N, C, *spatial)`` in and out."""
        out = batch if self.own else torch.empty_like(batch)
        shape = (-1, *[1] * (batch.ndim - 2))
        torch.addcmul(self.shift.view(shape), batch, self.factor.view(shape), out=out)
        return _activate(out, self.activation)


class TileNorm(nn.Module):
    """Instance and group normalization in channels last: fast there, and as exact as elsewhere.

    Torch copies to channels first for the one, and sums naively for the other: on channels last
    its group and batch normalization are off by 1e-4 to 1e-2 of a standard deviation. Means as
    computed here are summed in cascades; the variance is the mean of squares of what is centred.
    """

    def __init__(self, norm: _TileStatistics, own: bool) -> None:
        super().__init__()
        self.norm, self.own = norm, own
        self.activation: _Activation | None = None

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """``(N, C, *spatial)`` in and out."""
        mean = self._grouped(_mean_of_channels(batch))
        # the squares of the differences, in one pass
        squares = F.mse_loss(batch, mean.expand_as(batch), reduction="none")
        factor = (self._grouped(_mean_of_channels(squares)) + self.norm.eps).rsqrt()
        shift = -mean * factor
        if self.norm.weight is not None:
            weight = self.norm.weight.view(1, -1, *[1] * (batch.ndim - 2))
            factor, shift = factor * weight, shift * weight
        if self.norm.bias is not None:
            shift = shift + self.norm.bias.view(1, -1, *[1] * (batch.ndim - 2))
        out = torch.addcmul(shift, batch, factor, out=batch if self.own else squares)
        return _activate(out, self.activation)

    def _grouped(self, means: torch.Tensor) -> torch.Tensor:
        """Average over the channels of each group; all channels have the same number of pixels."""
        groups = means.shape[1] if self.norm.groups is None else self.norm.groups
        if groups == means.shape[1]:
            return means
        members: torch.Tensor = means.unflatten(1, (groups, -1))
        return members.mean(2, keepdim=True).expand_as(members).flatten(1, 2)


def _mean_of_channels(batch: torch.Tensor) -> torch.Tensor:
    return batch.mean(tuple(range(2, batch.ndim)), keepdim=True)


def _activate(own: torch.Tensor, activation: _Activation | None) -> torch.Tensor:
    return own if activation is None else activation.in_place(own)


# ------------------------------------------------------------------------- TorchScript as graph


def _graph_of_script(frozen: Any) -> fx.GraphModule:
    """Translate frozen TorchScript; straight lines only, as traced networks are."""
    root, graph, values = nn.Module(), fx.Graph(), dict[str, Any]()
    inputs = [given.debugName() for given in frozen.graph.inputs()]
    for name in inputs[1:]:  # the first is the module itself
        values[name] = graph.placeholder(f"given_{len(values)}")
    for node in frozen.graph.nodes():
        outputs = [value.debugName() for value in node.outputs()]
        if node.kind() == "prim::Constant":
            values[outputs[0]] = _script_constant(node.output().toIValue(), root, graph)
        else:
            given = [values[value.debugName()] for value in node.inputs()]
            results = _script_call(node, given, graph)
            values.update(zip(outputs, results, strict=True))
    (result,) = frozen.graph.outputs()
    graph.output(values[result.debugName()])
    return fx.GraphModule(root, graph)


def _script_constant(value: Any, root: nn.Module, graph: fx.Graph) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    name = f"constant_{len(root._buffers)}"
    root.register_buffer(name, value)
    return graph.get_attr(name)


def _script_call(node: Any, given: list[Any], graph: fx.Graph) -> list[Any]:
    kind = node.kind()
    if kind in ("prim::ListConstruct", "prim::TupleConstruct"):
        return [given]
    if kind in ("prim::ListUnpack", "prim::TupleUnpack"):
        return [
            graph.call_function(operator.getitem, (given[0], index))
            for index in range(node.outputsSize())
        ]
    if kind in _SCRIPT_CASTS:
        return [graph.call_function(_SCRIPT_CASTS[kind], tuple(given))]
    if not kind.startswith("aten::") or node.outputsSize() > 1:
        raise NoGraph(f"TorchScript with {kind} is not a plain sequence of operations")
    signature = node.schema().split("(")[0].removeprefix("aten::")
    name, _, overload = signature.partition(".")
    call = getattr(getattr(torch.ops.aten, name), overload or "default")
    results = graph.call_function(call, tuple(given))
    return [results] * node.outputsSize()


_SCRIPT_CASTS: dict[str, Callable[[Any], Any]] = {
    "prim::NumToTensor": torch.tensor,
    "aten::Int": int,
    "aten::IntImplicit": int,
    "aten::ScalarImplicit": torch.Tensor.item,
}


# --------------------------------------------------------------------------- frozen TorchScript


def frozen(module: nn.Module, *, fold: bool = True) -> Any:
    """Return a frozen copy of a TorchScript module; what is done to it does not reach the module.

    Parameters
    ----------
    module
        TorchScript in evaluation, frozen before or not.
    fold
        Whether operations may be folded into convolutions.
    """
    with quiet_torchscript():
        if hasattr(module, "training"):
            return torch.jit.freeze(module, optimize_numerics=fold)
        buffer = io.BytesIO()  # frozen before: its graph can only be copied by way of a file
        torch.jit.save(module, buffer)
        buffer.seek(0)
        return torch.jit.load(buffer)


@contextmanager
def quiet_torchscript() -> Iterator[None]:
    """TorchScript is deprecated from torch 2.13 on, which its users know; the files remain.

    Nor is it the users' doing how copies of exported programs are made.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        yield
