"""Whose code may run: consent, remembered by content in a file of the user's own.

Knows digests that are trusted, and where they are written. Does not know what they are digests of
(see `seamscope.models.formats`).

The file is ``trusted.json`` in the folder ``seamscope`` of the user's settings
(``XDG_CONFIG_HOME``, ``~/.config``; on Windows ``APPDATA``), or in the folder ``SEAMSCOPE_CONFIG``.
It is written for its owner alone (mode 0600). Where another user could write to it or replace it,
nothing in it counts. Code that changes by a single byte needs new consent; to forget all consent,
delete the file.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Consent:
    """What a person allows to run.

    Attributes
    ----------
    digests
        Of the code that was shown; None for any code that comes with the file.
    remember
        Whether it is allowed from now on. It is remembered once the network is loaded.
    """

    digests: frozenset[str] | None = None
    remember: bool = False

    def covers(self, digests: Iterable[str]) -> bool:
        """Return whether all of these may run."""
        return self.digests is None or set(digests) <= self.digests


def config_folder() -> Path:
    """Folder of the user's settings of Seamscope; it need not exist."""
    own = os.environ.get("SEAMSCOPE_CONFIG")
    if own:
        return Path(own).expanduser()
    windows = os.environ.get("APPDATA") if sys.platform == "win32" else None
    home = os.environ.get("XDG_CONFIG_HOME") or windows or "~/.config"
    return Path(home).expanduser() / "seamscope"


def trusted(digests: Iterable[str]) -> bool:
    """Return whether consent to all of these is remembered."""
    wanted = set(digests)
    return bool(wanted) and wanted <= _remembered().keys()


def remember(what: Mapping[str, str]) -> str:
    """Trust from now on.

    Parameters
    ----------
    what
        For each digest one line that names what it belongs to, for a person who reads the file.

    Returns
    -------
    reason
        Why it could not be remembered; empty where it was.
    """
    now = datetime.datetime.now().isoformat(timespec="seconds")
    reason = unsafe()
    if reason:
        return reason
    known = _remembered()
    for digest, line in what.items():
        known.setdefault(digest, {"what": line, "since": now})
    return _write(known)


def forget(digests: Iterable[str]) -> None:
    """Ask again for these."""
    gone = set(digests)
    _write({digest: entry for digest, entry in _remembered().items() if digest not in gone})


def unsafe() -> str:
    """Return why the file does not count, as a sentence; empty where it does.

    Another user who can write to the file, to its folder, or to a folder above it (without the
    sticky bit, as ``/tmp`` has) could add digests of their own.
    """
    if not hasattr(os, "getuid"):  # Windows: settings folders belong to one user
        return ""
    file = _file().resolve()
    for place, bits in ((file, _OTHERS), (file.parent, _OTHERS)):
        reason = _writable(place, bits)
        if reason:
            return reason
    for place in file.parent.parents:
        with contextlib.suppress(OSError):
            if not place.stat().st_mode & stat.S_ISVTX:
                reason = _writable(place, stat.S_IWOTH)
                if reason:
                    return reason
    return ""


def _writable(place: Path, bits: int) -> str:
    try:
        found = place.stat()
    except OSError:
        return ""  # not there: nothing to believe
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (os.getuid(), 0):
        return (
            f"{place} belongs to another user, who could trust code in your name: set "
            "SEAMSCOPE_CONFIG to a folder of your own."
        )
    if mode & bits:
        return (
            f"{place} can be written by other users (mode {mode:04o}), who could trust code in "
            f"your name: run chmod go-w '{place}'."
        )
    return ""


def _file() -> Path:
    return config_folder() / "trusted.json"


def _remembered() -> dict[str, dict[str, str]]:
    if unsafe():
        return {}
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(_file().read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _write(known: Mapping[str, Mapping[str, str]]) -> str:
    """Write the file whole or not at all, since another process may be reading it."""
    file = _file().resolve()
    draft = None
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f"{file.name}.", dir=file.parent)  # mode 0600
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            json.dump(known, opened, indent=1)
            opened.flush()
            os.fsync(opened.fileno())
        Path(draft).replace(file)
    except OSError as error:
        if draft is not None:
            with contextlib.suppress(OSError):
                Path(draft).unlink()
        return f"{file} cannot be written ({error.strerror})."
    return ""
