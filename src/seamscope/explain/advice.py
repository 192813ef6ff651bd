"""What to do about the seams of a run: the smallest change that removes them.

Knows the rules that lead from a plan and its seam report to one next step. Does not run anything,
and does not know windows or command lines.

The steps, in the order in which they are tried:

1. nothing, where neighbouring tiles agree;
2. a halo that covers the reach of the network, the smallest that is exact on any image;
3. where the reach has no bound but the measured curve does, the smallest halo that it shows;
4. fixed statistics, where tiles disagree because layers normalize by each tile's own;
5. blending, where the network sees the whole tile for another reason.

No step ever proposes less halo than the run had: a smaller one cannot make neighbours agree better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from seamscope.planning.plan import Plan
from seamscope.seams.report import SeamReport
from seamscope.settings import Settings
from seamscope.text import far_text, halo_text
from seamscope.tiling import Lattice, Sides, halo_sides, per_axis

Step: TypeAlias = Literal["nothing", "halo", "statistics", "blend", "explain"]

_LEAST_CORE = 4  # a tile keeps at least one part in so many; smaller cores cost too much


@dataclass(frozen=True)
class Advice:
    """One next step.

    Attributes
    ----------
    step
        What to do. ``"explain"``: look for the cause by experiments.
    why
        One or two sentences.
    button
        The step in a few words; empty where there is nothing to do.
    halo
        For the step ``"halo"``: ``(before, after)`` for each axis, input pixels. For
        ``"statistics"``: the halo that is enough once they are fixed; None where it is not known.
    tile
        Tile for that halo: pixels for each axis, or ``"auto"`` where the present tile has no room.
    """

    step: Step
    why: str
    button: str = ""
    halo: tuple[Sides, ...] | None = None
    tile: tuple[int, ...] | Literal["auto"] | None = None

    @property
    def needed(self) -> bool:
        """Whether there is something to do."""
        return self.step != "nothing"


def advise(plan: Plan, report: SeamReport | None = None) -> Advice:
    """Say what removes the seams of a plan.

    Parameters
    ----------
    plan
        Of a run that is over, or of one that is to come.
    report
        Of that run; None where nothing was measured.

    Returns
    -------
    Advice
        Its halo is nowhere less than the plan's.
    """
    if plan.tiles == 1:
        return Advice("nothing", "One tile covers the image: there are no seams.")
    if report is not None and report.measured and report.complete and report.seamless:
        return Advice("nothing", "Neighbouring tiles agree in all overlaps: there are no seams.")
    if plan.reach.halo is not None:
        return _with_reach(plan, plan.reach.halo, report)
    measured = _measured_halo(plan, report)
    if measured is not None:
        why = (
            f"In all overlaps measured, neighbouring tiles agree from margin {halo_text(measured)} "
            "on. Another image may need more."
        )
        return _halo_step(plan, measured, why)
    return _without_reach(plan)


def _with_reach(plan: Plan, reach: Sequence[Sides], report: SeamReport | None) -> Advice:
    wanted = _at_least(plan.grid.halo, reach)
    if plan.exact:
        if report is None or not report.measured or report.seamless:
            return Advice(
                "nothing",
                f"Margin (halo) {halo_text(plan.grid.halo)} covers the reach of the network: "
                "neighbouring tiles agree exactly.",
            )
        if plan.facts.noise:
            return Advice(
                "nothing",
                "The margin (halo) covers the reach of the network. The rest is chance: two "
                f"predictions of one tile differ by {plan.facts.noise:.2g} standard deviations. "
                "Switch its random layers off (`dropout=False`).",
            )
        return Advice(
            "explain",
            "The margin (halo) covers the measured reach of the network, and neighbours disagree "
            "all the same. Experiments can find the cause.",
            "Find the cause",
        )
    why = (
        f"The network looks {far_text(reach)} far, and the margin (halo) is "
        f"{halo_text(plan.grid.halo)}: the edges of tiles are predicted with pixels missing. "
        f"Margin {halo_text(wanted)} is exact on any image."
    )
    return _halo_step(plan, wanted, why)


def _halo_step(plan: Plan, halo: tuple[Sides, ...], why: str) -> Advice:
    tile = _tile_for(plan, halo)
    button = f"Set margin {halo_text(halo)} and run"
    return Advice("halo", why, button, halo, tile)


def _without_reach(plan: Plan) -> Advice:
    facts, within = plan.facts, plan.reach.convolutional
    if facts.statistics and not facts.forward_only:
        halo = None if within is None else _at_least(plan.grid.halo, within)
        why = (
            f"Overlap cannot remove these seams: {facts.statistics_sentence}. With fixed "
            "statistics, all tiles use the same numbers."
        )
        tile = None if halo is None else _tile_for(plan, halo)
        return Advice("statistics", why, "Fix statistics and run", halo, tile)
    cause = (
        "what the network predicts depends on the size of its tile"
        if plan.reach.depends_on_size
        else "the network sees the whole tile"
    )
    if plan.settings.blend != "crop":
        return Advice(
            "nothing",
            f"No margin (halo) removes these seams: {cause}. Tiles are blended already; larger "
            "tiles make what remains fainter.",
        )
    return Advice(
        "blend",
        f"No margin (halo) removes these seams: {cause}. Blending makes them fainter; it does not "
        "remove them.",
        "Choose the best blending and run",
    )


def _measured_halo(plan: Plan, report: SeamReport | None) -> tuple[Sides, ...] | None:
    """The smallest halo without seams that is not less than the present one."""
    if report is None or not report.complete:
        return None
    found = report.smallest_seamless
    return None if found is None else _at_least(plan.grid.halo, report.curve.ray.sides(found))


def _at_least(halo: Sequence[Sides], wanted: Sequence[Sides]) -> tuple[Sides, ...]:
    """The larger of both, side by side."""
    pairs = zip(halo, wanted, strict=True)
    return tuple((max(a[0], b[0]), max(a[1], b[1])) for a, b in pairs)


def _tile_for(plan: Plan, halo: Sequence[Sides]) -> tuple[int, ...] | Literal["auto"]:
    """The present tile, unless too little of it would be kept at this halo."""
    for axis, sides in zip(plan.grid.axes, halo, strict=True):
        kept = axis.tile - sum(axis.lattice.crop) - sum(axis.lattice.whole(sides))
        small = axis.tile < axis.lattice.smallest_tile(sides) or kept * _LEAST_CORE < axis.tile
        if small and not axis.single:
            return "auto"
    return plan.grid.tile_shape


def smallest_tile(
    settings: Settings, lattices: Sequence[Lattice], reach: Sequence[Sides] | None
) -> tuple[int, ...] | None:
    """The smallest tile, not smaller than the one set, that has room for the halo.

    Parameters
    ----------
    settings
        With a tile that is too small.
    lattices
        Of the network, for each axis.
    reach
        What an automatic halo is; None where it is not known.

    Returns
    -------
    tuple
        Pixels for each axis; None where the tile has room, is automatic, or nothing says how much
        room is needed.
    """
    if settings.tile == "auto":
        return None
    ndim = len(lattices)
    halo = reach if settings.halo == "auto" else halo_sides(settings.halo, ndim)
    if halo is None:
        return None
    tile = per_axis(settings.tile, ndim, "tile")
    overlap = (
        (0,) * ndim if settings.overlap is None else per_axis(settings.overlap, ndim, "overlap")
    )
    wanted = tuple(
        max(lattice.size_at_least(own), lattice.smallest_tile(sides, shared))
        for own, lattice, sides, shared in zip(tile, lattices, halo, overlap, strict=True)
    )
    return None if wanted == tile else wanted


__all__ = ["Advice", "Step", "advise", "smallest_tile"]
