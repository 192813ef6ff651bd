"""Batch renormalization, for those who retrain: the same statistics in training and in prediction.

Knows one layer and how to put it into a network. Does not know how networks are trained.

BatchNorm normalizes a training batch with the statistics of that batch and predicts with remembered
ones. With one or two tiles per batch the two differ widely. Batch renormalization (Ioffe
2017, "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models")
corrects each batch to what the remembered statistics would give, within limits::

    r = clip(std_batch / std, 1 / r_max, r_max)              d = clip((mean_batch - mean) / std,
    y = (x - mean_batch) / std_batch * r + d                          -d_max, d_max)
    mean += momentum * (mean_batch - mean)                   std += momentum * (std_batch - std)

No gradient flows through ``r`` and ``d``. With ``r_max = 1`` and ``d_max = 0`` it is BatchNorm; so
training begins, and the limits are widened once the remembered statistics mean something. In
evaluation it is BatchNorm in evaluation: local, and folded into the convolution before it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from seamscope.errors import SettingsError

Kind: TypeAlias = Literal["BatchRenorm", "BatchNorm", "InstanceNorm", "GroupNorm"]


@dataclass(frozen=True)
class Warmup:
    """When the limits of batch renormalization are widened, in training steps.

    Attributes
    ----------
    begin
        Until here the layer is BatchNorm.
    r_end, d_end
        Here the limits have reached `r_max` and `d_max`; in between they grow linearly. The
        defaults are the paper's, for a training of 160,000 steps: scale them to yours.
    """

    begin: int = 5_000
    r_end: int = 40_000
    d_end: int = 25_000

    def limits(self, step: int, r_max: float, d_max: float) -> tuple[float, float]:
        """Limits ``(r_max, d_max)`` at a step."""

        def part(end: int) -> float:
            if step >= end:
                return 1.0
            return max(0.0, (step - self.begin) / max(end - self.begin, 1))

        return 1 + (r_max - 1) * part(self.r_end), d_max * part(self.d_end)


class BatchRenorm(_BatchNorm):
    """Batch renormalization for `axes` spatial axes.

    Parameters
    ----------
    num_features
        Channels.
    eps
        Added to the variance.
    momentum
        Weight of each batch in the remembered statistics.
    affine
        Whether scale and shift are learned.
    r_max, d_max
        Limits of the correction, after warming up.
    warmup
        When limits are widened.
    """

    axes = 2

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.01,
        affine: bool = True,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        warmup: Warmup | None = None,
    ) -> None:
        if r_max < 1 or d_max < 0:
            raise SettingsError(
                f"Limits r_max {r_max} and d_max {d_max} of BatchRenorm: use r_max of 1 or more "
                "and d_max of 0 or more (1 and 0 are BatchNorm)."
            )
        super().__init__(num_features, eps, momentum, affine)
        self.r_max, self.d_max = r_max, d_max
        self.warmup = warmup or Warmup()

    @property
    def limits(self) -> tuple[float, float]:
        """Limits ``(r_max, d_max)`` at the step that training has reached."""
        step = int(self.num_batches_tracked) if self.num_batches_tracked is not None else 0
        return self.warmup.limits(step, self.r_max, self.d_max)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalize ``(N, C, *spatial)``."""
        self._check_input_dim(input)
        if not self.training:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return self._in_training(input)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.ndim != self.axes + 2:
            raise ValueError(f"expected {self.axes + 2} dimensions, got {input.ndim}")

    def _in_training(self, x: torch.Tensor) -> torch.Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        over = (0, *range(2, x.ndim))
        shape = (1, -1) + (1,) * self.axes
        wide = x.float()  # statistics of half precision are too coarse
        mean = wide.mean(over)
        std = (wide.var(over, correction=0) + self.eps).sqrt()
        with torch.no_grad():
            r_max, d_max = self.limits
            known = (self.running_var + self.eps).sqrt()
            r = (std / known).clamp(1 / r_max, r_max)
            d = ((mean - self.running_mean) / known).clamp(-d_max, d_max)
            self._remember(mean, std, known)
        y = (wide - mean.view(shape)) * (r / std).view(shape) + d.view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _remember(self, mean: torch.Tensor, std: torch.Tensor, known: torch.Tensor) -> None:
        """Move what is remembered; the standard deviation, as the paper has it, kept squared."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = 0.01 if self.momentum is None else self.momentum
        self.num_batches_tracked += 1
        self.running_mean += momentum * (mean - self.running_mean)
        moved = known + momentum * (std - known)
        self.running_var.copy_((moved.square() - self.eps).clamp_min(0))

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{super().extra_repr()}, r_max={self.r_max}, d_max={self.d_max}"


class BatchRenorm1d(BatchRenorm):
    """Batch renormalization of ``(N, C, X)`` (see the module's documentation)."""

    axes = 1


class BatchRenorm2d(BatchRenorm):
    """Batch renormalization of ``(N, C, Y, X)`` (see the module's documentation).

    Examples
    --------
    >>> layer = BatchRenorm2d(4, warmup=Warmup(100, 1000, 500))
    >>> layer(torch.randn(1, 4, 8, 8)).shape
    torch.Size([1, 4, 8, 8])
    """

    axes = 2


class BatchRenorm3d(BatchRenorm):
    """Batch renormalization of ``(N, C, Z, Y, X)`` (see the module's documentation)."""

    axes = 3


_RENORMS = {1: BatchRenorm1d, 2: BatchRenorm2d, 3: BatchRenorm3d}
_BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_AXES: dict[type[nn.Module], int] = {
    kind: axes for table in (_RENORMS, _BATCH, _INSTANCE) for axes, kind in table.items()
}


def replace_normalization(
    model: nn.Module,
    to: Kind = "BatchRenorm",
    *,
    axes: int | None = None,
    groups: int = 8,
    **options: Any,
) -> nn.Module:
    """Return a copy of a network with other normalization layers.

    Parameters
    ----------
    model
        The network; it is not changed. Its InstanceNorm, BatchNorm, GroupNorm and BatchRenorm
        layers are replaced; learned scales and shifts are kept, and what was remembered wherever
        the new layer remembers too.
    to
        Kind of the new layers.
    axes
        Spatial axes, where a GroupNorm does not define them.
    groups
        For GroupNorm; as many as divide a layer's channels where these do not.
    options
        For the new layers: ``momentum``, ``eps``, and for BatchRenorm ``r_max``, ``d_max``,
        ``warmup``.

    Returns
    -------
    torch.nn.Module
        In the mode of `model`. Statistics that were not remembered before must be learned: train.

    Raises
    ------
    SettingsError
        Where it has no such layers, or a GroupNorm's axes are not known.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True))
    >>> replace_normalization(net, warmup=Warmup(100, 1000, 500))[1].axes
    2
    """
    if to not in ("BatchRenorm", "BatchNorm", "InstanceNorm", "GroupNorm"):
        raise SettingsError(
            f"Normalization {to!r}: choose BatchRenorm, BatchNorm, InstanceNorm or GroupNorm."
        )
    twin = copy.deepcopy(model)
    old = [
        (name, part)
        for name, part in twin.named_modules()
        if type(part) in _AXES or isinstance(part, nn.GroupNorm)
    ]
    if not old:
        raise SettingsError(
            f"{type(model).__name__} has no InstanceNorm, BatchNorm or GroupNorm layers to "
            "replace: put a layer in by hand (seamscope.normalization.batch_renorm.BatchRenorm2d)."
        )
    known = axes or next((_AXES[type(p)] for _, p in old if type(p) in _AXES), None)
    for name, part in old:
        own = _AXES.get(type(part), known)
        if own is None:
            raise SettingsError(
                "A GroupNorm does not define how many spatial axes it has: give axes=2 or axes=3."
            )
        made = _made(part, to, own, groups, options)
        made.train(part.training)
        if not name:
            return made
        parent, _, last = name.rpartition(".")
        setattr(twin.get_submodule(parent), last, made)
    return twin


def _made(part: Any, to: Kind, axes: int, groups: int, options: dict[str, Any]) -> nn.Module:
    channels = part.num_channels if isinstance(part, nn.GroupNorm) else part.num_features
    affine = part.weight is not None
    options = {"eps": part.eps} | options
    made: Any
    if to == "GroupNorm":
        fitting = max(g for g in range(1, min(groups, channels) + 1) if channels % g == 0)
        made = nn.GroupNorm(fitting, channels, affine=affine, **options)
    else:
        table: Any = {"BatchRenorm": _RENORMS, "BatchNorm": _BATCH, "InstanceNorm": _INSTANCE}[to]
        made = table[axes](channels, affine=affine, **options)
    if affine:
        made.weight, made.bias = part.weight, part.bias
        made.to(part.weight.device)
    _keep_remembered(part, made)
    return made  # type: ignore[no-any-return]


def _keep_remembered(old: Any, new: Any) -> None:
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        was, now = getattr(old, name, None), getattr(new, name, None)
        if was is not None and now is not None:
            now.copy_(was)


__all__ = ["BatchRenorm1d", "BatchRenorm2d", "BatchRenorm3d", "Warmup", "replace_normalization"]
