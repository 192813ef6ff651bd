"""Demo models and sample images, all made by code in this repository.

Knows the names, weights and conventions of the demo models. Does not know how they are run.

Two pairs of networks, alike but for their normalization: in 2D ``batchnorm`` and ``instancenorm``,
in 3D ``batchnorm3d`` and ``instancenorm3d``. They take one channel, standardized over the *whole*
image to zero mean and unit variance (`zscore`), and give the probabilities of `CHANNEL_NAMES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from seamscope.demo.tissue import tissue as draw_tissue
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

SAMPLES: dict[str, tuple[tuple[int, ...], int]] = {
    "tissue2d": ((1024, 1024), 20_003),
    "tissue3d": ((64, 192, 192), 20_003),
}


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
def _sample(name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    shape, seed = SAMPLES[name]
    return draw_tissue(shape, seed)


def sample_image(name: str = "tissue2d") -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a sample image that no demo model was trained on (about a second, then remembered).

    Parameters
    ----------
    name
        ``"tissue2d"``, `(1024, 1024)`, or ``"tissue3d"``, `(64, 192, 192)`.

    Returns
    -------
    image, labels
        ``uint8``, yours to change; labels are indices into `CHANNEL_NAMES`.

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
