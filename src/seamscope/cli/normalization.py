"""``seamscope normalization`` and ``seamscope freeze``: what layers normalize by, and fixing it.

Knows their options and answers. Does not know how features are measured
or statistics found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamscope.cli.answer import PageAnswer, answer_in, is_answer_of, made_by
from seamscope.cli.command import ExitCode, Overwrite, command, say
from seamscope.cli.options import (
    ComputationOptions,
    GridOptions,
    ImageName,
    ImageOptions,
    ModelName,
    ModelOptions,
    Tile,
    WorkerOptions,
    option,
    room_of,
    settings_of,
    sizes,
)
from seamscope.cli.places import local
from seamscope.errors import OutputError, SettingsError
from seamscope.files import Claim, Place
from seamscope.ledger import discard
from seamscope.progress import Work
from seamscope.serialization import plain

if TYPE_CHECKING:
    from seamscope.compare.before_after import BeforeAfter
    from seamscope.explain.feature_statistics import BatchExperiment, FeatureStatistics
    from seamscope.explain.train_eval import Disparity
    from seamscope.fixed_statistics.freeze_plan import FreezePlan
    from seamscope.images.image import Image
    from seamscope.models.model import Model
    from seamscope.normalization.statistics import Statistics
    from seamscope.planning.case import Case
    from seamscope.settings import Settings

_NAMES = ("exact", "local", "sampled")


# -- normalization


@command
def normalization(
    model: ModelName,
    loading: ModelOptions,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="Image whose tiles are measured: features, and train/eval disparity.",
        ),
    ] = None,
    *,
    tile: Annotated[
        Any,
        option(
            "Tiles",
            "Tile size in pixels, best that of the training patches. Default: 128 in 2D, 64 in 3D.",
            "N|N,N",
            sizes,
        ),
    ] = None,
    most: Annotated[int | None, option("Tiles", "Largest number of tiles to measure.", "N")] = None,
    pixels: ImageOptions,
    computation: ComputationOptions,
    answer: PageAnswer,
) -> None:
    """List the normalization layers of MODEL and which statistics they use.

    With --image, also measure how much each tile's statistics differ from those of the whole image.
    --batch: tiles per batch in training, for the train/eval disparity.
    """
    with answer.work() as work:
        network = loading.load(model, work, tile)
        work.phase("Measuring the network")
        found = _Found(network)
        if image is not None:
            own = tile or _default_tile(network)
            settings = settings_of(pixels, computation, tile=own, halo=0, overlap=0)
            found.measure(pixels.open(image, work.note), settings, most, work)
        if answer.report_file is not None:
            work.phase("Drawing")
            answer.report(found.page())
    answer.write(found.to_json(), found.text())


def _default_tile(model: Model) -> tuple[int, ...]:
    from seamscope.normalization.statistics import PATCH

    lattice = model.facts.lattice
    return tuple(axis.size_at_least(PATCH[len(lattice)] + sum(axis.crop)) for axis in lattice)


class _Found:
    """What is known of a network's normalization."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.audit = model.audit
        self.image: str | None = None
        self.features: FeatureStatistics | None = None
        self.batches: BatchExperiment | None = None
        self.disparity: Disparity | None = None

    def measure(self, image: Image, settings: Settings, most: int | None, work: Work) -> None:
        from seamscope.explain.feature_statistics import batch_experiment, measure_features
        from seamscope.explain.train_eval import measure_disparity
        from seamscope.fixed_statistics.freezing import freeze_statistics
        from seamscope.planning.case import Case

        self.image = image.name
        case = Case.open(image, self.model, settings)
        if not self.audit.layers or not self.audit.watched:
            return
        statistics = None
        if self.audit.calls:
            at_once = settings.but(tile="auto", halo="auto", overlap=None)
            statistics = freeze_statistics(case, None, "exact", at_once, work=work)
        self.features = measure_features(case, statistics=statistics, most=most, work=work)
        if self.model.statistics is not None:
            return  # what is fixed is no matter of training
        self.batches = batch_experiment(self.features)
        self.disparity = measure_disparity(case, work=work)

    def advice(self) -> tuple[str, ...]:
        from seamscope.explain.train_eval import advice

        if self.model.statistics is not None:
            fixed = self.model.statistics.summary()
            return (f"Statistics are fixed ({fixed}); per-tile statistics are not used.",)
        bounded = self.model.reach.bounded
        return advice(self.audit, self.disparity, self.features, self.batches, bounded)

    def to_json(self) -> dict[str, Any]:

        measured = self.features.to_json() if self.features else [{}] * len(self.audit.layers)
        layers = [
            {
                "name": layer.name,
                "kind": layer.kind,
                "channels": layer.channels,
                "groups": layer.groups,
                "statistics": layer.statistics,
                "affine": layer.affine,
                "deviation": row.get("deviation"),
                "deviation_largest": row.get("deviation_largest"),
                "spread_ratio": row.get("spread_ratio"),
                "reference": row.get("reference"),
            }
            for layer, row in zip(self.audit.layers, measured, strict=True)
        ]
        return {
            "model": {"name": self.model.name, "fingerprint": self.model.fingerprint},
            "image": self.image,
            "tile": list(self.features.plan.grid.tile_shape) if self.features else None,
            "layers": layers,
            "fixed_statistics": self.model.statistics and self.model.statistics.described,
            "repairable": self.audit.repairable,
            "global_operations": [
                {"op": o.op, "kind": o.kind, "count": o.count, "repairable": o.repairable}
                for o in self.audit.global_operations
            ],
            "train_eval_disparity": (
                dict(zip(self.disparity.channels, self.disparity.per_channel, strict=True))
                if self.disparity
                else None
            ),
            "disparity": self.disparity.to_json() if self.disparity else None,
            "batches": self.batches.to_json() if self.batches else None,
            "advice": list(self.advice()),
        }

    def text(self) -> str:
        from seamscope.reports.describe import describe, layers_of
        from seamscope.reports.parts import Text
        from seamscope.reports.terminal import terminal

        coupling = [
            Text(
                f"Sees the whole tile: {one} ({one.op}), can{'' if one.repairable else 'not'} be "
                "fixed."
            )
            for one in self.audit.global_operations
        ]
        disparity = describe(self.disparity) if self.disparity is not None else []
        said = [Text("\n".join(self.advice()))]
        return terminal([*said, *layers_of(self.audit, self.features), *disparity, *coupling])

    def page(self) -> str:
        from seamscope.reports.normalization_page import normalization_page

        return normalization_page(
            self.model, self.audit, self.features, self.batches, self.disparity, self.advice()
        )


# -- freeze


@dataclass(frozen=True)
class FreezeOptions:
    """Which statistics are found, and how much may be used for that."""

    how: Annotated[
        str,
        option(
            "Statistics",
            "exact: of the whole image. local: of windows of the image. sampled: estimated from a "
            "few tiles. FILE: statistics of another image, which are checked and copied.",
            "exact|local|sampled|FILE",
        ),
    ] = "exact"
    cell: Annotated[
        Any,
        option(
            "Statistics",
            "For local: distance of the windows in pixels, best the size of the training patches; "
            "windows are twice as wide. Default: 128 in 2D, 64 in 3D.",
            "N|N,N",
            sizes,
        ),
    ] = None
    tiles: Annotated[int, option("Statistics", "For sampled: number of tiles.", "N")] = 16
    disk: Annotated[
        Any,
        option(
            "Statistics",
            "For exact and sampled: disk space for intermediate results that do not fit in "
            "--memory; 0 for none. Default: half of the free space for temporary files.",
            "SIZE",
            room_of,
        ),
    ] = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel="Statistics",
            help="Continue an interrupted run (OUT.partial).",
        ),
    ] = False
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            rich_help_panel="Statistics",
            help="Measure and explain the seams before and after. Costs two predictions of the "
            "image, and up to 11 predictions of 16 tiles for the explanation.",
        ),
    ] = False
    explain: Annotated[bool, option("Statistics", "Add the causes to the comparison.")] = True
    labels: Annotated[
        str | None,
        option(
            "Statistics",
            "Ground-truth labels: compare both predictions with them (Dice).",
            "LABELS",
        ),
    ] = None
    threshold: Annotated[
        float, option("Statistics", "For Dice of a single channel: pixels above it are foreground.")
    ] = 0.5


@command
def freeze(
    image: ImageName,
    model: ModelName,
    out: Annotated[str, typer.Argument(metavar="OUT", show_default=False, help="File to write.")],
    *,
    tile: Tile = "auto",
    freezing: FreezeOptions,
    grid: GridOptions,
    pixels: ImageOptions,
    computation: ComputationOptions,
    loading: ModelOptions,
    sharing: WorkerOptions,
    overwrite: Overwrite = False,
    answer: PageAnswer,
) -> None:
    """Find fixed normalization statistics for all tiles of IMAGE, and write them to OUT.

    With --statistics OUT, every other command uses them, and tiles agree without retraining.
    --compare, --labels and --report compare the prediction before and after.
    """
    target = local("OUT", out)
    partial = target.with_name(target.name + ".partial")
    if partial.exists() and not (freezing.resume or overwrite):
        raise SettingsError(
            f"{partial} exists: an interrupted run left it. Continue that with --resume, or start "
            "again with --overwrite."
        )
    claim = Claim(Place(target, "OUT"))
    with claim, answer.work() as work:
        opened, network = pixels.open(image, work.note), loading.load(model, work, tile)
        settings = settings_of(grid, pixels, computation, tile=tile, threshold=freezing.threshold)
        job = _Freezing(
            opened, network, settings, freezing, target, work, answer.report_file is not None
        )
        there = freezing.resume and job.is_done(overwrite=overwrite)
        known = freezing.resume and job.is_answered(answer, out, overwrite=overwrite)
        if there and not job.remains(answer, known=known, overwrite=overwrite):
            done = _record(job.found_before, job, None, out)
            if job.compares:
                done |= {**answer_in(answer.report_file), "out": out}
            answer.skip(done, f"{out} is done already.", there=known)
            return
        if there:
            work.note(f"{out} is done already: only the comparison is made.")
            statistics = job.found_before
        else:
            statistics = job.statistics(sharing.on, trust=loading.trust)
            job.save(statistics, target)
        try:
            effect = job.compared(statistics)
        except (KeyboardInterrupt, InterruptedError):
            say(
                f"{out} is complete, and the comparison was stopped. To compare, repeat the "
                "command with --resume."
            )
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        if answer.report_file is not None and effect is not None:
            from seamscope.reports.repair_page import repair_page

            work.phase("Drawing")
            page = repair_page(effect, statistics)
            answer.report(page, _record(statistics, job, effect, out))
    answer.write(
        _record(statistics, job, effect, out), "\n".join(_summary(statistics, job, effect, out))
    )


class _Freezing:
    """One run of the command."""

    def __init__(
        self,
        image: Image,
        model: Model,
        settings: Settings,
        options: FreezeOptions,
        target: Path,
        work: Work,
        draws: bool,
    ) -> None:
        self.image, self.model, self.settings = image, model, settings
        self.options, self.work, self._draws = options, work, draws
        self.plan: FreezePlan | None = None
        self._target, self._partial = target, target.with_name(target.name + ".partial")

    @cached_property
    def found_before(self) -> Statistics:
        """Statistics that a run of the same command has written.

        Raises
        ------
        SeamscopeError
            When they are of another one.
        """
        from seamscope.fixed_statistics.freezing import check_found_by
        from seamscope.normalization.statistics import Statistics

        found = Statistics.load(self._target)
        if self.options.how in _NAMES:
            case, plan = self._planned()
            check_found_by(found, case, plan)
        elif found.digest != self._taken_over.digest:
            raise OutputError(
                f"{self._target} holds other statistics than {self.options.how}: name another OUT, "
                "or allow it to be replaced (--overwrite)."
            )
        return found

    def is_done(self, *, overwrite: bool) -> bool:
        """Whether a run of the same command has finished, and no later one was interrupted.

        Raises
        ------
        SeamscopeError
            When the statistics that are there are of another search, and may not be replaced.
        """
        if not self._target.exists() or self._partial.exists():
            return False
        try:
            return bool(self.found_before)
        except OutputError:
            if not overwrite:
                raise
            return False

    def is_answered(self, answer: PageAnswer, out: str, *, overwrite: bool) -> bool:
        """Whether the JSON of this very work is there; one without the comparison may be completed.

        Raises
        ------
        SeamscopeError
            When it is of other work, and may not be replaced.
        """
        of_replaced = self._partial.exists() and answer_in(answer.json_file).get("out") == out
        of_comparison = dict.fromkeys(("explanation", "labels", "hash of all pixels"))
        bare = {**self.task, "comparison": False, **of_comparison}
        completed = self.compares and answer_in(answer.json_file).get("task") == plain(bare)
        if of_replaced or completed:
            return False
        return answer.check(self.task, overwrite=overwrite)

    def remains(self, answer: PageAnswer, *, known: bool, overwrite: bool) -> bool:
        """Whether a comparison is left to do of a finished search.

        Parameters
        ----------
        answer
            Files that it is written to.
        known
            Whether its JSON is there.
        overwrite
            Whether a report of other work may be replaced.

        Raises
        ------
        SeamscopeError
            When the report that is there is of other work.
        """
        if answer.report_file is not None:  # whose page holds the comparison too
            return not is_answer_of(answer.report_file, self.task, overwrite=overwrite)
        return self.compares and not known

    @property
    def compares(self) -> bool:
        """Whether predictions before and after are compared."""
        options = self.options
        return self._draws or options.compare or options.labels is not None

    @cached_property
    def task(self) -> dict[str, Any]:
        """All that the answer depends on, so that another one is noticed."""
        from seamscope.images.ground_truth import open_labels
        from seamscope.prediction.resuming import described, digest_of, digest_of_frames, task_of

        options = self.options
        given = options.how not in _NAMES
        case = described(self.image, self.model, self.settings)
        # statistics that are found here have all pixels in their own description
        pixels = digest_of_frames(case, self.work) if given and self.compares else None
        labels = None if options.labels is None else open_labels(options.labels)
        task = {
            **task_of(case),
            "kind of statistics": None if given else options.how,
            "cell": options.cell,
            "number of tiles": options.tiles if options.how == "sampled" else None,
            "statistics": self._taken_over.digest if given else None,
            "hash of all pixels": pixels,
            "comparison": self.compares,
            "explanation": options.explain if self.compares else None,
            "labels": None if labels is None else digest_of(labels, self.work),
        }
        return made_by("freeze", task)

    def statistics(self, on: int | str | None, *, trust: bool) -> Statistics:
        if self.options.how not in _NAMES:
            return self._taken_over
        from seamscope.fixed_statistics.freezing import carry_out, check_workers

        work, resume = self.work, self.options.resume
        check_workers(self.image, self.model, on)
        case, plan = self._planned(on)
        if not resume:
            discard(self._partial)
        for note in (*plan.notes, plan.cost):
            work.note(note)
        return carry_out(case, plan, self._partial, work, on=on, trust=trust, resume=resume)

    def _planned(self, on: int | str | None = None) -> tuple[Case, FreezePlan]:
        from seamscope.execution.devices import resources_on
        from seamscope.fixed_statistics.freeze_plan import plan_freeze
        from seamscope.planning.case import Case

        options, settings = self.options, self.settings
        self.work.phase("Measuring the network")
        resources = resources_on(on, settings.device, self.work)
        case = Case.open(self.image, self.model, settings, resources=resources)
        how: Any = options.how
        limits = {"memory": settings.memory, "disk": options.disk}
        plan = plan_freeze(case, how, cell=options.cell, tiles=options.tiles, **limits)
        self.plan = plan
        return case, plan

    @cached_property
    def _taken_over(self) -> Statistics:
        from seamscope.normalization.statistics import Statistics

        if not Path(self.options.how).is_file():
            raise SettingsError(
                f"--how {self.options.how}: choose {', '.join(_NAMES)}, or give a file of "
                "statistics that exists."
            )
        found = Statistics.load(self.options.how)
        found.check_model(self.model.fingerprint, self.model.name)
        return found

    def save(self, statistics: Statistics, target: Path) -> None:
        """Write statistics; only then are intermediate results no longer needed."""
        statistics.save(target)
        if self.plan is not None:
            discard(self._partial)

    def compared(self, statistics: Statistics) -> BeforeAfter | None:
        """Compare predictions before and after, where that is requested."""
        if not self.compares:
            return None
        from seamscope.compare.before_after import compare_statistics
        from seamscope.models.runner import is_here

        settings = self.settings
        if not is_here(settings.device):  # of workers
            settings = settings.but(device="cpu")
        return compare_statistics(
            self.image,
            self.model,
            statistics,
            settings,
            labels=self.options.labels,
            explain=self.options.explain,
            work=self.work,
        )


def _record(
    statistics: Statistics, job: _Freezing, effect: BeforeAfter | None, out: str
) -> dict[str, Any]:
    plan = job.plan
    return {
        "out": out,
        "model": {"name": statistics.model, "fingerprint": statistics.fingerprint},
        "how": statistics.how,
        "image": statistics.image,
        "image_shape": list(statistics.image_shape),
        "layers": [
            {"name": one.name, "kind": one.kind, "groups": len(one.mean), "cells": one.count.size}
            for one in statistics.layers
        ],
        "about": statistics.about,
        "repairable": job.model.audit.repairable,
        "cost": None
        if plan is None
        else {
            "passes": plan.passes,
            "tiles": plan.tiles,
            "in_memory": plan.in_memory,
            "on_disk": plan.on_disk,
            "recomputed": plan.recomputed,
            "memory": plan.memory,
            "disk": plan.disk,
            "sentence": plan.cost,
            "notes": list(plan.notes),
        },
        "comparison": effect.to_json() if effect else None,
        "task": job.task,
    }


def _summary(
    statistics: Statistics, job: _Freezing, effect: BeforeAfter | None, out: str
) -> Iterator[str]:
    from seamscope.reports.describe import describe
    from seamscope.reports.terminal import terminal

    if job.plan is None:
        yield f"Copied from {job.options.how}: {statistics.summary()}."
    yield from (terminal([part]) for part in describe(statistics))
    if not job.model.audit.repairable:
        rest = [str(o) for o in job.model.audit.global_operations if not o.repairable]
        yield f"{', '.join(rest)} cannot be fixed: expect fainter seams."
    if effect is not None:
        yield from ("", terminal(describe(effect)), "")
    count = len(statistics.layers)
    yield f"{count} layer{'s' * (count > 1)} fixed: use --statistics {out} on any command."
