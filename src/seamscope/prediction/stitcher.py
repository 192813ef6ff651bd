"""Put predictions of tiles into the output, as values or as labels.

Knows canvases, and where a frame lies in the output. Does not know how tiles are predicted, or
which blocks they make.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seamscope.errors import ModelError
from seamscope.images.results.output import Output
from seamscope.planning.plan import Plan
from seamscope.prediction.class_labels import as_labels
from seamscope.stitching import Array, canvas
from seamscope.tiling import Slices, Tile


class Wanted(Protocol):
    """Which part of a result is made now: all that is left of it, or one block."""

    def needs(self, frame: tuple[int, ...], tile: Tile) -> bool:
        """Return whether a tile contributes to it."""

    def area(self, frame: tuple[int, ...]) -> Slices:
        """Part of a frame to stitch, in output pixels."""

    def wrote(
        self, frame: tuple[int, ...], region: Slices, bad: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Note that a region is written, counted from the corner of the plan's area."""


class Stitcher:
    """Puts predictions of all frames into the output, as values or as labels."""

    def __init__(self, plan: Plan, output: Output, left: Wanted) -> None:
        self._plan = plan
        self._output = output
        self._left = left
        self._frame: tuple[int, ...] | None = None

    def add(self, frame: tuple[int, ...], tile: Tile, prediction: Array) -> Slices:
        """Stitch one prediction; return the output region that became final."""
        if not self._left.needs(frame, tile):
            return ()  # predicted only to be measured
        if frame != self._frame:
            self.finish()
            self._frame = frame
            self._area = self._left.area(frame)
            self._canvas = canvas(self._plan.grid, self._plan.settings.blend, self._area)
        region: Slices = ()
        for place, block in self._canvas.add(tile, prediction):
            region = self._write(place, block)
        return region

    def finish(self) -> None:
        """Write what is left of the current frame."""
        if self._frame is not None:
            for place, block in self._canvas.rest():
                self._write(place, block)

    def _write(self, place: Slices, block: Array) -> Slices:
        assert self._frame is not None
        bad = find_not_finite(block)
        if self._plan.settings.result == "labels":
            own = self._plan.settings
            if self._plan.given_classes:
                block = _class_numbers(block, self._plan.out_dtype)
            else:
                block = as_labels(block, own.threshold, own.background)[None]
        frame = tuple(
            slice(i - start, i - start + 1)
            for i, (start, _) in zip(self._frame, self._plan.frame_ranges, strict=True)
        )
        channels = (slice(0, block.shape[0]),) * ("c" in self._plan.out_axes)
        place = tuple(
            slice(part.start + shift, part.stop + shift)
            for part, shift in zip(place, self._shift, strict=True)
        )
        region = (*frame, *channels, *place)
        values = block if channels else block[0]
        self._output.write(region, values.reshape((1,) * len(frame) + values.shape))
        self._left.wrote(self._frame, place, bad)
        return region

    @property
    def _shift(self) -> tuple[int, ...]:
        """From the corner of the stitched area to that of the plan's area."""
        return tuple(
            part.start - whole.start
            for part, whole in zip(self._area, self._plan.area, strict=True)
        )


def _class_numbers(block: Array, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """Classes that the network gives, in the type of the result."""
    limits = np.iinfo(kind)
    outside = block[(block < limits.min) | (block > limits.max)]
    if outside.size:
        raise ModelError(
            f"The network gives class {outside[0]:.0f}: labels hold {limits.min} to {limits.max}. "
            "State that its values are no classes (`kind='values'`), or wrap it in a module that "
            "gives other numbers."
        )
    return block.astype(kind, copy=False)


def find_not_finite(prediction: Array) -> npt.NDArray[np.bool_] | None:
    """Pixels ``(*spatial)`` of a prediction ``(C, *spatial)`` with a channel that is not finite.

    None where all are finite.
    """
    finite = np.isfinite(prediction)
    if finite.all():
        return None
    return np.asarray(~finite.all(axis=0))


__all__ = ["Stitcher", "Wanted", "find_not_finite"]
