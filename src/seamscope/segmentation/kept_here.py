"""What is found for labels in an object store, kept on this machine until they are written.

Knows a folder whose name follows from the labels' address, so that the same call finds it again.
Does not know how objects are found.

Basins are arrays as large as the image, which are read many times and in part: they stay on a disk.
Only labels go to the store, block by block, with their marks beside them there::

    seamscope-labels-0-8c1f../ledger/    marks of all blocks but those of the labels
    seamscope-labels-0-8c1f../fragments  and other arrays; the prediction, where one is made
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seamscope.errors import OutputError
from seamscope.files import disk_errors, lasting_folder
from seamscope.images.addresses import Address
from seamscope.ledger import Ledger, claimed, count_marks


class KeptHere:
    """The right to what is kept for one label image, until `close`.

    Parameters
    ----------
    address
        Of the labels.
    task
        What they are made of.
    scratch
        Where the folder lies; None for that of temporary files.
    overwrite, resume
        As for `seamscope.segment`.

    Attributes
    ----------
    folder
        Where arrays are kept.
    ledger
        What is done.

    Raises
    ------
    OutputError
        When it is in use or of other work, or there and neither to be resumed nor overwritten.
    """

    def __init__(
        self,
        address: str,
        task: Mapping[str, Any],
        scratch: str | Path | None,
        *,
        overwrite: bool,
        resume: bool,
    ) -> None:
        self.folder = folder_for(address, scratch)
        self._claim = contextlib.ExitStack()
        self._claim.enter_context(claimed(self.folder))
        try:
            self.ledger = self._opened(address, task, overwrite=overwrite, resume=resume)
        except BaseException:
            self._claim.close()
            raise

    def _opened(
        self, address: str, task: Mapping[str, Any], *, overwrite: bool, resume: bool
    ) -> Ledger:
        marks, there = self.folder / "ledger", os.path.lexists(self.folder)
        if there and not _is_ours(self.folder):
            raise OutputError(
                f"{self.folder} was made by someone else. Move it away, or name another folder for "
                "temporary files (TMPDIR)."
            )
        if there and marks.exists() and resume:
            ledger = Ledger(marks)
            ledger.check(task, address)
            return ledger
        if there and marks.exists() and not overwrite:
            raise OutputError(
                f"{address} was begun: {count_marks(marks)[1]} blocks are done, and kept in "
                f"{self.folder}. Resume it (`resume=True`), or begin again (`overwrite=True`)."
            )
        with disk_errors(self.folder, "Nothing was written."):
            if there:
                shutil.rmtree(self.folder)
            self.folder.mkdir(mode=0o700)
        return Ledger.begin(marks, task)

    def close(self, *, keep: bool) -> None:
        """Let other processes use it; where nothing is done, remove it."""
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._claim.close()

    def moved(self) -> Path:
        """Move what is kept to where this process reads it until its end, and no run resumes it."""
        kept = lasting_folder(self.folder.parent)
        kept.rmdir()
        os.rename(self.folder, kept)
        return kept


def folder_for(address: str, scratch: str | Path | None = None) -> Path:
    """Return where work on labels of an address is kept; another user has another folder."""
    name = hashlib.sha256(str(Address.parse(address)).encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(scratch or tempfile.gettempdir()) / f"seamscope-labels-{user}-{name}"


def task_kept(address: str) -> dict[str, Any] | None:
    """Return the task of unfinished labels of an address; None where nothing is kept."""
    marks = folder_for(address) / "ledger"
    return count_marks(marks)[0] if marks.is_dir() else None


def _is_ours(folder: Path) -> bool:
    """Whether this user has made a folder: others may write where temporary files are."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


__all__ = ["KeptHere", "folder_for", "task_kept"]
