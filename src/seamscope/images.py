"""What is read and what is written: images and results, on disk or in memory.

Knows file formats (TIFF, PNG, JPEG, npy, zarr, OME-Zarr), what their metadata says about axes and
pixel sizes, how each is stored in pieces, and how writing can fail. Does not know networks, tiles
or what the numbers mean.

::

    open_image(path or array) -> Image    nothing is read but metadata
        image.read(region)    -> array    the only place where pixels enter the program
        image.blocks(bytes)   -> regions  the whole image once, in the order it is stored
    create_output(path, ...)  -> Output   checked, and its room on disk reserved
        output.write(region, block)       the only place where pixels leave it
        output.finish(record)             until then the result says that it is not finished

What a file is, is told by its first bytes, never by its name: microscopes and colleagues rename.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from xml.etree import ElementTree

import numpy as np
import psutil

from seamscope.errors import ImageError, OutputError, SettingsError

Index = tuple[int | slice, ...]
_Region = tuple[tuple[int, int], ...]

AXES = "tczyx"
"""Letters an axis may have: time, channel, and the three of space."""

_KEEP_AT_MOST = 256 * 2**20
"""Largest decoded block, in bytes, that an image holds on to between two reads."""


# --------------------------------------------------------------------------------------------------
# Images
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """An image of any size, of which nothing is in memory until it is asked for.

    Attributes
    ----------
    data
        What the pixels are read from: anything with ``shape``, ``dtype`` and indexing by slices
        (numpy, dask, zarr ...). It is taken to stay as it is while the `Image` is in use.
    axes
        One letter for each dimension, out of ``"tczyx"``, or None when nothing says which is which.
    scale
        Distance between neighbouring pixels, one for each dimension; 1.0 where unknown.
    units
        Unit of `scale`, one for each dimension, in full as OME-NGFF has it (``"micrometer"``);
        ``"pixel"`` where unknown, ``""`` for time and channels.
    name
        What to call it in front of a person.
    source
        Path that opens as this image again, for files; None for arrays in memory.
    notes
        Sentences a person should see, for example that a file held several images.
    """

    data: Any
    axes: str | None
    scale: tuple[float, ...]
    units: tuple[str, ...]
    name: str
    source: str | None
    notes: tuple[str, ...] = ()
    _kept: _KeptBlock | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of every dimension, in pixels."""
        return tuple(int(n) for n in self.data.shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels as `read` returns them, in the byte order of this machine."""
        native: np.dtype[Any] = np.dtype(self.data.dtype).newbyteorder("=")
        return native

    def with_axes(self, axes: str) -> Image:
        """Return the same image with its dimensions named.

        Parameters
        ----------
        axes
            One letter for each dimension, out of ``"tczyx"``, none twice, for example ``"cyx"``.

        Raises
        ------
        SettingsError
            When `axes` does not name the dimensions of this image.
        """
        axes = _checked_axes(axes, self.shape)
        return replace(self, axes=axes, units=_default_units(axes, self.units))

    def read(self, index: Index) -> np.ndarray:
        """Read a region.

        Images that are stored in chunks are decoded by whole chunks; the block around the latest
        read is kept (up to 256 MiB), so that tiles that walk through the large chunks or the
        full-width strips of a compressed file do not decode them again and again.

        Parameters
        ----------
        index
            One integer or slice for each dimension; integers drop their dimension.

        Returns
        -------
        numpy.ndarray
            The pixels, in this machine's byte order. It may be a view of the image: do not write
            into it.

        Raises
        ------
        ImageError
            When the file is damaged or cannot be read.
        """
        try:
            block = self._kept.read(self.data, index) if self._kept else self.data[index]
            array = np.asarray(block)
            return array if array.dtype.isnative else array.astype(self.dtype)
        except MemoryError:
            raise
        except Exception as error:
            raise ImageError(
                f"{self.source or self.name} cannot be read at [{_told(index)}] ({_why(error)}). "
                "The file may be damaged or out of reach: check it, or copy it again."
            ) from error

    def blocks(self, at_most: int = 2**24) -> Iterator[tuple[slice, ...]]:
        """Yield regions that cover the image exactly once, in the order it is stored.

        Parameters
        ----------
        at_most
            Size of a region in bytes. Only where a single stored chunk is larger is a region.
        """
        unit = _chunk_shape(self.data) or (1,) * self.ndim
        size = _grown(unit, self.shape, at_most // self.dtype.itemsize)
        starts = [range(0, n, step) for n, step in zip(self.shape, size, strict=True)]
        for corner in np.ndindex(*(len(each) for each in starts)):
            low = [each[i] for each, i in zip(starts, corner, strict=True)]
            high = (min(a + step, n) for a, step, n in zip(low, size, self.shape, strict=True))
            yield tuple(slice(a, b) for a, b in zip(low, high, strict=True))

    def kept_bytes(self, shape: Sequence[int]) -> int:
        """Return the most memory, in bytes, that reading regions of this shape keeps in use.

        Parameters
        ----------
        shape
            Size of the region for each dimension.
        """
        return self._kept.bytes_for(shape, self.shape, self.dtype.itemsize) if self._kept else 0


class _KeptBlock:
    """The chunk-aligned block around the latest read of an image that is stored in chunks."""

    __slots__ = ("_held", "_unit")

    def __init__(self, unit: tuple[int, ...]) -> None:
        self._unit = unit
        # one tuple, replaced in one step: threads see the old block or the new one, never a mixture
        self._held: tuple[_Region, np.ndarray] | None = None

    def read(self, data: Any, index: Index) -> Any:
        region = _bounds(index, data.shape)
        box = region and self._aligned(region, data.shape)
        if region is None or box is None or box == region:
            return data[index]
        if _volume(box) * np.dtype(data.dtype).itemsize > _KEEP_AT_MOST:
            return data[index]
        box, block = self._around(data, region, box)
        local = tuple(
            slice(a - low, b - low) if isinstance(i, slice) else a - low
            for i, (a, b), (low, _) in zip(index, region, box, strict=True)
        )
        # a copy, since a view would keep the whole block alive with the caller
        return np.array(block[local])

    def bytes_for(self, size: Sequence[int], shape: Sequence[int], itemsize: int) -> int:
        spans = ((-(-(n - 1) // unit) + 1) * unit for n, unit in zip(size, self._unit, strict=True))
        needed = math.prod(map(min, spans, shape)) * itemsize
        return needed if needed <= _KEEP_AT_MOST else 0

    def _aligned(self, region: _Region, shape: Sequence[int]) -> _Region:
        return tuple(
            (a // unit * unit, min(-(-b // unit) * unit, n))
            for (a, b), unit, n in zip(region, self._unit, shape, strict=True)
        )

    def _around(self, data: Any, region: _Region, box: _Region) -> tuple[_Region, np.ndarray]:
        held = self._held
        if held and all(
            low <= a and b <= high for (a, b), (low, high) in zip(region, held[0], strict=True)
        ):
            return held
        self._held = held = None  # let go before reading: never two blocks at a time
        held = (box, np.asarray(data[tuple(slice(a, b) for a, b in box)]))
        self._held = held
        return held


def _bounds(index: Index, shape: Sequence[int]) -> _Region | None:
    """Return where a plain region begins and ends; None for any other way of indexing."""
    if len(index) != len(shape):
        return None
    bounds = []
    for i, n in zip(index, shape, strict=True):
        if isinstance(i, slice):
            low, high, step = i.indices(n)
            plain = step == 1 and low < high
        else:
            low, high = int(i), int(i) + 1
            plain = 0 <= low < n
        if not plain:
            return None
        bounds.append((low, high))
    return tuple(bounds)


def _volume(region: _Region) -> int:
    return math.prod(b - a for a, b in region)


def _chunk_shape(data: Any) -> tuple[int, ...] | None:
    """Return the shape in which `data` is stored or computed, None when it is one piece."""
    chunks = getattr(data, "chunks", None)
    if not isinstance(chunks, tuple) or len(chunks) != len(data.shape):
        return None
    # dask tells all chunks of an axis; where they differ, aligning is only approximate
    largest = (max(each) if isinstance(each, tuple) else each for each in chunks)
    return tuple(int(min(unit, n)) for unit, n in zip(largest, data.shape, strict=True))


def _grown(unit: Sequence[int], shape: Sequence[int], pixels: int) -> tuple[int, ...]:
    """Return the largest multiple of `unit` within `pixels`, longest along the last axes."""
    size = list(unit)
    for axis in reversed(range(len(shape))):
        others = math.prod(size) // size[axis]
        times = max(1, pixels // (others * unit[axis]))
        size[axis] = min(shape[axis], times * unit[axis])
        if size[axis] < shape[axis]:
            break
    return tuple(size)


# --------------------------------------------------------------------------------------------------
# Axes, sizes and units
# --------------------------------------------------------------------------------------------------

_UNITS = {
    "nm": "nanometer",
    "\u00b5m": "micrometer",
    "\u03bcm": "micrometer",
    "\\u00b5m": "micrometer",  # as ImageJ escapes it
    "um": "micrometer",
    "micron": "micrometer",
    "microns": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "\u00e5": "angstrom",
    "\u212b": "angstrom",
    "ms": "millisecond",
    "s": "second",
    "sec": "second",
    "min": "minute",
    "h": "hour",
    "px": "pixel",
    "pixels": "pixel",
}
_SYMBOLS = {
    "nanometer": "nm",
    "micrometer": "\u00b5m",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "angstrom": "\u00c5",
    "millisecond": "ms",
    "second": "s",
    "minute": "min",
    "hour": "h",
}


def _unit(name: Any) -> str:
    """Return a unit's full name as OME-NGFF writes it."""
    text = str(name or "").strip()
    return _UNITS.get(text.lower(), text) or "pixel"


def _default_units(axes: str | None, units: Sequence[str]) -> tuple[str, ...]:
    """Fill in what is not known: pixels in space, nothing for time and channels."""
    known = tuple(unit if unit != "pixel" else "" for unit in units)
    letters = axes or "x" * len(known)
    return tuple(
        unit or ("" if letter in "tc" else "pixel")
        for unit, letter in zip(known, letters, strict=True)
    )


def _checked_axes(axes: str, shape: Sequence[int]) -> str:
    wanted = axes.lower()
    if len(wanted) != len(shape):
        raise SettingsError(
            f"Axes {axes!r} name {len(wanted)} dimensions, but the image has {len(shape)}, of "
            f"sizes {_times(shape)}: give one letter for each, out of {AXES!r}."
        )
    if not _are_axes(wanted):
        raise SettingsError(
            f"Axes {axes!r} must be different letters out of {AXES!r} "
            "(time, channel, z, y, x), for example 'zyx' or 'cyx'."
        )
    return wanted


def _are_axes(letters: str) -> bool:
    return len(set(letters)) == len(letters) and set(letters) <= set(AXES)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)


def _told(index: Index) -> str:
    """Write a region as Python does, for messages."""
    sides = (f"{i.start or 0}:{i.stop}" if isinstance(i, slice) else str(i) for i in index)
    return ", ".join(sides)


def _why(error: BaseException) -> str:
    """Return one short line that says what went wrong."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _amount(size: float) -> str:
    """Write a number of bytes for people."""
    if size < 1000:
        return f"{size:.0f} bytes"
    power = min(4, int(math.log(size, 1000)))
    return f"{size / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


# --------------------------------------------------------------------------------------------------
# Opening
# --------------------------------------------------------------------------------------------------


def open_image(source: Any, *, axes: str | None = None) -> Image:
    """Open an image without reading its pixels.

    Two-dimensional images that say nothing about their axes are ``"yx"``; for all others `axes`
    stays None, and whoever needs them has to ask: they are never guessed.

    Parameters
    ----------
    source
        A file (TIFF with OME or ImageJ metadata, PNG, JPEG, npy), a folder (zarr, OME-Zarr of
        which the first image's full resolution is taken), or an array (numpy, dask, zarr, torch,
        xarray ...), or an `Image`.
    axes
        Overrides what the image says, see `Image.with_axes`.

    Raises
    ------
    ImageError
        When there is no such file, when it is damaged or of a kind that is not known, when it has
        no pixels, or pixels that are not real numbers.
    SettingsError
        When `axes` does not fit.
    """
    if isinstance(source, Image):
        image = source
    elif isinstance(source, str | os.PathLike):
        image = _open_path(Path(source).expanduser())
    else:
        image = _open_array(source)
    return image.with_axes(axes) if axes else image


def _image(
    data: Any,
    *,
    name: str,
    source: Path | str | None = None,
    axes: str | None = None,
    scale: Sequence[float] | None = None,
    units: Sequence[str] | None = None,
    notes: tuple[str, ...] = (),
) -> Image:
    """Check what every kind of image must fulfil, and fill in what is not known."""
    _check_pixels(data, str(source or name))
    ndim = len(data.shape)
    if axes is None and ndim == 2:
        axes = "yx"
    sizes = scale if scale is not None and len(scale) == ndim else (1.0,) * ndim
    names = units if units is not None and len(units) == ndim else ("",) * ndim
    chunks = _chunk_shape(data)
    return Image(
        data,
        axes,
        tuple(float(s) if math.isfinite(s) and s > 0 else 1.0 for s in sizes),
        _default_units(axes, [str(unit) for unit in names]),
        name,
        None if source is None else str(source),
        notes,
        None if chunks is None else _KeptBlock(chunks),
    )


def _check_pixels(data: Any, name: str) -> None:
    shape = tuple(data.shape)
    if len(shape) < 2:
        raise ImageError(
            f"{name} has {len(shape)} dimension(s); an image has at least two (y, x). "
            "Reshape it, or choose another array."
        )
    if 0 in shape:
        raise ImageError(
            f"{name} is empty: its size is {_times(shape)} pixels. Check how it was saved or cut."
        )
    dtype = np.dtype(data.dtype)
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise ImageError(
            f"{name} has pixels of type {dtype}; only integers, floats (up to 64 bits) and bool "
            "can be predicted on. Convert it, for example to float32, first."
        )


def _open_array(data: Any) -> Image:
    array = _as_array(data)
    names = [str(d).lower() for d in getattr(array, "dims", ())]
    axes = "".join(names) if names and all(len(d) == 1 for d in names) else ""
    if _is_zarr(array):
        return _open_zarr(array, _store_path(array))
    fitting = len(axes) == len(array.shape) and _are_axes(axes)
    return _image(
        array, name=str(getattr(array, "name", None) or "array"), axes=axes if fitting else None
    )


def _as_array(data: Any) -> Any:
    """Return `data` if it can be read by slices, else a numpy array of it."""
    if hasattr(data, "detach"):  # torch; bfloat16 has no numpy type
        tensor = data.detach().cpu()
        is_brain_float = str(tensor.dtype) == "torch.bfloat16"
        return (tensor.float() if is_brain_float else tensor).numpy()
    if _is_zarr(data) or all(hasattr(data, a) for a in ("shape", "dtype", "__getitem__")):
        return data
    try:
        return np.asarray(data)
    except ValueError as error:
        raise ImageError(
            f"{type(data).__name__} is not an image ({_why(error)}). Give a path or one array "
            "(of a pyramid, its first level)."
        ) from error


def _open_path(path: Path) -> Image:
    if not path.exists():
        raise ImageError(
            f"There is no file or folder {path} (looked for in {Path.cwd()}). "
            "Check the spelling; web addresses must be downloaded first."
        )
    try:
        if path.is_dir():
            return _open_folder(path)
        return _opener(path)(path)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(
            f"{path} cannot be opened ({_why(error)}). It may be damaged, cut short or not "
            "readable for you: check it, or copy it again."
        ) from error


_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x93NUMPY", "npy"),
    (b"\x89HDF", "hdf5"),
    (b"PK\x03\x04", "zip"),
)
_ADVICE = {
    "hdf5": "is HDF5, which holds several arrays: open it with h5py and give the dataset, "
    "or save that one as TIFF or zarr.",
    "zip": "is a zip archive (npz, zipped zarr): unpack it and give what is inside.",
    "": "is of no kind that is known: TIFF, PNG, JPEG, npy, zarr and OME-Zarr are read. "
    "Save it as one of them.",
}


def _opener(path: Path) -> Callable[[Path], Image]:
    with path.open("rb") as file:
        head = file.read(8)
    if not head:
        raise ImageError(f"{path} is empty (0 bytes). Copy or save it again.")
    kind = next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")
    openers = {"tiff": _open_tiff, "png": _open_picture, "jpeg": _open_picture, "npy": _open_npy}
    if kind not in openers:
        raise ImageError(f"{path} {_ADVICE[kind]}")
    return openers[kind]


def _open_picture(path: Path) -> Image:
    """Decode a PNG or JPEG, at once: neither can be read in part."""
    import imagecodecs  # unlike Pillow it keeps 16 bits of colour, and has no limit of size

    encoded = path.read_bytes()
    decode = imagecodecs.jpeg_decode if encoded[:2] == b"\xff\xd8" else imagecodecs.png_decode
    data = decode(encoded)
    return _image(data, name=path.stem, source=path, axes="yxc" if data.ndim == 3 else "yx")


def _open_npy(path: Path) -> Image:
    data = np.load(path, mmap_mode="r", allow_pickle=False)
    record = read_record(path) or {}
    axes = str(record.get("axes", ""))
    if len(axes) != data.ndim or not _are_axes(axes):
        return _image(data, name=path.stem, source=path)
    return _image(
        data,
        name=path.stem,
        source=path,
        axes=axes,
        scale=record.get("scale"),
        units=record.get("units"),
    )


# ---- TIFF ----------------------------------------------------------------------------------------

_TIFF_AXES = {"T": "t", "C": "c", "S": "c", "Z": "z", "Y": "y", "X": "x"}


def _open_tiff(path: Path) -> Image:
    import tifffile

    tif = tifffile.TiffFile(path)
    try:
        series = tif.series[0]
        if math.prod(series.shape) == 0 or series.dtype is None:
            raise ImageError(f"{path} has no pixels. Save it again.")
        _check_length(series, path)
        letters = "".join(_TIFF_AXES.get(letter, "?") for letter in series.axes)
        axes = letters if _are_axes(letters) else None
        scale, units = _tiff_scale(tif, letters)
        data = _tiff_data(tif, series, path)
        if isinstance(data, np.memmap):
            tif.close()
        return _image(
            data,
            name=path.name.split(".")[0],
            source=path,
            axes=axes,
            scale=scale,
            units=units,
            notes=_tiff_notes(tif, path),
        )
    except BaseException:
        tif.close()
        raise


def _tiff_notes(tif: Any, path: Path) -> tuple[str, ...]:
    if len(tif.series) == 1:
        return ()
    return (
        f"{path.name} holds {len(tif.series)} images; the first, {_times(tif.series[0].shape)} "
        "pixels, is the one opened. Save the one you want by itself if it is another.",
    )


def _check_length(series: Any, path: Path) -> None:
    """Refuse a file that ends before its pixels do: a memory map beyond the end kills the process.

    The first and the last page are looked at; damage in between is found when it is read.
    """
    there = path.stat().st_size
    ends = [
        offset + count
        for page in (series.pages[0], series.pages[-1])
        if page is not None
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)
    ]
    if series.dataoffset is not None:
        ends.append(series.dataoffset + series.nbytes)
    if max(ends, default=0) > there:
        raise ImageError(
            f"{path} is cut short: its pixels end at byte {max(ends)}, but the file has only "
            f"{there}. Copy it again."
        )


def _tiff_data(tif: Any, series: Any, path: Path) -> Any:
    """Return the pixels to be read lazily.

    Uncompressed pixels in one piece are mapped into memory. (tifffile's zarr view of them has whole
    pages for chunks: a tile of a 20,000 x 20,000 page would read all 400 MB.)
    """
    import zarr

    page = series.keyframe
    if series.dataoffset is not None and page.bitspersample == 8 * series.dtype.itemsize:
        dtype = series.dtype.newbyteorder(tif.byteorder)
        return np.memmap(path, dtype, "r", series.dataoffset, series.shape)
    store = series.aszarr(level=0)
    data = zarr.open(store, mode="r")
    weakref.finalize(store, tif.close)
    return data


def _tiff_scale(tif: Any, axes: str) -> tuple[list[float], list[str]]:
    """Return pixel sizes and units for each letter of `axes`, from whatever metadata there is."""
    if tif.ome_metadata:
        sizes = _ome_xml_sizes(tif.ome_metadata)
    elif tif.imagej_metadata:
        sizes = _imagej_sizes(tif)
    else:
        sizes = _resolution_sizes(tif.pages[0])
    each = [sizes.get(axis, (1.0, "")) for axis in axes]
    return [size for size, _ in each], [unit for _, unit in each]


_Sizes = dict[str, tuple[float, str]]


def _ome_xml_sizes(xml: str) -> _Sizes:
    try:
        elements = ElementTree.fromstring(xml).iter()
    except ElementTree.ParseError:
        return {}
    pixels = next((e.attrib for e in elements if e.tag.endswith("}Pixels")), {})
    names = {axis: f"PhysicalSize{axis.upper()}" for axis in "xyz"} | {"t": "TimeIncrement"}
    sizes: _Sizes = {}
    for axis, name in names.items():
        size = _number(pixels.get(name))
        if size:
            # the schema's own defaults, where a file leaves the unit out
            sizes[axis] = size, _unit(pixels.get(name + "Unit", "s" if axis == "t" else "um"))
    return sizes


def _imagej_sizes(tif: Any) -> _Sizes:
    told = tif.imagej_metadata
    unit = _unit(told.get("unit"))
    if unit == "pixel":
        return {}
    sizes: _Sizes = {
        "z": (abs(_number(told.get("spacing"))) or 1.0, _unit(told.get("zunit", unit))),
    }
    for axis, density in zip("xy", tif.pages[0].resolution, strict=True):
        if density:
            sizes[axis] = 1 / density, _unit(told.get("yunit", unit)) if axis == "y" else unit
    if _number(told.get("finterval")):
        sizes["t"] = _number(told["finterval"]), _unit(told.get("tunit", "s"))
    return sizes


def _resolution_sizes(page: Any) -> _Sizes:
    """Take pixels per centimetre for a measurement; pixels per inch are about printing."""
    if page.resolutionunit != 3 or not all(page.resolution):
        return {}
    x, y = page.resolution
    return {"x": (1e4 / x, "micrometer"), "y": (1e4 / y, "micrometer")}


def _number(value: Any) -> float:
    """Return a float, 0 for what is not a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0


# ---- zarr ----------------------------------------------------------------------------------------


def _is_zarr(data: Any) -> bool:
    return type(data).__module__.split(".")[0] == "zarr"


def _open_folder(path: Path) -> Image:
    import zarr

    if not any((path / f).exists() for f in ("zarr.json", ".zarray", ".zgroup", ".zattrs")):
        raise ImageError(
            f"{path} is a folder without zarr metadata (zarr.json, .zarray or .zgroup). "
            "Give the zarr array or group itself, or one image file."
        )
    return _open_zarr(zarr.open(str(path), mode="r"), path)


def _open_zarr(node: Any, source: Path | None) -> Image:
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


def _zarr_array(array: Any, name: str, source: Path | None) -> Image:
    record = _record_in(array.attrs)
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    axes = "".join(_axis_letter({"name": n}) for n in names or ())
    fitting = len(axes) == array.ndim and _are_axes(axes)
    return _image(
        array,
        name=name,
        source=source,
        axes=axes if fitting else None,
        scale=record.get("scale"),
        units=record.get("units"),
    )


def _ome_zarr(group: Any, multiscales: Any, name: str, source: Path | None) -> Image:
    """Open the full resolution of a group's first image (OME-NGFF 0.1 to 0.5).

    Read leniently, by hand: a file that breaks a rule of the specification can still be seen.
    """
    first = multiscales[0]
    dataset = first["datasets"][0]
    array = group[dataset["path"]]
    listed = first.get("axes") or list(AXES)[-array.ndim :]
    axes = "".join(_axis_letter(a if isinstance(a, Mapping) else {"name": a}) for a in listed)
    fitting = len(axes) == array.ndim and _are_axes(axes)
    scales = np.array([_ngff_scale(level, array.ndim) for level in (first, dataset)])
    return _image(
        array,
        name=str(first.get("name") or name).strip("/") or name,
        source=source,
        axes=axes if fitting else None,
        scale=scales.prod(axis=0).tolist(),
        units=[_ngff_unit(a) for a in listed],
        notes=_several(multiscales, name),
    )


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
    return _unit(unit) if unit else ""


def _ngff_scale(level: Mapping[str, Any], ndim: int) -> list[float]:
    for transform in level.get("coordinateTransformations") or ():
        scale = transform.get("scale") if isinstance(transform, Mapping) else None
        if isinstance(scale, Sequence) and len(scale) == ndim:
            return [_number(s) or 1.0 for s in scale]
    return [1.0] * ndim


def _only_member(group: Any, told: Mapping[str, Any], name: str, source: Path | None) -> Image:
    if told.get("bioformats2raw.layout") and "0" in group:
        return _open_zarr(group["0"], source / "0" if source else None)
    arrays = sorted(key for key, _ in group.arrays())
    if len(arrays) == 1:
        return _open_zarr(group[arrays[0]], source / arrays[0] if source else None)
    members = ", ".join(arrays + sorted(key for key, _ in group.groups())) or "nothing"
    raise ImageError(
        f"{source or name} is a zarr group that holds {members}, and does not say which is the "
        "image. Give the path of one of them."
    )


def _store_path(node: Any) -> Path | None:
    """Return where a zarr array in hand lies on disk, so that a path can travel instead of it."""
    root = getattr(node.store, "root", None)
    return Path(root) / node.path if isinstance(root, Path) else None


# --------------------------------------------------------------------------------------------------
# Records
# --------------------------------------------------------------------------------------------------


def read_record(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what a run has noted with its result: plan, model, figures, and if it ``finished``.

    Parameters
    ----------
    path
        A result that `create_output` made.

    Returns
    -------
    dict or None
        The record, None when there is none.
    """
    target = Path(path)
    with contextlib.suppress(Exception):
        if target.is_dir():
            import zarr

            return _record_in(zarr.open(str(target), mode="r").attrs) or None
        return _record_in(json.loads(_sidecar(target).read_text(encoding="utf-8"))) or None
    return None


def _record_in(attributes: Mapping[str, Any]) -> dict[str, Any]:
    record = attributes.get("seamscope")
    return dict(record) if isinstance(record, Mapping) else {}


def _sidecar(path: Path) -> Path:
    """Return where the record of a file lies; the whole name is kept: out.json is the user's."""
    return path.with_name(path.name + ".json")


# --------------------------------------------------------------------------------------------------
# Writing
# --------------------------------------------------------------------------------------------------


class Output:
    """A result that is being written; use it in a ``with`` statement.

    Leaving the statement before `finish` keeps what was written, and the record says
    ``"finished": false``, as it does from the first moment on: also a process that is killed leaves
    a result that can be told from a whole one.

    Attributes
    ----------
    array
        The result, in the order of axes that was asked for; can be read, and written by slices.
    path
        Where it is stored, None in memory.
    record
        What is stored with it.
    """

    def __init__(self, array: Any, path: Path | None, record: dict[str, Any]) -> None:
        self.array = array
        self.path = None if path is None else str(path)
        self.record = record
        self._open = True
        # zarr-python loses data when two threads write into one chunk; networks take far longer
        self._lock = threading.Lock()

    def write(self, index: tuple[slice, ...], block: np.ndarray) -> None:
        """Write one region.

        Threads may call this at the same time; processes may not, unless their regions are made
        of whole chunks.

        Parameters
        ----------
        index
            A slice for each dimension.
        block
            Values of that shape, of a type that the result can hold.

        Raises
        ------
        OutputError
            When the disk is full or gone, or the block does not fit the region.
        """
        self._check_fit(index, block)
        with self._lock, _telling(self.path):
            self.array[index] = block

    def finish(self, metadata: Mapping[str, Any] | None = None) -> None:
        """Complete the result and store what is to be known about it.

        Parameters
        ----------
        metadata
            Added to the record: plan, model, figures; anything that can be written as JSON.
        """
        self.record = {**self.record, **_jsonable(metadata or {}), "finished": True}
        with self._lock, _telling(self.path):
            self._flush()
            self._save_record()
        self._open = False

    def close(self) -> None:
        """Keep what is written so far, as unfinished; does nothing after `finish`."""
        if self._open:
            self._open = False
            with self._lock, _telling(self.path):
                self._flush()

    def discard(self) -> None:
        """Remove everything that was written."""
        self._open = False
        with self._lock, _telling(self.path):
            self._remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_fit(self, index: tuple[slice, ...], block: np.ndarray) -> None:
        if not self._open:
            raise OutputError("The result is complete and closed: write into a new one.")
        region = _bounds(index, self.array.shape)
        size = None if region is None else tuple(b - a for a, b in region)
        if size != block.shape:
            raise OutputError(
                f"A block of {_times(block.shape)} does not fit [{_told(index)}] of a result of "
                f"{_times(self.array.shape)}: give exactly one value for each pixel."
            )
        if not np.can_cast(block.dtype, self.array.dtype, "same_kind"):
            raise OutputError(
                f"Values of type {block.dtype} do not fit a result of type {self.array.dtype}: "
                "convert them, or create the result with their type."
            )

    def _flush(self) -> None:
        """Bring everything to where it lasts."""

    def _save_record(self) -> None:
        """Store `record` next to the pixels."""

    def _remove(self) -> None:
        """Delete what was created."""


class _ZarrOutput(Output):
    """The record is among the attributes of the array, or of its OME-Zarr group."""

    def __init__(self, array: Any, node: Any, path: Path, record: dict[str, Any]) -> None:
        super().__init__(array, path, record)
        self._node = node
        self._save_record()

    def _save_record(self) -> None:
        self._node.attrs["seamscope"] = self.record

    def _remove(self) -> None:
        _remove(Path(str(self.path)))


class _MappedOutput(Output):
    """A file mapped into memory, its record beside it."""

    def __init__(self, array: Any, mapped: np.memmap, path: Path, record: dict[str, Any]) -> None:
        super().__init__(array, path, record)
        self._mapped = mapped
        self._save_record()

    def _flush(self) -> None:
        self._mapped.flush()

    def _save_record(self) -> None:
        _write_sidecar(Path(str(self.path)), self.record)

    def _remove(self) -> None:
        _remove(Path(str(self.path)))


class _PngOutput(Output):
    """Labels kept in memory until the end, since a PNG can only be written as a whole."""

    def _flush(self) -> None:
        import imagecodecs

        encoded = imagecodecs.png_encode(self.array)
        path = Path(str(self.path))
        try:
            path.write_bytes(encoded)
            self._save_record()
        except OSError:
            _remove(path)
            raise

    def _save_record(self) -> None:
        _write_sidecar(Path(str(self.path)), self.record)

    def _remove(self) -> None:
        _remove(Path(str(self.path)))


class _Reordered:
    """An array seen with its axes in another order, for formats that prescribe one."""

    def __init__(self, stored: Any, order: Sequence[int]) -> None:
        self._stored = stored
        self._order = tuple(order)  # for each stored axis, which of ours it is
        self._back = tuple(int(i) for i in np.argsort(self._order))
        self.shape = tuple(int(stored.shape[i]) for i in self._back)
        self.dtype = np.dtype(stored.dtype)
        self.ndim = len(self.shape)

    def __setitem__(self, index: tuple[slice, ...], block: np.ndarray) -> None:
        self._stored[tuple(index[i] for i in self._order)] = block.transpose(self._order)

    def __getitem__(self, index: Any) -> np.ndarray:
        full = np.index_exp[index]
        if Ellipsis in full:
            at = full.index(Ellipsis)
            full = full[:at] + (slice(None),) * (self.ndim - len(full) + 1) + full[at + 1 :]
        full += (slice(None),) * (self.ndim - len(full))
        kept = tuple(slice(i, i + 1) if isinstance(i, int | np.integer) else i for i in full)
        block = np.asarray(self._stored[tuple(kept[i] for i in self._order)]).transpose(self._back)
        return block[tuple(0 if isinstance(i, int | np.integer) else slice(None) for i in full)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)


@dataclass(frozen=True)
class _Wanted:
    """What a result shall be like."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    scale: tuple[float, ...]
    units: tuple[str, ...]
    chunks: tuple[int, ...]
    name: str
    metadata: dict[str, Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def record(self) -> dict[str, Any]:
        described = {"axes": self.axes, "scale": list(self.scale), "units": list(self.units)}
        return {**self.metadata, **described, "finished": False}

    def in_order(self, letters: str) -> tuple[_Wanted, tuple[int, ...]]:
        """Return this with its axes in the order of `letters`, and which axis went where."""
        order = tuple(self.axes.index(axis) for axis in letters if axis in self.axes)
        told: dict[str, Any] = {
            name: tuple(getattr(self, name)[i] for i in order)
            for name in ("shape", "scale", "units", "chunks")
        }
        return replace(self, axes="".join(self.axes[i] for i in order), **told), order


@dataclass(frozen=True)
class _Format:
    """One kind of file: why it may be unfit, how much room it takes, and how it is made."""

    refusal: Callable[[_Wanted], str | None]
    room: Callable[[_Wanted], int]
    create: Callable[[Path, _Wanted], Output]


def create_output(
    target: Any,
    shape: Sequence[int],
    dtype: Any,
    *,
    axes: str,
    scale: Sequence[float],
    units: Sequence[str],
    chunks: Sequence[int] | None = None,
    overwrite: bool = False,
    name: str = "prediction",
    metadata: Mapping[str, Any] | None = None,
    source: Image | None = None,
) -> Output:
    """Create what a result is written into, after checking that it can be.

    Parameters
    ----------
    target
        None for an array in memory; an array (numpy, zarr ...) to be filled; or a path, whose
        ending says what to write:

        ========================  =============================================================
        ``.ome.zarr``             OME-Zarr 0.5, one resolution; axes in the order ``tczyx``
        ``.zarr``                 zarr 3 array with named dimensions
        ``.ome.tif``, ``.tif``    OME-TIFF; for ``.tif`` ImageJ's kind where type (uint8, uint16,
                                  float32) and size (4 GB) allow; axes in the order ``tzcyx``
        ``.npy``                  numpy
        ``.png``                  labels only: ``yx``, uint8 or uint16
        ========================  =============================================================

        TIFF, npy and PNG have their record in a file beside them: ``NAME.tif.json``.
    shape, dtype
        Of the result.
    axes, scale, units
        As in `Image`, one for each dimension.
    chunks
        Of zarr: every writer must write whole chunks. None for at most 512 pixels a side.
    overwrite
        Whether an existing result may be replaced. Never the image that is read.
    name
        What the image is called inside OME metadata.
    metadata
        Beginning of the record. ``metadata["channels"]`` (names, or mappings with ``name`` and
        ``color``, six hexadecimal digits) also goes into OME metadata.
    source
        The image that is read, so that it is not overwritten.

    Raises
    ------
    OutputError
        When the target exists, is the image itself, cannot hold such a result, or has no room.
    SettingsError
        When `axes` does not fit `shape`.
    """
    axes = _checked_axes(axes, shape)
    wanted = _Wanted(
        tuple(int(n) for n in shape),
        np.dtype(dtype),
        axes,
        tuple(float(s) for s in scale),
        tuple(units),
        _chunks(chunks, shape, axes),
        name,
        _jsonable(metadata or {}),
    )
    if target is None:
        return _in_memory(wanted)
    if isinstance(target, str | os.PathLike):
        return _create_file(Path(target).expanduser(), wanted, overwrite, source)
    return _into_array(target, wanted, source)


def _create_file(path: Path, wanted: _Wanted, overwrite: bool, source: Image | None) -> Output:
    kind = _format(path)
    reason = kind.refusal(wanted)
    if reason:
        raise OutputError(f"{path.name} cannot hold this result: {reason}")
    _check_place(path, overwrite, source)
    _check_room(path, kind.room(wanted))
    with _telling(str(path)):
        _remove(path)
        try:
            return kind.create(path, wanted)
        except BaseException:
            _remove(path)
            raise


def _in_memory(wanted: _Wanted) -> Output:
    free = psutil.virtual_memory().available
    if wanted.nbytes > free:
        raise OutputError(
            f"The result takes {_amount(wanted.nbytes)} of memory, {_amount(free)} are free: "
            "write it to a file (.ome.zarr, .zarr, .tif, .npy), or predict a smaller area."
        )
    return Output(np.zeros(wanted.shape, wanted.dtype), None, wanted.record)


def _into_array(target: Any, wanted: _Wanted, source: Image | None) -> Output:
    array = _as_array(target)
    writable = hasattr(array, "__setitem__") and not hasattr(array, "dask")
    if not writable or (isinstance(array, np.ndarray) and not array.flags.writeable):
        raise OutputError(
            f"A {type(target).__name__} cannot be written into here: give a writable numpy or "
            "zarr array, or a path."
        )
    if tuple(array.shape) != wanted.shape:
        raise OutputError(
            f"The array to be filled is {_times(array.shape)}, the result {_times(wanted.shape)} "
            f"({wanted.axes}): create it with that shape."
        )
    if not np.can_cast(wanted.dtype, array.dtype, "safe"):
        raise OutputError(
            f"The array to be filled is {array.dtype}, which cannot hold {wanted.dtype}: "
            "create it with that type."
        )
    if source is not None and _same_memory(array, source.data):
        raise OutputError(
            "The array to be filled is the image itself, whose pixels are still to be read: "
            "give another one."
        )
    return Output(array, None, wanted.record)


def _same_memory(a: Any, b: Any) -> bool:
    both_numpy = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    return a is b or (both_numpy and np.may_share_memory(a, b))


def _chunks(chunks: Sequence[int] | None, shape: Sequence[int], axes: str) -> tuple[int, ...]:
    if chunks is not None:
        return tuple(min(int(c), int(n)) for c, n in zip(chunks, shape, strict=True))
    flat = "z" not in axes
    # about 1 MB of float32 for each channel: quick to decode, few files
    usual = {"t": 1, "z": 32, "y": 512 if flat else 128, "x": 512 if flat else 128}
    return tuple(min(usual.get(a, n), n) for a, n in zip(axes, map(int, shape), strict=True))


# ---- where it goes -------------------------------------------------------------------------------


def _format(path: Path) -> _Format:
    name = path.name.lower()
    for ending, kind in _FORMATS.items():
        if name.endswith(ending) and len(name) > len(ending):
            return kind
    raise OutputError(
        f"The ending of {path.name!r} does not say what to write: use one of {', '.join(_FORMATS)}."
    )


def _check_place(path: Path, overwrite: bool, source: Image | None) -> None:
    if not path.parent.is_dir():
        raise OutputError(f"There is no folder {path.parent} to write {path.name} into: create it.")
    for read in _files_of(source):
        if _overlap(path, read):
            raise OutputError(
                f"{path} would overwrite the image that is read ({read}): choose another name."
            )
    if not path.exists() and not _sidecar(path).exists():
        return
    if path.is_dir() and not _replaceable(path):
        raise OutputError(f"{path} is a folder that is not zarr: choose another name.")
    if not overwrite:
        there = path if path.exists() else _sidecar(path)
        raise OutputError(
            f"{there} exists. Choose another name, or allow it to be replaced "
            "(--overwrite, or overwrite=True)."
        )


def _replaceable(path: Path) -> bool:
    """Only what is surely zarr, under a name that says so, may ever be deleted as a folder."""
    marked = any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))
    return marked and path.name.lower().endswith(".zarr")


def _files_of(source: Image | None) -> list[Path]:
    if source is None:
        return []
    names = (source.source, getattr(source.data, "filename", None))
    return [Path(name) for name in names if name]


def _overlap(a: Path, b: Path) -> bool:
    """Whether two paths are the same, or one lies inside the other."""
    a, b = a.resolve(), b.resolve()
    same = a.exists() and b.exists() and a.samefile(b)
    return same or a.is_relative_to(b) or b.is_relative_to(a)


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    freed = path.stat().st_size if path.is_file() else 0
    if needed > free + freed:
        raise OutputError(
            f"{path.name} needs {_amount(needed)} ({needed} bytes), but its disk has only "
            f"{_amount(free)} ({free} bytes) free. Free some space, choose another place, or write "
            "labels instead of probabilities."
        )


def _remove(path: Path) -> None:
    """Delete a result with its record; of folders, only zarr (see `_replaceable`)."""
    if path.is_dir():
        if _replaceable(path) or not any(path.iterdir()):
            shutil.rmtree(path)
        return
    path.unlink(missing_ok=True)
    _sidecar(path).unlink(missing_ok=True)


def _write_sidecar(path: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps({"seamscope": record}, indent=1, ensure_ascii=False)
    _sidecar(path).write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def _telling(path: str | None) -> Iterator[None]:
    """Turn errors of the disk into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"The disk that holds {path} is full. Free some space or choose another place; "
                "what was written so far is kept and marked as unfinished."
            ) from error
        raise OutputError(
            f"{path} cannot be written ({_why(error)}). Check that its folder is there and may be "
            "written to."
        ) from error


def _jsonable(value: Any) -> Any:
    """Return `value` in JSON's own types; what is not a number becomes null, the unknown text."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


# ---- kinds of files ------------------------------------------------------------------------------


def _anything(wanted: _Wanted) -> str | None:
    return None


def _all_bytes(wanted: _Wanted) -> int:
    return wanted.nbytes + 2**20  # and its metadata


def _zarr_bytes(wanted: _Wanted) -> int:
    """Estimate: probabilities hardly shrink, labels to a quarter at the very least."""
    return _all_bytes(wanted) // (1 if wanted.dtype.kind == "f" else 4)


def _zarr_array_in(create: Callable[..., Any], wanted: _Wanted, **how: Any) -> Any:
    """Create the array.

    Floats are compressed by blosc, lz4 on shuffled bits: a chunk of probabilities takes 0.4 of the
    time of zarr's default, which remains for integers since it shrinks labels much further.
    """
    from zarr.codecs import BloscCodec

    fast = BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle")
    return create(
        shape=wanted.shape,
        chunks=wanted.chunks,
        dtype=wanted.dtype,
        compressors=fast if wanted.dtype.kind == "f" else "auto",
        dimension_names=list(wanted.axes),
        **how,
    )


def _create_zarr(path: Path, wanted: _Wanted) -> Output:
    import zarr

    array = _zarr_array_in(zarr.create_array, wanted, store=str(path), zarr_format=3)
    return _ZarrOutput(array, array, path, wanted.record)


def _ome_zarr_refusal(wanted: _Wanted) -> str | None:
    space = [axis for axis in wanted.axes if axis in "zyx"]
    if len(space) >= 2:
        return None
    return f"OME-Zarr wants two or three axes of space, not {wanted.axes!r}. Use .zarr or .npy."


def _create_ome_zarr(path: Path, wanted: _Wanted) -> Output:
    import zarr

    stored, order = wanted.in_order("tczyx")
    group = zarr.create_group(str(path), zarr_format=3)
    group.attrs["ome"] = _ngff(stored)
    array = _zarr_array_in(group.create_array, stored, name="0")
    return _ZarrOutput(_asked_order(array, order), group, path, wanted.record)


def _asked_order(stored: Any, order: Sequence[int]) -> Any:
    return stored if list(order) == sorted(order) else _Reordered(stored, order)


def _ngff(wanted: _Wanted) -> dict[str, Any]:
    """Return metadata of OME-NGFF 0.5, checked by ome-zarr-models."""
    from ome_zarr_models.v05.axes import Axis
    from ome_zarr_models.v05.multiscales import Dataset, Multiscale

    types = {"t": "time", "c": "channel"}
    axes = tuple(
        Axis(name=a, type=types.get(a, "space"), unit=None if unit in ("", "pixel") else unit)
        for a, unit in zip(wanted.axes, wanted.units, strict=True)
    )
    datasets = (Dataset.build(path="0", scale=wanted.scale, translation=None),)
    image = Multiscale(axes=axes, datasets=datasets, name=wanted.name)
    told = {"version": "0.5", "multiscales": [image.model_dump(mode="json", exclude_none=True)]}
    return told | _omero(wanted)


_COLOURS = ("56B4E9", "E69F00", "009E73", "CC79A7", "F0E442", "0072B2", "D55E00", "FFFFFF")
"""Told apart also by the colour-blind (Okabe and Ito, 2008, with white for black)."""


def _omero(wanted: _Wanted) -> dict[str, Any]:
    channels = _channels(wanted)
    if not channels:
        return {}
    top = 1 if wanted.dtype.kind == "f" else int(np.iinfo(wanted.dtype).max)
    window = {"start": 0, "end": top, "min": 0, "max": top}
    listed = [
        {"label": name, "color": colour, "active": True, "window": window}
        for name, colour in channels
    ]
    return {"omero": {"channels": listed}}


def _channels(wanted: _Wanted) -> list[tuple[str, str]]:
    """Return name and colour of each channel, as far as the metadata says."""
    told = wanted.metadata.get("channels")
    if "c" not in wanted.axes or not isinstance(told, list):
        return []
    each = [c if isinstance(c, Mapping) else {"name": c} for c in told]
    return [
        (str(c.get("name", i)), str(c.get("color", _COLOURS[i % len(_COLOURS)])).lstrip("#"))
        for i, c in enumerate(each)
    ]


# tifffile's own limit of a classic TIFF, which is what ImageJ reads
_CLASSIC_TIFF = 2**32 - 2**25
_OME_TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")
_IMAGEJ_TYPES = ("uint8", "uint16", "float32")


def _tiff_refusal(wanted: _Wanted) -> str | None:
    if not {"y", "x"} <= set(wanted.axes):
        return f"TIFF is made of pages with axes y and x, not {wanted.axes!r}. Use .zarr or .npy."
    if str(wanted.dtype) not in _OME_TYPES:
        return f"TIFF for microscopy has no {wanted.dtype}. Use .zarr, .npy, or float32 or uint32."
    return None


def _create_tiff(path: Path, wanted: _Wanted) -> Output:
    """Write an ImageJ hyperstack where ImageJ can read the type and size, else OME-TIFF."""
    fits = str(wanted.dtype) in _IMAGEJ_TYPES and wanted.nbytes < _CLASSIC_TIFF
    return _map_tiff(path, wanted, _imagej_metadata if fits else _ome_metadata)


def _create_ome_tiff(path: Path, wanted: _Wanted) -> Output:
    return _map_tiff(path, wanted, _ome_metadata)


def _map_tiff(path: Path, wanted: _Wanted, describe: Callable[[_Wanted], Any]) -> Output:
    import tifffile

    stored, order = wanted.in_order("tzcyx")
    mapped = tifffile.memmap(
        path,
        shape=stored.shape,
        dtype=stored.dtype,
        photometric="minisblack",
        byteorder="=",
        **describe(stored),
    )
    _reserve(path)
    return _MappedOutput(_asked_order(mapped, order), mapped, path, wanted.record)


def _imagej_metadata(wanted: _Wanted) -> dict[str, Any]:
    sizes = dict(zip(wanted.axes, wanted.scale, strict=True))
    units = {a: _symbol(u) for a, u in zip(wanted.axes, wanted.units, strict=True)}
    told: dict[str, Any] = {"axes": wanted.axes.upper(), "unit": units["x"].replace("\u00b5", "u")}
    told |= {f"{a}unit": units[a] for a in "yz" if units.get(a, units["x"]) != units["x"]}
    if "z" in sizes:
        told["spacing"] = sizes["z"]
    if "t" in sizes:
        told |= {"finterval": sizes["t"], "tunit": units["t"] or "s"}
    return {
        "imagej": True,
        "resolution": (1 / sizes["x"], 1 / sizes["y"]),
        "metadata": told,
    }


def _ome_metadata(wanted: _Wanted) -> dict[str, Any]:
    told: dict[str, Any] = {"axes": wanted.axes.upper(), "Name": wanted.name}
    for axis, size, unit in zip(wanted.axes, wanted.scale, wanted.units, strict=True):
        key = {"t": "TimeIncrement", "c": ""}.get(axis, f"PhysicalSize{axis.upper()}")
        if key and (size != 1 or unit not in ("", "pixel")):
            told |= {key: size, f"{key}Unit": _symbol(unit) or "s"}
    if names := [name for name, _ in _channels(wanted)]:
        told["Channel"] = {"Name": names}
    return {"ome": True, "metadata": told}


def _symbol(unit: str) -> str:
    return _SYMBOLS.get(unit, unit)


def _create_npy(path: Path, wanted: _Wanted) -> Output:
    mapped = np.lib.format.open_memmap(path, "w+", wanted.dtype, wanted.shape)
    _reserve(path)
    return _MappedOutput(mapped, mapped, path, wanted.record)


def _reserve(path: Path) -> None:
    """Take the room of a file that is written through memory.

    Files begin as holes. A disk that fills up under a memory map is a fatal signal and no error,
    so where the system can (not macOS, not Windows), the disk must promise the bytes beforehand.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _png_refusal(wanted: _Wanted) -> str | None:
    if wanted.axes == "yx" and str(wanted.dtype) in ("uint8", "uint16"):
        return None
    return (
        f"PNG is for labels, 'yx' of uint8 or uint16, not {wanted.axes!r} of {wanted.dtype}. "
        "Use .tif, .npy or .zarr."
    )


def _create_png(path: Path, wanted: _Wanted) -> Output:
    path.touch()  # whether it may be written is better known now than at the end
    return _PngOutput(np.zeros(wanted.shape, wanted.dtype), path, wanted.record)


_FORMATS = {
    ".ome.zarr": _Format(_ome_zarr_refusal, _zarr_bytes, _create_ome_zarr),
    ".zarr": _Format(_anything, _zarr_bytes, _create_zarr),
    ".ome.tif": _Format(_tiff_refusal, _all_bytes, _create_ome_tiff),
    ".ome.tiff": _Format(_tiff_refusal, _all_bytes, _create_ome_tiff),
    ".tif": _Format(_tiff_refusal, _all_bytes, _create_tiff),
    ".tiff": _Format(_tiff_refusal, _all_bytes, _create_tiff),
    ".npy": _Format(_anything, _all_bytes, _create_npy),
    ".png": _Format(_png_refusal, _all_bytes, _create_png),
}
