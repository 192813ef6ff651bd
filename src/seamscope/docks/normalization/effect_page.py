"""The page *Effect*: what fixed statistics do to the seams, and to accuracy where that is known.

Knows its controls, and which labels can be ground truth. Does not know how both ways are compared,
described or drawn.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from napari.layers import Labels
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QWidget

from seamscope.compare.before_after import BeforeAfter, compare_statistics
from seamscope.docks.controls import allow, button, fill, form
from seamscope.docks.editors import Choice
from seamscope.docks.layers import labels_image
from seamscope.docks.looks import text_label
from seamscope.docks.normalization.bench import Bench
from seamscope.docks.normalization.plots import BeforeAfterPlot
from seamscope.docks.rich_text import rich_text
from seamscope.images.image import Image
from seamscope.planning.plan import Plan
from seamscope.reports.describe import describe

_TIPS = {
    "compare": "Predict the image twice, with per-tile and with fixed statistics, and compare how\n"
    "neighbouring tiles agree.",
    "truth": "Labels layer with the ground truth. Both predictions are compared with it (Dice):\n"
    "seamless is not the same as accurate. With one channel, pixels above the threshold\n"
    "are foreground.",
}


class EffectPage(QWidget):
    """Compare before and after.

    Attributes
    ----------
    effect
        What was found; None as long as it is not known.
    """

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench
        self.effect: BeforeAfter | None = None
        self.truth = Choice([("None", None)], _TIPS["truth"])
        self.compare = button("Compare", _TIPS["compare"])
        self.comparison = text_label()
        self.curves = BeforeAfterPlot()
        fill(
            self,
            form(("Correct labels (optional)", self.truth)),
            self.compare,
            self.comparison,
            self.curves,
        )
        self.compare.clicked.connect(self._compare)
        bench.changed.connect(self._show_state)
        bench.replaced.connect(self._forget)
        bench.session.fixed_changed.connect(self._forget)
        self._show_effect()

    def offer_truth(self) -> None:
        """Offer the labels that the viewer has now."""
        labels = [(x.name, x) for x in self._bench.viewer.layers if isinstance(x, Labels)]
        with QSignalBlocker(self.truth):
            self.truth.set_options([("None", None), *labels])

    def _forget(self) -> None:
        """Other statistics, another network or image."""
        self.effect = None
        self._show_effect()
        self._show_state()

    def _show_state(self) -> None:
        if self.effect is None:
            self.comparison.setText(self._next_step())
        fixed = self._bench.session.fixed is not None
        allow(self.compare, *self._bench.needed, (fixed, self._next_step()))

    def _compare(self, _: Any = None) -> None:
        """Measure both ways, as the button does."""
        session, image = self._bench.session, self._bench.image()
        fixed, plan, settings = session.fixed, session.plan, session.settings
        if image is None or fixed is None or plan is None or settings is None:
            return
        statistics = fixed.network.statistics
        assert statistics is not None
        try:
            labels = self._labels(plan)
        except Exception as error:
            self._bench.fail(error, "Reading the labels")
            return
        settings = settings.but(tile=plan.grid.tile_shape, result="probabilities")
        question = partial(
            compare_statistics, image, fixed.plain, statistics, settings, labels=labels
        )
        self._bench.begin("comparing before and after", question, self._compared)

    def _labels(self, plan: Plan) -> Image | None:
        layer = self.truth.value()
        return None if layer is None else labels_image(layer, plan)

    def _compared(self, found: BeforeAfter) -> None:
        self.effect = found
        self._show_effect()

    def _show_effect(self) -> None:
        effect = self.effect
        self.curves.setVisible(effect is not None)
        self.curves.show(effect)
        self.comparison.setText(
            self._next_step() if effect is None else rich_text(describe(effect))
        )

    def _next_step(self) -> str:
        """What to do before there is a comparison."""
        if self._bench.session.fixed is not None:
            return ""
        audit = self._bench.audit
        if audit is not None and not audit.calls:
            return "No layer of this network uses per-tile statistics: there is nothing to compare."
        return "Fix the statistics first. Then compare the seams before and after."


__all__ = ["EffectPage"]
