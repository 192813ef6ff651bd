"""Knows how to compute only a part of a network's output, and of every layer before it.

A tile's halo is thrown away after the run, but most of a U-Net's work is in its decoder, whose
layers need far less around the kept part than the whole network does. Going backwards from what
is kept, each operation says which part of its input it reads; the rest is cropped before it is
computed with. What is kept comes out the same, since every value is computed from the same
inputs as before::

    input  ------------------------   all of it
    encoder  ----------------------   nearly all
    decoder       -------------       the kept part and a few pixels
    kept            ---------

Operations that are not known here get their whole input, as do those that read all of it, like
instance normalization; nothing before them is then saved. Does not know tiles or halos: only
which part of the output is wanted.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx, nn

from seamscope.models.speed.fusion import CHANNELS_LAST, Convolution, PackedConvolution, PerChannel

Keep = tuple[slice, ...]
"""Part of an output, one slice with start and stop for each spatial axis, in output pixels."""

Box = tuple[tuple[int, int], ...]
Sizes = dict[fx.Node, tuple[int, ...]]

_WORTH_A_COPY = 0.85  # a crop costs a copy, so it has to save this much of the operation
_PLANS_KEPT = 128  # one for each place a tile can have at the image's borders: up to 27 in 3-D


class Trimmed:
    """A network that computes the wanted part of its output only.

    Parameters
    ----------
    graph_module
        The network as a graph with one input and one output, both ``(N, C, *spatial)``.

    Notes
    -----
    The first tile of each size runs whole, to note the sizes of all layers.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        self._rules = {node: _rule(graph_module, node) for node in graph_module.graph.nodes}
        self._sizes: dict[tuple[int, ...], Sizes] = {}
        self._plans: OrderedDict[tuple[tuple[int, ...], Box], fx.GraphModule] = OrderedDict()

    def __call__(self, batch: torch.Tensor, keep: Keep | None = None) -> torch.Tensor:
        """Compute the network's output, or the part of it that is to be kept.

        Parameters
        ----------
        batch
            ``(N, C, *spatial)``.
        keep
            Part of the output to return; None for all of it.

        Returns
        -------
        torch.Tensor
            ``(N, C', *size of keep)``, perhaps a view.
        """
        size = tuple(batch.shape[2:])
        if keep is None:
            return cast(torch.Tensor, self.graph_module(batch))
        if size not in self._sizes:
            recorder = _Recorder(self.graph_module)
            output = recorder.run(batch)
            self._sizes[size] = recorder.sizes
            return cast(torch.Tensor, output[:, :, *keep])
        return cast(torch.Tensor, self._plan(size, _box_of(keep))(batch))

    def work(self, size: tuple[int, ...], keep: Keep) -> float:
        """Share of all layers' pixels that is computed for the kept part; 1 if not known yet."""
        if size not in self._sizes:
            return 1.0
        plan = self._plan_of(size, _box_of(keep))
        whole = sum(prod(plan.sizes[node]) for node in plan.have)
        return sum(_volume(box) for box in plan.have.values()) / whole

    def _plan(self, size: tuple[int, ...], keep: Box) -> fx.GraphModule:
        key = (size, keep)
        plan = self._plans.get(key)
        if plan is None:
            graph = self._plan_of(size, keep).trimmed()
            plan = self._plans[key] = fx.GraphModule(self.graph_module, graph)
            while len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
        return plan

    def _plan_of(self, size: tuple[int, ...], keep: Box) -> _Plan:
        sizes = self._sizes[size]
        rules = {node: _checked(node, rule, sizes) for node, rule in self._rules.items()}
        return _Plan(self.graph_module.graph, rules, sizes, keep)


def _box_of(keep: Keep) -> Box:
    return tuple((int(part.start), int(part.stop)) for part in keep)


class _Recorder(fx.Interpreter):
    """Notes the size of every layer's output."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.sizes: dict[fx.Node, tuple[int, ...]] = {}
        self.dimensions = 0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.dimensions = self.dimensions or result.ndim
            if result.ndim == self.dimensions and n.op != "get_attr":
                self.sizes[n] = tuple(result.shape[2:])
        return result


# ------------------------------------------------------------- what an operation reads and gives


@dataclass(frozen=True)
class _Whole:
    """Reads all of its input, or is not known."""

    def reads(self, need: Box, size: tuple[int, ...]) -> Box:
        return _all_of(size)

    def gives(self, fed: Box) -> Box | None:
        return None  # all of its output

    def aligned(self, fed: Box) -> bool:
        return True


@dataclass(frozen=True)
class _Pointwise(_Whole):
    """Reads what it gives, pixel by pixel, from inputs of one size."""

    def reads(self, need: Box, size: tuple[int, ...]) -> Box:
        return need

    def gives(self, fed: Box) -> Box | None:
        return fed


@dataclass(frozen=True)
class _Window(_Whole):
    """Convolution or pooling: output ``i`` reads ``kernel`` pixels from ``i * stride - padding``.

    Fed with a part that does not begin at 0, it starts at a multiple of the stride; what lies
    beyond the ends of the part is then padded, so outputs near these ends are wrong. They are
    never needed: `reads` asks for enough.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def reads(self, need: Box, size: tuple[int, ...]) -> Box:
        spans = []
        for (start, stop), extent, k, s, p, d in zip(need, size, *self._axes(), strict=True):
            first = max(0, start * s - p) // s * s
            last = (stop - 1) * s - p + (k - 1) * d
            spans.append((first, min(extent, max(last, first) + 1)))
        return tuple(spans)

    def gives(self, fed: Box) -> Box | None:
        spans = []
        for (start, stop), k, s, p, d in zip(fed, *self._axes(), strict=True):
            count = (stop - start + 2 * p - (k - 1) * d - 1) // s + 1
            spans.append((start // s, start // s + count))
        return tuple(spans)

    def aligned(self, fed: Box) -> bool:
        return all(start % s == 0 for (start, _), s in zip(fed, self.stride, strict=True))

    def _axes(self) -> tuple[tuple[int, ...], ...]:
        return self.kernel, self.stride, self.padding, self.dilation


@dataclass(frozen=True)
class _Transposed(_Window):
    """Transposed convolution: input ``i`` is added to outputs from ``i * stride - padding``."""

    extra: tuple[int, ...]

    def reads(self, need: Box, size: tuple[int, ...]) -> Box:
        spans = []
        axes = zip(need, size, *self._axes(), self.extra, strict=True)
        for (start, stop), extent, k, s, p, d, e in axes:
            reach = (k - 1) * d
            first = max(0, min(ceil((start + p - reach) / s), start // s))
            # enough to contribute to the last pixel, and for the output to extend that far
            last = max((stop - 1 + p) // s, ceil((stop - 1 + 2 * p - reach - e) / s), first)
            spans.append((first, min(extent, last + 1)))
        return tuple(spans)

    def gives(self, fed: Box) -> Box | None:
        spans = []
        for (start, stop), k, s, p, d, e in zip(fed, *self._axes(), self.extra, strict=True):
            count = (stop - start - 1) * s - 2 * p + (k - 1) * d + e + 1
            spans.append((start * s, start * s + count))
        return tuple(spans)

    def aligned(self, fed: Box) -> bool:
        return True


@dataclass(frozen=True)
class _Upsampled(_Whole):
    """Enlarged by whole numbers, from the nearest pixel or between neighbours (`margin` 1)."""

    scale: tuple[int, ...]
    margin: int

    def reads(self, need: Box, size: tuple[int, ...]) -> Box:
        return tuple(
            (max(0, start // s - self.margin), min(extent, (stop - 1) // s + 1 + self.margin))
            for (start, stop), extent, s in zip(need, size, self._scale(need), strict=True)
        )

    def gives(self, fed: Box) -> Box | None:
        return tuple(
            (start * s, stop * s) for (start, stop), s in zip(fed, self._scale(fed), strict=True)
        )

    def _scale(self, box: Box) -> tuple[int, ...]:
        return _per_axis(self.scale, len(box))  # one number stands for all axes


_WHOLE = _Whole()


def _all_of(size: tuple[int, ...]) -> Box:
    return tuple((0, extent) for extent in size)


def _hull(one: Box | None, other: Box) -> Box:
    if one is None:
        return other
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def _volume(box: Box) -> int:
    return prod(stop - start for start, stop in box)


# ---------------------------------------------------------------------------- the way backwards


Rules = dict[fx.Node, _Whole]


def _checked(node: fx.Node, rule: _Whole, sizes: Sizes) -> _Whole:
    """Operations on several tensors are only local where these are of one size."""
    inputs = [given for given in node.all_input_nodes if given.op != "get_attr"]
    if node not in sizes or any(given not in sizes for given in inputs):
        return _WHOLE
    if isinstance(rule, _Pointwise) and any(sizes[given] != sizes[node] for given in inputs):
        return _WHOLE
    return rule


class _Plan:
    """What to compute of each layer, so that a part of the output can be kept.

    Attributes
    ----------
    need
        Of each layer's output, what the layers behind it read: right in the end.
    feed
        Of each layer's inputs, what it is given.
    have
        Of each layer's output, what it then computes; right at least where needed.
    """

    def __init__(self, graph: fx.Graph, rules: Rules, sizes: Sizes, keep: Box) -> None:
        self.graph, self.rules, self.sizes, self.keep = graph, rules, sizes, keep
        self.need = self._needs()
        self.feed: dict[tuple[fx.Node, fx.Node], Box] = {}
        self.have: dict[fx.Node, Box] = {}
        for node in graph.nodes:
            self._forward(node, rules[node] if node in self.need else _WHOLE)

    def _needs(self) -> dict[fx.Node, Box]:
        need: dict[fx.Node, Box] = {}
        for node in reversed(self.graph.nodes):
            wanted = self.keep if node.op == "output" else need.get(node)
            rule = _WHOLE if wanted is None else self.rules[node]
            for given in self._inputs(node):
                reads = (
                    wanted if node.op == "output" else rule.reads(wanted or (), self.sizes[given])
                )
                need[given] = _hull(need.get(given), reads or ())
        return need

    def _inputs(self, node: fx.Node) -> list[fx.Node]:
        return [given for given in node.all_input_nodes if given in self.sizes]

    def _forward(self, node: fx.Node, rule: _Whole) -> None:
        inputs = self._inputs(node)
        for given in inputs:
            self.feed[node, given] = self._fed(node, rule, given, alone=len(inputs) == 1)
        if node in self.sizes:
            gives = rule.gives(self.feed[node, inputs[0]]) if inputs else None
            self.have[node] = _all_of(self.sizes[node]) if gives is None else gives

    def _fed(self, node: fx.Node, rule: _Whole, given: fx.Node, alone: bool) -> Box:
        have = self.have[given]
        if node.op == "output":
            return self.keep
        if isinstance(rule, _Pointwise) and alone:
            return have  # also right where it works in place
        reads = rule.reads(self.need.get(node, ()), self.sizes[given])
        local = isinstance(rule, (_Window, _Upsampled))
        if local and rule.aligned(have) and _volume(reads) > _WORTH_A_COPY * _volume(have):
            return have
        return reads

    def trimmed(self) -> fx.Graph:
        graph = fx.Graph()
        now: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            fed = {given: self._cut(graph, now[given], node, given) for given in self._inputs(node)}
            now[node] = graph.node_copy(node, lambda given: fed.get(given) or now[given])  # noqa: B023
        return graph

    def _cut(self, graph: fx.Graph, now: fx.Node, node: fx.Node, given: fx.Node) -> fx.Node:
        feed, have = self.feed[node, given], self.have[given]
        if feed == have:
            return now
        cut = _copied if isinstance(self.rules[node], (_Window, _Upsampled)) else _cropped
        place = tuple(
            (start - first, stop - first)
            for (start, stop), (first, _) in zip(feed, have, strict=True)
        )
        return graph.call_function(cut, (now, place))


def _cropped(batch: torch.Tensor, box: Box) -> torch.Tensor:
    for axis, (start, stop) in enumerate(box):
        batch = batch.narrow(axis + 2, start, stop - start)
    return batch


def _copied(batch: torch.Tensor, box: Box) -> torch.Tensor:
    return _cropped(batch, box).contiguous(memory_format=CHANNELS_LAST[batch.ndim])


# ------------------------------------------------------------------------- reading operations


def _rule(graph_module: fx.GraphModule, node: fx.Node) -> _Whole:
    """Return how an operation reads its input; `_Whole` for what is not known."""
    if node.op == "call_module":
        part = graph_module.get_submodule(str(node.target))
        if part._forward_hooks or part._forward_pre_hooks:
            return _WHOLE
        return _MODULES.get(type(part), lambda part: _WHOLE)(part)
    if node.op in ("call_function", "call_method") and node.target in _CALLS:
        return _CALLS[node.target](*node.args[1:], **node.kwargs)
    return _WHOLE


def _pointwise(*anything: Any, **options: Any) -> _Whole:
    return _Pointwise()


def _over_channels(dim: Any = None, *anything: Any, **options: Any) -> _Whole:
    return _Pointwise() if dim == 1 else _WHOLE


def _convolution(part: Any) -> _Whole:
    if part.transposed:
        geometry = (part.kernel_size, part.stride, part.padding, part.dilation)
        return _Transposed(*geometry, extra=part.output_padding)
    return _Window(part.kernel_size, part.stride, part.padding, part.dilation)


def _torch_convolution(part: Any) -> _Whole:
    # circular padding reads from the opposite side
    if isinstance(part.padding, str) or part.padding_mode == "circular":
        return _WHOLE
    return _convolution(part)


def _pooling_module(part: Any) -> _Whole:
    if getattr(part, "return_indices", False):
        return _WHOLE
    axes = 3 if type(part).__name__.endswith("3d") else 2
    dilation = getattr(part, "dilation", 1)
    return _pooling(axes, part.kernel_size, part.stride, part.padding, dilation, part.ceil_mode)


def _pooling(
    axes: int,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: Any = False,
) -> _Whole:
    geometry = [kernel_size, stride or kernel_size, padding, dilation]
    known = all(isinstance(n, int) for one in geometry for n in _listed(one))
    if not known or ceil_mode:
        return _WHOLE
    return _Window(*(_per_axis(one, axes) for one in geometry))


def _max_pooling(axes: int) -> Callable[..., _Whole]:
    def rule(*given: Any, return_indices: Any = False, **options: Any) -> _Whole:
        return _WHOLE if return_indices or len(given) > 5 else _pooling(axes, *given, **options)

    return rule


def _average_pooling(axes: int) -> Callable[..., _Whole]:
    def rule(
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: Any = False,
        *more: Any,
        **options: Any,
    ) -> _Whole:
        return _pooling(axes, kernel, stride, padding, 1, ceil_mode)

    return rule


def _upsampling_module(part: Any) -> _Whole:
    return _upsampling(part.size, part.scale_factor, part.mode, part.align_corners)


def _upsampling(
    size: Any = None,
    scale_factor: Any = None,
    mode: Any = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: Any = None,
    antialias: Any = False,
) -> _Whole:
    margin = {"nearest": 0, "bilinear": 1, "trilinear": 1}.get(mode)
    plain = size is None and not (align_corners or antialias or recompute_scale_factor)
    if margin is None or not plain or isinstance(scale_factor, fx.Node):
        return _WHOLE
    scale = _listed(scale_factor)
    if not all(isinstance(s, (int, float)) and s >= 1 and s == int(s) for s in scale):
        return _WHOLE
    return _Upsampled(tuple(int(s) for s in scale), margin)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    values = tuple(_listed(value))
    return values * axes if len(values) == 1 else values


_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.GELU),
    *(nn.Mish, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus),
    *(nn.Identity, nn.Threshold, nn.LogSigmoid),
)
_MODULES: dict[type[nn.Module], Callable[[Any], _Whole]] = {
    **dict.fromkeys(_ACTIVATIONS, _pointwise),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), lambda part: _over_channels(part.dim)),
    PerChannel: _pointwise,
    **dict.fromkeys((Convolution, PackedConvolution), _convolution),
    **dict.fromkeys((nn.Conv2d, nn.Conv3d), _torch_convolution),
    **dict.fromkeys((nn.ConvTranspose2d, nn.ConvTranspose3d), _torch_convolution),
    **dict.fromkeys((nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d), _pooling_module),
    nn.Upsample: _upsampling_module,
}


def _calls() -> dict[Any, Callable[..., _Whole]]:
    aten = torch.ops.aten
    table: list[tuple[Callable[..., _Whole], list[Any]]] = [
        (
            _pointwise,
            [F.relu, F.relu_, F.relu6, F.leaky_relu, F.leaky_relu_, F.elu, F.silu, F.gelu],
        ),
        (_pointwise, [torch.relu, torch.relu_, torch.sigmoid, torch.tanh, F.sigmoid, F.tanh]),
        (_pointwise, ["relu", "relu_", "sigmoid", "tanh", "sigmoid_"]),
        (_pointwise, [aten.relu.default, aten.relu_.default, aten.sigmoid.default]),
        (_pointwise, [aten.leaky_relu.default, aten.leaky_relu_.default, aten.silu.default]),
        (_pointwise, [operator.add, operator.mul, operator.sub, torch.add, torch.mul, torch.sub]),
        (_pointwise, [aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor]),
        (_over_channels, [torch.cat, torch.concat, aten.cat.default]),
        (_over_channels, [torch.softmax, F.softmax, F.log_softmax, torch.log_softmax, "softmax"]),
        (_over_channels, [aten.softmax.int, aten.log_softmax.int]),
        (_max_pooling(2), [F.max_pool2d, aten.max_pool2d.default]),
        (_max_pooling(3), [F.max_pool3d, aten.max_pool3d.default]),
        (_average_pooling(2), [F.avg_pool2d, aten.avg_pool2d.default]),
        (_average_pooling(3), [F.avg_pool3d, aten.avg_pool3d.default]),
        (_upsampling, [F.interpolate]),
    ]
    return {call: rule for rule, calls in table for call in calls}


_CALLS = _calls()
