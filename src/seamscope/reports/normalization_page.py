"""The page of ``seamscope normalization``: what layers normalize by, and how far tiles stray.

Knows which figures and tables tell it, and draws them. Does not know how anything was measured.
Each drawing function returns a `matplotlib.figure.Figure`; save it as PNG, SVG or PDF at will.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.diagnosis.disparity import Disparity
from seamscope.diagnosis.feature_statistics import (
    REPRESENTATIVE,
    BatchExperiment,
    FeatureStatistics,
    LayerFeatures,
)
from seamscope.models.model import Model
from seamscope.normalization.audit import Audit
from seamscope.reports.page import (
    MUTED,
    SERIES,
    Definition,
    Facts,
    Figure,
    Section,
    Table,
    Text,
    Verdict,
    drawn_here,
    figure_text,
    name_text,
    page,
)

_PANELS = 32  # channels drawn, as in the tutorial on BatchNorm
_STRAY = (
    "<math display='block'><mi>stray</mi><mo>=</mo><msqrt><mrow>"
    "<msub><mi>mean</mi><mi>c</mi></msub>"
    "<mfrac><msup><mrow><mo>(</mo><msub><mi>μ</mi><mrow><mi>tile</mi><mo>,</mo><mi>c</mi></mrow>"
    "</msub><mo>−</mo><msub><mi>μ</mi><mi>c</mi></msub><mo>)</mo></mrow><mn>2</mn></msup>"
    "<msubsup><mi>σ</mi><mi>c</mi><mn>2</mn></msubsup></mfrac></mrow></msqrt></math>"
)
_DISPARITY = (
    "<math display='block'><mi>disparity</mi><mo>=</mo><mn>1</mn><mo>−</mo><mi>Dice</mi><mo>(</mo>"
    "<msub><mi>P</mi><mi>train</mi></msub><mo>,</mo><msub><mi>P</mi><mi>eval</mi></msub>"
    "<mo>)</mo></math>"
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
    sections = [Section("In short", [_verdict(audit), *(Text(said) for said in advice)])]
    sections.append(Section("Layers", _layers(audit, features)))
    if features is not None:
        sections.append(Section("Features of single tiles", _features(features)))
    if batches is not None:
        drawn = Figure.of(
            draw_batches(batches),
            "How far the common statistics of a batch stray from those of all tiles, in standard "
            f"deviations: median and 95 % of {batches.strays.shape[1]} random draws.",
        )
        sections.append(Section("How many tiles stand for the image", [drawn]))
    if disparity is not None:
        sections.append(Section("Train/eval disparity", _disparity(disparity)))
    return page(f"Normalization of {name_text(model.name)}", sections)


def _verdict(audit: Audit) -> Verdict:
    own = len(audit.tile_layers)
    if not own and not audit.global_operations:
        return Verdict("local", "Nothing in this network uses the statistics of its tile.", True)
    if audit.repairable:
        return Verdict("repairable", "What uses the statistics of the tile can be fixed.", False)
    if not audit.watched:
        return Verdict("forward only", "Another program runs it: nothing can be fixed.", False)
    return Verdict("not repairable", "Some of what sees the whole tile cannot be fixed.", False)


def _layers(audit: Audit, features: FeatureStatistics | None) -> list[Any]:
    rows = []
    for number, layer in enumerate(audit.layers):
        one = features.layers[number] if features else None
        rows.append(
            (
                name_text(layer.name or "–"),
                layer.kind,
                str(layer.channels),
                layer.statistics,
                figure_text(one.stray if one else None),
                figure_text(float(one.strays.max()) if one else None),
                figure_text(one.spread_ratio if one else None),
            )
        )
    columns = ("layer", "kind", "channels", "statistics", "stray", "largest", "spread factor")
    parts: list[Any] = [Table(columns, rows, "Normalization layers.")] if rows else []
    beyond = [(str(o), f"{o.op}, {'can' if o.repairable else 'cannot'} be fixed")
              for o in audit.global_operations]  # fmt: skip
    if beyond:
        parts.append(Facts(beyond))
    return parts or [Text("This network has no normalization layers.")]


def _features(features: FeatureStatistics) -> list[Any]:
    worst = max(range(len(features.layers)), key=lambda k: features.layers[k].stray)
    layer = features.layers[worst]
    name = name_text(layer.layer.name or f"number {worst}")
    tile = " x ".join(map(str, features.plan.grid.tile_shape))
    parts: list[Any] = [
        Definition(
            "stray",
            f"How far the means μ of a tile's features (here tiles of {tile}) are from the "
            "reference, in its standard deviations σ; root mean square over channels c. The "
            "reference are the values remembered in training, or those of the whole image.",
            _STRAY,
        ),
        Figure.of(
            draw_tile_means(layer),
            f"Layer {name}, where tiles stray most ({layer.stray:.3g}): mean of each channel in "
            "each tile (dots), against the reference (line) and one standard deviation (band).",
        ),
    ]
    parts.extend(_map(features.map(), "stray", "Which tiles are odd: stray over all layers."))
    return parts


def _map(values: npt.NDArray[np.float64], unit: str, caption: str) -> list[Any]:
    """Draw values ``(frames, *grid)``, the mean over all but the last two axes."""
    flat = values.reshape(-1, *values.shape[-2:])
    known = np.isfinite(flat).sum(0)
    mean = np.where(known > 0, np.nansum(flat, 0) / np.maximum(known, 1), np.nan)
    if values.ndim < 3 or mean.size < 2:
        return []
    return [Figure.of(draw_map(mean, unit), caption)]


def _disparity(disparity: Disparity) -> list[Any]:
    rows = [
        (name_text(name), figure_text(soft), figure_text(hard))
        for name, soft, hard in zip(
            disparity.channels, disparity.per_channel, disparity.hard, strict=True
        )
    ]
    parts: list[Any] = [
        Definition(
            "train/eval disparity",
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
    from matplotlib.figure import Figure as Drawn

    shown = min(layer.mean.shape[1], _PANELS)
    columns = min(8, shown)
    rows = math.ceil(shown / columns)
    drawn = Drawn(figsize=(7.4, 0.5 + 0.85 * rows), layout="constrained")
    panels = drawn.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    tiles = np.arange(len(layer.mean))
    for channel, axes in enumerate(panels):
        axes.set_visible(channel < shown)
        if channel >= shown:
            continue
        mean = layer.reference_mean[channel]
        spread = math.sqrt(layer.reference_var[channel])
        axes.axhspan(mean - spread, mean + spread, color=SERIES[1], alpha=0.18, lw=0)
        axes.axhline(mean, color=SERIES[1], lw=1)
        axes.plot(tiles, layer.mean[:, channel], ".", ms=2, color=SERIES[0], rasterized=True)
        axes.set_title(str(channel), fontsize=7, pad=2)
        axes.tick_params(labelsize=6, length=2)
        axes.set_xticks([])
    return drawn


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
    """Draw how far batches stray, against their size."""
    from matplotlib.figure import Figure as Drawn

    drawn = Drawn(figsize=(5.4, 2.8), layout="constrained")
    axes = drawn.subplots()
    low = np.percentile(batches.strays, 5, axis=1)
    axes.fill_between(batches.sizes, low, batches.worst, color=SERIES[0], alpha=0.2, lw=0)
    axes.plot(batches.sizes, batches.typical, "o-", ms=4, color=SERIES[0], label="median")
    axes.plot(batches.sizes, batches.worst, "--", lw=1, color=SERIES[0], label="95 %")
    axes.axhline(REPRESENTATIVE, color=MUTED, lw=1, ls=":", label="stands for the image")
    axes.set(xscale="log", yscale="log", xlabel="tiles in a batch", ylabel="stray")
    axes.set_xticks(batches.sizes, [str(size) for size in batches.sizes])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    return drawn
