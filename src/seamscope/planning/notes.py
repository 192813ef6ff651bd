"""What a user should know of a plan, in sentences.

Knows plans, and the settings they were made of. Does not know how a plan is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seamscope.models.model import Model
from seamscope.models.sentences import caution, reach_name, why_unbounded
from seamscope.settings import Settings
from seamscope.text import axes_text, bytes_text, setting_text
from seamscope.tiling import AxisTiling, Sides, per_axis

if TYPE_CHECKING:
    from seamscope.planning.plan import Plan


def notes_on(
    plan: Plan, asked: Settings, model: Model, memory: int, kind: np.dtype[Any]
) -> Iterator[str]:
    """Yield what a user should know of a plan, one sentence or two each.

    Parameters
    ----------
    plan
        What will be done.
    asked
        Settings as the user gave them.
    model
        The network.
    memory
        Bytes that one forward pass may use.
    kind
        Type of the image's pixels.
    """
    yield from _intensity_notes(plan, asked, kind)
    yield from _postprocessing_notes(plan, model)
    yield from _tile_notes(plan, asked)
    yield from _halo_notes(plan, asked)
    if asked.seams == "auto" and plan.settings.seams == "sample" and len(plan.grid) > 1:
        cost = "each tile is then predicted with its halo, which takes longer"
        if plan.small:  # so that only memory speaks for a sample
            cost = f"this takes {bytes_text(plan.compared_bytes)} of memory"
        yield (
            "The seams of a sample of the tiles are measured. To measure every seam, choose all "
            f"(`seams='all'`): {cost}."
        )
    if plan.bytes_per_tile > memory:
        yield (
            f"One batch needs about {bytes_text(plan.bytes_per_tile)} and {bytes_text(memory)} may "
            "be used: lower the tile or the batch if memory runs out."
        )


def _postprocessing_notes(plan: Plan, model: Model) -> Iterator[str]:
    if model.postprocessing is None or not plan.settings.postprocess:
        return
    if plan.postprocessing is None:
        yield "Labels are made of the network's output, before its card's postprocessing."
        return
    part = "the area" if plan.settings.area else "the whole prediction"
    yield (
        f"After the last tile the card's postprocessing is applied ({plan.postprocessing}), with "
        f"statistics of {part}; seams are measured before it."
    )


def _tile_notes(plan: Plan, asked: Settings) -> Iterator[str]:
    if asked.tile != "auto":
        wanted = per_axis(asked.tile, plan.facts.spatial_axes, "tile")
        cut = [(n, a) for n, a in zip(wanted, plan.grid.tile_shape, strict=True) if n > a]
        for tile, actual in cut[:1]:
            yield f"Tile {tile} is larger than the image: {actual} suffices."
    names = plan.layout.spatial
    for name, axis in zip(names, plan.grid.axes, strict=True):
        lost = axis.padded - axis.size
        if lost and not any(axis.lattice.crop):
            added = "1 pixel is" if lost == 1 else f"{lost} pixels are"
            how = "reflected" if plan.settings.padding == "reflect" else "zeros"
            yield f"{added} added at the image's end along {name} ({how}), {_why_added(axis)}."
    limited = [
        (name, axis.lattice.limit)
        for name, axis in zip(names, plan.grid.axes, strict=True)
        if axis.lattice.fixed is None and not axis.lattice.covers(axis.size)
    ]
    for most in dict.fromkeys(most for _, most in limited):
        along = " and ".join(name for name, own in limited if own == most)
        yield f"Along {along} the network takes tiles of {most} px at most."
    if plan.facts.valid:
        yield (
            "The network's convolutions are valid (its output is smaller than its input): the "
            "image is padded so that the result covers all of it."
        )
    yield from _kind_notes(plan, asked)


def _why_added(axis: AxisTiling) -> str:
    """Why the image is continued at its end, as the end of a sentence."""
    lattice = axis.lattice
    if lattice.fixed is not None:
        return f"because the network takes {lattice.fixed} px only"
    if (axis.size - lattice.offset) % lattice.step:
        return f"because the network takes {lattice.sizes}"
    return (
        f"because the network's period is {lattice.increment}: seamless means equal to an untiled "
        f"prediction of {axis.padded} px, and the network may predict otherwise for {axis.size} px"
    )


def _intensity_notes(plan: Plan, asked: Settings, kind: np.dtype[Any]) -> Iterator[str]:
    """Say where intensities are not normalized though nothing says so."""
    if kind.kind in "iu" and asked.normalize == "auto" and plan.settings.normalize == "none":
        yield (
            f"Intensities are whole numbers ({kind}) and are taken as they are, since the "
            "network does not say how to normalize them. If it was trained on others, choose how "
            "(`normalize='zscore'`)."
        )


def _kind_notes(plan: Plan, asked: Settings) -> Iterator[str]:
    """What follows from the kind of values that the network predicts."""
    facts = plan.facts
    if facts.noise:
        yield (
            f"The network is random: two predictions of one tile differ by {facts.noise:.2g} "
            f"standard deviations; {facts.quieted}."
        )
    if plan.given_classes:
        mixed = ", and tiles are not blended" if asked.blend != "crop" else ""
        yield f"The network predicts classes: the result is labels{mixed}."
    thresholded = plan.settings.result == "labels" and facts.out_channels == 1
    if thresholded and facts.kind == "logits" and asked.threshold == 0.5:
        yield (
            "The network seems to predict logits: threshold 0.5 means a probability of 0.62. Use "
            "`threshold=0` for 0.5, or state `kind='probabilities'`."
        )


def _halo_notes(plan: Plan, asked: Settings) -> Iterator[str]:
    if len(plan.grid) == 1:
        return
    if plan.reach.halo is None:
        yield _why_no_halo(plan)
    if said := short_halo(plan, asked):
        yield said


def short_halo(plan: Plan, asked: Settings | None = None) -> str:
    """Say that a halo is less than the network's reach, and what to use; empty where it is not.

    Parameters
    ----------
    plan
        What is done.
    asked
        The settings as they were given; where these leave the halo at auto, tile and overlap
        limit it.
    """
    needed = plan.reach.useful
    if needed is None:
        return ""
    axes = plan.grid.axes
    short = [
        (name, axis, own, need)
        for name, axis, own, need in zip(
            plan.layout.spatial, axes, plan.grid.halo, needed, strict=True
        )
        if not axis.single and (own[0] < need[0] or own[1] < need[1])
    ]
    if not short:
        return ""
    _, _, own, need = short[0]
    bounded = reach_name(plan.reach) == "reach"
    reach = "network's reach" if bounded else reach_name(plan.reach)
    if asked is not None and asked.halo == "auto":
        found = (
            f"The {reach} is {max(need)} px. Tile and overlap leave room for a halo of "
            f"{max(own)} px along {_alike(short)}"
        )
    else:
        found = (
            f"Margin (halo) {min(own)} along {_alike(short)} is less than the {reach}, "
            f"{max(need)} px"
        )
    return f"{found}, so that neighbouring tiles may differ. {_room_for(needed, axes, asked)}"


def _room_for(needed: Sequence[Sides], axes: Sequence[AxisTiling], asked: Settings | None) -> str:
    """Say with which settings, along all axes, the halo covers a reach."""
    given = asked is not None and asked.overlap is not None
    tiles, overlaps = [], []
    for axis, need in zip(axes, needed, strict=True):
        lattice, both = axis.lattice, sum(axis.lattice.whole(need))
        least = lattice.smallest_tile(need, axis.overlap if given else 0)
        if not axis.single and not lattice.has_room(least, need):
            which = "the only" if lattice.fixed else "the largest"
            return f"Tiles of {least} px, {which} size that the network takes, have no room for it."
        tiles.append(axis.tile if axis.single else max(axis.tile, least))
        overlaps.append(axis.overlap if axis.single else max(axis.overlap, both))
    larger = tuple(tiles) != tuple(axis.tile for axis in axes)
    if asked is None or asked.halo != "auto":
        wider = f" with `tile={setting_text(tiles)}` or more" if larger else ""
        return f"Use `halo={setting_text([max(need) for need in needed])}`{wider}."
    uses = []
    if larger:
        uses.append(f"a tile of {axes_text(tiles)} px or more (`tile={setting_text(tiles)}`)")
    if given and tuple(overlaps) != tuple(axis.overlap for axis in axes):
        wide = f"`overlap={setting_text(overlaps)}`"
        uses.append(f"an overlap of {axes_text(overlaps)} px or more ({wide})")
    have = "have" if len(uses) > 1 else "has"
    return f"Use {' and '.join(uses)}, which {have} room for the reach."


def _why_no_halo(plan: Plan) -> str:
    facts, reach = plan.facts, plan.reach
    why = why_unbounded(facts, reach)
    if not why:
        return f"The reach was not measured to the end ({reach.unmeasured}): expect seams."
    if reach.alike:
        return caution(facts, reach)
    where = "In some images, expect" if reach.conditional else "Expect"
    fixed = facts.statistics and not facts.forward_only and not reach.conditional
    larger = any(
        not a.single and a.lattice.size_at_least(a.tile + 1) > a.tile for a in plan.grid.axes
    )
    remedies = ["fix the statistics (seamscope freeze)"] if fixed else []
    remedies += ["use larger tiles, which make seams fainter"] if larger else []
    remedy = ", or ".join(remedies)
    said = f" {remedy[0].upper()}{remedy[1:]}." if remedy else ""
    return f"{where} seams that no halo removes: {why}.{said}"


def _alike(short: Sequence[tuple[str, Any, Sides, Sides]]) -> str:
    """Axes whose halo and reach are those of the first one, in words."""
    _, _, own, need = short[0]
    *others, last = [name for name, _, o, n in short if (o, n) == (own, need)]
    return f"{', '.join(others)} and {last}" if others else last


__all__ = ["notes_on", "short_halo"]
