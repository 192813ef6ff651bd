"""A network in float64, though its weights and its code say float32.

Knows the types of tensors. Does not know what a network computes, or why.

Two predictions that are equal up to rounding differ by less in float64, and by as much as before
where the network itself makes the difference. Warping needs that: a coordinate of a long image
keeps only 1e-4 px in float32.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from seamscope.normalization.calls import Forward
from seamscope.recorded_graph import Dispatch, Replay, record

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}


class Double:
    """Computes in float64 what the network computes in float32; weights stay as they are.

    Examples
    --------
    >>> net = torch.nn.Conv2d(1, 1, 3)
    >>> with torch.no_grad(), Double():
    ...     y = net(torch.zeros(1, 1, 8, 8)) + torch.linspace(0, 1, 6)
    >>> y.dtype, net.weight.dtype
    (torch.float64, torch.float32)
    """

    def __init__(self) -> None:
        self._modes = ExitStack()

    def __enter__(self) -> None:
        wide = _Wide()
        self._modes.enter_context(_Operations(wide))
        self._modes.enter_context(_Functions(wide))

    def __exit__(self, *error: object) -> None:
        self._modes.close()


class _Wide:
    """Tensors in float64, each made once, so that what is written into one stays in it."""

    def __init__(self) -> None:
        self._made: MutableMapping[torch.Tensor, torch.Tensor] = WeakTensorKeyDictionary()

    def __call__(self, given: Any) -> Any:
        return fx.node.map_aggregate(given, self._one)

    def _one(self, given: Any) -> Any:
        if isinstance(given, torch.dtype):
            return _WIDER.get(given, given)
        if not isinstance(given, torch.Tensor) or given.dtype not in _WIDER:
            return given
        if given not in self._made:
            self._made[given] = given.to(_WIDER[given.dtype])
        return self._made[given]


class _Functions(TorchFunctionMode):
    """Widens what torch's functions are given: some compare types before they compute."""

    def __init__(self, wide: _Wide) -> None:
        super().__init__()
        self._wide = wide

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = self._wide((args, kwargs or {}))
        return func(*args, **kwargs)


class _Operations(Dispatch):
    """Widens what operations are given and make."""

    def __init__(self, wide: _Wide) -> None:
        super().__init__()
        self._wide = wide

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # what we do is not what the network does
            args, kwargs = self._wide((args, kwargs or {}))
            result = func(*args, **kwargs)
            narrow = isinstance(result, torch.Tensor) and result.dtype in _WIDER
            if narrow and torch.Tag.nondeterministic_seeded not in func.tags and _takes_type(func):
                return func(*args, **kwargs | {"dtype": _WIDER[result.dtype]})
            return result


def _takes_type(func: Any) -> bool:
    """Whether an operation makes numbers of a type that can be stated."""
    return any(argument.name == "dtype" for argument in func._schema.arguments)


def in_double(forward: Forward) -> Forward:
    """Return the network in float64; it raises whatever the network does where that fails.

    Scripts call functions that compare types before anything can be widened: their operations are
    recorded for each input, and replayed.
    """

    def run(x: torch.Tensor) -> torch.Tensor:
        try:
            with Double():
                y: torch.Tensor = forward(x)
        except RuntimeError:
            graph = record(forward, x.clone(), decided=True)
            with Double():
                y = Replay(graph, {"x": x}).to_end()
        return y.double()

    return run


__all__ = ["Double", "in_double"]
