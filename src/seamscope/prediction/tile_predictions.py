"""Predict the tiles of a plan, batch by batch.

Knows which batches there are, and what can go wrong in a network. Does not know what becomes of
predictions.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from seamscope.errors import ModelError, SeamscopeError
from seamscope.models.runner import Runner
from seamscope.planning.plan import Plan
from seamscope.planning.reading import TileJob, TileReader, jobs_of
from seamscope.planning.tuning import OutOfMemory, TileRefusedError, is_memory_error
from seamscope.progress import QUIET, Work
from seamscope.stitching import Array
from seamscope.tiling import Slices, Tile


def predict_tiles(
    plan: Plan,
    runner: Runner,
    reader: TileReader,
    *,
    first: Sequence[float] | None = None,
    work: Work = QUIET,
    whole: Callable[[Tile], bool] = lambda _: True,
    needed: Callable[[TileJob], bool] = lambda _: True,
) -> Generator[tuple[tuple[int, ...], Tile, Array], None, None]:
    """Predict all tiles of a plan.

    Yields
    ------
    frame, tile, prediction
        The prediction ``(C, *spatial)`` of one tile. Unless `whole` says so, only what stitching
        keeps is computed, and the tile's `origin` says where that begins. Batches without a tile
        that is `needed` are left out.
    """
    # Whole batches, even if some of their tiles are not needed: as in a run that needs all.
    batches = (
        batch
        for batch in batched(jobs_of(plan, first), plan.settings.batch)
        if any(needed(job) for job in batch)
    )
    return predict_batches(plan, runner, reader, batches, work=work, whole=whole)


def predict_batches(
    plan: Plan,
    runner: Runner,
    reader: TileReader,
    batches: Iterator[list[TileJob]],
    *,
    work: Work = QUIET,
    whole: Callable[[Tile], bool] = lambda _: True,
) -> Generator[tuple[tuple[int, ...], Tile, Array], None, None]:
    """Predict some tiles of a plan, batch by batch, as `predict_tiles` does."""
    for jobs, batch in reader.ahead(batches):
        if work.stopped():
            return
        tiles = [job.tile for job in jobs]
        keep = None if any(map(whole, tiles)) else _needed(plan, tiles)
        runner.at(plan.grid, tiles)
        predictions = _forward(runner, batch, plan, keep)
        for job, prediction in zip(jobs, predictions, strict=True):
            yield job.frame, _beginning_at(job.tile, keep), prediction


def _needed(plan: Plan, tiles: Sequence[Tile]) -> Slices:
    """Smallest box within predictions that holds what stitching keeps of each of these tiles.

    Not cut to the area that is wanted: tiles of an area come out bit for bit as in the whole.
    """
    parts = [tile.within(tile.trusted if plan.blends else tile.core) for tile in tiles]
    return tuple(
        slice(min(part[axis].start for part in parts), max(part[axis].stop for part in parts))
        for axis in range(len(plan.area))
    )


def _beginning_at(tile: Tile, keep: Slices | None) -> Tile:
    if keep is None:
        return tile
    origin = tuple(o + part.start for o, part in zip(tile.origin, keep, strict=True))
    return dataclasses.replace(tile, origin=origin)


def batched(jobs: Iterable[TileJob], size: int) -> Iterator[list[TileJob]]:
    iterator = iter(jobs)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _forward(runner: Runner, batch: Array, plan: Plan, keep: Slices | None) -> Array:
    try:
        predictions = runner(batch, keep)
    except MemoryError as error:
        raise OutOfMemory(error) from error
    except SeamscopeError:
        raise
    except Exception as error:  # whatever a network raises
        if is_memory_error(error):
            raise OutOfMemory(error) from error
        raise TileRefusedError(
            f"The network failed on a tile of shape {batch.shape} "
            f"({type(error).__name__}: {_last_line(error)}). Try another tile size; if it fails "
            "on all, the fault is inside the network."
        ) from error
    size = plan.grid.prediction_shape if keep is None else tuple(k.stop - k.start for k in keep)
    expected = (batch.shape[0], plan.facts.out_channels, *size)
    if predictions.shape != expected:
        raise ModelError(
            f"For a tile of shape {batch.shape} the network gave {predictions.shape} instead of "
            f"{expected}: its output does not grow evenly with its input, so that tiles cannot "
            "be stitched. Use another tile size."
        )
    return predictions


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:200] if lines else type(error).__name__


__all__ = ["predict_batches", "predict_tiles"]
