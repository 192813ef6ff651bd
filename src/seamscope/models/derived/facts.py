"""What the operations of a network imply, as values.

Knows names and numbers. Does not know how they are derived.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


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


__all__ = ["Coupling", "Derived", "DerivedAxis"]
