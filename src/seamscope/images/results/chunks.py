"""Chunks of unfinished zarr arrays that a disk has lost, as when the power fails.

Knows where zarr keeps a chunk in a folder. Does not know what is marked as done.

A system writes the bytes of a file a while after the file has its name, so that what was marked
last may be absent, empty or cut short. Arrays of unfinished results store every chunk, even one
whose pixels are all 0 (`storing_all`): one that is absent was lost, and does not mean zeros.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seamscope.tiling import Slices


@contextlib.contextmanager
def storing_all() -> Iterator[None]:
    """Have zarr arrays that are created or opened meanwhile store all their chunks."""
    import zarr

    with zarr.config.set({"array.write_empty_chunks": True}):
        yield


def is_lost(array: Any, region: Slices, since: float = math.inf) -> bool:
    """Return whether a chunk that a region meets is absent, empty or cut short.

    Parameters
    ----------
    array
        A zarr array in a folder; of all others nothing is known.
    region
        A slice for each axis.
    since
        Time in seconds, as of files; a chunk that was written later is read to find out whether it
        is whole.
    """
    root = getattr(getattr(array, "store", None), "root", None)
    if not isinstance(root, Path):
        return False
    spans = (
        range(part.start // chunk, -(-part.stop // chunk))
        for part, chunk in zip(region, array.chunks, strict=True)
    )
    folder = root / array.path
    return any(_lacks(array, folder, at, since) for at in itertools.product(*spans))


def _lacks(array: Any, folder: Path, at: tuple[int, ...], since: float) -> bool:
    file = folder / array.metadata.encode_chunk_key(at)
    try:
        found = file.stat()
    except OSError:
        return True
    return not found.st_size or (found.st_mtime > since and not _reads(array, file, at))


def _reads(array: Any, file: Path, at: tuple[int, ...]) -> bool:
    """Whether a chunk can be read; blosc reads one that lacks a few bytes, and invents them."""
    content = file.read_bytes()
    blosc = any("Blosc" in type(each).__name__ for each in array.compressors)
    if blosc and int.from_bytes(content[12:16], "little") != len(content):
        return False
    try:
        array[tuple(slice(i * n, i * n + 1) for i, n in zip(at, array.chunks, strict=True))]
    except Exception:  # decoders raise errors of many kinds
        return False
    return True


__all__ = ["is_lost", "storing_all"]
