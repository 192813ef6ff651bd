"""A forward pass that stops at a call and is taken up again later.

Knows the operations of a network in their order, and which tensors are alive between two of them.
Does not know what networks compute, or tiles.

Statistics of a whole image can only be known when all its tiles have reached the layer that asks
for them. So a pass is stopped there, and becomes a value, `Paused`: the storages that are still in
use. Taking it up again runs the network's code from its beginning, but every operation that was
done already is skipped: it returns its result where that is still in use, otherwise a tensor
without content, whose shape is all that the code may ask for. That works for eager modules,
TorchScript and exported programs alike, without threads.

::

    operations     0 1 2 3 4 [5] 6 7 8 9        [ ] a call
    first time     x x x x x stop
    afterwards     . . . . .  x  x x x x        . skipped

Skipping costs some ten microseconds for each operation, of all operations for each stop. So only
the first input goes this way, and what it does is written down: others of its shape do the same
operations without the network's code. Where that could be another computation, because the code
reads numbers from tensors, or uses tensors that are neither its input nor the network's own, all
inputs go the slow way.

Some networks cannot be taken up again at all: what they skip is not there to be read. Those are
networks that take numbers out of tensors past torch's operations (numpy, lists, pointers), or that
write into tensors which they did not make. Python's ways out of torch are watched (`_READS`); what
other languages do past torch's dispatcher shows by its results. `PausableNetwork.resumable` tells,
having tried; then begin anew for each call, and give no `held`. Networks that write into their own
weights or buffers are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from seamscope.errors import ModelError
from seamscope.normalization.calls import Answer, Call, Forward, Moments, Normalizations

Key = tuple[int, int]  # the operation that made a storage, and which of its results it is
_INPUT: Key = (-1, 0)


@dataclass
class Paused:
    """A forward pass, stopped at a call; used up when it is taken up again.

    Attributes
    ----------
    call
        Number of the call it stopped at; 0 and no step before its beginning.
    step
        Operations done.
    space
        Spatial shape of the image-like tensor at hand.
    storages
        What is still in use, in host memory.
    scalars
        Numbers that the network read from tensors, by operation.
    """

    call: int
    step: int
    space: tuple[int, ...]
    storages: dict[Key, torch.UntypedStorage]
    scalars: dict[int, Any] = field(default_factory=dict)
    _sizes: dict[Key, int] = field(default_factory=dict, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return sum(storage.nbytes() for storage in self.storages.values())

    def spill(self, path: Path) -> None:
        """Move what is held into a file."""
        self._sizes = {key: storage.nbytes() for key, storage in self.storages.items()}
        with open(path, "wb") as file:
            for storage in self.storages.values():
                file.write(memoryview(_bytes_of(storage)))
        self.storages = {}

    def fetch(self, path: Path) -> None:
        """Bring back what was spilled."""
        with open(path, "rb") as file:
            for key, size in self._sizes.items():
                storage = torch.UntypedStorage(size)
                file.readinto(memoryview(_bytes_of(storage)))
                self.storages[key] = storage


def _bytes_of(storage: torch.UntypedStorage) -> Any:
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()


@dataclass(frozen=True)
class _View:
    """Where a tensor lies in its storage."""

    key: Key
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    def over(self, storage: torch.UntypedStorage) -> torch.Tensor:
        tensor = torch.empty(0, dtype=self.dtype, device=storage.device)
        return tensor.set_(storage, self.offset, self.size, self.stride)


@dataclass(frozen=True)
class _Output(_View):
    """Where a result lies in its storage."""

    empty: torch.Tensor  # what stands in for it once it is no longer used


@dataclass(frozen=True)
class _Step:
    """One operation of the network, the same for every tile of a shape.

    `outputs` holds, for each result, where it lies, or the position of the argument that it is,
    or None for anything else. `repeated` operations are done again: views of weights.
    """

    func: Any
    outputs: tuple[_Output | int | None, ...] = ()
    several: type | None = None
    repeated: bool = False


@dataclass
class _Tape:
    """What a network does, written down as it does it for the first time.

    Attributes
    ----------
    steps
        Operations and their results.
    asked
        Operations and their arguments, with a `_View` for each tensor that the pass itself made;
        one more than `steps` at a stop.
    kept
        For each call that was stopped at: its step, and what is in use there.
    held
        Storages of the network's own tensors.
    complete
        Whether there is nothing else to what it does, so that it can be done without its code.
    resumable
        Whether skipping what was done leaves its code with all that it looks at.
    """

    held: frozenset[int]
    steps: list[_Step] = field(default_factory=list)
    asked: list[tuple[Any, Any, Any]] = field(default_factory=list)
    kept: dict[int, tuple[int, frozenset[Key]]] = field(default_factory=dict)
    complete: bool = True
    resumable: bool = True
    _unused: dict[int, dict[int, list[Key]]] = field(default_factory=dict)

    def unused(self, stop: int) -> dict[int, list[Key]]:
        """What is used for the last time in each step on the way to a stop."""
        if stop not in self._unused:
            end, kept = self.kept[stop]
            last: dict[Key, int] = {}
            for step, (_, args, kwargs) in enumerate(self.asked[: end + 1]):
                made = self.steps[step].outputs if step < end else ()
                for one in (*_views(args), *_views(kwargs), *_views(made)):
                    last[one.key] = step
            freed: dict[int, list[Key]] = {}
            for key, step in last.items():
                if key not in kept:
                    freed.setdefault(step, []).append(key)
            self._unused[stop] = freed
        return self._unused[stop]


def _views(value: Any) -> Iterator[_View]:
    if isinstance(value, _View):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _views(one)
    elif isinstance(value, dict):
        yield from _views(list(value.values()))


def _changed(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The same arguments with those of a kind changed, also in lists."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_changed(one, kind, change) for one in value)
    if isinstance(value, dict):
        return {name: _changed(one, kind, change) for name, one in value.items()}
    return value


# Tensors' ways out of torch, by which code reads or shares numbers unseen by a dispatch mode.
_READS = frozenset(
    {"numpy", "__array__", "tolist", "__repr__", "__format__", "__dlpack__", "data_ptr"}
    | {"storage", "untyped_storage", "_typed_storage", "share_memory_"}
    | {"__deepcopy__", "__reduce_ex__"}
)


class _Reads(TorchFunctionMode):
    """Watches the network's code, in this thread, for reading tensors past torch's operations."""

    def __init__(self, noticed: Callable[[str], None]) -> None:
        super().__init__()
        self._noticed = noticed

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READS:
            self._noticed(name)
        return func(*args, **(kwargs or {}))


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Tensors that an operation changes; but for running statistics, which it does not use then."""
    if not func._schema.is_mutable or "batch_norm" in func.__name__:
        return
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[number] if number < len(args) else kwargs.get(argument.name)
            several = given if isinstance(given, (list, tuple)) else (given,)
            yield from (one for one in several if isinstance(one, torch.Tensor))


_SAME = 1e-4  # standard deviations: below is rounding
_GONE = (
    "The network {} in a pass that is taken up again, where the numbers may be gone: its "
    "statistics cannot be fixed unless it computes what it needs by torch's own operations."
)


class _Stop(BaseException):
    """Unwinds a forward pass; no network catches it by mistake."""


class PausableNetwork:
    """Runs a network from call to call, for many inputs of one shape.

    Parameters
    ----------
    forward
        The network, ``(N, C, *spatial)`` to a tensor; it must take the same way for every input.
    held
        Its weights and buffers, which stay as they are; without them all inputs go the slow way.

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

    def __init__(self, forward: Forward, held: Iterable[torch.Tensor] = ()) -> None:
        self._forward = forward
        self._held = list(held)  # so that their addresses are theirs
        self._tape = self._blank()
        self._input: _Output | None = None

    def resumable(self, x: torch.Tensor) -> bool:
        """Try on this input, and another made of it, whether passes can be taken up again.

        Raises
        ------
        ModelError
            Where the network writes into its own weights or buffers.
        """
        run = _Run(self._tape, lambda call: None, self.begin(x), None)
        run.carry(self._forward, self._input)
        if not self._tape.resumable or not run.count:
            return self._tape.resumable
        return self._repeats_rightly(x, x.flip(-1) * 2 - 1, run.count - 1)

    def _repeats_rightly(self, x: torch.Tensor, other: torch.Tensor, last: int) -> bool:
        """Whether repeating what is done to `x` gives the other input its own features.

        Nothing is skipped meanwhile: code that reads what is not there may end the process.
        """
        expected: list[torch.Tensor] = []

        def note(call: Call) -> None:
            expected.append(call.features.clone())

        Normalizations(note).run(self._forward, other.clone())
        right: list[bool] = []

        def compare(call: Call) -> None:
            own = expected[call.number]
            near = _SAME * float(own.std(correction=0))
            right.append(torch.allclose(call.features, own, 0, near, equal_nan=True))

        self.advance(self.begin(x.clone()), last, lambda call: None)
        if self._tape.complete:
            self.advance(self.begin(other.clone()), last, compare, compare)
        return all(right)

    def begin(self, x: torch.Tensor) -> Paused:
        """Return a pass on this input that has done nothing yet."""
        x = x.contiguous()
        place = _place(x, _INPUT)
        if self._input is not None and self._input.size != place.size:
            self._tape = self._blank()  # another shape, other steps
        self._input = place
        return Paused(0, 0, tuple(x.shape[2:]), {_INPUT: x.untyped_storage()})

    def _blank(self) -> _Tape:
        return _Tape(frozenset(one.untyped_storage()._cdata for one in self._held))

    def advance(
        self,
        paused: Paused,
        stop: int,
        answer: Answer,
        see: Callable[[Call], None] = lambda call: None,
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
            For calls before `stop` (see `seamscope.normalization.calls`).
        see
            Shown the call that it stops at.
        device
            Where the network is; by default the CPU.
        """
        run = _Run(self._tape, answer, paused, device)
        run.stop, run.see = stop, see
        if self._tape.complete and stop in self._tape.kept:
            run.repeat(self._input)
        else:
            run.carry(self._forward, self._input)
        if run.stopped is None:
            raise ModelError(
                f"The network never came to its normalization {stop + 1}: it takes another way "
                "for other inputs, so that its statistics cannot be fixed."
            )
        return run.stopped

    def finish(
        self,
        paused: Paused,
        answer: Answer,
        device: torch.device | None = None,
    ) -> torch.Tensor:
        """Go on to the end; returns what the network gives."""
        run = _Run(self._tape, answer, paused, device)
        result = run.carry(self._forward, self._input)
        assert result is not None
        return result


class _Run(Normalizations):
    """One stretch of a pass."""

    def __init__(
        self,
        tape: _Tape,
        answer: Answer,
        paused: Paused,
        device: torch.device | None,
    ) -> None:
        super().__init__(self._answer)
        self._tape = tape
        self._answer_from = answer
        self._from = paused
        self._device = device or torch.device("cpu")
        self._step = 0
        self._begin_at = paused.call
        self._own: dict[int, Key] = {}  # storages that this pass made, by address
        self._alive: dict[Key, StorageWeakRef] = {}
        self._restored: dict[Key, torch.UntypedStorage] = {}
        self._repeating = False
        self._scalars = dict(paused.scalars)
        self.stop: int | None = None
        self.see: Callable[[Call], None] = lambda call: None
        self.stopped: Paused | None = None
        self._refused: ModelError | None = None

    def carry(self, forward: Forward, place: _Output | None) -> torch.Tensor | None:
        """Run; returns the network's result, or None where it stopped."""
        assert place is not None
        self._restore()
        x = place.over(self._restored[_INPUT])
        for key, storage in self._restored.items():
            self._adopt(key, storage)

        def watched(x: torch.Tensor) -> torch.Tensor:
            with _Reads(self._noticed):
                return forward(x)

        try:
            return self.run(watched, x)
        except _Stop:
            return None
        except Exception:
            if self.stopped is not None:  # TorchScript wraps what passes through it
                return None
            if self._refused is not None:
                raise self._refused from None
            raise

    def _noticed(self, reading: str) -> None:
        """The code reads a tensor past torch's operations."""
        self._tape.complete = self._tape.resumable = False
        if self._step < self._from.step:
            self._refuse(_GONE.format(f"reads a tensor by {reading}"))

    def _refuse(self, why: str) -> NoReturn:
        self._refused = ModelError(why)
        raise self._refused

    def repeat(self, place: _Output | None) -> None:
        """Run to the stop without the network's code, as another input did."""
        assert place is not None
        assert self.stop is not None
        self._restore()
        self._repeating = True
        self.count, self.batch, self.space = self._begin_at, place.size[0], self._from.space
        end, _ = self._tape.kept[self.stop]
        unused = self._tape.unused(self.stop)
        with torch.inference_mode(False), torch.no_grad(), contextlib.suppress(_Stop):
            for step in range(self._from.step, end + 1):
                self._step = step + 1
                self._repeat(step)
                for key in unused.get(step, ()):
                    self._restored.pop(key, None)
        self._restored = {}  # this run may outlive its use, in a cycle of references

    def _repeat(self, step: int) -> None:
        func, args, kwargs = self._tape.asked[step]
        if step < len(self._tape.steps) and self._tape.steps[step].repeated:
            return  # what it gives is an argument as it is

        def found(view: _View) -> torch.Tensor:
            return view.over(self._restored[view.key])

        args, kwargs = _changed(args, _View, found), _changed(kwargs, _View, found)
        result = super().__torch_dispatch__(func, (), args, kwargs)
        results = result if isinstance(result, (list, tuple)) else (result,)
        self._check(step, results)
        for number, output in enumerate(self._tape.steps[step].outputs):
            if isinstance(output, _Output) and output.key == (step, number):
                self._restored[output.key] = results[number].untyped_storage()

    def _restore(self) -> None:
        self._restored = {
            key: storage if self._device.type == "cpu" else storage.to(device=self._device)
            for key, storage in self._from.storages.items()
        }
        self._from.storages = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # what we read is not what the network reads
            return self._done(func, types, args, kwargs or {})

    def _done(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        step = self._step
        self._step += 1
        if step < self._from.step:
            return self._skip(step, func, args, kwargs)
        if step == self._from.step:
            self._restored = {}  # from here on only the network itself holds them
            if step:
                self.space = self._from.space
        self._check_writing(func, args, kwargs)
        if step == len(self._tape.asked):
            given = (_changed(one, torch.Tensor, self._placed) for one in (args, kwargs))
            self._tape.asked.append((func, *given))
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self._note(step, func, args, result)
        return result

    # -- what was done already

    def _skip(self, step: int, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        done = self._tape.steps[step]
        if done.func is not func:
            self._refuse(
                f"The network did {done.func} before and {func} now: it takes another way for "
                "other inputs, so that its statistics cannot be fixed."
            )
        if done.repeated:
            if next(_written(func, args, kwargs), None) is not None:
                self._refuse(_GONE.format(f"writes into tensors that it did not make ({func})"))
            return func(*args, **kwargs)
        if step in self._scalars:
            return self._scalars[step]
        results = [self._again(output, args) for output in done.outputs]
        return done.several(results) if done.several else results[0]

    def _again(self, output: _Output | int | None, args: tuple[Any, ...]) -> Any:
        if output is None:
            return None
        if isinstance(output, int):
            return args[output]
        storage = self._restored.get(output.key)
        # autograd marks what it is given, so each time another tensor
        return output.empty.detach() if storage is None else output.over(storage)

    # -- what is done now

    def _check_writing(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse, before it happens, that a network changes itself; notice other such writing."""
        for one in _written(func, args, kwargs):
            address = one.untyped_storage()._cdata
            if address in self._tape.held:
                self._refuse(
                    f"The network writes into its own buffers or weights ({func}), so that what it "
                    "predicts may depend on the tiles before: keep that number in a local variable "
                    "of its forward to have its statistics fixed."
                )
            if address not in self._own:
                self._tape.complete = self._tape.resumable = False

    def _answer(self, call: Call) -> Moments | None:
        if call.number != self.stop:
            return self._answer_from(call)
        self.see(call)
        self.stopped = self._pause(call.number)
        raise _Stop

    def _pause(self, number: int) -> Paused:
        if self._repeating:
            _, keys = self._tape.kept[number]
            kept = {key: self._restored[key].cpu() for key in keys}
        else:
            found = ((key, _alive(reference)) for key, reference in self._alive.items())
            kept = {key: storage.cpu() for key, storage in found if storage is not None}
            self._tape.kept[number] = self._step - 1, frozenset(kept)
        return Paused(number, self._step - 1, self.space, kept, self._scalars)

    def _note(self, step: int, func: Any, args: tuple[Any, ...], result: Any) -> None:
        """Remember where results lie; the steps themselves are the same for all inputs."""
        several = type(result) if isinstance(result, (list, tuple)) else None
        results = list(result) if several else [result]
        if not any(isinstance(one, torch.Tensor) for one in results):
            if result is not None:
                self._scalars[step] = result
                self._tape.complete = False
        elif not self._of_others(results, args):
            for number, one in enumerate(results):
                if isinstance(one, torch.Tensor):
                    storage = one.untyped_storage()
                    if storage._cdata not in self._own:
                        self._adopt((step, number), storage)
        if step == len(self._tape.steps):
            self._tape.steps.append(self._described(func, args, results, several))
        else:
            self._check(step, results)

    def _check(self, step: int, results: Sequence[Any]) -> None:
        """Refuse results that lie otherwise in memory than those of the first input."""
        for output, one in zip(self._tape.steps[step].outputs, results, strict=False):
            if isinstance(output, _Output) and (tuple(one.shape), one.stride()) != (
                output.size,
                output.stride,
            ):
                self._refuse(
                    f"The network made {output.size} in {self._tape.steps[step].func} before and "
                    f"{tuple(one.shape)} now: it takes another way for other inputs, so that its "
                    "statistics cannot be fixed."
                )

    def _placed(self, given: torch.Tensor) -> torch.Tensor | _View:
        """Where an argument lies, if this pass made it; else itself."""
        address = given.untyped_storage()._cdata
        if address in self._own:
            size, stride = tuple(given.shape), given.stride()
            offset = int(given.storage_offset())
            return _View(self._own[address], size, stride, offset, given.dtype)
        if address not in self._tape.held:
            self._tape.complete = False
        return given

    def _adopt(self, key: Key, storage: torch.UntypedStorage) -> None:
        self._own[storage._cdata] = key
        self._alive[key] = StorageWeakRef(storage)

    def _of_others(self, results: list[Any], args: tuple[Any, ...]) -> bool:
        """Whether results are views of tensors that this pass did not make."""
        held = {a.untyped_storage()._cdata for a in args if isinstance(a, torch.Tensor)}
        made = (one.untyped_storage()._cdata for one in results if isinstance(one, torch.Tensor))
        return any(cdata in held and cdata not in self._own for cdata in made)

    def _described(
        self, func: Any, args: tuple[Any, ...], results: list[Any], several: type | None
    ) -> _Step:
        if self._of_others(results, args):
            return _Step(func, repeated=True)
        outputs: list[_Output | int | None] = []
        for one in results:
            same = next((i for i, a in enumerate(args) if a is one), None)
            if same is not None or not isinstance(one, torch.Tensor):
                outputs.append(same)
            else:
                outputs.append(_place(one, self._own[one.untyped_storage()._cdata]))
        return _Step(func, tuple(outputs), several)


def _place(tensor: torch.Tensor, key: Key) -> _Output:
    size, stride = tuple(tensor.shape), tensor.stride()
    empty = torch.empty_strided(size, stride, dtype=tensor.dtype, device=tensor.device)
    empty.untyped_storage().resize_(0)
    return _Output(key, size, stride, int(tensor.storage_offset()), tensor.dtype, empty)


def _alive(reference: StorageWeakRef) -> torch.UntypedStorage | None:
    if reference.expired():
        return None
    found: torch.UntypedStorage | None = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
    return found


__all__ = ["Answer", "PausableNetwork", "Paused"]
