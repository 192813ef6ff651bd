"""Operations that take numbers of many: means, norms, normalizations, sorting, Fourier transforms.

Knows over which dimensions they go. Does not know what statistics are used for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seamscope.models.derived.positions import (
    NotUnderstood,
    Value,
    held_fixed,
    is_whole,
    reduced,
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
    return (made, None, None, None)[: reader.several] if reader.several else made


def _group_norm(reader: Reader, given: dict[str, Any]) -> Any:
    x: Value = given["input"]
    return reader.over(x, range(1, len(x.shape)), keep=True), None, None


def _layer_norm(reader: Reader, given: dict[str, Any]) -> Any:
    x: Value = given["input"]
    count = len(given["normalized_shape"])
    return reader.over(x, range(len(x.shape) - count, len(x.shape)), keep=True), None, None


def _sorted(reader: Reader, given: dict[str, Any]) -> Any:
    x = given["self"]
    dim = given.get("dim", -1) % len(x.shape)
    made = x.remade(reader.result_shape(), lambda seen: reduced(seen, dim))
    return (made, made) if reader.several else made


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
    "linalg_vector_norm argmax argmin any all logsumexp": _reduction,
    "native_batch_norm _native_batch_norm_legit _batch_norm_with_update": _batch_norm,
    "_native_batch_norm_legit_no_training _batch_norm_no_update": _batch_norm,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "topk sort": _sorted,
    "_fft_r2c _fft_c2r _fft_c2c": _fourier,
}

__all__ = ["RULES"]
