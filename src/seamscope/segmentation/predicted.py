"""Predictions that are made to be segmented: of a whole image or of an area, and what is around it.

Knows how far a recipe looks beyond an area. Does not know command lines or files of results.

Heights beside the border of an area depend on pixels beyond it: *distance* looks up to its cap,
*embeddings* one pixel. They are predicted too, so that objects of an area are those of the image,
except where they are cut off.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from psutil import virtual_memory

from seamscope.errors import ImageError
from seamscope.execution.pool import On
from seamscope.execution.run import events_of
from seamscope.images.image import Image, open_image
from seamscope.images.records import read_record
from seamscope.images.views import View
from seamscope.ledger import Ledger
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.tuning import prepare
from seamscope.prediction.folders import is_done
from seamscope.prediction.output import open_output
from seamscope.prediction.run import begin, completed
from seamscope.progress import QUIET, Work
from seamscope.segmentation.objects import Space
from seamscope.segmentation.recipe import Heights, Recipe
from seamscope.segmentation.tile_seams import Seams, seams_of
from seamscope.serialization import plain, restore

_SHARE = 0.25  # of free memory that a prediction may take
_PLAN = "plan of the prediction"  # in the ledger of labels


class Placed(View):
    """A part of a larger array, at its place; what lies outside cannot be read.

    Parameters
    ----------
    data
        The part.
    corner
        Of the part in the larger array, one number for each axis.
    shape
        Of the larger array.
    """

    def __init__(self, data: Any, corner: Sequence[int], shape: Sequence[int]) -> None:
        self._corner = tuple(corner)
        super().__init__(data, tuple(shape), data.dtype)

    def _chunks(self, chunks: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return none: a chunk of the part may reach beyond it, where nothing can be read."""
        return ()

    def _read(self, index: tuple[Any, ...]) -> Any:
        own = []
        for i, low, n, whole in zip(index, self._corner, self._data.shape, self.shape, strict=True):
            start, stop = (i, i + 1) if isinstance(i, int) else i.indices(whole)[:2]
            if start < low or stop > low + n:
                raise ImageError(f"Pixels {start} to {stop} were not predicted: widen the area.")
            own.append(i - low if isinstance(i, int) else slice(start - low, stop - low))
        return self._data[tuple(own)]


@dataclass(frozen=True)
class Predicted:
    """A prediction to be segmented.

    Attributes
    ----------
    image
        The prediction, of the size that the whole image's would have.
    area
        Part to segment, from and to for each letter, in pixels of the prediction; None for all.
    channels
        Names of the channels.
    seams
        Where its tiles meet, in pixels of the prediction.
    file
        Where it is kept; None in memory.
    place
        Corner of what was predicted, and shape of the whole image's prediction, where that is
        larger.
    """

    image: Image
    area: Mapping[str, tuple[int, int]] | None
    channels: tuple[str, ...]
    seams: Seams
    file: Path | None = None
    place: tuple[tuple[int, ...], tuple[int, ...]] | None = None


def predict_for(
    recipe: Recipe,
    case: Case,
    folder: Path | None = None,
    work: Work = QUIET,
    *,
    ledger: Ledger | None = None,
    on: On = None,
    trust: bool = False,
) -> Predicted:
    """Predict what a recipe needs, in memory or, where it takes much of it, in a folder.

    Parameters
    ----------
    recipe
        How objects will be made of it.
    case
        Image, network and settings; their area is what is wanted.
    folder
        Where a large prediction is kept; by default it is kept in memory.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).
    ledger
        Of the labels. Where given, any prediction is kept in the folder, by the plan that the
        ledger notes, and an unfinished one there is resumed.
    on, trust
        As for `seamscope.predict`; other processes need a prediction that stays.

    Raises
    ------
    SeamscopeError
        As for `seamscope.predict`.
    """
    asked = case.settings.area
    wanted = case.plan
    case = _planned(recipe, case, ledger)
    plan = case.plan
    large = math.prod(plan.out_shape) * plan.out_dtype.itemsize > _SHARE * (
        virtual_memory().available
    )
    stay = ledger is not None
    kept = folder / "prediction.zarr" if folder is not None and (large or stay) else None
    if kept is not None and is_done(kept):
        values, record = open_image(kept).data, read_record(kept) or {}
    else:
        case, task = begin(case, None, None, kept, resume=stay)
        with open_output(case, kept, task=task, resume=stay) as output:
            completed(events_of(case, output, on, trust=trust, work=work))
            values, record = output.array, output.record
    plan = Plan.from_json(record["plan"])  # tiles are smaller where memory ran out
    place = _place(plan) if asked else None
    opened = open_image(values if place is None else Placed(values, *place), axes=plan.out_axes)
    first = tuple(
        o - low * size
        for o, low, size in zip(plan.origin, _place(plan)[0], plan.scale, strict=True)
    )
    named = dataclasses.replace(
        opened,
        name=f"prediction of {case.image.name}",
        scale=tuple(plan.scale),
        units=tuple(plan.units),
        origin=first,
    )
    area = dict(_ranges(wanted)) if asked else None
    seams = seams_of(plan, of_area=False)
    return Predicted(named, area, case.model.channels_of(plan.facts), seams, kept, place)


def _planned(recipe: Recipe, case: Case, ledger: Ledger | None) -> Case:
    """Plan what is predicted; a ledger keeps the plan, since free memory, and so tiles, change."""
    if ledger is not None and _PLAN in ledger.task:
        return case.at(restore(Plan, ledger.task[_PLAN]))
    if case.settings.area:
        case = prepare(case.but(area=_grown(case.settings.area, case, recipe)))
    if ledger is not None:
        ledger.note(_PLAN, plain(case.plan))
    return case.at(case.plan)


def check_recipe(recipe: Recipe, case: Case) -> None:
    """Check that a recipe fits what a case will predict, before it is predicted.

    Raises
    ------
    SettingsError, ImageError
        When channels, axes or types do not fit.
    """
    plan = case.plan
    nothing = np.broadcast_to(np.zeros((), plan.out_dtype), plan.out_shape)
    image = dataclasses.replace(
        open_image(nothing, axes=plan.out_axes),
        name=f"prediction of {case.image.name}",
        scale=tuple(plan.scale),
    )
    Heights(image, recipe, case.model.channels_of(plan.facts))


def space_of(plan: Plan) -> tuple[tuple[int, ...], Space]:
    """Return shape and axes of the labels that a prediction by this plan will have."""
    kept = [i for i, letter in enumerate(plan.out_axes) if letter != "c"]
    space = Space(
        "".join(plan.out_axes[i] for i in kept),
        tuple(plan.scale[i] for i in kept),
        tuple(plan.units[i] for i in kept),
        tuple(plan.origin[i] for i in kept),
    )
    return tuple(plan.out_shape[i] for i in kept), space


def _grown(
    area: Mapping[str, tuple[int, int]], case: Case, recipe: Recipe
) -> dict[str, tuple[int, int]]:
    """Widen an area, in pixels of the image, by what the recipe reads beyond it."""
    plan, image = case.plan, case.image
    letters = [letter for letter in plan.out_axes if letter in "zyx"]
    sizes = [plan.scale[plan.out_axes.index(letter)] for letter in letters]
    scales = dict(zip(plan.layout.spatial, plan.facts.scale, strict=True))
    grown = dict(area)
    for letter, halo in zip(letters, recipe.halo(recipe.voxel(sizes)), strict=True):
        if letter in area:
            margin = math.ceil(halo / scales.get(letter, 1))
            low, high = area[letter]
            size = image.shape[plan.layout.axes.index(letter)]
            grown[letter] = (max(0, low - margin), min(size, high + margin))
    return grown


def _ranges(plan: Plan) -> list[tuple[str, tuple[int, int]]]:
    """Where a plan's result lies, in pixels of the prediction of the whole image."""
    frames = list(zip(plan.layout.frames, plan.frame_ranges, strict=True))
    area = ((part.start, part.stop) for part in plan.area)
    return frames + list(zip(plan.layout.spatial, area, strict=True))


def _place(plan: Plan) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the corner of a plan's result, and the shape of the whole image's."""
    corner = {letter: low for letter, (low, _) in _ranges(plan)}
    image = dict(zip(plan.layout.axes, plan.image_shape, strict=True))
    whole = {letter: image[letter] for letter in plan.layout.frames}
    whole |= dict(zip(plan.layout.spatial, (a.output_size for a in plan.grid.axes), strict=True))
    whole["c"] = plan.out_channels
    axes = plan.out_axes
    return tuple(corner.get(a, 0) for a in axes), tuple(int(whole[a]) for a in axes)


__all__ = ["Placed", "Predicted", "check_recipe", "predict_for", "space_of"]
