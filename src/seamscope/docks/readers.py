"""Files of networks that are dropped onto the viewer, or opened from its menu.

Knows how napari asks who reads a file. Does not know formats, and loads nothing itself: the file is
handed to the dock, which asks before anything of it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_NO_LAYERS: list[tuple[None]] = [(None,)]  # what napari wants of a reader that makes no layer


def open_model_file(path: str | Sequence[str]) -> Callable[[Any], list[tuple[None]]] | None:
    """Answer napari: what opens this file, or None where it holds no network.

    Parameters
    ----------
    path
        The file or folder; of several the first.
    """
    first = path if isinstance(path, str) else path[0]
    return _open if is_network(first) else None


def is_network(path: str) -> bool:
    """Whether this file or folder holds a network, by its content; or may have, when it was whole.

    The dock then says what is wrong with it.
    """
    from seamscope.errors import SeamscopeError
    from seamscope.models.formats import format_of
    from seamscope.models.formats.archive import Archive

    try:
        kind = format_of(path)
    except SeamscopeError:
        return Path(path).is_file()
    if kind != "checkpoint":
        return True
    # the last row of the table takes everything: a zip or a folder of pictures is no checkpoint
    names = Archive(Path(path)).names
    other = path.endswith((".zip", ".yaml", ".yml")) or Path(path).is_dir()
    return not other or (Path(path).is_file() and any(n.endswith("data.pkl") for n in names))


def _open(path: Any) -> list[tuple[None]]:
    import napari

    viewer = napari.current_viewer()
    if viewer is not None:
        first = path if isinstance(path, str) else path[0]
        from seamscope.docks.opening import open_where_it_is

        open_where_it_is(viewer, "prediction", lambda dock: dock.open_network(str(first)))
    return _NO_LAYERS


__all__ = ["is_network", "open_model_file"]
