"""How much each input pixel matters to a predicted one: gradients, and where their mass lies.

Knows how to differentiate a network of any format, and how to average over tiles of an image
until the average is steady. Does not know theoretical reach (see `seamscope.models.reach`).

The gradient of one output pixel with respect to the whole input, its absolute value summed over
channels, is the *map* of that pixel at that place of the image; averaged over many tiles it is the
*effective receptive field* (Luo et al. 2016, Understanding the effective receptive field in deep
convolutional neural networks). It cannot leave the theoretical one. What is of use is where its
mass lies: the smallest box that holds 99% of it, and the share beyond the reach of the
convolutions, a floor that normalization by the tile's own statistics spreads over the whole tile.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from seamscope.errors import ModelError, SeamscopeError, SettingsError
from seamscope.images.image import Image
from seamscope.models.model import Model
from seamscope.models.reach import MemoryMeter, PhaseFields, worst
from seamscope.planning.case import Case
from seamscope.planning.plan import image_layout
from seamscope.planning.reading import TileJob
from seamscope.planning.tuning import is_memory_error
from seamscope.progress import QUIET, Work, check
from seamscope.settings import Settings
from seamscope.text import bytes_text, pixels_text, shape_text
from seamscope.tiling import AxisTiling, Lattice, Sides, Slices, Tile

Values: TypeAlias = npt.NDArray[np.float64]
Forward: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

SHARES = (0.95, 0.99, 0.999)
"""Shares of the gradient's mass whose radii are reported."""

# Two halves of the tiles must give the same radii, to two pixels or this part of them. The few
# pixels of which a network is unsure weigh most, so that more tiles change nothing (measured).
_STEADY = 0.1
_FEWEST_TILES = 8
MOST_TILES = 128
# Tiles for networks that see everything: as in training, or twice what the convolutions reach.
_WIDE = {1: 1024, 2: 256, 3: 64}
# Sides of the two tiles whose memory is measured.
_MEASURED = {1: (256, 1024), 2: (32, 64), 3: (16, 24)}


# ------------------------------------------------------------------------------------- gradients


def absolute_gradient(
    forward: Forward, x: torch.Tensor, at: Sequence[int], channel: int | None = None
) -> torch.Tensor:
    """Differentiate one output pixel of each tile with respect to its whole input.

    Parameters
    ----------
    forward
        ``(N, C, *spatial)`` tensor to ``(N, C', *spatial')`` tensor; tiles of a batch must not
        influence each other.
    x
        The tiles.
    at
        Output pixel, one index per axis.
    channel
        Output channel; None for the sum over all of them, each by its own absolute value.

    Returns
    -------
    tensor
        ``(N, *spatial)``: ``sum_c sum_k |d y[c, at] / d x[k]|``, never negative.

    Raises
    ------
    ModelError
        Where the network's format gives no gradients.
    """
    with torch.inference_mode(False), torch.enable_grad():
        tiles = x.detach().clone().requires_grad_()
        y = _differentiable(forward, tiles)
        channels = range(y.shape[1]) if channel is None else [_checked(channel, y.shape[1])]
        total = torch.zeros_like(tiles[:, 0])
        for c in channels:
            pixel: tuple[Any, ...] = (slice(None), c, *at)
            value = y[pixel].sum()
            (gradient,) = torch.autograd.grad(
                value, tiles, retain_graph=c != channels[-1], allow_unused=True
            )
            if gradient is not None:
                total += gradient.abs().sum(1)
    return total.detach()


def _differentiable(forward: Forward, tiles: torch.Tensor) -> torch.Tensor:
    try:
        y = forward(tiles)
    except SeamscopeError:
        raise
    except Exception as error:
        if is_memory_error(error):
            raise
        raise ModelError(_no_gradients(f"{type(error).__name__}: {_last_line(error)}")) from error
    if not y.requires_grad:
        raise ModelError(_no_gradients("it computes outside of PyTorch's autograd"))
    return y


def _no_gradients(why: str) -> str:
    return (
        f"This network gives no gradients ({why}), so that its effective receptive field cannot "
        "be measured: use its theoretical one, or load it from PyTorch weights."
    )


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:200].rstrip(".") if lines else "no message"


def _checked(channel: int, count: int) -> int:
    if not 0 <= channel < count:
        raise SettingsError(
            f"Output channel {channel}: the network predicts {count}, counted from 0; choose one "
            "of them, or none for all together."
        )
    return channel


@dataclass(frozen=True)
class GradientMemory:
    """Memory that gradients of one tile take, as extrapolated from two measured sizes.

    Attributes
    ----------
    linear, square
        Bytes for each pixel, as of convolutions, and for each pair of pixels, as of attention.
    """

    linear: float
    square: float = 0.0

    def of(self, pixels: int) -> int:
        """Bytes for a tile of so many pixels."""
        return int(self.linear * pixels + self.square * pixels**2)

    @classmethod
    def measure(cls, model: Model) -> GradientMemory:
        """Run and differentiate two small tiles."""
        lattices = model.facts.lattice
        shapes = [
            tuple(lattice.size_at_least(n) for lattice in lattices)
            for n in _MEASURED[len(lattices)]
        ]
        (few, small), (many, large) = ((math.prod(s), _peak(model, s)) for s in shapes)
        square = (large / many - small / few) / (many - few) if many > few else 0.0
        return cls(large / many - max(0.0, square) * many, max(0.0, square))


def _peak(model: Model, shape: tuple[int, ...]) -> int:
    """Bytes that gradients of a tile take at most at one time."""
    x = torch.randn(1, model.facts.in_channels, *shape, device=_device(model))
    with torch.no_grad():
        at = tuple(n // 2 for n in model.run_plain(x).shape[2:])
    meter = MemoryMeter()
    with meter:
        absolute_gradient(model.run_plain, x, at, 0)
    return meter.peak


def _device(model: Model) -> torch.device:
    tensor = next(model.module.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device


# ------------------------------------------------------------------------------------------ maps


@dataclass(frozen=True, eq=False)
class GradientMap:
    """How much each input pixel of a tile matters to one output pixel.

    Attributes
    ----------
    values
        ``(*spatial)`` absolute gradients of the tile's input pixels.
    covered
        Input pixels ``(first, stop)`` that the output pixel covers, along each axis of `values`:
        one pixel where output and input have the same scale.
    phase
        Of the output pixel: its index modulo the period, along each axis, in output pixels.
    origin
        Image pixel at which `values` begins; None for an average over tiles.
    """

    values: Values
    covered: tuple[Sides, ...]
    phase: tuple[int, ...]
    origin: tuple[int, ...] | None = None

    @cached_property
    def mass(self) -> float:
        """Sum of all values."""
        return float(self.values.sum())

    def offsets(self, axis: int) -> npt.NDArray[np.int_]:
        """Signed distance of each pixel from those covered, in pixels along one axis."""
        first, stop = self.covered[axis]
        index = np.arange(self.values.shape[axis])
        offsets: npt.NDArray[np.int_] = np.minimum(index - first, 0) + np.maximum(
            index - stop + 1, 0
        )
        return offsets

    def profile(self, axis: int) -> Values:
        """Share of the mass at each position along one axis, all others summed; adds up to 1."""
        others = tuple(a for a in range(self.values.ndim) if a != axis)
        return self._share(self.values.sum(axis=others))

    def radius(self, share: float) -> tuple[int, ...]:
        """Smallest distance along each axis within which lies at least this share of the mass."""
        return tuple(
            _smallest(np.abs(self.offsets(axis)), self.profile(axis), share)
            for axis in range(self.values.ndim)
        )

    def box(self, share: float) -> int:
        """Smallest distance along all axes at once that holds this share (Chebyshev's)."""
        distance = np.zeros(self.values.shape, np.int_)
        for axis in range(self.values.ndim):
            shape = [1] * self.values.ndim
            shape[axis] = -1
            np.maximum(distance, np.abs(self.offsets(axis)).reshape(shape), out=distance)
        within = np.bincount(distance.ravel(), weights=self.values.ravel()).astype(np.float64)
        return _smallest(np.arange(within.size), self._share(within), share)

    def beyond(self, fields: Sequence[PhaseFields]) -> float:
        """Share of the mass outside the theoretical receptive field of this pixel."""
        return self.outside(self.sides(fields))

    def sides(self, fields: Sequence[PhaseFields]) -> tuple[Sides, ...]:
        """Theoretical receptive field ``(before, after)`` at this pixel's phase."""
        return tuple(axis[p % len(axis)] for axis, p in zip(fields, self.phase, strict=True))

    def outside(self, sides: Sequence[Sides]) -> float:
        """Share of the mass farther away than ``(before, after)`` along any axis."""
        inside = self.values[self._box(sides)]
        # summed over the rest itself: a difference of sums would drown a small floor in rounding
        rest = self.values.copy()
        rest[self._box(sides)] = 0
        total = float(inside.sum()) + float(rest.sum())
        return float(rest.sum()) / total if total else 0.0

    def _box(self, sides: Sequence[Sides]) -> Slices:
        return tuple(
            slice(max(0, first - before), stop + after)
            for (first, stop), (before, after) in zip(self.covered, sides, strict=True)
        )

    def _share(self, values: Values) -> Values:
        return values / self.mass if self.mass else np.zeros_like(values)


def _smallest(distance: npt.NDArray[np.int_], shares: Values, wanted: float) -> int:
    """Smallest distance within which the shares add up to what is wanted."""
    within = np.cumsum(np.bincount(distance.ravel(), weights=shares.ravel()))
    # the whole mass itself, not 1.0, which rounding may miss
    enough = within >= wanted * within[-1] - 1e-12
    return int(np.argmax(enough))


@dataclass(frozen=True, eq=False)
class EffectiveField:
    """Gradient map averaged over tiles.

    Attributes
    ----------
    map
        Mean over tiles.
    tiles
        How many.
    steady
        Whether both halves of the tiles gave the same radii.
    spread
        Largest difference between the radii of the two halves, in pixels.
    channel
        Output channel; None for the sum over all.
    on
        What the tiles were: ``"image"`` or, for lack of one, ``"noise"``.
    notes
        Sentences for the user.
    """

    map: GradientMap
    tiles: int
    steady: bool
    spread: int
    channel: int | None
    on: str
    notes: tuple[str, ...] = ()

    @property
    def doubt(self) -> str:
        """Sentence on how uncertain the radii are; empty where they are steady."""
        if self.steady:
            return ""
        if self.tiles < _FEWEST_TILES:
            counted = "Only one tile was" if self.tiles == 1 else f"Only {self.tiles} tiles were"
            return f"{counted} looked at, too few to tell how certain the radii are."
        return (
            f"After {self.tiles} tiles the radii of their two halves still differ by "
            f"{pixels_text(self.spread)}: look at more tiles, or take the radii as so uncertain."
        )


# -------------------------------------------------------------------------------- over an image


class GradientProbe:
    """Gradient maps of one network over one image.

    Parameters
    ----------
    image
        What to look at, as for `seamscope.predict`; None for noise.
    model
        The network; it is moved to the device of `settings`, and stays there.
    settings
        Tile, device, memory, and how the image is read and normalized. Tile ``"auto"`` is as large
        as the receptive field, or twice that where the network sees the whole tile.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Attributes
    ----------
    plan
        How the image is read; its tile is the maps' shape.
    notes
        Sentences for the user: why tiles are smaller than asked.

    Raises
    ------
    SettingsError, ImageError
        Where settings, network and image contradict each other.
    InterruptedError
        When stopped.
    """

    def __init__(
        self,
        image: Any,
        model: Model | None = None,
        settings: Settings | None = None,
        work: Work = QUIET,
    ) -> None:
        self.on = "noise" if image is None else "image"
        if image is None:
            assert model is not None
            image = _noise(model)
            settings = (settings or Settings()).but(
                normalize="none", area=None, channel=None, channel_axis="c"
            )
        case = Case.open(image, model, settings, overlap=None, blend="crop", halo=0, seams="none")
        self._model, self._pixels = case.model, case.image
        case = case.but(tile=self._tile(case.settings))
        self.notes: tuple[str, ...] = ()
        case = self._fitting(case)
        self.plan = case.plan
        self._runner = self._model.runner(self.plan.settings.device)
        self._reader = case.reader(work)

    # -- what is measured

    def at(
        self, pixel: Sequence[int], channel: int | None = None, frame: Sequence[int] | None = None
    ) -> GradientMap:
        """Map of one pixel of the image, as a tiled run sees it: in a tile around it, on the grid.

        Parameters
        ----------
        pixel
            Image pixel, one index per spatial axis.
        channel
            Output channel; None for all together.
        frame
            Index on each iterated axis; by default the first.

        Raises
        ------
        SettingsError
            Where the pixel lies outside of the image.
        """
        self._check_inside(pixel)
        axes = zip(self.plan.grid.axes, pixel, strict=True)
        starts = [_around(axis.kept, axis.size, axis.lattice, p) for axis, p in axes]
        at = tuple(
            min(int((p - start) * axis.lattice.scale), count - 1)
            for p, start, axis, count in zip(
                pixel, starts, self.plan.grid.axes, self._out_shape, strict=True
            )
        )
        first = tuple(start for start, _ in self.plan.frame_ranges)
        tile = self._tile_at(starts)
        batch = self._reader.read([TileJob(tuple(first if frame is None else frame), tile)])
        values = self._gradients(batch, at, channel)[0]
        origin = tuple(
            part.start - before for part, (before, _) in zip(tile.read, tile.pad, strict=True)
        )
        return GradientMap(values, *self._place(at), origin)

    def average(
        self,
        channel: int | None = None,
        phase: Sequence[int] | None = None,
        *,
        most: int = MOST_TILES,
        work: Work = QUIET,
    ) -> EffectiveField:
        """Average the maps of the pixel in the middle over tiles from all over the image.

        Parameters
        ----------
        channel
            Output channel; None for all together.
        phase
            Output pixel modulo the period, along each axis; by default that of the middle.
        most
            Tiles after which to stop though the two halves still differ.
        work
            Shows progress, and stops when asked to (see `seamscope.progress`).

        Raises
        ------
        InterruptedError
            When stopped.
        """
        at = self._middle(phase)
        halves = _Halves(self.plan.grid.tile_shape, self._place(at))
        work.phase("Measuring gradients", "tiles at most")
        for batch in self._batches(most):
            check(work)
            for values in self._gradients(batch, at, channel):
                halves.add(values)
            work.step(halves.count, most)
            if halves.steady:
                break
        _check_mass(halves)
        return EffectiveField(
            map=halves.mean,
            tiles=halves.count,
            steady=halves.steady,
            spread=halves.spread,
            channel=channel,
            on=self.on,
            notes=self.notes,
        )

    # -- tiles

    def _tile(self, asked: Settings) -> Any:
        """Tile as asked, or one with room for all that one pixel sees."""
        if asked.tile != "auto":
            return asked.tile
        facts, fields = self._model.facts, self._model.fields
        layout = image_layout(asked, facts, self._pixels)
        sizes = layout.sizes(layout.spatial, self._pixels.shape)
        each = fields or (None,) * len(sizes)
        return tuple(map(self._room, facts.lattice, each, sizes))

    def _room(self, lattice: Lattice, fields: PhaseFields | None, size: int) -> int:
        wide = _WIDE[self._model.facts.spatial_axes]
        if fields is None:
            return _with_play(lattice, wide, size)
        # on either side of the middle, whichever pixel that is
        seen = 2 * (max(worst(fields)) + lattice.pitch)
        if self._model.reach.bounded:
            return lattice.size_at_least(seen)
        # where everything is seen: as much again, to show what lies beyond the convolutions
        return _with_play(lattice, max(2 * seen, wide), size)

    def _fitting(self, case: Case) -> Case:
        """Take smaller tiles where gradients of a whole one need more memory than there is."""
        budget = case.settings.memory or case.resources.memory
        memory = GradientMemory.measure(self._model)
        tile = wanted = case.plan.grid.tile_shape
        while memory.of(math.prod(tile)) > budget:
            smaller = tuple(map(_three_quarters, tile, case.plan.facts.lattice))
            if smaller == tile:
                break
            tile = smaller
        if tile != wanted:
            case = case.but(tile=tile)
            self.notes = (
                f"Gradients of tiles of {shape_text(wanted)} would need "
                f"{bytes_text(memory.of(math.prod(wanted)))}, and {bytes_text(budget)} may be "
                f"used: maps were made with tiles of {shape_text(tile)}.",
            )
        return case

    @cached_property
    def _out_shape(self) -> tuple[int, ...]:
        return self.plan.grid.prediction_shape

    @cached_property
    def _phases(self) -> tuple[int, ...]:
        return tuple(int(a.pitch * a.scale) for a in self.plan.facts.lattice)

    def _middle(self, phase: Sequence[int] | None) -> tuple[int, ...]:
        """Output pixel nearest to the tile's middle that has this phase."""
        middle = tuple(n // 2 for n in self._out_shape)
        if phase is None:
            return middle
        if len(phase) != len(middle):
            raise SettingsError(
                f"Phase {tuple(phase)}: give one number for each of {len(middle)} spatial axes."
            )
        return tuple(map(_with_phase, middle, phase, self._phases, self._out_shape))

    def _place(self, at: Sequence[int]) -> tuple[tuple[Sides, ...], tuple[int, ...]]:
        """Input pixels that an output pixel covers, and its phase."""
        covered = tuple(
            (
                math.floor(i / lattice.scale) + lattice.crop[0],
                math.ceil((i + 1) / lattice.scale) + lattice.crop[0],
            )
            for i, lattice in zip(at, self.plan.facts.lattice, strict=True)
        )
        return covered, tuple(i % n for i, n in zip(at, self._phases, strict=True))

    def _check_inside(self, pixel: Sequence[int]) -> None:
        shape = self.plan.grid.image_shape
        if len(pixel) != len(shape) or not all(
            0 <= p < n for p, n in zip(pixel, shape, strict=True)
        ):
            raise SettingsError(
                f"Pixel {tuple(pixel)} is not in the image of {shape_text(shape)} pixels: give one "
                "index from 0 for each of its spatial axes."
            )

    def _tile_at(self, starts: Sequence[int]) -> Tile:
        """Tile whose prediction begins at these image pixels."""
        read, pad = [], []
        for start, axis in zip(starts, self.plan.grid.axes, strict=True):
            low, high = start - axis.lattice.crop[0], start + axis.kept + axis.lattice.crop[1]
            read.append(slice(max(low, 0), min(high, axis.size)))
            pad.append((max(-low, 0), max(high - axis.size, 0)))
        whole = tuple(slice(0, n) for n in self._out_shape)
        return Tile((0,) * len(read), tuple(read), tuple(pad), whole, whole, (0,) * len(read))

    def _batches(self, most: int) -> Iterator[npt.NDArray[Any]]:
        size = 1 if self.plan.facts.statistics else self.plan.settings.batch
        jobs = itertools.islice(self._jobs(), most)
        while batch := list(itertools.islice(jobs, size)):
            yield self._reader.read(batch)

    def _jobs(self) -> Iterator[TileJob]:
        """Tiles all over the image and its frames, in random order; no place comes twice."""
        axes = [
            *(range(*part) for part in self.plan.frame_ranges),
            *map(_starts, self.plan.grid.axes, self.plan.area),
        ]
        random = np.random.default_rng(0)
        places = math.prod(map(len, axes))
        seen: set[int] = set()
        while len(seen) < places:
            number = int(random.integers(places))
            if number in seen:
                continue
            seen.add(number)
            index = [axis[i] for axis, i in zip(axes, _unravel(number, axes), strict=True)]
            frames = len(self.plan.frame_ranges)
            yield TileJob(tuple(index[:frames]), self._tile_at(index[frames:]))

    def _gradients(
        self, batch: npt.NDArray[Any], at: Sequence[int], channel: int | None
    ) -> npt.NDArray[np.float64]:
        x = torch.from_numpy(batch).to(self._runner.device)
        try:
            values = absolute_gradient(self._model.run_plain, x, at, channel)
        except RuntimeError as error:
            if not is_memory_error(error):
                raise
            raise SettingsError(
                f"Memory ran out for gradients of tiles of {shape_text(batch.shape[2:])}: give a "
                "smaller `tile`."
            ) from error
        return values.cpu().double().numpy()


class _Halves:
    """Means over the even and the odd tiles, whose difference shows how steady both are."""

    def __init__(
        self, shape: Sequence[int], place: tuple[tuple[Sides, ...], tuple[int, ...]]
    ) -> None:
        self._sums = np.zeros((2, *shape))
        self._place = place
        self.count = 0
        self.spread = 0

    def add(self, values: Values) -> None:
        self._sums[self.count % 2] += values
        self.count += 1

    @property
    def mean(self) -> GradientMap:
        return GradientMap(self._sums.sum(0) / max(1, self.count), *self._place)

    @property
    def steady(self) -> bool:
        """Whether both halves give the same radii, after enough tiles."""
        if self.count < _FEWEST_TILES or self.count % 2:
            return False
        even, odd = (GradientMap(half, *self._place) for half in self._sums)
        allowed = []
        self.spread = 0
        for share in SHARES:
            for a, b in zip(even.radius(share), odd.radius(share), strict=True):
                self.spread = max(self.spread, abs(a - b))
                allowed.append(abs(a - b) <= max(2, _STEADY * max(a, b)))
        return all(allowed)


def _check_mass(halves: _Halves) -> None:
    mass = halves.mean.mass
    if not math.isfinite(mass):
        raise ModelError(
            "The prediction's gradient is not finite, so that no effective receptive field can be "
            "measured: look for divisions by zero or square roots of zero in the network."
        )
    if not mass:
        raise ModelError(
            f"The gradient of the pixel in the middle of all {halves.count} tiles is zero, so that "
            "no effective receptive field can be measured: load the network without a threshold "
            "or argmax at its end; if it has none, choose another phase or a larger image."
        )


def _noise(model: Model) -> Image:
    """Noise of the intensities a network expects, large enough for a few dozen different tiles."""
    from seamscope.images.image import open_image

    ndim = model.facts.spatial_axes
    sizes = tuple(4 * _WIDE[ndim] for _ in range(ndim)) if ndim < 3 else (2 * _WIDE[3],) * 3
    random = np.random.default_rng(0)
    shape = (model.facts.in_channels, *sizes)
    draw = random.random if model.normalize in ("minmax", "percentile") else random.standard_normal
    return open_image(np.asarray(draw(shape), np.float32), axes="c" + "zyx"[-ndim:])


def _around(kept: int, size: int, lattice: Lattice, pixel: int) -> int:
    """Start, on the grid and in the image, of the tile in which this pixel is most central."""
    pitch = lattice.pitch
    last = -(-max(0, size - kept) // pitch) * pitch
    return min(max(0, (pixel - kept // 2) // pitch * pitch), last)


def _starts(axis: AxisTiling, area: slice) -> range:
    """Starts of tiles inside the image, and inside the wanted area where that has room.

    Off the image's grid too: what a network sees of a tile does not depend on where that lies.
    """
    before, after = axis.lattice.crop
    if axis.size < axis.tile:
        return range(1)
    inside = range(before, axis.size - axis.kept - after + 1)
    low, high = (int(edge / axis.lattice.scale) for edge in (area.start, area.stop))
    wanted = range(max(inside.start, low), min(inside.stop, high - axis.kept + 1))
    middle = min(max((low + high - axis.kept) // 2, inside.start), inside.stop - 1)
    return wanted or range(middle, middle + 1)


def _with_phase(middle: int, phase: int, phases: int, count: int) -> int:
    if not 0 <= phase < phases:
        raise SettingsError(
            f"Phase {phase}: the period is {phases} output pixels, so that phases go from 0 to "
            f"{phases - 1}."
        )
    index = middle - middle % phases + phase
    return index if index < count else index - phases


def _with_play(lattice: Lattice, wanted: int, size: int) -> int:
    """Accepted size near what is wanted, that leaves room for several places in the image."""
    tile = lattice.size_at_least(wanted)
    return min(tile, lattice.size_at_most(size * 3 // 4) or tile)


def _three_quarters(size: int, lattice: Lattice) -> int:
    smaller = lattice.size_at_most(size * 3 // 4)
    return smaller or size


def _unravel(number: int, axes: Sequence[range]) -> list[int]:
    index = []
    for axis in reversed(axes):
        number, i = divmod(number, len(axis))
        index.append(i)
    return index[::-1]


__all__ = [
    "SHARES",
    "EffectiveField",
    "GradientMap",
    "GradientMemory",
    "GradientProbe",
    "absolute_gradient",
]
