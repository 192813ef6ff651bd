"""Hands for tests of docks: press buttons, load networks, predict, and wait for the end."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import Qt

PATIENCE = 30_000


def press(qtbot, button):
    """Click a button that is enabled."""
    assert button.isEnabled()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def load(qtbot, dock, model):
    """Load a network into the dock Tiled prediction, and wait until it is measured."""
    dock.set_model(model)
    qtbot.waitUntil(lambda: not dock.job.busy, timeout=PATIENCE)


def predict(qtbot, dock, model, tile=32, **values):
    """Load a network, set what is given, press Run and wait for the end."""
    if dock.model is not model:
        dock.set_model(model)
        qtbot.waitUntil(lambda: dock.model is model, timeout=PATIENCE)
    dock.tile.set_value(tile)
    for name, value in values.items():
        getattr(dock, name).set_value(value)
    press(qtbot, dock.panel.run)
    qtbot.waitUntil(lambda: not dock.busy, timeout=PATIENCE)
    assert dock.problem == ""


def picture(*shape, seed=1, dtype=np.float32):
    """Noise."""
    return np.random.default_rng(seed).random(shape).astype(dtype)


def uneven(*shape, seed=1):
    """Noise that is brighter on one side, so that tiles' statistics differ."""
    return picture(*shape, seed=seed) * np.linspace(0.5, 3, shape[-1], dtype=np.float32)
