"""From a prediction to objects: the public face of segmentation.

Knows the order of things. Does not know windows or command lines.

::

    segment(probabilities, recipe) -> Segmentation    the basins and their tree: once
        .at(recipe)                -> Segmentation    another threshold or filter: milliseconds
        .labels                                       an array that is painted where it is read
        .curve()                                      number of objects for all thresholds at once
        .table()                                      one row for each object
        .write(path)                                  a label image

Labels are ``1 + rank of an object's smallest linear index``: the same for any blocks. Everything
is exact; nothing depends on how the image was divided. `Recipe` says what may be changed without
finding basins again (`Recipe.same_basins`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import psutil

from seamscope.errors import ImageError, SettingsError
from seamscope.files import disk_errors
from seamscope.images.image import Image, open_image
from seamscope.images.outputs import Output
from seamscope.segmentation.basins import OUTSIDE, Basins, find_basins
from seamscope.segmentation.blocks import Blocks
from seamscope.segmentation.edits import Edits
from seamscope.segmentation.graph import Tree, tree_of
from seamscope.segmentation.label_files import label_output
from seamscope.segmentation.objects import (
    Holes,
    ObjectTable,
    Sizes,
    Space,
    find_holes,
    measure_objects,
    measure_sizes,
)
from seamscope.segmentation.recipe import LEVELS, Heights, Recipe
from seamscope.tiling import Slices
from seamscope.work import QUIET, Work, check

Array: TypeAlias = npt.NDArray[Any]

_BLOCK = {1: 2**18, 2: 512, 3: 96}
_SHARE = 0.25  # of free memory that the basins of an image may take before they go to disk


def segment(
    probabilities: Any,
    recipe: Recipe | None = None,
    *,
    axes: str | None = None,
    area: Mapping[str, tuple[int, int]] | None = None,
    blocks: int | Sequence[int] | Blocks | None = None,
    workers: int = 1,
    scratch: str | Path | None = None,
    channel_names: Sequence[str] | None = None,
    work: Work = QUIET,
    **changes: Any,
) -> Segmentation:
    """Make objects of a prediction, exactly, at any size.

    Parameters
    ----------
    probabilities
        Prediction of any program: array, path (OME-Zarr, zarr, TIFF, npy) or `Image`. Axes of
        space, with channels ``c`` and time ``t`` where there are any; frames are segmented one by
        one.
    recipe
        What objects are; single values may be given by name instead,
        ``kind="boundaries", channel=1``.
    axes
        One letter of ``tczyx`` for each axis, where the file does not say.
    area
        A part of the image, from and to for each letter. Objects at its inner sides are
        *provisional*: the whole image may change them.
    blocks
        Pixels of a block along each axis (without channels); the result is the same for any.
    workers
        Threads.
    scratch
        Folder for basins that do not fit into a quarter of the free memory; by default the
        system's folder for temporary files.
    channel_names
        Names of the channels, by which a recipe finds *foreground* and *boundary*. By default those
        that a prediction by Seamscope has noted.
    work
        Shows progress and stops.

    Returns
    -------
    Segmentation
        Objects, painted where they are read.

    Raises
    ------
    SettingsError, ImageError
        One sentence with the value, the rule and the remedy.
    InterruptedError
        When stopped.

    Examples
    --------
    >>> import numpy as np, seamscope
    >>> probabilities = np.array([[0.9, 0.8, 0.1, 0.7], [0.2, 0.9, 0.1, 0.9]])
    >>> found = seamscope.segment(probabilities, kind="components")
    >>> np.asarray(found.labels).tolist(), found.count
    ([[1, 1, 0, 2], [0, 1, 0, 2]], 2)
    >>> found.at(threshold=0.85).count
    3
    """
    wanted = dataclasses.replace(recipe or Recipe(), **changes)
    image = probabilities if isinstance(probabilities, Image) else open_image(probabilities)
    if axes is not None and image.axes != axes:
        image = image.with_axes(axes)
    heights = Heights(image, wanted, channel_names)
    part = _part(heights, area)
    shape = tuple(s.stop - s.start for s in part)
    divided = _blocks(blocks, shape, heights)
    divided = dataclasses.replace(divided, open_sides=_open_sides(part, heights))
    room = _Room.of(shape, divided.size, scratch, kept_heights=wanted.kind == "components")

    def read(region: Slices) -> Array:
        moved = tuple(
            slice(s.start + p.start, s.stop + p.start) for s, p in zip(region, part, strict=True)
        )
        found = heights(moved)
        if room.heights is not None:
            room.heights[region] = found
        return found

    with room.disk_errors():
        basins = find_basins(
            read,
            room.numbers,
            divided,
            connectivity=wanted.connectivity,
            flat=wanted.kind == "classes",
            workers=workers,
            work=work,
        )
    check(work)
    work.phase("Joining basins")
    tree = tree_of(basins)
    corner = tuple(s.start for s in part)
    first = heights.origin or (0.0,) * len(corner)
    origin = tuple(o + c * s for o, c, s in zip(first, corner, heights.scale, strict=True))
    space = Space(heights.axes, heights.scale, heights.units, origin)
    found = Segmentation(
        wanted, _Ground(basins, tree, room, space, corner, image.name, heights.shape)
    )
    if note := found.empty_note:
        work.note(note)
    return found


def _part(heights: Heights, area: Mapping[str, tuple[int, int]] | None) -> Slices:
    for letter in area or {}:
        if letter not in heights.axes:
            raise SettingsError(
                f"The area names the axis {letter}, but the prediction has the axes {heights.axes}."
            )
    part = []
    for letter, n in zip(heights.axes, heights.shape, strict=True):
        low, high = (area or {}).get(letter, (0, n))
        low, high = max(0, low), min(n, high)
        if low >= high:
            raise SettingsError(
                f"The area {letter}={low}:{high} is empty: the prediction has {n} pixels along "
                f"{letter}."
            )
        part.append(slice(low, high))
    return tuple(part)


def _open_sides(part: Slices, heights: Heights) -> frozenset[tuple[int, int]]:
    found = set()
    for axis, (side, n) in enumerate(zip(part, heights.shape, strict=True)):
        if axis not in heights.isolated:
            found |= {(axis, 0)} if side.start > 0 else set()
            found |= {(axis, 1)} if side.stop < n else set()
    return frozenset(found)


def _blocks(asked: Any, shape: Sequence[int], heights: Heights) -> Blocks:
    if isinstance(asked, Blocks):
        return asked
    if asked is None:
        asked = _BLOCK[len(shape) - len(heights.isolated)]
    return Blocks.of(shape, asked, isolated=heights.isolated)


class _Folder:
    """A folder that vanishes with the last segmentation that uses it."""

    def __init__(self, within: str | Path | None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="seamscope-", dir=within))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True)
class _Room:
    """Where arrays of the image's size are kept: in memory, or in a folder that vanishes."""

    numbers: Any
    heights: Any
    folder: _Folder | None
    chunks: tuple[int, ...]

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        chunks: Sequence[int],
        scratch: str | Path | None,
        *,
        kept_heights: bool,
    ) -> _Room:
        needed = math.prod(shape) * (6 if kept_heights else 4)
        folder = None
        if needed > _SHARE * psutil.virtual_memory().available:
            folder = _Folder(scratch)
        room = cls(None, None, folder, tuple(min(c, n) for c, n in zip(chunks, shape, strict=True)))
        heights = room.array("heights", shape, np.uint16) if kept_heights else None
        return dataclasses.replace(room, numbers=room.array("basins", shape), heights=heights)

    @contextlib.contextmanager
    def disk_errors(self) -> Iterator[None]:
        """Turn errors of the folder's disk into sentences; let a stop by the user through."""
        stopped = None
        left = "Nothing was written; name another folder (scratch)."
        with (
            contextlib.nullcontext() if self.folder is None else disk_errors(self.folder.path, left)
        ):
            try:
                yield
            except InterruptedError as stop:  # an OSError too
                stopped = stop
        if stopped is not None:
            raise stopped

    def array(self, name: str, shape: Sequence[int], dtype: Any = np.uint32) -> Any:
        """Return an array of zeros."""
        if self.folder is None:
            return np.zeros(tuple(shape), dtype)
        import zarr

        path = str(self.folder.path / name)
        return zarr.create_array(path, shape=tuple(shape), chunks=self.chunks, dtype=dtype)


@dataclass(frozen=True)
class _Ground:
    """What all cuts of one prediction share."""

    basins: Basins
    tree: Tree
    room: _Room
    space: Space
    corner: tuple[int, ...]  # where the part lies in the image
    name: str
    whole: tuple[int, ...]  # shape of the image


@dataclass(frozen=True)
class Curve:
    """Number of objects for all thresholds at once, before filters.

    Attributes
    ----------
    values
        Thresholds of the recipe (probability, depth, distance or dynamics), ascending, float64.
    counts
        Objects at each, int64.
    name
        The recipe's parameter: ``"threshold"``, ``"seed_threshold"`` or ``"dynamics"``.
    """

    values: Array
    counts: Array
    name: str

    def stable(self, tolerance: float = 0.02) -> tuple[float, float]:
        """Return the widest range in which the count changes by at most a share of itself.

        Parameters
        ----------
        tolerance
            Largest difference between the counts of the range, as a share of the smallest of them.
        """
        some = np.flatnonzero(self.counts > 0)
        if not len(some):
            return float(self.values[0]), float(self.values[-1])
        best, first = (0, 0), 0
        ends = _windows(self.counts, tolerance)
        for first, last in enumerate(ends):
            wider = self.values[last] - self.values[first]
            if self.counts[first] > 0 and wider > self.values[best[1]] - self.values[best[0]]:
                best = (first, int(last))
        return float(self.values[best[0]]), float(self.values[best[1]])


def _windows(counts: Array, tolerance: float) -> list[int]:
    """For each first index the last up to which counts differ by at most their share."""
    from collections import deque

    high: deque[int] = deque()
    low: deque[int] = deque()
    ends, last = [], -1
    for first in range(len(counts)):
        while last + 1 < len(counts):
            new = counts[last + 1]
            top = max(new, counts[high[0]]) if high else new
            bottom = min(new, counts[low[0]]) if low else new
            if top - bottom > tolerance * bottom:
                break
            last += 1
            while high and counts[high[-1]] <= new:
                high.pop()
            while low and counts[low[-1]] >= new:
                low.pop()
            high.append(last)
            low.append(last)
        ends.append(last)
        for held in (high, low):
            if held and held[0] == first:
                held.popleft()
    return ends


class Segmentation:
    """Objects of a prediction at one setting of a recipe.

    Attributes
    ----------
    recipe
        The setting.
    """

    def __init__(self, recipe: Recipe, ground: _Ground, edits: Edits | None = None) -> None:
        self.recipe = recipe
        self._ground = ground
        self._edits = edits

    # -- what it is

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels of the labels along each axis."""
        return self._ground.basins.blocks.shape

    @property
    def space(self) -> Space:
        """Axes of the labels, with the size of a pixel along each."""
        return self._ground.space

    @property
    def basins(self) -> Basins:
        """The basins, which no setting changes."""
        return self._ground.basins

    @property
    def tree(self) -> Tree:
        """The spanning tree of the basins."""
        return self._ground.tree

    @property
    def corner(self) -> tuple[int, ...]:
        """Where the labels lie in the image, for parts of it; in pixels along each axis."""
        return self._ground.corner

    def at(self, recipe: Recipe | None = None, **changes: Any) -> Segmentation:
        """Return the segmentation at another setting, from the same basins.

        Raises
        ------
        SettingsError
            When the setting needs other basins (`Recipe.same_basins`).
        """
        wanted = dataclasses.replace(recipe or self.recipe, **changes)
        if not self.recipe.same_basins(wanted):
            raise SettingsError(
                "This setting changes the heights, and with them the basins: segment again."
            )
        return Segmentation(wanted, self._ground)

    # -- objects

    def with_edits(self, edits: Edits | None) -> Segmentation:
        """Return the segmentation with corrections (see `seamscope.segmentation.corrections`)."""
        return Segmentation(self.recipe, self._ground, edits)

    @property
    def kept_edges(self) -> Array:
        """Which edges of the tree lie within objects, before corrections; ``(E,)`` bool."""
        if self.recipe.seeds_by_dynamics:
            return self.tree.kept_by_dynamics(self.recipe.cut)
        return self.tree.kept_below(self.recipe.cut)

    @cached_property
    def objects(self) -> Array:
        """For each basin its object, named by its smallest basin, 0 for none; before filters.

        Painted objects follow the basins (see `seamscope.segmentation.edits`).
        """
        recipe, tree = self.recipe, self.tree
        if self._edits is not None:
            return self._edits.objects
        if recipe.kind == "classes":
            return np.arange(tree.count + 1)
        if recipe.seeds_by_dynamics:
            return tree.cut_by_dynamics(recipe.cut)
        return tree.cut_below(recipe.cut)

    def nodes(self, region: Slices) -> Array:
        """Return the basins and painted objects of a region, 0 for pixels that are not shown."""
        numbers = np.asarray(self.basins.numbers[region])
        heights, edits = self._ground.room.heights, self._edits
        if heights is not None:
            below = self.recipe.cut if edits is None else edits.visible_below[numbers]
            numbers = np.where(heights[region] < below, numbers, 0)
        if edits is not None and edits.patches:
            numbers = numbers.copy()
            for patch in edits.patches:
                patch.over(numbers, region)
        return numbers

    def basin_at(self, place: Sequence[int]) -> tuple[int, int]:
        """Return the basin of a pixel, 0 outside, and the height (of *components*, else 0)."""
        at = tuple(int(p) for p in place)
        heights = self._ground.room.heights
        return int(self.basins.numbers[at]), 0 if heights is None else int(heights[at])

    def label_at(self, place: Sequence[int]) -> int:
        """Return the label of a pixel."""
        return int(self.paint(tuple(slice(int(p), int(p) + 1) for p in place)).ravel()[0])

    @cached_property
    def _sizes(self) -> Sizes:
        """Of basins, as far as they belong to objects."""
        painted = self._edits is not None and bool(self._edits.patches)
        if painted or self._ground.room.heights is not None:
            return measure_sizes(self.nodes, self.basins.blocks, len(self.objects) - 1)
        b = self.basins
        return Sizes(b.area, b.start, b.at_border, b.cut_off)

    @cached_property
    def _holes(self) -> Holes | None:
        if not self.recipe.fill_holes:
            return None
        numbers = self._ground.room.array("holes", self.shape)
        named = self.objects if self.recipe.kind != "classes" else self._classes

        def paint(region: Slices) -> Array:
            return np.asarray(named[self.nodes(region)])

        with self._ground.room.disk_errors():
            return find_holes(paint, numbers, self.basins.blocks, self.recipe.connectivity)

    @cached_property
    def _classes(self) -> Array:
        """For each basin its class."""
        return np.where(self.basins.lowest == OUTSIDE, 0, self.basins.lowest).astype(np.int64)

    @cached_property
    def _kept(self) -> _Kept:
        """Which objects are left after filters, and how they are numbered."""
        objects = self.objects
        sizes = self._sizes.grouped(objects)
        area = sizes.area.copy()
        holes = self._holes
        owner = None if holes is None else holes.owner
        if holes is not None and owner is not None:
            if self.recipe.kind == "classes":
                area = self._sizes.area
            else:
                np.add.at(area, owner, holes.sizes.area)
        kept = (area > 0) & (area >= self.recipe.min_size)
        if self.recipe.max_size is not None:
            kept &= area <= self.recipe.max_size
        if self.recipe.clear_border:
            kept &= ~sizes.at_border
        if self._edits is not None:
            kept |= self._edits.touched & (area > 0)
        kept[0] = False
        if self.recipe.kind == "classes":
            label = np.where(kept, self._classes, 0)
            most = int(self._classes.max(initial=0))
            return _Kept(label, owner, most, len(np.unique(label[label > 0])), sizes)
        names = np.flatnonzero(kept)
        names = names[np.argsort(sizes.start[names])]
        number = np.zeros(len(objects), np.int64)
        number[names] = np.arange(1, len(names) + 1)
        hole_label = None if owner is None else number[owner]
        return _Kept(number[objects], hole_label, len(names), len(names), sizes)

    @property
    def count(self) -> int:
        """Number of objects; of *classes*, how many occur."""
        return self._kept.count

    @property
    def dtype(self) -> np.dtype[Any]:
        """Smallest unsigned type that holds all labels."""
        return np.min_scalar_type(self._kept.highest)

    def paint(self, region: Slices) -> Array:
        """Return the labels of a region.

        Parameters
        ----------
        region
            A slice with start and stop for each axis.
        """
        kept, nodes = self._kept, self.nodes(region)
        labels = self._lookup[nodes]
        if kept.hole_label is not None and self._holes is not None:
            inside = kept.hole_label.astype(self.dtype)[self._holes.numbers[region]]
            labels = np.where(labels == 0, inside, labels)
        return labels

    def paint_named(self, region: Slices) -> Array:
        """Return a region with each object named by its smallest basin, uint32.

        Names stay the same while a threshold moves, so that objects keep their colours, and need no
        look at the whole image. What is background is the same as in `paint`.
        """
        nodes = self.nodes(region)
        names = self._names[nodes]
        kept = self._kept if self.recipe.fill_holes else None
        if kept is not None and kept.hole_label is not None and self._holes is not None:
            owner = np.where(kept.hole_label > 0, self._holes.owner, 0).astype(np.uint32)
            names = np.where(names == 0, owner[self._holes.numbers[region]], names)
        return names

    @cached_property
    def _names(self) -> Array:
        recipe = self.recipe
        named = self._classes if recipe.kind == "classes" else self.objects
        filtered = recipe.min_size or recipe.max_size is not None or recipe.clear_border
        if filtered:
            named = np.where(self._kept.label > 0, named, 0)
        return named.astype(np.uint32)

    @cached_property
    def _lookup(self) -> Array:
        return self._kept.label.astype(self.dtype)

    @property
    def labels(self) -> Labels:
        """The label image, painted where it is read; ``numpy.asarray`` paints all of it."""
        return Labels(self)

    @property
    def provisional(self) -> Array:
        """Labels that the image outside this part may change, ascending."""
        kept, nodes = self._kept, np.flatnonzero(self._sizes.cut_off)
        return np.unique(kept.label[nodes][kept.label[nodes] > 0])

    @property
    def empty_note(self) -> str:
        """A sentence on why there are no objects; empty where there are some."""
        if self.count:
            return ""
        recipe = self.recipe
        lowest = int(np.flatnonzero(self.basins.histogram[:OUTSIDE])[:1].sum())
        if recipe.kind == "components":
            return (
                f"No object: no probability is above the threshold {recipe.threshold:g}; the "
                f"largest is {recipe.value_at(lowest):.3g}. Lower the threshold."
            )
        if not self.basins.count:
            return f"No object: no pixel is above the threshold {recipe.threshold:g}. Lower it."
        if recipe.min_size or recipe.max_size is not None or recipe.clear_border:
            return "No object is left after the filters: change the sizes, or keep the border's."
        return (
            f"No object: no pixel is a seed; the lowest height is {recipe.value_at(lowest):.3g}. "
            "Move the seed threshold."
        )

    # -- numbers

    def sizes(self) -> tuple[Array, Array, Array]:
        """Return labels, their pixels (without filled holes) and smallest linear indices."""
        kept = self._kept
        names, first = np.unique(kept.label, return_index=True)
        present = names > 0
        if self.recipe.kind == "classes":
            grouped = self._sizes.grouped(kept.label)
            return names[present], grouped.area[names[present]], grouped.start[names[present]]
        objects = self.objects[first[present]]
        return names[present], kept.sizes.area[objects], kept.sizes.start[objects]

    def curve(self) -> Curve:
        """Return the number of objects for all thresholds at once, from the tree."""
        recipe, tree = self.recipe, self.tree
        if recipe.kind == "classes":
            raise SettingsError("The recipe classes has no threshold to choose.")
        if recipe.seeds_by_dynamics:
            heights = np.arange(1, LEVELS + 1)
            values = heights / LEVELS * recipe.capped
            return Curve(values, tree.counts_by_dynamics()[heights], "dynamics")
        heights = np.arange(LEVELS + 1)
        values, counts = recipe.value_at(heights), tree.counts()[heights]
        name = "threshold" if recipe.kind == "components" else "seed_threshold"
        if recipe.kind in ("components", "distance"):
            values, counts = values[::-1], counts[::-1]
        return Curve(values, counts, name)

    def histogram(self, bins: int = 256) -> tuple[Array, Array]:
        """Return the edges, in the recipe's values, and pixels of a histogram of the heights."""
        counts = self.basins.histogram[: LEVELS + 1]
        edges = np.linspace(0, LEVELS + 1, bins + 1)
        found = np.histogram(np.arange(LEVELS + 1), edges, weights=counts)[0].astype(np.int64)
        values = self.recipe.value_at(np.minimum(edges, LEVELS))
        if values[0] > values[-1]:
            values, found = values[::-1], found[::-1]
        return np.asarray(values), found

    def table(self, intensity: Any = None, *, work: Work = QUIET) -> ObjectTable:
        """Measure all objects, block by block.

        Parameters
        ----------
        intensity
            Image whose mean is taken over each object, as for `seamscope.open_image`.
        work
            Shows progress and stops.

        Raises
        ------
        ImageError
            When the image has another size.
        """
        image = None if intensity is None else self.fitting(intensity)
        return measure_objects(
            self.paint,
            self.basins.blocks,
            self._kept.highest,
            self.space,
            intensity=image,
            work=work,
        )

    def fitting(self, intensity: Any) -> Image:
        """Open an image of the labels' size, with named axes.

        Raises
        ------
        ImageError
            When it has another size.
        """
        image = open_image(intensity)
        axes = self.space.axes
        if image.axes is None or set(image.axes) - {"c"} != set(axes):
            if image.ndim != len(axes):
                raise ImageError(
                    f"{image.name} has {image.ndim} axes, the labels have {axes}: name the image's "
                    "axes."
                )
            image = image.with_axes(axes)
        assert image.axes is not None
        sizes = tuple(image.shape[image.axes.index(letter)] for letter in axes)
        if sizes != self._ground.whole or self.shape != self._ground.whole:
            raise ImageError(
                f"The image has {' x '.join(map(str, sizes))} pixels, the labels have "
                f"{' x '.join(map(str, self.shape))}: give the image that was predicted."
            )
        return image

    # -- writing

    def write(
        self,
        target: Any = None,
        *,
        overwrite: bool = False,
        source: Image | None = None,
        work: Work = QUIET,
    ) -> Any:
        """Write the label image, block by block.

        Parameters
        ----------
        target
            As for `seamscope.predict`: None for an array in memory, an array, or a path. OME-Zarr
            is marked as an image of labels. A path ``IMAGE.ome.zarr/labels/NAME`` adds the labels
            to that image.
        overwrite
            Whether an existing file may be replaced.
        source
            Image that must not be overwritten.
        work
            Shows progress and stops.

        Returns
        -------
        array
            The labels as they were written.

        Raises
        ------
        OutputError
            When the target exists, the disk is full, or the file cannot hold the labels.
        """
        with label_output(
            target,
            self.shape,
            self.dtype,
            self.space,
            overwrite=overwrite,
            source=source,
            metadata=self.record(),
        ) as output:
            self._fill(output, work)
            output.finish()
        return output.array

    def _fill(self, output: Output, work: Work) -> None:
        work.phase("Writing labels")
        chunks = getattr(output.array, "chunks", None) or self.basins.blocks.size
        blocks = Blocks.of(self.shape, tuple(chunks))
        for done, region in enumerate(blocks):
            check(work)
            output.write(region, self.paint(region))
            work.step(done + 1, len(blocks))

    def record(self) -> dict[str, Any]:
        """What a label image should know about how it was made, as plain values."""
        return {
            "segmentation": {
                "recipe": dataclasses.asdict(self.recipe),
                "objects": self.count,
                "basins": self.basins.count,
                "prediction": self._ground.name,
            }
        }


@dataclass(frozen=True)
class _Kept:
    """Labels of the objects that filters leave."""

    label: Array  # of each basin
    hole_label: Array | None  # of each hole
    highest: int
    count: int
    sizes: Sizes  # of objects, by name


class Labels:
    """A label image that is painted where it is read, for napari and numpy.

    Attributes
    ----------
    shape, dtype, ndim
        As of an array.
    """

    def __init__(self, segmentation: Segmentation) -> None:
        self._segmentation = segmentation
        self.shape = segmentation.shape
        self.dtype = segmentation.dtype
        self.ndim = len(self.shape)

    def __getitem__(self, index: Any) -> Any:
        given = index if isinstance(index, tuple) else (index,)
        if Ellipsis in given:
            at = given.index(Ellipsis)
            rest = given[at + 1 :]
            given = given[:at] + (slice(None),) * (self.ndim - at - len(rest)) + rest
        given += (slice(None),) * (self.ndim - len(given))
        region: list[slice] = []
        inner: list[Any] = []
        for i, n in zip(given, self.shape, strict=True):
            if isinstance(i, slice):
                low, high, step = i.indices(n)
                if step < 0:
                    raise IndexError("labels are read forwards: use a step of 1 or more")
                region.append(slice(low, max(low, high)))
                inner.append(slice(None, None, step))
            else:
                place = int(i) + n * (int(i) < 0)
                if not 0 <= place < n:
                    raise IndexError(f"{i} is no index of an axis of {n} pixels")
                region.append(slice(place, place + 1))
                inner.append(0)
        if any(s.start >= s.stop for s in region):
            return np.zeros([s.stop - s.start for s in region], self.dtype)[tuple(inner)]
        return self._segmentation.paint(tuple(region))[tuple(inner)]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        painted = self[...]
        return np.asarray(painted, dtype=dtype)


__all__ = ["Curve", "Labels", "Segmentation", "segment"]
