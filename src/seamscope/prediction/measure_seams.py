"""Measure the seams of a tiled prediction, without its result.

Knows how a run is watched. Does not know how disagreement is counted (see `seamscope.seams.meter`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from seamscope.errors import SettingsError
from seamscope.execution.devices import resources_on
from seamscope.execution.measuring import Measuring, On, measure_on
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.tuning import prepare
from seamscope.prediction.run import Watcher, completed, run
from seamscope.progress import QUIET, Work
from seamscope.seams.kinds import Kind, kind_for
from seamscope.seams.meter import Overlap, SeamMeter
from seamscope.seams.report import SeamReport
from seamscope.seams.tolerance import TOLERANCE, check_tolerance
from seamscope.settings import Settings


def measure_seams(
    image: Any,
    model: str | nn.Module | Model | None = None,
    settings: Settings | None = None,
    *,
    seams: Literal["auto", "all", "sample"] = "all",
    kind: Kind | Literal["auto"] = "auto",
    classes: Literal["largest", "threshold"] | None = None,
    tolerance: float = TOLERANCE,
    watchers: Sequence[Watcher] = (),
    tell: Callable[[Overlap], None] | None = None,
    work: Work = QUIET,
    trust: bool = False,
    axes: str | None = None,
    partial: Path | None = None,
    on: On = None,
    resume: bool = False,
    **asked: Any,
) -> SeamReport:
    """Predict an image tile by tile, and measure how neighbouring tiles disagree.

    Parameters
    ----------
    image, model, settings, trust, axes, asked
        As for `seamscope.predict`. Unless an overlap is given, tiles overlap by a pixel more on
        each side than the halo needs, so that something is left to compare.
    seams
        Whether all overlaps are measured, or a representative sample.
    kind, classes
        What is predicted, and how it is classified (see `seamscope.seams.meter.SeamMeter`).
    tolerance
        Differences up to this are noise, in standard deviations of the output.
    watchers, tell
        Called with each tile's prediction (see `seamscope.prediction.run.run`), and each overlap.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).
    partial
        Folder for intermediate results, by which an interrupted measurement can be resumed. It
        stays, so that a measurement that was completed is not made again: remove it when the
        report is written.
    on
        Workers, as for `seamscope.predict`: how many processes to start here, address or file of a
        scheduler of Dask, or a client. They need image and network as files, and `partial` on a
        disk that all of them see. The measures are those of one process to the last bit.
    resume
        Continue what an interrupted measurement left in `partial`.

    Raises
    ------
    SeamscopeError
        One sentence with the value, the rule and the remedy.
    InterruptedError
        When stopped.

    Examples
    --------
    >>> import numpy as np, torch, seamscope
    >>> image = np.random.default_rng(0).random((64, 64), np.float32)
    >>> blur = torch.nn.Conv2d(1, 1, 5, padding=2)
    >>> report = seamscope.measure_seams(image, blur, tile=32)
    >>> report.plan.grid.halo, report.seamless, report.smallest_seamless_halo
    (((2, 2), (2, 2)), True, (2, 2))
    """
    check_tolerance(tolerance)
    if (partial is not None or on is not None) and (watchers or tell is not None):
        raise SettingsError(
            "Heat maps and watchers need the predictions of all tiles in this process: leave out "
            "workers and intermediate results (`on`, `partial`)."
        )
    how: dict[str, Any] = {"trust": trust, "axes": axes}
    if not isinstance(image, Case):
        device = asked.get("device", (settings or Settings()).device)
        how["resources"] = resources_on(on, device, work)
    case = prepare(image, model, settings, **how, **asked, seams=seams)

    def meter(plan: Plan) -> SeamMeter:
        return SeamMeter(
            plan.grid,
            kind=kind_for(plan.facts) if kind == "auto" else kind,
            classes=classes,
            threshold=plan.settings.threshold,
            tell=tell,
        )

    if partial is not None or on is not None:
        measuring = Measuring(kind, classes)
        finished = measure_on(case, measuring, partial, on, trust=trust, resume=resume, work=work)
    else:
        finished = completed(run(case, None, watchers=watchers, meter=meter, work=work))
    if finished.seams is None:
        return SeamReport.of(meter(case.plan), case.plan, case.model, tolerance)
    return dataclasses.replace(finished.seams, tolerance=tolerance * finished.seams.spread)


__all__ = ["measure_seams"]
