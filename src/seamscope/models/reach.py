"""How far the input reaches: receptive field and halo.

Knows tensors and a network's lattice. Does not know files, images or layers' names.

Everything is measured on *slabs* (`seamscope.models.slab`): inputs long in one axis and as narrow
as the network allows in the others, so that a deep network costs thousands of pixels and not
millions.

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

NaN says too much where it passes and no number does: ``0 * NaN`` in masked attention, windows that
are rolled around the tile. "The whole tile" is therefore only reported where changes of several
sizes say so too; where they do not, their reach counts, checked by the shorter slab.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from seamscope.errors import SeamscopeError
from seamscope.models.derived.facts import COMPUTED_PLACES, DECISION
from seamscope.models.implied import Implied, larger
from seamscope.models.input_search import says
from seamscope.models.slab import (
    CANCELS,
    CONTENTS,
    FAR,
    HIGH,
    LOW,
    NAN,
    NOISES,
    SAME,
    Apart,
    Line,
    MemoryMeter,
    PhaseFields,
    Slab,
    slabs,
    vanishes,
)
from seamscope.models.trials import Attempt, OutOfPatience
from seamscope.normalization.audit import Forward
from seamscope.tiling import Sides

if TYPE_CHECKING:
    from seamscope.models.facts import Facts

_ROUNDING = 1e-2  # standard deviations; a dependence on the size makes more
_FRAME = 32  # pixels of an end, and more where the period is longer
_PERIODS_AT_LEAST = 16  # in a slab in which NaN may go further than any change


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
        size of the tile (adaptive pooling, upsampling with aligned corners, absolute positions),
        or with the place in a tile of one size (learned positions).
    alike
        Whether tiles of one size then agree with each other all the same, at the halo `rest`:
        what changes with the size is the same everywhere in a tile.
    spreads_nan
        Whether the NaN probe alone would have found the whole tile (masked attention).
    conditional
        Whether the whole tile makes a difference for some contents only: code that decides by a
        maximum or a mean. Where it decides alike for all tiles, `rest` is the halo.
    fades
        Whether there is no exact limit: what lies further away than `halo` changes the prediction
        by less than rounding (recurrent layers).
    joins_ends
        Pixels at the image's border that depend on its opposite border (circular padding), for
        each axis. Tiles cannot reproduce these; elsewhere `halo` is enough.
    at_least
        Pixels that the network reaches at least, where the measurement ended before more was known;
        `halo` is then None. With statistics of the tile, the reach of all else.
    couplings
        Names of the layers that couple the whole tile, where they are known.
    rest
        Reach of all other layers, with the output of `couplings` held fixed.
    rest_measured
        Whether that was measured. Otherwise the operations imply it.
    measured, implied
        Halo that a measurement found, and halo that the operations imply, where these differ;
        `halo` (or `convolutional`, or `rest`) is then the larger.
    unmeasured
        Why the measurement did not come to its end; what is known then follows from the operations.
    """

    halo: tuple[Sides, ...] | None
    convolutional: tuple[Sides, ...] | None
    swallows_nan: bool = False
    depends_on_size: bool = False
    spreads_nan: bool = False
    conditional: bool = False
    alike: bool = False
    fades: bool = False
    joins_ends: tuple[int, ...] = ()
    at_least: tuple[int, ...] | None = None
    couplings: tuple[str, ...] = ()
    rest: tuple[Sides, ...] | None = None
    rest_measured: bool = False
    measured: tuple[Sides, ...] | None = None
    implied: tuple[Sides, ...] | None = None
    unmeasured: str = ""

    @property
    def bounded(self) -> bool:
        """Whether some halo makes tiles agree exactly."""
        return self.halo is not None

    @property
    def useful(self) -> tuple[Sides, ...] | None:
        """Halo that removes what a halo can: the reach of all that does not couple the whole tile.

        None where the whole tile is coupled, and nothing is known of the rest.
        """
        return self.halo or self.convolutional or self.rest

    def with_rest(self, measured: tuple[Sides, ...] | None) -> Reach:
        """Return this with a measured reach of all layers that couple nothing."""
        implied = self.rest
        if measured is None:
            return self
        reach = replace(self, rest=measured, rest_measured=True)
        if implied is None or implied == measured:
            return reach
        return replace(reach, rest=larger(measured, implied), measured=measured, implied=implied)

    def agrees(self, facts: Facts) -> bool | None:
        """Whether measurements and operations show the same period and halo.

        None where one of them shows nothing.
        """
        implied, own = facts.implied, self.convolutional
        known = own is not None and not self.unmeasured and facts.period_found
        if implied is None or implied.halo is None or not known:
            return None
        same = self.measured is None and own == implied.halo
        return (
            same and implied.period == facts.period and implied.bounded == (self.halo is not None)
        )

    @property
    def finished(self) -> bool:
        """Whether the measurement came to its end."""
        return self.at_least is None


def measure_reach(forward: Forward, facts: Facts) -> Reach:
    """Measure the theoretical reach for tiles that start on the network's grid.

    Parameters
    ----------
    forward
        ``(N, C, *spatial)`` float32 tensor to prediction, on the CPU: the plain network.
    facts
        What was measured before; with what the operations imply, where that is known.

    Returns
    -------
    Reach
        The larger one, where measurement and operations differ.
    """
    reach, own = _measured(forward, facts), facts.implied
    if reach.halo is not None and own is not None and any(own.coupled) and vanishes(forward, facts):
        why = "its prediction of noise is constant up to rounding, so that no change shows"
        alone = facts.statistics and not (own.couplings or own.numbers)
        reach = Reach(None, own.halo if alone else None, unmeasured=why)
    return _combined(reach, facts)


def _measured(forward: Forward, facts: Facts) -> Reach:
    prober = _Prober(forward, facts)
    try:
        halo = own = prober.reach()
        alone = facts.implied is not None and facts.implied.only_decides
        conditional = prober.conditional or prober.unlimited or (halo is None and alone)
        if halo is None and facts.statistics:
            prober = _Prober(forward, facts, fixed=True)
            own = prober.reach()
        found = prober.found(halo, own)
        found = replace(found, conditional=conditional)  # with statistics: in all images
        return _with_depth(found, forward, facts) if prober.local else found
    except OutOfPatience:
        why = "time ran out (`patience`)"
    except (InterruptedError, SeamscopeError):
        raise
    except Exception as error:  # whatever a network raises for inputs of other sizes
        why = f"the network fails on an input made for it ({says(error)})"
    return replace(prober.found(None, None), at_least=prober.at_least, unmeasured=why)


def _with_depth(reach: Reach, forward: Forward, facts: Facts) -> Reach:
    """Add how deep changes go, where a halo of that is not enough for another reason."""
    depth = measure_rest(forward, facts)
    # bins of a grid over the tile look like a period that nothing implies
    own = facts.implied is None or facts.implied.period in (
        facts.period,
        (None,) * len(facts.period),
    )
    shifts = facts.period_found and own and not facts.statistics
    moves = facts.implied is not None and bool(facts.implied.couplings)  # with the size
    alike = reach.depends_on_size and shifts and depth is not None and not moves
    if depth is not None and alike:
        alike = _Prober(forward, facts, fixed=True).agree_when_moved(depth)
    return replace(reach, rest=depth, rest_measured=depth is not None, alike=alike)


def _combined(reach: Reach, facts: Facts) -> Reach:
    """Put what was measured and what the operations imply together."""
    implied = facts.implied
    if implied is None or implied.halo is None:
        return reach if implied is None else _named(reach, facts, implied)
    if reach.at_least is not None and implied.bounded:  # no time to measure it all
        return replace(reach, halo=implied.halo, convolutional=implied.halo, at_least=None)
    measurable = facts.statistics and not implied.couplings  # with statistics held fixed
    if reach.at_least is not None and any(implied.coupled) and not measurable:
        reach = replace(reach, at_least=None)
    own = reach.convolutional
    if own is None:
        if reach.rest is not None and COMPUTED_PLACES in reach.couplings:
            return replace(_named(reach, facts, implied), rest=larger(reach.rest, implied.halo))
        measured = reach.rest == implied.halo  # else with what couples the tile
        return replace(_named(reach, facts, implied), rest=implied.halo, rest_measured=measured)
    if implied.couplings and not implied.bounded:  # fades, or its weights are 0
        return reach
    safe = larger(own, implied.halo)
    if reach.halo is not None and any(facts.learned_positions):
        return replace(reach, halo=None, convolutional=None, depends_on_size=True, rest=safe)
    if own != implied.halo:
        reach = replace(reach, measured=own, implied=implied.halo)
    return replace(reach, halo=None if reach.halo is None else safe, convolutional=safe)


def _named(reach: Reach, facts: Facts, implied: Implied) -> Reach:
    """Name what couples the whole tile, besides the statistics that can be held fixed."""
    if reach.convolutional is not None:
        return reach
    numbers = implied.numbers if facts.statistics else implied.statistics
    names = dict.fromkeys((*reach.couplings, *implied.couplings, *numbers))
    if numbers:  # by which it decides
        names.pop(DECISION, None)
    return replace(reach, couplings=tuple(names))


def measure_rest(held: Forward, facts: Facts) -> tuple[Sides, ...] | None:
    """Measure how far a network reaches beside what couples its tile.

    Parameters
    ----------
    held
        As for `measure_reach`, but what couples the tile returns the same in all runs of one shape.
    facts
        As for `measure_reach`.

    Returns
    -------
    tuple or None
        Halo for each axis; None where something else sees the whole tile.
    """
    prober = _Prober(held, facts, fixed=True)
    sides = tuple(map(prober.depth, range(facts.spatial_axes)))
    known = tuple(each for each in sides if each is not None)
    return known if len(known) == len(sides) else None


def measure_fields(
    forward: Forward, facts: Facts, reach: Reach | None = None
) -> tuple[PhaseFields, ...] | None:
    """Measure the theoretical receptive field of an output pixel at each phase.

    Parameters
    ----------
    forward, facts
        As for `measure_reach`.
    reach
        What that found. Without it, statistics are held fixed and NaN shows what is reached.

    Returns
    -------
    tuple or None
        For each axis the fields of all phases; None where the network sees everything.
    """
    if reach is not None and reach.convolutional is None:
        return None
    hows: tuple[float, ...] = (NAN,)
    if reach is not None and (reach.swallows_nan or reach.spreads_nan):
        hows = NOISES if reach.spreads_nan else (NAN, *NOISES)
    prober = _Prober(forward, facts, fixed=reach is None or not reach.bounded)
    fields = [prober.fields(axis, hows) for axis in range(facts.spatial_axes)]
    known = tuple(field for field in fields if field is not None)
    return known if len(known) == len(fields) else None


def _deeper(halo: Sides, other: Apart) -> Sides:
    """The larger of both, side by side."""
    return max(halo[0], int(other[0])), max(halo[1], int(other[1]))


def worst(fields: PhaseFields) -> Sides:
    """Receptive field ``(before, after)`` at the worst phase, for either side by itself."""
    return max(0, *(before for before, _ in fields)), max(0, *(after for _, after in fields))


class _Prober:
    """Measures all axes of one network, with or without fixed statistics.

    Attributes
    ----------
    at_least
        For each axis, pixels that are certainly reached.
    """

    def __init__(self, forward: Forward, facts: Facts, fixed: bool = False) -> None:
        self._forward = forward
        self._facts = facts
        self._fixed = fixed
        self._joined = [0] * facts.spatial_axes
        self._sides: dict[int, Sides] = {}  # of axes that are known
        self.swallowed = False
        self.spread = False
        self.fades = False
        self.conditional = False
        self.decides = False  # whether the network's code does
        self.unlimited = False  # whether where the network reads has no limit
        self.depends_on_size = False
        self.at_least: tuple[int, ...] = (0,) * facts.spatial_axes

    def found(
        self, halo: tuple[Sides, ...] | None, convolutional: tuple[Sides, ...] | None
    ) -> Reach:
        """Say what was found."""
        joined = tuple(self._joined) if any(self._joined) and convolutional is not None else ()
        names: tuple[str, ...] = (DECISION,) if self.decides else ()
        rest = None
        if self.unlimited and convolutional is not None:  # enough for usual intensities alone
            halo, convolutional, rest = None, None, convolutional
            names = (COMPUTED_PLACES,)
        return Reach(
            halo,
            convolutional,
            swallows_nan=self.swallowed,
            depends_on_size=self.depends_on_size,
            spreads_nan=self.spread,
            fades=self.fades,
            conditional=self.conditional,
            joins_ends=joined,
            couplings=names,
            rest=rest,
            rest_measured=rest is not None,
        )

    @property
    def local(self) -> bool:
        """Whether changes go no deeper than some halo, though none is enough."""
        return self.conditional or self.depends_on_size

    def reach(self) -> tuple[Sides, ...] | None:
        """Reach along all axes; None as soon as one is unbounded."""
        axes = range(self._facts.spatial_axes)
        for axis in sorted(axes, key=lambda axis: not self._coupled(axis)):
            depth = self._reach(axis)
            if depth is None:
                return None
            self._sides[axis] = depth
        return tuple(self._sides[axis] for axis in axes)

    def depth(self, axis: int) -> Sides | None:
        """How deep the ends of one slab change it along an axis; None where all of it changes."""
        found = (_Ends(slab, only_depth=True).depth for slab in self._slabs(axis))
        return next((depth for depth in found if depth is not None), None)

    def agree_when_moved(self, halo: Sequence[Sides]) -> bool:
        """Whether tiles of one size agree, wherever they lie on the grid; of any size."""
        for axis, sides in enumerate(halo):
            slab, longer = itertools.islice(itertools.cycle(self._slabs(axis)), 2)
            if _Ends(longer).depth != sides or slab.agrees_when_moved(sides) is False:
                return False
        return True

    def _reach(self, axis: int) -> Sides | None:
        by_change: list[Sides] = []  # where NaN goes further, of one slab after another
        before: Apart | None = None  # how deep the slab before differed from a shorter one
        for slab in self._slabs(axis):
            ends = _Ends(slab)
            depth, own = ends.depth, self._implied(axis)
            # NaN goes further where it is weighed by 0, as do numbers where the weight is rounded
            if depth is not None and own is not None and ends.exceeds(own):
                depth = own
            if depth is None and ends.by_change is not None:
                by_change.append(ends.by_change)
                implied = self._is_implied(axis, ends.by_change)
                if implied or self._agree(slab, by_change):
                    depth = max(a for a, _ in by_change), max(b for _, b in by_change)
                    self.spread = True
                    fades = not implied and (
                        ends.fades if ends.cancels else self._fade(slab, by_change)
                    )
                    self.fades |= fades and not slab.warps
            elif depth is None and self._coupled(axis):
                return None
            self._reached(axis, slab.length - 2 * slab.frame() if depth is None else max(depth))
            if depth is not None and (apart := self._apart(slab, depth)) is not None:
                self.swallowed |= ends.swallowed
                self._joined[axis] = ends.joined
                # what two slabs show is not for lack of length; where a network reads at computed
                # places, each shows a little more or less
                near = before is not None and slab.warps and max(apart) <= 1.5 * max(before)
                if slab.lattice.fixed is not None and not self._anywhere(slab, depth):
                    self.depends_on_size = True
                    return None
                if apart in (depth, before) or near:
                    return self._whatever_it_holds(slab, depth, apart)
                before = apart
            if self._facts.statistics and not self._fixed and not by_change:
                return None
        if slab.decides:
            self.conditional = self.decides = True
        else:
            self.depends_on_size |= before is not None
        return None

    def _anywhere(self, slab: Slab, depth: Sides) -> bool:
        """Whether tiles of the one size agree wherever they lie, as far as can be seen or derived.

        There are no other sizes to compare.
        """
        agree = slab.agrees_when_moved(depth)
        if agree is False and slab.precise is not None:
            agree = slab.precise.agrees_when_moved(depth)
        return not self._coupled(slab.axis) if agree is None else agree

    def _apart(self, slab: Slab, depth: Sides) -> Apart | None:
        """How deep a shorter slab predicts something else; in float64 where that is doubtful."""
        tolerance = self._tolerance(slab.axis, depth)
        found = None
        with Attempt():  # a network may refuse what is so short
            found = slab.apart_when_shorter(depth, tolerance)
            if found not in (None, depth) and slab.precise is not None:
                found = slab.precise.apart_when_shorter(depth, tolerance)
        return found

    def _whatever_it_holds(self, slab: Slab, depth: Sides, apart: Apart) -> Sides | None:
        """The halo that is enough whatever the slab holds; None where none is.

        Code that decides by a number of the tile is seen only where tile and image lie on
        different sides of the decision.
        """
        if self._decides or slab.decides:
            self.conditional = self.decides = True
            return None
        if math.inf in apart:
            self.depends_on_size = True
            return None
        most = _deeper(depth, apart)
        if self._cannot_decide(slab.axis, most):
            return most
        unlimited = False
        for content in CONTENTS:
            with Attempt():  # a network may refuse such numbers
                found = self._apart(slab.varied(content), most)
                everywhere = found is not None and math.inf in found
                unlimited |= everywhere and slab.warps
                if everywhere and not slab.warps:
                    self.conditional = True
                    return None
                most = most if found is None or everywhere else _deeper(most, found)
        usual = most
        for content in FAR if slab.warps else ():
            with Attempt():
                found = self._apart(slab.varied(content), most)
                # a limit that is not small beside the slab is none: most places lie outside it
                unlimited |= found is not None and max(found) > slab.length / 4
                most = most if found is None or unlimited else _deeper(most, found)
        self.unlimited |= unlimited
        most = usual if unlimited else most
        # places that depend on the content may lie on either side, whatever was seen
        return (max(most), max(most)) if most != depth and slab.warps else most

    @property
    def _decides(self) -> bool:
        """Whether the operations compare a number of the tile that is not held fixed."""
        implied = self._facts.implied
        return (
            implied is not None and implied.decides and (not self._fixed or bool(implied.numbers))
        )

    def _implied(self, axis: int) -> Sides | None:
        """Halo that the operations imply, with what couples the tile held fixed."""
        implied = self._facts.implied
        return None if implied is None or implied.halo is None else implied.halo[axis]

    def _cannot_decide(self, axis: int, halo: Sides) -> bool:
        """Whether the operations imply that nothing but what is held fixed couples the tile."""
        implied = self._facts.implied
        if implied is None or implied.halo is None or implied.couplings:
            return False
        return implied.bounded or (self._fixed and implied.halo[axis] == halo)

    def _is_implied(self, axis: int, sides: Sides) -> bool:
        """Whether changes go as far as the operations imply, or less: no longer slab is needed."""
        own = self._implied(axis)
        return own is not None and self._cannot_decide(axis, sides) and _within(sides, own)

    def _reached(self, axis: int, pixels: int) -> None:
        """Remember what is certain, for when time runs out."""
        known = list(self.at_least)
        known[axis] = max(known[axis], pixels)
        self.at_least = tuple(known)

    @staticmethod
    def _agree(slab: Slab, by_change: Sequence[Sides]) -> bool:
        """Whether changes reach equally far in two slabs through which NaN goes.

        A network that is too deep for the slab looks the same; a slab of many periods is not too
        short for one.
        """
        if slab.lattice.fixed is not None:
            return True
        if len(by_change) < 2 or slab.length < _PERIODS_AT_LEAST * slab.lattice.pitch:
            return False
        # the memory of a recurrent network fades below rounding a little sooner or later, and where
        # a network reads depends on what each slab holds
        return all(
            (slab.warps or abs(one - two) <= max(one, two) / 4) and max(one, two) <= slab.length / 4
            for one, two in zip(by_change[-1], by_change[-2], strict=True)
        )

    @staticmethod
    def _fade(slab: Slab, by_change: Sequence[Sides]) -> bool:
        """Whether what changes reach is a matter of rounding: in float64 it is more."""
        if by_change[-1] != by_change[-2:][0]:
            return True
        with Attempt():
            if slab.precise is None:
                return False
            for end, known in zip((LOW, HIGH), by_change[-1], strict=True):
                depth = slab.precise.depth(end, slab.frame(), NOISES[0])
                if depth is None or math.ceil(depth) > known:
                    return True
        return False

    def fields(self, axis: int, hows: Sequence[float]) -> PhaseFields | None:
        """Receptive fields along one axis, by phase; None when unbounded."""
        found = (_Fields(slab, hows).measure() for slab in self._slabs(axis))
        return next((fields for fields in found if fields is not None), None)

    def _slabs(self, axis: int) -> Iterator[Slab]:
        implied, least = self._facts.implied, 0
        if implied is not None and implied.halo is not None and not self._coupled(axis):
            pitch = self._facts.lattice[axis].pitch
            least = 3 * (sum(implied.halo[axis]) + max(_FRAME, pitch)) + 2 * pitch
        # each step of a memory along one axis may reach further along another
        wide = {
            n: sum(s) + _FRAME for n, s in self._sides.items() if n != axis and self._coupled(n)
        }
        narrow = tuple(
            lattice.size_at_least(max(size, wide.get(n, 0)))
            for n, (size, lattice) in enumerate(
                zip(self._facts.narrow, self._facts.lattice, strict=True)
            )
        )
        facts = replace(self._facts, narrow=narrow) if wide else self._facts
        return slabs(self._forward, facts, axis, self._fixed, least)

    def _tolerance(self, axis: int, depth: Sides) -> float:
        """How far predictions of two sizes may be apart.

        Rounding of deep networks reaches 1.3e-4, when torch picks another convolution for another
        size; where the operations imply the same halo, there is nothing else that it could be.
        """
        implied = self._facts.implied
        if implied is None or implied.halo is None or not implied.bounded:
            return SAME
        return _ROUNDING if implied.halo[axis] == depth else SAME

    def _coupled(self, axis: int) -> bool:
        """Whether the operations imply that something couples the whole tile."""
        implied = self._facts.implied
        return implied is not None and implied.coupled[axis] and not self._fixed


def _within(one: Sides, other: Sides) -> bool:
    """Whether one is no more than another, on either side."""
    return all(a <= b for a, b in zip(one, other, strict=True))


class _Ends:
    """What changing the two ends of a slab says of the reach.

    Attributes
    ----------
    depth
        ``(before, after)``; None where NaN or a change goes through the whole slab.
    by_change
        The same by changes alone, where NaN goes through the whole slab; else None.
    swallowed
        Whether NaN reaches less far than a change.
    cancels, fades
        Whether what goes through the whole slab does so by rounding alone; whether it does so as a
        memory that fades.
    joined
        How deep one end changes the other.
    """

    def __init__(self, slab: Slab, only_depth: bool = False) -> None:
        self.depth: Sides | None = None
        self.by_change: Sides | None = None
        self.swallowed = self.cancels = self.fades = False
        self.joined = 0
        self._slab, self._frame, self._least = slab, slab.frame(), 0.0
        by_nan = self._both(NAN)
        if by_nan is None and only_depth:
            return
        change = self._both(NOISES[0])
        if change is None and by_nan is None:
            change = self._but_for_rounding()
        if change is None:
            return
        if by_nan is not None:
            self.swallowed = any(a > b for a, b in zip(change, by_nan, strict=True))
            self.depth = max(by_nan[0], change[0]), max(by_nan[1], change[1])
        else:
            small = self._both(NOISES[1])
            if small is not None:
                self.by_change = max(small[0], change[0]), max(small[1], change[1])
        if self.depth is not None or self.by_change is not None:
            joined = (self._slab.joined(end, self._frame, self._least) for end in (LOW, HIGH))
            self.joined = max(joined)

    def _but_for_rounding(self) -> Sides | None:
        """The same in float64, where what is seen of the whole slab may cancel.

        As the sum of a softmax does, if differences of its logarithm follow.
        """
        may_cancel = self._slab.may_cancel(self._frame, _ROUNDING)
        precise = self._slab.precise if may_cancel else None
        if precise is not None:
            self._slab, self._least = precise, CANCELS
            found = self._both(NOISES[0])
            self._least = CANCELS / 1000  # a memory that fades reaches further then
            self.cancels = found == self._both(NOISES[0])
            self._least = CANCELS
            return found
        return None

    def exceeds(self, own: Sides) -> bool:
        """Whether it is more than another by NaN, or by rounding, alone."""
        depth = self.depth
        if depth is None or _within(depth, own):
            return False
        slab = self._slab.precise  # which is computed
        if slab is None:
            return False
        change = self._both(NOISES[0], slab, CANCELS)
        return change is not None and _within(change, own)

    def _both(
        self, how: float, slab: Slab | None = None, least: float | None = None
    ) -> Sides | None:
        slab, least = slab or self._slab, self._least if least is None else least
        depths = []
        for end in (LOW, HIGH):
            depth = slab.depth(end, self._frame, how, least)
            if depth is None:
                return None
            depths.append(max(0, math.ceil(depth)))
        return depths[0], depths[1]


class _Fields:
    """Receptive fields by phase, from one slab."""

    def __init__(self, slab: Slab, hows: Sequence[float]) -> None:
        self._slab = slab
        self._hows = hows

    def measure(self) -> PhaseFields | None:
        """Receptive field of an output pixel at each phase; None when too short to tell."""
        low, high = self._meets(LOW), self._meets(HIGH)
        if low is None or high is None:
            return None
        lattice = self._slab.lattice
        phases = range(int(lattice.pitch * lattice.scale))
        return tuple((low.get(p, 0), high.get(p, 0)) for p in phases)

    def _meets(self, end: int) -> dict[int, int] | None:
        """How far the receptive field goes towards one end, for each phase that sees anything."""
        slab, pitch = self._slab, self._slab.lattice.pitch
        first = slab.frame()
        if first + pitch > slab.length // 2:
            return None
        touched = {n: self._touched(end, n) for n in (first, first + pitch)}
        most = touched[first + pitch]
        open_end = np.flatnonzero(slab.inside(np.ones_like(most), end, first + pitch))
        if most[open_end[-1 if end == LOW else 0]]:
            return None
        found: dict[int, int] = {}
        for frame, outputs in self._newly_touched(end, (first, first + pitch), touched):
            for output in outputs:
                phase = output % int(pitch * slab.lattice.scale)
                found[phase] = self._extent(end, frame, output)
        return found

    def _touched(self, end: int, frame: int) -> Line:
        """Outputs that depend on an end of so many pixels."""
        lines = [self._slab.touched(end, frame, how) for how in self._hows]
        line: Line = np.logical_or.reduce(lines)
        return self._slab.inside(line, end, frame)

    def _newly_touched(
        self, end: int, frames: Sides, touched: dict[int, Line]
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
        touched[middle] = self._touched(end, middle)
        yield from self._newly_touched(end, (few, middle), touched)
        yield from self._newly_touched(end, (middle, many), touched)

    def _extent(self, end: int, frame: int, output: int) -> int:
        """Pixels from those an output covers to the last it sees, `frame` pixels from the end."""
        scale, before = self._slab.lattice.scale, self._slab.lattice.crop[0]
        if end == LOW:
            return math.floor(output / scale) + before - frame
        return self._slab.length - frame - math.ceil((output + 1) / scale) - before


__all__ = [
    "MemoryMeter",
    "PhaseFields",
    "Reach",
    "measure_fields",
    "measure_reach",
    "measure_rest",
    "worst",
]
