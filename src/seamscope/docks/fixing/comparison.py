"""Before and after a fix: what changed, and both results on the same view.

Knows two runs and the layers that show them. Does not know how seams are removed, or labels read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Layer
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QLabel, QSlider, QWidget

from seamscope.compare.accuracy import dice_of_result
from seamscope.compare.before_after import SAME_DICE, BeforeAfter
from seamscope.docks.controls import allow, button, stack
from seamscope.docks.fixing.swipe import Swipe
from seamscope.docks.looks import Kind, boxed, in_dock, plain, text_label
from seamscope.docks.results import Run
from seamscope.docks.rich_text import rich_text
from seamscope.progress import Work
from seamscope.reports.describe import describe

_TIPS = {
    "swipe": "Show the result before the fix left of a divide, and the result after it right of "
    "it. Drag the divide on the canvas, or move the slider.",
    "swap": "Show the result before the fix, or the result after it, in the same view.",
    "undo": "Show the earlier result, and set the controls as they were.",
    "divide": "Where the divide lies.",
}
_APART = "Only results that lie on each other, pixel by pixel, can be compared so."
_STEPS = 1000  # of the slider

Scores = tuple[tuple[str, ...], tuple[float, ...], str]  # classes, Dice of each, what labels mean


class Comparison(QWidget):
    """Shows two results of one image.

    Parameters
    ----------
    viewer, session
        Whose runs.

    Attributes
    ----------
    before, after
        Runs that are compared; None where there is none.
    swipe
        Both results in one layer.
    """

    undone = Signal()

    def __init__(self, viewer: Any, session: Any) -> None:
        super().__init__()
        self.before: Run | None = None
        self.after: Run | None = None
        self._session = session
        self._scores: dict[Run, Scores] = {}
        self.swipe = Swipe(viewer, self)
        self.text = text_label()
        self.swiped = button("Swipe", _TIPS["swipe"])
        self.swiped.setCheckable(True)
        self.swap = button("Show before", _TIPS["swap"])
        self.undo = button("Undo", _TIPS["undo"])
        self.divide = QSlider(Qt.Orientation.Horizontal)
        self.divide.setRange(0, _STEPS)
        self.divide.setToolTip(_TIPS["divide"])
        self.divide.setAccessibleName("Divide between before and after")
        self._divided = QWidget()
        stack(self._divided, (QLabel("before"), self.divide, QLabel("after")))
        stack(self, self.text, (self.swiped, self.swap, self.undo), self._divided)
        self.swiped.toggled.connect(self._swipe)
        self.swap.clicked.connect(self._swap)
        self.undo.clicked.connect(self._undo)
        self.divide.valueChanged.connect(self._move)
        self.swipe.moved.connect(self._moved)
        self.swipe.closed.connect(partial(self.swiped.setChecked, False))
        self.show_state()

    def set_runs(self, before: Run | None, after: Run | None) -> None:
        """Compare these."""
        self.swipe.close()
        self.before, self.after = before, after
        self._scores.clear()
        self.show_state()

    def set_scores(self, scores: dict[Run, Scores]) -> None:
        """Say how accurate both are."""
        self._scores = scores
        self.show_state()

    def show_state(self, busy: bool = False) -> None:
        """Say what changed."""
        self.text.setText("" if self.after is None else self._sentences())
        both = self.before is not None and self.after is not None and not busy
        for part in (self.swiped, self.swap):
            part.setVisible(both)
        allow(self.swiped, (both and Swipe.possible(*self._layers()), _APART))
        self.swap.setText("Show before")
        self.undo.setVisible(self.after is not None and not busy)
        self._divided.setVisible(self.swipe.shown)

    def _sentences(self) -> str:
        before, after = self.before, self.after
        assert after is not None
        one, other = (None if run is None else run.evidence.report for run in (before, after))
        empty: Scores = ((), (), "")
        scores = [empty if run is None else self._scores.get(run, empty) for run in (before, after)]
        known = all(names for names, _, _ in scores)
        if one is not None and other is not None and one.overlaps and other.overlaps:
            how = after.model.statistics.how if after.model.statistics is not None else ""
            dice = (scores[1][0], scores[0][1], scores[1][1], scores[1][2]) if known else ()
            return rich_text(describe(BeforeAfter(one, other, how, *dice)))
        said = []
        if before is not None:
            said.append(plain(f"Before: {_seams_of(before)}"))
        good = after.plan.tiles == 1 or (other is not None and other.seamless)
        said.append(boxed(_seams_of(after), "good" if good else "warning"))
        said.append(_accuracy(scores[0][1], scores[1][1]))
        return "".join(said)

    def _layers(self) -> tuple[list[Layer], list[Layer]]:
        """Layers of each run that show the same."""
        runs = (self.before, self.after)
        each = [[] if run is None else self._session.layers_of(run) for run in runs]
        shown = [[x for x in layers if getattr(x, "rgb", False)] or layers for layers in each]
        return shown[0], shown[1]

    def _swipe(self, wanted: bool) -> None:
        if wanted:
            self._session.show_only(None)
            self.swipe.show(*self._layers())
        else:
            self.swipe.close()
            self._session.show_only(self.after)
        self.swap.setText("Show before")
        self._divided.setVisible(self.swipe.shown)

    def _move(self, value: int) -> None:
        self.swipe.move(value / _STEPS)

    def _moved(self, part: float) -> None:
        with QSignalBlocker(self.divide):
            self.divide.setValue(round(part * _STEPS))

    def _swap(self, _: Any = None) -> None:
        """Show the other of both results."""
        to_before = self.swap.text() == "Show before"
        self.swipe.close()
        self._session.show_only(self.before if to_before else self.after)
        self.swap.setText("Show after" if to_before else "Show before")

    def _undo(self, _: Any = None) -> None:
        self.swipe.close()
        self.undone.emit()


def _seams_of(run: Run) -> str:
    report = run.evidence.report
    if run.plan.tiles == 1:
        return "One tile covers the image: there are no seams."
    if report is None or not report.overlaps:
        return "The seams were not measured."
    return in_dock(report.sentence())


def _accuracy(before: Sequence[float], after: Sequence[float]) -> str:
    """How Dice with the labels changed, in a box; empty without labels."""
    if not after:
        return ""
    now = f"mean Dice with the labels {np.mean(after):.3f}"
    if not before:
        return boxed(f"{now[0].upper()}{now[1:]}; 1 is perfect.", "good")
    gain = float(np.mean(after) - np.mean(before))
    words = "As accurate as" if abs(gain) < SAME_DICE else "More accurate than"
    words = "Less accurate than" if gain <= -SAME_DICE else words
    kind: Kind = "warning" if gain <= -SAME_DICE else "good"
    return boxed(f"{words} before: {now}, {np.mean(before):.3f} before.", kind)


def scored(runs: list[Run], labels: Any, *, work: Work) -> dict[Run, Scores]:
    """Return how accurate results are; a worker's thread calls it."""
    found = {}
    for run in runs:
        array = run.output.array
        truth, scores = dice_of_result(run.plan, run.model, array, labels, work=work)
        found[run] = truth.names, scores, truth.meaning
    return found


__all__ = ["Comparison", "scored"]
