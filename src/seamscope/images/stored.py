"""What a reader finds in a file: pixels that can be read lazily, and their metadata.

Knows what all readers have in common. Does not know any kind of file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seamscope.errors import SettingsError
from seamscope.images.addresses import Address
from seamscope.images.channels import Channel


@dataclass(frozen=True, slots=True)
class Choice:
    """What to take of a file that holds several things, and how.

    Attributes
    ----------
    series
        Which image of a file or folder with several: its number, counted from 0, or its path
        within a plate (``"A/1/0"``: well A1, first field) or a group. None: the first that is not
        a thumbnail.
    level
        Resolution of a pyramid: 0 is the full one.
    nodata
        Intensity of pixels without data, in place of the file's own. They are read as NaN.
    alpha
        Whether a channel of transparency is kept.
    indices
        Whether the numbers are read as stored, as labels need: indices of a colour palette instead
        of its colours, white as 0 not inverted, 0 for pixels without data instead of NaN.
    """

    series: int | str | None = None
    level: int = 0
    nodata: float | None = None
    alpha: bool = True
    indices: bool = False

    @property
    def number(self) -> int | None:
        """Series as a number; None where none is chosen.

        Raises
        ------
        SettingsError
            When it is not a number.
        """
        if self.series is None:
            return None
        try:
            return int(self.series)
        except ValueError:
            raise SettingsError(
                f"series {self.series!r}: images of this file have numbers, counted from 0."
            ) from None


@dataclass(frozen=True, slots=True)
class Offer:
    """What a file lets its reader choose.

    Attributes
    ----------
    series
        Names of its images, in order; empty where there is only one.
    number
        Which of them is read.
    levels
        Size of each resolution, the full one first; empty where there is only one.
    level
        Which of them is read.
    nodata
        Intensity that stands for no data, as the file says.
    """

    series: tuple[str, ...] = ()
    number: int = 0
    levels: tuple[tuple[int, ...], ...] = ()
    level: int = 0
    nodata: float | None = None


def pick(choice: Choice, names: Sequence[str], name: str, first: int = 0) -> int:
    """Return the number of the chosen image among several.

    Parameters
    ----------
    choice
        Its `series` is used.
    names
        Of the images, for messages.
    name
        Of the file.
    first
        The image to take when none is chosen.

    Raises
    ------
    SettingsError
        When there is no such image.
    """
    if isinstance(choice.series, str) and choice.series in names:
        return names.index(choice.series)
    number = choice.number
    if number is None:
        return first
    if not 0 <= number < len(names):
        raise SettingsError(
            f"series {number}: {name} holds {len(names)} image(s), {listed(names)}. Choose a "
            f"number from 0 to {len(names) - 1}."
        )
    return number


def listed(names: Sequence[str], most: int = 8) -> str:
    """Write what there is to choose from, with its number."""
    shown = [f"{number}: {name}" for number, name in enumerate(names[:most])]
    return "; ".join([*shown, *(["..."] if len(names) > most else [])])


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
    origin
        Position of the first pixel's centre, for each dimension in its unit; None where unknown.
    offer
        What else could be chosen, and the intensity that stands for no data.
    colours
        Whether the channels are the colours of a picture.
    channels
        How the channels are named and shown; empty where the file does not say.
    parts
        Other files than `source` that hold some of the pixels.
    """

    data: Any
    name: str
    source: Path | Address | None = None
    axes: str | None = None
    scale: Sequence[float] | None = None
    units: Sequence[str] | None = None
    notes: tuple[str, ...] = ()
    origin: Sequence[float] | None = None
    offer: Offer = Offer()
    colours: bool = False
    channels: tuple[Channel, ...] = ()
    parts: tuple[Path, ...] = ()


def file_of(array: Any) -> Path | None:
    """Return where the pixels of a zarr array or a memory map lie on disk, None if nowhere."""
    store = getattr(array, "store", None)
    root = getattr(store, "root", None)
    if store is not None and _is_local(getattr(store, "fs", None)):
        root = Path(store.path)  # as dask opens it
    if isinstance(root, Path):
        return root / str(array.path)
    name = getattr(array, "filename", None)
    return Path(name) if isinstance(name, str | os.PathLike) else None


def _is_local(system: Any) -> bool:
    """Return whether a file system of fsspec, or the one inside it, is that of this machine."""
    protocol = getattr(getattr(system, "sync_fs", system), "protocol", ())
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def files_behind(array: Any) -> list[Path]:
    """Return where an array is read from on disk: its own file, or those of a dask array.

    Files that only functions of a dask array open are not found.
    """
    layers = getattr(getattr(array, "dask", None), "layers", None) or {}
    given = [dict(layer) for name, layer in layers.items() if name.startswith("original-")]
    found = map(file_of, [array, *(each for layer in given for each in layer.values())])
    return [path for path in found if path is not None]


def finite_number(value: Any) -> float:
    """Return a float, 0 for what is not a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0
