"""Ten questions about a plan, which Python, the command line and the dock answer alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from seamscope.planning.plan import Plan

IMAGE = np.random.default_rng(3).random((260, 200), np.float32)
# as Python has them, and as a shell has them
QUESTIONS = {
    "nothing": ({}, []),
    "small tile": ({"tile": 16}, ["--tile", "16"]),
    "tile": ({"tile": 48}, ["--tile", "48"]),
    "uneven tile": ({"tile": (48, 64)}, ["--tile", "48,64"]),
    "halo": ({"tile": 48, "halo": 4}, ["--tile", "48", "--halo", "4"]),
    "sides": ({"tile": 48, "halo": ((3, 8), 8)}, ["--tile", "48", "--halo", "3/8,8"]),
    "overlap": ({"tile": 48, "overlap": 10}, ["--tile", "48", "--overlap", "10"]),
    "area": ({"area": {"y": (40, 90)}}, ["--area", "y=40:90"]),
    "memory": ({"memory": 2_000_000}, ["--memory", "2MB"]),
    "all seams": ({"tile": 20, "seams": "all"}, ["--tile", "20", "--seams", "all"]),
}


def same(plan: Plan | dict[str, Any]) -> dict[str, Any]:
    """What plans are compared by."""
    keys = ("tile", "halo", "overlap", "stride", "grid", "tiles", "seams", "area", "notes")
    written = dict(plan.to_json() if isinstance(plan, Plan) else plan)
    whole = {letter: [0, size] for letter, size in zip("yx", IMAGE.shape, strict=True)}
    written["area"] = written["area"] and whole | written["area"]  # axes left out are whole
    return {key: written[key] for key in keys}
