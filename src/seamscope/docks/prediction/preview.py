"""The tile grid, drawn.

Knows how tiles look: the lines they share, colours and widths on the screen. Does not know why
tiles lie where they lie.

A grid is separable: all windows of a column share their left and right edges, and together the
windows of all columns make each edge one line across the image. So the outlines of ten thousand
windows are a few hundred lines, and a few hundred lines are one path that runs to and fro and
turns on the outline of the first and last windows. Six shapes in all, however many tiles: edges
of windows and of cores, each in two directions, and one tile shown by itself, its window and its
core, because one tile cannot be made out among overlapping ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Image as ImageLayer
from napari.layers import Shapes

from seamscope.docks.kept_layers import KeptLayers, draw
from seamscope.docks.layers import Wires, camera, on_slice, screen_size, shown_dims, shown_point
from seamscope.planning.plan import Plan
from seamscope.tiling import AxisTile, AxisTiling

CORE, WINDOW = "#ffd23f", "#35c4f0"
"""Colours of cores and windows, distinct for the colour-blind too."""

_CORE_PIXELS, _WINDOW_PIXELS = 1.6, 0.9  # widths on the screen
_EDGES = [WINDOW, WINDOW, CORE, CORE, WINDOW, CORE]
_FACES = ["transparent"] * 4 + [WINDOW + "30", CORE + "40"]
_TYPES = ["path"] * 4 + ["rectangle"] * 2
_MARK = {"preview": True}
_CLOSEST = 5.0  # edges of windows are left out where cores are fewer screen pixels apart than this

Sides = tuple[float, float]
Vertices = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lines:
    """Where the edges of tiles cut one axis, in pixels of the image.

    Attributes
    ----------
    cores, windows
        Positions of edges, ascending, no two alike.
    core, window
        The tile that is shown by itself.
    """

    cores: tuple[float, ...]
    windows: tuple[float, ...]
    core: Sides
    window: Sides

    @classmethod
    def of(cls, axis: AxisTiling, area: slice, blends: bool, point: float) -> Lines:
        """Edges of the tiles that make an area of the result."""
        scale = float(axis.lattice.scale)
        touched = axis.touching((area.start, area.stop), trusted=blends)
        tiles = [axis[i] for i in touched]
        cores = [(t.core[0] / scale, t.core[1] / scale) for t in tiles]
        number = _nearest(cores, point)
        return cls(
            cores=_positions(cores),
            windows=_positions([_window(tile, axis) for tile in tiles]),
            core=cores[number],
            window=_window(tiles[number], axis),
        )

    @classmethod
    def whole(cls, size: int) -> Lines:
        """Of an axis that is not tiled."""
        sides = (0.0, float(size))
        return cls(sides, sides, sides, sides)


def _window(tile: AxisTile, axis: AxisTiling) -> Sides:
    """What is read: the image as far as the tile reaches, and beyond only where that is needed."""
    low = tile.start if axis.lattice.crop[0] else max(tile.start, 0)
    return float(low), float(tile.stop if axis.lattice.crop[1] else min(tile.stop, axis.size))


def _positions(sides: Sequence[Sides]) -> tuple[float, ...]:
    return tuple(sorted({edge for pair in sides for edge in pair}))


def _nearest(cores: Sequence[Sides], point: float) -> int:
    distances = [max(low - point, point - high, 0.0) for low, high in cores]
    return int(np.argmin(distances))


class TilePreview:
    """Shapes layer of a plan's tiles, in the plane of the view.

    Parameters
    ----------
    viewer
        The layer is added to it when first shown; from then on only its data are replaced.
    lost
        Called when the layer is removed elsewhere.
    """

    def __init__(self, viewer: Any, lost: Callable[[], None]) -> None:
        self._viewer = viewer
        self._lost = lost
        self._kept = KeptLayers(viewer, "tiles")
        self._layer: Shapes | None = None
        self._of: tuple[ImageLayer, Plan] | None = None
        self._drawn: tuple[Any, ...] = ()  # what is drawn now
        self._wires = Wires()

    def wake(self) -> None:
        """Follow the viewer."""
        viewer = self._viewer
        dims = viewer.dims.events
        turned = (camera(viewer).events.zoom, dims.current_step, dims.order, dims.ndisplay)
        self._wires.connect(turned, self._redraw)
        self._wires.connect([viewer.layers.events.removed], self._forget)

    def sleep(self, *_: object) -> None:
        """Follow the viewer no longer."""
        self._wires.cut()
        self._of = None

    @property
    def layer(self) -> Shapes | None:
        """The layer, where there is one."""
        return self._layer

    def show(self, layer: ImageLayer, plan: Plan, again: bool = False) -> None:
        """Draw the tiles of a plan over the image layer it was made for.

        `again` as for `KeptLayers.show`.
        """
        self._of = (layer, plan)
        if not self._drawable:
            return
        own, place = self._layer, on_slice(layer, self._viewer)
        drawn = layer.name, repr(place), plan.grid, plan.area, plan.blends, plan.image_shape
        if drawn == self._drawn and own is not None and own.visible:
            return  # most settings change no tile
        self._drawn = drawn
        if self._layer is not None and self._layer.ndim != layer.ndim:
            self._kept.hide()
        self._layer = self._kept.show(
            (layer.ndim,),
            Shapes,
            list(zip(self._shapes(), _TYPES, strict=True)),
            place,
            {"name": f"tiles: {layer.name}", "edge_width": self._widths(layer)},
            again,
            edge_color=_EDGES,
            face_color=_FACES,
            opacity=0.9,
            metadata={"seamscope": _MARK},
        )
        self._layer.editable = False

    def hide(self) -> None:
        """Show nothing, until `show`."""
        self._of = None
        self._kept.hide()

    def raise_to_top(self) -> None:
        """Keep the grid above the results."""
        self._kept.raise_to_top()

    @property
    def _drawable(self) -> bool:
        """Not where a picture is turned in space: napari 0.9 fails on flat shapes there."""
        return self._of is not None and self._viewer.dims.ndisplay <= self._of[0].ndim

    def _redraw(self, event: Any = None) -> None:
        if self._of is None or not self._drawable:
            return
        layer, plan = self._of
        if self._layer is None:
            self.show(layer, plan)
        elif layer in self._viewer.layers and self._layer.visible:
            shapes = list(zip(self._shapes(), _TYPES, strict=True))
            place, look = on_slice(layer, self._viewer), {"edge_width": self._widths(layer)}
            draw(self._layer, shapes, place, look)

    def _forget(self, event: Any) -> None:
        if event.value is self._layer:
            self._layer = None
            self._lost()

    def _shapes(self) -> list[Vertices]:
        assert self._of is not None
        layer, plan = self._of
        point = shown_point(layer, self._viewer)
        dims = shown_dims(layer, self._viewer)
        if len(dims) < 2:
            dims = (layer.ndim - 2, layer.ndim - 1)
        across = [self._lines(dim, plan, float(point[dim])) for dim in dims]
        plane = _Plane(np.round(point), dims)
        sparse = [self._thinned(lines, layer, dim) for lines, dim in zip(across, dims, strict=True)]
        return [
            *plane.snakes([lines.windows for lines in sparse]),
            *plane.snakes([lines.cores for lines in across]),
            plane.box([lines.window for lines in across]),
            plane.box([lines.core for lines in across]),
        ]

    def _lines(self, dim: int, plan: Plan, point: float) -> Lines:
        letter = plan.layout.axes[dim]
        if letter not in plan.layout.spatial:
            return Lines.whole(plan.image_shape[dim])
        number = plan.layout.spatial.index(letter)
        axis, area = plan.grid.axes[number], plan.area[number]
        return Lines.of(axis, area, plan.blends, point)

    def _thinned(self, lines: Lines, layer: ImageLayer, dim: int) -> Lines:
        """Without the windows' inner edges where they would be one solid colour."""
        apart = (lines.cores[-1] - lines.cores[0]) / max(len(lines.cores) - 1, 1)
        if apart * float(layer.scale[dim]) * camera(self._viewer).zoom >= _CLOSEST:
            return lines
        ends = (lines.windows[0], lines.windows[-1])
        return Lines(lines.cores, ends, lines.core, lines.window)

    def _widths(self, layer: ImageLayer) -> list[float]:
        size = screen_size(layer, self._viewer)
        core, window = _CORE_PIXELS / size, _WINDOW_PIXELS / size
        return [window] * 2 + [core] * 2 + [1.6 * core] * 2


class _Plane:
    """The plane of the view: two dimensions of the layer, at the current slice of all others."""

    def __init__(self, point: Vertices, dims: tuple[int, ...]) -> None:
        self._point, self._dims = point, dims

    def snakes(self, edges: Sequence[Sequence[float]]) -> list[Vertices]:
        """One path along all edges that cut the second dimension, one along those of the first."""
        first, second = edges
        down = [
            (end, position)
            for i, position in enumerate(second)
            for end in _to_and_fro(i, first[0], first[-1])
        ]
        along = [
            (position, end)
            for i, position in enumerate(first)
            for end in _to_and_fro(i, second[0], second[-1])
        ]
        return [self._placed(down), self._placed(along)]

    def box(self, sides: Sequence[Sides]) -> Vertices:
        """Corners of a rectangle."""
        (top, bottom), (left, right) = sides
        return self._placed([(top, left), (top, right), (bottom, right), (bottom, left)])

    def _placed(self, points: Sequence[tuple[float, float]]) -> Vertices:
        vertices = np.tile(self._point, (len(points), 1))
        # napari's pixels have their centres at whole numbers
        vertices[:, list(self._dims)] = np.asarray(points, float) - 0.5
        return vertices


def _to_and_fro(number: int, low: float, high: float) -> tuple[float, float]:
    return (low, high) if number % 2 == 0 else (high, low)
