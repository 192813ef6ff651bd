"""Small editors, each of one value: `value`, `set_value`, `value_changed`.

Knows widgets. Does not know networks, layers or what the values are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qtpy.QtCore import QLocale, QObject, QRegularExpression, QSignalBlocker, Qt, Signal
from qtpy.QtGui import QDoubleValidator, QRegularExpressionValidator
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QWidget,
)

from seamscope.docks.controls import leave_wheel_to_page

Auto = Literal["auto"]


class Choice(QComboBox):
    """One of several values, each with a text for people."""

    value_changed = Signal()

    def __init__(self, options: Sequence[tuple[str, Any]] = (), tooltip: str = "") -> None:
        super().__init__()
        self.setToolTip(tooltip)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.set_options(options)
        self.currentIndexChanged.connect(self._tell)

    def set_options(self, options: Sequence[tuple[str, Any]]) -> None:
        """Replace what can be chosen; the value stays where it still can be."""
        if [(self.itemText(i), self.itemData(i)) for i in range(self.count())] == list(options):
            return
        value = self.value()
        with QSignalBlocker(self):
            self.clear()
            for text, data in options:
                self.addItem(text, data)
            self.setCurrentIndex(max(self._index(value), 0))

    def value(self) -> Any:
        """What is chosen."""
        return self.currentData()

    def set_value(self, value: Any) -> None:
        """Choose a value; one that is not offered is ignored."""
        index = self._index(value)
        if index >= 0:
            self.setCurrentIndex(index)

    def paintEvent(self, event: Any) -> None:  # noqa: N802
        """Draw dots in the middle of a text that is too long: Qt cuts its end off."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        room = self.style().subControlRect(
            QStyle.ComplexControl.CC_ComboBox, option, QStyle.SubControl.SC_ComboBoxEditField, self
        )
        option.currentText = self.elided(room.width())
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def elided(self, width: int) -> str:
        """Return the chosen text as it fits into so many screen pixels."""
        middle = Qt.TextElideMode.ElideMiddle
        return str(self.fontMetrics().elidedText(self.currentText(), middle, width))

    def _index(self, value: Any) -> int:
        return next((i for i in range(self.count()) if self.itemData(i) == value), -1)

    def _tell(self) -> None:
        self.value_changed.emit()


class OptionalNumber(QLineEdit):
    """A number, or nothing."""

    value_changed = Signal()

    def __init__(self, nothing: str) -> None:
        super().__init__()
        self.setPlaceholderText(nothing)
        numbers = QDoubleValidator(self)
        numbers.setLocale(QLocale.c())
        self.setValidator(numbers)
        self._value: float | None = None
        self.editingFinished.connect(self._edited)

    def value(self) -> float | None:
        """The number; None for nothing."""
        return self._value

    def set_value(self, value: float | None) -> None:
        """Show a number, or nothing."""
        self.setText("" if value is None else f"{value!r}".removesuffix(".0"))
        self._take(value)

    def _edited(self) -> None:
        text = self.text().strip()
        self._take(float(text) if text else None)

    def _take(self, value: float | None) -> None:
        if value != self._value:
            self._value = value
            self.value_changed.emit()


class OptionalSizes(QLineEdit):
    """Pixels, one number or one for each axis as in ``32,64,64``; or nothing."""

    value_changed = Signal()

    def __init__(self, nothing: str) -> None:
        super().__init__()
        self.setPlaceholderText(nothing)
        numbers = QRegularExpression(r"(\s*[1-9]\d{0,5}\s*(,\s*[1-9]\d{0,5}\s*){0,2})?")
        self.setValidator(QRegularExpressionValidator(numbers, self))
        self._value: int | tuple[int, ...] | None = None
        self.editingFinished.connect(self._edited)

    def value(self) -> int | tuple[int, ...] | None:
        """The pixels; None for nothing."""
        return self._value

    def set_value(self, value: int | Sequence[int] | None) -> None:
        """Show pixels, or nothing."""
        numbers = [] if value is None else [value] if isinstance(value, int) else value
        self.setText(",".join(map(str, numbers)))
        self._edited()

    def _edited(self) -> None:
        numbers = tuple(int(each) for each in self.text().split(",") if each.strip())
        value = numbers[0] if len(numbers) == 1 else numbers or None
        if value != self._value:
            self._value = value
            self.value_changed.emit()


@dataclass(frozen=True)
class Steps:
    """Numbers an editor of pixels offers: ``low, low + step, ...`` up to `high`."""

    name: str
    axes: tuple[int, ...]
    low: int = 0
    high: int = 1024
    step: int = 1

    def nearest(self, value: int) -> int:
        """Closest number offered."""
        count = round((min(max(value, self.low), self.high) - self.low) / self.step)
        number = self.low + count * self.step
        return number if number <= self.high else number - self.step

    @property
    def count(self) -> int:
        """How many numbers are offered, less one."""
        return max((self.high - self.low) // self.step, 0)


class _Row(QObject):
    """A slider and a number that always agree."""

    value_changed = Signal()

    def __init__(self, tooltip: str, parent: QWidget) -> None:
        super().__init__(parent)
        self._steps = Steps("", ())
        self.label = QLabel()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setMinimumWidth(40)
        self.number = QSpinBox()
        self.number.setKeyboardTracking(False)
        for widget in self.widgets:
            widget.setToolTip(tooltip)
        self.slider.valueChanged.connect(self._slid)
        self.number.valueChanged.connect(self._typed)

    @property
    def widgets(self) -> tuple[QWidget, ...]:
        """From left to right."""
        return self.label, self.slider, self.number

    def show(self, shown: bool) -> None:
        """Show or hide all of it."""
        for widget in self.widgets:
            widget.setVisible(shown)
        self.label.setVisible(shown and bool(self._steps.name))

    def set_steps(self, steps: Steps) -> None:
        """Offer other numbers; the value moves to the nearest."""
        value = self.number.value()
        self._steps = steps
        self.label.setText(steps.name)
        with QSignalBlocker(self.slider), QSignalBlocker(self.number):
            self.slider.setRange(0, steps.count)
            self.slider.setPageStep(max(steps.count // 10, 1))
            self.number.setRange(steps.low, max(steps.high, steps.low))
            self.number.setSingleStep(steps.step)
        self.show_value(value)

    def show_value(self, value: int) -> None:
        """Show a number without telling."""
        with QSignalBlocker(self.slider), QSignalBlocker(self.number):
            self.number.setValue(value)
            self.slider.setValue((self.number.value() - self._steps.low) // self._steps.step)

    def _slid(self, index: int) -> None:
        self.show_value(self._steps.low + index * self._steps.step)
        self.value_changed.emit()

    def _typed(self, value: int) -> None:
        self.show_value(self._steps.nearest(value))
        self.value_changed.emit()


class PixelsEditor(QWidget):
    """Pixels along the axes, or Auto: a slider and a number for each group of axes.

    While Auto is on, the sliders show what Auto has chosen; moving one turns Auto off.
    """

    value_changed = Signal()

    def __init__(self, tooltip: str, auto_tooltip: str) -> None:
        super().__init__()
        self.auto = QCheckBox("Auto")
        self.auto.setChecked(True)
        self.auto.setToolTip(auto_tooltip)
        self._tooltip = tooltip
        self._rows: list[_Row] = []
        self._steps: tuple[Steps, ...] = ()
        self._exact: tuple[int, ...] = ()  # what rows show the largest numbers of
        self._layout = QGridLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setVerticalSpacing(2)
        self._layout.setColumnStretch(1, 1)
        self._layout.addWidget(self.auto, 0, 3)
        self.set_steps([Steps("", (0, 1), 0, 1024, 1)])
        self.auto.toggled.connect(self._tell)

    @property
    def rows(self) -> list[_Row]:
        """Slider and number of each group of axes."""
        return self._rows[: len(self._steps)]

    def set_steps(self, steps: Sequence[Steps]) -> None:
        """Offer other numbers, one row for each `Steps`."""
        if tuple(steps) == self._steps:
            return
        self._steps = tuple(steps)
        while len(self._rows) < len(steps):
            self._add_row()
        leave_wheel_to_page(self)
        for row, each in zip(self._rows, steps, strict=False):
            row.set_steps(each)
        for i, row in enumerate(self._rows):
            row.show(i < len(steps))
        self._name_rows()

    def setAccessibleName(self, name: str) -> None:  # noqa: N802
        """Name the whole, and each row by its axes: "Tile", "Tile z"."""
        super().setAccessibleName(name)
        self._name_rows()

    def _name_rows(self) -> None:
        name = self.accessibleName()
        for row, steps in zip(self._rows, self._steps, strict=False):
            own = f"{name} {steps.name}".strip()
            row.number.setAccessibleName(own)
            row.slider.setAccessibleName(f"{own}, slider" if own else "")

    def _add_row(self) -> None:
        row = _Row(self._tooltip, self)
        row.value_changed.connect(self._moved)
        for column, widget in enumerate(row.widgets):
            self._layout.addWidget(widget, len(self._rows), column)
        self._rows.append(row)

    def value(self) -> Auto | tuple[int, ...]:
        """``"auto"``, or pixels for each axis."""
        return "auto" if self.auto.isChecked() else self.shown()

    def shown(self) -> tuple[int, ...]:
        """Pixels for each axis.

        A row shows the largest number of its axes. Until it is moved, each axis keeps its
        own.
        """
        if self._exact and all(
            row.number.value() == max(self._exact[axis] for axis in steps.axes)
            for row, steps in zip(self.rows, self._steps, strict=True)
        ):
            return self._exact
        pairs = [
            (axis, row.number.value())
            for row, steps in zip(self.rows, self._steps, strict=True)
            for axis in steps.axes
        ]
        return tuple(value for _, value in sorted(pairs))

    def set_value(self, value: Auto | int | Sequence[int]) -> None:
        """Choose Auto, one number, or one for each axis."""
        before = self.value()
        with QSignalBlocker(self.auto):
            self.auto.setChecked(isinstance(value, str))
        if not isinstance(value, str):
            self._show(value)
        if self.value() != before:
            self.value_changed.emit()

    def show_auto(self, value: Sequence[int]) -> None:
        """Show what Auto has chosen, without telling."""
        if self.auto.isChecked():
            self._show(value)

    def _show(self, value: int | Sequence[int]) -> None:
        self._exact = () if isinstance(value, int) else tuple(value)
        for row, steps in zip(self.rows, self._steps, strict=True):
            own = [value] if isinstance(value, int) else [value[axis] for axis in steps.axes]
            row.show_value(max(own))

    def _moved(self) -> None:
        self._exact = ()
        with QSignalBlocker(self.auto):
            self.auto.setChecked(False)
        self.value_changed.emit()

    def _tell(self) -> None:
        self.value_changed.emit()
