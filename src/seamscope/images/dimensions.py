"""What the dimensions of an image are called and measured in, and how a region is cut from them.

Knows the letters of axes, the names and symbols of units, slices, and how all of them are shown.
Does not know images, files or tiles.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from seamscope.errors import SettingsError
from seamscope.images.addresses import without_secrets
from seamscope.text import shape_text

Index = tuple[int | slice, ...]
Region = tuple[tuple[int, int], ...]

AXES = "tczyx"
"""Letters an axis may have: time, channel, and the three of space."""

_UNITS = {
    "nm": "nanometer",
    "\u00b5m": "micrometer",
    "\u03bcm": "micrometer",
    "\\u00b5m": "micrometer",  # as ImageJ escapes it
    "um": "micrometer",
    "micron": "micrometer",
    "microns": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "\u00e5": "angstrom",
    "\u212b": "angstrom",
    "ms": "millisecond",
    "s": "second",
    "sec": "second",
    "min": "minute",
    "h": "hour",
    "px": "pixel",
    "pixels": "pixel",
}
_SYMBOLS = {
    "nanometer": "nm",
    "micrometer": "\u00b5m",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "angstrom": "\u00c5",
    "millisecond": "ms",
    "second": "s",
    "minute": "min",
    "hour": "h",
}


def unit_name(name: Any) -> str:
    """Return a unit's full name as OME-NGFF writes it."""
    text = str(name or "").strip()
    return _UNITS.get(text.lower(), text) or "pixel"


def default_units(axes: str | None, units: Sequence[str]) -> tuple[str, ...]:
    """Fill in what is not known: pixels in space, nothing for time and channels."""
    known = tuple(unit if unit != "pixel" else "" for unit in units)
    letters = axes or "x" * len(known)
    return tuple(
        unit or ("" if letter in "tc" else "pixel")
        for unit, letter in zip(known, letters, strict=True)
    )


def checked_axes(axes: str, shape: Sequence[int]) -> str:
    """Return `axes` in small letters.

    Raises
    ------
    SettingsError
        When they do not name the dimensions of an image of this shape.
    """
    wanted = axes.lower()
    if len(wanted) != len(shape):
        raise SettingsError(
            f"Axes {axes!r} name {len(wanted)} dimensions, but the image has {len(shape)}, of "
            f"sizes {shape_text(shape)}: give one letter for each, out of {AXES!r}."
        )
    if not are_axes(wanted):
        raise SettingsError(
            f"Axes {axes!r} must be different letters out of {AXES!r} "
            "(time, channel, z, y, x), for example 'zyx' or 'cyx'."
        )
    return wanted


def are_axes(letters: str) -> bool:
    """Tell whether these are different letters of `AXES`."""
    return len(set(letters)) == len(letters) and set(letters) <= set(AXES)


def unit_symbol(unit: str) -> str:
    """Return the symbol of a unit's full name, as OME-XML writes it."""
    return _SYMBOLS.get(unit, unit)


def bounds(index: Index, shape: Sequence[int]) -> Region | None:
    """Return where a plain region begins and ends; None for any other way of indexing."""
    if len(index) != len(shape):
        return None
    found = []
    for i, n in zip(index, shape, strict=True):
        if isinstance(i, slice):
            low, high, step = i.indices(n)
            plain = step == 1 and low < high
        else:
            low, high = int(i), int(i) + 1
            plain = 0 <= low < n
        if not plain:
            return None
        found.append((low, high))
    return tuple(found)


def full_index(index: Any, ndim: int) -> tuple[Any, ...]:
    """Return one entry for each of `ndim` axes, as numpy understands fewer of them or ``...``."""
    given = index if isinstance(index, tuple) else (index,)
    at = next((place for place, entry in enumerate(given) if entry is Ellipsis), len(given))
    rest = given[at + 1 :]
    return (*given[:at], *(slice(None),) * (ndim - at - len(rest)), *rest)


def volume(region: Region) -> int:
    """Return how many pixels a region has."""
    return math.prod(b - a for a, b in region)


def region_text(index: Index) -> str:
    """Write a region as Python does, for messages."""
    sides = (f"{i.start or 0}:{i.stop}" if isinstance(i, slice) else str(i) for i in index)
    return ", ".join(sides)


def why(error: BaseException) -> str:
    """Return one short line that says what went wrong."""
    if isinstance(error, IndexError | TypeError | AttributeError | struct.error):
        return "its parts do not fit together"  # what a library says then is about its own code
    lines = without_secrets(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
