"""Optional libraries in tests: where one is absent, its tests are skipped and say so."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

_VISION = [
    "nms",
    "qnms",
    "roi_align",
    "_roi_align_backward",
    "ps_roi_align",
    "_ps_roi_align_backward",
    "roi_pool",
    "_roi_pool_backward",
    "ps_roi_pool",
    "_ps_roi_pool_backward",
    "deform_conv2d",
    "_deform_conv2d_backward",
]
_kept: list[Any] = []


def extra(name: str) -> Any:
    """Import an optional library, or skip the test."""
    if name in ("onnx2torch", "segmentation_models_pytorch", "transformers"):
        _import_torchvision()
    return pytest.importorskip(name, exc_type=ImportError)


def _import_torchvision() -> None:
    """Import torchvision even where its build is not that of torch.

    Package indices give torch for the CPU and torchvision for CUDA, whose compiled operators then
    are missing; nothing here uses them, but their names are asked for on import.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        if not _kept:
            _kept.append(torch.library.Library("torchvision", "DEF"))
            for operator in _VISION:
                _kept[0].define(f"{operator}(Tensor x) -> Tensor")
        importlib.import_module("torchvision")
