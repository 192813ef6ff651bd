"""Where tiles disagree, as layers over the image.

Knows colours, contrast and placing of these layers. Does not know how the pictures are computed
(see `seamscope.seams.heatmaps`), or which controls ask for them.

Colours are transparent where tiles agree, so that image and prediction stay to be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from napari.layers import Image as ImageLayer
from napari.utils import Colormap

from seamscope.docks.kept_layers import KeptLayers
from seamscope.docks.results import Run, faded, placed
from seamscope.seams.heatmaps import Measure, pyramid
from seamscope.seams.report import SeamReport

Kind = Literal["pixels", "seams", "tiles"]

TITLES: dict[Kind, str] = {
    "pixels": "per pixel",
    "seams": "per seam",
    "tiles": "per tile",
}
_COLORS: dict[Kind, str] = {"pixels": "inferno", "seams": "plasma", "tiles": "magma"}
_OPACITY: dict[Kind, float] = {"pixels": 1.0, "seams": 1.0, "tiles": 0.6}
_IN_VOLUMES = 0.6  # of that, because seams across the view fill whole slices
_UNITS = {
    "probabilities": "difference in probability",
    "logits": "difference of logits",
    "embeddings": "Euclidean distance",
    "labels": "class differs (1) or not (0)",
}


@dataclass(frozen=True)
class Wanted:
    """What a heat map shows.

    Attributes
    ----------
    measure
        For pixels the first two only.
    channel
        For the mismatch; None for the largest of all.
    """

    measure: Measure
    channel: int | None = None


def unit_of(report: SeamReport, measure: Measure) -> str:
    """What the numbers of a heat map are."""
    if measure == "mismatch":
        return "disagreement, 1 − Dice"
    start = {"max_dist": "max", "mean_dist": "mean"}[measure]
    return f"{start} {_UNITS[report.kind]}"


def limits_of(values: Any, report: SeamReport, measure: Measure) -> tuple[float, float]:
    """Contrast limits: from what is noise to the largest value."""
    finite = values[np.isfinite(values)]
    high = float(finite.max(initial=0))
    low = 0.0 if measure == "mismatch" else report.tolerance
    if high > low:
        return low, high
    return low, (10 * low or 1.0)  # nothing but noise: nothing is seen


class HeatLayers:
    """One layer for each kind of heat map.

    Parameters
    ----------
    viewer
        They are added to it when first shown.
    changed
        Called with a kind when its layer's contrast limits change.
    """

    def __init__(self, viewer: Any, changed: Callable[[Kind], None] = lambda _: None) -> None:
        self._changed = changed
        self._kept = KeptLayers(viewer, "heat maps")

    def layer(self, kind: Kind) -> ImageLayer | None:
        """The layer of a kind that is in the viewer and seen, if any."""
        layer: ImageLayer | None = self._kept.seen(kind)
        return layer

    def show(self, kind: Kind, run: Run, wanted: Wanted, again: bool = False) -> ImageLayer | None:
        """Show a run's heat map; None where nothing of that kind is known.

        Parameters
        ----------
        kind
            Which picture.
        run
            Its plan is the one that was measured.
        wanted
            Which measure.
        again
            As for `KeptLayers.show`.
        """
        self.hide(kind)
        found = _picture(kind, run, wanted)
        if found is None:
            return None
        report = run.evidence.report
        assert report is not None
        levels, values = found
        axes = run.plan.out_axes.replace("c", "")
        arrays, place = zip(*(placed(level, run, axes) for level in levels), strict=True)
        limits = limits_of(values, report, wanted.measure)
        several, ndim, unit = len(arrays) > 1, arrays[0].ndim, unit_of(report, wanted.measure)
        about = {"heatmap": kind, "measure": wanted.measure, "unit": unit, "axes": axes}
        look = {
            "name": f"{TITLES[kind]} · {run.title}",
            "contrast_limits_range": (0, max(limits[1], 1.0)),
            "contrast_limits": limits,
            "metadata": {"seamscope": about},
        }
        layer: ImageLayer = self._kept.show(
            (kind, ndim, several, *sorted(place[0])),
            ImageLayer,
            list(arrays) if several else arrays[0],
            place[0],
            look,
            again,
            multiscale=several,
            colormap=heat_colors(kind),
            blending="translucent_no_depth",
            interpolation2d="nearest",
            opacity=_OPACITY[kind] * (_IN_VOLUMES if ndim > 2 else 1),
        )
        layer.events.contrast_limits.connect(self._contrast_changed)  # once, however often
        self.raise_to_top()
        return layer

    def kind_of(self, layer: Any) -> Kind | None:
        """Kind of heat map that a layer shows, if it is one of these."""
        key = self._kept.key_of(layer)
        return None if key is None else key[0]

    def raise_to_top(self) -> None:
        """Keep heat maps above results."""
        self._kept.raise_to_top()

    def hide(self, kind: Kind) -> None:
        """Show nothing of this kind."""
        self._kept.hide(kind)

    def _contrast_changed(self, event: Any) -> None:
        kind = self.kind_of(event.source)
        if kind is not None:
            self._changed(kind)


def heat_colors(kind: Kind) -> Colormap:
    """Colours of a kind, transparent at the lower end."""
    return faded(_COLORS[kind])


def _picture(kind: Kind, run: Run, wanted: Wanted) -> tuple[list[Any], Any] | None:
    """Levels of resolution, and the values that contrast is taken from."""
    report, maps = run.evidence.report, run.evidence.maps
    if report is None or not report.measured:
        return None
    if kind != "pixels":
        levels = pyramid(report, kind, wanted.measure, wanted.channel)
        return [*levels], levels[0].values
    if maps is None:
        return None
    number = ("max_dist", "mean_dist").index(wanted.measure)
    array = maps.array[(slice(None),) * len(run.plan.frame_ranges) + (number,)]
    peak = report.measures.max_dist if wanted.measure == "max_dist" else _peak(array)
    return [array], np.array([peak])


def _peak(array: Any) -> float:
    """Nearly all values are below it; a sample is enough."""
    step = max(1, round((array.size / 1e6) ** (1 / array.ndim)))
    values = array[(slice(None, None, step),) * array.ndim]
    known = values[values > 0]
    return float(np.percentile(known, 99.9)) if known.size else 0.0
