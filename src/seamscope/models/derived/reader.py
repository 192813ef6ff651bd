"""Read a graph: positions in, positions out, operation by operation.

Knows which operation is which, what couples the whole tile, and parts of tensors that are written.
Does not know what a single operation does with positions (see `seamscope.models.derived.rules`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from seamscope.models.derived.facts import Coupling, Derived, DerivedAxis
from seamscope.models.derived.positions import (
    DEAD,
    NONE,
    Array,
    NotUnderstood,
    Seen,
    Value,
    are_few,
    channels_joined,
    check_room,
    gathered,
    held_fixed,
    is_whole,
    joined,
    marked,
    mixed,
    reduced,
    reshaping,
    shortened,
    with_leading,
    without_positions,
)
from seamscope.models.derived.repeats import repeating
from seamscope.models.derived.rules import RULES
from seamscope.normalization.calls import bound
from seamscope.recorded_graph import RecordedGraph

aten = torch.ops.aten


# Operations after which a number decides, in the network's code or by `where`.
_COMPARED = {"gt", "lt", "ge", "le", "eq", "ne"}
_READ = {"is_nonzero", "_local_scalar_dense"}


def _is_only_read(node: fx.Node) -> bool:
    """Whether only the network's code takes what comes of a comparison."""
    return all(
        _operation_of(user) in _READ
        or (math.prod(user.meta["val"].shape) == 1 and _is_only_read(user))
        for user in node.users
    )


def _operation_of(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name.removeprefix("aten::").rstrip("_"))


_RESIZING = ("conv", "pool", "upsample", "shuffle")


class Reader:
    """Carries positions through a graph.

    Parameters
    ----------
    graph, shape
        The operations, and the shape of their input.
    check
        Called before each operation; raises where reading has to stop.
    only
        The one spatial axis that is read; None for all.
    """

    def __init__(
        self,
        graph: RecordedGraph,
        shape: tuple[int, ...],
        check: Callable[[], object] = bool,
        only: int | None = None,
    ) -> None:
        self._graph, self._input, self._check, self._only = graph, shape, check, only
        self._env: dict[str, Any] = {}
        self.couplings: dict[tuple[str, str, bool], set[int]] = {}
        self.random: list[str] = []
        self.unknown: list[str] = []
        self.resizes = False
        self.absolute: set[int] = set()  # axes along which a number differs for each position
        self.learned: set[int] = set()  # and those where it is a weight
        self._windows: dict[int, int] = {}  # in input pixels, by axis
        self.pooled: dict[int, int] = {}  # by how many pixels maps are coarser, by axis
        self._numbers: list[fx.Node] = []  # statistics of the whole tile
        self._node: fx.Node
        self._weights = {
            one.untyped_storage()._cdata
            for one in graph.constants.values()
            if isinstance(one, nn.Parameter)
        }

    def derived(self) -> Derived:
        """Read all operations."""
        none = tuple(DerivedAxis(size) for size in self._input[2:])
        try:
            result = self._read()
        except NotUnderstood as why:
            self.unknown.append(str(why))
            result = None
        couplings = tuple(
            Coupling(name, module, tuple(sorted(found)), statistic)
            for (name, module, statistic), found in self.couplings.items()
        )
        unknown = tuple(dict.fromkeys(self.unknown))
        about = couplings, tuple(self.random), unknown, *self._decides(), self._graph.takes_parts
        if result is None or len(result.shape) != len(self._input):
            return Derived(none, *about)
        axes = tuple(self._axis(result, axis) for axis in range(len(none)))
        return Derived(axes, *about, self.resizes)

    def _decides(self) -> tuple[bool, bool]:
        """Whether numbers of the whole tile, or what is computed of them, are compared; only so.

        What code reads of a comparison may be a check: whether it decides is measured.
        """
        left, seen = [*self._numbers], set(self._numbers)
        compared, read, used = False, False, False
        while left:
            for user in left.pop().users:
                made, name = user.meta.get("val"), _operation_of(user)
                if name in _READ:
                    read = True
                elif name in _COMPARED:
                    # whether there is anything at all: contents show what that changes
                    if user.args[1:] != (0,):
                        read = True
                        compared |= not _is_only_read(user)
                elif made is not None and made.numel() >= math.prod(self._input[2:]):
                    used = True  # for each pixel
                elif user not in seen:
                    seen.add(user)
                    left.append(user)
        return compared, read and not used

    def _axis(self, result: Value, axis: int) -> DerivedAxis:
        seen = result.axes[axis]
        for dim in range(len(result.shape)):
            if dim != axis + 2:
                seen = reduced(seen, dim)
        size, out = self._input[axis + 2], result.shape[axis + 2]
        fixed = size if axis in self.learned else None
        known = DerivedAxis(
            size, out, fixed=fixed, absolute=axis in self.absolute, strides=self._strides(axis)
        )
        if seen.shape[axis + 2] == 1:
            return known
        return repeating(known, seen.each(np.ravel))

    def _strides(self, axis: int) -> int:
        """See `DerivedAxis.strides`."""
        size, found = self._input[axis + 2], 1
        for node, _ in self._graph.steps:
            made, name = node.meta.get("val"), _operation_of(node)
            resizes = not name or any(part in name for part in _RESIZING)  # a part of what pools
            if resizes and isinstance(made, torch.Tensor) and made.ndim == len(self._input):
                few = made.shape[axis + 2]
                found = math.lcm(found, size // few) if few > 1 and size % few == 0 else found
        found = found if found < size else 1
        parted = math.lcm(found, self._windows.get(axis, 1))
        return parted if parted < size else found

    def window(self, axis: int) -> int:
        """Pixels of the windows into which reshapes part an axis: a multiple of all."""
        return self._windows.get(axis, 1)

    def part(self, value: Value, shape: Sequence[int]) -> None:
        """Note windows into which a reshape parts an axis: its period is a multiple of these."""
        for (a, i), (b, j) in reshaping(value.shape, shape):
            sides = [n for n in shape[b:j] if n > 1]
            if i - a != 1 or len(sides) < 2:
                continue
            for axis, seen in enumerate(value.axes):
                others = tuple(d for d in range(seen.lo.ndim) if d != a)
                lo = seen.lo.min(others)
                steps = np.diff(lo[lo != NONE])
                ahead = steps[steps > 0]
                # tokens of several rows go back at the end of each, and a roll once
                if ahead.size > 0.3 * value.shape[a] and np.count_nonzero(steps < 0) < 2:
                    window = int(np.median(ahead)) * sides[-1]
                    self._windows[axis] = math.lcm(self._windows.get(axis, 1), window)

    def pool(self, value: Value, dim: int, stride: int) -> None:
        """Note by how much a map is coarser; where sizes are no multiples, nothing else shows."""
        if stride < 2:
            return
        for axis, seen in enumerate(value.axes):
            if seen.shape[dim] > 1:
                lo = seen.lo.min(tuple(d for d in range(seen.lo.ndim) if d != dim))
                steps = np.diff(lo[lo != NONE])
                coarse = int(np.median(steps[steps > 0])) if np.any(steps > 0) else 1
                self.pooled[axis] = math.lcm(self.pooled.get(axis, 1), coarse * stride)

    def _read(self) -> Value | None:
        ndim = len(self._input)
        seen = []
        nothing = without_positions(torch.empty((1,) * ndim), 1).axes[0]
        for axis in range(ndim - 2):
            if self._only not in (None, axis):
                seen.append(nothing)
                continue
            place = np.arange(self._input[axis + 2], dtype=np.int64)
            place = place.reshape([-1 if d == axis + 2 else 1 for d in range(ndim)])
            seen.append(Seen(place, place, np.zeros(place.shape, np.uint64)))
        self._env = {"x": Value(self._input, tuple(seen)), **self._graph.constants}
        with torch.no_grad():
            for node, dead in self._graph.steps:
                if node.op == "output":
                    found = fx.map_arg(node.args[0], self._value)
                    while isinstance(found, (list, tuple)) and len(found) == 1:
                        found = found[0]
                    return found if isinstance(found, Value) else None
                self._check()
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
        values = [one for one in _values(args) if isinstance(one, Value)]
        if not values:
            return func(*args, **kwargs)
        rule = RULES.get(name)
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
        except NotUnderstood as why:
            raise NotUnderstood(f"{name} in {self._module}: {why}") from None
        raise NotUnderstood(f"{name} in {self._module}" if self._module else name)

    @property
    def several(self) -> int:
        """How many results the operation has; 0 for one that is no list."""
        func: Any = self._node.target
        count = len(func._schema.returns)
        return count if count > 1 else 0

    @property
    def masked(self) -> bool:
        """Whether the operation's indices are one mask."""
        indices: Any = self._node.args[1]
        types = {one.meta["val"].dtype for one in indices if one is not None}
        return types == {torch.bool} and len(indices) == 1

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

    def stride_of_input(self) -> tuple[int, ...]:
        """Stride of the operation's first input."""
        given: Any = self._node.args[0]
        return tuple(given.meta["val"].stride())

    def result_shape(self) -> tuple[int, ...]:
        """Shape of the result, or of the first of several."""
        node = self._node
        while "val" not in node.meta:
            node = next(one for one in node.users if one.args[1] == 0)
        return tuple(node.meta["val"].shape)

    def couple(self, axes: Iterable[int], statistic: bool) -> None:
        """Note that the present operation couples the whole tile along some axes."""
        func: Any = self._node.target
        name = func._schema.name.removeprefix("aten::")
        if statistic and name not in ("any", "all"):  # such as of NaN, which contents show else
            self._numbers.append(self._node)
        for axis in axes:
            self.couplings.setdefault((name, self._module, statistic), set()).add(axis)

    # -- writing into a part of a tensor

    def _write(self, part: fx.Node, given: dict[str, Any]) -> Value:
        """Copy into slices of a tensor, which is from then on what it was and what was copied."""
        if self.name not in ("copy", "fill", "zero"):
            raise NotUnderstood("writes into a part of a tensor")
        places, base = self._places(part)
        old = self._env.get(base.name)
        given_source = given.get("src", given.get("value"))
        new = given_source if isinstance(given_source, Value) else None
        if old is None:  # it is no longer read
            return self._value(part) if new is None else new
        example = new if new is not None else old
        old = old if isinstance(old, Value) else without_positions(old, len(example.axes))
        new = without_positions(torch.empty(()), len(example.axes)) if new is None else new
        new = with_leading(new, len(old.shape))
        self._env[base.name] = Value(
            old.shape,
            tuple(
                _with_part(o, n, places, old.shape) for o, n in zip(old.axes, new.axes, strict=True)
            ),
        )
        return Value(tuple(len(p) for p in places), new.axes)

    def _places(self, part: fx.Node) -> tuple[list[Array], fx.Node]:
        """Where in the tensor behind it a slice of slices lies, along each dimension."""
        if not _is_view(part):
            return [np.arange(n) for n in part.meta["val"].shape], part
        func: Any = part.target
        if func is not aten.slice.Tensor:
            raise NotUnderstood("writes into a part of a tensor that is no slice")
        source: Any = part.args[0]
        places, base = self._places(source)
        given = bound(func, part.args, dict(part.kwargs))
        dim = given["dim"] % len(places)
        places[dim] = places[dim][slice(given.get("start"), given.get("end"), given.get("step", 1))]
        return places, base

    # -- elementwise

    def pointwise(self, args: Any, kwargs: Any = None) -> Value:
        """Each element depends on the elements at its place."""
        shape = self.result_shape()
        given = [with_leading(one, len(shape)) for one in _values((args, kwargs))]
        values = [one for one in given if isinstance(one, Value)]
        constants = [one for one in given if isinstance(one, torch.Tensor)]
        dead = [one.dead for one in values if one.dead is not None]
        buried = [mask for one in constants if (mask := _buried(one)) is not None]
        axes = []
        for axis in range(len(values[0].axes)):
            own = [one.axes[axis] for one in values]
            full = np.broadcast_shapes(*(one.shape for one in own))
            extra = [c for one in constants if (c := self._constant(one, full, axis)) is not None]
            axes.append(joined([*own, *extra]))
        masks = [*dead, *buried]
        return Value(shape, tuple(axes), _any(masks) if masks else None).by_rows()

    def constant(self, tensor: torch.Tensor, beside: Value, dim: int) -> Value:
        """A constant that is put beside a value along a dimension: what differs along positions."""
        made = without_positions(tensor, len(beside.axes))
        axes = []
        for axis, seen in enumerate(beside.axes):
            full = [1 if d == dim else n for d, n in enumerate(seen.shape)]
            found = self._constant(tensor, full, axis)
            axes.append(made.axes[axis] if found is None else found)
        return replace(made, axes=tuple(axes))

    def _constant(self, tensor: torch.Tensor, full: Sequence[int], axis: int) -> Seen | None:
        """What differs along positions in a constant, such as learned ones; None where nothing."""
        dims = [d for d in range(tensor.ndim) if full[d] > 1 and tensor.shape[d] > 1]
        if not dims:
            return None
        hashed = _hashed(tensor, dims)
        none = np.full(hashed.shape, NONE)
        seen = shortened(Seen(none, -none, hashed))
        if seen.lo.size == 1:
            return None
        # the same in each window is no position in the tile
        everywhere = all(d in dims for d in range(tensor.ndim) if full[d] > 1)
        if everywhere and len(np.unique(seen.kind)) == seen.kind.size:
            self.absolute.add(axis)
            if tensor.untyped_storage()._cdata in self._weights:
                self.learned.add(axis)  # as they are, so that they fit one size
            return None  # what is derived is the rest
        return seen

    # -- normalizations and statistics

    def over(self, value: Value, dims: Sequence[int], keep: bool) -> Value:
        """Statistics over dimensions, held fixed where they are over the whole of an axis."""
        held = []
        for axis, seen in enumerate(value.axes):
            made = seen
            for dim in dims:
                made = reduced(made, dim % len(value.shape))
            if made is not seen and is_whole(made, seen):
                self.couple([axis], statistic=True)
                made = held_fixed(made)
            held.append(joined([seen, made]) if keep and made is not seen else made)
        shape = [1 if d in {n % len(value.shape) for n in dims} else n
                 for d, n in enumerate(value.shape)]  # fmt: skip
        if keep:
            held = [s if m is None else m for s, m in zip(value.axes, held, strict=True)]
            return Value(value.shape, tuple(held), value.dead)
        return Value(tuple(shape), tuple(held))

    # -- contractions

    def contracted(self, a: Any, b: Any, shape: Sequence[int] | None = None) -> Value:
        """``(..., m, k) @ (..., k, n)``."""
        shape = self.result_shape() if shape is None else tuple(shape)
        axes = []
        one = a if isinstance(a, Value) else b
        dead = a.dead if isinstance(a, Value) else None
        for axis in range(len(one.axes)):
            left = a.axes[axis] if isinstance(a, Value) else None
            right = b.axes[axis] if isinstance(b, Value) else None
            if left is not None and right is not None:
                made = self._paired(left, right, dead)
            else:
                dim = -1 if left is not None else -2
                seen = left if left is not None else right
                assert seen is not None
                made = reduced(seen, dim % seen.lo.ndim)
                outs = shape[-1 if left is not None else -2]
                if made is not seen and outs > 1:  # each output weighs positions in its own way
                    index = np.arange(outs, dtype=np.uint64)
                    tags: Array = index.reshape(-1, 1) if left is None else index
                    made = replace(made, kind=marked(mixed(made.kind + tags), made.padded))
                    full = np.broadcast_shapes(made.lo.shape, made.kind.shape)
                    made = made.wide(full)
            sources = [s for s in (left, right) if s is not None and s.lo.size > 1]
            if sources and is_whole(made, *sources):
                self.couple([axis], statistic=False)
                made = held_fixed(made)
            axes.append(shortened(made))
        return Value(shape, tuple(axes))

    @staticmethod
    def _paired(left: Seen, right: Seen, dead: Array | None) -> Seen:
        last = left.lo.ndim - 1
        if dead is None or right.shape[last - 1] == 1 or dead.shape[-1] == 1:
            one, two = reduced(left, last), reduced(right, last - 1)
            if not are_few(np.broadcast_shapes(one.shape, two.shape)):
                two = reduced(two, last)  # all that a row may meet, as if none of it were masked
            return joined([one, two])
        turned = reduced(right, last).each(lambda x: np.swapaxes(x, -1, -2))
        both = joined([left, turned])
        shape = np.broadcast_shapes(both.shape, dead.shape)
        check_room(shape)
        both = both.each(lambda x: np.broadcast_to(x, shape))
        return reduced(both.where(~np.broadcast_to(dead, shape)), last)

    def softmax(self, value: Value, dim: int) -> Value:
        """Each element depends on all that live along a dimension."""
        dim %= len(value.shape)
        axes = []
        for axis, seen in enumerate(value.axes):
            alive = seen
            if value.dead is not None and seen.shape[dim] > 1:
                shape = np.broadcast_shapes(seen.shape, value.dead.shape)
                alive = seen.wide(shape).where(~np.broadcast_to(value.dead, shape))
            made = joined([seen, reduced(alive, dim)])
            if seen.shape[dim] > 1 and is_whole(made, seen):
                self.couple([axis], statistic=False)
                made = held_fixed(made)
            axes.append(made)
        return Value(value.shape, tuple(axes), value.dead)

    # -- windows

    def windowed(self, value: Value, indices: Sequence[Array], groups: int = 1) -> Value:
        """Convolve or pool: along each of the last dimensions, read places by index."""
        first, shape = len(value.shape) - len(indices), self.result_shape()

        def change(seen: Seen) -> Seen:
            if groups and first > 0:
                seen = channels_joined(seen, first - 1, groups, shape[first - 1])
            for d, index in enumerate(indices):
                seen = gathered(seen, first + d, index)
            return shortened(seen) if groups == 0 else seen

        return value.remade(shape, change)


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


def _with_part(old: Seen, new: Seen, places: Sequence[Array], shape: Sequence[int]) -> Seen:
    """Positions of a tensor after a part of it was written."""
    wide = [
        n if o > 1 or w > 1 or len(p) < n else 1
        for n, o, w, p in zip(shape, old.shape, new.shape, places, strict=True)
    ]
    check_room(wide)
    at = np.ix_(*(p if n > 1 else p[:1] for n, p in zip(wide, places, strict=True)))

    def change(name: str) -> Array:
        made = np.broadcast_to(getattr(old, name), wide).copy()
        made[at] = getattr(new, name)
        return made

    return Seen(change("lo"), change("hi"), change("kind"))


def _values(given: Any) -> Iterator[Any]:
    if isinstance(given, (Value, torch.Tensor)):
        yield given
    elif isinstance(given, (list, tuple)):
        for one in given:
            yield from _values(one)
    elif isinstance(given, dict):
        yield from _values(list(given.values()))


def _any(masks: Sequence[Array]) -> Array:
    found = masks[0]
    for mask in masks[1:]:
        found = found | mask
    return found


def _buried(tensor: torch.Tensor) -> Array | None:
    """Where a constant that is added makes a softmax 0."""
    if not tensor.is_floating_point() or tensor.numel() < 2:
        return None
    dead = tensor <= DEAD
    return dead.numpy() if bool(dead.any()) and not bool(dead.all()) else None


def _hashed(tensor: torch.Tensor, dims: Sequence[int]) -> Array:
    """Hash of a constant at each place along some dimensions; it is summed over the others."""
    if tensor.is_complex():
        return _hashed(torch.view_as_real(tensor.resolve_conj()), dims)[..., 0]
    first, count = dims[0], tensor.shape[dims[0]]
    others = [d for d in range(tensor.ndim) if d != first]
    turned = tensor.detach().permute(first, *others).reshape(count, -1)
    new = np.append(True, (turned[1:] != turned[:-1]).any(1).numpy())
    if not new.all():  # what repeats, such as the mask of most windows, is hashed once
        few = tensor.index_select(first, torch.from_numpy(np.flatnonzero(new)))
        return np.take(_hashed(few, dims), np.cumsum(new) - 1, first)
    values = tensor.detach().double().contiguous().numpy()
    kinds = mixed(values.view(np.uint64).reshape(values.shape))
    for d in range(values.ndim):
        if d not in dims:
            index = np.arange(values.shape[d], dtype=np.uint64)
            index = index.reshape([-1 if e == d else 1 for e in range(values.ndim)])
            kinds = mixed(kinds + mixed(index)).sum(d, keepdims=True, dtype=np.uint64)
    return marked(kinds, np.zeros(kinds.shape, bool))


def _draws(name: str, func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation draws random numbers here: attention without dropout draws none."""
    given = bound(func, args, kwargs)
    return float(given.get("dropout_p", given.get("p", 1.0)) or 0.0) > 0


def _is_pointwise(func: Any, name: str) -> bool:
    return torch.Tag.pointwise in func.tags or name in _POINTWISE


_ELEMENTWISE = """
clone _to_copy to detach alias contiguous lift_fresh_copy where masked_fill threshold relu gelu
silu hardtanh hardswish leaky_relu elu prelu _prelu_kernel native_dropout dropout bernoulli
clamp clamp_min clamp_max sigmoid tanh softplus mish celu selu hardsigmoid add sub mul div pow
rsqrt sqrt exp log erf neg abs square minimum maximum fill_diagonal logical_not eq ne lt le gt
ge type_as addcmul addcdiv lerp _conj round floor ceil rsub bitwise_and real imag angle
complex polar resolve_conj resolve_neg conj _neg_view
"""


_POINTWISE = frozenset(_ELEMENTWISE.split())
