"""Under which shifts of its input a network's prediction shifts along.

Knows slabs and candidates. Does not know files, images or layers' names.

*Period* (periodic-t shift equivariance, Rumberger et al. 2021, definition 2). Two windows of one
random image, one shift apart, must give the same prediction away from their ends, over at least one
whole shift, so that every phase is compared. If shifts by a and b are followed, so is their
greatest common divisor: the period divides every shift that is followed. It is therefore found by
looking for any such shift, and then dividing it by primes while the prediction still follows.

The prediction of a weak deep path may follow a shorter shift as far as numbers show. Where NaN
shows the structure, the outputs that an end of NaN touches must therefore follow the shift too.

Differences are counted in standard deviations of the output. Below `CLEAN` two predictions are the
same up to rounding; above, they are compared in float64, where rounding is less. Between that and
`SAME` a weak part of the network may not follow: a longer shift, where the difference is much
smaller, is then preferred.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from seamscope.models.implied import Implied, longer
from seamscope.models.slab import HIGH, LOW, NAN, NOISES, SAME, Slab, slabs, vanishes
from seamscope.models.trials import Attempt
from seamscope.normalization.audit import Forward
from seamscope.tiling import Lattice, axis_names

if TYPE_CHECKING:
    from seamscope.models.facts import Facts

# Rounding alone differs by less, in standard deviations of the output.
CLEAN = 5e-6
# More is never rounding.
_ROUNDING = 5e-2
# The same, where the ends of the slab are felt everywhere (global attention).
_ROUGHLY_SAME = 2e-2
# By how much worse other shifts are followed, where everything is coupled. Measured on attention
# over all patches, weak and strong, and on medians: periods stand out by 130 times and more, other
# shifts by at most 1.5. Multiples of the period reach 3.4 by chance, which is safe: a larger factor
# would miss the period of a weak path.
_CLEARLY = 3
_PRIMES = (2, 3, 5, 7, 11, 13)
_LONGEST = 1024
_ODD = (3, 5, 7, 9, 11, 13, 15, 21, 25, 27)


@dataclass(frozen=True)
class Periods:
    """Periods of all axes.

    Attributes
    ----------
    period
        In input pixels; None for an axis where none was found.
    certain
        Whether all were found and verified.
    notes
        Sentences on what was not.
    """

    period: tuple[int | None, ...]
    certain: bool
    notes: tuple[str, ...] = ()


def measure_period(forward: Forward, facts: Facts, implied: Implied | None = None) -> Periods:
    """Smallest shift along each axis under which the prediction shifts along, in input pixels.

    Parameters
    ----------
    forward, facts
        As for `seamscope.models.slab.slabs`; statistics of the tile are held fixed.
    implied
        What the network's operations imply, where that is known.

    Notes
    -----
    Where the operations imply another period than shifts show, a multiple of both is safe.
    """
    derived = implied.period if implied else (None,) * facts.spatial_axes
    found: list[_Found] = []
    for axis in range(facts.spatial_axes):
        likely = [found[-1].period] if found and found[-1].period else []
        one = _Found(None, 0.0, measured=False)
        with Attempt():
            one = _Search(forward, facts, axis, implied).find(likely)
        found.append(one)
    if None in derived and vanishes(forward, facts):  # any shift is followed
        found = [_Found(None, 0.0, measured=False) for _ in found]
    alike = _alike(found, derived)
    notes = tuple(_notes(facts, alike, derived))
    period = tuple(longer(one.period, own) for one, own in zip(alike, derived, strict=True))
    return Periods(period, all(one.measured for one in found), notes)


def with_periods(lattices: Sequence[Lattice], periods: Sequence[int | None]) -> tuple[Lattice, ...]:
    """Lattices with measured periods; the accepted step stands in for what was not found."""
    return tuple(
        replace(a, period=p or math.lcm(a.step, a.scale.denominator))
        for a, p in zip(lattices, periods, strict=True)
    )


@dataclass(frozen=True)
class _Found:
    """A period, and how far the prediction is from following it, in standard deviations."""

    period: int | None
    error: float
    measured: bool = True


def _alike(found: Sequence[_Found], derived: Sequence[int | None]) -> list[_Found]:
    """Axes have one period unless they clearly differ: by more than rounding can explain."""
    if None not in derived:
        return list(found)
    known = [one.period for one in found if one.period]
    if not known:
        return list(found)
    longest = math.lcm(*known)
    unclear = [one for one in found if one.period is None or one.error > CLEAN]
    return [replace(one, period=longest) if one in unclear else one for one in found]


def _notes(facts: Facts, found: Sequence[_Found], derived: Sequence[int | None]) -> Iterator[str]:
    """Say where a period was not measured, or differs from what the operations imply."""
    names = axis_names(facts.spatial_axes)
    lost, differ, learned = [], [], []
    each = zip(names, found, derived, facts.learned_positions, strict=True)
    for name, one, own, positions in each:
        if positions:
            learned.append((name, None))
        elif one.period is None:
            lost.append((name, own))
        elif own not in (None, one.period):
            differ.append((name, one.period, own))
    for axes, _ in _together(learned):
        yield (
            f"Positions along {axes} were learned for the one size that the network takes. Tiles "
            "that start elsewhere give other values for the same pixels."
        )
    for axes, step in _together(lost):
        said = f"No shift of the input shows the network's period along {axes}."
        if step is not None:
            yield f"{said} Its operations imply {step} px: tiles start on multiples of {step} px."
        else:
            lattice = facts.lattice[names.index(axes[0])]
            step = math.lcm(lattice.step, lattice.scale.denominator)
            why = "" if lattice.fixed else ", the step of its accepted input sizes"
            yield f"{said} Tiles start on multiples of {step} px{why}. State another `step`."
    for name, shown, own in differ:
        yield (
            f"Along {name} the operations imply a period of {own} px and shifts show {shown} px: "
            f"tiles start on multiples of {longer(shown, own)} px."
        )


def _together(lost: Sequence[tuple[str, int | None]]) -> Iterator[tuple[str, int | None]]:
    """Axes with the same finding, in one sentence."""
    for step in dict.fromkeys(step for _, step in lost):
        alike = [name for name, own in lost if own == step]
        yield " and ".join([", ".join(alike[:-1]), alike[-1]] if len(alike) > 1 else alike), step


class _Search:
    """Looks for the period along one axis."""

    def __init__(
        self, forward: Forward, facts: Facts, axis: int, implied: Implied | None = None
    ) -> None:
        self._lattice = facts.lattice[axis]
        self._unit = self._lattice.scale.denominator
        self._own = implied.period[axis] if implied else None
        self._coupled = implied is not None and implied.coupled[axis]
        self._halo = None if implied is None or implied.couplings else implied.halo
        self._axis = axis
        least = 0
        if implied is not None and self._own is not None:
            # in so long a slab a shift by that period leaves enough to compare
            lattice = replace(self._lattice, period=math.lcm(self._own, self._lattice.period))
            lattices = [*facts.lattice]
            lattices[axis] = lattice
            facts = replace(facts, lattice=tuple(lattices))
            reach = sum(implied.halo[axis]) if implied.halo else 0
            # an end of NaN that is moved by the period takes no more than a third
            least = max(3 * self._own + 2 * (sum(lattice.crop) + reach), 6 * self._own) + 128
        self._slabs = slabs(forward, facts, axis, fixed=True, least=least)

    def find(self, likely: Sequence[int]) -> _Found:
        """The period; None where no shift is followed."""
        tried: set[int] = set()
        doubtful: list[_Found] = []
        shifts: _Shifts | None = None
        if self._own is not None:
            likely = [self._own, *likely]
        for slab in self._slabs:
            if shifts is None and self._verified(slab):
                return _Found(self._own, 0.0)
            if shifts is None and self._own is not None and slab.decides:
                return _Found(self._own, 0.0, measured=False)  # a shift may decide otherwise
            shifts = _Shifts(slab)
            if shifts.rough:
                if self._own is not None and self._coupled:
                    return _Found(None, 0.0, measured=False)
                continue
            if self._own is not None and self._coupled and not self._may_follow(shifts):
                return _Found(None, 0.0, measured=False)  # nor does it follow another shift
            for shift in self._candidates(likely, shifts.longest):
                if shift in tried:
                    continue
                error = shifts.error(shift)
                if error >= SAME:  # no longer slab will change that
                    tried.add(shift)
                if error < CLEAN and shifts.fits(shift):
                    return self._least(shifts, _Found(shift, error))
                if CLEAN <= error < SAME:
                    doubtful.append(_Found(shift, error))
        if doubtful:
            best = min(one.error for one in doubtful)
            good = [one for one in doubtful if one.error <= 3 * best]
            return min(good, key=lambda one: one.period or 0)
        none = _Found(None, 0.0, measured=False)
        return none if shifts is None or self._own is not None else self._roughly(shifts)

    def _verified(self, slab: Slab) -> bool:
        """Whether the prediction follows a shift by the period that the operations imply.

        It is not searched where it cannot be: beyond the halo that they imply too, at all phases.
        """
        if self._own is None or self._halo is None or self._own % self._unit:
            return False
        margin = self._own + sum(slab.lattice.crop)
        shifts = _Shifts(slab, tuple(side + margin for side in self._halo[self._axis]))
        return self._own <= shifts.longest and shifts.error(self._own) < CLEAN

    def _may_follow(self, shifts: _Shifts) -> bool:
        """Whether the prediction follows the period that the operations imply, or that is open."""
        assert self._own is not None
        return self._own > shifts.longest or shifts.error(self._own) < SAME

    def _candidates(self, likely: Sequence[int], longest: int) -> Iterator[int]:
        """Shifts to try: likely ones, the accepted step, powers of two, then all others."""
        step = math.lcm(self._lattice.step, self._unit)
        yield from (n for n in likely if n % self._unit == 0 and n <= longest)
        if self._unit < step <= longest:
            yield step
        powers = [self._unit * 2**n for n in range(11)]
        yield from (n for n in powers if n <= longest)
        others = {self._unit * odd * 2**n for odd in _ODD for n in range(9)}
        yield from (n for n in sorted(others) if n <= min(longest, _LONGEST))

    def _least(self, shifts: _Shifts, found: _Found) -> _Found:
        """Divide a shift that is followed by primes, while the prediction still follows."""
        assert found.period is not None
        for prime in _PRIMES:
            while found.period % (prime * self._unit) == 0:
                shift = found.period // prime
                error = shifts.error(shift)
                if not (error < CLEAN and shifts.fits(shift)):
                    break
                found = _Found(shift, error)
        return found

    def _roughly(self, shifts: _Shifts) -> _Found:
        """The same where everything is coupled: shifts by a period are followed clearly better."""
        if not shifts.rough:
            return _Found(None, 0.0, measured=False)
        if shifts.error(self._unit) <= SAME:
            return _Found(self._unit, SAME)
        tried = ((n, shifts.error(n)) for n in self._candidates([], min(shifts.longest, 64)))
        errors = {n: error for n, error in tried if math.isfinite(error)}  # networks may give NaN
        best = min(errors.values(), default=math.inf)
        if not best <= _ROUGHLY_SAME:  # true for NaN too
            return _Found(None, 0.0, measured=False)
        clear = [n for n in errors if _clearly(errors, n)]
        if not clear and max(errors.values()) > _ROUGHLY_SAME:
            return _Found(None, 0.0, measured=False)
        return _Found(max(clear, default=self._unit), SAME)


def _clearly(errors: Mapping[int, float], period: int) -> bool:
    """Whether shifts by whole periods are followed clearly better than all others."""
    whole = [error for n, error in errors.items() if n % period == 0]
    others = [error for n, error in errors.items() if n % period]
    return len(whole) > 1 and bool(others) and min(others) > _CLEARLY * max(whole)


class _Shifts:
    """Predictions of shifted copies of one slab.

    The copies are cyclic shifts of one another, so that they hold the same values; pixels that
    depend on the seam of the shift or on the slab's ends are left out.

    Parameters
    ----------
    slab
        What is shifted.
    margin
        Pixels at either end to leave out; None to measure them.

    Attributes
    ----------
    rough
        Whether there are no such pixels, because everything is coupled: the middle third is
        compared.
    longest
        Longest shift that leaves enough to compare.
    """

    def __init__(self, slab: Slab, margin: tuple[int, ...] | None = None) -> None:
        self._slab = slab
        self._errors: dict[int, float] = {}
        self._depths: dict[int, float | None] = {}
        self._nan_shows = True
        if margin is not None:
            self.rough, self._margin = False, (margin[0], margin[1])
            self.longest = (slab.length - sum(margin) - sum(slab.lattice.crop)) // 3
            return
        depths = [self._depth(end) for end in (LOW, HIGH)]
        known = [depth for depth in depths if depth is not None]
        self.rough = len(known) < 2
        crop = sum(slab.lattice.crop)
        self._margin = (0, 0) if self.rough else (known[0] + crop, known[1] + crop)
        third = (slab.length - crop) // 3
        self.longest = third if self.rough else (slab.length - sum(self._margin) - crop) // 3

    def _depth(self, end: int) -> int | None:
        """Pixels from an end that depend on it, at the worst phase that was met."""
        slab = self._slab
        frame = slab.frame(1)
        by_change = [slab.depth(end, frame, how) for how in NOISES]
        by_nan = slab.depth(end, frame, NAN)
        self._nan_shows &= by_nan is not None
        found = [depth for depth in by_change if depth is not None]
        if len(found) < len(by_change):
            return None
        most = max([*found, by_nan or 0.0])
        # other phases reach further by less than a period, which is not known yet
        return math.ceil(most) + frame

    def error(self, shift: int) -> float:
        """How much the prediction of a shifted slab differs from the shifted prediction."""
        if shift not in self._errors:
            error = self._measured(shift, self._slab)
            # a computed place that is rounded to either side makes a large difference
            doubtful = error >= CLEAN and (error < _ROUNDING or self._slab.warps)
            precise = doubtful and not self.rough and self._slab.precise
            if precise:  # where only rounding differed, nothing does
                with Attempt():
                    error = self._measured(shift, precise)
            self._errors[shift] = error
        return self._errors[shift]

    def fits(self, shift: int) -> bool:
        """Whether what an end of NaN touches follows the shift, at several phases of it.

        A coordinate that is computed may be rounded to either side: NaN shows that everywhere.
        """
        if self.rough or not self._nan_shows or self._slab.warps:
            return True
        frame = self._slab.frame(1)
        phases = sorted({0, 1, shift // 2, shift - 1})
        return all(
            self._reached(frame + phase) == self._reached(frame + phase + shift) for phase in phases
        )

    def _reached(self, frame: int) -> float | None:
        """How deep an end of NaN reaches; None where that is more than the slab."""
        if frame not in self._depths:
            self._depths[frame] = self._slab.depth(LOW, frame, NAN)
        return self._depths[frame]

    def _measured(self, shift: int, slab: Slab) -> float:
        axis = slab.axis + 2
        scale = slab.lattice.scale
        moved = int(shift * scale)
        shifted = slab.run(slab.clean.roll(-shift, dims=axis))
        count = slab.unchanged.shape[axis]
        if self.rough:
            begin, end = count // 3, count - count // 3
        else:
            # a period that is shorter than the shift adds less than the shift to the margins
            begin = math.ceil((self._margin[0] + shift) * scale)
            end = count - math.ceil((self._margin[1] + shift) * scale)
        length = end - begin - moved
        if length < (1 if self.rough else moved):
            return math.inf
        here = slab.unchanged.narrow(axis, begin + moved, length)
        there = shifted.narrow(axis, begin, length)
        return slab.difference(there, here)


__all__ = ["CLEAN", "Periods", "measure_period", "with_periods"]
