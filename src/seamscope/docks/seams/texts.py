"""What is known of seams, told in tables, bars and sentences.

Knows reports, diagnoses, certificates and rich text. Does not know widgets.
"""

from __future__ import annotations

import math

from seamscope.compare.certificate import Certificate
from seamscope.docks.looks import Kind, boxed, plain
from seamscope.explain.causes import Diagnosis, Finding
from seamscope.seams.report import Interval, SeamReport
from seamscope.text import figure_text, halo_text, percent_text

_BAR, _REST = "#3f8fd2", "#80808040"
_NUMBER = 'align="right" style="padding-left: 12px"'


def numbers_table(report: SeamReport) -> str:
    """Headline numbers of a report, as a paper quotes them."""
    if not report.measured:
        return ""
    measures = report.measures
    halo = halo_text(report.plan.grid.halo)
    where = "pixels beside the seam" if measures.beside else "valid overlap"
    rows = [
        ("Largest distance", f"<b>{figure_text(measures.max_dist)}</b>"),
        (
            "Mean distance",
            f"{figure_text(measures.mean_dist)}{_interval(report.mean_dist_interval)}",
        ),
        ("Tolerance", f"{figure_text(report.tolerance)} (10⁻⁴ of the output's std)"),
        ("Measured", f"{report.measured} of {report.overlaps} overlaps, halo {halo}, {where}"),
    ]
    cells = "".join(
        f'<tr><td style="padding-right: 10px">{name}</td><td>{text}</td></tr>'
        for name, text in rows
    )
    return f"<table>{cells}</table>{_mismatch_table(report)}"


def _mismatch_table(report: SeamReport) -> str:
    measures = report.measures
    if not measures.soft:
        return ""
    hard = measures.hard or (math.nan,) * len(measures.soft)
    intervals = report.mismatch_intervals or (None,) * len(measures.soft)
    rows = "".join(
        f"<tr><td>{plain(name)}</td><td {_NUMBER}>{figure_text(soft)}{_interval(interval)}</td>"
        f"<td {_NUMBER}>{figure_text(harder)}</td></tr>"
        for name, soft, harder, interval in zip(
            report.channels, measures.soft, hard, intervals, strict=False
        )
    )
    return (
        '<table style="margin-top: 4px"><tr><td>Tile mismatch (1 − Dice)</td>'
        f"<td {_NUMBER}>soft</td><td {_NUMBER}>hard</td></tr>{rows}</table>"
    )


def _interval(interval: Interval | None) -> str:
    return (
        "" if interval is None else f" [{figure_text(interval.low)}, {figure_text(interval.high)}]"
    )


def diagnosis_text(found: Diagnosis) -> str:
    """Verdict, shares as bars, sentences, remedies."""
    kind: Kind = "good" if found.verdict == "seamless" else "warning"
    acting = [finding for finding in found.findings if finding.share > 0]
    if not acting:
        return boxed(found.explanation, kind)
    halo = halo_text(found.halo)
    told = (
        f"{found.verdict[:1].upper()}{found.verdict[1:]}: at halo {halo} neighbouring tiles differ "
        f"by {figure_text(found.mean_dist)} on average and {figure_text(found.max_dist)} at most, "
        f"on {found.borders} borders examined."
    )
    return boxed(told, kind) + "".join(map(_finding, acting))


def _finding(finding: Finding) -> str:
    share = round(100 * finding.share)
    remedy = f"<br><b>Remedy:</b> {plain(finding.remedy)}" if finding.remedy else ""
    return (
        f'<p style="margin: 8px 0 2px 0"><b>{plain(finding.cause)}</b>: '
        f"{percent_text(finding.share)}</p>"
        f"{_bar(share)}{plain(finding.what)}{remedy}"
    )


def _bar(percent: int) -> str:
    full = max(1, min(percent, 99))
    return (
        '<table width="100%" cellspacing="0" cellpadding="0" style="font-size: 4px"><tr>'
        f'<td width="{full}%" bgcolor="{_BAR}">&nbsp;</td>'
        f'<td width="{100 - full}%" bgcolor="{_REST}">&nbsp;</td></tr></table>'
    )


def certificate_text(found: Certificate) -> str:
    """Passed or not, in a box."""
    return boxed(str(found), "good" if found.passed else "warning")
