"""``seamscope splits``: objects that were cut where tiles meet, in the labels of any program.

Knows the options and the answer. Does not know how they are found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamscope import __version__
from seamscope.cli.answer import Answer, columns
from seamscope.cli.command import Overwrite, command
from seamscope.cli.options import Debug, Json, ModelOptions, Quiet, option, sizes
from seamscope.cli.progress import open_display
from seamscope.cli.segment import RecipeOptions
from seamscope.cli.work import long_work
from seamscope.errors import SettingsError

if TYPE_CHECKING:
    from seamscope.segmentation.agreement import Agreement
    from seamscope.segmentation.asking import Opinion
    from seamscope.segmentation.false_splits import SplitReport

_SHOWN = 10  # pairs in the text; JSON has all


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
            "Pixels of a tile along each axis; without it the grid is searched.",
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
    image: Annotated[
        str | None,
        option(
            "Ask again",
            "Image of the labels, to predict places with the seam inside a tile.",
            "IMAGE",
        ),
    ] = None,
    model: Annotated[
        str | None, option("Ask again", "Network that predicted the labels.", "MODEL")
    ] = None,
    recipe: RecipeOptions,
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
    json_file: Json = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Test LABELS for objects that were cut where tiles meet, list them, and merge them.

    Labels that change on the seams more often than on displaced lines are cut by the tiling. Pairs
    of objects that face each other across a seam are listed with their false-discovery rate.
    """
    _check_options(image, model, merge, out)
    answer = Answer(json_file, quiet)
    with open_display(quiet) as display, long_work(display) as work:
        work.phase("Loading")
        from seamscope.segmentation.false_splits import find_splits
        from seamscope.segmentation.label_files import check_label_target
        from seamscope.segmentation.label_images import labels_of, merge_pairs

        if out is not None:
            source = labels_of(labels, axes)
            check_label_target(out, overwrite=overwrite, source=source)
        shared = overlap or 0
        report = find_splits(labels, tile, overlap=shared, offset=offset, axes=axes, work=work)
        opinions: list[Opinion] = []
        if image is not None and model is not None:
            from seamscope.segmentation.asking import ask_again

            tiled = {} if tile is None else {"tile": tile}
            opinions = list(
                ask_again(
                    report.candidates, image, loading.load(model), recipe.of(), work=work, **tiled
                )
            )
        agreement = None
        if ground_truth is not None:
            from seamscope.segmentation.agreement import compare_labels

            agreement = compare_labels(labels, ground_truth, report.lines, work=work)
        pairs = _chosen(report, opinions, merge)
        if out is not None:
            merge_pairs(labels, pairs, out, axes=axes, overwrite=overwrite, work=work)
    record = {
        "seamscope": __version__,
        **report.to_json(),
        "asked_again": [
            {"labels": list(o.candidate.labels), "vanished": o.vanished} for o in opinions
        ],
        "agreement": agreement and agreement.to_json(),
        "merged": [list(pair) for pair in pairs] if out else [],
    }
    answer.write(record, "\n\n".join(_text(report, opinions, agreement, pairs, out)))


def _check_options(
    image: str | None, model: str | None, merge: float | None, out: str | None
) -> None:
    if (image is None) != (model is None):
        raise SettingsError("To ask the network again give both --image and --model.")
    if out is None and merge is not None:
        raise SettingsError("--merge needs a place for the merged labels: add --out OUT.")
    if out is not None and merge is None and model is None:
        raise SettingsError(
            "--out needs a rule of which pairs to merge: --merge RATE, or --image and --model."
        )


def _chosen(
    report: SplitReport, opinions: list[Opinion], rate: float | None
) -> list[tuple[int, int]]:
    """Pairs to be merged: those that the network sees as one, or up to a rate."""
    if opinions:
        known = {o.candidate: o.vanished for o in opinions}
        among = report.candidates if rate is None else report.below(rate)
        return [c.labels for c in among if known[c]]
    return [] if rate is None else [c.labels for c in report.below(rate)]


def _text(
    report: SplitReport,
    opinions: list[Opinion],
    agreement: Agreement | None,
    pairs: list[tuple[int, int]],
    out: str | None,
) -> list[str]:
    parts = [report.describe()]
    if report.candidates:
        heard = {o.candidate: o for o in opinions}
        rows = [("pair", "pixels  rate   seam")]
        for c in report.candidates[:_SHOWN]:
            opinion = heard.get(c)
            said = "" if opinion is None else f"  {_VERDICTS[opinion.vanished]}"
            seam = f"{report.axes[c.axis]}={c.line}"
            rows.append(
                (f"{c.labels[0]} {c.labels[1]}", f"{c.pixels:<7} {c.rate:<6.2g} {seam}{said}")
            )
        parts.append(columns(rows))
    if opinions:
        made = sum(o.vanished is True for o in opinions)
        parts.append(f"{made} of {len(opinions)} splits vanish without a seam between the objects.")
    if agreement is not None:
        parts.append(agreement.describe())
    if out is not None:
        parts.append(f"{out}: {len(pairs)} pair{'s' * (len(pairs) != 1)} merged.")
    return parts


_VERDICTS = {True: "one object", False: "two objects", None: "background"}
