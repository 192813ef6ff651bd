"""Answers: what a command gives on standard output and into files.

Knows how values are written for people and as JSON, and what standard output carries. Does not know
where the values come from, or which files may be written (see `seamscope.cli.places`).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from seamscope.cli.wording import in_command
from seamscope.errors import OutputError
from seamscope.files import disk_errors, write_file
from seamscope.images.addresses import without_secrets
from seamscope.serialization import plain
from seamscope.version import __version__


class Answer:
    """The answer to a command: text, and JSON where requested.

    Parameters
    ----------
    json_file
        Where the JSON goes, ``"-"`` for standard output, which then carries nothing else.
    quiet
        Whether text is left out.

    Attributes
    ----------
    quiet
        Whether text is left out, by --quiet, or because JSON takes its place.
    """

    def __init__(self, json_file: str | None, quiet: bool = False) -> None:
        self._to_stdout = json_file == "-"
        self.quiet = quiet or self._to_stdout
        self._file = None if json_file is None or self._to_stdout else json_file

    def skip(self, text: str) -> None:
        """Answer that nothing is to be done; JSON of the run that did it stays."""
        if self._file is not None and Path(self._file).expanduser().exists():
            self._file = None
        self.write({"seamscope": __version__, "skipped": True}, text)

    def write(self, content: Mapping[str, Any], text: str = "") -> None:
        """Give the answer: files first, since standard output may be closed."""
        if _gathered is not None:
            _gathered.append(content)
            return
        if self._file is not None:
            write_text("--json", self._file, _json(content))
        if self._to_stdout:
            show_json(content)
        elif text and not self.quiet:
            show(in_command(text))


_MADE_OF = "<!-- made of "
_gathered: list[Mapping[str, Any]] | None = None


@contextlib.contextmanager
def gathered() -> Iterator[list[Mapping[str, Any]]]:
    """Collect answers instead of giving them, for a command that repeats another."""
    global _gathered
    before, _gathered = _gathered, []
    try:
        yield _gathered
    finally:
        _gathered = before


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(_plain(content), indent=1, ensure_ascii=False, default=str) + "\n"


def _plain(value: Any) -> Any:
    """Return the same with null for NaN and infinity, which JSON does not know, and no secrets."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str):
        return without_secrets(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(option: str, file: str | Path, text: str) -> None:
    """Write a file that an option names.

    Raises
    ------
    OutputError
        When the disk refuses.
    """
    with disk_errors(f"{option} {file}", "The other results of this command are complete."):
        write_file(Path(file).expanduser(), text.encode())


def write_report(file: str | Path, page: str, task: Mapping[str, Any]) -> None:
    """Write a page of --report; a comment at its end says what it was made of.

    Raises
    ------
    OutputError
        When the disk refuses.
    """
    made_of = json.dumps(plain(task)).replace("--", "-\\u002d")  # which would end a comment
    write_text("--report", file, f"{page}\n{_MADE_OF}{made_of} -->\n")


def task_in(file: str | Path) -> dict[str, Any] | None:
    """Return what a file of --json or --report was made of; None where it does not say."""
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
        _, mark, comment = text.rpartition(_MADE_OF)
        found = json.loads(comment.rpartition("-->")[0]) if mark else json.loads(text)["task"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def require_pages(report_file: str | None) -> None:
    """Check, before long work, that what makes a report is installed, if one is requested."""
    if report_file is not None:
        from seamscope.reports.page import require

        require()


# -- standard output


class _Channel:
    """Standard output, which may be kept for one JSON document."""

    def __init__(self) -> None:
        self.kept = self.used = False
        self.stream: TextIO | None = None


_channel = _Channel()


@contextlib.contextmanager
def only_json() -> Iterator[None]:
    """Keep standard output for `show_json`: whatever else is printed goes to standard error.

    Networks print, and so do the libraries in C that they call: the file descriptor is redirected.
    """
    real = sys.stdout
    _channel.kept, _channel.used = True, False
    with contextlib.ExitStack() as stack:
        try:
            number, errors = real.fileno(), sys.stderr.fileno()
        except (AttributeError, OSError, ValueError):  # closed, or an object of tests
            _channel.stream = real
        else:
            real.flush()
            kept = os.dup(number)
            os.dup2(errors, number)
            _channel.stream = stack.enter_context(os.fdopen(kept, "w", encoding="utf-8"))
            stack.callback(os.dup2, kept, number)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            yield
        finally:
            _channel.kept, _channel.stream = False, None


def show_json(content: Mapping[str, Any]) -> None:
    """Write JSON to standard output."""
    _channel.used = True
    _print(_json(content), _channel.stream if _channel.kept else sys.stdout)


def json_is_missing() -> bool:
    """Return whether standard output is kept for JSON, and got none yet."""
    return _channel.kept and not _channel.used


def show(text: str) -> None:
    """Write text to standard output."""
    _print(f"{without_secrets(text)}\n", sys.stdout)


def _print(text: str, stream: TextIO | None) -> None:
    try:
        if stream is None:
            raise BrokenPipeError
        stream.write(text)
        stream.flush()
    except (OSError, ValueError) as error:
        _let_go(stream)
        why = getattr(error, "strerror", None) or "it is closed"
        raise OutputError(
            f"Standard output cannot be written ({why}). Open it, or write the answer to a file "
            "with --json FILE. Files that this command writes are complete."
        ) from error


def _let_go(stream: TextIO | None) -> None:
    """Leave nothing to be written at exit, when Python would report the error again."""
    with contextlib.suppress(AttributeError, OSError, ValueError), open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())  # type: ignore[union-attr]


# -- values for people


def columns(rows: Iterable[tuple[str, str]]) -> str:
    """Write names and values in two columns."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows)
