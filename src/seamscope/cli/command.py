"""What every command is: registered, its options unfolded, its end a sentence and an exit code.

Knows how a function becomes a command and how failures are reported. Does not know any one command.

A parameter whose type is a dataclass stands for all its fields, each an option: commands share
groups of options (see `seamscope.cli.options`) without repeating them::

    @command
    def seams(image: ImageName, model: ModelName, grid: GridOptions, quiet: Quiet = False) -> None:
        '''Help of the command.'''
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import traceback
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from seamscope import __version__
from seamscope.errors import ModelError, SeamscopeError, TrustError


class ExitCode:
    """Exit codes."""

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
130 stopped by Ctrl-C: what was done is kept and marked as unfinished"""

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


def _unfolded(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function with its groups of options replaced by the options themselves."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {
        n: kind for n, kind in hints.items() if dataclasses.is_dataclass(kind)
    }
    parameters: list[inspect.Parameter] = []
    for own in inspect.signature(function).parameters.values():
        if own.name in groups:
            parameters += _options_of(groups[own.name])
        else:
            parameters.append(_option(own.name, own.default, hints[own.name]))

    @functools.wraps(function)
    def unfolded(**given: Any) -> None:
        for name, kind in groups.items():
            fields = [field.name for field in dataclasses.fields(kind)]
            given[name] = kind(**{field: given.pop(field) for field in fields})
        function(**given)

    unfolded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    unfolded.__annotations__ = {each.name: each.annotation for each in parameters}
    return unfolded


def _options_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        _option(each.name, each.default, hints[each.name]) for each in dataclasses.fields(group)
    ]


def _option(name: str, default: Any, hint: Any) -> inspect.Parameter:
    # by keyword alone, so that arguments may follow options
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


class _Command(TyperCommand):
    """A command whose failures are sentences and exit codes, never tracebacks."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except (KeyboardInterrupt, InterruptedError):
            say("Stopped.")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BaseException as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            sentence, code = _explained(error)
            say(sentence)
            raise typer.Exit(code) from error


def _explained(error: BaseException) -> tuple[str, int]:
    """Sentence and exit code for whatever ended a command."""
    if isinstance(error, SystemExit):  # a model's factory called sys.exit
        error = ModelError("The model's code ended the program (SystemExit): it cannot be used.")
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
        sentence = "Error: Memory ran out: use a smaller --tile or --memory, or write to .zarr."
        return sentence, ExitCode.REFUSED
    sentence = (
        f"This is a bug in Seamscope ({type(error).__name__}: {first_line(error)}): please report "
        "it with what --debug shows."
    )
    return sentence, ExitCode.BUG


def first_line(error: BaseException) -> str:
    """Return what an exception says, shortened to one line."""
    return (str(error).strip().splitlines() or ["no message"])[0][:200]


def say(sentence: str) -> None:
    """Tell the user something on standard error."""
    typer.echo(sentence, err=True)
