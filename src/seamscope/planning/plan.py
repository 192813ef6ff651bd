"""What was asked becomes what is done: exact, checked, costed.

Knows settings, a network's facts and an image's shape. Does not run networks or read pixels, so
that a plan is made in well under a millisecond per thousand tiles and a dock can make one for each
move of a slider.

`Settings` may say ``"auto"`` and may contradict the network. A `Plan` cannot: it holds the exact
grid, shapes, bytes, and the sentences its owner should read.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from seamscope.errors import ImageError, SettingsError
from seamscope.images.image import Image
from seamscope.images.postprocessing import Postprocessing
from seamscope.images.preparation import Preparation
from seamscope.models.model import Model, Speed
from seamscope.models.probe import Facts
from seamscope.models.reach import Reach
from seamscope.plain import plain, restore
from seamscope.planning.resources import Resources
from seamscope.settings import Blend, Settings
from seamscope.text import bytes_text, shape_text
from seamscope.tiling import (
    AxisTiling,
    Lattice,
    Sides,
    Slices,
    TileGrid,
    axis_names,
    halo_sides,
    per_axis,
)

# Numbers of labels in 16 bits.
_MOST_CLASSES = 2**16
# Tiles of so many times the pixels of the largest that was timed are taken to be as fast.
_BEYOND_MEASURED = 3
# Tile shapes weighed against each other; more gains less than a percent and takes noticeable time.
_MOST_CANDIDATES = 20_000


@dataclass(frozen=True)
class Layout:
    """How an image's axes are used.

    Attributes
    ----------
    axes
        One letter for each of the image's dimensions.
    spatial
        ``"yx"`` or ``"zyx"``: what is tiled.
    channel
        Letter of the axis that becomes the network's channels, if any.
    frames
        Letters of the axes that are iterated, in the image's order.
    """

    axes: str
    spatial: str
    channel: str | None
    frames: str

    def sizes(self, letters: str, shape: Sequence[int]) -> tuple[int, ...]:
        """Pixels along the axes of these letters."""
        return tuple(shape[self.axes.index(letter)] for letter in letters)


@dataclass(frozen=True)
class Plan:
    """What will be done. Made by `resolve`.

    Attributes
    ----------
    settings
        Without ``"auto"``.
    facts, reach
        Of the network.
    layout, image_shape, scale, units, origin
        Of the image; `scale`, `units` and `origin` (position of the first pixel's centre) belong
        to the output's axes.
    grid
        All tiles of one frame.
    area
        Wanted part of one frame's result, in output pixels.
    frame_ranges
        Wanted part of each iterated axis.
    bytes_per_tile
        Estimated memory of one forward pass of a batch.
    notes
        Sentences for the user.
    preparation
        What the model's card asks to be done to intensities, where ``settings.normalize`` is still
        ``"auto"``.
    postprocessing
        What it asks to be done to the whole prediction, where that is wanted.
    """

    settings: Settings
    facts: Facts
    reach: Reach
    layout: Layout
    image_shape: tuple[int, ...]
    scale: tuple[float, ...]
    units: tuple[str, ...]
    origin: tuple[float, ...]
    grid: TileGrid
    area: Slices
    frame_ranges: tuple[tuple[int, int], ...]
    bytes_per_tile: int
    notes: tuple[str, ...] = field(default=())
    preparation: Preparation | None = None
    postprocessing: Postprocessing | None = None

    @property
    def blends(self) -> bool:
        """Whether neighbours are mixed."""
        return self.settings.blend != "crop"

    @cached_property
    def tiles(self) -> int:
        """Tiles to predict for each frame."""
        counts = (
            len(axis.touching((part.start, part.stop), trusted=self.blends))
            for axis, part in zip(self.grid.axes, self.area, strict=True)
        )
        return math.prod(counts)

    @property
    def frames(self) -> int:
        """Number of frames to predict."""
        return math.prod(stop - start for start, stop in self.frame_ranges)

    @property
    def out_channels(self) -> int:
        """Channels of the result; 1 for labels."""
        return 1 if self.settings.result == "labels" else self.facts.out_channels

    @property
    def out_axes(self) -> str:
        """Axes of the result: iterated axes, channels when there are several, space."""
        return self.layout.frames + "c" * (self.out_channels > 1) + self.layout.spatial

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the result, in the order of `out_axes`."""
        frames = tuple(stop - start for start, stop in self.frame_ranges)
        channels = (self.out_channels,) if self.out_channels > 1 else ()
        return (*frames, *channels, *(part.stop - part.start for part in self.area))

    @property
    def out_dtype(self) -> np.dtype[Any]:
        """Type of the result."""
        if self.settings.result != "labels":
            return np.dtype(np.float32)
        return np.dtype(np.uint8 if self.facts.out_channels <= 255 else np.uint16)

    @property
    def out_chunks(self) -> tuple[int, ...]:
        """Chunks of a stored result: a tile's core is made of whole ones."""
        spatial = (
            _chunk(int(axis.stride * axis.lattice.scale), len(self.layout.spatial))
            for axis in self.grid.axes
        )
        channels = (1,) * (self.out_channels > 1)
        return (*(1,) * len(self.frame_ranges), *channels, *spatial)

    @property
    def seen(self) -> dict[str, Any]:
        """What of the image the network is shown, and in which way; plain values, as in JSON.

        Only what has an effect: percentiles where they are used, padding where tiles are padded.
        """
        own, layout = self.settings, self.layout
        told: dict[str, Any] = {
            "normalize": str(own.normalize),
            "frames": {
                letter: list(part)
                for letter, part in zip(layout.frames, self.frame_ranges, strict=True)
            },
        }
        if own.normalize == "percentile":
            told["percentiles"] = [float(percentage) for percentage in own.percentiles]
        if layout.channel is not None:
            single = layout.sizes(layout.channel, self.image_shape) == (1,)
            told["channel_axis"] = layout.channel
            told["channel"] = 0 if single else own.channel
        if own.fill_nan is not None:
            told["fill_nan"] = float(own.fill_nan)
        if any(axis.padded != axis.size or any(axis.lattice.crop) for axis in self.grid.axes):
            told["padding"] = own.padding
        return told

    @property
    def speed_key(self) -> str:
        """Where `Model.speeds` holds what is known of such a run's speed."""
        return speed_key(self.settings.device, self.grid.halo)

    @property
    def redundancy(self) -> float:
        """Pixels the network computes for each pixel kept; 1 is an untiled run."""
        return self.grid.redundancy

    def to_json(self) -> dict[str, Any]:
        """Return settings and figures as plain values; `from_json` reads those under ``exact``."""
        return {
            **self.settings.to_json(),
            "preparation": self.preparation.to_json() if self.preparation else None,
            "postprocessing": self.postprocessing.to_json() if self.postprocessing else None,
            "axes": self.layout.axes,
            "image_shape": list(self.image_shape),
            "tile": list(self.grid.tile_shape),
            "stride": list(self.grid.stride),
            "halo": [list(side) for side in self.grid.halo],
            "overlap": list(self.grid.overlap),
            "period": list(self.facts.period),
            "grid": list(self.grid.shape),
            "tiles": self.tiles * self.frames,
            "redundancy": round(self.redundancy, 4),
            "bytes_per_tile": self.bytes_per_tile,
            "notes": list(self.notes),
            "exact": plain(self),
        }

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_json` wrote.

        Raises
        ------
        SettingsError
            Where it is not what `to_json` writes.
        """
        plan: Plan = restore(cls, written.get("exact"))
        return plan


def resolve(
    image: Image, model: Model, settings: Settings, resources: Resources | None = None
) -> Plan:
    """Work out exactly what will be done.

    Reads no pixels, touches no device and asks for no free memory, if resources are given and the
    network has been measured.

    Parameters
    ----------
    image
        Only its shape and axes are used.
    model
        Its `facts` and `reach` are used, and measured if they have not been: that takes seconds.
    settings
        What is asked for.
    resources
        Device and memory; None to ask this machine now.

    Raises
    ------
    SettingsError, ImageError
        When settings, network and image contradict each other.
    """
    layout = image_layout(settings, model.facts, image)
    facts = model.facts.with_channels(_channel_count(settings, layout, image))
    if settings.result == "labels":
        _check_classes(settings, facts.out_channels)
    sizes = layout.sizes(layout.spatial, image.shape)
    if model.statistics is not None:
        model.statistics.check_image(sizes)
    reach = model.reach
    resources = resources or Resources.of(settings.device)
    device = resources.device
    budget = settings.memory or resources.memory
    halo = _halo(settings, model, facts.spatial_axes)
    speed = model.speeds.get(speed_key(device, halo))
    grid = _grid(settings, facts, halo, sizes, budget, speed)
    area, frame_ranges = _area(settings, layout, image.shape, grid)
    kind = settings.normalize
    if kind == "auto":
        # what a model card asks for in detail has no name: it stays "auto"
        kind = model.normalize or ("auto" if model.preparation else "none")  # type: ignore[assignment]
    batch_bytes = _tile_bytes(facts, grid.tile_shape, settings.batch)
    plan = Plan(
        settings=settings.but(
            tile=grid.tile_shape,
            halo=grid.halo,
            overlap=grid.overlap,
            device=device,
            normalize=kind,
            memory=budget,
        ),
        facts=facts,
        reach=reach,
        layout=layout,
        image_shape=image.shape,
        scale=_out_scale(layout, image, facts, settings),
        units=_out_units(layout, image, facts, settings),
        origin=_out_origin(layout, image, facts, settings, area, frame_ranges),
        grid=grid,
        area=area,
        frame_ranges=frame_ranges,
        bytes_per_tile=batch_bytes,
        preparation=model.preparation if kind == "auto" else None,
        postprocessing=_postprocessing(settings, model),
    )
    fixed = () if model.statistics is None else model.statistics.notes(image.name, plan.seen)
    own = (*_postprocessing_notes(plan, model), *_notes(plan, settings, budget))
    notes = (*model.notes, *fixed, *own)
    return dataclasses.replace(plan, notes=notes)


def _check_classes(settings: Settings, channels: int) -> None:
    if channels > _MOST_CLASSES:
        raise SettingsError(
            f"The network predicts {channels} channels, and labels are numbers below "
            f"{_MOST_CLASSES}. Choose probabilities as the result instead."
        )
    if settings.background is not None and not 0 <= settings.background < max(channels, 2):
        raise SettingsError(
            f"background {settings.background}: the network predicts {channels} channel(s), "
            "counted from 0. Choose one of them."
        )


def _postprocessing(settings: Settings, model: Model) -> Postprocessing | None:
    wanted = settings.postprocess and settings.result == "probabilities"
    return model.postprocessing if wanted else None


def speed_key(device: str, halo: Sequence[Sides]) -> str:
    """Name of a measured speed: it depends on the halo, around which layers are cut short."""
    return f"{device}, halo {list(halo)}"


# -- axes


def image_layout(settings: Settings, facts: Facts, image: Image) -> Layout:
    """Decide how the image's axes are used; by their names, never by their sizes.

    Raises
    ------
    SettingsError
        When names are missing, or do not give the network what it takes.
    """
    spatial = axis_names(facts.spatial_axes)
    axes = image.axes or _obvious_axes(image, facts, spatial)
    missing = [letter for letter in spatial if letter not in axes]
    if missing:
        raise SettingsError(
            f"The network is {facts.spatial_axes}D and needs the axes {spatial}, but the image "
            f"{image.name} has {axes}: name its axes (--axes), one letter of tczyx for each of "
            f"{shape_text(image.shape)}."
        )
    rest = [letter for letter in axes if letter not in spatial]
    channel = settings.channel_axis if settings.channel_axis in rest else None
    if channel is None and settings.channel_axis != "c":
        raise SettingsError(
            f"Axis {settings.channel_axis!r} cannot become channels: the image {image.name} has "
            f"the axes {axes}, of which {spatial} are space."
        )
    layout = Layout(axes, spatial, channel, "".join(a for a in rest if a != channel))
    _check_channels(settings, facts, image, layout)
    return layout


def _obvious_axes(image: Image, facts: Facts, spatial: str) -> str:
    """Axes of an image that has exactly the network's spatial ones."""
    if image.ndim == facts.spatial_axes:
        return spatial
    examples = sorted(
        {_example_axes(image.ndim, spatial, extra) for extra in ("c", "t", "z")} - {""}
    )
    raise SettingsError(
        f"The image {image.name} has {image.ndim} axes ({shape_text(image.shape)}) and nothing "
        f"says which is which; the network needs {spatial}. Name them (--axes), for example "
        f"{' or '.join(examples) or 'tczyx'}."
    )


def _example_axes(ndim: int, spatial: str, extra: str) -> str:
    letters = "".join(a for a in "tczyx" if a in spatial or a == extra)
    return letters if len(letters) == ndim else ""


def _channel_count(settings: Settings, layout: Layout, image: Image) -> int:
    """Channels the network will get."""
    if layout.channel is None or settings.channel is not None:
        return 1
    return layout.sizes(layout.channel, image.shape)[0]


def _check_channels(settings: Settings, facts: Facts, image: Image, layout: Layout) -> None:
    count = layout.sizes(layout.channel, image.shape)[0] if layout.channel else 1
    if settings.channel is not None:
        if not 0 <= settings.channel < count:
            raise SettingsError(
                f"Channel {settings.channel} of {image.name}: it has {count}, counted from 0."
            )
        count = 1
    if count == facts.in_channels or facts.any_channels:
        return
    remedy = f"choose one of them (--channel 0 to {count - 1})"
    if facts.in_channels > 1:
        remedy = f"give an image with {facts.in_channels} channels on an axis named c"
    raise SettingsError(
        f"The image {image.name} ({layout.axes}, {shape_text(image.shape)}) has {count} channel"
        f"{'s' * (count > 1)} and the network takes {facts.in_channels}: {remedy}."
    )


# -- tiles


def _grid(
    settings: Settings,
    facts: Facts,
    halo: tuple[Sides, ...],
    sizes: tuple[int, ...],
    budget: int,
    speed: Speed | None,
) -> TileGrid:
    ndim = facts.spatial_axes
    if min(sizes) < 1:
        raise ImageError(f"The image is empty ({shape_text(sizes)}): give one with pixels.")
    overlap = None if settings.overlap is None else per_axis(settings.overlap, ndim, "overlap")
    if settings.tile == "auto":
        tile = _fastest(tile_candidates(facts, sizes, halo, overlap, settings, budget), speed)
    else:
        asked = per_axis(settings.tile, ndim, "tile")
        tile = tuple(map(_no_larger_than_image, asked, sizes, facts.lattice))
    if overlap is None:
        overlap = default_overlap(settings.blend, tile, halo, facts)
    return TileGrid.regular(sizes, tile, halo, overlap, facts.lattice)


def _halo(settings: Settings, model: Model, ndim: int) -> tuple[Sides, ...]:
    """What was asked for, else what was measured, else what the model's card says."""
    if settings.halo != "auto":
        return halo_sides(settings.halo, ndim)
    declared = model.declared.halo if model.declared else None
    usual = tuple((n, n) for n in declared or (16,) * ndim)
    return model.reach.halo or model.reach.convolutional or usual


def default_overlap(
    blend: Blend, tile: Sequence[int], halo: Sequence[Sides], facts: Facts
) -> tuple[int, ...]:
    """Overlap when none is asked for: what the halo needs, and for blends room to mix in."""
    needed = []
    for size, sides, lattice in zip(tile, halo, facts.lattice, strict=True):
        kept = size - sum(lattice.crop)
        room = 0 if blend == "crop" else max(lattice.pitch, kept // 4)
        most = kept - lattice.pitch
        needed.append(max(sum(sides), min(sum(sides) + room, most)))
    return tuple(needed)


def _no_larger_than_image(tile: int, size: int, lattice: Lattice) -> int:
    """Cut a tile to what the image needs; one that is not accepted is left for the grid to name."""
    whole = lattice.size_at_least(size + sum(lattice.crop))
    return min(tile, whole) if lattice.accepts(tile) else tile


def _fastest(
    candidates: Sequence[tuple[int, tuple[int, ...]]], speed: Speed | None
) -> tuple[int, ...]:
    """Tile shape that takes least time, by measured speeds; without them, fewest pixels.

    Much larger tiles than were measured are not trusted to be as fast: caches overflow, and less
    of each layer can be cut short (one tile of 2048 x 2048 took 1.35 times as long as 169 of 256).
    """
    if speed is None:
        return candidates[0][1]
    most = _BEYOND_MEASURED * speed.seconds[-1][0]
    known = [c for c in candidates if math.prod(c[1]) <= most] or candidates
    return min(known, key=lambda c: c[0] * speed.per_pixel(math.prod(c[1])))[1]


def tile_candidates(
    facts: Facts,
    sizes: Sequence[int],
    halo: Sequence[Sides],
    overlap: Sequence[int] | None,
    settings: Settings,
    budget: int,
) -> list[tuple[int, tuple[int, ...]]]:
    """Balanced tiles within a memory budget: ``(pixels to compute, shape)``, fewest pixels first.

    For each number of tiles along an axis the smallest tile that suffices is taken, so that
    nothing is computed twice because the last tile had to be moved back.

    Raises
    ------
    SettingsError
        When even the smallest tile does not fit the budget.
    """
    most = budget / _bytes_per_pixel(facts, settings.batch)
    overlaps = overlap or (0,) * len(sizes)
    per = [
        list(_balanced(n, h, o, a, settings.blend))
        for n, h, o, a in zip(sizes, halo, overlaps, facts.lattice, strict=True)
    ]
    most_options = int(_MOST_CANDIDATES ** (1 / len(per)))
    per = [options[:: -(-len(options) // most_options)] for options in per]
    smallest = tuple(min(tile for tile, _ in options) for options in per)
    if math.prod(smallest) > most:
        raise SettingsError(
            f"The smallest tile this halo allows ({shape_text(smallest)}) needs about "
            f"{bytes_text(_tile_bytes(facts, smallest, settings.batch))}, and {bytes_text(budget)} "
            "may be used: free memory, raise the budget (--memory), or lower halo or batch."
        )
    found = [
        (math.prod(t * n for t, n in option), tuple(t for t, _ in option))
        for option in itertools.product(*per)
        if math.prod(t for t, _ in option) <= most
    ]
    # the rounder tile of two that cost the same
    found.sort(key=lambda pair: (pair[0], max(pair[1]) / min(pair[1])))
    return found


def _balanced(
    size: int, halo: Sides, overlap: int, lattice: Lattice, blend: Blend
) -> Iterator[tuple[int, int]]:
    """Pairs ``(tile, number of tiles)`` along one axis: the smallest tile for each number."""
    whole = lattice.size_at_least(size + sum(lattice.crop))
    yield whole, 1
    if lattice.fixed is not None:
        return
    smallest = lattice.smallest_tile(halo, overlap)
    if blend != "crop":  # leave room to mix in, a quarter of the tile
        smallest = lattice.size_at_least(2 * smallest)
    seen = {1}
    # sizes grow by a few percent; each is then tightened to the smallest with as many tiles
    tile = smallest
    while tile < whole:
        count = len(AxisTiling(size, tile, halo, max(overlap, 0), lattice))
        if count not in seen:
            seen.add(count)
            yield tile, count
        tile = max(tile + lattice.increment, lattice.size_at_most(tile + tile // 64))


def _bytes_per_pixel(facts: Facts, batch: int) -> float:
    """Estimated bytes of a forward pass per input pixel, the tiles themselves included."""
    own = 4 * (facts.in_channels + facts.out_channels)
    return (facts.bytes_per_pixel + own) * batch


def _tile_bytes(facts: Facts, tile: Sequence[int], batch: int) -> int:
    return int(_bytes_per_pixel(facts, batch) * math.prod(tile))


# -- the wanted part


def _area(
    settings: Settings, layout: Layout, shape: tuple[int, ...], grid: TileGrid
) -> tuple[Slices, tuple[tuple[int, int], ...]]:
    wanted = dict(settings.area or {})
    ranges: dict[str, tuple[int, int]] = {}
    for letter in layout.frames + layout.spatial:
        size = layout.sizes(letter, shape)[0]
        start, stop = wanted.pop(letter, (0, size))
        if not 0 <= start < stop <= size:
            raise SettingsError(
                f"Area {letter}={start}:{stop} does not lie in the image: along {letter} it has "
                f"{size} pixels; use 0 <= start < stop <= {size}."
            )
        ranges[letter] = (start, stop)
    if wanted:
        raise SettingsError(
            f"Area names the axes {', '.join(wanted)}, which cannot be cut: the image's are "
            f"{layout.frames + layout.spatial}."
        )
    area = []
    for letter, axis in zip(layout.spatial, grid.axes, strict=True):
        start, stop = ranges[letter]
        scale = axis.lattice.scale
        area.append(slice(math.floor(start * scale), math.ceil(stop * scale)))
    return tuple(area), tuple(ranges[letter] for letter in layout.frames)


# -- what comes out


def _out_letters(layout: Layout, facts: Facts, settings: Settings) -> str:
    several = facts.out_channels > 1 and settings.result != "labels"
    return layout.frames + "c" * several + layout.spatial


def _out_scale(layout: Layout, image: Image, facts: Facts, settings: Settings) -> tuple[float, ...]:
    scale = []
    for letter in _out_letters(layout, facts, settings):
        own = image.scale[layout.axes.index(letter)] if letter in layout.axes else 1.0
        if letter in layout.spatial:
            own /= float(facts.scale[layout.spatial.index(letter)])
        scale.append(1.0 if letter == "c" else own)
    return tuple(scale)


def _out_units(layout: Layout, image: Image, facts: Facts, settings: Settings) -> tuple[str, ...]:
    return tuple(
        "" if letter == "c" else image.units[layout.axes.index(letter)]
        for letter in _out_letters(layout, facts, settings)
    )


def _out_origin(
    layout: Layout,
    image: Image,
    facts: Facts,
    settings: Settings,
    area: Slices,
    frame_ranges: Sequence[tuple[int, int]],
) -> tuple[float, ...]:
    """Position of the result's first pixel: a result covers the same part of space as its image."""
    starts = dict(zip(layout.frames, (start for start, _ in frame_ranges), strict=True))
    starts |= dict(zip(layout.spatial, (part.start for part in area), strict=True))
    letters = _out_letters(layout, facts, settings)
    origin = []
    for letter, size in zip(letters, _out_scale(layout, image, facts, settings), strict=True):
        if letter == "c":
            origin.append(0.0)
            continue
        axis = layout.axes.index(letter)
        centre = (size - image.scale[axis]) / 2  # pixels of another size have other centres
        origin.append(image.origin[axis] + centre + starts[letter] * size)
    return tuple(origin)


def _chunk(stride: int, axes: int) -> int:
    """Largest divisor of the stride that makes chunks of a handy size."""
    most = {1: 65536, 2: 512, 3: 128}[axes]
    return max(d for d in range(1, min(stride, most) + 1) if stride % d == 0)


# -- sentences


def _notes(plan: Plan, asked: Settings, budget: int) -> Iterator[str]:
    yield from _tile_notes(plan, asked)
    yield from _halo_notes(plan)
    if plan.bytes_per_tile > budget:
        yield (
            f"One batch needs about {bytes_text(plan.bytes_per_tile)} and {bytes_text(budget)} may "
            "be used: lower the tile or the batch if memory runs out."
        )


def _postprocessing_notes(plan: Plan, model: Model) -> Iterator[str]:
    if model.postprocessing is None or not plan.settings.postprocess:
        return
    if plan.postprocessing is None:
        yield "Labels are those of what the network gives, before its card's postprocessing."
        return
    part = "the area" if plan.settings.area else "the whole prediction"
    yield (
        f"After the last tile its card's postprocessing is done ({plan.postprocessing}), by "
        f"statistics of {part}; seams are measured before it."
    )


def _tile_notes(plan: Plan, asked: Settings) -> Iterator[str]:
    if asked.tile != "auto":
        wanted = per_axis(asked.tile, plan.facts.spatial_axes, "tile")
        cut = [(n, a) for n, a in zip(wanted, plan.grid.tile_shape, strict=True) if n > a]
        for tile, actual in cut[:1]:
            yield f"Tile {tile} is larger than the image: {actual} suffices."
    names = plan.layout.spatial
    for name, axis in zip(names, plan.grid.axes, strict=True):
        lost = axis.padded - axis.size
        if lost and not any(axis.lattice.crop):
            yield (
                f"{lost} pixels are added behind the image's end along {name} "
                f"({'reflected' if plan.settings.padding == 'reflect' else 'zeros'}), because the "
                f"network takes multiples of {axis.lattice.increment}."
            )
    if plan.facts.valid:
        yield (
            "The network's convolutions are valid (its output is smaller than its input): the "
            "image is continued beyond its border so that the result covers all of it."
        )
    if not plan.facts.period_found:
        yield (
            "No shift was found that the prediction follows: tiles start on multiples of "
            f"{max(plan.facts.period)}, the step of the sizes this network takes."
        )


def _halo_notes(plan: Plan) -> Iterator[str]:
    if len(plan.grid) == 1:
        return
    if plan.reach.halo is None:
        if plan.facts.statistics:
            told = f"{plan.facts.told_statistics}: expect seams that no halo removes."
            larger = "larger tiles, which make seams fainter."
            remedy = "Fix them (seamscope freeze), or use"
            yield f"{told} {'Use' if plan.facts.forward_only else remedy} {larger}"
        else:
            yield "The network sees the whole tile: expect seams that no halo removes."
    needed = plan.reach.halo or plan.reach.convolutional
    if needed is None:
        return
    short = [
        (name, own, need)
        for name, axis, own, need in zip(
            plan.layout.spatial, plan.grid.axes, plan.grid.halo, needed, strict=True
        )
        if not axis.single and (own[0] < need[0] or own[1] < need[1])
    ]
    for name, own, need in short[:1]:
        yield (
            f"Halo {own[0]} along {name} is less than the network's reach of {max(need)}: expect "
            "edge effects at the seams."
        )
