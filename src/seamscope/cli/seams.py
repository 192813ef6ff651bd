"""``seamscope seams``: how neighbouring tiles disagree, why, and what to do.

Knows what is measured, explained, drawn and written, and in which order. Does not know how.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamscope import __version__
from seamscope.cli.answer import Answer, columns, place, write_text
from seamscope.cli.command import command
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
    Tolerance,
    option,
    settings_of,
)
from seamscope.cli.progress import open_display
from seamscope.cli.work import Work, long_work
from seamscope.text import axes_text, halo_text, shape_text

if TYPE_CHECKING:
    from pathlib import Path

    from seamscope.compare.certificate import Certificate
    from seamscope.explain.causes import Diagnosis
    from seamscope.planning.case import Case
    from seamscope.seams.report import SeamReport

# of a diagnosis: told among the first things
_FIRST = ("verdict", "explanation", "findings", "suggested_halo", "halo_is")
_WORST_SHOWN = 4  # borders with pictures
_EFFECTIVE = 0.99  # of the gradient's mass
_GRADIENT_TILES = 8  # enough for a mark on a plot


@dataclass(frozen=True)
class MeasureOptions:
    """What is measured, and what is done about it."""

    threshold: Annotated[float, option("Measures", "For classes of a single channel.")] = 0.5
    sample: Annotated[
        bool,
        typer.Option(
            "--sample",
            rich_help_panel="Measures",
            help="Measure a part of the overlaps that stands for all, with intervals.",
        ),
    ] = False
    tolerance: Tolerance = 1e-4
    explain: Annotated[
        bool, option("Measures", "Find the causes, by experiments on some of the tiles.")
    ] = True
    certify: Annotated[
        bool,
        typer.Option(
            "--certify",
            rich_help_panel="Measures",
            help="Compare with the untiled prediction where the seams are worst.",
        ),
    ] = False


@command
def seams(
    image: ImageName,
    model: ModelName,
    *,
    tile: Tile = "auto",
    grid: GridOptions,
    measures: MeasureOptions,
    pixels: ImageOptions,
    computation: ComputationOptions,
    loading: ModelOptions,
    json_file: Json = None,
    report_file: ReportFile = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="OUT.zarr",
            help="Write heatmaps of pixels, borders and tiles, to be opened over the image.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what --layers names if it exists.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure how neighbouring tiles of MODEL disagree on IMAGE, and explain why.

    Without --halo, the halo is the network's reach, or what tile and overlap leave room for.
    """
    from seamscope.process_memory import keep_freed_memory

    keep_freed_memory()  # before torch starts threads
    taken = [image, model, *([layers] if layers else [])]
    answer = Answer(json_file, quiet, forbidden=taken)
    page = _page_place(report_file, [*taken, *([json_file] if json_file else [])])
    with open_display(quiet) as display, long_work(display) as work:
        work.phase("Loading")
        from seamscope.planning.case import Case

        opened, network = pixels.open(image), loading.load(model, work)
        settings = settings_of(grid, pixels, computation, tile=tile, threshold=measures.threshold)
        bench = _Bench(Case.open(opened, network, settings), work, measures)
        bench.measure(layers, overwrite)
        if page is not None:
            write_text("--report", page, bench.page())
    answer.write(bench.to_json(), "\n\n".join(bench.text()))


def _page_place(report_file: str | None, forbidden: list[str]) -> Path | None:
    """Where the page goes, checked before hours of work, as is what it is made with."""
    if report_file is None:
        return None
    from seamscope.reports.page import require

    require()
    return place("--report", report_file, forbidden)


class _Bench:
    """One image and network, and all that is found out about their seams."""

    def __init__(self, case: Case, work: Work, asked: MeasureOptions) -> None:
        self.asked = case
        self.image = case.image
        self.model = case.model
        self._work = work
        self._asked = asked
        self.report: SeamReport
        self.diagnosis: Diagnosis | None = None
        self.certificate: Certificate | None = None

    def measure(self, layers: str | None, overwrite: bool) -> None:
        """Measure, explain and certify as asked."""
        from seamscope.compare.certificate import certify
        from seamscope.explain.causes import diagnose

        case = self._planned()
        self.report = self._measured(case, layers, overwrite)
        self.case = case = case.at(self.report.plan)  # as measured: memory may have run out
        asked: dict[str, Any] = {
            "tolerance": self._asked.tolerance,
            "worst": self.report.borders,
            "cancelled": self._work.cancelled,
            "on_progress": self._work.progress,
        }
        if self._asked.explain:
            self._work.phase("Explaining")
            self.diagnosis = diagnose(case, **asked)
        if self._asked.certify:
            self._work.phase("Certifying")
            self.certificate = certify(case, **asked)

    def _planned(self) -> Case:
        from seamscope.planning.halo_room import with_room
        from seamscope.planning.tuning import prepare
        from seamscope.prediction.measure_seams import measurable

        self._work.phase("Measuring the network")
        seams = "sample" if self._asked.sample else "all"
        fitting = with_room(self.asked.settings, self.model)
        case = prepare(self.asked.but(fitting, seams=seams))
        for note in (*self.image.notes, *case.plan.notes):
            self._work.note(note)
        return measurable(case)

    def _measured(self, case: Case, layers: str | None, overwrite: bool) -> SeamReport:
        from seamscope.prediction.measure_seams import measure_seams
        from seamscope.seams.heatmaps import HeatmapFile

        maps = HeatmapFile(case.plan, self.image, layers, overwrite) if layers else None
        self._work.running = "Measuring seams"
        try:
            report = measure_seams(
                case,
                seams=case.settings.seams,  # type: ignore[arg-type]  # never "none"
                tolerance=self._asked.tolerance,
                tell=maps.tell if maps else None,
                on_event=self._work.event,
                cancelled=self._work.cancelled,
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

    # -- what is told

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        told = {
            "seamscope": __version__,
            "image": {"name": self.image.name, "source": self.image.source},
            "fingerprint": self.model.fingerprint,
            **self.report.to_json(),
            "verdict": None,
            "explanation": self.report.sentence(),
        }
        if self.diagnosis is not None:
            diagnosis = self.diagnosis.to_json()
            told |= {name: diagnosis.pop(name) for name in _FIRST}
            told["diagnosis"] = diagnosis
        if self.certificate is not None:
            told["certificate"] = self.certificate.to_json()
        return told

    def text(self) -> Iterator[str]:
        """The same in short, for people."""
        yield columns(_rows(self.report))
        if not self.report.seamless:
            yield _worst(self.report)
        if self.diagnosis is None:
            yield self.report.sentence()
        else:
            yield _conclusion(self.diagnosis)
        if self.certificate is not None:
            yield str(self.certificate)

    def page(self) -> str:
        """The report, as HTML."""
        from seamscope.planning.thumbnails import thumbnail
        from seamscope.reports.seam_page import seam_page
        from seamscope.seams.views import look_at

        report, reach = self.report, self._reach()
        self._work.phase("Looking at the worst seams")
        views = look_at(
            self.case,
            report.borders[:_WORST_SHOWN],
            cancelled=self._work.cancelled,
            on_progress=self._work.progress,
        )
        self._work.phase("Drawing")
        frame = report.borders[0].frame if report.borders else self._first_frame()
        return seam_page(
            report,
            thumbnail(report.plan, self.image, frame),
            views=views,
            diagnosis=self.diagnosis,
            certificate=self.certificate,
            setting=[
                ("file", self.image.source or self.image.name),
                ("weights", f"fingerprint {self.model.fingerprint}"),
            ],
            reach=reach,
        )

    def _first_frame(self) -> tuple[int, ...]:
        return tuple(start for start, _ in self.report.plan.frame_ranges)

    def _reach(self) -> Mapping[str, float]:
        """Halos to be marked: how far the network can see, and how far it mostly does."""
        from seamscope.errors import SeamscopeError
        from seamscope.receptive_field.fields import measure_receptive_field

        reach = self.model.reach
        marks: dict[str, float] = {}
        for name, halo in (("reach", reach.halo), ("convolutions", reach.convolutional)):
            if halo is not None and not marks:
                marks[name] = float(max(max(sides) for sides in halo))
        self._work.phase("Measuring gradients")
        with contextlib.suppress(SeamscopeError):  # a network without gradients, for one
            found = measure_receptive_field(
                self.asked.but(tile="auto", halo="auto", overlap=None),
                most_tiles=_GRADIENT_TILES,
                cancelled=self._work.cancelled,
                on_progress=self._work.progress,
            )
            if found.effective is not None:
                box = found.effective.map.box(_EFFECTIVE)
                marks[f"{_EFFECTIVE:.0%} of the gradient"] = float(box)
        return marks


def _conclusion(diagnosis: Diagnosis) -> str:
    verdict, told = diagnosis.verdict.capitalize(), diagnosis.explanation
    return told if told.startswith(verdict) else f"{verdict}. {told}"


def _rows(report: SeamReport) -> Iterator[tuple[str, str]]:
    grid, measures = report.plan.grid, report.measures
    yield "tile", f"{shape_text(grid.tile_shape)}, stride {shape_text(grid.stride)}"
    yield "halo", f"{halo_text(grid.halo)}, overlap {shape_text(grid.overlap)}"
    part = "" if report.complete else f", {report.measured} measured"
    yield "tiles", f"{report.tiles}, overlaps {report.overlaps}{part}"
    if not report.measured:
        return
    noise = f"{report.tolerance:.2g} is noise"
    yield "max dist", f"{measures.max_dist:.3g} ({noise})"
    yield "mean dist", f"{measures.mean_dist:.3g}"
    for name, soft in zip(report.channels, measures.soft, strict=False):
        label = f"mismatch of {name}" if len(report.channels) > 1 else "tile mismatch"
        yield label, f"{soft:.3g}"
    found = report.smallest_seamless_halo
    yield "seamless here from", "no halo" if found is None else f"halo {axes_text(found)}"


def _worst(report: SeamReport) -> str:
    letters = report.plan.layout.spatial
    lines = [f"{'worst seams at':<26}max dist"]
    for border in [b for b in report.borders if b.max_dist > report.tolerance][:5]:
        at = ", ".join(f"{a} {p}" for a, p in zip(letters, border.worst, strict=True))
        lines.append(f"{at:<26}{border.max_dist:.3g}")
    return "\n".join(lines)
