"""Arrays for as long as they are used: in memory, or in a temporary file if they are large.

Knows free memory and disks. Does not know what the arrays hold.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from seamscope.errors import OutputError
from seamscope.text import bytes_text

SHARE = 0.25
"""Part of the free memory that an array may fill before it goes to disk."""


def scratch(shape: Sequence[int], dtype: Any, what: str) -> npt.NDArray[Any]:
    """Return an array to be filled.

    Parameters
    ----------
    shape, dtype
        Of the array.
    what
        What it is for, such as "Keeping predictions of tiles".

    Returns
    -------
    numpy.ndarray
        In memory, or a map of a file that has no name, where the system allows: it ends with the
        array, and with the process, also a killed one.

    Raises
    ------
    OutputError
        When there is no room for temporary files.
    """
    needed = math.prod(shape) * np.dtype(dtype).itemsize
    if needed <= SHARE * psutil.virtual_memory().available:
        return np.empty(tuple(shape), dtype)
    free = psutil.disk_usage(tempfile.gettempdir()).free
    if needed > free:
        raise OutputError(
            f"{what} takes {bytes_text(needed)}, and {bytes_text(free)} are free for temporary "
            "files: choose a smaller region, or set TMPDIR to a larger disk."
        )
    with tempfile.TemporaryFile(prefix="seamscope-") as file:  # the map outlives it
        return np.memmap(file, dtype, "w+", shape=tuple(shape))


__all__ = ["scratch"]
