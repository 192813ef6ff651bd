"""Sentences of the engine in the words of the command line.

Knows which option a setting is. Does not know what sentences say.
"""

from __future__ import annotations

from seamscope.text import with_controls

_QUOTES = str.maketrans("", "", "'\"() ")


def in_command(sentences: str) -> str:
    """Name settings by their options.

    Examples
    --------
    >>> in_command("Raise `memory`, use `fill_nan=0` or state `kind='logits'`.")
    'Raise --memory, use --fill-nan 0 or state --kind logits.'
    >>> in_command("Allow it (`overwrite=True`). Ask for the raw result (`postprocess=False`).")
    'Allow it (--overwrite). Ask for the raw result (--raw).'
    >>> in_command("`percentiles=(1, 99.8)`, `dropout=False`")
    '--percentiles 1,99.8, --no-dropout'
    >>> in_command("`tile=(5, 17, 17)`, `tiles=[(5, 17, 17)]`")
    '--tile 5,17,17, --tiles 5x17x17'
    """
    return with_controls(sentences, _option)


def _option(name: str, value: str) -> str:
    words = name.replace("_", "-")
    if value == "False":
        return "--raw" if name == "postprocess" else f"--no-{words}"
    if value.startswith("[("):  # a size of several axes in a list of sizes
        value = value.strip("[]").replace(",", "x")
    stated = "" if value == "True" else value.translate(_QUOTES)
    return f"--{words} {stated}".rstrip()


__all__ = ["in_command"]
