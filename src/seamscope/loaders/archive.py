"""A folder or a zip file, read alike.

Knows members' names and bytes. Does not know what they mean. Nothing is unpacked to disk, so no
member's name can lead anywhere.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from functools import cached_property
from pathlib import Path, PurePosixPath

from seamscope.errors import ModelError


class Archive:
    """Members of a folder or a zip file.

    Parameters
    ----------
    path
        The folder or the file.
    data
        Bytes of a zip file that lies within another; `path` is then only its name.

    Notes
    -----
    Many programs put everything into one folder within the zip: names may be given without it.
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self.path = path
        self._data = data

    @classmethod
    def of_bytes(cls, data: bytes, name: str) -> Archive:
        """Return the archive whose bytes these are."""
        return cls(Path(name), data)

    def _zip(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path if self._data is None else io.BytesIO(self._data))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All members' names, with forward slashes; empty for what is neither folder nor zip."""
        if self._data is None and self.path.is_dir():
            files = (p for p in sorted(self.path.rglob("*")) if p.is_file())
            return tuple(p.relative_to(self.path).as_posix() for p in files)
        with contextlib.suppress(OSError, zipfile.BadZipFile), self._zip() as file:
            return tuple(name for name in file.namelist() if not name.endswith("/"))
        return ()

    @cached_property
    def prefix(self) -> str:
        """The one folder everything is in, with its slash; empty where there is none."""
        tops = {name.split("/", 1)[0] for name in self.names if "/" in name}
        rest = [name for name in self.names if "/" not in name]
        hidden = {top for top in tops if top.startswith(("__MACOSX", "."))}
        return f"{min(tops - hidden)}/" if len(tops - hidden) == 1 and not rest else ""

    def find(self, name: str) -> str | None:
        """Full name of a member, given with or without the common folder."""
        plain = str(PurePosixPath(name))
        found = [n for n in (plain, f"{self.prefix}{plain}") if n in self.names]
        return found[0] if found else None

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def read(self, name: str, size: int = -1) -> bytes:
        """Read a member, or its first bytes.

        Raises
        ------
        ModelError
            When it is not there, or damaged.
        """
        full = self.find(name)
        if full is None:
            raise ModelError(
                f"{self.path} lacks {name}, which it refers to: get the whole package again."
            )
        try:
            if self._data is None and self.path.is_dir():
                with open(self.path / full, "rb") as file:
                    return file.read(size)
            with self._zip() as archive, archive.open(full) as member:
                return member.read(size)
        except Exception as error:  # zip files can be damaged in many ways
            raise ModelError(
                f"{full} in {self.path} cannot be read ({error}): the file is damaged, copy it "
                "again."
            ) from error
