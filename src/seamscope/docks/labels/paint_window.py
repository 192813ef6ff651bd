"""Painting and erasing in a window around the view: a layer of pixels, folded into corrections.

Knows napari's labels layers and masks. Does not know how corrections are kept.

Labels of large images are lazy, and cannot be painted. So the part that is seen is copied into a
layer of its own, where all of napari's tools work; what changed there becomes corrections::

    begin(region)  ->  layer "paint" with the names of objects  ->  brush, fill, erase
    changes()      ->  for each object its new pixels, for the background what was erased
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.docks.layers import place_like
from seamscope.tiling import Slices

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Change:
    """New pixels of one object, or of the background.

    Attributes
    ----------
    mask
        Pixels of the window, bool.
    erased
        Whether they become background.
    place
        A pixel of the image that belongs to the object; None for a new object.
    """

    mask: Array
    erased: bool
    place: tuple[int, ...] | None


class PaintWindow:
    """A layer in which a part of other labels is painted.

    Parameters
    ----------
    viewer
        The layer is added to it.
    layer
        The labels.
    region
        The part, a slice for each axis.
    names
        What is there now.
    """

    def __init__(self, viewer: Any, layer: Any, region: Slices, names: Array) -> None:
        self._viewer, self._shown = viewer, layer
        self.corner = tuple(int(s.start) for s in region)
        self._before = names.copy()
        place = place_like(layer, 0, [1.0] * names.ndim, self.corner)
        self.layer = viewer.add_labels(
            names.copy(), name="paint", opacity=0.6, metadata={"seamscope": {}}, **place
        )
        layer.visible = False
        self.layer.mode = "paint"

    @property
    def present(self) -> bool:
        """Whether the layer is still in the viewer."""
        return self.layer in self._viewer.layers

    def changes(self) -> Iterator[Change]:
        """Return what was painted, one after the other; what is erased comes last."""
        after = np.asarray(self.layer.data)
        changed = after != self._before
        for name in sorted(np.unique(after[changed]).tolist(), reverse=True):
            mask = changed & (after == name)
            yield Change(mask, name == 0, None if name == 0 else self._place(name, after))

    def keep(self, change: Change) -> None:
        """A change was kept: it is there now, and none any more."""
        self._before[change.mask] = np.asarray(self.layer.data)[change.mask]

    def _place(self, name: int, after: Array) -> tuple[int, ...] | None:
        """A pixel that belonged to an object and still does."""
        kept = np.argwhere((self._before == name) & (after == name))
        if not len(kept):
            return None
        return tuple(int(p + c) for p, c in zip(kept[0], self.corner, strict=True))

    def close(self) -> None:
        """Remove the layer, and show the labels again."""
        if self.present:
            self._viewer.layers.remove(self.layer)
        if self._shown in self._viewer.layers:
            self._shown.visible = True
            self._viewer.layers.selection.active = self._shown


def region_in_view(
    area: dict[str, tuple[int, int]], axes: str, shape: Sequence[int], most: int
) -> Slices:
    """Return the pixels in view, around their middle no more than `most` along an axis."""
    region = []
    for letter, n in zip(axes, shape, strict=True):
        low, high = area.get(letter, (0, n))
        if high - low > most:
            low = (low + high - most) // 2
            high = low + most
        region.append(slice(low, high))
    return tuple(region)


__all__ = ["Change", "PaintWindow", "region_in_view"]
