"""Where an output lies over its input: pixels lost at either end, and pixels beyond the ends.

Knows receptive fields and tensors. Does not know how fields are measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch

from seamscope.models.slab import PhaseFields
from seamscope.normalization.calls import Forward
from seamscope.tiling import Sides


def sides_by_place(lost: int, field: PhaseFields) -> Sides:
    """Crop of each side, by where a pixel's receptive field lies on average over the phases.

    The field is counted as if nothing were lost before the first output pixel.
    """
    middle = sum(after - before for before, after in field) / (2 * len(field))
    options = {math.floor(middle), math.ceil(middle)}
    before = min(options, key=lambda n: (abs(n - middle), abs(n - lost / 2), n))
    before = min(max(before, 0), lost)
    return before, lost - before


def surplus_by_place(surplus: int, scale: Fraction, field: PhaseFields | tuple[()]) -> Sides:
    """How many output pixels to leave out at either end, by where receptive fields lie.

    The field is counted as if all were left out at the end.
    """
    if not surplus or not field:
        return 0, surplus
    middle = sum(after - before for before, after in field) / (2 * len(field))
    # of two that are as close, the one that leaves out less at the beginning
    before = math.ceil(-middle * scale - Fraction(1, 2))
    before = min(max(before, 0), surplus)
    return before, surplus - before


def trimmed(forward: Forward, cut: Sequence[Sides]) -> Forward:
    """Return a forward pass that leaves out output pixels at the ends of each axis."""

    def run(x: torch.Tensor) -> torch.Tensor:
        return without_ends(forward(x), cut)

    return run


def without_ends(y: torch.Tensor, cut: Sequence[Sides]) -> torch.Tensor:
    """Return ``(N, C, *spatial)`` without pixels ``(before, after)`` of each spatial axis."""
    for axis, (before, after) in enumerate(cut):
        y = y.narrow(axis + 2, before, y.shape[axis + 2] - before - after)
    return y


__all__ = ["sides_by_place", "surplus_by_place", "trimmed", "without_ends"]
