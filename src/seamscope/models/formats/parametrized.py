"""Weights that a layer computes from other tensors: weight and spectral normalization, pruning.

Knows under which names PyTorch saves these tensors, in the old style (hooks) and in the new one
(parametrizations), and what the layer computes from them in evaluation mode. Does not know files.

A network that was trained with them may be built without, or the other way round. Both are brought
to plain weights, which are the same to rounding.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

Tensors: TypeAlias = dict[str, torch.Tensor]
Parts: TypeAlias = dict[str, torch.Tensor]

# what a tensor is for the weight that is computed from it, by the end of its name
_ENDS = {
    "_g": "length",
    "_v": "direction",
    "_orig": "original",
    "_u": "left",
    "_mask": "mask",
}
_NEW_ENDS = {
    "original0": "length",
    "original1": "direction",
    "original": "original",
    "0._u": "left",
    "0._v": "direction",
}
_OLD = re.compile(rf"(.+)({'|'.join(_ENDS)})")
_NEW = re.compile(r"(.*?)parametrizations\.([^.]+)\.(.+)")  # module, weight's own name, part


def plain_tensors(given: Tensors, transposed: Callable[[str], bool]) -> Tensors:
    """Compute the weights that are given by their parts, as layers do in evaluation mode.

    Parameters
    ----------
    given
        Names and tensors of one network.
    transposed
        Whether the weight of a name belongs to a transposed convolution. Its output channels are
        its second axis.

    Returns
    -------
    tensors
        With a weight in place of its parts, wherever all of them are there.
    """
    tensors = dict(given)
    for weight, names in _grouped(tensors).items():
        parts = {role: tensors[name] for role, name in names.items()}
        value = _value(parts, transposed(weight))
        if value is not None and weight not in tensors:
            tensors = {k: v for k, v in tensors.items() if k not in names.values()}
            tensors[weight] = value
    # the parts themselves may have been pruned
    return tensors if len(tensors) == len(given) else plain_tensors(tensors, transposed)


def unexplained(names: set[str]) -> list[str]:
    """Weights that are given by parts from which they cannot be computed."""
    groups = _grouped(dict.fromkeys(names)).items()
    return sorted(
        weight
        for weight, parts in groups
        if "original" in parts or any(_NEW.match(name) for name in parts.values())
    )


def make_plain(network: nn.Module) -> None:
    """Let all layers of a network keep their weights themselves."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(getattr(module, "parametrizations")):  # noqa: B009
                parametrize.remove_parametrizations(module, name)
        for hook in reversed(list(module._forward_pre_hooks.values())):
            _remove(module, hook)


def _remove(module: nn.Module, hook: Any) -> None:
    if isinstance(hook, WeightNorm):
        remove_weight_norm(module, hook.name)
    elif isinstance(hook, SpectralNorm):
        remove_spectral_norm(module, hook.name)
        hooks = module._load_state_dict_pre_hooks  # PyTorch leaves one that wants the parts
        for key, each in list(hooks.items()):
            if isinstance(getattr(each, "hook", each), SpectralNormLoadStateDictPreHook):
                del hooks[key]
    elif isinstance(hook, prune.BasePruningMethod):
        prune.remove(module, hook._tensor_name)


def _grouped(names: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Names of the parts of each weight that is given by parts."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        if found := _NEW.fullmatch(name):
            role = _NEW_ENDS.get(found[3], found[3])  # of another parametrization
            groups.setdefault(f"{found[1]}{found[2]}", {})[role] = name
        elif found := _OLD.fullmatch(name):
            groups.setdefault(found[1], {})[_ENDS[found[2]]] = name
    return groups


def _value(parts: Parts, transposed: bool) -> torch.Tensor | None:
    """The weight; None where it needs other parts."""
    roles = set(parts)
    exact = {role: part.double() for role, part in parts.items()}
    found: torch.Tensor | None = None
    if roles == {"length", "direction"}:
        found = _of_length(exact["length"], exact["direction"])
    elif roles == {"original", "left", "direction"}:
        found = _of_norm(exact["original"], exact["left"], exact["direction"], transposed)
    elif roles == {"original", "mask"} and parts["mask"].shape == parts["original"].shape:
        found = exact["original"] * exact["mask"]
    kind = parts.get("direction" if "length" in parts else "original")
    return found if found is None or kind is None else found.to(kind.dtype)


def _of_length(length: torch.Tensor, direction: torch.Tensor) -> torch.Tensor | None:
    """Weight normalization: a length for each slice along one axis, or one for all."""
    sizes = length.shape if length.ndim else (1,) * direction.ndim
    axes = [axis for axis, size in enumerate(sizes) if size == 1]
    fits = len(sizes) == direction.ndim and all(
        size in (1, own) for size, own in zip(sizes, direction.shape, strict=True)
    )
    if not fits or len(sizes) - len(axes) > 1:
        return None
    square = direction.pow(2)
    return direction * (length / (square.sum(axes, keepdim=True) if axes else square).sqrt())


def _of_norm(
    weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor, transposed: bool
) -> torch.Tensor | None:
    """Spectral normalization: divided by the largest singular value, by its stored vectors."""
    usual = int(transposed)
    for axis in dict.fromkeys((usual, *range(weight.ndim))):
        matrix = weight.movedim(axis, 0).flatten(1) if axis < weight.ndim else weight[None]
        if matrix.shape == (left.numel(), right.numel()):
            return weight / (left.flatten() @ matrix @ right.flatten())
    return None


__all__ = ["make_plain", "plain_tensors", "unexplained"]
