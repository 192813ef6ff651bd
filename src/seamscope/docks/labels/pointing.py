"""From the pointer to pixels of objects: clicks, keys and strokes, in slices and in volumes.

Knows layers' transforms and rays. Does not know what is done with a pixel.

In 2D a click is a pixel of the slice. In 3D it is a ray from the eye through the volume, and its
pixel is the first one that belongs to an object: the one that napari draws there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.segmentation.segment import Segmentation

Place = tuple[int, ...]
Points = npt.NDArray[np.int64]

_RUN = 16  # pixels of a ray that are read together: the box around them stays small


@dataclass(frozen=True)
class Pointer:
    """Where the mouse is.

    Attributes
    ----------
    position
        Of the world.
    direction
        In 3D the direction of the view, in the world; None in 2D.
    displayed
        Dimensions that are shown, of the world.
    """

    position: Sequence[float]
    direction: Any = None
    displayed: Sequence[int] = ()

    @classmethod
    def of(cls, event: Any) -> Pointer:
        """Return where a mouse event of napari happens."""
        return cls(tuple(event.position), event.view_direction, tuple(event.dims_displayed))


class Pointing:
    """Pixels of objects under the pointer.

    Parameters
    ----------
    layer
        That shows the objects.
    found
        The objects.
    """

    def __init__(self, layer: Any, found: Segmentation) -> None:
        self._layer, self._found = layer, found

    def name(self, place: Place) -> int:
        """Return the name of the object at a pixel, 0 for background."""
        return int(self._found.paint_named(tuple(slice(p, p + 1) for p in place)).item())

    def place(self, pointer: Pointer) -> Place | None:
        """Return the pixel under the pointer; None beside the image, and in 3D beside objects."""
        if len(pointer.displayed) == 3 and pointer.direction is not None:
            return self._first_on_ray(pointer)
        missing = max(len(pointer.position) - self._layer.ndim, 0)
        point = self._layer.world_to_data(np.asarray(pointer.position, float)[missing:])
        inside = self._inside(np.round(np.asarray(point, float)).astype(np.int64)[None])
        return tuple(map(int, inside[0])) if len(inside) else None

    def places(self, stroke: Sequence[Pointer]) -> list[Place]:
        """Return the pixels under a stroke, each once, in the order of the stroke."""
        found: dict[Place, None] = {}
        for one, two in pairwise(stroke):
            a, b = np.asarray(one.position, float), np.asarray(two.position, float)
            for share in np.linspace(0, 1, max(2, self._pixels(b - a) + 1)):
                place = self.place(Pointer(a + share * (b - a), two.direction, two.displayed))
                if place is not None:
                    found[place] = None
        return list(found)

    def _pixels(self, way: npt.NDArray[np.float64]) -> int:
        """Pixels along the longest axis of a way through the world."""
        missing = max(len(way) - self._layer.ndim, 0)
        ends = [self._layer.world_to_data(end[missing:]) for end in (np.zeros_like(way), way)]
        return math.ceil(np.abs(np.subtract(*ends)).max())

    def _first_on_ray(self, pointer: Pointer) -> Place | None:
        missing = len(pointer.position) - self._layer.ndim
        ends = self._layer.get_ray_intersections(
            np.asarray(pointer.position)[missing:],
            np.asarray(pointer.direction)[missing:],
            [d - missing for d in pointer.displayed],
        )
        if ends[0] is None or ends[1] is None:
            return None
        first, last = (np.asarray(end, float) for end in ends)
        steps = 2 * math.ceil(np.linalg.norm(last - first)) + 1
        ray = np.round(np.linspace(first, last, steps)).astype(np.int64)
        for run in np.array_split(self._inside(ray), math.ceil(steps / _RUN)):
            if len(run):
                low = run.min(axis=0)
                box = tuple(map(slice, low, run.max(axis=0) + 1))
                hit = np.flatnonzero(self._found.paint_named(box)[tuple((run - low).T)])
                if len(hit):
                    return tuple(map(int, run[hit[0]]))
        return None

    def _inside(self, points: Points) -> Points:
        """Those pixels that the image has."""
        known = (points >= 0) & (points < self._found.shape)
        return points[known.all(axis=1)]


__all__ = ["Place", "Pointer", "Pointing"]
