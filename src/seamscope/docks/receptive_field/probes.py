"""Gradient probes that are kept.

Knows when a probe can be used again. Does not know Qt: it is used in the worker's thread.
"""

from __future__ import annotations

from typing import Any

from seamscope.images.image import Image
from seamscope.models.model import Model
from seamscope.progress import Work
from seamscope.receptive_field.gradient_probe import GradientProbe
from seamscope.settings import Settings


class Probes:
    """The latest gradient probe: measuring a large image again takes long."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._probe: GradientProbe | None = None

    def of(self, image: Image, model: Model, settings: Settings, work: Work) -> GradientProbe:
        """Return the probe for these; called by one worker at a time."""
        key = (model, id(image.data), image.axes, settings)
        if self._probe is None or key != self._key:
            _ = model.fields  # measured here, for the window to know
            self._probe = GradientProbe(image, model, settings, work)
            self._key = key
        return self._probe


__all__ = ["Probes"]
