"""Protocols as options of a command line.

Knows how each entry of a protocol is called as an option, both ways. Does not know what a protocol
holds them for (see `seamscope.planning.protocol`).

One table serves three: a protocol given by ``--protocol`` fills in all options that are not on the
command line, ``seamscope run`` is ``seamscope predict`` filled in so, and *Copy as command* in
napari writes the same options out.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamscope.errors import SeamscopeError, SettingsError
from seamscope.settings import Settings

if TYPE_CHECKING:
    from seamscope.planning.protocol import Protocol

_PANEL = "Protocol"
# Switches whose two names do not follow from the parameter's.
_SWITCHES = {"postprocess": ("--postprocess", "--raw")}
_NO_OTHER_NAME = ("ignore_extra", "no_dropout")


# -- from a protocol to options


def values_of(protocol: Protocol) -> dict[str, str | bool]:
    """Return the options of ``predict`` that say what a protocol says.

    Parameters
    ----------
    protocol
        What was chosen.

    Returns
    -------
    dict
        For each parameter that differs from its default, its value as text; of a switch, whether
        it is on.
    """
    written: dict[str, str | bool] = {}
    default = vars(Settings())
    for name, value in vars(protocol.settings).items():
        if value != default[name]:
            written[name] = _text(name, value)
    plain = {name: v for name, v in vars(protocol.image).items() if v is not None}
    plain["level"] = plain["level"] or None
    plain["alpha"] = None if plain["alpha"] else False
    if protocol.network is not None:
        network = dict(vars(protocol.network))
        for apart in ("path", "format"):
            network.pop(apart)
        plain["no_dropout"] = None if network.pop("dropout") else True
        plain["ignore_extra"] = network.pop("ignore_extra") or None
        plain |= network
    if protocol.statistics is not None:
        plain["statistics"] = protocol.statistics.path
        plain["statistics_digest"] = protocol.statistics.digest
    return written | {name: _text(name, v) for name, v in plain.items() if v is not None}


def _text(name: str, value: Any) -> str | bool:
    if isinstance(value, bool):
        return value
    if name == "area":
        return ",".join(f"{axis}={start}:{stop}" for axis, (start, stop) in value.items())
    if name == "halo" and not isinstance(value, str | int):
        return ",".join(map(_sides, value))
    if isinstance(value, list | tuple):
        return ",".join(map(repr, value))
    return value if isinstance(value, str) else repr(value)


def _sides(sides: Any) -> str:
    if isinstance(sides, int):
        return str(sides)
    before, after = sides
    return str(before) if before == after else f"{before}/{after}"


def command_of(protocol: Protocol, image: str, out: str) -> str:
    """Return a command for a shell that predicts an image as a protocol says.

    Parameters
    ----------
    protocol
        With a network; a recipe has no place in it.
    image, out
        File that is read, and file that is written.

    Examples
    --------
    >>> from seamscope.planning.protocol import Network, Protocol
    >>> settings = Settings(tile=(96, 96), halo=16, area={"y": (0, 50)}, accelerate=False)
    >>> command_of(Protocol(Network("demo:unet", "5c"), settings), "my cells.tif", "o.zarr")
    "seamscope predict 'my cells.tif' demo:unet o.zarr --tile 96,96 --halo 16 --area y=0:50 \
--no-accelerate --fingerprint 5c"
    """
    if protocol.network is None:
        raise SettingsError("The protocol has no network, so no command predicts with it.")
    words = ["seamscope", "predict", image, protocol.network.path, out]
    for name, value in values_of(protocol).items():
        words += _written(name, value)
    return shlex.join(words)


def _written(name: str, value: str | bool) -> Iterator[str]:
    long = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        on, off = _SWITCHES.get(name, (long, f"--no-{long[2:]}"))
        yield on if value else off
    elif value.startswith("-"):
        yield f"{long}={value}"
    else:
        yield from (long, value)


# -- from a file to options that were not given


def fill_in(context: typer.Context, name: str | None) -> str | None:
    """Let a protocol say what the command line does not."""
    if name is not None:
        context.default_map = {**(context.default_map or {}), **_values_in(name)}
    return name


def _values_in(name: str) -> Mapping[str, str | bool]:
    from seamscope.planning.protocol import Protocol

    try:
        return values_of(Protocol.load(name))
    except SeamscopeError as error:
        raise typer.BadParameter(str(error)) from error


ProtocolFile = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        metavar="FILE.toml",
        is_eager=True,
        callback=fill_in,
        rich_help_panel=_PANEL,
        help="Take all options that are not given here from this protocol, or from the result of "
        "an earlier prediction. Another network is refused.",
    ),
]
SaveProtocol = Annotated[
    str | None,
    typer.Option(
        "--save-protocol",
        metavar="FILE.toml",
        rich_help_panel=_PANEL,
        help="Write everything that was chosen to this file, with the exact tiles.",
    ),
]


__all__ = ["ProtocolFile", "SaveProtocol", "command_of", "fill_in", "values_of"]
