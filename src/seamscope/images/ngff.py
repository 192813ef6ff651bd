"""Metadata of OME-Zarr, as results are written: version 0.5 in zarr 3, and 0.4 in zarr 2.

Knows what OME-NGFF says of images, labels and plates. Does not know pixels.

Version 0.5 keeps its metadata under ``ome``, with one version for everything; version 0.4 keeps
each part at the top, with its own. `attributes` puts a part in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from seamscope.errors import SettingsError
from seamscope.images.channels import colour

if TYPE_CHECKING:
    from seamscope.images.results.format import Wanted
    from seamscope.images.results.pyramid import Level

Version = Literal["0.4", "0.5"]
VERSIONS: tuple[Version, ...] = ("0.4", "0.5")


@dataclass(frozen=True, slots=True)
class OmeZarr:
    """How OME-Zarr is written.

    Attributes
    ----------
    version
        Of OME-NGFF: ``"0.5"`` (zarr 3), or ``"0.4"`` (zarr 2) for older programs.
    pyramid
        Whether lower resolutions are written too.
    """

    version: str = "0.5"
    pyramid: bool = True

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise SettingsError(
                f"OME-Zarr version {self.version} cannot be written: choose one of "
                f"{', '.join(VERSIONS)}."
            )

    @property
    def zarr_format(self) -> Literal[2, 3]:
        """Version of zarr that belongs to it."""
        return 3 if self.version == "0.5" else 2


def version_in(attributes: Mapping[str, Any]) -> str:
    """Return the version of the metadata of a group: 0.5 where it is under ``ome``."""
    return "0.5" if isinstance(attributes.get("ome"), Mapping) else "0.4"


def attributes(part: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return the attributes of a group.

    Parameters
    ----------
    part
        ``multiscales``, ``labels``, ``image-label``, ``plate``, ``well``, ``omero``, by name.
    version
        Of OME-NGFF.
    """
    if version == "0.5":
        return {"ome": {"version": version, **part}}
    return {name: _with_version(value, version) for name, value in part.items()}


def _with_version(value: Any, version: str) -> Any:
    if isinstance(value, Mapping):
        return {**value, "version": version}
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if listed and all(isinstance(each, Mapping) for each in value):
        return [{**each, "version": version} for each in value]
    return value


def image_attributes(wanted: Wanted, levels: Sequence[Level]) -> dict[str, Any]:
    """Return the attributes of an image, its ``multiscales`` checked by ome-zarr-models."""
    part = {"multiscales": [_multiscale(wanted, levels)], **_omero(wanted), **_image_label(wanted)}
    return attributes(part, wanted.ome.version)


def _multiscale(wanted: Wanted, levels: Sequence[Level]) -> dict[str, Any]:
    if wanted.ome.version == "0.5":
        from ome_zarr_models.v05.axes import Axis
        from ome_zarr_models.v05.multiscales import Dataset, Multiscale
    else:
        from ome_zarr_models.v04.axes import Axis
        from ome_zarr_models.v04.multiscales import Dataset, Multiscale
    types = {"t": "time", "c": "channel"}
    axes = tuple(
        Axis(name=a, type=types.get(a, "space"), unit=None if unit in ("", "pixel") else unit)
        for a, unit in zip(wanted.axes, wanted.units, strict=True)
    )
    datasets = tuple(
        Dataset.build(
            path=str(number),
            scale=level.scale,
            translation=level.origin if any(level.origin) else None,
        )
        for number, level in enumerate(levels)
    )
    image = Multiscale(axes=axes, datasets=datasets, name=wanted.name, **_method(wanted, levels))
    written: dict[str, Any] = image.model_dump(mode="json", exclude_none=True)
    return written


def _method(wanted: Wanted, levels: Sequence[Level]) -> dict[str, Any]:
    if len(levels) == 1:
        return {}
    kind = "mode" if wanted.labels else "mean"
    what = "most frequent label" if wanted.labels else "mean"
    return {
        "type": kind,
        "metadata": {
            "method": "seamscope.images.results.pyramid.coarsened",
            "description": f"Each pixel is the {what} of the 2 pixels along each halved axis.",
        },
    }


def _image_label(wanted: Wanted) -> dict[str, Any]:
    """What makes an image one of labels, with names and colours of its classes.

    No colours are listed where there are no classes: those of 262,144 labels take 60 MB.
    """
    if not wanted.labels or wanted.dtype.kind == "f":
        return {}
    label: dict[str, Any] = {} if wanted.image is None else {"source": {"image": wanted.image}}
    classes = wanted.metadata.get("classes")
    if isinstance(classes, list):
        label["colors"] = [
            {
                "label-value": each["value"],
                "rgba": [*bytes.fromhex(each["color"]), 255 if each["value"] else 0],
            }
            for each in classes
        ]
        label["properties"] = [
            {"label-value": each["value"], "name": each["name"]} for each in classes
        ]
    return {"image-label": {"version": wanted.ome.version, **label}}


def _omero(wanted: Wanted) -> dict[str, Any]:
    """Name, colour and window of all channels, or nothing: viewers fail where one lacks a part."""
    channels = named_channels(wanted)
    if not channels:
        return {}
    top = 1 if wanted.dtype.kind == "f" else int(np.iinfo(wanted.dtype).max)
    return {
        "omero": {
            "channels": [
                {
                    "label": name,
                    "color": color,
                    "active": True,
                    "window": {
                        "start": low,
                        "end": high,
                        "min": min(low, 0),
                        "max": max(high, top),
                    },
                }
                for name, color, (low, high) in channels
            ]
        }
    }


def with_windows(group: Mapping[str, Any], limits: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return attributes of an image whose channels are shown within measured limits.

    Parameters
    ----------
    group
        Attributes of the image.
    limits
        Smallest and largest value of each channel.
    """
    written = dict(group)
    inner = dict(written["ome"]) if version_in(group) == "0.5" else written
    omero = dict(inner["omero"])
    omero["channels"] = [
        {**each, "window": {"start": low, "end": high, "min": low, "max": high}}
        for each, (low, high) in zip(omero["channels"], limits, strict=True)
    ]
    inner["omero"] = omero
    if version_in(group) == "0.5":
        written["ome"] = inner
    return written


def named_channels(wanted: Wanted) -> list[tuple[str, str, tuple[float, float]]]:
    """Return name, colour and window of each channel of a result, as far as its metadata says."""
    channels = wanted.metadata.get("channels")
    if "c" not in wanted.axes or not isinstance(channels, list):
        return []
    if len(channels) != wanted.shape[wanted.axes.index("c")]:
        return []
    top = 1 if wanted.dtype.kind == "f" else int(np.iinfo(wanted.dtype).max)
    each = [c if isinstance(c, Mapping) else {"name": c} for c in channels]
    return [
        (
            str(c.get("name", number)),
            str(c.get("color") or colour(number)).lstrip("#"),
            tuple(c.get("window") or (0, top)),
        )
        for number, c in enumerate(each)
    ]


__all__ = [
    "VERSIONS",
    "OmeZarr",
    "Version",
    "attributes",
    "image_attributes",
    "named_channels",
    "version_in",
    "with_windows",
]
