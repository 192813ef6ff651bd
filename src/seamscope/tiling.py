"""Where the tiles lie: pure integers.

Knows tiles, halos, cores, periods and output scales. Does not know arrays, images or networks.

One axis, drawn for a tile of 16, a halo of 4 and a period of 4, hence a stride of 8::

    image     0       8       16      24      32    37
    core      [     0     |   1   |   2   |    3    )      one stride apart
    tile 0    [============---)                            starts with the image
    tile 1            [----========---)                    its core, and a halo on either side
    tile 3                            [----==========::)   ends behind the image, still aligned

Rules, all checked by property tests:

* cores partition the image exactly and are one stride wide, a multiple of the period: output
  windows are ``n * f^l`` (Rumberger et al. 2021, corollary 4);
* tile starts and sizes are multiples of the period, counted from the first pixel the untiled
  network would read;
* a tile reaches at least one halo beyond its core, except at the image's own border, where the
  tile ends with the image so that the network meets that border as it would in one untiled run;
* padding happens at the image's border only: where the size is no multiple of the period, where
  the image is smaller than a network of fixed size needs, or where convolutions are *valid*.

The grid of cores starts at 0 if that costs at most 2 % more tiles: chunks of a store that are one
stride wide are then never written by two tiles. Otherwise, mostly in small images, it starts one
lead later, which takes the fewest tiles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import TypeAlias

from seamscope.errors import SettingsError

PerAxis: TypeAlias = "int | Sequence[int]"
Sides: TypeAlias = tuple[int, int]
Slices: TypeAlias = tuple[slice, ...]

AXIS_NAMES = "zyx"


def _ceil(value: int, step: int) -> int:
    return -(-value // step) * step


def _floor(value: int, step: int) -> int:
    return value // step * step


@dataclass(frozen=True)
class Lattice:
    """Rules of a network for the position and size of its input, along one axis.

    Parameters
    ----------
    period
        Smallest shift, in pixels, under which the prediction shifts along (``f^l``).
    step, offset
        Input sizes the network accepts are ``offset + k * step`` pixels.
    crop
        Pixels of input at either side for which the network gives no output (*valid*
        convolutions), in input pixels.
    scale
        Output pixels per input pixel.
    fixed
        The only accepted size, for networks saved with a fixed shape.
    smallest, largest
        No smaller and no larger sizes are accepted; `largest` is None where there is no limit.
    """

    period: int = 1
    step: int = 1
    offset: int = 0
    crop: Sides = (0, 0)
    scale: Fraction = Fraction(1)
    fixed: int | None = None
    smallest: int = 1
    largest: int | None = None

    @property
    def pitch(self) -> int:
        """Tile starts and strides are multiples of this: whole periods, whole output pixels."""
        return math.lcm(self.period, self.scale.denominator)

    @property
    def increment(self) -> int:
        """Tile sizes differ by multiples of this: whole periods, and accepted by the network."""
        return math.lcm(self.pitch, self.step)

    @property
    def sizes(self) -> str:
        """Sizes that tiles may have, in words."""
        if self.fixed is not None:
            return str(self.fixed)
        more = self.offset % self.increment
        rule = f"multiples of {self.increment}" + (f" plus {more}" if more else "")
        parts = ["any" if self.increment == 1 else rule]
        if self.size_at_least(1) > replace(self, smallest=1).size_at_least(1):
            parts.append(f"from {self.size_at_least(1)}")
        if self.limit is not None:
            parts.append(f"up to {self.limit}")
        return " ".join(parts)

    @property
    def limit(self) -> int | None:
        """The largest tile; None where tiles may be as large as the image.

        Where none is of whole periods, that is the largest size that the network takes.
        """
        if self.fixed is not None or self.largest is None:
            return self.fixed
        return self._at_most(self.largest) or self.largest

    def whole(self, halo: Sides) -> Sides:
        """Halo rounded up to whole output pixels, still in input pixels."""
        unit = self.scale.denominator
        return _ceil(halo[0], unit), _ceil(halo[1], unit)

    def size_at_least(self, size: int) -> int:
        """Smallest tile size that is not below `size`; the largest of all where none is."""
        if self.fixed is not None:
            return self.fixed
        residue = self.offset % self.increment
        found = residue + _ceil(max(size, self._least) - residue, self.increment)
        return found if self.limit is None else min(found, self.limit)

    def size_at_most(self, size: int) -> int:
        """Largest tile size that is not above `size`; 0 when there is none."""
        if self.limit is not None and size >= self.limit:
            return self.limit
        return 0 if self.fixed is not None else self._at_most(size)

    @property
    def _least(self) -> int:
        return max(self.smallest, sum(self.crop) + 1)

    def _at_most(self, size: int) -> int:
        residue = self.offset % self.increment
        found = residue + _floor(size - residue, self.increment)
        return found if found >= self._least else 0

    def accepts(self, size: int) -> bool:
        """Whether a tile may have this size."""
        return size > 0 and self.size_at_most(size) == size

    def smallest_tile(self, halo: Sides, overlap: int = 0) -> int:
        """Smallest tile that keeps at least one period besides its halo (or `overlap`).

        The largest tile where not even that does (see `has_room`).
        """
        lost = max(overlap, sum(self.whole(halo)))
        return self.size_at_least(sum(self.crop) + lost + self.pitch)

    def covers(self, size: int) -> bool:
        """Whether a tile may be so large that its prediction covers an axis of the image."""
        return self.limit is None or self.limit - sum(self.crop) >= size

    def has_room(self, tile: int, halo: Sides, overlap: int = 0) -> bool:
        """Whether a tile keeps at least one period besides its halo (or `overlap`)."""
        lost = max(overlap, sum(self.whole(halo)))
        return tile - sum(self.crop) - lost >= self.pitch


@dataclass(frozen=True)
class AxisTile:
    """One tile along one axis.

    Attributes
    ----------
    start, stop
        What the network reads, in input pixels; where this leaves the image, it is padded.
    core
        What the tile contributes, in output pixels of the whole result.
    trusted
        Where the tile's prediction is valid: at least one halo from its inner borders; output
        pixels.
    origin
        Output pixel of the whole result at which the tile's prediction begins.
    """

    start: int
    stop: int
    core: Sides
    trusted: Sides
    origin: int


@dataclass(frozen=True)
class _Pattern:
    """How cores are spaced, in input pixels."""

    stride: int
    lead: int  # from a tile's kept start to its core, inside the image
    offset: int  # of the grid of cores from the image's start


# Share of more tiles that is accepted for cores that fit the chunks of a store: an unaligned write
# of a tile of 256 x 256 x 4 takes 10 ms, a few percent of its prediction.
_PRICE_OF_CHUNKS = 0.02


@dataclass(frozen=True)
class AxisTiling:
    """The tiles along one axis; a sequence of `AxisTile`.

    Parameters
    ----------
    size
        Pixels of the image.
    tile, halo, overlap
        In input pixels. `halo` is ``(before, after)``, without the network's own crop; `overlap`
        is what neighbouring tiles' predictions share at least.
    lattice
        The network's rules for positions and sizes.
    """

    size: int
    tile: int
    halo: Sides = (0, 0)
    overlap: int = 0
    lattice: Lattice = Lattice()

    @cached_property
    def output_size(self) -> int:
        """Pixels of the whole result."""
        return math.ceil(self.size * self.lattice.scale)

    @cached_property
    def kept(self) -> int:
        """Extent of one tile's prediction, in input pixels."""
        return self.tile - sum(self.lattice.crop)

    @cached_property
    def single(self) -> bool:
        """Whether one tile covers the whole axis, so that no inner border and no halo exist."""
        return self.kept >= self.size

    @property
    def stride(self) -> int:
        """Distance between neighbouring cores, in input pixels."""
        return self.kept if self.single else self._pattern.stride

    @cached_property
    def padded(self) -> int:
        """Extent that tiles are parts of, in input pixels: the image, up to a size that fits."""
        return self.kept + max(0, _ceil(self.size - self.kept, self.lattice.increment))

    @cached_property
    def _pattern(self) -> _Pattern:
        """Cores from 0, so that stores' chunks fit them, unless that costs more tiles."""
        before, after = self.lattice.whole(self.halo)
        free = self._spaced(before)
        free = replace(free, offset=free.lead)  # the fewest tiles
        lead = _ceil(before, self.lattice.pitch)
        if self.kept - max(self.overlap, lead + after) < self.lattice.pitch:
            return free
        from_zero = self._spaced(lead)
        affordable = self._count(free) * (1 + _PRICE_OF_CHUNKS)
        return from_zero if self._count(from_zero) <= affordable else free

    def _spaced(self, lead: int) -> _Pattern:
        """Widest stride with at least this lead; cores as central as the pitch allows."""
        before, after = self.lattice.whole(self.halo)
        stride = _floor(self.kept - max(self.overlap, lead + after), self.lattice.pitch)
        centred = (self.kept - stride + before - after) // 2
        return _Pattern(stride, lead + max(0, _floor(centred - lead, self.lattice.pitch)), 0)

    def _count(self, pattern: _Pattern) -> int:
        """Tiles this pattern takes, from the first that starts at 0 to the last, at the end.

        Where the image is continued by far, the last may begin before that: none is all beyond it.
        """
        ahead = pattern.lead - pattern.offset
        last = -(-(self.padded - self.kept + ahead) // pattern.stride)
        last = min(last, (self.size - 1 - pattern.offset) // pattern.stride)
        return last - ahead // pattern.stride + 1

    def __len__(self) -> int:
        """Tiles along the axis."""
        return self._number

    @cached_property
    def _number(self) -> int:
        return 1 if self.single else self._count(self._pattern)

    @cached_property
    def _tiles(self) -> tuple[AxisTile, ...]:
        return tuple(self._tile(i) for i in range(len(self)))

    @cached_property
    def parts(self) -> tuple[tuple[slice, Sides, slice, slice, int], ...]:
        """What a `Tile` holds of this axis: read, pad, core, trusted, origin; made once."""
        return tuple(
            (
                *read_and_pad(tile.start, tile.stop, self.size),
                slice(*tile.core),
                slice(*tile.trusted),
                tile.origin,
            )
            for tile in self._tiles
        )

    def _tile(self, index: int) -> AxisTile:
        last = index == len(self) - 1
        begin = kept = 0
        end = self.size
        if not self.single:
            cores = self._pattern
            stride, lead, offset = cores.stride, cores.lead, cores.offset
            # leading cores whose tiles would all start at 0 are one core
            number = index + (lead - offset) // stride
            if index:
                begin = offset + number * stride
                kept = min(begin - lead, self.padded - self.kept)
            if not last:
                end = offset + (number + 1) * stride
        valid = (
            0 if not index else kept + self.halo[0],
            self.size if last else kept + self.kept - self.halo[1],
        )
        return AxisTile(
            start=kept - self.lattice.crop[0],
            stop=kept + self.kept + self.lattice.crop[1],
            core=self._output(begin, end),
            trusted=self._output(*valid),
            origin=kept * self.lattice.scale.numerator // self.lattice.scale.denominator,
        )

    @cached_property
    def discarded(self) -> Sides:
        """Least distance of a core to its tile's inner borders, in input pixels.

        At least the halo; more where tiles overlap further, since they are cut in between. ``(0,
        0)`` for a single tile.
        """
        scale = self.lattice.scale
        before = [(tile.core[0] - tile.origin) / scale for tile in self._tiles[1:]]
        after = [
            (tile.origin + self.kept * scale - tile.core[1]) / scale for tile in self._tiles[:-1]
        ]
        return int(min(before, default=0)), int(min(after, default=0))

    def _output(self, low: int, high: int) -> Sides:
        """Output pixels wholly inside an input interval; the last one is cut by the image's end."""
        times, over = self.lattice.scale.numerator, self.lattice.scale.denominator
        stop = self.output_size if high >= self.size else high * times // over
        return -(-low * times // over), stop

    def __getitem__(self, index: int) -> AxisTile:
        return self._tiles[index]

    def __iter__(self) -> Iterator[AxisTile]:
        return iter(self._tiles)

    def needed(self, part: Sides, *, trusted: bool = False) -> int:
        """Number of tiles that input pixels ``start, stop`` take; no tile is made.

        With `trusted`, of tiles whose trusted part meets them, as blends need; near the image's
        end that may count one tile less than `touching` finds.
        """
        if self.single:
            return 1
        stride, lead = self._pattern.stride, self._pattern.lead
        offset, (low, high) = self._pattern.offset, part
        if trusted:
            low -= max(0, self.kept - self.halo[1] - lead - stride)
            high += max(0, lead - self.halo[0])
        first = (lead - offset) // stride
        last = len(self) - 1
        begin, end = (min(max(0, (x - offset) // stride - first), last) for x in (low, high - 1))
        return int(end - begin + 1)

    def touching(self, region: Sides, *, trusted: bool = False) -> range:
        """Indices of the tiles whose core (or trusted part) meets an output interval."""
        low, high = region
        spans = (tile.trusted if trusted else tile.core for tile in self)
        hits = [i for i, (start, stop) in enumerate(spans) if start < high and low < stop]
        return range(hits[0], hits[-1] + 1) if hits else range(0)


@dataclass(frozen=True)
class GivenAxis(AxisTiling):
    """Tiles along one axis where another program puts them (see `seamscope.planning.given`).

    Parameters
    ----------
    windows
        For each tile, in order: first pixel of its window, first pixel of its core, and the pixel
        after the core's last. Cores cover the image.
    """

    windows: tuple[tuple[int, int, int], ...] = field(kw_only=True)

    @cached_property
    def single(self) -> bool:
        """Whether there is but one tile."""
        return len(self.windows) == 1

    @property
    def stride(self) -> int:
        """Largest number of pixels of which all cores begin at multiples."""
        begins = [begin for _, begin, _ in self.windows]
        return self.kept if self.single else math.gcd(*begins)

    @cached_property
    def padded(self) -> int:
        """Extent that the tiles cover."""
        first, last = self.windows[0][0], self.windows[-1][0]
        return last + self.tile - self.lattice.crop[1] - min(0, first + self.lattice.crop[0])

    def __len__(self) -> int:
        return len(self.windows)

    def _tile(self, index: int) -> AxisTile:
        start, begin, end = self.windows[index]
        kept = start + self.lattice.crop[0]
        valid = (
            0 if not index else kept + self.halo[0],
            self.size if index == len(self) - 1 else kept + self.kept - self.halo[1],
        )
        return AxisTile(
            start=start,
            stop=start + self.tile,
            core=self._output(begin, end),
            trusted=self._output(*valid),
            origin=int(kept * self.lattice.scale),
        )

    def needed(self, part: Sides, *, trusted: bool = False) -> int:
        """Number of tiles that input pixels ``start, stop`` take."""
        return len(self.touching(self._output(*part), trusted=trusted))


@dataclass(frozen=True)
class Tile:
    """One tile.

    Attributes
    ----------
    index
        Position in the grid, one number per axis.
    read
        Part of the image that the network reads; always inside the image.
    pad
        Pixels missing there ``(before, after)``; they are padded at the image's border.
    core
        Part of the result that comes from this tile, in output pixels.
    trusted
        Part of the result where this tile's prediction is valid; contains `core`.
    origin
        Output pixel at which the tile's prediction begins.
    """

    index: tuple[int, ...]
    read: Slices
    pad: tuple[Sides, ...]
    core: Slices
    trusted: Slices
    origin: tuple[int, ...]

    @property
    def crop(self) -> Slices:
        """Where `core` lies in the tile's own prediction."""
        return self.within(self.core)

    def within(self, region: Slices) -> Slices:
        """Where a region of the result lies in the tile's own prediction."""
        return tuple(
            slice(part.start - origin, part.stop - origin)
            for part, origin in zip(region, self.origin, strict=True)
        )


@dataclass(frozen=True)
class TileGrid:
    """All tiles of an image: sized, indexable, iterable in row-major order.

    Examples
    --------
    >>> grid = TileGrid.regular((37,), tile=16, halo=4, lattice=Lattice(period=4, step=4))
    >>> [(t.read[0].start, t.read[0].stop, t.core[0].start, t.core[0].stop) for t in grid]
    [(0, 16, 0, 12), (8, 24, 12, 20), (16, 32, 20, 28), (24, 37, 28, 37)]
    """

    axes: tuple[GivenAxis | AxisTiling, ...]

    @classmethod
    def regular(
        cls,
        shape: Sequence[int],
        tile: PerAxis,
        halo: int | Sequence[int | Sides] = 0,
        overlap: PerAxis | None = None,
        lattice: Lattice | Sequence[Lattice] = Lattice(),
    ) -> TileGrid:
        """Lay tiles over an image of `shape` (spatial axes only, ``zyx`` order).

        Parameters
        ----------
        shape
            Pixels of the image along each axis.
        tile
            Input pixels of a tile.
        halo
            Discarded pixels at a tile's inner borders: one number, one per axis, or
            ``(before, after)`` per axis.
        overlap
            Pixels that neighbouring tiles share at least; by default what the halo needs.
        lattice
            The network's rules, for all axes or for each.

        Raises
        ------
        SettingsError
            Where a value contradicts the network or another value.
        """
        ndim = len(shape)
        lattices = [lattice] * ndim if isinstance(lattice, Lattice) else list(lattice)
        tiles = per_axis(tile, ndim, "tile")
        overlaps = per_axis(0 if overlap is None else overlap, ndim, "overlap")
        halos = halo_sides(halo, ndim)
        names = axis_names(ndim)
        for values in zip(names, shape, tiles, halos, overlaps, lattices, strict=True):
            _check_axis(*values)
        return cls(tuple(map(AxisTiling, shape, tiles, halos, overlaps, lattices)))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Tiles along each axis."""
        return tuple(len(axis) for axis in self.axes)

    @cached_property
    def image_shape(self) -> tuple[int, ...]:
        """Pixels of the image."""
        return tuple(axis.size for axis in self.axes)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Pixels of the whole result."""
        return tuple(axis.output_size for axis in self.axes)

    @cached_property
    def tile_shape(self) -> tuple[int, ...]:
        """Input pixels of one tile."""
        return tuple(axis.tile for axis in self.axes)

    @cached_property
    def prediction_shape(self) -> tuple[int, ...]:
        """Output pixels of one tile."""
        return tuple(int(axis.kept * axis.lattice.scale) for axis in self.axes)

    @property
    def stride(self) -> tuple[int, ...]:
        """Input pixels between neighbouring cores."""
        return tuple(axis.stride for axis in self.axes)

    @property
    def halo(self) -> tuple[Sides, ...]:
        """Discarded input pixels ``(before, after)`` along each axis."""
        return tuple(axis.halo for axis in self.axes)

    @property
    def overlap(self) -> tuple[int, ...]:
        """Input pixels that neighbouring tiles' predictions share (in the image's interior)."""
        return tuple(axis.kept - axis.stride for axis in self.axes)

    @property
    def redundancy(self) -> float:
        """Pixels the network computes for each pixel kept; 1 is the untiled run."""
        return len(self) * math.prod(self.tile_shape) / math.prod(self.image_shape)

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, index: int | tuple[int, ...]) -> Tile:
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"tile {index} of {len(self)}")
            index = self._unravel(index % len(self))
        return self._tile(index)

    def __iter__(self) -> Iterator[Tile]:
        return map(self._tile, itertools.product(*map(range, self.shape)))

    def touching(self, area: Slices, *, trusted: bool = False) -> list[Tile]:
        """Tiles whose core (or trusted part) meets an area of the result, in row-major order."""
        ranges = (
            axis.touching((part.start, part.stop), trusted=trusted)
            for axis, part in zip(self.axes, area, strict=True)
        )
        return [self._tile(index) for index in itertools.product(*ranges)]

    def place(self, tile: Tile) -> tuple[int, ...]:
        """Input pixel at which a tile begins, counted from the start of the first tile."""
        axes = zip(self.axes, tile.index, strict=True)
        return tuple(axis[i].start - axis[0].start for axis, i in axes)

    def _unravel(self, number: int) -> tuple[int, ...]:
        index = []
        for count in reversed(self.shape):
            number, remainder = divmod(number, count)
            index.append(remainder)
        return tuple(reversed(index))

    def moved(self, starts: Sequence[int]) -> Tile:
        """The first tile, moved to begin at these input pixels, on the grid of tiles or not."""
        axes = list(zip(self.axes, starts, strict=True))
        read, pad = zip(*(read_and_pad(s, s + a.tile, a.size) for a, s in axes), strict=True)
        first = self[0]
        origin = tuple(
            o + int((s - a[0].start) * a.lattice.scale)
            for o, (a, s) in zip(first.origin, axes, strict=True)
        )
        return replace(first, read=read, pad=pad, origin=origin)

    def _tile(self, index: tuple[int, ...]) -> Tile:
        parts = (axis.parts[i] for axis, i in zip(self.axes, index, strict=True))
        return Tile(tuple(index), *zip(*parts, strict=True))


def read_and_pad(start: int, stop: int, size: int) -> tuple[slice, Sides]:
    """Pixels that are read of an axis of this size, and how many are filled in on either side."""
    return slice(max(start, 0), min(stop, size)), (max(-start, 0), max(stop - size, 0))


def window_around(center: int, size: int, width: int) -> slice:
    """So many pixels of an axis, or all there are, with one as near to their middle as can be."""
    width = min(width, size)
    start = min(max(center - width // 2, 0), size - width)
    return slice(start, start + width)


def axis_names(ndim: int) -> str:
    """Names of the spatial axes: ``"yx"`` or ``"zyx"``."""
    if not 1 <= ndim <= 3:
        raise SettingsError(f"{ndim} spatial axes: tiles are cut along 1 to 3 (x, yx or zyx).")
    return AXIS_NAMES[-ndim:]


def per_axis(value: PerAxis, ndim: int, what: str) -> tuple[int, ...]:
    """Return one number for each axis, of one for all or one for each."""
    values = (value,) * ndim if isinstance(value, int) else tuple(value)
    if len(values) != ndim:
        raise SettingsError(
            f"{what} {values} has {len(values)} numbers for {ndim} spatial axes: "
            f"give one number, or one for each of {', '.join(axis_names(ndim))}."
        )
    return values


def halo_sides(halo: int | Sequence[int | Sides], ndim: int) -> tuple[Sides, ...]:
    """A halo in any of its forms as ``(before, after)`` per axis."""
    given = [halo] if isinstance(halo, int) else list(halo)
    if len(given) == 1:
        given *= ndim
    if len(given) != ndim:
        raise SettingsError(
            f"halo {halo} has {len(given)} entries for {ndim} spatial axes: "
            "give one number, one per axis, or (before, after) per axis."
        )
    return tuple((h, h) if isinstance(h, int) else (h[0], h[1]) for h in given)


def _check_axis(
    name: str, size: int, tile: int, halo: Sides, overlap: int, lattice: Lattice
) -> None:
    if size < 1:
        raise SettingsError(f"The image has {size} pixels along {name}: it is empty.")
    negative = [each for each in (*halo, overlap) if each < 0]
    if negative:
        what = "overlap" if min(halo) >= 0 else "halo"
        raise SettingsError(
            f"{what} {negative[0]} along {name} must not be negative: use 0 or more."
        )
    if not lattice.accepts(tile):
        raise SettingsError(_unacceptable(name, tile, lattice))
    if not lattice.has_room(tile, halo, overlap) and tile - sum(lattice.crop) < size:
        raise SettingsError(_too_small(name, tile, halo, overlap, lattice))


def _too_small(name: str, tile: int, halo: Sides, overlap: int, lattice: Lattice) -> str:
    (before, after), pitch = halo, lattice.pitch
    kept = tile - sum(lattice.crop)
    largest = _floor(max(0, (kept - pitch) // 2), pitch)
    enough, remedy = lattice.smallest_tile(halo, overlap), ""
    if lattice.has_room(enough, halo, overlap):
        remedy = f"a tile of {enough} or more, or "
    elif kept < pitch:
        which = "only" if lattice.fixed else "largest"
        return (
            f"Tile {tile} along {name}, the {which} one this network takes, is shorter than the "
            f"period of {pitch} px, so that no two tiles lie on the network's grid. State a `step` "
            f"of {kept} px or less, or predict images of {kept} px."
        )
    what, least = f"halos of {before} and {after}", f"a halo of at most {largest}"
    if kept - sum(lattice.whole(halo)) >= pitch:
        what, least = f"an overlap of {overlap}", f"an overlap of at most {kept - pitch}"
    return (
        f"Tile {tile} along {name} is too small for {what}: it must keep at least one period "
        f"({pitch}). Use {remedy}{least}."
    )


def _unacceptable(name: str, tile: int, lattice: Lattice) -> str:
    if lattice.fixed is not None:
        return f"Tile {tile} along {name}: this network takes {lattice.fixed} only; use it."
    below, above = lattice.size_at_most(tile), lattice.size_at_least(tile)
    if above < tile:
        return f"Tile {tile} along {name}: this network takes {above} px at most; use that or less."
    nearest = f"{below} or {above}" if below else f"{above}"
    return (
        f"Tile {tile} along {name} is not a size this network takes ({lattice.sizes}): use "
        f"{nearest}."
    )
