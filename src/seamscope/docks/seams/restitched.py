"""The result stitched again at another border distance, as layers that follow the slider.

Knows kept predictions and result layers. Does not know the slider, or how predictions were kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from napari.layers import Layer
from qtpy.QtCore import QTimer

from seamscope.docks.evidence import Evidence
from seamscope.docks.results import ResultLayers, Run
from seamscope.seams.measures import Frame
from seamscope.seams.opinions import Opinions, Restitched

_PREFIX = "re-stitched · "


@dataclass
class _Shown:
    """Stands for an output: what result layers are made of."""

    array: Any
    record: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Picture:
    opinions: Opinions
    stitched: Restitched
    frame: Frame
    layers: ResultLayers


class RestitchedLayers:
    """Layers of one run at a time; those of others are hidden, and shown again when needed.

    These are whole results, drawn by `ResultLayers` as those of a run are, so that `KeptLayers`,
    which draws one picture into one layer, has no part in them.

    Parameters
    ----------
    viewer
        They are added to it.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._pictures: WeakKeyDictionary[Evidence, _Picture] = WeakKeyDictionary()
        self._now: _Picture | None = None
        self._hidden: list[Layer] = []

    @property
    def layers(self) -> list[Layer]:
        """What is shown now."""
        return [] if self._now is None else [x for x in self._now.layers.layers if self._has(x)]

    @property
    def array(self) -> Any:
        """What the layers show ``(C, *area)``; None where nothing is."""
        return None if self._now is None else self._now.stitched.array

    def knows(self, run: Run) -> bool:
        """Whether layers of this run can be shown at once."""
        known = self._pictures.get(run.evidence)
        if known is None or known.opinions is not run.evidence.opinions:
            return False
        return known.layers.present

    def add(self, run: Run, frame: Frame, stitched: Restitched, ready: Callable[[], None]) -> None:
        """Make layers of a run, hidden; stitching all of it takes its time, so it is given.

        Each layer is added when the window has answered.

        Parameters
        ----------
        run, frame
            What was stitched.
        stitched
            By `seamscope.seams.opinions.Opinions.restitch`.
        ready
            Called when all layers are here.
        """
        layers = ResultLayers(self._viewer, _single(run, frame, stitched))

        def go_on() -> None:
            layers.layers[-1].visible = False
            QTimer.singleShot(0, add_next)

        def add_next() -> None:
            opinions = run.evidence.opinions
            if opinions is None or not layers.present:  # deleted meanwhile
                for layer in filter(self._has, layers.layers):
                    self._viewer.layers.remove(layer)
                ready()
                return
            if layers.add_next():
                go_on()
                return
            layers.finish()
            for evidence in [e for e in self._pictures if e.opinions is None]:
                del self._pictures[evidence]  # what is no longer kept
            self._pictures[run.evidence] = _Picture(opinions, stitched, frame, layers)
            ready()

        go_on()

    def show(self, run: Run, results: list[Layer], frame: Frame, distance: int) -> None:
        """Show a frame of a run that is known, its seams cut at this border distance.

        Parameters
        ----------
        run, frame
            What to show; the frame counted in the image.
        results
            Layers of the run itself; hidden meanwhile, because they would shine through.
        distance
            See `seamscope.seams.opinions.Opinions.cuts`.
        """
        if self._now is not self._pictures[run.evidence] or not self.layers:
            self.hide()
            self._now = self._pictures[run.evidence]
            self._take_place_of(results)
        if self._now.frame != frame:
            self._now.stitched.turn_to(frame)
            self._now.frame = frame
            self._now.layers.turn_to(_single(run, frame, self._now.stitched))
        if self._now.stitched.distance != distance:
            self._now.stitched.move(distance)
        self._now.layers.draw()

    def hide(self) -> None:
        """Show the run's own layers again."""
        for layer in self.layers:
            layer.visible = False
        for layer in self._hidden:
            if self._has(layer):
                layer.visible = True
        self._hidden = []
        self._now = None

    def _has(self, layer: Layer) -> bool:
        return layer in self._viewer.layers

    def _take_place_of(self, results: list[Layer]) -> None:
        """Show the channels that are shown now, and hide the results."""
        assert self._now is not None
        seen = {_channel(layer) for layer in results if layer.visible}
        all_alike = not any(_channel(layer) in seen for layer in self.layers)
        for layer in self.layers:
            layer.visible = all_alike or _channel(layer) in seen
        self._hidden = [layer for layer in results if layer.visible]
        for layer in self._hidden:
            layer.visible = False


def _channel(layer: Layer) -> Any:
    return layer.metadata.get("seamscope", {}).get("channel")


def _single(run: Run, frame: Frame, stitched: Restitched) -> Run:
    """A run of one frame whose result is the re-stitched one: what the network gives."""
    plan = dataclasses.replace(
        run.plan,
        settings=run.plan.settings.but(result="probabilities"),
        frame_ranges=tuple((i, i + 1) for i in frame),
    )
    array = stitched.array if plan.out_channels > 1 else stitched.array[0]
    output: Any = _Shown(array[(None,) * len(frame)])
    return dataclasses.replace(run, plan=plan, output=output, prefix=_PREFIX, evidence=Evidence())
