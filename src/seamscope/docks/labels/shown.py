"""Labels as napari sees them: arrays that look objects up where they are looked at.

Knows indexing and levels of detail. Does not know layers, or how objects are found.

Nothing of the image's size is allocated: a layer asks for the slice and the part that is seen, and
these pixels are looked up in the basins as they are then. Where a threshold moves, the layer is
drawn again, and nothing else happens.

Objects that the rest of the image may change are hatched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.images.dimensions import full_index
from seamscope.images.views import LazyArray
from seamscope.segmentation.segment import Segmentation
from seamscope.tiling import Slices

Array = npt.NDArray[Any]

_HATCH, _GAP = 6, 3  # period of the hatching and width of its gaps, pixels of the level
_PLANE = 2048  # pixels along an axis above which a layer has levels
_VOLUME = 1 << 26
_COARSEST = {2: 64}  # of pictures napari keeps what it read of the last level: it must be tiny
_COARSE = 1024


@dataclass(frozen=True)
class Picture:
    """What is shown: objects of the image, or of a part of it.

    Attributes
    ----------
    found
        The objects.
    """

    found: Segmentation

    @cached_property
    def _hatched(self) -> Array | None:
        """Which names are provisional; None where none is."""
        names = self.found.provisional_names()
        if not len(names):
            return None
        table = np.zeros(int(names.max()) + 1, np.bool_)
        table[names] = True
        return table

    def prepare(self) -> None:
        """Look at the objects once, so that painting is only a lookup."""
        _ = self._hatched
        self.found.paint_named(tuple(slice(0, 1) for _ in self.found.shape))

    def paint(self, region: Slices) -> Array:
        """Return names of objects in a region of the image, with steps; uint32."""
        shape = tuple(len(range(s.start, s.stop, s.step)) for s in region)
        inner, here = [], []
        for part, low, n in zip(region, self.found.corner, self.found.shape, strict=True):
            first = max(0, -((part.start - low) // part.step))
            start, stop = part.start + first * part.step - low, min(part.stop - low, n)
            if start >= stop:
                return np.zeros(shape, np.uint32)
            inner.append(slice(start, stop, part.step))
            here.append(slice(first, first + len(range(start, stop, part.step))))
        names = self._hatch(self.found.paint_named(tuple(inner)), here)
        if names.shape == shape:
            return names
        painted = np.zeros(shape, np.uint32)
        painted[tuple(here)] = names
        return painted

    def _hatch(self, names: Array, here: Sequence[slice]) -> Array:
        table = self._hatched
        if table is None:
            return names
        index = np.ogrid[tuple(here)]
        gaps = sum(index[-2:]) % _HATCH < _GAP
        blank = gaps & (names < len(table)) & table[np.minimum(names, len(table) - 1)]
        return np.where(blank, 0, names).astype(np.uint32)


class Screen:
    """Holds the picture that all levels of a layer show.

    Attributes
    ----------
    picture
        None where nothing is known yet: all is background.
    shape
        Of the image, without channels.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.picture: Picture | None = None

    def paint(self, region: Slices) -> Array:
        """Return names of objects in a region, with steps."""
        if self.picture is None:
            return np.zeros([len(range(s.start, s.stop, s.step)) for s in region], np.uint32)
        return self.picture.paint(region)

    def levels(self) -> list[Level]:
        """Return what a layer shows: one level, or for large images several, the finest first."""
        whole = tuple(slice(0, n, 1) for n in self.shape)
        found = [Level(self, whole)]
        if max(self.shape[-2:]) <= _PLANE and int(np.prod(self.shape)) <= _VOLUME:
            return found
        coarsest = _COARSEST.get(len(self.shape), _COARSE)
        while max(found[-1].shape[-2:]) > coarsest or found[-1].size > _VOLUME:
            *frames, rows, columns = found[-1].parts
            halved = (slice(0, s.stop, 2 * s.step) for s in (rows, columns))
            found.append(Level(self, (*frames, *halved)))
        return found


class Level(LazyArray):
    """Labels at one level of detail, or a part of them; read where it is indexed.

    Parts of three axes or more stay unread until their pixels are needed, as napari first cuts out
    what is in view, of all slices.

    Attributes
    ----------
    parts
        Which pixels of the image it shows, a slice with a step for each axis of the image.
    shape, dtype, ndim, size
        As of an array.
    """

    dtype = np.dtype(np.uint32)

    def __init__(self, screen: Screen, parts: Slices, kept: Sequence[int] | None = None) -> None:
        self._screen = screen
        self.parts = parts
        self._kept = tuple(range(len(parts))) if kept is None else tuple(kept)
        self.shape = tuple(len(range(*parts[a].indices(parts[a].stop))) for a in self._kept)

    def __getitem__(self, index: Any) -> Any:
        given = full_index(index, self.ndim)
        if not all(isinstance(i, slice | int | np.integer) for i in given):
            return np.asarray(self)[index]
        parts, kept = list(self.parts), []
        for axis, i, n in zip(self._kept, given, self.shape, strict=True):
            steps = range(parts[axis].start, parts[axis].stop, parts[axis].step)
            if isinstance(i, slice):
                chosen = steps[slice(*i.indices(n))]
                kept.append(axis)
                parts[axis] = slice(chosen.start, max(chosen.start, chosen.stop), chosen.step)
            else:
                place = steps[int(i)]  # raises IndexError beyond the end
                parts[axis] = slice(place, place + 1, 1)
        part = Level(self._screen, tuple(parts), kept)
        return part if part.ndim > 2 else np.asarray(part)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        values = self._screen.paint(self.parts)
        dropped = tuple(a for a in range(values.ndim) if a not in self._kept)
        return np.asarray(values.squeeze(dropped), dtype)


__all__ = ["Level", "Picture", "Screen"]
