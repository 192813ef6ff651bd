"""``seamscope info``: what was measured of a network.

Knows which facts are told, and how. Does not know how they are measured.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seamscope import __version__
from seamscope.cli.answer import Answer, amount, columns, same_text, shape_text
from seamscope.cli.command import command
from seamscope.cli.options import Debug, Json, ModelName, ModelOptions
from seamscope.errors import SettingsError
from seamscope.progress import open_display

if TYPE_CHECKING:
    from seamscope.images import Image
    from seamscope.model import Model
    from seamscope.plan import Plan


@command
def info(
    model: ModelName,
    loading: ModelOptions,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Show what was measured of MODEL: axes, period, reach, and the tiles that suit it."""
    answer = Answer(json_file, forbidden=(model,))
    with open_display(quiet=json_file == "-" or not sys.stderr.isatty()) as display:
        display.phase("Loading")
        network = loading.load(model)
        display.phase("Measuring the network")
        told = model_facts(network)
    answer.write(told, _facts_text(told))


def model_facts(model: Model) -> dict[str, Any]:
    """Return everything that is known of a network, as plain values.

    Parameters
    ----------
    model
        Measured here, if it was not yet.
    """
    facts, reach = model.facts, model.reach
    return {
        "seamscope": __version__,
        "name": model.name,
        "spec": model.spec,
        "fingerprint": model.fingerprint,
        "sentence": model.describe(),
        "facts": str(facts),
        "spatial_axes": facts.spatial_axes,
        "in_channels": facts.in_channels,
        "any_channels": facts.any_channels,
        "out_channels": facts.out_channels,
        "channels": list(model.channels),
        "normalize": model.normalize,
        "period": list(facts.period),
        "period_found": facts.period_found,
        "tile_step": [axis.increment for axis in facts.lattice],
        "tile_offset": [axis.offset % axis.increment for axis in facts.lattice],
        "tile_fixed": [axis.fixed for axis in facts.lattice],
        "crop": [list(axis.crop) for axis in facts.lattice],
        "scale": [float(scale) for scale in facts.scale],
        "halo": _listed(reach.halo),
        "convolutional": _listed(reach.convolutional),
        "bounded": reach.bounded,
        "swallows_nan": reach.swallows_nan,
        "statistics": {
            "count": len(facts.statistics),
            "layers": [{"kind": c.kind, "channels": c.channels} for c in facts.statistics],
        },
        "bytes_per_pixel": round(facts.bytes_per_pixel, 1),
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "tiles": list(_suggested(model)),
    }


def _listed(sides: Sequence[tuple[int, int]] | None) -> list[list[int]] | None:
    return None if sides is None else [list(side) for side in sides]


_LARGE = {1: (1 << 20,), 2: (16384, 16384), 3: (512, 4096, 4096)}
_TRIED = {1: (1024, 4096, 16384), 2: (128, 256, 512, 1024, 2048), 3: (32, 64, 96, 128, 192, 256)}


def _suggested(model: Model) -> Iterator[dict[str, Any]]:
    """Tile sizes of about the usual ones, and what each costs on a large image."""
    from seamscope.plan import Settings, available_memory, resolve

    facts = model.facts
    image = _large_image(facts.in_channels, facts.spatial_axes)
    budget = available_memory("cpu")
    tried = {
        tuple(axis.size_at_least(size) for axis in facts.lattice)
        for size in _TRIED[facts.spatial_axes]
    }
    for tile in sorted(tried):
        settings = Settings(tile=tile, device="cpu", normalize="none")
        with contextlib.suppress(SettingsError):  # too small for the halo
            plan = resolve(settings, model, image)
            if plan.bytes_per_tile <= budget:
                yield {
                    "tile": list(tile),
                    "bytes": plan.bytes_per_tile,
                    "redundancy": round(_inner_redundancy(plan), 3),
                }


def _inner_redundancy(plan: Plan) -> float:
    """Pixels computed for each one kept far from the image's border, whatever its size."""
    return math.prod(t / s for t, s in zip(plan.grid.tile_shape, plan.grid.stride, strict=True))


def _large_image(channels: int, spatial_axes: int) -> Image:
    """An image of many pixels that takes no memory: plans only ask for its shape."""
    import numpy as np

    from seamscope.images import open_image

    shape = (channels, *_LARGE[spatial_axes])
    return open_image(np.broadcast_to(np.uint8(0), shape), axes="c" + "zyx"[-spatial_axes:])


def _facts_text(told: Mapping[str, Any]) -> str:
    fixed = [size for size in told["tile_fixed"] if size]
    sizes = f"only {shape_text(told['tile_fixed'])}" if fixed else (
        f"multiples of {same_text(told['tile_step'])}"
        + (f" plus {same_text(told['tile_offset'])}" if any(told["tile_offset"]) else "")
    )  # fmt: skip
    rows = [
        ("channels", ", ".join(told["channels"])),
        ("intensities", told["normalize"] or "as they are (the model does not say)"),
        ("tile sizes", sizes),
        ("memory", f"about {amount(told['bytes_per_pixel'])} for each pixel of a tile"),
        ("weights", f"{told['parameters']:,} parameters, fingerprint {told['fingerprint']}"),
    ]
    name = told["name"] if told["spec"] is None else told["spec"]
    parts = [f"{name}: {told['facts']}\n{told['sentence']}", columns(rows)]
    if told["swallows_nan"]:
        parts.append("It swallows NaN, so that its reach was measured with large values too.")
    if told["tiles"]:
        parts.append(_tiles_text(told["tiles"]))
    return "\n\n".join(parts)


def _tiles_text(tiles: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{'tile':<20}{'memory':<12}computed for each pixel kept"]
    for each in tiles:
        size = amount(each["bytes"])
        lines.append(f"{shape_text(each['tile']):<20}{size:<12}{each['redundancy']:.2f}")
    return "\n".join(lines)
