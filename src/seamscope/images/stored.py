"""What a reader finds in a file: pixels that can be read lazily, and what is said about them.

Knows what all readers have in common. Does not know any kind of file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Stored:
    """One image as a file holds it, of which nothing is checked yet.

    Attributes
    ----------
    data
        Pixels: anything with ``shape``, ``dtype`` and indexing by slices.
    name
        What to call it in front of a person.
    source
        The path that opens as this image again, None for arrays in memory.
    axes
        One letter of ``tczyx`` for each dimension, None where the file does not name them.
    scale, units
        Pixel size and its unit for each dimension, None where the file has none.
    notes
        Sentences a person should see.
    """

    data: Any
    name: str
    source: Path | None = None
    axes: str | None = None
    scale: Sequence[float] | None = None
    units: Sequence[str] | None = None
    notes: tuple[str, ...] = ()


def file_of(array: Any) -> Path | None:
    """Return where the pixels of a zarr array or a memory map lie on disk, None if nowhere."""
    root = getattr(getattr(array, "store", None), "root", None)
    if isinstance(root, Path):
        return root / str(array.path)
    name = getattr(array, "filename", None)
    return Path(name) if isinstance(name, str | os.PathLike) else None


def finite_number(value: Any) -> float:
    """Return a float, 0 for what is not a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0
