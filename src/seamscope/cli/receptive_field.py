"""``seamscope receptive-field``: how far a network sees, and on which grid.

Knows the options and the answer. Does not know how it is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamscope.cli.answer import PageAnswer, columns
from seamscope.cli.command import command
from seamscope.cli.options import (
    ImageOptions,
    ModelName,
    ModelOptions,
    bytes_of,
    option,
    settings_of,
    sizes,
    tile_size,
)
from seamscope.text import axes_text, halo_text, percent_text

if TYPE_CHECKING:
    from seamscope.receptive_field.fields import ReceptiveField


def _numbers(text: str) -> tuple[int, ...]:
    read = sizes(text)
    return (read,) if isinstance(read, int) else read


@dataclass(frozen=True)
class GradientOptions:
    """Pixel whose gradients are taken, and number of tiles."""

    output_channel: Annotated[
        int | None,
        option("Gradients", "Of the prediction, from 0; by default all together.", "N"),
    ] = None
    phase: Annotated[
        Any,
        option(
            "Gradients",
            "Position of the output pixel modulo the period; by default that of a tile's middle.",
            "N,N",
            _numbers,
        ),
    ] = None
    pixel: Annotated[
        Any, option("Gradients", "Pixel of IMAGE whose own map is wanted too.", "Y,X", _numbers)
    ] = None
    tiles: Annotated[
        int,
        option("Gradients", "Tiles after which averaging ends; 0 for no gradients.", "N"),
    ] = 128

    batch: Annotated[int, option("Gradients", "Tiles at a time.", "N")] = 1
    device: Annotated[str, option("Gradients", "auto, cpu, cuda, cuda:1 or mps.", "DEVICE")] = (
        "auto"
    )
    memory: Annotated[
        Any,
        option(
            "Gradients",
            "What a batch may use, else tiles are smaller; by default a share of what is free.",
            "4GB",
            bytes_of,
        ),
    ] = None


@dataclass(frozen=True)
class WindowOptions:
    """Sizes to be checked against the rules of the network's period."""

    stride: Annotated[
        Any, option("Check", "From one tile's start to the next one's.", "N|N,N", sizes)
    ] = None
    core: Annotated[Any, option("Check", "Output pixels kept of each tile.", "N|N,N", sizes)] = None
    training: Annotated[
        Any, option("Check", "Output windows the network was trained on.", "N|N,N", sizes)
    ] = None


@command
def receptive_field(
    model: ModelName,
    loading: ModelOptions,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE", help="Average gradients over its tiles; by default over noise."
        ),
    ] = None,
    *,
    tile: Annotated[
        Any,
        option(
            "Check",
            "Pixels of a tile, also of those that gradients are taken of; auto has room for all "
            "that one pixel sees.",
            "auto|N|N,N",
            tile_size,
        ),
    ] = "auto",
    gradients: GradientOptions,
    windows: WindowOptions,
    pixels: ImageOptions,
    answer: PageAnswer,
) -> None:
    """Measure how far MODEL can see, how far it does, and the halo and grid it needs."""
    with answer.work() as work:
        from seamscope.errors import SettingsError
        from seamscope.receptive_field.fields import measure_receptive_field
        from seamscope.receptive_field.grid_rules import Windows

        if gradients.pixel is not None and image is None:
            raise SettingsError("--pixel is a pixel of an image: name that with --image.")
        network = loading.load(model, work)
        opened = None if image is None else pixels.open(image, work.note)
        work.phase("Measuring what the network can see")
        found = measure_receptive_field(
            opened,
            network,
            settings_of(pixels, gradients, tile=tile),
            Windows(**vars(windows)),
            channel=gradients.output_channel,
            phase=gradients.phase,
            pixel=gradients.pixel,
            most_tiles=gradients.tiles,
            work=work,
        )
    if answer.report_file is not None:
        from seamscope.reports.field_page import field_page

        setting = [("model", model), *([("image", image)] if image else [])]
        answer.report(field_page(found, network.name, setting))
    record = {"model": model, "image": image, **found.to_json()}
    answer.write(record, "\n\n".join(("\n".join(found.sentences()), columns(_rows(found)))))


def _rows(found: ReceptiveField) -> Iterator[tuple[str, str]]:
    yield "network", str(found.facts)
    if found.theoretical is not None:
        yield "field", f"{halo_text(found.theoretical)} at the worst phase"
    elif found.convolutional is not None:
        yield "field", f"the whole tile; convolutions {halo_text(found.convolutional)}"
    else:
        yield "field", "the whole tile"
    if found.halo is not None:
        yield "halo", halo_text(found.halo)
    if found.effective is not None:
        shown = found.effective.map
        for share in (0.95, 0.99, 0.999):
            yield f"{100 * share:g}% within", axes_text(shown.radius(share))
    if found.mass_outside is not None:
        yield "beyond", f"{percent_text(found.mass_outside)} of the gradient"
