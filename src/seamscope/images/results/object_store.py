"""Results in object stores: where they may be written, who writes, and what is done.

Knows how the rules of `seamscope.files` hold where there are no folders, no locks and no renames.
Does not know pixels.

A result is written in its place, object by object, each of them whole or absent; its record says
that it is unfinished until the end. Beside it lie, while it is written::

    .out.zarr.lock          who writes, renewed every minute; taken over from a process that ended
    .out.zarr.ledger/7      mark of block 7, as in `seamscope.ledger`

There is no rename of a folder in object stores: with ``overwrite`` the older result is deleted
first. It is marked as unfinished before, so that no half of it is ever taken for a whole.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import socket
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from seamscope.errors import ImageError, OutputError
from seamscope.images.addresses import Address
from seamscope.images.records import record_in
from seamscope.images.remote import connect, objects, sentence, store_of
from seamscope.ledger import Ledger
from seamscope.serialization import plain

_RENEWED = 60.0
_ENDED = datetime.timedelta(minutes=15)
"""A lock that was not renewed for this long belongs to a process that has ended."""

_ROOTS = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
_TASK = "task.json"


def _put(address: Address, content: bytes, **how: Any) -> None:
    import obstore

    try:
        obstore.put(connect(address.parent, OutputError), address.name, content, **how)
    except OutputError:
        raise
    except Exception as error:
        if type(error).__name__ in ("AlreadyExistsError", "PreconditionError"):
            raise FileExistsError(address.name) from None
        raise OutputError(sentence(address, error, "written")) from None


def _get(address: Address) -> bytes | None:
    import obstore

    try:
        return bytes(obstore.get(connect(address.parent, OutputError), address.name).bytes())
    except FileNotFoundError:
        return None
    except OutputError:
        raise
    except Exception as error:
        raise OutputError(sentence(address, error, "read")) from None


def _delete(address: Address, *names: str) -> None:
    import obstore

    store = connect(address, OutputError)
    try:
        for start in range(0, len(names), 1000):
            obstore.delete(store, list(names[start : start + 1000]))
    except FileNotFoundError:
        pass
    except Exception as error:
        raise OutputError(sentence(address, error, "written")) from None


def _names(address: Address) -> list[str]:
    return [str(each["path"]) for each in objects(address, error=OutputError)]


@dataclass(frozen=True)
class RemotePlace:
    """A result in an object store; it is written where it belongs.

    Attributes
    ----------
    path
        Its address.
    """

    path: Address

    @property
    def partial(self) -> Address:
        """Where it is while it is written."""
        return self.path

    @property
    def ledger(self) -> Address:
        """Folder of the marks."""
        return self._hidden("ledger")

    @property
    def lock(self) -> Address:
        """Object that says who writes."""
        return self._hidden("lock")

    @property
    def member(self) -> bool:
        """Whether it is a label image inside an OME-Zarr image."""
        image = self.path.parent.parent.name.lower()
        return self.path.parent.name == "labels" and image.endswith(".zarr")

    def _hidden(self, what: str) -> Address:
        return self.path.parent / f".{self.path.name}.{what}"


class RemoteLedger(Ledger):
    """The marks of one piece of work, as objects.

    Parameters
    ----------
    address
        Of the folder of marks.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        found = json.loads(_get(address / _TASK) or b"null")
        if not isinstance(found, dict):
            raise OutputError(
                f"{address}/{_TASK} is missing or damaged, so the unfinished result cannot be "
                "resumed. Begin again (overwrite)."
            )
        self.task = found
        self.doubtful_since = math.inf  # an object that is there is whole
        marks = [name for name in _names(address) if name.isdecimal()]
        self.done = {int(name): int(_get(address / name) or 0) for name in marks}

    @classmethod
    def start(cls, address: Address, task: Mapping[str, Any]) -> RemoteLedger:
        """Make a ledger without marks, in place of any other."""
        _delete(address, *_names(address))
        _put(address / _TASK, json.dumps(plain(task)).encode())
        return cls(address)

    def note(self, key: str, value: Any) -> None:
        """Add to the description of the work."""
        self.task[key] = plain(value)
        _put(self.address / _TASK, json.dumps(self.task).encode())

    def unmark(self, blocks: Iterable[int]) -> None:
        """Remove the marks of some blocks."""
        gone = [block for block in blocks if block in self.done]
        _delete(self.address, *map(str, gone))
        for block in gone:
            del self.done[block]

    def mark(self, block: int, number: int = 0) -> None:
        """Note that a block is written."""
        _put(self.address / str(block), str(number).encode() if number else b"")
        self.done[block] = number


class RemoteClaim:
    """The right to write to one place in an object store, until it is released.

    Raises
    ------
    OutputError
        When another process writes to the same place.
    """

    def __init__(self, place: RemotePlace) -> None:
        self.place = place
        self._token = uuid.uuid4().hex
        self._held = False
        try:
            self._write(mode="create")
        except FileExistsError:
            self._take_over()
        self._held = True

    @property
    def final_record(self) -> Any:
        """Not used: zarr holds its record itself."""
        return None

    def renew(self) -> None:
        """Say once a minute that this process still writes.

        Raises
        ------
        OutputError
            When another process has taken the place over.
        """
        if not 0 <= time.time() - self._renewed < _RENEWED:  # or the clock was put back
            self.confirm()

    def confirm(self) -> None:
        """Check that this process still owns the place, and renew its right to write.

        Raises
        ------
        OutputError
            When another process has taken the place over.
        """
        if not self._owns():
            raise OutputError(
                f"{self.place.path} was taken over by another process, since this one was not "
                "heard of for 15 minutes. Use another name."
            )
        self._write()

    def reserve(self) -> None:
        """Nothing: an object store has no disk that could be full."""

    def free(self) -> None:
        """Nothing was reserved."""

    def swap(self) -> None:
        """Remove the marks: the result is whole, and where it belongs."""
        _delete(self.place.ledger, *_names(self.place.ledger))

    def release(self) -> None:
        """Let other processes write; leaves the right of another process as it is."""
        if self._owns():
            _delete(self.place.path.parent, self.place.lock.name)
        self._held = False

    def remove(self) -> None:
        """Delete what is there, and its marks; its root last, which says that it is unfinished.

        Does nothing where another process has taken the place over.
        """
        if not self._owns():
            return
        names = _names(self.place.path)
        if any(name in _ROOTS for name in names):
            import zarr

            node = zarr.open(store_of(self.place.path, writing=True), mode="r+")
            node.attrs["seamscope"] = {**record_in(node.attrs), "finished": False}
        _delete(self.place.ledger, *_names(self.place.ledger))
        _delete(self.place.path, *(name for name in names if name not in _ROOTS))
        _delete(self.place.path, *(name for name in names if name in _ROOTS))

    def _write(self, **how: Any) -> None:
        who = {"host": socket.gethostname(), "process": os.getpid(), "token": self._token}
        _put(self.place.lock, json.dumps(who).encode(), **how)
        # not monotonic, which stands still while a computer sleeps and its right runs out
        self._renewed = time.time()

    def _owns(self) -> bool:
        """Whether no other process has taken the place over."""
        self._held = self._held and self._owner().get("token") == self._token
        return self._held

    def _owner(self) -> dict[str, Any]:
        found = json.loads(_get(self.place.lock) or b"{}")
        return found if isinstance(found, dict) else {}

    def _take_over(self) -> None:
        owner = self._owner()
        here = owner.get("host") == socket.gethostname()
        ended = here and not psutil.pid_exists(int(owner.get("process", -1)))
        if not ended and self._age() < _ENDED:
            raise OutputError(
                f"{self.place.path} is being written by process {owner.get('process')} on "
                f"{owner.get('host')}. Wait until that one ends, or choose another name. If it was "
                f"killed, its place is free {_ENDED.seconds // 60} minutes later."
            )
        self._write()

    def _age(self) -> datetime.timedelta:
        import obstore

        lock = self.place.lock
        try:
            found = obstore.head(connect(lock.parent, OutputError), lock.name)
        except Exception:  # released meanwhile
            return _ENDED
        written: datetime.datetime = found["last_modified"]
        return datetime.datetime.now(datetime.UTC) - written


def check_remote(
    place: RemotePlace, source: str | None, *, overwrite: bool = False, resume: bool = False
) -> None:
    """Check whether a result may be written, as `seamscope.files.check_places` does for files.

    Parameters
    ----------
    place
        Where.
    source
        What is read, as `seamscope.images.image.Image.source`.
    overwrite, resume
        As for `seamscope.images.results.create.create_output`.

    Raises
    ------
    OutputError
        When it may not.
    """
    path = place.path
    if not path.is_store:
        raise OutputError(
            f"{path} is on a web server, which is only read: write to s3://, gs:// or a file."
        )
    if not place.member and not path.name.lower().endswith(".zarr"):
        raise OutputError(
            f"{path} is in an object store, which takes .ome.zarr, .zarr and "
            "IMAGE.ome.zarr/labels/NAME only: choose such a name, or write to a file."
        )
    try:
        read = Address.parse(source) if source and "://" in source else None
    except ImageError:
        read = None
    inside = not place.member and read is not None and path.lies_in(read)
    if read is not None and (read.lies_in(path) or inside):
        raise OutputError(f"{path} would overwrite {read}, which is read: choose another name.")
    there = next(iter(objects(path, most=1, error=OutputError)), None)
    if there is not None:
        _check_there(place, overwrite, resume)


def _check_there(place: RemotePlace, overwrite: bool, resume: bool) -> None:
    record = remote_record(place.path)
    if record is None:
        raise OutputError(f"{place.path} holds objects that are not zarr: choose another name.")
    begun = record.get("finished") is False
    if overwrite or (resume and begun and remote_ledger(place) is not None):
        return
    ledger = remote_ledger(place) if begun else None
    if ledger is None:
        raise OutputError(
            f"{place.path} exists. Choose another name, or allow it to be replaced "
            "(`overwrite=True`)."
        )
    raise OutputError(
        f"{place.path} is unfinished: another run writes it, or was interrupted. Resume it, "
        f"{len(ledger.done)} blocks are done (`resume=True`). Choose another name, or "
        "allow it to be replaced (`overwrite=True`)."
    )


def members(group: Address) -> list[str]:
    """Return the names of the zarr arrays and groups in a group that are whole."""
    import obstore

    try:
        found = obstore.list_with_delimiter(connect(group, OutputError))["common_prefixes"]
    except OutputError:
        raise
    except Exception as error:
        raise OutputError(sentence(group, error, "listed")) from None
    names = (str(each).rstrip("/").rpartition("/")[2] for each in found)
    records = {name: remote_record(group / name) for name in names if not name.startswith(".")}
    return [
        name
        for name, record in records.items()
        if record is not None and record.get("finished") is not False
    ]


def remote_ledger(place: RemotePlace) -> RemoteLedger | None:
    """Return the marks of an unfinished result; None where there are none."""
    return RemoteLedger(place.ledger) if _get(place.ledger / _TASK) is not None else None


def remote_record(address: Address) -> dict[str, Any] | None:
    """Return the record of a result, {} for zarr without one, None where there is no zarr.

    Raises
    ------
    OutputError
        When the store does not say.
    """
    import zarr

    try:
        return record_in(zarr.open(store_of(address, writing=True), mode="r").attrs)
    except OutputError:
        raise
    except (FileNotFoundError, LookupError, TypeError, ValueError):  # no metadata, or damaged
        return None
    except Exception as error:
        raise OutputError(sentence(address, error, "read")) from None


__all__ = [
    "RemoteClaim",
    "RemoteLedger",
    "RemotePlace",
    "check_remote",
    "members",
    "remote_ledger",
    "remote_record",
]
