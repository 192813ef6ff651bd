"""Where files may be written, and how a new one takes the place of an old one.

Knows names, folders, locks and disks that are full. Does not know what is inside files.

A result is written beside its place, and moved there when it is whole::

    out.tif              the old result, untouched until then
    out.tif.partial      the new one, while it is written, and after a run that was interrupted
    out.tif.partial.json its record, which says that it is unfinished
    .out.tif.ledger      marks of the blocks that are written (`seamscope.ledger`)
    .out.tif.record      the record of the whole one, for the moment between two renames
    .out.tif.next        the new one with another type of pixels, for the moment between two renames
    .out.tif.basins      arrays that are made for it on the way, as large as the result
    .out.tif.lock        held by the process that writes; it ends with that process
    .out.tif.room        bytes that are kept free for the record
    .out.tif.whole       a map that was made of the new one, for the moment between two renames
    .out.tif.replaced    an old folder, for the moment between two renames
    .out.tif.rubbish     a file or folder that is being deleted
    .seamscope-*         basins of a whole result, while the process reads them that it is named by

A process can be killed at any moment: the next one that writes to the same place finishes or
removes what it finds (`Claim`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import struct
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from seamscope.errors import OutputError

DAMAGED = (
    OSError, ValueError, LookupError, EOFError, NotImplementedError, struct.error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip
"""What reading a damaged file of arrays (npz) may raise."""

_ROOM = 256 * 2**10
"""Bytes that are kept free for the record of a result: a plan and its figures."""

_LONGEST = len(".") + len(".partial.json.partial")
"""Letters that names made from the name of a result have more than it."""


@dataclass(frozen=True)
class Place:
    """Something that is written.

    Attributes
    ----------
    path
        The file, or the zarr folder.
    option
        What named it, such as ``"--json"``; empty for a function's argument.
    result
        Whether it is a result: a file with a record beside it, or a zarr folder.
    member
        Whether it joins a zarr group that may be read, as labels join their image.
    """

    path: Path
    option: str = ""
    result: bool = False
    member: bool = False

    @property
    def partial(self) -> Path:
        """Name while it is written."""
        return self.path.with_name(self.path.name + ".partial")

    @property
    def record(self) -> Path:
        """Name of the record of a file."""
        return record_beside(self.path)

    @property
    def ledger(self) -> Path:
        """Folder of the marks of an unfinished result."""
        return self.hidden("ledger")

    @property
    def basins(self) -> Path:
        """Folder of arrays that are made on the way to an unfinished result."""
        return self.hidden("basins")

    def hidden(self, what: str) -> Path:
        """Return the name of a helper file."""
        return self.path.with_name(f".{self.path.name}.{what}")

    def __str__(self) -> str:
        return f"{self.option} {self.path}".strip()


def record_beside(path: Path) -> Path:
    """Return where the record of a file lies; the whole name is kept: out.json is the user's."""
    return path.with_name(path.name + ".json")


def final_record(path: Path) -> Path:
    """Return where a record waits to take its place beside a file."""
    return path.with_name(f".{path.name}.record")


def current_record(path: Path) -> Path:
    """Return where the record of a file is, also if a process was killed between two renames."""
    waiting, partial = final_record(path), Place(path).partial
    swapped = os.path.exists(waiting) and not os.path.exists(partial)
    return waiting if swapped else record_beside(path)


# -- what may be written


def check_places(
    places: Sequence[Place],
    inputs: Iterable[Path] = (),
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Check everything that will be written against everything that is read, and each other.

    Parameters
    ----------
    places
        All outputs.
    inputs
        All files and folders that are read. None is ever overwritten.
    overwrite
        Whether other files may be replaced.
    resume
        Whether an unfinished result may be there, to be resumed.

    Raises
    ------
    OutputError
        When a folder is missing or may not be written to, a name is too long or given twice, a
        file exists, or an input would be overwritten.
    """
    read = [path for path in inputs if os.path.lexists(path)]
    for number, place in enumerate(places):
        if is_device(place.path):
            continue
        _check_folder(place)
        for source in map(partial(lost, place), read):
            if source is not None:
                raise OutputError(
                    f"{place} would overwrite {source}, which is read: choose another name."
                )
        for other in places[:number]:
            if any(overlap(a, b) for a in _written(place) for b in _written(other)):
                raise OutputError(f"{place} would overwrite {other}: choose another name.")
    for place in places:
        if not is_device(place.path):
            _check_free(place, overwrite, resume)


def lost(place: Place, source: Path) -> Path | None:
    """Return what a place would overwrite of something that is read; None where nothing."""
    if place.member:  # beside the other members of its group
        within = Path(os.path.realpath(source))
        inside = any(within.is_relative_to(os.path.realpath(path)) for path in _written(place))
        return source if inside else None
    outer = _outermost(source)
    return outer if any(overlap(path, outer) for path in _written(place)) else None


def _written(place: Place) -> tuple[Path, ...]:
    if not place.result:
        return (place.path,)
    return place.path, place.record, place.partial, record_beside(place.partial)


def _check_folder(place: Place) -> None:
    path, folder = place.path, place.path.parent
    if place.member and not os.path.lexists(folder):
        folder = folder.parent  # the group of labels is made with the first of them
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise OutputError(f"{folder} is a file, so that it cannot hold {place}: choose a folder.")
    if not os.path.isdir(folder):
        raise OutputError(f"There is no folder {folder} for {place}: create it.")
    longest = _longest_name(folder) - (_LONGEST if place.result else len("..partial"))
    size = len(os.fsencode(path.name))
    if size > longest:
        shown = path.name if len(path.name) < 60 else f"{path.name[:57]}..."
        raise OutputError(
            f"The name {shown} has {size} bytes, and {longest} are the most that can be written "
            f"in {folder}: shorten it."
        )
    if os.path.isdir(path) and not (place.result and is_zarr_folder(path)):
        kind = "a folder that is not zarr" if place.result else "a folder"
        raise OutputError(f"{place} is {kind}: choose another name.")
    if not os.access(folder, os.W_OK | os.X_OK) or (
        os.path.exists(path) and not os.access(path, os.W_OK)
    ):
        raise OutputError(f"{place} may not be written: choose another place.")


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows
        return 255


def _check_free(place: Place, overwrite: bool, resume: bool) -> None:
    if place.result and os.path.isdir(place.partial) and not _removable(place.partial):
        raise OutputError(f"{place.partial} is a folder that is not zarr: choose another name.")
    if overwrite:
        return
    for path in (place.path, *((place.record,) if place.result else ())):
        if os.path.lexists(path):
            raise OutputError(
                f"{path} exists. Choose another name, or allow it to be replaced "
                "(`overwrite=True`)."
            )
    if place.result and not resume and os.path.lexists(place.partial):
        marks = os.listdir(place.ledger) if os.path.isdir(place.ledger) else []
        done = sum(name.isdecimal() for name in marks)
        kept = f", {done} blocks are done" if done else ""
        begun = os.path.isdir(place.ledger) or os.path.isdir(place.basins)
        resumed = f"Resume it{kept} (`resume=True`). " if begun else ""
        raise OutputError(
            f"{place.partial} exists: another run writes it, or was interrupted. {resumed}Choose "
            "another name, or allow it to be replaced (`overwrite=True`)."
        )


def _outermost(path: Path) -> Path:
    """Return the outermost zarr folder around a path: its metadata belongs to the image."""
    path = path.resolve()
    for parent in reversed(path.parents):
        if _has_zarr_metadata(parent):
            return parent
    return path


def overlap(a: Path, b: Path) -> bool:
    """Whether two paths are the same, by link too, or one lies inside the other."""
    a, b = Path(os.path.realpath(a)), Path(os.path.realpath(b))
    same = os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b)
    return same or a.is_relative_to(b) or b.is_relative_to(a)


def is_device(path: Path) -> bool:
    """Whether this is a device or a pipe, such as ``/dev/stdout``: nothing is overwritten there."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _has_zarr_metadata(path: Path) -> bool:
    return any(os.path.exists(path / name) for name in ("zarr.json", ".zarray", ".zgroup"))


def is_zarr_folder(path: Path) -> bool:
    """Only what is surely zarr, by its name or its group, may ever be replaced as a folder."""
    named = path.name.lower().endswith(".zarr") or _has_zarr_metadata(path.parent)
    return _has_zarr_metadata(path) and named


def member_place(path: Path, option: str = "") -> Place | None:
    """Return the place ``IMAGE.ome.zarr/labels/NAME`` of labels; None for all other paths."""
    if path.parent.name != "labels" or not _has_zarr_metadata(path.parent.parent):
        return None
    return Place(path, option, result=True, member=True)


def _removable(partial: Path) -> bool:
    """Whether a folder is surely an unfinished zarr; one that was just begun may lack metadata."""
    begun = all(name.startswith(("zarr.json", ".z")) for name in os.listdir(partial))
    return begun or _has_zarr_metadata(partial)


# -- writing


def write_file(path: Path, content: bytes, *, shared: bool = False, lasting: bool = True) -> None:
    """Write a file in one step: who reads it meanwhile, and who is killed, finds the old one whole.

    Parameters
    ----------
    path, content
        The file, and what is in it.
    shared
        Whether another process may write the same file at the same time: one of both stays, whole.
    lasting
        Whether it is on the disk when this returns, so that a power cut leaves the old file or the
        new one, and no empty one. That takes milliseconds: files of single blocks, which are
        checked when work is resumed, do without.

    Raises
    ------
    OSError
        When the disk refuses; the old file is as it was.
    """
    if is_device(path):
        path.write_bytes(content)
        return
    path = Path(os.path.realpath(path))  # a link stays a link
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.draft") if shared else _draft_of(path)
    try:
        draft.write_bytes(content)
        if lasting:
            _bring_to_disk(draft, os.O_RDWR)
        os.replace(draft, path)
        if lasting:
            with contextlib.suppress(OSError):  # Windows opens no folders
                _bring_to_disk(path.parent, os.O_RDONLY)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def _bring_to_disk(path: Path, flags: int) -> None:
    """Wait until what is in a file, or the names in a folder, would survive a power cut."""
    opened = os.open(path, flags)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # it knows no such thing
            raise
    finally:
        os.close(opened)


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


class Claim:
    """The right to write to one place, until it is released or the process ends.

    Making one finishes or removes what a process left there that was killed.

    Raises
    ------
    OutputError
        When another process writes to the same place.
    """

    def __init__(self, place: Place) -> None:
        import filelock  # takes longer to import than `--help` has

        self.place = place
        self._file = place.hidden("lock")
        self._lock = filelock.FileLock(self._file, blocking=False, thread_local=False)
        with disk_errors(place.path, "Nothing was written."):
            try:
                self._lock.acquire()
            except filelock.Timeout:
                if not os.path.lexists(self._file):  # where none can be made, it says "busy" too
                    self._file.touch()
                    self._file.unlink(missing_ok=True)
                raise OutputError(
                    f"{place} is being written by another process. Wait until that one ends, or "
                    "choose another name."
                ) from None
        try:
            self._settle()
        except BaseException:
            self.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Let other processes write."""
        if not self._lock.is_locked:
            return
        # held to the end: a process that opened the file before sees that it has no name any more
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
        self._lock.release()

    def renew(self) -> None:
        """Nothing: the system's lock ends with the process."""

    def reserve(self) -> None:
        """Keep some of the disk free until `free`."""
        with self.place.hidden("room").open("wb") as file:
            file.write(bytes(_ROOM))

    def free(self) -> None:
        """Free the reserved bytes."""
        self.place.hidden("room").unlink(missing_ok=True)

    def beside(self) -> Path:
        """Return where another beginning of the unfinished result may be made."""
        self._delete(self.place.hidden("next"))
        return self.place.hidden("next")

    def exchange(self) -> None:
        """Put what was made at `beside` in the place of the unfinished result."""
        self._delete(self.place.partial)
        os.rename(self.place.hidden("next"), self.place.partial)

    def swap(self, keep: Path | None = None, made: Path | None = None) -> None:
        """Move the new result to its place, and its basins to `keep` (see `kept_beside`).

        Where a file was `made` of it, that one is the result.
        """
        place, aside = self.place, self.place.hidden("replaced")
        if made is not None:
            os.replace(made, place.hidden("whole"))  # now it is whole, whatever is killed
        elif os.path.isdir(place.partial) and os.path.lexists(place.path):
            os.rename(place.path, aside)
            os.rename(place.partial, place.path)
        else:
            os.replace(place.partial, place.path)
        if keep is not None:  # after the result: until then they are needed to go on
            os.rename(place.basins, keep)
        self._settle()

    @property
    def final_record(self) -> Path:
        """Where the record of the whole result waits for `swap`, which moves both."""
        return final_record(self.place.path)

    def remove(self) -> None:
        """Delete the unfinished result."""
        self.free()
        self.final_record.unlink(missing_ok=True)
        record_beside(self.place.partial).unlink(missing_ok=True)
        self._delete(self.place.ledger)
        self._delete(self.place.basins)
        self._delete(self.place.partial)

    def _settle(self) -> None:
        """Finish or remove what a process left that was killed."""
        if not self.place.result:
            return
        place, aside = self.place, self.place.hidden("replaced")
        begun = place.hidden("next")
        _sweep(place.path.parent, ".")
        _draft_of(self.final_record).unlink(missing_ok=True)
        self._delete(None)
        if os.path.lexists(place.hidden("whole")):  # what it was made of is no longer needed
            if os.path.lexists(place.partial):
                os.rename(place.partial, place.hidden("rubbish"))
            os.replace(place.hidden("whole"), place.path)
        if os.path.lexists(begun) and os.path.lexists(place.ledger):
            if os.path.lexists(place.partial):
                self._delete(begun)  # perhaps half of it
            else:  # killed between two renames
                os.rename(begun, place.partial)
        if os.path.lexists(aside):  # killed between two renames
            if not os.path.lexists(place.path):
                there = place.partial if os.path.lexists(place.partial) else aside
                os.rename(there, place.path)
            self._delete(aside)
        if os.path.lexists(place.partial):  # killed before the first rename
            self.final_record.unlink(missing_ok=True)
        else:
            if os.path.lexists(self.final_record) and os.path.lexists(place.path):
                os.replace(self.final_record, place.record)
            record_beside(place.partial).unlink(missing_ok=True)
            self._delete(None)
            self._delete(place.ledger)
            self._delete(place.basins)

    def _delete(self, path: Path | None) -> None:
        """Delete a file or folder: out of sight first, so that no half of it is ever seen."""
        rubbish = self.place.hidden("rubbish")
        if os.path.lexists(rubbish):
            _delete_now(rubbish)
        if path is not None and os.path.lexists(path):
            os.rename(path, rubbish)
            _delete_now(rubbish)


def _delete_now(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def size_on_disk(path: Path) -> int:
    """Return how many bytes a file or folder has, 0 where there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


# -- disks that are full


def is_full(error: BaseException) -> bool:
    """Return whether a disk or a quota is full."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, OSError) and error.errno in full


@contextlib.contextmanager
def disk_errors(path: str | Path | None, left: str) -> Iterator[None]:
    """Turn errors of the disk into `OutputError`; `left` says what they leave behind."""
    try:
        yield
    except InterruptedError:  # a kind of OSError, and here the user's wish
        raise
    except OSError as error:
        if is_full(error):
            raise OutputError(
                f"The disk that holds {path} is full. Free some space or choose another place. "
                + left
            ) from error
        why = error.strerror or str(error) or type(error).__name__
        raise OutputError(
            f"{path} cannot be written ({why}). Check that its folder is there and may be "
            f"written to. {left}"
        ) from error


# -- temporary folders


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder for as long as it is used; folders of processes that were killed are removed.

    Yields
    ------
    Path
        An empty folder in the directory of temporary files.
    """
    with tempfile.TemporaryDirectory(prefix=_prefix(os.getpid())) as folder:
        _sweep(None)
        yield Path(folder)


def lasting_folder(within: str | Path | None = None) -> Path:
    """Make a temporary folder that its user removes; those of processes that were killed go.

    Parameters
    ----------
    within
        Where it is made; by default the directory of temporary files.
    """
    _sweep(within)
    return Path(tempfile.mkdtemp(prefix=_prefix(os.getpid()), dir=within))


def kept_beside(path: Path) -> Path:
    """Return a new name beside a result for what this process reads, and removes at its end.

    Where it is killed, the next `Claim` there removes it.
    """
    return path.with_name(f".{_prefix(os.getpid())}{uuid.uuid4().hex}")


def _prefix(process: int) -> str:
    return f"seamscope-{socket.gethostname()}-{process}-"


def _sweep(within: str | Path | None, hidden: str = "") -> None:
    import psutil  # as filelock

    here = hidden + _prefix(0).removesuffix("0-")
    with contextlib.suppress(OSError):  # who cannot look cannot tidy
        for folder in os.scandir(within or tempfile.gettempdir()):
            process = folder.name.removeprefix(here).partition("-")[0]
            ours = folder.name.startswith(here) and process.isdecimal()
            if ours and not psutil.pid_exists(int(process)):
                shutil.rmtree(folder.path, ignore_errors=True)  # those of other users stay


__all__ = [
    "Claim",
    "Place",
    "check_places",
    "current_record",
    "disk_errors",
    "final_record",
    "is_device",
    "is_full",
    "is_zarr_folder",
    "kept_beside",
    "lasting_folder",
    "member_place",
    "overlap",
    "record_beside",
    "size_on_disk",
    "temporary_folder",
    "write_file",
]
