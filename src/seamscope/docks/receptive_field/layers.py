"""The receptive field over the image: the map as an image, both fields as boxes.

Knows colours and where the layers lie. Does not know how maps are made, or which controls ask.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Image as ImageLayer
from napari.layers import Shapes

from seamscope.docks.kept_layers import KeptLayers
from seamscope.docks.layers import (
    Wires,
    camera,
    displayed,
    on_slice,
    over_layer,
    pixels,
    screen_size,
    shown_point,
)
from seamscope.docks.receptive_field.profile_plot import THEORY
from seamscope.docks.results import faded
from seamscope.planning.plan import Layout
from seamscope.receptive_field.gradient_maps import GradientMap
from seamscope.tiling import Sides

EFFECTIVE = "#35c4f0"
_COLORS = (EFFECTIVE, THEORY)
_LOWEST = -6  # power of ten of the relative gradient that is shown
_SCREEN_PIXELS = 1.8  # width of the boxes' lines
_FACES = 6  # rectangles of a box, also of one that is seen from above
_MARK = {"receptive field": True}

Array = npt.NDArray[Any]


class FieldLayers:
    """Map and boxes of one output pixel.

    Parameters
    ----------
    viewer
        The layers are added to it when first shown.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._kept = KeptLayers(viewer, "receptive field")
        self._of: tuple[ImageLayer, list[list[Sides] | None]] | None = None
        self._wires = Wires()

    def wake(self) -> None:
        """Follow the viewer."""
        dims = self._viewer.dims.events
        turned = (camera(self._viewer).events.zoom, dims.current_step, dims.order, dims.ndisplay)
        self._wires.connect(turned, self._redraw)

    def sleep(self, *_: object) -> None:
        """Follow the viewer no longer."""
        self._wires.cut()
        self._of = None

    @property
    def map(self) -> ImageLayer | None:
        """The map's layer, where it is seen."""
        layer: ImageLayer | None = self._kept.seen("map")
        return layer

    @property
    def boxes(self) -> Shapes | None:
        """The boxes' layer, where it is seen."""
        layer: Shapes | None = self._kept.seen("boxes")
        return layer

    # -- the map

    def show_map(
        self,
        layer: ImageLayer,
        layout: Layout,
        shown: GradientMap,
        origin: Sequence[int],
        again: bool = False,
    ) -> None:
        """Draw a map over the image it belongs to.

        Parameters
        ----------
        layer, layout
            The image's layer, and its axes.
        shown
            The map.
        origin
            Image pixel at which it begins, along the spatial axes.
        again
            As for `KeptLayers.show`.
        """
        array, place = placed_map(layer, layout, _logarithm(shown.values), origin)
        about = {
            "receptive_field": True,
            "unit": "power of ten of the gradient relative to its largest value",
            "axes": layout.spatial,
            "origin": [int(o) for o in origin],
        }
        self._kept.hide("map")
        self._kept.show(
            ("map", array.ndim),
            ImageLayer,
            array,
            place,
            {"name": f"receptive field · {layer.name}", "metadata": {"seamscope": about}},
            again,
            colormap=faded("inferno"),
            contrast_limits=(_LOWEST, 0),
            blending="translucent_no_depth",
            interpolation2d="nearest",
            rendering="mip",
            opacity=0.85,
        )

    def hide_map(self) -> None:
        """Show no map."""
        self._kept.hide("map")

    # -- the boxes

    def show_boxes(
        self,
        layer: ImageLayer,
        layout: Layout,
        effective: Sequence[Sides] | None,
        theoretical: Sequence[Sides] | None,
        again: bool = False,
    ) -> None:
        """Draw two boxes, each ``(first, stop)`` image pixels along the spatial axes; or none.

        `again` as for `KeptLayers.show`.
        """
        each = [
            None if box is None else _in_layer(box, layer, layout)
            for box in (effective, theoretical)
        ]
        self._of = (layer, each)
        self._update(again)

    def hide_boxes(self) -> None:
        """Show no boxes."""
        self._of = None
        self._kept.hide("boxes")

    def _redraw(self, event: Any = None) -> None:
        """Follow the view. Boxes that were removed stay removed, also when napari closes."""
        if self._of is None or not any(self._kept.all("boxes", self._of[0].ndim)):
            return
        self._update(again=True)

    def _update(self, again: bool) -> None:
        assert self._of is not None
        layer, boxes = self._of
        if layer not in self._viewer.layers:
            return
        faces = [self._faces(layer, box) for box in boxes]
        known = [face for face in faces if face]
        if not known:
            self._kept.hide("boxes")
            return
        shapes = [vertices for face in faces for vertices in face or known[0]]
        colors = [
            color if face else "transparent"
            for face, color in zip(faces, _COLORS, strict=True)
            for _ in range(_FACES)
        ]
        self._draw(layer, shapes, colors, again)

    def _draw(self, layer: ImageLayer, shapes: list[Array], colors: list[str], again: bool) -> None:
        look = {
            "name": f"fields · {layer.name}",
            "edge_width": [_SCREEN_PIXELS / screen_size(layer, self._viewer)] * len(shapes),
            "edge_color": colors,
            "metadata": {"seamscope": _MARK},
        }
        own = self._kept.show(
            ("boxes", layer.ndim),
            Shapes,
            [(vertices, "rectangle") for vertices in shapes],
            on_slice(layer, self._viewer),
            look,
            again,
            face_color="transparent",
        )
        own.editable = False

    def _faces(self, layer: ImageLayer, box: list[Sides] | None) -> list[Array] | None:
        """Rectangles of a box: its faces in 3D, else its cut with the slice; None where none is."""
        if box is None:
            return None
        point = np.round(shown_point(layer, self._viewer))
        dims = displayed(layer, self._viewer)
        for dim, (first, stop) in enumerate(box):
            if dim not in dims and not first <= point[dim] < stop:
                return None
        point = np.clip(point, 0, np.asarray(pixels(layer).shape[: layer.ndim]) - 1)
        if len(dims) == 3:
            return [*_cube_faces(point, dims, [box[dim] for dim in dims])]
        return [_rectangle(point, dims, [box[dim] for dim in dims])] * _FACES


def placed_map(
    layer: ImageLayer, layout: Layout, values: Array, origin: Sequence[int]
) -> tuple[Array, dict[str, Any]]:
    """A map with the dimensions of the image's layer, and where it lies.

    Parameters
    ----------
    layer, layout
        The image's layer, and its axes.
    values
        ``(*spatial)``.
    origin
        Image pixel at which they begin.
    """
    grains = {a: (1.0, float(start)) for a, start in zip(layout.spatial, origin, strict=True)}
    return over_layer(values, grains, layer, layout)


def _in_layer(box: Sequence[Sides], layer: ImageLayer, layout: Layout) -> list[Sides]:
    """Sides along each of the layer's dimensions; all of it along those that are not spatial."""
    return [
        box[layout.spatial.index(letter)] if letter in layout.spatial else (0, n)
        for letter, n in zip(layout.axes, pixels(layer).shape[: layer.ndim], strict=False)
    ]


def _rectangle(point: Array, dims: Sequence[int], sides: Sequence[Sides]) -> Array:
    (top, bottom), (left, right) = sides
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    vertices = np.tile(point, (4, 1)).astype(float)
    vertices[:, list(dims)] = np.asarray(corners, float) - 0.5  # pixels' centres are whole numbers
    return vertices


def _cube_faces(point: Array, dims: Sequence[int], sides: Sequence[Sides]) -> Any:
    for flat, end in itertools.product(range(3), range(2)):
        at = point.astype(float)
        at[dims[flat]] = sides[flat][end] - 0.5
        others = [i for i in range(3) if i != flat]
        yield _rectangle(at, [dims[i] for i in others], [sides[i] for i in others])


def _logarithm(values: Array) -> Array:
    """Power of ten relative to the largest value, float32; the lowest stands for zero too."""
    most = float(values.max()) or 1.0
    lowest = 10.0 ** (_LOWEST - 1)
    return np.log10(np.maximum(values / most, lowest)).astype(np.float32)


def box_around(
    covered: Sequence[Sides], origin: Sequence[int], sides: Sequence[Sides]
) -> list[Sides]:
    """Image pixels ``(first, stop)`` that lie ``(before, after)`` around an output pixel."""
    return [
        (start + first - before, start + stop + after)
        for (first, stop), start, (before, after) in zip(covered, origin, sides, strict=True)
    ]


def centred(shown: GradientMap, point: Sequence[float], pitch: Sequence[int]) -> tuple[int, ...]:
    """Origin on the grid that puts a map's output pixel next to a point of the image."""
    return tuple(
        math.floor((p - first) / step + 0.5) * step
        for p, (first, _), step in zip(point, shown.covered, pitch, strict=True)
    )


__all__ = ["EFFECTIVE", "FieldLayers", "box_around", "centred", "placed_map"]
