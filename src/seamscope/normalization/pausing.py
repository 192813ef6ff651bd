"""Forward passes that stop at a normalization and go on later.

Knows which operations of a graph are calls (`seamscope.normalization.calls`). Does not know what
statistics are used for, or tiles.

The statistics of a whole image are known only when all its tiles have reached the layer that needs
them. So each pass stops there and becomes a value, `Paused`. All passes of one shape replay one
`seamscope.recorded_graph`. It gave the same numbers, bit for bit, for 2D and 3D networks,
transformers, TorchScript and exported programs.

Some networks cannot be recorded: those that take numbers out of tensors (``item``, numpy), take
another way for other values, or write into tensors that they did not make. Their passes begin again
for each call and hold their input only. Networks that write into their own weights or buffers are
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from seamscope.errors import ModelError
from seamscope.normalization.calls import Answer, Call, Forward, Moments, Normalizations
from seamscope.recorded_graph import (
    Differs,
    Glimpse,
    RecordedGraph,
    Recorder,
    Replay,
    Unrecordable,
    Waiting,
    record,
)

_SAME = 1e-4  # standard deviations; smaller differences are rounding


class _Stop(BaseException):
    """Unwinds a forward pass; no network catches it by mistake."""


@dataclass
class Paused:
    """A forward pass that stopped at a call; used up when it goes on.

    Attributes
    ----------
    call
        Number of the call it stopped at; 0 at its beginning.
    batch
        Samples of the input.
    space
        Spatial shape of the features there.
    waiting
        What later operations use; of a pass that begins again, its input.
    graph, step
        By which it goes on, and from which operation.
    """

    call: int
    batch: int
    space: tuple[int, ...]
    waiting: Waiting
    graph: RecordedGraph | None = None
    step: int = 0


See: TypeAlias = Callable[[Call], None]


class PausableNetwork:
    """Runs a network from call to call, for many inputs.

    Parameters
    ----------
    forward
        The network, ``(N, C, *spatial)`` to a tensor.
    held
        Its weights and buffers.
    recordable
        False to let all passes begin again.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.InstanceNorm2d(2)).eval()
    >>> pausable = PausableNetwork(net)
    >>> x = torch.randn(1, 1, 8, 8)
    >>> paused = pausable.advance(pausable.begin(x), 0, lambda call: None)
    >>> y = pausable.finish(paused, lambda call: None)
    >>> bool(torch.equal(y, net(x)))
    True
    """

    def __init__(
        self, forward: Forward, held: Iterable[torch.Tensor] = (), recordable: bool = True
    ) -> None:
        self._forward, self._held, self._recordable = forward, tuple(held), recordable
        self._graphs: dict[Any, RecordedGraph | None] = {}

    def resumable(self, x: torch.Tensor) -> bool:
        """Record this input, and compare on another one whether replays give the network's numbers.

        Raises
        ------
        ModelError
            Where the network writes into its own weights or buffers.
        """
        try:
            self._graphs[_kind(x)] = record(self._forward, x.clone(), held=self._held)
        except Unrecordable:
            return False
        other = x.flip(-1) * 2 - 1
        expected: list[torch.Tensor] = []

        def note(call: Call) -> None:
            expected.append(call.features.clone())

        expected.append(Normalizations(note).run(self._forward, other.clone()))
        right: list[bool] = []

        def compare(call: Call) -> None:
            right.append(_near(call.features, expected[call.number]))

        right.append(_near(self.finish(self.begin(other), compare), expected[-1]))
        return len(right) == len(expected) and all(right)

    def begin(self, x: torch.Tensor) -> Paused:
        """Return a pass on this input that has done nothing yet."""
        return Paused(0, x.shape[0], tuple(x.shape[2:]), Waiting({"x": x.contiguous()}))

    def advance(
        self,
        paused: Paused,
        stop: int,
        answer: Answer,
        see: See = lambda call: None,
        device: torch.device | None = None,
    ) -> Paused:
        """Go on to a call, and stop before it is answered.

        Parameters
        ----------
        paused
            Where to begin; it is used up.
        stop
            Number of the call to stop at.
        answer
            Answers the calls before `stop` (see `seamscope.normalization.calls`).
        see
            Receives the call that it stops at.
        device
            Where the network is; by default the CPU.

        Raises
        ------
        ModelError
            Where the network takes another way for other inputs.
        """
        values = paused.waiting.take(device or torch.device("cpu"))
        graph = paused.graph
        if graph is None and self._recordable and _kind(values["x"]) not in self._graphs:
            found, seen = self._recorded(values["x"], stop, answer, see)
            if found is not None:
                return found
            see = (lambda call: None) if seen else see
        run = _Pass(answer, paused, values, graph or self._graphs.get(_kind(values["x"])))
        found = run.to_call(self._forward, stop, see)
        if found is None:
            raise ModelError(
                f"The network never reached its normalization {stop + 1}: it takes another way "
                "for other inputs, so that its statistics cannot be fixed."
            )
        return found

    def _recorded(
        self, x: torch.Tensor, stop: int, answer: Answer, see: See
    ) -> tuple[Paused | None, bool]:
        """Record the first input of its kind, as it goes to a call; also whether it came there."""
        recorder = Recorder(self._held)
        glimpses: list[tuple[Glimpse, tuple[int, ...]]] = []

        def noted(call: Call) -> Moments | None:
            if call.number == stop:
                see(call)
                glimpses.append((recorder.glimpse(), watched.space))
            return answer(call) if call.number < stop else None

        def recorded(x: torch.Tensor) -> torch.Tensor:
            self._graphs[kind] = recorder.run(self._forward, x)
            return x

        watched, kind = Normalizations(noted), _kind(x)
        self._graphs[kind] = None
        with suppress(Unrecordable):
            watched.run(recorded, x.clone())
        graph = self._graphs[kind]
        going = graph.resume(glimpses[0][0]) if graph is not None and glimpses else None
        if graph is None or going is None:
            return None, bool(glimpses)
        waiting = Waiting(going[1])
        return Paused(stop, len(x), glimpses[0][1], waiting, graph, going[0]), True

    def finish(
        self, paused: Paused, answer: Answer, device: torch.device | None = None
    ) -> torch.Tensor:
        """Go on to the end; returns the network's result."""
        values = paused.waiting.take(device or torch.device("cpu"))
        graph = paused.graph or self._graphs.get(_kind(values["x"]))
        return _Pass(answer, paused, values, graph).to_end(self._forward)


def _kind(x: torch.Tensor) -> Any:
    """By which inputs share a graph."""
    return tuple(x.shape), x.dtype, x.device


def _near(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    finite = other[torch.isfinite(other)]
    near = _SAME * float(finite.std(correction=0)) if finite.numel() else 0.0
    return torch.allclose(one, other, 0, near, equal_nan=True)


class _Pass(Normalizations):
    """One stretch of a pass: by a graph, or else by the network's own code from its beginning."""

    def __init__(
        self, answer: Answer, paused: Paused, values: dict[str, Any], graph: RecordedGraph | None
    ) -> None:
        super().__init__(answer)
        self.count, self.batch, self.space = paused.call, paused.batch, paused.space
        self._x: Any = values["x"] if graph is None else None
        self._graph = graph
        self._replay = None
        if graph is not None:
            self._replay = Replay(graph, values, paused.step, self._operation)

    def _operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.__torch_dispatch__(func, (), args, kwargs)

    def to_end(self, forward: Forward) -> torch.Tensor:
        """Run to the end."""
        if self._replay is None:
            return self.run(forward, self._x.clone())
        try:
            with torch.inference_mode(False), torch.no_grad():
                result: torch.Tensor = self._replay.to_end()
        except Differs as error:
            raise ModelError(
                f"The network makes another shape in {error}: it takes another way for other "
                "inputs, so that its statistics cannot be fixed."
            ) from None
        return result

    def to_call(self, forward: Forward, stop: int, see: See) -> Paused | None:
        """Run to a call and stop; None where it never comes."""
        stopped: list[Paused] = []
        answer = self.answer

        def answered(call: Call) -> Moments | None:
            if call.number != stop:
                return answer(call)
            see(call)
            stopped.append(self._pause(stop))
            raise _Stop

        self.answer = answered
        try:
            self.to_end(forward)
        except _Stop:
            pass
        except Exception:
            if not stopped:  # TorchScript wraps what passes through it
                raise
        return stopped[0] if stopped else None

    def _pause(self, call: int) -> Paused:
        if self._replay is None:
            return Paused(0, self.batch, tuple(self._x.shape[2:]), Waiting({"x": self._x}))
        waiting = Waiting(self._replay.alive())
        return Paused(call, self.batch, self.space, waiting, self._graph, self._replay.step)


__all__ = ["Answer", "PausableNetwork", "Paused"]
