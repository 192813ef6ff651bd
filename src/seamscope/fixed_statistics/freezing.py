"""Find fixed statistics: those of a whole image, tile by tile, for prediction without seams.

Knows the order in which tiles and layers are visited, and what is kept in between. Does not know
what that costs (`seamscope.fixed_statistics.freeze_plan`), or how statistics are merged.

**Exact and sampled statistics.** The statistics of a layer depend on those of all layers before it,
in all tiles. So the layers are completed one after the other. Each tile runs up to the layer, adds
the sums of its features, and stops. When all tiles have stopped, the layer's statistics are known
and all tiles go on. Only cores are counted, so each pixel counts once. With halos as wide as the
receptive field of the convolutions, the sums equal those of the untiled image.

Stopped tiles wait in memory or on disk, and the network runs once for each tile. Tiles without room
begin again for each layer, with the statistics found so far.

::

    layer       0     1     2              (0, 1 ... where a tile stops)
    tile a      0 --- 1 --- 2              waits in memory or on disk
    tile b      0 --- 1 --- 2
    tile c      0                          no room:
                ----- 1                      begins again
                ----------- 2

**Local statistics.** The network runs once on each window of a grid that is fixed in the image,
with the window's own statistics in all layers, as on a patch in training. A pixel's statistics are
interpolated between the windows around it. Windows are two cells wide and one cell apart::

    image     [                                  )
    windows   [---- x ----)                            x: middle, where its statistics hold
                    [---- x ----)
                          [---- x ----)

The statistics of several layers belong together, because each layer receives features that the
layers before it normalized. Local statistics found layer by layer would be counted over features
whose normalization varies over the image, as in no patch of the training; so all layers of a window
are found in one run. A statistic that the network computes by hand, one number for all pixels, is
found once for the image: over the windows' features, each pixel in the window whose middle is
nearest. ``benchmarks/frozen_statistics.py`` compares both ways.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from functools import partial as partial_of
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from seamscope.errors import ModelError
from seamscope.files import temporary_folder
from seamscope.fixed_statistics.counting import Parts, Windows
from seamscope.fixed_statistics.freeze_plan import JUDGED, TILES, TOO_FEW, FreezePlan, plan_freeze
from seamscope.fixed_statistics.sampling import Sample, diverse_tiles
from seamscope.models.model import Model
from seamscope.normalization.audit import NormLayer
from seamscope.normalization.calls import Call, Moments, Normalizations
from seamscope.normalization.pausing import PausableNetwork, Paused
from seamscope.normalization.statistics import (
    How,
    LayerStatistics,
    Statistics,
)
from seamscope.planning.case import Case
from seamscope.planning.reading import TileJob
from seamscope.settings import Settings
from seamscope.work import QUIET, Steps, Work, check

_SAVES = 20  # of what is known, on the way


def freeze_statistics(
    image: Any,
    model: str | nn.Module | Model | None = None,
    how: How = "exact",
    settings: Settings | None = None,
    *,
    trust: bool = False,
    axes: str | None = None,
    cell: int | Sequence[int] | None = None,
    tiles: int = TILES,
    memory: int | None = None,
    disk: int | None = None,
    partial: Path | None = None,
    work: Work = QUIET,
    **asked: Any,
) -> Statistics:
    """Find fixed statistics, by which all tiles of an image are normalized alike.

    Parameters
    ----------
    image, model
        As for `seamscope.predict`. All frames of the image (time and other iterated axes) share
        statistics. If frames differ, choose one with `area`.
    how
        ``"exact"``: statistics of the whole image, as in an untiled run. ``"local"``: statistics of
        windows somewhat larger than training patches, interpolated between them (see Notes).
        ``"sampled"``: estimated from a few tiles that differ as much as possible.
    settings
        Tiles, intensities, device and area as for `seamscope.predict`; single settings may be given
        by name. ``tile="auto"`` runs the image untiled if it fits into memory. Local statistics use
        their own windows and do not depend on tiles.
    trust, axes
        As for `seamscope.predict`.
    cell
        For local statistics: pixels, about the size of the patches used in training. Windows are
        two cells wide and one cell apart. Default: 128 in 2D, 64 in 3D.
    tiles
        For sampled statistics: number of tiles.
    memory, disk
        Bytes in which stopped tiles may wait. Default: a share of what is free; 0: no tile waits. A
        window must fit into `memory`.
    partial
        File for intermediate results. If it exists and belongs to the same network, pixels, tiles
        and intensities, the search resumes from it; else it begins again. It is removed at the end.
    work
        Shows progress, and stops when asked to (see `seamscope.work`).

    Returns
    -------
    Statistics
        For `Model.with_statistics`, and to be saved.

    Raises
    ------
    SettingsError
        If the network has no such statistics, or settings contradict each other.
    InterruptedError
        When stopped.

    Notes
    -----
    All three are seamless. Which is closest to the ground truth depends on network and image. Mean
    Dice of four networks trained on patches of 160 pixels, five images of 768 each, a third of them
    empty background (``benchmarks/frozen_statistics.py``): local with cells of 128 0.983, of 64
    0.973, of 256 0.975; exact 0.966; 16 sampled tiles 0.962; each tile's own 0.979 at 160 and 0.981
    at 256. On nuclei, which fill their image evenly, a real network had 0.792 with local ones (128)
    and 0.798 with exact ones; its tiles' own gave 0.792 and 0.796.

    Local statistics are those of a window in which the network ran alone, so those of all layers
    belong together. Local statistics counted layer by layer gave 0.91 and 0.87 where these gave
    0.98, on two of the four networks, and 0.796 on the nuclei.

    Examples
    --------
    >>> import seamscope
    >>> image = np.random.default_rng(0).random((96, 96), np.float32)
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2)).eval()
    >>> statistics = seamscope.freeze_statistics(image, net, tile=32)
    >>> fixed = seamscope.load_model(net).with_statistics(statistics)
    >>> tiled = seamscope.predict(image, fixed, tile=32)
    >>> whole = net(torch.from_numpy(image)[None, None])[0].detach().numpy()
    >>> bool(abs(tiled - whole).max() < 1e-5)
    True
    """
    case = Case.open(image, model, settings, trust=trust, axes=axes, **asked)
    limits: dict[str, Any] = {"cell": cell, "tiles": tiles, "memory": memory, "disk": disk}
    return carry_out(case, plan_freeze(case, how, **limits), partial, work)


def carry_out(
    case: Case,
    plan: FreezePlan,
    partial: Path | None = None,
    work: Work = QUIET,
) -> Statistics:
    """Find statistics as planned; parameters as for `freeze_statistics`."""
    task = _Task(case, plan, work)
    if plan.how == "local":
        found = task.local(partial)
    else:
        found = task.sampled(partial) if plan.how == "sampled" else task.whole(partial)
    if partial is not None:
        forget(partial)
    return found


def forget(partial: Path) -> None:
    """Remove what an interrupted freezing left behind, so that the next one begins again."""
    for file in (partial, *_files_of_halves(partial)):
        file.unlink(missing_ok=True)


def _files_of_halves(partial: Path) -> tuple[Path, Path]:
    """Where the two halves of a sample are kept, by which it is judged."""
    return partial.with_name(partial.name + ".half1"), partial.with_name(partial.name + ".half2")


@dataclass(frozen=True)
class _Round:
    """Tiles with their weights, whose statistics are found layer by layer.

    Attributes
    ----------
    jobs
        Tiles, and how often each counts.
    file
        For what is found on the way, if it is to be kept.
    """

    jobs: tuple[tuple[TileJob, float], ...]
    file: Path | None


class _Task:
    """One freezing: the network on its device, the image as its tiles are read."""

    def __init__(
        self,
        case: Case,
        plan: FreezePlan,
        work: Work,
    ) -> None:
        self.plan, self.model, self.image = plan, case.model, case.image
        self.work = work
        self.reader = case.at(plan.plan).reader(work)
        unit = "windows" if plan.how == "local" else "tiles and layers"
        work.phase(f"Finding {plan.how} statistics", unit)
        self._steps = Steps(work)
        self.runner = case.model.runner(plan.plan.settings.device)
        self._survey = plan.survey
        self.model.module.to(self.runner.device)

    @cached_property
    def jobs(self) -> list[TileJob]:
        """All tiles, of one frame after the other. An area may cut a part of the frames."""
        grid = self.plan.plan.grid
        frames = itertools.product(*(range(*part) for part in self.plan.plan.frame_ranges))
        return [TileJob(frame, tile) for frame in frames for tile in grid]

    # -- all tiles

    def whole(self, partial: Path | None) -> Statistics:
        """Statistics counted over all tiles."""
        (found,) = self._carried_out([_Round(tuple((job, 1.0) for job in self.jobs), partial)])
        return found

    def _carried_out(self, rounds: Sequence[_Round]) -> list[Statistics]:
        """Statistics of each round, going on from what was kept of it."""
        self._steps.total = sum(len(one.jobs) for one in rounds) * len(self.plan.calls)
        return [self._one(one) for one in rounds]

    def _one(self, one: _Round) -> Statistics:
        task = "" if one.file is None else self._identity(one.jobs)
        known = _resumed(one.file, task)
        self._steps.done += len(known) * len(one.jobs)
        layers = list(known)
        for layer in self._layers(one.jobs, known):
            layers.append(layer)
            if one.file is not None:
                self._statistics(layers, task=task).save(one.file)
        return self._statistics(layers)

    def _identity(self, jobs: Sequence[tuple[TileJob, float]]) -> str:
        """Hash of all that statistics depend on: the network and the pixels of its tiles.

        Tiles are read as the network receives them, so image, intensities, channel and padding all
        change the hash. That costs reading the image once more. A prediction of a small input is
        part of the hash, because the network's code may have been edited.
        """
        plan, model = self.plan, self.model
        small, _ = model.examples
        with model.on_cpu(), torch.no_grad():
            answer = model.forward(small)
        model.module.to(self.runner.device)  # where it was, even without weights that say so
        task = (plan.how, plan.calls, plan.cell, str(self.runner.device), model.fingerprint)
        digest = hashlib.sha256(repr((task, plan.plan.grid)).encode())
        digest.update(answer.float().contiguous().numpy().tobytes())
        for job, weight in jobs:
            check(self.work)
            digest.update(repr((job.frame, job.tile.index, weight)).encode())
            digest.update(self.reader.read([job]).tobytes())
        return digest.hexdigest()

    def _statistics(self, layers: Sequence[LayerStatistics], **about: Any) -> Statistics:
        plan = self.plan.plan
        record = {
            "tile": list(plan.grid.tile_shape),
            "halo": [list(side) for side in plan.grid.halo],
            "tiles": self.plan.tiles,
            "cell": None if self.plan.cell is None else list(self.plan.cell),
        }
        return Statistics(
            self.plan.how,
            tuple(layers),
            self.model.fingerprint,
            self.model.name,
            self.image.name,
            plan.grid.image_shape,
            record | plan.seen | about,
        )

    # -- windows

    def local(self, partial: Path | None) -> Statistics:
        """Statistics of windows, by the network's own pass over each; frames taken together."""
        task = "" if partial is None else self._identity([(job, 1.0) for job in self.jobs])
        windows = Windows(self.plan, _resumed(partial, task))
        grid = self.plan.plan.grid
        often = max(1, len(grid) // _SAVES)
        self._steps.total = len(self.jobs)
        for number, tile in enumerate(grid):
            if windows.known(tile):
                self._steps.done += self.plan.plan.frames
                continue
            for job in self.jobs[number :: len(grid)]:
                check(self.work)
                self._look(job, windows)
            if partial is not None and number % often == often - 1:
                self._statistics(windows.layers(self._blank), task=task).save(partial)
        return self._statistics(windows.layers(self._blank))

    def _look(self, job: TileJob, windows: Windows) -> None:
        x = torch.from_numpy(self.reader.read([job])).to(self.runner.device)
        Normalizations(partial_of(windows.add, tile=job.tile)).run(self.model.forward, x)
        self._steps.one()

    # -- some tiles

    def sampled(self, partial: Path | None) -> Statistics:
        """Statistics estimated from a few tiles, and how far they may be from the exact ones."""
        sample = diverse_tiles(self.jobs, self.reader, self.plan.tiles, self.work)
        samples = (sample, *(sample.halves() if len(sample.jobs) > TOO_FEW else ()))
        files = (None,) * 3 if partial is None else (partial, *_files_of_halves(partial))
        rounds = [
            _Round(tuple(one.weighted), file) for one, file in zip(samples, files, strict=False)
        ]
        statistics, *twins = self._carried_out(rounds)
        if not twins:
            return statistics
        return self._statistics(statistics.layers, distance=self._distance(sample, twins))

    def _distance(self, sample: Sample, twins: Sequence[Statistics]) -> dict[str, float]:
        """Estimate how far predictions are from those with exact statistics.

        Each half of the sample differs from the exact statistics with twice the variance of the
        whole sample, independently of the other half. So the halves differ from each other by twice
        what the whole sample differs from the exact statistics, times ``sqrt(1 - n / N)`` for a
        sample without repetition.
        """
        gain = math.sqrt(max(0.0, 1 - len(sample.jobs) / len(self.jobs)))
        apart: list[float] = []
        spread: list[float] = []
        for job in sample.jobs[:JUDGED]:
            check(self.work)
            x = torch.from_numpy(self.reader.read([job])).to(self.runner.device)
            one, two = (Normalizations(twin.answer).run(self.model.forward, x) for twin in twins)
            apart.append(float((one - two).abs().mean()))
            spread.append(float(one.std()))
        mean = float(np.mean(apart)) / 2 * gain
        scale = float(np.mean(spread)) or 1.0
        return {"mean_difference": mean, "in_standard_deviations": mean / scale}

    # -- layer after layer

    def _layers(
        self, jobs: Sequence[tuple[TileJob, float]], known: Sequence[LayerStatistics]
    ) -> Iterator[LayerStatistics]:
        """Complete one layer after the other, for these tiles with their weights."""
        answers = {layer.call: layer for layer in known}
        network = self._network
        with temporary_folder() as folder:
            waiting = _WaitingRoom(self.plan, folder)
            for call in self.plan.calls[len(known) :]:
                parts = Parts(self.plan, self._survey.scale[call])
                for number, (job, weight) in enumerate(jobs):
                    check(self.work)
                    paused = waiting.take(number) or self._begin(network, job)
                    see = partial_of(parts.add, tile=job.tile, weight=weight)
                    answer = self._answer(answers, job)
                    paused = network.advance(paused, call, answer, see, self.runner.device)
                    waiting.put(number, paused)
                    self._steps.one()
                answers[call] = parts.statistics(self._blank(call))
                yield answers[call]

    def _blank(self, call: int) -> LayerStatistics:
        """A layer of which nothing is known but what it is."""
        layer = self._names.get(call)
        name, kind = (layer.name, layer.kind) if layer else (None, "global pooling")
        none = np.zeros(0)
        return LayerStatistics(call, name, kind, none, none, none, (), self._survey.scale[call])

    @cached_property
    def _names(self) -> dict[int, NormLayer]:
        return {call: layer for layer in self.model.audit.layers for call in layer.calls}

    @cached_property
    def _network(self) -> PausableNetwork:
        """One for all rounds, so that tiles of one shape are recorded once."""
        held = (*self.model.module.parameters(), *self.model.module.buffers())
        return PausableNetwork(self.model.forward, held, self._survey.resumable)

    def _begin(self, network: PausableNetwork, job: TileJob) -> Paused:
        return network.begin(torch.from_numpy(self.reader.read([job])))

    def _answer(
        self, answers: Mapping[int, LayerStatistics], job: TileJob
    ) -> Callable[[Call], Moments | None]:
        place = self.plan.plan.grid.place(job.tile)

        def answer(call: Call) -> Moments | None:
            layer = answers.get(call.number)
            return None if layer is None else layer.moments(call, [place])

        return answer


def _resumed(file: Path | None, task: str) -> tuple[LayerStatistics, ...]:
    """Layers of an earlier attempt at the same task; none where the file is of no use."""
    if file is None or not file.exists():
        return ()
    try:
        earlier = Statistics.load(file)
    except ModelError:  # damaged: what it held is found again
        return ()
    return earlier.layers if earlier.about.get("task") == task else ()


class _WaitingRoom:
    """Where stopped tiles wait: in memory, then on disk, then nowhere."""

    def __init__(self, plan: FreezePlan, folder: Path) -> None:
        self._in_memory, self._on_disk = plan.in_memory, plan.on_disk
        self._folder = folder
        self._tiles: dict[int, Paused] = {}

    def put(self, number: int, paused: Paused) -> None:
        if number >= self._in_memory + self._on_disk:
            return
        if number >= self._in_memory:
            paused.waiting.spill(self._folder / str(number))
        self._tiles[number] = paused

    def take(self, number: int) -> Paused | None:
        paused = self._tiles.pop(number, None)
        if paused is not None and number >= self._in_memory:
            paused.waiting.fetch(self._folder / str(number))
        return paused
