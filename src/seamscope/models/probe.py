"""What a network demands and gives, found by running it on small random inputs.

Knows tensors in and tensors out. Does not know layers' names, files, formats or images: a module,
a script and an exported program are questioned alike, and nobody is asked what can be measured.

In this order: number of spatial axes and channels; sizes accepted, hence output scale and the
crop of valid convolutions; normalizations that use the tile's own statistics; the period.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from seamscope.errors import ModelError
from seamscope.models.reach import MemoryMeter, measure_period, with_periods
from seamscope.normalization.audit import FixedStatistics, Forward, StatisticsCall
from seamscope.tiling import Lattice, axis_names

_SIZES = {
    1: (256, 512, 128),
    2: (64, 96, 128, 48, 32, 160, 192, 256, 188, 140, 572, 224, 512),
    3: (32, 48, 64, 24, 16, 40, 96, 128, 92, 116, 132),
}
_NARROW = (8, 12, 16, 20, 24, 32, 40, 48)
_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 24, 25, 27, 28, 32, 36, 48, 64, 128)


@dataclass(frozen=True)
class Facts:
    """What was measured of a network; nothing in it depends on an image.

    Attributes
    ----------
    in_channels, out_channels
        Channels of input and prediction.
    lattice
        Period, accepted sizes, crop and scale, for each spatial axis (``zyx``).
    narrow
        A small spatial shape, in input pixels, with which the network was seen to run.
    bytes_per_pixel
        Memory of one forward pass for each input pixel, weights not counted.
    statistics
        Normalizations that use the tile's own statistics, in the order of the forward pass.
    any_channels
        Whether other numbers of channels are accepted too (networks without weights).
    channels_follow
        Whether such a network then gives as many channels as it gets.
    period_found
        False where no shift is followed (attention, absolute positions): the accepted step of
        sizes then stands in for the period.
    forward_only
        Whether another program runs the network, so that its statistics cannot be held fixed and
        the reach of its convolutions alone is not known; `statistics` were then read, not seen.
    """

    in_channels: int
    out_channels: int
    lattice: tuple[Lattice, ...]
    narrow: tuple[int, ...]
    bytes_per_pixel: float
    statistics: tuple[StatisticsCall, ...] = ()
    any_channels: bool = False
    channels_follow: bool = False
    period_found: bool = True
    forward_only: bool = False

    def with_channels(self, count: int) -> Facts:
        """Facts for an input of so many channels, for networks that take any number."""
        if not self.any_channels:
            return self
        out = count if self.channels_follow else self.out_channels
        return replace(self, in_channels=count, out_channels=out)

    @property
    def spatial_axes(self) -> int:
        """Number of spatial axes."""
        return len(self.lattice)

    @property
    def period(self) -> tuple[int, ...]:
        """Period along each axis, in input pixels."""
        return tuple(axis.period for axis in self.lattice)

    @property
    def scale(self) -> tuple[Fraction, ...]:
        """Output pixels for each input pixel, along each axis."""
        return tuple(axis.scale for axis in self.lattice)

    @property
    def valid(self) -> bool:
        """Whether the prediction is smaller than the input (valid convolutions)."""
        return any(any(axis.crop) for axis in self.lattice)

    @property
    def told_statistics(self) -> str:
        """Say how many operations use the tile's own statistics, as the start of a sentence."""
        count = len(self.statistics)
        # means taken by hand may normalize, or gate as squeeze-and-excite does
        plain = all(call.kind != "hand-written" for call in self.statistics)
        noun = ("normalization layer" if plain else "operation") + "s" * (count != 1)
        return f"{count} {noun} use{'s' * (count == 1)} each tile's own statistics"

    def __str__(self) -> str:
        names = axis_names(self.spatial_axes)

        def each(values: Sequence[object]) -> str:
            same = len(set(values)) == 1
            return str(values[0]) if same else " x ".join(map(str, values))

        parts = [
            f"{self.spatial_axes}D ({names}), "
            f"{'any' if self.any_channels else self.in_channels} -> {self.out_channels} channels",
            f"period {each(self.period)}",
        ]
        if any(axis.fixed for axis in self.lattice):
            parts.append(f"fixed tile {each([axis.fixed for axis in self.lattice])}")
        if self.valid:
            parts.append(f"valid convolutions, crop {each([axis.crop for axis in self.lattice])}")
        if any(scale != 1 for scale in self.scale):
            parts.append(f"output scale {each(self.scale)}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Hints:
    """What is known before probing; every field may be left empty.

    Attributes
    ----------
    spatial_axes, in_channels
        Where the file or the user says so.
    shape
        The one spatial shape of a network saved with fixed sizes.
    weights
        Shapes of the network's weights in order: the first convolution tells axes and channels.
    """

    spatial_axes: int | None = None
    in_channels: int | None = None
    shape: tuple[int, ...] | None = None
    weights: tuple[tuple[int, ...], ...] = ()


def probe(forward: Forward, hints: Hints | None = None) -> Facts:
    """Measure a network.

    Parameters
    ----------
    forward
        ``(N, C, *spatial)`` float32 tensor to ``(N, C', *spatial')`` tensor, on the CPU.
    hints
        What is already known.

    Raises
    ------
    ModelError
        Where no input the prober tries is accepted, or the output is no image.
    """
    return _Prober(forward, hints or Hints()).facts()


class _Prober:
    def __init__(self, forward: Forward, hints: Hints) -> None:
        self._forward = forward
        self._hints = hints
        self._shapes: dict[tuple[int, ...], tuple[int, ...] | None] = {}
        self._error = ""
        self._no_image = ""
        self._any_channels = False
        self._channels_follow = False

    def facts(self) -> Facts:
        channels, shape = self._accepted_input()
        out_channels = self._out_shape(channels, shape)[1]
        lattice = self._lattice(channels, shape)
        fixed, meter = FixedStatistics(self._forward), MemoryMeter()
        with meter:
            fixed(self._noise(channels, shape))
        narrow = self._narrow(channels, shape, lattice)
        periods = measure_period(self._forward, channels, lattice, narrow)
        return Facts(
            in_channels=channels,
            out_channels=out_channels,
            lattice=with_periods(lattice, periods),
            narrow=narrow,
            bytes_per_pixel=meter.peak / math.prod(shape),
            statistics=tuple(fixed.calls),
            any_channels=self._any_channels,
            channels_follow=self._channels_follow,
            period_found=None not in periods,
        )

    # -- what goes in and comes out

    def _accepted_input(self) -> tuple[int, tuple[int, ...]]:
        """Find channels and a spatial shape with which the network runs."""
        for axes, channels, batch in self._candidates():
            for shape in self._candidate_shapes(axes):
                found = self._run_shape(channels, shape, batch)
                if found is None:
                    continue
                if len(found) == axes + 2 and found[0] == batch:
                    self._check_any_channels(channels, shape)
                    return channels, shape
                self._no_image = f"for an input of {(batch, channels, *shape)} it gives {found}"
        answer = (self._no_image or self._error).rstrip(".")
        raise ModelError(
            "The network runs on no input that was tried (1 to 8 channels, 2 or 3 spatial axes, "
            f"usual sizes); its answer: {answer}. It must map (N, C, [Z,] Y, X) to an image "
            "(N, C', [Z',] Y', X'); wrap it in a module that does."
        )

    def _candidates(self) -> Iterator[tuple[int, int, int]]:
        kernels = [shape for shape in self._hints.weights if len(shape) in (4, 5)]
        axes = [len(kernels[0]) - 2] if kernels else [2, 3]
        if self._hints.spatial_axes:
            axes = [self._hints.spatial_axes]
        first = [kernels[0][1]] if kernels else []
        channels = [*dict.fromkeys([*first, 1, 3, 2, 4, 5, 6, 7, 8])]
        if self._hints.in_channels:
            channels = [self._hints.in_channels]
        # A batch of 3 cannot be mistaken for channels; some networks are saved for a batch of 1.
        yield from itertools.product(axes, channels, (3, 1))

    def _candidate_shapes(self, axes: int) -> Iterable[tuple[int, ...]]:
        if self._hints.shape is not None:
            return [self._hints.shape]
        return [(size,) * axes for size in _SIZES[axes]]

    def _check_any_channels(self, channels: int, shape: tuple[int, ...]) -> None:
        if not self._hints.weights and not self._hints.in_channels:
            more = self._run_shape(channels + 1, shape)
            self._any_channels = more is not None
            self._channels_follow = more is not None and more[1] == channels + 1

    def _run_shape(
        self, channels: int, shape: tuple[int, ...], batch: int = 1
    ) -> tuple[int, ...] | None:
        key = (batch, channels, *shape)
        if key not in self._shapes:
            try:
                y = _run(self._forward, torch.zeros(batch, channels, *shape))
                self._shapes[key] = tuple(y.shape)
            except ModelError:  # it runs, but gives no single tensor: nor will it for other sizes
                raise
            except Exception as error:  # whatever somebody's network raises means "not this"
                self._error = _first_line(error)
                self._shapes[key] = None
        return self._shapes[key]

    def _out_shape(self, channels: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        found = self._run_shape(channels, shape)
        if found is None:
            raise ModelError(f"The network runs on a batch of 3 but not of 1: {self._error}.")
        return found

    def _noise(self, channels: int, shape: tuple[int, ...]) -> torch.Tensor:
        random = torch.Generator().manual_seed(0)
        return torch.randn(1, channels, *shape, generator=random)

    def _narrow(
        self, channels: int, shape: tuple[int, ...], lattice: tuple[Lattice, ...]
    ) -> tuple[int, ...]:
        """Find a shape as small as the network allows, for slabs."""
        for size in _NARROW:
            small = tuple(axis.size_at_least(size) for axis in lattice)
            if math.prod(small) < math.prod(shape) and self._run_shape(channels, small):
                return small
        return shape

    # -- sizes

    def _lattice(self, channels: int, shape: tuple[int, ...]) -> tuple[Lattice, ...]:
        sizes = self._out_shape(channels, shape)[2:]
        return tuple(self._axis(channels, shape, sizes, axis) for axis in range(len(shape)))

    def _steps(
        self, output: Callable[[int], int | None], size: int, out: int
    ) -> Iterator[tuple[Fraction, int]]:
        """Scales and steps by which sizes and outputs grow evenly, up to the first plain scale.

        Networks that round sizes up to 8 give 8 more pixels for 7 more, and again; such scales,
        8/7, are taken for true only where no whole one (or part of one) is found.
        """
        for step in () if self._hints.shape else _STEPS:
            one, two = output(size + step), output(size + 2 * step)
            if one is None or two is None or two - one != one - out or one == out:
                continue
            scale = Fraction(one - out, step)
            yield scale, step
            if _plain(scale):
                return

    def _axis(
        self, channels: int, shape: tuple[int, ...], out: tuple[int, ...], axis: int
    ) -> Lattice:
        size = shape[axis]

        def output(extent: int) -> int | None:
            found = self._run_shape(channels, (*shape[:axis], extent, *shape[axis + 1 :]))
            return found[axis + 2] if found else None

        found = list(self._steps(output, size, out[axis]))
        if found:
            scale, step = found[-1] if _plain(found[-1][0]) else found[0]
            # of the sizes a step apart, those that lose least: 63 and not 64 for poolings by 3
            sizes = [(n, o) for n in range(size, max(size - step, 0), -1) if (o := output(n))]
            exact = [pair for pair in sizes if _lost(*pair, scale) is not None]
            best = min(exact or sizes[:1], key=lambda pair: pair[0] - pair[1] / scale)
            return _axis_lattice(*best, scale, step)
        if out[axis] > size:  # one size only: a whole scale is the simplest reading
            return Lattice(scale=Fraction(out[axis], size), fixed=size)
        whole = Fraction(out[axis], size)
        scale = whole if whole.numerator == 1 and whole < 1 else Fraction(1)
        lost = size - int(out[axis] / scale)
        return Lattice(crop=(lost // 2, lost - lost // 2), scale=scale, fixed=size)


def _plain(scale: Fraction) -> bool:
    return 1 in (scale.numerator, scale.denominator)


def _lost(size: int, out: int, scale: Fraction) -> int | None:
    """Input pixels without output; None where they are no whole, non-negative number."""
    lost = size - out / scale
    return int(lost) if lost.denominator == 1 and lost >= 0 else None


def _axis_lattice(size: int, out: int, scale: Fraction, step: int) -> Lattice:
    lost = _lost(size, out, scale)
    if lost is None:
        raise ModelError(
            f"For {size} pixels the network gives {out}, with {scale} output pixels for each "
            "further input pixel: output and input lie on no common grid, so that tiles cannot "
            "be stitched."
        )
    crop = (lost // 2, lost - lost // 2)
    return Lattice(period=1, step=step, offset=size % step, crop=crop, scale=scale)


def _run(forward: Forward, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd sizes are our doing, not the user's
        y = forward(x)
    if not isinstance(y, torch.Tensor):
        raise ModelError(f"it returns {type(y).__name__} instead of one tensor")
    return y


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[-1][:200] if "\n" in text else text[:200]
