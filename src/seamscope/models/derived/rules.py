"""What each operation does with positions.

Knows the names of operations. Does not know how positions are moved or joined: four modules do, one
for each kind of operation.
"""

from __future__ import annotations

from typing import Any

from seamscope.models.derived import attention, moves, statistics, windows

RULES: dict[str, Any] = {
    name: rule
    for module in (windows, statistics, moves, attention)
    for names, rule in module.RULES.items()
    for name in names.split()
}
"""By the operation's name; called with the reader and the bound arguments."""

__all__ = ["RULES"]
