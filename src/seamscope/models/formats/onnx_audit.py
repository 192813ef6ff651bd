"""What couples the pixels of a tile in an ONNX graph that is only run, never watched.

Knows which operations of ONNX normalize or look over all of space, and how exporters write layers
that ONNX has no operation for. Does not know how the graph is run; runs nothing.

Where a graph is converted to PyTorch its calls are watched instead (`seamscope.normalization`).
Reading it gives the same table of layers, by kind, channels and source of statistics, but no calls
whose statistics could be replaced: such layers cannot use fixed statistics. One table of
operations, `_LAYERS` and `_COUPLINGS`, and two manners of writing are known:

==========================================  =======================================================
``Reshape, InstanceNormalization, Reshape``  group normalization, before operations set 21
``ReduceMean`` of an image, used as one      normalization written by hand, or squeeze-and-excite
==========================================  =======================================================
"""

from __future__ import annotations

import ast
import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.normalization.audit import Audit, GlobalOperation, NormLayer, Source

_DENSE = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_GATES = {"Sigmoid", "HardSigmoid"}
# Of one value for each channel: operations that leave it one.
_ALONG = {
    "Relu", "LeakyRelu", "PRelu", "Elu", "Gelu", "Tanh", "Clip", "Mul", "Add", "Div", "Sub", "Sqrt",
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Softplus", "HardSwish",
    "Expand", "Pow", "Reciprocal", "Transpose",
}  # fmt: skip
_COUPLINGS = {
    "Softmax": "attention",
    "Attention": "attention",
    "MultiHeadAttention": "attention",
    "GlobalMaxPool": "maximum over space",
    "ReduceMax": "maximum over space",
    "ReduceMin": "minimum over space",
    "ReduceSum": "sum over space",
    "ReduceL1": "sum over space",
    "ReduceL2": "sum over space",
    "ReduceSumSquare": "sum over space",
    "ReduceProd": "product over space",
    "ReduceLogSumExp": "sum over space",
    "DFT": "Fourier transform",
}


def read_audit(data: bytes) -> Audit:
    """Read a graph's normalizations, and what else sees the whole tile.

    Parameters
    ----------
    data
        The file, weights and all.
    """
    graph = _Graph(data)
    reader = _Reader(graph)
    for node in graph.nodes:
        reader.read(node)
    return reader.found()


def memory_of(data: bytes, shape: Sequence[int]) -> int:
    """Bytes that a graph takes while it runs, as far as shapes of tensors are known.

    Each tensor is held from where it is made to where it is last used; weights do not count.
    onnxruntime takes about as much again for its own work (a U-Net at 512 x 512: 128 MB of 2 x 67).

    Parameters
    ----------
    data
        The file, weights and all.
    shape
        Of the one image that goes in, ``(N, C, *spatial)``.
    """
    import onnx.inliner
    from onnx import shape_inference

    model = onnx.inliner.inline_local_functions(onnx.load_from_string(data))
    graph = model.graph
    weights = {each.name for each in graph.initializer}
    image = next(each for each in graph.input if each.name not in weights)
    for place, (dim, size) in enumerate(zip(image.type.tensor_type.shape.dim, shape, strict=False)):
        if place != 1 or not dim.dim_value:  # one of several inputs has channels of its own
            dim.dim_value = size
    del graph.value_info[:]  # of other sizes, or of none
    with contextlib.suppress(shape_inference.InferenceError, ValueError):
        model = shape_inference.infer_shapes(model, data_prop=True)
    known = {each.name: _bytes_of(each) for each in (image, *model.graph.value_info)}
    return 2 * int(_peak(model.graph.node, known))


def _bytes_of(tensor: Any) -> int:
    """Of a tensor of 32-bit numbers; 0 where a size is not known."""
    sizes = [int(dim.dim_value) for dim in tensor.type.tensor_type.shape.dim]
    return 4 * math.prod(sizes)


def _peak(nodes: Sequence[Any], known: Mapping[str, int]) -> int:
    last = {name: place for place, node in enumerate(nodes) for name in node.input}
    held: dict[str, int] = {}
    most = 0
    for place, node in enumerate(nodes):
        names = (*node.input, *node.output)
        held |= {name: known[name] for name in names if name in known}
        most = max(most, sum(held.values()))
        held = {name: size for name, size in held.items() if last.get(name, place) > place}
    return most


# -- the graph


class _Graph:
    """Nodes in order, and what is known of the tensors between them."""

    def __init__(self, data: bytes) -> None:
        import onnx.inliner
        from onnx import shape_inference

        model = onnx.inliner.inline_local_functions(onnx.load_from_string(data))
        # fewer shapes are known then; ValueError above 2 GB
        with contextlib.suppress(shape_inference.InferenceError, ValueError):
            model = shape_inference.infer_shapes(model)
        graph = model.graph
        self.nodes: Sequence[Any] = graph.node
        self._constants = {each.name: each for each in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        self._inputs = [each.name for each in graph.input if each.name not in self._constants]
        self.shapes = {
            each.name: [d.dim_value or None for d in each.type.tensor_type.shape.dim]
            for each in (*graph.input, *graph.value_info, *graph.output)
        }
        self.maker = {name: node for node in graph.node for name in node.output}
        self._users: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """Value of a tensor that does not depend on the image."""
        from onnx import numpy_helper

        held = self._constants.get(name)
        return None if held is None else numpy_helper.to_array(held)

    def users(self, name: str) -> list[Any]:
        """Nodes that take a tensor."""
        return self._users.get(name, [])

    @cached_property
    def computed(self) -> set[str]:
        """Tensors that depend on the image's values; its sizes do not count."""
        found = set(self._inputs)
        for node in self.nodes:
            if node.op_type not in ("Shape", "Size") and found & set(node.input):
                found |= set(node.output)
        return found

    @property
    def rank(self) -> int:
        """Axes of the image, samples and channels included."""
        return len(self.shapes[self._inputs[0]])

    def is_image(self, name: str) -> bool:
        """Whether a tensor has samples, channels and all of space; as far as is known."""
        return name in self.computed and len(self.shapes.get(name, [None] * self.rank)) == self.rank

    def channels(self, name: str) -> int | None:
        """Size of the second axis."""
        shape = self.shapes.get(name, [])
        return shape[1] if len(shape) > 1 else None


def _attribute(node: Any, name: str, default: Any = None) -> Any:
    from onnx import helper

    found = (each for each in node.attribute if each.name == name)
    return next((helper.get_attribute_value(each) for each in found), default)


def _name(node: Any) -> str | None:
    """Name of the layer, where an exporter has noted it."""
    noted = {each.key: each.value for each in node.metadata_props}
    with contextlib.suppress(ValueError, SyntaxError, IndexError, KeyError):
        return str(ast.literal_eval(noted["pkg.torch.onnx.name_scopes"])[-2]) or None
    scopes = node.name.strip("/").split("/")
    return scopes[-2] if len(scopes) > 1 else None


# -- layers, one function for each operation


def _instance(graph: _Graph, node: Any) -> NormLayer:
    groups = _count(graph, node.input[1])
    before, after = graph.maker.get(node.input[0]), graph.users(node.output[0])
    if before is None or before.op_type != "Reshape" or [u.op_type for u in after] != ["Reshape"]:
        affine = _is_affine(graph, node.input[1], node.input[2])
        return NormLayer(_name(node), "InstanceNorm", groups, "tile", affine, groups, ())
    gain = _factor(graph, after[0].output[0])
    channels = graph.channels(before.input[0]) or (gain.size if gain is not None else groups)
    affine = gain is not None and bool((gain != 1).any())
    return NormLayer(_name(node), "GroupNorm", channels, "group", affine, groups, ())


def _factor(graph: _Graph, name: str) -> npt.NDArray[Any] | None:
    """What a tensor is multiplied by next."""
    factors = (n for u in graph.users(name) if u.op_type == "Mul" for n in u.input)
    return next((each for n in factors if (each := graph.constant(n)) is not None), None)


def _group(graph: _Graph, node: Any) -> NormLayer:
    groups = int(_attribute(node, "num_groups"))
    channels = graph.channels(node.input[0]) or _count(graph, node.input[1])
    affine = _is_affine(graph, node.input[1], node.input[2])
    return NormLayer(_name(node), "GroupNorm", channels, "group", affine, groups, ())


def _batch(graph: _Graph, node: Any) -> NormLayer:
    own = bool(_attribute(node, "training_mode", 0)) or bool(graph.computed & set(node.input[3:]))
    source: Source = "batch" if own else "running"
    count = _count(graph, node.input[1])
    affine = _is_affine(graph, node.input[1], node.input[2])
    return NormLayer(_name(node), "BatchNorm", count, source, affine, count, ())


def _layer(graph: _Graph, node: Any) -> NormLayer | None:
    """Layer normalization over channels and space; over the channels of each pixel it is local."""
    axis, rank = _attribute(node, "axis", -1), len(graph.shapes.get(node.input[0], []))
    if not rank or rank - axis % rank < 2:
        return None
    affine = _is_affine(graph, node.input[1], *node.input[2:])
    channels = graph.channels(node.input[0]) or 1
    return NormLayer(_name(node), "LayerNorm", channels, "tile", affine, 1, ())


def _mean_variance(graph: _Graph, node: Any) -> NormLayer | None:
    """Mean and variance over given axes; by default over samples and space."""
    rank = len(graph.shapes.get(node.input[0], [])) or graph.rank
    axes = {axis % rank for axis in _attribute(node, "axes", (0, 2, 3))}
    if not axes & set(range(2, rank)):
        return None
    channels = graph.channels(node.input[0]) or 0
    groups = 1 if 1 in axes else channels
    kind = "LayerNorm" if 1 in axes else "InstanceNorm"
    source: Source = "batch" if 0 in axes else "tile"
    return NormLayer(_name(node), kind, channels, source, False, groups, ())


_LAYERS: Mapping[str, Callable[[_Graph, Any], NormLayer | None]] = {
    "InstanceNormalization": _instance,
    "GroupNormalization": _group,
    "BatchNormalization": _batch,
    "LayerNormalization": _layer,
    "MeanVarianceNormalization": _mean_variance,
}


def _count(graph: _Graph, name: str) -> int:
    held = graph.constant(name)
    size = int(held.size) if held is not None else (graph.shapes.get(name) or [None])[0]
    return size or 0


def _is_affine(graph: _Graph, *names: str) -> bool | None:
    """Whether scale and shift are more than the ones and zeros that stand for none."""
    held = [graph.constant(name) for name in names if name]
    if any(each is None for each in held):
        return None
    plain = [bool((each == k).all()) for each, k in zip(held, (1, 0), strict=False)]  # type: ignore[union-attr]
    return not all(plain)


# -- means over space


@dataclass
class _Mean:
    """A mean over space, and what is done with it."""

    node: Any
    channels: int
    groups: int
    stage: int
    role: str = ""


@dataclass
class _Reader:
    """Goes through a graph once, in its order."""

    graph: _Graph
    rows: list[NormLayer | _Mean] = field(default_factory=list)
    operations: dict[tuple[str, str], GlobalOperation] = field(default_factory=dict)
    stage: int = 0

    def __post_init__(self) -> None:
        # Means that a BatchNorm without remembered statistics is given are its own.
        self._own = {
            id(mean)
            for node in self.graph.nodes
            if node.op_type == "BatchNormalization"
            for name in node.input[3:5]
            for mean in self._means_above(name, node.input[0])
        }
        self._pooled: dict[str, _Mean] = {}

    def _means_above(self, name: str, image: str) -> Iterator[Any]:
        node = self.graph.maker.get(name)
        if node is None or name == image or name not in self.graph.computed:
            return
        if node.op_type in ("ReduceMean", *_ALONG):
            if node.op_type == "ReduceMean":
                yield node
            for each in node.input:
                yield from self._means_above(each, image)

    def read(self, node: Any) -> None:
        """Take down what a node does to space."""
        graph = self.graph
        if not graph.computed & set(node.input):
            return
        self._follow(node)
        if node.op_type in _LAYERS:
            layer = _LAYERS[node.op_type](graph, node)
            if layer is not None and layer.kind == "LayerNorm" and layer.affine:
                self._add("LayerNormalization", "normalization with a weight for each pixel")
            elif layer is not None:
                self.rows.append(layer)
        elif node.op_type in ("ReduceMean", "GlobalAveragePool") and id(node) not in self._own:
            self._mean(node)
        elif node.op_type in _COUPLINGS and self._couples(node):
            self._add(node.op_type, _COUPLINGS[node.op_type])

    def _add(self, op: str, kind: str) -> None:
        one = self.operations.get((op, kind), GlobalOperation(op, 0, kind))
        self.operations[op, kind] = replace(one, count=one.count + 1)

    def _follow(self, node: Any) -> None:
        """Values of whole channels that go through dense layers pool, or gate."""
        given = [name for name in node.input if name in self.graph.computed]
        means = [self._pooled[name] for name in given if name in self._pooled]
        if not means or len(means) < len(given):
            self.stage += node.op_type in _DENSE
            return
        mean = means[0]
        if node.op_type in _DENSE:
            mean.role = mean.role or "global pooling"
        elif node.op_type in _GATES:
            mean.role = "squeeze-and-excite" if mean.role else ""
        elif node.op_type not in _ALONG:
            return
        self._pooled |= dict.fromkeys(node.output, mean)

    def _mean(self, node: Any) -> None:
        axes = self._space_of(node)
        if not axes:
            return
        rank = self.graph.rank
        if axes < set(range(2, rank)):
            self._add(node.op_type, "mean over part of space")
            return
        channels = self.graph.channels(node.input[0]) or 1
        mean = _Mean(node, channels, 1 if 1 in axes else channels, self.stage)
        self._pooled |= dict.fromkeys(node.output, mean)
        self.rows.append(mean)

    def _space_of(self, node: Any) -> set[int]:
        """Axes of an image that a node takes together, where some of them are space."""
        graph, rank = self.graph, self.graph.rank
        if not graph.is_image(node.input[0]):
            return set()
        if node.op_type.startswith("Global"):
            return set(range(2, rank))
        given: Any = _attribute(node, "axes")
        if given is None and len(node.input) > 1 and node.input[1]:
            given = graph.constant(node.input[1])
        axes = {int(a) % rank for a in np.ravel(given)} if given is not None else set(range(rank))
        return axes if axes & set(range(2, rank)) else set()

    def _couples(self, node: Any) -> bool:
        if "Attention" in node.op_type:
            return True
        if node.op_type == "Softmax":
            return self._is_attention(node)
        return node.op_type == "DFT" or bool(self._space_of(node))

    def _is_attention(self, node: Any) -> bool:
        """Whether its input is a product of two images, over more than a window of fixed size."""
        above = self.graph.maker.get(node.input[0])
        while above is not None and above.op_type in ("Mul", "Div", "Add", "Cast", "Where"):
            inside = [name for name in above.input if name in self.graph.computed]
            above = self.graph.maker.get(inside[0]) if inside else None
        if above is None or above.op_type not in ("MatMul", "Einsum"):
            return False
        sizes = self.graph.shapes.get(node.input[0]) or [None]
        whole = self.graph.shapes[self.graph._inputs[0]][2:]
        return set(above.input) <= self.graph.computed and (sizes[-1] is None or None not in whole)

    def found(self) -> Audit:
        """Return what was seen."""
        layers: list[NormLayer] = []
        before: _Mean | None = None
        for row in self.rows:
            if isinstance(row, NormLayer):
                layers.append(row)
            elif row.role:
                self._add("ReduceMean", row.role)
            elif before is None or (before.stage, before.groups) != (row.stage, row.groups):
                layers.append(
                    NormLayer(
                        _name(row.node), "hand-written", row.channels, "tile", None, row.groups, ()
                    )
                )
                before = row
        return Audit(tuple(layers), tuple(self.operations.values()), watched=False)


__all__ = ["read_audit"]
