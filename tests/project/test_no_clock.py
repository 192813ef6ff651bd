"""No test depends on the clock: tests count tiles, events and bytes, never seconds."""

from __future__ import annotations

import re

from places import ROOT

_CLOCK = re.compile(r"\bperf_counter|\bmonotonic\(|\btime\.time\(|\bprocess_time")


def test_no_test_reads_the_clock() -> None:
    found = {
        str(path.relative_to(ROOT)): match[0]
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path.name != "test_no_clock.py"
        for match in _CLOCK.finditer(path.read_text(encoding="utf8"))
    }
    assert found == {}
