"""Which part of the image is predicted: all of it, what is in view, or a rectangle that is drawn.

Knows the view and shapes layers. Does not know networks or plans.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Shapes
from qtpy.QtCore import QObject, Signal
from superqt.utils import qthrottled

from seamscope.docks.editors import Choice
from seamscope.docks.layers import (
    area_in_view,
    area_of_shape,
    camera,
    drawn_shapes,
    letters_of,
)
from seamscope.images.image import Image

_FOLLOW_MS = 100


class Region(QObject):
    """The region that a choice names, followed while view and rectangle move.

    Parameters
    ----------
    choice
        ``"image"``, ``"view"`` or ``"shape"``.
    viewer
        Its view and its shapes layers are looked at.
    listen
        Connects a callback to events of the viewer.

    Signals
    -------
    moved
        The region may be another one.
    """

    moved = Signal()

    def __init__(self, choice: Choice, viewer: Any, listen: Callable[..., None]) -> None:
        super().__init__(choice)
        self._choice, self._viewer, self._listen = choice, viewer, listen
        # not at once: what is in view is known when it has been drawn
        self._follow = qthrottled(self._tell, timeout=_FOLLOW_MS, leading=False)

    @property
    def whole(self) -> bool:
        """Whether all of the image is predicted."""
        return bool(self._choice.value() == "image")

    def area(self, layer: ImageLayer, image: Image) -> dict[str, tuple[int, int]] | None:
        """Return first and last pixel + 1 for each axis; None for the whole image.

        Raises
        ------
        SettingsError
            When nothing of the image is in view, or no rectangle is drawn over it.
        """
        if self.whole:
            return None
        letters = letters_of(layer, image)
        if self._choice.value() == "view":
            return area_in_view(layer, letters, self._viewer)
        return area_of_shape(drawn_shapes(self._viewer), layer, letters)

    def follow(self) -> None:
        """Follow the view."""
        self._listen(
            [camera(self._viewer).events, self._viewer.dims.events.current_step], self._view_moved
        )

    def offer(self, layer: ImageLayer | None) -> None:
        """Follow another choice; for a rectangle there is a layer to draw it in."""
        self._follow()
        if self._choice.value() != "shape" or layer is None:
            return
        shapes = drawn_shapes(self._viewer) or self._add_shapes(layer)
        self._listen([shapes.events.data, shapes.events.highlight], self._view_moved)

    def _add_shapes(self, layer: ImageLayer) -> Shapes:
        """Add a layer to draw in, with the rectangle tool selected."""
        pixel = max(camera(self._viewer).zoom * float(layer.scale[-1]), 1e-6)
        shapes: Shapes = self._viewer.add_shapes(
            ndim=layer.ndim,
            name="region",
            face_color="transparent",
            edge_color="white",
            edge_width=2 / pixel,
            scale=layer.scale,
            translate=layer.translate,
            units=layer.units,
        )
        shapes.mode = "add_rectangle"
        return shapes

    def _view_moved(self, _: Any = None) -> None:
        if not self.whole:
            self._follow()

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the dock may have been deleted meanwhile
            self.moved.emit()


__all__ = ["Region"]
