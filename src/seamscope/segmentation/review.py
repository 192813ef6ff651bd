"""What to look at next, and what to train on: suspicious objects, and crops of corrected places.

Knows margins, sizes and places. Does not know windows.

An object is suspicious when

* its *margin* is small: a slightly different threshold would join it with a neighbour, or cut it;
* a seam candidate touches it (see `seamscope.segmentation.false_splits`);
* its *size* is odd: far from the median of all objects, on a logarithmic scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import SettingsError
from seamscope.images.results.create import create_output
from seamscope.segmentation.corrections import Corrections
from seamscope.segmentation.false_splits import Candidate
from seamscope.segmentation.segment import Segmentation
from seamscope.text import pixels_text

Array: TypeAlias = npt.NDArray[Any]
Reason: TypeAlias = Literal["margin", "seam", "size"]

_ODD = 3.5  # robust standard deviations, as Iglewicz and Hoaglin (1993) recommend for outliers

_EQUAL = 0.1  # sizes that differ by a tenth are equal


@dataclass(frozen=True)
class Suspect:
    """A place that is worth a look.

    Attributes
    ----------
    place
        A pixel of the object.
    reason
        Why: ``"margin"``, ``"seam"`` or ``"size"``.
    score
        From 0 to 1, 1 is the most suspicious; comparable within one reason only.
    sentence
        What was seen.
    """

    place: tuple[int, ...]
    reason: Reason
    score: float
    sentence: str


def suspects(
    segmentation: Segmentation, candidates: Sequence[Candidate] = (), most: int = 1000
) -> list[Suspect]:
    """List suspicious objects: the worst of each reason by turns.

    Parameters
    ----------
    segmentation
        With corrections or without.
    candidates
        Pairs at seams, of these labels.
    most
        Of each reason at most so many.
    """
    lists = [
        _by_seams(candidates)[:most],
        _by_margin(segmentation, most),
        _by_size(segmentation)[:most],
    ]
    longest = max(map(len, lists), default=0)
    return [each[i] for i in range(longest) for each in lists if i < len(each)]


def _by_seams(candidates: Iterable[Candidate]) -> list[Suspect]:
    ordered = sorted(candidates, key=lambda c: (c.rate, -c.pixels))
    return [
        Suspect(
            c.places[0],
            "seam",
            1 - c.rate,
            f"Two objects face each other across the seam at {c.line}, along "
            f"{pixels_text(c.pixels)}.",
        )
        for c in ordered
    ]


def _by_margin(segmentation: Segmentation, most: int) -> list[Suspect]:
    """Find the edges of the tree that the smallest change of the threshold would cut or join."""
    recipe, tree = segmentation.recipe, segmentation.tree
    if recipe.kind == "classes" or not len(tree.height):
        return []
    cut = recipe.cut
    if recipe.seeds_by_dynamics:
        margin = np.abs(tree.dynamics - cut)
    else:
        # an edge separates objects for all thresholds above `younger`, up to its own height
        margin = np.minimum(np.abs(tree.younger - cut), np.abs(tree.height - cut))
    shown = (segmentation.objects[tree.first] > 0) & (segmentation.objects[tree.second] > 0)
    start = segmentation.first_pixels
    none = np.iinfo(start.dtype).max  # of basins that *components* leave below the threshold
    shown &= np.minimum(start[tree.first], start[tree.second]) < none
    edges = np.flatnonzero(shown)
    edges = edges[np.argsort(margin[edges], kind="stable")][:most]
    found = []
    span = max(1, int(margin.max(initial=1)))
    for edge in edges.tolist():
        one, two = int(start[tree.first[edge]]), int(start[tree.second[edge]])
        place = _place(max(one, two) if max(one, two) < none else min(one, two), segmentation)
        value = recipe.value_at(cut + int(margin[edge])) - recipe.value_at(cut)
        sentence = f"A threshold {abs(value):.2g} away would join or cut this object."
        found.append(Suspect(place, "margin", 1 - int(margin[edge]) / span, sentence))
    return found


def _by_size(segmentation: Segmentation) -> list[Suspect]:
    """Find objects whose size is far from the median."""
    label, area, start = segmentation.sizes()
    if len(label) < 5:
        return []
    size = np.log(area)
    away = np.abs(size - np.median(size))
    spread = max(1.4826 * np.median(away), _EQUAL)  # objects of one size have none
    odd = np.flatnonzero(away > _ODD * spread)
    odd = odd[np.argsort(-away[odd], kind="stable")]
    typical = float(np.exp(np.median(size)))
    top = float(away.max())
    return [
        Suspect(
            _place(int(start[i]), segmentation),
            "size",
            float(away[i]) / top,
            f"{pixels_text(int(area[i]))}, the median is {typical:.0f}.",
        )
        for i in odd.tolist()
    ]


def _place(linear: int, segmentation: Segmentation) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(linear, segmentation.shape))


# -- crops for training


def export_crops(
    corrections: Corrections, image: Any, folder: str | Path, *, size: int = 256
) -> list[tuple[Path, Path]]:
    """Write image and labels around all corrected places, as pairs of TIFF files for training.

    The image is divided into squares (cubes) of `size`; each with a corrected place is a crop.

    Parameters
    ----------
    corrections
        Whose places, and whose labels.
    image
        What was predicted, of the labels' size; as for `seamscope.open_image`.
    folder
        Where files go: ``crop_Y_X_image.tif`` and ``crop_Y_X_labels.tif``; created if need be.
    size
        Side of a crop, pixels; crops at the image's border may be smaller.

    Returns
    -------
    list
        The files, image and labels of each crop.

    Raises
    ------
    SettingsError
        When nothing was corrected.
    ImageError, OutputError
        When sizes differ, files exist, or the disk is full.
    """
    found = corrections.current
    opened = found.fitting(image)
    space = found.space
    corners = {
        tuple(p // size * size if axis in space.spatial else p for axis, p in enumerate(place))
        for entry in corrections.entries
        for place in entry.places()
    }
    if not corners:
        raise SettingsError("Nothing was corrected, so there is nothing to export.")
    target = Path(folder).expanduser()
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for corner in sorted(corners):
        region = tuple(
            slice(c, min(n, c + size) if axis in space.spatial else c + 1)
            for axis, (c, n) in enumerate(zip(corner, found.shape, strict=True))
        )
        name = "_".join(map(str, corner))
        files = target / f"crop_{name}_image.tif", target / f"crop_{name}_labels.tif"
        axes = opened.axes or space.axes
        index = tuple(
            region[space.axes.index(letter)] if letter in space.axes else slice(None)
            for letter in axes
        )
        _write(files[0], opened.read(index), axes, opened.scale, opened.units)
        labels = found.paint(region)
        _write(files[1], labels, space.axes, space.scale, space.units)
        written.append(files)
    return written


def _write(
    path: Path, values: Array, axes: str, scale: Sequence[float], units: Sequence[str]
) -> None:
    with create_output(
        path, values.shape, values.dtype, axes=axes, scale=scale, units=units
    ) as output:
        output.write(tuple(slice(0, n) for n in values.shape), np.ascontiguousarray(values))
        output.finish()


__all__ = ["Suspect", "export_crops", "suspects"]
