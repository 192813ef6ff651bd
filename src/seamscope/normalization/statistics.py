"""Statistics of a network's features over a whole image, to normalize every tile by.

Knows how means and variances of parts are merged, how they vary over an image, and the file they
are kept in. Does not know networks, tiles' order, or how features are computed.

Statistics are held per *cell* of a grid that is fixed in the image and no matter of the tiling.
One cell is the whole image: the network then predicts as if it saw the image at once. Smaller
cells, about as large as the patches that the network was trained with, are pooled over their
neighbours and interpolated to every pixel: the network then sees statistics of the kind it knows,
and tiles still agree, because a pixel's statistics do not depend on the tile it lies in.

Counts, means and sums of squares are merged in float64 (Chan, Golub and LeVeque 1983, "Algorithms
for computing the sample variance", eq. 2.1).
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from seamscope.errors import ModelError, OutputError, SettingsError
from seamscope.normalization.calls import Call, Moments

Floats: TypeAlias = npt.NDArray[np.float64]
How: TypeAlias = Literal["exact", "local", "sampled"]

_FORMAT = "seamscope statistics 1"
_IN_CACHE = 1 << 17  # numbers


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
        ``(groups, *cells)``, float64; `var` is the population variance.
    count
        ``(*cells)`` values that each was taken over.
    pitch
        Extent of a cell, in pixels of the features, along each axis.
    scale
        Pixels of the features for each pixel of input, along each axis.
    """

    call: int
    name: str | None
    kind: str
    mean: Floats
    var: Floats
    count: Floats
    pitch: tuple[int, ...]
    scale: tuple[Fraction, ...]

    @property
    def uniform(self) -> bool:
        """Whether they are the same everywhere."""
        return self.count.size == 1

    @property
    def average(self) -> tuple[Floats, Floats]:
        """Mean and variance ``(groups,)`` over the whole image."""
        return _merged(self.count, self.mean, self.var)

    def moments(self, call: Call, places: Sequence[Sequence[int]] | None) -> Moments:
        """Return what answers a call on tiles that begin at these places of the image.

        Parameters
        ----------
        call
            The call, of ``N`` samples.
        places
            For each sample, the input pixel at which it begins, one number per axis; None for
            tiles of no place, which get the average over the image.
        """
        if self.uniform or places is None or call.kind in ("mean", "variance"):
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
        """Interpolate to every pixel: linear between the cells' centres, constant beyond."""
        weights = [
            _interpolation(int(start * scale), size, pitch, cells)
            for start, size, scale, pitch, cells in zip(
                place, space, self.scale, self.pitch, self.count.shape, strict=True
            )
        ]
        return _spread(self.mean, weights), _spread(self.var, weights)


def _interpolation(start: int, size: int, pitch: int, cells: int) -> torch.Tensor:
    """Weights ``(size, cells)`` of the cells for pixels from `start` on."""
    at = np.clip((np.arange(start, start + size) + 0.5) / pitch - 0.5, 0, cells - 1)
    low = np.minimum(np.floor(at).astype(int), max(cells - 2, 0))
    weights = np.zeros((size, cells))
    rows = np.arange(size)
    weights[rows, low] = 1 - (at - low)
    weights[rows, np.minimum(low + 1, cells - 1)] += at - low
    return torch.from_numpy(weights)


def _spread(values: Floats, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Apply weights along each axis of ``(groups, *cells)``; float32."""
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
        ``"exact"``: of the whole image; ``"local"``: of cells of it; ``"sampled"``: estimated
        from some of its tiles.
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

    Examples
    --------
    >>> import seamscope, torch
    >>> image = torch.rand(64, 96).numpy()
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.InstanceNorm2d(2))
    >>> statistics = seamscope.freeze_statistics(net, image, tile=32)
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
                f"and not for {model} ({fingerprint}): freeze them anew with this network."
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
                f"({_times(self.image_shape)}) and cannot be used for one of {_times(shape)}: "
                "freeze them anew, or use exact or sampled ones."
            )

    def notes(self, image: str, normalize: str) -> tuple[str, ...]:
        """What is to be known before they are used for an image; sentences.

        Parameters
        ----------
        image
            Its name.
        normalize
            How its intensities are normalized.
        """
        said = []
        own = self.about.get("normalize", normalize)
        if own != normalize:
            said.append(
                f"The network's statistics were found with intensities normalized by {own}, and "
                f"those of {image} are by {normalize}: predictions will be off. Normalize alike "
                f"(--normalize {own}), or freeze them anew."
            )
        if not self.uniform and self.image != image:
            said.append(
                f"The network's statistics belong to places of the image {self.image}: if {image} "
                "is another one, freeze them anew, or use exact or sampled ones."
            )
        return tuple(said)

    def told(self) -> str:
        """What they are, in a few words."""
        layers = f"{len(self.layers)} layer{'s' * (len(self.layers) > 1)}"
        of = f", of {self.image} ({_times(self.image_shape)})" if self.image else ""
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
            passing = target.with_name(target.name + ".writing")
            passing.write_bytes(save(arrays, {"seamscope": about}))
            passing.replace(target)  # never half a file
        except OSError as error:
            raise OutputError(
                f"The statistics cannot be written to {target} ({error.strerror}): name another "
                "place."
            ) from error

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
            raise ModelError(f"There is no file {path}: make one with seamscope freeze.")
        try:
            with safe_open(path, "np") as file:
                header = json.loads((file.metadata() or {}).get("seamscope", "{}"))
                if header.pop("format", None) != _FORMAT:
                    raise ValueError("it was not written by seamscope freeze")
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return cls._from(header, arrays)
        except Exception as error:
            raise ModelError(
                f"{path} holds no statistics that can be used ({error}): make them anew with "
                "seamscope freeze."
            ) from error

    def _header(self) -> dict[str, Any]:
        layers = [
            {
                "call": layer.call,
                "name": layer.name,
                "kind": layer.kind,
                "pitch": list(layer.pitch),
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
            "layers": layers,
        }

    @classmethod
    def _from(cls, header: dict[str, Any], arrays: dict[str, Any]) -> Statistics:
        layers = tuple(
            LayerStatistics(
                call=told["call"],
                name=told["name"],
                kind=told["kind"],
                pitch=tuple(told["pitch"]),
                scale=tuple(map(Fraction, told["scale"])),
                mean=arrays[f"{told['call']}.mean"],
                var=arrays[f"{told['call']}.var"],
                count=arrays[f"{told['call']}.count"],
            )
            for told in header.pop("layers")
        )
        shape = tuple(header.pop("image_shape"))
        return cls(layers=layers, image_shape=shape, **header)


# -- collecting them


class Collector:
    """Merges the statistics of parts of an image into those of cells.

    Parameters
    ----------
    shape
        Pixels of the features of the whole image, along each axis.
    pitch
        Extent of a cell in pixels of the features; None for one cell.
    """

    def __init__(self, shape: Sequence[int], pitch: Sequence[int] | None = None) -> None:
        self._pitch = tuple(shape) if pitch is None else tuple(pitch)
        # the last cell is up to half a cell longer, or shorter
        self._cells = tuple(
            max(1, math.floor(n / p + 0.5)) for n, p in zip(shape, self._pitch, strict=True)
        )
        self._sums: tuple[Floats, Floats, Floats] | None = None

    def add(
        self, call: Call, box: Sequence[slice], begin: Sequence[int], weight: float = 1
    ) -> None:
        """Take a part of a tile's features.

        Parameters
        ----------
        call
            The call, of one sample.
        box
            The part of its features that counts.
        begin
            Pixel of the whole image's features at which the tile's features begin.
        weight
            How often it counts, for tiles that stand for others.
        """
        spans = [
            list(self._split(part.start, part.stop, first, pitch, cells))
            for part, first, pitch, cells in zip(box, begin, self._pitch, self._cells, strict=True)
        ]
        for parts in itertools.product(*spans):
            cell = tuple(index for index, _ in parts)
            features = call.features[:1, :, *(part for _, part in parts)]
            self._merge(cell, features, call.groups, weight)

    @staticmethod
    def _split(start: int, stop: int, first: int, pitch: int, cells: int) -> Any:
        """Cut an interval of a tile where cells end: ``(cell, part of the tile)``."""
        while start < stop:
            cell = min((first + start) // pitch, cells - 1)
            end = stop if cell == cells - 1 else min(stop, (cell + 1) * pitch - first)
            yield cell, slice(start, end)
            start = end

    def _merge(
        self, cell: tuple[int, ...], features: torch.Tensor, groups: int, weight: float
    ) -> None:
        number, mean, var = _sums_of(features.unflatten(1, (groups, -1))[0])
        if self._sums is None:
            shape = (groups, *self._cells)
            self._sums = np.zeros(self._cells), np.zeros(shape), np.zeros(shape)
        count, means, squares = self._sums
        own = weight * number
        total = count[cell] + own
        at: Any = (slice(None), *cell)
        away = mean - means[at]
        squares[at] += own * var + away**2 * (own * count[cell] / total)
        means[at] += away * (own / total)
        count[cell] = total

    def statistics(self, like: LayerStatistics, pooled: int = 0) -> LayerStatistics:
        """Return what was collected; each cell together with so many neighbours on each side."""
        assert self._sums is not None
        count, mean, squares = self._sums
        var = squares / count
        if pooled and count.size > 1:
            count, mean, var = _pooled(count, mean, var, pooled)
        return replace(like, mean=mean, var=var, count=count, pitch=self._pitch)


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
    """Mean and variance of all cells together."""
    axes = tuple(range(1, mean.ndim))
    whole = (count * mean).sum(axes, keepdims=True) / count.sum()
    spread = (count * (var + (mean - whole) ** 2)).sum(axes) / count.sum()
    return whole.reshape(-1), spread


def _pooled(count: Floats, mean: Floats, var: Floats, radius: int) -> tuple[Floats, Floats, Floats]:
    pooled = np.empty_like(count), np.empty_like(mean), np.empty_like(var)
    for cell in np.ndindex(count.shape):
        around = tuple(slice(max(i - radius, 0), i + radius + 1) for i in cell)
        pooled[0][cell] = count[around].sum()
        own = _merged(count[around], mean[:, *around], var[:, *around])
        pooled[1][:, *cell], pooled[2][:, *cell] = own
    return pooled


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
