"""Where things lie in the repository.

In a module of its own: there are several ``conftest.py``, and none can be imported by name.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
