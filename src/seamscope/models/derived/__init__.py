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

What couples a whole axis (instance, group and layer normalization, squeeze-and-excite, global
response normalization, pooling to one pixel, attention between all pixels) is listed and then held
fixed: what is derived is the field of the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import fx, nn

from seamscope.errors import SeamscopeError
from seamscope.models.derived.facts import (
    RESIZING,
    Coupling,
    Derived,
    DerivedAxis,
)
from seamscope.models.derived.reader import Reader
from seamscope.recorded_graph import Forward, RecordedGraph, record

_LARGEST = 1 << 18  # pixels of an input that is not made longer
_MOST = 2_000_000  # numbers in one tensor
_LONG_ENOUGH = 512  # pixels in which windows are smaller than the tile


def derive(
    network: RecordedGraph | nn.Module | Forward,
    example: torch.Tensor,
    *,
    module: nn.Module | None = None,
    beside: Sequence[int] | None = None,
    check: Callable[[], object] = bool,
) -> Derived:
    """Derive what a network's operations imply.

    Parameters
    ----------
    network
        A graph, or what is recorded: ``(N, C, *spatial)`` to one tensor ``(N, C', *spatial')``.
    example
        One sample of an accepted size. Several periods and receptive fields have to fit into it:
        in too small a one nothing repeats, and a window may be as large as the tile. So a network,
        but not a graph, is recorded again with a longer one along such axes, up to 1e6 pixels.
    module
        Where names of modules are taken from, for a network that is a function.
    beside
        Pixels of the other axes where one axis is long; None for those of the example.
    check
        Called before each operation is read; what it raises ends the reading.

    Raises
    ------
    seamscope.recorded_graph.Unrecordable
        Where the code reads tensors past torch's operations.
    """
    return list(readings(network, example, module=module, beside=beside, check=check))[-1]


def readings(
    network: RecordedGraph | nn.Module | Forward,
    example: torch.Tensor,
    *,
    module: nn.Module | None = None,
    beside: Sequence[int] | None = None,
    check: Callable[[], object] = bool,
) -> Iterator[Derived]:
    """Yield what `derive` finds, and before that what is known until then, for when time ends.

    Parameters and errors as for `derive`.
    """
    if isinstance(network, RecordedGraph):
        yield Reader(network, tuple(example.shape), check).derived()
        return
    module = network if isinstance(network, nn.Module) else module
    graph = record(network, example.clone(), module=module, decided=True)
    reader = Reader(graph, tuple(example.shape), check)
    derived = reader.derived()
    yield derived
    lengths = _Lengths(network, module, example, beside or example.shape[2:], check)
    alike: DerivedAxis | None = None  # an axis that is known; most axes are alike
    for axis in range(len(derived.axes)):
        last, x, confirmed, differ = graph, example, False, 0
        length = x.shape[axis + 2] if alike is None else max(x.shape[axis + 2], alike.size // 2)
        # near the borders of a short input something else may repeat: two lengths must agree
        while not confirmed and _worthwhile(derived, axis, x, last):
            period = derived.axes[axis].period or (None if alike is None else alike.period)
            period = period or reader.pooled.get(axis)  # resizing to a skip hides it
            found = lengths.longer(axis, length, period)
            if found is None and length > x.shape[axis + 2]:
                length = x.shape[axis + 2]
                continue
            if found is None:
                break
            last, x = found
            length = x.shape[axis + 2]
            if len(last.steps) > 1.5 * len(graph.steps):  # once more for each position
                scans = Coupling("scan", _grown(graph, last), (axis,), statistic=False)
                derived = replace(derived, couplings=(*derived.couplings, scans))
                break
            again = Reader(last, tuple(x.shape), check, axis).derived()
            axes = [*derived.axes]
            same = _same(axes[axis], again.axes[axis])
            confirmed = same or (alike is not None and _same(alike, again.axes[axis]))
            differ = differ + 1 if _grows(axes[axis], again.axes[axis]) else 0
            axes[axis] = axes[axis] if same else again.axes[axis]
            if differ > 1:  # and would in any longer one: what is reached depends on the size
                axes[axis], confirmed = replace(axes[axis], fields=None), True
            couplings = _along(axis, again.couplings, derived.couplings)
            derived = replace(derived, axes=tuple(axes), couplings=couplings, unknown=again.unknown)
            yield _alike(derived, axis)
        alike = derived.axes[axis] if confirmed and not differ else alike
    yield derived


def _alike(derived: Derived, axis: int) -> Derived:
    """The same, where axes that were not read yet are like the one that was read last."""
    axes = [
        derived.axes[axis] if number > axis and one.period is None else one
        for number, one in enumerate(derived.axes)
    ]
    return replace(derived, axes=tuple(axes))


def derive_along(
    network: nn.Module | Forward,
    example: torch.Tensor,
    axis: int,
    check: Callable[[], object] = bool,
) -> DerivedAxis:
    """Derive what a network's operations imply along one axis, for an input of just this shape."""
    graph = record(network, example.clone(), decided=True)
    return Reader(graph, tuple(example.shape), check, axis).derived().axes[axis]


def unevenly_resized(
    network: nn.Module | Forward, short: torch.Tensor, long: torch.Tensor, axis: int
) -> tuple[Coupling, ...]:
    """Resizing by other ratios in a longer input, for inputs of two sizes that tiles may have.

    A map of ``n / 2 + 1`` pixels that becomes one of ``n`` is magnified a little less in larger
    tiles, so that nothing lies where it lies in another.
    """
    one, two = (_resized(record(network, x.clone(), decided=True)) for x in (short, long))
    return tuple(
        Coupling(RESIZING, name, (axis,), statistic=False)
        for (name, small, made), (_, large, larger) in zip(one, two, strict=False)
        # along any dimension: maps of slices of a stack have fewer than the stack
        if any(
            n < m and n * b != m * a for n, a, m, b in zip(small, made, large, larger, strict=True)
        )
    )


def _resized(graph: RecordedGraph) -> list[tuple[str, torch.Size, torch.Size]]:
    """Maps that are resized: names of modules, shapes before and after."""
    found = []
    for node, _ in graph.steps:
        made, given = node.meta.get("val"), node.args[0] if node.args else None
        if "upsample" in node.name and made is not None and isinstance(given, fx.Node):
            found.append((str(node.meta.get("module", "")), given.meta["val"].shape, made.shape))
    return found


class _Lengths:
    """Records a network with inputs that are long in one axis, and as narrow as may be beside it.

    Parameters
    ----------
    network, module, example
        As for `derive`.
    beside
        Pixels of the other axes.
    check
        As for `derive`.
    """

    def __init__(
        self,
        network: nn.Module | Forward,
        module: nn.Module | None,
        example: torch.Tensor,
        beside: Sequence[int],
        check: Callable[[], object],
    ) -> None:
        self._network, self._module, self._check = network, module, check
        self._example, self._beside = example, tuple(beside)

    def longer(
        self, axis: int, length: int, period: int | None
    ) -> tuple[RecordedGraph, torch.Tensor] | None:
        """Record with an input about twice as long; None where the network takes none.

        Resizing to a skip repeats only in inputs of whole periods, so these are tried first.
        """
        step = period or 1
        for new in dict.fromkeys([-(-2 * length // step) * step, 2 * length]):
            for beside in dict.fromkeys([self._beside, tuple(self._example.shape[2:])]):
                x = _of_shape(self._example, (*beside[:axis], new, *beside[axis + 1 :]))
                try:
                    return record(self._network, x.clone(), module=self._module, decided=True), x
                except (InterruptedError, SeamscopeError):
                    raise
                except Exception:  # it does not take this size, whatever it raises then
                    self._check()  # unless time was over
        return None


def _of_shape(example: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Repeat and cut an example to another spatial shape."""
    for axis, length in enumerate(shape):
        times = -(-length // example.shape[axis + 2])
        example = torch.cat([example] * times, axis + 2).narrow(axis + 2, 0, length)
    return example


def _along(
    axis: int, longer: Iterable[Coupling], shorter: Iterable[Coupling]
) -> tuple[Coupling, ...]:
    """Couplings of a longer input along one axis, and of a shorter one along all others."""
    found: dict[tuple[str, str, bool], set[int]] = {}
    for couplings, own in ((shorter, False), (longer, True)):
        for one in couplings:
            axes = {each for each in one.axes if (each == axis) == own}
            if axes:
                found.setdefault((one.operation, one.module, one.statistic), set()).update(axes)
    return tuple(
        Coupling(name, module, tuple(sorted(axes)), statistic)
        for (name, module, statistic), axes in found.items()
    )


def _grown(short: RecordedGraph, long: RecordedGraph) -> str:
    """The module that does most more operations."""
    counts: Counter[str] = Counter()
    for graph, sign in ((long, 1), (short, -1)):
        for node, _ in graph.steps:
            counts[str(node.meta.get("module", ""))] += sign
    return counts.most_common(1)[0][0]


def _worthwhile(derived: Derived, axis: int, x: torch.Tensor, graph: RecordedGraph) -> bool:
    """Whether a longer input may show what repeats along an axis, or that nothing couples it."""
    if derived.unknown or x[0, 0].numel() > _LARGEST:
        return False
    coupled = any(
        not one.statistic and axis in one.axes and not one.operation.startswith("upsample")
        for one in derived.couplings
    )
    if coupled:  # by attention, whose memory grows with the square
        largest = max((_numbers(node) for node, _ in graph.steps), default=0)
        return 4 * largest <= _MOST and x.shape[axis + 2] < _LONG_ENOUGH
    return derived.axes[axis].period is not None or not derived.axes[axis].absolute


def _same(one: DerivedAxis, other: DerivedAxis) -> bool:
    """Whether two lengths of an input imply the same."""
    same = (one.period, one.fields) == (other.period, other.fields)
    return one.period is not None and other.inside and same


def _grows(one: DerivedAxis, other: DerivedAxis) -> bool:
    """Whether two lengths imply one period but, away from all padding, other fields."""
    same = one.period is not None and one.period == other.period and one.inside and other.inside
    return same and one.fields != other.fields


def _numbers(node: fx.Node) -> int:
    made = node.meta.get("val")
    return made.numel() if isinstance(made, torch.Tensor) else 0


__all__ = [
    "Coupling",
    "Derived",
    "DerivedAxis",
    "derive",
    "derive_along",
    "readings",
    "unevenly_resized",
]
