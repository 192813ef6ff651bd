"""npy files that are unfinished: numpy's format, under first bytes of its own.

Knows how such a file differs from one that numpy reads. Does not know what its numbers mean.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

UNFINISHED_NPY = b"\x93NUMPy"
"""First bytes of an unfinished npy file, which numpy itself does not take for one."""

_LONGEST_HEADER = 2**16
"""Bytes; numpy's format 1.0, which results have, cannot be longer."""


def map_unfinished(path: Path, mode: Literal["r", "r+"] = "r") -> np.memmap[Any, Any]:
    """Map the pixels of an unfinished npy file into memory.

    Parameters
    ----------
    path
        The file.
    mode
        Whether it is only read, or written to.

    Raises
    ------
    ValueError
        When its header is damaged, or the file ends before its pixels do.
    """
    with path.open("rb") as file:
        header = io.BytesIO(file.read(_LONGEST_HEADER + 12))
    header.getbuffer()[: len(UNFINISHED_NPY)] = np.lib.format.MAGIC_PREFIX
    np.lib.format.read_magic(header)
    shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    needed = header.tell() + math.prod(shape) * dtype.itemsize
    if path.stat().st_size < needed:  # a map that is written to would make it longer
        raise ValueError(f"{path.stat().st_size} bytes of {needed} are there")
    return np.memmap(path, dtype, mode, header.tell(), shape)


__all__ = ["UNFINISHED_NPY", "map_unfinished"]
