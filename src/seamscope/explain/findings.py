"""What an examination of seams found: values, and how their numbers are written.

Knows verdicts and findings. Does not know how either is come by (see
`seamscope.explain.inquiry`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from seamscope.explain.experiments import Cause
from seamscope.seams.measures import SeamCurve
from seamscope.serialization import Recorded
from seamscope.tiling import Sides

Verdict: TypeAlias = Literal[
    "seamless",
    "edge effects",
    "tile statistics",
    "global coupling",
    "random",
    "off the grid",
    "preprocessing",
    "postprocessing",
    "mixed",
    "not compared",
]
HaloIs: TypeAlias = Literal["smallest seamless", "removes edge effects", "knee"]


@dataclass(frozen=True)
class Finding(Recorded):
    """One cause: how much of the disagreement it makes, and what to do about it.

    Attributes
    ----------
    cause
        Which.
    share
        Its part of the disagreement, 0 to 1; the shares of all findings sum to 1, or are all 0
        where tiles agree.
    number
        The disagreement it makes when it acts alone, all others removed, in `unit`.
    unit
        Of `number`.
    what
        What was found, in a sentence.
    remedy
        What to do, in a sentence; empty where there is nothing to do.
    """

    cause: Cause
    share: float
    number: float
    unit: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis(Recorded):
    """The explanation of seams, and the figures it rests on.

    Attributes
    ----------
    verdict
        The cause that makes three fifths of the disagreement or more; ``"mixed"`` where none does;
        ``"not compared"`` where tiles only touch, and nothing was examined.
    summary
        Sentences: how much neighbouring tiles differ, and on how many seams that was measured.
    explanation
        The same, and for each cause what was found and what to do.
    findings
        All causes, largest share first; those that do not act are there with share 0.
    suggested_halo
        ``(before, after)`` for each axis in input pixels; None where none helps, or none is
        needed beyond what is used.
    halo_is
        What is to be expected of it: the smallest that is seamless on any image (the network's
        reach on its grid); the same, but other causes stay; or the knee of the curve, beyond
        which more helps little.
    halo_here
        The smallest halo within tolerance on the seams examined; at most the former, and
        certain for these only. None where there is none, or the tile is too small to see it.
    tile, halo, overlap, period
        What was examined, in input pixels. Where nothing would be left to compare, tiles overlap
        by as many whole periods more than chosen as needed; where even that leaves nothing,
        they are larger; where that cannot be, the halo is smaller. The explanation says so
        if the halo was more than half of the overlap, or if tile or halo differ.
    mean_dist, max_dist
        Disagreement at this setting, over the pixels both tiles are trusted in; for labels the
        part of them that differs.
    mean_dist_0, max_dist_0
        The same without a halo, of the prediction before postprocessing.
    tolerance, spread
        Noise, and the prediction's standard deviation.
    tiles, seams
        Number examined.
    curves
        Disagreement at every halo: ``"as it is"``, and where edge effects act
        ``"edge effects alone"`` (over all halos that this tile allows).
    """

    verdict: Verdict
    explanation: str
    findings: tuple[Finding, ...]
    tile: tuple[int, ...]
    halo: tuple[Sides, ...]
    overlap: tuple[int, ...]
    period: tuple[int, ...]
    suggested_halo: tuple[Sides, ...] | None = None
    halo_is: HaloIs | None = None
    halo_here: tuple[Sides, ...] | None = None
    summary: str = ""
    mean_dist: float = 0.0
    max_dist: float = 0.0
    mean_dist_0: float = 0.0
    max_dist_0: float = 0.0
    tolerance: float = 0.0
    spread: float = 0.0
    tiles: int = 1
    seams: int = 0
    curves: Mapping[str, SeamCurve] = field(default_factory=dict)

    def share(self, cause: Cause) -> float:
        """Part of the disagreement that a cause makes."""
        return sum(found.share for found in self.findings if found.cause == cause)
