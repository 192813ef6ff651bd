"""The dock *Normalization*: by what layers normalize, and how to make that the same for all tiles.

Knows its pages, and how they are wired: the network and image of *Tiled prediction* -> layers,
fixed statistics, before and after, features, training, blends. Does not know what is on a page, or
how anything is measured or drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from qtpy.QtWidgets import QWidget

from seamscope.docks.dock import Dock
from seamscope.docks.looks import text_label
from seamscope.docks.normalization.bench import Bench
from seamscope.docks.normalization.blends_page import BlendsPage
from seamscope.docks.normalization.effect_page import EffectPage
from seamscope.docks.normalization.features_page import FeaturesPage
from seamscope.docks.normalization.freeze_page import FreezePage
from seamscope.docks.normalization.layers_page import LayersPage
from seamscope.docks.normalization.texts import fixed_text
from seamscope.docks.normalization.training_page import TrainingPage
from seamscope.docks.pages import Pages
from seamscope.docks.rich_text import rich_text
from seamscope.normalization.audit import Audit
from seamscope.reports.describe import describe
from seamscope.reports.parts import Part, Verdict

_WAITING = (
    "Choose an image and a network in the step <i>Predict</i>: its normalization layers are "
    "listed here."
)
_TABS = {
    "Layers": "The layers that normalize, and which statistics they use.",
    "Fix statistics": "Let every tile use the same statistics. No retraining.",
    "Effect": "Seams and accuracy, before and after fixing the statistics.",
    "Features": "How much the statistics of tiles differ, layer by layer.",
    "Training": "Whether the network predicts in evaluation as it did in training.",
    "Blends": "Which way of blending leaves the faintest seams.",
}


class NormalizationDock(Dock):
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

    least_width = 400

    def build(self) -> None:
        """Make the pages and wire them."""
        self.verdict = text_label()
        self.bench = Bench(self)
        self.layers = LayersPage(self.bench)
        self.freezing = FreezePage(self.bench)
        self.effect = EffectPage(self.bench)
        self.features = FeaturesPage(self.bench)
        self.training = TrainingPage(self.bench)
        self.blends = BlendsPage(self.bench)
        self.tabs = self._make_tabs()
        self.place_with_status([self.verdict, self.tabs])
        self._connect()

    # -- for programs

    @property
    def busy(self) -> bool:
        """Whether work is going on."""
        return self.bench.busy

    @property
    def settled(self) -> bool:
        """Whether no work is going on, estimates of costs included."""
        return not self.bench.auditing and self.freezing.settled and not self.busy

    @property
    def audit(self) -> Audit | None:
        """The network's layers; None as long as they are not known."""
        return self.bench.audit

    # -- making

    def _make_tabs(self) -> Pages:
        tabs = Pages()
        pages: tuple[QWidget, ...] = (
            *(self.layers, self.freezing, self.effect),
            *(self.features, self.training, self.blends),
        )
        for page, (name, tip) in zip(pages, _TABS.items(), strict=True):
            tabs.add(page, name, tip)
        return tabs

    def _connect(self) -> None:
        self.bench.changed.connect(self._show_verdict)
        self.bench.session.fixed_changed.connect(self._show_verdict)
        self.layers.chosen.connect(self.features.layer.set_value)
        self.features.measured.connect(self._features_measured)
        self.tabs.currentChanged.connect(self._tab_changed)
        self.draw()

    # -- coming and going

    def follow(self) -> None:
        """Follow the viewer and the session."""
        layers = self.viewer.layers.events
        changes = (layers.inserted, layers.removed, layers.renamed)
        self.listen(changes, self._layers_changed)
        self._layers_changed()
        self.bench.wake()

    def leave(self) -> None:
        """Stop work, and hide the maps."""
        self.bench.sleep()
        for page in (self.freezing, self.features, self.training):
            page.sleep()

    def plots(self) -> Sequence[Any]:
        """Plots of all pages."""
        features = self.features
        return features.panels, features.pixel_plot, self.training.batch_plot, self.effect.curves

    def _layers_changed(self, _: Any = None) -> None:
        self.effect.offer_truth()

    # -- from page to page

    def _features_measured(self) -> None:
        found = self.features.features
        self.layers.show_deviations(
            [one.deviation for one in (() if found is None else found.layers)]
        )
        self.training.show_features(found, self.features.batches)

    def _tab_changed(self, _: Any = None) -> None:
        """Show the map of the current tab, and estimate costs on the tab Fix statistics."""
        self.draw()
        self.freezing.foresee_soon()

    def draw(self) -> None:
        """Draw the map of the current tab; that of features belongs to the list of layers too."""
        shown = self.tabs.currentWidget() if self.front else None
        self.features.bring(shown in (self.features, self.layers))
        self.training.bring(shown is self.training)

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
            self.verdict.setText(rich_text(list(map(_here, describe(audit)))))


def _here(part: Part) -> Part:
    """A part whose remedy is a page of this dock."""
    if not isinstance(part, Verdict):
        return part
    sentence = part.sentence.replace("seamscope freeze", "the page Fix statistics")
    return dataclasses.replace(part, sentence=sentence)


__all__ = ["NormalizationDock"]
