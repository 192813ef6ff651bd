"""Images on disk that disappear or change while they are read.

Knows how that is noticed. Does not know what is read.

A file that is cut short under a memory map ends the process, and zarr takes a chunk that is gone
for one that was never written: both are found by looking at the file or folder again, before and
after each read. A chunk that was absent from the beginning is no fault: it is read as the array's
fill value, and counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from seamscope.errors import ImageError
from seamscope.images.addresses import Address
from seamscope.images.dimensions import bounds
from seamscope.images.stored import file_of
from seamscope.images.views import View

_Seen = tuple[int, int, int]


class Watch(Protocol):
    """Notices that an image is no longer what it was when it was opened."""

    def check(self) -> None:
        """Raise `ImageError` if the image has disappeared or changed."""


def _seen(path: Path) -> _Seen | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


class WatchedFile:
    """A file that must stay as it is.

    Parameters
    ----------
    path
        The file.
    shown
        What to call it in a message, if not by its path.
    """

    def __init__(self, path: Path, shown: Path | None = None) -> None:
        self._path, self._shown = path, shown or path
        self._before = _seen(path)

    def check(self) -> None:
        """Raise `ImageError` if the file has disappeared or changed."""
        now = _seen(self._path)
        if now == self._before:
            return
        if now is None:
            raise disappeared(self._shown)
        before = self._before or (0, 0, 0)
        what = f"from {before[0]} to {now[0]} bytes" if before[0] != now[0] else "in its content"
        raise ImageError(
            f"{self._shown} changed {what} while it was read, so that pixels before and after may "
            "not belong together. Run again when no other program writes to it."
        )


class WatchedFiles:
    """Files that must all stay as they are.

    Parameters
    ----------
    paths
        The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [WatchedFile(path) for path in paths]

    def check(self) -> None:
        """Raise `ImageError` if one of the files has disappeared or changed."""
        for file in self._files:
            file.check()


def disappeared(what: Path) -> ImageError:
    """Return the error for an image that is gone."""
    return ImageError(
        f"{what} disappeared while it was read. Check that its disk is connected and that nothing "
        "moved or deleted it. Then run again."
    )


_UNKNOWN, _PRESENT, _ABSENT = 0, 1, 2


class WatchedZarr(View):
    """A zarr array in a folder, whose metadata and chunks must stay.

    Parameters
    ----------
    array
        The array.
    folder
        Where it is stored.
    """

    def __init__(self, array: Any, folder: Path) -> None:
        super().__init__(array, array.shape, array.dtype)
        self.store, self.path, self.attrs = array.store, array.path, array.attrs
        self.metadata = array.metadata
        self._folder = folder
        names = ("zarr.json", ".zarray")
        file = next((folder / name for name in names if (folder / name).exists()), folder)
        self._file = WatchedFile(file, folder)
        self._unit = tuple(getattr(array, "shards", None) or array.chunks)
        grid = [-(-n // unit) for n, unit in zip(self.shape, self._unit, strict=True)]
        self._states = np.zeros(grid, np.uint8)
        self._folders: dict[Path, _Seen | None] = {}
        for each in (folder, folder / "c"):
            self._folders[each] = _seen(each)

    @property
    def absent(self) -> int:
        """Chunks read so far that are not stored."""
        return int((self._states == _ABSENT).sum())

    def check(self) -> None:
        """Raise `ImageError` if the metadata has disappeared or changed."""
        self._file.check()
        if self.absent:
            self._check_folders(self._folder / "c")

    def look(self, index: tuple[Any, ...]) -> None:
        """Note which chunks of a region are stored, without reading them."""
        for chunk in self._touched(index):
            if self._states[chunk] == _UNKNOWN:
                self._look(chunk)

    def _read(self, index: tuple[Any, ...]) -> Any:
        block = self._data[index]
        self._file.check()
        for chunk in self._touched(index):
            self._look(chunk)
        return block

    def _touched(self, index: tuple[Any, ...]) -> Iterator[tuple[int, ...]]:
        region = bounds(index, self.shape) or tuple((0, n) for n in self.shape)
        spans = (
            range(a // unit, -(-b // unit)) for (a, b), unit in zip(region, self._unit, strict=True)
        )
        return itertools.product(*spans)

    def _look(self, chunk: tuple[int, ...]) -> None:
        """Compare what is on disk with what was there before."""
        file = self._folder / self.metadata.encode_chunk_key(chunk)
        before = self._states[chunk]
        there = file.exists()
        if not there:
            self._check_folders(file.parent)
        now = _PRESENT if there else _ABSENT
        if before not in (_UNKNOWN, now):
            happened = "was written" if there else "disappeared"
            raise ImageError(
                f"Chunk {file.relative_to(self._folder)} of {self._folder} {happened} while the "
                "image was read. Run again when no other program writes to it."
            )
        self._states[chunk] = now

    def _check_folders(self, folder: Path) -> None:
        """Raise if one of the folders around an absent chunk has changed: it was deleted."""
        while folder.is_relative_to(self._folder):
            now = _seen(folder)
            if now != self._folders.setdefault(folder, now):
                raise disappeared(self._folder)
            folder = folder.parent


class _Looking(View):
    """A watched array of which reads note what is stored, and return zeros in place of pixels."""

    def _read(self, index: tuple[Any, ...]) -> Any:
        self._data.look(index)
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)[index]


def looking(data: Any) -> Any:
    """Return an array of which reads only look at the chunks of the watched zarr array inside.

    The views around that array are around it here too, so that indices are theirs; `data` itself,
    which other threads may read, stays as it is.
    """
    if isinstance(data, WatchedZarr):
        return _Looking(data, data.shape, data.dtype)
    return data.over(looking(data.data)) if isinstance(data, View) else data


def watched(array: Any) -> Any:
    """Return a zarr array that notices when its folder disappears; the array itself elsewhere."""
    folder = file_of(array)
    return array if folder is None or not folder.is_dir() else WatchedZarr(array, folder)


def watch_of(data: Any, source: Path | Address | None, parts: Sequence[Path] = ()) -> Watch | None:
    """Return what watches an image that was just opened; None where nothing can change.

    Parameters
    ----------
    data
        Its pixels.
    source
        Its file or folder.
    parts
        Other files that hold some of its pixels.
    """
    inner = data
    while isinstance(inner, View) and not isinstance(inner, WatchedZarr):
        inner = inner.data
    if isinstance(inner, WatchedZarr):
        return inner
    in_memory = isinstance(inner, np.ndarray) and not isinstance(inner, np.memmap)
    if in_memory or not isinstance(source, Path) or not source.is_file():
        return None
    return WatchedFiles((source, *parts)) if parts else WatchedFile(source)


__all__ = ["Watch", "WatchedFile", "WatchedFiles", "WatchedZarr", "looking", "watch_of", "watched"]
