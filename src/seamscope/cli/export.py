"""``seamscope export``: a loaded network, written for others.

Knows the options and the answer. Does not know formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from seamscope.cli.answer import Answer, columns
from seamscope.cli.command import Overwrite, command
from seamscope.cli.options import ModelName, ModelOptions, option
from seamscope.cli.places import local
from seamscope.text import shape_text


@dataclass(frozen=True)
class CreditOptions:
    """What a package of bioimage.io says of its makers."""

    author: Annotated[
        list[str] | None,
        option("Package (.zip)", "Who made the network; may be given several times.", "NAME"),
    ] = None
    description: Annotated[
        str, option("Package (.zip)", "A sentence or two on what it is for.", "TEXT")
    ] = ""
    license: Annotated[
        str, option("Package (.zip)", "Of the weights, by its SPDX name.", "SPDX")
    ] = "CC-BY-4.0"
    cite: Annotated[str | None, option("Package (.zip)", "What to cite.", "TEXT")] = None
    url: Annotated[str | None, option("Package (.zip)", "Where that is found.", "URL")] = None


@command
def export(
    model: ModelName,
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            show_default=False,
            help="Its ending says what to write: .pt2 (torch.export, any size), .torchscript, "
            ".onnx, or .zip (package of bioimage.io with measured halo, step and axes).",
        ),
    ],
    *,
    credits: CreditOptions,
    loading: ModelOptions,
    overwrite: Overwrite = False,
    answer: Answer,
) -> None:
    """Write MODEL to OUT, read it back and compare."""
    with answer.work() as work:
        from seamscope.models.formats.export import Credits, kind_of
        from seamscope.models.formats.export import export as write

        kind_of(local("OUT", out))  # what is wrong with it is said before anything is loaded
        network = loading.load(model, work)
        work.phase("Measuring, writing and reading back")
        given = {
            "authors": tuple(credits.author or ()),
            "description": credits.description,
            "license": credits.license,
            "cite": credits.cite,
            "url": credits.url,
        }
        named = Credits(**{name: value for name, value in given.items() if value})  # type: ignore[arg-type]
        written = write(network, out, credits=named, overwrite=overwrite)
    rows = [
        ("written", f"{written.path} ({written.kind})"),
        ("measured", network.describe()),
        ("read back", f"at {shape_text(written.sizes)}, largest difference {written.max_dist:.2g}"),
        *(("note", note) for note in written.notes),
    ]
    record = {"model": network.spec, "sentence": network.describe()}
    answer.write({**record, **written.to_json()}, columns(rows))
