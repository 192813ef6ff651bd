"""Play the ways through the window by clicking, count the clicks, and take the pictures.

Each way begins with a loaded image and ends with a result without seams, or with labels. Every
click is sent to a widget that is visible and enabled, as a mouse sends it. Run it where a display
is, or in Xvfb::

    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/journeys.py --out pictures

``--size 1366x768 --theme light`` plays them on a laptop, and QT_API=pyside6 with another Qt.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QPoint, QSettings, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QWidget

from seamscope.demo import sample_image
from seamscope.docks.demo import wait_until

TILE = 256  # as if no larger tile fitted; otherwise one tile holds the sample, and has no seams
MOST = 4  # clicks from a loaded image to a seamless result


def own_settings() -> None:
    """Neither read nor change what the user's own window remembers."""
    folder = tempfile.mkdtemp(prefix="seamscope-")
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, folder)
    os.environ["SEAMSCOPE_CONFIG"] = folder


class Hand:
    """A mouse in napari's window, which counts its clicks.

    Parameters
    ----------
    size, theme
        Of the window: pixels, and ``"dark"`` or ``"light"``.
    image
        Side of the square of the sample image in pixels.
    """

    def __init__(self, size: tuple[int, int], theme: str, image: int) -> None:
        self.viewer = napari.Viewer(title="Seamscope")
        self.viewer.theme = theme
        self.viewer.window.resize(*size)
        pixels = sample_image("tissue2d")[0][:image, :image]
        self.viewer.add_image(pixels, name="Tissue 2D")
        _, place = self.viewer.window.add_plugin_dock_widget("seamscope", "Seamscope")
        wait_until(lambda: place.dock is not None and self._page(place.dock, "prediction"))
        self.steps = place.dock
        self.clicks = 0

    def page(self, name: str) -> Any:
        """Dock of a step, which must have been opened."""
        return self._page(self.steps, name)

    def click(self, widget: QWidget, at: QPoint | None = None) -> None:
        """Click what a user can see and use."""
        wait_until(lambda: widget.isEnabled() and widget.isVisible(), 60)
        QTest.mouseClick(
            widget,
            Qt.MouseButton.LeftButton,
            Qt.KeyboardModifier.NoModifier,
            at or QPoint(widget.width() // 2, widget.height() // 2),
        )
        self.clicks += 1

    def choose(self, box: Any, text: str) -> None:
        """Open a list and take an entry: two clicks."""
        index = next(i for i in range(box.count()) if text in box.itemText(i))
        box.showPopup()
        view = box.view()
        wait_until(view.isVisible, 60)
        view.setCurrentIndex(box.model().index(index, 0))
        QTest.keyClick(view, Qt.Key.Key_Return)  # a second popup in Xvfb takes no click
        self.clicks += 2
        assert text in box.currentText(), f"{text} was not chosen"

    def step(self, name: str) -> Any:
        """Go to a step by its button, and return its dock."""
        self.click(self.steps.steps[name])
        wait_until(lambda: self.page(name) is not None)
        return self.page(name)

    def picture(self, path: Path) -> None:
        """Save what the screen shows."""
        QTest.qWait(1500)  # the canvas and the plots are drawn late
        self.viewer.window.screenshot(str(path), canvas_only=False, flash=False)

    def close(self) -> None:
        """Close the window."""
        self.viewer.close()

    @staticmethod
    def _page(steps: Any, name: str) -> Any:
        return steps.slots[name].dock


def from_image_to_no_seams(hand: Hand, network: str, picture: Callable[[str], None]) -> bool:
    """Choose a network, and do what the window says; return whether the result is seamless."""
    dock = hand.page("prediction")
    hand.choose(dock.model_picker.box, network)
    wait_until(lambda: dock.plan is not None and dock.settled, 60)
    dock.tile.set_value(TILE)
    wait_until(lambda: dock.settled)
    picture("network")
    if dock.model.reach.halo is not None:  # the sentence is green: Run
        hand.click(dock.panel.run)
        wait_until(lambda: not dock.busy)
        picture("predicted")
        report = dock.session.runs[-1].evidence.report
        return bool(report.overlaps and report.seamless)
    fix = hand.step("fix")
    picture("advice")
    hand.click(fix.fix)
    wait_until(lambda: not fix.busy)
    picture("fixed")
    assert not fix.problem, fix.problem
    return bool(fix.advice.step == "nothing")


def from_seams_to_none(hand: Hand, network: str, picture: Callable[[str], None]) -> bool:
    """Run with tiles that are too small, look at the seams, then fix them."""
    dock = hand.page("prediction")
    hand.choose(dock.model_picker.box, network)
    wait_until(lambda: dock.plan is not None and dock.settled, 60)
    dock.tile.set_value(96)
    dock.halo.set_value(8)
    wait_until(lambda: dock.settled)
    hand.click(dock.panel.run)
    wait_until(lambda: not dock.busy)
    picture("squares")
    hand.step("seams")
    picture("seams")
    fix = hand.step("fix")
    hand.click(fix.fix)
    wait_until(lambda: not fix.busy)
    picture("after")
    assert not fix.problem, fix.problem
    return bool(fix.advice.step == "nothing")


def to_labels(hand: Hand, picture: Callable[[str], None]) -> bool:
    """Make objects of the last result, and return whether there are some."""
    labels = hand.step("labels")
    hand.click(labels.segment)
    QTest.qWait(300)
    wait_until(lambda: not labels.busy)
    QTest.qWait(300)
    picture("labels")
    shown = [x for x in hand.viewer.layers if x.visible and type(x).__name__ == "Labels"]
    return any(len(np.unique(np.asarray(x.data))) > 3 for x in shown)


WAYS = {"fix": from_image_to_no_seams, "seams": from_seams_to_none}


def main() -> None:
    """Play all ways, print the clicks, and fail where a way is too long or leads nowhere."""
    asked = _arguments()
    own_settings()
    asked.out.mkdir(parents=True, exist_ok=True)
    size = tuple(int(n) for n in asked.size.split("x"))
    for network in asked.networks:
        for name in asked.ways:
            way = WAYS[name]
            hand = Hand(size, asked.theme, asked.image)

            def picture(
                what: str, hand: Hand = hand, start: str = f"{network.lower()}-{name}"
            ) -> None:
                hand.picture(asked.out / f"{asked.size}-{asked.theme}-{start}-{what}.png")

            seamless = way(hand, f"2D {network}", picture)
            clicks = hand.clicks
            found = to_labels(hand, picture) if name == "fix" else True
            print(f"{network}, {name}: {clicks} clicks, seamless: {seamless}, labels: {found}")
            hand.close()
            if not (seamless and found) or (name == "fix" and clicks > MOST):
                raise SystemExit(f"{network}, {name}: the way is too long or leads nowhere.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("pictures"))
    parser.add_argument("--size", default="1600x1000")
    parser.add_argument("--theme", choices=("dark", "light"), default="dark")
    parser.add_argument("--networks", nargs="+", default=["BatchNorm", "InstanceNorm"])
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    parser.add_argument("--image", type=int, default=448, help="side of the image in pixels")
    return parser.parse_args()


if __name__ == "__main__":
    main()
