"""What the docks of one viewer share: the network, the image, the plan, and what has been run.

Knows who speaks to whom. Does not know what is done with it.

Docks do not know each other. The prediction dock says what it has loaded and planned; others
listen, and ask it for another halo. Runs are found again by the layers that show them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from napari.layers import Image as ImageLayer
from napari.layers import Layer
from qtpy.QtCore import QObject, Signal

from seamscope.docks.layers import unwrapped
from seamscope.docks.results import Run
from seamscope.models.formats import Consent
from seamscope.models.model import Model
from seamscope.planning.plan import Plan
from seamscope.settings import Settings
from seamscope.tiling import Sides

_KEPT = 3  # runs whose tiles are kept
_sessions: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Fixed:
    """A network whose layers normalize by fixed statistics.

    Attributes
    ----------
    plain
        The network as it was loaded.
    network
        The same with the statistics (see `Model.with_statistics`), which takes its time to make.
    layer
        The image layer that they were found on; None where they come from a file.
    """

    plain: Model
    network: Model
    layer: ImageLayer | None = None


class Session(QObject):
    """Shared by all docks of a viewer; get it with `Session.of`.

    Signals
    -------
    changed
        Network, image layer or plan are others.
    run_ended : (object)
        A prediction is over; its `Run`.
    halo_wanted : (object, object)
        A dock wants this halo ``((before, after), ...)`` and overlap (None: what it needs) in
        the prediction dock.
    blend_wanted : (str, object)
        A dock wants this way of blending there, on tiles of this extent and overlap
        ``(tile, overlap)`` (None: as its controls say).
    run_wanted : (dict)
        Set these controls of the prediction dock (`halo`, `tile`, `overlap`, `blend`: values of
        `Settings`), and press Run.
    set_wanted : (dict)
        Set these controls, and do not run.
    stop_wanted
        Stop the prediction that is running.
    run_begins
        A prediction is about to begin: results that were shown make room for it.
    run_progressed : (str, int, int)
        How far the prediction is: a sentence, what is done, and how much there is.
    run_dropped
        A prediction that was wanted did not begin, or its result is gone.
    fixed_changed
        Fixed statistics were found, or are gone with their network.

    Attributes
    ----------
    model, layer, settings, plan
        What the prediction dock shows; None where there is none. The network is the one that
        predicts: with fixed statistics where these are used.
    plain
        The network as it was loaded.
    trust
        Whether code that comes with it was allowed to run.
    fixed
        What is known of it with fixed statistics; set it by `fix`.
    effective
        Halo ``((before, after), ...)`` that holds most of the network's gradient, where a dock
        measured it; set it by `tell_effective`.
    seconds_of
        Returns how long the prediction of a plan takes; None where that is not known yet.
    turn
        Held while a network is used, by one thread at a time.
    running
        Whether a prediction is running, or the file of its result is being opened.
    """

    changed = Signal()
    run_ended = Signal(object)
    halo_wanted = Signal(object, object)
    blend_wanted = Signal(str, object)
    run_wanted = Signal(object)
    set_wanted = Signal(object)
    stop_wanted = Signal()
    run_begins = Signal()
    run_progressed = Signal(str, int, int)
    run_dropped = Signal()
    fixed_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.model: Model | None = None
        self.plain: Model | None = None
        self.trust: bool | Consent = False
        self.fixed: Fixed | None = None
        self.layer: ImageLayer | None = None
        self.settings: Settings | None = None
        self.plan: Plan | None = None
        self.effective: tuple[Sides, ...] | None = None
        self.seconds_of: Callable[[Plan], float | None] = lambda _: None
        self.turn = threading.Lock()
        self.running = False
        self._runs: WeakKeyDictionary[Layer, Run] = WeakKeyDictionary()

    @classmethod
    def of(cls, viewer: Any) -> Session:
        """Return the session of a viewer; proxies of the same viewer share one."""
        viewer = unwrapped(viewer)
        if viewer not in _sessions:
            _sessions[viewer] = cls()
        return _sessions[viewer]

    def tell(
        self,
        model: Model | None,
        layer: ImageLayer | None,
        settings: Settings | None,
        plan: Plan | None,
        plain: Model | None = None,
        trust: bool | Consent = False,
    ) -> None:
        """Say what the prediction dock shows now; `plain` where `model` has fixed statistics."""
        new = model, layer, settings, plan
        if new != (self.model, self.layer, self.settings, self.plan):
            self.effective = self.effective if model is self.model else None
            self.model, self.layer, self.settings, self.plan = new
            self.plain, self.trust = plain or model, trust  # together: the one is of the other
            if self.fixed is not None and self.fixed.plain is not self.plain:
                self.fix(None)
            self.changed.emit()

    def fix(self, fixed: Fixed | None) -> None:
        """Say what the network is with fixed statistics."""
        if fixed is not self.fixed:
            self.fixed = fixed
            self.fixed_changed.emit()

    def tell_effective(self, halo: tuple[Sides, ...] | None) -> None:
        """Say what the effective reach of the network is."""
        if halo != self.effective:
            self.effective = halo
            self.changed.emit()

    def want_halo(self, halo: Any, overlap: Any = None) -> None:
        """Ask the prediction dock for a halo ``((before, after), ...)``, and an overlap."""
        self.halo_wanted.emit(halo, overlap)

    def want_blend(self, blend: str, grid: Any = None) -> None:
        """Ask the prediction dock for a way of blending, on tiles ``(tile, overlap)``."""
        self.blend_wanted.emit(blend, grid)

    def want_run(self, **controls: Any) -> None:
        """Ask the prediction dock to set these controls and press Run."""
        self.run_wanted.emit(controls)

    def begin_run(self) -> None:
        """Note that a prediction begins."""
        self.running = True
        self.run_begins.emit()

    def drop_run(self) -> None:
        """Note that a prediction did not begin, or that nothing shows its result."""
        self.running = False
        self.run_dropped.emit()

    def show_only(self, run: Run | None) -> None:
        """Hide the layers of all results but this one, and show those."""
        for layer, own in self._runs.items():
            layer.visible = own is run

    def add_run(self, run: Run, layers: list[Layer]) -> None:
        """Remember which layers show a run that is over, and emit `run_ended`.

        Only the last few runs keep what each tile predicted, so that memory does not fill up.
        """
        self.running = False
        for layer in layers:
            self._runs[layer] = run
        kept = [each for each in self.runs if each.evidence.kept]
        for old in kept[:-_KEPT]:
            old.evidence.release()
        self.run_ended.emit(run)

    def add_layers(self, run: Run, layers: list[Layer]) -> None:
        """Remember that more layers show a run."""
        for layer in layers:
            self._runs[layer] = run

    def forget(self, layers: list[Layer]) -> None:
        """Forget layers whose results are gone."""
        for layer in layers:
            self._runs.pop(layer, None)

    def layers_of(self, run: Run) -> list[Layer]:
        """Return the layers that show a run."""
        return [layer for layer, own in self._runs.items() if own is run]

    def results(self) -> list[Layer]:
        """Return the layers that show any run."""
        return list(self._runs)

    @property
    def runs(self) -> list[Run]:
        """All runs that some layer still shows, the first one first; also layers taken out."""
        return list(dict.fromkeys(self._runs.values()))

    def run_of(self, layer: Layer | None) -> Run | None:
        """Return the run that a layer shows, if it was made in this session."""
        return None if layer is None else self._runs.get(layer)
