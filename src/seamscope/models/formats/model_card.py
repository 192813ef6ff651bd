"""Model cards of bioimage.io, formats 0.4 and 0.5, read into one form.

Knows the fields of ``rdf.yaml``. Does not know files of weights, and runs nothing.

Both formats are described at https://bioimage-io.github.io/spec-bioimage-io/. In 0.4 axes are
letters and halos belong to tensors; in 0.5 each axis is an object of its own. What a card leaves
out has the value that the specification gives it: a tensor is called ``input`` or ``output``, an
axis by its type, and a spatial axis ``x``. Where that would call two axes the same, which no valid
card does, spatial axes are z, y, x in their order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
        Where the card names them.
    processing
        Operations, in order.
    test
        Where the test tensor is, relative to the card.
    optional
        Whether the network runs without it.
    grid
        For each axis the size of its pixels, in units of its own, and the pixels by which it is
        larger than the tensor that it follows.
    ids
        What the card calls each axis.
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
    ids: tuple[str, ...] = ()

    def letters(self, axes: Any) -> str:
        """Letters of axes that an operation names; all of them where it names none."""
        if axes is None:
            return self.axes
        names = {"batch": "b", "channel": "c", **dict(zip(self.ids, self.axes, strict=False))}
        return "".join(names.get(str(each), str(each)) for each in axes)

    @property
    def spatial(self) -> str:
        """Its spatial axes in numpy's order."""
        return "".join(letter for letter in "zyx" if letter in self.axes)

    def along(self, values: Sequence[Any], letters: str) -> tuple[Any, ...]:
        """Values of one field along the axes of these letters."""
        return tuple(values[self.axes.index(letter)] for letter in letters)

    @property
    def channels(self) -> int | None:
        """Number of channels, where the card says it; 1 without a channel axis."""
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


def read_card(entry: Any, source: str) -> Card:
    """Read a card.

    Parameters
    ----------
    entry
        Content of the yaml file.
    source
        What to call it.

    Raises
    ------
    ModelError
        When it is no model's, of another format, or lacks what is needed.
    """
    if not isinstance(entry, Mapping) or entry.get("type", "model") != "model":
        raise ModelError(f"{source} describes no model: give the package of a model.")
    if "format_version" not in entry:
        raise ModelError(
            f"{source} is no model card of bioimage.io (it has no format_version): give the "
            "package of a model."
        )
    version = str(entry["format_version"])
    if not re.match(r"0\.[45](\.|$)", version):
        raise ModelError(
            f"{source} is written in format {version} of bioimage.io, and 0.4 and 0.5 "
            "are read here: save it again with a current bioimageio.spec."
        )
    new = version.startswith("0.5")
    tensor = _new_tensor if new else _old_tensor
    try:
        tests = {} if new else {k: list(entry.get(f"test_{k}", ())) for k in ("inputs", "outputs")}
        read = {
            kind: tuple(
                tensor(each, _at(tests.get(kind), place), kind, place)
                for place, each in enumerate(entry[kind])
            )
            for kind in ("inputs", "outputs")
        }
        read["inputs"] = tuple(_resolved(each, read["inputs"], entry) for each in read["inputs"])
        name = str(entry.get("name", "model"))
        return Card(name, version, read["inputs"], read["outputs"], dict(entry["weights"]))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(
            f"{source} is no complete model card ({type(error).__name__}: {error}): get it again, "
            "or check it with bioimageio.spec."
        ) from error


def _at(values: Sequence[Any] | None, place: int) -> Any:
    return values[place] if values and place < len(values) else None


def file_of(entry: Any) -> str | None:
    """Path or address in a field that is written as text, or as a mapping with ``source``."""
    if isinstance(entry, Mapping):
        entry = entry.get("source")
    return None if entry is None else str(entry)


def _processing(entries: Any, defaults: Mapping[str, Mapping[str, Any]]) -> tuple[Processing, ...]:
    found = []
    for each in entries or ():
        name = str(each.get("id") or each["name"])
        kwargs = {**defaults.get(name, {}), **(each.get("kwargs") or {})}
        found.append(Processing(name, kwargs))
    return tuple(found)


# The only default of 0.4 that changes what an operation does; others are those of 0.5.
_OLD_DEFAULTS = {"zero_mean_unit_variance": {"mode": "fixed"}}


def _old_tensor(entry: Mapping[str, Any], test: Any, kind: str, place: int) -> Tensor:
    axes = str(entry["axes"])
    shape = entry.get("shape") or [None] * len(axes)
    smallest: Sequence[int | None]
    step: Sequence[int | None]
    if isinstance(shape, Mapping) and "scale" in shape:
        # of an output: the input's size times scale plus twice the offset
        new = [not scale for scale in shape["scale"]]  # an axis that the input lacks
        smallest = [
            int(2 * offset) if own else None
            for own, offset in zip(new, shape["offset"], strict=True)
        ]
        step = [0 if own else None for own in new]
    elif isinstance(shape, Mapping):
        smallest = list(shape.get("min") or [None] * len(axes))
        step = list(shape.get("step") or [None] * len(axes))
    else:
        smallest, step = list(shape), [0] * len(axes)
    operations = entry.get("preprocessing" if kind == "inputs" else "postprocessing")
    return Tensor(
        str(entry["name"]),
        axes,
        tuple(smallest),
        tuple(step),
        tuple(entry.get("halo") or [0] * len(axes)),
        (),
        _processing(operations, _OLD_DEFAULTS),
        file_of(test),
    )


def _new_tensor(entry: Mapping[str, Any], test: Any, kind: str, place: int) -> Tensor:
    letters, ids = _letters(entry["axes"])
    sizes = [_size(each) for each in entry["axes"]]
    names: tuple[str, ...] = next(
        (
            tuple(map(str, each["channel_names"]))
            for each in entry["axes"]
            if "channel_names" in each
        ),
        (),
    )
    operations = entry.get("preprocessing" if kind == "inputs" else "postprocessing")
    default = f"{kind.removesuffix('s')}{place or ''}"
    return Tensor(
        str(entry.get("id") or default),
        letters,
        tuple(smallest for smallest, _ in sizes),
        tuple(step for _, step in sizes),
        tuple(int(each.get("halo") or 0) for each in entry["axes"]),
        names,
        _processing(operations, {}),
        file_of(entry.get("test_tensor")),
        bool(entry.get("optional", False)),
        tuple(map(_grid, entry["axes"])),
        ids,
    )


def _letters(axes: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[str, ...]]:
    """Letters and names of a tensor's axes in format 0.5."""
    kinds = [str(each["type"]) for each in axes]
    count = kinds.count("space")
    if count > 3:
        raise ValueError(f"{count} spatial axes")
    spatial = [
        str(each.get("id", "x")) for each, kind in zip(axes, kinds, strict=True) if kind == "space"
    ]
    if set(spatial) <= set("zyx") and len(set(spatial)) == count:
        letters = list(spatial)
    else:  # named otherwise, or not at all
        letters = list("zyx"[3 - count :])
    found, ids = "", []
    for each, kind in zip(axes, kinds, strict=True):
        letter = letters.pop(0) if kind == "space" else _LETTERS[kind]
        found += letter
        ids.append(str(each.get("id") or (letter if kind == "space" else kind)))
    return found, tuple(ids)


def _grid(entry: Mapping[str, Any]) -> tuple[float, int]:
    """Pixel size and offset of an axis of format 0.5."""
    size = entry.get("size")
    offset = size.get("offset", 0) if isinstance(size, Mapping) else 0
    return float(entry.get("scale") or 1), int(offset or 0)


def _size(entry: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Smallest size and step of an axis of format 0.5; None where it follows another axis."""
    size = entry.get("size")
    if entry["type"] == "channel" and "channel_names" in entry:
        size = len(entry["channel_names"])
    if isinstance(size, int):
        return size, 0
    if isinstance(size, Mapping) and "step" in size:
        return int(size["min"]), int(size["step"])
    return None, None


def _resolved(tensor: Tensor, inputs: Sequence[Tensor], entry: Mapping[str, Any]) -> Tensor:
    """Return an input with the sizes of the axes that its own refer to (format 0.5).

    ``size = reference size * reference scale / scale + offset``, rounded down.
    """
    if not tensor.grid:
        return tensor
    place = [each.name for each in inputs].index(tensor.name)
    smallest, step = list(tensor.smallest), list(tensor.step)
    for axis, each in enumerate(entry["inputs"][place]["axes"]):
        size = each.get("size")
        if not isinstance(size, Mapping) or "axis_id" not in size:
            continue
        other = next((one for one in inputs if one.name == size.get("tensor_id")), None)
        if other is None or str(size["axis_id"]) not in other.ids:
            raise ValueError(f"{tensor.name} refers to an axis {dict(size)} that is not there")
        at = other.ids.index(str(size["axis_id"]))
        own_smallest, own_step = other.smallest[at], other.step[at]
        ratio = other.grid[at][0] / tensor.grid[axis][0]
        if own_smallest is not None and own_step is not None and (own_step * ratio) % 1 == 0:
            smallest[axis] = int(own_smallest * ratio) + tensor.grid[axis][1]
            step[axis] = int(own_step * ratio)
    return replace(tensor, smallest=tuple(smallest), step=tuple(step))
