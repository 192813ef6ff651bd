"""Gradients over the tiles of an image, until their average is steady.

Knows which tiles are looked at, and how large they may be. Does not know how a network is
differentiated (see `seamscope.receptive_field.gradients`), or what a map says (see
`seamscope.receptive_field.gradient_maps`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seamscope.errors import SettingsError
from seamscope.images.image import Image, open_image
from seamscope.models.model import Model
from seamscope.models.reach import PhaseFields, worst
from seamscope.planning.case import Case
from seamscope.planning.plan import image_layout
from seamscope.planning.reading import TileJob
from seamscope.planning.tuning import is_memory_error
from seamscope.progress import QUIET, Work, check
from seamscope.receptive_field.gradient_maps import EffectiveField, GradientMap, Halves
from seamscope.receptive_field.gradients import GradientMemory, absolute_gradient
from seamscope.settings import Settings
from seamscope.text import bytes_text, shape_text
from seamscope.tiling import AxisTiling, Lattice, Sides, Tile

MOST_TILES = 128
# Tiles for networks that see everything: as in training, or twice what the convolutions reach.
_WIDE = {1: 1024, 2: 256, 3: 64}


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
        halves = Halves(self.plan.grid.tile_shape, self._place(at))
        work.phase("Measuring gradients", "tiles at most")
        for batch in self._batches(most):
            check(work)
            for values in self._gradients(batch, at, channel):
                halves.add(values)
            work.step(halves.count, most)
            if halves.steady:
                break
        halves.check()
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
        grid = self.plan.grid
        return grid.moved([s - a.lattice.crop[0] for s, a in zip(starts, grid.axes, strict=True)])

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
            places_along = np.unravel_index(number, [len(axis) for axis in axes])
            index = [axis[int(i)] for axis, i in zip(axes, places_along, strict=True)]
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


def _noise(model: Model) -> Image:
    """Noise of the intensities a network expects, large enough for a few dozen different tiles."""
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


__all__ = ["MOST_TILES", "GradientProbe"]
