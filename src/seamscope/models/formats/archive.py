"""A folder or a zip file, read alike.

Knows members' names and bytes. Does not know what they mean. Nothing is unpacked to disk, so no
member's name can lead anywhere.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from seamscope.errors import ModelError

_DEPTH = 3
_MOST_FILES = 2000


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

    @property
    def _is_folder(self) -> bool:
        return self._data is None and self.path.is_dir()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All members' names, with forward slashes; empty for what is neither folder nor zip.

        Of a folder what lies at most three levels deep, and no more than a package would hold:
        somebody may name a folder with all of their images.
        """
        if self._is_folder:
            return tuple(itertools.islice(self._files(self.path, _DEPTH), _MOST_FILES))
        names: list[str] = []
        with contextlib.suppress(OSError, zipfile.BadZipFile), self._zip() as file:
            names = [name for name in file.namelist() if not name.endswith("/")]
        self._refuse_ambiguous(names)
        return tuple(names)

    def _refuse_ambiguous(self, names: list[str]) -> None:
        """Refuse members of one name: whoever reads the file after us may find the other one.

        Torch finds members whether their letters are small or not.
        """
        count = Counter(name.lower() for name in names)
        twice = next((name for name in names if count[name.lower()] > 1), None)
        if twice is not None:
            raise ModelError(
                f"{self.path} holds several members called {twice}: it is damaged, or made to "
                "deceive; do not use it."
            )

    def _files(self, folder: Path, depth: int) -> Iterator[str]:
        for each in folder.iterdir():
            if each.is_dir():
                if depth > 1:
                    yield from self._files(each, depth - 1)
            else:
                yield each.relative_to(self.path).as_posix()

    @cached_property
    def prefix(self) -> str:
        """The one folder everything is in, with its slash; empty where there is none."""
        tops = {name.split("/", 1)[0] for name in self.names if "/" in name}
        rest = [name for name in self.names if "/" not in name]
        hidden = {top for top in tops if top.startswith(("__MACOSX", "."))}
        return f"{min(tops - hidden)}/" if len(tops - hidden) == 1 and not rest else ""

    def find(self, name: str) -> str | None:
        """Full name of a member, given with or without the common folder."""
        plain = PurePosixPath(name)
        if self._is_folder:
            inside = ".." not in plain.parts and not plain.is_absolute()
            return str(plain) if inside and (self.path / plain).is_file() else None
        found = [n for n in (str(plain), f"{self.prefix}{plain}") if n in self.names]
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
            if self._is_folder:
                with open(self.path / full, "rb") as file:
                    return file.read(size)
            with self._zip() as archive, archive.open(full) as member:
                return member.read(size)
        except Exception as error:  # zip files can be damaged in many ways
            raise ModelError(
                f"{full} in {self.path} cannot be read ({error}): the file is damaged, copy it "
                "again."
            ) from error
