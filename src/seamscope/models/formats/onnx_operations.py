"""Operations of ONNX that onnx2torch does not convert, brought to ones that it does.

Knows reading at computed places and limits that are computed. Does not know the rest of the graph.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

_OURS = "seamscope"  # domain of operations that nothing else knows, in whatever version
_MODES = {"linear": "bilinear", "cubic": "bicubic"}  # as they are called since version 20


def convertible(model: Any) -> None:
    """Bring a graph to operations that onnx2torch converts, and teach it GridSample."""
    from onnx import helper

    for node in model.graph.node:
        if node.op_type == "GridSample":
            node.domain = _OURS
    _without_computed_limits(model.graph)
    model.opset_import.append(helper.make_opsetid(_OURS, 1))
    _teach()


def _teach() -> None:
    from onnx2torch.node_converters.registry import add_converter
    from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node

    def convert(node: Any, graph: Any) -> Any:
        given = node.attributes
        mode = given.get("mode", "bilinear")
        module = GridSample(
            _MODES.get(mode, mode),
            given.get("padding_mode", "zeros"),
            bool(given.get("align_corners", 0)),
        )
        return OperationConverterResult(module, onnx_mapping_from_node(node))

    with contextlib.suppress(ValueError):  # it knows already
        add_converter("GridSample", 1, _OURS)(convert)


class GridSample(nn.Module):
    """Reads an image at places between -1 and 1."""

    def __init__(self, mode: str, padding: str, aligned: bool) -> None:
        super().__init__()
        self._given = mode, padding, aligned

    def forward(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Sample ``(N, C, *spatial)`` at ``(N, *spatial', axes)``."""
        return F.grid_sample(x, places, *self._given)


def _without_computed_limits(graph: Any) -> None:
    """Write a Clip whose limits are computed as a maximum and a minimum."""
    from onnx import helper

    known = {each.name for each in graph.initializer} | {""}
    known |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    nodes = []
    for node in graph.node:
        if node.op_type != "Clip" or known.issuperset(node.input[1:]):
            nodes.append(node)
            continue
        value = node.input[0]
        for kind, limit in zip(("Max", "Min"), node.input[1:], strict=False):
            if limit:
                made = f"{node.output[0]}/{kind}"
                nodes.append(helper.make_node(kind, [value, limit], [made]))
                value = made
        nodes[-1].output[0] = node.output[0]
    del graph.node[:]
    graph.node.extend(nodes)
