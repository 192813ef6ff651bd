"""The version, for records and pages; knows nothing else."""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
