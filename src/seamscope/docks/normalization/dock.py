"""The dock *Normalization*: by what layers normalize, and how to make that the same for all tiles.

Knows its controls, and how they are wired: the network and image of *Tiled prediction* -> layers,
fixed statistics, before and after, features, training. Does not know how anything is measured or
drawn.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels
from napari.utils.theme import get_theme
from qtpy.QtCore import QEvent, QSignalBlocker, Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QPushButton,
    QScrollArea,
    QSpinBox,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from seamscope.diagnosis.disparity import Disparity, has_running_statistics
from seamscope.diagnosis.feature_statistics import BatchExperiment, FeatureStatistics, PixelFeatures
from seamscope.docks.editors import Choice
from seamscope.docks.job import Job, Outcome
from seamscope.docks.layers import Wires, image_of
from seamscope.docks.looks import boxed, plain, text_label
from seamscope.docks.normalization.freeze_panel import FreezePanel
from seamscope.docks.normalization.layer_table import LayerTable
from seamscope.docks.normalization.layers import MapLayer, image_pixel, pixel_map, tile_map
from seamscope.docks.normalization.plots import (
    BatchPlot,
    BeforeAfterPlot,
    FeaturePanels,
    PixelFeaturesPlot,
)
from seamscope.docks.normalization.step_row import StepRow
from seamscope.docks.normalization.tasks import (
    AuditIt,
    Compare,
    DifferenceMap,
    Features,
    FeaturesOfPixel,
    Foresee,
    Freeze,
    FreezeAsked,
    InTurn,
    TakeOver,
    Train,
)
from seamscope.docks.normalization.texts import (
    audit_text,
    comparison_text,
    disparity_text,
    features_text,
    fixed_text,
    meaning,
    pixel_text,
    standardized,
    training_advice,
)
from seamscope.docks.prediction.run_panel import sentence
from seamscope.docks.session import Fixed, Session
from seamscope.images.image import Image, open_image
from seamscope.models.model import Model
from seamscope.normalization.audit import Audit
from seamscope.planning.plan import Plan, Settings
from seamscope.repair.before_after import BeforeAfter
from seamscope.repair.freezing import FreezePlan

_COST_DELAY_MS = 200
_PATCH = {1: 1024, 2: 128, 3: 64}  # about the patches that networks are trained with
_TIPS = {
    "compare": "Predict the tiles of Tiled prediction twice, with each tile's own statistics and\n"
    "with the fixed ones, and compare how neighbours agree.",
    "truth": "Labels to hold both predictions against: seamless is not the same as accurate.",
    "tile": "Extent of the tiles that are looked at, best that of the patches in training.",
    "most": "Of more tiles, so many are looked at, evenly chosen.",
    "measure": "Find mean and variance of each channel in every tile, at every layer.",
    "layer": "Layer whose features are shown.",
    "map": "Draw over the image how far each tile strays.",
    "ask": "While this is on, click into the image: the same pixel is looked at through several\n"
    "tiles, before and after normalization.",
    "batch": "Tiles in a batch in training; their extent is chosen in the tab Features.",
    "train": "Predict the image as in training (each batch's own statistics) and as in evaluation\n"
    "(those remembered), and compare. The network is not changed.",
    "difference": "Draw over the image where the two differ.",
}
_WAITING = (
    "Choose an image and a network in the dock <i>Tiled prediction</i>: by what its layers "
    "normalize is told here."
)
_ALIKE = (
    "No layer of this network has values remembered from training: it predicts as it was trained."
)


class NormalizationDock(QWidget):
    """See by what a network normalizes, and fix its statistics without retraining.

    Parameters
    ----------
    napari_viewer
        The viewer over whose images maps are drawn; network and image are those of its dock
        *Tiled prediction*.
    """

    _made = False  # Qt tells of events before all is there

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.problem = ""
        self.audit: Audit | None = None
        self.plan: FreezePlan | None = None  # of what the controls ask for
        self.effect: BeforeAfter | None = None
        self.features: FeatureStatistics | None = None
        self.batches: BatchExperiment | None = None
        self.pixel: tuple[PixelFeatures, ...] = ()
        self.disparity: Disparity | None = None
        self._difference: DifferenceMap | None = None
        self._session = Session.of(napari_viewer)
        self._model: Model | None = None
        self._layer: ImageLayer | None = None
        self._patch: int | None = None  # spatial axes that the tile's default was made for
        self._auditing: Job | None = None
        self._foreseeing: Job | None = None
        self._foreseen: tuple[Any, ...] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="seamscope-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._partials: dict[tuple[Any, ...], Path] = {}
        self._strays = MapLayer(napari_viewer, "stray", "inferno")
        self._differences = MapLayer(napari_viewer, "training − evaluation", "plasma")
        self._wires = Wires()
        self._awake = False
        self._make_controls()
        self._lay_out()
        self._connect()
        self.destroyed.connect(self._wires.cut)
        self._made = True
        self._wake()

    # -- for programs

    @property
    def busy(self) -> bool:
        """Whether something is being done that was asked for."""
        return self.job.busy

    @property
    def settled(self) -> bool:
        """Whether nothing goes on, not even finding out what freezing costs."""
        quiet = self._auditing is None and self._foreseeing is None
        return quiet and not self.busy and not self._cost_timer.isActive()

    def asked(self) -> FreezeAsked | None:
        """What the controls ask to be fixed; None as long as nothing can be, and for files."""
        session, how = self._session, self.freezing.how.value()
        plan, settings = session.plan, session.settings
        if self._model is None or self._layer is None or plan is None or settings is None:
            return None
        if how == "file":
            return None
        tile: Any = "auto" if self.freezing.grid_value() == "auto" else plan.grid.tile_shape
        return FreezeAsked(
            self._model,
            image_of(self._layer, plan.layout.axes),
            how,
            settings.but(tile=tile, halo="auto", overlap=None, area=None),
            self.freezing.cell.value(),
            self.freezing.tiles.value(),
        )

    def settings(self) -> Settings | None:
        """Tiles whose features are looked at, each by itself; None as long as nothing can be."""
        plan, settings = self._session.plan, self._session.settings
        if plan is None or settings is None:
            return None
        sizes = plan.layout.sizes(plan.layout.spatial, plan.image_shape)
        tile = tuple(
            axis.size_at_least(min(self.tile.value(), size) + sum(axis.crop))
            for axis, size in zip(plan.facts.lattice, sizes, strict=True)
        )
        return settings.but(tile=tile, halo=0, overlap=0, batch=self.batch.value())

    # -- making

    def _make_controls(self) -> None:
        self.verdict = text_label()
        self.error = text_label()
        self.error.hide()
        self.job = StepRow()
        self.table = LayerTable()
        self.meaning = text_label()
        self.freezing = FreezePanel()
        self._cost_timer = QTimer(self)
        self._cost_timer.setSingleShot(True)
        self._cost_timer.setInterval(_COST_DELAY_MS)
        self.truth = Choice([("None", None)], _TIPS["truth"])
        self.compare = _button("Compare", _TIPS["compare"])
        self.curves = BeforeAfterPlot()
        self.comparison = text_label()
        self.tile = _spin(8, 8192, _PATCH[2], _TIPS["tile"], " px")
        self.most = _spin(4, 65536, 256, _TIPS["most"])
        self.measure = _button("Measure", _TIPS["measure"])
        self.layer = Choice((), _TIPS["layer"])
        self.panels = FeaturePanels()
        self.stray = text_label()
        self.show_map = _box("Map of stray", _TIPS["map"])
        self.ask = _button("Compare tiles at a pixel", _TIPS["ask"])
        self.ask.setCheckable(True)
        self.pixel_plot = PixelFeaturesPlot()
        self.pixel_told = text_label()
        self.batch = _spin(1, 256, 1, _TIPS["batch"])
        self.train = _button("Measure", _TIPS["train"])
        self.show_difference = _box("Map of the difference", _TIPS["difference"])
        self.told_training = text_label()
        self.batch_plot = BatchPlot()
        self.advice = text_label()

    def _lay_out(self) -> None:
        inside = QWidget()
        column = QVBoxLayout(inside)
        self.tabs = self._make_tabs()
        for part in (self.verdict, self.error, self.job):
            column.addWidget(part)
        column.addWidget(self.tabs, 1)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setFrameShape(QScrollArea.Shape.NoFrame)
        scroll.setWidget(inside)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(scroll)
        self.setMinimumWidth(400)

    def _make_tabs(self) -> QTabWidget:
        tabs = QTabWidget()
        tabs.addTab(_page(self.table, self.meaning), "Layers")
        tabs.addTab(self.freezing, "Freeze")
        truth = _form(("Truth", self.truth))
        tabs.addTab(_page(truth, self.compare, self.comparison, self.curves), "Effect")
        asked = _form(("Tile", self.tile), ("At most", self.most))
        shown = _form(("Layer", self.layer))
        parts = (asked, self.measure, shown, self.stray, self.panels, self.show_map)
        tabs.addTab(_page(*parts, self.ask, self.pixel_told, self.pixel_plot), "Features")
        batch = _form(("Batch", self.batch))
        training = (batch, self.train, self.told_training, self.show_difference)
        tabs.addTab(_page(*training, self.batch_plot, self.advice), "Training")
        return tabs

    def _connect(self) -> None:
        self._session.changed.connect(self._session_changed)
        self._session.fixed_changed.connect(self._show_fixed)
        self.job.changed.connect(self._show_state)
        self.job.failed.connect(self._tell)
        self.table.chosen.connect(self._layer_chosen)
        self.freezing.changed.connect(self._foresee_soon)
        self.freezing.wanted.connect(self._freeze)
        self.freezing.save_wanted.connect(self.save_to)
        self.tabs.currentChanged.connect(self._tab_changed)
        self._cost_timer.timeout.connect(self._foresee)
        self.compare.clicked.connect(self._compare)
        self.measure.clicked.connect(self._measure)
        self.layer.value_changed.connect(self._show_layer)
        self.show_map.toggled.connect(self._show_strays)
        self.ask.toggled.connect(self._ask_toggled)
        self.train.clicked.connect(self._train)
        self.show_difference.toggled.connect(self._show_differences)

    # -- coming and going

    def _wake(self) -> None:
        """Follow the viewer."""
        self._awake = True
        layers = self.viewer.layers.events
        changes = (layers.inserted, layers.removed, layers.renamed)
        self._wires.connect(changes, self._layers_changed)
        self._wires.connect([self.viewer.events.theme], self._theme_changed)
        self._theme_changed()
        self._layers_changed()
        self._session_changed()
        self._show_state()

    def _sleep(self) -> None:
        """Taken out of its window: end what is going on, and leave nothing behind."""
        self._awake = False
        self.job.stop()
        self._cost_timer.stop()
        self._abandon("_auditing", "_foreseeing")
        self.ask.setChecked(False)
        self._strays.hide()
        self._differences.hide()
        self._wires.cut()

    def event(self, event: Any) -> bool:
        """Notice being docked, and being closed: napari then only takes the widget out."""
        if event.type() == QEvent.Type.ParentChange and self._made:
            if self.parent() is None and self._awake:
                self._sleep()
            elif self.parent() is not None and not self._awake:
                self._wake()
        return bool(super().event(event))

    def _theme_changed(self, _: Any = None) -> None:
        theme = get_theme(self.viewer.theme)
        for plot in (self.panels, self.pixel_plot, self.batch_plot, self.curves):
            plot.set_colors(theme.background.as_hex(), theme.text.as_hex())

    def _layers_changed(self, _: Any = None) -> None:
        labels = [(x.name, x) for x in self.viewer.layers if isinstance(x, Labels)]
        with QSignalBlocker(self.truth):
            self.truth.set_options([("None", None), *labels])

    # -- the network and the image

    def _session_changed(self) -> None:
        """Another network, image or plan."""
        if not self._awake:
            return
        session = self._session
        if session.plain is not self._model or session.layer is not self._layer:
            self.job.stop()
            new = session.plain is not self._model
            self._model, self._layer = session.plain, session.layer
            self._forget()
            if new:
                self._new_model()
        self._offer_patch()
        self._show_state()
        self._foresee_soon()

    def _offer_patch(self) -> None:
        """Begin with the usual patches of networks of so many axes."""
        plan = self._session.plan
        if plan is not None and plan.facts.spatial_axes != self._patch:
            self._patch = plan.facts.spatial_axes
            self.tile.setValue(_PATCH[self._patch])

    def _forget(self) -> None:
        """What was measured belongs to another network or image."""
        self._partials.clear()
        self.plan = self._foreseen = None
        self.effect = self.features = self.batches = self.disparity = self._difference = None
        self.pixel = ()
        self._tell("")
        self._strays.hide()
        self._differences.hide()
        self._show_effect()
        self._show_features()
        self._show_training()
        self._show_fixed()

    def _new_model(self) -> None:
        self.audit = None
        self.table.show_audit(None)
        self.meaning.setText("")
        self._abandon("_auditing")
        model = self._model
        if model is None:
            return
        work = InTurn(self._session.turn, AuditIt(model))
        self._auditing = Job(f"looking at the layers of {model.name}", work, self)
        self._auditing.ended.connect(self._audited)
        self._auditing.start()

    def _audited(self, outcome: Outcome) -> None:
        self._auditing = None
        if outcome.error is not None:
            self._fail(outcome.error, "Looking at the layers")
        self.audit = outcome.value
        self.table.show_audit(self.audit)
        self._show_training()
        self._show_state()
        self._foresee_soon()

    def _tab_changed(self, _: Any = None) -> None:
        """One map at a time: that of the tab."""
        if self.tabs.tabText(self.tabs.currentIndex()) == "Training":
            self._show_differences()
        elif self._difference is not None:
            self._show_strays()
        self._foresee_soon()

    def _layer_chosen(self, number: int) -> None:
        assert self.audit is not None
        self.meaning.setText(plain(meaning(self.audit.layers[number])))
        self.layer.set_value(number)

    def _show_state(self) -> None:
        """Verdict, and which controls make sense."""
        model, audit, session = self._model, self.audit, self._session
        if model is None or session.layer is None:
            self.verdict.setText(_WAITING)
        elif audit is None:
            self.verdict.setText("" if self.problem else "<i>Looking at the layers …</i>")
        elif session.model is not None and session.model.statistics is not None:
            self.verdict.setText(fixed_text(session.model.statistics, session.model))
        else:
            self.verdict.setText(audit_text(model, audit))
        ready = session.plan is not None and audit is not None and not self.busy
        fixable = ready and audit is not None and bool(audit.calls)
        partial = self._partials.get(self._key())
        self.freezing.show_state(
            fixable, partial is not None and partial.exists(), session.fixed is not None
        )
        self.compare.setEnabled(ready and session.fixed is not None)
        seen = audit is not None and audit.watched and bool(audit.layers)
        self.measure.setEnabled(ready and seen)
        self.ask.setEnabled(session.plan is not None and seen)
        self.train.setEnabled(ready and audit is not None and has_running_statistics(audit))

    # -- long work

    def _begin(
        self, name: str, question: Callable[[Any], Any], done: Callable[[Any], None]
    ) -> None:
        """Do something with the network; `done` gets its answer if that is still wanted."""
        model, layer = self._model, self._layer

        def answered(value: Any) -> None:
            if value is None:
                self._tell(self._stopped_text())
            elif self._awake and model is self._model and layer is self._layer:
                done(value)

        self._tell("")
        self.job.start(name, InTurn(self._session.turn, question), answered)

    def _stopped_text(self) -> str:
        partial = self._partials.get(self._key())
        if partial is not None and partial.exists():
            return "Stopped: Resume goes on from the layers that are known."
        return "Stopped: nothing new is known."

    def _image(self) -> Image | None:
        """The image as the engine reads it; None where there is none, or it cannot be."""
        plan, layer = self._session.plan, self._layer
        if plan is None or layer is None or self.busy:
            return None
        try:
            return image_of(layer, plan.layout.axes)
        except Exception as error:
            self._fail(error, "Reading the image")
            return None

    def _abandon(self, *names: Literal["_auditing", "_foreseeing"]) -> None:
        """Hear nothing more of what goes on by itself."""
        for name in names:
            job: Job | None = getattr(self, name)
            if job is not None:
                job.abandon()
            setattr(self, name, None)

    def _fail(self, error: Exception, what: str) -> None:
        self._tell(sentence(error, what))

    def _tell(self, problem: str) -> None:
        """Say in one sentence what went wrong; nothing when nothing did."""
        self.problem = problem
        self.error.setText(boxed(problem, "error") if problem else "")
        self.error.setVisible(bool(problem))

    # -- freezing

    def _key(self) -> tuple[Any, ...]:
        """What is asked to be fixed, told apart from everything else."""
        panel, settings, plan = self.freezing, self._session.settings, self._session.plan
        how, grid = panel.how.value(), panel.grid_value()
        own: Any = {"local": panel.cell, "sampled": panel.tiles}.get(how)
        tile = "auto" if plan is None or grid == "auto" else plan.grid.tile_shape
        told = None if settings is None else settings.but(
            tile=tile, halo="auto", overlap=None, area=None, blend="crop", seams="none"
        )  # fmt: skip
        return how, None if own is None else own.value(), repr(told)

    def _foresee_soon(self, _: Any = None) -> None:
        """Find out what is asked for costs, once the controls rest."""
        self._show_state()
        if self.freezing.how.value() == "file":
            self.freezing.cost.setText("The file says which network its statistics belong to.")
        elif self._awake and self._key() != self._foreseen:
            self._cost_timer.start()

    def _foresee(self) -> None:
        if self.tabs.currentWidget() is not self.freezing or self.audit is None:
            return
        key = self._key()
        try:
            asked = self.asked()
        except Exception as error:
            self.freezing.cost.setText(boxed(sentence(error, "Planning"), "error"))
            return
        if asked is None or key == self._foreseen:
            return
        self._abandon("_foreseeing")
        self.plan, self._foreseen = None, key
        self.freezing.cost.setText("<i>Finding out what it costs …</i>")
        work = InTurn(self._session.turn, Foresee(asked))
        self._foreseeing = Job("finding out what freezing costs", work, self)
        self._foreseeing.ended.connect(self._foresaw)
        self._foreseeing.start()

    def _foresaw(self, outcome: Outcome) -> None:
        self._foreseeing = None
        self.plan = outcome.value
        if outcome.error is not None:
            told = boxed(sentence(outcome.error, "Planning"), "warning")
        elif self.plan is None:
            self._foreseen, told = None, ""
        else:
            told = plain(self.plan.sentence)
        self.freezing.cost.setText(told)
        self._show_state()

    def _freeze(self) -> None:
        """Find the statistics, or read them, as the button does."""
        model, layer = self._model, self._layer
        if self.busy or model is None or layer is None:
            return
        if self.freezing.how.value() == "file":
            path = self.freezing.path
            self._begin(f"reading {path.name}", TakeOver(path, model), self._taken_over)
            return
        try:
            asked = self.asked()
        except Exception as error:
            self._fail(error, "Freezing")
            return
        if asked is None:
            return
        key = self._key()
        planned = self.plan if key == self._foreseen else None
        partial = self._partials.setdefault(key, self._new_file())
        work = _FreezeAnyhow(asked, planned, partial)
        self._begin(f"fixing the statistics of {layer.name}", work, self._frozen)

    def _new_file(self) -> Path:
        return self._folder / f"{len(self._partials)}.safetensors"

    def _frozen(self, network: Model) -> None:
        self._use(network, self._layer)

    def _taken_over(self, network: Model) -> None:
        self._use(network, None)

    def _use(self, network: Model, layer: ImageLayer | None) -> None:
        """Let all docks use the network with fixed statistics."""
        if self._model is not None:
            self.effect = None
            self._show_effect()
            self._session.fix(Fixed(self._model, network, layer))

    def _show_fixed(self) -> None:
        """Say what is fixed."""
        fixed = self._session.fixed
        own = fixed is not None and fixed.plain is self._model
        statistics = fixed.network.statistics if fixed is not None and own else None
        told = "" if statistics is None or fixed is None else fixed_text(statistics, fixed.network)
        self.freezing.result.setText(told)
        self._show_state()

    def save_to(self, path: Path) -> None:
        """Write the statistics to a file."""
        fixed = self._session.fixed
        statistics = None if fixed is None else fixed.network.statistics
        if statistics is None or self.busy:
            return

        def saved(_: Any) -> None:
            self.freezing.cost.setText(f"Written to {plain(path.name)}.")

        def save(_: Any) -> bool:
            statistics.save(path)
            return True

        self._tell("")
        self.job.start(f"writing {path.name}", save, saved)

    # -- before and after

    def _compare(self, _: Any = None) -> None:
        """Measure both ways, as the button does."""
        session, image = self._session, self._image()
        fixed, plan, settings = session.fixed, session.plan, session.settings
        if image is None or fixed is None or plan is None or settings is None:
            return
        statistics = fixed.network.statistics
        assert statistics is not None
        try:
            labels = self._labels(plan)
        except Exception as error:
            self._fail(error, "Reading the labels")
            return
        settings = settings.but(tile=plan.grid.tile_shape, result="probabilities")
        work = Compare(fixed.plain, statistics, image, settings, labels)
        self._begin("comparing before and after", work, self._compared)

    def _labels(self, plan: Plan) -> Image | None:
        layer = self.truth.value()
        if layer is None:
            return None
        data = layer.data[0] if layer.multiscale else layer.data
        letters = "".join(a for a in plan.layout.axes if a != plan.layout.channel)
        axes = letters if len(letters) == data.ndim else plan.layout.spatial
        return open_image(data, axes=axes if len(axes) == data.ndim else None)

    def _compared(self, found: BeforeAfter) -> None:
        self.effect = found
        self._show_effect()

    def _show_effect(self) -> None:
        effect = self.effect
        self.curves.setVisible(effect is not None)
        self.curves.show(effect)
        self.comparison.setText(
            "Freeze statistics first; then see what they do to the seams."
            if effect is None and self._session.fixed is None
            else "" if effect is None else comparison_text(effect)
        )  # fmt: skip

    # -- features

    def _measure(self, _: Any = None) -> None:
        """Measure the features of tiles, as the button does."""
        image = self._image()
        settings = self.settings()
        if image is None or settings is None or self._model is None:
            return
        fixed = self._session.fixed
        known = None
        if fixed is not None and fixed.layer is self._layer:
            own = fixed.network.statistics
            known = own if own is not None and own.how == "exact" else None
        work = Features(self._model, image, settings, known, self.most.value())
        self._begin("measuring features", work, self._measured)

    def _measured(self, found: tuple[FeatureStatistics, BatchExperiment]) -> None:
        self.features, self.batches = found
        self._show_features()
        self._show_training()

    def _show_features(self) -> None:
        found = self.features
        layers = () if found is None else found.layers
        self.table.layers.show_strays([one.stray for one in layers])
        options = [
            (f"{one.layer.name or f'no. {k + 1}'} · {one.layer.kind} · stray {one.stray:.2g}", k)
            for k, one in enumerate(layers)
        ]
        with QSignalBlocker(self.layer):
            self.layer.set_options(options)
        self.layer.setEnabled(found is not None)
        self.show_map.setEnabled(found is not None)
        self._show_layer()

    def _show_layer(self) -> None:
        """Show the layer that is chosen."""
        found, number = self.features, self.layer.value()
        one = None if found is None or number is None else found.layers[number]
        self.panels.setVisible(one is not None)
        self.panels.show_layer(one)
        told = "" if found is None or number is None else features_text(found, number)
        self.stray.setText(told)
        self.pixel = ()
        self._show_pixel()
        self._show_strays()

    def _show_strays(self, _: Any = None) -> None:
        """Draw the map, or take it away."""
        found, layer, number = self.features, self._layer, self.layer.value()
        there = layer is not None and layer in self.viewer.layers
        if found is None or layer is None or not there or not self.show_map.isChecked():
            self._strays.hide()
            return
        self._differences.hide()
        array, place = tile_map(found, number, layer)
        self._strays.show(layer, array, place, "standard deviations of the reference")

    def _ask_toggled(self, wanted: bool) -> None:
        callbacks = self.viewer.mouse_drag_callbacks
        if wanted:
            callbacks.append(self._clicked)
        elif self._clicked in callbacks:
            callbacks.remove(self._clicked)

    def _clicked(self, _: Any, event: Any) -> Any:
        """Tell a click from a drag: a generator that napari resumes while the mouse moves."""
        yield
        moved = False
        while event.type == "mouse_move":
            moved = True
            yield
        if not moved:
            self.ask_at(event.position)

    def ask_at(self, world: Sequence[float]) -> None:
        """Look at the pixel at a point of the world through several tiles."""
        plan, layer, settings = self._session.plan, self._layer, self.settings()
        image, model = self._image(), self._model
        if image is None or plan is None or layer is None or settings is None or model is None:
            return
        found = image_pixel(plan, layer.world_to_data(list(world)[-layer.ndim :]))
        if found is None:
            self._tell("That is beside the image: click into it.")
            return
        pixel, frame = found
        area = {a: (f, f + 1) for a, f in zip(plan.layout.frames, frame, strict=True)}
        settings = settings.but(area=area or None, batch=1)
        number = self.layer.value() or 0
        work = FeaturesOfPixel(model, image, settings, pixel, number)
        self._begin("looking at one pixel", work, lambda got: self._asked_pixel(got, pixel))

    def _asked_pixel(self, found: tuple[PixelFeatures, ...], pixel: Sequence[int]) -> None:
        # the same tile several times where the image has room for one position only
        self.pixel = tuple({one.start: one for one in found}.values())
        self._show_pixel(pixel)

    def _show_pixel(self, pixel: Sequence[int] = ()) -> None:
        self.pixel_plot.setVisible(bool(self.pixel))
        if not self.pixel:
            self.pixel_plot.show(np.zeros((0, 0)), np.zeros((0, 0)))
            self.pixel_told.setText("")
            return
        before, after = (
            np.stack([getattr(one, name).reshape(-1) for one in self.pixel]).astype(float)
            for name in ("before", "after")
        )
        number = self.layer.value()
        if self.features is not None and number is not None:
            mean, std = standardized(self.features.layers[number], before.shape[1])
        else:
            mean, std = before.mean(0), np.maximum(before.std(), 1e-12)
        self.pixel_plot.show((before - mean) / std, after)
        told = pixel_text(*self.pixel_plot.apart, len(self.pixel), pixel)
        self.pixel_told.setText(told)

    # -- training

    def _train(self, _: Any = None) -> None:
        """Measure the disparity, as the button does."""
        image, settings = self._image(), self.settings()
        if image is not None and settings is not None and self._model is not None:
            work = Train(self._model, image, settings)
            self._begin("predicting as in training", work, self._trained)

    def _trained(self, found: tuple[Disparity, DifferenceMap | None]) -> None:
        self.disparity, self._difference = found
        self._show_training()
        self._show_differences()

    def _show_training(self) -> None:
        found, audit = self.disparity, self.audit
        alike = audit is not None and not has_running_statistics(audit)
        told = plain(_ALIKE) if alike else "" if found is None else disparity_text(found)
        self.told_training.setText(told)
        self.show_difference.setEnabled(self._difference is not None)
        self.batch_plot.setVisible(self.batches is not None)
        self.batch_plot.show(self.batches)
        said = "" if audit is None else training_advice(audit, found, self.features, self.batches)
        self.advice.setText(said)

    def _show_differences(self, _: Any = None) -> None:
        """Draw the map, or take it away."""
        shown, layer = self._difference, self._layer
        there = layer is not None and layer in self.viewer.layers
        if shown is None or layer is None or not there or not self.show_difference.isChecked():
            self._differences.hide()
            return
        self._strays.hide()
        array, place = pixel_map(shown.values, shown.plan, layer)
        self._differences.show(layer, array, place, "difference of predictions")


class _FreezeAnyhow:
    """Freeze as planned; plan first where the plan is not known yet."""

    def __init__(self, asked: FreezeAsked, plan: FreezePlan | None, partial: Path) -> None:
        self._asked, self._plan, self._partial = asked, plan, partial

    def __call__(self, reporter: Any) -> Model:
        plan = self._plan or Foresee(self._asked)(reporter)
        return Freeze(self._asked, plan, self._partial)(reporter)


def _page(*parts: QWidget | QFormLayout) -> QWidget:
    page = QWidget()
    column = QVBoxLayout(page)
    for part in parts:
        column.addWidget(part) if isinstance(part, QWidget) else column.addLayout(part)
    column.addStretch(1)
    return page


def _form(*rows: tuple[str, QWidget]) -> QFormLayout:
    form = QFormLayout()
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for name, field in rows:
        form.addRow(name, field)
    return form


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    return button


def _box(text: str, tip: str) -> QCheckBox:
    box = QCheckBox(text)
    box.setToolTip(tip)
    box.setChecked(True)
    return box


def _spin(low: int, high: int, value: int, tip: str, suffix: str = "") -> QSpinBox:
    box = QSpinBox()
    box.setRange(low, high)
    box.setValue(value)
    box.setSuffix(suffix)
    box.setKeyboardTracking(False)
    box.setToolTip(tip)
    return box


__all__ = ["NormalizationDock"]
