"""The file behind an image layer: what else it holds, and whether napari reads it otherwise.

Knows layers and images. Does not know kinds of files, or widgets.

A layer's pixels are what is predicted, whichever reader opened them. Another image or resolution of
its file is opened as a layer of its own, so that results always lie on what they were made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer

from seamscope.docks.layers import add_opened, opened_as, path_of, pixels, place_like
from seamscope.errors import SeamscopeError
from seamscope.images.image import Image, open_image
from seamscope.images.stored import Offer
from seamscope.text import shape_text

_SAMPLE = 16  # pixels along each axis that are compared
_MOST_BYTES = 2**26  # that are decoded for it


@dataclass(frozen=True, eq=False)
class LayerFile:
    """What is known of the file of a layer.

    Attributes
    ----------
    layer
        The layer.
    image
        Its file, as Seamscope opens it; None without one.
    otherwise
        Whether napari's reader gave other pixels.
    """

    layer: ImageLayer
    image: Image | None = None
    otherwise: bool = False

    @classmethod
    def of(cls, layer: ImageLayer) -> LayerFile:
        """Look at the file that a layer was opened from, if any."""
        own = opened_as(layer)
        if own is not None:
            return cls(layer, own)
        path = path_of(layer)
        if not path:
            return cls(layer)
        try:
            image = open_image(path)
            differs = bool(image.notes) and _differ(image, pixels(layer))
        except SeamscopeError:
            return cls(layer)
        return cls(layer, image, differs)

    @property
    def offer(self) -> Offer:
        """What can be chosen: images and resolutions of the file, or resolutions of the layer."""
        own = self.image.offer if self.image is not None else Offer()
        if not self.layer.multiscale:
            return own
        levels = tuple(tuple(level.shape) for level in self.layer.data)
        return Offer(own.series, own.number, levels, 0, own.nodata)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on how the file was read, by Seamscope or by napari."""
        if self.image is None:
            return ()
        # the last one is on pixels without data, which the layer's own image has too
        notes = self.image.notes[: -1 if self.image.missing else None]
        if not self.otherwise:
            return notes
        said = " ".join(notes)
        return (f"napari reads {self.layer.name} otherwise than Seamscope, which says: {said}",)

    def open_as_read(self, viewer: Any) -> ImageLayer:
        """Add a layer of the file as Seamscope reads it."""
        assert self.image is not None
        name = f"{self.layer.name} · as read by Seamscope"
        return add_opened(viewer, self.image, name, path_of(self.layer))

    def open_series(self, viewer: Any, number: int) -> ImageLayer:
        """Add a layer of another image of the file."""
        path = path_of(self.layer)
        image = open_image(path, series=number)
        return add_opened(viewer, image, f"{Path(path).name} · image {number}", path)

    def open_level(self, viewer: Any, level: int) -> ImageLayer:
        """Add a layer of another resolution, lying on this one."""
        path = path_of(self.layer)
        if self.layer.multiscale:
            image = open_image(self.layer.data[level])
        else:
            series = self.offer.number if self.offer.series else None
            image = open_image(path, series=series, level=level)
        full = self.offer.levels[self.offer.level]
        ndim = self.layer.ndim
        size = [a / b for a, b in zip(full[:ndim], image.shape[:ndim], strict=True)]
        place = place_like(self.layer, 0, size, [(step - 1) / 2 for step in size])
        name = f"{self.layer.name} · {shape_text(image.shape)}"
        return add_opened(viewer, image, name, path, **place)


def _differ(image: Image, array: Any) -> bool:
    """Return whether an image has other pixels than an array, as a sample from its middle shows."""
    if tuple(array.shape) != image.shape:
        return True
    if image.kept_bytes((_SAMPLE,) * image.ndim) > _MOST_BYTES:
        return False
    middle = tuple(
        slice(max(0, n // 2 - _SAMPLE // 2), n // 2 + _SAMPLE // 2 + 1) for n in image.shape
    )
    ours, theirs = image.read(middle), np.asarray(array[middle])
    without = np.isnan(ours) if image.missing else np.zeros(ours.shape, np.bool_)
    same = (ours == theirs) | without | ((ours != ours) & (theirs != theirs))
    return not bool(same.all())


__all__ = ["LayerFile"]
