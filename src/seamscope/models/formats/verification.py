"""Test vectors that came with a network, run through everything that is done to an image.

Knows how an image is prepared and predicted whole. Does not know packages (see
`seamscope.models.declared` for what is compared).
"""

from __future__ import annotations

import numpy as np

from seamscope.errors import ModelError
from seamscope.images.image import open_image
from seamscope.images.intensity import measure_intensity
from seamscope.images.postprocessing import changed, measure_result
from seamscope.images.preparation import Measured, Preparation
from seamscope.models.declared import Array, Vectors, Verification
from seamscope.models.model import Model
from seamscope.tiling import axis_names


def verify(model: Model) -> Verification:
    """Predict the test input that came with a network, and compare with its test output.

    Parameters
    ----------
    model
        Loaded from a package.

    Raises
    ------
    ModelError
        When it came with no test vectors, or they cannot be read.
    """
    if model.vectors is None:
        raise ModelError(
            f"{model.name} came without test vectors, so that there is nothing to verify: packages "
            "of bioimage.io have them."
        )
    vectors = model.vectors()
    try:
        return Verification.of(_predicted(model, vectors), vectors.expected)
    except ModelError:
        raise
    except Exception as error:  # any error of the network
        raise ModelError(
            f"{model.name} fails on its own test input of shape {vectors.image.shape} "
            f"({type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1][:200]})."
        ) from error


def _predicted(model: Model, vectors: Vectors) -> Array:
    image = vectors.image
    preparation = model.preparation or Preparation(())
    if model.normalize in ("zscore", "minmax"):
        preparation = Preparation((Measured(model.normalize),))  # type: ignore[arg-type]
    opened = open_image(image, axes="c" + axis_names(image.ndim - 1))
    batch = np.empty((1, *image.shape), np.float32)
    preparation.measure(opened, channel_axis=0).apply(image, batch[0])
    prediction: Array = model.runner()(batch)[0]
    if model.postprocessing is None:
        return prediction
    axes = "c" + axis_names(prediction.ndim - 1)
    plain = measure_intensity(opened, "zscore", channel_axis=0)
    wanted = model.postprocessing.preparation(plain)
    return changed(prediction, 0, measure_result(prediction, axes, wanted))


__all__ = ["verify"]
