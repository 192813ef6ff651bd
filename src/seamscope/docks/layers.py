"""napari's layers and the engine's images: which is which, and where each lies.

Knows layers' data, axis names, transforms, shapes drawn in them and clicks into them. Does not know
networks or widgets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Shapes
from napari.utils.transforms import Affine

from seamscope.errors import ImageError, SeamscopeError, SettingsError
from seamscope.images.dimensions import AXES, are_axes
from seamscope.images.image import Image, open_image
from seamscope.planning.plan import Layout, Plan
from seamscope.prediction.resuming import content_of
from seamscope.text import shape_text

Area = dict[str, tuple[int, int]]

_LONG_NAMES = {"time": "t", "channel": "c", "channels": "c", "depth": "z"}


class Wires:
    """Connections to a viewer's events, made and cut together.

    A viewer outlives its docks, and goes on calling what is connected to it.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[Any, Callable[..., None]]] = []

    def connect(self, emitters: Iterable[Any], callback: Callable[..., None]) -> None:
        """Call `callback` at each of these events."""
        for emitter in emitters:
            emitter.connect(callback)
            self._pairs.append((emitter, callback))

    def cut(self, *_: Any) -> None:
        """Hear of nothing more."""
        for emitter, callback in self._pairs:
            emitter.disconnect(callback)
        self._pairs.clear()


def unwrapped(viewer: Any) -> Any:
    """The viewer itself, of the proxy that napari gives to plugins.

    A proxy's layers are proxies too, made again for each call: what is remembered of one by a weak
    reference is forgotten at once.
    """
    return getattr(viewer, "__wrapped__", viewer)


def on_click(act: Callable[[Sequence[float]], None]) -> Callable[[Any, Any], Iterator[None]]:
    """Make a callback for a viewer's ``mouse_drag_callbacks`` that hears clicks, and no drags.

    Parameters
    ----------
    act
        Is given the point of the world that was clicked.
    """

    def pressed(_: Any, event: Any) -> Iterator[None]:
        yield  # napari continues this generator when the mouse moves and when it is released
        moved = False
        while event.type == "mouse_move":
            moved = True
            yield
        if not moved:
            act(event.position)

    return pressed


# -- a layer as an image


def pixels(layer: ImageLayer) -> Any:
    """What the layer's full resolution is read from."""
    return layer.data[0] if layer.multiscale else layer.data


def axes_of(layer: ImageLayer) -> str | None:
    """Letters of the layer's array, the colour axis included; None if they are unknown.

    Taken from the layer's axis names where these are real ones, else from the file it came from.
    Pictures and RGB pictures need no names.
    """
    named = _named_axes(layer) or ("yx" if layer.ndim == 2 else None)
    if named is not None:
        return named + "c" * bool(layer.rgb)
    return _axes_in_file(layer)


def _named_axes(layer: ImageLayer) -> str | None:
    names = [str(name).strip().lower() for name in layer.axis_labels]
    letters = [_LONG_NAMES.get(name, name) for name in names]
    real = all(len(letter) == 1 and letter in AXES for letter in letters)
    return "".join(letters) if real and are_axes("".join(letters)) else None


def _axes_in_file(layer: ImageLayer) -> str | None:
    path = layer.source.path
    if not path or not Path(path).exists():
        return None
    try:
        image = open_image(path)
    except SeamscopeError:
        return None
    return image.axes if image.shape == tuple(pixels(layer).shape) else None


def image_of(layer: ImageLayer, axes: str | None = None) -> Image:
    """The image that a layer shows, its full resolution, with the layer's pixel size.

    Parameters
    ----------
    layer
        Its pixels are not read.
    axes
        One letter for each axis of its array; None for what `axes_of` finds.

    Raises
    ------
    SettingsError
        When `axes` does not fit.
    ImageError
        When the layer holds no numbers.
    """
    image = opened_as(layer) or open_image(pixels(layer))
    letters, nodata = axes or axes_of(layer), nodata_of(layer)
    opened = dict(image.opened)
    image = dataclasses.replace(image.with_axes(letters) if letters else image, name=layer.name)
    if letters:
        opened["axes"] = letters
    if nodata is not None and not image.missing:
        image = image.with_nodata(nodata)
        opened["nodata"] = nodata
    count = image.ndim - layer.ndim  # the colour axis has no place in the layer's transform
    return dataclasses.replace(
        image,
        opened=opened,
        scale=(*map(float, layer.scale), *(1.0,) * count),
        units=(*map(str, layer.units), *("",) * count),
    )


_NODATA = "seamscope nodata"  # in a layer's metadata


def nodata_of(layer: ImageLayer) -> float | None:
    """Return the intensity that stands for no data in a layer; None where all pixels have data."""
    value: float | None = layer.metadata.get(_NODATA)
    return value


def propose_nodata(layer: ImageLayer, value: float | None) -> None:
    """Take what a layer's file says, where nothing was chosen for the layer yet."""
    layer.metadata.setdefault(_NODATA, value)


def set_nodata(layer: ImageLayer, value: float | None) -> None:
    """Say which intensity of a layer stands for no data, in all docks."""
    layer.metadata[_NODATA] = value


_OPENED = "seamscope opened"  # in a layer's metadata: its file, and its image as the engine has it


def add_opened(viewer: Any, image: Image, name: str, path: str, **place: Any) -> ImageLayer:
    """Add a layer of an image that the engine opened, which reads its pixels when they are shown.

    Parameters
    ----------
    viewer
        It gets the layer.
    image
        The image.
    name
        Of the layer.
    path
        Of its file; empty for none.
    place
        Where it lies, as for ``viewer.add_image``; by default where the image says.
    """
    own = opened_data(image, path)
    return viewer.add_image(image.data, name=name, multiscale=False, **{**own, **place})


def opened_data(image: Image, path: str = "") -> dict[str, Any]:
    """Arguments for a layer of an image that the engine opened, as for `add_opened`."""
    axes = image.axes or ""
    rgb = image.colours and axes.endswith("c") and image.shape[-1] in (3, 4)
    ndim = image.ndim - rgb
    own: dict[str, Any] = {
        "scale": image.scale[:ndim],
        "translate": (image.origin or (0.0,) * image.ndim)[:ndim],
        "units": tuple(unit or "pixel" for unit in image.units[:ndim]),
        "rgb": rgb,
        "metadata": {_OPENED: (path, image)},
    }
    return own | ({"axis_labels": tuple(axes[:ndim])} if axes else {})


def opened_as(layer: ImageLayer) -> Image | None:
    """Return the image that `add_opened` made the layer of; None if its pixels were replaced."""
    _, image = layer.metadata.get(_OPENED, ("", None))
    return image if image is not None and pixels(layer) is image.data else None


def path_of(layer: ImageLayer) -> str:
    """Return the file that a layer was opened from, by napari or by `add_opened`; empty if none."""
    path, _ = layer.metadata.get(_OPENED, (layer.source.path or "", None))
    return str(path) if path and Path(path).exists() else ""


def name_of(layer: ImageLayer) -> str:
    """Return the name by which the image of a layer is opened, a file or sample; empty if none."""
    return sample_of(layer) or path_of(layer)


def sample_of(layer: ImageLayer) -> str:
    """Return what opens the sample that a layer shows (``"demo:..."``); empty without one."""
    sample = layer.source.sample
    own = sample is not None and sample[0] == "seamscope"
    return f"demo:{sample[1].replace('_', '')}" if own else ""


def labels_image(layer: Labels, plan: Plan) -> Image:
    """The ground truth that a labels layer shows, for what a plan predicts."""
    data = layer.data[0] if layer.multiscale else layer.data
    letters = "".join(a for a in plan.layout.axes if a != plan.layout.channel)
    axes = letters if len(letters) == data.ndim else plan.layout.spatial
    return open_image(data, axes=axes if len(axes) == data.ndim else None)


def file_of_layer(layer: ImageLayer, axes: str | None = None) -> tuple[str, Image]:
    """Return the file or sample that a layer shows, and the image in it.

    Parameters
    ----------
    layer
        Some of its pixels are compared with the file's.
    axes
        One letter for each axis of its array.

    Raises
    ------
    ImageError
        When the layer comes from no file, or the file holds other pixels than the layer.
    """
    shown, name = image_of(layer, axes), name_of(layer)
    if not name:
        raise ImageError(
            f"The layer {layer.name} is in no file. Save it (File > Save Selected Layer), and open "
            "the file."
        )
    choices = {key: value for key, value in shown.opened.items() if key != "axes"}
    image = open_image(name, **choices)
    if image.shape == shown.shape and image.axes != shown.axes and shown.axes is not None:
        image = open_image(name, axes=shown.axes, **choices)
    same = (image.shape, image.dtype) == (shown.shape, shown.dtype)
    if not same or content_of(image) != content_of(shown):
        raise ImageError(
            f"The layer {layer.name} has other pixels than {name} ({shape_text(shown.shape)} and "
            f"{shape_text(image.shape)}), so no command predicts it from there. Save the layer, "
            "and open the file."
        )
    return str(name), image


def letters_of(layer: ImageLayer, image: Image) -> str:
    """Letters of the layer's own dimensions, without the colour axis; ``?`` where unknown."""
    axes = image.axes or ("zyx"[-image.ndim :] if image.ndim <= 3 else "?" * image.ndim)
    return axes[: layer.ndim]


# -- where a layer lies


def place_like(
    layer: Layer, first: int, size: Sequence[float], offset: Sequence[float]
) -> dict[str, Any]:
    """Arguments for a new layer that lies on another, from its dimension `first` on.

    Parameters
    ----------
    layer
        The layer to lie on.
    first
        Its leading dimensions to leave out.
    size
        Pixel size of the new layer in pixels of the other, for each dimension kept.
    offset
        Centre of the new layer's first pixel in pixels of the other.
    """
    full = np.concatenate([np.zeros(first), np.asarray(offset, float)])
    turned = Affine(
        scale=layer.scale, translate=layer.translate, rotate=layer.rotate, shear=layer.shear
    )
    origin = np.asarray(turned(full))
    place: dict[str, Any] = {
        "scale": np.asarray(layer.scale)[first:] * np.asarray(size, float),
        "translate": origin[first:],
        "units": tuple(layer.units)[first:],
        "axis_labels": tuple(layer.axis_labels)[first:],
    }
    kept = layer.ndim - first
    for name, matrix in (("rotate", layer.rotate), ("affine", layer.affine.affine_matrix)):
        part = np.asarray(matrix)[first:, first:]
        if part.shape[0] >= kept and not np.allclose(part, np.eye(len(part))):
            place[name] = part
    if np.any(layer.shear) and first == 0:
        place["shear"] = layer.shear
    return place


def over_layer(
    array: npt.NDArray[Any],
    grains: Mapping[str, tuple[float, float]],
    layer: ImageLayer,
    layout: Layout,
) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    """Order an array like a layer's dimensions, and place it over the layer.

    Parameters
    ----------
    array
        One dimension for each of `grains`, in their order.
    grains
        For each axis, size of the array's pixels and centre of the first, in pixels of the layer.
    layer, layout
        The image's layer, and its axes. Along axes that are not among `grains` the array is the
        same all along.
    """
    letters, axes = layout.axes[: layer.ndim], list(grains)
    first = min(letters.index(a) for a in axes if a in letters)
    shown = letters[first:]
    array = array.transpose([axes.index(a) for a in shown if a in axes])
    for dim, letter in enumerate(shown):
        if letter not in axes:
            count = pixels(layer).shape[first + dim]
            array = np.repeat(np.expand_dims(array, dim), count, dim)
    size, offset = zip(*(grains.get(a, (1.0, 0.0)) for a in shown), strict=True)
    return np.ascontiguousarray(array), place_like(layer, first, size, offset)


# -- part of a layer


def camera(viewer: Any) -> Any:
    """The viewer's camera, which moved in napari 0.9."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def shown_point(layer: Layer, viewer: Any) -> npt.NDArray[np.float64]:
    """Centre of the view and the current slice, in pixels of the layer."""
    point = np.array(viewer.dims.point, float)
    shown = list(viewer.dims.displayed)
    point[shown] = np.asarray(camera(viewer).center, float)[-len(shown) :]
    return np.asarray(layer.world_to_data(point), float)


def look_at(
    layer: Layer, point: Sequence[float | None], size: float, viewer: Any, canvas: int
) -> None:
    """Move camera and sliders to a point, and come near; never go further away.

    Parameters
    ----------
    layer, point
        In pixels of this layer; None along a dimension that stays as it is.
    size
        So many pixels at least fit into the view.
    viewer
        Whose camera moves.
    canvas
        Shorter side of its canvas, in screen pixels.
    """
    now = shown_point(layer, viewer)
    place = [n if p is None else p for n, p in zip(now, point, strict=True)]
    world = np.asarray(layer.data_to_world(place), float)
    missing = viewer.dims.ndim - layer.ndim
    center = np.array(camera(viewer).center, float)
    shown = viewer.dims.displayed
    for dim, value in enumerate(world, start=missing):
        if dim in shown:
            center[shown.index(dim) - len(shown)] = value
        else:
            viewer.dims.set_point(dim, value)
    pixel = float(np.abs(np.asarray(layer.scale)[-2:]).min())
    near = canvas / (size * pixel)
    camera(viewer).zoom = max(camera(viewer).zoom, near)
    camera(viewer).center = tuple(center)


def displayed(layer: Layer, viewer: Any) -> tuple[int, ...]:
    """The layer's dimensions that are displayed."""
    missing = viewer.dims.ndim - layer.ndim
    return tuple(d - missing for d in viewer.dims.displayed if d >= missing)


def shown_dims(layer: Layer, viewer: Any) -> tuple[int, ...]:
    """The layer's dimensions that lie in the plane of the view (the last two in 3D)."""
    return displayed(layer, viewer)[-2:]


def screen_size(layer: Layer, viewer: Any) -> float:
    """Size of a pixel of the layer on the screen, in pixels of the screen."""
    scale = np.asarray(layer.scale)[list(shown_dims(layer, viewer))]
    return max(float(np.mean(np.abs(scale))) * camera(viewer).zoom, 1e-9)


def on_slice(layer: Layer, viewer: Any) -> dict[str, Any]:
    """Where a layer lies, for `KeptLayers.show`, but exactly on the current slice.

    napari stops at half pixels too, and shows shapes at whole ones only.
    """
    point = shown_point(layer, viewer)
    offset = point - np.round(point)
    offset[list(displayed(layer, viewer))] = 0
    return place_like(layer, 0, (1,) * layer.ndim, offset.tolist())


def area_in_view(layer: ImageLayer, letters: str, viewer: Any) -> Area:
    """Pixels that are seen: what the view shows of the displayed axes, the slice of all others.

    Raises
    ------
    SettingsError
        When nothing of the layer is in view.
    """
    corners = np.asarray(layer.corner_pixels, float)
    if layer.multiscale:
        corners = corners * np.asarray(layer.downsample_factors)[layer.data_level]
    point = shown_point(layer, viewer)
    shown = shown_dims(layer, viewer)
    area: Area = {}
    for dim, letter in enumerate(letters):
        size = pixels(layer).shape[dim]
        low, high = (corners[0, dim], corners[1, dim]) if dim in shown else (point[dim],) * 2
        area[letter] = _within(low, high + (dim not in shown), size)
        if area[letter][0] >= area[letter][1]:
            raise SettingsError(
                f"Nothing of {layer.name} is in view along {letter}: move the view over the image."
            )
    area.pop("c", None)
    return area


def area_of_shape(shapes: Shapes | None, layer: ImageLayer, letters: str) -> Area:
    """Pixels inside the selected shape's box, of a shape drawn in the plane of the view.

    Raises
    ------
    SettingsError
        When there is no shape, or it lies beside the image.
    """
    if shapes is None or shapes.nshapes == 0:
        raise SettingsError("No rectangle is drawn: draw one in a shapes layer, over the image.")
    index = min(shapes.selected_data, default=shapes.nshapes - 1)
    corners = np.array([shapes.data_to_world(vertex) for vertex in shapes.data[index]])
    own = np.array([layer.world_to_data(_padded(corner, layer.ndim)) for corner in corners])
    area: Area = {}
    drawn = max(layer.ndim - corners.shape[1], 0)
    for dim, letter in enumerate(letters):
        low, high = own[:, dim].min(), own[:, dim].max()
        if dim < drawn or letter == "c" or high - low < 1e-6:
            continue  # not drawn along this axis: all of it
        size = pixels(layer).shape[dim]
        # pixel centres have whole numbers: a pixel belongs to the box that holds its centre
        area[letter] = _within(np.ceil(low), np.floor(high) + 1, size)
        if area[letter][0] >= area[letter][1]:
            raise SettingsError(f"The drawn rectangle lies beside {layer.name}: draw it over it.")
    return area


def _within(low: float, high: float, size: int) -> tuple[int, int]:
    start = int(np.clip(np.floor(low), 0, size))
    return start, int(np.clip(np.ceil(high), 0, size))


def _padded(point: npt.NDArray[np.float64], ndim: int) -> npt.NDArray[np.float64]:
    return np.concatenate([np.zeros(max(ndim - len(point), 0)), point])


def drawn_shapes(viewer: Any) -> Shapes | None:
    """The shapes layer a region is taken from: the selected one, else the topmost of the user's."""
    own = [x for x in viewer.layers if isinstance(x, Shapes) and "seamscope" not in x.metadata]
    chosen = [x for x in own if x in viewer.layers.selection]
    return next(iter([*chosen, *reversed(own)]), None)


def check_image(layer: Any) -> ImageLayer:
    """Refuse what is no image layer."""
    if not isinstance(layer, ImageLayer):
        raise ImageError("There is no image layer: open an image, or File > Open Sample.")
    return layer
