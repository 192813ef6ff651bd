"""Room for arrays of the image's size: in memory, or in a folder on disk that vanishes.

Knows free memory and disks. Does not know what the arrays hold.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from seamscope.files import disk_errors

_SHARE = 0.25  # of free memory that the basins of an image may take before they go to disk


class _Folder:
    """A folder that vanishes with the last segmentation that uses it."""

    def __init__(self, within: str | Path | None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="seamscope-", dir=within))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True)
class Room:
    """Where arrays of the image's size are kept: in memory, or in a folder that vanishes."""

    numbers: Any
    heights: Any
    folder: _Folder | None
    chunks: tuple[int, ...]

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        chunks: Sequence[int],
        scratch: str | Path | None,
        *,
        kept_heights: bool,
    ) -> Room:
        """Find room for basins and, where `kept_heights`, heights of an image of this shape."""
        needed = math.prod(shape) * (6 if kept_heights else 4)
        folder = None
        if needed > _SHARE * psutil.virtual_memory().available:
            folder = _Folder(scratch)
        room = cls(None, None, folder, tuple(min(c, n) for c, n in zip(chunks, shape, strict=True)))
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
        """Return an array of zeros."""
        if self.folder is None:
            return np.zeros(tuple(shape), dtype)
        import zarr

        path = str(self.folder.path / name)
        return zarr.create_array(path, shape=tuple(shape), chunks=self.chunks, dtype=dtype)


__all__ = ["Room"]
