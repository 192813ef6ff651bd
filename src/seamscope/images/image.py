"""What is read: images of any size, in memory or on disk, looked into but not loaded.

Knows file formats (TIFF, PNG, JPEG, npy, zarr, OME-Zarr), what their metadata says about axes and
pixel sizes, and in which pieces each is stored. Does not know networks, tiles or what the numbers
mean.

::

    open_image(path or array) -> Image    nothing is read but metadata
        image.read(region)    -> array    the only place where pixels enter the program
        image.blocks(bytes)   -> regions  the whole image once, in the order it is stored

What a file is, is told by its first bytes, never by its name: microscopes and colleagues rename.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from seamscope.errors import ImageError
from seamscope.images.dimensions import (
    AXES,
    Index,
    Region,
    are_axes,
    bounds,
    checked_axes,
    default_units,
    times,
    told_region,
    unit_name,
    volume,
    why,
)
from seamscope.images.outputs import Output, create_output, file_of, read_record, record_in

__all__ = ["Image", "Output", "create_output", "open_image", "read_record"]

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
        axes = checked_axes(axes, self.shape)
        return replace(self, axes=axes, units=default_units(axes, self.units))

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
                f"{self.source or self.name} cannot be read at [{told_region(index)}] "
                f"({why(error)}). It may be damaged or out of reach: check it, or copy it again."
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
        self._held: tuple[Region, np.ndarray] | None = None

    def read(self, data: Any, index: Index) -> Any:
        region = bounds(index, data.shape)
        box = region and self._aligned(region, data.shape)
        if region is None or box is None or box == region:
            return data[index]  # by chance just what is stored, or nothing that has a box
        if volume(box) * np.dtype(data.dtype).itemsize > _KEEP_AT_MOST:
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

    def _aligned(self, region: Region, shape: Sequence[int]) -> Region:
        return tuple(
            (a // unit * unit, min(-(-b // unit) * unit, n))
            for (a, b), unit, n in zip(region, self._unit, shape, strict=True)
        )

    def _around(self, data: Any, region: Region, box: Region) -> tuple[Region, np.ndarray]:
        held = self._held
        if held and all(
            low <= a and b <= high for (a, b), (low, high) in zip(region, held[0], strict=True)
        ):
            return held
        self._held = held = None  # let go before reading: never two blocks at a time
        held = (box, np.asarray(data[tuple(slice(a, b) for a, b in box)]))
        self._held = held
        return held


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
# Opening
# --------------------------------------------------------------------------------------------------


def open_image(source: Any, *, axes: str | None = None) -> Image:
    """Open an image without reading its pixels.

    Two-dimensional images that say nothing about their axes are ``"yx"``; for all others `axes`
    stays None, and whoever needs them has to ask: they are never guessed.

    Parameters
    ----------
    source
        ``"demo:tissue2d"`` or ``"demo:tissue3d"``, a file (TIFF with OME or ImageJ metadata, PNG,
        JPEG, npy), a folder (zarr, OME-Zarr of which the first image's full resolution is taken),
        an array (numpy, dask, zarr, torch, xarray ...), or an `Image`.
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
    elif isinstance(source, str) and source.startswith("demo:") and not Path(source).exists():
        image = _open_sample(source)
    elif isinstance(source, str | os.PathLike):
        image = _open_path(Path(source).expanduser())
    else:
        image = _open_array(source)
    return image.with_axes(axes) if axes else image


def _open_sample(name: str) -> Image:
    """Draw one of the sample images."""
    from seamscope.demo import SAMPLES, sample_image

    sample = name.removeprefix("demo:")
    if sample not in SAMPLES:
        known = ", ".join(f"demo:{each}" for each in SAMPLES)
        raise ImageError(f"There is no sample image {name}: choose one of {known}.")
    pixels, _ = sample_image(sample)
    return _image(pixels, name=sample, axes="zyx"[-pixels.ndim :])


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
        default_units(axes, [str(unit) for unit in names]),
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
            f"{name} is empty: its size is {times(shape)} pixels. Check how it was saved or cut."
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
        return _open_zarr(array, file_of(array))
    fitting = len(axes) == len(array.shape) and are_axes(axes)
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
            f"{type(data).__name__} is not an image ({why(error)}). Give a path or one array "
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
            f"{path} cannot be opened ({why(error)}). It may be damaged, cut short or not "
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
    if len(axes) != data.ndim or not are_axes(axes):
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

    with _listening(tifffile.logger()) as heard:
        tif = tifffile.TiffFile(path)
        try:
            return _first_series(tif, path, heard)
        except BaseException:
            tif.close()
            raise


def _first_series(tif: Any, path: Path, heard: list[str]) -> Image:
    series = tif.series[0]
    _check_not_cut(heard, path)
    if math.prod(series.shape) == 0 or series.dtype is None:
        raise ImageError(f"{path} has no pixels. Save it again.")
    _check_length(series, path)
    letters = "".join(_TIFF_AXES.get(letter, "?") for letter in series.axes)
    scale, units = _tiff_scale(tif, letters)
    notes = *_tiff_notes(tif, path), *(f"About {path.name}: {said}" for said in heard)
    return _image(
        _tiff_data(tif, series, path),
        name=path.name.split(".")[0],
        source=path,
        axes=letters if are_axes(letters) else None,
        scale=scale,
        units=units,
        notes=notes,
    )


@contextlib.contextmanager
def _listening(logger: logging.Logger) -> Iterator[list[str]]:
    """Collect what a library only logs, for it tells of damage that it works around in silence."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)


def _check_not_cut(heard: Sequence[str], path: Path) -> None:
    """Refuse a file whose pages or descriptions point beyond its end."""
    for said in heard:
        if "invalid page offset" in said or "invalid value offset" in said:
            raise ImageError(
                f"{path} is cut short or damaged: parts that it announces are missing ({said}). "
                "Copy it again."
            )


def _tiff_notes(tif: Any, path: Path) -> Iterator[str]:
    first = tif.series[0]
    if len(tif.series) > 1:
        yield (
            f"{path.name} holds {len(tif.series)} images; the first, {times(first.shape)} "
            "pixels, is the one opened. Save the one you want by itself if it is another."
        )
    # looking at every page takes long, and pixels in one piece are all there
    missing = 0 if first.dataoffset is not None else sum(page is None for page in first.pages)
    if missing:
        yield (
            f"{path.name} lacks {missing} of its {len(first.pages)} planes, which are read as "
            "zeros. If it is one of several files, keep them together."
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
        tif.close()
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
            sizes[axis] = size, unit_name(pixels.get(name + "Unit", "s" if axis == "t" else "um"))
    return sizes


def _imagej_sizes(tif: Any) -> _Sizes:
    told = tif.imagej_metadata
    unit = unit_name(told.get("unit"))
    if unit == "pixel":
        return {}
    sizes: _Sizes = {
        "z": (abs(_number(told.get("spacing"))) or 1.0, unit_name(told.get("zunit", unit))),
    }
    for axis, density in zip("xy", tif.pages[0].resolution, strict=True):
        if density:
            sizes[axis] = 1 / density, unit_name(told.get("yunit", unit)) if axis == "y" else unit
    if _number(told.get("finterval")):
        sizes["t"] = _number(told["finterval"]), unit_name(told.get("tunit", "s"))
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
    record = record_in(array.attrs)
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    axes = "".join(_axis_letter({"name": n}) for n in names or ())
    fitting = len(axes) == array.ndim and are_axes(axes)
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
    fitting = len(axes) == array.ndim and are_axes(axes)
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
    return unit_name(unit) if unit else ""


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
