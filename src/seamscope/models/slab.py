"""A slab: one input that is long in one axis, and what changing its ends does to the prediction.

Knows tensors, a network's lattice along one axis, and how an end is replaced. Does not know what is
concluded from it (see `seamscope.models.reach` and `seamscope.models.period`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from seamscope.errors import SeamscopeError
from seamscope.models.derived.facts import MOMENTS
from seamscope.models.double import in_double
from seamscope.models.trials import Attempt, Otherwise, OutOfPatience
from seamscope.normalization.audit import FixedStatistics, Forward
from seamscope.recorded_graph import Dispatch, RecordedGraph, record
from seamscope.tiling import Lattice, Sides

if TYPE_CHECKING:
    from seamscope.models.facts import Facts

# Predictions that differ by less, in standard deviations, are the same: another order of
# summation makes about 1e-5, a tile three pixels off the grid more than 1 (both measured).
SAME = 1e-4
LOW, HIGH = 0, 1  # ends of a slab
NAN = math.nan
NOISES = (100.0, 1.0)  # standard deviations of what replaces an end, besides NaN
# Values that vary by less, of their magnitude, are constant up to rounding.
_ROUNDING_AT = 1e-6
# In float64, what changes the prediction by less, in standard deviations, is rounding.
CANCELS = 1e-9

# Shortest and longest slab (pixels) for 1, 2 and 3 spatial axes.
_SHORTEST = {1: 512, 2: 384, 3: 160}
_LONGEST = {1: 8192, 2: 3072, 3: 640}
_PERIODS = 24  # a slab may always be so many periods long
_FRAME = 32  # replaced pixels at an end: more than the gaps of usual dilated kernels

_Change: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
Content: TypeAlias = tuple[_Change, _Change]
# What the inside of a slab holds, and what its ends: so unlike that code which decides by a
# maximum, a minimum, a mean or whether there is anything at all decides otherwise for the whole.
CONTENTS: tuple[Content, ...] = (
    (lambda x: x, lambda x: 1e5 * x),
    (lambda x: 0.01 * x, lambda x: x),
    (lambda x: x - 5, lambda x: x + 50),
    (lambda x: x + 5, lambda x: x - 50),
    (lambda x: 0 * x, lambda x: x),
    # warping reaches further where numbers are larger, and the other way where they are negative
    (lambda x: 10 * x, lambda x: 10 * x),
    (lambda x: -10 * x, lambda x: -10 * x),
)


def _far(by: float, shift: int, x: torch.Tensor) -> torch.Tensor:
    """Large numbers; others lie at the ends after each shift."""
    return by * x.roll(shift)


# The same for networks that read at computed places: where these are limited, to their limits.
FAR: tuple[Content, ...] = tuple(
    (partial(_far, by, shift), partial(_far, by, shift))
    for shift, most in ((0, 1e2), (0, 1e3), (101, 1e3))
    for by in (most, -most)
)
# Numbers that code may take to decide otherwise; none too large to count to.
_OTHER_NUMBERS: tuple[Callable[[Any], Any], ...] = (
    lambda n: not n if isinstance(n, bool) else type(n)(1e6),
    lambda n: not n if isinstance(n, bool) else type(n)(-1e6),
)
_MOST_READ = 8  # numbers
_PLACES = 8  # at which tiles of one size are compared
Line: TypeAlias = npt.NDArray[np.bool_]
Apart: TypeAlias = tuple[float, float]
PhaseFields: TypeAlias = tuple[Sides, ...]
"""Input pixels ``(before, after)`` that output pixel ``i`` sees beyond those it covers itself.

Entry ``p`` is for all ``i`` that are ``p`` modulo the number of entries, counted from the first
output pixel of a tile on the grid: one period, in output pixels.
"""


def slabs(
    forward: Forward, facts: Facts, axis: int, fixed: bool = False, least: int = 0
) -> Iterator[Slab]:
    """Slabs of growing length along one axis, while memory suffices.

    Parameters
    ----------
    forward
        ``(N, C, *spatial)`` float32 tensor to prediction, on the CPU. Pass the plain network:
        fused kernels swallow NaN.
    facts
        Channels, a small shape that the network accepts, and for each axis sizes, crop, scale and,
        where it is known, period.
    axis
        Which axis is long.
    fixed
        Whether statistics of the tile are held at those of the whole slab.
    least
        Pixels of the shortest slab that is worth the while.
    """
    lattice = facts.lattice[axis]
    first: Slab | None = None
    for length in _lengths(lattice, facts.spatial_axes, least):
        shape = [*facts.narrow]
        shape[axis] = length
        random = torch.Generator().manual_seed(axis)
        clean = torch.randn(1, facts.in_channels, *shape, generator=random)
        slab = Slab(forward, clean, axis, lattice, fixed and bool(facts.statistics))
        first = slab.shortest = first or slab
        yield slab
        # Attention grows with the square of the pixels: do not let a probe fill the memory.
        most = first.peak * (slab.length / first.length) ** 2
        free = psutil.virtual_memory().available
        if most * 16 > free and slab.peak * 16 > free:
            return


def _lengths(lattice: Lattice, axes: int, least: int) -> Iterator[int]:
    if lattice.fixed is not None:
        yield lattice.fixed
        return
    length = max(_SHORTEST[axes] + sum(lattice.crop), least)
    longest = max(_LONGEST[axes], _PERIODS * lattice.pitch, 2 * length)  # one is no comparison
    while length <= longest:
        size = lattice.size_at_least(length)
        yield size
        if size == lattice.limit:
            return
        length *= 2


class Slab:
    """One long input, its prediction, and predictions of changed copies.

    Attributes
    ----------
    clean
        The input ``(1, C, *spatial)``.
    length
        Its pixels along the long axis.
    unchanged
        Its prediction ``(1, C', *spatial')``.
    shortest
        The first of slabs of growing length, which does what longer ones do; itself by default.
    """

    def __init__(
        self, forward: Forward, clean: torch.Tensor, axis: int, lattice: Lattice, fixed: bool
    ) -> None:
        self.clean = clean
        self.axis = axis
        self.lattice = lattice
        self.length = clean.shape[axis + 2]
        self.shortest = self
        self._plain, self._fixed = forward, fixed
        # statistics are recorded in the first run, and held in all others
        self._forward = FixedStatistics(forward) if fixed else forward
        self.unchanged = self.run(clean)
        self._spread = float(self.unchanged.std()) or 1.0
        self._changes: dict[tuple[int, int, str], npt.NDArray[np.float64]] = {}

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network."""
        with torch.no_grad():
            return self._forward(x)

    @cached_property
    def peak(self) -> int:
        """Bytes that a forward pass takes."""
        meter = MemoryMeter()
        with meter:
            self.run(self.clean)
        return meter.peak

    @cached_property
    def _graph(self) -> RecordedGraph | None:
        """The network's operations; None where they cannot be recorded."""
        return _recorded(self._plain, self.clean)

    @property
    def warps(self) -> bool:
        """Whether the network reads at places that it computes."""
        graph = self.shortest._graph  # recurrent networks do much more in a longer one
        return graph is not None and graph.warps

    @cached_property
    def decides(self) -> bool:
        """Whether the network's code predicts something else where a number of the slab is another.

        A number that is only checked makes an error, or nothing. One that is read in each window of
        a slab, of which a longer one has more, is none of the whole.
        """
        held = MOMENTS if self._fixed else ()
        graph = self.shortest._graph
        if graph is not None and graph.numbers_read(held):
            graph = self._graph
        read = () if graph is None else graph.numbers_read(held)
        if graph is None or not 0 < len(read) <= _MOST_READ:
            return False
        start, size = self._shorter
        shorter = _recorded(self._plain, self.clean.narrow(self.axis + 2, start, max(1, size)))
        if shorter is None or len(shorter.numbers_read(held)) != len(read):
            return False
        most = 2 * len(graph.steps) + 1000
        return any(
            self._differs(Otherwise(number, change, most))
            for number in read
            for change in _OTHER_NUMBERS
        )

    def _differs(self, otherwise: Otherwise) -> bool:
        with Attempt(), otherwise:
            y = self.run(self.clean)
            return y.shape != self.unchanged.shape or not torch.equal(y, self.unchanged)
        return False

    def frame(self, pitch: int | None = None) -> int:
        """Pixels of an end that is replaced: whole periods."""
        pitch = pitch or self.lattice.pitch
        return -(-min(_FRAME, self.length // 4) // pitch) * pitch

    # -- what an end touches

    def touched(self, end: int, frame: int, how: float, least: float = 0.0) -> Line:
        """Outputs that change with an end of `frame` pixels.

        The end becomes NaN, or noise of standard deviation `how`. By default any change counts,
        else one of more than `least` standard deviations.
        """
        line: Line = self._change(end, frame, how) > least * self._spread
        return line

    def _change(self, end: int, frame: int, how: float) -> npt.NDArray[np.float64]:
        key = end, frame, str(how)
        if key not in self._changes:
            change = self._changed(self.with_end(end, frame, how), how)
            self._changes[key] = change.amax(self._others).double().numpy()
        return self._changes[key]

    def _changed(self, x: torch.Tensor, how: float) -> torch.Tensor:
        try:
            y = self.run(x)
        except (OutOfPatience, InterruptedError, SeamscopeError):
            raise
        except Exception:
            if not math.isnan(how):
                raise
            return torch.ones_like(self.unchanged)  # it does not run on NaN
        if math.isnan(how):
            return torch.isnan(y).float()
        by = (y - self.unchanged).abs().nan_to_num(math.inf, math.inf)
        return by.masked_fill(y == self.unchanged, 0.0)

    def may_cancel(self, frame: int, most: float) -> bool:
        """Whether the low end may change all the prediction by rounding alone: little, and evenly.

        A memory that fades changes it less and less.
        """
        change = self._change(LOW, frame, NOISES[0])
        kept = change[self.inside(np.ones_like(change, dtype=np.bool_), LOW, frame)]
        near, far = np.array_split(kept, 2)[1], np.array_split(kept, 8)[-1]
        little = bool(far.size) and float(far.min()) < most * self._spread
        return little and float(np.median(near)) < 10 * float(np.median(far))

    def inside(self, line: Line, end: int, frame: int) -> Line:
        """The same without outputs in the other end, as far as that is replaced in its turn.

        What is cut away there would not be part of a tile: circular padding and rolled windows
        join the ends, which says nothing of pixels between them.
        """
        edges = self.edges(line.size)
        within = edges[1:] <= self.length - frame if end == LOW else edges[:-1] >= frame
        kept: Line = line & within
        return kept

    def depth(self, end: int, frame: int, how: float, least: float = 0.0) -> float | None:
        """How far beyond one end of `frame` pixels the prediction depends on it, in input pixels.

        Gaps of dilated kernels count. None where the slab is too short to tell. Changes count as
        for `touched`.
        """
        if frame > self.length // 3:
            return None
        line = self.touched(end, frame, how, least)
        places = np.flatnonzero(self.inside(line, end, frame))
        edges = self.edges(line.size)
        if places.size == 0:
            return 0.0
        # the outputs nearest to the other end must be untouched
        open_end = np.flatnonzero(self.inside(np.ones_like(line), end, frame))
        if end == LOW:
            far, last = places[-1] == open_end[-1], edges[places[-1] + 1]
            depth = last - self.lattice.crop[0] - frame
        else:
            far, last = places[0] == open_end[0], edges[places[0]]
            depth = self.length - self.lattice.crop[1] - frame - last
        return None if far else float(depth)

    def joined(self, end: int, frame: int, least: float = 0.0) -> int:
        """How deep the other end of the slab changes with one end, in input pixels; usually 0."""
        line = self.touched(end, frame, NOISES[0], least)
        edges = self.edges(line.size)
        other = line & ~self.inside(np.ones_like(line), end, frame)
        places = np.flatnonzero(other)
        if places.size == 0:
            return 0
        if end == LOW:
            return math.ceil(float(edges[-1] - edges[places[0]]))
        return math.ceil(float(edges[places[-1] + 1] - edges[0]))

    def with_end(self, end: int, frame: int, how: float) -> torch.Tensor:
        """Copy of the clean input with one end NaN, or other noise."""
        x = self.clean.clone()
        part = x.narrow(self.axis + 2, 0 if end == LOW else self.length - frame, frame)
        if math.isnan(how):
            part.fill_(how)
        else:
            random = torch.Generator().manual_seed(7)
            part.copy_(how * torch.randn(part.shape, generator=random))
        return x

    @property
    def _others(self) -> tuple[int, ...]:
        """Dimensions of a prediction besides the long one."""
        return tuple(d for d in range(self.unchanged.ndim) if d != self.axis + 2)

    def edges(self, count: int) -> npt.NDArray[np.float64]:
        """Borders of the output pixels, in input pixels; one more than there are pixels."""
        return np.arange(count + 1) / float(self.lattice.scale) + self.lattice.crop[0]

    # -- comparisons

    def difference(self, a: torch.Tensor, b: torch.Tensor) -> float:
        """Max difference of two predictions, in standard deviations of the slab's."""
        return float((a - b).abs().max()) / self._spread

    @cached_property
    def precise(self) -> Slab | None:
        """The same in float64; None where the network does not run so."""
        with Attempt():
            return Slab(in_double(self._plain), self.clean, self.axis, self.lattice, self._fixed)
        return None

    def varied(self, content: Content) -> Slab:
        """A slab whose ends, an eighth of it or more, hold other intensities than all between.

        Statistics that are held are those of this slab: fixed ones fit no part of an image.
        """
        inside, outside = content
        clean = outside(self.clean).clone()
        start, size = self._shorter
        part = self.clean.narrow(self.axis + 2, start, size)
        clean.narrow(self.axis + 2, start, size).copy_(inside(part))
        made = Slab(self._forward, clean, self.axis, self.lattice, False)
        long = made.unchanged.shape[self.axis + 2]
        middle = made.unchanged.narrow(self.axis + 2, long // 4, long // 2)
        made._spread = max(self._spread, float(middle.std()))
        return made

    @property
    def _shorter(self) -> Sides:
        """Start and size of the part on the grid that leaves an eighth out at either end.

        And more at the high end: what lies relative to the middle of a tile would not move else.
        """
        pitch = self.lattice.pitch
        start = -(-self.length // (8 * pitch)) * pitch
        return start, self.lattice.size_at_most(self.length - 2 * start - max(pitch, start // 2))

    def agrees_when_moved(self, halo: Sides) -> bool | None:
        """Whether tiles of one size at several places on the grid agree beyond a halo.

        None where that leaves nothing to compare.
        """
        lattice, axis = self.lattice, self.axis + 2
        size = lattice.fixed or lattice.size_at_most(self.length // 2)
        count = int((size - sum(lattice.crop)) * lattice.scale)
        first, last = (math.ceil(side * lattice.scale) for side in halo)
        if size == 0:
            return None
        one, compared = self.run(self.clean.narrow(axis, 0, size)), None
        for step in range(1, _PLACES):
            start = step * lattice.pitch
            moved = int(start * lattice.scale)
            length = count - moved - first - last
            if length <= 0 or (lattice.fixed is None and start + size > self.length):
                break
            other = self.run(self.clean.roll(-start, axis).narrow(axis, 0, size))
            here, there = one.narrow(axis, moved + first, length), other.narrow(axis, first, length)
            if self.difference(here, there) >= SAME:
                return False
            compared = True
        return compared

    def apart_when_shorter(self, halo: Sides, tolerance: float = SAME) -> Apart | None:
        """How deep, from either end, a shorter slab on the grid predicts something else.

        `halo` where it does so nowhere beyond that, infinite where it does so nearly everywhere;
        None where the slab is too short to tell. A network of one size is never compared.
        """
        lattice, axis = self.lattice, self.axis + 2
        if lattice.fixed is not None:
            return halo
        start, size = self._shorter
        count = int((size - sum(lattice.crop)) * lattice.scale)
        first, last = (math.ceil(side * lattice.scale) for side in halo)
        if size == 0 or count - first - last < lattice.pitch * lattice.scale:
            return None
        part = self.run(self.clean.narrow(axis, start, size))
        whole = self.unchanged.narrow(axis, int(start * lattice.scale), count)
        differs = ((part - whole).abs() / self._spread >= tolerance).any(self._others).numpy()
        places = np.flatnonzero(differs[first : count - last]) + first
        if places.size == 0:
            return halo
        low, high = places[places < count / 2], places[places >= count / 2]
        sides = int(low.max(initial=first - 1)) + 1, count - int(high.min(initial=count - last))
        if count - sum(sides) < count / 4:
            return math.inf, math.inf
        return math.ceil(sides[0] / lattice.scale), math.ceil(sides[1] / lattice.scale)


def vanishes(forward: Forward, facts: Facts) -> bool:
    """Whether a prediction of noise hardly varies within its channels.

    The signal of untrained weights may vanish in depth: what then changes by less than rounding
    shows nothing of a network with other weights, nor of other images.
    """
    with Attempt():
        random = torch.Generator().manual_seed(0)
        y = forward(torch.randn(1, facts.in_channels, *facts.narrow, generator=random))
        if y[0, 0].numel() < 2:
            return False
        within = float(y.double().flatten(2).std(2).max())
        # a hundredth of what varies so little, beside other channels, would be taken for none
        beside = SAME / 1e-2 * float(y.double().std()) if y.shape[1] > 1 else 0.0
        return within <= max(beside, _ROUNDING_AT * float(y.abs().max()))
    return False


def _recorded(forward: Forward, x: torch.Tensor) -> RecordedGraph | None:
    with Attempt():
        return record(forward, x.clone(), decided=True)
    return None


def reads_at_computed_places(forward: Forward, x: torch.Tensor) -> bool:
    """Whether a network does; not where its operations cannot be recorded."""
    graph = _recorded(forward, x)
    return graph is not None and graph.warps


class MemoryMeter(Dispatch):
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
        self._since = 0  # operations since released tensors were last left out

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._since += 1
        # recurrent networks hold thousands of small tensors: looking at all of them after each
        # operation would take longer than the network
        if self._since > len(self._live) // 32:
            self._live = {k: v for k, v in self._live.items() if not v[0].expired()}
            self._since = 0
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result
