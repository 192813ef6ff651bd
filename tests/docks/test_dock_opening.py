"""Docks as napari's menu opens them: at once, once each, as tabs, and as they were left."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("napari")

from hands import PATIENCE, picture
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QDockWidget, QTabBar

from seamscope.docks import opening
from seamscope.docks.opening import Place
from seamscope.docks.prediction.dock import PredictionDock
from seamscope.docks.window import dock_around, main_window


@pytest.fixture
def opened(viewer, qtbot):
    """Open a dock by its name in napari's menu, and wait until it is filled."""

    def open_dock(title):
        _, place = viewer.window.add_plugin_dock_widget("seamscope", title)
        qtbot.waitUntil(lambda: place.dock is not None, timeout=PATIENCE)
        qtbot.wait(20)
        return place

    yield open_dock
    qtbot.wait(20)


def test_nothing_heavy_is_imported_on_the_thread_of_the_window():
    """Counted in a fresh process: which modules each thread imports until the dock is there."""
    code = """
import sys, threading
class Watch:
    seen = []
    def find_spec(self, name, path=None, target=None):
        self.seen.append((threading.current_thread() is threading.main_thread(), name))
import napari
from qtpy.QtWidgets import QApplication
viewer = napari.Viewer(show=False)
sys.meta_path.insert(0, Watch())
_, place = viewer.window.add_plugin_dock_widget("seamscope", "Tiled prediction")
assert place.dock is None and "Loading Tiled prediction" in place.findChild(
    __import__("qtpy.QtWidgets").QtWidgets.QLabel).text()
while place.dock is None:
    QApplication.processEvents()
heavy = ("torch", "scipy", "zarr", "tifffile", "dask", "seamscope.models", "seamscope.images")
own = [name for main, name in Watch.seen if main and name.startswith(heavy)]
beside = [name for main, name in Watch.seen if not main and name.startswith(heavy)]
print(len(own), own[:5])
assert "torch" in beside and len(beside) > 100
assert not own, own
viewer.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "different thread" not in done.stderr  # Qt: an object made on import belongs elsewhere


def test_docks_lie_as_tabs_on_each_other(viewer, qtbot, opened):
    first, second = opened("Tiled prediction"), opened("Seams")
    window = main_window(first)
    assert dock_around(second) in window.tabifiedDockWidgets(dock_around(first))
    bars = [bar for bar in window.findChildren(QTabBar) if bar.count() == 2 and bar.isVisible()]
    assert len(bars) == 1
    assert second.dock.height() == second.height()  # napari's stretch grows with each dock
    assert "Seams" in bars[0].tabText(bars[0].currentIndex())
    assert not dock_around(first).isFloating()
    viewer.window.add_plugin_dock_widget("seamscope", "Tiled prediction")
    assert len([d for d in window.findChildren(QDockWidget) if isinstance(d.widget(), Place)]) == 2


def test_the_menu_brings_a_dock_forward_that_lies_behind_another(qtbot, opened):
    first, second = opened("Tiled prediction"), opened("Seams")
    frame = dock_around(first)
    frame.setVisible(not frame.isVisible())  # what napari's menu does
    qtbot.waitUntil(lambda: not first.visibleRegion().isEmpty(), timeout=PATIENCE)
    assert second.visibleRegion().isEmpty()
    frame.setVisible(False)  # in front: napari's menu hides it
    qtbot.wait(50)
    assert frame.isHidden()


def test_what_was_chosen_survives_closing(viewer, qtbot, opened):
    viewer.add_image(picture(64, 96))
    place = opened("Tiled prediction")
    dock = place.dock
    assert isinstance(dock, PredictionDock)
    dock.halo.set_value(5)
    dock.blend.set_value("linear")
    assert dock.awake
    viewer.window.remove_dock_widget(dock_around(place))
    assert not dock.awake
    assert not dock.isVisible()
    again = opened("Tiled prediction")
    assert again is not place
    assert again.dock is dock
    assert dock.awake
    assert dock.isVisible()
    assert dock.halo.value() == (5, 5)
    assert dock.blend.value() == "linear"


class Styled(QObject):
    """Counts how often Qt gives a widget its style."""

    def __init__(self, widget):
        super().__init__(widget)
        self.times = 0
        widget.installEventFilter(self)

    def eventFilter(self, _, event):  # noqa: N802
        self.times += event.type() == QEvent.Type.StyleChange
        return False


def test_pages_that_come_back_are_styled_once_for_each_way(viewer, qtbot, opened):
    """That is nearly all that closing and opening cost: 0.1 s for six pages."""
    viewer.add_image(picture(64, 96))
    place = opened("Seamscope")
    steps = place.dock
    for name, slot in steps.slots.items():
        steps.show_step(name)
        qtbot.waitUntil(lambda slot=slot: slot.dock is not None, timeout=PATIENCE)
    pages = {name: slot.dock for name, slot in steps.slots.items()}
    counts = {name: Styled(page) for name, page in pages.items()}
    steps.show_step("labels")
    viewer.window.remove_dock_widget(dock_around(place))
    assert not any(page.awake or page.isVisible() for page in pages.values())
    assert {counted.times for counted in counts.values()} == {1}
    elsewhere = opened("Seams")
    assert elsewhere.dock is pages["seams"]
    assert opened("Seamscope").dock is steps
    qtbot.waitUntil(lambda: steps.slots["field"].dock is not None, timeout=PATIENCE)
    qtbot.wait(50)
    assert elsewhere.dock is pages.pop("seams")
    assert not steps.slots["seams"]._take.isHidden()
    assert all(steps.slots[name].dock is page for name, page in pages.items())
    assert all(page.awake for page in pages.values())
    assert [name for name, page in pages.items() if page.isVisible()] == ["labels"]
    assert [name for name, page in pages.items() if page.front] == ["labels"]
    assert {counts[name].times for name in pages} == {2}


def test_a_dock_that_is_closed_before_it_is_filled_sleeps(viewer, qtbot, opened):
    _, place = viewer.window.add_plugin_dock_widget("seamscope", "Tiled prediction")
    viewer.window.remove_dock_widget(place)
    qtbot.wait(50)
    made = opening._docks_of(viewer).get("prediction")
    assert made is None or not made.awake
    assert opened("Tiled prediction").dock.awake


def test_what_is_dropped_waits_for_the_dock_that_is_being_imported(viewer, qtbot, monkeypatch):
    took = []
    with monkeypatch.context() as importing:
        importing.setattr(opening, "_imported", lambda _: None)
        _, place = viewer.window.add_plugin_dock_widget("seamscope", "Tiled prediction")
        opening.open_where_it_is(viewer, "prediction", took.append)
    qtbot.waitUntil(lambda: bool(took), timeout=PATIENCE)
    assert took == [place.dock]
    assert len(main_window(place).findChildren(Place)) == 1
