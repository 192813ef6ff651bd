"""A recipe to begin with, from what a prediction looks like.

Knows names of channels, and ranges of values. Does not know whether the guess is right: what is
uncertain is said in a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.images.image import Image
from seamscope.segmentation.recipe import Recipe, channel_names

Array: TypeAlias = npt.NDArray[Any]
Values: TypeAlias = Literal["probabilities", "logits"] | float

_LOOK = {1: 2**16, 2: 256, 3: 48}  # pixels along each axis that are looked at
_ROUNDING = 1e-3
_MOST_CLASSES = 64


@dataclass(frozen=True)
class Guess:
    """A recipe to begin with.

    Attributes
    ----------
    recipe
        What fits the prediction.
    question
        A sentence on what should be checked; empty where nothing is uncertain.
    """

    recipe: Recipe
    question: str = ""


def guess_recipe(image: Image, names: Sequence[str] | None = None) -> Guess:
    """Choose a recipe from the names of channels and from the values in the image's middle.

    Parameters
    ----------
    image
        The prediction, with named axes.
    names
        Of its channels; by default those that a prediction by Seamscope has noted.

    Examples
    --------
    >>> import numpy as np
    >>> from seamscope.images.image import open_image
    >>> guess_recipe(open_image(np.full((8, 8), 0.5), axes="yx")).recipe.kind
    'components'
    """
    known = [name.lower() for name in (channel_names(image) if names is None else names)]
    axes = image.axes or ""
    sample = _middle(image)
    count = image.shape[axes.index("c")] if "c" in axes else 1
    values, question = _values(image, sample)
    boundary = [i for i, name in enumerate(known) if "boundary" in name]
    if len(boundary) == 1:
        return Guess(Recipe("boundaries", boundary[0], values=values), question)
    if count == 1:
        return Guess(Recipe("components", values=values), question)
    foreground = [i for i, name in enumerate(known) if "foreground" in name]
    if len(foreground) == 1:
        return Guess(Recipe("components", foreground[0], values=values), question)
    background = next((i for i, name in enumerate(known) if "background" in name), 0)
    if values == "logits" or not _adds_up(sample, axes.index("c"), image.dtype):
        question = question or (
            f"The {count} channels of {image.name} do not add up to 1, so they may be independent "
            "probabilities or embeddings: check the recipe and its channel."
        )
    if count > _MOST_CLASSES:
        return Guess(Recipe("components", 0, values=values), question)
    return Guess(Recipe("classes", values=values, background=background), question)


def _middle(image: Image) -> Array:
    """Read the image's middle, all channels, the middle frame."""
    axes = image.axes or ""
    side = _LOOK[max(1, min(3, sum(letter in "zyx" for letter in axes)))]
    region = []
    for letter, n in zip(axes, image.shape, strict=True):
        size = n if letter == "c" else min(n, 1 if letter == "t" else side)
        first = (n - size) // 2
        region.append(slice(first, first + size))
    return image.read(tuple(region))


def _values(image: Image, sample: Array) -> tuple[Values, str]:
    """Return what the numbers seem to be, and a question where that is not certain."""
    finite = sample[np.isfinite(sample)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if image.dtype == np.bool_ or str(image.dtype) in ("uint8", "uint16"):
        return "probabilities", ""
    seen = f"{image.name} holds values from {low:.3g} to {high:.3g}"
    if low < -_ROUNDING:
        return "logits", (
            f"{seen}, which are no probabilities. They are taken for logits: check Values, or "
            "choose the recipe embeddings."
        )
    if high <= 1 + _ROUNDING:
        return "probabilities", ""
    top = 255.0 if high <= 255 else 65535.0
    return top, f"{seen}: {top:g} is taken for a probability of 1. Check Values."


def _adds_up(sample: Array, axis: int, dtype: np.dtype[Any]) -> bool:
    """Whether channels add up to 1, or to what stands for it."""
    total = sample.astype(np.float64).sum(axis)
    full = {"uint8": 255.0, "uint16": 65535.0}.get(str(dtype), 1.0)
    return bool(np.nanmax(np.abs(total / full - 1), initial=0.0) < 0.02)


__all__ = ["Guess", "guess_recipe"]
