"""Label images of any program: opened, and written with pairs of labels made one.

Knows that labels are whole numbers of an image. Does not know how they were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from seamscope.errors import ImageError
from seamscope.images.ground_truth import open_labels
from seamscope.images.image import Image
from seamscope.images.records import read_record
from seamscope.progress import QUIET, Work, check
from seamscope.segmentation.blocks import Blocks
from seamscope.segmentation.label_files import label_output
from seamscope.segmentation.objects import Space
from seamscope.text import percent_text

Array: TypeAlias = npt.NDArray[Any]


def labels_of(labels: Any, axes: str | None = None, **choices: Any) -> Image:
    """Open labels, and check that they are whole numbers of an image.

    Parameters
    ----------
    labels
        As for `seamscope.images.ground_truth.open_labels`.
    axes
        One letter for each axis; three axes that nothing names are ``zyx``.
    choices
        As for `seamscope.images.ground_truth.open_labels`.

    Raises
    ------
    ImageError
        When they are not whole numbers, or have channels.
    """
    image = open_labels(labels, **choices)
    if axes is None and image.axes is None and image.ndim == 3:
        axes = "zyx"
    image = image.with_axes(axes) if axes else image
    if image.axes is None or "c" in image.axes:
        raise ImageError(
            f"{image.name} has {image.ndim} axes and nothing says that they are space and time, or "
            "one of them is channels: name them (`axes='tyx'`), or give one channel."
        )
    if image.dtype.kind not in "uib":
        raise ImageError(
            f"{image.name} holds {image.dtype}, but labels are whole numbers: give the label image "
            "and not a probability."
        )
    changing = _share_changing(image)
    if changing > _MOST_CHANGING:
        raise ImageError(
            f"{image.name} holds numbers that change at {percent_text(changing)} of its pixels, as "
            "intensities do; labels are one number over each object. Give the label image "
            "(seamscope segment makes one)."
        )
    return image


# Where more neighbouring pixels differ, runs of one number are shorter than two pixels.
_MOST_CHANGING, _ENOUGH = 0.5, 1000


def _share_changing(image: Image) -> float:
    """Return how many neighbours along x differ, of those that are not background."""
    along = (image.axes or "").index("x")  # objects that are not tracked change along time
    for region in image.blocks():
        values = np.moveaxis(image.read(region), along, -1)
        inside = (values[..., 1:] != 0) & (values[..., :-1] != 0)
        if np.count_nonzero(inside) >= _ENOUGH:
            return float(np.mean((values[..., 1:] != values[..., :-1])[inside]))
    return 0.0


def merge_pairs(
    labels: Any,
    pairs: Sequence[tuple[int, int]],
    out: Any = None,
    *,
    axes: str | None = None,
    overwrite: bool = False,
    work: Work = QUIET,
) -> Any:
    """Write labels with pairs of them made one, each named by its smallest, block by block.

    Parameters
    ----------
    labels, axes
        As for `find_splits`.
    pairs
        Labels that are one object.
    out
        As for `seamscope.segmentation.segmentation.Segmentation.write`.
    overwrite
        Whether an existing file may be replaced.
    work
        Shows progress and stops.

    Returns
    -------
    array
        The labels as they were written.
    """
    image = labels_of(labels, axes)
    highest = max((max(pair) for pair in pairs), default=0)
    table = merge_table(highest, pairs).astype(image.dtype)
    space = Space(image.axes or "", image.scale, image.units, image.origin)
    kind = np.dtype(np.uint8) if image.dtype.kind == "b" else image.dtype
    with label_output(
        out, image.shape, kind, space, overwrite=overwrite, source=image,
        metadata={**_kept(image), "merged": [list(pair) for pair in pairs]},
    ) as output:  # fmt: skip
        work.phase("Writing labels")
        blocks = Blocks.of(
            image.shape, tuple(getattr(output.array, "chunks", None) or (512,) * image.ndim)
        )
        for done, region in enumerate(blocks):
            check(work)
            values = image.read(region)
            small = values <= highest
            output.write(
                region, np.where(small, table[np.where(small, values, 0)], values).astype(kind)
            )
            work.step(done + 1, len(blocks))
        output.finish()
    return output.array


def _kept(image: Image) -> dict[str, Any]:
    """What the record of labels says about how they were made, for labels made of them."""
    record = (read_record(image.source) if image.source else None) or {}
    return {key: record[key] for key in ("segmentation",) if key in record}


def merge_table(highest: int, pairs: Sequence[tuple[int, int]]) -> Array:
    """Return for each label the one that it becomes when pairs are made one."""
    ends = np.array(pairs, np.int64).reshape(-1, 2)
    links = (np.ones(len(ends), np.bool_), (ends[:, 0], ends[:, 1]))
    matrix = sparse.coo_array(links, shape=(highest + 1, highest + 1))
    part = sparse.csgraph.connected_components(matrix, directed=False)[1]
    smallest = np.zeros(highest + 1, np.int64)
    smallest[part[::-1]] = np.arange(highest, -1, -1)
    return np.asarray(smallest[part])


__all__ = ["labels_of", "merge_pairs", "merge_table"]
