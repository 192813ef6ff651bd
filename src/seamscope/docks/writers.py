"""Layers saved from napari's menu *File > Save Selected Layers*, with their place and settings.

Knows napari's form of layers. Does not know kinds of files (see `seamscope.images.results`).

napari's own writers keep the pixels alone: position, pixel size, names of classes and the settings
of the run are lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COUNTED = ("axes", "scale", "units", "origin", "finished", "channel")


def write_layer(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write one image or labels layer.

    Parameters
    ----------
    path
        Its ending says what to write, as for `seamscope.predict`.
    data
        The pixels; of a pyramid, its levels, of which the first is written.
    meta
        As napari gives it: ``scale``, ``translate``, ``units``, ``axis_labels``, ``metadata`` ...

    Returns
    -------
    list of str
        The path.
    """
    import numpy as np

    from seamscope.images.dimensions import unit_name
    from seamscope.images.image import open_image
    from seamscope.images.results.create import create_output

    pixels = data[0] if meta.get("multiscale") else data
    record = dict((meta.get("metadata") or {}).get("seamscope") or {})
    colours = bool(meta.get("rgb"))
    axes = _axes(record, meta, len(pixels.shape) - colours) + "c" * colours
    if colours:
        pixels = np.asarray(pixels)
    image = open_image(pixels, axes=axes)
    spatial = len(axes) - colours
    output = create_output(
        path,
        image.shape,
        image.dtype if image.dtype != bool else np.uint8,
        axes=axes,
        scale=[*_numbers(meta.get("scale"), spatial, 1.0), *[1.0] * colours],
        units=[*(unit_name(unit) for unit in _units(meta, spatial)), *[""] * colours],
        origin=[*_numbers(meta.get("translate"), spatial, 0.0), *[0.0] * colours],
        overwrite=True,  # napari has asked
        name=str(meta.get("name") or "layer"),
        metadata={k: v for k, v in record.items() if k not in _COUNTED} | _classes(meta),
        source=image,
        labels=image.dtype.kind in "iub" and "contrast_limits" not in meta,
    )
    with output:
        for region in image.blocks():
            block = image.read(region)
            output.write(region, block.astype(np.uint8) if block.dtype == bool else block)
        output.finish({"figures": record.get("figures")})
    return [path]


def _axes(record: Mapping[str, Any], meta: Mapping[str, Any], ndim: int) -> str:
    """Letters of the axes: those of the result, the layer's own labels, or the usual ones."""
    from seamscope.images.dimensions import are_axes

    labels = "".join(str(label) for label in meta.get("axis_labels") or ())
    stored = str(record.get("axes", ""))
    for letters in (stored, stored.replace("c", ""), labels):
        if len(letters) == ndim and are_axes(letters):
            return letters
    return "tczyx"[-ndim:]


def _numbers(values: Any, count: int, default: float) -> list[float]:
    given = [] if values is None else [float(value) for value in values]
    return given if len(given) == count else [default] * count


def _units(meta: Mapping[str, Any], count: int) -> list[str]:
    units = meta.get("units") or ()
    given = [units] * count if isinstance(units, str) else [str(unit) for unit in units]
    return given if len(given) == count else ["pixel"] * count


def _classes(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Names and colours of the classes of a labels layer, where it has them."""
    features = meta.get("features")
    if features is None or not {"index", "class"} <= set(features):
        return {}
    from seamscope.images.channels import colour

    colors = getattr(meta.get("colormap"), "color_dict", {})
    return {
        "classes": [
            {
                "value": int(value),
                "name": str(name),
                "color": _hexadecimal(colors[value]) if value in colors else colour(int(value)),
            }
            for value, name in zip(features["index"], features["class"], strict=True)
        ]
    }


def _hexadecimal(color: Any) -> str:
    return "".join(f"{round(255 * float(part)):02x}" for part in color[:3])


__all__ = ["write_layer"]
