"""``seamscope certify``: the tiled prediction against the untiled one.

Knows the options and the answer. Does not know how it is measured.
"""

from __future__ import annotations

from typing import Annotated

import typer

from seamscope.cli.answer import PageAnswer
from seamscope.cli.command import ExitCode, command
from seamscope.cli.options import (
    Blend,
    BlendChoice,
    ComputationOptions,
    GridOptions,
    ImageName,
    ImageOptions,
    ModelName,
    ModelOptions,
    Tile,
    Tolerance,
    option,
    settings_of,
)


@command
def certify(
    image: ImageName,
    model: ModelName,
    *,
    tile: Tile = "auto",
    grid: GridOptions,
    blend: BlendChoice = Blend.crop,
    crops: Annotated[
        int,
        option(
            "Measures", "Number of crops to compare if the whole image does not fit in memory.", "N"
        ),
    ] = 3,
    tolerance: Tolerance = 1e-4,
    pixels: ImageOptions,
    computation: ComputationOptions,
    loading: ModelOptions,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="RESULT.zarr",
            help="Result made with the same settings: write the certificate into its metadata.",
        ),
    ] = None,
    answer: PageAnswer,
) -> None:
    """Prove that MODEL's tiled prediction of IMAGE equals the untiled one, as far as memory allows.

    Ends with exit code 1 if they differ by more than floating-point noise.
    """
    with answer.work() as work:
        from seamscope.compare.certificate import certify as compare
        from seamscope.compare.certificate import record_to_certify, store_certificate
        from seamscope.reports.describe import describe
        from seamscope.reports.terminal import terminal

        if store is not None:
            record_to_certify(store)
        opened, network = pixels.open(image, work.note), loading.load(model, work, tile)
        settings = settings_of(grid, pixels, computation, tile=tile, blend=blend)
        found = compare(
            opened,
            network,
            settings,
            crops=crops,
            tolerance=tolerance,
            work=work,
        )
        if store is not None:
            store_certificate(found, store)
        if answer.report_file is not None:
            from seamscope.reports.seam_page import certificate_page

            answer.report(certificate_page(found, opened.source or opened.name))
    answer.write(
        {"image": opened.name, **found.to_json()},
        terminal(describe(found)),
    )
    if not found.passed:
        raise typer.Exit(ExitCode.REFUSED)
