"""Seamscope: see, measure, explain and remove the seams of tile-by-tile prediction.

>>> import seamscope
>>> model = seamscope.load_model("demo:batchnorm")
>>> print(model.facts)
2D (yx), 1 -> 4 channels, period 8

Everything is imported when first used, so that ``import seamscope`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

_PUBLIC = {
    "Image": "images",
    "Intensity": "intensity",
    "Model": "model",
    "Plan": "plan",
    "SeamReport": "seam_report",
    "SeamscopeError": "errors",
    "Settings": "plan",
    "Statistics": "statistics",
    "TileGrid": "tiling",
    "freeze_statistics": "repair",
    "load_model": "loaders",
    "measure_intensity": "intensity",
    "measure_seams": "measure",
    "open_image": "images",
    "predict": "inference",
    "prepare": "inference",
    "replace_normalization": "batch_renorm",
    "resolve": "plan",
    "run": "inference",
}

__all__ = [
    "Image",
    "Intensity",
    "Model",
    "Plan",
    "SeamReport",
    "SeamscopeError",
    "Settings",
    "Statistics",
    "TileGrid",
    "__version__",
    "freeze_statistics",
    "load_model",
    "measure_intensity",
    "measure_seams",
    "open_image",
    "predict",
    "prepare",
    "replace_normalization",
    "resolve",
    "run",
]

if TYPE_CHECKING:
    from seamscope.batch_renorm import replace_normalization
    from seamscope.errors import SeamscopeError
    from seamscope.images import Image, open_image
    from seamscope.inference import predict, prepare, run
    from seamscope.intensity import Intensity, measure_intensity
    from seamscope.loaders import load_model
    from seamscope.measure import measure_seams
    from seamscope.model import Model
    from seamscope.plan import Plan, Settings, resolve
    from seamscope.repair import freeze_statistics
    from seamscope.seam_report import SeamReport
    from seamscope.statistics import Statistics
    from seamscope.tiling import TileGrid


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"seamscope.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'seamscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
