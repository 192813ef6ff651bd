"""Agreement of two predictions or classifications, and probabilities of logits.

Knows sums and formulas. Does not know tiles, images or what is summed.

Dice of two sets of pixels is ``2 |A & B| / (|A| + |B|)`` (Dice 1945, Ecology 26:297). Of
two maps of probabilities ``p`` and ``q`` it is ``2 sum(p q) / (sum p^2 + sum q^2)``
(Milletari, Navab, Ahmadi 2016, V-Net); for maps of 0 and 1 both are the same number. 1 is perfect
agreement, 0 none. The tile mismatch is ``1 - Dice``, which for probabilities equals
``sum (p - q)^2 / (sum p^2 + sum q^2)``: written like this, predictions that differ by rounding
keep their digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def dice(common: Array, total: Array, *, absent: float = np.nan) -> Array:
    """Return Dice of sums.

    Parameters
    ----------
    common
        ``|A & B|``, or ``sum(p q)``; any shape.
    total
        ``|A| + |B|``, or ``sum p^2 + sum q^2``; the same shape.
    absent
        Value where `total` is 0: the class is in neither.

    Examples
    --------
    >>> dice(np.array([3, 0]), np.array([8, 0])).tolist()
    [0.75, nan]
    """
    return ratio(2 * np.asarray(common), total, absent=absent)


def ratio(part: Array, total: Array, least: Array | float = 0.0, absent: float = np.nan) -> Array:
    """Return ``part / total`` where `total` is more than `least`, and `absent` elsewhere.

    With ``part = sum (p - q)^2`` and ``total = sum p^2 + sum q^2`` this is ``1 - Dice``.
    """
    part, total = np.asarray(part, np.float64), np.asarray(total)
    seen = total > least
    return np.where(seen, part / np.where(seen, total, 1), absent)


def probabilities(logits: Array, axis: int = 0) -> Array:
    """Return the softmax over an axis; the sigmoid where that axis has length 1.

    Examples
    --------
    >>> probabilities(np.array([[0.0], [np.log(3)]])).round(2).tolist()
    [[0.25], [0.75]]
    >>> probabilities(np.array([[0.0, np.log(3)]])).round(2).tolist()
    [[0.5, 0.75]]
    """
    if logits.shape[axis] == 1:
        return sigmoid(logits)
    powers = np.exp(logits - logits.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True))


def sigmoid(logits: Array) -> Array:
    """Return ``1 / (1 + exp(-logits))``; beyond 60 it is 0 or 1 in any precision."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))))


__all__ = ["dice", "probabilities", "ratio", "sigmoid"]
