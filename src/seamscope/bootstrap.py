"""How sure a number is that was measured on blocks of an image.

Knows blocks as numbers that add up or are pooled. Does not know tiles or what is measured.

Confidence intervals are 95% percentile intervals of a bootstrap over blocks (Efron 1979, Annals of
Statistics 7:1; blocks, since neighbouring pixels depend on each other: Kunsch 1989, Annals of
Statistics 17:1217): images of as many blocks are drawn from the measured ones with replacement, and
the statistic is computed for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

RESAMPLES = 1000


def bootstrap(
    blocks: int,
    statistic: Callable[[Array], Array],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[Array, Array]:
    """Return the 2.5th and 97.5th percentile of a statistic over drawn images.

    Parameters
    ----------
    blocks
        Number of blocks that were measured.
    statistic
        Takes how often each block was drawn, ``(resamples, blocks)`` int64, and returns a value
        or an array of values for each drawn image, ``(resamples, ...)``; NaN where it is undefined.
    seed
        Seed of the draws.
    resamples
        Number of images that are drawn.

    Returns
    -------
    low, high
        Arrays of the statistic's shape; NaN for fewer than two blocks, and where it is NaN for all
        drawn images.

    Examples
    --------
    >>> measured = np.random.default_rng(1).normal(5, 2, size=400)
    >>> low, high = bootstrap(400, lambda times: times @ measured / 400)
    >>> bool(low < 5 < high), round(float(high - low), 1)  # 2 * 1.96 * 2 / sqrt(400) = 0.4
    (True, 0.4)
    """
    draws = np.random.default_rng(seed).multinomial(blocks, [1 / blocks] * blocks, resamples)
    values = np.asarray(statistic(draws), np.float64)
    unknown = np.isnan(values).all(0) | (blocks < 2)
    values = np.where(unknown, 0.0, values)
    low, high = np.nanpercentile(values, [2.5, 97.5], axis=0)
    return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


def medians(values: Array, times: Array) -> Array:
    """Return the median of each drawn image.

    Parameters
    ----------
    values
        ``(values,)``; NaN counts never.
    times
        How often each value was drawn, ``(resamples, values)`` int.

    Returns
    -------
    numpy.ndarray
        ``(resamples,)`` float64; NaN where nothing was drawn.

    Examples
    --------
    >>> medians(np.array([3.0, 1.0, 2.0]), np.array([[1, 1, 1], [0, 2, 1], [1, 1, 0]])).tolist()
    [2.0, 1.0, 2.0]
    """
    known = np.flatnonzero(np.isfinite(values))
    if not known.size:
        return np.full(len(times), np.nan)
    order = known[np.argsort(values[known], kind="stable")]
    until = times[:, order].cumsum(1)  # how many drawn values there are up to each
    count = until[:, -1:]
    middle = [(until <= rank).sum(1) for rank in ((count - 1) // 2, count // 2)]
    lower, upper = (values[order][np.minimum(at, order.size - 1)] for at in middle)
    return np.where(count[:, 0] > 0, (lower + upper) / 2, np.nan)


__all__ = ["RESAMPLES", "bootstrap", "medians"]
