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
    "Pipeline": "pipelines",
    "Plan": "plan",
    "SeamReport": "seam_report",
    "SeamscopeError": "errors",
    "Settings": "plan",
    "Statistics": "statistics",
    "TileGrid": "tiling",
    "audit": "normalization",
    "certify": "certificate",
    "diagnose": "diagnosis",
    "examine": "diagnosis",
    "freeze_statistics": "repair",
    "load_model": "loaders",
    "measure_intensity": "intensity",
    "measure_receptive_field": "fields",
    "measure_seams": "measure",
    "open_image": "images",
    "predict": "inference",
    "prepare": "inference",
    "replace_normalization": "batch_renorm",
    "resolve": "plan",
    "run": "inference",
    "store_certificate": "certificate",
    "sweep": "tile_sizes",
}

__all__ = [
    "Image",
    "Intensity",
    "Model",
    "Pipeline",
    "Plan",
    "SeamReport",
    "SeamscopeError",
    "Settings",
    "Statistics",
    "TileGrid",
    "__version__",
    "audit",
    "certify",
    "diagnose",
    "examine",
    "freeze_statistics",
    "load_model",
    "measure_intensity",
    "measure_receptive_field",
    "measure_seams",
    "open_image",
    "predict",
    "prepare",
    "replace_normalization",
    "resolve",
    "run",
    "store_certificate",
    "sweep",
]

if TYPE_CHECKING:
    from seamscope.batch_renorm import replace_normalization
    from seamscope.certificate import certify, store_certificate
    from seamscope.diagnosis import diagnose, examine
    from seamscope.errors import SeamscopeError
    from seamscope.fields import measure_receptive_field
    from seamscope.images import Image, open_image
    from seamscope.inference import predict, prepare, run
    from seamscope.intensity import Intensity, measure_intensity
    from seamscope.loaders import load_model
    from seamscope.measure import measure_seams
    from seamscope.model import Model
    from seamscope.normalization import audit
    from seamscope.pipelines import Pipeline
    from seamscope.plan import Plan, Settings, resolve
    from seamscope.repair import freeze_statistics
    from seamscope.seam_report import SeamReport
    from seamscope.statistics import Statistics
    from seamscope.tile_sizes import sweep
    from seamscope.tiling import TileGrid


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"seamscope.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'seamscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
