"""What a network's facts and reach mean for tiles, in sentences.

Knows what was measured. Does not know how, or the network.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from seamscope.models.derived.facts import DECISION
from seamscope.models.facts import Facts
from seamscope.models.reach import Reach
from seamscope.text import axes_text, far_text, needs_text
from seamscope.tiling import axis_names


def describe(facts: Facts, reach: Reach) -> str:
    """Say in one sentence what halo a network needs, or why none helps.

    A second sentence says what else limits this.
    """
    return " ".join(_sentences(facts, reach))


def _sentences(facts: Facts, reach: Reach) -> Iterator[str]:
    if facts.noise:
        yield (
            f"This network is random: two predictions of one tile differ by {facts.noise:.2g} "
            f"standard deviations, and seams cannot be smaller. {facts.quieted}."
        )
    grid = axes_text(facts.period)
    steps = f" (tiles start on multiples of {grid})" if set(facts.period) != {1} else ""
    if reach.halo is not None and facts.period_open:
        far = needs_text(reach.halo)
        yield f"Its period was not found: seams are removed if it is {grid} px. Then it {far}."
    elif reach.halo is not None:
        can = "Apart from that, it can" if facts.noise else "Can"
        yield f"{can} be predicted without seams: it {needs_text(reach.halo)}{steps}."
    elif reach.at_least is not None and not reach.couplings and not facts.statistics:
        far = axes_text(reach.at_least)
        yield f"The reach is at least {far} px; it was not measured to the end: {reach.unmeasured}."
    else:
        yield from _unbounded(facts, reach, steps)
    if reach.unmeasured and reach.at_least is None:
        yield f"This follows from its operations and was not measured: {reach.unmeasured}."
    if reach.measured is not None and reach.implied is not None:
        yield (
            f"A measurement shows {far_text(reach.measured)} and the operations imply "
            f"{far_text(reach.implied)}: the larger is used."
        )
    if reach.fades:
        yield "Pixels further away change the prediction by less than rounding."
    if any(reach.joins_ends):
        deep = axes_text(reach.joins_ends)
        yield (
            f"The outer {deep} px of the image depend on its opposite border (circular padding), "
            "which tiles do not reproduce."
        )


def _unbounded(facts: Facts, reach: Reach, steps: str) -> Iterator[str]:
    """Say why no halo helps, and how far all else reaches."""
    if reach.alike and reach.rest is not None:
        yield f"{_ALIKE}: {why_unbounded(facts, reach)}. It {needs_text(reach.rest)}{steps}."
        return
    where = "In some images, overlap" if reach.conditional else "Overlap"
    yield f"{where} cannot remove the seams: {why_unbounded(facts, reach)}."
    if reach.convolutional is not None:
        yield f"The convolutions alone reach {far_text(reach.convolutional)}{steps}."
    elif facts.statistics and facts.forward_only:
        yield (
            "How far the convolutions alone reach cannot be measured of a network that runs "
            "forward only."
        )
    elif facts.statistics and reach.at_least is not None:
        yield (
            f"How far the convolutions alone reach was not measured to the end: {reach.unmeasured}."
        )
    if reach.rest is not None:
        none = not any(map(any, reach.rest))
        far = "no pixel outside the tile" if none else far_text(reach.rest)
        named = facts.statistics or reach.couplings
        layers = "All other layers" if named else "Apart from that, the layers"
        yield f"{layers} reach {far}{steps}."


_ALIKE = "Tiles of one size agree with each other, but not with an untiled prediction"


def why_unbounded(facts: Facts, reach: Reach) -> str:
    """Say why no halo makes tiles agree with an untiled prediction, as the end of a sentence.

    Empty where some halo does, or where the reach was not measured.
    """
    return ", and ".join(_reasons(facts, reach)) if reach.halo is None else ""


def _reasons(facts: Facts, reach: Reach) -> Iterator[str]:
    names = [name for name in reach.couplings if name != DECISION]
    if facts.statistics:
        yield f"{facts.statistics_sentence}{which_statistics(facts, reach)}"
    if place := by_place_or_size(facts, reach):
        yield place
    elif names:
        see = "see" if len(names) > 1 else "sees"
        yield f"{some_names(names)} {see} the whole tile{_along(facts)}"
    if DECISION in reach.couplings or not (place or names or not reach.conditional):
        yield "the network's code decides by a number of its tile"
    if place or reach.couplings:
        return
    if facts.statistics:
        measured = reach.at_least is None and not facts.forward_only
        if reach.convolutional is None and measured:
            yield "some other layers see the whole tile too"
    elif reach.at_least is None:
        one = any(axis.fixed is not None for axis in facts.lattice)
        like = "layers that reach across its one size" if one else "the like"
        yield f"the network sees the whole tile (attention, global pooling or {like})"


def _along(facts: Facts) -> str:
    """Along which axes something sees the whole tile, where that is not along all."""
    coupled = facts.implied.coupled if facts.implied else ()
    each = zip(axis_names(facts.spatial_axes), coupled, strict=False)
    some = [name for name, one in each if one]
    return f" along {' and '.join(some)}" if 0 < len(some) < facts.spatial_axes else ""


def reach_name(reach: Reach) -> str:
    """What `Reach.useful` is the reach of."""
    if reach.halo is not None or reach.alike:
        return "reach"
    return "reach of the convolutions" if reach.convolutional is not None else "reach of all else"


def by_place_or_size(facts: Facts, reach: Reach) -> str:
    """Say that the place in a tile or its size counts, as the end of a sentence; else empty."""
    if any(facts.learned_positions):
        return (
            "what the network predicts depends on the place in its tile (positions were learned "
            "for this size)"
        )
    own = facts.implied
    if own is not None and any(own.coupled) and not (own.couplings or own.statistics):
        return (
            "what the network predicts depends on the place in its tile (coordinates or learned "
            "positions)"
        )
    if not reach.depends_on_size:
        return ""
    usual = "adaptive pooling, upsampling with aligned corners, coordinates or the like"
    by = some_names(reach.couplings) or usual
    one = all(axis.fixed is not None for axis in facts.lattice)
    how = "depends on the place in" if one else "changes with the size of"
    return f"what the network predicts {how} its tile ({by})"


def which_statistics(facts: Facts, reach: Reach) -> str:
    """Name the layers with per-tile statistics, in brackets, where they are few."""
    names = _with_statistics(facts, reach)
    return f" ({some_names(names)})" if 0 < len(names) <= _FEW else ""


def _with_statistics(facts: Facts, reach: Reach) -> tuple[str, ...]:
    """Names of layers that take means and variances of the tile; empty where one stands for all."""
    implied = facts.implied
    if implied is None or not facts.statistics:
        return ()
    others = (*implied.numbers, *reach.couplings)
    names = tuple(name for name in implied.statistics if name not in others)
    alike = len(names) == 1 < len(facts.statistics) - 1  # a mean and a variance may be one layer
    return () if alike or "normalization" in names else names


def caution(facts: Facts, reach: Reach) -> str:
    """Say in a sentence what agreement on one image does not show; empty where there is nothing."""
    why = why_unbounded(facts, reach)
    if not why:
        return "The network is random: in another run tiles may differ." if facts.noise else ""
    return f"{_ALIKE}: {why}." if reach.alike else f"In other images tiles may differ: {why}."


def whole_tile(facts: Facts, reach: Reach) -> tuple[str, ...]:
    """Names of the layers that see the whole tile, those with per-tile statistics first."""
    if reach.halo is not None:
        return ()
    own = _with_statistics(facts, reach)
    if not own:
        kinds = Counter(call.kind for call in facts.statistics)
        own = tuple(f"{count} x {kind} normalization" for kind, count in kinds.items())
    return tuple(dict.fromkeys((*own, *reach.couplings)))


_FEW = 3  # names that a sentence lists


def some_names(names: Sequence[str]) -> str:
    """List the first names, in words; a module that is only a number is a layer."""
    words = [f"layer {name}" if re.fullmatch(r"[\d.]+", name) else name for name in names]
    if len(words) <= _FEW + 1:
        return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return f"{', '.join(words[:_FEW])} and {len(words) - _FEW} more"


__all__ = [
    "by_place_or_size",
    "caution",
    "describe",
    "some_names",
    "which_statistics",
    "whole_tile",
    "why_unbounded",
]
