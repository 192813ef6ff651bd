"""The seam that is chosen, drawn over the image.

Knows where a seam lies, and a layer of lines. Does not know the table, or how a view is moved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Shapes

from seamscope.docks.layers import camera, place_like, shown_dims
from seamscope.docks.results import Run, layer_point
from seamscope.seams.measures import Seam

COLOR = "#ff5d8f"
_SCREEN_PIXELS = 3.0
_MARK = {"chosen seam": True}


class ChosenSeam:
    """A line over the image where two tiles meet.

    Its layer is taken over by the next seam, and hidden where none is chosen: napari crashes on
    software OpenGL where layers of shapes are removed.

    Parameters
    ----------
    viewer
        The layer is added to it when a seam is first shown.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._layers: dict[int, Shapes] = {}

    @property
    def layer(self) -> Shapes | None:
        """The layer, where it is seen."""
        there = (x for x in self._layers.values() if x in self._viewer.layers)
        return next((layer for layer in there if layer.visible), None)

    def show(self, run: Run, seam: Seam) -> None:
        """Draw a seam of a run; its plan is the one that was measured. Nothing in 3D."""
        self.hide()
        if self._viewer.dims.ndisplay > 2 or run.layer.ndim < 2:
            return
        line, kind = self._line(run, seam)
        place = place_like(run.layer, 0, (1,) * run.layer.ndim, (0,) * run.layer.ndim)
        own = self._layers.get(run.layer.ndim)
        if own is None or own not in self._viewer.layers:
            own = self._layers[run.layer.ndim] = self._add(line, kind, place)
        for name, value in place.items():
            setattr(own, name, value)
        own.data = [(line, kind)]
        own.edge_width = self._width(run)
        own.edge_color = COLOR
        own.name = f"chosen seam · {run.layer.name}"
        own.visible = True
        self._viewer.layers.move(self._viewer.layers.index(own), len(self._viewer.layers))

    def hide(self) -> None:
        """Draw nothing."""
        for layer in self._layers.values():
            if layer in self._viewer.layers:
                layer.visible = False

    def _line(self, run: Run, seam: Seam) -> tuple[Any, str]:
        """Ends of a line in pixels of the layer, or corners where the seam faces the view."""
        core = run.plan.grid[seam.lower].core
        ends = []
        for side in (0, 1):
            pixel = [(part.start, part.stop)[side] - 0.5 for part in core]
            pixel[seam.axis] = core[seam.axis].stop - 0.5
            ends.append(layer_point(run, seam.frame, pixel))
        at = layer_point(run, seam.frame, seam.worst)
        rest = [0.0 if place is None else round(place) for place in at]
        first, second = shown_dims(run.layer, self._viewer)
        low, high = ([end[first], end[second]] for end in ends)
        flat = low[0] == high[0] or low[1] == high[1]
        corners = [low, high] if flat else [low, [low[0], high[1]], high, [high[0], low[1]]]
        vertices = np.tile(np.asarray(rest, float), (len(corners), 1))
        vertices[:, [first, second]] = np.asarray(corners, float)
        return vertices, "line" if flat else "rectangle"

    def _add(self, line: Any, kind: str, place: dict[str, Any]) -> Shapes:
        chosen = set(self._viewer.layers.selection)
        layer: Shapes = self._viewer.add_shapes(
            [line], shape_type=kind, edge_color=COLOR, face_color="transparent",
            metadata={"seamscope": _MARK}, **place,
        )  # fmt: skip
        layer.editable = False
        self._viewer.layers.selection = chosen & set(self._viewer.layers)
        return layer

    def _width(self, run: Run) -> float:
        dims = list(shown_dims(run.layer, self._viewer))
        size = float(np.mean(np.abs(np.asarray(run.layer.scale)[dims])))
        return _SCREEN_PIXELS / max(size * camera(self._viewer).zoom, 1e-9)


__all__ = ["COLOR", "ChosenSeam"]
