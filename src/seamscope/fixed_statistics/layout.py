"""In which blocks statistics are found, so that they can be shared out and resumed.

Knows rounds, layers and numbers of tiles. Does not know what is counted.

A block is some tiles, up to one layer. All blocks of a layer come before those of the next, and all
layers of a round before the next round::

    round 0, layer 0     blocks 0 1 2 3        each some tiles
             layer 1            4 5 6 7        the same tiles
    round 1, layer 0            8 9            half the tiles, to judge a sample
             layer 1           10 11

Local statistics have one round and one layer: all layers of a window are found in one pass. Where
blocks begin depends on the number of tiles only, so that sums are added in the same order whichever
process found them.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

# Blocks of each layer: few enough to be marked, enough for many workers; of some tiles, since each
# costs some milliseconds.
_MOST, _FEW, _TILES = 256, 32, 4


@dataclass(frozen=True)
class Round:
    """Tiles whose statistics are found layer by layer.

    Attributes
    ----------
    count
        How many there are.
    tiles
        Number of each, and how often it counts; None for all, once each.
    """

    count: int
    tiles: tuple[tuple[int, float], ...] | None = None

    def tile(self, place: int) -> tuple[int, float]:
        """Return the number of the tile at a place of the round, and how often it counts."""
        return (place, 1.0) if self.tiles is None else self.tiles[place]


@dataclass(frozen=True)
class Piece:
    """One block.

    Attributes
    ----------
    round, layer
        To which it belongs; 0 is the first.
    places
        Of its tiles in the round.
    """

    round: int
    layer: int
    places: range


@dataclass(frozen=True)
class Layout:
    """All blocks.

    Attributes
    ----------
    rounds
        In their order.
    layers
        How many each has.

    Examples
    --------
    >>> layout = Layout((Round(4), Round(2, ((0, 1.0), (2, 3.0)))), layers=2)
    >>> layout.blocks(1, 0)
    range(8, 10)
    >>> layout.piece(9)
    Piece(round=1, layer=0, places=range(1, 2))
    """

    rounds: tuple[Round, ...]
    layers: int

    @property
    def steps(self) -> int:
        """Tiles times layers, of all rounds."""
        return self.layers * sum(each.count for each in self.rounds)

    def blocks(self, round_: int, layer: int) -> range:
        """Return the numbers of the blocks of a layer."""
        first = self._firsts[round_] + layer * self._along(round_)
        return range(first, first + self._along(round_))

    def piece(self, block: int) -> Piece:
        """Return which block has a number."""
        round_ = bisect.bisect_right(self._firsts, block) - 1
        along, count = self._along(round_), self.rounds[round_].count
        layer, number = divmod(block - self._firsts[round_], along)
        places = range(number * count // along, (number + 1) * count // along)
        return Piece(round_, layer, places)

    def _along(self, round_: int) -> int:
        count = self.rounds[round_].count
        return min(count, _MOST, max(_FEW, count // _TILES))

    @cached_property
    def _firsts(self) -> Sequence[int]:
        sizes = (self.layers * self._along(number) for number in range(len(self.rounds)))
        return [0, *itertools.accumulate(sizes)][:-1]


__all__ = ["Layout", "Piece", "Round"]
