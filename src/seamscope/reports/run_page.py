"""The page of one run: what a command and a window write about its seams.

Knows what a page needs besides the report: pictures of the worst seams, and the network's reach.
Does not know how a page looks (see `seamscope.reports.seam_page`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from seamscope.compare.certificate import Certificate
from seamscope.errors import SeamscopeError
from seamscope.explain.causes import Diagnosis
from seamscope.models.sentences import reach_name
from seamscope.planning.case import Case
from seamscope.planning.thumbnails import thumbnail
from seamscope.progress import QUIET, Work
from seamscope.receptive_field.fields import measure_receptive_field
from seamscope.reports.seam_page import seam_page
from seamscope.seams.report import SeamReport
from seamscope.seams.views import look_at
from seamscope.text import percent_text

_WORST = 4  # seams with pictures
_EFFECTIVE = 0.99  # of the gradient's mass
_GRADIENT_TILES = 8  # enough for a mark on a plot


def run_page(
    case: Case,
    report: SeamReport,
    *,
    diagnosis: Diagnosis | None = None,
    certificate: Certificate | None = None,
    work: Work = QUIET,
) -> str:
    """Compose the page of a run; the tiles of its worst seams are predicted once more.

    Parameters
    ----------
    case
        Image, network and the plan that was measured.
    report
        What was measured.
    diagnosis, certificate
        Shown if given.
    work
        Shows progress, and stops when requested.

    Returns
    -------
    str
        HTML that stands alone.

    Raises
    ------
    SeamscopeError
        As the run itself, or where what draws reports is not installed.
    InterruptedError
        When stopped.
    """
    reach = _reach(case, work)
    views = look_at(case, report.seams[:_WORST], work=work)
    work.phase("Drawing")
    first = tuple(start for start, _ in report.plan.frame_ranges)
    frame = report.seams[0].frame if report.seams else first
    return seam_page(
        report,
        thumbnail(report.plan, case.image, frame),
        views=views,
        diagnosis=diagnosis,
        certificate=certificate,
        setting=[
            ("file", case.image.source or case.image.name),
            ("weights", f"fingerprint {case.model.fingerprint}"),
        ],
        reach=reach,
    )


def _reach(case: Case, work: Work) -> Mapping[str, float]:
    """Halos to be marked: how far the network can see, and how far it mostly does."""
    reach = case.model.reach
    marks: dict[str, float] = {}
    if reach.useful is not None:
        marks[reach_name(reach)] = float(max(max(sides) for sides in reach.useful))
    with contextlib.suppress(SeamscopeError):  # a network without gradients, for one
        found = measure_receptive_field(
            case.but(tile="auto", halo="auto", overlap=None),
            most_tiles=_GRADIENT_TILES,
            work=work,
        )
        if found.effective is not None:
            box = found.effective.map.box(_EFFECTIVE)
            marks[f"{percent_text(_EFFECTIVE)} of the gradient"] = float(box)
    return marks


__all__ = ["run_page"]
