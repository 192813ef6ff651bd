"""A way from a tile to its prediction, on an image, ready for experiments.

Knows callables, networks and what they demand, and how any box of an image comes before a network:
Seamscope's own pipeline and foreign ones alike. Does not know which tiles are compared, or why.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from seamscope.errors import ModelError, SeamscopeError
from seamscope.models.facts import Facts
from seamscope.models.input_search import Hints
from seamscope.models.model import Model, as_model
from seamscope.models.sentences import (
    by_place_or_size,
    caution,
    which_statistics,
    whole_tile,
)
from seamscope.normalization.audit import Audit, audit
from seamscope.normalization.calls import Forward
from seamscope.planning.case import Case
from seamscope.planning.reading import TileJob, TileReader
from seamscope.planning.resources import Resources
from seamscope.recorded_graph import Dispatch
from seamscope.tiling import (
    AxisTiling,
    Lattice,
    PerAxis,
    Sides,
    Tile,
    TileGrid,
    per_axis,
    read_and_pad,
)

Array: TypeAlias = npt.NDArray[Any]
Step: TypeAlias = Callable[[Array], Any]
Box: TypeAlias = tuple[Sides, ...]


@dataclass(frozen=True)
class Pipeline:
    """A way from a tile to its prediction, in parts that can be exchanged.

    Attributes
    ----------
    network
        ``(C, *spatial)`` float32 to ``(C', *spatial')``: numpy in, numpy out. A `torch.nn.Module`
        is taken too.
    preprocess
        What is done to a tile before, ``(C, *spatial)`` to the same space.
    postprocess
        What is done to a tile's prediction afterwards, ``(C', *spatial')`` to the same space, with
        or without channels. Integers are taken for labels.
    period
        The network's period, one number or one per axis; None to have it measured.
    """

    network: Step | nn.Module
    preprocess: Step | None = None
    postprocess: Step | None = None
    period: PerAxis | None = None


class _Opened(Dispatch):
    """Takes composite operations apart where code runs in inference mode.

    There they arrive whole, and a watcher would see no normalization.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if torch.is_inference_mode_enabled():
            with self:
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        return func(*args, **(kwargs or {}))


class _Called(nn.Module):
    """A callable on numpy tiles as a network that can be probed."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # probing with NaN is our doing, not the user's
        with np.errstate(all="ignore"), _Opened():
            batch = [_with_channels(self.step(tile), x.ndim - 2) for tile in x.numpy()]
        return torch.from_numpy(np.stack(batch).astype(np.float32))


@dataclass(frozen=True)
class Subject:
    """A pipeline on an image, ready for experiments.

    Attributes
    ----------
    inputs
        The network's input ``(C, *box)`` for a box of the image. The second box is the tile by
        which it is preprocessed, None for the whole image.
    forward
        The network, on a tensor ``(1, C, *spatial)``.
    lattice
        What the network demands, for each axis.
    reach
        How far it sees with statistics held fixed, on its grid; None: everywhere.
    coupled
        Whether that is the reach of all layers but those that see the whole tile even then.
    audit
        What in it couples the whole tile.
    most_pixels
        Largest tile that memory allows.
    preprocesses
        Whether a tile's preprocessing could depend on the tile.
    postprocess
        See `Pipeline`.
    noise
        How much two predictions of one tile differ, in standard deviations; 0 for a network that
        always predicts the same.
    couplings
        Names of the layers that see the whole tile, as the network's facts have them.
    which
        Names of what takes per-tile statistics, in brackets, where these are known and few.
    place
        That the place in a tile or its size counts, as the end of a sentence; else empty.
    alike
        Whether only tiles of one size agree, so that none can be read with more of the image.
    caution
        What agreement of some tiles does not show, in a sentence; empty where there is nothing.
    at
        Called with the box of the image that comes next, for a network whose statistics depend on
        the place.
    """

    inputs: Callable[[Box, Box | None], Array]
    forward: Forward
    lattice: tuple[Lattice, ...]
    reach: tuple[Sides, ...] | None
    audit: Audit
    most_pixels: float
    preprocesses: bool = False
    postprocess: Step | None = None
    noise: float = 0.0
    coupled: bool = False
    couplings: tuple[str, ...] = ()
    which: str = ""
    place: str = ""
    alike: bool = False
    caution: str = ""
    at: Callable[[Box], None] = lambda box: None

    @property
    def pitch(self) -> tuple[int, ...]:
        """Tile starts that are multiples of this, in pixels, are on the network's grid."""
        return tuple(axis.pitch for axis in self.lattice)

    @cached_property
    def normalizing(self) -> frozenset[int]:
        """Which calls of a forward pass are normalizations that use the tile's statistics."""
        return frozenset(itertools.chain(*(layer.calls for layer in self.audit.tile_layers)))

    @property
    def couples(self) -> bool:
        """Whether anything is taken from the whole tile."""
        return bool(self.audit.tile_layers or self.audit.global_operations)

    @property
    def fixed(self) -> bool:
        """Whether the network takes tiles of one size only."""
        return any(axis.fixed is not None for axis in self.lattice)


def subject_of_case(case: Case, frame: tuple[int, ...]) -> Subject:
    """Seamscope's own pipeline: intensities of the whole image, tiles on the network's grid."""
    plan, model, image, intensity = case.plan, case.model, case.image, case.intensity()
    sizes = plan.grid.image_shape

    def inputs(box: Box, of: Box | None) -> Array:
        axes = tuple(
            AxisTiling(axis.size, stop - start, lattice=axis.lattice)
            for axis, (start, stop) in zip(plan.grid.axes, box, strict=True)
        )
        reader = TileReader(dataclasses.replace(plan, grid=TileGrid(axes)), image, intensity)
        return cast(Array, reader.read([TileJob(frame, _tile_of(box, sizes))])[0])

    runner = model.runner(plan.settings.device)

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = model.run_plain(x.to(runner.device)).float().cpu()
        runner.at_places(None)
        return y

    def at(box: Box) -> None:
        first = (axis[0].start for axis in plan.grid.axes)
        runner.at_places([[start - origin for (start, _), origin in zip(box, first, strict=True)]])

    memory = plan.settings.memory or case.resources.memory
    return Subject(
        inputs=inputs,
        forward=forward,
        lattice=_on_the_grid(plan.facts),
        reach=plan.reach.useful,
        audit=model.audit
        if plan.facts.forward_only
        else _audit(forward, plan.facts.in_channels, plan.facts.narrow),
        most_pixels=memory / max(plan.facts.bytes_per_pixel, 1),
        noise=plan.facts.noise,
        coupled=plan.reach.convolutional is None and not plan.reach.alike,
        couplings=_couplings(model),
        which=which_statistics(plan.facts, plan.reach),
        place=by_place_or_size(plan.facts, plan.reach),
        alike=plan.reach.alike,
        caution=caution(plan.facts, plan.reach),
        at=at,
    )


def _on_the_grid(facts: Facts) -> tuple[Lattice, ...]:
    """Rules for tiles by the period that operations imply too: a user may have stated a shorter."""
    implied = facts.implied.period if facts.implied else (None,) * facts.spatial_axes
    return tuple(
        dataclasses.replace(axis, period=math.lcm(axis.period, own or 1))
        if axis.fixed is None
        else axis
        for axis, own in zip(facts.lattice, implied, strict=True)
    )


def subject_of_pipeline(pipeline: Pipeline, image: Array, tile: Sequence[int]) -> Subject:
    """A pipeline on an image ``(C, *spatial)``; its network is probed: seconds.

    Raises
    ------
    ModelError
        When it fails on a tile, or gives what is no image.
    """
    box = tuple((0, min(t, n)) for t, n in zip(tile, image.shape[1:], strict=True))
    prepare = pipeline.preprocess
    example = _window(image, box)
    if prepare is not None:
        example = same_space(called(prepare, example, "preprocess"), example, "preprocess")
    model = _probed(pipeline.network, example)
    facts = model.facts
    lattice = facts.lattice
    if pipeline.period is not None:
        periods = per_axis(pipeline.period, len(lattice), "period")
        lattice = tuple(
            dataclasses.replace(axis, period=p) for axis, p in zip(lattice, periods, strict=True)
        )
    tensor = next(model.module.parameters(), None)
    device = tensor.device if tensor is not None else torch.device("cpu")

    def forward(x: torch.Tensor) -> torch.Tensor:
        return model.run_plain(x.to(device)).float().cpu()

    return Subject(
        inputs=_Preprocessed(image, prepare),
        forward=forward,
        lattice=lattice,
        reach=model.reach.useful,
        audit=_audit(forward, facts.in_channels, facts.narrow),
        most_pixels=Resources.of("cpu").memory / max(facts.bytes_per_pixel, 1),
        preprocesses=prepare is not None,
        postprocess=pipeline.postprocess,
        noise=facts.noise,
        coupled=model.reach.convolutional is None and not model.reach.alike,
        couplings=_couplings(model),
        which=which_statistics(facts, model.reach),
        place=by_place_or_size(facts, model.reach),
        alike=model.reach.alike,
        caution=caution(facts, model.reach),
    )


def _couplings(model: Model) -> tuple[str, ...]:
    """Names of what sees the whole tile, besides normalizations with per-tile statistics."""
    if not model.facts.statistics or model.facts.forward_only:
        return model.reach.couplings
    normalizing = {layer.name for layer in model.audit.tile_layers}
    return tuple(name for name in whole_tile(model.facts, model.reach) if name not in normalizing)


def _probed(network: Step | nn.Module, example: Array) -> Model:
    """Wrap and measure a network that is at least able to predict this tile."""
    hints = Hints(spatial_axes=example.ndim - 1, in_channels=example.shape[0])
    if isinstance(network, nn.Module):
        return dataclasses.replace(as_model(network), hints=hints)
    step: Step = network
    called(step, example, "network")  # its own words, where it does not even run
    module = _Called(step).eval()
    try:
        model = Model(module, "network", hints=hints)
        _ = model.facts
    except ModelError:  # not one of the sizes that were tried: then only its own
        hints = dataclasses.replace(hints, shape=example.shape[1:])
        model = Model(module, "network", hints=hints)
    return model


def _audit(forward: Forward, channels: int, shape: Sequence[int]) -> Audit:
    noise = torch.randn(1, channels, *shape, generator=torch.Generator().manual_seed(0))
    return audit(forward, noise)


class _Preprocessed:
    """Reads an image's tiles as a pipeline's network gets them."""

    def __init__(self, image: Array, prepare: Step | None) -> None:
        self._image = image
        self._prepare = prepare

    def __call__(self, box: Box, of: Box | None) -> Array:
        if self._prepare is None:
            return _window(self._image, box)
        if of is None:
            return _window(self._whole, box)
        tile = _window(self._image, of)
        own = self._run(tile)
        return own if box == of else self._carried_over(tile, own, _window(self._image, box))

    @cached_property
    def _whole(self) -> Array:
        return self._run(self._image.astype(np.float32))

    def _run(self, tile: Array) -> Array:
        assert self._prepare is not None
        return same_space(called(self._prepare, tile, "preprocess"), tile, "preprocess")

    def _carried_over(self, tile: Array, own: Array, box: Array) -> Array:
        """What was done to the tile, done to a larger box.

        Exact where a straight line ``a x + b`` for each channel describes it (mean and variance,
        extremes, percentiles); anything else is done to the larger box as if that were the tile.
        """
        if own.shape != tile.shape:
            return self._run(box)
        result = np.empty(box.shape, np.float32)
        for before, after, wide, target in zip(tile, own, box, result, strict=True):
            x, y = before.astype(np.float64), after.astype(np.float64)
            slope = np.vdot(x - x.mean(), y) / (np.vdot(x - x.mean(), x - x.mean()) or 1.0)
            offset = y.mean() - slope * x.mean()
            if np.abs(slope * x + offset - y).max() > 1e-4 * (y.std() or 1.0):
                return self._run(box)
            target[...] = slope * wide + offset
        return result


def _window(image: Array, box: Box) -> Array:
    """Cut ``(C, *box)`` float32; beyond the image's far end it goes on by reflection."""
    inside = tuple(
        slice(start, min(stop, n)) for (start, stop), n in zip(box, image.shape[1:], strict=True)
    )
    pad = [(0, stop - part.stop) for (_, stop), part in zip(box, inside, strict=True)]
    cut = image[:, *inside].astype(np.float32)
    return np.pad(cut, [(0, 0), *pad], mode="reflect") if any(n for _, n in pad) else cut


def called(step: Step, tile: Array, what: str) -> Array:
    """Run a part of a pipeline; says which part failed, and on what."""
    try:
        return _with_channels(step(tile.copy()), tile.ndim - 1)
    except (SeamscopeError, MemoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"The pipeline's {what} failed on a tile of shape {tile.shape} "
            f"({type(error).__name__}: {lines[-1][:200]}). It must take one numpy array "
            "(C, *spatial) and return one."
        ) from error


def _with_channels(values: Any, ndim: int) -> Array:
    """Return ``(C, *spatial)``, also of what comes without channels."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.ndim == ndim:
        array = array[None]
    if array.ndim != ndim + 1 or array.dtype.kind not in "fiub":
        raise ModelError(
            f"An array of shape {array.shape} and type {array.dtype} is no image with {ndim} "
            "spatial axes: a part of a pipeline returns real numbers, (C, *spatial) or (*spatial)."
        )
    return array


def same_space(values: Array, like: Array, what: str) -> Array:
    """Return the values, if they lie in the same space as what they were made of."""
    if values.shape[1:] != like.shape[1:]:
        raise ModelError(
            f"The pipeline's {what} made {values.shape[1:]} of a tile of {like.shape[1:]}: only "
            "the network may change the size of space; move this step into it."
        )
    return values


def _tile_of(box: Box, sizes: Sequence[int]) -> Tile:
    """Return a box as a tile to read; what lies outside of the image is to be filled."""
    parts = (read_and_pad(*side, n) for side, n in zip(box, sizes, strict=True))
    read, pad = zip(*parts, strict=True)
    return Tile((), read, pad, (), (), ())
