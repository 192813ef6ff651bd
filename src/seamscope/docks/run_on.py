"""Who computes: this process, more processes on this machine, or a cluster.

Knows the three choices. Does not know how work is shared out (see `seamscope.execution`).
"""

from __future__ import annotations

from typing import Any

import psutil
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit, QWidget

from seamscope.docks.controls import number, stack
from seamscope.docks.editors import Choice

TIP = (
    "Run on. This process: image and result can be in memory. Workers: more processes on this "
    "machine, for large images. Scheduler: a cluster of Dask. Workers read their input from its "
    "files, and write into files."
)
_COUNT_TIP = "Number of processes. Each loads the network once and uses its share of the threads."
_SCHEDULER_TIP = (
    "Address of the scheduler, such as tcp://host:8786, or the file that it wrote "
    "(dask scheduler --scheduler-file FILE). Its workers see all files under the same names."
)
_NO_SCHEDULER = (
    "Enter the address of a scheduler of Dask, such as tcp://host:8786, or the file that it wrote."
)


class RunOn(QWidget):
    """Editor of what `seamscope.predict` calls ``on``, in each step that may take long.

    Parameters
    ----------
    more
        What the choice means in this step, besides `TIP`.
    """

    value_changed = Signal()

    def __init__(self, more: str = "") -> None:
        super().__init__()
        kinds = [("This process", "here"), ("Workers", "workers"), ("Scheduler", "scheduler")]
        self.kind = Choice(kinds, f"{TIP} {more}".strip())
        cores = psutil.cpu_count(logical=False) or 2
        self.count = number((1, 256), cores, _COUNT_TIP, " processes")
        self.scheduler = QLineEdit()
        self.scheduler.setPlaceholderText("tcp://host:8786 or a file")
        self.scheduler.setToolTip(_SCHEDULER_TIP)
        stack(self, self.kind, self.count, self.scheduler)
        self.kind.setAccessibleName("Run on")
        self.count.setAccessibleName("Number of processes")
        self.scheduler.setAccessibleName("Scheduler")
        self._show_more()
        self.kind.value_changed.connect(self._changed)
        self.count.valueChanged.connect(self._changed)
        self.scheduler.editingFinished.connect(self._changed)

    def value(self) -> int | str | None:
        """None, a number of processes, or a scheduler; empty text where none is given yet."""
        kind = self.kind.value()
        if kind == "workers":
            return self.count.value()
        return self.scheduler.text().strip() if kind == "scheduler" else None

    @property
    def problem(self) -> str:
        """Say what is missing in the row; empty where nothing is."""
        return _NO_SCHEDULER if self.value() == "" else ""

    def set_value(self, value: int | str | None) -> None:
        """Choose who computes."""
        if isinstance(value, int):
            self.count.setValue(value)
        elif value is not None:
            self.scheduler.setText(value)
        kinds = {int: "workers", str: "scheduler"}
        before = self.value()
        self.kind.set_value(kinds.get(type(value), "here"))
        if self.value() != before:
            self._changed()

    def _changed(self, _: Any = None) -> None:
        self._show_more()
        self.value_changed.emit()

    def _show_more(self) -> None:
        kind = self.kind.value()
        self.count.setVisible(kind == "workers")
        self.scheduler.setVisible(kind == "scheduler")


__all__ = ["TIP", "RunOn"]
