"""What can go wrong, as one small tree.

::

    SeamscopeError                 every message names the value, the rule and the remedy
    ├── SettingsError              what was asked for cannot be done (tile, halo, axes, area ...)
    ├── ImageError                 an image cannot be read, or does not fit the network
    ├── ModelError                 a model cannot be loaded or does not behave as a network must
    │   └── TrustError             loading would run somebody's code; lists what would run
    └── OutputError                the result cannot be written (disk full, exists, wrong shape)

Drivers (command line, docks) show ``str(error)`` and nothing else; anything that is not a
`SeamscopeError` is a bug of ours.
"""

from __future__ import annotations


class SeamscopeError(Exception):
    """Something the user can mend; the message says how."""


class SettingsError(SeamscopeError):
    """What was asked for contradicts the network, the image or itself."""


class ImageError(SeamscopeError):
    """The image cannot be read, or is not what the network takes."""


class ModelError(SeamscopeError):
    """The model cannot be loaded, or does not behave as a network must."""


class TrustError(ModelError):
    """Loading would execute code that came with the file.

    Attributes
    ----------
    would_run
        One line for each thing that would be executed.
    """

    def __init__(self, source: str, would_run: tuple[str, ...]) -> None:
        self.source = source
        self.would_run = would_run
        listed = "; ".join(would_run)
        super().__init__(
            f"Loading {source} would run code: {listed}. "
            "If you trust where it comes from, say so (--trust, or trust=True)."
        )


class OutputError(SeamscopeError):
    """The result cannot be written."""
