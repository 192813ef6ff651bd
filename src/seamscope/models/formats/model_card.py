"""Model cards of bioimage.io, formats 0.4 and 0.5, read into one form.

Knows the fields of ``rdf.yaml``. Does not know files of weights, and runs nothing.

Both formats are described at https://bioimage-io.github.io/spec-bioimage-io/. In 0.4 axes are
letters and halos belong to tensors; in 0.5 each axis is an object of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seamscope.errors import ModelError

_LETTERS = {"batch": "b", "channel": "c", "time": "t", "index": "i"}


@dataclass(frozen=True)
class Processing:
    """One operation before or after the network: its name and keyword arguments."""

    name: str
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes
    ----------
    name
        Its identifier.
    axes
        One letter each: ``b``, ``c``, ``t``, ``i`` and ``zyx``.
    smallest, step
        Sizes along each axis; step 0 where there is one size; step None where they follow another
        tensor's.
    halo
        Along each axis.
    channel_names
        Where they are told.
    processing
        Operations, in order.
    test
        Where the test tensor is, relative to the card.
    optional
        Whether the network runs without it.
    grid
        For each axis the size of its pixels, in units of its own, and the pixels by which it is
        larger than the tensor that it follows.
    """

    name: str
    axes: str
    smallest: tuple[int | None, ...]
    step: tuple[int | None, ...]
    halo: tuple[int, ...]
    channel_names: tuple[str, ...]
    processing: tuple[Processing, ...]
    test: str | None
    optional: bool = False
    grid: tuple[tuple[float, int], ...] = ()

    @property
    def spatial(self) -> str:
        """Its spatial axes in numpy's order."""
        return "".join(letter for letter in "zyx" if letter in self.axes)

    def along(self, values: Sequence[Any], letters: str) -> tuple[Any, ...]:
        """Values of one field along the axes of these letters."""
        return tuple(values[self.axes.index(letter)] for letter in letters)

    @property
    def channels(self) -> int | None:
        """Number of channels, where it is told; 1 without a channel axis."""
        if "c" not in self.axes:
            return 1
        if self.channel_names:
            return len(self.channel_names)
        place = self.axes.index("c")
        return self.smallest[place] if self.step[place] == 0 else None


@dataclass(frozen=True)
class Card:
    """What a model card says.

    Attributes
    ----------
    name, version
        Of the model, and of the card's format.
    inputs, outputs
        In the network's order.
    weights
        For each kind of weights what the card says of them.
    """

    name: str
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    weights: Mapping[str, Mapping[str, Any]]


def read_card(told: Any, source: str) -> Card:
    """Read a card.

    Parameters
    ----------
    told
        Content of the yaml file.
    source
        What to call it.

    Raises
    ------
    ModelError
        When it is no model's, of another format, or lacks what is needed.
    """
    if not isinstance(told, Mapping) or told.get("type", "model") != "model":
        raise ModelError(f"{source} describes no model: give the package of a model.")
    if "format_version" not in told:
        raise ModelError(
            f"{source} is no model card of bioimage.io (it has no format_version): give the "
            "package of a model."
        )
    version = str(told["format_version"])
    if not re.match(r"0\.[45](\.|$)", version):
        raise ModelError(
            f"{source} is written in format {version} of bioimage.io, and 0.4 and 0.5 "
            "are read here: save it again with a current bioimageio.spec."
        )
    new = version.startswith("0.5")
    tensor = _new_tensor if new else _old_tensor
    try:
        tests = {} if new else {k: list(told.get(f"test_{k}", ())) for k in ("inputs", "outputs")}
        read = {
            kind: tuple(
                tensor(each, (tests.get(kind) or [None] * 99)[place], kind)
                for place, each in enumerate(told[kind])
            )
            for kind in ("inputs", "outputs")
        }
        name = str(told.get("name", "model"))
        return Card(name, version, read["inputs"], read["outputs"], dict(told["weights"]))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(
            f"{source} is no complete model card ({type(error).__name__}: {error}): get it again, "
            "or check it with bioimageio.spec."
        ) from error


def file_of(told: Any) -> str | None:
    """Path or address in a field that is written as text, or as a mapping with ``source``."""
    if isinstance(told, Mapping):
        told = told.get("source")
    return None if told is None else str(told)


def _processing(told: Any) -> tuple[Processing, ...]:
    return tuple(
        Processing(str(each.get("id") or each["name"]), dict(each.get("kwargs") or {}))
        for each in told or ()
    )


def _old_tensor(told: Mapping[str, Any], test: Any, kind: str) -> Tensor:
    axes = str(told["axes"])
    shape = told.get("shape") or [None] * len(axes)
    smallest: Sequence[int | None]
    step: Sequence[int | None]
    if isinstance(shape, Mapping):
        smallest = list(shape.get("min") or [None] * len(axes))
        step = list(shape.get("step") or [None] * len(axes))
    else:
        smallest, step = list(shape), [0] * len(axes)
    return Tensor(
        str(told["name"]),
        axes,
        tuple(smallest),
        tuple(step),
        tuple(told.get("halo") or [0] * len(axes)),
        (),
        _processing(told.get("preprocessing" if kind == "inputs" else "postprocessing")),
        file_of(test),
    )


def _new_tensor(told: Mapping[str, Any], test: Any, kind: str) -> Tensor:
    axes = [_axis(each) for each in told["axes"]]
    names: tuple[str, ...] = next(
        (
            tuple(map(str, each["channel_names"]))
            for each in told["axes"]
            if "channel_names" in each
        ),
        (),
    )
    return Tensor(
        str(told["id"]),
        "".join(letter for letter, *_ in axes),
        tuple(smallest for _, smallest, _, _ in axes),
        tuple(step for _, _, step, _ in axes),
        tuple(halo for _, _, _, halo in axes),
        names,
        _processing(told.get("preprocessing" if kind == "inputs" else "postprocessing")),
        file_of(told.get("test_tensor")),
        bool(told.get("optional", False)),
        tuple(map(_grid, told["axes"])),
    )


def _grid(told: Mapping[str, Any]) -> tuple[float, int]:
    """Pixel size and offset of an axis of format 0.5."""
    size = told.get("size")
    offset = size.get("offset", 0) if isinstance(size, Mapping) else 0
    return float(told.get("scale") or 1), int(offset or 0)


def _axis(told: Mapping[str, Any]) -> tuple[str, int | None, int | None, int]:
    """Letter, smallest size, step and halo of an axis of format 0.5."""
    kind = str(told["type"])
    letter = _LETTERS.get(kind) or str(told.get("id", ""))
    if kind == "space" and letter not in "zyx":
        raise ValueError(f"a spatial axis is called {letter!r}")
    size, halo = told.get("size"), int(told.get("halo") or 0)
    if kind == "channel" and "channel_names" in told:
        size = len(told["channel_names"])
    if isinstance(size, int):
        return letter, size, 0, halo
    if isinstance(size, Mapping) and "step" in size:
        return letter, int(size["min"]), int(size["step"]), halo
    return letter, None, None, halo
