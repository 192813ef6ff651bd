"""Operations of a forward pass that compute statistics over space, in one form.

Knows ATen calls, seen through a dispatch mode: the same for eager modules, TorchScript and
exported programs. Does not know tiles' geometry, files or images.

A normalization that takes mean and variance from the tile it sees couples every pixel to the
whole tile, so that no halo makes tiles agree. All such operations are brought into one form, a
`Call`: features ``(N, C, *spatial)`` whose channels share statistics in groups. A watcher of the
forward pass (`Normalizations`) may answer a call with `Moments` to use instead. Auditing a
network, holding its statistics fixed, summing them up over tiles, switching between training and
evaluation: all of these are answers to calls.

Means and variances that a network takes by hand are calls too, and so are the means of
squeeze-and-excite: where only means and variances over space couple pixels, fixing them leaves a
network of finite reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch

from seamscope.recorded_graph import Dispatch

aten = torch.ops.aten

Forward: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
Kind: TypeAlias = Literal["channel", "group", "layer", "mean", "variance"]


# -- one call


@dataclass(frozen=True)
class Moments:
    """Mean and (population) variance of features.

    Attributes
    ----------
    mean, var
        ``(N or 1, groups, *spatial or 1)``: the same everywhere, or a field over the tile.
    count
        Values that each mean was taken over; only matters where variance is requested with
        another divisor.
    """

    mean: torch.Tensor
    var: torch.Tensor
    count: float = math.inf

    @property
    def constant(self) -> bool:
        """Whether they are the same for all samples and pixels."""
        return self.mean.numel() == self.mean.shape[1]


@dataclass(frozen=True)
class Call:
    """One operation of a forward pass that normalizes, or takes statistics, over space.

    Attributes
    ----------
    kind
        ``"channel"``: InstanceNorm and BatchNorm, which reach ATen alike; ``"group"``;
        ``"layer"``: over channels and space; ``"mean"``, ``"variance"``: taken by hand.
    features
        ``(N, C, *spatial)``, whose statistics these are.
    groups
        Consecutive channels share statistics in so many groups.
    pooled
        Whether the samples of a batch share them too.
    running
        Mean and variance ``(C,)`` that are used instead; None where the features' own are.
    number
        Of the calls of one forward pass, from 0.
    """

    kind: Kind
    features: torch.Tensor
    groups: int
    pooled: bool = False
    running: tuple[torch.Tensor, torch.Tensor] | None = None
    number: int = -1

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.features.shape[1]

    @property
    def space(self) -> tuple[int, ...]:
        """Spatial shape of the features."""
        return tuple(self.features.shape[2:])

    def moments(self) -> Moments:
        """Return the features' own statistics, as the operation itself would take them."""
        grouped = self.features.unflatten(1, (self.groups, -1))
        over = tuple(d for d in range(grouped.ndim) if d > 1 or (d == 0 and self.pooled))
        mean, var = mean_and_variance(grouped, over)
        count = math.prod(grouped.shape[d] for d in over)
        return Moments(mean.flatten(2, 3), var.flatten(2, 3), count)


def mean_and_variance(x: torch.Tensor, over: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and population variance over some dimensions, which are kept; float64.

    Five times faster than `torch.var_mean`; in float64 the plain formula loses nothing.
    """
    if x.device.type == "mps":  # which knows no float64
        var, mean = torch.var_mean(x, over, correction=0, keepdim=True)
        return mean, var
    wide = x.double()
    mean = wide.mean(over, keepdim=True)
    var = wide.square().mean(over, keepdim=True) - mean.square()
    return mean, var.clamp_min(0)


Answer: TypeAlias = Callable[[Call], "Moments | None"]
_Finish: TypeAlias = Callable[[Moments], Any]


class Normalizations(Dispatch):
    """Watches a forward pass, and lets each call be answered.

    Parameters
    ----------
    answer
        Given each `Call` in the order of the forward pass; returns the moments to use, or None to
        let the operation do what it does.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.InstanceNorm2d(4))
    >>> def show(call):
    ...     print(call.kind, call.channels, call.space)
    >>> y = Normalizations(show).run(net, torch.zeros(1, 1, 8, 8))
    channel 4 (6, 6)
    """

    _begin_at = 0  # number of the first call

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer
        self.count = 0
        self.batch = 1
        self.space: tuple[int, ...] = ()  # of the latest image-like tensor

    def run(self, forward: Forward, x: torch.Tensor) -> torch.Tensor:
        """Run a network on ``(N, C, *spatial)`` without gradients."""
        self.count = self._begin_at
        self.batch, self.space = x.shape[0], tuple(x.shape[2:])
        # Under inference_mode composite calls arrive whole and no normalization would be seen; a
        # tensor made there may not be changed in place outside of it, hence the copy.
        with torch.inference_mode(False), torch.no_grad():
            own = x.clone() if x.is_inference() else x
            with self:
                return forward(own)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        reader = _READERS.get(func)
        if reader is not None:
            found = reader(self, func, bound(func, args, kwargs))
            if found is not None:
                call, finish = found
                moments = self.answer(replace(call, number=self.count))
                self.count += 1
                return func(*args, **kwargs) if moments is None else finish(moments)
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.ndim == len(self.space) + 2:
            self._follow(func, result)
        return result

    def _follow(self, func: Any, result: torch.Tensor) -> None:
        """Remember the current spatial shape: what reductions over space reduce."""
        if any(word in func.__name__ for word in _MOVERS):
            self.space = tuple(result.shape[2:])

    # -- reading calls

    def channel_call(
        self, x: torch.Tensor, running: tuple[torch.Tensor, torch.Tensor] | None
    ) -> Call:
        """Read InstanceNorm or BatchNorm; the former comes with its batch folded into channels."""
        folded = x.shape[0] == 1 and self.batch > 1 and x.shape[1] % self.batch == 0
        if folded:
            x = x.unflatten(1, (self.batch, -1))[0]
        x = self.with_space(x)
        if running is not None:
            running = running[0][: x.shape[1]], running[1][: x.shape[1]]
        return Call("channel", x, x.shape[1], pooled=x.shape[0] > 1 and not folded, running=running)

    def with_space(self, x: torch.Tensor) -> torch.Tensor:
        """Give features ``(N, C, flattened)`` the current spatial shape, where it fits."""
        fits = x.ndim == 3 and len(self.space) > 1 and x.shape[2] == math.prod(self.space)
        return x.unflatten(2, self.space) if fits else x

    def reduction_call(self, kind: Kind, x: torch.Tensor, dims: Sequence[int]) -> Call | None:
        """Read a mean or variance taken over at least all of space; None for any other.

        ``(N, C, *spatial)``, ``(N, groups, C / groups, *spatial)``, and both with space, and
        perhaps channels, flattened into one.
        """
        space = self.space
        head = x.ndim - len(space)
        flat = math.prod(space)
        reduced = {d % x.ndim for d in dims} or set(range(x.ndim))
        if head >= 1 and tuple(x.shape[head:]) == space and reduced >= set(range(head, x.ndim)):
            parts = list(x.shape[:head])
        elif kind != "layer" and x.ndim == 3 and 2 in reduced and x.shape[2] % flat == 0:
            parts = [*x.shape[:2], x.shape[2] // flat]
        else:
            return None
        if parts[0] != self.batch:
            return None
        within = [d for d in range(1, len(parts)) if d not in reduced]
        groups = math.prod(parts[d] for d in within)
        if within and within != list(range(1, within[-1] + 1)):
            return None  # kept channels that are no consecutive groups
        return Call(kind, x.reshape(parts[0], -1, *space), groups, pooled=0 in reduced)


_MOVERS = ("conv", "pool", "upsample", "pixel")  # operations that may change the spatial shape


def bound(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the operation's schema."""
    schema = func._schema.arguments
    given = dict(zip((a.name for a in schema), args, strict=False))
    return {a.name: a.default_value for a in schema if a.has_default_value()} | given | kwargs


def _read_batch_norm(
    mode: Normalizations, func: Any, given: dict[str, Any]
) -> tuple[Call, _Finish]:
    x, weight, bias = given["input"], given["weight"], given["bias"]
    own = given.get("training", func in _UPDATING)
    running = None if own else (given["running_mean"], given["running_var"])
    call = mode.channel_call(x, running)
    eps = float(given["eps" if "eps" in given else "epsilon"])

    def finish(moments: Moments) -> tuple[torch.Tensor, ...]:
        y = _normalized(call, moments, weight, bias, eps).reshape(x.shape)
        # what else it returns is for the backward pass
        return (y, *[x.new_empty(0)] * (len(func._schema.returns) - 1))

    return call, finish


def _read_group_norm(
    mode: Normalizations, func: Any, given: dict[str, Any]
) -> tuple[Call, _Finish]:
    x = given["input"]
    features = mode.with_space(x.reshape(given["N"], given["C"], *x.shape[2:]))
    call = Call("group", features, given["group"])

    def finish(moments: Moments) -> tuple[torch.Tensor, ...]:
        y = _normalized(call, moments, given["weight"], given["bias"], given["eps"])
        return y.reshape(x.shape), x.new_empty(0), x.new_empty(0)

    return call, finish


def _read_layer_norm(
    mode: Normalizations, func: Any, given: dict[str, Any]
) -> tuple[Call, _Finish] | None:
    x, shape = given["input"], given["normalized_shape"]
    call = mode.reduction_call("layer", x, range(x.ndim - len(shape), x.ndim))
    if call is None:
        return None

    def finish(moments: Moments) -> tuple[torch.Tensor, ...]:
        y = _normalized(call, moments, None, None, given["eps"]).reshape(x.shape)
        y = y if given["weight"] is None else y * given["weight"]
        y = y if given["bias"] is None else y + given["bias"]
        return y, x.new_empty(0), x.new_empty(0)

    return call, finish


def _normalized(
    call: Call,
    moments: Moments,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias``, by these moments."""
    x = call.features
    share = call.channels // call.groups
    # where the batch is folded into channels, weights are repeated for each sample
    weight, bias = (None if p is None else p.flatten()[: call.channels] for p in (weight, bias))
    mean, var = (_for_channels(m, share) for m in (moments.mean, moments.var))
    if moments.constant:
        wide = torch.promote_types(x.dtype, torch.float32)
        mean, var = mean.flatten().to(wide), var.flatten().to(wide)
        fixed = aten.native_batch_norm.default
        y: torch.Tensor = fixed(x, weight, bias, mean, var, False, 0.0, eps)[0]
        return y
    shape = (1, -1) + (1,) * (x.ndim - 2)
    factor = torch.rsqrt(var + eps)
    factor = (factor if weight is None else factor * weight.view(shape)).to(x.dtype)
    y = (x - mean.to(x.dtype)) * factor
    return y if bias is None else y + bias.view(shape)


def _for_channels(moments: torch.Tensor, share: int) -> torch.Tensor:
    return moments if share == 1 else moments.repeat_interleave(share, 1)


def _reduction(kind: Kind, give: Callable[[Moments, float], Any]) -> Any:
    """Make the reader of a mean or variance taken by hand; `give` makes its result of moments."""

    def read(mode: Normalizations, func: Any, given: dict[str, Any]) -> tuple[Call, _Finish] | None:
        x, dims = given["self"], given.get("dim") or ()
        dims = [dims] if isinstance(dims, int) else list(dims) or list(range(x.ndim))
        call = mode.reduction_call(kind, x, dims)
        if call is None:
            return None
        correction = given.get("correction", 1)
        shape = _reduced_shape(x, dims, given.get("keepdim", False))

        def finish(moments: Moments) -> Any:
            scale = 1 / (1 - (1 if correction is None else correction) / moments.count)
            made = give(moments, scale)
            several = made if isinstance(made, tuple) else (made,)
            results = tuple(_shaped(value, call, shape).to(x.dtype) for value in several)
            return results if isinstance(made, tuple) else results[0]

        return call, finish

    return read


def _reduced_shape(x: torch.Tensor, dims: Sequence[int], keepdim: bool) -> tuple[int, ...]:
    gone = {d % x.ndim for d in dims}
    if keepdim:
        return tuple(1 if d in gone else n for d, n in enumerate(x.shape))
    return tuple(n for d, n in enumerate(x.shape) if d not in gone)


def _shaped(value: torch.Tensor, call: Call, shape: tuple[int, ...]) -> torch.Tensor:
    """Statistics ``(1 or N, groups, 1...)`` in the shape that the network expects."""
    flat = value.reshape(value.shape[0], -1)
    samples = 1 if call.pooled else call.features.shape[0]
    return flat.expand(samples, -1).reshape(shape)


_CHANNEL_NORMS = {
    "native_batch_norm": "default",
    "_native_batch_norm_legit": "default no_stats",
    "_native_batch_norm_legit_no_training": "default",
    "_native_batch_norm_legit_functional": "default",
    "_batch_norm_with_update": "default",
    "_batch_norm_no_update": "default",
    "cudnn_batch_norm": "default",
    "miopen_batch_norm": "default",
}


def _overloads(table: dict[str, str]) -> Iterator[Any]:
    for name, overloads in table.items():
        for overload in overloads.split():
            if hasattr(aten, name) and hasattr(getattr(aten, name), overload):
                yield getattr(getattr(aten, name), overload)


_UPDATING = set(_overloads({"_batch_norm_with_update": "default"}))
_READERS: dict[Any, Any] = {
    **dict.fromkeys(_overloads(_CHANNEL_NORMS), _read_batch_norm),
    aten.native_group_norm.default: _read_group_norm,
    aten.native_layer_norm.default: _read_layer_norm,
    **dict.fromkeys((aten.mean.dim, aten.mean.default), _reduction("mean", lambda m, _: m.mean)),
    aten.var.correction: _reduction("variance", lambda m, k: m.var * k),
    aten.std.correction: _reduction("variance", lambda m, k: (m.var * k).sqrt()),
    aten.var_mean.correction: _reduction("variance", lambda m, k: (m.var * k, m.mean)),
    aten.std_mean.correction: _reduction("variance", lambda m, k: ((m.var * k).sqrt(), m.mean)),
}
