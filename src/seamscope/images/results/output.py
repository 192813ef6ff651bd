"""A result of any size that is written block by block, and takes its place at the end.

Does not know kinds of files (see `seamscope.images.results.formats`), networks, tiles or what the
numbers mean.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from seamscope.errors import OutputError
from seamscope.files import Claim, disk_errors
from seamscope.images.dimensions import bounds, region_text
from seamscope.images.results.format import Format, Store, Wanted
from seamscope.ledger import Ledger
from seamscope.progress import QUIET, Work
from seamscope.serialization import plain
from seamscope.text import shape_text

if TYPE_CHECKING:
    from seamscope.images.results.object_store import RemoteClaim


class Output:
    """A result that is being written; use it in a ``with`` statement.

    A file is written beside its place, as ``NAME.partial``, and takes that place in `finish`; until
    then an older result stays as it is. Leaving the statement before `finish` keeps what was
    written under that name, and the record says ``"finished": false``, as it does from the first
    moment on. Where nothing was written, nothing is left.

    Attributes
    ----------
    path
        The place of the result, None in memory.
    record
        Plan, model and figures, stored with the result.
    ledger
        Marks of the blocks that are written; None where the result cannot be resumed.
    notes
        Sentences on what the file cannot hold.
    """

    def __init__(
        self,
        store: Store,
        claim: Claim | RemoteClaim | None,
        record: dict[str, Any],
        ledger: Ledger | None = None,
        kind: tuple[Format, Wanted] | None = None,
    ) -> None:
        self.ledger = ledger
        self._kind = kind
        self.path = None if claim is None else str(claim.place.path)
        self.record = record
        self._store = store
        self._claim = claim
        self.notes: tuple[str, ...] = ()
        self._open = True
        self._used = False
        # zarr-python loses data when two threads write into one chunk; networks take far longer
        self._lock = threading.Lock()

    @property
    def array(self) -> Any:
        """The result, in the requested order of axes; can be read and written by slices."""
        return self._store.array

    @property
    def levels(self) -> list[Any]:
        """All resolutions, the full one (`array`) first; they grow with the result."""
        return self._store.levels

    @property
    def partial(self) -> str | None:
        """Where an unfinished result is, None in memory."""
        return None if self._claim is None else str(self._claim.place.partial)

    @property
    def basins(self) -> Path | None:
        """Where arrays may be kept on the way to the result, None where none may."""
        return self._claim.place.basins if isinstance(self._claim, Claim) else None

    @property
    def chunks(self) -> tuple[int, ...]:
        """Pixels of a file that are written at once, along each axis."""
        return self._kind[1].chunks if self._kind is not None else tuple(self.array.shape)

    @property
    def takes_parts(self) -> bool:
        """Whether other processes can write whole chunks of it (see `open_part`)."""
        return self._kind is not None and self._kind[0].part is not None

    def write(self, index: tuple[slice, ...], block: np.ndarray) -> None:
        """Write one region.

        Threads may call this at the same time; processes may not, unless their regions are made
        of whole chunks.

        Parameters
        ----------
        index
            A slice for each dimension.
        block
            Values of that shape, of a type that the result can hold.

        Raises
        ------
        OutputError
            When the disk is full or gone, or the block does not fit the region.
        """
        index = self._fitting(index, block)
        with self._lock, self._disk_errors():
            self._renew()
            self._store.array[index] = block
            self._store.wrote(index, block)
            self._used = True

    def _renew(self) -> None:
        if self._claim is not None:
            self._claim.renew()

    def _confirm(self) -> None:
        """Check that what is completed was not taken over; on a disk, a lock ensures it."""
        if self._claim is not None and not isinstance(self._claim, Claim):
            self._claim.confirm()

    def wrote(self, index: tuple[slice, ...]) -> None:
        """Note a region that another process has written into the same store.

        What is made of it, such as lower resolutions, is made here.

        Raises
        ------
        OutputError
            When the disk is full or gone.
        """
        with self._lock, self._disk_errors():
            self._store.wrote(index)
            self._used = True

    def retype(self, dtype: np.dtype[Any], metadata: Mapping[str, Any]) -> None:
        """Begin again with another type and record, and keep the ledger; nothing is written yet.

        Raises
        ------
        OutputError
            When the disk refuses. What was begun stays.
        """
        claim = self._claim
        assert isinstance(claim, Claim)
        assert self._kind is not None
        kind, before = self._kind
        assert kind.resume is not None
        wanted = replace(before, dtype=np.dtype(dtype), metadata=plain(metadata))
        reason = kind.refusal(wanted)
        if reason:
            raise OutputError(f"{claim.place.path.name} cannot hold this result: {reason}")
        with self._lock, self._disk_errors():
            beside = claim.beside()
            made = kind.create(beside, wanted)
            if beside.is_dir():  # the record of a file is another file
                made.save(wanted.record)
            del made  # Windows does not rename files that are mapped
            # in its place, what can be closed, should the disk refuse
            self._store = Store(np.broadcast_to(np.zeros((), before.dtype), before.shape))
            claim.exchange()
            self._store = kind.resume(claim.place.partial, wanted)
            self._store.save(wanted.record)
        self._kind, self.record = (kind, wanted), wanted.record

    def already(self, index: tuple[slice, ...], since: float) -> None:
        """Note a region that an earlier run has written.

        Lower resolutions of it are made where the disk has lost them (see `has_lost`).

        Raises
        ------
        OutputError
            When the disk is full or gone.
        """
        with self._lock, self._disk_errors():
            self._store.already(index, since)

    def has_lost(self, index: tuple[slice, ...], since: float) -> bool:
        """Return whether the disk has lost some of a region that an earlier run has written.

        Parameters
        ----------
        index
            A slice for each dimension.
        since
            Time in seconds; files that were written later are read to find out.
        """
        return self._store.has_lost(index, since)

    def flush(self) -> None:
        """Bring what was written to where it lasts.

        Raises
        ------
        OutputError
            When the disk is full or gone.
        """
        with self._lock, self._disk_errors():
            self._store.flush()

    def finish(
        self,
        metadata: Mapping[str, Any] | None = None,
        keep: Path | None = None,
        work: Work = QUIET,
    ) -> None:
        """Complete the result, store its record, and move it to its place.

        Parameters
        ----------
        metadata
            Added to the record: plan, model, figures; anything that can be written as JSON.
        keep
            Where `basins` move once the result is in its place; None where they vanish.
        work
            Shows progress and stops, where a file is made of the whole result.

        Raises
        ------
        OutputError
            When the disk is full or gone. The result stays unfinished, and this can be tried again.
        InterruptedError
            When stopped. The result stays unfinished, and this can be tried again.
        """
        fixed = {name: self.record[name] for name in ("axes", "scale", "units", "origin")}
        record = {**self.record, **plain(metadata or {}), **fixed, "finished": True}
        with self._lock, self._disk_errors():
            if self._claim is not None:
                self._claim.free()
            self._confirm()
            self._store.flush()
            self._store.prepare(work)
            self._confirm()  # again, since that may have taken long
            if self._claim is not None:
                made = self._store.complete(record, self._claim.final_record)
                if isinstance(self._claim, Claim):
                    self._claim.swap(keep, made)
                    self._store.moved(self._claim.place.path)
                else:
                    self._claim.swap()
                self._store.placed(self._claim.place.path)
                self._claim.release()
        self.record = record
        self._open = False

    def close(self) -> None:
        """Keep what is written so far, as unfinished; does nothing after `finish`."""
        if not self._open:
            return
        self._open = False
        with self._lock, self._disk_errors():
            try:
                if self._claim is not None:
                    self._claim.free()
                self._store.flush()
            finally:
                if self._claim is not None:
                    self._claim.release()

    def discard(self) -> None:
        """Remove everything that was written; an older result stays."""
        if not self._open:
            return
        self._open = False
        with self._lock, self._disk_errors():
            if self._claim is not None:
                try:
                    self._claim.remove()
                finally:
                    self._claim.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._used or (self.ledger is not None and self.ledger.done):
            self.close()
        else:
            self.discard()

    def _fitting(self, index: tuple[slice, ...], block: np.ndarray) -> tuple[slice, ...]:
        """Return a region with its numbers; refuse a block that does not fit it."""
        if not self._open:
            raise OutputError("The result is complete and closed: write into a new one.")
        region = bounds(index, self.array.shape)
        size = None if region is None else tuple(b - a for a, b in region)
        if region is None or size != block.shape:
            raise OutputError(
                f"A block of {shape_text(block.shape)} does not fit [{region_text(index)}] of a "
                f"result of {shape_text(self.array.shape)}: give exactly one value for each pixel."
            )
        if not np.can_cast(block.dtype, self.array.dtype, "same_kind"):
            raise OutputError(
                f"Values of type {block.dtype} do not fit a result of type {self.array.dtype}: "
                "convert them, or create the result with their type."
            )
        return tuple(itertools.starmap(slice, region))

    def _disk_errors(self) -> contextlib.AbstractContextManager[None]:
        return disk_errors(self.partial, self._store.left)


class Part(Output):
    """A result that another process began and will finish; this one writes regions of it.

    Parameters
    ----------
    path
        Of the unfinished zarr or OME-Zarr.
    store
        The same, opened.
    """

    def __init__(self, path: Path, store: Store) -> None:
        super().__init__(store, None, {})
        self._unfinished = str(path)

    @property
    def partial(self) -> str:
        """Where the unfinished result is."""
        return self._unfinished
