"""Steps of a model card on the whole prediction, carried out when all tiles are done.

Knows operations that need statistics of the result, and how a result of any size is changed where
it lies. Does not know networks, tiles or the formats of model cards.

Statistics of a tile's prediction would make neighbouring tiles differ, as those of a tile's
intensities do. So tiles are stitched as the network gives them, the result is measured by
streaming, and then changed block by block. Seams are measured before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.images.image import Image, open_image
from seamscope.images.intensity import EPS, Intensity
from seamscope.images.preparation import Measured, Preparation, Prepared, Scaled, Step
from seamscope.images.results.output import Output
from seamscope.progress import QUIET, Work
from seamscope.serialization import record

Array: TypeAlias = npt.NDArray[Any]

_BLOCK = 2**24
"""Bytes of the result that are changed at a time."""


@dataclass(frozen=True)
class Matched:
    """Mean and standard deviation of the image that was predicted, taken over.

    ``(x - mean) / (std + eps) * (std of the image + eps) + mean of the image``: bioimage.io's
    ``scale_mean_variance``.

    Attributes
    ----------
    eps
        Added to standard deviations.
    together
        Whether all channels share statistics.
    """

    eps: float = EPS
    together: bool = False

    def steps(self, image: Intensity) -> tuple[Step, Step]:
        """Write it as operations, given the z-score of the image."""
        std = (0.0 if d == 1.0 else d - EPS for d in image.divisor)  # 1 is that of a constant image
        gain = tuple(each + self.eps for each in std)
        measured = Measured("zscore", eps=self.eps, together=self.together)
        return measured, Scaled(gain, image.offset)


@dataclass(frozen=True)
class Postprocessing:
    """Operations in order.

    Attributes
    ----------
    steps
        The steps.
    """

    steps: tuple[Step | Matched, ...]

    @property
    def needs_image(self) -> bool:
        """Whether the z-score of the image that was predicted must be known."""
        return any(isinstance(step, Matched) for step in self.steps)

    def preparation(self, image: Intensity | None) -> Preparation:
        """Return the operations on a result, given the z-score of the image where it is needed."""
        steps: list[Step] = []
        for step in self.steps:
            if isinstance(step, Matched):
                assert image is not None  # required, see `needs_image`
                steps += step.steps(image)
            else:
                steps.append(step)
        return Preparation(tuple(steps))

    def __str__(self) -> str:
        steps = [
            "mean and standard deviation of the image"
            if isinstance(step, Matched)
            else str(Preparation((step,)))
            for step in self.steps
        ]
        return ", ".join(steps)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the steps in order, each named by its class."""
        return [
            record(step="matched", **vars(step))
            if isinstance(step, Matched)
            else Preparation((step,)).to_json()[0]
            for step in self.steps
        ]


def measure_result(
    array: Any,
    axes: str,
    preparation: Preparation,
    *,
    work: Work = QUIET,
) -> Prepared:
    """Measure a whole result for its postprocessing; nothing is changed yet.

    Parameters
    ----------
    array, axes
        The result, and a letter for each of its axes.
    preparation
        The steps.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Raises
    ------
    ImageError
        When the result has values that are not finite.
    InterruptedError
        When stopped.
    """
    work.phase("Measuring the whole prediction, to postprocess it", "%")
    return preparation.measure(_view(array, axes), channel_axis=_channel(axes), work=work)


def change_result(output: Output, axes: str, prepared: Prepared) -> None:
    """Do to a result what was measured for it, where it lies.

    This cannot be stopped on the way: a result that is changed in part is of no use.

    Parameters
    ----------
    output, axes
        The result, and a letter for each of its axes.
    prepared
        By `measure_result`.
    """
    view, channel = _view(output.array, axes), _channel(axes)
    for region in _regions(view, channel):
        block = view.read(region)
        output.write(region, changed(block, channel, prepared))


def changed(block: Array, channel: int | None, prepared: Prepared) -> Array:
    """Return a block of the result with all its channels, changed; float32."""
    first = block[np.newaxis] if channel is None else np.moveaxis(block, channel, 0)
    out = np.empty(first.shape, np.float32)
    prepared.apply(first, out)
    return out[0] if channel is None else np.moveaxis(out, 0, channel)


def _regions(view: Image, channel: int | None) -> Iterator[tuple[slice, ...]]:
    """Regions that cover the result once, with all channels each."""
    if channel is None:
        yield from view.blocks(_BLOCK)
        return
    count = view.shape[channel]
    for region in view.blocks(max(view.dtype.itemsize, _BLOCK // count)):
        if region[channel].start == 0:
            yield (*region[:channel], slice(0, count), *region[channel + 1 :])


def _view(array: Any, axes: str) -> Image:
    view = open_image(array, axes=axes)
    return dataclasses.replace(view, name="the prediction", source=None, _kept=None)


def _channel(axes: str) -> int | None:
    return axes.index("c") if "c" in axes else None


__all__ = ["Matched", "Postprocessing", "change_result", "changed", "measure_result"]
