"""What the layers of a network are called, in the order in which a forward pass meets them.

Knows where eager modules, TorchScript and exported programs keep names. Does not know what the
layers compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

Name = tuple[str | None, str | None]
"""Dotted name, and ``"InstanceNorm"``, ``"BatchNorm"`` or another family; None if not known."""

_READ = (torch.jit.ScriptModule, fx.GraphModule)
_FAMILIES = ("InstanceNorm", "BatchNorm", "BatchRenorm", "GroupNorm", "LayerNorm")


class LayerNames:
    """Within this context, knows the layer that runs; or beforehand, the order of all.

    Parameters
    ----------
    module
        The network, or None where only a function is known.

    Attributes
    ----------
    listed
        Normalization layers in the order they run, for formats that are read instead of watched;
        empty for eager modules.
    """

    def __init__(self, module: nn.Module | None) -> None:
        self._module = module = None if module is None else network_in(module)
        self._stack: list[Name] = []
        self._handles: list[Any] = []
        self.listed: tuple[Name, ...] = ()
        read = None if module is None else program_in(module)
        program = None if read is None else read[1]
        self._scripted = isinstance(program, torch.jit.ScriptModule)
        if self._scripted:
            self.listed = tuple(_scripted(program, ""))
        elif isinstance(program, fx.GraphModule):
            self.listed = tuple(_exported(program))

    @property
    def current(self) -> Name:
        """Name and family of the innermost layer that runs."""
        return self._stack[-1] if self._stack else (None, None)

    def __enter__(self) -> LayerNames:
        # graphs of modules, as converters make them, are watched like any others
        if self._module is None or self.listed or self._scripted:
            return self
        for name, part in self._module.named_modules():
            entering = self._entering((name or None, family_of(type(part).__name__)))
            self._handles.append(part.register_forward_pre_hook(entering))
            self._handles.append(part.register_forward_hook(self._leaving, always_call=True))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _entering(self, name: Name) -> Any:
        return lambda part, inputs: self._stack.append(name)

    def _leaving(self, part: Any, inputs: Any, output: Any) -> None:
        self._stack.pop()


def network_in(module: nn.Module) -> nn.Module:
    """Return the network within modules that only arrange what goes in and out.

    These hold it as `inner`, and its weights keep their names under them.
    """
    inner = getattr(module, "inner", None)
    while isinstance(inner, nn.Module) and _same_names(module, inner):
        module, inner = inner, getattr(inner, "inner", None)
    return module


def _same_names(module: nn.Module, inner: nn.Module) -> bool:
    return module.state_dict().keys() == inner.state_dict().keys()


def program_in(module: nn.Module) -> tuple[str, nn.Module] | None:
    """Name and part of a network that is TorchScript or an exported program, maybe in wrappers.

    ``""`` is the network itself. None where there is none, or layers around it normalize too.
    """
    parts = list(module.named_modules())
    found = next(((name, part) for name, part in parts if isinstance(part, _READ)), None)
    if found is None:
        return None
    inside = {id(part) for part in found[1].modules()}
    outside = (part for _, part in parts if id(part) not in inside)
    return None if any(family_of(type(part).__name__) for part in outside) else found


def family_of(kind: str) -> str | None:
    """Return the family of a layer class by its name, such as ``"InstanceNorm3d"``."""
    return next((family for family in _FAMILIES if family in kind), None)


def _scripted(module: Any, prefix: str) -> Iterator[Name]:
    """Follow the calls of submodules through TorchScript's graph."""
    try:
        graph = module.graph
    except RuntimeError:  # a module without a forward
        return
    owner = {next(graph.inputs()).debugName(): (module, prefix)}
    for node in graph.nodes():
        if node.kind() == "prim::GetAttr":
            held = owner.get(next(node.inputs()).debugName())
            name = node.s("name")
            if held is not None and isinstance(getattr(held[0], name, None), nn.Module):
                path = f"{held[1]}.{name}".lstrip(".")
                owner[node.output().debugName()] = (getattr(held[0], name), path)
        elif node.kind() == "prim::CallMethod":
            called = owner.get(next(node.inputs()).debugName())
            if called is None:
                continue
            family = family_of(getattr(called[0], "original_name", ""))
            if family is not None:
                yield called[1], family
            else:
                yield from _scripted(*called)


def _exported(module: fx.GraphModule) -> Iterator[Name]:
    """Read the stack of modules that export notes for each operation."""
    for node in module.graph.nodes:
        name = str(getattr(node.target, "__name__", node.target))
        if node.op != "call_function" or not any(word in name for word in _NORM_OPS):
            continue
        stack = list(node.meta.get("nn_module_stack", {}).values())
        path, kind = stack[-1] if stack else ("", "")
        path = str(path).removeprefix("L['self'].")
        family = family_of(kind if isinstance(kind, str) else kind.__name__)
        yield path or None, family


_NORM_OPS = ("batch_norm", "instance_norm", "group_norm", "layer_norm")
