"""The stages of a segmentation, block by block: what a block of each makes, and where it is kept.

Knows arrays and files. Does not know who does blocks, in which order, or what is marked (see
`seamscope.segmentation.labelling`).

===========  ====================================  =========================================
stage        of each block                         then, of all
===========  ====================================  =========================================
basins       heights, and the fragments in them    basins and their passes (`Stages.joined`)
sizes        of basins above the threshold         sums (`Stages.sizes`)
background   the fragments between objects         its regions
facing       objects beside each region            which regions are holes (`Stages.holes`)
labels       painted into the result
===========  ====================================  =========================================

Pixels are kept in zarr arrays whose chunks are blocks, numbers in a file for each block beside the
marks: no two blocks write the same, and a block that is done again writes the same again.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import OutputError
from seamscope.files import DAMAGED, disk_errors, write_file
from seamscope.images.results.chunks import is_lost, storing_all
from seamscope.images.results.create import open_part
from seamscope.images.results.output import Output
from seamscope.segmentation.basins import Basins, Joined, Passes, join_fragments
from seamscope.segmentation.blocks import Blocks
from seamscope.segmentation.fragments import Fragments, Renumbered, find_fragments
from seamscope.segmentation.objects import (
    BlockSizes,
    Holes,
    Sizes,
    around,
    dual,
    facing,
    holes_of,
    sizes_in,
    sum_sizes,
    with_next,
)
from seamscope.segmentation.recipe import Recipe
from seamscope.serialization import plain, restore
from seamscope.tiling import Slices

Array: TypeAlias = npt.NDArray[Any]

STAGES = ("basins", "sizes", "background", "facing", "labels")
_WRITTEN = "written.json"
_LEFT = "What was written so far is kept."
_BASINS = ("lowest", "area", "start", "at_border", "cut_off", "histogram")
_PASSES = ("first", "second", "height")


class Kept:
    """An array on disk, which may move while it is read.

    Parameters
    ----------
    path
        Of a zarr array.
    """

    def __init__(self, path: Path) -> None:
        self.open(path)

    def open(self, path: Path) -> None:
        """Read from another place."""
        import zarr

        with storing_all():
            self.path, self._array = path, zarr.open_array(str(path), mode="r+")

    def has_lost(self, region: Slices, since: float) -> bool:
        """Return whether the disk has lost some of a region (see `chunks.is_lost`)."""
        return is_lost(self._array, region, since)

    def __getitem__(self, index: Any) -> Array:
        return np.asarray(self._array[index])

    def __setitem__(self, index: Any, values: Array) -> None:
        self._array[index] = values


@dataclass(frozen=True)
class Painting:
    """How labels are painted, as tables.

    Attributes
    ----------
    labels
        Of each basin.
    holes
        Label of each region of background; None where holes stay.
    """

    labels: Array
    holes: Array | None


@dataclass(frozen=True)
class Written:
    """Where workers write labels.

    Attributes
    ----------
    unfinished, final
        The result while it is written, and its name.
    shape, dtype, axes
        Of the result.
    places
        Its blocks.
    """

    unfinished: str
    final: str
    shape: tuple[int, ...]
    dtype: str
    axes: str
    places: Blocks


class Stages:
    """What blocks make of a prediction.

    Parameters
    ----------
    folder
        Of the marks, where numbers are kept.
    arrays
        Where pixels are kept.
    read
        Returns the heights of a region.
    blocks
        How the image is divided.
    recipe
        How objects are made.
    forget
        Called with the numbers of blocks whose pixels are not there, before they have a place.

    Attributes
    ----------
    output
        Where labels are written.
    paint
        Returns the labels of a region; by default those of the tables that `keep_painting` kept.
    """

    def __init__(
        self,
        folder: Path,
        arrays: Path,
        read: Callable[[Slices], Array],
        blocks: Blocks,
        recipe: Recipe,
        forget: Callable[[range], None] = lambda numbers: None,
    ) -> None:
        self.folder, self.blocks, self.recipe = folder, blocks, recipe
        self._arrays, self._read, self._forget = arrays, read, forget
        thresholded = recipe.kind == "components"
        self.fragments = self._array("fragments", np.uint32, "basins")
        self.heights = self._array("heights", np.uint16, "basins") if thresholded else None
        self.background = (
            self._array("background", np.uint32, "background") if recipe.fill_holes else None
        )
        self._known: dict[str, Joined] = {}
        self.output: Output | None = None
        self.places: Blocks | None = None
        self.paint: Callable[[Slices], Array] = self._painted
        self.device = "cpu"  # as `seamscope.execution.worker.Blockwise`

    def _array(self, name: str, dtype: Any, stage: str) -> Kept:
        """Open an array that a stage makes, and make it before where it is missing."""
        import zarr

        path, blocks = self._arrays / name, self.blocks
        if not path.exists():
            self._forget(self.numbers(stage))  # an array that is new would read as zeros
            chunks = tuple(min(c, n) for c, n in zip(blocks.size, blocks.shape, strict=True))
            draft = path.with_name(f"{name}.{uuid.uuid4().hex}")
            with disk_errors(path, _LEFT):
                self._arrays.mkdir(exist_ok=True)
                zarr.create_array(str(draft), shape=blocks.shape, chunks=chunks, dtype=dtype)
                try:
                    os.rename(draft, path)
                except OSError:  # which one, if another process has made it, depends on the system
                    if not path.exists():
                        raise
                    shutil.rmtree(draft, ignore_errors=True)
        with _reading(path):
            return Kept(path)

    def moved(self, arrays: Path) -> None:
        """Read the arrays from another folder, which they were moved to."""
        for each in (self.fragments, self.heights, self.background):
            if each is not None:
                each.open(arrays / each.path.name)

    # -- which blocks there are

    def numbers(self, stage: str) -> range:
        """Return the numbers of a stage's blocks."""
        first = STAGES.index(stage) * len(self.blocks)
        count = self.blocks if stage != "labels" else self.places
        return range(first, first + len(count or ()))

    def region(self, number: int) -> Slices:
        """Return where a block lies."""
        blocks, place = self.blocks, number % len(self.blocks)
        first = self.numbers("labels").start
        if number >= first:
            if self.places is None:
                self._open_part()
            assert self.places is not None
            blocks, place = self.places, number - first
        return blocks.region(tuple(int(i) for i in np.unravel_index(place, blocks.counts)))

    def _stage_of(self, number: int) -> str:
        return STAGES[min(number // len(self.blocks), len(STAGES) - 1)]

    def has_lost(self, number: int, since: float) -> bool:
        """Return whether the disk has lost what is kept of a block (see `chunks.is_lost`)."""
        kept = {"basins": (self.fragments, self.heights), "background": (self.background,),
                "labels": (self.output,)}  # fmt: skip
        region = self.region(number)
        each = kept.get(self._stage_of(number), ())
        pixels = any(array is not None and array.has_lost(region, since) for array in each)
        return pixels or self._lacks_numbers(number, since)

    def _lacks_numbers(self, number: int, since: float) -> bool:
        """Return whether a block's file of numbers is lost; once they are joined, none is read."""
        stage, file = self._stage_of(number), self.folder / f"{number}.part"
        if stage == "labels" or (self.folder / f"{stage}.npz").exists():
            return False
        try:
            found = file.stat()
            if found.st_size and found.st_mtime > since:
                with file.open("rb") as opened, np.load(opened) as arrays:
                    dict(arrays)
        except DAMAGED:
            return True
        return not found.st_size

    def carry_out(self, number: int, check: Callable[[], None] = lambda: None) -> int:
        """Do a block; `check` is called before each write."""
        stage = self._stage_of(number)
        with disk_errors(self._arrays, _LEFT):
            getattr(self, f"_do_{stage}")(number, self.region(number), check)
        return 0

    # -- basins

    def _do_basins(self, number: int, region: Slices, check: Callable[[], None]) -> None:
        found = self._read(region)
        flat = self.recipe.kind == "classes"
        part, fragments = find_fragments(found, region, self.blocks, self.recipe.connectivity, flat)
        check()
        if self.heights is not None:
            self.heights[region] = found
        self.fragments[region] = fragments
        self._keep(f"{number}.part", part.to_bytes())

    @cached_property
    def joined(self) -> Joined:
        """The basins of the whole image."""
        flat = self.recipe.kind == "classes"
        return self._joined("basins", self.recipe.connectivity, flat)

    @cached_property
    def numbered(self) -> Renumbered:
        """For each pixel its basin."""
        return Renumbered(self.fragments, self.blocks, self._lookup("basins"))

    def _joined(self, stage: str, connectivity: int, flat: bool) -> Joined:
        """Join the fragments of a stage, once for all runs."""
        file = self.folder / f"{stage}.npz"
        if not file.exists():
            found = join_fragments(list(self._parts(stage)), self.blocks, connectivity, flat)
            for name in ("basin", "offsets"):  # read in parts, so each in a file of its own
                self._keep(f"{stage}.{name}.npy", _npy(getattr(found, name)))
            arrays = {name: getattr(found.basins, name) for name in _BASINS}
            arrays |= {f"pass {name}": getattr(found.basins.passes, name) for name in _PASSES}
            self._keep(file.name, _npz(arrays))
        return self._joined_before(stage, connectivity)

    def _joined_before(self, stage: str, connectivity: int) -> Joined:
        """Read what `_joined` has kept."""
        file = self.folder / f"{stage}.npz"
        with _reading(file), file.open("rb") as opened, np.load(opened) as arrays:
            passes = Passes(*(arrays[f"pass {name}"] for name in _PASSES))
            own = {name: arrays[name] for name in _BASINS}
        basins = Basins(None, self.blocks, connectivity, passes=passes, **own)
        found = self._known[stage] = Joined(basins, *self._tables(stage))
        return found

    def forget_damaged(self, stage: str) -> None:
        """Remove joined numbers that the disk has lost in part, so that they are joined again.

        Raises
        ------
        OutputError
            When the disk refuses.
        """
        file = self.folder / f"{stage}.npz"
        try:
            if file.exists():
                self._joined_before(stage, 1)
        except OutputError:
            with disk_errors(self.folder, _LEFT):
                file.unlink()

    def _parts(self, stage: str) -> Iterator[Fragments]:
        for number in self.numbers(stage):
            file = self.folder / f"{number}.part"
            with _reading(file):
                part = Fragments.from_bytes(file.read_bytes(), self.region(number))
            yield part

    def _tables(self, stage: str) -> tuple[Array, Array]:
        """Return the basin of each fragment, and how many fragments are before each block's."""
        basin, offsets = (self.folder / f"{stage}.{name}.npy" for name in ("basin", "offsets"))
        with _reading(basin):
            return np.load(basin, mmap_mode="r"), np.load(offsets)

    def _lookup(self, stage: str) -> Callable[[int], Array]:
        def lookup(block: int) -> Array:
            if stage not in self._known:  # in a worker, which needs nothing else of it
                self._known[stage] = Joined(None, *self._tables(stage))  # type: ignore[arg-type]
            return self._known[stage].lookup(block)

        return lookup

    # -- objects

    def nodes(self, region: Slices) -> Array:
        """Return the basins of a region, 0 for pixels that are not above the threshold."""
        numbers = self.numbered[region]
        if self.heights is None:
            return numbers
        return np.where(self.heights[region] < self.recipe.cut, numbers, 0)

    def _do_sizes(self, number: int, region: Slices, check: Callable[[], None]) -> None:
        found = sizes_in(self.nodes(region), region, self.blocks)
        check()
        self._keep(f"{number}.part", _npz(vars(found)))

    def sizes(self) -> Sizes:
        """Return the sizes of basins, of their pixels above the threshold."""
        names = [each.name for each in fields(BlockSizes)]
        each = (
            BlockSizes(*(part[name] for name in names))
            for part in self._numbers_kept("sizes", names)
        )
        return sum_sizes(each, self.joined.basins.count)

    def keep_objects(self, objects: Array) -> None:
        """Keep the object of each basin, between whose pixels holes are looked for."""
        self._keep("objects.npy", _npy(objects))

    @cached_property
    def _objects(self) -> Array:
        file = self.folder / "objects.npy"
        with _reading(file):
            return np.asarray(np.load(file))

    def _do_background(self, number: int, region: Slices, check: Callable[[], None]) -> None:
        heights = around(self._objects[self.nodes(region)])
        connectivity = dual(self.recipe.connectivity, self.blocks)
        part, fragments = find_fragments(heights, region, self.blocks, connectivity, True)
        check()
        assert self.background is not None
        self.background[region] = fragments
        self._keep(f"{number}.part", part.to_bytes())

    @cached_property
    def regions(self) -> Renumbered:
        """For each pixel its region of background."""
        return Renumbered(self.background, self.blocks, self._lookup("background"))

    def join_background(self) -> Basins:
        """Return the regions of background of the whole image."""
        connectivity = dual(self.recipe.connectivity, self.blocks)
        found = self._joined("background", connectivity, flat=True).basins
        return replace(found, numbers=self.regions)

    def _do_facing(self, number: int, region: Slices, check: Callable[[], None]) -> None:
        beyond = with_next(region, self.blocks)
        objects = self._objects[self.nodes(beyond)]
        pairs = facing(objects, self.regions[beyond], self.blocks)
        check()
        self._keep(f"{number}.part", _npz({"pairs": pairs}))

    def holes(self) -> Holes:
        """Return which regions of background are holes."""
        pairs = (part["pairs"] for part in self._numbers_kept("facing", ["pairs"]))
        return holes_of(self.join_background(), pairs)

    # -- labels

    def keep_painting(self, how: Painting, written: Written) -> None:
        """Keep how labels are painted, and where they are written, for other processes."""
        given = {name: table for name, table in vars(how).items() if table is not None}
        for name, table in given.items():
            self._keep(f"painting.{name}.npy", _npy(table))
        self._keep(_WRITTEN, json.dumps(plain(written)).encode())

    def _open_part(self) -> None:
        """Open the result that another process has begun."""
        with _reading(self.folder / _WRITTEN):
            how = restore(Written, json.loads((self.folder / _WRITTEN).read_bytes()))
        self.output = open_part(how.unfinished, how.final, how.shape, how.dtype, how.axes)
        self.places = how.places

    @cached_property
    def _painting(self) -> Painting:
        labels, holes = (self.folder / f"painting.{name}.npy" for name in ("labels", "holes"))
        with _reading(labels):
            how = np.load(labels), np.load(holes) if self.background is not None else None
        return Painting(*how)

    def _painted(self, region: Slices) -> Array:
        how = self._painting
        labels = how.labels[self.nodes(region)]
        if how.holes is not None:
            labels = np.where(labels == 0, how.holes[self.regions[region]], labels)
        return np.asarray(labels)

    def let_go(self) -> None:
        """Forget who paints and where, so that objects vanish with their last user."""
        self.output, self.paint = None, self._painted

    def _do_labels(self, number: int, region: Slices, check: Callable[[], None]) -> None:
        assert self.output is not None
        labels = self.paint(region)
        check()
        self.output.write(region, labels)
        self.output.flush()

    # -- files

    def _keep(self, name: str, content: bytes) -> None:
        """Write a file in one step; two processes may write the same."""
        with disk_errors(self.folder, _LEFT):
            lasting = not name.endswith(".part")  # of blocks, which `has_lost` checks
            write_file(self.folder / name, content, shared=True, lasting=lasting)

    def _numbers_kept(self, stage: str, names: list[str]) -> Iterator[dict[str, Array]]:
        for number in self.numbers(stage):
            file = self.folder / f"{number}.part"
            with _reading(file), file.open("rb") as opened, np.load(opened) as arrays:
                part = {name: arrays[name] for name in names}
            yield part


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn every way in which a file that was kept can be damaged into a sentence."""
    try:
        yield
    except DAMAGED as error:
        raise OutputError(
            f"{path} is missing or damaged, so the unfinished result cannot be resumed. Begin "
            "again (overwrite)."
        ) from error


def _npz(arrays: dict[str, Array]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


def whole_chunks(shape: tuple[int, ...], chunks: tuple[int, ...], size: tuple[int, ...]) -> Blocks:
    """Divide a result into blocks of whole chunks, about as large as other blocks."""
    each = (c * max(1, math.ceil(s / c)) for c, s in zip(chunks, size, strict=True))
    return Blocks.of(shape, tuple(each))


__all__ = ["STAGES", "Kept", "Painting", "Stages", "Written", "whole_chunks"]
