"""A file that a user has typed.

Knows which texts name no file of this machine. Does not know what is written there.
"""

from __future__ import annotations

from pathlib import Path

from seamscope.images.addresses import is_address, without_secrets


def typed_place(text: str) -> tuple[Path | None, str]:
    """Return the file that a text names, and what is wrong with the text.

    Parameters
    ----------
    text
        As it was typed; empty for no file.

    Returns
    -------
    path, problem
        The path is absolute; None where nothing is named, or with a problem.
    """
    if is_address(text):
        shown = without_secrets(text)
        return None, f"{shown} is an address. Name a file on a disk of this machine."
    if not text:
        return None, ""
    try:
        path = Path(text).expanduser().absolute()
    except RuntimeError:  # no such user
        return None, f"{text} is in the home of a user that is not known. Write the whole path."
    if not path.name:
        return None, f"{text} is a folder. Add the name of a file."
    return path, ""


__all__ = ["typed_place"]
