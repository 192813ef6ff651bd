"""Ask the network again whether two objects are one when no seam lies between them.

Knows candidates, a network and a recipe. Does not know how candidates were found.

The place is predicted once more with the seam in the middle of a tile, and segmented with the same
recipe. A split that vanishes was made by the tiling; one that stays is the network's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.prediction.run import predict
from seamscope.segmentation.false_splits import Candidate
from seamscope.segmentation.recipe import Recipe
from seamscope.segmentation.segment import segment
from seamscope.settings import Settings
from seamscope.work import QUIET, Work, check


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
    model: str | nn.Module | Model,
    recipe: Recipe,
    settings: Settings | None = None,
    *,
    work: Work = QUIET,
    **changes: Any,
) -> Iterator[Opinion]:
    """Predict the place of each candidate with the seam in the middle of a tile.

    Parameters
    ----------
    candidates
        Pairs, as `seamscope.find_splits` lists them; of images without time.
    image, model, settings, changes
        As for `seamscope.predict`. Where a tile is given, half of it is kept, so that one tile
        gives the whole window.
    recipe
        How objects are made of the prediction.
    work
        Shows progress and stops.

    Yields
    ------
    Opinion
        One for each candidate, in order.
    """
    case = Case.open(image, model, settings, **{**changes, "seams": "none"})
    case = case.but(case.settings.but(halo=_halo(case.settings.tile)))
    work.phase("Asking the network again")
    for done, candidate in enumerate(candidates):
        check(work)
        yield Opinion(candidate, _vanishes(candidate, case, recipe))
        work.step(done + 1, len(candidates))


def _vanishes(candidate: Candidate, case: Case, recipe: Recipe) -> bool | None:
    places = np.array(candidate.places)
    names = "zyx"[-places.shape[1] :]
    axes = case.image.axes or names
    window = {}
    for column, letter in enumerate(names):
        size = case.image.shape[axes.index(letter)]
        middle = int(places[:, column].mean())
        reach = _reach(case.settings.tile, column)
        window[letter] = (max(0, middle - reach), min(size, middle + reach))
    values = np.asarray(predict(case, area=window))
    letters = ("c" if values.ndim > len(names) else "") + names
    channels = case.model.channels_of(case.plan.facts)
    labels = segment(values, recipe, axes=letters, channel_names=channels).labels
    corner = np.array([window[letter][0] for letter in names])
    one, two = (int(labels[tuple(int(v) for v in place - corner)]) for place in places)
    if not one or not two:
        return None
    return one == two


def _halo(tile: Any) -> Any:
    """A quarter of the tile on each side, "auto" for tiles of a size that is not given."""
    if tile == "auto":
        return "auto"
    return tile // 4 if isinstance(tile, int) else tuple(n // 4 for n in tile)


def _reach(tile: Any, column: int) -> int:
    """Half of the window: small enough for one tile where its size is given."""
    if tile == "auto":
        return 64
    return int(tile if isinstance(tile, int) else tile[column]) // 4


__all__ = ["Opinion", "ask_again"]
