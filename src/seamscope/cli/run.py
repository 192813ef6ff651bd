"""``seamscope run``: repeat a protocol on another image.

Knows that a protocol is ``predict`` with its options filled in, and ``segment`` after it where the
protocol has a recipe. Does not know how options are written (see `seamscope.cli.protocols`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamscope.cli.command import command
from seamscope.cli.options import ImageName, option
from seamscope.cli.predict import predict
from seamscope.cli.protocols import fill_in
from seamscope.cli.segment import RecipeKind, segment
from seamscope.errors import SettingsError

if TYPE_CHECKING:
    from seamscope.planning.protocol import Protocol


_NOT_OF_LABELS = {"threshold", "background"}
"""Options of ``predict`` that mean something else in ``segment``: the recipe's own."""


def _own_parameters() -> dict[str, tuple[Any, Any]]:
    """Name, annotation and default of what ``run`` takes in place of ``predict``'s arguments."""
    name = Annotated[
        str,
        typer.Argument(
            metavar="PROTOCOL",
            show_default=False,
            is_eager=True,
            callback=fill_in,
            help="File written by --save-protocol or in napari, or the result of an earlier "
            "prediction, whose protocol is used.",
        ),
    ]
    model = Annotated[
        str | None,
        option("Protocol", "Where the protocol's network is now, if it was moved.", "MODEL"),
    ]
    empty = inspect.Parameter.empty
    return {
        "context": (typer.Context, empty),
        "protocol": (name, empty),
        "image": (ImageName, empty),
        "model": (model, None),
    }


def _like(function: Any) -> Any:
    """Give a function the options of ``predict``, and its own."""
    own = _own_parameters()
    others = dict(inspect.signature(predict).parameters)
    for name in (*own, "save_protocol"):
        others.pop(name, None)
    keyword = inspect.Parameter.KEYWORD_ONLY
    first = [
        inspect.Parameter(name, keyword, default=default, annotation=kind)
        for name, (kind, default) in own.items()
    ]
    parameters = [*first, *others.values()]
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {each.name: each.annotation for each in parameters}
    return function


@command
@_like
def run(**given: Any) -> None:
    """Repeat PROTOCOL on IMAGE, and write the result to OUT.

    With a recipe of labels in the protocol, OUT are the labels. Options that are given here replace
    those of the protocol.
    """
    from seamscope.planning.protocol import Protocol

    context = given.pop("context")
    protocol = Protocol.load(given.pop("protocol"))
    if protocol.network is not None:
        given["model"] = given["model"] or protocol.network.path
    if protocol.recipe is not None:
        _check_options(context)
        segment(**_of_segment(protocol, given))
        return
    if given["model"] is None:
        raise SettingsError("The protocol has no network. Give one (--model).")
    predict(protocol=None, save_protocol=None, **given)


def _check_options(context: typer.Context) -> None:
    """Refuse options on the command line that do not matter to labels."""
    taken = inspect.signature(segment).parameters.keys() - _NOT_OF_LABELS
    for each in context.command.params:
        name = str(each.name)
        source = context.get_parameter_source(name)
        if name not in (*_own_parameters(), *taken) and source and source.name == "COMMANDLINE":
            raise SettingsError(
                f"{each.opts[0]} does not apply to this protocol, whose recipe makes labels: leave "
                "it out, or use seamscope predict and then seamscope segment."
            )


def _of_segment(protocol: Protocol, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of ``segment``, of those of ``predict`` and a protocol's recipe."""
    from seamscope.planning.protocol import of_table
    from seamscope.segmentation.recipe import Recipe

    recipe = dict(vars(of_table(Recipe, protocol.recipe or {})))
    recipe["recipe"] = RecipeKind(recipe.pop("kind"))
    named = {"prediction": given["image"], "image_channel": given["channel"]}
    known = {**given, **named, **recipe}
    wanted = inspect.signature(segment).parameters.values()
    return {each.name: known.get(each.name, each.default) for each in wanted}


__all__ = ["run"]
