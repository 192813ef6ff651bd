"""Demo models and sample images, all made by code in this repository.

Knows the names, weights and conventions of the demo models. Does not know how they are run.

Two pairs of networks, which differ in normalization: in 2D ``batchnorm`` and ``instancenorm``,
in 3D ``batchnorm3d`` and ``instancenorm3d``. They take one channel, standardized over the *whole*
image to zero mean and unit variance (`zscore`), and give the probabilities of `CHANNEL_NAMES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from seamscope.demo import tissue
from seamscope.errors import ImageError, ModelError

if TYPE_CHECKING:  # torch takes a second to import, and a picture does not need it
    from torch import nn

    from seamscope.demo.network import Normalization, UNet

__all__ = [
    "CHANNEL_COLORS",
    "CHANNEL_NAMES",
    "NAMES",
    "RECIPES",
    "SAMPLES",
    "Recipe",
    "Sample",
    "build",
    "sample_image",
    "weights_file",
    "zscore",
]

CHANNEL_NAMES = ("foreground", "boundary", "extracellular", "background")
CHANNEL_COLORS = ("#66c2a5", "#fc8d62", "#e78ac3", "#8da0cb")


@dataclass(frozen=True)
class Recipe:
    """What one demo model is, and how it is trained."""

    spatial_axes: Literal[2, 3]
    normalization: Normalization
    features: tuple[int, ...]
    image: tuple[int, ...]
    images: int
    patch: tuple[int, ...]
    batch: int
    steps: int
    learning_rate: float

    def network(self) -> UNet:
        """Build the architecture with random weights, in training mode."""
        from seamscope.demo.network import UNet

        return UNet(
            self.spatial_axes,
            out_channels=len(CHANNEL_NAMES),
            features=self.features,
            normalization=self.normalization,
        )


def _planar(normalization: Normalization) -> Recipe:
    return Recipe(
        spatial_axes=2,
        normalization=normalization,
        features=(16, 32, 48, 64),
        image=(768, 768),
        images=40,
        patch=(160, 160),
        batch=6,
        steps=700,
        learning_rate=6e-3,
    )


def _volumetric(normalization: Normalization, patch: tuple[int, ...], batch: int) -> Recipe:
    return Recipe(
        spatial_axes=3,
        normalization=normalization,
        features=(12, 24, 48),
        image=(48, 144, 144),
        images=32,
        patch=patch,
        batch=batch,
        steps=800,
        learning_rate=6e-3,
    )


RECIPES = {
    "batchnorm": _planar("batch"),
    "instancenorm": _planar("instance"),
    "batchnorm3d": _volumetric("batch", patch=(32, 56, 56), batch=4),
    "instancenorm3d": _volumetric("instance", patch=(40, 72, 72), batch=2),
}
NAMES = tuple(RECIPES)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """What one sample image is, and how it is drawn.

    Attributes
    ----------
    shape, axes
        Of the image; `axes` has one letter of ``tczyx`` for each dimension.
    draw
        Returns the image and its labels, for `drawn` and a seed.
    drawn
        Shape that is drawn; None where it is `shape`.
    step
        Of the planes drawn, every so many are kept.
    scale
        Pixel size for each axis, in nanometres along axes of space.
    channels
        Their names.
    seed
        From 10,000 on no seed was trained on.
    """

    shape: tuple[int, ...]
    axes: str
    draw: Callable[[tuple[int, ...], int], tuple[Pixels, Pixels]] = tissue.tissue
    drawn: tuple[int, ...] | None = None
    step: int = 1
    scale: tuple[float, ...] | None = None
    channels: tuple[str, ...] = ()
    seed: int = 20_003

    def make(self) -> tuple[Pixels, Pixels]:
        """Draw image and labels."""
        image, labels = self.draw(self.drawn or self.shape, self.seed)
        return image[:: self.step], labels[:: self.step] if self.step > 1 else labels

    @property
    def label_axes(self) -> str:
        """One letter for each dimension of the labels."""
        return self.axes.replace("c", "")


SAMPLES: dict[str, Sample] = {
    "tissue2d": Sample((1024, 1024), "yx"),
    "tissue3d": Sample((64, 192, 192), "zyx"),
    "channels2d": Sample(
        (3, 512, 512),
        "cyx",
        tissue.correlated,
        drawn=(512, 512),
        channels=("electron microscopy", "nuclei", "membranes"),
    ),
    "stack3d": Sample(
        (32, 192, 192), "zyx", drawn=(64, 192, 192), step=2, scale=(40.0, 20.0, 20.0)
    ),
    "lapse2d": Sample((5, 384, 384), "tyx", tissue.lapse),
}
"""Sample images: one picture, a volume, three channels, voxels that are twice as long, and frames.
"""


def weights_file(name: str) -> Traversable:
    """Where the weights of a demo model are kept, inside the installed package."""
    return files("seamscope") / "resources" / "models" / f"{name}.safetensors"


def build(name: str) -> nn.Module:
    """Build a demo model with its trained weights.

    Parameters
    ----------
    name
        One of `NAMES`.

    Returns
    -------
    torch.nn.Module
        In evaluation mode, on the CPU, float32. Takes `(N, 1, *spatial)` with sizes that are
        multiples of its period (8 in 2D, 4 in 3D), standardized by `zscore`; returns
        `(N, 4, *spatial)`, probabilities.

    Raises
    ------
    ModelError
        If there is no demo model of that name.
    """
    if name not in RECIPES:
        raise ModelError(f"There is no demo model {name!r}; choose one of {', '.join(NAMES)}.")
    from safetensors.torch import load

    network = RECIPES[name].network()
    network.load_state_dict(load(weights_file(name).read_bytes()))
    return network.eval()


@cache
def _sample(name: str) -> tuple[Pixels, Pixels]:
    return SAMPLES[name].make()


def sample_image(name: str = "tissue2d") -> tuple[Pixels, Pixels]:
    """Draw a sample image that no demo model was trained on (about a second, then remembered).

    Parameters
    ----------
    name
        ``"tissue2d"`` `(1024, 1024)`, ``"tissue3d"`` `(64, 192, 192)`, ``"channels2d"``
        `(3, 512, 512)`, ``"stack3d"`` `(32, 192, 192)` or ``"lapse2d"`` `(5, 384, 384)`.

    Returns
    -------
    image, labels
        ``uint8``, yours to change; labels are indices into `CHANNEL_NAMES`, and have no channels.

    Raises
    ------
    ImageError
        If there is no sample image of that name.
    """
    if name not in SAMPLES:
        raise ImageError(f"There is no sample image {name!r}; choose one of {', '.join(SAMPLES)}.")
    image, labels = _sample(name)
    return image.copy(), labels.copy()


def zscore(image: NDArray[np.generic]) -> NDArray[np.float32]:
    """Standardize over the whole image to zero mean and unit variance, as the demo models expect.

    Parameters
    ----------
    image
        Any shape and real dtype.

    Returns
    -------
    ndarray
        float32, same shape.
    """
    values = np.asarray(image, dtype=np.float32)
    spread = float(values.std(dtype=np.float64)) or 1.0  # a constant image has none
    result: NDArray[np.float32] = (values - np.float32(values.mean(dtype=np.float64))) / np.float32(
        spread
    )
    return result
