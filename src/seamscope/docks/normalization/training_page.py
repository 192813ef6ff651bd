"""The page *Training*: what a network predicts as in training, against as in evaluation.

Knows its controls, and what can be said from what other pages measured. Does not know how the two
are compared or drawn.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from qtpy.QtWidgets import QWidget

from seamscope.docks.controls import allow, button, fill, form, number, ticked
from seamscope.docks.looks import plain, text_label
from seamscope.docks.normalization.bench import Bench
from seamscope.docks.normalization.difference_map import DifferenceMap
from seamscope.docks.normalization.layers import pixel_map
from seamscope.docks.normalization.plots import BatchPlot
from seamscope.docks.normalization.texts import training_advice
from seamscope.docks.rich_text import rich_text
from seamscope.explain.feature_statistics import BatchExperiment, FeatureStatistics, tile_case
from seamscope.explain.train_eval import Disparity, has_running_statistics, measure_disparity
from seamscope.images.image import Image
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.progress import Work
from seamscope.reports.describe import describe
from seamscope.settings import Settings

_TIPS = {
    "batch": "Patches in a batch in training. Their width is set in the page Features.",
    "train": "Predict the image as in training (statistics of each batch) and as in evaluation\n"
    "(statistics kept from training), and compare. The network is not changed.",
    "difference": "Draw over the image where the two predictions differ.",
}
_ALIKE = "No layer of this network keeps statistics from training: it predicts as it was trained."


class TrainingPage(QWidget):
    """Compare training and evaluation.

    Attributes
    ----------
    disparity, difference
        What was measured, and where; None as long as nothing was.
    differences
        The map.
    """

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench
        self._front = False
        self.disparity: Disparity | None = None
        self.difference: DifferenceMap | None = None
        self._features: FeatureStatistics | None = None
        self._batches: BatchExperiment | None = None
        self.differences = bench.map_layer("training − evaluation", "plasma")
        self.batch = number((1, 256), bench.batch, _TIPS["batch"])
        self.train = button("Measure", _TIPS["train"])
        self.result = text_label()
        self.show_map = ticked("Map of the difference", _TIPS["difference"])
        self.batch_plot = BatchPlot()
        self.advice = text_label()
        parts = (form(("Batch", self.batch)), self.train, self.result, self.show_map)
        fill(self, *parts, self.batch_plot, self.advice)
        self.batch.valueChanged.connect(self._batch_changed)
        self.train.clicked.connect(self._train)
        self.show_map.toggled.connect(self.draw_map)
        bench.changed.connect(self._show_state)
        bench.audited.connect(self._show_all)
        bench.replaced.connect(self._forget)
        self._show_all()

    def show_features(
        self, features: FeatureStatistics | None, batches: BatchExperiment | None
    ) -> None:
        """Take what was measured of features; None where nothing was."""
        self._features, self._batches = features, batches
        self._show_all()

    def sleep(self) -> None:
        """Leave nothing behind in the viewer."""
        self.differences.hide()

    def _forget(self) -> None:
        self.disparity = self.difference = None
        self.differences.hide()
        self._show_all()

    def _batch_changed(self, tiles: int) -> None:
        self._bench.batch = tiles

    def _show_state(self) -> None:
        audit = self._bench.audit
        known = audit is None or has_running_statistics(audit)
        allow(self.train, *self._bench.needed, (known, _ALIKE))

    def _train(self, _: Any = None) -> None:
        """Measure the disparity, as the button does."""
        bench = self._bench
        image, settings = bench.image(), bench.settings()
        if image is not None and settings is not None and bench.model is not None:
            question = partial(_disparity, image, bench.model, settings)
            bench.begin("predicting as in training", question, self._trained)

    def _trained(self, found: tuple[Disparity, DifferenceMap | None]) -> None:
        self.disparity, self.difference = found
        self._show_all()
        self.draw_map()

    def _show_all(self) -> None:
        """Show numbers, plot and advice."""
        found, audit = self.disparity, self._bench.audit
        alike = audit is not None and not has_running_statistics(audit)
        known = "" if found is None else rich_text(describe(found))
        self.result.setText(plain(_ALIKE) if alike else known)
        self.show_map.setVisible(self.difference is not None)
        self.batch_plot.setVisible(self._batches is not None)
        self.batch_plot.show(self._batches)
        measured = found, self._features, self._batches
        self.advice.setText("" if audit is None else training_advice(audit, *measured))

    def bring(self, front: bool) -> None:
        """Draw the map, or hide it: another page is in front."""
        self._front = front
        self.draw_map(again=True)

    def draw_map(self, _: Any = None, again: bool = False) -> None:
        """Draw the map, or take it away; `again` as for `KeptLayers.show`."""
        shown, layer = self.difference, self._bench.layer
        wanted = self._front and self.show_map.isChecked()
        if shown is None or layer is None or not (wanted and self._bench.there):
            self.differences.hide()
            return
        array, place = pixel_map(shown.values, shown.plan, layer)
        self.differences.show(layer, array, place, "difference of predictions", again)


def _disparity(
    image: Image, model: Model, settings: Settings, *, work: Work
) -> tuple[Disparity, DifferenceMap | None] | None:
    """Return the disparity, with a map if it fits; None if training and evaluation are alike."""
    if not has_running_statistics(model.audit):
        return None
    plan = tile_case(Case.open(image, model, settings)).plan
    shown = DifferenceMap(plan) if DifferenceMap.fits(plan) else None
    see = None if shown is None else shown.see
    found = measure_disparity(image, model, settings, see=see, work=work)
    return None if found is None else (found, shown)


__all__ = ["TrainingPage"]
