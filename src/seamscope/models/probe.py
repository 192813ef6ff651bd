"""What a network demands and gives, found by running it on small random inputs.

Knows tensors in and tensors out. Does not know layers' names, files, formats or images: a module,
a script and an exported program are questioned alike, and what can be measured is no question to
the user.

In this order: number of spatial axes and channels; sizes accepted, hence output scale and the
crop of valid convolutions; normalizations that use the tile's own statistics; the period.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from seamscope.errors import ModelError
from seamscope.models.derived import Derived, DerivedAxis
from seamscope.models.entrance import Entrance, Entry, Hints, Layout, arranged
from seamscope.models.implied import Implied, derived_at, derived_by, derived_for_tiles
from seamscope.models.output_kind import OutputKind, kind_of, undecided
from seamscope.models.period import measure_period, with_periods
from seamscope.models.reach import MemoryMeter, PhaseFields, measure_fields
from seamscope.models.trials import Draws, OutOfPatience, Trials, Watch
from seamscope.normalization.audit import FixedStatistics, Forward, StatisticsCall
from seamscope.text import axes_text
from seamscope.tiling import Lattice, Sides, axis_names

_NARROW = (8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384)
_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 24, 25, 27, 28, 32, 36, 48, 64, 128)
# Increments of sizes from which the scale is read: multiples of most periods, the usual ones first.
_FAR = (192, 240, 224, 256, 144, 360, 220, 208, 288, 250, 343, 384, 512)
_CHANCE = 1e-6  # two runs that differ by more, in standard deviations, are random
_RUNS = 64  # of a network that draws numbers, until two predictions differ


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
    kind
        What its values are (see `seamscope.models.output_kind`).
    kind_certain
        Whether that is stated or follows from the network's end. A network that ends with a linear
        layer may give logits, or values that only look like them.
    noise
        How much two runs of one input differ, in standard deviations of the output; 0 for a
        network that always predicts the same.
    layout
        Axes of its tensors, where they are not ``(N, C, *spatial)``.
    implied
        What its operations imply; None where they cannot be read.
    cut
        Output pixels ``(before, after)`` beyond the input's ends that are left out, for each axis.
    notes
        Sentences on what could not be measured for certain.
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
    kind: OutputKind = "values"
    kind_certain: bool = True
    noise: float = 0.0
    layout: Layout | None = None
    implied: Implied | None = None
    cut: tuple[Sides, ...] = ()
    notes: tuple[str, ...] = ()

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
    def statistics_sentence(self) -> str:
        """Say how many operations use the tile's own statistics, as the start of a sentence."""
        count = len(self.statistics)
        # means taken by hand may normalize, or gate as squeeze-and-excite does
        plain = all(call.kind != "hand-written" for call in self.statistics)
        noun = ("normalization layer" if plain else "operation") + "s" * (count != 1)
        return f"{count} {noun} use{'s' * (count == 1)} per-tile statistics"

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


def probe(trials: Trials, hints: Hints | None = None) -> Facts:
    """Measure a network.

    Parameters
    ----------
    trials
        Runs the network: ``(N, C, *spatial)`` float32 tensor to ``(N, C', *spatial')`` tensor, on
        the CPU. When its time is over, what is not yet known is noted.
    hints
        What is already known.

    Raises
    ------
    ModelError
        Where no input the prober tries is accepted, or the output is no image.
    """
    return _Prober(trials, hints or Hints()).facts()


class _Prober:
    def __init__(self, trials: Trials, hints: Hints) -> None:
        self._trials = trials
        self._forward: Forward = trials
        self._hints = hints
        self._shapes: dict[tuple[int, ...], tuple[int, ...] | None] = {}
        self._any_channels = False
        self._channels_follow = False
        self._layout: Layout | None = None
        # what is kept for when time runs out
        self._differ = 0.0
        self._values: OutputKind | None = None
        self._derived: Derived | None = None

    def facts(self) -> Facts:
        self._trials.phase("Finding the network's input")
        entry = Entrance(self._trials, self._hints).find()
        try:
            facts = self._first(entry)
        except OutOfPatience:
            with self._trials.overtime():
                facts = self._at_one_size(entry)
        return self._placed(self._with_period(facts))

    def _first(self, entry: Entry) -> Facts:
        """All but the period and where the output lies."""
        channels, shape = entry.channels, entry.shape
        if entry.layout is not None:
            self._layout = entry.layout
            self._forward = arranged(self._trials, entry.layout)
        self._batch = entry.batch
        self._check_out_channels(channels, shape)
        self._check_any_channels(channels, shape)
        noise = self._chance(channels, shape)
        kind, smooth = self._kind(channels, shape)
        self._forward = smooth
        out_channels = self._out_shape(channels, shape)[1]
        self._trials.phase("Reading its operations")
        narrow = self._beside(channels, shape, (None,) * len(shape))
        example = self._noise(channels, shape)
        derived = derived_by(self._forward, example, self._trials.module, narrow)
        self._derived = derived
        periods = tuple(axis.period for axis in derived.axes) if derived else (None,) * len(shape)
        self._trials.phase("Measuring accepted sizes")
        beside = self._beside(channels, shape, periods)
        lattice = tuple(
            self._axis(channels, shape, beside, axis, periods[axis]) for axis in range(len(shape))
        )
        narrow = self._narrow(channels, beside, lattice)
        fixed, meter = FixedStatistics(self._forward), MemoryMeter()
        large = tuple(
            max(n, axis.size_at_least(32)) for n, axis in zip(shape, lattice, strict=True)
        )
        with meter:
            fixed(self._noise(channels, large))
        facts = Facts(
            in_channels=channels,
            out_channels=out_channels,
            lattice=lattice,
            narrow=narrow,
            bytes_per_pixel=meter.peak / math.prod(large),
            statistics=tuple(fixed.calls),
            any_channels=self._any_channels,
            channels_follow=self._channels_follow,
            kind=kind,
            kind_certain=kind != "logits",
            noise=noise,
            layout=self._layout,
            implied=self._implied(derived, channels, narrow, lattice),
        )
        return self._without_surplus(facts)

    def _at_one_size(self, entry: Entry) -> Facts:
        """What a single size shows, and the operations imply for it, where time is over.

        It takes a few more forward passes at the size with which the network ran.
        """
        channels, shape = entry.channels, entry.shape
        x = self._noise(channels, shape)
        fixed, meter = FixedStatistics(self._forward), MemoryMeter()
        with Watch() as watch, Draws() as draws, meter:
            y = fixed(x)
        if draws.seen and not self._trials.random:
            self._differ = _apart(y, [self._forward(x)])
            self._trials.random = True
        kind = self._values or kind_of(watch, [y])
        if kind == "classes" and self._values is None:
            self._forward = undecided(self._forward, x)
        derived = self._derived or derived_at(self._forward, x, self._trials.module)
        lattice = tuple(
            _one_size(n, out, derived.axes[axis] if derived else None)
            for axis, (n, out) in enumerate(zip(shape, y.shape[2:], strict=True))
        )
        implied = Implied.of(derived, lattice) if derived else None
        size = axes_text(shape)
        if self._hints.step is None and not (implied and implied.places_tiles):
            raise ModelError(
                f"Measuring the network's sizes took too long. It runs at {size} px, and its "
                "operations do not show where tiles may start: raise `patience`, or state a "
                "smaller size (`input_size`) or its `step`."
            )
        return Facts(
            in_channels=channels,
            out_channels=int(y.shape[1]),
            lattice=lattice,
            narrow=shape,
            bytes_per_pixel=meter.peak / math.prod(shape),
            statistics=tuple(fixed.calls),
            any_channels=self._any_channels,
            channels_follow=self._channels_follow,
            kind=kind,
            kind_certain=kind != "logits",
            noise=self._differ,
            layout=self._layout,
            implied=implied,
            notes=(
                f"Measuring the accepted sizes ran out of time (`patience`): tiles have {size} px, "
                "at which the network ran. What else is known of it follows from its operations "
                "and was not measured.",
            ),
        )

    def _implied(
        self,
        derived: Derived | None,
        channels: int,
        narrow: tuple[int, ...],
        lattice: tuple[Lattice, ...],
    ) -> Implied | None:
        """What the operations imply for tiles."""
        if derived is None:
            return None

        def example(long: tuple[int, ...]) -> torch.Tensor:
            sides = (one or few for one, few in zip(long, narrow, strict=True))
            return self._noise(channels, tuple(sides))

        tiles = derived_for_tiles(self._forward, derived, lattice, example)
        return Implied.of(tiles, lattice)

    def _check_out_channels(self, channels: int, shape: tuple[int, ...]) -> None:
        """Refuse a network whose number of channels depends on the values of its input."""
        inputs = [torch.zeros(1, channels, *shape), self._noise(channels, shape)]
        given = {int(y.shape[1]) for y in map(self._forward, [*inputs, 10 * inputs[1]])}
        if len(given) > 1:
            raise ModelError(
                f"The network returns {min(given)} channels for one input and {max(given)} for "
                "another of the same size: wrap it in a module that always returns as many."
            )

    # -- period and place

    def _with_period(self, facts: Facts) -> Facts:
        self._trials.phase("Measuring the period")
        if self._hints.step is not None:
            steps = [
                replace(axis, step=step, offset=axis.offset % step)
                for axis, step in (
                    (axis, math.lcm(axis.step, step))
                    for axis, step in zip(facts.lattice, self._hints.step, strict=True)
                )
            ]
            implied = facts.implied.period if facts.implied else ()
            short = any(
                own and step % own for own, step in zip(implied, self._hints.step, strict=False)
            )
            note = (
                f"The stated step of {axes_text(self._hints.step)} px is no multiple of the period "
                f"that the network's operations imply ({axes_text(implied)} px): tiles may lie off "
                "its grid."
            )
            return replace(
                facts,
                lattice=with_periods(steps, self._hints.step),
                notes=(*facts.notes, *([note] if short else [])),
            )
        found = measure_period(self._forward, facts, facts.implied)
        return replace(
            facts,
            lattice=with_periods(facts.lattice, found.period),
            period_found=found.certain,
            notes=(*facts.notes, *found.notes),
        )

    def _without_surplus(self, facts: Facts) -> Facts:
        """Facts of the network without output pixels that lie beyond its input's ends."""
        surplus = [max(0, int(-sum(a.crop) * a.scale)) for a in facts.lattice]
        if not any(surplus):
            return facts
        plain = self._forward
        self._forward = trimmed(plain, [(0, n) for n in surplus])
        whole = tuple(
            replace(a, crop=(0, 0)) if n else a for a, n in zip(facts.lattice, surplus, strict=True)
        )
        facts = replace(facts, lattice=whole, implied=None)
        fields = measure_fields(self._forward, facts)
        cut = [
            _surplus_by_place(n, axis.scale, fields[number] if fields else ())
            for number, (n, axis) in enumerate(zip(surplus, whole, strict=True))
        ]
        self._forward = trimmed(plain, cut)
        self._shapes.clear()
        example = self._noise(facts.in_channels, facts.narrow)
        derived = derived_by(self._forward, example, self._trials.module)
        implied = Implied.of(derived, whole) if derived else None
        return replace(facts, cut=tuple(cut), implied=implied)

    def _placed(self, facts: Facts) -> Facts:
        """Facts with the crop of each side, by the place where a point of the input lands."""
        if not facts.valid or facts.cut or any(axis.fixed for axis in facts.lattice):
            return facts
        uncut = tuple(replace(axis, crop=(0, sum(axis.crop))) for axis in facts.lattice)
        try:
            fields = measure_fields(self._forward, replace(facts, lattice=uncut))
        except OutOfPatience:
            fields = None
        if fields is None:
            return facts
        lattice = tuple(
            replace(axis, crop=_sides_by_place(sum(axis.crop), field))
            for axis, field in zip(facts.lattice, fields, strict=True)
        )
        return replace(facts, lattice=lattice)

    # -- what goes in and comes out

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
                y = self._forward(torch.zeros(batch, channels, *shape))
                self._shapes[key] = tuple(y.shape)
            except (OutOfPatience, InterruptedError):
                raise
            except Exception:  # whatever a network raises means "not this"
                self._shapes[key] = None
        return self._shapes[key]

    def _out_shape(self, channels: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        found = self._run_shape(channels, shape)
        if found is None:
            raise ModelError(
                f"The network runs on a batch of {self._batch} but not of 1: wrap it in a module "
                "that takes a single image."
            )
        return found

    def _noise(self, channels: int, shape: tuple[int, ...]) -> torch.Tensor:
        random = torch.Generator().manual_seed(0)
        return torch.randn(1, channels, *shape, generator=random)

    def _chance(self, channels: int, shape: tuple[int, ...]) -> float:
        """How much two runs of one input differ, in standard deviations of the output.

        Where they differ, later runs replace random draws by their expected value. A network that
        drops whole blocks now and then may predict the same twice: where it draws numbers, it runs
        until two predictions differ.
        """
        x = self._noise(channels, shape)
        with Draws() as draws:
            runs = [self._forward(x).double() for _ in range(2)]
        differ = 0.0
        for _ in range(_RUNS):
            differ = _apart(runs[0], runs[1:])
            if differ > _CHANCE or not draws.seen:
                break
            runs.append(self._forward(x).double())
        if not differ > _CHANCE:
            return 0.0
        self._trials.random = True
        self._shapes.clear()
        self._differ = differ
        return differ

    def _kind(self, channels: int, shape: tuple[int, ...]) -> tuple[OutputKind, Forward]:
        """What kind of values the network gives, and a forward pass that gives numbers."""
        x = self._noise(channels, shape)
        with Watch() as watch:
            y = self._forward(x)
        more = [self._forward(factor * x + shift) for factor, shift in ((0.1, 0.5), (20.0, -3.0))]
        kind = self._values = kind_of(watch, [y, *more])
        if kind != "classes":
            return kind, self._forward
        return kind, undecided(self._forward, x)

    # -- sizes

    def _beside(
        self, channels: int, shape: tuple[int, ...], periods: Sequence[int | None]
    ) -> tuple[int, ...]:
        """A shape as small as the network takes, for the axes beside the one that is measured."""
        if self._hints.shape is not None:
            return shape
        for size in _NARROW:
            whole = tuple(-(-size // (p or 1)) * (p or 1) for p in periods)
            for small in dict.fromkeys([(size,) * len(shape), whole]):
                if math.prod(small) >= math.prod(shape):
                    continue
                long = (*small[:-1], shape[-1])
                if self._run_shape(channels, small) and self._run_shape(channels, long):
                    return small
        return shape

    def _narrow(
        self, channels: int, beside: tuple[int, ...], lattice: tuple[Lattice, ...]
    ) -> tuple[int, ...]:
        """A small shape on the lattice, for slabs."""
        small = tuple(axis.size_at_least(size) for axis, size in zip(lattice, beside, strict=True))
        return small if self._run_shape(channels, small) else beside

    def _axis(
        self,
        channels: int,
        shape: tuple[int, ...],
        beside: tuple[int, ...],
        axis: int,
        period: int | None,
    ) -> Lattice:
        size = shape[axis]

        def output(extent: int) -> int | None:
            found = self._run_shape(channels, (*beside[:axis], extent, *beside[axis + 1 :]))
            return found[axis + 2] if found else None

        out = output(size)
        if out is None:  # the axes do not go together
            beside = shape
            out = output(size)
        assert out is not None
        fine = None if self._hints.shape is not None else _Sizes(output, size, out, period).find()
        if fine is not None:
            scale, step = fine
            # of the sizes a step apart, those that lose least: 63 and not 64 for poolings by 3
            sizes = [(n, o) for n in range(size, max(size - step, 0), -1) if (o := output(n))]
            exact = [pair for pair in sizes if _lost(*pair, scale) is not None]
            best = min(exact or sizes[:1], key=lambda pair: abs(pair[0] - pair[1] / scale))
            return _axis_lattice(*best, scale, step)
        return _one_size(size, out)


class _Sizes:
    """Which sizes a network takes along one axis, and how its output grows with them.

    A network that gives one pixel for every four gives 16 for 64, 17 for 67 and 18 for 70: three
    sizes prove nothing. The scale is therefore read from increments of about three times the size,
    which are multiples of most periods, and the step is sought among their divisors.
    """

    def __init__(
        self, output: Callable[[int], int | None], size: int, out: int, period: int | None
    ) -> None:
        self._output = output
        self._size, self._out = size, out
        near = -(-48 // period) if period else 0
        # multiples of the period that the operations imply come first
        self._increments = (*((near + k) * period for k in range(3) if period), *_FAR)

    def find(self) -> tuple[Fraction, int] | None:
        """Scale and step; None where no other size is taken."""
        scale, far = self._far()
        if scale is None:
            return self._near()
        whole = math.gcd(*far)
        for step in _divisors(whole):
            if self._even(step, scale):
                return scale, step
        return scale, whole

    def _far(self) -> tuple[Fraction | None, list[int]]:
        """Scale and the large increments by which sizes and outputs grow in its proportion."""
        grown: dict[Fraction, list[int]] = {}
        for far in self._increments:
            one, two = self._output(self._size + far), self._output(self._size + 2 * far)
            if one is None or two is None or two - one != one - self._out or one <= self._out:
                continue
            grown.setdefault(Fraction(one - self._out, far), []).append(far)
            best = max(grown, key=lambda scale: (len(grown[scale]), _plain(scale)))
            if len(grown[best]) == 3 and _plain(best):
                break
        if not grown:
            return None, []
        # increments that are no multiples of the period give odd fractions, each another one
        best = min(grown, key=lambda s: (not _plain(s), -len(grown[s]), s.denominator))
        return best, grown[best]

    def _even(self, step: int, scale: Fraction) -> bool:
        """Whether sizes a step apart are taken, over as many steps as make several periods."""
        if (step * scale).denominator != 1:
            return False
        for times in (1, 2, 3, 4, 5, 7, 8):
            if self._output(self._size + times * step) != self._out + times * step * scale:
                return False
        return True

    def _near(self) -> tuple[Fraction, int] | None:
        """The same with small increments, for networks whose largest size is near."""
        for step in _STEPS:
            for sign in (1, -1):
                found = [self._output(self._size + sign * times * step) for times in (1, 2, 3)]
                sizes = [out for out in found if out is not None]
                grown = [b - a for a, b in itertools.pairwise([self._out, *sizes])]
                if len(sizes) == 3 and len(set(grown)) == 1 and grown[0] * sign > 0:
                    scale = Fraction(grown[0] * sign, step)
                    if _plain(scale):
                        return scale, step
        return None


def _one_size(size: int, out: int, derived: DerivedAxis | None = None) -> Lattice:
    """Lattice of a network that takes one size, or of which only one is known."""
    scale = None if derived is None else derived.scale
    lost = None if scale is None else _lost(size, out, scale)
    if derived is not None and scale is not None and lost is not None and lost >= 0:
        own = derived.crop if derived.size == size else None
        return Lattice(crop=own or (lost // 2, lost - lost // 2), scale=scale, fixed=size)
    if out > size:  # a whole scale is the simplest reading
        return Lattice(scale=Fraction(out, size), fixed=size)
    whole = Fraction(out, size)
    scale = whole if whole.numerator == 1 and whole < 1 else Fraction(1)
    lost = size - int(out / scale)
    return Lattice(crop=(lost // 2, lost - lost // 2), scale=scale, fixed=size)


def _apart(one: torch.Tensor, others: Sequence[torch.Tensor]) -> float:
    """How much runs of one input differ, in standard deviations of the output."""
    spread = float(one.double().std()) or 1.0
    most = max(float((one.double() - other.double()).std()) for other in others)
    return most / spread / math.sqrt(2)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _sides_by_place(lost: int, field: PhaseFields) -> Sides:
    """Crop of each side, by where a pixel's receptive field lies on average over the phases.

    The field is counted as if nothing were lost before the first output pixel.
    """
    middle = sum(after - before for before, after in field) / (2 * len(field))
    options = {math.floor(middle), math.ceil(middle)}
    before = min(options, key=lambda n: (abs(n - middle), abs(n - lost / 2), n))
    before = min(max(before, 0), lost)
    return before, lost - before


def _surplus_by_place(surplus: int, scale: Fraction, field: PhaseFields | tuple[()]) -> Sides:
    """How many output pixels to leave out at either end, by where receptive fields lie.

    The field is counted as if all were left out at the end.
    """
    if not surplus or not field:
        return 0, surplus
    middle = sum(after - before for before, after in field) / (2 * len(field))
    # of two that are as close, the one that leaves out less at the beginning
    before = math.ceil(-middle * scale - Fraction(1, 2))
    before = min(max(before, 0), surplus)
    return before, surplus - before


def trimmed(forward: Forward, cut: Sequence[Sides]) -> Forward:
    """Return a forward pass that leaves out output pixels at the ends of each axis."""

    def run(x: torch.Tensor) -> torch.Tensor:
        return without_ends(forward(x), cut)

    return run


def without_ends(y: torch.Tensor, cut: Sequence[Sides]) -> torch.Tensor:
    """Return ``(N, C, *spatial)`` without pixels ``(before, after)`` of each spatial axis."""
    for axis, (before, after) in enumerate(cut):
        y = y.narrow(axis + 2, before, y.shape[axis + 2] - before - after)
    return y


def _plain(scale: Fraction) -> bool:
    return 1 in (scale.numerator, scale.denominator)


def _lost(size: int, out: int, scale: Fraction) -> int | None:
    """Input pixels without output; None where they are no whole number.

    Below 0 where there is more output than input, by whole output pixels.
    """
    lost = size - out / scale
    whole = lost.denominator == 1 and (lost >= 0 or (lost * scale).denominator == 1)
    return int(lost) if whole else None


def _axis_lattice(size: int, out: int, scale: Fraction, step: int) -> Lattice:
    lost = _lost(size, out, scale)
    if lost is None:
        raise ModelError(
            f"For {size} pixels the network gives {out}, with {scale} output pixels for each "
            "further input pixel: output and input lie on no common grid, so that tiles cannot "
            "be stitched."
        )
    crop = (lost // 2, lost - lost // 2) if lost >= 0 else (0, lost)
    return Lattice(period=1, step=step, offset=size % step, crop=crop, scale=scale)


__all__ = ["Facts", "Hints", "Layout", "probe"]
