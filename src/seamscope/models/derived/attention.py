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
)

if TYPE_CHECKING:
    from seamscope.models.derived.reader import Reader


def _softmax(reader: Reader, given: dict[str, Any]) -> Any:
    return reader.softmax(given["self"], given["dim"])


def _attention(reader: Reader, given: dict[str, Any]) -> Any:
    q, k, v = given["query"], given["key"], given["value"]
    if given.get("is_causal"):
        raise NotUnderstood("causal attention")
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
        logits = replace(logits, dead=array)
    made = reader.contracted(reader.softmax(logits, -1), v, reader.result_shape())
    return (made, *[None] * 8)


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
