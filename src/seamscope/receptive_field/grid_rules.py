"""What a network's period demands of tiles, strides and windows, whichever tool cuts them.

Knows the rules of Rumberger et al. 2021 (How shift equivariance impacts metric learning for
instance segmentation, section 3.2 and corollary 4), and the nearest values that obey them. Does
not know images or networks; our own grids (`seamscope.tiling`) obey all of it.

A network of period ``f^l`` is ``f^l`` different functions, one for each position modulo the
period. A tile that starts off the grid is predicted by the wrong ones, however wide its halo.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from seamscope.serialization import Recorded
from seamscope.text import pixels_text
from seamscope.tiling import Lattice, PerAxis, Sides, axis_names, per_axis


@dataclass(frozen=True)
class Windows:
    """Sizes as chosen, in any tool; None for what is not chosen.

    Attributes
    ----------
    tile
        Input pixels of a tile.
    stride
        Input pixels from one tile's start to the next one's.
    core
        Output pixels that are kept of each tile's prediction.
    training
        Output pixels of the windows the network was trained on.
    """

    tile: PerAxis | None = None
    stride: PerAxis | None = None
    core: PerAxis | None = None
    training: PerAxis | None = None


@dataclass(frozen=True)
class Violation(Recorded):
    """A size that breaks a rule.

    Attributes
    ----------
    what
        ``"tile"``, ``"stride"``, ``"core"`` or ``"training"``.
    axes
        Letters of the axes.
    value
        As chosen.
    nearest
        Values that obey the rule, the next smaller and the next larger where there are such.
    rule
        What it breaks, in words.
    """

    what: str
    axes: str
    value: int
    nearest: tuple[int, ...]
    rule: str

    ALSO = ("sentence",)

    @property
    def sentence(self) -> str:
        """The value, the rule and the remedy."""
        noun = {"core": "Output window", "training": "Training window"}
        remedy = f"use {' or '.join(map(str, self.nearest))}" if self.nearest else "use wider tiles"
        if self.what == "training":  # every larger size will do; the network takes not every one
            remedy = (
                f"train on larger ones; the smallest that this network accepts is {self.nearest[0]}"
            )
        name = noun.get(self.what, self.what.capitalize())
        return f"{name} {self.value} along {' and '.join(self.axes)} {self.rule}: {remedy}."


def check_windows(
    windows: Windows, lattices: Sequence[Lattice], halo: Sequence[Sides] | None = None
) -> tuple[Violation, ...]:
    """Find the sizes that break a rule, and the nearest ones that do not.

    Parameters
    ----------
    windows
        What was chosen.
    lattices
        What the network demands along each axis.
    halo
        What is to be cut off ``(before, after)`` along each axis, in input pixels.

    Raises
    ------
    SettingsError
        Where there is not one size for each axis.
    """
    ndim = len(lattices)
    chosen = {
        what: (None,) * ndim if value is None else per_axis(value, ndim, what)
        for what, value in vars(windows).items()
    }
    found: dict[tuple[Any, ...], Violation] = {}
    for axis, (name, lattice) in enumerate(zip(axis_names(ndim), lattices, strict=True)):
        sizes = {what: values[axis] for what, values in chosen.items()}
        rules = _AxisRules(lattice, halo[axis] if halo is not None else (0, 0))
        for what, value, rule, nearest in rules.broken(**sizes):
            key = what, value, rule, nearest
            axes = found[key].axes if key in found else ""
            found[key] = Violation(what, axes + name, value, nearest, rule)
    return tuple(found.values())


_Broken: TypeAlias = tuple[str, int, str, tuple[int, ...]]  # what, value, rule, nearest


@dataclass(frozen=True)
class _AxisRules:
    lattice: Lattice
    halo: Sides

    def broken(
        self, tile: int | None, stride: int | None, core: int | None, training: int | None
    ) -> Iterator[_Broken]:
        if tile is not None:
            yield from self._tile(tile)
        if stride is not None:
            yield from self._stride(stride, tile)
        if core is not None:
            yield from self._core(core)
        if training is not None:
            yield from self._training(training)

    def _tile(self, tile: int) -> Iterator[_Broken]:
        lattice = self.lattice
        if lattice.fixed is not None:
            if tile != lattice.fixed:
                yield _broken("tile", tile, "is not the one size this network takes", lattice.fixed)
            return
        smallest = lattice.smallest_tile(self.halo)
        nearest = lattice.size_at_most(tile), lattice.size_at_least(tile)
        usable = [n for n in nearest if n >= smallest] or [smallest]
        if not lattice.accepts(tile):
            yield _broken("tile", tile, "is not a size this network takes", *usable)
        elif tile < smallest:
            before, after = self.halo
            rule = f"keeps less than one period between halos of {before} and {after}"
            yield _broken("tile", tile, rule, *usable)

    def _stride(self, stride: int, tile: int | None) -> Iterator[_Broken]:
        pitch, nearest = self.lattice.pitch, _multiples(stride, self.lattice.pitch)
        most = nearest[1] if tile is None else self._room(tile)
        usable = [n for n in nearest if n <= most] or [most]
        if stride % pitch:
            rule = (
                f"is no multiple of the period {pitch}: tiles start off the network's grid, and no "
                "halo makes them agree"
            )
            yield _broken("stride", stride, rule, *usable)
        elif tile is not None and stride > most:
            before, after = self.halo
            kept = tile - sum(self.lattice.crop)
            rule = (
                f"leaves {pixels_text(max(0, kept - stride))} of overlap to tiles of {tile}, and "
                f"halos of {before} and {after} take {before + after}"
            )
            yield _broken("stride", stride, rule, *usable)

    def _room(self, tile: int) -> int:
        """Largest stride on the grid that leaves the halo to a tile."""
        kept = tile - sum(self.lattice.crop) - sum(self.lattice.whole(self.halo))
        return max(0, kept // self.lattice.pitch * self.lattice.pitch)

    def _core(self, core: int) -> Iterator[_Broken]:
        period = self._output_period
        if core % period:
            rule = (
                f"is no multiple of the period, {period} output pixels: functions become "
                "neighbours at its borders that are none inside (corollary 4)"
            )
            yield _broken("core", core, rule, *_multiples(core, period))

    def _training(self, window: int) -> Iterator[_Broken]:
        period = self._output_period
        if window <= period:
            rule = (
                f"is not larger than the period of {period} output pixels, so that some "
                "neighbouring pixels of a prediction were never neighbours in training (Rumberger "
                "et al. 2021, section 3.2)"
            )
            yield _broken("training", window, rule, self._smallest_output_above(period))

    @property
    def _output_period(self) -> int:
        return int(self.lattice.pitch * self.lattice.scale)

    def _smallest_output_above(self, period: int) -> int:
        """Output pixels of the smallest accepted input whose prediction is larger."""
        lattice, lost = self.lattice, sum(self.lattice.crop)
        beyond = lost + math.floor(Fraction(period) / lattice.scale) + 1
        # in training a size need not fit the grid, the network alone must take it
        size = beyond + (lattice.offset - beyond) % lattice.step
        return int((size - lost) * lattice.scale)


def _broken(what: str, value: int, rule: str, *nearest: int) -> _Broken:
    return what, value, rule, tuple(dict.fromkeys(n for n in nearest if n > 0))


def _multiples(value: int, step: int) -> Sides:
    return value // step * step, -(-value // step) * step


__all__ = ["Violation", "Windows", "check_windows"]
