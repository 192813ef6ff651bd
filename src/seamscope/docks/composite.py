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
_AT_ONCE = 1 << 14  # pixels, of which all intermediate numbers stay in the processor's cache


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
        sums = np.asarray(colors, np.float32)[:, :3].T
        self._mixing = np.concatenate([sums, np.ones((1, len(channels)), np.float32)])
        self.limits = (0.0, 1.0)

    def __getitem__(self, key: Any) -> npt.NDArray[np.uint8]:
        key = full_index(key, self.ndim)
        channels = [np.asarray(channel[key[:-1]]) for channel in self._channels]
        flat = [channel.reshape(-1) for channel in channels]
        colored = np.empty((flat[0].size, _COLOR), np.uint8)
        for start in range(0, len(colored), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            colored[part] = self._colored(np.stack([one[part] for one in flat]))
        return colored.reshape(*channels[0].shape, _COLOR)[(..., key[-1])]

    def _colored(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Colours ``(N, 4)`` of values ``(C, N)``."""
        low, high = self.limits
        weights = values.astype(np.float32)
        weights -= low
        weights /= (high - low) or 1.0
        np.fmax(weights, 0, out=weights)  # 0 too where there is no number
        np.minimum(weights, 1, out=weights)
        mixed = self._mixing @ weights
        mixed[:-1] *= 255 / np.maximum(mixed[-1], 1e-6)
        mixed[-1] = 255 * np.minimum(mixed[-1], 1)
        return np.rint(mixed, out=mixed).astype(np.uint8).T


__all__ = ["Composite"]
