"""Arrays that are another array, changed as it is read: channels left out, colours looked up.

Knows indexing by integers and slices. Does not know files: a view is of anything with ``shape``,
``dtype`` and indexing. It keeps the chunks, so that only the requested pixels are read.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from seamscope.images.dimensions import full_index


class LazyArray:
    """What numpy and napari ask of an array whose values are made where it is indexed.

    Children have `shape` and `dtype`, and define indexing.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)


class View(LazyArray):
    """Another array whose blocks are changed when they are read."""

    def __init__(self, data: Any, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._data = data
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        chunks = getattr(data, "chunks", None)
        if isinstance(chunks, tuple):
            self.chunks = self._chunks(chunks)

    @property
    def data(self) -> Any:
        """The other array."""
        return self._data

    def over(self, data: Any) -> Self:
        """Return the same view of other data of the same shape and type."""
        found = copy.copy(self)
        found._data = data
        return found

    def _chunks(self, chunks: tuple[Any, ...]) -> tuple[Any, ...]:
        return chunks

    def __getitem__(self, index: Any) -> Any:
        return self._read(full_index(index, self.ndim))

    def _read(self, index: tuple[Any, ...]) -> Any:
        raise NotImplementedError


class FirstChannels(View):
    """The first channels of an array, along its last or any other axis.

    Parameters
    ----------
    data
        The array.
    axis
        Of the channels.
    count
        Channels to keep; 1 drops the axis.
    """

    def __init__(self, data: Any, axis: int, count: int) -> None:
        self._axis, self._count = axis, count
        shape = list(data.shape)
        shape[axis : axis + 1] = [count] if count > 1 else []
        super().__init__(data, tuple(shape), data.dtype)

    def _chunks(self, chunks: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._count == 1:
            return chunks[: self._axis] + chunks[self._axis + 1 :]
        chunk = chunks[self._axis]
        kept = self._count if isinstance(chunk, tuple) else min(chunk, self._count)
        return (*chunks[: self._axis], kept, *chunks[self._axis + 1 :])

    def _read(self, index: tuple[Any, ...]) -> Any:
        if self._count == 1:
            return self._data[(*index[: self._axis], 0, *index[self._axis :])]
        own = index[self._axis]
        if isinstance(own, slice):
            own = slice(*own.indices(self._count))
        return self._data[(*index[: self._axis], own, *index[self._axis + 1 :])]


class Looked(View):
    """Colours ``(*shape, 3)``, uint8, of an array of indices into a palette.

    Parameters
    ----------
    indices
        Whole numbers.
    palette
        ``(colours, 3)``, uint8.
    """

    def __init__(self, indices: Any, palette: npt.NDArray[np.uint8]) -> None:
        self._palette = palette
        super().__init__(indices, (*indices.shape, 3), np.uint8)

    def _chunks(self, chunks: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*chunks, 3)

    def _read(self, index: tuple[Any, ...]) -> Any:
        return self._palette[np.asarray(self._data[index[:-1]])][..., index[-1]]


class Inverted(View):
    """An array of unsigned integers or bool in which 0 is the brightest, turned around."""

    def __init__(self, data: Any) -> None:
        super().__init__(data, data.shape, data.dtype)

    def _read(self, index: tuple[Any, ...]) -> Any:
        return np.invert(np.asarray(self._data[index]))


class WithoutData(View):
    """An array as floats, NaN where it has the value that stands for no data.

    Float32, or float64 where float32 does not hold the array's integers.

    Parameters
    ----------
    data
        The array.
    nodata
        The value; NaN and infinity are allowed.
    """

    def __init__(self, data: Any, nodata: float) -> None:
        kind = np.dtype(data.dtype)
        wide = kind.itemsize > (2 if kind.kind in "iu" else 4)
        dtype = kind.newbyteorder("=") if kind.kind == "f" else np.float64 if wide else np.float32
        self._nodata = nodata
        super().__init__(data, data.shape, dtype)

    def _read(self, index: tuple[Any, ...]) -> Any:
        block = np.asarray(self._data[index])
        values = block.astype(self.dtype)
        values[_equal(block, self._nodata)] = np.nan
        return values


class Replaced(View):
    """An array in which 0 stands for one value: that of no data in labels.

    Parameters
    ----------
    data
        The array.
    value
        The value.
    """

    def __init__(self, data: Any, value: float) -> None:
        self._value = value
        super().__init__(data, data.shape, data.dtype)

    def _read(self, index: tuple[Any, ...]) -> Any:
        block = np.asarray(self._data[index])
        return np.where(_equal(block, self._value), np.zeros((), block.dtype), block)


def _equal(block: npt.NDArray[Any], value: float) -> npt.NDArray[np.bool_]:
    """Return where a block has a value, that of a tag in a file: NaN too."""
    if np.dtype(block.dtype).kind != "f":
        return np.asarray(block == value)
    # compared in the file's own type: float32 rounds -3.4e38 as the file's writer did
    with np.errstate(over="ignore"):
        same = block == block.dtype.type(value)
    return np.asarray(np.isnan(block) if np.isnan(value) else same)


class Part(View):
    """A part of an array.

    Parameters
    ----------
    data
        The array.
    region
        A slice with start and stop for each axis.
    """

    def __init__(self, data: Any, region: tuple[slice, ...]) -> None:
        self._corner = tuple(part.start for part in region)
        super().__init__(data, tuple(part.stop - part.start for part in region), data.dtype)

    def _read(self, index: tuple[Any, ...]) -> Any:
        own: list[Any] = []
        for i, low, n in zip(index, self._corner, self.shape, strict=True):
            if isinstance(i, slice):
                start, stop, step = i.indices(n)
                own.append(slice(low + start, low + stop, step))
            else:
                own.append(low + int(i))
        return self._data[tuple(own)]


__all__ = ["FirstChannels", "Inverted", "LazyArray", "Looked", "Part", "Replaced", "WithoutData"]
