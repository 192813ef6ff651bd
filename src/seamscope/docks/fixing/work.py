"""What the step *Fix* does in the worker's thread.

Knows the engine and a `Reporter`. Does not know Qt: nothing here may touch a widget or a layer.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from seamscope.docks.job import Reporter
from seamscope.docks.normalization.tasks import CompareBlends, InTurn, Progress
from seamscope.fixed_statistics.freezing import freeze_statistics
from seamscope.images.image import Image
from seamscope.models.model import Model
from seamscope.settings import Settings


@dataclass(frozen=True)
class FixStatistics:
    """Find the statistics of the whole image, and make the network that uses them."""

    model: Model
    image: Image
    settings: Settings
    turn: threading.Lock

    def __call__(self, reporter: Reporter) -> Any:
        """Return the network; None where it was stopped."""
        return InTurn(self.turn, self._found)(reporter)

    def _found(self, reporter: Reporter) -> Model:
        wanted = self.settings.but(
            tile="auto", halo="auto", overlap=None, area=None, blend="crop", seams="none"
        )
        found = freeze_statistics(
            self.image,
            self.model,
            "exact",
            wanted,
            cancelled=reporter.cancelled,
            on_progress=Progress(reporter, "tiles and layers"),
        )
        network = self.model.with_statistics(found)
        network.describe()  # measured here, not in the window's thread
        return network


@dataclass(frozen=True)
class NamedBlends:
    """Compare ways of blending."""

    model: Model
    image: Image
    settings: Settings
    turn: threading.Lock

    def __call__(self, reporter: Reporter) -> Any:
        """Return all ways, judged; None where it was stopped."""
        return InTurn(self.turn, CompareBlends(self.model, self.image, self.settings))(reporter)


__all__ = ["FixStatistics", "NamedBlends"]
