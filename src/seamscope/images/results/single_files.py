"""Results in one file: TIFF, OME-TIFF, npy and PNG, their record beside it.

Does not know where a file goes or what may be replaced. A file says that it is unfinished until
`Store.complete`, even if it is copied without its record or under another name: TIFF in its tag
*Software*, PNG in a comment, npy by its first bytes, since it has room for nothing else.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seamscope.files import record_beside, write_file
from seamscope.images.dimensions import unit_symbol
from seamscope.images.ngff import named_channels
from seamscope.images.npy import UNFINISHED_NPY, map_unfinished
from seamscope.images.records import UNFINISHED, write_record
from seamscope.images.results.format import (
    Format,
    Store,
    Wanted,
    all_bytes,
    check_same,
    in_requested_order,
    never_refused,
    not_the_same,
)

# tifffile's own limit of a classic TIFF, which is what ImageJ reads
_CLASSIC_TIFF = 2**32 - 2**25
_OME_TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")
_IMAGEJ_TYPES = ("uint8", "uint16", "float32")


class _FileStore(Store):
    """A file, its record beside it."""

    def __init__(self, array: Any, path: Path) -> None:
        super().__init__(array)
        self._path = path

    def save(self, record: Mapping[str, Any]) -> None:
        write_record(record_beside(self._path), record)

    def complete(self, record: Mapping[str, Any], waiting: Path) -> None:
        write_record(waiting, record)
        self._seal()

    def _seal(self) -> None:
        """Make the file say that it is whole."""


class _MappedStore(_FileStore):
    """A file mapped into memory, its axes perhaps in another order than requested."""

    def __init__(self, mapped: np.memmap, order: Sequence[int], path: Path) -> None:
        super().__init__(in_requested_order(mapped, order), path)
        self._mapped, self._order = mapped, order
        self._stored = (mapped.dtype, mapped.offset, mapped.shape)

    def flush(self) -> None:
        self._mapped.flush()

    def complete(self, record: Mapping[str, Any], waiting: Path) -> None:
        super().complete(record, waiting)
        del self._mapped, self.array  # Windows does not rename files that are mapped

    def moved(self, path: Path) -> None:
        dtype, offset, shape = self._stored
        self._mapped = np.memmap(path, dtype, "r+", offset, shape)
        self.array = in_requested_order(self._mapped, self._order)


def _reserve_all(path: Path) -> None:
    """Take the room of a file that is written through memory.

    Files begin as holes. A disk that fills up under a memory map is a fatal signal and no error,
    so where the system can (not macOS, not Windows), the disk must promise the bytes beforehand.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise  # those two: the file system cannot promise


def _create_tiff(path: Path, wanted: Wanted) -> Store:
    """Write an ImageJ hyperstack where ImageJ can read the type and size, else OME-TIFF."""
    fits = str(wanted.dtype) in _IMAGEJ_TYPES and wanted.nbytes < _CLASSIC_TIFF
    return _map_tiff(path, wanted, _imagej_metadata if fits else _ome_metadata)


def _create_ome_tiff(path: Path, wanted: Wanted) -> Store:
    return _map_tiff(path, wanted, _ome_metadata)


def _map_tiff(path: Path, wanted: Wanted, describe: Callable[[Wanted], Any]) -> Store:
    import tifffile

    stored, order = wanted.in_order("tzcyx")
    mapped = tifffile.memmap(
        path,
        shape=stored.shape,
        dtype=stored.dtype,
        photometric="minisblack",
        byteorder="=",
        software=UNFINISHED,
        **describe(stored),
    )
    _reserve_all(path)
    return _TiffStore(mapped, order, path)


def _resume_tiff(path: Path, wanted: Wanted) -> Store:
    import tifffile

    stored, order = wanted.in_order("tzcyx")
    with tifffile.TiffFile(path) as file:
        offset, dtype = file.pages.first.dataoffsets[0], file.pages.first.dtype
    size = offset + stored.nbytes
    if path.stat().st_size < size or dtype != stored.dtype:
        raise not_the_same(path)
    return _TiffStore(np.memmap(path, stored.dtype, "r+", offset, stored.shape), order, path)


class _TiffStore(_MappedStore):
    def _seal(self) -> None:
        import tifffile

        with tifffile.TiffFile(self._path, mode="r+") as file:
            file.pages.first.tags["Software"].overwrite("Seamscope")


def _tiff_refusal(wanted: Wanted) -> str | None:
    if not {"y", "x"} <= set(wanted.axes):
        return f"TIFF is made of pages with axes y and x, not {wanted.axes!r}. Use .zarr or .npy."
    if str(wanted.dtype) not in _OME_TYPES:
        return f"TIFF for microscopy has no {wanted.dtype}. Use .zarr, .npy, or float32 or uint32."
    return None


def _imagej_metadata(wanted: Wanted) -> dict[str, Any]:
    sizes = dict(zip(wanted.axes, wanted.scale, strict=True))
    units = {a: unit_symbol(u) for a, u in zip(wanted.axes, wanted.units, strict=True)}
    metadata: dict[str, Any] = {
        "axes": wanted.axes.upper(),
        "unit": units["x"].replace("\u00b5", "u"),
    }
    metadata |= {f"{a}unit": units[a] for a in "yz" if units.get(a, units["x"]) != units["x"]}
    if "z" in sizes:
        metadata["spacing"] = sizes["z"]
    if "t" in sizes:
        metadata |= {"finterval": sizes["t"], "tunit": units["t"] or "s"}
    for axis, start in zip(wanted.axes, wanted.origin, strict=True):
        if axis in "zyx" and start:
            # ImageJ's origin is the pixel at which coordinates are 0
            metadata[f"{axis}origin"] = -start / sizes[axis]
    return {
        "imagej": True,
        "resolution": (1 / sizes["x"], 1 / sizes["y"]),
        "metadata": metadata,
    }


def _ome_metadata(wanted: Wanted) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": wanted.axes.upper(), "Name": wanted.name}
    for axis, size, unit in zip(wanted.axes, wanted.scale, wanted.units, strict=True):
        key = {"t": "TimeIncrement", "c": ""}.get(axis, f"PhysicalSize{axis.upper()}")
        if key and (size != 1 or unit not in ("", "pixel")):
            metadata |= {key: size, f"{key}Unit": unit_symbol(unit) or "s"}
    if names := [name for name, _, _ in named_channels(wanted)]:
        metadata["Channel"] = {"Name": names}
    if any(start for axis, start in zip(wanted.axes, wanted.origin, strict=True) if axis in "zyx"):
        metadata["Plane"] = _plane_positions(wanted)
    return {"ome": True, "metadata": metadata}


def _plane_positions(wanted: Wanted) -> dict[str, list[Any]]:
    """Where each page lies, in OME-XML's words; pages are in the order of axes ``tzc``."""
    sizes = dict(zip(wanted.axes, wanted.shape, strict=True))
    depth, channels = sizes.get("z", 1), sizes.get("c", 1)
    pages = range(sizes.get("t", 1) * depth * channels)
    positions: dict[str, list[Any]] = {}
    for axis, start, step, unit in zip(
        wanted.axes, wanted.origin, wanted.scale, wanted.units, strict=True
    ):
        if axis in "zyx":
            name = f"Position{axis.upper()}"
            above = step if axis == "z" else 0.0
            positions[name] = [start + page // channels % depth * above for page in pages]
            positions[f"{name}Unit"] = [unit_symbol(unit)] * len(pages)
    return positions


def _create_npy(path: Path, wanted: Wanted) -> Store:
    mapped = np.lib.format.open_memmap(path, "w+", wanted.dtype, wanted.shape)
    _reserve_all(path)
    return _NpyStore(mapped, path)


def _resume_npy(path: Path, wanted: Wanted) -> Store:
    mapped = map_unfinished(path, "r+")
    check_same(mapped, wanted, path)
    return _NpyStore(mapped, path)


class _NpyStore(_MappedStore):
    def __init__(self, mapped: np.memmap, path: Path) -> None:
        super().__init__(mapped, range(mapped.ndim), path)
        self._begin_with(UNFINISHED_NPY)

    def _seal(self) -> None:
        self._begin_with(np.lib.format.MAGIC_PREFIX)

    def _begin_with(self, magic: bytes) -> None:
        with self._path.open("r+b") as file:
            file.write(magic)


def _create_png(path: Path, wanted: Wanted) -> Store:
    return _PngStore(np.zeros(wanted.shape, wanted.dtype), path)


def _png_refusal(wanted: Wanted) -> str | None:
    if wanted.axes == "yx" and str(wanted.dtype) in ("uint8", "uint16"):
        return None
    return (
        f"PNG is for labels, 'yx' of uint8 or uint16, not {wanted.axes!r} of {wanted.dtype}. "
        "Use .tif, .npy or .zarr."
    )


class _PngStore(_FileStore):
    """Labels in memory until the end, since a PNG can only be written as a whole."""

    left = "Nothing was written."

    def flush(self) -> None:
        self._write(UNFINISHED)

    def _seal(self) -> None:
        self._write("Seamscope")

    def _write(self, software: str) -> None:
        import imagecodecs

        encoded = bytes(imagecodecs.png_encode(self.array))
        text = b"tEXtSoftware\0" + software.encode("latin-1")
        chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        header = 33  # signature and IHDR, after which text may stand
        write_file(self._path, encoded[:header] + chunk + encoded[header:])


TIFF = Format(_tiff_refusal, all_bytes, _create_tiff, resume=_resume_tiff)
OME_TIFF = Format(_tiff_refusal, all_bytes, _create_ome_tiff, resume=_resume_tiff)
NPY = Format(never_refused, all_bytes, _create_npy, resume=_resume_npy)
PNG = Format(_png_refusal, all_bytes, _create_png, labels_only=True)
