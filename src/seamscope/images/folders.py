"""Many images at once: the files that a pattern or folder stands for, and names of their results.

Knows files' names and first bytes. Does not open images or know what is done with them.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from seamscope.errors import ImageError, OutputError
from seamscope.files import disk_errors
from seamscope.images.addresses import is_address
from seamscope.images.open import is_image_file
from seamscope.images.records import read_record
from seamscope.images.results.formats import FORMATS

_ENDINGS = (".ome.tiff", ".tiff", ".jpeg", ".jpg", *FORMATS)
_FILES = tuple(each for each in _ENDINGS if not each.endswith(".zarr"))
_ZARR = ("zarr.json", ".zarray", ".zgroup")


def images_in(name: str) -> tuple[str, ...] | None:
    """Return the images that a pattern or a folder stands for, in natural order.

    Parameters
    ----------
    name
        ``"images/*.tif"``, ``"images/**/*.zarr"``, or a folder whose files are looked at.

    Returns
    -------
    tuple of str or None
        None where the name is that of one image.

    Raises
    ------
    ImageError
        Where nothing fits.
    """
    if "://" in name:
        return None
    path = Path(name).expanduser()
    if path.exists():
        if not path.is_dir() or _is_zarr(path):
            return None
        found = [each for each in path.iterdir() if _is_image(each)]
        if not found:
            raise ImageError(f"{name} is a folder without images. Give another one, or a pattern.")
    elif glob.has_magic(name):
        every = map(Path, glob.glob(str(path), recursive=True))
        found = [each for each in every if not each.is_dir() or _is_zarr(each)]
        found = [each for each in found if not each.name.endswith(".partial")]
        if not found:
            raise ImageError(f"No file fits the pattern {name} (looked for in {Path.cwd()}).")
    else:
        return None
    return tuple(map(str, sorted(found, key=_natural)))


def _is_zarr(path: Path) -> bool:
    return any((path / name).exists() for name in _ZARR)


def _is_image(path: Path) -> bool:
    if path.name.startswith(".") or path.name.endswith(".partial"):
        return False
    if path.is_dir():
        return _is_zarr(path)
    # a file that is named like an image and is none is a failure to be seen
    return is_image_file(path) or path.name.lower().endswith(_FILES)


def _natural(path: Path) -> tuple[list[object], ...]:
    """Order ``a2`` before ``a10``."""
    return tuple(
        [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", each)]
        for each in path.parts
    )


def names_for(images: Sequence[str]) -> tuple[str, ...]:
    """Return a name for the result of each image; no two are equal, on any file system.

    Examples
    --------
    >>> names_for(["day1/a.tif", "day1/b.ome.zarr"])
    ('a', 'b')
    >>> names_for(["day1/a.tif", "day1/a.png", "day1/b.png"])
    ('a_tif', 'a_png', 'b')
    >>> names_for(["day1/a.tif", "day2/A.tif"])
    ('day1_a_tif', 'day2_A_tif')
    """
    paths = [Path(image) for image in images]
    detail = [0] * len(paths)
    while True:
        names = [_name(path, n) for path, n in zip(paths, detail, strict=True)]
        count = Counter(name.casefold() for name in names)
        unclear = [
            i
            for i, (name, path) in enumerate(zip(names, paths, strict=True))
            if count[name.casefold()] > 1 and detail[i] <= len(path.parents)
        ]
        if not unclear:
            return tuple(_numbered(names))
        for i in unclear:
            detail[i] += 1


def _name(path: Path, detail: int) -> str:
    """Name of a file without its ending; with it; with more and more of its folders."""
    ending = next((e for e in _ENDINGS if path.name.lower().endswith(e)), path.suffix)
    bare = path.name[: len(path.name) - len(ending)] or path.name
    if not detail:
        return bare
    folders = (
        [part.strip("/\\:.") for part in path.parts[:-1]][-(detail - 1) :] if detail > 1 else []
    )
    return "_".join(filter(None, [*folders, bare, ending.strip(".").replace(".", "_")]))


def _numbered(names: Sequence[str]) -> Iterator[str]:
    """Add numbers to names that are still equal, as of one file that is given twice."""
    taken: set[str] = set()
    for name in names:
        number, unique = 1, name
        while unique.casefold() in taken:
            number += 1
            unique = f"{name}_{number}"
        taken.add(unique.casefold())
        yield unique


def place_of(out: str, name: str) -> str:
    """Return where the result of an image goes.

    Parameters
    ----------
    out
        A folder, which gets OME-Zarr, or a path with ``*`` for the image's name.
    name
        Of the image's result (`names_for`).

    Raises
    ------
    OutputError
        Where `out` names one file.

    Examples
    --------
    >>> place_of("results", "a"), place_of("results/*_labels.tif", "a")
    ('results/a.ome.zarr', 'results/a_labels.tif')
    >>> place_of("s3://bucket/results", "a")
    's3://bucket/results/a.ome.zarr'
    """
    if "*" in out:
        return out.replace("*", name)
    if is_address(out) and not out.lower().endswith(tuple(FORMATS)):
        return f"{out.rstrip('/')}/{name}.ome.zarr"
    if out.lower().endswith(tuple(FORMATS)):
        raise OutputError(
            f"{out} is one file, and there are several images. Give a folder, or write * for the "
            "image's name, as in results/*.tif."
        )
    return str(Path(out) / f"{name}.ome.zarr")


def check_apart(images: Sequence[str], outs: Sequence[str]) -> None:
    """Check that no result lies where an image is, or around one.

    Parameters
    ----------
    images
        All that are read.
    outs
        All that is written, in any order.

    Raises
    ------
    OutputError
        Where a result would overwrite an image, its own or that of another result.
    """
    read: dict[Path, str] = {}
    for image in images:
        if not is_address(image):
            real = _real(image)
            read |= dict.fromkeys((real, *real.parents), image)
    for out in outs:
        hit = None if is_address(out) else read.get(_real(out))
        if hit is not None:
            raise OutputError(
                f"{out} would overwrite {hit}, which is read: write to another folder, or choose "
                "a pattern that leaves results out."
            )


def without_results(images: Sequence[str], outs: Sequence[str]) -> tuple[str, ...]:
    """Return the images without those that an earlier run made of others.

    A pattern such as ``"d/*.tif"`` fits results in ``"d/*_out.tif"`` too, once they are there.

    Parameters
    ----------
    images
        That a pattern stands for.
    outs
        The place of the result of each.
    """
    made = {_real(out) for out in outs if not is_address(out)}
    return tuple(
        image
        for image in images
        if is_address(image)
        or _real(image) not in made
        or read_record(Path(image).expanduser()) is None
    )


def _real(name: str) -> Path:
    return Path(os.path.normcase(os.path.realpath(Path(name).expanduser())))


def make_folders(outs: Iterable[str]) -> None:
    """Make the folders of results; those above them exist. Object stores have none.

    Raises
    ------
    OutputError
        Where one cannot be made.
    """
    local = [Path(out).expanduser() for out in outs if not is_address(out)]
    for folder in dict.fromkeys(path.parent for path in local):
        with disk_errors(folder, "Nothing was written."):
            folder.mkdir(exist_ok=True)


__all__ = ["check_apart", "images_in", "make_folders", "names_for", "place_of", "without_results"]
