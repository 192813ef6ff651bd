"""``seamscope splits``: objects that were cut where tiles meet, in the labels of any program.

Knows the options and the answer. Does not know how they are found.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from seamscope.cli.answer import PageAnswer
from seamscope.cli.command import Overwrite, Renamed, command
from seamscope.cli.options import (
    ComputationOptions,
    ModelOptions,
    PixelOptions,
    option,
    settings_of,
    sizes,
)
from seamscope.cli.segment import RecipeOptions
from seamscope.errors import SettingsError

_SHOWN = 10  # pairs in the text; JSON has all
_PICTURED = 12  # pairs in the report


@command
def splits(
    labels: Annotated[
        str,
        typer.Argument(
            metavar="LABELS",
            show_default=False,
            help="Label image of any program: whole numbers, 0 for background.",
        ),
    ],
    *,
    tile: Annotated[
        Any,
        option(
            "Grid",
            "Pixels of a tile along each axis. By default the grid that Seamscope noted in the "
            "labels' file; without any, the grid is searched.",
            "N|N,N",
            sizes,
        ),
    ] = None,
    overlap: Annotated[
        Any, option("Grid", "Pixels that neighbouring tiles share.", "N|N,N", sizes)
    ] = None,
    offset: Annotated[
        Any,
        option(
            "Grid",
            "Position of a seam along each axis; by default the middle of the first overlap.",
            "N|N,N",
            sizes,
        ),
    ] = None,
    axes: Annotated[
        str | None, option("Input", "A letter for each axis, where the file does not say.", "tzyx")
    ] = None,
    series: Annotated[
        str | None,
        option(
            "Input", "Which image of a file with several: its number from 0, or its path.", "N|PATH"
        ),
    ] = None,
    image: Annotated[
        str | None,
        option(
            "Ask again",
            "Image of the labels, for the report's pictures, and with --model to predict places "
            "with the seam in the middle of a tile.",
            "IMAGE",
        ),
    ] = None,
    model: Annotated[
        str | None, option("Ask again", "Network that predicted the labels.", "MODEL")
    ] = None,
    pixels: Annotated[
        PixelOptions, Renamed(axes="image_axes", series="image_series", channel="image_channel")
    ],
    recipe: RecipeOptions,
    computation: ComputationOptions,
    loading: ModelOptions,
    ground_truth: Annotated[
        str | None,
        option("Compare", "Ground-truth labels: average precision, splits and merges.", "LABELS"),
    ] = None,
    merge: Annotated[
        float | None,
        option("Output", "Merge pairs up to this false-discovery rate.", "RATE"),
    ] = None,
    out: Annotated[str | None, option("Output", "Where merged labels go.", "OUT")] = None,
    overwrite: Overwrite = False,
    answer: PageAnswer,
) -> None:
    """Test LABELS for objects that were cut where tiles meet, list them, and merge them.

    Labels that change on the seams more often than on displaced lines are cut by the tiling. Pairs
    of objects that face each other across a seam are listed with their false-discovery rate.
    """
    _check_options(image, model, merge, out, answer.report_file)
    with answer.work() as work:
        from seamscope.reports.split_page import split_page, split_parts
        from seamscope.reports.terminal import terminal
        from seamscope.segmentation.agreement import compare_labels
        from seamscope.segmentation.false_splits import find_splits
        from seamscope.segmentation.findings import SplitFindings
        from seamscope.segmentation.label_files import check_label_target
        from seamscope.segmentation.label_images import labels_of
        from seamscope.segmentation.split_views import look_at_splits

        source = labels_of(labels, axes, series=series)
        for note in source.notes:
            work.note(note)
        if out is not None:
            check_label_target(out, overwrite=overwrite, source=source)
        pictured = None if image is None else pixels.open(image, work.note)
        report = find_splits(source, tile, overlap=overlap or 0, offset=offset, work=work)
        tiles = None
        if pictured is not None and model is not None:
            from seamscope.planning.case import Case
            from seamscope.segmentation.asking import OneTile

            network = loading.load(model, work)
            known = () if report.lines is None else report.lines.tile
            size = known[-network.facts.spatial_axes :] or "auto"
            settings = settings_of(pixels, computation, tile=size)
            case = Case.open(pictured, network, settings)
            tiles = OneTile(case, recipe.of(), report.letters, report.shape)
        opinions = [] if tiles is None else list(tiles.opinions(report.candidates, work))
        agreement = None
        if ground_truth is not None:
            agreement = compare_labels(source, ground_truth, report.lines, work=work)
        findings = SplitFindings(report, opinions, agreement)
        if out is not None:
            findings = findings.merge(
                source, merge, out, ground_truth=ground_truth, overwrite=overwrite, work=work
            )
        if answer.report_file is not None:
            views = look_at_splits(
                report, source, most=_PICTURED, image=pictured, tiles=tiles, work=work
            )
            given = {"labels": labels, "image": image, "ground truth": ground_truth}
            setting = [(f"file of the {name}", file) for name, file in given.items() if file]
            answer.report(split_page(findings, views=views, setting=setting))
    text = terminal(split_parts(findings, _SHOWN))
    if findings.merged is not None:
        count = len(findings.merged.pairs)
        text += f"\n\n{out}: {count} pair{'s' * (count != 1)} merged."
    answer.write({**findings.to_json()}, text)


def _check_options(
    image: str | None, model: str | None, merge: float | None, out: str | None, page: str | None
) -> None:
    alone = image is None if page else (image is None) != (model is None)
    if alone and not (image is None and model is None):
        raise SettingsError("To ask the network again give both --image and --model.")
    if out is None and merge is not None:
        raise SettingsError("--merge needs a place for the merged labels: add --out OUT.")
    if merge is not None and not 0 <= merge <= 1:
        raise SettingsError(f"--merge {merge:g}: a false-discovery rate is from 0 to 1, as in 0.1.")
    if out is not None and merge is None and model is None:
        raise SettingsError(
            "--out needs a rule of which pairs to merge: --merge RATE, or --image and --model."
        )
