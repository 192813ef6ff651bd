"""Seamless prediction without retraining: statistics of a whole image, found tile by tile.

Knows in which order tiles and layers are visited, what is kept meanwhile, and what that costs.
Does not know how calls are seen or statistics merged.

Exact ones, and those of a sample. A layer's statistics depend on those of all layers before it, for
all tiles. So layer after layer is completed: every tile goes on to the layer, gives the sums of its
features there, and stops; then all know the layer's statistics and go on. Only cores are counted,
each pixel once, at halos as wide as the convolutions reach; then the sums are those of the image
run at once.

Tiles wait in lockstep, in memory or on disk, so that the network runs once in all. Tiles for which
there is no room begin anew for each layer, with the statistics found so far.

::

    layer       0     1     2              (0, 1 ... where a tile stops)
    tile a      0 --- 1 --- 2              waits in memory or on disk
    tile b      0 --- 1 --- 2
    tile c      0                          no room:
                ----- 1                      begins anew
                ----------- 2

Local ones. The network runs once on each window of a grid that is fixed in the image, with the
window's own statistics in all layers, as it does on a patch in training; a pixel then gets what
lies between the windows whose middles surround it. Windows are two cells wide and one cell apart::

    image     [                                  )
    windows   [---- x ----)                            x: middle, where its statistics hold
                    [---- x ----)
                          [---- x ----)

Statistics of several layers belong together: a layer is given features that were normalized by
those before it. So no layer's are counted over features that others' local statistics normalized
differently from place to place, as layer by layer they would be: they would fit no patch that the
network ever saw. Of what a network takes by hand, one number for all pixels, there is one for the
image: over the windows' features, each pixel of the image in one window only, about whose middle it
lies. ``benchmarks/frozen_statistics.py`` shows both, and how accurate each way is.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from functools import partial as partial_of
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import psutil
import torch
from torch import nn

from seamscope.errors import ModelError, SettingsError
from seamscope.images.image import Image, open_image
from seamscope.loaders import load_model
from seamscope.models.model import Model
from seamscope.normalization.audit import Audit, NormLayer
from seamscope.normalization.calls import Call, Moments, Normalizations
from seamscope.normalization.pausing import PausableNetwork, Paused
from seamscope.normalization.statistics import (
    PATCH,
    Collector,
    How,
    LayerStatistics,
    Statistics,
)
from seamscope.planning.plan import Plan, Settings, available_memory, resolve
from seamscope.planning.reading import Cancelled, Job, TileReader, whole_image_intensity
from seamscope.repair.sampling import Sample, diverse_tiles
from seamscope.tiling import AxisTiling, Tile

Progress: TypeAlias = Callable[[int, int], None]

# Part of the free memory, and of the free disk, in which tiles may wait.
_MEMORY_SHARE, _DISK_SHARE = 0.4, 0.5
_SAVES = 20  # of what is known, on the way
TILES = 16
# Measured with 14 layers and tiles of 256 x 256, in units of the work itself: stopping, counting
# and going on for tiles that wait in memory or on disk, or do not wait; and a window's pass.
_IN_MEMORY, _ON_DISK, _ANEW, _WINDOW = 1.15, 2.8, 1.2, 1.15
# What each window costs besides, as the work on so many pixels (windows of 64 to 256, in 2D).
_EACH_WINDOW = 5500
_NO_ROOM = 2.0**62  # bytes for each pixel: what must not wait finds no room
# Tiles on which the two halves of a sample are compared.
_JUDGED = 4
# A sample of so many cannot be halved in a way that tells anything.
_TOO_FEW = 3


# -- what it will cost


@dataclass(frozen=True)
class FreezePlan:
    """How statistics will be found, and what that costs.

    Attributes
    ----------
    how
        ``"exact"``, ``"local"`` or ``"sampled"``.
    plan
        Of the tiles; of the windows, for local statistics.
    calls
        Calls of the forward pass whose statistics are wanted.
    tiles
        Tiles or windows to visit.
    in_memory, on_disk, recomputed
        How many of them wait where; the rest begins anew for each layer. Windows do neither.
    passes
        Cost in units of one prediction of the tiles asked for, the halves for the distance
        included.
    memory, disk
        Bytes at the most.
    cell
        For local statistics: how far windows lie apart in pixels of the image, half their extent.
    survey
        What the network does at its calls.
    """

    how: How
    plan: Plan
    calls: tuple[int, ...]
    tiles: int
    in_memory: int
    on_disk: int
    passes: float
    memory: int
    disk: int
    cell: tuple[int, ...] | None
    survey: _Survey = field(repr=False)

    @property
    def recomputed(self) -> int:
        """Tiles that begin anew for each layer."""
        return 0 if self.how == "local" else self.tiles - self.in_memory - self.on_disk

    @property
    def window(self) -> str:
        """Extent of a tile or window, as it is told."""
        return " x ".join(map(str, self.plan.grid.tile_shape))

    @property
    def sentence(self) -> str:
        """What will be done, what it costs, and what is to be known of it."""
        return " ".join([self.cost, *self.notes])

    @property
    def notes(self) -> tuple[str, ...]:
        """What keeps statistics from those of the whole image, in sentences."""
        return tuple(_notes(self))

    @property
    def cost(self) -> str:
        """What will be done and what it costs."""
        cost = (
            f"about {self.passes:.1f} times one tiled prediction, {_bytes(self.memory)} of memory"
        )
        if self.disk:
            cost += f" and {_bytes(self.disk)} of disk"
        layers = f"{len(self.calls)} layer{'s' * (len(self.calls) > 1)}"
        if self.tiles == 1 and len(self.plan.grid) == 1:
            return f"The image is run at once, {layers} in one pass: {cost}."
        if self.how == "local":
            return f"{self.tiles} windows of {self.window} pixels are run, once each: {cost}."
        if not self.recomputed:
            place = "on disk" if self.on_disk else "in memory"
            return (
                f"{self.tiles} tile{'s go' if self.tiles > 1 else ' goes'} in lockstep through "
                f"{layers}, waiting {place}: {cost}."
            )
        why = "have no room to wait" if self.survey.resumable else (
            "cannot wait, since the network's code reads numbers,"
        )  # fmt: skip
        return (
            f"{self.recomputed} of {self.tiles} tiles {why} and begin anew for each of {layers}: "
            f"{cost}."
        )


def _notes(plan: FreezePlan) -> Iterator[str]:
    own, model_reach = plan.plan, plan.plan.reach.convolutional
    if plan.how == "exact" and len(own.grid) > 1:
        if model_reach is None:
            yield (
                "The network sees the whole tile besides, so that features, and with them the "
                "statistics, are near those of the whole image and not equal to them."
            )
        elif any(
            not axis.single and (axis.halo[0] < need[0] or axis.halo[1] < need[1])
            for axis, need in zip(own.grid.axes, model_reach, strict=True)
        ):
            halo, need = (max(map(max, sides)) for sides in (own.grid.halo, model_reach))
            yield (
                f"With a halo of {halo}, less than the {need} that the convolutions reach, the "
                "statistics are near those of the whole image and not equal to them: leave the "
                "halo to be chosen."
            )
    if plan.how == "sampled" and plan.tiles <= _TOO_FEW:
        yield f"Of {plan.tiles} tiles no distance to exact statistics can be told: use 4 or more."
    spatial = [name for name in own.settings.area or {} if name in own.layout.spatial]
    if spatial:
        yield (
            f"An area along {' and '.join(spatial)} is not looked at: statistics are those of "
            "whole images, so that a part is predicted as it is in the whole."
        )


def _nothing_to_fix(model: Model, audit: Audit) -> str:
    told = f"Nothing to freeze: no layer of {model.name} uses statistics of its tile."
    beyond = [str(one) for one in audit.global_operations if not one.repairable]
    if beyond:
        return (
            f"{told} It sees the whole tile by {', '.join(beyond)}, which cannot be fixed: use "
            "tiles as large as memory allows, and the best blend (seamscope blends)."
        )
    return f"{told} {model.describe()}"


def plan_freeze(
    model: Model,
    image: Image,
    how: How = "exact",
    settings: Settings | None = None,
    *,
    cell: int | Sequence[int] | None = None,
    tiles: int = TILES,
    memory: int | None = None,
    disk: int | None = None,
) -> FreezePlan:
    """Decide how statistics are found, without running anything but the network's probes.

    Parameters as for `freeze_statistics`.
    """
    if how not in ("exact", "local", "sampled"):
        raise SettingsError(f"how {how!r}: choose exact, local, sampled, or a file of statistics.")
    audit = model.audit
    if not audit.watched:
        raise SettingsError(
            f"The statistics of {model.name} cannot be frozen, since it runs forward only, through "
            "another program: install what converts it (onnx2torch), or get the network as .pt2, "
            "TorchScript or Python."
        )
    if not audit.calls:
        raise SettingsError(_nothing_to_fix(model, audit))
    if how == "sampled" and tiles < 1:
        raise SettingsError(f"{tiles} tiles are no sample: use 1 or more, best 8 to 32.")
    for what, limit in (("memory", memory), ("disk", disk)):
        if limit is not None and limit < 0:
            raise SettingsError(f"{what} {limit}: give a number of bytes, 0 for none, or None.")
    free = psutil.virtual_memory().available
    room = int(free * _MEMORY_SHARE) if memory is None else memory
    plan = _tiles(settings or Settings(), model, image, how, room)
    survey = _Survey.of(model, audit)
    if how == "local":
        windows = _plan_windows(model, image, plan, survey, _whole_periods(cell, model))
        if windows.memory > (room := _room_on(windows.plan, room)):
            raise SettingsError(
                f"A window of {windows.window} pixels needs about {_bytes(windows.memory)} and "
                f"{_bytes(room)} may be used: give a smaller cell (it is half a window)."
            )
        return windows
    count = len(plan.grid) * plan.frames
    visited = min(tiles, count) if how == "sampled" else count
    waiting = survey.waiting * math.prod(plan.grid.tile_shape)
    space = shutil.disk_usage(tempfile.gettempdir()).free * _DISK_SHARE if disk is None else disk
    room -= plan.bytes_per_tile
    in_memory = min(visited, max(0, int(room // waiting)))
    if visited == 1 and survey.resumable:
        in_memory = 1  # nothing else needs the room
    on_disk = min(visited - in_memory, int(space // waiting))
    return FreezePlan(
        how,
        plan,
        audit.calls,
        visited,
        in_memory,
        on_disk,
        survey.passes(how, in_memory, on_disk, visited - in_memory - on_disk) / count,
        memory=int(plan.bytes_per_tile + (in_memory * waiting if visited > 1 else 0)),
        disk=int(on_disk * waiting),
        cell=None,
        survey=survey,
    )


def _plan_windows(
    model: Model, image: Image, asked: Plan, survey: _Survey, cell: tuple[int, ...]
) -> FreezePlan:
    """Lay windows of two cells over the image, one cell apart; `asked` is what would be tiled."""
    calls = model.audit.calls
    # a spread around a window's own mean is none around the image's, which is what answers
    written = any(layer.kind == "hand-written" for layer in model.audit.layers)
    if written or survey.by_hand >= set(calls):
        raise SettingsError(
            f"{model.name} takes statistics by hand, one number for all pixels of a tile, so that "
            "they cannot vary over the image: choose exact."
        )
    window, overlap = [], []
    for axis, extent in zip(asked.grid.axes, cell, strict=True):
        lattice = axis.lattice
        lost = sum(lattice.crop)
        window.append(lattice.size_at_least(min(2 * extent, axis.size + lost)))
        overlap.append((window[-1] - lost) // 2 // lattice.pitch * lattice.pitch)
    settings = asked.settings.but(tile=tuple(window), halo=0, overlap=tuple(overlap))
    plan = resolve(settings, model, image)
    tiles = len(plan.grid) * plan.frames
    share = plan.grid.redundancy / asked.grid.redundancy
    return FreezePlan(
        "local",
        plan,
        calls,
        tiles,
        in_memory=0,
        on_disk=0,
        passes=share * (_WINDOW + _EACH_WINDOW / math.prod(plan.grid.tile_shape)),
        memory=plan.bytes_per_tile,
        disk=0,
        cell=cell,
        survey=survey,
    )


def _tiles(settings: Settings, model: Model, image: Image, how: How, room: int) -> Plan:
    """Tiles to visit; the whole image as one where nobody asks otherwise and it fits."""
    settings = settings.but(blend="crop", batch=1, precision="float32", result="probabilities")
    plan = resolve(settings.but(seams="none"), model, image)
    if settings.tile != "auto" or how != "exact" or len(plan.grid) == 1:
        return plan
    whole = tuple(
        axis.lattice.size_at_least(axis.size + sum(axis.lattice.crop)) for axis in plan.grid.axes
    )
    if any(axis.lattice.fixed for axis in plan.grid.axes):
        return plan
    at_once = resolve(settings.but(tile=whole, seams="none"), model, image)
    return at_once if at_once.bytes_per_tile <= _room_on(plan, room) else plan


def _room_on(plan: Plan, room: int) -> int:
    """Bytes for a pass on the plan's device, of which `room` are on the CPU."""
    device = plan.settings.device
    return room if device == "cpu" else available_memory(device)


def _whole_periods(cell: int | Sequence[int] | None, model: Model) -> tuple[int, ...]:
    """Cells of whole periods, so that they are whole pixels of every layer's features."""
    ndim = model.facts.spatial_axes
    cell = PATCH[ndim] if cell is None else cell
    asked = (cell,) * ndim if isinstance(cell, int) else tuple(cell)
    if len(asked) != ndim or min(asked) < 1:
        raise SettingsError(
            f"Cell {cell}: give one number of pixels above 0, or one for each of {ndim} axes."
        )
    pitches = [axis.pitch for axis in model.facts.lattice]
    return tuple(max(1, round(c / p)) * p for c, p in zip(asked, pitches, strict=True))


@dataclass(frozen=True)
class _Survey:
    """What a network does at its calls, from two small inputs.

    Attributes
    ----------
    scale
        For each call, pixels of its features for each pixel of input, along each axis.
    shares
        For each call, the part of the network's work that is done before it.
    waiting
        Bytes a stopped tile holds for each input pixel, at most.
    by_hand
        Calls by which the network takes one number for all pixels, to use it as it likes.
    resumable
        Whether a stopped tile can go on; else all begin anew for each call.
    """

    scale: Mapping[int, tuple[Fraction, ...]]
    shares: tuple[float, ...]
    waiting: float
    by_hand: frozenset[int]
    resumable: bool = True

    def passes(self, how: How, in_memory: int, on_disk: int, anew: int) -> float:
        """Cost of so many tiles, in units of predicting one."""
        kept = in_memory * _IN_MEMORY + on_disk * _ON_DISK
        once = kept * self.shares[-1] + anew * sum(self.shares) * _ANEW
        halves = how == "sampled" and in_memory + on_disk + anew > _TOO_FEW
        return 2 * (once + _JUDGED) if halves else once

    @classmethod
    def of(cls, model: Model, audit: Audit) -> _Survey:
        small, large = model.examples
        with model.on_cpu():
            one, two = (_surveyed(model, x[:1], audit.calls) for x in (small, large))
            _check_axes(model, small, one, large[:1], two)
        pixels = math.prod(large.shape[2:]) - math.prod(small.shape[2:])
        scale = {
            call: _scale(small.shape[2:], one.spaces[call], large.shape[2:], two.spaces[call])
            for call in audit.calls
        }
        resumable = one.resumable and two.resumable
        if not resumable:
            waiting = _NO_ROOM
        elif pixels:
            waiting = max((b - a) / pixels for a, b in zip(one.held, two.held, strict=True))
        else:
            waiting = max(one.held) / math.prod(small.shape[2:])
        return cls(scale, tuple(two.shares), waiting, frozenset(two.by_hand), resumable)


@dataclass
class _Seen:
    spaces: dict[int, tuple[int, ...]] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    by_hand: set[int] = field(default_factory=set)
    resumable: bool = True
    exchanged: set[int] = field(default_factory=set)  # calls after axes of space were
    flattened: set[int] = field(default_factory=set)  # and those of them on flattened space


def _surveyed(model: Model, x: torch.Tensor, calls: Sequence[int]) -> _Seen:
    seen = _Seen()
    held = (*model.module.parameters(), *model.module.buffers())
    network = PausableNetwork(model.forward, held)
    seen.resumable = network.resumable(x.clone())
    work = _Work(calls, seen)
    work.run(model.forward, x.clone())
    seen.shares = [share / work.done for share in work.before] if work.done else [1.0] * len(calls)
    if seen.resumable:
        paused = network.begin(x.clone())
        for call in calls:
            paused = network.advance(paused, call, lambda call: None)
            seen.held.append(paused.nbytes)
    return seen


def _check_axes(
    model: Model, small: torch.Tensor, one: _Seen, large: torch.Tensor, two: _Seen
) -> None:
    """Refuse features whose spatial axes are not the image's, in its order.

    Inputs are small along the first axes and large along the others; so must features be. Where
    space is flattened, or the network takes one size only, axes may not have been exchanged before.
    """
    ndim = small.ndim - 2
    fixed = small.shape[2:] == large.shape[2:]
    for call in one.spaces:
        unknown = one.flattened | two.flattened | (one.exchanged if fixed else set())
        if call in unknown or len(one.spaces[call]) != ndim:
            raise ModelError(_other_axes(model, call))
    for first in range(1, ndim):
        box = [slice(n) for n in small.shape[2 : 2 + first]]
        seen = _Seen()
        try:
            _Work(tuple(one.spaces), seen).run(model.forward, large[:, :, *box].clone())
        except Exception:  # whatever a network raises means "not this shape"
            continue
        for call, space in one.spaces.items():
            expected = (*space[:first], *two.spaces[call][first:])
            if call in seen.flattened or seen.spaces.get(call) != expected:
                raise ModelError(_other_axes(model, call))


def _other_axes(model: Model, call: int) -> str:
    layer = next((layer for layer in model.audit.layers if call in layer.calls), None)
    name = "Global pooling (a mean taken by hand)" if layer is None else layer.kind
    at = f" {layer.name}" if layer is not None and layer.name else ""
    return (
        f"{name}{at} of {model.name} sees the axes of space not in the image's order: freeze a "
        "network that leaves (Z, Y, X) in order, and give it the image with its axes exchanged."
    )


class _Work(Normalizations):
    """Sees the calls, and counts multiplications of convolutions until each and in all."""

    def __init__(self, calls: Sequence[int], seen: _Seen) -> None:
        super().__init__(self._note)
        self._calls, self._seen = calls, seen
        self.before: list[int] = []
        self.done = 0
        self._exchanged = False  # whether axes of space were, so far
        self._ndim = 0  # of what the operation at hand is given

    def _note(self, call: Call) -> None:
        if call.number in self._calls:
            self.before.append(self.done)
            self._seen.spaces[call.number] = call.space
            if call.kind in ("mean", "variance"):
                self._seen.by_hand.add(call.number)
            if self._exchanged:
                flat = self._ndim < call.features.ndim
                (self._seen.flattened if flat else self._seen.exchanged).add(call.number)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self._ndim = args[0].ndim if args and isinstance(args[0], torch.Tensor) else 0
        self._exchanged = self._exchanged or self._exchanges(func, args)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if "convolution" in func.__name__:
            transposed = args[0].numel() > result.numel()
            self.done += max(args[0].numel() * transposed, result.numel()) * args[1][0].numel()
        return result

    def _exchanges(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether an operation exchanges axes of space, also of features as wide as high."""
        name, ndim = func.__name__.split(".")[0], len(self.space)
        if name not in ("transpose", "permute") or self._ndim != ndim + 2:
            return False
        dims = list(range(self._ndim))
        if name == "permute":
            dims = [d % self._ndim for d in args[1]]
        else:
            a, b = args[1], args[2]
            dims[a], dims[b] = dims[b], dims[a]
        spaces = [slice(first, first + ndim) for first in (1, 2)]  # channels last, or first
        orders = [
            [d for d in dims if space.start <= d < space.stop]
            for space in spaces
            if tuple(args[0].shape[space]) == self.space
        ]
        return bool(orders) and all(order != sorted(order) for order in orders)


def _scale(
    small: Sequence[int], one: Sequence[int], large: Sequence[int], two: Sequence[int]
) -> tuple[Fraction, ...]:
    """Features' pixels for each of input: by the difference, since borders may be lost."""
    return tuple(
        Fraction(d - c, b - a) if b != a else Fraction(c, a)
        for a, c, b, d in zip(small, one, large, two, strict=True)
    )


# -- doing it


def freeze_statistics(
    model: str | nn.Module | Model,
    image: Any,
    how: How = "exact",
    settings: Settings | None = None,
    *,
    trust: bool = False,
    axes: str | None = None,
    cell: int | Sequence[int] | None = None,
    tiles: int = TILES,
    memory: int | None = None,
    disk: int | None = None,
    partial: Path | None = None,
    cancelled: Cancelled | None = None,
    on_progress: Progress | None = None,
    **asked: Any,
) -> Statistics:
    """Find the statistics by which all tiles of an image are to be normalized.

    Parameters
    ----------
    model
        Module in hand, loaded model, or a string as for `seamscope.load_model`.
    image
        Array-like, path or `Image`; its frames (time and the like) are taken together, so choose
        one by `area` where they differ.
    how
        ``"exact"``: of the whole image, as if it were run at once. ``"local"``: of windows all
        over it, somewhat larger than training patches, and interpolated in between (see Notes).
        ``"sampled"``: estimated from a few tiles that differ as much as possible.
    settings
        Tiles, intensities, device, area of frames as for `seamscope.predict`; single ones may be
        given by name. ``tile="auto"`` runs the image at once where it fits. Local statistics have
        windows of their own, and do not depend on tiles.
    trust, axes
        As for `seamscope.predict`.
    cell
        For local ones: pixels, about the extent of the patches that the network was trained with.
        Windows are twice as wide, and lie one cell apart. By default 128 in 2D and 64 in 3D.
    tiles
        For sampled ones: how many.
    memory, disk
        Bytes in which tiles may wait; by default a share of what is free, and with 0 none do. A
        window has to fit into `memory`.
    partial
        File for what is found on the way. If it exists, and belongs to the very same task (network,
        pixels, tiles, intensities), work goes on from there, else anew; it is removed at the end.
    cancelled
        Asked between tiles.
    on_progress
        Told tiles done and to do, over all layers; for local ones, windows.

    Returns
    -------
    Statistics
        For `Model.with_statistics`, and to be saved.

    Raises
    ------
    SettingsError
        Where nothing is to be fixed, or settings contradict each other.
    InterruptedError
        When cancelled.

    Notes
    -----
    All ways are seamless; which is closest to the truth depends on network and image. Mean Dice of
    four networks trained on patches of 160 pixels, five images of 768 each, a third of them empty
    background (``benchmarks/frozen_statistics.py``): local with cells of 128 0.983, of 64 0.973,
    of 256 0.975; exact 0.966; 16 sampled tiles 0.962; each tile's own 0.979 at 160 and 0.981 at
    256. On nuclei, which fill their image evenly, a real network had 0.792 with local ones (128)
    and 0.798 with exact ones; its tiles' own gave 0.792 and 0.796.

    A local set of statistics is that of a window in which the network ran by itself, so that those
    of all layers belong together. Counted layer by layer, over features that were normalized
    differently from place to place, they gave 0.91 and 0.87 where these gave 0.98, on two of the
    four, and 0.796 on the nuclei.

    Examples
    --------
    >>> import seamscope
    >>> image = np.random.default_rng(0).random((96, 96), np.float32)
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2)).eval()
    >>> statistics = seamscope.freeze_statistics(net, image, tile=32)
    >>> fixed = seamscope.load_model(net).with_statistics(statistics)
    >>> tiled = seamscope.predict(image, fixed, tile=32)
    >>> whole = net(torch.from_numpy(image)[None, None])[0].detach().numpy()
    >>> bool(abs(tiled - whole).max() < 1e-5)
    True
    """
    network = load_model(model, trust=trust)
    opened = image if isinstance(image, Image) else open_image(image, axes=axes)
    if axes is not None and opened.axes != axes:
        opened = opened.with_axes(axes)
    wanted = (settings or Settings()).but(**asked)
    limits: dict[str, Any] = {"cell": cell, "tiles": tiles, "memory": memory, "disk": disk}
    plan = plan_freeze(network, opened, how, wanted, **limits)
    return carry_out(plan, network, opened, partial, cancelled, on_progress)


def carry_out(
    plan: FreezePlan,
    model: Model,
    image: Image,
    partial: Path | None = None,
    cancelled: Cancelled | None = None,
    on_progress: Progress | None = None,
) -> Statistics:
    """Find statistics as planned; parameters as for `freeze_statistics`."""
    task = _Task(plan, model, image, cancelled or (lambda: False), on_progress)
    if plan.how == "local":
        found = task.local(partial)
    else:
        found = task.sampled(partial) if plan.how == "sampled" else task.whole(partial)
    if partial is not None:
        forget(partial)
    return found


def forget(partial: Path) -> None:
    """Remove what an interrupted freezing left behind, so that the next one begins anew."""
    for file in (partial, *_files_of_halves(partial)):
        file.unlink(missing_ok=True)


def _files_of_halves(partial: Path) -> tuple[Path, Path]:
    """Where the two halves of a sample are kept, by which it is judged."""
    return partial.with_name(partial.name + ".half1"), partial.with_name(partial.name + ".half2")


@dataclass(frozen=True)
class _Round:
    """Tiles with their weights, whose statistics are found layer by layer.

    Attributes
    ----------
    jobs
        Tiles, and how often each counts.
    file
        For what is found on the way, if it is to be kept.
    """

    jobs: tuple[tuple[Job, float], ...]
    file: Path | None


class _Task:
    """One freezing: the network on its device, the image as its tiles are read."""

    def __init__(
        self,
        plan: FreezePlan,
        model: Model,
        image: Image,
        cancelled: Cancelled,
        on_progress: Progress | None,
    ) -> None:
        self.plan, self.model, self.image = plan, model, image
        self.cancelled = cancelled
        self._on_progress = on_progress or (lambda done, total: None)
        self._done = self._total = 0
        intensity = whole_image_intensity(plan.plan, image, cancelled, None)
        self.reader = TileReader(plan.plan, image, intensity)
        self.runner = model.runner(plan.plan.settings.device)
        self._survey = plan.survey
        self.model.module.to(self.runner.device)

    @cached_property
    def jobs(self) -> list[Job]:
        """All tiles; of one frame after the other, also where an area cuts a part."""
        grid = self.plan.plan.grid
        frames = itertools.product(*(range(*part) for part in self.plan.plan.frame_ranges))
        return [Job(frame, tile) for frame in frames for tile in grid]

    # -- all tiles

    def whole(self, partial: Path | None) -> Statistics:
        """Statistics counted over all tiles."""
        (found,) = self._carried_out([_Round(tuple((job, 1.0) for job in self.jobs), partial)])
        return found

    def _carried_out(self, rounds: Sequence[_Round]) -> list[Statistics]:
        """Statistics of each round, going on from what was kept of it."""
        self._total = sum(len(one.jobs) for one in rounds) * len(self.plan.calls)
        return [self._one(one) for one in rounds]

    def _one(self, one: _Round) -> Statistics:
        task = "" if one.file is None else self._identity(one.jobs)
        known = _resumed(one.file, task)
        self._done += len(known) * len(one.jobs)
        layers = list(known)
        for layer in self._layers(one.jobs, known):
            layers.append(layer)
            if one.file is not None:
                self._statistics(layers, task=task).save(one.file)
        return self._statistics(layers)

    def _identity(self, jobs: Sequence[tuple[Job, float]]) -> str:
        """Hash of all that statistics depend on: what the network is, and what it is shown.

        Tiles are read as the network sees them, so that whatever changes what it sees, the image,
        its intensities, its channel, its border, changes the hash; that costs one more reading. Of
        the network, besides its weights, a prediction counts: its code may have been edited.
        """
        plan, model = self.plan, self.model
        small, _ = model.examples
        with model.on_cpu(), torch.no_grad():
            answer = model.forward(small)
        model.module.to(self.runner.device)  # where it was, even without weights that say so
        told = (plan.how, plan.calls, plan.cell, str(self.runner.device), model.fingerprint)
        digest = hashlib.sha256(repr((told, plan.plan.grid)).encode())
        digest.update(answer.float().contiguous().numpy().tobytes())
        for job, weight in jobs:
            if self.cancelled():
                raise InterruptedError
            digest.update(repr((job.frame, job.tile.index, weight)).encode())
            digest.update(self.reader.read([job]).tobytes())
        return digest.hexdigest()

    def _statistics(self, layers: Sequence[LayerStatistics], **about: Any) -> Statistics:
        plan = self.plan.plan
        told = {
            "tile": list(plan.grid.tile_shape),
            "halo": [list(side) for side in plan.grid.halo],
            "tiles": self.plan.tiles,
            "cell": None if self.plan.cell is None else list(self.plan.cell),
        }
        return Statistics(
            self.plan.how,
            tuple(layers),
            self.model.fingerprint,
            self.model.name,
            self.image.name,
            plan.grid.image_shape,
            told | plan.seen | about,
        )

    # -- windows

    def local(self, partial: Path | None) -> Statistics:
        """Statistics of windows, by the network's own pass over each; frames taken together."""
        task = "" if partial is None else self._identity([(job, 1.0) for job in self.jobs])
        windows = _Windows(self.plan, _resumed(partial, task))
        grid = self.plan.plan.grid
        often = max(1, len(grid) // _SAVES)
        self._total = len(self.jobs)
        for number, tile in enumerate(grid):
            if windows.known(tile):
                self._done += self.plan.plan.frames
                continue
            for job in self.jobs[number :: len(grid)]:
                if self.cancelled():
                    raise InterruptedError
                self._look(job, windows)
            if partial is not None and number % often == often - 1:
                self._statistics(windows.layers(self._blank), task=task).save(partial)
        return self._statistics(windows.layers(self._blank))

    def _look(self, job: Job, windows: _Windows) -> None:
        x = torch.from_numpy(self.reader.read([job])).to(self.runner.device)
        Normalizations(partial_of(windows.add, tile=job.tile)).run(self.model.forward, x)
        self._tell()

    # -- some tiles

    def sampled(self, partial: Path | None) -> Statistics:
        """Statistics estimated from a few tiles, and how far they may be from the exact ones."""
        sample = diverse_tiles(self.jobs, self.reader, self.plan.tiles, self.cancelled)
        samples = (sample, *(sample.halves() if len(sample.jobs) > _TOO_FEW else ()))
        files = (None,) * 3 if partial is None else (partial, *_files_of_halves(partial))
        rounds = [
            _Round(tuple(one.weighted), file) for one, file in zip(samples, files, strict=False)
        ]
        statistics, *twins = self._carried_out(rounds)
        if not twins:
            return statistics
        return self._statistics(statistics.layers, distance=self._distance(sample, twins))

    def _distance(self, sample: Sample, twins: Sequence[Statistics]) -> dict[str, float]:
        """Estimate how far predictions are from those with exact statistics.

        Each half of the sample misses the truth with twice the variance of the whole, and they do
        so independently; so their distance from one another is twice the whole's from the truth,
        less what a sample without repetition gains, ``sqrt(1 - n / N)``.
        """
        gain = math.sqrt(max(0.0, 1 - len(sample.jobs) / len(self.jobs)))
        apart: list[float] = []
        spread: list[float] = []
        for job in sample.jobs[:_JUDGED]:
            if self.cancelled():
                raise InterruptedError
            x = torch.from_numpy(self.reader.read([job])).to(self.runner.device)
            one, two = (Normalizations(twin.answer).run(self.model.forward, x) for twin in twins)
            apart.append(float((one - two).abs().mean()))
            spread.append(float(one.std()))
        mean = float(np.mean(apart)) / 2 * gain
        scale = float(np.mean(spread)) or 1.0
        return {"mean_difference": mean, "in_standard_deviations": mean / scale}

    # -- layer after layer

    def _layers(
        self, jobs: Sequence[tuple[Job, float]], known: Sequence[LayerStatistics]
    ) -> Iterator[LayerStatistics]:
        """Complete one layer after the other, for these tiles with their weights."""
        answers = {layer.call: layer for layer in known}
        module = self.model.module
        held = (*module.parameters(), *module.buffers()) if self._survey.resumable else ()
        network = PausableNetwork(self.model.forward, held)
        with tempfile.TemporaryDirectory(prefix="seamscope-") as folder:
            waiting = _WaitingRoom(self.plan, Path(folder))
            for call in self.plan.calls[len(known) :]:
                parts = _Parts(self.plan, self._survey.scale[call])
                for number, (job, weight) in enumerate(jobs):
                    if self.cancelled():
                        raise InterruptedError
                    paused = waiting.take(number) or self._begin(network, job)
                    see = partial_of(parts.add, tile=job.tile, weight=weight)
                    answer = self._answer(answers, job)
                    paused = network.advance(paused, call, answer, see, self.runner.device)
                    waiting.put(number, paused)
                    self._tell()
                answers[call] = parts.statistics(self._blank(call))
                yield answers[call]

    def _blank(self, call: int) -> LayerStatistics:
        """A layer of which nothing is known but what it is."""
        layer = self._names.get(call)
        name, kind = (layer.name, layer.kind) if layer else (None, "global pooling")
        none = np.zeros(0)
        return LayerStatistics(call, name, kind, none, none, none, (), self._survey.scale[call])

    @cached_property
    def _names(self) -> dict[int, NormLayer]:
        return {call: layer for layer in self.model.audit.layers for call in layer.calls}

    def _begin(self, network: PausableNetwork, job: Job) -> Paused:
        return network.begin(torch.from_numpy(self.reader.read([job])))

    def _answer(
        self, answers: Mapping[int, LayerStatistics], job: Job
    ) -> Callable[[Call], Moments | None]:
        place = self.plan.plan.grid.place(job.tile)

        def answer(call: Call) -> Moments | None:
            layer = answers.get(call.number)
            return None if layer is None else layer.moments(call, [place])

        return answer

    def _tell(self) -> None:
        self._done += 1
        self._on_progress(self._done, self._total)


def _resumed(file: Path | None, task: str) -> tuple[LayerStatistics, ...]:
    """Layers of an earlier attempt at the same task; none where the file is of no use."""
    if file is None or not file.exists():
        return ()
    try:
        earlier = Statistics.load(file)
    except ModelError:  # damaged: what it held is found anew
        return ()
    return earlier.layers if earlier.about.get("task") == task else ()


class _WaitingRoom:
    """Where stopped tiles wait: in memory, then on disk, then nowhere."""

    def __init__(self, plan: FreezePlan, folder: Path) -> None:
        self._in_memory, self._on_disk = plan.in_memory, plan.on_disk
        self._folder = folder
        self._tiles: dict[int, Paused] = {}

    def put(self, number: int, paused: Paused) -> None:
        if number >= self._in_memory + self._on_disk:
            return
        if number >= self._in_memory:
            paused.spill(self._folder / str(number))
        self._tiles[number] = paused

    def take(self, number: int) -> Paused | None:
        paused = self._tiles.pop(number, None)
        if paused is not None and number >= self._in_memory:
            paused.fetch(self._folder / str(number))
        return paused


class _Parts:
    """Which part of each tile's features counts: their cores, in the features' own pixels."""

    def __init__(
        self, plan: FreezePlan, scale: Sequence[Fraction], earlier: LayerStatistics | None = None
    ) -> None:
        self._grid = plan.plan.grid
        self._scale = scale
        self._collector = Collector((1,) * len(scale), earlier)
        self._bounds: list[list[int]] = []
        self._starts: list[list[int]] = []

    def add(self, call: Call, tile: Tile, weight: float = 1) -> None:
        if not self._starts:
            self._prepare(call)
        box = [
            slice(bounds[i] - starts[i], bounds[i + 1] - starts[i])
            for bounds, starts, i in zip(self._bounds, self._starts, tile.index, strict=True)
        ]
        one = (0,) * len(box)
        self._collector.add(one, call.features[:1, :, *box], call.groups, weight)

    def statistics(self, like: LayerStatistics) -> LayerStatistics:
        return self._collector.statistics(like)

    def _prepare(self, call: Call) -> None:
        for axis, size, scale in zip(self._grid.axes, call.space, self._scale, strict=True):
            starts, bounds = _partition(axis, size, scale)
            self._starts.append(starts)
            self._bounds.append(bounds)


class _Windows:
    """Statistics of all layers in each window, as far as they are known.

    What is taken by hand is one number for the image. Windows overlap, so only their cores count.
    """

    def __init__(self, plan: FreezePlan, earlier: Sequence[LayerStatistics]) -> None:
        self._grid = plan.plan.grid
        self._survey = plan.survey
        by_hand = plan.survey.by_hand
        known = {layer.call: layer for layer in earlier}
        self._collectors = {
            call: Collector(self._grid.shape, known.get(call))
            for call in plan.calls
            if call not in by_hand
        }
        self._parts = {
            call: _Parts(plan, plan.survey.scale[call], known.get(call))
            for call in plan.calls
            if call in by_hand
        }
        self._centres = {layer.call: layer.centres for layer in earlier}
        counts = [layer.count for layer in earlier if layer.call not in by_hand]
        self._counts = counts[0] if counts else np.zeros(self._grid.shape)

    def known(self, tile: Tile) -> bool:
        """Whether an earlier attempt has seen this window."""
        return bool(self._counts[tile.index])

    def add(self, call: Call, tile: Tile) -> None:
        """See a call of the pass over a window."""
        if call.number in self._parts:
            self._parts[call.number].add(call, tile)
        if call.number not in self._collectors:
            return
        self._collectors[call.number].add(tile.index, call.features[:1], call.groups)
        if call.number not in self._centres:
            self._centres[call.number] = tuple(
                tuple(float((one.start - axis[0].start) * scale) + size / 2 for one in axis)
                for axis, scale, size in zip(
                    self._grid.axes, self._survey.scale[call.number], call.space, strict=True
                )
            )

    def layers(self, blank: Callable[[int], LayerStatistics]) -> list[LayerStatistics]:
        """Return what is known; windows that were not seen have a count of 0."""
        found = {
            call: collector.statistics(blank(call), self._centres[call])
            for call, collector in self._collectors.items()
        } | {call: parts.statistics(blank(call)) for call, parts in self._parts.items()}
        return [found[call] for call in sorted(found)]


def _partition(axis: AxisTiling, size: int, scale: Fraction) -> tuple[list[int], list[int]]:
    """Where each tile's features begin, and the borders between what counts of neighbours.

    In pixels of the features of the whole image. With padded convolutions, features are right
    where cores are: a tile's output is right there, and so is all that contributes to it. That
    holds for both tiles where a coarse pixel lies across a border. Valid convolutions are right
    everywhere, so that any border will do.
    """
    first = axis[0].start
    starts = [_whole((tile.start - first) * scale) for tile in axis]
    if size == axis.tile * scale:
        inner = [
            math.floor((Fraction(tile.core[0]) / axis.lattice.scale - first) * scale)
            for tile in list(axis)[1:]
        ]
    else:
        inner = [(b + a + size) // 2 for a, b in itertools.pairwise(starts)]
    return starts, [0, *inner, starts[-1] + size]


def _whole(value: Fraction) -> int:
    if value.denominator != 1:
        raise SettingsError(
            "A layer of the network lies on no common grid with its input, so that its statistics "
            "cannot be counted tile by tile: run the image as one tile (--tile with its size)."
        )
    return int(value)


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
