"""``seamscope info``: what was measured of a network.

Knows which facts are shown, and how. Does not know how they are measured.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamscope.cli.answer import Answer, columns
from seamscope.cli.command import ExitCode, command
from seamscope.cli.options import ModelName, ModelOptions
from seamscope.errors import SettingsError
from seamscope.text import axes_text, bytes_text, halo_text, shape_text

if TYPE_CHECKING:
    from seamscope.images.image import Image
    from seamscope.models.model import Model
    from seamscope.planning.plan import Plan


@command
def info(
    model: ModelName,
    loading: ModelOptions,
    *,
    source: Annotated[
        bool,
        typer.Option(
            "--source", help="Show the code that loading MODEL would run, and run none of it."
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Run the test vectors that came with MODEL; 1 if not met."),
    ] = False,
    answer: Answer,
) -> None:
    """Show what was measured of MODEL: axes, period, reach, and the tiles that suit it."""
    if source:
        _show_source(model, answer)
        return
    with answer.work() as work:
        network = loading.load(model, work)
        facts = model_facts(network)
        if verify:
            from seamscope.models.formats import verify as verified

            work.phase("Predicting its test vectors")
            found = verified(network)
            facts["verification"] = found.to_json() | {"sentence": str(found)}
    answer.write(facts, _facts_text(facts, network))
    if verify and not found.passed:
        raise typer.Exit(ExitCode.REFUSED)


def _show_source(model: str, answer: Answer) -> None:
    """Tell what loading would run, with its text; nothing is run to find out."""
    from seamscope.models.formats import code_of, format_of

    code = code_of(model)
    facts = {
        "spec": model,
        "format": format_of(model),
        "would_run": [
            {"what": c.what, "sha256": c.digest, "unknown": list(c.unknown), "text": c.text}
            for c in code
        ],
    }
    parts = [
        "\n".join(
            [
                each.what,
                *(typer.style(f"unknown: {line}", fg=typer.colors.RED) for line in each.unknown),
                "",
                each.text or "(no text)",
            ]
        )
        for each in code
    ]
    answer.write(facts, "\n\n".join(parts) or f"{model}: {facts['format']}; loading runs no code.")


def model_facts(model: Model) -> dict[str, Any]:
    """Return everything that is known of a network, as plain values.

    Parameters
    ----------
    model
        Measured here, if it was not yet.
    """
    facts, reach = model.facts, model.reach
    return {
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
        "tile_smallest": [axis.size_at_least(1) for axis in facts.lattice],
        "tile_largest": [axis.limit for axis in facts.lattice],
        "crop": [list(axis.crop) for axis in facts.lattice],
        "scale": [float(scale) for scale in facts.scale],
        "halo": _listed(reach.halo),
        "convolutional": _listed(reach.convolutional),
        "bounded": reach.bounded,
        "swallows_nan": reach.swallows_nan,
        "depends_on_size": reach.depends_on_size,
        "joins_ends": list(reach.joins_ends),
        "finished": reach.finished,
        "at_least": None if reach.at_least is None else list(reach.at_least),
        "couplings": list(reach.couplings),
        "rest": _listed(reach.rest),
        "rest_measured": reach.rest_measured,
        "measured": _listed(reach.measured),
        "unmeasured": reach.unmeasured,
        "implied": None if facts.implied is None else facts.implied.to_json(),
        "implied_agrees": reach.agrees(facts),
        "kind": facts.kind,
        "kind_certain": facts.kind_certain,
        "noise": facts.noise,
        "statistics": {
            "count": len(facts.statistics),
            "layers": [{"kind": c.kind, "channels": c.channels} for c in facts.statistics],
        },
        "fixed_statistics": model.statistics.described if model.statistics else None,
        "declared": model.declared.to_json() if model.declared else None,
        "disagreements": list(_disagreements(model)),
        "outputs": list(model.outputs) if model.outputs else None,
        "preparation": model.preparation.to_json() if model.preparation else None,
        "intensities": str(model.preparation) if model.preparation else model.normalize,
        "postprocessing": model.postprocessing.to_json() if model.postprocessing else None,
        "afterwards": str(model.postprocessing) if model.postprocessing else None,
        "notes": [*model.notes, *facts.notes],
        "bytes_per_pixel": round(facts.bytes_per_pixel, 1),
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "tiles": list(_suggested(model)),
    }


def _disagreements(model: Model) -> tuple[str, ...]:
    from seamscope.models.declared import disagreements

    return disagreements(model.declared, model.facts, model.reach) if model.declared else ()


def _intensities(facts: Mapping[str, Any]) -> str:
    return facts["intensities"] or "as they are (the model does not say)"


def _card_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """What the model's own card says, where it is wrong, and what else should be known."""
    declared = facts["declared"]
    if declared and declared["halo"] and not facts["disagreements"]:
        halo = axes_text(declared["halo"])
        yield f"{declared['by']} declares halo {halo}, which agrees with what was measured."
    yield from facts["disagreements"]
    yield from facts["notes"]
    if "verification" in facts:
        yield facts["verification"]["sentence"]


def _listed(sides: Sequence[tuple[int, int]] | None) -> list[list[int]] | None:
    return None if sides is None else [list(side) for side in sides]


_LARGE = {1: (1 << 20,), 2: (16384, 16384), 3: (512, 4096, 4096)}
_TRIED = {1: (1024, 4096, 16384), 2: (128, 256, 512, 1024, 2048), 3: (32, 64, 96, 128, 192, 256)}


def _suggested(model: Model) -> Iterator[dict[str, Any]]:
    """Tile sizes of about the usual ones, and what each costs on a large image."""
    from seamscope.planning.plan import resolve
    from seamscope.planning.resources import Resources
    from seamscope.settings import Settings

    facts = model.facts
    image = _large_image(facts.in_channels, facts.spatial_axes)
    resources = Resources.of("cpu")
    halo: Any = model.reach.useful or "auto"
    tried = {
        tuple(axis.size_at_least(size) for axis in facts.lattice)
        for size in _TRIED[facts.spatial_axes]
    }
    for tile in sorted(tried):
        settings = Settings(tile=tile, halo=halo, device="cpu", normalize="none", seams="none")
        with contextlib.suppress(SettingsError):  # too small for the halo
            plan = resolve(image, model, settings, resources)
            if plan.bytes_per_tile <= resources.memory:
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

    from seamscope.images.image import open_image

    shape = (channels, *_LARGE[spatial_axes])
    return open_image(np.broadcast_to(np.uint8(0), shape), axes="c" + "zyx"[-spatial_axes:])


_UNCERTAIN = {
    "logits": ", or other values without limits (--kind)",
    "values": ", or logits (--kind)",
    "probabilities": ", or other values from 0 to 1 (--kind)",
}


def _facts_text(facts: Mapping[str, Any], model: Model) -> str:
    sizes = model.facts.sizes
    if any(facts["tile_fixed"]):
        sizes = f"only {sizes}"
    rows = [
        ("channels", ", ".join(facts["channels"])),
        ("predicts", facts["kind"] + ("" if facts["kind_certain"] else _UNCERTAIN[facts["kind"]])),
        ("intensities", _intensities(facts)),
        *([("afterwards", str(facts["afterwards"]))] if facts["afterwards"] else []),
        ("tile sizes", sizes),
        *([("certain", certain)] if (certain := _certainty(facts)) else []),
        ("memory", f"about {bytes_text(facts['bytes_per_pixel'])} for each pixel of a tile"),
        ("weights", f"{facts['parameters']:,} parameters, fingerprint {facts['fingerprint']}"),
    ]
    if model.statistics is not None:
        rows.insert(2, ("statistics", f"fixed: {model.statistics.summary()}"))
    name = facts["name"] if facts["spec"] is None else facts["spec"]
    parts = [f"{name}: {facts['facts']}\n{facts['sentence']}", columns(rows)]
    if facts["swallows_nan"]:
        parts.append("It swallows NaN, so that its reach was measured with large values too.")
    parts += list(_card_lines(facts))
    if facts["tiles"]:
        parts.append(_tiles_text(facts["tiles"]))
    return "\n\n".join(parts)


def _certainty(facts: Mapping[str, Any]) -> str:
    """Say whether measurement and operations agree; empty where only one of them shows anything."""
    implied = facts["implied"]
    if facts["implied_agrees"]:
        return "period and reach, by measurement and by the network's operations"
    if implied is None or implied["unknown"]:
        return ""
    agree = facts["measured"] is None and facts["rest"] == implied["halo"]
    if facts["rest_measured"] and agree:
        return "the reach of all other layers, by measurement and by the network's operations"
    if facts["implied_agrees"] is None:
        return ""
    shown = [f"period {axes_text([n or 1 for n in implied['period']])}"]
    if implied["halo"]:
        shown.append(f"reach {halo_text([(a, b) for a, b in implied['halo']])}")
    return f"the operations imply {' and '.join(shown)} px; the larger of both is used"


def _tiles_text(tiles: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{'tile':<20}{'memory':<12}computed for each pixel kept"]
    for each in tiles:
        size = bytes_text(each["bytes"])
        lines.append(f"{shape_text(each['tile']):<20}{size:<12}{each['redundancy']:.2f}")
    return "\n".join(lines)
