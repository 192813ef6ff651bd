"""What repeats in the positions of an output: period, scale, crop and fields by phase.

Knows one axis of intervals and kinds. Does not know operations.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np

from seamscope.models.derived.facts import DerivedAxis
from seamscope.models.derived.positions import NONE, Array, Seen

_LONGEST_GAP = 16  # outputs that depend on nothing, between others
_BLOCKS = 8  # stretches between padding: more of them are blocks that are padded one by one


def repeating(known: DerivedAxis, seen: Seen) -> DerivedAxis:
    """Find the shortest repetition of intervals and kinds, where no padding is felt.

    An input may be too short for that; what repeats in all of it is then a guess, unless the
    network pads blocks of its own.
    """
    gap, seen = seen.lo == NONE, _bridged(seen)
    inside = ~seen.padded
    found = _repeated(known, seen, inside, gap)
    if found is not None:
        return found
    guess = _repeated(known, seen, np.ones_like(inside), gap)
    blocks = np.count_nonzero(inside[1:] & ~inside[:-1]) >= _BLOCKS
    return replace(guess or known, inside=bool(guess and blocks))


def _bridged(seen: Seen) -> Seen:
    """Move short gaps along with the outputs before them.

    A transposed convolution with a kernel shorter than its stride leaves outputs between that
    depend on no pixel.
    """
    place = np.arange(len(seen.lo))
    before = np.maximum.accumulate(np.where(seen.lo != NONE, place, -1))
    source = np.where((before >= 0) & (place - before <= _LONGEST_GAP), before, place)
    return replace(seen, lo=seen.lo[source], hi=seen.hi[source])


def _repeated(known: DerivedAxis, seen: Seen, among: Array, gap: Array) -> DerivedAxis | None:
    """Find the same among some outputs; those in gaps have no field."""
    lo, hi, kind, out = seen.lo, seen.hi, seen.kind, len(seen.lo)
    for q in _distances(seen, among):
        moved = lo[q:] - lo[:-q]
        alike = (kind[q:] == kind[:-q]) & (hi[q:] - hi[:-q] == moved) & (lo[q:] != NONE)
        first, last, p = _longest(alike & among[q:] & among[:-q], moved)
        # two periods, or one where the scale is that of the sizes: less may be chance
        enough = q if p and Fraction(q, p) * known.size == out else 2 * q
        if p > 0 and last - first >= max(enough, out // 8):
            found = replace(known, period=p, scale=Fraction(q, p))
            return _described(found, lo, hi, first, gap)
    return None


def _distances(seen: Seen, among: Array) -> list[int]:
    """Distances at which outputs may repeat, from small to large.

    What repeats does so in an eighth of all outputs, and so at one of eight places. Trying every
    distance would take the square of the size, where nothing repeats.
    """
    lo, hi, kind, out = seen.lo, seen.hi, seen.kind, len(seen.lo)
    found: set[int] = set()
    for place in range(0, out, max(1, out // 8)):
        moved = lo[place + 1 :] - lo[place]
        alike = (kind[place + 1 :] == kind[place]) & (hi[place + 1 :] - hi[place] == moved)
        usable = alike & among[place + 1 :] & (moved > 0)
        if among[place] and lo[place] != NONE:
            found.update((np.flatnonzero(usable) + 1).tolist())
    return sorted(q for q in found if q <= out // 2)


def _longest(alike: Array, moved: Array) -> tuple[int, int, int]:
    """The longest run of places that moved alike and by the same distance: start, end, distance."""
    if not alike.any():
        return 0, 0, 0
    begins = np.ones(len(alike), bool)
    begins[1:] = ~(alike[1:] & alike[:-1] & (moved[1:] == moved[:-1]))
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(alike))
    best = int(np.argmax(np.where(alike[starts], ends - starts, 0)))
    return int(starts[best]), int(ends[best]), int(moved[starts[best]])


def _described(known: DerivedAxis, lo: Array, hi: Array, first: int, gap: Array) -> DerivedAxis:
    """Crop and fields from the intervals of one period of outputs, from the first."""
    assert known.period is not None
    assert known.scale is not None
    scale, size, out = known.scale, known.size, len(lo)
    phases = int(known.period * scale)
    places = np.arange(first, first + phases)
    middle = (lo[places] + hi[places]) / 2 - ((places + 0.5) / float(scale) - 0.5)
    lost = max(0, math.floor(size - out / scale))
    before = min(lost, max(0, math.ceil(float(middle[~gap[places]].mean()) - 0.5)))
    fields = {}
    for o in places:
        begin = math.floor(int(o) / scale) + before
        end = math.ceil(Fraction(int(o) + 1) / scale) - 1 + before
        own = (0, 0) if gap[o] else (int(begin - lo[o]), int(hi[o] - end))
        fields[int(o) % phases] = own
    crop = (before, lost - before)
    return replace(known, crop=crop, fields=tuple(fields[k] for k in range(phases)))
