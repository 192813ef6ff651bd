"""Choose a few tiles that represent all: as different as possible, each weighted by its cluster.

Knows the intensities of tiles. Does not know networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seamscope.planning.reading import TileJob, TileReader
from seamscope.progress import Work, check

# Tiles that are read; of more, a random choice, so that a terabyte is not read whole.
_CANDIDATES = 512


@dataclass(frozen=True)
class Sample:
    """Tiles, and how many tiles each represents.

    Attributes
    ----------
    jobs
        The tiles, the most different first.
    numbers
        Of these among all tiles.
    looks
        ``(n, F)`` features of their intensities.
    candidates
        ``(N, F)`` the same for all tiles that were read.
    """

    jobs: tuple[TileJob, ...]
    numbers: tuple[int, ...]
    looks: npt.NDArray[np.float64]
    candidates: npt.NDArray[np.float64]

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """Number of candidates that are nearest to each tile."""
        away = ((self.candidates[:, None] - self.looks[None]) ** 2).sum(-1)
        return np.bincount(away.argmin(1), minlength=len(self.jobs)).astype(float)

    @property
    def weighted(self) -> list[tuple[int, float]]:
        """Numbers of the tiles with their weights; none without."""
        pairs = zip(self.numbers, self.weights, strict=True)
        return [(number, float(weight)) for number, weight in pairs if weight]

    def halves(self) -> tuple[Sample, Sample]:
        """Two samples of every other tile, each standing for all."""
        return tuple(  # type: ignore[return-value]
            Sample(self.jobs[k::2], self.numbers[k::2], self.looks[k::2], self.candidates)
            for k in (0, 1)
        )


def diverse_tiles(jobs: Sequence[TileJob], reader: TileReader, count: int, work: Work) -> Sample:
    """Choose tiles that look as different as possible.

    One after the other, always the one that is least like those chosen before (Gonzalez 1985,
    farthest-point clustering), beginning with the most ordinary one.
    """
    rng = np.random.default_rng(0)
    few = len(jobs) <= _CANDIDATES
    chosen = range(len(jobs)) if few else sorted(rng.permutation(len(jobs))[:_CANDIDATES])
    looks = []
    for number in chosen:
        check(work)
        looks.append(_look(reader.read([jobs[number]])[0]))
    all_looks = np.array(looks)
    spread = all_looks.std(0)
    all_looks /= np.where(spread > 0, spread, 1)
    order = _farthest_points(all_looks, min(count, len(looks)))
    numbers = tuple(int(chosen[i]) for i in order)
    picked = tuple(jobs[number] for number in numbers)
    return Sample(picked, numbers, all_looks[order], all_looks)


def _look(tile: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Mean, spread and roughness of each channel."""
    space = tuple(range(1, tile.ndim))
    rough = [np.abs(np.diff(tile, axis=axis)).mean(space) for axis in space]
    return np.concatenate([tile.mean(space), tile.std(space), np.mean(rough, 0)]).astype(float)


def _farthest_points(points: npt.NDArray[np.float64], count: int) -> list[int]:
    first = int(((points - np.median(points, 0)) ** 2).sum(1).argmin())
    order, away = [first], ((points - points[first]) ** 2).sum(1)
    while len(order) < count:
        order.append(int(away.argmax()))
        away = np.minimum(away, ((points - points[order[-1]]) ** 2).sum(1))
    return order
