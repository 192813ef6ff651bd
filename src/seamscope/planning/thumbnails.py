"""What lies under a part of a result: pictures of the image, in the result's own pixels.

Knows how a plan's result lies over its image. Does not know networks, or how pictures are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.images.image import Image
from seamscope.planning.plan import Plan
from seamscope.tiling import Slices

Array: TypeAlias = npt.NDArray[Any]


def image_under(plan: Plan, image: Image, region: Slices, frame: Sequence[int] = ()) -> Array:
    """Read the image under a region of the result, its first channel or the one that is used.

    Parameters
    ----------
    plan, image
        Of the run.
    region
        Pixels of the result, along the axes of space; not the area's own.
    frame
        Index of the image along each iterated axis.

    Returns
    -------
    numpy.ndarray
        ``(*region)``; where the result has other pixels than the image, the nearest of the image.
    """
    wanted = [
        _nearest(np.arange(part.start, part.stop), axis.lattice.scale, axis.size)
        for part, axis in zip(region, plan.grid.axes, strict=True)
    ]
    hull = [slice(int(i[0]), int(i[-1]) + 1) for i in wanted]
    values = _read(plan, image, hull, frame)
    inside = np.ix_(*(i - part.start for i, part in zip(wanted, hull, strict=True)))
    return np.asarray(values[inside])


def thumbnail(plan: Plan, image: Image, frame: Sequence[int] = (), longest: int = 700) -> Array:
    """Read the whole image at a lower resolution; in 3D its middle slice.

    Parameters
    ----------
    plan, image, frame
        As for `image_under`.
    longest
        Most pixels along an axis.

    Returns
    -------
    numpy.ndarray
        ``(Y, X)``, every so many pixels one.
    """
    sizes = plan.grid.image_shape
    step = max(1, math.ceil(max(sizes[-2:]) / longest))
    middle = tuple(slice(n // 2, n // 2 + 1) for n in sizes[:-2])
    *_, rows, columns = (0, *sizes) if len(sizes) == 1 else sizes
    if len(sizes) == 1:
        return _read(plan, image, [slice(0, columns)], frame)[None, ::step]
    slabs = []
    thick = step * max(1, (1 << 24) // max(step * columns, 1))
    for start in range(0, rows, thick):
        part = (*middle, slice(start, min(start + thick, rows)), slice(0, columns))
        values = _read(plan, image, part, frame)
        slabs.append(values.reshape(values.shape[-2:])[::step, ::step])
    return np.concatenate(slabs)


def _nearest(pixels: Array, scale: Any, size: int) -> Array:
    if scale == 1:
        return pixels
    return np.asarray(((pixels + 0.5) / float(scale)).astype(int).clip(0, size - 1))


def _read(plan: Plan, image: Image, part: Sequence[slice], frame: Sequence[int]) -> Array:
    """Read a part ``(*spatial)`` of one frame and one channel."""
    layout = plan.layout
    place: dict[str, Any] = dict(zip(layout.spatial, part, strict=True))
    place |= zip(layout.frames, frame, strict=True)
    channel = plan.settings.channel or 0
    values = image.read(tuple(place.get(a, channel) for a in layout.axes))
    order = [a for a in layout.axes if a in layout.spatial]
    return values.transpose([order.index(a) for a in layout.spatial])


__all__ = ["image_under", "thumbnail"]
