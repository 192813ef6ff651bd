"""Objects of a prediction at one setting: counted, painted, measured and written.

Knows basins, their tree and a recipe. Does not know how basins are found, windows or command lines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import ImageError, SettingsError
from seamscope.images.dimensions import full_index
from seamscope.images.image import Image, open_image
from seamscope.images.ngff import OmeZarr
from seamscope.images.results.output import Output
from seamscope.images.views import LazyArray
from seamscope.progress import QUIET, Work, check
from seamscope.segmentation.basins import Basins
from seamscope.segmentation.blocks import Blocks
from seamscope.segmentation.curve import Curve
from seamscope.segmentation.edits import Edits
from seamscope.segmentation.fragments import OUTSIDE
from seamscope.segmentation.graph import Tree
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
from seamscope.segmentation.recipe import LEVELS, Recipe
from seamscope.segmentation.room import Room
from seamscope.segmentation.tile_seams import Seams, plain_seams
from seamscope.text import shape_text
from seamscope.tiling import Slices

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Basis:
    """What all cuts of one prediction share."""

    basins: Basins
    tree: Tree
    room: Room
    space: Space
    corner: tuple[int, ...]  # where the part lies in the image
    name: str
    whole: tuple[int, ...]  # shape of the image
    seams: Seams = field(default_factory=dict)  # of the prediction's tiles


class Segmentation:
    """Objects of a prediction at one setting of a recipe.

    Attributes
    ----------
    recipe
        The setting.
    """

    def __init__(self, recipe: Recipe, basis: Basis, edits: Edits | None = None) -> None:
        self.recipe = recipe
        self._basis = basis
        self._edits = edits

    # -- what it is

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels of the labels along each axis."""
        return self._basis.basins.blocks.shape

    @property
    def space(self) -> Space:
        """Axes of the labels, with the size of a pixel along each."""
        return self._basis.space

    @property
    def basins(self) -> Basins:
        """The basins, which no setting changes."""
        return self._basis.basins

    @property
    def tree(self) -> Tree:
        """The spanning tree of the basins."""
        return self._basis.tree

    @property
    def corner(self) -> tuple[int, ...]:
        """Where the labels lie in the image, for parts of it; in pixels along each axis."""
        return self._basis.corner

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
        return Segmentation(wanted, self._basis)

    # -- objects

    def assume(self, sizes: Sizes | None = None, holes: Holes | None = None) -> None:
        """Take over what was measured elsewhere: sizes of basins, and holes."""
        known = {"_sizes": sizes, "_holes": holes}
        self.__dict__.update({name: each for name, each in known.items() if each is not None})

    @property
    def enclosing(self) -> Array:
        """For each basin what may enclose holes: its object, or its class."""
        return self._classes if self.recipe.kind == "classes" else self.objects

    @property
    def tables(self) -> tuple[Array, Array | None]:
        """Return the label of each basin, and that of each region of background, if any."""
        holes = self._kept.hole_label if self._holes is not None else None
        return self._lookup, None if holes is None else holes.astype(self.dtype)

    @property
    def is_corrected(self) -> bool:
        """Whether objects were corrected by hand."""
        return self._edits is not None

    def with_edits(self, edits: Edits | None) -> Segmentation:
        """Return the segmentation with corrections (see `seamscope.segmentation.corrections`)."""
        return Segmentation(self.recipe, self._basis, edits)

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
        """Return the basins and painted objects of a region, 0 for pixels that are not shown.

        Slices may have steps, for a look from far away.
        """
        numbers = np.asarray(self.basins.numbers[region])
        heights, edits = self._basis.room.heights, self._edits
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
        heights = self._basis.room.heights
        return int(self.basins.numbers[at]), 0 if heights is None else int(heights[at])

    @cached_property
    def _sizes(self) -> Sizes:
        """Of basins, as far as they belong to objects."""
        painted = self._edits is not None and bool(self._edits.patches)
        if painted or self._basis.room.heights is not None:
            return measure_sizes(self.nodes, self.basins.blocks, len(self.objects) - 1)
        b = self.basins
        return Sizes(b.area, b.start, b.at_border, b.cut_off)

    @cached_property
    def _holes(self) -> Holes | None:
        if not self.recipe.fill_holes:
            return None
        numbers = self._basis.room.array("holes", self.shape)
        named = self.enclosing

        def paint(region: Slices) -> Array:
            return np.asarray(named[self.nodes(region)])

        with self._basis.room.disk_errors():
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
        look at the whole image. What is background is the same as in `paint`. Slices may have
        steps.
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
    def first_pixels(self) -> Array:
        """For each basin the smallest linear index of its pixels that are shown, int64."""
        return self._sizes.start

    def provisional_names(self) -> Array:
        """Names (see `paint_named`) of objects that the image outside this part may change.

        Only the part's sides are looked at, so that it is known while a threshold moves.
        """
        whole = tuple(slice(0, n) for n in self.shape)
        found: list[Array] = [np.zeros(0, np.uint32)]
        for axis, side in self.basins.blocks.open_sides:
            at = self.shape[axis] - 1 if side else 0
            found.append(self.paint_named((*whole[:axis], slice(at, at + 1), *whole[axis + 1 :])))
        names = np.unique(np.concatenate([each.ravel() for each in found]))
        return names[names > 0]

    @property
    def names_of_labels(self) -> Array:
        """For each label its name in `paint_named`, 0 where there is no such label."""
        if self.recipe.kind == "classes":
            return np.arange(self._kept.highest + 1)
        label, names = self._kept.label, np.zeros(self._kept.highest + 1, np.int64)
        names[label] = self.objects
        names[0] = 0
        return names

    @property
    def empty_note(self) -> str:
        """A sentence on why there are no objects; empty where there are some."""
        if self.count:
            return ""
        recipe = self.recipe
        some = np.flatnonzero(self.basins.histogram[:OUTSIDE])
        if not len(some):
            if recipe.kind == "components":
                return "No object: no pixel has data."
            what = "belongs to a class" if recipe.kind == "classes" else "is foreground"
            return (
                f"No object: no pixel {what}, at the threshold {recipe.threshold:g}. Lower it, or "
                "choose other channels."
            )
        first = recipe.value_at(int(some[0]))
        if recipe.kind == "components" and some[0] >= recipe.cut:
            return (
                f"No object: no probability is above the threshold {recipe.threshold:g}; the "
                f"largest is {first:.3g}. Lower the threshold."
            )
        if not (self.objects > 0).any():
            return (
                f"No object: no pixel is a seed; the lowest height stands for {first:.3g}. Move "
                "the seed threshold."
            )
        return (
            "No object is left after the filters: change the smallest and largest size, or keep "
            "objects at the border."
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

    def stable_range(self) -> tuple[float, float]:
        """Return the widest range of thresholds that hardly changes the number of objects.

        Thresholds below or above all heights are left out: there nothing changes any more.
        """
        return self.curve().seen(*self.histogram()).stable()

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
        """Open an image of the labels' size, with named axes; of a larger one, their part.

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
        if sizes == self.shape:
            return image
        if sizes != self._basis.whole:
            raise ImageError(
                f"The image has {shape_text(sizes)} pixels, the labels have "
                f"{shape_text(self.shape)}: give the image that was predicted."
            )
        area = {
            letter: slice(low, low + n)
            for letter, low, n in zip(axes, self.corner, self.shape, strict=True)
        }
        whole = zip(image.axes, image.shape, strict=True)
        return image.part(tuple(area.get(letter, slice(0, n)) for letter, n in whole))

    # -- writing

    def write(
        self,
        target: Any = None,
        *,
        overwrite: bool = False,
        source: Image | None = None,
        ome: OmeZarr = OmeZarr(),  # noqa: B008  (frozen)
        metadata: Mapping[str, Any] | None = None,
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
        ome
            Version of OME-Zarr, and whether its lower resolutions are written.
        metadata
            Added to the record.
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
            ome=ome,
            metadata={**self.record(), **(metadata or {})},
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
                "prediction": self._basis.name,
                "seams": plain_seams(self._basis.seams),
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


class Labels(LazyArray):
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

    def __getitem__(self, index: Any) -> Any:
        given = full_index(index, self.ndim)
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


__all__ = ["Basis", "Curve", "Labels", "Segmentation"]
