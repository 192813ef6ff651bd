"""``seamscope sweep``: how much the size of the tiles matters.

Knows the options and the answer. Does not know how it is measured.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from seamscope.cli.answer import PageAnswer
from seamscope.cli.command import command
from seamscope.cli.options import (
    Blend,
    BlendChoice,
    ComputationOptions,
    Foreground,
    GridOptions,
    ImageName,
    ImageOptions,
    Labels,
    ModelName,
    ModelOptions,
    option,
    settings_of,
    tile_sizes,
)


@command
def sweep(
    image: ImageName,
    model: ModelName,
    *,
    tiles: Annotated[
        Any,
        typer.Option(
            "--tiles",
            rich_help_panel="Tiles",
            help="Tile sizes to compare, in pixels; for each axis as in 32x64x64.",
            metavar="N,N,...",
            parser=tile_sizes,
            show_default=False,
        ),
    ],
    grid: GridOptions,
    blend: BlendChoice = Blend.crop,
    untiled: Annotated[
        bool, option("Tiles", "Add the untiled prediction if it fits in memory.")
    ] = True,
    labels: Labels = None,
    foreground: Foreground = None,
    threshold: Annotated[
        float, option("Labels", "For networks with one channel: pixels above it are foreground.")
    ] = 0.5,
    pixels: ImageOptions,
    computation: ComputationOptions,
    loading: ModelOptions,
    answer: PageAnswer,
) -> None:
    """Predict IMAGE with tiles of several sizes, and compare the predictions.

    Also shows how much tiles of each size differ in what they contain.
    """
    with answer.work() as work:
        from seamscope.compare.tile_content import content
        from seamscope.compare.tile_sizes import sweep as compare
        from seamscope.reports.describe import describe
        from seamscope.reports.terminal import terminal

        opened, network = pixels.open(image, work.note), loading.load(model, work)
        settings = settings_of(
            grid, pixels, computation, blend=blend, threshold=threshold, tile="auto"
        )
        found = compare(
            opened,
            network,
            tiles,
            labels=labels,
            foreground=foreground,
            settings=settings,
            untiled=untiled,
            work=work,
        )
        for note in found.notes:
            work.note(note)
        space = "zyx"[-network.facts.spatial_axes :]
        named = opened if opened.axes else opened.with_axes(space)
        held = content(named, tiles, found.truth, spatial=space, work=work)
        if answer.report_file is not None:
            from seamscope.reports.seam_page import sweep_page

            work.phase("Drawing")
            setting = [("file", opened.source or opened.name), ("network", network.name)]
            answer.report(sweep_page(found, held, setting))
    record = {
        "image": opened.name,
        "model": network.name,
        **found.to_json(),
        "content": held.to_json(),
    }
    answer.write(record, terminal([*describe(found), *describe(held)]))
