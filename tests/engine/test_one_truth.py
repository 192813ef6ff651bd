"""What is said of a network and its seams, in different places: all of it fits together.

One network after another is measured, its seams are measured, explained and certified, and all that
is reported is compared. Nothing here knows which answer is right; `test_case_networks` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from families import FAMILIES, case_factories, family
from seamscope.cli.info import model_facts
from seamscope.compare.certificate import Certificate, certify
from seamscope.errors import ModelError, SettingsError
from seamscope.explain.advice import advise
from seamscope.explain.causes import Diagnosis, diagnose
from seamscope.models.model import Model, as_model
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.prediction.measure_seams import measure_seams
from seamscope.seams.report import SeamReport
from seamscope.settings import Settings

CASES = case_factories()
SEVERAL = {"deept", "deepd"}  # outputs: one must be chosen
_LONGEST = {2: 1200, 3: 64}  # tile along x


@dataclass
class Told:
    """All that is reported of one network on one image."""

    model: Model
    plan: Plan
    report: SeamReport
    diagnosis: Diagnosis
    certificate: Certificate | None
    covered: bool = field(init=False)

    def __post_init__(self) -> None:
        self.covered = self.plan.exact and not self.model.facts.noise


def _case(model: Model, halo: int | str) -> Case:
    """Two tiles and a half along x."""
    facts, reach = model.facts, model.reach
    needed = max(max(s) for s in reach.halo or reach.convolutional or ((8, 8),))
    own = needed if halo == "auto" else halo
    tile, shape = [], []
    for number, axis in enumerate(facts.lattice):
        along_x = number == facts.spatial_axes - 1
        small = {2: 24, 3: 12}[facts.spatial_axes] + sum(axis.crop)
        wanted = min(2 * needed + 3 * axis.pitch + small, _LONGEST[facts.spatial_axes])
        # one tile along the other axes, also of a network that crops
        tile.append(axis.size_at_least(wanted if along_x else small))
        kept = tile[-1] - sum(axis.crop)
        shape.append(2 * max(axis.pitch, kept - 2 * own) + 2 * own + 5 if along_x else kept)
    pixels = np.random.default_rng(0).standard_normal((facts.in_channels, *shape))
    axes = "c" + "zyx"[-facts.spatial_axes :]
    settings = Settings(tile=tuple(tile), halo=halo, device="cpu")
    return Case.open(pixels.astype(np.float32), model, settings, axes=axes)


def _told(model: Model, halo: int | str) -> Told:
    case = _case(model, halo)
    report = measure_seams(case)
    diagnosis = diagnose(case.at(report.plan), worst=report.seams)
    try:
        certificate = certify(case)
    except SettingsError:  # one size only
        certificate = None
    return Told(model, case.plan, report, diagnosis, certificate)


def _covers(plan: Plan, reach) -> bool:
    """Whether tiles have as much context as this reach needs."""
    if reach is None:
        return False
    pairs = zip(plan.grid.halo, reach, strict=True)
    return all(h[0] >= r[0] and h[1] >= r[1] for h, r in pairs)


def contradictions(told: Told):
    """Yield what two places say differently."""
    model, plan, report, diagnosis = told.model, told.plan, told.report, told.diagnosis
    facts, reach, shown = model.facts, model.reach, model_facts(model)
    written, seams = plan.to_json(), report.to_json()
    for name in ("stride", "period", "tile", "halo"):
        if written[name] != seams[name]:
            yield f"{name}: {written[name]} in the plan, {seams[name]} in the seams"
    if tuple(shown["period"]) != facts.period or diagnosis.period != facts.period:
        yield "the period"
    if any(n % axis.pitch for n, axis in zip(report.plan.grid.stride, facts.lattice, strict=True)):
        yield "tiles off the grid"
    if shown["bounded"] != (reach.halo is not None):
        yield "whether a halo helps"
    if told.covered and not (report.seamless and diagnosis.verdict == "seamless"):
        yield f"halo covers the reach, and {report.sentence()} {diagnosis.summary}"
    if report.seamless != (diagnosis.verdict == "seamless"):
        yield f"{report.sentence()} but {diagnosis.summary}"
    sentences = f"{diagnosis.explanation} {advise(report.plan, report).why}"
    helpless = "No margin (halo) removes" in sentences or "at any halo" in sentences
    if helpless and (report.seamless or report.smallest_seamless is not None):
        yield f"seamless from {report.smallest_seamless}, and {sentences}"
    if diagnosis.verdict == "global coupling" and reach.bounded and not reach.fades:
        yield f"coupled, and halo {reach.halo} is enough"
    shares = {finding.cause: finding.share for finding in diagnosis.findings}
    if _covers(plan, reach.rest) and shares.get("edge effects"):
        yield f"edge effects, where halo {plan.grid.halo} covers all that looks {reach.rest} far"
    certificate = told.certificate
    if certificate and certificate.passed != report.seamless and not certificate.note:
        yield f"{certificate} but {report.sentence()}"
    advice = advise(report.plan, report)
    if advice.step == "explain":
        yield f"advice: {advice.why}"


def _check(model: Model) -> None:
    model.measure(patience=None)  # a busy machine would end it anywhere
    for halo in ("auto", 0):
        found = list(contradictions(_told(model, halo)))
        assert not found, (halo, found)


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_contradicts_itself(name) -> None:
    _check(as_model(family(name)))


@pytest.mark.skipif(
    not CASES, reason="no networks of others here: name their folder SEAMSCOPE_CASES"
)
@pytest.mark.parametrize("name", [name for name in CASES if name not in SEVERAL])
def test_nothing_contradicts_itself_in_networks_of_others(name) -> None:
    _check(as_model(CASES[name]()))


@pytest.mark.parametrize("name", sorted(SEVERAL & CASES.keys()))
def test_several_outputs_are_named(name) -> None:
    with pytest.raises(ModelError, match="add the one you want"):
        _ = as_model(CASES[name]()).facts


def test_the_check_finds_a_contradiction() -> None:
    model = as_model(family("stride 3"))
    told = _told(model, 0)
    told.covered = True
    assert any("halo covers the reach" in each for each in contradictions(told))


def test_an_overlap_that_is_cut_in_between_explains_a_passed_certificate() -> None:
    blur = torch.nn.Conv2d(1, 1, 3, padding=1).eval()
    told = _told(as_model(blur), 0)
    assert told.certificate is not None
    assert told.certificate.passed
    assert not told.report.seamless
    assert "each discards 1 px, more than the halo of 0 px" in str(told.certificate)


def test_circular_padding_is_why_a_certificate_fails() -> None:
    told = _told(as_model(family("circular padding")), "auto")
    assert told.certificate is not None
    assert not told.certificate.passed
    assert "opposite border" in str(told.certificate)
    assert told.report.seamless
