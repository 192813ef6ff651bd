"""What all pages of the dock *Normalization* work on: one network, one image, one job at a time.

Knows the session, the layers that were found in the network, and how a question that uses the
network is answered. Does not know which questions there are, or how anything looks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.layers import Image as ImageLayer
from qtpy.QtCore import QObject, QTimer, Signal

from seamscope.docks.controls import BUSY, NO_CASE
from seamscope.docks.dock import Dock
from seamscope.docks.job import Job, Outcome
from seamscope.docks.kept_layers import ResultsUnderMaps
from seamscope.docks.layers import image_of
from seamscope.docks.normalization.layers import MapLayer
from seamscope.images.image import Image
from seamscope.models.model import Model
from seamscope.normalization.audit import Audit
from seamscope.normalization.statistics import PATCH, Statistics
from seamscope.progress import Work
from seamscope.settings import Settings

_NOTHING_NEW = "Stopped: nothing new was measured."


class Bench(QObject):
    """The network, the image, and the job that uses them.

    Parameters
    ----------
    dock
        Whose session is followed; it shows the job, and says what went wrong. The bench goes with
        it.

    Signals
    -------
    changed
        Which controls make sense may be others now.
    replaced
        Network or image are others: what was measured is of no use.
    audited
        Other layers are known, or none yet.
    patch_changed : (int)
        Networks of another number of axes are trained with patches of about this extent.

    Attributes
    ----------
    session, viewer, job, tell, fail
        Those of the dock.
    model, layer
        The network as it was loaded, and the image's layer; None where there is none.
    audit
        Its layers; None as long as they are not known.
    tile, batch
        Extent in pixels, and number in a batch, of the tiles that are looked at by themselves, as
        in training.
    """

    changed = Signal()
    replaced = Signal()
    audited = Signal()
    patch_changed = Signal(int)

    def __init__(self, dock: Dock) -> None:
        super().__init__(dock)
        self._dock = dock
        self.viewer, self.session, self.job = dock.viewer, dock.session, dock.job
        self.tell, self.fail = dock.tell, dock.fail
        self.model: Model | None = None
        self.layer: ImageLayer | None = None
        self.audit: Audit | None = None
        self.tile, self.batch = PATCH[2], 1
        self._axes: int | None = None  # spatial ones, that the patch was last chosen for
        self._auditing: Job | None = None
        self._maps: list[MapLayer] = []
        self._results_below = ResultsUnderMaps(self.viewer, self.session.results)
        self._soon = QTimer(self)  # a map is shown where another one was hidden before
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._make_ground)
        self.session.run_begins.connect(self._results_below.forget)
        self.session.changed.connect(self._session_changed)
        self.job.changed.connect(self.changed)

    @property
    def awake(self) -> bool:
        """Whether the dock is in its window."""
        return self._dock.awake

    def map_layer(self, title: str, colors: str) -> MapLayer:
        """Make a layer of maps, under which results are hidden."""
        self._maps.append(MapLayer(self.viewer, title, colors, self._soon.start))
        return self._maps[-1]

    def _make_ground(self) -> None:
        self._results_below.give_way(any(each.layer is not None for each in self._maps))

    @property
    def busy(self) -> bool:
        """Whether work is going on."""
        return self.job.busy

    @property
    def auditing(self) -> bool:
        """Whether layers are being looked for."""
        return self._auditing is not None

    @property
    def needed(self) -> tuple[tuple[bool, str], ...]:
        """What work needs to begin, as for `seamscope.docks.controls.allow`."""
        return (
            (self.session.plan is not None, NO_CASE),
            (self.audit is not None, "The layers of the network are being looked at."),
            (not self.busy, BUSY),
        )

    @property
    def there(self) -> bool:
        """Whether the image's layer is in the viewer, so that maps can be drawn over it."""
        return self.layer is not None and self.layer in self.viewer.layers

    # -- coming and going

    def wake(self) -> None:
        """Follow the session."""
        self._session_changed()

    def sleep(self) -> None:
        """End what is going on."""
        self.job.stop()
        self._abandon()

    def _session_changed(self) -> None:
        """Another network, image or plan."""
        if not self.awake:
            return
        session = self.session
        if session.plain is not self.model or session.layer is not self.layer:
            self.job.stop()
            new = session.plain is not self.model
            self.model, self.layer = session.plain, session.layer
            self.tell("")
            self.replaced.emit()
            if new:
                self._look_at_layers()
        self._offer_patch()
        self.changed.emit()

    def _offer_patch(self) -> None:
        plan = self.session.plan
        if plan is not None and plan.facts.spatial_axes != self._axes:
            self._axes = plan.facts.spatial_axes
            self.patch_changed.emit(PATCH[self._axes])

    # -- the layers

    def _look_at_layers(self) -> None:
        self._abandon()
        self.audit = None
        model = self.model
        if model is not None:

            def look(work: Work) -> Audit:
                return model.audit

            name = f"looking at the layers of {model.name}"
            self._auditing = Job(name, look, self, self.session.turn)
            self._auditing.ended.connect(self._found_layers)
            self._auditing.start()
        self.audited.emit()

    def _found_layers(self, outcome: Outcome) -> None:
        self._auditing = None
        if outcome.error is not None:
            self.fail(outcome.error, "Looking at the layers")
        self.audit = outcome.value
        self.audited.emit()
        self.changed.emit()

    def _abandon(self) -> None:
        if self._auditing is not None:
            self._auditing.abandon()
            self._auditing = None

    # -- long work

    def begin(
        self,
        name: str,
        question: Callable[..., Any],
        done: Callable[[Any], None],
        stopped: Callable[[], str] = lambda: _NOTHING_NEW,
        kept: bool = False,
    ) -> None:
        """Ask something that uses the network.

        Parameters
        ----------
        name
            What is done, for people.
        question
            Called with ``work``; returns the answer.
        done
            Gets the answer, if network and image are still the same.
        stopped
            What to say where it was cancelled.
        kept
            As for `JobRow.start`.
        """
        model, layer = self.model, self.layer

        def answered(value: Any) -> None:
            if value is None:
                self.tell(stopped(), "warning")
            elif self.awake and model is self.model and layer is self.layer:
                done(value)

        self._dock.start(name, question, answered, kept=kept)

    def image(self) -> Image | None:
        """The image as the engine reads it; None where there is none, or it cannot be."""
        plan, layer = self.session.plan, self.layer
        if plan is None or layer is None or self.busy:
            return None
        try:
            return image_of(layer, plan.layout.axes)
        except Exception as error:
            self.fail(error, "Reading the image")
            return None

    def settings(self) -> Settings | None:
        """Tiles that are looked at by themselves, as in training; None without a plan."""
        plan, settings = self.session.plan, self.session.settings
        if plan is None or settings is None:
            return None
        sizes = plan.layout.sizes(plan.layout.spatial, plan.image_shape)
        tile = tuple(
            axis.size_at_least(min(self.tile, size) + sum(axis.crop))
            for axis, size in zip(plan.facts.lattice, sizes, strict=True)
        )
        return settings.but(tile=tile, halo=0, overlap=0, batch=self.batch)

    def against(self, statistics: Statistics) -> tuple[str, ...]:
        """Why these statistics may not fit the image; sentences."""
        plan, layer = self.session.plan, self.layer
        return () if plan is None or layer is None else statistics.notes(layer.name, plan.seen)


__all__ = ["Bench"]
