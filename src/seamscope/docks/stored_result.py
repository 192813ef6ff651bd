"""A result on disk as arrays that napari reads where they are looked at, while it is written.

Knows how an axis of a layer is found in the file's array. Does not know layers, or who writes.

While the result is not finished, 0 is shown as NaN, which is transparent: chunks that are not
written yet are 0. What is predicted is hardly ever 0.

A file moves from ``NAME.partial`` to its final name when it is finished. So an array here asks the
output for its levels each time, and never keeps one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.images.dimensions import full_index
from seamscope.images.results.output import Output
from seamscope.images.views import LazyArray


class StoredResult(LazyArray):
    """One level of a result, with the axes of a layer; read where it is indexed.

    Parameters
    ----------
    output
        Of the result.
    level
        0 for the full resolution.
    axes
        Axis of the file for each axis of the layer; None for one along which all is the same.
    repeats
        Length of each axis that is None.
    fixed
        Index along each axis of the file that the layer does not have.
    """

    def __init__(
        self,
        output: Output,
        level: int,
        axes: Sequence[int | None],
        repeats: Sequence[int] = (),
        fixed: dict[int, int] | None = None,
    ) -> None:
        self._output, self._level = output, level
        self._axes, self._fixed = tuple(axes), dict(fixed or {})
        lengths, more = self._array.shape, iter(repeats)
        self.shape = tuple(next(more) if a is None else lengths[a] for a in axes)
        self.dtype = np.dtype(self._array.dtype)

    @property
    def _array(self) -> Any:
        return self._output.levels[self._level]

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        given = full_index(index, self.ndim)
        wanted: list[Any] = [self._fixed.get(a) for a in range(self._array.ndim)]
        for axis, part in zip(self._axes, given, strict=True):
            if axis is not None:
                wanted[axis] = part if isinstance(part, slice) else int(part)
        values = np.asarray(self._array[tuple(wanted)])
        if self.dtype.kind == "f" and not self._output.record.get("finished"):
            values = np.where(values == 0, values.dtype.type(np.nan), values)
        kept = [a for a, part in enumerate(wanted) if isinstance(part, slice)]
        own = [a for a in self._axes if a in kept]
        values = values.transpose([kept.index(a) for a in own])
        return self._repeated(values, given)

    def _repeated(self, values: npt.NDArray[Any], given: Sequence[Any]) -> npt.NDArray[Any]:
        """Put in the axes along which all is the same."""
        place, shape = 0, list(values.shape)
        for axis, part, length in zip(self._axes, given, self.shape, strict=True):
            if not isinstance(part, slice):
                continue
            if axis is None:
                shape.insert(place, len(range(*part.indices(length))))
                values = np.expand_dims(values, place)
            place += 1
        return np.broadcast_to(values, shape)


__all__ = ["StoredResult"]
