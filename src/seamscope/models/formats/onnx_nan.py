"""An ONNX graph in which NaN spreads as it does in PyTorch, so that reach can be probed with it.

Knows which operations onnxruntime computes by comparisons, in which NaN gets lost. Does not know
how reach is measured; runs nothing.

To what such an operation gives is added ``x - x``, which is 0 and changes nothing, but NaN where
``x`` is. For pooling the same is done with the average of each window.
"""

from __future__ import annotations

from typing import Any

_EACH = {
    "Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Selu", "Celu", "Gelu", "Clip",
    "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Tanh", "Erf", "Exp", "Softplus", "Softsign",
}  # fmt: skip
_WINDOW = ("auto_pad", "ceil_mode", "kernel_shape", "pads", "strides")


def with_spreading_nan(data: bytes) -> bytes:
    """Rewrite a graph; for finite inputs it predicts bit for bit the same.

    Parameters
    ----------
    data
        The file, weights and all.
    """
    import onnx.inliner

    model = onnx.inliner.inline_local_functions(onnx.load_from_string(data))
    nodes = [part for node in model.graph.node for part in _spreading(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    written: bytes = model.SerializeToString()
    return written


def _spreading(node: Any) -> list[Any]:
    from onnx import helper

    if node.op_type in _EACH:
        return _added(node, node.input[0], [])
    dilated = any(n != 1 for each in node.attribute if each.name == "dilations" for n in each.ints)
    if node.op_type != "MaxPool" or len(node.output) > 1 or dilated:
        return [node]
    mean = f"{node.output[0]}/mean"
    pool = helper.make_node("AveragePool", [node.input[0]], [mean])
    pool.attribute.extend(each for each in node.attribute if each.name in _WINDOW)
    return _added(node, mean, [pool])


def _added(node: Any, source: str, before: list[Any]) -> list[Any]:
    """A node to whose result zeros are added, which are NaN where the source is."""
    from onnx import helper

    (out,) = node.output
    plain, zeros = f"{out}/plain", f"{out}/zeros"
    node.output[0] = plain
    return [
        *before,
        node,
        helper.make_node("Sub", [source, source], [zeros]),
        helper.make_node("Add", [plain, zeros], [out]),
    ]


__all__ = ["with_spreading_nan"]
