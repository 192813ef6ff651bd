"""What is known of a network's normalization, told in sentences and tables.

Knows audits, freezing, comparisons and rich text. Does not know widgets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seamscope.compare.before_after import BeforeAfter
from seamscope.docks.looks import boxed, in_dock, plain
from seamscope.explain.feature_statistics import BatchExperiment, FeatureStatistics, LayerFeatures
from seamscope.explain.train_eval import FORWARD_ONLY, Disparity, advice
from seamscope.models.model import Model
from seamscope.normalization.audit import Audit
from seamscope.normalization.statistics import Statistics
from seamscope.planning.plan import Plan
from seamscope.text import figure_text, shape_text

Values = npt.NDArray[np.float64]

SOURCES = {"tile": "of the tile", "group": "of the tile's groups", "batch": "of the batch",
           "running": "from training"}  # fmt: skip
AFFINE = {True: "yes", False: "no", None: "–"}
REFERENCES = {
    "running": "the values remembered from training",
    "image": "those of the whole image",
    "tiles": "those of all tiles together",
}
_NUMBER = 'align="right" style="padding-left: 12px"'


# -- the network


def audit_text(model: Model, audit: Audit) -> str:
    """Verdict on a network: whether tiles agree, and what can be done."""
    own = len(audit.tile_layers)
    beyond = [str(o) for o in audit.global_operations if not o.repairable]
    mendable = [str(o) for o in audit.global_operations if o.repairable]
    told = []
    if own:
        what = "1 layer normalizes" if own == 1 else f"{own} layers normalize"
        remedy = "freeze them, without retraining." if audit.watched else (
            "use tiles as large as memory allows."
        )  # fmt: skip
        told.append(
            f"{what} by each tile's own statistics, so that no halo makes tiles agree: {remedy}"
        )
    if mendable:
        told.append(f"{_listed(mendable)} over the whole tile can be frozen too.")
    if beyond:
        told.append(
            f"{_listed(beyond)} couple{'s' * (len(beyond) == 1)} the whole tile and cannot be "
            "repaired: use tiles as large as memory allows, and a blend."
        )
    if audit.layers and not audit.watched:
        told.append(FORWARD_ONLY)
    if told:
        return "".join(boxed(each, "warning") for each in told)
    if audit.layers:
        count = len(audit.layers)
        by = "1 layer normalizes" if count == 1 else f"All {count} layers normalize"
        return boxed(f"{by} by values remembered from training: a halo suffices.", "good")
    return boxed("No layer normalizes: a halo suffices.", "good")


def _listed(names: Sequence[str]) -> str:
    told = ", ".join(names)
    return told[:1].upper() + told[1:]


# -- freezing


def fixed_text(statistics: Statistics, network: Model, wrong: Sequence[str] = ()) -> str:
    """What was fixed, what halo the network needs now, and why they may not fit the image."""
    layers = len(statistics.layers)
    what = "1 normalization is" if layers == 1 else f"{layers} normalizations are"
    of = f", of {statistics.image}" if statistics.image else ""
    told = [f"{what} fixed ({statistics.how}{of}). {network.describe()}"]
    distance = statistics.about.get("distance")
    if distance:
        told.append(
            f"Predictions are estimated to differ by {distance['mean_difference']:.2g} on average "
            "from those with exact statistics (within a factor of 2 or so)."
        )
    good = network.reach.bounded and not wrong
    told += map(in_dock, wrong)
    return boxed(" ".join(told), "good" if good else "warning")


def comparison_text(effect: BeforeAfter) -> str:
    """Verdict, and numbers before and after side by side."""
    *_, last = said = effect.sentences()
    good = effect.after.seamless and (effect.gain is None or effect.gain > -0.005)
    head = boxed(said[1], "good" if effect.after.seamless else "warning")
    if effect.gain is not None:
        head += boxed(last, "good" if good else "warning")
    return head + _comparison_table(effect)


def _comparison_table(effect: BeforeAfter) -> str:
    cells = "".join(
        f"<tr><td>{plain(name)}</td><td {_NUMBER}>{plain(one)}</td>"
        f"<td {_NUMBER}><b>{plain(other)}</b></td></tr>"
        for name, one, other in effect.rows()
    )
    tiles = shape_text(effect.before.plan.grid.tile_shape)
    told = [effect.meaning] if effect.meaning else []
    note = "".join(f"<br>{plain(sentence)}" for sentence in (*told, *effect.notes))
    return (
        f'<table style="margin-top: 4px"><tr><td>Tiles of {tiles}</td><td {_NUMBER}>before</td>'
        f"<td {_NUMBER}>after</td></tr>{cells}</table>{note}"
    )


# -- features


def features_text(found: FeatureStatistics, number: int) -> str:
    """The numbers that sum up one layer."""
    one = found.layers[number]
    tile = shape_text(found.plan.grid.tile_shape)
    return (
        f"Single tiles of {tile} stray by <b>{figure_text(one.stray)}</b> standard deviations from "
        f"{REFERENCES[one.reference]}, up to {figure_text(float(one.strays.max()))}; their spread "
        f"differs by a factor of {one.spread_ratio:.2f}. {len(found.jobs)} tiles; over all "
        f"layers {figure_text(found.stray)}."
    )


def pixel_text(before: float, after: float, tiles: int, point: Sequence[int]) -> str:
    """How far tiles differ at one pixel."""
    place = ", ".join(map(str, point))
    if tiles < 2:
        return f"Only one position of a tile holds pixel {place}: choose smaller tiles."
    return (
        f"{tiles} tiles see pixel {place}. Before normalization they differ by up to "
        f"<b>{figure_text(before)}</b> standard deviations, after it by up to "
        f"<b>{figure_text(after)}</b>."
    )


def standardized(one: LayerFeatures, channels: int) -> tuple[Values, Values]:
    """Reference mean and standard deviation ``(channels,)`` of a layer's features."""
    share = channels // len(one.reference_mean)
    std = np.sqrt(np.maximum(one.reference_var, 1e-12))
    return one.reference_mean.repeat(share), std.repeat(share)


# -- training


def disparity_text(found: Disparity) -> str:
    """Disparity of each channel."""
    rows = "".join(
        f"<tr><td>{plain(name)}</td><td {_NUMBER}>{figure_text(soft)}</td>"
        f"<td {_NUMBER}>{figure_text(hard)}</td></tr>"
        for name, soft, hard in zip(found.channels, found.per_channel, found.hard, strict=True)
    )
    return (
        f'<table style="margin-top: 4px"><tr><td>1 − Dice(train, eval)</td><td {_NUMBER}>soft'
        f"</td><td {_NUMBER}>hard</td></tr>{rows}</table>Mean difference "
        f"{figure_text(found.mean_difference)}; tiles of {_tile(found.plan)}, {found.batch} in a "
        "batch."
    )


def training_advice(
    audit: Audit,
    disparity: Disparity | None,
    features: FeatureStatistics | None,
    batches: BatchExperiment | None,
) -> str:
    """What follows from what was measured, the layers' own advice left to the verdict."""
    known = advice(audit)
    said = [s for s in advice(audit, disparity, features, batches) if s not in known]
    return "".join(f"<p>{plain(each)}</p>" for each in said)


def _tile(plan: Plan) -> str:
    return shape_text(plan.grid.tile_shape)
