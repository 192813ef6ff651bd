"""The page of ``seamscope splits``: objects that were cut where tiles meet.

Knows which numbers matter to a reader, and their definitions. Does not know HTML or drawing, or how
anything was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope import __version__
from seamscope.reports import figures
from seamscope.reports.describe import asked_again, before_and_after, describe, pairs_of
from seamscope.reports.page import figure, page
from seamscope.reports.parts import Definition, Facts, Figure, Part, Section
from seamscope.segmentation.crossings import GAP, RUN
from seamscope.segmentation.false_splits import LENGTH, SplitReport
from seamscope.segmentation.findings import SplitFindings
from seamscope.segmentation.label_images import merge_table
from seamscope.segmentation.split_views import SplitView
from seamscope.text import shape_text

Array: TypeAlias = npt.NDArray[Any]

_MOST_PAIRS = 50  # in the table


def split_parts(findings: SplitFindings, most: int) -> list[Part]:
    """Everything in words, with at most so many pairs."""
    report = findings.report
    found: list[Part] = describe(report)
    if report.candidates:
        found.append(pairs_of(report, findings.opinions, most))
    if findings.opinions:
        found.append(asked_again(findings.opinions))
    return found + _compared(findings)


def _compared(findings: SplitFindings) -> list[Part]:
    """Agreement with ground truth, and before and after merging."""
    merged = findings.merged
    if merged is None or merged.report is None:
        return [] if findings.agreement is None else describe(findings.agreement)
    agreements = [a for a in (findings.agreement, merged.agreement) if a is not None]
    return [before_and_after([findings.report, merged.report], agreements, len(merged.pairs))]


def split_page(
    findings: SplitFindings,
    *,
    views: Sequence[SplitView] = (),
    setting: Sequence[tuple[str, str]] = (),
) -> str:
    """Compose the page of the false splits of a label image.

    Parameters
    ----------
    findings
        What was found out.
    views
        Pictures of pairs (`seamscope.segmentation.split_views.look_at_splits`).
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
    report = findings.report
    verdict, *numbers = describe(report)
    sections = [Section("Verdict", [verdict]), _setting(report, setting)]
    if numbers:
        sections.append(Section("Measures", [*numbers, *_profiles(report)]))
    if report.candidates:
        sections.append(_pairs(findings, views))
    if compared := _compared(findings):
        sections.append(Section(_title(findings), compared))
    sections.append(Section("Definitions", list(_definitions(findings))))
    return page(f"False splits of {report.name}", sections)


def _title(findings: SplitFindings) -> str:
    return "Ground truth" if findings.merged is None else "Before and after merging"


def _setting(report: SplitReport, setting: Sequence[tuple[str, str]]) -> Section:
    rows = [
        *setting,
        ("labels", f"{shape_text(report.shape)} px ({report.letters})"),
        ("grid", report.grid),
        ("made by", f"Seamscope {__version__}"),
    ]
    return Section("Setting", [Facts(rows)])


def _profiles(report: SplitReport) -> list[Figure]:
    if report.test is None:
        return []
    profiles = zip(report.axes, report.test.profiles, strict=True)
    shown = {letter: values for letter, values in profiles if len(values)}
    caption = (
        "Label changes in straight runs, per line, of the grid and of the same grid displaced. A "
        "peak at 0 is an artifact of the tiles."
    )
    return [figure(figures.displaced_changes(shown), caption)]


def _pairs(findings: SplitFindings, views: Sequence[SplitView]) -> Section:
    parts: list[Part] = []
    if views:
        parts.append(_pictures(findings, views))
    parts.append(pairs_of(findings.report, findings.opinions, _MOST_PAIRS))
    if findings.opinions:
        parts.append(asked_again(findings.opinions))
    return Section("Pairs across seams", parts)


def _pictures(findings: SplitFindings, views: Sequence[SplitView]) -> Figure:
    words = {one.candidate: one.word for one in findings.opinions}
    pairs = () if findings.merged is None else findings.merged.pairs
    rows = [_row(view, pairs, findings.merged is not None) for view in views]
    names = [
        " and ".join(map(str, v.candidate.labels)) + _said(words.get(v.candidate)) for v in views
    ]
    seams = [("y" if v.seam[0] == v.axes[0] else "x", float(v.seam[1])) for v in views]
    caption = "The longest pairs, their objects in blue and orange, others grey. Dashed: the seam."
    if findings.merged is not None:
        caption += " After: the merged labels."
    if "tile before" in rows[0]:
        caption += (
            " Predictions: of the tile before the seam, of the tile behind it, and with the seam "
            "in the middle of a tile. Grey: outside the tile, or background."
        )
    return figure(figures.split_pictures(names, rows, seams), caption)


def _said(word: str | None) -> str:
    return "" if word is None else f": {word}"


def _row(view: SplitView, pairs: Sequence[tuple[int, int]], after: bool) -> Mapping[str, Array]:
    one, two = view.candidate.labels
    pictures: dict[str, Array] = {}
    if view.image is not None:
        pictures["image"] = view.image
    names = ("tile before", "tile behind", "no seam")
    pictures |= dict(zip(names, view.tiles, strict=False))
    pictures["labels"] = _roles(view.labels, one, two)
    if after:
        values, flat = np.unique(view.labels, return_inverse=True)
        highest = max((max(pair) for pair in pairs), default=0)
        table = merge_table(highest, pairs)
        known = [int(table[v]) if v <= highest else int(v) for v in (*values.tolist(), one, two)]
        merged = np.array(known)[flat.reshape(view.labels.shape)]
        pictures["after"] = _roles(merged, known[-2], known[-1])
    return pictures


def _roles(labels: Array, one: int, two: int) -> Array:
    """Return 1 and 2 for a pair (both 1 where it is one object), 3 for others, 0 for background."""
    roles = np.where(labels > 0, 3, 0)
    roles[labels == two] = 2
    roles[labels == one] = 1
    return roles


def _definitions(findings: SplitFindings) -> list[Definition]:
    found = [
        Definition(
            "Label changes",
            f"Pixels where the label changes across a line, in straight runs of at least {RUN} "
            "pixels, per line, summed over the axes. An object's outline rarely runs straight "
            "along a line; a cut does.",
        ),
        Definition(
            "p",
            "Randomization test: the share of displaced grids, more than 2 pixels from the seams, "
            "with at least as many label changes: p = (1 + number of those) / (1 + number of all). "
            "Where the grid was searched, the same search on shuffled lines gives p, times the "
            "number of axes.",
        ),
        Definition("Excess", "Label changes on the seams minus their mean on displaced grids."),
        Definition(
            "Pairs and their false-discovery rate",
            f"Different objects that face each other across a seam, at most {GAP} background "
            f"pixels apart, along at least {LENGTH} pixels. Displaced lines give as many such "
            "pairs as chance does: the rate is their number over the number of pairs at least as "
            "long.",
        ),
    ]
    if findings.agreement is not None:
        found += [
            Definition(
                "Average precision",
                "TP / (TP + FP + FN), with TP the pairs of a ground-truth and a predicted object "
                "whose intersection over union (IoU) is above 0.5 (StarDist; 2018 Data Science "
                "Bowl). 1 is perfect.",
            ),
            Definition(
                "Splits and merges",
                "A split: a ground-truth object that meets two or more predicted ones with IoU > "
                "0.1. A merge: the other way round (Caicedo et al. 2019). Split by coverage: two "
                "or more predicted objects take at least 5% of it each; the first count is blind "
                "to slivers.",
            ),
        ]
    return found


__all__ = ["split_page", "split_parts"]
