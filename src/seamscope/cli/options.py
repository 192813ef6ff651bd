"""The vocabulary of the command line: one definition of each option, however many commands take it.

Knows how values are written in a shell, and which options belong together. Does not know what is
done with them.

Single options are annotated types (``tile: Tile = "auto"``), groups are dataclasses
(``grid: GridOptions``) which `seamscope.cli.command.command` unfolds. `settings_of` makes the
engine's `Settings` of both.

Choices are written out here, since importing them from the engine would import torch; a test
compares them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from seamscope.errors import SettingsError
from seamscope.settings import WORDS

if TYPE_CHECKING:
    from seamscope.images.image import Image
    from seamscope.images.ngff import OmeZarr
    from seamscope.models.model import Model
    from seamscope.progress import Work
    from seamscope.settings import Settings

T = TypeVar("T")

Blend = StrEnum("Blend", ["crop", "linear", "gaussian", "distance"])
Precision = StrEnum("Precision", ["float32", "bfloat16", "float16"])
Normalize = StrEnum("Normalize", ["auto", "zscore", "minmax", "percentile", "none"])
Result = StrEnum("Result", ["probabilities", "labels"])
Padding = StrEnum("Padding", ["reflect", "zeros"])
Seams = StrEnum("Seams", ["auto", "all", "sample", "none"])
Kind = StrEnum("Kind", ["auto", "probabilities", "logits", "classes", "embeddings", "values"])


# -- how values are written


def _bad(text: str, rule: str) -> NoReturn:
    raise typer.BadParameter(f"{text!r}: {rule}")


def sizes(text: str) -> int | tuple[int, ...]:
    """Read ``N`` or ``N,N``."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        _bad(text, "write one whole number, or one for each axis as in 64,256,256.")
    return numbers[0] if len(numbers) == 1 else numbers


def tile_size(text: str) -> str | int | tuple[int, ...]:
    """Read ``auto``, ``N`` or ``N,N``."""
    return "auto" if text == "auto" else sizes(text)


def halo_sides(text: str) -> Any:
    """Read ``auto``, ``N``, ``N,N`` or ``B/A,B/A``."""
    if text == "auto":
        return "auto"
    try:
        sides = tuple(_sides(part) for part in text.split(","))
    except ValueError:
        _bad(text, "write auto, one whole number, or N or BEFORE/AFTER for each axis (44/46,46).")
    return sides[0] if len(sides) == 1 and isinstance(sides[0], int) else sides


def _sides(text: str) -> int | tuple[int, int]:
    before, slash, after = text.partition("/")
    return (int(before), int(after)) if slash else int(before)


def percentages(text: str) -> tuple[float, float]:
    """Read ``LOW,HIGH``."""
    with contextlib.suppress(ValueError):
        low, high = (float(part) for part in text.split(","))
        if 0 <= low < high <= 100:
            return low, high
    _bad(text, "write two percentages with 0 <= low < high <= 100, as in 1,99.8.")


def ranges(text: str) -> dict[str, tuple[int, int]]:
    """Read ``y=0:512,x=100:300,t=3``."""
    found: dict[str, tuple[int, int]] = {}
    for part in text.split(","):
        axis, ends = _range(part, text)
        if axis in found:
            _bad(text, f"the axis {axis} is given twice; give each axis once.")
        found[axis] = ends
    return found


def _range(part: str, text: str) -> tuple[str, tuple[int, int]]:
    match = re.fullmatch(r"\s*([tczyx])=(\d+)(?::(\d+))?\s*", part)
    if match is None:
        _bad(text, "write AXIS=START:STOP in pixels, or AXIS=INDEX, as in y=0:512,x=100:300,t=3.")
    axis, start, stop = match.groups()
    return axis, (int(start), int(start) + 1 if stop is None else int(stop))


def bytes_of(text: str) -> int:
    """Read ``4GB``, ``500 MiB``, ``4e9``; returns bytes."""
    match = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    with contextlib.suppress(ValueError):
        if match:
            base = 1024 if match[3] else 1000
            size = int(float(match[1]) * base ** " kmgt".index(match[2] or " "))
            if size > 0:
                return size
    _bad(text, "write an amount of memory, as in 4GB or 500MB.")


def room_of(text: str) -> int:
    """Read an amount as `bytes_of`, or 0."""
    return 0 if text.strip() == "0" else bytes_of(text)


def distance(text: str) -> float:
    """Read a number that is finite and not negative."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    _bad(text, "write a distance that is finite and 0 or more, as in 1e-4.")


def tile_sizes(text: str) -> tuple[int | tuple[int, ...], ...]:
    """Read ``64,128,256``, or ``32x64x64,32x128x128`` for tiles that differ along axes."""
    try:
        read = [tuple(int(n) for n in size.split("x")) for size in text.split(",")]
    except ValueError:
        _bad(text, "write sizes as in 64,128,256, or with all axes as in 32x64x64,32x128x128.")
    return tuple(size[0] if len(size) == 1 else size for size in read)


def setting(panel: str, name: str, metavar: str | None = None, parser: Any = None) -> Any:
    """Describe the option of a setting, in the words of `seamscope.settings.WORDS`."""
    return option(panel, WORDS[name].help, metavar, parser)


def option(panel: str, help: str, metavar: str | None = None, parser: Any = None) -> Any:
    """Describe an option that is named like its parameter."""
    return typer.Option(rich_help_panel=panel, help=help, metavar=metavar, parser=parser)


# -- what is read


ImageName = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE",
        show_default=False,
        help="TIFF, PNG, JPEG, npy, zarr or OME-Zarr; or a sample: demo:tissue2d, tissue3d, "
        "channels2d, stack3d, lapse2d.",
    ),
]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="demo:batchnorm, demo:instancenorm (and ...3d); a file: .pt2, TorchScript, ONNX, a "
        "package of bioimage.io or MONAI; or a Python factory and its weights, "
        "unet.py:UNet(depth=3)@weights.safetensors. Add #NAME for one of several outputs.",
    ),
]


class _Loaded:
    """Networks that are loaded and measured once, for a command that is repeated.

    Attributes
    ----------
    failed
        Why the network could not be loaded; None where it could.
    """

    def __init__(self) -> None:
        self._models: dict[Any, Model] | None = None
        self.failed: BaseException | None = None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what is loaded."""
        self._models, self.failed = {}, None
        try:
            yield
        finally:
            self._models = None

    def load(self, key: Any, load: Callable[[], Model]) -> Model:
        """Return the network of a key."""
        if self._models is None:
            return load()
        if key not in self._models:
            try:
                self._models[key] = load()
            except Exception as error:
                self.failed = error
                raise
        return self._models[key]


LOADED = _Loaded()


@dataclass(frozen=True)
class ModelOptions:
    """How a model is loaded."""

    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Allow code that comes with the model to run, now and while it does not change "
            "(seamscope info --source shows it).",
        ),
    ] = False
    statistics: Annotated[
        str | None,
        typer.Option(
            "--statistics",
            metavar="FILE",
            help="Normalize with these fixed statistics instead of per-tile statistics (made by "
            "seamscope freeze).",
        ),
    ] = None

    input_size: Annotated[
        Any,
        option("Model", "An input size the network takes, in pixels.", "N|N,N", sizes),
    ] = None
    channels: Annotated[int | None, option("Model", "Channels the network takes.", "N")] = None
    spatial_axes: Annotated[
        int | None, option("Model", "Spatial axes the network takes: 2 or 3.", "N")
    ] = None
    step: Annotated[
        Any,
        option(
            "Model", "Sizes and starts of tiles are multiples of it, in pixels.", "N|N,N", sizes
        ),
    ] = None
    kind: Annotated[
        Kind,
        option("Model", "What the network predicts; auto measures it."),
    ] = Kind.auto
    ignore_extra: Annotated[
        bool,
        typer.Option(
            "--ignore-extra",
            rich_help_panel="Model",
            help="Leave out weights in the file that the network does not have.",
        ),
    ] = False
    no_dropout: Annotated[
        bool,
        typer.Option(
            "--no-dropout", rich_help_panel="Model", help="Switch random layers (dropout) off."
        ),
    ] = False
    fingerprint: Annotated[
        str | None,
        option("Model", "Refuse a network whose weights have another fingerprint.", "HASH"),
    ] = None
    statistics_digest: Annotated[
        str | None,
        option("Model", "Refuse fixed statistics that have another digest.", "HASH"),
    ] = None
    patience: Annotated[
        float,
        option("Model", "End measuring the network after this time.", "SECONDS", distance),
    ] = 60.0

    def load(self, name: str, work: Work | None = None, tile: Any = None) -> Model:
        """Load the model of this name, with what is stated of it, and measure it.

        Parameters
        ----------
        name
            As for `seamscope.load_model`.
        work
            Receives progress.
        tile
            Size of the tiles, where it is chosen: a network that runs on no other size that was
            tried is measured at it.
        """
        return LOADED.load((name, self, tile), lambda: self._load(name, work, tile))

    def _load(self, name: str, work: Work | None, tile: Any) -> Model:
        from seamscope.errors import ModelError

        try:
            model = self._measured(name, work, self.input_size)
        except ModelError:
            if self.input_size is not None or tile in (None, "auto"):
                raise
            model = self._measured(name, work, tile)
        if self.statistics is None:
            return model
        from seamscope.planning.protocol import load_statistics

        return model.with_statistics(load_statistics(self.statistics, self.statistics_digest))

    def _measured(self, name: str, work: Work | None, input_size: Any) -> Model:
        from seamscope.models.formats import Consent, load_model
        from seamscope.progress import QUIET

        model = load_model(
            name,
            trust=Consent(remember=True) if self.trust else False,
            spatial_axes=self.spatial_axes,
            channels=self.channels,
            input_size=input_size,
            step=self.step,
            kind=None if self.kind is Kind.auto else self.kind.value,  # type: ignore[arg-type]
            dropout=not self.no_dropout,
            ignore_extra=self.ignore_extra,
        )
        if self.fingerprint is not None:
            from seamscope.planning.protocol import check_network

            check_network(model, self.fingerprint)
        model.measure(work=work or QUIET, patience=self.patience)
        return model


@dataclass(frozen=True)
class PixelOptions:
    """How an image is read, and how its intensities are normalized."""

    normalize: Annotated[
        Normalize,
        setting("Image", "normalize"),
    ] = Normalize.auto
    percentiles: Annotated[Any, setting("Image", "percentiles", "LOW,HIGH", percentages)] = "1,99.8"
    axes: Annotated[
        str | None,
        option(
            "Image",
            "One letter for each axis of the image, if its file does not say or is wrong.",
            "tczyx",
        ),
    ] = None
    channel: Annotated[int | None, setting("Image", "channel", "N")] = None
    channel_axis: Annotated[str, setting("Image", "channel_axis", "AXIS")] = "c"
    fill_nan: Annotated[
        float | None,
        setting("Image", "fill_nan", "VALUE"),
    ] = None

    series: Annotated[
        str | None,
        option(
            "Image",
            "Which image of a file with several: its number from 0, or its path in a plate or "
            "group, as in A/1/0 (well A1, first field).",
            "N|PATH",
        ),
    ] = None
    level: Annotated[
        int, option("Image", "Resolution of a pyramid to read; 0 is the full one.", "N")
    ] = 0
    alpha: Annotated[
        bool, option("Image", "Keep a channel of transparency (alpha), or leave it out.")
    ] = True
    nodata: Annotated[
        float | None,
        option(
            "Image",
            "Intensity of pixels without data, which are left out of the image's statistics. By "
            "default what the file says.",
            "VALUE",
        ),
    ] = None

    def open(self, name: str, note: Callable[[str], None]) -> Image:
        """Open the image of this name, and note what its reader chose."""
        from seamscope.images.image import open_image

        image = open_image(name, series=self.series, **self.choices())
        for sentence in image.notes:
            note(sentence)
        return image

    def choices(self) -> dict[str, Any]:
        """How an image is opened, whichever of a file with several it is."""
        return {
            "axes": self.axes,
            "level": self.level,
            "alpha": self.alpha,
            "nodata": self.nodata,
        }


@dataclass(frozen=True)
class ImageOptions(PixelOptions):
    """What of an image is used, and how its intensities are normalized."""

    area: Annotated[
        Any,
        setting("Image", "area", "y=0:512,x=100:300,t=3", ranges),
    ] = None


# -- how it is computed


Tile = Annotated[
    Any,
    setting("Tiles", "tile", "auto|N|N,N", tile_size),
]
BlendChoice = Annotated[Blend, setting("Tiles", "blend")]
Postprocess = Annotated[
    bool,
    typer.Option("--postprocess/--raw", rich_help_panel="Result", help=WORDS["postprocess"].help),
]


GivenGrid = Annotated[
    str | None,
    typer.Option(
        "--grid",
        metavar="FILE",
        rich_help_panel="Tiles",
        help="Use the tiles of another program as they are: JSON or CSV with the read window and "
        "the core of each (seamscope.planning.given).",
    ),
]


@dataclass(frozen=True)
class GridOptions:
    """How tiles lie, their size apart."""

    halo: Annotated[
        Any,
        setting("Tiles", "halo", "auto|N|N,N|B/A,B/A", halo_sides),
    ] = "auto"
    overlap: Annotated[
        Any,
        setting("Tiles", "overlap", "N|N,N", sizes),
    ] = None
    padding: Annotated[Padding, setting("Tiles", "padding")] = Padding.reflect


@dataclass(frozen=True)
class ComputationOptions:
    """On what the network runs, and how."""

    batch: Annotated[int, setting("Computation", "batch", "N")] = 1
    device: Annotated[str, setting("Computation", "device", "DEVICE")] = "auto"
    precision: Annotated[Precision, setting("Computation", "precision")] = Precision.float32
    memory: Annotated[
        Any,
        setting("Computation", "memory", "4GB", bytes_of),
    ] = None
    accelerate: Annotated[bool, setting("Computation", "accelerate")] = True


def changed(*groups: Any) -> list[str]:
    """Return the fields of groups of options that differ from their defaults."""
    return [
        field.name
        for group in groups
        for field in dataclasses.fields(group)
        if not _same(getattr(group, field.name), field.default)
    ]


def _same(value: Any, usual: Any) -> bool:
    written = ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else value
    return bool(value == usual or written == usual)


@dataclass(frozen=True)
class WorkerOptions:
    """Which processes share a run."""

    workers: Annotated[
        int | None,
        option(
            "Workers",
            "Start this many processes on this machine. Each takes blocks of the result. The "
            "result is bit for bit that of one process with as many threads as each worker has, "
            "and the same equivalent of the network.",
            "N",
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        option(
            "Workers",
            "Use the workers of a Dask scheduler: its address (tcp://host:8786) or its file. All "
            "workers must see image, network and OUT under the same names.",
            "ADDRESS|FILE",
        ),
    ] = None

    @property
    def on(self) -> int | str | None:
        """Where the run is carried out (see `seamscope.execution.pool.open_pool`)."""
        if self.workers is not None and self.scheduler is not None:
            raise typer.BadParameter(
                "--workers starts processes here, and --scheduler uses those of a cluster: give "
                "one of them."
            )
        return self.scheduler if self.workers is None else self.workers


Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue OUT if an earlier run of the same command was interrupted."
    ),
]


def group_of(kind: type[T], given: Mapping[str, Any]) -> T:
    """Return a group of options out of the parameters of a command."""
    return kind(**{each.name: given[each.name] for each in dataclasses.fields(kind)})  # type: ignore[arg-type]


def settings_of(*groups: Any, **single: Any) -> Settings:
    """Make settings of groups of options and of single ones; what is no setting is left out."""
    from seamscope.settings import Settings

    given = {name: value for group in groups for name, value in vars(group).items()} | single
    known = {field.name for field in dataclasses.fields(Settings)}
    plain = {name: v.value if isinstance(v, Enum) else v for name, v in given.items()}
    return Settings(**{name: value for name, value in plain.items() if name in known})


Tolerance = Annotated[
    float,
    option(
        "Measures",
        "Largest difference that counts as floating-point noise, in standard deviations of the "
        "output.",
        "STD",
        distance,
    ),
]
Labels = Annotated[
    str | None,
    option(
        "Labels",
        "Ground-truth labels: an image of class or object numbers (demo:tissue2d: those of the "
        "sample).",
        "LABELS",
    ),
]
Foreground = Annotated[
    int | None,
    option("Labels", "For labels of objects: channel that they belong to, counted from 0.", "N"),
]


# -- what is written


class OmeVersion(StrEnum):
    """Versions of OME-Zarr that are written."""

    v05 = "0.5"
    v04 = "0.4"


@dataclass(frozen=True)
class OmeZarrOptions:
    """How OME-Zarr is written."""

    ome_version: Annotated[
        OmeVersion,
        option("Output", "Version of OME-Zarr: 0.5 (zarr 3), or 0.4 (zarr 2) for older programs."),
    ] = OmeVersion.v05
    pyramid: Annotated[
        bool,
        option(
            "Output",
            "Write OME-Zarr with lower resolutions, which viewers show at once. Values are "
            "averaged; of labels, the most frequent is taken.",
        ),
    ] = True

    def of(self, out: str) -> OmeZarr:
        """Return the choice; refuse one that `out` has no place for."""
        from seamscope.images.ngff import OmeZarr

        if changed(self) and ".ome.zarr" not in out.lower():
            wanted = {"ome_version": "--ome-version", "pyramid": "--no-pyramid"}[changed(self)[0]]
            raise SettingsError(
                f"{wanted} is for OME-Zarr, and OUT {out} is none: name it .ome.zarr, or leave "
                f"{wanted} out."
            )
        return OmeZarr(self.ome_version.value, self.pyramid)
