"""Whose code may run: remembered by content, in a file of the user's own.

Knows digests that were trusted, and where that is written. Does not know what they are digests of
(see `seamscope.models.formats`).

The file is ``trusted.json`` in the folder ``seamscope`` of the user's settings
(``XDG_CONFIG_HOME``, ``~/.config``; on Windows ``APPDATA``), or in the folder ``SEAMSCOPE_CONFIG``.
What is changed by a single byte is asked for anew; to forget everything, delete the file.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path


def config_folder() -> Path:
    """Folder of the user's settings of Seamscope; it need not exist."""
    own = os.environ.get("SEAMSCOPE_CONFIG")
    if own:
        return Path(own).expanduser()
    windows = os.environ.get("APPDATA") if sys.platform == "win32" else None
    home = os.environ.get("XDG_CONFIG_HOME") or windows or "~/.config"
    return Path(home).expanduser() / "seamscope"


def trusted(digests: Iterable[str]) -> bool:
    """Whether all of these were trusted before."""
    wanted = set(digests)
    return bool(wanted) and wanted <= _remembered().keys()


def remember(what: Mapping[str, str]) -> None:
    """Trust from now on.

    Parameters
    ----------
    what
        For each digest one line that names what it belongs to, for whoever reads the file.

    Notes
    -----
    A folder that cannot be written is no reason to fail: the question is then asked again.
    """
    now = datetime.datetime.now().isoformat(timespec="seconds")
    known = _remembered()
    for digest, line in what.items():
        known.setdefault(digest, {"what": line, "since": now})
    _write(known)


def forget(digests: Iterable[str]) -> None:
    """Ask again for these."""
    gone = set(digests)
    _write({digest: told for digest, told in _remembered().items() if digest not in gone})


def _file() -> Path:
    return config_folder() / "trusted.json"


def _remembered() -> dict[str, dict[str, str]]:
    with contextlib.suppress(OSError, ValueError):
        told = json.loads(_file().read_text(encoding="utf-8"))
        if isinstance(told, dict):
            return told
    return {}


def _write(known: Mapping[str, Mapping[str, str]]) -> None:
    file = _file()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        # whole or not at all: another process may be reading
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        draft.write_text(json.dumps(known, indent=1), encoding="utf-8")
        draft.replace(file)
