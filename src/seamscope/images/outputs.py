"""What is written: results of any size, block by block, in memory or on disk.

Knows kinds of files and what each of them can hold, room on disk, what may be overwritten, and how
writing fails. Does not know networks, tiles or what the numbers mean.

::

    create_output(path, ...)        checked, and its room on disk reserved
        output.write(region, block) the only place where pixels leave the program
        output.finish(record)       until then the result says that it is not finished
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import psutil

from seamscope.errors import OutputError
from seamscope.images.dimensions import bounds, checked_axes, times, told_region, unit_symbol, why
from seamscope.images.records import plain, sidecar, write_sidecar
from seamscope.images.stored import file_of

if TYPE_CHECKING:
    from seamscope.images.image import Image


def _amount(size: float) -> str:
    """Write a number of bytes for people."""
    if size < 1000:
        return f"{size:.0f} bytes"
    power = min(4, int(math.log(size, 1000)))
    return f"{size / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


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
        self._file = path
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
        with self._lock, self._telling():
            self.array[index] = block

    def finish(self, metadata: Mapping[str, Any] | None = None) -> None:
        """Complete the result and store what is to be known about it.

        Parameters
        ----------
        metadata
            Added to the record: plan, model, figures; anything that can be written as JSON.
        """
        fixed = {name: self.record[name] for name in ("axes", "scale", "units")}
        told = plain(metadata or {})
        unfinished = self.record
        self.record = {**unfinished, **told, **fixed, "finished": True}
        try:
            with self._lock, self._telling():
                self._flush()
                self._save_record()
        except OutputError:
            self.record = unfinished
            raise
        self._open = False

    def close(self) -> None:
        """Keep what is written so far, as unfinished; does nothing after `finish`."""
        if self._open:
            self._open = False
            with self._lock, self._telling():
                self._flush()

    def discard(self) -> None:
        """Remove everything that was written."""
        self._open = False
        with self._lock, self._telling():
            if self._file is not None:
                _remove(self._file)

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
        region = bounds(index, self.array.shape)
        size = None if region is None else tuple(b - a for a, b in region)
        if size != block.shape:
            raise OutputError(
                f"A block of {times(block.shape)} does not fit [{told_region(index)}] of a result "
                f"of {times(self.array.shape)}: give exactly one value for each pixel."
            )
        if not np.can_cast(block.dtype, self.array.dtype, "same_kind"):
            raise OutputError(
                f"Values of type {block.dtype} do not fit a result of type {self.array.dtype}: "
                "convert them, or create the result with their type."
            )

    def _telling(self) -> contextlib.AbstractContextManager[None]:
        return _telling(self.path, "What was written so far is kept and marked as unfinished.")

    def _flush(self) -> None:
        """Bring everything to where it lasts."""

    def _save_record(self) -> None:
        """Store `record` with the pixels, of files beside them."""
        if self._file is not None:
            write_sidecar(self._file, self.record)


class _ZarrOutput(Output):
    """The record is among the attributes of the array, or of its OME-Zarr group."""

    def __init__(self, array: Any, node: Any, path: Path, record: dict[str, Any]) -> None:
        super().__init__(array, path, record)
        self._node = node
        self._save_record()

    def _save_record(self) -> None:
        self._node.attrs["seamscope"] = self.record


class _MappedOutput(Output):
    """A file mapped into memory, its record beside it."""

    def __init__(self, array: Any, mapped: np.memmap, path: Path, record: dict[str, Any]) -> None:
        super().__init__(array, path, record)
        self._mapped = mapped
        self._save_record()

    def _flush(self) -> None:
        self._mapped.flush()


class _PngOutput(Output):
    """Labels kept in memory until the end, since a PNG can only be written as a whole."""

    def __init__(self, array: Any, path: Path, record: dict[str, Any]) -> None:
        super().__init__(array, path, record)
        self._png = path

    def _telling(self) -> contextlib.AbstractContextManager[None]:
        return _telling(self.path, "Nothing was written.")

    def _flush(self) -> None:
        import imagecodecs

        encoded = imagecodecs.png_encode(self.array)
        try:
            self._png.write_bytes(encoded)
            self._save_record()
        except OSError:
            _remove(self._png)
            raise


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
    axes = checked_axes(axes, shape)
    wanted = _Wanted(
        tuple(int(n) for n in shape),
        np.dtype(dtype),
        axes,
        tuple(float(s) for s in scale),
        tuple(units),
        _chunks(chunks, shape, axes),
        name,
        plain(metadata or {}),
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
    with _telling(path, "Nothing was written."):
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
    array = target
    # dask computes instead of storing; torch does not take numpy's blocks
    lasting = not hasattr(array, "dask") and not hasattr(array, "detach")
    writable = lasting and hasattr(array, "__setitem__")
    if not writable or (isinstance(array, np.ndarray) and not array.flags.writeable):
        raise OutputError(
            f"A {type(target).__name__} cannot be written into here: give a writable numpy or "
            "zarr array, or a path."
        )
    if tuple(array.shape) != wanted.shape:
        raise OutputError(
            f"The array to be filled is {times(array.shape)}, the result {times(wanted.shape)} "
            f"({wanted.axes}): create it with that shape."
        )
    if not np.can_cast(wanted.dtype, array.dtype, "safe"):
        raise OutputError(
            f"The array to be filled is {array.dtype}, which cannot hold {wanted.dtype}: "
            "create it with that type."
        )
    if source is not None and _same_pixels(array, source):
        raise OutputError(
            "The array to be filled is the image itself, whose pixels are still to be read: "
            "give another one."
        )
    return Output(array, None, wanted.record)


def _same_pixels(array: Any, source: Image) -> bool:
    both_numpy = isinstance(array, np.ndarray) and isinstance(source.data, np.ndarray)
    if array is source.data or (both_numpy and np.may_share_memory(array, source.data)):
        return True
    file = file_of(array)
    return file is not None and any(_overlap(file, read) for read in _files_of(source))


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
    if not path.exists() and not sidecar(path).exists():
        return
    if path.is_dir() and not _replaceable(path):
        raise OutputError(f"{path} is a folder that is not zarr: choose another name.")
    if not overwrite:
        there = path if path.exists() else sidecar(path)
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
    return [Path(name) for name in (source.source, file_of(source.data)) if name]


def _overlap(a: Path, b: Path) -> bool:
    """Whether two paths are the same, or one lies inside the other."""
    a, b = a.resolve(), b.resolve()
    same = a.exists() and b.exists() and a.samefile(b)
    return same or a.is_relative_to(b) or b.is_relative_to(a)


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free and needed > free + _size_on_disk(path):
        raise OutputError(
            f"{path.name} needs {_amount(needed)} ({needed} bytes), but its disk has only "
            f"{_amount(free)} ({free} bytes) free. Free some space, choose another place, or write "
            "labels instead of probabilities."
        )


def _size_on_disk(path: Path) -> int:
    """Return how many bytes replacing a result would free."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _remove(path: Path) -> None:
    """Delete a result with its record; of folders, only zarr (see `_replaceable`)."""
    if path.is_dir():
        if _replaceable(path) or not any(path.iterdir()):
            shutil.rmtree(path)
        return
    path.unlink(missing_ok=True)
    sidecar(path).unlink(missing_ok=True)


@contextlib.contextmanager
def _telling(path: str | Path | None, left: str) -> Iterator[None]:
    """Turn errors of the disk into a sentence; `left` says what they leave behind."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"The disk that holds {path} is full. Free some space or choose another place. "
                + left
            ) from error
        raise OutputError(
            f"{path} cannot be written ({why(error)}). Check that its folder is there and may be "
            f"written to. {left}"
        ) from error


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
    units = {a: unit_symbol(u) for a, u in zip(wanted.axes, wanted.units, strict=True)}
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
            told |= {key: size, f"{key}Unit": unit_symbol(unit) or "s"}
    if names := [name for name, _ in _channels(wanted)]:
        told["Channel"] = {"Name": names}
    return {"ome": True, "metadata": told}


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
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise  # those two: the file system cannot promise


def _png_refusal(wanted: _Wanted) -> str | None:
    if wanted.axes == "yx" and str(wanted.dtype) in ("uint8", "uint16"):
        return None
    return (
        f"PNG is for labels, 'yx' of uint8 or uint16, not {wanted.axes!r} of {wanted.dtype}. "
        "Use .tif, .npy or .zarr."
    )


def _create_png(path: Path, wanted: _Wanted) -> Output:
    path.touch()  # whether it may be written is better known now than at the end
    path.unlink()
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
