"""Tiles that another program planned: read windows and cores, checked and used as they are.

Knows files of tiles and what a grid must fulfil. Does not know where tiles would better be.

A file is JSON, a list of tiles, or CSV with a row for each tile. Numbers are pixels of the image,
and a stop is the pixel after the last::

    [{"read": [[0, 96], [0, 96]], "core": [[0, 80], [0, 80]]}, ...]

    y_start,y_stop,x_start,x_stop,core_y_start,core_y_stop,core_x_start,core_x_stop
    0,96,0,96,0,80,0,80

Windows are all of one size, and may begin before the image or end behind it: what is missing there
is padded. Tiles lie in rows and columns: each combination of a window along y and one along x.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from seamscope.errors import SettingsError
from seamscope.tiling import GivenAxis, Lattice, TileGrid, axis_names

Span: TypeAlias = tuple[int, int, int, int]
"""Start and stop of a window, and of its core."""


@dataclass(frozen=True)
class GivenTiles:
    """Windows and cores along each axis of space.

    Attributes
    ----------
    axes
        For each axis the tiles along it, in order.

    Examples
    --------
    >>> tiles = GivenTiles.of([
    ...     {"read": [[0, 24], [0, 16]], "core": [[0, 16], [0, 16]]},
    ...     {"read": [[8, 32], [0, 16]], "core": [[16, 32], [0, 16]]},
    ... ])
    >>> grid = tiles.grid((32, 16), [Lattice()] * 2)
    >>> grid.shape, grid.halo, grid.tile_shape
    ((2, 1), ((8, 8), (0, 0)), (24, 16))
    """

    axes: tuple[tuple[Span, ...], ...]

    @classmethod
    def of(cls, tiles: Any) -> GivenTiles:
        """Return the tiles in any of their forms.

        Parameters
        ----------
        tiles
            A file, a list of mappings with ``read`` and ``core`` (pairs for each axis), or
            `GivenTiles`.

        Raises
        ------
        SettingsError
            Where they are not readable, or form no rows and columns.
        """
        if isinstance(tiles, GivenTiles):
            return tiles
        if isinstance(tiles, str | os.PathLike):
            tiles = _read(Path(tiles).expanduser())
        if isinstance(tiles, Mapping):
            tiles = tiles.get("tiles")
        if not isinstance(tiles, Sequence) or not tiles:
            raise SettingsError("A grid is a list with a read window and a core for each tile.")
        return cls(_along(list(map(_spans, itertools.count(), tiles))))

    def grid(self, sizes: Sequence[int], lattices: Sequence[Lattice]) -> TileGrid:
        """Return the grid, checked against an image and a network.

        Parameters
        ----------
        sizes
            Of the image, along each axis of space.
        lattices
            The network's rules.

        Raises
        ------
        SettingsError
            Where cores do not cover the image exactly once, a window does not contain its core, or
            the network does not take it.
        """
        if len(self.axes) != len(sizes):
            raise SettingsError(
                f"The grid has {len(self.axes)} axes of space, and the network tiles {len(sizes)}."
            )
        names = axis_names(len(sizes))
        rows = zip(names, self.axes, sizes, lattices, strict=True)
        return TileGrid(tuple(itertools.starmap(_axis, rows)))


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf8")
        if path.suffix.lower() != ".csv":
            return json.loads(text)
        return list(map(_of_row, csv.DictReader(text.splitlines())))
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise SettingsError(
            f"{path} holds no grid ({_fault(error)}): give JSON or CSV with read windows and cores."
        ) from error


def _fault(error: Exception) -> str:
    """Return what an error of reading means for a person who wrote the file."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, KeyError):
        return f"the column {error} is missing"
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON from line {error.lineno}, character {error.colno} on"
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    return str(error)


def _of_row(row: Mapping[str, str | None]) -> dict[str, Any]:
    axes = "zyx" if "z_start" in row else "yx"
    return {
        what: [[_number(row, f"{begin}{a}_{end}") for end in ("start", "stop")] for a in axes]
        for what, begin in (("read", ""), ("core", "core_"))
    }


def _number(row: Mapping[str, str | None], column: str) -> int:
    found = row[column]
    if found is None:
        raise ValueError(f"a row ends before its column {column}")
    try:
        return int(found)
    except ValueError:
        raise ValueError(f"{found!r} in the column {column} is no whole number") from None


def _spans(number: int, tile: Any) -> tuple[Span, ...]:
    """Return window and core of one tile along each axis."""
    try:
        pairs = zip(tile["read"], tile["core"], strict=True)
        return tuple((_whole(a), _whole(b), _whole(c), _whole(d)) for (a, b), (c, d) in pairs)
    except _NumberError as error:
        why, cause = str(error), error.__cause__
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        why, cause = "each has a start and a stop for each axis", error
    raise SettingsError(
        f"Tile {number} of the grid has no window and core ({why}): write "
        '{"read": [[0, 96], [0, 96]], "core": [[0, 80], [0, 80]]}.'
    ) from cause


class _NumberError(Exception):
    """A value is no number of pixels."""


def _whole(value: Any) -> int:
    if (
        not isinstance(value, int | float | np.integer)
        or not math.isfinite(value)
        or int(value) != value
    ):
        raise _NumberError(f"{value} is no whole number")
    return int(value)


def _along(tiles: Sequence[tuple[Span, ...]]) -> tuple[tuple[Span, ...], ...]:
    """Return the tiles along each axis; refuse what is not all combinations of them."""
    if len({len(tile) for tile in tiles}) != 1:
        raise SettingsError("The tiles of the grid have different numbers of axes.")
    axes = tuple(
        tuple(sorted({tile[axis] for tile in tiles}, key=lambda span: (span[2], span[0])))
        for axis in range(len(tiles[0]))
    )
    # as many different tiles as there are combinations are all of them
    if len(tiles) != math.prod(map(len, axes)) or len(set(tiles)) != len(tiles):
        raise SettingsError(
            f"The {len(tiles)} tiles of the grid are not all combinations of "
            f"{' x '.join(str(len(axis)) for axis in axes)} windows, each once: only grids of rows "
            "and columns can be used."
        )
    return axes


def _axis(name: str, spans: Sequence[Span], size: int, lattice: Lattice) -> GivenAxis:
    """Check the tiles along one axis."""
    tile = _only_size(name, spans)
    if not lattice.accepts(tile):
        raise SettingsError(
            f"Windows of {tile} pixels along {name} are no size this network takes: use "
            f"{lattice.size_at_least(tile)}."
        )
    _check_cores(name, spans, size)
    before, after = lattice.crop
    kept = [(start + before, stop - after) for start, stop, _, _ in spans]
    for (low, high), (start, stop, begin, end) in zip(kept, spans, strict=True):
        if not (low <= begin and end <= high):
            cropped = f" without the {before} and {after} pixels that the network crops"
            raise SettingsError(
                f"The window {start} to {stop} along {name} does not contain its core {begin} to "
                f"{end}{cropped * any(lattice.crop)}: let windows be larger."
            )
        if any((value * lattice.scale).denominator != 1 for value in (low, begin)):
            raise SettingsError(
                f"A tile along {name} begins at {begin} (window {start}), between pixels of the "
                f"result, which are {1 / lattice.scale} pixels large: use multiples of that."
            )
    inner = range(len(spans))
    leads = [spans[i][2] - kept[i][0] for i in inner[1:]]
    trails = [kept[i][1] - spans[i][3] for i in inner[:-1]]
    shared = [a[1] - b[0] for a, b in itertools.pairwise(kept)]
    halo = (min(leads, default=0), min(trails, default=0))
    windows = tuple((start, begin, end) for start, _, begin, end in spans)
    return GivenAxis(size, tile, halo, min(shared, default=0), lattice, windows=windows)


def _only_size(name: str, spans: Sequence[Span]) -> int:
    sizes = sorted({stop - start for start, stop, _, _ in spans})
    if len(sizes) != 1:
        raise SettingsError(
            f"Windows along {name} have {', '.join(map(str, sizes))} pixels, and a network runs on "
            "one size: let windows end behind the image's border, where pixels are padded."
        )
    return sizes[0]


def _check_cores(name: str, spans: Sequence[Span], size: int) -> None:
    """Refuse cores that leave a pixel out, or cover one twice."""
    reached = 0
    for _, _, begin, end in spans:
        if begin != reached or end <= begin:
            what = "leaves out" if begin > reached else "covers twice"
            raise SettingsError(
                f"Cores along {name} must follow each other without gap: the one from {begin} to "
                f"{end} {what} pixels, since those before it end at {reached}."
            )
        reached = end
    if reached != size:
        raise SettingsError(
            f"Cores along {name} end at {reached}, and the image has {size} pixels: they must "
            "cover all of it."
        )


__all__ = ["GivenTiles"]
