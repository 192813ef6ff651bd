"""``seamscope segment``: objects of a prediction, or of an image and a network in one go.

Knows how recipes are written in a shell, and how objects are reported. Does not know how they are
found.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamscope import __version__
from seamscope.cli.answer import Answer, columns, write_text
from seamscope.cli.command import Overwrite, command
from seamscope.cli.options import (
    Debug,
    GridOptions,
    Json,
    ModelOptions,
    Quiet,
    Tile,
    bytes_of,
    option,
    settings_of,
    sizes,
)
from seamscope.cli.progress import Display, open_display
from seamscope.cli.work import EngineWork, long_work
from seamscope.errors import SettingsError
from seamscope.text import shape_text

if TYPE_CHECKING:
    from seamscope.images.image import Image
    from seamscope.segmentation.recipe import Recipe
    from seamscope.segmentation.segment import Segmentation

_SHARE = 0.25  # of free memory that a prediction may take

RecipeKind = StrEnum(
    "RecipeKind", ["components", "classes", "boundaries", "distance", "embeddings"]
)


def _values(text: str) -> str | float:
    """Read ``probabilities``, ``logits`` or a number."""
    if text in ("probabilities", "logits"):
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: write probabilities, logits, or the number that means 1, as in 255."
        ) from None


def _numbers(text: str) -> tuple[float, ...]:
    """Read ``N,N``."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: write one number for each axis, as in 2,1,1."
        ) from None


@dataclass(frozen=True)
class RecipeOptions:
    """How objects are made of a prediction."""

    recipe: Annotated[
        RecipeKind,
        option(
            "Recipe",
            "components: connected pixels above --threshold. classes: the largest channel. "
            "boundaries, distance, embeddings: a watershed on a boundary channel, on the distance "
            "from the edge, on distances between embeddings.",
        ),
    ] = RecipeKind.components
    channel: Annotated[
        Any,
        option(
            "Recipe",
            "Channel of the foreground (components, distance) or of the boundary, from 0; several "
            "for classes and embeddings.",
            "N|N,N",
            sizes,
        ),
    ] = None
    foreground: Annotated[
        int | None,
        option("Recipe", "Channel of the foreground, for boundaries and embeddings.", "N"),
    ] = None
    threshold: Annotated[
        float, option("Recipe", "Pixels with a larger probability are foreground.", "T")
    ] = 0.5
    seed_threshold: Annotated[
        float | None,
        option(
            "Recipe",
            "Objects grow from pixels below this boundary probability or embedding distance. With "
            "--recipe distance: from pixels deeper than this.",
            "T",
        ),
    ] = None
    dynamics: Annotated[
        float | None,
        option("Recipe", "Instead: objects grow from minima that are at least this deep.", "D"),
    ] = None
    background: Annotated[
        int | None, option("Recipe", "Channel that becomes label 0 of classes.", "N")
    ] = 0
    cap: Annotated[
        float | None,
        option("Recipe", "Distances are cut off here (default: 50 pixels; 2 for embeddings).", "D"),
    ] = None
    voxel_size: Annotated[
        Any,
        option("Recipe", "Size of a pixel along each axis, for distances.", "N,N", _numbers),
    ] = None
    values: Annotated[
        Any,
        option(
            "Recipe",
            "What numbers are: probabilities, logits, or the number that means 1, such as 255.",
            "V",
            _values,
        ),
    ] = "probabilities"
    min_size: Annotated[int, option("Filters", "Drop objects with fewer pixels.", "N")] = 0
    max_size: Annotated[int | None, option("Filters", "Drop objects with more pixels.", "N")] = None
    fill_holes: Annotated[
        bool, typer.Option("--fill-holes", rich_help_panel="Filters", help="Fill holes in objects.")
    ] = False
    clear_border: Annotated[
        bool,
        typer.Option(
            "--clear-border",
            rich_help_panel="Filters",
            help="Drop objects that touch the image's border.",
        ),
    ] = False
    connectivity: Annotated[
        int,
        option("Recipe", "Pixels touch by faces (1), edges too (2), corners too (3).", "N"),
    ] = 1

    def of(self) -> Recipe:
        """Return the recipe."""
        from seamscope.segmentation.recipe import Recipe

        given = dict(vars(self))
        return Recipe(given.pop("recipe").value, **given)


@command
def segment(
    prediction: Annotated[
        str,
        typer.Argument(
            metavar="PROBABILITIES",
            show_default=False,
            help="Prediction of any program (OME-Zarr, zarr, TIFF, npy); with --model, the image.",
        ),
    ],
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            show_default=False,
            help="Its ending says what to write: .ome.zarr, .zarr, .tif, .npy, .png. "
            "IMAGE.ome.zarr/labels/NAME adds labels to an image.",
        ),
    ],
    *,
    recipe: RecipeOptions,
    axes: Annotated[
        str | None,
        option("Input", "A letter for each axis, where the file does not say.", "tczyx"),
    ] = None,
    model: Annotated[
        str | None, option("Input", "Predict the image with this network first.", "MODEL")
    ] = None,
    tile: Tile = "auto",
    grid: GridOptions,
    memory: Annotated[
        Any, option("Tiles", "Memory of one batch of tiles.", "4GB", bytes_of)
    ] = None,
    loading: ModelOptions,
    block: Annotated[
        int | None,
        option("Computation", "Side of a block in pixels; the result is the same for any.", "N"),
    ] = None,
    workers: Annotated[int, option("Computation", "Threads.", "N")] = 1,
    corrections: Annotated[
        str | None,
        option("Input", "Apply corrections by hand (made in the dock Labels).", "FILE"),
    ] = None,
    table: Annotated[
        str | None, option("Output", "Write one row for each object.", "FILE.csv")
    ] = None,
    intensity: Annotated[
        str | None,
        option("Output", "Image whose mean is taken over each object of the table.", "IMAGE"),
    ] = None,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make objects of PROBABILITIES and write them to OUT as a label image.

    Labels do not depend on blocks or tiles: 1 is the object with the first pixel, and so on.
    """
    answer = Answer(json_file, quiet)
    with open_display(quiet) as display, long_work(display) as work:
        work.phase("Loading")
        from seamscope.files import temporary_folder
        from seamscope.images.image import open_image
        from seamscope.images.outputs import check_target
        from seamscope.segmentation.segment import segment as find

        wanted = recipe.of()
        _check_target(out, overwrite, check_target)
        source = open_image(prediction, axes=axes)
        steps = EngineWork(work)
        with contextlib.ExitStack() as stack:
            probabilities, names = source, None
            if model is not None:
                settings = settings_of(grid, tile=tile, memory=memory, seams="none")
                folder = stack.enter_context(temporary_folder())
                probabilities, names = _predicted(source, model, loading, settings, display, folder)
            found = find(
                probabilities,
                wanted,
                blocks=block,
                workers=workers,
                channel_names=names,
                work=steps,
            )
        skipped: list[str] = []
        if corrections is not None:
            found, skipped = _corrected(found, corrections)
        for note in (*source.notes, *skipped):
            display.note(note)
        if table is not None:
            image = source if model is not None and intensity is None else intensity
            write_text("--table", table, found.table(image, work=steps).to_csv())
        found.write(out, overwrite=overwrite, source=source, work=steps)
    record = {"seamscope": __version__, "output": out, **found.record()["segmentation"]}
    record |= {"shape": list(found.shape), "axes": found.space.axes, "dtype": str(found.dtype)}
    answer.write(record | {"corrections_skipped": skipped}, columns(_rows(found, out)))


def _check_target(out: str, overwrite: bool, check: Any) -> None:
    """Refuse a place before anything is computed, as far as can be known."""
    if Path(out).parent.name != "labels":
        check(out, overwrite=overwrite, labels=True)


def _predicted(
    image: Image,
    model: str,
    loading: ModelOptions,
    settings: Any,
    display: Display,
    folder: Path,
) -> tuple[Image, tuple[str, ...]]:
    """Predict the image, in memory or, where it takes much of it, in a folder."""
    from psutil import virtual_memory

    from seamscope.images.image import open_image
    from seamscope.prediction.run import Started, TileDone, predict, prepare

    network = loading.load(model)
    display.phase("Measuring the network")
    case = prepare(image, network, settings)
    plan = case.plan

    def tell(event: Any) -> None:
        if isinstance(event, Started):
            display.start(event.tiles * event.frames)
        elif isinstance(event, TileDone):
            display.tile(event)

    size = math.prod(plan.out_shape) * plan.out_dtype.itemsize
    kept = folder / "prediction.zarr" if size > _SHARE * virtual_memory().available else None
    values = predict(case, out=kept, on_event=tell)
    opened = open_image(values, axes=plan.out_axes)
    named = dataclasses.replace(
        opened,
        name=f"prediction of {image.name}",
        scale=tuple(plan.scale),
        units=tuple(plan.units),
    )
    return named, network.channels_of(plan.facts)


def _corrected(found: Segmentation, file: str) -> tuple[Segmentation, list[str]]:
    from seamscope.segmentation.corrections import Corrections

    if not Path(file).expanduser().exists():
        raise SettingsError(f"There is no file of corrections {file}: check the name.")
    corrections = Corrections(found, file)
    return corrections.current, [f"Left out: {each}" for each in corrections.skipped]


def _rows(found: Segmentation, out: str) -> list[tuple[str, str]]:
    rows = [
        ("labels", f"{out}, {shape_text(found.shape, found.space.axes)}, {found.dtype}"),
        ("recipe", found.recipe.kind),
        ("objects", str(found.count)),
    ]
    if found.recipe.kind != "classes":
        curve = found.curve()
        low, high = curve.stable()
        rows.append(
            ("stable", f"{curve.name} {low:.3g} to {high:.3g} changes their number by at most 2 %")
        )
    return rows
