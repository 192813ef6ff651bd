"""The bridge between threads, where Qt pulls away its end."""

from __future__ import annotations

import threading

import pytest
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFormLayout, QWidget

from seamscope.docks.job import Job, _Worker
from seamscope.docks.job_row import JobRow
from seamscope.docks.prediction.network_rows import NetworkRows
from seamscope.docks.session import Session


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


def test_the_tip_of_cancel_says_what_is_kept(qtbot):
    row = JobRow()
    qtbot.addWidget(row)
    for kept, said in ((False, "is lost"), (True, "can go on"), (False, "is lost")):
        row.start("working", lambda **_: None, lambda _: None, kept=kept)
        assert said in row.cancel.toolTip()
        row.abandon()


def test_trust_is_told_with_the_network_that_it_was_given_for(qtbot, monkeypatch):
    session, row, form = Session(), JobRow(), QWidget()
    qtbot.addWidget(form)  # takes the row
    monkeypatch.setattr(row, "start", lambda *_, **__: None)
    session.tell("trusted", None, None, None, trust=True)
    rows = NetworkRows(session, row, lambda _: {}, lambda _: None)
    rows.add_to(QFormLayout(form))
    rows.load("another", trust=False)
    assert session.plain == "trusted"
    assert session.trust
