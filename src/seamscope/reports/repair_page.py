"""The page of ``seamscope freeze``: what fixed statistics did to the seams of an image.

Knows which measures are set side by side. Does not know how they were measured, or HTML.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope import __version__
from seamscope.compare.before_after import BeforeAfter
from seamscope.normalization.statistics import Statistics
from seamscope.reports import figures
from seamscope.reports.describe import describe
from seamscope.reports.page import figure, name_text, page
from seamscope.reports.parts import Facts, Section, Table, Text
from seamscope.reports.seam_page import seam_definitions
from seamscope.text import figure_text, percent_text, shape_text

Array: TypeAlias = npt.NDArray[Any]


def repair_page(effect: BeforeAfter, statistics: Statistics) -> str:
    """Compose the page of a comparison.

    Parameters
    ----------
    effect
        What was compared.
    statistics
        Those that were fixed.

    Returns
    -------
    str
        HTML that stands alone.

    Raises
    ------
    SettingsError
        Where what draws reports is not installed.
    """
    sections = [_verdict(effect), _setting(effect, statistics)]
    if effect.before.measured and effect.after.measured:
        sections.append(_halo(effect))
    if effect.why_before is not None and effect.why_after is not None:
        sections.append(_causes(effect))
    sections.append(seam_definitions(effect.before))
    title = f"Seams of {name_text(statistics.model)} before and after fixing its statistics"
    return page(title, sections)


def _verdict(effect: BeforeAfter) -> Section:
    return Section("Verdict", describe(effect))


def _setting(effect: BeforeAfter, statistics: Statistics) -> Section:
    plan, record = effect.before.plan, effect.before.plan.to_json()
    shape = shape_text(statistics.image_shape)
    rows = [
        ("image", f"{shape_text(plan.image_shape)} pixels ({plan.layout.axes})"),
        ("network", f"{name_text(statistics.model)}, fingerprint {statistics.fingerprint}"),
        ("statistics", f"{statistics.how}, {len(statistics.layers)} layers"),
        ("found on", f"{name_text(statistics.image)}, {shape} pixels"),
        ("tile", f"{shape_text(record['tile'])} pixels"),
        ("overlap of neighbours", f"{shape_text(record['overlap'])} pixels"),
        ("intensities", f"{plan.settings.normalize}, of the whole image"),
        ("computed with", f"{plan.settings.device}, {plan.settings.precision}"),
        ("overlaps", f"{effect.before.overlaps:,}, of which {effect.before.measured:,} measured"),
        ("made by", f"Seamscope {__version__}"),
    ]
    return Section("Setting", [Facts(rows)])


def _halo(effect: BeforeAfter) -> Section:
    drawn = figures.halo_curve(
        effect.before.curve.halo,
        _side_by_side(effect, {"largest": "max_dist", "mean": "mean_dist"}),
        _mismatch(effect),
        tolerance=effect.before.tolerance,
        marks={"used": float(max(max(sides) for sides in effect.before.plan.grid.halo))},
    )
    caption = (
        "Disagreement of neighbouring tiles at every halo, before and after. Left: largest and "
        f"mean difference; below {figure_text(effect.before.tolerance)} it is floating-point "
        "noise. Right: tile mismatch, the largest of all channels. A floor that no halo lowers is "
        "what fixed statistics take away; what is left falls with the halo."
    )
    return Section("Halo", [figure(drawn, caption)])


def _side_by_side(effect: BeforeAfter, names: Mapping[str, str]) -> dict[str, Array]:
    curves = {"before": effect.before.curve, "after": effect.after.curve}
    return {
        f"{when}, {shown}": getattr(curve, name)
        for when, curve in curves.items()
        for shown, name in names.items()
    }


def _mismatch(effect: BeforeAfter) -> dict[str, Array]:
    curves = {"before": effect.before.curve, "after": effect.after.curve}
    return {when: np.fmax.reduce(c.soft, axis=1) for when, c in curves.items() if c.soft.shape[1]}


def _causes(effect: BeforeAfter) -> Section:
    before, after = effect.why_before, effect.why_after
    assert before is not None
    assert after is not None
    rows = [
        (one.cause, percent_text(one.share), percent_text(after.share(one.cause)), one.what)
        for one in before.findings
    ]
    caption = (
        "Share of each cause in the mean disagreement, found by experiments on "
        f"{before.tiles} tiles and {before.seams} seams of this image."
    )
    return Section(
        "Causes",
        [
            Text(f"Before: {before.explanation}"),
            Text(f"After: {after.explanation}"),
            Table(("cause", "before", "after", "what was found before"), rows, caption),
        ],
    )


__all__ = ["repair_page"]
