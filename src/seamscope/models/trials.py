"""How a network is run to measure it: watched, without chance, and never for too long.

Knows how one forward pass is made repeatable and counted. Does not know what is measured.

`Trials` stands between every measurement and the network. Each forward pass goes through it, so
that a measurement reports progress, stops when the user stops it, and ends when its time is over
(`OutOfPatience`). Random draws, such as those of dropout, are replaced by their expected value: the
network that remains is deterministic and has the same period and reach.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from seamscope.errors import ModelError, SeamscopeError
from seamscope.normalization.calls import Forward, bound
from seamscope.progress import QUIET, Work, check
from seamscope.recorded_graph import Dispatch

aten = torch.ops.aten

PATIENCE = 60.0
"""Seconds after which the measurements of one network end, by default."""

OVERTIME = 2.0
"""Seconds for each of a few things that need not be measured, when that time is over."""


class OutOfPatience(Exception):  # noqa: N818  (no error: what was measured until then is kept)
    """The time for measuring is over."""


class Trials:
    """Runs a network for measurements.

    Parameters
    ----------
    forward
        ``(N, C, *spatial)`` tensor to a tensor, on the CPU.
    work
        Receives progress; asked before each forward pass whether to stop.
    patience
        Seconds until `OutOfPatience` is raised; None for no limit.
    clock
        Returns seconds.
    module
        What `forward` runs, for the names of its layers.

    Attributes
    ----------
    random
        Whether random draws are replaced by their expected value.
    count
        Forward passes so far.
    finished
        Whether there was always time for one more.
    sample
        What `seamscope.models.same_network.sample_of` gives, where a forward pass showed it.
    decides
        Whether what the network gives was seen to be decided (see
        `seamscope.models.output_kind.undecided`).
    """

    def __init__(
        self,
        forward: Forward,
        work: Work = QUIET,
        patience: float | None = PATIENCE,
        clock: Callable[[], float] | None = None,
        module: nn.Module | None = None,
    ) -> None:
        self.forward = forward
        self.module = module
        self.work = work
        self.random = False
        self.count = 0
        self.finished = True
        self.sample: list[float] = []
        self.decides = False
        self._clock = clock or time.monotonic
        self._patience = patience
        self._end = None if patience is None else self._clock() + patience

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network once."""
        self.check()
        self.count += 1
        if self._end is not None:
            assert self._patience is not None
            left = max(0.0, self._end - self._clock())
            self.work.step(int(100 * (1 - left / self._patience)), 100)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd sizes are our doing, not the user's
            try:
                with Expected() if self.random else contextlib.nullcontext(), self._checked():
                    y = self.forward(x)
            except Exception:  # TorchScript wraps what passes through it
                self.check()
                raise
        if not isinstance(y, torch.Tensor):
            raise ModelError(f"it returns {type(y).__name__} instead of one tensor")
        return y

    def _checked(self) -> contextlib.AbstractContextManager[object]:
        """Ask also between two operations: one forward pass may take longer than time is left."""
        return contextlib.nullcontext() if self._end is None else _Checked(self.check)

    def check(self) -> None:
        """Raise where the user stopped or time is over; also asked between two forward passes."""
        check(self.work)
        if self._end is not None and self._clock() > self._end:
            self.finished = False
            raise OutOfPatience

    @property
    def hurried(self) -> bool:
        """Whether a quarter of the time is over."""
        if self._end is None or self._patience is None:
            return False
        return self._end - self._clock() < 0.75 * self._patience

    @contextlib.contextmanager
    def overtime(self, seconds: float | None) -> Iterator[None]:
        """Go on for so long though time is over, or without a limit; what is left then is none."""
        end, self._end = self._end, None if seconds is None else self._clock() + seconds
        try:
            yield
        finally:
            self._end = end

    def phase(self, what: str) -> None:
        """Begin a named part."""
        self.work.phase(what)


class _Checked(Dispatch):
    """Calls a function before each operation; what it raises ends the forward pass."""

    def __init__(self, check: Callable[[], object]) -> None:
        super().__init__()
        self._check = check

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self._check()
        return func(*args, **(kwargs or {}))


class Attempt:
    """Goes on without what is measured inside, where time is over or the network fails."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        stopped = isinstance(error, (InterruptedError, SeamscopeError))
        return isinstance(error, Exception) and not stopped


@dataclass(frozen=True)
class Limits:
    """How long a network is measured, and who hears of it.

    Attributes
    ----------
    work
        Receives progress.
    patience
        Seconds; None for no limit.
    begun
        When the measurement began, in seconds; None where each of its parts begins by itself.
    """

    work: Work = QUIET
    patience: float | None = PATIENCE
    begun: float | None = None

    def trials(self, forward: Callable[[torch.Tensor], torch.Tensor], module: nn.Module) -> Trials:
        """Return what runs a network for a measurement."""
        left = self.patience
        if left is not None and self.begun is not None:
            left = max(0.0, self.begun + left - time.monotonic())
        return Trials(forward, self.work, left, module=module)


class Expected(Dispatch):
    """Replaces random draws by their expected value: dropout does nothing, noise is its mean.

    Examples
    --------
    >>> x = torch.ones(1, 4, 8, 8)
    >>> with Expected():
    ...     y = torch.nn.functional.dropout(x, 0.5, training=True) + torch.randn(8)
    >>> bool((y == x).all())
    True
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        draw = _DRAWS.get(func)
        if draw is not None:
            return draw(func, args, bound(func, args, kwargs), kwargs)
        return func(*args, **kwargs)


def _fill(value: Callable[[dict[str, Any]], float]) -> Any:
    """Replace a draw in place."""
    return lambda func, args, given, kwargs: args[0].fill_(value(given))


def _made(value: float) -> Any:
    """Replace a draw that makes a tensor; drawn all the same, for its shape."""
    return lambda func, args, given, kwargs: func(*args, **kwargs).fill_(value)


def _middle(func: Any, args: Any, given: dict[str, Any], kwargs: Any) -> Any:
    """Replace a draw of whole numbers by the middle of their range."""
    return func(*args, **kwargs).fill_((given.get("low", 0) + given["high"]) // 2)


def _in_order(func: Any, args: Any, given: dict[str, Any], kwargs: Any) -> Any:
    drawn = func(*args, **kwargs)
    return drawn.copy_(torch.arange(len(drawn)))


def _as_it_is(func: Any, args: Any, given: dict[str, Any], kwargs: Any) -> Any:
    x = given["input"]
    return x.clone(), torch.ones_like(x, dtype=torch.bool)


_DRAWS: dict[Any, Any] = {
    aten.bernoulli_.float: _fill(lambda given: float(given["p"])),
    aten.uniform_.default: _fill(lambda given: (given["from"] + given["to"]) / 2),
    aten.normal_.default: _fill(lambda given: float(given["mean"])),
    aten.native_dropout.default: _as_it_is,
    aten.bernoulli.p: lambda func, args, given, kwargs: torch.full_like(args[0], given["p"]),
    aten.bernoulli.default: lambda func, args, given, kwargs: args[0].clone(),
    aten.rand.default: _made(0.5),
    aten.rand_like.default: _made(0.5),
    aten.randn.default: _made(0.0),
    aten.randn_like.default: _made(0.0),
    aten.randint.default: _middle,
    aten.randint.low: _middle,
    aten.randint_like.default: _middle,
    aten.randint_like.low_dtype: _middle,
    aten.randperm.default: _in_order,
    aten.normal.Tensor_Tensor: lambda func, args, given, kwargs: args[0].clone(),
    aten.normal.Tensor_float: lambda func, args, given, kwargs: args[0].clone(),
}


class Draws(Dispatch):
    """Says whether a forward pass draws random numbers.

    Attributes
    ----------
    seen
        Whether it did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            given = bound(func, args, kwargs)
            p = given.get("dropout_p", given.get("p", 1.0))
            # attention and dropout draw nothing where they drop nothing
            self.seen |= isinstance(p, torch.Tensor) or float(p or 0.0) > 0
        return func(*args, **kwargs)


class Lost(Dispatch):
    """Says whether some operation of a forward pass of NaN reads little but padding.

    In too small an input, a dilated convolution of an even kernel, or a slice of what is shifted,
    meets nothing of it: what such a path reaches is not seen.

    Attributes
    ----------
    seen
        Whether one does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in (aten.convolution.default, aten.slice.Tensor) and made.is_floating_point():
            spread = func is aten.convolution.default and bool(args[6])  # over more pixels
            given, found = (float(one.isnan().float().mean()) for one in (args[0], made))
            self.seen |= given > 0 and (found == 0 or (found < given / 4 and not spread))
        return made


class Otherwise(Dispatch):
    """Gives another number for one that the network's code reads, so that it decides otherwise.

    Parameters
    ----------
    number
        Which of all that it reads.
    change
        Makes another of it.
    most
        Operations after which the forward pass is stopped: a loop may count to that number.
    """

    def __init__(self, number: int, change: Callable[[Any], Any], most: int) -> None:
        super().__init__()
        self._left, self._change, self._most = number, change, most

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self._most -= 1
        if self._most < 0:
            raise RuntimeError("more operations than before")
        made = func(*args, **(kwargs or {}))
        if func is aten._local_scalar_dense.default:
            self._left -= 1
            return self._change(made) if self._left == -1 else made
        return made


class Watch(Dispatch):
    """Counts the operations of a forward pass, and remembers the first convolution and the ends.

    Attributes
    ----------
    count
        Operations that began, though the forward pass may have failed then.
    first
        ``(input channels, spatial axes)`` that the first convolution takes.
    attends
        Whether maps were multiplied with each other, as attention does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.first: tuple[int, int] | None = None
        self.attends = False
        self._last: tuple[str, ...] = ()
        self._made: MutableMapping[torch.Tensor, tuple[str, ...]] = WeakTensorKeyDictionary()

    def last(self, result: torch.Tensor) -> tuple[str, ...]:
        """Names of the last operations that led to a result, oldest first."""
        return self._made.get(result, self._last)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        name = func._schema.name.removeprefix("aten::")
        self.attends |= "bmm" in name or "scaled_dot_product" in name
        if self.first is None and name in ("convolution", "_convolution"):
            given = bound(func, args, kwargs or {})
            weight = given["weight"]
            if not given["transposed"]:
                self.first = (weight.shape[1] * given["groups"], weight.ndim - 2)
        made = func(*args, **(kwargs or {}))
        given_first = next((each for each in args if isinstance(each, torch.Tensor)), None)
        before = () if given_first is None else self._made.get(given_first, ())
        self._last = (*self._last[-7:], name)
        if isinstance(made, torch.Tensor):
            self._made[made] = (*before[-7:], name) if given_first is not None else self._last
        return made
