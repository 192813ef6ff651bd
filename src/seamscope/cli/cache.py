"""``seamscope cache``: what was measured before and is kept.

Knows how entries are listed. Does not know what they hold.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from seamscope.cli.answer import Answer
from seamscope.cli.command import command
from seamscope.text import bytes_text


@command
def cache(
    *,
    clear: Annotated[bool, typer.Option("--clear", help="Remove every kept measurement.")] = False,
    answer: Answer,
) -> None:
    """List the measurements kept from earlier commands, or remove them.

    Seamscope measures each network and image once. Later commands read the result from the cache.
    """
    from seamscope import cache as kept

    folder = kept.cache_folder()
    if clear:
        count = kept.clear()
        removed = f"Removed {count} measurement{'s' * (count != 1)} from {folder}."
        answer.write({"folder": str(folder), "removed": count}, removed)
        return
    entries = kept.entries()
    rows = [
        f"{_date(each.saved)}  {each.kind:<12}{bytes_text(each.bytes):>10}  {each.key}"
        + ("" if each.current else "  (of another version)")
        for each in entries
    ]
    size = bytes_text(sum(each.bytes for each in entries))
    rows.append(f"{len(entries)} kept measurements, {size} in {folder}.")
    answer.write({"folder": str(folder), "entries": [vars(e) for e in entries]}, "\n".join(rows))


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
