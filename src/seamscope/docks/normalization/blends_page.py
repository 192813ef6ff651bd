"""The page *Blends*: which way of blending suits tiles that disagree.

Knows its controls, what comparing costs, and how the best way gets into *Tiled prediction*. Does
not know how ways are compared (see `seamscope.compare.blends`) or described.

It is a page of the dock *Normalization*, not of *Seams*: that dock shows a result that is there,
while this asks about the network, image and tiles that *Tiled prediction* would use next, with
fixed statistics where these are used, as all pages here do. And this dock is the one that says
what cannot be repaired, for which a blend is what remains.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from qtpy.QtWidgets import QWidget

from seamscope.compare.blends import BlendComparison, compare_blends
from seamscope.docks.controls import BUSY, allow, button, fill
from seamscope.docks.looks import boxed, in_dock, plain, text_label
from seamscope.docks.normalization.bench import Bench
from seamscope.docks.rich_text import rich_text
from seamscope.docks.sentences import sentence
from seamscope.models.model import Model
from seamscope.planning.plan import Plan, resolve
from seamscope.reports.describe import describe
from seamscope.settings import Settings
from seamscope.text import axes_text, duration_text, shape_text, typeset

_TIPS = {
    "compare": "Predict the image twice, the second time with tiles moved by half a stride, and\n"
    "join the tiles in every way of blending.",
    "use": "Set this blending in the step Predict, and the tiles that it was compared on.",
}
_WAITING = "Choose an image and a network in the step Predict: ways of blending are compared here."
_ONE_TILE = (
    "One tile covers the image: there are no seams to blend. Set a smaller tile in the step "
    "<i>Predict</i> to compare."
)


class BlendsPage(QWidget):
    """Compare ways of blending, and use the best.

    Attributes
    ----------
    found
        The comparison; None as long as there is none.
    """

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench
        self.found: BlendComparison | None = None
        self._model: Model | None = None  # that was compared, or is to be
        self._priced: Any = None  # what the cost that is shown belongs to
        self._fit = False  # for comparing: several tiles
        self.cost = text_label()
        self.compare = button("Compare", _TIPS["compare"])
        self.table = text_label()
        self.verdict = text_label()
        self.notes = text_label()
        self.use = button("Use it", _TIPS["use"])
        self.used = text_label()
        parts = (self.cost, self.compare, self.verdict, self.table, self.notes)
        fill(self, *parts, self.use, self.used)
        self.compare.clicked.connect(self._compare)
        self.use.clicked.connect(self._use)
        bench.changed.connect(self._follow)
        bench.replaced.connect(self._forget)
        self._show_found()

    def asked(self) -> Settings | None:
        """The tiles of *Tiled prediction*, with the overlap that blends take; None without."""
        plan, settings = self._bench.session.plan, self._bench.session.settings
        if plan is None or settings is None:
            return None
        return settings.but(
            tile=plan.grid.tile_shape,
            halo=plan.grid.halo,
            blend="linear" if settings.blend == "crop" else settings.blend,
            result="probabilities",
            seams="none",
        )

    def showEvent(self, event: Any) -> None:  # noqa: N802
        """Seen: show the cost."""
        super().showEvent(event)
        self._follow()

    # -- what it would cost

    def _follow(self) -> None:
        """Another network, or other tiles."""
        self.used.hide()
        model = self._bench.session.model
        if model is not self._model:
            self._model = model
            self._forget()
        if self.isVisible():
            self._show_cost()
        self._show_state()

    def _show_cost(self) -> None:
        asked, image = self.asked(), self._bench.image()
        if asked is None or image is None or self._model is None:
            if not self._bench.busy:
                self._fit, self._priced = False, None
                self.cost.setText(_WAITING)
            return
        key = repr(asked), self._model, image.shape
        if key == self._priced:
            return
        self._priced = key
        try:
            plan = resolve(image, self._model, asked)
        except Exception as error:
            self._fit = False
            self.cost.setText(boxed(sentence(error, "Planning"), "warning"))
            return
        self._fit = plan.tiles > 1
        own = self._bench.session.plan
        self.cost.setText(_cost(plan, self._model, own) if self._fit else _ONE_TILE)

    def _show_state(self) -> None:
        allow(self.compare, *self._bench.needed, (self._fit, "See the sentence above."))
        self.use.setVisible(self.found is not None)
        allow(self.use, (not self._bench.busy, BUSY))

    # -- comparing

    def _compare(self, _: Any = None) -> None:
        """Compare, as the button does."""
        asked, image, model = self.asked(), self._bench.image(), self._model
        if asked is None or image is None or model is None:
            return

        def compared(found: BlendComparison) -> None:
            if model is self._model:
                self.found = found
                self._show_found()

        question = partial(compare_blends, image, model, asked)
        self._bench.begin("comparing blends", question, compared)

    def _forget(self) -> None:
        self.found = None
        self._show_found()

    def _show_found(self) -> None:
        found = self.found
        kind: Any = "good" if found is not None and found.seamless else "warning"
        self.verdict.setText("" if found is None else boxed(in_dock(found.describe()), kind))
        self.table.setText("" if found is None else rich_text(describe(found)[1:]))
        notes = () if found is None else found.notes
        self.notes.setText("".join(f"<p>{plain(in_dock(note))}</p>" for note in notes))
        self.used.setText("")
        for part in (self.verdict, self.table, self.notes, self.used):
            part.setVisible(bool(part.text()))
        self._show_state()

    # -- using

    def _use(self, _: Any = None) -> None:
        """Let the next run use the way that is recommended, on the tiles it was compared on.

        Where tiles agree wherever they lie, the overlap that blends need would only cost.
        """
        found, session = self.found, self._bench.session
        if found is None:
            return
        own = found.settings
        grid = None if found.seamless else (tuple(own["tile"]), tuple(own["overlap"]))
        session.want_blend(found.recommended.blend, grid)
        self.used.setText(_used(found.recommended.blend, session.plan))
        self.used.show()


def _cost(plan: Plan, model: Model, own: Plan | None) -> str:
    """What two predictions take, and why these are not the tiles of `own`, that of *Predict*."""
    tiles = plan.tiles * plan.frames
    cost = f"Costs two predictions of the image, about 2 × {tiles:,} tiles"
    if own is not None and own.grid.overlap != plan.grid.overlap:
        cost += f" (overlap {axes_text(plan.grid.overlap)} px, as blends need room to mix; in "
        cost += f"<i>Predict</i> {axes_text(own.grid.overlap)} px, "
        cost += f"{own.tiles * own.frames:,} tiles)"
    speed = model.speeds.get(plan.speed_key)
    if speed is not None:
        pixels = math.prod(plan.grid.tile_shape)
        cost += f" or {duration_text(2 * tiles * pixels * speed.per_pixel(pixels))}"
    return f"{cost}. All ways of blending are made from these."


def _used(blend: str, plan: Plan | None) -> str:
    """What is set now in *Tiled prediction*."""
    name = f"{blend.capitalize()} blending" if blend != "crop" else "Crop"
    on = "" if plan is None else f", overlap {typeset(shape_text(plan.grid.overlap))},"
    return f"{name}{on} is set in the step <i>Predict</i>: press <i>Run</i>."


__all__ = ["BlendsPage"]
