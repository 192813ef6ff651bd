"""A folder or a zip file, read alike.

Knows members' names and bytes, and how much may be unpacked. Does not know what members mean.
Nothing is unpacked to disk, so no member's name can lead anywhere.

A small zip file can unpack to any size, so the sizes in its table are added up before anything is
read. The packages of bioimage.io and the files of PyTorch, whose weights hardly compress, are far
below the limits.
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
_ALWAYS = 256 << 20  # bytes that any zip file may unpack to
_TIMES = 20  # larger ones: how many times their own size
_TIMES_INSIDE = 4  # of a zip file inside another one


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

        Of a folder at most 2,000 files, at most three levels deep. A package has fewer, and a
        folder of images may have millions.
        """
        if self._is_folder:
            return tuple(itertools.islice(self._files(self.path, _DEPTH), _MOST_FILES))
        members: list[zipfile.ZipInfo] = []
        shifted = False
        with contextlib.suppress(Exception), self._zip() as file:  # damaged in one of many ways
            members = [each for each in file.infolist() if not each.is_dir()]
            shifted = _is_shifted(file)
        if shifted:
            raise ModelError(
                f"{self.path} has other bytes before its zip archive, so that other programs may "
                "find other members in it: it is damaged, or made to deceive; do not use it."
            )
        self._refuse_bomb(sum(each.file_size for each in members))
        names = [each.filename for each in members]
        self._refuse_ambiguous(names)
        return tuple(names)

    def _refuse_bomb(self, unpacked: int) -> None:
        size, times = (
            (self.path.stat().st_size, _TIMES)
            if self._data is None
            else (len(self._data), _TIMES_INSIDE)
        )
        if unpacked > max(_ALWAYS, times * size):
            raise ModelError(
                f"{self.path} ({size:,} bytes) would unpack to {unpacked:,} bytes, and at most "
                f"{times} times its own size is unpacked: it is damaged, or made to fill the "
                "memory. If you know that it is neither, unpack it yourself and give the folder."
            )

    def _refuse_ambiguous(self, names: list[str]) -> None:
        """Refuse members of one name, since torch may read the other one.

        torch ignores the case of names.
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

    def read(self, name: str, size: int = -1, *, limit: int | None = None) -> bytes:
        """Read a member, or its first bytes.

        Parameters
        ----------
        name
            Of the member.
        size
            Bytes to read; all of them where negative.
        limit
            Bytes above which the member is refused.

        Raises
        ------
        ModelError
            When it is not there, damaged, or larger than the limit.
        """
        full = self.find(name)
        if full is None:
            raise ModelError(
                f"{self.path} lacks {name}, which it refers to: get the whole package again."
            )
        wanted = size if limit is None else limit + 1
        try:
            if self._is_folder:
                with open(self.path / full, "rb") as file:
                    data = file.read(wanted)
            else:
                with self._zip() as archive, archive.open(full) as member:
                    data = member.read(wanted)
        except Exception as error:  # zip files can be damaged in many ways
            raise ModelError(
                f"{full} in {self.path} cannot be read ({error}): the file is damaged, copy it "
                "again."
            ) from error
        if limit is not None and len(data) > limit:
            raise ModelError(
                f"{full} in {self.path} is larger than {limit:,} bytes, the most that is read of "
                "such a file: get the package again, or ask its maker for one without it."
            )
        return data


def _is_shifted(archive: zipfile.ZipFile) -> bool:
    """Return whether the table has other places than the file; torch does not correct that.

    A file may have one table where Python looks and another where torch does.
    """
    members, file = archive.infolist(), archive.fp
    if not members or file is None:
        return False
    file.seek(archive.start_dir + 42)  # in the first entry
    stored = int.from_bytes(file.read(4), "little")
    return stored not in (members[0].header_offset, 0xFFFFFFFF)
