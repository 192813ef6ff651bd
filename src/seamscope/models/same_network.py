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
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
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
    classes: dict[type, None] = {}
    for name, each in module.named_modules():
        yield f"{name} {type(each).__qualname__}"
        yield from (f"{key}={_shown(value)}" for key, value in sorted(vars(each).items()))
        classes |= dict.fromkeys(type(each).__mro__)
        if isinstance(each, torch.jit.ScriptModule | fx.GraphModule):
            with contextlib.suppress(RuntimeError, AttributeError):  # a script without a forward
                yield str(each.code)
    own = [each for each in classes if not each.__module__.startswith(("torch.", "builtins"))]
    for cls in own:  # what a class keeps of where it was made, and code without a file
        yield from (f"{cls.__qualname__}.{k}={_shown(v, 1)}" for k, v in sorted(vars(cls).items()))
    for file in sorted(_files(own)):
        with contextlib.suppress(OSError):
            yield hashlib.sha256(Path(file).read_bytes()).hexdigest()


_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def _files(classes: Sequence[type]) -> set[str]:
    """Files of the classes, and of all code of the user's own that these use."""
    files: set[str] = set()
    waiting = {each.__module__ for each in classes}
    while waiting:
        module = sys.modules.get(waiting.pop())
        file = getattr(module, "__file__", None)
        if file is None or file in files:
            continue
        files.add(file)
        if not file.startswith(_INSTALLED):
            waiting |= set(filter(None, map(_module_name, vars(module).copy().values())))
    for each in classes:
        with contextlib.suppress(TypeError, OSError):  # a module that is not registered
            files.add(inspect.getsourcefile(each) or "")
    return files - {""}


def _module_name(value: Any) -> str:
    """Where a function, class or module that some code uses comes from; empty for torch's own."""
    found = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    known = isinstance(found, str) and found.partition(".")[0] not in _VERSIONED
    return str(found) if known else ""


# Their files are not read: what differs between their versions is no one's own code.
_VERSIONED = ("torch", "seamscope", "numpy")


def _shown(value: Any, depth: int = 0) -> str:
    """Write a setting of a module, the same in every process; what has no such form is left out."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, torch.dtype | torch.Size | torch.device | slice | range):
        return str(value)
    if isinstance(value, CodeType):
        return _code(value)
    if depth > 3 or isinstance(value, torch.Tensor | nn.Module):
        return ""
    if isinstance(value, Mapping):
        return str([(str(k), _shown(v, depth + 1)) for k, v in value.items()])
    if isinstance(value, set | frozenset):
        return str(sorted(_shown(each, depth + 1) for each in value))
    if isinstance(value, Sequence):
        return str([_shown(each, depth + 1) for each in value])
    function = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
    function = inspect.unwrap(function) if callable(function) else function
    if isinstance(function, FunctionType):
        return _code(function.__code__) + str([_shown(each, depth + 1) for each in _held(function)])
    return f"{type(value).__qualname__} {getattr(value, '__qualname__', '')}" + getattr(
        value, "__name__", ""
    )


def _held(function: FunctionType) -> Iterator[Any]:
    """What a function took along from where it was made.

    Lists and the like are left out: they may grow while the network runs, as those of hooks do.
    """
    yield from (function.__defaults__, function.__kwdefaults__)
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # still empty
            if not isinstance(cell.cell_contents, list | dict | set):
                yield cell.cell_contents


def _code(code: CodeType) -> str:
    constants = [_shown(each, 3) for each in code.co_consts]
    digest = hashlib.sha256(code.co_code).hexdigest()
    return f"{code.co_name} {digest} {code.co_names} {constants}"


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
