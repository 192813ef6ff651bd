"""Operations that take numbers of many: means, ranks, selections, normalizations, transforms.

Knows over which dimensions they go. Does not know what statistics are used for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from seamscope.models.derived.positions import (
    NotUnderstood,
    Value,
    held_fixed,
    is_whole,
    joined,
    reduced,
    weighed,
    without_positions,
)

if TYPE_CHECKING:
    from seamscope.models.derived.reader import Reader


def _reduction(reader: Reader, given: dict[str, Any]) -> Any:
    x: Value = given["self"]
    dims = given.get("dim")
    dims = list(range(len(x.shape))) if dims is None or dims == [] else dims
    dims = [d % max(1, len(x.shape)) for d in (dims if isinstance(dims, (list, tuple)) else [dims])]
    made = reader.over(x, dims, keep=False)
    if not given.get("keepdim", False):
        shape = [n for d, n in enumerate(made.shape) if d not in dims]
        made = made.moved(shape, lambda a: a.squeeze(tuple(dims)))
    return (made, made) if reader.several else made


def _batch_norm(reader: Reader, given: dict[str, Any]) -> Any:
    x: Value = given["input"]
    own = given.get("training", given.get("running_mean") is None)
    made = reader.over(x, [d for d in range(len(x.shape)) if d != 1], keep=True) if own else x
    made = made.remade(made.shape, lambda seen: weighed(seen, 1))
    return (made, None, None, None)[: reader.several] if reader.several else made


def _group_norm(reader: Reader, given: dict[str, Any]) -> Any:
    x: Value = given["input"]
    made = reader.over(x, range(1, len(x.shape)), keep=True)
    return made.remade(made.shape, lambda seen: weighed(seen, 1)), None, None


def _layer_norm(reader: Reader, given: dict[str, Any]) -> Any:
    x: Value = given["input"]
    count = len(given["normalized_shape"])
    return reader.over(x, range(len(x.shape) - count, len(x.shape)), keep=True), None, None


def _ranked(reader: Reader, given: dict[str, Any]) -> Any:
    """Sorted, or some of what is sorted: each depends on all along a dimension."""
    x: Value = given["self"]
    if "dim" not in given:  # `median()`
        return _reduction(reader, given)
    dim = given["dim"] % max(1, len(x.shape))
    made = reader.over(x, [dim], keep=False)
    shape = reader.result_shape()
    if len(shape) < len(x.shape):
        made = made.moved(shape, lambda a: a.squeeze(dim))
    made = replace(made, shape=shape)
    return (made, made) if reader.several else made


def _gathered(reader: Reader, given: dict[str, Any]) -> Any:
    """Elements whose places along a dimension are computed."""
    x, index, shape = given["self"], given["index"], reader.result_shape()
    dim = given["dim"] % max(1, len(shape))
    made = reader.over(x, [dim], keep=False) if isinstance(x, Value) else index
    for d, (whole, part) in enumerate(zip(given["self"].shape, shape, strict=True)):
        if d != dim and whole != part and any(one.shape[d] > 1 for one in made.axes):
            raise NotUnderstood("elements at computed places of a part")
    if not isinstance(index, Value):
        return replace(made, shape=shape)
    axes = (joined(both) for both in zip(made.axes, index.axes, strict=True))
    return Value(shape, tuple(axes))


def selected(reader: Reader, *given: Any) -> Value:
    """Numbers of all elements together, such as those that a mask chooses, put in a row."""
    values = [one for one in given if isinstance(one, Value)]
    for one in values:
        made = reader.over(one, range(len(one.shape)), keep=False)
        if any(bool((axis.lo < axis.hi).any()) for axis in made.axes):
            raise NotUnderstood("a selection in a part of the tile")
    shape = reader.result_shape()
    alike = torch.empty((1,) * len(shape))
    return replace(without_positions(alike, len(values[0].axes)), shape=shape)


def _selected(reader: Reader, given: dict[str, Any]) -> Any:
    return selected(reader, given["self"], given.get("mask"))


def _accumulated(reader: Reader, given: dict[str, Any]) -> Any:
    return reader.softmax(given["self"], given["dim"])


def _read(reader: Reader, given: dict[str, Any]) -> None:
    """A number for the network's code, which is the same for inputs that it treats alike."""


def _fourier(reader: Reader, given: dict[str, Any]) -> Any:
    """Each frequency depends on all places, and differs from all others."""
    x: Value = given["self"]
    dims = [dim % len(x.shape) for dim in given["dim"]]
    axes = []
    for axis, seen in enumerate(x.axes):
        made = seen
        for dim in dims:
            made = reduced(made, dim)
        if made is not seen and is_whole(made, seen):
            reader.couple([axis], statistic=False)
            made = held_fixed(made)
        elif made is not seen:  # of a window
            raise NotUnderstood("a transform of a part of the tile")
        axes.append(made)
    return Value(reader.result_shape(), tuple(axes))


RULES: dict[str, Any] = {
    "mean sum amax amin max min var std var_mean std_mean prod norm": _reduction,
    "linalg_vector_norm argmax argmin any all logsumexp nansum aminmax count_nonzero": _reduction,
    "native_batch_norm _native_batch_norm_legit _batch_norm_with_update": _batch_norm,
    "_native_batch_norm_legit_no_training _batch_norm_no_update": _batch_norm,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "topk sort kthvalue median nanmedian mode": _ranked,
    "gather": _gathered,
    "masked_select nonzero histc bincount": _selected,
    "cumsum cumprod cummax cummin logcumsumexp": _accumulated,
    "_local_scalar_dense is_nonzero equal": _read,
    "_fft_r2c _fft_c2r _fft_c2c": _fourier,
}

__all__ = ["RULES"]
