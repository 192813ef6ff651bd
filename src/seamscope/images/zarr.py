"""Images in zarr folders: OME-Zarr, and plain arrays of zarr 2 and 3.

Knows what their metadata says of axes, pixel sizes and which of several arrays is the image. Does
not know what is done with the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seamscope.errors import ImageError, SettingsError
from seamscope.images.addresses import Address
from seamscope.images.channels import channels_in
from seamscope.images.dimensions import AXES, are_axes, unit_name
from seamscope.images.records import record_in, unfinished
from seamscope.images.stored import Choice, Offer, Stored, finite_number, listed, pick
from seamscope.images.watch import watched


def is_zarr(data: Any) -> bool:
    """Return whether this is an array or a group of zarr."""
    return type(data).__module__.split(".")[0] == "zarr"


def open_folder(path: Path, choice: Choice) -> Stored:
    """Open the image in a folder."""
    import zarr

    if not any((path / f).exists() for f in ("zarr.json", ".zarray", ".zgroup", ".zattrs")):
        raise ImageError(
            f"{path} is a folder without zarr metadata (zarr.json, .zarray or .zgroup). "
            "Give the zarr array or group itself, or one image file."
        )
    return open_zarr(zarr.open(str(path), mode="r"), path, choice)


def open_zarr(node: Any, source: Path | Address | None, choice: Choice) -> Stored:
    """Open a zarr array, or one image of a group.

    Of OME-Zarr these are images with resolutions, labels, plates with wells and fields, and the
    layout of bioformats2raw; of other groups their only array.
    """
    name = source.name.split(".")[0] if source else node.basename or "array"
    if hasattr(node, "shape"):
        pick(choice, (name,), name)  # it holds one image
        return _zarr_array(node, name, source)
    if isinstance(choice.series, str) and not choice.series.isdecimal():
        return _member(node, choice.series, source, choice)
    metadata = _metadata(node)
    multiscales = metadata.get("multiscales")
    if multiscales:
        return _ome_zarr(node, multiscales, name, source, choice)
    for members in (_fields, _series, _labels):
        paths = members(node, metadata)
        if paths:
            return _one_of(node, paths, name, source, choice)
    return _only_member(node, name, source, choice)


def _metadata(group: Any) -> Mapping[str, Any]:
    """Return what OME-NGFF says of a group, wherever its version keeps it."""
    attributes = dict(group.attrs)
    inner = attributes.get("ome")
    return inner if isinstance(inner, Mapping) else attributes


def _fields(group: Any, metadata: Mapping[str, Any]) -> list[str]:
    """Paths of all fields of all wells of a plate, or of all fields of a well."""
    wells = (metadata.get("plate") or {}).get("wells")
    if wells:
        return [
            f"{well['path']}/{field}"
            for well in wells
            if well.get("path") in group
            for field in _fields(group[well["path"]], _metadata(group[well["path"]]))
        ]
    images = (metadata.get("well") or {}).get("images") or ()
    return [str(image["path"]) for image in images]


def _series(group: Any, metadata: Mapping[str, Any]) -> list[str]:
    """Paths of the images that bioformats2raw wrote into a group."""
    if not metadata.get("bioformats2raw.layout"):
        return []
    listed = _metadata(group["OME"]).get("series") if "OME" in group else None
    numbered = sorted((key for key, _ in group.groups() if key.isdecimal()), key=int)
    return [str(path) for path in listed or numbered if str(path) in group]


def _labels(group: Any, metadata: Mapping[str, Any]) -> list[str]:
    """Paths of the label images of a group ``labels``."""
    named = metadata.get("labels")
    return [str(path) for path in named] if isinstance(named, Sequence) else []


def _one_of(
    group: Any, paths: Sequence[str], name: str, source: Path | Address | None, choice: Choice
) -> Stored:
    """Open one of several images of a group, and say which there are."""
    number = pick(choice, paths, name)
    found = _member(group, paths[number], source, choice)
    if len(paths) == 1:
        return found
    offer = replace(found.offer, series=tuple(paths), number=number)
    note = (
        f"{name} holds {len(paths)} images; {paths[number]} is opened. Choose another by its "
        f"number or path (`series`): {listed(paths)}."
    )
    return replace(found, notes=(note, *found.notes), offer=offer)


def _member(group: Any, path: str, source: Path | Address | None, choice: Choice) -> Stored:
    try:
        node = group[path]
    except KeyError:
        raise SettingsError(
            f"series {path!r}: {source or group.name} has no such image. It holds "
            f"{_members(group)}."
        ) from None
    own = replace(choice, series=None)
    return open_zarr(node, source / path if source else None, own)


def _members(group: Any) -> str:
    keys = sorted(key for key, _ in group.arrays()) + sorted(key for key, _ in group.groups())
    return ", ".join(keys) or "nothing"


def _zarr_array(array: Any, name: str, source: Path | Address | None) -> Stored:
    record = record_in(array.attrs)
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    axes = "".join(_axis_letter({"name": n}) for n in names or ())
    fitting = len(axes) == array.ndim and are_axes(axes)
    return Stored(
        watched(array),
        name=name,
        source=source,
        axes=axes if fitting else None,
        scale=record.get("scale"),
        units=record.get("units"),
        notes=_unfinished(array, name),
        origin=record.get("origin"),
    )


def _ome_zarr(
    group: Any, multiscales: Any, name: str, source: Path | Address | None, choice: Choice
) -> Stored:
    """Open one resolution of one of a group's images (OME-NGFF 0.1 to 0.5).

    Read leniently, by hand: a file that breaks a rule of the specification can still be seen.
    """
    names = [str(each.get("name") or "image") for each in multiscales]
    number = pick(choice, names, name)
    metadata = _metadata(group)
    image = multiscales[number]
    levels = image["datasets"]
    if not 0 <= choice.level < len(levels):
        raise SettingsError(
            f"level {choice.level}: {name} has {len(levels)} resolution(s). Choose a level from 0 "
            f"to {len(levels) - 1}."
        )
    dataset = levels[choice.level]
    array = group[dataset["path"]]
    offer = Offer(
        tuple(names) if len(names) > 1 else (),
        number,
        tuple(tuple(group[each["path"]].shape) for each in levels) if len(levels) > 1 else (),
        choice.level,
    )
    listing = image.get("axes") or list(AXES)[-array.ndim :]
    axes = "".join(_axis_letter(a if isinstance(a, Mapping) else {"name": a}) for a in listing)
    fitting = len(axes) == array.ndim and are_axes(axes)
    outer, inner = (_transform(level, array.ndim) for level in (image, dataset))
    count = array.shape[axes.index("c")] if fitting and "c" in axes else 1
    notes: tuple[str, ...] = ()
    if len(multiscales) > 1:
        notes = (
            f"{name} holds {len(multiscales)} images; number {number} is opened. Choose another "
            f"by its number (series): {listed(names)}.",
        )
    return Stored(
        watched(array),
        name=str(image.get("name") or name).strip("/") or name,
        source=source,
        axes=axes if fitting else None,
        scale=(outer[0] * inner[0]).tolist(),
        units=[_ngff_unit(a) for a in listing],
        notes=(*_unfinished(group, name), *notes),
        channels=channels_in(metadata, count),
        # a dataset's transformations come first, then those of the whole image
        origin=(outer[0] * inner[1] + outer[1]).tolist(),
        offer=offer,
    )


def _unfinished(node: Any, name: str) -> tuple[str, ...]:
    return (unfinished(name),) if record_in(node.attrs).get("finished") is False else ()


def _axis_letter(axis: Mapping[str, Any]) -> str:
    """Return one letter of AXES, or "?"."""
    name = str(axis.get("name") or "").lower()
    by_type = {"time": "t", "channel": "c"}.get(str(axis.get("type") or name), "?")
    return name if len(name) == 1 and name in AXES else by_type


def _ngff_unit(axis: Any) -> str:
    unit = axis.get("unit") if isinstance(axis, Mapping) else None
    return unit_name(unit) if unit else ""


def _transform(level: Mapping[str, Any], ndim: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and translation of a level, for each dimension."""
    scale, shift = np.ones(ndim), np.zeros(ndim)
    for step in level.get("coordinateTransformations") or ():
        if not isinstance(step, Mapping):
            continue
        factors, offsets = step.get("scale"), step.get("translation")
        if isinstance(factors, Sequence) and len(factors) == ndim:
            scale = np.array([finite_number(s) or 1.0 for s in factors])
        if isinstance(offsets, Sequence) and len(offsets) == ndim:
            shift = np.array([finite_number(s) for s in offsets])
    return scale, shift


def _only_member(group: Any, name: str, source: Path | Address | None, choice: Choice) -> Stored:
    arrays = sorted(key for key, _ in group.arrays())
    if len(arrays) == 1 or choice.series is not None:
        number = pick(choice, arrays, name)
        found = _member(group, arrays[number], source, choice)
        several = tuple(arrays) if len(arrays) > 1 else ()
        return replace(found, offer=Offer(several, number))
    raise ImageError(
        f"{source or name} is a zarr group that holds {_members(group)}, and does not say which "
        "is the image. Choose one by its name (series), or give its path."
    )
