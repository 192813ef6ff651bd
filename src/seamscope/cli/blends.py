"""``seamscope blends``: which way of blending suits tiles that disagree.

Knows the options and the answer. Does not know how ways of blending are judged.
"""

from __future__ import annotations

from seamscope.cli.answer import Answer
from seamscope.cli.command import command
from seamscope.cli.options import (
    ComputationOptions,
    GridOptions,
    ImageName,
    ImageOptions,
    ModelName,
    ModelOptions,
    Tile,
    settings_of,
)


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
    answer: Answer,
) -> None:
    """Find the way of blending that suits MODEL on IMAGE.

    Every --blend gets the same predictions. Each is judged by the steps across seams and by what
    changes when the tiles are moved. Costs two predictions of the image.
    """
    with answer.work() as work:
        from seamscope.compare.blends import compare_blends
        from seamscope.reports.describe import describe
        from seamscope.reports.terminal import terminal

        opened, network = pixels.open(image, work.note), loading.load(model, work, tile)
        settings = settings_of(grid, pixels, computation, tile=tile)
        found = compare_blends(opened, network, settings, work=work)
        for note in found.notes:
            work.note(note)
    record = {
        "image": opened.name,
        "model": network.name,
        **found.to_json(),
    }
    answer.write(record, terminal(describe(found)))
