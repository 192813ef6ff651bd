"""False splits: objects that were cut where tiles meet, in the labels of any program.

Knows what the lines of a grid show. Does not know tiles' predictions or networks.

Three questions, each answered by comparing the grid's lines with the same lines displaced:

*Is there an artifact?* Along a line, count the pixels where the label changes across it, as far as
they lie in straight runs of at least `RUN` pixels (`seamscope.segmentation.crossings`). Changes on
the grid's lines are compared with those on all displaced grids
(`seamscope.segmentation.grids`).

*Where is the grid?* Strides and offsets are scanned, and the p value accounts for the search.

*Which objects?* Different labels that face each other across a line, at most `GAP` background
pixels apart, along at least `LENGTH` pixels. Displaced lines give as many such pairs as chance
does (decoys): the false-discovery rate of all pairs of at least this length is decoys / pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.progress import QUIET, Work
from seamscope.segmentation.crossings import GAP, RUN, Crossings, look_across
from seamscope.segmentation.grids import (
    ARTIFACT,
    FoundGrid,
    GridTest,
    compare_lines,
    lines_found,
    search_grid,
)
from seamscope.segmentation.label_images import labels_of
from seamscope.segmentation.lines import NEAR, Lines, PerAxis
from seamscope.segmentation.tile_seams import lines_of, noted_seams
from seamscope.serialization import record

Array: TypeAlias = npt.NDArray[Any]

LENGTH = 6


@dataclass(frozen=True)
class Candidate:
    """Two objects that may be one, cut by a seam.

    Attributes
    ----------
    labels
        Of the objects, before and after the seam.
    axis
        Across which axis of space they face each other; 0 is the first.
    line
        The seam: pixels ``line - 1`` and ``line`` lie on either side.
    pixels
        Length along which they face each other.
    places
        A pixel of each object beside the seam, with frames first for movies.
    rate
        False-discovery rate of the list down to this one; 0.1 means that 10 % are expected to be
        true borders.
    """

    labels: tuple[int, int]
    axis: int
    line: int
    pixels: int
    places: tuple[tuple[int, ...], tuple[int, ...]]
    rate: float


@dataclass(frozen=True)
class SplitReport:
    """False splits of a label image.

    Attributes
    ----------
    name
        Of the labels.
    axes
        Of space.
    lines
        The grid that was tested, given or found; None where none was found.
    test
        Of the whole grid; None without one.
    found
        Where the grid was not given: the best one along each axis.
    candidates
        Pairs on the seams, the longest first.
    expected
        Number of pairs that chance alone puts on as many lines.
    letters, shape
        Letter of each axis of the labels, and their pixels along it.
    grid
        How the grid is known: ``"given"``, ``"noted in the labels' file"`` or ``"searched"``.
    """

    name: str
    axes: str
    lines: Lines | None
    test: GridTest | None
    found: tuple[FoundGrid, ...]
    candidates: tuple[Candidate, ...]
    expected: float
    letters: str = ""
    shape: tuple[int, ...] = ()
    grid: str = "given"

    @property
    def p(self) -> float:
        """Probability of such a result without tiles; where the grid was searched, of the search.

        A grid that was chosen because it fits stands out in any image: its own test must not be
        quoted alone.
        """
        found = min((grid.p for grid in self.found), default=0.0)
        return found if self.test is None else max(self.test.p, found)

    @property
    def cut(self) -> bool:
        """Whether labels change on the seams more often than chance explains."""
        return self.test is not None and self.p <= ARTIFACT

    def below(self, rate: float) -> tuple[Candidate, ...]:
        """Return the longest list of candidates with at most this false-discovery rate."""
        return tuple(c for c in self.candidates if c.rate <= rate)

    def describe(self) -> str:
        """A few sentences for people."""
        if self.test is None or self.lines is None:
            best = min(self.found, key=lambda g: g.p)
            return (
                f"No grid was found: the best fit along {best.axis}, every {best.stride} pixels, "
                f"has p = {best.p:.2g} (0.05 or less would be a grid)."
            )
        test = self.test
        stride = " x ".join(map(str, self.lines.stride))
        verdict = (
            "The labels are cut where tiles meet"
            if self.cut
            else "The labels show no sign of tiles"
        )
        text = (
            f"{verdict}: {test.changes:.3g} label changes in straight runs per seam, "
            f"{test.expected:.3g} on displaced lines (p = {self.p:.2g}, grid of {stride} pixels)."
        )
        pairs = len(self.candidates)
        if not pairs:
            return text + " No two objects face each other across a seam."
        return text + (
            f" {pairs} pair{'s' * (pairs != 1)} of objects face each other across seams; chance "
            f"alone gives {self.expected:.3g}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return grid, test and pairs under names that say what is counted."""
        test = self.test
        return record(
            labels=self.name,
            axes=self.axes,
            stride=self.lines and self.lines.stride,
            offset=self.lines and self.lines.offset,
            grid=self.grid,
            p=self.p,
            test=test
            and {
                "p": test.p,
                "changes_per_line": test.changes,
                "expected_per_line": test.expected,
                "excess_per_line": test.effect,
                "spread": test.spread,
                "lines": test.lines,
            },
            grid_found=[
                {"axis": g.axis, "stride": g.stride, "offset": g.offset, "p": g.p}
                for g in self.found
            ],
            expected_pairs=self.expected,
            pairs=[
                {
                    "labels": c.labels,
                    "axis": self.axes[c.axis],
                    "line": c.line,
                    "pixels": c.pixels,
                    "places": c.places,
                    "false_discovery_rate": c.rate,
                }
                for c in self.candidates
            ],
        )


def find_splits(
    labels: Any,
    tile: PerAxis | None = None,
    *,
    overlap: PerAxis = 0,
    offset: PerAxis | None = None,
    axes: str | None = None,
    lines: Lines | None = None,
    work: Work = QUIET,
) -> SplitReport:
    """Test labels of any program for cuts where tiles meet, and list the objects that were cut.

    Parameters
    ----------
    labels
        Array, path or `Image` of whole numbers, 0 for background; axes of space, and ``t``.
    tile, overlap, offset
        The grid of tiles, see `Lines.of`. Without a tile, the grid is what Seamscope has noted in
        the labels' file; else it is searched.
    axes
        One letter for each axis, where the file does not say.
    lines
        The seams themselves, instead of tiles.
    work
        Shows progress and stops.

    Raises
    ------
    ImageError
        When the labels are not whole numbers.
    SettingsError
        When the grid has no line inside the image.

    Examples
    --------
    >>> import numpy as np, seamscope
    >>> cells = np.arange(1, 325).reshape(18, 18).repeat(11, 0).repeat(11, 1)[:192, :192]
    >>> cut = cells + 1000 * (np.arange(192) // 48)  # cells are cut at columns 48, 96 and 144
    >>> report = seamscope.find_splits(cut, tile=48)
    >>> report.test.p < 0.01, len(report.candidates) > 40
    (True, True)
    """
    image = labels_of(labels, axes)
    space = [i for i, letter in enumerate(image.axes or "") if letter in "zyx"]
    names = "".join((image.axes or "")[i] for i in space)
    scanned = [look_across(image, axis, space, work) for axis in space]
    sizes = [image.shape[axis] for axis in space]
    profiles = [s.changes for s in scanned]
    grid = "given"
    found: tuple[FoundGrid, ...] = ()
    if lines is not None:
        pass
    elif tile is not None:
        lines = Lines.of(tile, overlap, offset, len(space))
    elif (lines := lines_of(noted_seams(image), names, sizes)) is not None:
        grid = "noted in the labels' file"
    else:
        grid, found = "searched", search_grid(profiles, names)
        lines = lines_found(found, sizes)
    report = SplitReport(
        image.name, names, lines, None, found, (), 0.0, image.axes or "", image.shape, grid
    )
    if lines is None:
        return report
    candidates, expected = _candidates(scanned, lines, sizes)
    test = compare_lines(profiles, lines, sizes)
    return replace(report, test=test, candidates=candidates, expected=expected)


# -- pairs


def _candidates(
    scanned: Sequence[Crossings], lines: Lines, sizes: Sequence[int]
) -> tuple[tuple[Candidate, ...], float]:
    """Return the pairs on the grid's lines with their rates, and how many chance would give."""
    found: list[Candidate] = []
    decoys: list[Array] = []
    weights: list[Array] = []
    for axis, seen in enumerate(scanned):
        own = lines.along(axis, sizes[axis])
        if not len(own):
            continue
        long_enough = seen.facing[:, 3] >= LENGTH
        rows, places = seen.facing[long_enough], seen.places[long_enough]
        on_grid = np.isin(rows[:, 0], own)
        for row, place in zip(rows[on_grid].tolist(), places[on_grid].tolist(), strict=True):
            line, one, two, pixels = row
            both = (tuple(place[0]), tuple(place[1]))
            found.append(Candidate((one, two), axis, line, pixels, both, 1.0))
        stride, offset = lines.stride[axis], lines.offset[axis]
        apart = np.abs((np.arange(1, sizes[axis]) - offset + stride // 2) % stride - stride // 2)
        displaced = apart > max(NEAR, GAP)
        far = displaced[rows[:, 0] - 1]
        decoys.append(rows[far, 3])
        weights.append(np.full(int(far.sum()), len(own) / max(1, int(displaced.sum()))))
    lengths = np.concatenate(decoys) if decoys else np.zeros(0)
    weight = np.concatenate(weights) if weights else np.zeros(0)
    found.sort(key=lambda c: (-c.pixels, c.axis, c.line, c.labels))
    rates = [
        min(1.0, float(weight[lengths >= c.pixels].sum()) / max(1, _at_least(found, c.pixels)))
        for c in found
    ]
    for i in reversed(range(len(rates) - 1)):  # the rate of the best list that holds this pair
        rates[i] = min(rates[i], rates[i + 1])
    listed = tuple(replace(c, rate=r) for c, r in zip(found, rates, strict=True))
    return listed, float(weight.sum())


def _at_least(found: Sequence[Candidate], pixels: int) -> int:
    return sum(c.pixels >= pixels for c in found)


__all__ = [
    "GAP",
    "LENGTH",
    "RUN",
    "Candidate",
    "FoundGrid",
    "GridTest",
    "Lines",
    "SplitReport",
    "find_splits",
]
