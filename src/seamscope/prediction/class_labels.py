"""The class of each pixel of a prediction, as a number.

Knows channels and thresholds. Does not know objects (see `seamscope.segmentation`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.stitching import Array


def as_labels(
    prediction: Array, threshold: float = 0.5, background: int | None = None
) -> npt.NDArray[Any]:
    """Labels ``(*spatial)`` of a prediction ``(C, *spatial)``.

    The number of the largest channel, the lower one of equals; for a single channel 1 where it is
    above `threshold`, else 0. Uint8, or uint16 for more than 255 channels.

    Parameters
    ----------
    prediction, threshold
        As above.
    background
        Channel that becomes 0; the channels before it become their number plus 1.
    """
    classes = class_numbers(prediction, threshold)
    kind = np.uint8 if prediction.shape[0] <= 255 else np.uint16
    if background is None:
        return classes.astype(kind)
    numbers = label_numbers(max(prediction.shape[0], 2), background)
    return numbers[classes].astype(kind)


def label_numbers(channels: int, background: int | None) -> npt.NDArray[np.intp]:
    """Label of each channel: its number, or counted with the background as 0."""
    numbers = np.arange(channels)
    if background is not None:
        numbers[:background] += 1
        numbers[background] = 0
    return numbers


def class_numbers(prediction: Array, threshold: float = 0.5) -> npt.NDArray[np.intp]:
    """As `as_labels`, for any number of channels."""
    single = prediction.shape[0] == 1
    return np.asarray(prediction[0] > threshold if single else prediction.argmax(0), np.intp)


__all__ = ["as_labels", "class_numbers", "label_numbers"]
