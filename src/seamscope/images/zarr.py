"""Images in zarr folders: OME-Zarr, and plain arrays of zarr 2 and 3.

Knows what their metadata says of axes, pixel sizes and which of several arrays is the image. Does
not know what is done with the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seamscope.errors import ImageError
from seamscope.images.dimensions import AXES, are_axes, unit_name
from seamscope.images.records import record_in, unfinished
from seamscope.images.stored import Stored, finite_number


def is_zarr(data: Any) -> bool:
    """Return whether this is an array or a group of zarr."""
    return type(data).__module__.split(".")[0] == "zarr"


def open_folder(path: Path) -> Stored:
    """Open the image in a folder."""
    import zarr

    if not any((path / f).exists() for f in ("zarr.json", ".zarray", ".zgroup", ".zattrs")):
        raise ImageError(
            f"{path} is a folder without zarr metadata (zarr.json, .zarray or .zgroup). "
            "Give the zarr array or group itself, or one image file."
        )
    return open_zarr(zarr.open(str(path), mode="r"), path)


def open_zarr(node: Any, source: Path | None) -> Stored:
    """Open a zarr array, the first image of an OME-Zarr group, or the only array of a group."""
    name = source.name.split(".")[0] if source else node.basename or "array"
    if hasattr(node, "shape"):
        return _zarr_array(node, name, source)
    attributes = dict(node.attrs)
    told = attributes.get("ome") if isinstance(attributes.get("ome"), Mapping) else attributes
    multiscales = (told or {}).get("multiscales")
    if multiscales:
        return _ome_zarr(node, multiscales, name, source)
    return _only_member(node, told or {}, name, source)


def _zarr_array(array: Any, name: str, source: Path | None) -> Stored:
    record = record_in(array.attrs)
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    axes = "".join(_axis_letter({"name": n}) for n in names or ())
    fitting = len(axes) == array.ndim and are_axes(axes)
    return Stored(
        array,
        name=name,
        source=source,
        axes=axes if fitting else None,
        scale=record.get("scale"),
        units=record.get("units"),
        notes=_unfinished(array, name),
    )


def _ome_zarr(group: Any, multiscales: Any, name: str, source: Path | None) -> Stored:
    """Open the full resolution of a group's first image (OME-NGFF 0.1 to 0.5).

    Read leniently, by hand: a file that breaks a rule of the specification can still be seen.
    """
    first = multiscales[0]
    dataset = first["datasets"][0]
    array = group[dataset["path"]]
    listed = first.get("axes") or list(AXES)[-array.ndim :]
    axes = "".join(_axis_letter(a if isinstance(a, Mapping) else {"name": a}) for a in listed)
    fitting = len(axes) == array.ndim and are_axes(axes)
    scales = np.array([_ngff_scale(level, array.ndim) for level in (first, dataset)])
    return Stored(
        array,
        name=str(first.get("name") or name).strip("/") or name,
        source=source,
        axes=axes if fitting else None,
        scale=scales.prod(axis=0).tolist(),
        units=[_ngff_unit(a) for a in listed],
        notes=(*_unfinished(group, name), *_several(multiscales, name)),
    )


def _unfinished(node: Any, name: str) -> tuple[str, ...]:
    return (unfinished(name),) if record_in(node.attrs).get("finished") is False else ()


def _several(images: Sequence[Any], name: str) -> tuple[str, ...]:
    if len(images) == 1:
        return ()
    return (f"{name} holds {len(images)} images; the first is the one opened.",)


def _axis_letter(axis: Mapping[str, Any]) -> str:
    """Return one letter of AXES, or "?"."""
    name = str(axis.get("name") or "").lower()
    by_type = {"time": "t", "channel": "c"}.get(str(axis.get("type") or name), "?")
    return name if len(name) == 1 and name in AXES else by_type


def _ngff_unit(axis: Any) -> str:
    unit = axis.get("unit") if isinstance(axis, Mapping) else None
    return unit_name(unit) if unit else ""


def _ngff_scale(level: Mapping[str, Any], ndim: int) -> list[float]:
    for transform in level.get("coordinateTransformations") or ():
        scale = transform.get("scale") if isinstance(transform, Mapping) else None
        if isinstance(scale, Sequence) and len(scale) == ndim:
            return [finite_number(s) or 1.0 for s in scale]
    return [1.0] * ndim


def _only_member(group: Any, told: Mapping[str, Any], name: str, source: Path | None) -> Stored:
    if told.get("bioformats2raw.layout") and "0" in group:
        return open_zarr(group["0"], source / "0" if source else None)
    arrays = sorted(key for key, _ in group.arrays())
    if len(arrays) == 1:
        return open_zarr(group[arrays[0]], source / arrays[0] if source else None)
    members = ", ".join(arrays + sorted(key for key, _ in group.groups())) or "nothing"
    raise ImageError(
        f"{source or name} is a zarr group that holds {members}, and does not say which is the "
        "image. Give the path of one of them."
    )
