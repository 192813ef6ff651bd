"""Measures of all overlaps together; their memory does not grow with the number of overlaps.

Knows the terms of single overlaps. Does not know tiles or predictions.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from seamscope.dice import ratio
from seamscope.seams.comparison import Terms
from seamscope.seams.measures import Array, HaloRay, SeamCurve, SeamMeasures

# Curves of single overlaps kept for the median, chosen at random where there are more.
_CURVES = 4096


class Sums:
    """Measures of all overlaps together; its memory does not grow with their number."""

    def __init__(self) -> None:
        self.pairs = 0
        self._pixels = np.zeros(0)
        self._valid: dict[int, Array] = {}  # for each axis: overlaps that are valid
        self._largest = np.zeros((0, 0))
        self._total = np.zeros((0, 0))
        self._curves: list[_Curves] = []
        self._here = _Here()
        self._random = random.Random(0)

    def add(
        self, terms: Terms, mismatch: tuple[Array, Array], axis: int, at: int, absent: float
    ) -> None:
        """Count the terms of an overlap along an axis.

        Parameters
        ----------
        terms, mismatch, axis
            Of the overlap (see `Terms.mismatch`).
        at
            Number of the halo in question, or of the largest one at which a pixel is valid.
        absent
            Root mean square below which a class counts as absent.
        """
        self.pairs += 1
        depth, channels = terms.pixels.size, terms.total.shape[0]
        if depth > self._pixels.size or not self._total.size:
            self._grow(depth, channels)
        self._pixels[:depth] += terms.finite
        self._valid.setdefault(axis, np.zeros(self._pixels.size))[:depth] += 1
        np.maximum(self._largest[:, :depth], terms.largest, out=self._largest[:, :depth])
        self._total[:, :depth] += terms.total
        self._here.add(terms, at)
        if (place := self._place()) is not None:
            soft, hard = (x.astype(np.float32) for x in mismatch)
            here = terms.at(at)
            kept = _Curves(soft, hard, here.present(absent)[:, 0], here.plain()[:, 0], at)
            self._curves[place : place + 1] = [kept]

    def _place(self) -> int | None:
        """Where a curve is kept, so that all have had the same chance (Vitter 1985, R)."""
        if self.pairs <= _CURVES:
            return self.pairs - 1
        place = self._random.randrange(self.pairs)
        return place if place < _CURVES else None

    def _grow(self, depth: int, channels: int) -> None:
        more = depth - self._pixels.size
        self._pixels = np.pad(self._pixels, (0, more))
        self._valid = {axis: np.pad(valid, (0, more)) for axis, valid in self._valid.items()}
        wide = ((0, channels - self._total.shape[0]), (0, more))
        self._largest, self._total = np.pad(self._largest, wide), np.pad(self._total, wide)

    def curve(self, ray: HaloRay) -> SeamCurve:
        """Return the measures at every halo of the ray."""
        depth, channels = self._pixels.size, self._total.shape[0]
        soft = self._stacked([c.soft for c in self._curves])
        hard = self._stacked([c.hard for c in self._curves])
        peaks = self._largest.T.astype(np.float64)
        mean = ratio(self._total.sum(0), self._pixels * channels)
        known = np.where(self._pixels > 0, 0.0, np.nan)[:, None]  # no finite pixel, no number
        return SeamCurve(
            halo=np.arange(depth),
            max_dist=peaks.max(1, initial=0),
            mean_dist=mean,
            max_dist_per_channel=peaks,
            soft=_median(soft) + known[: soft.shape[2]],
            hard=_median(hard) + known[: hard.shape[2]],
            overlaps=np.isfinite(soft).sum(0).T,
            share=self._share(),
            ray=ray,
        )

    def _share(self) -> Array:
        if not self._valid:
            return np.zeros(0)
        return np.asarray(np.min([v / v[0] for v in self._valid.values()], axis=0))

    def measures(self, at: int) -> SeamMeasures:
        """Return the measures at the halo of this number."""
        here = self._here
        return SeamMeasures(
            max_dist=float(here.largest.max(initial=0)),
            mean_dist=here.mean if self.pairs else 0.0,
            max_dist_per_channel=tuple(map(float, here.largest)),
            soft=self._medians([c.soft[:, c.at : c.at + 1] for c in self._curves]),
            hard=self._medians([c.hard[:, c.at : c.at + 1] for c in self._curves]),
            plain=self._medians([c.plain[:, None] for c in self._curves]),
            present=self._medians([c.present[:, None] for c in self._curves]),
            overlaps=self.pairs,
            beside=self.pairs > 0 and here.shallowest < at,
        )

    def _medians(self, columns: list[Array]) -> tuple[float, ...]:
        """Return the median of each channel over overlaps ``(C, 1)``."""
        stacked = self._stacked(columns)
        known = 0.0 if self._here.numbers or not self.pairs else math.nan
        return tuple((_median(stacked)[0] + known).tolist()) if len(stacked) else ()

    @staticmethod
    def _stacked(curves: list[Array]) -> Array:
        """Curves of overlaps ``(overlaps, C, H)``, NaN beyond their ends."""
        channels = max((c.shape[0] for c in curves), default=0)
        depth = max((c.shape[1] for c in curves), default=0)
        stacked = np.full((len(curves), channels, depth), np.nan)
        for row, curve in zip(stacked, curves, strict=True):
            row[: curve.shape[0], : curve.shape[1]] = curve
        return stacked


class _Curves(NamedTuple):
    """Mismatch of one overlap at every halo, and at the halo of the run."""

    soft: Array
    hard: Array
    present: Array
    plain: Array
    at: int


@dataclass
class _Here:
    """Distances at the meter's halo."""

    largest: Array = field(default_factory=lambda: np.zeros(0))
    total: float = 0.0
    numbers: float = 0.0
    shallowest: int = 1 << 62

    @property
    def mean(self) -> float:
        """Mean distance; NaN where no number is finite."""
        return self.total / self.numbers if self.numbers else math.nan

    def add(self, terms: Terms, at: int) -> None:
        largest = terms.largest[:, at].astype(np.float64)
        self.largest = np.maximum(self.largest, largest) if self.largest.size else largest
        self.total += float(terms.total[:, at].sum())
        self.numbers += float(terms.finite[at] * len(largest))
        self.shallowest = min(self.shallowest, at)


def _median(values: Array) -> Array:
    """Median over overlaps ``(overlaps, C, H) -> (H, C)``; 0 where the class is absent from all."""
    present = np.isfinite(values).any(0)
    filled = np.where(present, values, 0.0)
    if not filled.size:
        return np.zeros(filled.shape[:0:-1])
    median: Array = np.nanmedian(filled, axis=0).T
    return median


__all__ = ["Sums"]
