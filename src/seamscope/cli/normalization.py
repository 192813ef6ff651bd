"""``seamscope normalization`` and ``seamscope freeze``: what layers normalize by, and fixing it.

Knows how both are asked for in a shell and answered there. Does not know how features are measured
or statistics found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamscope.cli.answer import Answer, place, write_text
from seamscope.cli.command import ExitCode, command, say
from seamscope.cli.options import (
    ComputationOptions,
    Debug,
    GridOptions,
    ImageName,
    ImageOptions,
    Json,
    ModelName,
    ModelOptions,
    Quiet,
    ReportFile,
    Tile,
    option,
    room_of,
    settings_of,
    sizes,
)
from seamscope.cli.progress import open_display
from seamscope.cli.work import Work, long_work
from seamscope.errors import SettingsError
from seamscope.text import shape_text

if TYPE_CHECKING:
    from seamscope.compare.before_after import BeforeAfter
    from seamscope.explain.feature_statistics import BatchExperiment, FeatureStatistics
    from seamscope.explain.train_eval import Disparity
    from seamscope.fixed_statistics.freeze_plan import FreezePlan
    from seamscope.images.image import Image
    from seamscope.models.model import Model
    from seamscope.normalization.statistics import Statistics
    from seamscope.settings import Settings

_NAMES = ("exact", "local", "sampled")


# -- normalization


@command
def normalization(
    model: ModelName,
    loading: ModelOptions,
    image: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="Measure the features of its tiles, and the disparity."),
    ] = None,
    *,
    tile: Annotated[
        Any,
        option(
            "Tiles",
            "Pixels of a tile, best those of the patches in training; by default 128 in 2D and "
            "64 in 3D.",
            "N|N,N",
            sizes,
        ),
    ] = None,
    most: Annotated[
        int | None, option("Tiles", "Look at the features of so many tiles at most.", "N")
    ] = None,
    pixels: ImageOptions,
    computation: ComputationOptions,
    json_file: Json = None,
    report_file: ReportFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show which layers of MODEL normalize by what, and how far the tiles of an image stray.

    --batch is the batch of training, for the disparity.
    """
    answer = Answer(json_file, quiet, forbidden=[model, *([image] if image else [])])
    page = _page_place(report_file, [model, *([image] if image else [])])
    with open_display(answer.quiet) as display, long_work(display) as work:
        work.phase("Loading")
        network = loading.load(model)
        work.phase("Measuring the network")
        found = _Found(network)
        if image is not None:
            own = tile or _default_tile(network)
            settings = settings_of(pixels, computation, tile=own, halo=0, overlap=0)
            found.measure(pixels.open(image), settings, most, work)
        if page is not None:
            work.phase("Drawing")
            write_text("--report", page, found.page())
    answer.write(found.to_json(), "\n".join(found.text()))


def _page_place(report_file: str | None, forbidden: list[str]) -> Path | None:
    """Where the page goes, checked before long work, as is what it is made with."""
    if report_file is None:
        return None
    from seamscope.reports.page import require

    require()
    return place("--report", report_file, forbidden)


def _default_tile(model: Model) -> tuple[int, ...]:
    from seamscope.normalization.statistics import PATCH

    lattice = model.facts.lattice
    return tuple(axis.size_at_least(PATCH[len(lattice)] + sum(axis.crop)) for axis in lattice)


class _Found:
    """What is known of a network's normalization, and told."""

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
        told: dict[str, Any] = {"cancelled": work.cancelled, "on_progress": work.progress}
        if not self.audit.layers or not self.audit.watched:
            return
        statistics = None
        if self.audit.calls:
            work.phase("Finding the whole image's statistics")
            at_once = settings.but(tile="auto", halo="auto", overlap=None)
            statistics = freeze_statistics(case, None, "exact", at_once, **told)
        work.phase("Measuring the features of tiles")
        self.features = measure_features(case, statistics=statistics, most=most, **told)
        if self.model.statistics is not None:
            return  # what is fixed is no matter of training
        self.batches = batch_experiment(self.features)
        work.phase("Predicting as in training and as in evaluation")
        self.disparity = measure_disparity(case, **told)

    def advice(self) -> tuple[str, ...]:
        from seamscope.explain.train_eval import advice

        if self.model.statistics is not None:
            fixed = self.model.statistics.told()
            return (f"Statistics are fixed ({fixed}): tiles' own are not used.",)
        return advice(self.audit, self.disparity, self.features, self.batches)

    def to_json(self) -> dict[str, Any]:
        from seamscope import __version__

        strays = self.features.to_json() if self.features else [{}] * len(self.audit.layers)
        layers = [
            {
                "name": layer.name,
                "kind": layer.kind,
                "channels": layer.channels,
                "groups": layer.groups,
                "statistics": layer.statistics,
                "affine": layer.affine,
                "stray": row.get("stray"),
                "stray_largest": row.get("stray_largest"),
                "spread_ratio": row.get("spread_ratio"),
                "reference": row.get("reference"),
            }
            for layer, row in zip(self.audit.layers, strays, strict=True)
        ]
        return {
            "seamscope": __version__,
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

    def text(self) -> Iterator[str]:
        yield from self.advice()
        yield ""
        yield from self._layers()
        for operation in self.audit.global_operations:
            can = "can be fixed" if operation.repairable else "cannot be fixed"
            yield f"Sees the whole tile: {operation} ({operation.op}), {can}."

    def _layers(self) -> Iterator[str]:
        """The layers in a table, and what their statistics mean."""
        layers = self.audit.layers
        if not layers:
            return
        rows: list[tuple[str, ...]] = [("layer", "kind", "channels", "statistics", "affine")]
        affine = {True: "yes", False: "no", None: "?"}
        for one in layers:
            told = (one.name or "-", one.kind, str(one.channels), one.statistics)
            rows.append((*told, affine[one.affine]))
        if self.features is not None:
            strays = [f"{one.stray:.3f}" for one in self.features.layers]
            rows = [(*row, end) for row, end in zip(rows, ("stray", *strays), strict=True)]
        yield _table(rows)
        yield ""
        for kind, meaning in dict.fromkeys((one.statistics, one.meaning) for one in layers):
            yield f"{kind}: {meaning}"

    def page(self) -> str:
        from seamscope.reports.normalization_page import normalization_page

        return normalization_page(
            self.model, self.audit, self.features, self.batches, self.disparity, self.advice()
        )


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(n) for c, n in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


# -- freeze


@dataclass(frozen=True)
class FreezeOptions:
    """Which statistics are found, and how much may be used for that."""

    how: Annotated[
        str,
        option(
            "Statistics",
            "exact: of the whole image; local: of windows of it; sampled: from a few tiles; or a "
            "file of statistics, of another image, to be checked and taken over.",
            "exact|local|sampled|FILE",
        ),
    ] = "exact"
    cell: Annotated[
        Any,
        option(
            "Statistics",
            "For local: pixels, as the patches of training; windows are twice as wide. By default "
            "128 in 2D and 64 in 3D.",
            "N|N,N",
            sizes,
        ),
    ] = None
    tiles: Annotated[int, option("Statistics", "For sampled: how many.", "N")] = 16
    disk: Annotated[
        Any,
        option(
            "Statistics",
            "For exact and sampled: disk space in which tiles may wait that --memory has no room "
            "for; 0 for none. By default half of what is free for temporary files.",
            "SIZE",
            room_of,
        ),
    ] = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel="Statistics",
            help="Go on with what an interrupted run found (OUT.partial).",
        ),
    ] = False
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            rich_help_panel="Statistics",
            help="Measure and explain the seams before and after: costs two predictions, and for "
            "the explanation up to 11 times those of 16 tiles.",
        ),
    ] = False
    explain: Annotated[bool, option("Statistics", "Tell the causes in the comparison too.")] = True
    labels: Annotated[
        str | None,
        option("Statistics", "Compare Dice with these labels too.", "LABELS"),
    ] = None
    threshold: Annotated[
        float, option("Statistics", "For Dice of a single channel: its class is above this.")
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it exists.")
    ] = False,
    json_file: Json = None,
    report_file: ReportFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find the statistics by which all tiles of IMAGE are to be normalized, and write them to OUT.

    Then --statistics OUT, on any command, makes tiles agree, without retraining. --labels and
    --report compare before and after, as does --compare.
    """
    from seamscope.process_memory import keep_freed_memory

    keep_freed_memory()  # before torch starts threads
    target = place("OUT", out, [image, model])
    if target.exists() and not overwrite:
        raise SettingsError(f"{out} exists: name another file, or add --overwrite.")
    answer = Answer(json_file, quiet, forbidden=[image, model, out])
    page = _page_place(report_file, [image, model, out, *([json_file] if json_file else [])])
    with open_display(answer.quiet) as display, long_work(display) as work:
        work.phase("Loading")
        opened, network = pixels.open(image), loading.load(model)
        settings = settings_of(grid, pixels, computation, tile=tile, threshold=freezing.threshold)
        job = _Freezing(opened, network, settings, freezing, target, work)
        statistics = job.statistics()
        statistics.save(target)
        try:
            effect = job.compared(statistics, page is not None)
        except (KeyboardInterrupt, InterruptedError):
            say(
                f"{out} is written, and comparing was stopped: to compare, give --how {out} "
                "--overwrite --compare."
            )
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        if page is not None and effect is not None:
            from seamscope.reports.repair_page import repair_page

            work.phase("Drawing")
            write_text("--report", page, repair_page(effect, statistics))
    answer.write(
        _told(statistics, job, effect, out), "\n".join(_said(statistics, job, effect, out))
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
    ) -> None:
        self.image, self.model, self.settings = image, model, settings
        self.options, self.work = options, work
        self.plan: FreezePlan | None = None
        self._partial = target.with_name(target.name + ".partial")

    def statistics(self) -> Statistics:
        if self.options.how not in _NAMES:
            return self._taken_over()
        from seamscope.fixed_statistics.freeze_plan import plan_freeze
        from seamscope.fixed_statistics.freezing import carry_out, forget
        from seamscope.planning.case import Case

        work, options = self.work, self.options
        work.phase("Measuring the network")
        how: Any = options.how
        case = Case.open(self.image, self.model, self.settings)
        self.plan = plan_freeze(
            case,
            how,
            cell=options.cell,
            tiles=options.tiles,
            memory=self.settings.memory,
            disk=options.disk,
        )
        if not options.resume:
            forget(self._partial)
        for note in (*self.image.notes, *self.plan.notes):
            work.note(note)
        work.phase(self.plan.cost.rstrip("."))
        return carry_out(case, self.plan, self._partial, work.cancelled, work.progress)

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

    def compared(self, statistics: Statistics, always: bool) -> BeforeAfter | None:
        if not (always or self.options.compare or self.options.labels is not None):
            return None
        from seamscope.compare.before_after import compare_statistics

        return compare_statistics(
            self.image,
            self.model,
            statistics,
            self.settings,
            labels=self.options.labels,
            explain=self.options.explain,
            cancelled=self.work.cancelled,
            on_progress=self.work.progress,
            on_phase=self.work.phase,
        )


def _told(
    statistics: Statistics, job: _Freezing, effect: BeforeAfter | None, out: str
) -> dict[str, Any]:
    from seamscope import __version__

    plan = job.plan
    return {
        "seamscope": __version__,
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
    }


def _said(
    statistics: Statistics, job: _Freezing, effect: BeforeAfter | None, out: str
) -> Iterator[str]:
    if job.plan is not None:
        yield job.plan.cost
    else:
        yield f"Taken over from {job.options.how}: {statistics.told()}."
    distance = statistics.about.get("distance")
    if distance:
        yield (
            f"Predictions are estimated to differ by {distance['mean_difference']:.2g} on average "
            "from those with exact statistics (within a factor of 2 or so)."
        )
    if not job.model.audit.repairable:
        rest = [str(o) for o in job.model.audit.global_operations if not o.repairable]
        yield f"{', '.join(rest)} cannot be fixed: expect seams all the same, though fainter."
    if effect is not None:
        tiles = shape_text(effect.before.plan.grid.tile_shape)
        yield from ("", _table([(f"tiles of {tiles}", "before", "after"), *effect.rows()]), "")
        yield from effect.sentences()
        yield from (*([effect.meaning] if effect.meaning else []), *effect.notes)
    count = len(statistics.layers)
    yield f"{count} layer{'s' * (count > 1)} fixed: use --statistics {out} on any command."
