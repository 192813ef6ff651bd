"""From settings to a plan: exact, checked, with its costs.

Knows settings, a network's facts and an image's shape. Does not run networks or read pixels, so
that a plan is made in well under a millisecond per thousand tiles and a dock can make one for each
move of a slider.

`Settings` may say ``"auto"`` and may contradict the network. A `Plan` cannot: it holds the exact
grid, shapes, bytes, and sentences that the user should read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from seamscope.errors import SettingsError
from seamscope.images.image import Image
from seamscope.images.postprocessing import Postprocessing
from seamscope.images.preparation import Preparation
from seamscope.models.facts import Facts
from seamscope.models.model import Model
from seamscope.models.reach import Reach
from seamscope.planning.notes import notes_on
from seamscope.planning.resources import Resources
from seamscope.planning.tiles import (
    Wanted,
    bytes_per_pixel,
    lay_tiles,
    speed_key,
    with_something_to_compare,
)
from seamscope.serialization import plain, record, restore
from seamscope.settings import Settings
from seamscope.text import shape_text
from seamscope.tiling import (
    Sides,
    Slices,
    TileGrid,
    axis_names,
)

# Numbers of labels in 16 bits.
_MOST_CLASSES = 2**16
# Comparing all overlaps of one's own accord may take so many times the tiles.
_LITTLE_MORE = 1.05
# A run that computes no more pixels compares all overlaps: it takes seconds on a CPU. Larger ones
# save by a sample what the network computes outside of the cores.
_SMALL_RUN = 1 << 22


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
    """An exact plan of a run; made by `resolve`.

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
    bytes_before
        Memory that the process takes before the run: libraries, weights, an image in memory.
    notes
        Sentences for the user.
    preparation
        What the model's card asks to be done to intensities, where ``settings.normalize`` is still
        ``"auto"``.
    postprocessing
        What it asks to be done to the whole prediction, where that is wanted.
    stride_of_run
        Stride with which the image would be predicted with the same settings, where tiles lie
        closer here so that all overlaps can be compared.
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
    bytes_before: int = 0
    notes: tuple[str, ...] = field(default=())
    preparation: Preparation | None = None
    postprocessing: Postprocessing | None = None
    stride_of_run: tuple[int, ...] | None = None

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
    def exact(self) -> bool:
        """Whether each tile's halo covers the network's reach, so that no seam can be seen."""
        return self.covers(self.reach.halo)

    def covers(self, reach: tuple[Sides, ...] | None) -> bool:
        """Whether each tile's halo is as large as this reach; not where that is None."""
        return reach is not None and all(
            axis.single or (own[0] >= needed[0] and own[1] >= needed[1])
            for axis, own, needed in zip(self.grid.axes, self.grid.halo, reach, strict=True)
        )

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
        # how many classes a network numbers by itself is not known
        few = not self.given_classes and self.facts.out_channels <= 255
        return np.dtype(np.uint8 if few else np.uint16)

    @property
    def given_classes(self) -> bool:
        """Whether labels are the numbers that the network gives."""
        return self.facts.kind == "classes" and self.facts.out_channels == 1

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
        """Which part of the image the network gets, and how; plain values, as in JSON.

        Only what has an effect: percentiles where they are used, padding where tiles are padded.
        """
        own, layout = self.settings, self.layout
        shown: dict[str, Any] = {
            "normalize": str(own.normalize),
            "frames": {
                letter: list(part)
                for letter, part in zip(layout.frames, self.frame_ranges, strict=True)
            },
        }
        if own.normalize == "percentile":
            shown["percentiles"] = [float(percentage) for percentage in own.percentiles]
        if layout.channel is not None:
            single = layout.sizes(layout.channel, self.image_shape) == (1,)
            shown["channel_axis"] = layout.channel
            shown["channel"] = 0 if single else own.channel
        if own.fill_nan is not None:
            shown["fill_nan"] = float(own.fill_nan)
        if any(axis.padded != axis.size or any(axis.lattice.crop) for axis in self.grid.axes):
            shown["padding"] = own.padding
        return shown

    @property
    def speed_key(self) -> str:
        """Where `Model.speeds` holds what is known of such a run's speed."""
        return speed_key(self.settings.device, self.grid.halo)

    @property
    def redundancy(self) -> float:
        """Pixels the network computes for each pixel kept; 1 if nothing is computed twice."""
        kept = math.prod(
            float((part.stop - part.start) / scale)
            for part, scale in zip(self.area, self.facts.scale, strict=True)
        )
        return self.tiles * math.prod(self.grid.tile_shape) / kept

    @property
    def result_bytes(self) -> int:
        """Size of the result, uncompressed."""
        return math.prod(self.out_shape) * self.out_dtype.itemsize

    def peak_bytes(self, in_memory: bool = False) -> int:
        """Estimated largest memory of the whole process during the run.

        Libraries and weights, a forward pass, the batch that is read ahead, rows of tiles that wait
        to be written, and the result where it is not written to a file. On a GPU the forward pass
        takes the GPU's memory instead.

        Parameters
        ----------
        in_memory
            Whether the result is an array in memory.
        """
        on_host = not self.settings.device.startswith("cuda")
        tile = 4 * math.prod(self.grid.tile_shape) * self.settings.batch
        ahead = tile * (self.facts.in_channels + self.facts.out_channels)
        rows = min(self.grid.prediction_shape[0], self.area[0].stop - self.area[0].start)
        across = math.prod(part.stop - part.start for part in self.area[1:])
        waiting = (
            0 if in_memory and not self.blends else 4 * self.facts.out_channels * rows * across
        )
        forward = self.bytes_per_tile if on_host else 0
        result = self.result_bytes if in_memory else 0
        return self.bytes_before + forward + ahead + waiting + result

    @property
    def small(self) -> bool:
        """Whether so little is computed that comparing all overlaps takes no time of note."""
        return _computed(self, self.tiles * self.frames) <= _SMALL_RUN

    @property
    def compared_bytes(self) -> int:
        """Memory that the predictions of all tiles take, and maps of where they differ."""
        predictions = self.tiles * self.facts.out_channels * math.prod(self.grid.prediction_shape)
        maps = 2 * math.prod(part.stop - part.start for part in self.area)
        return int(4 * self.frames * (predictions + maps))

    def to_json(self) -> dict[str, Any]:
        """Return settings and figures as plain values; `from_json` reads those under ``exact``."""
        own = record(
            preparation=self.preparation,
            postprocessing=self.postprocessing,
            axes=self.layout.axes,
            image_shape=self.image_shape,
            tile=self.grid.tile_shape,
            stride=self.stride_of_run or self.grid.stride,
            measured_stride=self.grid.stride,
            halo=self.grid.halo,
            overlap=self.grid.overlap,
            period=self.facts.period,
            grid=self.grid.shape,
            tiles=self.tiles * self.frames,
            redundancy=round(self.redundancy, 4),
            bytes_per_tile=self.bytes_per_tile,
            peak_bytes=self.peak_bytes(),
            notes=self.notes,
            exact=plain(self),
        )
        return self.settings.to_json() | own

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
        As the user chose them.
    resources
        Device and memory; None to ask this machine now.

    Raises
    ------
    SettingsError, ImageError
        When settings, network and image contradict each other.
    """
    layout = image_layout(settings, model.facts, image)
    facts = model.facts.with_channels(_channel_count(settings, layout, image))
    if facts.kind == "classes" and facts.out_channels == 1:  # numbers that must not be mixed
        settings = settings.but(result="labels", blend="crop")
    if settings.result == "labels":
        _check_classes(settings, facts.out_channels)
    sizes = layout.sizes(layout.spatial, image.shape)
    if model.statistics is not None:
        model.statistics.check_image(sizes)
    reach = model.reach
    resources = resources or Resources.of(settings.device)
    device = resources.device
    budget = settings.memory or resources.memory
    parts, frame_ranges = _parts(settings, layout, image.shape)
    area = tuple(map(_output_part, parts, facts.scale))
    grid = lay_tiles(settings, model, facts, Wanted(sizes, parts, budget), device)
    kind = settings.normalize
    if kind == "auto":
        # what a model card asks for in detail has no name: it stays "auto"
        kind = model.normalize or ("auto" if model.preparation else "none")  # type: ignore[assignment]
    batch_bytes = bytes_per_pixel(facts, settings.batch) * math.prod(grid.tile_shape)
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
        bytes_per_tile=int(batch_bytes),
        bytes_before=resources.used,
        preparation=model.preparation if kind == "auto" else None,
        postprocessing=_postprocessing(settings, model),
    )
    plan = _comparing(plan, settings, resources.kept)
    if _has_room_to_compare(plan, settings):
        return resolve(image, model, settings.but(seams="all"), resources)
    fixed = () if model.statistics is None else model.statistics.notes(image.name, plan.seen)
    notes = (
        *model.notes,
        *facts.notes,
        *fixed,
        *notes_on(plan, settings, model, budget, image.dtype),
    )
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


def _comparing(plan: Plan, asked: Settings, kept: int) -> Plan:
    """Decide which overlaps are compared, and let tiles overlap enough for it."""
    seams = asked.seams
    if seams == "auto":
        everything = max(plan.grid.shape) <= 2  # a sample is blocks of two along each axis
        fits = plan.small and plan.compared_bytes <= kept
        seams = "all" if everything or fits else "sample"
    plan = dataclasses.replace(plan, settings=plan.settings.but(seams=seams))
    if seams != "all" or plan.blends or asked.overlap is not None:
        return plan
    if asked.seams == "auto" and _computed(plan, _tiles_of_image(plan)) > _SMALL_RUN:
        return plan  # an area of a large image has the tiles that the whole has
    grid = with_something_to_compare(plan.grid)
    settings = plan.settings.but(overlap=grid.overlap)
    wider = dataclasses.replace(plan, grid=grid, settings=settings)
    if wider.tiles <= _LITTLE_MORE * plan.tiles:
        return wider
    return (
        plan
        if asked.seams == "auto"
        else dataclasses.replace(wider, stride_of_run=plan.grid.stride)
    )


def _has_room_to_compare(plan: Plan, asked: Settings) -> bool:
    """Whether auto became all, so that the tile is chosen again, for overlaps with more in them.

    Not before: a sample, chosen or auto, has the tiles of a run that measures nothing.
    """
    chosen = asked.tile == "auto" and asked.overlap is None and not plan.blends
    return chosen and asked.seams == "auto" and plan.settings.seams == "all"


def _computed(plan: Plan, tiles: int) -> int:
    """Pixels of so many tiles, halos included."""
    return tiles * math.prod(plan.grid.tile_shape)


def _tiles_of_image(plan: Plan) -> int:
    """Tiles of all frames of the whole image."""
    return len(plan.grid) * math.prod(plan.layout.sizes(plan.layout.frames, plan.image_shape))


def _postprocessing(settings: Settings, model: Model) -> Postprocessing | None:
    wanted = settings.postprocess and settings.result == "probabilities"
    return model.postprocessing if wanted else None


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
        remedy = f"name its `axes`, one letter of tczyx for each of {shape_text(image.shape)}"
        if image.ndim < len(spatial):
            remedy = f"give one with {len(spatial)} axes or more, or another network"
        raise SettingsError(
            f"The network is {facts.spatial_axes}D and needs the axes {spatial}, but the image "
            f"{image.name} has {axes}: {remedy}."
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
    if image.ndim == len(spatial) + 1 and image.shape[-1] <= 4:  # as pictures have their colours
        examples = [f"{spatial}c"]
    raise SettingsError(
        f"The image {image.name} has {image.ndim} axes ({shape_text(image.shape)}) and nothing "
        f"says which is which; the network needs {spatial}. Name them (`axes`), for example "
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
    remedy = f"choose one of them (`channel=0` to {count - 1})"
    if facts.in_channels > 1:
        remedy = f"give an image with {facts.in_channels} channels on an axis named c"
    raise SettingsError(
        f"The image {image.name} ({layout.axes}, {shape_text(image.shape)}) has {count} channel"
        f"{'s' * (count > 1)} and the network takes {facts.in_channels}: {remedy}."
    )


# -- the wanted part


def _parts(
    settings: Settings, layout: Layout, shape: tuple[int, ...]
) -> tuple[tuple[Sides, ...], tuple[Sides, ...]]:
    """First pixel and the one after the last, along axes of space and along iterated axes."""
    wanted = dict(settings.area or {})
    ranges: dict[str, Sides] = {}
    for letter in layout.frames + layout.spatial:
        size = layout.sizes(letter, shape)[0]
        start, stop = wanted.pop(letter, (0, size))
        if size and not 0 <= start < stop <= size:
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
    spatial, frames = (tuple(ranges[a] for a in axes) for axes in (layout.spatial, layout.frames))
    return spatial, frames


def _output_part(part: Sides, scale: Fraction) -> slice:
    """Output pixels of a part of the image."""
    return slice(math.floor(part[0] * scale), math.ceil(part[1] * scale))


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
