"""What labels say: which pixels truly belong to which class.

Knows the ways in which people label images. Does not know networks or predictions.

Three kinds of labels are understood:

=====================  ======================================================================
numbers of classes     ``label == k`` is the ground truth of channel ``k``
numbers of objects     ``label > 0`` is the ground truth of the one channel that means foreground
one image per class    an axis ``c``: image ``k`` is above 0 where class ``k`` is
=====================  ======================================================================

Where the network predicts several channels, numbers up to the last channel's are numbers of
classes, even if some class does not occur; with anything above they are numbers of objects.
But 0 and 1 alone are a mask of the channel named foreground, where there is one among three or
more. `Truth.meaning` says in a sentence how labels were read, since nothing in a file does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.errors import ImageError, SettingsError
from seamscope.images.image import Image, open_image
from seamscope.images.views import FirstChannels
from seamscope.text import shape_text
from seamscope.tiling import Slices

Mask = npt.NDArray[np.bool_]

# Of labels whose classes have no names, more values than these are taken for numbers of objects.
_MOST_CLASSES = 8


@dataclass(frozen=True)
class Truth:
    """Classes of the pixels of an image.

    Attributes
    ----------
    labels
        Where they are read from.
    axes
        One letter for each dimension of `labels`; ``c`` only where it has an image per class.
    spatial
        Its axes of space, in the order in which regions are given.
    names
        Of the classes.
    channels
        For each class, the channel of the prediction that should be it.
    values
        For each class, the label that is it; None for whatever is above 0.
    meaning
        How the labels were read, a sentence.
    """

    labels: Image
    axes: str
    spatial: str
    names: tuple[str, ...]
    channels: tuple[int, ...]
    values: tuple[int | None, ...]
    meaning: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels along the axes of space."""
        return tuple(self.labels.shape[self.axes.index(letter)] for letter in self.spatial)

    def read(self, region: Slices, frame: dict[str, int] | None = None) -> Mask:
        """Read which pixels of a region belong to each class.

        Parameters
        ----------
        region
            A slice for each axis of space.
        frame
            Index along each other axis, by its letter; axes that labels lack are ignored.

        Returns
        -------
        numpy.ndarray
            ``(classes, *region)``, bool.
        """
        frame = frame or {}
        index = tuple(
            region[self.spatial.index(a)] if a in self.spatial else frame.get(a, slice(None))
            for a in self.axes
        )
        values = self.labels.read(index)
        left = [a for a, i in zip(self.axes, index, strict=True) if isinstance(i, slice)]
        values = values.transpose([left.index(a) for a in _with_channel(left) + self.spatial])
        if "c" in self.axes:
            return values > 0
        return np.stack([values > 0 if v is None else values == v for v in self.values])


def _with_channel(axes: Sequence[str]) -> str:
    return "c" if "c" in axes else ""


def truth_for(
    labels: Any,
    spatial: str,
    channels: Sequence[str],
    *,
    axes: str | None = None,
    foreground: int | None = None,
) -> Truth:
    """Match labels with the channels that a network predicts.

    Parameters
    ----------
    labels
        As for `seamscope.open_image`; ``"demo:tissue2d"`` is the ground truth of that sample image.
    spatial
        Axes of space that the network predicts, ``"yx"`` or ``"zyx"``.
    channels
        Names of the predicted channels.
    axes
        Of the labels, where they do not say; by default `spatial`.
    foreground
        Channel that means the inside of objects, and that labels are of objects or a mask. By
        default labels are looked at (see the module), and the channel is the only one there is or
        the one named *foreground*.

    Raises
    ------
    SettingsError, ImageError
        When labels and channels cannot be matched.
    """
    image, letters = _opened(labels, spatial, axes)
    truth = _matched(image, letters, spatial, tuple(channels), foreground)
    return replace(truth, meaning=" ".join([truth.meaning, *image.notes]))


def _matched(
    image: Image, letters: str, spatial: str, names: tuple[str, ...], foreground: int | None
) -> Truth:
    if "c" in letters:
        return _one_image_per_class(image, letters, spatial, names)
    highest = _highest(image)
    last = len(names) - 1
    mask = highest <= 1 < last and len(_named_foreground(names)) == 1
    if foreground is None and last > 0 and highest <= last and not mask:
        meaning = f"Labels 0 to {last} are the channels {', '.join(names)}, in this order."
        if highest < last:
            meaning += f" None is above {highest}."
        numbers = tuple(range(len(names)))
        return Truth(image, letters, spatial, names, numbers, numbers, meaning)
    inside = _foreground(foreground, names, highest)
    meaning = f"Labels above 0 are taken for the channel {names[inside]}."
    if foreground is None and mask:
        meaning += (
            " They hold nothing above 1: if they are numbers of classes, give one image per class."
        )
    return Truth(image, letters, spatial, (names[inside],), (inside,), (None,), meaning)


def classes_of(labels: Any, spatial: str, *, axes: str | None = None) -> Truth:
    """Read labels where no network says which classes there are.

    Parameters
    ----------
    labels, spatial, axes
        As for `truth_for`.

    Returns
    -------
    Truth
        Each value is a class, or, where there are more than 8, all above 0 together.
    """
    image, letters = _opened(labels, spatial, axes)
    truth = _unmatched(image, letters, spatial)
    return replace(truth, meaning=" ".join([truth.meaning, *image.notes]))


def _unmatched(image: Image, letters: str, spatial: str) -> Truth:
    if "c" in letters:
        count = image.shape[letters.index("c")]
        names = tuple(f"class {k}" for k in range(count))
        return _one_image_per_class(image, letters, spatial, names)
    values = _few_values(image)
    if values is None:
        meaning = "Labels above 0 are taken for the foreground."
        return Truth(image, letters, spatial, ("foreground",), (0,), (None,), meaning)
    names = tuple(f"label {v}" for v in values)
    meaning = "Each label is taken for a class."
    return Truth(image, letters, spatial, names, tuple(range(len(values))), values, meaning)


def open_labels(labels: Any, **choices: Any) -> Image:
    """Open an image of labels: one number for each pixel, as stored.

    Parameters
    ----------
    labels
        As for `seamscope.open_image`; ``"demo:tissue2d"`` is the ground truth of that sample image.
    choices
        As for `seamscope.open_image`: ``series``, ``level``, ``nodata``.

    Raises
    ------
    ImageError
        When it is not an image, or one of colours.
    """
    if isinstance(labels, str) and labels.startswith("demo:"):
        from seamscope.demo import SAMPLES, sample_image

        sample = labels.removeprefix("demo:")
        return open_image(sample_image(sample)[1], axes=SAMPLES[sample].label_axes)
    return _one_number_each(open_image(labels, indices=True, **choices))


def _opened(labels: Any, spatial: str, axes: str | None) -> tuple[Image, str]:
    image = open_labels(labels)
    letters = axes or (spatial if image.ndim == len(spatial) else image.axes)
    if letters is None or len(letters) != image.ndim or not set(spatial) <= set(letters):
        raise SettingsError(
            f"The labels {image.name} have {image.ndim} axes ({shape_text(image.shape)}) and "
            f"nothing says which are {spatial}: give labels with just these, or name all their "
            "axes."
        )
    if image.dtype.kind == "f":
        _check_whole(image)
    return image, letters


def _one_number_each(image: Image) -> Image:
    """Refuse colours, except in a picture whose colours are all grey: each is one number."""
    if not image.colours or image.axes is None:
        return image
    axis = image.axes.index("c")
    colours: set[tuple[int, ...]] = set()
    for block in _blocks(image):
        pixels = np.moveaxis(block, axis, -1)[..., :3].reshape(-1, 3)
        grey = (pixels == pixels[:, :1]).all(1)
        if not grey.all():
            colours.update(map(tuple, np.unique(pixels[~grey][:100_000], axis=0)[:3].tolist()))
    if colours:
        examples = ", ".join(map(str, sorted(colours)[:3]))
        raise ImageError(
            f"{image.source or image.name} holds colours (red, green, blue), for example "
            f"{examples}, and labels are one number for each pixel. Save it with one number for "
            "each class: as an indexed (palette) PNG, or as greyscale."
        )
    keep = [k for k in range(image.ndim) if k != axis]
    return replace(
        image,
        data=FirstChannels(image.data, axis, 1),
        axes=image.axes.replace("c", ""),
        scale=tuple(image.scale[k] for k in keep),
        units=tuple(image.units[k] for k in keep),
        origin=tuple(image.origin[k] for k in keep),
        colours=False,
        _kept=None,
        identity="",
    )


def _check_whole(image: Image) -> None:
    for values in _blocks(image):
        if not (np.isfinite(values).all() and (values == np.round(values)).all()):
            raise ImageError(
                f"{image.name} holds numbers with fractions, which are no labels: give whole "
                "numbers, 0 for what is nothing."
            )


def _one_image_per_class(image: Image, letters: str, spatial: str, names: tuple[str, ...]) -> Truth:
    count = image.shape[letters.index("c")]
    if count != len(names):
        raise SettingsError(
            f"The labels {image.name} have {count} channels and the network predicts {len(names)} "
            f"({', '.join(names)}): give one image for each, or numbers of classes."
        )
    numbers = tuple(range(count))
    meaning = f"Each channel of the labels is the class of the same number: {', '.join(names)}."
    return Truth(image, letters, spatial, names, numbers, numbers, meaning)


def _foreground(asked: int | None, names: tuple[str, ...], highest: int) -> int:
    """Channel that objects are to be found in."""
    if asked is not None:
        if not 0 <= asked < len(names):
            raise SettingsError(
                f"Foreground channel {asked}: the network predicts {len(names)}, counted from 0."
            )
        return asked
    if len(names) == 1:
        return 0
    named = _named_foreground(names)
    if len(named) == 1:
        return named[0]
    raise SettingsError(
        f"Labels go up to {highest} and the channels are {', '.join(names)}: if labels are "
        "numbers of objects, say which channel is their `foreground`; if they are "
        f"numbers of classes, they must be 0 to {len(names) - 1}."
    )


def _named_foreground(names: Sequence[str]) -> list[int]:
    return [k for k, name in enumerate(names) if name.strip().lower() == "foreground"]


def _blocks(image: Image) -> Iterator[npt.NDArray[Any]]:
    return (image.read(region) for region in image.blocks())


def _highest(image: Image) -> int:
    return int(max(values.max() for values in _blocks(image)))


def _few_values(image: Image) -> tuple[int, ...] | None:
    """All values in order; None where there are too many for classes."""
    found: set[int] = set()
    for values in _blocks(image):
        found.update(int(v) for v in np.unique(values))
        if len(found) > _MOST_CLASSES:
            return None
    return tuple(sorted(found))


__all__ = ["Truth", "classes_of", "open_labels", "truth_for"]
