"""``seamscope seams``: how neighbouring tiles disagree, why, and what to do.

Knows what is measured, explained, drawn and written, and in which order. Does not know how.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamscope.cli.answer import PageAnswer, answer_in, is_answer_of, made_by
from seamscope.cli.command import Overwrite, command
from seamscope.cli.options import (
    ComputationOptions,
    GivenGrid,
    GridOptions,
    ImageName,
    ImageOptions,
    ModelName,
    ModelOptions,
    Tile,
    Tolerance,
    WorkerOptions,
    option,
    settings_of,
)
from seamscope.cli.places import are_there, measures_beside
from seamscope.ledger import Ledger, claimed, discard
from seamscope.serialization import plain

if TYPE_CHECKING:
    from seamscope.compare.certificate import Certificate
    from seamscope.explain.causes import Diagnosis
    from seamscope.planning.case import Case
    from seamscope.progress import Work
    from seamscope.seams.report import SeamReport

# of a diagnosis: among the first keys
_FIRST = ("verdict", "explanation", "findings", "suggested_halo", "halo_is")
_WORST_LISTED = 5  # seams in the terminal


@dataclass(frozen=True)
class MeasureOptions:
    """What is measured, and what is done about it."""

    threshold: Annotated[
        float, option("Measures", "For networks with one channel: pixels above it are foreground.")
    ] = 0.5
    sample: Annotated[
        bool,
        typer.Option(
            "--sample",
            rich_help_panel="Measures",
            help="Measure a sample of the overlaps, and give 95% intervals.",
        ),
    ] = False
    tolerance: Tolerance = 1e-4
    explain: Annotated[
        bool, option("Measures", "Find the causes by experiments on some of the tiles.")
    ] = True
    certify: Annotated[
        bool,
        typer.Option(
            "--certify",
            rich_help_panel="Measures",
            help="Compare with the untiled prediction where the seams are worst.",
        ),
    ] = False

    @property
    def seams(self) -> str:
        """Which overlaps are measured, as settings have it."""
        return "sample" if self.sample else "all"


@command
def seams(
    image: ImageName,
    model: ModelName,
    *,
    tile: Tile = "auto",
    grid: GridOptions,
    tiles_file: GivenGrid = None,
    measures: MeasureOptions,
    pixels: ImageOptions,
    computation: ComputationOptions,
    loading: ModelOptions,
    answer: PageAnswer,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="OUT.zarr",
            help="Write heat maps of pixels, seams and tiles, to open over the image.",
        ),
    ] = None,
    sharing: WorkerOptions,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue an interrupted run of the same command, whose measures are beside the "
            "file of --json or --report (FILE.partial).",
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Measure how much neighbouring tiles of MODEL disagree on IMAGE, and explain why.

    Without --halo, the halo is the network's reach, or as much as tile and overlap leave room for.
    """
    kept = _Kept.of(answer, layers, sharing, trust=loading.trust)
    with kept.opened(resume=resume, overwrite=overwrite) as kept:
        with answer.work() as work:
            from seamscope.execution.devices import resources_on
            from seamscope.planning.case import Case
            from seamscope.prediction.resuming import described

            opened, network = pixels.open(image, work.note), loading.load(model, work, tile)
            settings = settings_of(
                grid, pixels, computation, tile=tile, threshold=measures.threshold
            )
            task = _task(described(opened, network, settings, tiles_file), measures)
            done = [
                name for name in (answer.json_file, answer.report_file) if name not in (None, "-")
            ]
            if (
                resume
                and kept.is_done(done)
                and all(is_answer_of(file, task, overwrite=overwrite) for file in done)
            ):
                said = f"{' and '.join(done)} {'are' if done[1:] else 'is'} done already."
                answer.skip(answer_in(done[0]), said, there=answer.json_file != "-")
                return
            resources = resources_on(sharing.on, settings.device, work)
            case = Case.open(opened, network, settings, grid=tiles_file, resources=resources)
            bench = _Bench(case, task, work, measures, kept)
            bench.measure(layers, overwrite)
            if answer.report_file is not None:
                page = bench.page()
                kept.note("report_file", answer.report_file)
                answer.report(page, bench.to_json())
        answer.write(bench.to_json(), "\n\n".join(bench.text()))


@dataclass(frozen=True)
class _Kept:
    """Where measures are kept until the answer is written, and who makes them.

    Attributes
    ----------
    folder
        None where nothing is kept.
    on
        Workers (see `seamscope.execution.pool.open_pool`).
    trust
        Whether code that comes with the network's file may run.
    resume
        Whether to continue with what is there.
    """

    folder: Path | None
    on: int | str | None
    trust: bool
    resume: bool = False

    @classmethod
    def of(
        cls,
        answer: PageAnswer,
        layers: str | None,
        sharing: WorkerOptions,
        *,
        trust: bool,
    ) -> _Kept:
        """Choose the folder by the files that are written."""
        from seamscope.errors import SettingsError

        if layers is not None and sharing.on is not None:
            raise SettingsError(
                "Heat maps (--layers) are painted by one process: leave out --layers, or the "
                "workers."
            )
        folder = (
            None if layers is not None else measures_beside(answer.json_file, answer.report_file)
        )
        return cls(folder, sharing.on, trust)

    def note(self, key: str, file: str) -> None:
        """Note with what is kept that a file of the answer is written, before it is."""
        if self.folder is not None:
            Ledger(self.folder).note(key, str(Path(file).expanduser().absolute()))

    def is_done(self, files: Sequence[str]) -> bool:
        """Whether an answer is complete, and no later run was interrupted."""
        return are_there(*files) and not (self.folder is not None and self.folder.exists())

    @contextlib.contextmanager
    def opened(self, *, resume: bool, overwrite: bool) -> Iterator[_Kept]:
        """Check what an earlier run left, before anything is loaded; remove it after the answer."""
        from seamscope.errors import SettingsError

        if resume and self.folder is None:
            raise SettingsError(
                "--resume: measures are kept beside the file of --json or --report, and not with "
                "--layers. Name one of these files."
            )
        if self.folder is None:
            yield self
            return
        if self.folder.exists() and not (resume or overwrite):
            raise SettingsError(
                f"{self.folder} exists: an interrupted run left it. Continue that with --resume, "
                "or start again with --overwrite."
            )
        with claimed(self.folder.with_suffix("")):  # the file beside it
            if not resume:
                discard(self.folder)
            yield replace(self, resume=resume)
            discard(self.folder)


def _task(case: Case, options: MeasureOptions) -> dict[str, Any]:
    """All that the answer depends on, so that another one is noticed."""
    from seamscope.execution.measuring import Measuring, task_of_measures

    task = task_of_measures(case.but(seams=options.seams), Measuring())
    return made_by("seams", task | {"options": plain(options)})


class _Bench:
    """One image and network, and all that is found out about their seams."""

    def __init__(
        self, case: Case, task: Mapping[str, Any], work: Work, asked: MeasureOptions, kept: _Kept
    ) -> None:
        self.asked, self.task = case, task
        self._kept = kept
        self.image = case.image
        self.model = case.model
        self._work = work
        self._options = asked
        self.report: SeamReport
        self.diagnosis: Diagnosis | None = None
        self.certificate: Certificate | None = None

    def measure(self, layers: str | None, overwrite: bool) -> None:
        """Measure, explain and certify, as far as requested."""
        from seamscope.compare.certificate import certify
        from seamscope.execution.devices import on_this_machine
        from seamscope.explain.causes import diagnose

        case = self._planned
        for note in case.plan.notes:
            self._work.note(note)
        self.report = self._measured(case, layers, overwrite)
        case = case.at(self.report.plan)  # as measured: memory may have run out
        self.case = case = on_this_machine(case, self._work)
        asked: dict[str, Any] = {
            "tolerance": self._options.tolerance,
            "worst": self.report.seams,
            "work": self._work,
        }
        if case.tiles is not None:
            self._work.note("Causes are not sought on the tiles of another program.")
        if self._options.explain and case.tiles is None:
            self.diagnosis = diagnose(case, **asked)
        if self._options.certify and case.tiles is None:
            self.certificate = certify(case, **asked)

    @cached_property
    def _planned(self) -> Case:
        from seamscope.planning.tuning import prepare

        self._work.phase("Measuring the network")
        return prepare(self.asked, seams=self._options.seams)

    def _measured(self, case: Case, layers: str | None, overwrite: bool) -> SeamReport:
        from seamscope.prediction.measure_seams import measure_seams
        from seamscope.seams.heatmaps import HeatmapFile

        maps = HeatmapFile(case.plan, self.image, layers, overwrite) if layers else None
        try:
            report = measure_seams(
                case,
                seams=case.settings.seams,  # type: ignore[arg-type]  # never "none"
                tolerance=self._options.tolerance,
                tell=maps.tell if maps else None,
                work=self._work,
                partial=self._kept.folder,
                on=self._kept.on,
                resume=self._kept.resume,
                trust=self._kept.trust,
            )
            if maps is not None:
                self._work.phase("Writing heatmaps")
                maps.finish(report)
        except BaseException:
            if maps is not None:
                with contextlib.suppress(Exception):
                    maps.output.discard()
            raise
        return report

    # -- the answer

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        record = {
            "image": {"name": self.image.name, "source": self.image.source},
            "fingerprint": self.model.fingerprint,
            **self.report.to_json(),
            "verdict": None,
            "explanation": self.report.sentence(),
        }
        if self.diagnosis is not None:
            diagnosis = self.diagnosis.to_json()
            record |= {name: diagnosis.pop(name) for name in _FIRST}
            record["diagnosis"] = diagnosis
        if self.certificate is not None:
            record["certificate"] = self.certificate.to_json()
        return {**record, "task": self.task}

    def text(self) -> Iterator[str]:
        """The same in short, for people."""
        from seamscope.reports.describe import describe, tiles_of, worst_seams
        from seamscope.reports.parts import Facts
        from seamscope.reports.terminal import terminal

        verdict, *numbers = describe(self.report)
        tiles = ("tiles", f"{self.report.tiles:,}")
        yield terminal([Facts([*tiles_of(self.report.plan), tiles]), *numbers])
        if self.report.seams and not self.report.seamless:
            yield terminal([worst_seams(self.report, _WORST_LISTED)])
        yield terminal([verdict] if self.diagnosis is None else describe(self.diagnosis))
        if self.certificate is not None:
            yield terminal(describe(self.certificate)[:1])

    def page(self) -> str:
        """The report, as HTML."""
        from seamscope.reports.run_page import run_page

        return run_page(
            self.case,
            self.report,
            diagnosis=self.diagnosis,
            certificate=self.certificate,
            work=self._work,
        )
