"""The command ``seamscope``.

Knows how a command line is written and answered: options, sentences, progress, exit codes. Does
not know how anything is computed.

Standard output carries what was asked for (a plan, a model's facts, JSON), standard error all that
is said on the way (progress, notes, errors), so that either can be piped by itself.

Nothing heavy is imported before a command needs it: ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Self

import typer
from typer.core import TyperCommand

from seamscope import __version__
from seamscope.errors import (
    ModelError,
    OutputError,
    SeamscopeError,
    SettingsError,
    TrustError,
)
from seamscope.progress import Display, duration, open_display

if TYPE_CHECKING:
    from seamscope.images import Image, Output
    from seamscope.inference import Event, LateOutput
    from seamscope.model import Model
    from seamscope.plan import Plan


class ExitCode:
    """What the shell is told."""

    DONE = 0
    REFUSED = 1
    USAGE = 2  # as click has it
    TRUST = 3
    BUG = 70  # EX_SOFTWARE of sysexits.h
    INTERRUPTED = 130  # 128 + SIGINT


_EXIT_CODES = """Exit codes:
0 done
1 refused or failed: one sentence says why and what to do
2 the command line cannot be read
3 the model would run code: look at what, then add --trust
70 a bug of Seamscope: --debug shows where
130 stopped by Ctrl-C: what was done is kept and marked as unfinished"""


# ------------------------------------------------------------------------------------ vocabulary
#
# Written out, since importing it from the engine would import torch; a test compares them.


Blend = StrEnum("Blend", ["crop", "linear", "gaussian", "distance"])
Precision = StrEnum("Precision", ["float32", "bfloat16", "float16"])
Normalize = StrEnum("Normalize", ["auto", "zscore", "minmax", "percentile", "none"])
Result = StrEnum("Result", ["probabilities", "labels"])
Border = StrEnum("Border", ["reflect", "zeros"])


def _bad(text: str, rule: str) -> NoReturn:
    raise typer.BadParameter(f"{text!r}: {rule}")


def _sizes(text: str) -> int | tuple[int, ...]:
    """Read ``N`` or ``N,N``."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        _bad(text, "write one whole number, or one for each axis as in 64,256,256.")
    return numbers[0] if len(numbers) == 1 else numbers


def _tile(text: str) -> str | int | tuple[int, ...]:
    """Read ``auto``, ``N`` or ``N,N``."""
    return "auto" if text == "auto" else _sizes(text)


def _halo(text: str) -> Any:
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


def _percentiles(text: str) -> tuple[float, float]:
    """Read ``LOW,HIGH``."""
    with contextlib.suppress(ValueError):
        low, high = (float(part) for part in text.split(","))
        if 0 <= low < high <= 100:
            return low, high
    _bad(text, "write two percentages with 0 <= low < high <= 100, as in 1,99.8.")


def _area(text: str) -> dict[str, tuple[int, int]]:
    """Read ``y=0:512,x=100:300,t=3``."""
    return dict(_range(part, text) for part in text.split(","))


def _range(part: str, text: str) -> tuple[str, tuple[int, int]]:
    match = re.fullmatch(r"\s*([tczyx])=(\d+)(?::(\d+))?\s*", part)
    if match is None:
        _bad(text, "write AXIS=START:STOP in pixels, or AXIS=INDEX, as in y=0:512,x=100:300,t=3.")
    axis, start, stop = match.groups()
    return axis, (int(start), int(start) + 1 if stop is None else int(stop))


def _memory(text: str) -> int:
    """Read ``4GB``, ``500 MiB``, ``4e9``; returns bytes."""
    match = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    with contextlib.suppress(ValueError):
        if match:
            base = 1024 if match[3] else 1000
            size = int(float(match[1]) * base ** " kmgt".index(match[2] or " "))
            if size > 0:
                return size
    _bad(text, "write an amount of memory, as in 4GB or 500MB.")


# ------------------------------------------------------------------------------------ the command


class _Command(TyperCommand):
    """A command whose failures are sentences and exit codes, never tracebacks."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            _say("Stopped.")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BaseException as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            sentence, code = _explained(error)
            _say(sentence)
            raise typer.Exit(code) from error


def _explained(error: BaseException) -> tuple[str, int]:
    """Sentence and exit code for whatever ended a command."""
    if isinstance(error, SystemExit):  # somebody's factory
        error = ModelError("The model's code ended the program (SystemExit): it cannot be used.")
    if isinstance(error, TrustError):
        runs = "\n".join(f"  - {line}" for line in error.would_run)
        advice = "If you trust where it comes from, add --trust."
        return f"Loading {error.source} would run code:\n{runs}\n{advice}", ExitCode.TRUST
    if isinstance(error, SeamscopeError):
        return f"Error: {error}", ExitCode.REFUSED
    if isinstance(error, MemoryError):
        told = "Error: Memory ran out: use a smaller --tile or --memory, or write to .zarr."
        return told, ExitCode.REFUSED
    told = (
        f"This is a bug in Seamscope ({type(error).__name__}: {_first_line(error)}): please report "
        "it with what --debug shows."
    )
    return told, ExitCode.BUG


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)


app = typer.Typer(
    name="seamscope",
    help="Tile-by-tile prediction of large microscopy images without seams.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command ``seamscope``."""
    app(prog_name="seamscope")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seamscope {__version__}")
        raise typer.Exit


@app.callback()
def _seamscope(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def _option(panel: str, help: str, metavar: str | None = None, parser: Any = None) -> Any:
    """Describe an option that is named like its parameter."""
    return typer.Option(rich_help_panel=panel, help=help, metavar=metavar, parser=parser)


ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="demo:batchnorm, demo:instancenorm (and ...3d); a TorchScript file; or a Python "
        "factory and its weights, unet.py:UNet(depth=3)@weights.safetensors.",
    ),
]
Trust = Annotated[bool, typer.Option("--trust", help="Let code that comes with the model run.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Json = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE", help="Write everything as JSON (- for standard output)."
    ),
]


# ---------------------------------------------------------------------------------------- predict


@app.command(cls=_Command, epilog=_EXIT_CODES)
def predict(
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE",
            help="TIFF, PNG, JPEG, npy, zarr or OME-Zarr; or demo:tissue2d, demo:tissue3d.",
        ),
    ],
    model: ModelName,
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            help="Its ending says what to write: .ome.zarr, .zarr, .tif, .ome.tif, .npy, .png.",
        ),
    ],
    tile: Annotated[
        Any,
        _option(
            "Tiles",
            "Pixels of a tile; auto takes the least computation that fits the memory.",
            "auto|N|N,N",
            _tile,
        ),
    ] = "auto",
    halo: Annotated[
        Any,
        _option(
            "Tiles",
            "Pixels not believed at inner borders (B before and A after); auto is the network's "
            "reach as measured.",
            "auto|N|N,N|B/A,B/A",
            _halo,
        ),
    ] = "auto",
    overlap: Annotated[
        Any,
        _option(
            "Tiles",
            "Pixels that neighbours share at least; by default what halo and blend need.",
            "N|N,N",
            _sizes,
        ),
    ] = None,
    blend: Annotated[Blend, _option("Tiles", "How neighbours are joined.")] = Blend.crop,
    border: Annotated[
        Border, _option("Tiles", "How the image goes on beyond its end, where it must.")
    ] = Border.reflect,
    normalize: Annotated[
        Normalize,
        _option("Image", "Of the whole image's intensities; auto is what the model asks for."),
    ] = Normalize.auto,
    percentiles: Annotated[
        Any, _option("Image", "For --normalize percentile.", "LOW,HIGH", _percentiles)
    ] = "1,99.8",
    area: Annotated[
        Any,
        _option(
            "Image",
            "Predict this part alone, in pixels; other axes too: t=3, z=10:20.",
            "y=0:512,x=100:300",
            _area,
        ),
    ] = None,
    axes: Annotated[
        str | None,
        _option(
            "Image",
            "A letter for each of the image's axes, where its file does not say or is wrong.",
            "tczyx",
        ),
    ] = None,
    channel: Annotated[int | None, _option("Image", "Use this one, from 0.", "N")] = None,
    channel_axis: Annotated[
        str, _option("Image", "Axis that becomes the network's channels.", "AXIS")
    ] = "c",
    fill_nan: Annotated[
        float | None,
        _option("Image", "Use this for pixels that are not finite; else refused.", "VALUE"),
    ] = None,
    result: Annotated[
        Result, _option("Result", "What the network gives, or the number of the class.")
    ] = Result.probabilities,
    threshold: Annotated[float, _option("Result", "For labels of a single channel.")] = 0.5,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", rich_help_panel="Result", help="Replace OUT if it exists."),
    ] = False,
    batch: Annotated[int, _option("Computation", "Tiles per forward pass.", "N")] = 1,
    device: Annotated[
        str, _option("Computation", "auto, cpu, cuda, cuda:1 or mps.", "DEVICE")
    ] = "auto",
    precision: Annotated[
        Precision, _option("Computation", "Floating point type of the computation.")
    ] = Precision.float32,
    memory: Annotated[
        Any,
        _option(
            "Computation",
            "What one batch may use; by default a share of what is free.",
            "4GB",
            _memory,
        ),
    ] = None,
    accelerate: Annotated[
        bool, _option("Computation", "Try faster equivalents of the network on the first tile.")
    ] = True,
    trust: Trust = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and what it costs, and stop.")
    ] = False,
    json_file: Json = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing unless something is wrong.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Predict IMAGE with MODEL tile by tile, and write the result to OUT."""
    from seamscope.process_memory import keep_freed_memory

    keep_freed_memory()  # before torch starts threads
    report = _Report(json_file, quiet, forbidden=(image, model, out))
    with open_display(quiet) as display:
        display.phase("Loading")
        from seamscope.images import open_image
        from seamscope.inference import prepare
        from seamscope.loaders import load_model
        from seamscope.plan import Settings

        settings = Settings(
            tile=tile,
            halo=halo,
            overlap=overlap,
            blend=blend.value,  # type: ignore[arg-type]
            batch=batch,
            device=device,
            precision=precision.value,  # type: ignore[arg-type]
            normalize=normalize.value,  # type: ignore[arg-type]
            percentiles=percentiles,
            result=result.value,  # type: ignore[arg-type]
            threshold=threshold,
            area=area,
            border=border.value,  # type: ignore[arg-type]
            channel_axis=channel_axis,
            channel=channel,
            fill_nan=fill_nan,
            accelerate=accelerate,
            memory=memory,
        )
        pixels = open_image(image, axes=axes)
        network = load_model(model, trust=trust)
        display.phase("Measuring the network")
        plan = prepare(settings, network, pixels)
        for note in (*pixels.notes, *plan.notes):
            display.note(note)
        run = _Run(plan, network, pixels, out)
        if dry_run:
            display.phase("Timing one tile")
            figures = _expected(run)
        else:
            run.carry_out(overwrite, display)
            figures = run.figures
    told = {**run.record(), "dry_run": dry_run, "figures": figures}
    if dry_run:
        report.write(told, _plan_text(run, figures))
    elif run.finished:
        report.write(told, run.outcome())
    else:
        report.write(told)
        _say(run.outcome())
        raise typer.Exit(ExitCode.INTERRUPTED)


class _Run:
    """One prediction, from its plan to what is said about it.

    Attributes
    ----------
    plan
        As it is now: running out of memory changes it.
    done, total
        Tiles.
    finished
        Whether the result is whole.
    figures
        Of a finished run.
    """

    def __init__(self, plan: Plan, model: Model, image: Image, out: str) -> None:
        self.plan = plan
        self.model = model
        self.image = image
        self.out = out
        self.done = 0
        self.total = plan.tiles * plan.frames
        self.finished = False
        self.figures: dict[str, Any] = {}

    def carry_out(self, overwrite: bool, display: Display) -> None:
        """Predict all tiles; Ctrl-C ends it after the tile at hand."""
        from seamscope.inference import LateOutput, open_output

        def opened() -> Output:
            return open_output(self.plan, self.image, self.model, self.out, overwrite=overwrite)

        with LateOutput(opened) as output, _Interrupts(display) as interrupts:
            if not overwrite:
                output()  # what is wrong with the place is told before anything is measured
            try:
                self._drain(output, display, interrupts)
            except BaseException:
                if self.done:
                    display.tell(self.outcome())
                raise

    def _drain(self, output: LateOutput, display: Display, interrupts: _Interrupts) -> None:
        from seamscope.inference import run

        events: Any = run(  # a generator, to be closed
            self.plan,
            self.model,
            self.image,
            output,
            cancelled=lambda: interrupts.asked,
            measuring=display.part,
        )
        with contextlib.closing(events):
            for event in events:
                self._note(event, display, interrupts)

    def _note(self, event: Event, display: Display, interrupts: _Interrupts) -> None:
        from seamscope.inference import Finished, Preparing, Reduced, Started, TileDone

        match event:
            case TileDone():
                self.done = event.done
                display.tile(event)
            case Preparing():
                display.phase(event.what.capitalize())
            case Started():
                interrupts.gently = True
                self.total = event.tiles * event.frames
                display.start(self.total)
            case Reduced():
                interrupts.gently = False
                self.plan = event.plan
                display.note(event.reason)
            case Finished():
                self.finished = True
                self.figures = event.figures

    def record(self) -> dict[str, Any]:
        """Everything about this run, as plain values."""
        from seamscope.inference import record

        plan = self.plan
        return {
            "seamscope": __version__,
            "finished": self.finished,
            "tiles_done": self.done,
            "output": {
                "path": self.out,
                "axes": plan.out_axes,
                "shape": list(plan.out_shape),
                "dtype": str(plan.out_dtype),
            },
            **record(plan, self.model, self.image),
        }

    def outcome(self) -> str:
        """One sentence on what became of it."""
        if self.finished:
            seconds = self.figures["seconds"]
            return (
                f"{self.out}: {_shape(self.plan.out_shape, self.plan.out_axes)}, {self.total} "
                f"tile{'s' * (self.total != 1)} in {duration(seconds)}."
            )
        if not self.done:
            return "Stopped before the first tile: nothing was written."
        return (
            f"Stopped after {self.done} of {self.total} tiles: {self.out} holds what was done and "
            "is marked as unfinished."
        )


class _Interrupts:
    """Ctrl-C asks for an end after the tile at hand; a second one, or before tiles, ends at once.

    Attributes
    ----------
    asked
        Whether an end was asked for.
    gently
        Whether tiles are being written, so that an end at once would tear one.
    """

    def __init__(self, display: Display) -> None:
        self.asked = False
        self.gently = False
        self._display = display
        self._before: Any = None

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self.gently:
            raise KeyboardInterrupt
        self.asked = True
        self._display.stopping()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def _expected(run: _Run) -> dict[str, Any]:
    """Time of the whole run judged by one tile, or why there is none."""
    from seamscope.inference import time_one_tile

    try:
        seconds = time_one_tile(run.plan, run.model, run.image)
    except SeamscopeError:
        raise
    except Exception as error:  # whatever somebody's network raises, for one: too large a tile
        return {"seconds_expected": None, "failure": _first_line(error)}
    return {"seconds_expected": round(seconds * run.total, 3)}


# ---------------------------------------------------------------------------------------- answers


def _amount(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _shape(shape: Sequence[int], axes: str | None = None) -> str:
    text = " x ".join(map(str, shape))
    return f"{text} ({axes})" if axes else text


def _columns(rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows)


class _Report:
    """The answer to a command: text, and JSON where asked for.

    The place of the JSON is checked at once, since hours may pass before it is written.
    """

    def __init__(
        self, json_file: str | None, quiet: bool = False, forbidden: Iterable[str] = ()
    ) -> None:
        self._file = None if json_file in (None, "-") else Path(str(json_file)).expanduser()
        self._to_stdout = json_file == "-"
        self._quiet = quiet or self._to_stdout
        if self._file is not None:
            self._check(self._file, forbidden)

    def _check(self, file: Path, forbidden: Iterable[str]) -> None:
        if file.is_dir() or not file.parent.is_dir():
            raise OutputError(
                f"--json {file} is no place for a file: name one in a folder there is."
            )
        place = file if file.exists() else file.parent
        if not os.access(place, os.W_OK):
            raise OutputError(f"--json {file} may not be written: choose another place.")
        for name in forbidden:
            # a model's weights stand behind @; a result's own record beside it
            taken = (name, name.rpartition("@")[2], f"{name}.json")
            if file.resolve() in [Path(each).expanduser().resolve() for each in taken]:
                raise OutputError(
                    f"--json {file} would overwrite what belongs to {name}: choose another name."
                )

    def write(self, content: Mapping[str, Any], text: str = "") -> None:
        """Give the answer."""
        if text and not self._quiet:
            typer.echo(text)
        told = json.dumps(content, indent=1, ensure_ascii=False, default=str)
        if self._to_stdout:
            typer.echo(told)
        if self._file is not None:
            try:
                self._file.write_text(told + "\n", encoding="utf-8")
            except OSError as error:
                raise OutputError(
                    f"--json {self._file} cannot be written ({error.strerror}): choose another "
                    "place. The result itself is complete."
                ) from error


def _plan_text(run: _Run, figures: Mapping[str, Any]) -> str:
    plan, settings, seconds = run.plan, run.plan.settings, figures["seconds_expected"]
    size = math.prod(plan.out_shape) * plan.out_dtype.itemsize
    counts = _shape(plan.grid.shape)
    frames = f" in each of {plan.frames} frames" if plan.frames > 1 else ""
    halo = "" if len(plan.grid) == 1 else f", halo {_sides_text(plan.grid.halo)}, {settings.blend}"
    rows = [
        ("image", f"{run.image.name}, {_shape(plan.image_shape, plan.layout.axes)}"),
        ("model", f"{run.model.name}: {plan.facts}"),
        ("result", f"{run.out}, {_shape(plan.out_shape, plan.out_axes)}, {plan.out_dtype}, "
                   f"{_amount(size)} uncompressed"),
        ("tile", f"{_shape(plan.grid.tile_shape)}, stride {_shape(plan.grid.stride)}{halo}"),
        ("tiles", f"{plan.tiles}{frames} (whole grid {counts})"),
        ("computed", f"{plan.redundancy:.2f} pixels for each one kept"),
        ("intensities", settings.normalize),
        ("device", f"{settings.device}, {settings.precision}, batch {settings.batch}"),
        ("memory", f"about {_amount(plan.bytes_per_tile)} for a forward pass"),
        ("time", f"unknown, one tile failed: {figures['failure']}" if seconds is None
                 else f"about {duration(seconds)} or less, judged by one tile"),
    ]  # fmt: skip
    return _columns(rows)


def _sides_text(sides: Sequence[tuple[int, int]]) -> str:
    each = [str(a) if a == b else f"{a}/{b}" for a, b in sides]
    return each[0] if len(set(each)) == 1 else ",".join(each)


# ------------------------------------------------------------------------------------------- info


@app.command(cls=_Command, epilog=_EXIT_CODES)
def info(
    model: ModelName,
    trust: Trust = False,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Show what was measured of MODEL: axes, period, reach, and the tiles that suit it."""
    report = _Report(json_file, forbidden=(model,))
    with open_display(quiet=json_file == "-" or not sys.stderr.isatty()) as display:
        display.phase("Loading")
        from seamscope.loaders import load_model

        network = load_model(model, trust=trust)
        display.phase("Measuring the network")
        told = model_facts(network)
    report.write(told, _facts_text(told))


def model_facts(model: Model) -> dict[str, Any]:
    """Return everything that is known of a network, as plain values.

    Parameters
    ----------
    model
        Measured here, if it was not yet.
    """
    facts, reach = model.facts, model.reach
    return {
        "seamscope": __version__,
        "name": model.name,
        "spec": model.spec,
        "fingerprint": model.fingerprint,
        "sentence": model.describe(),
        "facts": str(facts),
        "spatial_axes": facts.spatial_axes,
        "in_channels": facts.in_channels,
        "any_channels": facts.any_channels,
        "out_channels": facts.out_channels,
        "channels": list(model.channels),
        "normalize": model.normalize,
        "period": list(facts.period),
        "period_found": facts.period_found,
        "tile_step": [axis.increment for axis in facts.lattice],
        "tile_offset": [axis.offset % axis.increment for axis in facts.lattice],
        "tile_fixed": [axis.fixed for axis in facts.lattice],
        "crop": [list(axis.crop) for axis in facts.lattice],
        "scale": [float(scale) for scale in facts.scale],
        "halo": _listed(reach.halo),
        "convolutional": _listed(reach.convolutional),
        "bounded": reach.bounded,
        "swallows_nan": reach.swallows_nan,
        "statistics": {
            "count": len(facts.statistics),
            "layers": [{"kind": c.kind, "channels": c.channels} for c in facts.statistics],
        },
        "bytes_per_pixel": round(facts.bytes_per_pixel, 1),
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "tiles": list(_suggested(model)),
    }


def _listed(sides: Sequence[tuple[int, int]] | None) -> list[list[int]] | None:
    return None if sides is None else [list(side) for side in sides]


_LARGE = {1: (1 << 20,), 2: (16384, 16384), 3: (512, 4096, 4096)}
_TRIED = {1: (1024, 4096, 16384), 2: (128, 256, 512, 1024, 2048), 3: (32, 64, 96, 128, 192, 256)}


def _suggested(model: Model) -> Iterator[dict[str, Any]]:
    """Tile sizes of about the usual ones, and what each costs on a large image."""
    from seamscope.plan import Settings, available_memory, resolve

    facts = model.facts
    image = _large_image(facts.in_channels, facts.spatial_axes)
    budget = available_memory("cpu")
    tried = {
        tuple(axis.size_at_least(size) for axis in facts.lattice)
        for size in _TRIED[facts.spatial_axes]
    }
    for tile in sorted(tried):
        settings = Settings(tile=tile, device="cpu", normalize="none")
        with contextlib.suppress(SettingsError):  # too small for the halo
            plan = resolve(settings, model, image)
            if plan.bytes_per_tile <= budget:
                yield {
                    "tile": list(tile),
                    "bytes": plan.bytes_per_tile,
                    "redundancy": round(_inner_redundancy(plan), 3),
                }


def _inner_redundancy(plan: Plan) -> float:
    """Pixels computed for each one kept far from the image's border, whatever its size."""
    return math.prod(t / s for t, s in zip(plan.grid.tile_shape, plan.grid.stride, strict=True))


def _large_image(channels: int, spatial_axes: int) -> Image:
    """An image of many pixels that takes no memory: plans only ask for its shape."""
    import numpy as np

    from seamscope.images import open_image

    shape = (channels, *_LARGE[spatial_axes])
    return open_image(np.broadcast_to(np.uint8(0), shape), axes="c" + "zyx"[-spatial_axes:])


def _facts_text(told: Mapping[str, Any]) -> str:
    fixed = [size for size in told["tile_fixed"] if size]
    sizes = f"only {_shape(told['tile_fixed'])}" if fixed else (
        f"multiples of {_same(told['tile_step'])}"
        + (f" plus {_same(told['tile_offset'])}" if any(told["tile_offset"]) else "")
    )  # fmt: skip
    rows = [
        ("channels", ", ".join(told["channels"])),
        ("intensities", told["normalize"] or "as they are (the model does not say)"),
        ("tile sizes", sizes),
        ("memory", f"about {_amount(told['bytes_per_pixel'])} for each pixel of a tile"),
        ("weights", f"{told['parameters']:,} parameters, fingerprint {told['fingerprint']}"),
    ]
    name = told["name"] if told["spec"] is None else told["spec"]
    parts = [f"{name}: {told['facts']}\n{told['sentence']}", _columns(rows)]
    if told["swallows_nan"]:
        parts.append("It swallows NaN, so that its reach was measured with large values too.")
    if told["tiles"]:
        parts.append(_tiles_text(told["tiles"]))
    return "\n\n".join(parts)


def _same(values: Sequence[Any]) -> str:
    return str(values[0]) if len(set(values)) == 1 else _shape(values)


def _tiles_text(tiles: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{'tile':<20}{'memory':<12}computed for each pixel kept"]
    for each in tiles:
        size = _amount(each["bytes"])
        lines.append(f"{_shape(each['tile']):<20}{size:<12}{each['redundancy']:.2f}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------- demo


@app.command(cls=_Command, epilog=_EXIT_CODES)
def demo(
    headless: Annotated[
        bool, typer.Option("--headless", help="Run by itself without being seen, and end.")
    ] = False,
    screenshot: Annotated[
        Path | None,
        typer.Option("--screenshot", metavar="FILE", show_default=False, help="Save a PNG here."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Open napari with a sample image, a demo model and the tile grid; press Run there."""
    _check_napari()
    if headless and screenshot is None:
        screenshot = Path("seamscope-demo.screenshot.png")
    if screenshot is not None:
        _check_screenshot(screenshot)
    if _lacks_display():
        _under_xvfb(screenshot, debug)
    from seamscope.docks.demo import show_demo

    figures = show_demo(headless=headless, screenshot=screenshot)
    if not headless or screenshot is None:
        return
    if not screenshot.is_file():
        raise OutputError(f"The demo ran and left no screenshot at {screenshot}: try again.")
    typer.echo(_columns(_demo_rows(screenshot, figures)))


def _demo_rows(screenshot: Path, figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "screenshot", str(screenshot.resolve())
    for name, value in figures.items():
        if name != "screenshot":
            yield name.replace("_", " "), f"{value:g}" if isinstance(value, float) else str(value)


def _check_napari() -> None:
    missing = [name for name in ("napari", "qtpy") if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f'The demo needs {" and ".join(missing)}: install with pip install "seamscope[all]".'
        )


def _check_screenshot(file: Path) -> None:
    if file.suffix.lower() != ".png" or not file.parent.is_dir() or file.is_dir():
        raise OutputError(f"--screenshot {file}: name a .png file in a folder that exists.")


def _lacks_display() -> bool:
    return sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def _under_xvfb(screenshot: Path | None, debug: bool) -> NoReturn:
    """Become the same command under a display in memory."""
    xvfb = shutil.which("xvfb-run")
    if xvfb is None or shutil.which("Xvfb") is None:
        raise SettingsError(
            "There is no display, and no xvfb-run to make one: install it (Debian and Ubuntu: apt "
            "install xvfb xauth), or run this where there is a display."
        )
    if screenshot is None:
        screenshot = Path("seamscope-demo.screenshot.png")
    command = [xvfb, "-a", "-s", "-screen 0 1600x1000x24"]
    command += [sys.executable, "-m", "seamscope", "demo", "--headless"]
    command += ["--screenshot", str(screenshot), *(["--debug"] * debug)]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(xvfb, command)


__all__ = ["ExitCode", "app", "main", "model_facts"]
