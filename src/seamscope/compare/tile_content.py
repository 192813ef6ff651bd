"""What tiles contain, and how much that changes with their size.

Knows images, labels and sizes of tiles. Does not know networks: it shows before any is run how much
the statistics of tiles must differ, and so how visible tile-wise normalization will be (after the
tutorial to Buglakova et al. 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import SettingsError
from seamscope.images.ground_truth import Truth, classes_of
from seamscope.images.image import Image, open_image
from seamscope.progress import QUIET, Work, check
from seamscope.serialization import plain
from seamscope.text import axes_text
from seamscope.tiling import AXIS_NAMES, Slices, per_axis

Array: TypeAlias = npt.NDArray[Any]

_LEVELS = (0, 5, 25, 50, 75, 95, 100)
_AT_ONCE = 1 << 20  # pixels that are looked at together


@dataclass(frozen=True)
class Content:
    """What tiles contain, by their size. ``K`` features.

    Attributes
    ----------
    features
        Names: classes, or mean and standard deviation of each channel.
    tiles
        Shapes of tiles, from small to large.
    values
        For each size ``(tiles, K)``: proportions of classes, or intensities.
    whole
        ``(K,)`` of the whole image.
    meaning
        What was measured, a sentence.
    """

    features: tuple[str, ...]
    tiles: tuple[tuple[int, ...], ...]
    values: tuple[Array, ...] = field(repr=False)
    whole: Array
    meaning: str

    @property
    def names(self) -> tuple[str, ...]:
        """What to call each size."""
        return tuple(axes_text(tile) for tile in self.tiles)

    @property
    def spread(self) -> Array:
        """``(sizes, K)`` standard deviation over tiles: 0 where all contain the same."""
        return np.array([_unless_nan(values, np.nanstd) for values in self.values])

    def to_json(self) -> dict[str, Any]:
        """Return counts, mean, spread and percentiles for each size, as plain values."""
        levels = [str(level) for level in _LEVELS]
        return {
            "features": list(self.features),
            "meaning": self.meaning,
            "whole": plain(self.whole),
            "sizes": [
                {
                    "tile": list(tile),
                    "tiles": len(values),
                    "mean": plain(_unless_nan(values, np.nanmean)),
                    "std": plain(_unless_nan(values, np.nanstd)),
                    "percentiles": dict(zip(levels, plain(_percentiles(values)), strict=True)),
                }
                for tile, values in zip(self.tiles, self.values, strict=True)
            ],
        }


def _unless_nan(values: Array, measure: Callable[..., Array]) -> Array:
    """Take a measure over tiles of what is known; NaN where nothing is."""
    known = np.isfinite(values).any(0)
    measured: Array = np.where(known, measure(np.where(known, values, 0.0), axis=0), np.nan)
    return measured


def _percentiles(values: Array) -> Array:
    return _unless_nan(values, lambda v, axis: np.nanpercentile(v, _LEVELS, axis))


def content(
    image: Any,
    tiles: Sequence[int | Sequence[int]],
    labels: Any = None,
    *,
    axes: str | None = None,
    spatial: str | None = None,
    work: Work = QUIET,
) -> Content:
    """Measure how much tiles of each size differ in what they contain.

    Tiles lie side by side from the image's first pixel; those that its far end would cut are left
    out, unless there are no others. Everything is read once.

    Parameters
    ----------
    image
        As for `seamscope.open_image`.
    tiles
        Sizes of tiles: numbers, or one number for each axis of space.
    labels
        Instead of intensities, proportions of these classes: a
        `seamscope.images.ground_truth.Truth`, or labels as for
        `seamscope.images.ground_truth.classes_of`.
    axes
        One letter for each of the image's axes, where it does not say.
    spatial
        Axes of space that a tile spans, by default all there are; the others are iterated.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Returns
    -------
    Content

    Raises
    ------
    SeamscopeError
        One sentence with the value, the rule and the remedy.
    InterruptedError
        When stopped.

    Notes
    -----
    After the tutorial "How to get rid of tiling artifacts": with tiles of 512 the proportion of a
    class still differs from the whole image's, and with it the statistics tiles are normalized by.

    Examples
    --------
    >>> import numpy as np
    >>> halves = np.repeat([0, 1], 32)[None] * np.ones((64, 1), int)
    >>> found = content(halves, [32, 64], labels=halves)
    >>> found.features, found.values[0][:, 1].tolist(), found.whole.tolist()
    (('label 0', 'label 1'), [0.0, 1.0, 0.0, 1.0], [0.5, 0.5])
    """
    opened = open_image(image, axes=axes)
    spatial = spatial or _space(opened, axes)
    source = _Intensities(opened, spatial) if labels is None else _Proportions(labels, spatial)
    sizes = _tile_sizes(tiles, source.shape)
    sums = [_TileSums(source.shape, tile) for tile in sizes]
    whole = _TileSums(source.shape, source.shape)
    blocks = list(source.image.blocks(_AT_ONCE * source.image.dtype.itemsize))
    work.phase("Measuring what tiles contain", "blocks")
    for done, block in enumerate(blocks, start=1):
        check(work)
        for frame, region, terms in source.terms(block):
            for each in (*sums, whole):
                each.add(frame, region, terms)
        work.step(done, len(blocks))
    return Content(
        features=source.features,
        tiles=tuple(each.tile for each in sums),
        values=tuple(source.measure(each.rows()) for each in sums),
        whole=source.measure(whole.rows().sum(0, keepdims=True))[0],
        meaning=source.meaning,
    )


def _space(image: Image, axes: str | None) -> str:
    letters = axes or image.axes
    if letters is None:
        raise SettingsError(
            f"The image {image.name} has {image.ndim} axes and nothing says which is which: name "
            "them (`axes`), one letter of tczyx for each."
        )
    return "".join(a for a in AXIS_NAMES if a in letters)


def _tile_sizes(
    tiles: Sequence[int | Sequence[int]], shape: Sequence[int]
) -> list[tuple[int, ...]]:
    found = set()
    for size in tiles:
        given: Any = size if isinstance(size, int) else tuple(size)
        tile = per_axis(given, len(shape), "tile")
        if min(tile) < 1:
            raise SettingsError(f"Tile {axes_text(tile)}: give sizes of 1 pixel or more.")
        found.add(tuple(map(min, tile, shape)))
    if not found:
        raise SettingsError("No tile sizes: give one or more, as in 64,128,256.")
    return sorted(found, key=lambda tile: (math.prod(tile), tile))


class _TileSums:
    """Sums of terms over each whole tile of a size, frame by frame."""

    def __init__(self, shape: Sequence[int], tile: Sequence[int]) -> None:
        self.tile = tuple(tile)
        self._counts = tuple(n // t for n, t in zip(shape, tile, strict=True))
        self._frames: dict[tuple[int, ...], Array] = {}

    def add(self, frame: tuple[int, ...], region: Slices, terms: Array) -> None:
        """Count a region's terms ``(T, *region)``."""
        table = self._frames.get(frame)
        if table is None:
            table = self._frames[frame] = np.zeros((terms.shape[0], *self._counts))
        place = []
        for axis, (part, tile, count) in enumerate(
            zip(region, self.tile, self._counts, strict=True), start=1
        ):
            stop = min(part.stop, count * tile)  # beyond, tiles are cut by the image's end
            if stop <= part.start:
                return
            first, last = part.start // tile, -(-stop // tile)
            starts = np.maximum(np.arange(first, last) * tile, part.start) - part.start
            kept = terms[(slice(None),) * axis + (slice(0, stop - part.start),)]
            terms = np.add.reduceat(kept, starts, axis=axis)
            place.append(slice(first, last))
        table[:, *place] += terms

    def rows(self) -> Array:
        """Sums ``(tiles, T)`` of all tiles of all frames."""
        return np.concatenate(
            [table.reshape(table.shape[0], -1).T for _, table in sorted(self._frames.items())]
        )


class _Source:
    """What is summed over tiles, and what is made of the sums."""

    image: Image
    axes: str
    spatial: str
    features: tuple[str, ...]
    meaning: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels along the axes of space."""
        return tuple(self.image.shape[self.axes.index(a)] for a in self.spatial)

    def terms(self, block: Slices) -> Iterator[tuple[tuple[int, ...], Slices, Array]]:
        """Read a block; yields each frame's index, its region of space, and ``(T, *region)``."""
        letters = "".join(a for a in self.axes if a not in self.spatial and a != "c")
        order = letters + "c" * ("c" in self.axes) + self.spatial
        values = self.image.read(block).transpose([self.axes.index(a) for a in order])
        if "c" not in self.axes:
            values = np.expand_dims(values, len(letters))
        parts: Mapping[str, slice] = dict(zip(self.axes, block, strict=True))
        region = tuple(parts[a] for a in self.spatial)
        channels = parts.get("c", slice(0, 1))
        for index in np.ndindex(values.shape[: len(letters)]):
            frame = tuple(i + parts[a].start for a, i in zip(letters, index, strict=True))
            yield frame, region, self._terms(values[index], channels)

    def _terms(self, values: Array, channels: slice) -> Array:
        raise NotImplementedError

    def measure(self, rows: Array) -> Array:
        """Features ``(tiles, K)`` of sums ``(tiles, T)``."""
        raise NotImplementedError


class _Intensities(_Source):
    """Mean and standard deviation of each channel."""

    def __init__(self, image: Image, spatial: str) -> None:
        self.image, self.spatial = image, spatial
        self.axes = _axes_of(image, spatial)
        self._count = image.shape[self.axes.index("c")] if "c" in self.axes else 1
        of = [f" of channel {k}" for k in range(self._count)] if self._count > 1 else [""]
        self.features = tuple(
            f"{what}{which}" for what in ("mean", "standard deviation") for which in of
        )
        self.meaning = "Mean and standard deviation of the intensities of each tile."
        # subtracted before squaring, so that no digits are lost where images are bright
        first = float(image.read((0,) * image.ndim))
        self._offset = first if math.isfinite(first) else 0.0

    def _terms(self, values: Array, channels: slice) -> Array:
        wide = values.astype(np.float64) - self._offset
        known = np.isfinite(wide)
        wide = np.where(known, wide, 0.0)
        terms = np.zeros((3, self._count, *values.shape[1:]))
        terms[:, channels] = known, wide, wide * wide
        return terms.reshape(3 * self._count, *values.shape[1:])

    def measure(self, rows: Array) -> Array:
        count, total, squares = np.split(rows, 3, axis=1)
        count = np.where(count > 0, count, np.nan)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean * mean, 0))
        return np.concatenate([mean + self._offset, std], axis=1)


class _Proportions(_Source):
    """Part of each tile that belongs to each class."""

    def __init__(self, labels: Any, spatial: str) -> None:
        self._truth = labels if isinstance(labels, Truth) else classes_of(labels, spatial)
        self.image, self.axes, self.spatial = self._truth.labels, self._truth.axes, spatial
        self.features = self._truth.names
        self.meaning = f"Proportion of each class in each tile. {self._truth.meaning}"

    def _terms(self, values: Array, channels: slice) -> Array:
        terms = np.zeros((1 + len(self.features), *values.shape[1:]))
        terms[0] = 1
        if "c" in self.axes:
            terms[1:][channels] = values > 0
            terms[0] = channels.start == 0  # channels may come in several blocks
        else:
            for term, value in zip(terms[1:], self._truth.values, strict=True):
                term[...] = values[0] > 0 if value is None else values[0] == value
        return terms

    def measure(self, rows: Array) -> Array:
        proportions: Array = rows[:, 1:] / rows[:, :1]
        return proportions


def _axes_of(image: Image, spatial: str) -> str:
    letters = image.axes or (spatial if image.ndim == len(spatial) else None)
    if letters is None or not set(spatial) <= set(letters):
        raise SettingsError(
            f"The image {image.name} has the axes {letters} and tiles span {spatial}: name its "
            "axes (`axes`), one letter of tczyx for each."
        )
    return letters


__all__ = ["Content", "content"]
