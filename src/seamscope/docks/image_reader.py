"""OME-Zarr opened in napari: each channel a layer with all resolutions, and the labels beside it.

Knows napari's form of layers. Does not know how OME-Zarr is read (see `seamscope.images.zarr`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def open_ome_zarr(path: str | Sequence[str]) -> Callable[[Any], list[Any]] | None:
    """Answer napari: what opens this folder, or None where it is no OME-Zarr image.

    Parameters
    ----------
    path
        The folder; of several the first.
    """
    first = path if isinstance(path, str) else path[0]
    folder = Path(first)
    begun = any((folder / name).exists() for name in ("zarr.json", ".zattrs"))
    return _layers_of_folder if folder.is_dir() and begun else None


def _layers_of_folder(path: Any) -> list[Any]:
    first = path if isinstance(path, str) else path[0]
    return [*image_layers(first), *label_layers(first)]


def image_layers(path: str) -> list[Any]:
    """Return an OME-Zarr image as layers of napari: each channel with all its resolutions.

    Parameters
    ----------
    path
        The folder. Of a plate or a group of several, the first image.

    Returns
    -------
    list
        Of ``(levels, settings, "image")``. Nothing is read but metadata. Names, colours and
        contrast are the file's, where it has them.
    """
    from seamscope.images.image import open_image

    image = open_image(path)
    if image.axes is None or "c" not in image.axes:
        return [(_levels(path, image, None), _place(path, image), "image")]
    count = image.shape[image.axes.index("c")]
    return [
        (
            _levels(path, image, number),
            {**_place(path, image), **_look(image, number, count)},
            "image",
        )
        for number in range(count)
    ]


def label_layers(path: str) -> list[Any]:
    """Return the labels beside an OME-Zarr image as layers of napari, as `image_layers`."""
    import zarr

    from seamscope.images.image import open_image

    group = zarr.open(str(path), mode="r")
    if hasattr(group, "shape") or "labels" not in group:
        return []
    found = dict(group["labels"].attrs)
    names = dict(found.get("ome") or found).get("labels") or []
    layers = []
    for name in names:
        place = str(Path(path) / "labels" / str(name))
        image = open_image(place)
        layers.append((_levels(place, image, None), _place(place, image), "labels"))
        layers[-1][1]["name"] = str(name)
    return layers


def _levels(path: str, image: Any, channel: int | None) -> list[Any]:
    """All resolutions, of one channel, read where they are looked at."""
    import dask.array

    from seamscope.images.image import open_image

    found = []
    for level in range(max(1, len(image.offer.levels))):
        data = open_image(path, level=level).data
        array = dask.array.from_array(data, chunks=data.chunks)
        if channel is not None:
            array = array[(slice(None),) * image.axes.index("c") + (channel,)]
        found.append(array)
    return found


def _place(path: str, image: Any) -> dict[str, Any]:
    from seamscope.images.records import read_record

    axes = image.axes or "?" * image.ndim
    named = {} if image.axes is None else {"axis_labels": list(axes.replace("c", ""))}
    kept = [number for number, axis in enumerate(axes) if axis != "c"]
    record = read_record(path)
    return {
        "name": image.name,
        "scale": [image.scale[number] for number in kept],
        "translate": [image.origin[number] for number in kept],
        "units": [image.units[number] or "pixel" for number in kept],
        **named,
        "multiscale": True,
        "metadata": {"seamscope": record} if record else {},
    }


def _look(image: Any, number: int, count: int) -> dict[str, Any]:
    """Name, colour and contrast of a channel; what the file does not say is left to napari."""
    if not image.channels:
        return {"name": f"{image.name} {number}" if count > 1 else image.name}
    channel = image.channels[number]
    look: dict[str, Any] = {"name": channel.name, "blending": "additive"}
    if channel.color:
        look["colormap"] = f"#{channel.color}"
    if channel.window:
        look["contrast_limits"] = list(channel.window)
    return look


__all__ = ["image_layers", "label_layers", "open_ome_zarr"]
