"""The way from a loaded image to a result without seams, clicked on a real canvas."""

from __future__ import annotations

import subprocess
import sys

import pytest

from places import ROOT

pytest.importorskip("napari")


def test_four_clicks_are_enough_for_both_demo_networks(tmp_path):
    script = [str(ROOT / "docs" / "journeys.py"), "--ways", "fix", "--image", "320"]
    done = subprocess.run(
        [sys.executable, *script, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "BatchNorm, fix: 3 clicks, seamless: True, labels: True",
        "InstanceNorm, fix: 4 clicks, seamless: True, labels: True",
    ]
    assert len(list(tmp_path.glob("*.png"))) == 7
