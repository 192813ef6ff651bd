"""Errors as sentences for the window.

Knows Seamscope's errors and the log. Does not know where a sentence is shown.
"""

from __future__ import annotations

import logging

from napari.utils.notifications import show_error

from seamscope.docks.looks import in_dock
from seamscope.errors import SeamscopeError
from seamscope.models.model import of_network

log = logging.getLogger(__name__)


def sentence(error: Exception, what: str) -> str:
    """Say what an error means.

    Seamscope's own errors are sentences already. All others are bugs: they are logged with their
    traceback, and napari shows them too.
    """
    if isinstance(error, SeamscopeError):
        return in_dock(error)
    if of_network(error):
        return f"The network fails ({type(error).__name__}: {error}): run it by itself on one tile."
    if isinstance(error, MemoryError):
        return "Memory ran out: choose a smaller region, or close other programs."
    log.error("%s failed", what, exc_info=error)
    shown = f"{what} failed: {type(error).__name__}: {error}"
    show_error(shown)
    return shown


__all__ = ["sentence"]
