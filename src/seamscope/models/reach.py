"""How far a network sees, and under which shifts its prediction shifts along.

Knows tensors and a network's lattice. Does not know files, images or layers' names.

All questions are put to *slabs*: inputs long in one axis and as narrow as the network allows in
the others, so that a deep network costs thousands of pixels and not millions.

*Reach.* The ends of a slab are replaced by NaN; the outputs that turn NaN are those that depend on
what lies beyond the tile between the ends, and the depth to which they go is the halo this network
needs when its tiles start on its grid. Operations that swallow NaN (``where``, comparisons) would
hide reach, so the ends are also replaced by other, large values, and any change at all counts.
A network that takes statistics from its tile sees the whole slab; it is probed once more with its
statistics held fixed, which gives the reach of its convolutions alone. A shorter slab must then
predict the same beyond that reach: adaptive pooling and upsampling with aligned corners look local
in one slab, but what they compute depends on its size.

*Receptive field.* An end is made longer pixel by pixel over one period: each phase of the output
turns NaN exactly once, where the end meets its receptive field. Only lengths between which
something turns NaN are tried, about a dozen forwards instead of one for each pixel.

*Period* (periodic-t shift equivariance, Rumberger et al. 2021, definition 2). Where the NaN end is
moved pixel by pixel, the depth follows a pattern, and the pattern's period is that of the
network's structure, however weak the deepest path is. It is then confirmed with values: two
windows of one random image, one period apart, must give the same prediction away from their ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from seamscope.normalization.audit import FixedStatistics, Forward
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
_NOISE = 100.0  # standard deviation of what replaces an end, where NaN may be swallowed
LOW, HIGH = 0, 1  # ends of a slab

PhaseFields: TypeAlias = tuple[Sides, ...]
"""Input pixels ``(before, after)`` that output pixel ``i`` sees beyond those it covers itself.

Entry ``p`` is for all ``i`` that are ``p`` modulo the number of entries, counted from the first
output pixel of a tile on the grid: one period, in output pixels.
"""


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
    depends_on_size
        Whether no halo helps though far pixels do not matter: the prediction changes with the
        size of the tile (adaptive pooling, upsampling with aligned corners, absolute positions).
    """

    halo: tuple[Sides, ...] | None
    convolutional: tuple[Sides, ...] | None
    swallows_nan: bool = False
    depends_on_size: bool = False

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
        return Reach(halo, halo, plain.swallowed, plain.depends_on_size)
    steady = _Prober(forward, channels, lattices, narrow, fixed=True)
    return Reach(None, steady.reach(), steady.swallowed, steady.depends_on_size)


def measure_fields(
    forward: Forward,
    channels: int,
    lattices: Sequence[Lattice],
    narrow: Sequence[int],
    reach: Reach,
) -> tuple[PhaseFields, ...] | None:
    """Measure the theoretical receptive field of an output pixel at each phase.

    Parameters
    ----------
    forward, channels, lattices, narrow
        As for `measure_reach`.
    reach
        What that found. Where only the convolutions are bounded, statistics are held fixed.

    Returns
    -------
    tuple or None
        For each axis the fields of all phases; None where the network sees everything.
    """
    if reach.convolutional is None:
        return None
    prober = _Prober(forward, channels, lattices, narrow, fixed=not reach.bounded)
    fields = [prober.fields(axis, reach.swallows_nan) for axis in range(len(narrow))]
    known = tuple(field for field in fields if field is not None)
    return known if len(known) == len(fields) else None


def worst(fields: PhaseFields) -> Sides:
    """Receptive field ``(before, after)`` at the worst phase, for either side by itself."""
    return max(0, *(before for before, _ in fields)), max(0, *(after for _, after in fields))


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
        self.depends_on_size = False

    def reach(self) -> tuple[Sides, ...] | None:
        """Reach along all axes; None as soon as one is unbounded."""
        sides: list[Sides] = []
        for axis in range(len(self._narrow)):
            depth = self._reach(axis)
            if depth is None:
                return None
            sides.append(depth)
        return tuple(sides)

    def _reach(self, axis: int) -> Sides | None:
        for slab in self._slabs(axis):
            found = slab.reach()
            if found is not None:
                depth, swallowed = found
                same = slab.same_when_shorter(depth)
                if same is not None:
                    self.swallowed |= swallowed
                    self.depends_on_size |= not same
                    return depth if same else None
            if slab.uses_statistics and not self._fixed:
                return None
        return None

    def fields(self, axis: int, swallowed: bool) -> PhaseFields | None:
        """Receptive fields along one axis, by phase; None when unbounded."""
        found = (slab.fields(swallowed) for slab in self._slabs(axis))
        return next((fields for fields in found if fields is not None), None)

    def period(self, axis: int) -> int | None:
        """Smallest shift along one axis that the prediction follows; None when not found."""
        for slab in self._slabs(axis):
            found = slab.period()
            if found is not None:
                return found
        # No slab was long enough to see a structure (everything is coupled): ask values alone.
        return slab.period_by_values()

    def _slabs(self, axis: int) -> Iterator[_Slab]:
        """Slabs of growing length, while that is worthwhile and memory suffices."""
        for length in self._lengths(self._lattices[axis]):
            slab = _Slab(
                self._forward, self._noise(axis, length), axis, self._lattices[axis], self._fixed
            )
            self.uses_statistics |= slab.uses_statistics
            yield slab
            # Attention grows with the square of the pixels: do not let a probe fill the memory.
            meter = MemoryMeter()
            with meter:
                slab.run(slab.clean)
            if meter.peak * 4 > psutil.virtual_memory().available / 4:
                return

    def _noise(self, axis: int, length: int) -> torch.Tensor:
        shape = [*self._narrow]
        shape[axis] = length
        random = torch.Generator().manual_seed(axis)
        return torch.randn(1, self._channels, *shape, generator=random)

    def _lengths(self, lattice: Lattice) -> Iterator[int]:
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
        """Depth ``(before, after)``, and whether NaN was swallowed; None when too short to tell."""
        pitch = self._lattice.pitch
        frame = -(-min(_FRAME, self._length // 4) // pitch) * pitch
        found = []
        for end in (LOW, HIGH):
            by_nan = self._depth(end, frame)
            if by_nan is None:
                return None
            by_change = self._depth(end, frame, _NOISE)
            if by_change is None:
                return None
            found.append((max(0, math.ceil(by_nan)), max(0, math.ceil(by_change))))
        (low, low_change), (high, high_change) = found
        swallowed = low_change > low or high_change > high
        return (max(low, low_change), max(high, high_change)), swallowed

    def same_when_shorter(self, halo: Sides) -> bool | None:
        """Whether a shorter slab on the grid predicts the same beyond this halo.

        None where that leaves nothing to compare. A network of one size cannot be asked.
        """
        lattice, axis = self._lattice, self._axis + 2
        if lattice.fixed is not None:
            return True
        start = -(-self._length // (8 * lattice.pitch)) * lattice.pitch
        size = lattice.size_at_most(self._length - 2 * start)
        low, high = math.ceil(halo[0] * lattice.scale), math.ceil(halo[1] * lattice.scale)
        count = int((size - sum(lattice.crop)) * lattice.scale) - low - high
        if size == 0 or count < lattice.pitch * lattice.scale:
            return None
        part = self.run(self.clean.narrow(axis, start, size)).narrow(axis, low, count)
        moved = int(start * lattice.scale) + low
        return self._agree(part, self._clean_prediction.narrow(axis, moved, count), SAME)

    def _agree(self, a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
        spread = float(self._reference.std()) or 1.0
        return float((a - b).abs().max()) < tolerance * spread

    # -- receptive field

    def fields(self, swallowed: bool) -> PhaseFields | None:
        """Receptive field of an output pixel at each phase; None when too short to tell."""
        low, high = self._meets(LOW, swallowed), self._meets(HIGH, swallowed)
        if low is None or high is None:
            return None
        phases = range(int(self._lattice.pitch * self._lattice.scale))
        return tuple((low.get(p, 0), high.get(p, 0)) for p in phases)

    def _meets(self, end: int, swallowed: bool) -> dict[int, int] | None:
        """How far the receptive field goes towards one end, for each phase that sees anything."""
        pitch = self._lattice.pitch
        first = -(-min(_FRAME, self._length // 4) // pitch) * pitch
        if first + pitch > self._length // 2:
            return None
        touched = {n: self._touched(end, n, swallowed) for n in (first, first + pitch)}
        far = -1 if end == LOW else 0
        if touched[first + pitch].size and touched[first + pitch][far]:
            return None
        found: dict[int, int] = {}
        for frame, outputs in self._newly_touched(end, (first, first + pitch), touched, swallowed):
            for output in outputs:
                found[output % int(pitch * self._lattice.scale)] = self._extent(end, frame, output)
        return found

    def _touched(self, end: int, frame: int, swallowed: bool) -> npt.NDArray[np.bool_]:
        """Outputs that depend on an end of so many pixels."""
        by_nan = self._line(torch.isnan(self.run(self._with_end(end, frame, math.nan))))
        if not swallowed:
            return by_nan
        changed = self.run(self._with_end(end, frame, _NOISE)) != self._clean_prediction
        return by_nan | self._line(changed)

    def _newly_touched(
        self,
        end: int,
        frames: Sides,
        touched: dict[int, npt.NDArray[np.bool_]],
        swallowed: bool,
    ) -> Iterator[tuple[int, list[int]]]:
        """Ends, and the outputs that one more pixel touches; halving where nothing changes."""
        few, many = frames
        new = touched[many] & ~touched[few]
        if not new.any():
            return
        if many - few == 1:
            yield few, [int(i) for i in np.flatnonzero(new)]
            return
        middle = (few + many) // 2
        touched[middle] = self._touched(end, middle, swallowed)
        yield from self._newly_touched(end, (few, middle), touched, swallowed)
        yield from self._newly_touched(end, (middle, many), touched, swallowed)

    def _extent(self, end: int, frame: int, output: int) -> int:
        """Pixels from those an output covers to the last it sees, `frame` pixels from the end."""
        scale, before = self._lattice.scale, self._lattice.crop[0]
        if end == LOW:
            return math.floor(output / scale) + before - frame
        return self._length - frame - math.ceil((output + 1) / scale) - before

    # -- what an end touches

    def _depth(self, end: int, frame: int, value: float = math.nan) -> float | None:
        """How far beyond one end of `frame` pixels the prediction depends on it, in input pixels.

        The end is set to `value`, or to noise so large. Gaps of dilated kernels count as reach.
        None where the slab is too short to tell.
        """
        if frame > self._length // 2:
            return None
        y = self.run(self._with_end(end, frame, value))
        changed = torch.isnan(y) if math.isnan(value) else y != self._clean_prediction
        touched = np.flatnonzero(self._line(changed))
        edges = self._edges(y.shape[self._axis + 2])
        if touched.size == 0:
            return 0.0
        if end == LOW:
            far, last = touched[-1] == edges.size - 2, edges[touched[-1] + 1]
            depth = last - self._lattice.crop[0] - frame
        else:
            far, last = touched[0] == 0, edges[touched[0]]
            depth = self._length - self._lattice.crop[1] - frame - last
        return None if far else float(depth)

    def _with_end(self, end: int, frame: int, value: float) -> torch.Tensor:
        """Copy of the clean input with one end NaN, or other and much larger noise."""
        x = self.clean.clone()
        part = x.narrow(self._axis + 2, 0 if end == LOW else self._length - frame, frame)
        if math.isnan(value):
            part.fill_(value)
        else:
            random = torch.Generator().manual_seed(7)
            part.copy_(value * torch.randn(part.shape, generator=random))
        return x

    @cached_property
    def _clean_prediction(self) -> torch.Tensor:
        return self.run(self.clean)

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
        structure = self._structure()
        if structure is None:
            return None
        return next((n for n in self._multiples(structure) if self._follows(n)), None)

    def period_by_values(self) -> int | None:
        """The same where NaN shows no structure, because it is swallowed or goes everywhere."""
        unit = self._lattice.scale.denominator
        return next((n for n in self._multiples(unit) if self._follows(n)), None)

    @staticmethod
    def _multiples(unit: int) -> Iterator[int]:
        factors = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 24, 27, 28, 32, 36, 48, 64)
        yield from (unit * n for n in factors if unit * n <= _LONGEST_PERIOD)

    def _structure(self) -> int | None:
        """Period of the depth to which a NaN end reaches, as the end is moved pixel by pixel.

        None where the slab is too short to tell.
        """
        unit = self._lattice.scale.denominator
        depths: list[float] = []
        while len(depths) < 2 * _LONGEST_PERIOD:
            wanted = max(4, 2 * len(depths))
            while len(depths) < wanted:
                depth = self._depth(LOW, _FRAME + len(depths))
                if depth is None:
                    return None
                depths.append(depth)
            half = len(depths) // 2
            for period in range(unit, half + 1, unit):
                if depths[period:] == depths[:-period]:
                    return period
        return None

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
        return self._agree(here, there, tolerance)

    def _inside(self, shift: int) -> tuple[int, int, float]:
        """Outputs that see neither the slab's ends nor `shift` pixels before its far end.

        Where there are none, because everything is coupled, or they cannot be told, because NaN
        is swallowed: the middle third, to be compared with a wide tolerance.
        """
        frame = max(8, shift)
        low, high = self._depth(LOW, frame), self._depth(HIGH, frame)
        scale = float(self._lattice.scale)
        count = self._reference.shape[self._axis + 2]
        if low is None or high is None or not (low or high or self._nan_shows()):
            return count // 3, count - count // 3, ROUGHLY_SAME
        begin = math.ceil((frame + low) * scale)
        return begin, count - math.ceil((frame + high) * scale), SAME

    def _nan_shows(self) -> bool:
        return bool(torch.isnan(self.run(self._with_end(LOW, 8, math.nan))).any())


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
