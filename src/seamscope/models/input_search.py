"""What a network takes in: number of spatial axes, channels, and one size with which it runs.

Knows how to try inputs, and how to read what a network answers to a wrong one. Does not know what
is measured once it runs.

The first trial shows the weights of the first convolution, hence axes and channels, even where
it fails. What a failed trial says is read too: "expected to have 13 channels", "does not match the
model's (384, 384)", or "size of tensor a (16) must match b (576)", which for patches of one size
means an input of 36 times as many pixels. Position parameters, one for each patch, say the same.
Where nothing runs, the error shown is that of the trial that came furthest.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from seamscope.errors import ModelError
from seamscope.models.trials import OutOfPatience, Trials, Watch
from seamscope.normalization.calls import Forward
from seamscope.text import shape_text

_SIZES = {
    1: (256, 512, 128, 257),
    2: (
        64,
        96,
        128,
        48,
        32,
        160,
        192,
        256,
        188,
        140,
        572,
        224,
        512,
        384,
        270,
        252,
        280,
        448,
        240,
        360,
        420,
        65,
        513,
    ),
    3: (16, 32, 48, 64, 24, 40, 96, 128, 92, 116, 132, 33),
}
_SIZES_OF_POSITIONS = {1: 32, 2: 32, 3: 16}  # inputs with learned positions are no smaller
_MOST_CHANNELS = 8
_SMALL = 64**2  # pixels of which several at once take little time
_LARGE = 512**2  # pixels of which a guess is tried after all usual sizes
_MOST_PIXELS = {1: 1 << 20, 2: 1500**2, 3: 260**3}


@dataclass(frozen=True)
class Hints:
    """What is known before probing; every field may be left empty.

    Attributes
    ----------
    spatial_axes, in_channels
        Where the file or the user says so.
    shape
        The one spatial shape of a network saved with fixed sizes, or that the user states.
    weights
        Shapes of the network's weights in order: the first convolution shows axes and channels.
    step
        What the user states: sizes and starts of tiles are multiples of it, for each axis.
    """

    spatial_axes: int | None = None
    in_channels: int | None = None
    shape: tuple[int, ...] | None = None
    weights: tuple[tuple[int, ...], ...] = ()
    step: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Layout:
    """Axes of a network's tensors that are not ``(N, C, *spatial)``, one letter each.

    Attributes
    ----------
    given, returned
        Of its input and its output: ``b`` batch, ``c`` channel, ``zyx``. Without ``c`` the output
        has one channel.
    """

    given: str
    returned: str

    def __str__(self) -> str:
        parts = []
        if self.given[-1] == "c":
            parts.append("takes channels last")
        if self.returned[-1] == "c":
            parts.append("returns channels last")
        if "c" not in self.returned:
            parts.append("returns no axis of channels")
        return f"The network {' and '.join(parts)}; Seamscope reorders its axes."


@dataclass(frozen=True)
class AcceptedInput:
    """An input with which a network runs."""

    channels: int
    shape: tuple[int, ...]
    batch: int
    layout: Layout | None


def arranged(forward: Forward, layout: Layout) -> Forward:
    """Return a forward pass on ``(N, C, *spatial)`` of a network with other axes."""

    def run(x: torch.Tensor) -> torch.Tensor:
        own = "bc" + "zyx"[-(x.ndim - 2) :]
        y = forward(x.permute([own.index(letter) for letter in layout.given]))
        present = [letter for letter in own if letter in layout.returned]
        y = y.permute([layout.returned.index(letter) for letter in present])
        return y if "c" in layout.returned else y.unsqueeze(1)

    return run


@dataclass(frozen=True)
class _Failure:
    """A trial that failed."""

    operations: int  # that began before it failed
    shape: tuple[int, ...]  # (C, *spatial)
    text: str

    def __str__(self) -> str:
        """What the network answers to what."""
        axes = " x ".join(("C", *"ZYX"[-(len(self.shape) - 1) :]))
        return f"For {shape_text(self.shape)} ({axes}) it answers: {self.text.rstrip('.')}"

    @property
    def of_channels(self) -> bool:
        """Whether another number of channels was expected."""
        return bool(_CHANNELS.search(self.text)) or self.features is not None

    @property
    def of_axes(self) -> bool:
        """Whether a convolution expected another number of axes."""
        return bool(re.match(r"Expected \dD \(unbatched\) or \dD \(batched\) input", self.text))

    @property
    def features(self) -> int | None:
        """Channels that a linear layer over them expects."""
        match = _FEATURES.search(self.text)
        given, expected = (int(n) for n in match.groups() if n) if match else (0, 0)
        return expected if given == self.shape[0] else None


class InputSearch:
    """Looks for an input with which a network runs.

    Parameters
    ----------
    trials
        Runs the network.
    hints
        What is known.
    """

    def __init__(self, trials: Trials, hints: Hints) -> None:
        self._trials = trials
        self._hints = hints
        self._failures: list[_Failure] = []
        self._no_image = ""
        self._looked = False
        self._seen: tuple[int, int] | None = None  # channels and axes of the first convolution

    def find(self) -> AcceptedInput:
        """Find channels and a spatial shape with which the network runs.

        Raises
        ------
        ModelError
            Where none is found; says which statement of the user would help.
        """
        try:
            if not (self._hints.spatial_axes and self._hints.in_channels):
                self._look()
            for last in (False, True):
                for axes, channels in self._candidates():
                    found = self._tried(axes, channels, last)
                    if found is not None:
                        return found
                if self._no_image:
                    break
        except OutOfPatience:
            raise ModelError(self._out_of_time()) from None
        raise ModelError(self._refusal())

    # -- candidates

    def _look(self) -> None:
        """Run something, to see the first convolution that is reached."""
        self._looked = True
        for axes in (2, 3, 1):
            side = {1: 64, 2: 64, 3: 16}[axes]
            with Watch() as watch:
                self._run(torch.zeros(1, self._hints.in_channels or 1, *[side] * axes), None)
            if watch.first is not None:
                self._seen = watch.first
                return

    def _candidates(self) -> Iterator[tuple[int, int]]:
        kernels, seen = self._kernels, self._seen
        axes = [seen[1]] if seen else [len(kernels[0]) - 2] if kernels else [2, 3]
        if self._hints.spatial_axes:
            axes = [self._hints.spatial_axes]
        first = [*([seen[0]] if seen else []), *([kernels[0][1]] if kernels else [])]
        counts = [1, 3, 2, *range(4, _MOST_CHANNELS + 1)]
        channels = [*dict.fromkeys([*first, *counts])]
        if self._hints.in_channels:
            channels = counts = [self._hints.in_channels]
        candidates = [*itertools.product(axes, channels)]
        if not self._hints.spatial_axes:  # slices of a stack may be convolved in 2D
            others = [*itertools.product({2, 3} - set(axes), counts)]
            candidates = [*candidates[:1], *others[:1], *candidates[1:], *others[1:]]
        given = set()
        for candidate in candidates:
            given.add(candidate)
            yield candidate
            for count in [] if self._hints.in_channels else self._channels_wanted():
                if (candidate[0], count) not in given:
                    given.add((candidate[0], count))
                    yield candidate[0], count

    @property
    def _kernels(self) -> list[tuple[int, ...]]:
        return [shape for shape in self._hints.weights if len(shape) in (4, 5)]

    def _channels_wanted(self) -> Iterator[int]:
        """Numbers of channels that errors name, with those that are added on the way."""
        for failure in list(self._failures):
            match = _CHANNELS.search(failure.text)
            if match:
                wanted, got = int(match[1] or match[3]), int(match[2] or match[4])
                yield wanted
                if failure.shape[0] + wanted - got > 0:
                    yield failure.shape[0] + wanted - got
                if failure.shape[0] * wanted % got == 0:
                    yield failure.shape[0] * wanted // got
            if failure.features is not None:
                yield failure.features

    def _shapes(self, axes: int) -> Iterator[tuple[int, ...]]:
        """Spatial shapes to try; what the last failure suggests comes next."""
        if self._hints.shape is not None:
            yield self._hints.shape
            return
        usual = [(size,) * axes for size in _SIZES[axes]]
        waiting = [*([] if self._is_unlikely(axes) else self._by_positions(axes)), *usual]
        given: set[tuple[int, ...]] = set()
        while waiting:
            shape = waiting.pop(0)
            if self._is_unlikely(axes) and shape not in usual[:3]:  # no time for large ones
                continue
            if shape in given or math.prod(shape) > _MOST_PIXELS[axes]:
                continue
            given.add(shape)
            before = len(self._failures)
            yield shape
            for failure in self._failures[before:]:
                waiting[:0] = [s for s in _along_one_axis(failure, axes) if s not in given]
                found = [s for s in _suggested(failure, axes) if s not in given]
                # what a guess suggests in its turn must not come before the usual sizes
                likely = [s for s in found if shape in usual and math.prod(s) <= _LARGE]
                waiting[:0] = likely
                waiting += [s for s in found if s not in likely]

    def _is_unlikely(self, axes: int) -> bool:
        return self._seen is not None and self._seen[1] != axes

    def _by_positions(self, axes: int) -> Iterator[tuple[int, ...]]:
        """Shapes for which a parameter ``(1, patches, features)`` has an entry for each patch.

        Also one of ``(1, features, *patches)``.
        """
        kernels = [s for s in self._hints.weights if len(s) == axes + 2 and s[0] > 1]
        patches = {shape[-1] for shape in kernels if shape[-1] > 1}
        for weight in self._hints.weights:
            if len(weight) == axes + 2 and weight[0] == 1 and min(weight[2:]) > 1:
                for patch in sorted(patches, reverse=True):
                    shape = tuple(n * patch for n in weight[2:])
                    if min(shape) >= _SIZES_OF_POSITIONS[axes]:  # else it is a small kernel
                        yield shape
            if len(weight) == 3 and weight[0] == 1:
                for patch, extra in itertools.product(sorted(patches, reverse=True), (0, 1)):
                    if weight[1] - extra > 1:  # else it is the token of a class
                        yield from _shapes_of(weight[1] - extra, (patch,) * axes)

    # -- one trial

    def _tried(self, axes: int, channels: int, last: bool) -> AcceptedInput | None:
        """Try sizes for so many channels; None where none is taken."""
        for shape in self._shapes(axes):
            # 3 cannot be mistaken for channels; some take only one image
            for batch in (3, 1) if math.prod(shape) <= _SMALL else (1,):
                found = self._entry(channels, shape, batch, last)
                if found is not None:
                    return found
                if self._no_image:
                    return None
                if not self._looked:  # what was stated may be wrong
                    self._look()
                failure = self._failures[-1] if self._failures else None
                if failure and (failure.of_channels or failure.of_axes):
                    return None  # no size will change that
        return None

    def _entry(
        self, channels: int, shape: tuple[int, ...], batch: int, last: bool
    ) -> AcceptedInput | None:
        own = "bc" + "zyx"[-len(shape) :]
        given = "b" + own[2:] + "c" if last else own
        whole = (batch, *shape, channels) if last else (batch, channels, *shape)
        x = torch.from_numpy(np.zeros(whole, np.float32))  # no memory until a network reads it
        y = self._run(x, (channels, *shape))
        if y is None:
            return None
        turned = tuple(y.shape[2:])
        if turned != shape and sorted(turned) == sorted(shape):  # patches in another order
            self._failures.append(_Failure(0, (channels, *shape), f"it gives {turned} px"))
            return None
        returned = self._axes_of(x, y, shape, -2 if last else -1)
        if returned is None:
            self._no_image = f"for an input of {tuple(x.shape)} it gives {tuple(y.shape)}"
            return None
        layout = None if (given, returned) == (own, own) else Layout(given, returned)
        return AcceptedInput(channels, shape, batch, layout)

    def _run(self, x: torch.Tensor, shape: tuple[int, ...] | None) -> torch.Tensor | None:
        with Watch() as watch:
            try:
                return self._trials(x)
            except (ModelError, OutOfPatience, InterruptedError):
                raise
            except ImportError as error:  # no input will change that
                raise ModelError(
                    f"The network needs a library that is not installed ({says(error)}): install "
                    "it beside Seamscope."
                ) from error
            except Exception as error:  # whatever a network raises means "not this"
                if shape is not None:
                    self._failures.append(_Failure(watch.count, shape, says(error)))
        return None

    # -- what its output is

    def _axes_of(
        self, x: torch.Tensor, y: torch.Tensor, shape: tuple[int, ...], wide: int
    ) -> str | None:
        """Axes of an output; None where it is no image. `wide` is the input's axis x."""
        found = tuple(y.shape)
        space = "zyx"[-len(shape) :]
        if not found or found[0] != x.shape[0]:
            return None
        if len(found) == len(shape) + 1 and _alike(found[1:], shape):
            return None if self._projected(x, y, shape) else "b" + space
        if len(found) != len(shape) + 2:
            return None
        last = self._channels_last(x, y, shape, wide)
        return "b" + space + "c" if last else "bc" + space

    def _projected(self, x: torch.Tensor, y: torch.Tensor, shape: tuple[int, ...]) -> bool:
        """Whether what looks like z are channels of a projection along z, which do not grow."""
        if len(shape) < 3 or _unequal(y.shape[1:], shape) == 1:
            return False
        deeper = self._run(torch.cat([x, x], -3), None)
        return deeper is not None and deeper.shape == y.shape

    def _channels_last(
        self, x: torch.Tensor, y: torch.Tensor, shape: tuple[int, ...], wide: int
    ) -> bool:
        """Whether the last axis of an output is that of channels.

        Eight classes may be the width at a scale of 1/8. An input twice as wide shows which axis
        of the output is x, unless equal scales of all axes show it already.
        """
        first, last = _unequal(y.shape[2:], shape), _unequal(y.shape[1:-1], shape)
        if first == 1 < last:
            return False
        wider = self._run(torch.cat([x, x], wide), None)
        if wider is not None and wider.ndim == y.ndim:
            grown = [a > b for a, b in zip(wider.shape[-2:], y.shape[-2:], strict=True)]
            if grown[0] != grown[1]:
                return grown[0]
        return last < first

    # -- what is said where nothing runs

    def _refusal(self) -> str:
        if self._no_image:
            return (
                f"The network gives no image: {self._no_image}. It must map (N, C, [Z,] Y, X) to "
                "(N, C', [Z',] Y', X'); wrap it in a module that does."
            )
        furthest = self._furthest()
        sizes = sorted({failure.shape[1] for failure in self._failures})
        return (
            f"The network accepts none of the inputs tried (channels {self._counts()}, sizes "
            f"{sizes[0]} to {sizes[-1]} px). {furthest}. {self._missing(furthest)}"
        )

    def _furthest(self) -> _Failure:
        """The failure of the most plausible trial."""
        return max(
            self._failures,
            key=lambda each: (not self._is_unlikely(len(each.shape) - 1), each.operations),
        )

    def _out_of_time(self) -> str:
        said = "The network ran on no input within the time given"
        if not self._failures:
            return f"{said}: raise `patience`, or state a small size that it takes (`input_size`)."
        furthest = self._furthest()
        return f"{said} (`patience`). {furthest}. {self._missing(furthest)}"

    def _counts(self) -> str:
        return ", ".join(map(str, dict.fromkeys(f.shape[0] for f in self._failures)))

    def _missing(self, furthest: _Failure) -> str:
        """Which statement of the user would help."""
        if re.search(r"missing \d+ required positional argument", furthest.text):
            return "It takes several inputs: wrap it in a module that takes one image."
        if _TYPES.search(furthest.text):
            return (
                "Its code casts numbers to another type than its weights have: take such casts "
                "(`.double()`, `.half()`, `.to(...)`) out of it."
            )
        axes = self._hints.spatial_axes
        own = {self._seen[1]} if self._seen else {len(shape) - 2 for shape in self._kernels}
        if axes and len(own) == 1 and axes not in own:
            return (
                f"{axes} spatial axes were stated (`spatial_axes`), and its convolutions have "
                f"{max(own)}: state {max(own)}, or none."
            )
        found = _CHANNELS.search(furthest.text)
        stated = self._hints.in_channels
        if furthest.of_channels and not stated:
            return "State its input `channels`."
        if found and stated == int(found[2] or found[4]):
            wanted = found[1] or found[3]
            return f"{stated} input channels were stated (`channels`): state {wanted}, or none."
        answers = {re.sub(r"\d+", "", failure.text) for failure in self._failures}
        if self._hints.shape is None:
            size = "State a size it takes (`input_size`), as in 384 or 32,64,64"
            if len(answers) == 1 and not re.search("size|shape", furthest.text, re.IGNORECASE):
                size += (
                    ". If no size changes that answer, wrap it in a module that takes "
                    "(N, C, [Z,] Y, X) float32"
                )
            return f"{size}."
        return "State another size (`input_size`), other `channels` or axes."


_CHANNELS = re.compile(
    r"to have (\d+) channels?, but got (\d+) channels?|(?:expects?|expected) (\d+) (?:input )?"
    r"channels?,? (?:but )?got (\d+)",
    re.IGNORECASE,
)
_FEATURES = re.compile(
    r"shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)|"
    r"dimensions of batch2 tensor to be: \[\d+, (\d+)\] but got: \[\d+, (\d+)\]"
)
_TYPES = re.compile(
    r"type \(\w+\) and (?:bias|weight) type \(\w+\) should be the same|same dtype|"
    r"expected scalar type|mat1 and mat2 must have the same",
)


def _alike(found: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether an output's sizes may belong to an input's: no axis is scaled by 10 times more."""
    return _unequal(found, shape) < 10


def _unequal(found: Sequence[int], shape: Sequence[int]) -> float:
    """The largest scale of an axis, as a multiple of the smallest; 1 where all are equal."""
    scales = [Fraction(a, b) for a, b in zip(found, shape, strict=True)]
    return float(max(scales) / min(scales)) if min(scales) else math.inf


def _along_one_axis(failure: _Failure, axes: int) -> Iterator[tuple[int, ...]]:
    """The same shape with the size of one axis that the error asks for."""
    shape = failure.shape[1:]
    match = re.search(
        r"tensor a \((\d+)\).*tensor b \((\d+)\) at non-singleton dimension (\d+)", failure.text
    )
    if match:
        few, many, axis = int(match[1]), int(match[2]), int(match[3]) - 2
        if 0 <= axis < axes and many > 1 and few and shape[axis] * many % few == 0:
            yield (*shape[:axis], shape[axis] * many // few, *shape[axis + 1 :])
    match = re.search(r"Expected size (\d+) but got size (\d+)", failure.text)
    if match and int(match[1]) in shape and int(match[2]) > 1:
        axis, size = shape.index(int(match[1])), int(match[2])
        if len(set(shape)) == 1:  # which axis it means is not said
            yield (size,) * axes
        yield (*shape[:axis], size, *shape[axis + 1 :])


def _suggested(failure: _Failure, axes: int) -> list[tuple[int, ...]]:
    """Shapes that an error speaks of."""
    shape = failure.shape[1:]
    found: list[tuple[int, ...]] = []
    if "must match except in dimension" in failure.text:  # of maps within: says nothing of inputs
        return found
    for group in re.findall(
        r"[(\[]((?:\d+\s*,\s*){1,4}\d+)\s*[)\]]|(\d+(?:\s*[x*×]\s*\d+)+)", failure.text
    ):
        numbers = tuple(int(n) for n in re.findall(r"\d+", group[0] or group[1]))
        if len(numbers) >= axes and min(numbers[-axes:]) >= 8:
            found.append(numbers[-axes:])
    singles = [int(n) for n in re.findall(r"(?<![\d.])\d+(?![\d.])", failure.text)]
    match = re.search(r"tensor a \((\d+)\).*tensor b \((\d+)\)", failure.text)
    pairs = [(int(match[1]), int(match[2]))] if match else list(itertools.pairwise(singles))[:8]
    match = re.search(r"shape '\[([\d, ]+)\]' is invalid for input of size (\d+)", failure.text)
    if match:
        pairs = _reshaped([int(n) for n in match[1].split(",")], int(match[2]), axes)
    for few, many in pairs:
        for extra in (0, 1):
            found += _grown(few - extra, many - extra, shape)
            found += _grown(many - extra, few - extra, shape)
    # patches counted along each axis
    found += [
        tuple(n * many // few for n in shape)
        for few, many in pairs
        if 1 < few < many and not many % few
    ]
    found += [(n,) * axes for n in singles if 32 <= n <= 2048]
    return [s for s in dict.fromkeys(found) if s != shape][:24]


def _reshaped(shape: Sequence[int], count: int, axes: int) -> list[tuple[int, int]]:
    """Positions for which a reshape asks, and those that it is given, if all else is right."""
    parts = [(n, math.prod(shape) // n) for n in shape if n]
    parts.append((math.prod(shape[-axes:]), math.prod(shape[:-axes])))
    return [(wanted, count // rest) for wanted, rest in parts if rest and count % rest == 0]


def _grown(own: int, wanted: int, shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Shapes of ``wanted / own`` times as many patches."""
    if own < 1 or wanted <= own or wanted * math.prod(shape) % own:
        return []
    each = math.prod(shape) / own  # pixels of a patch
    side = round(each ** (1 / len(shape)))
    if side < 1 or side ** len(shape) != round(each):
        return []
    return list(_shapes_of(wanted, (side,) * len(shape)))


def _shapes_of(count: int, patch: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Shapes that consist of so many patches: equal sides first, then nearly equal ones."""
    if count < 1:
        return
    axes = len(patch)
    factors = [n for n in range(1, count + 1) if count % n == 0] if count < 100_000 else []
    options = [
        sides
        for sides in itertools.product(factors, repeat=axes - 1)
        if count % math.prod(sides) == 0
    ]
    whole = [(*sides, count // math.prod(sides)) for sides in options]
    # most are as high as they are wide, and thinner along z
    whole.sort(key=lambda sides: (max(sides) / min(sides), sides))
    whole = [sides for sides in whole if max(sides) <= 8 * min(sides)]
    for sides in whole[:8]:
        yield tuple(n * p for n, p in zip(sides, patch, strict=True))


def usual_sizes(axes: int) -> tuple[int, ...]:
    """Sizes that are tried, the same along all axes."""
    return tuple(sorted(_SIZES[axes]))


def says(error: Exception) -> str:
    """What an exception says, in one line; lines of code and traces left out."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = [line for line in lines if re.match(r"[\w.]*(?:Error|Exception): ", line)]
    text = said[-1] if said else lines[-1] if len(lines) > 1 else lines[0]
    return re.sub(r"^[\w.]*(?:Error|Exception): ", "", text)[:300]


__all__ = ["AcceptedInput", "Hints", "InputSearch", "Layout", "arranged", "says", "usual_sizes"]
