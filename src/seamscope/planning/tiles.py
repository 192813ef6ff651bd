"""How an image is cut into tiles: the halo, the tile and the overlap that settings leave open.

Knows a network's facts and reach, and how much of the image is wanted. Does not know files or
pixels.

One policy for everything that tiles an image:

* A halo ``"auto"`` is the network's reach. Where tile and overlap leave no room for it, it is as
  much as they do leave; the plan says so. A halo that is given and does not fit is an error.
* A tile ``"auto"`` is the one that computes least of what is wanted, within the memory limit.
* Where all overlaps are compared, tiles overlap by a pixel more on each side than the halo needs,
  so that something is left to compare.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seamscope.errors import ImageError, SettingsError
from seamscope.models.facts import Facts
from seamscope.models.implied import larger
from seamscope.models.model import Model
from seamscope.models.runner import Speed
from seamscope.settings import Blend, Settings
from seamscope.text import bytes_text, shape_text
from seamscope.tiling import AxisTiling, Lattice, Sides, TileGrid, halo_sides, per_axis

# Tiles of so many times the pixels of the largest that was timed are taken to be as fast.
_BEYOND_MEASURED = 3
# Tile shapes weighed against each other; more gains less than a percent and takes noticeable time.
_MOST_CANDIDATES = 20_000
# Sizes that are tried along an axis for a part of the image.
_MOST_SIZES = 512
# Halo along each axis where neither a measurement nor the model's card says anything.
_USUAL_HALO = 16
# Pixels of the overlap that are compared, if nothing else is given.
COMPARED = 2


@dataclass(frozen=True)
class Wanted:
    """What is to be tiled, and within which limits.

    Attributes
    ----------
    sizes
        Pixels of the image along each spatial axis.
    parts
        First pixel wanted and the pixel after the last, along each of them.
    memory
        Bytes that one forward pass may use.
    """

    sizes: tuple[int, ...]
    parts: tuple[Sides, ...]
    memory: int

    @property
    def whole(self) -> bool:
        """Whether all of the image is wanted."""
        return all(part == (0, n) for part, n in zip(self.parts, self.sizes, strict=True))


def lay_tiles(
    settings: Settings, model: Model, facts: Facts, wanted: Wanted, device: str
) -> TileGrid:
    """Choose what settings leave open, and lay tiles over the whole image.

    Parameters
    ----------
    settings
        As given by the user.
    model
        The network; its reach and measured speeds are used.
    facts
        Its facts, for the image's channels.
    wanted
        Sizes and limits.
    device
        On which speeds were measured.

    Raises
    ------
    SettingsError
        Where settings contradict the network or each other, or memory does not suffice.
    """
    sizes = wanted.sizes
    ndim = facts.spatial_axes
    if min(sizes) < 1:
        raise ImageError(f"The image is empty ({shape_text(sizes)}): give one with pixels.")
    overlap = None if settings.overlap is None else per_axis(settings.overlap, ndim, "overlap")
    tile = None
    if settings.tile != "auto":
        given = per_axis(settings.tile, ndim, "tile")
        tile = tuple(map(_no_larger_than_image, given, sizes, facts.lattice))
    halo = _halo(settings, model, sizes, tile, overlap)
    if tile is None:
        speed = model.speeds.get(speed_key(device, halo))
        least = overlap or _compared_overlap(settings, halo)
        tile = _fastest(tile_candidates(facts, wanted, halo, least, settings), speed)
        overlap = overlap or least
    if overlap is None:
        overlap = tuple(map(_default_overlap, [settings.blend] * ndim, tile, halo, facts.lattice))
    return TileGrid.regular(sizes, tile, halo, overlap, facts.lattice)


def with_something_to_compare(grid: TileGrid) -> TileGrid:
    """Return the same tiles, overlapping by a pixel more on each side than the halo; if they can.

    Where a tile has no room for it, the pixels beside the seams have to do.
    """
    overlap = [
        max(axis.overlap, sum(axis.halo) + COMPARED, axis.kept - axis.stride) for axis in grid.axes
    ]
    lattices = [axis.lattice for axis in grid.axes]
    try:
        return TileGrid.regular(grid.image_shape, grid.tile_shape, grid.halo, overlap, lattices)
    except SettingsError:
        return grid


def speed_key(device: str, halo: Sequence[Sides]) -> str:
    """Name of a measured speed: it depends on the halo, around which layers are cut short."""
    return f"{device}, halo {list(halo)}"


# -- the halo


def _halo(
    settings: Settings,
    model: Model,
    sizes: Sequence[int],
    tile: Sequence[int] | None,
    overlap: Sequence[int] | None,
) -> tuple[Sides, ...]:
    """The halo given, else what was measured, else what the card says; no more than has room."""
    lattices = model.facts.lattice
    if settings.halo != "auto":
        return halo_sides(settings.halo, len(lattices))
    declared = model.declared.halo if model.declared else None
    usual = tuple((n, n) for n in declared or (_USUAL_HALO,) * len(lattices))
    needed = model.reach.useful or usual
    if declared and not (model.reach.halo or model.reach.convolutional):
        needed = larger(needed, usual)  # who made it may know why tiles need more
    tiles: Sequence[int | None] = tile or [axis.limit for axis in lattices]
    overlaps: Sequence[int | None] = overlap or [None] * len(lattices)
    axes = list(zip(needed, sizes, tiles, overlaps, lattices, strict=True))
    if all(itertools.starmap(_fits, axes)):
        return needed
    room = [_room(*axis[2:]) for axis in axes]
    return tuple((min(a, n), min(b, n)) for (a, b), n in zip(needed, room, strict=True))


def _fits(halo: Sides, size: int, tile: int | None, overlap: int | None, lattice: Lattice) -> bool:
    """Whether a halo leaves a core of one period or more along an axis, or needs none."""
    room = overlap is None or sum(lattice.whole(halo)) <= overlap
    if tile is None:
        return room  # the tile will be as large as the halo needs
    if tile - sum(lattice.crop) >= size:
        return True
    return room and lattice.has_room(tile, halo, overlap or 0)


def _room(tile: int | None, overlap: int | None, lattice: Lattice) -> int:
    """Largest halo that leaves half of the tile; no more than half of the overlap.

    The largest that fits would leave a core of one period, up to a hundred times the tiles, and
    seams all the same.
    """
    limits = []
    if tile is not None:
        quarter = (tile - sum(lattice.crop)) // 4
        limits.append(max(0, quarter // lattice.pitch * lattice.pitch))
    if overlap is not None:
        limits.append(overlap // 2)
    return min(limits, default=_USUAL_HALO)


# -- the overlap


def _compared_overlap(settings: Settings, halo: Sequence[Sides]) -> tuple[int, ...] | None:
    """Overlap of which something is left to compare, where all of them are to be compared."""
    if settings.seams != "all" or settings.blend != "crop":
        return None
    return tuple(sum(sides) + COMPARED for sides in halo)


def _default_overlap(blend: Blend, tile: int, halo: Sides, lattice: Lattice) -> int:
    """Overlap when none is given: what the halo needs, and for blends room to mix in."""
    kept = tile - sum(lattice.crop)
    room = 0 if blend == "crop" else max(lattice.pitch, kept // 4)
    return max(sum(halo), min(sum(halo) + room, kept - lattice.pitch))


# -- the tile


def _no_larger_than_image(tile: int, size: int, lattice: Lattice) -> int:
    """Cut a tile to what the image needs; one that is not accepted is left for the grid to name."""
    whole = lattice.size_at_least(size + sum(lattice.crop))
    return min(tile, whole) if lattice.accepts(tile) else tile


def _fastest(
    candidates: Sequence[tuple[int, tuple[int, ...]]], speed: Speed | None
) -> tuple[int, ...]:
    """Tile shape that takes least time, by measured speeds; without them, fewest pixels.

    Much larger tiles than were measured are not trusted to be as fast: caches overflow, and less
    of each layer can be cut short (one tile of 2048 x 2048 took 1.35 times as long as 169 of 256).
    """
    if speed is None:
        return candidates[0][1]
    most = _BEYOND_MEASURED * speed.seconds[-1][0]
    known = [c for c in candidates if math.prod(c[1]) <= most] or candidates
    rates = speed.per_pixel_of([math.prod(tile) for _, tile in known])
    seconds = np.array([pixels for pixels, _ in known]) * rates
    return known[int(seconds.argmin())][1]


def tile_candidates(
    facts: Facts,
    wanted: Wanted,
    halo: Sequence[Sides],
    overlap: Sequence[int] | None,
    settings: Settings,
) -> list[tuple[int, tuple[int, ...]]]:
    """Tiles within the memory limit: ``(pixels to compute, shape)``, fewest pixels first.

    For each number of tiles along an axis the smallest tile that suffices is taken, so that
    nothing is computed twice because the last tile had to be moved back.

    Raises
    ------
    SettingsError
        When even the smallest tile does not fit the limit.
    """
    most = wanted.memory / bytes_per_pixel(facts, settings.batch)
    overlaps: Sequence[int | None] = overlap or [None] * len(halo)
    per = [
        list(_balanced(n, part, h, o, a, settings.blend))
        for n, part, h, o, a in zip(
            wanted.sizes, wanted.parts, halo, overlaps, facts.lattice, strict=True
        )
    ]
    most_options = int(_MOST_CANDIDATES ** (1 / len(per)))
    per = [options[:: -(-len(options) // most_options)] for options in per]
    smallest = tuple(min(tile for tile, _ in options) for options in per)
    if math.prod(smallest) > most:
        needed = bytes_per_pixel(facts, settings.batch) * math.prod(smallest)
        raise SettingsError(
            f"The smallest tile this halo allows ({shape_text(smallest)}) needs about "
            f"{bytes_text(needed)}, and {bytes_text(wanted.memory)} may be used: free memory, "
            "raise the limit (`memory`), or lower halo or batch."
        )
    tiles = _product([[tile for tile, _ in options] for options in per])
    pixels = _product([[tile * count for tile, count in options] for options in per]).prod(1)
    fits = tiles.prod(1) <= most
    tiles, pixels = tiles[fits], pixels[fits]
    # the rounder tile of two that cost the same
    order = np.lexsort([tiles.max(1) / tiles.min(1), pixels])
    return list(zip(pixels[order].tolist(), map(tuple, tiles[order].tolist()), strict=True))


def _product(axes: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """All combinations of numbers, one of each axis, ``(combinations, axes)``; the last runs."""
    grids = np.meshgrid(*(np.array(axis, np.int64) for axis in axes), indexing="ij")
    return np.stack([grid.ravel() for grid in grids], axis=1)


def _balanced(
    size: int, part: Sides, halo: Sides, overlap: int | None, lattice: Lattice, blend: Blend
) -> Iterator[tuple[int, int]]:
    """Pairs ``(tile, tiles that are needed)`` along an axis: the smallest tile for each number."""
    whole = lattice.size_at_least(size + sum(lattice.crop))
    if not (lattice.covers(size) or lattice.has_room(whole, halo, overlap or 0)):
        yield whole, 1  # which the grid refuses
        return
    smallest = lattice.smallest_tile(halo, overlap or 0)
    if blend != "crop":  # leave room to mix in, a quarter of the tile
        smallest = lattice.size_at_least(2 * smallest)
    if part == (0, size):
        yield from _for_whole(size, smallest, whole, halo, overlap or 0, lattice)
    else:
        yield from _for_part(size, part, smallest, whole, halo, overlap, lattice, blend)


def _for_whole(
    size: int, smallest: int, whole: int, halo: Sides, overlap: int, lattice: Lattice
) -> Iterator[tuple[int, int]]:
    seen: set[int] = set()
    if lattice.covers(size):
        yield whole, 1
        seen.add(1)
    # sizes grow by a few percent; each is then tightened to the smallest with as many tiles
    tile = min(smallest, whole)
    while True:
        count = len(AxisTiling(size, tile, halo, overlap, lattice))
        if count not in seen:
            seen.add(count)
            yield tile, count
        if tile >= whole:
            return
        tile = max(tile + lattice.increment, lattice.size_at_most(tile + tile // 64))


def _for_part(
    size: int,
    part: Sides,
    smallest: int,
    whole: int,
    halo: Sides,
    overlap: int | None,
    lattice: Lattice,
    blend: Blend,
) -> Iterator[tuple[int, int]]:
    """Every size up to one that surely holds the part, since it matters where cores begin."""
    enough = 2 * (part[1] - part[0] + sum(halo)) + sum(lattice.crop)
    smallest = min(smallest, whole)  # an image may be smaller than a tile with its halos
    largest = min(whole, max(smallest, lattice.size_at_least(enough)))
    step = lattice.increment * (1 + (largest - smallest) // (lattice.increment * _MOST_SIZES))
    seen: set[int] = set()
    for tile in range(smallest, largest + 1, step):
        shared = _default_overlap(blend, tile, halo, lattice) if overlap is None else overlap
        count = _needed(size, tile, part, halo, shared, lattice, blended=blend != "crop")
        if count not in seen:
            seen.add(count)
            yield tile, count


def _needed(
    size: int,
    tile: int,
    part: Sides,
    halo: Sides,
    overlap: int | None,
    lattice: Lattice,
    blended: bool = False,
) -> int:
    """Tiles that a part of an axis takes."""
    axis = AxisTiling(size, tile, halo, overlap or 0, lattice)
    return axis.needed(part, trusted=blended)


def bytes_per_pixel(facts: Facts, batch: int) -> float:
    """Estimated bytes of a forward pass per input pixel, the tiles themselves included."""
    own = 4 * (facts.in_channels + facts.out_channels)
    return (facts.bytes_per_pixel + own) * batch


__all__ = ["Wanted", "lay_tiles", "speed_key", "with_something_to_compare"]
