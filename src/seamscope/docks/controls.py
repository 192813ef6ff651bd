"""Buttons, boxes to tick, numbers and forms, each with its tip, in one line.

Knows widgets. Does not know what they are for.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QAbstractSlider,
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLayout,
    QPushButton,
    QScrollBar,
    QSpinBox,
    QTableView,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

BUSY = "Not now: other work is going on. Wait, or cancel it."
NO_CASE = "First choose an image and a network that fit, in the step Predict."
_WHY_NOT = "why not"  # a property of a control: what its tip says besides
_WIDTH = 84  # letters in a line of a tip

# napari 0.9 uses none of these; see its Help > Shortcuts.
KEYS = {
    "run": "Ctrl+Return",
    "cancel": "Ctrl+.",
    "previous seam": "Alt+Left",
    "next seam": "Alt+Right",
}


class _Calm(QObject):
    """Leaves the wheel to the page that scrolls, unless the control has the focus."""

    def eventFilter(self, target: Any, event: Any) -> bool:  # noqa: N802
        """Answer Qt: whether the event goes no further to its target."""
        if event.type() == QEvent.Type.Wheel and not target.hasFocus():
            event.ignore()  # and so it goes to the parent
            return True
        return False


@cache
def _calm() -> _Calm:
    # made when it is first used, in the window's thread: docks are imported in another one, and a
    # filter that lives there gets no events
    return _Calm()


def leave_wheel_to_page(page: QWidget) -> None:
    """Let the wheel scroll the page where the pointer is over a number, a choice or a slider.

    They change only when they have been clicked. Tables give the Tab key back.
    """
    for kind in (QAbstractSpinBox, QComboBox, QAbstractSlider):
        for control in page.findChildren(kind):
            if control.focusPolicy() == Qt.FocusPolicy.WheelFocus:
                control.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            if not isinstance(control, QScrollBar):
                control.removeEventFilter(_calm())
                control.installEventFilter(_calm())
    for table in page.findChildren(QTableView):
        table.setTabKeyNavigation(False)


def button(text: str, tip: str) -> QPushButton:
    """A button."""
    made = QPushButton(text)
    made.setToolTip(tip)
    return made


def keyed(made: QPushButton, key: str) -> QPushButton:
    """Let a key press a button, where it is visible and enabled; its tip names the key."""
    made.setToolTip(keyed_tip(made.toolTip(), key))
    _connect(made, key, made.click)
    return made


def keyed_tip(tip: str, key: str) -> str:
    """Return a tip that names a key."""
    return f"{tip} ({_key_text(key)})"


def on_key(page: QWidget, key: str, made: QPushButton, act: Callable[[], object]) -> None:
    """Let a button and a key do the same, the key wherever on a visible page the button is."""
    made.setToolTip(f"{made.toolTip()} ({_key_text(key)})")
    made.clicked.connect(lambda _=False: act())
    _connect(page, key, act)


def _connect(owner: QWidget, key: str, act: Callable[[], object]) -> None:
    """Let a key act where its owner is visible and enabled.

    Several docks may have the same key. Qt then picks one of them, another one at the next press,
    and presses no button that has the key itself.
    """
    made = QShortcut(QKeySequence(key), owner)
    made.activated.connect(act)
    made.activatedAmbiguously.connect(act)


def _key_text(key: str) -> str:
    return QKeySequence(key).toString(QKeySequence.SequenceFormat.NativeText)


def allow(control: QWidget, *needed: tuple[bool, str]) -> None:
    """Enable a control where all conditions hold; else its tip says what to do first.

    Parameters
    ----------
    control
        A button or the like.
    needed
        Conditions, each with the sentence for where it does not hold; the first one counts.
    """
    why = next((sentence for holds, sentence in needed if not holds), "")
    tip, more = tip_of(control), f"\n{textwrap.fill(why, _WIDTH)}" if why else ""
    control.setEnabled(not why)
    if control.toolTip() != tip + more:
        control.setProperty(_WHY_NOT, more)
        control.setToolTip(tip + more)


def tip_of(control: QWidget) -> str:
    """Return what the tip of a control says of it, and not why it is disabled."""
    return control.toolTip().removesuffix(control.property(_WHY_NOT) or "")


def ticked(text: str, tip: str) -> QCheckBox:
    """A box that is ticked."""
    made = QCheckBox(text)
    made.setToolTip(tip)
    made.setChecked(True)
    return made


def number(limits: tuple[int, int], value: int, tip: str, suffix: str = "") -> QSpinBox:
    """A whole number between limits, which changes when typing ends."""
    made = QSpinBox()
    made.setRange(*limits)
    made.setValue(value)
    made.setSuffix(suffix)
    made.setKeyboardTracking(False)
    made.setToolTip(tip)
    return made


def form(*rows: tuple[str, QWidget]) -> QFormLayout:
    """Fields below each other, their names to the left."""
    made = QFormLayout()
    made.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for name, field in rows:
        made.addRow(name, field)
    return made


def stack(page: QWidget, *parts: QWidget | QLayout | tuple[QWidget, ...]) -> QVBoxLayout:
    """Put parts below each other into a page, those of a tuple next to each other; no margins."""
    column = QVBoxLayout(page)
    column.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        if isinstance(part, QWidget):
            column.addWidget(part)
        elif isinstance(part, QLayout):
            column.addLayout(part)
        else:
            row = QHBoxLayout()
            for widget in part:
                row.addWidget(widget)
            column.addLayout(row)
    return column


class Section(QCollapsible):
    """Rows that fold away below their title; the Tab key passes by what is folded away."""

    def __init__(self, title: str, tip: str) -> None:
        super().__init__(title)
        self.toggleButton().setToolTip(tip)
        self.toggleButton().setIconSize(QSize(0, 0))  # its arrows are black on dark themes too
        self.layout().setContentsMargins(0, 0, 0, 0)
        self.toggled.connect(self._show_title)
        self.set_title(title)

    def set_title(self, title: str) -> None:
        """Show another title."""
        self._title = title
        self._show_title()

    def fold(self, inside: QWidget) -> None:
        """Put rows below the title."""
        self.addWidget(inside)
        inside.setEnabled(self.isExpanded())
        self.toggled.connect(inside.setEnabled)

    def _show_title(self, _: Any = None) -> None:
        self.setText(f"{'▾' if self.isExpanded() else '▸'} {self._title}")
        self.toggleButton().setAccessibleName(self._title)


def fill(page: QWidget, *parts: QWidget | QLayout | tuple[QWidget, ...]) -> None:
    """Put parts into a page as `stack` does, with margins, and leave the rest of it free."""
    column = stack(page, *parts)
    column.setContentsMargins(4, 6, 4, 4)
    column.addStretch(1)


def beside(first: QWidget, *others: QWidget) -> QWidget:
    """Put widgets next to each other; the first one takes what room there is."""
    whole = QWidget()
    row = QHBoxLayout(whole)
    row.setContentsMargins(0, 0, 0, 0)
    row.addWidget(first, 1)
    for other in others:
        row.addWidget(other)
    return whole


def page_of(*parts: QWidget | QLayout | tuple[QWidget, ...]) -> QWidget:
    """A page that is filled with parts."""
    page = QWidget()
    fill(page, *parts)
    return page


__all__ = [
    "BUSY",
    "KEYS",
    "NO_CASE",
    "allow",
    "beside",
    "button",
    "fill",
    "form",
    "keyed",
    "keyed_tip",
    "leave_wheel_to_page",
    "number",
    "on_key",
    "page_of",
    "stack",
    "ticked",
    "tip_of",
]
