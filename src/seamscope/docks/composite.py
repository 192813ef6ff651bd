"""Channels of a result as one coloured picture, computed where it is looked at.

Knows how values of channels become a colour. Does not know layers, or where values come from.

Nothing is copied: napari asks an array for the slice that is shown, and the colours of that slice
are computed from the channels as they are then. So a result that fills is seen filling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.images.dimensions import full_index
from seamscope.images.views import LazyArray

_COLOR = 4  # red, green, blue, opacity


class Composite(LazyArray):
    """Colours ``(*shape, 4)`` uint8 of channels, each of this shape.

    A pixel's colour is the mean of its channels' colours, weighted by their values between the
    limits; its opacity is the sum of the values, at most 1. So what is not predicted yet is
    transparent.

    Parameters
    ----------
    channels
        Arrays of one shape.
    colors
        Red, green and blue of each channel, 0 to 1.

    Attributes
    ----------
    limits
        Values that weigh 0 and 1.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, channels: Sequence[Any], colors: Sequence[Sequence[float]]) -> None:
        self._channels = channels
        self.shape = (*channels[0].shape, _COLOR)
        self._colors = np.asarray(colors, np.float32)[:, :3]
        self.limits = (0.0, 1.0)

    def __getitem__(self, key: Any) -> npt.NDArray[np.uint8]:
        key = full_index(key, self.ndim)
        values = np.stack([np.asarray(channel[key[:-1]]) for channel in self._channels], axis=-1)
        return self._colored(values)[(..., key[-1])]

    def _colored(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        low, high = self.limits
        weights = (values.astype(np.float32) - low) / ((high - low) or 1.0)
        weights = np.clip(np.nan_to_num(weights), 0, 1)
        total = weights.sum(-1, keepdims=True)
        mean = (weights @ self._colors) / np.maximum(total, 1e-6)
        return np.rint(255 * np.concatenate([mean, np.minimum(total, 1)], -1)).astype(np.uint8)


__all__ = ["Composite"]
