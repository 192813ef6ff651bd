"""What a result shall be like, and what a kind of file offers for it.

Knows neither any kind of file nor where one goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seamscope.errors import OutputError
from seamscope.images.addresses import Address
from seamscope.images.dimensions import full_index
from seamscope.images.ngff import OmeZarr
from seamscope.images.results.chunks import is_lost
from seamscope.images.results.pyramid import Index
from seamscope.images.views import LazyArray
from seamscope.progress import Work


@dataclass(frozen=True)
class Wanted:
    """What a result shall be like."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    scale: tuple[float, ...]
    units: tuple[str, ...]
    chunks: tuple[int, ...]
    name: str
    metadata: dict[str, Any]
    origin: tuple[float, ...]
    labels: bool = False
    ome: OmeZarr = OmeZarr()  # noqa: RUF009  (frozen)
    image: str | None = None  # that labels belong to, as seen from them
    levels: int | None = None  # resolutions of that image, which its labels have, too

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def record(self) -> dict[str, Any]:
        """What is stored with an unfinished result."""
        described = {
            "axes": self.axes,
            "scale": list(self.scale),
            "units": list(self.units),
            "origin": list(self.origin),
        }
        return {**self.metadata, **described, "finished": False}

    def in_order(self, letters: str) -> tuple[Wanted, tuple[int, ...]]:
        """Return this with its axes in the order of `letters`, and which axis went where."""
        order = tuple(self.axes.index(axis) for axis in letters if axis in self.axes)
        reordered: dict[str, Any] = {
            name: tuple(getattr(self, name)[i] for i in order)
            for name in ("shape", "scale", "units", "chunks", "origin")
        }
        return replace(self, axes="".join(self.axes[i] for i in order), **reordered), order


class Store:
    """Where the pixels of a result are put; this one is an array that the caller owns.

    Attributes
    ----------
    array
        The pixels, in the order of axes that was requested.
    left
        What an error of the disk leaves behind, for a person.
    """

    left = "What was written so far is kept, and its record says that it is unfinished."

    def __init__(self, array: Any) -> None:
        self.array = array

    @property
    def levels(self) -> list[Any]:
        """All resolutions, `array` first."""
        return [self.array]

    def wrote(self, region: Index, block: np.ndarray | None = None) -> None:
        """Follow a region that is stored now, here or by others, with all that is made of it."""

    def already(self, region: Index, since: float) -> None:
        """Note a region that an earlier run has stored; what is made of it is made where lost.

        `since` is that of `seamscope.images.results.chunks.is_lost`.
        """

    def has_lost(self, region: Index, since: float) -> bool:
        """Return whether the disk has lost some of a region that was stored."""
        stored = self.array
        if isinstance(stored, _Reordered):
            return is_lost(*stored.underneath(region), since)
        return is_lost(stored, region, since)

    def flush(self) -> None:
        """Bring all pixels to where they last."""

    def save(self, record: Mapping[str, Any]) -> None:
        """Store the record of an unfinished result."""

    def prepare(self, work: Work) -> None:
        """Make what takes long and is not in the result's place; it can be stopped."""

    def complete(self, record: Mapping[str, Any], waiting: Path) -> Path | None:
        """Store the record of a whole result, of a file as `waiting`; the file says that it is.

        Returns
        -------
        Path or None
            A file that was made of the unfinished result, and takes its place.
        """
        return None

    def moved(self, path: Path) -> None:
        """Follow the result to its final name."""

    def placed(self, path: Path | Address) -> None:
        """Note in what is around the result that it is whole, and in its place."""


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes
    ----------
    refusal
        Why it cannot hold a result, None if it can.
    room
        Bytes on disk that it takes.
    create
        Makes it under a name.
    labels_only
        Whether it holds nothing but labels.
    resume
        Opens an unfinished one; None where it cannot be written in parts.
    part
        Opens the pixels of an unfinished one for a process that writes whole chunks of it, beside
        others; None where only one process can write.
    """

    refusal: Callable[[Wanted], str | None]
    room: Callable[[Wanted], int]
    create: Callable[[Any, Wanted], Store]
    labels_only: bool = False
    resume: Callable[[Any, Wanted], Store] | None = None
    part: Callable[[Path, Wanted], Store] | None = None


def in_requested_order(stored: Any, order: Sequence[int]) -> Any:
    """Return a stored array with its axes as requested; `order` says which stored one is which."""
    return stored if list(order) == sorted(order) else _Reordered(stored, order)


class _Reordered(LazyArray):
    """An array seen with its axes in another order, for formats that prescribe one."""

    def __init__(self, stored: Any, order: Sequence[int]) -> None:
        self._stored = stored
        self._order = tuple(order)  # for each stored axis, which of ours it is
        self._back = tuple(int(i) for i in np.argsort(self._order))
        self.shape = tuple(int(stored.shape[i]) for i in self._back)
        self.dtype = np.dtype(stored.dtype)

    def underneath(self, region: Index) -> tuple[Any, Index]:
        """Return the stored array, and where a region lies in it."""
        return self._stored, tuple(region[i] for i in self._order)

    def __setitem__(self, index: Any, block: np.ndarray) -> None:
        full = full_index(index, self.ndim)
        self._stored[tuple(full[i] for i in self._order)] = block.transpose(self._order)

    def __getitem__(self, index: Any) -> np.ndarray:
        full = full_index(index, self.ndim)
        kept = tuple(i if isinstance(i, slice) else slice(i, i + 1) for i in full)
        block = np.asarray(self._stored[tuple(kept[i] for i in self._order)]).transpose(self._back)
        return block[tuple(slice(None) if isinstance(i, slice) else 0 for i in full)]


def never_refused(wanted: Wanted) -> str | None:
    """Refuse nothing."""
    return None


def all_bytes(wanted: Wanted) -> int:
    """Return the bytes of a file that holds all pixels as they are."""
    return wanted.nbytes + 2**20  # and its metadata


def check_same(array: Any, wanted: Wanted, path: Path | Address) -> None:
    """Refuse to continue a result of another size or type."""
    if tuple(array.shape) != wanted.shape or array.dtype != wanted.dtype:
        raise not_the_same(path)


def not_the_same(path: Path | Address) -> OutputError:
    """Return the error of a result that cannot be continued."""
    return OutputError(
        f"{path} is not the unfinished result of this command: its size, type or levels differ. "
        "Begin again (overwrite)."
    )
