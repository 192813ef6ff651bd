"""What a network's operations imply, in the form in which it is compared with measurements.

Knows periods, halos and names. Does not know how they are derived (`seamscope.models.derived`) or
measured (`seamscope.models.period`, `seamscope.models.reach`).

Both see something else: a derivation sees paths whose weights are 0, a measurement sees operations
that have no description. Where they agree, a fact is certain; where they differ, the longer period
and the larger halo are safe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from seamscope.models.derived import (
    Coupling,
    Derived,
    DerivedAxis,
    derive,
    derive_along,
    readings,
    unevenly_resized,
)
from seamscope.models.derived.reader import Reader
from seamscope.models.trials import OutOfPatience
from seamscope.normalization.calls import Forward
from seamscope.recorded_graph import record
from seamscope.serialization import Recorded
from seamscope.tiling import Lattice, Sides

_LONG = 1344  # pixels: several periods of windows of 7 or 8 at strides up to 32


@dataclass(frozen=True)
class Implied(Recorded):
    """What the operations of a network imply.

    Attributes
    ----------
    period
        For each axis, in input pixels; None where it cannot be derived.
    halo
        Pixels ``(before, after)`` of a tile on the grid that depend on what lies outside it, with
        what couples the whole tile held fixed; None where it cannot be derived.
    coupled
        For each axis, whether something couples the whole tile along it.
    couplings
        Names of the layers that do, except statistics: attention, recurrence and the like.
    statistics
        Names of the layers that take a statistic of the whole tile.
    numbers
        Those of them whose statistic is no mean or variance (maxima, ranks, counts): it is not held
        fixed where statistics are.
    unknown
        Operations that are not understood.
    decides
        Whether a number of the whole tile is compared.
    only_decides
        Whether the tile is coupled by that alone.
    """

    period: tuple[int | None, ...]
    halo: tuple[Sides, ...] | None = None
    coupled: tuple[bool, ...] = ()
    couplings: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    decides: bool = False
    only_decides: bool = False

    @classmethod
    def of(cls, derived: Derived, lattices: Sequence[Lattice]) -> Implied:
        """Sum up a derivation, for tiles of sizes that the network takes."""
        found = (
            axis.halo(_tile_of(axis, lattice))
            for axis, lattice in zip(derived.axes, lattices, strict=True)
        )
        halos = tuple(halo for halo in found if halo is not None)
        return cls(
            period=tuple(map(_period_of, derived.axes, lattices)),
            halo=halos if len(halos) == len(derived.axes) else None,
            coupled=tuple(
                axis.absolute or any(number in one.axes for one in derived.couplings)
                for number, axis in enumerate(derived.axes)
            ),
            couplings=_names(one for one in derived.couplings if not one.statistic),
            statistics=_names(one for one in derived.couplings if one.statistic),
            numbers=_names(one for one in derived.couplings if one.statistic and not one.moment),
            unknown=derived.unknown,
            decides=derived.decides,
            only_decides=derived.only_decides
            and all(one.statistic for one in derived.couplings)
            and not any(axis.absolute for axis in derived.axes),
        )

    @property
    def bounded(self) -> bool:
        """Whether the operations imply that some halo makes tiles agree."""
        return self.halo is not None and not any(self.coupled)

    @property
    def places_tiles(self) -> bool:
        """Whether the operations imply where tiles may start, or that no place is right."""
        return not self.unknown and all(
            period is not None or coupled
            for period, coupled in zip(self.period, self.coupled, strict=True)
        )


def _period_of(axis: DerivedAxis, lattice: Lattice) -> int | None:
    """The derived period; in an input of the one size nothing may repeat, but strides are seen."""
    return axis.period or (axis.strides if lattice.fixed is not None and axis.out else None)


def _tile_of(axis: DerivedAxis, lattice: Lattice, least: int = 0) -> int:
    """A size that tiles have once the derived period is known to be the period."""
    wide = replace(lattice, period=math.lcm(lattice.period, axis.period or 1))
    return wide.size_at_least(least or axis.size)


def _names(couplings: Iterable[Coupling]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.name for one in couplings))


def derived_by(
    forward: Forward,
    example: torch.Tensor,
    module: nn.Module | None,
    beside: Sequence[int] | None = None,
    check: Callable[[], object] = bool,
    keep: Callable[[Derived], object] = bool,
) -> Derived | None:
    """Derive what a network's operations imply; None where they cannot be read.

    Parameters
    ----------
    forward
        ``(N, C, *spatial)`` tensor to a tensor.
    example
        One sample of an accepted size.
    module
        Where names of layers are taken from.
    beside
        A shape as small as the network takes, for the axes beside the one that is long.
    check
        Called before each operation is read; what it raises ends the reading.
    keep
        Receives what is known meanwhile.
    """

    def last() -> Derived:
        for derived in readings(forward, example, module=module, beside=beside, check=check):
            keep(derived)
        return derived

    return _unless_it_fails(last)


def derived_at(
    forward: Forward,
    x: torch.Tensor,
    module: nn.Module | None,
    check: Callable[[], object] = bool,
) -> Derived | None:
    """Derive what operations imply from one forward pass; None where they cannot be read.

    The pass is not computed, unless the network's code asks for numbers. `check` is as for
    `derived_by`.
    """

    def derived(computed: bool) -> Derived:
        graph = record(forward, x.clone(), module=module, decided=True, computed=computed)
        return derive(graph, x, check=check)

    return _unless_it_fails(partial(derived, False)) or _unless_it_fails(partial(derived, True))


def derived_for_tiles(
    forward: Forward,
    derived: Derived,
    lattices: Sequence[Lattice],
    beside: Callable[[tuple[int, ...]], torch.Tensor],
    check: Callable[[], object] = bool,
) -> Derived:
    """Derive the same for sizes of tiles on the grid of the derived periods.

    A size that is no multiple of the period may imply other fields, or none.

    Parameters
    ----------
    forward
        ``(N, C, *spatial)`` tensor to a tensor.
    derived
        What was derived from other sizes.
    lattices
        Sizes that the network takes.
    beside
        Makes an example that has so many pixels along each axis; 0 for as few as may be.
    check
        As for `derived_by`.
    """
    axes, couplings = list(derived.axes), derived.couplings
    for number, (axis, lattice) in enumerate(zip(derived.axes, lattices, strict=True)):

        def example(size: int, number: int = number) -> torch.Tensor:
            return beside(tuple(size if n == number else 0 for n in range(len(axes))))

        size = _tile_of(axis, lattice)
        if size != axis.size and axis.period is not None:
            again = _unless_it_fails(partial(derive_along, forward, example(size), number, check))
            if again is not None and again.period == axis.period:
                axes[number] = again
        if derived.resizes and axis.period and lattice.fixed is None:
            both = example(size), example(_tile_of(axis, lattice, size + 1))
            couplings += _unless_it_fails(partial(unevenly_resized, forward, *both, number)) or ()
    return replace(derived, axes=tuple(axes), couplings=couplings)


def derived_uncomputed(
    forward: Forward,
    derived: Derived,
    example: torch.Tensor,
    module: nn.Module | None,
    check: Callable[[], object] = bool,
) -> Derived:
    """Derive periods that are longer than an example, without a forward pass of a longer one.

    One axis is read; others whose period is not known are taken to be like it. `check` is as for
    `derived_by`.
    """

    def along(axis: int) -> Derived:
        graph = record(forward, x, module=module, decided=True, computed=False)
        return Reader(graph, tuple(x.shape), check, axis).derived()

    last = len(derived.axes) - 1
    if derived.unknown or derived.axes[last].period is not None:
        return derived
    for part in (4, 2, 1):  # as narrow as may be beside the axis that is long
        shape = [*(n // part for n in example.shape[2:-1]), _LONG]
        x = torch.zeros(*example.shape[:2], *shape)
        found = _unless_it_fails(partial(along, last))
        if found is not None:
            axis, seen = found.axes[last], {one.name for one in found.couplings}
            if not axis.inside or not axis.period:
                return derived
            axes = tuple(one if one.period else axis for one in derived.axes)
            # windows as large as a short tile couple all of it
            whole = tuple(c for c in derived.couplings if c.statistic or c.name in seen)
            return replace(derived, axes=axes, couplings=whole)
    return derived


def derived_in_square(
    forward: Forward,
    derived: Derived,
    narrow: tuple[int, ...],
    square: tuple[int, ...],
    channels: int,
    check: Callable[[], object] = bool,
) -> tuple[Derived, tuple[int, ...]]:
    """Derive again what windows imply that are as large as the shorter side of an input (Swin's).

    In inputs that are narrow beside one axis, these windows are small. None of the inputs that are
    compared here is computed.

    Parameters
    ----------
    forward, derived, check
        As for `derived_uncomputed`.
    narrow, square
        Spatial shapes: one that is narrow, and one of about equal sides.
    channels
        Of the input.

    Returns
    -------
    derived
        The same where windows do not shrink.
    narrow
        The narrowest shape in which they do not.
    """
    last = len(derived.axes) - 1
    if narrow[:-1] == square[:-1]:
        return derived, narrow

    def read(shape: tuple[int, ...]) -> tuple[Derived, int]:
        x = torch.zeros(()).expand(1, channels, *shape[:-1], square[-1])
        graph = record(forward, x, decided=True, computed=False)
        reader = Reader(graph, tuple(x.shape), check, last)
        return reader.derived(), reader.window(last)

    small, large = (_unless_it_fails(partial(read, shape)) for shape in (narrow, square))
    if small is None or large is None or small[1] == large[1]:
        return derived, narrow
    axis = large[0].axes[last]
    if not axis.inside or not axis.period:  # too few windows to show one
        return derived, narrow
    while small is not None and small[1] != large[1] and narrow != square:
        narrow = tuple(min(2 * n, most) for n, most in zip(narrow, square, strict=True))
        small = _unless_it_fails(partial(read, narrow))
    return replace(derived, axes=(axis,) * len(derived.axes)), narrow


_Made = TypeVar("_Made")


def _unless_it_fails(make: Callable[[], _Made]) -> _Made | None:
    try:
        return make()
    except (OutOfPatience, InterruptedError):
        raise
    except Exception:  # whatever a network does that cannot be recorded
        return None


def larger(one: Sequence[Sides], other: Sequence[Sides]) -> tuple[Sides, ...]:
    """Return the larger of two halos, side by side."""
    return tuple((max(a[0], b[0]), max(a[1], b[1])) for a, b in zip(one, other, strict=True))


def longer(one: int | None, other: int | None) -> int | None:
    """Return a period that is a multiple of both."""
    return math.lcm(one, other) if one and other else one or other


__all__ = [
    "Implied",
    "derived_at",
    "derived_by",
    "derived_for_tiles",
    "derived_in_square",
    "derived_uncomputed",
    "larger",
    "longer",
]
