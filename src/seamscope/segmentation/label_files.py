"""Label images as files: plain ones, OME-Zarr marked as labels, labels inside an OME-Zarr image.

Knows what OME-Zarr 0.5 asks of labels. Does not know how they are made; files themselves are
written by `seamscope.images.outputs`.

Labels inside an image are a group ``IMAGE.ome.zarr/labels/NAME``, listed in
``IMAGE.ome.zarr/labels/zarr.json``, with ``image-label`` beside ``multiscales``: readers look for
all three. No colours are listed: those of 262,144 labels take 60 MB.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seamscope.errors import OutputError
from seamscope.files import check_places, member_place
from seamscope.images.image import Image
from seamscope.images.outputs import Output, check_target, create_output, files_of
from seamscope.segmentation.objects import Space

_VERSION = "0.5"


@contextlib.contextmanager
def label_output(
    target: Any,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    space: Space,
    *,
    overwrite: bool = False,
    source: Image | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[Output]:
    """Open what labels are written into, marked as labels; finished ones are listed by their image.

    Parameters
    ----------
    target
        See `seamscope.segmentation.segmentation.Segmentation.write`.
    shape, dtype, space
        Of the labels.
    overwrite, source, metadata
        As for `seamscope.images.outputs.create_output`.

    Raises
    ------
    OutputError
        When the target exists, cannot hold the labels, or the disk is full.
    """
    path = Path(target).expanduser() if isinstance(target, str | os.PathLike) else None
    if path is not None and str(dtype) == "uint64":
        raise OutputError(f"{path.name} would need labels above 2^32: segment parts of the image.")
    place = None if path is None else member_place(path)
    label: dict[str, Any] = {"version": _VERSION}
    if place is not None:
        label["source"] = {"image": "../../"}
        check_label_target(target, overwrite=overwrite, source=source)
        _make_group(place.path.parent)
    with create_output(
        place or target,
        shape,
        dtype,
        axes=space.axes,
        scale=space.scale,
        units=space.units,
        origin=space.origin or None,
        overwrite=overwrite,
        name="labels" if path is None else path.name.split(".")[0],
        metadata={**(metadata or {}), "image-label": label},
        source=source,
    ) as output:
        yield output
    if place is not None and output.record.get("finished"):
        _list(place.path)


def check_label_target(
    target: Any, *, overwrite: bool = False, source: Image | None = None
) -> None:
    """Check what can be known of a place for labels before there are any.

    Parameters
    ----------
    target, overwrite, source
        As for `label_output`.

    Raises
    ------
    OutputError
        When labels cannot be written there.
    """
    path = Path(target).expanduser() if isinstance(target, str | os.PathLike) else None
    place = None if path is None else member_place(path)
    if place is None:
        check_target(target, overwrite=overwrite, source=source, labels=True)
        return
    check_places([place], files_of(source), overwrite)
    _check_image(place.path.parent.parent)


def _check_image(image: Path) -> None:
    import zarr

    attributes = dict(zarr.open(str(image), mode="r").attrs)
    if "multiscales" not in dict(attributes.get("ome") or {}):
        raise OutputError(
            f"{image} is no OME-Zarr {_VERSION} image, so it cannot hold labels: write them to a "
            "file of their own (.ome.zarr)."
        )


def _make_group(labels: Path) -> None:
    """Make the group of an image's labels, where there is none yet."""
    import zarr

    if not (labels / "zarr.json").exists():
        zarr.create_group(str(labels), zarr_format=3, attributes={"ome": _listing([])})


def _listing(names: Sequence[str]) -> dict[str, Any]:
    return {"version": _VERSION, "labels": list(names)}


def _list(path: Path) -> None:
    """List the labels ``IMAGE/labels/NAME`` in their group, where readers look for them."""
    import zarr

    group = zarr.open_group(str(path.parent), mode="r+")
    listed = list(dict(group.attrs.get("ome") or {}).get("labels") or [])
    if path.name not in listed:
        group.attrs["ome"] = _listing([*listed, path.name])


__all__ = ["check_label_target", "label_output"]
