"""What each result says: one wording for terminal, docks and reports.

`describe` takes any result and returns its parts, the verdict first where there is one. Every
quantity has one name, and its meaning stands beside it where it is printed:

max difference
    Largest difference of two tiles' predictions of one pixel (*max dist* of Buglakova et al. 2025).
mean difference
    Mean of the same differences over all pixels in which both tiles are valid, and all channels.
tile mismatch
    Median over all overlaps of ``1 - Dice`` of two neighbouring tiles, for each channel (ibid.).
    ``Dice = 2 sum(ab) / (sum(a^2) + sum(b^2))``; *without squares* it is
    ``2 sum(ab) / (sum(a) + sum(b))``, below 1 where equal predictions are neither 0 nor 1.
mismatch where present
    The same of the overlaps in which the class is present.
thresholded tile mismatch
    The same of the classes that the predictions stand for.
tolerance
    Difference up to which two predictions count as equal: floating-point noise.

Knows which numbers matter and their names. Does not know how parts look, or how they were measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch
from typing import Any

from seamscope.compare.before_after import BeforeAfter, causes_text
from seamscope.compare.blends import BlendComparison, BlendScore
from seamscope.compare.certificate import Certificate
from seamscope.compare.tile_content import Content
from seamscope.compare.tile_sizes import Sweep
from seamscope.explain.feature_statistics import FeatureStatistics
from seamscope.explain.findings import Diagnosis
from seamscope.explain.train_eval import Disparity, advice
from seamscope.normalization.audit import Audit
from seamscope.normalization.statistics import Statistics
from seamscope.planning.plan import Plan
from seamscope.reports.parts import Fact, Facts, Part, Share, Shares, Table, Text, Verdict
from seamscope.seams.report import Interval, SeamReport
from seamscope.segmentation.agreement import Agreement
from seamscope.segmentation.asking import Opinion
from seamscope.segmentation.crossings import RUN
from seamscope.segmentation.false_splits import GridTest, Lines, SplitReport
from seamscope.text import (
    NONE,
    at_halo_text,
    axes_text,
    far_text,
    figure_text,
    percent_text,
    shape_text,
)

MAX = "max difference"
MEAN = "mean difference"
MISMATCH = "tile mismatch"
THRESHOLDED = "thresholded"

_PERFECT = "0 is perfect agreement"
WITHOUT_SQUARES = "without squares"
PRESENT = "where present"
_MISMATCH_MEANS = (
    "Tile mismatch: median over all overlaps of 1 − Dice, Dice = 2 Σab / (Σa² + Σb²); "
    f"{_PERFECT}; without squares: Dice = 2 Σab / (Σa + Σb), 0 only where both are 0 or 1; "
    "where present: overlaps without the class left out"
)
_THRESHOLDED_MEANS = "thresholded: the same of the classes."


@singledispatch
def describe(result: Any) -> list[Part]:
    """Say what was found, in parts.

    Parameters
    ----------
    result
        A report of seams, a diagnosis, a certificate, a comparison (of statistics, tile sizes or
        blends), an audit, a train/eval disparity, fixed statistics, a report of false splits, or
        labels compared with ground truth.

    Returns
    -------
    list of Part
        In the order of reading; the first sums up.
    """
    raise TypeError(f"{type(result).__name__} is not a result that can be described.")


# -- seams


@describe.register
def _(report: SeamReport) -> list[Part]:
    if not report.measured:
        return [_verdict(report)]
    return [_verdict(report), Facts(list(_measures(report))), _channels(report)]


def _verdict(report: SeamReport) -> Verdict:
    word, colon, rest = report.sentence().partition(": ")
    good = report.seamless and bool(report.measured)
    return Verdict(word, _capital(rest), good) if colon else Verdict("", word, good)


def tiles_of(plan: Plan) -> list[Fact]:
    """Where the tiles of a plan lie: facts for the setting of any result."""
    grid = plan.grid
    closer = (
        f"measured with tiles {shape_text(grid.stride)} px apart, so that neighbours share pixels "
        "that both keep"
    )
    return [
        Fact("tile", f"{shape_text(grid.tile_shape)} px"),
        Fact("halo", far_text(grid.halo)),
        Fact("overlap", f"{shape_text(grid.overlap)} px"),
        Fact(
            "stride",
            f"{shape_text(plan.stride_of_run or grid.stride)} px",
            closer if plan.stride_of_run else "",
        ),
    ]


def _measures(report: SeamReport) -> Iterator[Fact]:
    measures = report.measures
    yield Fact(MAX, figure_text(measures.max_dist), "0 is seamless (max dist)")
    yield Fact(MEAN, _with_interval(measures.mean_dist, report.mean_dist_interval))
    yield Fact("tolerance", figure_text(report.tolerance), "smaller is floating-point noise")
    found = report.smallest_seamless_halo
    if found is None:
        most = max(report.curve.deepest, 0)
        yield Fact("seamless halo", f"none up to {most} px", "no deeper one was measured")
    else:
        yield Fact("seamless halo", f"{axes_text(found)} px", "the smallest without seams here")
    where = "pixels beside the seams" if measures.beside else "pixels that both tiles keep"
    halo = far_text(report.plan.grid.halo)
    measured = f"{report.measured:,} of {report.overlaps:,} overlaps"
    yield Fact("measured", measured, f"halo {halo}, {where}")


def _channels(report: SeamReport) -> Table:
    measures = report.measures
    intervals = not report.complete and any(report.mismatch_intervals)
    others = [WITHOUT_SQUARES, PRESENT, THRESHOLDED]
    columns = ["channel", MAX, MISMATCH, *(["95% interval"] if intervals else []), *others]
    rows = [
        [
            name,
            figure_text(_at(measures.max_dist_per_channel, k)),
            figure_text(_at(measures.soft, k)),
            *([_interval(_at(report.mismatch_intervals, k))] if intervals else []),
            figure_text(_at(measures.plain, k)),
            figure_text(_at(measures.present, k)),
            figure_text(_at(measures.hard, k)),
        ]
        for k, name in enumerate(report.channels)
    ]
    return Table(columns, rows, f"{_MISMATCH_MEANS}; {_THRESHOLDED_MEANS}")


def worst_seams(report: SeamReport, most: int) -> Table:
    """The worst seams, at most so many, worst first."""
    letters = report.plan.layout.spatial
    rows = [
        [
            _index(seam.lower),
            _index(seam.upper),
            ", ".join(f"{a} {p}" for a, p in zip(letters, seam.worst, strict=True)),
            figure_text(seam.max_dist),
            figure_text(seam.mean_dist),
            figure_text(max((v for v in seam.soft if v is not None), default=None)),
        ]
        for seam in report.seams[:most]
    ]
    columns = ["tile A", "tile B", "worst pixel", MAX, MEAN, "mismatch"]
    return Table(columns, rows, "The worst seams; the mismatch is that of the worst channel.")


def _interval(interval: Interval | None) -> str:
    return (
        NONE if interval is None else f"{figure_text(interval.low)} to {figure_text(interval.high)}"
    )


def _with_interval(value: float, interval: Interval | None) -> str:
    return figure_text(value) + ("" if interval is None else f" (95%: {_interval(interval)})")


# -- causes, certificate


@describe.register
def _(found: Diagnosis) -> list[Part]:
    good = found.verdict == "seamless"
    acting = [one for one in found.findings if one.share > 0]
    if good or not acting:
        return [Verdict(_capital(found.verdict), found.explanation, good)]
    rows = [Share(one.cause, one.share, one.what, one.remedy) for one in acting]
    caption = f"Found by experiments on {found.tiles} tiles and {found.seams} seams of this image."
    return [Verdict(_capital(found.verdict), found.summary, good), Shares(rows, caption)]


@describe.register
def _(found: Certificate) -> list[Part]:
    rows = [
        Fact(
            MAX,
            f"{figure_text(found.max_difference)}, {figure_text(found.max_in_std)} standard "
            "deviations of the output",
        ),
        Fact(MEAN, figure_text(found.mean_difference)),
        Fact("tolerance", figure_text(found.tolerance), "smaller is floating-point noise"),
        Fact("compared", f"{percent_text(found.covered)} of the image"),
    ]
    crops = [
        [
            ", ".join(f"{a} to {b}" for a, b in zip(crop.start, crop.stop, strict=True)),
            str(crop.tiles),
            figure_text(crop.max_difference),
            figure_text(crop.mean_difference),
            _index(crop.worst),
        ]
        for crop in found.crops
    ]
    columns = ["crop", "tiles", MAX, MEAN, "worst pixel"]
    return [
        Verdict("Passed" if found.passed else "Not passed", str(found), found.passed),
        Facts(rows),
        Table(columns, crops, "Tiled against untiled prediction, in pixels of the image."),
    ]


# -- comparisons


@describe.register
def _(effect: BeforeAfter) -> list[Part]:
    before, _, *rest = effect.sentences()
    word, _, sentence = effect.after.sentence().partition(": ")
    parts: list[Part] = [Verdict(word, _capital(sentence), effect.after.seamless)]
    if effect.gain is not None:
        parts.append(Verdict("", rest[-1], effect.gain > -0.005))
    parts.append(Text(before))
    table = Table(("", "before", "after"), list(_side_by_side(effect)), _compared(effect))
    parts.append(table)
    meaning = [effect.meaning] if effect.meaning else []
    return [*parts, *(Text(sentence) for sentence in (*meaning, *effect.notes))]


def _compared(effect: BeforeAfter) -> str:
    """What both sides were measured at."""
    plans = effect.before.plan, effect.after.plan
    sides = [
        f"tiles of {shape_text(plan.grid.tile_shape)} pixels, overlap "
        f"{axes_text(plan.grid.overlap)} px, {at_halo_text(plan.grid.halo)}"
        for plan in plans
    ]
    fixed = "with per-tile statistics and with fixed ones"
    if sides[0] == sides[1]:
        return f"Measured at {sides[0]}{f', {fixed}' if effect.how else ''}."
    return f"Before: {sides[0]}. After: {sides[1]}{', fixed statistics' if effect.how else ''}."


def _side_by_side(effect: BeforeAfter) -> Iterator[tuple[str, str, str]]:
    """Measures before and after: what, before, after."""
    one, other = effect.before.measures, effect.after.measures
    yield MAX, figure_text(one.max_dist), figure_text(other.max_dist)
    yield MEAN, figure_text(one.mean_dist), figure_text(other.mean_dist)
    for name, a, b in zip(effect.before.channels, one.soft, other.soft, strict=False):
        yield f"{MISMATCH}, {name}", figure_text(a), figure_text(b)
    yield "seamless halo", _seamless_halo(effect.before), _seamless_halo(effect.after)
    if effect.why_before is not None and effect.why_after is not None:
        verdicts = effect.why_before.verdict, effect.why_after.verdict
        yield "verdict", *verdicts
        shares = causes_text(effect.why_before), causes_text(effect.why_after)
        if shares != verdicts:
            yield "shares", *shares
    for name, a, b in zip(effect.classes, effect.dice_before, effect.dice_after, strict=True):
        yield f"Dice with labels, {name}", figure_text(a), figure_text(b)


def _seamless_halo(report: SeamReport) -> str:
    found = report.smallest_seamless_halo
    return "none" if found is None else f"{axes_text(found)} px"


@describe.register
def _(found: Sweep) -> list[Part]:
    parts: list[Part] = [Text(found.describe()), _distances(found)]
    if found.dice is not None and found.truth is not None:
        scores = [
            [name, *(figure_text(float(v)) for v in values)]
            for name, values in zip(found.names, found.dice.value, strict=True)
        ]
        caption = f"Dice with the labels; 1 is perfect agreement. {found.meaning}"
        parts.append(Table(["tile", *found.truth.names], scores, caption))
        parts += [Text(note) for note in found.classified.notes()]
    return parts


def _distances(found: Sweep) -> Table:
    rows = [
        [
            name,
            *(figure_text(float(v[k, -1])) for v in (found.max_dist, found.mean_dist)),
            *(figure_text(float(v)) for v in found.to_last.value[k]),
        ]
        for k, name in enumerate(found.names)
    ]
    last = "the untiled prediction" if found.untiled else f"that of tiles of {found.names[-1]}"
    caption = (
        f"Difference of each prediction from {last}, and 1 − Dice of the two for each channel; "
        f"{_PERFECT}."
    )
    return Table(["tile", MAX, MEAN, *found.channels], rows, caption)


@describe.register
def _(held: Content) -> list[Part]:
    rows = [
        [name, str(len(values)), *(figure_text(v) for v in spread)]
        for name, values, spread in zip(held.names, held.values, held.spread, strict=True)
    ]
    columns = ["tile", "tiles", *(f"spread of {name}" for name in held.features)]
    whole = ", ".join(
        f"{name} {figure_text(float(v))}" for name, v in zip(held.features, held.whole, strict=True)
    )
    caption = f"Standard deviation over tiles of what they contain. The whole image: {whole}."
    return [Table(columns, rows, caption)]


@describe.register
def _(found: BlendComparison) -> list[Part]:
    rows = [
        [way.blend, figure_text(score), *_blend(way), found.channels[_counts(way)]]
        for way, score in zip(found.ways, found.scores, strict=True)
    ]
    columns = ["blend", "score", "step", "dependence", "largest jump", "elsewhere", "channel"]
    caption = (
        "Step: how much larger jumps are across seams than elsewhere, on average. Dependence: how "
        "much the result changes where tiles begin elsewhere. Score: both, in standard deviations "
        "of the prediction; 0 is best. Numbers of each blend's worst channel. Measured at tiles of "
        f"{shape_text(found.settings['tile'])} pixels, overlap "
        f"{axes_text(found.settings['overlap'])} px."
    )
    best = found.ways.index(found.recommended)
    return [Text(found.describe()), Table(columns, rows, caption, best)]


def _counts(way: BlendScore) -> int:
    """Number of the channel that counts: the worst."""
    return int(way.total().argmax())


def _blend(way: BlendScore) -> Iterator[str]:
    c = _counts(way)
    yield figure_text(float(way.step[c]))
    yield NONE if way.dependence is None else figure_text(float(way.dependence[c]))
    yield figure_text(float(way.peak[c]))
    yield figure_text(float(way.peak_elsewhere[c]))


# -- normalization


@describe.register
def _(audit: Audit) -> list[Part]:
    good = not audit.tile_layers and not audit.global_operations
    good = good and (audit.watched or not audit.layers)
    return [Verdict("", sentence, good) for sentence in advice(audit)]


def layers_of(audit: Audit, features: FeatureStatistics | None = None) -> list[Part]:
    """The normalization layers in a table, and what their statistics mean."""
    if not audit.layers:
        return []
    affine = {True: "yes", False: "no", None: "?"}
    columns = ["layer", "kind", "channels", "statistics", "affine"]
    rows = [
        [one.name or NONE, one.kind, str(one.channels), one.statistics, affine[one.affine]]
        for one in audit.layers
    ]
    caption = ""
    if features is not None:
        columns.append("deviation")
        caption = (
            "Deviation: how far the means of single tiles are from the reference, in its standard "
            "deviations; 0 is no difference between tiles."
        )
        for row, one in zip(rows, features.layers, strict=True):
            row.append(figure_text(one.deviation))
    meanings = dict.fromkeys((one.statistics, one.meaning) for one in audit.layers)
    return [Table(columns, rows, caption), Facts(list(meanings))]


@describe.register
def _(found: Disparity) -> list[Part]:
    rows = [
        [name, figure_text(soft), figure_text(hard)]
        for name, soft, hard in zip(found.channels, found.per_channel, found.hard, strict=True)
    ]
    caption = (
        f"1 − Dice of predictions as in training and as in evaluation; {_PERFECT}. "
        f"{_capital(MEAN)} {figure_text(found.mean_difference)}; tiles of "
        f"{shape_text(found.plan.grid.tile_shape)}, {found.batch} in a batch."
    )
    return [Table(["channel", "train/eval disparity", THRESHOLDED], rows, caption)]


@describe.register
def _(statistics: Statistics) -> list[Part]:
    """What is not exact about them."""
    distance = statistics.about.get("distance")
    if not distance:
        return []
    return [
        Text(
            "Predictions are estimated to differ by "
            f"{figure_text(distance['mean_difference'])} on average from those with exact "
            "statistics (within a factor of about 2)."
        )
    ]


# -- labels


@describe.register
def _(report: SplitReport) -> list[Part]:
    first, _, rest = report.describe().partition(": ")
    parts: list[Part] = [Verdict(first, _capital(rest), not report.cut)]
    if report.test is not None and report.lines is not None:
        parts.append(Facts(list(_split_measures(report, report.test, report.lines))))
    if report.found:
        rows = [[g.axis, str(g.stride), str(g.offset), figure_text(g.p)] for g in report.found]
        caption = (
            "The grid that fits best along each axis. p accounts for all strides and offsets that "
            "were tried."
        )
        parts.append(Table(["axis", "stride (px)", "offset (px)", "p"], rows, caption))
    return parts


def _split_measures(report: SplitReport, test: GridTest, lines: Lines) -> Iterator[Fact]:
    yield Fact("p", figure_text(report.p), "0.05 or less: labels are cut where tiles meet")
    yield Fact("excess", f"{figure_text(test.effect)} px per seam", "0 is no artifact")
    yield Fact(
        "label changes",
        f"{figure_text(test.changes)} px per seam",
        f"in straight runs of {RUN} px or more, summed over axes",
    )
    yield Fact(
        "on displaced lines",
        f"{figure_text(test.expected)} ± {figure_text(test.spread)} px",
        "expected without tiles",
    )
    yield Fact("seams", shape_text(test.lines), "lines along each axis")
    yield Fact("stride", f"{shape_text(lines.stride)} px", f"grid {report.grid}")
    yield Fact("first seam", f"{shape_text(lines.offset)} px", "modulo the stride")
    yield Fact(
        "pairs across seams",
        str(len(report.candidates)),
        f"chance alone gives {figure_text(report.expected)}",
    )


def pairs_of(report: SplitReport, opinions: Sequence[Opinion] = (), most: int = 50) -> Table:
    """Candidate pairs, at most so many, the longest first, with the network's opinion."""
    heard = {one.candidate: one.word for one in opinions}
    letters = [a for a in report.letters if a in "zyx"] or list(report.axes)
    rows = [
        [
            str(c.labels[0]),
            str(c.labels[1]),
            f"{letters[c.axis]} = {c.line}",
            ", ".join(f"{a} {p}" for a, p in zip(report.letters, c.places[0], strict=False)),
            str(c.pixels),
            figure_text(c.rate),
            *([heard.get(c, NONE)] if opinions else []),
        ]
        for c in report.candidates[:most]
    ]
    columns = ["object", "object", "seam", "place", "length (px)", "false-discovery rate"]
    columns += ["without a seam"] if opinions else []
    caption = (
        "Objects that face each other across a seam. The rate is that of the list down to this "
        "pair: 0.1 means that 10% are expected to be true borders."
    )
    if opinions:
        caption += (
            " Without a seam: what the network predicts with the seam in the middle of a tile; "
            "one object was split by the tiling."
        )
    left = len(report.candidates) - len(rows)
    if left > 0:
        caption += f" {left} more pair{'s' * (left != 1)} in the JSON."
    return Table(columns, rows, caption)


def asked_again(opinions: Sequence[Opinion]) -> Text:
    """How many splits vanish without a seam."""
    made = sum(one.vanished is True for one in opinions)
    return Text(f"{made} of {len(opinions)} splits vanish without a seam between the objects.")


@describe.register
def _(found: Agreement) -> list[Part]:
    rows = [(name, *values) for name, values in _agreement_rows([found])]
    meanings = dict(_AGREEMENT_MEANS)
    return [Facts([Fact(name, value, meanings.get(name, "")) for name, value in rows])]


_AGREEMENT_MEANS = (
    ("average precision", "at an IoU of 0.5; 1 is perfect"),
    ("splits", "ground-truth objects that meet two or more predicted ones, IoU > 0.1"),
    ("merges", "predicted objects that meet two or more ground-truth ones, IoU > 0.1"),
    ("split by coverage", "two or more predicted objects take 5% each; sees slivers too"),
    ("split at seams", "share of the ground-truth objects that a seam crosses"),
    ("split elsewhere", "share of all others"),
)


def _agreement_rows(found: Sequence[Agreement]) -> Iterator[tuple[str, list[str]]]:
    yield "ground-truth objects", [str(one.objects) for one in found]
    yield "predicted objects", [str(one.predicted) for one in found]
    yield "average precision", [figure_text(one.average_precision) for one in found]
    yield "splits", [str(one.splits) for one in found]
    yield "merges", [str(one.merges) for one in found]
    yield "split by coverage", [str(one.split_by_coverage) for one in found]
    if found[0].at_seams:
        yield (
            "split at seams",
            [f"{percent_text(one.share_split_at_seams)} of {one.at_seams}" for one in found],
        )
        yield (
            "split elsewhere",
            [
                f"{percent_text(one.share_split_elsewhere)} of {one.objects - one.at_seams}"
                for one in found
            ],
        )


def before_and_after(
    reports: Sequence[SplitReport], agreements: Sequence[Agreement], merged: int
) -> Table:
    """Labels before and after merging, side by side."""
    excess = [one.test.effect if one.test else None for one in reports]
    compared = _agreement_rows(agreements) if agreements else ()
    rows = [
        ["p", *(figure_text(one.p) if one.test else NONE for one in reports)],
        ["excess (px per seam)", *map(figure_text, excess)],
        ["pairs across seams", *(str(len(one.candidates)) for one in reports)],
        *([name, *values] for name, values in compared),
    ]
    caption = f"{merged} pair{'s' * (merged != 1)} of objects merged."
    return Table(["", "before", "after"], rows, caption)


# -- words


def _at(values: Sequence[Any], k: int) -> Any:
    return values[k] if k < len(values) else None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _index(index: Sequence[int]) -> str:
    return ", ".join(map(str, index))


__all__ = [
    "MAX",
    "MEAN",
    "MISMATCH",
    "THRESHOLDED",
    "asked_again",
    "before_and_after",
    "describe",
    "layers_of",
    "pairs_of",
    "tiles_of",
    "worst_seams",
]
