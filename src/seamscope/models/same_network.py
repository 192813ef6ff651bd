"""Whether a network is one whose facts were measured before.

Knows what makes two networks the same. Does not know how facts are measured, kept or written.

A network is recognised by its weights, by every module in it with its settings, by the code of its
classes, and by a small prediction that must come out as it did when the facts were measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from seamscope.models.facts import Facts
from seamscope.models.input_search import Hints

# -- the same network


def network_key(fingerprint: str, module: nn.Module, hints: Hints) -> str:
    """Name a network by its weights, its structure and what the user states of it."""
    digest = hashlib.sha256(repr((fingerprint, dataclasses.replace(hints, weights=()))).encode())
    for part in _structure(module):
        digest.update(part.encode())
    return f"{type(module).__name__} {fingerprint} {digest.hexdigest()[:16]}"


def _structure(module: nn.Module) -> Iterator[str]:
    yield str(torch.__version__)
    files = set()
    for name, each in module.named_modules():
        yield f"{name} {type(each).__qualname__}"
        yield from (f"{key}={_shown(value)}" for key, value in sorted(vars(each).items()))
        with contextlib.suppress(TypeError, OSError):
            files.add(inspect.getsourcefile(type(each)) or "")
        if isinstance(each, torch.jit.ScriptModule | fx.GraphModule):
            with contextlib.suppress(RuntimeError, AttributeError):  # a script without a forward
                yield str(each.code)
    for file in sorted(files):
        if "/torch/" not in file:
            with contextlib.suppress(OSError):
                yield hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _shown(value: Any, depth: int = 0) -> str:
    """Write a setting of a module, the same in every process; what has no such form is left out."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, torch.dtype | torch.Size | torch.device | slice | range):
        return str(value)
    if depth > 3 or isinstance(value, torch.Tensor | nn.Module):
        return ""
    if isinstance(value, Mapping):
        return str([(str(k), _shown(v, depth + 1)) for k, v in value.items()])
    if isinstance(value, Sequence | set | frozenset):
        return str([_shown(each, depth + 1) for each in value])
    code = getattr(value, "__code__", None)
    if code is not None:
        return f"{code.co_name} {hashlib.sha256(code.co_code).hexdigest()} {_constants(code)}"
    return f"{type(value).__qualname__} {getattr(value, '__qualname__', '')}" + getattr(
        value, "__name__", ""
    )


def _constants(code: Any) -> str:
    return str([_shown(each, 3) for each in code.co_consts])


def sample_of(forward: Callable[[torch.Tensor], torch.Tensor], facts: Facts) -> list[float]:
    """Some values of a small prediction: by these a network is recognised."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, facts.in_channels, *facts.narrow, generator=random)
    y = forward(x).double().flatten()
    places = torch.linspace(0, y.numel() - 1, 16).long()
    return [float(y.mean()), float(y.std(correction=0)), *map(float, y[places])]


def same_sample(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two samples are of one network, except for rounding."""
    spread = abs(a[1]) + 1e-12
    return len(a) == len(b) and all(abs(x - y) <= 1e-3 * spread for x, y in zip(a, b, strict=True))
