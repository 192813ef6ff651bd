"""Sample images for napari's menu *File > Open Sample*.

Knows napari's form of sample data. Does not know how tissue is drawn (see `seamscope.demo`).
"""

from __future__ import annotations

from typing import Any

LayerData = tuple[Any, dict[str, Any], str]


def tissue_2d() -> list[LayerData]:
    """Synthetic electron microscopy of tissue, `(1024, 1024)` uint8."""
    return [_sample("tissue2d", "yx")]


def tissue_3d() -> list[LayerData]:
    """Synthetic electron microscopy of tissue, `(64, 192, 192)` uint8."""
    return [_sample("tissue3d", "zyx")]


def _sample(name: str, axes: str) -> LayerData:
    from seamscope.demo import sample_image

    image, _ = sample_image(name)
    look = {"name": name, "axis_labels": tuple(axes), "contrast_limits": (0, 255)}
    return image, look, "image"
