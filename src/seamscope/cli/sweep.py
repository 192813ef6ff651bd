"""``seamscope sweep``: how much the size of the tiles matters.

Knows how the question is asked in a shell and answered there. Does not know how it is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamscope import __version__
from seamscope.cli.answer import Answer, columns, place, write_text
from seamscope.cli.command import command
from seamscope.cli.options import (
    Blend,
    BlendChoice,
    ComputationOptions,
    Debug,
    Foreground,
    GridOptions,
    ImageName,
    ImageOptions,
    Json,
    Labels,
    ModelName,
    ModelOptions,
    Quiet,
    ReportFile,
    option,
    settings_of,
    tile_sizes,
)
from seamscope.cli.progress import open_display
from seamscope.cli.work import long_work

if TYPE_CHECKING:
    from seamscope.compare.tile_content import Content
    from seamscope.compare.tile_sizes import Sweep


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
            help="Sizes of tiles to compare; all axes of one as in 32x64x64.",
            metavar="N,N,...",
            parser=tile_sizes,
            show_default=False,
        ),
    ],
    grid: GridOptions,
    blend: BlendChoice = Blend.crop,
    untiled: Annotated[
        bool, option("Tiles", "Add the untiled prediction where it fits the memory.")
    ] = True,
    labels: Labels = None,
    foreground: Foreground = None,
    threshold: Annotated[float, option("Labels", "For classes of a single channel.")] = 0.5,
    pixels: ImageOptions,
    computation: ComputationOptions,
    loading: ModelOptions,
    json_file: Json = None,
    report_file: ReportFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Predict IMAGE by MODEL with tiles of several sizes, and compare the predictions.

    And tell how much tiles of each size differ in what they contain.
    """
    from seamscope.process_memory import keep_freed_memory

    keep_freed_memory()  # before torch starts threads
    taken = [image, model, *([labels] if labels else [])]
    answer = Answer(json_file, quiet, forbidden=taken)
    page = place("--report", report_file, taken) if report_file else None
    with open_display(quiet) as display, long_work(display) as work:
        work.phase("Loading")
        from seamscope.compare.tile_content import content
        from seamscope.compare.tile_sizes import sweep as compare

        if page is not None:
            from seamscope.reports.page import require

            require()
        opened, network = pixels.open(image), loading.load(model, work)
        settings = settings_of(
            grid, pixels, computation, blend=blend, threshold=threshold, tile="auto"
        )
        asked: Any = {"cancelled": work.cancelled, "on_progress": work.progress}
        work.phase("Predicting with tiles of all sizes")
        found = compare(
            opened,
            network,
            tiles,
            labels=labels,
            foreground=foreground,
            settings=settings,
            untiled=untiled,
            **asked,
        )
        for note in (*opened.notes, *found.notes):
            display.note(note)
        work.phase("Looking at what tiles contain")
        space = "zyx"[-network.facts.spatial_axes :]
        named = opened if opened.axes else opened.with_axes(space)
        held = content(named, tiles, found.truth, spatial=space, **asked)
        if page is not None:
            from seamscope.reports.seam_page import sweep_page

            work.phase("Drawing")
            setting = [("file", opened.source or opened.name), ("network", network.name)]
            write_text("--report", page, sweep_page(found, held, setting))
    told = {
        "seamscope": __version__,
        "image": opened.name,
        "model": network.name,
        **found.to_json(),
        "content": held.to_json(),
    }
    answer.write(told, f"{columns(_rows(found, held))}\n\n{found.describe()}")


def _rows(found: Sweep, held: Content) -> Iterator[tuple[str, str]]:
    """One line for each size: how far it is from the last, and how well it agrees with labels."""
    classes = found.truth.names if found.truth else ()
    scores = [f"Dice {name}" for name in classes]
    yield "tile", _line([f"max dist to {found.names[-1]}", "largest mismatch", *scores])
    for k, name in enumerate(found.names):
        values = [found.max_dist[k, -1], found.to_last.value[k].max()]
        values += [] if found.dice is None else list(found.dice.value[k])
        yield name, _line([f"{v:.3g}" for v in values])
    spread = dict(zip(held.names, held.spread, strict=True))
    yield "", ""
    yield "tile", _line([f"spread of {name}" for name in held.features[:4]])
    for name, values in spread.items():
        yield name, _line([f"{v:.3g}" for v in values[:4]])


def _line(cells: list[str]) -> str:
    return "".join(f"{cell:<24}" for cell in cells).rstrip()
