"""Where the tiles of a prediction meet, as its plan or its file says.

Knows records of predictions and of labels. Does not know labels themselves.

Predictions note their plan, and labels made of them note the seams. The test for false splits takes
the grid from there and does not search it. Cores of tiles need not begin where another program
would put them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from seamscope.errors import SettingsError
from seamscope.images.image import Image
from seamscope.images.records import read_record
from seamscope.planning.plan import Plan
from seamscope.segmentation.lines import Lines


@dataclass(frozen=True)
class AxisSeams:
    """Seams along one axis.

    Attributes
    ----------
    tile
        Size of the window that the network reads, pixels of the image.
    stride
        Distance between seams, pixels of the labels.
    first
        Position of a seam, modulo `stride`.
    before, after
        Pixels before the first seam and behind the last one: the outer tiles keep more. 0 where
        labels begin or end inside.
    """

    tile: int
    stride: int
    first: int
    before: int = 0
    after: int = 0

    def within(self, start: int, stop: int, size: int) -> AxisSeams:
        """Return the seams as they lie in a part of `size` pixels."""
        return AxisSeams(
            self.tile,
            self.stride,
            (self.first - start) % self.stride,
            max(0, self.before - start),
            max(0, self.after - (size - stop)),
        )


Seams: TypeAlias = Mapping[str, AxisSeams]


def seams_of(plan: Plan, *, of_area: bool = True) -> dict[str, AxisSeams]:
    """Return the seams of a plan along each axis that has any.

    Parameters
    ----------
    plan
        Of the prediction.
    of_area
        Whether positions count from the plan's area, as in its result, or from the whole image.
    """
    found = {}
    for letter, axis, part in zip(plan.layout.spatial, plan.grid.axes, plan.area, strict=True):
        if len(axis) > 1:
            stride, size = int(axis.stride * axis.lattice.scale), axis.output_size
            begin = [tile.core[0] for tile in axis][1:]
            whole = AxisSeams(axis.tile, stride, begin[0] % stride, begin[0], size - begin[-1] - 1)
            found[letter] = whole.within(part.start, part.stop, size) if of_area else whole
    return found


def within(
    seams: Seams, axes: str, corner: Sequence[int], size: Sequence[int], whole: Sequence[int]
) -> dict[str, AxisSeams]:
    """Return seams as they lie in a part of a prediction.

    Parameters
    ----------
    seams
        Of the prediction.
    axes
        A letter for each axis.
    corner, size, whole
        Of the part, its pixels, and those of the prediction along each axis.
    """
    rows = zip(axes, corner, size, whole, strict=True)
    return {
        letter: seams[letter].within(low, low + n, every)
        for letter, low, n, every in rows
        if letter in seams
    }


def noted_seams(image: Image) -> dict[str, AxisSeams]:
    """Return the seams that a file of labels or of a prediction notes; empty where none."""
    record = (read_record(image.source) if image.source else None) or {}
    with contextlib.suppress(TypeError, ValueError, AttributeError, SettingsError):
        written = record.get("segmentation", {}).get("seams")
        if written is not None:
            return {letter: AxisSeams(**values) for letter, values in written.items()}
        if "exact" in record.get("plan", {}):
            return seams_of(Plan.from_json(record["plan"]))
    return {}


def lines_of(seams: Seams, letters: Sequence[str], sizes: Sequence[int]) -> Lines | None:
    """Return seams as lines along these axes of space; None where there are none.

    Parameters
    ----------
    seams
        By letter.
    letters, sizes
        Of the axes, and pixels of the labels along them.
    """
    if not any(letter in seams for letter in letters):
        return None
    none = [AxisSeams(n, n + 1, 0, 0, 0) for n in sizes]  # no line inside
    each = [seams.get(letter, other) for letter, other in zip(letters, none, strict=True)]
    return Lines(
        tuple(s.stride for s in each),
        tuple(s.first for s in each),
        tuple(s.tile for s in each),
        tuple((s.before, s.after) for s in each),
    )


def plain_seams(seams: Seams) -> dict[str, Any]:
    """Return seams in JSON's own types."""
    return {letter: dict(vars(each)) for letter, each in seams.items()}


__all__ = [
    "AxisSeams",
    "Seams",
    "lines_of",
    "noted_seams",
    "plain_seams",
    "seams_of",
    "within",
]
