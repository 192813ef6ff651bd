"""How long a prediction would take: one tile is timed in the background, and each run is.

Knows networks, plans and seconds. Does not know controls.
"""

from __future__ import annotations

import logging
import math
import threading
from functools import partial
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

from seamscope.docks.job import Job, Outcome
from seamscope.docks.tasks import seconds_per_pixel
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan

log = logging.getLogger(__name__)

_DELAY_MS = 600


class Pace(QObject):
    """Seconds for each input pixel, as far as they are known.

    Parameters
    ----------
    parent
        Its trials end with this.
    turn
        Held while the network is used.

    Signals
    -------
    changed
        A trial began or ended.
    """

    changed = Signal()

    def __init__(self, parent: QObject, turn: threading.Lock) -> None:
        super().__init__(parent)
        self._turn = turn
        self._known: dict[Any, float | None] = {}
        self._trial: Job | None = None
        self._wanted: tuple[Case, Plan, bool] | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_DELAY_MS)
        self._timer.timeout.connect(self._time_a_tile)

    @property
    def timing(self) -> bool:
        """Whether a tile is being timed."""
        return self._trial is not None

    @property
    def settled(self) -> bool:
        """Whether no tile is being timed or about to be."""
        return self._trial is None and not self._timer.isActive()

    def estimate(self, model: Model, plan: Plan) -> float | None:
        """Return the seconds that a plan takes; None where nothing is known."""
        measured = self._known.get((_key(model, plan), plan.grid.tile_shape))
        speed = model.speeds.get(plan.speed_key)
        if measured is None and speed is not None and plan.settings.accelerate:
            measured = speed.per_pixel(math.prod(plan.grid.tile_shape))
        pace = measured or self._known.get(_key(model, plan))
        return None if pace is None else pace * _pixels(plan)

    def want(self, case: Case, plan: Plan, auto: bool) -> None:
        """Time a tile soon, unless that was done.

        Parameters
        ----------
        case
            Image, network and settings; the area does not matter.
        plan
            Of the case.
        auto
            Whether the tile is Auto's: then how speed depends on size is measured.
        """
        self._wanted = case, plan, auto
        if _trial_key(*self._wanted) not in self._known and self._trial is None:
            self._timer.start()

    def cancel(self) -> None:
        """Time nothing."""
        self._wanted = None
        self._timer.stop()
        if self._trial is not None:
            self._trial.abandon()
            self._trial = None

    def took(self, model: Model, plan: Plan, seconds: float) -> None:
        """Remember how long a run took."""
        self._known[_key(model, plan), plan.grid.tile_shape] = seconds / max(_pixels(plan), 1)

    def _time_a_tile(self) -> None:
        if self._wanted is None:
            return
        case = self._wanted[0]
        key = _trial_key(*self._wanted)
        time = partial(seconds_per_pixel, case.image, case.model, case.settings.but(area=None))
        self._trial = Job("timing one tile", time, self, self._turn)
        self._trial.ended.connect(partial(self._timed, key))
        self._trial.start()
        self.changed.emit()

    def _timed(self, key: Any, outcome: Outcome) -> None:
        self._trial = None
        if outcome.error is not None:  # the run will meet it too, and say it
            log.debug("no time could be estimated", exc_info=outcome.error)
        self._known[key] = self._known[key[0]] = outcome.value
        self.changed.emit()


def _key(model: Model, plan: Plan) -> tuple[Any, ...]:
    settings = plan.settings
    return id(model), settings.device, settings.precision, settings.accelerate


def _trial_key(case: Case, plan: Plan, auto: bool) -> Any:
    """What is to be timed; for Auto's tile how speed depends on size, for large images."""
    return _key(case.model, plan), auto and plan.image_shape


def _pixels(plan: Plan) -> int:
    return plan.tiles * plan.frames * math.prod(plan.grid.tile_shape)


__all__ = ["Pace"]
