"""What a network demands and gives, found by running it on small random inputs.

Knows tensors in and tensors out. Does not know layers' names, files, formats or images: a module,
a script and an exported program are questioned alike, and what can be measured is no question to
the user.

In this order: number of spatial axes and channels; sizes accepted, hence output scale and the
crop of valid convolutions; normalizations that use the tile's own statistics; the period.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from seamscope.errors import ModelError
from seamscope.models.derived import Derived, DerivedAxis
from seamscope.models.ends import sides_by_place, surplus_by_place, trimmed
from seamscope.models.facts import Facts
from seamscope.models.implied import (
    Implied,
    derived_at,
    derived_by,
    derived_for_tiles,
    derived_in_square,
    derived_uncomputed,
)
from seamscope.models.input_search import (
    AcceptedInput,
    Hints,
    InputSearch,
    Layout,
    arranged,
    usual_sizes,
)
from seamscope.models.limits import Limits
from seamscope.models.output_kind import WHOLE, OutputKind, kind_of, undecided
from seamscope.models.padded import with_padded_sizes
from seamscope.models.period import measure_period, with_periods
from seamscope.models.reach import MemoryMeter, measure_fields
from seamscope.models.same_network import sample_of
from seamscope.models.shapes import Shapes
from seamscope.models.sizes import (
    Sizes,
    always,
    lattice_of,
    lost_pixels,
    one_size,
    sides_of,
)
from seamscope.models.slab import reads_at_computed_places
from seamscope.models.trials import OVERTIME, Attempt, Draws, Lost, OutOfPatience, Trials, Watch
from seamscope.normalization.audit import FixedStatistics, Forward, StatisticsCall
from seamscope.text import axes_text
from seamscope.tiling import Lattice, axis_names

_NARROW = (8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384)
_WIDER = (1, 2, 4, 8)  # times that size, where what it holds makes no difference
_CHANCE = 1e-6  # two runs that differ by more, in standard deviations, are random
_FURTHER = 448  # pixels by which a size is larger
_WIDE = {1: 0, 2: 64, 3: 24}  # pixels beside it of one that reads at computed places
_WINDOWED = {1: 1344, 2: 448, 3: 112}  # pixels along each axis in which windows have their size
_SMALLEST = 8  # pixels of a tile, where the network leaves its size open
_MOST_PIXELS = 1 << 19  # of a size that is tried though time is over
_RUNS = 64  # of a network that draws numbers, until two predictions differ


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


@dataclass(frozen=True)
class _Run:
    """A forward pass that was watched: input, output, statistics and their extent, bytes."""

    x: torch.Tensor
    y: torch.Tensor
    statistics: tuple[StatisticsCall, ...]
    extent: int
    bytes: int


class _Prober:
    def __init__(self, trials: Trials, hints: Hints) -> None:
        self._trials = trials
        self._forward: Forward = trials
        self._hints = hints
        self._shapes: dict[tuple[int, ...], tuple[int, ...] | None] = {}
        self._any_channels = False
        self._channels_follow = False
        self._layout: Layout | None = None
        self._constant: dict[int, int] = {}  # pixels that are given for every size, by axis
        self._only: dict[int, int] = {}  # the size that is then measured
        # what is kept for when time runs out
        self._differ = 0.0
        self._stays = False
        self._values: OutputKind | None = None
        self._sure = True  # of that
        self._derived: Derived | None = None
        self._ends = False  # whether larger sizes were seen to be refused
        self._read_long = False  # whether that was begun for an input that is not computed

    def facts(self) -> Facts:
        self._trials.phase("Finding the network's input")
        entry = InputSearch(self._trials, self._hints).find()
        try:
            facts = self._first(entry)
        except OutOfPatience:
            facts = self._at_one_size(entry)
        return self._placed(self._with_equal_ends(self._with_period(facts)))

    def _first(self, entry: AcceptedInput) -> Facts:
        """All but the period and where the output lies."""
        channels, shape = entry.channels, entry.shape
        self._forward = self._trials
        if entry.layout is not None:
            self._layout = entry.layout
            self._forward = arranged(self._trials, entry.layout)
        if self._only:
            self._forward = _of_sizes(self._forward, self._only)
        self._check_single(entry)
        self._check_any_channels(channels, shape)
        seen = self._chance(channels, shape)
        self._kind(channels, shape, seen)
        self._trials.phase("Reading its operations")
        narrow = self._beside(channels, shape, (None,) * len(shape))
        example = self._noise(channels, shape)
        derived = self._derived = self._derivation(example, narrow)
        if derived is not None and self._trials.hurried:  # what is long is better not computed
            derived = self._derived = self._uncomputed(derived, example)
        periods = tuple(axis.period for axis in derived.axes) if derived else (None,) * len(shape)
        self._trials.phase("Measuring accepted sizes")
        beside = self._beside(channels, shape, periods)
        found: list[Lattice] = []
        while len(found) < len(shape):
            found.append(self._axis(channels, shape, beside, found))
        lattice = self._bounded(channels, shape, beside, found)
        if self._constant.keys() - self._only.keys():
            return self._first(self._at_its_size(entry))
        narrow = self._narrow(channels, beside, lattice)
        large = tuple(
            max(n, axis.size_at_least(32)) for n, axis in zip(shape, lattice, strict=True)
        )
        if derived is not None and seen[0].attends:
            sides = tuple(axis.size_at_least(_WINDOWED[len(lattice)]) for axis in lattice)
            check = self._trials.check
            derived, narrow = derived_in_square(
                self._forward, derived, narrow, sides, channels, check
            )
            self._derived = derived
            narrow = tuple(a.size_at_least(n) for a, n in zip(lattice, narrow, strict=True))
        implied = self._implied(derived, channels, narrow, lattice)
        run = self._of_the_tile(self._watched(self._noise(channels, large)), lattice, implied)
        facts = self._facts(lattice, narrow, run, implied)
        notes = (*self._constant_notes(lattice), *self._others(channels, lattice))
        return replace(self._without_surplus(facts, derived, example, beside), notes=notes)

    def _at_its_size(self, entry: AcceptedInput) -> AcceptedInput:
        """An input of the size that the network always gives, along axes where it gives one size.

        There, nothing is resized. Inputs of other sizes are refused from now on: what they show
        does not hold for tiles of this one.
        """
        shape = list(entry.shape)
        for axis, out in self._constant.items():
            wanted = (*shape[:axis], out, *shape[axis + 1 :])
            if self._hints.shape is None and out >= _SMALLEST:
                given = self._run_shape(entry.channels, wanted)
                shape[axis] = out if given and given[axis + 2] == out else shape[axis]
        self._only = {axis: shape[axis] for axis in self._constant}
        self._shapes.clear()
        return replace(entry, shape=tuple(shape))

    def _constant_notes(self, lattice: Sequence[Lattice]) -> Iterator[str]:
        """Say that tiles of one size only make an image."""
        names = axis_names(len(lattice))
        for out in dict.fromkeys(self._constant.values()):
            axes = [axis for axis, given in self._constant.items() if given == out]
            size = lattice[axes[0]].fixed
            yield (
                f"Along {', '.join(names[axis] for axis in axes)} the output always has {out} px, "
                "whatever the size of the input: it does not grow with the image. Tiles have "
                f"{size} px{', as many as the output' if size == out else ''}; `input_size` states "
                "another size."
            )

    def _others(self, channels: int, lattice: Sequence[Lattice]) -> Iterator[str]:
        """Name other sizes that a network takes of which one is used."""
        used = {axis.fixed for axis in lattice}
        if None in used or len(used) > 1 or self._hints.shape is not None:
            return
        axes = len(lattice)
        sizes = [n for n in usual_sizes(axes) if n not in used and n**axes <= _MOST_PIXELS]
        taken: list[int] = []
        with Attempt():  # what is measured is not lost for a note
            taken += (n for n in sizes if self._run_shape(channels, (n,) * axes))
        if taken:
            yield (
                f"It also takes {', '.join(map(str, taken))} px, but not all sizes between: state "
                "another by `input_size`."
            )

    def _at_one_size(self, entry: AcceptedInput) -> Facts:
        """What a single size shows, and the operations imply for it, where time is over.

        It takes one more forward pass at the size with which the network ran; two of a network
        that is random, or decides.
        """
        channels, shape = entry.channels, entry.shape
        x = self._noise(channels, shape)
        with self._trials.overtime(None):
            run = self._one_run(x)
        derived = self._derived
        with self._trials.overtime(OVERTIME), contextlib.suppress(OutOfPatience):
            trials = self._trials
            derived = derived or derived_at(self._forward, x, trials.module, trials.check)
            derived = derived and (derived if self._read_long else self._uncomputed(derived, x))
        with self._trials.overtime(OVERTIME), contextlib.suppress(OutOfPatience):
            shape, run = self._of_whole_periods(run, shape, derived)
        lattice = tuple(
            one_size(n, out, derived.axes[axis] if derived else None)
            for axis, (n, out) in enumerate(zip(shape, run.y.shape[2:], strict=True))
        )
        if derived and self._hints.shape is None:
            lattice = tuple(map(_with_whole_period, lattice, derived.axes))
        if derived and derived.resizes:
            with self._trials.overtime(OVERTIME), contextlib.suppress(OutOfPatience):
                derived = self._for_tiles(derived, channels, shape, lattice)
        implied = Implied.of(derived, lattice) if derived else None
        if implied and derived and derived.resizes and any(map(_unevenly, lattice, derived.axes)):
            implied = replace(implied, halo=None)
        size = axes_text(shape)
        if self._hints.step is None and not (implied and implied.places_tiles):
            raise ModelError(
                f"Measuring the network's sizes took too long. It runs at {size} px, and its "
                "operations do not show where tiles may start: raise `patience`, or state a "
                "smaller size (`input_size`) or its `step`."
            )
        tile = axes_text([axis.fixed for axis in lattice])
        ran = "at which the network ran" if tile == size else f"though it ran at {size} px only"
        note = (
            f"Measuring the accepted sizes ran out of time (`patience`): tiles have {tile} px, "
            f"{ran}. What else is known of it follows from its operations and was "
            "not measured."
        )
        notes = (note, *_taken_alike(derived))
        facts = replace(self._facts(lattice, shape, run, implied), notes=notes)
        if not self._trials.random and not self._trials.decides:
            self._trials.sample = sample_of(lambda x: run.y, facts)
        return facts

    def _one_run(self, x: torch.Tensor) -> _Run:
        """Run the network, and see whether it draws numbers and what kind of values it gives."""
        with Watch() as watch, Draws() as draws:
            run = self._watched(x)
        if draws.seen and not self._trials.random:
            self._differ = _apart(run.y, [self._forward(x)])
            self._trials.random = True
        if self._values is None:
            self._values, self._sure = kind_of(watch, [run.y])
            self._undecide(x, run.y)
        return run

    def _uncomputed(self, derived: Derived, example: torch.Tensor) -> Derived:
        trials, self._read_long = self._trials, True
        return derived_uncomputed(self._forward, derived, example, trials.module, trials.check)

    def _of_whole_periods(
        self, run: _Run, shape: tuple[int, ...], derived: Derived | None
    ) -> tuple[tuple[int, ...], _Run]:
        """A size of whole periods and its run, where the one known is not."""
        periods = [axis.period or 1 for axis in derived.axes] if derived else [1] * len(shape)
        pairs = list(zip(shape, periods, strict=True))
        if self._hints.shape is not None or not any(n % p for n, p in pairs):
            return shape, run
        sizes = [tuple(max(-(-n // p), times) * p for n, p in pairs) for times in (2, 1)]
        sizes.append(tuple(max(n // p, 1) * p for n, p in pairs))
        for size in dict.fromkeys(sizes):
            if math.prod(size) <= _MOST_PIXELS and self._run_shape(run.x.shape[1], size):
                return size, self._watched(self._noise(run.x.shape[1], size))
        return shape, run

    def _watched(self, x: torch.Tensor) -> _Run:
        """Run the network, and see which statistics and how much memory it takes."""
        fixed, meter = FixedStatistics(self._forward), MemoryMeter()
        with meter:
            y = fixed(x)
        return _Run(x, y, tuple(fixed.calls), fixed.extent, meter.peak)

    def _of_the_tile(
        self, run: _Run, lattice: tuple[Lattice, ...], implied: Implied | None
    ) -> _Run:
        """The same without statistics of windows, which are as large in a larger tile."""
        if implied is not None and implied.bounded and not implied.unknown:
            return replace(run, statistics=())
        read = implied is not None and not implied.unknown  # which shows that
        shape = tuple(run.x.shape[2:])
        larger = (*shape[:-1], lattice[-1].size_at_least(2 * shape[-1]))
        if read or not run.statistics or not self._run_shape(run.x.shape[1], larger):
            return run
        again = self._watched(self._noise(run.x.shape[1], larger))
        return replace(run, statistics=()) if again.extent == run.extent else run

    def _facts(
        self,
        lattice: tuple[Lattice, ...],
        narrow: tuple[int, ...],
        run: _Run,
        implied: Implied | None,
    ) -> Facts:
        """Put together what is known before the period."""
        assert self._values is not None
        return Facts(
            in_channels=run.x.shape[1],
            out_channels=run.y.shape[1],
            lattice=lattice,
            narrow=narrow,
            bytes_per_pixel=run.bytes / math.prod(run.x.shape[2:]),
            statistics=run.statistics,
            any_channels=self._any_channels,
            channels_follow=self._channels_follow,
            kind=self._values,
            kind_certain=self._sure,
            noise=self._differ,
            noise_stays=self._stays,
            layout=self._layout,
            implied=implied,
        )

    def _derivation(
        self, example: torch.Tensor, beside: Sequence[int] | None = None
    ) -> Derived | None:
        trials = self._trials
        return derived_by(self._forward, example, trials.module, beside, trials.check, self._keep)

    def _keep(self, derived: Derived) -> None:
        self._derived = derived

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
        return Implied.of(self._for_tiles(derived, channels, narrow, lattice), lattice)

    def _for_tiles(
        self,
        derived: Derived,
        channels: int,
        narrow: tuple[int, ...],
        lattice: tuple[Lattice, ...],
    ) -> Derived:
        def example(long: tuple[int, ...]) -> torch.Tensor:
            sides = (one or few for one, few in zip(long, narrow, strict=True))
            return self._noise(channels, tuple(sides))

        return derived_for_tiles(self._forward, derived, lattice, example, self._trials.check)

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

    def _with_equal_ends(self, facts: Facts) -> Facts:
        """Facts with sizes between which the network does not treat its ends otherwise."""
        own, read = facts.implied, self._derived
        # what is resized by a ratio that depends on the size may be alike at some sizes
        coupled = read and (read.couplings or any(axis.absolute for axis in read.axes))
        if self._hints.step is not None or coupled:
            return facts
        found = with_padded_sizes(self._forward, facts)
        if found != facts.lattice:  # what was read of other sizes does not hold for these
            own = self._implied(self._derived, facts.in_channels, facts.narrow, found)
        return replace(facts, lattice=found, implied=own)

    def _without_surplus(
        self, facts: Facts, derived: Derived | None, example: torch.Tensor, beside: tuple[int, ...]
    ) -> Facts:
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
        # at which phases a pixel is seen at all depends on the period
        periods = [axis.period for axis in derived.axes] if derived else [None] * len(whole)
        fields = measure_fields(self._forward, replace(facts, lattice=with_periods(whole, periods)))
        cut = [
            surplus_by_place(n, axis.scale, fields[number] if fields else ())
            for number, (n, axis) in enumerate(zip(surplus, whole, strict=True))
        ]
        self._forward = trimmed(plain, cut)
        self._shapes.clear()
        facts = replace(facts, narrow=self._narrow(facts.in_channels, beside, whole))
        derived = self._derivation(example, beside)
        implied = self._implied(derived, facts.in_channels, facts.narrow, whole)
        return replace(facts, cut=tuple(cut), implied=implied)

    def _placed(self, facts: Facts) -> Facts:
        """Facts with the crop of each side, by the place where a point of the input lands."""
        if not facts.valid or facts.cut or any(axis.fixed for axis in facts.lattice):
            return facts
        uncut = tuple(replace(axis, crop=(0, sum(axis.crop))) for axis in facts.lattice)
        fields = None
        with Attempt():
            fields = measure_fields(self._forward, replace(facts, lattice=uncut))
        axes = self._derived.axes if self._derived else (None,) * len(uncut)
        lattice = tuple(
            replace(axis, crop=sides_of(sum(axis.crop), own))
            for axis, own in zip(facts.lattice, axes, strict=True)
        )
        if fields is not None:
            lattice = tuple(
                replace(axis, crop=sides_by_place(sum(axis.crop), field))
                for axis, field in zip(facts.lattice, fields, strict=True)
            )
        notes = facts.notes
        if fields is None and any(own is None or own.crop is None for own in axes):
            crop = axes_text([axis.crop for axis in lattice])
            notes += (
                f"Where the output lies over its input was not measured: crop {crop} is even as "
                "far as it can be, and the prediction may be displaced by as much.",
            )
        return replace(facts, lattice=lattice, notes=notes)

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

    def _check_single(self, entry: AcceptedInput) -> None:
        """Refuse a network that runs on several images at once only."""
        if self._run_shape(entry.channels, entry.shape) is None:
            raise ModelError(
                f"The network runs on a batch of {entry.batch} but not of 1: wrap it in a module "
                "that takes a single image."
            )

    def _noise(self, channels: int, shape: tuple[int, ...]) -> torch.Tensor:
        random = torch.Generator().manual_seed(0)
        return torch.randn(1, channels, *shape, generator=random)

    def _chance(self, channels: int, shape: tuple[int, ...]) -> tuple[Watch, torch.Tensor]:
        """Measure how much two runs of one input differ, in standard deviations of the output.

        Where they differ, later runs replace random draws by their expected value. A network that
        drops whole blocks now and then may predict the same twice: where it draws numbers, it runs
        until two predictions differ. Returns a run of the network that remains.
        """
        x = self._noise(channels, shape)
        with Watch() as watch, Draws() as draws:
            first = self._forward(x)
        runs = [first.double(), self._forward(x).double()]
        differ = 0.0
        for _ in range(_RUNS):
            differ = _apart(runs[0], runs[1:])
            if differ > _CHANCE or not draws.seen:
                break
            runs.append(self._forward(x).double())
        if differ > _CHANCE:
            self._trials.random = True
            self._shapes.clear()
            self._differ = differ
            with Watch() as watch:
                first = self._forward(x)
            self._stays = _apart(first, [self._forward(x)]) > _CHANCE
        return watch, first

    def _kind(
        self, channels: int, shape: tuple[int, ...], seen: tuple[Watch, torch.Tensor]
    ) -> None:
        """See what kind of values the network gives; of whole numbers, run what they were.

        A network whose number of channels depends on the values of its input is refused.
        """
        x, (watch, y) = self._noise(channels, shape), seen
        more = [self._forward(factor * x + shift) for factor, shift in ((0.1, 0.5), (20.0, -3.0))]
        zeros = self._run_shape(channels, shape) or y.shape
        given = {int(zeros[1]), *(int(one.shape[1]) for one in (y, *more))}
        if len(given) > 1:
            raise ModelError(
                f"The network returns {min(given)} channels for one input and {max(given)} for "
                "another of the same size: wrap it in a module that always returns as many."
            )
        self._values, self._sure = kind_of(watch, [y, *more])
        self._undecide(x, y)

    def _undecide(self, x: torch.Tensor, y: torch.Tensor) -> None:
        if self._values in WHOLE:
            plain, self._forward = self._forward, undecided(self._forward, x, y)
            self._trials.decides = self._forward is not plain

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
                fits = self._run_shape(channels, small) and self._run_shape(channels, long)
                # code that takes all patches for those of a square gives other sizes beside others
                alike = fits and fits[-1] == (self._run_shape(channels, shape) or fits)[-1]
                if alike and not self._loses(channels, small):
                    return small
        return shape

    def _loses(self, channels: int, shape: tuple[int, ...]) -> bool:
        """Whether an input is so small that some of the network's paths read padding alone."""
        with Attempt(), Lost() as lost:
            self._forward(torch.full((1, channels, *shape), math.nan))
            return bool(lost.seen)
        return False

    def _narrow(
        self, channels: int, beside: tuple[int, ...], lattice: tuple[Lattice, ...]
    ) -> tuple[int, ...]:
        """A small shape on the lattice, for slabs, in which the input makes a difference.

        What is shifted by more pixels than an input has leaves it: nothing is seen to act. So does
        what is read at computed places.
        """
        for times in _WIDER:
            small = tuple(a.size_at_least(times * n) for a, n in zip(lattice, beside, strict=True))
            if not self._run_shape(channels, small):
                break
            x = self._noise(channels, small)
            if times == 1 and self._may_warp() and reads_at_computed_places(self._forward, x):
                least = _WIDE[len(lattice)]
                wide = tuple(
                    a.size_at_least(max(least, 12 * a.pitch, a.increment)) for a in lattice
                )
                if math.prod(wide) <= _MOST_PIXELS and self._run_shape(channels, wide):
                    return wide
            if not torch.equal(self._forward(x), self._forward(-10 * x)):
                return small
        small = tuple(axis.size_at_least(size) for axis, size in zip(lattice, beside, strict=True))
        return small if self._run_shape(channels, small) else beside

    def _may_warp(self) -> bool:
        """Whether the operations leave open that the network reads at computed places."""
        derived = self._derived
        if derived is None or derived.unknown:
            return True
        return any(one.operation.startswith(("gather", "index")) for one in derived.couplings)

    def _axis(
        self,
        channels: int,
        shape: tuple[int, ...],
        beside: tuple[int, ...],
        before: Sequence[Lattice],
    ) -> Lattice:
        """Measure the axis that comes after some."""
        axis, size = len(before), shape[len(before)]
        known = () if self._derived is None else self._derived.axes
        derived = known[axis] if known else None
        is_alike = derived is not None and derived in known[:axis][-1:] and derived.period
        alike = before[-1].scale if is_alike else None

        def output(extent: int) -> int | None:
            found = self._run_shape(channels, (*beside[:axis], extent, *beside[axis + 1 :]))
            return found[axis + 2] if found else None

        out = output(size)
        if out is None:  # the axes do not go together
            beside = shape
            out = output(size)
        assert out is not None
        implied = (derived.period, derived.scale) if derived else (None, None)
        sizes = Sizes(output, size, out, implied[0], alike, implied[1])
        fine = None if self._hints.shape is not None else sizes.find()
        if fine is not None and alike is None:  # of sizes that end, most end soon
            self._ends |= output(size + -(-_FURTHER // fine[1]) * fine[1]) is None
        if fine is None and always(output, size, out):
            self._constant[axis] = out
        if axis in self._constant:
            return Lattice(scale=Fraction(out, size), fixed=size)
        if fine is not None:
            scale, step = fine
            pairs = [(n, o) for n in range(size, max(size - step, 0), -1) if (o := output(n))]
            exact = [pair for pair in pairs if lost_pixels(*pair, scale) is not None]
            return lattice_of(*_of_least_loss(exact or pairs[:1], scale, step), scale, step)
        return one_size(size, out, derived)

    def _bounded(
        self,
        channels: int,
        shape: tuple[int, ...],
        beside: tuple[int, ...],
        found: Sequence[Lattice],
    ) -> tuple[Lattice, ...]:
        """The same with the smallest and the largest sizes that the network takes."""
        lattices = tuple(found)
        if all(axis.fixed is not None for axis in lattices):
            return lattices
        known = tuple(a.size_at_most(n) or n for a, n in zip(lattices, shape, strict=True))
        shapes = Shapes(self._forward, self._trials.module)
        limits = Limits(
            known,
            run=lambda own: self._run_shape(channels, own),
            ask=lambda own: shapes((1, channels, *own)),
        )
        lattices = limits.with_smallest(lattices)
        own = self._derived
        exact = own and (own.parts or any(axis.absolute for axis in own.axes))
        if own and not exact and not self._ends:
            return lattices  # there is no largest one that matters
        return limits.with_largest(lattices, beside, lambda: self._trials.hurried)


def _of_least_loss(pairs: Sequence[tuple[int, int]], scale: Fraction, step: int) -> tuple[int, int]:
    """Of sizes a step apart and their outputs, that of which all is used.

    63 and not 64 for poolings by 3; where all give more output than input, what is not used looks
    like what is added.
    """
    lost = {pair: pair[0] - pair[1] / scale for pair in pairs}
    more = all(each < 0 for each in lost.values())
    return min(pairs, key=lambda pair: pair[0] % step if more else abs(lost[pair]))


def _taken_alike(derived: Derived | None) -> Iterator[str]:
    """Say along which axes nothing was read, since most networks are alike along all."""
    if derived is None:
        return
    names, axes = axis_names(len(derived.axes)), derived.axes
    alike = [name for name, one in zip(names[:-1], axes, strict=False) if one is axes[-1]]
    if alike and axes[-1].period:
        yield (
            f"Along {' and '.join(alike)} it is taken to be like along {names[-1]}: there was no "
            "time to read its operations along each axis."
        )


def _with_whole_period(lattice: Lattice, derived: DerivedAxis) -> Lattice:
    """The same with a tile of whole periods, where one is too large to be tried."""
    period = derived.period
    if lattice.fixed is None or derived.fixed or not period or period <= lattice.fixed:
        return lattice
    return replace(lattice, fixed=period)


def _unevenly(lattice: Lattice, derived: DerivedAxis) -> bool:
    """Whether a tile, or what was read, is no whole number of periods: maps end unevenly."""
    return any((size or 0) % (derived.period or 1) for size in (lattice.fixed, derived.size))


def _of_sizes(forward: Forward, sizes: Mapping[int, int]) -> Forward:
    """Return a forward pass that refuses other sizes along some axes."""

    def run(x: torch.Tensor) -> torch.Tensor:
        for axis, size in sizes.items():
            if x.shape[axis + 2] != size:
                raise ModelError(f"only inputs of {size} px are measured along axis {axis}")
        return forward(x)

    return run


def _apart(one: torch.Tensor, others: Sequence[torch.Tensor]) -> float:
    """How much runs of one input differ, in standard deviations of the output."""
    spread = float(one.double().std()) or 1.0
    # not their deviation: another brightness each time differs too
    most = max(float((one.double() - other.double()).square().mean().sqrt()) for other in others)
    return most / spread / math.sqrt(2)


__all__ = ["probe"]
