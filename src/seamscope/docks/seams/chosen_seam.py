"""The seam that is chosen, drawn over the image.

Knows where a seam lies, and a layer of lines. Does not know the table, or how a view is moved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Shapes

from seamscope.docks.kept_layers import KeptLayers
from seamscope.docks.layers import place_like, screen_size, shown_dims
from seamscope.docks.results import Run, layer_point
from seamscope.seams.measures import Seam

COLOR = "#ff5d8f"
_SCREEN_PIXELS = 3.0
_MARK = {"chosen seam": True}


class ChosenSeam:
    """A line over the image where two tiles meet.

    Parameters
    ----------
    viewer
        The layer is added to it when a seam is first shown.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._kept = KeptLayers(viewer, "chosen seam")

    @property
    def layer(self) -> Shapes | None:
        """The layer, where it is seen."""
        layer: Shapes | None = self._kept.seen()
        return layer

    def show(self, run: Run, seam: Seam, again: bool = False) -> None:
        """Draw a seam of a run; its plan is the one that was measured. Nothing in 3D.

        `again` as for `KeptLayers.show`.
        """
        self.hide()
        if self._viewer.dims.ndisplay > 2 or run.layer.ndim < 2:
            return
        line, kind = self._line(run, seam)
        place = place_like(run.layer, 0, (1,) * run.layer.ndim, (0,) * run.layer.ndim)
        look = {
            "edge_width": _SCREEN_PIXELS / screen_size(run.layer, self._viewer),
            "edge_color": COLOR,
            "name": f"chosen seam · {run.layer.name}",
            "metadata": {"seamscope": _MARK},
        }
        own = self._kept.show(
            (run.layer.ndim,), Shapes, [(line, kind)], place, look, again, face_color="transparent"
        )
        own.editable = False
        self._kept.raise_to_top()

    def hide(self) -> None:
        """Draw nothing."""
        self._kept.hide()

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


__all__ = ["COLOR", "ChosenSeam"]
