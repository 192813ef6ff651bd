"""Write the page of the docks from the docks themselves: every control with its tip, and pictures.

``reference.py`` runs it when the site is built. The docks are made without napari's window, so that
no display is needed::

    QT_QPA_PLATFORM=offscreen python docs/docks.py FOLDER --pictures

Pictures show the demo image after a run with a halo that is too small.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import napari
from journeys import own_settings
from napari.components import ViewerModel
from napari.qt import get_stylesheet
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractSlider,
    QApplication,
    QProgressBar,
    QTableView,
    QTabWidget,
    QWidget,
)

from seamscope.demo import sample_image
from seamscope.docks.controls import KEYS, tip_of
from seamscope.docks.demo import wait_until
from seamscope.docks.opening import KINDS
from seamscope.docks.spoken import controls_in, name_of

ABOUT = {
    "prediction": "The step *Predict*: an image, a network, tiles, and the run.",
    "seams": "The step *Seams*: where neighbouring tiles disagree, how much, and why.",
    "fix": "The step *Fix*: from seams to none by one button.",
    "labels": "The step *Labels*: objects of the prediction, corrected by hand, and written.",
    "field": "An expert page: how far the network looks, and how far it matters.",
    "normalization": "An expert page: statistics of each layer, fixed statistics, and blends.",
}
SIDE, TILE, HALO = 320, 96, 8  # of the image that is shown, and of its run
WIDTH = 400  # of a dock, in pixels


def page(docks: dict[str, Any], pictures: bool) -> Iterator[str]:
    """Yield the page: a section for each dock, a table for each of its tabs."""
    yield "# The docks\n"
    yield "All docks are in *Plugins > Seamscope*. The dock *Seamscope* holds them as steps and"
    yield "expert pages. The sentences are those of the tooltips; screen readers say them too.\n"
    yield "| key | does |\n|---|---|"
    yield from (f"| {key} | {name} |" for name, key in KEYS.items())
    yield ""
    for name, dock in docks.items():
        yield f"## {KINDS[name].title}\n"
        yield f"{ABOUT[name]}\n"
        if pictures:
            yield f"![The dock {KINDS[name].title}](docks/{name}.png)\n"
        yield from _tables(dock)


def _tables(dock: QWidget) -> Iterator[str]:
    """Yield the controls above all tabs, then those of each tab."""
    tabs = dock.findChildren(QTabWidget)
    inside = [(one, k) for one in tabs for k in range(one.count())]
    pages = [one.widget(k) for one, k in inside]
    behind = {id(each) for each_page in pages for each in controls_in(each_page)}
    free = [each for each in controls_in(dock) if id(each) not in behind]
    yield from _table(free)
    for (one, k), each_page in zip(inside, pages, strict=True):
        yield f"### {one.tabText(k)}\n"
        yield f"{one.tabToolTip(k)}\n"
        yield from _table(controls_in(each_page))


def _table(controls: list[QWidget]) -> Iterator[str]:
    rows: dict[str, str] = {}
    for control in controls:
        name, tip = name_of(control), " ".join(tip_of(control).split())
        if name and tip and not isinstance(control, QAbstractSlider | QProgressBar):
            rows.setdefault(name.replace(" …", "").strip(), tip)
        if isinstance(control, QTableView):
            rows |= {f"{name}: column {title}": tip for title, tip in _columns(control)}
    if not rows:
        return
    yield "| control | what it does |\n|---|---|"
    yield from (f"| {_cell(name)} | {_cell(tip)} |" for name, tip in rows.items())
    yield ""


def _columns(table: QTableView) -> Iterator[tuple[str, str]]:
    """Yield the title and the tip of each column."""
    model, across = table.model(), Qt.Orientation.Horizontal
    for k in range(model.columnCount()):
        tip = model.headerData(k, across, Qt.ItemDataRole.ToolTipRole)
        yield model.headerData(k, across), " ".join(str(tip).split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def make_docks() -> dict[str, Any]:
    """Make all docks on a viewer without a window."""
    viewer = ViewerModel()
    return {
        name: getattr(importlib.import_module(KINDS[name].module), KINDS[name].name)(viewer)
        for name in ABOUT
    }


def _play(docks: dict[str, Any]) -> None:
    """Predict the demo image with a halo that is too small, and open what shows seams."""
    prediction = docks["prediction"]
    pixels = sample_image("tissue2d")[0][:SIDE, :SIDE]
    prediction.viewer.add_image(pixels, name="Tissue 2D")
    prediction.set_model("demo:batchnorm")
    wait_until(lambda: prediction.plan is not None and prediction.settled)
    prediction.tile.set_value(TILE)
    prediction.halo.set_value(HALO)
    wait_until(lambda: prediction.settled)
    prediction.panel.run.click()
    wait_until(lambda: not prediction.busy)
    docks["seams"].tabs.setCurrentIndex(1)
    docks["seams"].table.choose(0)


def _picture(dock: QWidget, path: Path) -> None:
    """Save a dock as high as its page, in few colours."""
    from PIL import Image

    scroll = getattr(dock, "scroll", None)
    dock.setMinimumHeight(0)
    dock.resize(WIDTH, 300)
    dock.show()
    for _ in range(3):
        QApplication.processEvents()
        inside = 0 if scroll is None else scroll.widget().sizeHint().height() - scroll.height()
        dock.resize(WIDTH, min(max(dock.height() + inside + 12, 200), 1600))
    QTest.qWait(1000)  # plots are made when they are first seen
    dock.grab().save(str(path))
    dock.hide()
    Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


def main() -> None:
    """Write ``docks.md``, and the pictures where they are wanted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", action="store_true")
    wanted = parser.parse_args()
    own_settings()
    application = QApplication([])
    docks = make_docks()
    lines = list(page(docks, wanted.pictures))
    (wanted.folder / "docks.md").write_text("\n".join(lines) + "\n", encoding="utf8")
    if wanted.pictures:
        window = napari.Viewer(show=False)  # brings napari's icons; the docks have no window
        application.setStyleSheet(get_stylesheet(window.theme))
        _play(docks)
        (wanted.folder / "docks").mkdir(exist_ok=True)
        for name, dock in docks.items():
            _picture(dock, wanted.folder / "docks" / f"{name}.png")
        window.close()


if __name__ == "__main__":
    main()
