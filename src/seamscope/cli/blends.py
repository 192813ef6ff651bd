"""``seamscope blends``: which way of stitching suits tiles that disagree.

Knows how the question is asked in a shell and answered there. Does not know how ways are judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from seamscope import __version__
from seamscope.cli.answer import Answer, columns
from seamscope.cli.command import command
from seamscope.cli.options import (
    ComputationOptions,
    Debug,
    GridOptions,
    ImageName,
    ImageOptions,
    Json,
    ModelName,
    ModelOptions,
    Quiet,
    Tile,
    settings_of,
)
from seamscope.cli.progress import open_display
from seamscope.cli.work import long_work

if TYPE_CHECKING:
    from seamscope.compare.blends import BlendComparison


@command
def blends(
    image: ImageName,
    model: ModelName,
    *,
    grid: GridOptions,
    tile: Tile = "auto",
    pixels: ImageOptions,
    computation: ComputationOptions,
    loading: ModelOptions,
    json_file: Json = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find the way of stitching that suits MODEL on IMAGE, where its tiles disagree.

    All ways of --blend get the same predictions, and are judged by steps across the seams and by
    what changes when the tiles are moved. Costs two predictions of the image.
    """
    from seamscope.process_memory import keep_freed_memory

    keep_freed_memory()  # before torch starts threads
    answer = Answer(json_file, quiet, forbidden=[image, model])
    with open_display(quiet) as display, long_work(display) as work:
        work.phase("Loading")
        from seamscope.compare.blends import compare_blends

        opened, network = pixels.open(image), loading.load(model, work)
        settings = settings_of(grid, pixels, computation, tile=tile)
        work.phase("Predicting on two grids, and stitching in all ways")
        found = compare_blends(
            opened, network, settings, cancelled=work.cancelled, on_progress=work.progress
        )
        for note in (*opened.notes, *found.notes):
            display.note(note)
    told = {
        "seamscope": __version__,
        "image": opened.name,
        "model": network.name,
        **found.to_json(),
    }
    answer.write(told, f"{columns(_rows(found))}\n\n{found.describe()}")


def _rows(found: BlendComparison) -> Iterator[tuple[str, str]]:
    """One line for each way: its numbers in the channel that counts, and its score."""
    yield "blend", _line(["score", "step", "largest jump", "elsewhere", "dependence", "channel"])
    for way, score in zip(found.ways, found.scores, strict=True):
        c = int(way.total().argmax())
        moved = "-" if way.dependence is None else f"{way.dependence[c]:.3g}"
        figures = [score, way.step[c], way.peak[c], way.peak_elsewhere[c]]
        yield way.blend, _line([*(f"{v:.3g}" for v in figures), moved, found.channels[c]])


def _line(cells: list[str]) -> str:
    return "".join(f"{cell:<14}" for cell in cells).rstrip()
