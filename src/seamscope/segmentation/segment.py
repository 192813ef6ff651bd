"""From a prediction to objects: the public face of segmentation.

Knows the order of things. Does not know windows or command lines.

::

    segment(probabilities, recipe) -> Segmentation    the basins and their tree: once
        .at(recipe)                -> Segmentation    another threshold or filter: milliseconds
        .labels                                       an array that is painted where it is read
        .curve()                                      number of objects for all thresholds at once
        .table()                                      one row for each object
        .write(path)                                  a label image

Labels are ``1 + rank of an object's smallest linear index``: the same for any blocks. Everything
is exact; nothing depends on how the image was divided. `Recipe` says what may be changed without
finding basins again (`Recipe.same_basins`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt

from seamscope.errors import SettingsError
from seamscope.images.image import Image, open_image
from seamscope.segmentation.basins import find_basins
from seamscope.segmentation.blocks import Blocks
from seamscope.segmentation.graph import tree_of
from seamscope.segmentation.objects import Space
from seamscope.segmentation.recipe import Heights, Recipe
from seamscope.segmentation.room import Room
from seamscope.segmentation.segmentation import Curve, Ground, Labels, Segmentation
from seamscope.segmentation.tile_seams import Seams, noted_seams, within
from seamscope.tiling import Slices
from seamscope.work import QUIET, Work, check

Array: TypeAlias = npt.NDArray[Any]

_BLOCK = {1: 2**18, 2: 512, 3: 96}


def segment(
    probabilities: Any,
    recipe: Recipe | None = None,
    *,
    axes: str | None = None,
    area: Mapping[str, tuple[int, int]] | None = None,
    blocks: int | Sequence[int] | Blocks | None = None,
    workers: int = 1,
    scratch: str | Path | None = None,
    channel_names: Sequence[str] | None = None,
    seams: Seams | None = None,
    work: Work = QUIET,
    **changes: Any,
) -> Segmentation:
    """Make objects of a prediction, exactly, at any size.

    Parameters
    ----------
    probabilities
        Prediction of any program: path (OME-Zarr, zarr, TIFF, npy, PNG), array (numpy, dask, zarr,
        a dataset that h5py has opened) or `Image`. Axes of
        space, with channels ``c`` and time ``t`` where there are any; frames are segmented one by
        one.
    recipe
        What objects are; single values may be given by name instead,
        ``kind="boundaries", channel=1``.
    axes
        One letter of ``tczyx`` for each axis, where the file does not say.
    area
        A part of the image, from and to for each letter. Objects at its inner sides are
        *provisional*: the whole image may change them.
    blocks
        Pixels of a block along each axis (without channels); the result is the same for any.
    workers
        Threads.
    scratch
        Folder for basins that do not fit into a quarter of the free memory; by default the
        system's folder for temporary files.
    channel_names
        Names of the channels, by which a recipe finds *foreground* and *boundary*. By default those
        that a prediction by Seamscope has noted.
    seams
        Where tiles of the prediction meet, to be noted with the labels for `seamscope.find_splits`.
        By default what a prediction by Seamscope has noted.
    work
        Shows progress and stops.

    Returns
    -------
    Segmentation
        Objects, painted where they are read.

    Raises
    ------
    SettingsError, ImageError
        One sentence with the value, the rule and the remedy.
    InterruptedError
        When stopped.

    Examples
    --------
    >>> import numpy as np, seamscope
    >>> probabilities = np.array([[0.9, 0.8, 0.1, 0.7], [0.2, 0.9, 0.1, 0.9]])
    >>> found = seamscope.segment(probabilities, kind="components")
    >>> np.asarray(found.labels).tolist(), found.count
    ([[1, 1, 0, 2], [0, 1, 0, 2]], 2)
    >>> found.at(threshold=0.85).count
    3
    """
    wanted = dataclasses.replace(recipe or Recipe(), **changes)
    if workers < 1:
        raise SettingsError(f"workers is {workers}: give 1 thread or more (`workers=1`).")
    image = probabilities if isinstance(probabilities, Image) else open_image(probabilities)
    if axes is not None and image.axes != axes:
        image = image.with_axes(axes)
    heights = Heights(image, wanted, channel_names)
    part = _part(heights, area)
    shape = tuple(s.stop - s.start for s in part)
    divided = _blocks(blocks, shape, heights)
    divided = dataclasses.replace(divided, open_sides=_open_sides(part, heights))
    room = Room.of(divided, scratch, kept_heights=wanted.kind == "components")

    def read(region: Slices) -> Array:
        moved = tuple(
            slice(s.start + p.start, s.stop + p.start) for s, p in zip(region, part, strict=True)
        )
        found = heights(moved)
        if room.heights is not None:
            room.heights[region] = found
        return found

    with room.disk_errors():
        basins = find_basins(
            read,
            room.numbers,
            divided,
            connectivity=wanted.connectivity,
            flat=wanted.kind == "classes",
            workers=workers,
            work=work,
        )
    check(work)
    work.phase("Joining basins")
    tree = tree_of(basins)
    corner = tuple(s.start for s in part)
    first = heights.origin or (0.0,) * len(corner)
    origin = tuple(o + c * s for o, c, s in zip(first, corner, heights.scale, strict=True))
    space = Space(heights.axes, heights.scale, heights.units, origin)
    noted = noted_seams(image) if seams is None else seams
    noted = within(noted, heights.axes, corner, shape, heights.shape)
    found = Segmentation(
        wanted, Ground(basins, tree, room, space, corner, image.name, heights.shape, noted)
    )
    if note := found.empty_note:
        work.note(note)
    return found


def _part(heights: Heights, area: Mapping[str, tuple[int, int]] | None) -> Slices:
    for letter in area or {}:
        if letter not in heights.axes:
            raise SettingsError(
                f"The area names the axis {letter}, but the prediction has the axes {heights.axes}."
            )
    part = []
    for letter, n in zip(heights.axes, heights.shape, strict=True):
        low, high = (area or {}).get(letter, (0, n))
        low, high = max(0, low), min(n, high)
        if low >= high:
            raise SettingsError(
                f"The area {letter}={low}:{high} is empty: the prediction has {n} pixels along "
                f"{letter}."
            )
        part.append(slice(low, high))
    return tuple(part)


def _open_sides(part: Slices, heights: Heights) -> frozenset[tuple[int, int]]:
    found = set()
    for axis, (side, n) in enumerate(zip(part, heights.shape, strict=True)):
        if axis not in heights.isolated:
            found |= {(axis, 0)} if side.start > 0 else set()
            found |= {(axis, 1)} if side.stop < n else set()
    return frozenset(found)


def _blocks(asked: Any, shape: Sequence[int], heights: Heights) -> Blocks:
    if isinstance(asked, Blocks):
        return asked
    if asked is None:
        asked = _BLOCK[len(shape) - len(heights.isolated)]
    return Blocks.of(shape, asked, isolated=heights.isolated)


__all__ = ["Curve", "Labels", "Segmentation", "segment"]
