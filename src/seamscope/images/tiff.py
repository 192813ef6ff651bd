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
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import unescape

import numpy as np

from seamscope.errors import ImageError, SettingsError
from seamscope.images.channels import Channel
from seamscope.images.dimensions import are_axes, unit_name
from seamscope.images.records import UNFINISHED, unfinished
from seamscope.images.stored import Choice, Offer, Stored, finite_number, listed, pick
from seamscope.images.views import FirstChannels, Inverted, Looked
from seamscope.text import shape_text

_TIFF_AXES = {"T": "t", "C": "c", "S": "c", "Z": "z", "Y": "y", "X": "x"}


# Tag numbers and values of the TIFF specification, and of GDAL.
_METADATA, _NODATA, _WHITE_IS_ZERO, _PALETTE, _RGB, _YCBCR = 42112, 42113, 0, 3, 2, 6
_OTHER_COLOURS = {5: "CMYK", _YCBCR: "YCbCr", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*"}
_JPEG = (6, 7, 34892)  # of the tag Compression
_ALPHA = (1, 2)  # of the tag ExtraSamples: associated and unassociated
# A first image with less than this part of the next one's pixels, and of its shape, is a thumbnail.
_THUMBNAIL = 1 / 9


def open_tiff(path: Path, choice: Choice) -> Stored:
    """Open one series of a TIFF file: the chosen one, or the first that is no thumbnail."""
    import tifffile

    with _listening(tifffile.logger()) as heard:
        tif = tifffile.TiffFile(path)
        try:
            return _series(tif, path, choice, heard)
        except BaseException:
            tif.close()
            raise


def _series(tif: Any, path: Path, choice: Choice, heard: list[str]) -> Stored:
    number = pick(choice, _names(tif), path.name, _first_image(tif))
    levels = tif.series[number].levels
    if not 0 <= choice.level < len(levels):
        raise SettingsError(
            f"level {choice.level}: {path.name} has {len(levels)} resolution(s). Choose a level "
            f"from 0 to {len(levels) - 1}."
        )
    series = levels[choice.level]
    _check_not_cut(heard, path)
    if math.prod(series.shape) == 0 or series.dtype is None:
        raise ImageError(f"{path} has no pixels. Save it again.")
    _check_length(series, path)
    letters = "".join(_TIFF_AXES.get(letter, "?") for letter in series.axes)
    scale, units, origin = _tiff_place(tif, letters)
    if choice.level:
        full = levels[0].shape
        scale = [s * a / b for s, a, b in zip(scale, full, series.shape, strict=True)]
    notes = (
        *_unfinished(tif, path),
        *_tiff_notes(tif, path, number),
        *(f"About {path.name}: {said}" for said in heard),
    )
    # before the file is closed
    palette = series.keyframe.colormap
    parts = tuple(sorted({each for each, _ in _ends(series)} - {path.resolve()}))
    stored = Stored(
        _tiff_data(tif, series, path),
        name=path.name.split(".")[0],
        source=path,
        axes=letters if are_axes(letters) else None,
        scale=scale,
        units=units,
        origin=origin,
        notes=notes,
        offer=Offer(
            tuple(_names(tif)) if len(tif.series) > 1 else (),
            number,
            tuple(tuple(each.shape) for each in levels) if len(levels) > 1 else (),
            choice.level,
            _nodata(series.keyframe),
        ),
        parts=parts,
        channels=_bands(series),
    )
    return _as_intensities(stored, series, palette, choice)


def _names(tif: Any) -> list[str]:
    """Names and sizes of a file's images."""
    return [f"{each.name or 'image'} ({shape_text(each.shape)} pixels)" for each in tif.series]


def _first_image(tif: Any) -> int:
    """Return the number of the first image that is not a thumbnail."""
    whole = [k for k, each in enumerate(tif.series) if not each.keyframe.is_reduced]
    if not whole:
        return 0
    first, *others = whole
    if others and _is_thumbnail(tif.series[first], tif.series[others[0]]):
        return others[0]
    return first


def _is_thumbnail(small: Any, large: Any) -> bool:
    """Return whether one image looks like a small copy of another."""
    if small.axes != large.axes or math.prod(small.shape) > _THUMBNAIL * math.prod(large.shape):
        return False
    ratios = [
        b / a
        for axis, a, b in zip(small.axes, small.shape, large.shape, strict=True)
        if axis in "YX" and a
    ]
    return len(ratios) == 2 and abs(ratios[0] / ratios[1] - 1) < 0.1


def _nodata(page: Any) -> float | None:
    """Return what GDAL's tag says, None without it."""
    tag = page.tags.get(_NODATA)
    if tag is None:
        return None
    try:
        return float(str(tag.value).strip("\0 "))
    except ValueError:
        return None


def _bands(series: Any) -> tuple[Channel, ...]:
    """Return the names of a map's bands out of GDAL's tag; none unless each band has one."""
    tag, axis = series.keyframe.tags.get(_METADATA), max(map(series.axes.find, "SC"))
    if tag is None or axis < 0:
        return ()
    try:
        items = ElementTree.fromstring(str(tag.value).strip("\0 ")).iter("Item")
    except ElementTree.ParseError:
        return ()
    names = {
        item.get("sample"): unescape((item.text or "").strip())  # GDAL escapes twice
        for item in items
        if item.get("role") == "description"
    }
    bands = [names.get(str(number)) for number in range(series.shape[axis])]
    return tuple(Channel(name) for name in bands if name) if all(bands) else ()


def alpha_note(name: str, kept: bool) -> str:
    """Return the note on a channel of transparency."""
    if kept:
        return (
            f"The last channel of {name} is transparency (alpha), not an intensity. Leave it out "
            "(`alpha=False`) if the network takes only colours."
        )
    return f"The last channel of {name}, transparency (alpha), is left out."


def palette_note(name: str) -> str:
    """Return the note on an image whose pixels are indices of colours."""
    return f"{name} has a colour palette: its colours are read, as red, green and blue."


def colours_note(name: str, model: str) -> str:
    """Return the note on colours other than red, green and blue."""
    return (
        f"{name} stores its colours as {model}, which are read as stored. Convert it to RGB if the "
        "network takes red, green and blue."
    )


def _as_intensities(stored: Stored, series: Any, colormap: Any, choice: Choice) -> Stored:
    """Change pixels whose numbers are not intensities: palettes, inverted ones, transparency."""
    page, data, name = series.keyframe, stored.data, Path(str(stored.source)).name
    if page.photometric == _PALETTE and not choice.indices and colormap is not None:
        # 16 bits of which the upper 8 are the colour, whether written as 257 * n or 256 * n
        palette = (np.asarray(colormap).T >> 8).astype(np.uint8)
        note = palette_note(name)
        return replace(
            stored,
            data=Looked(data, palette),
            axes=None if stored.axes is None else stored.axes + "c",
            scale=[*(stored.scale or ()), 1.0],
            units=[*(stored.units or ()), ""],
            origin=[*(stored.origin or ()), 0.0],
            notes=(*stored.notes, note),
            colours=True,
        )
    if page.photometric == _WHITE_IS_ZERO:
        if choice.indices:
            return stored  # how labels are displayed says nothing of their numbers
        if data.dtype.kind in "bu":
            note = f"{name} stores white as 0 (MinIsWhite): its intensities are inverted."
            return replace(stored, data=Inverted(data), notes=(*stored.notes, note))
        note = (
            f"{name} says that white is 0 (MinIsWhite), of pixels of type {data.dtype}, "
            "which are not inverted. Invert them if bright is dark."
        )
        return replace(stored, notes=(*stored.notes, note))
    # tifffile returns red, green and blue of JPEG, which stores brightness and two differences
    decoded = page.photometric == _YCBCR and page.compression in _JPEG
    colours = (page.photometric == _RGB or decoded) and "S" in series.axes
    if page.photometric in _OTHER_COLOURS and not decoded:
        note = colours_note(name, _OTHER_COLOURS[page.photometric])
        stored = replace(stored, notes=(*stored.notes, note))
    extra = tuple(int(e) for e in page.extrasamples or ())
    axis = series.axes.find("S")
    if axis >= 0 and len(extra) == 1 and extra[0] in _ALPHA:
        stored = replace(stored, notes=(*stored.notes, alpha_note(name, choice.alpha)))
        if not choice.alpha:
            stored = _without_last(stored, axis)
    return replace(stored, colours=colours)


def _without_last(stored: Stored, axis: int) -> Stored:
    """Leave out the last channel along an axis, and the axis where one is left."""
    count = stored.data.shape[axis] - 1
    left = [k for k in range(len(stored.data.shape)) if k != axis or count > 1]
    return replace(
        stored,
        data=FirstChannels(stored.data, axis, count),
        channels=stored.channels[:count] if count > 1 else (),
        axes=stored.axes and "".join(stored.axes[k] for k in left),
        scale=stored.scale and [stored.scale[k] for k in left],
        units=stored.units and [stored.units[k] for k in left],
        origin=stored.origin and [stored.origin[k] for k in left],
    )


@contextlib.contextmanager
def _listening(logger: logging.Logger) -> Iterator[list[str]]:
    """Collect what a library logs: damage that it works around without raising."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)


def _check_not_cut(heard: Sequence[str], path: Path) -> None:
    """Refuse a file whose pages or descriptions point past its last byte."""
    for said in heard:
        if "invalid page offset" in said or "invalid value offset" in said:
            raise ImageError(
                f"{path} is cut short or damaged: parts that it announces are missing ({said}). "
                "Copy it again."
            )


def _unfinished(tif: Any, path: Path) -> tuple[str, ...]:
    software = tif.pages.first.tags.get("Software")
    return (unfinished(path.name),) if software and software.value == UNFINISHED else ()


def _tiff_notes(tif: Any, path: Path, number: int) -> Iterator[str]:
    first = tif.series[number]
    if len(tif.series) > 1:
        yield (
            f"{path.name} holds {len(tif.series)} images; number {number}, "
            f"{shape_text(first.shape)} pixels, is opened. Choose another by its "
            f"number (`series`): {listed(_names(tif))}."
        )
    # looking at every page takes long, and pixels in one piece are all there
    missing = 0 if first.dataoffset is not None else sum(page is None for page in first.pages)
    if missing:
        yield (
            f"{path.name} lacks {missing} of its {len(first.pages)} planes, which are read as "
            "zeros. If it is one of several files, keep them together."
        )


def _check_length(series: Any, path: Path) -> None:
    """Refuse files that end before their pixels do: a map beyond the end kills the process.

    Of one file the first and the last page are looked at, of several files all pages; other damage
    is found when it is read.
    """
    ends = dict.fromkeys((file for file, _ in _ends(series)), 0)
    for file, end in _ends(series):
        ends[file] = max(ends[file], end)
    if series.dataoffset is not None:
        ends[path.resolve()] = series.dataoffset + series.nbytes
    for file, end in ends.items():
        there = file.stat().st_size
        if end > there:
            raise ImageError(
                f"{file if series.is_multifile else path} is cut short: its pixels end at byte "
                f"{end}, but the file has only {there}. Copy it again."
            )


def _ends(series: Any) -> Iterator[tuple[Path, int]]:
    """Yield files of a series, each with a byte at which some of its pixels end."""
    pages = series.pages if series.is_multifile else (series.pages[0], series.pages[-1])
    for page in pages:
        if page is not None:
            file = Path(page.parent.filehandle.path).resolve()
            pieces = zip(page.dataoffsets, page.databytecounts, strict=False)
            yield file, max((offset + count for offset, count in pieces), default=0)


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
    store = series.aszarr(level=0)  # of this resolution, which is a series of its own
    data = zarr.open(store, mode="r")
    weakref.finalize(store, tif.close)
    return data


def _tiff_place(tif: Any, axes: str) -> tuple[list[float], list[str], list[float]]:
    """Return pixel sizes, units and the first pixel's position for each letter of `axes`."""
    if tif.ome_metadata:
        sizes = _ome_xml_sizes(tif.ome_metadata)
    elif tif.imagej_metadata:
        sizes = _imagej_sizes(tif)
    else:
        sizes = _resolution_sizes(tif.pages[0])
    each = [sizes.get(axis, (1.0, "", 0.0)) for axis in axes]
    return [size for size, _, _ in each], [unit for _, unit, _ in each], [at for _, _, at in each]


_Sizes = dict[str, tuple[float, str, float]]


def _ome_xml_sizes(xml: str) -> _Sizes:
    try:
        elements = [*ElementTree.fromstring(xml).iter()]
    except ElementTree.ParseError:
        return {}
    pixels = next((e.attrib for e in elements if e.tag.endswith("}Pixels")), {})
    first = next((e.attrib for e in elements if e.tag.endswith("}Plane")), {})
    names = {axis: f"PhysicalSize{axis.upper()}" for axis in "xyz"} | {"t": "TimeIncrement"}
    sizes: _Sizes = {}
    for axis, name in names.items():
        size, unit = finite_number(pixels.get(name)), "pixel"
        if size:
            # the schema's own defaults, where a file leaves the unit out
            unit = unit_name(pixels.get(name + "Unit", "s" if axis == "t" else "um"))
        place = f"Position{axis.upper()}"
        # in another unit, such as the schema's default, a frame of reference, it says nothing here
        same = unit_name(first.get(f"{place}Unit", "reference frame")) == unit
        start = finite_number(first.get(place)) if same else 0.0
        if size or start:
            sizes[axis] = size or 1.0, unit, start
    return sizes


def _imagej_sizes(tif: Any) -> _Sizes:
    """Read ImageJ's calibration: sizes, and the pixel at which coordinates are 0 (its origin)."""
    said = tif.imagej_metadata
    unit = unit_name(said.get("unit"))
    sizes = dict.fromkeys("zyx", (1.0, ""))
    if unit != "pixel":
        spacing = abs(finite_number(said.get("spacing"))) or 1.0
        sizes["z"] = spacing, unit_name(said.get("zunit", unit))
        for axis, density in zip("xy", tif.pages[0].resolution, strict=True):
            if density:
                own = unit_name(said.get("yunit", unit)) if axis == "y" else unit
                sizes[axis] = 1 / density, own
        if finite_number(said.get("finterval")):
            sizes["t"] = finite_number(said["finterval"]), unit_name(said.get("tunit", "s"))
    return {
        axis: (size, own, -finite_number(said.get(f"{axis}origin")) * size)
        for axis, (size, own) in sizes.items()
    }


def _resolution_sizes(page: Any) -> _Sizes:
    """Take pixels per centimetre for a measurement; pixels per inch are about printing."""
    if page.resolutionunit != 3 or not all(page.resolution):
        return {}
    x, y = page.resolution
    return {"x": (1e4 / x, "micrometer", 0.0), "y": (1e4 / y, "micrometer", 0.0)}
