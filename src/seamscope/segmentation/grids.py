"""Whether label changes gather on the lines of a grid, and which grid fits best.

Knows how many labels change across each line of an image. Does not know labels.

*A given grid.* Per line, ``S(o)`` are the changes on a grid displaced by ``o``, and
``T = S_y(0) + S_x(0)``. The null distribution are all ``S_y(i) + S_x(j)`` with displacements of
more than 2 pixels, and ``p = (1 + #{null >= T}) / (1 + #null)``: a randomization test, small if
the grid's own lines stand out. ``T - mean(null)`` is the effect, in pixels per line.

*An unknown grid.* Strides and offsets are scanned along each axis. The best one is compared with
the best ones of profiles whose lines were shuffled, so its p value accounts for the search; it is
multiplied by the number of axes (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import SettingsError
from seamscope.segmentation.lines import NEAR, Lines

Array: TypeAlias = npt.NDArray[Any]

ARTIFACT = 0.05  # p values up to it are an artifact, or a grid
_MOST_SHIFTS = 400  # per axis; more add nothing to a p value
_SHUFFLES = 199


@dataclass(frozen=True)
class GridTest:
    """Whether label changes gather on the lines of a grid.

    Attributes
    ----------
    p
        Probability of so many changes on lines that are not a grid; `ARTIFACT` (0.05) or less is
        an artifact.
    changes
        Changes on the grid's lines, pixels per line, summed over axes (``T``).
    expected, spread
        Mean and standard deviation of the same on displaced lines.
    lines
        Number of lines along each axis.
    profiles
        For each axis the changes per line, pixels, of the grid displaced by 0, 1 ... pixels; empty
        along axes without a line.
    """

    p: float
    changes: float
    expected: float
    spread: float
    lines: tuple[int, ...]
    profiles: tuple[Array, ...] = field(default=(), compare=False, repr=False)

    @property
    def effect(self) -> float:
        """Excess of changes, pixels per line."""
        return self.changes - self.expected


@dataclass(frozen=True)
class FoundGrid:
    """The grid that fits best along one axis.

    Attributes
    ----------
    axis
        Letter of the axis.
    stride, offset
        Of its lines, pixels.
    p
        Probability that shuffled lines have a grid that fits as well, for all axes together.
    """

    axis: str
    stride: int
    offset: int
    p: float


def compare_lines(changes: Sequence[Array], lines: Lines, sizes: Sequence[int]) -> GridTest:
    """Compare the changes on the lines of a grid with those on displaced lines.

    Parameters
    ----------
    changes
        For each axis of space the changes across each of its lines, pixels; index is the line.
    lines
        The grid.
    sizes
        Pixels of the labels along each axis.

    Raises
    ------
    SettingsError
        When the grid has no line inside the labels.
    """
    observed, null = 0.0, np.zeros(1)
    counts, profiles = [], []
    for axis, profile in enumerate(changes):
        own = lines.along(axis, sizes[axis])
        if not len(own):
            counts.append(0)
            profiles.append(np.zeros(0))
            continue
        profiles.append(_profile(profile, lines, axis, sizes[axis]))
        counts.append(len(own))
        observed += profile[own].mean()
        shifted = _displaced(profile, lines, axis, sizes[axis])
        if len(null) * len(shifted) > 10**7:  # three axes: every so many displacements will do
            null = null[:: math.ceil(len(null) * len(shifted) / 10**7)]
        null = np.add.outer(null, shifted).ravel()
    if not any(counts):
        raise SettingsError(
            f"No seam of a grid of {' x '.join(map(str, lines.stride))} pixels lies inside labels "
            f"of {' x '.join(map(str, sizes))}, so that none is cut. If the tiles were smaller, "
            "give their size (`tile`)."
        )
    # a sum that is equal except for rounding is as extreme
    p = (1 + int((null >= observed - 1e-9).sum())) / (1 + len(null))
    spread = float(null.std())
    return GridTest(p, observed, float(null.mean()), spread, tuple(counts), tuple(profiles))


def _profile(profile: Array, lines: Lines, axis: int, size: int) -> Array:
    """Mean changes per line of the grid displaced by every number of pixels."""
    every = (profile[lines.along(axis, size, shift)] for shift in range(lines.stride[axis]))
    return np.array([values.mean() if len(values) else np.nan for values in every])


def _displaced(profile: Array, lines: Lines, axis: int, size: int) -> Array:
    """Mean changes per line of all displaced grids along one axis."""
    stride = lines.stride[axis]
    shifts = np.arange(NEAR + 1, stride - NEAR)
    shifts = shifts[:: max(1, len(shifts) // _MOST_SHIFTS)]
    each = [profile[lines.along(axis, size, int(shift))] for shift in shifts]
    return np.array([values.mean() for values in each if len(values)])


def search_grid(changes: Sequence[Array], names: str) -> tuple[FoundGrid, ...]:
    """Find the stride and offset that fit best along each axis, against shuffled lines.

    Parameters
    ----------
    changes
        As for `compare_lines`.
    names
        Letters of the axes.
    """
    rng = np.random.default_rng(0)
    found = []
    for name, profile in zip(names, changes, strict=True):
        values = profile[1:]
        most = min(len(values) // 3, 1024)
        if most < 16 or not values.std():
            found.append(FoundGrid(name, max(1, len(profile)), 0, 1.0))
            continue
        pieces = np.array_split(
            values, max(1, len(values) // 4)
        )  # neighbouring lines stay together
        shuffled = [
            np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])
            for _ in range(_SHUFFLES)
        ]
        best = np.full(_SHUFFLES + 1, -np.inf)
        where = (16, 0)
        rows = np.stack([values, *shuffled])
        rows = (rows - values.mean()) / values.std()
        for stride in range(16, most + 1):
            whole = rows.shape[1] // stride * stride
            folded = rows[:, :whole].reshape(len(rows), -1, stride)
            score = folded.sum(1) / math.sqrt(folded.shape[1])
            top = score.max(1)
            if top[0] > best[0]:
                where = (stride, int(score[0].argmax() + 1) % stride)
            best = np.maximum(best, top)
        p = (1 + int((best[1:] >= best[0]).sum())) / (1 + _SHUFFLES)
        found.append(FoundGrid(name, *where, min(1.0, p * len(names))))
    return tuple(found)


def lines_found(found: Sequence[FoundGrid], sizes: Sequence[int]) -> Lines | None:
    """Return the grid of the axes along which one was found."""
    there = [grid.p <= ARTIFACT for grid in found]
    if not any(there):
        return None
    rows = list(zip(found, sizes, there, strict=True))
    return Lines(
        tuple(g.stride if has else n + 1 for g, n, has in rows),
        tuple(g.offset if has else 0 for g, _, has in rows),
    )


__all__ = ["ARTIFACT", "FoundGrid", "GridTest", "compare_lines", "lines_found", "search_grid"]
