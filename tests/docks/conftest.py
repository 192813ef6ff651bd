"""For all tests of docks: settings of their own, windows and docks."""

from __future__ import annotations

import copy
import functools
import gc
import importlib

import pytest

pytest.importorskip("napari")

from dock_networks import at_rest
from hands import PATIENCE
from qtpy.QtCore import QSettings

_NAMES = {
    "prediction": ("seamscope.docks.prediction.dock", "PredictionDock", "Tiled prediction"),
    "labels": ("seamscope.docks.labels.dock", "LabelsDock", "Labels"),
    "seams": ("seamscope.docks.seams.dock", "SeamsDock", "Seams"),
    "field": ("seamscope.docks.receptive_field.dock", "ReceptiveFieldDock", "Receptive field"),
    "normalization": (
        "seamscope.docks.normalization.dock",
        "NormalizationDock",
        "Network normalization",
    ),
}


@pytest.fixture(scope="session", autouse=True)
def manifests_are_read_once():
    """Each window reads the manifests of all plugins; parsing takes a third of its opening."""
    from npe2.manifest import _bases

    parse = functools.cache(_bases._load_yaml_no_duplicates)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            _bases, "_load_yaml_no_duplicates", lambda file: copy.deepcopy(parse(file.read()))
        )
        yield


@pytest.fixture(autouse=True)
def nothing_left_is_garbage():
    """As for all tests once they are collected: windows collect garbage as they open and close.

    Docks import much more when they open, and napari keeps much.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_settings(tmp_path):
    """Recent models of the user who runs the tests are neither read nor changed."""
    QSettings.setPath(
        QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(tmp_path / "settings")
    )


@pytest.fixture(autouse=True)
def networks_at_rest():
    """Networks are shared by all tests: delays and failures end with the test that set them."""
    yield
    at_rest()


@pytest.fixture
def viewer(make_napari_viewer):
    """A window for each test: napari 0.9 crashes on software OpenGL where layers come and go."""
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1000, 800)
    return viewer


@pytest.fixture
def open_docks(viewer, qtbot):
    """Open docks by short name: ``open_docks("prediction", "seams")``; waits for all at the end."""
    opened = []

    def open_all(*names):
        for place, name in zip(("left", "right", "right"), names, strict=False):
            module, kind, title = _NAMES[name]
            dock = getattr(importlib.import_module(module), kind)(viewer)
            viewer.window.add_dock_widget(dock, name=title, area=place)
            opened.append(dock)
        if "prediction" in names:
            opened[0].options.shown.set_value(False)  # values are easier to compare than colours
        if "prediction" in names and len(names) > 1:
            opened[0].options.accelerate.setChecked(False)  # trials take longer than these runs
        return opened[-1] if len(names) == 1 else tuple(opened)

    yield open_all
    qtbot.waitUntil(lambda: all(is_settled(dock) for dock in opened), timeout=PATIENCE)


def is_settled(dock):
    """Whether a dock has no work going on; one that a test has deleted has none."""
    try:
        return getattr(dock, "settled", True) and not dock.busy
    except RuntimeError:
        return True
