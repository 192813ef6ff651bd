"""What Seamscope puts into napari's window.

Knows which names live in which module, and imports each of them when it is first used: napari
reads this package when it starts, and torch takes seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "FieldPlace": "opening",
    "LabelsDock": "labels.dock",
    "LabelsPlace": "opening",
    "NormalizationDock": "normalization.dock",
    "NormalizationPlace": "opening",
    "PredictionDock": "prediction.dock",
    "PredictionPlace": "opening",
    "ReceptiveFieldDock": "receptive_field.dock",
    "SeamsDock": "seams.dock",
    "SeamsPlace": "opening",
    "SeamscopePlace": "opening",
    "channels_2d": "samples",
    "lapse_2d": "samples",
    "open_model_file": "readers",
    "open_ome_zarr": "image_reader",
    "show_demo": "demo",
    "stack_3d": "samples",
    "tissue_2d": "samples",
    "tissue_3d": "samples",
    "write_layer": "writers",
}

__all__ = [
    "FieldPlace",
    "LabelsDock",
    "LabelsPlace",
    "NormalizationDock",
    "NormalizationPlace",
    "PredictionDock",
    "PredictionPlace",
    "ReceptiveFieldDock",
    "SeamsDock",
    "SeamsPlace",
    "SeamscopePlace",
    "channels_2d",
    "lapse_2d",
    "open_model_file",
    "open_ome_zarr",
    "show_demo",
    "stack_3d",
    "tissue_2d",
    "tissue_3d",
    "write_layer",
]

if TYPE_CHECKING:
    from seamscope.docks.demo import show_demo
    from seamscope.docks.image_reader import open_ome_zarr
    from seamscope.docks.labels.dock import LabelsDock
    from seamscope.docks.normalization.dock import NormalizationDock
    from seamscope.docks.opening import (
        FieldPlace,
        LabelsPlace,
        NormalizationPlace,
        PredictionPlace,
        SeamscopePlace,
        SeamsPlace,
    )
    from seamscope.docks.prediction.dock import PredictionDock
    from seamscope.docks.readers import open_model_file
    from seamscope.docks.receptive_field.dock import ReceptiveFieldDock
    from seamscope.docks.samples import channels_2d, lapse_2d, stack_3d, tissue_2d, tissue_3d
    from seamscope.docks.seams.dock import SeamsDock
    from seamscope.docks.writers import write_layer


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"seamscope.docks.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'seamscope.docks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
