"""How a prediction looks in napari: layers that fill while it is made.

Knows colours, names, contrast and when to draw again. Does not know threads or controls.

A result with a few channels is one coloured layer, or one layer for each channel: the more opaque,
the more probable, so that the image can be seen where nothing is predicted yet. Labels are one
labels layer. All are views of the one array the engine writes into, in memory or on disk, so that
nothing is copied and drawing again is all that it takes to see more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer
from napari.utils import Colormap, DirectLabelColormap
from napari.utils.colormaps import ensure_colormap
from napari.utils.colormaps.standardize_color import transform_color
from qtpy.QtCore import QTimer

from seamscope.docks.composite import Composite
from seamscope.docks.evidence import Evidence
from seamscope.docks.kept_layers import KeptLayers
from seamscope.docks.layers import place_like
from seamscope.docks.stored_result import StoredResult
from seamscope.execution.pool import On
from seamscope.images.image import Image
from seamscope.images.results.output import Output
from seamscope.models.formats import Consent
from seamscope.models.model import Model
from seamscope.models.runner import is_here
from seamscope.planning.plan import Plan
from seamscope.prediction.class_labels import label_numbers
from seamscope.settings import Settings

_MOST_LAYERS = 8
_FIRST = 512  # pixels along each axis of a result on disk, that contrast is taken from
_MOST_COLORED = 1 << 23  # pixels of a picture
_COLORS = ("#66c2a5", "#fc8d62", "#8da0cb", "#e78ac3", "#a6d854", "#ffd92f", "#e5c494", "#b3b3b3")
_STOPPED = "stopped · "
_OPACITY = 0.8  # the image shines through
_LEAST_PAUSE = 0.1  # seconds between two drawings
_PAINT_MS = 20  # after which Qt has painted, or paints and lets its timers wait
_SHARE = 0.2  # of the window's time that may go into drawing

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Run:
    """All that belongs to one prediction.

    Attributes
    ----------
    layer, image, model, plan
        What was predicted, and how.
    output
        What is filled; its array is shown.
    evidence
        What is known of its seams.
    prefix
        What its layers' names begin with.
    composite
        Whether its channels are shown as one coloured layer.
    on, trust
        Who computes it (see `seamscope.prediction.run.predict`), and whether code that comes with
        the network may run there.
    """

    layer: ImageLayer
    image: Image
    model: Model
    plan: Plan
    output: Output
    evidence: Evidence = field(default_factory=Evidence)
    prefix: str = ""
    composite: bool = False
    on: On = None
    trust: bool | Consent = False

    @property
    def stored(self) -> bool:
        """Whether the result is on disk."""
        return getattr(self.output, "path", None) is not None

    @property
    def settings(self) -> Settings:
        """Those of its plan, with a device of this machine where only workers have the plan's."""
        own = self.plan.settings
        return own if is_here(own.device) else own.but(device="auto")

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.output.record.get("finished"))

    @property
    def title(self) -> str:
        """Name of its result."""
        tile = " × ".join(map(str, _shortest(self.plan.grid.tile_shape)))
        return f"{self.layer.name} · {self.model.name} · tile {tile}"


def _shortest(values: Sequence[int]) -> Sequence[int]:
    return values[:1] if len(set(values)) == 1 else values


class ResultLayers:
    """The layers of one run.

    Parameters
    ----------
    viewer
        They are added to it, on top.
    run
        Its output's array is shown; nothing is copied.

    Attributes
    ----------
    layers
        The layers: one at first, the others by `add_next`.
    replaced
        Layers of another kind of result that was in the same file. They are removed in the end.
    """

    def __init__(self, viewer: Any, run: Run) -> None:
        self._run = run
        self._viewer = viewer
        self._labels = run.plan.settings.result == "labels"
        self._contrast_known = self._labels
        self._limits: tuple[float, float] | None = None
        self._next = 0.0
        self._dirty = False
        if self._labels and _classes(run.plan) > 1 and not run.stored:
            self._array.fill(_not_yet(run.plan))  # class 0 is a class like all others
        self._composite: Composite | None = None
        self._apart = self._adding = False  # channels: are to be seen apart; are being added
        self._kept = KeptLayers(viewer, "results on disk")
        self.layers: list[Layer] = []
        self.replaced: list[Layer] = []
        self._coming = self._add()
        self.add_next()

    @property
    def array(self) -> Any:
        """The result, in the plan's order of axes."""
        return self._array

    @property
    def _array(self) -> Any:
        return self._run.output.array  # a file's is another one when it has its final name

    @property
    def present(self) -> bool:
        """Whether any of the layers is still in the viewer."""
        return any(layer in self._viewer.layers for layer in self.layers)

    def add_next(self) -> bool:
        """Add the next layer, which takes napari some time; whether more are to come."""
        layer = next(self._coming, None)
        if layer is None:
            return False
        self.layers.append(layer)
        self._show_limits([layer])
        self.tell({"finished": False})
        return True

    def add_all(self) -> None:
        """Add all layers at once."""
        while self.add_next():
            pass

    def add_no_more(self) -> None:
        """Leave out the layers that are still to come."""
        self._coming = iter(())

    def hide(self) -> None:
        """Show none of the layers."""
        for layer in self.layers:
            layer.visible = False

    def tell(self, more: dict[str, Any]) -> None:
        """Add to what the layers' metadata say."""
        for layer in self.layers:
            record = {**self._run.output.record, **more}
            layer.metadata["seamscope"] = {**layer.metadata.get("seamscope", {}), **record}

    def mark(self, region: tuple[slice, ...]) -> None:
        """Note that a region is final."""
        if not region:
            return
        self._dirty = True
        if not self._contrast_known:
            self._contrast_known = True
            part = tuple(slice(s.start, min(s.stop, s.start + _FIRST)) for s in region)
            self._set_contrast(np.asarray(self._run.output.array[part]))

    def draw_when_due(self) -> bool:
        """Draw what is new if the last time is long enough ago; whether nothing is left to draw."""
        if self._dirty and time.perf_counter() >= self._next:
            self.draw()
        return not self._dirty

    def draw(self, thumbnail: bool = False) -> None:
        """Show what is new, and rest for as long as it deserves.

        Pixels go to the screen when Qt paints: a volume takes longer there than in `refresh`.
        """
        self._dirty = False
        self._next = math.inf
        begin = time.perf_counter()
        for layer in self.layers:
            if layer in self._viewer.layers:
                layer.refresh(extent=False, thumbnail=thumbnail)
        QTimer.singleShot(_PAINT_MS, partial(self._painted, begin))

    def _painted(self, begin: float) -> None:
        took = time.perf_counter() - begin - _PAINT_MS / 1000
        self._next = time.perf_counter() + max(_LEAST_PAUSE, took / _SHARE - took)

    def finish(self, stopped: bool = False) -> None:
        """Draw everything, thumbnails too, with contrast limits that fit.

        Layers of a run that was stopped say so in their names.
        """
        self.add_all()
        if stopped:
            for layer in self.layers:
                layer.name = f"{_STOPPED}{layer.name}"
        elif self._run.stored:
            self._remove_replaced()
        if not self._labels:
            self._set_contrast(self._sample())
        self.draw(thumbnail=True)

    def _remove_replaced(self) -> None:
        """Remove layers whose file holds this result now: they would read its pixels as theirs."""
        earlier = self._kept.all(self._run.output.path)
        self.replaced = [layer for layer in earlier if layer not in self.layers]
        for layer in self.replaced:
            self._viewer.layers.remove(layer)

    def _sample(self) -> Array:
        """Values from everywhere; of a result on disk from its lowest resolution."""
        if not self._run.stored:
            return _sample(self._array)
        lowest = self._run.output.levels[-1]
        part = tuple(slice(0, _FIRST) for _ in lowest.shape)
        return np.asarray(lowest[part])

    def _set_contrast(self, values: Array) -> None:
        """Probabilities are shown from 0 to 1, all else by its range."""
        finite = values[np.isfinite(values)]
        if finite.size == 0:
            return
        low, high = float(finite.min()), float(finite.max())
        self._limits = (0.0, 1.0) if low > -1e-3 and high < 1.001 else (low, high)
        if self._composite is not None:
            self._composite.limits = self._limits
        self._show_limits(self.layers)

    def _show_limits(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            if self._limits is not None and not getattr(layer, "rgb", False):
                layer.contrast_limits_range = self._limits
                layer.contrast_limits = self._limits

    # -- making the layers

    def _add(self) -> Iterator[Layer]:
        if self._labels:
            yield self._add_labels()
        elif self._run.composite and _colorable(self._run) and not self._run.stored:
            yield self._add_composite()
        else:
            yield from self._each_channel()

    def _each_channel(self) -> Iterator[Layer]:
        for channel in self._channels:
            if channel is None:
                yield self._add_image(None, self._run.title, faded("magma"))
            else:
                yield self._add_channel(channel)

    @property
    def _channels(self) -> list[int | None]:
        """Channel of each layer; None for what is one layer as a whole."""
        count = self._run.plan.out_channels
        return [*reversed(range(count))] if 1 < count <= _MOST_LAYERS else [None]

    def turn_to(self, run: Run) -> None:
        """Lie where the result of another run lies, one of the same shape and array."""
        self._run = run
        for layer, channel in zip(self.layers, self._channels, strict=True):
            layer.translate = self._placed(channel)[1]["translate"]

    def show_channels(self, wanted: bool, made: Callable[[Layer], None]) -> None:
        """Show each channel as a layer instead of all in one, or the other way round.

        Layers of channels are made when they are first wanted, one each time that the window has
        answered. `made` is called with each; they are shown when all are here. What is not wanted
        any more is not made.
        """
        if self._composite is None or not self.present:
            return
        self._apart = wanted
        if self._adding:  # goes on as it is wanted now
            return
        if wanted and len(self.layers) == 1:
            self._coming = self._each_channel()
            self._set_contrast(self._sample())
        self._add_channels(made)

    def _add_channels(self, made: Callable[[Layer], None]) -> None:
        self._adding = False
        if not self.present:  # removed meanwhile
            return
        layer = next(self._coming, None) if self._apart else None
        if layer is None:
            self._show_kind()
            return
        self._adding = True
        layer.visible = False
        known = layer.metadata["seamscope"]
        known |= self.layers[0].metadata["seamscope"] | {"channel": known["channel"]}
        self.layers.append(layer)
        self._show_limits([layer])
        made(layer)
        QTimer.singleShot(0, partial(self._add_channels, made))

    def _show_kind(self) -> None:
        """Show the layers of channels, or the coloured one."""
        for layer in self.layers:
            layer.visible = self._apart != bool(getattr(layer, "rgb", False))

    def _add_composite(self) -> Layer:
        count = self._run.plan.out_channels
        each = [self._placed(channel) for channel in range(count)]
        colors = [_rgb(self._color(channel)) for channel in range(count)]
        self._composite = Composite([array for array, _ in each], colors)
        return self._viewer.add_image(
            self._composite,
            rgb=True,
            name=self._run.prefix + self._run.title,
            blending="translucent_no_depth",
            opacity=_OPACITY,
            metadata=self._metadata(None),
            **each[0][1],
        )

    def _color(self, index: int) -> str:
        colors = self._run.model.channel_colors
        return colors[index] if len(colors) > index else _COLORS[index % len(_COLORS)]

    def _add_channel(self, index: int) -> Layer:
        name = self._run.model.channels[index]
        color = self._color(index)
        colormap = Colormap([color + "00", color], name=f"{name} {color}")
        return self._add_image(index, f"{name} · {self._run.title}", colormap)

    def _add_image(self, channel: int | None, name: str, colormap: Any) -> Layer:
        return self._add_layer(
            ImageLayer,
            channel,
            name,
            {},
            colormap=colormap,
            blending="translucent_no_depth",
            opacity=_OPACITY,
            contrast_limits=(0.0, 1.0),
        )

    def _add_layer(
        self, kind: type[Layer], channel: int | None, name: str, look: dict[str, Any], **first: Any
    ) -> Layer:
        """Add a layer; one of an earlier run into the same file is taken over."""
        array, place = self._placed(channel)
        shown = {"name": self._run.prefix + name, "metadata": self._metadata(channel), **look}
        several = isinstance(array, list)
        if not self._run.stored:
            layer: Layer = kind(array, multiscale=False, **shown, **first, **place)
            return self._viewer.add_layer(layer)
        ndim = (array[0] if several else array).ndim
        key = (self._run.output.path, kind.__name__, channel, ndim, several)
        return self._kept.show(key, kind, array, place, shown, multiscale=several, **first)

    def _add_labels(self) -> Layer:
        look: dict[str, Any] = {}
        if _classes(self._run.plan) > 1:
            look = {"colormap": self._class_colors(), "features": self._class_names()}
        name = f"labels · {self._run.title}"
        layer = self._add_layer(Labels, None, name, look, opacity=0.6)
        if self._run.stored:
            layer.editable = False  # its file is not written from here
        return layer

    def _class_colors(self) -> DirectLabelColormap:
        known = self._run.model.channel_colors
        count = _classes(self._run.plan)
        colors = list(known) if len(known) == count else [_COLORS[i % 8] for i in range(count)]
        background = self._run.plan.settings.background
        if background is not None:
            colors[background] = "transparent"
        each: dict[int | None, str] = dict(zip(self._class_labels, colors, strict=True))
        return DirectLabelColormap(color_dict={**each, None: "transparent"})

    @property
    def _class_labels(self) -> list[int]:
        """Label of each channel."""
        settings = self._run.plan.settings
        numbers: list[int] = label_numbers(_classes(self._run.plan), settings.background).tolist()
        return numbers

    def _class_names(self) -> dict[str, list[Any]]:
        names = self._run.model.channels
        return {
            "index": [*self._class_labels, _not_yet(self._run.plan)],
            "class": [*names, "not predicted"],
        }

    def _placed(self, channel: int | None) -> tuple[Any, dict[str, Any]]:
        """What a channel's layer shows, and where it lies; several levels of a result on disk."""
        axes = self._run.plan.out_axes
        if self._run.stored:
            return _on_disk(self._run, channel)
        if channel is None:
            return placed(self._array, self._run, axes)
        own = self._array[(slice(None),) * axes.index("c") + (channel,)]
        return placed(own, self._run, axes.replace("c", ""))

    def _metadata(self, channel: int | None) -> dict[str, Any]:
        known: dict[str, Any] = {"axes": self._run.plan.out_axes}
        if channel is not None:
            known["channel"] = self._run.model.channels[channel]
        return {"seamscope": known}


def _rgb(color: str) -> tuple[float, ...]:
    """Red, green and blue, 0 to 1, of ``"#66c2a5"`` or a name."""
    return tuple(float(part) for part in transform_color(color)[0][:3])


def faded(name: str) -> Colormap:
    """A colormap of napari's that is transparent at its lower end."""
    colors = ensure_colormap(name).map(np.linspace(0, 1, 64))
    colors[:, 3] = np.clip(np.linspace(0, 2.5, 64), 0, 1)
    return Colormap(colors, name=f"{name} (faded)")


def _not_yet(plan: Plan) -> int:
    """Label of pixels that are not predicted: the highest of the type, which is no class."""
    return int(np.iinfo(plan.out_dtype).max)


def _colorable(run: Run) -> bool:
    """Whether channels can be one coloured layer: napari draws none as volumes.

    And the colours of a picture are computed as a whole, so it must not be too large.
    """
    plan = run.plan
    several = 1 < plan.out_channels <= _MOST_LAYERS and plan.facts.spatial_axes == 2
    pixels = math.prod(part.stop - part.start for part in plan.area)
    return several and pixels <= _MOST_COLORED


def _classes(plan: Plan) -> int:
    return plan.facts.out_channels


def _on_disk(run: Run, channel: int | None) -> tuple[Any, dict[str, Any]]:
    """Levels of a result on disk with the dimensions of its image's layer, and where they lie."""
    axes = run.plan.out_axes
    own = axes if channel is None else axes.replace("c", "")
    lead, first, shown = _shown_axes(run, own)
    fixed = {} if channel is None else {axes.index("c"): channel}
    order = [axes.index(a) if a in own else None for a in lead + shown]
    repeats = [
        run.image.shape[run.plan.layout.axes.index(a)]
        for a, axis in zip(lead + shown, order, strict=True)
        if axis is None
    ]
    count = len(run.output.levels)
    levels = [StoredResult(run.output, level, order, repeats, fixed) for level in range(count)]
    return levels if count > 1 else levels[0], _place(run, lead, first, shown)


def _sample(array: Array) -> Array:
    """A million values from everywhere."""
    step = max(1, round((array.size / 1e6) ** (1 / array.ndim)))
    return array[(slice(None, None, step),) * array.ndim]


def placed(array: Any, run: Run, axes: str) -> tuple[Any, dict[str, Any]]:
    """A view of a result with the dimensions of its image's layer, and where it lies.

    The result's own axes are in the engine's order; a layer's may be in any other, and have a
    channel axis between them, along which the result is the same everywhere.

    Parameters
    ----------
    array
        Anything of the plan's area; left as it is, unread, where its axes are in order.
    run
        Of the result.
    axes
        One letter for each of the array's axes; ``c`` for channels of the result.
    """
    lead, first, shown = _shown_axes(run, axes)
    order = [axes.index(a) for a in lead + shown if a in axes]
    view = array
    if order != sorted(order) or len(shown) > len(order) - len(lead):
        view = np.asarray(array).transpose(order)
    for dim, letter in enumerate(shown, start=len(lead)):
        if letter not in axes:
            count = run.image.shape[run.plan.layout.axes.index(letter)]
            view = _repeated(view, dim, count)
    return view, _place(run, lead, first, shown)


def _shown_axes(run: Run, axes: str) -> tuple[str, int, str]:
    """Letter of an axis of channels in front, if any; the layer's first dimension; letters on."""
    lead = "c" if "c" in axes and run.plan.out_channels > 1 else ""
    letters = run.plan.layout.axes[: run.layer.ndim]
    first = min(letters.index(a) for a in axes if a in letters and a != lead)
    return lead, first, letters[first:]


def _place(run: Run, lead: str, first: int, shown: str) -> dict[str, Any]:
    size, offset = zip(*(_grain(letter, run.plan) for letter in shown), strict=True)
    return _with_leading(place_like(run.layer, first, size, offset), len(lead))


def layer_point(run: Run, frame: Sequence[int], pixel: Sequence[float]) -> list[float | None]:
    """Where a pixel of the result lies, in pixels of the image's layer.

    Parameters
    ----------
    run
        Of the result.
    frame
        Time point and the like, counted in the image.
    pixel
        Along the spatial axes, counted from the whole result's corner.

    Returns
    -------
    list
        One number for each of the layer's dimensions; None where the result has no such axis.
    """
    layout = run.plan.layout
    places: dict[str, float] = dict(zip(layout.frames, frame, strict=True))
    for letter, p, scale in zip(layout.spatial, pixel, run.plan.facts.scale, strict=True):
        places[letter] = (p + 0.5) / float(scale) - 0.5
    return [places.get(letter) for letter in layout.axes[: run.layer.ndim]]


def result_pixel(
    run: Run, point: Sequence[float]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Frame and pixel of the result at a point of the image's layer; None beside the result."""
    plan, letters = run.plan, run.plan.layout.axes
    frame, pixel = [], []
    for letter, (start, stop) in zip(plan.layout.frames, plan.frame_ranges, strict=True):
        number = round(float(point[letters.index(letter)]))
        if not start <= number < stop:
            return None
        frame.append(number)
    for letter, scale, part in zip(plan.layout.spatial, plan.facts.scale, plan.area, strict=True):
        place = math.floor((float(point[letters.index(letter)]) + 0.5) * float(scale))
        if not part.start <= place < part.stop:
            return None
        pixel.append(place)
    return tuple(frame), tuple(pixel)


def _repeated(array: Array, dim: int, count: int) -> Array:
    expanded = np.expand_dims(array, dim)
    return np.broadcast_to(expanded, (*array.shape[:dim], count, *array.shape[dim:]))


def _grain(letter: str, plan: Plan) -> tuple[float, float]:
    """Size of a result's pixel and centre of its first one, in pixels of the image."""
    layout = plan.layout
    if letter in layout.spatial:
        number = layout.spatial.index(letter)
        scale = float(plan.facts.scale[number])
        return 1 / scale, (plan.area[number].start + 0.5) / scale - 0.5
    if letter in layout.frames:
        return 1.0, float(plan.frame_ranges[layout.frames.index(letter)][0])
    return 1.0, 0.0


def _with_leading(place: dict[str, Any], count: int) -> dict[str, Any]:
    """The same for a layer with one more dimension in front: its channels."""
    if not count:
        return place
    return {
        "scale": np.concatenate([[1.0], place["scale"]]),
        "translate": np.concatenate([[0.0], place["translate"]]),
        "units": ("pixel", *place["units"]),
        "axis_labels": ("c", *place["axis_labels"]),
    }
