"""What was measured once and costs time to measure again, kept in the user's cache folder.

Knows files, keys and values of JSON. Does not know what is measured.

One file for each value, in one folder for each kind of value. An entry counts only for the version
of Seamscope that wrote it. A damaged file counts as absent, and a folder that cannot be written is
no reason to fail: the value is then measured again. The oldest entries are removed when the folder
grows beyond `LARGEST`::

    facts = Cache("facts")
    known = facts.get(model.fingerprint)
    if known is None:
        facts.put(model.fingerprint, known := measure(model))

The folder is that of the operating system (``~/.cache/seamscope`` on Linux), or the one that the
environment variable ``SEAMSCOPE_CACHE`` names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs

from seamscope.version import __version__

LARGEST = 32_000_000
"""Bytes of all entries together."""

_SUFFIX = ".json"


def cache_folder() -> Path:
    """Folder of the user's cache of Seamscope; it need not exist."""
    own = os.environ.get("SEAMSCOPE_CACHE")
    return Path(own).expanduser() if own else Path(platformdirs.user_cache_dir("seamscope", False))


@dataclass(frozen=True)
class Entry:
    """One kept value.

    Attributes
    ----------
    kind, key
        As given to `Cache` and `Cache.put`.
    bytes
        Size of its file.
    saved
        When it was written, in seconds since 1970.
    current
        Whether this version of Seamscope wrote it; others are never read.
    """

    kind: str
    key: str
    bytes: int
    saved: float
    current: bool


class Cache:
    """Values of one kind, by key.

    Parameters
    ----------
    kind
        Name of the folder, such as ``"facts"``.

    Examples
    --------
    >>> speeds = Cache("doctest")
    >>> speeds.put("a network", {"seconds": [1.5, 2.0]})
    >>> speeds.get("a network")
    {'seconds': [1.5, 2.0]}
    >>> clear("doctest")
    1
    >>> speeds.get("a network") is None
    True
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def get(self, key: str) -> Any | None:
        """Return the value of a key; None where there is none that this version wrote."""
        content = _content(self._file(key))
        if content is None or content["key"] != key or content["version"] != _version():
            return None
        return content["value"]

    def put(self, key: str, value: Any) -> None:
        """Keep a value made of JSON's own types; replaces what the key had before."""
        content = {"version": _version(), "key": key, "value": value}
        text = json.dumps(content)
        file = self._file(key)
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            # whole or not at all: another process may be reading
            draft = file.with_name(f"{file.name}.{os.getpid()}")
            draft.write_text(text, encoding="utf-8")
            draft.replace(file)
            _shrink(file)

    def _file(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return cache_folder() / self._kind / f"{name}{_SUFFIX}"


def entries() -> tuple[Entry, ...]:
    """List everything that is kept, newest first."""
    found = []
    for file, stat in _files():
        content = _content(file)
        if content is not None:
            current = content["version"] == _version()
            key = str(content["key"])
            found.append(Entry(file.parent.name, key, stat.st_size, stat.st_mtime, current))
    return tuple(sorted(found, key=lambda entry: -entry.saved))


def clear(kind: str | None = None) -> int:
    """Remove everything that is kept, or all of one kind; return how many entries that were."""
    files = [file for file, _ in _files() if kind in (None, file.parent.name)]
    for folder in {file.parent for file in files}:
        shutil.rmtree(folder, ignore_errors=True)
    return len(files)


def _files() -> Iterator[tuple[Path, os.stat_result]]:
    for file in cache_folder().glob(f"*/*{_SUFFIX}"):
        with contextlib.suppress(OSError):  # another process removed it
            yield file, file.stat()


def _content(file: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and {"version", "key", "value"} <= content.keys():
            return content
    return None


def _shrink(newest: Path) -> None:
    """Remove the oldest entries until the rest fits; the newest stays."""
    files = sorted(_files(), key=lambda each: -each[1].st_mtime)
    size = 0
    for file, stat in files:
        size += stat.st_size
        if size > LARGEST and file != newest:
            file.unlink(missing_ok=True)


@cache
def _version() -> str:
    """Version of the library, and of its source where that is being edited."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        stat = file.stat()
        digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return f"{__version__} {digest.hexdigest()[:8]}"


__all__ = ["LARGEST", "Cache", "Entry", "cache_folder", "clear", "entries"]
