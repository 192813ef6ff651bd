"""The bridge between threads, where Qt pulls away its end."""

from __future__ import annotations

import threading

import pytest
from qtpy.QtCore import QObject

from seamscope.docks.job import Job, _Worker


def test_work_outlives_its_signals(qapp) -> None:
    """As when napari quits: an exception in a worker's `run` would abort the whole process."""
    sip = pytest.importorskip("PyQt6.sip", reason="deletes as PyQt6 does when it quits")
    done = []
    worker = _Worker(lambda: done.append(1))
    sip.delete(worker.signals)
    with pytest.raises(RuntimeError, match="deleted"):
        worker.started.emit()
    worker.run()
    assert done == [1]


def test_work_that_ends_after_its_window_is_deleted(qtbot) -> None:
    """The worker's last signal may wait in Qt's queue while the window is deleted."""
    sip = pytest.importorskip("PyQt6.sip", reason="deletes as PyQt6 does when it quits")
    window, let_go, heard = QObject(), threading.Event(), []
    job = Job("waiting", lambda work: let_go.wait(30), window)
    job.ended.connect(heard.append)
    reporter, end = job.reporter, job._end
    job.start()
    sip.delete(window)
    assert reporter.stopped()
    job.cancel()
    job.abandon()  # as by a dock that is asked to load another network
    let_go.set()
    qtbot.waitUntil(lambda: reporter.outcome.value is True, timeout=30_000)
    end()  # as a signal that was queued before the window was deleted
    assert heard == []
