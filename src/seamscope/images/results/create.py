"""Results of any size, begun or resumed in memory, on disk or in an object store.

Knows what may be replaced, and what a result needs before its first pixel. Does not know kinds of
files (see `seamscope.images.results.formats`), networks, tiles or what the numbers mean.

::

    create_output(path, ...)        checked, and its room on disk reserved
        output.write(region, block) the only place where pixels leave the program
        output.finish(record)       until then the result says that it is not finished
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from seamscope.errors import ImageError, OutputError
from seamscope.files import (
    Claim,
    Place,
    check_places,
    disk_errors,
    lost,
    member_place,
    overlap,
    size_on_disk,
)
from seamscope.images.addresses import Address, is_address
from seamscope.images.dimensions import checked_axes, why
from seamscope.images.ngff import OmeZarr
from seamscope.images.results.format import Format, Store, Wanted
from seamscope.images.results.formats import format_of
from seamscope.images.results.output import Output, Part
from seamscope.images.results.zarr_arrays import (
    OME_ZARR,
    ZARR,
    begin_labels,
    check_image_of,
    levels_in,
)
from seamscope.images.stored import file_of, files_behind
from seamscope.ledger import Ledger, count_marks
from seamscope.serialization import plain
from seamscope.text import bytes_text, shape_text

if TYPE_CHECKING:
    from seamscope.images.image import Image
    from seamscope.images.results.object_store import RemoteClaim


@dataclass(frozen=True)
class _Request:
    """The request of `create_output`, without the place."""

    wanted: Wanted
    source: Image | None
    overwrite: bool
    resume: bool
    task: Mapping[str, Any] | None

    def check_places(self, place: Place) -> None:
        check_places([place], files_of(self.source), self.overwrite, self.resume)


def create_output(
    target: Any,
    shape: Sequence[int],
    dtype: Any,
    *,
    axes: str,
    scale: Sequence[float],
    units: Sequence[str],
    origin: Sequence[float] | None = None,
    chunks: Sequence[int] | None = None,
    overwrite: bool = False,
    name: str = "prediction",
    metadata: Mapping[str, Any] | None = None,
    source: Image | None = None,
    task: Mapping[str, Any] | None = None,
    resume: bool = False,
    labels: bool = False,
    ome: OmeZarr = OmeZarr(),  # noqa: B008  (frozen)
) -> Output:
    """Create what a result is written into, after checking that it can be.

    Parameters
    ----------
    target
        None for an array in memory; an array (numpy, zarr ...) to be filled; or a path, whose
        ending says what to write:

        ========================  =============================================================
        ``.ome.zarr``             OME-Zarr with all resolutions; axes in the order ``tczyx``
        ``IMAGE/labels/NAME``     labels inside an OME-Zarr image, in the image's version
        ``.zarr``                 zarr 3 array with named dimensions
        ``.ome.tif``, ``.tif``    OME-TIFF; for ``.tif`` ImageJ's kind where type (uint8, uint16,
                                  float32) and size (4 GB) allow; axes in the order ``tzcyx``
        ``.tif`` of a map         GeoTIFF, ``.cog.tif``: cloud-optimized (`images.results.maps`)
        ``.npy``                  numpy
        ``.png``                  labels only: ``yx``, uint8 or uint16
        ========================  =============================================================

        TIFF, npy and PNG have their record in a file beside them: ``NAME.tif.json``. Zarr may be
        written to ``s3://`` and ``gs://`` (`seamscope.images.remote`). A `seamscope.files.Place`
        inside a zarr group gets OME-Zarr, as fields of a plate do.
    shape, dtype
        Of the result.
    axes, scale, units, origin
        As in `Image`, one for each dimension. Where `origin` is None, it is 0.
    chunks
        Of zarr: every writer must write whole chunks. None for at most 512 pixels a side.
    overwrite
        Whether an existing result may be replaced. Never the image that is read.
    name
        What the image is called inside OME metadata.
    metadata
        Beginning of the record. ``metadata["channels"]`` (names, or mappings with ``name`` and
        ``color``, six hexadecimal digits) also goes into OME metadata, as do ``"classes"`` of
        labels (mappings with ``value``, ``name`` and ``color``).
    source
        The image that is read, so that it is not overwritten.
    task
        What is done, for the ledger of a file (`seamscope.ledger`), so that it can be resumed.
    resume
        Whether to continue the unfinished result of the same task, where there is one.
    labels
        Whether the pixels are labels. Lower resolutions of labels have the most frequent label,
        those of values the mean (`seamscope.images.results.pyramid.coarsened`).
    ome
        Version of OME-Zarr, and whether lower resolutions are written. They grow with the result.

    Raises
    ------
    OutputError
        When the target exists, is the image itself, cannot hold such a result, or has no room; or
        a pixel size is 0 or not finite. A negative one, of a flipped layer, is written as a length.
    SettingsError
        When `axes` does not fit `shape`.
    """
    axes = checked_axes(axes, shape)
    wanted = Wanted(
        tuple(int(n) for n in shape),
        np.dtype(dtype),
        axes,
        _lengths(scale),
        tuple(units),
        _chunks(chunks, shape, axes),
        name,
        plain(metadata or {}),
        tuple(float(o) for o in origin or (0.0,) * len(axes)),
        labels,
        ome,
    )
    if target is None:
        return _in_memory(wanted)
    request = _Request(wanted, source, overwrite, resume, task)
    if is_address(target):
        return _create_remote(_address(target), request)
    if isinstance(target, Place):
        return _create_file(target, OME_ZARR, request)
    if isinstance(target, str | os.PathLike):
        path = Path(target).expanduser()
        from seamscope.images.results.maps import format_for

        kind, notes = format_for(path, wanted, source)
        output = _create_file(_place(path), kind, request)
        output.notes = notes
        return output
    return _into_array(target, wanted, source)


def check_target(
    target: Any,
    *,
    overwrite: bool = False,
    source: Image | None = None,
    labels: bool = False,
    resume: bool = False,
) -> None:
    """Check what can be known of a target before there is a result for it.

    Parameters
    ----------
    target, overwrite, source, resume
        As for `create_output`.
    labels
        Whether the result will be labels.

    Raises
    ------
    OutputError
        When `create_output` would refuse it whatever the result.
    """
    if is_address(target):
        _check_remote(_address(target), source, overwrite, resume)
        return
    if not isinstance(target, str | os.PathLike):
        return
    path = Path(target).expanduser()
    if format_of(path).labels_only and not labels:
        raise OutputError(
            f"{path.name} cannot hold probabilities: PNG is for labels. Use .tif or .zarr, or "
            "request labels (`result='labels'`)."
        )
    place = _place(path)
    check_places([place], files_of(source), overwrite, resume)
    if _is_label(place):
        check_image_of(place)


def would_overwrite(target: str | os.PathLike[str], source: str | os.PathLike[str]) -> bool:
    """Return whether a result at a path would replace a file that is read, or a part of it."""
    if is_address(target):
        return False
    return lost(_place(Path(target).expanduser()), Path(source)) is not None


def unfinished(target: Any) -> Ledger | None:
    """Return the ledger of an unfinished result, None where there is none to resume.

    Parameters
    ----------
    target
        As for `create_output`.

    Raises
    ------
    OutputError
        When the ledger is damaged.
    """
    if is_address(target):
        from seamscope.images.results.object_store import RemotePlace, remote_ledger

        return remote_ledger(RemotePlace(_address(target)))
    if isinstance(target, Place):
        return _ledger_of(target)
    if not isinstance(target, str | os.PathLike):
        return None
    path = Path(target).expanduser()
    return None if format_of(path).resume is None else _ledger_of(_place(path))


def count_unfinished(path: Path) -> tuple[dict[str, Any], int] | None:
    """Return what an unfinished file is and how many of its blocks are done; None without one.

    Raises
    ------
    OutputError
        When the ledger is damaged.
    """
    place = _place(path)
    return count_marks(place.ledger) if _is_begun(place) else None


def open_part(
    unfinished: str | os.PathLike[str], final: str, shape: Sequence[int], dtype: Any, axes: str
) -> Part:
    """Open an unfinished result, so that several processes write whole chunks of it.

    Parameters
    ----------
    unfinished
        Where it is.
    final
        Name that it will have, whose ending says what it is.
    shape, dtype, axes
        As it was created.

    Raises
    ------
    OutputError
        When it cannot be opened, or is not zarr.
    """
    path, kind = Path(unfinished), format_of(Path(final))
    wanted = _bare(shape, dtype, axes, shape)
    part = ZARR.part if path.is_dir() and kind.part is None else kind.part  # of a map
    if part is None:
        raise OutputError(
            f"{final} cannot be written by several processes. Use .zarr or .ome.zarr."
        )
    try:
        return Part(path, part(path, wanted))
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(
            f"{path} cannot be opened ({why(error)}). It must be on a disk that all workers see "
            "under the same name."
        ) from error


def create_part(
    path: Path, shape: Sequence[int], dtype: Any, axes: str, chunks: Sequence[int]
) -> None:
    """Create a zarr array that several processes write, for a file that only one could write.

    Raises
    ------
    OutputError
        When the disk refuses.
    """
    with disk_errors(path, "Nothing was written."):
        format_of(path).create(path, _bare(shape, dtype, axes, chunks))


def _bare(shape: Sequence[int], dtype: Any, axes: str, chunks: Sequence[int]) -> Wanted:
    """Describe an array without metadata."""
    ndim = len(axes)
    return Wanted(
        tuple(shape), np.dtype(dtype), axes, (1.0,) * ndim, ("",) * ndim, tuple(chunks), "", {},
        (0.0,) * ndim,
    )  # fmt: skip


def _place(path: Path) -> Place:
    """Return the place of a result; a link stays a link, and its target is replaced."""
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    return member_place(place) or Place(place, result=True)


def _create_file(place: Place, kind: Format, request: _Request) -> Output:
    path, wanted = place.path, request.wanted
    reason = kind.refusal(wanted)
    if reason:
        raise OutputError(f"{path.name} cannot hold this result: {reason}")
    request.check_places(place)
    if _is_label(place):
        check_image_of(place)
        wanted = _label_in(path.parent.parent, wanted)
    with disk_errors(path, "Nothing was written."):
        claim = Claim(place)
        try:
            # again, since a result may have been found that a killed process had moved aside
            request.check_places(place)
            there = request.resume and place.partial.exists() and place.ledger.exists()
            if there and kind.resume is not None:
                return _resumed(claim, Ledger(place.ledger), kind, wanted, request.task)
            _check_room(place, kind.room(wanted), wanted.labels)
            claim.remove()
            return _begun(claim, kind, wanted, request.task)
        except BaseException:
            claim.release()
            raise


def _is_label(place: Place) -> bool:
    return place.member and place.path.parent.name == "labels"


def _label_in(image: Path | Address, wanted: Wanted) -> Wanted:
    if not wanted.labels:
        raise OutputError(
            f"{image / 'labels'} holds images of labels, and the result is none: request labels "
            "(`result='labels'`), or write to a file of its own (.ome.zarr)."
        )
    ome = replace(wanted.ome, version=begin_labels(image))
    return replace(wanted, ome=ome, image="../../", levels=levels_in(image))


def _lengths(scale: Sequence[float]) -> tuple[float, ...]:
    """Return sizes of pixels as lengths: programs that read a result do not take negative ones."""
    sizes = tuple(abs(float(size)) for size in scale)
    if not all(0 < size < math.inf for size in sizes):
        raise OutputError(
            f"A pixel size of {', '.join(map(str, scale))} cannot be written: let each be a number "
            "other than 0."
        )
    return sizes


def _chunks(chunks: Sequence[int] | None, shape: Sequence[int], axes: str) -> tuple[int, ...]:
    if chunks is not None:
        return tuple(min(int(c), int(n)) for c, n in zip(chunks, shape, strict=True))
    flat = "z" not in axes
    # about 1 MB of float32 for each channel: quick to decode, few files
    usual = {"t": 1, "z": 32, "y": 512 if flat else 128, "x": 512 if flat else 128}
    return tuple(min(usual.get(a, n), n) for a, n in zip(axes, map(int, shape), strict=True))


@dataclass(frozen=True)
class Room:
    """Space on a disk for one result.

    Attributes
    ----------
    path
        Of the result.
    needed
        Bytes that it takes, all resolutions, uncompressed.
    free
        Bytes that are free; where too few are, also those of an unfinished result of that name,
        which the result replaces or goes on with.
    labels
        Whether the result is labels.
    size_of
        Returns how many bytes a file or folder has.
    """

    path: Path
    needed: int
    free: int
    labels: bool = False
    size_of: Callable[[Path], int] = size_on_disk

    @property
    def problem(self) -> str:
        """Why the result has no room; empty where it has."""
        if self.needed <= self.free:
            return ""
        older = self.size_of(self.path)
        remedy = "Free some space, choose another place, or write labels instead of probabilities."
        if self.labels:
            remedy = "Free some space, or choose another place."
        if older:
            remedy = (
                f"The older result takes {bytes_text(older)} and stays until the new one is whole: "
                "delete it, or choose another place."
            )
        return (
            f"{self.path.name} needs {bytes_text(self.needed)} ({self.needed} bytes), but its disk "
            f"has only {bytes_text(self.free)} ({self.free} bytes) free. {remedy}"
        )


def room_for(
    target: str | os.PathLike[str],
    shape: Sequence[int],
    dtype: Any,
    axes: str,
    chunks: Sequence[int],
    size_of: Callable[[Path], int] = size_on_disk,
    source: Image | None = None,
) -> Room | None:
    """Return the space that a result would take at a path, and what is free there.

    Parameters
    ----------
    target, shape, dtype, axes, chunks, source
        As for `create_output`.
    size_of
        Returns how many bytes a file or folder has. A folder of many chunks takes seconds.

    Returns
    -------
    Room
        None for object stores, and where the folder does not exist.

    Raises
    ------
    OutputError
        Where the kind of file cannot be written here.
    """
    from seamscope.images.results.maps import format_for

    if is_address(target):
        return None
    place = _place(Path(target).expanduser())
    if not place.path.parent.is_dir():
        return None
    wanted = _bare(shape, dtype, axes, chunks)
    kind, _ = format_for(place.path, wanted, source)
    return _room(place, kind.room(wanted), np.dtype(dtype).kind in "iu", size_of)


def _room(
    place: Place, needed: int, labels: bool, size_of: Callable[[Path], int] = size_on_disk
) -> Room:
    free = shutil.disk_usage(place.path.parent).free
    if free < needed:  # else the files need not be counted
        free += size_of(place.partial)
    return Room(place.path, needed, free, labels, size_of)


def _check_room(place: Place, needed: int, labels: bool) -> None:
    problem = _room(place, needed, labels).problem
    if problem:
        raise OutputError(problem)


def _address(target: str) -> Address:
    try:
        return Address.parse(target)
    except ImageError as error:
        raise OutputError(str(error)) from None


def _create_remote(address: Address, request: _Request) -> Output:
    """As `_create_file`, in an object store."""
    from seamscope.images.results.object_store import RemoteClaim, RemotePlace, remote_ledger

    wanted, place = request.wanted, RemotePlace(address)
    _check_remote(address, request.source, request.overwrite, request.resume)
    kind = OME_ZARR if place.member else format_of(Path(address.name))
    reason = kind.refusal(wanted)
    if reason:
        raise OutputError(f"{address} cannot hold this result: {reason}")
    if place.member:
        wanted = _label_in(address.parent.parent, wanted)
    claim = RemoteClaim(place)
    try:
        # again, since another process may have finished between the check and the claim
        _check_remote(address, request.source, request.overwrite, request.resume)
        ledger = remote_ledger(claim.place) if request.resume else None
        if ledger is not None and kind.resume is not None:
            return _resumed(claim, ledger, kind, wanted, request.task)
        claim.remove()
        claim.confirm()  # an older result of many objects may have taken long
        return _begun(claim, kind, wanted, request.task)
    except BaseException:
        claim.release()
        raise


def _check_remote(address: Address, source: Image | None, overwrite: bool, resume: bool) -> None:
    from seamscope.images.results.object_store import RemotePlace, check_remote

    read, place = None if source is None else source.source, RemotePlace(address)
    check_remote(place, read, overwrite=overwrite, resume=resume)
    if place.member:
        check_image_of(place)


def _ledger_of(place: Place) -> Ledger | None:
    return Ledger(place.ledger) if _is_begun(place) else None


def _is_begun(place: Place) -> bool:
    begun = place.partial.exists() or place.hidden("next").exists()
    return begun and place.ledger.exists()


def _resumed(
    claim: Claim | RemoteClaim,
    ledger: Ledger,
    kind: Format,
    wanted: Wanted,
    task: Mapping[str, Any] | None,
) -> Output:
    place = claim.place
    assert kind.resume is not None
    ledger.check(task or {}, str(place.path))
    try:
        store = kind.resume(place.partial, wanted)
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(
            f"{place.partial} cannot be resumed ({why(error)}). Begin again (overwrite)."
        ) from error
    claim.reserve()
    return Output(store, claim, wanted.record, ledger, (kind, wanted))


def _begun(
    claim: Claim | RemoteClaim, kind: Format, wanted: Wanted, task: Mapping[str, Any] | None
) -> Output:
    try:
        claim.reserve()
        store = kind.create(claim.place.partial, wanted)
        store.save(wanted.record)
    except BaseException:
        claim.remove()
        raise
    ledger = None
    if task is not None and kind.resume is not None:
        ledger = _new_ledger(claim, task)
    return Output(store, claim, wanted.record, ledger, (kind, wanted))


def _new_ledger(claim: Claim | RemoteClaim, task: Mapping[str, Any]) -> Ledger:
    if isinstance(claim, Claim):
        return Ledger.begin(claim.place.ledger, task)
    from seamscope.images.results.object_store import RemoteLedger

    return RemoteLedger.start(claim.place.ledger, task)


def _in_memory(wanted: Wanted) -> Output:
    free = psutil.virtual_memory().available
    if wanted.nbytes > free:
        raise OutputError(
            f"The result takes {bytes_text(wanted.nbytes)} of memory, {bytes_text(free)} are free: "
            "write it to a file (.ome.zarr, .zarr, .tif, .npy), or predict a smaller area."
        )
    return Output(Store(np.zeros(wanted.shape, wanted.dtype)), None, wanted.record)


def _into_array(target: Any, wanted: Wanted, source: Image | None) -> Output:
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
            f"The array to be filled is {shape_text(array.shape)}, the result "
            f"{shape_text(wanted.shape)} ({wanted.axes}): create it with that shape."
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
    return Output(Store(array), None, wanted.record)


def _same_pixels(array: Any, source: Image) -> bool:
    both_numpy = isinstance(array, np.ndarray) and isinstance(source.data, np.ndarray)
    if array is source.data or (both_numpy and np.may_share_memory(array, source.data)):
        return True
    file = file_of(array)
    return file is not None and any(overlap(file, read) for read in files_of(source))


def files_of(source: Image | None) -> list[Path]:
    """Return the files and folders that an image is read from."""
    if source is None:
        return []
    names = (source.source, *files_behind(source.data), *source.parts)
    return [Path(name) for name in names if name and not is_address(name)]
