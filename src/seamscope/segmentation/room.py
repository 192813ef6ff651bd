"""Room for arrays of the image's size: in memory, or in a folder on disk that vanishes.

Knows free memory and disks. Does not know what the arrays hold.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from seamscope.files import disk_errors, lasting_folder
from seamscope.segmentation.blocks import Blocks

_SHARE = 0.25  # of free memory that the basins of an image may take before they go to disk


class Folder:
    """A folder of arrays that vanishes with the last segmentation that uses it, once it may.

    Parameters
    ----------
    path
        Of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def temporary(cls, within: str | Path | None) -> Folder:
        """Make one that may vanish."""
        folder = cls(lasting_folder(within))
        folder.vanish(folder.path)
        return folder

    def vanish(self, path: Path) -> None:
        """Let a folder vanish with this: its own, or the one that it will be moved to."""
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)


class _OneWriter:
    """An array of chunks that is written by one thread at a time.

    Where blocks do not begin at chunks, two threads would read, change and write the same chunk,
    and one change would be lost.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)

    def __getitem__(self, index: Any) -> Any:
        return self._array[index]

    def __setitem__(self, index: Any, values: Any) -> None:
        with self._lock:
            self._array[index] = values


@dataclass(frozen=True)
class Room:
    """Where arrays of the image's size are kept: in memory, or in a folder that vanishes."""

    numbers: Any
    heights: Any
    folder: Folder | None
    chunks: tuple[int, ...]
    aligned: bool

    @classmethod
    def of(
        cls,
        blocks: Blocks,
        scratch: str | Path | None,
        *,
        kept_heights: bool,
    ) -> Room:
        """Find room for basins and, where `kept_heights`, heights of an image in these blocks."""
        shape = blocks.shape
        needed = math.prod(shape) * (6 if kept_heights else 4)
        folder = None
        if needed > _SHARE * psutil.virtual_memory().available:
            folder = Folder.temporary(scratch)
        chunks = tuple(min(c, n) for c, n in zip(blocks.size, shape, strict=True))
        room = cls(None, None, folder, chunks, not any(blocks.origin))
        heights = room.array("heights", shape, np.uint16) if kept_heights else None
        return dataclasses.replace(room, numbers=room.array("basins", shape), heights=heights)

    @contextlib.contextmanager
    def disk_errors(self) -> Iterator[None]:
        """Turn errors of the folder's disk into sentences; let a stop by the user through."""
        stopped = None
        left = "Nothing was written; name another folder (scratch)."
        with (
            contextlib.nullcontext() if self.folder is None else disk_errors(self.folder.path, left)
        ):
            try:
                yield
            except InterruptedError as stop:  # an OSError too
                stopped = stop
        if stopped is not None:
            raise stopped

    def array(self, name: str, shape: Sequence[int], dtype: Any = np.uint32) -> Any:
        """Return an array of zeros, another at each call."""
        if self.folder is None:
            return np.zeros(tuple(shape), dtype)
        import zarr

        # every setting has its own: earlier segmentations still read theirs
        path = tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder.path)
        made = zarr.create_array(path, shape=tuple(shape), chunks=self.chunks, dtype=dtype)
        return made if self.aligned else _OneWriter(made)


__all__ = ["Folder", "Room"]
