"""Figures of what was measured, drawn by matplotlib for `seamscope.reports.page`.

Knows how curves, maps, shares and pictures are best seen. Does not know how they were measured, or
pages. Each function returns a `matplotlib.figure.Figure`; save it as PNG, SVG or PDF at will.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.reports.page import INK, MUTED, RULE, SERIES, drawn_here, name_text
from seamscope.text import figure_text

Array: TypeAlias = npt.NDArray[Any]

_WIDTH = 7.4  # inches: the page's column of text
_MARKERS = "osD^vPX*"
_LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))


def _figure(height: float, width: float = _WIDTH, **grid: Any) -> tuple[Any, Any]:
    """Return a figure and its axes."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.04, wspace=0.03, hspace=0.03)
    drawn = Figure(figsize=(width, height), layout=engine)
    return drawn, drawn.subplots(squeeze=False, **grid)


# -- curves


@drawn_here
def halo_curve(
    halo: Array,
    distances: Mapping[str, Array],
    mismatch: Mapping[str, Array],
    *,
    tolerance: float,
    marks: Mapping[str, float] | None = None,
    solid: int | None = None,
) -> Any:
    """Draw disagreement against halo: differences on the left, mismatch per channel on the right.

    Parameters
    ----------
    halo
        ``(H,)`` pixels.
    distances, mismatch
        Curves ``(H,)`` by name, on a logarithmic scale; what is exactly 0 is put on its floor.
    tolerance
        Distances up to this are noise: shaded.
    marks
        Halos to be marked, by name.
    solid
        From this halo on few overlaps are left to be measured: drawn pale.
    """
    drawn, ((left, right),) = _figure(3.5, ncols=2, sharex=True)
    _log_curves(left, halo, distances, solid, floor_below=tolerance)
    _log_curves(right, halo, mismatch, solid)
    bottom = left.get_ylim()[0]
    if tolerance > bottom:
        left.axhspan(bottom, tolerance, color=MUTED, alpha=0.13, lw=0)
        left.annotate(
            "noise", (0.01, tolerance), xycoords=("axes fraction", "data"), xytext=(2, -2),
            textcoords="offset points", va="top", color=MUTED, fontsize=8,
        )  # fmt: skip
    left.set(xlabel="halo (pixels)", title="difference of the predictions")
    right.set(xlabel="halo (pixels)", title="tile mismatch, 1 − Dice")
    for axes in (left, right):
        axes.set_xlim(0, max(1, int(halo[-1]) if len(halo) else 1))
    _mark(left, right, marks or {})
    _legend_below(left)
    _legend_below(right)
    return drawn


def _legend_below(axes: Any) -> None:
    """Explain lines below the panel, where they hide nothing."""
    lines, names = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, names), default=0) > 14 else 3
    axes.legend(
        lines, names, loc="upper left", bbox_to_anchor=(-0.02, -0.2), ncols=columns,
        handlelength=2.2, columnspacing=1.2, borderaxespad=0,
    )  # fmt: skip


def _log_curves(
    axes: Any,
    x: Array,
    curves: Mapping[str, Array],
    solid: int | None,
    floor_below: float = 0.0,
) -> None:
    """Draw curves on a logarithmic scale whose lowest tick is 0, where a curve gets there."""
    values = [np.asarray(y, float) for y in curves.values()]
    positive = np.concatenate([v[np.isfinite(v) & (v > 0)] for v in values] or [np.ones(1)])
    high = float(positive.max(initial=1e-6))
    low = min(float(positive.min(initial=high)), floor_below / 3 if floor_below > 0 else high)
    low = max(low, high * 1e-9)
    reaches_zero = any((value < low).any() for value in values)
    floor = 10 ** (math.log10(low) - 0.7) if reaches_zero else low / 1.6
    cut = len(x) if solid is None else solid
    for k, (name, value) in enumerate(zip(curves, values, strict=True)):
        shown = np.where(value < low, floor, value)
        style: Any = {"color": SERIES[k % len(SERIES)], "linestyle": _LINES[k % len(_LINES)]}
        axes.plot(x[:cut], shown[:cut], label=name_text(name), clip_on=False, **style)
        axes.plot(x[cut - 1 :], shown[cut - 1 :], clip_on=False, alpha=0.35, **style)
    axes.set_yscale("log")
    axes.set_ylim(floor, high * 2)
    name_powers(axes, low, high, floor if reaches_zero else None)


def name_powers(axes: Any, low: float, high: float, zero: float | None = None) -> None:
    """Name a few powers of ten along y, and 0 where the logarithmic scale is made to begin.

    Without it matplotlib names them by formulas, which these figures show as they are written.
    """
    first, last = math.ceil(math.log10(low) - 0.2), math.floor(math.log10(high * 2))
    step = max(1, -(-(last - first) // 6))
    powers = [10.0**p for p in range(last, first - 1, -step)]
    ticks = powers if len(powers) > 2 else _round_numbers(low, high * 2)
    names = [_power(round(math.log10(v))) if v in powers else figure_text(v, 1) for v in ticks]
    if zero is not None:
        ticks, names = [zero, *ticks], ["0", *names]
    axes.set_yticks(ticks, names)
    axes.yaxis.set_minor_locator(_no_ticks())


def _round_numbers(low: float, high: float) -> list[float]:
    """Powers of ten, and twice and five times those, within a range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    return [n for n in numbers if low * 0.999 <= n <= high * 1.001]


def _power(exponent: int) -> str:
    return f"{10.0**exponent:g}" if -4 < exponent < 4 else f"1e{exponent}"


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _mark(left: Any, right: Any, marks: Mapping[str, float]) -> None:
    """Draw vertical lines through both panels, named above the right one's frame."""
    furthest = 2.5 * left.get_xlim()[1]  # beyond, a mark would squeeze the curve
    for k, (name, at) in enumerate(sorted(marks.items(), key=lambda mark: mark[1])):
        if at > furthest:
            left.plot([], [], " ", label=f"({name_text(name)} {at:g})")
            continue
        line: Any = {"color": INK, "lw": 1, "ls": _LINES[k % len(_LINES)]}
        for axes in (left, right):
            low, high = axes.get_xlim()
            axes.set_xlim(low, max(high, at * 1.04))
        left.axvline(at, label=f"{name_text(name)} {at:g}", **line)
        right.axvline(at, **line)


# -- maps over the image


@drawn_here
def seam_maps(
    image: Array,
    seams: Sequence[tuple[Sequence[tuple[float, float]], float]],
    tiles: Array,
    edges: tuple[Array, Array],
    *,
    tolerance: float,
    unit: str = "max difference",
) -> Any:
    """Draw seams over the image: each seam, and each tile, coloured by its disagreement.

    Parameters
    ----------
    image
        ``(Y, X)``, at any resolution.
    seams
        Each a line, its two ends as ``(y, x)``, and its value.
    tiles
        ``(rows, columns)`` values of tiles, NaN where unknown.
    edges
        Where tiles' cores meet along y and x: ``rows + 1`` and ``columns + 1`` pixels.
    tolerance
        What is not above it is left pale.
    unit
        Of the values.
    """
    from matplotlib.collections import LineCollection

    ys, xs = edges
    aspect = float((ys[-1] - ys[0]) / max(xs[-1] - xs[0], 1))
    height = min(max(2.95 * aspect, 1.4), 5.0) + 0.4
    drawn, ((left, right),) = _figure(height, ncols=2)
    extent = (xs[0], xs[-1], ys[-1], ys[0])
    values = np.array([value for _, value in seams] or [0.0])
    scale = _color_scale(np.concatenate([values, np.ravel(tiles)]), tolerance)
    colors = _sequential()
    for axes in (left, right):
        axes.imshow(_gray(image), cmap="gray", extent=extent, interpolation="antialiased")
        _no_frame(axes)
    lines = [[(x, y) for y, x in line] for line, _ in seams]
    left.add_collection(
        LineCollection(lines, array=values, cmap=colors, norm=scale, linewidths=_thickness(tiles))
    )
    shown = right.pcolormesh(xs, ys, tiles, cmap=colors, norm=scale, alpha=0.72, linewidth=0)
    shown.set_rasterized(True)
    left.set_title("each seam")
    right.set_title("each tile: mean over its seams")
    for axes in (left, right):
        axes.set(xlim=extent[:2], ylim=extent[2:])
    bar = drawn.colorbar(
        shown, ax=[left, right], shrink=0.85, pad=0.015, fraction=0.04, ticks=_color_ticks(scale),
        format=lambda value, place: figure_text(value, 1) if value >= 1e-3 else f"{value:.0e}",
    )  # fmt: skip
    bar.ax.yaxis.set_minor_locator(_no_ticks())
    bar.set_label(unit)
    bar.outline.set_visible(False)
    bar.solids.set_alpha(1)
    return drawn


def _thickness(tiles: Array) -> float:
    """Width of seams' lines: thinner where there are many."""
    return float(np.clip(24 / math.sqrt(max(tiles.size, 1)), 0.8, 4))


def _color_scale(values: Array, tolerance: float) -> Any:
    """Logarithmic from the tolerance, or from where values begin, to the largest value."""
    from matplotlib.colors import LogNorm

    known = values[np.isfinite(values) & (values > 0)]
    high = float(known.max(initial=0))
    if high <= tolerance or high == 0:
        return LogNorm(tolerance or 1e-12, 10 * (tolerance or 1e-12), clip=True)
    least = float(np.percentile(known, 2)) / 2
    return LogNorm(max(tolerance, high * 1e-5, min(least, high / 10)), high, clip=True)


def _color_ticks(scale: Any) -> list[float]:
    """Powers of ten within a scale, and twice and five times those where it is short."""
    numbers = _round_numbers(scale.vmin, scale.vmax)
    if math.log10(scale.vmax / scale.vmin) < 2:
        return numbers
    return [n for n in numbers if math.log10(n).is_integer()]


def _sequential() -> Any:
    from matplotlib import colormaps

    return colormaps["inferno"].copy()


def _gray(image: Array) -> Array:
    """Image between its 1st and 99.5th percentile, 0 to 1."""
    values = np.asarray(image, np.float64)
    known = values[np.isfinite(values)]
    if known.size == 0:
        return np.zeros(values.shape)
    low, high = np.percentile(known, [1, 99.5])
    return np.asarray(np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-12), 0, 1))


def _no_frame(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


# -- pictures


@drawn_here
def opinions(
    pairs: Sequence[tuple[str, Array, Array, Array]], seams: Sequence[tuple[str, float]]
) -> Any:
    """Draw what two tiles say of the same place, and how they differ.

    Parameters
    ----------
    pairs
        Name, image, first and second opinion, ``(Y, X)`` each, of a few seams.
    seams
        For each pair the axis (``"y"`` or ``"x"``) that its seam crosses, and where in the picture.
    """
    count = len(pairs)
    drawn, rows = _figure(1.75 * count + 0.65, nrows=count + 1, ncols=4,
                          height_ratios=[*(1,) * count, 0.055])  # fmt: skip
    limits = _limits(np.concatenate([np.ravel(x) for _, _, *both in pairs for x in both]))
    largest = max(float(np.nanmax(np.abs(a - b), initial=0)) for _, _, a, b in pairs) or 1.0
    for (name, image, one, two), (axis, at), row in zip(pairs, seams, rows[:count], strict=True):
        row[0].imshow(_gray(image), cmap="gray")
        shown = [
            each.imshow(x, cmap="gray", **limits)
            for each, x in zip(row[1:3], (one, two), strict=True)
        ]
        apart = row[3].imshow(np.abs(one - two), cmap=_sequential(), vmin=0, vmax=largest)
        for axes in row:
            _no_frame(axes)
            line = axes.axhline if axis == "y" else axes.axvline
            line(at - 0.5, color="#ffffff", lw=0.7, ls=(0, (3, 3)), alpha=0.85)
        row[0].set_ylabel(name_text(name), fontsize=8)
    for axes, title in zip(rows[0], ("image", "tile A", "tile B", "difference"), strict=True):
        axes.set_title(title)
    rows[count, 0].set_visible(False)
    rows[count, 2].set_visible(False)
    _lying_bar(drawn, shown[0], rows[count, 1], "prediction")
    _lying_bar(drawn, apart, rows[count, 3], "|A − B|")
    return drawn


def _lying_bar(drawn: Any, shown: Any, axes: Any, label: str) -> None:
    """Fill axes with the key of colours."""
    bar = drawn.colorbar(shown, cax=axes, orientation="horizontal")
    bar.set_label(label, fontsize=8)
    axes.tick_params(labelsize=7)
    bar.outline.set_visible(False)


def _limits(values: Array) -> dict[str, float]:
    """Range to draw a prediction in: that of probabilities, where it is one."""
    known = values[np.isfinite(values)]
    low, high = float(known.min(initial=0)), float(known.max(initial=0))
    if low >= -1e-3 and high <= 1.001:
        return {"vmin": 0.0, "vmax": 1.0}
    return {"vmin": low, "vmax": high}


# -- false splits


@drawn_here
def displaced_changes(profiles: Mapping[str, Array]) -> Any:
    """Draw label changes per line against the displacement of the grid.

    Parameters
    ----------
    profiles
        For each axis ``(stride,)``: pixels per line of the grid displaced by 0, 1 ... pixels.
    """
    drawn, ((*row,),) = _figure(2.4, ncols=len(profiles), sharey=True)
    for axes, (letter, values) in zip(row, profiles.items(), strict=True):
        half = len(values) // 2
        shifts = np.arange(len(values)) - half
        axes.plot(shifts, np.roll(values, half), color=SERIES[0], lw=1.2)
        axes.plot([0], values[:1], "o", color=SERIES[1], ms=6)
        axes.annotate("seams", (0, values[0]), xytext=(7, -3), textcoords="offset points",
                      fontsize=8, color=SERIES[1])  # fmt: skip
        axes.set(title=f"lines across {letter}", xlabel="displacement (pixels)")
        axes.set_ylim(bottom=0)
    row[0].set_ylabel("label changes (px per line)")
    return drawn


@drawn_here
def split_pictures(
    names: Sequence[str], rows: Sequence[Mapping[str, Array]], seams: Sequence[tuple[str, float]]
) -> Any:
    """Draw pairs of objects, one in a row.

    Parameters
    ----------
    names
        Of the rows.
    rows
        For each row its pictures by title: labels ``(Y, X)`` of whole numbers, in which the pair
        is 1 and 2, others are 3, and background is 0; others are drawn as intensities.
    seams
        For each row the axis (``"y"`` or ``"x"``) that its seam crosses, and where.
    """
    titles = list(rows[0])
    drawn, grid = _figure(1.3 * len(rows) + 0.3, nrows=len(rows), ncols=len(titles), width=_WIDTH)
    for name, pictures, (axis, at), line in zip(names, rows, seams, grid, strict=True):
        for axes, (title, values) in zip(line, pictures.items(), strict=True):
            if values.dtype.kind in "iu":
                axes.imshow(_pair_colors(values), interpolation="nearest")
            elif title == "image":
                axes.imshow(_gray(values), cmap="gray", interpolation="nearest")
            else:
                axes.imshow(values, cmap="gray", interpolation="nearest", **_limits(values))
                axes.set_facecolor(RULE)  # outside the tile
            _no_frame(axes)
            draw = axes.axhline if axis == "y" else axes.axvline
            dark = values.dtype.kind not in "iu"
            draw(at - 0.5, color="#ffffff" if dark else INK, lw=0.7, ls=(0, (3, 3)))
        line[0].set_ylabel(name_text(name), fontsize=7)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8)
    return drawn


def _pair_colors(labels: Array) -> Array:
    """Colours of a picture with the pair 1 and 2, other objects 3, and background 0."""
    palette = [(1.0, 1.0, 1.0), _rgb(SERIES[0]), _rgb(SERIES[1]), (0.8, 0.82, 0.84)]
    return np.asarray(palette)[labels]


def _rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[k : k + 2], 16) / 255 for k in (1, 3, 5))


# -- causes


@drawn_here
def shares(causes: Mapping[str, float]) -> Any:
    """Draw the share of each cause, 0 to 1."""
    names = [name for name, share in causes.items() if share > 0] or list(causes)
    drawn, ((axes,),) = _figure(0.34 * len(names) + 0.5)
    places = np.arange(len(names))[::-1]
    values = [100 * causes[name] for name in names]
    axes.barh(places, values, height=0.62, color=SERIES[: len(names)])
    axes.set_yticks(places, [name_text(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    for place, value in zip(places, values, strict=True):
        axes.annotate(f"{value:.0f}%", (value, place), xytext=(4, 0), textcoords="offset points",
                      va="center")  # fmt: skip
    axes.set_xlim(0, 110)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_xlabel("share of the disagreement (%)")
    return drawn


# -- sizes of tiles


@drawn_here
def size_curves(
    names: Sequence[str],
    panels: Sequence[tuple[str, Mapping[str, tuple[Array, Array, Array]]]],
) -> Any:
    """Draw measures against the size of the tiles, with confidence bands.

    Parameters
    ----------
    names
        Of the sizes, from small to large.
    panels
        Title, and by channel value, low and high ``(sizes,)``.
    """
    drawn, ((*row,),) = _figure(3.4, ncols=len(panels), width=_WIDTH if len(panels) > 1 else 4.6)
    x = np.arange(len(names))
    for axes, (title, curves) in zip(row, panels, strict=True):
        for k, (name, (value, low, high)) in enumerate(curves.items()):
            color = SERIES[k % len(SERIES)]
            axes.fill_between(x, low, high, color=color, alpha=0.17, lw=0)
            axes.plot(x, value, color=color, marker=_MARKERS[k % len(_MARKERS)], ms=4.5,
                      label=name_text(name), linestyle=_LINES[k % len(_LINES)])  # fmt: skip
        axes.set_xticks(x, [_broken(name) for name in names])
        axes.set(title=title, xlabel="tile (pixels)")
        axes.set_xlim(-0.25, len(names) - 0.75)
        axes.grid(axis="x", visible=False)
        _legend_below(axes)
    return drawn


def _broken(name: str) -> str:
    return name.replace(" x ", "\n× ")


@drawn_here
def mismatch_matrix(names: Sequence[str], panels: Sequence[tuple[str, Array]]) -> Any:
    """Draw how each prediction differs from each other.

    Parameters
    ----------
    names
        Of the predictions.
    panels
        Name of the channel, and ``(sizes, sizes)`` values.
    """
    columns = min(len(panels), 4 if len(names) < 4 else 2)
    rows = -(-len(panels) // columns)
    size = min(2.6, _WIDTH / columns)
    drawn, grid = _figure(rows * (size + 0.35), size * columns + 0.8, nrows=rows, ncols=columns)
    high = 100 * max(float(np.nanmax(values)) for _, values in panels) or 1.0
    for axes in grid.ravel()[len(panels) :]:
        axes.set_visible(False)
    for k, (axes, (title, values)) in enumerate(zip(grid.ravel(), panels, strict=False)):
        percent = 100 * values
        shown = axes.imshow(percent, cmap="cividis", vmin=0, vmax=high)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        ticks = range(len(names))
        axes.set_xticks(ticks, [_broken(n) for n in names], rotation=45, ha="right", fontsize=7)
        axes.set_yticks(ticks, names if k % columns == 0 else [""] * len(names), fontsize=7)
        axes.set_title(name_text(title))
        for (i, j), value in np.ndenumerate(percent):
            axes.annotate(
                figure_text(float(value), 2), (j, i), ha="center", va="center",
                fontsize=max(4.5, 7.5 - 0.5 * max(0, len(names) - 4)),
                color="#ffffff" if value < 0.55 * high else "#101316",
            )  # fmt: skip
    bar = drawn.colorbar(shown, ax=grid.ravel().tolist(), shrink=0.8, pad=0.015)
    bar.set_label("mismatch, 1 − Dice (%)")
    bar.outline.set_visible(False)
    return drawn


@drawn_here
def small_multiples(
    names: Sequence[str], image: Array, predictions: Array, labels: Array | None = None
) -> Any:
    """Draw the same place in all predictions, and below how each differs from the last.

    Parameters
    ----------
    names
        Of the predictions.
    image, labels
        ``(Y, X)``; labels may be missing.
    predictions
        ``(sizes, Y, X)``.
    """
    columns = len(names) + 1
    aspect = predictions.shape[1] / predictions.shape[2]
    height = 2 * (_WIDTH - 0.9) / columns * aspect + 0.75
    drawn, (top, bottom) = _figure(height, nrows=2, ncols=columns)
    for axes in (*top, *bottom):
        _no_frame(axes)
    top[0].imshow(_gray(image), cmap="gray")
    top[0].set_title("image")
    if labels is None:
        bottom[0].set_visible(False)
    else:
        bottom[0].imshow(labels, cmap="gray", vmin=0, vmax=1)
        bottom[0].set_title("labels")
    limits = _limits(predictions)
    apart = np.abs(predictions - predictions[-1])
    largest = float(np.nanmax(apart)) or 1.0
    last = len(names) - 1
    for k, (name, upper, lower) in enumerate(zip(names, top[1:], bottom[1:], strict=True)):
        shown = upper.imshow(predictions[k], cmap="gray", **limits)
        upper.set_title(name_text(name, 20))
        if k < last:
            different = lower.imshow(apart[k], cmap=_sequential(), vmin=0, vmax=largest)
            lower.set_title(f"|{name_text(name, 12)} − {name_text(names[last], 12)}|", fontsize=7)
        else:
            lower.set_visible(False)
    _side_bar(drawn, shown, top.tolist(), "prediction")
    _side_bar(drawn, different, bottom.tolist(), "difference")
    return drawn


def _side_bar(drawn: Any, shown: Any, axes: Sequence[Any], label: str) -> None:
    bar = drawn.colorbar(shown, ax=list(axes), shrink=0.9, aspect=16, pad=0.01)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


@drawn_here
def content_strips(
    names: Sequence[str], features: Sequence[str], values: Sequence[Array], whole: Array
) -> Any:
    """Draw what each tile contains as a point, by the size of the tiles (a strip plot).

    Parameters
    ----------
    names
        Of the sizes, from small to large.
    features
        Names of what is measured, ``K``.
    values
        For each size ``(tiles, K)``.
    whole
        ``(K,)`` of the whole image: a dashed line.
    """
    columns = min(len(features), 2)
    rows = -(-len(features) // columns)
    width = _WIDTH if columns > 1 else 4.6
    drawn, grid = _figure(2.3 * rows + 0.2, width, nrows=rows, ncols=columns)
    chance = np.random.default_rng(0)
    for axes in grid.ravel()[len(features) :]:
        axes.set_visible(False)
    for k, (axes, feature) in enumerate(zip(grid.ravel(), features, strict=False)):
        for x, each in enumerate(values):
            y = each[:, k]
            jitter = chance.uniform(-0.32, 0.32, len(y))
            axes.plot(
                x + jitter, y, ".", color=SERIES[k % len(SERIES)], ms=4, mew=0,
                alpha=float(np.clip(8 / math.sqrt(max(len(y), 1)), 0.12, 0.8)), rasterized=True,
            )  # fmt: skip
        axes.axhline(whole[k], color=INK, lw=1, ls=(0, (4, 2)))
        axes.annotate("whole\nimage", (1, whole[k]), xycoords=("axes fraction", "data"),
                      xytext=(3, 0), textcoords="offset points", va="center", fontsize=7,
                      color=INK, annotation_clip=False)  # fmt: skip
        axes.set_xticks(range(len(names)), [_broken(name) for name in names])
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set(title=name_text(feature), xlabel="tile (pixels)")
        axes.grid(axis="x", visible=False)
    return drawn


__all__ = [
    "content_strips",
    "halo_curve",
    "mismatch_matrix",
    "name_powers",
    "opinions",
    "seam_maps",
    "shares",
    "size_curves",
    "small_multiples",
]
