"""Buttons beside what the dock *Tiled prediction* says: what to do about it, one click away.

Knows problems and results. Does not know how a step is carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from seamscope.docks.actions import Action
from seamscope.docks.looks import in_dock
from seamscope.docks.opening import open_step
from seamscope.explain.advice import advise, smallest_tile
from seamscope.images.image import Image
from seamscope.models.model import Model
from seamscope.planning.plan import Plan
from seamscope.seams.report import SeamReport
from seamscope.settings import Settings
from seamscope.text import axes_text

_MOST_CHANNELS = 4  # that are offered as buttons
_TILE = "Set the smallest tile that has room for the margin (halo)."
_CHANNEL = "Predict this channel of the image."
_AXIS = "Say that the first axis of the image is this one. Others: the field Axes."
_FIRST = {"z": "z", "t": "time", "c": "channel"}
_SEAMS = "Where neighbouring tiles disagree, and how much."


def remedies(
    asked: Settings, model: Model, channels: Sequence[str], choose: Callable[[dict[str, Any]], None]
) -> list[Action]:
    """Return what makes a plan possible, where that is one click.

    Parameters
    ----------
    asked
        Settings without a plan.
    model
        The network.
    channels
        Names of the image's channels, to choose from.
    choose
        Sets controls, by name.
    """
    found = []
    reach = model.reach.useful
    tile = smallest_tile(asked, model.facts.lattice, reach)
    if tile is not None:
        act = partial(choose, {"tile": tile})
        found.append(Action(f"Use tile {axes_text(tile)}", _TILE, act))
    if model.facts.in_channels == 1 and len(channels) > 1 and asked.channel is None:
        for number, name in enumerate(channels[:_MOST_CHANNELS]):
            act = partial(choose, {"channel": number})
            found.append(Action(name[:1].upper() + name[1:], _CHANNEL, act))
    return found


def axis_actions(image: Image, model: Model, name: Callable[[str], None]) -> list[Action]:
    """Return what the first axis may be, where an image has one more than its network and no names.

    Parameters
    ----------
    image
        The image.
    model
        The network.
    name
        Is given one letter for each axis of the image.
    """
    spatial = "zyx"[-model.facts.spatial_axes :]
    if image.axes is not None or image.ndim != len(spatial) + 1:
        return []
    return [
        Action(f"First axis: {word}", _AXIS, partial(name, letter + spatial))
        for letter, word in _FIRST.items()
        if letter not in spatial
    ]


def next_actions(viewer: Any, plan: Plan, report: SeamReport | None) -> list[Action]:
    """Return what to do about seams: those of a result, else those that are to be expected."""
    advice = advise(plan) if report is None else advise(report.plan, report)
    if not advice.needed:
        return []
    fix = Action("Fix it", in_dock(advice.why), partial(open_step, viewer, "fix"))
    see = Action("See the seams", _SEAMS, partial(open_step, viewer, "seams"))
    return [fix] if report is None else [see, fix]


__all__ = ["axis_actions", "next_actions", "remedies"]
