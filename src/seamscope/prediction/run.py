"""Carry out a plan: read, predict, stitch and write tiles.

Knows the order of things. Does not know windows, command lines or file formats.

::

    image --read--> batch --network--> predictions --canvas--> final blocks --write--> output

The loop to read aloud: *for each tile's prediction: let the watchers see it, add it to the canvas,
write what became final, report it.* Everything is a generator; to cancel is to stop pulling and
close.

Memory is bounded by tiles: one batch is predicted while the next is read, and a canvas holds at
most one band of blended rows.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import nn

from seamscope.errors import ImageError, SettingsError
from seamscope.images.image import open_image
from seamscope.images.intensity import Intensity
from seamscope.images.ngff import OmeZarr
from seamscope.images.postprocessing import change_result, measure_result
from seamscope.images.preparation import Prepared
from seamscope.images.results.create import check_target, unfinished
from seamscope.images.results.output import Output
from seamscope.ledger import Ledger
from seamscope.models.model import Model
from seamscope.models.runner import Runner, check_device, is_here
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.protocol import protocol_of
from seamscope.planning.reading import TileJob, TileReader, jobs_of
from seamscope.planning.resources import Resources
from seamscope.planning.tuning import (
    OutOfMemory,
    TileRefusedError,
    accelerate,
    known_way,
    prepare,
    smaller,
    worth_a_trial,
)
from seamscope.prediction.output import open_output
from seamscope.prediction.resuming import (
    POSTPROCESSING,
    Left,
    blocks_of,
    changing_all,
    check_written,
    continued,
    keep_intensity,
    same_threads,
    same_way,
    task_of,
    task_with,
)
from seamscope.prediction.stitcher import Stitcher, find_not_finite
from seamscope.prediction.tile_predictions import predict_tiles
from seamscope.progress import QUIET, Steps, Work
from seamscope.seams.meter import SeamMeter
from seamscope.seams.report import SAMPLED_SHARE, SeamReport, sampled_tiles
from seamscope.serialization import plain
from seamscope.settings import Settings
from seamscope.stitching import Array
from seamscope.text import shape_text
from seamscope.tiling import Slices, Tile

Watcher: TypeAlias = Callable[[Plan, tuple[int, ...], Tile, Array], None]
MakeMeter: TypeAlias = Callable[[Plan], SeamMeter]


# -- events


@dataclass(frozen=True)
class Started:
    """The first tile is about to be predicted.

    Attributes
    ----------
    plan
        What is predicted.
    tiles, frames
        Of a frame, or blocks; frames.
    before
        How many of all of them earlier runs have done.
    """

    plan: Plan
    tiles: int
    frames: int
    before: int = 0


@dataclass(frozen=True)
class TileDone:
    """A tile was predicted.

    Attributes
    ----------
    region
        What became final in the output, one slice per axis of it; empty when nothing did.
    done, total
        Tiles predicted, and to predict in all.
    seconds
        Since the first tile began.
    """

    region: Slices
    done: int
    total: int
    seconds: float
    unit = "tiles"


@dataclass(frozen=True)
class Reduced:
    """Memory ran out: the run continues with a smaller batch, or restarts with smaller tiles."""

    plan: Plan
    reason: str


@dataclass(frozen=True)
class Finished:
    """Everything is written.

    Attributes
    ----------
    seconds
        From the first tile's start.
    figures
        What belongs into a record of the run.
    seams
        How neighbouring tiles disagreed; None where nothing was measured.
    warning
        A sentence on what was left out; empty where nothing was.
    """

    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)
    seams: SeamReport | None = field(default=None, repr=False)
    warning: str = ""


Event: TypeAlias = Started | TileDone | Reduced | Finished


# -- the public face


def predict(
    image: Any,
    model: str | nn.Module | Model | None = None,
    out: Any = None,
    settings: Settings | None = None,
    *,
    trust: bool = False,
    axes: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    ome: OmeZarr = OmeZarr(),  # noqa: B008  (frozen)
    on: Any = None,
    grid: Any = None,
    work: Work = QUIET,
    **asked: Any,
) -> Any:
    """Predict an image tile by tile.

    Parameters
    ----------
    image
        Array-like (numpy, dask, zarr), path, or `Image`; never loaded whole unless it is in memory.
    model
        Module, loaded model, or a string as for `load_model`.
    out
        None for an array in memory, an array to fill, or a path (zarr, OME-Zarr, TIFF, npy, PNG).
    settings
        The settings; single ones may be given by name instead, ``tile=256, halo=32``.
    trust
        Whether code that comes with the model's file may run.
    axes
        One letter of ``tczyx`` for each of the image's axes, where its file does not say.
    overwrite
        Whether an existing file may be replaced.
    resume
        Whether to continue the unfinished result of an earlier, equal call that was interrupted;
        where there is none, the prediction begins. The result equals an uninterrupted one bit for
        bit.
    ome
        Version of OME-Zarr, and whether its lower resolutions are written.
    on
        Who computes: None for this process; a number of processes to start on this machine; or a
        cluster, by the address or file of its Dask scheduler, or a client of it. Image, network
        and `out` are then files that all workers see under the same name. A script that starts
        processes needs ``if __name__ == "__main__":`` around its own code.
    grid
        Tiles that another program planned: a file, or a list with a read window and a core for
        each (`seamscope.planning.given`). They are used as they are.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Returns
    -------
    array
        The filled output, ``(frames..., C', *spatial)``; the axis ``C'`` only where the result has
        several channels.

    Raises
    ------
    SeamscopeError
        One sentence with the value, the rule and the remedy. What was written stays.
    InterruptedError
        When stopped. What was written stays, and `resume` continues it.

    Examples
    --------
    >>> import numpy as np, torch, seamscope
    >>> image = np.arange(12.0).reshape(3, 4)
    >>> seamscope.predict(image, torch.nn.Identity()).shape
    (3, 4)
    """
    source = image.image if isinstance(image, Case) else open_image(image, axes=axes)
    wanted = settings or (image.settings if isinstance(image, Case) else Settings())
    wanted = wanted.but(**asked)
    check_target(
        out, overwrite=overwrite, source=source, labels=wanted.result == "labels", resume=resume
    )
    opened = image if isinstance(image, Case) else source
    from seamscope.execution.run import check_shared, events_of, resources_on  # a room above

    if on is not None:
        of_workers = resources_on(on, wanted.device, work)
        opened = Case.open(opened, model, wanted, trust=trust, resources=of_workers)
        check_shared(opened.image, opened.model, out, on)
    case, task = begin(opened, model, wanted, out, trust=trust, resume=resume, grid=grid)
    with open_output(case, out, overwrite=overwrite, task=task, resume=resume, ome=ome) as output:
        for note in output.notes:
            work.note(note)
        completed(events_of(case, output, on, trust=trust, work=work))
        return output.array


def begin(
    image: Any,
    model: str | nn.Module | Model | None,
    settings: Settings | None,
    target: Any,
    *,
    trust: bool = False,
    resume: bool = False,
    grid: Any = None,
    resources: Resources | None = None,
) -> tuple[Case, dict[str, Any]]:
    """Plan a prediction, or take up the plan of an unfinished one.

    Parameters
    ----------
    image, model, settings, trust, grid, resources
        As for `seamscope.planning.case.Case.open`.
    target
        Where the result goes.
    resume
        Whether an unfinished result at that place is continued.

    Returns
    -------
    case, task
        What to run, and its description for the ledger of the result.

    Raises
    ------
    OutputError
        When the unfinished result is of other work.
    """
    case = Case.open(image, model, settings, trust=trust, grid=grid, resources=resources)
    task = task_of(case)
    ledger = unfinished(target) if resume else None
    case = prepare(case) if ledger is None else continued(case, ledger, str(target))
    return case, task_with(task, case.plan)


def run(
    case: Case,
    output: Output | None,
    *,
    watchers: Sequence[Watcher] = (),
    meter: MakeMeter = SeamMeter.of,
    first: Sequence[float] | None = None,
    work: Work = QUIET,
) -> Iterator[Event]:
    """Carry a plan out; yields events and writes the result as it goes.

    Parameters
    ----------
    case
        What is predicted, and how (see `seamscope.planning.case.Case`).
    output
        Where the result goes, of `Plan.out_shape`. None: nothing is stitched, the run is only
        watched and measured.
    watchers
        Called with each tile's whole prediction ``(plan, frame, tile, (C, *spatial))``, a view
        that is only good during the call.
    meter
        Makes the meter for the overlaps that `Settings.seams` asks to measure. Called again when
        memory ran out and the run starts again.
    first
        Point in image pixels that is predicted first (see `seamscope.planning.reading.jobs_of`).
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).
    """
    try:
        keep_intensity(case, None if output is None else output.ledger, work)
    except InterruptedError:
        return
    if output is not None:
        check_written(blocks_of(case.plan, output.ledger), output.ledger, output, work)
    refusable = (case.asked or case.settings).tile == "auto"
    while True:
        try:
            attempt = prepared(case, None if output is None else output.ledger, work)
            if work.stopped():
                return
            finishing = Finishing(case, work)
            events = attempt.carry_out(output, watchers, meter(case.plan), first, finishing)
            same = same_threads(None if output is None else output.ledger)
            with same, contextlib.closing(events):
                for event in events:
                    refusable &= not isinstance(event, TileDone)  # others are of that size too
                    report(event, output, work)
                    yield event
            return
        except (OutOfMemory, TileRefusedError) as trouble:
            if isinstance(trouble, TileRefusedError) and not refusable:
                raise
            case, reason = smaller(case, trouble)
            if output is not None and output.ledger is not None:
                output.ledger.forget()
                output.ledger.note("plan", plain(case.plan))
        work.note(reason)
        yield Reduced(case.plan, reason)


def report(event: Event, output: Output | None, work: Work) -> None:
    """Show what an event says."""
    match event:
        case Started():
            what = "Measuring seams" if output is None else "Predicting"
            work.phase(what, "tiles", event.before)
        case TileDone():
            work.step(event.done, event.total)
        case Finished() if event.warning:
            work.warn(f"Warning: {event.warning}")


def completed(events: Iterable[Event]) -> Finished:
    """Carry a run out to its end.

    Raises
    ------
    InterruptedError
        Where it was stopped.
    """
    *_, last = (None, *events)
    if not isinstance(last, Finished):
        raise InterruptedError("stopped by the user")
    return last


def completed_as_planned(
    case: Case, output: Output | None, steps: Steps, watchers: Sequence[Watcher] = ()
) -> Finished:
    """Carry a run out to its end with the tiles of its plan, each of them a step.

    Raises
    ------
    SettingsError
        Where memory ran out with these tiles.
    InterruptedError
        Where it was stopped.
    """
    tile = case.plan.grid.tile_shape
    events: Any = run(case, output, watchers=watchers, work=steps)
    with contextlib.closing(events):
        for event in events:
            if isinstance(event, TileDone):
                steps.one()
            elif isinstance(event, Reduced) and event.plan.grid.tile_shape != tile:
                raise SettingsError(
                    f"Memory ran out with tiles of {shape_text(tile)}: ask for smaller tiles, or "
                    "a smaller batch."
                )
            elif isinstance(event, Finished):
                return event
    raise InterruptedError("stopped by the user")


# -- one attempt


@dataclass(frozen=True)
class Made:
    """What a run has made when all tiles are predicted.

    Attributes
    ----------
    seconds
        Since the first tile began.
    tiles
        How many.
    not_finite
        Pixels of the result that are not finite.
    seams
        How neighbouring tiles disagreed; None where nothing was measured.
    """

    seconds: float
    tiles: int
    not_finite: int
    seams: SeamReport | None = None


@dataclass(frozen=True)
class Attempt:
    """Everything a run needs, for as long as memory suffices."""

    plan: Plan
    model: Model
    runner: Runner
    reader: TileReader
    intensity: Intensity | Prepared
    way: str  # name of the network's equivalent that is used

    def carry_out(
        self,
        output: Output | None,
        watchers: Sequence[Watcher],
        meter: SeamMeter,
        first: Sequence[float] | None,
        finishing: Finishing,
    ) -> Generator[Event, None, None]:
        plan = self.plan
        total = plan.tiles * plan.frames
        left = Left(plan, output)
        measured = measured_tiles(plan)

        def needed(job: TileJob) -> bool:
            seen = bool(watchers) or job.tile.index in measured
            return seen or left.needs(job.frame, job.tile)

        done = 0
        for job in jobs_of(plan, first) if left.resumes else ():
            if finishing.work.stopped():
                return
            done += not left.needs(job.frame, job.tile)
            if not needed(job):
                self.reader.look(job)  # chunks of the image that an earlier run has read
        yield Started(plan, plan.tiles, plan.frames, done)
        begin = time.perf_counter()
        stitcher = None if output is None else Stitcher(plan, output, left)
        not_finite = 0
        # watchers see whole predictions, overlaps and all; stitching needs only what it keeps
        whole = (lambda _: True) if watchers else (lambda tile: tile.index in measured)
        predictions = predict_tiles(
            plan,
            self.runner,
            self.reader,
            first=first,
            work=finishing.work,
            whole=whole,
            needed=needed,
        )
        with contextlib.closing(predictions):
            for frame, tile, prediction in predictions:
                for watch in watchers:
                    watch(plan, frame, tile, prediction)
                if tile.index in measured:
                    meter.see(tile, prediction, frame, measured)
                if stitcher:
                    region = stitcher.add(frame, tile, prediction)
                else:
                    region = ()
                    bad = find_not_finite(prediction[(slice(None), *tile.within(tile.core))])
                    not_finite += 0 if bad is None else int(bad.sum())
                done += left.needs(frame, tile)
                yield TileDone(region, done, total, time.perf_counter() - begin)
        if done < total:
            return
        if stitcher:
            stitcher.finish()
        seams = SeamReport.of(meter, plan, self.model) if measured else None
        made = Made(time.perf_counter() - begin, done, not_finite + left.not_finite, seams)
        yield from self.conclude(output, made, finishing)

    def conclude(
        self, output: Output | None, made: Made, finishing: Finishing
    ) -> Generator[Event, None, None]:
        """Postprocess and finish a result whose tiles are all predicted; yields `Finished`."""
        plan = self.plan
        finishing.case.image.check()
        figures = self._figures(made)
        absent = figures["absent_chunks"] = finishing.case.image.absent_chunks
        figures["pixels_not_finite"] = made.not_finite
        warnings = [*_about_finiteness(plan, made.not_finite), *_about_chunks(absent)]
        if output is not None and plan.postprocessing is not None:
            try:
                figures["postprocessing"] = finishing.carry_out(plan, output)
            except InterruptedError:
                return
            except ImageError as error:  # hours of work are not lost for that
                figures["postprocessing"] = None
                warnings.append(_not_postprocessed(plan, error))
        if output is not None:
            final = {"protocol": protocol_of(finishing.case)} if "protocol" in output.record else {}
            record = {"plan": plan.to_json(), "figures": figures, **final}
            try:
                output.finish(record, work=finishing.work)
            except InterruptedError:
                return
        yield Finished(made.seconds, figures, made.seams, " ".join(warnings))

    def _figures(self, made: Made) -> dict[str, Any]:
        seconds, tiles = made.seconds, made.tiles
        measured = {} if made.seams is None else {"seams": _summary(made.seams)}
        return measured | {
            "seconds": round(seconds, 3),
            "tiles": tiles,
            "tiles_per_second": round(tiles / seconds, 3) if seconds else None,
            "redundancy": round(self.plan.redundancy, 4),
            "network": self.way,
            "device": self.plan.settings.device,
            "intensity": self.intensity.to_json(),
        }


def _about_finiteness(plan: Plan, pixels: int) -> Iterator[str]:
    """What to say of predictions that are NaN or infinite."""
    if not pixels:
        return
    whole = math.prod(n for n, a in zip(plan.out_shape, plan.out_axes, strict=True) if a != "c")
    as_labels = plan.settings.result == "labels"
    precision = plan.settings.precision
    remedy = "Check the network's weights, and how intensities are normalized (`normalize`)."
    if precision == "float16":
        remedy = "float16 ends at 65504: predict with float32 (`precision='float32'`)."
    yield (
        f"The prediction of {pixels} of {whole} pixels is not finite (NaN or infinity)"
        + (", and their labels mean nothing. " if as_labels else ". ")
        + remedy
    )


def _about_chunks(absent: int) -> Iterator[str]:
    if absent:
        yield (
            f"{absent} chunk{'s' * (absent > 1)} of the image {'are' if absent > 1 else 'is'} not "
            "stored, and read as the fill value of its metadata."
        )


def _not_postprocessed(plan: Plan, error: ImageError) -> str:
    return (
        f"Its card's postprocessing ({plan.postprocessing}) was left out, and the result is what "
        f"the network gave: {str(error).split('. ')[0]}. Give what is not finite in the image an "
        "intensity (`fill_nan`), or ask for the raw prediction (`postprocess=False`)."
    )


@dataclass(frozen=True)
class Finishing:
    """Postprocessing of the whole prediction, with its progress."""

    case: Case
    work: Work

    def carry_out(self, plan: Plan, output: Output) -> Any:
        """Postprocess the result where it lies, once for all runs; return what was done to it."""
        assert plan.postprocessing is not None
        known = None if output.ledger is None else output.ledger.task.get(POSTPROCESSING)
        if known is not None:
            return known
        wanted = plan.postprocessing.preparation(self._zscore(plan))
        prepared = measure_result(output.array, plan.out_axes, wanted, work=self.work)
        with changing_all(output) as note:
            change_result(output, plan.out_axes, prepared)
            note(prepared.to_json())
        return prepared.to_json()

    def _zscore(self, plan: Plan) -> Intensity | None:
        """Of the image as it is, where the postprocessing needs it."""
        if plan.postprocessing is None or not plan.postprocessing.needs_image:
            return None
        plain = self.case.but(plan.settings, normalize="zscore")
        found = plain.intensity(self.work)
        assert isinstance(found, Intensity)  # no preparation, no `Prepared`
        return found


def prepared(
    case: Case, ledger: Ledger | None, work: Work, *, with_workers: bool = False
) -> Attempt:
    """Choose how the network runs; only workers may have a device that this machine lacks."""
    plan, model, intensity = case.plan, case.model, case.intensity()
    reader, device = case.reader(), plan.settings.device
    if with_workers and not is_here(device):
        runner = model.runner("cpu", plan.settings.precision)
        way = same_way(ledger) or "plain"  # nothing can be timed here
        same_way(ledger, way)
        return Attempt(plan, model, runner, reader, intensity, way)
    runner = model.runner(check_device(device), plan.settings.precision)
    if worth_a_trial(plan) and known_way(plan, model) is None:
        work.phase("Choosing the fastest way to run the network")
    way = accelerate(plan, model, runner, reader, same_way(ledger))
    same_way(ledger, way)
    return Attempt(plan, model, runner, reader, intensity, way)


def measured_tiles(plan: Plan) -> frozenset[tuple[int, ...]]:
    """Tiles whose overlaps are measured."""
    share = {"none": 0.0, "sample": SAMPLED_SHARE, "all": 1.0}[plan.settings.seams]
    return sampled_tiles(plan, share) if share and plan.tiles > 1 else frozenset()


# Of a run's record: what fits into a result's metadata.
_SUMMARY = (
    "kind", "overlaps", "overlaps_measured", "max_dist", "mean_dist", "tile_mismatch",
    "tile_mismatch_hard", "channels", "spread", "tolerance", "seamless",
    "smallest_seamless_halo", "sentence",
)  # fmt: skip


def _summary(seams: SeamReport) -> dict[str, Any]:
    written = seams.to_json()
    return {key: written[key] for key in _SUMMARY}


__all__ = [
    "Event",
    "Finished",
    "Reduced",
    "Started",
    "TileDone",
    "begin",
    "completed",
    "predict",
    "run",
]
