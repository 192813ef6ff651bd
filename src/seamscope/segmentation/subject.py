"""What is segmented: the heights of a prediction or of a part of it, and how it is divided.

Knows a prediction, a recipe and an area. Does not know how basins are found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

from seamscope.errors import SettingsError
from seamscope.images.image import Image, open_image
from seamscope.segmentation.basins import Basins
from seamscope.segmentation.blocks import Blocks
from seamscope.segmentation.graph import tree_of
from seamscope.segmentation.objects import Space
from seamscope.segmentation.recipe import Heights, Recipe
from seamscope.segmentation.room import Room
from seamscope.segmentation.segmentation import Basis, Segmentation
from seamscope.segmentation.tile_seams import Seams, noted_seams, within
from seamscope.tiling import Slices

Array: TypeAlias = npt.NDArray[Any]

_BLOCK = {1: 2**18, 2: 512, 3: 96}


@dataclass(frozen=True)
class Subject:
    """What is segmented.

    Attributes
    ----------
    image, recipe, names
        The prediction, how objects are made of it, and names of its channels where they are given.
    heights
        Of the whole prediction.
    part
        Of it, without channels.
    blocks
        How the part is divided.
    seams
        Where tiles of the prediction meet, in pixels of the part.
    """

    image: Image
    recipe: Recipe
    names: Sequence[str] | None
    heights: Heights
    part: Slices
    blocks: Blocks
    seams: Seams

    @classmethod
    def of(
        cls,
        probabilities: Any,
        recipe: Recipe,
        *,
        axes: str | None = None,
        area: Mapping[str, tuple[int, int]] | None = None,
        blocks: int | Sequence[int] | Blocks | None = None,
        names: Sequence[str] | None = None,
        seams: Seams | None = None,
    ) -> Subject:
        """Describe it; parameters are those of `seamscope.segment`.

        Raises
        ------
        SettingsError, ImageError
            When recipe, area or blocks do not fit the prediction.
        """
        image = probabilities if isinstance(probabilities, Image) else open_image(probabilities)
        if axes is not None and image.axes != axes:
            image = image.with_axes(axes)
        heights = Heights(image, recipe, names)
        part = _part(heights, area)
        shape = tuple(s.stop - s.start for s in part)
        divided = _blocks(blocks, shape, heights)
        divided = dataclasses.replace(divided, open_sides=_open_sides(part, heights))
        corner = tuple(s.start for s in part)
        noted = noted_seams(image) if seams is None else seams
        noted = within(noted, heights.axes, corner, shape, heights.shape)
        return cls(image, recipe, names, heights, part, divided, noted)

    def read(self, region: Slices) -> Array:
        """Return the heights of a region of the part."""
        return self.heights(
            tuple(
                slice(s.start + p.start, s.stop + p.start)
                for s, p in zip(region, self.part, strict=True)
            )
        )

    @property
    def space(self) -> Space:
        """Axes of the part, and where it lies."""
        heights = self.heights
        first = heights.origin or (0.0,) * len(self.part)
        origin = (o + p.start * s for o, p, s in zip(first, self.part, heights.scale, strict=True))
        return Space(heights.axes, heights.scale, heights.units, tuple(origin))

    def segmentation(self, basins: Basins, room: Room) -> Segmentation:
        """Return the objects that these basins make."""
        corner = tuple(s.start for s in self.part)
        basis = Basis(
            basins, tree_of(basins), room, self.space, corner, self.image.name,
            self.heights.shape, self.seams,
        )  # fmt: skip
        return Segmentation(self.recipe, basis)


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


__all__ = ["Subject"]
