"""Fixed statistics: mean and variance of a network's features over a whole image.

Knows how means and variances of parts are merged, how they vary over an image, and their file.
Does not know networks, the order of tiles, or how features are computed.

Statistics belong to the *windows* of a grid that is fixed in the image and does not depend on the
tiling. If one window is the whole image, the network predicts as in an untiled run. Smaller
windows, somewhat larger than training patches, are interpolated to every pixel: the network then
receives statistics as in training. Tiles still agree, because a pixel's statistics do not depend on
its tile.

Counts, means and sums of squares are merged in float64 (Chan, Golub and LeVeque 1983, "Algorithms
for computing the sample variance", eq. 2.1).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from seamscope.errors import ModelError, OutputError, SettingsError
from seamscope.files import write_file
from seamscope.images.open import is_image_file
from seamscope.normalization.calls import Call, Moments
from seamscope.text import shape_text

Floats: TypeAlias = npt.NDArray[np.float64]
How: TypeAlias = Literal["exact", "local", "sampled"]

PATCH = {1: 1024, 2: 128, 3: 64}
"""By spatial axes: pixels along each of about the patches that networks are trained with."""

_FORMAT = "seamscope statistics 2"
_IN_CACHE = 1 << 17  # numbers
# How an image is read for a network, in words.
_SEEN = {
    "normalize": "intensities normalized by {}",
    "percentiles": "percentiles {}",
    "channel_axis": "channels along {}",
    "channel": "channel {}",
    "fill_nan": "{} for what is not finite",
    "padding": "padding by {}",
}


@dataclass(frozen=True)
class LayerStatistics:
    """Mean and variance of one layer's features.

    Attributes
    ----------
    call
        Number of the layer's call in a forward pass.
    name, kind
        Of the layer, where known.
    mean, var
        ``(groups, *windows)``, float64; `var` is the population variance.
    count
        ``(*windows)`` values that each was taken over.
    centres
        Where the windows' middles lie along each axis, in pixels of the features, ascending.
    scale
        Pixels of the features for each pixel of input, along each axis.
    """

    call: int
    name: str | None
    kind: str
    mean: Floats
    var: Floats
    count: Floats
    centres: tuple[tuple[float, ...], ...]
    scale: tuple[Fraction, ...]

    @property
    def uniform(self) -> bool:
        """Whether they are the same everywhere."""
        return self.count.size == 1

    @property
    def average(self) -> tuple[Floats, Floats]:
        """Mean and variance ``(groups,)`` over all windows, as often as a pixel lies in one.

        Over the whole image, each pixel once, where there is one window.
        """
        return _merged(self.count, self.mean, self.var)

    def moments(self, call: Call, places: Sequence[Sequence[int]] | None) -> Moments:
        """Return what answers a call on tiles that begin at these places of the image.

        Parameters
        ----------
        call
            The call, of ``N`` samples.
        places
            For each sample, the input pixel at which it begins, one number per axis; None for
            tiles of no place, which get the average over the windows.
        """
        if self.uniform or places is None:
            return self._average(call.features)
        fields = [self._field(place, call.space) for place in places]
        mean = torch.stack([mean for mean, _ in fields])
        var = torch.stack([var for _, var in fields])
        device = call.features.device
        return Moments(mean.to(device), var.to(device), float(self.count.mean()))

    def _average(self, features: torch.Tensor) -> Moments:
        shape = (1, -1) + (1,) * (features.ndim - 2)
        mean, var = (m.reshape(shape).to(features.device) for m in self._merged)
        return Moments(mean, var, float(self.count.sum()))

    @cached_property
    def _merged(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean, var = self.average
        return torch.from_numpy(mean).float(), torch.from_numpy(var).float()

    def _field(
        self, place: Sequence[int], space: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Interpolate to every pixel: linear between the windows' middles, constant beyond."""
        near, weights = zip(
            *(
                _interpolation(int(start * scale), size, np.array(centres))
                for start, size, scale, centres in zip(
                    place, space, self.scale, self.centres, strict=True
                )
            ),
            strict=True,
        )
        return _spread(self.mean[:, *near], weights), _spread(self.var[:, *near], weights)


def _interpolation(start: int, size: int, centres: Floats) -> tuple[slice, torch.Tensor]:
    """Find the windows that matter for pixels from `start` on, and their ``(size, windows)``."""
    at = np.arange(start, start + size) + 0.5
    low = max(0, int(centres.searchsorted(at[0], "right")) - 1)
    near = slice(low, int(centres.searchsorted(at[-1])) + 1)
    hats = np.eye(len(centres[near]))
    weights = [np.interp(at, centres[near], hat) for hat in hats]
    return near, torch.from_numpy(np.stack(weights, axis=1))


def _spread(values: Floats, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Apply weights along each axis of ``(groups, *windows)``; float32."""
    field_ = torch.from_numpy(values)
    for axis, weight in enumerate(weights, start=1):
        field_ = torch.tensordot(field_, weight, dims=([axis], [1])).movedim(-1, axis)
    return field_.float()


@dataclass(frozen=True)
class Statistics:
    """Statistics of a network's features over an image, and what they belong to.

    Attributes
    ----------
    how
        ``"exact"``: of the whole image; ``"local"``: of windows all over it; ``"sampled"``:
        estimated from some of its tiles.
    layers
        For each call that they answer.
    fingerprint
        Of the network (see `seamscope.models.model.Model.fingerprint`).
    model
        Name of the network.
    image, image_shape
        Name of the image, and its spatial shape.
    about
        How they were made, as plain values.
    source
        The file that they were last written to or read from; empty for none.
    task
        Image, network and settings of the search that found them, by which a finished search is
        distinguished from another one; plain values, empty where nothing was kept.

    Examples
    --------
    >>> import seamscope, torch
    >>> image = torch.rand(64, 96).numpy()
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.InstanceNorm2d(2))
    >>> statistics = seamscope.freeze_statistics(image, net, tile=32)
    >>> statistics.layers[0].mean.shape
    (2, 1, 1)
    """

    how: How
    layers: tuple[LayerStatistics, ...]
    fingerprint: str
    model: str
    image: str = ""
    image_shape: tuple[int, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    source: str = field(default="", compare=False)
    task: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def digest(self) -> str:
        """Hash of their numbers, the same in every file that holds them."""
        digest = hashlib.sha256(self.fingerprint.encode())
        for layer in self.layers:
            place = layer.call, layer.centres, [str(scale) for scale in layer.scale]
            digest.update(repr(place).encode())
            for values in (layer.mean, layer.var, layer.count):
                digest.update(np.ascontiguousarray(values, np.float64).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _by_call(self) -> dict[int, LayerStatistics]:
        return {layer.call: layer for layer in self.layers}

    @property
    def described(self) -> dict[str, Any]:
        """What they are, for the record of a result; plain values."""
        return {
            "how": self.how,
            "image": self.image,
            "image_shape": list(self.image_shape),
            "layers": len(self.layers),
            **self.about,
        }

    @property
    def uniform(self) -> bool:
        """Whether a tile's place in the image does not matter."""
        return all(layer.uniform for layer in self.layers)

    def layer(self, call: int) -> LayerStatistics | None:
        """Return what answers the call of this number; None where nothing does."""
        return self._by_call.get(call)

    def answer(self, call: Call, places: Sequence[Sequence[int]] | None = None) -> Moments | None:
        """Answer a call of a forward pass on tiles at these places (see `LayerStatistics`)."""
        layer = self._by_call.get(call.number)
        return None if layer is None else layer.moments(call, places)

    def check_model(self, fingerprint: str, model: str) -> None:
        """Refuse to be used for another network.

        Raises
        ------
        SettingsError
            Saying which network they belong to.
        """
        if fingerprint != self.fingerprint:
            raise SettingsError(
                f"These statistics were made for the network {self.model} ({self.fingerprint}) "
                f"and not for {model} ({fingerprint}): find them again with this network."
            )

    def check_image(self, shape: Sequence[int]) -> None:
        """Refuse an image of another spatial shape, where places matter.

        Raises
        ------
        SettingsError
            Saying which image they belong to.
        """
        if not self.uniform and tuple(shape) != self.image_shape:
            raise SettingsError(
                f"These local statistics belong to places of the image {self.image} "
                f"({shape_text(self.image_shape)}) and cannot be used for one of "
                f"{shape_text(shape)}: find them again, or use exact or sampled ones."
            )

    def differing(self, seen: Mapping[str, Any]) -> tuple[str, ...]:
        """What of an image, or in which way, a network is shown otherwise than it was for these.

        Parameters
        ----------
        seen
            What it is shown (see `seamscope.planning.plan.Plan.seen`).

        Returns
        -------
        tuple of str
            Keys of `seen`; those that are not known of these statistics are taken to be alike.
        """
        return tuple(key for key in seen if self.about.get(key, seen[key]) != seen[key])

    def misread(self, seen: Mapping[str, Any]) -> tuple[str, ...]:
        """What keeps them from being right for any image; keys as by `differing`.

        All but frames: statistics may be used for others, as they may for another image.
        """
        return tuple(key for key in self.differing(seen) if key in _SEEN)

    def notes(self, image: str, seen: Mapping[str, Any]) -> tuple[str, ...]:
        """What is to be known before they are used for an image; sentences.

        Parameters
        ----------
        image
            Its name.
        seen
            How it is read for the network (see `differing`).
        """
        said = []
        other = self.misread(seen)
        if other:
            own, now = (_as_seen(each, other) for each in (self.about, seen))
            options = ", ".join(
                f"`{key}={_python(self.about[key])}`"
                for key in other
                if self.about[key] is not None
            )
            said.append(
                f"The fixed statistics were found with {own}, but {image} is read with {now}. "
                f"Predictions will be wrong. Read it alike{options and f' ({options})'}, or find "
                "them again."
            )
        if not self.uniform and self.image != image:
            said.append(
                f"The local fixed statistics belong to positions in {self.image}. If {image} is "
                "another image, find them again, or use exact or sampled ones."
            )
        return tuple(said)

    def summary(self) -> str:
        """Describe them in a few words."""
        layers = f"{len(self.layers)} layer{'s' * (len(self.layers) > 1)}"
        of = f", of {self.image} ({shape_text(self.image_shape)})" if self.image else ""
        return f"{self.how}, {layers}{of}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them to one file (safetensors: plain numbers and text).

        Raises
        ------
        OutputError
            Where it cannot be written.
        """
        from safetensors.numpy import save

        arrays = {
            f"{layer.call}.{what}": np.ascontiguousarray(getattr(layer, what))
            for layer in self.layers
            for what in ("mean", "var", "count")
        }
        about = json.dumps(self._header())
        target = Path(path)
        try:
            write_file(target, save(arrays, {"seamscope": about}))
        except OSError as error:
            raise OutputError(
                f"The statistics cannot be written to {target} ({error.strerror}): name another "
                "place."
            ) from error
        vars(self)["source"] = os.path.abspath(target)  # no part of their value

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Read them from a file.

        Raises
        ------
        ModelError
            Where the file is missing, damaged, or holds something else.
        """
        from safetensors import safe_open

        if not Path(path).is_file():
            raise ModelError(
                f"There is no file {path} of statistics: make one with seamscope freeze."
            )
        try:
            with safe_open(path, "np") as file:
                header = json.loads((file.metadata() or {}).get("seamscope", "{}"))
                if header.pop("format", None) != _FORMAT:
                    raise ValueError("it was not written by this version of seamscope freeze")
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return replace(cls._from(header, arrays), source=os.path.abspath(path))
        except Exception as error:
            if is_image_file(Path(path)):
                raise ModelError(
                    f"{path} is an image, and holds no statistics: give the file that seamscope "
                    "freeze has written."
                ) from None
            raise ModelError(
                f"{path} holds no statistics that can be used ({error}): make them again with "
                "seamscope freeze."
            ) from error

    def _header(self) -> dict[str, Any]:
        layers = [
            {
                "call": layer.call,
                "name": layer.name,
                "kind": layer.kind,
                "centres": [list(along) for along in layer.centres],
                "scale": [str(scale) for scale in layer.scale],
            }
            for layer in self.layers
        ]
        return {
            "format": _FORMAT,
            "how": self.how,
            "fingerprint": self.fingerprint,
            "model": self.model,
            "image": self.image,
            "image_shape": list(self.image_shape),
            "about": self.about,
            "task": dict(self.task),
            "layers": layers,
        }

    @classmethod
    def _from(cls, header: dict[str, Any], arrays: dict[str, Any]) -> Statistics:
        layers = tuple(
            LayerStatistics(
                call=entry["call"],
                name=entry["name"],
                kind=entry["kind"],
                centres=tuple(map(tuple, entry["centres"])),
                scale=tuple(map(Fraction, entry["scale"])),
                mean=arrays[f"{entry['call']}.mean"],
                var=arrays[f"{entry['call']}.var"],
                count=arrays[f"{entry['call']}.count"],
            )
            for entry in header.pop("layers")
        )
        shape = tuple(header.pop("image_shape"))
        return cls(layers=layers, image_shape=shape, **header)


def is_statistics(path: Path) -> bool:
    """Return whether a file holds statistics; it is written in one step, so they are whole."""
    from safetensors import safe_open

    with contextlib.suppress(Exception), safe_open(path, "np") as file:  # any other file raises
        return "seamscope" in (file.metadata() or {})
    return False


# -- collecting them


class Collector:
    """Merges the statistics of parts of an image, for each of some windows by itself.

    Parameters
    ----------
    windows
        How many there are along each axis.
    earlier
        What was collected before, by `sums`.
    """

    def __init__(self, windows: Sequence[int], earlier: Sequence[Floats] = ()) -> None:
        self._windows = tuple(windows)
        self._sums: tuple[Floats, Floats, Floats] | None = None
        if earlier:
            count, mean, squares = earlier
            self._sums = count, mean, squares

    @property
    def sums(self) -> tuple[Floats, Floats, Floats]:
        """Count ``(*windows)``, mean, and sum of squares around it ``(groups, *windows)``."""
        assert self._sums is not None
        return self._sums

    def add(
        self, window: Sequence[int], features: torch.Tensor, groups: int, weight: float = 1
    ) -> None:
        """Take a part of the features.

        Parameters
        ----------
        window
            Index of the window that it belongs to.
        features
            ``(1, C, *spatial)``.
        groups
            Consecutive channels share statistics in so many groups.
        weight
            How often it counts, for tiles that stand for others.
        """
        number, mean, var = _sums_of(features.unflatten(1, (groups, -1))[0])
        self.merge(window, weight * number, mean, weight * number * var)

    def merge(self, window: Sequence[int], own: float, mean: Floats, around: Floats) -> None:
        """Take `own` values: their means, and their sums of squares around them ``(groups,)``."""
        if self._sums is None:
            shape = (len(mean), *self._windows)
            self._sums = np.zeros(self._windows), np.zeros(shape), np.zeros(shape)
        count, means, squares = self._sums
        total = count[tuple(window)] + own
        at: Any = (slice(None), *window)
        away = mean - means[at]
        squares[at] += around + away**2 * (own * count[tuple(window)] / total)
        means[at] += away * (own / total)
        count[tuple(window)] = total

    def statistics(
        self, like: LayerStatistics, centres: Sequence[Sequence[float]] = ()
    ) -> LayerStatistics:
        """Return what was collected, in windows around these middles."""
        count, mean, squares = self.sums
        return replace(
            like,
            mean=mean.copy(),
            var=squares / np.maximum(count, 1),
            count=count.copy(),
            centres=tuple(map(tuple, centres)),
        )


def _sums_of(grouped: torch.Tensor) -> tuple[int, Floats, Floats]:
    """Count, means and variances of ``(groups, C / groups, *spatial)``.

    A few groups at a time, so that their copy in float64 stays in the processor's cache.
    """
    count = grouped[0].numel()
    at_once = max(1, _IN_CACHE // count)
    means, variances = [], []
    for part in grouped.split(at_once):
        wide = part.cpu() if part.device.type == "mps" else part  # which knows no float64
        flat = wide.double().flatten(1)
        mean = flat.mean(1)
        means.append(mean)
        variances.append(flat.square_().mean(1) - mean.square())
    mean, var = (torch.cat(one).cpu().numpy() for one in (means, variances))
    return count, mean, var.clip(0)


def _merged(count: Floats, mean: Floats, var: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of all windows together."""
    axes = tuple(range(1, mean.ndim))
    whole = (count * mean).sum(axes, keepdims=True) / count.sum()
    spread = (count * (var + (mean - whole) ** 2)).sum(axes) / count.sum()
    return whole.reshape(-1), spread


def _as_seen(seen: Mapping[str, Any], keys: Sequence[str]) -> str:
    """What a network is shown, in words."""
    return " and ".join(
        "all channels" if seen[key] is None else _SEEN[key].format(_value(seen[key]))
        for key in keys
    )


def _value(value: Any) -> str:
    """A setting for people."""
    if isinstance(value, list):
        return ",".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _python(value: Any) -> str:
    """A setting as Python writes it."""
    if isinstance(value, list):
        return f"({', '.join(map(_python, value))})"
    return f"{value:g}" if isinstance(value, float) else repr(value)
