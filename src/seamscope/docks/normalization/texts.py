"""A network's normalization in sentences and tables.

Knows audits, freezing, comparisons and rich text. Does not know widgets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seamscope.docks.looks import boxed, in_dock, plain
from seamscope.explain.feature_statistics import BatchExperiment, FeatureStatistics, LayerFeatures
from seamscope.explain.train_eval import Disparity, advice
from seamscope.models.model import Model
from seamscope.normalization.audit import Audit
from seamscope.normalization.statistics import Statistics
from seamscope.reports.describe import describe
from seamscope.reports.parts import Text
from seamscope.text import figure_text, shape_text

Values = npt.NDArray[np.float64]

SOURCES = {"tile": "of the tile", "group": "of the tile's groups", "batch": "of the batch",
           "running": "from training"}  # fmt: skip
AFFINE = {True: "yes", False: "no", None: "–"}
REFERENCES = {
    "running": "those kept from training",
    "image": "those of the whole image",
    "tiles": "those of all tiles together",
}
_NUMBER = 'align="right" style="padding-left: 12px"'


# -- freezing


def fixed_text(statistics: Statistics, network: Model, wrong: Sequence[str] = ()) -> str:
    """What was fixed, what halo the network needs now, and why they may not fit the image."""
    layers = len(statistics.layers)
    what = "1 normalization is" if layers == 1 else f"{layers} normalizations are"
    of = f", of {statistics.image}" if statistics.image else ""
    sentences = [f"{what} fixed ({statistics.how}{of}). {network.describe()}"]
    sentences += [part.text for part in describe(statistics) if isinstance(part, Text)]
    good = network.reach.bounded and not wrong
    sentences += wrong
    return boxed(in_dock(" ".join(sentences)), "good" if good else "warning")


# -- features


def features_text(found: FeatureStatistics, number: int) -> str:
    """The numbers that sum up one layer."""
    one = found.layers[number]
    tile = shape_text(found.plan.grid.tile_shape)
    return (
        f"Single tiles of {tile} differ by <b>{figure_text(one.deviation)}</b> standard deviations "
        f"from {REFERENCES[one.reference]}, up to {figure_text(float(one.deviations.max()))}; "
        f"their spread differs by a factor of {one.spread_ratio:.2f}. {len(found.jobs)} tiles; "
        f"over all layers {figure_text(found.deviation)}."
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


def training_advice(
    audit: Audit,
    disparity: Disparity | None,
    features: FeatureStatistics | None,
    batches: BatchExperiment | None,
) -> str:
    """What follows from what was measured, the layers' own advice left to the verdict."""
    known = advice(audit)
    said = [s for s in advice(audit, disparity, features, batches) if s not in known]
    return "".join(f"<p>{plain(in_dock(each))}</p>" for each in said)
