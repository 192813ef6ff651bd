"""The dock *Seamscope*: four steps from an image to labels without seams, and pages for experts.

Knows the order of the steps, and which dock is which page. Does not know what a page does: pages
are the docks that can also be opened by themselves.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QButtonGroup,
    QHBoxLayout,
    QMenu,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
)

from seamscope.docks.dock import Dock
from seamscope.docks.opening import Slot
from seamscope.docks.window import come_forward, main_window

_STEPS = {
    "prediction": ("1 Predict", "Choose an image and a network, and predict tile by tile."),
    "seams": ("2 Seams", "See where neighbouring tiles disagree, and how much."),
    "fix": ("3 Fix", "Remove the seams: set the margin (halo), fix the statistics, or blend."),
    "labels": ("4 Labels", "Make objects of the prediction, correct them, and write them."),
}
_EXPERT = {
    "field": ("Receptive field", "How far the network looks, and how far it matters."),
    "normalization": (
        "Network normalization",
        "Statistics of each layer, fixed statistics, training and blends.",
    ),
}


_LOOK = """
QPushButton { padding: 5px 2px; border: none; border-bottom: 3px solid transparent; }
QPushButton { background: transparent; }
QPushButton:checked { border-bottom: 3px solid #4f73d9; }
QPushButton:hover { border-bottom: 3px solid #808080; }
QPushButton::menu-indicator { image: none; }
"""


class StepsDock(Dock):
    """All of Seamscope in one dock.

    Parameters
    ----------
    napari_viewer
        The viewer that its pages follow.

    Attributes
    ----------
    steps
        Button of each page.
    slots
        Where each page is shown.
    """

    least_width = 400

    def build(self) -> None:
        """Make the row of steps and the pages."""
        self.steps: dict[str, QPushButton] = {}
        self.slots: dict[str, Slot] = {}
        self._away: list[Slot] = []  # whose pages come back when this is opened again
        self._pages = QStackedWidget()
        self._group = QButtonGroup(self)
        row = QHBoxLayout()
        row.setContentsMargins(6, 4, 6, 0)
        row.setSpacing(2)
        for name, (title, tip) in _STEPS.items():
            row.addWidget(self._step(name, title, tip))
        self.expert = self._expert_button()
        row.addWidget(self.expert)
        for name in (*_STEPS, *_EXPERT):
            self.slots[name] = slot = Slot(self.viewer, name, self._in_front)
            slot.filled.connect(self._bring_forward)
            self._pages.addWidget(slot)
        self._whole.addLayout(row)
        self._whole.addWidget(self._pages, 1)
        self._whole.addWidget(self.error)
        self._whole.addWidget(self.job)
        self.steps["prediction"].setChecked(True)
        QTimer.singleShot(0, self.slots["prediction"].fill)

    def follow(self) -> None:
        """Wake the pages that are here, and bring back those that were."""
        for slot in self.slots.values():
            if slot.dock is not None:
                slot.dock.wake()
        self._bring_back_soon()

    def leave(self) -> None:
        """Let the pages that are here sleep."""
        window = main_window(self)
        for slot in self.slots.values():
            if slot.dock is not None and window is None:
                slot.dock.sleep()
            elif slot.dock is not None:
                slot.park(window)
                self._away.append(slot)

    def _bring_back_soon(self) -> None:
        """Bring a page back when the window has answered, the one that is shown first."""
        if self._away:
            self._away.sort(key=lambda slot: not self._in_front(slot))
            QTimer.singleShot(0, self._bring_back)

    def _bring_back(self) -> None:
        if self.awake and self._away:
            self._away.pop(0).take_back()
            self._bring_back_soon()

    @property
    def step(self) -> str:
        """Name of the page that is shown."""
        shown = self._pages.currentWidget()
        return next(name for name, slot in self.slots.items() if slot is shown)

    def show_step(self, name: str) -> None:
        """Show a page; its dock is made when it is first shown."""
        slot = self.slots[name]
        self._pages.setCurrentWidget(slot)
        slot.fill()
        self._bring_forward()
        if name in self.steps:
            self.steps[name].setChecked(True)
        else:
            self.expert.setChecked(True)

    def _bring_forward(self, _: Any = None) -> None:
        """Let the page that is shown draw over the image, and no other one."""
        for slot in self.slots.values():
            if slot.dock is not None:
                slot.dock.bring(self._in_front(slot))

    def _in_front(self, slot: Slot) -> bool:
        return slot is self._pages.currentWidget()

    def open_network(self, path: str) -> None:
        """Load a file that was dropped on the viewer, where the user sees it."""
        come_forward(self)
        self.show_step("prediction")
        self.slots["prediction"].then(lambda dock: dock.open_network(path))

    def _step(self, name: str, title: str, tip: str) -> QPushButton:
        made = _tab(title, tip)
        made.clicked.connect(partial(self._clicked, name))
        self._group.addButton(made)
        self.steps[name] = made
        return made

    def _expert_button(self) -> QPushButton:
        made = _tab("Expert ▾", "Pages for method developers.")
        menu = QMenu(made)
        menu.setToolTipsVisible(True)
        for name, (title, tip) in _EXPERT.items():
            action = menu.addAction(title)
            action.setToolTip(tip)
            action.triggered.connect(partial(self._clicked, name))
        made.setMenu(menu)
        self._group.addButton(made)
        return made

    def _clicked(self, name: str, _: Any = None) -> None:
        self.show_step(name)


def _tab(title: str, tip: str) -> QPushButton:
    made = QPushButton()
    made.setText(title)
    made.setToolTip(tip)
    made.setCheckable(True)
    made.setStyleSheet(_LOOK)
    made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return made


__all__ = ["StepsDock"]
