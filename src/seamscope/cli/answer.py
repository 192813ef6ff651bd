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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from seamscope.cli.interrupts import ShownWork, long_work
from seamscope.cli.progress import open_display
from seamscope.cli.wording import in_command
from seamscope.errors import OutputError
from seamscope.files import disk_errors, write_file
from seamscope.images.addresses import without_secrets
from seamscope.serialization import plain
from seamscope.version import __version__

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@dataclass(frozen=True)
class Answer:
    """What a command answers: text, and JSON where requested; and what it shows on the way.

    Attributes
    ----------
    json_file
        Where the JSON goes, ``"-"`` for standard output, which then carries nothing else.
    quiet
        Whether text and progress are left out.
    debug
        Whether a failure shows its traceback.
    """

    json_file: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE", help="Write everything as JSON (- for standard output)."
        ),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False
    debug: Debug = False

    @contextlib.contextmanager
    def work(self) -> Iterator[ShownWork]:
        """Show long work, which begins by loading; Ctrl-C stops it at its next step."""
        from seamscope.process_memory import keep_freed_memory

        keep_freed_memory()  # before torch starts threads
        with open_display(self.quiet) as display, long_work(display) as work:
            work.phase("Loading")
            yield work

    def check(self, task: Mapping[str, Any], *, overwrite: bool = False) -> bool:
        """Check that JSON that is there is of this work; return whether it is, and is complete.

        Raises
        ------
        OutputError
            When it is of other work, and may not be replaced.
        """
        return is_answer_of(self.json_file, task, overwrite=overwrite)

    def skip(self, content: Mapping[str, Any], text: str, *, there: bool) -> None:
        """Answer that nothing is to be done.

        Parameters
        ----------
        content
            What the run that did it has answered.
        text
            Says so.
        there
            Whether its JSON is there: that stays (see `check`).
        """
        if _gathered is not None:
            content = {**content, "skipped": True}
        (replace(self, json_file=None) if there else self).write(content, text)

    def write(self, content: Mapping[str, Any], text: str = "") -> None:
        """Give the answer, with the version: files first, since standard output may be closed."""
        content = {"seamscope": __version__, **content}
        if _gathered is not None:
            _gathered.append(content)
            return
        if self.json_file == "-":
            show_json(content)
            return
        if self.json_file is not None:
            write_text("--json", self.json_file, _json(content))
        if text and not self.quiet:
            show(in_command(text))


@dataclass(frozen=True)
class PageAnswer(Answer):
    """An answer that is written as a page of HTML too, where that is requested."""

    report_file: Annotated[
        str | None,
        typer.Option("--report", metavar="FILE.html", help="Write a page with figures."),
    ] = None

    def __post_init__(self) -> None:
        """Check, before long work, that what draws pages is installed."""
        if self.report_file is not None:
            from seamscope.reports.page import require

            require()

    def report(self, page: str, content: Mapping[str, Any] | None = None) -> None:
        """Write the page; a comment at its end holds the answer that it shows, if that is given."""
        if content is not None:
            answer = _json({"seamscope": __version__, **content}, None)
            page = f"{page}\n{_ANSWER}{answer.replace('--', _HYPHENS)} -->\n"
        if self.report_file is not None:
            write_text("--report", self.report_file, page)


_ANSWER = "<!-- answer of seamscope "
_HYPHENS = "-\\u002d"  # two of them would end a comment
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


def _json(content: Mapping[str, Any], indent: int | None = 1) -> str:
    return json.dumps(_plain(content), indent=indent, ensure_ascii=False, default=str) + "\n"


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


def made_by(command: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an answer is made of: the command is part of it."""
    return {"command": command, **plain(task)}


def is_answer_of(
    file: str | Path | None, task: Mapping[str, Any], *, overwrite: bool = False
) -> bool:
    """Return whether a file of --json or --report holds the whole answer of this work.

    Raises
    ------
    OutputError
        When it is of other work, and may not be replaced; the message names what differs.
    """
    if file in (None, "-") or not Path(file).expanduser().exists():
        return False
    from seamscope.prediction.folders import is_made_of

    found = answer_in(file)
    own = is_made_of(found.get("task"), task, file, overwrite=overwrite)
    return own and found.get("finished", True) is True


def answer_in(file: str | Path | None) -> dict[str, Any]:
    """Return what a command has answered in a file of --json or --report; {} for other files."""
    if file in (None, "-"):
        return {}
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
        _, mark, comment = text.rpartition(_ANSWER)
        found = json.loads(comment.rpartition("-->")[0] if mark else text)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "seamscope" in found else {}


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
