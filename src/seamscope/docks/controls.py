"""Buttons, boxes to tick, numbers and forms, each with its tip, in one line.

Knows widgets. Does not know what they are for.
"""

from __future__ import annotations

from qtpy.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)


def button(text: str, tip: str) -> QPushButton:
    """A button."""
    made = QPushButton(text)
    made.setToolTip(tip)
    return made


def ticked(text: str, tip: str) -> QCheckBox:
    """A box that is ticked."""
    made = QCheckBox(text)
    made.setToolTip(tip)
    made.setChecked(True)
    return made


def number(limits: tuple[int, int], value: int, tip: str, suffix: str = "") -> QSpinBox:
    """A whole number between limits, which tells when it was typed to its end."""
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


def fill(page: QWidget, *parts: QWidget | QFormLayout) -> None:
    """Put parts below each other into a page, and leave the rest of it free."""
    column = QVBoxLayout(page)
    for part in parts:
        column.addWidget(part) if isinstance(part, QWidget) else column.addLayout(part)
    column.addStretch(1)


__all__ = ["button", "fill", "form", "number", "ticked"]
