"""The dock plans as Python and the command line do: the same ten questions."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
from hands import PATIENCE, load

import networks
from questions import IMAGE, QUESTIONS, same
from seamscope.models.formats import load_model
from seamscope.planning.case import Case
from seamscope.settings import Settings
from seamscope.tiling import halo_sides

_NOTHING = {"tile": "auto", "halo": "auto", "overlap": "auto"}


@pytest.fixture
def dock(viewer, open_docks, monkeypatch):
    free = psutil.virtual_memory()._replace(available=2**32)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    return open_docks("prediction")


def _draw(viewer, area):
    """Draw a rectangle around an area."""
    (top, bottom), (left, right) = (
        area.get(a, (0, n)) for a, n in zip("yx", IMAGE.shape, strict=True)
    )
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    return viewer.add_shapes([np.array(corners, float) - 0.5], shape_type="rectangle")


def test_the_dock_agrees_with_python(qtbot, viewer, dock) -> None:
    model = load_model(networks.UNet(2, 1).eval())
    layer = viewer.add_image(IMAGE)
    load(qtbot, dock, model)
    dock.options.accelerate.setChecked(False)
    plans = []
    for asked, _ in QUESTIONS.values():
        dock.options.memory.setValue(asked.get("memory", 0) / 1e9)
        dock.options.seams.set_value(asked.get("seams", "auto"))
        drawn = _draw(viewer, asked["area"]) if "area" in asked else None
        viewer.layers.selection.active = layer
        dock.options.region.set_value("image" if drawn is None else "shape")
        for name, usual in _NOTHING.items():
            getattr(dock, name).set_value(asked.get(name, usual) if name != "halo" else usual)
        if "halo" in asked:  # as the docks Seams and Receptive field suggest it, side by side
            sides = halo_sides(asked["halo"], 2)
            dock.session.want_halo(sides, asked.get("overlap"))
        dock.refresh()
        qtbot.waitUntil(lambda: dock.plan is not None, timeout=PATIENCE)
        assert dock.problem == ""
        expected = same(Case.open(IMAGE, model, Settings(accelerate=False, **asked)).plan)
        assert same(dock.plan) == expected, asked
        plans.append(str(expected))
        if drawn is not None:
            viewer.layers.remove(drawn)
    assert len(set(plans)) > 7  # the questions are different ones
