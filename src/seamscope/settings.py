"""What a user can choose: the settings of a run, each with the words that explain it.

Knows the name, default, choices, label and explanation of each setting. Does not know networks,
images or tiles; imports neither torch nor numpy, so that the command line can read it at once.

The explanation of a setting is written once, in `WORDS`, and shown everywhere: in the docstring of
`Settings`, in the help of the command line, in the tooltips of the docks::

    >>> WORDS["batch"].help
    'Tiles for each forward pass of the network. On a CPU, 1 is fastest.'
"""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from seamscope.errors import SettingsError
from seamscope.serialization import Recorded, restore

Auto: TypeAlias = Literal["auto"]
Blend: TypeAlias = Literal["crop", "linear", "gaussian", "distance"]
Method: TypeAlias = Literal["none", "zscore", "minmax", "percentile"]
Padding: TypeAlias = Literal["reflect", "zeros"]
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
Result: TypeAlias = Literal["probabilities", "labels"]
Seams: TypeAlias = Literal["auto", "all", "sample", "none"]


@dataclass(frozen=True)
class Words:
    """How a setting is called and explained.

    Attributes
    ----------
    label
        Its name beside a control.
    help
        A few sentences: what it is, what its values do.
    unit
        Of its numbers; empty where it has none.
    choices
        Its values, where they are few.
    """

    label: str
    help: str
    unit: str = ""
    choices: tuple[str, ...] = ()


WORDS: dict[str, Words] = {
    "tile": Words(
        "Tile",
        "Size of the window that the network reads at once, halo included: one number or one for "
        "each axis. Auto: the size that needs the least computation within the memory limit.",
        unit="pixels",
    ),
    "halo": Words(
        "Margin (halo)",
        "Border of each tile's prediction that is discarded where the tile has a neighbour: one "
        "number, one for each axis, or before and after for each axis. Auto: the reach of the "
        "network, or as much as tile and overlap leave room for.",
        unit="pixels",
    ),
    "overlap": Words(
        "Overlap",
        "Smallest width that neighbouring tiles share: one number or one for each axis. By "
        "default twice the halo, and for blends a quarter of the tile more.",
        unit="pixels",
    ),
    "blend": Words(
        "Blending",
        "How neighbouring tiles are joined. Crop: each pixel comes from one tile. Linear, "
        "gaussian and distance: mix the tiles where they overlap, which makes seams fainter and "
        "does not remove them.",
        choices=get_args(Blend),
    ),
    "batch": Words(
        "Batch",
        "Tiles for each forward pass of the network. On a CPU, 1 is fastest.",
    ),
    "device": Words(
        "Device",
        "Where the network runs: auto, cpu, cuda, cuda:1 or mps. Auto: the fastest device of this "
        "machine.",
    ),
    "precision": Words(
        "Precision",
        "Floating-point type of the computation. Types below float32 are faster on GPUs and less "
        "exact.",
        choices=get_args(Precision),
    ),
    "normalize": Words(
        "Image intensities",
        "How intensities are normalized, with statistics of the whole image and never of single "
        "tiles. Auto: what the model's card says, or none.",
        choices=get_args(Literal["auto", "zscore", "minmax", "percentile", "none"]),
    ),
    "percentiles": Words(
        "Percentiles",
        "Low and high percentile that become 0 and 1, for normalization by percentiles.",
        unit="percent",
    ),
    "result": Words(
        "Result",
        "Probabilities: the output of the network, float32. Labels: for each pixel the number of "
        "the channel with the largest value; with one channel, 1 above the threshold and 0 "
        "elsewhere; uint8, or uint16 for more than 255 channels and where the network gives the "
        "numbers itself.",
        choices=get_args(Result),
    ),
    "threshold": Words(
        "Threshold",
        "For labels of a network with one channel: pixels above the threshold are foreground.",
    ),
    "background": Words(
        "Background",
        "Channel that becomes 0 in labels, as other programs expect; the channels before it move "
        "up by 1. By default labels are the numbers of the channels.",
    ),
    "area": Words(
        "Region",
        "Part of the image to predict: first pixel and the pixel after the last, for each axis "
        "named. By default the whole image. With the same tile, halo and overlap, the result "
        "equals the same part of the whole result.",
        unit="pixels",
    ),
    "padding": Words(
        "Padding",
        "How to fill pixels outside the image where the network needs them: mirror the image, or "
        "use zeros.",
        choices=get_args(Padding),
    ),
    "channel_axis": Words(
        "Channel axis",
        "Axis of the image whose entries are the network's channels.",
    ),
    "channel": Words(
        "Channel",
        "The only channel to use, counted from 0, of an image with several. By default all.",
    ),
    "fill_nan": Words(
        "Replace NaN",
        "Intensity to use for pixels that are NaN or infinite. By default such images are refused.",
    ),
    "accelerate": Words(
        "Speed up",
        "Time equivalent, faster ways to run the network on the first tile, and use the fastest "
        "one that gives the same output.",
    ),
    "memory": Words(
        "Memory",
        "Memory that one forward pass may use, which limits the automatic tile. By default a "
        "share of the free memory.",
        unit="bytes",
    ),
    "seams": Words(
        "Measure seams",
        "Which overlaps of neighbouring tiles are compared. All: every overlap, so that every tile "
        "is predicted with its halo. Sample: the overlaps of 1 tile in 16; of the other tiles only "
        "the part that is kept is predicted, which can halve the time. None: no overlap. Auto: all "
        "where at most 4 million pixels are computed, halos included, and memory suffices; else a "
        "sample.",
        choices=get_args(Seams),
    ),
    "postprocess": Words(
        "Postprocess",
        "Apply the postprocessing of the model's card to the whole prediction after the last "
        "tile. Labels are never postprocessed.",
    ),
}


def _documented(cls: type[Settings]) -> type[Settings]:
    """Add the explanation of each setting to the docstring."""
    lines = []
    for each in dataclasses.fields(cls):
        lines += [each.name, textwrap.indent(textwrap.fill(WORDS[each.name].help, 92), " " * 4)]
    cls.__doc__ = f"{cls.__doc__}\n\nAttributes\n----------\n" + "\n".join(lines)
    return cls


@_documented
@dataclass(frozen=True)
class Settings(Recorded):
    """The settings of a run. Every setting has a default that works."""

    tile: Auto | int | Sequence[int] = "auto"
    halo: Auto | int | Sequence[int | tuple[int, int]] = "auto"
    overlap: int | Sequence[int] | None = None
    blend: Blend = "crop"
    batch: int = 1
    device: str = "auto"
    precision: Precision = "float32"
    normalize: Auto | Method = "auto"
    percentiles: tuple[float, float] = (1.0, 99.8)
    result: Result = "probabilities"
    threshold: float = 0.5
    background: int | None = None
    area: Mapping[str, tuple[int, int]] | None = None
    padding: Padding = "reflect"
    channel_axis: str = "c"
    channel: int | None = None
    fill_nan: float | None = None
    accelerate: bool = True
    memory: int | None = None
    seams: Seams = "auto"
    postprocess: bool = True

    def __post_init__(self) -> None:
        for name, words in WORDS.items():
            if words.choices:
                _check_choice(name, getattr(self, name), words.choices)
        if self.batch < 1:
            raise SettingsError(f"batch {self.batch}: a batch is 1 tile or more.")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise SettingsError(
                f"percentiles {low} and {high}: give two percentages with 0 <= low < high <= 100."
            )
        if self.memory is not None and self.memory <= 0:
            raise SettingsError(f"memory {self.memory}: give a number of bytes above 0, or None.")
        if not math.isfinite(self.threshold):
            raise SettingsError(f"threshold {self.threshold}: give a finite number.")
        for name in ("tile", "halo", "overlap", "percentiles"):
            object.__setattr__(self, name, _tuples(getattr(self, name)))
        if self.area is not None:
            area = {axis: _tuples(part) for axis, part in self.area.items()}
            object.__setattr__(self, "area", area)

    def but(self, **changes: Any) -> Settings:
        """Return these settings with some changed.

        Raises
        ------
        SettingsError
            Where there is no setting of that name.
        """
        for name in changes:
            if name not in WORDS:
                raise SettingsError(
                    f"There is no setting {name!r}: choose from {', '.join(WORDS)}."
                )
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Settings:
        """Return the settings that `to_json` wrote, or those in the record of a result.

        Raises
        ------
        SettingsError
            Where a name or a value is not one of a setting.
        """
        for key in ("seamscope", "plan", "exact", "settings"):
            inner = written.get(key)
            written = inner if isinstance(inner, Mapping) else written
        return restore(cls, written)

    @classmethod
    def load(cls, path: str | Path) -> Settings:
        """Read the settings in a JSON file: saved settings, a plan, or the record of a result.

        Raises
        ------
        SettingsError
            Where the file cannot be read or holds no settings.
        """
        try:
            written = json.loads(Path(path).expanduser().read_text(encoding="utf8"))
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"Cannot read settings from {path} ({error}): give a JSON file with settings, or "
                "the record of a result."
            ) from error
        if not isinstance(written, Mapping):
            raise SettingsError(
                f"{path} holds no settings: give a JSON file with settings, or the record of a "
                "result."
            )
        return cls.from_json(written)


def _tuples(value: Any) -> Any:
    """Return sequences as tuples, so that equal settings are equal values."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    return tuple(map(_tuples, value))


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise SettingsError(f"{name} {value!r}: choose one of {', '.join(choices)}.")


__all__ = ["WORDS", "Settings", "Words"]
