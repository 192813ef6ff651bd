"""Ways of blending, told in a table and in sentences.

Knows comparisons of blends and rich text. Does not know widgets, or how ways are judged.
"""

from __future__ import annotations

from collections.abc import Iterator

from seamscope.compare.blends import BlendComparison, BlendScore
from seamscope.docks.looks import plain
from seamscope.planning.plan import Plan
from seamscope.text import figure_text, shape_text, typeset

COLUMNS = {
    "Score": "step and dependence together, in standard deviations of the prediction",
    "Step": "how much larger jumps are across seams than elsewhere, on average",
    "Depend.": "how much the result changes where tiles begin elsewhere, on average",
    "Peak": "how far the largest jump across seams exceeds the largest elsewhere",
}
_NUMBER = 'align="right" style="padding-left: 8px"'


def blends_text(found: BlendComparison) -> str:
    """All ways in a table, the recommended one marked, each by the channel that counts."""
    head = "".join(f"<td {_NUMBER}>{name}</td>" for name in COLUMNS)
    rows = "".join(
        _row(way, score, found) for way, score in zip(found.ways, found.scores, strict=True)
    )
    own = found.settings
    tiles = f"Tiles of {shape_text(own['tile'])}, overlap {shape_text(own['overlap'])}."
    return f"<table><tr><td></td>{head}</tr>{rows}</table>{tiles} {_channels(found)}"


def used_text(blend: str, plan: Plan | None) -> str:
    """What is set now in *Tiled prediction*."""
    told = f"{blend.capitalize()} blending" if blend != "crop" else "Crop"
    on = "" if plan is None else f", overlap {typeset(shape_text(plan.grid.overlap))},"
    return f"{told}{on} is set in <i>Tiled prediction</i>; press <i>Run</i>."


def _row(way: BlendScore, score: float, found: BlendComparison) -> str:
    best = way is found.recommended
    cells = "".join(
        f"<td {_NUMBER}>{f'<b>{text}</b>' if best else text}</td>"
        for text in (figure_text(score), *_numbers(way))
    )
    name = f"<b>►&nbsp;{way.blend}</b>" if best else f"{'&nbsp;' * 4}{way.blend}"
    return f"<tr><td>{name}</td>{cells}</tr>"


def _numbers(way: BlendScore) -> Iterator[str]:
    counts = int(way.total().argmax())
    yield figure_text(float(way.step[counts]))
    yield "–" if way.dependence is None else figure_text(float(way.dependence[counts]))
    yield figure_text(float(way.excess_peak[counts]))


def _channels(found: BlendComparison) -> str:
    """Which channel's numbers these are."""
    if len(found.channels) == 1:
        return ""
    worst = [found.channels[int(way.total().argmax())] for way in found.ways]
    if len(set(worst)) == 1:
        return f"Numbers of the worst channel, {plain(worst[0])}."
    told = ", ".join(f"{w.blend} {plain(c)}" for w, c in zip(found.ways, worst, strict=True))
    return f"Numbers of each way's worst channel: {told}."


__all__ = ["COLUMNS", "blends_text", "used_text"]
