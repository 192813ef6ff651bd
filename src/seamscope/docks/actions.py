"""Buttons beside a finding: what to do about it, one click away.

Knows buttons. Does not know findings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from qtpy.QtWidgets import QHBoxLayout, QPushButton, QWidget

from seamscope.docks.controls import button


class Action(NamedTuple):
    """A button: its text, its tip, and what it does."""

    text: str
    tip: str
    act: Callable[[], object]


class ActionRow(QWidget):
    """As many buttons as there are actions; hidden without any.

    Attributes
    ----------
    buttons
        By their texts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.buttons: dict[str, QPushButton] = {}
        self._acts: dict[str, Callable[[], object]] = {}
        self._row = QHBoxLayout(self)
        self._row.setContentsMargins(0, 0, 0, 0)
        self.hide()

    def offer(self, actions: Sequence[Action] = ()) -> None:
        """Show these actions instead of those before."""
        self._acts = {action.text: action.act for action in actions}
        self.setVisible(bool(actions))
        if list(self.buttons) == list(self._acts):
            for action in actions:
                self.buttons[action.text].setToolTip(action.tip)
            return
        for old in self.buttons.values():
            self._row.removeWidget(old)
            old.hide()
            old.deleteLater()
        self.buttons = {}
        for action in actions:
            made = button(action.text, action.tip)
            made.clicked.connect(lambda _=False, text=action.text: self._acts[text]())
            self._row.addWidget(made, 1)
            self.buttons[action.text] = made


__all__ = ["Action", "ActionRow"]
