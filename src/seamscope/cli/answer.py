"""Answers: what a command gives on standard output and into files.

Knows how values are written for people and as JSON, and which places may be written to. Does not
know where the values come from.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from seamscope.errors import OutputError


class Answer:
    """The answer to a command: text, and JSON with --json.

    The place of the JSON is checked at once, since hours may pass before it is written.

    Parameters
    ----------
    json_file
        Where the JSON goes, ``"-"`` for standard output, which then carries nothing else.
    quiet
        Whether text is left out.
    forbidden
        What the command reads or writes: none of it may be overwritten.

    Attributes
    ----------
    quiet
        Whether text is left out, by --quiet, or because JSON takes its place.
    """

    def __init__(
        self, json_file: str | None, quiet: bool = False, forbidden: Iterable[str] = ()
    ) -> None:
        self._to_stdout = json_file == "-"
        self.quiet = quiet or self._to_stdout
        self._file: Path | None = None
        if json_file is not None and not self._to_stdout:
            self._file = place("--json", json_file, forbidden)

    def write(self, content: Mapping[str, Any], text: str = "") -> None:
        """Give the answer."""
        if text and not self.quiet:
            typer.echo(text)
        text = json.dumps(_finite(content), indent=1, ensure_ascii=False, default=str)
        if self._to_stdout:
            typer.echo(text)
        if self._file is not None:
            write_text("--json", self._file, text + "\n")


def _finite(value: Any) -> Any:
    """Return the same with null for NaN and infinity, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def place(option: str, file: str, forbidden: Iterable[str] = ()) -> Path:
    """Return where a file is to be written, after checking that it can be.

    Parameters
    ----------
    option
        The option that named it, for sentences.
    file
        As given by the user.
    forbidden
        Names of images, models and results that it must not overwrite.

    Raises
    ------
    OutputError
        When there is no such folder, it may not be written to, or something else would be lost.
    """
    path = Path(file).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise OutputError(f"{option} {path} is no place for a file: name one in a folder there is.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OutputError(f"{option} {path} may not be written: choose another place.")
    for name in forbidden:
        # a model's weights stand behind @; a result's own record beside it
        taken = (name, name.rpartition("@")[2], f"{name}.json")
        if path.resolve() in [Path(each).expanduser().resolve() for each in taken]:
            raise OutputError(
                f"{option} {path} would overwrite what belongs to {name}: choose another name."
            )
    return path


def write_text(option: str, path: Path, text: str) -> None:
    """Write the file that an option names.

    Raises
    ------
    OutputError
        When the disk refuses.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{option} {path} cannot be written ({error.strerror}): choose another place. "
            "The result itself is complete."
        ) from error


# -- values for people


def columns(rows: Iterable[tuple[str, str]]) -> str:
    """Write names and values in two columns."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows)
