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

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from seamscope.errors import SettingsError
from seamscope.models.sentences import caution
from seamscope.planning.plan import Plan
from seamscope.seams.report import SeamReport
from seamscope.settings import Settings
from seamscope.text import at_halo_text, axes_text, halo_text, needs_text
from seamscope.tiling import AxisTiling, Lattice, Sides, TileGrid, halo_sides, per_axis

Step: TypeAlias = Literal["nothing", "halo", "statistics", "blend", "explain"]

_MOST_COMPUTED = 4  # times that a pixel is computed; where it is more, larger tiles are cheaper


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
        Tile for that halo: pixels for each axis, or ``"auto"``.
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


def advise(plan: Plan, report: SeamReport | None = None, asked: Settings | None = None) -> Advice:
    """Say what removes the seams of a plan.

    Parameters
    ----------
    plan
        Of a run that is over, or of one that is to come.
    report
        Of that run; None where nothing was measured.
    asked
        Settings as the user chose them: an automatic tile stays automatic. Without them the tile
        of the plan is taken for chosen.

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
        return _with_reach(plan, plan.reach.halo, report, asked)
    if plan.reach.rest is not None and (plan.reach.alike or plan.reach.conditional):
        wanted = _at_least(plan.grid.halo, plan.reach.rest)
        if wanted != plan.grid.halo:
            known = caution(plan.facts, plan.reach)
            covers = f"Margin {halo_text(wanted)} covers what other layers reach. {known}"
            return _halo_step(plan, wanted, covers, asked)
        if plan.reach.alike:
            return Advice("nothing", caution(plan.facts, plan.reach))
    measured = _measured_halo(plan, report)
    if measured is not None:
        why = (
            f"In all overlaps measured, neighbouring tiles agree from margin {halo_text(measured)} "
            "on. Another image may need more."
        )
        return _halo_step(plan, measured, why, asked)
    return _without_reach(plan, asked)


def _with_reach(
    plan: Plan, reach: Sequence[Sides], report: SeamReport | None, asked: Settings | None
) -> Advice:
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
        f"The network {needs_text(reach)}, and the margin (halo) is "
        f"{halo_text(plan.grid.halo)}: the edges of tiles are predicted with pixels missing. "
        f"Margin {halo_text(wanted)} is exact on any image."
    )
    return _halo_step(plan, wanted, why, asked)


def _halo_step(plan: Plan, halo: tuple[Sides, ...], why: str, asked: Settings | None) -> Advice:
    tile = _tile_for(plan, halo, asked)
    set_too, cost = _about_tile(plan, halo, tile)
    button = f"Set margin {halo_text(halo)}{set_too} and run"
    return Advice("halo", why + cost, button, halo, tile)


def _without_reach(plan: Plan, asked: Settings | None) -> Advice:
    facts, within = plan.facts, plan.reach.convolutional
    if facts.statistics and not facts.forward_only:
        halo = None if within is None else _at_least(plan.grid.halo, within)
        why = (
            f"Overlap cannot remove these seams: {facts.statistics_sentence}. With fixed "
            "statistics, all tiles use the same numbers."
        )
        if halo is None:
            return Advice("statistics", why, "Fix statistics and run")
        tile = _tile_for(plan, halo, asked)
        set_too, cost = _about_tile(plan, halo, tile)
        button = f"Fix statistics{set_too} and run"
        return Advice("statistics", why + cost, button, halo, tile)
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


def _tile_for(
    plan: Plan, halo: Sequence[Sides], asked: Settings | None
) -> tuple[int, ...] | Literal["auto"]:
    """The present tile, doubled until few pixels are computed often; automatic if it was so."""
    if asked is not None and asked.tile == "auto":
        return "auto"
    tile = plan.grid.tile_shape
    while _computed(plan, halo, tile) > _MOST_COMPUTED:
        larger = tuple(map(_doubled, plan.grid.axes, tile))
        if larger == tile:
            return tile
        tile = larger
    needed = plan.bytes_per_tile * math.prod(tile) / math.prod(plan.grid.tile_shape)
    most = plan.settings.memory
    return "auto" if most is not None and needed > most else tile


def _computed(plan: Plan, halo: Sequence[Sides], tile: Sequence[int]) -> float:
    """Pixels computed for each pixel of the image; infinite where the tile has no room."""
    sizes = plan.grid.image_shape
    lattices = [axis.lattice for axis in plan.grid.axes]
    try:
        grid = TileGrid.regular(sizes, tile, halo, None, lattices)
    except SettingsError:
        return math.inf
    return len(grid) * math.prod(tile) / math.prod(sizes)


def _doubled(axis: AxisTiling, tile: int) -> int:
    """Twice the tile, or what covers the image along the axis."""
    whole = axis.lattice.size_at_least(axis.size + sum(axis.lattice.crop))
    return max(tile, min(axis.lattice.size_at_least(2 * tile), whole))


def _about_tile(
    plan: Plan, halo: Sequence[Sides], tile: tuple[int, ...] | Literal["auto"]
) -> tuple[str, str]:
    """What a button and a sentence say of a larger tile; nothing where it stays."""
    present = plan.grid.tile_shape
    if isinstance(tile, str) or tile == present:
        return "", ""
    shown, own = axes_text(tile), axes_text(present)
    before, after = (_computed(plan, halo, each) for each in (present, tile))
    if math.isinf(before):
        cost = f" Tile {own} has no room for {at_halo_text(halo)}; tile {shown} has."
    else:
        cost = (
            f" With tile {own} every pixel would be computed about {before:.2g} times, with tile "
            f"{shown} about {after:.2g} times."
        )
    return f", tile {shown}", cost


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
