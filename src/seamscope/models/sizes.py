"""Which sizes a network takes along one axis, and what it gives for them.

Knows sizes of inputs and outputs. Does not know tensors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction

from seamscope.errors import ModelError
from seamscope.models.derived import DerivedAxis
from seamscope.text import pixels_text
from seamscope.tiling import Lattice, Sides

_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 24, 25, 27, 28, 32, 36, 48, 64, 128)
# Increments of sizes from which the scale is read: multiples of most periods, the usual ones first.
_FAR = (192, 240, 224, 256, 144, 360, 220, 208, 288, 250, 343, 384, 512)
_MORE, _NEAR = (11, 13, 17, 23, 29, 37, 53), 64  # steps, and pixels of the last of them


class Sizes:
    """Which sizes a network takes along one axis, and how its output grows with them.

    A network that gives one pixel for every four gives 16 for 64, 17 for 67 and 18 for 70: three
    sizes prove nothing. The scale is therefore read from increments of about three times the size,
    which are multiples of most periods, and the step is sought among their divisors. Where another
    axis is alike, by what the operations imply, one increment by its scale is enough.

    Parameters
    ----------
    output
        Gives the output's size for an input's; None where that is not taken.
    size, out
        Of an input that is taken, and of its output.
    period, scale
        What the operations imply, where that is known.
    alike
        Scale of an axis that is alike.
    """

    def __init__(
        self,
        output: Callable[[int], int | None],
        size: int,
        out: int,
        period: int | None,
        alike: Fraction | None = None,
        scale: Fraction | None = None,
    ) -> None:
        self._alike, self._implied = alike, scale
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
            if (len(grown[best]) == 3 and _plain(best)) or best == self._alike:
                break
        if not grown:
            return None, []
        # increments that are no multiples of the period give odd fractions, each another one
        best = min(grown, key=lambda s: (not _plain(s), -len(grown[s]), s.denominator))
        plain = _nearest_plain(best)
        # patches that go by 7 leave up to 6 pixels out: the output grows by 385 for 384 pixels,
        # and by as much for 385
        growth = best * grown[best][0] / plain
        if plain != best and growth.denominator == 1 and self._grows(int(growth), plain):
            return plain, [int(growth)]
        return best, grown[best]

    def _grows(self, by: int, scale: Fraction) -> bool:
        """Whether two increments of the size make the output grow in proportion."""
        return all(
            self._output(self._size + times * by) == self._out + times * by * scale
            for times in (1, 2)
        )

    def _even(self, step: int, scale: Fraction) -> bool:
        """Whether sizes a step apart are taken, over as many steps as make several periods.

        And some further away, where steps are small: code that cuts its input to whole patches
        takes many sizes that follow one another, and then none.
        """
        if (step * scale).denominator != 1:
            return False
        for times in (1, 2, 3, 4, 5, 7, 8, *(n for n in _MORE if n * step <= _NEAR)):
            if self._output(self._size + times * step) != self._out + times * step * scale:
                return False
        return True

    def _near(self) -> tuple[Fraction, int] | None:
        """The same with small increments, for networks whose largest size is near."""
        for least in (2, 3):  # three sizes are enough where they show what the operations imply
            for step in _STEPS:
                scale = self._along(step, least)
                if scale is not None and (least == 3 or scale == self._implied):
                    return scale, step
        return None

    def _along(self, step: int, least: int) -> Fraction | None:
        """The scale by which outputs grow over all sizes a step apart, to the next not taken."""
        down, up = (list(self._run(sign * step)) for sign in (-1, 1))
        sizes = [*reversed(down), self._out, *up]
        grown = {b - a for a, b in itertools.pairwise(sizes)}
        scale = Fraction(max(grown, default=0), step)
        even = len(grown) == 1 and len(sizes) > least and scale > 0
        return scale if even and _plain(scale) else None

    def _run(self, step: int) -> Iterator[int]:
        for times in range(1, 9):
            out = self._output(self._size + times * step) if self._size + times * step > 0 else None
            if out is None:
                return
            yield out


def always(output: Callable[[int], int | None], size: int, out: int) -> bool:
    """Whether a network gives one size for inputs of all others (adaptive pooling to a size)."""
    given = [found for n in (2 * size, 3 * size) if (found := output(n)) is not None]
    if not given or set(given) != {out}:
        return False
    return len(given) > 1 or output(size // 2) == out


def one_size(size: int, out: int, derived: DerivedAxis | None = None) -> Lattice:
    """Lattice of a network that takes one size, or of which only one is known."""
    scale = None if derived is None else derived.scale
    lost = None if scale is None else lost_pixels(size, out, scale)
    if derived is not None and scale is not None and lost is not None and lost >= 0:
        return Lattice(crop=sides_of(lost, derived), scale=scale, fixed=size)
    if out > size:  # a whole scale is the simplest reading
        return Lattice(scale=Fraction(out, size), fixed=size)
    whole = Fraction(out, size)
    scale = whole if whole.numerator == 1 and whole < 1 else Fraction(1)
    lost = size - int(out / scale)
    return Lattice(crop=(lost // 2, lost - lost // 2), scale=scale, fixed=size)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _plain(scale: Fraction) -> bool:
    return 1 in (scale.numerator, scale.denominator)


def _nearest_plain(scale: Fraction) -> Fraction:
    return Fraction(round(scale)) if scale >= 1 else 1 / Fraction(round(1 / scale))


def sides_of(lost: int, derived: DerivedAxis | None) -> Sides:
    """Share lost pixels out to both sides, as the operations do in an input of any size.

    In the middle where that is not known.
    """
    before = lost // 2 if derived is None or derived.crop is None else derived.crop[0]
    before = min(max(before, 0), lost)
    return before, lost - before


def lost_pixels(size: int, out: int, scale: Fraction) -> int | None:
    """Input pixels without output; None where they are no whole number.

    Below 0 where there is more output than input, by whole output pixels.
    """
    lost = size - out / scale
    whole = lost.denominator == 1 and (lost >= 0 or (lost * scale).denominator == 1)
    return int(lost) if whole else None


def _uncovered(missing: Fraction) -> str:
    """Say how much more or less than its input the output covers."""
    if missing > 0:
        return f"{missing} px of the input has no output"
    return f"the output covers {-missing} px more than the input"


def lattice_of(size: int, out: int, scale: Fraction, step: int) -> Lattice:
    """Lattice of sizes a step apart, of which one is given with its output; the period is open."""
    lost = lost_pixels(size, out, scale)
    if lost is None:
        missing = size - out / scale
        remedy = (
            f"Pad its output by {pixels_text(-out % scale.numerator)}, as output_padding of a "
            "transposed convolution does"
            if missing > 0
            else f"Cut {pixels_text(math.ceil(-missing * scale))} off the end of its output"
        )
        raise ModelError(
            f"For {size} pixels the network gives {out}, with {scale} output pixels for each "
            f"further input pixel: {_uncovered(missing)}, and tiles are stitched in whole input "
            f"pixels. {remedy}."
        )
    crop = (lost // 2, lost - lost // 2) if lost >= 0 else (0, lost)
    return Lattice(period=1, step=step, offset=size % step, crop=crop, scale=scale)


__all__ = ["Sizes", "always", "lattice_of", "lost_pixels", "one_size", "sides_of"]
