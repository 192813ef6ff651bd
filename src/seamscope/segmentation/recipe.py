"""Recipes: what turns a prediction into heights and seeds, and which objects are kept.

Knows channels, thresholds and the fixed scale of heights. Does not know blocks or graphs.

==============  ==============================  =============================================
recipe          height of a pixel               objects
==============  ==============================  =============================================
`classes`       number of its class             pixels of a class; labels are numbers of classes
`components`    1 - probability                 connected pixels above `threshold`
`boundaries`    probability of a boundary       watershed, seeds below `seed_threshold`
`distance`      depth below the edge of the     watershed, seeds deeper than `seed_threshold`, or
                foreground, turned around       of `dynamics` or more
`embeddings`    greatest distance to a          watershed, seeds below `seed_threshold`
                neighbour's embedding
==============  ==============================  =============================================

Heights are whole numbers from 0 to `LEVELS` on a scale that never depends on a block's own values:
65 steps for a thousandth of probability, so that thresholds of up to three decimals are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from seamscope.errors import ImageError, SettingsError
from seamscope.images.image import Image
from seamscope.images.records import read_record
from seamscope.segmentation.blocks import pair_slices
from seamscope.segmentation.fragments import OUTSIDE
from seamscope.tiling import Slices

Array: TypeAlias = npt.NDArray[Any]
Values: TypeAlias = Literal["probabilities", "logits", "clipped"]
Kind: TypeAlias = Literal["components", "classes", "boundaries", "distance", "embeddings"]

LEVELS = 65000
_FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0, "bool": 1.0}
_ROUNDING = 1e-3  # of a softmax in half precision, beyond 0 and 1
_CAP = {"distance": 50.0, "embeddings": 2.0}
_SEEDS = {"boundaries": 0.3, "embeddings": 0.5}


@dataclass(frozen=True)
class Recipe:
    """How objects are made of a prediction.

    Attributes
    ----------
    kind
        See the table in `seamscope.segmentation.recipe`.
    channel
        Channel that the recipe is about: the foreground of *components* and *distance*, the
        boundary of *boundaries*; one or several of *classes* and *embeddings*. None where there
        is only one, one is named so, or for all of *classes* and *embeddings*.
    foreground
        *boundaries*, *embeddings*: channel of the foreground; pixels that are not above `threshold`
        are background. None for one that is named so; without any, all pixels belong to objects.
    threshold
        Pixels above it are foreground, a probability.
    seed_threshold
        *boundaries*: pixels below this probability are seeds; by default 0.3. *embeddings*: pixels
        below this distance; by default 0.5. *distance*: pixels deeper than this.
    dynamics
        Instead of a seed threshold: seeds are minima that are at least this deep, in the unit of
        the heights. By default 1 for *distance*.
    background
        *classes*: channel that is background, label 0; the others are numbered from 1 in their
        order. None: a pixel whose largest probability is not above `threshold` is background.
    min_size, max_size
        Objects with fewer or more pixels are dropped.
    fill_holes
        Whether background that a single object encloses becomes part of it.
    clear_border
        Whether objects that touch the image's border are dropped.
    connectivity
        1 if pixels touch by faces, 2 by edges too, 3 by corners too (in 2D: 1 or 2).
    cap
        *distance*: depths above it count as it; by default 50. *embeddings*: distances above it,
        by default 2. Larger values are not distinguished.
    voxel_size
        Distances between neighbouring pixels for `cap` and depths, one for each axis of space. By
        default the image's own, divided by the smallest: depths are in pixels of the finest axis.
    values
        What the numbers of the prediction are: ``"probabilities"`` (0 to 1; integers are divided by
        their type's largest value), ``"logits"`` (a softmax over channels, or a sigmoid of one),
        ``"clipped"`` (a linear output trained towards 0 and 1: values beyond count as 0 or 1), or
        what 1 is (such as 255). *embeddings* are taken as they are.

    Notes
    -----
    All filters act on whole objects, after blocks were joined: holes, then sizes, then the border.
    """

    kind: Kind = "components"
    channel: int | tuple[int, ...] | None = None
    foreground: int | None = None
    threshold: float = 0.5
    seed_threshold: float | None = None
    dynamics: float | None = None
    background: int | None = 0
    min_size: int = 0
    max_size: int | None = None
    fill_holes: bool = False
    clear_border: bool = False
    connectivity: int = 1
    cap: float | None = None
    voxel_size: tuple[float, ...] | None = None
    values: Values | float = "probabilities"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise SettingsError(f"There is no recipe {self.kind!r}: choose one of {known}.")
        if self.seed_threshold is not None and self.dynamics is not None:
            raise SettingsError(
                "Seeds are given by a seed threshold or by dynamics, not by both: leave one out."
            )
        for name in ("threshold", "seed_threshold", "dynamics", "cap"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise SettingsError(f"{name} is {value}: it must be a finite number, 0 or more.")
        if self.kind != "embeddings":
            for name in ("threshold", "seed_threshold")[: 1 + (self.kind == "boundaries")]:
                if (getattr(self, name) or 0) > 1:
                    raise SettingsError(
                        f"{name} is {getattr(self, name):g}: it is a probability, from 0 to 1, "
                        "whatever the numbers in the file are."
                    )
        if self.cap == 0:
            raise SettingsError("cap is 0, which leaves no heights: give a distance above 0.")
        for name in ("min_size", "max_size"):
            if (getattr(self, name) or 0) < 0:
                raise SettingsError(
                    f"{name} is {getattr(self, name)}: a size is a number of pixels, 0 or more."
                )
        if self.max_size is not None and self.max_size < self.min_size:
            raise SettingsError(
                f"Sizes from {self.min_size} to {self.max_size} pixels leave no object: the "
                "largest size must not be below the smallest."
            )

    def but(self, **changes: Any) -> Recipe:
        """Return a recipe with some values changed."""
        return replace(self, **changes)

    @property
    def capped(self) -> float:
        """The largest value that heights stand for."""
        if self.kind not in _CAP:
            return 1.0
        return _CAP[self.kind] if self.cap is None else self.cap

    def voxel(self, scale: Sequence[float]) -> tuple[float, ...]:
        """Return distances between neighbouring pixels, as depths are measured.

        Parameters
        ----------
        scale
            Size of a pixel along each axis of space.
        """
        return self.voxel_size or tuple(size / min(scale) for size in scale)

    def halo(self, voxel: Sequence[float]) -> tuple[int, ...]:
        """Return how many pixels around a region decide its heights, along each axis of space."""
        if self.kind == "distance":
            return tuple(math.ceil(self.capped / size) + 1 for size in voxel)
        return (int(self.kind == "embeddings"),) * len(voxel)

    def same_basins(self, other: Recipe) -> bool:
        """Whether both have the same heights and basins, so that one graph serves both."""
        free = {"seed_threshold", "dynamics", "min_size", "max_size", "fill_holes", "clear_border"}
        if self.kind == "components":
            free |= {"threshold"}
        each = [field.name for field in fields(self) if field.name not in free]
        return all(getattr(self, name) == getattr(other, name) for name in each)

    @property
    def seeds_by_dynamics(self) -> bool:
        """Whether seeds are chosen by dynamics."""
        default = self.kind == "distance" and self.seed_threshold is None
        return self.dynamics is not None or default

    @property
    def cut(self) -> int:
        """The threshold or the dynamics as a height."""
        if self.seeds_by_dynamics:
            dynamics = 1.0 if self.dynamics is None else self.dynamics
            return max(1, self.height_span(dynamics))
        if self.kind == "components":
            return LEVELS - math.floor(_whole(self.threshold * LEVELS))
        seed = _SEEDS.get(self.kind, 0.0) if self.seed_threshold is None else self.seed_threshold
        return self.height_at(seed)

    def height_at(self, value: float) -> int:
        """Return the smallest height that is not on the seeds' side of a value of the recipe."""
        steps = _whole(value / self.capped * LEVELS)
        if self.kind in ("components", "distance"):
            return max(0, LEVELS - math.floor(steps))
        return min(LEVELS + 1, math.ceil(steps))

    def height_span(self, value: float) -> int:
        """Return a difference of values as one of heights."""
        return min(LEVELS + 1, round(value / self.capped * LEVELS))

    def value_at(self, height: float | Array) -> Any:
        """Return the value (probability, depth or distance) that a height stands for."""
        upright = self.kind in ("boundaries", "embeddings")
        return (height if upright else LEVELS - height) / LEVELS * self.capped


def _whole(steps: float) -> float:
    """Undo rounding: 0.29 * 65000 is meant to be 18850."""
    return round(steps) if abs(steps - round(steps)) < 1e-6 else steps


# -- from a prediction


class Heights:
    """The heights of a prediction, region by region.

    Parameters
    ----------
    image
        The prediction, with named axes.
    recipe
        What heights are made of.
    names
        Of the channels; by default those that the image has noted.

    Attributes
    ----------
    axes, shape, scale, units, origin
        Of the heights: those of the image without its channels.
    voxel
        Size of a pixel along each axis of space, as depths are measured.
    """

    def __init__(self, image: Image, recipe: Recipe, names: Sequence[str] | None = None) -> None:
        if image.axes is None:
            raise SettingsError(
                f"Nothing says which of the {image.ndim} axes of {image.name} is which: name them, "
                "for example `axes='cyx'`."
            )
        self.image = image
        self.recipe = recipe
        kept = [i for i, letter in enumerate(image.axes) if letter != "c"]
        self._kept = kept
        self.axes = "".join(image.axes[i] for i in kept)
        self.shape = tuple(image.shape[i] for i in kept)
        self.scale = tuple(image.scale[i] for i in kept)
        self.units = tuple(image.units[i] for i in kept)
        self.origin = tuple(image.origin[i] for i in kept) if image.origin else ()
        self._channel_axis = image.axes.find("c")
        self.names = channel_names(image) if names is None else tuple(names)
        self._space = [i for i, letter in enumerate(self.axes) if letter in "zyx"]
        self.voxel = self._voxel()
        self._halo = self._needed_halo()
        self._choose()
        _check_type(image, recipe)
        self._check_connectivity()

    @property
    def isolated(self) -> tuple[int, ...]:
        """Axes along which pixels never touch: time."""
        return tuple(i for i in range(len(self.axes)) if i not in self._space)

    @property
    def channels(self) -> int:
        """Channels of the prediction."""
        return self.image.shape[self._channel_axis] if self._channel_axis >= 0 else 1

    def _check_connectivity(self) -> None:
        most = len(self._space)
        if not 1 <= self.recipe.connectivity <= most:
            raise SettingsError(
                f"connectivity is {self.recipe.connectivity}: for {most} axes of space it is 1 "
                f"(faces) to {most} (corners too)."
            )

    def _voxel(self) -> tuple[float, ...]:
        given = self.recipe.voxel_size
        if given is not None and (len(given) != len(self._space) or min(given) <= 0):
            raise SettingsError(
                f"A voxel size of {given} does not fit the axes {self.axes}: give one number above "
                f"0 for each of {len(self._space)} axes of space."
            )
        return tuple(map(float, self.recipe.voxel([self.scale[i] for i in self._space])))

    def _needed_halo(self) -> tuple[int, ...]:
        halo = [0] * len(self.axes)
        for i, reach in zip(self._space, self.recipe.halo(self.voxel), strict=True):
            halo[i] = reach
        return tuple(halo)

    def _choose(self) -> None:
        """Decide which channels are read."""
        recipe, count = self.recipe, self.channels
        given = recipe.channel
        listed = (given,) if isinstance(given, int) else tuple(given or ())
        for number in (*listed, *(() if recipe.foreground is None else (recipe.foreground,))):
            if not 0 <= number < count:
                raise SettingsError(
                    f"There is no channel {number}: {self.image.name} has {count}, numbered from 0."
                )
        if recipe.kind in ("classes", "embeddings"):
            masked = self._mask_channel()
            rest = tuple(i for i in range(count) if recipe.kind == "classes" or i != masked)
            self._main = listed or rest
        elif len(listed) > 1:
            raise SettingsError(
                f"The recipe {recipe.kind} is about one channel, not {len(listed)}: give one."
            )
        else:
            self._main = listed or (self._only_channel(),)

    def _only_channel(self) -> int:
        if self.channels == 1:
            return 0
        wanted = "boundary" if self.recipe.kind == "boundaries" else "foreground"
        found = [i for i, name in enumerate(self.names) if wanted in name.lower()]
        if len(found) == 1:
            return found[0]
        raise SettingsError(
            f"{self.image.name} has {self.channels} channels and none or several are named "
            f"{wanted}: give its number, from 0 (`channel`)."
        )

    def _mask_channel(self) -> int | None:
        if self.recipe.kind not in ("boundaries", "embeddings"):
            return None
        if self.recipe.foreground is not None:
            return self.recipe.foreground
        found = [i for i, name in enumerate(self.names) if name.lower() == "foreground"]
        return found[0] if len(found) == 1 else None

    def __call__(self, region: Slices) -> Array:
        """Return the heights of a region, uint16."""
        grown = tuple(
            slice(max(0, part.start - halo), min(n, part.stop + halo))
            for part, halo, n in zip(region, self._halo, self.shape, strict=True)
        )
        inner = tuple(
            slice(part.start - outer.start, part.stop - outer.start)
            for part, outer in zip(region, grown, strict=True)
        )
        make = {
            "components": self._components,
            "classes": self._classes,
            "boundaries": self._boundaries,
            "distance": self._distance,
            "embeddings": self._embeddings,
        }[self.recipe.kind]
        heights = np.asarray(make(grown)[inner])
        if self.image.missing:
            heights[self._without_data(region)] = OUTSIDE
        return heights

    def _without_data(self, region: Slices) -> Array:
        """Tell where any of the recipe's channels has NaN, which stands for no data."""
        return np.asarray(np.isnan(self._read(region, self._main)).any(0))

    # -- one recipe each

    def _components(self, region: Slices) -> Array:
        values = self._probabilities(region, self._main)[0]
        return np.asarray(LEVELS - np.ceil(values * LEVELS), np.uint16)

    def _classes(self, region: Slices) -> Array:
        values = self._probabilities(region, self._main)
        if len(values) == 1:
            only = np.where(values[0] > self.recipe.threshold, 1, OUTSIDE)
            return np.asarray(only, np.uint16)
        best = values.argmax(0)
        if self.recipe.background is None:
            found = np.where(values.max(0) > self.recipe.threshold, best + 1, OUTSIDE)
            return np.asarray(found, np.uint16)
        order = np.array(self._main)
        rank = np.zeros(len(order), np.int64)
        others = order != self.recipe.background
        rank[others] = np.arange(1, others.sum() + 1)
        rank[~others] = OUTSIDE
        return np.asarray(rank[best], np.uint16)

    def _boundaries(self, region: Slices) -> Array:
        values = self._probabilities(region, self._main)[0]
        heights = np.floor(values * LEVELS)
        heights[~self._mask(region)] = OUTSIDE
        return np.asarray(heights, np.uint16)

    def _distance(self, region: Slices) -> Array:
        inside = self._probabilities(region, self._main)[0] > self.recipe.threshold
        space = tuple(inside.shape[i] for i in self._space)
        depth = _depth(inside.reshape(space), self.voxel, self.recipe.capped)
        # equally near background pixels may differ by rounding: a millionth of a step is none
        steps = np.floor(depth.reshape(inside.shape) / self.recipe.capped * LEVELS + 1e-6)
        return np.asarray(np.where(inside, LEVELS - steps, OUTSIDE), np.uint16)

    def _embeddings(self, region: Slices) -> Array:
        values = self._numbers(region, self._main)
        inside = self._mask(region)
        largest = np.zeros(inside.shape)
        for axis in self._space:
            step = [int(i == axis) for i in range(len(self.axes))]
            a, b = pair_slices(step)
            squares = np.zeros(inside[a].shape)
            for channel in values:  # one by one: the order of a sum must not depend on the block
                squares += (channel[a] - channel[b]) ** 2
            distance = np.sqrt(squares) * (inside[a] & inside[b])
            np.maximum(largest[a], distance, out=largest[a])
            np.maximum(largest[b], distance, out=largest[b])
        cap = self.recipe.capped
        heights = np.floor(np.minimum(largest, cap) / cap * LEVELS).astype(np.uint16)
        heights[~inside] = OUTSIDE
        return heights

    # -- what is read

    def _mask(self, region: Slices) -> Array:
        channel = self._mask_channel()
        if channel is None:
            return np.ones([part.stop - part.start for part in region], np.bool_)
        inside = self._probabilities(region, (channel,))[0] > self.recipe.threshold
        return np.asarray(inside)

    def _probabilities(self, region: Slices, channels: Sequence[int]) -> Array:
        """Return probabilities between 0 and 1, ``(channels, *region)`` float64."""
        values = self.recipe.values
        if values == "logits":
            return self._from_logits(region, channels)
        numbers = self._numbers(region, channels)
        if isinstance(values, int | float):
            numbers /= values
        else:
            numbers /= _FULL_SCALE.get(str(self.image.dtype), 1.0)
        low, high = numbers.min(initial=0.0), numbers.max(initial=0.0)
        fits = low >= -_ROUNDING and high <= 1 + _ROUNDING
        if not fits and values != "clipped":
            raise ImageError(_not_probabilities(self.image, low, high, values))
        return np.clip(numbers, 0.0, 1.0, out=numbers)

    def _from_logits(self, region: Slices, channels: Sequence[int]) -> Array:
        if self.channels == 1:
            return np.asarray(1 / (1 + np.exp(-self._numbers(region, channels))))
        numbers = self._numbers(region, range(self.channels))
        numbers = np.exp(numbers - numbers.max(0))
        total = np.zeros(numbers.shape[1:])
        for channel in numbers:
            total += channel
        return np.asarray(numbers[list(channels)] / total)

    def _read(self, region: Slices, channels: Sequence[int]) -> Array:
        """Read channels, ``(channels, *region)`` float64."""
        index: list[Any] = [slice(None)] * self.image.ndim
        for place, part in zip(self._kept, region, strict=True):
            index[place] = part
        if self._channel_axis < 0:
            read = self.image.read(tuple(index))[np.newaxis]
        else:
            span = slice(min(channels), max(channels) + 1)
            index[self._channel_axis] = span
            read = np.moveaxis(self.image.read(tuple(index)), self._channel_axis, 0)
            read = read[[channel - span.start for channel in channels]]
        return np.array(read, np.float64, order="C")

    def _numbers(self, region: Slices, channels: Sequence[int]) -> Array:
        """Read channels and check that all values are finite; 0 where there is no data."""
        numbers = self._read(region, channels)
        if self.image.missing:
            numbers[np.isnan(numbers)] = 0
        if not np.isfinite(numbers).all():
            count = int((~np.isfinite(numbers)).sum())
            raise ImageError(
                f"{self.image.name} holds NaN or infinity at {count} pixel{'s' * (count != 1)} of "
                "a block: predict again, or take NaN for pixels without data, which become "
                "background (`nodata=nan`)."
            )
        return numbers


def _depth(inside: Array, voxel: Sequence[float], cap: float) -> Array:
    """Distance of each pixel inside to the nearest one outside, at most `cap`."""
    if inside.all():  # scipy needs something to measure to
        return np.full(inside.shape, cap)
    found = ndimage.distance_transform_edt(inside, sampling=voxel)
    return np.asarray(np.minimum(found, cap))


def channel_names(image: Image) -> tuple[str, ...]:
    """Names of channels, where the file or the record of a result has them."""
    if image.channels:
        return tuple(channel.name for channel in image.channels)
    record = read_record(image.source) if image.source else None
    channels = (record or {}).get("channels")
    if not isinstance(channels, list):
        return ()
    return tuple(str(c.get("name", "")) if isinstance(c, dict) else str(c) for c in channels)


def _check_type(image: Image, recipe: Recipe) -> None:
    known = image.dtype.kind == "f" or str(image.dtype) in _FULL_SCALE
    if not known and recipe.values == "probabilities" and recipe.kind != "embeddings":
        raise ImageError(
            f"{image.name} holds {image.dtype}, and nothing says which number is a probability of "
            "1: name it (`values`)."
        )


def scaling_note(image: Image, recipe: Recipe) -> str:
    """Say which number of a prediction of integers means 1; empty for other predictions."""
    full = _FULL_SCALE.get(str(image.dtype), 1.0)
    if full == 1 or recipe.values != "probabilities" or recipe.kind == "embeddings":
        return ""
    return (
        f"{image.name} holds whole numbers ({image.dtype}): they are divided by {full:g}, so that "
        f"{full:g} means a probability of 1. If another number does, say which (`values=100`)."
    )


def _not_probabilities(image: Image, low: float, high: float, values: Any) -> str:
    found = f"{image.name} holds values from {low:.3g} to {high:.3g}"
    if isinstance(values, int | float):
        return f"{found} after division by {values:g}, but probabilities are 0 to 1: check values."
    if low < 0:
        return (
            f"{found}, but probabilities are 0 to 1: if these are logits, say so "
            "(`values='logits'`); if a linear output was trained towards 0 and 1, clip it "
            "(`values='clipped'`)."
        )
    top = 255 if high <= 255 else 65535
    return (
        f"{found}, but probabilities are 0 to 1: say which number means 1, for example "
        f"`values={top}`."
    )


__all__ = ["LEVELS", "Heights", "Kind", "Recipe", "channel_names", "scaling_note"]
