"""What the channels of an image are called, and how they are shown.

Knows names, colours and contrast windows, and how OME-Zarr writes them (``omero``). Does not know
images.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_COLOURS = ("56B4E9", "E69F00", "009E73", "CC79A7", "F0E442", "0072B2", "D55E00", "FFFFFF")
"""Distinct also for colour-blind people (Okabe and Ito, 2008, with white for black)."""


def colour(number: int) -> str:
    """Return the colour of a channel or class, six hexadecimal digits."""
    return _COLOURS[number % len(_COLOURS)]


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel.

    Attributes
    ----------
    name
        What a person calls it.
    color
        Six hexadecimal digits; None where the file has none.
    window
        Intensities shown as black and as the full colour; None where the file has none.
    """

    name: str
    color: str | None = None
    window: tuple[float, float] | None = None


def channels_in(metadata: Mapping[str, Any], count: int) -> tuple[Channel, ...]:
    """Read ``omero`` of OME-Zarr; empty where it does not describe each of `count` channels.

    Parameters
    ----------
    metadata
        Of an image: its attributes, or what stands under ``ome``.
    count
        Channels of the image.
    """
    omero = metadata.get("omero")
    listed = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(listed, Sequence) or isinstance(listed, str) or len(listed) != count:
        return ()
    entries = [each if isinstance(each, Mapping) else {} for each in listed]
    return tuple(
        Channel(str(each.get("label") or number), _color(each.get("color")), _window(each))
        for number, each in enumerate(entries)
    )


def _color(value: Any) -> str | None:
    text = str(value or "").lstrip("#")
    return text[:6].upper() if re.fullmatch(r"[0-9a-fA-F]{6}([0-9a-fA-F]{2})?", text) else None


def _window(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    window = entry.get("window")
    if not isinstance(window, Mapping):
        return None
    try:
        low, high = float(window["start"]), float(window["end"])
    except (KeyError, TypeError, ValueError):
        return None
    return (low, high) if low < high and math.isfinite(high - low) else None


__all__ = ["Channel", "channels_in", "colour"]
