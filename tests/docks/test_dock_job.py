"""The bridge between threads, where Qt pulls away its end."""

from __future__ import annotations

import pytest

from seamscope.docks.job import _Worker


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
