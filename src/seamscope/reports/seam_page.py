"""The page of ``seamscope seams``, of sweeps and of certificates.

Knows which measures matter to a reader, their definitions and formulas. Does not know HTML or
drawing (`seamscope.reports.page`, `seamscope.reports.figures`), or how anything was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope import __version__
from seamscope.compare.tile_content import Content
from seamscope.compare.tile_sizes import Sweep
from seamscope.reports import figures
from seamscope.reports.describe import MAX, MEAN, describe, tiles_of, worst_seams
from seamscope.reports.page import figure, page
from seamscope.reports.parts import Definition, Facts, Figure, Part, Section, Table, Text
from seamscope.seams.heatmaps import tile_values
from seamscope.seams.measures import SeamCurve
from seamscope.seams.report import SeamReport
from seamscope.text import far_text, figure_text, pixels_text, shape_text

if TYPE_CHECKING:
    from seamscope.compare.certificate import Certificate
    from seamscope.explain.causes import Diagnosis
    from seamscope.seams.views import SeamView

Array: TypeAlias = npt.NDArray[Any]

_MOST_SEAMS = 12  # in the table of the worst


# -- pages


def seam_page(
    report: SeamReport,
    image: Array,
    *,
    views: Sequence[SeamView] = (),
    diagnosis: Diagnosis | None = None,
    certificate: Certificate | None = None,
    sweep: Sweep | None = None,
    content: Content | None = None,
    setting: Sequence[tuple[str, str]] = (),
    reach: Mapping[str, float] | None = None,
) -> str:
    """Compose the page of a run's seams.

    Parameters
    ----------
    report
        What was measured.
    image
        ``(Y, X)``, the image at any resolution (`seamscope.planning.thumbnails.thumbnail`).
    views
        Of the worst seams (`seamscope.seams.views.look_at`).
    diagnosis, certificate, sweep, content
        Shown if given.
    setting
        Further facts about what was done: names and values.
    reach
        Halos to be marked on the curve, by name: the theoretical and effective reach.

    Returns
    -------
    str
        HTML that stands alone.

    Raises
    ------
    SettingsError
        Where what draws reports is not installed.
    """
    sections = [_verdict(report, diagnosis), _setting(report, setting)]
    if report.measured:
        sections += [_figures(report), _curve(report, reach or {})]
        flat = len(report.plan.grid.axes) > 1  # a line has no map
        sections += [_maps(report, image)] if flat else []
        sections += [_worst(report, views)] if report.seams else []
    if diagnosis is not None and diagnosis.seams:
        sections.append(_causes(diagnosis))
    if certificate is not None:
        sections.append(certificate_section(certificate))
    if sweep is not None:
        sections += sweep_sections(sweep)
    if content is not None:
        sections.append(content_section(content))
    sections.append(seam_definitions(report))
    lead = "" if diagnosis is None else report.sentence()
    return page(f"Tile seams of {report.model_name}", sections, lead)


def sweep_page(sweep: Sweep, content: Content | None, setting: Sequence[tuple[str, str]]) -> str:
    """Compose the page of a sweep over tile sizes; parameters as for `seam_page`."""
    sections = [Section("Setting", [Facts([*setting, *_sweep_facts(sweep)])])]
    sections += _sweep_sections(sweep)
    if content is not None:
        sections.append(content_section(content))
    sections.append(Section("Definitions", [_MISMATCH, *_SWEEP_DEFINITIONS]))
    return page("How much the size of the tiles matters", sections, lead=sweep.describe())


def certificate_page(certificate: Certificate, image: str) -> str:
    """Compose the page of a certificate alone, of the image of this name."""
    sections = [certificate_section(certificate), Section("Setting", [Facts([("image", image)])])]
    return page(f"Certificate of {certificate.model}", sections)


# -- a run's seams


def _verdict(report: SeamReport, diagnosis: Diagnosis | None) -> Section:
    return Section("Verdict", describe(report if diagnosis is None else diagnosis)[:1])


def _setting(report: SeamReport, setting: Sequence[tuple[str, str]]) -> Section:
    plan = report.plan
    rows = [
        *setting,
        ("image", f"{shape_text(plan.image_shape)} px ({plan.layout.axes})"),
        ("network", f"{report.model_name}, {plan.facts}"),
        *tiles_of(plan),
        ("period of the network", f"{shape_text(plan.facts.period)} px"),
        ("intensities", f"{plan.settings.normalize}, of the whole image"),
        ("computed with", f"{plan.settings.device}, {plan.settings.precision}"),
        ("tiles", f"{report.tiles:,}"),
        ("compared as", report.kind),
        ("made by", f"Seamscope {__version__}"),
    ]
    return Section("Setting", [Facts(rows)])


def _figures(report: SeamReport) -> Section:
    return Section("Measures", describe(report)[1:])


def _curve(report: SeamReport, reach: Mapping[str, float]) -> Section:
    curve = report.curve
    used = max(max(sides) for sides in report.plan.grid.halo)
    marks = {"used": float(used), **reach}
    if report.smallest_seamless is not None:
        marks["seamless from"] = float(report.smallest_seamless)
    solid = int(np.count_nonzero(curve.share >= 0.5))
    drawn = figures.halo_curve(
        curve.halo,
        {"largest": curve.max_dist, "mean": curve.mean_dist},
        {name: curve.soft[:, k] for k, name in enumerate(report.channels)},
        tolerance=report.tolerance,
        marks=marks,
        solid=solid if solid < len(curve.halo) else None,
    )
    caption = (
        "Disagreement at every halo, from one pass over all overlaps. Left: largest and mean "
        f"difference; below {figure_text(report.tolerance)} it is floating-point noise. Right: "
        "tile mismatch of each channel. What falls with the halo are edge effects; a floor that "
        "stays is not removed by any halo."
    )
    if solid < len(curve.halo):
        caption += (
            f" Pale from {pixels_text(solid)} on: fewer than half of the overlaps reach there."
        )
    parts: list[Part] = [figure(drawn, caption), _curve_table(curve, report.channels)]
    return Section("Halo", parts)


def _curve_table(curve: SeamCurve, channels: Sequence[str]) -> Table:
    """A dozen rows of the curve, evenly chosen, as far as the curve is not 0."""
    left = np.flatnonzero(curve.max_dist > 0)
    chosen = _some(min(len(curve.halo), int(left[-1]) + 2 if left.size else 1), 12)
    rows = [
        [
            str(int(curve.halo[h])),
            figure_text(float(curve.max_dist[h])),
            figure_text(float(curve.mean_dist[h])),
            *(figure_text(float(v)) for v in curve.soft[h]),
        ]
        for h in chosen
    ]
    columns = ["halo", MAX, MEAN, *(f"mismatch, {name}" for name in channels)]
    return Table(columns, rows, "The curve in numbers; all of it is in the JSON.")


def _maps(report: SeamReport, image: Array) -> Section:
    axes = report.plan.grid.axes
    distances = {frame: table[..., 0].astype(np.float64) for frame, table in report.tables.items()}
    frame = max(distances, key=lambda frame: np.nan_to_num(distances[frame], nan=-1).max())
    tiles, values = tile_values(distances[frame]), distances[frame][-2:]
    while tiles.ndim > 2:  # the worst along z
        tiles, values = _largest(tiles, 0), _largest(values, 1)
    rows, columns = ([(t.core[0], t.core[1]) for t in axis] for axis in axes[-2:])
    drawn = figures.seam_maps(
        image,
        list(_lines(values, rows, columns)),
        tiles,
        (_edges(rows), _edges(columns)),
        tolerance=report.tolerance,
        unit="max difference (seams), mean of it (tiles)",
    )
    where = f" Frame {', '.join(map(str, frame))}." if frame else ""
    where += " The largest along z." if len(axes) > 2 else ""
    caption = (
        "Where neighbouring tiles disagree. Left: each seam, coloured by the max difference in "
        f"its overlap. Right: each tile, by the mean over its seams.{where}"
    )
    return Section("Where the seams are", [figure(drawn, caption)])


def _largest(values: Array, axis: int) -> Array:
    """Largest along an axis, ignoring what is not known."""
    known = np.isfinite(values)
    largest = np.where(known, values, -np.inf).max(axis)
    return np.where(known.any(axis), largest, np.nan)


def _lines(values: Array, rows: Any, columns: Any) -> Any:
    """Seams as lines ``((y, x), (y, x)), value``; `values` is ``(2, rows, columns)``."""
    for (axis, i, j), value in np.ndenumerate(values):
        if math.isfinite(value):
            (top, bottom), (left, right) = rows[i], columns[j]
            start = (bottom, left) if axis == 0 else (top, right)
            yield (start, (bottom, right)), float(value)


def _edges(cores: Sequence[tuple[int, int]]) -> Array:
    return np.array([cores[0][0], *(stop for _, stop in cores)], float)


def _worst(report: SeamReport, views: Sequence[SeamView]) -> Section:
    parts: list[Part] = []
    if views:
        pairs = [
            (f"{_place(view.seam.worst, report)}", view.image, view.lower, view.upper)
            for view in views
        ]
        letters = [view.cut[0] == view.axes[0] for view in views]
        seams = [
            ("y" if first else "x", float(view.cut[1]))
            for first, view in zip(letters, views, strict=True)
        ]
        names = ", ".join(dict.fromkeys(report.channels[view.channel] for view in views))
        caption = (
            "The worst seams: the image, what the tile before and the tile behind the seam "
            f"predict for the same pixels, and how far they are apart ({names}). Dashed: the seam."
        )
        parts.append(figure(figures.opinions(pairs, seams), caption))
    parts.append(worst_seams(report, _MOST_SEAMS))
    return Section("The worst seams", parts)


def _place(pixel: Sequence[int], report: SeamReport) -> str:
    letters = report.plan.layout.spatial
    return ", ".join(f"{a} {p}" for a, p in zip(letters, pixel, strict=True))


# -- causes and certificate


def _causes(diagnosis: Diagnosis) -> Section:
    causes: dict[str, float] = {found.cause: found.share for found in diagnosis.findings}
    parts: list[Part] = []
    if any(causes.values()):
        drawn = figures.shares(causes)
        caption = (
            "Share of each cause in the mean disagreement at this setting: what goes away with it, "
            "averaged over every order of removing the causes that act (Shapley's value)."
        )
        parts.append(figure(drawn, caption))
    return Section("Causes", [*parts, *describe(diagnosis)[1:]])


def certificate_section(certificate: Certificate) -> Section:
    """Show a certificate: tiled against untiled."""
    setting: list[tuple[str, ...]] = [
        ("tile", f"{shape_text(certificate.tile)} px"),
        ("halo", far_text(certificate.halo)),
        ("overlap", f"{shape_text(certificate.overlap)} px, {certificate.blend}"),
        ("weights", f"{certificate.model}, fingerprint {certificate.fingerprint}"),
    ]
    return Section("Certificate", [*describe(certificate), Facts(setting)])


# -- sizes of tiles


def _sweep_facts(sweep: Sweep) -> list[tuple[str, str]]:
    first = sweep.settings[0]
    rows = [
        ("tiles", ", ".join(sweep.names)),
        ("halo", far_text(first["halo"])),
        ("intensities", f"{first['normalize']}, of the whole image"),
        ("tolerance", figure_text(sweep.tolerance)),
        ("made by", f"Seamscope {__version__}"),
    ]
    if sweep.truth is not None:
        rows.insert(1, ("labels", str(sweep.meaning)))
    return rows


def sweep_sections(sweep: Sweep) -> list[Section]:
    """Tell a sweep: a sentence, curves, pictures, all pairs."""
    first, *others = _sweep_sections(sweep)
    return [Section(first.title, [Text(sweep.describe()), *first.parts]), *others]


def _sweep_sections(sweep: Sweep) -> list[Section]:
    return [
        Section("Prediction and tile size", [_sweep_curves(sweep), *describe(sweep)[1:]]),
        Section("The same place in all predictions", [_multiples(sweep)]),
        Section("All pairs of predictions", [_matrix(sweep)]),
    ]


def _last(sweep: Sweep) -> str:
    return "the untiled prediction" if sweep.untiled else f"that of tiles of {sweep.names[-1]}"


def _sweep_curves(sweep: Sweep) -> Figure:
    panels = [(f"mismatch to {sweep.names[-1]}, 1 − Dice", _bands(sweep.to_last, sweep.channels))]
    caption = f"How far each prediction is from {_last(sweep)}"
    if sweep.dice is not None and sweep.truth is not None:
        panels.append(("Dice with labels", _bands(sweep.dice, sweep.truth.names)))
        caption += " (left), and how well it agrees with the labels (right)"
    caption += ". Bands: 95 % confidence, by a bootstrap over blocks of the image."
    return figure(figures.size_curves(sweep.names, panels), caption)


def _bands(estimate: Any, names: Sequence[str]) -> dict[str, tuple[Array, Array, Array]]:
    return {
        name: (estimate.value[:, k], estimate.low[:, k], estimate.high[:, k])
        for k, name in enumerate(names)
    }


def _multiples(sweep: Sweep) -> Figure:
    shown = sweep.pictures
    chosen = _some(len(sweep.names), 5)
    names = [sweep.names[k] for k in chosen]
    drawn = figures.small_multiples(
        names, shown.image, shown.predictions[list(chosen)], shown.truth
    )
    caption = (
        f"Where predictions differ most: {sweep.channels[shown.channel]}, from pixel "
        f"{', '.join(map(str, shown.corner))} on. Below: how far each is from {_last(sweep)}."
    )
    return figure(drawn, caption)


def _some(count: int, most: int) -> list[int]:
    """Up to so many numbers below a count, evenly chosen, first and last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})


def _matrix(sweep: Sweep) -> Figure:
    # channels that differ most, where there are too many to be read
    order = np.argsort(-sweep.soft.max((0, 1)), kind="stable")[:6]
    panels = [(sweep.channels[k], sweep.soft[..., k]) for k in sorted(order)]
    caption = "Mismatch between all pairs of predictions, in percent."
    if len(order) < len(sweep.channels):
        caption += f" The {len(order)} channels that differ most, of {len(sweep.channels)}."
    return figure(figures.mismatch_matrix(sweep.names, panels), caption)


def content_section(content: Content) -> Section:
    """Tell what tiles contain."""
    features = content.features[:6]
    drawn = figures.content_strips(
        content.names, features, [v[:, : len(features)] for v in content.values], content.whole
    )
    caption = (
        f"{content.meaning} Each point is a tile; the dashed line is the whole image. The wider "
        "the points are spread, the more the statistics of tiles differ, before any network is run."
    )
    return Section("What tiles contain", [figure(drawn, caption), *describe(content)])


# -- definitions


def _math(body: str) -> str:
    return f'<math display="block">{body}</math>'


def _count(what: str) -> str:
    return f"<mo form='prefix'>|</mo><mi>{what}</mi><mo form='postfix'>|</mo>"


_O1, _O2 = "<msub><mi>O</mi><mn>1</mn></msub>", "<msub><mi>O</mi><mn>2</mn></msub>"
_APART = f"<mo form='prefix'>|</mo>{_O1}<mo>−</mo>{_O2}<mo form='postfix'>|</mo>"
_DICE = (
    "<mrow><mn>1</mn><mo>−</mo><mi>Dice</mi><mo>=</mo><mn>1</mn><mo>−</mo><mfrac>"
    f"<mrow><mn>2</mn><mo>∑</mo>{_O1}{_O2}</mrow>"
    "<mrow><mo>∑</mo><msubsup><mi>O</mi><mn>1</mn><mn>2</mn></msubsup><mo>+</mo><mo>∑</mo>"
    "<msubsup><mi>O</mi><mn>2</mn><mn>2</mn></msubsup></mrow></mfrac></mrow>"
)
_MISMATCH = Definition(
    "Mismatch of two predictions",
    "For each channel, one minus their soft Dice with squares (Milletari et al. 2016), which is "
    "exactly 0 when both are equal. A class absent from both is agreement. “Without squares”: the "
    "denominator is the sum of both; 0 only where both are 0 or 1. “Thresholded”: the same of the "
    "two classifications.",
    _math(_DICE),
)


def seam_definitions(report: SeamReport) -> Section:
    """What the measures of seams mean, and their formulas."""
    parts: list[Part] = [
        Definition(
            "Halo, overlap, valid overlap",
            "The halo is the border of a tile's prediction that is discarded. Neighbouring tiles "
            "share an overlap; the valid overlap is the part of it that neither discards. "
            "Everything is measured there.",
        ),
        Definition(
            "Max difference",
            "The largest difference of two tiles' predictions of the same pixel, over all overlaps "
            "and channels: max dist of Buglakova et al. 2025. 0 is seamless.",
            _math(
                "<mrow><mi>max difference</mi><mo>=</mo><munder><mo>max</mo><mtext>overlaps, "
                f"channels</mtext></munder>{_APART}</mrow>"
            ),
        ),
        Definition(
            "Mean difference",
            "The mean of the same differences over all pixels of valid overlaps and all channels.",
            _math(f"<mrow><mi>mean difference</mi><mo>=</mo><mo>⟨</mo>{_APART}<mo>⟩</mo></mrow>"),
        ),
        _MISMATCH,
        Definition(
            "Tile mismatch",
            "The median of the mismatch over all overlaps (Buglakova "
            "et al. 2025). The mismatch where present leaves out overlaps without the class.",
            _math(
                "<mrow><mi>tile mismatch</mi><mo>=</mo><munder><mi>median</mi><mtext>overlaps"
                "</mtext></munder><mo stretchy='false'>(</mo><mn>1</mn><mo>−</mo><mi>Dice</mi>"
                "<mo stretchy='false'>)</mo></mrow>"
            ),
        ),
        Definition(
            "Tolerance",
            f"Differences up to {figure_text(_in_std(report))} standard deviations of the output "
            f"(here {figure_text(report.tolerance)}) are taken for floating-point noise: another "
            "order of summation makes 1e-5 of them, a halo one pixel too short 1e-2.",
        ),
    ]
    return Section("Definitions", parts)


def _in_std(report: SeamReport) -> float:
    return report.tolerance / report.spread if report.spread else 0.0


_SWEEP_DEFINITIONS = (
    Definition(
        "Dice with labels",
        "Of the pixels predicted as a class, P, and those labelled as it, T.",
        _math(
            f"<mrow><mi>Dice</mi><mo>=</mo><mfrac><mrow><mn>2</mn>{_count('P</mi><mo>∩</mo><mi>T')}"
            f"</mrow><mrow>{_count('P')}<mo>+</mo>{_count('T')}</mrow></mfrac></mrow>"
        ),
    ),
    Definition(
        "Confidence bands",
        "95 % percentile intervals of a bootstrap: the image is cut into 8 × 8 (in 3D 4 × 4 × 4) "
        "blocks, and each measure is taken of 1000 draws of as many blocks, with replacement. "
        "Bands are too narrow where structures or tiles are larger than blocks, and say nothing "
        "about other images.",
    ),
)


__all__ = [
    "certificate_page",
    "certificate_section",
    "content_section",
    "seam_definitions",
    "seam_page",
    "sweep_page",
    "sweep_sections",
]
