"""Images in TIFF files: OME-TIFF, ImageJ's kind, and plain pages.

Knows what tifffile says of pages, axes and pixel sizes, and how damage shows. Does not know what is
done with the pixels.
"""

from __future__ import annotations

import contextlib
import logging
import math
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from seamscope.errors import ImageError
from seamscope.images.dimensions import are_axes, unit_name
from seamscope.images.records import UNFINISHED, unfinished
from seamscope.images.stored import Stored, finite_number
from seamscope.text import shape_text

_TIFF_AXES = {"T": "t", "C": "c", "S": "c", "Z": "z", "Y": "y", "X": "x"}


def open_tiff(path: Path) -> Stored:
    """Open the first series of a TIFF file."""
    import tifffile

    with _listening(tifffile.logger()) as heard:
        tif = tifffile.TiffFile(path)
        try:
            return _first_series(tif, path, heard)
        except BaseException:
            tif.close()
            raise


def _first_series(tif: Any, path: Path, heard: list[str]) -> Stored:
    series = tif.series[0]
    _check_not_cut(heard, path)
    if math.prod(series.shape) == 0 or series.dtype is None:
        raise ImageError(f"{path} has no pixels. Save it again.")
    _check_length(series, path)
    letters = "".join(_TIFF_AXES.get(letter, "?") for letter in series.axes)
    scale, units = _tiff_scale(tif, letters)
    notes = (
        *_unfinished(tif, path),
        *_tiff_notes(tif, path),
        *(f"About {path.name}: {said}" for said in heard),
    )
    return Stored(
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


def _unfinished(tif: Any, path: Path) -> tuple[str, ...]:
    software = tif.pages.first.tags.get("Software")
    return (unfinished(path.name),) if software and software.value == UNFINISHED else ()


def _tiff_notes(tif: Any, path: Path) -> Iterator[str]:
    first = tif.series[0]
    if len(tif.series) > 1:
        yield (
            f"{path.name} holds {len(tif.series)} images; the first, {shape_text(first.shape)} "
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
        size = finite_number(pixels.get(name))
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
        "z": (abs(finite_number(told.get("spacing"))) or 1.0, unit_name(told.get("zunit", unit))),
    }
    for axis, density in zip("xy", tif.pages[0].resolution, strict=True):
        if density:
            sizes[axis] = 1 / density, unit_name(told.get("yunit", unit)) if axis == "y" else unit
    if finite_number(told.get("finterval")):
        sizes["t"] = finite_number(told["finterval"]), unit_name(told.get("tunit", "s"))
    return sizes


def _resolution_sizes(page: Any) -> _Sizes:
    """Take pixels per centimetre for a measurement; pixels per inch are about printing."""
    if page.resolutionunit != 3 or not all(page.resolution):
        return {}
    x, y = page.resolution
    return {"x": (1e4 / x, "micrometer"), "y": (1e4 / y, "micrometer")}
