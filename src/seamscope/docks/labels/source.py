"""What can be segmented: results of runs, image layers, files; and where labels of each lie.

Knows layers, runs and their places. Does not know recipes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer

from seamscope.docks.layers import (
    axes_of,
    file_of_layer,
    image_of,
    name_of,
    pixels,
    place_like,
)
from seamscope.docks.results import Run, placed
from seamscope.docks.session import Session
from seamscope.images.dimensions import are_axes
from seamscope.images.image import Image, open_image

_READINGS = {
    2: ("yx",),
    3: ("cyx", "zyx", "tyx"),
    4: ("czyx", "tcyx", "tzyx", "zcyx"),
    5: ("tczyx", "tzcyx"),
}
_FEW = 16  # planes up to which the first axis is taken for channels


@dataclass(frozen=True, eq=False)
class Source:
    """A prediction that can be segmented.

    Attributes
    ----------
    title
        For people.
    layer
        That shows it, and on which labels lie; None for files.
    run
        That made it; None where it comes from elsewhere.
    path
        Of a file.
    """

    title: str
    layer: ImageLayer | None = None
    run: Run | None = None
    path: str = ""

    @property
    def key(self) -> Any:
        """What makes it the same source when sources are listed again."""
        return self.run or self.path or self.layer

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of its channels, where a run knows them."""
        if self.run is None:
            return None
        return tuple(self.run.model.channels_of(self.run.plan.facts))

    def readings(self) -> tuple[str, ...]:
        """Ways to read its axes, the likeliest first; one where it says which is which."""
        if self.run is not None:
            return (self.run.plan.out_axes,)
        if self.path:
            image = open_image(self.path)
            known, shape = image.axes, image.shape
        else:
            assert self.layer is not None
            known, shape = axes_of(self.layer), tuple(pixels(self.layer).shape)
            stored = str(self.layer.metadata.get("seamscope", {}).get("axes", ""))
            if known is None and len(stored) == len(shape) and are_axes(stored):
                known = stored
        if known is not None:
            return (known,)
        found = _READINGS.get(len(shape), ())
        few = shape[0] <= _FEW
        return tuple(sorted(found, key=lambda axes: ("c" in axes[:2]) != few))

    def open(self, axes: str | None = None) -> Image:
        """Return its image.

        Parameters
        ----------
        axes
            One letter for each axis, one of `readings`.
        """
        if self.run is not None:
            return self._of_run(self.run)
        if self.path:
            return open_image(self.path, axes=axes)
        assert self.layer is not None
        return image_of(self.layer, axes)

    def _of_run(self, run: Run) -> Image:
        return self._described(open_image(run.output.array, axes=run.plan.out_axes), run)

    @staticmethod
    def _described(image: Image, run: Run) -> Image:
        """Return the image of a run's result with its name, pixel size and place."""
        path = run.output.path if hasattr(run.output, "path") else None
        return replace(
            image,
            name=run.title,
            scale=tuple(run.plan.scale),
            units=tuple(run.plan.units),
            source=None if path is None else str(path),
        )

    def shared(self, axes: str | None = None) -> Image:
        """Return its image as other processes open it; from memory where it is in no file.

        Parameters
        ----------
        axes
            As for `open`.

        Raises
        ------
        ImageError
            When the layer's file holds other pixels.
        """
        run = self.run
        if run is not None and run.stored:
            return self._described(open_image(str(run.output.path), axes=run.plan.out_axes), run)
        if run is None and self.layer is not None and name_of(self.layer):
            return file_of_layer(self.layer, axes)[1]
        return self.open(axes)

    def place(self, image: Image) -> dict[str, Any]:
        """Return where a layer of labels lies: arguments for napari, one value for each axis."""
        axes = image.axes or ""
        kept = [i for i, letter in enumerate(axes) if letter != "c"]
        if self.run is not None:
            shape = [image.shape[i] for i in kept]
            letters = "".join(axes[i] for i in kept)
            view, place = placed(np.broadcast_to(np.uint8(0), shape), self.run, letters)
            if view.shape == tuple(shape):
                return dict(place)
        elif self.layer is not None and self.layer.ndim == image.ndim:
            if kept == list(range(kept[0], image.ndim)):
                return place_like(self.layer, kept[0], [1.0] * len(kept), [0.0] * len(kept))
            return {
                "scale": [self.layer.scale[i] for i in kept],
                "translate": [self.layer.translate[i] for i in kept],
                "units": tuple(self.layer.units[i] for i in kept),
                "axis_labels": tuple(axes[i] for i in kept),
            }
        origin = image.origin or (0.0,) * image.ndim
        return {
            "scale": [image.scale[i] for i in kept],
            "translate": [origin[i] for i in kept],
            "units": tuple(image.units[i] or "pixel" for i in kept),
            "axis_labels": tuple(axes[i] for i in kept),
        }


def sources(viewer: Any, session: Session, files: Sequence[str] = ()) -> list[Source]:
    """List what can be segmented in a viewer: results first, the newest first."""
    found: list[Source] = []
    shown: list[Any] = []
    for run in reversed(session.runs):
        layers = [layer for layer in session.layers_of(run) if layer in viewer.layers]
        shown += session.layers_of(run)
        if layers and run.finished and run.plan.settings.result != "labels":
            found.append(Source(run.title, run.layer, run))
    found += [Source(Path(path).name, path=path) for path in files]
    for layer in reversed(list(viewer.layers)):
        plain = isinstance(layer, ImageLayer) and not layer.rgb and layer.ndim >= 2
        if plain and layer not in shown:
            found.append(Source(layer.name, layer))
    return found


__all__ = ["Source", "sources"]
