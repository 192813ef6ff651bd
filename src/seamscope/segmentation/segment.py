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
from seamscope.execution.pool import On
from seamscope.images.ngff import OmeZarr
from seamscope.progress import QUIET, Work, check
from seamscope.segmentation.basins import find_basins
from seamscope.segmentation.blocks import Blocks
from seamscope.segmentation.recipe import Recipe
from seamscope.segmentation.room import Room
from seamscope.segmentation.segmentation import Curve, Labels, Segmentation
from seamscope.segmentation.subject import Subject
from seamscope.segmentation.tile_seams import Seams
from seamscope.tiling import Slices

Array: TypeAlias = npt.NDArray[Any]


def segment(
    probabilities: Any,
    recipe: Recipe | None = None,
    *,
    axes: str | None = None,
    area: Mapping[str, tuple[int, int]] | None = None,
    blocks: int | Sequence[int] | Blocks | None = None,
    threads: int = 1,
    scratch: str | Path | None = None,
    channel_names: Sequence[str] | None = None,
    seams: Seams | None = None,
    out: Any = None,
    overwrite: bool = False,
    resume: bool = False,
    ome: OmeZarr = OmeZarr(),  # noqa: B008  (frozen)
    on: On = None,
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
    threads
        Of this process.
    scratch
        Folder for basins that do not fit into a quarter of the free memory; by default the
        system's folder for temporary files.
    channel_names
        Names of the channels, by which a recipe finds *foreground* and *boundary*. By default those
        that a prediction by Seamscope has noted.
    seams
        Where tiles of the prediction meet, to be noted with the labels for `seamscope.find_splits`.
        By default what a prediction by Seamscope has noted.
    out
        Where labels are written, as for `Segmentation.write`; None to write none. A file is
        unfinished until all is done, and what was done can be resumed.
    overwrite
        Whether an existing file may be replaced.
    resume
        Whether to continue the unfinished labels of an earlier, equal call that was interrupted;
        where there are none, the work begins. The labels equal uninterrupted ones bit for bit.
    ome
        Version of OME-Zarr, and whether its lower resolutions are written.
    on
        Who computes: None for this process; a number of processes to start on this machine; or a
        cluster, as for `seamscope.predict`. The prediction and `out` are then files.
    work
        Shows progress and stops.

    Returns
    -------
    Segmentation
        Objects, painted where they are read.

    Raises
    ------
    SettingsError, ImageError, OutputError
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
    check_threads(threads)
    how: dict[str, Any] = {
        "axes": axes, "area": area, "blocks": blocks, "names": channel_names, "seams": seams,
    }  # fmt: skip
    if out is None and on is None:
        return find_objects(Subject.of(probabilities, wanted, **how), threads, scratch, work)
    from seamscope.segmentation.labelling import begin_labels  # which needs this module

    with begin_labels(
        probabilities, wanted, out, overwrite=overwrite, resume=resume, ome=ome, on=on,
        threads=threads, scratch=scratch, work=work, **how,
    ) as labelling:  # fmt: skip
        found = labelling.find()
        if out is not None:
            labelling.write(found, keep=True)
    return found


def check_threads(threads: int) -> None:
    """Refuse a number of threads that is none.

    Raises
    ------
    SettingsError
        When it is below 1.
    """
    if threads < 1:
        raise SettingsError(f"threads is {threads}: give 1 thread or more (`threads=1`).")


def find_objects(
    subject: Subject, threads: int = 1, scratch: str | Path | None = None, work: Work = QUIET
) -> Segmentation:
    """Make objects in this process, without a trace on disk; see `segment`."""
    room = Room.of(subject.blocks, scratch, kept_heights=subject.recipe.kind == "components")

    def read(region: Slices) -> Array:
        found = subject.read(region)
        if room.heights is not None:
            room.heights[region] = found
        return found

    with room.disk_errors():
        basins = find_basins(
            read,
            room.numbers,
            subject.blocks,
            connectivity=subject.recipe.connectivity,
            flat=subject.recipe.kind == "classes",
            workers=threads,
            work=work,
        )
    check(work)
    work.phase("Joining basins")
    found = subject.segmentation(basins, room)
    if note := found.empty_note:
        work.note(note)
    return found


__all__ = ["Curve", "Labels", "Segmentation", "find_objects", "segment"]
