"""What the dock *Receptive field* does in the worker's thread.

Knows the engine and a `Reporter`. Does not know Qt: nothing here may touch a widget or a layer.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from seamscope.docks.job import Reporter
from seamscope.docks.tasks import held
from seamscope.images.image import Image
from seamscope.models.model import Model
from seamscope.receptive_field.fields import ReceptiveField, measure_receptive_field
from seamscope.receptive_field.gradient_maps import GradientProbe
from seamscope.settings import Settings


@dataclass(frozen=True)
class Understand:
    """Measure what a network can see; nothing where it was stopped."""

    model: Model
    turn: threading.Lock

    def __call__(self, reporter: Reporter) -> ReceptiveField | None:
        """Return theory, without gradients."""
        with held(self.turn, reporter) as mine:
            return measure_receptive_field(None, self.model, most_tiles=0) if mine else None


class Probes:
    """The latest gradient probe: measuring a large image again takes long."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._probe: GradientProbe | None = None

    def of(
        self, model: Model, image: Image, settings: Settings, cancelled: Callable[[], bool]
    ) -> GradientProbe:
        """Return the probe for these; called by one worker at a time."""
        key = (model, id(image.data), image.axes, settings)
        if self._probe is None or key != self._key:
            self._probe = GradientProbe(image, model, settings, cancelled)
            self._key = key
        return self._probe


@dataclass(frozen=True)
class Differentiate:
    """Ask a network for gradients: of many tiles, or of one pixel.

    Parameters
    ----------
    probes
        Where the probe is kept.
    model, image, settings
        What about.
    question
        Given the probe and the reporter; returns the answer.
    turn
        Held while the network is used.
    """

    probes: Probes
    model: Model
    image: Image
    settings: Settings
    question: Callable[[GradientProbe, Reporter], Any]
    turn: threading.Lock

    def __call__(self, reporter: Reporter) -> Any:
        """Return the answer; None where it was stopped."""
        with held(self.turn, reporter) as mine, contextlib.suppress(InterruptedError):
            if mine:
                _ = self.model.fields  # measured here, for the window to know
                probe = self.probes.of(self.model, self.image, self.settings, reporter.cancelled)
                return self.question(probe, reporter)
        return None


@dataclass(frozen=True)
class Average:
    """The mean over tiles; reports pairs: tiles done, and at most to do."""

    channel: int | None
    most: int

    def __call__(self, probe: GradientProbe, reporter: Reporter) -> Any:
        """Return an `EffectiveField`."""
        return probe.average(
            self.channel,
            most=self.most,
            cancelled=reporter.cancelled,
            on_progress=lambda done, total: reporter.tell((done, total)),
        )


@dataclass(frozen=True)
class OnePixel:
    """The map of one pixel of the image."""

    pixel: tuple[int, ...]
    frame: Sequence[int]
    channel: int | None

    def __call__(self, probe: GradientProbe, reporter: Reporter) -> Any:
        """Return a `GradientMap`."""
        return probe.at(self.pixel, self.channel, self.frame)


__all__ = ["Average", "Differentiate", "OnePixel", "Probes", "Understand"]
