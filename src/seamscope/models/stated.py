"""What a user states of a network instead of letting it be measured.

Knows the words and how one number stands for all axes. Does not know networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from seamscope.errors import SettingsError
from seamscope.models.output_kind import OutputKind


class Stated(TypedDict, total=False):
    """What a user states of a network instead of letting it be measured.

    Attributes
    ----------
    spatial_axes, channels
        Number of spatial axes and of input channels.
    input_size
        Pixels of an input that the network takes, one number or one for each axis.
    step
        Tile sizes and starts are multiples of it, one number or one for each axis.
    kind
        What its values are.
    dropout
        False switches dropout and other random layers off.
    ignore_extra
        Whether weights in its file that it does not have are left out.
    """

    spatial_axes: int | None
    channels: int | None
    input_size: int | Sequence[int] | None
    step: int | Sequence[int] | None
    kind: OutputKind | None
    dropout: bool
    ignore_extra: bool


def axes_of(value: int | Sequence[int] | None) -> int | None:
    """Number of axes that a value states; None where it is one number for all."""
    return None if value is None or isinstance(value, int) else len(value)


def for_axes(value: int | Sequence[int], axes: int | None, what: str) -> tuple[int, ...]:
    """Return one value for each axis; `what` names it where it does not fit."""
    values = (value,) * (axes or 2) if isinstance(value, int) else tuple(value)
    if (axes is not None and len(values) != axes) or min(values) < 1:
        raise SettingsError(
            f"The {what} {'x'.join(map(str, values))} does not fit {axes} spatial axes: give one "
            "number of 1 or more, or one for each axis."
        )
    return values


__all__ = ["Stated", "axes_of", "for_axes"]
