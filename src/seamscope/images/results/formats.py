"""Kinds of files that results are written to, by the ending of their name."""

from __future__ import annotations

from pathlib import Path

from seamscope.errors import OutputError
from seamscope.files import member_place
from seamscope.images.results.format import Format
from seamscope.images.results.single_files import NPY, OME_TIFF, PNG, TIFF
from seamscope.images.results.zarr_arrays import OME_ZARR, ZARR

FORMATS = {
    ".ome.zarr": OME_ZARR,
    ".zarr": ZARR,
    ".ome.tif": OME_TIFF,
    ".ome.tiff": OME_TIFF,
    ".tif": TIFF,
    ".tiff": TIFF,
    ".npy": NPY,
    ".png": PNG,
}
"""Longer endings first."""


def format_of(path: Path) -> Format:
    """Return the kind of file that a name asks for by its ending.

    Raises
    ------
    OutputError
        When the ending is none of those that are known.
    """
    if member_place(path) is not None:
        return FORMATS[".ome.zarr"]
    name = path.name.lower()
    for ending, kind in FORMATS.items():
        if name.endswith(ending) and len(name) > len(ending):
            return kind
    raise OutputError(
        f"The ending of {path.name!r} does not say what to write: use one of {', '.join(FORMATS)}."
    )
