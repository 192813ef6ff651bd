"""Parts of a report as rich text for labels of a window.

Knows the HTML that Qt's labels understand. Does not know what is said, or widgets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from seamscope.docks.looks import boxed, in_dock, plain
from seamscope.reports.parts import Facts, Part, Share, Shares, Table, Text, Verdict
from seamscope.text import percent_text, typeset

_BAR, _REST = "#3f8fd2", "#80808040"
_MOST_COLUMNS = 4
_NUMBER = ' align="right" style="padding-left: 12px"'
_APART = ' style="padding-left: 8px"'


def rich_text(parts: Sequence[Part]) -> str:
    """Write parts below each other; figures are left out."""
    writers: dict[type, Callable[[Any], str]] = {
        Text: lambda part: f"<p>{_written(part.text)}</p>",
        Verdict: lambda part: boxed(in_dock(part.text), "good" if part.good else "warning"),
        Facts: _facts,
        Table: _table,
        Shares: lambda part: "".join(map(_share, part.rows)),
    }
    return "".join(writers[type(part)](part) for part in parts if type(part) in writers)


def _written(text: str) -> str:
    return typeset(plain(in_dock(text)))


def _facts(part: Facts) -> str:
    rows = "".join(
        f'<tr><td style="padding-right: 10px">{_written(name)}</td><td><b>{_written(value)}</b>'
        f"{f'; {_written(meaning)}' if meaning else ''}</td></tr>"
        for name, value, meaning in part.facts
    )
    return f"<table>{rows}</table>"


def _table(part: Table) -> str:
    caption = f"<br>{_written(part.caption)}" if part.caption else ""
    return "".join(_piece(part, kept) for kept in _pieces(len(part.columns))) + caption


def _pieces(columns: int) -> list[list[int]]:
    """Columns of each table below another: a dock is narrow, and a number is never cut off."""
    first, rest = 0, range(1, columns)
    most = _MOST_COLUMNS - 1
    return [[first, *rest[k : k + most]] for k in range(0, max(1, len(rest)), most)]


def _piece(part: Table, kept: Sequence[int]) -> str:
    def row(cells: Sequence[str], strong: bool = False) -> str:
        return _row([cells[k] for k in kept], [part.numeric[k] for k in kept], strong)

    body = "".join(row(cells, strong=part.best == k) for k, cells in enumerate(part.rows))
    return f'<table style="margin-top: 4px">{row(part.columns)}{body}</table>'


def _row(cells: Sequence[str], numeric: Sequence[bool], strong: bool = False) -> str:
    written = [f"<b>{_written(cell)}</b>" if strong else _written(cell) for cell in cells]
    if strong:
        written[0] = f"►&nbsp;{written[0]}"
    # numbers, and the heads above them, flush right; the first column names the row
    return "".join(
        ["<tr>"]
        + [
            f"<td{'' if k == 0 else _NUMBER if number else _APART}>{cell}</td>"
            for k, (cell, number) in enumerate(zip(written, numeric, strict=True))
        ]
        + ["</tr>"]
    )


def _share(one: Share) -> str:
    remedy = f"<br><b>Remedy:</b> {_written(one.remedy)}" if one.remedy else ""
    return (
        f'<p style="margin: 8px 0 2px 0"><b>{_written(one.name)}</b>: {percent_text(one.share)}</p>'
        f"{_bar(round(100 * one.share))}{_written(one.sentence)}{remedy}"
    )


def _bar(percent: int) -> str:
    full = max(1, min(percent, 99))
    return (
        '<table width="100%" cellspacing="0" cellpadding="0" style="font-size: 4px"><tr>'
        f'<td width="{full}%" bgcolor="{_BAR}">&nbsp;</td>'
        f'<td width="{100 - full}%" bgcolor="{_REST}">&nbsp;</td></tr></table>'
    )


__all__ = ["rich_text"]
