"""One block of tiles, up to one layer: the network runs, and the layer's features are counted.

Knows a network on its device, and where stopped tiles wait. Does not know which blocks are left, or
how their sums are put together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from functools import partial as partial_of
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seamscope.execution.block import device_of
from seamscope.execution.recipe import Recipe
from seamscope.execution.worker import Order
from seamscope.files import temporary_folder
from seamscope.fixed_statistics.counting import BlockSums, Parts, centres_of
from seamscope.fixed_statistics.freeze_plan import FreezePlan
from seamscope.fixed_statistics.layout import Layout, Piece
from seamscope.ledger import Ledger
from seamscope.normalization.calls import Call, Moments, Normalizations
from seamscope.normalization.pausing import PausableNetwork, Paused
from seamscope.normalization.statistics import LayerStatistics, Statistics
from seamscope.planning.case import Case
from seamscope.planning.reading import TileJob
from seamscope.progress import QUIET, Work
from seamscope.serialization import restore

Known = Mapping[int, LayerStatistics]


class Blocks:
    """The blocks of a freezing, done in this process.

    Parameters
    ----------
    case
        Image and network; its plan is that of the tiles.
    plan
        What is to be found.
    layout
        The blocks.
    work
        Shown how the image is measured.
    device
        Instead of the plan's.
    """

    def __init__(
        self,
        case: Case,
        plan: FreezePlan,
        layout: Layout,
        work: Work = QUIET,
        device: str | None = None,
    ) -> None:
        self._plan, self.layout, self._model = plan, layout, case.model
        self.reader = case.at(plan.plan).reader(work)
        self.runner = case.model.runner(device or plan.plan.settings.device)
        case.model.module.to(self.runner.device)
        self._cleaning = contextlib.ExitStack()
        self._waiting: _WaitingRoom | None = None
        self._round = -1

    def close(self) -> None:
        """Release all tiles that wait."""
        self._cleaning.close()
        self._waiting = None

    def sums(
        self,
        block: int,
        known: Known,
        check: Callable[[], None],
        seen: Callable[[], None] = lambda: None,
    ) -> BlockSums:
        """Count one block.

        Parameters
        ----------
        block
            Its number.
        known
            The layers before it, by call.
        check
            Called before each tile; what it raises ends the work.
        seen
            Called after each tile.
        """
        piece, sums = self.layout.piece(block), BlockSums()
        if self._plan.how == "local":
            sums = BlockSums(len(piece.places))
            for window in range(len(piece.places)):
                for _ in self._window(piece, window, sums, check):
                    seen()
            return sums
        for _ in self._layer(piece, known, sums, check):
            seen()
        return sums

    # -- windows

    def _window(
        self, piece: Piece, window: int, sums: BlockSums, check: Callable[[], None]
    ) -> Iterator[None]:
        """Count a window in all layers, by the network's own pass over it in each frame."""
        per_frame = len(self._plan.plan.grid)
        for frame in range(self._plan.plan.frames):
            check()
            job = job_of(self._plan, frame * per_frame + piece.places[window])
            see = partial_of(self._see_window, sums=sums, window=window, job=job)
            x = torch.from_numpy(self.reader.read([job])).to(self.runner.device)
            Normalizations(see).run(self._model.forward, x)
            yield

    def _see_window(self, call: Call, sums: BlockSums, window: int, job: TileJob) -> None:
        number = call.number
        if number not in self._plan.calls:
            return
        if number in self._plan.survey.by_hand:  # one number for the image: windows overlap
            self._parts[number].add(call, job.tile, sums.layer(number, 1))
            return
        sums.layer(number).add((window,), call.features[:1], call.groups)
        if number not in sums.centres:
            sums.centres[number] = centres_of(self._plan, call)

    @cached_property
    def _parts(self) -> dict[int, Parts]:
        scale = self._plan.survey.scale
        return {call: Parts(self._plan, scale[call]) for call in self._plan.calls}

    # -- layer after layer

    def _layer(
        self, piece: Piece, known: Known, sums: BlockSums, check: Callable[[], None]
    ) -> Iterator[None]:
        """Have the tiles go on to a layer, and count it."""
        waiting, call = self._waiting_in(piece.round), self._plan.calls[piece.layer]
        add = partial_of(self._parts[call].add, collector=sums.layer(call))
        for place in piece.places:
            check()
            number, weight = self.layout.rounds[piece.round].tile(place)
            job = job_of(self._plan, number)
            paused = waiting.take(place, piece.layer) or self._begin(job)
            see = partial_of(add, tile=job.tile, weight=weight)
            answer = self._answer(known, job)
            paused = self._network.advance(paused, call, answer, see, self.runner.device)
            waiting.put(place, piece.layer, paused)
            yield

    def _waiting_in(self, round_: int) -> _WaitingRoom:
        if self._waiting is None or round_ != self._round:
            self._cleaning.close()
            folder = self._cleaning.enter_context(temporary_folder())
            self._waiting, self._round = _WaitingRoom(self._plan, folder), round_
        return self._waiting

    @cached_property
    def _network(self) -> PausableNetwork:
        """One for all rounds, so that tiles of one shape are recorded once."""
        module = self._model.module
        held = (*module.parameters(), *module.buffers())
        return PausableNetwork(self._model.forward, held, self._plan.survey.resumable)

    def _begin(self, job: TileJob) -> Paused:
        return self._network.begin(torch.from_numpy(self.reader.read([job])))

    def _answer(self, known: Known, job: TileJob) -> Callable[[Call], Moments | None]:
        place = self._plan.plan.grid.place(job.tile)

        def answer(call: Call) -> Moments | None:
            layer = known.get(call.number)
            return None if layer is None else layer.moments(call, [place])

        return answer


def job_of(plan: FreezePlan, number: int) -> TileJob:
    """Return the tile of a number: all of one frame, then those of the next.

    An area may cut a part of the frames.
    """
    own = plan.plan
    inside, tile = divmod(number, len(own.grid))
    lengths = tuple(stop - start for start, stop in own.frame_ranges)
    frame = np.unravel_index(inside, lengths) if lengths else ()
    index = np.unravel_index(tile, own.grid.shape)
    starts = (start for start, _ in own.frame_ranges)
    return TileJob(
        tuple(start + int(i) for start, i in zip(starts, frame, strict=True)),
        own.grid[tuple(int(i) for i in index)],
    )


class _WaitingRoom:
    """Where stopped tiles wait: in memory, then on disk, then nowhere."""

    def __init__(self, plan: FreezePlan, folder: Path) -> None:
        self._in_memory, self._on_disk = plan.in_memory, plan.on_disk
        self._folder = folder
        self._tiles: dict[int, tuple[int, Paused]] = {}
        self._spilled: set[int] = set()

    def put(self, place: int, layer: int, paused: Paused) -> None:
        """Have a tile wait that was counted up to a layer."""
        if len(self._tiles) - len(self._spilled) >= self._in_memory:
            if len(self._spilled) >= self._on_disk:
                return
            paused.waiting.spill(self._folder / str(place))
            self._spilled.add(place)
        self._tiles[place] = layer, paused

    def take(self, place: int, layer: int) -> Paused | None:
        """Return a tile that waits just before a layer; None where it must begin again."""
        seen, paused = self._tiles.pop(place, (-1, None))
        spilled = place in self._spilled
        self._spilled.discard(place)
        if paused is None or seen != layer - 1:
            return None
        if spilled:
            paused.waiting.fetch(self._folder / str(place))
        return paused


# -- in a worker


def sums_of(folder: Path, block: int) -> Path:
    """Return where the sums of a block are, beside its mark."""
    return folder / f"{block}.sums"


def layers_of(folder: Path, round_: int) -> Path:
    """Return where the layers of a round are that are known."""
    return folder / f"round{round_}.safetensors"


class BlocksOnDisk:
    """The blocks of a freezing, whose sums are written beside their marks; `Blockwise`."""

    def __init__(self, blocks: Blocks, layout: Layout, folder: Path) -> None:
        self._blocks, self._layout, self._folder = blocks, layout, folder
        self._known: tuple[int, dict[int, LayerStatistics]] = -1, {}

    @property
    def device(self) -> str:
        """Device that the network runs on."""
        return str(self._blocks.runner.device)

    def carry_out(self, block: int, check: Callable[[], None]) -> int:
        """Count a block, and write its sums."""
        piece = self._layout.piece(block)
        sums = self._blocks.sums(block, self._known_before(piece), check)
        check()
        sums.save(sums_of(self._folder, block))
        return 0

    def _known_before(self, piece: Piece) -> dict[int, LayerStatistics]:
        round_, layers = self._known
        if round_ != piece.round or len(layers) < piece.layer:
            layers = {}
            if piece.layer:
                found = Statistics.load(layers_of(self._folder, piece.round))
                layers = {layer.call: layer for layer in found.layers}
            self._known = piece.round, layers
        return layers


def open_freezing(ledger: Ledger, order: Order) -> BlocksOnDisk:
    """Open a freezing in a worker (see `seamscope.execution.worker.Order`)."""
    torch.set_num_threads(order.threads)
    case = Recipe.load(ledger.folder).open(ledger, trust=order.trust)
    task: Any = ledger.task
    layout, plan = restore(Layout, task["layout"]), restore(FreezePlan, task["freezing"])
    device = device_of(plan.plan.settings.device, order.gpu)
    return BlocksOnDisk(Blocks(case, plan, layout, device=device), layout, ledger.folder)


def shared_by(plan: FreezePlan, workers: int) -> FreezePlan:
    """Return the plan of one of so many workers: of memory and disk each has its part."""
    workers = max(1, workers)  # for a moment, the pool may know of none
    each = math.ceil(plan.tiles / workers)
    in_memory = min(each, plan.in_memory // workers)
    on_disk = min(each - in_memory, plan.on_disk // workers)
    return dataclasses.replace(plan, in_memory=in_memory, on_disk=on_disk)


__all__ = ["Blocks", "BlocksOnDisk", "job_of", "layers_of", "open_freezing", "shared_by", "sums_of"]
