"""How much each input pixel matters to a predicted one, and where the mass of that lies.

Knows maps of gradients, and when their average is steady. Does not know how gradients are taken
(see `seamscope.receptive_field.gradients`), or theoretical reach (see `seamscope.models.reach`).

The gradient of one output pixel with respect to the whole input, its absolute value summed over
channels, is the *map* of that pixel at that place of the image; averaged over many tiles it is the
*effective receptive field* (Luo et al. 2016, Understanding the effective receptive field in deep
convolutional neural networks). It cannot leave the theoretical one. What is of use is where its
mass lies: the smallest box that holds 99% of it, and the share beyond the reach of the
convolutions, a floor that normalization by the tile's own statistics spreads over the whole tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import ModelError
from seamscope.models.reach import PhaseFields
from seamscope.text import pixels_text
from seamscope.tiling import Sides, Slices

Values: TypeAlias = npt.NDArray[np.float64]

SHARES = (0.95, 0.99, 0.999)
"""Shares of the gradient's mass whose radii are reported."""

# Two halves of the tiles must give the same radii, to two pixels or this part of them. The few
# pixels of which a network is unsure weigh most, so that more tiles change nothing (measured).
_STEADY = 0.1
_FEWEST_TILES = 8


@dataclass(frozen=True, eq=False)
class GradientMap:
    """How much each input pixel of a tile matters to one output pixel.

    Attributes
    ----------
    values
        ``(*spatial)`` absolute gradients of the tile's input pixels.
    covered
        Input pixels ``(first, stop)`` that the output pixel covers, along each axis of `values`:
        one pixel where output and input have the same scale.
    phase
        Of the output pixel: its index modulo the period, along each axis, in output pixels.
    origin
        Image pixel at which `values` begins; None for an average over tiles.
    """

    values: Values
    covered: tuple[Sides, ...]
    phase: tuple[int, ...]
    origin: tuple[int, ...] | None = None

    @cached_property
    def mass(self) -> float:
        """Sum of all values."""
        return float(self.values.sum())

    def offsets(self, axis: int) -> npt.NDArray[np.int_]:
        """Signed distance of each pixel from those covered, in pixels along one axis."""
        first, stop = self.covered[axis]
        index = np.arange(self.values.shape[axis])
        offsets: npt.NDArray[np.int_] = np.minimum(index - first, 0) + np.maximum(
            index - stop + 1, 0
        )
        return offsets

    def profile(self, axis: int) -> Values:
        """Share of the mass at each position along one axis, all others summed; adds up to 1."""
        others = tuple(a for a in range(self.values.ndim) if a != axis)
        return self._share(self.values.sum(axis=others))

    def radius(self, share: float) -> tuple[int, ...]:
        """Smallest distance along each axis within which lies at least this share of the mass."""
        return tuple(
            _smallest(np.abs(self.offsets(axis)), self.profile(axis), share)
            for axis in range(self.values.ndim)
        )

    def box(self, share: float) -> int:
        """Smallest distance along all axes at once that holds this share (Chebyshev's)."""
        distance = np.zeros(self.values.shape, np.int_)
        for axis in range(self.values.ndim):
            shape = [1] * self.values.ndim
            shape[axis] = -1
            np.maximum(distance, np.abs(self.offsets(axis)).reshape(shape), out=distance)
        within = np.bincount(distance.ravel(), weights=self.values.ravel()).astype(np.float64)
        return _smallest(np.arange(within.size), self._share(within), share)

    def beyond(self, fields: Sequence[PhaseFields]) -> float:
        """Share of the mass outside the theoretical receptive field of this pixel."""
        return self.outside(self.sides(fields))

    def sides(self, fields: Sequence[PhaseFields]) -> tuple[Sides, ...]:
        """Theoretical receptive field ``(before, after)`` at this pixel's phase."""
        return tuple(axis[p % len(axis)] for axis, p in zip(fields, self.phase, strict=True))

    def outside(self, sides: Sequence[Sides]) -> float:
        """Share of the mass farther away than ``(before, after)`` along any axis."""
        inside = self.values[self._box(sides)]
        # summed over the rest itself: a difference of sums would drown a small floor in rounding
        rest = self.values.copy()
        rest[self._box(sides)] = 0
        total = float(inside.sum()) + float(rest.sum())
        return float(rest.sum()) / total if total else 0.0

    def _box(self, sides: Sequence[Sides]) -> Slices:
        return tuple(
            slice(max(0, first - before), stop + after)
            for (first, stop), (before, after) in zip(self.covered, sides, strict=True)
        )

    def _share(self, values: Values) -> Values:
        return values / self.mass if self.mass else np.zeros_like(values)


def _smallest(distance: npt.NDArray[np.int_], shares: Values, wanted: float) -> int:
    """Smallest distance within which the shares add up to what is wanted."""
    within = np.cumsum(np.bincount(distance.ravel(), weights=shares.ravel()))
    # the whole mass itself, not 1.0, which rounding may miss
    enough = within >= wanted * within[-1] - 1e-12
    return int(np.argmax(enough))


@dataclass(frozen=True, eq=False)
class EffectiveField:
    """Gradient map averaged over tiles.

    Attributes
    ----------
    map
        Mean over tiles.
    tiles
        How many.
    steady
        Whether both halves of the tiles gave the same radii.
    spread
        Largest difference between the radii of the two halves, in pixels.
    channel
        Output channel; None for the sum over all.
    on
        What the tiles were: ``"image"`` or, for lack of one, ``"noise"``.
    notes
        Sentences for the user.
    """

    map: GradientMap
    tiles: int
    steady: bool
    spread: int
    channel: int | None
    on: str
    notes: tuple[str, ...] = ()

    @property
    def doubt(self) -> str:
        """Sentence on how uncertain the radii are; empty where they are steady."""
        if self.steady:
            return ""
        if self.tiles < _FEWEST_TILES:
            counted = "Only one tile was" if self.tiles == 1 else f"Only {self.tiles} tiles were"
            return f"{counted} looked at, too few to tell how certain the radii are."
        return (
            f"After {self.tiles} tiles the radii of their two halves still differ by "
            f"{pixels_text(self.spread)}: look at more tiles, or take the radii as so uncertain."
        )


class Halves:
    """Means over the even and the odd tiles, whose difference shows how steady both are."""

    def __init__(
        self, shape: Sequence[int], place: tuple[tuple[Sides, ...], tuple[int, ...]]
    ) -> None:
        self._sums = np.zeros((2, *shape))
        self._place = place
        self.count = 0
        self.spread = 0

    def add(self, values: Values) -> None:
        """Add the gradients of one more tile."""
        self._sums[self.count % 2] += values
        self.count += 1

    @property
    def mean(self) -> GradientMap:
        """Over all tiles."""
        return GradientMap(self._sums.sum(0) / max(1, self.count), *self._place)

    @property
    def steady(self) -> bool:
        """Whether both halves give the same radii, after enough tiles."""
        if self.count < _FEWEST_TILES or self.count % 2:
            return False
        even, odd = (GradientMap(half, *self._place) for half in self._sums)
        allowed = []
        self.spread = 0
        for share in SHARES:
            for a, b in zip(even.radius(share), odd.radius(share), strict=True):
                self.spread = max(self.spread, abs(a - b))
                allowed.append(abs(a - b) <= max(2, _STEADY * max(a, b)))
        return all(allowed)

    def check(self) -> None:
        """Raise `ModelError` where gradients say nothing."""
        mass = self.mean.mass
        if not math.isfinite(mass):
            raise ModelError(
                "The prediction's gradient is not finite, so that no effective receptive field can "
                "be measured: look for divisions by zero or square roots of zero in the network."
            )
        if not mass:
            raise ModelError(
                f"The gradient of the pixel in the middle of all {self.count} tiles is zero, so "
                "that no effective receptive field can be measured: load the network without a "
                "threshold or argmax at its end; if it has none, choose another phase or a larger "
                "image."
            )


__all__ = ["SHARES", "EffectiveField", "GradientMap", "Halves"]
