"""The page of ``seamscope normalization``: what layers normalize by, and how much tiles deviate.

Knows which figures and tables tell it, and draws them. Does not know how anything was measured.
Each drawing function returns a `matplotlib.figure.Figure`; save it as PNG, SVG or PDF at will.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.explain.feature_statistics import (
    REPRESENTATIVE,
    BatchExperiment,
    FeatureStatistics,
    LayerFeatures,
)
from seamscope.explain.train_eval import NOTICEABLE, Disparity
from seamscope.models.model import Model
from seamscope.normalization.audit import Audit, NormLayer
from seamscope.reports.figures import name_powers
from seamscope.reports.page import MUTED, SERIES, drawn_here, figure, name_text, page
from seamscope.reports.parts import Definition, Facts, Figure, Section, Table, Text, Verdict
from seamscope.text import figure_text, shape_text

_PANELS = 32  # channels drawn, as in the tutorial on BatchNorm
_MEANINGS = {
    "tile": "every pixel depends on its whole tile",
    "group": "every pixel depends on its whole tile; channels in groups: {groups}",
    "batch": "what is predicted depends on which tiles come together",
    "running": "the same for every tile, as remembered or fixed",
}
_AFFINE = {True: "yes", False: "no", None: "–"}
_REFERENCES = {
    "running": "values remembered or fixed",
    "image": "values of the whole image",
    "tiles": "values of all tiles together",
}
_DEVIATION = (
    "<math display='block'><mrow><mi>deviation</mi><mo>=</mo><msqrt><mrow>"
    "<msub><mi>mean</mi><mi>c</mi></msub>"
    "<mfrac><msup><mrow><mo>(</mo><msub><mi>μ</mi><mrow><mi>tile</mi><mo>,</mo><mi>c</mi></mrow>"
    "</msub><mo>−</mo><msub><mi>μ</mi><mi>c</mi></msub><mo>)</mo></mrow><mn>2</mn></msup>"
    "<msubsup><mi>σ</mi><mi>c</mi><mn>2</mn></msubsup></mfrac></mrow></msqrt></mrow></math>"
)
_SPREAD = (
    "<math display='block'><mrow><mi>spread factor</mi><mo>=</mo><mi>exp</mi><mo>(</mo>"
    "<munder><mi>median</mi><mtext>tiles, c</mtext></munder><mo form='prefix'>|</mo><mi>log</mi>"
    "<mfrac><msub><mi>σ</mi><mrow><mi>tile</mi><mo>,</mo><mi>c</mi></mrow></msub>"
    "<msub><mi>σ</mi><mi>c</mi></msub></mfrac><mo form='postfix'>|</mo><mo>)</mo></mrow></math>"
)
_DISPARITY = (
    "<math display='block'><mrow><mi>disparity</mi><mo>=</mo><mn>1</mn><mo>−</mo><mi>Dice</mi>"
    "<mo>(</mo><msub><mi>P</mi><mi>train</mi></msub><mo>,</mo><msub><mi>P</mi><mi>eval</mi></msub>"
    "<mo>)</mo></mrow></math>"
)


def normalization_page(
    model: Model,
    audit: Audit,
    features: FeatureStatistics | None,
    batches: BatchExperiment | None,
    disparity: Disparity | None,
    advice: Sequence[str],
) -> str:
    """Compose the page, HTML that stands alone.

    Parameters
    ----------
    model, audit
        The network.
    features, batches, disparity
        Measured on an image; None where there was none.
    advice
        Sentences.
    """
    sections = [Section("In short", [_verdict(model, audit, disparity), *map(Text, advice)])]
    sections.append(Section("Layers", _layers(audit)))
    if features is not None:
        sections.append(Section("Features of single tiles", _features(features)))
    if batches is not None:
        drawn = figure(
            draw_batches(batches),
            "How much the common statistics of a batch deviate from those of all tiles, in "
            f"standard deviations: median and 95 % of {batches.deviations.shape[1]} random draws.",
        )
        sections.append(Section("How many tiles stand for the image", [drawn]))
    if disparity is not None:
        sections.append(Section("Train/eval disparity", _disparity(disparity)))
    return page(f"Normalization of {name_text(model.name)}", sections)


def _verdict(model: Model, audit: Audit, disparity: Disparity | None) -> Verdict:
    """Say whether tiles agree, and whether they could; the sentence names the halo."""
    sentence = model.describe()
    if not audit.tile_layers and not audit.global_operations:
        if not model.reach.bounded:
            return Verdict("Tiles are normalized alike, and differ all the same", sentence, False)
        if disparity is not None and disparity.worst >= NOTICEABLE:
            word = "Tiles are normalized alike, but training and evaluation differ"
            return Verdict(word, sentence, False)
        return Verdict("Tiles are normalized alike", sentence, True)
    what = "Tiles are normalized differently" if audit.tile_layers else "Tiles are seen as a whole"
    if audit.repairable:
        return Verdict(f"{what}, which can be fixed", sentence, False)
    if not audit.watched:
        return Verdict(f"{what}, and another program runs it: no way to fix", sentence, False)
    return Verdict(f"{what}, which cannot all be fixed", sentence, False)


def _layers(audit: Audit) -> list[Any]:
    columns = ("layer", "kind", "channels", "statistics", "affine", "what it means")
    caption = "Normalization layers. Affine: whether scale and shift are learned."
    rows = [_described(layer) for layer in audit.layers]
    parts: list[Any] = [Table(columns, rows, caption)] if rows else []
    beyond = [(str(o), f"{o.op}, {'can' if o.repairable else 'cannot'} be fixed")
              for o in audit.global_operations]  # fmt: skip
    if beyond:
        parts.append(Facts(beyond))
    return parts or [Text("This network has no normalization layers.")]


def _described(layer: NormLayer) -> list[str]:
    return [
        name_text(layer.name or "–"),
        layer.kind,
        str(layer.channels),
        layer.statistics,
        _AFFINE[layer.affine],
        _MEANINGS[layer.statistics].format(groups=layer.groups),
    ]


def _features(features: FeatureStatistics) -> list[Any]:
    tile = shape_text(features.plan.grid.tile_shape)
    worst = max(features.layers, key=lambda layer: layer.deviation)
    parts: list[Any] = [
        Definition(
            "Deviation",
            f"How far the means μ of a tile's features (here tiles of {tile}) are from the "
            "reference, in its standard deviations σ; root mean square over channels c. The "
            "reference are the values that the layer remembers from training, or those of the "
            "whole image.",
            _DEVIATION,
        ),
        Definition(
            "Spread factor",
            "How much larger or smaller a tile's standard deviation typically is than the "
            "reference's; 1 where they agree.",
            _SPREAD,
        ),
        _deviations(features),
        *_channels(worst, features.layers.index(worst)),
    ]
    parts.extend(
        _map(features.map(), "deviation", "Which tiles are odd: deviation over all layers.")
    )
    return parts


def _deviations(features: FeatureStatistics) -> Table:
    rows = [
        (
            name_text(one.layer.name or f"number {number}"),
            figure_text(one.deviation),
            figure_text(float(one.deviations.max())),
            figure_text(one.spread_ratio),
            _REFERENCES[one.reference],
        )
        for number, one in enumerate(features.layers)
    ]
    columns = ("layer", "deviation", "largest", "spread factor", "reference")
    return Table(columns, rows, "How much tiles deviate: all, and the one that deviates most.")


def _channels(layer: LayerFeatures, number: int) -> Iterator[Figure]:
    """Mean and variance of each channel of one layer, in each tile."""
    name = name_text(layer.layer.name or f"number {number}")
    count = layer.mean.shape[1]
    each = "channel" if count == layer.layer.channels else "group of channels"
    shown = f", the first {_PANELS} of {count}" if count > _PANELS else ""
    line = f"against the {_REFERENCES[layer.reference]} (line"
    yield figure(
        draw_tile_means(layer),
        f"Layer {name}, where tiles deviate most ({figure_text(layer.deviation)}): mean of each "
        f"{each}{shown}, in each tile (dots, in reading order), {line}) and one standard deviation "
        "(band).",
    )
    yield figure(
        draw_tile_variances(layer),
        f"The same layer: variance of each {each}{shown}, in each tile (dots), {line}). Spread "
        f"factor {figure_text(layer.spread_ratio)}.",
    )


def _map(values: npt.NDArray[np.float64], unit: str, caption: str) -> list[Any]:
    """Draw values ``(frames, *grid)``, the mean over all but the last two axes."""
    flat = values.reshape(-1, *values.shape[-2:])
    known = np.isfinite(flat).sum(0)
    mean = np.where(known > 0, np.nansum(flat, 0) / np.maximum(known, 1), np.nan)
    if values.ndim < 3 or mean.size < 2:
        return []
    return [figure(draw_map(mean, unit), caption)]


def _disparity(disparity: Disparity) -> list[Any]:
    rows = [
        (name_text(name), figure_text(soft), figure_text(hard))
        for name, soft, hard in zip(
            disparity.channels, disparity.per_channel, disparity.hard, strict=True
        )
    ]
    parts: list[Any] = [
        Definition(
            "Disparity",
            "Distance of what the network predicts with the statistics of each batch, as in "
            f"training (batches of {disparity.batch}), and with those it remembered.",
            _DISPARITY,
        ),
        Table(("channel", "of the values", "of the classes"), rows, disparity.sentence()),
    ]
    where = "Where training and evaluation differ."
    return parts + _map(disparity.tiles, "mean difference", where)


# -- drawing


@drawn_here
def draw_tile_means(layer: LayerFeatures) -> Any:
    """Draw the mean of each channel in each tile against the reference; up to 32 channels."""
    drawn, panels = _panels(layer.mean)
    for channel, axes in enumerate(panels):
        mean = layer.reference_mean[channel]
        spread = math.sqrt(layer.reference_var[channel])
        axes.axhspan(mean - spread, mean + spread, color=SERIES[1], alpha=0.18, lw=0)
        axes.axhline(mean, color=SERIES[1], lw=1)
    return drawn


@drawn_here
def draw_tile_variances(layer: LayerFeatures) -> Any:
    """Draw the variance of each channel in each tile against the reference; up to 32 channels."""
    drawn, panels = _panels(layer.var)
    for channel, axes in enumerate(panels):
        axes.axhline(layer.reference_var[channel], color=SERIES[1], lw=1)
        axes.set_ylim(bottom=0)
    return drawn


def _panels(values: npt.NDArray[np.float64]) -> tuple[Any, list[Any]]:
    """Draw values ``(tiles, channels)`` as dots, each channel in a panel of its own."""
    from matplotlib.figure import Figure as Drawn

    shown = min(values.shape[1], _PANELS)
    rows = math.ceil(shown / min(4, shown))
    drawn = Drawn(figsize=(7.4, 0.3 + 1.05 * rows), layout="constrained")
    panels = list(drawn.subplots(rows, min(4, shown), squeeze=False, sharex=True).ravel())
    for spare in panels[shown:]:
        spare.set_visible(False)
    for channel, axes in enumerate(panels[:shown]):
        axes.plot(values[:, channel], ".", ms=3.5, color=SERIES[0], rasterized=True)
        axes.set_title(str(channel), fontsize=8, pad=2)
        axes.tick_params(labelsize=8, length=2)
        axes.locator_params(axis="y", nbins=4)
        axes.set_xticks([])
    return drawn, panels[:shown]


@drawn_here
def draw_map(values: npt.NDArray[np.float64], unit: str) -> Any:
    """Draw one number for each tile, as the tiles lie in the image."""
    from matplotlib.figure import Figure as Drawn

    height = min(max(3.4 * values.shape[0] / values.shape[1], 1.2), 5.0)
    drawn = Drawn(figsize=(4.6, height), layout="constrained")
    axes = drawn.subplots()
    shown = axes.imshow(values, cmap="viridis", vmin=0, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    bar = drawn.colorbar(shown, ax=axes, shrink=0.9)
    bar.set_label(unit)
    bar.outline.set_visible(False)
    return drawn


@drawn_here
def draw_batches(batches: BatchExperiment) -> Any:
    """Draw how much batches deviate, against their size."""
    from matplotlib.figure import Figure as Drawn

    drawn = Drawn(figsize=(5.4, 2.8), layout="constrained")
    axes = drawn.subplots()
    best = np.percentile(batches.deviations, 5, axis=1)
    axes.fill_between(batches.sizes, best, batches.worst, color=SERIES[0], alpha=0.2, lw=0)
    axes.plot(batches.sizes, batches.typical, "o-", ms=4, color=SERIES[0], label="median")
    axes.plot(batches.sizes, batches.worst, "--", lw=1, color=SERIES[0], label="95 %")
    axes.axhline(REPRESENTATIVE, color=MUTED, lw=1, ls=":", label="stands for the image")
    axes.set(xscale="log", yscale="log", xlabel="tiles in a batch", ylabel="deviation")
    axes.set_xticks(batches.sizes, [str(size) for size in batches.sizes])
    axes.xaxis.minorticks_off()
    low, high = axes.get_ylim()
    name_powers(axes, low, high / 2)
    axes.legend(frameon=False, fontsize=8)
    return drawn
