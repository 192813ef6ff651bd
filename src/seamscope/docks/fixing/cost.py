"""How long a fix takes, found beside the window.

Knows the plan of the run that a step of advice leads to, and what fixing statistics costs. Does not
know how fast the network is (`Session.seconds_of`), or widgets.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from qtpy.QtCore import QObject, Signal

from seamscope.docks.job import Job, Outcome
from seamscope.docks.layers import image_of
from seamscope.errors import SeamscopeError
from seamscope.explain.advice import Advice
from seamscope.fixed_statistics.freeze_plan import plan_freeze
from seamscope.images.image import Image
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan, resolve
from seamscope.progress import Work
from seamscope.settings import Settings

EXACT: dict[str, Any] = {
    "tile": "auto", "halo": "auto", "overlap": None, "area": None, "blend": "crop", "seams": "none"
}  # fmt: skip


def _passes(image: Image, model: Model, settings: Settings, *, work: Work) -> float:
    """How many predictions exact statistics cost."""
    return plan_freeze(Case.open(image, model, settings.but(**EXACT)), "exact").passes


class Cost(QObject):
    """Seconds that a step takes.

    Signals
    -------
    known
        Something was found out.
    """

    known = Signal()

    def __init__(self, session: Any, parent: QObject) -> None:
        super().__init__(parent)
        self._session = session
        self._passes: WeakKeyDictionary[Model, dict[Any, float | None]] = WeakKeyDictionary()
        self._job: Job | None = None

    @property
    def busy(self) -> bool:
        """Whether something is being found out."""
        return self._job is not None

    def seconds(self, advice: Advice) -> float | None:
        """Return what a step takes; None where it is not known, or not yet."""
        session = self._session
        model, layer, plan, settings = (
            session.plain, session.layer, session.plan, session.settings
        )  # fmt: skip
        if advice.step not in ("halo", "statistics") or None in (model, layer, plan, settings):
            return None
        try:
            image = image_of(layer, plan.layout.axes)
            one = session.seconds_of(self._after(advice, image, model, settings))
        except SeamscopeError:
            return None
        if one is None or advice.step == "halo":
            return one
        known = self._passes.setdefault(model, {})
        limits = settings.device, settings.precision, settings.memory  # of the tiles that are read
        key = plan.image_shape, plan.layout.axes, *limits
        if key not in known:
            self._find(known, key, image, model, settings)
            return None
        passes = known[key]
        return None if passes is None else one * (1 + passes)

    def _after(self, advice: Advice, image: Image, model: Model, settings: Settings) -> Plan:
        """The plan of the run that follows."""
        halo = "auto" if advice.halo is None else advice.halo
        wanted = settings.but(tile=advice.tile or "auto", halo=halo, overlap=None)
        return resolve(image, model, wanted)

    def _find(
        self,
        known: dict[Any, float | None],
        key: Any,
        image: Image,
        model: Model,
        settings: Settings,
    ) -> None:
        if self._job is None:
            turn: threading.Lock = self._session.turn
            find = partial(_passes, image, model, settings)
            self._job = Job("estimating the cost", find, self, turn)
            self._job.ended.connect(partial(self._found, known, key))
            self._job.start()

    def _found(self, known: dict[Any, float | None], key: Any, outcome: Outcome) -> None:
        self._job = None
        known[key] = outcome.value
        self.known.emit()


__all__ = ["EXACT", "Cost"]
