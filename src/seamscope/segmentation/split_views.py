"""Pictures of candidate pairs: labels, the image, and what each tile predicts there.

Knows where the tiles of a grid lie. Does not know how pictures are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.images.image import Image
from seamscope.progress import QUIET, Work, check
from seamscope.segmentation.asking import OneTile
from seamscope.segmentation.false_splits import Candidate, SplitReport
from seamscope.segmentation.lines import Lines
from seamscope.tiling import Slices, window_around

Array: TypeAlias = npt.NDArray[np.float64]

_SIDE = 64  # pixels of a picture


@dataclass(frozen=True)
class SplitView:
    """A candidate on a plane across its seam.

    Attributes
    ----------
    candidate
        The pair.
    axes
        Letters of the plane's two axes.
    corner
        First pixel shown along these axes.
    seam
        Letter of the axis that the seam crosses, and where in the picture.
    labels
        ``(H, W)``, int64.
    image
        ``(H, W)``; None without one.
    tiles
        What the tile before the seam, the tile behind it, and a tile with the seam in its middle
        predict: the recipe's probability, depth or distance, ``(H, W)`` each, NaN outside the tile
        and where the recipe sees no foreground. Empty without a network.
    """

    candidate: Candidate
    axes: str
    corner: tuple[int, int]
    seam: tuple[str, int]
    labels: npt.NDArray[np.int64] = field(repr=False)
    image: Array | None = field(default=None, repr=False)
    tiles: tuple[Array, ...] = field(default=(), repr=False)


def look_at_splits(
    report: SplitReport,
    labels: Image,
    *,
    most: int = 12,
    image: Image | None = None,
    tiles: OneTile | None = None,
    work: Work = QUIET,
) -> list[SplitView]:
    """Cut pictures around the first candidates of a report, and predict the tiles there.

    Parameters
    ----------
    report, labels
        What was found, and in which labels.
    most
        Pictures at most.
    image
        Of the labels; left out of the pictures where it has other pixels.
    tiles
        Predicts single tiles of the image. Three forward passes for each candidate.
    work
        Shows progress and stops.
    """
    views = []
    work.phase("Looking at pairs", "pairs")
    chosen = report.candidates[:most]
    for done, candidate in enumerate(chosen):
        check(work)
        views.append(_view(candidate, report, labels, image, tiles))
        work.step(done + 1, len(chosen))
    return views


def _view(
    candidate: Candidate,
    report: SplitReport,
    labels: Image,
    image: Image | None,
    tiles: OneTile | None,
) -> SplitView:
    letters = report.letters
    space = [i for i, a in enumerate(letters) if a in "zyx"]
    across = space[candidate.axis]
    others = [i for i in reversed(space) if i != across]
    plane = tuple(sorted((across, *others[:1])))
    middle = [int(c) for c in np.array(candidate.places).mean(0) + 0.5]
    region = tuple(
        window_around(m, n, _SIDE if i in plane else 1)
        for i, (m, n) in enumerate(zip(middle, labels.shape, strict=True))
    )
    shown = [_flat(values, plane) for values in _predicted(candidate, report, tiles, region)]
    picture = None if image is None else _under(image, letters, labels.shape, region)
    return SplitView(
        candidate,
        "".join(letters[i] for i in plane),
        (region[plane[0]].start, region[plane[-1]].start),
        (letters[across], candidate.line - region[across].start),
        _flat(labels.read(region), plane).astype(np.int64),
        None if picture is None else _flat(picture, plane),
        tuple(shown),
    )


def _flat(block: Array, plane: Sequence[int]) -> Array:
    """Return the plane of a block that is one pixel thick along other axes."""
    return np.asarray(block[tuple(slice(None) if i in plane else 0 for i in range(block.ndim))])


def _under(image: Image, letters: str, shape: Sequence[int], region: Slices) -> Array | None:
    """Read the image under a region of the labels, its first channel."""
    axes = image.axes or letters
    sizes = dict(zip(axes, image.shape, strict=True))
    if [sizes.get(a) for a in letters] != list(shape):
        return None
    parts = dict(zip(letters, region, strict=True))
    values = image.read(tuple(parts.get(a, 0) for a in axes))
    kept = [a for a in axes if a in letters]
    return np.asarray(values.transpose([kept.index(a) for a in letters]), np.float64)


def _predicted(
    candidate: Candidate, report: SplitReport, tiles: OneTile | None, region: Slices
) -> list[Array]:
    """What the tile before the seam, the one behind it, and one across it predict."""
    if tiles is None or report.lines is None:
        return []
    before, after = _origins(candidate, report.lines, tiles)
    made = [
        tiles.beginning_at(before, candidate),
        tiles.beginning_at(after, candidate),
        tiles.around(candidate),
    ]
    return [tiles.values(found, region) for found in made]


def _origins(candidate: Candidate, lines: Lines, tiles: OneTile) -> tuple[list[float], list[float]]:
    """Where the tiles before and behind a seam begin, along the axes that are tiled."""
    names = [a for a in tiles.axes if a in "zyx"]
    place = dict(zip(tiles.axes, np.mean(candidate.places, 0), strict=True))
    before, after = [], []
    for letter, size in tiles.size.items():
        number = names.index(letter)
        stride, offset = lines.stride[number], lines.offset[number]
        lead = max(0, size - stride) // 2  # of a tile before its core
        if number == candidate.axis:
            core = float(candidate.line)
            before.append(core - stride - lead)
        else:
            core = (place[letter] - offset) // stride * stride + offset
            before.append(core - lead)
        after.append(core - lead)
    return before, after


__all__ = ["SplitView", "look_at_splits"]
