"""Numbers as people read them: shapes, halos, bytes, durations, shares and measured values.

Every sentence, table and label of Seamscope writes its numbers with these functions, so that one
quantity looks the same in a terminal, a dock and a report.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

NONE = "–"

_BETWEEN_NUMBERS = re.compile(r"(?<=\d) x (?=\d)")


def shape_text(shape: Sequence[Any], axes: str | None = None) -> str:
    """Write the size along each axis.

    Examples
    --------
    >>> shape_text((512, 600))
    '512 x 600'
    >>> shape_text((4, 512, 600), "cyx")
    '4 x 512 x 600 (cyx)'
    """
    text = " x ".join(map(str, shape))
    return f"{text} ({axes})" if axes else text


def axes_text(values: Sequence[Any]) -> str:
    """Write one value for each axis, or a single one if all are equal.

    Examples
    --------
    >>> axes_text((8, 8)), axes_text((4, 8))
    ('8', '4 x 8')
    """
    return str(values[0]) if len(set(values)) == 1 else shape_text(values)


def setting_text(values: Sequence[Any]) -> str:
    """Write one value for each axis as a setting has them in Python (see `with_controls`).

    Examples
    --------
    >>> setting_text((8, 8)), setting_text((4, 8))
    ('8', '(4, 8)')
    """
    return str(values[0]) if len(set(values)) == 1 else f"({', '.join(map(str, values))})"


def halo_text(sides: Sequence[Sequence[int]]) -> str:
    """Write a halo, ``(before, after)`` in pixels for each axis.

    Examples
    --------
    >>> halo_text([(46, 46), (46, 46)])
    '46'
    >>> halo_text([(8, 8), (46, 46)])
    '8 x 46'
    >>> halo_text([(44, 46), (44, 46)])
    '44 before, 46 after'
    >>> halo_text([(44, 46), (46, 46)])
    'y: 44 before, 46 after; x: 46'
    """
    each = [str(a) if a == b else f"{a} before, {b} after" for a, b in sides]
    if len(set(each)) == 1 or all(a == b for a, b in sides):
        return axes_text(each)
    names = "zyx"[-len(each) :] if len(each) <= 3 else range(len(each))
    return "; ".join(f"{name}: {one}" for name, one in zip(names, each, strict=True))


def far_text(sides: Sequence[Sequence[int]]) -> str:
    """Write how far something reaches, ``(before, after)`` in pixels for each axis.

    Examples
    --------
    >>> far_text([(46, 46), (46, 46)]), far_text([(8, 8), (46, 46)])
    ('46 px', '8 x 46 px')
    >>> far_text([(44, 46), (46, 46)])
    'y: 44 px before, 46 px after; x: 46 px'
    """
    if all(a == b for a, b in sides):
        return f"{halo_text(sides)} px"
    return re.sub(r"(\d+)", r"\1 px", halo_text(sides))


def at_halo_text(sides: Sequence[Sequence[int]]) -> str:
    """Name a halo, ``(before, after)`` in pixels for each axis, within a sentence.

    Examples
    --------
    >>> at_halo_text([(46, 46), (46, 46)]), at_halo_text([(36, 20), (36, 20)])
    ('halo 46', 'the halo (36 px before, 20 px after)')
    """
    if all(a == b for a, b in sides):
        return f"halo {halo_text(sides)}"
    return f"the halo ({far_text(sides)})"


def needs_text(sides: Sequence[Sequence[int]]) -> str:
    """Write which pixels around a tile its prediction depends on, as the end of a sentence.

    Parameters
    ----------
    sides
        Pixels ``(before, after)`` for each axis.

    Examples
    --------
    >>> needs_text([(46, 46), (46, 46)]), needs_text([(0, 0), (0, 0)])
    ('looks 46 px far', 'needs no pixel outside the tile')
    >>> needs_text([(53, 29), (53, 29)])
    'needs 53 px before and 29 px after each tile'
    >>> needs_text([(4, 4), (8, 0)])
    'needs pixels around each tile (y: 4; x: 8 before, 0 after)'
    """
    if not any(map(any, sides)):
        return "needs no pixel outside the tile"
    if all(a == b for a, b in sides):
        return f"looks {far_text(sides)} far"
    if len(set(map(tuple, sides))) == 1:
        return f"needs {sides[0][0]} px before and {sides[0][1]} px after each tile"
    return f"needs pixels around each tile ({halo_text(sides)})"


def pixels_text(count: object) -> str:
    """Write a number of pixels, or what `axes_text` and `halo_text` made of several.

    Examples
    --------
    >>> pixels_text(1), pixels_text(46), pixels_text("1 x 2")
    ('1 pixel', '46 pixels', '1 x 2 pixels')
    """
    return f"{count} pixel{'s' * (str(count) != '1')}"


def bytes_text(count: float) -> str:
    """Write an amount of memory in powers of 1000, with three significant digits.

    Examples
    --------
    >>> bytes_text(512), bytes_text(20_480), bytes_text(1.5e9), bytes_text(999_999)
    ('512 bytes', '20.5 kB', '1.5 GB', '1 MB')
    """
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if round(count) < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{round(count)} {unit}" if count >= 100 else f"{count:.3g} {unit}"


def duration_text(seconds: float) -> str:
    """Write a duration, no more exact than an estimate can be.

    Examples
    --------
    >>> duration_text(8.12), duration_text(42.3), duration_text(125), duration_text(3725)
    ('8.1 s', '42 s', '2:05 min', '1:02:05 h')
    """
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def steps_text(done: int, total: int, steps: str, seconds: float, before: int = 0) -> str:
    """Write how far work is, its rate and the time left.

    Parameters
    ----------
    done, total
        Steps.
    steps
        Their name in the plural, or "%"; empty if they have none.
    seconds
        Since the first step of this run began.
    before
        Steps that earlier runs have finished.

    Examples
    --------
    >>> steps_text(12, 64, "tiles", 4.0)
    '12 of 64 tiles, 3.0 tiles/s, 17 s left'
    >>> steps_text(52, 64, "tiles", 4.0, before=40)
    '52 of 64 tiles, 3.0 tiles/s, 4.0 s left'
    >>> steps_text(2, 10, "forward passes", 9.0), steps_text(50, 100, "%", 9.0)
    ('2 of 10 forward passes, 36 s left', '50%, 9.0 s left')
    """
    far = f"{done}%" if steps == "%" else f"{done} of {total} {steps}".strip()
    own = done - before
    if own <= 0 or not seconds:
        return far
    if steps == "tiles":
        rate = own / seconds
        far += f", {rate:.1f} tiles/s" if rate >= 1 else f", {1 / rate:.1f} s/tile"
    return f"{far}, {duration_text(seconds / own * (total - done))} left"


def percent_text(share: float) -> str:
    """Write a share of 1 in percent: two significant digits below 10%, none after the point above.

    ``100%`` is all, never almost all.

    Examples
    --------
    >>> percent_text(0.0123), percent_text(0.583), percent_text(0.9999), percent_text(1)
    ('1.2%', '58%', '>99%', '100%')
    """
    if 0.99 < share < 1:
        return ">99%"
    return f"{100 * share:.2g}%" if share < 0.0995 else f"{100 * share:.0f}%"


def figure_text(value: float | None, digits: int = 3) -> str:
    """Write a measured value with three significant digits; a dash where there is none.

    Examples
    --------
    >>> figure_text(0.012345), figure_text(1.2345e-6), figure_text(23456.7), figure_text(0)
    ('0.0123', '1.23e-06', '23457', '0')
    >>> figure_text(math.nan), figure_text(math.inf)
    ('–', '∞')
    """
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if 10**digits <= abs(value) < 1e6:
        return f"{value:.0f}"
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{digits}g}"


_SETTING = re.compile(r"`(\w+)(?:=([^`]+))?`")


def with_controls(sentence: str, control: Callable[[str, str], str]) -> str:
    """Name settings as a driver calls them.

    Sentences of the engine name settings as Python has them, in backticks.

    Parameters
    ----------
    sentence
        A sentence, or several.
    control
        Given the name of a setting, and the value that the sentence states for it as Python writes
        it, or "". Returns what this driver calls that.

    Examples
    --------
    >>> with_controls("Raise `memory`, or use `fill_nan=0`.", lambda name, value: f"{name} {value}")
    'Raise memory , or use fill_nan 0.'
    """
    return _SETTING.sub(lambda found: control(found[1], found[2] or ""), sentence)


def typeset(text: str) -> str:
    """Write sizes with a multiplication sign, where a font surely has one.

    Examples
    --------
    >>> typeset("tile 512 x 600")
    'tile 512 × 600'
    """
    return _BETWEEN_NUMBERS.sub(" × ", text)


__all__ = [
    "NONE",
    "axes_text",
    "bytes_text",
    "duration_text",
    "far_text",
    "figure_text",
    "halo_text",
    "needs_text",
    "percent_text",
    "pixels_text",
    "setting_text",
    "shape_text",
    "steps_text",
    "typeset",
    "with_controls",
]
