"""How much the features of single tiles differ from those of the whole image.

Knows means and variances of features, tile by tile. Does not know how networks are repaired, or how
predictions are compared.

For every normalization layer and tile: mean and variance of each channel of what the layer
normalizes. Beside them stands what they should be, the *reference*: the values remembered from
training for layers that use them, else those of the whole image. How much a tile deviates is given
in standard deviations of the reference, as root mean square over channels::

    deviation(tile) = sqrt(mean over channels of (mean_tile - mean)^2 / var)

A network trained with one tile per batch has seen each tile at deviation 0; one that normalizes
with the reference sees it at the deviation given here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from seamscope.errors import SettingsError
from seamscope.models.model import Model
from seamscope.normalization.audit import NormLayer
from seamscope.normalization.calls import Call, Moments, Normalizations, mean_and_variance
from seamscope.normalization.statistics import Statistics
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.reading import (
    TileJob,
    jobs_of,
)
from seamscope.progress import QUIET, Work, check
from seamscope.serialization import record
from seamscope.settings import Settings

Floats = npt.NDArray[np.float64]

# A batch whose statistics deviate less than this, in 95 of 100 draws, stands for the image.
REPRESENTATIVE = 0.1
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class LayerFeatures:
    """Statistics of what one layer normalizes, for every tile.

    Attributes
    ----------
    layer
        As the audit has it.
    mean, var
        ``(tiles, groups)``, population variance.
    reference_mean, reference_var
        ``(groups,)`` what they should be.
    reference
        ``"running"``, ``"image"`` (exact, where statistics were given), or ``"tiles"``: all tiles
        together, each with the features it has by itself.
    """

    layer: NormLayer
    mean: Floats
    var: Floats
    reference_mean: Floats
    reference_var: Floats
    reference: str

    @property
    def deviations(self) -> Floats:
        """``(tiles,)`` how far each tile's means are from the reference."""
        away = (self.mean - self.reference_mean) ** 2 / _positive(self.reference_var)
        found: Floats = np.sqrt(away.mean(1))
        return found

    @property
    def deviation(self) -> float:
        """The same for all tiles, as root mean square."""
        return float(np.sqrt((self.deviations**2).mean()))

    @property
    def spread_ratio(self) -> float:
        """Typical factor between a tile's standard deviation and the reference's, 1 or more.

        ``exp`` of the median over tiles and channels of ``abs(log(std_tile / std))``.
        """
        logs = 0.5 * np.log(_positive(self.var) / _positive(self.reference_var))
        return float(np.exp(np.median(np.abs(logs))))


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of all layers for the tiles of an image.

    Attributes
    ----------
    layers
        In the order of the forward pass.
    plan
        Of the tiles.
    jobs
        The tiles, in the order of the rows.
    """

    layers: tuple[LayerFeatures, ...]
    plan: Plan
    jobs: tuple[TileJob, ...]

    @property
    def deviation(self) -> float:
        """How much tiles deviate, as root mean square over layers."""
        return math.sqrt(
            sum(layer.deviation**2 for layer in self.layers) / max(len(self.layers), 1)
        )

    def map(self, layer: int | None = None) -> Floats:
        """How much each tile deviates, ``(frames, *grid)``; of one layer or over all of them.

        NaN where a tile was not looked at.
        """
        chosen = self.layers if layer is None else (self.layers[layer],)
        deviations = np.sqrt(np.mean([one.deviations**2 for one in chosen], 0))
        frames = sorted({job.frame for job in self.jobs})
        found = np.full((len(frames), *self.plan.grid.shape), np.nan)
        for job, deviation in zip(self.jobs, deviations, strict=True):
            found[(frames.index(job.frame), *job.tile.index)] = deviation
        return found

    def to_json(self) -> list[dict[str, Any]]:
        """Return one entry for each layer, as plain values."""
        return [
            {
                "name": one.layer.name,
                "kind": one.layer.kind,
                "reference": one.reference,
                "deviation": one.deviation,
                "deviation_largest": float(one.deviations.max()),
                "spread_ratio": one.spread_ratio,
            }
            for one in self.layers
        ]


def measure_features(
    image: Any,
    model: str | nn.Module | Model | None = None,
    settings: Settings | None = None,
    *,
    statistics: Statistics | None = None,
    most: int | None = None,
    trust: bool = False,
    axes: str | None = None,
    work: Work = QUIET,
    **asked: Any,
) -> FeatureStatistics:
    """Measure the features of an image's tiles at every normalization layer.

    Parameters
    ----------
    image, model, settings, trust, axes, asked
        As for `seamscope.predict`; the tile matters, since it decides what one tile sees.
    statistics
        Exact statistics of this image, to compare with; the values remembered from training go
        before.
    most
        Look at so many tiles, evenly chosen; by default at all.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Raises
    ------
    SettingsError
        Where the network has no normalization layer, or statistics are of another channel.
    InterruptedError
        When stopped.
    """
    case = tile_case(Case.open(image, model, settings, trust=trust, axes=axes, **asked))
    network = case.model
    if not network.audit.layers:
        raise SettingsError(f"{network.name} has no normalization layer: nothing to measure.")
    if not network.audit.watched:
        raise SettingsError(
            f"The features of {network.name} cannot be seen, since it runs forward only, through "
            "another program: get the network as .pt2, TorchScript or Python."
        )
    plan = case.plan
    if statistics is not None and statistics.misread(plan.seen):
        raise SettingsError(statistics.notes(case.image.name, plan.seen)[0])
    jobs = tuple(jobs_of(plan, None))
    if most is not None and most < len(jobs):
        chosen = np.linspace(0, len(jobs) - 1, most).round().astype(int)
        jobs = tuple(jobs[i] for i in chosen)
    seen: dict[int, list[tuple[Floats, Floats]]] = {}
    running: dict[int, tuple[Floats, Floats]] = {}

    def note(call: Call) -> None:
        grouped = call.features.unflatten(1, (call.groups, -1)).flatten(2)
        mean, var = (m[..., 0].double().cpu().numpy() for m in mean_and_variance(grouped, (2,)))
        seen.setdefault(call.number, []).append((mean, var))
        if call.running is not None:
            running[call.number] = tuple(m.double().cpu().numpy() for m in call.running)  # type: ignore[assignment]

    mode = Normalizations(note)
    for done, (_, x) in enumerate(tile_batches(case, jobs, work, "Measuring features"), start=1):
        mode.run(network.forward, x)
        work.step(min(done * plan.settings.batch, len(jobs)), len(jobs))
    layers = [
        _layer_features(layer, seen[layer.calls[0]], running.get(layer.calls[0]), statistics)
        for layer in network.audit.layers
    ]
    return FeatureStatistics(tuple(layers), plan, jobs)


def _layer_features(
    layer: NormLayer,
    rows: Sequence[tuple[Floats, Floats]],
    running: tuple[Floats, Floats] | None,
    statistics: Statistics | None,
) -> LayerFeatures:
    mean, var = (np.concatenate([row[k] for row in rows]) for k in (0, 1))
    if running is not None:
        return LayerFeatures(layer, mean, var, running[0], running[1], "running")
    exact = None if statistics is None else statistics.layer(layer.calls[0])
    if exact is not None:
        own_mean, own_var = exact.average
        return LayerFeatures(layer, mean, var, own_mean, own_var, "image")
    whole = mean.mean(0)
    return LayerFeatures(layer, mean, var, whole, var.mean(0) + mean.var(0), "tiles")


# -- how many tiles stand for an image


@dataclass(frozen=True)
class BatchExperiment:
    """How much the statistics of a batch deviate, for batches of several sizes.

    Attributes
    ----------
    sizes
        Tiles in a batch.
    deviations
        ``(sizes, draws)`` of random batches: root mean square over layers and channels.
    """

    sizes: tuple[int, ...]
    deviations: Floats

    @property
    def typical(self) -> Floats:
        """``(sizes,)`` median over draws."""
        return np.median(self.deviations, 1)

    @property
    def worst(self) -> Floats:
        """``(sizes,)`` what 95 of 100 draws stay below."""
        return np.percentile(self.deviations, 95, axis=1)

    @property
    def representative(self) -> int | None:
        """Smallest batch that stands for the image; None where none of these does."""
        good = np.flatnonzero(self.worst < REPRESENTATIVE)
        return int(self.sizes[good[0]]) if good.size else None

    def to_json(self) -> dict[str, Any]:
        """Return median and percentile of the deviations for each size, without all draws."""
        return record(
            sizes=self.sizes,
            deviation_median=self.typical,
            deviation_95=self.worst,
            representative=self.representative,
        )


def batch_experiment(
    features: FeatureStatistics,
    sizes: Sequence[int] = BATCHES,
    draws: int = 300,
    seed: int = 0,
) -> BatchExperiment:
    """Draw batches of tiles at random, and see how much their common statistics deviate.

    Costs no further run of the network: statistics of tiles are merged.

    Parameters
    ----------
    features
        Of the tiles of an image.
    sizes
        Tiles in a batch.
    draws
        Batches of each size; tiles are drawn with replacement, as from a large training set.
    seed
        Of the draws.

    Notes
    -----
    Compared with all tiles together, not with values remembered from training, so that the
    result is the luck of the draw alone.
    """
    rng = np.random.default_rng(seed)
    deviations = np.empty((len(sizes), draws))
    for k, size in enumerate(sizes):
        batches = rng.integers(len(features.jobs), size=(draws, size))
        away = [
            (one.mean[batches].mean(1) - one.mean.mean(0)) ** 2
            / _positive(one.var.mean(0) + one.mean.var(0))
            for one in features.layers
        ]
        deviations[k] = np.sqrt(np.mean([layer.mean(1) for layer in away], 0))
    return BatchExperiment(tuple(sizes), deviations)


# -- one pixel in several tiles


@dataclass(frozen=True)
class PixelFeatures:
    """Features of one place of the image, as one tile gives them.

    Attributes
    ----------
    start
        Input pixel at which the tile begins, along each axis.
    before, after
        ``(C, *patch)`` around the pixel: before and after normalization, without scale and shift.
    """

    start: tuple[int, ...]
    before: npt.NDArray[np.float32]
    after: npt.NDArray[np.float32]


def features_of_pixel(
    image: Any,
    model: str | nn.Module | Model,
    point: Sequence[int],
    layer: int = 0,
    settings: Settings | None = None,
    *,
    tiles: int = 4,
    patch: int = 8,
    trust: bool = False,
    axes: str | None = None,
    work: Work = QUIET,
    **asked: Any,
) -> tuple[PixelFeatures, ...]:
    """Look at the same place through several tiles: the four-tiles experiment.

    Before normalization they agree, away from the tiles' borders; afterwards each tile has its own
    opinion, if the layer takes the tile's statistics.

    Parameters
    ----------
    image, model, settings, trust, axes, asked
        As for `seamscope.predict`.
    point
        Pixel of the image, one number per axis.
    layer
        Number of the layer in the network's audit.
    tiles
        How many tiles, spread evenly over the positions that hold the point.
    patch
        Pixels of the features to give around the point, along each axis.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).
    """
    case = tile_case(Case.open(image, model, settings, trust=trust, axes=axes, **asked))
    network, plan = case.model, case.plan
    wanted = network.audit.layers[layer].calls[0]
    found: list[PixelFeatures] = []
    for job in _tiles_around(plan, point, tiles):
        got: list[tuple[Call, Moments]] = []

        def note(call: Call, got: list[tuple[Call, Moments]] = got) -> None:
            if call.number == wanted:
                got.append((call, _used(call)))

        for _, x in tile_batches(case, [job], work, "Looking at one pixel"):
            Normalizations(note).run(network.forward, x)
        start = tuple(part.start for part in job.tile.read)
        found.append(_around(got[0], start, point, plan.grid.tile_shape, patch))
    return tuple(found)


def _used(call: Call) -> Moments:
    """Statistics that the layer will use."""
    if call.running is None:
        return call.moments()
    shape = (1, -1) + (1,) * len(call.space)
    mean, var = (m.reshape(shape) for m in call.running)
    return Moments(mean, var)


def _around(
    got: tuple[Call, Moments],
    start: Sequence[int],
    point: Sequence[int],
    tile: Sequence[int],
    patch: int,
) -> PixelFeatures:
    call, moments = got
    box = []
    for p, s, size, whole in zip(point, start, call.space, tile, strict=True):
        middle = (p - s) * size // whole
        low = min(max(middle - patch // 2, 0), max(size - patch, 0))
        box.append(slice(low, low + patch))
    grouped = call.features.unflatten(1, (call.groups, -1))
    mean, var = (m.unsqueeze(2) for m in (moments.mean, moments.var))
    normal = ((grouped - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
    part: Any = (0, slice(None), *box)
    before, after = (t[part].float().cpu().numpy() for t in (call.features, normal))
    return PixelFeatures(tuple(start), before, after)


def _tiles_around(plan: Plan, point: Sequence[int], count: int) -> Iterator[TileJob]:
    """Tiles on the network's grid that hold a point, at evenly spread positions."""
    frame = tuple(low for low, _ in plan.frame_ranges)
    for k in range(count):
        part = (k + 1) / (count + 1)
        starts = []
        for p, axis in zip(point, plan.grid.axes, strict=True):
            pitch = axis.lattice.pitch
            low = min(max(0, p - int(axis.tile * part)), max(axis.size - axis.tile, 0))
            starts.append(low // pitch * pitch)
        yield TileJob(frame, plan.grid.moved(starts))


# -- what measurements of tiles share


def tile_case(case: Case) -> Case:
    """Return the case for looking at whole tiles, each by itself."""
    return case.but(blend="crop", precision="float32", result="probabilities", seams="none")


def tile_batches(
    case: Case, jobs: Sequence[TileJob], work: Work, phase: str
) -> Iterator[tuple[list[TileJob], torch.Tensor]]:
    """Read batches of tiles ``(N, C, *tile)``, on the device that the plan names.

    Raises
    ------
    InterruptedError
        When stopped.
    """
    reader = case.reader(work)
    work.phase(phase, "tiles")
    runner = case.model.runner(case.plan.settings.device)
    size = case.plan.settings.batch
    batches = (list(jobs[k : k + size]) for k in range(0, len(jobs), size))
    for batch, values in reader.ahead(batches):
        check(work)
        yield batch, runner.example(values)


def _positive(values: Floats) -> Floats:
    return np.maximum(values, 1e-12)
