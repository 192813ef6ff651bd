"""Networks with other inputs and outputs, wrapped: image in, image out.

Knows orders of axes, choices among outputs, and what is done to each pixel of a prediction. Does
not know formats.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from seamscope.errors import ModelError
from seamscope.models.ends import without_ends
from seamscope.models.speed.fusion import graph_of
from seamscope.models.trials import Expected


class Wrapper(nn.Module):
    """A module around another; its weights keep the names they have inside.

    So that a network has the same fingerprint however it was loaded.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = False

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Weights and buffers of the module inside, by its own names."""
        return self.inner.state_dict(*args, **kwargs)

    def train(self, mode: bool = True) -> Wrapper:
        """Set the mode of the module inside, as far as it has one."""
        evaluate(self.inner) if not mode else self.inner.train(mode)
        self.training = mode
        return self


def evaluate(module: nn.Module) -> nn.Module:
    """Set a module to evaluation; exported programs have one mode and raise an error."""
    try:
        module.eval()
    except NotImplementedError:
        module.training = False
    return module


class FixedBatch(Wrapper):
    """A network that takes batches of one size: others are cut, or filled up to it.

    Networks are often exported for a single image.

    Parameters
    ----------
    inner
        The network.
    size
        Images in a batch; None where any number will do.
    """

    def __init__(self, inner: nn.Module, size: int | None) -> None:
        super().__init__(inner)
        self.size = size

    @property
    def graph_batch(self) -> int | None:
        """Images that its graph takes."""
        return self.size

    def as_graph(self) -> fx.GraphModule:
        """Return the graph of the network inside."""
        return graph_of(self.inner)

    def forward(self, x: torch.Tensor) -> Any:
        """Run the network on any number of images."""
        if self.size is None or x.shape[0] == self.size:
            return self.inner(x)
        return _joined([self._run(part, self.size) for part in x.split(self.size)])

    def _run(self, part: torch.Tensor, size: int) -> Any:
        count = part.shape[0]
        if count == size:
            return self.inner(part)
        filled = torch.cat([part, part[-1:].expand(size - count, *part.shape[1:])])
        return _each(self.inner(filled), lambda y: y[:count])


def _joined(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return {key: _joined([part[key] for part in parts]) for key in first}
    return tuple(_joined(each) for each in zip(*parts, strict=True))


def _each(output: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(output, torch.Tensor):
        return change(output)
    if isinstance(output, Mapping):
        return {key: _each(value, change) for key, value in output.items()}
    return tuple(_each(value, change) for value in output)


class Chosen(Wrapper):
    """One of several outputs of a network.

    Parameters
    ----------
    inner
        The network; returns a tuple, a list or a mapping.
    key
        Name or number of the output; negative numbers count from the end.
    """

    def __init__(self, inner: nn.Module, key: str) -> None:
        super().__init__(inner)
        self.key = key

    def forward(self, x: torch.Tensor) -> Any:
        """Run the network and choose."""
        return chosen(self.inner(x), self.key)


def outputs_of(output: Any) -> dict[str, torch.Tensor]:
    """Return all tensors that a network gives, by name.

    Names are keys of mappings, fields of dataclasses and named tuples, and numbers; those of nested
    ones are joined by a dot. What is no tensor is left out.

    Examples
    --------
    >>> y = torch.zeros(1)
    >>> list(outputs_of({"out": y, "deep": [y, (y, None)]}))
    ['out', 'deep.0', 'deep.1.0']
    """
    return dict(_named(output, ""))


def _named(output: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(output, torch.Tensor):
        yield name or "0", output
        return
    dot = f"{name}." if name else ""
    for key, value in _members(output):
        yield from _named(value, f"{dot}{key}")


def _members(output: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(output, Mapping):
        return [(str(key), value) for key, value in output.items()]
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [(f.name, getattr(output, f.name)) for f in dataclasses.fields(output)]
    if isinstance(output, tuple | list):
        names = getattr(output, "_fields", None) or range(len(output))
        return [(str(name), value) for name, value in zip(names, output, strict=True)]
    return []


def chosen(output: Any, key: str) -> torch.Tensor:
    """Return one of several outputs, by its name (see `outputs_of`) or its number.

    Raises
    ------
    ModelError
        Where there is none of that name; lists those there are.
    """
    found = outputs_of(output)
    if key in found:
        return found[key]
    members = dict(_members(output))
    if key in members:  # a branch with one tensor
        inside = outputs_of(members[key])
        if len(inside) == 1:
            return next(iter(inside.values()))
    if key.lstrip("-").isdigit() and -len(found) <= int(key) < len(found):
        return list(found.values())[int(key)]
    listed = ", ".join(f"#{name}" for name in found) or "none"
    raise ModelError(f"The network has no output {key!r}. Its outputs: {listed}.")


def one_output(
    module: nn.Module, names: Sequence[str], wanted: str | None, source: str
) -> tuple[nn.Module, tuple[str, ...]]:
    """Show one of several outputs that a network returns as a tuple; by default the first.

    Parameters
    ----------
    module
        The network.
    names
        Of its outputs, in order.
    wanted
        Name or number of the one that is wanted.
    source
        What to call the network's file.

    Returns
    -------
    module
        Returns the one.
    notes
        What its user should know.
    """
    place = place_of(names, wanted, source)
    return Chosen(module, str(place)), outputs_note(names, wanted)


def place_of(names: Sequence[str], wanted: str | None, source: str) -> int:
    """Return the number of an output, given by name or number; the first where none is wanted.

    Raises
    ------
    ModelError
        When there is none of that name.
    """
    if wanted is None:
        return 0
    if wanted in names:
        return list(names).index(wanted)
    count = len(names)
    if wanted.lstrip("-").isdigit() and -count <= int(wanted) < count:
        return int(wanted) % count
    raise ModelError(f"{source} has no output {wanted!r}: choose #{', #'.join(names)}.")


def outputs_note(names: Sequence[str], wanted: str | None) -> tuple[str, ...]:
    """Say that there are further outputs, where none was chosen."""
    if wanted is not None or len(names) < 2:
        return ()
    others = ", ".join(f"#{name}" for name in names[1:])
    return (
        f"It has {len(names)} outputs; {names[0]} is shown. Add {others} to the model's name for "
        "another.",
    )


class Trimmed(Wrapper):
    """A network that gives more pixels than its input has: those beyond its ends are left out.

    Parameters
    ----------
    inner
        The network.
    cut
        Output pixels ``(before, after)`` of each spatial axis.
    """

    def __init__(self, inner: nn.Module, cut: Sequence[tuple[int, int]]) -> None:
        super().__init__(inner)
        self.cut = tuple(cut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network on ``(N, C, *spatial)``."""
        from seamscope.models.single import single_tensor

        return without_ends(single_tensor(self.inner(x)), self.cut)


class Rearranged(Wrapper):
    """A network whose tensors have other axes than ``(N, C, *spatial)``.

    Parameters
    ----------
    inner
        The network.
    given, returned
        Axes of its input and its output, one letter each: ``b`` batch, ``c`` channel, ``zyx``.
        Without ``b`` it is run once for each image; without ``c`` images have one channel.
    flat
        Axes of its output that have size 1 and are left out.
    """

    def __init__(self, inner: nn.Module, given: str, returned: str, flat: str = "") -> None:
        super().__init__(inner)
        self.given, self.returned, self.flat = given, returned, flat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network on ``(N, C, *spatial)``."""
        if "b" in self.given:
            return self._from(self.inner(self._to(x)))
        return torch.cat([self._from(self.inner(self._to(each[None]))) for each in x])

    def _to(self, x: torch.Tensor) -> torch.Tensor:
        own = _own_axes(self.given)
        for letter in "bc":
            if letter not in self.given:
                x, own = x.squeeze(own.index(letter)), own.replace(letter, "")
        return x.permute([own.index(letter) for letter in self.given])

    def _from(self, y: torch.Tensor) -> torch.Tensor:
        returned = self.returned
        for letter in self.flat:
            y, returned = y.squeeze(returned.index(letter)), returned.replace(letter, "")
        wanted = _own_axes(returned)
        present = [letter for letter in wanted if letter in returned]
        y = y.permute([returned.index(letter) for letter in present])
        for place, letter in enumerate(wanted):
            if letter not in returned:
                y = y.unsqueeze(place)
        return y


def _own_axes(axes: str) -> str:
    return "bc" + "".join(letter for letter in "zyx" if letter in axes)


class SplitInput(Wrapper):
    """A network with several inputs: channels of one image, in order.

    Parameters
    ----------
    inner
        The network; takes one tensor ``(N, C_i, *spatial)`` after another.
    channels
        Channels of each input; None for an optional one that is not given.
    """

    def __init__(self, inner: nn.Module, channels: Sequence[int | None]) -> None:
        super().__init__(inner)
        self.channels = list(channels)

    def forward(self, x: torch.Tensor) -> Any:
        """Run the network on all channels side by side."""
        parts: list[torch.Tensor | None] = []
        start = 0
        for count in self.channels:
            parts.append(None if count is None else x.narrow(1, start, count))
            start += count or 0
        return self.inner(*parts)


class WithoutChance(Wrapper):
    """A network whose random draws are replaced by their expected value: dropout does nothing."""

    def forward(self, x: torch.Tensor) -> Any:
        """Run the network."""
        with Expected():
            return self.inner(x)


def one_image(shapes: Sequence[Sequence[int | None]], kind: str) -> list[int | None]:
    """Shape of the one image whose channels are all inputs of a network.

    Parameters
    ----------
    shapes
        ``(N, C, *spatial)`` of each input; None for sizes that are free.
    kind
        What the network is, as a sentence begins: ``"The ONNX graph"``.

    Raises
    ------
    ModelError
        When they cannot be channels of one image.
    """
    first = shapes[0] if shapes else ()
    if len(shapes) == 1:
        return list(first)
    shown = ", ".join(str(tuple("?" if n is None else n for n in shape)) for shape in shapes)
    alike = all(
        len(shape) == len(first) > 2
        and all(a == b or None in (a, b) for a, b in zip(shape[2:], first[2:], strict=True))
        for shape in shapes
    )
    channels = [shape[1] for shape in shapes if len(shape) > 1]
    if not shapes or not alike or None in channels:
        raise ModelError(
            f"{kind} takes {len(shapes)} tensors ({shown or 'none'}), which cannot be channels of "
            "one image: export a module that takes one image (N, C, [Z,] Y, X)."
        )
    sizes = [next((n for n in each if n is not None), None) for each in zip(*shapes, strict=True)]
    return [sizes[0], sum(n for n in channels if n is not None), *sizes[2:]]


class Finished(Wrapper):
    """A network followed by operations on each pixel of its prediction.

    Parameters
    ----------
    inner
        The network.
    steps
        Modules, applied in order.
    """

    def __init__(self, inner: nn.Module, steps: Sequence[nn.Module]) -> None:
        super().__init__(inner)
        self.steps = nn.ModuleList(copy.deepcopy(list(steps)))

    def forward(self, x: torch.Tensor) -> Any:
        """Run the network and finish its prediction."""
        y = self.inner(x)
        for step in self.steps:
            y = step(y)
        return y


class Linear(nn.Module):
    """``y -> y * gain + offset`` for each channel, or for all."""

    def __init__(self, gain: Sequence[float], offset: Sequence[float]) -> None:
        super().__init__()
        self.gain, self.offset = tuple(gain), tuple(offset)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """Scale a prediction ``(N, C, *spatial)``."""
        scaled: torch.Tensor = y * self._column(self.gain, y) + self._column(self.offset, y)
        return scaled

    @staticmethod
    def _column(values: tuple[float, ...], y: torch.Tensor) -> Any:
        if len(values) == 1:
            return values[0]
        return y.new_tensor(values).view(1, -1, *[1] * (y.ndim - 2))


class Clip(nn.Module):
    """``y -> min(max(y, low), high)``; NaN stays NaN, so that reach can be measured through it."""

    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """Clip a prediction."""
        clipped: torch.Tensor = y.clamp(self.low, self.high)
        return clipped


class Above(nn.Module):
    """``y -> 1 where y is above a threshold, else 0``."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """Threshold a prediction."""
        above: torch.Tensor = y > self.threshold
        return above.to(y.dtype)
