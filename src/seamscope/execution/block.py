"""One block of a plan's result: predicted, stitched and written.

Knows which tiles and batches a block needs. Does not know who asks for it, or what is marked.

A block comes out bit for bit as it does in a run of the whole: its tiles are predicted in the
batches that such a run has, and blended in the same order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from seamscope.errors import OutputError
from seamscope.execution.recipe import Recipe
from seamscope.execution.worker import Order, RefusedError
from seamscope.images.results.create import open_part
from seamscope.images.results.output import Output
from seamscope.ledger import Ledger
from seamscope.planning.blocks import Blocks
from seamscope.planning.plan import Plan
from seamscope.planning.reading import TileJob, jobs_of
from seamscope.planning.tuning import accelerate
from seamscope.prediction.resuming import blocks_of
from seamscope.prediction.run import Attempt, measured_tiles
from seamscope.prediction.stitcher import Stitcher
from seamscope.prediction.tile_predictions import predict_batches
from seamscope.progress import Work, check
from seamscope.seams.comparison import Compared
from seamscope.seams.kinds import Kind, kind_of
from seamscope.seams.meter import SeamMeter
from seamscope.seams.records import SeamRecords
from seamscope.seams.tolerance import Spread
from seamscope.stitching import Array, canvas
from seamscope.tiling import Slices, Tile


class BlockRun:
    """A run of which blocks are done one by one.

    Parameters
    ----------
    attempt
        Plan, network and reader.
    blocks
        Of the plan.
    output
        Where they are written.
    kind
        What is predicted, for the seams' measures; None where none are made.
    """

    def __init__(
        self, attempt: Attempt, blocks: Blocks, output: Output, kind: Kind | None = None
    ) -> None:
        self._attempt = attempt
        self._blocks = blocks
        self._output = output
        self._kind = kind
        self._batches = Batches(attempt.plan)
        self._measured = measured_tiles(attempt.plan)

    @property
    def device(self) -> str:
        """Device that the network runs on."""
        return str(self._attempt.runner.device)

    def carry_out(
        self, block: int, check: Callable[[], None] = lambda: None
    ) -> tuple[int, SeamRecords]:
        """Predict and write one block.

        Parameters
        ----------
        block
            Its number.
        check
            Called before each write; what it raises ends the work.

        Returns
        -------
        not_finite, records
            Pixels of the block that are not finite; measures of its seams.
        """
        attempt = self._attempt
        part = _Part(attempt.plan, self._blocks, block, check)
        stitcher = Stitcher(attempt.plan, self._output, part)
        frame = frame_of(self._blocks, block)
        tiles = canvas(attempt.plan.grid, attempt.plan.settings.blend, part.area(frame)).tiles()
        mine = {tile.index for tile in tiles}
        seams = _Seams(self._blocks, block, self._kind, self._measured)
        tiles += [attempt.plan.grid[index] for index in sorted(seams.needed - mine)]
        predictions = predict_batches(
            attempt.plan,
            attempt.runner,
            attempt.reader,
            self._batches.with_tiles(frame, sorted(tiles, key=lambda tile: tile.index)),
            whole=lambda tile: tile.index in self._measured,
        )
        with closing(predictions):
            for its_frame, tile, prediction in predictions:
                if its_frame == frame:
                    seams.see(tile, prediction, frame)
                    if tile.index in mine:
                        stitcher.add(frame, tile, prediction)
        stitcher.finish()
        self._output.flush()
        return part.not_finite, seams.records

    def kind(self) -> Kind | None:
        """Find out what is predicted; None where nothing is measured."""
        return first_kind(self._attempt, SeamMeter.of(self._attempt.plan))


def first_kind(attempt: Attempt, meter: SeamMeter) -> Kind | None:
    """Find out what is predicted, from the first tile that is measured; None where none is."""
    plan, measured = attempt.plan, measured_tiles(attempt.plan)
    if not measured:
        return None
    if meter.kind != "auto":
        return meter.kind
    first = plan.grid[min(measured)]
    frame = tuple(start for start, _ in plan.frame_ranges)
    predictions = predict_batches(
        plan,
        attempt.runner,
        attempt.reader,
        Batches(plan).with_tiles(frame, [first]),
        whole=lambda _: True,
    )
    with closing(predictions):
        return next(kind_of(y) for _, tile, y in predictions if tile.index == first.index)


@dataclass(frozen=True)
class _Opened:
    """A prediction that is open in this process, as `seamscope.execution.worker.Blockwise`."""

    blocks: BlockRun
    folder: Path
    measures: bool

    @property
    def device(self) -> str:
        return self.blocks.device

    def carry_out(self, block: int, check: Callable[[], None]) -> int:
        not_finite, records = self.blocks.carry_out(block, check)
        check()
        if self.measures:
            records.save(seams_of(self.folder, block))
        return not_finite


def open_blocks(ledger: Ledger, order: Order) -> _Opened:
    """Open a prediction in this process, by the recipe beside its marks.

    Raises
    ------
    RefusedError, SeamscopeError
        When this process cannot do it.
    """
    recipe = Recipe.load(ledger.folder)
    attempt = open_attempt(recipe, ledger, order)
    plan = attempt.plan
    run = BlockRun(
        attempt,
        blocks_of(plan, ledger),
        open_part(recipe.unfinished, recipe.final, plan.out_shape, plan.out_dtype, plan.out_axes),
        recipe.kind,  # type: ignore[arg-type]
    )
    return _Opened(run, ledger.folder, recipe.kind is not None)


def open_attempt(recipe: Recipe, ledger: Ledger, order: Order) -> Attempt:
    """Open image and network in this process, and make the run's equivalent of the network.

    Raises
    ------
    RefusedError, SeamscopeError
        When this process cannot do it.
    """
    torch.set_num_threads(order.threads)
    case = recipe.open(ledger, trust=order.trust)
    plan = case.plan
    device = device_of(plan.settings.device, order.gpu)
    runner = case.model.runner(device, plan.settings.precision)
    reader = case.reader()
    way = accelerate(plan, case.model, runner, reader, recipe.way)
    if way != recipe.way:
        raise RefusedError(
            f"The run uses an equivalent of the network ({recipe.way}) that this worker cannot "
            "make. Give all workers the same packages and kind of processor, or use the network "
            "as it is (`accelerate=False`)."
        )
    return Attempt(plan, case.model, runner, reader, case.intensity(), way)


def look(attempt: Attempt, work: Work) -> None:
    """Look which chunks of the image are stored: no process has read all of them.

    Raises
    ------
    InterruptedError
        When stopped.
    """
    for job in jobs_of(attempt.plan, None):
        check(work)
        attempt.reader.look(job)


def seams_of(folder: Path, block: int) -> Path:
    """Return where the measures of a block's seams are, beside its mark."""
    return folder / f"{block}.seams"


def lost_seams(ledger: Ledger, axes: int) -> frozenset[int]:
    """Return the blocks that are marked, and whose measures are missing or damaged."""
    lost = set()
    for block in ledger.done:
        try:
            SeamRecords.load(seams_of(ledger.folder, block), axes)
        except OutputError:
            lost.add(block)
    return frozenset(lost)


def device_of(planned: str, gpu: int | None) -> str:
    """Return the device of this worker; a GPU is never replaced by the CPU."""
    if not planned.startswith("cuda"):
        return planned
    if not torch.cuda.is_available():
        raise RefusedError(
            "The run is planned for a GPU, and this worker has none that works. Start workers on "
            "machines with a GPU, or choose the CPU (`device='cpu'`)."
        )
    count = torch.cuda.device_count()
    return f"cuda:{0 if gpu is None else gpu % count}"


class _Seams:
    """Measures the seams of one block: those below and right of tiles whose core begins in it.

    Attributes
    ----------
    needed
        Indices of the tiles that must be seen: its own, and their neighbours above and left.
    records
        What was measured.
    """

    def __init__(
        self,
        blocks: Blocks,
        block: int,
        kind: Kind | None,
        measured: frozenset[tuple[int, ...]],
    ) -> None:
        self.records = SeamRecords()
        self._own = set() if kind is None else measured & set(_owned(blocks, block))
        above = {
            (*index[:axis], index[axis] - 1, *index[axis + 1 :])
            for index in self._own
            for axis in range(len(index))
        }
        self.needed = self._own | (above & measured)
        self._meter = SeamMeter.of(blocks.plan, self._record)
        if kind is not None:
            self._meter.guess(kind)

    def see(self, tile: Tile, prediction: Array, frame: tuple[int, ...]) -> None:
        if tile.index not in self.needed:
            return
        self._meter.spread, self._meter.doubtful = Spread(), False
        self._meter.see(tile, prediction, frame, self.needed)
        if tile.index in self._own:
            seen = self._meter.spread, self._meter.doubtful
            self.records.tiles.append((frame, tile.index, *seen))

    def _record(self, compared: Compared, worst: tuple[int, ...]) -> None:
        upper = tuple(i + (a == compared.axis) for a, i in enumerate(compared.lower))
        if upper in self._own:
            self.records.overlaps.append((compared, worst))


def _owned(blocks: Blocks, block: int) -> Iterator[tuple[int, ...]]:
    """Indices of the tiles whose core, clipped to the plan's area, begins in a block."""
    along = []
    for axis, area, part in zip(
        blocks.plan.grid.axes, blocks.plan.area, blocks.region(block), strict=True
    ):
        low, high = area.start + part.start, area.start + part.stop
        met = axis.touching((area.start, area.stop), trusted=blocks.plan.blends)
        begins = ((i, min(max(axis[i].core[0], area.start), area.stop - 1)) for i in met)
        along.append([i for i, start in begins if low <= start < high])
    return itertools.product(*along)


class _Part:
    """One block, as `seamscope.prediction.stitcher.Wanted`."""

    def __init__(self, plan: Plan, blocks: Blocks, block: int, check: Callable[[], None]) -> None:
        self._area = tuple(
            slice(whole.start + part.start, whole.start + part.stop)
            for whole, part in zip(plan.area, blocks.region(block), strict=True)
        )
        self._check = check
        self.not_finite = 0

    def needs(self, frame: tuple[int, ...], tile: Tile) -> bool:
        self._check()
        return True

    def area(self, frame: tuple[int, ...]) -> Slices:
        return self._area

    def wrote(
        self, frame: tuple[int, ...], region: Slices, bad: npt.NDArray[np.bool_] | None = None
    ) -> None:
        self.not_finite += 0 if bad is None else int(bad.sum())


class Batches:
    """The batches of a whole run, found by the tiles they hold.

    Parameters
    ----------
    plan
        Of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    @cached_property
    def _along(self) -> tuple[range, ...]:
        """Numbers of the tiles that a frame has along each axis."""
        plan = self._plan
        return tuple(
            axis.touching((part.start, part.stop), trusted=plan.blends)
            for axis, part in zip(plan.grid.axes, plan.area, strict=True)
        )

    @property
    def _per_frame(self) -> int:
        return math.prod(map(len, self._along))

    def with_tiles(self, frame: tuple[int, ...], tiles: Sequence[Tile]) -> Iterator[list[TileJob]]:
        """Yield each batch that holds one of these tiles of a frame, in the order of the run."""
        size = self._plan.settings.batch
        if size == 1:
            yield from ([TileJob(frame, tile)] for tile in tiles)
            return
        numbers = sorted({self.order(frame, tile.index) // size for tile in tiles})
        last = self._per_frame * self._plan.frames
        for number in numbers:
            yield [self.job(n) for n in range(number * size, min((number + 1) * size, last))]

    def order(self, frame: tuple[int, ...], index: tuple[int, ...]) -> int:
        """Return the number of a tile in the whole run."""
        return self._per_frame * self._frame_number(frame) + self._number(index)

    def _number(self, tile: tuple[int, ...]) -> int:
        number = 0
        for along, index in zip(self._along, tile, strict=True):
            number = number * len(along) + index - along.start
        return number

    def job(self, number: int) -> TileJob:
        """Return the tile of a number in the whole run."""
        frame, inside = divmod(number, self._per_frame)
        index: list[int] = []
        for along in reversed(self._along):
            inside, at = divmod(inside, len(along))
            index.append(along[at])
        return TileJob(self._frames[frame], self._plan.grid[tuple(reversed(index))])

    @cached_property
    def _frames(self) -> list[tuple[int, ...]]:
        return list(itertools.product(*(range(*part) for part in self._plan.frame_ranges)))

    def _frame_number(self, frame: tuple[int, ...]) -> int:
        number = 0
        for index, (start, stop) in zip(frame, self._plan.frame_ranges, strict=True):
            number = number * (stop - start) + index - start
        return number


def frame_of(blocks: Blocks, block: int) -> tuple[int, ...]:
    """Return the frame of a block: its index along each iterated axis of the image."""
    number, frame = block // blocks.per_frame, []
    for start, stop in reversed(blocks.plan.frame_ranges):
        number, index = divmod(number, stop - start)
        frame.append(start + index)
    return tuple(reversed(frame))


def place_of(blocks: Blocks, block: int) -> Slices:
    """Return where a block lies in the result: one slice for each axis of it."""
    plan = blocks.plan
    frame = (
        slice(i - start, i - start + 1)
        for i, (start, _) in zip(frame_of(blocks, block), plan.frame_ranges, strict=True)
    )
    channels = (slice(0, plan.out_channels),) * ("c" in plan.out_axes)
    return (*frame, *channels, *blocks.region(block))


__all__ = [
    "Batches",
    "BlockRun",
    "device_of",
    "first_kind",
    "frame_of",
    "look",
    "lost_seams",
    "open_attempt",
    "open_blocks",
    "place_of",
    "seams_of",
]
