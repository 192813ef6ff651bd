"""Shared by all tests: nobody's settings touched, no widget left, the real networks and images.

The real ones were made by others and are not part of this repository; tests that use them take
their place as an argument and are skipped where they are absent.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from places import ROOT

# Before anything imports Qt or napari: one binding for all, and napari's settings kept in memory,
# so that tests neither read nor change the user's. PyQt6 unless QT_API names another.
os.environ.setdefault("QT_API", "pyqt6")
os.environ.setdefault("PYTEST_QT_API", os.environ["QT_API"])
os.environ["NAPARI_CONFIG"] = ""

# What tests measure is kept in a folder of this session's own, never in the user's.
os.environ["SEAMSCOPE_CACHE"] = tempfile.mkdtemp(prefix="seamscope-tests-")
atexit.register(shutil.rmtree, os.environ["SEAMSCOPE_CACHE"], ignore_errors=True)

# Test networks are so small that a second thread only waits, the longer the busier the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines that are shared make every deadline a matter of luck. CI repeats the same examples, so
# that a change is judged by what it changed; at home each run looks at new ones.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


# Files that take longest. They begin first, so that no process is left alone with one at the end.
LONGEST = (
    "test_packaging.py", "test_repair.py", "test_dock.py", "test_dock_labels.py", "test_docs.py",
    "test_every_format.py", "test_shared_measures.py", "test_inference.py", "test_diagnosis.py",
    "test_dock_normalization.py", "test_dock_seams.py", "test_cli.py", "test_interrupted.py",
    "test_cli_normalization.py", "test_trimming.py", "test_workers.py", "test_remote.py",
    "test_random_networks.py", "test_dock_fix.py", "test_dock_receptive_field.py",
    "test_resume.py", "test_journeys.py", "test_dock_run_on.py", "test_cli_seams.py",
    "test_probe.py", "test_one_truth.py",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than processors: some tests wait for windows, workers or other programs."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_collection_finish() -> None:
    """Leave what the tests imported out of garbage collections.

    Half a million objects live as long as the process, and every window that a test opens or
    closes would go through all of them three times.
    """
    gc.collect()
    gc.freeze()


_crashed: set[str] = set()


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: pytest.TestReport) -> None:
    """Let the process of a dock's test crash once: the test is repeated in a new one, and said so.

    napari and software OpenGL do now and then as they delete a window (in 1 of some thousand), in
    code that is not ours. A second crash of a test is a failure, and so are any crash of another
    test and the third of all.
    """
    repeated = crashitem not in _crashed and len(_crashed) < 2
    if repeated and crashitem.startswith("tests/docks/"):
        _crashed.add(crashitem)
        report.outcome = "skipped"
        reason = "its process crashed (see the fatal error above); repeated in a new one"
        report.longrepr = crashitem, 0, reason


_broken: list[str] = []


def pytest_internalerror(excrepr: Any) -> None:
    """Keep what broke pytest itself; xdist then prints pages of what follows from it."""
    _broken.append(str(excrepr))


def pytest_unconfigure() -> None:
    """Say it last, where a log that is cut still holds it."""
    if _broken and "PYTEST_XDIST_WORKER" not in os.environ:
        print("\nWhat broke pytest first:", _broken[0][-3000:], sep="\n")


def _real(kind: str) -> Path:
    """Where the real models or images are; skips the test where they are not."""
    folder = Path(os.environ.get("SEAMSCOPE_REAL", ROOT.parent / "shared" / "real")) / kind
    if not folder.is_dir():
        pytest.skip(f"no real {kind} at {folder}: name their folder with SEAMSCOPE_REAL")
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_power_cut() -> Iterator[None]:
    """Do not wait for the disk, which takes milliseconds for each file that shall last."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def real_models() -> Path:
    """Folder of the real networks, one folder each (its README tells what they are)."""
    return _real("models")


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Folder of the real images."""
    return _real("images")


def _own_widgets() -> set[Any]:
    """Every living widget whose class is Seamscope's; empty as long as no test has loaded Qt."""
    qt = sys.modules.get("qtpy.QtWidgets")
    if qt is None or qt.QApplication.instance() is None:
        return set()
    return {w for w in qt.QApplication.allWidgets() if type(w).__module__.startswith("seamscope.")}


def _release_widgets() -> None:
    """Let Qt and Python delete what they already may."""
    from qtpy.QtCore import QCoreApplication, QEvent

    gc.collect()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    QCoreApplication.processEvents()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads; results of several processes are compared by bits."""
    import torch

    from seamscope.execution import worker

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    worker.close()


@pytest.fixture(scope="module")
def forked_workers() -> Iterator[None]:
    """Workers of dask fork from a process that has imported what they need.

    Importing is most of a short life. Those of users start as new processes
    (`test_own_workers_end_with_the_run`).
    """
    distributed = pytest.importorskip("distributed")
    import multiprocessing

    import dask

    preloaded = ["distributed.nanny", "seamscope.execution.worker", "seamscope.segmentation.stages"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(preloaded)
    distributed.utils._forkserver_preload_set = True  # else it sets those of its own tests
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@pytest.fixture(scope="module")
def client(forked_workers: None) -> Iterator[Any]:
    """Two workers of dask; the tests of one file share them, and new ones replace the killed."""
    from seamscope.execution.pool import open_pool

    with open_pool(2) as (pool, _):
        yield pool._client


@pytest.fixture
def workers_here(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Orders for workers are carried out in this process, which opens everything by its path.

    Returns where runs were to be carried out.
    """
    from seamscope.execution.pool import Here

    asked = []

    @contextlib.contextmanager
    def open_here(on: Any, **how: Any) -> Iterator[tuple[Here, int]]:
        asked.append(on)
        pool = Here()
        yield pool, 1
        pool.stop()

    for room in ("execution.pool", "segmentation.labelling"):
        monkeypatch.setattr(f"seamscope.{room}.open_pool", open_here)
    return asked


@pytest.fixture(scope="session")
def config_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New folders in one; pytest's own would search all folders of the session for each test."""
    place = tmp_path_factory.mktemp("config")
    return (place / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def nothing_is_trusted_yet(config_folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose code may run is remembered in a folder of each test's own, never in the user's."""
    folder = next(config_folders)
    folder.mkdir()
    monkeypatch.setenv("SEAMSCOPE_CONFIG", str(folder))


@pytest.fixture(autouse=True)
def no_widget_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set up first, so torn down last: after viewers are closed, none of our docks may live on."""
    before = _own_widgets()
    yield
    report = getattr(request.node, "rep_call", None)
    if report is not None and report.failed:
        return  # the traceback keeps them alive, and the failure is news enough
    if _own_widgets() - before:
        _release_widgets()
    leaked = [type(widget).__qualname__ for widget in _own_widgets() - before]
    assert not leaked, f"widgets outlived their test: {leaked}"
