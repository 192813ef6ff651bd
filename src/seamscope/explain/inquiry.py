"""Experiments weighed: how much each cause makes, and the sentences that say so.

Knows what experiments mean together. Does not know how one is done (see
`seamscope.explain.experiments`), or where pipeline, grid and settings come from (see
`seamscope.explain.causes`, which defines shares).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import get_args

import numpy as np

from seamscope.explain.experiments import Bench, Cause, Disagreement, Removed
from seamscope.explain.findings import Diagnosis, Finding, HaloIs, Verdict
from seamscope.explain.pipelines import Box, Subject
from seamscope.explain.tile_sample import deeper, sample_of
from seamscope.models.sentences import some_names
from seamscope.planning.plan import Plan
from seamscope.prediction.class_labels import as_labels
from seamscope.progress import Steps, Work
from seamscope.seams.measures import SeamCurve
from seamscope.seams.tolerance import TOLERANCE
from seamscope.text import (
    at_halo_text,
    axes_text,
    far_text,
    figure_text,
    percent_text,
    pixels_text,
)
from seamscope.tiling import Sides, Tile, TileGrid

# A cause below this part of the disagreement is none; one above names it; a halo is suggested
# where edge effects make so much.
_NEGLIGIBLE, _MAIN, _NOTABLE = 0.01, 0.6, 0.2
# Least fall of a curve that never ends; less may be its unevenness, as content differs by place.
_FALL = 1 / 3

_CAUSES: tuple[Cause, ...] = get_args(Cause)


class Inquiry:
    """All experiments on one subject, and what they add up to."""

    def __init__(
        self,
        subject: Subject,
        grid: TileGrid,
        worst: Sequence[Sequence[float]],
        work: Work,
        plan: Plan | None = None,
        tolerance: float = TOLERANCE,
    ) -> None:
        self._subject = subject
        self._plan = plan
        self._tolerance = tolerance
        self._worst = worst
        work.phase("Explaining seams", "experiments at most")
        self._work = work
        self._steps = Steps(work)
        self.bench = self._bench(grid)
        self._removable = frozenset(self._what_may_act())
        self._steps.total = len(self.bench.tiles) * (2 ** len(self._removable) + 3)

    def _bench(self, grid: TileGrid) -> Bench:
        area = None if self._plan is None else self._plan.area
        tiles = sample_of(grid, self._contrast(grid), self._worst, area)
        return Bench(self._subject, grid, tiles, self._steps, self._tolerance)

    def _contrast(self, grid: TileGrid) -> Callable[[Tile], float]:
        def contrast(tile: Tile) -> float:
            box: Box = tuple(
                (axis[i].start, axis[i].stop) for axis, i in zip(grid.axes, tile.index, strict=True)
            )
            return float(self._subject.inputs(box, None).std())

        return contrast

    def _what_may_act(self) -> Iterator[Cause]:
        if self._subject.preprocesses:
            yield "preprocessing"
        if any(len(each) > 1 for each in self.bench.remainders()):
            yield "off the grid"
        if self._subject.normalizing:
            yield "tile statistics"
        if any(map(any, self.bench.margin)):
            yield "edge effects"
        if self._subject.postprocess is not None:
            yield "postprocessing"

    # -- shares

    def diagnosis(self) -> Diagnosis:
        """Carry the experiments out."""
        bench = self.bench
        now = bench.disagreement()
        self._curves = {"as it is": bench.curve()}
        amounts = {} if now.largest <= bench.tolerance else self._amounts(now)
        total = sum(amounts.values())
        shares = {cause: amount / total for cause, amount in amounts.items()} if total else {}
        verdict = _verdict(shares)
        self._here = self._halo_here(shares)
        halo, halo_is = self._suggestion(shares, verdict)
        findings = self._findings(shares)
        self._work.step(self._steps.done, self._steps.done)
        grid = bench.grid
        start = self._curves["as it is"]
        summary = self._summary(verdict, now)
        return Diagnosis(
            verdict=verdict,
            summary=summary,
            explanation=" ".join([summary, *_worded(findings)]),
            findings=findings,
            tile=grid.tile_shape,
            halo=grid.halo,
            overlap=grid.overlap,
            period=tuple(axis.period for axis in self._subject.lattice),
            suggested_halo=halo,
            halo_is=halo_is,
            halo_here=self._here,
            mean_dist=now.mean,
            max_dist=now.largest,
            mean_dist_0=float(start.mean_dist[0]) if start.halo.size else 0.0,
            max_dist_0=float(start.max_dist[0]) if start.halo.size else 0.0,
            tolerance=bench.tolerance,
            spread=bench.spread,
            tiles=len(bench.tiles),
            seams=len(bench.seams),
            curves=self._curves,
        )

    def _alone(self, cause: Cause) -> Disagreement:
        """What a cause makes when all others are removed."""
        return self.bench.disagreement(self._removable - {cause})

    def _amounts(self, now: Disagreement) -> dict[Cause, float]:
        """Disagreement that goes away with each cause."""
        left = self.bench.disagreement(self._removable)
        acting = [
            cause
            for cause in _CAUSES
            if cause in self._removable
            and self._alone(cause).largest > self.bench.tolerance
            and self._alone(cause).mean > left.mean + _NEGLIGIBLE * now.mean
        ]
        rest = self.bench.disagreement(frozenset(acting))
        if left.largest <= self.bench.tolerance < rest.largest:
            # causes that make nothing alone, but something together
            acting = [cause for cause in _CAUSES if cause in self._removable]
            rest = left
        amounts = _amounts_of(acting, lambda removed: self.bench.disagreement(removed).mean)
        if rest.largest > self.bench.tolerance:
            for cause, amount in self._of_rest(rest.mean, frozenset(acting)):
                amounts[cause] = amounts.get(cause, 0.0) + amount
        return {c: a for c, a in amounts.items() if a > _NEGLIGIBLE * now.mean}

    def _of_rest(self, rest: float, removed: Removed) -> Iterator[tuple[Cause, float]]:
        """Tell whose that is which is left when all that can be removed is gone."""
        if self._subject.noise:
            yield "random", rest
            return
        if self._subject.reach is not None:
            complete = self.bench.margin == self.bench.missing
            yield ("global coupling" if complete else "edge effects"), rest
            return
        fall = self._fall(removed)
        coupling: Cause = "global coupling"
        if self._is_bare and self.bench.ignores_brightness():
            coupling = "preprocessing"
        yield "edge effects", fall * rest
        yield coupling, (1 - fall) * rest

    @property
    def _is_bare(self) -> bool:
        """Whether preprocessing could hide in the network."""
        return self._plan is None and not self._subject.preprocesses

    def _fall(self, removed: Removed) -> float:
        """Part by which the curve falls from the chosen halo to the deepest overlap."""
        curve = self._deep_curve(removed)
        reached = np.flatnonzero(curve.share >= 0.5)
        if not reached.size:
            return 0.0
        floor = float(curve.mean_dist[reached[-1]])
        at = min(curve.ray.largest_within(self.bench.grid.halo), int(reached[-1]))
        if curve.knee() <= at:  # beyond which more halo helps little
            return 0.0
        here = float(curve.mean_dist[at])
        fall = 1 - floor / here if here > 0 else 0.0
        return fall if fall >= _FALL else 0.0

    def _deep_curve(self, removed: Removed) -> SeamCurve:
        """Disagreement at all halos that this tile allows, with causes removed."""
        name = "edge effects alone"
        if name not in self._curves:
            reach = self._subject.reach
            sides = reach or (None,) * len(self.bench.grid.axes)
            axes = tuple(deeper(a, r) for a, r in zip(self.bench.grid.axes, sides, strict=True))
            self._curves[name] = self._bench(TileGrid(axes)).curve(removed, along=reach)
        return self._curves[name]

    # -- the halo to use

    def _halo_here(self, shares: Mapping[Cause, float]) -> tuple[Sides, ...] | None:
        """Smallest halo at which the seams examined agree, edge effects alone considered."""
        curve = self._curves["as it is"]
        if shares:
            if self._subject.reach is None or "edge effects" not in shares:
                return None
            curve = self._deep_curve(self._removable - {"edge effects"})
        found = curve.smallest_seamless(self.bench.raw_tolerance)
        return None if found is None else curve.ray.sides(found)

    def _suggestion(
        self, shares: Mapping[Cause, float], verdict: Verdict
    ) -> tuple[tuple[Sides, ...] | None, HaloIs | None]:
        """Halo to use; none where what makes the seams is nothing that a halo removes."""
        if verdict not in ("edge effects", "mixed") or shares.get("edge effects", 0) < _NOTABLE:
            return None, None
        if self._subject.reach is None:
            curve = self._curves["edge effects alone"]
            return curve.ray.sides(curve.knee()), "knee"
        alone = shares["edge effects"] > 1 - _NEGLIGIBLE and not self._subject.coupled
        return self._subject.reach, "smallest seamless" if alone else "removes edge effects"

    # -- sentences

    def _findings(self, shares: Mapping[Cause, float]) -> tuple[Finding, ...]:
        found = []
        for cause in _CAUSES:
            share = shares.get(cause, 0.0)
            number, what, remedy = self._worded_alone(cause, share)
            unit = "of the pixels" if self.bench.labels else "mean difference"
            remedy = f"{remedy}." if share else ""
            found.append(Finding(cause, share, number, unit, f"{what}.", remedy))
        return tuple(sorted(found, key=lambda f: -f.share))

    def _worded_alone(self, cause: Cause, share: float) -> tuple[float, str, str]:
        """Number, what, remedy."""
        bench = self.bench
        alone = share * bench.disagreement().mean
        if cause in self._removable and bench.disagreement().largest > bench.tolerance:
            alone = self._alone(cause).mean
            if not share and self._alone(cause).largest > bench.tolerance:
                hidden = (
                    f"Alone this would make {figure_text(alone)}; next to the other causes it "
                    "makes no difference to remove it"
                )
                return alone, hidden, ""
        tell = {
            "preprocessing": self._preprocessing,
            "off the grid": self._misaligned,
            "tile statistics": self._statistics,
            "edge effects": self._edges,
            "global coupling": self._coupling,
            "random": self._random,
            "postprocessing": self._postprocessing,
        }[cause]
        what, remedy = tell(share, alone)
        return alone, what, remedy

    def _preprocessing(self, share: float, alone: float) -> tuple[str, str]:
        remedy = (
            "Measure the intensities of the whole image once and prepare every tile with the same "
            "numbers"
        )
        if share and not self._subject.preprocesses:
            return (
                "The prediction stays the same when a tile is made brighter: the code "
                f"normalizes each tile by itself, which makes {figure_text(alone)}, together "
                "with all else that looks at the whole tile",
                remedy,
            )
        apart, spread = self.bench.inputs_apart()
        if apart == 0:
            return (
                "With an identity network the pipeline gives the image back: the same pixel is the "
                "same in every tile",
                "",
            )
        return (
            "With an identity network neighbouring tiles already differ: by up to "
            f"{figure_text(apart)} in the network's input, whose standard deviation is "
            f"{figure_text(spread)}. This alone makes {figure_text(alone)} in the prediction",
            remedy,
        )

    def _misaligned(self, share: float, alone: float) -> tuple[str, str]:
        period = axes_text([axis.pitch for axis in self._subject.lattice])
        if not share:
            what = f"Tile starts lie on the network's grid of {period}"
            if "off the grid" in self._removable:
                return "Tile starts off the network's grid make no difference here", ""
            shift = tuple(axis.pitch // 2 for axis in self._subject.lattice)
            cost = self.bench.shifted_apart(shift) if any(shift) else None
            if cost is not None:
                what += f"; {pixels_text(axes_text(shift))} off it would make {figure_text(cost)}"
            return what, ""
        off = sorted(set(itertools.chain(*self.bench.remainders())))
        return (
            f"Tiles start {pixels_text(', '.join(map(str, off)))} off the network's grid of "
            f"{period}, so that strides and poolings fall differently: this alone makes "
            f"{figure_text(alone)}, at any halo",
            f"Let tiles start on multiples of {period}; continue the image at its end instead of "
            "moving the last tile back",
        )

    def _statistics(self, share: float, alone: float) -> tuple[str, str]:
        count = len(self._subject.audit.tile_layers)
        if not count:
            return "No normalization layer uses statistics of the tile", ""
        # means taken by hand may normalize, or gate as squeeze-and-excite does
        plain = all(one.kind != "hand-written" for one in self._subject.audit.tile_layers)
        noun = "normalization layer" if plain else "operation"
        other = ", or use a network with batch normalization or none" if plain else ""
        layers = f"{count} {noun}{'s use' if count > 1 else ' uses'} per-tile statistics"
        if not self._subject.audit.watched:
            return (
                f"{layers}, which cannot be held fixed in a network that runs forward "
                "only: what they make is counted as global coupling",
                "",
            )
        fixed = self.bench.disagreement(frozenset(("tile statistics",))).mean if share else 0.0
        if not share:
            return f"{layers}; holding them fixed changes nothing here", ""
        now = self.bench.disagreement().mean
        return (
            f"{layers}{self._subject.which}: with the same statistics for all tiles the "
            f"difference goes from {figure_text(now)} to {figure_text(fixed)}; by themselves they "
            f"make {figure_text(alone)}, which no halo removes",
            f"Fix the statistics{other}; larger tiles make it fainter",
        )

    def _edges(self, share: float, alone: float) -> tuple[str, str]:
        start = self._curves["as it is"]
        at_0 = f"{figure_text(start.mean_dist[0])} without a halo" if start.halo.size else "0"
        used = at_halo_text(self.bench.grid.halo)
        reach = self._subject.reach
        needs = (
            "a pixel depends on the whole tile"
            if reach is None
            else f"all layers but those that see the whole tile need a halo of {far_text(reach)}"
            if self._subject.coupled
            else f"tiles of this network need a halo of {far_text(reach)}"
        )
        if not share:
            return (
                f"No edge effects at {used}: {needs} (neighbours differ by {at_0})",
                "",
            )
        what = (
            f"At {used} the network misses context near the seams ({needs}): "
            f"this alone makes {figure_text(alone)}; neighbours differ by {at_0}"
        )
        if reach is None:
            curve = self._curves["edge effects alone"]
            knee = far_text(curve.ray.sides(curve.knee()))
            return what, f"Use a halo of {knee}, beyond which more helps little"
        remedy = f"Use a halo of {far_text(reach)}"
        if self._subject.coupled:
            remedy = f"A halo of {far_text(reach)} removes this part"
        lattices = self._subject.lattice
        needed = [a.smallest_tile(sides) for a, sides in zip(lattices, reach, strict=True)]
        if any(n > t for n, t in zip(needed, self.bench.grid.tile_shape, strict=True)):
            remedy += f", with tiles of {axes_text(needed)} or more"
        if self._here is not None and self._here != reach:
            remedy += f" (on the seams examined {far_text(self._here)} is enough)"
        return what, remedy

    def _coupling(self, share: float, alone: float) -> tuple[str, str]:
        if not share:
            return "Nothing else depends on the whole tile", ""
        found = self._subject.audit
        names = self._subject.couplings or tuple(map(str, found.global_operations))
        named = some_names(names) if names else ""
        if not found.watched and found.tile_layers:
            count = len(found.tile_layers)
            layers = f"normalization by per-tile statistics in {count} layers"
            named = f"{layers}, {named}" if named else layers
        what = named or (
            f"something in the {'code' if self._is_bare else 'network'} besides normalization "
            "layers (a step done for each tile, positions, sizes)"
        )
        same = "the same statistics and " if found.watched and found.tile_layers else ""
        seamless = self._curves["as it is"].smallest_seamless(self.bench.raw_tolerance)
        remedy = "Use tiles as large as memory allows, and blend neighbours so that it shows less"
        if found.global_operations and found.repairable:
            remedy = f"Fix the means it takes of the tile. Or: {remedy.lower()}"
        left = f"With {same}all context {figure_text(alone)} is left"
        cause = self._subject.place
        if not cause or (named and named not in cause):
            cause += f"{', and ' * bool(cause)}what depends on the whole tile is {what}"
        if seamless is not None:
            sides = at_halo_text(self._curves["as it is"].ray.sides(seamless))
            agree = f"The tiles examined agree from {sides} on; other images may need more"
            return f"{left}: {cause}", f"{agree}. {remedy}"
        if self._subject.reach is None and not (
            names or self._subject.place
        ):  # nothing but the curve shows that
            most = pixels_text(int(self._curves["as it is"].halo.max(initial=0)))
            return f"{left} at any halo up to {most}: {cause}", remedy
        return f"{left} at any halo: {cause}", f"No halo removes it. {remedy}"

    def _random(self, share: float, alone: float) -> tuple[str, str]:
        noise = self._subject.noise
        if not noise:
            return "The network predicts the same whenever it is given the same tile", ""
        return (
            f"The network is random: two predictions of one tile differ by {figure_text(noise)} "
            f"standard deviations. With all context this alone makes {figure_text(alone)}, at any "
            "halo",
            "Switch its random layers off (`dropout=False`), or average several predictions of "
            "each tile",
        )

    def _postprocessing(self, share: float, alone: float) -> tuple[str, str]:
        if self._subject.postprocess is None:
            if self._plan is not None and self._plan.settings.result == "labels":
                threshold = self._plan.settings.threshold
                part = self.bench.classes_apart(lambda y: as_labels(y, threshold))
                return (
                    f"Classes are decided pixel by pixel: {percent_text(part)} of the "
                    "pixels get another one in the neighbouring tile",
                    "",
                )
            return "There is none", ""
        before = self._curves["as it is"]
        at = min(before.ray.largest_within(self.bench.grid.halo), before.halo.size - 1)
        raw = f"before it the predictions differ by {figure_text(before.mean_dist[at])}"
        if not share:
            return f"Postprocessing two neighbours as one image changes nothing; {raw}", ""
        return (
            f"Postprocessing each tile by itself makes {figure_text(alone)} alone; {raw}, after it "
            f"by {figure_text(self.bench.disagreement().mean)}",
            "Stitch the predictions first and postprocess the whole",
        )

    def _summary(self, verdict: Verdict, now: Disagreement) -> str:
        bench = self.bench
        used = at_halo_text(bench.grid.halo)
        sample = f"{len(bench.seams)} seam{'s' * (len(bench.seams) > 1)}"
        if bench.spread == 0:
            value = "the same number" if not bench.labels else "one label"
            return (
                f"The prediction is {value} everywhere on the {len(bench.tiles)} tiles examined, "
                "so that no seam could show. Check the image, its intensities, and whether the "
                "network was made for it."
            )
        if verdict == "seamless":
            text = (
                f"Seamless at {used}: on the {sample} examined neighbouring tiles differ by "
                f"{figure_text(now.largest)} at most, where {figure_text(bench.tolerance)} is "
                "noise."
            )
            start = self._curves["as it is"]
            if start.halo.size and any(map(any, bench.grid.halo)):
                text += (
                    f" Without a halo they would differ by {figure_text(start.mean_dist[0])} on "
                    f"average and {figure_text(start.max_dist[0])} at most."
                )
            if self._here is not None and self._here < bench.grid.halo:
                text += f" On these seams a halo of {far_text(self._here)} would do."
            return f"{text} {self._subject.caution}".rstrip()
        if bench.labels:
            size = f"in {percent_text(now.mean)} of the pixels"
        else:
            size = (
                f"by {figure_text(now.mean)} on average and {figure_text(now.largest)} at most "
                f"({figure_text(now.largest / bench.spread)} standard deviations of the prediction)"
            )
        return f"At {used} neighbouring tiles differ {size}, on the {sample} examined."


def _worded(findings: Sequence[Finding]) -> Iterator[str]:
    """Each cause that matters: its share, what was found, what to do."""
    for found in findings:
        if found.share >= _NEGLIGIBLE:
            yield (
                f"{found.cause.capitalize()}, {percent_text(found.share)} of it: {found.what} "
                f"{found.remedy}"
            )


def _amounts_of(causes: Sequence[Cause], left: Callable[[Removed], float]) -> dict[Cause, float]:
    """What removing each cause takes away, averaged over all orders of removal.

    Shapley's value (1953), except that a step which uncovers more than it takes counts as nothing.
    `left` is the disagreement with causes removed.
    """
    n = len(causes)
    amounts: dict[Cause, float] = {}
    for cause in causes:
        others = [c for c in causes if c != cause]
        amount = 0.0
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for before in itertools.combinations(others, size):
                removed = frozenset(before)
                amount += weight * max(0.0, left(removed) - left(removed | {cause}))
        amounts[cause] = amount
    return amounts


def _verdict(shares: Mapping[Cause, float]) -> Verdict:
    if not shares:
        return "seamless"
    main = max(shares, key=lambda cause: shares[cause])
    return main if shares[main] >= _MAIN else "mixed"
