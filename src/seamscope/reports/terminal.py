"""Parts of a report as text for a terminal: aligned columns, no line breaks, no colours.

Knows columns and blank lines. Does not know what is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seamscope.reports.parts import Facts, Part, Shares, Table, Text, Verdict
from seamscope.text import percent_text


def terminal(parts: Sequence[Part]) -> str:
    """Write parts below each other, with a blank line between them; figures are left out.

    Examples
    --------
    >>> print(terminal([Facts([("tile", "96 x 96"), ("max difference", "0.2", "0 is seamless")])]))
    tile            96 x 96
    max difference  0.2; 0 is seamless
    """
    return "\n\n".join(text for part in parts if (text := "\n".join(_lines(part))))


def columns(rows: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> str:
    """Write rows of cells in columns, those that are `right` flush right.

    Examples
    --------
    >>> print(columns([("tile", "Dice"), ("64", "0.9"), ("128", "0.95")], (False, True)))
    tile  Dice
    64     0.9
    128   0.95
    """
    right = right or (False,) * max(map(len, rows), default=0)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=False)
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _lines(part: Part) -> Iterator[str]:
    match part:
        case Text() | Verdict():
            yield part.text
        case Facts():
            rows = [(each.name, "; ".join(filter(None, each[1:]))) for each in part.facts]
            if rows:
                yield columns(rows)
        case Table():
            yield columns([part.columns, *part.rows], part.numeric)
            if part.caption:
                yield part.caption
        case Shares():
            for one in part.rows:
                yield f"{percent_text(one.share):>4}  {one.name}: {one.sentence}"
                if one.remedy:
                    yield f"      {one.remedy}"


__all__ = ["columns", "terminal"]
