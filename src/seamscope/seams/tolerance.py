"""From which difference on predictions disagree: a share of the output's spread.

Knows the default and how the spread is counted. Does not know tiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.errors import SettingsError

# Floating-point noise is below, artifacts are above this many standard deviations of the output:
# another order of summation makes 1e-5, a halo one pixel short 1e-2 (both measured).
TOLERANCE = 1e-4


@dataclass
class Spread:
    """Standard deviation of what was seen: of all numbers of the output together."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def see(self, values: npt.NDArray[Any]) -> None:
        """Count these; what is not finite is left out."""
        wide = values.astype(np.float64)
        if not math.isfinite(float(wide.sum())):
            wide = wide[np.isfinite(wide)]
        self.count += wide.size
        self.total += float(wide.sum())
        self.squares += float(np.vdot(wide, wide))

    @property
    def std(self) -> float:
        """Standard deviation; 0 where nothing was seen."""
        if not self.count:
            return 0.0
        mean = self.total / self.count
        return math.sqrt(max(0.0, self.squares / self.count - mean * mean))


def check_tolerance(tolerance: float) -> None:
    """Raise an error for a tolerance that is negative or not finite."""
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise SettingsError(
            f"Tolerance {tolerance}: it is a distance in standard deviations of the output, "
            "finite and 0 or more; use 1e-4 if in doubt."
        )


__all__ = ["TOLERANCE", "Spread", "check_tolerance"]
