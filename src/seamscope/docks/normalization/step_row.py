"""The dock *Normalization*'s job at hand: its steps, and the time left.

Knows steps of long work. Does not know what is being done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seamscope.docks.job_row import JobRow
from seamscope.docks.normalization.tasks import Step
from seamscope.text import duration_text


class StepRow(JobRow):
    """A job whose work tells `Step`."""

    def _hear(self, messages: Sequence[Any]) -> None:
        last = messages[-1]
        if isinstance(last, Step):
            left = "" if last.seconds_left is None else f", {duration_text(last.seconds_left)} left"
            self._show(last.done, last.total, f"{last.what}{left}")
        else:
            super()._hear(messages)
