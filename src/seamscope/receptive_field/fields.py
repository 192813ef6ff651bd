"""The receptive field of a network: theoretical, effective, and the halo that follows.

Knows how theoretical reach, the convolutions' own, the effective receptive field and the rules for
tiles are reported together. Does not know how any of them is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from seamscope.errors import ModelError
from seamscope.models.facts import Facts
from seamscope.models.formats import load_model
from seamscope.models.model import Model
from seamscope.models.reach import PhaseFields, Reach, worst
from seamscope.models.sentences import describe, some_names, whole_tile
from seamscope.planning.case import Case
from seamscope.progress import QUIET, Work
from seamscope.receptive_field.gradient_maps import SHARES, EffectiveField, GradientMap
from seamscope.receptive_field.gradient_probe import MOST_TILES, GradientProbe
from seamscope.receptive_field.grid_rules import Violation, Windows, check_windows
from seamscope.serialization import record
from seamscope.settings import Settings
from seamscope.text import axes_text, far_text, percent_text
from seamscope.tiling import Sides, per_axis


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """All that was measured of what a network sees.

    Attributes
    ----------
    facts, reach
        Of the network.
    fields
        Theoretical receptive field by phase, along each axis, of the network or, where it sees
        the whole tile, of its convolutions with statistics held fixed; None where even these see
        everything.
    couplings
        Names of the layers that see the whole tile, those with per-tile statistics too.
    effective
        Averaged gradient map; None if the network gives no gradients, or if it was not requested.
    pixel
        Map of one pixel of the image; None if it was not requested.
    violations
        Sizes that break the rules of the network's period.
    notes
        Sentences for the user.
    """

    facts: Facts
    reach: Reach
    fields: tuple[PhaseFields, ...] | None
    couplings: tuple[str, ...]
    effective: EffectiveField | None
    pixel: GradientMap | None
    violations: tuple[Violation, ...]
    notes: tuple[str, ...]

    @property
    def bounded(self) -> bool:
        """Whether some halo makes tiles agree exactly."""
        return self.reach.bounded

    @property
    def convolutional(self) -> tuple[Sides, ...] | None:
        """Receptive field ``(before, after)`` at the worst phase, statistics held fixed."""
        return None if self.fields is None else tuple(map(worst, self.fields))

    @property
    def theoretical(self) -> tuple[Sides, ...] | None:
        """Receptive field ``(before, after)`` at the worst phase; None for the whole tile."""
        return self.convolutional if self.bounded else None

    @property
    def halo(self) -> tuple[Sides, ...] | None:
        """Halo for tiles on the network's grid; None where none is enough."""
        return self.reach.halo

    @property
    def mass_outside(self) -> float | None:
        """Share of the gradient's mass beyond the convolutions' reach."""
        if self.effective is None or self.fields is None:
            return None
        return self.effective.map.beyond(self.fields)

    def sentences(self) -> Iterator[str]:
        """All of it in words, most important first."""
        first = describe(self.facts, self.reach)
        yield first
        if self.theoretical is not None and self.theoretical != self.halo:
            needs = "" if self.halo is None else f"; the halo is {far_text(self.halo)}"
            yield (
                f"At the worst phase the receptive field reaches {far_text(self.theoretical)} "
                f"from an output pixel{needs}, since tiles start on the network's period."
            )
        named = some_names(self.couplings)
        if named not in first:
            yield f"What depends on the whole tile: {named}."
        if self.effective is not None:
            yield self._effective_sentence(self.effective)
        yield from (violation.sentence for violation in self.violations)
        yield from self.notes

    def _effective_sentence(self, effective: EffectiveField) -> str:
        within = [f"{100 * s:g}% within {axes_text(effective.map.radius(s))}" for s in SHARES]
        text = f"Of the gradient {', '.join(within)} pixels (mean of {effective.tiles} tiles)"
        outside = self.mass_outside
        if outside:
            text += f"; {percent_text(outside)} lies beyond what the convolutions reach"
        return f"{text}."

    def to_json(self) -> dict[str, Any]:
        """Return figures and sentences, without maps; sides are ``[before, after]``."""
        effective = self.effective
        return record(
            period=self.facts.period if self.facts.period_found else None,
            bounded=self.bounded,
            depends_on_size=self.reach.depends_on_size,
            theoretical=self.theoretical,
            convolutional=self.convolutional,
            halo=self.halo,
            convolutional_halo=self.reach.convolutional,
            phases=self.fields,
            effective=effective and {f"{s:g}": effective.map.radius(s) for s in SHARES},
            effective_box=effective and {f"{s:g}": effective.map.box(s) for s in SHARES},
            effective_of=effective
            and {
                "on": effective.on,
                "tile": effective.map.values.shape,
                "tiles": effective.tiles,
                "steady": effective.steady,
                "spread": effective.spread,
                "channel": effective.channel,
                "phase": effective.map.phase,
            },
            mass_outside=self.mass_outside,
            pixel=self.pixel and self._pixel_json(self.pixel),
            couplings=self.couplings,
            swallows_nan=self.reach.swallows_nan,
            valid_crop=[axis.crop for axis in self.facts.lattice],
            scale=[float(scale) for scale in self.facts.scale],
            violations=self.violations,
            sentences=list(self.sentences()),
        )

    def _pixel_json(self, pixel: GradientMap) -> dict[str, Any]:
        starts = pixel.origin or (0,) * pixel.values.ndim
        return {
            "at": [first + n for (first, _), n in zip(pixel.covered, starts, strict=True)],
            "phase": list(pixel.phase),
            "effective": {f"{s:g}": list(pixel.radius(s)) for s in SHARES},
            "mass_outside": None if self.fields is None else pixel.beyond(self.fields),
        }


def measure_receptive_field(
    image: Any,
    model: str | nn.Module | Model | None = None,
    settings: Settings | None = None,
    windows: Windows | None = None,
    *,
    channel: int | None = None,
    phase: Sequence[int] | None = None,
    pixel: Sequence[int] | None = None,
    most_tiles: int = MOST_TILES,
    work: Work = QUIET,
) -> ReceptiveField:
    """Measure how far a network can see, how far it does, and on which grid.

    Parameters
    ----------
    image, model
        As for `seamscope.predict`; gradients are averaged over the image. None for noise.
    settings
        Tile, device, memory, and how the image is read; see
        `seamscope.receptive_field.gradient_maps`. If the network does not take a tile, a note
        says which one is used instead.
    windows
        Sizes to check against the rules of the network's period, besides the tile of `settings`.
    channel
        Output channel whose gradient is taken; None for all together.
    phase
        Output pixel modulo the period; by default that of the tile's middle.
    pixel
        Image pixel whose own map is wanted too, one index per spatial axis.
    most_tiles
        Tiles after which to stop averaging; 0 for no gradients at all.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Raises
    ------
    SettingsError, ImageError
        Where settings, network and image contradict each other.
    InterruptedError
        When stopped.

    Examples
    --------
    >>> import torch, seamscope
    >>> found = measure_receptive_field(None, torch.nn.Conv2d(1, 1, 3, padding=1))
    >>> found.halo, found.theoretical
    (((1, 1), (1, 1)), ((1, 1), (1, 1)))
    >>> found.effective.map.radius(0.999)
    (1, 1)
    """
    case, asked = None, settings or Settings()
    if image is not None:
        case = Case.open(image, model, settings)
        model, asked = case.model, case.settings
    if model is None:
        raise TypeError("give a network: a module, a Model, or a string for load_model")
    model = load_model(model)
    lattices = model.facts.lattice
    chosen = windows or Windows()
    if asked.tile != "auto" and chosen.tile is None:
        chosen = replace(chosen, tile=asked.tile)
    violations = check_windows(chosen, lattices, model.reach.convolutional)
    if asked.tile != "auto":
        tile = per_axis(asked.tile, len(lattices), "tile")
        if not all(axis.accepts(n) for axis, n in zip(lattices, tile, strict=True)):
            asked = asked.but(tile="auto")  # the sentence about it is worth more than a refusal
    notes: list[str] = []
    effective = of_pixel = None
    if most_tiles:
        try:
            probe = GradientProbe(case, model, asked, work)
            if pixel is not None:
                of_pixel = probe.at(pixel, channel)
            effective = probe.average(channel, phase, most=most_tiles, work=work)
            notes += _about(effective)
        except ModelError as error:  # theory holds without gradients
            notes.append(str(error))
    if model.reach.swallows_nan:
        notes.append(
            "An operation of this network swallows NaN (a comparison or the like): following NaN "
            "finds less than it sees, so that its reach was measured with large changes too."
        )
    return ReceptiveField(
        facts=model.facts,
        reach=model.reach,
        fields=model.fields,
        couplings=whole_tile(model.facts, model.reach),
        effective=effective,
        pixel=of_pixel,
        violations=violations,
        notes=tuple(notes),
    )


def _about(effective: EffectiveField) -> Iterator[str]:
    yield from effective.notes
    if effective.on == "noise":
        yield "Gradients were taken on noise, for lack of an image: on one they may reach less far."
    if effective.doubt:
        yield effective.doubt


__all__ = ["ReceptiveField", "measure_receptive_field"]
