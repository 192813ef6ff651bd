"""``seamscope predict``: an image, tile by tile, into a file.

Knows what is said before, during and after a prediction. Does not know how anything is computed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamscope.cli.answer import Answer, columns, made_by
from seamscope.cli.command import ExitCode, Overwrite, command, first_line, say
from seamscope.cli.options import (
    Blend,
    BlendChoice,
    ComputationOptions,
    GivenGrid,
    GridOptions,
    ImageName,
    ImageOptions,
    ModelName,
    ModelOptions,
    OmeZarrOptions,
    Postprocess,
    Result,
    Resume,
    Seams,
    Tile,
    WorkerOptions,
    setting,
    settings_of,
)
from seamscope.cli.protocols import ProtocolFile, SaveProtocol
from seamscope.errors import SeamscopeError, SettingsError
from seamscope.images.addresses import is_address
from seamscope.text import bytes_text, duration_text, halo_text, shape_text

if TYPE_CHECKING:
    from seamscope.images.image import Image
    from seamscope.images.plates import Plate
    from seamscope.images.results.output import Output
    from seamscope.models.model import Model
    from seamscope.planning.case import Case
    from seamscope.planning.plan import Plan
    from seamscope.prediction.run import Event
    from seamscope.progress import Work
    from seamscope.settings import Settings


@command
def predict(
    image: ImageName,
    model: ModelName,
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            show_default=False,
            help="Its ending says what to write: .ome.zarr, .zarr, .tif, .ome.tif, .npy, .png.",
        ),
    ],
    *,
    tile: Tile = "auto",
    grid: GridOptions,
    tiles_file: GivenGrid = None,
    blend: BlendChoice = Blend.crop,
    pixels: ImageOptions,
    result: Annotated[Result, setting("Result", "result")] = Result.probabilities,
    threshold: Annotated[float, setting("Result", "threshold")] = 0.5,
    background: Annotated[int | None, setting("Result", "background", "CHANNEL")] = None,
    seams: Annotated[Seams, setting("Result", "seams")] = Seams.auto,
    postprocess: Postprocess = True,
    overwrite: Overwrite = False,
    resume: Resume = False,
    written: OmeZarrOptions,
    computation: ComputationOptions,
    sharing: WorkerOptions,
    loading: ModelOptions,
    protocol: ProtocolFile = None,
    save_protocol: SaveProtocol = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and what it costs, and stop.")
    ] = False,
    answer: Answer,
) -> None:
    """Predict IMAGE with MODEL tile by tile, and write the result to OUT.

    All fields of an OME-Zarr plate are predicted into a new plate, unless --series chooses one.
    """
    with answer.work() as work:
        from seamscope.images.results.create import check_target
        from seamscope.prediction.folders import is_done
        from seamscope.prediction.run import begin

        settings = settings_of(
            grid,
            pixels,
            computation,
            tile=tile,
            blend=blend,
            result=result,
            threshold=threshold,
            background=background,
            seams=seams,
            postprocess=postprocess,
        )
        ome = written.of(out)
        if pixels.series is None and not dry_run:
            from seamscope.images.plates import plate_at

            plate = plate_at(image)
            if plate is not None and plate.fields:
                of_one = {
                    "--workers": sharing.workers, "--scheduler": sharing.scheduler,
                    "--grid": tiles_file, "--save-protocol": save_protocol,
                }  # fmt: skip
                for option, value in of_one.items():
                    if value is not None:
                        raise SettingsError(
                            f"{option} is for one image, and the fields of a plate are predicted "
                            f"one after another by this process: leave {option} out, or choose "
                            "one field (--series A/1/0)."
                        )
                how = {"overwrite": overwrite, "resume": resume, "ome": ome, "work": work}
                _whole_plate(
                    plate, loading.load(model, work, tile), out, settings, pixels, answer, how
                )
                return
        opened = pixels.open(image, work.note)
        there = resume and not dry_run and is_done(out)
        if not dry_run and (overwrite or not there):
            check_target(
                out,
                overwrite=overwrite,
                source=opened,
                labels=settings.result == "labels",
                resume=resume,
            )
        network = loading.load(model, work, tile)
        if there and _is_done_before(opened, network, settings, out, tiles_file, overwrite):
            before = _answer_of(out)
            known = answer.check(before["task"], overwrite=overwrite)
            answer.skip(before, f"{out} is done already.", there=known)
            return
        work.phase("Measuring the network")
        resources = None
        if sharing.on is not None:
            from seamscope.execution.run import check_shared, resources_on

            if not dry_run:
                check_shared(opened, network, out, sharing.on)
            resources = resources_on(sharing.on, settings.device, work)
        case, task = begin(
            opened, network, settings, out, resume=resume, grid=tiles_file, resources=resources
        )
        if resume and not dry_run:
            answer.check(_made_by_predict(task), overwrite=overwrite)
        for note in case.plan.notes:
            work.note(note)
        run = _Run(case, out, sharing.on, trust=loading.trust)
        run.save_protocol(save_protocol)
        if dry_run:
            work.phase("Timing one tile")
            figures = _expected(run)
        else:
            run.carry_out(work, overwrite=overwrite, task=task, resume=resume, ome=ome)
            figures = run.figures
            run.save_protocol(save_protocol)
    if run.finished:
        answer.write(_answer_of(out), run.outcome())
        return
    record = {**run.record(), "task": _made_by_predict(task)}
    record |= {"dry_run": dry_run, "figures": figures}
    if dry_run:
        answer.write(record, _plan_text(run, figures))
    else:
        answer.write(record)
        say(run.outcome())
        raise typer.Exit(ExitCode.INTERRUPTED)


def _whole_plate(
    plate: Plate,
    network: Model,
    out: str,
    settings: Settings,
    pixels: ImageOptions,
    answer: Answer,
    how: Mapping[str, Any],
) -> None:
    """Predict all fields of a plate; fields that fail make the command fail at its end."""
    from seamscope.prediction.plates import predict_plate

    done = predict_plate(plate, network, out, settings, **how, **pixels.choices())
    record = {"output": {"path": done.path}, "fields": list(done.fields), "failed": done.failed}
    answer.write({"finished": not done.failed, **record}, done.sentence)
    if done.failed:
        say(done.sentence)
        raise typer.Exit(ExitCode.REFUSED)


def _is_done_before(
    image: Image, network: Model, settings: Settings, out: str, grid: str | None, overwrite: bool
) -> bool:
    from seamscope.prediction.folders import done_before
    from seamscope.prediction.resuming import described, task_of

    task = task_of(described(image, network, settings, grid))
    return done_before(out, task, overwrite=overwrite)


def _made_by_predict(task: Mapping[str, Any]) -> dict[str, Any]:
    """What the answer depends on; a plan is as long as the rest, and follows from it."""
    return made_by("predict", {key: value for key, value in task.items() if key != "plan"})


def _answer_of(out: str) -> dict[str, Any]:
    """Return the answer of a run that made a whole result, out of what is noted with that."""
    from seamscope.planning.plan import Plan
    from seamscope.prediction.folders import record_at

    made = record_at(out) or {}
    plan = Plan.from_json(made["plan"])
    made = {key: value for key, value in made.items() if key not in _OF_THE_FILE}
    return {
        **made,
        "tiles_done": plan.tiles * plan.frames,
        "output": _written(plan, out),
        "task": _made_by_predict(made["task"]),
        "dry_run": False,
    }


_OF_THE_FILE = ("axes", "scale", "units", "origin")  # in the record of a result, not in the answer


def _written(plan: Plan, out: str) -> dict[str, Any]:
    """What is written where."""
    return {
        "path": out,
        "axes": plan.out_axes,
        "shape": list(plan.out_shape),
        "dtype": str(plan.out_dtype),
    }


class _Run:
    """One prediction, from its plan to what is said about it.

    Attributes
    ----------
    case, plan
        As they are now: running out of memory changes the plan.
    done, total
        Tiles.
    finished
        Whether the result is whole.
    figures
        Of a finished run.
    """

    def __init__(
        self, case: Case, out: str, on: int | str | None = None, *, trust: bool = False
    ) -> None:
        self._on, self._trust = on, trust
        self._unit = "tile"
        self.case = case
        self.plan = case.plan
        self.out = out
        self.done = 0
        self.total = self.plan.tiles * self.plan.frames
        self.finished = False
        self.figures: dict[str, Any] = {}

    def carry_out(self, work: Work, **how: Any) -> None:
        """Predict all tiles; Ctrl-C ends it after the current tile.

        Parameters
        ----------
        work
            Shows the progress, and stops it.
        how
            ``overwrite``, ``task``, ``resume`` and ``ome``, as for
            `seamscope.prediction.output.open_output`.
        """
        from seamscope.prediction.output import open_output

        with open_output(self.case, self.out, **how) as output:
            for note in output.notes:
                work.note(note)
            try:
                self._drain(output, work)
            except BaseException:
                if self.done:
                    work.warn(self.outcome())
                raise

    def _drain(self, output: Output, work: Work) -> None:
        from seamscope.execution.run import events_of

        events = events_of(self.case, output, self._on, trust=self._trust, work=work)
        with contextlib.closing(events):
            for event in events:
                self._note(event)

    def _note(self, event: Event) -> None:
        from seamscope.prediction.run import Finished, Reduced, Started, TileDone

        match event:
            case TileDone():
                self.done, self.total = event.done, event.total
                self._unit = event.unit.removesuffix("s")
            case Started():
                self.total = event.tiles * event.frames
            case Reduced():
                self.plan = event.plan
            case Finished():
                self.finished = True
                self.figures = event.figures

    def save_protocol(self, file: str | None) -> None:
        """Write what was chosen to a file, if one is named."""
        if file is not None:
            from seamscope.planning.protocol import Protocol

            Protocol.of(self.case.at(self.plan)).save(file)

    def record(self) -> dict[str, Any]:
        """Everything about this run, as plain values."""
        from seamscope.prediction.output import record

        plan = self.plan
        return {
            "finished": self.finished,
            f"{self._unit}s_done": self.done,
            "output": _written(plan, self.out),
            **record(self.case.at(plan)),
        }

    @property
    def _unfinished(self) -> str:
        """Where an unfinished result is; object stores have it in its place."""
        return self.out if is_address(self.out) else f"{self.out}.partial"

    def outcome(self) -> str:
        """A sentence or two on what became of it."""
        if self.finished:
            parts = f"{self.total} {self._unit}{'s' * (self.total != 1)}"
            summary = (
                f"{self.out}: {shape_text(self.plan.out_shape, self.plan.out_axes)}, {parts} in "
                f"{duration_text(self.figures['seconds'])}."
            )
            measured = self.figures.get("seams")
            return f"{summary}\n{measured['sentence']}" if measured else summary
        if not self.done:
            return f"Stopped before the first {self._unit}: nothing was written."
        kept = (
            f"{self._unfinished} holds what was done so far. It is unfinished. To continue it, run "
            "the same command with --resume."
        )
        if self.done == self.total:
            return f"Stopped after the last {self._unit}, before {self.out} was complete: {kept}"
        return f"Stopped after {self.done} of {self.total} {self._unit}s: {kept}"


def _expected(run: _Run) -> dict[str, Any]:
    """Time of the whole run judged by one tile, or why there is none."""
    from seamscope.models.runner import is_here
    from seamscope.planning.tuning import time_one_tile

    if not is_here(run.plan.settings.device):
        return {"seconds_expected": None, "failure": "only the workers have its device"}
    try:
        seconds = time_one_tile(run.case)
    except SeamscopeError:
        raise
    except Exception as error:  # anything a network may raise, such as for a tile that is too large
        return {"seconds_expected": None, "failure": first_line(error)}
    return {"seconds_expected": round(seconds * run.total, 3)}


def _plan_text(run: _Run, figures: Mapping[str, Any]) -> str:
    plan, settings, seconds = run.plan, run.plan.settings, figures["seconds_expected"]
    size = math.prod(plan.out_shape) * plan.out_dtype.itemsize
    counts = shape_text(plan.grid.shape)
    frames = f" in each of {plan.frames} frames" if plan.frames > 1 else ""
    halo = "" if len(plan.grid) == 1 else f", halo {halo_text(plan.grid.halo)}, {settings.blend}"
    rows = [
        ("image", f"{run.case.image.name}, {shape_text(plan.image_shape, plan.layout.axes)}"),
        ("model", f"{run.case.model.name}: {plan.facts}"),
        ("result", f"{run.out}, {shape_text(plan.out_shape, plan.out_axes)}, {plan.out_dtype}, "
                   f"{bytes_text(size)} uncompressed"),
        ("tile", f"{shape_text(plan.grid.tile_shape)}, stride {shape_text(plan.grid.stride)}"
                 f"{halo}"),
        ("tiles", f"{plan.tiles}{frames} (whole grid {counts})"),
        ("computed", f"{plan.redundancy:.2f} pixels for each one kept"),
        ("intensities", settings.normalize),
        ("device", f"{settings.device}, {settings.precision}, batch {settings.batch}"),
        ("memory", f"about {bytes_text(plan.peak_bytes())} at most, of which "
                   f"{bytes_text(plan.bytes_per_tile)} for a forward pass"),
        ("time", f"unknown, one tile failed: {figures['failure']}" if seconds is None
                 else f"about {duration_text(seconds)} or less, judged by one tile"),
    ]  # fmt: skip
    return columns(rows)
