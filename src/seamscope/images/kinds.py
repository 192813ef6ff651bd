"""Kinds of files that results are written to, and what each of them can hold.

Knows TIFF, OME-TIFF, npy, PNG, zarr and OME-Zarr from the writer's side. Does not know where a file
goes, what may be replaced, or what the numbers mean.

A file says that it is unfinished until `Store.complete`, even if it is copied without its record
or under another name: zarr in its attributes, TIFF in its tag *Software*, PNG in a comment, npy by
its first bytes, since it has room for nothing else.
"""

from __future__ import annotations

import errno
import math
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seamscope.errors import OutputError
from seamscope.files import Place, member_place, record_beside, write_file
from seamscope.images.addresses import Address
from seamscope.images.dimensions import unit_symbol
from seamscope.images.ngff import (
    OmeZarr,
    attributes,
    image_attributes,
    named_channels,
    version_in,
    with_windows,
)
from seamscope.images.npy import UNFINISHED_NPY, map_unfinished
from seamscope.images.pyramid import Index, Level, Pyramid, levels_of
from seamscope.images.records import UNFINISHED, write_record


class Store:
    """Where the pixels of a result are put; this one is an array that the caller owns.

    Attributes
    ----------
    array
        The pixels, in the order of axes that was requested.
    left
        What an error of the disk leaves behind, for a person.
    """

    left = "What was written so far is kept, and its record says that it is unfinished."

    def __init__(self, array: Any) -> None:
        self.array = array

    @property
    def levels(self) -> list[Any]:
        """All resolutions, `array` first."""
        return [self.array]

    def wrote(self, region: Index) -> None:
        """Follow a region that is stored now with everything that is made of it."""

    def already(self, region: Index) -> None:
        """Note a region that an earlier run has stored."""

    def flush(self) -> None:
        """Bring all pixels to where they last."""

    def save(self, record: Mapping[str, Any]) -> None:
        """Store the record of an unfinished result."""

    def complete(self, record: Mapping[str, Any], waiting: Path) -> None:
        """Store the record of a whole result, of a file as `waiting`; the file says that it is."""

    def moved(self, path: Path) -> None:
        """Follow the result to its final name."""


class _ZarrStore(Store):
    """The record is among the attributes of the array."""

    def __init__(self, node: Any) -> None:
        self._node = node
        super().__init__(node)

    def save(self, record: Mapping[str, Any]) -> None:
        self._node.attrs["seamscope"] = dict(record)

    def complete(self, record: Mapping[str, Any], waiting: Path) -> None:
        self.save(record)

    def moved(self, path: Path) -> None:
        import zarr

        self.array = self._node = zarr.open_array(str(path), mode="r+")


class _OmeZarrStore(_ZarrStore):
    """A group of levels; its record is among its attributes.

    Parameters
    ----------
    group
        Holds the levels by their number.
    stored
        What is written, its axes in the order of the file.
    order
        For each stored axis, which of the requested ones it is.
    """

    def __init__(self, group: Any, stored: Wanted, order: Sequence[int]) -> None:
        super().__init__(group)
        self._stored, self._order = stored, tuple(order)
        self._levels = _levels(stored)
        self._connect()

    def _connect(self) -> None:
        arrays = [self._node[str(number)] for number in range(len(self._levels))]
        self.pyramid = Pyramid(arrays, self._levels, self._stored.labels)
        self.array = _in_requested_order(arrays[0], self._order)

    @property
    def levels(self) -> list[Any]:
        return [_in_requested_order(array, self._order) for array in self.pyramid.arrays]

    def wrote(self, region: Index) -> None:
        self.pyramid.wrote(tuple(region[axis] for axis in self._order))

    def already(self, region: Index) -> None:
        self.pyramid.already(tuple(region[axis] for axis in self._order))

    def complete(self, record: Mapping[str, Any], waiting: Path) -> None:
        self.pyramid.finish()
        self._measure_windows()
        super().complete(record, waiting)

    def _measure_windows(self) -> None:
        """Show floats from their smallest to their largest value, where 0 to 1 does not hold them.

        Measured in the lowest resolution, which is small.
        """
        if self._stored.dtype.kind != "f" or not named_channels(self._stored):
            return
        lowest = self.pyramid.arrays[-1]
        axis = self._stored.axes.index("c")
        limits = [
            _limits(np.asarray(lowest[(slice(None),) * axis + (number,)]))
            for number in range(lowest.shape[axis])
        ]
        if any(low < 0 or high > 1 for low, high in limits):
            self._node.attrs.update(with_windows(dict(self._node.attrs), limits))

    def moved(self, path: Path) -> None:
        import zarr

        self._node = zarr.open_group(str(path), mode="r+")
        self._connect()
        if self._stored.image is not None:
            list_labels(path.parent)


def list_labels(folder: Path) -> None:
    """Name all images of labels that lie in a group in its metadata.

    Two processes may finish labels of one image at the same time, and each writes the whole list:
    so it is compared with the folder again after it was written. A label whose process was killed
    before it was listed is listed with the next one.
    """
    import zarr

    while True:
        group = zarr.open_group(str(folder), mode="r+")
        listed = list(dict(group.attrs.get("ome") or group.attrs).get("labels") or [])
        missing = sorted(
            each.name
            for each in folder.iterdir()
            if _is_zarr(each) and not each.name.startswith(".") and each.suffix != ".partial"
            if each.name not in listed
        )
        if not missing:
            return
        part = {"labels": [*listed, *missing]}
        group.attrs.update(attributes(part, version_in(dict(group.attrs))))


def check_image_of(place: Place) -> None:
    """Refuse a member of a group that is no OME-Zarr image with labels."""
    image = place.path.parent.parent
    if "multiscales" not in _ome_of(image):
        raise OutputError(
            f"{image} is no OME-Zarr image, so it cannot hold labels: write them to a file of "
            "their own (.ome.zarr)."
        )


def begin_labels(image: Path) -> str:
    """Make the group of labels of an image, where it has none; return its version of OME-Zarr."""
    import zarr

    version = version_in(dict(zarr.open_group(str(image), mode="r").attrs))
    if not _is_zarr(image / "labels"):
        zarr.create_group(
            str(image / "labels"),
            zarr_format=OmeZarr(version).zarr_format,
            attributes=attributes({"labels": []}, version),
        )
    return version


def _is_zarr(path: Path) -> bool:
    return any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))


def _ome_of(path: Path) -> Mapping[str, Any]:
    import zarr

    found = dict(zarr.open(str(path), mode="r").attrs)
    inner: Mapping[str, Any] = found["ome"] if isinstance(found.get("ome"), Mapping) else found
    return inner


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest finite value, never the same."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if low < high else (low, low + 1)


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
        super().__init__(_in_requested_order(mapped, order), path)
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
        self.array = _in_requested_order(self._mapped, self._order)


class _NpyStore(_MappedStore):
    def __init__(self, mapped: np.memmap, path: Path) -> None:
        super().__init__(mapped, range(mapped.ndim), path)
        self._begin_with(UNFINISHED_NPY)

    def _seal(self) -> None:
        self._begin_with(np.lib.format.MAGIC_PREFIX)

    def _begin_with(self, magic: bytes) -> None:
        with self._path.open("r+b") as file:
            file.write(magic)


class _TiffStore(_MappedStore):
    def _seal(self) -> None:
        import tifffile

        with tifffile.TiffFile(self._path, mode="r+") as file:
            file.pages.first.tags["Software"].overwrite("Seamscope")


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


class _Reordered:
    """An array seen with its axes in another order, for formats that prescribe one."""

    def __init__(self, stored: Any, order: Sequence[int]) -> None:
        self._stored = stored
        self._order = tuple(order)  # for each stored axis, which of ours it is
        self._back = tuple(int(i) for i in np.argsort(self._order))
        self.shape = tuple(int(stored.shape[i]) for i in self._back)
        self.dtype = np.dtype(stored.dtype)
        self.ndim = len(self.shape)

    def __setitem__(self, index: Any, block: np.ndarray) -> None:
        full = self._full(index)
        self._stored[tuple(full[i] for i in self._order)] = block.transpose(self._order)

    def __getitem__(self, index: Any) -> np.ndarray:
        full = self._full(index)
        kept = tuple(i if isinstance(i, slice) else slice(i, i + 1) for i in full)
        block = np.asarray(self._stored[tuple(kept[i] for i in self._order)]).transpose(self._back)
        return block[tuple(slice(None) if isinstance(i, slice) else 0 for i in full)]

    def _full(self, index: Any) -> tuple[Any, ...]:
        """Return one entry for each axis, as numpy understands fewer of them or ``...``."""
        given: tuple[Any, ...] = index if isinstance(index, tuple) else (index,)
        at = given.index(Ellipsis) if Ellipsis in given else len(given)
        rest = given[at + 1 :]
        return given[:at] + (slice(None),) * (self.ndim - at - len(rest)) + rest

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)


@dataclass(frozen=True)
class Wanted:
    """What a result shall be like."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    scale: tuple[float, ...]
    units: tuple[str, ...]
    chunks: tuple[int, ...]
    name: str
    metadata: dict[str, Any]
    origin: tuple[float, ...]
    labels: bool = False
    ome: OmeZarr = OmeZarr()  # noqa: RUF009  (frozen)
    image: str | None = None  # that labels belong to, as seen from them

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def record(self) -> dict[str, Any]:
        """What is stored with an unfinished result."""
        described = {
            "axes": self.axes,
            "scale": list(self.scale),
            "units": list(self.units),
            "origin": list(self.origin),
        }
        return {**self.metadata, **described, "finished": False}

    def in_order(self, letters: str) -> tuple[Wanted, tuple[int, ...]]:
        """Return this with its axes in the order of `letters`, and which axis went where."""
        order = tuple(self.axes.index(axis) for axis in letters if axis in self.axes)
        reordered: dict[str, Any] = {
            name: tuple(getattr(self, name)[i] for i in order)
            for name in ("shape", "scale", "units", "chunks", "origin")
        }
        return replace(self, axes="".join(self.axes[i] for i in order), **reordered), order


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


def _anything(wanted: Wanted) -> str | None:
    return None


def _all_bytes(wanted: Wanted) -> int:
    return wanted.nbytes + 2**20  # and its metadata


def _zarr_bytes(wanted: Wanted) -> int:
    """Estimate: probabilities hardly shrink, labels to a quarter at the very least."""
    return _all_bytes(wanted) // (1 if wanted.dtype.kind == "f" else 4)


def _ome_zarr_bytes(wanted: Wanted) -> int:
    """Of all levels, each in proportion to its pixels."""
    levels = _levels(wanted.in_order("tczyx")[0])
    pixels = [math.prod(level.shape) for level in levels]
    return _zarr_bytes(wanted) * sum(pixels) // pixels[0]


def _zarr_store(path: Path | Address) -> Any:
    """Return what zarr calls the store of a path."""
    if isinstance(path, Path):
        return str(path)
    from seamscope.images.remote import store_of

    return store_of(path, writing=True)


def _zarr_array_in(store: Any, name: str | None, wanted: Wanted) -> Any:
    """Create the array, in a group by its name.

    Floats are compressed by blosc, lz4 on shuffled bits: a chunk of probabilities takes 0.4 of the
    time of zarr's default, which remains for integers since it shrinks labels much further.
    """
    import zarr

    how: dict[str, Any] = {"dimension_names": list(wanted.axes)}
    if wanted.ome.zarr_format == 2:
        how = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    return zarr.create_array(
        store,
        name=name,
        zarr_format=wanted.ome.zarr_format,
        shape=wanted.shape,
        chunks=wanted.chunks,
        dtype=wanted.dtype,
        fill_value=0,
        compressors=_fast(wanted.ome.zarr_format) if wanted.dtype.kind == "f" else "auto",
        **how,
    )


def _fast(zarr_format: int) -> Any:
    if zarr_format == 2:
        from numcodecs import Blosc

        return Blosc("lz4", 1, Blosc.BITSHUFFLE)
    from zarr.codecs import BloscCodec

    return BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle")


def _levels(stored: Wanted) -> list[Level]:
    levels = levels_of(stored.axes, stored.shape, stored.scale, stored.units, stored.origin)
    return levels if stored.ome.pyramid else levels[:1]


def _ome_zarr_refusal(wanted: Wanted) -> str | None:
    space = [axis for axis in wanted.axes if axis in "zyx"]
    if len(space) >= 2:
        return None
    return f"OME-Zarr wants two or three axes of space, not {wanted.axes!r}. Use .zarr or .npy."


def _in_requested_order(stored: Any, order: Sequence[int]) -> Any:
    return stored if list(order) == sorted(order) else _Reordered(stored, order)


# tifffile's own limit of a classic TIFF, which is what ImageJ reads
_CLASSIC_TIFF = 2**32 - 2**25
_OME_TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")
_IMAGEJ_TYPES = ("uint8", "uint16", "float32")


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


def _png_refusal(wanted: Wanted) -> str | None:
    if wanted.axes == "yx" and str(wanted.dtype) in ("uint8", "uint16"):
        return None
    return (
        f"PNG is for labels, 'yx' of uint8 or uint16, not {wanted.axes!r} of {wanted.dtype}. "
        "Use .tif, .npy or .zarr."
    )


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes
    ----------
    refusal
        Why it cannot hold a result, None if it can.
    room
        Bytes on disk that it takes.
    create
        Makes it under a name.
    labels_only
        Whether it holds nothing but labels.
    resume
        Opens an unfinished one; None where it cannot be written in parts.
    part
        Opens the pixels of an unfinished one for a process that writes whole chunks of it, beside
        others; None where only one process can write.
    """

    refusal: Callable[[Wanted], str | None]
    room: Callable[[Wanted], int]
    create: Callable[[Any, Wanted], Store]
    labels_only: bool = False
    resume: Callable[[Any, Wanted], Store] | None = None
    part: Callable[[Path, Wanted], Store] | None = None


def _create_zarr(path: Path | Address, wanted: Wanted) -> Store:
    return _ZarrStore(_zarr_array_in(_zarr_store(path), None, replace(wanted, ome=OmeZarr())))


def _create_ome_zarr(path: Path | Address, wanted: Wanted) -> Store:
    import zarr

    stored, order = wanted.in_order("tczyx")
    levels = _levels(stored)
    group = zarr.create_group(
        _zarr_store(path),
        zarr_format=stored.ome.zarr_format,
        attributes=image_attributes(stored, levels),
    )
    for number, level in enumerate(levels):
        chunks = tuple(map(min, stored.chunks, level.shape))
        _zarr_array_in(group.store, str(number), replace(stored, shape=level.shape, chunks=chunks))
    return _OmeZarrStore(group, stored, order)


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


def _create_npy(path: Path, wanted: Wanted) -> Store:
    mapped = np.lib.format.open_memmap(path, "w+", wanted.dtype, wanted.shape)
    _reserve_all(path)
    return _NpyStore(mapped, path)


def _create_png(path: Path, wanted: Wanted) -> Store:
    return _PngStore(np.zeros(wanted.shape, wanted.dtype), path)


def _resume_zarr(path: Path | Address, wanted: Wanted) -> Store:
    import zarr

    node = zarr.open_array(_zarr_store(path), mode="r+")
    _check_same(node, wanted, path)
    return _ZarrStore(node)


def _resume_ome_zarr(path: Path | Address, wanted: Wanted) -> Store:
    import zarr

    stored, order = wanted.in_order("tczyx")
    group = zarr.open_group(_zarr_store(path), mode="r+")
    levels = _levels(stored)
    for number, level in enumerate(levels):
        _check_same(group[str(number)], replace(stored, shape=level.shape), path)
    if group.metadata.zarr_format != stored.ome.zarr_format or str(len(levels)) in group:
        raise _not_the_same(path)
    return _OmeZarrStore(group, stored, order)


def _part_of_zarr(path: Path, wanted: Wanted) -> Store:
    import zarr

    node = zarr.open_array(str(path), mode="r+")
    _check_same(node, wanted, path)
    return Store(node)


def _part_of_ome_zarr(path: Path, wanted: Wanted) -> Store:
    import zarr

    stored, order = wanted.in_order("tczyx")
    node = zarr.open_array(str(path / "0"), mode="r+")
    _check_same(node, stored, path)
    return Store(_in_requested_order(node, order))


def _resume_tiff(path: Path, wanted: Wanted) -> Store:
    import tifffile

    stored, order = wanted.in_order("tzcyx")
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.dataoffsets[0]
    size = offset + stored.nbytes
    if path.stat().st_size < size:
        raise _not_the_same(path)
    return _TiffStore(np.memmap(path, stored.dtype, "r+", offset, stored.shape), order, path)


def _resume_npy(path: Path, wanted: Wanted) -> Store:
    mapped = map_unfinished(path, "r+")
    _check_same(mapped, wanted, path)
    return _NpyStore(mapped, path)


def _check_same(array: Any, wanted: Wanted, path: Path | Address) -> None:
    if tuple(array.shape) != wanted.shape or array.dtype != wanted.dtype:
        raise _not_the_same(path)


def _not_the_same(path: Path | Address) -> OutputError:
    return OutputError(
        f"{path} is not the unfinished result of this command: its size, type or levels differ. "
        "Begin again (overwrite)."
    )


FORMATS = {
    ".ome.zarr": Format(
        _ome_zarr_refusal,
        _ome_zarr_bytes,
        _create_ome_zarr,
        resume=_resume_ome_zarr,
        part=_part_of_ome_zarr,
    ),
    ".zarr": Format(_anything, _zarr_bytes, _create_zarr, resume=_resume_zarr, part=_part_of_zarr),
    ".ome.tif": Format(_tiff_refusal, _all_bytes, _create_ome_tiff, resume=_resume_tiff),
    ".ome.tiff": Format(_tiff_refusal, _all_bytes, _create_ome_tiff, resume=_resume_tiff),
    ".tif": Format(_tiff_refusal, _all_bytes, _create_tiff, resume=_resume_tiff),
    ".tiff": Format(_tiff_refusal, _all_bytes, _create_tiff, resume=_resume_tiff),
    ".npy": Format(_anything, _all_bytes, _create_npy, resume=_resume_npy),
    ".png": Format(_png_refusal, _all_bytes, _create_png, labels_only=True),
}
"""Kinds of files by the ending of their name, longer endings first."""
