"""Which blocks of long work are done, so that it can be resumed after it was stopped or killed.

Knows a folder with one description of the work and one mark for each finished block. Does not know
images, networks or tiles.

A mark is made by a rename, after its block was written: whatever is killed, and whenever, a mark
means that the block is on disk. Progress is counted from the marks, and from nothing else::

    .out.zarr.ledger/task.json    what is done, and by what
    .out.zarr.ledger/7            block 7 is written
    .out.zarr.ledger/run          which run may write, where several processes do

A process that outlives its run, such as a worker whose client was killed, must not write into what
a later run makes under the same name: it asks `Ledger.is_current` before it writes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seamscope.errors import NotFiniteError, OutputError
from seamscope.files import Claim, Place, disk_errors, write_file
from seamscope.serialization import plain

_TASK, _RUN = "task.json", "run"
# Seconds that a system may keep what is written in memory.
_LATE = 120
_LEFT = "What was written so far is kept."


class Ledger:
    """The marks of one piece of work.

    Parameters
    ----------
    folder
        Where the marks are; it exists.

    Attributes
    ----------
    task
        The description of the work, plain values by name.
    done
        The finished blocks: a number that was noted with each, by the number of the block.
    doubtful_since
        Files that were written later may not have reached the disk when the last run ended; time
        in seconds, as of files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.task: dict[str, Any] = _read(folder / _TASK)
        marks = [mark for mark in os.scandir(folder) if mark.name.isdecimal()]
        self.done: dict[int, int] = {int(mark.name): _number(mark) for mark in marks}
        last = max((mark.stat().st_mtime for mark in marks), default=math.inf)
        self.doubtful_since = last - _LATE

    @classmethod
    def begin(cls, folder: Path, task: Mapping[str, Any]) -> Ledger:
        """Make a ledger without marks, in place of any other.

        Raises
        ------
        OutputError
            When the disk refuses, or something else is there (see `discard`).
        """
        with disk_errors(folder, "Nothing was written."):
            discard(folder)
            folder.mkdir()
            write_file(folder / _TASK, json.dumps(plain(task)).encode())
        return cls(folder)

    def check(self, task: Mapping[str, Any], name: str) -> None:
        """Refuse to resume other work.

        Parameters
        ----------
        task
            Description of the work to be done; only its own entries are compared.
        name
            Of what is written, for the message.

        Raises
        ------
        OutputError
            When an entry differs; the message names it.
        """
        for path, old, new in differing(self.task, task):
            raise OutputError(
                f"{name} was begun with another {path} ({old}, now {new}), so it cannot be "
                "resumed. Ask for the same as then, choose another name, or begin again "
                "(`overwrite=True`)."
            )

    def note(self, key: str, value: Any) -> None:
        """Add to the description of the work.

        Raises
        ------
        OutputError
            When the disk refuses.
        """
        self.task[key] = plain(value)
        with disk_errors(self.folder, _LEFT):
            write_file(self.folder / _TASK, json.dumps(self.task).encode())

    def forget(self) -> None:
        """Remove all marks: what is written will be written again.

        Raises
        ------
        OutputError
            When the disk refuses.
        """
        self.unmark(sorted(self.done))

    def unmark(self, blocks: Iterable[int]) -> None:
        """Remove the marks of some blocks: what they hold is lost, or no longer used.

        Raises
        ------
        OutputError
            When the disk refuses.
        """
        with disk_errors(self.folder, _LEFT):
            for block in blocks:
                (self.folder / str(block)).unlink(missing_ok=True)
                self.done.pop(block, None)

    @contextlib.contextmanager
    def unless_refused(self) -> Iterator[None]:
        """Leave nothing of work that is refused, or fails, before its first block is done.

        Nor of an image with NaN: another image or another setting is other work.
        """
        try:
            yield
        except Exception as error:
            begun = isinstance(error, InterruptedError) or count_marks(self.folder)[1]
            if not begun or isinstance(error, NotFiniteError):
                with contextlib.suppress(OutputError):
                    discard(self.folder)
            raise

    def begin_run(self) -> str:
        """Give the right to write to a new run, and return its name.

        Raises
        ------
        OutputError
            When the disk refuses.
        """
        run = uuid.uuid4().hex
        with disk_errors(self.folder, _LEFT):
            write_file(self.folder / _RUN, run.encode())
        return run

    def end_run(self) -> None:
        """Take the right to write from whatever run has it."""
        with contextlib.suppress(OSError):
            (self.folder / _RUN).unlink()

    def is_current(self, run: str) -> bool:
        """Return whether a run still has the right to write.

        Raises
        ------
        OSError
            When the disk does not say, twice.
        """
        for last in (False, True):  # a shared disk may answer with a stale handle, once
            try:
                return (self.folder / _RUN).read_text() == run
            except FileNotFoundError:
                return False
            except OSError:
                if last:
                    raise
        return False

    def marked(self, block: int) -> int | None:
        """Return the number in the mark of a block, also of another process; None without one."""
        with contextlib.suppress(OSError):
            return int((self.folder / str(block)).read_text() or 0)
        return None

    def mark(self, block: int, number: int = 0) -> None:
        """Note that a block is written.

        Parameters
        ----------
        block
            Its number.
        number
            To be noted with it, for example how many of its pixels are not finite.

        Raises
        ------
        OutputError
            When the disk refuses.
        """
        content = str(number).encode() if number else b""
        file = self.folder / str(block)
        with disk_errors(self.folder, _LEFT):  # two workers may mark it
            write_file(file, content, shared=True, lasting=bool(content))  # empty cannot be emptied
        self.done[block] = number


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other processes from the work in a folder, as long as this lasts.

    Raises
    ------
    OutputError
        When another process is at it, or the disk refuses.
    """
    with disk_errors(folder, "Nothing was written."):
        os.stat(folder.parent)  # a lock would make it
        claim = Claim(Place(folder))
    with claim:
        yield


def count_marks(folder: Path) -> tuple[dict[str, Any], int]:
    """Return the description of unfinished work and how many blocks are marked, by names only.

    Raises
    ------
    OutputError
        When the description is damaged.
    """
    return _read(folder / _TASK), sum(name.isdecimal() for name in os.listdir(folder))


def discard(folder: Path) -> None:
    """Delete unfinished work, if there is any.

    Raises
    ------
    OutputError
        When something else is there, or the disk refuses.
    """
    if not os.path.lexists(folder):
        return
    names = os.listdir(folder) if folder.is_dir() and not folder.is_symlink() else None
    if names is None or (names and not {_TASK, f".{_TASK}.partial"} & set(names)):
        raise OutputError(
            f"{folder} exists and is not a folder of unfinished work: name another one."
        )
    with disk_errors(folder, _LEFT):
        for name in sorted(names, key=_TASK.__eq__):  # the task last: it says what this is
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        shutil.rmtree(folder)


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the entries of a description of work that differ: name, old and new value as text."""
    for path, before, now in _differences(old, plain(new)):
        yield path, _short(before), _short(now)


def _number(mark: os.DirEntry[str]) -> int:
    """Number in a mark; most are empty, and are not opened."""
    return int(Path(mark.path).read_text() or 0) if mark.stat().st_size else 0


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise OutputError(
            f"{file} is missing or damaged, so the unfinished result cannot be resumed. Begin "
            "again (overwrite)."
        )
    return found


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], above: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, old and new value of the entries of `new` that differ."""
    for key, value in new.items():
        before = old.get(key)
        name = f"`{key}`" if above == "settings" else f"{above} {key}".strip()  # a driver names it
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from _differences(before, value, name)
        elif before != value:
            yield name, before, value


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


__all__ = ["Ledger", "claimed", "count_marks", "differing", "discard"]
