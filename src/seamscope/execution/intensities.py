"""Measure the whole image's intensities with workers, stretch by stretch.

Knows who does a stretch, and where its sums are kept. Does not know what is summed (see
`seamscope.images.intensity`).

Each pass over the image needs the totals of those before it, which are small files. A worker goes
through the measurement as the command does, takes those totals from the files, and stops where it
has its own stretch: so nothing but numbers of passes and stretches is sent::

    totals of passes 0 1 | stretch 7 of pass 2 -> its sums, beside its mark
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seamscope.errors import OutputError
from seamscope.execution.pool import Pool
from seamscope.execution.recipe import ImageFile
from seamscope.execution.sharing import ordering, share_out
from seamscope.execution.worker import Order
from seamscope.files import DAMAGED, disk_errors, write_file
from seamscope.images.image import Image
from seamscope.images.passes import HERE, STRETCHES, Pass, Sums, joined
from seamscope.ledger import Ledger, differing
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.reading import whole_image_intensity
from seamscope.prediction.resuming import image_of, keep_intensity
from seamscope.progress import QUIET, Work
from seamscope.serialization import plain, restore
from seamscope.version import __version__

_LEFT = "What was written so far is kept."


def keep_intensity_on(case: Case, ledger: Ledger | None, pool: Pool | None, work: Work) -> None:
    """Measure the whole image's intensities with workers, as `keep_intensity` in this process.

    Parameters
    ----------
    case
        Whose image is measured, at most once; for workers, it is a file.
    ledger
        Of the result, where they are kept; None where they are not.
    pool
        Who measures; None for this process.
    work
        Shows progress, and stops when asked to.

    Raises
    ------
    SeamscopeError
        When the image cannot be measured.
    InterruptedError
        When stopped; stretches that are measured stay.
    """
    if ledger is None or pool is None:
        keep_intensity(case, ledger, work)
        return
    folder = ledger.folder / "intensities"
    keep_intensity(case, ledger, work, _Shared(case, folder, pool, work))
    shutil.rmtree(folder, ignore_errors=True)


class _Shared:
    """Carries out passes with workers; `Passes`."""

    def __init__(self, case: Case, folder: Path, pool: Pool, work: Work) -> None:
        self._case, self._folder, self._pool, self._work = case, folder, pool, work
        self._totals: list[Sums] = []

    def total(self, one: Pass) -> Sums:
        # a single stretch is read before a worker has opened the image
        total = HERE.total(one) if one.stretches == 1 else self._shared(one)
        self._totals.append(total)
        return total

    def _shared(self, one: Pass) -> Sums:
        ledger, file = self._ledger(), _total_of(self._folder, len(self._totals))
        for number, total in enumerate(self._totals):  # workers need all of them
            _save(_total_of(self._folder, number), total)
        found = _kept(file)
        if found is None:
            first = len(self._totals) * STRETCHES
            blocks = range(first, first + one.stretches)
            parts = {block: _part_of(self._folder, block) for block in blocks}
            marked = parts.keys() & ledger.done.keys()
            ledger.unmark([block for block in marked if _kept(parts[block]) is None])
            self._share(one, blocks, ledger)
            found = joined(one, map(_load, parts.values()))
            _save(file, found)
            for part in parts.values():
                part.unlink(missing_ok=True)
        return found

    def _share(self, one: Pass, blocks: range, ledger: Ledger) -> None:
        """Have all stretches done that are not."""
        for block in set(blocks) & ledger.done.keys():
            one.advance(block % STRETCHES)
        opens = f"{__name__}:open_stretches"
        with ordering(ledger, self._pool, 1, False, opens) as order:
            outcomes = share_out(blocks, ledger, self._pool, order, _where, self._work)
            with closing(outcomes):
                for outcome in outcomes:
                    one.advance(outcome.block % STRETCHES)

    def _ledger(self) -> Ledger:
        task = {
            "version of Seamscope": __version__,
            "image": image_of(self._case.image),
            "file": ImageFile.of(self._case.image),
            "plan": self._case.plan,
        }
        if self._folder.exists():
            with suppress(OutputError):
                ledger = Ledger(self._folder)
                if not any(differing(ledger.task, task)):
                    return ledger
            # a kill has left it without its description; or a copy is read, in stretches of its own
            with disk_errors(self._folder, _LEFT):
                shutil.rmtree(self._folder)
        return Ledger.begin(self._folder, plain(task))


def _where(block: int) -> str:
    return f"stretch {block % STRETCHES} of the image"


# -- in a worker


class _FoundError(Exception):
    """The sums of the wanted stretch are found."""

    def __init__(self, sums: Sums) -> None:
        self.sums = sums


@dataclass
class _Replayed:
    """Takes the totals of earlier passes from files, and sums one stretch; `Passes`."""

    folder: Path
    wanted: int
    stretch: int
    number: int = -1

    def total(self, one: Pass) -> Sums:
        self.number += 1
        if self.number == self.wanted:
            raise _FoundError(one.sums(self.stretch))
        return _load(_total_of(self.folder, self.number))


class _Stretches:
    """An image that is open in this process; `seamscope.execution.worker.Blockwise`."""

    device = "cpu"

    def __init__(self, image: Image, plan: Plan, folder: Path) -> None:
        self._image, self._plan, self._folder = image, plan, folder

    def carry_out(self, block: int, check: Callable[[], None]) -> int:
        """Read a stretch, and keep its sums."""
        number, stretch = divmod(block, STRETCHES)
        try:
            whole_image_intensity(
                self._plan, self._image, QUIET, _Replayed(self._folder, number, stretch)
            )
        except _FoundError as found:
            check()
            _save(_part_of(self._folder, block), found.sums)
        return 0


def open_stretches(ledger: Ledger, order: Order) -> _Stretches:
    """Open an image in a worker (see `seamscope.execution.worker.Order`)."""
    plan: Plan = restore(Plan, ledger.task["plan"])
    image = restore(ImageFile, ledger.task["file"]).open()
    here = {"version of Seamscope": __version__, "image": image_of(image)}
    ledger.check(here, "The result")
    return _Stretches(image, plan, ledger.folder)


# -- files


def _part_of(folder: Path, block: int) -> Path:
    return folder / f"{block}.sums"


def _total_of(folder: Path, number: int) -> Path:
    return folder / f"pass{number}.npz"


def _save(path: Path, sums: Sums) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **sums)  # type: ignore[arg-type]
    with disk_errors(path, _LEFT):
        write_file(path, content.getvalue(), shared=True, lasting=False)  # `_kept` checks


def _kept(path: Path) -> Sums | None:
    """Return sums that an earlier run has kept; None where they are missing or damaged."""
    with suppress(OutputError):
        return _load(path)
    return None


def _load(path: Path) -> Sums:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except DAMAGED as error:
        raise OutputError(
            f"{path} is missing or damaged, so the unfinished work cannot be resumed. Begin again "
            "(overwrite)."
        ) from error


__all__ = ["keep_intensity_on", "open_stretches"]
