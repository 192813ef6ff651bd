"""Objects: how large they are, where they lie, which holes they have.

Knows arrays of numbers, read block by block. Does not know how the numbers were found.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.images.dimensions import unit_symbol
from seamscope.images.image import Image
from seamscope.progress import QUIET, Work, check
from seamscope.segmentation.basins import Basins, find_basins
from seamscope.segmentation.blocks import Blocks, pair_slices
from seamscope.segmentation.fragments import OUTSIDE, image_indices, touched, touching
from seamscope.tiling import Slices

Array: TypeAlias = npt.NDArray[Any]
Paint: TypeAlias = Callable[[Slices], Array]

_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Sizes:
    """What is known of each number of an image; entry 0 is background.

    Attributes
    ----------
    area
        Pixels, ``(N + 1,)`` int64.
    start
        Smallest linear index, ``(N + 1,)`` int64; the largest integer for numbers that are absent.
    at_border
        Whether it touches the image's border, ``(N + 1,)`` bool.
    cut_off
        Whether it touches a side where the image is only a part of a larger one.
    """

    area: Array
    start: Array
    at_border: Array
    cut_off: Array

    def grouped(self, group: Array) -> Sizes:
        """Return the same of groups, which are numbered like their members.

        Parameters
        ----------
        group
            For each number its group, ``(N + 1,)``.
        """
        area = np.zeros_like(self.area)
        np.add.at(area, group, self.area)
        start = np.full_like(self.start, _FAR)
        np.minimum.at(start, group, self.start)
        at_border, cut_off = np.zeros((2, len(area)), np.bool_)
        at_border[group[self.at_border]] = True
        cut_off[group[self.cut_off]] = True
        at_border[0] = cut_off[0] = False
        return Sizes(area, start, at_border, cut_off)


def measure_sizes(paint: Paint, blocks: Blocks, count: int, work: Work = QUIET) -> Sizes:
    """Measure all numbers of an image, block by block.

    Parameters
    ----------
    paint
        Returns the numbers of a region.
    blocks
        How the image is divided.
    count
        The largest number there may be.
    """
    work.phase("Measuring objects")
    found = []
    for done, region in enumerate(blocks):
        check(work)
        found.append(sizes_in(paint(region), region, blocks))
        work.step(done + 1, len(blocks))
    return sum_sizes(found, count)


@dataclass(frozen=True)
class BlockSizes:
    """What is known of the numbers of one block.

    Attributes
    ----------
    numbers, area, start
        Those that occur, their pixels, and their smallest linear indices in the image.
    at_border, cut_off
        Numbers that touch the image's border, or a side where it is part of a larger one.
    """

    numbers: Array
    area: Array
    start: Array
    at_border: Array
    cut_off: Array


def sizes_in(numbers: Array, region: Slices, blocks: Blocks) -> BlockSizes:
    """Measure the numbers of one block."""
    values, first, length = _runs(numbers.ravel())
    names, at = np.unique(values, return_inverse=True)
    start = np.full(len(names), _FAR)
    np.minimum.at(start, at, image_indices(first, region, blocks))
    return BlockSizes(
        names,
        np.bincount(at, length, len(names)).astype(np.int64),
        start,
        touched(numbers, region, blocks),
        touched(numbers, region, blocks, open_sides=True),
    )


def sum_sizes(found: Iterable[BlockSizes], count: int) -> Sizes:
    """Sum up the measures of all blocks; `count` is the largest number there may be."""
    area = np.zeros(count + 1, np.int64)
    start = np.full(count + 1, _FAR)
    at_border, cut_off = np.zeros((2, count + 1), np.bool_)
    for each in found:
        area[each.numbers] += each.area
        start[each.numbers] = np.minimum(start[each.numbers], each.start)
        at_border[each.at_border] = True
        cut_off[each.cut_off] = True
    return Sizes(area, start, at_border, cut_off)


def _runs(values: Array) -> tuple[Array, Array, Array]:
    """Return value, first index and length of each run of equal values: far fewer than pixels."""
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[first], first, np.diff(np.append(first, len(values)))


# -- holes


@dataclass(frozen=True)
class Holes:
    """Background that a single object encloses.

    Attributes
    ----------
    numbers
        Connected background regions, 0 for objects; uint32, can be sliced like an array.
    owner
        For each region the object that encloses it, 0 for none; ``(N + 1,)`` int64.
    sizes
        Of the regions.
    """

    numbers: Any
    owner: Array
    sizes: Sizes


def find_holes(
    paint: Paint, numbers: Any, blocks: Blocks, connectivity: int, work: Work = QUIET
) -> Holes:
    """Find the holes of objects: background regions that touch one object and not the border.

    Background touches by edges and corners where objects touch only by faces, and the other way
    round, so that a closed outline always encloses.

    Parameters
    ----------
    paint
        Returns the objects of a region.
    numbers
        Array of the image's shape, uint32, to be filled.
    blocks
        How the image is divided.
    connectivity
        Of objects.
    """
    regions = find_basins(
        lambda region: around(paint(region)),
        numbers,
        blocks,
        connectivity=dual(connectivity, blocks),
        flat=True,
        work=work,
    )
    pairs = []
    for region in blocks:
        check(work)
        beyond = with_next(region, blocks)
        pairs.append(facing(paint(beyond), regions.numbers[beyond], blocks))
    return holes_of(regions, pairs)


def dual(connectivity: int, blocks: Blocks) -> int:
    """Return the connectivity of the background of objects with this one."""
    return len(blocks.joined) if connectivity == 1 else 1


def around(objects: Array) -> Array:
    """Return heights whose zones are the background of objects."""
    return np.where(objects > 0, OUTSIDE, 0).astype(np.uint16)


def with_next(region: Slices, blocks: Blocks) -> Slices:
    """Return a block with the first pixels of those after it."""
    return tuple(
        slice(s.start, min(n, s.stop + 1)) if axis in blocks.joined else s
        for axis, (s, n) in enumerate(zip(region, blocks.shape, strict=True))
    )


def facing(objects: Array, background: Array, blocks: Blocks) -> Array:
    """Return each pair of a region of background and an object that share a face, ``(P, 2)``."""
    found = [np.zeros((0, 2), np.int64)]
    for axis in blocks.joined:
        a, b = pair_slices([int(i == axis) for i in range(objects.ndim)])
        for one, two in ((a, b), (b, a)):
            meets = (background[one] > 0) & (objects[two] > 0)
            pairs = np.stack([background[one][meets], objects[two][meets]], 1)
            found.append(np.unique(pairs.astype(np.int64), axis=0))
    return np.unique(np.concatenate(found), axis=0)


def holes_of(regions: Basins, pairs: Iterable[Array]) -> Holes:
    """Tell which regions of background a single object encloses.

    Parameters
    ----------
    regions
        Of background.
    pairs
        What `facing` returned for each block.
    """
    lowest = np.full(regions.count + 1, _FAR)
    highest = np.zeros(regions.count + 1, np.int64)
    for each in pairs:
        np.minimum.at(lowest, each[:, 0], each[:, 1])
        np.maximum.at(highest, each[:, 0], each[:, 1])
    enclosed = (lowest == highest) & ~regions.at_border & ~regions.cut_off
    owner = np.where(enclosed, highest, 0)
    sizes = Sizes(regions.area, regions.start, regions.at_border, regions.cut_off)
    return Holes(regions.numbers, owner, sizes)


# -- the table


@dataclass(frozen=True)
class ObjectTable:
    """One row for each object.

    Attributes
    ----------
    columns
        Names and values, arrays of one length, in the order in which they are written:

        =======================  ==============================================================
        ``label``                number in the label image
        ``frame``                index along time, for movies
        ``pixels``               area or volume in pixels
        ``area_UNIT2``           the same in the image's unit (``volume_UNIT3`` in 3D)
        ``centroid_z`` ...       mean position in pixels, one column for each axis of space
        ``min_z``, ``max_z``     first pixel, and the one after the last
        ``touches_border``       whether it touches the image's border
        ``provisional``          whether it is cut by the part that was computed, of parts
        ``mean_intensity``       mean of the image, one column for each of its channels
        =======================  ==============================================================
    """

    columns: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.columns["label"])

    def features(self) -> dict[str, Array]:
        """Return the columns as features of a napari layer; its ``index`` is the label."""
        return {"index": self.columns["label"], **self.columns}

    def to_csv(self) -> str:
        """Write the table as comma-separated values with a row of names."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for row in zip(*(values.tolist() for values in self.columns.values()), strict=True):
            writer.writerow(f"{v:.10g}" if isinstance(v, float) else v for v in row)
        return text.getvalue()


@dataclass(frozen=True)
class Space:
    """What the axes of labels are, for tables and files.

    Attributes
    ----------
    axes
        One letter for each axis, without channels.
    scale, units
        Size of a pixel along each axis.
    origin
        Position of the first pixel's centre along each axis, in `units`; empty where unknown.
    """

    axes: str
    scale: tuple[float, ...]
    units: tuple[str, ...]
    origin: tuple[float, ...] = ()

    @property
    def spatial(self) -> tuple[int, ...]:
        """Axes of space."""
        return tuple(i for i, letter in enumerate(self.axes) if letter in "zyx")

    @property
    def size_name(self) -> str:
        """Name of the column with areas or volumes in the image's unit."""
        units = {self.units[i] for i in self.spatial}
        unit = unit_symbol(units.pop()).replace("\u00b5", "u") if len(units) == 1 else "unit"
        return f"{'volume' if len(self.spatial) == 3 else 'area'}_{unit}{len(self.spatial)}"

    @property
    def pixel_size(self) -> float:
        """Area or volume of a pixel."""
        return float(np.prod([self.scale[i] for i in self.spatial]))


def measure_objects(
    paint: Paint,
    blocks: Blocks,
    count: int,
    space: Space,
    *,
    intensity: Image | None = None,
    work: Work = QUIET,
) -> ObjectTable:
    """Measure all objects of a label image, block by block.

    Parameters
    ----------
    paint
        Returns the labels of a region.
    blocks
        How the image is divided.
    count
        The largest label.
    space
        What its axes are.
    intensity
        An image of the same size, whose mean is taken over each object; an axis ``c`` may be added.
    """
    ndim = len(blocks.shape)
    pixels = np.zeros(count + 1, np.int64)
    sums = np.zeros((ndim, count + 1))
    low = np.full((ndim, count + 1), _FAR)
    high = np.zeros((ndim, count + 1), np.int64)
    at_border, cut_off = np.zeros((2, count + 1), np.bool_)
    means: list[Array] = []
    work.phase("Measuring objects")
    for done, region in enumerate(blocks):
        check(work)
        labels = paint(region)
        present = np.flatnonzero(labels.ravel())
        found = labels.ravel()[present]
        pixels += np.bincount(found, minlength=count + 1)
        index = np.unravel_index(present, labels.shape)
        for axis in range(ndim):
            place = index[axis] + region[axis].start
            sums[axis] += np.bincount(found, weights=place, minlength=count + 1)
            np.minimum.at(low[axis], found, place)
            np.maximum.at(high[axis], found, place + 1)
        at_border |= touching(labels, region, blocks, count)
        cut_off |= touching(labels, region, blocks, count, open_sides=True)
        if intensity is not None:
            values = _channels_of(intensity, space, region)
            means = means or [np.zeros(count + 1) for _ in values]
            for mean, channel in zip(means, values, strict=True):
                mean += np.bincount(found, channel.ravel()[present], minlength=count + 1)
        work.step(done + 1, len(blocks))
    rows = np.flatnonzero(pixels[1:]) + 1
    area = pixels[rows]
    columns: dict[str, Array] = {"label": rows}
    if "t" in space.axes:
        columns["frame"] = low[space.axes.index("t")][rows]
    columns |= {"pixels": area, space.size_name: area * space.pixel_size}
    letters = [(axis, space.axes[axis]) for axis in space.spatial]
    columns |= {f"centroid_{letter}": sums[axis][rows] / area for axis, letter in letters}
    for axis, letter in letters:
        columns |= {f"min_{letter}": low[axis][rows], f"max_{letter}": high[axis][rows]}
    columns["touches_border"] = at_border[rows]
    if blocks.open_sides:
        columns["provisional"] = cut_off[rows]
    for number, mean in enumerate(means):
        name = "mean_intensity" if len(means) == 1 else f"mean_intensity_{number}"
        columns[name] = mean[rows] / area
    return ObjectTable(columns)


def _channels_of(image: Image, space: Space, region: Slices) -> Array:
    """Read a region of an image with its axes in the order of labels, channels first; float64."""
    axes = image.axes or space.axes
    index = tuple(
        region[space.axes.index(letter)] if letter in space.axes else slice(None) for letter in axes
    )
    values = image.read(index)
    order = [axes.index(letter) for letter in ("c" * ("c" in axes) + space.axes)]
    values = values.transpose(order)
    shape = values.shape if "c" in axes else (1, *values.shape)
    return np.asarray(values, np.float64).reshape(shape)


__all__ = [
    "BlockSizes",
    "Holes",
    "ObjectTable",
    "Sizes",
    "Space",
    "around",
    "dual",
    "facing",
    "find_holes",
    "holes_of",
    "measure_objects",
    "measure_sizes",
    "sizes_in",
    "sum_sizes",
    "with_next",
]
