"""The page *Features*: mean and spread of each tile's features, on a plot, a map, at one pixel.

Knows its controls, and clicks into the image. Does not know how features are measured or drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QWidget

from seamscope.docks.controls import NO_CASE, allow, button, fill, form, number, stack, ticked
from seamscope.docks.editors import Choice
from seamscope.docks.layers import on_click
from seamscope.docks.looks import text_label
from seamscope.docks.normalization.bench import Bench
from seamscope.docks.normalization.layers import image_pixel, tile_map
from seamscope.docks.normalization.plots import FeaturePanels, PixelFeaturesPlot
from seamscope.docks.normalization.texts import features_text, pixel_text, standardized
from seamscope.explain.feature_statistics import (
    BatchExperiment,
    FeatureStatistics,
    PixelFeatures,
    batch_experiment,
    features_of_pixel,
    measure_features,
)
from seamscope.fixed_statistics.freezing import freeze_statistics
from seamscope.images.image import Image
from seamscope.models.model import Model
from seamscope.normalization.statistics import Statistics
from seamscope.progress import Work
from seamscope.settings import Settings
from seamscope.text import figure_text

_TIPS = {
    "tile": "Width of the tiles that are measured: best that of the patches in training.",
    "most": "Largest number of tiles that are measured, spread evenly over the image.",
    "measure": "Measure mean and variance of each channel in every tile, at every layer.",
    "layer": "Layer whose features are shown; the number says by how many standard deviations\n"
    "its tiles differ.",
    "map": "Draw over the image how much the statistics of each tile deviate, in colours.",
    "ask": "While this is on, click into the image: the features of that pixel in several tiles\n"
    "are shown, before and after normalization.",
}
_UNSEEN = "No normalization layer of this network can be watched."


class FeaturesPage(QWidget):
    """Look at the features of tiles.

    Signals
    -------
    measured
        Other features are known, or none any more.

    Attributes
    ----------
    features, batches
        What was measured; None as long as nothing was.
    pixel
        One pixel's features in several tiles.
    deviations
        The map.
    """

    measured = Signal()

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench
        self._front = False
        self.features: FeatureStatistics | None = None
        self.batches: BatchExperiment | None = None
        self.pixel: tuple[PixelFeatures, ...] = ()
        self.deviations = bench.map_layer("deviation", "inferno")
        self._clicked = on_click(self.ask_at)
        self.tile = number((8, 8192), bench.tile, _TIPS["tile"], " px")
        self.most = number((4, 65536), 256, _TIPS["most"])
        self.measure = button("Measure", _TIPS["measure"])
        self.layer = Choice((), _TIPS["layer"])
        self.deviation = text_label()
        self.panels = FeaturePanels()
        self.show_map = ticked("Map of deviation", _TIPS["map"])
        self.ask = button("Compare tiles at a pixel", _TIPS["ask"])
        self.ask.setCheckable(True)
        self.pixel_text = text_label()
        self.pixel_plot = PixelFeaturesPlot()
        controls = form(("Tile", self.tile), ("Tiles at most", self.most))
        self._found = QWidget()
        shown = form(("Layer", self.layer))
        stack(self._found, shown, self.deviation, self.panels, self.show_map)
        parts = (controls, self.measure, self._found, self.ask)
        fill(self, *parts, self.pixel_text, self.pixel_plot)
        self._connect()
        self._show_features()

    def _connect(self) -> None:
        self.tile.valueChanged.connect(self._tile_changed)
        self.measure.clicked.connect(self._measure)
        self.layer.value_changed.connect(self.show_layer)
        self.show_map.toggled.connect(self.draw_map)
        self.ask.toggled.connect(self._ask_toggled)
        self._bench.changed.connect(self._show_state)
        self._bench.replaced.connect(self._forget)
        self._bench.patch_changed.connect(self.tile.setValue)

    def sleep(self) -> None:
        """Leave nothing behind in the viewer."""
        self.ask.setChecked(False)
        self.deviations.hide()

    def _forget(self) -> None:
        self.features = self.batches = None
        self.deviations.hide()
        self._show_features()
        self.measured.emit()

    def _tile_changed(self, pixels: int) -> None:
        self._bench.tile = pixels

    def _show_state(self) -> None:
        bench = self._bench
        audit = bench.audit
        seen = audit is None or (audit.watched and bool(audit.layers))
        allow(self.measure, *bench.needed, (seen, _UNSEEN))
        allow(
            self.ask,
            (bench.session.plan is not None and audit is not None, NO_CASE),
            (seen, _UNSEEN),
        )

    # -- all tiles

    def _measure(self, _: Any = None) -> None:
        """Measure the features of tiles, as the button does."""
        bench = self._bench
        image, settings = bench.image(), bench.settings()
        if image is None or settings is None or bench.model is None:
            return
        known, most = self._known(), self.most.value()
        question = partial(_features, image, bench.model, settings, known, most)
        bench.begin("measuring features", question, self._measured)

    def _known(self) -> Statistics | None:
        """Exact statistics of this very image, seen in this very way; None where there are none."""
        fixed, plan = self._bench.session.fixed, self._bench.session.plan
        own = None if fixed is None else fixed.network.statistics
        if fixed is None or own is None or plan is None:
            return None
        same = fixed.layer is self._bench.layer and not own.differing(plan.seen)
        return own if same and own.how == "exact" else None

    def _measured(self, found: tuple[FeatureStatistics, BatchExperiment]) -> None:
        self.features, self.batches = found
        self._show_features()
        self.measured.emit()

    def _show_features(self) -> None:
        found = self.features
        options = [
            (
                f"{one.layer.name or f'no. {k + 1}'} · {one.layer.kind} · "
                f"{figure_text(one.deviation)}",
                k,
            )
            for k, one in enumerate(() if found is None else found.layers)
        ]
        with QSignalBlocker(self.layer):
            self.layer.set_options(options)
        self._found.setVisible(found is not None)
        self.show_layer()

    def show_layer(self) -> None:
        """Show the layer that is chosen."""
        found, chosen = self.features, self.layer.value()
        one = None if found is None or chosen is None else found.layers[chosen]
        self.panels.setVisible(one is not None)
        self.panels.show_layer(one)
        text = "" if found is None or chosen is None else features_text(found, chosen)
        self.deviation.setText(text)
        self.pixel = ()
        self._show_pixel()
        self.draw_map()

    def bring(self, front: bool) -> None:
        """Draw the map, or hide it: another page is in front."""
        self._front = front
        self.draw_map(again=True)

    def draw_map(self, _: Any = None, again: bool = False) -> None:
        """Draw the map, or take it away; `again` as for `KeptLayers.show`."""
        found, layer = self.features, self._bench.layer
        wanted = self._front and self.show_map.isChecked()
        if found is None or layer is None or not (wanted and self._bench.there):
            self.deviations.hide()
            return
        array, place = tile_map(found, self.layer.value(), layer)
        self.deviations.show(layer, array, place, "standard deviations of the reference", again)

    # -- one pixel

    def _ask_toggled(self, wanted: bool) -> None:
        callbacks = self._bench.viewer.mouse_drag_callbacks
        if wanted:
            callbacks.append(self._clicked)
        elif self._clicked in callbacks:
            callbacks.remove(self._clicked)

    def ask_at(self, world: Sequence[float]) -> None:
        """Look at the pixel at a point of the world through several tiles."""
        bench = self._bench
        plan, layer, settings = bench.session.plan, bench.layer, bench.settings()
        image, model = bench.image(), bench.model
        if image is None or plan is None or layer is None or settings is None or model is None:
            return
        found = image_pixel(plan, layer.world_to_data(list(world)[-layer.ndim :]))
        if found is None:
            bench.tell("That is beside the image: click into it.", "warning")
            return
        pixel, frame = found
        area = {a: (f, f + 1) for a, f in zip(plan.layout.frames, frame, strict=True)}
        settings = settings.but(area=area or None, batch=1)
        number = self.layer.value() or 0

        question = partial(features_of_pixel, image, model, pixel, number, settings, patch=1)
        bench.begin("looking at one pixel", question, lambda got: self._asked_pixel(got, pixel))

    def _asked_pixel(self, found: tuple[PixelFeatures, ...], pixel: Sequence[int]) -> None:
        # the same tile several times where the image has room for one position only
        self.pixel = tuple({one.start: one for one in found}.values())
        self._show_pixel(pixel)

    def _show_pixel(self, pixel: Sequence[int] = ()) -> None:
        self.pixel_plot.setVisible(bool(self.pixel))
        if not self.pixel:
            self.pixel_plot.show(np.zeros((0, 0)), np.zeros((0, 0)))
            self.pixel_text.setText("")
            return
        before, after = (
            np.stack([getattr(one, name).reshape(-1) for one in self.pixel]).astype(float)
            for name in ("before", "after")
        )
        chosen = self.layer.value()
        if self.features is not None and chosen is not None:
            mean, std = standardized(self.features.layers[chosen], before.shape[1])
        else:
            mean, std = before.mean(0), np.maximum(before.std(), 1e-12)
        self.pixel_plot.show((before - mean) / std, after)
        text = pixel_text(*self.pixel_plot.apart, len(self.pixel), pixel)
        self.pixel_text.setText(text)


def _features(
    image: Image,
    model: Model,
    settings: Settings,
    statistics: Statistics | None,
    most: int,
    *,
    work: Work,
) -> tuple[FeatureStatistics, BatchExperiment]:
    """Measure the features of tiles, and how many tiles stand for the image.

    Exact statistics of the image are found first if they are not known, and if layers need them.
    """
    if statistics is None and model.audit.calls:
        wanted = settings.but(tile="auto", halo="auto", overlap=None)
        statistics = freeze_statistics(image, model, "exact", wanted, work=work)
    found = measure_features(image, model, settings, statistics=statistics, most=most, work=work)
    return found, batch_experiment(found)


__all__ = ["FeaturesPage"]
