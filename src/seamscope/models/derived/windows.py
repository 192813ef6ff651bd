"""Operations that read windows: convolutions, poolings, interpolations, paddings.

Knows which places each output reads. Does not know statistics or attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from seamscope.models.derived.positions import (
    UNREAD,
    Array,
    NotUnderstood,
    Value,
    held_fixed,
    reduced,
    window_places,
)

if TYPE_CHECKING:
    from seamscope.models.derived.reader import Reader


def as_tuple(given: Any, count: int) -> tuple[int, ...]:
    values = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    return values * count if len(values) == 1 else values


def _convolution(reader: Reader, given: dict[str, Any]) -> Any:
    x, weight = given["input"], given["weight"]
    if not isinstance(x, Value) or isinstance(weight, Value):
        raise NotUnderstood("weights made of the input")
    count = weight.ndim - 2
    shape = reader.result_shape()
    stride, padding, dilation = (
        as_tuple(given[name], count) for name in ("stride", "padding", "dilation")
    )
    indices = []
    for d in range(count):
        taps = np.arange(weight.shape[d + 2], dtype=np.int64) * dilation[d]
        out, size = shape[d + 2], x.shape[d + 2]
        if given.get("transposed"):
            at = np.arange(out)[:, None] + padding[d] - taps[None]
            index = np.where((at >= 0) & (at % stride[d] == 0), at // stride[d], UNREAD)
            indices.append(np.where(index < size, index, UNREAD))
        else:
            indices.append(window_places(out, size, np.arange(out) * stride[d] - padding[d], taps))
            reader.pool(x, d + 2, stride[d])
    return reader.windowed(x, indices, given.get("groups", 1))


def _pool(reader: Reader, given: dict[str, Any]) -> Any:
    x: Value = given["self"]
    count = (
        len(x.shape) - 2
        if len(as_tuple(given["kernel_size"], 1)) == 1
        else len(given["kernel_size"])
    )
    shape = reader.result_shape()
    kernel = as_tuple(given["kernel_size"], count)
    stride = as_tuple(given.get("stride") or kernel, count)
    padding, dilation = as_tuple(given["padding"], count), as_tuple(given.get("dilation", 1), count)
    first = len(x.shape) - count
    indices = []
    for d in range(count):
        out, size = shape[first + d], x.shape[first + d]
        starts = np.arange(out) * stride[d] - padding[d]
        indices.append(window_places(out, size, starts, np.arange(kernel[d]) * dilation[d]))
        reader.pool(x, first + d, stride[d])
    made = reader.windowed(x, indices, groups=0)
    return (made, made) if reader.several else made


def _adaptive(reader: Reader, given: dict[str, Any]) -> Any:
    """Its windows are as large as the tile makes them: a statistic."""
    x: Value = given["self"]
    shape = reader.result_shape()
    axes = []
    for axis, seen in enumerate(x.axes):
        dims = [d for d in range(len(shape)) if shape[d] != x.shape[d] and seen.shape[d] > 1]
        if dims:
            reader.couple([axis], statistic=True)
            for d in dims:
                seen = reduced(seen, d)
            seen = held_fixed(seen)
        axes.append(seen)
    made = Value(shape, tuple(axes))
    return (made, made) if reader.several else made


def _couple_along(reader: Reader, x: Value, dim: int) -> None:
    """Aligned corners: what is read depends on the size."""
    reader.couple([a for a, seen in enumerate(x.axes) if seen.shape[dim] > 1], statistic=False)


def _upsampling(taps: Callable[[Array], tuple[Array, Array]]) -> Any:
    """Make the rule of an interpolation; `taps` gives offsets and weights at fractions."""

    def rule(reader: Reader, given: dict[str, Any]) -> Any:
        x, shape = given["self"], reader.result_shape()
        corners = bool(given.get("align_corners", False))
        indices = []
        for d in range(2, len(shape)):
            out, size = shape[d], x.shape[d]
            if corners and out != size:
                _couple_along(reader, x, d)
            reader.resizes |= bool(not _factor(given, d - 2) and out % size and size % out)
            # the rest is derived as if corners were not aligned
            indices.append(_interpolated(out, size, taps, _factor(given, d - 2)))
        return reader.windowed(x, indices, groups=0)

    return rule


def _smoothing(half: int) -> Any:
    """Make the rule of an interpolation that smooths where it shrinks; `half` as wide to a side."""

    def rule(reader: Reader, given: dict[str, Any]) -> Any:
        x, shape = given["self"], reader.result_shape()
        indices = []
        for d in range(2, len(shape)):
            out, size = shape[d], x.shape[d]
            if given.get("align_corners") and out != size:
                _couple_along(reader, x, d)
            scale = 1 / (_factor(given, d - 2) or out / size)
            reach = half * max(scale, 1.0)
            middle = (np.arange(out) + 0.5) * scale
            first = np.floor(middle - reach + 0.5 + 1e-6).astype(np.int64)
            taps = np.arange(math.ceil(2 * reach) + 1)
            at = first[:, None] + taps
            apart = np.abs(at + 0.5 - middle[:, None]) / max(scale, 1.0)
            zero = (np.abs(apart - apart.round()) < 1e-6) & (apart > 0.5)
            read = (apart < half) & ~zero & (at >= 0) & (at < size)
            indices.append(np.where(read, at, UNREAD))
        return reader.windowed(x, indices, groups=0)

    return rule


def _factor(given: dict[str, Any], d: int) -> float | None:
    """The scale that a network states, where it does; it counts instead of the sizes' ratio."""
    factors = given.get("scale_factors")
    if factors is None:
        factors = [given[n] for n in ("scales_d", "scales_h", "scales_w", "scales") if n in given]
    return factors[d] if factors and d < len(factors) and factors[d] else None


def _interpolated(out: int, size: int, taps: Any, factor: float | None) -> Array:
    places = np.arange(out, dtype=np.float64)
    scale = 1 / factor if factor else size / out
    if taps is _nearest:
        return np.minimum(np.floor(places * scale + 1e-9), size - 1).astype(np.int64)[:, None]
    if taps is _nearest_exact:
        return np.minimum(np.floor((places + 0.5) * scale), size - 1).astype(np.int64)[:, None]
    source = (places + 0.5) * scale - 0.5
    if taps is _linear:
        source = np.maximum(source, 0)
    base = np.floor(source + 1e-6)
    offsets, weights = taps(source - base)
    index = np.clip(base[:, None].astype(np.int64) + offsets, 0, size - 1)
    return np.where(np.abs(weights) > 1e-6, index, UNREAD)


def _nearest(t: Array) -> tuple[Array, Array]:
    return np.zeros((len(t), 1), np.int64), np.ones((len(t), 1))


def _nearest_exact(t: Array) -> tuple[Array, Array]:
    return _nearest(t)


def _linear(t: Array) -> tuple[Array, Array]:
    return np.array([[0, 1]]), np.stack([1 - t, t], 1)


def _cubic(t: Array) -> tuple[Array, Array]:
    t = t[:, None]
    return np.array([[-1, 0, 1, 2]]), np.concatenate([t, 1 + 0 * t, t, t], 1)


def _padding(place: Callable[[Array, int], Array]) -> Any:
    """Make the rule of a padding; `place` gives what is read at places outside; -1 is nothing."""

    def rule(reader: Reader, given: dict[str, Any]) -> Any:
        x = given["self"]
        pad: Any = given.get("pad", given.get("padding"))
        shape = reader.result_shape()
        first = len(shape) - len(pad) // 2
        indices = []
        for d in range(first, len(shape)):
            before = pad[2 * (len(shape) - 1 - d)]
            at = np.arange(shape[d]) - before
            inside = (at >= 0) & (at < x.shape[d])
            indices.append(np.where(inside, at, place(at, x.shape[d]))[:, None])
        return reader.windowed(x, indices, groups=0)

    return rule


RULES: dict[str, Any] = {
    "convolution _convolution mkldnn_convolution thnn_conv2d": _convolution,
    "max_pool2d_with_indices max_pool3d_with_indices max_pool2d max_pool1d": _pool,
    "avg_pool1d avg_pool2d avg_pool3d": _pool,
    "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d": _adaptive,
    "adaptive_max_pool2d adaptive_max_pool3d adaptive_avg_pool2d": _adaptive,
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d": _upsampling(_nearest),
    "_upsample_nearest_exact1d _upsample_nearest_exact2d": _upsampling(_nearest_exact),
    "_upsample_nearest_exact3d": _upsampling(_nearest_exact),
    "upsample_linear1d upsample_bilinear2d upsample_trilinear3d": _upsampling(_linear),
    "upsample_bicubic2d": _upsampling(_cubic),
    "_upsample_bilinear2d_aa": _smoothing(1),
    "_upsample_bicubic2d_aa": _smoothing(2),
    "constant_pad_nd": _padding(lambda at, size: np.full_like(at, -1)),
    "reflection_pad1d reflection_pad2d reflection_pad3d": _padding(
        lambda at, size: np.where(at < 0, -at, 2 * size - 2 - at)
    ),
    "replication_pad1d replication_pad2d replication_pad3d": _padding(
        lambda at, size: np.clip(at, 0, size - 1)
    ),
}

__all__ = ["RULES"]
