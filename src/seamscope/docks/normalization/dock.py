"""The dock *Normalization*: by what layers normalize, and how to make that the same for all tiles.

Knows its pages, and how they are wired: the network and image of *Tiled prediction* -> layers,
fixed statistics, before and after, features, training, blends. Does not know what is on a page, or
how anything is measured or drawn.
"""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QScrollArea, QVBoxLayout, QWidget

from seamscope.docks.late_plot import follow_theme
from seamscope.docks.layers import Wires
from seamscope.docks.looks import boxed, text_label
from seamscope.docks.normalization.bench import Bench
from seamscope.docks.normalization.blends_page import BlendsPage
from seamscope.docks.normalization.effect_page import EffectPage
from seamscope.docks.normalization.features_page import FeaturesPage
from seamscope.docks.normalization.freeze_page import FreezePage
from seamscope.docks.normalization.layers_page import LayersPage
from seamscope.docks.normalization.step_row import StepRow
from seamscope.docks.normalization.texts import audit_text, fixed_text
from seamscope.docks.normalization.training_page import TrainingPage
from seamscope.docks.pages import Pages
from seamscope.normalization.audit import Audit

_WAITING = (
    "Choose an image and a network in the dock <i>Tiled prediction</i>: by what its layers "
    "normalize is told here."
)


class NormalizationDock(QWidget):
    """See by what a network normalizes, and fix its statistics without retraining.

    Parameters
    ----------
    napari_viewer
        The viewer over whose images maps are drawn; network and image are those of its dock
        *Tiled prediction*.

    Attributes
    ----------
    layers, freezing, effect, features, training, blends
        The pages.
    """

    _made = False  # Qt tells of events before all is there

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self._wires = Wires()
        self.verdict = text_label()
        self.error = text_label()
        self.error.hide()
        self.job = StepRow()
        self.bench = Bench(napari_viewer, self.job)
        self.layers = LayersPage(self.bench)
        self.freezing = FreezePage(self.bench)
        self.effect = EffectPage(self.bench)
        self.features = FeaturesPage(self.bench)
        self.training = TrainingPage(self.bench)
        self.blends = BlendsPage(self.bench)
        self._lay_out()
        self._connect()
        self.destroyed.connect(self._wires.cut)
        self._made = True
        self._wake()

    # -- for programs

    @property
    def busy(self) -> bool:
        """Whether something is being done that was asked for."""
        return self.bench.busy

    @property
    def settled(self) -> bool:
        """Whether nothing goes on, not even finding out what freezing costs."""
        return not self.bench.auditing and self.freezing.settled and not self.busy

    @property
    def problem(self) -> str:
        """The sentence on what went wrong, empty when nothing did."""
        return self.bench.problem

    @property
    def audit(self) -> Audit | None:
        """The network's layers; None as long as they are not known."""
        return self.bench.audit

    # -- making

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

    def _make_tabs(self) -> Pages:
        tabs = Pages()
        pages: dict[str, QWidget] = {
            "Layers": self.layers,
            "Freeze": self.freezing,
            "Effect": self.effect,
            "Features": self.features,
            "Training": self.training,
            "Blends": self.blends,
        }
        for name, page in pages.items():
            tabs.addTab(page, name)
        return tabs

    def _connect(self) -> None:
        self.bench.told.connect(self._show_problem)
        self.bench.changed.connect(self._show_verdict)
        self.bench.session.fixed_changed.connect(self._show_verdict)
        self.layers.chosen.connect(self.features.layer.set_value)
        self.features.measured.connect(self._features_measured)
        self.features.map_shown.connect(self.training.differences.hide)
        self.training.map_shown.connect(self.features.strays.hide)
        self.tabs.currentChanged.connect(self._tab_changed)

    # -- coming and going

    def _wake(self) -> None:
        """Follow the viewer."""
        layers = self.viewer.layers.events
        changes = (layers.inserted, layers.removed, layers.renamed)
        self._wires.connect(changes, self._layers_changed)
        self._wires.connect([self.viewer.events.theme], self._theme_changed)
        self._theme_changed()
        self._layers_changed()
        self.bench.wake()

    def _sleep(self) -> None:
        """Taken out of its window: end what is going on, and leave nothing behind."""
        self.bench.sleep()
        for page in (self.freezing, self.features, self.training):
            page.sleep()
        self._wires.cut()

    def event(self, event: Any) -> bool:
        """Notice being docked, and being closed: napari then only takes the widget out."""
        if event.type() == QEvent.Type.ParentChange and self._made:
            if self.parent() is None and self.bench.awake:
                self._sleep()
            elif self.parent() is not None and not self.bench.awake:
                self._wake()
        return bool(super().event(event))

    def _theme_changed(self, _: Any = None) -> None:
        features = self.features
        plots = features.panels, features.pixel_plot, self.training.batch_plot, self.effect.curves
        follow_theme(plots, self.viewer)

    def _layers_changed(self, _: Any = None) -> None:
        self.effect.offer_truth()

    # -- from page to page

    def _features_measured(self) -> None:
        found = self.features.features
        self.layers.show_strays([one.stray for one in (() if found is None else found.layers)])
        self.training.show_features(found, self.features.batches)

    def _tab_changed(self, _: Any = None) -> None:
        """One map at a time: that of the tab. And what freezing costs, where that is asked."""
        if self.tabs.currentWidget() is self.training:
            self.training.draw_map()
        elif self.training.difference is not None:
            self.features.draw_map()
        self.freezing.foresee_soon()

    # -- above all pages

    def _show_verdict(self) -> None:
        """Say whether tiles agree."""
        bench = self.bench
        session, audit = bench.session, bench.audit
        if bench.model is None or session.layer is None:
            self.verdict.setText(_WAITING)
        elif audit is None:
            self.verdict.setText("" if self.problem else "<i>Looking at the layers …</i>")
        elif session.model is not None and session.model.statistics is not None:
            fixed = session.model.statistics
            self.verdict.setText(fixed_text(fixed, session.model, bench.against(fixed)))
        else:
            self.verdict.setText(audit_text(bench.model, audit))

    def _show_problem(self, problem: str) -> None:
        self.error.setText(boxed(problem, "error") if problem else "")
        self.error.setVisible(bool(problem))


__all__ = ["NormalizationDock"]
