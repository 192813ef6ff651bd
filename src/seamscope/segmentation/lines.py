"""The lines of a grid of tiles: where seams lie.

Knows strides and offsets. Does not know images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import SettingsError
from seamscope.text import pixels_text

Array: TypeAlias = npt.NDArray[Any]
PerAxis: TypeAlias = "int | Sequence[int]"

NEAR = 2  # displacements up to this count as the grid itself


@dataclass(frozen=True)
class Lines:
    """The seams along each axis of space: pixels ``c - 1`` and ``c`` lie on either side.

    Attributes
    ----------
    stride
        Distance between lines along each axis, pixels.
    offset
        Position of the lines modulo `stride`.
    tile
        Pixels of a tile along each axis, as the network reads it; empty where unknown.
    margins
        For each axis how many pixels before the first seam, and behind the last one, are without
        seams, since the outer tiles keep more; 0 for no limit. Empty for none.
    """

    stride: tuple[int, ...]
    offset: tuple[int, ...]
    tile: tuple[int, ...] = field(default=(), compare=False)
    margins: tuple[tuple[int, int], ...] = field(default=(), compare=False)

    @classmethod
    def of(
        cls, tile: PerAxis, overlap: PerAxis = 0, offset: PerAxis | None = None, axes: int = 2
    ) -> Lines:
        """Return the lines of tiles of a size.

        Parameters
        ----------
        tile, overlap
            Pixels along each axis; the distance between lines is their difference.
        offset
            Where lines lie modulo this distance. By default in the middle of the overlaps, of tiles
            that start at 0, so that the first one lies inside the first tile.
        axes
            Number of axes of space.

        Raises
        ------
        SettingsError
            When tiles are not larger than their overlap.
        """
        sizes, shared = _per_axis(tile, axes), _per_axis(overlap, axes)
        stride = tuple(t - o for t, o in zip(sizes, shared, strict=True))
        if min(stride) < 2 * NEAR + 4:
            raise SettingsError(
                f"Tiles of {tile} with an overlap of {overlap} leave "
                f"{pixels_text(min(stride))} between seams: "
                f"at least {2 * NEAR + 4} are needed for a comparison."
            )
        first = tuple(o // 2 for o in shared) if offset is None else _per_axis(offset, axes)
        lines = tuple(o % s for o, s in zip(first, stride, strict=True))
        margins = tuple((o // 2 + 1, o - o // 2) for o in shared) if offset is None else ()
        return cls(stride, lines, sizes, margins if any(shared) else ())

    def along(self, axis: int, size: int, shift: int = 0) -> Array:
        """Return the lines inside an axis of this size, displaced by `shift`."""
        stride = self.stride[axis]
        lines = np.arange((self.offset[axis] + shift) % stride, size, stride)
        before, after = self.margins[axis] if self.margins else (0, 0)
        own = lines - (shift if shift <= stride // 2 else shift - stride)  # before displacement
        inside = lines > 0
        inside &= (own >= before) if before else True
        inside &= (own < size - after) if after else True
        return lines[inside]


def _per_axis(value: PerAxis, axes: int) -> tuple[int, ...]:
    values = (value,) * axes if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != axes:
        raise SettingsError(f"{value} does not fit {axes} axes of space: give one number for each.")
    return values


__all__ = ["NEAR", "Lines", "PerAxis"]
