"""What a file says of its network, beside what is measured.

Knows declarations of model cards and test vectors, and how they are compared with measurements.
Does not know formats of files; measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.serialization import Recorded, record
from seamscope.text import axes_text, setting_text
from seamscope.tiling import axis_names

if TYPE_CHECKING:
    from seamscope.models.facts import Facts
    from seamscope.models.reach import Reach

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Declared(Recorded):
    """What a model card says.

    Attributes
    ----------
    by
        Who says so, as a sentence begins: ``"Its bioimage.io package"``.
    axes
        Spatial axes, ``"yx"`` or ``"zyx"``.
    halo
        Pixels at each side of a prediction that are not to be trusted, for each axis.
    step
        Tile sizes grow by so much, for each axis; 0 for one size only.
    smallest
        Smallest tile, for each axis.
    channels
        Of the input.
    """

    by: str
    axes: str
    halo: tuple[int, ...] | None = None
    step: tuple[int, ...] | None = None
    smallest: tuple[int, ...] | None = None
    channels: int | None = None


@dataclass(frozen=True)
class Vectors:
    """Test input and output of a package.

    Attributes
    ----------
    image
        ``(C, *spatial)`` as the package's preprocessing expects it.
    expected
        ``(C', *spatial')`` after its postprocessing.
    """

    image: Array
    expected: Array


@dataclass(frozen=True)
class Verification:
    """A network's prediction of its test vectors, against what should come out.

    Attributes
    ----------
    largest
        Largest absolute difference.
    spread
        Standard deviation of what should come out.
    passed
        Whether every value is within ``1e-4 * spread + 1e-3 * |expected|``, the relative tolerance
        being that of bioimageio.core's own test.
    note
        Why nothing could be compared.
    """

    largest: float
    spread: float
    passed: bool
    note: str = ""

    @classmethod
    def of(cls, predicted: Array, expected: Array) -> Verification:
        """Compare a prediction with what should come out; both ``(C', *spatial')``."""
        if predicted.shape != expected.shape:
            why = f"the prediction has shape {predicted.shape} instead of {expected.shape}"
            return cls(float("inf"), float(np.std(expected)), False, why)
        difference = np.abs(predicted.astype(np.float64) - expected)
        spread = float(np.std(expected.astype(np.float64)))
        close = difference <= 1e-4 * spread + 1e-3 * np.abs(expected) + 1e-7
        return cls(float(difference.max(initial=0.0)), spread, bool(close.all()))

    def __str__(self) -> str:
        if self.note:
            return f"The test vectors are not met: {self.note}."
        sizes = f"max difference {self.largest:.2g}, standard deviation {self.spread:.2g}"
        return f"The test vectors are {'met' if self.passed else 'not met'}: {sizes}."

    def to_json(self) -> dict[str, Any]:
        """Return the figures by the names of reports: ``max_dist``, ``std``."""
        return record(passed=self.passed, max_dist=self.largest, std=self.spread, note=self.note)


TestVectors: TypeAlias = Callable[[], Vectors]


def disagreements(declared: Declared, facts: Facts, reach: Reach) -> tuple[str, ...]:
    """Sentences on where a model card is wrong, judged by what was measured; empty where right.

    A halo is right where it is at least the reach for tiles on the period's grid. A larger one
    only costs time: it is named where it is more than twice what is needed.
    """
    return (*_axes(declared, facts), *_steps(declared, facts), *_halos(declared, facts, reach))


def _axes(declared: Declared, facts: Facts) -> Iterator[str]:
    if len(declared.axes) != facts.spatial_axes:
        measured = axis_names(facts.spatial_axes)
        yield f"{declared.by} says that the network takes {declared.axes}: it takes {measured}."
    if declared.channels is not None and declared.channels != facts.in_channels:
        yield (
            f"{declared.by} says that the network takes {declared.channels} channels: it takes "
            f"{facts.in_channels}."
        )


def _steps(declared: Declared, facts: Facts) -> Iterator[str]:
    if declared.step is None or len(declared.step) != facts.spatial_axes:
        return
    for name, step, axis in zip(declared.axes, declared.step, facts.lattice, strict=True):
        if axis.fixed is None and step and step % axis.increment:
            yield (
                f"{declared.by} says that tile sizes grow in steps of {step} along {name}: tiles "
                f"must start and end on multiples of {axis.increment}, the network's period, or "
                "they will not agree."
            )
            return


def _halos(declared: Declared, facts: Facts, reach: Reach) -> Iterator[str]:
    if declared.halo is None or len(declared.halo) != facts.spatial_axes:
        return
    needed = reach.halo or reach.convolutional
    halo = axes_text(declared.halo)
    if reach.halo is None:
        yield (
            f"{declared.by} declares halo {halo}, but no halo makes this network's tiles agree: "
            "it uses the whole tile"
            + (f"; its convolutions alone reach {_reached(needed)}." if needed else ".")
        )
    elif needed and any(h < max(n) for h, n in zip(declared.halo, needed, strict=True)):
        yield (
            f"{declared.by} declares halo {halo}, less than the network's reach of "
            f"{_reached(needed)}: neighbouring tiles may differ at that halo. Use the reach "
            f"(`halo={setting_text([max(side) for side in needed])}`), or leave the halo at auto, "
            "which is the same."
        )
    elif needed and all(h > 2 * max(n) for h, n in zip(declared.halo, needed, strict=True)):
        yield f"{declared.by} declares halo {halo}, and {_reached(needed)} would do."


def _reached(sides: Sequence[tuple[int, int]]) -> str:
    return axes_text([max(side) for side in sides])
