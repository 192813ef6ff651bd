"""Names of controls for those who hear a window, and tips for those who point at it.

Knows forms, and which widgets a user works with. Does not know what a control is for.

A screen reader says the name of a control and then its tip. A button has its text; a field has the
label beside it, which sighted users read::

    Tile  [---o----] [ 256 ] [x] Auto     "Tile, slider", "Tile", "Tile: Auto"
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QProgressBar,
    QScrollBar,
    QTabBar,
    QWidget,
)

_KINDS = (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QProgressBar,
    QTabBar,
)
_WIDTH, _WIDEST = 84, 96  # letters in a line of a tip that is wrapped, and of one that is not
_WHOLE = QAbstractItemView, QAbstractSpinBox, QComboBox, QTabBar  # their parts are Qt's own


def controls_in(page: QWidget) -> list[QWidget]:
    """All that a user works with on a page, hidden or not; parts of Qt's own left out."""
    found = page.findChildren(QWidget)
    return [each for each in (page, *found) if isinstance(each, _KINDS) and _is_whole(each, page)]


def _is_whole(widget: QWidget, page: QWidget) -> bool:
    if isinstance(widget, QScrollBar):
        return False
    around = widget
    while around is not page:
        around = around.parentWidget()
        if around is None or isinstance(around, _WHOLE):
            return around is None
    return True


def name_of(control: QWidget) -> str:
    """What a screen reader calls a control: its name, or the text on it."""
    text = control.text() if isinstance(control, QAbstractButton) else ""
    return control.accessibleName() or text.replace("&", "")


def name_controls(page: QWidget) -> None:
    """Name the fields of all forms by their labels, give labels the fields' tips, and wrap tips."""
    for form in page.findChildren(QFormLayout):
        for label, field in _rows(form):
            name_field(field, label.text())
            tips = (each.toolTip() for each in controls_in(field))
            label.setToolTip(label.toolTip() or field.toolTip() or next(filter(None, tips), ""))
    for each in (*controls_in(page), *page.findChildren(QLabel)):
        if any(len(line) > _WIDEST for line in each.toolTip().split("\n")):
            each.setToolTip(_wrapped(each.toolTip()))  # Qt wraps no plain text
    for bar in page.findChildren(QProgressBar):
        bar.setAccessibleName(bar.accessibleName() or "Progress")
        bar.setToolTip(bar.toolTip() or "How much of the work is done.")


def name_field(field: QWidget, name: str) -> None:
    """Name a field, and all controls it is made of that have no name yet."""
    field.setAccessibleName(field.accessibleName() or name)
    for control in controls_in(field):
        if control is not field and not control.accessibleName():
            text = name_of(control)
            kind = ", slider" if isinstance(control, QAbstractSlider) else ""
            control.setAccessibleName(f"{name}: {text}" if text else f"{name}{kind}")


def _wrapped(tip: str) -> str:
    return "\n".join(textwrap.fill(line, _WIDTH) for line in tip.split("\n"))


def _rows(form: QFormLayout) -> Iterator[tuple[QLabel, QWidget]]:
    for row in range(form.rowCount()):
        label = form.itemAt(row, QFormLayout.ItemRole.LabelRole)
        field = form.itemAt(row, QFormLayout.ItemRole.FieldRole)
        widgets = [None if item is None else item.widget() for item in (label, field)]
        if isinstance(widgets[0], QLabel) and widgets[1] is not None and widgets[0].text():
            yield widgets[0], widgets[1]


__all__ = ["controls_in", "name_controls", "name_field", "name_of"]
