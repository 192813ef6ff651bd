"""Every control of every dock: its name, its tip, the wheel, the Tab key and the shortcuts."""

from __future__ import annotations

import importlib
import re

import pytest

pytest.importorskip("napari")

from hands import PATIENCE, picture
from napari.settings import get_settings
from napari.utils.shortcuts import default_shortcuts
from qtpy.QtCore import QPoint, QPointF, QSignalBlocker, Qt
from qtpy.QtGui import QAction, QKeySequence, QWheelEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QTabBar,
    QTabWidget,
)

from places import ROOT
from seamscope.docks.controls import KEYS, tip_of
from seamscope.docks.editors import Choice
from seamscope.docks.opening import KINDS
from seamscope.docks.spoken import controls_in, name_of
from seamscope.docks.window import main_window

SHOWN_LATER = {"CardSizes", "CardHalo"}  # buttons that get their text with a model


@pytest.fixture
def docks(viewer):
    """All docks in one window, by name."""
    made = {}
    for name, kind in KINDS.items():
        made[name] = getattr(importlib.import_module(kind.module), kind.name)(viewer)
        viewer.window.add_dock_widget(made[name], name=kind.title, area="right", tabify=True)
    return made


def described(control):
    return f"{type(control).__name__} {name_of(control)!r} in {type(control.parent()).__name__}"


def test_every_control_has_a_name_and_a_tip(docks):
    controls = {name: controls_in(dock) for name, dock in docks.items()}
    assert all(controls.values())
    every = [(name, each) for name, some in controls.items() for each in some]
    nameless = [
        f"{dock}: {described(each)}"
        for dock, each in every
        if not re.search("[A-Za-z]{2}", name_of(each))
        and type(each).__name__ not in SHOWN_LATER
        and not (each.isHidden() and not each.text())  # the box of fixed statistics
    ]
    assert not nameless
    assert not [
        f"{d}: {described(e)}" for d, e in every if not isinstance(e, QTabBar) and not e.toolTip()
    ]
    wide = [tip for _, each in every for tip in each.toolTip().split("\n") if len(tip) > 100]
    assert not wide  # Qt wraps no plain text
    buttons = [(d, e) for d, e in every if isinstance(e, QAbstractButton) and not e.isHidden()]
    off = [(d, e) for d, e in buttons if not e.isEnabledTo(e.parentWidget())]
    assert len(off) > 20  # nothing is loaded
    assert not [f"{d}: {described(e)}" for d, e in off if e.toolTip() == tip_of(e)]
    assert not [f"{d}: {described(e)}" for d, e in off if e.isChecked()]


def test_every_tab_row_and_column_has_a_tip(docks):
    bare = []
    for dock in docks.values():
        for tabs in dock.findChildren(QTabWidget):
            bare += [tabs.tabText(i) for i in range(tabs.count()) if not tabs.tabToolTip(i)]
        for table in dock.findChildren(QAbstractItemView):
            model = table.model()
            columns = range(model.columnCount()) if hasattr(table, "horizontalHeader") else ()
            bare += [
                model.headerData(i, Qt.Orientation.Horizontal)
                for i in columns
                if not model.headerData(i, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole)
            ]
        for form in dock.findChildren(QFormLayout):
            labels = (
                form.itemAt(i, QFormLayout.ItemRole.LabelRole) for i in range(form.rowCount())
            )
            widgets = [label.widget() for label in labels if label is not None]
            assert all(isinstance(widget, QLabel) for widget in widgets)
            bare += [widget.text() for widget in widgets if widget.text() and not widget.toolTip()]
    assert not bare


def value(control):
    if isinstance(control, QComboBox):
        return control.currentIndex()
    return control.value()


def turned(control):
    """Value of a control before and after the wheel is turned over it by one step."""
    before = value(control)
    centre = QPointF(control.rect().center())
    event = QWheelEvent(
        centre, control.mapToGlobal(centre), QPoint(), QPoint(0, -120), Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    control.setEnabled(True)
    QApplication.sendEvent(control, event)
    return before, value(control)


def test_the_wheel_changes_no_control_without_the_focus(qtbot, viewer, docks):
    viewer.add_image(picture(64, 96))
    kinds = QAbstractSpinBox, QComboBox, QAbstractSlider
    controls = [c for dock in docks.values() for c in controls_in(dock) if isinstance(c, kinds)]
    assert len(controls) > 40
    wrong = [described(c) for c in controls for before, after in [turned(c)] if before != after]
    assert not wrong
    blend = docks["prediction"].blend
    main_window(blend).activateWindow()
    docks["prediction"].parent().raise_()
    blend.setFocus()
    qtbot.waitUntil(blend.hasFocus, timeout=PATIENCE)
    before, after = turned(blend)
    assert before != after


def reached_by_tab(dock):
    """Controls of a dock that the Tab key goes to, in order."""
    found, each = [], dock.nextInFocusChain()
    while each is not dock:
        reachable = each.focusPolicy() & Qt.FocusPolicy.TabFocus
        if dock.isAncestorOf(each) and reachable and each.isVisible() and each.isEnabled():
            found.append(each)
        each = each.nextInFocusChain()
    return found


def is_seen(control, dock):
    """Whether a control has room, also where it has to be scrolled to."""
    while control is not dock:
        if not (control.width() > 1 and control.height() > 1):
            return False
        control = control.parentWidget()
    return True


def test_a_text_that_is_too_long_loses_its_middle(qtbot):
    names = [f"Tissue 2D · batchnorm · tile {n}" for n in (96, 192)]
    choice = Choice([(name, name) for name in names])
    qtbot.addWidget(choice)
    choice.resize(150, 24)
    first = choice.grab().toImage()
    assert "…" in choice.elided(100)
    assert choice.elided(100).endswith("96")
    assert choice.elided(1000) == names[0]
    choice.set_value(names[1])
    assert choice.grab().toImage() != first  # the end is drawn


@pytest.mark.parametrize("opened", [False, True])
def test_tab_goes_through_what_is_seen_and_leaves_tables(qtbot, viewer, docks, opened):
    viewer.add_image(picture(64, 96))
    for name in ("prediction", "seams", "labels", "field", "normalization"):
        dock = docks[name]
        dock.parent().raise_()
        qtbot.waitUntil(lambda d=dock: not d.visibleRegion().isEmpty(), timeout=PATIENCE)
        if opened and name == "prediction":
            dock.more.expand(animate=False)
            qtbot.waitUntil(lambda d=dock: is_seen(d.options.padding, d), timeout=PATIENCE)
        reached = reached_by_tab(dock)
        assert reached
        assert not [described(c) for c in reached if not is_seen(c, dock)]
        tables = dock.findChildren(QAbstractItemView)
        assert not [described(t) for t in tables if getattr(t, "tabKeyNavigation", bool)()]
    options = docks["prediction"].options
    assert (options.padding in reached_by_tab(docks["prediction"])) == opened


@pytest.mark.parametrize("size", [9, 16])
def test_nothing_is_cut_off_at_any_size_of_font(qtbot, viewer, docks, size):
    appearance = get_settings().appearance
    before = appearance.font_size
    appearance.font_size = size
    try:
        cut = [
            f"{name}: {each}"
            for name in ("prediction", "seams", "labels", "field", "normalization")
            for each in cut_off(qtbot, docks[name])
        ]
        narrow = [name for name in docks if size == 9 and not tabs_fit(docks[name])]
    finally:
        appearance.font_size = before
    assert not cut
    assert not narrow


def tabs_fit(dock):
    """Whether no tab must be scrolled to in the narrowest dock, beside a scroll bar."""
    needs = [tabs.tabBar().sizeHint().width() for tabs in dock.findChildren(QTabWidget)]
    if not needs:
        return True
    column = dock.scroll.widget().layout().contentsMargins()
    bar = dock.scroll.verticalScrollBar().sizeHint().width()
    return max(needs) <= dock.least_width - column.left() - column.right() - bar


def cut_off(qtbot, dock):
    """Yield what of a dock is wider than it is shown."""
    dock.parent().raise_()
    qtbot.waitUntil(lambda: not dock.visibleRegion().isEmpty(), timeout=PATIENCE)
    if hasattr(dock, "more"):
        dock.more.expand(animate=False)
    qtbot.wait(50)
    inside = dock.scroll.widget()
    if dock.scroll.viewport().width() < inside.minimumSizeHint().width():
        yield f"{inside.minimumSizeHint().width()} pixels in {dock.scroll.viewport().width()}"
    for box in inside.findChildren(QAbstractSpinBox):
        if box.isVisible():
            with QSignalBlocker(box):
                box.setValue(box.maximum())
            line = box.findChild(QLineEdit)
            need = line.fontMetrics().horizontalAdvance(line.text())
            if line.contentsRect().width() < need:
                yield f"{name_of(box)}: {line.text()} takes {need}, and has {line.width()}"


def test_shortcuts_are_free_in_napari_and_named_in_tips(viewer, docks):
    own = {QKeySequence(key).toString() for key in KEYS.values()}
    assert len(own) == len(KEYS)
    taken = {
        QKeySequence(str(key)).toString() for keys in default_shortcuts.values() for key in keys
    }
    taken |= {
        action.shortcut().toString() for action in main_window(docks["seams"]).findChildren(QAction)
    }
    assert "Ctrl+Y" in taken
    assert not own & taken
    buttons = {
        "run": [docks["prediction"].panel.run],
        "cancel": [docks["prediction"].panel.cancel, docks["seams"].job.cancel, docks["fix"].stop],
        "previous seam": [docks["seams"].previous],
        "next seam": [docks["seams"].next],
    }
    for name, some in buttons.items():
        for each in some:
            assert KEYS[name].split("+")[0] in each.toolTip()


def test_a_key_presses_run(qtbot, viewer, docks):
    dock = docks["prediction"]
    dock.parent().raise_()
    window = main_window(dock)
    window.activateWindow()
    qtbot.waitUntil(lambda: QApplication.activeWindow() is window, timeout=PATIENCE)
    qtbot.waitUntil(dock.panel.run.isVisible, timeout=PATIENCE)
    dock.panel.set_ready(True)
    pressed = []
    dock.panel.run.clicked.connect(lambda: pressed.append(True))
    QTest.keyClick(window, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: bool(pressed), timeout=PATIENCE)


def test_no_private_attribute_of_napari_is_used():
    """`viewer.window._qt_viewer` and the like change without notice; users see a warning."""
    private = re.compile(r"(?:viewer|window|layer|layers|dims|camera|canvas)\._(?!_)\w+|_qt_\w+")
    found = [
        f"{path.name}: {match[0]}"
        for path in sorted((ROOT / "src" / "seamscope" / "docks").rglob("*.py"))
        for match in private.finditer(path.read_text(encoding="utf8"))
        if not match[0].startswith(("viewer._seamscope",))
    ]
    assert not found
