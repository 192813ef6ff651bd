"""The dock *Seams*: where neighbouring tiles disagree, how much, at which halo, and why.

Knows its controls, and how they are wired: a run's evidence -> numbers, heat maps, curves, seams,
pixels, causes. Does not know how anything is measured, or how a layer or plot is drawn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import QSignalBlocker, QTimer

from seamscope.docks.actions import Action, ActionRow
from seamscope.docks.controls import (
    BUSY,
    KEYS,
    allow,
    beside,
    button,
    form,
    on_key,
    page_of,
    ticked,
)
from seamscope.docks.dock import Dock
from seamscope.docks.editors import Choice
from seamscope.docks.job import Job, Outcome
from seamscope.docks.layers import look_at, on_click, shown_point
from seamscope.docks.looks import boxed, in_dock, text_label
from seamscope.docks.opening import open_step
from seamscope.docks.pages import Pages
from seamscope.docks.results import Run, layer_point, result_pixel
from seamscope.docks.rich_text import rich_text
from seamscope.docks.seams.causes_page import CausesPage
from seamscope.docks.seams.chosen_seam import ChosenSeam
from seamscope.docks.seams.comparison import Comparison, PixelOpinions
from seamscope.docks.seams.halo_plot import HaloPlot, Mark
from seamscope.docks.seams.heat_panel import HeatPanel
from seamscope.docks.seams.measure_page import MeasurePage
from seamscope.docks.seams.restitched import RestitchedLayers
from seamscope.docks.seams.seam_table import SeamTable
from seamscope.docks.window import canvas_side
from seamscope.explain.advice import Advice, advise
from seamscope.models.sentences import reach_name
from seamscope.progress import Work
from seamscope.reports.describe import describe
from seamscope.seams.measures import HaloRay, Seam
from seamscope.seams.opinions import SideBySide
from seamscope.seams.report import SeamReport
from seamscope.text import halo_text
from seamscope.tiling import Sides

_LAID_OUT_MS = 50
_ROOM = 2  # tiles that fit into the view of a seam

_TIPS = {
    "numbers": "Differences and disagreement of each channel, what was measured, and what each\n"
    "number means.",
    "run": "Result whose seams are shown. It follows the layer that is selected.",
    "delete": "Remove the layers of this result, and free its memory. Files on disk stay.",
    "channel": "Channel whose disagreement and predictions are shown below.",
    "stitch": "Show the result as this margin would make it. No network runs.",
    "suggest": "Find the smallest margin that removes the seams, or what else does.",
    "fix": "Set the margin, fix the statistics or blend, run, and compare before and after.",
    "worst": "Move the view to the worst seam, and show both tiles there.",
    "apply": "Set this margin, and the overlap it needs, in the step Predict.",
    "previous": "Go to the seam above in the table.",
    "next": "Go to the seam below in the table.",
    "ask": "While this is on, click into the image: what each tile that holds the pixel\n"
    "predicts is shown below.",
}
_TABS = {
    "Margin (halo)": "How neighbours disagree, the more of each tile's border is discarded.",
    "Worst seams": "The seams where neighbouring tiles disagree most, and both predictions there.",
    "Pixel": "What every tile predicts for one pixel.",
    "Causes": "Why there are seams, and a comparison with an untiled prediction.",
}
_NO_RUN = "First press Run in the step Predict."
_ONE_TILE = "One tile covers the image: there are no seams."
_NOT_MEASURED = "First press Measure: the seams of this result are not measured."
_NOT_KEPT = "First press Measure: what each tile predicts was not kept."


class SeamsDock(Dock):
    """See and measure the seams of a prediction, and tune its halo, called margin on screen.

    Parameters
    ----------
    napari_viewer
        The viewer whose results are offered; runs come from its dock *Tiled prediction*.
    """

    least_width = 380

    def build(self) -> None:
        """Make the controls and wire them."""
        self._run: Run | None = None
        self._measured_run: Run | None = None
        self._stitching: Job | None = None
        self._views: SideBySide | None = None
        self._previewed = False  # at another halo, when another page came in front
        self.stitched = RestitchedLayers(self.viewer)
        self._clicked = on_click(self.ask_at)
        self._make_controls()
        self._lay_out()
        self._connect()

    # -- for programs

    @property
    def run(self) -> Run | None:
        """The run that is chosen, with the plan that its seams were measured by."""
        run = self._run
        report = None if run is None else run.evidence.report
        if run is None or report is None:
            return run
        return self._measured_run

    @property
    def busy(self) -> bool:
        """Whether something is being measured."""
        return self.job.busy or self._stitching is not None

    # -- making

    def _make_controls(self) -> None:
        self.runs = Choice((), _TIPS["run"])
        self.delete = button("Delete", _TIPS["delete"])
        self.verdict = text_label()
        self.all_numbers = ticked("All numbers", _TIPS["numbers"])
        self.all_numbers.setChecked(False)
        self.numbers = text_label()
        self.numbers.hide()
        self.measuring = MeasurePage(self, lambda: self._run, self._know)
        self.heat = HeatPanel(self.viewer, self._drawn)
        self.channel = Choice([("The worst", None)], _TIPS["channel"])
        self.halo = HaloPlot()
        self.stitch = ticked("Preview with this margin", _TIPS["stitch"])
        self.suggest = button("Find the margin", _TIPS["suggest"])
        self.apply = button("Use this margin", _TIPS["apply"])
        self.suggestion = text_label()
        self.advised = ActionRow()
        self.actions = ActionRow()
        self.table = SeamTable()
        self.previous = button("◀ Previous seam", _TIPS["previous"])
        self.next = button("Next seam ▶", _TIPS["next"])
        self.comparison = Comparison()
        self.chosen = ChosenSeam(self.viewer)
        self.ask = button("Click a pixel: what does each tile say?", _TIPS["ask"])
        self.ask.setCheckable(True)
        self.pixel = PixelOpinions()
        fix = Action("Fix it", _TIPS["fix"], self._fix)
        self.causes_page = CausesPage(lambda: self._run, self._results, self.job, self.start, fix)
        self.explain, self.certify = self.causes_page.explain, self.causes_page.certify
        self.causes, self.certificate = self.causes_page.causes, self.causes_page.certificate

    def _lay_out(self) -> None:
        self.tabs = self._make_tabs()
        self.place_with_status(
            [
                form(("Result", beside(self.runs, self.delete))),
                *(self.verdict, self.actions, self.measuring, self.all_numbers, self.numbers),
                *(self.heat, form(("Channel", self.channel)), self.tabs),
            ]
        )

    def _make_tabs(self) -> Pages:
        tabs = Pages()
        steps = (self.previous, self.next)
        pages = (
            page_of(
                self.halo, self.stitch, (self.suggest, self.apply), self.suggestion, self.advised
            ),
            page_of(self.table, steps, self.comparison),
            page_of(self.ask, self.pixel),
            self.causes_page,
        )
        for page, (name, tip) in zip(pages, _TABS.items(), strict=True):
            tabs.add(page, name, tip)
        return tabs

    def _connect(self) -> None:
        self.runs.value_changed.connect(self._run_chosen)
        self.delete.clicked.connect(self._delete)
        self.all_numbers.toggled.connect(self.numbers.setVisible)
        self.job.changed.connect(self._show_headline)
        self.heat.missing.connect(partial(self.tell, kind="warning"))
        self.channel.value_changed.connect(self._channel_changed)
        self.halo.moved.connect(self._halo_moved)
        self.stitch.toggled.connect(self._stitch_toggled)
        self.suggest.clicked.connect(self._suggest)
        self.apply.clicked.connect(self._apply)
        self.table.chosen.connect(self.go_to)
        on_key(self, KEYS["previous seam"], self.previous, partial(self.step, -1))
        on_key(self, KEYS["next seam"], self.next, partial(self.step, 1))
        self.ask.toggled.connect(self._ask_toggled)
        self.session.run_ended.connect(self._run_ended)
        self.session.run_begins.connect(self._make_room)
        self.session.changed.connect(self._show_marks)

    # -- coming and going

    def follow(self) -> None:
        """Follow the viewer."""
        viewer = self.viewer
        layers = viewer.layers.events
        self.listen([layers.removed, layers.renamed], self._layers_changed)
        self.listen([layers.removed], self._layer_removed)
        self.listen([viewer.layers.selection.events.active], self._layer_selected)
        self.listen([viewer.dims.events.current_step], self._slice_changed)
        self._offer_runs()

    def leave(self) -> None:
        """Stop work, and show the results as they were predicted."""
        self.job.stop()
        self.ask.setChecked(False)
        self.stitched.hide()
        self.chosen.hide()

    def draw(self) -> None:
        """Draw heat maps, the chosen seam, and the preview of another halo."""
        self.heat.bring(self.front)
        seam, run = self.table.seam, self.run
        if not self.front:
            self._previewed = any(layer.visible for layer in self.stitched.layers)
            self.stitched.hide()
            self.chosen.hide()
            return
        if seam is not None and run is not None:
            self.chosen.show(run, seam, again=True)
        if self._previewed and self.stitch.isChecked():
            self._stitch(self.halo.value())

    def plots(self) -> Sequence[Any]:
        """The halo curve, and the bars of a pixel."""
        return self.halo, self.pixel

    # -- which run

    def _offer_runs(self, newest: Run | None = None) -> None:
        """List the runs that some layer in the viewer shows, the newest first."""
        there = [r for r in self.session.runs if self._layers_of(r)]
        named = [(_name(run, there), run) for run in reversed(there)]
        with QSignalBlocker(self.runs):
            self.runs.set_options(named)
            if newest is not None:
                self.runs.set_value(newest)
        if self.runs.value() is not self._run or newest is not None:
            self._choose(self.runs.value())
        elif self._run is None:
            self._choose(None)

    def _layers_of(self, run: Run) -> list[Any]:
        return [x for x in self.session.layers_of(run) if x in self.viewer.layers]

    def _run_ended(self, run: Run) -> None:
        if self.awake:
            self._offer_runs(run)

    def _make_room(self) -> None:
        """A prediction begins: nothing may shine through it."""
        self.stitched.hide()
        self._choose(None)

    def _layers_changed(self, event: Any = None) -> None:
        self._offer_runs()

    def _layer_removed(self, event: Any) -> None:
        self.heat.layer_removed(event.value)

    def _layer_selected(self, event: Any = None) -> None:
        run = self.session.run_of(self.viewer.layers.selection.active)
        if run is not None:
            self.runs.set_value(run)

    def _run_chosen(self) -> None:
        self._choose(self.runs.value())

    def _choose(self, run: Run | None) -> None:
        """Show another run, or nothing."""
        self.stitched.hide()
        self.chosen.hide()
        self._run, self._previewed = run, False
        self.causes_page.forget()
        self.tell("")
        self._show_evidence()

    def _delete(self, _: Any = None) -> None:
        """Remove the result that is shown."""
        run = self._run
        if run is None or self.job.busy or self.session.running:
            return
        self._choose(None)
        layers = self.viewer.layers
        # together, where napari can: it collects garbage once then, not for each of them
        with getattr(layers, "batched_update", contextlib.nullcontext)():
            for layer in self._layers_of(run):
                layers.remove(layer)
        run.evidence.release()
        self._offer_runs()
        self.measuring.forget(run)

    def _show_evidence(self) -> None:
        """Show what is known of the run."""
        run = self._run
        report = None if run is None else run.evidence.report
        self._measured_run = None
        if run is not None and report is not None:
            self._measured_run = dataclasses.replace(run, plan=report.plan)
        self._views = None
        self._show_headline()
        names = () if report is None else report.channels
        with QSignalBlocker(self.channel):
            each = [(name, i) for i, name in enumerate(names)]
            self.channel.set_options([("The worst", None), *each])
        self.channel.setEnabled(len(names) > 1)
        self.halo.show_report(report, self._marks(), self._own_halo())
        self.table.show_report(report)
        self.suggestion.setText("")
        self.advised.offer()
        self._say_why_not()
        self.heat.show_run(self.run)

    def _show_headline(self) -> None:
        run = self._run
        report = None if run is None else run.evidence.report
        if run is None:
            self.verdict.setText("Press <i>Run</i> in the step <i>Predict</i>.")
        elif run.plan.tiles == 1:
            self.verdict.setText(_ONE_TILE)
        elif report is None:
            self.verdict.setText(
                "The seams of this result were not measured: press <i>Measure</i>."
            )
        else:
            self.verdict.setText(
                boxed(in_dock(report.sentence()), "good" if report.seamless else "warning")
            )
        self.actions.offer(self._actions(report))
        self.numbers.setText("" if report is None else rich_text(describe(report)[1:]))
        self.measuring.show_state()
        self._show_allowed()

    def _show_allowed(self) -> None:
        """Enable what makes sense for the run; the tips of all else say what to do first."""
        run = self._run
        report = None if run is None else run.evidence.report
        there = run is not None, _NO_RUN
        free = not self.job.busy, BUSY
        several = run is None or run.plan.tiles > 1, _ONE_TILE
        known = report is not None and report.measured > 0, _NOT_MEASURED
        kept = run is not None and run.evidence.kept, _NOT_KEPT
        allow(self.all_numbers, there, several, (report is not None, _NOT_MEASURED))
        allow(self.delete, there, free)
        self.causes_page.show_state((there, several, free))
        self.stitch.setVisible(kept[0])
        self.heat.allow(there, several, known)
        for each in (self.suggest, self.apply):
            allow(each, there, several, known)
        found = bool(report and report.seams), _NOT_MEASURED
        for each in (self.previous, self.next):
            allow(each, there, several, found)
        allow(self.ask, *[there, several, kept] * (not self.ask.isChecked()))  # off it always goes

    def _actions(self, report: SeamReport | None) -> list[Action]:
        """What can be done about the seams of a report."""
        if report is None or report.seamless or not report.seams or self.job.busy:
            return []
        return [
            Action("Show the worst seam", _TIPS["worst"], self.show_worst),
            *[Action("Fix it", _TIPS["fix"], self._fix)] * advise(report.plan, report).needed,
        ]

    def _say_why_not(self) -> None:
        """Where there are no opinions, say what to do to have them."""
        kept = self._run is not None and self._run.evidence.kept
        why = "" if self._run is None or kept else "Press Measure to keep what every tile predicts."
        self.comparison.clear(why or "Choose a seam in the table.")
        self.pixel.clear(why or "Press the button, then click into the image.")

    def _know(self, run: Run) -> None:
        """Show what was measured of a run."""
        if run is self._run:
            self._choose(run)

    def _channel_changed(self) -> None:
        self.heat.show_channel(self.channel.value())
        self._show_views()

    # -- the halo

    def _own_halo(self) -> int:
        """The run's own, as a number on the plot."""
        run = self.run
        report = None if run is None else run.evidence.report
        return 0 if report is None else report.curve.ray.largest_within(report.plan.grid.halo)

    def _marks(self) -> list[Mark]:
        run = self.run
        report = None if run is None else run.evidence.report
        if run is None or report is None:
            return []
        reach, ray = run.plan.reach, report.curve.ray
        known = [(reach.useful, reach_name(reach))]
        if run.model is self.session.model:
            known.append((self.session.effective, "effective reach"))
        return [Mark(covering(ray, halo), name) for halo, name in known if halo is not None]

    def _show_marks(self) -> None:
        if self.awake:
            self.halo.show_marks(self._marks())

    def _halo_moved(self, halo: int) -> None:
        self.suggestion.setText("")
        self.advised.offer()
        if self.stitch.isChecked():
            self._stitch(halo)

    def _stitch_toggled(self, wanted: bool) -> None:
        if not wanted:
            self.stitched.hide()
            self.heat.make_ground()

    def _stitch(self, halo: int) -> None:
        """Cut the seams of the picture at this halo."""
        run = self.run
        if run is None or not run.evidence.kept:
            return
        if not self.front:
            self._previewed = True
        elif self.stitched.knows(run):
            self.stitched.show(run, self._results(), self._frame(run), halo)
        elif self._stitching is None:
            self._begin_to_stitch(run, halo)

    def _begin_to_stitch(self, run: Run, halo: int) -> None:
        """The first time all of it is stitched, which takes its time for large images."""
        frame, opinions = self._frame(run), run.evidence.opinions
        assert opinions is not None

        def ended(outcome: Outcome) -> None:
            if outcome.error is not None:
                self.fail(outcome.error, "Stitching again")
            elif wanted():
                self.stitched.add(run, frame, outcome.value, ready)
                return
            self._stitching = None

        def ready() -> None:
            self._stitching = None
            if wanted():
                self._stitch(self.halo.value())
                self.heat.layers.raise_to_top()

        def wanted() -> bool:
            return self.awake and run is self.run and self.stitch.isChecked()

        def restitch(work: Work) -> Any:
            return opinions.restitch(halo, frame)

        self._stitching = Job("stitching again", restitch, self)
        self._stitching.ended.connect(ended)
        self._stitching.start()

    def _results(self) -> list[Any]:
        return [] if self._run is None else self._layers_of(self._run)

    def _drawn(self) -> list[Any]:
        """Layers of the result as it is shown: as it was predicted, or stitched again."""
        again = list(self.stitched.layers) if self.stitch.isChecked() else []
        return self._results() + again

    def _frame(self, run: Run) -> tuple[int, ...]:
        """The time point or the like that is seen, or the nearest one of the run."""
        point = shown_point(run.layer, self.viewer)
        letters = run.plan.layout.axes
        return tuple(
            int(np.clip(round(float(point[letters.index(letter)])), start, stop - 1))
            for letter, (start, stop) in zip(
                run.plan.layout.frames, run.plan.frame_ranges, strict=True
            )
        )

    def _slice_changed(self, _: Any = None) -> None:
        if self.stitched.layers:
            self._stitch(self.halo.value())

    def _suggest(self, _: Any = None) -> None:
        run = self.run
        report = None if run is None else run.evidence.report
        if run is None or report is None:
            return
        advice = advise(report.plan, report, self.session.settings)
        if advice.step == "halo" and advice.halo is not None:
            self.halo.set_value(min(covering(report.curve.ray, advice.halo), self.halo.most))
        else:
            self.halo.set_value(self._own_halo())
        self.suggestion.setText(
            boxed(in_dock(suggestion_of(advice, report)), "warning" if advice.needed else "good")
        )
        self.advised.offer([Action(advice.button, _TIPS["fix"], self._fix)] * advice.needed)
        # below what a small window shows; it has its place once the page is laid out
        QTimer.singleShot(_LAID_OUT_MS, self._show_suggestion)

    def _show_suggestion(self) -> None:
        for each in (self.suggestion, self.advised):
            if each.isVisible():
                self.scroll.ensureWidgetVisible(each)

    def _fix(self) -> None:
        """Do what is advised, in the step Fix."""
        open_step(self.viewer, "fix", lambda dock: dock.begin())

    def show_worst(self) -> None:
        """Choose the worst seam: the view goes there, and both tiles are shown."""
        self.tabs.setCurrentIndex(1)
        self.table.choose(0)

    def _apply(self, _: Any = None) -> None:
        report = None if self.run is None else self.run.evidence.report
        if report is None:
            return
        halo = report.curve.ray.sides(self.halo.value())
        self.session.want_halo(halo)
        shown = ", ".join(f"{max(sides)}" for sides in dict.fromkeys(halo))
        self.suggestion.setText(
            f"Margin {shown} is set in the step <i>Predict</i>: press <i>Run</i>."
        )

    # -- seams

    def step(self, rows: int) -> None:
        """Go so many rows down in the table of seams, or up; it is shown for that."""
        self.tabs.setCurrentIndex(1)
        self.table.step(rows)

    def go_to(self, seam: Seam | None) -> None:
        """Move the view to a seam, and show both tiles there."""
        run = self.run
        if seam is None or run is None:
            return
        self._look_at(run, seam)
        self.chosen.show(run, seam)
        opinions = run.evidence.opinions
        self._views = None
        if opinions is not None and opinions.complete:
            self._views = opinions.beside(seam, plane=self._plane(run))
        self._show_views()

    def _show_views(self) -> None:
        seam, run = self.table.seam, self.run
        report = None if run is None else run.evidence.report
        if self._views is None or seam is None or run is None or report is None:
            return
        chosen = self.channel.value()
        channel = self._views.channel if chosen is None else chosen
        channel = min(channel, len(self._views.lower) - 1)
        names = run.model.channels_of(run.plan.facts)
        tiles = [f"({', '.join(map(str, t))})" for t in (seam.lower, seam.upper)]
        self.comparison.show_views(self._views, channel, tiles, names[channel], report.kind)

    def _plane(self, run: Run) -> tuple[int, int] | None:
        """Spatial axes that are displayed."""
        missing = self.viewer.dims.ndim - run.layer.ndim
        letters = run.plan.layout.axes
        shown = [letters[d - missing] for d in self.viewer.dims.displayed if d >= missing][-2:]
        if len(shown) < 2 or not set(shown) <= set(run.plan.layout.spatial):
            return None
        first, second = sorted(run.plan.layout.spatial.index(letter) for letter in shown)
        return first, second

    def _look_at(self, run: Run, seam: Seam) -> None:
        """Move the view to the worst pixel of a seam, its tiles filling it."""
        point = layer_point(run, seam.frame, seam.worst)
        size = max(run.plan.grid.prediction_shape[-2:]) / float(min(run.plan.facts.scale))
        look_at(run.layer, point, _ROOM * size, self.viewer, canvas_side(self))

    # -- one pixel

    def _ask_toggled(self, wanted: bool) -> None:
        self._show_allowed()
        callbacks = self.viewer.mouse_drag_callbacks
        if wanted:
            callbacks.append(self._clicked)
        elif self._clicked in callbacks:
            callbacks.remove(self._clicked)

    def ask_at(self, world: Sequence[float]) -> None:
        """Show what every tile predicts at a point of the world."""
        run = self.run
        if run is None or not run.evidence.kept:
            self._say_why_not()
            return
        opinions = run.evidence.opinions
        assert opinions is not None
        point = run.layer.world_to_data(np.asarray(world, float)[-run.layer.ndim :])
        found = result_pixel(run, point)
        if found is None:
            self.pixel.clear("This point is outside the result: click into the result.")
            return
        frame, pixel = found
        where = ", ".join(f"{a} {p}" for a, p in zip(run.plan.layout.spatial, pixel, strict=True))
        names = run.model.channels_of(run.plan.facts)
        self.pixel.show_opinions(where, opinions.at(pixel, frame), names)

    # -- causes

    def find_causes(self, _: Any = None) -> None:
        """Find the causes of the seams by experiments, as the button does."""
        self.tabs.setCurrentIndex(self.tabs.count() - 1)
        self.causes_page.find_causes()


def covering(ray: HaloRay, halo: Sequence[Sides]) -> int:
    """Smallest halo of a ray that is nowhere less than this one."""
    return max(
        math.floor((side - 1) / weight) + 1
        for sides, weights in zip(halo, ray.weights, strict=True)
        for side, weight in zip(sides, weights, strict=True)
        if weight
    )


def suggestion_of(advice: Advice, report: SeamReport) -> str:
    """The advice, and what was measured where that says more."""
    found = report.smallest_seamless_halo
    if advice.step != "halo" or found is None:
        return advice.why
    halo = halo_text([(side, side) for side in found])
    return f"{advice.why} In the overlaps measured, no seam is left from margin {halo} on."


def _name(run: Run, all_runs: Sequence[Run]) -> str:
    """Its title, with a number as napari gives it to layers of the same name."""
    earlier = [each.title for each in all_runs[: all_runs.index(run)]].count(run.title)
    name = f"{run.title} [{earlier}]" if earlier else run.title
    return name if run.finished else f"stopped · {name}"


__all__ = ["SeamsDock", "covering", "suggestion_of"]
