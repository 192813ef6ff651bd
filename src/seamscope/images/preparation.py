"""Steps of a model card on intensities, before they enter the network.

Knows operations on single pixels, in order, some by statistics of the image. Does not know files or
networks.

"Per sample" in a model card means the image that was given to the network in training; here it is
always the whole image, never a tile, whose statistics would make every tile different. Statistics
of a later operation are those of the image after the earlier ones, measured by streaming, so that
an image of any size takes one or a few passes. Networks with several inputs take them as channels
of one image, each prepared in its own way. (bioimageio.core 0.11 takes all statistics from the
image as it is given, also those of later operations.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import SettingsError
from seamscope.images.image import Image
from seamscope.images.intensity import EPS, Intensity, measure_intensity
from seamscope.images.passes import HERE, Passes
from seamscope.progress import QUIET, Work
from seamscope.serialization import record
from seamscope.settings import Method

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Scaled:
    """``x -> x * gain + offset``; one number for all channels, or one for each."""

    gain: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)

    def apply(self, x: npt.NDArray[np.float32]) -> None:
        """Change ``(C, *spatial)`` in place."""
        column = (-1,) + (1,) * (x.ndim - 1)
        x *= np.array(self.gain, np.float32).reshape(column)
        x += np.array(self.offset, np.float32).reshape(column)


@dataclass(frozen=True)
class Clipped:
    """``x -> min(max(x, low), high)``; None for no bound."""

    low: float | None = None
    high: float | None = None

    def apply(self, x: npt.NDArray[np.float32]) -> None:
        """Change ``(C, *spatial)`` in place."""
        np.clip(x, self.low, self.high, out=x)


@dataclass(frozen=True)
class Binarized:
    """``x -> 1 where x is above a threshold, else 0``; one number, or one for each channel."""

    threshold: tuple[float, ...]

    def apply(self, x: npt.NDArray[np.float32]) -> None:
        """Change ``(C, *spatial)`` in place."""
        column = (-1,) + (1,) * (x.ndim - 1)
        np.copyto(x, x > np.array(self.threshold, np.float32).reshape(column))


@dataclass(frozen=True)
class Measured:
    """``x -> (x - offset) / (spread + eps)`` by statistics of the whole image.

    Attributes
    ----------
    method
        ``"zscore"``, ``"minmax"`` or ``"percentile"``, as in `seamscope.images.intensity`.
    percentiles
        Low and high, in percent.
    eps
        Added to the spread.
    together
        Whether all channels are measured as one.
    """

    method: Method
    percentiles: tuple[float, float] = (0.0, 100.0)
    eps: float = EPS
    together: bool = False


@dataclass(frozen=True)
class Unknown:
    """A step of a model card that does not exist here: a run is refused, unless it may be left out.

    Attributes
    ----------
    why
        A sentence.
    """

    why: str

    def refuse(self) -> NoReturn:
        """Say that intensities cannot be prepared in this way.

        Raises
        ------
        SettingsError
            Always.
        """
        raise SettingsError(
            f"{self.why} Prepare the image yourself and choose no normalization "
            "(`normalize='none'`), or choose another one."
        )


@dataclass(frozen=True)
class ByInput:
    """Several inputs, which are consecutive channels of one image, each prepared by itself.

    Attributes
    ----------
    parts
        For each input its number of channels and its preparation, in order.
    """

    parts: tuple[tuple[int, Preparation], ...]

    def ranges(self) -> Iterator[tuple[slice, Preparation]]:
        """Yield channels and preparation of each input."""
        start = 0
        for count, preparation in self.parts:
            yield slice(start, start + count), preparation
            start += count

    def measure(
        self,
        image: Image,
        *,
        channel_axis: int | None,
        work: Work = QUIET,
        passes: Passes = HERE,
    ) -> PreparedByInput:
        """Measure each input on its own channels of the whole image.

        Parameters
        ----------
        image, channel_axis, work, passes
            As for `Preparation.measure`.

        Raises
        ------
        SettingsError
            When the image has another number of channels than all inputs together.
        """
        self._check(1 if channel_axis is None else image.shape[channel_axis])
        return PreparedByInput(
            tuple(
                (part, each.measure(_channels(image, channel_axis, part),
                                    channel_axis=channel_axis, work=work, passes=passes))
                for part, each in self.ranges()
            )
        )  # fmt: skip

    def _check(self, channels: int) -> None:
        wanted = [count for count, _ in self.parts]
        if sum(wanted) != channels:
            raise SettingsError(
                f"The network's inputs have {' + '.join(map(str, wanted))} channels, and the image "
                f"has {channels}: give an image whose channels are those of all inputs, in order."
            )


Step: TypeAlias = Scaled | Clipped | Binarized | Measured | ByInput | Unknown


@dataclass(frozen=True)
class Preparation:
    """Operations in order.

    Attributes
    ----------
    steps
        The steps.
    """

    steps: tuple[Step, ...]

    @property
    def name(self) -> str | None:
        """The method of `seamscope.images.intensity` that does the same; None where none does."""
        plain = {"zscore": Measured("zscore"), "minmax": Measured("minmax")}
        return next((name for name, step in plain.items() if self.steps == (step,)), None)

    def measure(
        self,
        image: Image,
        *,
        channel_axis: int | None,
        work: Work = QUIET,
        passes: Passes = HERE,
    ) -> Prepared:
        """Measure what its steps need over the whole image.

        Parameters
        ----------
        image, channel_axis, work, passes
            As for `seamscope.images.intensity.measure_intensity`.
        """
        done: list[Known] = []
        for step in self.steps:
            if isinstance(step, Unknown):
                step.refuse()
            view = _after(image, Prepared(tuple(done)), channel_axis) if done else image
            if isinstance(step, ByInput):
                done.append(step.measure(view, channel_axis=channel_axis, work=work, passes=passes))
            elif isinstance(step, Measured):
                axis = None if step.together else channel_axis
                intensity = measure_intensity(
                    view,
                    step.method,
                    channel_axis=axis,
                    percentiles=step.percentiles,
                    work=work,
                    passes=passes,
                )
                done.append(_with_eps(intensity, step.eps))
            else:
                done.append(step)
        return Prepared(tuple(done))

    def __str__(self) -> str:
        return ", ".join(map(_step_text, self.steps)) or "as they are"

    def to_json(self) -> list[dict[str, Any]]:
        """Return the steps in order, each named by its class."""
        return list(map(_step_json, self.steps))


@dataclass(frozen=True)
class PreparedByInput:
    """Preparations of several inputs, which are channels of one image.

    Attributes
    ----------
    parts
        Channels of each input, and the steps on them.
    """

    parts: tuple[tuple[slice, Prepared], ...]

    def apply(self, block: Array, out: npt.NDArray[np.float32]) -> None:
        """Write the prepared block into `out`; both ``(C, *spatial)``."""
        for channels, prepared in self.parts:
            prepared.apply(block[channels], out[channels])

    def to_json(self) -> dict[str, Any]:
        """Return the preparations in the order of the inputs."""
        return record(method="by input", inputs=[each for _, each in self.parts])


Known: TypeAlias = Scaled | Clipped | Binarized | Intensity | PreparedByInput


@dataclass(frozen=True)
class Prepared:
    """A preparation whose statistics are known: applied to any block of the image alike.

    Attributes
    ----------
    steps
        The steps; statistics as `Intensity`.
    """

    steps: tuple[Known, ...]

    def apply(self, block: Array, out: npt.NDArray[np.float32]) -> None:
        """Write the prepared block into `out`; both ``(C, *spatial)``."""
        source: Array = block
        for step in self.steps:
            if isinstance(step, (Intensity, PreparedByInput)):
                step.apply(source, out)
            else:
                if source is not out:
                    np.copyto(out, source, casting="unsafe")
                step.apply(out)
            source = out
        if source is not out:
            np.copyto(out, source, casting="unsafe")

    def to_json(self) -> dict[str, Any]:
        """Return the steps; one without a name of its own is named by its class."""
        steps = [
            step
            if isinstance(step, (Intensity, PreparedByInput))
            else record(method=type(step).__name__.lower(), **vars(step))
            for step in self.steps
        ]
        return record(method="model", steps=steps)


def _with_eps(intensity: Intensity, eps: float) -> Intensity:
    # a constant channel has divisor 1 and stays so: it becomes 0 with any eps
    divisor = tuple(d if d == 1.0 else d - EPS + eps for d in intensity.divisor)
    return dataclasses.replace(intensity, divisor=divisor)


def _step_json(step: Step) -> dict[str, Any]:
    if isinstance(step, ByInput):
        inputs = [{"channels": n, "steps": each} for n, each in step.parts]
        return record(step="by input", inputs=inputs)
    return record(step=type(step).__name__.lower(), **vars(step))


def _step_text(step: Step) -> str:
    if isinstance(step, Unknown):
        return "in a way that is not known here"
    if isinstance(step, ByInput):
        parts = [f"{_channel_words(part)} {each}" for part, each in step.ranges()]
        return "; ".join(parts)
    if isinstance(step, Measured):
        low, high = step.percentiles
        whole = (low, high) == (0.0, 100.0)
        how = f"percentiles {low:g} to {high:g}" if step.method == "percentile" and not whole else (
            {"zscore": "z-score"}.get(step.method, "minimum to maximum")
        )  # fmt: skip
        return how + (" over all channels" if step.together else "")
    if isinstance(step, Scaled):
        return f"x * {_numbers(step.gain)} + {_numbers(step.offset)}"
    if isinstance(step, Clipped):
        return f"clipped to [{step.low}, {step.high}]"
    return f"1 above {_numbers(step.threshold)}"


def _channel_words(part: slice) -> str:
    last = part.stop - 1
    return f"channel {last}:" if part.start == last else f"channels {part.start} to {last}:"


def _numbers(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"({', '.join(f'{v:g}' for v in values)})"


def _after(image: Image, prepared: Prepared, channel_axis: int | None) -> Image:
    """View of an image as it is after some steps."""
    return dataclasses.replace(image, data=_PreparedView(image, prepared, channel_axis), _kept=None)


def _channels(image: Image, channel_axis: int | None, part: slice) -> Image:
    """View of some channels of an image."""
    if channel_axis is None:
        return image
    return dataclasses.replace(image, data=_ChannelsView(image, channel_axis, part), _kept=None)


class _ChannelsView:
    """Array-like: some of an image's channels, read when indexed."""

    def __init__(self, image: Image, axis: int, part: slice) -> None:
        self._image, self._axis, self._start = image, axis, part.start
        count = part.stop - part.start
        self.shape = (*image.shape[:axis], count, *image.shape[axis + 1 :])
        self.ndim, self.dtype = image.ndim, image.dtype

    def __getitem__(self, index: tuple[Any, ...]) -> Array:
        own = index[self._axis]  # blocks are read by slices, never by numbers
        moved = slice(own.start + self._start, own.stop + self._start)
        return self._image.read((*index[: self._axis], moved, *index[self._axis + 1 :]))


class _PreparedView:
    """Array-like: an image whose blocks are prepared when they are read."""

    def __init__(self, image: Image, prepared: Prepared, channel_axis: int | None) -> None:
        self._image, self._prepared, self._axis = image, prepared, channel_axis
        self.shape, self.ndim = image.shape, image.ndim
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, index: tuple[Any, ...]) -> Array:
        block = self._image.read(index)  # blocks are read by slices, never by numbers
        given = block[None] if self._axis is None else np.moveaxis(block, self._axis, 0)
        if self._axis is not None:
            given = self._all_channels(given, index[self._axis])
        out = np.empty(given.shape, np.float32)
        self._prepared.apply(given, out)
        if self._axis is None:
            whole: Array = out[0]
            return whole
        part = out[index[self._axis]] if len(out) != block.shape[self._axis] else out
        return np.moveaxis(part, 0, self._axis)

    def _all_channels(self, given: Array, part: Any) -> Array:
        """Give steps with one number for each channel as many channels as they know."""
        channels = self.shape[self._axis] if self._axis is not None else 1
        if given.shape[0] == channels:
            return given
        whole = np.zeros((channels, *given.shape[1:]), given.dtype)
        whole[part] = given
        return whole
