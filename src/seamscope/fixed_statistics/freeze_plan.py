"""Plan how fixed statistics are found, and what that costs, before the image is read.

Knows how tiles and windows are chosen, and the memory and work of a network up to each of its
calls, measured on two small inputs. Does not know how statistics are found
(`seamscope.fixed_statistics.freezing`).
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import psutil
import torch

from seamscope.errors import ModelError, SettingsError
from seamscope.models.model import Model
from seamscope.normalization.audit import Audit
from seamscope.normalization.calls import Call, Normalizations
from seamscope.normalization.pausing import PausableNetwork
from seamscope.normalization.statistics import (
    PATCH,
    How,
)
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.text import bytes_text, shape_text

# Part of the free memory, and of the free disk, in which tiles may wait.
_MEMORY_SHARE, _DISK_SHARE = 0.4, 0.5
TILES = 16
# Measured with 14 layers and tiles of 256 x 256, in units of the work itself: stopping, counting
# and going on for tiles that wait in memory or on disk, or do not wait; and a window's pass.
_IN_MEMORY, _ON_DISK, _AGAIN, _WINDOW = 1.15, 2.8, 1.2, 1.15
# What each window costs besides, as the work on so many pixels (windows of 64 to 256, in 2D).
_EACH_WINDOW = 5500
_NO_ROOM = 2.0**62  # bytes for each pixel: what must not wait finds no room
# Tiles on which the two halves of a sample are compared.
JUDGED = 4
# A sample of so few tiles is too small to compare its halves.
TOO_FEW = 3


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
        How many of them wait where; the rest begins again for each layer. Windows do neither.
    passes
        Cost in units of one prediction of the requested tiles, the halves for the distance
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
    survey: Survey = field(repr=False)

    @property
    def recomputed(self) -> int:
        """Tiles that begin again for each layer."""
        return 0 if self.how == "local" else self.tiles - self.in_memory - self.on_disk

    @property
    def window(self) -> str:
        """Size of a tile or window, in words."""
        return shape_text(self.plan.grid.tile_shape)

    @property
    def sentence(self) -> str:
        """What is done, its cost, and the notes."""
        return " ".join([self.cost, *self.notes])

    @property
    def notes(self) -> tuple[str, ...]:
        """Why these statistics differ from those of the whole image, in sentences."""
        return tuple(_notes(self))

    @property
    def cost(self) -> str:
        """What is done and its cost, in a sentence."""
        cost = f"about {self.passes:.1f} times one tiled prediction"
        cost += f", {bytes_text(self.memory)} of memory"
        if self.disk:
            cost += f" and {bytes_text(self.disk)} of disk"
        layers = f"{len(self.calls)} layer{'s' * (len(self.calls) > 1)}"
        if self.tiles == 1 and len(self.plan.grid) == 1:
            return f"The image runs untiled, {layers} in one pass: {cost}."
        if self.how == "local":
            return f"{self.tiles} windows of {self.window} pixels run once each: {cost}."
        if not self.recomputed:
            place = "on disk" if self.on_disk else "in memory"
            return (
                f"{self.tiles} tile{'s run' if self.tiles > 1 else ' runs'} layer by layer through "
                f"{layers} and wait{'' if self.tiles > 1 else 's'} {place}: {cost}."
            )
        why = "have no room to wait" if self.survey.resumable else (
            "cannot wait, because the network's code depends on the values of its input,"
        )  # fmt: skip
        return (
            f"{self.recomputed} of {self.tiles} tiles {why} and begin again for each of {layers}: "
            f"{cost}."
        )


def _notes(plan: FreezePlan) -> Iterator[str]:
    own, model_reach = plan.plan, plan.plan.reach.convolutional
    if plan.how == "exact" and len(own.grid) > 1:
        if model_reach is None:
            yield (
                "The receptive field is the whole tile even with fixed statistics. So the "
                "statistics are close to those of the whole image, but not equal."
            )
        elif any(
            not axis.single and (axis.halo[0] < need[0] or axis.halo[1] < need[1])
            for axis, need in zip(own.grid.axes, model_reach, strict=True)
        ):
            halo, need = (max(map(max, sides)) for sides in (own.grid.halo, model_reach))
            yield (
                f"The halo of {halo} px is less than the reach of the convolutions, {need} px. So "
                "the statistics are close to those of the whole image, but not equal. Set tile and "
                "halo to auto."
            )
    if plan.how == "sampled" and plan.tiles <= TOO_FEW:
        yield (
            f"{plan.tiles} tiles are too few to estimate the difference from exact statistics: use "
            "4 or more."
        )
    spatial = [name for name in own.settings.area or {} if name in own.layout.spatial]
    if spatial:
        yield (
            f"The area along {' and '.join(spatial)} is ignored. Statistics are those of whole "
            "images, so that a part is predicted as in the whole image."
        )


def _nothing_to_fix(model: Model, audit: Audit) -> str:
    nothing = f"Nothing to fix: no layer of {model.name} uses per-tile statistics."
    beyond = [str(one) for one in audit.global_operations if not one.repairable]
    if beyond:
        return (
            f"{nothing} Its receptive field is the whole tile because of {', '.join(beyond)}, "
            "which cannot be fixed. Use tiles as large as memory allows, and the best blend."
        )
    return f"{nothing} {model.describe()}"


def plan_freeze(
    case: Case,
    how: How = "exact",
    *,
    cell: int | Sequence[int] | None = None,
    tiles: int = TILES,
    memory: int | None = None,
    disk: int | None = None,
) -> FreezePlan:
    """Decide how statistics are found; runs only the network's probes.

    Parameters as for `freeze_statistics`.
    """
    if how not in ("exact", "local", "sampled"):
        raise SettingsError(f"how {how!r}: choose exact, local, sampled, or a file of statistics.")
    model = case.model
    audit = model.audit
    if not audit.watched:
        raise SettingsError(
            f"The statistics of {model.name} cannot be fixed, because another program runs it "
            "forward only. Install onnx2torch, which converts it, or get the network as .pt2, "
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
    plan = _tiles(case, how, room)
    survey = Survey.of(model, audit)
    if how == "local":
        windows = _plan_windows(case, plan, survey, _whole_periods(cell, model))
        if windows.memory > (room := _room_on(case, room)):
            raise SettingsError(
                f"A window of {windows.window} pixels needs about {bytes_text(windows.memory)} and "
                f"{bytes_text(room)} may be used: give a smaller cell (it is half a window)."
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


def _plan_windows(case: Case, asked: Plan, survey: Survey, cell: tuple[int, ...]) -> FreezePlan:
    """Lay windows of two cells over the image, one cell apart; `asked` is what would be tiled."""
    model = case.model
    calls = model.audit.calls
    # a spread around a window's own mean is none around the image's, which is what answers
    written = any(layer.kind == "hand-written" for layer in model.audit.layers)
    if written or survey.by_hand >= set(calls):
        raise SettingsError(
            f"{model.name} computes statistics by hand, one number for all pixels of a tile. They "
            "cannot vary over the image: choose exact."
        )
    window, overlap = [], []
    for axis, extent in zip(asked.grid.axes, cell, strict=True):
        lattice = axis.lattice
        lost = sum(lattice.crop)
        window.append(lattice.size_at_least(min(2 * extent, axis.size + lost)))
        overlap.append((window[-1] - lost) // 2 // lattice.pitch * lattice.pitch)
    settings = asked.settings.but(tile=tuple(window), halo=0, overlap=tuple(overlap))
    plan = case.but(settings).plan
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


def _tiles(case: Case, how: How, room: int) -> Plan:
    """Tiles to visit. By default the whole image as one, where it fits."""
    case = case.but(
        blend="crop", batch=1, precision="float32", result="probabilities", seams="none"
    )
    plan = case.plan
    if case.settings.tile != "auto" or how != "exact" or len(plan.grid) == 1:
        return plan
    whole = tuple(
        axis.lattice.size_at_least(axis.size + sum(axis.lattice.crop)) for axis in plan.grid.axes
    )
    if not all(axis.lattice.covers(axis.size) for axis in plan.grid.axes):
        return plan
    at_once = case.but(tile=whole).plan
    return at_once if at_once.bytes_per_tile <= _room_on(case, room) else plan


def _room_on(case: Case, room: int) -> int:
    """Bytes for a pass on the case's device, of which `room` are on the CPU."""
    return room if case.resources.device == "cpu" else case.resources.memory


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
class Survey:
    """A network's memory and work at its calls, measured on two small inputs.

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
        Whether a stopped tile can go on. If not, all begin again for each call.
    """

    scale: Mapping[int, tuple[Fraction, ...]]
    shares: tuple[float, ...]
    waiting: float
    by_hand: frozenset[int]
    resumable: bool = True

    def passes(self, how: How, in_memory: int, on_disk: int, again: int) -> float:
        """Cost of so many tiles, in units of predicting one."""
        kept = in_memory * _IN_MEMORY + on_disk * _ON_DISK
        once = kept * self.shares[-1] + again * sum(self.shares) * _AGAIN
        halves = how == "sampled" and in_memory + on_disk + again > TOO_FEW
        return 2 * (once + JUDGED) if halves else once

    @classmethod
    def of(cls, model: Model, audit: Audit) -> Survey:
        """Look at a network; refuses what cannot be counted tile by tile."""
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
            seen.held.append(paused.waiting.nbytes)
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
        self._ndim = 0  # of the tensor that the current operation is given

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
