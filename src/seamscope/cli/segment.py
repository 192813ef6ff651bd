"""``seamscope segment``: objects of a prediction, or of an image and a network in one go.

Knows how recipes are written in a shell, and how objects are reported. Does not know how they are
found.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamscope.cli.answer import Answer, columns, made_by, write_text
from seamscope.cli.command import Overwrite, Renamed, command
from seamscope.cli.options import (
    Blend,
    BlendChoice,
    ComputationOptions,
    GridOptions,
    ImageOptions,
    ModelOptions,
    OmeZarrOptions,
    Postprocess,
    Resume,
    Tile,
    WorkerOptions,
    changed,
    group_of,
    option,
    settings_of,
    sizes,
)
from seamscope.cli.protocols import SaveProtocol
from seamscope.errors import SettingsError
from seamscope.progress import Work
from seamscope.text import shape_text

if TYPE_CHECKING:
    from seamscope.images.image import Image
    from seamscope.planning.case import Case
    from seamscope.planning.protocol import Protocol
    from seamscope.segmentation.recipe import Recipe
    from seamscope.segmentation.segment import Segmentation
    from seamscope.settings import Settings

RecipeKind = StrEnum(
    "RecipeKind", ["components", "classes", "boundaries", "distance", "embeddings"]
)


def _values(text: str) -> str | float:
    """Read ``probabilities``, ``logits``, ``clipped`` or a number."""
    if text in ("probabilities", "logits", "clipped"):
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: write probabilities, logits, clipped, or the number that means 1 (255)."
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
            "What numbers are: probabilities, logits, clipped (a linear output: values beyond 0 "
            "and 1 count as 0 and 1), or the number that means 1, such as 255.",
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
    model: Annotated[
        str | None, option("Input", "Predict the image with this network first.", "MODEL")
    ] = None,
    tile: Tile = "auto",
    grid: GridOptions,
    blend: BlendChoice = Blend.crop,
    pixels: Annotated[ImageOptions, Renamed(channel="image_channel")],
    postprocess: Postprocess = True,
    computation: ComputationOptions,
    loading: ModelOptions,
    block: Annotated[
        int | None,
        option("Computation", "Side of a block in pixels; the result is the same for any.", "N"),
    ] = None,
    threads: Annotated[
        int, option("Computation", "Threads of this process that make objects.", "N")
    ] = 1,
    sharing: WorkerOptions,
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
    written: OmeZarrOptions,
    save_protocol: SaveProtocol = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    answer: Answer,
) -> None:
    """Make objects of PROBABILITIES and write them to OUT as a label image.

    Labels do not depend on blocks or tiles: 1 is the object with the first pixel, and so on.
    """
    if model is None:
        _need_model(pixels, grid, computation, loading, tile=tile, blend=blend, raw=not postprocess)
    with answer.work() as work:
        from seamscope.planning.protocol import Protocol
        from seamscope.prediction.folders import done_before, is_done
        from seamscope.segmentation.label_files import check_label_target
        from seamscope.segmentation.labelling import begin_labels, task_of_labels

        wanted, ome = recipe.of(), written.of(out)
        source = pixels.open(prediction, work.note)
        there = resume and is_done(out)
        if overwrite or not there:
            check_label_target(out, overwrite=overwrite, source=source, resume=resume)
        case, protocol = None, _without_network(pixels, wanted)
        if model is not None:
            settings = settings_of(
                grid, pixels, computation,
                tile=tile, blend=blend, postprocess=postprocess, seams="none",
            )  # fmt: skip
            case = _prepared(source, model, loading, settings, sharing.on, work)
            protocol = Protocol.of(case, wanted)
        how = {
            "case": case, "area": pixels.area, "ome": ome,
            "corrections": None if corrections is None else _hash(corrections),
        }  # fmt: skip
        task = task_of_labels(source, wanted, **how)
        done = there and done_before(out, task, overwrite=overwrite)
        own = made_by("segment", task)
        known = resume and answer.check(own, overwrite=overwrite)
        if done and (table is None or Path(table).expanduser().exists()):
            answer.skip(_answer_of(out) | {"task": own}, f"{out} is done already.", there=known)
            return
        if done:
            work.note(f"{out} is done already: only the table is made.")
        skipped: list[str] = []
        with begin_labels(
            source, wanted, None if done else out, blocks=block, threads=threads,
            overwrite=overwrite, resume=resume, source=source, on=sharing.on,
            trust=loading.trust, work=work, **how,
        ) as labelling:  # fmt: skip
            try:
                found = labelling.find()
                if corrections is not None:
                    found, skipped = _corrected(found, corrections)
                for note in skipped:
                    work.note(note)
                if table is not None:
                    image = source if model is not None and intensity is None else intensity
                    labelling.note("table", str(Path(table).expanduser().absolute()))
                    write_text("--table", table, found.table(image, work=work).to_csv())
                if not done:
                    about = {"protocol": protocol.to_json(), "corrections_skipped": skipped}
                    labelling.write(found, about, keep=True)
            except BaseException:
                if labelling.unfinished:
                    work.warn(labelling.unfinished)
                raise
        if save_protocol is not None:
            protocol.save(save_protocol)
    answer.write(_answer_of(out) | {"task": own}, columns(_rows(found, out)))


def _without_network(pixels: ImageOptions, recipe: Recipe) -> Protocol:
    """Return the protocol of a recipe for a prediction of any program."""
    from seamscope.planning.protocol import ImageChoice, Protocol, as_table
    from seamscope.settings import Settings

    image = group_of(ImageChoice, vars(pixels))
    return Protocol(None, Settings(area=pixels.area), image, None, as_table(recipe))


_ALWAYS = ("axes", "series", "level", "alpha", "nodata", "area")  # for predictions too


def _need_model(pixels: ImageOptions, *groups: Any, **single: Any) -> None:
    """Refuse options that say how an image is predicted where nothing is."""
    names = {"channel": "image_channel"}
    own = [names.get(name, name) for name in changed(pixels) if name not in _ALWAYS]
    usual = {"tile": "auto", "blend": Blend.crop, "raw": False}
    given = [*own, *changed(*groups), *(n for n, value in single.items() if value != usual[n])]
    if given:
        raise SettingsError(
            f"--{given[0].replace('_', '-')} says how an image is predicted: add --model MODEL, or "
            "leave it out for a prediction."
        )


def _prepared(
    image: Image,
    model: str,
    loading: ModelOptions,
    settings: Settings,
    on: int | str | None,
    work: Work,
) -> Case:
    """Plan the prediction of the image."""
    from seamscope.execution.devices import resources_on
    from seamscope.planning.tuning import prepare

    network = loading.load(model, work, settings.tile)
    resources = resources_on(on, settings.device, work)
    case = prepare(image, network, settings, resources=resources)
    for note in case.plan.notes:
        work.note(note)
    return case


def _answer_of(out: str) -> dict[str, Any]:
    """Return the answer of a run that made whole labels, out of what is noted with them."""
    from seamscope.images.image import open_image
    from seamscope.prediction.folders import record_at

    made, labels = record_at(out) or {}, open_image(out)
    return {
        "output": out,
        **made.get("segmentation", {}),
        "shape": list(labels.shape),
        "axes": labels.axes,
        "dtype": str(labels.dtype),
        "corrections_skipped": made.get("corrections_skipped", []),
    }


def _hash(file: str) -> str:
    """Return a hash of a file of corrections."""
    import hashlib

    path = Path(file).expanduser()
    if not path.exists():
        raise SettingsError(f"There is no file of corrections {file}: check the name.")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _corrected(found: Segmentation, file: str) -> tuple[Segmentation, list[str]]:
    from seamscope.segmentation.corrections import Corrections

    corrections = Corrections(found, file)
    return corrections.current, [f"Left out: {each}" for each in corrections.skipped]


def _rows(found: Segmentation, out: str) -> list[tuple[str, str]]:
    rows = [
        ("labels", f"{out}, {shape_text(found.shape, found.space.axes)}, {found.dtype}"),
        ("recipe", found.recipe.kind),
        ("objects", str(found.count)),
    ]
    if found.recipe.kind != "classes" and found.count:
        low, high = found.stable_range()
        said = f"{found.curve().name.replace('_', ' ')} {low:.3g} to {high:.3g}"
        rows.append(("stable", f"{said} changes their number by at most 2 %"))
    return rows
