"""One tile at any place on the network's grid, not only where a plan has one.

Knows how a tile is read, predicted and postprocessed. Does not know why it is wanted there.

Intensities are those of the whole image, as in any run. Tile starts stay on multiples of the
network's period: elsewhere it would be another function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.images.intensity import Intensity
from seamscope.images.postprocessing import changed, measure_result
from seamscope.planning.case import Case
from seamscope.planning.reading import TileJob

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class TilePrediction:
    """What the network predicts for one tile.

    Attributes
    ----------
    values
        ``(C, *spatial)`` float32.
    origin
        Where it begins in the whole result, output pixels.
    """

    values: Array
    origin: tuple[int, ...]


class SingleTiles:
    """Predicts tiles of one size at any place.

    Parameters
    ----------
    case
        Image, network and settings. The tile is that of its plan.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        self.plan = case.plan
        self._reader = case.reader()
        settings = self.plan.settings
        self._runner = case.model.runner(settings.device, settings.precision)

    def around(self, middle: Sequence[float], frame: Sequence[int] = ()) -> TilePrediction:
        """Predict the tile whose middle is nearest to a place of the result.

        Parameters
        ----------
        middle
            Output pixels, along each spatial axis. At the image's border the tile stays inside.
        frame
            Index along each iterated axis.
        """
        starts = []
        for axis, place in zip(self.plan.grid.axes, middle, strict=True):
            wanted = place / float(axis.lattice.scale) - axis.kept / 2
            starts.append(wanted - axis.lattice.crop[0])
        return self._at(starts, frame)

    def beginning_at(self, origin: Sequence[float], frame: Sequence[int] = ()) -> TilePrediction:
        """Predict the tile whose prediction begins nearest to a place of the result.

        Parameters
        ----------
        origin, frame
            As for `around`.
        """
        starts = [
            place / float(axis.lattice.scale) - axis.lattice.crop[0]
            for axis, place in zip(self.plan.grid.axes, origin, strict=True)
        ]
        return self._at(starts, frame)

    def _at(self, starts: Sequence[float], frame: Sequence[int]) -> TilePrediction:
        grid, place = self.plan.grid, []
        for axis, wanted in zip(grid.axes, starts, strict=True):
            low, high, pitch = axis[0].start, axis[-1].start, axis.lattice.pitch
            place.append(round((min(max(wanted, low), high) - low) / pitch) * pitch)
        tile = grid.moved([a[0].start + p for a, p in zip(grid.axes, place, strict=True)])
        batch = self._reader.read([TileJob(tuple(frame), tile)])
        self._runner.at_places([place])
        return TilePrediction(self._postprocessed(self._runner(batch)[0]), tile.origin)

    def _postprocessed(self, values: Array) -> Array:
        """Apply the steps of the model's card, with the tile's statistics: it is all there is."""
        plan = self.plan
        if plan.postprocessing is None:
            return values
        zscore = None
        if plan.postprocessing.needs_image:
            found = self._case.but(plan.settings, normalize="zscore").intensity()
            assert isinstance(found, Intensity)
            zscore = found
        axes = "c" + plan.layout.spatial
        steps = plan.postprocessing.preparation(zscore)
        return np.asarray(changed(values, 0, measure_result(values, axes, steps)))


__all__ = ["SingleTiles", "TilePrediction"]
