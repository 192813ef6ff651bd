"""What a run leaves behind about its seams: every tile's prediction, a map, and a report.

Knows the engine's watchers of a run. Does not know layers, threads or widgets.
"""

from __future__ import annotations

from collections.abc import Sequence

import psutil

from seamscope.planning.plan import Plan
from seamscope.prediction.run import Watcher
from seamscope.seams.heatmaps import PixelMaps
from seamscope.seams.meter import SeamMeter
from seamscope.seams.opinions import Opinions
from seamscope.seams.report import SeamReport

_MEMORY_SHARE = 0.25  # of what is free, that may be kept of a run


class Evidence:
    """What is known of one run's seams; watches it where everything is to be kept.

    Parameters
    ----------
    keep
        Whether all tiles' predictions are kept, and where they disagree.

    Attributes
    ----------
    report
        None where nothing was measured, or the run did not come to its end.
    opinions, maps
        None where they were not kept.
    """

    def __init__(self, keep: bool = False) -> None:
        self.report: SeamReport | None = None
        self.opinions: Opinions | None = Opinions() if keep else None
        self.maps: PixelMaps | None = None

    @staticmethod
    def bytes_of(plan: Plan) -> int:
        """Memory that keeping everything takes."""
        return plan.compared_bytes

    @classmethod
    def fits(cls, plan: Plan) -> bool:
        """Whether everything can be kept in a quarter of the free memory."""
        return cls.bytes_of(plan) <= psutil.virtual_memory().available * _MEMORY_SHARE

    @property
    def kept(self) -> bool:
        """Whether the prediction of every tile is kept."""
        return self.report is not None and self.opinions is not None

    @property
    def watchers(self) -> Sequence[Watcher]:
        """For `seamscope.prediction.run.run`."""
        return [] if self.opinions is None else [self.opinions.watch]

    def meter(self, plan: Plan) -> SeamMeter:
        """Make the meter of a run; again where memory ran out and it starts again."""
        if self.opinions is None:
            return SeamMeter.of(plan)
        self.maps = PixelMaps(plan)
        return SeamMeter(plan.grid, threshold=plan.settings.threshold, tell=self.maps.tell)

    def finish(self, report: SeamReport | None) -> None:
        """The run is over; without a report, what was kept of it says nothing."""
        self.report = report
        if report is None:
            self.release()

    def release(self) -> None:
        """Keep the report only."""
        self.opinions, self.maps = None, None

    def take(self, other: Evidence) -> None:
        """Know what another knows of the same run."""
        self.report, self.opinions, self.maps = other.report, other.opinions, other.maps
