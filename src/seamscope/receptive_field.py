"""How far a network sees, and under which shifts its prediction shifts along.

Knows tensors and a network's lattice. Does not know files, images or layers' names.

All questions are put to *slabs*: inputs long in one axis and as narrow as the network allows in
the others, so that a deep network costs thousands of pixels and not millions.

*Reach.* The ends of a slab are replaced by NaN; the outputs that turn NaN are those that depend on
what lies beyond the tile between the ends, and the depth to which they go is the halo this network
needs when its tiles start on its grid. Operations that swallow NaN (``where``, comparisons) would
hide reach, so the ends are also replaced by other, large values, and any change at all counts.
A network that takes statistics from its tile sees the whole slab; it is probed once more with its
statistics held fixed, which gives the reach of its convolutions alone.

*Period* (periodic-t shift equivariance, Rumberger et al. 2021, definition 2). Where the NaN end is
moved pixel by pixel, the depth follows a pattern, and the pattern's period is that of the
network's structure, however weak the deepest path is. It is then confirmed with values: two
windows of one random image, one period apart, must give the same prediction away from their ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from seamscope.normalization import FixedStatistics, Forward
from seamscope.tiling import Lattice, Sides

# Predictions that differ by less, in standard deviations, are the same: another order of
# summation makes about 1e-5, a tile three pixels off the grid more than 1 (both measured).
SAME = 1e-4
# The same, where the borders of the slab are felt everywhere (global pooling).
ROUGHLY_SAME = 2e-2

# Shortest and longest slab (pixels) for 1, 2 and 3 spatial axes.
_SHORTEST = {1: 512, 2: 384, 3: 160}
_LONGEST = {1: 8192, 2: 3072, 3: 640}
_FRAME = 32  # NaN pixels at an end: longer than the gaps of usual dilated kernels
_LONGEST_PERIOD = 64


@dataclass(frozen=True)
class Reach:
    """Reach of a network whose tiles start on its grid, in input pixels.

    Attributes
    ----------
    halo
        ``(before, after)`` for each axis; None where the network sees the whole tile.
    convolutional
        The same with the tile's statistics held fixed; None where even then it sees everything
        (attention, global pooling).
    swallows_nan
        Whether the NaN probe alone would have found less.
    """

    halo: tuple[Sides, ...] | None
    convolutional: tuple[Sides, ...] | None
    swallows_nan: bool = False

    @property
    def bounded(self) -> bool:
        """Whether some halo makes tiles agree exactly."""
        return self.halo is not None


def measure_reach(
    forward: Forward, channels: int, lattices: Sequence[Lattice], narrow: Sequence[int]
) -> Reach:
    """Measure the theoretical reach for tiles that start on the network's grid.

    Parameters
    ----------
    forward
        ``(N, C, *spatial)`` float32 tensor to prediction, on the CPU. Pass the plain network:
        fused kernels swallow NaN.
    channels
        Input channels.
    lattices
        Period, sizes, crop and scale for each axis.
    narrow
        A small spatial shape that the network accepts.
    """
    plain = _Prober(forward, channels, lattices, narrow)
    halo = plain.reach()
    if halo is not None or not plain.uses_statistics:
        return Reach(halo, halo, plain.swallowed)
    steady = _Prober(forward, channels, lattices, narrow, fixed=True)
    return Reach(None, steady.reach(), steady.swallowed)


def measure_period(
    forward: Forward, channels: int, lattices: Sequence[Lattice], narrow: Sequence[int]
) -> tuple[int | None, ...]:
    """Smallest shift along each axis under which the prediction shifts along, in input pixels.

    None where there is none up to 64, as for networks with attention or absolute positions.
    Parameters as for `measure_reach`; statistics of the tile are held fixed.
    """
    prober = _Prober(forward, channels, lattices, narrow, fixed=True)
    return tuple(prober.period(axis) for axis in range(len(narrow)))


class _Prober:
    def __init__(
        self,
        forward: Forward,
        channels: int,
        lattices: Sequence[Lattice],
        narrow: Sequence[int],
        fixed: bool = False,
    ) -> None:
        self._forward = forward
        self._channels = channels
        self._lattices = lattices
        self._narrow = narrow
        self._fixed = fixed
        self.swallowed = False
        self.uses_statistics = False

    def reach(self) -> tuple[Sides, ...] | None:
        """Reach along all axes; None as soon as one is unbounded."""
        sides: list[Sides] = []
        for axis in range(len(self._narrow)):
            found = self._first(axis, lambda slab: slab.reach(), self._lattices[axis].pitch)
            if found is None:
                return None
            depth, swallowed = found
            self.swallowed |= swallowed
            sides.append(depth)
        return tuple(sides)

    def period(self, axis: int) -> int | None:
        """Smallest shift along one axis that the prediction follows; None when not found."""
        found: int | None = self._first(axis, lambda slab: slab.period(), _LONGEST_PERIOD)
        return found

    def _first(self, axis: int, question: Any, margin: int) -> Any:
        """Answer of the shortest slab long enough to give one."""
        for length in self._lengths(self._lattices[axis], margin):
            meter = MemoryMeter()
            slab = _Slab(
                self._forward, self._noise(axis, length), axis, self._lattices[axis], self._fixed
            )
            with meter:
                slab.run(slab.clean)
            self.uses_statistics |= slab.uses_statistics
            answer = question(slab)
            if answer is not None or (slab.uses_statistics and not self._fixed):
                return answer
            # Attention grows with the square of the pixels: do not let a probe fill the memory.
            if meter.peak * 4 > psutil.virtual_memory().available / 4:
                return None
        return None

    def _noise(self, axis: int, length: int) -> torch.Tensor:
        shape = [*self._narrow]
        shape[axis] = length
        random = torch.Generator().manual_seed(axis)
        return torch.randn(1, self._channels, *shape, generator=random)

    def _lengths(self, lattice: Lattice, margin: int) -> Iterator[int]:
        if lattice.fixed is not None:
            yield lattice.fixed
            return
        axes = len(self._narrow)
        length = _SHORTEST[axes] + sum(lattice.crop)
        while length <= _LONGEST[axes]:
            yield lattice.size_at_least(length)
            length *= 2


class _Slab:
    """One long input, and what changing its ends does to the prediction."""

    def __init__(
        self, forward: Forward, clean: torch.Tensor, axis: int, lattice: Lattice, fixed: bool
    ) -> None:
        self.clean = clean
        self._axis = axis
        self._lattice = lattice
        self._length = clean.shape[axis + 2]
        statistics = FixedStatistics(forward)
        self._reference = statistics(clean)
        self.uses_statistics = bool(statistics.calls)
        self._forward = statistics if fixed and statistics.calls else forward

    def run(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self._forward(x)

    # -- reach

    def reach(self) -> tuple[Sides, bool] | None:
        """Depth ``(before, after)``, and whether NaN was swallowed; None without a clean middle."""
        pitch = self._lattice.pitch
        frame = -(-min(_FRAME, self._length // 4) // pitch) * pitch
        reference = self.run(self.clean)
        gone = self.run(self._with_ends(frame, None))
        by_nan = self._depth(torch.isnan(gone) & ~torch.isnan(reference), frame)
        if by_nan is None:
            return None
        changed = self.run(self._with_ends(frame, torch.Generator().manual_seed(7)))
        by_change = self._depth(changed != reference, frame)
        if by_change is None:
            return None
        depth = max(by_nan[0], by_change[0]), max(by_nan[1], by_change[1])
        return depth, depth != by_nan

    def _depth(self, touched: torch.Tensor, frame: int) -> Sides | None:
        line = self._line(touched)
        untouched = np.flatnonzero(~line)
        if untouched.size == 0:
            return None
        edges = self._edges(line.size)
        middle = untouched[np.argmin(np.abs(edges[untouched] - self._length / 2))]
        low = np.flatnonzero(line[:middle])
        high = np.flatnonzero(line[middle:])
        # in input pixels: where the untouched middle begins and ends; holes count as touched
        begin = edges[low[-1] + 1] if low.size else 0.0
        end = edges[middle + high[0]] if high.size else float(self._length)
        crop = self._lattice.crop
        return (
            max(0, math.ceil(begin - crop[0] - frame)),
            max(0, math.ceil(self._length - frame - crop[1] - end)),
        )

    def _with_ends(
        self, frame: int, random: torch.Generator | None, low: bool = True, high: bool = True
    ) -> torch.Tensor:
        """Copy of the clean input with NaN, or other and much larger noise, at its ends."""
        x = self.clean.clone()
        for start in [0] * low + [self._length - frame] * high:
            end = x.narrow(self._axis + 2, start, frame)
            if random is None:
                end.fill_(torch.nan)
            else:
                end.copy_(100 * torch.randn(end.shape, generator=random))
        return x

    def _line(self, touched: torch.Tensor) -> npt.NDArray[np.bool_]:
        others = tuple(d for d in range(touched.ndim) if d != self._axis + 2)
        line: npt.NDArray[np.bool_] = touched.any(dim=others).numpy()
        return line

    def _edges(self, count: int) -> npt.NDArray[np.float64]:
        """Borders of the output pixels, in input pixels; one more than there are pixels."""
        return np.arange(count + 1) / float(self._lattice.scale) + self._lattice.crop[0]

    # -- period

    def period(self) -> int | None:
        """Smallest shift that moves the prediction along; None when the slab is too short."""
        unit = self._lattice.scale.denominator
        structure = self._structure(unit)
        if structure is None:
            # No pattern to be seen (NaN swallowed, everything coupled): ask the values alone.
            return next((n for n in self._multiples(unit) if self._follows(n)), None)
        return next((n for n in self._multiples(structure) if self._follows(n)), None)

    @staticmethod
    def _multiples(unit: int) -> Iterator[int]:
        factors = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 24, 27, 28, 32, 36, 48, 64)
        yield from (unit * n for n in factors if unit * n <= _LONGEST_PERIOD)

    def _structure(self, unit: int) -> int | None:
        """Period of the depth to which a NaN end reaches, as the end is moved pixel by pixel."""
        depths: list[float] = []
        while len(depths) < 2 * _LONGEST_PERIOD:
            wanted = max(4, 2 * len(depths))
            while len(depths) < wanted:
                depth = self._depth_behind(_FRAME + len(depths))
                if depth is None:
                    return None
                depths.append(depth)
            half = len(depths) // 2
            for period in range(unit, half + 1, unit):
                if depths[period:] == depths[:-period]:
                    return period
        return None

    def _depth_behind(self, frame: int) -> float | None:
        """How far beyond the NaN end of `frame` pixels the prediction is NaN, in input pixels."""
        if frame > self._length // 2:
            return None
        line = self._line(torch.isnan(self.run(self._with_ends(frame, None, high=False))))
        touched = np.flatnonzero(line)
        if touched.size == 0 or touched[-1] == line.size - 1:
            return None
        return float(self._edges(line.size)[touched[-1] + 1]) - frame

    def _follows(self, shift: int) -> bool:
        """Whether a window shifted by so much gives the same prediction, away from its ends.

        The windows are cyclic shifts of one another, so that they hold the same values; pixels
        that depend on the seam or on the ends are left out.
        """
        moved = int(shift * self._lattice.scale)
        x = torch.roll(self.clean, -shift, dims=self._axis + 2)
        shifted = self.run(x)
        begin, end, tolerance = self._inside(shift)
        if end - begin <= moved:
            return False
        here = self._reference.narrow(self._axis + 2, begin + moved, end - begin - moved)
        there = shifted.narrow(self._axis + 2, begin, end - begin - moved)
        spread = float(self._reference.std()) or 1.0
        return float((here - there).abs().max()) < tolerance * spread

    def _inside(self, shift: int) -> tuple[int, int, float]:
        """Outputs that see neither the slab's ends nor `shift` pixels before its far end.

        Where there are none, because everything is coupled, or they cannot be told, because NaN
        is swallowed: the middle third, to be compared with a wide tolerance.
        """
        frame = max(8, shift)
        gone = self._line(torch.isnan(self.run(self._with_ends(frame, None))))
        clean = np.flatnonzero(~gone)
        if clean.size == gone.size or clean.size == 0:
            third = gone.size // 3
            return third, gone.size - third, ROUGHLY_SAME
        return int(clean[0]), int(clean[-1]) + 1, SAME


class MemoryMeter(TorchDispatchMode):
    """Measures the largest number of bytes that tensors of a forward pass hold at one time.

    Attributes
    ----------
    peak
        Bytes; the network's weights and its input are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._live = {k: v for k, v in self._live.items() if not v[0].expired()}
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


def with_periods(lattices: Sequence[Lattice], periods: Sequence[int | None]) -> tuple[Lattice, ...]:
    """Lattices with measured periods; the accepted step stands in for what was not found."""
    return tuple(
        replace(a, period=p or math.lcm(a.step, a.scale.denominator))
        for a, p in zip(lattices, periods, strict=True)
    )
