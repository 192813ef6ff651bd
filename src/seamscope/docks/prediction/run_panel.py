"""Run, Cancel, and the progress of a prediction.

Knows the engine's events, progress and how a run ends: done, stopped, or with an error. Does not
know how a plan comes about.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from napari.utils import progress
from napari.utils.notifications import show_warning
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QVBoxLayout, QWidget

from seamscope.docks.actions import ActionRow
from seamscope.docks.controls import BUSY, KEYS, allow, button, keyed
from seamscope.docks.job import Job, Note, Outcome, Step
from seamscope.docks.looks import boxed, in_dock, plain, text_label
from seamscope.docks.results import ResultLayers, Run
from seamscope.docks.sentences import sentence
from seamscope.docks.tasks import predict
from seamscope.planning.case import Case
from seamscope.prediction.run import Event, Finished, Reduced, Started, TileDone
from seamscope.text import duration_text

_DRAW_MS = 120
_NOT_READY = "First choose an image and a network; a sentence above says what does not fit."
_EXPECTED = ("probabilities", "labels")  # kinds of values that are called so in the controls


@dataclass(eq=False)
class _Running:
    """The running prediction, and what shows its progress elsewhere."""

    made: Run
    layers: ResultLayers
    job: Job
    bar: Any = None  # in napari's activity dock
    tiles: int = 0
    unit: str = TileDone.unit
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class RunPanel(QWidget):
    """Starts one prediction at a time and shows its progress.

    Parameters
    ----------
    viewer
        Gets the result layers.
    error
        Label for errors and warnings, placed above the progress bar.

    Signals
    -------
    asked
        Run was pressed.
    progressed : (str, int, int)
        How far the prediction is: a sentence, what is done, and how much there is.
    ended : (Run, Outcome)
        A prediction is over; its outcome's value is `Finished` unless it was stopped.
    """

    asked = Signal()
    progressed = Signal(str, int, int)
    ended = Signal(object, object)

    def __init__(self, viewer: Any, error: QLabel) -> None:
        super().__init__()
        self._viewer = viewer
        self._running: _Running | None = None
        self._ready = False
        self.results: ResultLayers | None = None
        self.problem = self._said = ""
        self._failure, self._warnings = "", list[str]()  # of the last run
        self.error = error
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.text = text_label()
        self.actions = ActionRow()
        self.run = keyed(button("Run", "Predict the image tile by tile."), KEYS["run"])
        stop = button("Cancel", "Stop after the current tile. What is predicted stays.")
        self.cancel = keyed(stop, KEYS["cancel"])
        self._draw_timer = QTimer(self)
        self._draw_timer.setSingleShot(True)
        self._draw_timer.setInterval(_DRAW_MS)
        self._add_timer = QTimer(self)
        self._lay_out()
        self.run.clicked.connect(self._ask)
        self.cancel.clicked.connect(self.stop)
        self._draw_timer.timeout.connect(self._draw)
        self._add_timer.timeout.connect(self._add_next)

    @property
    def busy(self) -> bool:
        """Whether a prediction is running."""
        return self._running is not None

    @property
    def job(self) -> Job | None:
        """The prediction that is running."""
        return None if self._running is None else self._running.job

    def set_ready(self, ready: bool) -> None:
        """Whether Run may be pressed."""
        self._ready = ready
        self._allow_run()

    def _allow_run(self) -> None:
        allow(self.run, (self._ready, _NOT_READY), (not self.busy, BUSY))

    def show_problem(self, problem: str) -> None:
        """Show a sentence on what is wrong, and what the last run has left to say."""
        wrong = list(dict.fromkeys(filter(None, (self._failure, problem))))
        self.problem = " ".join(wrong)
        boxes = [boxed(each, "error") for each in wrong]
        boxes += [boxed(each, "warning") for each in self._warnings]
        self.error.setText("".join(boxes))
        self.error.setVisible(bool(boxes))
        self.text.setVisible(not self.problem and bool(self.text.text()))

    def fail(self, error: Exception) -> None:
        """Show that a run failed, until `retry` or the next run."""
        self._failure = sentence(error, "The prediction")
        self.show_problem("")

    def retry(self) -> None:
        """Forget failure and warnings of the last run: controls were changed."""
        self._failure, self._warnings = "", []

    def begin(self, made: Run, first: Sequence[float], turn: threading.Lock) -> None:
        """Add the result's layers and start to fill them.

        Parameters
        ----------
        made
            What to predict, and its output.
        first
            Point in image pixels whose tiles come first.
        turn
            Held while the network is used.
        """
        layers = self.results = ResultLayers(self._viewer, made)
        case = Case.planned(made.image, made.model, made.plan)
        function = partial(
            predict, case, made.output, made.evidence, tuple(first), made.on, made.trust
        )
        job = Job(f"predicting {made.layer.name}", function, self, turn)
        job.reported.connect(self._hear)
        job.ended.connect(self._end)
        self._running = _Running(made, layers, job)
        self.retry()
        self.show_problem("")
        self.actions.offer()
        self.bar.setRange(0, 0)
        self.say("Preparing …")
        self._show_running(True)
        self._add_timer.start(0)
        job.start()

    def place_beside(self, widget: QWidget) -> None:
        """Place a widget beside the button Run."""
        self._buttons.addWidget(widget)

    def stop(self, _: Any = None) -> None:
        """Stop after the current tile; what is done stays."""
        if self._running is not None:
            self._running.job.cancel()
            self.cancel.setEnabled(False)
            here = self._running.made.on is None
            self.say("Stopping after this tile …" if here else "Stopping the workers …")

    def forget(self) -> None:
        """Stop showing the last run: another network is shown."""
        if self._running is None:
            self.retry()
            self.text.hide()

    def layer_removed(self, event: Any) -> None:
        """Stop a prediction whose image or result is gone."""
        running = self._running
        if running is None:
            self._let_go()
        elif not running.layers.present:
            running.layers.add_no_more()
            self.stop()
        elif event.value is running.made.layer:
            self.stop()

    # -- while it runs

    def _hear(self, events: Sequence[Event | Step | Note]) -> None:
        running = self._running
        if running is None:
            return
        for event in events:
            self._hear_of(running, event)
        self.progressed.emit(self._said, self.bar.value(), self.bar.maximum())
        self._draw()
        # last, because napari's activity dock lets other events happen while it draws its bar
        if running.bar is not None:
            running.bar.update(running.tiles - running.bar.n)

    def _hear_of(self, running: _Running, event: Event | Step | Note) -> None:
        if isinstance(event, TileDone):
            running.tiles, running.unit = event.done, event.unit
            running.layers.mark(event.region)
            self.bar.setValue(event.done)
        elif isinstance(event, Step) and not running.job.cancelled:
            self.say("\n".join([str(event), *running.notes]))
        elif isinstance(event, Note) and running.made.on is not None:
            running.notes.append(event.sentence)
        elif isinstance(event, Started):
            self._set_total(running, event.tiles * event.frames)
        elif isinstance(event, Reduced):
            self._warn(running, event.reason)

    def _set_total(self, running: _Running, total: int) -> None:
        running.tiles = 0
        self.bar.setRange(0, total)
        self.bar.setValue(0)
        if running.bar is not None:
            running.bar.reset(total=total)

    def _warn(self, running: _Running, warning: str) -> None:
        running.warnings.append(warning)
        self._warnings.append(warning)
        self.show_problem("")
        show_warning(warning)

    def _add_next(self) -> None:
        """Add one layer at a time, and napari's bar: between two the window can answer."""
        running = self._running
        if running is not None and running.layers.add_next():
            return
        self._add_timer.stop()
        if running is None:
            return
        bar = _activity(running.made, self.bar.maximum())
        if running is self._running:
            running.bar = bar
            bar.update(running.tiles)
        else:  # it ended while napari drew the bar
            bar.close()

    def _draw(self) -> None:
        if self._running is not None and not self._running.layers.draw_when_due():
            self._draw_timer.start()

    # -- and in the end

    def _end(self, outcome: Outcome) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        self._draw_timer.stop()
        self._show_running(False)
        finished = isinstance(outcome.value, Finished)
        running.made.evidence.finish(outcome.value.seams if finished else None)
        running.layers.add_all()
        running.layers.tell(
            {
                "finished": finished,
                "tiles_done": running.tiles,
                "warnings": running.warnings,
                "figures": outcome.value.figures if isinstance(outcome.value, Finished) else {},
            }
        )
        running.layers.finish(stopped=not finished)
        self._say_end(running, outcome)
        self._let_go()
        if outcome.error is not None:
            self.fail(outcome.error)
        self.ended.emit(running.made, outcome)
        if running.bar is not None:
            running.bar.close()

    def _say_end(self, running: _Running, outcome: Outcome) -> None:
        if isinstance(outcome.value, Finished):
            self.say(_summary(outcome.value.figures))
            self.text.setText(self.text.text() + _seams(outcome.value))
            if outcome.value.warning:
                self._warn(running, outcome.value.warning)
        elif outcome.error is None and running.tiles == self.bar.maximum() > 0:
            self.say("Stopped before its card's postprocessing: this is what the network gave.")
        elif outcome.error is None:
            unit = running.unit if running.tiles != 1 else running.unit.removesuffix("s")
            self.say(f"Stopped after {running.tiles} {unit}; what is done stays.")
        else:
            self.text.clear()
            self.text.hide()

    def _show_running(self, running: bool) -> None:
        self._allow_run()
        self.cancel.setVisible(running)
        self.cancel.setEnabled(running)
        self.bar.setVisible(running)

    def say(self, text: str) -> None:
        """Show a sentence."""
        self._said = text
        self.text.setText(plain(text))
        self.text.show()

    def _ask(self, _: Any = None) -> None:
        self.asked.emit()

    def _let_go(self) -> None:
        """Keep no array whose layers are gone."""
        if self.results is not None and not self.results.present:
            self.results = None
            self.forget()

    def _lay_out(self) -> None:
        buttons = self._buttons = QHBoxLayout()
        buttons.addWidget(self.run, 1)
        buttons.addWidget(self.cancel)
        column = QVBoxLayout(self)
        column.setContentsMargins(9, 2, 9, 9)
        for part in (self.error, self.bar, self.text, self.actions):
            column.addWidget(part)
            part.hide()
        column.addLayout(buttons)
        self.cancel.hide()


def _seams(finished: Finished) -> str:
    """How neighbouring tiles agree, in a box."""
    report = finished.seams
    if report is None or not report.overlaps:
        return ""
    kind = "" if report.kind in _EXPECTED else f" The values are {report.kind}."
    return boxed(in_dock(report.sentence()) + kind, "good" if report.seamless else "warning")


def _activity(made: Run, total: int) -> Any:
    """A bar in napari's activity dock, silent in the terminal."""
    return progress(total=total, desc=f"Tiles of {made.layer.name}", file=io.StringIO())


def _summary(figures: dict[str, Any]) -> str:
    pace = figures.get("tiles_per_second")
    each = f", {pace:.3g} tiles a second" if pace else ""
    count = figures["tiles"]
    tiles = "1 tile" if count == 1 else f"{count} tiles"
    return f"Done: {tiles} in {duration_text(figures['seconds'])}{each}."
