"""Labels of any program with pairs of them made one, looked up where they are read.

Knows lookups and layers. Does not know which pairs, or why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.docks.layers import image_of, path_of
from seamscope.images.image import Image
from seamscope.images.views import LazyArray
from seamscope.segmentation.label_images import merge_table

Array = npt.NDArray[Any]
Pairs = Sequence[tuple[int, int]]


class Merged:
    """Labels of a layer, some of them merged; every merge can be taken back.

    Parameters
    ----------
    levels
        What a layer shows: one array, or several levels of detail.

    Attributes
    ----------
    levels
        The same, merged.
    """

    def __init__(self, levels: Sequence[Any]) -> None:
        self._steps: list[Pairs] = []
        self._table: Array = np.zeros(1, np.int64)
        self.levels = [_Level(level, self) for level in levels]

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """All pairs that are made one."""
        return [pair for step in self._steps for pair in step]

    def merge(self, pairs: Pairs) -> None:
        """Make labels one, in one step."""
        self._steps.append(list(pairs))
        self._renew()

    def undo(self) -> None:
        """Take the latest step back."""
        if self._steps:
            self._steps.pop()
            self._renew()

    def _renew(self) -> None:
        highest = max((max(pair) for pair in self.pairs), default=0)
        self._table = merge_table(highest, self.pairs)

    def of(self, values: Array) -> Array:
        """Return what labels became."""
        table = self._table
        small = values < len(table)
        return np.where(small, table[np.where(small, values, 0)], values).astype(values.dtype)


class _Level(LazyArray):
    def __init__(self, data: Any, merged: Merged) -> None:
        self._data, self._merged = data, merged
        self.shape, self.dtype = tuple(data.shape), np.dtype(data.dtype)

    def __getitem__(self, index: Any) -> Any:
        part = self._data[index]
        if getattr(part, "ndim", 0) > 2 and not isinstance(part, np.ndarray):
            return _Level(part, self._merged)  # stays unread until it is needed
        return self._merged.of(np.asarray(part))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self._merged.of(np.asarray(self._data)), dtype)


class MergedLayer:
    """Merges in one layer of labels, shown in a second layer above it.

    Parameters
    ----------
    viewer
        That shows both.
    layer
        The labels. They stay as they are.

    Attributes
    ----------
    shown
        The second layer.
    merged
        The merges.
    """

    def __init__(self, viewer: Any, layer: Any) -> None:
        self._viewer, self._layer = viewer, layer
        self.merged = Merged(list(layer.data) if layer.multiscale else [layer.data])
        levels = self.merged.levels
        self.shown = viewer.add_labels(
            levels if len(levels) > 1 else levels[0],
            multiscale=len(levels) > 1,
            name=f"merged · {layer.name}",
            scale=layer.scale,
            translate=layer.translate,
            units=layer.units,
            axis_labels=layer.axis_labels,
            metadata={"seamscope": dict(layer.metadata.get("seamscope", {}))},
        )
        self.shown.editable = False
        layer.visible = False

    @property
    def present(self) -> bool:
        """Whether the viewer still has the second layer."""
        return self.shown in self._viewer.layers

    def merge(self, pairs: Pairs) -> None:
        """Make labels one, in one step, and show it."""
        self.merged.merge(pairs)
        self.shown.refresh(extent=False)

    def undo(self) -> None:
        """Take the latest step back, and show it."""
        self.merged.undo()
        self.shown.refresh(extent=False)

    def image(self, axes: str) -> Image:
        """Return the labels as they were before merging, where the layer lies."""
        image, layer = image_of(self._layer, axes), self._layer
        origin = tuple(float(first) for first in layer.translate)
        return dataclasses.replace(image, origin=origin, source=path_of(layer) or image.source)


__all__ = ["Merged", "MergedLayer"]
