"""List the operations that couple all pixels of a tile, and run a network with fixed statistics.

Knows what calls of a forward pass mean. Does not know tiles' geometry, files or images.

A normalization that takes mean and variance from the tile it sees couples every pixel to the
whole tile, so that no halo makes tiles agree. `audit` lists such layers, by whatever format the
network comes in, and what else couples pixels (attention, global pooling); `FixedStatistics` runs
a network whose statistics no longer depend on its input.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import nn

from seamscope.normalization.calls import Call, Forward, Kind, Moments, Normalizations, bound
from seamscope.normalization.layer_names import LayerNames

Source: TypeAlias = Literal["tile", "group", "batch", "running"]

_MEANINGS: dict[Source, str] = {
    "tile": "Each channel is normalized by its mean and variance over the tile: every pixel "
    "depends on the whole tile, and no halo makes tiles agree. Fixed statistics make it local.",
    "group": "Channels are normalized in {groups} by their mean and variance over the tile: "
    "every pixel depends on the whole tile, and no halo makes tiles agree. Fixed statistics "
    "make it local.",
    "batch": "Each channel is normalized by its mean and variance over all tiles of a batch: "
    "what is predicted depends on which tiles come together. Fixed statistics make it local.",
    "running": "Each channel is normalized by a mean and variance remembered from training, the "
    "same for every tile: it makes no seams, but they may not fit this image.",
}


# -- statistics held fixed


@dataclass(frozen=True)
class StatisticsCall:
    """One normalization of a forward pass that uses statistics of its own input.

    Attributes
    ----------
    kind
        ``"instance or batch"`` (they reach ATen as the same call), ``"group"``, ``"layer"``, or
        ``"hand-written"``.
    channels
        Number of channels normalised.
    """

    kind: str
    channels: int


_KIND_NAMES: dict[Kind, str] = {
    "channel": "instance or batch",
    "group": "group",
    "layer": "layer",
    "mean": "hand-written",
    "variance": "hand-written",
}


class FixedStatistics:
    """Runs a network whose normalizations keep the statistics of the first forward pass.

    The first call records mean and variance of every operation that would take them from its
    input; later ones use the recorded values, in order. What remains is a network of finite reach
    (unless something else couples pixels, such as attention).

    Parameters
    ----------
    forward
        The network, ``(N, C, *spatial)`` to a tensor.

    Attributes
    ----------
    calls
        What was recorded.

    Examples
    --------
    >>> net = torch.nn.InstanceNorm2d(1).eval()
    >>> fixed = FixedStatistics(net)
    >>> x = torch.randn(1, 1, 8, 8)
    >>> bool(torch.allclose(fixed(x), net(x), atol=1e-6))
    True
    >>> bool(torch.allclose(fixed(x + 1), net(x + 1), atol=1e-2))
    False
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._moments: list[Moments] = []
        self.calls: list[StatisticsCall] = []
        self._mode: Normalizations | None = None
        self._next = 0

    @property
    def extent(self) -> int:
        """Values that the largest statistic is taken over; 0 where there is none."""
        return int(max((moments.count for moments in self._moments), default=0))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network once: recording the first time, with what was recorded afterwards."""
        self._next = 0
        answer = self._recorded if self._moments else self._record
        return Normalizations(answer).run(self._forward, x)

    def _record(self, call: Call) -> Moments | None:
        if call.running is not None:
            return None
        moments = call.moments()
        self._moments.append(moments)
        self.calls.append(StatisticsCall(_KIND_NAMES[call.kind], call.channels))
        return moments

    def _recorded(self, call: Call) -> Moments | None:
        if call.running is not None:
            return None
        self._next += 1  # a network that decides by what it sees may take more of them
        return self._moments[self._next - 1] if self._next <= len(self._moments) else None


def statistics_calls(found: Audit) -> tuple[StatisticsCall, ...]:
    """What a first forward pass would record of these layers (see `FixedStatistics`)."""
    kinds = {"GroupNorm": "group", "LayerNorm": "layer", "hand-written": "hand-written"}
    return tuple(
        StatisticsCall(kinds.get(layer.kind, "instance or batch"), layer.channels)
        for layer in found.tile_layers
    )


# -- audit


@dataclass(frozen=True)
class NormLayer:
    """One normalization layer, as seen in a forward pass.

    Attributes
    ----------
    name
        Where the network's format has names, such as ``"down.0.1"``.
    kind
        ``"InstanceNorm"``, ``"BatchNorm"``, ``"InstanceNorm or BatchNorm"`` where nothing shows
        them apart, ``"GroupNorm"``, ``"LayerNorm"``, ``"hand-written"``.
    channels
        Number of channels.
    statistics
        Where mean and variance come from: ``"tile"``, ``"group"`` (groups of the tile's
        channels), ``"batch"``, or ``"running"``, which were remembered in training.
    affine
        Whether scale and shift are learned; None where that is not seen.
    groups
        Consecutive channels share statistics in so many groups.
    calls
        Which calls of the forward pass belong to it; hand-written layers have several.
    """

    name: str | None
    kind: str
    channels: int
    statistics: Source
    affine: bool | None
    groups: int
    calls: tuple[int, ...]

    @property
    def meaning(self) -> str:
        """What the way it normalizes means for tiles, in words."""
        groups = "one group" if self.groups == 1 else f"{self.groups} groups"
        return _MEANINGS[self.statistics].format(groups=groups)


@dataclass(frozen=True)
class GlobalOperation:
    """An operation besides normalization that couples pixels of the whole tile.

    Attributes
    ----------
    op
        ATen's name.
    count
        How often it occurs.
    kind
        ``"attention"``, ``"squeeze-and-excite"``, ``"global pooling"``, ``"adaptive pooling"``,
        ``"maximum over space"``, ``"minimum over space"``, ``"sum over space"``,
        ``"accumulation over space"``, ``"mean over part of space"``,
        ``"Fourier transform"``, ``"normalization with a weight for each pixel"``.
    calls
        Which calls of the forward pass they are, where they take nothing but means over space:
        these can be fixed like a normalization's.
    """

    op: str
    count: int
    kind: str
    calls: tuple[int, ...] = ()

    @property
    def repairable(self) -> bool:
        """Whether fixing statistics makes it local."""
        return bool(self.calls)

    @property
    def name(self) -> str:
        """Its kind, as the subject of a sentence."""
        return f"the {self.kind}" if self.kind.endswith("over space") else self.kind

    def __str__(self) -> str:
        return self.kind if self.count == 1 else f"{self.count} x {self.kind}"


@dataclass(frozen=True)
class Audit:
    """What couples the pixels of a tile in one forward pass.

    Attributes
    ----------
    layers
        Normalizations, in the order of the forward pass.
    global_operations
        What else couples the whole tile.
    watched
        Whether this was seen in a forward pass, whose calls can be answered. Else it was read from
        a graph that another program runs: nothing of it can be fixed.
    """

    layers: tuple[NormLayer, ...]
    global_operations: tuple[GlobalOperation, ...]
    watched: bool = True

    @property
    def tile_layers(self) -> tuple[NormLayer, ...]:
        """Normalizations that use statistics of the tile they see."""
        return tuple(layer for layer in self.layers if layer.statistics != "running")

    @property
    def repairable(self) -> bool:
        """Whether fixing statistics leaves a network of finite reach."""
        return self.watched and all(each.repairable for each in self.global_operations)

    @property
    def calls(self) -> tuple[int, ...]:
        """Calls of the forward pass whose statistics depend on the tile and can be fixed."""
        of_layers = (n for layer in self.tile_layers for n in layer.calls)
        return tuple(sorted({*of_layers, *(n for op in self.global_operations for n in op.calls)}))


def audit(
    forward: Forward,
    x: torch.Tensor,
    larger: torch.Tensor | None = None,
    module: nn.Module | None = None,
) -> Audit:
    """Find all operations that take statistics over space, or couple pixels otherwise.

    Parameters
    ----------
    forward
        The network, ``(N, C, *spatial)`` to a tensor. Its parameters and buffers do not change.
    x
        An input; a small one will do.
    larger
        A larger input, best of two samples: what grows with the input couples the whole tile,
        what does not (attention within windows) only a neighbourhood. By default `x` doubled
        along one axis after another, where the network accepts that.
    module
        Where layers' names are looked up; `forward` itself if it is a module.

    Notes
    -----
    Costs one forward pass, and one of each larger input.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4))
    >>> found = audit(net, torch.zeros(1, 1, 16, 16))
    >>> [(layer.name, layer.kind, layer.statistics) for layer in found.layers]
    [('1', 'InstanceNorm', 'tile'), ('2', 'GroupNorm', 'group')]
    """
    owner = module if module is not None else forward if isinstance(forward, nn.Module) else None
    names = LayerNames(owner)
    small = _Auditor(names)
    with names:
        small.run(forward, x)
    for bigger in _grown(x) if larger is None else (larger, larger[:1]):
        large = _Auditor(LayerNames(None))
        try:
            large.run(forward, bigger)
        except Exception:  # whatever a network raises means "not this size"
            continue
        for axis in range(2, x.ndim - 1) if larger is None else ():
            with contextlib.suppress(Exception):
                longer = _Auditor(LayerNames(None))
                longer.run(forward, torch.cat([x, x.flip(axis)], axis))
                large.grow(longer)
        return _judged(small, large)
    return _judged(small, None)


def _grown(x: torch.Tensor) -> Iterator[torch.Tensor]:
    wider = torch.cat([x, x.flip(-1)], -1)
    yield torch.cat([wider, wider])
    yield wider
    yield torch.cat([x, x])


# -- what is seen


@dataclass(frozen=True)
class _Seen:
    """A call, and what is known of it."""

    call: Kind
    name: str | None
    family: str | None
    channels: int
    groups: int
    extent: int  # values that one mean is taken over
    apart: bool  # samples have statistics of their own, although there were several samples
    running: bool
    affine: bool | None
    stage: int  # dense operations on images that came before
    role: str = ""  # of means: what the network does with them besides normalizing

    @property
    def by_hand(self) -> bool:
        return self.call in ("mean", "variance")

    @property
    def pools(self) -> bool:
        """Whether it is the mean of each channel by itself."""
        return self.call == "mean" and self.groups == self.channels

    @property
    def of(self) -> tuple[Kind, int, int]:
        """What it is, and of how many values."""
        return self.call, self.channels, self.extent

    def continues(self, other: _Seen) -> bool:
        """Whether two statistics taken by hand belong to one normalization."""
        same = (self.stage, self.extent, self.groups) == (other.stage, other.extent, other.groups)
        return same and self.by_hand and other.by_hand


@dataclass(frozen=True)
class _Coupling:
    op: str
    kind: str
    extent: int  # values that one result is made of
    certain: bool  # whether its shape alone shows that it covers space


_Found = TypeVar("_Found", _Seen, _Coupling)


def _larger(one: _Found, other: _Found) -> _Found:
    return replace(one, extent=max(one.extent, other.extent))


class _Auditor(Normalizations):
    """Records calls, and everything else that may couple pixels."""

    def __init__(self, names: LayerNames) -> None:
        super().__init__(self._record)
        self._names = names
        self.seen: list[_Seen] = []
        self.couplings: list[_Coupling] = []
        self._stage = 0
        self._affine: bool | None = None

    def named(self) -> list[_Seen]:
        """What was seen; names that the format lists by themselves are filled in."""
        listed = iter(self._names.listed)
        native = [one for one in self.seen if not one.by_hand]
        if len(self._names.listed) != len(native):
            return self.seen
        filled = []
        for one in self.seen:
            name, family = (one.name, one.family) if one.by_hand else next(listed)
            filled.append(replace(one, name=name, family=family))
        return filled

    def grow(self, other: _Auditor) -> None:
        """Take over larger extents of another input, where the same was seen."""
        if (len(self.seen), len(self.couplings)) == (len(other.seen), len(other.couplings)):
            self.seen = [_larger(one, two) for one, two in zip(self.seen, other.seen, strict=True)]
            both = zip(self.couplings, other.couplings, strict=True)
            self.couplings = [_larger(one, two) for one, two in both]

    def _record(self, call: Call) -> None:
        name, family = self._names.current
        samples = call.features.shape[0]
        self.seen.append(
            _Seen(
                call.kind,
                name,
                family,
                call.channels,
                call.groups,
                extent=call.features[0].numel() // call.groups,
                apart=samples > 1 and not call.pooled,
                running=call.running is not None,
                affine=self._affine,
                stage=self._stage,
            )
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = bound(func, args, kwargs or {})
        first = next((a for a in given.values() if isinstance(a, torch.Tensor)), None)
        self._affine = given["weight"] is not None if "weight" in given else None
        name = func._schema.name.removeprefix("aten::")
        self._follow_means(name, given)
        count = len(self.seen)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if first is not None and len(self.seen) == count:
            self.couplings.extend(self._coupling(name, first, given))
        return result

    def _follow_means(self, name: str, given: dict[str, Any]) -> None:
        """Means that go through dense layers are no normalization: they pool, or gate."""
        dense = name.strip("_") in _DENSE
        if not dense and name not in _GATES:
            return
        x: torch.Tensor = given[next(k for k in ("mat1", "input", "self") if k in given)]
        if x.ndim > 2 and math.prod(x.shape[2:]) > 1:
            self._stage += dense
            return
        means = [n for n, one in enumerate(self.seen) if one.pools and one.stage == self._stage]
        for number in means[-1:]:
            role = self.seen[number].role
            gates = role and not dense
            role = "squeeze-and-excite" if gates else role or ("global pooling" if dense else "")
            self.seen[number] = replace(self.seen[number], role=role)

    def _coupling(self, name: str, x: torch.Tensor, given: dict[str, Any]) -> Iterator[_Coupling]:
        """Tell whether an operation that is no call takes many pixels at once."""
        kind = next((kind for kind, names in _COUPLINGS.items() if name in names), None)
        if kind is None:
            return
        first = x.ndim - len(self.space)
        image = first >= 1 and tuple(x.shape[first:]) == self.space
        if kind == "attention" and "softmax" not in name:
            extent = given.get("key", x).shape[-2]
            yield _Coupling(name, kind, extent, extent == math.prod(self.space))
        elif kind in ("adaptive pooling", "Fourier transform"):
            yield _Coupling(name, kind, math.prod(x.shape[first:]), certain=True)
        else:
            over = _dims(given.get("dim"), x.ndim)
            certain = image and bool(over & set(range(first, x.ndim)))
            if x.ndim > 2 and (certain or not image):
                extent = math.prod(x.shape[d] for d in over)
                yield _Coupling(name, kind, extent, certain or extent == math.prod(self.space))


def _dims(dims: Any, ndim: int) -> set[int]:
    if dims is None or dims == []:
        return set(range(ndim))
    return {d % ndim for d in ([dims] if isinstance(dims, int) else dims)}


_DENSE = ("convolution", "mkldnn_convolution", "cudnn_convolution", "addmm", "mm", "linear")
_GATES = ("sigmoid", "hardsigmoid")
_SDPA = "_scaled_dot_product_"  # torch's own attention
_COUPLINGS = {
    "attention": (
        "_softmax",
        "_safe_softmax",
        "_native_multi_head_attention",
        "_transformer_encoder_layer_fwd",
        f"{_SDPA}flash_attention_for_cpu",
        f"{_SDPA}flash_attention",
        f"{_SDPA}efficient_attention",
        f"{_SDPA}cudnn_attention",
        f"{_SDPA}fused_attention_overrideable",
    ),
    "adaptive pooling": (
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
    ),
    "Fourier transform": ("_fft_r2c", "_fft_c2c"),
    "median over space": ("median", "nanmedian"),
    "rank over space": ("sort", "topk", "kthvalue"),
    "selection over space": ("masked_select", "nonzero", "index"),
    "histogram over space": ("histc", "bincount"),
    "condition over space": ("any", "all"),
    "maximum over space": ("amax", "max"),
    "minimum over space": ("amin", "min"),
    "minimum and maximum over space": ("aminmax",),
    "sum over space": ("sum", "linalg_vector_norm", "logsumexp"),
    "accumulation over space": ("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"),
    "mean over part of space": ("mean", "var", "std", "var_mean", "std_mean"),
}


# -- judging it


def _judged(small: _Auditor, large: _Auditor | None) -> Audit:
    """Tell what couples the whole tile by what grew with it, where a larger input was seen."""
    seen = small.named()
    twins: Sequence[_Seen | None] = [None] * len(seen)
    grew = large is not None and large.space != small.space  # a network may take one size only
    if large is not None and len(large.seen) == len(seen):
        twins = large.seen
    elif large is not None and grew:  # the same in each window, of which a larger tile has more
        windows = {each.of for each in large.seen}
        seen = [one for one in seen if one.of not in windows]
        twins = [None] * len(seen)
    layers: list[NormLayer] = []
    operations = _Operations()
    previous: _Seen | None = None
    for number, (one, twin) in enumerate(zip(seen, twins, strict=True)):
        if grew and not one.running and twin is not None and twin.extent == one.extent:
            continue  # over weights, a window or a neighbourhood, not over the tile
        if one.role:
            operations.add("mean", one.role, number)
        elif one.call == "layer" and one.affine:
            operations.add("native_layer_norm", "normalization with a weight for each pixel")
        elif previous is not None and one.continues(previous):
            layers[-1] = replace(layers[-1], calls=(*layers[-1].calls, number))
        else:
            layers.append(_layer(one, twin, number))
            previous = one
    for coupling in _growing(small, large if grew else None):
        operations.add(coupling.op, coupling.kind)
    return Audit(tuple(layers), tuple(operations.found.values()))


class _Operations:
    """Counts operations by name and kind."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], GlobalOperation] = {}

    def add(self, op: str, kind: str, *calls: int) -> None:
        one = self.found.get((op, kind), GlobalOperation(op, 0, kind))
        self.found[op, kind] = replace(one, count=one.count + 1, calls=(*one.calls, *calls))


def _growing(small: _Auditor, large: _Auditor | None) -> Iterator[_Coupling]:
    if large is None or len(large.couplings) != len(small.couplings):
        windows = set() if large is None else {(one.op, one.extent) for one in large.couplings}
        whole = (one for one in small.couplings if (one.op, one.extent) not in windows)
        yield from (one for one in whole if one.certain)
        return
    for one, twin in zip(small.couplings, large.couplings, strict=True):
        if twin.extent > one.extent:
            yield one


def _layer(one: _Seen, twin: _Seen | None, number: int) -> NormLayer:
    kind, source = _family(one, twin)
    affine = None if one.by_hand else one.affine
    return NormLayer(one.name, kind, one.channels, source, affine, one.groups, (number,))


def _family(one: _Seen, twin: _Seen | None) -> tuple[str, Source]:
    """Name of the layer's kind, and where its statistics come from."""
    if one.call == "group":
        return "GroupNorm", "group"
    if one.call != "channel":
        return "LayerNorm" if one.call == "layer" else "hand-written", "tile"
    kind = one.family or "InstanceNorm or BatchNorm"
    if one.family is None and twin is not None and not one.running:
        kind = "InstanceNorm" if twin.apart else "BatchNorm"
    if one.running:
        return kind, "running"
    return kind, "batch" if kind == "BatchNorm" else "tile"


__all__ = [
    "Audit",
    "FixedStatistics",
    "Forward",
    "GlobalOperation",
    "NormLayer",
    "StatisticsCall",
    "audit",
    "statistics_calls",
]
