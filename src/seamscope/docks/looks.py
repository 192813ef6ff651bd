"""How the docks talk: labels, boxes in the colours of good, careful and wrong, numbers in words.

Knows rich text and units. Does not know what is said.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Literal

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QLabel, QSizePolicy, QWidget

from seamscope.docks.evidence import Evidence
from seamscope.images.results.create import Room
from seamscope.models.facts import Facts
from seamscope.planning.plan import Plan
from seamscope.settings import WORDS
from seamscope.text import (
    axes_text,
    bytes_text,
    duration_text,
    halo_text,
    shape_text,
    with_controls,
)

Kind = Literal["good", "warning", "error"]

# Distinct for the colour-blind too, on dark and on light ground (Okabe and Ito 2008).
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#b3a100", "#999999")
# background and text: readable on napari's dark and light theme, and for the colour-blind
_BOXES: dict[Kind, tuple[str, str]] = {
    "good": ("#1d5c45", "#ffffff"),
    "warning": ("#6b5312", "#ffffff"),
    "error": ("#8f1d2c", "#ffffff"),
}
_INTENSITIES = {
    "none": "as they are, not normalized",
    "zscore": "z-score of the whole image",
    "minmax": "minimum to maximum of the whole image",
    "percentile": "percentiles of the whole image",
    "auto": "as the model's card says",
}
_FREEZE = "the step Fix"
_PER_TILE = re.compile(
    r"(?<=Overlap cannot remove )(the|these) seams: (\d+ [a-z ]+ uses? per-tile statistics)"
)
_MISMATCH = re.compile(r"\b(t|T)ile mismatch\b")
_HALO = re.compile(r"(?<![(/\w.-])(h|H)alo(s?)\b(?![)/=-]|\.\w)")  # the word, and no name of a file


def text_label() -> QLabel:
    """A label for sentences: wraps, and can be copied from."""
    label = QLabel()
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.RichText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


def plain(text: str) -> str:
    """Text as rich text shows it literally."""
    return html.escape(text, quote=False)


def boxed(sentence: str, kind: Kind) -> str:
    """A sentence in a coloured box."""
    back, front = _BOXES[kind]
    return (
        f'<table width="100%" cellpadding="5" style="margin-top: 4px"><tr>'
        f'<td bgcolor="{back}" style="color: {front}">{plain(sentence)}</td></tr></table>'
    )


def in_dock(said: Exception | str) -> str:
    """A sentence of the engine that names settings as the controls are named."""
    named = with_controls(str(said), _control).replace("seamscope freeze", _FREEZE)
    named = named.replace("Seams (seamscope seams)", "the page Causes")
    named = _PER_TILE.sub(r"\1 seams: this network adjusts contrast inside every tile (\2)", named)
    named = _MISMATCH.sub(lambda found: f"{'dD'[found[1] == 'T']}isagreement", named)
    return _HALO.sub(lambda found: f"{'mM'[found[1] == 'H']}argin{found[2]}", named)


def _control(name: str, value: str) -> str:
    label = WORDS[name].label if name in WORDS else name.replace("_", " ")
    stated = {"True": "on", "False": "off"}.get(value, value.strip("'"))
    return f"{label}: {stated}" if stated else label


def legend(first: QWidget, entries: Sequence[tuple[str, str]]) -> QWidget:
    """A widget, and beside it names in their colours."""
    whole = QWidget()
    row = QHBoxLayout(whole)
    row.setContentsMargins(0, 0, 0, 0)
    row.addWidget(first)
    row.addStretch(1)
    names = (f'<span style="color: {color}">&#9632;</span> {name}' for name, color in entries)
    row.addWidget(QLabel("&nbsp; ".join(names)))
    return whole


def set_row(form: QFormLayout, field: QWidget, shown: bool) -> None:
    """Show or hide one row of a form."""
    field.setVisible(shown)
    label = form.labelForField(field)
    if label is not None:
        label.setVisible(shown)


def network_text(facts: Facts) -> str:
    """What goes into a network and comes out, in one line."""
    read, made = facts.in_channels, facts.out_channels
    given = "any channels" if facts.any_channels else f"{read} channel{'s' * (read > 1)}"
    out = "classes" if facts.kind == "probabilities" and made > 1 else "channels"
    return f"{facts.spatial_axes}D network: {given} in, {made} {out if made > 1 else 'channel'} out"


def cost_table(
    plan: Plan, seconds: float | None, timing: bool, room: Room | None = None, stored: bool = False
) -> str:
    """What a plan costs, in plain numbers.

    Parameters
    ----------
    plan
        Of the run.
    seconds, timing
        How long it takes; whether that is being found out.
    room
        Of a result on disk, where it is known.
    stored
        Whether the result goes to a disk.
    """
    grid = plan.grid
    count = plan.tiles * plan.frames
    each = f", {plan.tiles} for each of {plan.frames} images" if plan.frames > 1 else ""
    times = f"{plan.redundancy:.2g}"
    rows = [
        ("Tiles", f"<b>{count:,}</b>{each}"),
        ("Tile", f"{shape_text(grid.tile_shape)} px"),
        ("Kept", f"{shape_text(grid.stride)} px of it"),
        (
            "Overlap",
            f"{axes_text(grid.overlap)} px, margin {halo_text(plan.grid.halo)}",
        ),
        ("Computed", f"each pixel {'once' if times == '1' else f'{times} times'}"),
        (
            "Memory",
            f"about {bytes_text(plan.peak_bytes(in_memory=not stored))} at most: "
            f"{bytes_text(plan.bytes_per_tile)} for each {_batch(plan)}",
        ),
        ("Result", _result(plan, room, stored)),
        ("Intensities", _INTENSITIES.get(plan.settings.normalize, plan.settings.normalize)),
        ("Seams", _seams(plan)),
        ("Time", _expected(plan, seconds, timing)),
    ]
    cells = "".join(
        f'<tr><td style="padding-right: 10px">{name}</td><td>{text}</td></tr>'
        for name, text in rows
    )
    return f"<table>{cells}</table>"


def _result(plan: Plan, room: Room | None, stored: bool) -> str:
    """Where it goes, and what it takes there."""
    if not stored:
        return f"{bytes_text(plan.result_bytes)} of memory"
    if room is None:
        return f"{bytes_text(plan.result_bytes)} on disk"
    return f"{bytes_text(room.needed)} on disk at most; {bytes_text(room.free)} are free there"


def _batch(plan: Plan) -> str:
    batch = plan.settings.batch
    return "tile" if batch == 1 else f"batch of {batch} tiles"


def _seams(plan: Plan) -> str:
    """Which are measured, and what is kept for the dock Seams."""
    if plan.tiles == 1:
        return "none: one tile"
    if plan.settings.seams == "all":
        return f"all measured, {bytes_text(Evidence.bytes_of(plan))} kept"
    return {"sample": "a sample is measured", "none": "not measured"}[plan.settings.seams]


def _expected(plan: Plan, seconds: float | None, timing: bool) -> str:
    if seconds is not None:
        about = "" if seconds < 1 else "about "
        return f"{about}{duration_text(seconds)} on {plan.settings.device}"
    return "timing one tile …" if timing else "known after one tile"


def colored(text: str, color: str) -> str:
    """Text in a colour."""
    return f'<span style="color: {color}">{text}</span>'
