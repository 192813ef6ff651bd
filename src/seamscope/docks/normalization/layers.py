"""How much tiles deviate, and where training and evaluation differ, as layers over the image.

Knows colours and where these layers lie. Does not know how they are measured, or who asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Image as ImageLayer

from seamscope.docks.kept_layers import KeptLayers
from seamscope.docks.layers import over_layer
from seamscope.docks.results import faded
from seamscope.explain.feature_statistics import FeatureStatistics
from seamscope.planning.plan import Plan
from seamscope.tiling import AxisTiling

Array = npt.NDArray[Any]

_OPACITY = 0.55  # the image shines through
_MOST_PIXELS = 1 << 22  # of a map of tiles


class MapLayer:
    """One map at a time.

    Parameters
    ----------
    viewer
        The layer is added to it when first shown.
    title
        What its name begins with.
    colors
        Name of a colormap of napari's.
    changed
        Called when a map is shown or hidden.
    """

    def __init__(
        self, viewer: Any, title: str, colors: str, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._title, self._colors, self._changed = title, colors, changed
        self._kept = KeptLayers(viewer, title)

    @property
    def layer(self) -> ImageLayer | None:
        """The layer, where it is seen."""
        layer: ImageLayer | None = self._kept.seen()
        return layer

    def show(
        self,
        over: ImageLayer,
        array: Array,
        place: dict[str, Any],
        unit: str,
        again: bool = False,
    ) -> None:
        """Draw a map over an image.

        Parameters
        ----------
        over
            The image's layer.
        array, place
            The map, and where it lies (see `tile_map`, `pixel_map`).
        unit
            What its numbers are.
        again
            As for `KeptLayers.show`.
        """
        self.hide()
        finite = array[np.isfinite(array)]
        high = float(finite.max(initial=0)) or 1.0
        look = {
            "name": f"{self._title} · {over.name}",
            "contrast_limits_range": (0.0, high),
            "contrast_limits": (0.0, high),
            "metadata": {"seamscope": {"map": self._title, "unit": unit}},
        }
        self._kept.show(
            (array.ndim,),
            ImageLayer,
            array,
            place,
            look,
            again,
            colormap=faded(self._colors),
            blending="translucent_no_depth",
            interpolation2d="nearest",
            opacity=_OPACITY,
        )
        self._changed()

    def hide(self) -> None:
        """Show nothing."""
        self._kept.hide()
        self._changed()


def tile_map(
    found: FeatureStatistics, number: int | None, layer: ImageLayer
) -> tuple[Array, dict[str, Any]]:
    """How much each tile deviates, as a picture of the tiles' cores.

    Parameters
    ----------
    found
        Features of the image's tiles.
    number
        Of the layer in the network; None for all together.
    layer
        The image's.

    Returns
    -------
    array, place
        float32, NaN where no tile was looked at; and where it lies on the image.
    """
    plan = found.plan
    counts = [stop - start for start, stop in plan.frame_ranges]
    values = np.full((math.prod(counts), *plan.grid.shape), np.nan, np.float32)
    frames = sorted({job.frame for job in found.jobs})
    starts = [start for start, _ in plan.frame_ranges]
    for row, frame in zip(found.map(number), frames, strict=True):
        own = [f - s for f, s in zip(frame, starts, strict=True)]
        values[np.ravel_multi_index(own, counts) if own else 0] = row
    steps = _steps(plan)
    for axis, (tiling, part, step) in enumerate(
        zip(plan.grid.axes, plan.area, steps, strict=True), start=1
    ):
        values = values.take(_owners(tiling, part, step), axis)
    shaped = values.reshape(*counts, *values.shape[1:])
    sizes = [step / scale for step, scale in zip(steps, plan.facts.scale, strict=True)]
    return _over(shaped, plan, layer, sizes)


def pixel_map(values: Array, plan: Plan, layer: ImageLayer) -> tuple[Array, dict[str, Any]]:
    """A map of the result's own pixels ``(*frames, *area)``, and where it lies on the image."""
    return _over(values, plan, layer, [1 / scale for scale in plan.facts.scale])


def image_pixel(
    plan: Plan, point: Sequence[float]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Spatial pixel and frame of the image at a point of its layer; None beside it."""
    axes, shape = plan.layout.axes, plan.image_shape
    numbers = {letter: round(float(place)) for letter, place in zip(axes, point, strict=False)}
    if not all(0 <= n < shape[axes.index(letter)] for letter, n in numbers.items()):
        return None
    spatial = tuple(numbers[letter] for letter in plan.layout.spatial)
    return spatial, tuple(numbers[letter] for letter in plan.layout.frames)


def _steps(plan: Plan) -> list[int]:
    """Pixels of a tile map: as coarse as its borders allow, coarser where there are too many."""
    steps = []
    for axis, part in zip(plan.grid.axes, plan.area, strict=True):
        edges = [tile.core[1] - part.start for tile in axis]
        steps.append(max(math.gcd(*[e for e in edges if e > 0]), 1))
    pixels_ = [(part.stop - part.start) / s for part, s in zip(plan.area, steps, strict=True)]
    coarser = (math.prod(pixels_) * plan.frames / _MOST_PIXELS) ** (1 / len(steps))
    return [step * max(1, math.ceil(coarser)) for step in steps]


def _owners(axis: AxisTiling, part: slice, step: int) -> npt.NDArray[np.intp]:
    """Tile in whose core each pixel of the map has its centre."""
    ends = np.array([tile.core[1] for tile in axis])
    count = math.ceil((part.stop - part.start) / step)
    centres = part.start + np.minimum(
        np.arange(count) * step + step // 2, part.stop - part.start - 1
    )
    return np.searchsorted(ends, centres, side="right")


def _over(
    array: Array, plan: Plan, layer: ImageLayer, sizes: Sequence[Any]
) -> tuple[Array, dict[str, Any]]:
    """Order an array ``(*frames, *spatial)`` like the layer's dimensions, and place it there."""
    layout = plan.layout
    starts = [(1.0, float(start)) for start, _ in plan.frame_ranges]
    grains = [
        (float(size), float((part.start / scale) + (size - 1) / 2))
        for size, part, scale in zip(sizes, plan.area, plan.facts.scale, strict=True)
    ]
    axes = layout.frames + layout.spatial
    return over_layer(array, dict(zip(axes, [*starts, *grains], strict=True)), layer, layout)
