"""The one image among what a network returns.

Knows tensors and what holds them. Does not know networks.
"""

from __future__ import annotations

from typing import Any

import torch

from seamscope.errors import ModelError


def single_tensor(output: Any) -> torch.Tensor:
    """Return the one tensor a network gives, wrapped or not; else say what it gives.

    Raises
    ------
    ModelError
        When it gives none or several, or one that is empty, sparse or complex.
    """
    if isinstance(output, torch.Tensor):
        _check_tensor(output)
        return output
    if isinstance(output, (tuple, list)) and len(output) == 1:
        return single_tensor(output[0])
    if isinstance(output, dict) and len(output) == 1:
        return single_tensor(next(iter(output.values())))
    from seamscope.models.formats.wrappers import outputs_of

    found = outputs_of(output)
    if len(found) == 1:  # others are None
        return next(iter(found.values()))
    if not found:
        raise ModelError(
            f"The network returns a {type(output).__name__} without tensors: wrap it in a module "
            "that returns an image."
        )
    first = next(iter(found))
    raise ModelError(
        f"The network returns {len(found)} outputs and not one image: add the one you want to the "
        f"model's name, as in #{first} ({', '.join(found)})."
    )


def _check_tensor(y: torch.Tensor) -> None:
    if y.layout is not torch.strided:
        raise ModelError(
            "The network returns a sparse tensor, and tiles are joined from dense ones: wrap it in "
            "a module that returns .to_dense()."
        )
    if y.is_complex():
        raise ModelError(
            f"The network returns complex numbers ({str(y.dtype).removeprefix('torch.')}), and "
            "predictions are real: wrap it in a module that returns their magnitude (.abs()), or "
            "real and imaginary part as channels."
        )
    if y.numel() == 0:
        raise ModelError(
            f"The network returns an empty tensor of shape {tuple(y.shape)}: wrap it in a module "
            "that returns an image with at least one channel."
        )


__all__ = ["single_tensor"]
