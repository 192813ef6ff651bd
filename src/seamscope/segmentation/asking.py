"""Ask the network again whether two objects are one when no seam lies between them.

Knows candidates, a network and a recipe. Does not know how candidates were found.

The place is predicted once more with the seam in the middle of one tile, and segmented with the
same recipe. A split that vanishes was made by the tiling; one that stays is the network's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import nn

from seamscope.errors import ImageError, SettingsError
from seamscope.images.image import Image, open_image
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.prediction.single_tile import SingleTiles, TilePrediction
from seamscope.progress import QUIET, Work, check
from seamscope.segmentation.false_splits import Candidate
from seamscope.segmentation.fragments import OUTSIDE
from seamscope.segmentation.recipe import Heights, Recipe
from seamscope.segmentation.segment import segment
from seamscope.settings import Settings
from seamscope.text import shape_text

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Opinion:
    """What the network says of a candidate with the seam in the middle of a tile.

    Attributes
    ----------
    candidate
        The pair.
    vanished
        Whether both places belong to one object; None where either is background.
    """

    candidate: Candidate
    vanished: bool | None

    @property
    def word(self) -> str:
        """What the network sees there, in two words."""
        return {True: "one object", False: "two objects", None: "background"}[self.vanished]

    @property
    def sentence(self) -> str:
        """What was found, for people."""
        one, two = self.candidate.labels
        if self.vanished is None:
            return f"{one} and {two}: predicted as background without a seam between them."
        if self.vanished:
            return f"{one} and {two}: one object without a seam between them. The tiling split it."
        return f"{one} and {two}: two objects also without a seam. The network separates them."


def ask_again(
    candidates: Sequence[Candidate],
    image: Any,
    model: str | nn.Module | Model | None,
    recipe: Recipe,
    settings: Settings | None = None,
    *,
    axes: str | None = None,
    shape: Sequence[int] | None = None,
    work: Work = QUIET,
    **changes: Any,
) -> Iterator[Opinion]:
    """Predict the place of each candidate with the seam in the middle of a tile.

    Parameters
    ----------
    candidates
        Pairs, as `seamscope.find_splits` lists them.
    image, model, settings, changes
        As for `seamscope.predict`; the tile is that of the settings.
    recipe
        How objects are made of the prediction.
    axes, shape
        Letter of each axis of the labels, and their pixels along it; by default those of the
        image without its channels.
    work
        Shows progress and stops.

    Yields
    ------
    Opinion
        One for each candidate, in order.

    Raises
    ------
    SettingsError
        When labels and image have other axes, or no tiles meet at such a seam.
    ImageError
        When they have other sizes.
    """
    case = Case.open(image, model, settings, **changes)
    yield from OneTile(case, recipe, axes, shape).opinions(candidates, work)


class OneTile:
    """Objects and values that the network predicts in one tile, for places of a label image.

    Parameters
    ----------
    case
        Image, network and settings.
    recipe, axes, shape
        As for `ask_again`.
    """

    def __init__(
        self,
        case: Case,
        recipe: Recipe,
        axes: str | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        given = case.settings.tile != "auto"  # then no halo: one tile is all that is read
        halo = 0 if given else case.settings.halo
        self._case = case = case.but(halo=halo, overlap=None, area=None, seams="none")
        self._tiles = SingleTiles(case)
        self._recipe = recipe
        self._channels = case.model.channels_of(case.plan.facts)
        self.axes = axes or "".join(a for a in case.plan.layout.axes if a in _kept(case.plan))
        _check(case, self.axes, shape)

    @property
    def size(self) -> dict[str, int]:
        """Pixels of a tile's prediction along each axis that is tiled."""
        plan = self._tiles.plan
        return dict(zip(plan.layout.spatial, plan.grid.prediction_shape, strict=True))

    def opinions(self, candidates: Sequence[Candidate], work: Work = QUIET) -> Iterator[Opinion]:
        """Yield what the network says of each candidate, in order."""
        work.phase("Asking the network again", "pairs")
        for done, candidate in enumerate(candidates):
            check(work)
            yield Opinion(candidate, self.vanishes(candidate))
            work.step(done + 1, len(candidates))

    def vanishes(self, candidate: Candidate) -> bool | None:
        """Whether both places of a candidate are one object; None where either is background."""
        places = np.array(candidate.places)
        found = self.around(candidate)
        labels = segment(found, self._recipe, channel_names=self._channels).labels
        corner = self._corner(found)
        one, two = (int(labels[tuple(int(v) for v in place - corner)]) for place in places)
        return None if not one or not two else one == two

    def around(self, candidate: Candidate) -> Image:
        """Predict one tile with the seam of a candidate in its middle, as an image at its place."""
        middle = dict(zip(self.axes, np.mean(candidate.places, 0) + 0.5, strict=True))
        letter = [a for a in self.axes if a in "zyx"][candidate.axis]
        if letter not in self._tiles.plan.layout.spatial:
            raise SettingsError(
                f"The network predicts planes of {self._tiles.plan.layout.spatial}, so no tiles "
                f"meet along {letter}: give labels whose seams lie across its axes."
            )
        middle[letter] = float(candidate.line)
        spatial = [middle[a] for a in self._tiles.plan.layout.spatial]
        frame = self._frame(candidate)
        return self._placed(self._tiles.around(spatial, frame), frame)

    def beginning_at(self, origin: Sequence[float], candidate: Candidate) -> Image:
        """Predict the tile that begins at a place, in the frame of a candidate."""
        frame = self._frame(candidate)
        return self._placed(self._tiles.beginning_at(origin, frame), frame)

    def values(self, found: Image, region: tuple[slice, ...]) -> Array:
        """Return what the recipe makes of a region of the labels: probability, depth or distance.

        NaN outside the tile, and where the recipe sees no foreground.
        """
        corner = self._corner(found)
        made = Heights(found, self._recipe, self._channels)
        shape = tuple(part.stop - part.start for part in region)
        values = np.full(shape, np.nan)
        bounds = zip(region, corner, made.shape, strict=True)
        inside = [(max(r.start, c), min(r.stop, c + n)) for r, c, n in bounds]
        if all(low < high for low, high in inside):
            own = tuple(slice(a - c, b - c) for (a, b), c in zip(inside, corner, strict=True))
            heights = made(own)
            shown = self._recipe.value_at(heights.astype(np.float64))
            target = tuple(
                slice(a - r.start, b - r.start) for (a, b), r in zip(inside, region, strict=True)
            )
            values[target] = np.where(heights == OUTSIDE, np.nan, shown)
        return values

    def _frame(self, candidate: Candidate) -> tuple[int, ...]:
        place = dict(zip(self.axes, candidate.places[0], strict=True))
        return tuple(int(place[a]) for a in self._tiles.plan.layout.frames)

    def _placed(self, found: TilePrediction, frame: Sequence[int]) -> Image:
        """Give a tile's prediction the axes of the labels, with one entry along each frame."""
        plan = self._tiles.plan
        given = plan.layout.frames + "c" + plan.layout.spatial
        values = found.values.reshape(*(1,) * len(frame), *found.values.shape)
        order = [given.index(a) for a in "c" + self.axes]
        corner = dict(zip(plan.layout.frames, frame, strict=True))
        corner |= dict(zip(plan.layout.spatial, found.origin, strict=True))
        scale = dict(zip(plan.out_axes, plan.scale, strict=True))
        opened = open_image(np.ascontiguousarray(values.transpose(order)), axes="c" + self.axes)
        return dataclasses.replace(
            opened,
            name=f"prediction of {self._case.image.name}",
            scale=(1.0, *(scale[a] for a in self.axes)),
            # in pixels of the labels: the place is all that is needed
            origin=(0.0, *(float(corner[a]) for a in self.axes)),
        )

    def _corner(self, found: Image) -> npt.NDArray[np.int_]:
        return np.array(found.origin[1:], np.int_)


def _kept(plan: Plan) -> str:
    return plan.layout.frames + plan.layout.spatial


def _check(case: Case, axes: str, shape: Sequence[int] | None) -> None:
    """Check that labels are of this image."""
    plan = case.plan
    if sorted(axes) != sorted(_kept(plan)):
        raise SettingsError(
            f"The labels have the axes {axes}, and the prediction of {case.image.name} would have "
            f"{_kept(plan)}: name the axes (`axes`, `image_axes`), or give the image of the labels."
        )
    if shape is None:
        return
    size = dict(zip(plan.layout.axes, plan.image_shape, strict=True))
    size |= dict(zip(plan.layout.spatial, plan.grid.output_shape, strict=True))
    expected = tuple(size[a] for a in axes)
    if tuple(shape) != expected:
        raise ImageError(
            f"The labels have {shape_text(shape)} pixels, and the prediction of {case.image.name} "
            f"would have {shape_text(expected)}: give the image of the labels."
        )


__all__ = ["OneTile", "Opinion", "ask_again"]
