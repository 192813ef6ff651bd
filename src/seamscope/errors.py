"""What can go wrong, as one small tree.

::

    SeamscopeError                 every message names the value, the rule and the remedy
    ├── SettingsError              a setting cannot be used (tile, halo, axes, area ...)
    ├── ImageError                 an image cannot be read, or does not fit the network
    │   └── NotFiniteError         it holds NaN or infinity; the same run would meet them again
    ├── ModelError                 a model cannot be loaded or does not behave as a network must
    │   └── TrustError             loading would run code of the file; lists what would run
    └── OutputError                the result cannot be written (disk full, exists, wrong shape)

Drivers (command line, docks) show ``str(error)`` and nothing else; anything that is not a
`SeamscopeError` is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class SeamscopeError(Exception):
    """Something the user can fix; the message says how."""


class SettingsError(SeamscopeError):
    """A setting contradicts the network, the image or another setting."""


class ImageError(SeamscopeError):
    """The image cannot be read, or is not what the network takes."""


class NotFiniteError(ImageError):
    """The image holds NaN or infinity: only another image or setting helps."""


class ModelError(SeamscopeError):
    """The model cannot be loaded, or does not behave as a network must."""


class RunnableCode(Protocol):
    """Code that loading a file would run, as `seamscope.models.formats` lists it."""

    @property
    def what(self) -> str:
        """One line that names it."""

    @property
    def digest(self) -> str:
        """Hash of its content."""

    @property
    def unknown(self) -> tuple[str, ...]:
        """What only running it would show."""


class TrustError(ModelError):
    """Loading would run code that comes with the file.

    Attributes
    ----------
    source
        The model string.
    would_run
        One line for each thing that would run.
    unknown
        One sentence for each thing that only running it would show.
    digests
        Hashes of exactly this code.
    reason
        Why consent that was given before does not count; empty where none was.
    """

    def __init__(self, source: str, code: Sequence[RunnableCode], reason: str = "") -> None:
        self.source = source
        self.would_run = tuple(each.what for each in code)
        self.unknown = tuple(line for each in code for line in each.unknown)
        self.digests = frozenset(each.digest for each in code)
        self.reason = reason
        listed = "; ".join(self.would_run)
        unknown = f" Unknown: {'; '.join(self.unknown)}." if self.unknown else ""
        super().__init__(
            f"Loading {source} would run code: {listed}.{unknown} "
            "If you trust where it comes from, say so (`trust=True`)."
            + (f" {reason}" if reason else "")
        )


class OutputError(SeamscopeError):
    """The result cannot be written."""
