"""What is remembered from session to session, in a file of our own.

Knows where the file is. Does not know what is kept in it.
"""

from __future__ import annotations

from qtpy.QtCore import QSettings


def remembered() -> QSettings:
    """The settings of this user: they outlive napari's resets, and tests can put them elsewhere."""
    return QSettings(
        QSettings.Format.IniFormat, QSettings.Scope.UserScope, "seamscope", "seamscope"
    )


__all__ = ["remembered"]
