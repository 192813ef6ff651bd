"""Record the quick start: an animated picture of the way from an image to labels without seams.

Needs a screen, which is pictured whole, lists that drop down included::

    xvfb-run -a -s "-screen 0 1280x800x24" python docs/recording.py docs/pictures/quickstart.webp
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from journeys import TILE, Hand, own_settings
from PIL import Image, ImageDraw, ImageFont
from qtpy.QtCore import QPoint
from qtpy.QtGui import QGuiApplication, QImage
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QWidget

from seamscope.docks.demo import wait_until

SCREEN = (1280, 800)
WIDTH = 960  # of the recording, in pixels
BAR = 44  # height of the line of text below the window
POINTER = 16
SHORT, LONG = 1200, 2600  # milliseconds
QUALITY = 80


class Camera(Hand):
    """A hand that is pictured before each click, and by `shoot`."""

    def __init__(self, image: int) -> None:
        super().__init__(SCREEN, "dark", image)
        self.viewer.window.resize(*SCREEN)
        self.frames: list[Image.Image] = []
        self.durations: list[int] = []
        self.caption = ""

    def click(self, widget: QWidget, at: QPoint | None = None) -> None:
        """Picture the pointer, then click."""
        wait_until(lambda: widget.isEnabled() and widget.isVisible(), 60)
        place = widget.mapToGlobal(at or QPoint(widget.width() // 2, widget.height() // 2))
        self.shoot(SHORT, place)
        super().click(widget, at)

    def shoot(self, duration: int, pointer: QPoint | None = None) -> None:
        """Add what the screen shows, for so many milliseconds."""
        QTest.qWait(700)  # the canvas and the plots are drawn late
        frame = _screen()
        draw = ImageDraw.Draw(frame)
        if pointer is not None:
            x, y = pointer.x(), pointer.y()
            box = (x - POINTER, y - POINTER, x + POINTER, y + POINTER)
            draw.ellipse(box, outline="#ffd92f", width=4)
        scale = WIDTH / frame.width
        small = frame.resize((WIDTH, round(frame.height * scale)), Image.Resampling.LANCZOS)
        whole = Image.new("RGB", (WIDTH, small.height + BAR), "#16181d")
        whole.paste(small)
        font = ImageFont.load_default(22)
        ImageDraw.Draw(whole).text((16, small.height + 8), self.caption, "#ffffff", font)
        print(f"picture {len(self.frames) + 1}: {self.caption}", flush=True)
        self.frames.append(whole)
        self.durations.append(duration)

    def save(self, path: Path) -> None:
        """Write an animated WebP that begins again at its end."""
        path.parent.mkdir(parents=True, exist_ok=True)
        first, *rest = self.frames
        first.save(
            path, save_all=True, append_images=rest, duration=self.durations, loop=0,
            quality=QUALITY, method=6,
        )  # fmt: skip


def _screen() -> Image.Image:
    screen = QGuiApplication.primaryScreen()
    assert screen is not None
    taken = screen.grabWindow(0).toImage().convertToFormat(QImage.Format.Format_RGB888)
    data: Any = taken.constBits()
    data.setsize(taken.sizeInBytes())
    stride = taken.bytesPerLine()
    size = (taken.width(), taken.height())
    return Image.frombuffer("RGB", size, bytes(data), "raw", "RGB", stride, 1)


def play(camera: Camera) -> None:
    """From an image to labels without seams, with a network that normalizes each tile by itself."""
    dock = camera.page("prediction")
    camera.caption = "An image is open. Choose a network."
    camera.shoot(SHORT)
    camera.choose(dock.model_picker.box, "2D InstanceNorm")
    wait_until(lambda: dock.plan is not None and dock.settled, 60)
    dock.tile.set_value(TILE // 2)  # as if no larger tile fitted
    wait_until(lambda: dock.settled)
    camera.caption = "No overlap removes the seams of this network. Run it all the same."
    camera.shoot(LONG)
    camera.click(dock.panel.run)
    wait_until(lambda: not dock.busy)
    camera.caption = "There are squares in the prediction. Look at the seams."
    camera.shoot(LONG)
    seams = camera.step("seams")
    camera.click(seams.actions.buttons["Show the worst seam"])
    camera.caption = "The worst seam: what both tiles predict, and their difference."
    seams.scroll.ensureWidgetVisible(seams.comparison)
    camera.shoot(LONG)
    camera.caption = "Fix it: every tile uses the same statistics. No retraining."
    fix = camera.step("fix")
    camera.click(fix.fix)
    wait_until(lambda: not fix.busy)
    camera.viewer.reset_view()
    camera.caption = "The seams are gone. Before and after can be compared."
    camera.shoot(LONG)
    labels = camera.step("labels")
    camera.caption = "Labels: objects that no tile border cuts."
    camera.click(labels.segment)
    QTest.qWait(300)
    wait_until(lambda: not labels.busy)
    camera.shoot(LONG)


def main() -> None:
    """Record, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--image", type=int, default=320, help="side of the image in pixels")
    wanted = parser.parse_args()
    own_settings()
    camera = Camera(wanted.image)
    play(camera)
    camera.save(wanted.out)
    camera.close()


if __name__ == "__main__":
    main()
