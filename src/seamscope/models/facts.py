"""What is known of a network once it was measured, as a value.

Knows names and numbers. Does not know how they are measured (see `seamscope.models.probe`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from seamscope.models.implied import Implied
from seamscope.models.input_search import Layout
from seamscope.models.output_kind import OutputKind
from seamscope.normalization.audit import StatisticsCall
from seamscope.text import axes_text
from seamscope.tiling import Lattice, Sides, axis_names


@dataclass(frozen=True)
class Facts:
    """What was measured of a network; nothing in it depends on an image.

    Attributes
    ----------
    in_channels, out_channels
        Channels of input and prediction.
    lattice
        Period, accepted sizes, crop and scale, for each spatial axis (``zyx``).
    narrow
        A small spatial shape, in input pixels, with which the network was seen to run.
    bytes_per_pixel
        Memory of one forward pass for each input pixel, weights not counted.
    statistics
        Normalizations that use the tile's own statistics, in the order of the forward pass.
    any_channels
        Whether other numbers of channels are accepted too (networks without weights).
    channels_follow
        Whether such a network then gives as many channels as it gets.
    period_found
        False where no shift is followed (attention, absolute positions): the accepted step of
        sizes then stands in for the period.
    forward_only
        Whether another program runs the network, so that its statistics cannot be held fixed and
        the reach of its convolutions alone is not known; `statistics` were then read, not seen.
    kind
        What its values are (see `seamscope.models.output_kind`).
    kind_certain
        Whether that is stated or follows from the network's end. A network that ends with a linear
        layer may give logits, or values that only look like them; values on both sides of 0 may be
        logits.
    noise
        How much two runs of one input differ, in standard deviations of the output; 0 for a
        network that always predicts the same.
    noise_stays
        Whether some of that is left without its random layers: numpy or a counter made it.
    layout
        Axes of its tensors, where they are not ``(N, C, *spatial)``.
    implied
        What its operations imply; None where they cannot be read.
    cut
        Output pixels ``(before, after)`` beyond the input's ends that are left out, for each axis.
    notes
        Sentences on what could not be measured for certain.
    """

    in_channels: int
    out_channels: int
    lattice: tuple[Lattice, ...]
    narrow: tuple[int, ...]
    bytes_per_pixel: float
    statistics: tuple[StatisticsCall, ...] = ()
    any_channels: bool = False
    channels_follow: bool = False
    period_found: bool = True
    forward_only: bool = False
    kind: OutputKind = "values"
    kind_certain: bool = True
    noise: float = 0.0
    noise_stays: bool = False
    layout: Layout | None = None
    implied: Implied | None = None
    cut: tuple[Sides, ...] = ()
    notes: tuple[str, ...] = ()

    def with_channels(self, count: int) -> Facts:
        """Facts for an input of so many channels, for networks that take any number."""
        if not self.any_channels:
            return self
        out = count if self.channels_follow else self.out_channels
        return replace(self, in_channels=count, out_channels=out)

    @property
    def spatial_axes(self) -> int:
        """Number of spatial axes."""
        return len(self.lattice)

    @property
    def period(self) -> tuple[int, ...]:
        """Period along each axis, in input pixels."""
        return tuple(axis.period for axis in self.lattice)

    @property
    def period_open(self) -> bool:
        """Whether neither shifts nor operations show the period along some axis."""
        return not self.period_found and (self.implied is None or None in self.implied.period)

    @property
    def scale(self) -> tuple[Fraction, ...]:
        """Output pixels for each input pixel, along each axis."""
        return tuple(axis.scale for axis in self.lattice)

    @property
    def sizes(self) -> str:
        """Sizes that tiles may have along each axis, in words."""
        return axes_text([axis.sizes for axis in self.lattice])

    @property
    def learned_positions(self) -> tuple[bool, ...]:
        """Whether numbers were learned for each position of the one size, for each axis."""
        own = self.implied
        if own is None or own.couplings or own.statistics:
            return (False,) * self.spatial_axes
        each = zip(self.lattice, own.coupled, strict=True)
        return tuple(axis.fixed is not None and coupled for axis, coupled in each)

    @property
    def valid(self) -> bool:
        """Whether the prediction is smaller than the input (valid convolutions)."""
        return any(any(axis.crop) for axis in self.lattice)

    @property
    def quieted(self) -> str:
        """Say what becomes of its randomness without its random layers; no full stop."""
        if self.noise_stays:
            return "`dropout=False` does not switch all of that off"
        return "`dropout=False` switches that off"

    @property
    def statistics_sentence(self) -> str:
        """Say how many operations use the tile's own statistics, as the start of a sentence."""
        count = len(self.statistics)
        # means taken by hand may normalize, or gate as squeeze-and-excite does
        plain = all(call.kind != "hand-written" for call in self.statistics)
        noun = ("normalization layer" if plain else "operation") + "s" * (count != 1)
        return f"{count} {noun} use{'s' * (count == 1)} per-tile statistics"

    def __str__(self) -> str:
        names = axis_names(self.spatial_axes)

        parts = [
            f"{self.spatial_axes}D ({names}), "
            f"{'any' if self.any_channels else self.in_channels} -> {self.out_channels} channels",
            f"period {axes_text(self.period)}",
        ]
        if any(axis.fixed for axis in self.lattice):
            parts.append(f"fixed tile {self.sizes}")
        elif any(axis.limit or axis.smallest > 1 for axis in self.lattice):
            parts.append(f"tile sizes {self.sizes}")
        if self.valid:
            parts.append(
                f"valid convolutions, crop {axes_text([axis.crop for axis in self.lattice])}"
            )
        if any(scale != 1 for scale in self.scale):
            parts.append(f"output scale {axes_text(self.scale)}")
        return ", ".join(parts)


__all__ = ["Facts"]
