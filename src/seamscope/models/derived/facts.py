"""What the operations of a network imply, as values.

Knows names and numbers. Does not know how they are derived.
"""

from __future__ import annotations

import math
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
        phase: output pixel ``i`` of a tile on the grid has phase ``i % len(fields)``. What couples
        the whole axis is held fixed.
    absolute
        Whether the network knows positions in the tile: coordinates, or learned ones. Period and
        fields are then those of the rest.
    fixed
        The only accepted size, where positions were learned for it.
    size, out
        Sizes that were recorded.
    inside
        Whether some pixels depend on no padding. Where none do, period and fields are a guess.
    strides
        Least common multiple of the factors by which the sizes of maps within divide this one.

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
    inside: bool = True
    strides: int = 1

    @property
    def reach(self) -> tuple[int, int] | None:
        """The field at the worst phase, for either side by itself."""
        if self.fields is None:
            return None
        return max(0, *(b for b, _ in self.fields)), max(0, *(a for _, a in self.fields))

    def halo(self, size: int) -> tuple[int, int] | None:
        """Pixels ``(before, after)`` of a tile on the grid that depend on what lies outside it.

        Less than `reach` where the worst phase lies elsewhere in the period.

        Parameters
        ----------
        size
            Any size that tiles may have.
        """
        if self.fields is None or self.scale is None or self.crop is None or not self.inside:
            return None
        scale, phases = self.scale, len(self.fields)
        last_phase = int((size - sum(self.crop)) * scale) - 1
        sides = []
        for side in (0, 1):
            furthest = -1  # number, from the tile's end on, of the last output that is touched
            for number in range(phases):
                phase = number if side == 0 else (last_phase - number) % phases
                lost = self.fields[phase][side] - self.crop[side]
                # outputs of this phase are touched while they cover pixels below `lost`
                count = max(0, math.ceil((math.ceil(lost * scale) - number) / phases))
                furthest = max(furthest, number + (count - 1) * phases if count else -1)
            sides.append(math.ceil((furthest + 1) / scale))
        return sides[0], sides[1]


MOMENTS = ("mean", "var", "std")
"""How names of operations begin that give means and variances."""
_TAKES_MOMENTS = (*MOMENTS, "native_", "batch_norm")  # to normalize by them, too


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

    @property
    def moment(self) -> bool:
        """Whether it takes means and variances alone."""
        return self.operation.strip("_").startswith(_TAKES_MOMENTS)

    @property
    def name(self) -> str:
        """Its module; the operation in words where no module is known."""
        return self.module or next(
            (words for start, words in _WORDS if self.operation.startswith(start)), self.operation
        )


RESIZING = "resize"
COMPUTED_PLACES = "reading at computed places"
DECISION = "a decision by a number of the tile"

_WORDS = (
    ("gather", COMPUTED_PLACES),
    ("median", "the median over space"),
    ("nanmedian", "the median over space"),
    ("kthvalue", "a rank over space"),
    ("topk", "a rank over space"),
    ("sort", "a rank over space"),
    ("mode", "the mode over space"),
    ("masked_select", "a selection over space"),
    ("index", "a selection over space"),
    ("nonzero", "a selection over space"),
    ("histc", "a histogram over space"),
    ("bincount", "a histogram over space"),
    ("any", "a condition over space"),
    ("all", "a condition over space"),
    ("count_nonzero", "a count over space"),
    ("cum", "an accumulation over space"),
    ("logcumsumexp", "an accumulation over space"),
    ("amin", "the minimum over space"),
    ("min", "the minimum over space"),
    ("amax", "the maximum over space"),
    ("max", "the maximum over space"),
    ("mean", "the mean over space"),
    ("aminmax", "the minimum and maximum over space"),
    ("nansum", "the sum over space"),
    ("prod", "the product over space"),
    ("sum", "the sum over space"),
    ("var", "the variance over space"),
    ("std", "the standard deviation over space"),
    ("linalg_vector_norm", "the norm over space"),
    ("norm", "the norm over space"),
    ("native_", "normalization"),
    ("_batch_norm", "normalization"),
    ("_adaptive", "adaptive pooling"),
    ("adaptive", "adaptive pooling"),
    ("upsample", "upsampling with aligned corners"),
    (RESIZING, "resizing by a ratio that depends on the size"),
    ("_scaled_dot_product", "attention"),
    ("_softmax", "attention"),
    ("_safe_softmax", "attention"),
    ("softmax", "attention"),
    ("bmm", "attention"),
    ("mm", "a product of matrices"),
    ("addmm", "a product of matrices"),
    ("baddbmm", "attention"),
    ("_fft", "the Fourier transform"),
    ("scan", "recurrence"),
)


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
    decides
        Whether a number of the whole tile is compared, so that what it decides may differ by tile.
    only_decides
        Whether such numbers do nothing else.
    parts
        Whether parts of weights are taken, which have an end.
    resizes
        Whether maps are resized by ratios that are not whole: these may depend on the size.
    """

    axes: tuple[DerivedAxis, ...]
    couplings: tuple[Coupling, ...] = ()
    random: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    decides: bool = False
    only_decides: bool = False
    parts: bool = False
    resizes: bool = False

    @property
    def bounded(self) -> bool | None:
        """Whether some halo makes tiles agree; None where that cannot be derived."""
        if self.couplings or any(axis.absolute for axis in self.axes):
            return False
        known = all(axis.fields is not None for axis in self.axes)
        return True if known and not self.unknown else None


__all__ = ["COMPUTED_PLACES", "DECISION", "MOMENTS", "Coupling", "Derived", "DerivedAxis"]
