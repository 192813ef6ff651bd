"""What the list of a network's operations implies, without looking at a number it computes.

Knows what each ATen operation reads, position by position. Does not know weights, or what a network
gives for an image; `seamscope.models.probe` measures that.

Every operation is carried out on positions instead of values. For each spatial axis, an element of
a tensor is the interval of input pixels ``[lo, hi]`` it depends on, and a *kind*: a hash of how
what it depends on lies relative to `lo`. Reshapes, rolls and windows move intervals; convolutions,
pooling and attention join them::

    input        [0] [1] [2] [3] [4] [5] [6] [7]
    conv 3      [0-1][0-2][1-3] ...                   kinds  a b b b b b b c   (a, c: zeros)
    stride 2    [0-1]     [1-3]     [3-5]     [5-7]
    upsample 2  [0-1][0-1][1-3][1-3][3-5][3-5]...     the interval moves by 2 after 2

Where interval and kind repeat after `q` outputs, moved by `p` pixels, the network has period `p`
and scale `q / p`; the intervals of one period are its receptive field at each phase. That is
interval arithmetic (Araujo, Norris, Sim, *Computing receptive fields of convolutional neural
networks*, Distill 2019) with phases, so that it holds for windows, shuffles and uneven strides.

Statistics over a whole axis (instance, group and layer normalization, squeeze-and-excite, global
response normalization, pooling to one pixel) are listed and then held fixed: what is derived is the
field of the rest. Attention over a whole axis leaves no rest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from seamscope.normalization.calls import bound
from seamscope.tape import Forward, Tape, record

aten = torch.ops.aten
Array: TypeAlias = npt.NDArray[Any]

_NONE = np.int64(1) << 40  # `lo` of what depends on nothing; `hi` is its negative
_MOST = 30_000_000  # elements of an array of positions
_LARGEST = 1 << 18  # pixels of an input that is not made longer
_DEAD = -50.0  # what is so much less than others is nothing after a softmax


# -- what is derived


@dataclass(frozen=True)
class DerivedAxis:
    """What the operations imply for one spatial axis, in input pixels.

    Attributes
    ----------
    period
        Smallest shift of the input that moves the prediction along.
    scale
        Output pixels for each input pixel.
    crop
        Pixels without output ``(before, after)``, for the size that was recorded.
    fields
        Pixels ``(before, after)`` that an output pixel depends on beyond those it covers, for each
        phase: output pixel ``i`` of a tile on the grid has phase ``i % len(fields)``. Statistics
        over the whole axis are held fixed.
    absolute
        Whether the network knows positions in the tile: coordinates, or learned ones.
    fixed
        The only accepted size, where positions were learned for it.
    size, out
        Sizes that were recorded.

    `None` stands for what cannot be derived.
    """

    size: int
    out: int | None = None
    period: int | None = None
    scale: Fraction | None = None
    crop: tuple[int, int] | None = None
    fields: tuple[tuple[int, int], ...] | None = None
    absolute: bool = False
    fixed: int | None = None

    @property
    def reach(self) -> tuple[int, int] | None:
        """The field at the worst phase, for either side by itself."""
        if self.fields is None:
            return None
        return max(0, *(b for b, _ in self.fields)), max(0, *(a for _, a in self.fields))


@dataclass(frozen=True)
class Coupling:
    """An operation that couples the whole tile along some axis.

    Attributes
    ----------
    operation
        Of ATen, such as ``"native_group_norm"``.
    module
        Dotted name of the module that runs it; empty where not known.
    axes
        Spatial axes that it couples.
    statistic
        Whether it is a statistic over the axis, which can be held fixed; else attention, a scan or
        another operation after which every pixel depends on every other.
    """

    operation: str
    module: str
    axes: tuple[int, ...]
    statistic: bool


@dataclass(frozen=True)
class Derived:
    """What a network's operations imply.

    Attributes
    ----------
    axes
        For each spatial axis, with statistics over the whole axis held fixed.
    couplings
        Operations that couple the whole tile; where there are any, no halo makes tiles agree.
    random
        Operations that draw random numbers, with their modules.
    unknown
        Operations that are not understood. Where there are any, nothing is derived of the axes.
    """

    axes: tuple[DerivedAxis, ...]
    couplings: tuple[Coupling, ...] = ()
    random: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def bounded(self) -> bool | None:
        """Whether some halo makes tiles agree; None where that cannot be derived."""
        if self.couplings:
            return False
        known = all(axis.fields is not None for axis in self.axes)
        return True if known and not self.unknown else None


def derive(network: Tape | nn.Module | Forward, example: torch.Tensor) -> Derived:
    """Derive what a network's operations imply.

    Parameters
    ----------
    network
        A tape, or what is recorded: ``(N, C, *spatial)`` to one tensor ``(N, C', *spatial')``.
    example
        One sample of an accepted size. Several periods and receptive fields have to fit into it:
        in too small a one nothing repeats. So a network, but not a tape, is recorded again with a
        longer one along axes in which nothing repeats, up to a million pixels.

    Raises
    ------
    seamscope.tape.Unrecordable
        Where the operations depend on the values of the input.
    """
    if isinstance(network, Tape):
        return _Reader(network, tuple(example.shape)).derived()
    module = network if isinstance(network, nn.Module) else None
    shape = tuple(example.shape)
    tape = record(network, example.clone(), module=module)
    derived = _Reader(tape, shape).derived()
    for axis in range(len(derived.axes)):
        longer = example
        while _worthwhile(derived, axis, longer):
            longer = torch.cat([longer, longer], axis + 2)
            try:
                long_tape = record(network, longer.clone(), module=module)
            except Exception:  # it takes no other size, whatever it raises then
                break
            if len(long_tape.steps) > 1.5 * len(tape.steps):  # once more for each position
                scans = Coupling("scan", _grown(tape, long_tape), (axis,), statistic=False)
                derived = replace(derived, couplings=(*derived.couplings, scans))
                break
            again = _Reader(long_tape, tuple(longer.shape)).derived()
            axes = [*derived.axes]
            axes[axis] = again.axes[axis]
            couplings = _merged((*derived.couplings, *again.couplings))
            derived = replace(derived, axes=tuple(axes), couplings=couplings)
    return derived


def _merged(couplings: Iterable[Coupling]) -> tuple[Coupling, ...]:
    """Each operation once, with all axes that it was found to couple."""
    found: dict[tuple[str, str, bool], set[int]] = {}
    for one in couplings:
        found.setdefault((one.operation, one.module, one.statistic), set()).update(one.axes)
    return tuple(
        Coupling(name, module, tuple(sorted(axes)), statistic)
        for (name, module, statistic), axes in found.items()
    )


def _grown(short: Tape, long: Tape) -> str:
    """The module that does most more operations."""
    counts: Counter[str] = Counter()
    for tape, sign in ((long, 1), (short, -1)):
        for node, _ in tape.steps:
            counts[str(node.meta.get("module", ""))] += sign
    return counts.most_common(1)[0][0]


def _worthwhile(derived: Derived, axis: int, x: torch.Tensor) -> bool:
    """Whether a longer input may show what repeats along an axis."""
    coupled = any(not one.statistic and axis in one.axes for one in derived.couplings)
    found = derived.axes[axis].period is not None or derived.axes[axis].absolute
    pixels = x[0, 0].numel()
    return not (found or coupled or derived.unknown or pixels > _LARGEST)


# -- intervals


@dataclass(frozen=True)
class _Seen:
    """Intervals and kinds of a tensor's elements, for one spatial axis of the input.

    Each dimension is as long as the tensor's, or 1 where all of it is alike.
    """

    lo: Array
    hi: Array
    kind: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.lo.shape)

    def each(self, change: Callable[[Array], Array]) -> _Seen:
        return _Seen(change(self.lo), change(self.hi), change(self.kind))

    def taken(self, places: Array, dim: int) -> _Seen:
        return self.each(lambda a: np.take(a, places, dim))

    def wide(self, shape: Sequence[int]) -> _Seen:
        return self.each(lambda a: np.broadcast_to(a, tuple(shape)))

    def where(self, keep: Array) -> _Seen:
        """What is not kept depends on nothing."""
        lo, hi = np.where(keep, self.lo, _NONE), np.where(keep, self.hi, -_NONE)
        return _Seen(lo, hi, np.where(keep, self.kind, np.uint64(1)))


def _mixed(values: Array) -> Array:
    """splitmix64 (Steele, Lea, Flood 2014)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _kinds(seen: _Seen, lo: Array, tag: Any) -> Array:
    """Kinds of parts, with where they lie relative to the whole and which part they are."""
    apart = np.where(seen.lo == _NONE, np.int64(-1), seen.lo - np.where(lo == _NONE, 0, lo))
    length = np.maximum(seen.hi - seen.lo, -1)
    tagged = _mixed(
        np.atleast_1d(np.asarray(tag, np.uint64)) * np.uint64(0x2545F4914F6CDD1D) + np.uint64(7)
    )
    return _mixed(seen.kind + _mixed(apart.astype(np.uint64)) + tagged + length.astype(np.uint64))


def _joined(parts: Sequence[_Seen]) -> _Seen:
    """Elements that depend on one element of each part."""
    if len(parts) == 1:
        return parts[0]
    shape = np.broadcast_shapes(*(part.shape for part in parts))
    _check_room(shape)
    lo = parts[0].lo
    hi = parts[0].hi
    for part in parts[1:]:
        lo, hi = np.minimum(lo, part.lo), np.maximum(hi, part.hi)
    kind = np.zeros(shape, np.uint64)
    for tag, part in enumerate(parts):
        kind = kind + _kinds(part, lo, tag)
    return _Seen(lo, hi, kind)


def _reduced(seen: _Seen, dim: int) -> _Seen:
    """Elements that depend on all along a dimension, which is kept with length 1."""
    if seen.shape[dim] == 1:
        return seen
    lo, hi = seen.lo.min(dim, keepdims=True), seen.hi.max(dim, keepdims=True)
    index = np.arange(seen.shape[dim], dtype=np.uint64)
    tags = index.reshape([-1 if d == dim % seen.lo.ndim else 1 for d in range(seen.lo.ndim)])
    kind = _kinds(seen, lo, tags).sum(dim, keepdims=True, dtype=np.uint64)
    return _Seen(lo, hi, kind)


def _gathered(seen: _Seen, dim: int, index: Array) -> _Seen:
    """Elements that depend on those at ``index[o, k]`` along a dimension; below 0 is padding."""
    if seen.shape[dim] == 1 and (index >= 0).any(1).all():
        return seen
    if seen.shape[dim] == 1:
        seen = seen.each(lambda a: np.repeat(a, int(index.max()) + 1, dim))
    parts = []
    for k in range(index.shape[1]):
        inside = index[:, k] >= 0
        at = np.maximum(index[:, k], 0)
        keep = inside.reshape([-1 if d == dim % seen.lo.ndim else 1 for d in range(seen.lo.ndim)])
        parts.append(seen.taken(at, dim).where(keep))
    return _joined(parts)


def _check_room(shape: Sequence[int]) -> None:
    if math.prod(shape) > _MOST:
        raise _NotUnderstood("too many positions")


class _NotUnderstood(Exception):  # noqa: N818  (a reason to list an operation)
    """Why an operation cannot be read."""


@dataclass(frozen=True)
class _Value:
    """What a tensor depends on.

    Attributes
    ----------
    shape
        Of the tensor.
    axes
        For each spatial axis.
    dead
        Elements that a softmax makes 0, or that are 0 after one; shaped as positions are.
    """

    shape: tuple[int, ...]
    axes: tuple[_Seen, ...]
    dead: Array | None = None

    def moved(self, shape: Sequence[int], change: Callable[[Array], Array]) -> _Value:
        """The same elements at other places."""
        dead = None if self.dead is None else change(self.dead)
        return _Value(tuple(shape), tuple(one.each(change) for one in self.axes), dead)

    def remade(self, shape: Sequence[int], change: Callable[[_Seen], _Seen]) -> _Value:
        return _Value(tuple(shape), tuple(change(one) for one in self.axes))


# -- moving positions


def _reshaped(array: Array, old: Sequence[int], new: Sequence[int]) -> Array:
    """Reshape positions of a tensor ``old`` to ``new``; what is alike stays of length 1."""
    wide: list[int] = []
    short: list[int] = []
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while math.prod(old[a:i]) != math.prod(new[b:j]):
            if math.prod(old[a:i]) < math.prod(new[b:j]) and i < len(old):
                i += 1
            else:
                j += 1
        alike = all(n == 1 for n in array.shape[a:i])
        wide += [1] * (i - a) if alike else list(old[a:i])
        short += [1] * (j - b) if alike else list(new[b:j])
    _check_room(wide)
    return np.broadcast_to(array, wide).reshape(short)


def _short(seen: _Seen) -> _Seen:
    """Give dimensions along which all is alike the length 1."""
    for dim in range(seen.lo.ndim):
        first = seen.taken(np.array([0]), dim)
        if seen.shape[dim] > 1 and all(
            bool((getattr(seen, name) == getattr(first, name)).all())
            for name in ("lo", "hi", "kind")
        ):
            seen = first
    return seen


def _sliced(value: _Value, dim: int, index: Array) -> _Value:
    """Elements at these places along a dimension."""
    shape = [*value.shape]
    shape[dim] = len(index)
    return value.moved(shape, lambda a: a if a.shape[dim] == 1 else np.take(a, index, dim))


def _windows(out: int, size: int, starts: Array, steps: Array) -> Array:
    """Places ``(out, taps)`` that windows read; -1 beyond the ends."""
    index = starts[:, None] + steps[None]
    return np.where((index >= 0) & (index < size), index, -1)


# -- reading operations


class _Reader:
    """Carries positions through a tape."""

    def __init__(self, tape: Tape, shape: tuple[int, ...]) -> None:
        self._tape, self._input = tape, shape
        self._env: dict[str, Any] = {}
        self.couplings: dict[tuple[str, str, bool], set[int]] = {}
        self.random: list[str] = []
        self.unknown: list[str] = []
        self.absolute: set[int] = set()  # axes along which a number differs for each position
        self.learned: set[int] = set()  # and those where it is a weight
        self._node: fx.Node
        self._weights = {
            one.untyped_storage()._cdata
            for one in tape.constants.values()
            if isinstance(one, nn.Parameter)
        }

    def derived(self) -> Derived:
        """Read all operations."""
        axes = range(len(self._input) - 2)
        none = tuple(DerivedAxis(size) for size in self._input[2:])
        try:
            result = self._read()
        except _NotUnderstood as why:
            self.unknown.append(str(why))
            result = None
        couplings = tuple(
            Coupling(name, module, tuple(sorted(found)), statistic)
            for (name, module, statistic), found in self.couplings.items()
        )
        about = couplings, tuple(self.random), tuple(dict.fromkeys(self.unknown))
        if result is None or len(result.shape) != len(self._input):
            return Derived(none, *about)
        return Derived(tuple(self._axis(result, axis) for axis in axes), *about)

    def _axis(self, result: _Value, axis: int) -> DerivedAxis:
        seen = result.axes[axis]
        for dim in range(len(result.shape)):
            if dim != axis + 2:
                seen = _reduced(seen, dim)
        size, out = self._input[axis + 2], result.shape[axis + 2]
        fixed = size if axis in self.learned else None
        known = DerivedAxis(size, out, fixed=fixed, absolute=axis in self.absolute)
        hard = [axes for (_, _, statistic), axes in self.couplings.items() if not statistic]
        if any(axis in axes for axes in hard) or seen.shape[axis + 2] == 1:
            return known
        return _repeating(known, seen.lo.ravel(), seen.hi.ravel(), seen.kind.ravel())

    def _read(self) -> _Value | None:
        ndim = len(self._input)
        seen = []
        for axis in range(ndim - 2):
            place = np.arange(self._input[axis + 2], dtype=np.int64)
            place = place.reshape([-1 if d == axis + 2 else 1 for d in range(ndim)])
            seen.append(_Seen(place, place, np.zeros(place.shape, np.uint64)))
        self._env = {"x": _Value(self._input, tuple(seen)), **self._tape.constants}
        with torch.no_grad():
            for node, dead in self._tape.steps:
                if node.op == "output":
                    found = fx.map_arg(node.args[0], self._value)
                    while isinstance(found, (list, tuple)) and len(found) == 1:
                        found = found[0]
                    return found if isinstance(found, _Value) else None
                self._node = node
                self._env[node.name] = self._operation(node)
                for name in dead:
                    self._env.pop(name, None)
        return None

    def _value(self, node: fx.Node) -> Any:
        return self._env[node.name]

    def _operation(self, node: fx.Node) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._value)
        func: Any = node.target
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if torch.Tag.nondeterministic_seeded in func.tags and _draws(name, func, args, kwargs):
            self.random.append(f"{name} in {self._module}" if self._module else name)
        given = bound(func, args, kwargs)
        values = [one for one in _values(args) if isinstance(one, _Value)]
        if not values:
            return func(*args, **kwargs)
        rule = _RULES.get(name)
        try:
            # what only changes the numbers of a part leaves what they depend on
            several = sum(1 for _ in _values((args, kwargs))) > 1 or name in ("fill", "zero")
            if func._schema.is_mutable and several and _is_shared(node.args[0]):
                part: Any = node.args[0]
                return self._write(part, given)
            if rule is not None:
                return rule(self, given)
            if _is_pointwise(func, name):
                return self.pointwise(args, kwargs)
        except _NotUnderstood as why:
            raise _NotUnderstood(f"{name} in {self._module}: {why}") from None
        raise _NotUnderstood(f"{name} in {self._module}" if self._module else name)

    @property
    def several(self) -> int:
        """How many results the operation has; 0 for one that is no list."""
        func: Any = self._node.target
        count = len(func._schema.returns)
        return count if count > 1 else 0

    @property
    def meta(self) -> torch.Tensor:
        """The result without content."""
        found: torch.Tensor = self._node.meta["val"]
        return found

    @property
    def name(self) -> str:
        """The operation."""
        func: Any = self._node.target
        return str(func._schema.name.removeprefix("aten::").rstrip("_"))

    @property
    def _module(self) -> str:
        return str(self._node.meta.get("module", ""))

    def result_shape(self) -> tuple[int, ...]:
        """Shape of the result, or of the first of several."""
        node = self._node
        while "val" not in node.meta:
            node = next(one for one in node.users if one.args[1] == 0)
        return tuple(node.meta["val"].shape)

    def couple(self, axes: Iterable[int], statistic: bool) -> None:
        func: Any = self._node.target
        name = func._schema.name.removeprefix("aten::")
        for axis in axes:
            self.couplings.setdefault((name, self._module, statistic), set()).add(axis)

    # -- writing into a part of a tensor

    def _write(self, part: fx.Node, given: dict[str, Any]) -> _Value:
        """Copy into slices of a tensor, which is from then on what it was and what was copied."""
        if self.name not in ("copy", "fill", "zero"):
            raise _NotUnderstood("writes into a part of a tensor")
        places, base = self._places(part)
        old = self._env.get(base.name)
        given_source = given.get("src", given.get("value"))
        new = given_source if isinstance(given_source, _Value) else None
        if old is None:  # nobody reads it any more
            return self._value(part) if new is None else new
        example = new if new is not None else old
        old = old if isinstance(old, _Value) else _empty(old, len(example.axes))
        new = _empty(torch.empty(()), len(example.axes)) if new is None else new
        new = _padded(new, len(old.shape))
        self._env[base.name] = _Value(
            old.shape,
            tuple(
                _with_part(o, n, places, old.shape) for o, n in zip(old.axes, new.axes, strict=True)
            ),
        )
        return _Value(tuple(len(p) for p in places), new.axes)

    def _places(self, part: fx.Node) -> tuple[list[Array], fx.Node]:
        """Where in the tensor behind it a slice of slices lies, along each dimension."""
        if not _is_view(part):
            return [np.arange(n) for n in part.meta["val"].shape], part
        func: Any = part.target
        if func is not aten.slice.Tensor:
            raise _NotUnderstood("writes into a part of a tensor that is no slice")
        source: Any = part.args[0]
        places, base = self._places(source)
        given = bound(func, part.args, dict(part.kwargs))
        dim = given["dim"] % len(places)
        places[dim] = places[dim][slice(given.get("start"), given.get("end"), given.get("step", 1))]
        return places, base

    # -- elementwise

    def pointwise(self, args: Any, kwargs: Any = None) -> _Value:
        shape = self.result_shape()
        given = [_padded(one, len(shape)) for one in _values((args, kwargs))]
        values = [one for one in given if isinstance(one, _Value)]
        constants = [one for one in given if isinstance(one, torch.Tensor)]
        dead = [one.dead for one in values if one.dead is not None]
        buried = [mask for one in constants if (mask := _buried(one)) is not None]
        axes = []
        for axis in range(len(values[0].axes)):
            own = [one.axes[axis] for one in values]
            full = np.broadcast_shapes(*(one.shape for one in own))
            extra = [c for one in constants if (c := self._constant(one, full, axis)) is not None]
            axes.append(_joined([*own, *extra]))
        masks = [*dead, *buried]
        return _Value(shape, tuple(axes), _any(masks) if masks else None)

    def constant(self, tensor: torch.Tensor, beside: _Value, dim: int) -> _Value:
        """A constant that is put beside a value along a dimension: what differs along positions."""
        made = _empty(tensor, len(beside.axes))
        axes = []
        for axis, seen in enumerate(beside.axes):
            full = [1 if d == dim else n for d, n in enumerate(seen.shape)]
            found = self._constant(tensor, full, axis)
            axes.append(made.axes[axis] if found is None else found)
        return replace(made, axes=tuple(axes))

    def _constant(self, tensor: torch.Tensor, full: Sequence[int], axis: int) -> _Seen | None:
        """What differs along positions in a constant, such as learned ones; None where nothing."""
        dims = [d for d in range(tensor.ndim) if full[d] > 1 and tensor.shape[d] > 1]
        if not dims:
            return None
        hashed = _hashed(tensor, dims)
        none = np.full(hashed.shape, _NONE)
        seen = _short(_Seen(none, -none, hashed))
        if seen.lo.size == 1:
            return None
        # the same in each window is no position in the tile
        everywhere = all(d in dims for d in range(tensor.ndim) if full[d] > 1)
        if everywhere and len(np.unique(seen.kind)) == seen.kind.size:
            self.absolute.add(axis)
            if tensor.untyped_storage()._cdata in self._weights:
                self.learned.add(axis)  # as they are, so that they fit one size
        return seen

    # -- normalizations and statistics

    def over(self, value: _Value, dims: Sequence[int], keep: bool) -> _Value:
        """Statistics over dimensions, held fixed where they are over the whole of an axis."""
        held = []
        for axis, seen in enumerate(value.axes):
            made = seen
            for dim in dims:
                made = _reduced(made, dim % len(value.shape))
            if made is not seen and _is_whole(made, seen):
                self.couple([axis], statistic=True)
                made = _Seen(
                    np.full_like(made.lo, _NONE), np.full_like(made.hi, -_NONE), made.kind * 0 + 1
                )
            held.append(_joined([seen, made]) if keep and made is not seen else made)
        shape = [1 if d in {n % len(value.shape) for n in dims} else n
                 for d, n in enumerate(value.shape)]  # fmt: skip
        if keep:
            held = [s if m is None else m for s, m in zip(value.axes, held, strict=True)]
            return _Value(value.shape, tuple(held), value.dead)
        return _Value(tuple(shape), tuple(held))

    # -- contractions

    def contracted(self, a: Any, b: Any, shape: Sequence[int] | None = None) -> _Value:
        """``(..., m, k) @ (..., k, n)``."""
        shape = self.result_shape() if shape is None else tuple(shape)
        axes = []
        one = a if isinstance(a, _Value) else b
        dead = a.dead if isinstance(a, _Value) else None
        for axis in range(len(one.axes)):
            left = a.axes[axis] if isinstance(a, _Value) else None
            right = b.axes[axis] if isinstance(b, _Value) else None
            if left is not None and right is not None:
                made = self._paired(left, right, dead)
            else:
                dim = -1 if left is not None else -2
                seen = left if left is not None else right
                assert seen is not None
                made = _reduced(seen, dim % seen.lo.ndim)
                outs = shape[-1 if left is not None else -2]
                if made is not seen and outs > 1:  # each output weighs positions in its own way
                    index = np.arange(outs, dtype=np.uint64)
                    tags: Array = index.reshape(-1, 1) if left is None else index
                    made = replace(made, kind=_mixed(made.kind + tags))
                    full = np.broadcast_shapes(made.lo.shape, made.kind.shape)
                    made = made.wide(full)
            sources = [s for s in (left, right) if s is not None and s.lo.size > 1]
            if sources and _is_whole(made, *sources):
                self.couple([axis], statistic=False)
            axes.append(_short(made))
        return _Value(shape, tuple(axes))

    @staticmethod
    def _paired(left: _Seen, right: _Seen, dead: Array | None) -> _Seen:
        last = left.lo.ndim - 1
        if dead is None or right.shape[last - 1] == 1:
            return _joined([_reduced(left, last), _reduced(right, last - 1)])
        turned = _reduced(right, last).each(lambda x: np.swapaxes(x, -1, -2))
        both = _joined([left, turned])
        shape = np.broadcast_shapes(both.shape, dead.shape)
        _check_room(shape)
        both = both.each(lambda x: np.broadcast_to(x, shape))
        return _reduced(both.where(~np.broadcast_to(dead, shape)), last)

    def softmax(self, value: _Value, dim: int) -> _Value:
        """Each element depends on all that live along a dimension."""
        dim %= len(value.shape)
        axes = []
        for axis, seen in enumerate(value.axes):
            alive = seen
            if value.dead is not None:
                shape = np.broadcast_shapes(seen.shape, value.dead.shape)
                alive = seen.wide(shape).where(~np.broadcast_to(value.dead, shape))
            made = _joined([seen, _reduced(alive, dim)])
            if seen.shape[dim] > 1 and _is_whole(made, seen):
                self.couple([axis], statistic=False)
            axes.append(made)
        return _Value(value.shape, tuple(axes), value.dead)

    # -- windows

    def windowed(self, value: _Value, indices: Sequence[Array], groups: int = 1) -> _Value:
        """Convolve or pool: along each of the last dimensions, read places by index."""
        first = len(value.shape) - len(indices)

        def change(seen: _Seen) -> _Seen:
            if groups and first > 0:
                seen = _channels(seen, first - 1, value.shape[first - 1], groups)
            for d, index in enumerate(indices):
                seen = _gathered(seen, first + d, index)
            return _short(seen) if groups == 0 else seen

        return value.remade(self.result_shape(), change)


def _channels(seen: _Seen, dim: int, count: int, groups: int) -> _Seen:
    """Join the channels of each group, where they differ."""
    if seen.shape[dim] == 1:
        return seen
    if groups == 1:
        return _reduced(seen, dim)
    if groups == count:
        return seen
    raise _NotUnderstood("positions in grouped channels")


def _is_whole(made: _Seen, *sources: _Seen) -> bool:
    """Whether all elements depend on a whole axis, and those before did not."""
    lo, hi = min(s.lo.min() for s in sources), max(s.hi.max() for s in sources)
    if lo >= hi or any(bool((s.lo == lo).all() and (s.hi == hi).all()) for s in sources):
        return False
    return bool((made.lo == lo).all() and (made.hi == hi).all())


def _is_view(node: Any) -> bool:
    """Whether a node is another look at the tensor that it is given."""
    if not isinstance(node, fx.Node) or not isinstance(node.target, torch._ops.OpOverload):
        return False
    schema = node.target._schema
    return not schema.is_mutable and any(one.alias_info is not None for one in schema.returns)


def _is_shared(node: Any) -> bool:
    """Whether a node is a look at a tensor that others look at too."""
    while _is_view(node):
        node = node.args[0]
        if len(node.users) > 1:
            return True
    return False


def _with_part(old: _Seen, new: _Seen, places: Sequence[Array], shape: Sequence[int]) -> _Seen:
    """Positions of a tensor after a part of it was written."""
    wide = [
        n if o > 1 or w > 1 or len(p) < n else 1
        for n, o, w, p in zip(shape, old.shape, new.shape, places, strict=True)
    ]
    _check_room(wide)
    at = np.ix_(*(p if n > 1 else p[:1] for n, p in zip(wide, places, strict=True)))

    def change(name: str) -> Array:
        made = np.broadcast_to(getattr(old, name), wide).copy()
        made[at] = getattr(new, name)
        return made

    return _Seen(change("lo"), change("hi"), change("kind"))


def _values(given: Any) -> Iterator[Any]:
    if isinstance(given, (_Value, torch.Tensor)):
        yield given
    elif isinstance(given, (list, tuple)):
        for one in given:
            yield from _values(one)
    elif isinstance(given, dict):
        yield from _values(list(given.values()))


def _padded(one: Any, ndim: int) -> Any:
    """Give leading dimensions of length 1."""
    more = ndim - (one.ndim if isinstance(one, torch.Tensor) else len(one.shape))
    if more <= 0:
        return one
    if isinstance(one, torch.Tensor):
        return one[(None,) * more]
    return one.moved((1,) * more + one.shape, lambda a: a[(None,) * more])


def _any(masks: Sequence[Array]) -> Array:
    found = masks[0]
    for mask in masks[1:]:
        found = found | mask
    return found


def _buried(tensor: torch.Tensor) -> Array | None:
    """Where a constant that is added makes a softmax 0."""
    if not tensor.is_floating_point() or tensor.numel() < 2:
        return None
    dead = tensor <= _DEAD
    return dead.numpy() if bool(dead.any()) and not bool(dead.all()) else None


def _hashed(tensor: torch.Tensor, dims: Sequence[int]) -> Array:
    """Hash of a constant at each place along some dimensions; it is summed over the others."""
    values = tensor.detach().double().contiguous().numpy()
    kinds = _mixed(values.view(np.uint64).reshape(values.shape))
    for d in range(values.ndim):
        if d not in dims:
            index = np.arange(values.shape[d], dtype=np.uint64)
            index = index.reshape([-1 if e == d else 1 for e in range(values.ndim)])
            kinds = _mixed(kinds + _mixed(index)).sum(d, keepdims=True, dtype=np.uint64)
    return kinds


def _draws(name: str, func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation draws random numbers here: attention without dropout draws none."""
    given = bound(func, args, kwargs)
    return float(given.get("dropout_p", given.get("p", 1.0)) or 0.0) > 0


_NOT_POINTWISE = ("as_strided", "resize", "set", "set_data")


def _is_pointwise(func: Any, name: str) -> bool:
    return torch.Tag.pointwise in func.tags or name in _POINTWISE


_ELEMENTWISE = """
clone _to_copy to detach alias contiguous lift_fresh_copy where masked_fill threshold relu gelu
silu hardtanh hardswish leaky_relu elu prelu _prelu_kernel native_dropout dropout bernoulli
clamp clamp_min clamp_max sigmoid tanh softplus mish celu selu hardsigmoid add sub mul div pow
rsqrt sqrt exp log erf neg abs square minimum maximum fill_diagonal logical_not eq ne lt le gt
ge type_as addcmul addcdiv lerp _conj round floor ceil rsub bitwise_and
"""
_POINTWISE = frozenset(_ELEMENTWISE.split())


# -- rules: from an operation's arguments to its result


def _tuple(given: Any, count: int) -> tuple[int, ...]:
    values = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    return values * count if len(values) == 1 else values


def _convolution(reader: _Reader, given: dict[str, Any]) -> Any:
    x, weight = given["input"], given["weight"]
    if not isinstance(x, _Value) or isinstance(weight, _Value):
        raise _NotUnderstood("weights made of the input")
    count = weight.ndim - 2
    shape = reader.result_shape()
    stride, padding, dilation = (
        _tuple(given[name], count) for name in ("stride", "padding", "dilation")
    )
    indices = []
    for d in range(count):
        taps = np.arange(weight.shape[d + 2], dtype=np.int64) * dilation[d]
        out, size = shape[d + 2], x.shape[d + 2]
        if given.get("transposed"):
            at = np.arange(out)[:, None] + padding[d] - taps[None]
            index = np.where(at % stride[d] == 0, at // stride[d], -1)
            indices.append(np.where((index >= 0) & (index < size), index, -1))
        else:
            indices.append(_windows(out, size, np.arange(out) * stride[d] - padding[d], taps))
    return reader.windowed(x, indices, given.get("groups", 1))


def _pool(reader: _Reader, given: dict[str, Any]) -> Any:
    x: _Value = given["self"]
    count = (
        len(x.shape) - 2 if len(_tuple(given["kernel_size"], 1)) == 1 else len(given["kernel_size"])
    )
    shape = reader.result_shape()
    kernel = _tuple(given["kernel_size"], count)
    stride = _tuple(given.get("stride") or kernel, count)
    padding, dilation = _tuple(given["padding"], count), _tuple(given.get("dilation", 1), count)
    first = len(x.shape) - count
    indices = []
    for d in range(count):
        out, size = shape[first + d], x.shape[first + d]
        starts = np.arange(out) * stride[d] - padding[d]
        indices.append(_windows(out, size, starts, np.arange(kernel[d]) * dilation[d]))
    made = reader.windowed(x, indices, groups=0)
    return (made, made) if reader.several else made


def _adaptive(reader: _Reader, given: dict[str, Any]) -> Any:
    """Its windows are as large as the tile makes them: a statistic."""
    x: _Value = given["self"]
    shape = reader.result_shape()
    axes = []
    for axis, seen in enumerate(x.axes):
        dims = [d for d in range(len(shape)) if shape[d] != x.shape[d] and seen.shape[d] > 1]
        if dims:
            reader.couple([axis], statistic=True)
            for d in dims:
                seen = _reduced(seen, d)
            seen = _fixed(seen)
        axes.append(seen)
    made = _Value(shape, tuple(axes))
    return (made, made) if reader.several else made


def _fixed(seen: _Seen) -> _Seen:
    """A statistic that is held fixed."""
    none = np.full_like(seen.lo, _NONE)
    return _Seen(none, -none, np.ones_like(seen.kind))


def _upsample(taps: Callable[[Array], tuple[Array, Array]]) -> Any:
    """Make the rule of an interpolation; `taps` gives offsets and weights at fractions."""

    def rule(reader: _Reader, given: dict[str, Any]) -> Any:
        x, shape = given["self"], reader.result_shape()
        corners = bool(given.get("align_corners", False))
        indices = []
        for d in range(2, len(shape)):
            out, size = shape[d], x.shape[d]
            if corners and out != size:
                reader.couple(
                    [a for a, seen in enumerate(x.axes) if seen.shape[d] > 1], statistic=False
                )
            indices.append(_interpolated(out, size, taps, corners, _factor(given, d - 2)))
        return reader.windowed(x, indices, groups=0)

    return rule


def _factor(given: dict[str, Any], d: int) -> float | None:
    """The scale that a network states, where it does; it counts instead of the sizes' ratio."""
    factors = given.get("scale_factors")
    if factors is None:
        factors = [given[n] for n in ("scales_d", "scales_h", "scales_w", "scales") if n in given]
    return factors[d] if factors and d < len(factors) and factors[d] else None


def _interpolated(out: int, size: int, taps: Any, corners: bool, factor: float | None) -> Array:
    places = np.arange(out, dtype=np.float64)
    scale = 1 / factor if factor else size / out
    if taps is _nearest:
        return np.minimum(np.floor(places * scale + 1e-9), size - 1).astype(np.int64)[:, None]
    if taps is _nearest_exact:
        return np.minimum(np.floor((places + 0.5) * scale), size - 1).astype(np.int64)[:, None]
    source = places * ((size - 1) / max(out - 1, 1)) if corners else (places + 0.5) * scale - 0.5
    if taps is _linear and not corners:
        source = np.maximum(source, 0)
    base = np.floor(source + 1e-6)
    offsets, weights = taps(source - base)
    index = np.clip(base[:, None].astype(np.int64) + offsets, 0, size - 1)
    return np.where(np.abs(weights) > 1e-6, index, -1)


def _nearest(t: Array) -> tuple[Array, Array]:
    return np.zeros((len(t), 1), np.int64), np.ones((len(t), 1))


def _nearest_exact(t: Array) -> tuple[Array, Array]:
    return _nearest(t)


def _linear(t: Array) -> tuple[Array, Array]:
    return np.array([[0, 1]]), np.stack([1 - t, t], 1)


def _cubic(t: Array) -> tuple[Array, Array]:
    t = t[:, None]
    return np.array([[-1, 0, 1, 2]]), np.concatenate([t, 1 + 0 * t, t, t], 1)


def _reduction(reader: _Reader, given: dict[str, Any]) -> Any:
    x: _Value = given["self"]
    dims = given.get("dim")
    dims = list(range(len(x.shape))) if dims is None or dims == [] else dims
    dims = [d % max(1, len(x.shape)) for d in (dims if isinstance(dims, (list, tuple)) else [dims])]
    made = reader.over(x, dims, keep=False)
    if not given.get("keepdim", False):
        shape = [n for d, n in enumerate(made.shape) if d not in dims]
        made = made.moved(shape, lambda a: a.squeeze(tuple(dims)))
    return (made, made) if reader.several else made


def _batch_norm(reader: _Reader, given: dict[str, Any]) -> Any:
    x: _Value = given["input"]
    own = given.get("training", given.get("running_mean") is None)
    made = reader.over(x, [d for d in range(len(x.shape)) if d != 1], keep=True) if own else x
    return (made, None, None, None)[: reader.several] if reader.several else made


def _group_norm(reader: _Reader, given: dict[str, Any]) -> Any:
    x: _Value = given["input"]
    return reader.over(x, range(1, len(x.shape)), keep=True), None, None


def _layer_norm(reader: _Reader, given: dict[str, Any]) -> Any:
    x: _Value = given["input"]
    count = len(given["normalized_shape"])
    return reader.over(x, range(len(x.shape) - count, len(x.shape)), keep=True), None, None


def _view(reader: _Reader, given: dict[str, Any]) -> Any:
    x, shape = given["self"], reader.result_shape()
    made = x.moved(shape, lambda a: _reshaped(a, x.shape, shape))
    return replace(made, axes=tuple(_short(one) for one in made.axes))


def _permute(reader: _Reader, given: dict[str, Any]) -> Any:
    x, shape = given["self"], reader.result_shape()
    count = len(x.shape)
    if "dims" in given:
        order = [d % count for d in given["dims"]]
    else:
        order = list(range(count))
        one, two = given.get("dim0", 0) % count, given.get("dim1", 1) % count
        order[one], order[two] = order[two], order[one]
    return x.moved(shape, lambda a: a.transpose(order))


def _expand(reader: _Reader, given: dict[str, Any]) -> Any:
    x, shape = given["self"], reader.result_shape()
    more = len(shape) - len(x.shape)
    return x.moved(shape, lambda a: a.reshape((1,) * more + a.shape))


def _unsqueeze(reader: _Reader, given: dict[str, Any]) -> Any:
    x, shape = given["self"], reader.result_shape()
    dim = given["dim"] % len(shape)
    return x.moved(shape, lambda a: np.expand_dims(a, dim))


def _squeeze(reader: _Reader, given: dict[str, Any]) -> Any:
    x, shape = given["self"], reader.result_shape()
    dims = given.get("dim", range(len(x.shape)))
    dims = [dims] if isinstance(dims, int) else dims
    gone = {d % len(x.shape) for d in dims if x.shape[d] == 1}
    return x.moved(shape, lambda a: a.reshape([n for d, n in enumerate(a.shape) if d not in gone]))


def _slice(reader: _Reader, given: dict[str, Any]) -> Any:
    x, dim = given["self"], given["dim"] % len(given["self"].shape)
    part = slice(given.get("start"), given.get("end"), given.get("step", 1))
    return _sliced(x, dim, np.arange(x.shape[dim])[part])


def _select(reader: _Reader, given: dict[str, Any]) -> Any:
    x, dim = given["self"], given["dim"] % len(given["self"].shape)
    one = _sliced(x, dim, np.arange(x.shape[dim])[[given["index"]]])
    return one.moved(reader.result_shape(), lambda a: a.squeeze(dim))


def _split(reader: _Reader, given: dict[str, Any]) -> Any:
    x, dim = given["self"], given.get("dim", 0) % len(given["self"].shape)
    size: Any = given.get("split_size", given.get("split_sizes"))
    places = np.arange(x.shape[dim])
    ends = range(size, x.shape[dim], size) if isinstance(size, int) else np.cumsum(size)[:-1]
    return [_sliced(x, dim, part) for part in np.split(places, list(ends))]


def _unbind(reader: _Reader, given: dict[str, Any]) -> Any:
    x, dim = given["self"], given.get("dim", 0) % len(given["self"].shape)
    shape = [n for d, n in enumerate(x.shape) if d != dim]
    parts = (_sliced(x, dim, np.array([k])) for k in range(x.shape[dim]))
    return [part.moved(shape, lambda a: a.squeeze(dim)) for part in parts]


def _roll(reader: _Reader, given: dict[str, Any]) -> Any:
    x = given["self"]
    for shift, dim in zip(given["shifts"], given["dims"], strict=True):
        places = np.roll(np.arange(x.shape[dim]), shift)
        x = _sliced(x, dim % len(x.shape), places)
    return x


def _flip(reader: _Reader, given: dict[str, Any]) -> Any:
    x = given["self"]
    for dim in given["dims"]:
        x = _sliced(x, dim % len(x.shape), np.arange(x.shape[dim])[::-1])
    return x


def _cat(reader: _Reader, given: dict[str, Any]) -> Any:
    parts = given["tensors"]
    shape = reader.result_shape()
    dim = given.get("dim", 0) % len(shape)
    example = next(one for one in parts if isinstance(one, _Value))
    values = [
        one if isinstance(one, _Value) else reader.constant(one, example, dim)
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
            axes.append(_joined(own))
            continue
        beside = np.broadcast_shapes(*((*s.shape[:dim], 1, *s.shape[dim + 1 :]) for s in own))
        full = [
            s.wide((*beside[:dim], v.shape[dim], *beside[dim + 1 :]))
            for s, v in zip(own, values, strict=True)
        ]
        names = ("lo", "hi", "kind")
        axes.append(_Seen(*(np.concatenate([getattr(s, n) for s in full], dim) for n in names)))
    return _Value(shape, tuple(axes))


def _stack(reader: _Reader, given: dict[str, Any]) -> Any:
    dim = given.get("dim", 0) % len(reader.result_shape())
    parts = [
        one.moved((*one.shape[:dim], 1, *one.shape[dim:]), lambda a: np.expand_dims(a, dim))
        if isinstance(one, _Value)
        else one.unsqueeze(dim)
        for one in given["tensors"]
    ]
    return _cat(reader, {"tensors": parts, "dim": dim})


def _empty(tensor: torch.Tensor, axes: int) -> _Value:
    """A constant as a value that depends on nothing."""
    none = np.full((1,) * tensor.ndim, _NONE)
    return _Value(tuple(tensor.shape), (_Seen(none, -none, none.astype(np.uint64)),) * axes)


def _repeat(reader: _Reader, given: dict[str, Any]) -> Any:
    x, shape = given["self"], reader.result_shape()
    more = len(shape) - len(x.shape)
    x = x.moved((1,) * more + x.shape, lambda a: a.reshape((1,) * more + a.shape))
    for dim, times in enumerate(given["repeats"]):
        x = _sliced(x, dim, np.tile(np.arange(x.shape[dim]), times))
    return x


def _padding(place: Callable[[Array, int], Array]) -> Any:
    """Make the rule of a padding; `place` gives what is read at places outside; -1 is nothing."""

    def rule(reader: _Reader, given: dict[str, Any]) -> Any:
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


def _index(reader: _Reader, given: dict[str, Any]) -> Any:
    x = given["self"]
    chosen = [(d, i) for d, i in enumerate(given["indices"]) if i is not None]
    if len(chosen) != 1 or isinstance(chosen[0][1], _Value) or chosen[0][1].ndim != 1:
        raise _NotUnderstood("indices that are not along one dimension")
    dim, index = chosen[0]
    return _sliced(x, dim, np.arange(x.shape[dim])[index.numpy()])


def _index_select(reader: _Reader, given: dict[str, Any]) -> Any:
    x = given["self"]
    return _sliced(x, given["dim"] % len(x.shape), given["index"].numpy())


def _shuffle(reader: _Reader, given: dict[str, Any]) -> Any:
    x, r = given["self"], given["upscale_factor"]
    n, c, h, w = x.shape
    inner = (n, c // (r * r), r, r, h, w)
    y = x.moved(inner, lambda a: _reshaped(a, x.shape, inner).transpose(0, 1, 4, 2, 5, 3))
    y = replace(y, shape=(n, c // (r * r), h, r, w, r))
    return _view(reader, {"self": y})


def _unshuffle(reader: _Reader, given: dict[str, Any]) -> Any:
    x, r = given["self"], given["downscale_factor"]
    n, c, h, w = x.shape
    inner = (n, c, h // r, r, w // r, r)
    y = x.moved(inner, lambda a: _reshaped(a, x.shape, inner).transpose(0, 1, 3, 5, 2, 4))
    y = replace(y, shape=(n, c, r, r, h // r, w // r))
    return _view(reader, {"self": y})


def _unfold(reader: _Reader, given: dict[str, Any]) -> Any:
    x, size, step = given["self"], given["size"], given["step"]
    dim, shape = given["dimension"] % len(given["self"].shape), reader.result_shape()
    index = np.arange(shape[dim])[:, None] * step + np.arange(size)

    def change(a: Array) -> Array:
        a = np.expand_dims(a, -1)
        if a.shape[dim] == 1:
            return a
        return np.moveaxis(np.take(a[..., 0], index, dim), dim + 1, -1)

    return x.moved(shape, change)


def _softmax(reader: _Reader, given: dict[str, Any]) -> Any:
    return reader.softmax(given["self"], given["dim"])


def _attention(reader: _Reader, given: dict[str, Any]) -> Any:
    q, k, v = given["query"], given["key"], given["value"]
    if given.get("is_causal"):
        raise _NotUnderstood("causal attention")
    turned = (
        k.moved((*k.shape[:-2], k.shape[-1], k.shape[-2]), lambda a: np.swapaxes(a, -1, -2))
        if isinstance(k, _Value)
        else k.transpose(-1, -2)
    )
    logits = reader.contracted(q, turned, (*q.shape[:-1], k.shape[-2]))
    mask = given.get("attn_mask")
    if isinstance(mask, torch.Tensor):
        dead = ~mask if mask.dtype == torch.bool else mask <= _DEAD
        array = np.broadcast_to(dead.numpy(), (1,) * (4 - dead.ndim) + tuple(dead.shape))
        logits = replace(logits, dead=array)
    made = reader.contracted(reader.softmax(logits, -1), v, reader.result_shape())
    return (made, *[None] * 8)


def _addmm(reader: _Reader, given: dict[str, Any]) -> Any:
    one = given.get("mat1", given.get("batch1"))
    two = given.get("mat2", given.get("batch2"))
    bias = given["self"]
    if not any(isinstance(part, _Value) for part in (one, two)):
        return reader.pointwise((bias,))
    made = reader.contracted(one, two)
    return reader.pointwise((made, bias)) if isinstance(bias, _Value) or bias.ndim > 1 else made


def _bmm(reader: _Reader, given: dict[str, Any]) -> Any:
    return reader.contracted(given["self"], given["mat2"])


def _masked(reader: _Reader, given: dict[str, Any]) -> Any:
    """`masked_fill` and `where` with a constant mask and a value that a softmax makes 0."""
    x, mask = given["self"], given.get("mask")
    value = given.get("value")
    made = reader.pointwise((x, mask))
    number = value.item() if isinstance(value, torch.Tensor) else value
    if isinstance(mask, torch.Tensor) and isinstance(number, (int, float)) and number <= _DEAD:
        dead = np.broadcast_to(mask.numpy(), (1,) * (len(x.shape) - mask.ndim) + tuple(mask.shape))
        made = replace(made, dead=dead)
    return made


def _blank(reader: _Reader, given: dict[str, Any]) -> Any:
    """A new tensor of the same shape: a constant."""
    meta = reader.meta
    value = given.get("fill_value", 1 if reader.name in ("ones_like", "new_ones") else 0)
    return torch.full(tuple(meta.shape), value, dtype=meta.dtype)


def _same(reader: _Reader, given: dict[str, Any]) -> Any:
    found: _Value = given["self"]
    return found


def _copy(reader: _Reader, given: dict[str, Any]) -> Any:
    source, shape = given["src"], reader.result_shape()
    if not isinstance(source, _Value):
        return torch.broadcast_to(source, shape)
    source = _padded(source, len(shape))
    return replace(source, shape=shape)


def _sorted(reader: _Reader, given: dict[str, Any]) -> Any:
    x = given["self"]
    dim = given.get("dim", -1) % len(x.shape)
    made = x.remade(reader.result_shape(), lambda seen: _reduced(seen, dim))
    return (made, made) if reader.several else made


def _named(names: str, rule: Any) -> dict[str, Any]:
    return dict.fromkeys(names.split(), rule)


_RULES: dict[str, Any] = {
    **_named("convolution _convolution mkldnn_convolution thnn_conv2d", _convolution),
    **_named("max_pool2d_with_indices max_pool3d_with_indices max_pool2d max_pool1d", _pool),
    **_named("avg_pool1d avg_pool2d avg_pool3d", _pool),
    **_named("_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d", _adaptive),
    **_named("adaptive_max_pool2d adaptive_max_pool3d adaptive_avg_pool2d", _adaptive),
    **_named("upsample_nearest1d upsample_nearest2d upsample_nearest3d", _upsample(_nearest)),
    **_named(
        "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d",
        _upsample(_nearest_exact),
    ),
    **_named("upsample_linear1d upsample_bilinear2d upsample_trilinear3d", _upsample(_linear)),
    **_named("upsample_bicubic2d", _upsample(_cubic)),
    **_named("mean sum amax amin max min var std var_mean std_mean prod norm", _reduction),
    **_named("linalg_vector_norm argmax argmin any all logsumexp", _reduction),
    **_named("native_batch_norm _native_batch_norm_legit _batch_norm_with_update", _batch_norm),
    **_named("_native_batch_norm_legit_no_training _batch_norm_no_update", _batch_norm),
    **_named("native_group_norm", _group_norm),
    **_named("native_layer_norm", _layer_norm),
    **_named("view _unsafe_view reshape _reshape_alias flatten unflatten", _view),
    **_named("permute transpose t", _permute),
    **_named("expand broadcast_to", _expand),
    **_named("unsqueeze", _unsqueeze),
    **_named("squeeze", _squeeze),
    **_named("slice", _slice),
    **_named("select", _select),
    **_named("split split_with_sizes unsafe_split unsafe_split_with_sizes", _split),
    **_named("unbind", _unbind),
    **_named("roll", _roll),
    **_named("flip", _flip),
    **_named("cat concat", _cat),
    **_named("stack", _stack),
    **_named("repeat", _repeat),
    **_named("constant_pad_nd", _padding(lambda at, size: np.full_like(at, -1))),
    **_named(
        "reflection_pad1d reflection_pad2d reflection_pad3d",
        _padding(lambda at, size: np.where(at < 0, -at, 2 * size - 2 - at)),
    ),
    **_named(
        "replication_pad1d replication_pad2d replication_pad3d",
        _padding(lambda at, size: np.clip(at, 0, size - 1)),
    ),
    **_named("index", _index),
    **_named("index_select", _index_select),
    **_named("pixel_shuffle", _shuffle),
    **_named("pixel_unshuffle", _unshuffle),
    **_named("unfold", _unfold),
    **_named("_softmax _log_softmax softmax _safe_softmax", _softmax),
    **_named("_scaled_dot_product_flash_attention_for_cpu", _attention),
    **_named("_scaled_dot_product_flash_attention", _attention),
    **_named("addmm baddbmm", _addmm),
    **_named("mm bmm", _bmm),
    **_named("masked_fill", _masked),
    **_named("zeros_like ones_like empty_like full_like new_zeros new_ones new_empty", _blank),
    **_named("new_full rand_like randn_like new_empty_strided", _blank),
    **_named("topk sort", _sorted),
    **_named("copy", _copy),
    **_named("clone detach alias contiguous lift_fresh_copy", _same),
}


# -- what repeats


def _repeating(known: DerivedAxis, lo: Array, hi: Array, kind: Array) -> DerivedAxis:
    """Find the shortest repetition of intervals and kinds inside, where no border is felt."""
    out = len(lo)
    for q in range(1, out // 2 + 1):
        moved = lo[q:] - lo[:-q]
        alike = (kind[q:] == kind[:-q]) & (hi[q:] - hi[:-q] == moved) & (lo[q:] != _NONE)
        first, last, p = _longest(alike, moved)
        if p > 0 and last - first >= max(q, out // 8):
            found = replace(known, period=p, scale=Fraction(q, p))
            return _described(found, lo, hi, first)
    return known


def _longest(alike: Array, moved: Array) -> tuple[int, int, int]:
    """The longest run of places that moved alike and by the same distance: start, end, distance."""
    best = (0, 0, 0)
    start = 0
    for i in range(len(alike) + 1):
        ends = i == len(alike) or not alike[i] or (i > start and moved[i] != moved[i - 1])
        if ends:
            if i - start > best[1] - best[0]:
                best = (start, i, int(moved[start]))
            start = i if i < len(alike) and alike[i] else i + 1
    return best


def _described(known: DerivedAxis, lo: Array, hi: Array, first: int) -> DerivedAxis:
    """Crop and fields from the intervals of one period of outputs, from the first."""
    assert known.period is not None
    assert known.scale is not None
    scale, size, out = known.scale, known.size, len(lo)
    phases = int(known.period * scale)
    places = np.arange(first, first + phases)
    middle = (lo[places] + hi[places]) / 2 - ((places + 0.5) / float(scale) - 0.5)
    lost = max(0, math.floor(size - out / scale))
    before = min(lost, max(0, math.ceil(float(middle.mean()) - 0.5)))
    fields = {}
    for o in places:
        begin = math.floor(int(o) / scale) + before
        end = math.ceil(Fraction(int(o) + 1) / scale) - 1 + before
        fields[int(o) % phases] = (int(begin - lo[o]), int(hi[o] - end))
    crop = (before, lost - before)
    return replace(known, crop=crop, fields=tuple(fields[k] for k in range(phases)))


__all__ = ["Coupling", "Derived", "DerivedAxis", "derive"]
