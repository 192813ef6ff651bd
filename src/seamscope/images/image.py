"""Images of any size, in memory or on disk, read region by region.

Knows in which pieces images are stored, and which of them are in memory. Does not know kinds of
files (see `seamscope.images.open`), networks, tiles or what the numbers mean.

::

    open_image(path or array) -> Image    nothing is read but metadata
        image.read(region)    -> array    the only place where pixels enter the program
        image.blocks(bytes)   -> regions  the whole image once, in the order it is stored

The first bytes of a file say what it is, never its name: microscopes and colleagues rename files.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from seamscope.errors import ImageError, SettingsError
from seamscope.images.addresses import Address, is_address
from seamscope.images.channels import Channel
from seamscope.images.dimensions import (
    Index,
    Region,
    bounds,
    checked_axes,
    default_units,
    region_text,
    volume,
    why,
)
from seamscope.images.open import open_address, open_array, open_path
from seamscope.images.stored import Choice, Offer, Stored
from seamscope.images.views import Part, Replaced, WithoutData
from seamscope.images.watch import Watch, WatchedZarr, looking, watch_of
from seamscope.text import shape_text

_SETTLED = 2.0
"""Seconds after which a file is taken not to change within the clock's resolution."""

_KEEP_AT_MOST = 256 * 2**20
"""Largest decoded block, in bytes, that an image holds on to between two reads."""


# --------------------------------------------------------------------------------------------------
# Images
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """An image of any size, of which only the regions that are read are in memory.

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
    origin
        Position of the first pixel's centre along each dimension, in `units`; 0.0 where unknown.
    missing
        Whether NaN stands for pixels without data: they are left out of the statistics of
        intensities, and 0 after normalization.
    colours
        Whether the channels are the colours of a picture.
    opened
        What was chosen to open it (`open_image`): ``axes`` and choices other than the default.
    identity
        The file and how it is read: the same for the same pixels, as far as size and time of the
        last change show. Empty where that is not certain: arrays, folders, files of the last
        seconds.
    channels
        Name, colour and window of each channel; empty where the file does not say.
    parts
        Paths of other files than `source` that hold some of the pixels.
    offer
        What else its file lets a reader choose.
    opener
        What `open_image` opens as the same image in another process, with `choice`: the absolute
        path of a file or folder, or the name of a sample. None for arrays.
    stays
        Why another process cannot open it, though it is no array.
    choice
        What was taken of a file that holds several things.
    """

    data: Any
    axes: str | None
    scale: tuple[float, ...]
    units: tuple[str, ...]
    name: str
    source: str | None
    notes: tuple[str, ...] = ()
    origin: tuple[float, ...] = ()
    missing: bool = False
    colours: bool = False
    identity: str = ""
    channels: tuple[Channel, ...] = ()
    opened: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _kept: _KeptBlock | None = field(default=None, repr=False)
    _watch: Watch | None = field(default=None, repr=False)
    parts: tuple[str, ...] = ()
    offer: Offer = Offer()  # noqa: RUF009  (frozen)
    opener: str | None = None
    stays: str = ""
    choice: Choice = field(default=Choice(), repr=False)

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

    def part(self, region: tuple[slice, ...]) -> Image:
        """Return a part as an image of its own, at its place; nothing is read.

        Parameters
        ----------
        region
            A slice with start and stop for each dimension.
        """
        first = self.origin or (0.0,) * self.ndim
        corner = tuple(
            o + part.start * size for o, part, size in zip(first, region, self.scale, strict=True)
        )
        data = Part(self.data, region)
        # no file opens as this part: neither here nor in another process
        return replace(
            self, data=data, origin=corner, source=None, identity="", opener=None, _kept=None
        )

    def with_nodata(self, nodata: float) -> Image:
        """Return the same image with NaN where it has an intensity that stands for no data.

        Parameters
        ----------
        nodata
            The intensity.

        Raises
        ------
        SettingsError
            When no pixel can have it.
        """
        _check_nodata(nodata, np.dtype(self.data.dtype), self.name)
        note = f"Pixels of {self.name} with intensity {nodata:g} are without data."
        # a file is opened with one such intensity, and none for indices
        opens = not self.missing and not self.choice.indices
        return replace(
            self,
            data=WithoutData(self.data, nodata),
            notes=(*self.notes, note),
            missing=True,
            identity=self.identity and f"{self.identity} nodata={nodata!r}",
            opener=self.opener if opens else None,
            stays=self.stays if opens or self.opener is None else _OPENED_TWICE,
            choice=replace(self.choice, nodata=nodata),
            _kept=None if self._kept is None else self._kept.fresh(),
        )

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
            When the file is damaged, cannot be read, or has disappeared or changed since it was
            opened.
        """
        self.check()
        try:
            block = self._kept.read(self.data, index) if self._kept else self.data[index]
            array = np.asarray(block)
            array = array if array.dtype.isnative else array.astype(self.dtype)
        except (MemoryError, ImageError):
            raise
        except Exception as error:
            raise ImageError(
                f"{self.source or self.name} cannot be read at [{region_text(index)}] "
                f"({why(error)}). It may be damaged or out of reach: check it, or copy it again."
            ) from error
        self.check()  # what was read may be from before and after a change
        return array

    def look(self, index: Index) -> None:
        """Note which chunks of zarr a region is read from are stored, without reading them.

        Raises
        ------
        ImageError
            When the image has disappeared or changed since it was opened.
        """
        if isinstance(self._watch, WatchedZarr):
            looking(self.data)[index]

    def check(self) -> None:
        """Raise `ImageError` if the image's file has disappeared or changed since it was opened."""
        if self._watch is not None:
            self._watch.check()

    @property
    def absent_chunks(self) -> int:
        """Chunks of zarr read so far that are not stored: they have the fill value."""
        return self._watch.absent if isinstance(self._watch, WatchedZarr) else 0

    def blocks(
        self, at_most: int = 2**24, numbers: slice = slice(None)
    ) -> Iterator[tuple[slice, ...]]:
        """Yield regions that cover the image exactly once, in the order it is stored.

        Parameters
        ----------
        at_most
            Size of a region in bytes. Only where a single stored chunk is larger is a region.
        numbers
            Which of the regions; those before are not counted through.
        """
        unit = _chunk_shape(self.data) or (1,) * self.ndim
        size = _grown(unit, self.shape, at_most // self.dtype.itemsize)
        starts = [range(0, n, step) for n, step in zip(self.shape, size, strict=True)]
        counts = tuple(map(len, starts))
        for number in range(*numbers.indices(math.prod(counts))):
            corner = np.unravel_index(number, counts)
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

    def fresh(self) -> _KeptBlock:
        """Return one for other values in the same chunks."""
        return _KeptBlock(self._unit)

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
        self._held = held = None  # released before reading: never two blocks at a time
        held = (box, np.asarray(data[tuple(slice(a, b) for a, b in box)]))
        self._held = held
        return held


def _chunk_shape(data: Any) -> tuple[int, ...] | None:
    """Return the shape in which `data` is stored or computed, None when it is one piece."""
    chunks = getattr(data, "chunks", None)
    if not isinstance(chunks, tuple) or len(chunks) != len(data.shape):
        return None
    # dask lists all chunks of an axis; where they differ, aligning is only approximate
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


def open_image(source: Any, *, axes: str | None = None, **choices: Any) -> Image:
    """Open an image without reading its pixels.

    Two-dimensional images that say nothing about their axes are ``"yx"``; for all others `axes`
    stays None: they are never guessed.

    Parameters
    ----------
    source
        A sample image (``"demo:tissue2d"``, see `seamscope.demo.SAMPLES`), a file (TIFF with OME or
        ImageJ metadata, PNG, JPEG, npy), a folder (zarr, OME-Zarr, plates), the address of such a
        zarr folder (``https://``, ``s3://``, ``gs://``), an array (numpy, dask, zarr, torch,
        xarray ...), or an `Image`.
    axes
        Overrides what the image says, see `Image.with_axes`.
    choices
        What to take of a file that holds several images or resolutions, and how: ``series``,
        ``level``, ``nodata``, ``alpha``, ``indices``, see `seamscope.images.stored.Choice`.
        `Image.notes` say what was taken.

    Raises
    ------
    ImageError
        When there is no such file, when it is damaged or of a kind that is not known, when it has
        no pixels, or pixels that are not real numbers.
    SettingsError
        When `axes` does not fit.
    """
    choice = Choice(**choices)
    if isinstance(source, Image):
        image = source if choice.nodata is None else source.with_nodata(choice.nodata)
    elif isinstance(source, str) and source.startswith("demo:") and not Path(source).exists():
        image = _open_sample(source, choice)
    elif is_address(source):
        image = _of_address(Address.parse(source), choice)
    elif isinstance(source, str | os.PathLike):
        image = _of_file(Path(source).expanduser(), choice)
    else:
        image = _checked(open_array(source, choice), choice)
    opened = {**image.opened, **choices} | ({"axes": axes} if axes else {})
    image = image.with_axes(axes) if axes else image
    default = {each.name: each.default for each in fields(Choice)}
    chosen = {name: value for name, value in opened.items() if value != default.get(name)}
    return image if chosen == image.opened else replace(image, opened=chosen)


def _of_file(path: Path, choice: Choice) -> Image:
    """Open a file or folder, and note which it is."""
    before = _identity(path, choice)
    found = open_path(path, choice)
    image = _checked(found, choice)
    alone = not found.parts and str(found.source) == str(path)
    return replace(image, identity=before if alone else "", opener=str(path.absolute()))


def _of_address(address: Address, choice: Choice) -> Image:
    """Open an image that is not on this machine; a password in its address is not noted."""
    image = _checked(open_address(address, choice), choice)
    if address.secret:
        return replace(image, stays=_SECRET)
    return replace(image, opener=str(address))


_SECRET = (
    "was opened with a user or password, which is never written to a file, so that workers cannot "
    "read it. Copy it to a disk that workers see, or leave workers out."
)
_OPENED_TWICE = (
    "was opened in several steps, which workers cannot repeat. Save it to a file (zarr), and give "
    "its path, or leave workers out."
)


def _identity(path: Path, choice: Choice) -> str:
    """Return what names the pixels of a file; empty for folders and files that just changed.

    A file that was written within the resolution of the file system's clock might change again
    without a trace.
    """
    try:
        known = path.resolve().stat()
    except OSError:
        return ""
    if not path.is_file() or time.time() - known.st_mtime < _SETTLED:
        return ""
    return f"{path.resolve()} {known.st_size} {known.st_mtime_ns} {choice}"


def _open_sample(name: str, choice: Choice) -> Image:
    """Draw one of the sample images."""
    from seamscope.demo import SAMPLES, sample_image

    sample = name.removeprefix("demo:")
    if sample not in SAMPLES:
        known = ", ".join(f"demo:{each}" for each in SAMPLES)
        raise ImageError(f"There is no sample image {name}: choose one of {known}.")
    pixels, about = sample_image(sample)[0], SAMPLES[sample]
    units = tuple("nanometer" if about.scale and a in "zyx" else "" for a in about.axes)
    channels = tuple(map(Channel, about.channels))
    stored = Stored(
        pixels, sample, axes=about.axes, scale=about.scale, units=units, channels=channels
    )
    return replace(_checked(stored, choice), opener=name)


def _check_nodata(nodata: float, dtype: np.dtype[Any], name: str) -> None:
    """Refuse a value that no pixel can have."""
    if dtype.kind not in "iu":
        return
    held = np.iinfo(dtype)
    if not (held.min <= nodata <= held.max and float(nodata).is_integer()):
        raise SettingsError(
            f"nodata {nodata:g}: no pixel of {name} is that, since {dtype} holds whole numbers "
            f"from {held.min} to {held.max}. Choose one of these, or leave it out."
        )


def _checked(found: Stored, choice: Choice) -> Image:
    """Check what every kind of image must fulfil, and fill in what is not known."""
    data, notes = found.data, found.notes
    _check_pixels(data, str(found.source or found.name))
    if choice.level and not found.offer.levels:
        raise SettingsError(
            f"level {choice.level}: {found.name} has 1 resolution(s). Choose level 0."
        )
    nodata = found.offer.nodata if choice.nodata is None else choice.nodata
    if choice.nodata is not None:
        _check_nodata(choice.nodata, np.dtype(data.dtype), found.name)
    missing = nodata is not None and not choice.indices
    if nodata is not None and choice.indices:
        data = Replaced(data, nodata)
        notes = (*notes, f"Pixels of {found.name} with label {nodata:g} have no data: they are 0.")
    elif nodata is not None:
        data = WithoutData(data, nodata)
        notes = (*notes, f"Pixels of {found.name} with intensity {nodata:g} are without data.")
    ndim = len(data.shape)
    axes = "yx" if found.axes is None and ndim == 2 else found.axes
    sizes = found.scale if found.scale is not None and len(found.scale) == ndim else (1.0,) * ndim
    names = found.units if found.units is not None and len(found.units) == ndim else ("",) * ndim
    chunks = _chunk_shape(data)
    return Image(
        data,
        axes,
        tuple(float(s) if math.isfinite(s) and s > 0 else 1.0 for s in sizes),
        default_units(axes, [str(unit) for unit in names]),
        found.name,
        None if found.source is None else str(found.source),
        notes,
        _origin(found.origin, ndim),
        missing,
        found.colours,
        "",
        found.channels,
        {},
        None if chunks is None else _KeptBlock(chunks),
        watch_of(data, found.source, found.parts),
        tuple(map(str, found.parts)),
        found.offer,
        choice=choice,
    )


def _origin(found: Sequence[float] | None, ndim: int) -> tuple[float, ...]:
    if found is None or len(found) != ndim or not all(map(math.isfinite, found)):
        return (0.0,) * ndim
    return tuple(map(float, found))


def _check_pixels(data: Any, name: str) -> None:
    shape = tuple(data.shape)
    if len(shape) < 2:
        raise ImageError(
            f"{name} has {len(shape)} dimension(s); an image has at least two (y, x). "
            "Reshape it, for a 1D network to 1 x n with `axes` cx, or choose another array."
        )
    if 0 in shape:
        raise ImageError(
            f"{name} is empty: its size is {shape_text(shape)} pixels. Check how it was saved or "
            "cut."
        )
    dtype = np.dtype(data.dtype)
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise ImageError(
            f"{name} has pixels of type {dtype}; only integers, floats (up to 64 bits) and bool "
            "can be predicted on. Convert it, for example to float32, first."
        )
