"""What the values of a prediction are: probabilities, logits, classes, embeddings or plain values.

Knows how an output ends and which values it takes. Does not know images or tiles.

==================  ================================================================================
``probabilities``   between 0 and 1: the network ends with a sigmoid or a softmax
``logits``          the network ends with a linear layer: unbounded numbers on both sides of 0
``classes``         whole numbers or booleans: the network decides by itself (argmax, threshold)
``embeddings``      vectors of one length for each pixel
``values``          anything else, such as distances, flows or restored intensities
==================  ================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch

from seamscope.errors import SeamscopeError
from seamscope.models.trials import Watch
from seamscope.normalization.calls import Forward, bound
from seamscope.recorded_graph import Dispatch

OutputKind: TypeAlias = Literal["probabilities", "logits", "classes", "embeddings", "values"]

KINDS: tuple[OutputKind, ...] = ("probabilities", "logits", "classes", "embeddings", "values")

WHOLE: tuple[OutputKind, ...] = ("classes", "values")
"""Kinds whose numbers may be whole."""

aten = torch.ops.aten

# operations that may come after the one that decides; so may all whose names have these parts
_MOVES = {
    "view", "_unsafe_view", "reshape", "permute", "transpose", "slice", "select", "contiguous",
    "clone", "detach", "alias", "unsqueeze", "squeeze", "expand", "_to_copy", "copy", "t",
    "roll", "flip", "cat", "stack", "split", "split_with_sizes", "native_dropout", "unsafe_chunk",
    "lift_fresh", "index", "index_select", "unbind",
}  # fmt: skip
_MOVING = ("upsample", "shuffle", "pad", "_unsafe_index")
_LINEAR = {
    "convolution", "_convolution", "addmm", "mm", "bmm", "add", "mul", "linear", "mean",
    "avg_pool1d", "avg_pool2d", "avg_pool3d",
}  # fmt: skip
# ends of networks that predict neither logits nor probabilities, on both sides of 0
_ACTIVATIONS = {
    "tanh", "hardtanh", "clamp", "sin", "cos", "atan2", "leaky_relu", "elu", "gelu", "silu",
    "hardswish", "mish", "_prelu_kernel",
}  # fmt: skip
# ends of networks that give whole numbers which count something, as intensities from 0 to 255
_COUNTING = {"round", "floor", "ceil", "trunc", "mul", "div", "add", "sub", "clamp"}
_FEW = 32  # classes that such an end may number


def kind_of(watch: Watch, outputs: Sequence[torch.Tensor]) -> tuple[OutputKind, bool]:
    """Return what a network's values are, and whether that is certain.

    Values on both sides of 0 may be logits, unless an activation that is known limits them.

    Parameters
    ----------
    watch
        The operations of a forward pass.
    outputs
        ``(N, C, *spatial)`` for several random inputs.
    """
    last = _last(watch, outputs[0])
    low = min(float(y.min()) for y in outputs)
    high = max(float(y.max()) for y in outputs)
    kind = _kind(last, low, high, outputs)
    limits = last in _ACTIVATIONS or "softmax" in last or "sigmoid" in last
    open_ended = kind == "logits" or (kind == "values" and low < 0 < high and not limits)
    unseen = not last and kind in ("probabilities", "values")  # another program runs the network
    return kind, not open_ended and not unseen


def _last(watch: Watch, output: torch.Tensor) -> str:
    """Name of the last operation that is more than a move; one in place has the same name."""
    names = (name.removesuffix("_") for name in reversed(watch.last(output)))
    return next((name for name in names if not _moves(name)), "")


def _moves(name: str) -> bool:
    return name in _MOVES or any(part in name for part in _MOVING)


def _kind(last: str, low: float, high: float, outputs: Sequence[torch.Tensor]) -> OutputKind:
    first = outputs[0]
    counted = last in _COUNTING and len(torch.cat([y.flatten() for y in outputs]).unique()) > _FEW
    if not first.is_floating_point():
        return "values" if counted or low < 0 else "classes"
    within = low >= 0 and high <= 1
    if within and ("softmax" in last or "sigmoid" in last):
        return "probabilities"
    if within and first.shape[1] > 1 and _sum_to_one(outputs):
        return "probabilities"
    if _whole(outputs) and high > low:
        return "values" if counted or low < 0 else "classes"
    if first.shape[1] > 1 and _unit_length(outputs):
        return "embeddings"
    if last in _LINEAR and low < 0 < high:
        return "logits"
    limited = within and high > low and last in ("clamp", "hardtanh", "")
    return "probabilities" if limited else "values"


def _sum_to_one(outputs: Sequence[torch.Tensor]) -> bool:
    return all(bool(((y.sum(1) - 1).abs() < 1e-3).all()) for y in outputs)


def _whole(outputs: Sequence[torch.Tensor]) -> bool:
    return all(bool((y == y.round()).all()) for y in outputs)


def _unit_length(outputs: Sequence[torch.Tensor]) -> bool:
    return all(bool(((y.norm(dim=1) - 1).abs() < 1e-3).all()) for y in outputs)


class Undecided(Dispatch):
    """Runs a network of classes without its decisions, so that small changes show.

    An argmax gives the mean of the classes weighted by their numbers, a threshold the distance to
    it, and whole numbers stay what they were before they were made whole.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = bound(func, args, kwargs)
        if func is aten.argmax.default and given["dim"] is not None:
            return _weighted(given["self"], given["dim"], given["keepdim"])
        if func in _THRESHOLDS and given["self"].is_floating_point():
            return given["self"] - given["other"]
        if func is aten.round.default and given["self"].is_floating_point():
            return given["self"].clone()
        whole = given.get("dtype") is not None and not given["dtype"].is_floating_point
        if func is aten._to_copy.default and whole and given["self"].is_floating_point():
            return given["self"].clone()
        return func(*args, **kwargs)


def _weighted(x: torch.Tensor, dim: int, keepdim: bool) -> torch.Tensor:
    shape = [1] * x.ndim
    shape[dim] = -1
    numbers = torch.arange(1, x.shape[dim] + 1, dtype=x.dtype, device=x.device).view(shape)
    return (x * numbers).sum(dim, keepdim)


_THRESHOLDS = {
    aten.gt.Scalar, aten.ge.Scalar, aten.lt.Scalar, aten.le.Scalar,
    aten.gt.Tensor, aten.ge.Tensor, aten.lt.Tensor, aten.le.Tensor,
}  # fmt: skip


def undecided(forward: Forward, x: torch.Tensor, y: torch.Tensor | None = None) -> Forward:
    """Run a network of whole numbers up to what they were before, where that is possible.

    Parameters
    ----------
    forward
        The network, which is returned where it gives other numbers.
    x
        An input with which that is tried.
    y
        What it predicts, where that is known.
    """

    def numbers(x: torch.Tensor) -> torch.Tensor:
        with Undecided():
            return forward(x)

    def as_float(x: torch.Tensor) -> torch.Tensor:
        return forward(x).float()

    given = forward(x) if y is None else y
    if given.is_floating_point() and not _whole([given]):
        return forward
    try:
        y = numbers(x)
    except SeamscopeError:
        raise
    except RuntimeError:  # it needs its decisions
        return as_float
    return numbers if y.is_floating_point() and bool(y.std() > 0) else as_float
