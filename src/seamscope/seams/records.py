"""Measures of seams that several processes make, and one of them sums up.

Knows how the measures of single overlaps are stored and put in order. Does not know predictions.

Sums of floats depend on their order. Here they are added in the order of a run in one process, so
that the measures come out the same to the last bit, whichever process made which part, and when.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from seamscope.errors import OutputError
from seamscope.files import DAMAGED, disk_errors, write_file
from seamscope.seams.comparison import Compared, Terms
from seamscope.seams.measures import Frame
from seamscope.seams.meter import Half, SeamMeter
from seamscope.seams.tolerance import Spread

Order: TypeAlias = Callable[[Frame, tuple[int, ...]], int]


@dataclass
class SeamRecords:
    """The measures of some tiles and overlaps.

    Attributes
    ----------
    overlaps
        Measures of each overlap, with the output pixel of its max difference.
    tiles
        Frame, index and spread of each tile, and whether it contradicts the assumed kind.
    halves
        What was predicted in overlaps whose other tile belongs to another part of the run.
    """

    overlaps: list[tuple[Compared, tuple[int, ...]]] = field(default_factory=list)
    tiles: list[tuple[Frame, tuple[int, ...], Spread, bool]] = field(default_factory=list)
    halves: list[Half] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write them to a file, in one step.

        Raises
        ------
        OutputError
            When the disk refuses.
        """
        arrays: dict[str, Any] = {
            "frames": np.array([frame for frame, *_ in self.tiles], np.int64),
            "tiles": np.array([index for _, index, *_ in self.tiles], np.int64),
            "counts": np.array([[s.count, bad] for *_, s, bad in self.tiles], np.int64),
            "sums": np.array([[s.total, s.squares] for *_, s, _ in self.tiles]),
        }
        for number, (each, worst) in enumerate(self.overlaps):
            head = [each.axis, each.at, each.lost, *each.lower, *worst, *each.frame]
            arrays[f"{number}"] = np.array(head, np.int64)
            for name, values in each.terms._asdict().items():
                arrays[f"{number} {name}"] = values
        for number, ((frame, lower, axis), of_lower, half) in enumerate(self.halves):
            arrays[f"half {number}"] = np.array([axis, of_lower, *lower, *frame], np.int64)
            arrays[f"predicted {number}"] = half
        content = io.BytesIO()
        np.savez(content, **arrays)
        with disk_errors(path, "What was written so far is kept."):
            write_file(path, content.getvalue(), shared=True, lasting=False)

    @classmethod
    def load(cls, path: Path, axes: int) -> SeamRecords:
        """Read what `save` wrote.

        Parameters
        ----------
        path
            The file.
        axes
            Number of axes of space.

        Raises
        ------
        OutputError
            When it is missing or damaged.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return cls(
                    list(_overlaps(stored, axes)),
                    list(_tiles(stored)),
                    list(_halves(stored, axes)),
                )
        except DAMAGED as error:
            raise OutputError(
                f"{path} is missing or damaged, so that the seams of the result are not known. "
                "Begin again (overwrite), or predict without measuring them (--seams none)."
            ) from error


def _overlaps(stored: Any, axes: int) -> Iterable[tuple[Compared, tuple[int, ...]]]:
    for number in range(sum(name.isdecimal() for name in stored.files)):
        axis, at, lost, *rest = stored[f"{number}"].tolist()
        lower, worst, frame = rest[:axes], rest[axes : 2 * axes], rest[2 * axes :]
        terms = Terms(*(stored[f"{number} {name}"] for name in Terms._fields))
        yield Compared(tuple(frame), tuple(lower), axis, at, lost, terms), tuple(worst)


def _halves(stored: Any, axes: int) -> Iterable[Half]:
    for number in range(sum(name.startswith("half") for name in stored.files)):
        axis, of_lower, *rest = stored[f"half {number}"].tolist()
        key = tuple(rest[axes:]), tuple(rest[:axes]), axis
        yield key, bool(of_lower), stored[f"predicted {number}"]


def _tiles(stored: Any) -> Iterable[tuple[Frame, tuple[int, ...], Spread, bool]]:
    rows = zip(
        *(stored[name].tolist() for name in ("frames", "tiles", "counts", "sums")), strict=True
    )
    for frame, index, (count, bad), (total, squares) in rows:
        yield tuple(frame), tuple(index), Spread(count, total, squares), bool(bad)


def sum_up(meter: SeamMeter, records: Iterable[SeamRecords], order: Order) -> None:
    """Let a meter take the measures of all records, in the order of a run in one process.

    Parameters
    ----------
    meter
        Without measures of its own.
    records
        Of all parts of a run.
    order
        Number of a tile in the run, by frame and index.
    """
    found = list(records)
    tiles = (tile for each in found for tile in each.tiles)
    for _, _, spread, doubtful in sorted(tiles, key=lambda tile: order(tile[0], tile[1])):
        meter.spread.count += spread.count
        meter.spread.total += spread.total
        meter.spread.squares += spread.squares
        meter.doubtful |= doubtful
    overlaps = (overlap for each in found for overlap in each.overlaps)

    def moment(overlap: tuple[Compared, tuple[int, ...]]) -> tuple[int, int]:
        """When a run compares the two tiles: as soon as it has the upper one."""
        each, _ = overlap
        upper = tuple(i + (a == each.axis) for a, i in enumerate(each.lower))
        return order(each.frame, upper), each.axis

    for compared, worst in sorted(overlaps, key=moment):
        meter.take(compared, worst)


__all__ = ["SeamRecords", "sum_up"]
