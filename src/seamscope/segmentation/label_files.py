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
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seamscope.errors import OutputError
from seamscope.images.image import Image
from seamscope.images.outputs import Output, create_output
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
    """Open what labels are written into; on leaving, what was finished is marked as labels.

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
    image = None if path is None else _image_of(path)
    place: Any = target
    if path is not None and image is not None:
        if path.exists() and not overwrite:
            raise OutputError(
                f"{path} exists already: choose another name, or replace it (--overwrite, "
                "overwrite=True)."
            )
        place = path.with_name(f".{path.name}.part.ome.zarr")
    output = create_output(
        place,
        shape,
        dtype,
        axes=space.axes,
        scale=space.scale,
        units=space.units,
        origin=space.origin or None,
        overwrite=overwrite or image is not None,
        name="labels" if path is None else path.name.split(".")[0],
        metadata=metadata,
        source=source,
    )
    with output:
        yield output
        if path is None or not output.record.get("finished"):
            return
    if image is not None:
        _mark(place, "../../")
        _move_into(place, path, image)
    elif path.name.endswith(".ome.zarr"):
        _mark(path, None)


def _image_of(path: Path) -> Path | None:
    """Return the OME-Zarr image that a path ``IMAGE/labels/NAME`` lies in, None for others."""
    image = path.parent.parent
    if path.parent.name != "labels" or not (image / "zarr.json").exists():
        return None
    import zarr

    attributes = dict(zarr.open_group(str(image), mode="r").attrs)
    if "multiscales" not in dict(attributes.get("ome") or {}):
        raise OutputError(
            f"{image} is no OME-Zarr {_VERSION} image, so it cannot hold labels: write them to a "
            "file of their own (.ome.zarr)."
        )
    labels = path.parent
    if not (labels / "zarr.json").exists():
        zarr.create_group(str(labels), zarr_format=3, attributes={"ome": _listing([])})
    return image


def _listing(names: Sequence[str]) -> dict[str, Any]:
    return {"version": _VERSION, "labels": list(names)}


def _mark(path: Path, image: str | None) -> None:
    """Say in the metadata that this is an image of labels, and of which image."""
    import zarr

    group = zarr.open_group(str(path), mode="r+")
    label: dict[str, Any] = {"version": _VERSION}
    if image is not None:
        label["source"] = {"image": image}
    group.attrs["ome"] = {**dict(group.attrs["ome"]), "image-label": label}


def _move_into(part: Path, path: Path, image: Path) -> None:
    """Give the finished labels their name, and list it."""
    import zarr

    if path.exists():
        shutil.rmtree(path)
    part.rename(path)
    group = zarr.open_group(str(image / "labels"), mode="r+")
    listed = list(dict(group.attrs.get("ome") or {}).get("labels") or [])
    if path.name not in listed:
        group.attrs["ome"] = _listing([*listed, path.name])


__all__ = ["label_output"]
