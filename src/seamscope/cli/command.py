"""What every command is: registered, its options unfolded, its end a sentence and an exit code.

Knows how a function becomes a command, and how a failure ends it. Does not know any one command.

A parameter whose type is a dataclass stands for all its fields, each an option: commands share
groups of options (see `seamscope.cli.options`) without repeating them::

    @command
    def seams(image: ImageName, model: ModelName, grid: GridOptions, answer: Answer) -> None:
        '''Help of the command.'''

Where a name of a group is taken by the command, ``Annotated[GridOptions, Renamed(halo="margin")]``
gives the option another one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import inspect
import itertools
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from seamscope import __version__
from seamscope.cli import places, several
from seamscope.cli.answer import json_is_missing, only_json, show_json
from seamscope.cli.places import WRITES
from seamscope.cli.wording import in_command
from seamscope.errors import ModelError, SeamscopeError, TrustError
from seamscope.files import is_full
from seamscope.images.addresses import without_secrets

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that this command writes if they exist.")
]
"""Every command that writes a file has this option."""


class ExitCode:
    """Exit codes of all commands."""

    DONE = 0
    REFUSED = 1
    USAGE = 2  # as click has it
    TRUST = 3
    BUG = 70  # EX_SOFTWARE of sysexits.h
    INTERRUPTED = 130  # 128 + SIGINT


EXIT_CODES = """Exit codes:
0 done
1 refused or failed: one sentence says why and what to do
2 the command line cannot be read
3 the model would run code: look at what, then add --trust
70 a bug of Seamscope: --debug shows where
130 stopped by Ctrl-C or SIGTERM: what was done is kept as NAME.partial"""

app = typer.Typer(
    name="seamscope",
    help="Tile-by-tile prediction of large microscopy images without seams.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seamscope {__version__}")
        raise typer.Exit


@app.callback()
def _seamscope(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a command of its name, with dashes; its docstring is the help.

    Parameters
    ----------
    function
        Its parameters are annotated as typer wants them, or by a dataclass of such fields.

    Returns
    -------
    callable
        The function with all options as parameters of its own.
    """
    unfolded = _unfolded(function)
    app.command(cls=_Command, epilog=EXIT_CODES)(unfolded)
    return unfolded


class Renamed:
    """Names that a command gives to options of a group, by the group's own names for them."""

    def __init__(self, **names: str) -> None:
        self.names = names


def _unfolded(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function with its groups of options replaced by the options themselves."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: group for name, hint in hints.items() if (group := _Group.of(hint))}
    parameters: list[inspect.Parameter] = []
    for own in inspect.signature(function).parameters.values():
        if own.name in groups:
            parameters += groups[own.name].options
        else:
            parameters.append(_option(own.name, own.default, hints[own.name]))

    names = {each.name for each in parameters}
    added = "overwrite" not in names and not names.isdisjoint(WRITES)
    if added:
        parameters.append(_option("overwrite", False, Overwrite))

    @functools.wraps(function)
    def unfolded(**given: Any) -> None:
        if added:
            given.pop("overwrite")  # it matters to `places.check` alone
        for name, group in groups.items():
            given[name] = group.taken_from(given)
        function(**given)

    unfolded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    unfolded.__annotations__ = {each.name: each.annotation for each in parameters}
    return unfolded


@dataclasses.dataclass(frozen=True)
class _Group:
    """A group of options in one command."""

    kind: Any
    names: dict[str, str]  # of the options, by those of the fields

    @classmethod
    def of(cls, hint: Any) -> _Group | None:
        """Return the group that a parameter's annotation stands for, None for a single option."""
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if not dataclasses.is_dataclass(kind):
            return None
        renamed = next((note.names for note in notes if isinstance(note, Renamed)), {})
        fields = [field.name for field in dataclasses.fields(kind)]
        return cls(kind, {field: renamed.get(field, field) for field in fields})

    @property
    def options(self) -> list[inspect.Parameter]:
        """Its fields as parameters."""
        hints = _hints_of(self.kind)
        return [
            _option(self.names[each.name], each.default, hints[each.name])
            for each in dataclasses.fields(self.kind)
        ]

    def taken_from(self, given: dict[str, Any]) -> Any:
        """Make the group of the options that were given, and remove these."""
        return self.kind(**{field: given.pop(name) for field, name in self.names.items()})


@functools.cache  # many commands share a group, and each annotation is compiled
def _hints_of(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _option(name: str, default: Any, hint: Any) -> inspect.Parameter:
    # by keyword alone, so that arguments may follow options
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


# click's class; typer has a copy of click inside, and no name of its own for it
_UsageError: Any = typer.BadParameter.__mro__[1]


class _Command(TyperCommand):
    """A command whose failures are sentences and exit codes, never tracebacks.

    With ``--json -`` a failure is JSON too.
    """

    def make_context(self, *args: Any, **more: Any) -> Any:
        given = args[1] if len(args) > 1 else more.get("args", ())
        wants_json = "--json=-" in given or ("--json", "-") in itertools.pairwise(given)
        try:
            return super().make_context(*args, **more)
        except _UsageError as error:
            if wants_json:
                show_json(_failure(error, error.format_message(), ExitCode.USAGE))
            raise _refused_by_click(error) from error

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        alone = only_json() if ctx.params.get("json_file") == "-" else contextlib.nullcontext()
        with _terminated_as_interrupted(), alone:
            try:
                return self._invoke(ctx)
            except typer.Abort:
                raise
            except _UsageError as error:
                raise _refused_by_click(error) from error
            except typer.Exit as end:
                if end.exit_code and json_is_missing():
                    show_json(_failure(end, _said[-1] if _said else "", end.exit_code))
                raise
            except BaseException as error:
                if ctx.params.get("debug"):
                    print(without_secrets(traceback.format_exc()), file=sys.stderr)
                sentence, code = _explained(error)
                sentence = in_command(sentence)
                say(sentence)
                if json_is_missing():
                    with contextlib.suppress(SeamscopeError):
                        show_json(_failure(error, sentence, code))
                raise typer.Exit(code) from error

    def _invoke(self, ctx: typer.Context) -> Any:
        places.check_named(ctx.params)
        images = several.images_of(self.name, ctx.params)
        if images is None:
            places.check(ctx.params)
            return super().invoke(ctx)
        assert self.callback is not None
        act = functools.partial(_with, ctx, self.callback)
        several.repeat(str(self.name), images, ctx.params, act, _explained, say)
        return None


def _refused_by_click(error: Any) -> typer.Exit:
    """Say in a sentence, as of all other errors, why the command line cannot be read."""
    sentence = error.format_message().replace("Value error, ", "").strip().rstrip(".")
    where = f"{error.ctx.command_path} --help" if error.ctx else "seamscope --help"
    say(f"Error: {sentence}. Correct that; {where} shows what can be given.")
    return typer.Exit(ExitCode.USAGE)


def _with(ctx: typer.Context, callback: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return ctx.invoke(callback, **parameters)


def _failure(error: BaseException, sentence: str, code: int) -> dict[str, Any]:
    """What ``--json -`` shows of a command that failed."""
    stopped = code == ExitCode.INTERRUPTED
    kind = "Stopped" if stopped else type(error).__name__
    sentence = sentence.removeprefix("Error: ")
    return {
        "seamscope": __version__,
        "error": {"kind": kind, "sentence": sentence, "exit_code": code},
    }


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM, which Slurm, Docker and systemd send, for Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _explained(error: BaseException) -> tuple[str, int]:
    """Sentence and exit code for whatever ended a command."""
    if isinstance(error, KeyboardInterrupt | InterruptedError):
        return "Stopped.", ExitCode.INTERRUPTED
    if isinstance(error, SystemExit):  # raised by a factory
        error = ModelError("The model's code ended the program (SystemExit): it cannot be used.")
    if not isinstance(error, (SeamscopeError, MemoryError)) and _of_network(error):
        error = ModelError(
            f"The network fails ({type(error).__name__}: {first_line(error)}): run it by itself on "
            "one tile, and on NaN, which measuring uses."
        )
    if isinstance(error, TrustError):
        runs = "\n".join(f"  - {line}" for line in error.would_run)
        red = "".join(
            "\n" + typer.style(f"  - unknown: {line}", fg=typer.colors.RED)
            for line in error.unknown
        )
        advice = " ".join(["If you trust where it comes from, add --trust.", error.reason]).strip()
        return f"Loading {error.source} would run code:\n{runs}{red}\n{advice}", ExitCode.TRUST
    if isinstance(error, SeamscopeError):
        return f"Error: {error}", ExitCode.REFUSED
    if isinstance(error, MemoryError):
        ran_out = "Error: Memory ran out: use a smaller --tile or --memory, or write to .zarr."
        return ran_out, ExitCode.REFUSED
    if isinstance(error, OSError) and error.errno is not None:
        return f"Error: {_of_the_system(error)}", ExitCode.REFUSED
    bug = (
        f"This is a bug in Seamscope ({type(error).__name__}: {first_line(error)}): please report "
        "it with what --debug shows."
    )
    return bug, ExitCode.BUG


def _of_network(error: BaseException) -> bool:
    if "seamscope.models.model" not in sys.modules:
        return False  # no network was loaded, and torch need not be
    from seamscope.models.model import of_network

    return of_network(error)


def _of_the_system(error: OSError) -> str:
    """A sentence on a file or disk that the system refuses."""
    named = error.filename or error.filename2
    name = f" {named}" if named else ""
    if is_full(error):
        where = f"that holds{name} " if name else ""
        return f"The disk {where}is full. Free some space, also for temporary files, and try again."
    if error.errno == errno.EPIPE:
        return "Standard output is closed. Open it, or write the answer to a file with --json FILE."
    if error.errno == errno.ENAMETOOLONG:
        return "A file name is longer than this system allows. Shorten it."
    return f"The file{name} cannot be used ({error.strerror}). Check it, and that it may be read."


def first_line(error: BaseException) -> str:
    """Return what an exception says, shortened to one line."""
    return (str(error).strip().splitlines() or ["no message"])[0][:200]


_said: list[str] = []


def say(sentence: str) -> None:
    """Show a sentence on standard error."""
    sentence = without_secrets(sentence)
    sentence = in_command(sentence)
    _said[:] = [sentence]
    with contextlib.suppress(OSError):  # closed, as for a service
        typer.echo(sentence, err=True)
