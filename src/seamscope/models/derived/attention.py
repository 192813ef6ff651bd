"""Operations in which elements meet: products of matrices, softmax, attention, masks.

Knows what a mask buries. Does not know windows: reshapes have made them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seamscope.models.derived.positions import (
    DEAD,
    NotUnderstood,
    Value,
    held_fixed,
    is_whole,
    joined,
    reduced,
    shortened,
)

if TYPE_CHECKING:
    from seamscope.models.derived.reader import Reader


def _softmax(reader: Reader, given: dict[str, Any]) -> Any:
    return reader.softmax(given["self"], given["dim"])


def _attention(reader: Reader, given: dict[str, Any]) -> Any:
    q, k, v = given["query"], given["key"], given["value"]
    if given.get("is_causal"):
        raise NotUnderstood("causal attention")
    values = all(isinstance(one, Value) for one in (q, k, v))
    if values and given.get("attn_mask") is None:
        return (_unmasked(reader, q, k, v), *[None] * 8)
    turned = (
        k.moved((*k.shape[:-2], k.shape[-1], k.shape[-2]), lambda a: np.swapaxes(a, -1, -2))
        if isinstance(k, Value)
        else k.transpose(-1, -2)
    )
    logits = reader.contracted(q, turned, (*q.shape[:-1], k.shape[-2]))
    mask = given.get("attn_mask")
    if isinstance(mask, torch.Tensor):
        dead = ~mask if mask.dtype == torch.bool else mask <= DEAD
        array = np.broadcast_to(dead.numpy(), (1,) * (4 - dead.ndim) + tuple(dead.shape))
        logits = replace(logits, dead=array).by_rows()
    made = reader.contracted(reader.softmax(logits, -1), v, reader.result_shape())
    return (made, *[None] * 8)


def _unmasked(reader: Reader, q: Value, k: Value, v: Value) -> Value:
    """Each query depends on all keys and values: no array of all pairs is needed for that."""
    axes = []
    for axis, (one, two, three) in enumerate(zip(q.axes, k.axes, v.axes, strict=True)):
        keys = reduced(reduced(two, len(k.shape) - 1), len(k.shape) - 2)
        values = reduced(three, len(v.shape) - 2)
        made = joined([reduced(one, len(q.shape) - 1), keys, values])
        sources = [seen for seen in (one, two, three) if seen.lo.size > 1]
        if sources and is_whole(made, *sources):
            reader.couple([axis], statistic=False)
            made = held_fixed(made)
        axes.append(shortened(made))
    return Value(reader.result_shape(), tuple(axes))


def _addmm(reader: Reader, given: dict[str, Any]) -> Any:
    one = given.get("mat1", given.get("batch1"))
    two = given.get("mat2", given.get("batch2"))
    bias = given["self"]
    if not any(isinstance(part, Value) for part in (one, two)):
        return reader.pointwise((bias,))
    made = reader.contracted(one, two)
    return reader.pointwise((made, bias)) if isinstance(bias, Value) or bias.ndim > 1 else made


def _bmm(reader: Reader, given: dict[str, Any]) -> Any:
    return reader.contracted(given["self"], given["mat2"])


def _masked(reader: Reader, given: dict[str, Any]) -> Any:
    """`masked_fill` and `where` with a constant mask and a value that a softmax makes 0."""
    x, mask = given["self"], given.get("mask")
    value = given.get("value")
    made = reader.pointwise((x, mask))
    number = value.item() if isinstance(value, torch.Tensor) else value
    if isinstance(mask, torch.Tensor) and isinstance(number, (int, float)) and number <= DEAD:
        dead = np.broadcast_to(mask.numpy(), (1,) * (len(x.shape) - mask.ndim) + tuple(mask.shape))
        made = replace(made, dead=dead)
    return made


RULES: dict[str, Any] = {
    "_softmax _log_softmax softmax _safe_softmax": _softmax,
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention": _attention,
    "addmm baddbmm": _addmm,
    "mm bmm": _bmm,
    "masked_fill": _masked,
}

__all__ = ["RULES"]
