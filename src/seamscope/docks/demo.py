"""The demo: napari with an image, a network and its tiles ready, one press of Run from the result.

Knows the dock's controls, and how to wait in Qt. Does not know how a display is found (see
`seamscope.cli`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from seamscope.dice import dice
from seamscope.text import shape_text

_MODEL, _IMAGE, _TILE = "demo:batchnorm", "tissue2d", 256
_FIGURES = ("tiles", "redundancy", "seconds", "tiles_per_second", "network", "device")
_PATIENCE = 600.0  # seconds
_SIZE = (1500, 920)
_TITLE = 40  # height of a window's title
_ZOOM_OUT = 0.97  # a little margin around the image


def show_demo(headless: bool = False, screenshot: Path | None = None) -> dict[str, Any]:
    """Open napari with the sample image, the demo network and the tile grid.

    Parameters
    ----------
    headless
        Press Run, wait for the end and return, instead of leaving the window to its user.
    screenshot
        Where to save a picture of the window; with `headless`, of the finished prediction.

    Returns
    -------
    dict
        Figures of the run, Dice of each channel against the sample's own labels, and where the
        screenshot is; empty without `headless`.

    Raises
    ------
    SeamscopeError
        When the prediction fails.
    """
    import napari

    viewer, dock, steps = open_demo()
    try:
        if not headless:
            _save(viewer, screenshot)
            napari.run()
            return {}
        return _predict(viewer, dock, steps, screenshot)
    finally:
        if headless:
            viewer.close()


def open_demo() -> tuple[Any, Any, Any]:
    """Viewer, the step Predict, ready for Run, and the dock that it is a step of."""
    import napari

    from seamscope.docks.layers import camera
    from seamscope.docks.samples import tissue_2d

    viewer = napari.Viewer(title="Seamscope")
    viewer.window.resize(*_size())
    for data, look, _ in tissue_2d():
        viewer.add_image(data, **look)
    _, place = viewer.window.add_plugin_dock_widget("seamscope", "Seamscope")
    wait_until(lambda: place.dock is not None and place.dock.slots["prediction"].dock is not None)
    steps = place.dock
    dock = steps.slots["prediction"].dock
    dock.set_model(_MODEL)
    wait_until(lambda: dock.plan is not None or bool(dock.problem))
    dock.tile.set_value(_TILE)
    viewer.reset_view()
    camera(viewer).zoom *= _ZOOM_OUT
    return viewer, dock, steps


def wait_until(true: Callable[[], bool], patience: float = _PATIENCE) -> None:
    """Let the window work until something is true.

    Raises
    ------
    TimeoutError
        When it never is.
    """
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + patience
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"The demo took more than {patience:.0f} s.")
        QApplication.processEvents()
        time.sleep(0.01)


def _predict(viewer: Any, dock: Any, steps: Any, screenshot: Path | None) -> dict[str, Any]:
    from seamscope.errors import SeamscopeError

    wait_until(lambda: dock.settled)
    dock.panel.run.click()
    wait_until(lambda: not dock.busy)
    if dock.problem:
        raise SeamscopeError(dock.problem)
    record = dock.results.layers[0].metadata["seamscope"]
    plan, run = record["plan"], record["figures"]
    figures: dict[str, Any] = {
        "model": record["model"]["spec"],
        "tile": shape_text(plan["tile"]),
        "halo": plan["halo"][0][0],
        **{name: run[name] for name in _FIGURES},
    }
    steps.show_step("seams")
    wait_until(lambda: steps.slots["seams"].dock is not None)
    return figures | _dice(dock.results.array) | _save(viewer, screenshot)


def _dice(probabilities: Any) -> dict[str, float]:
    """Overlap of the most probable class with the sample's own labels."""
    from seamscope.demo import CHANNEL_NAMES, sample_image

    found, true = np.asarray(probabilities).argmax(0), sample_image(_IMAGE)[1]
    classes = np.arange(len(CHANNEL_NAMES)).reshape(-1, *[1] * found.ndim)
    one, two = (labels == classes for labels in (found, true))
    space = tuple(range(1, one.ndim))
    each = dice((one & two).sum(space), one.sum(space) + two.sum(space))
    return {
        f"dice_{name}": round(float(value), 3)
        for name, value in zip(CHANNEL_NAMES, each, strict=True)
        if not np.isnan(value)
    }


def _save(viewer: Any, path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    from PIL import Image

    wait_until(_pause(0.3))
    picture = viewer.screenshot(canvas_only=False, flash=False)
    # 256 colours are enough for a window, and a third of the bytes
    shown = Image.fromarray(picture[..., :3]).quantize(256, dither=Image.Dither.NONE)
    shown.save(path, format="PNG", optimize=True)
    return {"screenshot": str(path)}


def _size() -> tuple[int, int]:
    """Width and height of the window, in screen pixels: no larger than the screen."""
    from qtpy.QtGui import QGuiApplication

    screen = QGuiApplication.primaryScreen()
    room = screen.availableGeometry() if screen is not None else None
    if room is None:
        return _SIZE
    return min(_SIZE[0], room.width()), min(_SIZE[1], room.height() - _TITLE)


def _pause(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end
