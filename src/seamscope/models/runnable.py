"""Modules of other kinds, brought to one that takes and gives float32.

Knows number types, compiled modules and their like. Does not know formats of files.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter


def runnable(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a module that runs on float32, and sentences on what was changed.

    Parameters
    ----------
    module
        Any module; yours is not changed.
    """
    plain = getattr(module, "_orig_mod", None)
    if isinstance(plain, nn.Module):  # torch.compile keeps the module it was given
        module = plain
    if isinstance(module, Inside):
        return module, ()
    others = {tensor.dtype for tensor in _weights(module) if tensor.dtype in _OTHERS}
    if not others:
        return module, ()
    named = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
    converted = _converted(module)
    inside = None if converted is None else _only_as_it_is(converted, module, others)
    if converted is not None and inside is None:
        return converted, (f"Its weights are {named}: Seamscope runs it as float32.",)
    return Inside(module, inside or next(iter(others))), (
        f"Its weights are {named}: Seamscope runs it in that type, and its input and output are "
        "float32.",
    )


_OTHERS = {torch.float16, torch.bfloat16, torch.float64}


def _weights(module: nn.Module) -> Iterator[torch.Tensor]:
    """Weights, also those that a frozen script holds as constants of its code."""
    parameters = [*module.parameters()]
    yield from (each for each in parameters if not isinstance(each, UninitializedParameter))
    if isinstance(module, torch.jit.ScriptModule) and not parameters:
        graph: Any = module.graph
        for node in graph.findAllNodes("prim::Constant"):
            if "value" in node.attributeNames() and node.kindOf("value") == "t":
                constant = node.t("value")
                if constant.ndim > 1:
                    yield constant


def _converted(module: nn.Module) -> nn.Module | None:
    """A copy whose weights are float32; None where it holds its types elsewhere too."""
    try:
        with torch.no_grad():  # else weights of a copied script are computed ones
            own = copy.deepcopy(module).float()
    except Exception:  # a module that cannot be copied or cast runs as it is
        return None
    graph = str(getattr(own, "graph", ""))
    return None if any(word in graph for word in ("float16", "bfloat16", "float64")) else own


def _only_as_it_is(
    converted: nn.Module, module: nn.Module, others: set[torch.dtype]
) -> torch.dtype | None:
    """Type of the input with which a network runs whose code casts to its own type; else None."""
    kernels = {(w.shape[1], w.ndim - 2): None for w in _weights(module) if w.ndim in (4, 5)}
    for channels, axes in kernels:  # in the order of the layers, except in a frozen script
        x = torch.zeros(1, channels, *[64 if axes == 2 else 32] * axes)
        if _runs(converted, x):
            return None
        for dtype in (torch.float32, *others):
            if _runs(module, x.to(dtype)):
                return dtype
    return None


def _runs(module: nn.Module, x: torch.Tensor) -> bool:
    try:
        with torch.no_grad():
            module(x)
    except Exception:  # whatever a network raises
        return False
    return True


class Inside(nn.Module):
    """A network that computes in another floating point type than its input and output.

    Parameters
    ----------
    inner
        The network.
    dtype
        Of its weights.
    """

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = inner
        self.dtype = dtype
        self.training = False

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Weights and buffers of the module inside, by its own names."""
        return self.inner.state_dict(*args, **kwargs)

    def forward(self, x: torch.Tensor) -> Any:
        """Run the network."""
        return _as_float(self.inner(x.to(self.dtype)))


def _as_float(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output.float() if output.is_floating_point() else output
    if isinstance(output, dict):
        return {key: _as_float(value) for key, value in output.items()}
    if isinstance(output, tuple | list):
        return tuple(_as_float(value) for value in output)
    return output
