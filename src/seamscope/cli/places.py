"""What a command reads and writes, by the names of its parameters.

Knows which parameters name files, and the files that the name of a model stands for. One function
checks them all before anything is loaded (`check`): nothing that is read is ever overwritten, and
other files only with ``--overwrite``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seamscope.cli.answer import answer_in
from seamscope.errors import OutputError, SeamscopeError, SettingsError
from seamscope.files import Place, check_places, member_place
from seamscope.images.addresses import is_address

READS = (
    "image",
    "model",
    "statistics",
    "labels",
    "how",
    "store",
    "prediction",
    "corrections",
    "intensity",
    "ground_truth",
    "protocol",
    "tiles_file",
    "scheduler",
)
"""Parameters that name an input."""

WRITES = {
    "out": "OUT",
    "layers": "--layers",
    "json_file": "--json",
    "report_file": "--report",
    "screenshot": "--screenshot",
    "table": "--table",
    "save_protocol": "--save-protocol",
}
"""Parameters that name an output, and what a person calls them."""


def check_named(given: Mapping[str, Any]) -> None:
    """Refuse empty names, which would stand for the current folder.

    Raises
    ------
    SettingsError
        Naming the parameter.
    """
    for name in (*READS, *WRITES):
        if given.get(name) == "":
            what = WRITES.get(name) or f"the {name.replace('_', ' ')}"
            raise SettingsError(
                f"The name of {what} is empty: write one. If it comes from a variable of the "
                "shell, that is not set."
            )


def local(option: str, name: str) -> Path:
    """Return where a file is written that is no image, so that it cannot be in an object store.

    Raises
    ------
    OutputError
        When an address is given.
    """
    if is_address(name):
        raise OutputError(
            f"{option} {name} is an address, and only images are written to object stores: give "
            "a file on this machine."
        )
    return Path(name).expanduser()


def check(given: Mapping[str, Any]) -> None:
    """Check all files of a command.

    Parameters
    ----------
    given
        Its parameters. Without ``overwrite`` among them, no file may exist.

    Raises
    ------
    OutputError
        When one of the outputs may not be written.
    """
    written = {name: given.get(name) for name in WRITES}
    places = [
        _place(name, local(WRITES[name], value))
        for name, value in written.items()
        if value is not None and not _unwritten(name, value, given)
    ]
    if places:
        names = [str(given[name]) for name in READS if given.get(name) is not None]
        read = [path for name in names for path in files_of(name)]
        if given.get("overwrite"):
            read += [part for name in names for part in _parts(name)]
        check_places(places, read, bool(given.get("overwrite")), bool(given.get("resume")))
    if given.get("layers") is not None:
        from seamscope.images.results.create import check_target

        check_target(given["layers"], overwrite=bool(given.get("overwrite")))


def _unwritten(name: str, value: Any, given: Mapping[str, Any]) -> bool:
    """Whether a parameter that names an output needs no check here."""
    if name == "json_file" and value == "-":
        return True
    if name in ("json_file", "report_file") and given.get("resume"):
        others = name == "json_file" and Path(value).expanduser().exists() and not answer_in(value)
        return not others and (_stays(given) or _noted(given, name) or _stopped(value))
    if name == "table" and given.get("resume"):
        return bool(str(Path(value).expanduser().absolute()) == _table_of(given.get("out")))
    if name != "out":
        return False
    if given.get("dry_run") or is_address(value):  # the writer of a result checks object stores
        return True
    return bool(given.get("resume")) and _is_done(str(value))


def _table_of(out: str | None) -> Any:
    """Return the table that a stopped run may have written before it finished its labels."""
    from seamscope.images.results.create import unfinished
    from seamscope.segmentation.kept_here import task_kept

    if out is None or is_address(out):
        return None if out is None else (task_kept(out) or {}).get("table")
    ledger = unfinished(out)
    return None if ledger is None else ledger.task.get("table")


def _stays(given: Mapping[str, Any]) -> bool:
    """Whether the command was done before; its files are compared before they are left."""
    if given.get("out") is not None:
        return not is_address(given["out"]) and _is_done(str(given["out"]))
    return are_there(given.get("json_file"), given.get("report_file"))


def are_there(*names: str | None) -> bool:
    """Return whether all files of answers that are named are there."""
    files = [Path(name).expanduser() for name in names if name not in (None, "-")]
    return bool(files) and all(file.is_file() for file in files)


def _stopped(file: str) -> bool:
    """Whether this is the answer of a stopped run, which is compared before it is replaced."""
    return answer_in(file).get("finished") is False


def _noted(given: Mapping[str, Any], name: str) -> bool:
    """Whether a stopped run has noted with its measures that it wrote this file."""
    kept = measures_beside(given.get("json_file"), given.get("report_file"))
    if "out" in given or kept is None or not kept.is_dir():
        return False
    from seamscope.ledger import count_marks

    written = count_marks(kept)[0].get(name)
    return bool(written == str(Path(given[name]).expanduser().absolute()))


def measures_beside(json_file: str | None, report_file: str | None) -> Path | None:
    """Return the folder of the measures of an unfinished answer; None where it has no file."""
    beside = next((name for name in (json_file, report_file) if name not in (None, "-")), None)
    return None if beside is None else Path(f"{beside}.partial").expanduser()


def _is_done(name: str) -> bool:
    """Whether there is a whole result, which is compared before it is left as it is."""
    from seamscope.normalization.statistics import is_statistics
    from seamscope.prediction.folders import is_done

    path = Path(name).expanduser()
    return path.exists() and (is_done(name) or is_statistics(path))


def _place(name: str, path: Path) -> Place:
    member = member_place(path, WRITES[name]) if name == "out" else None
    return member or Place(path, WRITES[name], _is_result(str(path)))


def _is_result(name: str) -> bool:
    from seamscope.images.results.formats import FORMATS

    return name.lower().endswith(tuple(FORMATS))


def _parts(name: str) -> Iterator[Path]:
    """Yield the other files of an image that consists of several, such as OME-TIFF."""
    from seamscope.images.image import open_image

    path = Path(name).expanduser()
    if path.suffix.lower() in (".tif", ".tiff") and path.is_file():
        with contextlib.suppress(SeamscopeError):
            yield from map(Path, open_image(path).parts)


def files_of(name: str) -> Iterator[Path]:
    """Yield the files and folders that the name of an input may stand for."""
    from seamscope.models.formats.spec import Spec

    yield Path(name).expanduser()
    try:
        spec = Spec.parse(name)
    except (SeamscopeError, OSError):
        return  # no name of a model
    if spec.file is not None:
        yield spec.file
    if spec.module is not None and spec.module.endswith(".py"):
        yield Path(spec.module).expanduser()
    elif spec.module is not None:
        stem = Path(*spec.module.split("."))
        for folder in map(Path, sys.path):
            yield folder / stem.with_suffix(".py")
            yield folder / stem / "__init__.py"


__all__ = [
    "READS", "WRITES", "are_there", "check", "check_named", "files_of", "local", "measures_beside",
]  # fmt: skip
