"""Label images as files.

Knows which labels a file can hold. Does not know how labels are made; files themselves, OME-Zarr
marked as labels and labels inside an OME-Zarr image, are written by `seamscope.images.results`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seamscope.errors import OutputError
from seamscope.images.image import Image
from seamscope.images.ngff import OmeZarr
from seamscope.images.results.create import check_target, create_output
from seamscope.images.results.output import Output
from seamscope.segmentation.objects import Space


def label_output(
    target: Any,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    space: Space,
    *,
    overwrite: bool = False,
    source: Image | None = None,
    metadata: Mapping[str, Any] | None = None,
    ome: OmeZarr = OmeZarr(),  # noqa: B008  (frozen)
    task: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Output:
    """Create what labels are written into.

    Parameters
    ----------
    target
        See `seamscope.segmentation.segmentation.Segmentation.write`.
    shape, dtype, space
        Of the labels.
    overwrite, source, metadata, ome, task, resume
        As for `seamscope.images.results.create.create_output`.

    Raises
    ------
    OutputError
        When the target exists, cannot hold the labels, or the disk is full.
    """
    path = Path(target).expanduser() if isinstance(target, str | os.PathLike) else None
    if path is not None and str(dtype) == "uint64":
        raise OutputError(f"{path.name} would need labels above 2^32: segment parts of the image.")
    return create_output(
        target,
        shape,
        dtype,
        axes=space.axes,
        scale=space.scale,
        units=space.units,
        origin=space.origin or None,
        overwrite=overwrite,
        name="labels" if path is None else path.name.split(".")[0],
        metadata=metadata,
        source=source,
        labels=True,
        ome=ome,
        task=task,
        resume=resume,
    )


def check_label_target(
    target: Any, *, overwrite: bool = False, source: Image | None = None, resume: bool = False
) -> None:
    """Check what can be known of a place for labels before there are any.

    Parameters
    ----------
    target, overwrite, source, resume
        As for `label_output`.

    Raises
    ------
    OutputError
        When labels cannot be written there.
    """
    check_target(target, overwrite=overwrite, source=source, labels=True, resume=resume)


__all__ = ["check_label_target", "label_output"]
