"""The page about a network's receptive field: its figures and numbers.

Knows which of the measures matter to a reader, their definitions, and how they are best seen. Does
not know HTML or styles (`seamscope.reports.page`), or how anything was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from seamscope import __version__
from seamscope.models.reach import PhaseFields
from seamscope.receptive_field.fields import ReceptiveField
from seamscope.receptive_field.gradient_maps import SHARES, GradientMap
from seamscope.reports.figures import name_powers
from seamscope.reports.page import INK, MUTED, SERIES, drawn_here, figure, page
from seamscope.reports.parts import Definition, Facts, Part, Section, Table, Text, Verdict
from seamscope.text import axes_text, figure_text, halo_text, percent_text
from seamscope.tiling import Sides, axis_names

_WIDTH = 7.4  # inches: the page's column of text
_DECADES = 8  # of gradient that are shown


def field_page(found: ReceptiveField, name: str, setting: Sequence[tuple[str, str]] = ()) -> str:
    """Compose the page.

    Parameters
    ----------
    found
        What was measured.
    name
        Of the network.
    setting
        Further facts about what was done: names and values.

    Returns
    -------
    str
        HTML that stands alone.

    Raises
    ------
    SettingsError
        Where what draws reports is not installed.
    """
    first, *others = found.sentences()
    word = "Seamless with a halo" if found.bounded else "Sees the whole tile"
    parts: list[Part] = [Verdict(word, first, found.bounded), *map(Text, others)]
    sections = [
        Section("Verdict", parts),
        Section("Setting", [Facts([*setting, *_facts(found)])]),
        Section("Theoretical receptive field", list(_theory(found))),
    ]
    if found.effective is not None:
        parts = list(_effect(found, found.effective.map, f"mean of {found.effective.tiles} tiles"))
        sections.append(Section("Effective receptive field", parts))
    if found.pixel is not None:
        title = f"Pixel {', '.join(map(str, _position(found.pixel)))}"
        sections.append(Section(title, list(_effect(found, found.pixel, title))))
    if found.violations:
        sections.append(Section("Sizes that break rules", [_broken_rules(found)]))
    sections.append(Section("Definitions", [*_DEFINITIONS]))
    return page(f"Receptive field of {name}", sections, lead=first)


# -- parts


def _facts(found: ReceptiveField) -> Iterator[tuple[str, str]]:
    facts = found.facts
    yield "network", str(facts)
    measured = "" if facts.period_found else " (not measured)"
    yield "period", f"{axes_text(facts.period)}{measured}"
    yield "halo", _halo(found.halo)
    yield "halo of the convolutions", _halo(found.reach.convolutional)
    if (effective := found.effective) is not None:
        yield "gradients on", f"{effective.on}, tiles of {axes_text(effective.map.values.shape)}"
        yield "tiles averaged", f"{effective.tiles}{'' if effective.steady else ' (not steady)'}"
        channel = "all together" if effective.channel is None else str(effective.channel)
        yield "output channel", channel
    if found.mass_outside is not None:
        yield "gradient beyond the convolutions", percent_text(found.mass_outside)
    yield "Seamscope", __version__


def _theory(found: ReceptiveField) -> Iterator[Part]:
    if found.couplings:
        rows = [(name,) for name in found.couplings]
        yield Table(("layer",), rows, "What couples a pixel to the whole tile.")
    if found.fields is None:
        yield Text("No operation's reach could be separated from that of the whole tile.")
        return
    whose = "the network" if found.bounded else "its convolutions, with statistics held fixed"
    reaches = [
        [name, *map(str, halo), *map(str, sides)]
        for name, halo, sides in zip(
            axis_names(len(found.fields)),
            found.reach.convolutional or (),
            found.convolutional or (),
            strict=True,
        )
    ]
    columns = ("axis", "halo before", "halo after", "field before", "field after")
    yield Table(columns, reaches, f"Pixels, of {whose}; the field is that of the worst phase.")
    if any(len(axis) > 1 for axis in found.fields):
        caption = "What an output pixel sees at each phase, in pixels from itself."
        yield figure(draw_phases(found.fields), caption)


def _effect(found: ReceptiveField, shown: GradientMap, what: str) -> Iterator[Part]:
    names = axis_names(shown.values.ndim)
    yield figure(
        draw_profiles(shown, found.fields),
        f"Gradient along each axis, all others summed ({what}), relative to its largest value. "
        "Blue lines mark how far 95, 99 and 99.9% of it lie, orange ones the theoretical field.",
    )
    yield figure(
        draw_map(shown, found.fields),
        f"Gradient with respect to each input pixel ({what}), on a logarithmic scale; dashed the "
        "theoretical receptive field, solid the box that holds 99% of the gradient.",
    )
    rows = [
        (f"{100 * share:g}%", *map(str, shown.radius(share)), str(shown.box(share)))
        for share in SHARES
    ]
    columns = ("share", *(f"radius along {n}" for n in names), "box")
    yield Table(columns, rows, "Pixels within which so much of the gradient lies.")


def _broken_rules(found: ReceptiveField) -> Table:
    rows = [
        (each.what, " ".join(each.axes), str(each.value), " or ".join(map(str, each.nearest)))
        for each in found.violations
    ]
    return Table(("size", "along", "chosen", "nearest valid"), rows)


def _position(shown: GradientMap) -> list[int]:
    starts = shown.origin or (0,) * shown.values.ndim
    return [first + start for (first, _), start in zip(shown.covered, starts, strict=True)]


def _halo(sides: Sequence[Sides] | None) -> str:
    if sides is None:
        return "none helps"
    return halo_text(sides)


_DEFINITIONS = (
    Definition(
        "Theoretical receptive field",
        "Input pixels that can change an output pixel. Measured by letting NaN flow from one end "
        "of a long input; what swallows NaN is followed by large changes instead.",
    ),
    Definition(
        "Phase",
        "Position of an output pixel modulo the network's period: the smallest shift of the input "
        "under which its prediction shifts along (Rumberger et al. 2021).",
    ),
    Definition(
        "Halo",
        "Pixels to be cut from each side of a tile's prediction when tiles start on multiples of "
        "the period; at least what any output pixel looks beyond the tile.",
    ),
    Definition(
        "Effective receptive field",
        "Absolute gradient of one output pixel with respect to all input pixels, summed over "
        "channels and averaged over tiles (Luo et al. 2016): how much they do change it.",
    ),
    Definition(
        "Gradient beyond the convolutions",
        "Share of the gradient outside the receptive field with the tile's statistics held fixed: "
        "what normalization couples over the whole tile. No halo removes it.",
    ),
)


# -- figures


@drawn_here
def draw_profiles(shown: GradientMap, fields: Sequence[PhaseFields] | None) -> Any:
    """Draw how the gradient falls off along each axis, on a logarithmic scale.

    Parameters
    ----------
    shown
        A map.
    fields
        Theoretical receptive field by phase; None where everything is seen.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = axis_names(shown.values.ndim)
    drawn, row = _panels(len(names), 3.0)
    for axis, (name, axes) in enumerate(zip(names, row, strict=True)):
        relative, lowest = _relative(shown.profile(axis))
        start = shown.covered[axis][0]
        axes.plot(np.arange(relative.size) - start, 10**relative, color=SERIES[0], lw=1.2)
        axes.set_yscale("log")
        axes.set_ylim(10**lowest, 2)
        name_powers(axes, 10**lowest, 1)
        lines = [f"{100 * share:g}%: {shown.radius(share)[axis]}" for share in SHARES]
        for share, style in zip(SHARES, ("-", "--", ":"), strict=True):
            radius = shown.radius(share)[axis]
            axes.axvspan(-radius, radius, color=SERIES[0], alpha=0.06, lw=0)
            for at in (-radius, radius):
                axes.axvline(at, color=SERIES[0], ls=style, lw=0.8)
        if fields is not None:
            before, after = shown.sides(fields)[axis]
            lines.append(f"theory: {before}/{after}")
            for edge in (-before - 0.5, after + 0.5):
                axes.axvline(edge, color=SERIES[1], lw=1)
        axes.set(xlabel=f"{name} (pixels from the output pixel)")
        axes.set_title("\n".join((", ".join(lines[:3]), *lines[3:])), fontsize=7.5)
    row[0].set_ylabel("relative gradient")
    return drawn


@drawn_here
def draw_map(shown: GradientMap, fields: Sequence[PhaseFields] | None) -> Any:
    """Draw the map, on a logarithmic scale, with the boxes of both receptive fields.

    Parameters
    ----------
    shown
        A map; in 3D it is summed along each axis in turn.
    fields
        Theoretical receptive field by phase; None where everything is seen.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = axis_names(shown.values.ndim)
    planes = [(0, 1)] if len(names) == 2 else [(1, 2), (0, 2), (0, 1)]
    if len(names) == 1:
        return draw_profiles(shown, fields)
    drawn, row = _panels(len(planes), 3.4 if len(planes) == 1 else 2.6)
    lowest = 0.0
    pictures = []
    for (down, along), axes in zip(planes, row, strict=True):
        others = tuple(a for a in range(len(names)) if a not in (down, along))
        plane = shown.values.sum(axis=others) if others else shown.values
        logarithm, reached = _relative(plane)
        lowest = min(lowest, reached)
        top, left = shown.covered[down][0], shown.covered[along][0]
        height, width = plane.shape
        extent = (-left - 0.5, width - left - 0.5, height - top - 0.5, -top - 0.5)
        picture = axes.imshow(logarithm, cmap="magma", extent=extent, interpolation="nearest")
        if fields is not None:
            sides = shown.sides(fields)
            _box(axes, sides[down], sides[along], ls="--", color="#ffffff")
        radii = shown.radius(0.99)
        _box(axes, (radii[down],) * 2, (radii[along],) * 2, ls="-", color=SERIES[5])
        axes.set(xlabel=names[along], ylabel=names[down])
        axes.grid(visible=False)
        pictures.append(picture)
    for picture in pictures:
        picture.set_clim(lowest, 0)
    bar = drawn.colorbar(pictures[0], ax=list(row), shrink=0.8)
    bar.set_label("relative gradient (power of ten)")
    return drawn


@drawn_here
def draw_phases(fields: Sequence[PhaseFields]) -> Any:
    """Draw what an output pixel sees at each phase, along each axis that has several.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = axis_names(len(fields))
    several = [(n, axis) for n, axis in zip(names, fields, strict=True) if len(axis) > 1]
    if len({axis for _, axis in several}) == 1:
        several = [(", ".join(n for n, _ in several), several[0][1])]
    drawn, row = _panels(len(several), 1.2 + 0.09 * max(len(axis) for _, axis in several))
    for (name, axis), axes in zip(several, row, strict=True):
        phases = np.arange(len(axis))
        before, after = np.array(axis).T
        axes.hlines(phases, -before - 0.5, after + 0.5, color=SERIES[0], lw=3)
        axes.axvline(0, color=INK, lw=0.8)
        for side in (-before.max() - 0.5, after.max() + 0.5):
            axes.axvline(side, color=MUTED, lw=0.8, ls="--")
        axes.set(xlabel=f"{name} (pixels from the output pixel)", ylabel="phase")
        axes.set_ylim(len(axis) - 0.4, -0.6)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_title(
            f"worst: {figure_text(before.max())} before, {figure_text(after.max())} after"
        )
    return drawn


def _relative(values: Any) -> tuple[Any, float]:
    """Power of ten relative to the largest, and the lowest worth showing."""
    part = values / values.max()
    least = math.floor(math.log10(part[part > 0].min()))
    lowest = float(max(least, -_DECADES))
    return np.log10(np.maximum(part, 10.0**lowest)), lowest


def _panels(count: int, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Drawing

    width = min(_WIDTH, 4.6 if count == 1 else _WIDTH)
    drawn = Drawing(figsize=(width, height), layout="constrained")
    (row,) = drawn.subplots(1, count, squeeze=False)
    return drawn, row


def _box(axes: Any, down: Sides, along: Sides, **style: Any) -> None:
    ys = -down[0] - 0.5, down[1] + 0.5
    xs = -along[0] - 0.5, along[1] + 0.5
    x = [xs[0], xs[1], xs[1], xs[0], xs[0]]
    y = [ys[0], ys[0], ys[1], ys[1], ys[0]]
    axes.plot(x, y, lw=1, scalex=False, scaley=False, **style)


__all__ = ["draw_map", "draw_phases", "draw_profiles", "field_page"]
