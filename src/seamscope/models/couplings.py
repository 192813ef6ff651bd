"""Which layers of a network couple its whole tile, by name.

Knows modules and what goes in and out of them. Does not know what they compute.

One end of a long input is changed. A layer of whose input a part does not change, and all of whose
output does, couples the whole tile, whatever it is: attention, global pooling. Its output is then
replaced by that of the unchanged input, so that the layers behind it are seen as well. To measure
how far the rest of a network reaches, the attention of its coupling layers is held in the same way.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn

from seamscope.models.slab import LOW, NOISES, Slab
from seamscope.normalization.calls import Forward
from seamscope.recorded_graph import Dispatch, RunningModules

_LITTLE, _ALL = 0.8, 0.999  # parts of a layer's input and output that change


def coupling_layers(module: nn.Module, slab: Slab) -> tuple[str, ...]:
    """Names of the innermost layers that couple the whole slab, in the order they run.

    Empty for networks without such layers of their own, such as exported programs.
    """
    with _Recorder(module) as recorder:
        slab.run(slab.clean)
        recorder.compare()
        frame = min(slab.frame(), slab.length // 4)
        slab.run(slab.with_end(LOW, frame, NOISES[1]))
    return tuple(dict.fromkeys(name for name in recorder.found if name))


class HeldAttention:
    """A forward pass in which the attention of some layers always gives what it did first.

    An input of another shape is a first one again.

    Parameters
    ----------
    forward
        Runs `module`.
    module, names
        Layers whose attention is held, by their names in the module.
    """

    def __init__(self, forward: Forward, module: nn.Module, names: Sequence[str]) -> None:
        self._forward, self._module = forward, module
        self._names = frozenset(names)
        self._shape: tuple[int, ...] = ()
        self._kept: list[Any] = []
        self._found: set[str] = set()

    @property
    def complete(self) -> bool:
        """Whether attention ran in all of these layers."""
        return self._found == self._names

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network."""
        if tuple(x.shape) != self._shape:
            self._shape, self._kept, self._found = tuple(x.shape), [], set()
            left = None
        else:
            left = iter(self._kept)
        running: list[str] = []

        def hold(run: Callable[[], Any]) -> Any:
            if not running or running[-1] not in self._names:
                return run()
            self._found.add(running[-1])
            if left is None:
                self._kept.append(copy.deepcopy(run()))
                return copy.deepcopy(self._kept[-1])
            return copy.deepcopy(next(left))  # what follows may change it in place

        with RunningModules(self._module, running), _Attention(hold):
            return self._forward(x)


class _Attention(Dispatch):
    """Gives the operations of attention to a function, which may run them."""

    def __init__(self, hold: Callable[[Callable[[], Any]], Any]) -> None:
        super().__init__()
        self._hold = hold

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        run = partial(func, *args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        return self._hold(run) if name.startswith(_OF_ATTENTION) else run()


_OF_ATTENTION = (
    "_softmax", "_safe_softmax", "bmm", "baddbmm", "_scaled_dot_product",
    "_native_multi_head_attention",
)  # fmt: skip


class _Recorder:
    """Watches what goes in and out of each layer, in a first run and in one that is compared.

    Attributes
    ----------
    found
        Names of layers that couple everything.
    """

    def __init__(self, module: nn.Module) -> None:
        self.found: list[str] = []
        self._module = module
        self._clean: list[tuple[str, torch.Tensor | None, Any]] = []
        self._next: int | None = None
        self._handles: list[Any] = []

    def compare(self) -> None:
        """Compare the next run with the first."""
        self._next = 0

    def __enter__(self) -> _Recorder:
        for name, each in self._module.named_modules():
            with contextlib.suppress(RuntimeError):  # scripts take no hooks
                self._handles.append(each.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[..., Any]:
        def watch(module: nn.Module, given: Any, returned: Any) -> Any:
            if self._next is None:
                self._clean.append((name, _first(given), copy.deepcopy(returned)))
                return None
            if self._next >= len(self._clean):
                return None
            own, clean_given, clean_returned = self._clean[self._next]
            self._next += 1
            if own != name or not _couples(
                (clean_given, _first(clean_returned)), (_first(given), _first(returned))
            ):
                return None
            self.found.append(name)
            return clean_returned

        return watch


_Pair: TypeAlias = "tuple[torch.Tensor | None, torch.Tensor | None]"


def _couples(clean: _Pair, changed: _Pair) -> bool:
    given, returned = clean
    if given is None or returned is None or given.ndim < 2:
        return False
    along = _longest(given)
    same = returned.ndim == given.ndim and returned.shape[along] == given.shape[along]
    before = _part(given, changed[0], along)
    after = _part(returned, changed[1], along if same else _longest(returned))
    return before is not None and after is not None and before < _LITTLE and after > _ALL


def _longest(tensor: torch.Tensor) -> int:
    """The longest axis besides the batch: of a slab, the one it is long in."""
    return max(range(1, tensor.ndim), key=lambda axis: tensor.shape[axis], default=0)


def _part(one: torch.Tensor, two: torch.Tensor | None, along: int) -> float | None:
    """Part of the places along an axis at which anything differs."""
    if two is None or one.shape != two.shape or not one.numel():
        return None
    differs = (one != two).movedim(along, 0).flatten(1).any(1)
    return float(differs.float().mean())


def _first(values: Any) -> torch.Tensor | None:
    """The first tensor; a copy, since later layers may change it in place."""
    return next((tensor.clone() for tensor in _tensors(values)), None)


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for each in values:
            yield from _tensors(each)
