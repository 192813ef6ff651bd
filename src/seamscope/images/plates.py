"""High-content screening plates in OME-Zarr: wells, each with fields.

Knows which fields a plate has, and how a new plate for results is laid out. Does not know pixels.

::

    plate.ome.zarr          "plate": rows, columns, wells
        B/03                "well": fields
            0, 1, ...       images
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seamscope.errors import ImageError, SeamscopeError
from seamscope.images.addresses import Address, is_address, without_secrets
from seamscope.images.dimensions import why
from seamscope.images.ngff import OmeZarr, attributes

_METADATA = ("zarr.json", ".zattrs")


@dataclass(frozen=True, slots=True)
class Plate:
    """What a plate holds.

    Attributes
    ----------
    source
        Its path or address.
    metadata
        Its ``plate``, as in the file: names of rows and columns, acquisitions.
    wells
        ``well`` of each well, by its path (``"B/03"``).
    """

    source: str
    metadata: Mapping[str, Any]
    wells: Mapping[str, Mapping[str, Any]]

    @property
    def fields(self) -> tuple[str, ...]:
        """Paths of all fields (``"B/03/0"``), well by well."""
        return tuple(
            f"{well}/{image['path']}"
            for well, metadata in self.wells.items()
            for image in metadata.get("images") or ()
        )


def plate_at(source: Any) -> Plate | None:
    """Return the plate at a path or address; None for everything else.

    Parameters
    ----------
    source
        As for `seamscope.images.image.open_image`.

    Raises
    ------
    ImageError
        Where a plate's metadata are damaged.
    """
    node = _node(source)
    if node is None or hasattr(node, "shape"):
        return None
    metadata = _part(node, "plate")
    if not metadata or not metadata.get("wells"):
        return None
    shown = without_secrets(str(source))
    paths = _paths(metadata, "wells", shown)
    try:
        wells = {path: _part(node[path], "well") for path in paths if path in node}
    except SeamscopeError:
        raise
    except Exception as error:  # whatever zarr raises for a well whose metadata cannot be read
        raise ImageError(
            f"{shown} has a well whose metadata cannot be read ({why(error)}). Copy the plate "
            "again, or choose one field (`series`)."
        ) from error
    for path, well in wells.items():
        _paths(well, "images", f"{shown}/{path}")
    return Plate(str(source), metadata, wells)


def _paths(part: Mapping[str, Any], name: str, shown: str) -> list[str]:
    """Return the paths of a plate's wells, or of a well's images."""
    listed = part.get(name) or []
    if not isinstance(listed, list) or not all(
        isinstance(each, Mapping) and isinstance(each.get("path"), str) for each in listed
    ):
        raise ImageError(
            f"{shown} lists its {name} in a form that is not OME-Zarr's, such as "
            f'"{name}": [{{"path": "A/1"}}]. Correct its metadata, or choose one field (`series`).'
        )
    return [each["path"] for each in listed]


def _node(source: Any) -> Any:
    if is_address(source):
        from seamscope.images.remote import open_node

        return open_node(Address.parse(source))
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source).expanduser()
    if not path.is_dir() or not any((path / name).exists() for name in _METADATA):
        return None
    import zarr

    try:
        return zarr.open(str(path), mode="r")
    except Exception:  # damaged, or no zarr: `open_image` says what is wrong
        return None


def _part(group: Any, name: str) -> dict[str, Any]:
    found = dict(group.attrs)
    inner = found["ome"] if isinstance(found.get("ome"), Mapping) else found
    part = inner.get(name)
    return dict(part) if isinstance(part, Mapping) else {}


def lay_out(path: Path, plate: Plate, ome: OmeZarr) -> None:
    """Make the groups of a new plate with the same wells and fields, without any image.

    Parameters
    ----------
    path
        Where; nothing is there, or the same plate unfinished.
    plate
        Its names of rows, columns, acquisitions and fields are taken over.
    ome
        Version of OME-Zarr.
    """
    import zarr

    def make(name: str, part: Mapping[str, Any]) -> Any:
        # a version of an older plate would contradict the new one
        written = {key: value for key, value in part.items() if key != "version"}
        kind = "well" if name else "plate"
        how = attributes({kind: {**written, "version": ome.version}}, ome.version)
        return zarr.create_group(
            str(path), path=name, zarr_format=ome.zarr_format, attributes=how, overwrite=False
        )

    if not any((path / name).exists() for name in ("zarr.json", ".zgroup")):
        make("", plate.metadata)
    root = zarr.open_group(str(path), mode="r+")
    for well, metadata in plate.wells.items():
        if well not in root:
            root.require_group(well.rpartition("/")[0])
            make(well, metadata)


__all__ = ["Plate", "lay_out", "plate_at"]
