"""What a network's facts and reach mean for tiles, in sentences.

Knows what was measured. Does not know how, or the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seamscope.models.facts import Facts
from seamscope.models.reach import Reach
from seamscope.text import axes_text, far_text, needs_text


def describe(facts: Facts, reach: Reach) -> str:
    """Say in one sentence what halo a network needs, or why none helps.

    A second sentence says what else limits this.
    """
    return " ".join(_sentences(facts, reach))


def _sentences(facts: Facts, reach: Reach) -> Iterator[str]:
    if facts.noise:
        yield (
            f"This network is random: two predictions of one tile differ by {facts.noise:.2g} "
            "standard deviations, and seams cannot be smaller. `dropout=False` switches that off."
        )
    grid = axes_text(facts.period)
    steps = f" (tiles start on multiples of {grid})" if set(facts.period) != {1} else ""
    if reach.halo is not None:
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
    """Say why no halo helps."""
    if facts.statistics:
        layers = facts.statistics_sentence
        if reach.convolutional is not None:
            yield (
                f"Overlap cannot remove the seams: {layers}. The convolutions alone reach "
                f"{far_text(reach.convolutional)}{steps}."
            )
        elif facts.forward_only:
            yield (
                f"Overlap cannot remove the seams: {layers}. How far the convolutions alone reach "
                "cannot be measured of a network that runs forward only."
            )
        elif reach.at_least is not None:
            yield (
                f"Overlap cannot remove the seams: {layers}. How far the convolutions alone reach "
                f"was not measured to the end: {reach.unmeasured}."
            )
        else:
            yield (
                f"Overlap cannot remove the seams: {layers}, and the other layers see the whole "
                "tile too."
            )
    elif any(facts.learned_positions):
        yield (
            "Overlap cannot remove the seams: what the network predicts depends on the place in "
            "its tile (positions were learned for this size)."
        )
    elif reach.depends_on_size:
        yield (
            "Overlap cannot remove the seams: what the network predicts changes with the size of "
            "its tile (adaptive pooling, upsampling with aligned corners, coordinates or the like)."
        )
    elif not reach.couplings:
        yield (
            "Overlap cannot remove the seams: the network sees the whole tile (attention, global "
            "pooling or the like)."
        )
    if reach.couplings:
        several = len(reach.couplings) > 1
        yield (
            f"{'Overlap cannot remove the seams: ' if not facts.statistics else ''}"
            f"{some_names(reach.couplings)} {'see' if several else 'sees'} the whole tile."
        )
    if reach.rest is not None:
        none = not any(map(any, reach.rest))
        far = "no pixel outside the tile" if none else far_text(reach.rest)
        named = facts.statistics or reach.couplings
        layers = "All other layers" if named else "Apart from that, the layers"
        yield f"{layers} reach {far}{steps}."


def some_names(names: Sequence[str]) -> str:
    """List the first names, in words."""
    if len(names) <= 4:
        return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"{', '.join(names[:3])} and {len(names) - 3} more"


__all__ = ["describe", "some_names"]
