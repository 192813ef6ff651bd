"""Operations that bring elements to other places: reshapes, rolls, slices, shuffles, joins.

Knows where each element goes. Computes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seamscope.models.derived.positions import (
    UNREAD,
    Array,
    NotUnderstood,
    Seen,
    Value,
    gathered,
    joined,
    reduced,
    reshaped,
    shortened,
    sliced,
    window_places,
    with_leading,
)
from seamscope.models.derived.statistics import selected

if TYPE_CHECKING:
    from seamscope.models.derived.reader import Reader


def _view(reader: Reader, given: dict[str, Any]) -> Any:
    x, shape = given["self"], reader.result_shape()
    reader.part(x, shape)
    made = x.moved(shape, lambda a: reshaped(a, x.shape, shape))
    return replace(made, axes=tuple(shortened(one) for one in made.axes))


def _permute(reader: Reader, given: dict[str, Any]) -> Any:
    x, shape = given["self"], reader.result_shape()
    count = len(x.shape)
    if "dims" in given:
        order = [d % count for d in given["dims"]]
    else:
        order = list(range(count))
        one, two = given.get("dim0", 0) % count, given.get("dim1", 1) % count
        order[one], order[two] = order[two], order[one]
    return x.moved(shape, lambda a: a.transpose(order))


def _expand(reader: Reader, given: dict[str, Any]) -> Any:
    x, shape = given["self"], reader.result_shape()
    more = len(shape) - len(x.shape)
    return x.moved(shape, lambda a: a.reshape((1,) * more + a.shape))


def _unsqueeze(reader: Reader, given: dict[str, Any]) -> Any:
    x, shape = given["self"], reader.result_shape()
    dim = given["dim"] % len(shape)
    return x.moved(shape, lambda a: np.expand_dims(a, dim))


def _squeeze(reader: Reader, given: dict[str, Any]) -> Any:
    x, shape = given["self"], reader.result_shape()
    dims = given.get("dim", range(len(x.shape)))
    dims = [dims] if isinstance(dims, int) else dims
    gone = {d % len(x.shape) for d in dims if x.shape[d] == 1}
    return x.moved(shape, lambda a: a.reshape([n for d, n in enumerate(a.shape) if d not in gone]))


def _slice(reader: Reader, given: dict[str, Any]) -> Any:
    x, dim = given["self"], given["dim"] % len(given["self"].shape)
    part = slice(given.get("start"), given.get("end"), given.get("step", 1))
    return sliced(x, dim, np.arange(x.shape[dim])[part])


def _select(reader: Reader, given: dict[str, Any]) -> Any:
    x, dim = given["self"], given["dim"] % len(given["self"].shape)
    one = sliced(x, dim, np.arange(x.shape[dim])[[given["index"]]])
    return one.moved(reader.result_shape(), lambda a: a.squeeze(dim))


def _split(reader: Reader, given: dict[str, Any]) -> Any:
    x, dim = given["self"], given.get("dim", 0) % len(given["self"].shape)
    size: Any = given.get("split_size", given.get("split_sizes"))
    places = np.arange(x.shape[dim])
    ends = range(size, x.shape[dim], size) if isinstance(size, int) else np.cumsum(size)[:-1]
    return [sliced(x, dim, part) for part in np.split(places, list(ends))]


def _unbind(reader: Reader, given: dict[str, Any]) -> Any:
    x, dim = given["self"], given.get("dim", 0) % len(given["self"].shape)
    shape = [n for d, n in enumerate(x.shape) if d != dim]
    parts = (sliced(x, dim, np.array([k])) for k in range(x.shape[dim]))
    return [part.moved(shape, lambda a: a.squeeze(dim)) for part in parts]


def _roll(reader: Reader, given: dict[str, Any]) -> Any:
    x = given["self"]
    for shift, dim in zip(given["shifts"], given["dims"], strict=True):
        places = np.roll(np.arange(x.shape[dim]), shift)
        x = sliced(x, dim % len(x.shape), places)
    return x


def _flip(reader: Reader, given: dict[str, Any]) -> Any:
    x = given["self"]
    for dim in given["dims"]:
        x = sliced(x, dim % len(x.shape), np.arange(x.shape[dim])[::-1])
    return x


def _cat(reader: Reader, given: dict[str, Any]) -> Any:
    parts = given["tensors"]
    shape = reader.result_shape()
    dim = given.get("dim", 0) % len(shape)
    example = next(one for one in parts if isinstance(one, Value))
    values = [
        one if isinstance(one, Value) else reader.constant(one, example, dim)
        for one in parts
        if math.prod(one.shape)
    ]
    axes = []
    for axis in range(len(example.axes)):
        own = [one.axes[axis] for one in values]
        if len(own) == 1:
            axes.append(own[0])
            continue
        if all(one.shape[dim] == 1 for one in own):  # channels: each reads all of them
            axes.append(joined(own))
            continue
        beside = np.broadcast_shapes(*((*s.shape[:dim], 1, *s.shape[dim + 1 :]) for s in own))
        full = [
            s.wide((*beside[:dim], v.shape[dim], *beside[dim + 1 :]))
            for s, v in zip(own, values, strict=True)
        ]
        names = ("lo", "hi", "kind")
        axes.append(Seen(*(np.concatenate([getattr(s, n) for s in full], dim) for n in names)))
    return Value(shape, tuple(axes))


def _stack(reader: Reader, given: dict[str, Any]) -> Any:
    dim = given.get("dim", 0) % len(reader.result_shape())
    parts = [
        one.moved((*one.shape[:dim], 1, *one.shape[dim:]), lambda a: np.expand_dims(a, dim))
        if isinstance(one, Value)
        else one.unsqueeze(dim)
        for one in given["tensors"]
    ]
    return _cat(reader, {"tensors": parts, "dim": dim})


def _repeat(reader: Reader, given: dict[str, Any]) -> Any:
    x, shape = given["self"], reader.result_shape()
    more = len(shape) - len(x.shape)
    x = x.moved((1,) * more + x.shape, lambda a: a.reshape((1,) * more + a.shape))
    for dim, times in enumerate(given["repeats"]):
        x = sliced(x, dim, np.tile(np.arange(x.shape[dim]), times))
    return x


def _index(reader: Reader, given: dict[str, Any]) -> Any:
    x = given["self"]
    chosen = [(d, i) for d, i in enumerate(given["indices"]) if i is not None]
    if reader.masked and any(isinstance(i, Value) for _, i in chosen):
        return selected(reader, x, *(i for _, i in chosen))
    if len(chosen) != 1 or isinstance(chosen[0][1], Value) or chosen[0][1].ndim != 1:
        raise NotUnderstood("indices that are not along one dimension")
    dim, index = chosen[0]
    return sliced(x, dim, np.arange(x.shape[dim])[index.numpy()])


def _index_put(reader: Reader, given: dict[str, Any]) -> Any:
    """One number where a mask chooses."""
    x, chosen, values = given["self"], given["indices"], given["values"]
    if not reader.masked or len(chosen[0].shape) != len(x.shape) or math.prod(values.shape) != 1:
        raise NotUnderstood("values at computed places")
    return reader.pointwise([x, chosen[0], values])


def _index_select(reader: Reader, given: dict[str, Any]) -> Any:
    x = given["self"]
    return sliced(x, given["dim"] % len(x.shape), given["index"].numpy())


def _shuffle(reader: Reader, given: dict[str, Any]) -> Any:
    x, r = given["self"], given["upscale_factor"]
    n, c, h, w = x.shape
    inner = (n, c // (r * r), r, r, h, w)
    y = x.moved(inner, lambda a: reshaped(a, x.shape, inner).transpose(0, 1, 4, 2, 5, 3))
    y = replace(y, shape=(n, c // (r * r), h, r, w, r))
    return _view(reader, {"self": y})


def _unshuffle(reader: Reader, given: dict[str, Any]) -> Any:
    x, r = given["self"], given["downscale_factor"]
    n, c, h, w = x.shape
    inner = (n, c, h // r, r, w // r, r)
    y = x.moved(inner, lambda a: reshaped(a, x.shape, inner).transpose(0, 1, 3, 5, 2, 4))
    y = replace(y, shape=(n, c, r, r, h // r, w // r))
    return _view(reader, {"self": y})


def _unfold(reader: Reader, given: dict[str, Any]) -> Any:
    x, size, step = given["self"], given["size"], given["step"]
    dim, shape = given["dimension"] % len(given["self"].shape), reader.result_shape()
    index = np.arange(shape[dim])[:, None] * step + np.arange(size)

    def change(a: Array) -> Array:
        a = np.expand_dims(a, -1)
        if a.shape[dim] == 1:
            return a
        return np.moveaxis(np.take(a[..., 0], index, dim), dim + 1, -1)

    return x.moved(shape, change)


def _im2col(reader: Reader, given: dict[str, Any]) -> Any:
    """Windows, each a column."""
    x = given["self"]
    sizes = x.shape[2:]
    windows = [one.T for one in _columns(given, sizes)]
    shape = [*x.shape[:2], *(n for one in windows for n in one.shape)]

    def change(seen: Seen) -> Seen:
        for d in (1, 0):
            parts = [gathered(seen, d + 2, one[:, None]) for one in windows[d]]
            full = np.broadcast_shapes(*(one.shape for one in parts))
            names = ("lo", "hi", "kind")
            each = [[getattr(one.wide(full), n) for one in parts] for n in names]
            seen = Seen(*(np.stack(arrays, d + 2) for arrays in each))
            seen = shortened(seen)
        return seen

    y = x.remade(shape, change)
    order = (0, 1, 2, 4, 3, 5)
    y = y.moved([shape[d] for d in order], lambda a: a.transpose(order))
    return _view(reader, {"self": y})


def _col2im(reader: Reader, given: dict[str, Any]) -> Any:
    """The sum of windows, each a column."""
    x, shape = given["self"], reader.result_shape()
    places = _columns(given, shape[2:])
    (high, high_taps), (wide, wide_taps) = (one.shape for one in places)
    inner = (*shape[:2], high_taps, wide_taps, high, wide)
    y = x.moved(inner, lambda a: reshaped(a, x.shape, inner))

    def change(seen: Seen) -> Seen:
        for d in (0, 1):
            index = np.full((shape[d + 2], places[d].shape[1]), UNREAD)
            for tap, read in enumerate(places[d].T):
                index[read[read >= 0], tap] = np.flatnonzero(read >= 0)
            parts = []
            for tap, one in enumerate(index.T):
                chosen = seen.taken(np.array([min(tap, seen.shape[2] - 1)]), 2)
                chosen = chosen.each(lambda a: a.squeeze(2))
                parts.append(gathered(chosen, 3, one[:, None]))
            seen = joined(parts)
        return shortened(seen)

    return y.remade(shape, change)


def _columns(given: dict[str, Any], sizes: Sequence[int]) -> list[Array]:
    """Places ``(windows, taps)`` along y and x; -1 beyond the ends."""
    found = []
    for d, size in enumerate(sizes):
        kernel, dilation, padding, stride = (
            given[name][d] for name in ("kernel_size", "dilation", "padding", "stride")
        )
        count = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        starts = np.arange(count) * stride - padding
        found.append(window_places(count, size, starts, np.arange(kernel) * dilation))
    return found


def _blank(reader: Reader, given: dict[str, Any]) -> Any:
    """A new tensor of the same shape: a constant."""
    meta = reader.meta
    value = given.get("fill_value", 1 if reader.name in ("ones_like", "new_ones") else 0)
    return torch.full(tuple(meta.shape), value, dtype=meta.dtype)


def _same(reader: Reader, given: dict[str, Any]) -> Any:
    found: Value = given["self"]
    return found


def _as_strided(reader: Reader, given: dict[str, Any]) -> Any:
    """The same numbers, with other strides of dimensions of length 1.

    So `torch` keeps the layout of channels last after a pooling to one pixel.
    """
    x: Value = given["self"]
    old = reader.stride_of_input()
    long = [
        (n, a, b) for n, a, b in zip(given["size"], old, given["stride"], strict=False) if n > 1
    ]
    alike = tuple(given["size"]) == x.shape and all(a == b for _, a, b in long)
    if not alike or given.get("storage_offset"):
        raise NotUnderstood("other places of its memory")
    return x


def _copy(reader: Reader, given: dict[str, Any]) -> Any:
    source, shape = given["src"], reader.result_shape()
    if not isinstance(source, Value):
        return torch.broadcast_to(source, shape)
    source = with_leading(source, len(shape))
    return replace(source, shape=shape)


def _as_real(reader: Reader, given: dict[str, Any]) -> Any:
    """Real and imaginary part side by side along a new last dimension."""
    return given["self"].moved(reader.result_shape(), lambda a: a[..., None])


def _as_complex(reader: Reader, given: dict[str, Any]) -> Any:
    x: Value = given["self"]
    last = len(x.shape) - 1
    return x.remade(reader.result_shape(), lambda seen: reduced(seen, last).each(_without_last))


def _without_last(a: Array) -> Array:
    found: Array = a[..., 0]
    return found


RULES: dict[str, Any] = {
    "view _unsafe_view reshape _reshape_alias flatten unflatten": _view,
    "permute transpose t": _permute,
    "expand broadcast_to": _expand,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "slice": _slice,
    "select": _select,
    "split split_with_sizes unsafe_split unsafe_split_with_sizes": _split,
    "unbind": _unbind,
    "roll": _roll,
    "flip": _flip,
    "cat concat": _cat,
    "stack": _stack,
    "repeat": _repeat,
    "index": _index,
    "index_put": _index_put,
    "index_select": _index_select,
    "pixel_shuffle": _shuffle,
    "pixel_unshuffle": _unshuffle,
    "unfold": _unfold,
    "im2col": _im2col,
    "col2im": _col2im,
    "as_strided": _as_strided,
    "zeros_like ones_like empty_like full_like new_zeros new_ones new_empty": _blank,
    "new_full rand_like randn_like new_empty_strided": _blank,
    "copy": _copy,
    "view_as_real": _as_real,
    "view_as_complex": _as_complex,
    "clone detach alias contiguous lift_fresh_copy": _same,
}

__all__ = ["RULES"]
