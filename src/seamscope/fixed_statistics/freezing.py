"""Find fixed statistics: those of a whole image, tile by tile, for prediction without seams.

Knows the order in which layers are completed, what is kept in between, and who does the blocks.
Does not know what that costs (`seamscope.fixed_statistics.freeze_plan`), or how a block is done
(`seamscope.fixed_statistics.blocks`).

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

import contextlib
import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from functools import partial as partial_of
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from seamscope.errors import ModelError, OutputError
from seamscope.execution.devices import on_this_machine, resources_on
from seamscope.execution.intensities import keep_intensity_on
from seamscope.execution.pool import On, Pool, check_on, open_workers
from seamscope.execution.recipe import Recipe, check_travels
from seamscope.execution.sharing import ordering, share_out
from seamscope.execution.worker import Order
from seamscope.files import temporary_folder
from seamscope.fixed_statistics.blocks import Blocks, job_of, layers_of, shared_by, sums_of
from seamscope.fixed_statistics.counting import BlockSums, Merged
from seamscope.fixed_statistics.freeze_plan import JUDGED, TILES, TOO_FEW, FreezePlan, plan_freeze
from seamscope.fixed_statistics.layout import Layout, Round
from seamscope.fixed_statistics.sampling import diverse_tiles
from seamscope.images.image import Image
from seamscope.ledger import Ledger, claimed, discard
from seamscope.models.model import Model
from seamscope.normalization.audit import NormLayer
from seamscope.normalization.calls import Normalizations
from seamscope.normalization.statistics import (
    How,
    LayerStatistics,
    Statistics,
)
from seamscope.planning.case import Case
from seamscope.planning.reading import TileJob
from seamscope.prediction.folders import is_made_of
from seamscope.prediction.resuming import digest_of_frames, same_threads, task_of, threads_of
from seamscope.progress import QUIET, Steps, Work, check
from seamscope.serialization import plain, restore
from seamscope.settings import Settings


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
    on: On = None,
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
        Folder for intermediate results. If it exists and belongs to the same network, pixels, tiles
        and intensities, the search resumes from it; if it is of another search, that is deleted,
        and this one begins. It is removed at the end.
        The resumed statistics are those of an uninterrupted search, bit for bit.
    on
        Workers, as for `seamscope.predict`: how many processes to start here, address or file of a
        scheduler of Dask, or a client. They need image and network as files, and `partial` on a
        disk that all of them see. Sums are added in the same order, whichever process found them.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Returns
    -------
    Statistics
        For `Model.with_statistics`, and to be saved.

    Raises
    ------
    SettingsError
        If the network has no such statistics, or settings contradict each other.
    OutputError
        If `partial` exists and is not the folder of a search.
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
    opening: dict[str, Any] = {"trust": trust, "axes": axes}
    if not isinstance(image, Case):
        device = asked.get("device", (settings or Settings()).device)
        opening["resources"] = resources_on(on, device, work)
    case = Case.open(image, model, settings, **opening, **asked)
    limits: dict[str, Any] = {"cell": cell, "tiles": tiles, "memory": memory, "disk": disk}
    check_workers(case.image, case.model, on)
    plan = plan_freeze(case, how, **limits)
    found = carry_out(case, plan, partial, work, on=on, trust=trust)
    if partial is not None:
        discard(partial)
    return found


def check_workers(image: Image, model: Model, on: On) -> None:
    """Check whether workers can find statistics, before anything is measured.

    Raises
    ------
    SettingsError
        When dask is missing, or image or network are in memory.
    """
    check_on(on)
    if on is not None:
        check_travels(image, model)


def carry_out(
    case: Case,
    plan: FreezePlan,
    partial: Path | None = None,
    work: Work = QUIET,
    *,
    on: On = None,
    trust: bool = False,
    resume: bool = False,
) -> Statistics:
    """Find statistics as planned.

    Parameters
    ----------
    case, plan, work, on, trust
        As for `freeze_statistics`.
    partial
        As for `freeze_statistics`, but it stays: remove it (`seamscope.ledger.discard`) when the
        statistics are saved.
    resume
        Refuse to begin again where `partial` holds other work.

    Raises
    ------
    SeamscopeError
        When workers failed, the disk refuses, or other work would be resumed.
    InterruptedError
        When stopped.
    """
    with contextlib.ExitStack() as stack:
        folder = partial
        if partial is not None:
            stack.enter_context(claimed(partial))
        elif on is not None:
            folder = stack.enter_context(temporary_folder()) / "partial"
        return _Task(case, plan, work, folder, resume).found(on, trust=trust)


def check_found_by(statistics: Statistics, case: Case, plan: FreezePlan) -> None:
    """Check that statistics in a file are those that a search would find.

    Raises
    ------
    OutputError
        When they are of another search; the message names what differs.
    """
    task = _Task(case, plan, QUIET, None, False).described()
    task.pop("device")  # perhaps of workers, which need not be there any more
    is_made_of(statistics.task, task, statistics.source)


class _Task:
    """One freezing: what is known of it, and what is left."""

    def __init__(
        self, case: Case, plan: FreezePlan, work: Work, folder: Path | None, resume: bool
    ) -> None:
        self.case, self.plan, self.model, self.image = case, plan, case.model, case.image
        self.work = work
        self._described: dict[str, Any] = {}
        self._ledger = None if folder is None else self._opened(folder, resume)
        self._steps = Steps(work)
        self._homes: dict[int, str] = {}

    # -- what is known

    def _opened(self, folder: Path, resume: bool) -> Ledger:
        """Return the marks of the same work, else empty ones."""
        if folder.is_dir():
            try:
                ledger = Ledger(folder)
                self._described = self.described()
                ledger.check(self._described, folder.name)
                self._take_plan(restore(FreezePlan, ledger.task["freezing"]))
                return ledger
            except (OutputError, KeyError):
                if resume:
                    raise
        self._described = self.described()
        whole = {**self._described, "plan": plain(self.plan.plan), "freezing": plain(self.plan)}
        return Ledger.begin(folder, whole)

    def _take_plan(self, begun: FreezePlan) -> None:
        """Go on with the tiles that were begun with: which would be best depends on memory."""
        if begun.plan.grid != self.plan.plan.grid:
            self.plan = begun

    def described(self) -> dict[str, Any]:
        """Describe all that statistics depend on.

        A prediction of a small input is part of it, because the network's code may have been
        edited.
        """
        plan, model = self.plan, self.model
        small, _ = model.examples
        with model.on_cpu(), torch.no_grad():
            answer = model.forward(small).float().contiguous().numpy().tobytes()
        return task_of(self.case) | {
            "kind of statistics": plan.how,
            "layers": list(plan.calls),
            "cell": plain(plan.cell),
            "number of tiles": plan.tiles if plan.how == "sampled" else None,
            "device": str(plan.plan.settings.device),
            "code of the network": hashlib.sha256(answer).hexdigest()[:16],
            "hash of all pixels": digest_of_frames(self.case.at(plan.plan), self.work),
        }

    @property
    def _jobs(self) -> _Jobs:
        return _Jobs(self.plan)

    # -- what is left

    def found(self, on: On, *, trust: bool) -> Statistics:
        """Find what is left, here or with workers."""
        with contextlib.ExitStack() as stack:
            if self._ledger is not None:
                stack.enter_context(self._ledger.unless_refused())
            if self._ledger is not None and on is None:
                stack.enter_context(same_threads(self._ledger))
            case = self.case.at(self.plan.plan)
            workers: tuple[Pool, int] | None = None
            if on is not None:
                device = self.plan.plan.settings.device
                workers = stack.enter_context(open_workers(device, on, self.work))
            keep_intensity_on(case, self._ledger, workers and workers[0], self.work)
            here = on_this_machine(case).plan.settings.device  # workers have their own
            blocks = Blocks(self.case, self.plan, Layout((), 1), self.work, here)
            stack.callback(blocks.close)
            self._phase()
            picked, layout = self._laid(blocks)
            blocks.layout = layout
            pool = None if workers is None else self._started(stack, workers, layout, trust)
            if self._ledger is not None and on is not None:
                stack.enter_context(same_threads(self._ledger))
            self._steps.total = layout.steps * self._per_step
            rounds = [
                self._round(number, layout, blocks, pool) for number in range(len(layout.rounds))
            ]
            statistics, *twins = rounds
            if not twins:
                return statistics
            distance = self._distance(blocks, picked, twins)
            return self._statistics(statistics.layers, distance=distance)

    def _phase(self) -> None:
        steps = "windows" if self.plan.how == "local" else "tiles and layers"
        self.work.phase(f"Finding {self.plan.how} statistics", steps, self._finished())

    def _finished(self) -> int:
        """Steps of earlier runs."""
        if self._ledger is None or "layout" not in self._ledger.task:
            return 0
        layout, steps = restore(Layout, self._ledger.task["layout"]), 0
        for number, round_ in enumerate(layout.rounds):
            known = len(self._known(number))
            steps += known * round_.count
            for layer in range(known, layout.layers):
                for block in self._done(layout.blocks(number, layer)):
                    steps += len(layout.piece(block).places) * self._per_step
        return steps

    @property
    def _per_step(self) -> int:
        """Steps of a place: a window is seen in each frame."""
        return self.plan.plan.frames if self.plan.how == "local" else 1

    def _laid(self, blocks: Blocks) -> tuple[list[int], Layout]:
        """Return the tiles of a sample, and the blocks: those that were begun with."""
        ledger = self._ledger
        if ledger is not None and "layout" in ledger.task:
            return list(ledger.task["picked"]), restore(Layout, ledger.task["layout"])
        picked: list[int] = []
        if self.plan.how == "local":
            layout = Layout((Round(len(self.plan.plan.grid)),), 1)
        elif self.plan.how == "exact":
            layout = Layout((Round(len(self._jobs)),), len(self.plan.calls))
        else:
            sample = diverse_tiles(self._jobs, blocks.reader, self.plan.tiles, self.work)
            samples = (sample, *(sample.halves() if len(sample.jobs) > TOO_FEW else ()))
            tiles = [tuple(one.weighted) for one in samples]
            layout = Layout(tuple(Round(len(each), each) for each in tiles), len(self.plan.calls))
            picked = list(sample.numbers)
        if ledger is not None:
            ledger.note("picked", picked)
            ledger.note("layout", plain(layout))
        return picked, layout

    def _started(
        self, stack: contextlib.ExitStack, workers: tuple[Pool, int], layout: Layout, trust: bool
    ) -> Callable[[range], None]:
        """Describe the work to workers, and return what has them do blocks."""
        ledger = self._ledger
        assert ledger is not None
        case = self.case.at(self.plan.plan)
        Recipe.of(case, "", None, "", "").save(ledger.folder, self.model.statistics)
        pool, threads = workers
        own = shared_by(self.plan, len(pool.workers()))
        ledger.note("plan", plain(self.plan.plan))
        ledger.note("freezing", plain(own))
        opens = "seamscope.fixed_statistics.blocks:open_freezing"
        order = stack.enter_context(
            ordering(ledger, pool, threads_of(ledger, threads), trust, opens)
        )
        self._phase()
        return partial_of(self._shared, pool=pool, order=order, layout=layout)

    def _shared(self, numbers: range, pool: Pool, order: Order, layout: Layout) -> None:
        """Have workers do these blocks; each goes on with the tiles that wait in it."""
        assert self._ledger is not None

        def home(block: int) -> str | None:
            return self._homes.get(block - numbers.start)

        def where(block: int) -> str:
            piece = layout.piece(block)
            return f"tiles {piece.places.start} to {piece.places.stop - 1}, layer {piece.layer + 1}"

        for outcome in share_out(numbers, self._ledger, pool, order, where, self.work, home=home):
            self._homes[outcome.block - numbers.start] = outcome.worker
            self._steps.several(len(layout.piece(outcome.block).places) * self._per_step)

    def _round(
        self,
        number: int,
        layout: Layout,
        blocks: Blocks,
        shared: Callable[[range], None] | None,
    ) -> Statistics:
        """Complete one layer after the other, for the tiles of a round."""
        known = self._known(number)
        self._homes.clear()
        places = layout.rounds[number].count
        self._steps.done += len(known) * places if self.plan.how != "local" else 0
        for layer in range(len(known), layout.layers):
            found = self._layers(layout.blocks(number, layer), layout, blocks, known, shared)
            known |= {each.call: each for each in found}
            if self._ledger is not None and self.plan.how != "local":
                self._statistics(list(known.values())).save(layers_of(self._ledger.folder, number))
                for block in layout.blocks(number, layer):
                    sums_of(self._ledger.folder, block).unlink(missing_ok=True)
        return self._statistics(list(known.values()))

    def _known(self, round_: int) -> dict[int, LayerStatistics]:
        """Return the layers of a round that an earlier attempt completed."""
        if self._ledger is None:
            return {}
        file = layers_of(self._ledger.folder, round_)
        try:
            layers = Statistics.load(file).layers if file.exists() else ()
        except ModelError:  # damaged: what it held is found again
            layers = ()
        return {layer.call: layer for layer in layers}

    def _layers(
        self,
        numbers: range,
        layout: Layout,
        blocks: Blocks,
        known: dict[int, LayerStatistics],
        shared: Callable[[range], None] | None,
    ) -> list[LayerStatistics]:
        """Have all blocks of a layer done, and put their sums together."""
        before = self._done(numbers)
        done = sum(len(layout.piece(block).places) for block in before) * self._per_step
        self._steps.done += done
        if shared is not None:
            shared(numbers)
            before = frozenset(numbers)
        merged = Merged(self.plan.plan.grid.shape)
        for block in numbers:
            if block in before:
                assert self._ledger is not None
                sums = BlockSums.load(sums_of(self._ledger.folder, block))
            else:
                sums = blocks.sums(block, known, partial_of(check, self.work), self._steps.one)
                if self._ledger is not None:
                    sums.save(sums_of(self._ledger.folder, block))
                    self._ledger.mark(block)
            merged.add(sums, layout.piece(block).places.start)
        return [
            collector.statistics(self._blank(call), merged.centres.get(call, ()))
            for call, collector in merged.layers.items()
        ]

    def _done(self, numbers: range) -> frozenset[int]:
        """Return the blocks whose sums are kept; the marks of others are removed."""
        if self._ledger is None:
            return frozenset()
        folder, marked = self._ledger.folder, [b for b in numbers if b in self._ledger.done]
        lost = []
        for block in marked:
            try:
                BlockSums.load(sums_of(folder, block))
            except OutputError:  # missing or damaged: what it held is found again
                lost.append(block)
        self._ledger.unmark(lost)
        return frozenset(marked) - frozenset(lost)

    # -- what was found

    def _distance(
        self, blocks: Blocks, picked: Sequence[int], twins: Sequence[Statistics]
    ) -> dict[str, float]:
        """Estimate how far predictions are from those with exact statistics.

        Each half of the sample differs from the exact statistics with twice the variance of the
        whole sample, independently of the other half. So the halves differ from each other by twice
        what the whole sample differs from the exact statistics, times ``sqrt(1 - n / N)`` for a
        sample without repetition.
        """
        gain = math.sqrt(max(0.0, 1 - len(picked) / len(self._jobs)))
        apart: list[float] = []
        spread: list[float] = []
        for number in picked[:JUDGED]:
            check(self.work)
            x = torch.from_numpy(blocks.reader.read([self._jobs[number]])).to(blocks.runner.device)
            one, two = (Normalizations(twin.answer).run(self.model.forward, x) for twin in twins)
            apart.append(float((one - two).abs().mean()))
            spread.append(float(one.std()))
        mean = float(np.mean(apart)) / 2 * gain
        scale = float(np.mean(spread)) or 1.0
        return {"mean_difference": mean, "in_standard_deviations": mean / scale}

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
            task=self._described,
        )

    def _blank(self, call: int) -> LayerStatistics:
        """A layer of which only the kind is known."""
        layer = self._names.get(call)
        name, kind = (layer.name, layer.kind) if layer else (None, "global pooling")
        none = np.zeros(0)
        scale = self.plan.survey.scale[call]
        return LayerStatistics(call, name, kind, none, none, none, (), scale)

    @cached_property
    def _names(self) -> dict[int, NormLayer]:
        return {call: layer for layer in self.model.audit.layers for call in layer.calls}


class _Jobs(Sequence[TileJob]):
    """All tiles, of one frame after the other; made on request."""

    def __init__(self, plan: FreezePlan) -> None:
        self._plan = plan

    def __len__(self) -> int:
        return len(self._plan.plan.grid) * self._plan.plan.frames

    def __getitem__(self, number: Any) -> Any:
        return job_of(self._plan, number)


__all__ = ["carry_out", "check_found_by", "check_workers", "freeze_statistics"]
