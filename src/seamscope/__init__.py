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

from seamscope.version import __version__

_PUBLIC = {
    "Case": "planning.case",
    "Image": "images.image",
    "Intensity": "images.intensity",
    "Model": "models.model",
    "Pipeline": "explain.pipelines",
    "Plan": "planning.plan",
    "Recipe": "segmentation.recipe",
    "SeamReport": "seams.report",
    "SeamscopeError": "errors",
    "Segmentation": "segmentation.segment",
    "Settings": "planning.plan",
    "Statistics": "normalization.statistics",
    "TileGrid": "tiling",
    "audit": "normalization.audit",
    "certify": "compare.certificate",
    "diagnose": "explain.causes",
    "examine": "explain.causes",
    "find_splits": "segmentation.false_splits",
    "freeze_statistics": "fixed_statistics.freezing",
    "load_model": "models.formats",
    "measure_intensity": "images.intensity",
    "measure_receptive_field": "receptive_field.fields",
    "measure_seams": "prediction.measure_seams",
    "open_image": "images.image",
    "predict": "prediction.run",
    "prepare": "planning.tuning",
    "replace_normalization": "normalization.batch_renorm",
    "resolve": "planning.plan",
    "run": "prediction.run",
    "segment": "segmentation.segment",
    "store_certificate": "compare.certificate",
    "sweep": "compare.tile_sizes",
}

__all__ = [
    "Case",
    "Image",
    "Intensity",
    "Model",
    "Pipeline",
    "Plan",
    "Recipe",
    "SeamReport",
    "SeamscopeError",
    "Segmentation",
    "Settings",
    "Statistics",
    "TileGrid",
    "__version__",
    "audit",
    "certify",
    "diagnose",
    "examine",
    "find_splits",
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
    "segment",
    "store_certificate",
    "sweep",
]

if TYPE_CHECKING:
    from seamscope.compare.certificate import certify, store_certificate
    from seamscope.compare.tile_sizes import sweep
    from seamscope.errors import SeamscopeError
    from seamscope.explain.causes import diagnose, examine
    from seamscope.explain.pipelines import Pipeline
    from seamscope.fixed_statistics.freezing import freeze_statistics
    from seamscope.images.image import Image, open_image
    from seamscope.images.intensity import Intensity, measure_intensity
    from seamscope.models.formats import load_model
    from seamscope.models.model import Model
    from seamscope.normalization.audit import audit
    from seamscope.normalization.batch_renorm import replace_normalization
    from seamscope.normalization.statistics import Statistics
    from seamscope.planning.case import Case
    from seamscope.planning.plan import Plan, resolve
    from seamscope.planning.tuning import prepare
    from seamscope.prediction.measure_seams import measure_seams
    from seamscope.prediction.run import predict, run
    from seamscope.receptive_field.fields import measure_receptive_field
    from seamscope.seams.report import SeamReport
    from seamscope.segmentation.false_splits import find_splits
    from seamscope.segmentation.recipe import Recipe
    from seamscope.segmentation.segment import Segmentation, segment
    from seamscope.settings import Settings
    from seamscope.tiling import TileGrid


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"seamscope.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'seamscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
