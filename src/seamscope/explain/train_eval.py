"""What a network would predict as it was trained, and how far that is from what it predicts.

Knows predictions in both ways, and what to advise. Does not know how layers are named or tiles
stitched.

In training, BatchNorm normalizes by the statistics of the current batch, in evaluation by those it
remembered. Where batches were small and no two alike, the remembered ones fit hardly any, and the
network that was trained is not the one that predicts. The measure is that of Buglakova et al.
2025 ("Tiling artifacts and trade-offs of feature normalization in the segmentation of large
biological images")::

    train/eval disparity = 1 - Dice(P_train, P_eval)

for each channel, over the whole image, with ``Dice = 2 sum(P Q) / (sum P^2 + sum Q^2)``.

The network is never set to training: that would overwrite what it remembers, while it runs. Its
calls are answered with the batch's own statistics instead, so that nothing in it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from seamscope.dice import dice
from seamscope.explain.feature_statistics import (
    BatchExperiment,
    FeatureStatistics,
    tile_batches,
    tile_case,
)
from seamscope.models.model import Model
from seamscope.normalization.audit import Audit
from seamscope.normalization.batch_renorm import BatchRenorm
from seamscope.normalization.calls import Call, Moments, Normalizations
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.reading import jobs_of
from seamscope.progress import QUIET, Work
from seamscope.serialization import record
from seamscope.settings import Settings
from seamscope.text import figure_text, shape_text
from seamscope.tiling import Tile

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]
SeeBoth = Callable[[tuple[int, ...], Tile, Array, Array], None]

FORWARD_ONLY = (
    "The network runs forward only, through another program: its layers were read from its file; "
    "their features, the disparity between training and evaluation and fixed statistics are not "
    "available."
)
# Disparity above which advice is given.
NOTICEABLE = 0.05


@dataclass(frozen=True)
class Disparity:
    """Distance of predictions in training and in evaluation.

    Attributes
    ----------
    channels
        Their names.
    per_channel
        ``1 - Dice`` of the values, for each channel; 0 where it is absent from both.
    hard
        ``1 - Dice`` of the classifications.
    mean_difference
        Mean of ``abs(P_train - P_eval)``.
    tiles
        ``(frames, *grid)`` mean difference in each tile's core: where the two differ.
    batch
        Tiles per batch in training.
    plan
        Of the tiles.
    """

    channels: tuple[str, ...]
    per_channel: tuple[float, ...]
    hard: tuple[float, ...]
    mean_difference: float
    tiles: Floats
    batch: int
    plan: Plan

    @property
    def worst(self) -> float:
        """Of the worst channel."""
        return max(self.per_channel)

    def sentence(self) -> str:
        """Say in one sentence how large it is."""
        name = self.channels[int(np.argmax(self.per_channel))]
        where = f" of {name}" if len(self.channels) > 1 else ""
        return (
            f"Train/eval disparity{where}: {figure_text(self.worst)} (0: training and evaluation "
            f"predict alike; batches of {self.batch})."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the figures and the tile's size, without the map of tiles."""
        return record(
            channels=self.channels,
            per_channel=self.per_channel,
            hard=self.hard,
            mean_difference=self.mean_difference,
            batch=self.batch,
            tile=self.plan.grid.tile_shape,
        )


def has_running_statistics(audit: Audit) -> bool:
    """Whether training and evaluation differ at all."""
    return audit.watched and any(layer.statistics == "running" for layer in audit.layers)


def measure_disparity(
    image: Any,
    model: str | nn.Module | Model | None = None,
    settings: Settings | None = None,
    *,
    see: SeeBoth | None = None,
    trust: bool = False,
    axes: str | None = None,
    work: Work = QUIET,
    **asked: Any,
) -> Disparity | None:
    """Predict an image as in training and as in evaluation, and compare.

    Parameters
    ----------
    image, model, settings, trust, axes, asked
        As for `seamscope.predict`. `tile` and `batch` are those of training; the disparity
        depends on them.
    see
        Called with frame, tile, and both predictions ``(C, *core)`` of its core: for a map pixel
        by pixel.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Returns
    -------
    Disparity or None
        None for networks without running statistics, which train as they predict.

    Notes ----- Only normalization is switched: dropout stays off.
    `seamscope.normalization.batch_renorm` layers are corrected as they would be in training, where
    the network is a loaded module; in a script or exported program they look like BatchNorm.
    """
    case = tile_case(Case.open(image, model, settings, trust=trust, axes=axes, **asked))
    network = case.model
    if not has_running_statistics(network.audit):
        return None
    plan = case.plan
    jobs = tuple(jobs_of(plan, None))
    sums = _Sums(plan)
    train = Normalizations(_Training(network))
    evaluation = Normalizations(lambda call: None)
    done = 0
    phase = "Predicting as in training and as in evaluation"
    for batch, x in tile_batches(case, jobs, work, phase):
        pair = [mode.run(network.forward, x).float().cpu().numpy() for mode in (train, evaluation)]
        for job, one, other in zip(batch, *pair, strict=True):
            cores = [prediction[:, *job.tile.crop] for prediction in (one, other)]
            sums.add(job.frame, job.tile, *cores)
            if see is not None:
                see(job.frame, job.tile, *cores)
        done += len(batch)
        work.step(done, len(jobs))
    return sums.disparity(network.channels_of(plan.facts))


class _Training:
    """Answers calls as layers would in training."""

    def __init__(self, model: Model) -> None:
        self._renorms: dict[int, BatchRenorm] = {}
        parts = dict(model.module.named_modules())
        for layer in model.audit.layers:
            part = parts.get(layer.name or "")
            if isinstance(part, BatchRenorm):
                self._renorms[layer.calls[0]] = part

    def __call__(self, call: Call) -> Moments | None:
        if call.running is None:
            return None
        renorm = self._renorms.get(call.number)
        own = call.moments()
        return own if renorm is None else _corrected(own, call.running, renorm)


def _corrected(
    own: Moments, running: tuple[torch.Tensor, torch.Tensor], layer: BatchRenorm
) -> Moments:
    """Moments by which normalizing is what batch renormalization does in training."""
    r_max, d_max = layer.limits
    shape = own.mean.shape
    mean, std = running[0].reshape(shape), (running[1].reshape(shape) + layer.eps).sqrt()
    spread = (own.var + layer.eps).sqrt()
    r = (spread / std).clamp(1 / r_max, r_max)
    d = ((own.mean - mean) / std).clamp(-d_max, d_max)
    return Moments(own.mean - d * spread / r, (spread / r).square() - layer.eps, own.count)


class _Sums:
    """Terms of Dice over all cores."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        channels = plan.facts.out_channels
        self._product, self._squares = np.zeros(channels), np.zeros(channels)
        self._both, self._either = np.zeros(channels), np.zeros(channels)
        self._difference, self._pixels = 0.0, 0
        self._tiles: dict[tuple[int, ...], Floats] = {}

    def add(self, frame: tuple[int, ...], tile: Tile, train: Array, evaluation: Array) -> None:
        space = tuple(range(1, train.ndim))
        p, q = train.astype(np.float64), evaluation.astype(np.float64)
        self._product += (p * q).sum(space)
        self._squares += (p * p + q * q).sum(space)
        a, b = self._classes(train), self._classes(evaluation)
        self._both += (a & b).sum(space)
        self._either += a.sum(space) + b.sum(space)
        apart = np.abs(p - q)
        self._difference += float(apart.sum())
        self._pixels += apart.size
        shape = self._plan.grid.shape
        self._tiles.setdefault(frame, np.full(shape, np.nan))[tile.index] = apart.mean()

    def _classes(self, prediction: Array) -> Array:
        if len(prediction) == 1:
            found: Array = prediction > self._plan.settings.threshold
            return found
        numbers = np.arange(len(prediction)).reshape(-1, *[1] * (prediction.ndim - 1))
        return np.asarray(prediction.argmax(0) == numbers)

    def disparity(self, channels: tuple[str, ...]) -> Disparity:
        return Disparity(
            channels,
            _mismatch(self._product, self._squares),
            _mismatch(self._both, self._either),
            self._difference / max(self._pixels, 1),
            np.stack([self._tiles[frame] for frame in sorted(self._tiles)]),
            self._plan.settings.batch,
            self._plan,
        )


def _mismatch(common: Floats, total: Floats) -> tuple[float, ...]:
    """``1 - Dice``; 0 where a class is in neither prediction."""
    return tuple(map(float, 1 - dice(common, total, absent=1.0)))


# -- what to do about it


def advice(
    audit: Audit,
    disparity: Disparity | None = None,
    features: FeatureStatistics | None = None,
    batches: BatchExperiment | None = None,
    bounded: bool = False,
) -> tuple[str, ...]:
    """Say what follows from what was measured; one sentence for each thing to do.

    `bounded` says that a halo was found to be enough, whatever the layers take.
    """
    said = [*_on_layers(audit, bounded)]
    if disparity is not None and disparity.worst < NOTICEABLE:
        said.append("Training and evaluation agree: the remembered statistics fit this image.")
    elif disparity is not None:
        said.append(
            f"{disparity.sentence()} If the network was trained with such batches, of tiles of "
            f"{shape_text(disparity.plan.grid.tile_shape)}, what it remembers does not fit what it "
            "learned. Retrain with larger batches or more similar ones (sample patches with "
            "foreground, keep the share of classes), or with BatchRenorm "
            "(seamscope.replace_normalization)."
        )
    if batches is not None and features is not None:
        said.append(_on_batches(batches, features))
    return tuple(said)


def _on_layers(audit: Audit, bounded: bool) -> list[str]:
    said = []
    own = len(audit.tile_layers)
    if bounded and (own or audit.global_operations):
        said.append(
            "What the network takes of the whole tile makes no difference to what it predicts: a "
            "halo is enough."
        )
    elif own:
        remedy = "fix them with seamscope freeze, without retraining"
        if not audit.watched:
            remedy = "use tiles as large as memory allows"
        said.append(
            f"{own} layer{'s' * (own > 1)} normalize{'s' * (own == 1)} with per-tile statistics, "
            f"so that no halo makes tiles agree: {remedy}."
        )
    if audit.layers and not audit.watched:
        said.append(FORWARD_ONLY)
    for repairable in (True, False):
        found = [one for one in audit.global_operations if one.repairable == repairable]
        if found and not bounded:
            names = ", ".join(map(str, found))
            can = (
                "can be fixed too"
                if repairable
                else "cannot be fixed: use tiles as large as memory allows, and a blend"
            )
            couple = "couples" if len(found) == 1 else "couple"
            said.append(f"{names[:1].upper()}{names[1:]} {couple} the whole tile and {can}.")
    if not said and audit.layers:
        count = len(audit.layers)
        by = "1 layer normalizes" if count == 1 else f"All {count} layers normalize"
        said.append(f"{by} with statistics remembered from training: a halo is enough.")
    elif not said:
        said.append("No layer normalizes, and nothing couples the whole tile: a halo is enough.")
    return said


def _on_batches(batches: BatchExperiment, features: FeatureStatistics) -> str:
    tile = shape_text(features.plan.grid.tile_shape)
    enough = batches.representative
    if enough == batches.sizes[0]:
        return f"Single tiles of {tile} already have the statistics of the image."
    if enough is None:
        return (
            f"Even {batches.sizes[-1]} tiles of {tile} drawn at random do not have the statistics "
            f"of the image (their means differ by {figure_text(batches.worst[-1])} standard "
            "deviations): its parts differ too much. Sample patches by what they show."
        )
    return (
        f"{enough} tiles of {tile} per batch are needed before a batch has the statistics of the "
        f"image; the means of a single tile differ by {figure_text(batches.typical[0])} standard "
        "deviations."
    )
