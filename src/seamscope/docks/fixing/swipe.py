"""Two results on one view, with a divide between them that is dragged on the canvas.

Knows arrays, layers, and the mouse on the canvas. Does not know runs, or what was fixed.

Nothing is copied: the layer's array reads each side of the divide from the layer of that result,
so that moving the divide is drawing again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer
from qtpy.QtCore import QObject, QTimer, Signal

from seamscope.docks.layers import camera, shown_point
from seamscope.images.dimensions import full_index
from seamscope.images.views import LazyArray

_GRIP = 12.0  # screen pixels around the divide that take the mouse
_LINE = 3.0  # screen pixels
NAME = "before | after"


class Halves(LazyArray):
    """Values of one array left of a divide, and of another right of it.

    Parameters
    ----------
    left, right
        Of the same shape and type.
    axis
        That is divided.
    line
        Value of the pixels at the divide; None for no line.

    Attributes
    ----------
    divide
        Pixel along the axis where the right side begins.
    width
        Of the line, in pixels.
    """

    def __init__(self, left: Any, right: Any, axis: int, line: Any = None) -> None:
        self._sides, self._axis, self._line = (left, right), axis, line
        self.shape = tuple(left.shape)
        self.dtype = np.dtype(left.dtype)
        self.divide = self.shape[axis] // 2
        self.width = 1

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        given = full_index(key, self.ndim)
        across = given[self._axis]
        if not isinstance(across, slice):
            place = range(self.shape[self._axis])[int(across)]
            return np.asarray(self._sides[place >= self.divide][given])
        places = np.arange(self.shape[self._axis])[across]
        return self._joined(given, places)

    def _joined(self, given: tuple[Any, ...], places: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Read both sides where they are shown, and put them side by side."""
        parts = []
        for side, own in zip(
            self._sides, (places[places < self.divide], places[places >= self.divide]), strict=True
        ):
            step = int(places[1] - places[0]) if len(places) > 1 else 1
            part = slice(int(own[0]), int(own[-1]) + 1, step) if len(own) else slice(0, 0)
            where = (*given[: self._axis], part, *given[self._axis + 1 :])
            parts.append(np.asarray(side[where]))
        kept = sum(isinstance(part, slice) for part in given[: self._axis])
        values = np.concatenate(parts, axis=kept)
        if self._line is not None:
            near = np.abs(places + 0.5 - self.divide) <= self.width / 2
            values[(slice(None),) * kept + (near,)] = self._line
        return values


class Swipe(QObject):
    """Layers that show one result left of a divide and another right of it.

    Signals
    -------
    moved : (float)
        The divide lies at this part of the image, 0 to 1.
    closed
        The layers are gone.
    """

    moved = Signal(float)
    closed = Signal()

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layers: list[tuple[Layer, Halves]] = []

    @property
    def shown(self) -> bool:
        """Whether the layers are there."""
        return bool(self._layers)

    @staticmethod
    def possible(before: Sequence[Layer], after: Sequence[Layer]) -> bool:
        """Whether layers lie on each other, pixel by pixel."""
        pairs = list(zip(before, after, strict=False))
        same = len(before) == len(after) > 0
        return same and all(_alike(one, other) for one, other in pairs)

    def show(self, before: Sequence[Layer], after: Sequence[Layer]) -> None:
        """Show both, divided in the middle of the view."""
        self.close()
        for one, other in zip(before, after, strict=True):
            rgb = bool(getattr(other, "rgb", False))
            line = 255 if rgb else None if isinstance(other, Labels) else other.contrast_limits[1]
            halves = Halves(one.data, other.data, other.ndim - 1, line)
            self._layers.append((self._added(halves, other, rgb), halves))
        self._viewer.mouse_drag_callbacks.append(self._drag)
        self._viewer.layers.events.removed.connect(self._removed)
        self._put(float(shown_point(after[0], self._viewer)[-1]))

    def _added(self, halves: Halves, like: Any, rgb: bool) -> Layer:
        look: dict[str, Any] = {
            name: getattr(like, name)
            for name in ("scale", "translate", "rotate", "shear", "affine", "units", "opacity")
        }
        look |= {"axis_labels": like.axis_labels, "name": NAME, "metadata": {"seamscope": {}}}
        if isinstance(like, Labels):
            layer: Layer = self._viewer.add_labels(halves, colormap=like.colormap, **look)
            layer.editable = False  # a picture of two layers
            return layer
        look["blending"] = like.blending
        if not rgb:
            look |= {"colormap": like.colormap, "contrast_limits": like.contrast_limits}
        return self._viewer.add_image(halves, rgb=rgb, multiscale=False, **look)

    def move(self, part: float) -> None:
        """Put the divide at a part of the image, 0 to 1."""
        if self._layers:
            self._put(part * self._count)

    @property
    def _count(self) -> int:
        layer, halves = self._layers[0]
        return halves.shape[layer.ndim - 1]

    def _put(self, pixel: float) -> None:
        divide = int(np.clip(round(pixel), 0, self._count))
        for layer, halves in self._layers:
            halves.divide, halves.width = divide, max(1, round(_LINE / self._zoom()))
            layer.refresh(extent=False, thumbnail=False)
        self.moved.emit(divide / self._count)

    def _zoom(self) -> float:
        """Screen pixels of one pixel of the layer."""
        return max(float(camera(self._viewer).zoom * abs(self._layers[0][0].scale[-1])), 1e-6)

    def _across(self, point: Sequence[float]) -> float:
        """Pixel of the layer at a point of the world."""
        return float(self._layers[0][0].world_to_data(point)[-1]) + 0.5

    def _drag(self, _: Any, event: Any) -> Iterator[None]:
        """Drag the divide; the view stays where it is meanwhile."""
        layer, halves = self._layers[0]
        apart = abs(self._across(event.position) - halves.divide) * self._zoom()
        if apart > _GRIP or not layer.visible or self._viewer.dims.ndisplay != 2:
            return
        view = camera(self._viewer)
        panned, view.mouse_pan = view.mouse_pan, False
        yield  # napari continues when the mouse moves and when it is released
        while event.type == "mouse_move" and self.shown:
            self._put(self._across(event.position))
            yield
        view.mouse_pan = panned

    def _removed(self, event: Any) -> None:
        if any(event.value is layer for layer, _ in self._layers):
            self.close()

    def close(self) -> None:
        """Hide the layers, and take them away when napari is at rest.

        Not at once: napari may be removing other layers, and goes through its list of them.
        """
        gone, self._layers = self._layers, []
        if not gone:
            return
        self._viewer.layers.events.removed.disconnect(self._removed)
        self._viewer.mouse_drag_callbacks.remove(self._drag)
        for layer, _ in gone:
            layer.visible = False
        QTimer.singleShot(0, partial(_take_away, self._viewer, [layer for layer, _ in gone]))
        self.closed.emit()


def _take_away(viewer: Any, layers: Sequence[Layer]) -> None:
    for layer in layers:
        if layer in viewer.layers:
            viewer.layers.remove(layer)


def _alike(before: Layer, after: Layer) -> bool:
    known = ImageLayer, Labels
    if not isinstance(before, known) or not isinstance(after, known):
        return False
    if type(before) is not type(after) or before.multiscale or after.multiscale:
        return False
    same = before.data.shape == after.data.shape and before.data.dtype == after.data.dtype
    return bool(same and np.allclose(before.extent.world, after.extent.world))


__all__ = ["NAME", "Halves", "Swipe"]
